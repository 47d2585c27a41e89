"""The folder of a search: whose it is, which settings it has, and who searches there now."""

import functools
import json

import keras
import keras_tuner
import numpy as np
import pytest
from forked import processes, start
from searches import OPS, Declares, WithTuner, folder_of

import keras_autoshrink as kas
from keras_autoshrink.score import AccuracyScore
from keras_autoshrink.tuner import project
from keras_autoshrink.tuner.project import describe
from keras_autoshrink.tuner.state import error_line


class Weighs:
    def __init__(self, weight):
        self.weight = weight

    def __call__(self, logs, macs):
        return logs["val_accuracy"] - self.weight * macs


def closing_over(weight):
    def score(logs, macs):
        return weight * logs["val_accuracy"]

    return score


@pytest.mark.parametrize(
    "make",
    [
        AccuracyScore,
        Weighs,
        closing_over,
        lambda weight: functools.partial(closing_over, weight),
        lambda weight: functools.partial(Weighs(weight), logs={}),
        lambda weight: AccuracyScore(cost=lambda model: weight),
    ],
)
def test_a_score_is_described_by_what_it_does(make):
    assert describe(make(0.1)) == describe(make(0.1))
    assert describe(make(0.1)) != describe(make(0.2))
    assert "0x" not in str(describe(make(0.1)))


def test_what_a_score_holds_is_described_by_its_value_or_its_kind():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    assert describe(closing_over(model)) == ["closing_over.<locals>.score", "Sequential"]
    assert describe(Weighs(model)) == ["Weighs", {"weight": "Sequential"}]
    assert describe(Weighs(np.float32(0.5))) == ["Weighs", {"weight": 0.5}]


# As TensorFlow 2.21 and Keras 3.15 write them.
IN_A_GRAPH = """tensorflow.python.framework.errors_impl.InvalidArgumentError: Graph execution error:

Detected at node loss/Softmax defined at (most recent call last):
  File "script.py", line 17, in <module>

<stack traces unavailable>
Received a label value of 9 which is outside the valid range of [0, 7).
\t [[{{node loss/Softmax}}]]
\t [[IteratorGetNext]] [Op:__inference_multi_step_on_iterator_4112]"""
OF_A_GENERATOR = """tensorflow.python.errors_impl.InvalidArgumentError: 2 root error(s) found.
  (0) INVALID_ARGUMENT:  {{function_node __wrapped__Next}} ValueError: it broke
Traceback (most recent call last):

  File "script_ops.py", line 270, in __call__
    ret = func(*args)

ValueError: it broke


\t [[{{node PyFunc}}]]
  (1) CANCELLED:  Iterator was cancelled
0 successful operations.
0 derived errors ignored. [Op:__inference_12]"""
OF_A_LAYER = """ValueError: Exception encountered when calling L.call().

\x1b[1mNo shape of 'l':
in L\x1b[0m

Arguments received by L.call():
  • args=('<KerasTensor>',)"""


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            IN_A_GRAPH,
            "InvalidArgumentError: Received a label value of 9 which is outside the valid range of "
            "[0, 7).",
        ),
        (OF_A_GENERATOR, "ValueError: it broke"),
        (
            OF_A_LAYER,
            "ValueError: Exception encountered when calling L.call(). No shape of 'l': in L",
        ),
        (
            "ValueError: 'x' sizes: 600\n'y' sizes: 597\n",
            "ValueError: 'x' sizes: 600 'y' sizes: 597",
        ),
        # What an error of one's own says, however it is laid out.
        (
            "ValueError: layout:\n[[a, b], [c]]\n(1) give as many\nArguments received by none",
            "ValueError: layout: [[a, b], [c]] (1) give as many Arguments received by none",
        ),
        ('ValueError: File "a.csv" is missing', 'ValueError: File "a.csv" is missing'),
        ("a.InternalError: Graph execution error:\n", "InternalError: Graph execution error:"),
        ("RuntimeError", "RuntimeError"),
    ],
)
def test_the_line_that_says_what_was_wrong(message, line):
    frames = "Traceback (most recent call last):\n  File 'a.py', line 1\n    f()\n"
    caused = f"{frames}KeyError: 'first'\n\nDuring handling of it:\n\n{frames}{message}"
    assert error_line(caused) == line
    assert error_line("no answer: of three") == "no answer: of three"
    assert error_line(None) == "no error message"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../other"])
def test_a_project_name_that_is_no_name_is_refused(tmp_path, name):
    (tmp_path / "precious").mkdir()
    with pytest.raises(ValueError, match="project_name="):
        kas.AutoShrink(Declares(), directory=tmp_path, project_name=name, overwrite=True)
    assert (tmp_path / "precious").exists()


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"directory=.*file.*cannot be created"):
        WithTuner.make(tmp_path / "file" / "runs")


def test_spaces_that_differ_are_told_apart(tmp_path):
    def builder(units, default=1e-3):
        def build(hp):
            hp.Float("learning_rate", 1e-4, 1e-1, default=default)
            cell = kas.declare_cell(hp, kas.Cell.dense(("input", "tanh")))
            inputs = keras.Input((units,))
            return keras.Model(inputs, keras.layers.Dense(1, cell.ops[1])(inputs))

        return build

    make = functools.partial(WithTuner.make, tmp_path)
    make(hypermodel=builder(3)).save()
    make(hypermodel=builder(3))
    with pytest.raises(ValueError, match=r"hypermodel\.params=4, not 6"):
        make(hypermodel=builder(5))
    with pytest.raises(ValueError, match=r"learning_rate.*0.001.*, not .*0.05"):
        make(hypermodel=builder(3, 0.05))
    fixed = keras_tuner.HyperParameters()
    fixed.Fixed("learning_rate", 0.01)
    with pytest.raises(ValueError, match=r"hyperparameters=None, not .*0.01"):
        make(hypermodel=builder(3), hyperparameters=fixed)


def test_settings_that_are_gone_begin_nothing_anew(tmp_path, caplog):
    make = functools.partial(WithTuner.make, tmp_path, ops=OPS[:3])
    first = make()
    first.search(verbose=0)
    path = folder_of(first) / "tuner0.json"
    assert json.loads(path.read_text())["versions"]["keras"] == keras.__version__
    path.write_text("{")
    with pytest.raises(ValueError, match=r"tuner0.json: damaged: .*delete it if"):
        make()
    path.unlink()
    assert make().trajectory() == first.trajectory()
    assert "tuner0.json: missing" in caplog.text
    assert json.loads(path.read_text())["seed"] == 0


def hold(folder, entered, leave):
    with project.locked(folder):
        entered.set()
        leave.wait(60)


def test_a_second_process_is_kept_out(tmp_path):
    make = functools.partial(WithTuner.make, tmp_path, ops=OPS[:3])
    make().save()
    entered, leave = processes.Event(), processes.Event()
    process = start(hold, tmp_path / "search", entered, leave)
    assert entered.wait(60)
    with pytest.raises(ValueError, match="search: another process is searching there"):
        make().search(verbose=0)
    with pytest.raises(ValueError, match="another process is searching there"):
        make(overwrite=True)
    assert (tmp_path / "search" / "oracle.json").exists()
    leave.set()
    process.join()
    make(overwrite=True)
