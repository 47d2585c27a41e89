"""The HyperModel of the search for a convolutional cell."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
import operator
import random
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import keras
import keras_tuner
import numpy as np

from keras_autoshrink.cell import INPUT, Cell
from keras_autoshrink.checks import instance, one_of, positive, whole
from keras_autoshrink.costs import count_macs, count_params
from keras_autoshrink.costs.file_size import count_file_bytes
from keras_autoshrink.data.checks import as_array, as_labels, check_fit_data
from keras_autoshrink.hypermodels.callbacks import OUT_OF_DATA, OneCycle, ProxyStopping
from keras_autoshrink.hypermodels.search_space import CELL, declare_cell
from keras_autoshrink.hypermodels.seeding import SHIFT, ShuffledBatches, shifted
from keras_autoshrink.networks.architecture import Architecture
from keras_autoshrink.networks.budget import (
    KB,
    MACS,
    LatencyTarget,
    OverBudgetError,
    solve_filters,
)
from keras_autoshrink.networks.cnn import ShrinkCNN, round_filters
from keras_autoshrink.networks.operations import (
    BUDGET_OPERATIONS,
    CNN_OPERATIONS,
    LARGER,
    get_layers,
)
from keras_autoshrink.networks.references import reference_labels, solve_reference
from keras_autoshrink.score import AccuracyScore
from keras_autoshrink.search.points import REPEAT
from keras_autoshrink.training.classifier import compile_classifier
from keras_autoshrink.training.recipes import RECIPES, decaying

# The proxy trains for some hundred steps: slower statistics would not settle.
BATCHNORM_MOMENTUM = 0.9


# The stages of the paper's search on CIFAR-10 (arXiv 1911.09251).
_PAPER_STAGES: dict[str, Any] = {
    "filters": 16,
    "stage_scales": (1, 2, 4),
    "stage_strides": (1, 2, 2),
    "stage_repeats": (1, 1, 1),
    "stem_filters": 32,
    "stem_stride": 1,
    "activation": "relu",
}
# What follows from a budget; other stages may be given and are then not searched.
_SOLVED = ("filters", "stage_scales", "stem_filters")

SPACES = ("budget", "paper")
# Of so many images the accuracy of a network has a standard error of a point or less.
_ENOUGH = 2_000

# Cells of few nodes in a row, and their stages, of which good small networks are made.
_FIRST_CELLS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (
        ("sepconv3x3", "sepconv3x3"),
        {
            "stage2_cells": 2,
            "stage4_growth": 1.5,
            "residual": True,
            "activation": "silu",
            "large_kernels": 2,
            "pooled_stages": 4,
            "hidden_scale": 1.0,
        },
    ),
    (
        ("sepconv3x3", "sepconv3x3"),
        {"stage2_cells": 2, "stage4_cells": 0, "residual": True, "activation": "silu"},
    ),
    (("conv3x3",), {"stage4_growth": 1.5, "stem_scale": 0.5, "activation": "silu"}),
)

# What references are like that the space can say: the same network, but for how a width is solved,
# which layers have a bias, and further stages for larger images.
_LIKE: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "chain": (("sepconv3x3", "sepconv3x3"), {"stem_scale": 2.0, "stage4_cells": 0}),
    "separable-residual": (
        ("sepconv3x3", "sepconv3x3"),
        {"stage2_cells": 2, "stage4_cells": 0, "residual": True},
    ),
    "resnet8": (("conv3x3", "conv3x3"), {"stage4_cells": 0, "residual": True}),
}

_COSTS = {
    "target_macs": count_macs,
    "target_params": count_params,
    "target_kb": count_file_bytes,
}

_MOST_STAGES, _MOST_REPEATS = 4, 3
_FEWEST_PIXELS = 2  # of height and width in the last stage, with a stem of stride 1


class CNNCellHyperModel(keras_tuner.HyperModel):
    """A small image classifier made of one cell, trained for a short while: the proxy.

    With a target it is the space of networks at a budget: besides the cell's edges the ops of its
    nodes are searched, the stem's stride, the cells of each stage, how filters grow from stage to
    stage, larger kernels in the last stages, residuals, squeeze-and-excitation, a 1x1 convolution
    behind the stages, the stages that the classifier reads, and a dense layer in front of it. Nodes
    are added. The filters are solved, so that each network costs 95% to 100% of the target (of a
    latency as near to that as few measurements come), and the network that is searched is the one
    to ship.

    Without a target it is the paper's space (arXiv 1911.09251; the defaults are its search on
    CIFAR-10): edges alone; stem, one stage for each scale, global average pool, classifier; nodes
    are concatenated, without residuals or a head.

    It is trained by Adam. At a budget it is trained much as by the recipe `"short"` in full: the
    learning rate rises and falls once in the epochs that there are, kernels decay, and labels are
    smoothed (in the training loss, not in that of the validation). In the paper's space the
    learning rate stays, and a training stops early: after 5 epochs without a better validation
    accuracy; after epoch 4 if the validation accuracy is below twice chance (with 2 classes, 0.75);
    from epoch 4 on if the validation loss is more than three times the training loss. Where epochs
    are so short that epoch 4 ends before step 100, the epoch in which that step falls takes its
    place.

    Args:
        input_shape: (height, width, channels) of an image.
        classes: number of classes; labels are integers (n,) from 0 to classes - 1.
        num_nodes: N, the nodes of the complete DAG, the input included; by default 4 at a budget
            and 8 in the paper's space.
        filters: base number of filters, 16 by default; solved at a budget.
        stage_scales: scale of each stage's filters, by default (1, 2, 4); solved at a budget.
        stage_strides: stride of each stage, by default (1, 2, 2), at a budget one more 2 where
            the images allow it.
        stage_repeats: number of cells of each stage, by default (1, 1, 1); searched at a budget,
            unless it is given.
        stem_filters: filters of the stem, 32 by default; solved at a budget.
        stem_stride: stride of the stem, 1 by default; searched at a budget, unless it is given.
        operations: the ops that nodes draw from, in numbers as equal as possible; at a budget the
            ops of all nodes are searched. By default sepconv3x3 and conv1x1, at a
            budget sepconv5x5, conv3x3 and mbconv3x3 too.
        activation: name of the activation, "relu" by default; "relu" and "silu" are searched at a
            budget, unless it is given.
        learning_rate: of Adam; at a budget its peak, by default 0.02, else 0.004.
        batch_size: images in a step, where `AutoShrink.search` is given arrays and no
            `batch_size`.
        seed: integer, 0 included; decides which node has which op, at a budget at first.
        target_macs: what a network costs for an image in multiply-accumulates, at most.
        target_params: what it costs in parameters, at most.
        target_kb: kilobytes (1,000 bytes) of its int8 `.tflite` file, at most, without labels.
        target_latency_ms: milliseconds that its `.tflite` file takes LiteRT for an image on one
            thread of this machine, at most; one target at most is given. `AutoShrink` measures
            each network before it is trained; one that is built otherwise is as large as a guess.
        latency_of: the file that is timed, "float32" or "int8".
        photographs: whether images may be shifted by a sixteenth of their sides and mirrored in
            training, as the recipe `"photos"` does: digits may not. Each is mirrored in every
            second epoch, but those of a `tf.data.Dataset` at random.
        space: "budget" or "paper"; by default "budget" if there is a target.

    Attributes:
        scores_last_epoch: whether a candidate is scored as it is after its last epoch, as a network
            is that is trained in full, and not at its best one; true at a budget.

    Raises:
        ValueError: an argument is out of its range, or does not go with the others; the message
            names it.

    Example:
        >>> import keras_tuner
        >>> hypermodel = CNNCellHyperModel(input_shape=(4, 4, 1), classes=2, num_nodes=3)
        >>> hp = keras_tuner.HyperParameters()
        >>> model = hypermodel.build(hp)  # the complete DAG, compiled
        >>> model.output_shape, [name for name in hp.values if "edge" in name]
        ((None, 2), ['cell/edge_0_1', 'cell/edge_0_2', 'cell/edge_1_2'])
        >>> at_budget = CNNCellHyperModel((8, 8, 1), classes=2, target_macs=200_000)
        >>> 190_000 <= count_macs(at_budget.build(keras_tuner.HyperParameters())) <= 200_000
        True
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (32, 32, 3),
        classes: int = 10,
        num_nodes: int | None = None,
        filters: int | None = None,
        stage_scales: Sequence[float] | None = None,
        stage_strides: Sequence[int] | None = None,
        stage_repeats: Sequence[int] | None = None,
        stem_filters: int | None = None,
        stem_stride: int | None = None,
        operations: Sequence[str] | None = None,
        activation: str | None = None,
        learning_rate: float | None = None,
        batch_size: int = 128,
        seed: int = 0,
        target_macs: int | None = None,
        target_params: int | None = None,
        target_kb: float | None = None,
        target_latency_ms: float | None = None,
        latency_of: Literal["float32", "int8"] = "float32",
        photographs: bool = False,
        space: str | None = None,
    ) -> None:
        super().__init__(name="cnn_cell")
        targets: dict[str, float | None] = {
            "target_macs": target_macs,
            "target_params": target_params,
        }
        self.target: dict[str, float] = {
            n: whole(n, v, 1) for n, v in targets.items() if v is not None
        }
        targets["target_kb"] = target_kb
        if target_kb is not None:
            self.target["target_kb"] = positive("target_kb", target_kb)
        targets["target_latency_ms"] = target_latency_ms
        one_of("latency_of", latency_of, ("float32", "int8"))
        self.latency_target: LatencyTarget | None = None
        if target_latency_ms is not None:
            self.target["target_latency_ms"] = positive("target_latency_ms", target_latency_ms)
            self.latency_target = LatencyTarget(target_latency_ms, latency_of)
        self.space = space or ("budget" if self.target else "paper")
        one_of("space", self.space, SPACES)
        at_budget = self.space == "budget"
        if len(self.target) != at_budget:
            raise ValueError(
                f"space={self.space!r}, {_listed(targets)}: expected one target, and none in the "
                "paper's space"
            )
        if learning_rate is None:
            learning_rate = 2e-2 if at_budget else 4e-3
        self.learning_rate = positive("learning_rate", learning_rate)
        self.batch_size = whole("batch_size", batch_size, 1)
        instance("photographs", photographs, bool)
        self.photographs = photographs
        if operations is None:
            operations = BUDGET_OPERATIONS if at_budget else CNN_OPERATIONS
        if not operations or isinstance(operations, str):
            raise ValueError(f"operations={operations!r}: expected ops, such as ('conv1x1',)")
        for name in operations:
            get_layers(name)
        self.operations = tuple(operations)
        self.architecture: dict[str, Any] = {
            "input_shape": tuple(input_shape),
            "classes": whole("classes", classes, 2),
        }
        given = {
            "filters": filters,
            "stage_scales": stage_scales,
            "stage_strides": stage_strides,
            "stage_repeats": stage_repeats,
            "stem_filters": stem_filters,
            "stem_stride": stem_stride,
            "activation": activation,
        }
        given = {name: value for name, value in given.items() if value is not None}
        given = {
            name: tuple(value) if name.startswith("stage_") else value
            for name, value in given.items()
        }
        if at_budget and (solved := sorted({*_SOLVED} & {*given})):
            raise ValueError(f"{solved[0]}={given[solved[0]]!r}: follows from the target; omit it")
        self.architecture.update(given if at_budget else {**_PAPER_STAGES, **given})
        num_nodes = (4 if at_budget else 8) if num_nodes is None else num_nodes
        num_nodes = whole("num_nodes", num_nodes, 2)
        # One of each in turn, shuffled; what falls on node 0 gives way to the input.
        pool = [operations[node % len(operations)] for node in range(num_nodes)]
        generator = random.Random(f"operations/{seed}")
        # Not by shuffle(), whose order Python does not promise to keep from version to version.
        pool.sort(key=lambda _: generator.random())
        self.cell = Cell.dense((INPUT, *pool[1:]))
        # At a budget networks are ranked as they are going to be trained.
        recipe = RECIPES["short"]
        self.weight_decay, self.label_smoothing = (
            (recipe.weight_decay, recipe.label_smoothing) if at_budget else (0.0, 0.0)
        )
        self._solved: dict[str, tuple[int, ...]] = {}
        self._references: dict[tuple[str, int], Architecture] = {}
        self.scores_last_epoch = at_budget
        if at_budget:
            self.default_score = AccuracyScore(weight=0)  # all cost the same
            self.default_strategy = "evolution"

    def network(self, hp: keras_tuner.HyperParameters) -> Architecture:
        """Returns the architecture of the network that `hp` holds.

        Raises:
            ValueError: the cell or the architecture cannot be built, or not at the target; the
                message says why.
        """
        if self.space == "paper":
            return Architecture(
                {
                    **self.architecture,
                    "cell": declare_cell(hp, self.cell),
                    "width": 1,
                    "head_filters": None,
                    "residual": False,
                }
            )
        name, target = self._solved_for(hp)
        cell = declare_cell(hp, self.cell, operations=self.operations)
        stages = self._declare_stages(hp)
        # Of the stem and the stages, in proportion to those of the first stage.
        base = [hp.Choice("stem_scale", [0.25, 0.5, 1.0, 2.0], default=1.0)]
        base += itertools.accumulate(stages.pop("growths"), operator.mul)
        head = hp.Choice("head_scale", [0, 2, 4], default=0)
        hidden = hp.Choice("hidden_scale", [0.0, 0.5, 1.0], default=0.0)
        network = {
            **self.architecture,
            **stages,
            "cell": cell.prune(),
            "residual": hp.Boolean("residual", default=False),
            **{
                name: min(hp.Int(name, 0, 2, default=0), len(stages["stage_repeats"]))
                for name in ("large_kernels", "squeeze_excite")
            },
            "pooled_stages": min(
                hp.Choice("pooled_stages", [1, 2, 4], default=1), len(stages["stage_repeats"])
            ),
            "combine": "add",
        }
        if "activation" not in network:
            network["activation"] = hp.Choice("activation", ["relu", "silu"], default="relu")

        def arguments(filters: tuple[int, ...]) -> dict[str, Any]:
            return {
                **network,
                "stem_filters": filters[0],
                "stage_filters": filters[1:],
                "head_filters": head * filters[-1] or None,
                "hidden_units": round_filters(hidden * filters[-1]) if hidden else None,
            }

        # A reference in place of the cell: none is drawn, but a search begins with them.
        label = hp.Fixed("network", CELL)
        if label != CELL:
            shape, classes = self.architecture["input_shape"], self.architecture["classes"]
            if (label, target) not in self._references:
                try:
                    found = solve_reference(label, shape, classes, target, _COSTS[name], name)
                except ValueError as error:
                    raise OverBudgetError(f"{label}: {error}") from error
                self._references[label, target] = Architecture(found[1], found[0])
            return self._references[label, target]
        key = repr((base, head, hidden, network, target))
        if key not in self._solved:
            try:
                self._solved[key] = solve_filters(
                    lambda f: ShrinkCNN(**arguments(f)), base, target, _COSTS[name], name
                )
            except OverBudgetError as error:
                if self.latency_target is None:
                    raise
                raise OverBudgetError(
                    f"target_latency_ms={self.latency_target.ms:g}: is about {error}"
                ) from error
        return Architecture(arguments(self._solved[key]))

    def _solved_for(self, hp: keras_tuner.HyperParameters) -> tuple[str, int]:
        """Returns the name of the target that widths are solved for, and its value in `_COSTS`."""
        if self.latency_target is not None:
            return "target_macs", int(hp.values.get(MACS, self.latency_target.guess))
        ((name, target),) = self.target.items()
        return name, int(target * KB if name == "target_kb" else target)

    def starting_values(self) -> list[dict[str, Any]]:
        """Lists what a search at a budget begins with: plain cells, and the references.

        Returns:
            Values of hyperparameters by name; all others have their defaults.
        """
        if self.space == "paper":
            return []
        hp = keras_tuner.HyperParameters()
        with contextlib.suppress(OverBudgetError):
            self.network(hp)
        edges = {name: False for name in hp.values if name.startswith("cell/edge_")}

        def in_a_row(ops: tuple[str, ...], values: dict[str, Any]) -> dict[str, Any]:
            """Returns values of a cell of some ops, none if it is no cell of the space."""
            if len(ops) >= self.cell.num_nodes or not {*ops} <= {*self.operations}:
                return {}
            row: dict[str, Any] = {f"cell/op_{n}": op for n, op in enumerate(ops, start=1)}
            row.update({f"cell/edge_{n}_{n + 1}": True for n in range(len(ops))})
            # What is not searched, since it is given, is no hyperparameter.
            return {n: v for n, v in {**edges, **row, **values}.items() if n in hp.values}

        cells = [values for each in _FIRST_CELLS if (values := in_a_row(*each))]
        references = []
        # Those with a stem of stride 2 are mostly better.
        for label in sorted(reference_labels(), key=lambda label: not label.endswith("-stride2")):
            name = label.removesuffix("-stride2")
            ops, values = _LIKE.get(name, ((), {}))
            stride = 1 if name == label else 2
            like = in_a_row(ops, {**values, "stem_stride": stride}) if ops else {}
            references.append({"network": label, **like})
        return [*cells, *references]

    def without_effect(self, values: dict[str, Any]) -> list[str]:
        """Names the hyperparameters that change nothing of a network, where others are as they are.

        Args:
            values: of hyperparameters by name, those of the cell's edges and ops included.
        """
        hp = keras_tuner.HyperParameters()
        hp.values = dict(values)
        ops = declare_cell(hp, self.cell, operations=self.operations).prune().ops
        stages = range(1, _MOST_STAGES + 1)
        found = [f"stage{n}_growth" for n in stages if values.get(f"stage{n}_cells") == 0]
        return found if {*ops} & {*LARGER} else [*found, "large_kernels"]

    def _declare_stages(self, hp: keras_tuner.HyperParameters) -> dict[str, Any]:
        """Declares the stages of a network at a budget as far as they are not given."""
        strides = self.architecture.get("stage_strides")
        if strides is None:
            pixels = min(self.architecture["input_shape"][:2])
            most = 1 + int(math.log2(max(pixels / _FEWEST_PIXELS, 1)))
            strides = (1, *[2] * (min(most, _MOST_STAGES) - 1))
        repeats = self.architecture.get("stage_repeats")
        if repeats is None:
            repeats = [
                # The last may be left out; if others were, networks were equal.
                hp.Int(f"stage{n}_cells", int(n < max(len(strides), 2)), _MOST_REPEATS, default=1)
                for n in range(1, len(strides) + 1)
            ]
        # How many times the filters of the stage before each has.
        growths = [1.0] + [
            hp.Choice(f"stage{n}_growth", [1.0, 1.5, 2.0, 2.5], default=2.0)
            for n in range(2, len(repeats) + 1)
        ]
        repeats = [each for each in repeats if each]
        stride = self.architecture.get("stem_stride") or hp.Choice("stem_stride", [1, 2], default=2)
        if "stage_strides" not in self.architecture:
            strides = (hp.Choice("stage1_stride", [1, 2], default=1), *strides[1:])
        return {
            "stem_stride": stride,
            "stage_strides": tuple(strides[: len(repeats)]),
            "stage_repeats": tuple(repeats),
            "growths": growths[: len(repeats)],
        }

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Builds and compiles the network that `hp` holds.

        Returns:
            A model from images (batch, height, width, channels) to logits (batch, classes).

        Raises:
            ValueError: the cell or the architecture cannot be built, or not at the target; the
                message says why.
        """
        model = self.network(hp).build(BATCHNORM_MOMENTUM)
        compile_classifier(
            model,
            decaying(keras.optimizers.Adam(self.learning_rate), self.weight_decay),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        return model

    def fit(
        self, hp: keras_tuner.HyperParameters, model: keras.Model, *args: Any, **kwargs: Any
    ) -> Any:
        """Trains a candidate, with `stopping_rules`, and at a budget with one cycle of the rate.

        Arrays are shuffled anew for each epoch, in an order that follows from Python's own random
        generator, which the tuner seeds for each candidate.

        Args:
            hp: the candidate's hyperparameters.
            model: as `build` makes it.
            *args: as for `keras.Model.fit`.
            **kwargs: as for `keras.Model.fit`.

        Returns:
            The `keras.callbacks.History` of the training.
        """
        given = inspect.signature(keras.Model.fit).bind_partial(model, *args, **kwargs).arguments
        del given["self"]
        callbacks = [*(given.pop("callbacks", None) or ()), *self.stopping_rules()]
        if self.space == "budget":
            callbacks.append(OneCycle(self.learning_rate))
        if self.label_smoothing:
            _smooth_labels(model, self.label_smoothing)
        _take_lists(given)
        if _held_out(given):
            _hold_out(given, hp.values.get(REPEAT, 0) if self.count_folds(**given) > 1 else 0)
        data = given.get("x")
        if hasattr(data, "shape"):
            given["batch_size"] = given.get("batch_size") or self.batch_size
        elif hasattr(data, "element_spec"):
            given.setdefault("shuffle", False)  # a tf.data set shuffles itself; Keras would warn
        if _is_shuffled_here(given):
            x, y, size = as_array(data), as_array(given.pop("y")), given.pop("batch_size")
            seed = random.randint(1, int(1e9))
            batches = ShuffledBatches(x, y, size, seed, self.photographs)
            given.update(x=batches, shuffle=False)
            given["validation_batch_size"] = (
                given.get("validation_batch_size") or batches.batch_size
            )
            begin = keras.callbacks.LambdaCallback(
                on_epoch_begin=lambda epoch, logs: batches.begin(epoch)
            )
            callbacks.insert(0, begin)
        elif self.photographs:
            given["x"] = _moved(data)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", OUT_OF_DATA)  # where it matters, it is an error
            return model.fit(**given, callbacks=callbacks)

    def count_folds(self, *args: Any, **kwargs: Any) -> int:
        """Counts the parts of the images that `fit` scores on, one in each training of a network.

        Args:
            *args: as for `keras.Model.fit`.
            **kwargs: as for `keras.Model.fit`.

        Returns:
            With `validation_split`, as many as together have images enough to judge by; else 1.
        """
        given = {**dict(zip(("x", "y"), args, strict=False)), **kwargs}
        if (count := _held_out(given)) == 0:
            return 1
        return min(len(as_array(given["y"])) // count, math.ceil(_ENOUGH / count))

    def stopping_rules(self) -> list[keras.callbacks.Callback]:
        """Makes the callbacks that stop a candidate early; a subclass may have others, or none."""
        if self.space == "budget":
            return []  # before its end a learning rate that is still high says little
        return [
            keras.callbacks.EarlyStopping("val_accuracy", mode="max", patience=5),
            ProxyStopping(self.architecture["classes"]),
        ]

    def check_search_arguments(self, *args: Any, loss: Any = None, **kwargs: Any) -> None:
        """Checks the data of a search.

        Args:
            *args: those of `AutoShrink.search`.
            loss: what the tuner compiles candidates with, where that is not what `build` does.
            **kwargs: those of `AutoShrink.search`.

        Raises:
            ValueError: the network cannot train on these data; the message says why.
        """
        if loss is None and type(self).build is not CNNCellHyperModel.build:
            loss = self.build(keras_tuner.HyperParameters()).loss
        check_fit_data(
            *args,
            loss=loss,
            input_shape=self.architecture["input_shape"],
            classes=self.architecture["classes"],
            **kwargs,
        )

    def get_config(self) -> dict[str, Any]:
        """Returns, as plain values, all that a candidate's score depends on."""
        return {
            **self.architecture,
            "cell": self.cell.to_json(),
            **({"operations": self.operations, **self.target} if self.target else {}),
            **({"latency_of": self.latency_target.quantization} if self.latency_target else {}),
            "learning_rate": self.learning_rate,
            "batch_size": self.batch_size,
            **({"weight_decay": self.weight_decay} if self.weight_decay else {}),
            **({"label_smoothing": self.label_smoothing} if self.label_smoothing else {}),
            **({"photographs": True} if self.photographs else {}),
            **({"scores_last_epoch": True} if self.scores_last_epoch else {}),
        }


def _smooth_labels(model: keras.Model, share: float) -> None:
    """Spreads a share of each label evenly over all classes in a model's training loss.

    Not by another loss in its place: what is saved is a model of Keras's own.
    """
    loss = model.loss
    if not (isinstance(loss, keras.losses.SparseCategoricalCrossentropy) and loss.from_logits):
        return  # compiled otherwise, by a subclass
    plain = type(model).compute_loss.__get__(model)  # also where the model has been fitted before

    def compute_loss(
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        loss = plain(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
        if not training:
            return loss
        ops = keras.ops
        logits = ops.log_softmax(y_pred)
        labels = ops.expand_dims(ops.cast(ops.reshape(y, (-1,)), "int32"), -1)
        of_label = ops.take_along_axis(logits, labels, axis=-1)[:, 0]
        more = of_label - ops.mean(logits, axis=-1)
        if sample_weight is not None:
            more = more * ops.cast(ops.reshape(sample_weight, (-1,)), more.dtype)
        # As Keras scales a loss by the replicas of a strategy.
        return loss + model._aggregate_additional_loss(share * ops.mean(more))

    model.compute_loss = compute_loss


def _moved(data: Any) -> Any:
    """Shifts and mirrors images of a `tf.data.Dataset` of batches at random.

    Raises:
        ValueError: it is none.
    """
    if not hasattr(data, "element_spec"):
        raise ValueError(
            "photographs=True: is for arrays x and y, without sample_weight or steps_per_epoch, "
            "and for a tf.data.Dataset; shift and mirror these images yourself"
        )
    import tensorflow as tf

    def move(x: Any, *rest: Any) -> tuple[Any, ...]:
        for axis in (1, 2):
            side = x.shape[axis]
            most = side // SHIFT
            offsets = tf.random.uniform(tf.shape(x)[:1], -most, most + 1, tf.int32)
            x = tf.gather(x, shifted(side, offsets), axis=axis, batch_dims=1)
        return tf.image.random_flip_left_right(x), *rest

    return data.map(move)


def _take_lists(given: dict[str, Any]) -> None:
    """Turns labels in lists among the arguments of `fit`, which Keras takes for several outputs."""
    if "y" in given:
        given["y"] = as_labels(given["y"])
    validation = given.get("validation_data")
    if isinstance(validation, (list, tuple)):
        given["validation_data"] = (validation[0], *map(as_labels, validation[1:]))


def _listed(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def _are_plain_arrays(given: dict[str, Any]) -> bool:
    """Whether the data among arguments of `fit` are arrays without weights."""
    arrays = all(isinstance(as_array(given.get(name)), np.ndarray) for name in ("x", "y"))
    return arrays and given.get("sample_weight") is None


def _held_out(given: dict[str, Any]) -> int:
    """Counts the images that are split off here, where Keras would split off the last.

    None where that is left to Keras, which refuses it where no image would be left to train on.
    """
    share = given.get("validation_split") or 0
    is_given = given.get("validation_data") is not None
    if is_given or not 0 < share < 1 or not _are_plain_arrays(given):
        return 0
    count = len(as_array(given["y"]))
    first = math.floor(count * (1 - share))
    return count - first if first else 0


def _hold_out(given: dict[str, Any], repeat: int) -> None:
    """Splits off as many images as Keras would: the last ones, in repeated trainings others.

    No image has its turn twice before all parts have had theirs; fewer images than a part are left
    over. In an order at random: others may be sorted.
    """
    x, y, count = as_array(given["x"]), as_array(given["y"]), _held_out(given)
    first = len(y) - count
    place = repeat % (len(y) // count)
    if place == 0:
        kept, held = slice(first), slice(first, None)
    else:
        order, stop = np.random.default_rng(0).permutation(first), count * place
        held = order[stop - count : stop]
        kept = np.r_[order[: stop - count], order[stop:], first : len(y)]
    del given["validation_split"]
    given.update(x=x[kept], y=y[kept], validation_data=(x[held], y[held]))


def _is_shuffled_here(given: dict[str, Any]) -> bool:
    """Whether arguments of `fit` are arrays, and ask for nothing that Keras alone does."""
    return (
        _are_plain_arrays(given)
        and given.get("steps_per_epoch") is None
        and not given.get("validation_split")
        and given.get("shuffle", True) is True
    )
