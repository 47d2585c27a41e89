"""Checkpoints of a training, so that it can go on after whatever stopped it."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_autoshrink import files
from keras_autoshrink.checks import check_same

_STATE = "state.json"
_KINDS = {"settings": dict, "history": dict, "epochs_done": int, "weights": str}


class TrainingCheckpoint(keras.callbacks.Callback):
    """A callback that writes the state of a training after each epoch, and what it has written.

    The state is the weights, the optimizer's variables and the curves. Given to a training, a
    checkpoint continues what a killed one has left in the folder.

    `keras.callbacks.BackupAndRestore` writes the weights and the number of the epoch into two
    files one after the other: a kill between the two repeats an epoch on weights that have
    seen it. Here the weights get a name of their own, and a small file that names them
    replaces the older one in one step. It is the only thing that is believed.

    Args:
        folder: where to write, or None to write nothing; made when there is something to write.
        settings: plain values that a training has to share to go on with this state, such as the
            cell, the recipe and the seed.

    Attributes:
        history: for each metric its value after each epoch, those before a kill among them.
        epochs_done: number of epochs in it.

    Raises:
        ValueError: the folder holds a state of other settings, or a damaged one.
    """

    def __init__(self, folder: Path | None, settings: dict[str, Any]) -> None:
        super().__init__()
        self.folder = folder
        self.settings = json.loads(json.dumps(settings))  # as they will be read
        self.history: dict[str, list[float]] = {}
        self.epochs_done = 0
        self._weights: Path | None = None
        if folder is None or not (folder / _STATE).is_file():
            return
        state = files.read_json(folder / _STATE)
        for name, kind in _KINDS.items():
            if not isinstance(state.get(name), kind):
                raise ValueError(f"{folder / _STATE}: damaged: has no {name}; delete its folder")
        self.history, self.epochs_done = state["history"], state["epochs_done"]
        self._weights = folder / state["weights"]
        check_same(
            state["settings"],
            self.settings,
            f"{folder} holds an unfinished training",
            "give it the same settings to go on, or overwrite=True (--overwrite) to begin anew",
        )

    def restore(self, model: keras.Model) -> None:
        """Loads the state on the disk, if there is one, into a compiled model.

        Args:
            model: changed in place.

        Raises:
            ValueError: the file cannot be read, or is that of another model.
        """
        model.optimizer.build(model.trainable_variables)  # or it would have no variables yet
        if self._weights is None:
            return
        variables = _variables(model)
        try:
            with np.load(self._weights, allow_pickle=False) as file:
                values = [file[f"{number}"] for number in range(len(file.files))]
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        except Exception as error:  # zipfile and zlib have errors of their own
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{self._weights}: damaged: {reason}; delete its folder") from error

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Writes the state; `epoch` counts from 0, and `logs` has the loss.

        Raises:
            RuntimeError: the loss is not a finite number.
        """
        logs = {name: float(value) for name, value in (logs or {}).items()}
        if not math.isfinite(logs["loss"]):
            # What is on the disk stays that of the epoch before.
            raise RuntimeError(
                f"the loss of epoch {epoch + 1} is {logs['loss']}; a lower learning rate may help"
            )
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)
        self.epochs_done = epoch + 1
        if self.folder is not None:
            self._write(self.folder)

    def _write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        weights = folder / f"epoch-{self.epochs_done}.npz"
        values = {f"{number}": np.asarray(v) for number, v in enumerate(_variables(self.model))}
        with weights.open("wb") as file:
            np.savez(file, **values)
            file.flush()
            os.fsync(file.fileno())
        state = {
            "settings": self.settings,
            "epochs_done": self.epochs_done,
            "weights": weights.name,
            "history": self.history,
        }
        files.write_text(folder / _STATE, json.dumps(state, indent=1) + "\n")
        for other in folder.glob("epoch-*.npz"):
            if other != weights:
                other.unlink()
        self._weights = weights


def _variables(model: keras.Model) -> list[keras.Variable]:
    """Lists all that a training changes.

    `save_weights` would leave out the state of Dropout's random generators.
    """
    return [*model.variables, *model.optimizer.variables]


def remove_state(folder: Path) -> None:
    """Deletes the state in a folder, and the folder."""
    # First what makes the rest believed: a kill in between leaves no half of a state.
    (folder / _STATE).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def fit(
    model: keras.Model,
    checkpoint: TrainingCheckpoint,
    batches: Callable[[range], Any],
    *,
    steps: int,
    epochs: int,
    callbacks: Sequence[keras.callbacks.Callback],
    log_dir: Path | None,
    validation_data: Any = None,
    verbose: int = 0,
) -> None:
    """Trains a compiled model in the epochs that its checkpoint has not done.

    `batches` makes the `steps` batches of each of some epochs, which are counted from 0. The
    checkpoint, which has been restored into the model, writes what the other callbacks leave.
    """
    callbacks = [*callbacks, checkpoint]
    if log_dir is not None:
        callbacks.append(keras.callbacks.TensorBoard(log_dir, write_graph=False))
    model.fit(
        batches(range(checkpoint.epochs_done, epochs)),
        steps_per_epoch=steps,
        initial_epoch=checkpoint.epochs_done,
        epochs=epochs,
        validation_data=validation_data,
        callbacks=callbacks,
        shuffle=False,  # the batches come in their order
        verbose=verbose,
    )
