"""What a check found: a verdict, a row for every array, the mistake in words.

`str(report)` is plain text of 80 columns that is read from the top down, with colours by
`report.render(color=True)`, `report.to_json()` is for machines; a notebook shows it as HTML.
"""

from __future__ import annotations

import dataclasses
import enum
import html
import json
import linecache
import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnjax.gradcheck.compare import Leaf
from nnjax.gradcheck.finding import Finding

__all__ = ["GradientError", "GradientReport", "Verdict"]

WIDTH = 80


class Verdict(enum.StrEnum):
    """What a check can come to.

    RIGHT: the same gradient at every point. WRONG: not. CONVENTION: the same except at kinks and
    ties, where another choice is as good. RIGHT BY ANOTHER CONVENTION: the gradient of something
    else that people mean, such as with respect to log θ. REFERENCE SUSPECT: finite differences
    contradict autodiff, so that it is autodiff which is in doubt. INCONCLUSIVE: agrees as far as
    the precision of the claim reaches, which is not far enough.
    """

    RIGHT = "RIGHT"
    WRONG = "WRONG"
    CONVENTION = "CONVENTION"
    ANOTHER_CONVENTION = "RIGHT BY ANOTHER CONVENTION"
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
        findings: what explains the claim, most specific first; more than one are alternatives. For
            CONVENTION, the other choice.
        nearest: where nothing explains it, a mistake that comes near (to a relative 1e-2).
        remarks: what else was noticed about the function.
        covered, not_covered: what the check looked at, and what it did not.
        repeat: the call or command that repeats it.
    """

    subject: str
    verdict: Verdict
    leaves: tuple[Leaf, ...]
    reason: str
    steps: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    nearest: Finding | None = None
    remarks: tuple[str, ...] = ()
    covered: str = ""
    not_covered: str = ""
    repeat: str = ""

    @property
    def ok(self) -> bool:
        """Whether no mistake is there: RIGHT, CONVENTION, or right by another convention.

        A factor of the whole gradient (½, sum for mean) is not: it may be either, and the gradient
        of this function it is not.
        """
        if self.verdict == Verdict.ANOTHER_CONVENTION:
            return all(finding.factor is None for finding in self.findings)
        return self.verdict in (Verdict.RIGHT, Verdict.CONVENTION)

    @property
    def mistakes(self) -> tuple[Finding, ...]:
        """The same as `findings`."""
        return self.findings

    @property
    def diagnosis(self) -> str:
        """The mistake in words, its alternatives, or that none is known; "" where all is right."""
        if self.ok:
            return ""
        if self.findings:
            return " or ".join(str(finding) for finding in self.findings)
        if self.nearest is not None:
            return (
                f"no known mistake explains it; the nearest, {self.nearest.name}"
                f"{f' ({self.nearest.where})' if self.nearest.where else ''}, leaves "
                f"{self.nearest.residual:.1e}"
            )
        compared = all(leaf.ok or leaf.verdict == "wrong" for leaf in self.leaves)
        if self.leaves and compared and self.verdict == Verdict.WRONG:
            return f"no known mistake explains it: {self.reason}"
        return self.reason

    def raise_if_wrong(self) -> None:
        """Raise `GradientError` with the report as its message unless `ok`."""
        if not self.ok:
            raise GradientError(self)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain dictionaries, lists, strings and numbers."""
        everything = dataclasses.asdict(self)
        return {
            **everything,
            "mistakes": everything["findings"],
            "verdict": str(self.verdict),
            "ok": self.ok,
            "diagnosis": self.diagnosis,
        }

    def to_json(self, indent: int | None = 2) -> str:
        """Return `to_dict()` as JSON; numbers that are not finite become null."""
        return json.dumps(_finite(self.to_dict()), indent=indent, ensure_ascii=False, default=str)

    def __str__(self) -> str:
        return self.render()

    def _repr_html_(self) -> str:
        """Return the report for a notebook: the verdict in colour, the arrays as a table."""
        color = {"green": "#1a7f37", "red": "#cf222e", "yellow": "#9a6700"}[self._shade]
        cells = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self._rows()
        )
        lines = "\n".join(self._body(_plain))
        return (
            f'<div><b style="color:{color}">{self.verdict}</b> {html.escape(self.subject)}'
            f"<p>{html.escape(self.reason)}</p><table>{cells}</table>"
            f"<pre>{html.escape(lines)}</pre></div>"
        )

    @property
    def _shade(self):
        return "green" if self.ok else "red" if self.verdict == Verdict.WRONG else "yellow"

    def render(self, color: bool = False) -> str:
        """Return the report as text of 80 columns; with colours for a terminal."""
        paint = _paint if color else _plain
        headline = _wrap(str(self.verdict), self.subject, len(self.verdict) + 4)
        headline[0] = headline[0].strip().replace(self.verdict, paint(self.verdict, self._shade), 1)
        lines = [*headline, *_wrap("", self.reason, 2)]
        if self.leaves:
            lines += ["", *self._table(paint)]
        return "\n".join([*lines, *self._body(paint)])

    def _body(self, paint):
        """Return what follows the table: steps, findings, notes."""
        lines = []
        if self.steps:
            lines += ["", *(part for line in self.steps for part in _wrap("step", line))]
        if self.findings:
            lines.append("")
            for number, finding in enumerate(self.findings):
                label = "choice" if self.ok else "mistake"
                lines += self._finding("or" if number else label, finding, paint)
        elif self.nearest is not None:
            lines += ["", *_wrap("mistake", "none of the known ones explains it; the nearest:")]
            lines += self._finding("", self.nearest, paint)
            lines += _wrap("", f"which leaves a relative difference of {self.nearest.residual:.1e}")
        elif self.diagnosis.startswith("no known mistake"):
            lines += ["", *_wrap("mistake", "none of the known ones explains it")]
        right = [leaf.path for leaf in self.leaves if leaf.ok] if not self.ok else []
        notes = []
        for label, text in (
            ("right so far", ", ".join(right)),
            ("noticed", "; ".join(self.remarks)),
            ("covered", self.covered),
            ("not covered", self.not_covered),
            ("repeat", self.repeat),
        ):
            if text:
                notes += _wrap(label, text)
        return [*lines, *([""] if notes else []), *notes]

    def _finding(self, label, finding, paint):
        lines = _wrap(label, str(finding))
        lines[0] = lines[0].replace(finding.name, paint(finding.name, "bold"), 1)
        if finding.line is not None:
            lines.append(f"{'':<15}{Path(finding.file or '').name}, line {finding.line}:")
            lines += _with_caret(finding, paint)
        for word, text in (
            ("you have", finding.have),
            ("expected", finding.expected),
            ("evidence", finding.evidence),
        ):
            if text:
                first, *others = _wrap("", text, 25)
                lines += [f"{'':<15}{word:<10}{first.strip()}", *others]
        return lines

    def _rows(self):
        yield ("gradient", "shape", "rel. error", "cosine", "yours / expected", "verdict")
        for leaf in self.leaves:
            compared = not math.isnan(leaf.cosine)
            yield (
                leaf.path,
                "×".join(map(str, leaf.shape)) or "scalar",
                f"{leaf.relative_error:.1e}" if compared else "–",
                f"{leaf.cosine:.4f}" if compared else "–",
                _range(leaf.ratio),
                _leaf_verdict(leaf),
            )

    def _table(self, paint):
        rows = list(self._rows())
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for i in (0, len(widths) - 1):  # names and troubles are cut to what is left of the width
            over = 2 + sum(widths) + 2 * (len(widths) - 1) - WIDTH
            widths[i] = max(min(widths[i], 12), widths[i] - max(over, 0))
        lines = []
        for number, row in enumerate(rows):
            cells = [
                _cut(cell, width) if i in (0, len(row) - 1) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            if number:
                shade = "green" if self.leaves[number - 1].ok else "red"
                cells[-1] = paint(cells[-1].rstrip(), shade)
            lines.append("  " + "  ".join(cells).rstrip())
        for leaf in self.leaves:
            if not leaf.ok and leaf.index is not None:
                at = f"{leaf.path} {list(leaf.index)}" if leaf.index else leaf.path
                told = f"{at}: yours {leaf.claimed:.6g}, expected {leaf.expected:.6g}"
                lines += _wrap(
                    "worst entry", told + (f"; wrong in {leaf.part}" if leaf.part else "")
                )
                break
        return lines


def _cut(cell, width):
    return cell.ljust(width) if len(cell) <= width else cell[: width - 1] + "…"


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


def _with_caret(finding, paint):
    """Return the source line, cut to the width, with a caret below what the finding is about."""
    text = (finding.source or "").strip()
    if not text:  # such as what is typed at a prompt
        return [f"{'':<17}(the text of code typed at a prompt is not kept)"]
    whole = linecache.getline(finding.file or "", finding.line or 0)
    caret = (finding.column or 1) - 1 - (len(whole) - len(whole.lstrip()))
    if not 0 <= caret < len(text):
        caret = 0
    start = max(0, min(caret - 20, len(text) - WIDTH + 18))
    return [
        f"{'':<17}{text[start : start + WIDTH - 18]}",
        f"{'':<{17 + caret - start}}{paint('^', 'red')}",
    ]


COLORS = {"bold": "1", "red": "1;31", "green": "32", "yellow": "33"}


def _paint(text, color):
    return f"\x1b[{COLORS[color]}m{text}\x1b[0m"


def _plain(text, color):
    return text


def _wrap(label, text, indent=15):
    """Return lines with the label in the margin and the text broken at spaces."""
    lines = textwrap.wrap(text, WIDTH - indent, break_long_words=False, break_on_hyphens=False)
    margin = f"  {label}" if label else ""
    return [f"{margin if i == 0 else '':<{indent}}{line}" for i, line in enumerate(lines or [""])]


def _finite(node):
    if isinstance(node, dict):
        return {key: _finite(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_finite(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node
