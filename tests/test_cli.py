"""The command as people use it; trainings are as small as they can be."""

import argparse
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from PIL import Image
from refusals import refused
from searches import timeless

import keras_autoshrink as kas
import tflite_export
from keras_autoshrink.commands import demo
from keras_autoshrink.commands import images as image_commands
from keras_autoshrink.commands import images as image_pipeline
from keras_autoshrink.commands.cli import main
from keras_autoshrink.data.images import load_images
from keras_autoshrink.search import shrink
from keras_autoshrink.training.recipes import RECIPES

pytestmark = pytest.mark.usefixtures("one_cell_in_each_stage")

PLAIN = "search --dataset digits --nodes 3 --candidates 2 --epochs 1 --filters 4 --stem-filters 4"
SEARCH = f"{PLAIN} --strategy paper"
CHEAPER = f"{SEARCH} --race --inherit --epochs 4"
BAYESIAN = f"{PLAIN} --strategy bayesian --max-candidates 4"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A finished search."""
    directory = tmp_path_factory.mktemp("runs")
    assert main([*SEARCH.split(), "--directory", str(directory)]) == 0
    return directory / "digits"


@pytest.fixture(scope="module")
def trained(run_folder, tmp_path_factory):
    """A trained network, of the width that trains fastest."""
    path = tmp_path_factory.mktemp("trained") / "net.keras"
    command = f"train {run_folder} --dataset digits --epochs 4 --width 0.25 --output {path}"
    assert main(command.split()) == 0
    return path


def results(folder):
    return timeless(json.loads((folder / "trajectory.json").read_text()))


def test_a_search_leaves_its_results(run_folder):
    records = json.loads((run_folder / "trajectory.json").read_text())
    best = max(records, key=lambda r: (r["score"], -r["edges_left"]))
    assert kas.Cell.load(run_folder / "cell.json") == kas.Cell.from_json(best["cell"]).prune()
    assert (run_folder / "cell.png").read_bytes().startswith(b"\x89PNG")
    assert (run_folder / "trajectory.png").read_bytes().startswith(b"\x89PNG")
    events = (run_folder / "tensorboard").glob("*tfevents*")
    assert len(list(events)) == len(records)


def test_the_same_command_goes_on_where_it_stopped(run_folder, capsys):
    before = results(run_folder)
    assert main([*SEARCH.split(), "--directory", str(run_folder.parent)]) == 0
    assert "finished already" in capsys.readouterr().out
    assert results(run_folder) == before


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ("--epochs 2", "epochs=1, not 2"),
        ("--seed 1", " seed=0, not 1"),
        ("--filters 8", "filters=4, not 8"),
        ("--mac-weight 0.2", "another score"),
        ("--candidates 3", "num_candidates=2, not 3"),
        ("--strategy bayesian", "strategy='paper', not 'bayesian'"),
        ("--race", "race=unset, not True"),
        ("--inherit", "inherit=unset, not True"),
    ],
)
def test_another_search_in_its_folder_is_refused(run_folder, capsys, change, culprit):
    line = refused(capsys, f"{SEARCH} --directory {run_folder.parent} {change}")
    assert culprit in line
    assert "overwrite" in line


def test_a_search_on_a_proxy_is_told_from_one_on_all_images(run_folder, tmp_path, capsys):
    command = f"{SEARCH} --directory {tmp_path} --proxy-images 100 50"
    assert main(command.split()) == 0
    assert json.loads((tmp_path / "digits/settings.json").read_text())["proxy"] == [100, 50]
    line = refused(capsys, f"{SEARCH} --directory {tmp_path} --proxy-images 100 60")
    assert "proxy=[100, 50], not [100, 60]" in line


def test_a_search_by_the_bayesian_strategy(tmp_path, capsys):
    assert main([*BAYESIAN.split(), "--directory", str(tmp_path)]) == 0
    assert len([*tmp_path.glob("digits/trial_*/trial.json")]) == 4
    settings = json.loads((tmp_path / "digits" / "tuner0.json").read_text())
    assert (settings["strategy"], settings["max_candidates"]) == ("bayesian", 4)
    for change, culprit in (
        (("--max-candidates", "5"), "max_candidates=4, not 5"),
        (("--strategy", "paper"), "--max-candidates 4: is for --strategy bayesian; paper ends by"),
    ):
        line = refused(capsys, [*BAYESIAN.split(), "--directory", str(tmp_path), *change])
        assert culprit in line


def test_a_search_of_cheaper_rounds(tmp_path, capsys):
    assert main([*CHEAPER.split(), "--directory", str(tmp_path)]) == 0
    settings = json.loads((tmp_path / "digits" / "tuner0.json").read_text())
    assert settings["training"]["race"] is settings["training"]["inherit"] is True
    without = CHEAPER.replace("--inherit", "")
    line = refused(capsys, f"{without} --directory {tmp_path}")
    assert "training: inherit=True, not unset" in line


def test_overwrite_starts_anew(run_folder, tmp_path):
    shutil.copytree(run_folder.parent, tmp_path / "runs")
    command = [*SEARCH.split(), "--directory", str(tmp_path / "runs"), "--overwrite"]
    assert main([*command, "--seed", "5"]) == 0
    assert json.loads((tmp_path / "runs/digits/settings.json").read_text())["split_seed"] == 5


def test_a_folder_named_by_a_dot_gets_its_own_name(tmp_path, monkeypatch, capsys):
    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "images")
    refused(capsys, "search --dataset . --project-name .. --overwrite")
    assert (tmp_path / "images" / "a").exists()


@pytest.mark.slow
def test_killed_and_started_again_it_ends_the_same(run_folder, tmp_path):
    command = [sys.executable, "-m", "keras_autoshrink.commands.cli", *SEARCH.split()]
    command += ["--directory", str(tmp_path)]
    killed = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    second = tmp_path / "digits" / "trial_0001" / "trial.json"
    deadline = time.monotonic() + 120
    while not second.exists():
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "digits" / "cell.json").exists()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0
    assert again.stderr == ""
    # Not a terminal: plain lines, no control codes.
    assert "Going on in round 1" in again.stdout
    assert "candidate 2 of 2 with 2 of 3 edges: score" in again.stdout
    assert "\x1b" not in again.stdout
    ours = results(tmp_path / "digits")
    assert ours == results(run_folder)


def test_train_writes_the_model_and_what_its_user_must_know(trained):
    facts = json.loads(trained.with_name("net.keras.json").read_text())
    model = tflite_export.load_model(trained)
    assert facts["macs"] == kas.count_macs(model)
    assert facts["class_names"] == [str(digit) for digit in range(10)]
    assert facts["pixel_max"] == 16
    assert len(facts["mean"]) == len(facts["std"]) == 1
    assert 0.5 < facts["test_accuracy"] <= 1


@pytest.mark.slow
def test_training_and_export_take_the_data_of_the_search(run_folder, tmp_path, monkeypatch):
    """With its split: or else images that the search chose by could end up in the test."""
    loaded = []

    def load(source, **options):
        loaded.append((source, options["seed"]))
        return load_images(source, **options)

    monkeypatch.setattr(image_commands, "load_images", load)
    shutil.copytree(run_folder, tmp_path / "run")
    settings = json.loads((run_folder / "settings.json").read_text())
    (tmp_path / "run" / "settings.json").write_text(json.dumps({**settings, "split_seed": 7}))
    for cell, name in (("run", "a"), ("run/cell.json", "b"), ("shrinkcnn", "c")):
        cell = cell if cell == "shrinkcnn" else tmp_path / cell
        main(f"train {cell} --epochs 1 --width 0.1 --output {tmp_path}/{name}.keras".split())
    main(f"export {tmp_path}/a.keras --quantization float32".split())
    assert loaded == [("digits", 7), ("digits", 7), ("digits", 0), ("digits", 7)]


def test_a_training_of_other_settings_is_not_gone_on_with(run_folder, tmp_path, capsys):
    class Stopped(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    command = f"train {run_folder} --epochs 2 --width 0.1 --output {tmp_path}/m.keras"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.callbacks, "TensorBoard", lambda *_, **__: Stopped())
        line = refused(capsys, f"{command} --tensorboard {tmp_path}/logs", status=130)
    assert "interrupted; run it again" in line
    line = refused(capsys, f"{command} --learning-rate 0.001")
    assert "m.keras.training holds an unfinished training with learning_rate=0.004, not" in line
    capsys.readouterr()
    assert main([*command.split(), "--tensorboard", f"{tmp_path}/logs"]) == 0
    assert "going on after epoch 1 of 2" in capsys.readouterr().out
    assert list((tmp_path / "logs" / "train").glob("events*"))
    assert not (tmp_path / "m.keras.training").exists()


def test_the_same_training_is_not_repeated(trained, run_folder, capsys):
    command = f"train {run_folder} --dataset digits --epochs 4 --width 0.25 --output {trained}"
    written = trained.stat().st_mtime_ns
    assert main(command.split()) == 0
    assert "has been trained like this already" in capsys.readouterr().out
    # A kill in the first epoch's writing leaves a folder without a state.
    stale = trained.with_name("net.keras.training")
    stale.mkdir()
    line = refused(capsys, f"{command} --learning-rate 0.001")
    stale.rmdir()
    assert "net.keras: is there already, with learning_rate=0.004, not 0.001; take" in line
    assert trained.stat().st_mtime_ns == written
    assert main([*command.split(), "--overwrite"]) == 0
    assert trained.stat().st_mtime_ns != written


def test_other_data_than_those_of_the_search_have_sizes_of_their_own(tmp_path):
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
    options = argparse.Namespace(dataset=str(tmp_path), image_size=None, data_dir=None)
    recorded = {"dataset": "cifar10", "image_size": 32, "split_seed": 7}
    expected = {"dataset": str(tmp_path), "image_size": 224, "split_seed": 0}
    assert image_commands._source(options, recorded) == expected
    options.dataset = None
    assert image_commands._source(options, recorded) == recorded


def test_folders_with_train_and_val_are_trained_on_and_exported(tmp_path, monkeypatch, capsys):
    generator = np.random.default_rng(0)
    for part, count in (("train", 40), ("val", 10)):
        for label in range(2):
            folder = tmp_path / "images" / part / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                noise = generator.integers(0, 100, (20, 24, 3)) + 150 * label
                Image.fromarray(noise.astype(np.uint8)).save(folder / f"{number}.JPEG")
    monkeypatch.chdir(tmp_path)
    kas.Cell.dense(("input", "conv1x1")).save("cell.json")
    command = "train cell.json --dataset images --image-size 16 --recipe imagenet --width 0.2"
    command += " --epochs 2 --batch-size 16 --ema 0.5 --learning-rate 0.02 --output m.keras"
    assert main(command.split()) == 0
    monkeypatch.chdir("/")  # what was given relative to a folder is found from another one
    assert main(f"export {tmp_path}/m.keras --quantization float32".split()) == 0
    assert "taking 20 of the test images" in capsys.readouterr().out
    facts = json.loads((tmp_path / "m.keras.json").read_text())
    assert facts["dataset"] == str(tmp_path / "images")
    assert facts["class_names"] == ["class0", "class1"]
    assert facts["mean"] == [127.5] * 3


def test_train_fits_a_budget(run_folder, tmp_path, capsys):
    command = f"train {run_folder} --epochs 1 --target-macs 100K --output {tmp_path}/m.keras"
    assert main(command.split()) == 0
    macs = json.loads((tmp_path / "m.keras.json").read_text())["macs"]
    assert 50_000 < macs <= 100_000


def test_export_ends_with_a_table_of_equal_macs(trained, tmp_path, capsys):
    command = f"export {trained} --dataset digits --output-dir {tmp_path}"
    assert main(command.split()) == 0
    printed = capsys.readouterr().out
    rows = {" ".join(line.split()[:-2]): line.split()[-2:] for line in printed.splitlines()}
    macs = f"{kas.count_macs(tflite_export.load_model(trained)):,}"
    assert rows["quantization"] == ["float32", "int8"]
    assert rows["MACs in model"] == rows["MACs in file"] == [macs, macs]
    assert rows["MACs equal"] == ["yes", "yes"]
    assert float(rows["same argmax"][0]) == 1
    for row in ("bytes", "model accuracy", "file accuracy"):
        assert all(float(value.replace(",", "")) > 0 for value in rows[row])
    for threads in ("1 thread", "2 threads"):
        assert all(float(ms) > 0 for ms in rows[f"median ms, {threads}"])
        assert all(float(ms) > 0 for ms in rows[f"p95 ms, {threads}"])
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "net.float32.tflite",
        "net.int8.tflite",
    ]
    facts = json.loads(trained.with_name("net.keras.json").read_text())
    for kind in ("float32", "int8"):
        metadata = tflite_export.read_metadata(tmp_path / f"net.{kind}.tflite")
        assert metadata.name == "net"
        assert metadata.labels == tuple(facts["class_names"])
        assert metadata.mean == pytest.approx(facts["mean"])
        assert metadata.std == pytest.approx(facts["std"])
        # So that `serve` can try a picture where no file of facts lies beside it.
        assert metadata.pixel_max == facts["pixel_max"] == 16


def test_export_exits_with_1_where_the_macs_differ(trained, tmp_path, monkeypatch, capsys):
    # No converter loses MACs on demand: miscount the model instead.
    monkeypatch.setattr(image_pipeline, "count_macs", lambda model: kas.count_macs(model) + 1)
    command = f"export {trained} --dataset digits --output-dir {tmp_path} --quantization float32"
    assert main(command.split()) == 1
    assert "its MACs are not those of the model" in capsys.readouterr().out


@pytest.mark.slow
def test_export_chooses_one_file_by_the_validation_images(trained, tmp_path, capsys):
    command = f"export {trained} --dataset digits --output-dir {tmp_path} --max-accuracy-drop 0.02"
    assert main(command.split()) == 0
    printed = capsys.readouterr().out
    assert "choosing by 288 images: the validation images\n" in printed
    (chosen,) = re.findall(r"^ (\w+) .* CHOSEN", printed, re.M)
    assert [file.name for file in tmp_path.iterdir()] == [f"net.{chosen}.tflite"]
    choice, check = printed.split("MACs in model")
    assert max(map(len, choice.splitlines())) <= 80
    assert "file accuracy" in check


@pytest.mark.slow
def test_a_choice_without_validation_images_halves_the_test(trained, tmp_path, monkeypatch, capsys):
    def without_validation(*arguments, **options):
        return dataclasses.replace(load_images(*arguments, **options), validation=None)

    seen = []

    def watched(model, data, stem, quantizations):
        seen.append(data.test)
        return export_and_check(model, data, stem, quantizations)

    export_and_check = image_pipeline.export_and_check
    monkeypatch.setattr(image_commands, "load_images", without_validation)
    monkeypatch.setattr(image_pipeline, "export_and_check", watched)
    command = f"export {trained} --dataset digits --output-dir {tmp_path} --max-accuracy-drop 0.02"
    assert main(command.split()) == 0
    assert "choosing by 180 images: every other test image" in capsys.readouterr().out
    test = load_images("digits", purpose="train", seed=0).test
    np.testing.assert_array_equal(seen[0].x, test.x[1::2])
    np.testing.assert_array_equal(seen[0].y, test.y[1::2])


@pytest.mark.slow
def test_export_writes_nothing_and_exits_with_1_if_no_file_holds(trained, tmp_path, capsys):
    model = tflite_export.load_model(trained)
    model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
    model.save(tmp_path / "nan.keras")
    out = tmp_path / "out"
    command = f"export {tmp_path}/nan.keras --output-dir {out} --max-accuracy-drop 0.02"
    assert main(command.split()) == 1
    assert "no file is as accurate as the model, to within 0.02: " in capsys.readouterr().out
    assert not out.exists()


def test_show_describes_searches_and_cells(run_folder, tmp_path, capsys):
    picture = tmp_path / "cell.png"
    assert main(["show", str(run_folder), "--picture", str(picture)]) == 0
    assert "chosen" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["show", str(run_folder), "--html"]) == 0
    assert f"wrote {run_folder / 'report.html'}" in capsys.readouterr().out
    page = (run_folder / "report.html").read_text()
    assert f"<code>autoshrink {SEARCH} --directory {run_folder.parent}</code>" in page
    assert main(["show", str(run_folder), "--html", str(tmp_path / "other.html")]) == 0
    assert (tmp_path / "other.html").read_text() == page
    capsys.readouterr()
    assert main(["show", str(run_folder), "--tensorboard"]) == 0
    assert f"wrote {run_folder / 'tensorboard'}" in capsys.readouterr().out
    assert main(["show", str(run_folder / "cell.json")]) == 0
    assert main(["show", "shrinkcnn"]) == 0
    assert "cell with 6 edges" in capsys.readouterr().out


def test_show_knows_a_search_of_ops_that_nobody_registered(tmp_path, capsys):
    state = {"search": json.loads(json.dumps(shrink.to_json(named_search("their_own_op"))))}
    (tmp_path / "oracle.json").write_text(
        json.dumps(state).replace("their_own_op", "somebody_elses_op")
    )
    assert main(["show", str(tmp_path)]) == 0
    assert "somebody_elses_op" in capsys.readouterr().out


@pytest.fixture
def without_cell(tmp_path):
    """A search whose complete cell is over a limit, and which has begun with smaller ones."""
    from keras_autoshrink.search.records import Outcome
    from keras_autoshrink.search.shrink import ShrinkSearch

    search = ShrinkSearch(kas.Cell.dense(("input", *["conv1x1"] * 3)), strategy="paper")
    search.tell(search.cell, Outcome(None, macs=99, over_limit="99 MACs, at most 98"))
    search.tell(search.pending()[0].cell, Outcome(0.5, objective=0.6, macs=90))
    assert (search.best(), search.best_score) == (None, 0.5)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "oracle.json").write_text(json.dumps({"search": shrink.to_json(search)}))
    return folder


@pytest.mark.parametrize("options", ["--html", "--tensorboard", "--html --tensorboard"])
def test_show_reports_a_search_without_a_cell(without_cell, capsys, options):
    assert main(["show", str(without_cell), *options.split()]) == 0
    printed = capsys.readouterr().out
    assert "is in round 1" in printed
    assert printed.count("wrote ") == options.count("--")


@pytest.mark.parametrize("options", ["", "--html", "--tensorboard"])
def test_show_draws_no_cell_of_a_search_without_one(without_cell, capsys, options):
    before = sorted(without_cell.parent.rglob("*"))
    command = f"show {without_cell} --picture {without_cell.parent}/c.png {options}"
    assert "--picture: " in (line := refused(capsys, command))
    assert "has no cell yet" in line
    assert sorted(without_cell.parent.rglob("*")) == before


def test_show_checks_before_it_writes(tmp_path, capsys):
    from keras_autoshrink.search.shrink import ShrinkSearch

    search = ShrinkSearch(kas.Cell.dense(("input", "conv1x1")))
    state = {"search": shrink.to_json(search)}
    (tmp_path / "oracle.json").write_text(json.dumps(state))
    line = refused(capsys, f"show {tmp_path} --html --tensorboard")
    assert "has not finished a round yet" in line
    assert [path.name for path in tmp_path.iterdir()] == ["oracle.json"]


def named_search(op):
    from keras_autoshrink.search.records import Outcome
    from keras_autoshrink.search.shrink import ShrinkSearch

    search = ShrinkSearch(kas.Cell(("input", op), ((0, 1),)))
    search.tell(search.cell, Outcome(1.0))
    return search


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("command", "culprit"),
    [
        ("", "COMMAND"),
        ("serch", "'serch'"),
        ("search --nodes many", "--nodes: 'many' is no whole number"),
        ("search --directory {tmp} --over", "unrecognized arguments: --over"),
        ("search --directory {tmp}/new/deep --candidates 0", "'0' is no whole number"),
        ("search --directory {tmp} --nodes 1", "num_nodes=1"),
        ("search --directory {tmp}/new/deep --keep-fraction 3", "keep_fraction=3"),
        ("search --directory {tmp} --mac-weight -1", "weight=-1"),
        ("search --directory {tmp} --strategy mirrored", "invalid choice: 'mirrored'"),
        ("search --directory {tmp} --strategy bayesian --max-candidates 0", "'0' is no whole num"),
        (
            "search --directory {tmp} --strategy paper --max-candidates 5",
            "--max-candidates 5: is for --strategy bayesian; paper ends by itself, --keep-fraction",
        ),
        (
            "search --directory {tmp} --strategy paper --race --distribution-strategy mirrored",
            "--race: one process has to train the candidates of a round together, without --distri",
        ),
        (
            "search --directory {tmp} --strategy paper --inherit --workers 1",
            "--inherit: one process has to train",
        ),
        ("search --strategy paper --race --chief a:1", "a round together, without --chief"),
        ("search --strategy paper --race --worker a:1", "a round together, without --worker"),
        ("search --directory {tmp} --race", "--race: needs --strategy paper"),
        ("search --strategy bayesian --inherit", "--inherit: needs --strategy paper"),
        ("search --directory {tmp} --dataset {tmp}/absent.npz", "absent.npz"),
        ("search --directory {tmp} --dataset {tmp}/labels.npz", "label -1"),
        ("search --directory {tmp} --dataset {tmp}/nan.npz", "NaN"),
        ("search --directory {tmp} --dataset {tmp}/empty", "found 0"),
        ("search --directory {tmp} --dataset {tmp}/classes", "no images"),
        ("search --directory {tmp} --dataset cfar10", "'cfar10'"),
        ("search --directory {tmp}/labels.npz/runs", "cannot be created"),
        ("train {tmp}/absent.json --output {tmp}/m.keras", "absent.json"),
        ("train {tmp}/empty --output {tmp}/m.keras", "holds no search"),
        ("train shrinkcnn --output {tmp}/m.h5", "must end in .keras"),
        ("train shrinkcnn --output {tmp}/m.keras --epochs 0", "'0' is no whole number"),
        ("train shrinkcnn --output {tmp}/m.keras --batch-size -4", "'-4' is no whole number"),
        ("train shrinkcnn --output {tmp}/m.keras --width 0", "'0' is no number greater than 0"),
        ("search --learning-rate nan", "'nan' is no number greater than 0"),
        ("train shrinkcnn --output {tmp}/folder.keras", "is a folder"),
        ("train shrinkcnn --output {tmp}/m.keras --target-macs 10", "target_macs=10"),
        ("train shrinkcnn --output {tmp}/m.keras --target-macs many", "'many'"),
        ("train shrinkcnn --output {tmp}/m.keras --target-macs 1M --width 1", "not allowed with"),
        ("train shrinkcnn --output {tmp}/m.keras --label-smoothing 2", "label_smoothing=2.0"),
        ("train shrinkcnn --output {tmp}/m.keras --ema 1", "ema=1.0"),
        ("train shrinkcnn --output {tmp}/m.keras --recipe best", "'best'"),
        ("train shrinkcnn --output {tmp}/m.keras --seed -1", "--seed -1: expected 0 to"),
        (
            "train shrinkcnn --output {tmp}/m.keras --tensorboard {tmp}/corrupt.keras",
            "corrupt.keras: is a file",
        ),
        (
            "train shrinkcnn --output {tmp}/m.keras --distribution-strategy multiworker",
            "TF_CONFIG has to name",
        ),
        ("train shrinkcnn --output {tmp}/m.keras --recipe imagenet", "recipe changes colours"),
        (
            "train shrinkcnn --output {tmp}/m.keras --dataset imagenet2012 --data-dir {tmp}/empty",
            "imagenet2012: cannot be opened in",
        ),
        ("search --directory {tmp} --dataset imagenet2012", "training a network only"),
        ("search --directory {tmp} --proxy-images 300 0", "'0' is no whole number"),
        ("search --directory {tmp} --proxy-images 333 100", "digits: train: 333 images cannot"),
        ("export {tmp}/absent.keras", "no such file"),
        ("export {tmp}/corrupt.keras", "not a .keras file"),
        ("export {tmp}/corrupt.keras --quantization int4", "'int4'"),
        (
            "export {tmp}/corrupt.keras --quantization int8 --max-accuracy-drop 0.01",
            "argument --max-accuracy-drop: not allowed with argument --quantization",
        ),
        ("show {tmp}/corrupt.keras", "corrupt.keras"),
        ("show {tmp}/damaged", "damaged"),
        ("show {tmp}/damaged --html", "damaged"),
        ("show {tmp}/empty --html", "empty: holds no search"),
        ("show shrinkcnn --tensorboard", "--tensorboard: is of a search, and shrinkcnn is no"),
        ("show shrinkcnn --html", "--html: is of a search, and shrinkcnn is no search's folder"),
        ("show {tmp}/damaged --html {tmp}/a.txt", "a.txt: expected a file that ends in .html"),
        ("show {tmp}/damaged --html {tmp}/no/a.html", "no/a.html: its folder does not exist"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(tmp_path, capsys, command, culprit):
    images, labels = np.zeros((4, 8, 8, 1), "float32"), np.array([0, 1, 0, 1])
    write_npz(tmp_path / "labels.npz", x_train=images, y_train=labels - 1)
    write_npz(tmp_path / "nan.npz", x_train=images * np.nan, y_train=labels)
    (tmp_path / "corrupt.keras").write_bytes(b"PK\x03\x04 not a zip")
    for folder in ("empty", "classes/a", "classes/b", "damaged", "folder.keras"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "damaged" / "oracle.json").write_text('{"search": {"cell"')
    before = sorted(tmp_path.rglob("*"))
    assert culprit in refused(capsys, command.format(tmp=tmp_path))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_that_does_not_fit_the_data_is_refused(trained, tmp_path, capsys):
    images = np.zeros((40, 9, 9, 1), "float32")
    write_npz(tmp_path / "d.npz", x_train=images, y_train=np.arange(40) % 2)
    shutil.copy(trained, tmp_path / "net.keras")  # without the facts that lie beside it
    line = refused(capsys, f"export {tmp_path}/net.keras --dataset {tmp_path / 'd.npz'}")
    assert "(None, 9, 9, 1)" in line
    assert not list(tmp_path.glob("*.tflite"))


def test_other_data_than_the_models_are_refused(trained, tmp_path, capsys):
    images = np.random.default_rng(0).normal(size=(200, 8, 8, 1))
    write_npz(tmp_path / "d.npz", x_train=images, y_train=np.arange(200) % 10)
    line = refused(capsys, f"export {trained} --dataset {tmp_path / 'd.npz'}")
    assert "was trained on other data (digits)" in line
    assert not list(trained.parent.glob("*.tflite"))


@pytest.mark.parametrize("command", ["demo", "search", "train", "export", "show"])
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"autoshrink {command}" in " ".join(
        capsys.readouterr().out.split("example: ")[1].split()
    )


@pytest.mark.slow
def test_the_demo(tmp_path, monkeypatch, capsys):
    recipe = dataclasses.replace(RECIPES["plain"], epochs=4)
    for name, value in (("_NODES", 3), ("_SEARCH_EPOCHS", 1), ("_RECIPE", recipe)):
        monkeypatch.setattr(demo, name, value)
    assert main(["demo", "--directory", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "found / complete" in printed
    for name in ("found", "complete"):
        for suffix in ("keras", "keras.json", "float32.tflite", "int8.tflite"):
            assert (tmp_path / f"{name}.{suffix}").exists()
    assert (tmp_path / "search" / "trajectory.png").exists()
