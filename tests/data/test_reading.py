"""Reading: everything real loads, everything broken is named with file, line and field."""
import json
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psych201 import data
from psych201.data import files, sources
from psych201.errors import DataError
from psych201.transcripts import MarkerError, find_responses
from psych201.workbench.cli import main

GOOD = {"text": "You press <<J>>. It pays 1.", "experiment": "exp1", "participant": 1}


def write(folder, *lines) -> str:
    "A study's prompts.jsonl with these lines (records or raw text)."
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "prompts.jsonl").write_text(text, encoding="utf-8")
    return str(folder)


def without(name: str) -> dict:
    "The good record without one of its fields."
    return {key: value for key, value in GOOD.items() if key != name}


BROKEN_RECORDS = {
    "not JSON": ('{"text": "You press <<J>>."', None, "is not JSON"),
    "not an object": ('["You press <<J>>."]', None, "JSON list"),
    "no text": (without("text"), "text", "is missing"),
    "no experiment": (without("experiment"), "experiment", "is missing"),
    "no participant": (without("participant"), "participant", "is missing"),
    "empty text": (GOOD | {"text": ""}, "text", "is empty"),
    "null participant": (GOOD | {"participant": None}, "participant", "is empty"),
    "text of another type": (GOOD | {"text": 7}, "text", "holds a int"),
    "no response": (GOOD | {"text": "You press J."}, "text", "no response is marked"),
    "unclosed": (GOOD | {"text": "You press <<J. Then <<"}, "text", "not closed before the next one"),
    "unclosed at the end": (GOOD | {"text": "You press <<J>> then <<F"}, "text", "never closed"),
    "half a character": (GOOD | {"text": "<<J>> \ud83d"}, "text", "lone surrogate"),
    "half a character in the metadata": (GOOD | {"mood": ["a", "\ud83d"]}, "mood", "lone surrogate"),
    "brackets within brackets": ("[" * 100_000, None, "cannot be read as JSON"),
}


@pytest.mark.parametrize("record,field,message", BROKEN_RECORDS.values(), ids=BROKEN_RECORDS)
def test_a_broken_record_is_named(tmp_path, record, field, message):
    "One error with file, line and field; with collect, the good records beside it."
    study = write(tmp_path / "wulff2020", GOOD, record, GOOD | {"participant": 2})
    with pytest.raises(DataError, match=message) as error:
        data.load_data(study)
    problem = error.value.problem
    assert (problem.line, problem.field) == (2, field)
    assert problem.source.endswith("prompts.jsonl") and "\n" not in str(error.value)
    collected = data.load_data(study, on_error="collect")
    assert [(t.participant, t.row) for t in collected] == [("1", 0), ("2", 2)]
    assert collected.problems == [problem]


def broken_zip(folder):
    "A zip cut off in the middle."
    with zipfile.ZipFile(folder / "prompts.jsonl.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("prompts.jsonl", "\n".join(json.dumps(GOOD | {"participant": n}) for n in range(500)))
    content = (folder / "prompts.jsonl.zip").read_bytes()
    (folder / "prompts.jsonl.zip").write_bytes(content[: len(content) // 2])


def damaged_zip(folder):
    "A zip whose content does not fit its checksum."
    with zipfile.ZipFile(folder / "prompts.jsonl.zip", "w") as archive:
        archive.writestr("prompts.jsonl", json.dumps(GOOD))
    content = (folder / "prompts.jsonl.zip").read_bytes()
    (folder / "prompts.jsonl.zip").write_bytes(content.replace(b"You press", b"You Press", 1))


BROKEN_FILES = {
    "missing file": (lambda folder: None, "no_such.jsonl", "does not exist"),
    "missing folder": (lambda folder: None, "no/such/folder", "does not exist"),
    "empty folder": (lambda folder: None, "", "holds no study"),
    "empty file": (lambda folder: (folder / "prompts.jsonl").write_text("\n"), "", "holds no record"),
    "broken zip": (broken_zip, "", "cannot be unpacked"),
    "damaged zip": (damaged_zip, "", "cannot be unpacked"),
    "no zip": (lambda folder: (folder / "prompts.jsonl.zip").write_text("text"), "", "cannot be unpacked"),
    "other file": (lambda folder: (folder / "prompts.csv").write_text("text"), "prompts.csv", "is no .jsonl or .zip"),
}


@pytest.mark.parametrize("damage,name,message", BROKEN_FILES.values(), ids=BROKEN_FILES)
def test_a_broken_file_is_named(tmp_path, damage, name, message):
    "One error that names the file; with collect it is listed, also beside a good source."
    folder = tmp_path / "wulff2020"
    folder.mkdir()
    damage(folder)
    source = str(folder / name)
    with pytest.raises(DataError, match=message) as error:
        data.load_data(source)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
    good = write(tmp_path / "good2020", GOOD)
    collected = data.load_data([source, good], on_error="collect")
    assert len(collected) == 1 and len(collected.problems) == 1


def test_a_bad_byte_spoils_one_record(tmp_path):
    folder = tmp_path / "wulff2020"
    write(folder, GOOD, GOOD | {"participant": 2})
    path = folder / "prompts.jsonl"
    path.write_bytes(path.read_bytes().replace(b"It pays", b"It \xff pays", 1))
    collected = data.load_data(folder, on_error="collect")
    assert [t.participant for t in collected] == ["2"]
    assert "line 1: is not UTF-8" in str(collected.problems[0])


def test_zips_as_contributors_make_them(tmp_path):
    "Several members, leftovers of macOS, other files, another name: all .jsonl once, in the order of their names."
    folder = tmp_path / "wulff2020"
    folder.mkdir()
    with zipfile.ZipFile(folder / "prompts_jsonl.zip", "w") as archive:
        archive.writestr("exp2/b.jsonl", json.dumps(GOOD | {"participant": 2}))
        archive.writestr("exp1/a.jsonl", json.dumps(GOOD))
        archive.writestr("__MACOSX/._a.jsonl", b"\x00\x05\x16\x07")
        archive.writestr("notes.json", "{}")
    assert [(t.participant, t.row, t.study) for t in data.load_data(tmp_path)] == [("1", 0, "wulff2020"), ("2", 1, "wulff2020")]
    (folder / "a.jsonl").write_text(json.dumps(GOOD))  # unpacked, and left beside its zip
    assert len(data.load_data(folder)) == 2
    (folder / "prompts.zip").write_bytes((folder / "prompts_jsonl.zip").read_bytes())  # and zipped once more
    assert len(data.load_data(folder)) == 2


def test_a_folder_is_named_after_itself(tmp_path, monkeypatch):
    write(tmp_path / "wulff2020", GOOD)
    monkeypatch.chdir(tmp_path / "wulff2020")
    assert [t.study for t in data.load_data(".")] == ["wulff2020"]


def test_a_local_folder_called_like_an_alias(tmp_path, monkeypatch):
    import pandas as pd

    (tmp_path / "psych201-test").mkdir()
    pd.DataFrame([GOOD | {"study": "mine"}]).to_parquet(tmp_path / "psych201-test" / "my-test.parquet")
    monkeypatch.chdir(tmp_path)
    assert [t.study for t in data.load_data("./psych201-test")] == ["mine"]


def test_what_people_typed_is_not_missing(tmp_path):
    "Answers that look like missing values stay answers; NaN in the JSON becomes a missing value of metadata."
    text = "Word: <<nan>> <<none>> <<na>> <<N/A>> <<>>"
    study = write(tmp_path / "s", json.dumps(GOOD | {"text": text, "age": "N/A", "mood": "none"})[:-1] + ', "wasi": NaN}')
    (transcript,) = data.load_data(study)
    assert transcript.responses == ["nan", "none", "na", "N/A", ""]
    assert transcript.metadata == {"mood": "none"}


def test_all_real_studies_load(studies, studies_path):
    "Every line of every study is a transcript or a listed problem."
    assert len(data.by_study(studies)) == len([path for path in studies_path.iterdir() if path.is_dir()])
    lines = 0
    for path in studies_path.glob("*/*.zip"):
        with zipfile.ZipFile(path) as archive:
            lines += sum(bool(line.strip()) for name in archive.namelist() if name.endswith(".jsonl")
                         for line in archive.read(name).split(b"\n"))
    assert len(studies) + len(studies.problems) == lines > 4_000
    assert {problem.message.partition(":")[0] for problem in studies.problems} <= {"holds no `<<`"}
    assert not studies.passed_over


def test_responses_of_real_studies_are_those_between_the_markers(studies):
    "A second, plainer reading gives the same answers."
    for transcript in data.select(studies, limit=20):
        plain = [piece.partition(">>")[0] for piece in transcript.text.split("<<")[1:]]
        assert transcript.responses == plain


shown = st.text(st.characters(exclude_characters="<>", exclude_categories=["Cs"]))


@given(st.lists(st.tuples(shown, shown)), shown)
def test_markers_round_trip(parts, end):
    "Responses put between markers are found again, whatever they are."
    text = "".join(f"{before}<<{response}>>" for before, response in parts) + end
    assert [text[slice(*span)] for span in find_responses(text)] == [response for _, response in parts]


@given(st.text("<> aé\n"))
def test_spans_are_ordered_and_marked_or_refused(text):
    "For any soup of markers: an error with a position, or disjoint spans between `<<` and `>>`."
    try:
        spans = find_responses(text)
    except MarkerError as error:
        assert text[error.position:].startswith("<<")
        return
    end = -2
    for span in spans:
        assert end + 2 <= span.start - 2 <= span.start <= span.end
        assert text[span.start - 2:span.start] == "<<" and text[span.end:].startswith(">>")
        assert "<<" not in text[slice(*span)] or text[span.start - 2:].startswith("<<<")
        end = span.end


def test_the_sample_is_what_its_notebook_writes(tmp_path):
    "The committed sample, byte for byte."
    from psych201.workbench.runner import run_notebook

    run_notebook("make_sample", tmp_path / "make_sample.ipynb", {"output": str(tmp_path / "sample")}, verbose=False)
    written = {path.relative_to(tmp_path / "sample"): path.read_bytes() for path in (tmp_path / "sample").glob("*/*")}
    shipped = {path.relative_to(data.sample_path()): path.read_bytes() for path in data.sample_path().glob("*/*")}
    assert written == shipped and len(shipped) == 4


def test_the_hub_is_asked_for_the_published_names(monkeypatch):
    "Aliases and ids go to `datasets` as they should; study, row and missing values come back."
    import datasets

    asked = []

    def load_dataset(name, split, revision):
        asked.append((name, split, revision))
        rows = [GOOD | {"study": "wulff2020/exp1.csv", "gender": "N/A", "clinical diagnosis": "none", "RTs": None}]
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(sources, "_check_hub", lambda name, revision: None)
    for name, full in (("psych201", ""), ("psych201-test", "-test"), ("psych201-discrete", "-discrete"),
                       ("psych201-discrete-test", "-discrete-test"), ("marcelbinz/Psych-201-test", "-test")):
        (transcript,) = data.load_data(name, revision="main")
        assert asked[-1] == (f"marcelbinz/Psych-201{full}", "train", "main")
        assert (transcript.study, transcript.metadata) == ("wulff2020/exp1.csv", {"clinical diagnosis": "none"})


def test_a_hub_row_without_a_study_is_named(tmp_path):
    import pandas as pd

    pd.DataFrame([GOOD | {"study": "a"}, GOOD | {"study": None}]).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataError, match="line 2, field 'study': is missing"):
        data.load_data(tmp_path)
    assert len(data.load_data(tmp_path, on_error="collect")) == 1


def test_a_zip_that_unfolds_to_hundreds_of_megabytes(tmp_path):
    "0.2 MB of zip, 200 MB of one line: an error with a place, in bounded memory, and what stands before it is read."
    import resource

    record = json.dumps({"text": "x <<J>>", "experiment": "e", "participant": 1})
    with zipfile.ZipFile(tmp_path / "prompts.jsonl.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("prompts.jsonl", "w", force_zip64=True) as stream:
            stream.write(record.encode() + b"\n")
            for _ in range(200):
                stream.write(b" " * 2**20)
    assert (tmp_path / "prompts.jsonl.zip").stat().st_size < 1e6
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loaded = data.load_data(tmp_path, on_error="collect")
    assert len(loaded) == 1 and "prompts.jsonl, line 2: is longer than 64 MB" in str(loaded.problems[0])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 170_000  # KB


def test_a_file_beyond_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_FILE", 1000)
    (tmp_path / "prompts.jsonl").write_text("\n" * 2_000_000)
    loaded = data.load_data(tmp_path, on_error="collect")
    assert "unfolds to more than" in str(loaded.problems[0])


def test_studies_in_folders_and_capitals(tmp_path):
    "A study with a folder for each experiment, and one whose file ends in capitals."
    line = lambda n: json.dumps({"text": f"x <<{n}>>", "experiment": "e", "participant": 1})
    for name, n in (("study1/exp1/prompts.jsonl", 1), ("study1/exp2/prompts.jsonl", 2), ("study2/prompts.JSONL", 3)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(line(n))
    loaded = data.load_data(tmp_path)
    assert [(t.study, t.responses) for t in loaded] == [("study1", ["1"]), ("study1", ["2"]), ("study2", ["3"])]
    assert loaded.passed_over == []


@pytest.mark.parametrize("name", ["exp2/prompts.jsonl", "exp2/PROMPTS.JSONL", "exp2/session.jsonl", "a/b/c.zip"])
@pytest.mark.parametrize("many", [False, True])
def test_more_transcripts_below_a_study_are_not_lost(tmp_path, name, many):
    "Raw data below a study are named and left alone; transcripts there are an error, also in a folder of studies."
    study = tmp_path / "studies" / "study1" if many else tmp_path / "study1"
    path = study / name
    path.parent.mkdir(parents=True)
    record = json.dumps({"text": "x <<1>>", "experiment": "e", "participant": 1})
    (study / "prompts.jsonl").write_text(record)

    def write(content: str) -> None:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("raw.jsonl", content)
        else:
            path.write_text(content)

    write('{"trial": 1}')
    loaded = data.load_data(study.parent if many else study)
    assert len(loaded) == 1 and loaded.passed_over == [str(path)]
    write(record.replace("1>>", "2>>"))
    with pytest.raises(DataError, match="holds transcripts itself, and more in .*" + path.name):
        data.load_data(study.parent if many else study)


def test_a_study_has_one_name_however_it_is_given(tmp_path):
    "Two studies with a folder for each experiment, given together or one by one."
    for study in ("smith2020", "jones2021"):
        for part in ("exp1", "Experiment-2b"):
            write(tmp_path / study / part, GOOD | {"text": f"{part} <<J>>."})
    assert {(t.study, t.text) for t in data.load_data(tmp_path)} == {
        (t.study, t.text) for study in ("smith2020", "jones2021") for t in data.load_data(tmp_path / study)}
    write(tmp_path / "exp3", GOOD)  # a study that happens to be called so, beside others
    assert set(data.summarise(data.load_data(tmp_path)).index) == {"smith2020", "jones2021", "exp3"}
    assert data.summarise(data.load_data([tmp_path / "smith2020", tmp_path / "jones2021"]))["transcripts"].to_dict() == {
        "smith2020": 2, "jones2021": 2}


def test_links_are_followed_and_have_their_own_names(tmp_path):
    for n, name in enumerate(("x1", "x2")):
        write(tmp_path / name / "prompts", GOOD | {"text": f"{n} <<J>>."})
    (tmp_path / "all" / "brown2019" / "exp1").mkdir(parents=True)
    write(tmp_path / "all" / "brown2019" / "exp1", GOOD)
    for link, target in (("smith2020", "x1/prompts"), ("jones2021", "x2/prompts"), ("brown2019/exp2", "x2/prompts"), ("gone", "none"),
                         ("brown2019/exp1/exp3", "all/brown2019")):  # the last one leads in a circle
        (tmp_path / "all" / link).symlink_to(tmp_path / target)
    loaded = data.load_data(tmp_path / "all")
    assert data.summarise(loaded)["transcripts"].to_dict() == {"brown2019": 2, "jones2021": 1, "smith2020": 1}
    assert loaded.passed_over == [str(tmp_path / "all" / "gone")]


def test_hidden_files_are_left_out_in_zips_too(tmp_path):
    study = tmp_path / "study"
    write(study, GOOD)
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for n, name in enumerate(("prompts.jsonl", ".ipynb_checkpoints/prompts.jsonl", ".hidden.jsonl", "__MACOSX/._prompts.jsonl")):
            archive.writestr(name, json.dumps(GOOD | {"text": f"{n} <<J>>."}))
    assert [t.text for t in data.load_data(tmp_path / "study.zip")] == ["0 <<J>>."]


def test_raw_data_in_parquet_are_no_transcripts(tmp_path):
    "A study may have its raw data beside it; transcripts in both forms are an error, since one would be lost."
    import pandas as pd

    write(tmp_path / "study", GOOD)
    (tmp_path / "study" / "data").mkdir()
    pd.DataFrame({"trial": [1, 2]}).to_parquet(tmp_path / "study" / "data" / "trials.parquet")
    assert len(data.load_data(tmp_path / "study")) == len(data.load_data(tmp_path)) == 1
    pd.DataFrame([GOOD | {"study": "s"}]).to_parquet(tmp_path / "study" / "data" / "trials.parquet")
    with pytest.raises(DataError, match="move one of the two away"):
        data.load_data(tmp_path / "study")


def test_a_study_in_which_nothing_can_be_read_is_no_detail(tmp_path):
    "As a whole, beside good ones: a file in UTF-16, say."
    write(tmp_path / "good", GOOD)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "prompts.jsonl").write_text(f"{json.dumps(GOOD)}\n" * 3, encoding="utf-16")
    loaded = data.load_data(tmp_path, on_error="collect")
    assert len(loaded) == 1
    (whole,) = [problem for problem in loaded.problems if problem.line is None]
    assert "bad" in whole.source and "is UTF-16" in whole.message
    write(tmp_path / "bad", "nonsense", "more of it")
    problems = data.load_data(tmp_path, on_error="collect").problems
    assert [problem.line for problem in problems] == [1, 2, None] and "no record that can be read, of 2" in problems[2].message


def test_only_the_studies_that_are_asked_for_are_read(tmp_path):
    write(tmp_path / "good", GOOD)
    write(tmp_path / "bad", GOOD, "not JSON")
    (tmp_path / "worse").mkdir()
    (tmp_path / "worse" / "prompts.zip").write_bytes(b"PK no zip")
    loaded = data.load_data(tmp_path, studies=["good"])
    assert len(loaded) == 1 and loaded.problems == []
    with pytest.raises(ValueError, match="No study 'god' here. There are: bad, good"):
        data.load_data(tmp_path, on_error="collect", studies=["god"])


@pytest.mark.parametrize("source, message", [
    ("studies/my_sudy", "is no folder here, and from the Hugging Face hub it could not be loaded"),
    ("~nobody0/y", "does not exist"), ("", "is no source")])
def test_a_misspelt_source_is_said_at_once(source, message, monkeypatch):
    import datasets
    import huggingface_hub

    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    monkeypatch.setattr(datasets, "load_dataset", None)  # would try again and again
    with pytest.raises(DataError, match=message):
        data.load_data(source)


@pytest.mark.parametrize("field", ["experiment", "participant"])
def test_half_a_character_is_named_in_every_field(tmp_path, field):
    with pytest.raises(DataError, match=f"field '{field}': holds half a character"):
        data.load_data(write(tmp_path / "study", json.dumps(GOOD | {field: "M\ud83d"})))


def test_a_data_set_prints_as_one_line():
    sample = data.load_data("sample")
    assert repr(sample) == "Dataset(20 transcripts, 2 studies, 640 responses)" and "\n" not in str(sample)


def zipped(path, **members) -> str:
    "A zip with these members (name -> content)."
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return str(path)


def test_studies_keep_their_names_however_they_are_packed(tmp_path):
    "The zip of a folder, gzipped files, a zip of zips, several studies in one folder: never the folder around them."
    import gzip

    record = lambda who: json.dumps(GOOD | {"participant": who})
    downloads = tmp_path / "Downloads"
    studies = lambda source: {study: len(rows) for study, rows in data.by_study(data.load_data(source)).items()}
    assert studies(zipped(downloads / "a.zip", **{"wulff2020/prompts.jsonl": record(1)})) == {"wulff2020": 1}
    assert studies(zipped(downloads / "frey2017.zip", **{"prompts.jsonl": record(1)})) == {"frey2017": 1}
    assert studies(downloads) == {"frey2017": 1, "wulff2020": 1}
    inner = (downloads / "frey2017.zip").read_bytes()
    both = zipped(tmp_path / "b.zip", **{"x/yu2019/prompts.jsonl.zip": inner, "x/yu2020/prompts.zip": inner, "x/raw.csv": "1"})
    assert studies(both) == {"yu2019": 1, "yu2020": 1}
    assert [t.study for t in data.load_data(both, studies=["yu2020"])] == ["yu2020"]
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "one2020.jsonl.gz").write_bytes(gzip.compress(record(1).encode()))
    (tmp_path / "mixed" / "two2020.jsonl.txt").write_text(record(1))
    assert studies(tmp_path / "mixed") == {"one2020": 1, "two2020": 1}
    assert studies(tmp_path / "mixed" / "one2020.jsonl.gz") == {"one2020": 1}
    (tmp_path / "mixed" / "two2020.jsonl").write_text(record(2))
    with pytest.raises(DataError, match="though the two are one file when unpacked") as error:
        data.load_data(tmp_path / "mixed")
    assert "remove" not in str(error.value)


def test_a_damaged_gzip_is_named(tmp_path):
    import gzip

    write(tmp_path / "good", GOOD)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "prompts.jsonl.gz").write_bytes(gzip.compress(json.dumps(GOOD).encode() * 100)[:-20])
    loaded = data.load_data(tmp_path, on_error="collect")
    assert len(loaded) == 1 and "prompts.jsonl.gz: cannot be unpacked" in str(loaded.problems[0])


def test_two_files_with_the_same_people_are_told(tmp_path, capsys):
    "An older export next to the new one: every reader says so, nothing is lost, and the status stays 0."
    people = [GOOD | {"participant": n, "text": f"You press <<J>>. It pays {n}."} for n in range(3)]
    write(tmp_path / "mine2026", *people)
    (tmp_path / "mine2026" / "prompts_old.jsonl").write_text("\n".join(json.dumps(one | {"text": one["text"].replace("pays", "paid")}) for one in people))
    dataset = data.load_data(tmp_path / "mine2026")  # a remark is never raised
    assert len(dataset) == 6 and len(dataset.remarks) == 1 and not dataset.problems
    assert "prompts_old.jsonl: holds 3 participants of exp1 who are in" in str(dataset.remarks[0])
    assert data.select(dataset, limit=1).remarks == dataset.remarks
    assert main(["data", str(tmp_path / "mine2026")]) == 0 and "with other texts; both files count" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "mine2026"), "--output", str(tmp_path / "archive")]) == 0
    assert "with other texts; both files count" in capsys.readouterr().err
    assert main(["score", "baseline:uniform", "--data", str(tmp_path / "mine2026"), "--output", str(tmp_path / "runs")]) in (0, 1)
    assert "with other texts; both files count" in capsys.readouterr().err
    days = [one | {"day": day} for day, one in enumerate(people[:1] * 2)]
    for day, one in enumerate(days):
        (tmp_path / "days2026").mkdir(exist_ok=True)
        (tmp_path / "days2026" / f"day{day}.jsonl").write_text(json.dumps(one | {"text": f"{day}: <<J>>"}))
    assert data.load_data(tmp_path / "days2026").remarks == []
