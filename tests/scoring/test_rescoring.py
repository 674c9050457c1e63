"""Rescoring: what must be proved is tried on stored transcripts, and stale numbers are noticed."""
import json
from dataclasses import replace

import polars as pl
import pytest

from helpers.stores import PROVED, picks, dataset, run_score, session
from psych201 import data, scoring, store
from psych201.errors import StoreError
from psych201.inputs.options import choose_options
from psych201.scoring import identity as identity_module, language_model
from psych201.scoring.language_model import LanguageModelScorer
from psych201.scoring.run import Limits
from psych201.transcripts import Transcript


@pytest.mark.parametrize("key", sorted(PROVED))
def test_what_is_proved_is_checked_on_stored_transcripts(tmp_path, scorer, monkeypatch, key):
    "Equal numbers: the run goes on, and both conditions are recorded. A number that moved: the run names the response."
    run_score(scorer, dataset(2), tmp_path)
    identity, original, again = scorer.identity(), language_model._join, []
    monkeypatch.setattr(LanguageModelScorer, "identity", lambda self: replace(identity, proved=identity.proved | {key: "another"}))
    score_one = LanguageModelScorer.score
    monkeypatch.setattr(LanguageModelScorer, "score", lambda self, some: again.extend(some) or score_one(self, some))
    monkeypatch.setattr(language_model, "_join", lambda *arguments: original(*arguments).with_columns(
        nll=pl.when(pl.col("response_index") == 4).then(pl.col("nll") + 2e-4).otherwise("nll")))
    with pytest.raises(StoreError, match=rf"response 4 of Transcript\(wulff2020, participant .*{key} \("):
        run_score(scorer, dataset(3), tmp_path)
    assert len(store.read_scores(tmp_path)) == 12
    monkeypatch.setattr(language_model, "_join", original)
    run_score(scorer, dataset(3), tmp_path)
    assert 2 <= len(again) <= 3 and {len(store.read_scores(tmp_path))} == {18}
    times = len(again)
    conditions = {shard.identity.proved[key] for shard in store.read_shards(tmp_path)}
    assert conditions == {identity.proved[key], "another"}
    (record,) = [json.loads(path.read_text()) for path in (tmp_path / "proofs").rglob("*.json")]
    assert (record["now"][key], record["stored"][key]) == ("another", identity.proved[key]) and record["largest_move"] <= 1e-4
    run_score(scorer, dataset(3), tmp_path)
    assert len(again) == times  # proved once


def test_stale_numbers_are_noticed_where_nothing_is_left_to_do(tmp_path, scorer, monkeypatch):
    "Somebody edits the kernel and runs the same command: the stored numbers are no longer what the code gives."
    run_score(scorer, dataset(2), tmp_path)
    monkeypatch.setattr(identity_module, "source_hash", lambda: "edited")
    original = language_model._join
    monkeypatch.setattr(language_model, "_join", lambda *arguments: original(*arguments).with_columns(pl.col("nll") * 1.01))
    with pytest.raises(StoreError, match="code"):
        run_score(scorer, dataset(2), tmp_path)
    with pytest.raises(StoreError, match="code"):  # and where today's data are others
        run_score(scorer, dataset(2, "frey2017"), tmp_path)


@pytest.mark.parametrize("change", [dict(nll=pl.col("nll") * 1.5), dict(close_nll=pl.col("close_nll") + 0.1),
                                    dict(first_entropy=pl.col("first_entropy") * 2), dict(n_tokens=pl.col("n_tokens") + 1)],
                         ids=["late nll", "close_nll", "first_entropy", "n_tokens"])
def test_a_fault_that_the_shortest_transcript_does_not_show(tmp_path, scorer, monkeypatch, change):
    "Only responses from the fourth on are touched; the shortest transcript has two, another one nothing to score."
    people = data.Dataset([session(0, trials=2), *(session(n, trials=8) for n in range(1, 5)),
                           Transcript("Say <<>>.", "wulff2020", "exp1", "9", 9)])
    run_score(scorer, people, tmp_path)
    monkeypatch.setattr(identity_module, "source_hash", lambda: "edited")
    original, late = language_model._join, pl.col("response_index") >= 3
    monkeypatch.setattr(language_model, "_join", lambda *arguments: original(*arguments).with_columns(
        **{name: pl.when(late).then(value).otherwise(name) for name, value in change.items()}))
    with pytest.raises(StoreError, match="code"):
        run_score(scorer, people, tmp_path)


def test_a_restart_of_the_probes_leaves_something_to_prove_with_or_says_so(tmp_path, scorer, monkeypatch):
    run_score(scorer, dataset(5), tmp_path)
    (shard,) = store.read_shards(tmp_path)
    some = data.Dataset([person for person in dataset(5) if person.key in shard.probes])
    run_score(scorer, some, tmp_path, overwrite=True)
    monkeypatch.setattr(identity_module, "source_hash", lambda: "edited")
    run_score(scorer, dataset(5), tmp_path)  # the new shard has probes, of the same conditions
    assert len(list((tmp_path / "proofs").rglob("*.json"))) == 1


def test_a_proof_holds_for_what_it_proved_only(tmp_path, scorer, monkeypatch):
    "Proved under one cut, the same change of code is proved again under another."
    for limit in (0, 40):
        monkeypatch.setattr(identity_module, "source_hash", lambda: "before")
        run_score(replace(scorer, max_tokens=limit), dataset(2), tmp_path, overwrite=True)
        monkeypatch.setattr(identity_module, "source_hash", lambda: "after")
        run_score(replace(scorer, max_tokens=limit), dataset(2), tmp_path)
    assert len(list((tmp_path / "proofs").rglob("*.json"))) == 2


def test_another_input_is_noticed_by_the_proof(tmp_path, scorer, monkeypatch):
    "The code changes, and with it the input of stored transcripts that today's data do not hold; the numbers would agree."
    run_score(scorer, dataset(2), tmp_path)
    monkeypatch.setattr(identity_module, "source_hash", lambda: "edited")
    digest = LanguageModelScorer.digest
    monkeypatch.setattr(LanguageModelScorer, "digest", lambda self, transcript: digest(self, transcript)[::-1])
    with pytest.raises(StoreError, match="is not put to tiny-.* as it was"):
        run_score(scorer, dataset(2, "frey2017"), tmp_path)


def test_several_shards_of_one_kind_are_proved(tmp_path, scorer, monkeypatch):
    "The shard with the shortest transcript still holds; another does not."
    people = data.Dataset([session(n, trials=n + 2) for n in range(3)])
    run_score(scorer, people, tmp_path, limits=Limits(1))
    monkeypatch.setattr(identity_module, "source_hash", lambda: "edited")
    original = language_model._join
    monkeypatch.setattr(language_model, "_join", lambda *arguments: original(*arguments).with_columns(
        nll=pl.when(pl.col("response_index") == 3).then(pl.col("nll") + 0.1).otherwise("nll")))
    with pytest.raises(StoreError, match="response 3 of"):
        run_score(scorer, people, tmp_path)


def test_bounds_of_a_proof():
    "What the rounding of a dtype does to a response of some tokens, with room to spare, and no more."
    assert [scoring.bound_of({"dtype": name}) for name in ("float32", "mixed", "float16", "bfloat16")] == [1e-4, 0.5, 0.05, 0.5]
    assert scoring.bound_of({}) == 1e-4


def test_a_transcript_without_responses_can_be_proved(tmp_path, scorer, monkeypatch):
    people = data.Dataset([Transcript("Nobody answers.", "wulff2020", "exp1", "1", 0)])
    run_score(scorer, people, tmp_path)
    monkeypatch.setattr(identity_module, "source_hash", lambda: "edited")
    run_score(scorer, people, tmp_path)
    assert len(list((tmp_path / "proofs").rglob("*.json"))) == 1


def test_a_proof_looks_at_options_too(tmp_path, llama, monkeypatch):
    people = data.Dataset([picks(1, "JF"), picks(2, "FJ")])
    scorer = LanguageModelScorer(llama, options=choose_options(people, llama.tokenizer))
    run_score(scorer, data.Dataset(people.transcripts[:1]), tmp_path)
    monkeypatch.setattr(identity_module, "source_hash", lambda *_: "other")
    original = LanguageModelScorer.score
    moved = pl.col("option_logprobs").list.eval(pl.element() + 0.5)
    monkeypatch.setattr(LanguageModelScorer, "score", lambda self, some: original(self, some).with_columns(moved))
    with pytest.raises(StoreError, match="0.5 nats away"):
        run_score(scorer, people, tmp_path)
    other = replace(scorer, options={("wulff2020", "exp1"): {"J": scorer.options["wulff2020", "exp1"]["J"], "K": (7,)}})
    run_score(other, people, tmp_path)  # of other options, which nobody can compare
