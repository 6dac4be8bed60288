"""The command line: `nnjax train`, `nnjax predict`, ... (one file per command in `nnjax.cli`).

Whatever goes wrong is one sentence on stderr and the exit status 2, without a traceback; a command
that a signal ends has the status that a shell gives it (130 after Ctrl-C, 143 after SIGTERM, 129
after SIGHUP).
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress

from nnjax.checks import install
from nnjax.cli.compiled import kept_programs
from nnjax.cli.console import complain
from nnjax.cli.distributed import another_has_ended, leave_at_once
from nnjax.cli.stop import Saved, Terminated, terminable, unheard

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, or 2 where something was wrong.

    Args:
        argv: what follows `nnjax`; None: the arguments of this process.

    Example:
        >>> from nnjax.cli import main
        >>> main(["predict", "no-such-run", "seven.png"])  # and on stderr a sentence that says so
        2
    """
    _print_anything()
    try:
        with terminable(), kept_programs() if argv is None else nullcontext():
            status = _command(sys.argv[1:] if argv is None else argv)()
            sys.stdout.flush()
    except BaseException as error:
        status = _conclude(error, leave=argv is None)
        leave_at_once(status)
        return status
    if argv is None:  # all is done: from now on Ctrl-C ends the process without a word
        unheard()
    return status or 0


def _conclude(error: BaseException, leave: bool) -> int:
    """Say what ended the command, and where its run is if one was saved; return the status."""
    saved, reason = "", error
    if isinstance(error, Saved):
        saved, reason = f"; {error.what} saved in {error.folder}", error.__cause__
    if isinstance(reason, SystemExit):  # after --help
        return reason.code if isinstance(reason.code, int) else 2
    if isinstance(reason, BrokenPipeError):  # nobody reads on, as in `nnjax train | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # SIGPIPE
    if isinstance(reason, KeyboardInterrupt | Terminated):
        number = reason.number if isinstance(reason, Terminated) else signal.SIGINT
        after = f" after epoch {error.epoch}" if isinstance(error, Saved) else ""
        complain(f"{'Interrupted' if number == signal.SIGINT else 'Terminated'}{after}{saved}")
        if leave:  # at once: jax may still compile in a thread, and would crash
            with suppress(OSError):
                sys.stdout.flush()
            os._exit(128 + number)
        return 128 + number
    if not isinstance(reason, Exception):
        raise error
    complain(_sentence(reason) + saved)
    return 2


def _print_anything() -> None:
    """Where the output is not UTF-8, show what it cannot write as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _command(argv: Sequence[str]) -> Callable[[], int | None]:
    if list(argv) == ["--version"]:
        from nnjax import __version__

        return lambda: print(f"nnjax {__version__}")
    try:
        import tyro  # noqa: F401
    except ImportError:
        raise ImportError(f"the command line requires tyro: {install('cli')}") from None
    from nnjax.cli.commands import parse

    return parse(argv)


_EXPECTED = (
    ArithmeticError,
    ImportError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def _sentence(error: Exception) -> str:
    """What an error says, without what Python and jax put around it."""
    if ended := another_has_ended(error):
        return ended
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = str(error).strip()
    if not isinstance(error, _EXPECTED):
        return f"unexpected {type(error).__name__}: {text}"
    text = text.splitlines()[0] if text and isinstance(error, RuntimeError) else text
    return text or type(error).__name__
