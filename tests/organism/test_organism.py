"""The model organism: what the shipped models show, and that training anew shows it, too."""
import os

import pandas as pd
import pytest

from psych201 import data, models, scoring, stats
from psych201.organism import organism
from psych201.workbench.runner import run_notebook

OPTIMAL, PEOPLE = models.SHIPPED_PAIRS


@pytest.fixture(scope="module")
def effects(tmp_path_factory) -> dict:
    "(post-trained model, specification) -> effect, on people that no model has seen."
    folder = tmp_path_factory.mktemp("scores")
    organism.write_held_out(folder / "people", 60, seed=9000)
    for name in models.SHIPPED:
        for rule in ("span", "paper"):
            scoring.score(models.load_model(name, device="cpu"), data.load_data(folder / "people"), folder / "scores", rule=rule, progress="none")
    table = stats.robustness_checks(folder / "scores", models.SHIPPED_PAIRS, ("published", "exact", "options", "temperature", "temperature_study"), draws=2000)
    return {(row["post"], row["specification"]): row for row in table.iter_rows(named=True)}


@pytest.mark.parametrize("specification", ["published", "exact", "options", "temperature", "temperature_study"])
def test_post_training_to_the_best_answers_is_less_human_like(effects, specification):
    "Temperature refitting does not explain it away."
    assert effects[OPTIMAL[0], specification]["low"] > 0, effects[OPTIMAL[0], specification]


@pytest.mark.parametrize("specification", ["published", "exact", "options", "temperature", pytest.param("temperature_study", marks=pytest.mark.xfail(
    strict=True, reason="the base of seed 2026 knows much of people: one temperature for each task leaves -.003, not surely below zero"))])
def test_post_training_to_people_is_more_human_like(effects, specification):
    assert effects[PEOPLE[0], specification]["high"] < 0, effects[PEOPLE[0], specification]


def test_shipped_models_are_small_and_described():
    for name in models.SHIPPED:
        model = models.load_model(name, device="cpu")
        size = sum(path.stat().st_size for path in models.shipped_folder(name).iterdir())
        assert size < 1e6 and not model.card.guessed and model.card.size_b < 0.001


def test_a_start_that_does_not_learn_is_made_again(monkeypatch):
    "With other initial weights, until unseen choosers are predicted; what comes after goes on from that start."
    made, nll, new_model = {}, iter([0.72, 0.69, 0.66, 0.5]), organism.new_model
    monkeypatch.setattr(organism, "new_model", lambda tokenizer, seed: made.setdefault(seed, new_model(tokenizer, seed)))
    monkeypatch.setattr(organism, "mean_token_nll", lambda model, sessions: next(nll))
    model, _, _ = organism.pretrain(7, effort=0.001)
    assert list(made) == [7, 1007, 2007] and model is made[2007]


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("PSYCH201_FULL"), reason="ten minutes each; `make test-full`")
@pytest.mark.parametrize("seed", [3, 7])  # 7 needs its third start
def test_training_anew_shows_it(tmp_path, seed):
    run_notebook("organism", tmp_path / "done.ipynb", {"output": str(tmp_path), "seed": seed}, verbose=False)
    claims = pd.read_csv(tmp_path / "tables" / "organism_claims.csv")
    assert claims["holds"].all(), claims.to_string()
