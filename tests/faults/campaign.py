"""Faults, made on purpose: what a campaign tries, how it judges, and what it has counted.

Every campaign is a function of a number of trials and a folder to work in that returns a `Tally`;
the tests run a few trials of each, `scripts/fault_campaign.py` thousands.
"""

from __future__ import annotations

import contextlib
import io
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import nnjax
from nnjax.cli import main

SURVIVED = "survived"  # the same result, bit for bit, as if nothing had happened
SENTENCE = "one sentence"
TRACEBACK = "traceback"
WRONG = "silently wrong"
CRASH = "crash or hang"
LOST = "lost"
OUTCOMES = (SURVIVED, SENTENCE, TRACEBACK, WRONG, CRASH, LOST)
BAD = OUTCOMES[2:]
PACKAGE = str(Path(nnjax.__file__).parent)


@dataclass
class Tally:
    """How often a campaign ended in which way, and what was done where it ended badly."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)

    def add(self, outcome: str, what: str) -> None:
        self.counts[outcome] += 1
        if outcome in BAD:
            self.bad.append(f"{outcome}: {what}")

    def row(self) -> list[str]:
        tried = sum(self.counts.values())
        return [self.name, f"{tried:,}", *(f"{self.counts[o]:,}" for o in OUTCOMES)]


def judge(error: Exception) -> str:
    """Whether an exception is a sentence of nnjax's own, raised by nnjax, or came from within."""
    frames = traceback.extract_tb(error.__traceback__)
    raised_here = bool(frames) and frames[-1].filename.startswith(PACKAGE)
    text = str(error)
    plain = bool(text.strip()) and len(text) < 600 and "Traceback" not in text
    if isinstance(error, nnjax.GradientError):
        return SENTENCE  # what `assert_gradient` is for
    expected = isinstance(error, (ValueError, TypeError, OSError, ImportError, ArithmeticError))
    return SENTENCE if raised_here and plain and expected else TRACEBACK


def run(*argv: str) -> tuple[int, str, str]:
    """Run a command in this process; return its status and what it wrote."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(list(argv))
    return status, out.getvalue(), err.getvalue()


def refused(status: int, err: str) -> bool:
    """Whether a command ended with one sentence on stderr and the status 2.

    Below it may stand, indented, the text that it is about, with a mark.
    """
    sentence, *shown = err.strip().splitlines() or [""]
    marked = not shown or (len(shown) == 2 and all(line.startswith("  ") for line in shown))
    return status == 2 and sentence.startswith("nnjax: ") and marked
