"""Lets go of the graphs of candidates that have been trained.

On TensorFlow every training step that Keras traces holds a custom gradient: Keras's optimizers
add up the gradients of all replicas, also of one, and TensorFlow makes that sum differentiable.
It registers such a gradient under a new name for the life of the process, and up to version 2.21
what it registers refers to the step's tensors. So the graph of every candidate stays, some tens
of MB, and `keras.utils.clear_session()` knows nothing of it
(https://github.com/tensorflow/tensorflow/issues/97697).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


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
