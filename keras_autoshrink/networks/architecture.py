"""Architectures: networks as plain values, to be written, read and built elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from keras_autoshrink.cell import Cell
from keras_autoshrink.checks import whole

if TYPE_CHECKING:
    import keras

FORMAT = "keras_autoshrink.architecture"


@dataclasses.dataclass(frozen=True)
class Architecture:
    """All that an image classifier or a language model is built of, but for its weights.

    Args:
        arguments: of `ShrinkCNN` or `ShrinkRNN`, or of the `build` of a reference.
        reference: the name of a hand-made network, such as "chain" or "lstm"; None for a ShrinkCNN
            or ShrinkRNN.

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
    def task(self) -> str:
        """What the network is for, "text" for a language model, else "images"."""
        return "text" if "vocabulary_size" in self.arguments else "images"

    @property
    def vocabulary_size(self) -> int:
        """The number of different tokens of a language model."""
        return int(self.arguments["vocabulary_size"])

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of an image."""
        height, width, channels = self.arguments["input_shape"]
        return height, width, channels

    @property
    def classes(self) -> int:
        """The number of classes."""
        return int(self.arguments["classes"])

    def build(self, batchnorm_momentum: float = 0.9, **regularization: float) -> keras.Model:
        """Builds the network, with random weights.

        Args:
            batchnorm_momentum: of all BatchNorm layers; a language model has none.
            **regularization: of a language model, the dropouts and what else `ShrinkRNN` takes.

        Returns:
            An uncompiled model from images (batch, height, width, channels) to logits
            (batch, classes), or from tokens (batch, steps) to logits (batch, steps, vocabulary).

        Raises:
            ValueError: the arguments are not those of such a network, or it is a reference that
                this library does not have; the message names one.
        """
        # With Keras, which a command that only looks at a file does not need.
        from keras_autoshrink.networks.cnn import ShrinkCNN
        from keras_autoshrink.networks.language_model import ShrinkRNN
        from keras_autoshrink.networks.recurrent_references import RECURRENT_REFERENCES
        from keras_autoshrink.networks.references import REFERENCES

        is_text = self.task == "text"
        references: Mapping[str, Any] = RECURRENT_REFERENCES if is_text else REFERENCES
        if self.reference is not None and self.reference not in references:
            known = ", ".join(references)
            raise ValueError(f"architecture of {self.reference!r}: this library builds {known}")
        build: Callable[..., keras.Model] = ShrinkRNN if is_text else ShrinkCNN
        if self.reference is not None:
            build = references[self.reference].build
        how = {} if is_text else {"batchnorm_momentum": batchnorm_momentum}
        try:
            model: keras.Model = build(**self.arguments, **how, **regularization)
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
        if not isinstance(arguments, Mapping) or not any(
            names <= {*arguments} for names in ({"input_shape", "classes"}, {"vocabulary_size"})
        ):
            raise ValueError("damaged architecture: it has no input_shape and classes")
        found = {n: tuple(v) if isinstance(v, list) else v for n, v in arguments.items()}
        if "cell" in found:
            found["cell"] = Cell.from_json(found["cell"])
        if "vocabulary_size" in found:
            whole("vocabulary_size", found["vocabulary_size"], 2)
            return cls(found, reference)
        shape = found["input_shape"]
        if not isinstance(shape, tuple) or len(shape) != 3:
            raise ValueError(f"input_shape={shape!r}: expected (height, width, channels)")
        for size in shape:
            whole("input_shape", size, 1)
        whole("classes", found["classes"], 1)
        return cls(found, reference)
