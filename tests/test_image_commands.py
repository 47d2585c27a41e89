"""The commands on images as people use them; what is trained is as small as it can be."""

import contextlib
import dataclasses
import io
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from computed_searches import accuracy, at_budget, run, save
from PIL import Image
from refusals import refused
from searches import timeless

import keras_autoshrink as kas
import tflite_export
from keras_autoshrink.commands import design, images, pipeline
from keras_autoshrink.commands.cli import main
from keras_autoshrink.data.images import load_images
from keras_autoshrink.report import final, saved_search
from keras_autoshrink.search.records import Outcome
from keras_autoshrink.search.shrink import ShrinkSearch
from keras_autoshrink.training.classifier import architecture

pytestmark = pytest.mark.usefixtures("one_cell_in_each_stage")

SEARCH = (
    "--dataset digits --nodes 3 --candidates 2 --max-candidates 2 --epochs 1 --filters 4 "
    "--stem-filters 4"
)
TRAIN = "--recipe plain --epochs 4 --width 0.25"


@pytest.fixture(scope="module")
def shown(tmp_path_factory, one_cell_in_each_stage):
    """A search, the training of its cell and the export: their folder, what they print, the checks.

    They are what the other tests look at.
    """
    folder = tmp_path_factory.mktemp("commands")
    checks = []
    export = images.export

    def recorded(*arguments):
        checks.extend(found := export(*arguments))
        return found

    search = f"search {SEARCH} --directory {folder} --project-name search"
    train = f"train {folder}/search {TRAIN} --output {folder}/found.keras --quiet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "export", recorded)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main(search.split()) == main(train.split()) == 0
            status = main(f"export {folder}/found.keras --quantization float32 int8".split())
    # So little training need not survive 8 bits.
    assert status == int(not all(each.macs_equal and each.agreement.agrees for each in checks))
    return folder, printed.getvalue(), checks


@pytest.fixture(scope="module")
def folder(shown):
    return shown[0]


@pytest.fixture(scope="module")
def search(folder):
    """The command line of the search."""
    return f"search {SEARCH} --directory {folder} --project-name search"


@pytest.fixture
def jobs(monkeypatch):
    """The trainings that commands begin, of which none takes place."""
    begun = []
    monkeypatch.setattr(pipeline, "train_and_save", begun.append)
    return begun


def listing(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def records(folder):
    return json.loads((folder / "trajectory.json").read_text())


# The search


def test_a_search_leaves_its_results(folder):
    run = folder / "search"
    best = max(records(run), key=lambda r: (r["score"], -r["edges_left"]))
    assert kas.Cell.load(run / "cell.json") == kas.Cell.from_json(best["cell"]).prune()
    network = kas.Architecture.from_json(json.loads((run / "architecture.json").read_text()))
    assert network.arguments["cell"].prune() == kas.Cell.load(run / "cell.json")
    assert kas.count_macs(network.build()) == best["macs"]
    for name in ("cell.png", "trajectory.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG")
    assert len([*(run / "tensorboard").glob("*tfevents*")]) == len(records(run))


def test_the_same_command_goes_on_where_it_stopped(folder, search, capsys):
    before = timeless(records(folder / "search"))
    assert main(search.split()) == 0
    assert "finished already" in capsys.readouterr().out
    assert timeless(records(folder / "search")) == before


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ("--epochs 2", "epochs=1, not 2"),
        ("--seed 1", " seed=0, not 1"),
        ("--proxy-images 100 50", "not [100, 50]"),
        ("--filters 8", "filters=4, not 8"),
        ("--mac-weight 0.2", "score=["),
        ("--max-candidates 1", "max_candidates=2, not 1"),
        ("--minutes 3", "max_minutes=None, not 3.0"),
    ],
)
def test_another_search_in_its_folder_is_refused(search, capsys, change, culprit):
    line = refused(capsys, f"{search} {change}")
    assert culprit in line
    assert "overwrite" in line


def test_options_reach_the_search(tmp_path, monkeypatch, capsys):
    given = {}

    def stop(hypermodel, **arguments):
        given.update(arguments, nodes=hypermodel.cell.num_nodes)
        raise RuntimeError("far enough")

    monkeypatch.setattr(pipeline, "AutoShrink", stop)
    command = (
        f"search --directory {tmp_path} --nodes 4 --candidates 3 --max-candidates 5 --seed 6 "
        "--minutes 2.5 "
        "--keep-fraction 0.5 --max-macs 2M --max-latency-ms 1.5 --max-seconds-per-trial 9 "
        "--cost params --mac-weight 0.2 --strategy evolution --distribution-strategy mirrored "
        "--workers 3 --overwrite"
    )
    refused(capsys, command, status=1)
    assert given.pop("score") == kas.AccuracyScore(0.2, "params")
    assert given.pop("distribution_strategy").num_replicas_in_sync >= 1
    assert given == {
        "nodes": 4,
        "num_candidates": 3,
        "max_candidates": 5,
        "max_minutes": 2.5,
        "strategy": "evolution",
        "keep_fraction": 0.5,
        "seed": 6,
        "max_macs": 2_000_000,
        "max_latency_ms": 1.5,
        "max_seconds_per_trial": 9,
        "directory": tmp_path,
        "project_name": "digits",
        "overwrite": True,
        "workers": 3,
    }


def test_a_network_that_is_found_at_a_budget_is_the_one_that_ships(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    y = np.arange(120) % 2
    np.savez("d.npz", x_train=y[:, None, None, None] + np.zeros((120, 4, 4, 1)), y_train=y)
    search = (
        "search --dataset d.npz --nodes 2 --candidates 2 --max-candidates 2 --epochs 1 "
        "--batch-size 16"
    )
    target = "--target-macs 9K"
    assert main(f"{search} {target}".split()) == 0
    assert "wrote runs/d/architecture.json" in capsys.readouterr().out
    found = json.loads(Path("runs/d/architecture.json").read_text())
    best = max(records(Path("runs/d")), key=lambda record: record["score"])
    assert best["score"] == best["objective"]
    assert 8_550 <= best["macs"] <= 9_000
    tuner = saved_search.read_tuner_settings(Path("runs/d"))
    assert (tuner["strategy"], tuner["hypermodel"]["config"]["learning_rate"]) == (
        "evolution",
        0.02,
    )
    for other, culprit in (
        ("--target-macs 8K", "with target_macs=9000, not 8000"),
        ("--target-params 9K", "with target_params=unset, not 9000"),
        ("", "target_macs=9000, not unset"),
    ):
        assert culprit in refused(capsys, f"{search} {other}")

    train = "train runs/d --epochs 4 --batch-size 16 --output m.keras"
    assert main(train.split()) == 0
    facts = saved_search.read_facts(Path("m.keras"))
    assert facts["architecture"] == found
    assert facts["macs"] == best["macs"]
    assert facts["dataset"] == str(tmp_path / "d.npz")
    capsys.readouterr()
    assert main(train.replace("runs/d", "runs/d/architecture.json").split()) == 0
    assert "has been trained like this already" in capsys.readouterr().out
    activation = found["arguments"]["activation"]
    found["arguments"]["activation"] = "swish"
    Path("other.json").write_text(json.dumps(found))
    line = refused(capsys, train.replace("runs/d", "other.json --dataset d.npz"))
    assert f"with architecture.arguments.activation='{activation}', not 'swish'" in line

    assert main(["show", "runs/d", "--html", "--picture", "cell.png"]) == 0
    printed = capsys.readouterr().out
    assert "stage_filters" in printed
    assert "cell with 1 edge" in printed


def test_a_design_ends_with_a_file_to_ship(tmp_path, monkeypatch, capsys):
    """Of a search that is computed; its networks are a chain and a separable convolution."""
    monkeypatch.chdir(tmp_path)
    y = np.arange(120) % 2
    np.savez("d.npz", x_train=y[:, None, None, None] + np.zeros((120, 8, 8, 1)), y_train=y)
    network = {"input_shape": (8, 8, 1), "classes": 2}
    stages = {"stage_filters": (4,), "stage_strides": (1,), "stage_repeats": (1,)}
    cell = kas.Cell.dense(("input", "sepconv3x3"))
    found = kas.Architecture(
        {**network, **stages, "stage_scales": (1,), "cell": cell, "head_filters": None}
    )
    chain = kas.Architecture({**network, "filters": (4, 4, 4, 4)}, "chain")
    tuner = {"hypermodel": {"config": {"target_macs": 9_000}}}

    def search(options):
        folder = options.directory / options.project_name
        folder.mkdir(parents=True)
        save(run(at_budget(), accuracy(0.5)), folder, tuner0=tuner)
        asked = {"dataset": str(tmp_path / "d.npz"), "image_size": 32, "split_seed": 0}
        saved_search.write_settings(folder, {**asked, "epochs": 6}, options.argv)
        saved_search.write_results(folder, "accuracy", found, chain)

    monkeypatch.setattr(images, "search", search)
    # As if the int8 file lost too much. A choice among kinds is seen elsewhere; it takes a
    # conversion of each.
    seen = []
    monkeypatch.setattr(design, "_is_accurate", lambda check: seen.append(check))
    monkeypatch.setattr(images, "_choose_quantization", lambda model, data, drop: ("float16", data))
    assert main(["design", "d.npz", "--target-macs", "9K", "--output", "d"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    commands = "--output d/found.keras", "--output d/chain-stride2.keras"
    assert all(each in printed for each in commands)
    (int8,) = seen
    assert (int8.path.name, int8.quantization) == ("found.int8.tflite", "int8")
    assert f"{int8.path} loses {int8.agreement.accuracy_drop:.4f} of the accuracy" in printed
    assert not int8.path.exists()
    record = json.loads(Path("d/run.json").read_text())
    first, second = record["networks"]
    assert (first["name"], second["name"]) == ("found", "chain-stride2")
    for each in (first, second):
        assert each["bytes"] == Path(each["file"]).stat().st_size
        assert each["macs"] == tflite_export.count_macs(each["file"])
        assert f"{each['name']} {each['accuracy']:.4f} ± {each['accuracy_error']:.4f}" in printed
        assert each["file"].endswith(f"{each['name']}.float16.tflite")
    assert tflite_export.read_metadata(first["file"]).labels == ("0", "1")
    assert re.search(r" resnet8 0\.\d{4}, \d epochs \* - 9,000 ", printed)  # the other reference
    assert record["advice"].startswith("Ship d/found.")
    assert record["advice"] in printed
    assert saved_search.read_facts(Path("d/found.keras"))["epochs"] == 6  # as in the search
    assert Path("d/report.html").is_file()


def test_the_advice_of_a_design_knows_chance():
    def designed(name, right):
        check = SimpleNamespace(path=Path(f"{name}.int8.tflite"))
        return design.Designed(name, check, 0, np.array(right))

    n = 100
    better = designed("found", [True] * n), designed("chain", [True] * 80 + [False] * 20)
    assert design.advice(better) == (
        "Ship found.int8.tflite: what was found is 20.0 points (standard error 4.0) above the best "
        "reference, chain."
    )
    worse = [
        dataclasses.replace(a, right=b.right) for a, b in zip(better, better[::-1], strict=True)
    ]
    assert design.advice(worse).startswith("Ship chain.int8.tflite: what was found is 20.0 points")
    level = designed("found", [True] * n), designed("chain", [True] * 98 + [False] * 2)
    assert design.advice(level).endswith(
        "(standard error 1.4) above the best reference, chain, which may be chance."
    )
    assert "no final with a reference" in design.advice(better[:1])
    assert design.advice(better[1:]) == (
        "Ship chain.int8.tflite, the reference chain: the search found no network that is better."
    )


@pytest.mark.parametrize(
    ("chains", "names"), [(0.5, ["found", "chain-stride2"]), (0.9, ["chain-stride2"])]
)
def test_a_design_trains_what_won_and_a_reference_that_did_not(tmp_path, chains, names):
    save(run(at_budget(), accuracy(chains)), tmp_path)
    assert [*design._networks(tmp_path)] == names


@pytest.mark.parametrize(("chains", "name"), [(0.5, "found"), (0.9, "chain-stride2")])
def test_a_design_of_few_networks_has_one(tmp_path, chains, name):
    # With fewer than eight there is no final.
    search = at_budget(max_candidates=7)
    few = dataclasses.replace(search.space, rungs=())
    search = ShrinkSearch(
        search.cell, strategy="evolution", num_candidates=4, max_candidates=7, space=few
    )
    save(run(search, accuracy(chains)), tmp_path)
    assert not search.final()
    assert design._networks(tmp_path) == {name: tmp_path}


def test_overwrite_starts_anew(folder, tmp_path):
    shutil.copytree(folder / "search", tmp_path / "search")
    # Of two nodes, there is one cell.
    command = f"search {SEARCH} --directory {tmp_path} --project-name search --nodes 2 --overwrite"
    assert main([*command.split(), "--seed", "5"]) == 0
    assert saved_search.read_settings(tmp_path / "search")["split_seed"] == 5
    assert len(records(tmp_path / "search")) == 1


def test_overwrite_deletes_no_folder_of_data(tmp_path, monkeypatch, capsys):
    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "images")
    refused(capsys, "search --dataset . --project-name .. --overwrite")
    assert (tmp_path / "images" / "a").exists()


# The training


def test_train_writes_the_model_and_what_its_user_must_know(folder):
    facts = saved_search.read_facts(folder / "found.keras")
    model = tflite_export.load_model(folder / "found.keras")
    assert facts["macs"] == kas.count_macs(model)
    assert facts["class_names"] == [str(digit) for digit in range(10)]
    assert facts["pixel_max"] == 16
    assert len(facts["mean"]) == len(facts["std"]) == 1
    test = load_images("digits", purpose="train", seed=0).test
    right = model.predict(test.x, verbose=0).argmax(axis=1) == test.y
    assert facts["test_accuracy"] == pytest.approx(right.mean())
    assert right.mean() > 0.3


def test_training_and_export_take_the_data_of_the_search(
    folder, tmp_path, monkeypatch, jobs, capsys
):
    """With its split: or else images that the search chose by could end up in the test."""
    shutil.copytree(folder / "search", tmp_path / "run")
    settings = saved_search.read_settings(folder / "search")
    (tmp_path / "run" / "settings.json").write_text(json.dumps({**settings, "split_seed": 7}))
    for cell in (tmp_path / "run", tmp_path / "run" / "cell.json", "shrinkcnn"):
        assert main(f"train {cell} --output {tmp_path}/m.keras".split()) == 0
    assert [job.source["split_seed"] for job in jobs] == [7, 7, 0]

    def load(source, seed, **options):
        raise ValueError(f"{source} by {seed}")

    shutil.copy(folder / "found.keras", tmp_path / "m.keras")
    saved_search.write_facts(tmp_path / "m.keras", jobs[0].settings())
    monkeypatch.setattr(images, "load_images", load)
    assert "digits by 7" in refused(capsys, f"export {tmp_path}/m.keras")


def test_options_reach_the_training(tmp_path, jobs):
    cell = kas.Cell.dense(("input", "conv1x1"))
    cell.save(tmp_path / "cell.json")
    command = (
        f"train {tmp_path}/cell.json --output {tmp_path}/m.keras --seed 3 --recipe cifar10 "
        "--epochs 7 --batch-size 9 --learning-rate 0.5 --label-smoothing 0.2 --ema 0.9 "
        f"--activation swish --precision mixed_bfloat16 --tensorboard {tmp_path}/logs "
        "--overwrite --quiet"
    )
    assert main([*command.split(), "--width", "0.5"]) == 0
    assert main([*command.split(), "--target-macs", "100K"]) == 0
    job = jobs[0]
    assert job.recipe == dataclasses.replace(
        kas.RECIPES["cifar10"],
        epochs=7,
        batch_size=9,
        learning_rate=0.5,
        label_smoothing=0.2,
        ema=0.9,
    )
    assert (job.cell, job.seed, job.activation) == (cell, 3, "swish")
    assert (job.precision, job.width, job.verbose) == ("mixed_bfloat16", 0.5, 0)
    assert (job.log_dir, job.overwrite) == (tmp_path / "logs", True)
    widest = kas.ShrinkCNN(job.cell, width=jobs[1].width, **architecture(job.data))
    assert 50_000 < kas.count_macs(widest) <= 100_000


def test_the_same_training_is_not_repeated(folder, capsys):
    model = folder / "found.keras"
    command = f"train {folder}/search {TRAIN} --output {model}"
    before = listing(folder)
    assert main(command.split()) == 0
    assert "has been trained like this already" in capsys.readouterr().out
    line = refused(capsys, f"{command} --learning-rate 0.001")
    assert "found.keras: is there already with learning_rate=0.004, not 0.001" in line
    assert listing(folder) == before


def test_folders_with_train_and_val_are_streamed(tmp_path, monkeypatch, jobs, capsys):
    generator = np.random.default_rng(0)
    for part, count in (("train", 20), ("val", 5)):
        for label in range(2):
            place = tmp_path / "images" / part / f"class{label}"
            place.mkdir(parents=True)
            for number in range(count):
                noise = generator.integers(0, 255, (20, 24, 3)).astype(np.uint8)
                Image.fromarray(noise).save(place / f"{number}.JPEG")
    monkeypatch.chdir(tmp_path)
    cell = kas.Cell.dense(("input", "conv1x1"))
    cell.save("cell.json")
    for size in ([], ["--image-size", "16"]):
        assert (
            main(["train", "cell.json", "--dataset", "images", "--output", "m.keras", *size]) == 0
        )
    assert [job.source["image_size"] for job in jobs] == [224, 16]
    settings = jobs[1].settings()
    assert settings["dataset"] == str(tmp_path / "images")
    assert settings["class_names"] == ("class0", "class1")
    assert settings["mean"] == (127.5,) * 3
    # To the export a sample is enough. What was given relative to a folder is found from another.
    kas.ShrinkCNN(cell, width=0.2, **architecture(jobs[1].data)).save("m.keras")
    saved_search.write_facts(tmp_path / "m.keras", settings)
    exported = []
    monkeypatch.setattr(images, "_export_quantized", lambda *given: exported.append(given) or [])
    monkeypatch.chdir("/")
    main(f"export {tmp_path}/m.keras --quantization float32".split())
    assert "taking 10 of the test images" in capsys.readouterr().out
    assert exported[0][2:] == (tmp_path / "m", ["float32"])


# The files


def test_export_ends_with_a_table_of_equal_macs(shown):
    folder, printed, _ = shown
    table = printed.partition("quantization  ")[2]
    rows = {" ".join(line.split()[:-2]): line.split()[-2:] for line in table.splitlines()}
    macs = f"{saved_search.read_facts(folder / 'found.keras')['macs']:,}"
    assert rows["MACs in model"] == rows["MACs in file"] == [macs, macs]
    assert rows["MACs equal"] == ["yes", "yes"]
    assert float(rows["same argmax"][0]) == 1
    for row in ("bytes", "model accuracy", "file accuracy", "median ms, 1 thread"):
        assert all(float(value.replace(",", "")) > 0 for value in rows[row])
    facts = saved_search.read_facts(folder / "found.keras")
    for kind in ("float32", "int8"):
        metadata = tflite_export.read_metadata(folder / f"found.{kind}.tflite")
        assert metadata.name == "found"
        assert metadata.labels == tuple(facts["class_names"])
        assert metadata.mean == pytest.approx(facts["mean"])
        assert metadata.std == pytest.approx(facts["std"])
        # So that `serve` can try a picture.
        assert metadata.pixel_max == facts["pixel_max"] == 16


def test_a_file_of_other_macs_or_predictions_is_a_failure(shown, capsys):
    good = shown[2][0]
    assert pipeline.report_checks([good]) == 0
    assert pipeline.report_checks([dataclasses.replace(good, model_macs=1)]) == 1
    assert "its MACs are not those of the model" in capsys.readouterr().out
    other = dataclasses.replace(good.agreement, argmax_agreement=0.1)
    assert pipeline.report_checks([dataclasses.replace(good, agreement=other)]) == 1
    assert "its predictions are not those of the model" in capsys.readouterr().out


@pytest.mark.parametrize("validation", [True, False])
def test_a_file_is_chosen_by_images_that_the_check_leaves_out(
    folder, tmp_path, monkeypatch, capsys, validation
):
    def load(*arguments, **options):
        data = load_images(*arguments, **options)
        # As of a source that brings such a part.
        return dataclasses.replace(data, validation=data.train) if validation else data

    def nothing_holds(model, path, inputs, labels, drop, representative_data):
        tried.append((inputs, labels, drop))
        raise tflite_export.NoModeHoldsError("no file is as accurate as the model", ())

    tried = []
    monkeypatch.setattr(images, "load_images", load)
    monkeypatch.setattr(tflite_export, "convert_smallest", nothing_holds)
    monkeypatch.setattr(images, "_print_choice", lambda *given: None)
    out = tmp_path / "out"
    command = f"export {folder}/found.keras --output-dir {out} --max-accuracy-drop 0.02"
    assert main(command.split()) == 1
    printed = capsys.readouterr().out
    assert "no file is as accurate as the model" in printed
    assert not out.exists()
    data = load_images("digits", purpose="train", seed=0)
    by = data.train if validation else data.test
    every = slice(None) if validation else slice(None, None, 2)
    ((inputs, labels, drop),) = tried
    np.testing.assert_array_equal(inputs, by.x[every])
    np.testing.assert_array_equal(labels, by.y[every])
    assert drop == 0.02
    what = "the validation images" if validation else "every other test image"
    assert f"choosing by {len(inputs):,} images: {what}" in printed
    if not validation:
        _, rest, _ = images._halved(data)
        np.testing.assert_array_equal(rest.test.x, data.test.x[1::2])


def test_other_data_than_the_models_are_refused(folder, tmp_path, capsys):
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()])
    model.save(tmp_path / "net.keras")
    facts = saved_search.read_facts(folder / "found.keras")
    saved_search.write_facts(tmp_path / "net.keras", {**facts, "params": 0, "weights": None})
    line = refused(capsys, f"export {tmp_path}/net.keras --dataset digits")
    assert "(None, 4, 4, 1)" in line
    values = np.random.default_rng(0).normal(size=(200, 8, 8, 1))
    np.savez(tmp_path / "d.npz", x_train=values, y_train=np.arange(200) % 10)
    before = listing(folder)
    line = refused(capsys, f"export {folder}/found.keras --dataset {tmp_path / 'd.npz'}")
    assert "was trained on other data (digits)" in line
    assert listing(folder) == before


def test_a_model_that_was_trained_elsewhere_gets_no_normalisation(folder, tmp_path, capsys):
    shape = [keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 16), keras.layers.Flatten()]
    keras.Sequential([*shape, keras.layers.Dense(10)]).save(tmp_path / "own.keras")
    line = refused(capsys, f"export {tmp_path}/own.keras --dataset digits")
    assert "own.keras: was not trained by autoshrink, which writes own.keras.json beside" in line
    # Nor by the record of a model that has been replaced.
    shutil.copy(folder / "found.keras.json", tmp_path / "own.keras.json")
    line = refused(capsys, f"export {tmp_path}/own.keras")
    assert "own.keras: has 650 parameters, own.keras.json is of a network of" in line
    assert "convert it by 'python -m tflite_export convert'" in line
    # Nor by that of the same network which was trained on otherwise.
    model = tflite_export.load_model(folder / "found.keras")
    model.set_weights([2 * weights for weights in model.get_weights()])
    model.save(tmp_path / "own.keras")
    line = refused(capsys, f"export {tmp_path}/own.keras")
    assert "own.keras: has other weights than those that own.keras.json was written for" in line
    assert not list(tmp_path.glob("*.tflite"))


# What there is to see


def test_show_describes_searches_and_cells(folder, tmp_path, capsys):
    run = tmp_path / "search"
    shutil.copytree(folder / "search", run)
    picture = tmp_path / "cell.png"
    assert main(["show", str(run), "--picture", str(picture)]) == 0
    assert "chosen" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["show", str(run), "--html", "--tensorboard"]) == 0
    printed = capsys.readouterr().out
    assert f"wrote {run / 'report.html'}" in printed
    assert f"wrote {run / 'tensorboard'}" in printed
    assert main(["show", str(run), "--html", str(tmp_path / "other.html")]) == 0
    assert (tmp_path / "other.html").read_text() == (run / "report.html").read_text()
    assert main(["show", str(run / "cell.json")]) == 0
    assert main(["show", "shrinkcnn"]) == 0
    assert "cell with 6 edges" in capsys.readouterr().out


def test_show_knows_a_search_of_ops_that_nobody_registered(tmp_path, capsys):
    search = ShrinkSearch(kas.Cell(("input", "somebody_elses_op"), ((0, 1),)))
    search.tell(search.cell, Outcome(1.0))
    (tmp_path / "oracle.json").write_text(json.dumps({"search": search.to_json()}))
    assert main(["show", str(tmp_path)]) == 0
    assert "somebody_elses_op" in capsys.readouterr().out


@pytest.fixture
def without_cell(tmp_path):
    """A search whose complete cell is over a limit, and which has begun with smaller ones."""
    search = ShrinkSearch(kas.Cell.dense(("input", *["conv1x1"] * 3)), strategy="paper")
    search.tell(search.cell, Outcome(None, costs={"macs": 99}, over_limit="99 MACs, at most 98"))
    search.tell(search.pending()[0].cell, Outcome(0.5, objective=0.6, costs={"macs": 90}))
    assert (search.best(), search.best_score) == (None, 0.5)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "oracle.json").write_text(json.dumps({"search": search.to_json()}))
    return folder


def test_show_reports_a_search_without_a_cell_but_draws_none(without_cell, capsys):
    before = sorted(without_cell.parent.rglob("*"))
    line = refused(capsys, f"show {without_cell} --picture {without_cell.parent}/c.png --html")
    assert "has no cell yet" in line
    assert sorted(without_cell.parent.rglob("*")) == before
    assert main(["show", str(without_cell), "--html", "--tensorboard"]) == 0
    printed = capsys.readouterr().out
    assert "is in round 1" in printed
    assert printed.count("wrote ") == 2


def test_show_draws_no_cell_of_a_reference(tmp_path, capsys):
    search = run(at_budget(), accuracy(0.9))
    folder = save(search, tmp_path / "run").path
    line = refused(capsys, f"show {folder} --picture {tmp_path}/c.png --html")
    assert "--picture: the best network of" in line
    assert "is the reference chain-stride2" in line
    assert [path.name for path in tmp_path.rglob("*.*")] == ["oracle.json"]
    assert main(["show", str(folder), "--html"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "reference chain-stride2 - 8 0.9" in printed  # in the table of the rounds
    scores = ", ".join(f"{score:.4f}" for score in search.final()[0]["scores"])
    mean = final.mean_score(search.final()[0])
    assert " ± 0.0" in mean
    assert f"chain-stride2 2 {mean} {scores} 9,000 700" in printed
    assert "The reference chain-stride2 is the result: the best network found is " in printed
    assert "the reference chain-stride2, which has no cell" in printed
    assert "leaf" not in printed


def test_show_checks_before_it_writes(tmp_path, capsys):
    search = ShrinkSearch(kas.Cell.dense(("input", "conv1x1")))
    (tmp_path / "oracle.json").write_text(json.dumps({"search": search.to_json()}))
    line = refused(capsys, f"show {tmp_path} --html --tensorboard")
    assert "has not finished a round yet" in line
    assert [path.name for path in tmp_path.iterdir()] == ["oracle.json"]


# Refusals


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """Everything that a user could name and should not have."""
    folder = tmp_path_factory.mktemp("bad")
    values, labels = np.zeros((4, 8, 8, 1), "float32"), np.array([0, 1, 0, 1])
    np.savez(folder / "labels.npz", x_train=values, y_train=labels - 1)
    (folder / "corrupt.keras").write_bytes(b"PK\x03\x04 not a zip")
    network = {"input_shape": (4, 4, 1), "classes": 2}
    chain = kas.Architecture({**network, "filters": (4, 4, 4, 4), "stem_stride": 1}, "chain")
    (folder / "chain.json").write_text(json.dumps(chain.to_json()))
    flat = kas.Architecture({**network, "input_shape": (4, 4)})
    (folder / "flat.json").write_text(json.dumps(flat.to_json()))
    folders = ("classes/a", "classes/b", "parts/train", "parts/test")
    for name in ("empty", *folders, "damaged", "folder.keras"):
        (folder / name).mkdir(parents=True)
    (folder / "damaged" / "oracle.json").write_text('{"search": {"cell"')
    return folder


TO = "--output m.keras"


@pytest.mark.parametrize(
    ("command", "culprit"),
    [
        # The command line.
        ("", "COMMAND"),
        ("serch", "'serch'"),
        ("search --nodes many", "--nodes: 'many' is no whole number"),
        ("search --candidates 0", "--candidates: '0' is no whole number"),
        ("search --learning-rate nan", "--learning-rate: 'nan' is no number greater than 0"),
        ("search --minutes 0", "--minutes: '0' is no number greater than 0"),
        ("search --task text --minutes soon", "--minutes: 'soon' is no number greater than 0"),
        ("search --over", "unrecognized arguments: --over"),
        ("design digits --target-kb -1", "--target-kb: '-1' is no number greater than 0"),
        ("search --target-macs 1M --target-params 9K", "not allowed with argument --target-macs"),
        ("search --distribution-strategy multiworker", "invalid choice: 'multiworker'"),
        (f"train shrinkcnn {TO} --target-macs many", "--target-macs: 'many'"),
        (f"train shrinkcnn {TO} --target-macs 1M --width 1", "not allowed with"),
        (f"train shrinkcnn {TO} --recipe small", "'small'"),
        ("train shrinkcnn --output m.h5", "m.h5: must end in .keras"),
        ("train shrinkcnn --output folder.keras", "folder.keras: is a folder"),
        (f"train shrinkcnn {TO} --tensorboard corrupt.keras", "corrupt.keras: is a file"),
        ("export corrupt.keras --quantization int4", "'int4'"),
        ("export corrupt.keras --quantization int8 --max-accuracy-drop 0", "not allowed with"),
        # What is for the other task.
        ("search --units 8", "--units: is for text, this is images"),
        (f"train shrinkcnn {TO} --vocabulary-size 8", "--vocabulary-size: is for text"),
        (f"train chain.json {TO} --vocabulary-size 8", "--vocabulary-size: is for text"),
        ("search --task text --target-kb 9", "--target-kb: is for images, this is text"),
        # Values.
        ("search --target-macs 10", "target_macs=10: the smallest"),
        ("design digits", "one of the arguments --target-macs"),
        ("design digits --target-macs 10", "target_macs=10: the smallest"),
        ("design classes --target-macs 1M", "no images"),
        ("search --proxy-images 333 100", "digits: train: 333 images cannot"),
        (f"train shrinkcnn {TO} --target-macs 10", "target_macs=10"),
        (f"train shrinkcnn {TO} --distribution-strategy multiworker", "TF_CONFIG has to name"),
        (f"train shrinkcnn {TO} --recipe imagenet", "recipe changes colours"),
        # Data.
        ("search --dataset classes", "no images"),
        ("search --dataset parts", "parts/train: expected two or more folders, one a class; found"),
        ("search --directory labels.npz/runs", "cannot be created"),
        (f"train shrinkcnn {TO} --dataset imagenet2012 --data-dir empty", "cannot be opened in"),
        # Cells, searches and models.
        (f"train empty {TO}", "empty: holds no search"),
        (f"train flat.json {TO}", "flat.json: input_shape=(4, 4): expected (height,"),
        (f"train chain.json {TO}", "4x4x1 in 2 classes takes no images of shape 8x8x1 in 10"),
        ("show corrupt.keras", "corrupt.keras"),
        ("show damaged --html", "damaged"),
        ("show chain.json --picture c.png", "--picture: the network of chain.json is a reference"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(bad, monkeypatch, capsys, command, culprit):
    monkeypatch.chdir(bad)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    before = listing(bad)
    assert culprit in refused(capsys, command)
    assert listing(bad) == before


@pytest.mark.parametrize(
    "command", ["demo", "design", "search", "train", "export", "generate", "show"]
)
def test_help_shows_an_example_and_the_way_to_the_other_task(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    end = capsys.readouterr().out.partition("example: ")[2].splitlines()
    assert end[0].startswith(f"autoshrink {command} ")
    assert len(end) == (1 if command in ("generate", "show") else 2)
