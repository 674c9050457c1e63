"""Files that are not there (pointers, links to nowhere, pipes) and paths with brackets and braces: named, counted, and the rest goes on."""
import json
import os

import pytest

from psych201 import data, store
from psych201.workbench.cli import main

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"


def study(folder, name: str = "near", people: int = 3):
    "A study of people who each press two keys."
    (folder / name).mkdir(parents=True)
    records = [dict(text=f"Press F or J. <<{'FJ'[who % 2]}>> <<J>>", experiment="exp1", participant=str(who)) for who in range(people)]
    (folder / name / "prompts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def spoil(folder, how: str) -> str:
    "Puts a file beside the good study that cannot be read; returns what is said of it."
    (folder / "far").mkdir()
    file = folder / "far" / ("prompts.jsonl.zip" if how == "packed pointer" else "prompts.jsonl")
    if "pointer" in how:
        file.write_text(POINTER)
        return "run `git lfs pull`"
    if how == "link":
        file.symlink_to("../.git/annex/objects/not-there.jsonl")
        return "which is not there; fetch the file first"
    os.mkfifo(file)
    return "is no file"


@pytest.mark.parametrize("how", ["pointer", "packed pointer", "link", "pipe"])
def test_the_rest_goes_on(tmp_path, capsys, how):
    source = study(tmp_path / "clone")
    message = spoil(source, how)
    notebooks = [["describe", str(source), "--output", str(tmp_path / "page")], ["score", "baseline:kt", "--data", str(source), "--output", str(tmp_path / "out")]]
    for words in (["data", str(source)], ["check", str(source)], ["convert", str(source), "--output", str(tmp_path / "archive")],
                  *(notebooks if how == "link" else [])):
        status, (out, err) = main(words), capsys.readouterr()
        assert status == 1, words
        if words[0] in ("data", "check", "convert"):
            assert message in out + err, words
    assert how != "link" or len(store.read_scores(tmp_path / "out" / "scores")) == 6
    assert len(data.load_data(tmp_path / "archive")) == 3
    assert message in (tmp_path / "archive" / "problems.csv").read_text()


def test_a_source_that_was_named_stops_the_command(tmp_path, capsys):
    source = study(tmp_path / "clone")
    message = spoil(source, "pointer")
    for words in (["score", "baseline:kt", "--output", str(tmp_path / "out"), "--data", str(source / "near"), str(source / "far" / "prompts.jsonl")],
                  ["score", "baseline:kt", "--output", str(tmp_path / "out"), "--data", str(source / "far")],
                  ["score", "baseline:kt", "--output", str(tmp_path / "out"), "--data", str(source / "near"), str(source / "far")],
                  ["convert", str(source / "near"), str(source / "far"), "--output", str(tmp_path / "archive")],
                  ["convert", str(source / "far"), "--output", str(tmp_path / "archive")]):
        assert main(words) and message in capsys.readouterr().err
    assert not (tmp_path / "out" / "scores").exists() and not (tmp_path / "archive").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path):
    source = study(tmp_path / "clone")
    (study(tmp_path / "clone", "secret") / "secret" / "prompts.jsonl").chmod(0)
    loaded = data.load_data(source, "collect")
    assert len(loaded) == 3 and "cannot be opened (Permission denied)" in str(loaded.problems[0])


@pytest.mark.parametrize("name", ["archive [v1]?", "{model}*"])
def test_every_path_is_taken_literally(tmp_path, name):
    "As a source, an archive, a store and the folder of notebooks and figures."
    source, archive, output = study(tmp_path / name), tmp_path / f"archive {name}", tmp_path / f"out {name}"
    assert main(["convert", str(source), "--output", str(archive)]) == 0
    assert len(data.load_data(archive)) == 3 and data.open_data(archive).counts()["responses"].sum() == 6
    assert main(["score", "baseline:kt", "baseline:uniform", "--data", str(archive), "--output", str(output)]) == 0
    assert len(store.read_scores(output / "scores")) == 12
    assert main(["paper", "--output", str(output), "--figures", "nll_by_size"]) in (0, 1)
    assert list((output / "notebooks").glob("*nll_by_size*")) or list(output.rglob("*nll_by_size*"))
