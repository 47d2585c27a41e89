"""What depends on Keras's backend and its devices: TensorFlow's presence, GPUs, threads, memory."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
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


def visible_gpus() -> list[str]:
    """Lists the GPUs that processes may use, each as CUDA_VISIBLE_DEVICES names it."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        names = [name.strip() for name in given.split(",")]
        # CUDA ignores whatever follows a name that is none.
        return list(itertools.takewhile(lambda name: name and name[0] != "-", names))
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(index) for index in range(len(re.findall(r"(?m)^GPU \d+:", listed.stdout)))]


# For a process with one thread. Small networks gain little by more, and what a training comes to
# depends on their number: operations sum up in another order.
_ONE_THREAD = {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NPROC": "1",  # JAX's
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}


def trainer_environment(gpu: str | None) -> dict[str, str]:
    """Returns the environment for a process that trains candidates beside others.

    Args:
        gpu: that it is to use, as CUDA_VISIBLE_DEVICES names it; None to train on one thread,
            unless this process's environment says how many.
    """
    if gpu is None:
        return {**_ONE_THREAD, **os.environ}
    return {**os.environ, "CUDA_VISIBLE_DEVICES": gpu}


# What Keras lets a script set, but not read: the custom objects of a scope, and whether lambdas may
# be loaded. By the names in its module of such; should that look different, they are as they are.
_UNREAD = ("custom_objects_scope_dict", "safe_mode_saving")


def _keras_state() -> Any:
    return sys.modules.get("keras.src.backend.common.global_state")


def keras_settings() -> dict[str, Any]:
    """Returns what a script may have set of Keras, most by the names of `keras.config`."""
    import keras

    read = getattr(_keras_state(), "get_global_attribute", lambda name: None)
    return {
        **{name: read(name) for name in _UNREAD},
        "floatx": keras.config.floatx(),
        "epsilon": keras.config.epsilon(),
        "image_data_format": keras.config.image_data_format(),
        "dtype_policy": keras.config.dtype_policy(),
        "flash_attention": keras.config.is_flash_attention_enabled(),
        "interactive_logging": keras.config.is_interactive_logging_enabled(),
        "traceback_filtering": keras.config.is_traceback_filtering_enabled(),
    }


def set_keras_settings(settings: Mapping[str, Any]) -> None:
    """Sets what `keras_settings` returned, of another process or before Keras was reset."""
    import keras

    write = getattr(_keras_state(), "set_global_attribute", lambda name, value: None)
    for name, value in settings.items():
        if name in _UNREAD:
            write(name, value)
        elif setter := getattr(keras.config, f"set_{name}", None):
            setter(value)
        elif value is not None:  # of flash attention: as Keras sees fit
            getattr(keras.config, f"{'enable' if value else 'disable'}_{name}")()


@contextlib.contextmanager
def channels_last() -> Iterator[None]:
    """Lets layers that are made within take images channels last, whatever the user's setting."""
    import keras

    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_last")
    try:
        yield
    finally:
        keras.config.set_image_data_format(before)


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


@contextlib.contextmanager
def what_stays_frozen() -> Iterator[None]:
    """Spares Python's garbage collection what is there before; what is made inside it collects.

    KerasTuner asks for a collection before each candidate, and Keras for another. Each would look
    through the million objects of TensorFlow's modules. Where somebody has frozen objects already,
    nothing happens: with the others they would be unfrozen at the end.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
