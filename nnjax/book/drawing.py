"""What the figures of the book are drawn with: one sheet, panels on it, one style."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from nnjax.plots import COLORS

__all__ = ["COLORS", "STROKES", "finish", "images", "legend", "panels", "sheet", "sign"]

STROKES = ("-", "--", ":", "-.")
"""Dash patterns, so that lines differ in more than their colour."""


def sheet(title: str, size: tuple[float, float]) -> Any:
    """Return an empty matplotlib figure with a title.

    Raises:
        ImportError: if matplotlib is missing.

    Example:
        >>> from nnjax.book.drawing import panels, sheet
        >>> figure = sheet("Figure 1.1: a perceptron", (6.0, 3.0))
        >>> len(panels(figure, 1, 2))
        2
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('figures require matplotlib: pip install "nnjax[plots]"') from None
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    figure.suptitle("\n".join(textwrap.wrap(title, int(11 * size[0]))), fontsize=11)
    return figure


def sign(figure: Any, text: str) -> None:
    """Write a line in small type below a figure."""
    figure.supxlabel(text, fontsize=6.5, color="0.45", x=0.99, ha="right")


def panels(figure: Any, rows: int, columns: int, **options: Any) -> list[Any]:
    """Return the axes of a grid, row by row."""
    return list(np.ravel(figure.subplots(rows, columns, **options)))


def finish(axes: Any, xlabel: str, ylabel: str, title: str = "") -> None:
    """Label axes, draw a light grid, and leave out the frame above and to the right."""
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def legend(axes: Any, **options: Any) -> None:
    """Name the lines of axes where there is room."""
    axes.legend(fontsize=8, frameon=False, **options)


def images(
    figure: Any, pictures: Sequence[Any], titles: Sequence[str], columns: int, **options: Any
) -> list[Any]:
    """Draw grey images in a grid, each below its title; return their axes."""
    rows = -(-len(pictures) // columns)
    axes = panels(figure, rows, columns)
    for panel in axes:
        panel.set_axis_off()
    for panel, picture, title in zip(axes, pictures, titles, strict=False):
        panel.imshow(np.asarray(picture), **{"cmap": "gray_r", **options})
        panel.set_title(title, fontsize=7, pad=2)
    return axes
