"""The HyperModel of the search for a recurrent cell."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import keras
import keras_tuner
import numpy as np

from keras_autoshrink.backend import jit_compile
from keras_autoshrink.cell import INPUT, Cell
from keras_autoshrink.checks import positive, whole
from keras_autoshrink.data.windows import check_length, training_windows
from keras_autoshrink.hypermodels.search_space import declare_cell
from keras_autoshrink.networks.language_model import ShrinkRNN, carrying
from keras_autoshrink.networks.operations import RNN_OPERATIONS, check_activation
from keras_autoshrink.networks.perplexity import PerplexityCallback
from keras_autoshrink.score import PerplexityScore


class RNNCellHyperModel(keras_tuner.HyperModel):
    """A small language model of a recurrent cell, trained for a short while: the proxy.

    `AutoShrink.search(train_tokens, validation_data=validation_tokens, epochs=10)` takes texts as
    integers of shape (n,). Each is read as parallel streams in windows; the state is carried
    from one window to the next. Plain SGD with gradients of bounded norm, and early stopping
    after 5 epochs without a better validation perplexity (arXiv 1911.09251; the defaults are
    the paper's search on a part of Penn Treebank). Without a `score=` the tuner takes
    `PerplexityScore()`. For the score the validation text is read as ten parallel streams. Each but
    the first begins a window early, which does not count: the result is close to that of one
    reading from end to end, and comes faster.

    The tuner's `get_best_models()` returns a model that carries its state from one batch to the
    next: tokens (batch_size, steps) to logits (batch_size, steps, vocabulary_size). `step_model`
    makes the form for a phone of it.

    Args:
        vocabulary_size: number of different tokens; tokens are 0 to vocabulary_size - 1.
        num_nodes: N, the nodes of the complete DAG, the input included.
        units: size of the state, and of a token's embedding.
        operations: the activations that nodes draw from.
        learning_rate: of SGD.
        clip_norm: the largest norm of all gradients together.
        batch_size: number of parallel streams of the training text.
        steps: tokens in a window, through which gradients go back.
        seed: integer, 0 included; decides which node has which activation.

    Attributes:
        default_score: what the tuner maximises unless it is given a `score`.
        one_device: true: a stream's state is carried on where its windows are.

    Raises:
        ValueError: an argument is out of its range; the message names it.

    Example:
        >>> import keras_tuner
        >>> hypermodel = RNNCellHyperModel(vocabulary_size=9, num_nodes=3, units=4, batch_size=2)
        >>> hp = keras_tuner.HyperParameters()
        >>> hypermodel.build(hp).output_shape  # streams, tokens of a window, words
        (2, 35, 9)
        >>> [name for name in hp.values if "edge" in name]
        ['cell/edge_0_1', 'cell/edge_0_2', 'cell/edge_1_2']
    """

    one_device = True

    def __init__(
        self,
        vocabulary_size: int = 10_000,
        num_nodes: int = 6,
        units: int = 100,
        operations: Sequence[str] = RNN_OPERATIONS,
        learning_rate: float = 20.0,
        clip_norm: float = 0.25,
        batch_size: int = 128,
        steps: int = 35,
        seed: int = 0,
    ) -> None:
        super().__init__(name="rnn_cell")
        num_nodes = whole("num_nodes", num_nodes, 2)
        self.default_score = PerplexityScore()
        self.vocabulary_size = whole("vocabulary_size", vocabulary_size, 2)
        self.units = whole("units", units, 1)
        self.learning_rate = positive("learning_rate", learning_rate)
        self.clip_norm = positive("clip_norm", clip_norm)
        self.batch_size = whole("batch_size", batch_size, 1)
        self.steps = whole("steps", steps, 1)
        if not operations or isinstance(operations, str):
            raise ValueError(f"operations={operations!r}: expected activations, such as ('tanh',)")
        for name in operations:
            check_activation(name)
        # Each node for itself: the published cell has some twice, and one not at all.
        generator = random.Random(f"operations/{seed}")
        drawn = [operations[int(generator.random() * len(operations))] for _ in range(1, num_nodes)]
        self.cell = Cell.dense((INPUT, *drawn))

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Builds and compiles the model of the cell that `hp` holds, which carries its state on.

        Returns:
            A model from tokens (batch_size, steps) to logits (batch_size, steps, vocabulary_size).
        """
        model = ShrinkRNN(
            declare_cell(hp, self.cell), self.vocabulary_size, self.units, name="proxy"
        )
        model = carrying(model, self.batch_size, self.steps)
        model.compile(
            optimizer=keras.optimizers.SGD(self.learning_rate, global_clipnorm=self.clip_norm),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=jit_compile(),
        )
        return model

    def fit(
        self,
        hp: keras_tuner.HyperParameters,
        model: keras.Model,
        x: Any,
        validation_data: Any = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        **kwargs: Any,
    ) -> Any:
        """Trains a candidate on a text, with early stopping.

        Args:
            hp: the candidate's hyperparameters.
            model: as `build` makes it.
            x: the training text, integers (n,).
            validation_data: the text to score on, integers (n,).
            callbacks: further ones.
            **kwargs: as for `keras.Model.fit`.

        Returns:
            The `keras.callbacks.History` of the training.

        Raises:
            ValueError: the training text is too short for one window in each stream.
        """
        windows, targets = training_windows(x, self.batch_size, self.steps)
        return model.fit(
            windows,
            targets,
            batch_size=self.batch_size,
            shuffle=False,  # a window goes on where the one before it in its stream ended
            callbacks=[
                PerplexityCallback(validation_data, steps=self.steps),
                *callbacks,
                keras.callbacks.EarlyStopping("val_perplexity", mode="min", patience=5),
            ],
            **kwargs,
        )

    def check_search_arguments(
        self, *args: Any, x: Any = None, validation_data: Any = None, **kwargs: Any
    ) -> None:
        """Checks the data of a search.

        Args:
            *args: the positional arguments of `AutoShrink.search`: the training text.
            x: the training text, integers (n,), where it is given by name.
            validation_data: the text to score on, integers (n,).
            **kwargs: the other arguments of `AutoShrink.search`.

        Raises:
            ValueError: these are no texts of this vocabulary, or too short; the message says why.
        """
        usage = "a text is searched by search(train_tokens, validation_data=validation_tokens)"
        x = args[0] if args else x
        unused = ("y", "batch_size", "validation_split", "sample_weight")
        given = [name for name in unused if kwargs.get(name) is not None]
        if len(args) > 1 or given:
            raise ValueError(f"{given[0] if given else 'y'}: is not for texts; {usage}")
        for what, tokens in (("x", x), ("validation_data", validation_data)):
            if tokens is None:
                raise ValueError(f"{what}: missing; {usage}")
            self._check_tokens(what, tokens)
        check_length(len(x), self.batch_size, self.steps)

    def _check_tokens(self, what: str, tokens: Any) -> None:
        try:
            tokens = np.asarray(tokens)
        except ValueError:  # of several lengths
            tokens = np.empty((), object)
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise ValueError(
                f"{what}: has shape {tokens.shape} and dtype {tokens.dtype}; expected the "
                "tokens of a text, integers of shape (n,)"
            )
        if len(tokens) < 2:
            raise ValueError(f"{what}: has {len(tokens)} tokens; expected 2 or more")
        if tokens.min() < 0 or tokens.max() >= self.vocabulary_size:
            culprit = tokens.max() if tokens.min() >= 0 else tokens.min()
            raise ValueError(
                f"{what}: holds the token {culprit}; those of vocabulary_size="
                f"{self.vocabulary_size} are 0 to {self.vocabulary_size - 1}"
            )

    def get_config(self) -> dict[str, Any]:
        """Returns, as plain values, all that a candidate's score depends on."""
        names = ("vocabulary_size", "units", "learning_rate", "clip_norm", "batch_size", "steps")
        return {"cell": self.cell.to_json(), **{name: getattr(self, name) for name in names}}
