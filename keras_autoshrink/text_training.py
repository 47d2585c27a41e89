"""Training one language model in full, after the search."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from keras_autoshrink.averaged_sgd import NonMonotonicTrigger
from keras_autoshrink.backends import check_tensorflow
from keras_autoshrink.cell import Cell
from keras_autoshrink.checkpoint import TrainingCheckpoint
from keras_autoshrink.checks import whole
from keras_autoshrink.evaluation import (
    Perplexity,
    PerplexityCallback,
    PerplexityEvaluation,
)
from keras_autoshrink.language_models import ShrinkRNN, carrying
from keras_autoshrink.networks import jit_compile
from keras_autoshrink.text_data import TextData
from keras_autoshrink.text_recipes import RateByLength, TextRecipe
from keras_autoshrink.text_windows import check_length, jittered_lengths, parallel_streams


@dataclasses.dataclass(frozen=True)
class TrainedText:
    """What came of a training.

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
    cell: Cell,
    data: TextData,
    recipe: TextRecipe,
    *,
    units: int = 745,
    seed: int = 0,
    checkpoint: TrainingCheckpoint | None = None,
    log_dir: Path | None = None,
    verbose: int = 0,
) -> TrainedText:
    """Trains a ShrinkRNN of a cell on a text, by TensorFlow's input pipelines.

    Args:
        cell: its cell.
        data: loaded for a training, not for a search.
        recipe: how to train.
        units: size of the state, and of a token's embedding.
        seed: 0 or more, of the initial weights, of dropout and of the windows' lengths; seeds
            the global generators of Python, NumPy and Keras.
        checkpoint: a `TrainingCheckpoint`, by which a killed training is found again: it goes on
            after the last epoch that was written, to the same weights. None to write nothing.
        log_dir: folder for TensorBoard.
        verbose: as for `keras.Model.fit`.

    Returns:
        A `TrainedText` of the trained network, `model`, a `ShrinkRNN`; its `history`, the loss
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
    if not isinstance(cell, Cell):
        raise TypeError(f"cell={cell!r}: expected a Cell")
    units = whole("units", units, 1)

    def build(recipe: TextRecipe) -> keras.Model:
        return ShrinkRNN(
            cell,
            len(data.vocabulary),
            units,
            **recipe.cell_dropouts(),
            **recipe.regularization(),
        )

    return train_model(
        build,
        data,
        recipe,
        seed=seed,
        checkpoint=checkpoint,
        log_dir=log_dir,
        verbose=verbose,
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
        build: makes the model, a `keras_autoshrink.language_models.language_model`, with the
            dropout of the recipe that it is called with. It is called with a recipe without
            dropout too, for the model that is returned.
        data: loaded for a training, not for a search.
        recipe: how to train.
        seed: 0 or more, of the initial weights, of dropout and of the windows' lengths; seeds
            the global generators of Python, NumPy and Keras.
        checkpoint: a `TrainingCheckpoint`, by which a killed training is found again: it goes on
            after the last epoch that was written, to the same weights. None to write nothing.
        log_dir: folder for TensorBoard.
        verbose: as for `keras.Model.fit`.

    Returns:
        A `TrainedText` of the trained network without dropout, its history and its perplexities.

    Raises:
        TypeError: an argument is not what its name says.
        ValueError: an argument is out of its range, the text is too short or has no test part, or
            the model has another vocabulary than the text.
        RuntimeError: the loss or the perplexity is no longer a finite number.

    Example:
        >>> from pathlib import Path
        >>> for part in ("train", "valid", "test"):
        ...     _ = Path(f"{part}.txt").write_text("a rose is a rose " * 8)
        >>> import keras
        >>> from keras_autoshrink import load_text
        >>> from keras_autoshrink.language_models import language_model
        >>> text = load_text(".", purpose="train")
        >>> def build(recipe):
        ...     cell = keras.layers.LSTMCell(4, **recipe.cell_dropouts())
        ...     return language_model(cell, len(text.vocabulary), **recipe.regularization())
        >>> recipe = TextRecipe(learning_rate=1.0, batch_size=2, epochs=1, steps=5)
        >>> sorted(train_model(build, text, recipe).history)
        ['loss', 'perplexity', 'val_loss', 'val_perplexity']
    """
    check_tensorflow("training in full")
    # TensorFlow's input pipelines take seconds to import; a search needs none.
    from keras_autoshrink.text_pipeline import window_batches

    if not isinstance(data, TextData):
        raise TypeError(f"data: is a {type(data).__name__}; load it with load_text")
    if not isinstance(recipe, TextRecipe):
        raise TypeError(f"recipe={recipe!r}: expected a TextRecipe")
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
        recipe.build_optimizer(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[Perplexity()],
        jit_compile=jit_compile(),
    )
    checkpoint = checkpoint or TrainingCheckpoint(None, {})
    checkpoint.restore(network)
    callbacks = [PerplexityCallback(data.validation, steps=recipe.steps)]
    if recipe.jitter:
        callbacks.append(RateByLength(recipe, lengths_of_epoch))
    if recipe.averaging_window is not None:
        losses = checkpoint.history.get("val_loss", ())
        callbacks.append(NonMonotonicTrigger(recipe.averaging_window, losses))
    callbacks.append(checkpoint)  # behind all that changes what it writes
    if log_dir is not None:
        callbacks.append(keras.callbacks.TensorBoard(log_dir, write_graph=False))
    epochs = range(checkpoint.epochs_done, recipe.epochs)
    lengths = [lengths_of_epoch(epoch) for epoch in epochs]
    if epochs:
        network.fit(
            window_batches(data.train, recipe.batch_size, lengths),
            steps_per_epoch=len(lengths[0]),
            initial_epoch=epochs.start,
            epochs=epochs.stop,
            callbacks=callbacks,
            shuffle=False,  # a window goes on where the one before it in its stream ended
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
