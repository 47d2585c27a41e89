"""The training in full of a language model on a text."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_autoshrink.backend import check_tensorflow, jit_compile
from keras_autoshrink.cell import Cell
from keras_autoshrink.checks import instance, whole
from keras_autoshrink.data.text import TextData
from keras_autoshrink.data.windows import Tokens, check_length, jittered_lengths, parallel_streams
from keras_autoshrink.networks.architecture import Architecture
from keras_autoshrink.networks.language_model import ShrinkRNN, carrying
from keras_autoshrink.networks.perplexity import (
    Perplexity,
    PerplexityCallback,
    PerplexityEvaluation,
)
from keras_autoshrink.training.averaged_sgd import NonMonotonicTrigger
from keras_autoshrink.training.checkpoint import TrainingCheckpoint, fit
from keras_autoshrink.training.recipes import TextRecipe
from keras_autoshrink.training.step import accelerate


@dataclasses.dataclass(frozen=True)
class TrainedText:
    """The result of the training of a language model.

    Attributes:
        model: without dropout; from tokens (batch, steps) to logits (batch, steps, vocabulary).
        history: for each metric its value after each epoch, losses in natural logarithms.
        validation_perplexity: of `model`, with the whole text read from end to end.
        test_perplexity: of `model`, with the whole text read from end to end, once, at the end.
    """

    model: keras.Model
    history: dict[str, list[float]]
    validation_perplexity: float
    test_perplexity: float


def train_language_model(
    cell: Cell | Architecture,
    data: TextData,
    recipe: TextRecipe,
    *,
    units: int | None = None,
    seed: int = 0,
    checkpoint: TrainingCheckpoint | None = None,
    log_dir: Path | None = None,
    verbose: int = 0,
) -> TrainedText:
    """Trains a ShrinkRNN of a cell, or a whole language model, on a text.

    Args:
        cell: its cell; or the `Architecture` of a whole network, such as a search at a budget
            finds, which is built as it is.
        data: loaded for a training, not for a search; with the vocabulary of an `Architecture`.
        recipe: how to train.
        units: size of the state, and of a token's embedding, in the network of a cell, by default
            745.
        seed: 0 or more, of the initial weights, of dropout and of the windows' lengths; seeds
            the global generators of Python, NumPy and Keras.
        checkpoint: a `TrainingCheckpoint`, by which a killed training is found again: it goes on
            after the last epoch that was written, to the same weights. None to write nothing.
        log_dir: folder for TensorBoard.
        verbose: the argument of `keras.Model.fit`.

    Returns:
        A `TrainedText` of the trained network, `model`; its `history`, the loss
        and perplexity after each epoch; and `validation_perplexity` and `test_perplexity`.

    Raises:
        TypeError: an argument is not what its name says.
        ValueError: an argument is out of its range, the text is too short or has no test part, or
            TensorFlow, whose input pipelines it takes, is missing.
        RuntimeError: the loss or the perplexity is no longer a finite number.

    Example:
        >>> from pathlib import Path
        >>> for part in ("train", "valid", "test"):
        ...     _ = Path(f"{part}.txt").write_text("a rose is a rose " * 8)
        >>> from keras_autoshrink import SHRINKRNN_CELL, load_text
        >>> text = load_text(".", purpose="train")
        >>> recipe = TextRecipe(learning_rate=1.0, batch_size=2, epochs=1, steps=5)
        >>> trained = train_language_model(SHRINKRNN_CELL, text, recipe, units=4)
        >>> trained.model.output_shape, trained.test_perplexity > 1
        ((None, None, 5), True)
    """
    if not isinstance(cell, (Cell, Architecture)):
        raise TypeError(f"cell={cell!r}: expected a Cell or an Architecture")
    if isinstance(cell, Architecture) and cell.task != "text":
        raise ValueError("cell: an Architecture of an image classifier; train_network trains it")
    if isinstance(cell, Architecture) and units is not None:
        raise ValueError(
            f"units={units!r}: is for a cell; an Architecture is built as it is, so omit it"
        )

    def build(recipe: TextRecipe) -> keras.Model:
        regularization = {**recipe.cell_dropouts(), **recipe.regularization()}
        if isinstance(cell, Architecture):
            return cell.build(**regularization)
        words = len(data.vocabulary)
        return ShrinkRNN(cell, words, 745 if units is None else units, **regularization)

    return train_model(
        build, data, recipe, seed=seed, checkpoint=checkpoint, log_dir=log_dir, verbose=verbose
    )


def train_model(
    build: Callable[[TextRecipe], keras.Model],
    data: TextData,
    recipe: TextRecipe,
    *,
    seed: int = 0,
    checkpoint: TrainingCheckpoint | None = None,
    log_dir: Path | None = None,
    verbose: int = 0,
) -> TrainedText:
    """Trains a language model of any cell, such as an LSTM to compare with.

    The network is that of the last epoch, or the average of the weights since the validation
    perplexity stopped falling, if the recipe says so and it did. Nothing else is chosen by the
    validation text.

    Args:
        build: makes the model, a `networks.language_model.language_model`, with the
            dropout of the recipe that it is called with. It is called with a recipe without
            dropout too, for the model that is returned.
        data: loaded for a training, not for a search.
        recipe: how to train.
        seed: 0 or more, of the initial weights, of dropout and of the windows' lengths; seeds
            the global generators of Python, NumPy and Keras.
        checkpoint: a `TrainingCheckpoint`, by which a killed training is found again: it goes on
            after the last epoch that was written, to the same weights. None to write nothing.
        log_dir: folder for TensorBoard.
        verbose: the argument of `keras.Model.fit`.

    Returns:
        A `TrainedText` of the trained network without dropout, its history and its perplexities.

    Raises:
        TypeError: an argument is not what its name says.
        ValueError: an argument is out of its range, the text is too short or has no test part, or
            the model has another vocabulary than the text.
        RuntimeError: the loss or the perplexity is no longer a finite number.
    """
    check_tensorflow("training in full")
    if not isinstance(data, TextData):
        raise TypeError(f"data: is a {type(data).__name__}; load it with load_text")
    instance("recipe", recipe, TextRecipe)
    seed = whole("seed", seed, 0)
    test = data.part("test")  # says so if there is none, before and not after the training
    check_length(len(data.train), recipe.batch_size, recipe.steps)
    positions = parallel_streams(data.train, recipe.batch_size)[0].shape[1]

    def lengths_of_epoch(epoch: int) -> list[int]:
        if not recipe.jitter:
            return [recipe.steps] * (positions // recipe.steps)
        return jittered_lengths(positions, recipe.steps, np.random.default_rng((seed, epoch)))

    keras.utils.set_random_seed(seed)
    model = build(recipe)
    if model.output_shape[-1] != len(data.vocabulary):
        raise ValueError(
            f"build: its model has {model.output_shape[-1]} words, the vocabulary "
            f"{len(data.vocabulary)}"
        )
    network = carrying(model, recipe.batch_size, None if recipe.jitter else recipe.steps)
    network.compile(
        recipe.build_optimizer(recipe.epochs * len(lengths_of_epoch(0))),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[Perplexity()],
        jit_compile=jit_compile(),
    )
    accelerate(network)
    checkpoint = checkpoint or TrainingCheckpoint(None, {})
    checkpoint.restore(network)
    callbacks = [PerplexityCallback(data.validation, steps=recipe.steps)]
    if recipe.jitter:
        callbacks.append(RateByLength(recipe, lengths_of_epoch))
    if recipe.averaging_window is not None:
        losses = checkpoint.history.get("val_loss", ())
        callbacks.append(NonMonotonicTrigger(recipe.averaging_window, losses))

    def batches(epochs: range) -> Any:
        lengths = [lengths_of_epoch(epoch) for epoch in epochs]
        return window_batches(data.train, recipe.batch_size, lengths)

    fit(
        network,
        checkpoint,
        batches,
        steps=len(lengths_of_epoch(0)),  # as many in every epoch
        epochs=recipe.epochs,
        callbacks=callbacks,
        log_dir=log_dir,
        verbose=verbose,
    )
    # Without dropout, of which even a model that drops nothing would keep the random generators.
    result = build(recipe.without_regularization())
    with getattr(network.optimizer, "averaged", contextlib.nullcontext)():
        result.set_weights(model.get_weights())
    validation, tested = (
        PerplexityEvaluation(result, tokens)() for tokens in (data.validation, test)
    )
    for part, perplexity in (("validation", validation), ("test", tested)):
        if not math.isfinite(perplexity):
            raise RuntimeError(
                f"the perplexity of the {part} text is {perplexity}; a lower learning rate may help"
            )
    return TrainedText(result, checkpoint.history, validation, tested)


def window_batches(
    tokens: npt.NDArray[Any], batch_size: int, lengths_of_epochs: Sequence[Sequence[int]]
) -> Any:
    """Makes batches of the windows of a text for a stateful network, epoch after epoch.

    Args:
        tokens: the text, integers of shape (n,).
        batch_size: number of streams that it is cut into; see `parallel_streams`.
        lengths_of_epochs: for each epoch the lengths of its windows, in their order. An epoch
            starts at the beginning of the streams; what its lengths leave over is not read.

    Returns:
        As many batches as there are lengths: x and y, int32 of shape (batch_size, length); y
        holds the token that follows each token of x.
    """
    x, y = parallel_streams(tokens, batch_size)

    def windows() -> Iterator[tuple[Tokens, Tokens]]:
        for lengths in lengths_of_epochs:
            stops = np.cumsum(lengths)
            for length, stop in zip(lengths, stops, strict=True):
                yield x[:, stop - length : stop], y[:, stop - length : stop]

    import tensorflow as tf  # takes seconds; a search needs none

    spec = tf.TensorSpec((batch_size, None), tf.int32)
    batches = tf.data.Dataset.from_generator(windows, output_signature=(spec, spec))
    count = sum(len(lengths) for lengths in lengths_of_epochs)
    return batches.apply(tf.data.experimental.assert_cardinality(count)).prefetch(tf.data.AUTOTUNE)


class RateByLength(keras.callbacks.Callback):
    """A callback that sets the learning rate of each window in proportion to its length.

    Args:
        recipe: whose learning rate is for a window of its `steps`.
        lengths_of_epoch: the lengths of the windows of an epoch, counted from 0, in tokens.
    """

    def __init__(
        self, recipe: TextRecipe, lengths_of_epoch: Callable[[int], Sequence[int]]
    ) -> None:
        super().__init__()
        self._recipe = recipe
        self._lengths_of_epoch = lengths_of_epoch
        self._lengths: Sequence[int] = ()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Begins with the first window; `epoch` counts from 0."""
        self._lengths = self._lengths_of_epoch(epoch)

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Sets the rate; `batch`, the number of the window, counts from 0."""
        scale = self._lengths[batch] / self._recipe.steps
        self.model.optimizer.learning_rate = self._recipe.learning_rate * scale

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Sets the recipe's own rate; `epoch` counts from 0."""
        # Logs and checkpoints of an epoch then have the recipe's rate.
        self.model.optimizer.learning_rate = self._recipe.learning_rate
