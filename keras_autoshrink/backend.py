"""What depends on Keras's backend: TensorFlow's presence, compilation, and memory."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from typing import Any


def check_tensorflow(what: str, *packages: str) -> None:
    """Checks that TensorFlow is installed, without importing it.

    Args:
        what: what needs it, whatever Keras's backend; the message begins with it.
        *packages: what it needs besides, by the names that pip knows.

    Raises:
        ValueError: some of them are missing; the message names them.
    """
    wanted = ("tensorflow", *packages)
    missing = [p for p in wanted if importlib.util.find_spec(p.replace("-", "_")) is None]
    if missing:
        raise ValueError(
            f"{what}: needs {' and '.join(missing)}, not installed here: "
            f"pip install {' '.join(missing)}"
        )


def check_tensorflow_backend(what: str) -> None:
    """Checks that Keras computes by TensorFlow.

    Args:
        what: what needs that; the message begins with it.

    Raises:
        ValueError: Keras has another backend.
    """
    import keras  # not at the top: the command line reads its options before it loads Keras

    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            f"{what}: needs Keras's TensorFlow backend, this is {backend}; set "
            "KERAS_BACKEND=tensorflow (and pip install tensorflow, where it is missing)"
        )


def jit_compile() -> bool | str:
    """Chooses what to give `keras.Model.compile` as `jit_compile`."""
    import keras

    # XLA compiles longer than a small network trains, and runs it slower on CPUs.
    return False if keras.backend.backend() == "tensorflow" else "auto"


@contextlib.contextmanager
def graphs_released() -> Iterator[None]:
    """Releases the graphs that are traced inside, so that Python's garbage collection frees them.

    TensorFlow never forgets a custom gradient, and each holds on to its graph. Models that were
    made inside go on working: tracing them again registers what they need. Only a function with a
    custom gradient that was traced inside cannot be derived outside any more.

    On other backends, and should TensorFlow's registry look different, nothing happens.
    """
    before = set(_registered_gradients())
    try:
        yield
    finally:
        gradients = _registered_gradients()
        for name in set(gradients) - before:
            # Other names are of kinds of ops, which someone may have loaded inside.
            if name.startswith("CustomGradient-"):
                del gradients[name]


def _registered_gradients() -> dict[str, Any]:
    """Returns TensorFlow's registry of gradients, if it is loaded; there is no public way."""
    ops = sys.modules.get("tensorflow.python.framework.ops")
    gradients = getattr(getattr(ops, "gradient_registry", None), "_registry", None)
    return gradients if isinstance(gradients, dict) else {}
