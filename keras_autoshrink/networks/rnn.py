"""ShrinkRNN's recurrent layer: the step that a cell takes for each token.

Zhang et al., arXiv 1911.09251; the gated step is that of recurrent highway networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_autoshrink.cell import Cell
from keras_autoshrink.checks import share, whole
from keras_autoshrink.networks.operations import check_activation


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
    No product has a bias. All edges out of a node are one matrix product.

    Args:
        cell: its ops are activations, "tanh", "relu", "sigmoid" or "identity"; nodes that cannot
            be reached from node 0 are left out.
        units: size of the state and the output.
        dropout: share of x that is dropped in training, with one mask for a whole sequence
            (Gal and Ghahramani, arXiv 1512.05287).
        recurrent_dropout: share of h that is dropped in W0's product; the same mask is on every
            s_i.
        kernel_initializer: of all W; by default uniform within 1 / sqrt(units): at the paper's
            745 units close to the 0.04 of its release.
        seed: of the dropout masks.
        **kwargs: as for every Keras layer.

    Raises:
        ValueError: an argument is out of its range, or an op is no activation.

    Call arguments:
        sequence: x, shape (batch, features).
        states: [h], shape (batch, units).

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
        **kwargs: Any,
    ) -> None:
        units = whole("units", units, 1)
        if kernel_initializer is None:
            limit = units**-0.5
            kernel_initializer = keras.initializers.RandomUniform(-limit, limit)
        super().__init__(
            units,
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
        self._successors = {
            node: [j for i, j in self.cell.edges if i == node]
            for node in range(self.cell.num_nodes)
        }

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes W0, in two parts, and the W of each node that has outgoing edges.

        Args:
            input_shape: (batch, features).
        """

        def kernel(name: str, rows: int, columns: int) -> keras.Variable:
            # An initializer gives the same numbers each time it is asked for the same shape.
            initializer = self.kernel_initializer.clone()
            return self.add_weight(shape=(rows, columns), initializer=initializer, name=name)

        # The rows of W0 for x and those for h. Eight-bit files give one scale to all that goes
        # into a product: to [x, h] it would be too coarse for the smaller of the two.
        self.kernel = kernel("kernel", input_shape[-1], 2 * self.units)
        self.recurrent_kernel = kernel("recurrent_kernel", self.units, 2 * self.units)
        # Columns: c of all its edges, in the order of the nodes they lead to, then g of all.
        # (The keys are strings because TensorFlow's saved models take no others.)
        self.edge_kernels = {
            str(node): kernel(f"node{node}_kernel", self.units, 2 * self.units * len(successors))
            for node, successors in self._successors.items()
            if successors
        }

    def call(self, sequence: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """Computes one step: its output and its new state, which are the same.

        Args:
            sequence: x, shape (batch, features).
            states: [h], h of shape (batch, units).
            training: whether the dropouts drop anything.

        Returns:
            The output, shape (batch, units), and [new h].
        """
        h = states[0] if isinstance(states, (list, tuple)) else states
        mask = None
        x, dropped = sequence, h
        if training:
            input_mask, mask = self.get_dropout_mask(x), self.get_recurrent_dropout_mask(h)
            x = x if input_mask is None else x * input_mask
            dropped = h if mask is None else h * mask
        product = keras.ops.matmul(x, self.kernel) + keras.ops.matmul(
            dropped, self.recurrent_kernel
        )
        c, g = keras.ops.split(product, 2, axis=-1)
        contributions: dict[int, list[Any]] = {node: [] for node in self._successors}
        contributions[0] = [_mix(h, keras.ops.tanh(g), c)]
        values = []
        for node, successors in self._successors.items():
            s = _mean(contributions[node])
            values.append(s)
            if not successors:
                continue
            dropped = s if mask is None else s * mask
            product = keras.ops.matmul(dropped, self.edge_kernels[str(node)])
            parts = keras.ops.split(product, 2 * len(successors), axis=-1)
            gates, inner = parts[: len(successors)], parts[len(successors) :]
            for successor, c, g in zip(successors, gates, inner, strict=True):
                new = _activate(self.cell.ops[successor], g)
                contributions[successor].append(_mix(s, new, c))
        output = _mean([values[leaf] for leaf in self.cell.leaves])
        return output, [output] if isinstance(states, (list, tuple)) else output

    def count_macs(self, input_shape: tuple[int | None, ...]) -> int:
        """Counts the multiply-accumulates of a step, for `keras_autoshrink.count_macs`.

        Args:
            input_shape: (batch, features).
        """
        features = int(input_shape[-1] or 0)
        edges = len(self.cell.edges)
        return (features + self.units + edges * self.units) * 2 * self.units

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
