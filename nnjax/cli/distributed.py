"""The option --distributed: one run on the devices of several processes, on one machine or many.

Every process is started with the same options; the first one writes the run and prints. What the
others would write goes to a folder that is removed. A process that ends takes the others with it.

Of a signal that one of them gets the others learn after the step that is under way, as all of them
exchange a number then: so they stop at the same step, and everything until then is saved. (JAX has
a service for this, which hears of SIGTERM alone.)
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import jax

from nnjax.checks import require_size
from nnjax.cli.stop import Saved, Terminated, noted
from nnjax.training.processes import largest_of_all

__all__ = ["Cluster", "StoppedTogether", "another_has_ended", "leave_at_once", "stopped_together"]

Step = TypeVar("Step")

_HEARTBEAT = 20  # seconds after which a process that is silent counts as dead
_ENDED = (
    "another process of this run has ended; start all of them again, with --resume and the folder "
    "of the run if it has one"
)
# What comes from JAX when a process has died, from this line on: a page, and then the end.
_DEATH = r"^[EWF]\d{4} .*(coordination_service|distributed service)|^terminate called"
# Threads that greet at once write one line into the other: of some only a number is left.
_GREETING = r"\[Gloo\]|connected peer ranks|^(?:is connected to|peer ranks\.|\s|\d)*$"
_FILTER = f"""
import re, signal, sys
for name in ("SIGINT", "SIGTERM", "SIGHUP"):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
said = False
for line in sys.stdin.buffer:
    text = line.decode(errors="replace")
    if re.search({_GREETING!r}, text):
        continue
    if re.search({_DEATH!r}, text):
        if not said:
            sys.stderr.write("nnjax: " + {_ENDED!r} + chr(10))
        break
    said = said or text.startswith("nnjax: ")
    sys.stderr.write(text)
    sys.stderr.flush()
sys.stderr.flush()
for line in sys.stdin.buffer:
    pass
"""


class StoppedTogether(Terminated):
    """A signal came to one of several processes, and all of them have stopped after one step."""


def stopped_together(steps: Iterator[Step]) -> Iterator[Step]:
    """Yield the steps that all processes take, until a signal has come to one of them.

    One process alone is stopped by a signal where it comes.

    Raises:
        StoppedTogether: in all processes, after the same step.

    Example:
        >>> from nnjax.cli.distributed import stopped_together
        >>> list(stopped_together(iter([1, 2])))
        [1, 2]
    """
    if not jax.distributed.is_initialized():
        yield from steps
        return
    with noted() as came:
        for step in steps:
            yield step
            if number := largest_of_all(max(came, default=0)):
                raise StoppedTogether(number)


@dataclass(frozen=True)
class Cluster:
    """Processes that train together: each is started with the same options."""

    distributed: bool = False
    """Use the devices of several processes: found from Slurm, Open MPI or Kubernetes, or given by
    the next three."""
    coordinator: str | None = None
    """Address of the first process, such as 10.0.0.1:1234."""
    processes: int | None = None
    """How many processes there are."""
    process: int | None = None
    """The number of this process, from 0 on."""

    def __post_init__(self):
        given = [v is not None for v in (self.coordinator, self.processes, self.process)]
        if any(given) and not all(given):
            raise ValueError("give all of --coordinator, --processes and --process, or none")
        if any(given) and not self.distributed:
            raise ValueError("--coordinator belongs to --distributed; give both")
        if self.processes is not None:
            count = require_size(self.processes, "processes")
            require_size(self.process, "process", 0, count - 1)

    @contextmanager
    def joined(
        self, platform: str | None, out: Path | None, resume: Path | None
    ) -> Iterator[tuple[Path | None, Path | None]]:
        """Wait for the other processes, and give the folders to write and to continue.

        From then on JAX has the devices of all of them. The first process has the folders that were
        asked for; the others have copies of their own, and print nothing.

        Args:
            platform: to compute on; None: chosen by JAX.
            out: the folder for a new run, or None.
            resume: the folder of the run to continue, or None.

        Raises:
            ValueError: if no scheduler says which processes there are.
            RuntimeError: if they do not come, or one of them ends.

        Example:
            >>> from nnjax.cli.distributed import Cluster
            >>> with Cluster().joined(None, None, None) as folders:  # this process is the only one
            ...     print(folders)
            (None, None)
        """
        if not self.distributed:
            yield out, resume
            return
        self._join(platform)
        from jax.experimental.multihost_utils import sync_global_devices

        first = jax.process_index() == 0
        with _printing(first):
            try:
                with _folders(first, out, resume) as folders:
                    sync_global_devices("the run to continue has been read")
                    yield folders
            except (Saved, StoppedTogether) as stop:
                if isinstance(stop, StoppedTogether) or isinstance(stop.__cause__, StoppedTogether):
                    sync_global_devices("all of them have saved what they have")
                raise

    def _join(self, platform: str | None) -> None:
        if platform is not None:
            jax.config.update("jax_platforms", platform)
        with suppress(AttributeError):  # it would take SIGTERM away from us
            jax.config.update("jax_enable_preemption_service", False)
        _read_errors()
        waiting = ThreadPoolExecutor(1).submit(
            jax.distributed.initialize,
            self.coordinator,
            self.processes,
            self.process,
            heartbeat_timeout_seconds=_HEARTBEAT,
        )
        try:
            waiting.result()  # a signal is heard meanwhile
        except ValueError:
            raise ValueError(
                "--distributed finds no scheduler that says which processes there are; give "
                "--coordinator HOST:PORT --processes N --process K to each of them"
            ) from None
        except RuntimeError as error:
            raise RuntimeError(
                "the processes did not find each other; start all of them within five minutes, "
                f"with the same coordinator ({str(error).splitlines()[0]})"
            ) from None


@contextmanager
def _folders(
    first: bool, out: Path | None, resume: Path | None
) -> Iterator[tuple[Path | None, Path | None]]:
    """Give the first process the folders to write and to continue, the others copies that go."""
    if first:
        yield out, resume
        return
    with tempfile.TemporaryDirectory(prefix="nnjax-process-") as folder:
        own = Path(folder, "run")
        if resume is not None:
            shutil.copytree(resume, own, ignore=shutil.ignore_patterns(".lock"))
        try:
            yield (own, None) if resume is None else (None, own)
        except Saved as stop:  # in a folder that goes
            raise stop.__cause__ or stop from None


def _read_errors() -> None:
    """Put one sentence in place of the page that JAX writes as it ends a process whose peer died.

    JAX ends it from a thread of its own, past Python, so that another process has to read along.
    """
    command = [sys.executable, "-I", "-S", "-c", _FILTER]
    sys.stderr.flush()
    # Of a session of its own, so that Ctrl-C does not end it before it has read everything.
    reader = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    assert reader.stdin is not None
    os.dup2(reader.stdin.fileno(), 2)
    reader.stdin.close()


@contextmanager
def _printing(first: bool) -> Iterator[None]:
    """Print in the first process alone, and nothing but what nnjax prints: Gloo greets there."""
    sys.stdout.flush()
    before = os.dup(1)
    os.dup2(2, 1)
    own = os.fdopen(os.dup(before), "w", encoding="utf-8") if first else io.StringIO()
    try:
        with own, redirect_stdout(own):
            yield
    finally:
        os.dup2(before, 1)
        os.close(before)


def another_has_ended(error: BaseException) -> str | None:
    """Return the sentence for an error that comes from the death of another process, else None.

    Example:
        >>> from nnjax.cli.distributed import another_has_ended
        >>> another_has_ended(ValueError("rate is -1"))
    """
    if jax.distributed.is_initialized() and re.search(
        r"Gloo|NCCL|UNAVAILABLE|coordination|DEADLINE_EXCEEDED", str(error)
    ):
        return _ENDED
    return None


def leave_at_once(status: int) -> None:
    """End this process at once if it is one of several, which would wait for it otherwise."""
    if jax.distributed.is_initialized():
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
