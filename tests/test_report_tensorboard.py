"""A search as event files: what TensorBoard's own readers, and TensorBoard, make of them."""

import dataclasses
import io
import itertools
import json
import os
import re
import subprocess
import sys
import time
import urllib.request

import numpy as np
import PIL.Image
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from test_shrink import dense, outcome, run

import keras_autoshrink as kas
from keras_autoshrink.cell import Cell
from keras_autoshrink.search import shrink
from keras_autoshrink.search.records import Outcome

ALL = {"scalars": 0, "images": 0, "tensors": 0}
SCALARS = {"score": "score", "objective": "accuracy", "macs": "macs", "params": "params"}
SCALARS |= {"latency_ms": "latency_ms", "measured_cost": "measured_cost"}


def evaluator():
    """Of some networks a failure, of some nothing but what is over a limit, of one no params."""
    numbers = itertools.count()

    def evaluate(cell):
        trial_id = f"{next(numbers):04}"
        found = outcome(cell)
        if len(cell.edges) < 28 and found.objective < 0.2:
            return Outcome(None, seconds=2.0, trial_id=trial_id, error="ValueError: bad")
        if len(cell.edges) < 28 and found.objective < 0.4:
            return Outcome(None, macs=99, trial_id=trial_id, over_limit="99 MACs, at most 98")
        params = None if trial_id == "0000" else 3 * found.macs
        return dataclasses.replace(
            found, params=params, seconds=2.0, trial_id=trial_id, latency_ms=found.macs / 7
        )

    return evaluate


def searched(**settings):
    search = dense(**{"num_candidates": 4, "keep_fraction": 0.6, **settings})
    run(search, evaluator())
    return search


def evaluated(search):
    """The trials that a network was trained in."""
    found = [c for r in search.trajectory() for c in r["candidates"] if "over_limit" not in c]
    return sorted({candidate["trial_id"] for candidate in found})


def save(search, folder):
    folder.mkdir(exist_ok=True)
    (folder / "oracle.json").write_text(json.dumps({"search": shrink.to_json(search)}))
    return folder


def read(folder):
    return EventAccumulator(str(folder), size_guidance=ALL).Reload()


def curves(log):
    tags = log.Tags()["scalars"]
    return {tag: [(each.step, each.value) for each in log.Scalars(tag)] for tag in tags}


def known(records, name):
    """What a curve has to be: steps and float32 values."""
    found = [(r["round"], r[name]) for r in records if r.get(name) is not None]
    return [(number, float(np.float32(value))) for number, value in found]


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("strategy", ["bayesian", "paper"])
def test_the_curves_are_the_trajectory(strategy, tmp_path):
    more = {"max_candidates": 21} if strategy == "bayesian" else {}
    records = (search := searched(strategy=strategy, **more)).trajectory()
    assert len(records) > 4
    folder = kas.write_tensorboard(save(search, tmp_path / "s"))
    assert folder == tmp_path / "s" / "tensorboard"
    log = read(folder)
    expected = {f"search/{tag}": known(records, name) for name, tag in SCALARS.items()}
    expected["search/edges"] = known(records, "edges_left")
    assert curves(log) == {tag: curve for tag, curve in expected.items() if curve}
    assert len(expected["search/params"]) == len(records) - 1
    times = [each.wall_time for each in log.Scalars("search/edges")]
    begun = (tmp_path / "s" / "oracle.json").stat().st_mtime
    assert times == pytest.approx(begun + np.cumsum([record["seconds"] for record in records]))


def test_each_round_has_a_picture(tmp_path):
    records = (search := searched()).trajectory()
    images = read(kas.write_tensorboard(save(search, tmp_path))).Images("search/cell")
    assert [image.step for image in images] == [record["round"] for record in records]
    for image in images:
        with PIL.Image.open(io.BytesIO(image.encoded_image_string)) as picture:
            assert picture.format == "PNG"
            assert picture.size == (image.width, image.height)
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 2
    drawn = {image.encoded_image_string for image in images}
    assert len(drawn) == len({json.dumps(record["cell"]) for record in records})


def test_each_trial_is_a_session_of_hparams(tmp_path):
    search = searched(strategy="bayesian", max_candidates=21)
    folder = kas.write_tensorboard(save(search, tmp_path))
    trials = {
        candidate["trial_id"]: {**candidate, "round": record["round"]}
        for record in search.trajectory()
        for candidate in record["candidates"]
        if not candidate["reused"]
    }
    assert {trial["status"] for trial in trials.values()} > {"failed", "over limit"}
    assert sorted(path.name for path in (folder / "trials").iterdir()) == evaluated(search)
    for name in evaluated(search):
        trial = trials[name]
        log = read(folder / "trials" / name)
        content = log.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
        given = metadata.parse_session_start_info_plugin_data(content).hparams
        cell = Cell.from_json(trial["cell"])
        assert {key: value.number_value or value.string_value for key, value in given.items()} == {
            "round": trial["round"] or "",  # which is what a 0 has of the one and the other
            "edges": len(cell.edges),
            "nodes": len(cell.reachable) - 1,
            "ops": " ".join(cell.ops[node] for node in cell.reachable if node),
            "cell": " ".join(f"{i}-{j}" for i, j in cell.live_edges),
        }
        content = log.SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
        status = metadata.parse_session_end_info_plugin_data(content).status
        assert status == (STATUS_FAILURE if trial["status"] == "failed" else STATUS_SUCCESS)
        expected = {f"trial/{tag}": known([trial], key) for key, tag in SCALARS.items()}
        assert curves(log) == {tag: value for tag, value in expected.items() if value}


def test_to_write_it_again_leaves_no_duplicates(tmp_path):
    folder = kas.write_tensorboard(save(searched(), tmp_path))
    before = contents(folder)
    training = folder / "train" / "events.out.tfevents.1700000000.host.1.0.v2"
    training.parent.mkdir()
    training.write_bytes(b"another's")
    kas.write_tensorboard(tmp_path)
    assert contents(folder) == {**before, training: b"another's"}
    shorter = searched(keep_fraction=0.9)
    kas.write_tensorboard(save(shorter, tmp_path), "val_accuracy")
    steps = [step for step, _ in curves(read(folder))["search/val_accuracy"]]
    assert steps == [record["round"] for record in shorter.trajectory()]
    assert training.read_bytes() == b"another's"


def test_what_a_search_writes_meanwhile_stays(tmp_path):
    save(searched(), tmp_path)
    (tmp_path / "tuner0.json").write_text("{}")
    folder = kas.write_tensorboard(tmp_path)
    newer = folder / "events.out.tfevents.000099.autoshrink"
    older = folder / "trials" / "0000" / "events.out.tfevents.000098.autoshrink"
    for path, begun in ((newer, 1), (older, -1)):
        path.write_bytes(b"a round that is not in what was read")
        when = (tmp_path / "tuner0.json").stat().st_mtime + begun
        os.utime(path, (when, when))
    kas.write_tensorboard(tmp_path)
    assert newer.exists()
    assert not older.exists()


def test_what_kills_have_left_is_tidied_away(tmp_path):
    folder = kas.write_tensorboard(save(searched(), tmp_path))
    before = contents(folder)
    names = (".unfinished.0123abcd", "trials/0000/.unfinished.89abcdef", "trials/0001/unfinished.7")
    for name in names:
        (folder / name).write_bytes(b"half a file")
        os.utime(folder / name, (1e9, 1e9))
    writing = folder / ".unfinished.00000000"
    writing.write_bytes(b"half a file, so far")
    kas.write_tensorboard(tmp_path)
    assert contents(folder) == {**before, writing: b"half a file, so far"}


def test_trials_need_no_ids(tmp_path):
    search = dense(num_candidates=2, keep_fraction=0.9)
    run(search)
    folder = kas.write_tensorboard(save(search, tmp_path))
    trials = {path.name for path in (folder / "trials").iterdir()}
    rounds = search.trajectory()
    assert trials == {f"{r['round']}-{i}" for r in rounds for i in range(len(r["candidates"]))}


def test_a_search_without_a_round_has_none(tmp_path):
    with pytest.raises(ValueError, match="has not finished a round yet"):
        kas.write_tensorboard(save(dense(), tmp_path))
    assert not (tmp_path / "tensorboard").exists()


@pytest.fixture
def served(tmp_path):
    """The address of a TensorBoard of the folder."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path), "--port", "0"]
    with subprocess.Popen(
        [*command, "--reload_interval", "1"], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            lines = iter(process.stderr.readline, "")
            yield next(found[0] for line in lines if (found := re.search(r"http://\S+/", line)))
        finally:
            process.terminate()


def asked(url, until, **body):
    """What TensorBoard answers, as soon as that is as it should be."""
    data = json.dumps(body).encode() if body else None
    headers = {"Content-Type": "application/json"} if body else {}
    end = time.monotonic() + 120
    while True:
        request = urllib.request.Request(url, data, headers)
        with urllib.request.urlopen(request) as answer:
            found = json.load(answer)
        if until(found):
            return found
        assert time.monotonic() < end, found
        time.sleep(0.5)


def test_tensorboard_shows_it_and_finds_new_rounds(served, tmp_path):
    search, evaluate = dense(num_candidates=3, keep_fraction=0.8), evaluator()
    while len(search.trajectory()) < 3:
        search.tell((cell := search.pending()[0].cell), evaluate(cell))
    for folder in ("one", "two"):
        kas.write_tensorboard(save(search, tmp_path / folder))
    first = evaluated(search)
    tags = asked(
        f"{served}data/plugin/scalars/tags",
        lambda found: {"one/tensorboard", "two/tensorboard"} <= set(found),
    )
    assert {"search/score", "search/macs", "search/edges"} < set(tags["one/tensorboard"])
    run(search, evaluate)
    kas.write_tensorboard(save(search, tmp_path / "one"))
    records = search.trajectory()
    curve = asked(
        f"{served}data/plugin/scalars/scalars?run=one/tensorboard&tag=search/score",
        lambda found: len(found) >= len(known(records, "score")),
    )
    assert [(step, pytest.approx(value)) for _, step, value in curve] == known(records, "score")
    sessions = asked(
        f"{served}data/plugin/hparams/session_groups",
        lambda found: len(found["sessionGroups"]) >= len(evaluated(search) + first),
        startIndex=0,
        sliceSize=1000,
        allowedStatuses=["STATUS_SUCCESS", "STATUS_FAILURE"],
    )["sessionGroups"]
    names = [group["name"] for group in sessions if group["name"].startswith("one/")]
    assert sorted(names) == [f"one/tensorboard/trials/{name}" for name in evaluated(search)]
