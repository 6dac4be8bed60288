"""What a check found: a verdict, a row for every array, the mistake in words.

`str(report)` is plain text that is read from the top down, `report.render(color=True)` the same
for a terminal, `report.to_json()` the same for machines.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from dataclasses import dataclass
from typing import Any

from nnjax.gradcheck.compare import Leaf
from nnjax.gradcheck.finding import Finding

__all__ = ["GradientError", "GradientReport", "Verdict"]


class Verdict(enum.StrEnum):
    """What a check can come to.

    RIGHT: the same gradient at every probe. WRONG: not. CONVENTION: the same but at kinks and
    ties, where another choice is as good. REFERENCE SUSPECT: finite differences contradict
    autodiff, so that it is autodiff which is in doubt. INCONCLUSIVE: agrees as far as the
    precision of the claim reaches, which is not far enough.
    """

    RIGHT = "RIGHT"
    WRONG = "WRONG"
    CONVENTION = "CONVENTION"
    REFERENCE_SUSPECT = "REFERENCE SUSPECT"
    INCONCLUSIVE = "INCONCLUSIVE"


class GradientError(AssertionError):
    """A gradient that is not right; the message is the report, `.report` the data."""

    def __init__(self, report: GradientReport):
        super().__init__(str(report))
        self.report = report


@dataclass(frozen=True)
class GradientReport:
    """The result of a check.

    Attributes:
        subject: what was checked.
        verdict: one of `Verdict`.
        leaves: a row for every array of the gradient.
        reason: the verdict in a sentence.
        steps: for a network, where the first wrong step is, a line each.
        mistakes: what explains the claim; more than one are alternatives. For CONVENTION, the other
            choice.
        nearest: where none does, the mistake that comes nearest.
        remarks: what else was noticed about the function.
        covered, not_covered: what the check looked at, and what it did not.
        repeat: the call or command that repeats it.
    """

    subject: str
    verdict: Verdict
    leaves: tuple[Leaf, ...]
    reason: str
    steps: tuple[str, ...] = ()
    mistakes: tuple[Finding, ...] = ()
    nearest: Finding | None = None
    remarks: tuple[str, ...] = ()
    covered: str = ""
    not_covered: str = ""
    repeat: str = ""

    @property
    def ok(self) -> bool:
        """Whether no mistake is there: RIGHT, or CONVENTION."""
        return self.verdict in (Verdict.RIGHT, Verdict.CONVENTION)

    @property
    def diagnosis(self) -> str:
        """The mistake in words, its alternatives, or that none is known; "" where all is right."""
        if self.ok:
            return ""
        if self.mistakes:
            return " or ".join(str(finding) for finding in self.mistakes)
        if self.nearest is not None:
            return (
                f"no known mistake explains it; the nearest, {self.nearest.name}"
                f"{f' ({self.nearest.where})' if self.nearest.where else ''}, leaves "
                f"{self.nearest.residual:.1e}"
            )
        if self.leaves and self.verdict == Verdict.WRONG:
            return "no known mistake explains it, nor comes near"
        return self.reason

    def raise_if_wrong(self) -> None:
        """Raise `GradientError` with the report as its message unless `ok`."""
        if not self.ok:
            raise GradientError(self)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain dictionaries, lists, strings and numbers."""
        return {
            **dataclasses.asdict(self),
            "verdict": str(self.verdict),
            "ok": self.ok,
            "diagnosis": self.diagnosis,
        }

    def to_json(self, indent: int | None = 2) -> str:
        """Return `to_dict()` as JSON; numbers that are not finite become null."""
        return json.dumps(_finite(self.to_dict()), indent=indent, ensure_ascii=False)

    def __str__(self) -> str:
        return self.render()

    def render(self, color: bool = False) -> str:
        """Return the report as text, about fifteen lines; with colours for a terminal."""
        paint = _paint if color else _plain
        shade = {"RIGHT": "green", "CONVENTION": "green", "WRONG": "red"}
        lines = [f"{paint(self.verdict, shade.get(self.verdict, 'yellow'))}  {self.subject}"]
        lines += _wrap("", self.reason, 2)
        if self.leaves:
            lines += ["", *self._table(paint)]
        if self.steps:
            lines += ["", *(part for line in self.steps for part in _wrap("step", line))]
        if self.mistakes:
            lines.append("")
            for number, finding in enumerate(self.mistakes):
                label = "choice" if self.ok else "mistake"
                lines += self._finding("or" if number else label, finding, paint)
        elif self.nearest is not None:
            lines.append("")
            lines += _wrap("mistake", "none of the known ones explains it; the nearest:")
            lines += self._finding("", self.nearest, paint)
            lines += _wrap("", f"which leaves a relative difference of {self.nearest.residual:.1e}")
        elif self.leaves and self.verdict == Verdict.WRONG:
            lines += ["", *_wrap("mistake", "none of the known ones explains it, nor comes near")]
        notes = []
        for label, text in (
            ("noticed", "; ".join(self.remarks)),
            ("covered", self.covered),
            ("not", self.not_covered),
            ("repeat", self.repeat),
        ):
            if text:
                notes += _wrap(label, text)
        if notes:
            lines += ["", *notes]
        return "\n".join(lines)

    def _finding(self, label, finding, paint):
        where = f" ({finding.where})" if finding.where else ""
        lines = _wrap(label, f"{finding.name}{where}: {finding.sentence}")
        lines[0] = lines[0].replace(finding.name, paint(finding.name, "bold"), 1)
        lines.append(f"{'':<12}{'you have':<10}{finding.have}")
        lines.append(f"{'':<12}{'expected':<10}{finding.expected}")
        return lines

    def _table(self, paint):
        columns = [
            (
                *("gradient", "shape", "rel. error", "worst entry", "yours", "expected"),
                *("cosine", "yours / expected", "verdict"),
            )
        ]
        for leaf in self.leaves:
            compared = not math.isnan(leaf.cosine)
            columns.append(
                (
                    leaf.path,
                    "×".join(map(str, leaf.shape)) or "scalar",
                    f"{leaf.relative_error:.1e}" if compared else "–",
                    "–" if leaf.index is None else str(list(leaf.index)),
                    "–" if leaf.index is None else f"{leaf.claimed:.6g}",
                    "–" if leaf.index is None else f"{leaf.expected:.6g}",
                    f"{leaf.cosine:.4f}" if compared else "–",
                    _range(leaf.ratio),
                    _leaf_verdict(leaf),
                )
            )
        widths = [max(map(len, column)) for column in zip(*columns, strict=True)]
        lines = []
        for number, row in enumerate(columns):
            cells = [
                cell.ljust(width) if i in (0, len(row) - 1) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            if number:
                cells[-1] = paint(row[-1], "green" if self.leaves[number - 1].ok else "red")
            lines.append("  " + "  ".join(cells).rstrip())
        return lines


def _leaf_verdict(leaf):
    if leaf.verdict == "wrong" and 0 < leaf.wrong_entries < leaf.size:
        return f"wrong in {leaf.wrong_entries} of {leaf.size}"
    return leaf.verdict


def _range(ratio):
    low, high = ratio
    if math.isnan(low):
        return "–"
    if math.isclose(low, high, rel_tol=1e-9):
        return f"{low:.6g}"
    return f"{low:.4g} … {high:.4g}"


COLORS = {"bold": "1", "red": "1;31", "green": "32", "yellow": "33"}


def _paint(text, color):
    return f"\x1b[{COLORS[color]}m{text}\x1b[0m"


def _plain(text, color):
    return text


def _wrap(label, text, indent=12, width=100):
    """Return lines with the label in the margin and the text broken at spaces."""
    lines, line = [], ""
    for word in text.split(" "):
        if line and len(line) + 1 + len(word) > width - indent:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    lines.append(line)
    margin = f"  {label}" if label else ""
    return [f"{margin if i == 0 else '':<{indent}}{line}" for i, line in enumerate(lines)]


def _finite(node):
    if isinstance(node, dict):
        return {key: _finite(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_finite(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node
