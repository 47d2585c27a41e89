"""What the checks of the documentation share; `make docs` runs them after building."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it at its import

import pytest


@pytest.fixture(scope="session")
def built() -> Path:
    """The folder of the documentation as `make docs` has built it."""
    folder = Path(__file__).parents[1] / "_build"
    assert (folder / "index.html").is_file(), "nothing is built: `make docs` builds it first"
    return folder
