"""The perplexity of language models: in each epoch of a training, and of a whole text."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_autoshrink.backend import jit_compile
from keras_autoshrink.data.windows import evaluation_windows
from keras_autoshrink.networks.language_model import carrying, reset_state


class Perplexity(keras.metrics.SparseCategoricalCrossentropy):
    """A metric: exp of the mean cross-entropy, in natural logarithms, of all tokens.

    Not the mean of the batches' perplexities, which is larger. Takes logits, and weights of 0
    for what is not to count. Beyond float32's range it is infinity.
    """

    def __init__(self, name: str = "perplexity") -> None:
        super().__init__(name=name, from_logits=True)

    def result(self) -> Any:
        """Computes the perplexity of all tokens since the last reset, a scalar."""
        return keras.ops.exp(super().result())

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments, as plain values."""
        return {"name": self.name}


class PerplexityEvaluation:
    """A measurement of a language model's perplexity on a text, which may be repeated.

    Every token after the first counts once. With one stream each is predicted from all that is
    before it. With several, the text is cut into as many parts, which are read in parallel; each
    carries its state from its beginning to its end and, but for the first, starts `steps` tokens
    early, without counting them. That is faster, and close to the same.

    Args:
        model: a `language_model`, or a `carrying` one.
        tokens: the text, integers of shape (n,).
        batch_size: number of parallel streams; with 1 the text is read from end to end.
        steps: tokens in a window.

    Raises:
        ValueError: `model` is no language model or has fewer words than the text, or there are
            fewer than two tokens.
    """

    def __init__(
        self, model: keras.Model, tokens: Any, batch_size: int = 1, steps: int = 35
    ) -> None:
        self._x, self._y, self._weights = evaluation_windows(tokens, batch_size, steps)
        self._batch_size = batch_size
        self._model = carrying(model, batch_size, steps)
        words = self._model.output_shape[-1]
        if np.max(tokens) >= words or np.min(tokens) < 0:
            raise ValueError(
                f"tokens: {np.min(tokens)} to {np.max(tokens)}; those of a model of {words} words "
                f"are 0 to {words - 1}"
            )
        self._model.compile(
            # Keras insists on a loss; its own would weigh batches, not tokens, alike.
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            weighted_metrics=[Perplexity()],
            jit_compile=jit_compile(),
        )

    def __call__(self) -> float:
        """Measures the perplexity with the weights that the model has now."""
        reset_state(self._model)
        results = self._model.evaluate(
            self._x,
            self._y,
            sample_weight=self._weights,
            batch_size=self._batch_size,
            verbose=0,
            return_dict=True,
        )
        return float(results["perplexity"])


def token_losses(model: keras.Model, tokens: Any, steps: int = 35) -> npt.NDArray[np.float64]:
    """Computes the cross-entropy of each token of a text but the first, read from end to end.

    Args:
        model: a `language_model`.
        tokens: the text, integers of shape (n,).
        steps: tokens in a window.

    Returns:
        Losses in natural logarithms, shape (n - 1,); exp of their mean is the perplexity.
    """
    x, y, weights = evaluation_windows(tokens, 1, steps)
    network = carrying(model, 1, steps)
    reset_state(network)
    losses = []
    for window, targets, counts in zip(x, y, weights, strict=True):
        logits = network.predict_on_batch(window[None])[0].astype(np.float64)
        largest = logits.max(axis=-1)
        total = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=-1))
        found = total - logits[np.arange(steps), targets]
        losses.append(found[counts > 0])
    return np.concatenate(losses)


class PerplexityCallback(keras.callbacks.Callback):
    """A callback that starts each epoch with the text's beginning, and measures perplexities.

    The model is one of `carrying`. The logs of each epoch get `perplexity` (of the training text,
    with the weights as they were at each step), `val_perplexity` and `val_loss`, its logarithm. The
    last two are those of the averaged weights once an `AveragedSGD` averages them.

    `perplexity` comes from the metric `Perplexity` if the model is compiled with it. It has to be
    where the loss is more than the cross-entropy, or windows differ in length.

    Args:
        tokens: validation text, integers of shape (n,), or None for none.
        batch_size: number of parallel streams, as for `PerplexityEvaluation`.
        steps: tokens in a window.
    """

    def __init__(self, tokens: Any, batch_size: int = 10, steps: int = 35) -> None:
        super().__init__()
        self._arguments = (tokens, batch_size, steps)
        self._evaluate: PerplexityEvaluation | None = None

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Builds the model that is measured, of the layers of the one that is trained."""
        if self._arguments[0] is not None:
            self._evaluate = PerplexityEvaluation(self.model, *self._arguments)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Resets the state that the epoch before has left."""
        reset_state(self.model)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Adds to `logs`, which the callbacks after this one and the history see."""
        if "perplexity" not in logs:
            with np.errstate(over="ignore"):
                logs["perplexity"] = float(np.exp(logs["loss"]))
        if self._evaluate is not None:
            averaged = getattr(self.model.optimizer, "averaged", contextlib.nullcontext)
            with averaged():
                logs["val_perplexity"] = self._evaluate()
            logs["val_loss"] = math.log(logs["val_perplexity"])
