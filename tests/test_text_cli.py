"""The command on texts as people use it; trainings are as small as they can be."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial

import keras
import numpy as np
import pytest
from forked import KILLED, outcome
from refusals import refused

import keras_autoshrink as kas
import tflite_export
from keras_autoshrink.commands import demo
from keras_autoshrink.commands import generate as generation
from keras_autoshrink.commands import text as text_commands
from keras_autoshrink.commands.cli import main
from keras_autoshrink.commands.generate import vocabulary_path
from keras_autoshrink.data.text import END, UNKNOWN, load_text
from keras_autoshrink.training import checkpoint
from keras_autoshrink.training.recipes import TEXT_RECIPES

SEARCH = (
    "search --task text --strategy paper --nodes 3 --candidates 2 --epochs 1 --units 8 "
    "--batch-size 4 --steps 5"
)
TRAIN = "--epochs 4 --units 12 --batch-size 4"
QUANTIZATIONS = ("float32", "dynamic", "int8")


def sentences(count, seed, strangers=()):
    """Short ones of a small grammar; strangers stand for some of its animals."""
    rng = np.random.default_rng(seed)
    animals, verbs, colours = (
        words.split() for words in ("cat dog bird fish", "sees likes chases", "big small red")
    )
    for number in range(count):
        first, second = rng.choice(animals, 2)
        if strangers and number % 5 == 0:
            first = strangers[number // 5 % len(strangers)]
        yield f"the {rng.choice(colours)} {first} {rng.choice(verbs)} the {second} ."


def write_text(folder, count=250):
    folder.mkdir(parents=True)
    for seed, (name, number, strangers) in enumerate(
        (("train", count, ()), ("valid", 60, ("cow", "horse")), ("test", 60, ("sheep",)))
    ):
        lines = "\n".join(sentences(number, seed, strangers))
        (folder / f"{name}.txt").write_text(f"{lines}\n")
    return folder


def tokens_of(path, vocabulary):
    """The numbers of a file's words, by the lines of a model's vocabulary file."""
    words = [word for line in path.read_text().splitlines() for word in (*line.split(), END)]
    unknown = vocabulary.index(UNKNOWN)
    return np.array(
        [vocabulary.index(word) if word in vocabulary else unknown for word in words], np.int32
    )


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder with a text. Some words are in its validation and test parts only."""
    return write_text(tmp_path_factory.mktemp("data") / "animals")


@pytest.fixture(scope="module")
def run_folder(text, tmp_path_factory):
    """A finished search of a text that was named relative to the folder of then."""
    directory = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(text.parent)
        assert main([*SEARCH.split(), "--data-dir", text.name, "--directory", str(directory)]) == 0
    return directory / "animals"


@pytest.fixture(scope="module")
def trained(run_folder, tmp_path_factory):
    """A network of the cell found, trained on the text of the search."""
    path = tmp_path_factory.mktemp("trained") / "lm.keras"
    assert main(f"train {run_folder} {TRAIN} --output {path} --quiet".split()) == 0
    return path


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """What `export` printed, and the folder with its files and a copy of the model."""
    folder = tmp_path_factory.mktemp("exported")
    for path in trained.parent.iterdir():
        shutil.copy(path, folder)
    command = [
        sys.executable,
        "-m",
        "keras_autoshrink.commands.cli",
        "export",
        str(folder / "lm.keras"),
    ]
    done = subprocess.run(
        [*command, "--quantization", *QUANTIZATIONS], capture_output=True, text=True, cwd="/"
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout, folder


def listing(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def vocabulary_of(folder):
    return (folder / "lm.vocabulary.txt").read_text().splitlines()


# The search


def test_a_search_leaves_its_results(run_folder, text):
    records = json.loads((run_folder / "trajectory.json").read_text())
    assert [record["edges_left"] for record in records] == [3, 2, 1]
    best = max(records, key=lambda r: (r["score"], -r["edges_left"]))
    assert kas.Cell.load(run_folder / "cell.json") == kas.Cell.from_json(best["cell"]).prune()
    for name in ("cell.png", "trajectory.png"):
        assert (run_folder / name).read_bytes().startswith(b"\x89PNG")
    settings = json.loads((run_folder / "settings.json").read_text())
    lines = {part: len((text / f"{part}.txt").read_text().split()) for part in ("train", "valid")}
    assert settings.pop("checksum") == load_text(text, purpose="search").checksum
    assert settings == {
        "task": "text",
        "text": str(text),
        "vocabulary_size": None,
        "epochs": 1,
        # An end for each line.
        "tokens": [lines["train"] + 250, lines["valid"] + 60],
    }


def test_the_same_command_goes_on_and_says_what_it_reads(run_folder, text, capsys):
    before = listing(run_folder)
    command = f"{SEARCH} --data-dir {text} --directory {run_folder.parent}"
    capsys.readouterr()
    assert main(command.split()) == 0
    printed = capsys.readouterr().out
    assert "finished already" in printed
    assert (
        "valid.txt: 12 of 480 tokens (2 different words) are not in the vocabulary: read as <unk>"
        in printed
    )
    assert "train.txt: has no <unk>, so that nothing is learnt about it" in printed
    assert "test.txt" not in printed  # a search leaves it unread
    rows = [line.split() for line in printed.splitlines()]
    assert ["round", "removed", "edges", "score", "perplexity", "MACs", "params", "trained"] in rows
    trajectory = run_folder / "trajectory.json"
    assert trajectory.read_bytes() == before[trajectory]


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ("--epochs 2", "epochs=1, not 2"),
        ("--vocabulary-size 9", "vocabulary_size=None, not 9"),
        ("--units 9", "units=8, not 9"),
        ("--steps 6", "steps=5, not 6"),
        ("--batch-size 5", "batch_size=4, not 5"),
        ("--learning-rate 2", "learning_rate=20.0, not 2.0"),
        ("--candidates 3", "num_candidates=2, not 3"),
        ("--seed 1", "seed=0, not 1"),
        ("--data-dir {other}", "holds a search with text="),
    ],
)
def test_another_search_in_its_folder_is_refused(
    run_folder, text, tmp_path, capsys, change, culprit
):
    other = write_text(tmp_path / "animals")
    before = listing(run_folder)
    command = f"{SEARCH} --data-dir {text} --directory {run_folder.parent} {change}"
    line = refused(capsys, command.format(other=other))
    assert culprit in line
    assert "overwrite" in line
    assert listing(run_folder) == before


@pytest.mark.slow
def test_a_search_by_the_bayesian_strategy(text, tmp_path):
    command = f"{SEARCH} --data-dir {text} --directory {tmp_path} --strategy bayesian"
    assert main(f"{command} --max-candidates 4".split()) == 0
    records = json.loads((tmp_path / "animals" / "trajectory.json").read_text())
    assert sum(len(record["candidates"]) for record in records) == 4
    assert all("added_edges" in record for record in records)
    cell = kas.Cell.load(tmp_path / "animals" / "cell.json")
    best = max(records, key=lambda r: (r["score"], -r["edges_left"]))
    assert cell == kas.Cell.from_json(best["cell"]).prune()


def test_show_describes_a_search_of_a_text(run_folder, tmp_path, capsys):
    command = f"show {run_folder} --picture {tmp_path}/cell.png --html {tmp_path}/report.html"
    assert main(command.split()) == 0
    assert "perplexity (less is better)" in (tmp_path / "report.html").read_text()
    printed = capsys.readouterr().out
    assert "chosen" in printed
    cell = kas.Cell.load(run_folder / "cell.json")
    assert f"cell with {len(cell.edges)} edges" in printed
    for number, op in enumerate(cell.ops):
        drawn = printed.partition("cell with")[2].replace("│", " ")
        assert [str(number), op] in [line.split()[:2] for line in drawn.splitlines()]
    assert (tmp_path / "cell.png").read_bytes().startswith(b"\x89PNG")
    assert main(["show", "shrinkrnn"]) == 0
    assert "cell with 12 edges" in capsys.readouterr().out


# The training


def perplexity(model, tokens):
    """Of a text that is read from end to end, computed here."""
    logits = keras.ops.convert_to_numpy(model(tokens[None, :-1]))[0].astype("float64")
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return np.exp(-log_probabilities[np.arange(len(tokens) - 1), tokens[1:]].mean())


def test_train_writes_the_model_and_what_its_user_must_know(trained, run_folder, text):
    names = ["lm.keras", "lm.keras.json", "lm.vocabulary.txt"]
    assert sorted(path.name for path in trained.parent.iterdir()) == names
    facts = json.loads(trained.with_name("lm.keras.json").read_text())
    words = vocabulary_of(trained.parent)
    in_text = {*(text / "train.txt").read_text().split()}
    assert len(words) == len(set(words)) == facts["vocabulary"]
    assert set(words) == in_text | {UNKNOWN, END}
    model = tflite_export.load_model(trained)
    cell = kas.Cell.load(run_folder / "cell.json")
    # W0, a matrix for each edge, the softmax; the parameters have its bias too.
    macs = 24 * 24 + len(cell.edges) * 12 * 24 + 12 * len(words)
    assert (facts["macs"], facts["params"]) == (macs, macs + len(words))
    for part, name in (("validation", "valid.txt"), ("test", "test.txt")):
        measured = perplexity(model, tokens_of(text / name, words))
        assert facts[f"{part}_perplexity"] == pytest.approx(measured, rel=1e-5)
        assert 1 < measured < 6  # of 14 words, most are known from those before
    expected = {
        "task": "text",
        "text": str(text),  # that of the search
        "vocabulary_size": None,
        "tokens": len(tokens_of(text / "train.txt", words)),
        "units": 12,
        "seed": 0,
        "epochs": 4,
        "batch_size": 4,
        "learning_rate": TEXT_RECIPES["small"].learning_rate,
        "steps": 35,
        "cell": json.loads((run_folder / "cell.json").read_text()),
    }
    assert {name: facts[name] for name in expected} == expected
    assert {len(curve) for curve in facts["history"].values()} == {4}


def killed_in_training(arguments):
    """A training of four epochs could end before it is killed: it stops after the first."""
    write = checkpoint.TrainingCheckpoint._write

    def die(self, folder):
        write(self, folder)
        os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.TrainingCheckpoint._write = die
    main(arguments)


@pytest.mark.slow
def test_a_training_that_is_killed_goes_on(trained, run_folder, tmp_path, capsys):
    arguments = f"train {run_folder} {TRAIN} --output {tmp_path}/lm.keras --quiet".split()
    assert outcome(killed_in_training, arguments) == KILLED
    assert [path.name for path in tmp_path.iterdir()] == ["lm.keras.training"]
    line = refused(capsys, [*arguments, "--learning-rate", "3"])
    theirs = kas.TEXT_RECIPES["small"].learning_rate
    assert f"unfinished training with learning_rate={theirs}, not 3.0" in line
    assert main(arguments) == 0
    assert "going on after epoch 1 of 4" in capsys.readouterr().out
    ours, theirs = (tflite_export.load_model(path) for path in (tmp_path / "lm.keras", trained))
    for weight, expected in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    for name in ("lm.keras.json", "lm.vocabulary.txt"):
        assert (tmp_path / name).read_bytes() == trained.with_name(name).read_bytes()
    assert len(list(tmp_path.iterdir())) == 3


def test_the_same_training_is_not_repeated(trained, run_folder, capsys):
    before = listing(trained.parent)
    command = f"train {run_folder} {TRAIN} --output {trained}"
    assert main(command.split()) == 0
    assert "lm.keras has been trained like this already" in capsys.readouterr().out
    line = refused(capsys, f"{command} --units 13")
    assert "lm.keras: is there already, with units=12, not 13; take" in line
    assert listing(trained.parent) == before


def test_the_vocabulary_of_the_search_is_that_of_all_that_follows(run_folder, tmp_path, capsys):
    shutil.copytree(run_folder, tmp_path / "run")
    settings = json.loads((run_folder / "settings.json").read_text())
    (tmp_path / "run" / "settings.json").write_text(json.dumps({**settings, "vocabulary_size": 9}))
    command = f"train {tmp_path}/run/cell.json --epochs 1 --units 4 --batch-size 50"
    assert main(f"{command} --output {tmp_path}/new/deep/lm.keras".split()) == 0
    folder = tmp_path / "new" / "deep"
    assert len(vocabulary_of(folder)) == 9
    assert json.loads((folder / "lm.keras.json").read_text())["vocabulary_size"] == 9
    printed = capsys.readouterr().out
    assert "train.txt: " in printed  # its rarest words are unknown
    assert "has no <unk>" not in printed
    data = text_commands.load(
        text_commands._source(
            main_options("export", f"{folder}/lm.keras"),
            json.loads((folder / "lm.keras.json").read_text()),
        ),
        "train",
    )
    assert list(data.vocabulary.words) == vocabulary_of(folder)


def main_options(*arguments):
    from keras_autoshrink.commands.arguments import build_parser

    return build_parser().parse_args(arguments)


@pytest.mark.slow
def test_a_text_that_has_changed_since_the_search_is_noted(run_folder, text, tmp_path, capsys):
    shutil.copytree(text, tmp_path / "animals")
    shutil.copytree(run_folder, tmp_path / "run")
    path = tmp_path / "run" / "settings.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "text": str(tmp_path / "animals")}))
    command = f"train {tmp_path}/run --units 4 --epochs 1 --batch-size 50 --output {tmp_path}/"
    note = f"{tmp_path}/animals: is not as it was when the cell was searched for\n"
    assert main(f"{command}same.keras".split()) == 0
    assert note not in capsys.readouterr().out
    train = tmp_path / "animals" / "train.txt"
    train.write_text("".join(f"{line}\n" for line in reversed(train.read_text().splitlines())))
    assert main(f"{command}changed.keras".split()) == 0
    assert note in capsys.readouterr().out
    # Another text is named on purpose.
    assert main(f"{command}other.keras --data-dir {text}".split()) == 0
    assert "is not as it was" not in capsys.readouterr().out


# The files


def test_export_ends_with_a_table_of_equal_macs(exported, trained):
    printed, folder = exported
    rows = {" ".join(line.split()[:-3]): line.split()[-3:] for line in printed.splitlines()}
    facts = json.loads(trained.with_name("lm.keras.json").read_text())
    macs = f"{facts['macs']:,}"
    assert rows["file"] == [f"lm.{quantization}.tflite" for quantization in QUANTIZATIONS]
    assert rows["MACs in model"] == rows["MACs in file"] == [macs] * 3
    assert rows["MACs equal"] == ["yes"] * 3
    assert rows["same continuation"][0] == rows["same argmax"][0] == "1.0000"
    # The whole test text is read: its perplexity is that of the training.
    perplexities = [float(value) for value in rows["file perplexity"]]
    assert rows["model perplexity"] == [f"{facts['test_perplexity']:.2f}"] * 3
    assert perplexities == pytest.approx([facts["test_perplexity"]] * 3, rel=0.05)
    assert perplexities[0] == pytest.approx(facts["test_perplexity"], abs=0.006)
    for row in ("median ms, 1 thread", "p95 ms, 2 threads"):
        assert all(float(ms) > 0 for ms in rows[row])
    assert "multiply-accumulates for one token" in printed
    assert "test.txt: 12 of 480 tokens (1 different word) are not in the vocabulary" in printed
    names = {"lm.keras", "lm.keras.json", "lm.vocabulary.txt"}
    assert {path.name for path in folder.iterdir()} == names | {*rows["file"]}
    assert vocabulary_of(folder) == vocabulary_of(trained.parent)
    assert tflite_export.describe(folder / "lm.int8.tflite").quantization == "int8"


def test_export_exits_with_1_where_the_macs_differ(trained, tmp_path, monkeypatch, capsys):
    # No converter loses MACs on demand: miscount the model instead.
    monkeypatch.setattr(text_commands, "count_macs", lambda model: kas.count_macs(model) + 1)
    command = f"export {trained} --output-dir {tmp_path}/new --quantization float32"
    assert main(command.split()) == 1
    assert "its MACs are not those of the model" in capsys.readouterr().out
    names = ["lm.float32.tflite", "lm.vocabulary.txt"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names


def test_export_checks_the_beginning_of_a_long_text_and_says_so(
    trained, text, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(text_commands, "_CHECKED", 100)
    command = f"export {trained} --output-dir {tmp_path}/new --quantization float32"
    assert main(command.split()) == 0
    printed = capsys.readouterr().out
    assert "checking on the first 100 of 480 words of the test\n" in printed
    words = vocabulary_of(trained.parent)
    first = tokens_of(text / "test.txt", words)[:100]
    measured = f"{perplexity(tflite_export.load_model(trained), first):.2f}"
    rows = {" ".join(line.split()[:-1]): line.split()[-1:] for line in printed.splitlines()}
    assert rows["model perplexity"] == [measured]
    whole = json.loads(trained.with_name("lm.keras.json").read_text())["test_perplexity"]
    assert measured != f"{whole:.2f}"


@pytest.mark.slow
@pytest.mark.parametrize("words", [1, 7])
def test_a_model_of_a_very_short_test_text_is_exported(text, tmp_path, capsys, words):
    shutil.copytree(text, tmp_path / "short")
    (tmp_path / "short" / "test.txt").write_text("the " * words)
    train = f"train shrinkrnn --data-dir {tmp_path}/short --units 4 --epochs 1 --batch-size 50"
    assert main(f"{train} --output {tmp_path}/lm.keras --quiet".split()) == 0
    capsys.readouterr()
    # Of one word and the end of its line, one is predicted.
    assert main(f"export {tmp_path}/lm.keras --quantization float32".split()) == 0
    printed = capsys.readouterr().out
    assert "checking on the first" not in printed
    facts = json.loads((tmp_path / "lm.keras.json").read_text())
    rows = {" ".join(line.split()[:-1]): line.split()[-1:] for line in printed.splitlines()}
    assert rows["model perplexity"] == [f"{facts['test_perplexity']:,.2f}"]
    assert rows["same continuation"] == ["1.0000"]


# Its continuations


def continuation(trained, prompt, words):
    """By the Keras model, which reads all that is there anew for each word."""
    vocabulary = vocabulary_of(trained.parent)
    model = tflite_export.load_model(trained)
    text = prompt.split()
    for _ in range(words):
        unknown = vocabulary.index(UNKNOWN)
        tokens = [
            vocabulary.index(word) if word in vocabulary else unknown for word in (END, *text)
        ]
        logits = keras.ops.convert_to_numpy(model(np.array([tokens], np.int32)))
        text.append(vocabulary[int(logits[0, -1].argmax())])
    # The end of a line ends a line.
    return " ".join(text).replace(f" {END} ", "\n").removesuffix(f" {END}").strip()


def generate(*arguments):
    """Runs it in a process of its own, which ends with what it has loaded of Keras."""
    code = (
        "import sys; from keras_autoshrink.commands.cli import main; status = main(sys.argv[1:]);"
        "print({'tensorflow', 'keras', 'keras_tuner', 'jax', 'torch'} & {*sys.modules});"
        "sys.exit(status)"
    )
    command = [sys.executable, "-c", code, "generate", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    *lines, loaded = done.stdout.splitlines()
    assert loaded == "set()"
    return "\n".join(lines).strip(), done.stderr


def test_generate_takes_litert_alone_and_writes_as_the_model_does(exported, trained):
    _, folder = exported
    printed, errors = generate(folder / "lm.float32.tflite", "the big", "--words", 17)
    assert printed == continuation(trained, "the big", 17)
    assert printed.startswith("the big ")
    assert printed.count("\n") >= 1
    assert errors == ""
    # A vocabulary that lies elsewhere, and 20 words.
    shutil.copy(folder / "lm.int8.tflite", folder.parent / "moved.tflite")
    printed, _ = generate(
        folder.parent / "moved.tflite", "a", "--vocabulary", folder / "lm.vocabulary.txt"
    )
    assert len([*printed.split(), *printed.splitlines()[1:]]) in (20, 21)


def test_generate_says_which_words_it_does_not_know(exported, trained, monkeypatch, capsys):
    _, folder = exported
    prompts = []
    run = generation.continue_text
    monkeypatch.setattr(
        generation, "continue_text", lambda *given: prompts.append(given[1]) or run(*given)
    )
    prompt = "the cow likes the zebra and the cow"
    assert main(["generate", f"{folder}/lm.float32.tflite", prompt, "--words", "6"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "not in the vocabulary, read as <unk>: cow, zebra, and\n"
    assert captured.out.strip() == continuation(trained, prompt, 6)
    # The text begins a line: it comes behind the end of one.
    vocabulary = vocabulary_of(folder)
    read = [END, "the", UNKNOWN, "likes", "the", UNKNOWN, UNKNOWN, "the", UNKNOWN]
    assert prompts == [[vocabulary.index(word) for word in read]]


def test_generate_prints_the_prompt_as_it_is(exported, capsys):
    _, folder = exported
    assert main(["generate", f"{folder}/lm.float32.tflite", "the :dog:", "--words", "1"]) == 0
    assert capsys.readouterr().out.startswith("the :dog: ")


def test_generate_goes_on_from_nothing(exported, trained, capsys):
    _, folder = exported
    assert main(["generate", f"{folder}/lm.float32.tflite", "", "--words", "30"]) == 0
    printed = capsys.readouterr().out
    expected = continuation(trained, "", 30)
    assert printed.strip() == expected
    assert "\n" in expected  # an end of a line is among the words
    assert END not in printed


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("lm.keras", "lm.vocabulary.txt"),
        ("lm.int8.keras", "lm.int8.vocabulary.txt"),
        ("lm.int8.tflite", "lm.vocabulary.txt"),
        ("a.int8.float32.tflite", "a.int8.vocabulary.txt"),
        ("lm.tflite", "lm.vocabulary.txt"),
        ("lm.v2.tflite", "lm.v2.vocabulary.txt"),
    ],
)
def test_where_the_words_of_a_model_are(tmp_path, model, words):
    assert vocabulary_path(tmp_path / model) == tmp_path / words


# Refusals


@pytest.fixture(scope="module")
def bad(text, exported, tmp_path_factory):
    """Everything that a user could name and should not have."""
    folder = tmp_path_factory.mktemp("bad")
    for name in ("empty", "latin1", "absent", "short", "other"):
        shutil.copytree(text, folder / name)
    (folder / "empty" / "valid.txt").write_text("\n \n")
    (folder / "latin1" / "train.txt").write_bytes("the small caf\xe9 .\n".encode("latin-1"))
    (folder / "absent" / "valid.txt").unlink()
    (folder / "short" / "train.txt").write_text("the dog sees .\n" * 5)
    (folder / "other" / "train.txt").write_text("the dog sees a cat or a cow .\n" * 200)
    for name in ("lm.keras", "lm.keras.json", "lm.float32.tflite"):
        shutil.copy(exported[1] / name, folder)
    words = vocabulary_of(exported[1])
    (folder / "few.txt").write_text("".join(f"{word}\n" for word in words if word != "dog"))
    (folder / "cut.txt").write_text("\n".join(words))
    image = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    tflite_export.convert(image, folder / "image.tflite")
    return folder


ON = "search --task text --directory {tmp}/runs --data-dir"
KERAS = "--output {tmp}/m.keras"


@pytest.mark.parametrize(
    ("command", "culprit"),
    [
        # What is for the other task.
        ("search --task text --directory {tmp} --filters 4", "--filters: is for images, this is"),
        ("search --task text --directory {tmp} --dataset digits", "--dataset: is for images"),
        ("search --task text --directory {tmp} --mac-weight 1", "--mac-weight: is for images"),
        ("search --task text --directory {tmp} --race", "--race: is for images, this is text"),
        ("search --task text --directory {tmp} --inherit", "--inherit: is for images"),
        (
            "search --task text --directory {tmp} --strategy paper --max-candidates 5",
            "--max-candidates 5: is for --strategy bayesian",
        ),
        ("search --task text --directory {tmp} --proxy-images 5 5", "--proxy-images: is for im"),
        ("search --directory {tmp} --units 8", "--units: is for text, this is images"),
        ("search --directory {tmp} --steps 8", "--steps: is for text, this is images"),
        ("search --directory {tmp} --vocabulary-size 8", "--vocabulary-size: is for text"),
        ("search --task music", "'music'"),
        # The digits come with scikit-learn.
        (
            "search --directory {tmp} --data-dir {bad}",
            "--data-dir {bad}: is where tensorflow-datasets keeps its data, of which 'digits' is",
        ),
        (f"train shrinkcnn {KERAS} --dataset digits --data-dir {{bad}}", "--data-dir {bad}: is wh"),
        (f"train shrinkrnn {KERAS} --width 0.5", "--width: is for images, this is text"),
        (f"train shrinkrnn {KERAS} --target-macs 1M", "--target-macs: is for images"),
        (f"train shrinkrnn {KERAS} --ema 0.9", "--ema: is for images, this is text"),
        (f"train shrinkrnn {KERAS} --activation swish", "--activation: is for images"),
        (
            f"train shrinkrnn {KERAS} --distribution-strategy mirrored",
            "--distribution-strategy: is for images",
        ),
        (f"train shrinkrnn {KERAS} --recipe cifar10", "--recipe cifar10: is for images; for text"),
        (f"train shrinkcnn {KERAS} --units 8", "--units: is for text, this is images"),
        (
            f"train shrinkcnn {KERAS} --recipe small",
            "--recipe small: is for text",
        ),
        ("export {bad}/lm.keras --output-dir {tmp}/new --dataset digits", "--dataset: is for im"),
        (
            "export {bad}/lm.keras --output-dir {tmp}/new --max-accuracy-drop 0.01",
            "--max-accuracy-drop: is for images, this is text",
        ),
        ("export {bad}/lm.keras --output-dir {tmp}/new --prune 0.5", "--prune: is for images"),
        ("export {bad}/lm.keras --output-dir {tmp}/new --qat", "--qat: is for images, this is"),
        # Values.
        (ON + " {bad}/short --nodes 1", "num_nodes=1"),
        (ON + " {bad}/short --vocabulary-size 2", "vocabulary_size=2: expected 3 or more"),
        (ON + " {bad}/short --units 0", "--units: '0' is no whole number"),
        (f"train shrinkrnn {KERAS} --batch-size 0", "--batch-size: '0' is no whole number"),
        # Texts.
        (ON + " {bad}/nowhere", "nowhere: no such folder"),
        (ON + " {bad}/few.txt", "few.txt: is a file"),
        (ON + " {bad}/absent", "absent: has no valid.txt"),
        (ON + " {bad}/empty", "empty/valid.txt: has no words in it"),
        (ON + " {bad}/latin1", "latin1/train.txt: is not UTF-8 (at byte 13)"),
        (f"train shrinkrnn {KERAS} --data-dir {{bad}}/nowhere", "nowhere: no such folder"),
        (f"train shrinkrnn {KERAS} --data-dir {{bad}}/empty", "valid.txt: has no words in it"),
        (f"train shrinkrnn {KERAS} --data-dir {{bad}}/latin1", "train.txt: is not UTF-8"),
        (f"train shrinkrnn {KERAS} --data-dir {{bad}}/short --units 4", "25 tokens: one window"),
        (
            ON + " {bad}/short --units 4",
            "25 tokens: one window of 35 steps in each of 128 streams takes 4,481; lower batch",
        ),
        (
            "export {bad}/lm.keras --output-dir {tmp}/new --data-dir {bad}/nowhere",
            "nowhere: no such folder",
        ),
        # Files of models, and of their words.
        ("generate {bad}/absent.tflite the", "absent.tflite: "),
        ("generate {bad}/lm.keras the", "lm.keras: not a .tflite file"),
        ("generate {bad}/image.tflite the", "image.tflite: not a language model's file: its inp"),
        ("generate {bad}/lm.float32.tflite the", "lm.vocabulary.txt: no such file; name the model"),
        (
            "generate {bad}/lm.float32.tflite the --vocabulary {bad}/few.txt",
            "few.txt: has 13 words, {bad}/lm.float32.tflite 14; they do not belong together",
        ),
        ("generate {bad}/lm.float32.tflite the --vocabulary {bad}/cut.txt", "cut.txt: no vocab"),
        ("generate {bad}/lm.float32.tflite the --words 0", "--words: '0' is no whole number"),
        ("generate {bad}/lm.float32.tflite", "TEXT"),
    ],
)
def test_what_is_refused_is_named_and_leaves_nothing(bad, tmp_path, capsys, command, culprit):
    before = listing(bad)
    line = refused(capsys, command.format(tmp=tmp_path, bad=bad))
    assert culprit.format(bad=bad) in line
    assert not list(tmp_path.iterdir())
    assert listing(bad) == before


def test_a_text_of_another_number_of_words_is_refused(bad, exported, tmp_path, capsys):
    command = f"export {exported[1]}/lm.keras --data-dir {bad}/other --quantization float32"
    before = listing(exported[1])
    line = refused(capsys, command)
    assert "lm.keras: was trained on another text than" in line
    assert listing(exported[1]) == before


def test_a_text_of_other_words_is_refused(text, trained, tmp_path, capsys):
    for path in trained.parent.iterdir():
        shutil.copy(path, tmp_path)
    shutil.copytree(text, tmp_path / "other")
    for path in (tmp_path / "other").iterdir():
        path.write_text(path.read_text().replace("dog", "cow"))
    before = listing(tmp_path)
    line = refused(
        capsys,
        f"export {tmp_path}/lm.keras --data-dir {tmp_path}/other --quantization float32",
    )
    assert "lm.keras: was trained on another text than" in line
    assert listing(tmp_path) == before


def test_a_search_that_could_not_begin_is_begun_otherwise(text, tmp_path, capsys):
    command = f"search --task text --data-dir {text} --directory {tmp_path} --nodes 2 --units 4"
    assert "lower batch_size or steps" in refused(capsys, command)
    assert main(f"{command} --batch-size 4 --epochs 1 --quiet".split()) == 0


# The demo


@pytest.mark.slow
def test_the_demo(text, tmp_path, monkeypatch, capsys):
    recipe = dataclasses.replace(TEXT_RECIPES["small"], epochs=2, batch_size=4)
    small = {"_NODES": 3, "_UNITS": 8, "_SEARCH_EPOCHS": 1, "_RECIPE": recipe, "_WORDS": 4}
    for name, value in small.items():
        monkeypatch.setattr(demo, name, value)
    # One round after the first.
    monkeypatch.setattr(demo, "AutoShrink", partial(kas.AutoShrink, keep_fraction=0.6))
    load = kas.load_text
    monkeypatch.setattr(text_commands, "load_text", lambda source, **how: load(text, **how))
    assert main(["demo", "--task", "text", "--directory", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "found / complete" in printed
    for name in ("found", "complete"):
        for suffix in ("keras", "keras.json", "vocabulary.txt", "float32.tflite", "int8.tflite"):
            assert (tmp_path / f"{name}.{suffix}").exists()
    facts = [
        json.loads((tmp_path / f"{name}.keras.json").read_text()) for name in ("found", "complete")
    ]
    costs = [each["macs"] for each in facts]
    rows = {" ".join(line.split()[:3]): line.split()[3:] for line in printed.splitlines()}
    assert rows["MACs for a"] == ["word", *map(str, costs), f"{costs[0] / costs[1]:.2f}"]
    assert facts[0]["cell"] == json.loads((tmp_path / "search" / "cell.json").read_text())
    assert len(facts[1]["cell"]["edges"]) == 3
    goes_on = next(line for line in printed.splitlines() if " goes on: " in line)
    words = goes_on.partition(" goes on: ")[2].split()
    assert words[:4] == ["the", "value", "of", "the"]
    assert len(words) == 8
    assert (tmp_path / "search" / "trajectory.png").exists()
