"""Fuzzing of the readers: whatever lies in a file, there are transcripts and clean errors, memory is bounded, and nothing is written.

`make test` tries a few hundred inputs of each kind; `make test-full` 20,000 lines and 4,000 files.
"""
import gzip
import io
import json
import resource
import zipfile
from pathlib import Path

import pytest

from helpers import FULL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psych201 import data
from psych201.data import files
from psych201.contribute.record_checks import KINDS, check_record
from psych201.data.files import check_beginning, read_jsonl
from psych201.participants.table import field_report, people
from psych201.contribute.report import as_dict, as_text, check
from psych201.errors import DataError, UserError
from psych201.transcripts import parse_record

LINES = settings(max_examples=20_000 if FULL else 400, deadline=None, suppress_health_check=list(HealthCheck))
FILES = settings(max_examples=4_000 if FULL else 150, deadline=None, suppress_health_check=list(HealthCheck))
GOOD = [{"text": "Which? You press <<J>>. It pays 1.\nWhich? You press <<F>>.", "experiment": "exp1", "participant": 1, "RTs": [310, 420.5], "age": 31, "gender": "F", "stai_total": 40},
        {"text": "Say a word. <<né 日本>> <<>>", "experiment": "../exp2", "participant": "p-7", "RTs": None, "nationality": "British", "tags": ["a", {"b": None}]}]
SPICE = [b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\\ud83d", b"\\u0000", b"<<", b">>", b"<<<", b"<", b">", b"\n", b"\r\n", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 3000, b"{" * 50,
         b'"', b"\\", b'"text":', b'"participant": {}', b'"RTs": "fast"', b'"RTs": [[1]]', b"null", b"true", b"\xe2\x80\xa8", b",", b"}", b"]", b"<|im_end|>", b"%2F", b"/", b"../../etc", b"5f3c1e2ab4d09c7712ab34cd"]


@st.composite
def mutated(draw, content: bytes, most: int = 4) -> bytes:
    "A content with a few cuts, insertions, copies and flips."
    for _ in range(draw(st.integers(0, most))):
        place, length = draw(st.integers(0, len(content))), draw(st.integers(0, 40))
        kind = draw(st.sampled_from(["insert", "cut", "copy", "flip", "truncate", "replace"]))
        spice = draw(st.sampled_from(SPICE) | st.binary(max_size=4))
        if kind in ("insert", "replace"):
            content = content[:place] + spice + content[place + (length if kind == "replace" else 0):]
        elif kind == "cut":
            content = content[:place] + content[place + length:]
        elif kind == "copy":
            content = content[:place] + content[place:place + length] * 2 + content[place + length:]
        elif kind == "truncate" and draw(st.booleans()):
            content = content[:place]
        elif kind == "flip" and place < len(content):
            content = content[:place] + bytes([content[place] ^ (1 << draw(st.integers(0, 7)))]) + content[place + 1:]
    return content


def lines_of(*records) -> bytes:
    return b"\n".join(json.dumps(record, ensure_ascii=False).encode() for record in records)


@pytest.fixture(autouse=True, scope="module")
def memory():
    "All of it together stays within bounds."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_500_000  # KB: a line may have 64 MB


@given(st.data())
@LINES
def test_lines(source):
    "Every line is a transcript or an error that names its line; what can be read can be checked, described and kept."
    content = source.draw(mutated(lines_of(*GOOD, GOOD[0])))
    errors, transcripts = [], []
    try:
        check_beginning(content[:4096], "x.jsonl")
    except DataError as error:
        errors.append(error)
    for row, (line, record) in enumerate(read_jsonl(io.BytesIO(content), "x.jsonl", errors.append)):
        transcript = None
        try:
            transcript = parse_record(record, "s", row, "x.jsonl", line) if record is not None else None
        except DataError as error:
            errors.append(error)
        assert (transcript is None) <= any(error.problem.line in (line, None) for error in errors)
        told = list(check_record(record, transcript)) if record is not None else []
        assert all(kind in KINDS and message.endswith(".") for kind, _, message in told)
        transcripts += [transcript] if transcript else []
    assert all("\n" not in str(error) and error.problem.message.endswith(".") for error in errors)
    for one in transcripts:
        assert one.spans and all(one.text[start - 2:start] == "<<" and one.text[end:end + 2] == ">>" for start, end in one.spans)
        again = data.from_row(data.to_row(one))
        assert (again.key, again.spans, again.participant, str(again.metadata)) == (one.key, one.spans, one.participant, str(one.metadata))
    assert len(people(transcripts)) == len({one.person for one in transcripts}) and (field_report(transcripts)["unread"] >= 0).all()


NAMES = st.sampled_from(["prompts.jsonl", "a/prompts.jsonl", "../outside.jsonl", "../../outside.jsonl", "/tmp/outside.jsonl", "a/../../outside.jsonl", "C:\\outside.jsonl", "x.JSONL", "exp1/b.jsonl", "con.jsonl",
                         "b.jsonl.gz", "inner.zip", "__MACOSX/._a.jsonl", ".hidden.jsonl", "né.jsonl", "a\nb.jsonl", "a" * 200 + ".jsonl", "deep/" * 40 + "c.jsonl", "notes.txt", "./prompts.jsonl", "study.toml", "a/study.toml", "../study.toml"])
STUDY = b'title = "A"\ndomain = "Memory"\n[trials]\nfile = "a/t.csv"\ntemplate = "<<{key}>>"\nparticipant = "who"\n'


@st.composite
def zips(draw, depth: int = 0) -> bytes:
    "A zip with names of all kinds, maybe with zips in it, maybe damaged."
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as held:
        for name in draw(st.lists(NAMES, max_size=4, unique=True)):
            inside = draw(st.sampled_from([STUDY, STUDY[:28]])) if name.endswith(".toml") else lines_of(*GOOD)
            content = draw(zips(depth + 1)) if name.endswith(".zip") and depth < 4 else draw(mutated(inside, 2))
            held.writestr(name, gzip.compress(content) if name.endswith(".gz") else content)
    return draw(mutated(stream.getvalue(), 2))


def tree(folder: Path) -> dict:
    "All files below a folder and their contents."
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@given(st.data())
@FILES
def test_files(tmp_path_factory, source):
    "Folders of mutated files: reading, checking and converting end in data or clean errors, and write nothing but the archive."
    around = tmp_path_factory.mktemp("fuzz")
    folder = around / "studies" / "wulff2020"
    folder.mkdir(parents=True)
    name = source.draw(st.sampled_from(["prompts.jsonl", "prompts.jsonl.zip", "x.zip", "prompts.jsonl.gz", "study.toml", "a.jsonl"]))
    content = source.draw(zips() if name.endswith(".zip") else mutated(gzip.compress(lines_of(*GOOD))) if name.endswith(".gz") else mutated(b'title = "A"\ndomain = "Memory"\n') if name == "study.toml" else mutated(lines_of(*GOOD)))
    (folder / name).write_bytes(content)
    if source.draw(st.booleans()):
        (folder / "more.jsonl").write_bytes(lines_of(GOOD[0]))
    before = tree(around)
    loaded = data.load_data(around / "studies", on_error="collect")
    found = check(around / "studies")
    assert all("\n" not in str(problem).replace(str(problem.source), "") for problem in loaded.problems)
    assert sum(one.transcripts for one in found.studies) <= len(loaded) + sum(one.totals["twice"] + one.totals["same text"] for one in found.studies) + len(loaded.problems)
    assert found.status() or not loaded.problems, loaded.problems
    json.dumps(as_dict(found)), as_text(found)
    assert tree(around) == before
    try:
        data.convert(around / "studies", around / "archive")
        assert sorted(one.key for one in data.load_data(around / "archive")) == sorted(one.key for one in loaded)
    except (DataError, UserError):
        assert not (around / "archive").exists()
    assert set(tree(around)) - set(before) == set(tree(around / "archive")) and not Path("/tmp/outside.jsonl").exists()


def test_a_zip_of_zips_of_zips_ends(tmp_path):
    "Each level unfolds to a thousand copies of the next; what is opened is three levels, and no more than so many names."
    content = lines_of(GOOD[0])
    for level in range(5):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as held:
            for n in range(10):
                held.writestr(f"s{n}{'.zip' if level else '.jsonl'}", content)
        content = stream.getvalue()
    (tmp_path / "all.zip").write_bytes(content)
    loaded = data.load_data(tmp_path, on_error="collect")
    assert not len(loaded) and "zips within each other" in str(loaded.problems[0])


def test_a_gzip_that_unfolds_without_end(tmp_path, monkeypatch):
    "Blank lines by the gigabyte: the reading stops at the limit of a file."
    from psych201 import data

    monkeypatch.setattr(files, "MAX_FILE", 1 << 22)
    (tmp_path / "prompts.jsonl.gz").write_bytes(gzip.compress(lines_of(GOOD[0]) + b"\n" + b" \n" * (1 << 23)))
    loaded = data.load_data(tmp_path, on_error="collect")
    assert len(loaded) == 1 and "unfolds to more than" in str(loaded.problems[0])
