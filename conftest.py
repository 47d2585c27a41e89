"""How tests and examples train, and where the examples in docstrings write their files."""

import os
from pathlib import Path

import pytest

# Tests and examples train so little that to start workers would take most of the time; what is of
# workers asks for them. Processes that tests start inherit it.
os.environ["KERAS_AUTOSHRINK_WORKERS"] = "1"


@pytest.fixture(autouse=True)
def _examples_write_into_a_temporary_folder(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.chdir(tmp_path)
