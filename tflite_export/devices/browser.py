"""Measures and checks ``.tflite`` files in a browser, of this machine or of a phone."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib.resources
import json
import math
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tflite_export.command_line import printable
from tflite_export.devices import litertjs
from tflite_export.devices.page_server import PageServer
from tflite_export.file.metadata import read_metadata
from tflite_export.latency import Latency, benchmark, sample_input
from tflite_export.runtime import invoke, load_interpreter

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

# Of an output: float32 files differ by 1e-7 or so, as their kernels add in another order.
TOLERANCE = 1e-3
_SAMPLES = 4
# Those that a LiteRT.js tensor can hold.
_DTYPES = ("float32", "int32", "uint8")
_IMPORT_MAP = re.compile(rb'<script type="importmap">(.*?)</script>', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Holds what a browser measured of a file.

    Attributes:
        user_agent: The browser's and device's name, as the browser sends it.
        median_ms: Latency of one run in milliseconds: half of the timings were at most this long.
        p95_ms: 95 of 100 timings were at most this long.
        runs: Number of timings.
        repeats: Number of runs that a timing is the mean of: browsers' clocks have coarse steps.
        max_abs_difference: The largest difference of an output from this machine's; NaN if there
            is a NaN in any.
        failure: Why the file could not be run; empty if it could.
    """

    user_agent: str
    median_ms: float = math.nan
    p95_ms: float = math.nan
    runs: int = 0
    repeats: int = 1
    max_abs_difference: float = math.nan
    failure: str = ""

    @property
    def agrees(self) -> bool:
        """Returns whether all outputs are within 1e-3 of this machine's."""
        return not self.failure and self.max_abs_difference <= TOLERANCE

    @classmethod
    def from_json(cls, body: bytes) -> Measurement:
        """Parses a measurement as the page posts it.

        Raises:
            ValueError: It is something else.
        """
        try:
            posted = json.loads(body)
            agent = _brief(posted["user_agent"])
            if "failure" in posted:
                return cls(agent, failure=_brief(posted["failure"]) or "no reason given")
            median, p95 = float(posted["median_ms"]), float(posted["p95_ms"])
            runs, repeats = int(posted["runs"]), int(posted["repeats"])
            difference = float(posted["max_abs_difference"])
        except (AttributeError, KeyError, OverflowError, TypeError, RecursionError) as error:
            raise ValueError(f"not a measurement: {error!r}") from error
        if not (0 <= median <= p95 < math.inf and min(runs, repeats) > 0 and not difference < 0):
            raise ValueError("not a measurement: numbers out of range")
        return cls(agent, median, p95, runs, repeats, difference)


def serve(
    path: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    runtime: Path | None = None,
    runs: int = 100,
    once: bool = False,
) -> int:
    """Serves a page that runs a file with LiteRT.js, and prints its measurements until Ctrl-C.

    Args:
        path: The ``.tflite`` file.
        host: The IPv4 address to listen on; the default can be reached from this machine only.
        port: The port; 0 takes any that is free.
        runtime: LiteRT.js, see ``litertjs.runtime_files``.
        runs: Timed runs, of this machine and of a browser, at least 1.
        once: Whether to end after the first measurement.

    Returns:
        0, or 1 if a browser could not run the file, or its outputs were others.

    Raises:
        KeyboardInterrupt: Ctrl-C before any measurement.
        OSError: LiteRT.js cannot be fetched, or the address cannot be listened on.
        ValueError: The file cannot be run, here or in a browser; ``runs`` is below 1.
    """
    path = Path(path)
    reference = reference_data(path)
    image, no_image = image_facts(path, reference)
    found = litertjs.runtime_files(runtime)
    here = benchmark(path, 1, runs)
    about = {
        **reference,
        "name": path.name,
        "size": path.stat().st_size,
        "runs": runs,
        "tolerance": TOLERANCE,
        "runtime": f"LiteRT.js {litertjs.version(found)}",
        "host": dataclasses.asdict(here),
        "image": image,
        "no_image": no_image,
    }
    page = _page("index.html")
    files: dict[str, bytes | Callable[[], bytes]] = {
        "": page,
        "run.js": _page("run.js"),
        "image.js": _page("image.js"),
        "about.json": json.dumps(about).encode(),
        "model.tflite": path.read_bytes(),
        **{f"runtime/{name}": file.read_bytes for name, file in found.items()},
    }
    server = PageServer(host, port, files, _policy(page), "measurement", Measurement.from_json)
    with server:
        # `shutdown` waits for the next poll.
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        print(f"open {server.url} in a browser; Ctrl-C ends", flush=True)
        if not server.is_local:
            print(
                "--host: whoever is on this network and has the address can fetch the model, and "
                "what goes over the network is not encrypted",
                flush=True,
            )
        try:
            return _report(server, path.name, here, about["runtime"], once)
        finally:
            server.shutdown()


def render(name: str, here: Latency, runtime: str, measured: Measurement) -> Table:
    """Lays out this machine's latency beside a browser's in a table.

    Args:
        name: The file's name.
        here: This machine's latency.
        runtime: The browser's runtime and its version.
        measured: The browser's measurement.

    Returns:
        A table to print with ``rich``.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(name), title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("", "runtime"):
        table.add_column(heading)
    for heading in ("median ms", "p95 ms", "timings", "runs in each"):
        table.add_column(heading, justify="right")
    rows = (
        ("this machine", here.measured_by, here.median_ms, here.p95_ms, here.runs, 1),
        (
            "browser",
            f"{runtime}, WebAssembly, 1 thread",
            measured.median_ms,
            measured.p95_ms,
            measured.runs,
            measured.repeats,
        ),
    )
    for where, what, median, p95, timings, repeats in rows:
        table.add_row(where, what, f"{median:.3f}", f"{p95:.3f}", f"{timings:,}", f"{repeats:,}")
    return table


def _report(server: PageServer, name: str, here: Latency, runtime: str, once: bool) -> int:
    """Prints measurements as they come in; returns the exit status."""
    from rich.console import Console

    # Wide: rich would cut columns to fit a narrow terminal or pipe.
    console = Console(width=200, highlight=False, markup=False)
    status = None
    try:
        while status is None or not once:
            measured: Measurement = server.posted.get()
            console.print(f"browser: {measured.user_agent}", soft_wrap=True)
            if measured.failure:
                console.print(f"it cannot run the file: {measured.failure}", soft_wrap=True)
            else:
                console.print(render(name, here, runtime, measured))
                verdict = "agree" if measured.agrees else "DO NOT AGREE"
                console.print(
                    f"largest difference {measured.max_abs_difference:.3g}: the browser's outputs "
                    f"{verdict} with this machine's (within {TOLERANCE:g})"
                )
            status = max(status or 0, int(not measured.agrees))
    except KeyboardInterrupt:
        if status is None:
            raise
    return status or 0


def _page(name: str) -> bytes:
    return (importlib.resources.files("tflite_export") / "web" / name).read_bytes()


def _policy(page: bytes) -> str:
    """Makes a Content-Security-Policy under which a page loads nothing from elsewhere."""
    import_map = _IMPORT_MAP.search(page)
    assert import_map, "the page has no import map"
    digest = base64.b64encode(hashlib.sha256(import_map[1]).digest()).decode()
    return (
        f"default-src 'none'; script-src 'self' 'wasm-unsafe-eval' 'sha256-{digest}'; "
        "style-src 'unsafe-inline'; connect-src 'self'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _brief(text: Any) -> str:
    """Shortens what a browser sent to a line to print."""
    return printable(str(text)[:500]).strip()


def reference_data(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Runs a file on a few fixed inputs, for a browser to compare its outputs with.

    Args:
        path: The ``.tflite`` file, with one signature and static shapes.

    Returns:
        For JSON: ``inputs`` and ``outputs``, the ``dtype`` and ``shape`` of each tensor by its name
        in the signature; and ``samples``, each of ``inputs`` and ``outputs`` by name, the bytes of
        the array (little-endian) in base64. Floats are uniform
        from 0 to 1, integers 0, which is an index into every table.

    Raises:
        ValueError: The file is not a ``.tflite`` file, LiteRT cannot run it, or LiteRT.js could
            not: dynamic shapes, tensors of other types than float32, int32 and uint8.
    """
    interpreter = load_interpreter(path)
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        raise ValueError(f"{Path(path)}: has {len(signatures)} signatures, not one")
    # LiteRT.js calls tensors by these names, too. The runner must not be kept: the interpreter
    # refuses to run while one refers to it.
    inputs = interpreter.get_signature_runner(*signatures).get_input_details()
    outputs = interpreter.get_signature_runner(*signatures).get_output_details()
    described = {
        kind: {name: _describe(tensor, f"{Path(path)}: {name}") for name, tensor in tensors.items()}
        for kind, tensors in (("inputs", inputs), ("outputs", outputs))
    }
    generator = np.random.default_rng(0)
    samples = []
    for _ in range(_SAMPLES):
        taken = {name: sample_input(tensor, generator) for name, tensor in inputs.items()}
        for name, values in taken.items():
            interpreter.set_tensor(inputs[name]["index"], values)
        invoke(interpreter)
        given = {name: interpreter.get_tensor(tensor["index"]) for name, tensor in outputs.items()}
        samples.append({"inputs": _encoded(taken), "outputs": _encoded(given)})
    return {**described, "samples": samples}


def image_facts(path: Path, reference: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Reads from a file's metadata how an image becomes its input, and the names of its classes.

    Args:
        path: The ``.tflite`` file.
        reference: The result of ``reference_data``.

    Returns:
        ``mean`` and ``std`` of each channel, ``pixel_max``, the value of white, by default 255, and
        ``class_names``; or None, and why there are none.

    Raises:
        ValueError: The metadata are damaged, or do not fit the file.
    """
    inputs, outputs = ([*reference[kind].values()] for kind in ("inputs", "outputs"))
    shapes = [tuple(tensor["shape"]) for tensor in (*inputs, *outputs)]
    if (
        [len(shape) for shape in shapes] != [4, 2]
        or {tensor["dtype"] for tensor in (*inputs, *outputs)} != {"float32"}
        or shapes[0][0] != 1
        or shapes[0][3] not in (1, 3)
    ):
        return None, "This file does not take an image and return classes."
    metadata = read_metadata(path)
    if metadata is None or not (metadata.labels and metadata.mean and metadata.std):
        return None, "For images, write labels, mean and std into the file with add_metadata."
    channels, classes = shapes[0][3], shapes[1][1]
    mean, std = (
        each * channels if len(each) == 1 else each for each in (metadata.mean, metadata.std)
    )
    white = 255.0 if metadata.pixel_max is None else metadata.pixel_max
    if (len(mean), len(std), len(metadata.labels)) != (channels, channels, classes):
        raise ValueError(
            f"{path}: its metadata have {len(mean)} means, {len(std)} deviations and "
            f"{len(metadata.labels)} labels for {channels} channels and {classes} classes"
        )
    if not (np.isfinite([*mean, *std, white]).all() and min(std) > 0 and white > 0):
        raise ValueError(f"{path}: mean must be finite, std and pixel_max above 0")
    return {
        "mean": list(mean),
        "std": list(std),
        "pixel_max": white,
        "class_names": list(metadata.labels),
    }, ""


def _describe(tensor: dict[str, Any], what: str) -> dict[str, Any]:
    dtype = np.dtype(tensor["dtype"]).name
    if dtype not in _DTYPES:
        raise ValueError(f"{what} is {dtype}; LiteRT.js takes {', '.join(_DTYPES)}")
    if min(tensor["shape_signature"].tolist(), default=0) < 0:
        raise ValueError(
            f"{what} has a dynamic shape, {tuple(tensor['shape_signature'].tolist())}; convert it "
            "with a static one"
        )
    return {"dtype": dtype, "shape": tensor["shape"].tolist()}


def _encoded(arrays: dict[str, npt.NDArray[Any]]) -> dict[str, str]:
    return {
        name: base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()
        for name, array in arrays.items()
    }
