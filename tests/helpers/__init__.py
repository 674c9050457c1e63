"""What tests of several rooms share."""
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FULL = bool(os.environ.get("PSYCH201_FULL"))


def missing(reason: str):
    "Skips, or fails where PSYCH201_NO_SKIP says that everything must be there, as in CI."
    (pytest.fail if os.environ.get("PSYCH201_NO_SKIP") else pytest.skip)(reason)
