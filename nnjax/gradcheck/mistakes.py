"""Mistakes that any gradient can show, of a network or not: factors, signs, order, missing parts.

Those at the step "leaf" take one array of the right gradient and return it with the mistake made.
Those at the step "gradient" take the whole probe and return all leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnjax.gradcheck.hypotheses import MISTAKES, Candidate, Undetermined, mistake

__all__ = ["LeafView", "general_candidates"]


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
    n: int | None
    claimed: np.ndarray | None
    n_out: int | None
    penalty: np.ndarray | None = None
    penalty_if: np.ndarray | None = None
    training_size: int | None = None


# Factors.


@mistake(
    "sign",
    "the sign is turned round: a step of gradient descent would climb",
    have="−{leaf}",
    expected="{leaf}",
    step="leaf",
)
def sign(leaf):
    return -leaf.g


@mistake(
    "factor 2",
    "twice too large, as when the ½ of a square is forgotten",
    have="2 {leaf}",
    expected="{leaf}",
    step="leaf",
)
def doubled(leaf):
    return 2 * leaf.g


@mistake(
    "factor ½",
    "half as large as it should be, as when the 2 of a derived square is forgotten",
    have="½ {leaf}",
    expected="{leaf}",
    step="leaf",
)
def halved(leaf):
    return leaf.g / 2


@mistake(
    "sum for mean (factor n)",
    "the sum over the n examples is taken where their mean is meant, n times too large",
    have="Σₓ ∂Cₓ: {leaf} times n",
    expected="{leaf} = (1/n) Σₓ ∂Cₓ",
    step="leaf",
)
def sum_for_mean(leaf):
    return leaf.g * leaf.n


@mistake(
    "mean twice (factor 1/n)",
    "divided by the number of examples n twice",
    have="(1/n²) Σₓ ∂Cₓ: {leaf} divided by n",
    expected="{leaf} = (1/n) Σₓ ∂Cₓ",
    step="leaf",
)
def mean_twice(leaf):
    return leaf.g / leaf.n


@mistake(
    "factor n_out",
    "too large by the number of outputs n_out",
    have="n_out · {leaf}",
    expected="{leaf}",
    step="leaf",
)
def times_outputs(leaf):
    return leaf.g * leaf.n_out


@mistake(
    "factor 1/n_out",
    "divided by the number of outputs n_out: the mean over the outputs is taken for their sum",
    have="{leaf} / n_out",
    expected="{leaf}",
    step="leaf",
)
def over_outputs(leaf):
    return leaf.g / leaf.n_out


@mistake(
    "scaled",
    "scaled by a constant, {t}",
    have="{t} · {leaf}",
    expected="{leaf}",
    step="leaf",
    fitted=True,
)
def scaled(leaf, t):
    return t * leaf.g


# Terms added or left out.


@mistake(
    "left out (zero)",
    "this part of the gradient is forgotten: it is zero",
    have="0",
    expected="{leaf}",
    step="leaf",
)
def zero(leaf):
    return np.zeros_like(leaf.g)


@mistake(
    "not returned (None)",
    "this part of the gradient is forgotten: it is None",
    have="None",
    expected="{leaf}",
    step="leaf",
)
def none(leaf):
    return None


@mistake(
    "L2 term {sense}",
    "{t} times the parameter itself is {sense}: the derivative of a penalty λ/2 Σp² (L2, weight "
    "decay)",
    have="{leaf} {operation} {t} · {parameter}",
    expected="{leaf}",
    step="leaf",
    fitted=True,
)
def plus_parameter(leaf, t):
    return leaf.g + t * leaf.p


@mistake(
    "L1 term {sense}",
    "{t} times sign(p) is {sense}: the derivative of a penalty λ Σ|p| (L1)",
    have="{leaf} {operation} {t} · sign({parameter})",
    expected="{leaf}",
    step="leaf",
    fitted=True,
)
def plus_sign(leaf, t):
    return leaf.g + t * np.sign(leaf.p)


@mistake(
    "|w| for sign(w)",
    "the penalty λ Σ|p| (L1), λ = {t}, is derived as λ|p| instead of λ sign(p)",
    have="… + {t} · |{parameter}|",
    expected="… + {t} · sign({parameter})",
    step="leaf",
    fitted=True,
)
def absolute_for_sign(leaf, t):
    return leaf.g + t * (np.abs(leaf.p) - np.sign(leaf.p))


@mistake(
    "a term |p| {sense}",
    "{t} times the absolute value of the parameter is {sense}",
    have="{leaf} {operation} {t} · |{parameter}|",
    expected="{leaf}",
    step="leaf",
    fitted=True,
)
def plus_absolute(leaf, t):
    return leaf.g + t * np.abs(leaf.p)


@mistake(
    "a constant {sense}",
    "the same number, {t}, is {sense} in every entry",
    have="{leaf} {operation} {t}",
    expected="{leaf}",
    step="leaf",
    fitted=True,
)
def plus_constant(leaf, t):
    return leaf.g + t


# Regularizers, where there is one: `penalty` is λ/n w for L2, λ/n sign(w) for L1.


@mistake(
    "L2 or L1 missing",
    "the regularizer is not derived: its part of the gradient is missing",
    have="∂C₀/∂{parameter}",
    expected="∂C₀/∂{parameter} + {penalty}",
    step="leaf",
)
def penalty_missing(leaf):
    return leaf.g - leaf.penalty


@mistake(
    "L2 or L1 doubled",
    "the regularizer's part of the gradient is there twice, as when decay is applied twice or the "
    "½ of λ/2n is forgotten",
    have="∂C₀/∂{parameter} + 2 · {penalty}",
    expected="∂C₀/∂{parameter} + {penalty}",
    step="leaf",
)
def penalty_doubled(leaf):
    return leaf.g + leaf.penalty


@mistake(
    "L2 or L1 with the wrong sign",
    "the regularizer's part of the gradient is subtracted",
    have="∂C₀/∂{parameter} − {penalty}",
    expected="∂C₀/∂{parameter} + {penalty}",
    step="leaf",
)
def penalty_subtracted(leaf):
    return leaf.g - 2 * leaf.penalty


@mistake(
    "L2 or L1 over the wrong n (none)",
    "λ is not divided by the number n of training examples",
    have="∂C₀/∂{parameter} + n · {penalty}",
    expected="∂C₀/∂{parameter} + {penalty}",
    step="leaf",
)
def penalty_not_divided(leaf):
    return leaf.g + (leaf.training_size - 1) * leaf.penalty


@mistake(
    "L2 or L1 over the wrong n (the mini-batch)",
    "λ is divided by the size m of the mini-batch, not by the number n of training examples",
    have="∂C₀/∂{parameter} + n/m · {penalty}",
    expected="∂C₀/∂{parameter} + {penalty}",
    step="leaf",
)
def penalty_over_batch(leaf):
    return leaf.g + (leaf.training_size / leaf.n - 1) * leaf.penalty


@mistake(
    "L2 or L1 over the wrong n (twice)",
    "λ is divided by the number n of training examples and by the size m of the mini-batch",
    have="∂C₀/∂{parameter} + 1/m · {penalty}",
    expected="∂C₀/∂{parameter} + {penalty}",
    step="leaf",
)
def penalty_over_both(leaf):
    return leaf.g + (1 / leaf.n - 1) * leaf.penalty


@mistake(
    "L2 or L1 on biases",
    "the biases are regularised too",
    have="∂C₀/∂{parameter} + {penalty}",
    expected="∂C₀/∂{parameter}",
    step="leaf",
)
def penalty_on_biases(leaf):
    if leaf.p.ndim != 1:
        raise TypeError("the mistake is about biases")
    return leaf.g + leaf.penalty_if


@mistake(
    "L1: |w| for sign(w)",
    "the absolute value of the weights stands where their sign belongs",
    have="∂C₀/∂{parameter} + λ/n |{parameter}|",
    expected="∂C₀/∂{parameter} + λ/n sign({parameter})",
    step="leaf",
)
def penalty_absolute(leaf):
    return leaf.g + np.abs(leaf.penalty * leaf.p) - leaf.penalty


@mistake(
    "L1: w for sign(w)",
    "the weights themselves stand where their sign belongs: L2 for L1",
    have="∂C₀/∂{parameter} + λ/n {parameter}",
    expected="∂C₀/∂{parameter} + λ/n sign({parameter})",
    step="leaf",
)
def penalty_plain(leaf):
    return leaf.g + np.abs(leaf.penalty) * leaf.p - leaf.penalty


@mistake(
    "L2: sign(w) for w",
    "the sign of the weights stands where they themselves belong: L1 for L2",
    have="∂C₀/∂{parameter} + λ/n sign({parameter})",
    expected="∂C₀/∂{parameter} + λ/n {parameter}",
    step="leaf",
)
def penalty_sign(leaf):
    return leaf.g + leaf.penalty / np.abs(leaf.p) - leaf.penalty


# Order and shape.


@mistake(
    "transposed gradient",
    "rows and columns are interchanged",
    have="({leaf})ᵀ",
    expected="{leaf}",
    step="leaf",
)
def transposed(leaf):
    return leaf.g.swapaxes(0, 1)


@mistake(
    "another shape",
    "the values are right, in an array of another shape",
    have="{leaf}, reshaped",
    expected="{leaf}",
    step="leaf",
)
def reshaped(leaf):
    return leaf.g.reshape(leaf.claimed.shape)


@mistake(
    "flattened in another order",
    "the entries are laid out column by column (Fortran order) instead of row by row",
    have="{leaf}, column by column",
    expected="{leaf}, row by row",
    step="leaf",
)
def column_order(leaf):
    if leaf.g.ndim == 2 and leaf.g.shape[0] == leaf.g.shape[1]:
        raise ValueError("for a square matrix this is the transposed gradient")
    return leaf.g.ravel("F").reshape(leaf.g.shape)


@mistake(
    "rows in reverse",
    "the first axis runs backwards",
    have="{leaf}[::-1]",
    expected="{leaf}",
    step="leaf",
)
def rows_reversed(leaf):
    return leaf.g[::-1]


@mistake(
    "columns in reverse",
    "the last axis runs backwards",
    have="{leaf}[..., ::-1]",
    expected="{leaf}",
    step="leaf",
)
def columns_reversed(leaf):
    return _matrix(leaf)[..., ::-1]


@mistake(
    "rows shifted by one",
    "every row holds what belongs into the next one",
    have="{leaf}[i + 1] at row i",
    expected="{leaf}[i] at row i",
    step="leaf",
)
def rows_ahead(leaf):
    return np.roll(leaf.g, -1, axis=0)


@mistake(
    "rows shifted by one, the other way",
    "every row holds what belongs into the one before it",
    have="{leaf}[i − 1] at row i",
    expected="{leaf}[i] at row i",
    step="leaf",
)
def rows_behind(leaf):
    return np.roll(leaf.g, 1, axis=0)


@mistake(
    "summed over the first axis",
    "summed over an axis too many, the first",
    have="Σᵢ {leaf}[i]",
    expected="{leaf}",
    step="leaf",
)
def summed_over_first(leaf):
    return leaf.g.sum(axis=0)


@mistake(
    "summed over the last axis",
    "summed over an axis too many, the last",
    have="Σⱼ {leaf}[..., j]",
    expected="{leaf}",
    step="leaf",
)
def summed_over_last(leaf):
    return _matrix(leaf).sum(axis=-1)


@mistake(
    "the absolute value",
    "the signs of the entries are lost",
    have="|{leaf}|",
    expected="{leaf}",
    step="leaf",
)
def absolute(leaf):
    return np.abs(leaf.g)


@mistake(
    "permuted",
    "the entries are all there, in another order",
    have="{leaf}, permuted",
    expected="{leaf}",
    step="leaf",
    fitted=True,
)
def permuted(leaf, t):
    order, claimed = np.argsort(leaf.g, axis=None), np.argsort(leaf.claimed, axis=None)
    out = np.empty(leaf.g.size)
    out[claimed] = leaf.g.ravel()[order]
    return out.reshape(leaf.g.shape)


def _matrix(leaf):
    if leaf.g.ndim < 2:
        raise ValueError("only an array of two axes or more has columns")
    return leaf.g


# The whole gradient.


@mistake(
    "arrays interchanged",
    "the arrays are right, but stand in each other's place",
    have="another array's gradient",
    expected="{leaf}",
    step="gradient",
)
def interchanged(probe):
    leaves = list(probe.expected)
    for i, claimed in enumerate(probe.claimed_arrays):
        for g in probe.expected:
            if claimed is not None and g.shape == claimed.shape and np.allclose(g, claimed):
                leaves[i] = g
    return leaves


@mistake(
    "first example only",
    "only the first example of the batch counts",
    have="∂Cₓ of the first x alone",
    expected="(1/n) Σₓ ∂Cₓ",
    step="gradient",
)
def first_example(probe):
    return probe.of_examples([0])


@mistake(
    "first example only, over n",
    "only the first example of the batch counts, and it is divided by n",
    have="(1/n) ∂Cₓ of the first x alone",
    expected="(1/n) Σₓ ∂Cₓ",
    step="gradient",
)
def first_example_over_n(probe):
    return [leaf / probe.n for leaf in probe.of_examples([0])]


@mistake(
    "last example only",
    "every example overwrites the one before it: = for +=, so that only the last one counts",
    have="∂Cₓ of the last x alone",
    expected="(1/n) Σₓ ∂Cₓ",
    step="gradient",
)
def last_example(probe):
    return probe.of_examples([probe.n - 1])


@mistake(
    "last example only, over n",
    "every example overwrites the one before it: = for +=, so that only the last one counts, and "
    "it is divided by n",
    have="(1/n) ∂Cₓ of the last x alone",
    expected="(1/n) Σₓ ∂Cₓ",
    step="gradient",
)
def last_example_over_n(probe):
    return [leaf / probe.n for leaf in probe.of_examples([probe.n - 1])]


@mistake(
    "last example left out",
    "the loop over the examples ends one too early",
    have="(1/n) Σ over x₁ … xₙ₋₁ of ∂Cₓ",
    expected="(1/n) Σₓ ∂Cₓ",
    step="gradient",
)
def last_left_out(probe):
    return [leaf * (probe.n - 1) / probe.n for leaf in probe.of_examples(range(probe.n - 1))]


@mistake(
    "first example left out",
    "the loop over the examples begins one too late",
    have="(1/n) Σ over x₂ … xₙ of ∂Cₓ",
    expected="(1/n) Σₓ ∂Cₓ",
    step="gradient",
)
def first_left_out(probe):
    return [leaf * (probe.n - 1) / probe.n for leaf in probe.of_examples(range(1, probe.n))]


@mistake(
    "not summed over the batch",
    "the gradients of the n examples are returned one by one, not added up",
    have="∂Cₓ for every x",
    expected="(1/n) Σₓ ∂Cₓ",
    step="gradient",
)
def not_summed(probe):
    if probe.n == 1:
        raise Undetermined
    each = [probe.of_examples([i]) for i in range(probe.n)]
    return [np.stack(leaves) for leaves in zip(*each, strict=True)]


@mistake(
    "not summed over the batch, over n",
    "the gradients of the n examples are returned one by one, divided by n, not added up",
    have="(1/n) ∂Cₓ for every x",
    expected="(1/n) Σₓ ∂Cₓ",
    step="gradient",
)
def not_summed_over_n(probe):
    return [leaf / probe.n for leaf in not_summed(probe)]


def general_candidates(probes: Sequence[Any]) -> Iterator[Candidate]:
    """Yield every mistake about leaves and about the whole gradient, at every place.

    A place is a set of leaves that takes in all those that are wrong: single ones, the arrays of
    one layer, all weights, all biases, all.
    """
    places = list(_places(probes))
    for made in MISTAKES:
        if made.step == "gradient":
            for where, leaves in places:
                yield Candidate(made, where, _some(made.change, leaves), _words(probes[0], leaves))
        elif made.step == "leaf":
            for where, leaves in places:
                yield Candidate(made, where, _each(made, leaves), _words(probes[0], leaves))


def _some(change, leaves):
    def predict(probe, t):
        predicted = change(probe)
        return None if predicted is None else [(i, predicted[i]) for i in leaves]

    return predict


def _each(made, leaves):
    def predict(probe, t):
        for i in leaves:
            view = LeafView(
                probe.expected[i],
                probe.parameters[i],
                probe.n,
                probe.claimed_arrays[i],
                probe.subject.n_out,
                **probe.subject.penalties(probe.args, i),
            )
            yield i, made.change(view, t) if made.fitted else made.change(view)

    return predict


def _places(probes):
    subject, names = probes[0].subject, probes[0].names
    wrong = {i for probe in probes for i in probe.wrong}
    whole = range(len(names))
    matrices = [i for i in whole if probes[0].parameters[i].ndim >= 2]
    vectors = [i for i in whole if probes[0].parameters[i].ndim < 2]
    groups = subject.groups or names
    places = [(name, [i]) for i, name in enumerate(names)]
    places += [(group, [i for i in whole if groups[i] == group]) for group in dict.fromkeys(groups)]
    if len(matrices) != len(names):
        places += [("all weights", matrices), ("all biases", vectors)]
    places += [("the whole gradient" if len(names) > 1 else "", list(whole))]
    seen = []
    for where, leaves in reversed(places):  # one leaf that is all there is: "the whole gradient"
        if wrong <= set(leaves) and leaves not in [other for _, other in seen]:
            seen.append((where, leaves))
    return reversed(seen)


def _words(probe, leaves):
    letter, symbols = probe.subject.letter, probe.subject.symbols or probe.names
    if len(leaves) == len(symbols) > 1:
        return {"leaf": f"∇{letter}", "parameter": "w", "penalty": "∂R/∂w"}
    named = [symbols[i] for i in leaves]
    if len(named) > 3:
        named = [named[0], "…", named[-1]]
    return {
        "leaf": ", ".join(f"∂{letter}/∂{name}" if name != "…" else name for name in named),
        "parameter": ", ".join(named),
        "penalty": ", ".join(f"∂R/∂{name}" if name != "…" else name for name in named),
    }
