"""Archives: what goes in comes out, divided by person, read by study and split without the rest, in bounded memory."""
import json
import os
import signal
import subprocess
import sys

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psych201 import data, store
from psych201.data import archive
from psych201.errors import DataError, UserError
from psych201.transcripts import Transcript
from psych201.workbench.cli import main

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUE = st.recursive(st.none() | st.booleans() | st.integers(-2**60, 2**60) | st.floats(allow_nan=False) | TEXT, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=4)
TRANSCRIPT = st.builds(lambda shown, answers, *rest: Transcript(shown.replace("<", "") + "".join(f"<<{answer.replace('<', '').replace('>', '')}>>" for answer in answers), *rest),
                       TEXT, st.lists(TEXT, min_size=1, max_size=4), st.text(min_size=1, max_size=8).filter(lambda name: name.encode("utf-8", "ignore").decode() == name), TEXT, TEXT, st.integers(0, 2**40),
                       st.none() | st.lists(st.none() | st.integers(0, 5000) | st.floats(0, 5000) | st.sampled_from(["310", "", True]), max_size=4).map(tuple),
                       st.dictionaries(TEXT.filter(lambda name: name != "RTs"), VALUE, max_size=3))


@given(st.lists(TRANSCRIPT, max_size=5))
@settings(deadline=None, max_examples=150)
def test_a_transcript_comes_back_as_it_was(tmp_path_factory, transcripts):
    "Through a row and a Parquet file, whatever its text, times and metadata."
    path = tmp_path_factory.mktemp("archive") / "a.parquet"
    assert data.write_rows(path, map(data.to_row, transcripts), group=2) == len(transcripts)
    again = list(data.iterate([data.ArchiveFile("train", "a", path)], group=3))
    assert again == transcripts and [one.key for one in again] == [one.key for one in transcripts]


@given(st.lists(st.text(min_size=1, max_size=12).filter(lambda name: name.encode("utf-8", "ignore").decode() == name), min_size=1, unique=True))
def test_names_of_studies_stay_in_the_folder(tmp_path_factory, names):
    folder = tmp_path_factory.getbasetemp() / "names"
    paths = {data.file_of(folder, "train", name) for name in names}
    assert len(paths) == len(names) and {path.parent for path in paths} == {folder / "data" / "train"}
    assert all(os.path.normpath(path) == str(path) and not path.name.startswith(".") for path in paths)


@pytest.fixture(scope="module")
def real(studies_path, tmp_path_factory):
    "The archive of all real studies."
    folder = tmp_path_factory.mktemp("real") / "archive"
    table, problems = data.convert([studies_path], folder)
    return folder, table, problems


def test_an_archive_of_real_studies(real, studies):
    "The same transcripts and counts as from the contributions; sides as splits draws them; problems are listed."
    folder, table, problems = real
    loaded = data.load_data(folder)
    times = lambda one: [float(time) if isinstance(time, int) else time for time in one.reaction_times or ()]
    as_text = lambda some: {one.key: (one.row, one.study, one.experiment, str(times(one)), str(one.metadata)) for one in some}  # NaN is not NaN, but reads the same
    assert as_text(loaded) == as_text(studies) and len(loaded) == len(studies)
    assert [problem.line for problem in problems] == [problem.line for problem in studies.problems]
    assert pl.read_csv(folder / "problems.csv").height == len(problems)
    counts = table.group_by("study").agg(pl.col("transcripts", "participants", "responses", "characters").sum(), pl.col("distinct_responses").first()).to_pandas().set_index("study")
    summary = data.summarise(studies)
    for column in counts:
        assert counts[column].sort_index().tolist() == summary[column].sort_index().tolist(), column
    drawn = data.split(studies)["evaluation"]
    assert sorted(one.key for one in data.load_data(folder, split="evaluation")) == sorted(one.key for one in drawn)
    assert set(table["domain"]) > {"Memory", "Risky Choice"}


def test_datasets_reads_an_archive_by_its_card(real, studies):
    "With its splits; and what comes back through the hub's reader is what went in."
    import datasets

    folder, table, _ = real
    found = datasets.load_dataset(str(folder))
    assert {split: len(rows) for split, rows in found.items()} == dict(table.group_by("split").agg(pl.col("transcripts").sum()).rows())
    noted = []
    again = data.from_datasets(found["evaluation"], noted.append)
    assert not noted and sorted(one.key for one in again) == sorted(one.key for one in data.load_data(folder, split="evaluation"))
    some = {one.key: one for one in studies}
    assert all(one.metadata == some[one.key].metadata for one in again if one.study != "guenther2024substitutions")


def test_only_what_is_asked_for_is_read(real, monkeypatch):
    "A study and split opens one file; counts open none for its texts."
    folder, *_ = real
    opened, read = [], archive.pq.ParquetFile
    monkeypatch.setattr(archive.pq, "ParquetFile", lambda path, *rest: opened.append(path) or read(path, *rest))
    assert len(data.load_data(folder, studies=["dezfouli2019"], split="evaluation")) == 10
    lazy = data.open_data(folder, studies=["dezfouli2019"])
    assert (len(lazy), lazy.counts()["responses"].sum()) == (101, 132251)
    assert [path.stem for path in opened] == ["dezfouli2019"]
    assert "text" not in str(data.scan(folder).select("study", "responses").explain().split("PROJECT")[1:2]).lower()


def test_a_killed_conversion_leaves_no_archive(tmp_path):
    "Killed in the middle: the archive is not there, and the same command makes it."
    code = ("import sys, time\nfrom psych201 import data\nsample = data.load_data('sample').transcripts\n"
            "def slowly():\n    for one in sample:\n        yield one\n        print('one', flush=True)\n        time.sleep(.2)\n"
            "data.write_archive(slowly(), sys.argv[1])\n")
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "archive")], stdout=subprocess.PIPE, text=True)
    for _ in range(3):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["archive.part"]
    assert main(["convert", "sample", "--output", str(tmp_path / "archive")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["archive"] and len(data.load_data(tmp_path / "archive")) == 20


def test_a_failed_conversion_leaves_nothing(tmp_path):
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "prompts.jsonl").write_text(json.dumps({"text": "<<J>>", "experiment": "e", "participant": 1}))
    (tmp_path / "worse").mkdir()
    (tmp_path / "worse" / "prompts.zip").write_bytes(b"PK no zip")
    with pytest.raises(DataError, match="cannot be unpacked"):
        data.convert([tmp_path / "good", tmp_path / "worse"], tmp_path / "archive")
    with pytest.raises(DataError, match="does not exist|could not be loaded"):
        data.convert([tmp_path / "gone"], tmp_path / "archive")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good", "worse"]
    with pytest.raises(UserError, match="is there already"):
        data.convert([tmp_path / "good"], tmp_path / "worse")


def test_memory_does_not_grow_with_the_data(tmp_path):
    "40 and 400 MB of text take the same memory, and so do reading and counting them."
    code = """
import resource, sys
from psych201 import data
from psych201.transcripts import Transcript
def sessions(n):
    for i in range(n):
        yield Transcript(f"{i} " + f"You press <<{'JF'[i % 2]}>>. You win {i % 7}. " * 1000, f"study{i % 5}", "e", str(i))
table = data.write_archive(sessions(int(sys.argv[2])), sys.argv[1])
assert sum(len(one.text) > 20_000 for one in data.open_data(sys.argv[1])) == int(sys.argv[2]) == table["transcripts"].sum()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    small, large = (int(subprocess.run([sys.executable, "-c", code, str(tmp_path / str(n)), str(n)], check=True, capture_output=True, text=True).stdout) for n in (1000, 10_000 if os.environ.get("PSYCH201_FULL") else 4000))
    assert large < small + 150_000, (small, large)  # KB


def test_an_archive_is_scored_study_by_study(tmp_path, capsys):
    "By the command line, one split of it; the store holds the rows of the same transcripts scored at once."
    from psych201 import data

    assert main(["convert", "sample", "--output", str(tmp_path / "archive")]) == 0
    words = ["score", "tiny-llama", "baseline:uniform", "--data", str(tmp_path / "archive"), "--split", "evaluation", "--output", str(tmp_path / "lazy")]
    assert main(words) == 0
    keys = {one.key for one in data.load_data(tmp_path / "archive", split="evaluation")}
    assert main(["score", "tiny-llama", "--data", "sample", "--output", str(tmp_path / "whole")]) == 0
    lazy = store.read_scores(tmp_path / "lazy" / "scores", ["tiny-llama"]).sort("transcript", "response_index")
    whole = store.read_scores(tmp_path / "whole" / "scores", ["tiny-llama"]).filter(pl.col("transcript").is_in(list(keys))).sort("transcript", "response_index")
    assert set(lazy["transcript"]) == keys and (lazy["nll"] - whole["nll"]).abs().max() < 1e-5
    capsys.readouterr()
    assert main([*words[:-2], "--output", str(tmp_path / "x"), "--split", "test"]) == 1 and "has no split 'test'" in capsys.readouterr().err


def test_pushing_sends_the_folder_as_it_is(tmp_path, monkeypatch):
    import huggingface_hub

    sent = {}
    data.write_archive(data.load_data("sample"), tmp_path / "archive")
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, name, **how: sent.update(name=name, **how) or f"https://huggingface.co/datasets/{name}")
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", lambda self, **how: sent.update(how))
    assert data.push(tmp_path / "archive", "me/mine").endswith("me/mine")
    assert sent == {"name": "me/mine", "repo_type": "dataset", "private": True, "exist_ok": True, "repo_id": "me/mine", "folder_path": str(tmp_path / "archive")}


def test_seen_texts_evaluate_nothing(tmp_path):
    "What was trained on is named by another source."
    data.write_archive(data.load_data("sample"), tmp_path / "archive")
    drawn = data.load_data(tmp_path / "archive", split="evaluation")
    seen = {drawn[0].digest}
    again, _ = data.convert("sample", tmp_path / "again", seen=seen)
    kept = {one.digest for one in data.load_data(tmp_path / "again", split="evaluation")}
    assert drawn[0].digest not in kept and len(kept) == 2  # somebody else of the study is drawn
    assert again["transcripts"].sum() == 20
