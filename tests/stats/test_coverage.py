"""Coverage of intervals for one study of skewed people who answer unequally often, for each estimator that was tried.

The table in nbs/stats/02_intervals.ipynb holds 1,000 data sets a cell; `make test-full` simulates all of it again."""
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.stats

from helpers import FULL
from psych201.stats.accuracy_and_chance import pseudo_r2
from psych201.stats.intervals import cluster_interval, skew_corrected_ends, strata_interval, wild_interval

NOTEBOOK = Path(__file__).parents[2] / "nbs" / "stats" / "02_intervals.ipynb"
SKEWS = {"normal": 0, "skewed": 1, "strongly": 1.5}  # sigma of lognormal people; their skewness is 0, 6 and 33
WEIGHTS = {"equal": 0, "some": 0.7, "few": 1.3}  # sigma of lognormal numbers of responses
PEOPLE = (5, 10, 20, 50)


def skewed(random, n: int, sigma: float) -> np.ndarray:
    "n values with mean 0 and standard deviation 1: normal, or lognormal with this sigma."
    if not sigma:
        return random.normal(size=n)
    return (random.lognormal(0, sigma, n) - np.exp(sigma**2 / 2)) / np.sqrt((np.exp(sigma**2) - 1) * np.exp(sigma**2))


def study(random, n: int, skew: str, weights: str) -> tuple[np.ndarray, np.ndarray]:
    "Means of people around 0 and their numbers of responses."
    return skewed(random, n, SKEWS[skew]), np.round(20 * random.lognormal(0, WEIGHTS[weights], n)) + 1


def estimates(mean: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    "Weighted mean and its standard error along the last axis."
    w = n / n.sum(-1, keepdims=True)
    mean_of, square = (w * mean).sum(-1), (w**2).sum(-1)
    return mean_of, np.sqrt((w**2 / (1 - 2 * w + square[..., None]) * (mean - mean_of[..., None]) ** 2).sum(-1))


def t_ends(mean, n, random) -> tuple[float, float]:
    found = cluster_interval(mean, n)
    return skew_corrected_ends(found["estimate"], found["se"], found["degrees"], 0.0)


def wild_ends(mean, n, random) -> tuple[float, float]:
    found = wild_interval(mean, n, draws=399)
    return found["low"], found["high"]


def drawn_again(mean, n, random, draws: int = 599) -> tuple[np.ndarray, np.ndarray]:
    chosen = random.integers(len(mean), size=(draws, len(mean)))
    return mean[chosen], n[chosen]


def bootstrap_t_ends(mean, n, random) -> tuple[float, float]:
    (estimate, se), (drawn, errors) = estimates(mean, n), estimates(*drawn_again(mean, n, random))
    with np.errstate(all="ignore"):
        t = np.nan_to_num((drawn - estimate) / errors)
    low, high = np.quantile(t, [0.025, 0.975])
    return estimate - high * se, estimate - low * se


def bca_ends(mean, n, random) -> tuple[float, float]:
    "Bias-corrected and accelerated (Efron 1987)."
    drawn, numbers = drawn_again(mean, n, random)
    estimate, ratios = (mean * n).sum() / n.sum(), (drawn * numbers).sum(1) / numbers.sum(1)
    z = scipy.stats.norm.ppf(np.clip(np.mean(ratios < estimate) + np.mean(ratios == estimate) / 2, 1e-3, 1 - 1e-3))
    without = ((mean * n).sum() - mean * n) / (n.sum() - n)
    pull = without.mean() - without
    a = (pull**3).sum() / (6 * (pull**2).sum() ** 1.5)
    shares = [scipy.stats.norm.cdf(z + (z + q) / (1 - a * (z + q))) for q in scipy.stats.norm.ppf([0.025, 0.975])]
    return tuple(np.quantile(ratios, shares))


def ours(mean, n, random) -> tuple[float, float]:
    found = cluster_interval(mean, n)
    return found["low"], found["high"]


ESTIMATORS = {"t": t_ends, "wild": wild_ends, "bootstrap t": bootstrap_t_ends, "BCa": bca_ends, "skew-corrected t": ours}


def coverage(estimator: str, skew: str, weights: str, people: int, data_sets: int) -> float:
    "Share of simulated studies whose interval holds 0."
    hits = []
    for seed in range(data_sets):
        random = np.random.default_rng([seed, people, int(10 * SKEWS[skew]), int(10 * WEIGHTS[weights])])
        low, high = ESTIMATORS[estimator](*study(random, people, skew, weights), random)
        hits.append(low <= 0 <= high)
    return float(np.mean(hits))


def table() -> dict[tuple, float]:
    "The published table: estimator, skew, weights, people -> coverage."
    text = "".join("".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["id"] == "coverage-table")
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 2 + len(ESTIMATORS) and cells[0] in SKEWS:
            for estimator, shares in zip(ESTIMATORS, cells[2:], strict=True):
                values = [float(share) for share in re.split(" / ", shares)]
                found |= {(estimator, cells[0], cells[1], n): value for n, value in zip(PEOPLE, values, strict=True)}
    return found


CELLS = list(table()) if FULL else [cell for cell in table() if cell[0] != "wild" and cell[3] in (10, 50) and cell[2] != "some"][::3]


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_published_coverage_is_found_again(cell):
    data_sets = 1000 if FULL else 250
    assert coverage(*cell, data_sets) == pytest.approx(table()[cell], abs=0.006 if FULL else 0.08)  # the same seeds: rounding only


def test_the_table_says_which_estimator_is_used():
    "The corrected t holds the truth at least as often as each other estimator in nearly all cells, and 92% where people are normal."
    found = table()
    assert len(found) == len(ESTIMATORS) * len(SKEWS) * len(WEIGHTS) * len(PEOPLE)
    ours_of = {cell[1:]: value for cell, value in found.items() if cell[0] == "skew-corrected t"}
    best = np.mean([value >= max(other for cell, other in found.items() if cell[1:] == place) - 0.02 for place, value in ours_of.items() if place[0] != "normal"])
    assert best >= 0.8 and min(value for place, value in ours_of.items() if place[0] == "normal") >= 0.92


@pytest.mark.slow
@pytest.mark.parametrize("skew, people, least", [("normal", 12, 0.92), ("skewed", 12, 0.86), ("skewed", 60, 0.92), ("strongly", 60, 0.89)])
def test_pseudo_r2_of_skewed_people(skew, people, least):
    "From tables of scores, against the ratio in the population."
    hits = []
    for seed in range(400):
        random = np.random.default_rng(seed)
        n = random.integers(5, 40, people)
        own = 0.5 + 0.1 * skewed(random, people, SKEWS[skew])
        person = np.repeat(np.arange(people), n)
        rows = pl.DataFrame(dict(format="plain", rule="span", dtype="float32", study="s", person=person.astype(str), transcript=person.astype(str),
                                 response_index=np.arange(len(person)), nll=own[person]))
        both = pl.concat([rows.with_columns(model=pl.lit("m")), rows.with_columns(model=pl.lit("baseline:uniform"), nll=pl.lit(1.0))])
        above = pseudo_r2(both).row(0, named=True)
        hits.append(above["low"] <= 0.5 <= above["high"])
    assert least <= np.mean(hits) <= 0.99, np.mean(hits)


@pytest.mark.slow
@pytest.mark.parametrize("skew, studies, n, least", [("skewed", 2, 10, 0.89), ("skewed", 10, 8, 0.91), ("strongly", 10, 8, 0.87)])
def test_these_studies_of_skewed_people(skew, studies, n, least):
    "Skewness of people, added up over studies."
    hits = []
    for seed in range(400):
        random = np.random.default_rng(seed)
        found = strata_interval([study(random, n, skew, "equal") for _ in range(studies)])
        hits.append(found["low"] <= 0 <= found["high"])
    assert least <= np.mean(hits) <= 0.99, np.mean(hits)
