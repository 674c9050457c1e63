"""Options on offer: tasks whose options are known by construction, real studies, and what must stay unknown."""
from math import log

import numpy as np
import polars as pl
import pytest

from psych201 import scoring, store
from psych201.data.datasets import Dataset
from psych201.inputs.offers import find_offers, offer_table
from psych201.stats.accuracy_and_chance import accuracies, pseudo_r2
from psych201.transcripts import Transcript

LETTERS = list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def told(who, text: str, experiment: str = "exp1") -> Transcript:
    return Transcript(text, "made", experiment, str(who))


def two_step(who: int, random, keys: str, trials: int = 80, planets: int = 1) -> Transcript:
    "Two ships, then two aliens on each of one or two planets; nothing names the keys of a stage."
    text = "You fly to planets and ask for gems.\n"
    for _ in range(trials):
        planet = int(random.integers(planets))
        ship, alien = keys[random.integers(2)], keys[2 + 2 * planet + random.integers(2)]
        text += f"You press <<{ship}>> and arrive at planet {planet}.\nYou press <<{alien}>> to ask. You find {random.integers(2)} gems.\n"
    return told(who, text)


def numbers(sessions: list[Transcript]) -> list:
    offers = find_offers(sessions)
    return [offer and offer.number for session in sessions for offer in offers.at(session)]


@pytest.mark.parametrize("planets", [1, 2])
@pytest.mark.parametrize("own", [True, False])
def test_two_step_people_have_two_options_at_each_stage(own, planets):
    random = np.random.default_rng(planets)
    sessions = [two_step(who, random, "".join(random.permutation(LETTERS)) if own else "JFKDLS", planets=planets) for who in range(12)]
    assert set(numbers(sessions)) == {2}
    offers = find_offers(sessions)
    for session in sessions:
        assert all(answer in offer.options for answer, offer in zip(session.responses, offers.at(session)))


def test_chance_of_two_step_people_is_log_2_in_every_number(tmp_path, llama):
    "NLL of uniform, chance among options, pseudo-R2; a coin at each stage saves nothing."
    random = np.random.default_rng(3)
    sessions = [two_step(who, random, "".join(random.permutation(LETTERS)), trials=30) for who in range(8)]
    data = Dataset(sessions)
    for scorer in ("baseline:uniform", "baseline:marginal", llama):
        scoring.score(scorer, data, tmp_path, progress="none")
    rows = store.read_scores(tmp_path)
    assert rows.filter(pl.col("model").str.starts_with("baseline"))["nll"].to_list() == pytest.approx([log(2)] * 2 * 8 * 60)
    choices = store.scan_choices(tmp_path, ["tiny-llama"]).collect()
    table = accuracies(rows.filter(model="tiny-llama"), choices)
    assert table["chance"].to_list() == [0.5] and table["responses"].to_list() == [8 * 60]
    coin = rows.filter(model="tiny-llama").with_columns(nll=pl.lit(log(2)))
    above = pseudo_r2(pl.concat([coin, rows.filter(model="baseline:uniform")]))
    assert above["r2"][0] == pytest.approx(0, abs=1e-9)


def test_named_options_are_those_of_each_trial():
    "Two or three of six options, in a sentence with a letter that is also a word, and feedback that names an option."
    random = np.random.default_rng(5)
    sessions, truth = [], []
    for who in range(10):
        text, pool = "I am told to choose.\n", random.permutation(list("AIKLMN"))
        for _ in range(30):
            some = list(random.choice(pool, random.integers(2, 4), replace=False))
            answer = some[random.integers(len(some))]
            truth.append(tuple(sorted(some)))
            text += "I see " + "".join(f"option {option}, " for option in some) + f"and I choose <<{answer}>>. The best was {some[0]}.\n"
        sessions.append(told(who, text))
    offers = find_offers(sessions)
    found = [offer and offer.options for session in sessions for offer in offers.at(session)]
    right = np.mean([one == two for one, two in zip(found, truth)])
    assert right > 0.99, right
    assert offer_table(sessions)["agreement"][0] == 1


def test_an_answer_outside_of_the_named_options_has_no_chance():
    random = np.random.default_rng(6)
    text = lambda n: "".join(f"Choose {a} or {b}: <<{'X' if n == i == 0 else a}>>\n" for i, (a, b) in
                             enumerate(random.choice(list("ABC"), 2, replace=False) for _ in range(40)))
    found = numbers([told(n, text(n)) for n in range(5)])
    assert found[0] is None and set(found[1:]) == {2}


def test_scales_keep_all_points_and_one_question_does_not_lend_its_options_to_another():
    random = np.random.default_rng(7)
    names = ["sun", "rain", "wind", "snow", "fog"]
    items = [f"I like the {a} and the {b}, number {n}" for n, (a, b) in enumerate(random.choice(names, 2) for _ in range(30))]
    people = [told(who, "".join(f"{item}. From 1 to 7 you say <<{random.integers(1, 8)}>>.\n" for item in random.permutation(items))
                   + "".join(f"{question}? You answer <<{['yes', 'no'][random.integers(2)]}>>.\n" for question in ("Do you smoke", "Do you drink", "Do you run")))
              for who in range(30)]
    found = np.array(numbers(people)).reshape(30, 33)
    assert (found[:, :30] == 7).all() and (found[:, 30:] == 2).all()


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("unit", [" ms", " units"])
def test_a_key_and_a_time_are_two_questions(unit, own):
    "As in miklashevsky2017: one experiment asks for a key and for a time in milliseconds."
    random = np.random.default_rng(8)
    people = []
    for who in range(6):
        keys = random.choice(LETTERS, 2, replace=False) if own else ["1", "2"]
        people.append(told(who, "You tell words from nonsense.\n" + "".join(f"Item {n}: you press <<{keys[random.integers(2)]}>> after <<{random.integers(300, 1500)}>>{unit}.\n"
                                                                             for n in range(60))))
    found = np.array(numbers(people), dtype=object).reshape(-1, 2)
    assert set(found[:, 1]) == {None} and set(found[:, 0]) == ({None} if own and unit == " units" else {2})  # own keys and unmarked quantities: unknown


def test_a_slip_of_one_person_gives_nobody_a_third_key():
    random = np.random.default_rng(12)
    people = []
    for who in range(30):
        keys = list(random.choice(LETTERS, 2, replace=False))
        answers = random.choice(keys, 60)
        people.append(told(who, "Press a key.\n" + "".join(f"Word {n}: <<{'~' if who == n == 3 else answer}>>\n" for n, answer in enumerate(answers))))
    found = np.array(numbers(people), dtype=object).reshape(30, 60)
    assert set(found[0]) == {2} and set(found[3]) <= {2, None}


@pytest.mark.parametrize("line", ["You think of <<w{}>>.\n", "You estimate <<{}>>.\n", "{} reminds you of <<w{}>>.\n"])
def test_free_answers_have_no_chance(line):
    random = np.random.default_rng(9)
    people = [told(who, "".join(line.format(*random.zipf(1.3, 2) % 500) for _ in range(60))) for who in range(20)]
    assert set(numbers(people)) == {None}


def test_a_person_who_never_used_a_key_had_it_too():
    random = np.random.default_rng(10)
    people = []
    for who in range(12):
        keys = list(random.permutation(LETTERS)[:4])
        shares = [0.5, 0.3, 0.2, 0] if who < 6 else [0.4, 0.3, 0.2, 0.1]
        people.append(told(who, "Machines pay.\n" + "".join(f"You take <<{random.choice(keys, p=shares)}>> and win {random.integers(9)}.\n" for _ in range(80))))
    assert set(numbers(people)) == {4}


def test_a_coincidence_makes_no_groups():
    "Four arms, rewards that hardly recur: few questions are equal, so that arms seldom meet; they are four all the same."
    random = np.random.default_rng(11)
    people = []
    for who in range(10):
        keys = list(random.permutation(LETTERS)[:4])
        people.append(told(who, "".join(f"You take <<{random.choice(keys)}>> and win {random.integers(100)} points.\n" for _ in range(60))))
    assert set(numbers(people)) == {4}


CHANCE = {"decker2016twostep": log(2), "shahar2019twosteptask": log(2), "guenther2020LDT": log(2), "xu2023augmenting": log(2), "dezfouli2019": log(2),
          "thoma2025riskychoice": log(2), "busch2024_stroop": log(3), "franke2024bayesian": (log(3) + log(4)) / 2,
          "rosenbaum2022valence": (log(2) + log(4)) / 2, "spektor2019contexteffects": 1.04}  # as the studies describe their tasks


def test_chance_of_real_studies(studies):
    "Two keys at each stage of a two-step task, not four; none where people answer in words or numbers."
    table = offer_table(studies).group_by("study").agg(pl.col("responses", "known").sum(), (pl.col("chance") * pl.col("known")).sum() / pl.col("known").sum())
    found = {study: (known / responses, chance) for study, responses, known, chance in table.rows()}
    for study, (share, chance) in found.items():
        if study in CHANCE:
            assert share > 0.99 and chance == pytest.approx(CHANCE[study], abs=0.01), (study, share, chance)
        else:
            assert share == 0, (study, share)
