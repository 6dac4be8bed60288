"""`nnjax exercise`: a file with one planted mistake, and whether it is found and fixed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nnjax.cli.console import busy, wrapped

__all__ = ["Exercise"]


@dataclass(frozen=True)
class Exercise:
    """Practise: a gradient with one mistake in it, to be found and fixed.

    The first time, FILE is written. Fix it with an editor, and run the same command again: it says
    whether the mistake is found and fixed. Exit status 1 until it is.
    """

    file: Annotated[Path, tyro.conf.Positional] = Path("exercise.py")
    """The file with the exercise."""
    seed: int = 0
    """Random seed: which program, and which mistake."""
    difficulty: Literal[1, 2, 3] = 1
    """From 1, such as a wrong sign, to 3."""
    kind: Literal["network", "function"] | None = None
    """Backpropagation of a network, or any function (default: either)."""
    solution: bool = False
    """Say where the mistake is, and what."""
    json: bool = False
    """Print the result as JSON."""

    def __call__(self) -> int:
        from nnjax.gradcheck.exercise import judge, write_exercise

        if not self.file.exists():
            title = write_exercise(self.file, self.seed, self.difficulty, self.kind)
            again = f"nnjax exercise {self.file}"
            said = f"Wrote {self.file}: {title}. One line of its gradient is wrong."
            print(json.dumps({"file": str(self.file), "title": title}) if self.json else said)
            if not self.json:
                print(f"Find it, fix it, and run\n\n  {again}")
            return 0
        with busy("checking"):
            judgement = judge(self.file)
        found, mended, line, report = judgement
        if self.json:
            print(
                json.dumps(
                    {"found": found, "mended": mended, "report": report.to_dict()}, default=str
                )
            )
        elif mended:
            print("Found and fixed: the gradient is right.")
        else:
            print("Found, but not fixed." if found else "Not found yet: the gradient is wrong.")
            if self.solution:
                print(f"The mistake was planted in line {line}.\n\n{report}")
            else:
                print(wrapped(report.reason))
                print(f"\nTo be told where it is: nnjax exercise {self.file} --solution")
        return 0 if mended else 1
