"""What ends a command from outside: Ctrl-C, SIGTERM (a scheduler, a container), SIGHUP (a closed
terminal). All of them end it in order, so that what was trained is kept."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Saved", "Terminated", "noted", "terminable", "undisturbed", "unheard"]

_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Terminated(BaseException):
    """SIGTERM or SIGHUP came: to be handled as Ctrl-C is.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__()
        self.number = number


class Saved(Exception):
    """Training ended early, for the reason in `__cause__`, and what was trained is saved.

    Args:
        folder: where.
        epoch: the last complete one, counted from 1.
        what: is saved: of a sweep only what it continues from.
    """

    def __init__(self, folder: Path, epoch: int, what: str = "parameters"):
        super().__init__(folder, epoch, what)
        self.folder, self.epoch, self.what = folder, epoch, what


@contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` where SIGTERM or SIGHUP comes, unless it is ignored (as under nohup).

    What Python cannot raise where it comes, as in a callback of the garbage collector, which jax
    has, comes again a moment later; so does Ctrl-C.
    """
    before = sys.unraisablehook

    def again(unraisable):
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            number = signal.SIGINT
        elif isinstance(unraisable.exc_value, Terminated):
            number = unraisable.exc_value.number
        else:
            before(unraisable)
            return
        timer = threading.Timer(0.01, _signal_main_thread, [number])
        timer.daemon = True
        timer.start()

    sys.unraisablehook = again
    try:
        with _handled(_ENDING, _terminate):
            yield
    finally:
        sys.unraisablehook = before


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore Ctrl-C, SIGTERM and SIGHUP: for the moment in which results are saved."""
    with _handled([signal.SIGINT, *_ENDING], signal.SIG_IGN):
        yield


@contextmanager
def noted() -> Iterator[list[int]]:
    """Give a list to which the numbers of Ctrl-C, SIGTERM and SIGHUP are added as they come."""
    came: list[int] = []
    with _handled([signal.SIGINT, *_ENDING], lambda number, frame: came.append(number)):
        yield came


def unheard() -> None:
    """Let Ctrl-C end the process as the system does, without a traceback."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _signal_main_thread(number):
    main = threading.main_thread().ident
    if main is not None and hasattr(signal, "pthread_kill"):  # wakes it where it waits
        signal.pthread_kill(main, number)
    else:
        signal.raise_signal(number)


def _terminate(number, frame):
    raise Terminated(number)


@contextmanager
def _handled(signals, handler) -> Iterator[None]:
    before = {}
    if threading.current_thread() is threading.main_thread():  # no other may change handlers
        for number in signals:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
