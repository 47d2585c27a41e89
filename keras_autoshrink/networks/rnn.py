"""ShrinkRNN's recurrent layer: the step that a cell takes for each token.

Zhang et al., arXiv 1911.09251; the gated step is that of recurrent highway networks. At a budget
node 0 may take the step of an LSTM, a GRU or a minimal gated unit instead, and more is searched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras

from keras_autoshrink.cell import Cell
from keras_autoshrink.checks import one_of, share, whole
from keras_autoshrink.networks.operations import SKIP, check_activation

# The steps that node 0 may take, and into how many blocks of units x and h are multiplied for each:
# the gates, and then what is new.
INPUT_STEPS = {"highway": 2, "mgu": 2, "gru": 3, "lstm": 4}

_EPSILON = 1e-5  # of layer normalisation


# Of SimpleRNNCell it takes what has nothing to do with its equation: the size of the state, the
# initial state, and one dropout mask for a whole sequence, which `keras.layers.RNN` makes and
# clears only for cells of Keras's own classes.
@keras.saving.register_keras_serializable(package="keras_autoshrink")
class ShrinkRNNCell(keras.layers.SimpleRNNCell):
    """One time step of a cell, for `keras.layers.RNN`.

    With x the input, h the state before and f_j the activation of node j:

        [c, g] = [x, h] W0,  s_0 = h + sigmoid(c) (tanh(g) - h)
        edge i-j:  [c, g] = s_i W_ij,  contribution  s_i + sigmoid(c) (f_j(g) - s_i)

    A node is the mean of its contributions, the new state and output the mean of the leaves.
    All edges out of a node are one matrix product. An edge to a node of the op "skip" has none: its
    contribution is s_i itself, which makes a residual path, and a cell of such edges alone is no
    more than its node 0.

    Args:
        cell: its ops are activations, "tanh", "relu", "sigmoid" or "identity", or "skip"; nodes
            that cannot be reached from node 0 are left out.
        units: size of the state and the output.
        dropout: share of x that is dropped in training, with one mask for a whole sequence
            (Gal and Ghahramani, arXiv 1512.05287).
        recurrent_dropout: share of h that is dropped in W0's product; the same mask is on every
            s_i.
        kernel_initializer: of all W; by default uniform within 1 / sqrt(units): at the paper's
            745 units close to the 0.04 of its release.
        seed: of the dropout masks.
        input_step: how node 0 makes s_0 of x and h: "highway" as above; "gru" with a reset gate
            besides, behind the product as in Keras (Cho et al., arXiv 1406.1078); "mgu" with one
            gate for both (minimal gated unit, Zhou et al., arXiv 1603.09420); "lstm" with three
            gates and a memory, which is a second state and which the other nodes leave as it is
            (Hochreiter and Schmidhuber, 1997; Gers et al., 2000).
        use_bias: whether products have a bias.
        forget_bias: by how much gates keep the old at first: the bias that a gate of the new begins
            with is its negative, that of an LSTM's forget gate itself (Jozefowicz et al., 2015).
        normalise: whether h, and each s_i, is normalised where it goes into a product: layer
            normalisation (Ba et al., arXiv 1607.06450), which leaves what is carried on as it is.
        **kwargs: as for every Keras layer.

    Raises:
        ValueError: an argument is out of its range, or an op is no activation.

    Call arguments:
        sequence: x, shape (batch, features).
        states: [h], shape (batch, units); of "lstm" [h, memory].

    Example:
        >>> import keras
        >>> from keras_autoshrink.cell import SHRINKRNN_CELL
        >>> layer = keras.layers.RNN(ShrinkRNNCell(SHRINKRNN_CELL, 8), return_sequences=True)
        >>> layer(keras.ops.ones((2, 5, 4))).shape
        TensorShape([2, 5, 8])
    """

    def __init__(
        self,
        cell: Cell | Mapping[str, Any],
        units: int,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        kernel_initializer: Any = None,
        seed: int | None = None,
        input_step: str = "highway",
        use_bias: bool = False,
        forget_bias: float = 0.0,
        normalise: bool = False,
        **kwargs: Any,
    ) -> None:
        units = whole("units", units, 1)
        one_of("input_step", input_step, tuple(INPUT_STEPS))
        if not math.isfinite(forget_bias) or (forget_bias and not use_bias):
            raise ValueError(
                f"forget_bias={forget_bias!r}: expected a finite number, and 0 without use_bias"
            )
        if kernel_initializer is None:
            limit = units**-0.5
            kernel_initializer = keras.initializers.RandomUniform(-limit, limit)
        super().__init__(
            units,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            dropout=share("dropout", dropout),
            recurrent_dropout=share("recurrent_dropout", recurrent_dropout),
            seed=seed,
            **kwargs,
        )
        # A file of the model holds the cell as plain values.
        self.cell = (cell if isinstance(cell, Cell) else Cell.from_json(cell)).prune()
        for op in self.cell.ops[1:]:
            check_activation(op)
        self.input_step = input_step
        self.forget_bias = float(forget_bias)
        self.normalise = normalise
        if input_step == "lstm":
            self.state_size = [units, units]
        self._successors = {
            node: [j for i, j in self.cell.edges if i == node and self.cell.ops[j] != SKIP]
            for node in range(self.cell.num_nodes)
        }
        self._skips = {
            node: [j for i, j in self.cell.edges if i == node and self.cell.ops[j] == SKIP]
            for node in range(self.cell.num_nodes)
        }

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes W0, in two parts, and the W of each node that has outgoing edges with a product.

        Args:
            input_shape: (batch, features).
        """

        def kernel(name: str, rows: int, columns: int) -> keras.Variable:
            # An initializer gives the same numbers each time it is asked for the same shape.
            initializer = self.kernel_initializer.clone()
            return self.add_weight(shape=(rows, columns), initializer=initializer, name=name)

        def biases(name: str, *blocks: float) -> keras.Variable:
            """One for each column of a product; those of a block of units begin alike."""
            values = [value for value in blocks for _ in range(self.units)]
            return self.add_weight(
                shape=(len(values),),
                initializer=lambda shape, dtype=None: keras.ops.convert_to_tensor(values, dtype),
                name=name,
            )

        # The rows of W0 for x and those for h. Eight-bit files give one scale to all that goes
        # into a product: to [x, h] it would be too coarse for the smaller of the two.
        columns = INPUT_STEPS[self.input_step] * self.units
        self.kernel = kernel("kernel", input_shape[-1], columns)
        self.recurrent_kernel = kernel("recurrent_kernel", self.units, columns)
        # Columns: c of all its edges, in the order of the nodes they lead to, then g of all.
        # (The keys are strings because TensorFlow's saved models take no others.)
        self.edge_kernels = {
            str(node): kernel(f"node{node}_kernel", self.units, 2 * self.units * len(successors))
            for node, successors in self._successors.items()
            if successors
        }
        self.biases, self.scales = {}, {}
        if self.use_bias:
            keeping = -self.forget_bias
            at_first = {
                "highway": (keeping, 0.0),
                "mgu": (keeping, 0.0),
                "gru": (keeping, 0.0, 0.0),
                "lstm": (0.0, self.forget_bias, 0.0, 0.0),
            }
            self.biases["input"] = biases("bias", *at_first[self.input_step])
            for node in self.edge_kernels:
                edges = len(self._successors[int(node)])
                blocks = [keeping] * edges + [0.0] * edges
                self.biases[node] = biases(f"node{node}_bias", *blocks)
        if self.normalise:
            for name in ("input", *self.edge_kernels):
                label = "recurrent" if name == "input" else f"node{name}"
                self.scales[name] = [
                    self.add_weight(shape=(self.units,), initializer=at, name=f"{label}_{which}")
                    for which, at in (("gamma", "ones"), ("beta", "zeros"))
                ]

    def get_initial_state(self, batch_size: int | None = None) -> list[Any]:
        """Returns states of zeros, each of shape (batch, units)."""
        states = 2 if self.input_step == "lstm" else 1
        return [
            keras.ops.zeros((batch_size, self.units), dtype=self.compute_dtype)
            for _ in range(states)
        ]

    def call(self, sequence: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Computes one step: its output and its new state, which are the same.

        Args:
            sequence: x, shape (batch, features).
            states: [h], h of shape (batch, units); of "lstm" [h, memory].
            training: whether the dropouts drop anything.

        Returns:
            The output, shape (batch, units), and the new states.
        """
        h, *memory = states if isinstance(states, (list, tuple)) else (states,)
        mask = None
        x, dropped = sequence, self._normalised("input", h)
        if training:
            input_mask, mask = self.get_dropout_mask(x), self.get_recurrent_dropout_mask(h)
            x = x if input_mask is None else x * input_mask
            dropped = dropped if mask is None else dropped * mask
        of_input = keras.ops.matmul(x, self.kernel)
        of_state = keras.ops.matmul(dropped, self.recurrent_kernel)
        contributions: dict[int, list[Any]] = {node: [] for node in self._successors}
        first, memory = self._take_input_step(of_input, of_state, h, memory)
        contributions[0] = [first]
        values = []
        for node, successors in self._successors.items():
            s = _mean(contributions[node])
            values.append(s)
            for successor in self._skips[node]:
                contributions[successor].append(s)
            if not successors:
                continue
            dropped = self._normalised(str(node), s)
            dropped = dropped if mask is None else dropped * mask
            product = keras.ops.matmul(dropped, self.edge_kernels[str(node)])
            if self.use_bias:
                product = product + self.biases[str(node)]
            parts = keras.ops.split(product, 2 * len(successors), axis=-1)
            gates, inner = parts[: len(successors)], parts[len(successors) :]
            for successor, c, g in zip(successors, gates, inner, strict=True):
                new = _activate(self.cell.ops[successor], g)
                contributions[successor].append(_mix(s, new, c))
        output = _mean([values[leaf] for leaf in self.cell.leaves])
        return output, [output, *memory] if isinstance(states, (list, tuple)) else output

    def _take_input_step(
        self, of_input: Any, of_state: Any, h: Any, memory: list[Any]
    ) -> tuple[Any, list[Any]]:
        """Returns s_0, and the new memory of an LSTM in a list.

        Args:
            of_input: x times its rows of W0, shape (batch, blocks * units).
            of_state: h times its rows, of the same shape.
            h: shape (batch, units).
            memory: of an LSTM in a list.
        """
        ops, blocks = keras.ops, INPUT_STEPS[self.input_step]
        if self.use_bias:
            of_input = of_input + self.biases["input"]
        if self.input_step == "highway":
            c, g = ops.split(of_input + of_state, blocks, axis=-1)
            return _mix(h, ops.tanh(g), c), []
        if self.input_step == "lstm":
            i, f, o, g = ops.split(of_input + of_state, blocks, axis=-1)
            kept = ops.sigmoid(f) * memory[0] + ops.sigmoid(i) * ops.tanh(g)
            return ops.sigmoid(o) * ops.tanh(kept), [kept]
        *gates_of_input, g = ops.split(of_input, blocks, axis=-1)
        *gates_of_state, recurrent = ops.split(of_state, blocks, axis=-1)
        gates = [a + b for a, b in zip(gates_of_input, gates_of_state, strict=True)]
        # The first updates, the last resets: a minimal gated unit has one for both.
        return _mix(h, ops.tanh(g + ops.sigmoid(gates[-1]) * recurrent), gates[0]), []

    def _normalised(self, name: str, s: Any) -> Any:
        """Returns a state as it goes into a product: normalised, if it is to be."""
        if not self.normalise:
            return s
        gamma, beta = self.scales[name]
        return keras.ops.layer_normalization(s, gamma, beta, axis=-1, epsilon=_EPSILON)

    def count_macs(self, input_shape: tuple[int | None, ...]) -> int:
        """Counts the multiply-accumulates of a step, for `keras_autoshrink.count_macs`.

        Args:
            input_shape: (batch, features).
        """
        features = int(input_shape[-1] or 0)
        edges = sum(map(len, self._successors.values()))
        blocks = INPUT_STEPS[self.input_step]
        return ((features + self.units) * blocks + 2 * edges * self.units) * self.units

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments as plain values."""
        # SimpleRNNCell's would name arguments that are not ours.
        return {
            **keras.layers.Layer.get_config(self),
            "cell": self.cell.to_json(),
            "units": self.units,
            "dropout": self.dropout,
            "recurrent_dropout": self.recurrent_dropout,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "seed": self.seed,
            "input_step": self.input_step,
            "use_bias": self.use_bias,
            "forget_bias": self.forget_bias,
            "normalise": self.normalise,
        }


def _activate(op: str, x: Any) -> Any:
    return x if op == "identity" else getattr(keras.ops, op)(x)


def _mix(old: Any, new: Any, c: Any) -> Any:
    """Takes the gated step, old + sigmoid(c) (new - old).

    Not written like that: TensorFlow would make one sum of all of a node's contributions, whose
    order, and so whose rounding, differs from run to run.
    """
    gate = keras.ops.sigmoid(c)
    return (1 - gate) * old + gate * new


def _mean(values: list[Any]) -> Any:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total if len(values) == 1 else total / len(values)
