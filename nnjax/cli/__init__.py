"""The command line: `nnjax train`, `nnjax predict`, ... (one file per command in `nnjax.cli`).

Whatever goes wrong is one sentence on stderr and the exit status 2, without a traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from nnjax.cli.console import KEPT

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
    try:
        status = _parse(argv)()
        sys.stdout.flush()
    except SystemExit as stop:  # after --help, or options that do not parse: tyro has said which
        return stop.code if isinstance(stop.code, int) else 2
    except BrokenPipeError:  # nobody reads on, as in `nnjax train | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as the shell says of a process that SIGPIPE ends
    except KeyboardInterrupt as stop:
        status = _complain("stopped", stop, 130)  # and SIGINT
        if argv is None:  # leave at once: jax may still compile in a thread, and would crash
            with suppress(OSError):
                sys.stdout.flush()
            os._exit(status)
        return status
    except _EXPECTED as error:
        return _complain(_sentence(error), error, 2)
    return status or 0


_EXPECTED = (
    ArithmeticError,
    ImportError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def _parse(argv: Sequence[str] | None) -> Callable[[], int | None]:
    try:
        import tyro  # noqa: F401
    except ImportError:
        raise ImportError('the command line takes tyro: pip install "nnjax[cli]"') from None
    from nnjax.cli.commands import parse

    return parse(argv)


def _sentence(error: Exception) -> str:
    """What an error says, without what Python and jax put around it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0] if isinstance(error, RuntimeError) else text


def _complain(sentence: str, error: BaseException, status: int) -> int:
    """Write one sentence, and where the parameters are if any are saved; return the status."""
    notes = [note for note in getattr(error, "__notes__", []) if note.startswith(KEPT)]
    print(f"nnjax: {'; '.join([sentence, *notes])}", file=sys.stderr)
    return status
