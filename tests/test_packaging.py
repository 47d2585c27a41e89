"""What is said of the package in several places is the same in all of them."""

import ast
import re
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
