"""The store under fire: kills, two processes, other code, other readers, old and damaged files."""
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet
import pytest

import psych201
from psych201 import data, inputs, models, scoring, store
from psych201.scoring import identity as identity_module, language_model, run as run_module
from psych201.store import shards, write as write_module
from psych201.models.language_model import Card
from psych201.inputs.options import choose_options
from psych201.scoring.language_model import LanguageModelScorer
from psych201.scoring.run import Limits
from psych201.errors import StoreError
from psych201.transcripts import Transcript
from psych201.errors import UserError

FULL = bool(os.environ.get("PSYCH201_FULL"))


def session(participant: int, study: str = "wulff2020", trials: int = 6) -> Transcript:
    "A short session, another for each participant."
    random.seed(f"{study} {participant}")
    text = "".join(f"Round {n}: you play machine <<{random.choice('JF')}>>. It pays {random.randint(0, 9)}.\n" for n in range(trials))
    return Transcript(text, study, "exp1", str(participant), participant)


def dataset(n: int, study: str = "wulff2020") -> data.Dataset:
    return data.Dataset([session(participant, study) for participant in range(n)])


def rows(folder) -> list[tuple]:
    return store.read_scores(folder).rows()


@pytest.fixture(scope="session")
def tiny() -> models.LanguageModel:
    return models.load_model("tiny-llama", dtype="float32", device="cpu")


@pytest.fixture
def scorer(tiny) -> LanguageModelScorer:
    return LanguageModelScorer(tiny)


def run_score(scorer, transcripts, folder, **options):
    return scoring.score(scorer, transcripts, folder, progress="none", **options)


PROCESS = """
import random, sys
sys.path.insert(0, "tests")
from test_store import Limits, dataset, models, scoring
model, people = models.load_model("tiny-llama", device="cpu"), dataset(int(sys.argv[2]), sys.argv[3])
if "wait" in sys.argv: print("ready", flush=True); sys.stdin.readline()
scoring.score(model, people, sys.argv[1], progress="none", limits=Limits(int(sys.argv[4])))
"""


def process(*words, wait: bool = False) -> subprocess.Popen:
    "A process of its own that scores: folder, number of transcripts, study, transcripts of a shard."
    command = [sys.executable, "-c", PROCESS, *map(str, words), *(["wait"] if wait else [])]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            cwd=Path(__file__).parent.parent)


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


def test_every_reader_sees_the_same_rows(tmp_path, tiny):
    "Also for a model whose name holds a slash, which must be found by that name."
    named = replace(tiny, card=Card("Qwen/Qwen3-8B", "Qwen3", 8.0, "reasoning"))
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


MUST = {"weights", "config", "tokenizer", "dtype", "format", "rule", "max_tokens"}
PROVED = {"code", "torch", "transformers", "tokenizers", "attention", "device", "compiled"}


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


def test_the_configuration_of_a_folder_is_part_of_the_identity(tmp_path, tiny):
    "The same weights under another normalisation, activation or rotary base give other numbers."
    folder = tmp_path / "mine"
    tiny.model.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    identity = lambda: LanguageModelScorer(models.load_model(str(folder), "float32", "cpu")).identity().must
    config, first = json.loads((folder / "config.json").read_text()), identity()
    for change in ({"rms_norm_eps": 1e-2}, {"hidden_act": "relu"}, {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}):
        (folder / "config.json").write_text(json.dumps(config | change))
        assert {key for key, value in identity().items() if first[key] != value} == {"config"}, change


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
    name = {"facts": "save_probe", "probe": "write_shard", "old shard": "drop_hidden"}[moment]
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


def test_a_restart_counts_also_where_the_clock_is_behind(tmp_path, scorer, monkeypatch):
    run_score(scorer, dataset(2), tmp_path)
    monkeypatch.setattr(write_module.time, "time_ns", lambda: 5)
    run_score(replace(scorer, max_tokens=40), dataset(2), tmp_path, overwrite=True)
    assert {shard.identity.must["max_tokens"] for shard in store.read_shards(tmp_path)} == {40}
    assert "cut" in store.read_scores(tmp_path)["reason"].to_list()


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


def test_a_killed_restart_goes_on_after_another_change(tmp_path, scorer, monkeypatch):
    "Killed half-way, then the code changes: the same command does everything that is not of the present code."
    run_score(scorer, dataset(4), tmp_path)
    run_score(scorer, dataset(2), tmp_path, overwrite=True)
    monkeypatch.setattr(identity_module, "source_hash", lambda: "edited")
    run_score(scorer, dataset(4), tmp_path, overwrite=True)
    assert {shard.identity.proved["code"] for shard in store.read_shards(tmp_path)} == {"edited"}


def test_two_models_that_share_a_folder(tmp_path, tiny):
    for name in ("a/b", "a--b"):
        run_score(replace(tiny, card=Card(name, "a", 1.0, "base")), dataset(2), tmp_path)
    assert store.read_scores(tmp_path)["model"].value_counts().sort("model").rows() == [("a--b", 12), ("a/b", 12)]


def test_a_disk_without_hard_links(tmp_path, scorer, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    run_score(scorer, dataset(2), tmp_path)
    assert len(store.read_scores(tmp_path)) == 12 and not list((tmp_path / ".parts").iterdir())


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


def test_options_of_a_baseline_are_those_of_all_that_is_stored(tmp_path):
    "The second part of a study brings an answer that the first did not have."
    first, second = (data.Dataset([Transcript(text, "wulff2020", "exp1", who, row)]) for row, (text, who) in
                     enumerate((("Say <<J>> or <<F>>.", "1"), ("Say <<J>>, <<K>> or <<F>>.", "2"))))
    scoring.score("baseline:uniform", first, tmp_path, progress="none")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="1 stored transcripts of wulff2020 are not in these data, and baseline:uniform"):
            scoring.score("baseline:uniform", second, tmp_path, progress="none", overwrite=overwrite)
    scoring.score("baseline:uniform", data.Dataset([*first, *second]), tmp_path, progress="none", overwrite=True)
    assert store.read_scores(tmp_path)["nll"].to_list() == pytest.approx([np.log(3)] * 5)
    scoring.score("baseline:uniform", second, tmp_path / "two", progress="none")
    scoring.score("baseline:uniform", data.Dataset([replace(first[0], experiment="exp2")]), tmp_path / "two", progress="none")


def picks(participant: int, answers: str) -> Transcript:
    "A session of one-letter answers."
    return Transcript("Pick. " + ", ".join(f"<<{answer}>>" for answer in answers), "wulff2020", "exp1", str(participant))


def test_options_are_those_of_all_people_and_named_in_each_shard(tmp_path, tiny, capsys):
    "Also where a part is scored first; what was stored with fewer options is said, and scored anew only when asked for."
    people = data.Dataset([picks(1, "JJ"), picks(2, "FJ")])
    scoring.score(tiny, data.Dataset(people.transcripts[:1], source=people), tmp_path, progress="none")
    assert store.read_scores(tmp_path)["option_logprobs"].list.len().to_list() == [2, 2]
    more = data.Dataset([*people, picks(3, "K")])
    scoring.score(tiny, more, tmp_path, progress="lines")
    said = capsys.readouterr().err
    assert "for 1 of 1 experiments the log-probability of each option is kept." in said
    assert "1 transcripts were scored without these options (the first is Transcript(wulff2020, participant 1" in said
    table = store.scan_choices(tmp_path).collect()
    names = {person: set(rows["option"]) for (person,), rows in table.group_by("person")}
    assert names == {"wulff2020/exp1/1": {"F", "J"}, "wulff2020/exp1/2": {"F", "J", "K"}, "wulff2020/exp1/3": {"F", "J", "K"}}
    chosen = table.filter("chosen").join(store.read_scores(tmp_path), on=["transcript", "response_index"])
    np.testing.assert_allclose(-chosen["logprob"], chosen["nll"], atol=1e-5)
    assert len(chosen) == 5
    scoring.score(tiny, data.Dataset(more.transcripts[2:], source=more), tmp_path, overwrite=True, progress="none")
    assert store.scan_choices(tmp_path).collect().sort(*table.columns).equals(table.sort(*table.columns)), "a shard that loses a transcript keeps its names"
    scoring.score(tiny, more, tmp_path, overwrite=True, progress="lines")
    assert set(store.read_scores(tmp_path)["option_logprobs"].list.len()) == {3}
    assert "without these options" not in capsys.readouterr().err


def test_options_of_a_restart_that_was_killed_are_read_once(tmp_path, tiny, monkeypatch):
    people = data.Dataset([picks(1, "JF"), picks(2, "FJ")])
    scoring.score(tiny, people, tmp_path, progress="none")
    for module in (write_module, run_module):
        monkeypatch.setattr(module, "drop_hidden", lambda run: None)
    scoring.score(tiny, data.Dataset(people.transcripts[:1], source=people), tmp_path, overwrite=True, progress="none")
    assert len(store.read_shards(tmp_path)) == 2
    assert len(store.scan_choices(tmp_path).collect()) == 2 * 2 * 2


def test_one_answer_is_no_choice(tmp_path, tiny):
    scoring.score(tiny, data.Dataset([picks(1, "JJ")]), tmp_path, progress="none")
    assert store.read_scores(tmp_path)["option_logprobs"].null_count() == 2 and not store.read_shards(tmp_path)[0].options


@pytest.mark.parametrize("mode, expected", [("none", [None] * 4), ("single", [None] * 2 + [2] * 2), ("all", [3] * 2 + [2] * 2)])
def test_which_options_are_scored(tmp_path, tiny, capsys, mode, expected):
    "Numbers are several tokens; said before is what they cost."
    people = data.Dataset([replace(picks(1, ["123", "17"]), experiment="exp0"), replace(picks(2, ["4", "123"]), experiment="exp0"), picks(3, "JF")])
    scoring.score(tiny, data.Dataset([people[0], people[2]], source=people), tmp_path, option_logprobs=mode, progress="lines")
    assert ("1 transcripts are read twice, with " in capsys.readouterr().err) == (mode == "all")
    table = store.read_scores(tmp_path).sort("experiment", "response_index")
    assert table["option_logprobs"].list.len().to_list() == expected
    if mode == "all":
        rows = table.head(2)
        given = [rows["option_logprobs"][n][["123", "17", "4"].index(rows["response"][n])] for n in (0, 1)]
        np.testing.assert_allclose([-value for value in given], rows["nll"], atol=1e-4)


def test_options_of_models_that_keep_their_own_attention(tiny, capsys):
    "The same numbers, read one by one."
    transcript = Transcript("You say <<twelve points>>, then <<J>>, <<ten>>.", "wulff2020", "exp1", "7")
    options = choose_options([transcript], tiny.tokenizer, "all")
    theirs = models.load_model("tiny-llama", dtype="float32", device="cpu")
    theirs.model.set_attn_implementation("eager")
    one, other = (LanguageModelScorer(model, options=options).score([transcript]) for model in (tiny, theirs))
    np.testing.assert_allclose(one["option_logprobs"].to_list(), other["option_logprobs"].to_list(), atol=1e-4)
    np.testing.assert_allclose([-one["option_logprobs"][n][list(options["wulff2020", "exp1"]).index(answer)]
                                for n, answer in enumerate(transcript.responses)], one["nll"], atol=1e-4)
    scoring.score(theirs, data.Dataset([transcript]), tmp := mkdtemp(), option_logprobs="all", progress="lines")
    assert "this kind of model reads each anew" in capsys.readouterr().err and store.read_scores(tmp)["option_logprobs"].null_count() == 0


def test_a_proof_looks_at_options_too(tmp_path, tiny, monkeypatch):
    people = data.Dataset([picks(1, "JF"), picks(2, "FJ")])
    scorer = LanguageModelScorer(tiny, options=choose_options(people, tiny.tokenizer))
    run_score(scorer, data.Dataset(people.transcripts[:1]), tmp_path)
    monkeypatch.setattr(identity_module, "source_hash", lambda *_: "other")
    original = LanguageModelScorer.score
    moved = pl.col("option_logprobs").list.eval(pl.element() + 0.5)
    monkeypatch.setattr(LanguageModelScorer, "score", lambda self, some: original(self, some).with_columns(moved))
    with pytest.raises(StoreError, match="0.5 nats away"):
        run_score(scorer, people, tmp_path)
    other = replace(scorer, options={("wulff2020", "exp1"): {"J": scorer.options["wulff2020", "exp1"]["J"], "K": (7,)}})
    run_score(other, people, tmp_path)  # of other options, which nobody can compare


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


def test_a_restart_replaces_what_it_was_asked_for_and_no_more(tmp_path, scorer):
    "Of three transcripts in one shard one is scored anew; when the others were written stays as it was."
    run_score(scorer, dataset(3), tmp_path)
    written = {key: shard.written for key, shard in store.Run(tmp_path, scorer.name, scorer.identity()).held().items()}
    run_score(scorer, data.Dataset(dataset(3)[1:2]), tmp_path, overwrite=True)
    again = {key: shard.written for key, shard in store.Run(tmp_path, scorer.name, scorer.identity()).held().items()}
    assert {key for key in written if written[key] != again[key]} == {dataset(3)[1].key}


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


def test_a_refused_run_leaves_nothing(tmp_path, scorer):
    with pytest.raises(ValueError, match="No format 'chats'"):
        scoring.score("tiny-llama", dataset(1), tmp_path / "store", "chats")
    with pytest.raises(UserError, match="has no chat template"):
        scoring.score("tiny-llama", dataset(1), tmp_path / "store", "chat")
    with pytest.raises(ValueError, match="not -7"):
        run_score("tiny-llama", dataset(1), tmp_path / "store", max_tokens=-7)
    assert not (tmp_path / "store").exists()


def test_a_response_that_cannot_be_encoded_is_a_row(tmp_path, tiny):
    "In the middle of a study, with a vocabulary of letters only: all others are scored."
    from test_tokens import no_byte_fallback

    letters = LanguageModelScorer(replace(tiny, tokenizer=no_byte_fallback("always")))
    odd = Transcript("you play <<j>> <<🙂>> <<f>> <<>>", "wulff2020", "exp1", "99")
    summary = run_score(letters, data.Dataset([odd, replace(odd, text="you play <<j>>")]), tmp_path)
    assert summary.loc["wulff2020", ["responses", "scored", "empty", "not_encodable"]].tolist() == [5, 3, 1, 1]
    table = store.read_scores(tmp_path).filter(transcript=odd.key)
    assert table["reason"].to_list() == [None, "not_encodable", None, "empty"]
    assert table["nll"].is_null().to_list() == [False, True, False, True]
