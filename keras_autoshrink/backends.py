"""What takes TensorFlow: said in one line where there is none. All else runs on every backend."""

from __future__ import annotations

import importlib.util


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
