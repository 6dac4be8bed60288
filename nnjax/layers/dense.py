"""The fully connected layer."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from nnjax.activations import Activation, require_activation, sigmoid
from nnjax.checks import require_size
from nnjax.initializers import Initializer, default, require_initializer
from nnjax.layers import words
from nnjax.layers.base import AffineLayer

__all__ = ["Dense"]


@dataclass(frozen=True)
class Dense(AffineLayer):
    """Every neuron sees every input: z_j = Σ_k w_jk a_k + b_j (eq. 25 of the book).

    Backward, with δ_j = ∂C/∂z_j: ∂z_j/∂a_k = w_jk gives ∂C/∂a = wᵀδ (BP2); ∂z_j/∂b_j = 1 gives
    BP3; ∂z_j/∂w_jk = a_k gives BP4.

    Args:
        size: n_out, the number of neurons.
        activation: what follows z.
        initializer: how w (n_out, n_in) and b (n_out,) start.

    Raises:
        ValueError: if the size is not a positive integer, or the input is not a vector.
        TypeError: if the activation or the initializer is not one of nnjax.

    Example:
        >>> import nnjax
        >>> nnjax.Dense(30, nnjax.tanh).out_shape((784,))
        (30,)
    """

    name = "dense"
    pattern = rf"(\d+){words.FUNCTION}"

    size: int
    activation: Activation = sigmoid
    initializer: Initializer = default

    def __post_init__(self):
        require_size(self.size, "size of Dense")
        require_activation(self.activation, "activation of Dense")
        require_initializer(self.initializer, "initializer of Dense")

    def out_shape(self, in_shape):
        if len(in_shape) != 1:
            raise ValueError(
                f"Dense takes a vector (n_in,), but what comes in has the shape {in_shape}; "
                "put Flatten() before it"
            )
        return (self.size,)

    def w_shape(self, in_shape):
        return (self.size, *in_shape)

    def forward(self, params, a, key):
        return params.w @ a + params.b, a

    def inputs(self, cache):
        return jnp.expand_dims(cache, -2)

    def pull_back(self, params, cache, delta):
        return params.w.T @ delta

    @classmethod
    def parse(cls, parts, activation, initializer):
        size, function = parts
        return cls(int(size), words.activation(function, activation), initializer)

    def word(self):
        return f"{self.name}{self.size}{words.function(self.activation)}"
