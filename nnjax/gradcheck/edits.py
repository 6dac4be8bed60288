"""The edits that turn a right expression into a wrong one: a handful of operators and one walk.

A mistake in a derivation is an edit of its expression: a part is left out, is there twice, has the
other sign, is another quantity, or an operation has another variant (the axis that is summed over,
where windows lie). `walk` makes every such edit of any expression; `edits` adds what people do to
a whole step of backpropagation. What they are called is in `nnjax.gradcheck.names`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from nnjax.activations import Elementwise, LeakyReLU, Softmax
from nnjax.gradcheck.equations import (
    FUNCTIONS,
    OPERATIONS,
    Derivation,
    Expression,
    forms,
    minus,
    number,
    plus,
    quantity,
    times,
)
from nnjax.layers import Dropout, L2Pool
from nnjax.losses import Quadratic

__all__ = ["Edit", "edits", "walk"]


class Edit(NamedTuple):
    """One edit of a step.

    Attributes:
        key: the operator and the operand, such as "drop σ'(z)".
        right: the expression before.
        wrong: the expression after.
        variant: for an operation, which variant stands in place of the right one.
    """

    key: str
    right: Expression
    wrong: Expression
    variant: str = ""

    @property
    def fitted(self) -> bool:
        """Whether it has a number that is found from the claim."""
        return any(_mentions(self.wrong, name) for name in ("t", "m'"))


def _mentions(e, name):
    return e.op == name or any(_mentions(part, name) for part in e.parts)


def walk(
    right: Expression, swaps: Mapping[str, Sequence[Expression]] | None = None
) -> Iterator[Edit]:
    """Yield every edit of an expression: drop, twice, negate, swap an operand, another variant.

    Args:
        right: the expression.
        swaps: what may stand in place of a quantity, by its text.

    Example:
        >>> from nnjax.gradcheck.equations import minus, plus, quantity, times
        >>> mu, v, g = (quantity(name, None) for name in ("μ", "v", "g"))
        >>> [edit.wrong.text() for edit in walk(plus(times(mu, v), minus(g)))][:4]
        ['v − g', 'μ − g', 'μ ⊙ v ⊙ v − g', '−g']
    """
    for key, wrong, variant in _changes(right, swaps or {}):
        yield Edit(key, right, wrong, variant)


def _changes(e, swaps):
    """Yield (key, changed expression, variant) for every single change in e or below."""
    for i, part in enumerate(e.parts):
        for key, changed, variant in _changes(part, swaps):
            yield key, _with(e, *e.parts[:i], changed, *e.parts[i + 1 :]), variant
    for other in swaps.get(e.text(), ()):
        yield f"{e.text()} → {other.text()}", other, ""
    if e.op in ("times", "plus"):
        for i, part in enumerate(e.parts):
            rest, tag = e.parts[:i] + e.parts[i + 1 :], _tag(part)
            yield f"drop {tag}", rest[0] if len(rest) == 1 else _with(e, *rest), ""
            if e.op == "times" and i:
                yield f"twice {tag}", _with(e, *e.parts, part), ""
            elif e.op == "plus":
                yield f"negate {tag}", _with(e, *e.parts[:i], _negated(part), *e.parts[i + 1 :]), ""
    elif e.op == "σ":
        yield "drop σ", e.parts[0], ""
        yield "twice σ", _with(e, e), ""
        if isinstance(e.note, Softmax):
            c = number(e.note.scale, f"{e.note.scale:g}")
            yield "over examples", Expression("softmax over examples", (c, *e.parts)), ""
    elif e.op == "wᵀδ":
        yield "drop w", e.parts[1], ""
    if e.op in ("σ", "σ'"):
        for name, function in FUNCTIONS.items():
            if type(function) is not type(e.note):
                other = Expression(f"{e.op} of", e.parts, name)
                yield f"{e.text()} → {other.text()}", other, name
    for variant in OPERATIONS.get(e.op, ()):
        if variant != e.note:
            yield f"{e.op}: {variant}", Expression(e.op, e.parts, variant), str(variant)


def _with(e, *parts):
    return Expression(e.op, parts, e.note)


def _negated(e):
    return e.parts[0] if e.op == "minus" else minus(e)


def _tag(e):
    return _negated(e).text() if e.op == "minus" else e.text()


T, Y, X = (quantity(name, None) for name in ("t", "y", "x"))
A, Z, G, W, DELTA = (quantity(name) for name in ("a", "z", "∂C/∂a", "w", "δ"))
NEXT_ERROR, OVER_N = quantity("δ", 1), quantity("1/n", None)


def _swaps(d, step, l):
    """Return what people put in place of the quantities of a step."""
    errors = {"δ": [G, NEXT_ERROR]}
    if step == "through":
        return {"z": [A, quantity("z", 1), quantity("z", -1), minus(Z), G], "a": [Z]}
    if step == "error":
        return {"y": [number(1.0, "1")], "a": [Z]}
    if step == "weights":
        return {"a⁻": [A, quantity("a", -2), quantity("z", -1), X], **errors}
    if step == "biases":
        return errors
    if step == "back":
        weights = [quantity("w", -1), quantity("w", 1), Expression("transposed", (W,))]
        for form in forms(d, "weights", l):
            gradient = Expression("∂C/∂w", (form, W))
            weights += [gradient, plus(W, minus(times(T, gradient)))]
        return {"w": weights, "δ": [NEXT_ERROR], "m": [quantity("m'")]}
    return {}


def edits(d: Derivation, step: str, l: int) -> Iterator[Edit]:
    """Yield every edit of a step in layer l.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> from nnjax.gradcheck.equations import Derivation
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> d = Derivation(net, params, jnp.ones((5, 3)), jnp.zeros((5, 2)))
        >>> [edit.key for edit in edits(d, "error", 1)]
        ['a → z', 'y → 1', 'drop a', 'negate a', 'drop y', 'negate y', "times σ'"]
    """
    layer, last = d.net.layers[l - 1], l == d.L
    if step == "error":
        if last:
            yield from _of_output(d, layer.activation)
        return
    for form in forms(d, step, l):
        for edit in walk(form, _swaps(d, step, l)):
            # At the output, where σ' cancels, σ' twice is σ' that is kept.
            if not (last and d.canonical and edit.key.startswith("twice σ'")):
                yield edit
    right = forms(d, step, l)[:1]
    if step == "through":
        for form in right:
            yield from _of_error(form, layer.activation, last)
    elif step == "back" and isinstance(layer, Dropout) and l in d.masks:
        yield Edit("drop m and / (1 − rate)", right[0], DELTA)
    elif step == "back" and isinstance(layer, L2Pool):
        yield Edit("double", right[0], times(number(2.0, "2"), right[0]))


def _of_output(d, activation):
    """Yield the edits of BP1: there σ' may cancel."""
    right = forms(d, "error", d.L)[0]
    if not d.canonical:
        if not isinstance(d.net.loss, Quadratic):
            yield Edit("a − y", right, plus(A, minus(Y)))
        return
    yield from walk(right, _swaps(d, "error", d.L))
    slope = Expression("σ'", (Z,), activation)
    if isinstance(activation, Softmax):
        slope = Expression("formula", (A,), "a (1 − a)")
        slope = times(number(activation.scale, f"{activation.scale:g}"), slope)
    yield Edit("times σ'", right, times(right, slope))


def _of_error(right, activation, last):
    """Yield the edits of BP2's second half that are about the error as a whole."""
    if isinstance(activation, Elementwise):
        yield Edit("constant", right, times(T, G))
    else:
        for name in FUNCTIONS:
            slope = Expression("σ' of", (Z,), name)
            yield Edit(f"σ'(z) → {slope.text()}", right, times(G, slope))
    if isinstance(activation, LeakyReLU):
        yield Edit("another slope", right, times(G, Expression("leaky", (Z, T))))
    if not last:  # there it is the whole gradient that is scaled
        yield Edit("negate", right, minus(right))
        yield Edit("over n", right, times(OVER_N, right))
        yield Edit("scale", right, times(T, right))
