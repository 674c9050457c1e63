"""Formats: each response comes out once, as it went in, and its score is that of the text it stands in."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psych201 import data, inputs, models, scoring, store
from psych201.inputs.pieces import readings_digest
from psych201.scoring.language_model import LanguageModelScorer
from psych201.transcripts import Transcript
from psych201.inputs.trials import find_trials

TINY = {name: models.load_model(name, dtype="float32", device="cpu") for name in ("tiny-llama", "tiny-gemma")}
TEXT = [name for name in inputs.FORMATS if name not in inputs.of_kind("chat")]  # formats without a template
SAMPLE = list(data.load_data("sample", limit=1))

lines = st.lists(st.sampled_from(["You see {}. ", "You see {}.\n", "Block {}:\n", "\n", "You choose <<{}>>. ", "You choose <<{}>>.\n", "<<{}>>", "<<>>", "That was {}.\n", "<|im_end|>"]), min_size=1, max_size=25)
words = st.sampled_from(["J", "F", "-3", "12", "s", "a b", "né", ">", "."])
sessions = st.tuples(lines, st.lists(words, min_size=25, max_size=25)).map(lambda both: "".join(line.format(word) for line, word in zip(*both))).filter(lambda text: "<<" in text)


def session(text: str) -> Transcript:
    return Transcript(text, "wulff2020", "exp1", "7")


def told(**metadata) -> Transcript:
    "A session of somebody of whom something is known."
    return Transcript("Choose J or F.\nYou choose <<J>>. You choose <<F>>.\n", "wulff2020", "exp1", metadata.pop("participant", "7"), metadata=metadata)


def of(one: models.LanguageModel, transcript: Transcript, format: str = "plain", **how) -> np.ndarray:
    "The NLLs of a transcript in a format."
    return LanguageModelScorer(one, format, **how).score([transcript])["nll"].to_numpy()


@settings(max_examples=200)
@given(sessions)
def test_trials_cover_the_session_and_hold_each_response_once(text):
    transcript = session(text)
    trials = find_trials(transcript)
    assert [response for trial in trials for response in trial.responses] == list(range(len(transcript.spans)))
    assert all(trial.end == after.start for trial, after in zip(trials, trials[1:])) and trials[-1].end == len(text)
    for trial in trials:
        assert all(trial.start <= transcript.spans[n].start - 2 and transcript.spans[n].end + 2 <= trial.end for n in trial.responses)


@settings(max_examples=150)
@given(sessions, st.sampled_from([*inputs.of_kind("ablation"), *set(inputs.of_kind("wording")) - {"renamed_options", "double_bos"}]))
def test_every_text_format_keeps_every_response(text, name):
    transcript = session(text)
    readings = inputs.format_readings(transcript, name)
    answers = {place: piece for reading in readings for place, piece in zip(reading.responses, [piece.text for piece in reading.pieces if piece.kind == "response"])}
    assert [answers[n] for n in range(len(answers))] == transcript.responses
    assert "".join(piece.text for reading in readings for piece in reading.pieces if piece.kind == "template") == ""


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("transcript", SAMPLE, ids=lambda one: one.study)
def test_without_history_a_response_has_the_score_of_its_trial_alone(name, transcript):
    start = find_trials(transcript)[0].start
    alone = [session(transcript.text[:start] + transcript.text[trial.start : trial.end]) for trial in find_trials(transcript)]
    expected = np.concatenate([of(TINY[name], one) for one in alone])
    np.testing.assert_allclose(of(TINY[name], transcript, "no_history"), expected, atol=1e-5)
    np.testing.assert_allclose(of(TINY[name], transcript, "no_history", budget=2_000), expected, atol=1e-4)


@pytest.mark.parametrize("transcript", SAMPLE, ids=lambda one: one.study)
def test_a_shuffled_history_gives_each_response_its_own_score(transcript):
    reading, = inputs.format_readings(transcript, "shuffled_history")
    shuffled = of(TINY["tiny-llama"], session("".join(piece.text for piece in reading.pieces)))
    scores = of(TINY["tiny-llama"], transcript, "shuffled_history")
    np.testing.assert_allclose(scores[reading.responses], shuffled, atol=1e-6)
    assert not np.allclose(scores, of(TINY["tiny-llama"], transcript), atol=1e-3)


def test_what_is_cut_off_is_named_by_its_place_in_the_session():
    "A shuffled session that does not fit loses what comes last in the new order."
    transcript = SAMPLE[0]
    reading, = inputs.format_readings(transcript, "shuffled_history")
    limit = LanguageModelScorer(TINY["tiny-llama"], "shuffled_history").n_tokens(transcript) // 2
    rows = LanguageModelScorer(TINY["tiny-llama"], "shuffled_history", max_tokens=limit).score([transcript])
    lost = rows.filter(reason="cut")["response_index"].to_list()
    assert 0 < len(lost) < len(rows) and sorted(reading.responses[-len(lost):]) == lost
    assert rows["response"].to_list() == transcript.responses


def test_options_follow_their_response():
    "The log-probability of the answer that was given is its NLL, whatever the order."
    from psych201.inputs.options import choose_options

    transcript, one = SAMPLE[0], TINY["tiny-llama"]
    options = choose_options([transcript], one.tokenizer)
    for name in set(TEXT) - {"renamed_options"}:
        rows = LanguageModelScorer(one, name, options=options, prepared=inputs.prepare(name, SAMPLE)).score([transcript])
        given = [logprobs[list(options[transcript.study, transcript.experiment]).index(answer)] for answer, logprobs in zip(rows["response"], rows["option_logprobs"])]
        np.testing.assert_allclose(given, -rows["nll"].to_numpy(), atol=1e-5)


def test_digests_tell_formats_apart():
    people = [told(age=23, participant="7"), told(age=29, participant="8")]
    digests = [readings_digest(inputs.format_readings(people[0], name, TINY["tiny-gemma"].tokenizer, inputs.prepare(name, people))) for name in TEXT]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("name", inputs.of_kind("ablation"))
def test_ablations_by_the_published_rule(name):
    "Rule paper searches each reading; where no marker is glued to anything, what it finds belongs to the same responses."
    one, transcript = TINY["tiny-llama"], session("Choose J or F.\n\n" + "".join(f"Now <<{key}>> is it.\n" for key in "JFFJFJJ"))
    exact, found = (LanguageModelScorer(one, name, rule=rule).score([transcript]) for rule in ("span", "paper"))
    if name == "history_only":  # its markers stand at the beginning of a line, where the published search finds none
        assert set(found["reason"]) == {"not_found"}
    else:
        assert found["n_tokens"].to_list() == exact["n_tokens"].to_list() == [1] * 7
        np.testing.assert_allclose(found["nll"], exact["nll"], atol=1e-4)


def test_real_sessions_have_trials_like_their_lines(studies):
    "In most studies a trial has one response; instructions are there, and no trial is empty."
    seen = set()
    for transcript in studies:
        if transcript.study not in seen and transcript.spans:
            seen.add(transcript.study)
            trials = find_trials(transcript)
            assert trials[0].start > 50, transcript
            assert len(trials) >= len(transcript.spans) / 2, transcript
    assert len(seen) == 15


def test_a_persona_is_read_before_the_same_session():
    "Scores are those of the text with the interview in front; whoever told nothing has those of plain."
    one, ann = TINY["tiny-gemma"], told(age=23, sex="f")
    front = "Interviewer: What is your age?\nInterviewee: 23.0\n\nInterviewer: What is your gender?\nInterviewee: f\n\n"
    np.testing.assert_allclose(of(one, ann, "persona"), of(one, session(front + ann.text)), atol=1e-5)
    assert not np.allclose(of(one, ann, "persona"), of(one, ann), atol=1e-4)
    np.testing.assert_array_equal(of(one, told(), "persona"), of(one, told()))


def test_a_shuffled_persona_comes_from_the_whole_data_set_even_where_one_session_is_scored(tmp_path):
    from psych201.scoring.run import make_scorer

    everybody = [told(participant=str(n), age=20 + n) for n in range(5)]
    some = data.Dataset(everybody[:1], source=data.Dataset(everybody))
    scorer = make_scorer("tiny-llama", some, "persona_shuffled", dtype="float32", device="cpu")
    reading, = scorer._readings(everybody[0])
    assert "Interviewee: 20.0" not in reading.pieces[0].text
    assert any(f"Interviewee: {age}.0" in reading.pieces[0].text for age in range(21, 25))


@given(st.dictionaries(st.sampled_from(["age", "sex", "gender", "diagnosis", "STAI_T", "phq9", "wealth"]), st.none() | st.integers(0, 60) | st.floats() | words | st.lists(st.integers())))
def test_an_empty_persona_has_as_many_words_and_says_nothing(metadata):
    from psych201 import inputs

    text = inputs.interview(inputs.known_fields(told(**metadata)))
    empty = inputs.emptied(text)
    assert len(empty.split()) == len(text.split()) and empty.count("\n") == text.count("\n")
    assert not set("0123456789") & set(empty)


def test_personas_of_real_people(studies):
    "Nobody is given their own persona; whoever has one is given one."
    from psych201 import inputs

    given = inputs.donors(studies)
    known = {one.person: inputs.known_fields(one) for one in studies if inputs.has_persona(one)}
    assert set(given) == set(known) and all(given.values())
    assert {"busch2024_stroop", "rosenbaum2022valence", "thoma2025riskychoice"} <= {person.split("/")[0] for person in given}
    assert "BAS Drive" in known[next(person for person in known if person.startswith("rosenbaum"))]
    differ = sum(given[person] != fields for person, fields in known.items()) / len(known)
    assert differ > 0.8  # many share an age


def test_the_command_line_names_every_format():
    from psych201.workbench.arguments import OPTIONS

    named = OPTIONS["--format"]["help"].partition("): ")[2].partition("; or paper")[0].split(", ")
    assert named == list(inputs.FORMATS)


@settings(max_examples=100)
@given(sessions)
def test_renamed_options_can_be_renamed_back(text):
    "Going round the names as often as there are names gives the session again."
    transcript = session(text)
    names = inputs.new_names(transcript)
    again = transcript
    for _ in names:
        again = session("".join(piece.text for piece in inputs.renamed_options(again)))
    assert again.text == text
    if names:
        assert [names[answer] for answer in transcript.responses] == session("".join(piece.text for piece in inputs.renamed_options(transcript))).responses


def test_options_can_be_renamed_in_real_studies(studies):
    "Letters of experiments are renamed; free answers, numbers and letters that are words are not."
    renamed = {}
    for transcript in studies:
        renamed.setdefault(transcript.study, []).append(bool(inputs.new_names(transcript)))
    share = {study: sum(some) / len(some) for study, some in renamed.items()}
    assert min(share[study] for study in ("dezfouli2019", "spektor2019contexteffects", "thoma2025riskychoice", "xu2023augmenting")) > 0.4, share
    assert max(share[study] for study in ("guenther2024associations_sentences_texts", "little2024functionestimation", "haridi2024memory")) == 0, share


def test_a_renamed_option_keeps_its_row_and_its_answer(tmp_path):
    "The row says what the person answered; the score is that of the other name; options are not asked for under wrong names."

    transcript = session("Choose J or F.\nYou choose <<J>>. You choose <<F>>.\n")
    swapped = session("Choose F or J.\nYou choose <<F>>. You choose <<J>>.\n")
    scoring.score(TINY["tiny-llama"], [transcript], tmp_path, "renamed_options", progress="none")
    rows = store.read_scores(tmp_path)
    assert rows["response"].to_list() == ["J", "F"] and rows["option_logprobs"].is_null().all()
    np.testing.assert_allclose(rows["nll"], of(TINY["tiny-llama"], swapped), atol=1e-5)


def test_a_format_that_needs_other_sessions_is_scored(tmp_path, llama, capsys):
    "It is compared with the format plain, which takes nothing from other sessions; so is a session without a response."
    people = data.Dataset([Transcript(text, "wulff2020", "exp1", str(n), n, metadata={"age": 20 + n}) for n, text in enumerate(["You choose <<J>>."] * 3 + ["Nothing."])])
    scoring.score(llama, people, tmp_path, format="persona_shuffled", progress="lines")
    assert store.read_scores(tmp_path)["nll"].count() == 3
    assert "1 of 4 transcripts are the same in the format persona_shuffled as in plain" in capsys.readouterr().err
