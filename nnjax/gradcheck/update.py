"""`check_update`: somebody's own step of gradient descent, with momentum and weight decay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from nnjax.checks import require_number
from nnjax.gradcheck.compare import Misfit
from nnjax.gradcheck.diagnose import Candidate, diagnose
from nnjax.gradcheck.edits import candidate, walk
from nnjax.gradcheck.expressions import Expression, Scope, minus, number, plus, quantity, times
from nnjax.gradcheck.forms import Claim
from nnjax.gradcheck.names import words
from nnjax.gradcheck.problem import Problem
from nnjax.gradcheck.reference import double_precision
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


def _step(steps: Mapping[str, Expression], state: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return w' and v'."""
    velocity = steps["v'"].value(Scope(state))
    return steps["w'"].value(Scope({**state, "v'": velocity})), velocity


def _candidates(constants: Mapping[str, float]) -> Iterator[Candidate]:
    """Yield every edit of the step, and the two edits that make one common mistake."""

    def predict(steps, point, t):
        return enumerate(_step(steps, _state(point.args[2:], constants)))

    found = {}
    for left, right in RIGHT.items():
        for edit in walk(right, SWAPS):
            found[left, edit.key] = edit.wrong
            changed = partial(predict, RIGHT | {left: edit.wrong})
            yield candidate(left, edit, changed, text=partial(_as_formula, left))
    coupled = {
        "v'": found["v'", "∇C → ∇C + λ/n w"],
        "w'": found["w'", "drop η λ/n"],
    }
    have, expected = (", ".join(map(_as_formula, s, s.values())) for s in (coupled, RIGHT))
    name, sentence = words("both", "decay")[0]
    yield Candidate(name, sentence, have, expected, "", partial(predict, coupled))


def _as_formula(left, e):
    return f"{left} = {e.text()}"


def _state(arrays, constants):
    return {**dict(zip(("w", "v", "∇C"), arrays, strict=True)), **constants}


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
    constants = {"η": eta, "μ": mu, "λ/n": decay}

    def right(p, q, *arrays):
        return _step(RIGHT, _state(arrays, constants))

    def paired(p, q, *arrays):
        """⟨p, w'⟩ + ⟨q, v'⟩, whose gradient with respect to p and q is the step."""
        moved, velocity = right(p, q, *arrays)
        return (p * moved).sum() + (q * velocity).sum()

    claim = Claim(update, time_limit)
    problem = Problem(
        paired, lambda p, q, *arrays: claim(*arrays), (0, 1), right, names=("w'", "v'")
    )
    subject = f"the update {getattr(update, '__name__', 'update')}, η = {eta:g}, μ = {mu:g}"
    points = [
        problem.at(f"state {i}", tuple(np.random.default_rng(i).normal(size=(5, *shape))))
        for i, shape in enumerate(((5, 3), (7,), (2, 3, 4)), 1)
    ]
    with double_precision():
        try:
            rows = [point.rows for point in points]
        except Misfit as misfit:
            return GradientReport(subject, Verdict.WRONG, (), f"The update {misfit}.")
        leaves = [
            max(pair, key=lambda leaf: leaf.relative_error) for pair in zip(*rows, strict=True)
        ]
        is_right = all(leaf.ok for leaf in leaves)
        found = None if is_right else diagnose(points, _candidates(constants))
    return GradientReport(
        subject,
        Verdict.RIGHT if is_right else Verdict.WRONG,
        tuple(leaves),
        "It is the step of the book." if is_right else "It is not the step of the book.",
        findings=found.findings if found else (),
        nearest=found.nearest if found else None,
        remarks=tuple(claim.remarks),
        covered="3 random states in float64",
    )
