"""Regularizers: what is added to the loss so that weights stay small, with its gradient by hand.

The loss that is minimised is C = C₀ + penalty(params, n), n the number of training examples, not
of the mini-batch: so λ means the same for every mini-batch size, and the same number as in the
book. Weights are regularised, biases never are. Training adds `gradient(params, n)` to that of
C₀, and calls `project(params)` after every step.

A regularizer is a frozen description: it hashes and compares, and is static under `jit`.
Regularizers add up: `L2(5.0) + MaxNorm(3.0)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from nnjax.activations import absolute
from nnjax.checks import plain_number, require_scalar
from nnjax.layers.base import Affine
from nnjax.pieces import at_least_float32

__all__ = ["L1", "L2", "MaxNorm", "Regularizer"]

_FLOAT32 = jnp.finfo(jnp.float32)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Regularizer:
    """Base class of regularizers; this one does nothing.

    Example:
        >>> import jax, nnjax
        >>> from nnjax import regularizers
        >>> params = nnjax.init(nnjax.mlp([3, 2]), jax.random.key(0))
        >>> l1, l2 = regularizers.L1(0.5), regularizers.L2(0.5)
        >>> both = (l1 + l2).penalty(params, 100)
        >>> bool(both == l1.penalty(params, 100) + l2.penalty(params, 100))
        True
    """

    def penalty(self, params: Any, n: int) -> jax.Array:
        """Return what is added to the loss, a scalar in float32 at least.

        Args:
            params: the parameters.
            n: the number of training examples.
        """
        return jnp.zeros((), _dtype(params))

    def gradient(self, params: Any, n: int) -> Any:
        """Return the gradient of the penalty: structure, shapes and dtypes of the parameters."""
        return jax.tree.map(jnp.zeros_like, params)

    def project(self, params: Any) -> Any:
        """Return the nearest parameters that are allowed."""
        return params

    def __add__(self, other: Regularizer) -> Regularizer:
        if not isinstance(other, Regularizer):
            return NotImplemented
        return _Sum(self, other)


@jax.tree_util.register_static
@dataclass(frozen=True)
class L2(Regularizer):
    """L2 regularisation, weight decay: λ/2n Σ w² (eq. 87), with the gradient λ/n w (eq. 88).

    A step of gradient descent shrinks the weights by 1 − ηλ/n before it moves them (eq. 92).

    Args:
        strength: λ ≥ 0, no unit.

    Raises:
        ValueError: if λ is negative or not finite.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> from nnjax import regularizers
        >>> params = (nnjax.Affine(w=jnp.array([[3.0, -4.0]]), b=jnp.array([7.0])),)
        >>> regularizers.L2(50.0).gradient(params, n=100)[0].w.tolist()
        [[1.5, -2.0]]

    Reference: Nielsen 2015, chapter 3. Differs from `optax.add_decayed_weights(λ/n)`, which
    decays the biases too unless it is given a mask.
    """

    strength: float

    def __post_init__(self):
        _set_strength(self)

    def penalty(self, params, n):
        squares = [jnp.sum(_wide(w) ** 2) for w in _weights(params)]
        return sum(squares, super().penalty(params, n)) * plain_number(self.strength / (2 * n))

    def gradient(self, params, n):
        rate = plain_number(self.strength / n)
        return _of_weights(lambda w: rate * w, jnp.zeros_like, params)


@jax.tree_util.register_static
@dataclass(frozen=True)
class L1(Regularizer):
    """L1 regularisation: λ/n Σ |w| (eq. 95), with the gradient λ/n sgn(w) (eq. 96), 0 at w = 0.

    Weights shrink by a constant amount, so that small ones become 0.

    Args:
        strength: λ ≥ 0, no unit.

    Raises:
        ValueError: if λ is negative or not finite.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> from nnjax import regularizers
        >>> params = (nnjax.Affine(w=jnp.array([[3.0, 0.0]]), b=jnp.array([7.0])),)
        >>> regularizers.L1(50.0).gradient(params, n=100)[0].w.tolist()
        [[0.5, 0.0]]

    Reference: Nielsen 2015, chapter 3.
    """

    strength: float

    def __post_init__(self):
        _set_strength(self)

    def penalty(self, params, n):
        sums = [jnp.sum(absolute(_wide(w))) for w in _weights(params)]
        return sum(sums, super().penalty(params, n)) * plain_number(self.strength / n)

    def gradient(self, params, n):
        rate = plain_number(self.strength / n)
        return _of_weights(lambda w: rate * jnp.sign(w), jnp.zeros_like, params)


@jax.tree_util.register_static
@dataclass(frozen=True)
class MaxNorm(Regularizer):
    """The weights into one neuron are at most `limit` long: w_j → w_j min(1, limit / ‖w_j‖).

    After every step, for every neuron (every filter) j by itself; there is no penalty.

    Args:
        limit: the largest Euclidean norm allowed, > 0.

    Raises:
        ValueError: if it is not positive and finite.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> from nnjax import regularizers
        >>> params = (nnjax.Affine(w=jnp.array([[6.0, 8.0], [0.0, 1.0]]), b=jnp.zeros(2)),)
        >>> regularizers.MaxNorm(5.0).project(params)[0].w.tolist()
        [[3.0, 4.0], [0.0, 1.0]]

    Reference: Srivastava et al. 2014, "Dropout", section 5.1.
    """

    limit: float

    def __post_init__(self):
        tiny, huge = (float(limit) for limit in (_FLOAT32.tiny, _FLOAT32.max))
        limit = require_scalar(self.limit, "limit of MaxNorm", "a positive finite norm", tiny, huge)
        object.__setattr__(self, "limit", plain_number(limit))  # as the description is frozen

    def project(self, params):
        def shortened(w):
            axes = tuple(range(1, w.ndim))
            wide = _wide(w)
            largest = jnp.max(jnp.abs(wide), axis=axes, keepdims=True)
            scale = jnp.where(largest > 0, largest, jnp.ones_like(largest))  # no square overflows
            norms = scale * jnp.sqrt(jnp.sum((wide / scale) ** 2, axis=axes, keepdims=True))
            return w * (self.limit / jnp.maximum(norms, self.limit)).astype(w.dtype)

        return _of_weights(shortened, lambda b: b, params)


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Sum(Regularizer):
    first: Regularizer
    second: Regularizer

    def penalty(self, params, n):
        return self.first.penalty(params, n) + self.second.penalty(params, n)

    def gradient(self, params, n):
        return jax.tree.map(
            jnp.add, self.first.gradient(params, n), self.second.gradient(params, n)
        )

    def project(self, params):
        return self.second.project(self.first.project(params))


def _set_strength(regularizer: L1 | L2) -> None:
    strength = require_scalar(
        regularizer.strength,
        f"strength of {type(regularizer).__name__}",
        "a finite strength λ of at least 0 (a negative one would reward large weights)",
        0,
        float(_FLOAT32.max),
    )
    object.__setattr__(regularizer, "strength", plain_number(strength))


def _weights(params: Any) -> list[jax.Array]:
    entries = jax.tree.leaves(params, is_leaf=lambda entry: isinstance(entry, Affine))
    return [entry.w for entry in entries if isinstance(entry, Affine)]


def _of_weights(on_weights: Callable, on_others: Callable, params: Any) -> Any:
    """Return `on_weights` of every weight array and `on_others` of every other array."""

    def of_entry(entry):
        if isinstance(entry, Affine):
            return Affine(on_weights(entry.w), on_others(entry.b))
        return on_others(entry)

    return jax.tree.map(of_entry, params, is_leaf=lambda entry: isinstance(entry, Affine))


def _wide(w: jax.Array) -> jax.Array:
    return w.astype(at_least_float32(w.dtype))


def _dtype(params: Any) -> Any:
    dtype = next((leaf.dtype for leaf in jax.tree.leaves(params)), jnp.result_type(float))
    return at_least_float32(dtype)
