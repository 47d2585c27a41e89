"""What a browser needs to judge a ``.tflite`` file: inputs, and this machine's outputs for them."""

import base64
import json
import os
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from tflite_export.convert import Quantization
from tflite_export.latency import sample_input
from tflite_export.metadata import read_metadata
from tflite_export.runtime import invoke, load_interpreter

_SAMPLES = 4
# Those that a LiteRT.js tensor can hold.
_DTYPES = ("float32", "int32", "uint8")


def reference_data(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Runs a file on a few inputs that are the same each time.

    Args:
        path: The ``.tflite`` file, with one signature and static shapes.

    Returns:
        To be written as JSON: ``inputs`` and ``outputs``, each tensor's ``dtype`` and ``shape`` by
        its name in the signature; and ``samples``, of which each has the ``inputs`` and
        ``outputs`` by name, the bytes of the array (little-endian) in base64. Floats are uniform
        from 0 to 1, integers 0, which is an index into every table.

    Raises:
        ValueError: The file is not a ``.tflite`` file, LiteRT cannot run it, or LiteRT.js could
            not: dynamic shapes, tensors of other types than float32, int32 and uint8.
    """
    interpreter = load_interpreter(path)
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        raise ValueError(f"{Path(path)}: has {len(signatures)} signatures, not one")
    # LiteRT.js calls tensors by these names, too. The runner must not be kept: the interpreter
    # refuses to run while one refers to it.
    inputs = interpreter.get_signature_runner(*signatures).get_input_details()
    outputs = interpreter.get_signature_runner(*signatures).get_output_details()
    described = {
        kind: {name: _describe(tensor, f"{Path(path)}: {name}") for name, tensor in tensors.items()}
        for kind, tensors in (("inputs", inputs), ("outputs", outputs))
    }
    generator = np.random.default_rng(0)
    samples = []
    for _ in range(_SAMPLES):
        taken = {name: sample_input(tensor, generator) for name, tensor in inputs.items()}
        for name, values in taken.items():
            interpreter.set_tensor(inputs[name]["index"], values)
        invoke(interpreter)
        given = {name: interpreter.get_tensor(tensor["index"]) for name, tensor in outputs.items()}
        samples.append({"inputs": _encoded(taken), "outputs": _encoded(given)})
    return {**described, "samples": samples}


def image_facts(path: Path, reference: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """How an image becomes an input of a file, and what its outputs are called.

    Args:
        path: The ``.tflite`` file. The facts are in ``FILE.tflite.json`` beside it, or in the
            ``MODEL.keras.json`` that ``autoshrink train`` writes beside the model of
            ``MODEL.tflite`` and ``MODEL.int8.tflite``: ``mean`` and ``std`` of each channel,
            ``class_names``, and ``pixel_max``, what white is, by default 255. Without either they
            are those of the file's own metadata.
        reference: What ``reference_data`` returned.

    Returns:
        The four facts, or None and why it has to do without.

    Raises:
        ValueError: The facts are damaged, or not this file's.
    """
    inputs, outputs = ([*reference[kind].values()] for kind in ("inputs", "outputs"))
    shapes = [tuple(tensor["shape"]) for tensor in (*inputs, *outputs)]
    if (
        [len(shape) for shape in shapes] != [4, 2]
        or {tensor["dtype"] for tensor in (*inputs, *outputs)} != {"float32"}
        or shapes[0][0] != 1
        or shapes[0][3] not in (1, 3)
    ):
        return None, "This file does not take an image and return classes."
    places = _places(path)
    found = next((place for place in places if place.is_file()), None)
    inside = None if found else _facts_inside(path, shapes[0][3])
    if not (found or inside):
        where = " or ".join(place.name for place in places)
        return None, f"For images, put mean, std and class_names into {where} beside the file."
    found = found or path
    try:
        facts = inside or json.loads(found.read_text(encoding="utf-8"))
        mean, std = np.array(facts["mean"], np.float64), np.array(facts["std"], np.float64)
        white, names = float(facts.get("pixel_max", 255)), [str(x) for x in facts["class_names"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{found}: no mean, std and class_names in it: {error!r}") from error
    channels, classes = shapes[0][3], shapes[1][1]
    if mean.shape != (channels,) or std.shape != (channels,) or len(names) != classes:
        raise ValueError(
            f"{found}: has {mean.size} means, {std.size} deviations and {len(names)} class names; "
            f"{path} has {channels} channels and {classes} classes"
        )
    if not (np.isfinite([*mean, *std, white]).all() and std.min() > 0 and white > 0):
        raise ValueError(f"{found}: mean must be finite, std and pixel_max above 0")
    return {
        "mean": mean.tolist(),
        "std": std.tolist(),
        "pixel_max": white,
        "class_names": names,
    }, ""


def _facts_inside(path: Path, channels: int) -> dict[str, Any] | None:
    """The facts as metadata have them; None where one is missing, or there are no metadata."""
    metadata = read_metadata(path)
    if metadata is None or not (metadata.labels and metadata.mean and metadata.std):
        return None
    mean, std = (
        each * channels if len(each) == 1 else each for each in (metadata.mean, metadata.std)
    )
    facts: dict[str, Any] = {"mean": mean, "std": std, "class_names": metadata.labels}
    if metadata.pixel_max is not None:
        facts["pixel_max"] = metadata.pixel_max
    return facts


def _places(path: Path) -> list[Path]:
    stem = path.stem
    ending = next((f".{kind}" for kind in get_args(Quantization) if stem.endswith(f".{kind}")), "")
    names = (f"{path.name}.json", f"{stem.removesuffix(ending)}.keras.json")
    return [path.with_name(name) for name in names]


def _describe(tensor: dict[str, Any], what: str) -> dict[str, Any]:
    dtype = np.dtype(tensor["dtype"]).name
    if dtype not in _DTYPES:
        raise ValueError(f"{what} is {dtype}; LiteRT.js takes {', '.join(_DTYPES)}")
    if min(tensor["shape_signature"].tolist(), default=0) < 0:
        raise ValueError(
            f"{what} has a dynamic shape, {tuple(tensor['shape_signature'].tolist())}; convert it "
            "with a static one"
        )
    return {"dtype": dtype, "shape": tensor["shape"].tolist()}


def _encoded(arrays: dict[str, npt.NDArray[Any]]) -> dict[str, str]:
    return {
        name: base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()
        for name, array in arrays.items()
    }
