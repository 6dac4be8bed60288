"""What finite differences say about autodiff and about a claim, along one direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nnjax.gradcheck.compare import norm
from nnjax.gradcheck.reference import Slope, slope, typical_size

__all__ = ["Along", "Arbiter", "along_difference"]


class Along(NamedTuple):
    """Derivatives along one direction: by differences, by autodiff, by the claim."""

    slope: Slope
    expected: float
    claimed: float

    @property
    def refuted(self) -> bool:
        """Whether differences speak for autodiff and against the claim, beyond their own error.

        Where terms of size 1 cancel in f, that error is taken too small: what is tiny in absolute
        terms is left to `rounding_noise`.
        """
        s = self.slope
        if not np.isfinite(s.error):
            return False
        off, apart = abs(self.claimed - s.value), abs(self.expected - s.value)
        return off > max(10 * s.error, 1e-9) and off > 10 * apart

    @property
    def contradicts(self) -> bool:
        """Whether differences, away from kinks, contradict autodiff."""
        s = self.slope
        if not np.isfinite(s.value) or not np.isfinite(s.error):
            return False
        if not np.isfinite(self.expected):
            return True
        kink = abs(s.left - s.right) > 1e-3 * max(abs(s.left), abs(s.right)) + s.side_error
        apart = abs(s.value - self.expected)
        limit = 1e-5 * max(abs(s.value), abs(self.expected)) + 10 * s.error
        return not kink and apart > max(limit, 1e-11)

    @property
    def doubt(self) -> str:
        """What differences and autodiff say, and which of them the claim agrees with."""
        s = self.slope
        sides = "the claim too"
        if abs(self.claimed - s.value) <= 1e-5 * abs(s.value) + 10 * s.error:
            sides = "which the claim agrees with"
        elif abs(self.claimed - self.expected) > 1e-9 * abs(self.expected):
            sides = f"the claim {self.claimed:.6g}"
        return f"autodiff says {self.expected:.6g}, differences {s.value:.6g}, {sides}"

    @property
    def confirmation(self) -> str:
        """The sentence that differences confirm autodiff, with the numbers."""
        by_autodiff, by_claim = self.slope.taylor
        taylor = f" (Taylor test: order {by_autodiff:.2f} against {by_claim:.2f})"
        return (
            "Finite differences confirm autodiff: along the direction in which they differ they "
            f"give {self.slope.value:.6g}, autodiff {self.expected:.6g}, your gradient "
            f"{self.claimed:.6g}{taylor if by_autodiff > 1.5 > by_claim else ''}."
        )


class Arbiter(NamedTuple):
    """What differences say: whether they doubt autodiff, and a sentence."""

    doubts: bool
    sentence: str

    @classmethod
    def ask(cls, points: Sequence[Any]) -> Arbiter:
        """Hold autodiff against differences, leaf by leaf, and where the claim says otherwise."""
        taylor = []
        first = points[0]
        for i, expected in enumerate(first.expected):
            if not expected.size:
                continue
            found = _along(first, i, _random_direction(first, i))
            if found.contradicts:
                return cls(True, _doubt(first, i, found))
            if np.isfinite(found.slope.taylor[0]):
                taylor.append(found.slope.taylor[0])
        for point in points:
            for i in point.wrong:
                if _usable(point, i) is None and np.isfinite(point.expected[i]).all():
                    continue
                found = along_difference(point, i)
                if found.contradicts:
                    return cls(True, _doubt(point, i, found))
                if found.refuted:
                    return cls(False, found.confirmation)
        order = np.median(taylor) if taylor else np.nan
        if order > 1.5:
            return cls(
                False, f"Finite differences confirm autodiff (Taylor test: order {order:.2f})."
            )
        return cls(False, "")


def along_difference(point: Any, i: int) -> Along:
    """Return derivatives along the direction in which claim and autodiff differ in one leaf."""
    claimed, expected = _usable(point, i), point.expected[i]
    difference = expected if claimed is None else claimed - expected
    size = norm(difference) if np.isfinite(difference).all() else 0.0
    if not size:
        return _along(point, i, _random_direction(point, i))
    return _along(point, i, difference / size * typical_size(point.parameters[i]))


def _along(point, i, direction) -> Along:
    def line(h):
        leaves = list(point.parameters)
        leaves[i] = np.asarray(leaves[i] + h * direction)
        return point.value(point.with_parameters(leaves))

    claimed = _usable(point, i)
    by_claim = np.nan if claimed is None else float(np.vdot(claimed, direction))
    with np.errstate(all="ignore"):
        by_autodiff = float(np.vdot(point.expected[i], direction))
    found = Along(slope(line, by_autodiff, by_claim), by_autodiff, by_claim)
    if found.contradicts and point.problem.in_float32(point.args):
        coarse = slope(line, by_autodiff, by_claim, eps=float(np.finfo(np.float32).eps))
        found = found._replace(slope=coarse)
    return found


def _usable(point, i):
    """Return a claimed leaf that can be calculated with, else None."""
    claimed = point.claimed_arrays[i]
    if claimed is None or claimed.shape != point.expected[i].shape:
        return None
    return claimed if np.isfinite(claimed).all() else None


def _random_direction(point, i):
    value = point.parameters[i]
    rng = np.random.default_rng(i)
    factor = rng.choice([-1.0, 1.0], value.shape) * rng.uniform(0.5, 1.5, value.shape)
    return factor * np.where(value == 0, typical_size(value), value)


def _doubt(point, i, found: Along) -> str:
    along = f"along a direction in {point.names[i]} {found.doubt}."
    if not np.isfinite(found.expected):
        return (
            f"Autodiff is not finite where the function is differentiable: {along} Look for a norm "
            "or sqrt at 0, or a jnp.where whose unused branch is not finite."
        )
    return (
        f"Autodiff and finite differences of the function disagree: {along} "
        "Look for stop_gradient, a custom derivative rule, or a rounding or integer step in the "
        "function."
    )
