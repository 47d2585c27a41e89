"""Every public name is documented, with an example that runs, and the documentation builds."""

import ast
import builtins
import collections
import doctest
import html
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
API_PAGES = sorted((ROOT / "docs" / "api").glob("*.rst"))
NAMES = [
    f"{package}.{name}"
    for package in ("keras_autoshrink", "tflite_export")
    for name in importlib.import_module(package).__all__
]
# Documented too: what public functions return, and what the tutorials take from its module.
FROM_MODULES = [
    "keras_autoshrink.training.checkpoint.TrainingCheckpoint",
    "keras_autoshrink.networks.language_model.language_model",
    "keras_autoshrink.data.images.ImageData",
    "keras_autoshrink.data.images.Split",
    "keras_autoshrink.data.text.TextData",
    "keras_autoshrink.training.language_model.TrainedText",
    "keras_autoshrink.training.language_model.train_model",
    "keras_autoshrink.training.classifier.Trained",
    "keras_autoshrink.training.classifier.architecture",
    "keras_autoshrink.data.text.Vocabulary",
    "tflite_export.file.description.Tensor",
]
# Of classes of the pages, what they inherit from ours, and what is called without a name.
MEMBERS = [
    "keras_autoshrink.AccuracyScore.__call__",
    "keras_autoshrink.AutoShrink.best_cell",
    "keras_autoshrink.AutoShrink.trajectory",
    "keras_autoshrink.PerplexityScore.__call__",
]
# What docstrings name and these pages cannot hold: other libraries, and files.
OUTSIDE = re.compile(r"(json|keras|keras_tuner|networkx|pandas|tf)\..+|.+\.(html|tokens|txt)")


def found(name):
    module, _, name = name.rpartition(".")
    return getattr(importlib.import_module(module), name)


def is_constant(thing):
    return not (inspect.isclass(thing) or inspect.isfunction(thing))


def members(cls):
    """The public methods and properties that a class defines itself, by name."""
    for name, member in vars(cls).items():
        if not name.startswith("_") and hasattr(type(member), "__get__"):
            yield name, getattr(member, "__func__", member)  # of a class method


def parameters(function):
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def described(parameter, doc):
    """Whether a line of Args or Attributes is about a parameter."""
    return re.search(rf"^    \*{{0,2}}{parameter}: ", doc, re.M)


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_has_a_docstring_with_an_example(name):
    thing = found(name)
    if is_constant(thing):
        return
    assert thing.__doc__
    doc = inspect.getdoc(thing)
    section = re.search(r"^Examples?:\n((?:    .*\n|\n)*)", doc + "\n", re.M)
    assert section, doc
    # Without an output it shows nothing, and all that its doctest can find is an error.
    assert any(example.want for example in doctest.DocTestParser().get_examples(section[1])), doc
    missing = [parameter for parameter in parameters(thing) if not described(parameter, doc)]
    assert not missing


@pytest.mark.parametrize("name", NAMES)
def test_an_example_imports_what_it_uses(name):
    thing = found(name)
    if is_constant(thing):
        return
    package = importlib.import_module(name.partition(".")[0])
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(thing))
    used, bound = set(), {*dir(builtins), *package.__all__}  # as by `from ... import *`
    for node in ast.walk(ast.parse("".join(example.source for example in examples))):
        match node:
            case ast.Name(id=id_, ctx=ast.Load()):
                used.add(id_)
            case ast.Name(id=id_) | ast.arg(arg=id_):
                bound.add(id_)
            case ast.FunctionDef(name=id_) | ast.ClassDef(name=id_) | ast.ExceptHandler(name=id_):
                bound.add(id_)
            case ast.alias(name=id_, asname=given):
                bound.add(given or id_)
    assert used <= bound


@pytest.mark.parametrize("name", [name for name in NAMES if inspect.isclass(found(name))])
def test_the_methods_of_a_public_class_have_docstrings(name):
    for member, method in members(found(name)):
        if any(hasattr(base, member) for base in found(name).__mro__[1:]):
            continue  # Keras or KerasTuner documents it
        doc = inspect.getdoc(method)
        assert doc, member
        if inspect.isfunction(method):
            for parameter in parameters(method):
                named = described(parameter, doc) or f"`{parameter}`" in doc
                assert named, f"{member}: {parameter}"


def documented():
    """Each public name on the pages, with what stands below its directive."""
    directive = r"^\.\. (?:autoclass|autofunction|py:data):: (\S+)\n((?:   .*\n|\n)*)"
    for page in API_PAGES:
        text = page.read_text(encoding="utf-8")
        (package,) = re.findall(r"^\.\. currentmodule:: (\S+)$", text, re.M)
        for name, body in re.findall(directive, text, re.M):
            yield name if "." in name else f"{package}.{name}", body


def test_the_pages_hold_the_public_names_each_once():
    counts = collections.Counter(name for name, _ in documented())
    assert counts == collections.Counter([*NAMES, *FROM_MODULES])


@pytest.mark.parametrize(
    "page",
    [page for page in API_PAGES if ">>> " in page.read_text(encoding="utf-8")],
    ids=lambda page: page.stem,
)
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failed, attempted = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert attempted
    assert not failed


def test_constants_have_an_example_on_their_page():
    for name, body in documented():
        assert ">>> " in body or not is_constant(found(name)), name


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the documentation as Sphinx builds it."""
    folder = tmp_path_factory.mktemp("documentation")
    sphinx = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-b", "html", "docs", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert sphinx.returncode == 0, sphinx.stderr
    return folder


def read(folder):
    """The text of all pages of a folder of the documentation."""
    return "".join(page.read_text(encoding="utf-8") for page in folder.glob("*.html"))


def unlinked(text):
    """What stands as code on a page, and is no link: whether it was to be one, and the code."""
    for link, classes, code in re.findall(r'(<a [^>]*>)?<code class="([^"]*)">(.*?)</code>', text):
        if not link:
            yield "xref" in classes, html.unescape(re.sub(r"<.*?>", "", code))


def test_the_documentation_builds_without_a_warning(built):
    index = (built / "index.html").read_text(encoding="utf-8")
    for folder in ("api", "benchmarks", "guide"):
        for page in (ROOT / "docs" / folder).iterdir():
            assert f'href="{folder}/{page.stem}.html"' in index
    text = read(built / "api")
    assert not [name for name in [*NAMES, *FROM_MODULES, *MEMBERS] if f'id="{name}"' not in text]
    # A colon in the first line about a result is read as the end of its type.
    assert not re.findall(r">(?:Return type|Type)<", text)


def test_a_name_in_a_docstring_is_that_of_something_documented(built):
    dead = set()
    for is_name, code in unlinked(read(built / "api")):
        name = code.partition("(")[0]  # of a call
        if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name) or OUTSIDE.fullmatch(name):
            continue
        ours = re.match(r"(?:keras_autoshrink|tflite_export)\.", name)
        # In lower case and without a dot it is a parameter or a value.
        if ours or (is_name and re.search(r"[A-Z.]", name)):
            dead.add(code)
    assert not dead


def test_the_benchmarks_and_the_tutorials_can_be_read_in_the_documentation(built):
    for page in (ROOT / "benchmarks").glob("*.md"):
        title = page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        assert f"<h1>{html.escape(title)}<" in (
            built / "benchmarks" / f"{page.stem}.html"
        ).read_text(encoding="utf-8")
    for notebook in (ROOT / "tutorials").glob("*.ipynb"):
        (copy,) = (built / "_downloads").glob(f"*/{notebook.name}")
        assert copy.relative_to(built).as_posix() in read(built / "guide")
    text = read(built / "guide") + read(built / "api")
    assert not [code for _, code in unlinked(text) if re.fullmatch(r"benchmarks/\w+\.md", code)]
    # The script to begin with, which is the README's.
    assert "tuner.search(" in re.sub(
        r"<.*?>", "", (built / "guide" / "search.html").read_text(encoding="utf-8")
    )
