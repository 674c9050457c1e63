"""Who took part: everything that is told is read, or seen and counted; nothing is guessed, nothing is lost."""
import math

import numpy as np
import pandas as pd
import pycountry
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psych201 import participants
from psych201.transcripts import Transcript

WRITTEN = st.one_of(st.none(), st.booleans(), st.integers(-5, 2030), st.floats(), st.text(max_size=12), st.lists(st.integers(), max_size=2),
                    st.sampled_from(["31", "F", "male", "British", "Other (Kenyan)", "PhD", "prefer not to say", "N/A", "young", "18-25", "Healthy", "2,5"]))
FIELDS = st.sampled_from(["age", "Age", "sex", "gender", "location", "education", "clinical diagnosis", "stai_total", "bis", "bas_drive", "GAD-7", "mood", "trials"])


@given(st.lists(st.tuples(st.integers(0, 4), st.dictionaries(FIELDS, WRITTEN, max_size=5)), max_size=12))
@settings(deadline=None, max_examples=200)
def test_whatever_is_told_is_in_the_table_or_counted(sessions):
    "One row a person; each value is standard or seen as written; the report adds up; the table fits its schema."
    some = [Transcript("<<J>>", "s", "e", str(who), row, metadata=told) for row, (who, told) in enumerate(sessions)]
    table, report = participants.people(some), participants.field_report(some)
    assert len(table) == len({who for who, _ in sessions}) and not table[["study", "person"]].duplicated().any()
    participants.check_people(table)
    assert (report["told"] + report["not_told"] == report["people"]).all() and (report["read"] + report["unread"] == report["told"]).all()
    assert set(report["field"]) == {name for _, told in sessions for name in told}
    assert table["age"].dropna().between(0, 100).all() and set(table["gender"]) <= {*participants.GENDERS, ""}
    for name in participants.PERSON_FIELDS:
        written, value = table[f"{name}_written"], table[name]
        known = value.notna() if name == "age" else value != ""
        assert not (known & (written == "")).any()
    for (standard,), rows in report.loc[report["unread"] > 0].groupby(["standard"]):
        assert f"{standard}_written" in table, standard


def test_countries_of_iso_are_read_by_every_name():
    for country in pycountry.countries:
        names = [getattr(country, kind) for kind in ("name", "official_name", "common_name", "alpha_2", "alpha_3") if hasattr(country, kind)]
        assert {participants.read_country(name) for name in names} == {country.alpha_3}, country
        assert participants.read_country(participants.country_name(country.alpha_3)) == country.alpha_3


def test_our_table_of_countries_is_sound():
    from importlib.resources import files

    table = pd.read_csv(files("psych201") / "assets" / "tables" / "countries.csv", keep_default_na=False)
    assert not table["written"].str.casefold().duplicated().any() and set(table["kind"]) == {"demonym", "nation", "name", "city"}
    assert all(participants.read_country(written) == country for written, country in table[["written", "country"]].itertuples(index=False))
    of_iso = {country.name.casefold(): country.alpha_3 for country in pycountry.countries}
    assert all(of_iso.get(written.casefold(), country) == country for written, country in table[["written", "country"]].itertuples(index=False))


@pytest.mark.parametrize("written", ["no", "is", "it", "in", "me", "be", "at", "Other", "European", "American Indian or Alaska Native/White", "mixed", "Black African", "7"])
def test_words_are_no_countries(written):
    assert participants.read_country(written) == ""


def test_no_two_fields_are_mixed_up():
    "Every field of a published persona finds its name, under the names that contributors used."
    used = {"STAI-T": "STAI-T", "STICSA-T cognitive": "STICSA-T cognitive", "audit_total": "AUDIT", "oci_total": "OCI", "sds_total": "SDS", "DAST": "DAST", "gad7": "GAD-7", "phq8": "PHQ-8",
            "pswq": "PSWQ", "bas_fun_seeking": "BAS Fun Seeking", "STICSAsoma": "STICSA-T somatic", "IUS": "IUS", "RRQ": "RRQ", "BDI-II score": "BDI-II"}
    assert {field: participants.standard_name(field).standard for field in used} == used
    assert len(participants.PUBLISHED_QUESTIONNAIRES) == 20 and len(participants.PERSON_FIELDS) == 5


def test_people_of_real_studies(studies):
    "What is known of these studies: nobody's age is lost."
    table, report = participants.people(studies), participants.field_report(studies)
    assert len(table) == len({one.person for one in studies}) and report["unread"].sum() == 0
    by_study = table.groupby("study")
    ages = by_study["age"].count()
    assert ages[ages > 0].to_dict() == {"busch2024_stroop": 125, "decker2016twostep": 80, "guenther2020LDT": 146, "guenther2024associations_sentences_texts": 540,
                                        "guenther2024substitutions": 877, "rosenbaum2022valence": 62, "thoma2025riskychoice": 301}
    assert table["age"].min() < 5 and table["age"].max() <= 100
    gender = table.loc[table["study"] == "rosenbaum2022valence", "gender"].value_counts()
    assert set(gender.index) == {"female", "male"} and gender.sum() == 62
    assert (table.loc[table["study"] == "dezfouli2019", "diagnosis"] != "").all()
    assert table.loc[table["study"] == "rosenbaum2022valence", ["BAS Drive", "BIS-11", "BIS"]].notna().all().all()
    participants.check_people(table)


def test_reaction_times_of_real_studies(studies):
    "In milliseconds, one a response, for the studies that have them; texts are read, NaN and negative ones are not known."
    report = participants.times_report(studies).to_pandas().set_index("study")
    have = report[report["usable"] > 0]
    assert set(have.index) == {"busch2024_stroop", "franke2024bayesian", "guenther2020LDT", "haridi2024memory", "rosenbaum2022valence", "shahar2019twosteptask", "xu2023augmenting"}
    assert (report["usable"] + report["none"] + report["other_length"] == report["transcripts"]).all() and have["median"].between(100, 20_000).all(), have["median"]
    table = participants.reaction_times(studies)
    assert table["milliseconds"].count() == report["known"].sum() and len(table) == (report["known"] + report["unknown"]).sum()
    first = next(one for one in studies if one.study == "busch2024_stroop")
    assert table.filter(transcript=first.key)["milliseconds"].to_list() == [float(time) for time in first.reaction_times]


@given(st.lists(st.one_of(st.none(), st.floats(), st.text(max_size=5), st.integers(-10, 5000)), max_size=6))
def test_any_list_of_times_is_read(values):
    text = " ".join("<<J>>" for _ in values) or "<<J>>"
    found = participants.read_times(Transcript(text, "s", "e", "1", reaction_times=tuple(values)))
    assert (found is None) == (len(values) != text.count("<<"))
    if found is not None:
        assert len(found) == len(values) and (np.isnan(found) | (found >= 0)).all() and not np.isinf(found).any()


def test_ages_are_never_guessed():
    assert [participants.read_age(written) for written in ("31", "22 years", "18 months")] == [31, 22, 1.5]
    assert all(math.isnan(participants.read_age(written)) for written in ("18-25", "20s", "about 30", "1990", "-3", "30/40", "³"))
