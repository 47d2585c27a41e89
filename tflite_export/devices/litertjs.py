"""Finds LiteRT.js, by which browsers run ``.tflite`` files, or fetches it with npm.

It is not part of this package: its WebAssembly takes tens of megabytes.
"""

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tflite_export.devices import cache_folder

VERSION = "2.5.3"
# What https://registry.npmjs.org has for these versions. Without the second the first, which
# imports it, does not load.
_PACKAGES = {
    "core": (
        "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ=="
    ),
    "wasm-utils": (
        "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ=="
    ),
}
# What the page loads: "compat" where the browser has no relaxed SIMD. The other builds are for
# threads, which want a page over HTTPS, and for GPUs.
_FILES = (
    "core/dist/index.js",
    "core/wasm/litert_wasm_compat_internal.js",
    "core/wasm/litert_wasm_compat_internal.wasm",
    "core/wasm/litert_wasm_internal.js",
    "core/wasm/litert_wasm_internal.wasm",
    "wasm-utils/dist/index.js",
)
_BY_HAND = (
    f"run `npm install @litertjs/core@{VERSION} @litertjs/wasm-utils@{VERSION}` where there is a "
    "network, and name what it makes with --runtime node_modules/@litertjs"
)


def runtime_files(folder: Path | None = None) -> dict[str, Path]:
    """Finds the files of LiteRT.js that a page needs.

    Args:
        folder: Holds the packages as folders ``core`` and ``wasm-utils``, as
            ``node_modules/@litertjs`` does. By default the folder ``tflite_export`` of the user's
            caches, into which they are fetched if they are not there.

    Returns:
        The path of each file, by its path within the folder.

    Raises:
        OSError: They are not there and cannot be fetched.
        ValueError: ``folder`` lacks a file; what was fetched is not what it should be.
    """
    if folder is None:
        folder = fetched_folder()
        if _missing(folder):
            print(f"fetching LiteRT.js {VERSION} (12 MB) with npm, into {folder}", flush=True)
            _fetch(folder)
    missing = _missing(folder)
    if missing:
        raise ValueError(f"{folder}: not LiteRT.js, it has no {missing[0]}; {_BY_HAND}")
    return {name: folder / name for name in _FILES}


def version(files: dict[str, Path]) -> str:
    """Reads the version of LiteRT.js from its package."""
    package = files["core/dist/index.js"].parents[1] / "package.json"
    try:
        return str(json.loads(package.read_text(encoding="utf-8"))["version"])
    except (OSError, KeyError, TypeError, ValueError):
        return "of an unknown version"


def fetched_folder() -> Path:
    """Returns the folder where a fetched LiteRT.js is kept."""
    return cache_folder() / f"litertjs-{VERSION}"


def unpack(archive: Path, integrity: str, folder: Path) -> None:
    """Unpacks a package that npm has fetched, after a check of its hash.

    Args:
        archive: The ``.tgz`` file.
        integrity: The expected SHA-512 in base64.
        folder: The folder to make for the package's files.

    Raises:
        ValueError: The archive has another SHA-512.
    """
    data = archive.read_bytes()
    digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
    if digest != integrity:
        raise ValueError(
            f"{archive.name}: its SHA-512 is {digest}, not {integrity}: npm's registry has sent "
            f"something else than LiteRT.js {VERSION}, and nothing of it was kept"
        )
    folder.mkdir()
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")


def _missing(folder: Path) -> list[str]:
    return [name for name in _FILES if not (folder / name).is_file()]


def _fetch(folder: Path) -> None:
    """Fetches all packages into a folder at once, or none."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        place = Path(name)
        ready = place / "ready"
        ready.mkdir()
        for package, integrity in _PACKAGES.items():
            unpacked = place / package
            unpack(_pack(package, place), integrity, unpacked)
            # npm's archives hold one folder of this name.
            (unpacked / "package").rename(ready / package)
        if _missing(folder):  # and not fetched by another process meanwhile
            shutil.rmtree(folder, ignore_errors=True)
            ready.rename(folder)


def _pack(package: str, place: Path) -> Path:
    """Fetches a package's archive with npm.

    Raises:
        OSError: There is no npm, or it fails.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise OSError(f"LiteRT.js {VERSION} is missing, and npm to fetch it too; {_BY_HAND}")
    name = f"@litertjs/{package}@{VERSION}"
    try:
        ran = subprocess.run(
            [npm, "pack", "--ignore-scripts", name],
            cwd=place,
            capture_output=True,
            text=True,
            timeout=600,
        )
        # Its last line names a log; the first with "error" says what was wrong.
        said = [line for line in ran.stderr.splitlines() if "error" in line.lower()]
    except subprocess.TimeoutExpired as error:
        raise OSError(f"npm took more than 10 minutes to fetch {name}; {_BY_HAND}") from error
    archive = place / f"litertjs-{package}-{VERSION}.tgz"
    if ran.returncode or not archive.is_file():
        reason = said[0] if said else f"exit status {ran.returncode}"
        raise OSError(f"npm cannot fetch {name} ({reason}); {_BY_HAND}")
    return archive
