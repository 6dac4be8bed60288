"""Which step of a backpropagation is the first wrong one.

For one example the gradient of the biases of a dense layer IS its error, and the gradient of the
weights is that error times the activations; so a claimed gradient lays open the error that it was
computed with. Each step is then fed with the error that came out of the step before: a step that
is right, given what it was fed, is not blamed for what it was fed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nnjax.gradcheck.compare import relative_error
from nnjax.gradcheck.equations import Derivation
from nnjax.notation import superscript

__all__ = ["Step", "in_words", "localise"]


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


def localise(d: Derivation, claimed: Mapping[tuple[int, str], np.ndarray | None]) -> list[Step]:
    """Return the steps from the output back, as far as the claim lays them open.

    Args:
        d: the right derivation, for one example.
        claimed: the claimed gradients without regularization, by layer and "w" or "b", and the
            claimed errors by layer and "δ", where there are any; None where a shape is wrong.
    """
    steps: list[Step] = []
    delta, above = d.delta[d.L], d.L + 1  # the error that the next step is fed with, and its layer
    for l in range(d.L, 0, -1):
        if l < d.L:
            delta = d.step("through", l, d.step("back", l + 1, delta, d.delta))
        if not d.has_parameters(l):
            continue
        w, b = claimed.get((l, "w")), claimed.get((l, "b"))
        w_ok, b_ok = _same(w, d.step("weights", l, delta)), _same(b, d.step("biases", l, delta))
        seen = _claimed_error(d, l, w, b, claimed)
        if ((l, "δ") not in claimed and (w_ok or b_ok)) or _same(seen, delta):
            seen = delta
        equation = "BP1" if above > d.L else "BP2"
        if seen is None:
            steps.append(Step(equation, l, False, above, np.nan))
            break
        steps.append(Step(equation, l, _same(seen, delta), above, relative_error(seen, d.delta[l])))
        steps.append(Step("BP3", l, _same(b, d.step("biases", l, seen))))
        steps.append(Step("BP4", l, _same(w, d.step("weights", l, seen))))
        delta, above = seen, l
    return steps


def _claimed_error(d, l, w, b, claimed):
    """Return the error of layer l that the claimed gradients were computed with, if they tell."""
    if (l, "δ") in claimed:
        return claimed[l, "δ"]
    shape = d.delta[l].shape
    if len(shape) != 2:  # with many places, the gradients do not determine the error
        return None
    if b is not None and (w is None or _same(w, d.step("weights", l, b[None]))):
        return b[None]
    if w is not None:
        a = d.a[l - 1]
        by_weights = (w @ a[0] / (a[0] @ a[0]))[None]
        if _same(w, d.step("weights", l, by_weights)):
            return by_weights
    return None


def _same(one, other):
    if one is None or np.shape(one) != np.shape(other):
        return False
    return relative_error(np.asarray(one), np.asarray(other)) <= 1e-9


def in_words(steps: Sequence[Step]) -> list[str]:
    """Return what the steps show, in two lines.

    Example:
        >>> for line in in_words([Step("BP1", 3, True), Step("BP2", 2, False, 3, 0.25)]):
        ...     print(line)
        errors from the output back: δ³ right; δ² wrong (2.5e-01)
        first wrong: BP2, from δ³ to δ²
    """
    errors = []
    for step in steps:
        if step.equation in ("BP1", "BP2"):
            name = f"δ{superscript(step.layer)}"
            if step.ok:
                errors.append(f"{name} right" + (", given what it was fed" * (step.error > 1e-9)))
            elif np.isnan(step.error):
                errors.append(f"{name} or what follows from it is wrong")
            else:
                errors.append(f"{name} wrong ({step.error:.1e})")
    wrong = [step for step in steps if not step.ok]
    lines = [f"errors from the output back: {'; '.join(errors)}"]
    if wrong:
        first, *others = map(_name, wrong)
        rest = f"; wrong on their own too: {', '.join(others)}" if others else ""
        lines.append(f"first wrong: {first}{rest}")
    return lines


def _name(step):
    l = superscript(step.layer)
    return {
        "BP1": f"BP1, the error at the output, δ{l}",
        "BP2": f"BP2, from δ{superscript(step.fed)} to δ{l}",
        "BP3": f"BP3, ∂C/∂b{l} from δ{l}",
        "BP4": f"BP4, ∂C/∂w{l} from δ{l}",
    }[step.equation]
