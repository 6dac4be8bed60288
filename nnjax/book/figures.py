"""What a figure of the book is: a function that computes its numbers, and one that draws them."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np

from nnjax.book.drawing import sheet, sign
from nnjax.checks import require_size
from nnjax.data import load
from nnjax.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SAVED", "BookFigure", "Numbers", "Result"]

SAVED = Path(__file__).parent / "saved"
"""The folder with the results of the runs that take long, one JSON file per function."""

Numbers: TypeAlias = dict[str, Any]
"""What a figure shows, by name: numbers, texts, and arrays or lists of them."""


@dataclass(frozen=True)
class Result:
    """The numbers of a figure, and how they came about.

    Attributes:
        figure: the figure that they belong to.
        numbers: by name.
        seed: the random seed.
        seconds: how long they took to compute.
        versions: of nnjax, jax, numpy and Python, by name.

    Example:
        >>> from nnjax import book
        >>> result = book.result("1.1")
        >>> result.numbers["output"]
        [1.0, 1.0, 1.0, 0.0]
    """

    figure: BookFigure
    numbers: Numbers
    seed: int
    seconds: float
    versions: Mapping[str, str]

    def draw(self) -> Figure:
        """Return the figure: its title above, seed, time and versions below.

        Raises:
            ImportError: if matplotlib is missing.
        """
        drawn = sheet(f"Figure {self.figure.number}: {self.figure.title}", self.figure.size)
        self.figure.draw(drawn, self.numbers)
        sign(drawn, self.origin)
        return drawn

    @property
    def origin(self) -> str:
        """Seed, time and versions in one line."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        digits = 0 if self.seconds >= 10 else 1
        return f"seed {self.seed}, {self.seconds:.{digits}f} s, {versions}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain dictionaries, lists, strings and numbers."""
        return {
            "seed": self.seed,
            "seconds": round(self.seconds, 2),
            "versions": dict(self.versions),
            "numbers": _plain(self.numbers),
        }

    def save(self) -> Path:
        """Write the numbers to `SAVED`, from where `BookFigure.result` reads them."""
        text = json.dumps(self.to_dict(), separators=(",", ":"), ensure_ascii=False)
        write_atomically(self.figure.path, text.encode())
        return self.figure.path


@dataclass(frozen=True)
class BookFigure:
    """A figure of the book.

    Args:
        number: chapter and number, such as "3.5".
        title: what it shows.
        compute: a function of the seed that returns the numbers; a function of seed and data
            where the figure needs data.
        draw: a function of an empty matplotlib figure and the numbers.
        seconds: about how long the numbers take on two cores.
        data: the name of the data set that `compute` takes, or none.
        saved: whether the numbers are read from a saved run unless a seed is given. Figures with
            the same `compute` show the same run.
        size: width and height in inches.

    Example:
        >>> from nnjax import book
        >>> figure = book.FIGURES["3.1"]
        >>> figure.chapter, figure.saved
        (3, False)
    """

    number: str
    title: str
    compute: Callable[..., Numbers]
    draw: Callable[[Any, Numbers], None]
    seconds: float = 1.0
    data: str | None = None
    saved: bool = False
    size: tuple[float, float] = (8.0, 4.0)

    @property
    def chapter(self) -> int:
        """The number of the chapter."""
        return int(self.number.split(".")[0])

    @property
    def call(self) -> str:
        """The function that computes the numbers, as it is called in Python."""
        return f"{self.compute.__module__}.{self.compute.__name__}"

    @property
    def path(self) -> Path:
        """The file of the saved run."""
        return SAVED / f"chapter{self.chapter}_{self.compute.__name__}.json"

    def result(self, seed: int | None = None, data_dir: Any = None) -> Result:
        """Return the numbers: those of the saved run if there is one, otherwise computed.

        Args:
            seed: given: the numbers are computed now, with this seed.
            data_dir: the folder with the files of the data set, if the figure needs one.

        Raises:
            FileNotFoundError: if the saved run is missing.
            ValueError: if the seed is not an integer of at least 0.
        """
        if self.saved and seed is None:
            return self._read()
        seed = require_size(0 if seed is None else seed, "seed", 0)
        data = () if self.data is None else (load(self.data, data_dir=data_dir),)
        start = time.perf_counter()
        numbers = self.compute(seed, *data)
        return Result(self, numbers, seed, time.perf_counter() - start, _versions())

    def _read(self) -> Result:
        try:
            saved = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"figure {self.number} shows a run that is not saved here; "
                f"`python scripts/book_runs.py {self.number}` makes it, in about "
                f"{self.seconds:.0f} seconds on two cores"
            ) from None
        return Result(self, saved["numbers"], saved["seed"], saved["seconds"], saved["versions"])


def _versions() -> dict[str, str]:
    from nnjax import __version__

    return {
        "nnjax": __version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "Python": platform.python_version(),
    }


def _plain(value: Any) -> Any:
    """Return numbers as JSON holds them, floats with six significant digits."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray | jax.Array):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, float | np.floating):
        return None if np.isnan(value) else float(f"{value:.6g}")
    return value
