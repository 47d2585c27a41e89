"""Runs the tutorials and stores them with what they print: `make tutorials`.

A notebook keeps a digest of the code that its outputs came of, so that a test can tell when the
code has been changed and not run since. Files that a notebook makes go to `runs` beside it.
"""

import argparse
import hashlib
import os
import re
import time
from pathlib import Path

import nbclient
import nbformat

HERE = Path(__file__).parent
NAMES = sorted(path.stem for path in HERE.glob("*.ipynb"))


def code_digest(notebook: nbformat.NotebookNode) -> str:
    """Digests the sources of all code cells in their order: SHA-256, as hexadecimal digits.

    Lines that import do not count: where a name comes from changes no output.
    """
    sources = [
        re.sub(r"(?m)^(?:from|import) .*\n?", "", cell.source)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def make_small(notebook: nbformat.NotebookNode) -> None:
    """Lets another cell after that of the parameters choose `SETTING = "small"`."""
    tags = [cell.metadata.get("tags", ()) for cell in notebook.cells]
    (place,) = [place for place, names in enumerate(tags) if "parameters" in names]
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell('SETTING = "small"'))


def execute(notebook: nbformat.NotebookNode, folder: Path, timeout: int | None = None) -> None:
    """Runs a notebook's cells from top to bottom, and replaces their outputs.

    Args:
        notebook: is changed.
        folder: the working directory.
        timeout: for each cell, in seconds.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    nbclient.NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,  # the times of cells would differ in every commit
        resources={"metadata": {"path": str(folder)}},
    ).execute()


def store(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Writes a notebook that has been run, without what differs from machine to machine."""
    for cell in notebook.cells:
        # Log lines of TensorFlow and LiteRT, which name the machine and which no setting stops.
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    notebook.metadata["outputs_of_code"] = code_digest(notebook)
    notebook.metadata["language_info"] = {"name": "python"}
    written = path.with_suffix(".tmp")
    nbformat.write(notebook, written)
    written.replace(path)


def main() -> None:
    """Runs the notebooks that the command line names, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which to run: {', '.join(NAMES)}; default: all"
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help='with SETTING = "small"; the outputs go to runs/NAME.small.ipynb instead',
    )
    options = parser.parse_args()
    names = options.names or NAMES
    if unknown := [name for name in names if name not in NAMES]:
        parser.error(f"no tutorial is called {unknown[0]}: there are {', '.join(NAMES)}")
    for name in names:
        path = HERE / f"{name}.ipynb"
        notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
        if options.small:
            make_small(notebook)
            path = HERE / "runs" / f"{name}.small.ipynb"
            path.parent.mkdir(exist_ok=True)
        started, before = time.monotonic(), os.times()
        execute(notebook, HERE)
        after = os.times()
        store(notebook, path)
        # A notebook runs in a process of its own, which has ended by now.
        busy = after.children_user + after.children_system
        busy -= before.children_user + before.children_system
        minutes = (time.monotonic() - started) / 60
        print(f"{name}: {minutes:.1f} min, {busy / 60:.1f} min of processor time", flush=True)


if __name__ == "__main__":
    main()
