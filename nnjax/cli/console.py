"""What the command line prints while a network trains."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from nnjax.data import Dataset
from nnjax.training import Record

__all__ = ["KEPT", "epoch_line", "progress"]

KEPT = "the last good parameters are saved in"
"""How the note begins that an error carries where it broke a training run off."""


def epoch_line(record: Record, sizes: Mapping[str, int]) -> str:
    """Return the line of one epoch, as the book prints it, with the mean loss met and the time.

    Args:
        record: of the epoch, as `nnjax.training.train_epochs` yields it.
        sizes: how many examples each part has that was measured.

    Example:
        >>> from nnjax.cli.console import epoch_line
        >>> record = {"epoch": 0, "test_correct": 9129, "train_loss": 0.1234, "seconds": 0.25}
        >>> epoch_line(record, {"test": 10000})
        'Epoch 0: 9129 / 10000, loss 0.1234, 0.25 s'
    """
    parts = [f"{record[f'{part}_correct']} / {size}" for part, size in sizes.items()]
    if len(sizes) > 1:
        parts = [f"{text} ({part})" for part, text in zip(sizes, parts, strict=True)]
    parts += [f"loss {record['train_loss']:.4g}", f"{record['seconds']:.2f} s"]
    if "waited" in record:  # early stopping
        parts.append(f"best epoch {record['best_epoch']}, waited {record['waited']}")
    return f"Epoch {record['epoch']}: {', '.join(parts)}"


@contextmanager
def progress(
    data: Dataset, evaluate_on: tuple[str, ...], epochs: int
) -> Iterator[Callable[[Record], None]]:
    """Give a function that shows the record of one epoch.

    On a terminal a bar says how far the run is; in a pipe or a file there are the lines alone,
    each written at once.

    Args:
        data: what is trained on.
        evaluate_on: the parts measured after each epoch.
        epochs: how many there will be.
    """
    sizes = {name: len(part[0]) for name in evaluate_on if (part := getattr(data, name))}
    if not sys.stdout.isatty():
        yield lambda record: print(epoch_line(record, sizes), flush=True)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("Epochs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("", total=epochs)

        def show(record: Record) -> None:
            bar.console.print(epoch_line(record, sizes), highlight=False)
            bar.update(task, completed=record["epoch"] + 1)

        yield show
