"""Latency on an Android device.

There is no device here: adb's own client is asked where there is one, and for the rest a stand-in,
``fake_adb.py``, plays adb and the device. What benchmark_model prints was not made up: the records
below are others', of real devices.
"""

import hashlib
import http.server
import json
import os
import sys
import threading
from pathlib import Path

import pytest
from exported import refusal

from tflite_export.__main__ import main
from tflite_export.devices import android, cache_folder
from tflite_export.devices.android import find_device

# Of an AM62x under Linux, TensorFlow Lite 2.20: Texas Instruments' Processor SDK documentation,
# github.com/TexasInstruments/processor-sdk-doc at b04bc774,
# source/linux/Foundational_Components/Machine_Learning/tflite.rst
AM62X = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Graph: [/usr/share/oob-demo-assets/models/ssd_mobilenet_v2_coco.tflite]
INFO: Signature to run: []
INFO: Use xnnpack: [1]
INFO: Loaded model /usr/share/oob-demo-assets/models/ssd_mobilenet_v2_coco.tflite
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
INFO: XNNPACK delegate created.
INFO: Explicitly applied XNNPACK delegate, and the model graph will be partially executed by the \
delegate w/ 1 delegate kernels.
INFO: The input model file size (MB): 67.3128
INFO: Initialized session in 614.333ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if \
exceeding 150 seconds.
INFO: count=1 curr=905463 p5=905463 median=905463 p95=905463
INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if \
exceeding 150 seconds.
INFO: count=50 first=900416 curr=898333 min=898007 max=906121 avg=899641 std=1549 p5=898333 \
median=899281 p95=904305
INFO: Inference timings in us: Init: 614333, First inference: 905463, Warmup (avg): 905463, \
Inference (avg): 899641
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only \
APPROXIMATE to the actual memory footprint of the model at runtime. Take the information at your \
discretion.
INFO: Memory footprint delta from the start of the tool (MB): init=146.363 overall=150.141
"""

# The same page's run without XNNPACK, its timings alone: means with exponents.
AM62X_PLAIN = """\
INFO: count=1 curr=1357602 p5=1357602 median=1357602 p95=1357602

INFO: count=50 first=1249964 curr=1240143 min=1238588 max=1252566 avg=1.24027e+06 std=2565 \
p5=1238753 median=1239807 p95=1247415

INFO: Inference timings in us: Init: 5579, First inference: 1357602, Warmup (avg): 1.3576e+06, \
Inference (avg): 1.24027e+06
"""

# Of an Android phone's GPU, an older version without percentiles:
# github.com/tensorflow/tensorflow/issues/43541
PHONE_GPU = """\
STARTING!
Log parameter values verbosely: [0]
Min num runs: [50]
Num threads: [4]
Min warmup runs: [1]
Graph: [/data/local/tmp/tflite/denoising_32bit.tflite]
Enable op profiling: [1]
#threads used for CPU inference: [4]
Use gpu: [1]
Loaded model /data/local/tmp/tflite/denoising_32bit.tflite
INFO: Initialized TensorFlow Lite runtime.
INFO: Created TensorFlow Lite delegate for GPU.
INFO: Initialized OpenCL-based API.
INFO: Created 1 GPU delegate kernels.
Explicitly applied GPU delegate, and the model graph will be completely executed by the delegate.
The input model file size (MB): 7.07479
Initialized session in 870.557ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding \
150 seconds.
count=4 first=130565 curr=120829 min=117370 max=130565 avg=122373 std=4930

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding \
150 seconds.
count=50 first=119212 curr=118055 min=113737 max=124776 avg=119375 std=1948

Inference timings in us: Init: 870557, First inference: 130565, Warmup (avg): 122373, \
Inference (avg): 119375
"""

MACHINES = {"arm64-v8a": 183, "armeabi-v7a": 40, "x86_64": 62, "x86": 3}
SERIAL = "0A1B2C3D"
READY = f"{SERIAL} device usb:1-1 product:p model:Pixel_8 device:d transport_id:1"


def elf(abi):
    return b"\x7fELF" + bytes([2, 1, 1]) + bytes(11) + MACHINES[abi].to_bytes(2, "little")


@pytest.fixture(scope="module")
def model(exported, tmp_path_factory):
    # The name would be three commands in a shell that it reached unquoted.
    path = tmp_path_factory.mktemp("model") / "it's; rm -rf $HOME.tflite"
    path.write_bytes(exported.path().read_bytes())
    return path


class Stand:
    """What the stand-in plays, after `change`; what it was asked, and what it still has."""

    def __init__(self, folder):
        self.folder = folder / "device"
        self.program = folder / "benchmark model"
        self.answers = {
            "serial": SERIAL,
            "listing": READY,
            "properties": {
                "ro.product.cpu.abi": "arm64-v8a",
                "ro.product.model": "WARNING: linker: unused DT entry\n[Pixel] 8",
                "ro.build.version.release": "14",
            },
            "output": AM62X,
            "gpu_output": PHONE_GPU,
        }

    def change(self, **answers):
        self.answers.update(answers)
        (self.folder / "device.json").write_text(json.dumps(self.answers))

    def calls(self):
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]

    def left(self):
        ours = {"device.json", "calls", "graph_that_ran", "running"}
        return {path.name for path in self.folder.rglob("*")} - ours


@pytest.fixture
def device(tmp_path, monkeypatch):
    stand = Stand(tmp_path)
    stand.folder.mkdir()
    stand.change()
    stand.program.write_bytes(elf("arm64-v8a"))
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    adb = bin_ / "adb"
    # Without the packages of this process, which a stand-in has no need to look for each time.
    adb.write_text(f"#!{sys.executable} -IS\n{Path(__file__).with_name('fake_adb.py').read_text()}")
    adb.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_ADB", str(stand.folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    return stand


def refused(capfd, model, *options):
    return refusal(capfd, ["android", str(model), "--runs", "1", *map(str, options)])


LAST = AM62X_PLAIN.splitlines()[-1]
# What TensorFlow prints in place of first, min, max, avg and std when they say nothing.
SAME = f"INFO: count=10 curr=30(all same) p5=30 median=30 p95=30\n{LAST}"
SINGLE = f"INFO: count=1 curr=30 p5=30 median=30 p95=30\n{LAST}"


@pytest.mark.parametrize(
    ("output", "gpu", "expected"),
    [
        (
            AM62X,
            False,
            {
                "median_ms": 899.281,
                "p95_ms": 904.305,
                "mean_ms": 899.641,
                "min_ms": 898.007,
                "max_ms": 906.121,
                "std_ms": 1.549,
                "first_ms": 905.463,
                "init_ms": 614.333,
                "num_threads": 4,
                "runs": 50,
                "ran_on": "CPU, XNNPACK",
            },
        ),
        (AM62X_PLAIN, False, {"mean_ms": 1240.27, "median_ms": 1239.807, "ran_on": "CPU"}),
        (PHONE_GPU, True, {"median_ms": None, "mean_ms": 119.375, "runs": 50, "ran_on": "GPU"}),
        (
            PHONE_GPU.replace("completely executed", "partially executed"),
            True,
            {"ran_on": "GPU in part"},
        ),
        (AM62X, True, {"ran_on": "CPU, not GPU"}),
        (SAME, False, {"runs": 10, "min_ms": 0.03, "max_ms": 0.03, "std_ms": 0}),
        (SINGLE, False, {"runs": 1, "min_ms": 0.03, "max_ms": 0.03, "std_ms": 0}),
    ],
    ids=[
        "current",
        "exponents",
        "older, GPU",
        "GPU in part",
        "no GPU",
        "equal times",
        "single run",
    ],
)
def test_output_of_benchmark_model(output, gpu, expected):
    result = android.parse(output, num_threads=4, gpu=gpu)
    assert {name: getattr(result, name) for name in expected} == expected


def test_output_that_says_no_time():
    for lost in ("Inference timings", "count="):
        with pytest.raises(ValueError, match="output cannot be read"):
            android.parse(AM62X.replace(lost, "?"), num_threads=1)


def test_the_command(device, model, capfd):
    options = ["--threads", "1", "4", "--runs", "70", "--gpu"]
    options += ["--benchmark-model", str(device.program)]
    assert main(["android", str(model), *options]) == 0
    head, program, *lines = capfd.readouterr().out.splitlines()
    assert head == f"{model}: [Pixel] 8 ({SERIAL}), Android 14, arm64-v8a"
    assert program == f"{device.program}: sha256 {hashlib.sha256(elf('arm64-v8a')).hexdigest()}"
    rows = [line.split() for line in lines if "Pixel" in line]
    figures = ["50", "899.281", "904.305", "899.641"]
    assert rows[0] == ["[Pixel]", "8", "CPU,", "XNNPACK", "1", *figures]
    assert rows[1] == ["[Pixel]", "8", "CPU,", "XNNPACK", "4", *figures]
    assert rows[2] == ["[Pixel]", "8", "GPU", "1", "50", "119.375"]
    here = [line.split()[:5] for line in lines if "this machine  " in line]
    assert here == [["this", "machine", "CPU", threads, "70"] for threads in "14"]
    threads = [line for line in lines if line.startswith("this machine: LiteRT")]
    assert " 1 thread, XNNPACK, " in threads[0]
    assert " 4 threads, XNNPACK, " in threads[1]

    assert (device.folder / "graph_that_ran").read_bytes() == model.read_bytes()
    runs = [call[3] for call in device.calls() if call[2:3] == ["shell"] and "--graph" in call[3]]
    flags = "--warmup_runs=7 --num_runs=70 --use_gpu={} --enable_op_profiling=false"
    assert [run.partition(" --num_threads=")[2] for run in runs] == [
        f"1 {flags.format('false')}",
        f"4 {flags.format('false')}",
        f"1 {flags.format('true')}",
    ]
    assert not device.left()


def test_an_unset_device_among_several(device, model, capfd):
    device.change(listing=f"{READY}\nemulator-5554 offline transport_id:2")
    message = refused(capfd, model)
    assert message.startswith("adb: several devices, choose one with --serial: ")
    assert f"{SERIAL} (device usb:1-1" in message
    assert "emulator-5554 (offline" in message
    options = ["--runs", "1", "--serial", SERIAL, "--benchmark-model", str(device.program)]
    assert main(["android", str(model), *options]) == 0


# As adb has it of two devices of one name in a Wi-Fi, and of one that is called like a state.
@pytest.mark.parametrize(
    "serial", ["adb-AB12CD34-GhIjKl (2)._adb-tls-connect._tcp", "my device (2)._adb-tls-connect"]
)
def test_a_serial_number_with_spaces(device, model, capfd, serial):
    options = ["--runs", "1", "--benchmark-model", str(device.program)]
    for about, choice in (
        ("device product:p model:Pixel_8 transport_id:1", []),
        ("device", ["--serial", serial]),
    ):
        device.change(serial=serial, listing=f"{serial}   {about}")
        assert main(["android", str(model), *options, *choice]) == 0
        assert f"({serial}), Android 14" in capfd.readouterr().out
    device.change(listing=f"{serial} offline transport_id:1\nB authorizing usb:1-1")
    assert refused(capfd, model, "--serial", serial).startswith(f"{serial}: offline")
    assert refused(capfd, model, "--serial", "B").endswith("'authorizing': start Android on it")


def test_what_was_measured_is_printed_before_the_gpu_failed(device, model, capfd):
    device.change(gpu_output="ERROR: Failed to apply GPU delegate.", gpu_status=1)
    options = ["--threads", "1", "4", "--runs", "1", "--gpu"]
    assert main(["android", str(model), *options, "--benchmark-model", str(device.program)]) == 1
    lines = capfd.readouterr().out.splitlines()
    rows = [line.split() for line in lines if "[Pixel] 8  " in line]
    assert [row[-3:] for row in rows[:2]] == [["899.281", "904.305", "899.641"]] * 2
    assert rows[2] == ["[Pixel]", "8", "GPU:", "failed", "1"]
    assert lines[-1].startswith(f"GPU, 1 thread: {SERIAL}: ")
    assert lines[-1].endswith("ERROR: Failed to apply GPU delegate.")
    assert not device.left()


def test_a_device_that_is_not_ready(device, model, capfd):
    for listing, message in (
        ("", "adb: no device: connect one"),
        (f"{SERIAL} unauthorized usb:1-1 transport_id:1", f"{SERIAL}: not authorised: unlock"),
        (f"{SERIAL} offline usb:1-1 transport_id:1", f"{SERIAL}: offline: reconnect it"),
        (
            f"{SERIAL} no permissions (user in plugdev group; are your udev rules wrong?); "
            "see [http://developer.android.com/tools/device.html] usb:1-1",
            f"{SERIAL}: this user may not open the USB device (no permissions",
        ),
        (f"{SERIAL} recovery usb:1-1", f"{SERIAL}: not ready, adb says 'recovery'"),
    ):
        device.change(listing=listing)
        assert refused(capfd, model).startswith(message)
    device.change(listing=READY)
    message = refused(capfd, model, "--serial", "X")
    assert message == f"X: no such device; connected: {SERIAL}"


def test_no_adb(tmp_path, model, capfd, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refused(capfd, model).startswith("adb: no such program: install Android's platform-")
    missing = tmp_path / "adb"
    assert refused(capfd, model, "--adb", missing).startswith(f"{missing}: no such program")


def test_a_program_that_does_not_fit(device, model, capfd):
    path = ("--benchmark-model", device.program)
    right = hashlib.sha256(elf("arm64-v8a")).hexdigest()
    assert refused(capfd, model, *path, "--sha256", "00") == (
        f"{device.program}: its SHA-256 is {right}, not 00: give another with --benchmark-model"
    )
    assert android.program_for("arm64-v8a", device.program, right.upper())
    device.program.write_bytes(elf("armeabi-v7a"))
    assert refused(capfd, model, *path) == (
        f"{device.program}: wrong ABI: it is for armeabi-v7a, the device is arm64-v8a: give one "
        "for arm64-v8a with --benchmark-model"
    )
    device.program.write_bytes(b"<html>")
    message = f"{device.program}: not a program for Android: no ELF header"
    assert refused(capfd, model, *path) == message
    cached = cache_folder() / "benchmark_model-arm64-v8a"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(elf("arm64-v8a"))
    message = refused(capfd, model, "--sha256", "00")
    assert message.startswith(f"{cached}: its SHA-256 is {right}, not 00: remove it, and ")
    device.answers["properties"]["ro.product.cpu.abi"] = "x86_64"
    device.change()
    message = "x86_64: there is no official benchmark_model for it"
    assert refused(capfd, model).startswith(message)
    assert not [call for call in device.calls() if "push" in call]


def test_each_architecture(tmp_path):
    path = tmp_path / "program"
    for abi in MACHINES:
        path.write_bytes(elf(abi))
        assert android.program_for(abi, path) == path
        for other in MACHINES.keys() - {abi}:
            message = f"wrong ABI: it is for {abi}, the device is {other}"
            with pytest.raises(ValueError, match=message):
                android.program_for(other, path)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"push_error": "No space left on device"}, "no space left on the device for "),
        ({"push_error": "remote couldn't create file: Permission denied"}, "permission denied on"),
        ({"output": "a\nb\nc\nSegmentation fault", "status": 139}, "failed (SIGSEGV): b | c | Seg"),
        ({"output": "Failed to load model", "status": 1}, "failed (exit status 1): Failed to load"),
        ({"output": "Hello"}, "benchmark_model's output cannot be read, it is not of a known "),
        ({"properties": {}}, f"{SERIAL}: has no property ro.product.cpu.abi"),
    ],
)
def test_a_device_that_fails(device, model, capfd, answers, message):
    device.change(**answers)
    assert message in refused(capfd, model, "--benchmark-model", device.program)
    assert not device.left()


def test_nothing_is_measured_that_could_not_be_printed(device, model, capfd):
    device.change(properties={"ro.product.cpu.abi": "arm64-v8a"})
    message = refused(capfd, model, "--benchmark-model", device.program)
    assert message.startswith(f"{SERIAL}: has no property ro.product.model")
    assert not [call for call in device.calls() if "push" in call]


def test_a_device_that_never_answers(device, model, capfd, monkeypatch):
    device.change(seconds=120)
    monkeypatch.setattr(android, "RUN_LIMIT", 3)
    message = refused(capfd, model, "--benchmark-model", device.program)
    assert message.startswith(f"adb -s {SERIAL} shell /data/local/tmp/tflite_export/")
    assert message.endswith(": no end in 3 s: is the device still connected and awake?")
    # Killed, then removed; of what still runs the stand-in keeps a file.
    assert [call[3].split()[0] for call in device.calls()[-3:]] == ["pkill", "rm", "rmdir"]
    assert not device.left()


def test_an_interrupt_leaves_nothing_on_the_device(device, model, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(android, "parse", interrupted)
    with pytest.raises(KeyboardInterrupt):
        android.measure(find_device(), device.program, model)
    assert (device.folder / "graph_that_ran").exists()
    assert not device.left()


def test_no_download(device, model, capfd, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(android, "ADDRESS", "http://127.0.0.1:1/android_{}_model")
    place = cache_folder() / "benchmark_model-arm64-v8a"
    assert refused(capfd, model).endswith(
        f"Connection refused): fetch http://127.0.0.1:1/android_aarch64_model by hand and put it "
        f"at {place}, or give its path with --benchmark-model"
    )
    place.write_bytes(elf("arm64-v8a"))
    assert main(["android", str(model), "--runs", "1"]) == 0
    assert f"{place}: sha256" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (elf("armeabi-v7a"), None),
        (b"<html>please log in</html>", r"no ELF header\): fetch http.* by hand"),
        (elf("armeabi-v7a")[:10], r"IncompleteRead\(10 bytes read, .*\): fetch http.* by hand"),
    ],
    ids=["whole", "no program", "cut off"],
)
def test_a_download(tmp_path, monkeypatch, reply, message):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.path == "/android_arm_model"
            self.send_response(200)
            self.send_header("Content-Length", str(max(20, len(reply))))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_):
            pass

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        address = f"http://127.0.0.1:{server.server_port}/android_{{}}_model"
        monkeypatch.setattr(android, "ADDRESS", address)
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        try:
            if message is None:
                path = android.program_for("armeabi-v7a")
                assert path == tmp_path / "tflite_export" / "benchmark_model-armeabi-v7a"
                assert path.read_bytes() == elf("armeabi-v7a")
            else:
                with pytest.raises(OSError, match=message):
                    android.program_for("armeabi-v7a")
        finally:
            thread.join()
    assert len([*(tmp_path / "tflite_export").iterdir()]) == (message is None)  # no half a file
