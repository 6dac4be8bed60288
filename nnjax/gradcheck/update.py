"""`check_update`: somebody's own step of gradient descent, with momentum and weight decay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from nnjax.checks import require_number
from nnjax.gradcheck.compare import Leaf, Misfit, align, compare, to_numpy
from nnjax.gradcheck.diagnose import Candidate, diagnose
from nnjax.gradcheck.edits import walk
from nnjax.gradcheck.expressions import Expression, Scope, minus, number, plus, quantity, times
from nnjax.gradcheck.forms import Claim
from nnjax.gradcheck.names import words
from nnjax.gradcheck.report import GradientReport, Verdict

__all__ = ["check_update"]

W, V, G, ETA, MU, DECAY = (quantity(name, None) for name in ("w", "v", "∇C", "η", "μ", "λ/n"))
MOVE, ONE, PENALTY = quantity("v'", None), number(1.0, "1"), times(DECAY, W)
# The step of the book, eqs. 91, 107 and 108.
RIGHT = {
    "v'": plus(times(MU, V), minus(times(ETA, G))),
    "w'": plus(times(plus(ONE, minus(times(ETA, DECAY))), W), MOVE),
}
SWAPS = {"∇C": [plus(G, PENALTY), times(plus(ONE, minus(MU)), G)], "v'": [V]}


@dataclass(frozen=True)
class _Point:
    """One random state, with what is claimed to follow from it."""

    quantities: dict[str, Any]
    claimed: Sequence[Any] = ()
    n: int | None = None
    names: tuple[str, ...] = ("w'", "v'")

    def step(self, steps) -> list[np.ndarray]:
        """Return w' and v'."""
        velocity = steps["v'"].value(Scope(self.quantities))
        return [steps["w'"].value(Scope({**self.quantities, "v'": velocity})), velocity]

    @property
    def expected(self) -> list[np.ndarray]:
        return self.step(RIGHT)

    @property
    def claimed_arrays(self) -> list[np.ndarray | None]:
        def convert(leaf):
            try:
                return to_numpy(leaf).astype(np.float64)
            except Misfit:
                return None

        return [convert(leaf) for leaf in self.claimed]

    @property
    def noise(self) -> list[np.ndarray]:
        return [1e-14 * np.abs(leaf) for leaf in self.expected]

    @property
    def wrong(self) -> list[int]:
        return [i for i, leaf in enumerate(self.leaves("")) if not leaf.ok]

    def leaves(self, label) -> list[Leaf]:
        """Return a row for w' and one for v'."""
        columns = zip(self.names, self.claimed, self.expected, self.noise, strict=True)
        return [compare(*column, label) for column in columns]


def _candidates() -> Iterator[Candidate]:
    """Yield every edit of the step, and the two edits that make one common mistake."""
    found = {}
    for left, right in RIGHT.items():
        for edit in walk(right, SWAPS):
            found[left, edit.key] = edit.wrong
            yield _candidate(left, edit.key, {left: edit.wrong})
    coupled = {
        "v'": found["v'", "∇C → ∇C + λ/n w"],
        "w'": found["w'", "drop η λ/n"],
    }
    yield _candidate("both", "decay", coupled)


def _candidate(step, key, changed: dict[str, Expression]):
    (name, sentence), known = words(step, key)
    have, expected = (
        ", ".join(f"{left} = {steps[left].text()}" for left in changed)
        for steps in (changed, RIGHT)
    )
    steps = RIGHT | changed
    predict = partial(_predict, steps)
    return Candidate(name, sentence, have, expected, "", predict, known=known)


def _predict(steps, point, t):
    return enumerate(point.step(steps))


def check_update(
    update: Callable, *, eta: float, mu: float = 0.0, decay: float = 0.0, time_limit: float = 60.0
) -> GradientReport:
    """Return a report on whether `update` is a step of gradient descent with momentum.

    Args:
        update: update(w, v, g) -> (w', v'), arrays of any shape; v is the velocity, g the gradient.
        eta: the learning rate η that it is meant to use.
        mu: the coefficient μ of momentum.
        decay: λ/n of L2 regularization, by which the weights shrink apart from the gradient.
        time_limit: seconds that one call may take.

    Raises:
        ValueError: if η, μ or λ/n is negative or not finite.
        TypeError: if update is not a function.

    Example:
        >>> from nnjax.gradcheck import check_update
        >>> wrong = lambda w, v, g: (w - 0.9 * v - 0.1 * g, -0.9 * v - 0.1 * g)
        >>> check_update(wrong, eta=0.1, mu=0.9).mistakes[0].name
        'momentum with the wrong sign'

    Reference: Nielsen 2015, chapter 3, eqs. 91, 107 and 108.
    """
    for name, value in (("eta", eta), ("mu", mu), ("decay", decay)):
        require_number(value, name, "a number of at least 0", 0, 1e300)
    if not callable(update):
        raise TypeError(f"update is {update!r}; expected a function (w, v, g) -> (w', v')")
    claim, points = Claim(update, time_limit), []
    subject = f"the update {getattr(update, '__name__', 'update')}, η = {eta:g}, μ = {mu:g}"
    try:
        for seed, shape in enumerate(((5, 3), (7,), (2, 3, 4))):
            rng = np.random.default_rng(seed)
            w, v, g = rng.normal(size=(3, *shape))
            state = {"w": w, "v": v, "∇C": g, "η": eta, "μ": mu, "λ/n": decay}
            points.append(_Point(state, align(_Point(state).expected, claim(w, v, g))))
    except Misfit as misfit:
        return GradientReport(subject, Verdict.WRONG, (), f"The update {misfit}.")
    leaves = [_worst(points, i, name) for i, name in enumerate(("w'", "v'"))]
    right = all(leaf.ok for leaf in leaves)
    found = None if right else diagnose(points, _candidates())
    return GradientReport(
        subject,
        Verdict.RIGHT if right else Verdict.WRONG,
        tuple(leaves),
        "It is the step of the book." if right else "It is not the step of the book.",
        findings=found.findings if found else (),
        nearest=found.nearest if found else None,
        remarks=tuple(claim.remarks),
        covered="3 random states in float64",
    )


def _worst(points: Sequence[_Point], i: int, name: str) -> Leaf:
    rows = [point.leaves(f"state {number}")[i] for number, point in enumerate(points, 1)]
    return max(rows, key=lambda leaf: (not leaf.ok, leaf.relative_error))
