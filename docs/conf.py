"""How Sphinx builds the documentation: `make docs`."""

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
        """Keeps the title, of which Sphinx would drop a leading dot."""
        _, target = super().process_link(env, refnode, has_explicit_title, title, target)
        return title, target


def setup(app: Sphinx) -> None:
    """Puts the role in the place of Sphinx's."""
    app.add_role_to_domain("py", "obj", ObjectRole(), override=True)
