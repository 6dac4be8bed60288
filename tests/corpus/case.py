"""A case of the corpus: a function, its gradient written by hand, and slips planted in that.

The slips stand in the backward pass itself, as comments under the line that they spoil:

    dvar = dinv * -0.5 * inv**3
    # slip inverse-squared: inv² for inv³ | inv = 1 | another variable, factor
    #     dvar = dinv * -0.5 * inv**2

that is: an id, what went wrong, the lines of f where a person would place it (pieces of their
text; more than one where they cannot be told apart, separated by " / "), the names that say it
rightly (keys of `NAMES`, separated by commas; "-" where there is no word for it, so that the place
is all that can be asked for), and the line as it is written wrongly. A header may continue in the
next line, which then starts with `# |`.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

__all__ = ["NAMES", "Case", "Slip", "slips_of"]

POWER = "factor (left out|too many)"  # what a wrong power may be called as well
NAMES = {
    "left out": r"left out",
    "factor": r"factor|counted|times|scaled",
    "sign": r"sign",
    "mean": r"sum for mean|mean for sum|mean twice|counted|factor",
    "transposed": r"transposed",
    "interchanged": r"interchanged",
    "missing": r"derivative missing|factor left out",
    "twice": r"applied twice",
    "another variable": rf"another variable|another function|wrong partner|{POWER}",
    "another function": rf"another function|another variable|{POWER}",
    "half product": r"half of a product|left out",
    "overwritten": r"overwritten|first copy|last",
    "first copy": r"first (copy|example)|overwritten",
    "carry": r"carry dropped|left out",
    "last step": r"last step|carry dropped",
    "one step off": r"one step off|index shift|wrong partner|another variable",
    "partner": rf"wrong partner|another variable|{POWER}",
    "index shift": r"index shift|one step off|wrong partner",
    "clipped": r"clipped",
    "normalised": r"normalised",
    "log f": r"log f",
    "axis": r"axis|sum for mean|mean for sum|wrong partner",
}
HEADER = re.compile(r"\s*# slip ([\w-]+): (.*)$")


@dataclass(frozen=True)
class Slip:
    """One mistake: what it is, where in f it belongs, what it may be called, how it is written."""

    id: str
    what: str
    lines: tuple[str, ...]
    names: tuple[str, ...]
    at: int
    code: tuple[str, ...]

    @property
    def has_name(self) -> bool:
        """Whether there is a word for it."""
        return "-" not in self.names

    def is_named(self, name: str) -> bool:
        """Whether a finding's name says this slip."""
        keys = (key for key in self.names if key != "-")
        return any(re.search(NAMES[key], name, re.IGNORECASE) for key in keys)

    def is_at(self, text: str) -> bool:
        """Whether a line of f is one where a person would place this slip."""
        return any(re.search(rf"(?<!\w){re.escape(piece)}", text) for piece in self.lines)


@dataclass(frozen=True)
class Case:
    """A function f of arrays, its backward pass, and example arguments.

    Attributes:
        name: what the case is called.
        f: f(*args) -> a scalar, in JAX.
        backward: backward(*args) -> the gradient with respect to the first `wrt` arguments, in
            NumPy: a tuple, or one array if `wrt` is 1.
        arguments: arguments(rng) -> args.
        wrt: how many of the arguments the gradient is for.
    """

    name: str
    f: Callable
    backward: Callable
    arguments: Callable[[np.random.Generator], tuple]
    wrt: int

    @property
    def slips(self) -> tuple[Slip, ...]:
        return slips_of(self.backward)

    @property
    def argnums(self) -> int | tuple[int, ...]:
        return 0 if self.wrt == 1 else tuple(range(self.wrt))

    def args(self, seed: int = 0) -> tuple[Any, ...]:
        return self.arguments(np.random.default_rng(seed))

    def places(self, slip: Slip) -> set[int]:
        """Return the numbers, in the file of f, of the lines where a slip belongs."""
        lines, first = inspect.getsourcelines(self.f)
        return {first + i for i, text in enumerate(lines) if slip.is_at(text)}

    def gradient(self, *ids: str) -> Callable:
        """Return the gradient with the slips of these ids planted in it; the right one for none."""
        known = {slip.id: slip for slip in self.slips}
        lines = inspect.getsource(self.backward).splitlines()
        for name in ids:
            slip = known[name]
            indent = re.match(r"\s*", lines[slip.at]).group()
            lines[slip.at] = "\n".join(indent + line for line in slip.code)
        source = textwrap.dedent("\n".join(lines)) + "\n"
        file = f"<{self.name}: {' and '.join(ids) or 'right'}>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        scope = dict(self.backward.__globals__)
        exec(compile(source, file, "exec"), scope)
        spoiled = scope[self.backward.__name__]

        @functools.wraps(spoiled)
        def gradient(*args):
            return spoiled(*jax.tree.map(np.asarray, args))

        return gradient


@functools.cache
def slips_of(backward: Callable) -> tuple[Slip, ...]:
    """Return the slips that are written in the comments of a backward pass."""
    lines = inspect.getsource(backward).splitlines()
    slips, at, i = [], 0, 0
    while i < len(lines):
        match = HEADER.match(lines[i])
        if not match:
            if lines[i].strip() and not lines[i].strip().startswith("#"):
                at = i
            i += 1
            continue
        identity, header = match.groups()
        i += 1
        while i < len(lines) and lines[i].strip().startswith("# |"):
            header += " " + lines[i].strip()[2:]
            i += 1
        code = []
        while i < len(lines) and lines[i].strip().startswith("#     "):
            code.append(lines[i].strip().removeprefix("#     "))
            i += 1
        what, where, names = (part.strip() for part in header.split(" | "))
        slips.append(
            Slip(
                id=identity,
                what=what,
                lines=tuple(where.split(" / ")),
                names=tuple(name.strip() for name in names.split(",")),
                at=at,
                code=tuple(code),
            )
        )
    return tuple(slips)
