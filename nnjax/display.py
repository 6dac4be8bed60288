"""How results are shown in a notebook: tables in plain HTML, whatever comes in escaped.

Jupyter calls `_repr_html_` of the last value of a cell. The tables have no style of their own
beyond the alignment, so that they look like those of the notebook, in light and dark.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

__all__ = ["heading", "is_number", "preformatted", "shape_text", "table", "table_of_pass"]


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


def is_number(value: Any) -> bool:
    """Whether an array can be shown as one number: under `vmap` and `jit` results hold no numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.display import is_number
        >>> is_number(jnp.array(0.5)), is_number(jnp.zeros(2))
        (True, False)
    """
    return jnp.ndim(value) == 0 and not isinstance(value, jax.core.Tracer)


def table_of_pass(passed: Any, changes: Any, change: str) -> str | None:
    """Return the layers of a `Backprop` or `FeedbackPass`: shapes, and sizes.

    Args:
        passed: one backward pass.
        changes: the gradient or the updates, one entry per layer.
        change: what they are called.

    Returns:
        None for passes stacked by `jax.vmap`, which a notebook then shows as any other tuple.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> from nnjax.display import table_of_pass
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> bp = nnjax.backprop(net, params, jnp.eye(3), jnp.array([0, 1, 1]))
        >>> table_of_pass(bp, bp.grads, "∂C/∂(w, b)").count("<tr>")
        2
    """
    if not is_number(passed.loss):
        return None
    rows = [("layer", "activations a", "errors δ", "mean ‖δ‖", f"‖{change}‖")]
    for l, (a, delta, own) in enumerate(
        zip(passed.activations[1:], passed.errors, changes, strict=True), start=1
    ):
        size = jnp.linalg.norm(delta.reshape(len(delta), -1), axis=1).mean()
        squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(own)]
        norm = f"{jnp.sqrt(sum(squares)):.3g}" if squares else ""
        rows.append((str(l), shape_text(a.shape), shape_text(delta.shape), f"{size:.3g}", norm))
    n = len(passed.targets)
    return heading(f"loss C = {passed.loss:.6g}, the mean over {n} examples") + table(rows)
