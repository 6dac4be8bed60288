"""`nnjax book`: the figures of the book, listed or drawn."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nnjax.checks import did_you_mean
from nnjax.cli.console import show
from nnjax.files import write_atomically

__all__ = ["Book"]


@dataclass(frozen=True)
class Book:
    """Draw a figure of the book, computed by nnjax; without a number, list them all.

    The figures that take long show saved runs, unless a seed is given.
    """

    number: tyro.conf.Positional[Annotated[str | None, tyro.conf.arg(metavar="NUMBER")]] = None
    """Chapter and figure, such as 3.5 (default: list all figures)."""
    save: Path | None = None
    """File for the figure: PNG, SVG or PDF by its ending (default: figure-NUMBER.png)."""
    seed: int | None = None
    """Random seed: compute the figure now with this seed, even if there is a saved run."""
    data_dir: Path | None = None
    """Folder with the files of mnist."""
    json: bool = False
    """Print the list, or the numbers of the figure, as JSON, and draw nothing."""

    def __call__(self) -> None:
        from nnjax import book

        if self.number is None:
            if self.save is not None or self.seed is not None:
                raise ValueError("no figure to draw: give its number, such as nnjax book 3.5")
            listed = [_entry(figure) for figure in book.FIGURES.values()]
            show(json.dumps(listed, ensure_ascii=False) if self.json else _table(listed))
            return
        if self.number not in book.FIGURES:
            hint = did_you_mean(self.number, book.FIGURES)
            raise ValueError(
                f"there is no figure {self.number}{hint}; `nnjax book` lists them, "
                f"{', '.join(list(book.FIGURES)[:2])} and so on"
            )
        save = self.save or Path(f"figure-{self.number}.png")
        if save.suffix.lower() not in (".png", ".svg", ".pdf"):
            raise ValueError(f"--save is {save}; expected a file that ends in .png, .svg or .pdf")
        result = book.result(self.number, self.seed, self.data_dir)
        if self.json:
            show(json.dumps(result.to_dict(), ensure_ascii=False))
            return
        content = io.BytesIO()
        result.draw().savefig(content, format=save.suffix[1:].lower())
        write_atomically(save, content.getvalue())
        show(f"Figure {self.number}: {result.figure.title}")
        show(f"{result.figure.call}: {result.origin}")
        show(f"Saved in {save}")


def _entry(figure):
    return {
        "number": figure.number,
        "title": figure.title,
        "seconds": figure.seconds,
        "saved": figure.saved,
        "data": figure.data,
    }


def _table(listed):
    """Return the list as a table: the time is that of computing a figure on two cores."""
    lines, chapter = [], ""
    for entry in listed:
        if (of := entry["number"].split(".")[0]) != chapter:
            chapter = of
            lines += [""] * bool(lines) + [f"Chapter {chapter}"]
        seconds = entry["seconds"]
        time = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
        saved = "  saved" if entry["saved"] else ""
        lines.append(f"  {entry['number']:5}{entry['title']:57}{time:>7}{saved}".rstrip())
    return "\n".join(
        [*lines, "", "Time to compute on two cores; a saved figure is there at once.", "",
         "nnjax book 3.1 draws a figure, nnjax book 3.1 --json prints its numbers."]
    )  # fmt: skip
