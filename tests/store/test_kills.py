"""Kills, errors and several processes: nothing is lost, nothing is there twice, numbers stay the same."""
import os
import random
import signal
import time
from dataclasses import replace

import polars as pl
import pytest

from helpers import FULL
from helpers.stores import dataset, process, rows, run_score
from psych201 import data, models, scoring, store
from psych201.errors import StoreError
from psych201.errors import UserError
from psych201.scoring import identity as identity_module, language_model, run as run_module
from psych201.scoring.language_model import LanguageModelScorer
from psych201.scoring.run import Limits
from psych201.store import write as write_module


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    "The rows of 60 transcripts scored without disturbance."
    folder = tmp_path_factory.mktemp("undisturbed")
    run_score(models.load_model("tiny-llama", device="cpu"), dataset(60), folder)
    return rows(folder)


@pytest.mark.slow
@pytest.mark.parametrize("repetition", range(5 if FULL else 1))
def test_killed_at_random_moments(tmp_path, undisturbed, repetition):
    "SIGKILL again and again inside one study: nothing is lost, nothing is there twice, and the numbers are the same."
    chance, finished, kills, within = random.Random(repetition), set(), 0, 0
    for _ in range(20 if FULL else 6):
        child = process(tmp_path, 60, "wulff2020", 3, wait=True)
        assert child.stdout.readline() == "ready\n"
        child.stdin.write("go\n"), child.stdin.flush()
        wanted = len(list(tmp_path.rglob("*.parquet"))) + chance.randrange(3)  # files there before the kill
        while child.poll() is None and len(list(tmp_path.rglob("*.parquet"))) < wanted:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.1))
        child.kill()
        kills += child.wait() == -signal.SIGKILL
        held = {key for shard in store.read_shards(tmp_path) for key in shard.inputs}
        assert held >= finished  # what was saved stays
        within += finished < held < {person.key for person in dataset(60)}
        finished = held
        if held:
            table = store.read_scores(tmp_path)
            assert table.select("transcript", "response_index").is_unique().all() and len(table) == 6 * len(held)
    assert kills and within  # some of them in the middle of the work
    child = process(tmp_path, 60, "wulff2020", 3)
    assert (child.communicate()[1], child.returncode) == ("", 0)
    assert rows(tmp_path) == undisturbed


@pytest.mark.parametrize("after", [1, 3, 4])
def test_a_kill_loses_the_shard_in_work_and_no_more(tmp_path, scorer, monkeypatch, after):
    "Killed by an exception that nobody catches, so that not even the shard in work is saved."
    class Killed(BaseException):
        pass

    original, saved = run_module.save_shard, []

    def killing(*arguments):
        if len(saved) >= after:
            raise Killed
        saved.append(original(*arguments))

    monkeypatch.setattr(run_module, "save_shard", killing)
    with pytest.raises(Killed):
        run_score(scorer, dataset(10), tmp_path, limits=Limits(2))
    assert len(store.read_shards(tmp_path)) == after
    monkeypatch.setattr(run_module, "save_shard", original)
    asked = []
    monkeypatch.setattr(LanguageModelScorer, "stream", lambda self, some: asked.extend(some) or language_model._stream(self, some))
    run_score(scorer, dataset(10), tmp_path)
    assert len(asked) == 10 - 2 * after
    assert store.read_scores(tmp_path)["transcript"].n_unique() == 10


def test_an_error_keeps_what_was_done(tmp_path, scorer, monkeypatch):
    original = scoring.response_rows

    def failing(scorer, transcript, *values):
        if transcript.participant == "3":
            raise RuntimeError("out of memory")
        return original(scorer, transcript, *values)

    monkeypatch.setattr(language_model, "response_rows", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        run_score(scorer, dataset(6), tmp_path)
    assert sorted(set(store.read_scores(tmp_path)["participant"])) == ["0", "1", "2"]


def test_a_shard_is_closed_in_time(tmp_path, scorer):
    run_score(scorer, dataset(4), tmp_path, limits=Limits(50, minutes=0))
    assert len(store.read_shards(tmp_path)) == 4


def test_ten_and_then_all(tmp_path, scorer):
    "The second run scores the rest only; the files of the first stay as they are."
    run_score(scorer, dataset(10), tmp_path)
    before = {shard.path: shard.path.read_bytes() for shard in store.read_shards(tmp_path)}
    summary = run_score(scorer, dataset(15), tmp_path)
    assert summary["transcripts"].tolist() == [15]
    assert {path: path.read_bytes() for path in before} == before
    new = [shard for shard in store.read_shards(tmp_path) if shard.path not in before]
    assert sum(len(shard.inputs) for shard in new) == 5


@pytest.mark.parametrize("other", ["wulff2020", "frey2017"])
def test_two_processes_on_one_store(tmp_path, other):
    "On the same study and on different ones, at the same moment: both keep their results, and nothing counts twice."
    children = [process(tmp_path, 12, study, size, wait=True) for study, size in (("wulff2020", 2), (other, 3))]
    for child in children:
        child.stdout.readline()
    for child in children:
        child.stdin.write("go\n"), child.stdin.flush()
    assert [(child.communicate()[1], child.returncode) for child in children] == [("", 0)] * 2
    table = store.read_scores(tmp_path)
    assert set(table["study"]) == {"wulff2020", other}
    assert len(table) == 6 * 12 * table["study"].n_unique()
    assert table.select("transcript", "response_index").is_unique().all()
    assert sum(len(shard.inputs) for shard in store.read_shards(tmp_path)) == 12 * table["study"].n_unique()
    facts = pl.concat(map(pl.read_parquet, (tmp_path / "transcripts").iterdir()))
    assert facts["transcript"].is_unique().all() and len(facts) == 12 * table["study"].n_unique()


def test_two_processes_with_different_dtypes_do_not_mix(tmp_path, scorer):
    "Both began on an empty store; the second to save is refused."
    other = LanguageModelScorer(models.load_model("tiny-llama", "bfloat16", "cpu"))
    first = store.Run(tmp_path, scorer.name, scorer.identity())
    second = store.Run(tmp_path, other.name, other.identity())
    (one,) = dataset(1)
    store.save_shard(first, [one], scorer.score([one]), {one.key: scorer.digest(one)})
    with pytest.raises(StoreError, match="dtype"):
        store.save_shard(second, [one], other.score([one]), {one.key: other.digest(one)})


def test_a_restart_that_was_killed_goes_on(tmp_path, scorer, monkeypatch):
    "Another cut for all transcripts, killed after the first shard: the same command does what is left, and only that."
    run_score(scorer, dataset(6), tmp_path, limits=Limits(2))
    short, original, saved = replace(scorer, max_tokens=40), run_module.save_shard, []

    def interrupted(*arguments):
        if saved:
            raise KeyboardInterrupt
        saved.append(original(*arguments))

    monkeypatch.setattr(run_module, "save_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_score(short, dataset(6), tmp_path, overwrite=True, limits=Limits(2))
    monkeypatch.setattr(run_module, "save_shard", original)
    assert len(store.read_scores(tmp_path)) == 36
    with pytest.raises(StoreError, match="max_tokens"):
        run_score(short, dataset(6), tmp_path)
    asked = []
    monkeypatch.setattr(LanguageModelScorer, "stream", lambda self, some: asked.extend(some) or language_model._stream(self, some))
    run_score(short, dataset(6), tmp_path, overwrite=True)
    assert len(asked) == 4 and {shard.identity.must["max_tokens"] for shard in store.read_shards(tmp_path)} == {40}


@pytest.mark.parametrize("moment", ["facts", "probe", "old shard"])
def test_a_crash_between_two_files_leaves_no_wrong_rows(tmp_path, scorer, monkeypatch, moment):
    "Between facts and scores, or between the new shard and the removal of the old one; then the old command again."
    class Crash(BaseException):
        pass

    def crash(*arguments):
        raise Crash

    old, new = dataset(2), data.Dataset([replace(one, text=one.text + "The end.") for one in dataset(2)])
    run_score(scorer, old, tmp_path)
    before = rows(tmp_path)
    name = {"facts": "save_probe", "probe": "write_shard", "old shard": "drop_superseded"}[moment]
    original = getattr(write_module, name)
    monkeypatch.setattr(write_module, name, crash)
    with pytest.raises(Crash):
        if moment == "old shard":
            run_score(replace(scorer, max_tokens=40), old, tmp_path, overwrite=True)
        else:
            run_score(scorer, new, tmp_path)
    monkeypatch.setattr(write_module, name, original)
    if moment == "old shard":
        assert store.read_scores(tmp_path)["reason"].to_list().count("cut") > 0 and len(rows(tmp_path)) == 12
        run_score(scorer, old, tmp_path, overwrite=True)
    else:
        assert rows(tmp_path) == before
        run_score(scorer, old, tmp_path)
    assert rows(tmp_path) == before
    run_score(scorer, new, tmp_path)
    assert store.read_scores(tmp_path)["transcript"].n_unique() == 4 and len(rows(tmp_path)) == 24


def test_a_killed_restart_goes_on_after_another_change(tmp_path, scorer, monkeypatch):
    "Killed half-way, then the code changes: the same command does everything that is not of the present code."
    run_score(scorer, dataset(4), tmp_path)
    run_score(scorer, dataset(2), tmp_path, overwrite=True)
    monkeypatch.setattr(identity_module, "source_hash", lambda: "edited")
    run_score(scorer, dataset(4), tmp_path, overwrite=True)
    assert {shard.identity.proved["code"] for shard in store.read_shards(tmp_path)} == {"edited"}


def test_a_disk_without_hard_links(tmp_path, scorer, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    run_score(scorer, dataset(2), tmp_path)
    assert len(store.read_scores(tmp_path)) == 12 and not list((tmp_path / ".parts").iterdir())


def test_a_refused_run_leaves_nothing(tmp_path, scorer):
    with pytest.raises(ValueError, match="No format 'chats'"):
        scoring.score("tiny-llama", dataset(1), tmp_path / "store", "chats")
    with pytest.raises(UserError, match="has no chat template"):
        scoring.score("tiny-llama", dataset(1), tmp_path / "store", "chat")
    with pytest.raises(ValueError, match="not -7"):
        run_score("tiny-llama", dataset(1), tmp_path / "store", max_tokens=-7)
    assert not (tmp_path / "store").exists()
