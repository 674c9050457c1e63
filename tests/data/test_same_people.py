"""One person in several experiments: what study.toml says goes with the transcripts, into archives, stores and intervals."""
import json

import numpy as np
import polars as pl
import pytest

from psych201 import data, scoring, store
from psych201.errors import DataError
from psych201.contribute.study_checks import check_study
from psych201.data.discovery import find_studies
from psych201.stats.paired import by_person
from psych201.stats.intervals import cluster_interval


@pytest.fixture
def folder(tmp_path):
    "Six people in two experiments, with ages; study.toml is written by each test."
    study = tmp_path / "made2026"
    study.mkdir()
    records = [dict(text=f"Press F or J. <<{'FJ'[who % 2]}>> <<{'FJ'[part]}>>", experiment="ab"[part], participant=who, age=20 + who)
               for part in range(2) for who in range(6)]
    (study / "prompts.jsonl").write_text("\n".join(map(json.dumps, records)))
    return study


def people(source) -> set[str]:
    return {one.person for one in data.load_data(source)}


def test_study_toml_says_who_is_the_same(folder, tmp_path):
    assert len(people(folder)) == 12
    (folder / "study.toml").write_text("same_people = true\n")
    assert people(folder) == {f"made2026/{who}" for who in range(6)}
    data.convert(folder, tmp_path / "archive")
    assert people(tmp_path / "archive") == people(folder)
    assert data.open_data(tmp_path / "archive").counts()["participants"].sum() == 6
    rows = data.load_data(tmp_path / "archive").transcripts
    assert {one.key for one in rows} == {one.key for one in data.load_data(folder)}, "who somebody is does not change what was scored"
    with pytest.raises(DataError, match="true or false"):
        (folder / "study.toml").write_text('same_people = "yes"\n')
        data.load_data(folder)


def test_check_proposes_it_until_it_is_said(folder):
    (study,) = find_studies(folder)
    (hint,) = [found for found in check_study(study).findings if found.kind == "several experiments"]
    assert "6 of 6 ids occur in up to 2 experiments. Their other fields agree for 6 of 6." in hint.message
    for value in ("true", "false"):
        (folder / "study.toml").write_text(f"same_people = {value}\n")
        (study,) = find_studies(folder)
        assert not check_study(study).totals["several experiments"]


def test_a_store_learns_it_with_the_next_run(folder, tmp_path, capsys):
    scoring.score("baseline:uniform", str(folder), tmp_path / "out", progress="none")
    assert store.read_scores(tmp_path / "out")["person"].n_unique() == 12
    (folder / "study.toml").write_text("same_people = true\n")
    scoring.score("baseline:uniform", str(folder), tmp_path / "out", progress="lines")
    rows = store.read_scores(tmp_path / "out")
    assert rows["person"].n_unique() == 6 and len(rows) == 24
    assert "12 stored transcripts now count as of other people" in capsys.readouterr().err


@pytest.mark.slow
def test_intervals_hold_if_people_are_counted_once():
    "Four experiments with the same people, who differ in their effect: counted four times, 95% intervals hold the truth in 67%."
    hits = []
    for seed in range(400):
        random = np.random.default_rng(seed)
        own = random.normal(0.1, 0.3, 25)
        rows = [(f"s/{part}/{who}", f"s/{who}", own[who] + random.normal(0, 0.1)) for part in range(4) for who in range(25) for _ in range(5)]
        table = pl.DataFrame(rows, schema=["apart", "same", "difference"], orient="row")
        found = [by_person(table.select(study=pl.lit("s"), person=name, difference="difference")) for name in ("apart", "same")]
        ends = [cluster_interval(one["difference"], one["responses"]) for one in found]
        hits.append([one["low"] <= 0.1 <= one["high"] for one in ends])
    apart, same = np.mean(hits, 0)
    assert apart < 0.8 and 0.92 <= same <= 0.98, (apart, same)
