"""What a process that a test starts runs first: it imports TensorFlow in less time by it."""

import gc
import os
from importlib.machinery import PathFinder

# It collects only when it is told to, as KerasTuner does before each network.
gc.disable()

# TensorFlow imports JAX wherever it is installed: here for the tests of searches on JAX alone.
if os.environ.get("KERAS_BACKEND") != "jax":
    PathFinder.find_spec = classmethod(
        lambda cls, name, *rest, find=PathFinder.find_spec: (
            None if name == "jax" else find(name, *rest)
        )
    )
