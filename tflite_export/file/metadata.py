"""Reads and writes metadata in ``.tflite`` files: labels, normalisation, a description.

The form is TensorFlow Lite Metadata, which Android's readers expect: a flatbuffer of its own in a
buffer of the model's, and the labels as a text file in a zip archive behind the model's flatbuffer.
So the file is both a model and an archive: whatever reads it as one does not see the other.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tflite_export.file import flatbuffer

NAME = b"TFLITE_METADATA"
IDENTIFIER = b"M001"
LABELS_FILE = "labels.txt"
# Of the schema: what is written here was in its first version.
_MIN_PARSER_VERSION = "1.0.0"


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Holds the metadata of an image classifier's file.

    Attributes:
        name: The model's name; None if it is missing, as for all strings.
        description: What the model does.
        license: What it is distributed under.
        labels: The name of each class, from the file that the metadata name for an output.
        mean: The first input is (pixel - mean) / std: one for all channels, or one for each.
        std: One for all channels, or one for each.
        pixel_max: The largest pixel, from the range of the first input; None where the file does
            not say.

    Example:
        >>> import keras
        >>> from tflite_export import add_metadata, convert
        >>> layers = [keras.layers.Flatten(), keras.layers.Dense(2)]
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), *layers])
        >>> path = convert(model, "model.tflite")
        >>> add_metadata(path, name="pets", labels=["cat", "dog"])
        >>> metadata = read_metadata(path)
        >>> metadata.name, metadata.labels, metadata.pixel_max
        ('pets', ('cat', 'dog'), None)
    """

    name: str | None = None
    description: str | None = None
    license: str | None = None
    labels: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    pixel_max: float | None = None


def read_metadata(path: str | os.PathLike[str]) -> Metadata | None:
    """Reads the metadata of a file, whichever tool wrote them.

    Args:
        path: The ``.tflite`` file.

    Returns:
        The metadata; None if it has none.

    Raises:
        ValueError: The file is not a ``.tflite`` file, or its metadata are damaged.

    Example:
        >>> import keras
        >>> from tflite_export import convert, add_metadata
        >>> layers = [keras.layers.Flatten(), keras.layers.Dense(2)]
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), *layers])
        >>> path = convert(model, "model.tflite")
        >>> read_metadata(path) is None
        True
        >>> add_metadata(path, mean=[127.5], std=[127.5], pixel_max=255)
        >>> read_metadata(path).mean, read_metadata(path).pixel_max
        ((127.5,), 255.0)
    """
    data = flatbuffer.read(path)
    return metadata_of(flatbuffer.parse(data, path), data, path)


def metadata_of(model: Any, data: bytes, path: str | os.PathLike[str]) -> Metadata | None:
    """Reads the metadata of a ``ModelT`` and its file's bytes, see `read_metadata`."""
    entry = next((entry for entry in model.metadata or [] if entry.name == NAME), None)
    if entry is None:
        return None
    # As with the model's own tables: any error can come of garbage.
    try:
        packed = model.buffers[entry.buffer].data.tobytes()
        if packed[4:8] != IDENTIFIER:
            raise ValueError(f"bytes 4 to 7 are {packed[4:8]!r}, not {IDENTIFIER!r}")
        schema = _tables()
        return _unpacked(
            schema.ModelMetadataT.InitFromObj(schema.ModelMetadata.GetRootAs(packed, 0)), data
        )
    except Exception as error:
        raise ValueError(f"{Path(path)}: its metadata are damaged: {error}") from error


def _tables() -> Any:
    """Imports the generated classes, which load the flatbuffers library: a search needs none."""
    from tflite_export.file import metadata_schema_generated

    return metadata_schema_generated


def _unpacked(metadata: Any, data: bytes) -> Metadata:
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    pixel_max: float | None = None
    schema = _tables()
    for graph in metadata.subgraphMetadata or []:
        for tensor in (graph.inputTensorMetadata or [])[:1]:
            for unit in tensor.processUnits or []:
                if isinstance(unit.options, schema.NormalizationOptionsT):
                    mean, std = (
                        tuple(float(value) for value in (() if values is None else values))
                        for values in (unit.options.mean, unit.options.std)
                    )
            if mean and std and tensor.stats is not None and tensor.stats.max is not None:
                # In single precision: rounded, 255 is 255 again.
                pixel_max = round(float(tensor.stats.max[0]) * std[0] + mean[0], 3)
        for tensor in graph.outputTensorMetadata or []:
            for file in tensor.associatedFiles or []:
                if file.type == schema.AssociatedFileType.TENSOR_AXIS_LABELS and not labels:
                    labels = _read_labels(data, file.name.decode())
    name, description, license_ = (
        text and text.decode() for text in (metadata.name, metadata.description, metadata.license)
    )
    return Metadata(name, description, license_, labels, mean, std, pixel_max)


def _read_labels(data: bytes, name: str) -> tuple[str, ...]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return tuple(archive.read(name).decode().splitlines())


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
    """Writes metadata into an image classifier's file, and removes those that it had.

    The file is replaced whole or not at all. What it computes stays the same.

    Args:
        path: A ``.tflite`` file of one input, images (batch, height, width, channels), and one
            output, (batch, classes).
        name: The model's name.
        description: What it does, and whatever else its user has to know.
        labels: The name of each class, in the order of the output.
        mean: The model takes (pixel - mean) / std: one for all channels, or one for each.
        std: One for all channels, or one for each, above 0.
        pixel_max: The value of white, such as 255, where ``mean`` and ``std`` are given: by it
            readers know the range of the input, that of pixels from 0 to this.

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
    """Computes the smallest and largest input of each channel."""
    if not mean or not 0 < pixel_max < math.inf:
        raise ValueError(f"pixel_max {pixel_max} needs mean and std, and must be above 0")
    pairs = [*zip(mean, std, strict=True)]
    return _tables().StatsT(
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
    schema = _tables()
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
    """Puts packed metadata into a ``ModelT``, and removes those that it has."""
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
    """Packs a buffer at a multiple of 16 bytes, which LiteRT's kernels rely on.

    The generated Python code ignores the schema's ``force_align``.
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
