"""Labels, normalisation and a description inside a ``.tflite`` file, as Android's readers expect.

The form is that of TensorFlow Lite Metadata: a flatbuffer of its own in a buffer of the model's,
and the labels as a text file in a zip archive behind the model's flatbuffer. So the file is both a
model and an archive: whatever reads it as one does not see the other.
"""

from __future__ import annotations

import dataclasses
import io
import os
import zipfile
from pathlib import Path
from typing import Any

from tflite_export import flatbuffer

NAME = b"TFLITE_METADATA"
IDENTIFIER = b"M001"


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a file says of itself.

    Attributes:
        name: Of the model; None if it says nothing, as for all strings.
        description: What it does.
        license: What it is distributed under.
        labels: The name of each class, from the file that the metadata name for an output.
        mean: The first input is (pixel - mean) / std: one for all channels, or one for each.
        std: One for all channels, or one for each, as of ``mean``.
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
    """Reads a file's metadata, from whatever tool they are.

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
    """The metadata of a ``ModelT`` and the bytes it was read from, see `read_metadata`."""
    entry = next((entry for entry in model.metadata or [] if entry.name == NAME), None)
    if entry is None:
        return None
    # As with the model's own tables: any error can come of garbage.
    try:
        packed = model.buffers[entry.buffer].data.tobytes()
        if packed[4:8] != IDENTIFIER:
            raise ValueError(f"bytes 4 to 7 are {packed[4:8]!r}, not {IDENTIFIER!r}")
        schema = tables()
        return _unpacked(
            schema.ModelMetadataT.InitFromObj(schema.ModelMetadata.GetRootAs(packed, 0)), data
        )
    except Exception as error:
        raise ValueError(f"{Path(path)}: its metadata are damaged: {error}") from error


def tables() -> Any:
    """The generated classes; they load the flatbuffers library, which only files need."""
    from tflite_export import metadata_schema_generated

    return metadata_schema_generated


def _unpacked(metadata: Any, data: bytes) -> Metadata:
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    pixel_max: float | None = None
    schema = tables()
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
