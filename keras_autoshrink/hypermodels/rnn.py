"""The HyperModel of the search for a recurrent cell."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
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
from keras_autoshrink.hypermodels.callbacks import OneCycle
from keras_autoshrink.hypermodels.search_space import CELL, declare_cell
from keras_autoshrink.networks.architecture import Architecture
from keras_autoshrink.networks.budget import OverBudgetError
from keras_autoshrink.networks.language_model import ShrinkRNN, carrying
from keras_autoshrink.networks.operations import (
    BUDGET_RNN_OPERATIONS,
    RNN_OPERATIONS,
    SKIP,
    check_activation,
)
from keras_autoshrink.networks.perplexity import PerplexityCallback
from keras_autoshrink.networks.recurrent_references import RECURRENT_REFERENCES, solve_units
from keras_autoshrink.networks.rnn import INPUT_STEPS
from keras_autoshrink.score import LossScore, PerplexityScore
from keras_autoshrink.training.recipes import TEXT_RECIPES

# How candidates are trained at a budget: as what is found is trained in full.
_RECIPE = TEXT_RECIPES["short"]
# How the paper's search trains them.
_PAPER = {"learning_rate": 20.0, "clip_norm": 0.25, "batch_size": 128, "steps": 35}
_PAPER_UNITS = 100

# What a search at a budget begins with beside references: the op of node 1, which follows node 0
# alone, and other values. The first two are an LSTM and a GRU.
_FIRST_CELLS: tuple[tuple[str, dict[str, Any]], ...] = (
    (SKIP, {"input_step": "lstm", "forget_bias": 1.0}),
    (SKIP, {"input_step": "gru"}),
    ("tanh", {"input_step": "lstm", "forget_bias": 1.0, "normalise": True}),
    ("tanh", {"input_step": "highway", "forget_bias": 1.0}),
)


class RNNCellHyperModel(keras_tuner.HyperModel):
    """A small language model of a recurrent cell, trained for a short while: the proxy.

    With a target it is the space of networks at a budget: besides the cell's edges are searched the
    ops of its nodes, "skip" among them, which is a residual path; how node 0 takes its step, as in
    a highway network, a minimal gated unit, a GRU or an LSTM; the initial bias by which gates keep
    what there is; and layer normalisation. All products have biases. The units are solved, so that
    each network costs 95% to 100% of the target, and the network that is searched is the one to
    ship. It is trained as by the recipe `"short"` in full, and scored by `LossScore()`. A search
    begins with a plain LSTM and GRU of this space, and with Keras's LSTM and GRU, a minimal gated
    unit and the published ShrinkRNN as references.

    Without a target it is the paper's space, of edges alone, and what follows holds.

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
        num_nodes: N, the nodes of the complete DAG, the input included; by default 4 at a budget
            and 6 in the paper's space.
        units: size of the state, and of a token's embedding, 100 by default; solved at a budget.
        operations: the activations that nodes draw from; at a budget the ops of all nodes are
            searched, by default with "skip".
        learning_rate: of SGD, 20 by default; at a budget the recipe's.
        clip_norm: the largest norm of all gradients together, by default 0.25; at a budget the
            recipe's.
        batch_size: number of parallel streams of the training text, by default 128; at a budget the
            recipe's.
        steps: tokens in a window, through which gradients go back, by default 35; at a budget the
            recipe's.
        seed: integer, 0 included; decides which node has which activation, at a budget at first.
        target_macs: what a network costs for a token in multiply-accumulates, at most.
        target_params: what it costs in parameters, at most; one target at most is given.

    Attributes:
        default_score: what the tuner maximises unless it is given a `score`.
        target: name and value of the target; empty without one.
        one_device: true: a stream's state is carried on where its windows are.
        scores_last_epoch: whether a candidate is scored as it is after its last epoch, as a network
            is that is trained in full, and not at its best one; true at a budget.

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
        >>> from keras_autoshrink import count_params
        >>> at_budget = RNNCellHyperModel(vocabulary_size=50, target_params=20_000)
        >>> 19_000 <= count_params(at_budget.build(keras_tuner.HyperParameters())) <= 20_000
        True
    """

    one_device = True

    def __init__(
        self,
        vocabulary_size: int = 10_000,
        num_nodes: int | None = None,
        units: int | None = None,
        operations: Sequence[str] | None = None,
        learning_rate: float | None = None,
        clip_norm: float | None = None,
        batch_size: int | None = None,
        steps: int | None = None,
        seed: int = 0,
        target_macs: int | None = None,
        target_params: int | None = None,
    ) -> None:
        super().__init__(name="rnn_cell")
        targets = {"target_macs": target_macs, "target_params": target_params}
        self.target = {n: whole(n, v, 1) for n, v in targets.items() if v is not None}
        if len(self.target) > 1:
            raise ValueError(
                f"target_macs={target_macs!r}, target_params={target_params!r}: expected one of "
                "the two"
            )
        if self.target and units is not None:
            raise ValueError(f"units={units!r}: follows from the target; omit it")
        at_budget = bool(self.target)
        num_nodes = (4 if at_budget else 6) if num_nodes is None else num_nodes
        num_nodes = whole("num_nodes", num_nodes, 2)
        self.default_score = LossScore() if at_budget else PerplexityScore()
        self.vocabulary_size = whole("vocabulary_size", vocabulary_size, 2)
        self.units = (
            None if at_budget else whole("units", _PAPER_UNITS if units is None else units, 1)
        )
        given = {
            "learning_rate": learning_rate,
            "clip_norm": clip_norm,
            "batch_size": batch_size,
            "steps": steps,
        }
        given = {name: value for name, value in given.items() if value is not None}
        how = {**({n: getattr(_RECIPE, n) for n in _PAPER} if at_budget else _PAPER), **given}
        self.learning_rate = positive("learning_rate", how["learning_rate"])
        self.clip_norm = positive("clip_norm", how["clip_norm"])
        self.batch_size = whole("batch_size", how["batch_size"], 1)
        self.steps = whole("steps", how["steps"], 1)
        if operations is None:
            operations = BUDGET_RNN_OPERATIONS if at_budget else RNN_OPERATIONS
        if not operations or isinstance(operations, str):
            raise ValueError(f"operations={operations!r}: expected activations, such as ('tanh',)")
        for name in operations:
            check_activation(name)
        self.operations = tuple(operations)
        # Each node for itself: the published cell has some twice, and one not at all.
        generator = random.Random(f"operations/{seed}")
        drawn = [operations[int(generator.random() * len(operations))] for _ in range(1, num_nodes)]
        self.cell = Cell.dense((INPUT, *drawn))
        self._solved: dict[str, int] = {}
        self.scores_last_epoch = at_budget
        if at_budget:
            self.default_strategy = "evolution"
            self._recipe = dataclasses.replace(_RECIPE, **how)

    def network(self, hp: keras_tuner.HyperParameters) -> Architecture:
        """Returns the architecture of the network that `hp` holds.

        Raises:
            ValueError: the cell cannot be built, or not at the target; the message says why.
        """
        arguments: dict[str, Any] = {"vocabulary_size": self.vocabulary_size}
        if not self.target:
            arguments.update(cell=declare_cell(hp, self.cell).prune(), units=self.units)
            return Architecture(arguments)
        cell = declare_cell(hp, self.cell, operations=self.operations).prune()
        arguments.update(
            cell=cell,
            input_step=hp.Choice("input_step", [*INPUT_STEPS], default="highway"),
            use_bias=True,
            forget_bias=hp.Choice("forget_bias", [0.0, 1.0, 2.0], default=0.0),
            normalise=hp.Boolean("normalise", default=False),
        )
        # A reference in place of the cell: none is drawn, but a search begins with them.
        label = hp.Fixed("network", CELL)
        reference = None if label == CELL else label
        if reference is not None:
            arguments = {"vocabulary_size": self.vocabulary_size}
            build = functools.partial(RECURRENT_REFERENCES[label].build, **arguments)
        else:
            build = functools.partial(ShrinkRNN, **arguments)
        key = repr((label, arguments))
        if key not in self._solved:
            ((name, target),) = self.target.items()
            try:
                self._solved[key] = solve_units(lambda units: build(units=units), target, name)
            except OverBudgetError as error:
                raise OverBudgetError(f"{label}: {error}" if reference else error) from error
        return Architecture({**arguments, "units": self._solved[key]}, reference)

    def starting_values(self) -> list[dict[str, Any]]:
        """Lists what a search at a budget begins with: plain cells, and the references.

        Returns:
            Values of hyperparameters by name; all others have their defaults.
        """
        if not self.target:
            return []
        hp = keras_tuner.HyperParameters()
        with contextlib.suppress(OverBudgetError):
            self.network(hp)
        edges = {name: name == "cell/edge_0_1" for name in hp.values if "/edge_" in name}
        cells = [
            {**edges, "cell/op_1": op, **values}
            for op, values in _FIRST_CELLS
            if op in self.operations
        ]
        return [*cells, *({"network": label} for label in RECURRENT_REFERENCES)]

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Builds and compiles the model of the cell that `hp` holds, which carries its state on.

        Returns:
            A model from tokens (batch_size, steps) to logits (batch_size, steps, vocabulary_size).
        """
        optimizer = keras.optimizers.SGD(self.learning_rate, global_clipnorm=self.clip_norm)
        if self.target:
            recipe = self._recipe
            model = self.network(hp).build(**recipe.cell_dropouts(), **recipe.regularization())
            # `fit` gives it its schedule.
            optimizer = dataclasses.replace(recipe, schedule="constant").build_optimizer()
        else:
            model = ShrinkRNN(
                declare_cell(hp, self.cell), self.vocabulary_size, self.units, name="proxy"
            )
        model = carrying(model, self.batch_size, self.steps)
        model.compile(
            optimizer=optimizer,
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
        """Trains a candidate on a text, with early stopping, or at a budget by its schedule.

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
                *self._more_callbacks(),
            ],
            **kwargs,
        )

    def _more_callbacks(self) -> list[keras.callbacks.Callback]:
        if not self.target:
            return [keras.callbacks.EarlyStopping("val_perplexity", mode="min", patience=5)]
        # Before its end a learning rate that is still high says little: nothing is stopped.
        return [OneCycle(self.learning_rate)] if self._recipe.schedule == "one_cycle" else []

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
        config = {"cell": self.cell.to_json(), **{name: getattr(self, name) for name in names}}
        if not self.target:
            return config
        recipe = {n: v for n, v in dataclasses.asdict(self._recipe).items() if n != "epochs"}
        searched = {"operations": [*self.operations], "scores_last_epoch": True}
        return {**config, **recipe, **searched, **self.target}
