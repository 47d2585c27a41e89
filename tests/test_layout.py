"""Imports point one way, and what needs no Keras loads none."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Each module imports only from lines above its own.
ORDER = """
    checks attempts memory shuffling lifeline address backends
    search_batches
    canonical files op_names costs.zero costs.calls recipes augmentation distribution
    argument_types tasks child_process language_layers text_windows averaged_sgd
    surrogate shared_arguments
    cell score checkpoint run_record image_checks costs.layers costs.products costs.input_shapes
    train_arguments supervisor vocabulary text_pipeline text_recipes
    pydoc_text operations cost_limits costs.graph image_folders fit_checks splits recurrent
    text_data generation published_cells trajectory parts cell_layout
    html_quantities op_colours
    affordable html_tables html_charts html_cells
    html_curves
    acquisition
    strategies seeds report search_space networks datasets costs streams language_models
    shrink search_arguments results
    search_state
    trials progress settings applications callbacks runs imagenet input_pipeline evaluation
    arguments masked_layout
    launcher masked_network html_facts
    masked_training weights_file tensorboard_log
    masked_tensorflow masked_jax inheritance
    service recovery search_folder
    limits worker training text_training candidate_latency
    trainee hypermodels racing
    candidate_costs persistence
    screening html_report
    candidate_training
    round_training
    masked_search
    oracle trial_weights
    candidate_tuner
    cluster resumable
    search_devices
    tuner language_hypermodel
    pipeline
    image_pipeline text_commands
    image_choice
    image_optimisation
    image_commands image_demo text_demo
    commands
    cli
"""
RANK = {name: rank for rank, line in enumerate(ORDER.strip().splitlines()) for name in line.split()}

# TensorFlow's input pipelines and devices. All else runs on every Keras backend, and imports
# these, if at all, where they are needed.
TENSORFLOW = {
    "streams",
    "imagenet",
    "augmentation",
    "input_pipeline",
    "distribution",
    "search_batches",
    "cluster",
    "search_devices",
    "masked_tensorflow",
    "text_pipeline",
}
# What brings the search and the export together.
BOTH = {
    "candidate_latency",
    "pipeline",
    "image_pipeline",
    "image_choice",
    "image_commands",
    "image_demo",
    "image_optimisation",
    "text_commands",
    "text_demo",
    "commands",
    "generation",
    "arguments",
    "launcher",
    "cli",
}


def imported(path, in_functions=True):
    """The modules that a file imports, in functions or not, but for annotations alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = () if in_functions else (ast.FunctionDef, ast.AsyncFunctionDef)
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, functions)
        or (isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING")
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def dotted(path):
    """A file's name as it is imported, without its package: `costs.calls`, `cell`."""
    parts = path.relative_to(ROOT).with_suffix("").parts[1:]
    return ".".join(part for part in parts if part != "__init__")


def modules(package):
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", modules("keras_autoshrink"), ids=dotted)
def test_imports_of_the_search_point_one_way(path):
    module = dotted(path)
    if not module:
        return
    assert module in RANK, "a new module: give it a place in ORDER"
    for name in imported(path):
        parts = name.split(".")
        if module not in TENSORFLOW:
            assert parts[0] != "tensorflow", "the search runs on every Keras backend"
        assert parts[:2] not in (["keras", "src"], ["keras_tuner", "src"]), "a private module"
        if parts[0] == "keras_autoshrink":
            # The last part may be a name in the module, or the module itself.
            known = [".".join(parts[1:end]) for end in (3, 2) if ".".join(parts[1:end]) in RANK]
            if not known:  # a name of the package itself
                continue
            assert RANK[known[0]] < RANK[module], f"{module} imports {known[0]}"
            if module not in TENSORFLOW and known[0] in TENSORFLOW:
                assert name not in imported(path, in_functions=False), "import it in a function"
        if parts[0] == "tflite_export":
            assert module in BOTH


@pytest.mark.parametrize("path", modules("tflite_export"), ids=dotted)
def test_the_export_never_imports_the_search(path):
    assert not [name for name in imported(path) if name.startswith("keras_autoshrink")]


@pytest.mark.parametrize(
    "module",
    [
        "keras_autoshrink",
        "keras_autoshrink.cli",
        "keras_autoshrink.launcher",
        "keras_autoshrink.vocabulary",
        "keras_autoshrink.runs",
        "keras_autoshrink.score",
        "keras_autoshrink.shrink",
        "tflite_export.__main__",
        "tflite_export",
    ],
)
def test_what_needs_no_keras_loads_none(module):
    code = (
        f"import sys, {module}; "
        "print({'ai_edge_litert', 'keras', 'keras_tuner', 'tensorflow'} & {*sys.modules})"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout.strip() == "set()", printed.stderr


def test_the_command_search_loads_no_input_pipelines():
    code = (
        "import argparse, sys; from keras_autoshrink import commands, image_commands;"
        "options = argparse.Namespace(dataset=None, image_size=None, data_dir=None);"
        "image_commands._source(options, {});"
        f"print({{*sys.modules}} & {set(map('keras_autoshrink.{}'.format, TENSORFLOW))})"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout.strip() == "set()", printed.stderr


def test_public_names_are_there():
    import keras_autoshrink

    for name in keras_autoshrink.__all__:
        assert getattr(keras_autoshrink, name) is not None
        assert name in dir(keras_autoshrink)
    with pytest.raises(AttributeError, match="no attribute 'Shrink'"):
        _ = keras_autoshrink.Shrink
