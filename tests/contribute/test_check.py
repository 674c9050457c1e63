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
from psych201.participants import people
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
    "nested": (with_text("You <<press <<J>>"), "markers", r"`<<` at character 4 is not closed before the next one at 12"),
    "closed too late": (with_text("<<R>>. You open <<K but you were too slow.\nYou open <<K>>."), "markers", "at character 16 is not closed .*<<K but you were"),
    "arrows": (with_text("You see <<><< . You press <<left>>."), "markers", "`<<><<` at character 8 looks like arrows.*in words"),
    "a program": (with_text("The line is x << 3 and y >> 2. You answer <<8>>."), "shown markers", "1 of 2 responses.*`<< 3 and y >>`"),
    "markers of HTML": (with_text("You press &lt;&lt;J&gt;&gt;."), "markers", "`&lt;&lt;J&gt;&gt;` at character 10 has brackets of HTML: write `<<J>>`"),
    "guillemets": (with_text("You press «J»."), "markers", "`«J»` at character 10 .*write `<<J>>`"),
    "markers of full width": (with_text("You press ＜＜J＞＞."), "markers", "of full width: write `<<J>>`"),
    "backslashes": (with_text(r"You press \<\<J\>\>."), "markers", "with backslashes: write `<<J>>`"),
    "blank": (with_text("You say << >>. <<J>>"), "blank", "1 of 2 responses, the first at character 8"),
    "times in blocks": (GOOD | {"RTs": [[310], [420]]}, "reaction times", "holds lists within the list .*write one flat list"),
    "a name for people": ({"subject" if name == "participant" else name: value for name, value in GOOD.items()}, "field names", "is 'participant' in Psych-201"),
    "a name for times": ({"RT" if name == "RTs" else name: value for name, value in GOOD.items()}, "field names", "is 'RTs' in Psych-201"),
    "computer": (GOOD | {"note": "131.152.1.77"}, "identifiers", "the address of a computer"),
    "birth": (GOOD | {"Birth date": "12.4.1990"}, "identifiers", "holds a date of birth; give the age"),
    "a name": (GOOD | {"LastName": "Meier"}, "personal", "names of people are left out"),
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
    assert finding.line == (None if kind in ("form", "field names") else 2) and finding.source.endswith("prompts.jsonl") and re.search(message, finding.message)
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


def test_ids_that_count_up_are_no_chats(tmp_path):
    "Participants 1, 2, 3 under another name, in the order of the lines; a chat that names nobody is told so, and who names them is not."
    folder = study(tmp_path / "s", *(with_text(f"You press <<{key}>>.") | {"participant": None, "participant_id": n} for n, key in enumerate("JKL", 1)))
    lines = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    study(folder, *({name: value for name, value in line.items() if value is not None} for line in lines))
    assert [finding.kind for finding in check(folder).findings()] == ["field names"]
    chats = [{"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "J"}]} for n in range(3)]
    study(folder, *chats)
    assert [finding.kind for finding in check(folder).findings()] == ["field names"] + ["nobody"] * 3
    study(folder, *(chat | {"subject": n} for n, chat in enumerate(chats, 1)))
    assert {(finding.kind, finding.field) for finding in check(folder).findings()} == {("field names", "messages"), ("field names", "subject")}


def test_messages_use_the_names_of_the_file(tmp_path):
    "A field that is read under another name is reported under its own."
    folder = study(tmp_path / "s", {"text": "<<J>> <<K>>", "experiment": "e", "participant_id": "anna.b@uni-x.org", "RT": [310]})
    assert {(finding.kind, finding.field) for finding in check(folder).findings()} == {
        ("field names", "participant_id"), ("field names", "RT"), ("reaction times", "RT"), ("identifiers", "participant_id")}


def test_several_records_of_a_person(tmp_path):
    "Sessions that a field tells apart; an older copy beside; a session in pieces."
    def records(texts, **told):
        return [with_text(f"{text} <<J>>", participant=n, **{name: value[n] for name, value in told.items()}) for n, text in enumerate(texts)]

    def kinds(*files):
        folder = tmp_path / str(random.random())
        for number, lines in enumerate(files):
            study(folder, *lines, name=f"prompts{number}.jsonl")
        return [(finding.kind, finding.field) for finding in check(folder).findings()]

    monday, tuesday = ("a", "b", "c"), ("d", "e", "f")
    for name in ("session_id", "day", "visit", "measurement_time"):
        assert kinds(records(monday, **{name: [1] * 3}) + records(tuesday, **{name: [2] * 3})) == [("several sessions", name)]
    assert kinds(records(monday, block=[1] * 3) + records(tuesday, block=[2] * 3)) == [("same person", "participant")] * 3
    assert kinds(records(monday), records(tuesday)) == [("two versions", None)]
    assert kinds(records(monday, day=[1] * 3), records(tuesday, day=[2] * 3)) == [("several sessions", "day")]


@pytest.mark.parametrize("keys", ["AB", "fj", "01", ("left", "right")], ids="/".join)
def test_keys_that_are_the_same_for_all(tmp_path, keys):
    draw = random.Random(1)
    sessions = ["\n".join(f"You open <<{draw.choice(keys)}>>. It holds {draw.randrange(9)}." for _ in range(20)) for _ in range(12)]
    found = check(study(tmp_path / "s", *(with_text(session, participant=n) for n, session in enumerate(sessions))))
    assert [finding.kind for finding in found.findings()] == ["same options"]
    scale = [session.replace(f"<<{keys[0]}>>", "<<4>>").replace(f"<<{keys[1]}>>", "<<7>>") for session in sessions]
    assert not check(study(tmp_path / "scale", *(with_text(session, participant=n) for n, session in enumerate(scale)))).findings()


def test_forced_choices_that_are_marked(tmp_path):
    "Four of ten choices are prescribed and marked; without markers nothing is found."
    draw = random.Random(1)

    def session(mark: str, keys: list) -> str:
        return "\n".join(f"You are instructed to press {x} and press {mark.format(x)}." if n % 10 < 4 else f"You press <<{x}>>."
                         for n in range(40) for x in [draw.choice(keys)])

    def kinds(mark):
        records = (with_text(session(mark, draw.sample("ABCDEFGHK", 2)), participant=n) for n in range(12))
        return [finding.kind for finding in check(study(tmp_path / "s", *records)).findings()]

    assert (kinds("<<{}>>"), kinds("{}")) == (["forced choices"], [])


def test_the_place_of_a_laboratory_is_no_nationality(tmp_path):
    folder = study(tmp_path / "s", *(with_text(f"<<J>> {n}", participant=n, location=town) for n, town in enumerate(("Basel", "Berlin"))))
    assert data.load_data(folder)[0].metadata["location"] == "Basel"
    assert check(folder).studies[0].fields["location"][2] == ""
    assert set(people(data.load_data(folder))["nationality"]) == {""}


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
    memory = [t.responses for t in studies if t.study == "haridi2024memory"]
    assert totals["haridi2024memory"]["empty"] == sum("" in responses for responses in memory)
    assert totals["haridi2024memory"]["blank"] == sum(" " in responses for responses in memory)
    assert totals["busch2024_stroop"] == {"reaction times": 125, "same options": 1}  # numbers as texts; left and right
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
        "empty", "blank", "white space", "reaction times", "not a number", "markers", "same text", "same options", "several experiments", "name", "length", "form"}
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
