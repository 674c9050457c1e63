"""Estimators and intervals on simulated data whose truth is known: coverage, type-I error, and what is left out."""
import os
from importlib.util import find_spec

import numpy as np
import polars as pl
import pytest
import scipy.stats
import statsmodels.api as sm

from psych201.stats.intervals import hierarchical_bootstrap, mean_intervals, percentile_interval
from psych201.stats.accuracy_and_chance import pseudo_r2
from psych201.stats.intervals import cluster_interval, strata_interval, wild_interval, wild_p
from psych201.stats.means import group_means
from psych201.stats.trends import slope_per_decade
from psych201.stats.meta_analysis import adjusted, equivalence, random_effects
from psych201.stats.mixed_models import mixed_model, mixed_posterior
from psych201.stats.paired import by_person, paired_differences, paired_effects, paired_means, participant_interval
from psych201.stats.trends import trend_over_groups, trend_with_size

TRUTH, DATA_SETS = 0.2, 400


def people(random, n: int, effect: float, between: float = 0.5, uneven: bool = False) -> tuple[np.ndarray, np.ndarray]:
    "Mean difference and number of responses of each person; people differ, and some answer ten (uneven: a hundred) times as often."
    responses = np.exp(random.normal(3, 1, n)).round() + 1 if uneven else random.integers(5, 60, n).astype(float)
    return random.normal(effect, between, n) + random.normal(0, 1, n) / np.sqrt(responses), responses


def coverage(interval, truth: float = TRUTH) -> float:
    "Share of simulated data sets whose interval holds the truth."
    ends = [interval(np.random.default_rng(seed)) for seed in range(DATA_SETS)]
    return float(np.mean([low <= truth <= high for low, high in ends]))


def ends(found: dict) -> tuple[float, float]:
    return found["low"], found["high"]


def of_generations(random, shared: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    "Generation, size and value of pairs; those of a generation share something, and older ones are larger."
    rank = np.repeat([0, 1, 2, 3], [4, 7, 5, 4])
    size = random.normal(0.8 - 0.1 * rank, 0.5)
    return rank, 10**size, TRUTH * (rank + size) + random.normal(0, shared, 4)[rank] + random.normal(0, 0.05, len(rank))


INTERVALS = {
    "25 people": lambda random: ends(cluster_interval(*people(random, 25, TRUTH))),
    "5 people, wild": lambda random: ends(wild_interval(*people(random, 5, TRUTH), draws=399)),
    "8 people, wild": lambda random: ends(wild_interval(*people(random, 8, TRUTH), draws=399)),
    "20 studies": lambda random: percentile_interval(
        hierarchical_bootstrap([people(random, 20, effect) for effect in random.normal(TRUTH, 0.3, 20)], 1000)),
    "10 studies, t": lambda random: group_means(
        pl.DataFrame(dict(g="a", d=random.normal(TRUTH, 0.3, 10))), "d", "g").select("low", "high").row(0),
    "slope": lambda random: ends(slope_per_decade(
        [0.5, 1, 3, 7, 70], 2 + TRUTH * np.log10([0.5, 1, 3, 7, 70]) + random.normal(0, 0.05, 5))),
    "trend over four groups": lambda random: ends(trend_over_groups(
        list("aabbbccdd"), TRUTH * np.array([0, 0, 1, 1, 1, 2, 2, 3, 3]) + random.normal(0, 0.2, 9), list("abcd"))),
    "trend with size": lambda random: ends(trend_with_size(*of_generations(random, 0.1))["step"]),
    "trend with size, of little that generations share": lambda random: ends(trend_with_size(*of_generations(random, 0.01))["step"]),
    "tenfold size": lambda random: ends(trend_with_size(*of_generations(random, 0.1))["tenfold"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", INTERVALS)
def test_intervals_hold_the_truth_as_often_as_they_say(name):
    assert 0.92 <= coverage(INTERVALS[name]) <= 0.98


@pytest.mark.slow
def test_a_trend_that_takes_pairs_for_independent_is_too_sure():
    "What stats.trends says of it, where pairs of a generation share as much as they differ."
    hits = []
    for seed in range(DATA_SETS):
        rank, size, value = of_generations(np.random.default_rng(seed), 0.05)
        of_pairs = sm.OLS(value, sm.add_constant(np.column_stack([rank, np.log10(size)]))).fit(cov_type="HC3", use_t=True).conf_int()[1]
        low, high = ends(trend_with_size(rank, size, value)["step"])
        hits.append((of_pairs[0] <= TRUTH <= of_pairs[1], low <= TRUTH <= high))
    of_pairs, of_groups = np.mean(hits, 0)
    assert of_pairs < 0.85 and 0.92 <= of_groups <= 0.98, (of_pairs, of_groups)


@pytest.mark.slow
def test_these_studies_with_other_people():
    "The effects of the studies stay; only people are drawn anew."
    effects = np.random.default_rng(9).normal(TRUTH, 0.3, 10)
    interval = lambda random: percentile_interval(
        hierarchical_bootstrap([people(random, 20, effect) for effect in effects], 1000, redraw_studies=False))
    assert 0.92 <= coverage(interval, effects.mean()) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("studies, n", [(1, 5), (2, 3), (2, 10), (10, 4)])
def test_few_people_in_these_studies(studies, n, uneven):
    "What drawing three people again gets wrong. Where a few people answer most, the interval may be a little too wide."
    effects = np.random.default_rng(9).normal(TRUTH, 0.3, studies)
    interval = lambda random: ends(strata_interval([people(random, n, effect, uneven=uneven) for effect in effects]))
    assert 0.92 <= coverage(interval, effects.mean()) <= (0.995 if uneven else 0.98)


@pytest.mark.slow
def test_studies_of_one_person_among_others():
    "Their people vary like the others; drawing them again gets that wrong."
    effects = np.random.default_rng(9).normal(TRUTH, 0.3, 8)
    drawn = lambda random: [people(random, 1 if study < 3 else 12, effect) for study, effect in enumerate(effects)]
    assert strata_interval(drawn(np.random.default_rng(0)))["alone"] == 3
    assert 0.92 <= coverage(lambda random: ends(strata_interval(drawn(random))), effects.mean()) <= 0.98
    drawn_again = lambda random: percentile_interval(hierarchical_bootstrap(drawn(random), 500, redraw_studies=False))
    assert coverage(drawn_again, effects.mean()) < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 13, 40])
def test_people_of_whom_some_answer_a_hundred_times_as_often(n):
    interval = lambda random: ends(participant_interval(*people(random, n, TRUTH, uneven=True)))
    assert 0.91 <= coverage(interval) <= 0.995


def tables(random, studies: int, effects: np.ndarray, persons: int = 8) -> pl.DataFrame:
    "Scores of two models in which people differ in their effect; one to four responses a person."
    n = random.integers(1, 5, studies * persons)
    person = np.repeat(np.arange(studies * persons), n)
    study, base = person // persons, random.gamma(4, 0.25, len(person))
    effect = effects[study] + random.normal(0, 0.2, studies * persons)[person] + random.normal(0, 0.2, len(person))
    rows = pl.DataFrame(dict(format="plain", rule="span", dtype="float32", study=study, person=person, response_index=np.arange(len(person)), base=base, post=base + effect)
                        ).with_columns(pl.col("study", "person").cast(pl.String), transcript=pl.col("person").cast(pl.String))
    return pl.concat([rows.with_columns(model=pl.lit(name), nll=pl.col(name)).drop("base", "post") for name in ("base", "post")])


@pytest.mark.slow
@pytest.mark.parametrize("studies", [3, 5, 10, 15])
def test_means_over_few_studies_from_scores_to_interval(studies):
    "Studies like these and these studies with other people, from tables of scores; at ten a bootstrap held the truth 90 times in 100."
    hits = []
    for seed in range(DATA_SETS):
        random = np.random.default_rng(seed)
        effects = random.normal(TRUTH, 0.3, studies)
        (row,) = paired_means(tables(random, studies, effects), [("post", "base")], draws=500).to_dicts()
        hits.append((row["low"] <= TRUTH <= row["high"], row["low_people"] <= effects.mean() <= row["high_people"]))
    over, these = np.mean(hits, 0)
    assert 0.92 <= over <= 0.98 and 0.92 <= these <= 0.98


@pytest.mark.slow
def test_effects_levels_and_scores_above_chance_from_scores_to_interval():
    "One study's paired effect, a model's mean level, and how far above a baseline it lies."
    hits = []
    for seed in range(DATA_SETS):
        random = np.random.default_rng(seed)
        n, own = random.integers(5, 20, 60), 0.5 + random.normal(0, 0.15, 60)
        person = np.repeat(np.arange(60), n)
        rows = pl.DataFrame(dict(format="plain", rule="span", dtype="float32", study=(person // 30).astype(str), person=person.astype(str), transcript=person.astype(str),
                                 response_index=np.arange(len(person)), nll=own[person] + random.normal(0, 0.1, len(person))))
        table = pl.concat([rows.with_columns(model=pl.lit("m")), rows.with_columns(model=pl.lit("baseline:uniform"), nll=pl.lit(1.0))])
        level = mean_intervals(table.filter(model="m")).row(0, named=True)
        effect = paired_effects(table, [("m", "baseline:uniform")]).row(0, named=True)
        above = pseudo_r2(table, "baseline:uniform").row(0, named=True)
        hits.append((level["low"] <= 0.5 <= level["high"], effect["low"] <= -0.5 <= effect["high"], above["low"] <= 0.5 <= above["high"]))
    assert all(0.92 <= share <= 0.98 for share in np.mean(hits, 0)), np.mean(hits, 0)


@pytest.mark.slow
@pytest.mark.parametrize("studies, between, precision", [(12, 0.05, [0.03, 0.1]), (12, 0.05, [0.03, 0.1, 0.3]), (12, 0.3, [0.03, 0.1, 0.3]), (4, 0.3, [0.1, 0.3])])
def test_meta_analysis_of_studies_of_very_different_sizes(studies, between, precision):
    "The interval of the mean holds it, and the effect of one more study lies where it is said to lie."
    hits = []
    for seed in range(1500):
        random = np.random.default_rng(seed)
        se, effects = random.choice(precision, studies), random.normal(TRUTH, between, studies + 1)
        found = random_effects(random.normal(effects[:-1], se), se, draws=400)
        hits.append((found["low"] <= TRUTH <= found["high"], found["next_low"] <= effects[-1] <= found["next_high"]))
    mean, one_more = np.mean(hits, 0)
    assert 0.92 <= mean <= 0.98 and 0.92 <= one_more <= 0.98, (mean, one_more)


@pytest.mark.slow
def test_meta_analysis_of_errors_that_come_from_eight_people():
    "From tables of scores; where the next study lies is told a little too narrowly, as its errors are not known exactly."
    hits = []
    for seed in range(DATA_SETS):
        random = np.random.default_rng(seed)
        effects = random.normal(TRUTH, 0.1, 13)
        of_people = by_person(paired_differences(tables(random, 12, effects[:-1]), "post", "base")).group_by("study")
        found = [cluster_interval(some["difference"], some["responses"]) for _, some in of_people]
        mean = random_effects([one["estimate"] for one in found], [one["se"] for one in found], draws=1000)
        hits.append((mean["low"] <= TRUTH <= mean["high"], mean["next_low"] <= effects[-1] <= mean["next_high"]))
    mean, one_more = np.mean(hits, 0)
    assert 0.92 <= mean <= 0.98 and 0.9 <= one_more <= 0.98, (mean, one_more)


def skewed(random, n: int, sigma: float) -> np.ndarray:
    "n values with mean 0 and standard deviation 1: normal, or lognormal with this sigma."
    if not sigma:
        return random.normal(size=n)
    return (random.lognormal(0, sigma, n) - np.exp(sigma**2 / 2)) / np.sqrt((np.exp(sigma**2) - 1) * np.exp(sigma**2))


def studies_of(random, studies: int, sigma: float, of_studies: float, between: float) -> tuple[list, list, np.ndarray]:
    "Effects, standard errors and true effects of studies of 5 to 200 people, and the true effect of a next one."
    true = TRUTH + between * skewed(random, studies + 1, of_studies)
    found = []
    for effect, n in zip(true[:-1], np.clip(random.lognormal(3, 1, studies).round(), 5, 200).astype(int), strict=True):
        responses = np.ceil(random.lognormal(3, 1, n))
        found.append(cluster_interval(effect + 0.3 * skewed(random, n, sigma) + skewed(random, n, sigma) / responses**0.5, responses))
    return [one["estimate"] for one in found], [one["se"] for one in found], true


@pytest.mark.slow
@pytest.mark.parametrize("sigma, of_studies, between, studies, least", [
    (0, 0, 0.2, 5, 0.92), (0, 0, 0.02, 20, 0.92), (1, 0, 0.2, 20, 0.92), (1, 0, 0.02, 8, 0.89), (1, 0, 0.02, 40, 0.89), (1, 1, 0.2, 20, 0.85)])
def test_the_mean_over_studies_of_skewed_people(sigma, of_studies, between, studies, least):
    "With equal weights; the weighted mean is surer of a wrong answer the more studies there are, and says so."
    hits = []
    for seed in range(DATA_SETS):
        random = np.random.default_rng(seed)
        effect, se, true = studies_of(random, studies, sigma, of_studies, between)
        mean = random_effects(effect, se, draws=400)
        hits.append((mean["low"] <= TRUTH <= mean["high"], mean["weighted_low"] <= TRUTH <= mean["weighted_high"],
                     mean["next_low"] <= true[-1] <= mean["next_high"], bool(mean["warning"])))
    equal, weighted, one_more, warned = np.mean(hits, 0)
    assert least <= equal <= 0.98 and one_more >= 0.92, (equal, one_more)
    if not sigma:
        assert 0.92 <= weighted <= 0.98 and warned < 0.15, (weighted, warned)
    elif between < 0.1 and studies > 20:
        assert weighted < 0.5 and warned > 0.9, (weighted, warned)


def test_heterogeneity_of_the_teacher_expectancy_studies():
    "Raudenbush (1985), 19 studies: Q = 35.83 and, with tau2 by Paule and Mandel, I2 = 66.4 % in R's metafor."
    effect = [0.03, 0.12, -0.14, 1.18, 0.26, -0.06, -0.02, -0.32, 0.27, 0.80, 0.54, 0.18, -0.02, 0.23, -0.18, -0.06, 0.30, 0.07, -0.07]
    variance = [0.0156, 0.0216, 0.0279, 0.1391, 0.1362, 0.0106, 0.0106, 0.0484, 0.0269, 0.0630, 0.0912, 0.0497, 0.0835, 0.0841, 0.0253, 0.0279,
                0.0193, 0.0088, 0.0303]
    found = random_effects(effect, np.sqrt(variance))
    assert (round(found["q"], 2), round(found["i2"], 3)) == (35.83, 0.664)
    assert found["estimate"] == pytest.approx(np.mean(effect)) and found["warning"]


def two_conditions(random, studies: int, most: int) -> pl.DataFrame:
    "A mean for each person and model, from the mixed model itself; studies have 4 to `most` people."
    rows = []
    for study, (hard, effect) in enumerate(zip(random.normal(1, 0.5, studies), random.normal(TRUTH, 0.15, studies), strict=True)):
        for person in range(random.integers(4, most)):
            level = hard + random.normal(0, 0.3)
            rows += [(f"{study}", f"{study}/{person}", 9, post, level + post * effect + random.normal(0, 0.1)) for post in (0, 1)]
    return pl.DataFrame(rows, schema=["study", "person", "responses", "post", "nll"], orient="row")


@pytest.mark.slow
@pytest.mark.parametrize("studies", [5, 12] if os.environ.get("PSYCH201_FULL") else [5])
def test_mixed_models_hold_the_truth_as_often_as_they_say(studies):
    "The effect, and how much it varies between studies in the mean."
    fits = [mixed_model(two_conditions(np.random.default_rng(seed), studies, 12)) for seed in range(DATA_SETS)]
    effects = [fit.terms.filter(term="post").row(0, named=True) for fit in fits]
    assert 0.92 <= np.mean([one["low"] <= TRUTH <= one["high"] for one in effects]) <= 0.98
    ratio = np.array([(one["estimate"] - TRUTH) / one["se"] for one in effects])
    assert 0.02 <= np.mean(2 * scipy.stats.t.sf(abs(ratio), effects[0]["df"]) <= 0.05) <= 0.08
    assert abs(np.mean([fit.spread["slope"] ** 2 for fit in fits]) / 0.15**2 - 1) < 0.1


@pytest.mark.parametrize("correlation, person, rest", [(-0.7, 0.6, 0.2), (0.7, 0.2, 0.6), (0.0, 0.5, 0.5)])
def test_mixed_models_recover_how_studies_and_people_vary(correlation, person, rest):
    "Values of people and studies of known spread: levels of 0.4 nats between studies under the base model, effects of 0.25."
    random, studies, people = np.random.default_rng(5), 150, 12
    level, slope = random.multivariate_normal([1, 0.1], [[0.16, correlation * 0.1], [correlation * 0.1, 0.0625]], studies).T
    study = np.repeat(np.arange(studies), people)
    own = level[study] + random.normal(0, person, len(study))
    sides = [own + random.normal(0, rest, len(study)), own + slope[study] + random.normal(0, rest, len(study))]
    rows = pl.concat([pl.DataFrame({"study": study.astype(str), "person": np.arange(len(study)).astype(str), "responses": 1, "post": post, "nll": nll})
                      for post, nll in enumerate(sides)])
    fit = mixed_model(rows)
    assert fit.note == "" and fit.spread["correlation"] == pytest.approx(correlation, abs=0.25)
    for name, truth in dict(study=0.4, slope=0.25, person=person, rest=rest).items():
        assert fit.spread[name] == pytest.approx(truth, rel=0.15), name


def test_a_mixed_model_says_when_searches_disagree(monkeypatch):
    "Ends of which no two are alike leave a note; people enough are three more than studies."
    import scipy.optimize

    people, ends, minimize = two_conditions(np.random.default_rng(1), 5, 12), iter(range(9)), scipy.optimize.minimize

    def elsewhere(goal, start, **how):
        found = minimize(goal, start, **how)
        found.fun += next(ends)
        return found

    assert mixed_model(people).note == ""
    monkeypatch.setattr(scipy.optimize, "minimize", elsewhere)
    assert mixed_model(people).note == "searches for the largest likelihood ended in different places"
    few = pl.concat([people.filter(study=name).sort("person").head(2 * n) for n, name in zip((2, 2, 1), people["study"].unique().sort())])
    with pytest.raises(ValueError, match="too few people to tell"):
        mixed_model(few)


def test_the_posterior_of_a_mixed_model_or_what_it_needs():
    "Where bambi is installed, REML and the posterior agree; elsewhere the message says how to get it."
    people = two_conditions(np.random.default_rng(1), 10, 12)
    if find_spec("bambi") is None:
        with pytest.raises(ImportError, match=r"pip install 'psych201\[bayes\]'"):
            mixed_posterior(people)
        return
    effect, found = mixed_model(people).terms.row(1, named=True), mixed_posterior(people, draws=300).filter(term="post").row(0, named=True)
    assert abs(found["mean"] - effect["estimate"]) < effect["se"] / 2 and 0.7 < found["sd"] / effect["se"] < 1.5
    assert found["low"] < found["mean"] < found["high"]


@pytest.mark.slow
def test_an_effect_at_the_bound_is_called_none_no_more_often_than_it_should_be():
    p = []
    for seed in range(DATA_SETS):
        values = np.random.default_rng(seed).normal(0.1, 0.3, 20)
        p.append(equivalence(values.mean(), values.std(ddof=1) / 20**0.5, 19, 0.1))
    assert np.mean(np.array(p) <= 0.05) <= 0.08


@pytest.mark.slow
def test_an_interval_that_forgets_people_is_too_narrow():
    "What these intervals are for: responses counted as independent hold the truth far too seldom."
    def naive(random):
        mean, n = people(random, 25, TRUTH)
        middle, se = np.average(mean, weights=n), 1 / np.sqrt(n.sum())
        return middle - 1.96 * se, middle + 1.96 * se

    assert coverage(naive) < 0.6


@pytest.mark.slow
def test_studies_without_differences_of_effect_make_the_interval_wide_and_never_narrow():
    interval = lambda random: percentile_interval(hierarchical_bootstrap([people(random, 20, TRUTH) for _ in range(20)], 1000))
    assert coverage(interval) > 0.97


@pytest.mark.slow
def test_five_clusters_reject_a_true_mean_as_often_as_they_say():
    p = [wild_p(*people(np.random.default_rng(seed), 5, TRUTH), TRUTH, draws=399) for seed in range(DATA_SETS)]
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.08


@pytest.mark.slow
def test_the_exact_trend_of_unequal_groups_errs_as_often_as_it_says_or_is_refused():
    "One to seven pairs in six generations: .094 at a level of .05; 1, 20, 5 and 1 pairs: .175 at .083."
    found = {True: [], False: []}
    for seed in range(8):
        n = np.random.default_rng(seed).integers(1, 8, 6)
        group = np.repeat(list("abcdef"), n)
        p = [trend_over_groups(group, np.random.default_rng([seed, i]).normal(size=len(group)), "abcdef") for i in range(60)]
        found[p[0]["p_trend"] is None] += [one["p_trend"] for one in p]
    assert len(found[True]) >= 60 and np.mean(np.array(found[False]) <= 0.05) <= 0.075, {refused: len(some) for refused, some in found.items()}
    assert trend_over_groups([*"a", *"b" * 20, *"c" * 5, *"d"], range(27), "abcd")["p_trend"] is None
    assert trend_over_groups([*"aaaa", *"b" * 7, *"c" * 5, *"dddd"], range(20), "abcd")["p_trend"] == pytest.approx(2 / 24)


@pytest.mark.slow
def test_nothing_is_found_where_nothing_is_as_often_as_they_say(monkeypatch):
    "The type-I error of the test that studies differ, of the exact trend, and of families of p values."
    monkeypatch.setattr("gc.collect", lambda: 0)  # statsmodels calls it for each family
    p, families = [], []
    for seed in range(DATA_SETS):
        random = np.random.default_rng(seed)
        se = random.choice([0.03, 0.1, 0.3], 8)
        trend = trend_over_groups(list("aabbccddee"), random.normal(0, 1, 10), list("abcde"))
        p.append((random_effects(random.normal(TRUTH, se), se, draws=200)["p_heterogeneity"], trend["p_trend"]))
        families.append(scipy.stats.ttest_1samp(random.normal(0, 1, (12, 6)), 0).pvalue)
    of_q, of_trend = np.mean(np.array(p) <= 0.05, 0)
    assert 0.02 <= of_q <= 0.08 and 0.02 <= of_trend <= 0.08
    for method in ("holm", "fdr_bh"):
        assert 0.02 <= np.mean([min(adjusted(family, method)) <= 0.05 for family in families]) <= 0.08
    assert np.mean([min(family) <= 0.05 for family in families]) > 0.2  # what the corrections are for


def scores(random, studies: int = 3, persons: int = 6, effect: float = TRUTH) -> pl.DataFrame:
    "Two models on the same responses; post-training costs `effect` nats."
    tables = []
    for study in range(studies):
        for person in range(persons):
            base = random.gamma(4, 0.25, n := int(random.integers(3, 9)))
            for model, nll in (("base", base), ("post", base + effect + random.normal(0, 0.1) + random.normal(0, 0.1, n))):
                tables.append(pl.DataFrame(dict(model=model, format="plain", rule="span", dtype="float32", study=f"s{study}", person=f"s{study}/{person}",
                                                transcript=f"{study}-{person}", response_index=range(n), nll=nll)))
    return pl.concat(tables)


def test_paired_numbers_do_not_depend_on_the_order_of_rows():
    table = scores(np.random.default_rng(0))
    mixed = table.sample(fraction=1, shuffle=True, seed=1)
    first, second = (paired_effects(one, [("post", "base")]).sort("study") for one in (table, mixed))
    for name in ("difference", "low", "high", "d_z"):
        np.testing.assert_allclose(first[name], second[name], atol=1e-12 if name in ("difference", "d_z") else 5e-3)
    both = [paired_differences(one, "post", "base").sort("transcript", "response_index") for one in (table, mixed)]
    assert both[0].equals(both[1])


def test_the_sign_of_a_difference():
    "Positive: post-training made the prediction worse; the other way round all signs turn."
    table = scores(np.random.default_rng(0), effect=0.5)
    there, back = (paired_means(table, [pair], draws=200) for pair in (("post", "base"), ("base", "post")))
    assert there["difference"][0] == pytest.approx(-back["difference"][0]) and 0.3 < there["low_people"][0]
    assert there["low_people"][0] == pytest.approx(-back["high_people"][0])


def test_responses_that_one_model_lacks_are_counted_and_in_no_difference():
    table = scores(np.random.default_rng(0))
    gone = pl.col("transcript").is_in(["0-0", "1-1"]) & (pl.col("model") == "post")
    cut = table.with_columns(nll=pl.when(gone).then(None).otherwise("nll"))
    lost = cut.filter(gone).height
    effects = paired_effects(cut, [("post", "base")])
    assert effects["dropped"].sum() == lost > 0 and effects["participants"].to_list() == [5, 5, 6]
    (mean,) = paired_means(cut, [("post", "base")], draws=200).to_dicts()
    assert (mean["dropped"], mean["participants"], mean["studies"]) == (lost, 16, 3)
    assert mean["responses"] == len(paired_differences(cut, "post", "base")) == table.height // 2 - lost
    assert mean["difference"] == pytest.approx(effects["difference"].mean())
    nothing = table.with_columns(nll=pl.when(pl.col("model") == "post").then(None).otherwise("nll"))
    (mean,) = paired_means(nothing, [("post", "base")]).to_dicts()
    assert (mean["studies"], mean["difference"], mean["low"]) == (0, None, None)


def test_a_person_with_many_responses_weighs_more_and_a_study_does_not():
    "Responses make a study's mean, as published; studies weigh the same."
    rows = [("a", "a/1", 0.0, 90), ("a", "a/2", 1.0, 10), ("b", "b/1", 1.0, 1)]
    tables = [pl.DataFrame(dict(model=model, format="plain", rule="span", dtype="float32", study=study, person=person, transcript=person,
                                response_index=range(n), nll=[1.0 + (effect if model == "post" else 0)] * n))
              for study, person, effect, n in rows for model in ("base", "post")]
    table = pl.concat(tables)
    assert paired_effects(table, [("post", "base")])["difference"].to_list() == pytest.approx([0.1, 1.0])
    assert paired_means(table, [("post", "base")], draws=100)["difference"][0] == pytest.approx(0.55)
    assert by_person(paired_differences(table, "post", "base"))["responses"].to_list() == [90, 10, 1]
