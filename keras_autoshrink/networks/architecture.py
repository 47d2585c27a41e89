"""Architectures: networks as plain values, to be written, read and built elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keras_autoshrink.cell import Cell
from keras_autoshrink.checks import whole

if TYPE_CHECKING:
    import keras

FORMAT = "keras_autoshrink.architecture"


@dataclasses.dataclass(frozen=True)
class Architecture:
    """All that a convolutional network is built of, but for its weights.

    Args:
        arguments: of `ShrinkCNN`, or of the `build` of a reference.
        reference: the name of a hand-made network, such as "chain"; None for a ShrinkCNN.

    Example:
        >>> chain = {"input_shape": (8, 8, 1), "classes": 2, "filters": (4, 8, 8, 8)}
        >>> architecture = Architecture(chain, reference="chain")
        >>> architecture.build().output_shape
        (None, 2)
        >>> Architecture.from_json(architecture.to_json()) == architecture
        True
    """

    arguments: Mapping[str, Any]
    reference: str | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of an image."""
        height, width, channels = self.arguments["input_shape"]
        return height, width, channels

    @property
    def classes(self) -> int:
        """The number of classes."""
        return int(self.arguments["classes"])

    def build(self, batchnorm_momentum: float = 0.9) -> keras.Model:
        """Builds the network, with random weights.

        Args:
            batchnorm_momentum: of all BatchNorm layers.

        Returns:
            An uncompiled model from images (batch, height, width, channels) to logits
            (batch, classes).

        Raises:
            ValueError: the arguments are not those of such a network, or it is a reference that
                this library does not have; the message names one.
        """
        # With Keras, which a command that only looks at a file does not need.
        from keras_autoshrink.networks.cnn import ShrinkCNN
        from keras_autoshrink.networks.references import REFERENCES

        if self.reference is not None and self.reference not in REFERENCES:
            known = ", ".join(REFERENCES)
            raise ValueError(f"architecture of {self.reference!r}: this library builds {known}")
        build = ShrinkCNN if self.reference is None else REFERENCES[self.reference].build
        try:
            model: keras.Model = build(**self.arguments, batchnorm_momentum=batchnorm_momentum)
        except TypeError as error:
            raise ValueError(f"architecture: {error}") from error
        return model

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, for `json.dump`."""
        arguments = {
            name: value.to_json() if isinstance(value, Cell) else value
            for name, value in self.arguments.items()
        }
        return {"format": FORMAT, "reference": self.reference, "arguments": arguments}

    @classmethod
    def from_json(cls, data: Any) -> Architecture:
        """Makes the architecture that `to_json` wrote.

        Raises:
            ValueError: it is none.
        """
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise ValueError(f"not an architecture: expected a JSON object of format {FORMAT!r}")
        reference, arguments = data.get("reference"), data.get("arguments")
        if reference is not None and not isinstance(reference, str):
            raise ValueError(f"damaged architecture: reference={reference!r}")
        if not isinstance(arguments, Mapping) or not {"input_shape", "classes"} <= {*arguments}:
            raise ValueError("damaged architecture: it has no input_shape and classes")
        found = {n: tuple(v) if isinstance(v, list) else v for n, v in arguments.items()}
        shape = found["input_shape"]
        if not isinstance(shape, tuple) or len(shape) != 3:
            raise ValueError(f"input_shape={shape!r}: expected (height, width, channels)")
        for size in shape:
            whole("input_shape", size, 1)
        whole("classes", found["classes"], 1)
        if "cell" in found:
            found["cell"] = Cell.from_json(found["cell"])
        return cls(found, reference)
