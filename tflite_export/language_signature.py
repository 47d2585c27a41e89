"""Whether a ``.tflite`` file takes and gives what a language model does."""

from __future__ import annotations

from typing import Any

import numpy as np


def language_signature(interpreter: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The inputs, tokens first, and the outputs, log-probabilities first; states in their order.

    The interpreter's own order of a file's tensors is not the model's. The file's signature has
    the names of the model's inputs, and numbers its outputs.

    Raises:
        ValueError: They are not those of a language model, see ``tflite_export.language``.
    """
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        raise ValueError(f"it has {len(signatures)} signatures, not one")
    runner = interpreter.get_signature_runner(*signatures)
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    states = range(max(1, len(inputs) - 1))
    input_names = ["tokens", *(f"state_{number}" for number in states)]
    output_names = [f"output_{number}" for number in range(len(input_names))]
    for kind, names, tensors in (("in", input_names, inputs), ("out", output_names, outputs)):
        if set(tensors) != set(names):
            raise ValueError(
                f"its {kind}puts are {', '.join(sorted(tensors))}; expected {', '.join(names)}"
            )

    _check_tensor("tokens", inputs["tokens"], np.int32, (1, 1))
    _check_tensor("output_0", outputs["output_0"], np.float32, (1, 1, None))
    for number in states:
        state = inputs[f"state_{number}"]
        _check_tensor(f"state_{number}", state, np.float32, (1, None))
        name = f"output_{number + 1}"
        _check_tensor(name, outputs[name], np.float32, tuple(state["shape"].tolist()))
    return [inputs[name] for name in input_names], [outputs[name] for name in output_names]


def _check_tensor(
    name: str, tensor: dict[str, Any], dtype: type, shape: tuple[int | None, ...]
) -> None:
    """Raises ValueError for a tensor of another dtype or shape; None is an axis of any size."""
    have = tuple(tensor["shape"].tolist())
    fits = len(have) == len(shape) and all(
        wanted in (None, size) for size, wanted in zip(have, shape, strict=True)
    )
    if not fits or tensor["dtype"] is not dtype:
        expected = ", ".join("n" if size is None else str(size) for size in shape)
        raise ValueError(
            f"{name} is {np.dtype(tensor['dtype'])} of shape {have}; expected {np.dtype(dtype)} of "
            f"shape ({expected})"
        )
