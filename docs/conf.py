"""How the documentation is built: `sphinx-build -W docs docs/_build`."""

import os
import re
import sys
from importlib.metadata import version as installed
from pathlib import Path

from docutils.nodes import SkipNode
from docutils.utils.math import latex2mathml

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import modules  # noqa: E402

modules.write(HERE / "reference")
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # for the pages that are executed

project = "nnjax"
author = "The nnjax authors"
copyright = author
version = release = installed("nnjax")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
suppress_warnings = ["myst.header", "config.cache"]
default_role = "literal"  # `x` in a docstring

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 240
nb_merge_streams = True

autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature has them
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_custom_sections = ["Differs from it", "Reference", "References"]

html_theme = "sphinx_book_theme"
html_title = "nnjax"
html_static_path = ["_static"]
html_css_files = ["nnjax.css"]
html_js_files = ["universality.js"]
html_math_renderer = "mathml"
html_theme_options = {
    "repository_url": "https://github.com/nnjax/nnjax",
    "path_to_docs": "docs",
    "use_repository_button": True,
    "show_toc_level": 2,
    "home_page_in_toc": True,
}
linkcheck_ignore = [r"https://github\.com/nnjax/.*"]

# What the docstrings write in Unicode: powers, indices, and characters that mean something in
# reStructuredText.
_POWER = re.compile(r"(?<=[\w)⁾])\^(?:\{([^}]*)\}|(\w+))")
_INDEX = re.compile(r"(?<![\w`])([A-Za-zα-ωΑ-Ω∇])_([a-zA-Z]{1,3}|\d)(?!\w)")


def _typeset(line: str) -> str:
    """Return a line of a docstring as reStructuredText, what stands in backticks untouched."""
    if re.match(r"\s*(>>>|\.\.\. )", line):
        return line
    parts = re.split(r"(`+[^`]*`+)", line)
    for i in range(0, len(parts), 2):
        text = re.sub(r"([*|])", r"\\\1", parts[i])
        text = re.sub(r"(\w)_(?!\w)", r"\1\\_", text)
        text = _POWER.sub(lambda m: rf"\ :sup:`{m[1] or m[2]}`\ ", text)
        parts[i] = _INDEX.sub(r"\1\\ :sub:`\2`\\ ", text)
    return "".join(parts)


def _process(app, what, name, obj, options, lines):
    in_doctest = False
    for i, line in enumerate(lines):
        in_doctest = line.strip().startswith(">>>") or (in_doctest and bool(line.strip()))
        if not in_doctest:
            lines[i] = _typeset(line)


def _inline(self, node):
    self.body.append(latex2mathml.tex2mathml(node.astext(), as_block=False))
    raise SkipNode


def _display(self, node):
    equation = latex2mathml.tex2mathml(node.astext(), as_block=True)
    self.body.append(f'<div class="math">{equation}</div>')
    raise SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    # Before napoleon, which looks for the sections.
    app.connect("autodoc-process-docstring", _process, priority=400)
