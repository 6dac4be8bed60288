"""The commands of the command line, one frozen dataclass each.

Its docstring is the help, its fields are the options, from which tyro makes the parser, and calling
it does the job. To add a command, write one and name it in `COMMANDS`. What only one command needs
is imported in that command, so that the others start fast.
"""

from __future__ import annotations

import inspect
import io
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stderr
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from nnjax.checks import did_you_mean
from nnjax.cli.book import Book
from nnjax.cli.check import Check
from nnjax.cli.evaluate import Evaluate
from nnjax.cli.exercise import Exercise
from nnjax.cli.explain import Explain
from nnjax.cli.help import describe, wrapped_help
from nnjax.cli.loaded import load_run
from nnjax.cli.option_files import words
from nnjax.cli.page import Page
from nnjax.cli.plot import Plot
from nnjax.cli.predict import Predict
from nnjax.cli.refusals import sentence
from nnjax.cli.runs import Runs
from nnjax.cli.sweep import Sweep
from nnjax.cli.train import Train

__all__ = [
    "COMMANDS",
    "Book",
    "Check",
    "Evaluate",
    "Exercise",
    "Explain",
    "Page",
    "Plot",
    "Predict",
    "Runs",
    "Sweep",
    "Train",
    "parse",
]

COMMANDS: dict[str, Any] = {
    "train": Train,
    "sweep": Sweep,
    "predict": Predict,
    "evaluate": Evaluate,
    "plot": Plot,
    "page": Page,
    "runs": Runs,
    "check": Check,
    "explain": Explain,
    "exercise": Exercise,
    "book": Book,
}
"""The commands by name."""


def parse(argv: Sequence[str] | None) -> Callable[[], int | None]:
    """Return the command that the arguments ask for, to be called; it may return an exit status.

    Args:
        argv: what follows `nnjax`; None: the arguments of this process.

    Raises:
        SystemExit: after help.
        ValueError: if the arguments do not parse.
        OSError, ValueError: if the run to resume is missing or damaged.

    Example:
        >>> from nnjax.cli.commands import parse
        >>> parse(["train", "--hidden", "30", "20"]).config.hidden
        (30, 20)
    """
    argv = sys.argv[1:] if argv is None else argv
    command = _parse(argv, Train())
    if not isinstance(command, Train):
        return command
    starts = {"--resume": command.resume, "--from": command.source, "--config": command.options}
    given = [name for name, path in starts.items() if path is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} both say what the options are; give one of them")
    # Again: options that are not given are those of the earlier run, or of the file.
    if (earlier := command.resume or command.source) is not None:
        loaded = load_run(earlier)
        board = command.resume is not None and loaded.run.config.get("tensorboard", False)
        command = _parse(argv, Train.of(loaded.config, tensorboard=board))
    elif command.options is not None:
        command = _parse(argv, _from_file(command.options))
    return command


def _from_file(path: Path) -> Train:
    options = words(path)
    try:
        train = _parse(["train", *options], Train())
        train.config  # noqa: B018  (looks at the values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if any(getattr(train, name) is not None for name in ("resume", "source", "options")):
        raise ValueError(f"{path}: resume, from and config stand on the command line only")
    return train


def _parse(argv: Sequence[str], train: Train) -> Any:
    if not argv or (not argv[0].startswith("-") and argv[0] not in COMMANDS):
        what = f"unknown command {argv[0]!r}" if argv else "no command given"
        hint = did_you_mean(argv[0], COMMANDS) if argv else ""
        raise ValueError(f"{what}{hint}; expected one of {', '.join(COMMANDS)}")
    overview = argv[0].startswith("-")  # one sentence per command
    wants_help = not {"-h", "--help"}.isdisjoint(argv)
    if wants_help:
        describe(COMMANDS.get(argv[0], Train))
    # Switches of train can be turned off too: a run that is resumed may have them on.
    once = tyro.conf.FlagCreatePairsOff
    kinds: list[Any] = [
        Annotated[kind, tyro.conf.subcommand(name, description=_first(kind, overview)), once]
        for name, kind in COMMANDS.items()
        if kind is not Train
    ]
    first = tyro.conf.subcommand("train", default=train, description=_first(Train, overview))
    kinds.insert(0, Annotated[Train, first])
    one_of: Any = Union[tuple(kinds)]  # noqa: UP007  (made while running)
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint), wrapped_help() if wants_help else nullcontext():
            return tyro.cli(
                one_of,
                args=argv,
                prog="nnjax",
                description="Neural networks whose gradients are derived by hand.",
                config=(tyro.conf.DisallowNone,),
            )
    except SystemExit as stop:
        if not stop.code:  # after --help
            raise
        raise ValueError(sentence(complaint.getvalue())) from None


def _first(command: type, overview: bool) -> str | None:
    """Return the first paragraph of what a command does, for the list of all; None: the whole."""
    return (inspect.getdoc(command) or "").split("\n\n")[0] if overview else None
