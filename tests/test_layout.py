"""Imports point one way, and what needs no Keras loads none."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from forked import Script

ROOT = Path(__file__).parent.parent

# Each package imports only from those before it; the ground floor's modules are one of them.
LAYERS = ["ground", "costs", "search", "data", "networks", "training", "hypermodels"]
LAYERS += ["report", "tuner", "commands"]
# Who may import the export, and what loads TensorFlow's pipelines.
WITH_EXPORT = {"tuner", "commands"}
WITH_TENSORFLOW = {"data/streams.py", "data/augmentation.py", "training/distribution.py"}
WITH_TENSORFLOW |= {"tuner/devices.py"}


def imported(path):
    """The modules that a file imports, in functions or not, but for annotations alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checks = [n for n in ast.walk(tree) if isinstance(n, ast.If)]
    typing = {n for c in checks if ast.unparse(c.test) == "TYPE_CHECKING" for n in ast.walk(c)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in typing:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import) and node not in typing:
            yield from (alias.name for alias in node.names)


def layer(parts):
    return parts[0] if parts[0] in LAYERS else "ground"


def test_imports_point_one_way():
    for path in sorted((ROOT / "keras_autoshrink").rglob("*.py")):
        here = path.relative_to(ROOT / "keras_autoshrink")
        if str(here) == "__init__.py":
            continue
        for name in imported(path):
            first, *rest = name.split(".")
            if first == "keras_autoshrink" and rest not in ([], ["__version__"]):
                below = LAYERS.index(layer(rest)) <= LAYERS.index(layer(here.parts))
                assert below, f"{here} imports {name}"
            if first == "tflite_export":
                assert layer(here.parts) in WITH_EXPORT, f"{here} imports {name}"
            assert not name.startswith(("keras.src", "keras_tuner.src")), f"{here}: {name}"
    for path in (ROOT / "tflite_export").rglob("*.py"):
        assert not any(name.startswith("keras_autoshrink") for name in imported(path)), path


def test_a_module_loads_no_more_than_it_needs():
    modules = (
        "keras_autoshrink.commands.cli, keras_autoshrink.commands.launcher, "
        "keras_autoshrink.search.shrink, keras_autoshrink.score, "
        "keras_autoshrink.report.page, keras_autoshrink.report.tensorboard, "
        "keras_autoshrink.data.text, "
        "tflite_export.__main__"
    )
    unloaded = {"ai_edge_litert", "keras", "keras_tuner", "tensorflow"}
    code = f"import sys, {modules}; print({unloaded} & {{*sys.modules}})"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout.strip() == "set()", printed.stderr
    # In the copy of a process that has loaded no more than the tuner and a HyperModel.
    modules = "keras_autoshrink.commands.images, keras_autoshrink.commands.text"
    unloaded = {f"keras_autoshrink.{p[:-3].replace('/', '.')}" for p in WITH_TENSORFLOW}
    code = f"import sys, {modules}; print({unloaded} & {{*sys.modules}})"
    _, printed, errors = Script(code).end()
    assert printed.strip() == "set()", errors


def test_public_names_are_there():
    import keras_autoshrink

    for name in keras_autoshrink.__all__:
        assert getattr(keras_autoshrink, name) is not None
        assert name in dir(keras_autoshrink)
    with pytest.raises(AttributeError, match="no attribute 'Shrink'"):
        _ = keras_autoshrink.Shrink
