"""What was done to a right gradient as a whole: another factor, another length, clipped entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnjax.gradcheck.compare import LEAF_TOLERANCE, norm
from nnjax.gradcheck.finding import Finding
from nnjax.gradcheck.reference import program_within

__all__ = ["rescaled", "scaled"]


def scaled(points: Sequence[Any]) -> Finding | None:
    """Return the factor by which a whole gradient is off, where it is a matter of convention.

    That is a ½ of a function that squares something, and sum or mean over the examples of a batch:
    which of both f is, it is asked, of the two halves of the batch.
    """
    factors = _factors(points)
    if factors is None or not np.allclose(factors, factors[0], rtol=1e-9):
        return None
    point, t = points[0], factors[0]
    n, kind = point.n, _sum_or_mean(point)
    if kind == "mean" and np.isclose(t, n, rtol=1e-9):
        what = "sum for mean (factor n)", "the sum over the examples, not the mean", "n ∇f"
    elif kind == "sum" and np.isclose(t * n, 1, rtol=1e-9):
        what = "mean for sum (factor 1/n)", "the mean over the examples, not the sum", "∇f / n"
    elif np.isclose(t, 2, rtol=1e-9) and _squares(point):
        what = "factor 2", "2 f: the ½ before a square is not there", "2 ∇f"
    elif np.isclose(t, 0.5, rtol=1e-9) and _squares(point):
        what = "factor ½", "½ f, from which the 2 of a derived square cancels", "½ ∇f"
    else:
        return None
    return _finding(point, what[0], f"right for {what[1]}", what[2], factor=t)


def rescaled(points: Sequence[Any]) -> tuple[Finding, ...]:
    """Return what was done to the length or to the largest entries of a right gradient.

    Args:
        points: points, with .expected, .claimed_arrays, .noise and .names, and the value of f.
    """
    point = points[0]
    factors = _factors(points)
    lengths = [_length(p.claimed_arrays) for p in points]
    if factors is not None and not np.allclose(factors, factors[0], rtol=1e-9):
        values = np.array([p.value(p.args) for p in points])
        if np.allclose(factors * values, 1, rtol=1e-9):
            sentence = "the gradient of log f, not of f: it is divided by the value of f"
            return (_finding(point, "gradient of log f", sentence, "∇f / f"),)
        if sum(g.size for g in point.expected) == 1:
            return ()  # a single number has no other direction
        if np.allclose(lengths, lengths[0], rtol=1e-9):
            sentence = f"the gradient is scaled to length {lengths[0]:.6g}, whatever its own length"
            have = f"{lengths[0]:.6g} ∇f / ‖∇f‖"
            return (_finding(point, "normalised", sentence, have),)
        longest = max(lengths)
        whole = [
            np.isclose(t, min(1.0, longest / _length(p.expected)))
            for t, p in zip(factors, points, strict=True)
        ]
        if all(whole):
            sentence = f"the gradient is clipped to length {longest:.6g}"
            return (_finding(point, "clipped", sentence, f"∇f · min(1, {longest:.6g} / ‖∇f‖)"),)
    largest = max(_largest(p.claimed_arrays) for p in points)
    if factors is None and 0 < largest < np.inf and all(_is_clipped(p, largest) for p in points):
        sentence = f"entries are clipped at ±{largest:.6g}"
        return (_finding(point, "clipped", sentence, f"clip(∇f, −{largest:.6g}, {largest:.6g})"),)
    return ()


def _finding(point, name, sentence, have, factor=None):
    return Finding(
        name=name,
        sentence=sentence,
        have=have,
        expected="∇f",
        factor=factor,
        leaves=tuple(point.names),
    )


def _factors(points) -> np.ndarray | None:
    """Return claimed / expected at each point; None where it is not one number."""
    factors = []
    for point in points:
        of_leaves = []
        for g, claimed in zip(point.expected, point.claimed_arrays, strict=True):
            if claimed is None or claimed.shape != g.shape or not np.isfinite(claimed).all():
                return None
            if not norm(g) > 0:
                continue
            t = float(np.vdot(claimed / norm(g), g / norm(g)))
            if not norm(claimed - t * g) <= LEAF_TOLERANCE * norm(claimed):
                return None
            of_leaves.append(t)
        if not of_leaves or not np.allclose(of_leaves, of_leaves[0], rtol=1e-9):
            return None
        factors.append(of_leaves[0])
    return np.array(factors)


def _length(arrays) -> float:
    return float(np.sqrt(sum(norm(array) ** 2 for array in arrays if array is not None)))


def _largest(arrays) -> float:
    return max((float(np.max(np.abs(a), initial=0)) for a in arrays if a is not None), default=0.0)


def _is_clipped(point, limit) -> bool:
    """Return whether the claim is the right gradient with every entry kept within ± limit."""
    for i, (g, claimed) in enumerate(zip(point.expected, point.claimed_arrays, strict=True)):
        if claimed is None or claimed.shape != g.shape:
            return False
        off = np.abs(claimed - np.clip(g, -limit, limit))
        if not norm(off) <= 1e-4 * limit * np.sqrt(off.size):
            return False  # whatever the rounding, which takes long to measure
        if not (off <= LEAF_TOLERANCE * np.abs(g) + point.noise[i]).all():
            return False
    return True


def _sum_or_mean(point) -> str:
    """Return what f does with the examples of its batch: "sum", "mean", or "" if neither."""
    n, subset = point.n, point.problem.subset
    if n is None or subset is None:
        return ""
    whole, kinds = point.value(point.args), []
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(n)
        halves = np.sort(order[: n // 2]), np.sort(order[n // 2 :])
        try:
            one, other = (point.value(subset(point.args, half)) for half in halves)
        except Exception:  # what shares a first axis need not be a batch, or f wants all of it
            return ""
        of_all = len(halves[0]) * one + len(halves[1]) * other
        is_sum = np.isclose(one + other, whole, rtol=1e-9)
        is_mean = np.isclose(of_all, n * whole, rtol=1e-9)
        kinds.append("sum" if is_sum else "mean" if is_mean else "")
    return kinds[0] if kinds[0] == kinds[1] else ""


LINEAR = ("reduce_sum", "add", "sub", "neg", "convert_element_type", "squeeze", "reshape", "copy")


def _squares(point) -> bool:
    """Return whether f is a sum of squares, up to constants."""
    if point.problem.untraceable:
        return False
    traced = point.problem.traced(point.args)
    if traced is None:
        return False
    program = traced.program.jaxpr
    return _is_square(program, program.outvars[0])


def _is_square(program, variable) -> bool:
    made = {out: equation for equation in program.eqns for out in equation.outvars}
    if hasattr(variable, "val"):
        return True  # a constant beside the squares
    equation = made.get(variable)
    if equation is None:
        return False
    kind, inputs = equation.primitive.name, equation.invars
    inner = program_within(equation)
    if inner is not None:
        return _is_square(inner[0], inner[0].outvars[equation.outvars.index(variable)])
    if kind in ("mul", "div", "dot_general") and len(set(map(id, inputs))) == 2:
        varying = [one for one in inputs if not hasattr(one, "val")]
        return kind != "dot_general" and len(varying) == 1 and _is_square(program, varying[0])
    if kind in LINEAR:
        return all(_is_square(program, one) for one in inputs)
    return kind in ("square", "mul", "dot_general") or equation.params.get("y") == 2
