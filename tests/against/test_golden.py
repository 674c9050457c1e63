"""Scores of real models on real transcripts, against values computed independently of this project."""
import numpy as np
import pandas as pd
import polars as pl
import pytest

from helpers.texts import encode
from psych201 import inputs
from psych201.scoring.language_model import LanguageModelScorer
from psych201.transcripts import CLOSE, OPEN, Transcript

TOLERANCE = 2e-3  # nats per response, from the README of the golden values
CUT = 6_000  # characters, likewise


def whole_answers(text: str) -> str:
    "A text without its last answer where that is not closed."
    return text.rpartition(OPEN)[0] if text.count(OPEN) > text.count(CLOSE) else text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gemma-3-270m"])
def test_every_golden_response_is_reached(name, packaged, studies, golden_path):
    """Rows 0 and len/2 of every study: same spans, same number of tokens, same NLL.

    The spans are those of rule paper, as the reference used it, and scores come from `LanguageModelScorer`, which is
    behind every command: for each study once of rule span, where it gives the same ids, and once of rule paper.
    """
    golden = pd.read_csv(golden_path / f"{name}.csv", keep_default_na=False, dtype={"response": str})
    texts = {(transcript.study, transcript.row): whole_answers(transcript.text[:CUT]) for transcript in studies}
    model, compared = packaged(name), {"span": 0, "paper": 0}
    for key, expected in golden.groupby(["study", "row"], sort=False):
        text = inputs.paper_text(texts[key])
        found = inputs.encode_paper(text, model.tokenizer)
        rule = "span" if key[1] == 0 and np.array_equal(encode(text, model.tokenizer).ids, found.ids) else "paper"
        scored = Transcript(text if rule == "span" else texts[key], key[0], "e", "1")
        rows = LanguageModelScorer(model, rule=rule).score([scored]).filter(pl.col("reason").is_null())
        assert rows["n_tokens"].to_list() == expected["n_tokens"].tolist(), key
        assert [answer.strip() for answer in rows["response"]] == [answer.strip() for answer in expected["response"]], key
        np.testing.assert_allclose(rows["nll"], expected["nll_paper"].astype(float), rtol=0, atol=TOLERANCE, err_msg=str(key))
        compared[rule] += len(expected)
    assert sum(compared.values()) == len(golden) > 1_000 and min(compared.values()) > 500
    assert {study for study, _ in golden.groupby("study")} == {transcript.study for transcript in studies}


def test_rule_span_agrees_where_it_finds_the_same_tokens(packaged, studies, golden_path):
    "On the published text, rule span finds every marked response; where ids are equal, so are the spans."
    model = packaged("smollm2-135m-instruct")
    golden = pd.read_csv(golden_path / "smollm2-135m-instruct.csv", keep_default_na=False)
    keys, equal = set(zip(golden["study"], golden["row"])), 0
    for transcript in studies:
        if (transcript.study, transcript.row) in keys:
            text = inputs.paper_text(transcript.text, CUT)
            exact, found = encode(text, model.tokenizer), inputs.encode_paper(text, model.tokenizer)
            full = exact.end > exact.start
            assert full.sum() >= len(found.start)
            if np.array_equal(exact.ids, found.ids):
                equal += 1
                np.testing.assert_array_equal(exact.start[full], found.start)
                np.testing.assert_array_equal(exact.end[full], found.end)
    assert equal > len(keys) / 2
