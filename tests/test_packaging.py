"""What is said of the package in several places is the same in all of them."""

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import keras_autoshrink

ROOT = Path(__file__).parent.parent
# No YAML parser is among the requirements: keys at the start of a line are all that is read.
CITATION = (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def top_level() -> dict[str, str]:
    return dict(re.findall(r"^([a-z-]+):[ ]?(.*)$", CITATION, re.M))


def setup_arguments() -> dict[str, ast.expr]:
    call = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body[-1].value
    return {keyword.arg: keyword.value for keyword in call.keywords}


def test_the_version_is_the_same_everywhere():
    version = keras_autoshrink.__version__
    assert ast.literal_eval(setup_arguments()["version"]) == version
    assert top_level()["version"] == version


def test_the_citation_names_the_package_its_licence_and_the_paper():
    found, given = top_level(), setup_arguments()
    assert found["cff-version"] == "1.2.0"
    assert {"message", "authors", "references"} <= found.keys()
    assert found["title"] == ast.literal_eval(given["name"])
    assert found["license"] == ast.literal_eval(given["license"])
    assert re.search(r"^  url: https://arxiv\.org/abs/1911\.09251$", CITATION, re.M)


def test_a_script_beside_an_editable_clone_imports_the_package_and_not_the_clone(tmp_path):
    clone, installed = tmp_path / "keras_autoshrink", tmp_path / "site"
    for package in ("keras_autoshrink", "tflite_export"):
        (clone / package).mkdir(parents=True)
        (clone / package / "__init__.py").touch()
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, clone)
    # What pip calls, and then unpacks.
    build = "from setuptools import build_meta; build_meta.build_editable('../site')"
    installed.mkdir()
    subprocess.run([sys.executable, "-c", build], cwd=clone, check=True, capture_output=True)
    with zipfile.ZipFile(next(installed.glob("*.whl"))) as wheel:
        wheel.extractall(installed)
    (tmp_path / "script.py").write_text(
        "import site; site.addsitedir('site'); import keras_autoshrink as kas; print(kas.__file__)"
    )
    # Without the packages of this process.
    script = [sys.executable, "-S", "script.py"]
    printed = subprocess.check_output(script, cwd=tmp_path, env={}, text=True)
    assert Path(printed.strip()) == clone / "keras_autoshrink" / "__init__.py"
