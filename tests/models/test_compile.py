"""Compiled layers give what plain ones give, for texts alone and packed, of any length."""

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from helpers import FULL
from helpers.networks import OWN, SMALL, build, logprobs, random_model, some_responses
from psych201 import likelihood, models
from psych201.models import language_model
from psych201.models.compile import compile_layers, is_compiled
from psych201.models.dtypes import to_mixed

FEW = ["Gemma3Text", "Qwen3"]  # windows and norms of queries; each kind takes 20 seconds to compile
KINDS = [name for name in OWN if name not in ("Mixtral", "Qwen3Moe") and (FULL or name in FEW)]


def scores(model, texts, budget: int) -> np.ndarray:
    return np.concatenate([one.nll for one in likelihood.score_batch(model, texts, budget)])


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_compiled_layers_give_the_same_numbers(name):
    "Texts alone and packed, of lengths for which nothing is compiled anew."
    torch._dynamo.reset()
    counters.clear()
    texts = [some_responses(n) for n in (30, 40, 24, 100, 60, 25, 140, 300)]
    plain, compiled = build(name), build(name)
    assert likelihood.use_own_attention(plain) and likelihood.use_own_attention(compiled)
    assert compile_layers(compiled) is compiled and is_compiled(compiled) and not is_compiled(plain)
    expected = scores(plain, texts, 0)
    scores(compiled, texts[:1], 0)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs >= 2, "nothing was compiled"
    found, together = scores(compiled, texts, 0), scores(compiled, texts, 400)
    assert counters["stats"]["unique_graphs"] <= graphs + 2, "new lengths are compiled anew"
    np.testing.assert_allclose([found, together], [expected, expected], rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_compiled_layers_in_mixed_precision(name):
    "No farther from float32 than plain layers are."
    torch._dynamo.reset()
    exact, plain, compiled = (build(name) for _ in range(3))
    for model in (exact, plain, compiled):
        assert likelihood.use_own_attention(model)
    plain, compiled, moved = to_mixed(plain), compile_layers(to_mixed(compiled)), []
    for seed in range(6):
        ids = torch.randint(3, SMALL["vocab_size"], (150 + seed,), generator=torch.Generator().manual_seed(seed))
        expected = logprobs(exact, ids)
        moved.append([np.abs(logprobs(model, ids) - expected).mean() for model in (compiled, plain)])
    found, rounded = np.mean(moved, 0)
    assert 0 < found < 1.15 * rounded


@pytest.mark.slow
def test_a_model_is_compiled_when_it_is_asked_for():
    "By the loader, which says so; and the store's identity knows."
    from psych201.scoring.identity import model_identity

    plain, compiled = (models.load_model("tiny-llama", "float32", "cpu", compile=given) for given in (False, True))
    assert (plain.compiled, compiled.compiled) == (False, True) and ", compiled on cpu" in repr(compiled) and "compiled" not in repr(plain)
    assert compiled.revision == plain.revision
    one, other = model_identity(plain), model_identity(compiled)
    assert one.must == other.must and {name for name in one.proved if one.proved[name] != other.proved[name]} == {"compiled"}
    encoded = some_responses(options=())
    np.testing.assert_allclose(likelihood.response_nll(compiled.model, encoded).nll, likelihood.response_nll(plain.model, encoded).nll, rtol=0, atol=1e-4)


@pytest.mark.parametrize("setting, expected", [("yes", True), ("no", False), ("", False)])
def test_settings_ask_for_it(setting, expected, tmp_path, monkeypatch):
    (tmp_path / "settings.ini").write_text(f"[DEFAULT]\nworkbench = psych201\ncompile = {setting}\n")
    monkeypatch.chdir(tmp_path)
    assert models.load_model("tiny-llama", "float32", "cpu").compiled is expected
    assert not models.load_model("tiny-llama", "float32", "cpu", compile=False).compiled


@pytest.mark.parametrize("name, reason", [("Mixtral", "it is a mixture of experts"), ("Gemma2", "gemma2 was not tested")])
def test_models_that_are_not_compiled(name, reason):
    from helpers.networks import HEADS

    model = random_model(name, HEADS[name])
    likelihood.use_own_attention(model)
    with pytest.raises(language_model.ModelError, match=reason):
        compile_layers(model)
    assert not is_compiled(model)
