"""Choices and temperatures: planted ones are found, and what comes out of a store is what went in."""
import numpy as np
import polars as pl
import pytest
from scipy.special import logsumexp

from psych201 import data, models, scoring, store
from psych201.stats.calibration import (
    Choices, choice_arrays, crossvalidated_nll, fit_temperature, option_nll, split_misalignment)
from psych201.stats.accuracy_and_chance import pseudo_r2


def planted(random, temperature: float, n: int = 3000, people: int = 30, options: int = 3) -> tuple[Choices, np.ndarray]:
    "People who choose by their utilities, and a model that reports them divided by no temperature; the true NLL of each choice."
    logprob = random.normal(0, 1, (n, options)) - random.exponential(3, (n, 1))
    logprob[random.random((n, options)) < 0.2] = -np.inf
    logprob = logprob[np.isfinite(logprob).sum(1) > 1]
    scaled = logprob / temperature
    p = np.exp(scaled - logsumexp(scaled, axis=1, keepdims=True))
    chosen = (p.cumsum(1) > random.random((len(p), 1))).argmax(1)
    return Choices(logprob, chosen, np.arange(len(p)) % people, 0), -np.log(p[np.arange(len(p)), chosen])


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_a_planted_temperature_is_found(temperature):
    found, off = [], []
    for seed in range(20):
        made, nll = planted(np.random.default_rng(seed), temperature, n=10_000)
        found.append(fit_temperature(made))
        off.append(crossvalidated_nll(made).mean() - nll.mean())
    assert 1 / np.mean(1 / np.array(found)) == pytest.approx(temperature, rel=0.04)
    assert 0 <= np.mean(off) < 1e-3  # what was fitted to other people is no better than the truth


def test_a_person_is_judged_at_the_temperature_of_others():
    "One person answers against all others; what she did must not make her own prediction better."
    made, _ = planted(np.random.default_rng(1), 1.0, people=4)
    odd = made.person == 0
    turned = made._replace(chosen=np.where(odd, np.where(np.isfinite(made.logprob), made.logprob, np.inf).argmin(1), made.chosen))
    others = fit_temperature(Choices(*(part[~odd] for part in turned[:3]), 0))
    np.testing.assert_allclose(crossvalidated_nll(turned)[odd], option_nll(turned, others)[odd])


def test_what_is_no_option_takes_part_in_nothing():
    made, _ = planted(np.random.default_rng(2), 2.0)
    wider = made._replace(logprob=np.hstack([made.logprob, np.full((len(made.chosen), 2), -np.inf)]))
    assert fit_temperature(wider) == pytest.approx(fit_temperature(made), rel=1e-9)
    np.testing.assert_array_equal(option_nll(wider), option_nll(made))


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scores")
    for name in ("tiny-llama", "tiny-gemma"):
        scoring.score(models.load_model(name, device="cpu"), data.load_data("sample", limit=3), folder, progress="none")
    for name in ("baseline:uniform", "baseline:marginal", "baseline:earlier"):
        scoring.score(name, data.load_data("sample", limit=3), folder, progress="none")
    return folder


def test_from_a_store(scored):
    "NLL among options is the NLL of the answer and the mass of the options, of those that the participant used."
    table = store.scan_choices(scored, ["tiny-llama"]).collect()
    arrays = choice_arrays(table)
    given = table.filter("given").group_by("study", "person", "transcript", "response_index").agg(
        mass=pl.col("logprob").cast(pl.Float64).exp().sum(), n=pl.len())
    rows = store.read_scores(scored, ["tiny-llama"]).join(given, on=["study", "person", "transcript", "response_index"])
    rows = rows.filter(pl.col("n") > 1, pl.col("nll").is_not_null()).sort("study", "person", "transcript", "response_index")
    assert len(rows) == len(arrays.chosen) > 150
    np.testing.assert_allclose(option_nll(arrays), (rows["nll"] + rows["mass"].log()).to_numpy(), atol=1e-4)
    assert len(np.unique(arrays.person)) == rows["person"].n_unique()
    uniform = choice_arrays(store.scan_choices(scored, ["baseline:uniform"]).collect())
    np.testing.assert_allclose(option_nll(uniform), np.log(np.isfinite(uniform.logprob).sum(1)), atol=1e-6)


def test_two_models_of_the_same_responses(scored):
    post, base = (choice_arrays(store.scan_choices(scored, [name]).collect()) for name in ("tiny-gemma", "tiny-llama"))
    parts = split_misalignment(post, base)
    assert parts["responses"] == len(base.chosen) and parts["difference"] == pytest.approx(parts["removed"] + parts["stays"])
    back = split_misalignment(base, post)
    assert back["stays"] == pytest.approx(-parts["stays"]) and back["temperature_base"] == parts["temperature_post"]
    assert back["stays_low"] == pytest.approx(-parts["stays_high"], abs=1e-6)


def two_models(seed: int, people: int, most: int) -> tuple[Choices, Choices]:
    "A base model that half knows what people want, and a post-trained one that knows less, differs more between people and is too sure."
    random = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), random.integers(most // 4, most, people))
    wanted = random.normal(0, 1.5, len(person))
    chosen = (random.random(len(person)) < 1 / (1 + np.exp(-wanted))).astype(int)
    known = [wanted + random.normal(0, 0.5, len(person)), 3 * (wanted + (random.uniform(0.5, 2, people)[person] * random.normal(0, 1, len(person))))]
    base, post = (Choices(np.stack([np.zeros(len(person)), one], 1), chosen, person, 0) for one in known)
    return post, base


@pytest.mark.slow
def test_what_stays_and_what_is_removed_have_honest_intervals():
    "People are drawn anew in 400 data sets, and temperatures are found anew in each."
    truth, hits = split_misalignment(*two_models(0, 8_000, 40)), []
    assert truth["removed"] > 0.1 and truth["stays"] > 0.05
    for seed in range(1, 401):
        found = split_misalignment(*two_models(seed, 40, 40))
        hits.append([found[f"{part}_low"] <= truth[part] <= found[f"{part}_high"] for part in ("difference", "removed", "stays")])
    assert all(0.92 <= share <= 0.98 for share in np.mean(hits, 0)), np.mean(hits, 0)


def test_above_chance_against_all_baselines(scored):
    "The baselines come from the store like models, and one can be held against the other."
    rows = store.read_scores(scored)
    for name in ("baseline:uniform", "baseline:marginal", "baseline:earlier"):
        table = pseudo_r2(rows, name)
        assert table.select("model", "study").n_unique() == len(table) == 4 and table["dropped"].sum() == 0
        for one in table.iter_rows(named=True):
            mine, other = (rows.filter(model=model, study=one["study"])["nll"].mean() for model in (one["model"], name))
            assert one["r2"] == pytest.approx(1 - mine / other) and one["low"] <= one["r2"] <= one["high"]
    np.testing.assert_allclose(pseudo_r2(rows, "baseline:uniform", ["baseline:marginal"])["r2"], 0, atol=1e-6)  # the sample's keys are drawn for each participant
    chance = rows.filter(model="baseline:uniform")["nll"].to_numpy()
    np.testing.assert_allclose(chance, np.log(2), atol=1e-6)  # among the two that each had
