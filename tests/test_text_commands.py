"""The commands on texts as people use them; what is trained is as small as it can be."""

import contextlib
import dataclasses
import functools
import io
import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from reading import logits_of, perplexity_of
from refusals import refused

import keras_autoshrink as kas
import tflite_export
from keras_autoshrink.commands import demo, pipeline
from keras_autoshrink.commands import generate as generation
from keras_autoshrink.commands import text as text_commands
from keras_autoshrink.commands.cli import main
from keras_autoshrink.commands.generate import vocabulary_path
from keras_autoshrink.data.text import END, UNKNOWN, load_text
from keras_autoshrink.report import saved_search
from keras_autoshrink.training.recipes import TEXT_RECIPES

SEARCH = (
    "--task text --nodes 3 --candidates 2 --max-candidates 2 --epochs 1 --units 8 --batch-size 4 "
    "--steps 5"
)
TRAIN = "--epochs 4 --units 12 --batch-size 4"
QUANTIZATIONS = ("float32", "int8")
PROMPT = "the big"


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
        (("train", count, ()), ("valid", 30, ("cow", "horse")), ("test", 30, ("sheep",)))
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
def shown(text, tmp_path_factory):
    """The demo of the text, named relative to the folder of then: its folder and what it printed.

    Its search, networks and files are what the other tests look at.
    """
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(text.parent)
        patch.setattr(demo, "_SEARCH", f"{SEARCH} --data-dir {text.name}")
        patch.setattr(demo, "_TRAIN", TRAIN)
        patch.setattr(demo, "_EXPORT", f"--quantization {' '.join(QUANTIZATIONS)}")
        patch.setattr(demo, "_PROMPT", PROMPT)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main(["demo", "--task", "text", "--directory", str(folder)]) in (0, 1)
    return folder, printed.getvalue()


@pytest.fixture(scope="module")
def folder(shown):
    return shown[0]


@pytest.fixture(scope="module")
def run_folder(folder):
    return folder / "search"


@pytest.fixture(scope="module")
def trained(folder):
    """The network of the cell found."""
    return folder / "found.keras"


@pytest.fixture
def jobs(monkeypatch):
    """The trainings that commands begin, of which none takes place."""
    begun = []
    monkeypatch.setattr(pipeline, "train_and_save", begun.append)
    return begun


def listing(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


loaded = functools.cache(tflite_export.load_model)


def vocabulary_of(folder):
    return (folder / "found.vocabulary.txt").read_text().splitlines()


def test_the_demo_compares_two_networks_and_continues_a_text(shown, trained):
    folder, printed = shown
    costs = [saved_search.read_facts(folder / f"{n}.keras")["macs"] for n in ("found", "complete")]
    rows = {" ".join(line.split()[:-3]): line.split()[-3:] for line in printed.splitlines()}
    assert rows["MACs for one word"] == [
        *(f"{cost:,}" for cost in costs),
        f"{costs[0] / costs[1]:.2f}",
    ]
    complete = saved_search.read_facts(folder / "complete.keras")["cell"]
    assert len(complete["edges"]) == 3
    command = f"$ autoshrink generate {folder}/found.float32.tflite '{PROMPT}'\n"
    continued = printed.partition(command)[2].rpartition("the demo took")[0]
    assert continued.strip() == continuation(trained, PROMPT, 20)


# The search


def test_a_search_records_its_text(run_folder, text):
    settings = saved_search.read_settings(run_folder)
    words = {part: len((text / f"{part}.txt").read_text().split()) for part in ("train", "valid")}
    assert settings.pop("checksum") == load_text(text, purpose="search").checksum
    assert settings.pop("argv")
    assert settings == {
        "task": "text",
        "text": str(text),
        "vocabulary_size": None,
        "epochs": 1,
        # An end for each line.
        "tokens": [words["train"] + 250, words["valid"] + 30],
    }


def test_the_same_command_goes_on_and_says_what_it_reads(run_folder, text, capsys):
    before = (run_folder / "trajectory.json").read_bytes()
    command = f"search {SEARCH} --data-dir {text} --directory {run_folder.parent}"
    capsys.readouterr()
    assert main([*command.split(), "--project-name", "search"]) == 0
    printed = capsys.readouterr().out
    assert "finished already" in printed
    assert (
        "valid.txt: 6 of 240 tokens (2 different words) are not in the vocabulary: read as <unk>"
        in printed
    )
    assert "train.txt: has no <unk>, so that nothing is learnt about it" in printed
    assert "test.txt" not in printed  # a search leaves it unread
    rows = [line.split() for line in printed.splitlines()]
    assert any({"edges", "score", "perplexity", "MACs"} <= {*row} for row in rows)
    assert (run_folder / "trajectory.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ("--vocabulary-size 9", "vocabulary_size=None, not 9"),
        ("--units 9", "units=8, not 9"),
        ("--steps 6", "steps=5, not 6"),
        ("--batch-size 5", "batch_size=4, not 5"),
        ("--learning-rate 2", "learning_rate=20.0, not 2.0"),
        ("--data-dir {other}", "holds a search with text="),
    ],
)
def test_another_search_in_its_folder_is_refused(
    run_folder, text, tmp_path, capsys, change, culprit
):
    other = write_text(tmp_path / "animals")
    command = f"search {SEARCH} --data-dir {text} --directory {run_folder.parent} {change}"
    line = refused(capsys, [*command.format(other=other).split(), "--project-name", "search"])
    assert culprit in line
    assert "overwrite" in line


def test_show_describes_a_search_of_a_text(run_folder, tmp_path, capsys):
    command = f"show {run_folder} --picture {tmp_path}/cell.png --html {tmp_path}/report.html"
    assert main(command.split()) == 0
    assert "perplexity (less is better)" in (tmp_path / "report.html").read_text()
    drawn = capsys.readouterr().out.partition("cell with")[2].replace("│", " ")
    # By their numbers in the rounds of the search.
    cell = kas.Cell.from_json(saved_search.read_search(run_folder).best()["cell"])
    for number in cell.reachable:
        assert [str(number), cell.ops[number]] in [line.split()[:2] for line in drawn.splitlines()]
    assert (tmp_path / "cell.png").read_bytes().startswith(b"\x89PNG")


# The training


def test_train_writes_the_model_and_what_its_user_must_know(trained, run_folder, text):
    facts = saved_search.read_facts(trained)
    words = vocabulary_of(trained.parent)
    in_text = {*(text / "train.txt").read_text().split()}
    assert len(words) == len(set(words)) == facts["vocabulary"]
    assert set(words) == in_text | {UNKNOWN, END}
    model = loaded(trained)
    cell = kas.Cell.load(run_folder / "cell.json")
    # W0, a matrix for each edge, the softmax; the parameters have its bias too.
    macs = 24 * 24 + len(cell.edges) * 12 * 24 + 12 * len(words)
    assert (facts["macs"], facts["params"]) == (macs, macs + len(words))
    for part, name in (("validation", "valid.txt"), ("test", "test.txt")):
        measured = perplexity_of(model, tokens_of(text / name, words))
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


def test_a_training_that_is_interrupted_goes_on(run_folder, trained, tmp_path, capsys):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    command = f"train {run_folder} {TRAIN} --output {tmp_path}/found.keras --quiet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.callbacks, "TensorBoard", lambda *_, **__: Interrupt())
        line = refused(capsys, f"{command} --tensorboard {tmp_path}/logs", status=130)
    assert "interrupted; run it again, without --overwrite, to go on" in line
    line = refused(capsys, f"{command} --learning-rate 3")
    theirs = TEXT_RECIPES["small"].learning_rate
    assert f"unfinished training with learning_rate={theirs}, not 3.0" in line
    assert main(command.split()) == 0
    assert "going on after epoch 1 of 4" in capsys.readouterr().out
    ours, theirs = (tflite_export.load_model(path) for path in (tmp_path / trained.name, trained))
    for weight, expected in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    for name in ("found.keras.json", "found.vocabulary.txt"):
        assert (tmp_path / name).read_bytes() == trained.with_name(name).read_bytes()
    assert not (tmp_path / "found.keras.training").exists()


def test_the_same_training_is_not_repeated(folder, trained, run_folder, capsys):
    before = listing(folder)
    command = f"train {run_folder} {TRAIN} --output {trained}"
    assert main(command.split()) == 0
    assert "found.keras has been trained like this already" in capsys.readouterr().out
    line = refused(capsys, f"{command} --units 13")
    assert "found.keras: is there already with units=12, not 13" in line
    assert listing(folder) == before


def test_options_and_the_vocabulary_of_the_search_reach_the_training(
    run_folder, tmp_path, jobs, capsys
):
    shutil.copytree(run_folder, tmp_path / "run")
    settings = saved_search.read_settings(run_folder)
    (tmp_path / "run" / "settings.json").write_text(json.dumps({**settings, "vocabulary_size": 9}))
    command = f"train {tmp_path}/run/cell.json --output {tmp_path}/new/lm.keras --seed 3"
    assert main(f"{command} --epochs 7 --batch-size 9 --learning-rate 0.5".split()) == 0
    assert main(f"{command} --recipe ptb --batch-size 4".split()) == 0
    small, ptb = jobs
    assert small.recipe == dataclasses.replace(
        TEXT_RECIPES["small"], epochs=7, batch_size=9, learning_rate=0.5
    )
    assert (small.units, ptb.units, small.seed) == (200, 745, 3)
    assert len(small.data.vocabulary) == small.settings()["vocabulary_size"] == 9
    assert "has no <unk>" not in capsys.readouterr().out  # its rarest words are unknown


def test_a_text_that_has_changed_since_the_search_is_noted(
    run_folder, text, tmp_path, jobs, capsys
):
    shutil.copytree(text, tmp_path / "animals")
    shutil.copytree(run_folder, tmp_path / "run")
    settings = {**saved_search.read_settings(run_folder), "text": str(tmp_path / "animals")}
    (tmp_path / "run" / "settings.json").write_text(json.dumps(settings))
    command = f"train {tmp_path}/run --batch-size 4 --output {tmp_path}/lm.keras"
    note = f"{tmp_path}/animals: is not as it was when the cell was searched for\n"
    assert main(command.split()) == 0
    assert note not in capsys.readouterr().out
    train = tmp_path / "animals" / "train.txt"
    train.write_text("".join(f"{line}\n" for line in reversed(train.read_text().splitlines())))
    assert main(command.split()) == 0
    assert note in capsys.readouterr().out
    # Another text is named on purpose.
    assert main(f"{command} --data-dir {text}".split()) == 0
    assert "is not as it was" not in capsys.readouterr().out


# The files


def test_export_ends_with_a_table_of_equal_macs(shown, trained):
    folder, printed = shown
    table = printed.partition("  file  ")[2].partition("$ ")[0]
    rows = {" ".join(line.split()[:-2]): line.split()[-2:] for line in table.splitlines()}
    facts = saved_search.read_facts(trained)
    assert rows["MACs in model"] == rows["MACs in file"] == [f"{facts['macs']:,}"] * 2
    assert rows["MACs equal"] == ["yes"] * 2
    assert rows["same continuation"][0] == rows["same argmax"][0] == "1.0000"
    # The whole test text is read: its perplexity is that of the training.
    perplexities = [float(value) for value in rows["file perplexity"]]
    assert rows["model perplexity"] == [f"{facts['test_perplexity']:.2f}"] * 2
    assert perplexities == pytest.approx([facts["test_perplexity"]] * 2, rel=0.05)
    assert perplexities[0] == pytest.approx(facts["test_perplexity"], abs=0.006)
    assert "multiply-accumulates for one token" in table
    assert "test.txt: 6 of 240 tokens (1 different word) are not in the vocabulary" in printed
    for kind in QUANTIZATIONS:
        assert (folder / f"found.{kind}.tflite").is_file()


def test_a_file_is_checked_on_the_beginning_of_a_long_text(
    trained, text, tmp_path, monkeypatch, capsys
):
    read = []

    def check(model, path, tokens, macs):
        read.append(tokens)
        raise RuntimeError("far enough")

    monkeypatch.setattr(text_commands, "_CHECKED", 100)
    monkeypatch.setattr(tflite_export, "convert", lambda *given, **options: None)
    monkeypatch.setattr(tflite_export, "check_language_model", check)
    command = f"export {trained} --output-dir {tmp_path}/new --quantization float32"
    with pytest.raises(SystemExit):
        main(command.split())
    assert "checking on the first 100 of 240 words of the test\n" in capsys.readouterr().out
    expected = tokens_of(text / "test.txt", vocabulary_of(trained.parent))[:100]
    np.testing.assert_array_equal(read[0], expected)


# Its continuations


def continuation(trained, prompt, words):
    """By the Keras model, which reads all that is there anew for each word."""
    vocabulary = vocabulary_of(trained.parent)
    model = loaded(trained)
    text = prompt.split()
    for _ in range(words):
        unknown = vocabulary.index(UNKNOWN)
        tokens = [
            vocabulary.index(word) if word in vocabulary else unknown for word in (END, *text)
        ]
        text.append(vocabulary[int(logits_of(model, tokens)[-1].argmax())])
    # The end of a line ends a line.
    return " ".join(text).replace(f" {END} ", "\n").removesuffix(f" {END}").strip()


def test_generate_takes_litert_alone_and_writes_as_the_model_does(folder, trained):
    # A process of its own ends with what it has loaded of Keras.
    code = (
        "import sys; from keras_autoshrink.commands.cli import main; status = main(sys.argv[1:]);"
        "print({'tensorflow', 'keras', 'keras_tuner', 'jax', 'torch'} & {*sys.modules});"
        "sys.exit(status)"
    )
    arguments = ["generate", folder / "found.float32.tflite", "the big", "--words", "9"]
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert (done.returncode, done.stderr) == (0, "")
    *lines, loaded = done.stdout.splitlines()
    assert loaded == "set()"
    assert "\n".join(lines).strip() == continuation(trained, "the big", 9)


def test_generate_says_which_words_it_does_not_know(folder, trained, monkeypatch, capsys):
    prompts = []
    run = generation.continue_text
    monkeypatch.setattr(
        generation, "continue_text", lambda *given: prompts.append(given[1]) or run(*given)
    )
    prompt = "the cow likes the zebra and the :dog:"
    assert main(["generate", f"{folder}/found.float32.tflite", prompt, "--words", "6"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "not in the vocabulary, read as <unk>: cow, zebra, and, :dog:\n"
    assert captured.out.strip() == continuation(trained, prompt, 6)
    # The text begins a line: it comes behind the end of one.
    vocabulary = vocabulary_of(folder)
    read = [END, "the", UNKNOWN, "likes", "the", UNKNOWN, UNKNOWN, "the", UNKNOWN]
    assert prompts == [[vocabulary.index(word) for word in read]]


def test_generate_goes_on_from_nothing(folder, trained, tmp_path, capsys):
    shutil.copy(folder / "found.float32.tflite", tmp_path / "moved.tflite")
    words = ["--vocabulary", f"{folder}/found.vocabulary.txt", "--words", "12"]
    assert main(["generate", f"{tmp_path}/moved.tflite", "", *words]) == 0
    printed = capsys.readouterr().out
    expected = continuation(trained, "", 12)
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
def bad(text, folder, tmp_path_factory):
    """Everything that a user could name and should not have."""
    bad = tmp_path_factory.mktemp("bad")
    for name in ("absent", "short", "other"):
        shutil.copytree(text, bad / name)
    (bad / "absent" / "valid.txt").unlink()
    (bad / "short" / "train.txt").write_text("the dog sees .\n" * 5)
    (bad / "other" / "train.txt").write_text("the dog sees a cat or a cow .\n" * 200)
    for name in ("found.keras", "found.keras.json", "found.float32.tflite"):
        shutil.copy(folder / name, bad)
    words = vocabulary_of(folder)
    (bad / "few.txt").write_text("".join(f"{word}\n" for word in words if word != "dog"))
    (bad / "cut.txt").write_text("\n".join(words))
    return bad


ON = "search --task text --data-dir"
TO = "--output m.keras"


@pytest.mark.parametrize(
    ("command", "culprit"),
    [
        # What is for the other task.
        ("search --task text --filters 4", "--filters: is for images, this is text"),
        ("search --task text --distribution-strategy mirrored", "--distribution-strategy: is"),
        ("search --task music", "'music'"),
        (f"train shrinkrnn {TO} --width 0.5", "--width: is for images, this is text"),
        (f"train --units 5 shrinkrnn {TO} --recipe cifar10", "--recipe: invalid choice: 'cifar10'"),
        ("export found.keras --output-dir new --qat", "--qat: is for images, this is text"),
        # Values.
        (ON + " short --units 0", "--units: '0' is no whole number"),
        # Texts.
        (ON + " nowhere", "nowhere: no such folder"),
        (ON + " absent", "absent: has no valid.txt"),
        (ON + " short --units 4", "25 tokens: one window of 35 steps in each of 128 streams takes"),
        (f"train shrinkrnn {TO} --data-dir nowhere", "nowhere: no such folder"),
        (f"train shrinkrnn {TO} --data-dir short --units 4", "25 tokens: one window"),
        ("export found.keras --output-dir new --data-dir nowhere", "nowhere: no such folder"),
        ("export found.keras --output-dir new --data-dir other", "was trained on another text"),
        # Files of models, and of their words.
        ("generate absent.tflite the", "absent.tflite: "),
        ("generate found.keras the", "found.keras: not a .tflite file"),
        ("generate found.float32.tflite the", "found.vocabulary.txt: no such file; name the model"),
        (
            "generate found.float32.tflite the --vocabulary few.txt",
            "few.txt: has 13 words, found.float32.tflite 14; they do not belong together",
        ),
        ("generate found.float32.tflite the --vocabulary cut.txt", "cut.txt: no vocab"),
        ("generate found.float32.tflite", "TEXT"),
    ],
)
def test_what_is_refused_is_named_and_leaves_nothing(bad, monkeypatch, capsys, command, culprit):
    monkeypatch.chdir(bad)
    before = listing(bad)
    assert culprit in refused(capsys, command)
    assert listing(bad) == before
    assert not (bad / "runs").exists()


def test_a_search_that_could_not_begin_leaves_nothing_that_refuses_another(text, tmp_path, capsys):
    search = f"search --task text --data-dir {text} --directory {tmp_path / 'runs'}"
    assert "batch_size" in refused(capsys, f"{search} --batch-size 100000")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("cell", "option"), [("not/there", "--width"), ("shrinkrnn", "--units")])
def test_help_needs_no_cell_that_is_there(cell, option, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", cell, "--help"])
    assert stopped.value.code == 0
    assert option in capsys.readouterr().out
