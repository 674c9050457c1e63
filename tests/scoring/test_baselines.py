"""Baselines: probabilities that sum to one, never fitted on the person scored, and better than chance where there is something to know."""
import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psych201 import data, inputs, scoring, store
from psych201.scoring.baselines import BASELINES, make_baseline
from psych201.scoring.sequence_baselines import _learn, _mixed, _path
from psych201.transcripts import Transcript

keys = st.lists(st.sampled_from("JFK"), min_size=1, max_size=12)
people = st.lists(keys, min_size=2, max_size=5)
FREE = ("baseline:ngram", "baseline:density")  # without options
FROM_OTHERS = ("baseline:marginal", "baseline:repeat", "baseline:wsls", "baseline:ngram", "baseline:density")


def session(who: int, answers, line: str = "You take <<{}>>.\n", study: str = "wulff2020") -> Transcript:
    return Transcript("J, F or K?\n" + "".join(line.format(answer) for answer in answers), study, "exp1", str(who))


def nll(name: str, scored: Transcript, everybody: list[Transcript]) -> np.ndarray:
    return make_baseline(name, everybody).score([scored])["nll"].to_numpy()


@settings(max_examples=60)
@given(people, st.sampled_from([name for name in BASELINES if name not in FREE]))
def test_options_sum_to_one_and_hold_the_answer(sessions, name):
    everybody = [session(who, answers) for who, answers in enumerate(sessions)]
    scorer = make_baseline(name, everybody)
    options = scorer.options["wulff2020", "exp1"]
    rows = scorer.score(everybody)
    for response, value, entropy, logprobs in rows.select("response", "nll", "first_entropy", "option_logprobs").iter_rows():
        if value is not None and len(options) > 1 and scorer.sizes["wulff2020", "exp1"] == len(options):
            logprobs = [one if one > -math.inf else -1e3 for one in logprobs]  # not on offer
            assert sum(map(math.exp, logprobs)) == pytest.approx(1, abs=1e-5)
            assert logprobs[options.index(response)] == pytest.approx(-value, abs=1e-5)
            assert entropy == pytest.approx(-sum(math.exp(one) * one for one in logprobs), abs=1e-5)


@settings(max_examples=60)
@given(people, keys, st.sampled_from(list(BASELINES)))
def test_a_later_answer_changes_no_earlier_score(sessions, more, name):
    "What a baseline says of an answer depends on what the session held before it, and on other people."
    everybody = [session(who, answers + ["J", "F", "K"]) for who, answers in enumerate(sessions)]  # all options are known
    first = everybody[0]
    longer = replace(first, text=first.text + "".join(f"You take <<{key}>>.\n" for key in more))
    before, after = (nll(name, one, [one, *everybody[1:]]) for one in (first, longer))
    if make_baseline(name, everybody).sizes == make_baseline(name, [longer, *everybody[1:]]).sizes:
        np.testing.assert_allclose(after[: len(before)], before, atol=1e-9)


@settings(max_examples=60)
@given(people, keys, st.sampled_from(FROM_OTHERS))
def test_nobody_is_predicted_from_their_own_other_session(sessions, more, name):
    "A second session of the same participant says nothing about the first."
    everybody = [session(who, answers + ["J", "F", "K"]) for who, answers in enumerate(sessions)]
    again = session(0, [*more, "J", "F", "K"], "Then you take <<{}>>.\n")
    alone, twice = (make_baseline(name, some) for some in (everybody, [*everybody, again]))
    if alone.sizes == twice.sizes:
        np.testing.assert_allclose(*(one.score(everybody[:1])["nll"].to_numpy() for one in (alone, twice)), atol=1e-9)


@pytest.mark.parametrize("name", FROM_OTHERS)
def test_other_people_do_matter_and_are_part_of_the_digest(name):
    line = "You say <<{}>> cm.\n" if name == "baseline:density" else "You take <<{}>>.\n"
    answers = (lambda who: [who + n / 2 for n in range(20)]) if name == "baseline:density" else (lambda who: "JJFJ" if who < 3 else "JFJF")
    everybody = [session(who, answers(who), line) for who in range(6)]
    some, all_of_them = (make_baseline(name, few) for few in (everybody[:3], everybody))
    assert not np.allclose(some.score(everybody[:1])["nll"], all_of_them.score(everybody[:1])["nll"])
    assert some.digest(everybody[0]) != all_of_them.digest(everybody[0])


def test_context_trees_are_those_of_their_definition():
    """Against the definition: the probability of a sequence is the average over all trees of what their leaves' counts say.

    Of depth 2 over two symbols, by recursion over nodes; the product of our predictions is the same number."""
    sequence, k, depth = "JFJFFJFJJFJFJF", 2, 2

    def estimate(counts: Counter) -> float:
        "The probability of a sequence with these counts under the estimator of Krichevsky and Trofimov, in any order."
        p, seen = 1.0, Counter()
        for symbol, n in counts.items():
            for _ in range(n):
                p *= (seen[symbol] + 0.5) / (sum(seen.values()) + k / 2)
                seen[symbol] += 1
        return p

    def weighted_at(history: tuple) -> float:
        past = [(tuple(([None] * depth + list(sequence[:place]))[::-1][:depth]), symbol) for place, symbol in enumerate(sequence)]
        own = estimate(Counter(symbol for before, symbol in past if before[: len(history)] == history))
        if len(history) == depth:
            return own
        further = {before[: len(history) + 1] for before, _ in past if before[: len(history)] == history}
        return 0.5 * own + 0.5 * math.prod(weighted_at(one) for one in further)

    tree, past, seen, product = {}, [None] * depth, {}, 1.0
    for symbol in sequence:
        path = _path(tree, past)
        product *= _mixed(path, symbol if symbol in seen else None, k)[0]
        _learn(path, k, symbol)
        past, seen[symbol] = [symbol, *past][:depth], True
    assert product == pytest.approx(weighted_at(()), rel=1e-9)


def test_what_each_baseline_is_good_at():
    "Repeaters, people who follow their wins, alternators: the baseline that knows the habit is the best of all."
    random = np.random.default_rng(5)

    def wins_and_losses(who: int) -> Transcript:
        text, key = "Machine J or F?\n", "J"
        for _ in range(80):
            won = random.random() < 0.5
            text += f"You take <<{key}>>. You win {int(won)} points.\n"
            key = key if won == (random.random() < 0.95) else "F" if key == "J" else "J"
        return Transcript(text, "wulff2020", "exp1", str(who))

    habits = {
        "baseline:wsls": [wins_and_losses(who) for who in range(6)],
        "baseline:ctw": [session(who, "JJF" * 30) for who in range(6)],
        "baseline:kt": [session(who, random.choice(list("JF"), 80, p=[0.9, 0.1] if who % 2 else [0.1, 0.9])) for who in range(6)],
        "baseline:density": [session(who, np.round(random.normal(10 * who, 1, 30), 1), "You say <<{}>> cm.\n") for who in range(6)],
        "baseline:ngram": [session(who, ["green" + "n" * int(n) for n in random.integers(1, 9, 20)]) for who in range(6)],
    }
    for best, everybody in habits.items():
        means = {name: make_baseline(name, everybody).score(everybody)["nll"].mean() for name in BASELINES if name != "baseline:earlier"}
        means = {name: mean for name, mean in means.items() if mean is not None}  # uniform knows no chance of free answers
        if best == "baseline:ngram":
            means = {name: means[name] for name in ("baseline:ngram", "baseline:density")}
            assert means["baseline:ngram"] < 20
            continue
        assert min(means, key=means.get) == best, (best, means)


@pytest.mark.parametrize("name", BASELINES)
def test_real_studies(studies, name, tmp_path):
    "Two sessions of each study by each baseline: every response has a finite NLL, is empty, or answered freely (uniform only)."
    seen = Counter()
    people = data.select(studies, limit=30)
    some = data.Dataset([one for one in people if (seen.update([one.study]), seen[one.study])[1] <= 2], source=data.Dataset(people.transcripts))
    scoring.score(name, some, tmp_path, progress="none")
    rows = store.read_scores(tmp_path)
    assert set(rows["reason"].drop_nulls()) <= {"empty"} | ({"unknown_options"} if name == "baseline:uniform" else set()) and rows.filter(pl.col("reason").is_null())["nll"].is_finite().all()
    assert len(rows) == sum(len(one.spans) for one in some)


def test_quantities_and_outcomes_of_real_studies(studies):
    "Studies whose answers are quantities are told from those with keys; outcomes are read where there are some."
    answers, read = {}, {}
    for one in studies:
        answers.setdefault(one.study, Counter()).update(filter(None, one.responses))
        if len(read.setdefault(one.study, [])) < 2_000:
            read[one.study] += scoring.read_outcomes(one)
    assert {study for study, counts in answers.items() if inputs.is_quantity(counts)} == {"little2024functionestimation"}
    known = {study: np.mean([outcome is not None for outcome in some]) for study, some in read.items()}
    for study in ("dezfouli2019", "busch2024_stroop", "xu2023augmenting", "spektor2019contexteffects"):
        assert known[study] > 0.95, known
    for study in ("guenther2020LDT", "guenther2024substitutions", "little2024functionestimation"):
        assert known[study] < 0.05, known


def test_a_state_is_no_outcome():
    "Behind a first choice one arrives somewhere; behind the second one wins or not. Colours of cards are no amounts."
    flights = Transcript("".join(f"You press <<X>> and arrive at planet {n % 2}.\nYou press <<C>> to ask. You are given {n // 2 % 2} gems.\n" for n in range(12)), "s", "e", "p")
    assert scoring.read_outcomes(flights) == [outcome for n in range(12) for outcome in (None, bool(n // 2 % 2))]
    cards = Transcript("".join(f"You press <<S>>. You see 3 red and 2 blue cards. You {'won' if n % 3 else 'lost'} 1,2{n:02} sweets.\n" for n in range(12)), "s", "e", "p")
    assert scoring.read_outcomes(cards) == [bool(n % 3) for n in range(12)]


def test_a_missed_first_trial_loses_no_feedback(studies):
    "Every alien of a two-step study that gave something is read behind the answer; before, six sessions lost theirs to the next trial."
    for one in (one for one in studies if one.study == "decker2016twostep"):
        outcomes, behind = scoring.read_outcomes(one), one.text.split(">>")[1:]
        for outcome, text in zip(outcomes, behind):
            given = re.match(r"[^\n]*\nThe alien gives you (\d)", text.partition("<<")[0])
            if "too slow" not in text:
                assert outcome == (None if given is None else given[1] != "0"), (one.participant, text)


def test_density_takes_out_the_own_answers_exactly():
    "Totals without the person are the counts of the others, whatever people wrote; thousands are numbers."
    random = np.random.default_rng(3)
    everybody = [session(who, [*np.round(random.normal(1e4 * who, 3, 20), 2), "none", f"{who + 1},250"], "You say <<{}>> cm.\n") for who in range(5)]
    for who in range(5):
        others = everybody[:who] + everybody[who + 1:]
        alone = make_baseline("baseline:density", [*others, replace(everybody[who], text="You say <<>>.")])  # knows the others only
        alone = replace(alone, counts={key: {**people, str(who): Counter()} for key, people in alone.counts.items()})
        known = make_baseline("baseline:density", everybody).score([everybody[who]])["nll"]
        assert np.allclose(known[0], alone.score([everybody[who]])["nll"][0], rtol=1e-9)
