"""What the scripts share: their options, and how they end where something is wrong."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["options", "run"]


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The docstring as it is written, and the default of every option that has one."""


def options(doc: str | None, mnist: bool = True) -> argparse.ArgumentParser:
    """Return a parser of options whose help begins with the docstring of the script.

    Args:
        doc: the docstring.
        mnist: whether the script trains on MNIST, whose files --data-dir names.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=_Formatter)
    if mnist:
        help = "folder with the files of MNIST; without it they are downloaded"
        parser.add_argument("--data-dir", type=Path, default=argparse.SUPPRESS, help=help)
    return parser


def run(parser: argparse.ArgumentParser, job: Callable[[argparse.Namespace], int | None]) -> None:
    """Do the job of a script with its options, and exit: 2 and one sentence if it fails."""
    arguments = parser.parse_args(namespace=argparse.Namespace(data_dir=None))
    try:
        status = job(arguments)
    except (ArithmeticError, ImportError, OSError, TypeError, ValueError) as error:
        parser.exit(2, f"{Path(parser.prog).stem}: {error}\n")
    sys.exit(status)
