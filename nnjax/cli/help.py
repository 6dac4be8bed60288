"""The help of the commands: what tyro prints, in lines that fit the terminal and without noise."""

from __future__ import annotations

import dataclasses
import io
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any, get_origin, get_type_hints

import docstring_parser
import tyro

__all__ = ["describe", "wrapped_help"]


def describe(command: type) -> None:
    """Have tyro show the options of a command, and of its groups, with their defaults in words.

    The help of an option is the text below its field. A default that says nothing, None or an empty
    list or a switch that is off, is left out.

    Args:
        command: a dataclass; it gets other annotations, which mean the same.

    Example:
        >>> from nnjax.cli.evaluate import Evaluate
        >>> from nnjax.cli.help import describe
        >>> describe(Evaluate)
    """
    docs = {}
    for base in reversed(command.__mro__[:-1]):
        docs |= {p.arg_name: p.description for p in docstring_parser.parse_from_object(base).params}
    hints = get_type_hints(command, include_extras=True)
    for field in dataclasses.fields(command):
        hint = hints[field.name]
        kind = hint.__origin__ if get_origin(hint) is Annotated else hint
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            describe(kind)
            continue
        text = " ".join((docs.get(field.name) or "").split())
        shown: Any = tyro.conf.arg(help=text, help_behavior_hint=_default)
        command.__annotations__[field.name] = Annotated[hint, shown]


def _default(value: str) -> str:
    return "" if value in ("None", "", "False") else f"(default: {value})"


class _Page(io.StringIO):
    """A text that is laid out and coloured as if it were written to `stream`."""

    def __init__(self, stream: Any):
        super().__init__()
        self._stream = stream

    @property
    def encoding(self) -> str:
        return self._stream.encoding

    def isatty(self) -> bool:
        return self._stream.isatty()


@contextmanager
def wrapped_help() -> Iterator[None]:
    """Print what is printed inside it, with the lines outside of boxes as wide as the terminal.

    Example:
        >>> from nnjax.cli.help import wrapped_help
        >>> with wrapped_help():
        ...     print("usage: nnjax train")
        usage: nnjax train
    """
    page = _Page(sys.stdout)
    try:
        with redirect_stdout(page):
            yield
    finally:
        width = shutil.get_terminal_size().columns
        for line in page.getvalue().splitlines():
            inside = line.startswith(("╭", "│", "╰", "+", "|"))
            print(line if inside else textwrap.fill(line, width, break_on_hyphens=False))
