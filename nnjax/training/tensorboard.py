"""What a run measures, sent to TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nnjax.checks import install

__all__ = ["tensorboard"]


@contextmanager
def tensorboard(
    folder: str | os.PathLike[str],
    often: Collection[str] = (),
    records: Iterable[Mapping[str, Any]] = (),
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Give a function that writes a record where TensorBoard looks for it.

    Each element of an array, such as one norm per layer, becomes a curve of its own:
    `error_norms/0`. What another writer left in the folder is replaced, so that no point is there
    twice when a run continues.

    Args:
        folder: what `tensorboard --logdir` is then given.
        often: names of what was measured several times per epoch (`monitor_every`), one row for
            each time; their curves go by those times.
        records: those of the epochs so far, written first.

    Raises:
        ImportError: if tensorboardX is missing.

    Example:
        >>> import os, tempfile
        >>> from nnjax.training.tensorboard import tensorboard
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with tensorboard(folder) as write:
        ...         write({"epoch": 0, "train_loss": 0.5, "error_norms": [0.1, 0.2]})
        ...     len(os.listdir(folder))
        1
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        missing = f"TensorBoard output requires tensorboardX: {install('tensorboard')}"
        raise ImportError(missing) from None
    for file in Path(folder).glob("events.out.tfevents.*"):
        file.unlink()
    with SummaryWriter(os.fspath(folder)) as writer:

        def write(record: Mapping[str, Any]) -> None:
            for name, value in record.items():
                if name == "epoch":
                    continue
                rows = np.asarray(value, float)
                rows = rows if name in often else rows[None]
                for step, row in enumerate(rows, start=record["epoch"] * len(rows)):
                    for index in np.ndindex(row.shape):
                        tag = "/".join([name, *map(str, index)])
                        writer.add_scalar(tag, float(row[index]), step)
            writer.flush()

        for record in records:
            write(record)
        yield write
