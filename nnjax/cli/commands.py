"""The commands of the command line, one frozen dataclass each.

Its docstring is the help, its fields are the options, from which tyro makes the parser, and calling
it does the job. To add a command, write one and name it in `COMMANDS`. What only one command needs
is imported in that command, so that the others start fast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Union

import tyro

from nnjax.cli.check import Check, Explain
from nnjax.cli.saved import Evaluate, Plot, Predict, open_run
from nnjax.cli.train import Train

__all__ = ["COMMANDS", "Check", "Evaluate", "Explain", "Plot", "Predict", "Train", "parse"]

COMMANDS: dict[str, Any] = {
    "train": Train,
    "predict": Predict,
    "evaluate": Evaluate,
    "plot": Plot,
    "check": Check,
    "explain": Explain,
}
"""The commands by name."""


def parse(argv: Sequence[str] | None) -> Callable[[], int | None]:
    """Return the command that the arguments ask for, to be called; it may return an exit status.

    Args:
        argv: what follows `nnjax`; None: the arguments of this process.

    Raises:
        SystemExit: after help, or a message about arguments that do not parse.
        OSError, ValueError: if a run is to be resumed that is not there or damaged.

    Example:
        >>> from nnjax.cli.commands import parse
        >>> parse(["train", "--hidden", "30", "20"]).config.hidden
        (30, 20)
    """
    command = _parse(argv, Train())
    if isinstance(command, Train) and command.resume is not None:
        # Once more: what is not given is what the run was given.
        command = _parse(argv, Train(open_run(command.resume)[1]))
    return command


def _parse(argv: Sequence[str] | None, train: Train) -> Any:
    kinds: list[Any] = [
        Annotated[kind, tyro.conf.subcommand(name)]
        for name, kind in COMMANDS.items()
        if kind is not Train
    ]
    kinds.insert(0, Annotated[Train, tyro.conf.subcommand("train", default=train)])
    one_of: Any = Union[tuple(kinds)]  # noqa: UP007  (made while running)
    return tyro.cli(
        one_of,
        args=argv,
        prog="nnjax",
        description="Neural networks whose gradients are derived by hand.",
    )
