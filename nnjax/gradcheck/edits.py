"""The edits that turn a right expression into a wrong one: a handful of operators and one walk.

A mistake in a derivation is an edit of its expression: a part is left out, is there twice, has the
other sign, is another quantity, or an operation has another variant (the axis that is summed over,
where windows lie). `walk` makes every such edit of any expression; `edits` adds what people do to
a whole step of backpropagation. What they are called is in `nnjax.gradcheck.names`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from nnjax.activations import Elementwise, LeakyReLU, Softmax
from nnjax.gradcheck.diagnose import Candidate
from nnjax.gradcheck.equations import FORWARD, STEPS, Derivation, Site, forms
from nnjax.gradcheck.expressions import Expression, minus, number, plus, quantity, times
from nnjax.gradcheck.names import NAMES, Words, words
from nnjax.gradcheck.operations import FUNCTIONS, OPERATIONS
from nnjax.layers import Dropout, L2Pool
from nnjax.losses import Quadratic

__all__ = ["Edit", "Made", "candidate", "edits", "mentions", "network_edits", "walk"]


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
        return any(mentions(self.wrong, name) for name in ("t", "m'"))


def candidate(
    step: str,
    edit: Edit,
    predict: Callable[..., Any],
    where: str = "",
    text: Callable[[Expression], str] = Expression.text,
) -> Candidate:
    """Return an edit of a step as a mistake to be held against a claim; `predict` as there.

    Example:
        >>> from nnjax.gradcheck.expressions import times
        >>> mu, v = (quantity(name, None) for name in ("μ", "v"))
        >>> candidate("v'", next(walk(times(mu, v))), print).have
        'v'
    """
    (name, sentence), known = words(step, edit.key)
    formulas = text(edit.wrong), text(edit.right)
    return Candidate(name, sentence, *formulas, where, predict, edit.fitted, known)


def mentions(e: Expression, name: str) -> bool:
    """Return whether an expression has an operation or a quantity of this name in it."""
    return e.op == name or any(mentions(part, name) for part in e.parts)


def walk(
    right: Expression, swaps: Mapping[str, Sequence[Expression]] | None = None
) -> Iterator[Edit]:
    """Yield every edit of an expression: drop, twice, negate, swap an operand, another variant.

    Args:
        right: the expression.
        swaps: what may stand in place of a quantity, by its text.

    Example:
        >>> from nnjax.gradcheck.expressions import minus, plus, quantity, times
        >>> mu, v, g = (quantity(name, None) for name in ("μ", "v", "g"))
        >>> [edit.wrong.text() for edit in walk(plus(times(mu, v), minus(g)))][:4]
        ['v − g', 'μ μ v − g', 'μ − g', 'μ v ⊙ v − g']
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
            if e.op == "times" and (i or part.scalar):
                yield f"twice {tag}", _with(e, *e.parts[:i], part, *e.parts[i:]), ""
            elif e.op == "plus":
                yield f"negate {tag}", _with(e, *e.parts[:i], _negated(part), *e.parts[i + 1 :]), ""
    elif e.op == "σ":
        yield "drop σ", e.parts[0], ""
        yield "twice σ", _with(e, e), ""
        if isinstance(e.note, Softmax):
            c = number(e.note.scale, f"{e.note.scale:g}")
            yield "over examples", Expression("softmax over examples", (c, *e.parts)), ""
    elif e.op == "wᵀδ":
        yield f"drop {e.parts[0].text()}", e.parts[1], ""
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
    if e.op == "skip":
        return e.op
    return _negated(e).text() if e.op == "minus" else e.text()


T, Y, X = (quantity(name, None) for name in ("t", "y", "x"))
A, Z, G, W, DELTA = (quantity(name) for name in ("a", "z", "∂C/∂a", "w", "δ"))
NEXT_ERROR, OVER_N = quantity("δ", 1), quantity("1/n", None)


def _swaps(site, step):
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
        for form in forms(site, "weights"):
            gradient = Expression("∂C/∂w", (form, W))
            weights += [gradient, plus(W, minus(times(T, gradient)))]
        return {"w": weights, "δ": [NEXT_ERROR], "m": [quantity("m'")]}
    return {}


def edits(site: Site, step: str) -> Iterator[Edit]:
    """Yield every edit of a step in a layer.

    Example:
        >>> import nnjax
        >>> [edit.key for edit in edits(Site(nnjax.Dense(2), (3,), True, canonical=True), "error")]
        ['a → z', 'y → 1', 'drop a', 'negate a', 'drop y', 'negate y', "times σ'"]
    """
    activation = site.layer.activation
    right = forms(site, step)
    if step == "error" and not site.canonical:
        if site.last and not isinstance(site.loss, Quadratic):
            yield Edit("a − y", right[0], plus(A, minus(Y)))
        return
    for form in right:
        for edit in walk(form, _swaps(site, step)):
            # At the output, where σ' cancels, σ' twice is σ' that is kept.
            if not (step == "through" and site.canonical and edit.key.startswith("twice σ'")):
                yield edit
    if step == "error":
        slope = Expression("σ'", (Z,), activation)
        if isinstance(activation, Softmax):
            slope = Expression("formula", (A,), "a (1 − a)")
            slope = times(number(activation.scale, f"{activation.scale:g}"), slope)
        yield Edit("times σ'", right[0], times(right[0], slope))
    elif step == "through":
        yield from _of_error(right[0], activation, site.last)
    elif step == "back" and isinstance(site.layer, Dropout) and site.masked:
        yield Edit("drop m and / (1 − rate)", right[0], DELTA)
    elif step == "back" and isinstance(site.layer, L2Pool):
        yield Edit("double", right[0], times(number(2.0, "2"), right[0]))


def _of_error(right, activation, last):
    """Yield the edits of BP2's second half that are about the error as a whole."""
    if isinstance(activation, Elementwise):
        yield Edit("constant", right, times(T, G))
    else:
        for name in FUNCTIONS:
            slope = Expression("σ' of", (Z,), name)
            yield Edit(f"σ'(z) → {slope.text()}", right, times(G, slope), name)
    if isinstance(activation, LeakyReLU):
        yield Edit("another slope", right, times(G, Expression("leaky", (Z, T))))
    if not last:  # there it is the whole gradient that is scaled
        yield Edit("negate", right, minus(right))
        yield Edit("over n", right, times(OVER_N, right))
        yield Edit("scale", right, times(T, right))


@dataclass(frozen=True)
class Made:
    """One kind of mistake in a network's derivation, in every layer where it can be made.

    Attributes:
        step: the step it is in; "both" for a layer that is another one forward and backward.
        key: of the edit.
        edits: the edit in each layer.
        changes: the expressions that it puts in place of steps, by (step, l), for each layer.
    """

    step: str
    key: str
    edits: dict[int, Edit]
    changes: dict[int, dict[tuple[str, int], Expression]]

    @property
    def words(self) -> Words:
        """The name and the sentence."""
        return words(self.step, self.key)[0]

    @property
    def fitted(self) -> bool:
        """Whether it has a number that is found from the claim."""
        return any(edit.fitted for edit in self.edits.values())

    @property
    def known(self) -> bool:
        """Whether it has a name of its own."""
        return words(self.step, self.key)[1]

    def formulas(self, sup: Callable[[int], str], arriving: str) -> tuple[str, str]:
        """Return what is claimed and what is expected; `sup` as for `Expression.text`.

        Args:
            sup: what follows the name of a quantity some layers away.
            arriving: what ∂C/∂a is at the layer, as a formula.
        """
        edit = next(iter(self.edits.values()))
        left = {"affine": "z{0}", "activate": "a{0}", "weights": "∂C/∂w{0}", "biases": "∂C/∂b{0}"}
        step = next(iter(next(iter(self.changes.values()))))[0]
        before = left.get(step, "∂C/∂a{1}" if step == "back" else "δ{0}").format(sup(0), sup(-1))
        wrong, right = (
            e.text(sup).replace(f"∂C/∂a{sup(0)}", arriving)
            if before.startswith("δ")
            else e.text(sup)
            for e in (edit.wrong, edit.right)
        )
        return f"{before} = {wrong}", f"{before} = {right}"


def network_edits(d: Derivation) -> list[Made]:
    """Return every edit of every step of a network's derivation, with the layers that have it."""
    found: dict[tuple[str, str], Made] = {}
    for step, l in itertools.product(STEPS, range(1, d.L + 1)):
        if (step, l) != ("back", 1):
            for edit in edits(d.site(l), step):
                made = found.setdefault((step, edit.key), Made(step, edit.key, {}, {}))
                made.edits[l], made.changes[l] = edit, {(step, l): edit.wrong}
    return [*found.values(), *_both_ways(found.values())]


def _both_ways(made):
    """Return the edits that give a layer the same variant forward and backward."""
    found: dict[str, Made] = {}
    forward = [one for one in made if one.step in FORWARD]
    for ahead in forward:
        for l, edit in ahead.edits.items():
            behind = [
                (other, other.edits[l])
                for other in made
                if other.step not in FORWARD and l in other.edits
            ]
            same = {(one.step, l): e.wrong for one, e in behind if e.variant == edit.variant}
            if edit.variant and (same or l == 1):
                key = edit.variant if f"both {edit.variant}" in NAMES else f"layer {edit.variant}"
                both = found.setdefault(key, Made("both", key, {}, {}))
                both.edits[l] = edit
                both.changes[l] = {(ahead.step, l): edit.wrong, **same}
    return list(found.values())
