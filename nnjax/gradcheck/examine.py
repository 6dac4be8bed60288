"""The examination behind every check: compare, doubt the reference, find the cause."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import jax
import numpy as np

from nnjax.gradcheck.arbiter import Arbiter
from nnjax.gradcheck.compare import (
    LEAF_TOLERANCE,
    NO_REFERENCE,
    NOT_REACHED,
    Leaf,
    Misfit,
    TookTooLong,
    compare,
    norm,
    relative_error,
    to_numpy,
)
from nnjax.gradcheck.diagnose import Candidate, diagnose
from nnjax.gradcheck.finding import Finding
from nnjax.gradcheck.forms import Claim
from nnjax.gradcheck.mistakes import general_candidates
from nnjax.gradcheck.problem import Point
from nnjax.gradcheck.report import GradientReport, Verdict

__all__ = ["examine"]

PENALTIES = "L2 term", "L1 term"


def examine(
    subject: str,
    claim: Claim,
    points: Sequence[Point],
    *,
    candidates: Callable[[Sequence[Point]], Iterable[Candidate]] = general_candidates,
    explain: Callable[[Sequence[Point]], Sequence[Finding]] = lambda points: (),
    localise: Callable[[Sequence[Point]], Sequence[str]] = lambda points: (),
    values: Callable[[Point], Iterable[tuple[str, Any, Any]]] = lambda point: (),
    conventions: Callable[[Sequence[Point]], Finding | None] = lambda points: None,
    covered: str = "",
    not_covered: str = "",
    repeat: str = "",
) -> GradientReport:
    """Return the report on a claim, given the points at which to evaluate it.

    Args:
        subject: what is checked, for the headline.
        claim: the function behind the points' claimed gradients, for what is said about it.
        points: the points; the first one is the point that the caller gave, if any.
        candidates: yields the mistakes of the table to try when the claim is wrong.
        explain: finds the place and the term in the function's own computation.
        localise: returns lines that say which step is the first wrong one.
        values: yields what else was returned: a name, what is claimed, what is expected.
        conventions: returns the convention by which a claim that is wrong may be right.
        covered, not_covered, repeat: for the report.
    """

    def report(verdict, reason, leaves=(), **more):
        return GradientReport(
            subject=subject,
            verdict=verdict,
            reason=reason,
            leaves=tuple(leaves),
            remarks=tuple(claim.remarks),
            covered=covered,
            not_covered=not_covered,
            repeat=repeat,
            **more,
        )

    first = points[0]
    with np.errstate(all="ignore"):
        value = first.value(first.args)
    if not np.isfinite(value):
        return report(
            Verdict.INCONCLUSIVE,
            f"The function is {value} at {first.label}, where it has no gradient; give arguments "
            "at which it is finite.",
        )
    try:
        for point in points:
            _ = point.claimed
        again = _same_again(first)
        if again is not None:
            return report(Verdict.WRONG, f"The gradient {again.sentence}.", findings=(again,))
        others = [compare(*row, point=point.label) for point in points for row in values(point)]
    except TookTooLong as misfit:
        return report(Verdict.INCONCLUSIVE, f"The function {misfit}.")
    except Misfit as misfit:
        return report(Verdict.WRONG, f"The gradient {misfit}.")

    rows = [point.rows for point in points]
    worst = [max(of_leaf, key=_badness) for of_leaf in zip(*rows, strict=True)]
    arbiter = Arbiter(False, "") if first.problem.untraceable else Arbiter.ask(points)
    if arbiter.doubts:
        once, again = (float(first.problem.function(*first.args)) for _ in range(2))
        if once != again:
            return report(
                Verdict.INCONCLUSIVE,
                "The function is not deterministic: called twice with the same arguments it "
                f"returns {once:.6g} and {again:.6g}; fix the random numbers it draws.",
            )
        rule = _own_rule(first)
        if not rule or not all(np.isfinite(leaf).all() for leaf in first.expected):
            return report(Verdict.REFERENCE_SUSPECT, arbiter.sentence, worst)
        if first.wrong and _by_its_bodies(first, first.claimed_arrays):
            return report(
                Verdict.REFERENCE_SUSPECT,
                "Your gradient is that of what the function computes. Autodiff follows a custom "
                f"derivative rule in it instead. {arbiter.sentence}",
                worst,
            )
        arbiter = Arbiter(
            False,
            f"The function contains {rule}, so that finite differences do not apply and autodiff "
            "decides.",
        )
    unsettled = {leaf.verdict for leaf in worst if not leaf.ok}
    if unsettled == {NOT_REACHED}:
        named = ", ".join(leaf.path for leaf in worst if leaf.verdict == NOT_REACHED)
        return report(
            Verdict.INCONCLUSIVE,
            f"Entries of {named} differ, but differences of the function are too rough to tell "
            "which is right; give arguments of another size, or a function that JAX can trace. "
            f"{first.problem.untraceable}",
            worst,
        )
    if unsettled == {NO_REFERENCE}:
        bad = next(leaf for leaf in worst if leaf.verdict == NO_REFERENCE)
        return report(
            Verdict.INCONCLUSIVE,
            f"Autodiff gives {bad.expected} for {bad.path} {list(bad.index or ())} at {bad.point}, "
            "where the function has no finite derivative; the other entries are right. Give "
            "arguments at which it has one.",
            worst,
        )
    if all(leaf.ok for leaf in worst):
        lies = [row for row in others if not row.ok]
        if lies:
            reason = _wrong_value(lies[0])
            found = Finding(
                name="wrong value",
                sentence=reason,
                residual=lies[0].relative_error,
                leaves=(lies[0].path,),
            )
            return report(Verdict.WRONG, reason, [*worst, lies[0]], findings=(found,))
        if all(leaf.verdict == "right" for leaf in worst):
            return report(
                Verdict.RIGHT, f"{_agreement(points, worst)} {arbiter.sentence}".strip(), worst
            )
        differing = [
            point for point in points if any(r.verdict == "convention" for r in point.rows)
        ]
        return report(
            Verdict.CONVENTION,
            "Differs from autodiff only at a kink or a tie, where either is a valid choice; a step "
            "away from it both are the same.",
            worst,
            findings=diagnose(differing, candidates(differing)).findings,
        )
    precision = _precision(points, worst)
    if precision is not None:
        worst = [leaf if leaf.ok else replace(leaf, verdict="precision") for leaf in worst]
        return report(Verdict.INCONCLUSIVE, precision, worst)
    # Two mistakes, or a mistake and another convention, would hide each other on kinks.
    smooth = [point for point in points if not point.on_kinks]
    telling = smooth if any(point.wrong for point in smooth) else list(points)
    telling = [p for p in telling if all(np.isfinite(g).all() for g in p.expected)] or telling
    reason = f"{_extent(points, worst)} {arbiter.sentence}".strip()
    other = conventions(telling)
    if other is not None:
        return report(
            Verdict.ANOTHER_CONVENTION,
            f"Not the gradient of the function as it stands, but {other.sentence}.",
            worst,
            findings=(other,) if other.factor is None else _merged([other], explain(telling)),
        )
    findings, nearest = _why(telling, candidates, explain)
    return report(
        Verdict.WRONG,
        reason,
        worst,
        steps=tuple(localise(points)),
        findings=findings,
        nearest=nearest,
    )


def _why(
    points: Sequence[Point], candidates: Callable, explain: Callable
) -> tuple[tuple[Finding, ...], Finding | None]:
    """Return what explains a wrong claim, else the mistake of the table that comes nearest."""
    first = points[0]
    missing = [name for name, leaf in zip(first.names, first.claimed, strict=True) if leaf is None]
    arrays = [array for array in first.claimed_arrays if array is not None]
    if len(arrays) + len(missing) < len(first.claimed):
        return (), None  # there is nothing to explain it by
    if missing:
        found = Finding(
            name="not returned (None)",
            where=", ".join(missing),
            sentence="None is returned where a gradient is expected",
            leaves=tuple(missing),
        )
        return (found,), None
    found = diagnose(points, candidates(points))
    unsummed = None if found.findings else _not_summed(points)
    if unsummed is not None:
        return (unsummed,), None
    nearest = found.nearest if found.nearest and _telling(found.nearest) else None
    return _merged(found.findings, explain(points)), nearest


def _not_summed(points: Sequence[Point]) -> Finding | None:
    """Return which axes of wrong leaves are left over, where sums over them are right."""
    names, size = [], ""
    for i in sorted({i for point in points for i in point.wrong}):
        found = [_axes_left(point.claimed_arrays[i], point.expected[i]) for point in points]
        if found[0] is None or len(set(found)) > 1:
            return None
        names.append(points[0].names[i])
        shape = np.shape(points[0].claimed_arrays[i])
        size = " and ".join(f"axis {axis} (length {shape[axis]})" for axis in found[0])
    return Finding(
        name="not summed",
        where=", ".join(names),
        sentence=f"what is broadcast forward is summed backward, here over {size}",
        leaves=tuple(names),
    )


def _axes_left(claimed, expected) -> tuple[int, ...] | None:
    """Return the fewest axes over which the sum of what is claimed is right; None if none are."""
    if claimed is None or claimed.size <= expected.size or claimed.ndim > 6:
        return None
    for count in range(1, claimed.ndim + 1):
        for axes in combinations(range(claimed.ndim), count):
            if any(claimed.shape[axis] == 1 for axis in axes):
                continue
            total = claimed.sum(axes)
            if total.size == expected.size:
                total = total.reshape(expected.shape)
                if norm(total - expected) <= LEAF_TOLERANCE * norm(np.abs(claimed).sum(axes)):
                    return axes
    return None


def _merged(named: Sequence[Finding], placed: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return what the table names and what the function's own computation tells, as one list.

    The table knows whole arrays, the computation knows lines: where both name a mistake, the place
    found by the one is the place of what is named by the other.
    """
    named, placed = ([one for one in found if _telling(one)] for found in (named, placed))
    if not named or not placed:
        return tuple(named or placed)
    exact = [finding for finding in placed if "place only" not in finding.name.lower()]
    line = (exact or placed)[0]
    unknown = line.factor is not None and f"factor {abs(line.factor):.6g}" in line.name
    if exact and all(f.name.startswith("scaled") for f in named) and not unknown:
        return tuple(placed)  # which says where the number comes from
    return tuple(
        replace(
            _of_penalty(finding, line) if exact else finding,
            file=line.file,
            line=line.line,
            column=line.column,
            source=line.source,
            variable=line.variable,
            evidence=line.evidence,
            leaves=finding.leaves or line.leaves,
        )
        for finding in named
    )


def _of_penalty(finding: Finding, line: Finding) -> Finding:
    """Return the finding with what became of the term of a penalty, if it is of one."""
    if not finding.name.startswith(PENALTIES) or line.name.startswith(PENALTIES):
        return finding
    if not line.factor:
        return replace(finding, name=f"{finding.name} ({line.name})")
    # The term is there, times another number: what is added or missing is only a part of it.
    penalty = next(name for name in PENALTIES if finding.name.startswith(name))
    name = f"{penalty} ({line.name})"
    return replace(line, name=name, residual=finding.residual, leaves=finding.leaves)


def _telling(finding: Finding) -> bool:
    """Whether it says anything: a fitted factor of 1 only hides a difference that is tiny."""
    return finding.factor is None or abs(finding.factor - 1) > 1e-3


# Words.


def _agreement(points, worst) -> str:
    problem = points[0].problem
    domains = {domain.name for point in points for domain in point.problem.domains.values()}
    kinds = " and ".join(sorted(domains))
    on = f" along {kinds} arguments" if domains else ""
    elsewhere = (
        f" For arguments that are not {kinds} it is wrong: if they need not be, give some that are "
        "not."
        if problem.noticed
        else ""
    )
    if problem.untraceable:
        pairs = (pair for p in points for pair in zip(p.noise, p.expected, strict=True))
        off = max((norm(noise) / (norm(g) or 1.0) for noise, g in pairs), default=0.0)
        return (
            f"Agrees with finite differences in every array{on}, as far as they reach "
            f"({max(off, 1e-15):.0e}).{elsewhere} {problem.untraceable}"
        )
    small = [leaf for leaf in worst if leaf.relative_error > LEAF_TOLERANCE]
    if small and problem.in_float32(points[0].args):
        size = max(leaf.relative_error for leaf in small)
        return (
            f"Agrees with autodiff to {size:.0e} in every array{on}, as far as float32 reaches, in "
            f"which the function calculates.{elsewhere}"
        )
    size = max((leaf.relative_error for leaf in worst if leaf not in small), default=0.0)
    closely = f"Agrees with autodiff {f'to {size:.0e}' if size else 'exactly'}"
    if not small:
        return f"{closely} in every array{on}.{elsewhere}"
    named = ", ".join(leaf.path for leaf in small)
    rest = f"{closely} in every other array{on}; " if len(small) < len(worst) else ""
    verb = "is" if len(small) == 1 else "are"
    return f"{rest}{named} {verb} 0, or equal, up to rounding.{elsewhere}"


def _wrong_value(row) -> str:
    return (
        f"The gradient is right, but {row.path} is not: {row.claimed:.6g} instead of "
        f"{row.expected:.6g}."
    )


def _extent(points, worst) -> str:
    """Say how much is wrong: how many arrays, which part of them, and at which points."""
    wrong = [leaf for leaf in worst if not leaf.ok]
    said = f"{len(wrong)} of {len(worst)} arrays {'is' if len(wrong) == 1 else 'are'} wrong"
    if len(worst) == 1:
        said = "It is wrong"
    leaf = wrong[0]
    if leaf.verdict != "wrong":
        what = leaf.verdict
        if what in ("NaN", "infinite"):
            what = f"{what} in {leaf.wrong_entries} of {leaf.size} entries"
        elif what.startswith("shape"):
            what = f"of {what} where {leaf.shape} is expected"
        said += f": {leaf.path} is {what.removeprefix('is ')}"
    elif len(wrong) == 1 and leaf.wrong_entries == 1 < leaf.size:
        said += f", in the single entry {list(leaf.index or ())}"
    elif len(wrong) == 1 and leaf.part:
        said += f", in {leaf.part}"
    right = [point.label for point in points if not point.wrong]
    if right and points[0].label in right:
        bad = [point.label for point in points if point.wrong]
        said += f"; right at {points[0].label}, wrong at {bad[0]}"
    if points[0].problem.untraceable:
        said += f". {points[0].problem.untraceable.rstrip('.')}"
    return said + "."


def _badness(leaf: Leaf):
    order = {"right": 0, "convention": 1, NO_REFERENCE: 2, NOT_REACHED: 2, "wrong": 3}
    return order.get(leaf.verdict, 4), leaf.relative_error


def _same_again(point: Point) -> Finding | None:
    """Return how a second call with the same arguments differs, None where it does not."""
    again = Point(point.problem, point.label, point.args)
    for name, one, other in zip(
        point.names, point.claimed_arrays, again.claimed_arrays, strict=True
    ):
        if one is None or other is None or one.shape != other.shape:
            continue
        if np.isfinite(one).all() and relative_error(one, other) > 1e-12:
            off = relative_error(one, other)
            sentence = (
                f"is not deterministic: called twice with the same arguments, {name} differs by "
                f"{off:.1e}; fix the random numbers it draws, and clear what it keeps from one "
                "call to the next"
            )
            return Finding(name="stale or random", sentence=sentence, residual=off, leaves=(name,))
    return None


def _own_rule(point) -> str:
    """Return which rule of its own the function's derivative contains; "" if none.

    A custom rule that is the derivative of what it stands for, such as that of `jax.nn.relu`, is
    none.
    """
    custom = "a custom derivative rule, not the derivative of what it computes"
    rules = {"stop_gradient": "stop_gradient", "custom_": custom}
    program = str(point.problem.traced(point.args))
    found = {rule: words for rule, words in rules.items() if rule in program}
    if "custom_" in found and _by_its_bodies(point, point.expected):
        del found["custom_"]
    return " and ".join(found.values())


def _by_its_bodies(point, gradient) -> bool:
    """Return whether this is f's gradient if no custom rule counts, only what f computes."""
    graph = point.problem.graph(point.args, opaque=False)
    if graph is None:
        return False
    pairs = zip(graph.gradient(), gradient, strict=True)
    return all(
        g is not None and g.shape == own.shape and relative_error(g, own) <= 1e-6
        for own, g in pairs
    )


# Precision.


def _precision(points, worst) -> str | None:
    """Return why more cannot be said, where the claim agrees as far as its precision reaches."""
    types = set()
    for point in points:
        for claimed, expected in zip(point.claimed, point.expected, strict=True):
            try:
                array = to_numpy(claimed)
            except Misfit:
                return None
            if array.shape != expected.shape:
                return None
            if array.dtype.kind not in "iub" and array.dtype != np.float64:
                types.add(array.dtype)
    off = max(leaf.relative_error for leaf in worst)
    if types:
        eps = max(float(jax.numpy.finfo(dtype).eps) for dtype in types)
        if off <= min(100 * eps, 0.05):
            return (
                f"Agrees with autodiff to {off:.0e}, as far as "
                f"{', '.join(sorted(map(str, types)))} reaches, in which the gradient comes back; "
                "compute it in the dtype of the parameters (float64 here) to see more."
            )
        return None
    if off > 1e-3:
        return None
    if _rough(points, 4e-16):
        return (
            "The gradient's own rounding is as large as its difference from autodiff: changing the "
            "arguments in the last digit changes it as much."
        )
    if off < 1e-4 and _rough(points, 1e-7):
        return (
            f"Agrees with autodiff to {off:.0e}, and what is left is the gradient's own rounding, "
            "as of float32 on the way; compute it in float64 throughout to see more."
        )
    return None


def _rough(points, step) -> bool:
    """Return whether what is wrong is rounding: different at once when the arguments change by a
    fraction `step`, where a wrong term would hardly change."""
    for point in points:
        if not point.wrong:
            continue
        beside = point.problem.at("", point.problem.moved(point.args, step, 0))
        try:
            for i in point.wrong:
                one, other = point.claimed_arrays[i], beside.claimed_arrays[i]
                if one is None or other is None or one.shape != other.shape:
                    return False
                here, there = one - point.expected[i], other - beside.expected[i]
                if norm(here) > 30 * norm(here - there):
                    return False
        except Misfit:
            return False
    return True
