"""What the command line prints: lines that any terminal shows harmlessly, and progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from nnjax.data import Dataset
from nnjax.training import Record

__all__ = ["complain", "epoch_line", "loss_text", "printable", "progress", "show"]


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


def complain(sentence: str) -> None:
    """Write a sentence about what is wrong to stderr, its control characters as escapes."""
    with suppress(OSError):  # after SIGHUP nobody may be there to read it
        print(printable(f"nnjax: {sentence}"), file=sys.stderr)


def epoch_line(record: Record, sizes: Mapping[str, int], epochs: int) -> str:
    """Return the line of one epoch: its number, the losses and accuracies, and the time it took.

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
        accuracy = f"{_SHORT.get(part, part)} accuracy {100 * record[f'{part}_accuracy']:.1f} %"
        counts = f" ({record[f'{part}_correct']}/{size})" if len(sizes) == 1 else ""
        parts.append(accuracy + counts)
    parts.append(f"{record['seconds']:.1f} s")
    if "best_epoch" in record:  # early stopping
        parts.append(f"best: {record['best_epoch'] + 1}")
    return "  ".join(parts)


_SHORT = {"validation": "val"}


def loss_text(loss: float) -> str:
    """Return a loss with three significant digits.

    Example:
        >>> from nnjax.cli.console import loss_text
        >>> [loss_text(x) for x in (0.11, 0.0034567, 2.3025, 123.4)]
        ['0.110', '0.00346', '2.30', '123']
    """
    return f"{loss:#.3g}".rstrip(".")


@contextmanager
def progress(
    data: Dataset, evaluate_on: Sequence[str], epochs: int
) -> Iterator[Callable[[Record], None]]:
    """Give a function that shows the record of one epoch.

    On a terminal a bar shows how far the run is; in a pipe or a file there are only the lines,
    each written at once.

    Args:
        data: what is trained on.
        evaluate_on: the parts evaluated after each epoch.
        epochs: the number of epochs.
    """
    sizes = {name: len(part[0]) for name in evaluate_on if (part := getattr(data, name))}
    if not sys.stdout.isatty():
        yield lambda record: show(epoch_line(record, sizes, epochs))
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

        def show_above(record: Record) -> None:
            bar.console.print(epoch_line(record, sizes, epochs), highlight=False)
            bar.update(task, completed=record["epoch"] + 1)

        yield show_above
