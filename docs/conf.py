"""Sphinx's settings: `make docs` builds `docs/_build/html` with warnings as errors."""

import os
import pkgutil
import re
import sys
from importlib import import_module, metadata
from pathlib import Path

from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

project, author, copyright = "jtl", "the jtl authors", "the jtl authors"
try:
    release = metadata.version("jtl")
except metadata.PackageNotFoundError:
    release = "unknown"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme, html_title, html_static_path = "furo", "jtl", []
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["misc.highlighting_failure"]  # the maths of docstrings is no Python
# Notebooks keep their pictures: `make notebooks` runs them, this build shows what they stored.
nb_execution_mode = "off"
autodoc_default_options = {"members": True, "show-inheritance": False, "member-order": "bysource"}
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_rtype = False
napoleon_use_ivar = True  # autodoc documents each field itself: a second entry is a warning

# Links to the pages of other libraries need their inventories, so a network.
if os.environ.get("JTL_DOCS_ONLINE"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "jax": ("https://docs.jax.dev/en/latest", None),
        "optax": ("https://optax.readthedocs.io/en/latest", None),
    }

SPECIAL = re.compile(r"(`[^`]*`)|([*|\\])|(?<=\w)_(?=\W|$)")


def escaped(text: str) -> str:
    """Text of a docstring as reStructuredText: code in double backticks, signs of the maths kept as they are."""

    def one(found: re.Match) -> str:
        if not found[1]:
            return f"\\{found[0]}"
        plural = text[found.end() : found.end() + 1].isalnum()  # reStructuredText ends code before a blank only
        return f"`{found[1]}`" + ("\\ " if plural else "")

    return SPECIAL.sub(one, text)


def process_docstring(app, what, name, obj, options, lines):
    """Docstrings are plain text with Markdown's code spans, which may go over a line's end; examples stay."""
    del app, what, name, obj, options
    parts, example, margin = [("", False)], False, 0
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line.lstrip().startswith(">>>"):
            example, margin = True, indent
        elif not line.strip() or indent < margin:
            example = False
        if example == parts[-1][1]:
            parts[-1] = (f"{parts[-1][0]}\n{line}", example)
        else:
            parts.append((line, example))
    text = "\n".join(part if example else escaped(part) for part, example in parts)
    lines[:] = text.removeprefix("\n").split("\n")


WHOLE: dict[str, list[str]] = {}
"""Docstrings of attributes, which napoleon would cut at a colon into a type and a description."""


def keep(app, what, name, obj, options, lines):
    """Keeps the docstring of an attribute before napoleon reads it."""
    del app, obj, options
    if what in ("attribute", "data"):
        WHOLE[name] = list(lines)


def give_back(app, what, name, obj, options, lines):
    """Puts it back afterwards."""
    del app, what, obj, options
    if name in WHOLE:
        lines[:] = WHOLE.pop(name)


def skip_member(app, what, name, obj, skip, options):
    """Leaves out functions of other libraries, which may be defaults of fields, and fields whose text says nothing."""
    del app, what, options
    if callable(obj) and not name.startswith("_") and getattr(obj, "__name__", name).startswith("_"):
        return True  # the default of a field
    if str(getattr(obj, "__doc__", "")).startswith("Alias for field number"):  # the class describes its arguments
        return True
    return True if callable(obj) and not str(getattr(obj, "__module__", "jtl")).startswith("jtl") else skip


class Room(SphinxDirective):
    """`.. room:: jtl.data` documents all public modules of a package, or the one module of that name.

    Packages after the first name have pages of their own and are left out.
    """

    required_arguments, optional_arguments = 1, 9

    def run(self):
        """A heading and an `automodule` each; a new module needs no line here."""
        found = import_module(self.arguments[0])
        names = [found.__name__]
        if hasattr(found, "__path__"):
            walked = pkgutil.walk_packages(found.__path__, f"{found.__name__}.")
            names += [m.name for m in walked if not any(part.startswith("_") for part in m.name.split("."))]
        apart = self.arguments[1:]
        names = [n for n in names if not any(n == other or n.startswith(f"{other}.") for other in apart)]
        # A package's own names are imported from its modules, and stand there.
        text = [
            f"{name}\n{'-' * len(name)}\n\n.. automodule:: {name}\n"
            + ("   :no-members:\n" if hasattr(import_module(name), "__path__") else "")
            for name in names
        ]
        return self.parse_text_to_nodes("\n".join(text), allow_section_headings=True)


def setup(app):
    """Docstrings are read before napoleon reads their sections."""
    app.add_directive("room", Room)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("autodoc-process-docstring", process_docstring, priority=100)
    app.connect("autodoc-process-docstring", keep, priority=101)
    app.connect("autodoc-process-docstring", give_back, priority=900)
