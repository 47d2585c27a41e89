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
from computed_searches import accuracy, at_budget, bayesian, noise, outcome, paper, run, save
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS

import keras_autoshrink as kas
from keras_autoshrink.cell import Cell
from keras_autoshrink.score import RECORDED_COSTS
from keras_autoshrink.search.records import Outcome

ALL = {"scalars": 0, "images": 0, "tensors": 0}
# The tags of what records have.
SCALARS = {name: name for name in ("score", *(cost.name for cost in RECORDED_COSTS))}
SCALARS["objective"] = "accuracy"


def evaluator():
    """Of some networks a failure, of some nothing but what is over a limit, of one no params."""
    numbers = itertools.count()

    def evaluate(cell):
        trial_id = f"{next(numbers):04}"
        if len(cell.edges) < 28 and noise(cell) < 0.2:
            return Outcome(None, seconds=2.0, trial_id=trial_id, error="ValueError: bad")
        if len(cell.edges) < 28 and noise(cell) < 0.4:
            over = "99 MACs, at most 98"
            return Outcome(None, costs={"macs": 99}, trial_id=trial_id, over_limit=over)
        params = {} if trial_id == "0000" else {"params": 1_000}
        found = outcome(cell, latency_ms=len(cell.edges) / 7, **params)
        return dataclasses.replace(found, trial_id=trial_id)

    return evaluate


def evaluated(search):
    """The trials that a network was trained in."""
    found = [c for r in search.trajectory() for c in r["candidates"] if "over_limit" not in c]
    return sorted({candidate["trial_id"] for candidate in found})


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


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A search, and the folder of its event files."""
    search, folder = run(bayesian(), evaluator()), tmp_path_factory.mktemp("search")
    assert kas.write_tensorboard(save(search, folder)) == folder / "tensorboard"
    return search, folder / "tensorboard"


def test_the_curves_are_the_trajectory(finished):
    search, folder = finished
    records = search.trajectory()
    assert len(records) > 4
    log = read(folder)
    expected = {f"search/{tag}": known(records, name) for name, tag in SCALARS.items()}
    expected["search/edges"] = known(records, "edges_left")
    assert curves(log) == {tag: curve for tag, curve in expected.items() if curve}
    assert len(expected["search/params"]) == len(records) - 1
    times = [each.wall_time for each in log.Scalars("search/edges")]
    begun = (folder.parent / "oracle.json").stat().st_mtime
    assert times == pytest.approx(begun + np.cumsum([record["seconds"] for record in records]))


def test_each_round_has_a_picture(finished):
    records = finished[0].trajectory()
    images = read(finished[1]).Images("search/cell")
    assert [image.step for image in images] == [record["round"] for record in records]
    for image in images:
        with PIL.Image.open(io.BytesIO(image.encoded_image_string)) as picture:
            assert picture.format == "PNG"
            assert picture.size == (image.width, image.height)
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 2
    drawn = {image.encoded_image_string for image in images}
    assert len(drawn) == len({json.dumps(record["cell"]) for record in records})


def test_a_reference_has_no_picture_and_no_edges(tmp_path):
    search = run(at_budget(), accuracy(0.9))
    log = read(kas.write_tensorboard(save(search, tmp_path)))
    cells = [r["round"] for r in search.trajectory() if "reference" not in r]
    assert 0 < len(cells) < len(search.rounds)
    assert [image.step for image in log.Images("search/cell")] == cells
    assert [step for step, _ in curves(log)["search/edges"]] == cells
    assert len(curves(log)["search/score"]) == len(search.rounds)


def test_each_trial_is_a_session_of_hparams(finished):
    search, folder = finished
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


def test_to_write_it_again_replaces_what_is_its_own(tmp_path):
    search = run(paper(num_candidates=2, keep_fraction=0.9))
    folder = kas.write_tensorboard(save(search, tmp_path, tuner0={}))
    # Trials need no ids.
    trials = {path.name for path in (folder / "trials").iterdir()}
    rounds = search.trajectory()
    assert trials == {f"{r['round']}-{i}" for r in rounds for i in range(len(r["candidates"]))}
    begun = (tmp_path / "tuner0.json").stat().st_mtime
    kept = {
        "train/events.out.tfevents.1700000000.host.1.0.v2": 0,  # a training's
        ".unfinished.00000000": time.time(),  # another process is writing it
        "events.out.tfevents.000099.autoshrink": begun + 1,  # of a round after what was read
    }
    left = {
        "trials/0-0/events.out.tfevents.000098.autoshrink": begun - 1,  # of an older search
        "trials/0-0/.unfinished.89abcdef": 1e9,  # of a kill
        ".unfinished.0123abcd": 1e9,
    }
    for name, modified in {**kept, **left}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"another's")
        os.utime(folder / name, (modified, modified))
    written = {path: content for path, content in contents(folder).items() if path.suffix != ".v2"}
    kas.write_tensorboard(tmp_path)
    after = contents(folder)
    assert {path for path, content in after.items() if content == b"another's"} == {
        folder / name for name in kept
    }
    assert {p: c for p, c in after.items() if c != b"another's"} == {
        p: c for p, c in written.items() if c != b"another's"
    }


def test_the_rounds_of_a_shorter_search_replace_a_longer_ones(tmp_path):
    kas.write_tensorboard(save(run(paper(num_candidates=2, keep_fraction=0.9)), tmp_path))
    shorter = run(paper(num_candidates=2, keep_fraction=0.95))
    time.sleep(0.05)  # its state is newer than those files
    folder = kas.write_tensorboard(save(shorter, tmp_path), "val_accuracy")
    steps = [step for step, _ in curves(read(folder))["search/val_accuracy"]]
    assert steps == [record["round"] for record in shorter.trajectory()]


def test_a_metric_with_the_name_of_another_curve_gives_way(tmp_path):
    search = run(paper(keep_fraction=0.95))
    log = read(kas.write_tensorboard(save(search, tmp_path, metric="edges")))
    assert curves(log)["search/edges"] == known(search.trajectory(), "edges_left")
    assert curves(log)["search/objective"] == known(search.trajectory(), "objective")


def test_a_search_without_a_round_has_none(tmp_path):
    with pytest.raises(ValueError, match="has not finished a round yet"):
        kas.write_tensorboard(save(paper(), tmp_path))
    assert not (tmp_path / "tensorboard").exists()


@pytest.fixture
def served(tmp_path):
    """The address of a TensorBoard of the folder."""
    # Without TensorFlow, as it runs where that is not installed: it takes long to load.
    code = (
        "import sys; sys.modules['tensorflow'] = None; from tensorboard.main import run_main;"
        "run_main()"
    )
    options = ["--logdir", str(tmp_path), "--port", "0", "--reload_interval", "1"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *options], stderr=subprocess.PIPE, text=True
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


def test_tensorboard_shows_it_and_finds_new_rounds(tmp_path, served):
    search, evaluate = paper(num_candidates=3, keep_fraction=0.8), evaluator()
    while len(search.trajectory()) < 3:
        search.tell((cell := search.pending()[0].cell), evaluate(cell))
    kas.write_tensorboard(save(search, tmp_path / "one"))
    tags = asked(f"{served}data/plugin/scalars/tags", lambda found: "one/tensorboard" in found)
    assert {"search/score", "search/macs", "search/edges"} < set(tags["one/tensorboard"])
    kas.write_tensorboard(save(run(search, evaluate), tmp_path / "one"))
    expected = known(search.trajectory(), "score")
    curve = asked(
        f"{served}data/plugin/scalars/scalars?run=one/tensorboard&tag=search/score",
        lambda found: len(found) >= len(expected),
    )
    assert [(step, pytest.approx(value)) for _, step, value in curve] == expected
    sessions = asked(
        f"{served}data/plugin/hparams/session_groups",
        lambda found: len(found["sessionGroups"]) >= len(evaluated(search)),
        startIndex=0,
        sliceSize=1000,
        allowedStatuses=["STATUS_SUCCESS", "STATUS_FAILURE"],
    )["sessionGroups"]
    names = sorted(group["name"] for group in sessions)
    assert names == [f"one/tensorboard/trials/{name}" for name in evaluated(search)]
