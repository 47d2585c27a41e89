"""A search by a tf.distribute strategy of two devices beside one of one: the candidates' scores.

Two CPU devices of one process stand for two GPUs. Both searches train the same cells with the same
seed on the same global batches, in float32.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it at its import

from rich import box
from rich.console import Console
from rich.table import Table

from tflite_export.runtime import native_output_silenced

# Images to train on and to score on, and the batch size; of 193 and 129 one is left over.
_PARTS = {"whole batches": (192, 128, 32), "a last batch of one": (193, 129, 32)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Searches and prints; returns the exit status: 1 if a score differs by more than 1e-4."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python benchmarks/strategies.py --nodes 3"
    )
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--candidates", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with native_output_silenced():  # TensorFlow announces its devices when it is imported
        import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategies = (
        tf.distribute.OneDeviceStrategy("CPU:0"),
        tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]),
    )
    table = Table(box=box.SIMPLE_HEAD, title=f"scores of candidates, seed {options.seed}")
    headings = ("one device", "two devices", "difference", "of validation losses")
    for heading in ("images", "round", "without", *headings):
        table.add_column(heading, justify="left" if heading == "images" else "right")
    largest = 0.0
    for parts, (train, validation, batch_size) in _PARTS.items():
        label = f"{parts}: {train} and {validation} in batches of {batch_size}"
        one, two = (list(_candidates(options, strategy, parts)) for strategy in strategies)
        for (number, removed, score, loss), (*_, other_score, other_loss) in zip(
            one, two, strict=True
        ):
            largest = max(largest, abs(score - other_score))
            table.add_row(
                label,
                str(number),
                "-".join(map(str, removed)) if removed else "-",
                f"{score:.6f}",
                f"{other_score:.6f}",
                f"{abs(score - other_score):.1e}",
                f"{abs(loss - other_loss):.1e}",
            )
            label = ""
    Console(width=160, highlight=False).print(table)
    return 0 if largest <= 1e-4 else 1


def _candidates(
    options: argparse.Namespace, strategy: Any, parts: str
) -> Iterator[tuple[int, Any, float, float]]:
    """Searches, and yields each candidate's round, removed edge, score and validation loss."""
    import keras_autoshrink as kas

    train, validation, batch_size = _PARTS[parts]
    digits = kas.load_images("digits", purpose="search")
    hypermodel = kas.CNNCellHyperModel(
        digits.input_shape,
        num_nodes=options.nodes,
        filters=8,
        stem_filters=8,
        batch_size=batch_size,
    )
    with tempfile.TemporaryDirectory() as folder:
        tuner = kas.AutoShrink(
            hypermodel,
            num_candidates=options.candidates,
            strategy="paper",
            seed=options.seed,
            directory=folder,
            project_name="search",
            distribution_strategy=strategy,
        )
        tuner.search(
            digits.train.x[:train],
            digits.train.y[:train],
            validation_data=(digits.validation.x[:validation], digits.validation.y[:validation]),
            epochs=options.epochs,
            verbose=0,
        )
        for record in tuner.trajectory():
            for candidate in record["candidates"]:
                metrics = tuner.oracle.get_trial(candidate["trial_id"]).metrics
                loss = metrics.get_history("val_loss")[0].value[0]
                yield record["round"], candidate["removed_edge"], candidate["score"], loss


if __name__ == "__main__":
    sys.exit(main())
