"""What a check found: where a gradient goes wrong, what was done there, and how well that fits."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One mistake that explains a claimed gradient.

    Attributes:
        name: a few words, such as "left out", "sum for mean" or "derivative missing".
        sentence: what went wrong, in the words of the line.
        where: the place in words, such as "layer 2" or "line 8, in `var`".
        have: what is claimed, as a formula.
        expected: what is expected there.
        residual: the largest relative difference that is left in any leaf.
        factor: the number found, for a mistake that has one.
        file, line, column: where the line is (both count from 1); None where it is not known.
        source: the text of the line.
        variable: the name in the user's source of what the line computes, where it has one.
        leaves: which arrays of the gradient it explains.
        evidence: what speaks for it, such as "16 directions explain all 128 numbers".

    Example:
        >>> print(Finding(name="sign", sentence="the minus is missing", where="line 3"))
        sign (line 3): the minus is missing
    """

    name: str
    sentence: str
    where: str = ""
    have: str = ""
    expected: str = ""
    residual: float = 0.0
    factor: float | None = None
    file: str | None = None
    line: int | None = None
    column: int | None = None
    source: str | None = None
    variable: str | None = None
    leaves: tuple[str, ...] = ()
    evidence: str = ""

    def __str__(self) -> str:
        where = f" ({self.where})" if self.where else ""
        return f"{self.name}{where}: {self.sentence}"
