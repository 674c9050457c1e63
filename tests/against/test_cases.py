"""The inputs from public bug reports and real files, if the folder of cases lies beside that of the transcripts: each does what is right."""
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest

from psych201 import data, scoring, store
from psych201.contribute.report import check
from psych201.participants import people
from psych201.scoring.baselines import make_baseline
from psych201.workbench.cli import main


@pytest.fixture
def case(studies_path, tmp_path):
    "Function: number of a case -> a copy of its folder; what cannot travel is made there."
    folder = studies_path.parent / "cases" / "files"
    if not folder.is_dir():
        pytest.skip(f"no cases: there is no folder {folder}")

    def copy(number: str):
        source, = folder.glob(f"{number}_*")
        target = tmp_path / source.name
        shutil.copytree(source, target, copy_function=shutil.copyfile)
        (target / "README").unlink()
        for script, program in (("make.py", sys.executable), ("make.sh", "sh")):
            if (target / script).is_file():
                subprocess.run([program, script], cwd=target, check=True)
                (target / script).unlink()
        return target

    return copy


def kinds(folder) -> list[tuple[str, str | None]]:
    return [(finding.kind, finding.field) for finding in check(folder).findings()]


@pytest.mark.parametrize("number, words", [("01", "git lfs pull"), ("20", "fetch")])
def test_what_is_no_file_is_named_and_the_rest_is_read(case, number, words, capsys):
    assert main(["data", str(case(number))]) == 1
    told = capsys.readouterr()
    assert "near_study" in told.out and words in told.err


@pytest.mark.parametrize("number, transcripts, responses", [("02", 2, 4), ("16", 1, 2), ("23", 1, 1), ("24", 2, 4), ("34", 2, 3)])
def test_tables_of_trials(case, number, transcripts, responses):
    dataset = data.load_data(case(number))
    assert len(dataset) == transcripts and sum(len(one.spans) for one in dataset) == responses
    assert number not in ("16", "24") or all(time >= 400 for one in dataset for time in one.reaction_times)


def test_a_state_is_no_outcome(case):
    for one in data.load_data(case("04")):
        outcomes, behind = scoring.read_outcomes(one), one.text.split(">>")[1:]
        if "planet" in one.text:
            assert outcomes == [None if "planet" in text.partition("\n")[0] else "given 1" in text for text in behind]
        else:
            assert outcomes == ["won" in text for text in behind]


def test_options_that_begin_alike(case, packaged, tmp_path):
    dataset = data.load_data(case("06"))
    scoring.score(packaged("smollm2-135m-instruct"), dataset, tmp_path / "runs", option_logprobs="all", progress="none")
    rows, (shard,) = store.read_scores(tmp_path / "runs"), store.read_shards(tmp_path / "runs")
    logprobs, options = np.array(rows["option_logprobs"].to_list()), list(shard.options.values())[0]
    assert np.exp(logprobs).sum(1).max() <= 1 + 1e-6
    best = [options[place] for place in logprobs.argmax(1)]
    assert np.mean([one == given for one, given in zip(best, rows["response"])]) == pytest.approx(0.65)


def test_a_chat_keeps_its_roles(case, packaged, tmp_path):
    scoring.score(packaged("smollm2-135m-instruct"), data.load_data(case("08")), tmp_path / "runs", format="chat", progress="none")
    assert store.read_scores(tmp_path / "runs")["nll"].to_list() == pytest.approx([1.111, 0.779], abs=5e-4)


@pytest.mark.parametrize("number, expected", [
    ("10", {("field names", "participant_id"), ("field names", "RT"), ("reaction times", "RT")}), ("13", {("reaction times", "RTs")}), ("14", {("field names", "participant_id")}),
    ("21", {("markers", "text")}), ("28", {("several sessions", "session_id")}), ("29", {("two versions", None)}), ("31", {("markers", "text"), ("shown markers", "text")}),
    ("32", {("markers", "text")}), ("35", set())])
def test_check_finds_what_is_there_and_nothing_else(case, number, expected):
    assert set(kinds(case(number))) == expected


def test_keys_that_are_the_same_for_all(case):
    folder = case("11")
    assert [kinds(folder / name) for name in ("digits", "lower", "words")] == [[("same options", "text")]] * 3


def test_messages_name_the_cause(case):
    said = lambda number: " ".join(finding.message for finding in check(case(number)).findings())
    assert "<<K but you were too" in said("21") and "with other texts" in said("29")
    assert "write one flat list" in said("13") and "in words" in said("31")
    changed = said("32")
    assert all(mark in changed for mark in ("&lt;&lt;A&gt;&gt;", "«A»", "＜＜A＞＞", "\\<\\<A\\>\\>")) and changed.count("write `<<A>>`") == 4


def test_brackets_in_a_path(case, tmp_path):
    folder = tmp_path / "archive [v1]"
    assert main(["convert", str(case("18") / "study"), "--output", str(folder)]) == 0
    assert len(data.load_data(folder)) == len(data.load_data(case_study := tmp_path / "18_brackets_in_the_path" / "study")) > 0 and case_study.is_dir()


def test_two_questions_have_their_own_chance(case):
    dataset = list(data.load_data(case("26")))
    rows = make_baseline("baseline:uniform", dataset).score(dataset)
    keys = rows.filter(rows["response"].is_in(["1", "2"]))
    assert keys["nll"].to_list() == pytest.approx([math.log(2)] * len(keys)) and len(keys) > 10


def test_many_free_answers(case):
    dataset = list(data.load_data(case("30")))
    for name in ("baseline:kt", "baseline:ctw"):
        assert len(make_baseline(name, dataset).score(dataset)) == 8_000


def test_the_place_of_a_laboratory(case):
    assert set(people(data.load_data(case("35")))["nationality"]) == {""}
