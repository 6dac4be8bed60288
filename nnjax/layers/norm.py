"""Layer normalization: the features of every example, brought to mean 0 and variance 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nnjax.activations import Activation, identity, require_activation
from nnjax.checks import require_number
from nnjax.layers import words
from nnjax.layers.base import Layer
from nnjax.pieces import at_least_float32

__all__ = ["LayerNorm", "ScaleShift"]


class ScaleShift(NamedTuple):
    """The parameters of a layer that scales and shifts every feature by itself.

    Attributes:
        gamma: γ, the factors, of the shape of what comes in.
        beta: β, what is added, likewise.

    Example:
        >>> import jax, nnjax
        >>> net = nnjax.Network(4, [nnjax.LayerNorm(), nnjax.Dense(2)], nnjax.quadratic)
        >>> nnjax.init(net, jax.random.key(0))[0].gamma.tolist()
        [1.0, 1.0, 1.0, 1.0]
    """

    gamma: jax.Array
    beta: jax.Array


@dataclass(frozen=True)
class LayerNorm(Layer):
    """z = γ ⊙ u + β with u = (a − μ) / s, the features a of one example brought to one scale.

    μ = (1/K) Σ_k a_k and s = √((1/K) Σ_k (a_k − μ)² + ε), over all K features of the example, all
    places and channels of an image. γ starts at 1, β at 0.

    Backward, with δ = ∂C/∂z: every feature moves μ and s, so that of h = γ ⊙ δ the part that
    shifts all features and the part that scales them are taken out:

        BP2  ∂C/∂a = (h − (1/K) Σ_k h_k − u (1/K) Σ_k h_k u_k) / s
        BP3  ∂C/∂β = δ
        BP4  ∂C/∂γ = δ ⊙ u

    Statistics are computed in float32 at least.

    Args:
        activation: what follows z.
        epsilon: ε, a finite number of at least 0.

    Raises:
        ValueError: if epsilon is negative or not finite, or an example has a single feature.
        TypeError: if the activation is not one of nnjax.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> layer = nnjax.LayerNorm(epsilon=0.0)
        >>> params = nnjax.layers.ScaleShift(jnp.ones(2), jnp.zeros(2))
        >>> layer.forward(params, jnp.array([3.0, 7.0]), None)[0].tolist()
        [-1.0, 1.0]

    Reference: Ba, Kiros and Hinton 2016, arXiv:1607.06450. γ and β have an entry per feature, as in
    the paper and in PyTorch's LayerNorm(in_shape); differs from Flax, which takes the mean over
    the channels alone unless it is told otherwise.
    """

    name = "layernorm"
    pattern = words.FUNCTION

    activation: Activation = identity
    epsilon: float = 1e-5

    def __post_init__(self):
        require_activation(self.activation, "activation of LayerNorm")
        expected = "a small number of at least 0"
        require_number(self.epsilon, "epsilon of LayerNorm", expected, 0, 1e30)

    def out_shape(self, in_shape):
        if math.prod(in_shape) < 2:
            raise ValueError(
                f"LayerNorm takes examples of at least 2 features, but what comes in has the shape "
                f"{in_shape}: a single one minus its mean is always 0"
            )
        return in_shape

    def init(self, key, in_shape, dtype=float):
        return ScaleShift(jnp.ones(in_shape, dtype), jnp.zeros(in_shape, dtype))

    def forward(self, params, a, key):
        wide = a.astype(at_least_float32(a.dtype))
        centred = wide - jnp.mean(wide)
        inverse = 1 / jnp.sqrt(jnp.mean(centred**2) + self.epsilon)
        u = (centred * inverse).astype(a.dtype)
        return params.gamma * u + params.beta, (u, inverse)

    def pull_back(self, params, cache, delta):
        u, inverse = cache
        h, wide = ((v.astype(inverse.dtype)) for v in (params.gamma * delta, u))
        g = inverse * (h - jnp.mean(h) - wide * jnp.mean(h * wide))
        return g.astype(delta.dtype)

    def gradients(self, cache, delta):
        u, inverse = cache
        delta, u = (v.astype(inverse.dtype) for v in (delta, u))
        rows = tuple(range(inverse.ndim))  # none for one example, the first axis of a batch
        return ScaleShift(
            gamma=jnp.sum(delta * u, rows),  #   BP4
            beta=jnp.sum(delta, rows),  #        BP3
        )

    @classmethod
    def parse(cls, parts, activation, initializer):
        return cls(words.activation(parts[0], identity))

    def word(self):
        return self.name + ("" if self.activation == identity else words.function(self.activation))
