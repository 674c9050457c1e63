"""Neighbouring formats through the same door: loaded, checked, converted, scored as a contribution is."""
import json

import pytest

from psych201 import data, inputs, participants
from psych201.contribute.report import check
from psych201.errors import DataError
from psych201.workbench.cli import main


def lines(folder, *records, name="prompts.jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return folder


def test_psychling_records(tmp_path):
    "participant_id and rt, quantities with their unit, pictures as placeholders."
    folder = lines(tmp_path / "lexical2024", *({"text": f"You see <image>. It took you <<{240 + n}>> ms. Word? <<{'yn'[n % 2]}>>", "experiment": "exp1", "participant_id": n, "rt": [500, 600], "age": 20 + n}
                                               for n in range(4)))
    dataset = data.load_data(folder)
    assert [one.participant for one in dataset] == ["0", "1", "2", "3"] and dataset[0].reaction_times == (500, 600)
    assert dataset[0].continuous == [True, False] and inputs.distinct_responses(dataset) == {("lexical2024", "exp1"): ["n", "y"]}
    assert set(participants.people(dataset)["age"]) == {20, 21, 22, 23}
    found = check(folder)
    assert dict(found.studies[0].totals) == {"pictures": 4, "field names": 2} and found.status() == 0


def test_ratings_are_no_choices_where_the_study_says_so(tmp_path):
    folder = lines(tmp_path / "ratings2024", *({"text": f"How good? <<{n}>> And this? <<{n % 3}>>", "experiment": "exp1", "participant": n} for n in range(5)))
    assert inputs.distinct_responses(data.load_data(folder))["ratings2024", "exp1"] == ["0", "1", "2", "3", "4"]
    (folder / "study.toml").write_text('response = "number"')
    assert inputs.distinct_responses(data.load_data(folder))["ratings2024", "exp1"] == [] and {one.response_kind for one in data.load_data(folder)} == {"number"}
    data.convert(folder, tmp_path / "archive")
    assert {one.response_kind for one in data.load_data(tmp_path / "archive")} == {"number"}
    again = data.from_datasets(data.to_datasets(data.load_data(folder)), print)
    assert {one.response_kind for one in again} == {"number"}


CHAT = [{"role": "system", "content": "You choose."}, {"role": "user", "content": "J or F?"}, {"role": "assistant", "content": "J"}, {"role": "user", "content": "You win.\nJ or F?"}, {"role": "assistant", "content": "F"}]


def test_chats(tmp_path):
    "The assistant's turns are responses; who says nobody is told by a hint, what is no turn is an error with its line."
    folder = lines(tmp_path / "chats2024", {"messages": CHAT}, {"messages": CHAT[:3], "participant": "p9", "experiment": "exp2"}, {"messages": [{"role": "user"}]})
    dataset = data.load_data(folder, on_error="collect")
    assert [(one.text, one.responses, one.participant, one.experiment) for one in dataset] == [
        ("You choose.\n\nJ or F?\n\n<<J>>\n\nYou win.\nJ or F?\n\n<<F>>", ["J", "F"], "1", "chats2024"), ("You choose.\n\nJ or F?\n\n<<J>>", ["J"], "p9", "exp2")]
    assert [(problem.line, problem.field) for problem in dataset.problems] == [(3, "messages")]
    found = check(folder)
    assert [(one.kind, one.line) for one in found.findings() if one.level != "hint"] and found.studies[0].totals["nobody"] == 1
    turns = [{"role": "user", "content": "J or F?"}, {"role": "assistant", "content": " F\n"}, {"role": "user", "content": "Now <<x>>"}, {"role": "assistant", "content": "You press <<J>>."}]
    folder = lines(tmp_path / "marked2024", {"messages": turns}, {"messages": [{"role": "user", "content": "J or F? Next >>"}, turns[1], turns[3]]})
    (problem,), (one,) = (dataset := data.load_data(folder, on_error="collect")).problems, dataset
    assert problem.line == 1 and "holds markers in a turn that is not the assistant's ('Now <<x>>')" in problem.message
    assert (one.responses, one.text) == (["F", "J"], "J or F? Next >>\n\n <<F>>\n\n\nYou press <<J>>.")


SPEC = """domain = "Risky Choice"
[trials]
file = "raw/trials.csv"
template = "{left} or {right}? You press <<{key}>>. You win {points}.\\n"
instructions = "You choose between two machines.\\n\\n"
participant = "subject"
experiment = "block"
reaction_time = "rt"
metadata = ["age"]
"""
TABLE = "subject,block,left,right,key,points,rt,age\n" + "".join(f"{n % 3},{n % 2},J,F,{'JF'[n % 2]},{n}.50,{300 + n},{20 + n % 3}\n" for n in range(12))


def table(folder, content=TABLE, spec=SPEC):
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    (folder / "raw" / "trials.csv").write_text(content, encoding="utf-8")
    (folder / "study.toml").write_text(spec)
    return folder


def test_a_table_of_trials(tmp_path, capsys):
    "Told by its template, scored by the command line; the same study whether it is given alone or with others."
    folder = table(tmp_path / "studies" / "decks2024")
    dataset = data.load_data(folder)
    assert len(dataset) == 6 and {len(one.spans) for one in dataset} == {2} and data.load_data(tmp_path / "studies").transcripts == dataset.transcripts
    first = dataset[0]
    assert first.text == "You choose between two machines.\n\nJ or F? You press <<J>>. You win 0.50.\nJ or F? You press <<J>>. You win 6.50.\n"
    assert (first.study, first.experiment, first.participant, first.reaction_times, first.metadata) == ("decks2024", "0", "0", (300, 306), {"age": "20"})
    assert check(folder).status() == 0 and participants.people(dataset)["age"].tolist() == [20, 21, 22, 20, 21, 22]
    assert data.studies(folder).set_index("study").loc["decks2024", "domain"] == "Risky Choice"
    assert main(["score", "tiny-llama", "--data", str(folder), "--output", str(tmp_path / "out")]) == 0
    lines(tmp_path / "studies" / "other2024", {"text": "<<J>>", "experiment": "e", "participant": 1})
    assert set(data.by_study(data.load_data(tmp_path / "studies"))) == {"decks2024", "other2024"}


@pytest.mark.parametrize("content, spec, message", [
    (TABLE.replace("key", "choice", 1), SPEC, "trials.csv, field 'key': is no column of the table; there are subject, block"),
    (TABLE.replace("J,F,J", "J,<<F,J", 1), SPEC, "trials.csv, line 2, field 'right': holds `<<`"),
    (TABLE + "1,1,J\n", SPEC, "trials.csv, line 14, field 'age': has fewer values"),
    (TABLE, SPEC.replace("raw/trials.csv", "../trials.csv"), "study.toml, field 'file': names '../trials.csv', which is no file in"),
    (TABLE, SPEC.replace("{left}", "{left"), "study.toml, field 'template': holds braces without"),
    (TABLE, SPEC.replace("<<{key}>>", "{key}"), "holds no `<<`"),
    ("", SPEC, "trials.csv, field 'age': is no column"),
], ids=["column", "marker", "short row", "outside", "braces", "unmarked", "empty"])
def test_a_table_that_cannot_be_told(tmp_path, content, spec, message):
    folder = table(tmp_path / "decks2024", content, spec)
    with pytest.raises(DataError) as error:
        data.load_data(folder)
    assert message in str(error.value)
    assert check(folder).status() == 1


TABLES = {  # how programs write tables: the table, [trials] of study.toml, responses and reaction times of each person, what is said of other rows
    "Qualtrics repeats questions and ids below the names": (
        'Id,Q1\nResponse ID,"Tea or coffee, T or C?"\n"{""ImportId"":""_recordId""}","{""ImportId"":""QID1""}"\nR_a,T\nR_b,C\n',
        'participant = "Id"\ntemplate = "You answer <<{Q1}>>."', [(["T"], None), (["C"], None)], ["2 rows that are no trials, the first in line 2"]),
    "PsychoPy has dots in names and a comma at the end": (
        "participant,key_resp.keys,key_resp.rt,\n1,left,512,\n1,right,700,\n",
        'participant = "participant"\nreaction_time = "key_resp.rt"\ntemplate = "<<{key_resp.keys}>> "', [(["left", "right"], (512, 700))], []),
    "jsPsych stores pictures": ("who,picture,key\n1," + "x" * 140_000 + ",A\n", 'participant = "who"\ntemplate = "<<{key}>>"', [(["A"], None)], []),
    "a German computer": ("who;key;rt\n1;A;512,5\n1;B;600,25\n", 'participant = "who"\nreaction_time = "rt"\ntemplate = "<<{key}>> "', [(["A", "B"], (512.5, 600.25))], []),
    "decimal commas in quotes": ('who,key,rt\n1,A,"512,5"\n1,B,600\n', 'participant = "who"\nreaction_time = "rt"\ntemplate = "<<{key}>> "', [(["A", "B"], (512.5, 600))], []),
    "Gorilla ends with a row of its own": ("\ufeffIndex,Private ID,Response\n1,1001,A\n3,1002,B\nEND OF FILE,,\n,,\n",
                                           'participant = "Private ID"\ntemplate = "<<{Response}>>"', [(["A"], None), (["B"], None)], ["2 rows that are no trials, the first in line 4"]),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_as_programs_write_them(name, tmp_path):
    table, trials, people, left_out = TABLES[name]
    (folder := tmp_path / "study").mkdir()
    (folder / "t.csv").write_text(table, encoding="utf-8")
    (folder / "study.toml").write_text(f'title = "T"\n[trials]\nfile = "t.csv"\n{trials}\n')
    found = data.load_data(folder)
    assert [(one.responses, one.reaction_times) for one in found] == people
    assert found.passed_over == [f"{folder / 't.csv'}: {note}" for note in left_out]


@pytest.mark.parametrize("table, message", [
    ("who,key,key\n1,A,B\n", "field 'key': stands twice, as columns 2 and 3; rename one"),
    ("who,keys\n1,A\n", "field 'key': is no column of the table; there are who, keys"),
    ("who,key,rt\n1,A,fast\n1,B,slow\n", "line 2, field 'rt': holds 'fast', and no number in any row")])
def test_wrong_tables_are_refused_as_a_whole(table, message, tmp_path):
    (folder := tmp_path / "study").mkdir()
    (folder / "t.csv").write_text(table)
    time = 'reaction_time = "rt"\n' if "rt" in table else ""
    (folder / "study.toml").write_text(f'title = "T"\n[trials]\nfile = "t.csv"\nparticipant = "who"\n{time}template = "<<{{key}}>>"\n')
    with pytest.raises(DataError, match=message):
        data.load_data(folder)
