"""Scores of real models on real transcripts, against values computed independently of this project."""
import numpy as np
import pandas as pd
import pytest

from conftest import encode
from psych201 import kernels, published
from psych201.scorers import LanguageModelScorer
from psych201.transcripts import Transcript

TOLERANCE = 2e-3  # nats per response, from the README of the golden values
CUT = 6_000  # characters, likewise


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", pytest.param("gemma-3-270m", marks=pytest.mark.slow)])
def test_every_golden_response_is_reached(name, packaged, studies, golden_path):
    """Rows 0 and len/2 of every study: same spans, same number of tokens, same NLL.

    The spans are those of rule paper, as the reference used it. Where rule span gives the same ids, the NLLs come from
    `LanguageModelScorer`, which is behind every command; elsewhere from the kernel with the spans of rule paper.
    """
    golden = pd.read_csv(golden_path / f"{name}.csv", keep_default_na=False, dtype={"response": str})
    transcripts = {(transcript.study, transcript.row): transcript for transcript in studies}
    model, compared, through_all = packaged(name), 0, 0
    for key, expected in golden.groupby(["study", "row"], sort=False):
        text = published.paper_text(transcripts[key].text, CUT)
        found = published.encode_paper(text, model.tokenizer)
        assert (found.end - found.start).tolist() == expected["n_tokens"].tolist(), key
        if np.array_equal(encode(text, model.tokenizer).ids, found.ids):
            nll = LanguageModelScorer(model).score([Transcript(text, key[0], "e", "1")])["nll"].drop_nulls().to_numpy()
            through_all += len(nll)
        else:
            nll = kernels.score_tokens(model.model, found).nll
        np.testing.assert_allclose(nll, expected["nll_paper"].astype(float), rtol=0, atol=TOLERANCE, err_msg=str(key))
        decoded = [model.tokenizer.decode(found.ids[a:b]) for a, b in zip(found.start, found.end)]
        assert [text.strip() for text in decoded] == [text.strip() for text in expected["response"]], key
        compared += len(expected)
    assert compared == len(golden) > 1_000 and through_all > compared / 2
    assert {study for study, _ in golden.groupby("study")} == {transcript.study for transcript in studies}


def test_rule_span_agrees_where_it_finds_the_same_tokens(packaged, studies, golden_path):
    "On the published text, rule span finds every marked response; where ids are equal, so are the spans."
    model = packaged("smollm2-135m-instruct")
    golden = pd.read_csv(golden_path / "smollm2-135m-instruct.csv", keep_default_na=False)
    keys, equal = set(zip(golden["study"], golden["row"])), 0
    for transcript in studies:
        if (transcript.study, transcript.row) in keys:
            text = published.paper_text(transcript.text, CUT)
            exact, found = encode(text, model.tokenizer), published.encode_paper(text, model.tokenizer)
            full = exact.end > exact.start
            assert full.sum() >= len(found.start)
            if np.array_equal(exact.ids, found.ids):
                equal += 1
                np.testing.assert_array_equal(exact.start[full], found.start)
                np.testing.assert_array_equal(exact.end[full], found.end)
    assert equal > len(keys) / 2
