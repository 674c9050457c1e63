"""Our attention gives what transformers' own gives, for every kind of model it is used with; the others keep theirs."""
import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from helpers.networks import LAYERS, OWN, SMALL, THEIRS, WINDOW, WORDS, build, logprobs
from psych201 import likelihood
from psych201.likelihood import attention_kernels, batching, forward
from psych201.models.dtypes import is_mixed, to_mixed
from psych201.inputs.tokens import Tokens

@pytest.mark.parametrize("name", OWN)
def test_equal_to_both_ways_of_transformers(name):
    "At lengths below, at and above the window (24), and at whole blocks of 64 behind it and beside them."
    model = build(name)
    generator = torch.Generator().manual_seed(0)
    for length in (2, WINDOW - 1, WINDOW, WINDOW + 1, WINDOW + 63, WINDOW + 64, WINDOW + 65, 200):
        ids = torch.randint(3, WORDS, (length,), generator=generator)
        found = {}
        for way in ("eager", "sdpa", likelihood.NAME):
            model.set_attn_implementation(way)
            found[way] = logprobs(model, ids)
        assert np.std(found["eager"]) > 0.4, "a model this flat would hide mistakes"
        for way in ("eager", "sdpa"):
            np.testing.assert_allclose(found[likelihood.NAME], found[way], rtol=0, atol=1e-4, err_msg=f"{length} {way}")
    assert likelihood.unsupported_reason(model.config) is None


def varlen(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
    "A stand-in for torch.nn.attention.varlen.varlen_attn, which runs on GPUs only: the whole square, and masks."
    n, left = len(query), window_size[0] if window_size[0] >= 0 else len(query)
    text = torch.bucketize(torch.arange(n), cu_seq_q[1:].long(), right=True)
    distance = torch.arange(n)[:, None] - torch.arange(n)
    seen = (distance >= 0) & (distance <= left) & (text[:, None] == text)
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    weights = (torch.einsum("qhd,khd->hqk", query, key) * scale).masked_fill(~seen, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("one_call", [False, True])
def test_packed_texts_do_not_see_each_other(name, one_call, monkeypatch):
    "Also where a GPU has a kernel for texts of varying lengths (here a stand-in), which then also reads single texts with windows."
    if one_call:
        calls = []
        monkeypatch.setattr(attention_kernels, "varlen_attn", lambda *tensors, enable_gqa, **how: calls.append(1) or varlen(*tensors, enable_gqa=enable_gqa, **how))
        monkeypatch.setattr(attention_kernels, "_varlen_works", lambda device, dtype, width: attention_kernels._varlen_right(device, dtype, width))
    model = build(name)
    assert likelihood.use_own_attention(model)
    lengths = [1, 30, 130, 24]
    texts = torch.randint(3, WORDS, (sum(lengths),), generator=torch.Generator().manual_seed(1)).split(lengths)
    alone = np.concatenate([logprobs(model, text) for text in texts])
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    with likelihood.packed(np.cumsum(lengths).tolist()):
        together = logprobs(model, torch.cat(texts), position_ids=positions)
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-4)
    assert not one_call or len(calls) >= 3 * LAYERS["num_hidden_layers"]  # the trial's two and its own in each layer


@pytest.mark.parametrize("name", OWN)
def test_branches(name):
    "Ways in which a text goes on, behind the text: as if each were read alone, below, at and above the window."
    model = build(name)
    assert likelihood.use_own_attention(model)
    ids = torch.randint(3, WORDS, (130,), generator=torch.Generator().manual_seed(7))
    ways = [torch.tensor(way) for way in ((5, 6, 7), (9,), (8, 8))]
    branches = [likelihood.Branch(seen, (3, 1, 2)) for seen in (2, WINDOW - 1, WINDOW, 129)]
    inputs, positions = torch.cat([ids, *ways * len(branches)]), likelihood.branch_positions(len(ids), branches)[None]
    with likelihood.branched(len(ids), branches):
        together = logprobs(model, inputs, position_ids=positions)
    np.testing.assert_allclose(together[:130], logprobs(model, ids), rtol=0, atol=1e-4)
    begin = 130
    for branch in branches:
        for way in ways:
            alone = logprobs(model, torch.cat([ids[: branch.seen], way]))[branch.seen :]
            np.testing.assert_allclose(together[begin : begin + len(way)], alone, rtol=0, atol=1e-4)
            begin += len(way)


@pytest.mark.parametrize("name", OWN)
def test_texts_that_begin_alike(name, monkeypatch):
    "What they share is read once, below, at and above the window; each gets what it gets alone, also where its own part is long."
    model, generator = build(name), torch.Generator().manual_seed(0)
    model.set_attn_implementation(likelihood.NAME)
    draw = lambda n: torch.randint(3, WORDS, (n,), generator=generator).numpy()
    for shared in (WINDOW - 1, WINDOW + 40, 150):
        begin, texts = draw(shared), []
        for own in (4, 9, 30, 6, 12):
            ids = np.concatenate([begin, draw(own)])
            texts += [Tokens(ids, np.array([len(ids) - 2]), np.array([len(ids)]), np.array([len(ids)]))]
        texts += [replace(texts[-1], ids=np.concatenate([texts[-1].ids[:-1], draw(1)])) for _ in range(2)]  # the same but for the answer
        for masked in (512, 16):
            lone = []
            monkeypatch.setattr(forward, "_MASKED", masked)
            with monkeypatch.context() as patch:
                patch.setattr(batching, "score_batch", lambda model, texts, budget: lone.extend(texts) or likelihood.score_batch(model, texts, budget))
                together = likelihood.score_readings(model, texts)
            alone = list(likelihood.score_batch(model, texts, 0))
            np.testing.assert_allclose([one.nll for one in together], [one.nll for one in alone], rtol=0, atol=2e-4)
            alike_to_the_end = likelihood.score_readings(model, texts[-3:])
            np.testing.assert_allclose([one.nll for one in alike_to_the_end], [one.nll for one in alone[-3:]], rtol=0, atol=2e-4)
            assert len(lone) < 3 and np.std([one.nll for one in alone]) > 0.1


@pytest.mark.parametrize("name", OWN)
def test_what_is_not_ours_to_do_stays_right(name):
    "Padding on both sides, and a text read in two parts with a cache."
    model = build(name)
    ids = torch.randint(3, WORDS, (90,), generator=torch.Generator().manual_seed(2))
    expected = logprobs(model, ids)
    assert likelihood.use_own_attention(model)
    first = model(input_ids=ids[None, :50], use_cache=True)
    rest = model(input_ids=ids[None, 50:], past_key_values=first.past_key_values).logits[0].log_softmax(-1)
    np.testing.assert_allclose(rest, expected[50:], rtol=0, atol=1e-4)
    padded, mask, positions = torch.zeros(2, 95, dtype=torch.long), torch.zeros(2, 95, dtype=torch.long), torch.zeros(2, 95, dtype=torch.long)
    for row, where in enumerate((slice(5, 95), slice(0, 90))):
        padded[row, where], mask[row, where], positions[row, where] = ids, 1, torch.arange(90)
    found = model(input_ids=padded, attention_mask=mask, position_ids=positions, use_cache=False).logits.log_softmax(-1)
    for row, where in enumerate((slice(5, 95), slice(0, 90))):
        np.testing.assert_allclose(found[row, where], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", THEIRS)
def test_others_keep_their_own(name):
    model = build(name)
    ids = torch.randint(3, WORDS, (90,), generator=torch.Generator().manual_seed(3))
    expected, before = logprobs(model, ids), model.config._attn_implementation
    assert not likelihood.use_own_attention(model) and likelihood.unsupported_reason(model.config)
    assert model.config._attn_implementation == before
    np.testing.assert_array_equal(logprobs(model, ids), expected)


def test_a_model_that_also_takes_images():
    "Its language model attends by our function, its other part as before, since that looks in both directions."
    text = transformers.Gemma3TextConfig(**SMALL | LAYERS | OWN["Gemma3Text"])
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    config = transformers.Gemma3Config(text_config=text.to_dict(), vision_config=vision, mm_tokens_per_image=4, image_token_index=5)
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config).eval().requires_grad_(False)
    ids = torch.randint(6, WORDS, (90,), generator=torch.Generator().manual_seed(4))
    image, seen = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(5)), ids.clone()
    seen[10:14] = 5
    kinds = (seen == 5).long()[None]
    expected = logprobs(model, ids), logprobs(model, seen, pixel_values=image, token_type_ids=kinds)
    assert likelihood.use_own_attention(model)
    found = logprobs(model, ids), logprobs(model, seen, pixel_values=image, token_type_ids=kinds)
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


def test_the_table_is_what_is_tested():
    assert likelihood.TESTED == {build(name).config.get_text_config().model_type for name in OWN}


@pytest.mark.parametrize("name", [*OWN, *THEIRS])
def test_mixed_precision(name):
    "What autocast does with float32 weights, but for routers; nearer to float32 than with bfloat16 throughout."
    exact, moved = build(name), []
    likelihood.use_own_attention(exact)
    mixed, rounded = to_mixed(copy.deepcopy(exact)), copy.deepcopy(exact)
    for parameter in rounded.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    for seed in range(4):
        ids = torch.randint(3, WORDS, (130,), generator=torch.Generator().manual_seed(seed))
        expected = logprobs(exact, ids)
        moved.append([np.abs(logprobs(model, ids) - expected).mean() for model in (mixed, rounded)])
    assert 0 < np.mean(moved, 0)[0] < np.mean(moved, 0)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = exact.base_model(input_ids=ids[None], use_cache=False).last_hidden_state
    states = mixed.base_model(input_ids=ids[None], use_cache=False).last_hidden_state
    assert {module.weight.dtype for module in mixed.base_model.modules() if type(module).__name__ in ("Linear", "Conv1D")} == {torch.bfloat16}
    assert is_mixed(mixed) and not is_mixed(exact) and not is_mixed(rounded)
    assert states.dtype == torch.float32 and mixed(input_ids=ids[None]).logits.dtype == torch.float32
    assert any("Router" in type(module).__name__ for module in mixed.modules()) or (states - cast).abs().max() < 1e-5


def test_whoever_asks_first_for_the_fused_operator(monkeypatch):
    "The trial of PyTorch's operator is in float32, also where a model in mixed precision is the first to need it."
    attention_kernels._fused_works.cache_clear()
    alone = attention_kernels._fused_works()
    attention_kernels._fused_works.cache_clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attention_kernels._fused_works() == alone
