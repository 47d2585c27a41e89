"""Measures the latency of ``.tflite`` files on Android devices, by adb and ``benchmark_model``."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.client
import os
import re
import shlex
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tflite_export.devices import cache_folder
from tflite_export.latency import Latency

if TYPE_CHECKING:
    from rich.table import Table

# Seconds. Answers take less than one; the first call may start adb's server.
ANSWER_LIMIT = 30.0
# A model of hundreds of megabytes over USB 2 or Wi-Fi.
PUSH_LIMIT = 600.0

_LAST_LINES = 3

# Where adb's user may write, and run programs from.
FOLDER = "/data/local/tmp/tflite_export"

# Seconds. benchmark_model stops warming up after 150, and measuring after another 150.
RUN_LIMIT = 420.0

_MIN_WARMUP_RUNS = 5  # as on this machine

# Nightly builds, as https://ai.google.dev/edge/litert/models/measurement links them. They come
# without a checksum, so that only a caller who knows one can check it.
ADDRESS = (
    "https://storage.googleapis.com/tensorflow-nightly-public/prod/tensorflow/release/lite/tools/"
    "nightly/latest/android_{}_benchmark_model"
)
_BUILDS = {"arm64-v8a": "aarch64", "armeabi-v7a": "arm"}

# e_machine in the ELF header, by Android's name for the architecture.
_MACHINES = {"arm64-v8a": 183, "armeabi-v7a": 40, "x86_64": 62, "x86": 3}
_ABIS = {machine: abi for abi, machine in _MACHINES.items()}

_DOWNLOAD_LIMIT = 60.0  # seconds without a byte

_NUMBER = r"[\d.]+(?:e[+-]?\d+)?"
_FIELD = re.compile(rf"\b(\w+)=({_NUMBER})")
_SUMMARY = re.compile(
    rf"Inference timings in us: Init: ({_NUMBER}), First inference: ({_NUMBER}), "
    rf"Warmup \(avg\): {_NUMBER}, Inference \(avg\): ({_NUMBER})"
)


@dataclasses.dataclass(frozen=True)
class Device:
    """Runs commands on an Android device through ``adb``.

    Attributes:
        adb: Path of the ``adb`` program.
        serial: The serial number of the device.
    """

    adb: str
    serial: str

    def property(self, name: str) -> str:
        """Reads a system property, such as ``ro.product.cpu.abi``.

        Raises:
            OSError: The device does not answer or has no such property.
        """
        value = self.shell(["getprop", name])
        if not value:
            raise OSError(f"{self.serial}: has no property {name}: is it an Android device?")
        return value.splitlines()[-1]  # after what adb and the device's linker warn of

    def push(self, local: str | os.PathLike[str], remote: str) -> None:
        """Copies a file to the device.

        Raises:
            OSError: The device is full, does not let adb write there, or is gone.
        """
        status, output = _run_adb(
            [self.adb, "-s", self.serial, "push", os.fspath(local), remote], PUSH_LIMIT
        )
        if "No space left on device" in output:
            raise OSError(
                f"{self.serial}: no space left on the device for {os.fspath(local)}: free some "
                f"({Path(local).stat().st_size:,} bytes)"
            )
        if status:
            raise self.failure(f"adb push {os.fspath(local)} {remote}", status, output)

    def shell(self, command: Sequence[str], limit: float = ANSWER_LIMIT) -> str:
        """Runs a program on the device.

        Args:
            command: The program and its arguments, each quoted for the device's shell.
            limit: Seconds that it may take.

        Returns:
            What it wrote to its output and its error output, stripped.

        Raises:
            OSError: It failed, was killed by a signal, or took too long; with its last lines.
        """
        status, output = _run_adb(
            [self.adb, "-s", self.serial, "shell", shlex.join(command)], limit
        )
        if status:
            raise self.failure(command[0], status, output)
        return output

    def failure(self, what: str, status: int, output: str) -> OSError:
        """Makes the error for a command that ended with a status other than 0."""
        if "Permission denied" in output:
            return PermissionError(
                f"{self.serial}: permission denied on the device: {_last_lines(output)}: adb needs "
                "a folder that it may write to and run programs from"
            )
        return OSError(f"{self.serial}: {what} failed ({_cause(status)}): {_last_lines(output)}")


def find_device(adb: str | None = None, serial: str | None = None) -> Device:
    """Finds a device that answers.

    Args:
        adb: Path of the ``adb`` program; by default the one on the search path.
        serial: The device's serial number, needed where there are several.

    Returns:
        The device.

    Raises:
        OSError: There is no ``adb``, no device, several, none of that serial, or it is not ready.
    """
    program = shutil.which(adb or "adb")
    if program is None:
        raise OSError(
            f"{adb or 'adb'}: no such program: install Android's platform-tools (apt install adb) "
            "or give its path with --adb"
        )
    status, output = _run_adb([program, "devices", "-l"], ANSWER_LIMIT)
    if status:
        raise OSError(f"{program} devices failed (exit status {status}): {_last_lines(output)}")
    devices = _listed(output)
    if serial is None:
        if not devices:
            raise OSError(
                "adb: no device: connect one and switch on USB debugging in its developer options"
            )
        if len(devices) > 1:
            found = ", ".join(f"{name} ({about})" for name, about in devices.items())
            raise OSError(f"adb: several devices, choose one with --serial: {found}")
        serial = next(iter(devices))
    elif serial not in devices:
        found = ", ".join(devices) or "none"
        raise OSError(f"{serial}: no such device; connected: {found}")
    _check_ready(serial, devices[serial])
    return Device(program, serial)


# A serial number can hold spaces: two devices of one name in a Wi-Fi are "adb-X (2)._adb-tls...".
_LISTED = re.compile(
    r"(?P<serial>\S.*?)\s+(?P<about>no permissions.*|(?:authorizing|bootloader|connecting|detached|"
    r"device|host|offline|recovery|rescue|sideload|unauthorized|unknown)(?:\s+\w+:\S*)*)"
)


def _listed(output: str) -> dict[str, str]:
    """Parses ``adb devices -l`` to the state and product of each device, by serial number."""
    _, _, listing = output.partition("List of devices attached")
    devices = {}
    for line in filter(None, map(str.strip, listing.splitlines())):
        known = _LISTED.fullmatch(line)
        serial, _, about = line.partition(" ") if known is None else (known[1], "", known[2])
        devices[serial] = about.strip()
    return devices


def _check_ready(serial: str, about: str) -> None:
    state = about.split()[0] if about else "unknown"
    if state == "unauthorized":
        raise OSError(
            f"{serial}: not authorised: unlock the device and allow USB debugging from this "
            "computer"
        )
    if state == "offline":
        raise OSError(f"{serial}: offline: reconnect it, or restart adb with adb kill-server")
    if about.startswith("no permissions"):
        raise PermissionError(
            f"{serial}: this user may not open the USB device ({about}): add a udev rule for it"
        )
    if state != "device":
        raise OSError(f"{serial}: not ready, adb says {state!r}: start Android on it")


def _run_adb(command: list[str], limit: float) -> tuple[int, str]:
    """Runs a program, and returns its exit status and both outputs in the order they came."""
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        words = " ".join(command[1:])
        raise TimeoutError(
            f"adb {words}: no end in {limit:g} s: is the device still connected and awake?"
        ) from None
    return ended.returncode, ended.stdout.decode(errors="replace").replace("\r\n", "\n").strip()


def _last_lines(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return " | ".join(lines[-_LAST_LINES:]) or "it said nothing"


def _cause(status: int) -> str:
    """Names an exit status; that of a program killed by a signal is 128 and the signal."""
    try:
        return signal.Signals(status - 128).name
    except ValueError:
        return f"exit status {status}"


@dataclasses.dataclass(frozen=True)
class DeviceLatency:
    """Holds the latency of one run of a file on a device, in ms, as ``benchmark_model`` prints it.

    Attributes:
        median_ms: Half of the runs took at most this long; None of older versions, which print no
            percentiles.
        p95_ms: 95 of 100 runs took at most this long; None of older versions.
        mean_ms: Mean of all runs.
        min_ms: The fastest run.
        max_ms: The slowest run.
        std_ms: Standard deviation of the runs.
        first_ms: The first run of all, before the others warmed up.
        init_ms: Loading the file.
        num_threads: CPU threads that the kernels could use.
        runs: Number of timed runs. The program repeats for a second at least, so that there
            can be more than were asked for, and for 150 seconds at most.
        ran_on: The processor and its delegate, as far as the program prints them: "CPU",
            "CPU, XNNPACK", "GPU", "GPU in part", or "CPU, not GPU" where the GPU took nothing.
    """

    median_ms: float | None
    p95_ms: float | None
    mean_ms: float
    min_ms: float
    max_ms: float
    std_ms: float
    first_ms: float
    init_ms: float
    num_threads: int
    runs: int
    ran_on: str


@dataclasses.dataclass(frozen=True)
class FailedRun:
    """Says why a run failed on a device that others had succeeded on.

    Attributes:
        num_threads: CPU threads that the kernels could use.
        ran_on: "CPU" or "GPU".
        why: What the device said, in one line.
    """

    num_threads: int
    ran_on: str
    why: str


def parse(output: str, num_threads: int, gpu: bool = False) -> DeviceLatency:
    """Parses the output of ``benchmark_model``.

    Args:
        output: Its standard output and standard error.
        num_threads: CPU threads that it was started with.
        gpu: Whether it was started with the GPU.

    Returns:
        The latency, in milliseconds.

    Raises:
        ValueError: There is none in the output.
    """
    before, summary = output, _SUMMARY.search(output)
    if summary:
        before = output[: summary.start()]
    # Of the warm-up first, then of the timed runs; after the summary, of profiles.
    lines = [line for line in before.splitlines() if re.search(r"\bcount=\d", line)]
    fields = {key: float(value) for key, value in _FIELD.findall(lines[-1])} if lines else {}
    if summary is None or not {"count", "curr"} <= fields.keys():
        last = " | ".join(line.strip() for line in output.splitlines() if line.strip())[-300:]
        raise ValueError(
            "benchmark_model's output cannot be read, it is not of a known version: "
            f"{last or 'it said nothing'}"
        )
    init, first, mean = (float(value) / 1000 for value in summary.groups())
    # Of runs that all took equally long only that one time is printed.
    same = fields["curr"]
    median, p95 = fields.get("median"), fields.get("p95")
    return DeviceLatency(
        median_ms=None if median is None else median / 1000,
        p95_ms=None if p95 is None else p95 / 1000,
        mean_ms=mean,
        min_ms=fields.get("min", same) / 1000,
        max_ms=fields.get("max", same) / 1000,
        std_ms=fields.get("std", 0.0) / 1000,
        first_ms=first,
        init_ms=init,
        num_threads=num_threads,
        runs=int(fields["count"]),
        ran_on=_ran_on(output, gpu),
    )


def _ran_on(output: str, gpu: bool) -> str:
    if gpu:
        applied = "Explicitly applied GPU delegate, and the model graph will be "
        if applied + "completely" in output:
            return "GPU"
        return "GPU in part" if applied + "partially" in output else "CPU, not GPU"
    return "CPU, XNNPACK" if "XNNPACK delegate for CPU" in output else "CPU"


def program_for(abi: str, path: Path | None = None, sha256: str | None = None) -> Path:
    """Finds ``benchmark_model`` for an architecture, and downloads it if it is not there.

    Args:
        abi: Android's name of the architecture, such as "arm64-v8a".
        path: A program that the user chose; by default the one in the cache folder.
        sha256: The SHA-256 to check it against, hexadecimal; None for no check.

    Returns:
        Path of a program for that architecture.

    Raises:
        OSError: It cannot be read, or could not be downloaded.
        ValueError: It is for another architecture, no program, or has another SHA-256.
    """
    remedy = "give another with --benchmark-model"
    if path is None:
        path = cache_folder() / f"benchmark_model-{abi}"
        remedy = "remove it, and the next call downloads it anew"
        if not path.exists():
            _download(abi, path)
    _check_machine(path, abi)
    if sha256 is not None and (found := digest(path)) != sha256.lower():
        raise ValueError(f"{path}: its SHA-256 is {found}, not {sha256.lower()}: {remedy}")
    return path


def digest(path: Path) -> str:
    """Computes the SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _download(abi: str, path: Path) -> None:
    if abi not in _BUILDS:
        raise ValueError(
            f"{abi}: there is no official benchmark_model for it, only for "
            f"{' and '.join(_BUILDS)}: build one and give it with --benchmark-model"
        )
    address = ADDRESS.format(_BUILDS[abi])
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(address, timeout=_DOWNLOAD_LIMIT) as reply:
            part.write_bytes(reply.read())
        _check_machine(part, abi)  # a proxy's page is no program
        part.replace(path)
    except (OSError, ValueError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        raise OSError(
            f"cannot download benchmark_model ({cause}): fetch {address} by hand and put it at "
            f"{path}, or give its path with --benchmark-model"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _check_machine(path: Path, abi: str) -> None:
    """Raises ValueError for a program that the device could not start."""
    if abi not in _MACHINES:
        raise ValueError(f"{abi}: unknown architecture, not one of {', '.join(_MACHINES)}")
    with path.open("rb") as file:
        head = file.read(20)
    if len(head) < 20 or head[:4] != b"\x7fELF":
        raise ValueError(f"{path}: not a program for Android: no ELF header")
    machine = int.from_bytes(head[18:20], "little")
    if machine != _MACHINES[abi]:
        raise ValueError(
            f"{path}: wrong ABI: it is for {_ABIS.get(machine, f'ELF machine {machine}')}, the "
            f"device is {abi}: give one for {abi} with --benchmark-model"
        )


def measure(
    device: Device,
    program: Path,
    path: str | os.PathLike[str],
    threads: Sequence[int] = (1,),
    runs: int = 100,
    gpu: bool = False,
) -> list[DeviceLatency | FailedRun]:
    """Measures a file's latency on a device, and leaves no file and no process there.

    Once a run has succeeded, the failure of another, such as that of a GPU, takes nothing away.

    Args:
        device: The device.
        program: A ``benchmark_model`` for its architecture; see ``program_for``.
        path: The ``.tflite`` file.
        threads: Numbers of CPU threads, each measured.
        runs: Timed runs. A tenth as many, at least 5, run before them to warm up.
        gpu: Whether to measure with the GPU too; what it does not take runs with the first
            number of threads.

    Returns:
        A result for each number of threads, then one for the GPU. A run without an end is the
        last.

    Raises:
        OSError: The device is full, refuses, or is gone; the first run of ``benchmark_model`` fails
            or does not come to an end.
        ValueError: Its output cannot be read.
    """
    # Names of their own: two commands may use a device at once.
    name = uuid.uuid4().hex[:12]
    remote_program, remote_model = f"{FOLDER}/{name}", f"{FOLDER}/{name}.tflite"

    def remove() -> None:
        device.shell(["rm", "-f", remote_program, remote_model])
        with contextlib.suppress(OSError):  # another command's files are in it
            device.shell(["rmdir", FOLDER])

    device.shell(["mkdir", "-p", FOLDER])
    try:
        device.push(program, remote_program)
        device.push(path, remote_model)
        device.shell(["chmod", "755", remote_program])
        results: list[DeviceLatency | FailedRun] = []
        command = [remote_program, f"--graph={remote_model}"]
        asked = [(number, False) for number in threads] + ([(threads[0], True)] if gpu else [])
        for number, use_gpu in asked:
            try:
                results.append(_run(device, command, number, runs, use_gpu))
            except (OSError, ValueError) as error:
                if not results:
                    raise
                results.append(FailedRun(number, "GPU" if use_gpu else "CPU", str(error)))
                if isinstance(error, TimeoutError):
                    _kill(device, name)
                    break
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, TimeoutError)):
            _kill(device, name)
        with contextlib.suppress(OSError):  # the first error says more
            remove()
        raise
    remove()
    return results


def _kill(device: Device, name: str) -> None:
    """Ends a program on a device by its name, which is no other's."""
    # The end of adb here is not the end of the program there, which nothing may answer any more.
    # toybox has pkill since Android 6.
    with contextlib.suppress(OSError):
        device.shell(["pkill", "-KILL", "-x", name])


def _run(device: Device, command: list[str], threads: int, runs: int, gpu: bool) -> DeviceLatency:
    output = device.shell(
        [
            *command,
            f"--num_threads={threads}",
            f"--warmup_runs={max(_MIN_WARMUP_RUNS, runs // 10)}",
            f"--num_runs={runs}",
            f"--use_gpu={str(gpu).lower()}",
            "--enable_op_profiling=false",
        ],
        RUN_LIMIT,
    )
    return parse(output, threads, gpu)


def latency_table(
    name: str, results: Sequence[DeviceLatency | FailedRun], host: Sequence[Latency]
) -> Table:
    """Lays out a device's latency beside this machine's in a table.

    Args:
        name: The device's model.
        results: The device's latencies, and runs that failed.
        host: This machine's latencies.

    Returns:
        A table to print with ``rich``, in milliseconds.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    table.add_column("ran on", no_wrap=True)
    for column in ("threads", "runs", "median ms", "p95 ms", "mean ms"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in results:
        if isinstance(one, FailedRun):
            _add(table, [name, f"{one.ran_on}: failed", str(one.num_threads), ""], [])
            continue
        figures = [one.median_ms, one.p95_ms, one.mean_ms]
        _add(table, [name, one.ran_on, str(one.num_threads), str(one.runs)], figures)
    for other in host:
        cells = ["this machine", "CPU", str(other.num_threads), str(other.runs)]
        _add(table, cells, [other.median_ms, other.p95_ms])
    return table


def _add(table: Table, cells: Sequence[str], figures: Sequence[float | None]) -> None:
    table.add_row(*cells, *("" if figure is None else f"{figure:.3f}" for figure in figures))
