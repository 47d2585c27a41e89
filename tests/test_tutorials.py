"""The tutorials run from top to bottom, and are committed as they ran."""

import ast
import re
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parent.parent
TUTORIALS = ROOT / "tutorials"
sys.path.insert(0, str(TUTORIALS))

import execute  # noqa: E402 - it lies in no package

NAMES = (
    "01_first_search",
    "02_shrinkcnn_cifar10",
    "03_shrinkrnn_text",
    "04_your_own_space",
    "05_tflite_android",
    "06_many_machines",
)
NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))

INSTALL = re.compile(r"(?:# .*\n)+# %pip install --quiet '?keras_autoshrink\b.*")
ANSI = re.compile(r"\x1b\[[0-9;]*m")
# A folder of one machine; not the end of another path, of a device's for one.
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:root|home|tmp|work)\b")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def load(path):
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell):
    """What a reader sees below a cell as text."""
    texts = []
    for output in cell.outputs:
        if output.output_type == "stream":
            texts.append(output.text)
        texts += [text for mime, text in output.get("data", {}).items() if mime.startswith("text/")]
    return "\n".join(texts)


def shows(cell):
    """Whether the last thing that a cell does is to print, or to name what Jupyter displays."""
    if cell.source.startswith("%%"):
        return False
    body = ast.parse(re.sub(r"(?m)^[%!].*$", "", cell.source)).body
    if not body or not isinstance(body[-1], ast.Expr):
        return re.search(r"(?m)^!", cell.source) is not None
    call = body[-1].value
    if not isinstance(call, ast.Call):
        return not cell.source.endswith(";")
    return ast.unparse(call.func).rpartition(".")[2] in ("print", "display")


def test_all_tutorials_are_there():
    assert tuple(path.stem for path in NOTEBOOKS) == NAMES
    readme = (TUTORIALS / "README.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"[{name}.ipynb]({name}.ipynb)" not in readme] == []


# Up to a minute on a quiet machine.
@pytest.mark.slow
@pytest.mark.timeout(900)
@each_notebook
def test_it_runs(path, tmp_path):
    committed, notebook = load(path), load(path)
    # Other kernels of this name may be installed for the user.
    this_python = f"import sys\nassert sys.executable == {sys.executable!r}, sys.executable"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(this_python))
    execute.make_small(notebook)
    try:
        execute.execute(notebook, tmp_path, timeout=840)
    except nbclient.exceptions.CellExecutionError as error:
        pytest.fail(ANSI.sub("", str(error)), pytrace=False)
    ran = {cell.id: cell for cell in notebook.cells}
    # TensorFlow's and LiteRT's log lines, which no setting stops, are not committed.
    printing = {
        cell_id
        for cell_id, cell in ran.items()
        if any(output.get("name") != "stderr" for output in cell.get("outputs", ()))
    }
    silent = [c.source for c in code_cells(committed) if c.id in printing and not c.outputs]
    assert silent == []


@each_notebook
def test_it_is_committed_with_the_outputs_of_one_run_of_its_code(path):
    notebook = load(path)
    # Else the code was changed after its outputs were made: `make tutorials NAMES=...`.
    assert notebook.metadata["outputs_of_code"] == execute.code_digest(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    assert [cell.source for cell in cells if shows(cell) and not cell.outputs] == []
    outputs = [output for cell in cells for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []


@each_notebook
def test_it_says_nothing_of_the_machine_that_it_ran_on(path):
    notebook = load(path)
    texts = [cell.source for cell in notebook.cells] + [*map(printed, code_cells(notebook))]
    assert [text for text in texts if MACHINE_PATH.search(text)] == []
    assert [cell.metadata for cell in notebook.cells if "execution" in cell.metadata] == []
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert notebook.metadata.get("kernelspec") == kernel


@each_notebook
def test_it_has_the_form_of_a_tutorial(path):
    notebook = load(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    install, parameters = code_cells(notebook)[:2]
    assert INSTALL.fullmatch(install.source)
    assert parameters.metadata["tags"] == ["parameters"]
    assert parameters.source.endswith('\nSETTING = "full"')
    assert path.stat().st_size < 500_000
