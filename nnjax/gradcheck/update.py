"""`check_update`: somebody's own step of gradient descent, with momentum and weight decay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnjax.checks import require_number
from nnjax.gradcheck.compare import Leaf, Misfit, align, compare, to_numpy
from nnjax.gradcheck.forms import Claim
from nnjax.gradcheck.hypotheses import MISTAKES, Candidate, diagnose, mistake
from nnjax.gradcheck.report import GradientReport, Verdict

__all__ = ["Descent", "check_update"]


@dataclass(frozen=True)
class Descent:
    """One step of gradient descent, eqs. 91, 107 and 108 of the book: the right one.

    v' = μ v − η g,  w' = (1 − η λ/n) w + v'

    Attributes:
        w, v, g: weights, velocity and gradient.
        eta, mu, decay: η, μ and λ/n.
    """

    w: np.ndarray
    v: np.ndarray
    g: np.ndarray
    eta: float
    mu: float
    decay: float

    def step(self) -> tuple[np.ndarray, np.ndarray]:
        """Return w' and v'."""
        return self.moved(self.mu * self.v - self.eta * self.g)

    def moved(self, velocity: np.ndarray, shrunk: float | None = None) -> tuple:
        """Return w' and v' for a velocity, and what the weights are multiplied by before."""
        shrunk = 1 - self.eta * self.decay if shrunk is None else shrunk
        return shrunk * self.w + velocity, velocity


VELOCITY = "v' = μ v − η ∇C"
WEIGHTS = "w' = (1 − ηλ/n) w + v'"


@mistake(
    "momentum with the wrong sign",
    "the velocity is subtracted where it should be kept up",
    have="v' = −μ v − η ∇C",
    expected=VELOCITY,
    step="update",
)
def momentum_sign(s):
    return s.moved(-s.mu * s.v - s.eta * s.g)


@mistake(
    "momentum left out",
    "the velocity of the step before does not enter",
    have="v' = −η ∇C",
    expected=VELOCITY,
    step="update",
)
def no_momentum(s):
    return s.moved(-s.eta * s.g)


@mistake(
    "friction left out",
    "the velocity is not multiplied by μ",
    have="v' = v − η ∇C",
    expected=VELOCITY,
    step="update",
)
def no_friction(s):
    return s.moved(s.v - s.eta * s.g)


@mistake(
    "uphill",
    "the gradient is added, not subtracted",
    have="v' = μ v + η ∇C",
    expected=VELOCITY,
    step="update",
)
def uphill(s):
    return s.moved(s.mu * s.v + s.eta * s.g)


@mistake(
    "learning rate left out",
    "the gradient is not multiplied by η",
    have="v' = μ v − ∇C",
    expected=VELOCITY,
    step="update",
)
def no_rate(s):
    return s.moved(s.mu * s.v - s.g)


@mistake(
    "gradient damped by 1 − μ",
    "the gradient is multiplied by 1 − μ, as in a moving average; the book's momentum does not",
    have="v' = μ v − (1 − μ) η ∇C",
    expected=VELOCITY,
    step="update",
)
def damped(s):
    return s.moved(s.mu * s.v - (1 - s.mu) * s.eta * s.g)


@mistake(
    "the old velocity moves the weights",
    "the weights are moved before the velocity is renewed",
    have="w' = (1 − ηλ/n) w + v",
    expected=WEIGHTS,
    step="update",
)
def old_velocity(s):
    return s.moved(s.v)[0], s.step()[1]


@mistake(
    "the velocity subtracted from the weights",
    "the velocity points downhill already, and is subtracted",
    have="w' = (1 − ηλ/n) w − v'",
    expected=WEIGHTS,
    step="update",
)
def velocity_subtracted(s):
    velocity = s.step()[1]
    return s.moved(-velocity)[0], velocity


@mistake(
    "decay applied twice",
    "the weights shrink by 1 − ηλ/n and the term λ/n w is in the gradient too",
    have="v' = μ v − η (∇C + λ/n w), w' = (1 − ηλ/n) w + v'",
    expected=f"{VELOCITY}, {WEIGHTS}",
    step="update",
)
def decay_twice(s):
    return s.moved(s.mu * s.v - s.eta * (s.g + s.decay * s.w))


@mistake(
    "decay applied twice (shrunk twice)",
    "the weights shrink by 1 − ηλ/n twice",
    have="w' = (1 − ηλ/n)² w + v'",
    expected=WEIGHTS,
    step="update",
)
def shrunk_twice(s):
    return s.moved(s.step()[1], (1 - s.eta * s.decay) ** 2)


@mistake(
    "decay left out",
    "the weights do not shrink",
    have="w' = w + v'",
    expected=WEIGHTS,
    step="update",
)
def no_decay(s):
    return s.moved(s.step()[1], 1.0)


@mistake(
    "decay with the wrong sign",
    "the weights grow",
    have="w' = (1 + ηλ/n) w + v'",
    expected=WEIGHTS,
    step="update",
)
def growth(s):
    return s.moved(s.step()[1], 1 + s.eta * s.decay)


@mistake(
    "decay without the learning rate",
    "the weights shrink by 1 − λ/n, whatever η is",
    have="w' = (1 − λ/n) w + v'",
    expected=WEIGHTS,
    step="update",
)
def decay_without_rate(s):
    return s.moved(s.step()[1], 1 - s.decay)


@mistake(
    "decay through the velocity",
    "the term λ/n w is in the gradient, so that momentum gathers it; the book shrinks the weights "
    "apart from the velocity",
    have="v' = μ v − η (∇C + λ/n w), w' = w + v'",
    expected=f"{VELOCITY}, {WEIGHTS}",
    step="update",
)
def coupled_decay(s):
    return s.moved(s.mu * s.v - s.eta * (s.g + s.decay * s.w), 1.0)


@dataclass
class _Probe:
    """One random state, as the library of mistakes looks at it."""

    state: Descent
    claimed: list[Any]
    wrong: list[int] = field(default_factory=list)
    n: int | None = None

    @property
    def expected(self):
        return list(self.state.step())

    @property
    def claimed_arrays(self):
        def convert(leaf):
            try:
                return to_numpy(leaf).astype(np.float64)
            except Misfit:
                return None

        return [convert(leaf) for leaf in self.claimed]

    @property
    def noise(self):
        return [1e-14 * np.abs(leaf) for leaf in self.expected]


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

    Example:
        >>> from nnjax.gradcheck import check_update
        >>> wrong = lambda w, v, g: (w - 0.9 * v - 0.1 * g, -0.9 * v - 0.1 * g)
        >>> check_update(wrong, eta=0.1, mu=0.9).mistakes[0].name
        'momentum with the wrong sign'

    Reference: Nielsen 2015, chapter 3, eqs. 91, 107 and 108.
    """
    for name, value in (("eta", eta), ("mu", mu), ("decay", decay)):
        require_number(value, name, "a number of at least 0", 0, 1e300)
    claim, probes = Claim(update, time_limit), []
    subject = f"the update {getattr(update, '__name__', 'update')}, η = {eta:g}, μ = {mu:g}"
    try:
        for seed, shape in enumerate(((5, 3), (7,), (2, 3, 4))):
            rng = np.random.default_rng(seed)
            w, v, g = rng.normal(size=(3, *shape))
            state = Descent(w, v, g, eta, mu, decay)
            claimed = align(state.step(), claim(state.w, state.v, state.g))
            probes.append(_Probe(state, claimed))
    except Misfit as misfit:
        return GradientReport(subject, Verdict.WRONG, (), f"The update {misfit}.")
    leaves = [_worst(probes, i, name) for i, name in enumerate(("w'", "v'"))]
    right = all(leaf.ok for leaf in leaves)
    found = None if right else diagnose(probes, _candidates())
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


def _worst(probes: Sequence[_Probe], i: int, name: str) -> Leaf:
    rows = [
        compare(name, probe.claimed[i], probe.expected[i], probe.noise[i], f"state {number}")
        for number, probe in enumerate(probes, 1)
    ]
    return max(rows, key=lambda leaf: (not leaf.ok, leaf.relative_error))


def _candidates() -> Iterator[Candidate]:
    for made in MISTAKES:
        if made.step == "update":
            yield Candidate(
                made, "", lambda probe, t, made=made: enumerate(made.change(probe.state)), {}
            )
