"""How far training is: reports from within the compiled epoch, and a bar that shows them.

An epoch is one compiled program. Where someone listens, it calls back every twentieth of the way;
the listener is known to it by a number, an argument like any other, so that the next run with
another listener uses the same program.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from nnjax.checks import install
from nnjax.tasks import METRICS

__all__ = ["REPORTS", "Bar", "listening", "report"]

REPORTS = 20
"""How often an epoch reports how far it is."""

Listener = Callable[[float], None]

_LISTENERS: dict[int, Listener] = {}
_NUMBERS = itertools.count()


@contextmanager
def listening(listener: Listener | None) -> Iterator[np.ndarray | None]:
    """Give the number by which a compiled program reaches a listener; None where there is none.

    Args:
        listener: called with the fraction of the epoch that is done, from another thread.

    Example:
        >>> import jax
        >>> from nnjax.training.progress import listening, report
        >>> seen = []
        >>> with listening(seen.append) as number:
        ...     jax.jit(lambda n: report(n, 0.25))(number)
        ...     jax.effects_barrier()
        >>> seen
        [0.25]
    """
    if listener is None:
        yield None
        return
    number = next(_NUMBERS)
    _LISTENERS[number] = listener
    try:
        yield np.asarray(number, np.int32)
    finally:
        del _LISTENERS[number]


def report(number: Any, done: Any) -> None:
    """Tell a listener, from within a compiled program, which fraction of the epoch is done.

    Args:
        number: of the listener, from `listening`.
        done: the fraction.

    Raises:
        TypeError: if it is not such a number.

    Example: see `listening`.
    """
    if getattr(number, "dtype", None) != np.int32 or number.shape != ():
        raise TypeError(
            f"listener is {number!r:.100}; expected None, or the number that "
            "nnjax.training.progress.listening gives"
        )
    jax.debug.callback(_hear, number, done)


def _hear(number, done) -> None:
    if (listener := _LISTENERS.get(int(number))) is not None:  # or it has left meanwhile
        listener(float(done))


class Bar:
    """A bar of text that moves within the epoch, and shows what the last epoch has reached.

    A context manager: at its end the bar is taken away.

    Args:
        epochs: the number of epochs of the whole run.
        done: how many of them are done already.
        file: where to; None: stderr.

    Raises:
        ImportError: if tqdm is missing.

    Example:
        >>> import io
        >>> from nnjax.training.progress import Bar
        >>> page = io.StringIO()
        >>> with Bar(epochs=30, file=page) as bar:
        ...     bar.within(0.5)
        >>> "compiling" in page.getvalue()
        True
    """

    def __init__(self, epochs: int, done: int = 0, file: Any = None):
        try:
            from tqdm import tqdm
        except ImportError:
            raise ImportError(f"a progress bar requires tqdm: {install('cli')}") from None
        self._kind, self._epochs, self._done, self._file = tqdm, epochs, done, file
        self._bar: Any = None
        self._compiling = True

    def __enter__(self) -> Bar:
        self._bar = self._kind(
            total=self._epochs,
            initial=self._done,
            desc="compiling",
            file=self._file,
            leave=False,
            smoothing=0.1,
            dynamic_ncols=True,
            bar_format="{desc} |{bar}| {remaining} left{postfix}",
        )
        return self

    def __exit__(self, *raised: object) -> None:
        self._bar.close()

    def within(self, fraction: float) -> None:
        """Show which fraction of the current epoch is done."""
        compiling, self._compiling = self._compiling, False
        if compiling:
            self._bar.unpause()  # the time that is left does not depend on how long it took
        self._bar.set_description_str(f"Epoch {self._done + 1}/{self._epochs}", refresh=compiling)
        self._move(self._done + fraction)

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Show that an epoch is done, and what it has reached."""
        self._bar.set_postfix_str(_reached(record), refresh=False)
        self.done(record["epoch"])

    def done(self, epoch: int) -> None:
        """Show that an epoch, counted from 0, is done."""
        self._done = epoch + 1
        self._bar.set_description_str(f"Epoch {self._done}/{self._epochs}", refresh=False)
        self._move(self._done)
        self._bar.refresh()

    def above(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.write(line, file=self._bar.fp)

    def _move(self, to: float) -> None:
        self._bar.update(max(0, to - self._bar.n))  # a late report does not move it back


def _reached(record: Mapping[str, Any]) -> str:
    parts = [f"train loss {record['train_loss']:.3g}"]
    for name, value in record.items():
        part, _, metric = name.partition("_")
        if metric != "loss" and metric in METRICS and METRICS[metric].unit is not None:
            parts.append(f"{part} {METRICS[metric].text(value)}")
    return ", ".join(parts)
