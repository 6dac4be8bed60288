"""The examination behind every check: compare, doubt the reference, find the cause."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np

from nnjax.gradcheck.claim import Claim
from nnjax.gradcheck.compare import (
    LEAF_TOLERANCE,
    Leaf,
    Misfit,
    TookTooLong,
    compare,
    norm,
    relative_error,
    to_numpy,
)
from nnjax.gradcheck.diagnose import Candidate, diagnose
from nnjax.gradcheck.mistakes import general_candidates
from nnjax.gradcheck.reference import Slope, slope, typical_size
from nnjax.gradcheck.report import GradientReport, Verdict
from nnjax.gradcheck.subject import Probe

__all__ = ["examine"]


def examine(
    subject: str,
    claim: Claim,
    probes: Sequence[Probe],
    *,
    candidates: Callable[[Sequence[Probe]], Iterable[Candidate]] = general_candidates,
    localise: Callable[[Sequence[Probe]], Sequence[str]] = lambda probes: (),
    covered: str = "",
    not_covered: str = "",
    repeat: str = "",
) -> GradientReport:
    """Return the report on a claim, given the probes at which to evaluate it.

    Args:
        subject: what is checked, for the headline.
        claim: the function behind the probes' claimed gradients, for what is said about it.
        probes: the points; the first one is the point that the caller gave, if any.
        candidates: yields the mistakes to try when the claim is wrong.
        localise: returns lines that say which step is the first wrong one.
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

    try:
        for probe in probes:
            _ = probe.claimed
        _require_same_again(probes[0])
    except TookTooLong as misfit:
        return report(Verdict.INCONCLUSIVE, f"The function {misfit}.")
    except Misfit as misfit:
        return report(Verdict.WRONG, f"The gradient {misfit}.")

    rows = [_rows(probe) for probe in probes]
    for probe, of_probe in zip(probes, rows, strict=True):
        if not all(leaf.ok for leaf in of_probe) and _only_at_kinks(probe, of_probe):
            of_probe[:] = [
                leaf if leaf.ok else replace(leaf, verdict="convention") for leaf in of_probe
            ]
        probe.wrong = [i for i, leaf in enumerate(of_probe) if not leaf.ok]
    worst = [max(of_leaf, key=_badness) for of_leaf in zip(*rows, strict=True)]
    arbiter = Arbiter.ask(probes, rows)

    if arbiter.doubts:
        return report(Verdict.REFERENCE_SUSPECT, arbiter.sentence, worst)
    if all(leaf.ok for leaf in worst):
        if all(leaf.verdict == "right" for leaf in worst):
            size = max(leaf.relative_error for leaf in worst) if worst else 0.0
            closely = f"to {size:.0e}" if size else "exactly"
            if size > LEAF_TOLERANCE:
                closely += ", which is its rounding here,"
            agrees = f"Agrees with autodiff {closely} in every array. {arbiter.sentence}"
            return report(Verdict.RIGHT, agrees.strip(), worst)
        differing = [
            probe
            for probe, of_probe in zip(probes, rows, strict=True)
            if any(leaf.verdict == "convention" for leaf in of_probe)
        ]
        return report(
            Verdict.CONVENTION,
            "Differs from autodiff only at a kink or a tie, where either is a valid choice; a step "
            "away from it both are the same.",
            worst,
            mistakes=diagnose(differing, candidates(differing)).findings,
        )
    precision = _precision(probes, worst)
    if precision is not None:
        worst = [leaf if leaf.ok else replace(leaf, verdict="precision") for leaf in worst]
        return report(Verdict.INCONCLUSIVE, precision, worst)
    # Two mistakes, or a mistake and another convention, would hide each other on kinks.
    smooth = [probe for probe in probes if not probe.on_kinks]
    telling = smooth if any(probe.wrong for probe in smooth) else probes
    found = diagnose(telling, candidates(telling))
    return report(
        Verdict.WRONG,
        f"{_extent(probes, worst)} {arbiter.sentence}".strip(),
        worst,
        steps=tuple(localise(probes)),
        mistakes=found.findings,
        nearest=found.nearest,
    )


def _extent(probes, worst) -> str:
    """Say how much is wrong: how many arrays and, where it is only a part of one, which part."""
    wrong = [i for i, leaf in enumerate(worst) if not leaf.ok]
    said = f"{len(wrong)} of {len(worst)} arrays {'is' if len(wrong) == 1 else 'are'} wrong"
    if len(worst) == 1:
        said = "It is wrong"
    leaf = worst[wrong[0]]
    if len(wrong) > 1 or leaf.verdict != "wrong":
        return said + "."
    if leaf.wrong_entries == 1 < leaf.size:
        return f"{said}, in the single entry {list(leaf.index or ())}."
    return said + "."


def _badness(leaf: Leaf):
    order = {"right": 0, "convention": 1, "wrong": 2}
    return order.get(leaf.verdict, 3), leaf.relative_error


def _rows(probe: Probe) -> list[Leaf]:
    """Compare every leaf, allowing for rounding.

    How large the rounding is, which costs a compilation, is asked only where it could matter: not
    where leaves agree anyhow, and not where differences of the function speak against the claim.
    """
    rows = []
    for i, name in enumerate(probe.names):
        claimed, expected = probe.claimed[i], probe.expected[i]
        row = compare(name, claimed, expected, 0.0, probe.label)
        if row.verdict == "wrong" and np.isfinite(expected).all():
            grave = row.relative_error > 1e-6
            if not (grave and _refuted(_along(probe, i, _difference(probe, i)))):
                row = compare(name, claimed, expected, probe.noise[i], probe.label)
        rows.append(row)
    return rows


def _require_same_again(probe: Probe) -> None:
    again = Probe(probe.subject, probe.label, probe.args)
    for name, one, other in zip(
        probe.names, probe.claimed_arrays, again.claimed_arrays, strict=True
    ):
        if one is None or other is None or one.shape != other.shape:
            continue
        if np.isfinite(one).all() and relative_error(one, other) > 1e-12:
            raise Misfit(
                f"is not deterministic: called twice with the same arguments, {name} differs by "
                f"{relative_error(one, other):.1e}; fix the random numbers it draws"
            )


# Kinks and ties.


def _only_at_kinks(probe: Probe, rows: Sequence[Leaf]) -> bool:
    """Return whether the claim is right all around this point, and autodiff jumps there.

    Around: at points a millionth away, on opposite sides, so that every kink is crossed.
    """
    wrong = [i for i, leaf in enumerate(rows) if not leaf.ok]
    if any(np.isnan(rows[i].cosine) for i in wrong):
        return False
    low = [probe.expected[i].copy() for i in wrong]
    high = [leaf.copy() for leaf in low]
    for seed in range(4):
        for sign in (1, -1):
            args = probe.subject.moved(probe.args, 1e-6, seed, sign)
            beside = probe.subject.at("", args)
            try:
                if not all(leaf.ok for leaf in _rows(beside)):
                    return False
            except Misfit:
                return False
            for k, i in enumerate(wrong):
                np.minimum(low[k], beside.expected[i], out=low[k])
                np.maximum(high[k], beside.expected[i], out=high[k])
    for k, i in enumerate(wrong):
        claimed, expected = np.asarray(probe.claimed_arrays[i]), probe.expected[i]
        differs = np.abs(claimed - expected) > 1e-9 * np.abs(expected)
        jump = high[k] - low[k]
        # A sum over k kinks that all fall to one side lies up to √k spreads outside of what a few
        # random sides show.
        reach = np.abs(claimed - (high[k] + low[k]) / 2) <= 5 * jump
        steep = jump > 1e-3 * np.abs(claimed - expected)
        if not (reach & steep)[differs].all():
            return False
    return True


# Precision.


def _precision(probes, worst) -> str | None:
    """Return why more cannot be said, where the claim agrees as far as its precision reaches."""
    types = set()
    for probe in probes:
        for claimed, expected in zip(probe.claimed, probe.expected, strict=True):
            try:
                array = to_numpy(claimed)
            except Misfit:
                return None
            if array.shape != expected.shape:
                return None
            if array.dtype.kind not in "iub" and array.dtype != np.float64:
                types.add(array.dtype)
    if types:
        eps = max(float(jax.numpy.finfo(dtype).eps) for dtype in types)
        off = max(leaf.relative_error for leaf in worst)
        if off <= min(100 * eps, 0.05):
            return (
                f"Agrees with autodiff to {off:.0e}, as far as {_names(types)} reaches, in which "
                "the gradient comes back; compute it in the dtype of the parameters (float64 here) "
                "to see more."
            )
        return None
    for probe in probes:  # Is the claim itself that rough? Disturb its arguments by one ulp.
        if not probe.wrong:
            continue
        beside = probe.subject.at("", probe.subject.moved(probe.args, 4e-16, 0))
        try:
            for i in probe.wrong:
                if worst[i].relative_error > 1e-3:
                    return None
                one, other = probe.claimed_arrays[i], beside.claimed_arrays[i]
                if one is None or other is None or one.shape != other.shape:
                    return None
                if norm(one - probe.expected[i]) > 30 * norm(one - other):
                    return None
        except Misfit:
            return None
    return (
        "The gradient's own rounding is as large as its difference from autodiff: changing the "
        "arguments in the last digit changes it as much."
    )


def _names(types):
    return ", ".join(sorted(str(dtype) for dtype in types))


# The arbiter.


class Arbiter(NamedTuple):
    """What finite differences say about autodiff and about the claim."""

    doubts: bool
    sentence: str

    @classmethod
    def ask(cls, probes: Sequence[Probe], rows: Sequence[Sequence[Leaf]]) -> Arbiter:
        """Hold autodiff against differences, leaf by leaf, and where the claim says otherwise."""
        taylor = []
        for probe in probes[:1]:
            for i, expected in enumerate(probe.expected):
                if not expected.size:
                    continue
                found = _along(probe, i, _random_direction(probe, i))
                if _contradicts(found):
                    return cls(True, _doubt(probe, i, found))
                if np.isfinite(found.slope.taylor[0]):
                    taylor.append(found.slope.taylor[0])
        for probe, of_probe in zip(probes, rows, strict=True):
            for i in probe.wrong:
                if np.isnan(of_probe[i].cosine) and np.isfinite(probe.expected[i]).all():
                    continue
                found = _along(probe, i, _difference(probe, i))
                if _contradicts(found):
                    return cls(True, _doubt(probe, i, found))
                if _refuted(found):
                    return cls(False, _confirmation(found))
        if taylor:
            return cls(
                False, f"Differences confirm autodiff (Taylor slope {np.median(taylor):.2f})."
            )
        return cls(False, "")


class _Along(NamedTuple):
    slope: Slope
    expected: float
    claimed: float


def _along(probe, i, direction) -> _Along:
    """Return derivatives along one direction in one leaf: by differences, autodiff, the claim."""

    def line(h):
        leaves = [np.asarray(p) for p in probe.parameters]
        leaves[i] = np.asarray(leaves[i] + h * direction)
        return probe.value(_with_parameters(probe, leaves))

    claimed = _usable(probe, i)
    by_claim = np.nan if claimed is None else float(np.vdot(claimed, direction))
    by_autodiff = float(np.vdot(probe.expected[i], direction))
    return _Along(slope(line, by_autodiff, by_claim), by_autodiff, by_claim)


def _refuted(found: _Along) -> bool:
    """Whether differences speak for autodiff and against the claim, beyond their own error.

    Where terms of size 1 cancel in f, that error is taken too small: what is tiny in absolute terms
    is left to `rounding_noise`.
    """
    s = found.slope
    if not np.isfinite(s.error):
        return False
    off, apart = abs(found.claimed - s.value), abs(found.expected - s.value)
    return off > max(10 * s.error, 1e-9) and off > 10 * apart


def _usable(probe, i):
    """Return a claimed leaf that can be calculated with, else None."""
    claimed = probe.claimed_arrays[i]
    if claimed is None or claimed.shape != probe.expected[i].shape:
        return None
    return claimed if np.isfinite(claimed).all() else None


def _with_parameters(probe, leaves):
    structure = jax.tree.structure(probe.parameters_tree)
    new = jax.tree.unflatten(structure, leaves)
    args = list(probe.args)
    if isinstance(probe.subject.argnums, int):
        args[probe.subject.argnums] = new
    else:
        for position, argument in zip(probe.subject.positions, new, strict=True):
            args[position] = argument
    return tuple(args)


def _random_direction(probe, i):
    value = probe.parameters[i]
    rng = np.random.default_rng(i)
    factor = rng.choice([-1.0, 1.0], value.shape) * rng.uniform(0.5, 1.5, value.shape)
    return factor * np.where(value == 0, typical_size(value), value)


def _difference(probe, i):
    """Return the direction in which claim and autodiff differ, of the size of the parameters."""
    claimed, expected = _usable(probe, i), probe.expected[i]
    difference = expected if claimed is None else claimed - expected
    size = norm(difference) if np.isfinite(difference).all() else 0.0
    if not size:
        return _random_direction(probe, i)
    return difference / size * typical_size(probe.parameters[i])


def _contradicts(found: _Along) -> bool:
    s = found.slope
    if not np.isfinite(s.value) or not np.isfinite(s.error):
        return False
    scale = max(abs(s.value), abs(found.expected))
    if not np.isfinite(found.expected):
        return True
    kink = abs(s.left - s.right) > 1e-3 * max(abs(s.left), abs(s.right)) + s.side_error
    return not kink and abs(s.value - found.expected) > 1e-5 * scale + 10 * s.error


def _doubt(probe, i, found: _Along) -> str:
    s = found.slope
    sides = "the claim too"
    if abs(found.claimed - s.value) <= 1e-5 * abs(s.value) + 10 * s.error:
        sides = "which the claim agrees with"
    elif abs(found.claimed - found.expected) > 1e-9 * abs(found.expected):
        sides = f"the claim {found.claimed:.6g}"
    return (
        f"Autodiff and finite differences of the function disagree: along a direction in "
        f"{probe.names[i]} autodiff says {found.expected:.6g}, differences {s.value:.6g}, {sides}. "
        "Look for stop_gradient, a custom derivative rule, or a rounding or integer step in the "
        "function."
    )


def _confirmation(found: _Along) -> str:
    s = found.slope
    return (
        f"Differences confirm autodiff: where both differ the slope is {s.value:.6g}, autodiff "
        f"says {found.expected:.6g}, yours {found.claimed:.6g}{_taylor(found)}."
    )


def _taylor(found):
    by_autodiff, by_claim = found.slope.taylor
    if by_autodiff > 1.5 > by_claim:
        return f" (Taylor slope {by_autodiff:.2f} against {by_claim:.2f})"
    return ""
