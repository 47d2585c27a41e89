"""What depends on Keras's backend: whether TensorFlow is there, and what it never lets go of."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from typing import Any


def check_tensorflow(what: str, *packages: str) -> None:
    """Raises where TensorFlow is not installed, before anything imports it.

    Args:
        what: needs it, whatever Keras's backend.
        *packages: that it needs besides, by the names that pip knows.

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
    """Raises where Keras computes by another backend than TensorFlow.

    Args:
        what: takes that one.

    Raises:
        ValueError: Keras has another one.
    """
    import keras  # not at once: the command line reads its options before it

    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            f"{what}: needs Keras's TensorFlow backend, this is {backend}; set "
            "KERAS_BACKEND=tensorflow (and pip install tensorflow, where it is missing)"
        )


@contextlib.contextmanager
def graphs_released() -> Iterator[None]:
    """Lets go of the graphs that were traced inside, when Python next collects garbage.

    Models that were made inside work on: tracing them again registers what they need. Only the
    gradient of a function that was traced inside can no longer be derived outside, if the
    function has a custom gradient.

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
    """TensorFlow's registry itself, where it is loaded; there is no public way to it."""
    ops = sys.modules.get("tensorflow.python.framework.ops")
    gradients = getattr(getattr(ops, "gradient_registry", None), "_registry", None)
    return gradients if isinstance(gradients, dict) else {}
