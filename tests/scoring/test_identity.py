"""The identity of a score: its keys, what changes it, and what is refused when it differs."""
import json
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.stores import MUST, PROVED, dataset, rows, run_score
from psych201 import inputs, models, scoring, store
from psych201.errors import StoreError
from psych201.models.language_model import Card
from psych201.scoring import identity as identity_module
from psych201.scoring.language_model import LanguageModelScorer
import psych201


def test_the_identity_has_exactly_these_keys(scorer):
    identity = scorer.identity()
    assert set(identity.must) == MUST and set(identity.proved) == PROVED
    assert not any(value is None for value in [*identity.must.values(), *identity.proved.values()])


@pytest.mark.parametrize("key, change", [
    ("weights", lambda scorer, patch: replace(scorer, language_model=replace(scorer.language_model, revision="other"))),
    ("config", lambda scorer, patch: patch.setattr(scorer.language_model.model.config, "rms_norm_eps", 0.5)),
    ("tokenizer", lambda scorer, patch: replace(scorer, language_model=replace(scorer.language_model, tokenizer_hash="other"))),
    ("dtype", lambda scorer, patch: patch.setattr(models.LanguageModel, "dtype", property(lambda self: "float16"))),
    ("format", lambda scorer, patch: (patch.setitem(inputs.FORMATS, "another", inputs.plain), replace(scorer, format="another"))[1]),
    ("rule", lambda scorer, patch: replace(scorer, rule="paper", options={})),
    ("max_tokens", lambda scorer, patch: replace(scorer, max_tokens=40)),
    ("attention", lambda scorer, patch: patch.setattr(scorer.language_model.model.config, "_attn_implementation_internal", "eager")),
    ("torch", lambda scorer, patch: patch.setattr(identity_module.torch, "__version__", "9.9")),
    ("transformers", lambda scorer, patch: patch.setattr(identity_module.transformers, "__version__", "9.9")),
    ("tokenizers", lambda scorer, patch: patch.setattr(identity_module.tokenizers, "__version__", "9.9")),
])
def test_each_part_of_the_identity_follows_what_it_names(scorer, monkeypatch, key, change):
    "The thing itself is changed, and its key, and no other, changes with it."
    before = scorer.identity()
    after = (change(scorer, monkeypatch) or scorer).identity()
    old, new = before.must | before.proved, after.must | after.proved
    assert {name for name in old if old[name] != new[name]} == {key}


PACKAGE = Path(psych201.__file__).parent
MAKES_NUMBERS = sorted(path.relative_to(PACKAGE).as_posix() for path in [
    PACKAGE / "transcripts.py", *(PACKAGE / "scoring" / f"{name}.py" for name in ("scorer", "identity", "language_model")),
    *(path for room in ("participants", "inputs", "likelihood", "models") for path in (PACKAGE / room).glob("[!_]*.py"))])


@pytest.mark.parametrize("module", MAKES_NUMBERS)
def test_the_code_of_every_module_that_makes_numbers_counts(module, monkeypatch):
    before = scoring.source_hash.__wrapped__()
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"#" if path == PACKAGE / module else b""))
    assert scoring.source_hash.__wrapped__() != before


@pytest.mark.parametrize("key", sorted(MUST - {"format", "rule"}))
def test_what_must_match_is_refused_where_it_differs(tmp_path, scorer, monkeypatch, key):
    run_score(scorer, dataset(1), tmp_path)
    identity = scorer.identity()
    monkeypatch.setattr(LanguageModelScorer, "identity", lambda self: replace(identity, must=identity.must | {key: "another"}))
    before = rows(tmp_path)
    with pytest.raises(StoreError, match=rf"{key} \("):
        run_score(scorer, dataset(2), tmp_path)
    assert rows(tmp_path) == before


def test_the_configuration_of_a_folder_is_part_of_the_identity(tmp_path, llama):
    "The same weights under another normalisation, activation or rotary base give other numbers."
    folder = tmp_path / "mine"
    llama.model.save_pretrained(folder)
    llama.tokenizer.save_pretrained(folder)
    identity = lambda: LanguageModelScorer(models.load_model(str(folder), "float32", "cpu")).identity().must
    config, first = json.loads((folder / "config.json").read_text()), identity()
    for change in ({"rms_norm_eps": 1e-2}, {"hidden_act": "relu"}, {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}):
        (folder / "config.json").write_text(json.dumps(config | change))
        assert {key for key, value in identity().items() if first[key] != value} == {"config"}, change


def test_two_models_that_share_a_folder(tmp_path, llama):
    for name in ("a/b", "a--b"):
        run_score(replace(llama, card=Card(name, "a", 1.0, "base")), dataset(2), tmp_path)
    assert store.read_scores(tmp_path)["model"].value_counts().sort("model").rows() == [("a--b", 12), ("a/b", 12)]
