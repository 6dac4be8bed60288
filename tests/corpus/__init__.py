"""Functions with gradients written by hand, and mistakes planted in them: a test of the checker.

Written without the checker in view: `case.py` says how a mistake is written down.
"""

from __future__ import annotations

import itertools

from . import attention, losses, normalization, numerics, probabilistic, recurrent
from .case import Case, Slip

__all__ = ["CASES", "Case", "Slip", "pairs"]

CASES = (
    *normalization.CASES,
    *recurrent.CASES,
    *attention.CASES,
    *losses.CASES,
    *probabilistic.CASES,
    *numerics.CASES,
)


def pairs(case: Case, count: int = 2) -> list[tuple[Slip, Slip]]:
    """Return pairs of slips of a case in different places of f and of the backward pass.

    They are those furthest apart in the list, so that every case gives the same few.
    """
    slips = case.slips
    found = [
        (a, b)
        for a, b in itertools.combinations(slips, 2)
        if a.at != b.at and not set(a.lines) & set(b.lines)
    ]
    step = max(1, len(found) // (count + 1))
    return found[step // 2 :: step][:count]
