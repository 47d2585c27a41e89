"""Where the examples in docstrings write their files."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _examples_write_into_a_temporary_folder(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.chdir(tmp_path)
