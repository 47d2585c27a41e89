"""``python -m tflite_export serve``: who is served what, and a browser that runs the file."""

import base64
import contextlib
import hashlib
import http.client
import json
import math
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import chromium
import keras
import numpy as np
import pytest
from exported import refusal
from keras import layers
from PIL import Image

import tflite_export
from tflite_export.__main__ import main
from tflite_export.devices import browser, litertjs
from tflite_export.devices.browser import Measurement, image_facts, reference_data
from tflite_export.devices.page_server import PageServer
from tflite_export.runtime import load_interpreter

AGENT = "Some browser"
GOOD = {
    "user_agent": AGENT,
    "median_ms": 1.5,
    "p95_ms": 2.5,
    "runs": 10,
    "repeats": 1,
    "max_abs_difference": "1e-7",
}
CLASSES = list("abcdefghij")
FACTS = {"mean": [8.0], "std": [4.0], "class_names": CLASSES, "pixel_max": 16.0}


@pytest.fixture(scope="module")
def folder(exported, tmp_path_factory):
    """A network's file with its metadata, one of tokens, and what looks like LiteRT.js."""
    folder = tmp_path_factory.mktemp("serve")
    path = folder / "net.tflite"
    path.write_bytes(exported.path().read_bytes())
    tflite_export.add_metadata(path, labels=CLASSES, mean=[8], std=[4], pixel_max=16)
    tokens = keras.Sequential([keras.Input((3,), dtype="int32"), layers.Embedding(20, 8)])
    tflite_export.convert(tokens, folder / "tokens.tflite")
    for name in litertjs._FILES:
        (folder / "litertjs" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "litertjs" / name).write_text(f"this is {name}")
    return folder


@contextlib.contextmanager
def serving(folder, *arguments):
    """The command in a process of its own, and the address that it printed."""
    with subprocess.Popen(
        [sys.executable, "-m", "tflite_export", "serve", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(tflite_export.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            line = process.stdout.readline()
            found = re.match(r"open http://([\d.]+):(\d+)(/[\w-]+/) in a browser", line)
            assert found, (line, process.stderr.read())
            process.address, process.port, process.page = found[1], int(found[2]), found[3]
            yield process
        finally:
            process.kill()


def request(server, path, method="GET", body=None, host=None, length=None):
    """The status, headers and body of an answer; the path goes out as it stands."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_host=True)
        for value in [f"127.0.0.1:{server.port}"] if host is None else host:
            connection.putheader("Host", value)
        if body is not None:
            connection.putheader("Content-Length", length or str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder, "net.tflite", "--runs", "10", "--runtime", "litertjs") as server:
        yield server


def test_all_that_the_page_needs_is_served(server, folder):
    status, headers, page = request(server, server.page)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Referrer-Policy"] == "no-referrer"
    import_map = re.search(rb'<script type="importmap">(.*?)</script>', page, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(import_map).digest()).decode()
    assert f"'sha256-{digest}'" in headers["Content-Security-Policy"]
    assert b"http" not in page  # nothing from elsewhere
    model = request(server, f"{server.page}model.tflite")[2]
    assert model == (folder / "net.tflite").read_bytes()
    assert request(server, f"{server.page}run.js")[1]["Content-Type"].startswith("text/javascript")
    for name in litertjs._FILES:
        assert request(server, f"{server.page}runtime/{name}")[2] == f"this is {name}".encode()
    about = json.loads(request(server, f"{server.page}about.json?x=1")[2])
    assert (about["name"], about["image"]) == ("net.tflite", FACTS)
    assert about["host"]["median_ms"] > 0
    # An address may have lost its last slash on the way.
    status, headers, body = request(server, server.page[:-1])
    assert (status, headers["Location"], body) == (308, server.page, b"")


def test_without_the_token_nothing_is_served(server):
    for path in (
        *("*", "/", "//", "/../", "/model.tflite", "/wrong/", "/wrong/model.tflite"),
        *("/%2e%2e/model.tflite", "http://127.0.0.1/model.tflite"),
        *(f"{server.page[:-2]}/", f"{server.page[:-1]}x/", server.page.swapcase()),
    ):
        assert request(server, path)[::2] == (403, b""), path
        assert request(server, path, "POST", b"{}")[::2] == (403, b""), path
    assert len(server.page) >= 22


def test_only_what_the_page_needs_is_served(server):
    for name in (
        *("x", "measurement", "index.html", "./run.js", "net.tflite", "../net.tflite"),
        *("%2e%2e/net.tflite", "..%2fnet.tflite", "..\\net.tflite", "runtime/", "/etc/passwd"),
        *("runtime/core/package.json", "runtime/../model.tflite", "runtime/../../net.tflite"),
    ):
        assert request(server, server.page + name)[::2] == (404, b""), name


def test_only_this_server_s_own_names_are_answered(server):
    port = server.port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}"):
        assert request(server, server.page, host=[host])[0] == 200
    wrong = ["evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", ""]
    wrong += [f"127.0.0.1:{port}.evil.example", f"127.0.0.2:{port}", f"0.0.0.0:{port}"]
    for host in wrong:
        assert request(server, server.page, host=[host])[::2] == (403, b"")
        assert request(server, f"{server.page}measurement", "POST", b"{}", [host])[0] == 403
    assert request(server, server.page, host=[])[0] == 403
    assert request(server, server.page[:-1], host=["evil.example"])[0] == 403
    assert request(server, server.page, host=[f"localhost:{port}", "evil.example"])[0] == 403


def test_what_is_no_measurement_is_refused():
    changes = (
        {"median_ms": "x"},
        {"median_ms": None},
        {"p95_ms": 0.5},
        {"p95_ms": float("inf")},
        {"runs": 0},
        {"max_abs_difference": "-1"},
    )
    for body in ("", "[]", "{}", "[" * 50_000, *(json.dumps(GOOD | bad) for bad in changes)):
        with pytest.raises(ValueError, match=r"\w"):
            print(Measurement.from_json(body.encode()))  # seen where nothing is raised


def test_posts_that_are_refused(server):
    assert request(server, f"{server.page}measurement", "POST", b"{}")[0] == 400
    assert request(server, f"{server.page}x", "POST", b"{}")[0] == 404
    assert request(server, f"{server.page}measurement", "POST", b" " * 65_537)[0] == 413
    assert request(server, f"{server.page}measurement", "POST")[0] == 413
    for length in ("65537", "9" * 5_000, "-1", "1_0", "\xb2"):
        answer = request(server, f"{server.page}measurement", "POST", b"", length=length)
        assert answer[0] == 413


def test_measurements_are_printed_until_ctrl_c(server):
    for number in (1, 2):
        body = json.dumps({**GOOD, "user_agent": f"{AGENT} {number}\x1b[2J"}).encode()
        assert request(server, f"{server.page}measurement", "POST", body)[0] == 204
        assert server.stdout.readline() == f"browser: {AGENT} {number}\\x1b[2J\n"
        printed = ""
        while "largest difference" not in printed:
            printed += server.stdout.readline()
        assert re.search(r"this machine +LiteRT .* \d+\.\d{3} +\d+\.\d{3} +10 +1 ", printed)
        assert re.search(r"browser +LiteRT.js of an .* 1\.500 +2\.500 +10 +1 ", printed)
        assert "difference 1e-07: the browser's outputs agree with" in printed
    server.send_signal(signal.SIGINT)
    rest, error = server.communicate(timeout=60)
    assert (server.returncode, rest, error) == (0, "", "")


class Posted(PageServer):
    """A server to which one measurement has been posted when it begins."""

    body = json.dumps(GOOD).encode()

    def serve_forever(self, *arguments):
        if self.body is not None:
            self.posted.put(self.parse(self.body))
        super().serve_forever(*arguments)


@pytest.mark.parametrize(
    ("posted", "status", "line"),
    [
        ({"max_abs_difference": "1e-3"}, 0, "the browser's outputs agree"),
        ({"max_abs_difference": "1.1e-3"}, 1, "the browser's outputs DO NOT AGREE"),
        ({"max_abs_difference": "NaN"}, 1, "largest difference nan: the browser's outputs DO NOT"),
        ({"failure": "no memory"}, 1, "it cannot run the file: no memory"),
    ],
)
def test_once_ends_with_the_measurement_s_verdict(
    folder, monkeypatch, capsys, posted, status, line
):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(browser, "PageServer", Posted)
    monkeypatch.setattr(Posted, "body", json.dumps({**GOOD, **posted}).encode())
    options = ["--runs", "1", "--once", "--runtime", "litertjs", "--host", "0.0.0.0"]
    assert main(["serve", "net.tflite", *options]) == status
    printed = capsys.readouterr().out
    assert line in printed
    assert "--host: whoever is on this network" in printed


def test_ctrl_c_without_a_measurement_is_an_interruption(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(browser, "PageServer", Posted)
    monkeypatch.setattr(Posted, "body", None)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(browser, "_report", interrupted)
    command = "serve net.tflite --runs 1 --runtime litertjs"
    assert refusal(capfd, command, 130, "open http://127.0.0.1:") == "interrupted"


def test_another_host_s_own_address_answers():
    with PageServer("0.0.0.0", 0, {"": b"page"}, "policy", "x", Measurement.from_json) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.port = server.server_port
        path = f"/{server.token}/"
        assert not server.is_local
        assert server.url.endswith(f":{server.port}{path}")
        assert "0.0.0.0" not in server.url
        assert request(server, path)[0] == 200
        assert request(server, path, host=[f"192.0.2.1:{server.port}"])[0] == 403
        server.shutdown()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("missing.tflite", "missing.tflite: not a .tflite file: No such file or directory"),
        ("net.tflite --runtime nowhere", "nowhere: not LiteRT.js, it has no core/dist/"),
        (
            "net.tflite --runtime litertjs --host 192.0.2.1",
            "--host 192.0.2.1 --port 0: cannot listen there: Cannot assign requested address",
        ),
    ],
)
def test_bad_input_is_one_line(folder, monkeypatch, capfd, arguments, message):
    monkeypatch.chdir(folder)
    assert refusal(capfd, f"serve {arguments}").startswith(message)


def test_the_reference_is_what_litert_computes(folder):
    reference = reference_data(folder / "net.tflite")
    assert reference == reference_data(folder / "net.tflite")
    ((name, tensor),) = reference["inputs"].items()
    assert tensor == {"dtype": "float32", "shape": [1, 8, 8, 1]}
    inputs = [
        np.frombuffer(base64.b64decode(sample["inputs"][name]), np.float32)
        for sample in reference["samples"]
    ]
    assert len({values.tobytes() for values in inputs}) == len(inputs) == 4
    assert all(0 <= values.min() < values.max() <= 1 for values in inputs)
    assert [*reference["outputs"].values()] == [{"dtype": "float32", "shape": [1, 10]}]


def test_facts_for_images_are_the_file_s_metadata(exported, folder, monkeypatch):
    path = folder / "net.tflite"
    reference = reference_data(path)
    assert image_facts(path, reference) == (FACTS, "")
    assert image_facts(exported.path(), reference)[1].startswith("For images, write labels, mean")
    tokens = folder / "tokens.tflite"
    assert image_facts(tokens, reference_data(tokens))[1].startswith("This file does not take an")
    whole = {"labels": tuple(CLASSES), "mean": (8.0,), "std": (4.0,)}
    for changes, message in (
        ({"mean": (1.0, 2.0), "std": (1.0, 2.0)}, "its metadata have 2 means, 2 deviations and 10"),
        ({"labels": ("a",)}, "its metadata have 1 means, 1 deviations and 1 labels for 1 channels"),
        ({"std": (0.0,)}, "mean must be finite, std and pixel_max above 0"),
        ({"mean": (math.inf,)}, "mean must be finite, std and pixel_max above 0"),
    ):
        metadata = tflite_export.Metadata(**whole | changes)
        monkeypatch.setattr(browser, "read_metadata", lambda _, metadata=metadata: metadata)
        with pytest.raises(ValueError, match=message):
            image_facts(path, reference)
    monkeypatch.setattr(browser, "read_metadata", lambda _: tflite_export.Metadata(**whole))
    assert image_facts(path, reference) == (FACTS | {"pixel_max": 255}, "")


def archive(folder, name="package/dist/index.js"):
    path, source = folder / "package.tgz", folder / "source"
    source.write_text("code")
    with tarfile.open(path, "w:gz") as file:
        file.add(source, name)
    return path, base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def test_a_package_is_unpacked_whole_or_not_at_all(tmp_path):
    path, integrity = archive(tmp_path)
    litertjs.unpack(path, integrity, tmp_path / "good")
    assert (tmp_path / "good" / "package" / "dist" / "index.js").read_text() == "code"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=r"package.tgz: its SHA-512 is .*, and nothing of it was"):
        litertjs.unpack(path, integrity, tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
    path, integrity = archive(tmp_path, "../outside")
    with pytest.raises(tarfile.FilterError):
        litertjs.unpack(path, integrity, tmp_path / "unsafe")
    assert not (tmp_path / "outside").exists()


def npm(folder, script):
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    return str(folder)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "npm to fetch it too; run `npm install @litertjs/core@2.5.3 "),
        ("echo 'npm error no network' >&2; exit 1", "npm cannot fetch @litertjs/core@2.5.3 (npm e"),
        ("echo other > litertjs-core-2.5.3.tgz", "litertjs-core-2.5.3.tgz: its SHA-512 is "),
    ],
)
def test_what_cannot_be_fetched_leaves_nothing(tmp_path, monkeypatch, capsys, script, message):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv("PATH", npm(tmp_path / "bin", script) if script else str(tmp_path))
    with pytest.raises((OSError, ValueError), match=re.escape(message)):
        litertjs.runtime_files()
    assert capsys.readouterr().out.startswith("fetching LiteRT.js 2.5.3 (12 MB) with npm, into ")
    assert not litertjs.fetched_folder().exists()
    assert [*litertjs.fetched_folder().parent.iterdir()] == []


@pytest.fixture(scope="module")
def real_runtime(tmp_path_factory):
    """LiteRT.js itself, from npm's registry."""
    if chromium.PROGRAM is None:
        pytest.skip("there is no chromium")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
        try:
            litertjs.runtime_files()
        except OSError as error:
            pytest.skip(f"LiteRT.js cannot be fetched: {error}")
        assert litertjs.version(litertjs.runtime_files()) == litertjs.VERSION
        return litertjs.fetched_folder()


def test_a_browser_runs_the_file_and_tells_an_image(folder, real_runtime, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    arguments = ("net.tflite", "--once", "--runtime", str(real_runtime))
    with (
        serving(folder, *arguments) as server,
        chromium.chromium(tmp_path / "profile") as page,
    ):
        page.open(f"http://127.0.0.1:{server.port}{server.page}")
        page.wait_for("#status", "Measured, and sent to the terminal.")
        assert page.text("#agreement").endswith(", agrees")
        assert float(page.text("#median")) > 0
        printed, error = server.communicate(timeout=60)
        page.choose_file("#file", tmp_path / "image.png")
        page.wait_for("#classes", "%")
        classes = dict(line.split() for line in page.text("#classes").splitlines())
    assert (server.returncode, error) == (0, "")
    assert "HeadlessChrome" in printed
    assert re.search(r"browser +LiteRT.js 2.5.3, WebAssembly, 1 thread +\d", printed)
    assert "the browser's outputs agree with this machine's" in printed
    interpreter = load_interpreter(folder / "net.tflite")
    pixels = (image[None, ..., None] * np.float32(16 / 255) - 8) / 4
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels.astype(np.float32))
    interpreter.invoke()
    expected = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
    assert len(classes) > 1
    for name, share in classes.items():
        want = 100 * expected[CLASSES.index(name)]
        assert float(share.rstrip("%")) == pytest.approx(want, abs=0.1)


def test_a_browser_runs_a_file_of_tokens_and_finds_other_outputs(
    folder, real_runtime, tmp_path, monkeypatch
):
    def altered(path):
        reference = reference_data(path)
        name, values = next(iter(reference["samples"][3]["outputs"].items()))
        numbers = np.frombuffer(base64.b64decode(values), np.float32) + np.float32(0.01)
        reference["samples"][3]["outputs"][name] = base64.b64encode(numbers.tobytes()).decode()
        return reference

    class Watched(PageServer):
        def serve_forever(self, *arguments):
            watching.append(threading.Thread(target=look, args=[self]))
            watching[0].start()
            super().serve_forever(*arguments)

    def look(server):
        with chromium.chromium(tmp_path / "profile") as page:
            page.open(server.url)
            page.wait_for("#status", "Measured")
            seen.append(page.text("#agreement"))

    seen, watching = [], []
    monkeypatch.setattr(browser, "PageServer", Watched)
    monkeypatch.setattr(browser, "reference_data", altered)
    assert browser.serve(folder / "tokens.tflite", runtime=real_runtime, runs=10, once=True) == 1
    watching[0].join()
    assert [text.split(", ")[1] for text in seen] == ["DOES NOT AGREE"]
    assert "1.0e-2" in seen[0]  # the other samples are the same
