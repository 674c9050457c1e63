"""Reading a store: every reader sees the same rows, formats and rules apart, and damage by name."""
from dataclasses import replace

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet
import pytest

from helpers.stores import dataset, rows, run_score
from helpers.texts import no_byte_fallback
from psych201 import data, inputs, scoring, store
from psych201.errors import StoreError
from psych201.models.language_model import Card
from psych201.scoring.language_model import LanguageModelScorer
from psych201.scoring.run import Limits
from psych201.store import shards
from psych201.transcripts import Transcript


def test_every_reader_sees_the_same_rows(tmp_path, llama):
    "Also for a model whose name holds a slash, which must be found by that name."
    named = replace(llama, card=Card("Qwen/Qwen3-8B", "Qwen3", 8.0, "reasoning"))
    run_score(named, data.Dataset([*dataset(3), *dataset(3, "frey2017")]), tmp_path, limits=Limits(2))
    run_score("baseline:uniform", dataset(3), tmp_path)
    folder = tmp_path / "responses"
    key = ["model", "transcript", "response_index"]
    ours = store.scan_scores(tmp_path).select(list(store.RESPONSES)).sort(key).collect()
    assert ours.equals(pl.read_parquet(folder).sort(key)) and len(ours) == 6 * 6 + 3 * 6
    assert ours.equals(pl.scan_parquet(folder / "**" / "*.parquet").sort(key).collect())
    assert ours.equals(pl.from_arrow(pyarrow.parquet.read_table(folder)).sort(key).select(ours.columns))
    frame = pd.read_parquet(folder).sort_values(key, ignore_index=True)
    assert list(frame.columns) == ours.columns
    pd.testing.assert_frame_equal(frame, ours.to_pandas(), check_dtype=False)
    found = duckdb.sql(f"from read_parquet('{folder}/**/*.parquet') order by model, transcript, response_index").pl()
    assert ours.equals(found.cast(dict(ours.schema)))
    count = f"select count(*) from read_parquet('{folder}/**/*.parquet') where model = 'Qwen/Qwen3-8B'"
    assert duckdb.sql(count).fetchall() == [(36,)]
    joined = duckdb.sql(f"select study, count(*) from read_parquet('{folder}/**/*.parquet') join "
                        f"read_parquet('{tmp_path}/transcripts/*.parquet') using (transcript) group by study order by study")
    assert joined.fetchall() == [("frey2017", 18), ("wulff2020", 36)]


def test_the_rows_of_a_store_in_full(tmp_path, scorer):
    "Every column of every row, from the transcript and from the scorer."
    first, second = Transcript("Say <<J>>, <<>>.", "s", "exp/1", "7", 3), Transcript("Say <<F>>, <<>>.", "s", "exp/2", "7", 4)
    run_score(scorer, data.Dataset([first, second]), tmp_path)
    table = store.read_scores(tmp_path)
    expected = [(scorer.name, "plain", "span", "float32", "s", t.experiment, "7", f"s/{t.experiment}/7", t.row, t.key, n, answer)
                for t in (first, second) for n, answer in enumerate((t.responses[0], ""))]
    assert table.select(list(store.SCHEMA)[:12]).rows() == expected
    assert table["reason"].to_list() == [None, "empty"] * 2
    values = scorer.score([first, second])
    for name in ("nll", "n_tokens", "close_nll", "argmax_right", "first_entropy"):
        assert table[name].to_list() == values[name].to_list()
    facts = store.read_facts(tmp_path).sort("row")
    assert facts.select("digest", "characters", "responses").rows() == [(t.digest, len(t.text), 2) for t in (first, second)]


@pytest.mark.parametrize("name", ["out[1]", "o*", "a?b", "50%"])
def test_a_store_with_any_name(tmp_path, scorer, name):
    "Brackets and stars are no pattern; a neighbour whose name would fit one is not read."
    for folder in (tmp_path / name, tmp_path / "out1", tmp_path / "ox", tmp_path / "axb"):
        run_score(scorer, dataset(2), folder)
    assert len(rows(tmp_path / name)) == 12
    run_score(scorer, dataset(2), tmp_path / name, overwrite=True)
    run_score(replace(scorer, max_tokens=40), dataset(2), tmp_path / name, overwrite=True)
    assert len(rows(tmp_path / name)) == 12 and store.two_versions(tmp_path / name) == {}


@pytest.mark.parametrize("folder, read", [
    ("transcripts", store.read_scores), ("transcripts", lambda path: run_score("baseline:uniform", dataset(1), path)),
    ("runs", store.read_runs), ("people", store.two_versions)])
def test_damage_beside_the_scores_is_named(tmp_path, folder, read):
    run_score("baseline:uniform", dataset(1), tmp_path)
    (path,) = [path for path in (tmp_path / folder).rglob("*") if path.is_file()]
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(StoreError, match=f"{path.name} is .*damaged"):
        read(tmp_path)


def test_formats_are_read_apart(tmp_path, scorer, monkeypatch):
    monkeypatch.setitem(inputs.FORMATS, "another", inputs.plain)
    for name in ("plain", "another"):
        run_score(replace(scorer, format=name), dataset(2), tmp_path)
    assert {shard.identity.must["format"] for shard in store.find_shards(tmp_path, formats=["plain"])} == {"plain"}
    assert store.read_scores(tmp_path, formats=["another"])["format"].unique().to_list() == ["another"]
    with pytest.raises(StoreError, match="no scores in the format third"):
        store.find_shards(tmp_path, formats=["third"])
    with pytest.raises(StoreError, match=f"no scores of big, only of {scorer.name}"):
        store.find_shards(tmp_path, ["big"])


def test_rules_are_read_apart(tmp_path, scorer):
    "Both rules of one model lie in one store; a transcript without glued markers has the same scores under both."
    glued = replace(dataset(1)[0], text="Take <<J>>. Take <<F>>, <<>> and <<K>> now", participant="glued")
    kind = replace(glued, text="Take <<J>> and <<F>> now", participant="kind")
    for rule in ("span", "paper"):
        table = run_score(replace(scorer, rule=rule, options={}), [glued, kind], tmp_path)
        assert table[["scored", "not_found", "empty"]].to_numpy().tolist() == [[5, 0, 1] if rule == "span" else [4, 1, 1]]
    span, paper = (store.read_scores(tmp_path, rules=[rule]).filter(participant="kind")["nll"] for rule in ("span", "paper"))
    np.testing.assert_allclose(span, paper, atol=1e-4)
    assert store.read_scores(tmp_path)["rule"].value_counts().sort("rule").rows() == [("paper", 6), ("span", 6)]
    assert store.read_conditions(tmp_path, rules=["paper"])["rule"].to_list() == ["paper"]
    assert store.read_scores(tmp_path)["dtype"].to_list() == ["float32"] * 12
    for rule, text in (("span", "Take <<J>> now"), ("paper", "You take <<J>> now")):
        run_score(replace(scorer, rule=rule, options={}), [replace(glued, text=text)], tmp_path / "edited")
    assert store.two_versions(tmp_path / "edited") == {}  # one text of a person by each rule
    with pytest.raises(StoreError, match="no scores in the rule other, only in plain/paper and plain/span"):
        store.scan_scores(tmp_path, rules=["other"])


def test_a_cut_takes_found_and_not_found_responses(tmp_path, scorer):
    "Behind the first response that no longer fits all are cut, those that the search finds and those that it does not."
    text = "Take <<J>> and <<F>>. Take <<K>> or <<L>> and <<M>>, <<>> now and <<N>> again"
    once = replace(dataset(1)[0], text=text)
    reasons = []
    for limit in range(scorer.n_tokens(once) + 1):
        rows = replace(scorer, rule="paper", options={}, max_tokens=limit or 10**6).score([once])
        reasons.append(["scored" if reason is None else reason for reason in rows["reason"]])
    whole = reasons[0]
    assert whole == ["scored", "scored", "not_found", "scored", "scored", "empty", "scored"]
    for cut in reasons[1:]:
        n = cut.index("cut") if "cut" in cut else len(whole)
        assert cut == whole[:n] + ["cut"] * (len(whole) - n)
    assert len({reason.count("cut") for reason in map(list, reasons)}) > 4


def test_names_are_enough(tmp_path):
    "A model and a data set by their names."
    summary = scoring.score("tiny-gemma", "sample", tmp_path, progress="none")
    assert summary["responses"].sum() == len(store.read_scores(tmp_path)) == 640


def test_two_names_that_make_the_same_file_name(tmp_path, scorer):
    run_score(scorer, data.Dataset([*dataset(1, "a/b"), *dataset(1, "a--b")]), tmp_path)
    assert set(store.read_scores(tmp_path)["study"]) == {"a/b", "a--b"}


def test_records_that_say_the_same_twice_are_scored_once(tmp_path, scorer):
    (one,) = dataset(1)
    summary = run_score(scorer, data.Dataset([one, replace(one, row=5), replace(one, participant="other")]), tmp_path)
    assert summary.loc["wulff2020", ["transcripts", "repeated", "responses"]].tolist() == [2, 1, 12]


def test_an_old_store_is_told_apart(tmp_path, scorer):
    "What psych201 0.1 wrote before shards, schema 1, is neither read nor added to."
    old = tmp_path / "model=tiny-llama" / "format=plain"
    old.mkdir(parents=True)
    (old / "manifest.json").write_text('{"identity": {"model": "tiny-llama", "format": "plain"}, "studies": {}}')
    for attempt in (lambda: store.read_scores(tmp_path), lambda: run_score(scorer, dataset(1), tmp_path)):
        with pytest.raises(StoreError, match="schema 1.*reads schema 3; score into another output folder"):
            attempt()
    assert not (tmp_path / "responses").exists()


def test_another_schema_with_the_same_columns_is_told_apart(tmp_path, scorer, monkeypatch):
    run_score(scorer, dataset(1), tmp_path)
    monkeypatch.setattr(shards, "SCHEMA_VERSION", 4)
    with pytest.raises(StoreError, match="schema 3.*reads schema 4"):
        store.read_scores(tmp_path)


def test_damage_is_named(tmp_path, scorer):
    run_score(scorer, dataset(1), tmp_path)
    (shard,) = store.read_shards(tmp_path)
    whole = shard.path.read_bytes()
    for content, message in ((whole[:100], "damaged"), (b"", "damaged")):
        shard.path.write_bytes(content)
        with pytest.raises(StoreError, match=f"{shard.path.name} is no shard of scores, or {message}"):
            store.read_scores(tmp_path)
    pl.read_parquet(whole).with_columns(first_margin=pl.lit(0.1)).write_parquet(shard.path, metadata=shard.metadata())
    with pytest.raises(StoreError, match="schema"):
        store.read_scores(tmp_path)
    shard.path.write_bytes(whole)
    for path in (tmp_path / "transcripts").iterdir():
        path.unlink()
    with pytest.raises(StoreError, match="lacks 1 scored transcripts"):
        store.read_scores(tmp_path)


def test_a_response_that_cannot_be_encoded_is_a_row(tmp_path, llama):
    "In the middle of a study, with a vocabulary of letters only: all others are scored."
    letters = LanguageModelScorer(replace(llama, tokenizer=no_byte_fallback("always")))
    odd = Transcript("you play <<j>> <<🙂>> <<f>> <<>>", "wulff2020", "exp1", "99")
    summary = run_score(letters, data.Dataset([odd, replace(odd, text="you play <<j>>")]), tmp_path)
    assert summary.loc["wulff2020", ["responses", "scored", "empty", "not_encodable"]].tolist() == [5, 3, 1, 1]
    table = store.read_scores(tmp_path).filter(transcript=odd.key)
    assert table["reason"].to_list() == [None, "not_encodable", None, "empty"]
    assert table["nll"].is_null().to_list() == [False, True, False, True]
