"""TensorFlow Lite's ``benchmark_model``: where the program comes from, and what it prints."""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from pathlib import Path

from tflite_export.caches import cache_folder

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
class DeviceLatency:
    """Milliseconds for one run of a file on a device, as ``benchmark_model`` gives them.

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
        runs: How many runs were timed. The program repeats for a second at least, so that there
            can be more than were asked for, and for 150 seconds at most.
        ran_on: What ran the file, as far as the program says it: "CPU", "CPU, XNNPACK", "GPU",
            "GPU in part", or "CPU, not GPU" where the GPU took nothing.
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


def parse(output: str, num_threads: int, gpu: bool = False) -> DeviceLatency:
    """Reads what ``benchmark_model`` printed.

    Args:
        output: Both its outputs.
        num_threads: CPU threads it was told to use.
        gpu: Whether it was told to use the GPU.

    Returns:
        Its result, in milliseconds.

    Raises:
        ValueError: The result is not there.
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
    """Finds the program for an architecture, and downloads it where it has to.

    Args:
        abi: Android's name of the architecture, such as "arm64-v8a".
        path: A program that the user chose; by default the one in the cache folder.
        sha256: What its SHA-256 has to be, hexadecimal; not checked by default.

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
    """The SHA-256 of a file, hexadecimal."""
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
    """Refuses a program that the device could not start."""
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
