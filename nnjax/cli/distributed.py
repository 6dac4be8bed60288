"""The option --distributed: one run on the devices of several processes, on one machine or many.

Every process is started with the same options and does the same; the first one writes the run and
prints. What the others would write goes to a folder that is removed.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import jax

from nnjax.checks import require_size

__all__ = ["Cluster"]

_HEARTBEAT = 20  # seconds after which a process that is silent counts as dead


@dataclass(frozen=True)
class Cluster:
    """The processes that train together.

    Args:
        coordinator: the address of the first one, host:port; None: found from the scheduler (Slurm,
            Open MPI, Kubernetes).
        processes: how many there are.
        process: the number of this one, from 0 on.

    Raises:
        ValueError: if only some of the three are given, or a number is out of range.

    Example:
        >>> from nnjax.cli.distributed import Cluster
        >>> Cluster("127.0.0.1:1234", processes=2, process=2)
        Traceback (most recent call last):
        ...
        ValueError: process is 2; expected an integer of at most 1
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None

    def __post_init__(self):
        given = [value is not None for value in vars(self).values()]
        if any(given) and not all(given):
            raise ValueError("give all of --coordinator, --processes and --process, or none")
        if self.processes is not None:
            count = require_size(self.processes, "processes")
            require_size(self.process, "process", 0, count - 1)

    def require_none(self) -> None:
        """Raise ValueError if a process is named without --distributed."""
        if self.coordinator is not None:
            raise ValueError("--coordinator belongs to --distributed; give both")

    def join(self, platform: str | None = None) -> None:
        """Wait for the other processes; from then on JAX has the devices of all of them.

        Args:
            platform: to compute on; None: chosen by JAX.

        Raises:
            ValueError: if no scheduler says which processes there are.
            RuntimeError: if they do not come.
        """
        if platform is not None:
            jax.config.update("jax_platforms", platform)
        try:
            jax.distributed.initialize(
                self.coordinator,
                self.processes,
                self.process,
                heartbeat_timeout_seconds=_HEARTBEAT,
            )
        except ValueError:
            raise ValueError(
                "--distributed finds no scheduler that says which processes there are; give "
                "--coordinator HOST:PORT --processes N --process K to each of them"
            ) from None

    @contextmanager
    def folders(self, out: Path | None, resume: Path | None) -> Iterator[tuple[Path | None, ...]]:
        """Give the folders to write and to continue: of the first process those asked for.

        The others get copies of their own, and print nothing.

        Args:
            out: the folder for a new run, or None.
            resume: the folder of the run to continue, or None.
        """
        from jax.experimental.multihost_utils import sync_global_devices

        first = jax.process_index() == 0
        with tempfile.TemporaryDirectory(prefix="nnjax-process-") as folder:
            own = Path(folder, "run")
            if resume is not None and not first:
                shutil.copytree(resume, own, ignore=shutil.ignore_patterns(".lock"))
            sync_global_devices("the run to continue has been read")
            if first:
                yield out, resume
                return
            with redirect_stdout(io.StringIO()):
                yield (own, None) if resume is None else (None, own)
