"""Comparisons of models: what is compared, what is left out, what is said about it."""
import numpy as np
import pandas as pd
import polars as pl
import pytest

from helpers import missing
from psych201 import data, figures, models, reference, scoring, stats, store
from psych201.data import datasets


def table(model: str, study: str, nll: list[float], **more) -> pl.DataFrame:
    "Scores of one person's responses."
    return pl.DataFrame(dict(model=model, format="plain", rule="span", dtype="float32", study=study, person=f"{study}/1", transcript=study,
                             response_index=range(len(nll)), response="J", nll=nll, **more))


def test_a_study_without_a_d_is_counted_and_not_averaged():
    "One response has no variance; its NaN must not make the mean of the pair NaN, nor count as a study."
    scores = pl.concat([table("base", "big", [1.0, 2, 3]), table("post", "big", [2.0, 3, 4]),
                        table("base", "one", [1.0]), table("post", "one", [9.0])])
    effects = stats.misalignment(scores, [("post", "base")])
    assert effects["cohens_d"].to_list() == [pytest.approx(np.sqrt(1.5)), None]
    assert effects["difference"].to_list() == [1.0, 8.0]
    (mean,) = stats.mean_misalignment(effects).to_dicts()
    assert (mean["studies"], mean["undefined"], mean["responses"]) == (1, 1, 3)
    assert mean["cohens_d"] == pytest.approx(np.sqrt(1.5)) and mean["difference"] == 1.0


def test_participants_are_people_not_numbers(tmp_path):
    "The same id in two experiments of a study is two people."
    people = [datasets.Transcript("Say <<J>>.", "s", f"exp{n}", "1", n) for n in range(2)]
    assert data.summarise(people)["participants"].tolist() == [2]
    scoring.score(models.load_model("tiny-llama", device="cpu"), data.Dataset(people), tmp_path, progress="none")
    assert stats.mean_nll(store.read_scores(tmp_path))["participants"].to_list() == [2]


def test_rules_and_formats_are_not_mixed():
    scores = pl.concat([table("base", "s", [1.0, 2]), table("post", "s", [1.0, 2]).with_columns(rule=pl.lit("paper"))])
    assert stats.shared_responses(scores)[0].is_empty()
    with pytest.raises(ValueError, match="One rule at a time"):
        stats.misalignment(scores, [("post", "base")])


def test_models_that_were_scored_differently_are_said_to_be(tmp_path):
    sample = data.load_data("sample", limit=1)
    scoring.score(models.load_model("tiny-llama", "float32", "cpu"), sample, tmp_path, progress="none")
    scoring.score(models.load_model("tiny-gemma", "bfloat16", "cpu"), sample, tmp_path, max_tokens=300, progress="none")
    conditions = store.read_conditions(tmp_path)
    warning = stats.differing_conditions(conditions, ["tiny-llama", "tiny-gemma"])
    assert "dtype (bfloat16; float32)" in warning and "max_tokens (300; 4096)" in warning and "torch" not in warning
    effects = stats.misalignment(store.read_scores(tmp_path), [("tiny-gemma", "tiny-llama")], conditions=conditions)
    assert set(effects["warning"]) == set(stats.mean_misalignment(effects)["warning"]) == {warning}


def test_conditions_are_of_a_format():
    "Differences between formats are no differences between models."
    rows = [("a", "plain", "float32"), ("b", "plain", "float32"), ("a", "chat", "float32"), ("b", "chat", "float32")]
    conditions = pl.DataFrame(rows, schema=["model", "format", "dtype"], orient="row")
    assert stats.differing_conditions(conditions, ["a", "b"]) == ""


def test_the_published_summaries_follow_from_the_package_s_tables():
    "The paper's generation and domain means, from the numbers in psych201/assets/paper."
    generations = stats.group_means(pl.from_pandas(figures.published_generations()), "cohens_d", "family").sort("family")
    assert generations["mean"].round(4).to_list() == [0.0234, 0.0433, 0.1300, 0.1593]
    domains = figures.published_domain_means().sort_values("cohens_d")
    assert domains["cohens_d"].round(4).tolist() == [0.0575, 0.0721, 0.0831, 0.0831, 0.0867, 0.1233, 0.1781]
    cells = figures.published_domains()
    whole = cells.groupby("domain").filter(lambda rows: not rows["beyond"].any()).groupby("domain")["cohens_d"].mean()
    assert len(whole) == 4 and (domains.set_index("domain").loc[whole.index, "cohens_d"] - whole).abs().max() < 1e-3  # read off colours
    cut = cells.groupby("domain").filter(lambda rows: rows["beyond"].any()).groupby("domain")["cohens_d"].mean()
    assert (domains.set_index("domain").loc[cut.index, "cohens_d"] > cut).all()  # colours end below


def test_all_persona_means_are_those_of_the_published_figure(studies_path):
    "The figure's 22 bars were read by themselves, apart from its points."
    path = studies_path.parent / "paper" / "reference_fig5_summary.csv"
    if not path.is_file():
        missing(f"no published summary: there is no file {path}")
    bars = pd.read_csv(path)
    means = stats.group_means(reference.reference("persona"), "cohens_d", "model")
    assert len(bars) == len(means) == 22 and bars["n"].tolist() == means["n"].to_list()
    assert sorted(means["mean"].to_list()) == pytest.approx(sorted(bars["mean_line"]), abs=1e-7)
    assert sorted((means["sd"] / means["n"].sqrt()).to_list()) == pytest.approx(sorted(bars["sem"]), abs=1e-7)
