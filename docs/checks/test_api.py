"""Every public name has its place in the documentation, with an example."""

import html
import importlib
import inspect
import re
from pathlib import Path

NAMES = [
    f"{package}.{name}"
    for package in ("keras_autoshrink", "tflite_export")
    for name in importlib.import_module(package).__all__
]
# What docstrings name and these pages cannot hold: other libraries, and files.
OUTSIDE = re.compile(r"(json|keras|keras_tuner|networkx|pandas|tf)\..+|.+\.(html|tokens|txt)")


def read(folder: Path) -> str:
    """Returns the text of all pages of a folder of the documentation."""
    return "".join(page.read_text(encoding="utf-8") for page in sorted(folder.glob("*.html")))


def test_every_public_name_is_documented_with_an_example(built):
    pages = read(built / "api")
    # A colon in the first line about a result is read as the end of its type.
    assert not re.findall(r">(?:Return type|Type)<.{,200}", pages, re.S)
    for name in NAMES:
        # What stands from its heading to the next one's, but for what a class has inside.
        start = pages.find(f'id="{name}"')
        assert start >= 0, f"{name}: is on no page of docs/api"
        entry = pages[start:].partition('<dt class="sig ')[0]
        package, _, last = name.partition(".")
        thing = getattr(importlib.import_module(package), last)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            doc = inspect.getdoc(thing)
            for parameter in inspect.signature(thing).parameters:
                assert re.search(rf"^    \*{{0,2}}{parameter}: ", doc, re.M), f"{name}: {parameter}"
        assert "&gt;&gt;&gt; " in entry, f"{name}: has no example"


def test_a_name_in_a_docstring_is_of_something_documented(built):
    dead = set()
    code = r'(<a [^>]*>)?<code class="([^"]*)">(.*?)</code>'
    for link, classes, text in re.findall(code, read(built / "api")):
        name = html.unescape(re.sub(r"<.*?>", "", text)).partition("(")[0]
        if link or not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name) or OUTSIDE.fullmatch(name):
            continue
        ours = re.match(r"(?:keras_autoshrink|tflite_export)\.", name)
        # In lower case and without a dot it is a parameter or a value.
        if ours or ("xref" in classes and re.search(r"[A-Z.]", name)):
            dead.add(name)
    assert dead == set()
