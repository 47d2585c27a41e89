"""What can be converted, and where to; each refusal is one line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


def check_path(path: Path) -> None:
    """Raises ValueError for a path where no file can be written, as ``convert`` takes it."""
    if path.suffix != ".tflite":
        raise ValueError(f"path must end in .tflite: {path}")
    if path.is_dir():
        raise ValueError(f"path is a folder: {path}")
    if not path.parent.is_dir():
        raise ValueError(f"path is in a folder that does not exist; create it first: {path}")


def check_backend(model: keras.Model, purpose: str) -> None:
    """Refuses what is no Keras model, and one of another backend than TensorFlow.

    Args:
        model: What may be one.
        purpose: What it has to be of that backend for, as in "convert it".

    Raises:
        TypeError: ``model`` is not a ``keras.Model``.
        ValueError: It runs on another backend.
    """
    import keras

    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model, not {type(model).__name__}")
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"model runs on the {keras.backend.backend()} backend; load it with "
            f"KERAS_BACKEND=tensorflow to {purpose}"
        )


def check_model(model: keras.Model, batch_size: int = 1) -> None:
    """Refuses a model that cannot be converted, in whatever quantization.

    Raises:
        TypeError: ``model`` is not a ``keras.Model``.
        ValueError: It does not fit, or ``batch_size`` does not.
    """
    check_backend(model, "convert it")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    # A model that was never given an input shape has no ``inputs``, or none in it.
    inputs = getattr(model, "inputs", None)
    if not inputs:
        raise ValueError("model has no fixed input shape; build it from keras.Input(shape)")
    for tensor in inputs:
        if None in tensor.shape[1:]:
            raise ValueError(
                f"model has an input of shape {tuple(tensor.shape)}; a .tflite file needs every "
                "axis but the batch fixed, so build it with a full input shape"
            )
        if tensor.shape[0] not in (None, batch_size):
            raise ValueError(f"batch_size is {batch_size}, but the model's is {tensor.shape[0]}")
    # TFLite has no kernels for it: it would only say that it has none for Conv2D.
    if any(layer.compute_dtype in ("float16", "bfloat16") for layer in model.layers):
        raise ValueError(
            "model computes in 16 bits (mixed precision); build it with the float32 policy and "
            "copy the weights with set_weights(), then convert that"
        )
