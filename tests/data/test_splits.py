"""Splits: on real studies nobody and no text stands on both sides, and nothing elsewhere moves anybody."""
from hypothesis import given, settings
from hypothesis import strategies as st

from psych201 import data
from psych201.transcripts import CLOSE, OPEN, Transcript

CHARACTERS = st.text(alphabet="<>Jj \n", max_size=4)


@st.composite
def worlds(draw):
    "Studies whose people have several sessions in several experiments, and who sometimes wrote the same."
    studies = draw(st.lists(st.sampled_from(["a", "b", "c", "flesch2018comparing"]), min_size=1, max_size=4, unique=True))
    rows = []
    for study in studies:
        for who in range(draw(st.integers(1, 40))):
            for session in range(draw(st.integers(1, 3))):
                text = draw(st.integers(0, 400))
                rows.append(Transcript(f"You press <<{text}>>.", study, f"exp{session}", str(who)))
    return rows


def sides(transcripts, **how) -> dict:
    "Side of each transcript."
    return list(data.assign(data.sessions(transcripts), **how)["split"])


def check(transcripts, found, at_most=100, seen=None) -> None:
    "No person and no text crosses, nobody seen is evaluated, and no more are drawn than the rule says."
    drawn = [one for one, side in zip(transcripts, found) if side == "evaluation"]
    others = [one for one, side in zip(transcripts, found) if side == "train"]
    assert not {(one.study, one.participant) for one in drawn} & {(one.study, one.participant) for one in others}
    assert not {one.digest for one in drawn} & {one.digest for one in others}
    assert not {one.digest for one in drawn} & set(seen or ())
    for study, rows in data.by_study(transcripts).items():
        units = {one.participant for one in drawn if one.study == study}
        limit = data.evaluation_size(len(rows), 0.1, at_most)
        assert sum(one.study == study for one in drawn) <= limit or limit and len(units) >= 1


@given(worlds(), st.integers(0, 3), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_nobody_and_no_text_crosses(transcripts, seed, shuffle):
    found = sides(transcripts, seed=seed)
    check(transcripts, found)
    assert not any(side == "evaluation" and one.study == "flesch2018comparing" for one, side in zip(transcripts, found))
    seen = {one.digest for one in transcripts if shuffle.random() < 0.2}
    check(transcripts, sides(transcripts, seed=seed, seen=seen), seen=seen)
    pairs = list(zip(transcripts, found))
    shuffle.shuffle(pairs)
    assert sides([one for one, _ in pairs], seed=seed) == [side for _, side in pairs]


@given(worlds())
@settings(deadline=None, max_examples=60)
def test_other_studies_move_nobody(transcripts):
    "A study drawn alone is drawn as among others, but for those whose text stands in another one for training."
    found = sides(transcripts)
    for study in data.by_study(transcripts):
        here = [one.study == study for one in transcripts]
        alone = sides([one for one, is_here in zip(transcripts, here) if is_here])
        among = [side for side, is_here in zip(found, here) if is_here]
        elsewhere = {one.digest for one, is_here in zip(transcripts, here) if not is_here}
        rows = [one for one, is_here in zip(transcripts, here) if is_here]
        moved = [one for one, before, after in zip(rows, alone, among) if before != after]
        assert all(before == "evaluation" for before, after in zip(alone, among) if before != after)
        units = data.assign(data.sessions(rows))["unit"]
        shared = {unit for one, unit in zip(rows, units) if one.digest in elsewhere}
        assert all(unit in shared for one, unit in zip(rows, units) if one in moved)


def without_markers(transcript) -> str:
    "The text without the markers of its responses."
    marks = {place + i for start, end in transcript.spans for place in (start - 2, end) for i in (0, 1)}
    return "".join(character for i, character in enumerate(transcript.text) if i not in marks)


@given(st.lists(st.tuples(CHARACTERS, st.text(alphabet="JF7j<>- ", max_size=3)), min_size=1, max_size=6))
@settings(max_examples=300)
def test_the_discrete_part_keeps_single_capitals_and_all_text(parts):
    text = "".join(f"{shown} {OPEN}{response}{CLOSE}" for shown, response in parts)
    try:
        transcript = Transcript(text, "s", "s", "1", reaction_times=tuple(range(len(parts))))
        wanted = [response for response in transcript.responses if len(response) == 1 and "A" <= response <= "Z"]
        found = data.discrete(transcript)
    except ValueError:
        return  # markers that do not pair up, before or after
    assert (found is None) == (not wanted)
    if found:
        assert found.responses == wanted
        assert without_markers(found) == without_markers(transcript)


def test_real_studies_are_split_by_person(studies):
    "Every study that is large enough is evaluated; people with several sessions stand on one side."
    dataset = studies
    parts = data.split(dataset)
    found = sides(dataset.transcripts)
    check(dataset.transcripts, found)
    assert sum(map(len, parts.values())) == len(dataset)
    for study, rows in data.by_study(dataset).items():
        size = data.evaluation_size(len(rows))
        drawn = data.by_study(parts["evaluation"]).get(study, [])
        assert size - 8 <= len(drawn) <= size, study  # whole people: at most one person's sessions fewer
    assert data.split(dataset, seed=1)["evaluation"].transcripts != parts["evaluation"].transcripts


def test_the_discrete_part_of_real_studies(studies):
    "As the register says which studies have single capital letters."
    register = data.studies().set_index("study")["discrete"]
    for study, rows in data.by_study(studies).items():
        found = data.discrete_part(data.Dataset(rows[:20]))
        assert bool(len(found)) == register[study], study
        assert {response for one in found for response in one.responses} <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
