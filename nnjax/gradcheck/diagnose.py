"""Which mistake explains a wrong gradient: each candidate's prediction, held against the claim.

A mistake is named only where what it predicts agrees with the claim at every point to 1e-10, with
no free number or with one that is the same at every point. Where several explain the claim alike,
all of them are alternatives; those with no free number come before those with one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nnjax.gradcheck.compare import ENTRY_TOLERANCE, LEAF_TOLERANCE, norm
from nnjax.gradcheck.equations import EDIT_FAILS
from nnjax.gradcheck.finding import Finding
from nnjax.gradcheck.names import filled
from nnjax.gradcheck.operations import Undetermined

__all__ = ["Candidate", "Diagnosis", "diagnose", "wrong_leaves"]

FAILED = object()  # stands for the array of an edit that failed
NEAR = 1e-2  # what leaves more than this unexplained is not worth a word


class Candidate(NamedTuple):
    """A mistake at one place, ready to be held against the claim.

    Attributes:
        name, sentence, have, expected: what it says; {t} stands for the fitted number, {sense} and
            {operation} for "added" and "+" or "missing" and "−", by its sign.
        where: the place in words, "" where there is only one.
        predict: (point, t) -> pairs (index of a leaf, its array), lazily; leaves that are not
            mentioned are those of the right gradient. A leaf that is not returned is None.
        fitted: whether t is found from the claim.
        known: whether the mistake has a name of its own; derived names come second.
        only: the leaves to hold it against; None: all.
        stage: candidates of a later stage count only where none before explains the claim.
        parts: for several mistakes at once, what each is, with the leaves that tell it.
        origin: file, line and source of the function, as `Finding` has them.
    """

    name: str
    sentence: str
    have: str
    expected: str
    where: str
    predict: Callable[[Any, float], Iterable[tuple[int, Any]]]
    fitted: bool = False
    known: bool = True
    only: frozenset[int] | None = None
    stage: int = 0
    parts: tuple[Candidate, ...] = ()
    origin: Mapping[str, Any] = {}

    @property
    def rank(self) -> int:
        """Smaller is more specific: named, derived from the operator, with a fitted number."""
        return 2 if self.fitted else 0 if self.known else 1


class Diagnosis(NamedTuple):
    """The mistakes that explain the claim, else the nearest.

    Several are alternatives where they explain the same leaves, and else each explains its own.
    """

    findings: tuple[Finding, ...]
    nearest: Finding | None


def diagnose(
    points: Sequence[Any], candidates: Iterable[Candidate], tolerance: float = LEAF_TOLERANCE
) -> Diagnosis:
    """Return the mistakes that explain the claim at all points.

    Args:
        points: where to compare, with the claimed and the expected gradients.
        candidates: mistakes at places.
        tolerance: on the relative difference of each leaf.
    """
    found: list[tuple[Candidate, Finding]] = []
    rest: list[Candidate] = []
    with np.errstate(all="ignore"):
        for candidate in candidates:
            if found and candidate.stage > found[0][0].stage:
                break
            if any((candidate.name, candidate.only) == (c.name, c.only) for c, _ in found):
                continue
            finding = _explain(candidate, points, tolerance)
            if finding is None:
                if candidate.stage == 0:
                    rest.append(candidate)
            elif candidate.parts:
                several = [_finding(part, finding.residual, points) for part in candidate.parts]
                return Diagnosis(tuple(several), None)
            else:
                found.append((candidate, finding))
        whole = [(c, finding) for c, finding in found if c.only is None]
        findings = _best(whole) if whole else _pieces(found, wrong_leaves(points))
        if findings:
            return Diagnosis(tuple(findings), None)
        return Diagnosis((), _nearest(rest, points))


def explains(candidate: Candidate, points: Sequence[Any]) -> bool:
    """Return whether a mistake explains the claim at all points, in the leaves it is held to."""
    with np.errstate(all="ignore"):
        return _explain(candidate, points, LEAF_TOLERANCE) is not None


def wrong_leaves(points: Sequence[Any]) -> list[int]:
    """Return the indices of the leaves that are wrong at some point."""
    return sorted({i for point in points for i in point.wrong})


def _best(found):
    best = min(candidate.rank for candidate, _ in found)
    return [finding for candidate, finding in found if candidate.rank == best]


def _pieces(found, wrong):
    """Return one finding for every wrong leaf, where each is explained by itself; else none."""
    findings = []
    for i in sorted(wrong):
        own = [(c, finding) for c, finding in found if i in c.only]
        if not own:
            return []
        findings += _best(own)[:1]
    return findings


def _explain(candidate, points, tolerance) -> Finding | None:
    worst, values, sizes = 0.0, [], []
    for point in points:
        try:
            t = _fit(candidate, point) if candidate.fitted else 0.0
            residual = np.inf if t is None else _unexplained(candidate, point, t, tolerance)
        except Undetermined:
            continue
        worst = max(worst, residual)
        if not worst <= tolerance:
            return None
        values.append(t)
        sizes.append(point.n)
    if not values:
        return None
    if not candidate.fitted:
        return _finding(candidate, worst, points)
    constant = _constant(values, sizes)
    return None if constant is None else _finding(candidate, worst, points, *constant)


def _unexplained(candidate, point, t, enough) -> float:
    """Return the largest residual of all leaves; stop at the first that is more than enough."""
    worst = 0.0
    rest = set(range(len(point.expected)) if candidate.only is None else candidate.only)
    for i, predicted in _predictions(candidate, point, t):
        if i in rest:
            rest.discard(i)
            worst = max(worst, _residual(point, i, predicted))
            if not worst <= enough:
                return worst
        if not rest:
            break
    return max([worst, *(_residual(point, i, point.expected[i]) for i in rest)])


def _predictions(candidate, point, t):
    """Run an edit; where it cannot be carried out (shapes do not fit, say) it explains nothing."""
    try:
        yield from candidate.predict(point, t)
    except EDIT_FAILS:
        for i in range(len(point.expected)):
            yield i, FAILED


def _residual(point, i, predicted) -> float:
    """Return ‖claimed − predicted‖ / ‖claimed‖ for one leaf, infinity where they do not compare."""
    if predicted is None:
        return 0.0 if point.claimed[i] is None else np.inf
    claimed = point.claimed_arrays[i]
    if claimed is None or predicted is FAILED:
        return np.inf
    predicted = np.asarray(predicted, np.float64)
    if claimed.shape != predicted.shape:
        return np.inf
    difference = norm(claimed - predicted)
    scale = max(norm(claimed), norm(predicted))
    residual = difference / scale if scale > 0 else difference
    if not residual > LEAF_TOLERANCE:
        if not np.isfinite(residual) or _leaves_small_entries(point, i, predicted):
            return np.inf
        return residual
    if residual > 1e-4 and scale > 1e-10:
        return residual
    # Nearly there, or nearly 0: whatever rounding explains is not a difference.
    return LEAF_TOLERANCE * 0.99 if difference <= norm(point.noise[i]) else residual


def _leaves_small_entries(point, i, predicted) -> bool:
    """Return whether entries are wrong, and not explained, that are too small to count in the norm
    of their leaf."""
    claimed, expected = point.claimed_arrays[i], point.expected[i]
    if claimed.shape != expected.shape:
        return False
    off = np.abs(claimed - expected)
    small = (off > ENTRY_TOLERANCE * np.abs(expected)) & (off <= LEAF_TOLERANCE * norm(claimed))
    if not small.any():
        return False
    noise = point.noise[i]
    left = np.abs(claimed - predicted) - noise > 1e-3 * off
    return bool((left & (off > noise))[small].any())


def _fit(candidate, point) -> float | None:
    """Return the t at which a prediction, linear in t, comes nearest to the claim."""
    at_zero, at_one = (_predictions(candidate, point, t) for t in (0.0, 1.0))
    for (i, zero), (j, one) in zip(at_zero, at_one, strict=False):
        claimed = point.claimed_arrays[i]
        if i != j or claimed is None or any(v is None or v is FAILED for v in (zero, one)):
            return None
        zero, one = np.asarray(zero, np.float64), np.asarray(one, np.float64)
        if claimed.shape != zero.shape or zero.shape != one.shape:
            return None
        direction = one - zero
        size = norm(direction)
        if size > 1e-12 * max(norm(one), norm(zero)) > 0:
            return float(np.vdot((claimed - zero) / size, direction / size))
    return 0.0  # nothing to find: the edit uses the claim itself


def _constant(values, sizes) -> tuple[float, str] | None:
    """Return the number that is the same at every point, t, t n or t / n, and how to read t."""
    t = np.array(values)
    readings = [(t, "{t}")]
    if all(n is not None for n in sizes) and len(set(sizes)) > 1:
        n = np.array(sizes, float)
        readings += [(t * n, "{t}/n"), (t / n, "{t}·n")]
    for numbers, form in readings:
        if np.ptp(numbers) <= 1e-9 * np.max(np.abs(numbers)):
            return float(np.median(numbers)), form
    return None


def _finding(candidate, residual, points, value=None, form="{t}") -> Finding:
    leaves = wrong_leaves(points) if candidate.only is None else sorted(candidate.only)
    words = {}
    if value is not None:
        # A term that is added, t > 0, or one that is missing, t < 0; a factor keeps its sign.
        shown = abs(value) if "{sense}" in candidate.name else value
        words["t"] = form.format(t=f"{shown:.6g}" if abs(shown - 1) > 1e-5 else f"{shown:.10g}")
        words["sense"] = "added" if value > 0 else "missing"
        words["operation"] = "+" if value > 0 else "−"
    return Finding(
        name=filled(candidate.name, words),
        sentence=filled(candidate.sentence, words),
        where=candidate.where,
        have=filled(candidate.have, words),
        expected=filled(candidate.expected, words),
        residual=float(residual),
        factor=value,
        leaves=tuple(points[0].names[i] for i in leaves),
        **candidate.origin,
    )


def _nearest(candidates, points) -> Finding | None:
    """Return the mistake that leaves the least of the claim unexplained, at the first point."""
    point, best = points[0], None
    least = max(_residual(point, i, leaf) for i, leaf in enumerate(point.expected))
    least = min(least, NEAR)
    for candidate in candidates:
        try:
            t = _fit(candidate, point) if candidate.fitted else 0.0
            residual = np.inf if t is None else _unexplained(candidate, point, t, least)
        except Undetermined:
            continue
        if residual < least:
            least = residual
            best = _finding(candidate, residual, points, t if candidate.fitted else None)
    return best
