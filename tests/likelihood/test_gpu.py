"""What needs a real GPU: the same numbers there as on the CPU, by the kernels that are meant to make them."""
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.networks import HEADS, LAYERS, OWN, SMALL, build, random_model, some_responses
from psych201 import likelihood, models
from psych201.likelihood import attention_kernels, forward, fused_head
from psych201.models.compile import compile_layers
from psych201.models.dtypes import to_mixed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
LENGTHS = (2, 23, 24, 25, 24 + 255, 24 + 256, 24 + 257, 500)  # around the window (24), and blocks of 256 behind it


def on_gpu(model: torch.nn.Module, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    return model.to("cuda", dtype)


def logprobs(model, ids: torch.Tensor, **how) -> np.ndarray:
    with torch.inference_mode():
        return model(input_ids=ids[None].cuda(), use_cache=False, **how).logits[0].float().log_softmax(-1).cpu().numpy()


def largest_difference(one: likelihood.ResponseScores, other: likelihood.ResponseScores) -> float:
    "Over all columns; both must have the same columns and the same NaN."
    differences = [0.0]
    for name, values in vars(one).items():
        found = getattr(other, name)
        assert (values is None) == (found is None)
        if values is not None and len(values):
            np.testing.assert_array_equal(np.isnan(values), np.isnan(found))
            differences.append(np.nanmax(np.abs(np.asarray(values, float) - found), initial=0))
    return max(differences)


@pytest.mark.parametrize("name", OWN)
def test_attention_in_float32_is_that_of_transformers(name):
    model = on_gpu(build(name))
    for length in LENGTHS:
        ids, found = torch.randint(3, SMALL["vocab_size"], (length,), generator=torch.Generator().manual_seed(0)), {}
        for way in ("eager", likelihood.NAME):
            model.set_attn_implementation(way)
            found[way] = logprobs(model, ids)
        np.testing.assert_allclose(found[likelihood.NAME], found["eager"], rtol=0, atol=2e-4, err_msg=str(length))


@pytest.mark.parametrize("name", OWN)
def test_attention_in_bfloat16_rounds_no_more_than_that_of_transformers(name):
    "Held against float32: text by text, and in one call for texts of varying lengths where PyTorch has that."
    exact, rounded = on_gpu(build(name)), on_gpu(build(name), torch.bfloat16)
    lengths = [30, 130, 24, 300]
    texts = torch.randint(3, SMALL["vocab_size"], (sum(lengths),), generator=torch.Generator().manual_seed(1)).split(lengths)
    exact.set_attn_implementation("eager")
    expected, found = np.concatenate([logprobs(exact, text) for text in texts]), {}
    for way in ("eager", likelihood.NAME):
        rounded.set_attn_implementation(way)
        found[way] = np.concatenate([logprobs(rounded, text) for text in texts])
    positions = likelihood.packed_positions(np.cumsum(lengths))[None].cuda()
    with likelihood.packed(np.cumsum(lengths).tolist()):
        found["packed"] = logprobs(rounded, torch.cat(texts), position_ids=positions)
    moved = {way: np.abs(values - expected).mean() for way, values in found.items()}
    assert 0 < max(moved.values()) <= 1.3 * moved["eager"], moved


@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_texts_of_varying_lengths_go_in_one_call(width, dtype):
    "PyTorch's kernel is trusted for the widths of heads that published models have."
    assert attention_kernels.varlen_attn is not None and attention_kernels._varlen_works(torch.device("cuda", 0), dtype, width)


@pytest.mark.parametrize("name", HEADS)
def test_scores_are_those_of_the_cpu(name):
    "By the fused head where the model has one, by its own logits elsewhere, without a warning about either."
    model, encoded = random_model(name, HEADS[name]), some_responses()
    likelihood.use_own_attention(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = likelihood.response_nll(model, encoded)
        forward._HEADS.pop(model)
        found = likelihood.response_nll(on_gpu(model), encoded)
    assert largest_difference(expected, found) < 3e-4
    assert likelihood.head_of(model, encoded.ids).kernel is fused_head.fused_logprob


@pytest.mark.parametrize("name", ["Llama", "GPT2", "Cohere2"])
def test_packed_scores_are_those_of_texts_alone_on_the_cpu(name):
    "In float32 to 3e-4; in bfloat16 packed texts differ from texts alone by less than both do from float32."
    model = random_model(name, HEADS[name])
    assert likelihood.use_own_attention(model)
    texts = [some_responses(n, options=((5,), (300 + n // 50,))) for n in (30, 9, 40, 24, 100, 60, 25, 140)]
    expected = list(likelihood.score_batch(model, texts))
    forward._HEADS.pop(model)
    found = list(likelihood.score_batch(on_gpu(model), texts))
    assert max(map(largest_difference, expected, found)) < 3e-4
    forward._HEADS.pop(model)
    rounded = on_gpu(model, torch.bfloat16)
    alone, together = (np.concatenate([one.nll for one in likelihood.score_batch(rounded, texts, budget)]) for budget in (0, 1000))
    exact = np.concatenate([one.nll for one in expected])
    assert np.abs(alone - together).mean() < np.abs(alone - exact).mean() < 0.5


def test_options_of_several_tokens_are_those_of_the_cpu():
    model = random_model("Llama", HEADS["Llama"])
    encoded = some_responses(options=((5,), (300, 17), (8, 9, 10)))
    likelihood.use_own_attention(model)
    expected = likelihood.response_nll(model, encoded)
    forward._HEADS.pop(model)
    assert largest_difference(expected, likelihood.response_nll(on_gpu(model), encoded)) < 3e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_fused_head_of_a_large_vocabulary(dtype):
    "Held against float64 with the same rounded numbers; next to no memory, where the logits would take 300 MB."
    generator = torch.Generator("cuda").manual_seed(0)
    hidden, weight = (torch.randn(n, 640, generator=generator, device="cuda").to(dtype) for n in (301, 262_144))
    hidden, targets = hidden / 8, torch.randint(len(weight), (301,), generator=generator, device="cuda")
    torch.cuda.synchronize()
    likelihood.fused_logprob(hidden, weight, targets)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    logprob, right, log_sum_exp, entropy = likelihood.fused_logprob(hidden, weight, targets)
    assert torch.cuda.max_memory_allocated() - before < 1e6
    logits = hidden.double() @ weight.double().T
    expected = logits.log_softmax(1)
    torch.testing.assert_close(logprob.double(), expected.gather(1, targets[:, None])[:, 0], rtol=2e-5, atol=1e-4)
    torch.testing.assert_close(log_sum_exp.double(), logits.logsumexp(1), rtol=2e-5, atol=1e-4)
    torch.testing.assert_close(entropy.double(), torch.special.entr(expected.exp()).sum(1), rtol=2e-5, atol=1e-4)
    plain = likelihood.linear_logprob(likelihood.Head(weight), hidden, targets)
    torch.testing.assert_close(logprob, plain.logprob, rtol=2e-5, atol=1e-4)
    best = logits.argmax(1)
    assert likelihood.fused_logprob(hidden, weight, best)[1].all() and right.sum() == (best == targets).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_square_of_tokens_in_memory(dtype):
    "Of 12,000 tokens a square of products takes 576 MB a head; grouped queries, a window and a wide head take none."
    for name, more in (("Llama", {}), ("Gemma3Text", dict(head_dim=64, sliding_window=512))):
        model = on_gpu(random_model(name, LAYERS | OWN[name] | more | dict(max_position_embeddings=16_384)), dtype)
        assert likelihood.use_own_attention(model)
        encoded = replace(some_responses(12_000), options=())
        likelihood.response_nll(model, some_responses(60))
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        likelihood.response_nll(model, encoded)
        assert torch.cuda.max_memory_allocated() - before < 3e8


@pytest.mark.parametrize("name", ["Llama", "Gemma3Text", "Mixtral"])
def test_mixed_precision_is_nearer_to_float32_than_bfloat16(name):
    exact, rounded, mixed, moved = on_gpu(build(name)), on_gpu(build(name), torch.bfloat16), to_mixed(on_gpu(build(name))), []
    for seed in range(4):
        ids = torch.randint(3, SMALL["vocab_size"], (130,), generator=torch.Generator().manual_seed(seed))
        expected = logprobs(exact, ids)
        moved.append([np.abs(logprobs(model, ids) - expected).mean() for model in (mixed, rounded)])
    assert 0 < np.mean(moved, 0)[0] < np.mean(moved, 0)[1]


@pytest.mark.parametrize("name", ["Llama", "Gemma3Text", "Qwen3", "GPT2"])
@pytest.mark.parametrize("dtype", ["float32", "mixed", "bfloat16"])
def test_compiled_layers_give_the_same_numbers(name, dtype):
    "In float32 to 3e-4; else no farther from float32 than plain layers are."
    torch._dynamo.reset()
    exact, plain, compiled = (on_gpu(build(name), torch.bfloat16 if dtype == "bfloat16" and kind else torch.float32) for kind in range(3))
    for model in (exact, plain, compiled):
        assert likelihood.use_own_attention(model)
    plain, compiled = map(to_mixed, (plain, compiled)) if dtype == "mixed" else (plain, compiled)
    compiled, moved = compile_layers(compiled), []
    for seed in range(6):
        ids = torch.randint(3, SMALL["vocab_size"], (150 + seed,), generator=torch.Generator().manual_seed(seed))
        expected = logprobs(exact, ids)
        moved.append([np.abs(logprobs(model, ids) - expected) for model in (compiled, plain)])
    found, rounded = (np.mean([pair[way].mean() for pair in moved]) for way in range(2))
    assert max(pair[0].max() for pair in moved) < 3e-4 if dtype == "float32" else 0 < found < 1.15 * rounded


@pytest.mark.parametrize("dtype", ["float32", "mixed", "bfloat16", "float16"])
def test_models_load_onto_the_gpu(dtype):
    "The name of the device, and scores near those of the CPU."
    encoded = some_responses(options=())
    found = models.load_model("tiny-llama", dtype, "auto")
    assert found.model.device.type == "cuda" and found.dtype == dtype
    exact = likelihood.response_nll(models.load_model("tiny-llama", "float32", "cpu").model, encoded)
    moved = np.abs(likelihood.response_nll(found.model, encoded).nll - exact.nll)
    assert moved.max() < (3e-4 if dtype == "float32" else 0.3)
