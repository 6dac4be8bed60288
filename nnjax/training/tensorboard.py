"""What a run measures, sent to TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["tensorboard"]


@contextmanager
def tensorboard(
    folder: str | os.PathLike[str], often: Collection[str] = ()
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Give a function that writes a record where TensorBoard looks for it.

    Of an array, such as one norm a layer, each element becomes a curve of its own: `error_norms/0`.

    Args:
        folder: what `tensorboard --logdir` is then given.
        often: names of what was measured several times an epoch (`monitor_every`), a row a time;
            their curves go by those times.

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
        missing = 'TensorBoard takes tensorboardX: pip install "nnjax[tensorboard]"'
        raise ImportError(missing) from None
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

        yield write
