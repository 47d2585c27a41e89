"""The private members of KerasTuner that this library uses or overrides, all of them."""

import ast
import inspect
from pathlib import Path

import keras_tuner

import keras_autoshrink

# A new version of KerasTuner that lacks one of them, or calls it otherwise, breaks a search.
ORACLE = {
    "_project_dir": None,
    "_retry_queue": None,
    "_run_times": None,
    "_save_trial": ["self", "trial"],
}
TUNER = {
    "_build_and_fit_model": ["self", "trial", "args", "kwargs"],
    "_build_hypermodel": ["self", "hp"],
    "_get_build_config_fname": ["self", "trial_id"],
    "_get_checkpoint_fname": ["self", "trial_id"],
    "_get_tuner_fname": ["self"],
    "_is_worker": ["self"],
    "_try_build": ["self", "hp"],
    "_run_and_update_trial": ["self", "trial", "fit_args", "fit_kwargs"],
    "_try_run_and_update_trial": ["self", "trial", "fit_args", "fit_kwargs"],
}


def used(module, instance):
    """The private members of a class of KerasTuner that a module of ours uses or defines."""
    path = Path(keras_autoshrink.__file__).parent / "tuner" / f"{module}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    return {
        n for n in names if n.startswith("_") and not n.startswith("__") and hasattr(instance, n)
    }


def parameters(kind, name):
    member = getattr(kind, name, None)
    return list(inspect.signature(member).parameters) if inspect.isfunction(member) else None


def test_private_members_of_the_oracle():
    oracle = keras_tuner.Oracle()
    oracle._set_project_dir("runs", "search")
    assert used("oracle", oracle) == ORACLE.keys()
    assert {name: parameters(keras_tuner.Oracle, name) for name in ORACLE} == ORACLE


def test_private_members_of_the_tuner(tmp_path):
    oracle = keras_tuner.oracles.RandomSearchOracle("loss")
    tuner = keras_tuner.Tuner(oracle, lambda hp: None, directory=tmp_path)
    assert used("tuner", tuner) == TUNER.keys()
    assert {name: parameters(keras_tuner.Tuner, name) for name in TUNER} == TUNER
