"""How results are shown in a notebook: tables in plain HTML, whatever comes in escaped.

Jupyter calls `_repr_html_` of the last value of a cell. The tables have no style of their own
beyond the alignment, so that they look like those of the notebook, in light and dark.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["heading", "preformatted", "shape_text", "table"]


def table(rows: Iterable[Sequence[Any]], numbers_from: int = 1) -> str:
    """Return an HTML table, its first row the heading.

    Args:
        rows: cells, shown as `str` shows them.
        numbers_from: the first column that is aligned to the right.

    Example:
        >>> from nnjax.display import table
        >>> print(table([("layer", "n"), ("dense<3>", 12)]))
        <table>
        <tr><th style="text-align:left">layer</th><th style="text-align:right">n</th></tr>
        <tr><td style="text-align:left">dense&lt;3&gt;</td><td style="text-align:right">12</td></tr>
        </table>
    """
    lines = []
    for number, row in enumerate(rows):
        tag = "td" if number else "th"
        cells = [
            f'<{tag} style="text-align:{"left" if k < numbers_from else "right"}">'
            f"{html.escape(str(cell))}</{tag}>"
            for k, cell in enumerate(row)
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join(["<table>", *lines, "</table>"])


def heading(text: str) -> str:
    """Return a line of text above a table.

    Example:
        >>> from nnjax.display import heading
        >>> heading("loss < 1")
        '<p><b>loss &lt; 1</b></p>'
    """
    return f"<p><b>{html.escape(text)}</b></p>"


def preformatted(text: str) -> str:
    """Return a text with its spaces and lines as they are.

    Example:
        >>> from nnjax.display import preformatted
        >>> preformatted("a < b")
        '<pre>a &lt; b</pre>'
    """
    return f"<pre>{html.escape(text)}</pre>"


def shape_text(sizes: Iterable[int]) -> str:
    """Return a shape in words.

    Example:
        >>> from nnjax.display import shape_text
        >>> shape_text((28, 28, 1)), shape_text(())
        ('28 x 28 x 1', 'scalar')
    """
    return " x ".join(map(str, sizes)) or "scalar"
