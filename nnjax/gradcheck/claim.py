"""Somebody's own function, called with care."""

from __future__ import annotations

import contextlib
import io
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from nnjax.gradcheck.compare import Misfit, TookTooLong

__all__ = ["Claim"]


class Claim:
    """Somebody's own function, called with care: copies go in, what it prints stays out.

    Args:
        function: the function.
        time_limit: seconds that one call may take (in the main thread, where there are signals).
    """

    def __init__(self, function: Callable, time_limit: float = 60.0):
        self.function = function
        self.time_limit = time_limit
        self.printed = 0
        self.mutates = False
        self.seconds = 0.0

    def __call__(self, *args: Any) -> Any:
        """Return what the function returns.

        Raises:
            Misfit: if it raises, or takes longer than the limit; the message says so.
        """
        handed = jax.tree.map(lambda leaf: leaf.copy() if _mutable(leaf) else leaf, args)
        output = io.StringIO()
        started = time.perf_counter()
        try:
            with contextlib.redirect_stdout(output), _time_limit(self.time_limit):
                result = self.function(*handed)
                result = jax.tree.map(_wait_for, result)
        except _Alarm:
            raise TookTooLong(
                f"did not return within {self.time_limit:g} s; try a smaller problem or a larger "
                "time_limit"
            ) from None
        except Misfit:
            raise
        except (Exception, SystemExit) as error:
            message = " ".join(str(error).split())
            message = message if len(message) < 300 else message[:300] + " …"
            raise Misfit(f"raises {type(error).__name__}: {message}") from error
        finally:
            self.seconds = max(self.seconds, time.perf_counter() - started)
            self.printed += len(output.getvalue().splitlines())
        before, after = jax.tree.leaves(args), jax.tree.leaves(handed)
        if len(before) != len(after) or not all(map(_same, before, after)):
            self.mutates = True
        return result

    @property
    def remarks(self) -> list[str]:
        """What else is to be said about it, a sentence each."""
        said = []
        if self.printed:
            said.append(f"the function prints ({self.printed} lines, left out here)")
        if self.mutates:
            said.append("the function changes its arguments in place (it was given copies)")
        if self.seconds > 5:
            said.append(f"one call of the function takes {self.seconds:.1f} s")
        return said


def _mutable(leaf):
    return isinstance(leaf, np.ndarray)


def _same(one, other):
    if not _mutable(one):
        return True
    return one.shape == other.shape and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _wait_for(leaf):
    return leaf.block_until_ready() if isinstance(leaf, jax.Array) else leaf


class _Alarm(BaseException):
    """Not an Exception, so that the function under examination does not catch it by chance."""


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "setitimer"
    ):
        yield
        return

    def stop(number, frame):
        raise _Alarm

    handler = signal.signal(signal.SIGALRM, stop)
    started, (left, interval) = time.monotonic(), signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        # Whoever had set the timer before gets the rest of it back.
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            rest = max(left - (time.monotonic() - started), 1e-3)
            signal.setitimer(signal.ITIMER_REAL, rest, interval)
