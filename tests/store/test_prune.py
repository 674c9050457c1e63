"""Overwriting and pruning: what is asked for is replaced or removed, and nothing else."""
from dataclasses import replace

import pytest

from helpers.stores import dataset, rows, run_score, session
from psych201 import data, scoring, store
from psych201.errors import StoreError
from psych201.store import write as write_module


def test_a_restart_counts_also_where_the_clock_is_behind(tmp_path, scorer, monkeypatch):
    run_score(scorer, dataset(2), tmp_path)
    monkeypatch.setattr(write_module.time, "time_ns", lambda: 5)
    run_score(replace(scorer, max_tokens=40), dataset(2), tmp_path, overwrite=True)
    assert {shard.identity.must["max_tokens"] for shard in store.read_shards(tmp_path)} == {40}
    assert "cut" in store.read_scores(tmp_path)["reason"].to_list()


def test_a_restart_of_one_study_leaves_the_others(tmp_path, scorer):
    run_score(scorer, data.Dataset([*dataset(2), *dataset(2, "frey2017")]), tmp_path)
    before = rows(tmp_path)
    run_score(scorer, dataset(2), tmp_path, overwrite=True)
    assert rows(tmp_path) == before


def test_a_part_of_the_data_makes_nothing_outdated(tmp_path, scorer, capsys):
    "A quick look at one study and two of its sessions; the rest is in the data all the same, other studies are none of its business."
    whole = data.Dataset([*dataset(4), *dataset(2, "frey2017")])
    run_score(scorer, whole, tmp_path)
    before = rows(tmp_path)
    scoring.score(scorer, data.select(whole, ["wulff2020"], 2), tmp_path, progress="lines", prune=True)
    assert rows(tmp_path) == before and "not in the" not in capsys.readouterr().err
    scoring.score(scorer, dataset(3), tmp_path, progress="lines")
    assert "1 stored transcripts of wulff2020 are not in these data" in capsys.readouterr().err and rows(tmp_path) == before
    scoring.score(scorer, dataset(3), tmp_path, progress="lines", prune=True)
    assert "were forgotten" in capsys.readouterr().err
    assert rows(tmp_path) == [row for row in before if row[6] != "3"]


def test_only_what_was_asked_for_is_pruned(tmp_path, scorer):
    "Sessions of both studies were edited; one study is named. And a run that is refused forgets nothing."
    edited = lambda people: [replace(one, text="Hello. " + one.text) for one in people]
    run_score(scorer, data.Dataset([*dataset(2), *dataset(2, "frey2017")]), tmp_path)
    before = rows(tmp_path)
    now = data.Dataset([dataset(2)[0], *edited([dataset(2)[1]]), *edited(dataset(2, "frey2017"))])
    with pytest.raises(StoreError, match="max_tokens"):
        run_score(replace(scorer, max_tokens=40), now, tmp_path, prune=True)
    assert rows(tmp_path) == before
    run_score(scorer, data.select(now, ["wulff2020"]), tmp_path, prune=True)
    assert set(store.read_scores(tmp_path)["transcript"]) == {one.key for one in [now[0], now[1], *dataset(2, "frey2017")]}


def test_a_restart_with_other_settings_can_prune_what_would_stay(tmp_path, scorer):
    run_score(scorer, dataset(3), tmp_path)
    short = replace(scorer, max_tokens=40)
    with pytest.raises(StoreError, match="max_tokens"):
        run_score(short, dataset(2), tmp_path, overwrite=True)
    run_score(short, dataset(2), tmp_path, overwrite=True, prune=True)
    assert set(store.read_scores(tmp_path)["transcript"]) == {one.key for one in dataset(2)}


def test_edits_are_seen_without_the_data_and_new_files_are_none(tmp_path, scorer):
    "A file put in front shifts all rows; then a session is edited, and one put in front of it."
    run_score(scorer, dataset(3), tmp_path)
    more = data.Dataset([replace(one, row=n) for n, one in enumerate([session(9), *dataset(3)])])
    run_score(scorer, more, tmp_path)
    assert store.two_versions(tmp_path) == {}
    edited = [session(8), *more.transcripts[:2], *(replace(one, text="Hello. " + one.text) for one in more.transcripts[2:])]
    run_score(scorer, data.Dataset([replace(one, row=n) for n, one in enumerate(edited)]), tmp_path)
    assert store.two_versions(tmp_path) == {"wulff2020": 2}


def test_a_restart_replaces_what_it_was_asked_for_and_no_more(tmp_path, scorer):
    "Of three transcripts in one shard one is scored anew; when the others were written stays as it was."
    run_score(scorer, dataset(3), tmp_path)
    written = {key: shard.written for key, shard in store.Run(tmp_path, scorer.name, scorer.identity()).held().items()}
    run_score(scorer, data.Dataset(dataset(3)[1:2]), tmp_path, overwrite=True)
    again = {key: shard.written for key, shard in store.Run(tmp_path, scorer.name, scorer.identity()).held().items()}
    assert {key for key in written if written[key] != again[key]} == {dataset(3)[1].key}
