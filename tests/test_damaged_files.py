"""Damaged ``.tflite`` files end a command with one line, never the process that asks."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.schema_py_generated import BuiltinOperator
from forked import Script

import tflite_export
from tflite_export import runtime
from tflite_export.file import flatbuffer

COMMANDS = ("describe", "macs", "benchmark", "verify")
ROOT = str(Path(tflite_export.__file__).parents[1])
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], ROOT])}

# Runs all commands on all files in one process, as long as it lives.
RUN_ALL = """
import contextlib, io, json, os, sys
import tflite_export
from tflite_export.__main__ import main

os.chdir(sys.argv[1])
model = tflite_export.load_model("model.keras")
tflite_export.load_model = lambda *_: model  # and to trace it once
results = {}
for name in sys.argv[2:]:
    for command in ("describe", "macs", "benchmark", "verify"):
        arguments = [command, name]
        if command == "benchmark":
            arguments += ["--runs", "1"]
        if command == "verify":
            arguments = [command, "model.keras", name, "--inputs", "images.npy"]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main(arguments)
            except SystemExit as exit_:
                status = exit_.code
        results[f"{command} {name}"] = [status, out.getvalue(), err.getvalue()]
print(json.dumps(results))
"""


def with_operator(path, old, new):
    """The file with another operator in the place of one, whose inputs it cannot take."""
    model = flatbuffer.load(path)
    for code in model.operatorCodes:
        if code.builtinCode == getattr(BuiltinOperator, old):
            code.builtinCode = getattr(BuiltinOperator, new)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def without_weights(path):
    """The file with zeros for the weights of its layers."""
    data = path.read_bytes()
    for buffer in flatbuffer.load(path).buffers:
        weights = b"" if buffer.data is None else buffer.data.tobytes()
        if len(weights) > 500 and b"M001" not in weights:
            data = data.replace(weights, bytes(len(weights)))
    return data


def with_bytes(data, at, new):
    return data[:at] + new + data[at + len(new) :]


def scattered(data, seed, count):
    """So many bytes changed in the flatbuffer, anywhere behind the identifier."""
    generator = np.random.default_rng(seed)
    changed = bytearray(data)
    for at in generator.integers(8, data.rindex(b"PK\x03\x04"), count):
        changed[at] ^= int(generator.integers(1, 256))
    return bytes(changed)


@pytest.fixture(scope="module")
def folder(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "model.keras").write_bytes(exported.keras_path.read_bytes())
    np.save(folder / "images.npy", exported.test[0][:20])
    whole = folder / "whole.tflite"
    whole.write_bytes(exported.path().read_bytes())
    tflite_export.add_metadata(whole, name="whole", labels=[f"class {i}" for i in range(10)])
    return folder


@pytest.fixture(scope="module")
def names(folder):
    """Damaged files, by the place of the damage."""
    data = (folder / "whole.tflite").read_bytes()
    archive, metadata = data.rindex(b"PK\x03\x04"), data.index(b"M001")
    root = int.from_bytes(data[:4], "little")
    contents = {
        "empty": b"",
        "wrong identifier": with_bytes(data, 4, b"TFL2"),
        "cut in the head": data[:7],
        "cut in the middle": data[: archive // 2],
        "root offset": with_bytes(data, 0, b"\xff\xff\xff\x7f"),
        "zeros from the root on": data[:root] + bytes(100_000),
        **{f"scattered {seed}": scattered(data, seed, 200) for seed in range(2)},
        "crash SPLIT": with_operator(folder / "whole.tflite", "MAX_POOL_2D", "SPLIT"),
        "metadata root": with_bytes(data, metadata - 4, b"\xff\xff\xff\x7f"),
        "metadata archive gone": data[:archive],
        "metadata labels": with_bytes(data, data.rindex(b"class 0"), b"\xff"),
        "weights": without_weights(folder / "whole.tflite"),
    }
    for name, content in contents.items():
        (folder / f"{name}.tflite").write_bytes(content)
    (folder / "folder.tflite").mkdir()
    with (folder / "sparse.tflite").open("wb") as file:
        file.write(data)
        file.truncate(2**31)
    return [*contents, "folder", "sparse"]


@pytest.fixture(scope="module")
def results(folder, names):
    """(exit status, standard output, standard error) by command and file."""
    files = [f"{name}.tflite" for name in ["whole", *names]]
    code, printed, errors = Script(RUN_ALL, str(folder), *files).end()
    assert code == 0, errors
    return json.loads(printed)


def one_line(result, name):
    status, out, err = result
    return (
        status == 2
        and out == ""
        and err.startswith("tflite_export: error: ")
        and f"{name}.tflite: " in err
        and err.count("\n") == 1
    )


def test_damage_is_one_line_to_each_command(results, names):
    assert [results[f"{command} whole.tflite"][0] for command in COMMANDS] == [0, 0, 0, 0]
    still_read = ("crash", "metadata", "weights", "scattered")
    for name in names:
        for command in COMMANDS:
            result = results[f"{command} {name}.tflite"]
            if not name.startswith(still_read):
                assert one_line(result, name), (command, name, result)
            # What cannot be told from a whole file may do something, or be refused.
            assert result[0] in (0, 1) or one_line(result, name), (command, name, result)
            assert "Traceback" not in result[2]
    _, _, err = results["describe sparse.tflite"]
    assert "it has 2,147,483,648 bytes, a flatbuffer at most 2,147,483,647" in err


def test_a_crash_of_litert_is_one_line(results, exported, folder):
    for command in ("benchmark", "verify"):
        _, _, err = results[f"{command} crash SPLIT.tflite"]
        assert err == (
            "tflite_export: error: crash SPLIT.tflite: LiteRT crashes on it (SIGSEGV): "
            "the file is damaged\n"
        )
    path = folder / "crash SPLIT.tflite"  # and to those who call from Python
    for run in (
        lambda: tflite_export.benchmark(path),
        lambda: tflite_export.verify(exported.model, path, exported.test[0]),
    ):
        with pytest.raises(ValueError, match=r"crashes on it \(SIGSEGV\)"):
            run()


def test_damaged_metadata_are_named_and_leave_the_model_alone(results, names):
    for name in (name for name in names if name.startswith("metadata")):
        result = results[f"describe {name}.tflite"]
        assert one_line(result, name), (name, result)
        assert "its metadata are damaged" in result[2]
        for command in ("macs", "benchmark", "verify"):
            assert results[f"{command} {name}.tflite"][0] == 0, (command, name)


def test_other_weights_run_and_do_not_agree(results):
    statuses = {command: results[f"{command} weights.tflite"][0] for command in COMMANDS}
    assert statuses == {"describe": 0, "macs": 0, "benchmark": 0, "verify": 1}


def test_files_torn_anywhere_are_refused(exported, tmp_path):
    path, data = tmp_path / "torn.tflite", exported.path().read_bytes()
    noise = np.random.default_rng(0).bytes(5000)
    # Every length in the header, then some in between, then all of the last fields written.
    lengths = [*range(1, 60), *range(60, len(data), 997), *range(len(data) - 20, len(data))]
    damaged = {
        "noise": noise,
        "a zip": b"PK\x03\x04" + noise,
        "noise after the header": data[:8] + noise,
        "zeros after the header": data[:8] + bytes(5000),
        **{f"cut off at {length}": data[:length] for length in lengths},
    }
    for what, content in damaged.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"torn.tflite: not a \.tflite file: "):
            print(what, flatbuffer.load(path))  # seen where nothing is raised


def converted(function, path, *signature):
    function = tf.function(function, input_signature=signature).get_concrete_function()
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([function]).convert())
    return path


def test_a_file_that_never_ends_is_given_up(tmp_path, monkeypatch):
    endless = converted(
        lambda x: tf.while_loop(lambda y: tf.reduce_all(y > -1), lambda y: (tf.abs(y),), (x,))[0],
        tmp_path / "endless.tflite",
        tf.TensorSpec((1,)),
    )
    monkeypatch.setattr(runtime, "TIME_LIMIT", 2)
    with pytest.raises(ValueError, match="does not come to an end with it in 2 s"):
        tflite_export.benchmark(endless)
    # Whoever started it may have been killed: it ends by itself.
    trial = runtime.python_command(runtime.__name__, str(endless), "endless", "run", "0")
    ended = subprocess.run(trial, env=runtime.python_environment(), stdout=subprocess.PIPE)
    assert ended.returncode == -signal.SIGALRM


def test_a_kernel_that_refuses_zeros_is_no_damage(tmp_path):
    path = converted(
        tf.reshape, tmp_path / "m.tflite", tf.TensorSpec((4,)), tf.TensorSpec((2,), tf.int32)
    )
    runtime.check_survives(path, "run")
    with pytest.raises(ValueError, match="LiteRT cannot run the file on these inputs"):
        tflite_export.benchmark(path)


def test_files_of_the_working_directory_are_not_imported(exported, tmp_path):
    (tmp_path / "numpy.py").write_text("open('imported', 'w').close()")
    (tmp_path / "script").mkdir()
    script = tmp_path / "script" / "script.py"
    script.write_text("import sys, tflite_export; tflite_export.benchmark(sys.argv[1], runs=1)")
    subprocess.run(
        [sys.executable, script, exported.path()], cwd=tmp_path, env=ENVIRONMENT, check=True
    )
    assert not (tmp_path / "imported").exists()


def test_a_file_that_passed_is_tried_again_once_it_changes(exported, folder, names, tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(exported.path().read_bytes())
    tflite_export.benchmark(path, runs=1)
    path.write_bytes((folder / "crash SPLIT.tflite").read_bytes())
    with pytest.raises(ValueError, match="crashes on it"):
        tflite_export.benchmark(path, runs=1)


def test_where_no_process_can_be_started_the_file_is_still_read(
    exported, folder, names, monkeypatch
):
    runtime._passed.clear()
    monkeypatch.setattr(sys, "executable", None)
    runtime.check_survives(exported.path(), "run")
    with pytest.raises(ValueError, match="cut off or damaged"):
        runtime.check_survives(folder / "cut in the middle.tflite", "run")
