"""What the subcommands of `autoshrink` do with images."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt
from rich.console import Console

import tflite_export
from keras_autoshrink.backend import check_tensorflow_backend
from keras_autoshrink.cell import Cell
from keras_autoshrink.commands import pipeline
from keras_autoshrink.commands.arguments import OPTIMISING_EPOCHS, PROGRAM
from keras_autoshrink.commands.sources import image_source, searched_images
from keras_autoshrink.costs import count_macs, count_params
from keras_autoshrink.data.folders import find_parts
from keras_autoshrink.data.images import (
    BUILT_IN,
    ImageData,
    Split,
    is_streamed,
    load_images,
)
from keras_autoshrink.hypermodels.cnn import CNNCellHyperModel
from keras_autoshrink.networks.architecture import Architecture
from keras_autoshrink.networks.cnn import width_for_macs
from keras_autoshrink.report import saved_search
from keras_autoshrink.score import AccuracyScore
from keras_autoshrink.training.checkpoint import TrainingCheckpoint
from keras_autoshrink.training.classifier import architecture, train_network
from keras_autoshrink.training.recipes import RECIPES, Recipe, default_recipe, has_photographs
from tflite_export.command_line import still_at_work
from tflite_export.optimize import check_optimisable
from tflite_export.smallest import choice_tables

if TYPE_CHECKING:
    from keras_autoshrink.data.streams import ImageStreams

OBJECTIVE = "accuracy"  # of the validation images
_CALIBRATION = 200  # training images that the ranges of activations are measured on
_METADATA = 1_000  # bytes of a file's metadata, without the labels
_PROXY_EPOCHS = 20  # of a candidate, as in the paper
# Of a candidate at a budget: few of many images, many of few.
_SEEN, _FEWEST_EPOCHS, _MOST_EPOCHS = 400_000, 8, 40
# Of a data set that is too large for memory: images to calibrate on, and to check a file on.
_SAMPLE = (_CALIBRATION, 1_000)

_console = Console(soft_wrap=True, highlight=False, markup=False)
_logger = logging.getLogger("keras_autoshrink")


def search(options: argparse.Namespace) -> None:
    """Searches for a cell of convolutions, or with a target for a whole network."""
    strategy = None
    if options.distribution_strategy != "none":
        check_tensorflow_backend(f"--distribution-strategy {options.distribution_strategy}")
        from keras_autoshrink.training import distribution

        strategy = distribution.create_strategy(options.distribution_strategy)
    source = searched_images(options)
    proxy = tuple(options.proxy_images) if options.proxy_images else None
    quiet = options.quiet
    with contextlib.nullcontext() if quiet else still_at_work(PROGRAM, "reading the images"):
        data = _load(source, options, "search", proxy)
    names = ("target_macs", "target_params", "target_kb", "target_latency_ms")
    target = {name: getattr(options, name) for name in names}
    if options.target_kb:  # of the file that an export writes, with the labels
        target["target_kb"] = max(options.target_kb - _labels_kb(data.class_names), 0.001)
    at_budget = any(target.values())
    widths = {"filters": options.filters, "stem_filters": options.stem_filters}
    options.epochs = options.epochs or (_epochs(data) if at_budget else _PROXY_EPOCHS)
    hypermodel = CNNCellHyperModel(
        input_shape=data.input_shape,
        classes=len(data.class_names),
        num_nodes=options.nodes,
        **(target if at_budget else widths),
        latency_of=options.latency_of,
        photographs=at_budget and has_photographs(source["dataset"]),
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
    )
    settings = {
        **source,
        **_counted(source, data),
        **hypermodel.target,
        "epochs": options.epochs,
        "proxy": [len(data.train), len(data.validation or ())],
    }
    pipeline.search_and_report(
        hypermodel,
        None if at_budget else AccuracyScore(options.mac_weight, options.cost),
        options,
        settings,
        _search_arguments(data),
        OBJECTIVE,
        strategy,
    )


def _search_arguments(data: ImageData) -> dict[str, Any]:
    """Returns the data of a search as arguments of `AutoShrink.search`.

    Where the validation images are but some of the training images, they are not told apart.
    """
    train, held_out = data.train, data.validation
    assert held_out is not None  # the data are a search's
    if data.brings_validation:
        return {"x": train.x, "y": train.y, "validation_data": (held_out.x, held_out.y)}
    x, y = np.concatenate((train.x, held_out.x)), np.concatenate((train.y, held_out.y))
    # Half an image more or less would be another number of images only by rounding.
    return {"x": x, "y": y, "validation_split": (len(held_out) - 0.5) / len(y)}


def _labels_kb(names: Sequence[str]) -> float:
    """Returns the kilobytes that labels and the scale of pixels add to a file."""
    return (_METADATA + sum(len(name.encode()) + 1 for name in names)) / 1_000


def _epochs(data: ImageData) -> int:
    """Returns for how many epochs networks are trained at a budget, unless it is said."""
    return min(max(_SEEN // len(data.train), _FEWEST_EPOCHS), _MOST_EPOCHS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTraining(pipeline.TrainingJob):
    """The training of a ShrinkCNN or of another architecture, see `train_network`.

    Args:
        data: `ImageData` or `ImageStreams`.
        recipe: a `Recipe`.
        width: width multiplier of the network of a cell; an architecture has none.
        activation: of all BatchNorms of the network of a cell.
        precision: in which to compute.
        strategy: a `tf.distribute.Strategy`, or None.
        **kwargs: see `TrainingJob`.
    """

    recipe: Recipe
    width: float = 1.0
    activation: str = "relu"
    precision: str = "float32"
    strategy: Any = None

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one of several workers that writes."""
        from keras_autoshrink.training import distribution

        return self.strategy is None or distribution.is_chief(self.strategy)

    def settings(self) -> dict[str, Any]:
        """Returns all that the result depends on, plain values."""
        kind = "architecture" if isinstance(self.cell, Architecture) else "cell"
        return {
            **self.source,
            **dataclasses.asdict(self.recipe),
            "images": len(self.data.train),
            "class_names": self.data.class_names,
            "mean": self.data.mean,
            "std": self.data.std,
            **self._chosen,
            "seed": self.seed,
            "precision": self.precision,
            kind: self.cell.to_json(),
        }

    @property
    def _chosen(self) -> dict[str, Any]:
        """What is chosen of a cell's network; an architecture is built as it is."""
        if isinstance(self.cell, Architecture):
            return {}
        return {"width": self.width, "activation": self.activation}

    def train(self, checkpoint: TrainingCheckpoint) -> pipeline.Result:
        """Trains the network on from a checkpoint, and measures its test accuracy and costs."""
        devices = self.strategy.num_replicas_in_sync if self.strategy else 1
        self.print_plan(images=len(self.data.train), **self._chosen, devices=devices)
        trained = train_network(
            self.cell,
            self.data,
            self.recipe,
            **self._chosen,
            seed=self.seed,
            strategy=self.strategy,
            precision=self.precision,
            checkpoint=checkpoint,
            log_dir=self.log_dir,
            verbose=self.verbose,
        )
        macs, params = count_macs(trained.model), count_params(trained.model)
        facts = {
            "test_accuracy": trained.test_accuracy,
            "macs": macs,
            "params": params,
            "history": trained.history,
            "pixel_max": _pixel_max(self.data),
            "weights": _digest(trained.model),
        }
        summary = (
            f"test accuracy {trained.test_accuracy:.4f} on {len(self.data.test or ()):,} images, "
            f"{macs:,} MACs, {params:,} parameters"
        )
        return pipeline.Result(trained.model, facts, summary)


def train(options: argparse.Namespace, cell: Cell | Architecture) -> None:
    """Trains a ShrinkCNN of a cell, or an architecture, in full."""
    from keras_autoshrink.training import distribution

    # Before all else of TensorFlow: several workers have to find each other at its start.
    strategy = distribution.create_strategy(options.distribution_strategy)
    # The split of the search, or else its validation images could end up in the test.
    searched = saved_search.settings_of(options.cell)
    source = image_source(options, searched)
    at_budget = isinstance(cell, Architecture)
    recipe = RECIPES[options.recipe or default_recipe(source["dataset"], at_budget)]
    # As long as in the search's final, which chose it by that.
    if at_budget and options.recipe is None and "epochs" in searched:
        recipe = dataclasses.replace(recipe, epochs=searched["epochs"])
    recipe = pipeline.changed_recipe(
        recipe, options, "epochs", "batch_size", "learning_rate", "label_smoothing", "ema"
    )
    data = _load(source, options, "train")
    changed = _changed(searched, source, data)
    if changed:
        _logger.warning("%s; images that the search has seen may be in the test", changed)
    if searched.get("dataset") == source["dataset"] and _tests_by_validation(source["dataset"]):
        _logger.warning(
            "%s: has no test part; the search was scored on its validation part, which is the test "
            "now: expect less of new images",
            source["dataset"],
        )
    source.update(_counted(source, data))
    width = 1.0 if options.width is None else options.width
    if options.target_macs:
        assert isinstance(cell, Cell)
        width = width_for_macs(options.target_macs, cell, **architecture(data))
        _console.print(f"width {width} fits into {options.target_macs:,} MACs")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    pipeline.train_and_save(
        ImageTraining(
            cell=cell,
            data=data,
            recipe=recipe,
            path=options.output,
            source=source,
            seed=options.seed,
            overwrite=options.overwrite,
            log_dir=options.tensorboard,
            verbose=0 if options.quiet else 2,
            width=width,
            activation=options.activation or "relu",
            precision=options.precision,
            strategy=strategy,
        )
    )


def export(
    options: argparse.Namespace, model: keras.Model, facts: dict[str, Any]
) -> list[tflite_export.Check]:
    """Converts a trained model to files and checks each on the test images.

    Args:
        options: of the command `export`.
        model: trained.
        facts: that its training recorded.

    Returns:
        A check of each file; none where no file is as accurate as `--max-accuracy-drop` says.
    """
    source = image_source(options, facts)
    data = _load(source, options, "train")
    _check_optimisable(options, model, data)
    if not isinstance(data, ImageData):
        data = _in_memory(data)
        _console.print(f"taking {len(data.test or ()):,} of the test images")
    changed = _changed(facts, source, data)
    if changed:
        raise ValueError(f"{options.model}: was trained on other data: {changed}")
    _check_trained(options.model, model, facts)
    if (facts["mean"], facts["std"]) != (list(data.mean), list(data.std)):
        raise ValueError(
            f"{options.model}: was trained on other data ({facts['dataset']}): their mean and "
            f"deviation were {facts['mean']} and {facts['std']}, those of {source['dataset']} are "
            f"{list(data.mean)} and {list(data.std)}"
        )
    quantizations = options.quantization
    if options.max_accuracy_drop is not None:
        chosen, data = _choose_quantization(model, data, options.max_accuracy_drop)
        if chosen is None:
            return []
        quantizations = [chosen]
    stem = pipeline.output_stem(options)
    checks = _export_quantized(model, data, stem, quantizations)
    optimised = _export_optimised(model, data, stem, quantizations, options)
    for check in optimised:
        gained = check.agreement.file_accuracy - checks[0].agreement.model_accuracy
        _console.print(f"{check.path}: its accuracy against {options.model}: {gained:+.4f}")
    return [*checks, *optimised]


def _in_memory(data: ImageData | ImageStreams) -> ImageData:
    """Returns images, of streams a sample to calibrate and to check a file on."""
    if isinstance(data, ImageData):
        return data
    from keras_autoshrink.data import streams

    return streams.sample(data, *_SAMPLE)


def told_right(
    options: argparse.Namespace, model: keras.Model, facts: dict[str, Any]
) -> npt.NDArray[np.bool_]:
    """Tells of each test image whether a trained model knows its class, bool of shape (n,).

    Args:
        options: of the command `export`.
        model: trained.
        facts: that its training recorded.
    """
    data = _in_memory(_load(image_source(options, facts), options, "train"))
    assert data.test is not None  # loaded for a training
    logits = model.predict(data.test.x, verbose=0)
    right: npt.NDArray[np.bool_] = logits.argmax(axis=-1) == data.test.y
    return right


def _check_trained(path: Path, model: keras.Model, facts: dict[str, Any]) -> None:
    """Refuses a model that `autoshrink train` has not written: its pixels may be scaled otherwise.

    Raises:
        ValueError: the facts beside it are another network's.
    """
    if facts.get("params", count_params(model)) != count_params(model):
        raise ValueError(
            f"{path}: has {count_params(model):,} parameters, {path.name}.json is of a network of "
            f"{facts['params']:,}: if autoshrink did not train it, convert it by "
            "'python -m tflite_export convert'"
        )
    if facts.get("weights") not in (None, _digest(model)):
        raise ValueError(
            f"{path}: has other weights than those that {path.name}.json was written for: if "
            "autoshrink did not train it, convert it by 'python -m tflite_export convert'"
        )


def _digest(model: keras.Model) -> str:
    """Returns what tells a model's weights from others."""
    return hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest()


def _export_quantized(
    model: keras.Model,
    data: ImageData,
    stem: Path,
    quantizations: Sequence[tflite_export.Quantization],
) -> list[tflite_export.Check]:
    """Writes a file of each quantization and checks each on the test images."""
    _check_fits(model, data)
    checks = []
    for quantization in quantizations:
        path = stem.with_name(f"{stem.name}.{quantization}.tflite")
        tflite_export.convert(
            model, path, quantization, representative_data=data.train.x[:_CALIBRATION]
        )
        checks.append(_check_file(model, data, path, stem.name, quantization))
    return checks


def _check_fits(model: keras.Model, data: ImageData) -> None:
    """Refuses a model of other images or classes than the data's, and data without a test part."""
    if data.test is None:
        raise ValueError("data: loaded for a search, without test images; use purpose='train'")
    shapes = ((None, *data.input_shape), (None, len(data.class_names)))
    found = [getattr(model, name, "an unknown shape") for name in ("input_shape", "output_shape")]
    if (*found,) != shapes:
        raise ValueError(
            f"model {model.name!r} takes {found[0]} and returns {found[1]}; the data set needs "
            f"{shapes[0]} and {shapes[1]}"
        )


def _check_file(
    model: keras.Model, data: ImageData, path: Path, name: str, kind: str
) -> tflite_export.Check:
    """Writes labels and the scale of pixels into a model's file, and checks it on test images."""
    tflite_export.add_metadata(
        path,
        name=name,
        description=f"Tells {len(data.class_names)} classes of images apart; {kind}.",
        labels=data.class_names,
        mean=data.mean,
        std=data.std,
        pixel_max=_pixel_max(data),
    )
    assert data.test is not None
    return tflite_export.check(model, path, data.test.x, data.test.y, count_macs(model))


def _choose_quantization(
    model: keras.Model, data: ImageData, max_accuracy_drop: float
) -> tuple[tflite_export.Quantization | None, ImageData]:
    """Prints how good a model's files of all kinds are, and chooses one, or None if none holds.

    The choice is made by the validation images, or else by every other test image; the data that
    are returned have a test part that the choice has not seen.
    """
    _check_fits(model, data)
    by, what = data.validation, "the validation images"
    if by is None:
        by, data, what = _halved(data)
    _console.print(f"choosing by {len(by):,} images: {what}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            chosen = tflite_export.convert_smallest(
                model,
                Path(folder) / "model.tflite",
                by.x,
                by.y,
                max_accuracy_drop,
                representative_data=data.train.x[:_CALIBRATION],
            )
        except tflite_export.NoModeHoldsError as error:
            _print_choice(error.modes, max_accuracy_drop)
            _console.print(str(error))
            return None, data
    _print_choice(chosen.modes, max_accuracy_drop, chosen)
    return chosen.chosen.quantization, data


def _print_choice(*choice: Any) -> None:
    for table in choice_tables(*choice):
        Console(width=80, highlight=False).print(table)


def _halved(data: ImageData) -> tuple[Split, ImageData, str]:
    """Splits off every other test image: returns them, the data with the rest, and words for it."""
    assert data.test is not None
    x, y = data.test.x, data.test.y
    rest = dataclasses.replace(data, test=Split(x[1::2], y[1::2]))
    what = "every other test image, as there is no validation part; the check takes the rest"
    return Split(x[::2], y[::2]), rest, what


def _check_optimisable(
    options: argparse.Namespace, model: keras.Model, data: ImageData | ImageStreams
) -> None:
    """Refuses what cannot be optimised, before there is a file."""
    optimised = options.qat or options.prune is not None
    if optimised and not isinstance(data, ImageData):
        raise ValueError(
            "--qat, --prune: train on images in memory; those of imagenet2012, and of a folder "
            "with folders such as 'train' and 'val', are read as they are needed"
        )
    if optimised:
        check_optimisable(model)


def _export_optimised(
    model: keras.Model,
    data: ImageData,
    stem: Path,
    quantizations: Sequence[tflite_export.Quantization],
    options: argparse.Namespace,
) -> list[tflite_export.Check]:
    """Writes and checks the files of `--prune` and `--qat`.

    Each is held against the network that it was made from: the one trained on, not `model`.
    """
    epochs = options.epochs or OPTIMISING_EPOCHS
    checks = []
    if options.prune is not None:
        model = tflite_export.prune(
            model, data.train.x, data.train.y, options.prune, epochs=epochs, verbose=True
        )
        stem = stem.with_name(f"{stem.name}.pruned")
        checks += _export_quantized(model, data, stem, quantizations)
    if options.qat:
        path = stem.with_name(f"{stem.name}.qat.int8.tflite")
        model = tflite_export.train_quantized(
            model, path, data.train.x, data.train.y, epochs=epochs, verbose=True
        )
        checks.append(_check_file(model, data, path, stem.name, "trained with 8-bit numbers"))
    return checks


def _load(
    source: dict[str, Any],
    options: argparse.Namespace,
    purpose: str,
    proxy: tuple[int, int] | None = None,
) -> ImageData | ImageStreams:
    """Loads the data set: `ImageStreams` for a training on what does not fit into memory."""
    name = source["dataset"]
    where = {"data_dir": options.data_dir, "image_size": source["image_size"]}
    if purpose == "train" and is_streamed(name):
        from keras_autoshrink.data import streams

        return streams.open_streams(name, **where)
    split = {"purpose": purpose, "seed": source["split_seed"], "proxy": proxy}
    return load_images(name, **split, **where, strict=options.strict)


def _counted(source: dict[str, Any], data: ImageData | ImageStreams) -> dict[str, int]:
    """Counts the images that were split into parts, of data that their user could change."""
    number = getattr(data, "source_images", None)  # streams have none: they bring their parts
    return {} if number is None or source["dataset"] in BUILT_IN else {"source_images": number}


def _changed(
    recorded: dict[str, Any], source: dict[str, Any], data: ImageData | ImageStreams
) -> str | None:
    """Says whether the recorded split was one of another number of images; None if not."""
    then = recorded.get("source_images")
    now = _counted(source, data).get("source_images")
    same = all(recorded.get(name) == value for name, value in source.items())
    if None in (then, now) or then == now or not same:  # of other data it says nothing
        return None
    return (
        f"{source['dataset']}: has {now:,} images that can be read, it had {then:,}: they are "
        "split otherwise"
    )


def _tests_by_validation(dataset: str) -> bool:
    """Whether a data set is a folder with a validation part and without a test part."""
    parts = {} if dataset in BUILT_IN else find_parts(Path(dataset))
    return "val" in parts and "test" not in parts


def _pixel_max(data: ImageData | ImageStreams) -> float:
    """Returns white in the units of the original pixels: 255 mostly, 16 for the digits."""
    if not isinstance(data, ImageData):
        return 255.0  # streams are of 8-bit images
    largest = data.train.x.max(axis=(0, 1, 2)) * np.array(data.std) + np.array(data.mean)
    return round(float(largest.max()), 3)
