"""Dropout: in training, every input is switched off at random."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from nnjax.checks import plain_number, require_number
from nnjax.layers.base import Layer

__all__ = ["Dropout"]


@dataclass(frozen=True)
class Dropout(Layer):
    """z = a m / (1 − rate), where m is 0 with probability `rate`, else 1, drawn for each input.

    The division keeps the mean of z at a, so inference, where z = a, needs no rescaling (the book
    halves the weights instead). Backward: ∂z/∂a = m / (1 − rate), so the same mask is laid on δ.

    Args:
        rate: probability to DROP an input, 0 ≤ rate < 1. Differs from `jax.example_libraries`
            stax, whose rate is the probability to keep.

    Raises:
        ValueError: if the rate is not in [0, 1).

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> layer, a = nnjax.Dropout(0.5), jnp.ones(8)
        >>> sorted(set(layer.forward((), a, jax.random.key(0))[0].tolist()))
        [0.0, 2.0]
        >>> layer.forward((), a, None)[0].tolist() == a.tolist()
        True

    Reference: Hinton et al. 2012, arXiv:1207.0580; Nielsen 2015, chapter 3.
    """

    name = "dropout"
    pattern = r"(\d*\.?\d+(?:e-\d+)?)"
    random = True

    rate: float

    def __post_init__(self):
        expected = "the probability to drop an input, 0 <= rate < 1"
        require_number(self.rate, "rate of Dropout", expected, 0, 1)
        if self.rate == 1:
            raise ValueError(f"rate of Dropout is {self.rate!r}; expected {expected}")
        object.__setattr__(self, "rate", plain_number(self.rate))

    def out_shape(self, in_shape):
        return in_shape

    def forward(self, params, a, key):
        if key is None:
            return a, None
        kept = jax.random.bernoulli(key, 1.0 - self.rate, a.shape)
        return self._masked(kept, a), kept

    def pull_back(self, params, cache, delta):
        return delta if cache is None else self._masked(cache, delta)

    def _masked(self, kept, a):
        return jnp.where(kept, a / (1.0 - self.rate), jnp.zeros_like(a))

    @classmethod
    def parse(cls, parts, activation, initializer):
        return cls(float(parts[0]))

    def word(self):
        return f"{self.name}{self.rate}"
