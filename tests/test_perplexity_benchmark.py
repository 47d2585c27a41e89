"""benchmarks/perplexity.py and benchmarks/recurrent_step.py: comparisons that have to be fair."""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_autoshrink as kas
from keras_autoshrink.op_names import RNN_OPERATIONS
from keras_autoshrink.published_cells import SHRINKRNN_CELL
from keras_autoshrink.recurrent import ShrinkRNNCell

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import perplexity  # noqa: E402 - it lies in no package
import recurrent_step  # noqa: E402

pytestmark = pytest.mark.slow

CHAIN = kas.Cell(("input", "tanh"), ((0, 1),))


# benchmarks/perplexity.py


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text, two cells, and, in runs and all.json, what came of the first one."""
    folder = tmp_path_factory.mktemp("benchmark")
    write_text(folder / "text")
    CHAIN.save(folder / "chain.json")
    kas.Cell(("input", "relu"), ((0, 1),)).save(folder / "other.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert perplexity.main([*command(), "--json", "all.json"]) == 0
    return folder


def write_text(folder, seed=0):
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for part, lines in (("train", 50), ("valid", 12), ("test", 12)):
        words = rng.choice([*"abcdef"], (lines, 5))
        (folder / f"{part}.txt").write_text("".join(" ".join(line) + "\n" for line in words))


def command(cell="chain.json", text="text"):
    return (
        f"one={cell} --data-dir {text} --units 6 --epochs 1 --batch-size 4 --seeds 0 1 "
        "--directory runs"
    ).split()


def listing(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(printed):
    return {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.split()}


def test_the_figures_are_those_of_the_table(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    results = json.loads(Path("all.json").read_text())
    assert list(results) == ["one", "LSTM"]
    # Trained already: it prints what there is, and trains nothing.
    monkeypatch.setattr(perplexity, "train_model", None)
    before = listing(folder)
    capsys.readouterr()
    assert perplexity.main([*command(), "--json", "again.json"]) == 0
    assert json.loads(Path("again.json").read_text()) == results
    Path("again.json").unlink()
    assert listing(folder) == before
    printed = capsys.readouterr().out
    rows = rows_of(printed)
    words = len({*Path("text/train.txt").read_text().split(), "<unk>", "<eos>"})
    units = {name: trainings[0]["units"] for name, trainings in results.items()}
    # W0 and a matrix for the edge; four gates with a bias; and the embedding with a bias.
    params = {
        "one": 3 * units["one"] * 2 * units["one"],
        "LSTM": 4 * (2 * units["LSTM"] * units["LSTM"] + units["LSTM"]),
    }
    assert units == {"one": 6, "LSTM": 5}
    for name, trainings in results.items():
        count = params[name] + words * (units[name] + 1)
        assert [facts["seed"] for facts in trainings] == [0, 1]
        assert {facts["params"] for facts in trainings} == {count}
        tested = [facts["test_perplexity"] for facts in trainings]
        assert tested[0] != tested[1]
        assert rows[name][:3] == [str(units[name]), f"{trainings[0]['macs']:,}", f"{count:,}"]
        for figure in (f"{np.mean(tested):.1f} ± {np.std(tested, ddof=1):.1f}", f"{tested[1]:.1f}"):
            assert figure in " ".join(rows[name])
    above = np.subtract(*(np.array([f["test_perplexity"] for f in results[n]]) for n in results))
    assert " ".join(rows["LSTM"]).endswith(f"{-above.mean():+.1f} ± {above.std(ddof=1):.1f}")


def refused(capsys, arguments):
    """The line with which a command refuses, behind how to call it."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        perplexity.main(arguments)
    assert stopped.value.code == 2
    *usage, line = capsys.readouterr().err.splitlines()
    assert not any("error" in each for each in usage)
    return line


def test_another_cell_of_the_same_name_is_refused(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    before = listing(folder)
    line = refused(capsys, command("other.json"))
    assert "error: runs/one-0.json: is of a run with cell=" in line
    assert "take another --directory" in line
    assert listing(folder) == before


def test_a_text_that_has_changed_is_refused(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    before = listing(folder / "runs")
    text = Path("text/train.txt")
    original = text.read_text()
    # The same words in another order: networks of the same sizes.
    text.write_text("".join(f"{line}\n" for line in reversed(original.splitlines())))
    try:
        line = refused(capsys, command())
    finally:
        text.write_text(original)
    assert "error: runs/one-0.json: is of a run with checksum=" in line
    write_text(folder / "elsewhere", seed=1)
    line = refused(capsys, command(text="elsewhere"))
    assert "error: runs/one-0.json: is of a run with text='text', not 'elsewhere'" in line
    assert listing(folder / "runs") == before


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ("chain.json", "'chain.json' is not of the form NAME=CELL"),
        ("one=chain.json one=other.json", "two networks have the same NAME"),
        ("LSTM=chain.json", "two networks have the same NAME (LSTM is one)"),
        ("one=chain.json --json absent/all.json", "--json absent/all.json: its folder does not"),
        ("one=absent.json", "absent.json"),
        ("one=chain.json --data-dir absent", "absent: no such folder"),
    ],
)
def test_what_is_refused(folder, monkeypatch, capsys, arguments, culprit):
    monkeypatch.chdir(folder)
    before = listing(folder)
    assert culprit in refused(capsys, arguments.split())
    assert listing(folder) == before


# benchmarks/recurrent_step.py


@pytest.mark.parametrize(
    "cell",
    [
        SHRINKRNN_CELL,
        kas.Cell.dense(("input", *RNN_OPERATIONS)),
        # Two leaves, and a node that is not reached.
        kas.Cell(("input", "tanh", "relu", "sigmoid"), ((0, 1), (0, 2))),
    ],
)
def test_edge_by_edge_it_is_the_same_network(cell):
    units, features = 5, 4
    layers = [
        keras.layers.RNN(kind(cell, units), return_sequences=True)
        for kind in (ShrinkRNNCell, recurrent_step.EdgeByEdgeCell)
    ]
    for layer in layers:
        layer.build((None, None, features))
    joint, single = (layer.cell for layer in layers)
    rng = np.random.default_rng(0)
    for weight in joint.weights:
        weight.assign(rng.uniform(-0.7, 0.7, weight.shape))
    assert len(single.kernels) == len(joint.cell.edges)
    w0 = [keras.ops.convert_to_numpy(w) for w in (joint.kernel, joint.recurrent_kernel)]
    single.input_kernel.assign(np.concatenate(w0))
    for edge, kernel in zip(joint.cell.edges, single.kernels, strict=True):
        successors = [to for source, to in joint.cell.edges if source == edge[0]]
        all_edges = keras.ops.convert_to_numpy(joint.edge_kernels[str(edge[0])])
        # First c of each edge, then g of each.
        c, g = all_edges.reshape(units, 2, len(successors), units).swapaxes(0, 1)
        place = successors.index(edge[1])
        kernel.assign(np.concatenate([c[:, place], g[:, place]], axis=-1))
    x = rng.normal(size=(3, 7, features)).astype("float32")
    expected, outputs = (keras.ops.convert_to_numpy(layer(x)) for layer in layers)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)
    sizes = [sum(np.prod(weight.shape) for weight in each.weights) for each in (joint, single)]
    assert sizes[0] == sizes[1]


def test_the_steps_are_timed(capsys):
    arguments = "--units 4 --vocabulary 9 --batch-size 2 --window 3 --steps 2"
    assert recurrent_step.main(arguments.split()) == 0
    printed = capsys.readouterr().out
    assert "4 units, vocabulary 9, batch 2, 3 tokens; median of 2 steps" in " ".join(
        printed.split()
    )
    rows = [line.strip() for line in printed.splitlines() if "published" in line]
    assert len(rows) == 2
    assert float(rows[0].split()[-1]) > 0
    assert rows[1].startswith("published cell, 12 edges, without the softmax")
    assert sum("complete cell, 15 edges" in line for line in printed.splitlines()) == 2
