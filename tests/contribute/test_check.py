"""psych201 check: each planted mistake is found where it stands, and in real studies nothing that is not there."""
import gzip
import json
import random
import re
import zipfile
from collections import Counter

import pytest

from psych201 import data
from psych201.contribute.record_checks import KINDS
from psych201.contribute.report import as_text, check
from psych201.workbench.cli import main

GOOD = {"text": "Which? You press <<J>>. It pays 1.\nWhich? You press <<F>>. It pays 2.", "experiment": "exp1", "participant": 1, "RTs": [310, 420]}


def study(folder, *records, name="prompts.jsonl", **how):
    "A folder with a file of these records (or raw lines)."
    folder.mkdir(parents=True, exist_ok=True)
    lines = [record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records]
    (folder / name).write_text("\n".join(lines), **{"encoding": "utf-8"} | how)
    return folder


def with_text(text: str, **more) -> dict:
    return GOOD | {"text": text, "RTs": None} | more


BROKEN = {
    "names in capitals": ({"Text": "<<J>>", "Experiment": "e", "participant": 1}, "fields", r"misses 'text' \('Text' is there.*'experiment' \('Experiment' is there"),
    "another name": ({"prompt": "<<J>>", "experiment": "e", "worker": 1}, "fields", r"'text' \(is it 'prompt'\?\).*'participant' \(is it 'worker'\?\)"),
    "nothing": ({}, "fields", "found nothing"),
    "no object": ("[1, 2]", "fields", "JSON list"),
    "null": ("null", "file", "is null"),
    "no JSON": ('{"text": "a"', "file", "is not JSON"),
    "nested": (with_text("You <<press <<J>>"), "markers", "inside a response"),
    "never closed": (with_text("You press <<J"), "markers", "never closed"),
    "none marked": (with_text("You press J"), "markers", "no response is marked"),
    "opened by one": (with_text("You press <J>>. Then <<F>>."), "one bracket", "opened by a single"),
    "closed by one": (with_text("You press <<J>. Then <<F>>."), "one bracket", "closed by a single"),
    "Prolific": (GOOD | {"participant": "5f3c1e2ab4d09c7712ab34cd"}, "identifiers", "Prolific"),
    "Mechanical Turk": (GOOD | {"participant": "A2XK9PLM3QRS7T"}, "identifiers", "Mechanical Turk"),
    "mail in a list": (GOOD | {"notes": ["from anna.b@uni-x.org"]}, "identifiers", "e-mail"),
    "half a character": ('{"text": "<<J>> \\ud83d", "experiment": "e", "participant": 1}', "fields", "half a character"),
    "three brackets": (with_text("tag <<<A>>> here"), "three brackets", "<<<A>>>"),
    "space before": (with_text("You press << J>>."), "white space", "<< J>>"),
    "space behind": (with_text("You press <<J >>."), "white space", "<<J >>"),
    "line break inside": (with_text("You say <<yes\n>>."), "white space", r"<<yes\\n>>"),
    "empty": (with_text("You say <<>>. <<J>>"), "empty", "1 of 2 responses, the first at character 8"),
    "too few times": (GOOD | {"RTs": [310]}, "reaction times", "1 values for 2 responses"),
    "times as texts": (GOOD | {"RTs": ["310", "420"]}, "reaction times", "2 texts, such as '310'"),
    "times missing": (GOOD | {"RTs": [None, None]}, "reaction times", "holds no number"),
    "times as NaN": (json.dumps(GOOD | {"RTs": [float("nan")] * 2}), "reaction times", "holds no number"),
    "time as a number": (GOOD | {"RTs": 310}, "reaction times", "holds a number, not a list"),
    "seconds": (GOOD | {"RTs": [.31, .42]}, "time unit", "seconds"),
    "bare NaN": (json.dumps(GOOD | {"age": float("nan")}), "not a number", "NaN"),
    "Windows": (with_text("You press <<J>>.\r\nYou press <<F>>."), "line ends", "1 carriage returns"),
    "opening lost": (with_text("You press J>>. You press F>>. You press <<J>>."), "lost opening", "2 are closed only, the first at character 11: `J>>`"),
    "markers explained": (with_text("Answers stand between << and >>. You press <<J>>."), "shown markers", "`<< and >>`"),
    "no JSON behind": ('{"text": "a', "file", "Unterminated string starting at character 10"),
    "stray": (with_text("More Details >> You press <<J>>."), "stray marker", "closes nothing"),
    "an age that is none": (GOOD | {"age": "young"}, "metadata", "1 of 1 values could not be read as age, such as 'young'"),
    "a form that is not said": (GOOD | {"stai_total": 40}, "form", "is taken for STAI-T"),
    "path": (GOOD | {"experiment": "C:\\Users\\anna\\exp1.csv"}, "name", "is a path"),
}


@pytest.mark.parametrize("record, kind, message", BROKEN.values(), ids=BROKEN)
def test_a_mistake_is_found_where_it_stands(tmp_path, record, kind, message):
    "Between two good records: the kind, the line, the words; nothing else is found, and the exit status fits the level."
    folder = study(tmp_path / "wulff2020", with_text("You choose <<L>>.", participant=2), record, with_text("You choose <<K>>.", participant=3))
    found = check(folder)
    kinds = Counter(finding.kind for finding in found.findings())
    assert kind in kinds and set(kinds) <= {kind, "not a number"}, kinds
    finding = next(finding for finding in found.findings() if finding.kind == kind)
    assert finding.line == (None if kind == "form" else 2) and finding.source.endswith("prompts.jsonl") and re.search(message, finding.message)
    assert found.status() == (KINDS[kind][0] == "error") and found.status(strict=True) == (KINDS[kind][0] != "hint")
    assert found.studies[0].records == 3 and finding.message in as_text(found)


def test_good_records_have_no_findings(tmp_path):
    assert check(study(tmp_path / "s", GOOD, with_text("You say <<no>>.", participant=2))).verdict() == "No findings. Nothing keeps it from being contributed."


def test_persons_and_texts_that_come_twice(tmp_path):
    "The same text of another person, another text of the same person, one record in two files."
    folder = study(tmp_path / "s", GOOD, GOOD | {"participant": 2}, with_text("<<K>>"), with_text("<<L>>", experiment="exp2"))
    found = check(folder)
    assert [(f.kind, f.line) for f in found.findings()] == [("same text", 2), ("same person", 3), ("several experiments", None)]
    assert "line 1, participant 1" in found.findings()[0].message and "1 of 2 ids occur in up to 2 experiments" in found.findings()[2].message
    study(folder, GOOD | {"age": 3}, with_text("<<M>>", participant=9), name="prompts2.jsonl")
    twice = [f for f in check(folder).findings() if f.kind == "twice"]
    study(folder, GOOD | {"participant": 77}, name="prompts3.jsonl")  # the text of another person in another file is no record that stands twice
    assert [f.kind for f in check(folder).findings() if f.source.endswith("prompts3.jsonl")] == ["same text"]
    assert len(twice) == 1 and twice[0].line == 1 and twice[0].source.endswith("prompts2.jsonl") and "prompts.jsonl, line 1" in twice[0].message


ENCODINGS = {
    "UTF-16": (lambda text: text.encode("utf-16"), "UTF-16"),
    "Latin-1": (lambda text: text.replace("Which", "Wählen").encode("latin-1"), "not UTF-8"),
    "indented": (lambda text: json.dumps(json.loads(text.split("\n")[0]), indent=2).encode(), "several lines"),
    "a list": (lambda text: json.dumps([json.loads(line) for line in text.split("\n")], indent=1).encode(), "several lines"),
    "a table": (lambda text: b"text,experiment,participant\nhello,e,1\n", "a table"),
    "gzip cut off": (lambda text: gzip.compress(f"{text}\n".encode())[:-9], "cannot be unpacked"),
}


@pytest.mark.parametrize("write, message", ENCODINGS.values(), ids=ENCODINGS)
def test_files_that_are_no_jsonl(tmp_path, write, message):
    "One error a file, where the whole file is wrong; one a line, where lines are."
    folder = study(tmp_path / "s", *(GOOD | {"participant": n} for n in range(30)))
    content = write((folder / "prompts.jsonl").read_text())
    (folder / "prompts.jsonl").unlink()
    (folder / ("prompts.jsonl.gz" if content[:2] == b"\x1f\x8b" else "prompts.jsonl")).write_bytes(content)
    found = check(folder)
    assert found.status() == 1 and message in found.findings()[0].message
    if message == "not UTF-8":
        assert found.count("error") == 30 and len(found.findings()) == 10 and "and 20 more" in as_text(found)
    else:
        assert found.count("error") == 1


def test_patterns_over_sessions(tmp_path):
    "Answers that are given away, keys that are the same for everyone, a response that stands in the instructions."
    draw = random.Random(1)

    def session(line: str, keys: str, before: str = "") -> str:
        trials = [draw.choice(keys) for _ in range(20)]
        return before + "\n".join(line.format(first=keys[0], second=keys[1], x=x) + f" You press <<{x}>>. You win {draw.randint(1, 99)}." for x in trials)

    def kinds(line, same=False, before="") -> set:
        folder = tmp_path / str(draw.random())
        keys = ["JF" if same else "".join(draw.sample("ABCDEFGHKLM", 2)) for _ in range(25)]
        study(folder, *(with_text(session(line, pair, before), participant=n) for n, pair in enumerate(keys)))
        return {finding.kind for finding in check(folder).findings()}

    assert kinds("{first} or {second}?") == set()
    assert kinds("The answer is {x}.") == kinds("{x} is right, says the sheet.") == {"answer given"}
    assert kinds("Your choice was {x}.\n") == {"answer given"}
    assert kinds("{first} or {second}?", same=True) == {"same options"}
    assert kinds("{first} or {second}?", before="Answers are marked <<so>>.\n") == {"same response"}


def test_one_session_that_gives_its_answers_away(tmp_path):
    "Counted over all sessions it would not show."
    draw = random.Random(1)

    def session(cue: str) -> str:
        return "\n".join(f"J or F? {cue.format(x=x)}You press <<{x}>>." for x in draw.choices("JF", k=20))

    folder = study(tmp_path / "s", *(with_text(session("It is {x}!\n" if n == 5 else "").replace("J or F? It", "It"), participant=n) for n in range(9)))
    (finding,) = check(folder).findings()
    assert finding.kind == "answer given" and "in 1 of 9 sessions" in finding.message and "line 6" in finding.message


def test_what_is_passed_over_is_named(tmp_path):
    "A study that nobody reads, and a file that holds what another one holds."
    record = json.dumps(GOOD)
    for name in ("a2020", "b2020"):
        study(tmp_path / name, GOOD)
    (tmp_path / "c2020").mkdir()
    (tmp_path / "c2020" / "prompts.json").write_text(f"[{record}]")
    with zipfile.ZipFile(tmp_path / "a2020" / "prompts.jsonl.zip", "w") as archive:
        archive.writestr("prompts.jsonl", record)
    found = check(tmp_path)
    assert found.passed_over[0] == str(tmp_path / "c2020") and found.passed_over[1].endswith("holds what another file holds") and len(found.passed_over) == 2
    assert "c2020" in as_text(found) and found.status() == 0
    with zipfile.ZipFile(tmp_path / "b2020" / "prompts.jsonl.zip", "w") as archive:
        archive.writestr("prompts.jsonl", record.replace("pays 1", "pays 3"))
    found = check(tmp_path / "b2020")  # an error says all of it
    assert found.passed_over == [] and "differs from" in found.findings()[0].message


def test_lengths_say_when_they_are_guessed(tmp_path, capsys):
    folder = study(tmp_path / "s", with_text("x" * 30_000 + "<<J>>"), with_text("<<J>>", participant=2))
    assert main(["check", str(folder)]) == 0
    assert "of 2 transcripts, 1 than 8,192 (Llama 3); the longest has 10,002 tokens; tokens are guessed from characters" in capsys.readouterr().out
    assert main(["check", str(folder), "--tokenizer", "tiny-llama"]) == 0
    assert "guessed" not in capsys.readouterr().out


def test_many_studies_json_and_page(tmp_path, capsys):
    "Two studies in a zip and one that is not there: JSON that a program reads, a page that shows the first transcript."
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a2020/prompts.jsonl", json.dumps(GOOD | {"text": "<b>You</b> press <<J>>.", "age": 31, "RTs": None}))
        archive.writestr("b2020/prompts.jsonl", json.dumps(with_text("<< J>>")))
    status = main(["check", str(tmp_path / "two.zip"), str(tmp_path / "gone"), "--json", "-", "--html", str(tmp_path / "check.html")])
    told = json.loads(capsys.readouterr().out)
    assert (status, told["status"], told["errors"], told["warnings"]) == (1, 1, 1, 1)
    assert [one["study"] for one in told["studies"]] == ["a2020", "b2020"] and told["studies"][0]["fields"]["age"] == {"records": 1, "example": 31, "standard": "age"}
    assert told["studies"][1]["findings"][0]["kind"] == "white space" and told["problems"][0]["message"].startswith("does not exist")
    page = (tmp_path / "check.html").read_text()
    assert "&lt;b&gt;You&lt;/b&gt; press &lt;&lt;<mark" in page and page.count("<details") >= 4 and "<script" not in page


def test_new_writes_a_study_that_passes(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine2026"]) == 0 and main(["check", "mine2026", "--strict"]) == 0
    assert "HINT: template (1)" in capsys.readouterr().out  # nobody has written a title yet
    (tmp_path / "mine2026" / "study.toml").write_text('title = "Mine"')
    assert main(["check", "mine2026", "--strict"]) == 0 and "No findings" in capsys.readouterr().out
    assert main(["new", "mine2026"]) == 1 and "is there already" in capsys.readouterr().err
    dataset = data.load_data(tmp_path / "mine2026")
    assert [len(one.spans) for one in dataset] == [4, 4] and dataset[0].reaction_times and dataset[0].responses != dataset[1].responses


@pytest.fixture(scope="module")
def real(studies_path):
    "The check of all real studies."
    return {one.study: one for one in check(studies_path).studies}


def test_the_oddities_of_real_studies_are_found(real, studies):
    "What is known of these studies, and nothing else above a hint."
    totals = {study: dict(one.totals) for study, one in real.items()}
    assert totals["haridi2024memory"]["empty"] == sum(not all(map(str.strip, t.responses)) for t in studies if t.study == "haridi2024memory")
    assert totals["busch2024_stroop"] == {"reaction times": 125}  # numbers as texts
    assert totals["guenther2024substitutions"]["not a number"] == 1
    assert totals["little2024functionestimation"]["markers"] == 2
    assert totals["thoma2025riskychoice"] == {"same text": 17}
    assert real["spektor2019contexteffects"].totals["several experiments"] == 1 and len(real["spektor2019contexteffects"].participants) == 33
    assert {study for study, one in real.items() if one.totals["several experiments"]} == {
        "spektor2019contexteffects", "guenther2024associations_sentences_texts", "guenther2024substitutions"}
    errors = {study for study, one in real.items() if one.level("error")}
    warned = {study for study, one in real.items() if one.level("warning")}
    assert errors == {"little2024functionestimation"}
    assert warned == {"busch2024_stroop", "guenther2020LDT", "guenther2024substitutions", "haridi2024memory", "thoma2025riskychoice"}
    assert {kind for one in real.values() for kind in one.totals} <= {
        "empty", "white space", "reaction times", "not a number", "markers", "same text", "same options", "several experiments", "name", "length", "form"}
    assert [study for study, one in real.items() if one.totals["form"]] == ["rosenbaum2022valence"]  # bis, beside bas_drive


def test_counts_of_real_studies(real, studies):
    summary = data.summarise(studies)
    for study, one in real.items():
        row = summary.loc[study]
        assert (one.transcripts, len(one.persons), one.responses, len(one.distinct), one.characters) == (
            row["transcripts"], row["participants"], row["responses"], row["distinct_responses"], row["characters"])
    assert sum(one.records for one in real.values()) == len(studies) + len(studies.problems)


def test_reports_name_nobody(tmp_path, capsys):
    "Ids and addresses are cut wherever a report would repeat them: findings, examples of fields, JSON and page."
    who = "5f3c1e2ab4d09c7712ab34cd"
    folder = study(tmp_path / "s", GOOD | {"participant": who, "worker": who, "mail": "anna.b@uni-x.org", "age": who}, GOOD | {"participant": who, "RTs": None}, GOOD | {"participant": 3})
    main(["check", str(folder), "--json", str(tmp_path / "c.json"), "--html", str(tmp_path / "c.html")])
    for report in (capsys.readouterr().out, (tmp_path / "c.json").read_text(), (tmp_path / "c.html").read_text()):
        assert "5f3c…" in report and who not in report and "uni-x" not in report
