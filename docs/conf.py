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
exclude_patterns = ["_build", "jupyter_execute"]
# Several classes have attributes of one name, such as `net`: no link is better than a wrong one.
suppress_warnings = ["myst.header", "config.cache", "ref.python"]
default_role = "literal"  # `x` in a docstring

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / ".jupyter_cache")
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_timeout = 240
nb_merge_streams = True

autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "show-inheritance": True,
    # scikit-learn adds these to its estimators, with links into its own manual
    "exclude-members": "set_fit_request, set_partial_fit_request, set_score_request",
}
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
    "navbar_persistent": [],  # one search field is enough
}
linkcheck_ignore = [r"https://github\.com/nnjax/.*"]

# What the docstrings write in Unicode: powers, indices, and characters that mean something in
# reStructuredText.
_POWER = re.compile(r"(?<=[\w)⁾])\^(?:\{([^}]*)\}|(\w+))")
_INDEX = re.compile(r"(?<![\w`])([A-Za-zα-ωΑ-Ω∇])_([a-zA-Z]{1,3}|\d)(?!\w)")
_SECTION = re.compile(r"[A-Z][\w ]*:$")  # "Args:" and the like
_NAME = re.compile(r"(\s+[\w*, ]+:)(?= )")  # of an argument
_NAMES = re.compile(r"^( +[\w*, ]+,)\n +(?=[\w*, ]+: )", re.MULTILINE)  # of several, in two lines


def _typeset(line: str) -> str:
    """Return a line as reStructuredText; what stands in backticks is left as it is."""
    name = _NAME.match(line)
    start = name.end() if name else 0
    parts = re.split(r"(`+[^`]*`+)", line[start:])
    for i in range(0, len(parts), 2):
        text = re.sub(r"([*|])", r"\\\1", parts[i])
        text = re.sub(r"(\w)_(?!\w)", r"\1\\_", text)
        text = _POWER.sub(lambda m: rf"\ :sup:`{m[1] or m[2]}`\ ", text)
        pieces = re.split(r"(:sup:`[^`]*`)", text)
        pieces[::2] = [_INDEX.sub(r"\1\\ :sub:`\2`\\ ", piece) for piece in pieces[::2]]
        parts[i] = "".join(pieces)
    return line[:start] + "".join(parts)


def _process(app, what, name, obj, options, lines):
    """Bring a docstring to reStructuredText: an indented block is kept as it is written."""
    lines[:] = _NAMES.sub(r"\1 ", "\n".join(lines)).split("\n")
    sections = [i for i, line in enumerate(lines) if _SECTION.match(line)]
    done, example, literal = [], False, False
    for i, line in enumerate(lines):
        indented = line.startswith("    ") and i < min(sections, default=len(lines))
        example = line.strip().startswith(">>>") or (example and bool(line.strip()))
        if indented and not literal and not lines[i - 1].strip() and not example:
            done += ["::", ""]
            literal = True
        literal = literal and (indented or not line.strip())
        done.append(line if example or literal else _typeset(line))
    lines[:] = [] if done and done[0].startswith("Alias for field number") else done


def _rejoin(app, what, name, obj, options, lines):
    """Put a sentence with a colon together again, of which napoleon makes a type and the rest."""
    if what in ("attribute", "property", "data"):
        types = [i for i, line in enumerate(lines) if line.startswith(":type: ")]
        for i in types[:1]:
            lines[0] = f"{lines.pop(i).removeprefix(':type: ')}: {lines[0]}"


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
    app.connect("autodoc-process-docstring", _rejoin, priority=600)
