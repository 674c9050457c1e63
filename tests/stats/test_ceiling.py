"""The noise ceiling against an enumeration of its definition."""
import numpy as np
import pytest

from psych201 import stats
from psych201.stats.ceiling import WEIGHTS, find_items
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
