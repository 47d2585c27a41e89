"""The tutorials run from top to bottom, and are committed as they ran."""

import re
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tutorials"))

import execute  # noqa: E402 - it lies in no package

ANSI = re.compile(r"\x1b\[[0-9;]*m")
# A folder of one machine; not the end of another path, of a device's for one.
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:root|home|tmp|work)\b")

each_notebook = pytest.mark.parametrize(
    "path", sorted((ROOT / "tutorials").glob("*.ipynb")), ids=lambda path: path.stem
)


def load(path: Path) -> nbformat.NotebookNode:
    """Reads a notebook."""
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


@pytest.mark.timeout(900)  # up to a minute on a quiet machine
@each_notebook
def test_it_runs_small(path, tmp_path):
    notebook = load(path)
    # Other kernels of this name may be installed for the user.
    this_python = f"import sys\nassert sys.executable == {sys.executable!r}, sys.executable"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(this_python))
    execute.make_small(notebook)
    try:
        execute.execute(notebook, tmp_path, timeout=840)
    except nbclient.exceptions.CellExecutionError as error:
        pytest.fail(ANSI.sub("", str(error)), pytrace=False)


@each_notebook
def test_it_is_committed_with_the_outputs_of_one_run_of_its_code(path):
    notebook = load(path)
    nbformat.validate(notebook)
    # Else the code was changed after its outputs were made: `make tutorials NAMES=...`.
    assert notebook.metadata["outputs_of_code"] == execute.code_digest(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    assert not MACHINE_PATH.search(str([cell.source for cell in notebook.cells] + outputs))
