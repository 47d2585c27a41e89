"""Text by a language model in Keras, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tflite_export.calibration import Samples, input_structure
from tflite_export.convertible import check_backend
from tflite_export.language import check_token, checked_text

if TYPE_CHECKING:
    import keras


class KerasLanguageModel:
    """A Keras model of the TensorFlow backend that goes through a text token by token.

    Args:
        model: Its inputs and outputs are those of ``tflite_export.language``.

    Attributes:
        vocabulary_size: The number of different tokens.
        states: What the text so far has left, (1, units) by the names of the model's inputs.

    Raises:
        TypeError: ``model`` is not a ``keras.Model``.
        ValueError: ``model`` has other inputs or outputs, or another backend.
    """

    def __init__(self, model: keras.Model) -> None:
        import keras
        import tensorflow as tf

        check_backend(model, "compare it with a file")
        self.vocabulary_size, sizes = _model_sizes(model)
        structure = input_structure(model)
        self._zeros = {f"state_{n}": tf.zeros((1, size)) for n, size in enumerate(sizes)}

        def step(inputs: dict[str, Any]) -> list[Any]:
            values = keras.tree.map_structure(lambda tensor: inputs[tensor.name], structure)
            flat: list[Any] = keras.tree.flatten(model(values, training=False))
            return flat

        # One graph for a step: to call the model layer by layer takes many times as long.
        self._step = tf.function(step).get_concrete_function(
            {
                "tokens": tf.TensorSpec((1, 1), tf.int32),
                **{name: tf.TensorSpec(zeros.shape) for name, zeros in self._zeros.items()},
            }
        )
        self._tokens = tf.reshape(tf.range(self.vocabulary_size), (-1, 1, 1))
        self.reset()

    def reset(self) -> None:
        """Begins a new text."""
        self.states = dict(self._zeros)

    def step(self, token: int) -> npt.NDArray[np.float32]:
        """Takes a token; returns the log-probabilities (vocabulary,) of the one that follows."""
        check_token(token, self.vocabulary_size, "model")
        log_probabilities, *states = self._step({"tokens": self._tokens[token], **self.states})
        self.states = dict(zip(self._zeros, states, strict=True))
        result: npt.NDArray[np.float32] = log_probabilities.numpy().reshape(-1)
        return result


def representative_steps(model: keras.Model, tokens: npt.ArrayLike) -> Samples:
    """What a language model takes in when it reads a text: ``representative_data`` for "int8".

    Args:
        model: As for `verify_language_model`.
        tokens: The text, integers (n,), n at least 2.

    Returns:
        An array for each input by its name, of which the tokens are int32 (n, 1) and each state
        float32 (n, units), its first row zeros.

    Raises:
        TypeError: ``model`` is not a ``keras.Model``.
        ValueError: It is not a language model; the text is as `verify_language_model` refuses it.

    Example:
        >>> from keras_autoshrink import ShrinkRNN, step_model
        >>> model = step_model(ShrinkRNN(vocabulary_size=5, units=4))
        >>> model.set_weights([0 * weights for weights in model.get_weights()])  # knows nothing
        >>> steps = representative_steps(model, [1, 2, 3, 4])
        >>> {name: array.shape for name, array in steps.items()}
        {'tokens': (4, 1), 'state_0': (4, 4)}
    """
    keras_model = KerasLanguageModel(model)
    text = checked_text(tokens, keras_model.vocabulary_size, "model")
    states: list[dict[str, Any]] = []
    for token in text:
        states.append(keras_model.states)
        keras_model.step(token)
    return {
        "tokens": np.array(text, np.int32).reshape(-1, 1),
        **{name: np.concatenate([step[name] for step in states]) for name in states[0]},
    }


def _model_sizes(model: keras.Model) -> tuple[int, list[int]]:
    """The vocabulary's size and those of the states, in their order.

    Raises:
        ValueError: The model's inputs and outputs are not those of a language model.
    """
    shapes = {tensor.name: tuple(tensor.shape) for tensor in getattr(model, "inputs", None) or ()}
    outputs = [tuple(tensor.shape) for tensor in getattr(model, "outputs", None) or ()]
    states = [f"state_{number}" for number in range(max(1, len(shapes) - 1))]
    if set(shapes) != {"tokens", *states}:
        raise ValueError(
            "model is not a language model that takes one token at a time: its inputs are "
            f"{', '.join(shapes) or 'not fixed'}; expected {', '.join(['tokens', *states])}"
        )
    sizes = [shapes[state][1:] for state in states]
    fits = (
        shapes["tokens"][1:] == (1,)
        and all(shape[0] in (None, 1) for shape in [*shapes.values(), *outputs])
        and [(len(shape), shape[1]) for shape in outputs[:1]] == [(3, 1)]
        and [shape[1:] for shape in outputs[1:]] == sizes
    )
    if not fits:
        raise ValueError(
            "model is not a language model that takes one token at a time: it takes "
            f"{', '.join(map(str, shapes.values()))} and gives {', '.join(map(str, outputs))}"
        )
    return int(outputs[0][-1]), [int(size) for (size,) in sizes]
