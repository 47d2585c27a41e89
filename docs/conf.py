"""How Sphinx builds the documentation: `make docs`."""

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole
from sphinx.environment import BuildEnvironment

import keras_autoshrink

project = "keras_autoshrink"
copyright = "the authors of keras_autoshrink, Apache-2.0"
release = keras_autoshrink.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
default_role = "py:obj"
smartquotes_action = "D"  # a "float32" is copied as it stands

myst_heading_anchors = 3
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 80

html_theme = "furo"
html_title = project
html_show_sourcelink = False
html_copy_source = False


class ObjectRole(PyXRefRole):
    """A link where it names a documented thing; else the code as it stands, such as `.tflite`."""

    def process_link(
        self,
        env: BuildEnvironment,
        refnode: object,
        has_explicit_title: bool,
        title: str,
        target: str,
    ) -> tuple[str, str]:
        """Keeps the title, of which Sphinx would drop a leading dot, and finds what is called."""
        _, target = super().process_link(env, refnode, has_explicit_title, title, target)
        target = target.partition("(")[0]
        # The name of a class is known in all modules, and one with its module's in all packages.
        if target[:1].isupper() or "." in target:
            refnode["refspecific"] = True
        return title, target


# How docstrings and the guide call pages, in places where their reader may have no links.
_PAGE = re.compile(r"(?:docs/)?((?:api|benchmarks|guide)/\w+)(?:\.md)?")


def link_pages(app: Sphinx, doctree: nodes.document, name: str) -> None:
    """Makes links of pages that are named as code: `benchmarks/phone.md`, `docs/api/scores`."""
    for code in list(doctree.findall(nodes.literal)):
        page = _PAGE.fullmatch(code.astext())
        if page and page[1] in app.env.found_docs and not isinstance(code.parent, nodes.reference):
            link = nodes.reference(
                internal=True, refuri=app.builder.get_relative_uri(name, page[1])
            )
            code.replace_self(link)
            link += code


def setup(app: Sphinx) -> None:
    """Puts the role in the place of Sphinx's, and makes links of names of pages."""
    app.add_role_to_domain("py", "obj", ObjectRole(), override=True)
    app.connect("doctree-resolved", link_pages)
