"""Which step of a backpropagation is the first wrong one.

For one example the gradient of the biases of a dense layer IS its error, and the gradient of the
weights is that error times the activations; so a claimed gradient lays open the error that it was
computed with. Each step is then fed with the error that came out of the step before: a step that
is right, given what it was fed, is not blamed for what it was fed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nnjax.gradcheck.compare import relative_error
from nnjax.gradcheck.derivation import Derivation

__all__ = ["Step", "localise"]


class Step(NamedTuple):
    """One step of the derivation, as the claimed gradient shows it.

    Attributes:
        equation: "BP1" to "BP4".
        layer: l.
        ok: whether it is right, given what it was fed.
        fed: for BP2, the layer whose error it was fed.
        error: for BP1 and BP2, the relative error of δ^l against the true one.
    """

    equation: str
    layer: int
    ok: bool
    fed: int = 0
    error: float = 0.0


def localise(
    d: Derivation, claimed: Sequence[np.ndarray | None], errors: Sequence[Any] | None = None
) -> list[Step]:
    """Return the steps from the output back, as far as the claim lays them open.

    Args:
        d: the right derivation, for one example.
        claimed: the leaves of the claimed gradient, regularization taken off.
        errors: the errors of all layers, where the claim includes them.
    """
    steps: list[Step] = []
    fed, above = None, d.L + 1  # the error that the next step is fed with, and of which layer
    leaves = iter(zip(claimed[::2], claimed[1::2], strict=True))
    gradients = {l: next(leaves) for l in range(1, d.L + 1) if d.has_parameters(l)}
    for l in sorted(gradients, reverse=True):
        delta = _carried(d, fed, above, l)
        w, b = gradients[l]
        w_ok, b_ok = _same(w, d.weights(l, delta)), _same(b, d.biases(l, delta))
        equation = "BP1" if above > d.L else "BP2"
        seen = _claimed_error(d, l, w, b, errors)
        if w_ok or b_ok or (seen is not None and _same(seen, delta)):
            seen = delta
        if seen is None:
            steps.append(Step(equation, l, False, above, np.nan))
            break
        steps.append(Step(equation, l, _same(seen, delta), above, relative_error(seen, d.delta[l])))
        steps.append(Step("BP3", l, _same(b, d.biases(l, seen))))
        steps.append(Step("BP4", l, _same(w, d.weights(l, seen))))
        fed, above = seen, l
    return steps


def _carried(d, fed, above, l):
    """Return the error of layer l that follows from the error of the layer `above`."""
    if fed is None:
        return d.delta[l]
    for k in range(above, l, -1):
        fed = d.through(k - 1, d.pull_back(k, fed))
    return fed


def _claimed_error(d, l, w, b, errors):
    """Return the error of layer l that the claimed gradients were computed with, if they tell."""
    shape = d.delta[l].shape
    if errors is not None:
        error = np.asarray(errors[l - 1])
        return error if error.shape == shape else None
    if len(shape) != 2:  # with many places, the gradients do not determine the error
        return None
    if b is not None and b.shape == shape[1:]:
        by_biases = b[None]
        if w is None or _same(w, d.weights(l, by_biases)):
            return by_biases
    if w is not None and w.shape == d.w(l).shape:
        a = d.a[l - 1]
        by_weights = (w @ a[0] / (a[0] @ a[0]))[None]
        if _same(w, d.weights(l, by_weights)):
            return by_weights
    return None


def _same(one, other):
    if one is None or np.shape(one) != np.shape(other):
        return False
    return relative_error(np.asarray(one), np.asarray(other)) <= 1e-9
