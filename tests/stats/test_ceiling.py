"""The noise ceiling against an enumeration of its definition."""
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from psych201 import stats
from psych201.stats.ceiling import WEIGHTS, find_items
from psych201.store.option_table import CHOICES
from psych201.transcripts import Transcript


def sessions(people: int, options: int, items: int, seed: int, experiments: int = 1) -> list[Transcript]:
    "People who answer the same items, with probabilities of the item."
    random = np.random.default_rng(seed)
    chance = random.dirichlet(np.ones(options), items)
    text = lambda: "".join(f"item {i}: <<{chr(65 + random.choice(options, p=chance[i]))}>>\n" for i in range(items))
    return [Transcript(text(), "wulff2020", f"exp{person % experiments}", str(person)) for person in range(people)]


def enumerated(transcripts: list[Transcript]) -> tuple[float, float]:
    "Both bounds, response by response, as the docstring of noise_ceiling defines them; every item was answered by all."
    rows = [(one.experiment, i, one.person, response) for one in transcripts for i, response in enumerate(one.responses)]
    low, bounds, people = [], [], []
    for experiment, item, person, response in rows:
        same_place = [row for row in rows if row[0] == experiment]
        others = [row for row in same_place if row[2] != person]
        share = (sum(row[3] == response for row in others) + 0.5) / (len(others) + len({row[3] for row in same_place}) / 2)
        answers = [row for row in others if row[1] == item]
        equal = sum(row[3] == response for row in answers)
        bounds.append([-np.log((equal + weight * share) / (len(answers) + weight)) for weight in WEIGHTS])
        everyone = [row for row in same_place if row[1] == item]
        low.append(-np.log(sum(row[3] == response for row in everyone) / len(everyone)))
        people.append(person)
    bounds, people = np.array(bounds), np.array(people)
    high = [bounds[i, np.round(bounds[people != person].sum(0), 9).argmin()] for i, person in enumerate(people)]
    return float(np.mean(low)), float(np.mean(high))


@pytest.mark.parametrize("people, options, items, experiments", [(5, 2, 20, 1), (3, 2, 20, 1), (5, 5, 20, 1), (8, 2, 15, 2), (12, 3, 10, 2)])
def test_the_weight_is_the_one_that_predicts_the_other_people_best(people, options, items, experiments):
    "A window inside a window once chose the smallest weight always: .750 instead of .616 for five people and two options."
    highs = []
    for seed in range(4):
        transcripts = sessions(people, options, items, seed, experiments)
        row = stats.noise_ceiling(find_items(transcripts), "trial").row(0, named=True)
        np.testing.assert_allclose((row["low"], row["high"]), enumerated(transcripts), rtol=1e-9)
        highs.append(row["high"])
    assert options > 2 or np.mean(highs) < np.log(2) + 0.02


def perfect(own: bool, people: int = 25, items: int = 30, conc: float = 1, seed: int = 0) -> tuple[list[Transcript], pl.DataFrame, float]:
    "Two-choice people, with the same keys or keys of their own; a model that knows each item's probability; its entropy."
    random = np.random.default_rng(seed)
    chance, transcripts, rows = random.beta(conc, conc, items), [], []
    for person in range(people):
        keys = random.choice(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), 2, replace=False) if own else np.array(["F", "J"])
        chosen = (random.random(items) > chance).astype(int)
        lines = "".join(f"String {i}. You press <<{keys[key]}>>.\n" for i, key in enumerate(chosen))
        transcripts.append(Transcript(f"Press {keys[0]} for word and {keys[1]} for nonword.\n{lines}", "wulff2020", "e", str(person)))
        rows += [("m", "plain", "span", "wulff2020", "e", transcripts[-1].person, transcripts[-1].key, i, keys[j],
                  float(np.log([chance[i], 1 - chance[i]][j])), bool(j == key), True, "float32") for i, key in enumerate(chosen) for j in (0, 1)]
    entropy = -chance * np.log(chance) - (1 - chance) * np.log(1 - chance)
    return transcripts, pl.DataFrame(rows, schema=CHOICES, orient="row"), float(entropy.mean())


def test_a_perfect_model_of_people_with_the_same_keys():
    transcripts, choices, entropy = perfect(own=False)
    table = stats.distribution_scores(choices, find_items(transcripts))
    assert abs(table["entropy_people"].mean() - entropy) < 0.04 and abs(table["entropy_model"].mean() - entropy) < 1e-6
    assert abs((table["tv"] - table["tv_expected"]).mean()) < 0.02
    row = stats.noise_ceiling(find_items(transcripts), "trial").row(0, named=True)
    assert row["low"] < entropy < row["high"] < entropy + 0.1 and row["own_keys"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("people, conc", [(10, 1), (10, 5), (30, 1)])
def test_a_perfect_model_is_perfect_in_every_bin_of_disagreement(people, conc):
    "Bins by people's own entropy gave a ratio of 1.33 to .92 with ten people an item, 1.64 to .72 if items are alike."
    found = []
    for seed in range(40):
        transcripts, choices, _ = perfect(False, people, 100, conc, seed)
        found.append(stats.by_entropy(stats.distribution_scores(choices, find_items(transcripts))))
    bins = pl.concat(found).group_by("bin").agg(pl.col("tv", "tv_expected", "entropy_people", "entropy_model").mean()).sort("bin")
    assert ((bins["tv"] / bins["tv_expected"] - 1).abs() < 0.08).all(), bins
    assert ((bins["entropy_people"] - bins["entropy_model"]).abs() < 0.06).all(), bins


def test_people_with_keys_of_their_own_are_left_out_by_trial():
    "Letters that mean different things were compared: an entropy of 2.64 for .46, a ceiling of 1.86 and more for two keys."
    transcripts, choices, entropy = perfect(own=True)
    items = find_items(transcripts)
    with pytest.raises(ValueError, match="750 of 750 responses are of people with keys of their own"):
        stats.distribution_scores(choices, items)
    row = stats.noise_ceiling(items, "trial").row(0, named=True)
    assert (row["responses"], row["own_keys"], row["low"], row["note"]) == (0, 750, None, "undefined: people had keys of their own")
    assert stats.item_entropy(transcripts)["entropy"].null_count() == 750
    same, more, _ = perfect(own=False)  # another experiment is not affected
    both = [*transcripts, *(replace(one, experiment="same") for one in same)]
    keys = {one.key: replace(one, experiment="same").key for one in same}
    more = more.with_columns(experiment=pl.lit("same"), transcript=pl.col("transcript").replace_strict(keys), person=pl.col("person").str.replace("/e/", "/same/"))
    assert len(stats.distribution_scores(pl.concat([choices, more]), find_items(both))) == 60  # two halves of people
    assert stats.against_ceiling(scores_of(choices), items, "trial")["responses"].to_list() == []


def test_the_upper_bound_shares_options_of_the_same_question_only():
    "Two stages with two keys each: what others chose at the other stage says nothing, so that a fair coin bounds at log 2."
    random = np.random.default_rng(1)
    transcripts = [Transcript("".join(f"You fly <<{'WX'[random.integers(2)]}>> to planet {n}. You ask <<{'YZ'[random.integers(2)]}>>. Gems: {n}. " for n in range(30)),
                              "wulff2020", "stages", str(who)) for who in range(4)]
    row = stats.noise_ceiling(find_items(transcripts), "trial").row(0, named=True)
    assert row["high"] == pytest.approx(np.log(2), abs=0.02), row  # 1.10 with shares of all four keys


def scores_of(choices: pl.DataFrame) -> pl.DataFrame:
    "The scores that go with choices."
    return choices.filter("chosen").with_columns(nll=-pl.col("logprob"))
