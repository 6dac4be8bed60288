"""Flattening: from an image to a vector."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nnjax.layers.base import Layer

__all__ = ["Flatten"]


@dataclass(frozen=True)
class Flatten(Layer):
    """The image as a vector, row by row, channels fastest. Backward: the same numbers, reshaped.

    Example:
        >>> import nnjax
        >>> nnjax.Flatten().out_shape((4, 4, 40))
        (640,)
    """

    name = "flatten"

    def out_shape(self, in_shape):
        return (math.prod(in_shape),)

    def forward(self, params, a, key):
        return a.reshape(-1), a

    def pull_back(self, params, cache, delta):
        return delta.reshape(cache.shape)  # of the cache, the shape alone is used

    def word(self):
        return self.name
