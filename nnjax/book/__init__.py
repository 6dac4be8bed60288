"""The book's figures, computed: every figure and experiment of its chapters 1 to 6 by number.

`FIGURES` lists them, `result` gives the numbers of one, `figure` draws it. The functions that
compute them are in one module per chapter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nnjax.book import chapter1, chapter2, chapter3, chapter4, chapter5, chapter6
from nnjax.book.figures import BookFigure, Result
from nnjax.book.setting import Setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "FIGURES",
    "BookFigure",
    "Result",
    "Setting",
    "chapter1",
    "chapter2",
    "chapter3",
    "chapter4",
    "chapter5",
    "chapter6",
    "figure",
    "result",
]

FIGURES: dict[str, BookFigure] = {
    each.number: each
    for chapter in (chapter1, chapter2, chapter3, chapter4, chapter5, chapter6)
    for each in chapter.FIGURES
}
"""The figures by number, in the order of the book."""


def result(number: str, seed: int | None = None, data_dir: Any = None) -> Result:
    """Return the numbers of a figure, computed or from its saved run.

    Args:
        number: such as "3.5": chapter and figure.
        seed: given: computed now with this seed, although there is a saved run.
        data_dir: the folder with the files of MNIST, for figures computed from it.

    Returns:
        A `Result`: `.numbers` by name, `.seed`, `.seconds`, `.versions`, `.draw()`.

    Raises:
        ValueError: if there is no such figure, or the seed is not an integer of at least 0.
        FileNotFoundError: if its saved run is missing.

    Example:
        >>> from nnjax import book
        >>> book.result("1.2").numbers["correct sums"]
        256
    """
    if number not in FIGURES:
        raise ValueError(f"there is no figure {number!r}; expected one of {', '.join(FIGURES)}")
    return FIGURES[number].result(seed, data_dir)


def figure(number: str, seed: int | None = None, data_dir: Any = None) -> Figure:
    """Return a figure drawn by matplotlib, to show or to save.

    Args, raises: see `result`; also ImportError, if matplotlib is missing.

    Example:
        >>> from nnjax import book
        >>> book.figure("1.1").get_suptitle()
        'Figure 1.1: A perceptron that computes NAND'
    """
    return result(number, seed, data_dir).draw()
