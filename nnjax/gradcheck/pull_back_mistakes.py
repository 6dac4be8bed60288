"""Mistakes in a pull-back Jᵀg of a function of one array, J its Jacobian, g the output weights."""

from __future__ import annotations

import numpy as np

from nnjax.gradcheck.hypotheses import mistake

__all__ = []


@mistake(
    "the Jacobian not transposed",
    "the output weights are multiplied by the Jacobian itself: pushed forward, not pulled back",
    have="J g",
    expected="Jᵀ g",
    step="pull-back",
)
def not_transposed(jacobian, g):
    return jacobian @ g


@mistake(
    "the diagonal of the Jacobian only",
    "the function is treated as if it worked element by element",
    have="diag(J) ⊙ g",
    expected="Jᵀ g",
    step="pull-back",
)
def diagonal_only(jacobian, g):
    if (
        jacobian.shape[0] != jacobian.shape[1]
        or np.count_nonzero(jacobian - np.diag(np.diag(jacobian))) == 0
    ):
        raise ValueError("the Jacobian is diagonal, or not square")
    return np.diag(jacobian) * g


@mistake(
    "the output weights ignored",
    "the derivative of the sum of the outputs is returned, whatever g is",
    have="Jᵀ 1",
    expected="Jᵀ g",
    step="pull-back",
)
def weights_ignored(jacobian, g):
    return jacobian.T @ np.ones_like(g)


@mistake(
    "the Jacobian missing",
    "the output weights are handed back as they came",
    have="g",
    expected="Jᵀ g",
    step="pull-back",
)
def jacobian_missing(jacobian, g):
    return g


@mistake(
    "the Jacobian applied twice",
    "the output weights are pulled back twice",
    have="Jᵀ Jᵀ g",
    expected="Jᵀ g",
    step="pull-back",
)
def jacobian_twice(jacobian, g):
    return jacobian.T @ (jacobian.T @ g)
