"""Writing the metadata that ``tflite_export.metadata`` reads."""

from __future__ import annotations

import math
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tflite_export import flatbuffer
from tflite_export.metadata import IDENTIFIER, NAME, tables

LABELS_FILE = "labels.txt"
# Of the schema: what is written here was in its first version.
_MIN_PARSER_VERSION = "1.0.0"


def add_metadata(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    description: str | None = None,
    labels: Sequence[str] = (),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    pixel_max: float | None = None,
) -> None:
    """Writes metadata into an image classifier's file, in the place of all that it had.

    The file is replaced whole or not at all. What it computes stays the same.

    Args:
        path: A ``.tflite`` file of one input, images (batch, height, width, channels), and one
            output, (batch, classes).
        name: What to call the model.
        description: What it does, and whatever else its user has to know.
        labels: The name of each class, in the order of the output.
        mean: The model takes (pixel - mean) / std: one for all channels, or one for each.
        std: One for all channels, or one for each, above 0.
        pixel_max: What white is, such as 255, where ``mean`` and ``std`` are given: readers find
            the range of the input in the file, of pixels from 0 to this.

    Raises:
        ValueError: The file is not a ``.tflite`` file or has other inputs and outputs; labels,
            ``mean`` or ``std`` do not fit it, or a label is empty or more than a line.
        OSError: The file cannot be written.

    Example:
        >>> import keras
        >>> from tflite_export import convert, read_metadata
        >>> layers = [keras.layers.Flatten(), keras.layers.Dense(2)]
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), *layers])
        >>> path = convert(model, "model.tflite")
        >>> add_metadata(path, name="pets", labels=["cat", "dog"])
        >>> read_metadata(path).labels
        ('cat', 'dog')
    """
    path = Path(path)
    labels, mean, std = tuple(labels), tuple(mean), tuple(std)  # an array has no truth value
    model = flatbuffer.load(path)
    graph = model.subgraphs[0]
    with flatbuffer.damage_named(path):
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise ValueError("metadata are for files of one input and one output")
        image = flatbuffer.tensor_shape(graph, graph.inputs[0])
        classes = flatbuffer.tensor_shape(graph, graph.outputs[0])
        if len(image) != 4 or len(classes) != 2:
            raise ValueError(f"takes {image} and gives {classes}: not an image classifier")
        if any(buffer.offset or buffer.size for buffer in model.buffers):
            raise ValueError("its weights lie behind its flatbuffer, which cannot be written anew")
    _check_labels(labels, classes[-1])
    _check_normalisation(mean, std, image[-1])
    metadata = _model_metadata(name, description, labels, mean, std, image[-1])
    if pixel_max is not None:
        metadata.subgraphMetadata[0].inputTensorMetadata[0].stats = _range(mean, std, pixel_max)
    packed = _pack(metadata, IDENTIFIER)
    _put(model, packed)
    _write(path, _pack(model, b"TFL3"), labels)


def _check_labels(labels: Sequence[str], classes: int) -> None:
    if labels and len(labels) != classes:
        raise ValueError(f"labels are {len(labels)}, but the file has {classes} classes")
    for label in labels:
        if label.splitlines() != [label]:
            raise ValueError(f"labels: {label!r} is not one line")


def _check_normalisation(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    if len(mean) != len(std) or len(mean) not in (0, 1, channels):
        raise ValueError(
            f"mean has {len(mean)} numbers and std {len(std)}; the images have {channels} channels"
        )
    if not all(map(math.isfinite, [*mean, *std])) or min(std, default=1) <= 0:
        raise ValueError(f"mean {mean} and std {std} must be finite, and std above 0")


def _range(mean: Sequence[float], std: Sequence[float], pixel_max: float) -> Any:
    """The smallest and largest input of each channel."""
    if not mean or not 0 < pixel_max < math.inf:
        raise ValueError(f"pixel_max {pixel_max} needs mean and std, and must be above 0")
    pairs = [*zip(mean, std, strict=True)]
    return tables().StatsT(
        min=[(0 - centre) / spread for centre, spread in pairs],
        max=[(pixel_max - centre) / spread for centre, spread in pairs],
    )


def _model_metadata(
    name: str | None,
    description: str | None,
    labels: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    channels: int,
) -> Any:
    schema = tables()
    space = {1: schema.ColorSpaceType.GRAYSCALE, 3: schema.ColorSpaceType.RGB}
    image = schema.TensorMetadataT(
        name="image",
        content=schema.ContentT(
            contentPropertiesType=schema.ContentProperties.ImageProperties,
            contentProperties=schema.ImagePropertiesT(
                colorSpace=space.get(channels, schema.ColorSpaceType.UNKNOWN)
            ),
        ),
    )
    if mean:
        options = schema.NormalizationOptionsT(mean=list(mean), std=list(std))
        kind = schema.ProcessUnitOptions.NormalizationOptions
        image.processUnits = [schema.ProcessUnitT(optionsType=kind, options=options)]
    scores = schema.TensorMetadataT(
        name="scores",
        content=schema.ContentT(
            contentPropertiesType=schema.ContentProperties.FeatureProperties,
            contentProperties=schema.FeaturePropertiesT(),
        ),
    )
    if labels:
        kind = schema.AssociatedFileType.TENSOR_AXIS_LABELS
        scores.associatedFiles = [schema.AssociatedFileT(name=LABELS_FILE, type=kind)]
    graph = schema.SubGraphMetadataT(inputTensorMetadata=[image], outputTensorMetadata=[scores])
    return schema.ModelMetadataT(
        name=name,
        description=description,
        subgraphMetadata=[graph],
        minParserVersion=_MIN_PARSER_VERSION,
    )


def _put(model: Any, packed: bytes) -> None:
    """Puts packed metadata into a ``ModelT``, in the place of those that it has."""
    schema = flatbuffer.schema()
    entries = model.metadata or []
    places = [entry.buffer for entry in entries if entry.name == NAME]
    if not places or not 0 < places[0] < len(model.buffers):
        places = [len(model.buffers)]
        model.buffers.append(None)
    model.buffers[places[0]] = schema.BufferT(data=np.frombuffer(packed, np.uint8))
    model.metadata = [entry for entry in entries if entry.name != NAME]
    model.metadata.append(schema.MetadataT(name=NAME, buffer=places[0]))
    model.buffers = [_Aligned(buffer) for buffer in model.buffers]


class _Aligned:
    """A buffer that begins at a multiple of 16 bytes, which LiteRT's kernels count on.

    Generated Python code leaves out what the schema says of that (force_align).
    """

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer

    def Pack(self, builder: Any) -> Any:  # noqa: N802
        builder.Prep(16, 0 if self._buffer.data is None else len(self._buffer.data))
        return self._buffer.Pack(builder)


def _pack(table: Any, identifier: bytes) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(0)
    builder.Finish(table.Pack(builder), identifier)
    return bytes(builder.Output())


def _write(path: Path, model: bytes, labels: Sequence[str]) -> None:
    """Writes a file beside the one at ``path`` and moves it there."""
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        unfinished = Path(folder) / path.name
        unfinished.write_bytes(model)
        if labels:
            with zipfile.ZipFile(unfinished, "a") as archive:
                # Its own date, 1980: the same metadata make the same file.
                archive.writestr(zipfile.ZipInfo(LABELS_FILE), "\n".join(labels))
        unfinished.chmod(path.stat().st_mode & 0o777)
        unfinished.replace(path)
