"""What the command line prints: lines that any terminal shows harmlessly, and progress."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from nnjax.data import Dataset
from nnjax.tasks import METRICS
from nnjax.training import Record
from nnjax.training.progress import Bar

__all__ = [
    "Progress",
    "busy",
    "complain",
    "epoch_line",
    "folded",
    "loss_text",
    "printable",
    "result_line",
    "show",
    "wrapped",
]


def printable(text: str) -> str:
    r"""Return a text in which control characters are written as escapes, lines apart.

    Names of files and settings of runs may come from someone else; they must not move the cursor,
    change the title of the terminal or hide what follows.

    Example:
        >>> from nnjax.cli.console import printable
        >>> print(printable("seven\x1b[2J.png: η = 3"))
        seven\x1b[2J.png: η = 3
    """
    return "".join(
        c if c.isprintable() or c in "\n\N{NO-BREAK SPACE}" else ascii(c)[1:-1] for c in text
    )


def show(text: str) -> None:
    """Print a text, its control characters as escapes, and flush: a reader may wait for it."""
    print(printable(text), flush=True)


def folded(text: str, width: int) -> str:
    """Return the lines of a working, those that are too long broken before " = " or " [".

    Example:
        >>> from nnjax.cli.console import folded
        >>> print(folded("  z = w x + b = 2·3 + 1 = 7  [BP1]", 15))
          z = w x + b
              = 2·3 + 1
              = 7
              [BP1]
    """
    lines = []
    for line in text.splitlines():
        rows = [""]
        for part in re.split(r"(?<=\S)(?= = |  \[)", line):
            if rows[-1] and len(rows[-1] + part) > width:
                rows.append(f"{'':6}{part.strip()}")
            else:
                rows[-1] += part
        lines += rows
    return "\n".join(lines)


def wrapped(text: str) -> str:
    """Return a sentence in lines of at most 80 columns, a number and its % in one.

    Example:
        >>> from nnjax.cli.console import wrapped
        >>> sentence = "After 30 epochs the network reads all digits of the test data but four"
        >>> print(wrapped(f"{sentence}, or 98.9 %."))
        After 30 epochs the network reads all digits of the test data but four, or
        98.9 %.
    """
    lines = textwrap.fill(text.replace(" %", "\N{NO-BREAK SPACE}%"), 80, break_on_hyphens=False)
    return lines.replace("\N{NO-BREAK SPACE}", " ")


def complain(sentence: str) -> None:
    """Write a sentence about what is wrong to stderr, its control characters as escapes.

    On a terminal it is broken between words, where the terminal ends.
    """
    text = printable(f"nnjax: {sentence}")
    with suppress(OSError):  # after SIGHUP nobody may be there to read it
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns
            text = "\n".join(
                textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
                for line in text.splitlines()
            )
        print(text, file=sys.stderr)


def epoch_line(record: Record, sizes: Mapping[str, int], epochs: int) -> str:
    """Return the line of one epoch: its number, the loss, the metrics, and the time it took.

    Args:
        record: of the epoch, as `nnjax.training.train_epochs` yields it.
        sizes: the number of examples in each part of the data that was evaluated.
        epochs: the number of epochs of the whole run.

    Example:
        >>> from nnjax.cli.console import epoch_line
        >>> record = {"epoch": 0, "train_loss": 0.563, "seconds": 2.5}
        >>> record |= {"validation_accuracy": 0.944, "validation_correct": 170}
        >>> print(epoch_line(record, {"validation": 180}, epochs=30))
        Epoch 1/30  train loss 0.563  val accuracy 94.4 % (170/180)  2.5 s
    """
    parts = [
        f"Epoch {record['epoch'] + 1}/{epochs}",
        f"train loss {loss_text(record['train_loss'])}",
    ]
    for part, size in sizes.items():
        shown = [
            metric.text(record[f"{part}_{name}"])
            for name, metric in METRICS.items()
            if name != "loss" and metric.unit is not None and f"{part}_{name}" in record
        ]
        counted = len(sizes) == 1 and f"{part}_correct" in record
        counts = f" ({record[f'{part}_correct']}/{size})" if counted else ""
        parts.append(f"{_SHORT.get(part, part)} {'  '.join(shown)}{counts}")
    parts.append(f"{record['seconds']:.1f} s")
    if "best_epoch" in record:  # early stopping
        parts.append(f"best: {record['best_epoch'] + 1}")
    return "  ".join(parts)


_SHORT = {"validation": "val"}


def result_line(part: str, result: Mapping[str, Any], size: int) -> str:
    """Return what `nnjax.evaluate` found on a part of the data, in a line.

    Args:
        part: such as "Test".
        result: the metrics by name.
        size: the number of examples.

    Example:
        >>> from nnjax.cli.console import result_line
        >>> result_line("Test", {"loss": 0.25, "accuracy": 0.95, "correct": 342}, 360)
        'Test accuracy 95.00 % (342/360), test loss 0.250'
        >>> result_line("Test", {"loss": 0.25, "rmse": 54.21, "mae": 43.0, "r2": 0.5}, 89)
        'Test RMSE 54.2, MAE 43.0, R² 0.500, test loss 0.250'
    """
    figures = {name: float(value) for name, value in result.items()}
    loss = f"{part.lower()} loss {loss_text(figures.pop('loss'))}"
    if "accuracy" in figures:
        percent = f"{100 * figures['accuracy']:.2f}"
        return f"{part} accuracy {percent} % ({figures['correct']:.0f}/{size}), {loss}"
    texts = [metric.text(figures[name]) for name, metric in METRICS.items() if name in figures]
    return f"{part} {', '.join(texts)}, {loss}"


def loss_text(loss: float) -> str:
    """Return a loss with three significant digits.

    Example:
        >>> from nnjax.cli.console import loss_text
        >>> [loss_text(x) for x in (0.11, 0.0034567, 2.3025, 123.4)]
        ['0.110', '0.00346', '2.30', '123']
    """
    return f"{loss:#.3g}".rstrip(".")


class Progress:
    """Shows how a run goes: a context manager, called with the record of each epoch.

    On a terminal a bar moves within the epoch, below the lines of those that are done; in a pipe or
    a file there are only the lines, each written at once.

    Args:
        data: what is trained on.
        evaluate_on: the parts evaluated after each epoch.
        epochs: the number of epochs.
        done: how many of them are done already.
        quiet: show nothing.

    Example:
        >>> import nnjax
        >>> from nnjax.cli.console import Progress
        >>> with Progress(nnjax.data.load("digits"), [], epochs=30) as show:
        ...     show({"epoch": 0, "train_loss": 0.563, "seconds": 2.5})
        Epoch 1/30  train loss 0.563  2.5 s
    """

    def __init__(
        self,
        data: Dataset,
        evaluate_on: Sequence[str],
        epochs: int,
        done: int = 0,
        quiet: bool = False,
    ):
        self._sizes = {name: len(part[0]) for name in evaluate_on if (part := getattr(data, name))}
        self._epochs, self._quiet = epochs, quiet
        self._bar = Bar(epochs, done, sys.stdout) if sys.stdout.isatty() and not quiet else None

    @property
    def within(self) -> Callable[[float], None] | None:
        """What is called with the fraction of the epoch that is done; None where nothing moves."""
        return None if self._bar is None else self._bar.within

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(*raised)

    def __call__(self, record: Record) -> None:
        if self._quiet:
            return
        line = epoch_line(record, self._sizes, self._epochs)
        if self._bar is None:
            show(line)
        else:
            self._bar.above(printable(line))
            self._bar.done(record["epoch"])


@contextmanager
def busy(doing: str) -> Iterator[None]:
    """Say on a terminal what takes seconds, until it is done; then the line is taken away.

    Args:
        doing: such as "compiling".

    Example:
        >>> from nnjax.cli.console import busy
        >>> with busy("compiling"):
        ...     pass
    """
    shown = f"{doing} ..." if sys.stderr.isatty() else ""
    print(shown, end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if shown:
            print(f"\r{' ' * len(shown)}\r", end="", file=sys.stderr, flush=True)
