"""What is known of real transcripts (measured on 49 studies), each fact as a test: first where our data show it, then planted where they do not."""
import json
import zipfile

import pytest

from helpers.texts import encodes_exactly

from psych201 import data, inputs, participants
from psych201.contribute.study_checks import estimate_length
from psych201.inputs.formats import plain
from psych201.contribute.report import check
from psych201.transcripts import Transcript
from psych201.models.weights import make_tiny

GOOD = {"text": "You press <<J>>.", "experiment": "exp1", "participant": 1}


def study(folder, *records):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.jsonl").write_text("\n".join(record if isinstance(record, str) else json.dumps(record) for record in records))
    return folder


# Shape

def test_participants_are_texts_whole_numbers_or_fractions(tmp_path):
    loaded = data.load_data(study(tmp_path / "s", GOOD, GOOD | {"participant": 2.0}, GOOD | {"participant": "2.5"}, GOOD | {"participant": 2.5, "experiment": "exp2"}))
    assert [one.participant for one in loaded] == ["1", "2", "2.5", "2.5"]


def test_one_id_in_several_experiments_is_two_keys_and_one_side_of_a_split(studies):
    some = [one for one in studies if one.study == "spektor2019contexteffects"]
    assert len({one.person for one in some}) == 130 and len({one.participant for one in some}) == 33 and len({one.key for one in some}) == 130
    sides = data.assign(data.sessions(some))["split"]
    assert len({(one.participant, side) for one, side in zip(some, sides)}) == 33


def test_an_experiment_is_never_a_file_name(studies, tmp_path):
    assert any(".." in one.experiment or one.experiment.count("/") > 1 for one in studies)
    evil = Transcript("<<J>>", "s", "../../../evil", "1")
    data.write_rows(data.file_of(tmp_path / "a", "train", evil.study), [data.to_row(evil)])
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")} == {"a"}


@pytest.mark.parametrize("name", ["prompts.jsonl.zip", "prompts.zip", "prompts_jsonl.zip"])
def test_zips_with_leftovers_several_members_and_a_json_beside(tmp_path, name):
    (tmp_path / "s").mkdir()
    with zipfile.ZipFile(tmp_path / "s" / name, "w") as held:
        for n in range(6):
            held.writestr(f"part{n}.jsonl", json.dumps(GOOD | {"participant": n}))
        held.writestr("__MACOSX/._part0.jsonl", b"\0\5\26\7")
        held.writestr("notes.json", "{}")
    assert [(one.study, one.participant) for one in data.load_data(tmp_path)] == [("s", str(n)) for n in range(6)]


def test_reaction_times_are_texts_hold_nan_or_are_too_few(studies, tmp_path):
    report = participants.times_report(studies).to_pandas().set_index("study")
    assert any(isinstance(time, str) for one in studies if one.study == "busch2024_stroop" for time in one.reaction_times) and report.loc["busch2024_stroop", "usable"] == 125
    assert report.loc["haridi2024memory", "unknown"] > 0
    few = data.load_data(study(tmp_path / "few2020", GOOD | {"RTs": []}, GOOD | {"RTs": [310], "participant": 2}))
    assert participants.times_report(few).select("usable", "other_length").row(0) == (1, 1) and check(tmp_path / "few2020").studies[0].totals["reaction times"] == 1


def test_transcripts_without_a_response_and_texts_that_occur_twice(studies):
    assert sum("no response" in problem.message for problem in studies.problems) == 2
    digests = [one.digest for one in studies]
    assert len(digests) - len(set(digests)) == 17 and len({one.key for one in studies}) == len(studies)


def test_what_people_typed_is_no_missing_value(tmp_path):
    loaded = data.load_data(study(tmp_path / "s", GOOD | {"text": "<<nan>> <<none>> <<na>> <<NULL>> <<>>"}))
    assert loaded[0].responses == ["nan", "none", "na", "NULL", ""]
    assert data.from_row(data.to_row(loaded[0])).responses == loaded[0].responses


# Length

def test_the_published_cut_loses_responses_and_falls_inside_answers(studies):
    long = [one for one in studies if len(one.text) > 32_768]
    lost = sum(end > 32_768 for one in long for _, end in one.spans)
    assert len(long) == 691 and round(lost / sum(len(one.spans) for one in studies), 3) == 0.213  # of these 15 studies; .138 to .18 of 49
    planted = Transcript("x" * 32_760 + " <<a long answer>> and <<J>>", "s", "e", "1")
    assert [start < 32_768 < end for start, end in planted.spans] == [True, False]
    tokenizer = make_tiny("tiny-llama")[1]
    for one in (planted, long[0]):
        encoded = inputs.encode(plain(one), tokenizer)
        for limit in (100, len(encoded) - 8, len(encoded) - 1, len(encoded)):
            kept = inputs.cut(encoded, limit)
            assert len(kept) <= limit and kept.close.max(initial=0) <= len(kept) and len(kept.start) == (encoded.close <= limit).sum()


def test_sessions_of_a_hundred_thousand_characters(studies):
    longest = max(studies, key=lambda one: len(one.text))
    assert len(longest.text) > 100_000 and estimate_length(longest.text) > 32_768
    assert check_lengths(studies)["dezfouli2019"] == 10


def check_lengths(studies) -> dict:
    "Study -> transcripts that are longer than 32,768 tokens by the estimate."
    return {name: sum(estimate_length(one.text) > 32_768 for one in rows) for name, rows in data.by_study(studies).items()}


# Markers

def test_no_markers_are_unbalanced_nested_or_stray(studies):
    assert all(one.text.count("<<") == one.text.count(">>") == len(one.spans) for one in studies)


HARD = {"minus": "You say (<<-0.14>>)\n and <<-5>>.", "straddling": "A <<J>>\nB <<5>>% C <<5>>, D <<5>>. E (<<5>>) F <<5>>; <<5>>?", "tags": "Recall <<s>> <<b>> <<i>> <<table>> <<strong>> <<mask>> <<pad>>",
        "endings": 'Say <<non->> <<C:\\>> <<"quoted">> <<a">>', "lists": "Ten words: <<apple, pear, plum, fig, nut, rye, oat, pea, leek, kale>>", "phrase": "Why? <<because I did not want to>>",
        "special": "It said <s> <|im_end|> <bos> </s>. You say <<<s>>> <<<|im_end|>>> <<<bos>>>"}


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma"])
@pytest.mark.parametrize("text", HARD.values(), ids=HARD)
def test_hard_answers_keep_their_spans_in_every_vocabulary(name, text):
    "Before, answer and behind are encoded apart: as many items as spans, no token shared, no control token from data."
    encodes_exactly(text, make_tiny(name)[1])


def test_empty_answers_are_kept_and_counted(studies):
    some = [one for one in studies if one.study == "haridi2024memory"]
    empty = sum(not response for one in some for response in one.responses)
    assert empty > 100 and all(len(one.responses) == len(one.spans) for one in some)


def test_real_answers_share_no_token_with_their_markers(studies):
    tokenizer = make_tiny("tiny-gemma")[1]
    for rows in data.by_study(studies).values():
        encodes_exactly(min(rows, key=lambda one: len(one.text)).text, tokenizer)


def test_ages_may_be_fractions_and_texts(studies):
    table = participants.people(one for one in studies if one.study == "thoma2025riskychoice")
    assert table["age"].notna().all() and (table["age"] % 1 > 0).any() and table["age_written"].map(type).eq(str).all()
