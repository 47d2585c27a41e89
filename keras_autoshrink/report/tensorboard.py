"""A search as TensorBoard shows it: curves over the rounds, cells, and trials as hparams."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import struct
import time
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

# Those of TensorBoard's modules that load no TensorFlow.
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import (
    HParamsPluginData,
    SessionEndInfo,
    SessionStartInfo,
)
from tensorboard.summary.writer.record_writer import RecordWriter

from keras_autoshrink import files
from keras_autoshrink.cell import Cell
from keras_autoshrink.report import plots, saved_search
from keras_autoshrink.report.quantities import Record, Records
from keras_autoshrink.score import RECORDED_COSTS

NAME = "tensorboard"
# TensorBoard reads what has "tfevents" in its name; the end tells ours from a training's logs.
_FILE = "events.out.tfevents.{:06}.autoshrink"
_METRICS = ("score", "objective", *(cost.name for cost in RECORDED_COSTS))


def write_tensorboard(
    search: saved_search.Searched | str | os.PathLike[str], objective: str | None = None
) -> Path:
    """Writes the finished rounds of a search as event files, for `tensorboard --logdir`.

    The scalars and the image below `search/` have a step for each round: what its record says of
    the adopted cell, and that cell's picture. Each trial is a session of hparams, with its
    metrics below `trial/`. A reference has no cell.

    Each round has a file of its own, and each trial, which are written whole; to write them again
    replaces them. A TensorBoard that runs finds new rounds by itself. Times are the sum of the
    seconds that trials took, from the search's beginning on.

    Args:
        search: a tuner, or the folder of its search, which need not have ended.
        objective: what to call the metric behind the score; by default its own name, without
            ``val_``, or "objective" where a score has not said it.

    Returns:
        The folder `tensorboard` in that of the search.

    Raises:
        ValueError: there is no search, its file is damaged, or it has finished no round.
        OSError: a file cannot be written.

    Example:
        >>> import numpy as np
        >>> from keras_autoshrink import AutoShrink, CNNCellHyperModel
        >>> x, y = np.zeros((8, 4, 4, 1)), np.array([0, 1] * 4)  # 4x4 images of 2 classes
        >>> one_stage = {"stage_scales": [1], "stage_strides": [1], "stage_repeats": [1]}
        >>> hypermodel = CNNCellHyperModel((4, 4, 1), classes=2, num_nodes=2, **one_stage)
        >>> tuner = AutoShrink(hypermodel, directory="runs", project_name="search")
        >>> tuner.search(x, y, validation_data=(x, y), epochs=1, verbose=0)
        >>> write_tensorboard(tuner).as_posix()  # as does write_tensorboard("runs/search")
        'runs/search/tensorboard'
    """
    folder, found, objective = saved_search.open_search(search, objective)
    records = found.trajectory()
    check(folder, records)
    begun = saved_search.begun(folder)
    written = set()
    for path, step, seconds, values in _logs(records, objective):
        path = folder / NAME / path
        path.parent.mkdir(parents=True, exist_ok=True)
        # TensorBoard must not take an unfinished file for another one of the search.
        files.write_bytes(path, _events(begun + seconds, step, values), unfinished="unfinished")
        written.add(path)
    _tidy(folder / NAME, written, begun)
    return folder / NAME


def check(folder: Path, records: Records) -> None:
    """Raises the ValueError that says that there is nothing to write yet, if so."""
    if not records:
        raise ValueError(f"{folder}: the search in it has not finished a round yet")


def _tidy(folder: Path, written: Container[Path], begun: float) -> None:
    """Deletes the files of an older search, and what kills left of writing this one's.

    The search may go on meanwhile, and write rounds that are newer than what was read of it.
    """
    for path in folder.rglob(_FILE.replace("{:06}", "*")):
        with contextlib.suppress(FileNotFoundError):  # who writes there, too, tidies
            if path not in written and path.stat().st_mtime < begun:
                path.unlink()
    files.remove_abandoned(folder.rglob(".unfinished.????????"), time.time())


def _logs(
    records: Iterable[Record], objective: str
) -> Iterator[tuple[Path, int, float, list[Summary.Value]]]:
    """Lists the files: path in the folder, step, seconds from the beginning to it, and values."""
    seconds = 0.0
    for record in records:
        step = record["round"]
        file = _FILE.format(step)
        for place, candidate in enumerate(record["candidates"]):
            seconds += candidate["seconds"]
            # One over a limit was not trained: a session would say that it has succeeded.
            if not (candidate["reused"] or "over_limit" in candidate):
                # A session of hparams is a run of TensorBoard, and this a folder.
                name = candidate["trial_id"] or f"{step}-{place}"
                path = Path("trials", name, file)
                yield path, step, seconds, _trial(candidate, step, objective)
        values = _scalars("search", record, objective)
        if "reference" not in record:  # which has no cell
            values.append(Summary.Value(tag="search/edges", simple_value=record["edges_left"]))
            values.append(_picture(Cell.from_json(record["cell"])))
        yield Path(file), step, seconds, values


def _scalars(kind: str, record: Record, objective: str) -> list[Summary.Value]:
    """Returns what is known of a cell, with its tags; TensorBoard has scalars as float32."""
    # Two curves with one tag would be one.
    own_tag = objective not in (*_METRICS, "edges")
    tags = {name: objective if name == "objective" and own_tag else name for name in _METRICS}
    return [
        Summary.Value(tag=f"{kind}/{tag}", simple_value=record[name])
        for name, tag in tags.items()
        if record.get(name) is not None
    ]


def _trial(candidate: Record, number: int, objective: str) -> list[Summary.Value]:
    """Returns a candidate as a session of hparams that has ended."""
    cell = Cell.from_json(candidate["cell"])
    start = SessionStartInfo()
    start.hparams["round"].number_value = number
    if "reference" in candidate:
        start.hparams["reference"].string_value = candidate["reference"]
    else:
        start.hparams["edges"].number_value = candidate["edges_left"]
        start.hparams["nodes"].number_value = len(cell.reachable) - 1
        start.hparams["ops"].string_value = " ".join(cell.ops[node] for node in cell.reachable[1:])
        start.hparams["cell"].string_value = " ".join(f"{i}-{j}" for i, j in cell.live_edges)
    end = SessionEndInfo(status=STATUS_FAILURE if candidate["error"] else STATUS_SUCCESS)
    return [
        _hparams(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start)),
        *_scalars("trial", candidate, objective),
        _hparams(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end)),
    ]


def _hparams(tag: str, content: HParamsPluginData) -> Summary.Value:
    return Summary.Value(
        tag=tag, metadata=metadata.create_summary_metadata(content), tensor=metadata.NULL_TENSOR
    )


@functools.lru_cache(maxsize=256)  # of rounds that a search has had before, or adopted nothing in
def _picture(cell: Cell) -> Summary.Value:
    buffer = io.BytesIO()
    plots.plot_cell(cell).savefig(buffer, format="png")
    png = buffer.getvalue()
    width, height = struct.unpack(">II", png[16:24])  # where a PNG says its size
    image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
    return Summary.Value(tag="search/cell", image=image)


def _events(wall_time: float, step: int, values: list[Summary.Value]) -> bytes:
    """Returns an event file of some values of one step."""
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in (
        Event(wall_time=wall_time, file_version="brain.Event:2"),
        Event(wall_time=wall_time, step=step, summary=Summary(value=values)),
    ):
        writer.write(event.SerializeToString())
    return buffer.getvalue()
