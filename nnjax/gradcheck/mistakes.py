"""Mistakes that any gradient can show, of a network or not: factors, signs, order, missing parts.

A mistake about one array takes it (a `LeafView`) and returns it with the mistake made; one about
the whole gradient takes the point and returns all arrays. To add one of your own, append to the
table:

    MISTAKES.append(Mistake("the square", "every entry is squared", "({leaf})²", lambda v: v.g**2))
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from nnjax.gradcheck.diagnose import Candidate, wrong_leaves
from nnjax.gradcheck.edits import candidate, walk
from nnjax.gradcheck.expressions import Expression, Scope, quantity
from nnjax.gradcheck.names import filled, rows
from nnjax.gradcheck.operations import Undetermined

__all__ = [
    "MISTAKES",
    "LeafView",
    "Mistake",
    "general_candidates",
    "jacobian_candidates",
    "leaf_view",
    "single_candidates",
]


@dataclass(frozen=True)
class LeafView:
    """What a mistake about one array sees.

    Attributes:
        g: the right gradient.
        p: the parameter that it belongs to.
        n: the number of examples; None where there is no batch.
        claimed: the claimed array, for mistakes that rearrange it.
        n_out: the number of outputs of a network, else None.
        penalty: the part of g that comes from a regularizer, else None.
        penalty_if: what that part would be if this were an array of weights, else None.
        training_size: the n of the regularizer's λ/n.
    """

    g: np.ndarray
    p: np.ndarray
    n: Any = None
    claimed: Any = None
    n_out: Any = None
    penalty: Any = None
    penalty_if: Any = None
    training_size: Any = None


class Mistake(NamedTuple):
    """One mistake that any gradient can show.

    Attributes:
        name: a few words, such as "sum for mean".
        sentence: what went wrong.
        have: the formula as it was claimed. Words in braces are filled in: {leaf}, {parameter},
            {penalty}; for a fitted number {t}, with {sense} ("added" or "missing") and {operation}
            where its sign tells that.
        change: view -> the array with the mistake made; (view, t) -> the array, for a mistake with
            a number that is found from the claim; for `whole`, point -> all arrays.
        whole: whether it is about the whole gradient, not about single arrays.
        expected: the formula as it should be.

    Example:
        >>> square = Mistake("the square", "every entry is squared", "({leaf})²", lambda v: v.g**2)
        >>> square.fitted
        False
    """

    name: str
    sentence: str
    have: str
    change: Callable[..., Any]
    whole: bool = False
    expected: str = "{leaf}"

    @property
    def fitted(self) -> bool:
        """Whether it has a number that is found from the claim."""
        return len(inspect.signature(self.change).parameters) == 2


def _matrix(array):
    if array.ndim < 2:
        raise ValueError("only an array of two axes or more has columns")
    return array


def _column_order(view):
    if view.g.ndim == 2 and view.g.shape[0] == view.g.shape[1]:
        raise ValueError("for a square matrix this is the transposed gradient")
    return view.g.ravel("F").reshape(view.g.shape)


def _permuted(view, t):
    out = np.empty(view.g.size)
    out[np.argsort(view.claimed, axis=None)] = np.sort(view.g, axis=None)
    return out.reshape(view.g.shape)


def _on_biases(view):
    if view.p.ndim != 1:
        raise TypeError("the mistake is about biases")
    return view.g + view.penalty_if


# name | formula as claimed | sentence
TABLE = """
sign | −{leaf} | the sign is flipped: a step of gradient descent would climb
factor 2 | 2 {leaf} | twice too large, as when the ½ of a square is forgotten
factor ½ | ½ {leaf} | half as large as it should be, as when the 2 of a derived square is forgotten
sum for mean (factor n) | Σₓ ∂Cₓ: {leaf} times n | the sum over the n examples is taken where their
    mean is meant, n times too large
mean twice (factor 1/n) | (1/n²) Σₓ ∂Cₓ: {leaf} divided by n | divided by the number of examples n
    twice
factor n_out | n_out · {leaf} | too large by the number of outputs n_out
factor 1/n_out | {leaf} / n_out | divided by the number of outputs n_out: the mean over the outputs
    is taken for their sum
scaled | {t} · {leaf} | scaled by a constant, {t}
left out (zero) | 0 | this part of the gradient is forgotten: it is zero
not returned (None) | None | this part of the gradient is forgotten: it is None
L2 term {sense} | {leaf} {operation} {t} · {parameter} | {t} times the parameter itself is {sense}:
    the derivative of a penalty λ/2 Σp² (L2, weight decay)
L1 term {sense} | {leaf} {operation} {t} · sign({parameter}) | {t} times sign(p) is {sense}: the
    derivative of a penalty λ Σ|p| (L1)
|w| for sign(w) | … + {t} · |{parameter}| | the penalty λ Σ|p| (L1), λ = {t}, is derived as λ|p|
    instead of λ sign(p)
a term |p| {sense} | {leaf} {operation} {t} · |{parameter}| | {t} times the absolute value of the
    parameter is {sense}
a constant {sense} | {leaf} {operation} {t} | the same number, {t}, is {sense} in every entry
L2 or L1 missing | ∂C₀/∂{parameter} | the regularizer is not derived: its part of the gradient is
    missing
L2 or L1 doubled | ∂C₀/∂{parameter} + 2 · {penalty} | the regularizer's part of the gradient is
    there twice, as when decay is applied twice or the ½ of λ/2n is forgotten
L2 or L1 with the wrong sign | ∂C₀/∂{parameter} − {penalty} | the regularizer's part of the gradient
    is subtracted
L2 or L1 over the wrong n (none) | ∂C₀/∂{parameter} + n · {penalty} | λ is not divided by the number
    n of training examples
L2 or L1 over the wrong n (the mini-batch) | ∂C₀/∂{parameter} + n/m · {penalty} | λ is divided by
    the size m of the mini-batch, not by the number n of training examples
L2 or L1 over the wrong n (twice) | ∂C₀/∂{parameter} + 1/m · {penalty} | λ is divided by the number
    n of training examples and by the size m of the mini-batch
L2 or L1 on biases | ∂C₀/∂{parameter} + {penalty} | the biases are regularised too
L1: |w| for sign(w) | ∂C₀/∂{parameter} + λ/n |{parameter}| | the absolute value of the weights
    stands where their sign belongs
L1: w for sign(w) | ∂C₀/∂{parameter} + λ/n {parameter} | the weights themselves stand where their
    sign belongs: L2 for L1
L2: sign(w) for w | ∂C₀/∂{parameter} + λ/n sign({parameter}) | the sign of the weights stands where
    they themselves belong: L1 for L2
transposed gradient | ({leaf})ᵀ | rows and columns are interchanged
another shape | {leaf}, reshaped | the values are right, in an array of another shape
flattened in another order | {leaf}, column by column | the entries are laid out column by column
    (Fortran order) instead of row by row
rows in reverse | {leaf}[::-1] | the first axis runs backwards
columns in reverse | {leaf}[..., ::-1] | the last axis runs backwards
rows shifted by one | {leaf}[i + 1] at row i | every row holds what belongs into the next one
rows shifted by one, the other way | {leaf}[i − 1] at row i | every row holds what belongs into the
    one before it
summed over the first axis | Σᵢ {leaf}[i] | summed over an axis too many, the first
summed over the last axis | Σⱼ {leaf}[..., j] | summed over an axis too many, the last
the absolute value | |{leaf}| | the signs of the entries are lost
permuted | {leaf}, permuted | the entries are all there, in another order
arrays interchanged | another array's gradient | the arrays are right, but stand in each other's
    place
first example only | ∂Cₓ of the first x alone | only the first example of the batch counts
first example only, over n | (1/n) ∂Cₓ of the first x alone | only the first example of the batch
    counts, and it is divided by n
last example only | ∂Cₓ of the last x alone | every example overwrites the one before it: = for +=,
    so that only the last one counts
last example only, over n | (1/n) ∂Cₓ of the last x alone | every example overwrites the one before
    it: = for +=, so that only the last one counts, and it is divided by n
last example left out | (1/n) Σ over x₁ … xₙ₋₁ of ∂Cₓ | the loop over the examples ends one too
    early
first example left out | (1/n) Σ over x₂ … xₙ of ∂Cₓ | the loop over the examples begins one too
    late
not summed over the batch | ∂Cₓ for every x | the gradients of the n examples are returned one by
    one, not added up
not summed over the batch, over n | (1/n) ∂Cₓ for every x | the gradients of the n examples are
    returned one by one, divided by n, not added up
"""

# By the name: what becomes of an array v.g, or of the whole gradient at a point.
LEAF: dict[str, Callable[..., Any]] = {
    "sign": lambda v: -v.g,
    "factor 2": lambda v: 2 * v.g,
    "factor ½": lambda v: v.g / 2,
    "sum for mean (factor n)": lambda v: v.g * v.n,
    "mean twice (factor 1/n)": lambda v: v.g / v.n,
    "factor n_out": lambda v: v.g * v.n_out,
    "factor 1/n_out": lambda v: v.g / v.n_out,
    "scaled": lambda v, t: t * v.g,
    "left out (zero)": lambda v: np.zeros_like(v.g),
    "not returned (None)": lambda v: None,
    "L2 term {sense}": lambda v, t: v.g + t * v.p,
    "L1 term {sense}": lambda v, t: v.g + t * np.sign(v.p),
    "|w| for sign(w)": lambda v, t: v.g + t * (np.abs(v.p) - np.sign(v.p)),
    "a term |p| {sense}": lambda v, t: v.g + t * np.abs(v.p),
    "a constant {sense}": lambda v, t: v.g + t,
    "L2 or L1 missing": lambda v: v.g - v.penalty,
    "L2 or L1 doubled": lambda v: v.g + v.penalty,
    "L2 or L1 with the wrong sign": lambda v: v.g - 2 * v.penalty,
    "L2 or L1 over the wrong n (none)": lambda v: v.g + (v.training_size - 1) * v.penalty,
    "L2 or L1 over the wrong n (the mini-batch)": (
        lambda v: v.g + (v.training_size / v.n - 1) * v.penalty
    ),
    "L2 or L1 over the wrong n (twice)": lambda v: v.g + (1 / v.n - 1) * v.penalty,
    "L2 or L1 on biases": _on_biases,
    "L1: |w| for sign(w)": lambda v: v.g + np.abs(v.penalty * v.p) - v.penalty,
    "L1: w for sign(w)": lambda v: v.g + np.abs(v.penalty) * v.p - v.penalty,
    "L2: sign(w) for w": lambda v: v.g + v.penalty / np.abs(v.p) - v.penalty,
    "transposed gradient": lambda v: v.g.swapaxes(0, 1),
    "another shape": lambda v: v.g.reshape(v.claimed.shape),
    "flattened in another order": _column_order,
    "rows in reverse": lambda v: v.g[::-1],
    "columns in reverse": lambda v: _matrix(v.g)[..., ::-1],
    "rows shifted by one": lambda v: np.roll(v.g, -1, axis=0),
    "rows shifted by one, the other way": lambda v: np.roll(v.g, 1, axis=0),
    "summed over the first axis": lambda v: v.g.sum(axis=0),
    "summed over the last axis": lambda v: _matrix(v.g).sum(axis=-1),
    "the absolute value": lambda v: np.abs(v.g),
    "permuted": _permuted,
}


def _scaled(factor, leaves):
    return [factor * leaf for leaf in leaves]


def _interchanged(point):
    leaves = list(point.expected)
    for i, claimed in enumerate(point.claimed_arrays):
        for g in point.expected:
            if claimed is not None and g.shape == claimed.shape and np.allclose(g, claimed):
                leaves[i] = g
    if sum(one is not other for one, other in zip(leaves, point.expected, strict=True)) < 2:
        raise ValueError("nothing is interchanged where a single array is another one")
    return leaves


def _without(point, i):
    """Return the gradient with example i left out of the mean."""
    if point.n == 1:
        raise Undetermined
    rest = [k for k in range(point.n) if k != i % point.n]
    return _scaled((point.n - 1) / point.n, point.of_examples(rest))


def _one_by_one(point):
    if point.n == 1:
        raise Undetermined
    each = [point.of_examples([i]) for i in range(point.n)]
    return [np.stack(leaves) for leaves in zip(*each, strict=True)]


WHOLE: dict[str, Callable[..., Any]] = {
    "arrays interchanged": _interchanged,
    "first example only": lambda q: q.of_examples([0]),
    "first example only, over n": lambda q: _scaled(1 / q.n, q.of_examples([0])),
    "last example only": lambda q: q.of_examples([q.n - 1]),
    "last example only, over n": lambda q: _scaled(1 / q.n, q.of_examples([q.n - 1])),
    "last example left out": lambda q: _without(q, -1),
    "first example left out": lambda q: _without(q, 0),
    "not summed over the batch": _one_by_one,
    "not summed over the batch, over n": lambda q: _scaled(1 / q.n, _one_by_one(q)),
}

MISTAKES: list[Mistake] = [
    Mistake(name, sentence, have, LEAF.get(name) or WHOLE[name], name in WHOLE)
    for name, have, sentence in rows(TABLE)
]


def leaf_view(point: Any, i: int) -> LeafView:
    """Return what a mistake about array i sees at a point; a network's has more to it."""
    return LeafView(point.expected[i], point.parameters[i], point.n, point.claimed_arrays[i])


def general_candidates(
    points: Sequence[Any], view: Callable[[Any, int], LeafView] = leaf_view
) -> Iterator[Candidate]:
    """Yield every mistake about arrays and about the whole gradient, at every place.

    A place is a set of arrays that takes in all those that are wrong: single ones, the arrays of
    one layer, all weights, all biases, all, or just these.

    Args:
        points: where the claim is evaluated.
        view: (point, number of an array) -> what a mistake about that array sees.
    """
    for where, leaves, stage in _places(points):
        single = sum(points[0].expected[i].size for i in leaves) == 1
        for made in MISTAKES:
            if made.fitted and single:
                continue  # one number that fits one number is not evidence
            yield _candidate(points[0], made, where, leaves, view)._replace(stage=stage)


def single_candidates(
    points: Sequence[Any], view: Callable[[Any, int], LeafView] = leaf_view
) -> Iterator[Candidate]:
    """Yield every mistake about one array for each array that is wrong, to explain it by itself."""
    wrong = wrong_leaves(points)
    for i in wrong if len(wrong) > 1 else ():
        for made in MISTAKES:
            if not made.whole and not (made.fitted and points[0].expected[i].size == 1):
                single = _candidate(points[0], made, points[0].names[i], [i], view)
                yield single._replace(only=frozenset([i]), stage=3)


def _candidate(point, made, where, leaves, view):
    def predict(point, t):
        if made.whole:
            predicted = made.change(point)
            yield from ((i, predicted[i]) for i in leaves)
            return
        for i in leaves:
            yield i, made.change(view(point, i), *([t] if made.fitted else []))

    words = _words(point, leaves)
    mean = {"leaf": "(1/n) Σₓ ∂Cₓ"} if made.whole or "mean" in made.name else {}
    return Candidate(
        made.name,
        made.sentence,
        filled(made.have, words),
        filled(made.expected, {**words, **mean}),
        where,
        predict,
        made.fitted,
    )


def jacobian_candidates(f: Callable) -> Iterator[Candidate]:
    """Yield the mistakes in a pull-back Jᵀg of a function of one array, J its Jacobian.

    The points' arguments are g, the output weights, and the array.
    """
    jacobian, g = quantity("J", None), quantity("g", None)
    right = Expression("wᵀδ", (jacobian, g))
    derivative = jax.jit(jax.jacrev(f))

    def predict(form, point, t):
        g, x = point.args
        matrix = np.asarray(derivative(x)).reshape(g.size, x.size)
        scope = Scope({"J": matrix, "g": np.asarray(g).ravel()})
        yield 0, form.value(scope).reshape(x.shape)

    swaps = {
        "J": [Expression("transposed", (jacobian,)), Expression("diagonal", (jacobian,))],
        "g": [Expression("ones", (g,)), right],
    }
    for edit in walk(right, swaps):
        yield candidate("pull-back", edit, partial(predict, edit.wrong))


def _places(points):
    """Return (name, arrays, stage) for every place; what has no name of its own comes later."""
    problem, names, wrong = points[0].problem, points[0].names, wrong_leaves(points)
    whole = range(len(names))
    matrices = [i for i in whole if points[0].parameters[i].ndim >= 2]
    vectors = [i for i in whole if points[0].parameters[i].ndim < 2]
    groups = problem.groups or names
    places = [(", ".join(names[i] for i in wrong), wrong, 1)]
    places += [(name, [i], 0) for i, name in enumerate(names)]
    for group in dict.fromkeys(groups):
        places += [(group, [i for i in whole if groups[i] == group], 0)]
    if len(matrices) != len(names):
        places += [("all weights", matrices, 0), ("all biases", vectors, 0)]
    places += [("the whole gradient" if len(names) > 1 else "", list(whole), 0)]
    # Of one leaf that is all there is, it is said that it is the whole gradient.
    best = {tuple(leaves): (where, leaves, stage) for where, leaves, stage in places}
    around = [place for place in best.values() if set(wrong) <= set(place[1])]
    return sorted(around, key=lambda place: (place[2], len(place[1])))


def _words(point, leaves):
    letter, symbols = point.problem.letter, point.problem.symbols or point.names
    if len(leaves) == len(symbols) > 1:
        return {"leaf": f"∇{letter}", "parameter": "w", "penalty": "∂R/∂w"}
    named = [symbols[i] for i in leaves]
    if len(named) > 3:
        named = [named[0], "…", named[-1]]
    gradient, penalty = (
        ", ".join(f"∂{of}/∂{name}" if name != "…" else name for name in named)
        for of in (letter, "R")
    )
    return {"leaf": gradient, "parameter": ", ".join(named), "penalty": penalty}
