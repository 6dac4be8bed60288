"""The library of mistakes, and how the one that explains a wrong gradient is found.

A mistake is one edit of the right derivation. Each is a small function in one table, `MISTAKES`,
with its name, its sentence and its correction; `@mistake(...)` adds it. What the edit predicts is
compared with the claimed gradient at every probe, and a mistake is named only where that agrees
to 1e-10 with no free number, or with one number that is the same at every probe. Where two explain
the claim alike, both are alternatives.

To add a mistake about single arrays of the gradient (more kinds of step are in
`nnjax.gradcheck.derivation`):

    @mistake(
        "the square", "every entry is squared",
        have="({leaf})²", expected="{leaf}", step="leaf",
    )
    def squared(leaf):
        return leaf.g**2
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from nnjax.gradcheck.compare import LEAF_TOLERANCE, norm
from nnjax.gradcheck.finding import Finding

__all__ = [
    "MISTAKES",
    "Candidate",
    "Diagnosis",
    "Mistake",
    "Undetermined",
    "diagnose",
    "mistake",
]


@dataclass(frozen=True)
class Mistake:
    """One edit of the right derivation.

    Attributes:
        name: a few words, such as "sum for mean".
        sentence: what went wrong, in words.
        have: the formula as it was claimed.
        expected: the formula as it should be. In all four, words in braces are filled in: {leaf},
            {parameter}, for a network the layer {l}, and for a fitted number {t}, with {sense}
            ("added" or "missing") and {operation} where its sign tells that.
        step: which step the edit replaces: "leaf", "gradient", or one of a network's.
        change: the edit; what it takes depends on the step.
        fitted: whether the edit takes one more argument, a number t found from the claim.
    """

    name: str
    sentence: str
    have: str
    expected: str
    step: str
    change: Callable
    fitted: bool = False


MISTAKES: list[Mistake] = []


def mistake(
    name: str, sentence: str, *, have: str, expected: str, step: str, fitted: bool = False
) -> Callable[[Callable], Callable]:
    """Enter the function below into the table of mistakes; `Mistake` says what the words are.

    Example:
        >>> from nnjax.gradcheck.hypotheses import MISTAKES, mistake
        >>> words = {"have": "({leaf})³", "expected": "{leaf}"}
        >>> @mistake("cubed", "every entry is cubed", **words, step="leaf")
        ... def cubed(leaf):
        ...     return leaf.g**3
        >>> MISTAKES.pop().name
        'cubed'
    """

    def enter(change: Callable) -> Callable:
        MISTAKES.append(Mistake(name, sentence, have, expected, step, change, fitted))
        return change

    return enter


class Undetermined(Exception):
    """Raised by an edit that leaves open what happens at this probe; others must decide."""


# What an edit raises where it has no meaning: shapes that do not fit, no batch, no such layer.
EDIT_FAILS = (TypeError, ValueError, LookupError, AttributeError, ZeroDivisionError)


class Candidate(NamedTuple):
    """A mistake at one place, ready to be held against the claim.

    Attributes:
        mistake: the entry of the table.
        where: the place in words, "" where there is only one.
        predict: (probe, t) -> pairs (index of a leaf, its array), lazily; leaves that are not
            mentioned are those of the right gradient. None where the edit has no meaning.
        words: what fills in the formulas.
    """

    mistake: Mistake
    where: str
    predict: Callable[[Any, float], Iterable[tuple[int, Any]] | None]
    words: dict[str, str]


class Diagnosis(NamedTuple):
    """The mistakes that explain the claim (more than one: alternatives), else the nearest."""

    findings: tuple[Finding, ...]
    nearest: Finding | None


def diagnose(
    probes: Sequence[Any], candidates: Iterable[Candidate], tolerance: float = LEAF_TOLERANCE
) -> Diagnosis:
    """Return the mistakes that explain the claim at all probes.

    Args:
        probes: where to compare, with the claimed gradients.
        candidates: mistakes at places.
        tolerance: on the relative difference of each leaf.
    """
    found: list[tuple[Candidate, Finding]] = []
    rest: list[Candidate] = []
    with np.errstate(all="ignore"):
        for candidate in candidates:
            if any(_same_mistake(candidate, other) for other, _ in found):
                continue
            finding = _explain(candidate, probes, tolerance)
            if finding is None:
                rest.append(candidate)
            else:
                found.append((candidate, finding))
        exact = [finding for candidate, finding in found if not candidate.mistake.fitted]
        if exact or found:
            return Diagnosis(tuple(exact or [finding for _, finding in found]), None)
        return Diagnosis((), _nearest(rest, probes))


def _same_mistake(candidate, other):
    return candidate.mistake is other.mistake


def _explain(candidate, probes, tolerance) -> Finding | None:
    worst, values, sizes = 0.0, [], []
    for probe in probes:
        try:
            t = _fit(candidate, probe) if candidate.mistake.fitted else 0.0
            residual = np.inf if t is None else _unexplained(candidate, probe, t, tolerance)
        except Undetermined:
            continue
        worst = max(worst, residual)
        if not worst <= tolerance:
            return None
        values.append(t)
        sizes.append(probe.n)
    if not values:
        return None
    if not candidate.mistake.fitted:
        return _finding(candidate, worst)
    constancy = _constant(values, sizes)
    return None if constancy is None else _finding(candidate, worst, *constancy)


def _unexplained(candidate, probe, t, enough) -> float:
    """Return the largest residual of all leaves; stop at the first that is more than enough."""
    prediction = _predict(candidate, probe, t)
    if prediction is None:
        return np.inf
    worst, rest = 0.0, set(range(len(probe.expected)))
    for i, predicted in prediction:
        rest.discard(i)
        worst = max(worst, _residual(probe, i, predicted))
        if not worst <= enough:
            return worst
    return max([worst, *(_residual(probe, i, probe.expected[i]) for i in rest)])


def _predict(candidate, probe, t) -> Iterator[tuple[int, Any]] | None:
    """Run an edit; where it cannot be carried out (shapes do not fit, say) it explains nothing."""
    try:
        prediction = candidate.predict(probe, t)
    except EDIT_FAILS:
        return None
    return None if prediction is None else _guarded(iter(prediction))


def _guarded(prediction):
    while True:
        try:
            i, predicted = next(prediction)
        except StopIteration:
            return
        except EDIT_FAILS:
            yield 0, None
            return
        yield i, predicted


def _residual(probe, i, predicted) -> float:
    """Return ‖claimed − predicted‖ / ‖claimed‖ for one leaf, infinity where they do not compare."""
    claimed = probe.claimed_arrays[i]
    if claimed is None or predicted is None:
        return 0.0 if claimed is None and predicted is None else np.inf
    predicted = np.asarray(predicted, np.float64)
    if claimed.shape != predicted.shape:
        return np.inf
    difference = norm(claimed - predicted)
    scale = max(norm(claimed), norm(predicted))
    residual = difference / scale if scale > 0 else difference
    if not LEAF_TOLERANCE < residual < 1e-4:
        return residual if np.isfinite(residual) else np.inf
    # Nearly there: whatever rounding explains is no difference.
    rounding = norm(probe.noise[i]) / scale
    return LEAF_TOLERANCE * 0.99 if residual <= rounding else residual


def _fit(candidate, probe) -> float | None:
    """Return the t at which a prediction, linear in t, comes nearest to the claim."""
    at_zero, at_one = _predict(candidate, probe, 0.0), _predict(candidate, probe, 1.0)
    if at_zero is None or at_one is None:
        return None
    for (i, zero), (j, one) in zip(at_zero, at_one, strict=False):
        claimed = probe.claimed_arrays[i]
        if i != j or zero is None or one is None or claimed is None:
            return None
        zero, one = np.asarray(zero, np.float64), np.asarray(one, np.float64)
        if claimed.shape != zero.shape or zero.shape != one.shape:
            return None
        direction = one - zero
        size = norm(direction)
        if size > 1e-12 * max(norm(one), norm(zero)) > 0:
            unit = direction / size
            return float(np.vdot((claimed - zero) / size, unit))
    return 0.0  # nothing to find: the edit uses the claim itself


def _constant(values, sizes) -> tuple[float, str] | None:
    """Return the number that is the same at every probe, t, t n or t / n, and how to read t."""
    t = np.array(values)
    readings = [(t, "{t}")]
    if all(n is not None for n in sizes) and len(set(sizes)) > 1:
        n = np.array(sizes, float)
        readings += [(t * n, "{t}/n"), (t / n, "{t}·n")]
    for numbers, form in readings:
        if np.ptp(numbers) <= 1e-6 * np.max(np.abs(numbers)):
            value = float(np.median(numbers))
            return value, form
    return None


def _finding(candidate, residual, value=None, form="{t}") -> Finding:
    made, words = candidate.mistake, dict(candidate.words)
    if value is not None:
        # A term that is added, t > 0, or one that is missing, t < 0; a factor keeps its sign.
        signed = "{sense}" not in made.name
        words["t"] = form.format(t=f"{value if signed else abs(value):.6g}")
        words["sense"] = "added" if value > 0 else "missing"
        words["operation"] = "+" if value > 0 else "−"
    return Finding(
        name=made.name.format(**words),
        where=candidate.where,
        sentence=made.sentence.format(**words),
        have=made.have.format(**words),
        expected=made.expected.format(**words),
        residual=float(residual),
        factor=value,
    )


def _nearest(candidates, probes) -> Finding | None:
    """Return the mistake that leaves the least of the claim unexplained, at the first probe."""
    probe, best = probes[0], None
    least = max(_residual(probe, i, leaf) for i, leaf in enumerate(probe.expected))
    for candidate in candidates:
        try:
            t = _fit(candidate, probe) if candidate.mistake.fitted else 0.0
            residual = np.inf if t is None else _unexplained(candidate, probe, t, least)
        except Undetermined:
            continue
        if residual < least:
            least = residual
            best = _finding(candidate, residual, t if candidate.mistake.fitted else None)
    return best
