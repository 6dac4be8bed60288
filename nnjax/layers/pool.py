"""Pooling: every window of the image gives one number a channel. No parameters.

Windows may overlap (stride < size) or leave gaps; those that would stick out of the image are
dropped. Backward, δ = ∂C/∂z of a window goes to the window's inputs, and an input that lies in
several windows gets the sum; an input in none gets 0.

All take

    size: of the windows: one number, or (height, width), positive integers
    stride: from one window to the next, likewise; None: the size, so that windows tile
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.activations import Activation, identity
from nnjax.layers import words
from nnjax.layers.base import Layer
from nnjax.layers.windows import Pair, count, fold, pair, require_image, shifted, spread

__all__ = ["L2Pool", "MaxPool", "MaxPoolThen", "MeanPool"]


@dataclass(frozen=True)
class _Pool(Layer):
    pattern = rf"{words.PAIR}(?:s{words.PAIR})?"

    size: int | Pair
    stride: int | Pair | None = None

    def __post_init__(self):
        name = type(self).__name__
        size = pair(self.size, f"size of {name}")
        stride = size if self.stride is None else pair(self.stride, f"stride of {name}")
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "stride", stride)

    def out_shape(self, in_shape):
        name = type(self).__name__
        require_image(in_shape, name)
        height, width, channels = in_shape
        (kh, kw), (sh, sw) = self.windows
        if kh > height or kw > width:
            raise ValueError(
                f"{name} of size {kh}x{kw} leaves nothing of an image of {height}x{width}; take a "
                "smaller size or fewer pooling layers"
            )
        return (count(height, kh, sh), count(width, kw, sw), channels)

    @property
    def windows(self) -> tuple[Pair, Pair]:
        """Size and stride, as pairs."""
        return cast(Pair, self.size), cast(Pair, self.stride)

    @classmethod
    def parse(cls, parts, activation, initializer):
        size, stride = parts
        return cls(words.numbers(size), words.numbers(stride) if stride else None)

    def word(self):
        size, stride = self.windows
        step = "" if stride == size else f"s{words.pair_text(stride)}"
        return f"{self.name}{words.pair_text(size)}{step}"


@dataclass(frozen=True)
class MaxPool(_Pool):
    """The largest input of every window: z = max_i a_i.

    Backward: z moves with the winner and with no other input, so δ is routed to the winner: to
    the row of the window that has it, and within the row to its column.
    Ties go to the first of the largest, row by row, as in PyTorch and in the gradient of
    `jax.lax.reduce_window`; differs from `jax.numpy.max`, whose gradient is shared among them.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> a = jnp.array([[1.0, 3.0], [3.0, 2.0]])[..., None]
        >>> z, cache = nnjax.MaxPool(2).forward((), a, None)
        >>> z.ravel().tolist()
        [3.0]
        >>> nnjax.MaxPool(2).pull_back((), cache, jnp.ones((1, 1, 1))).ravel().tolist()
        [0.0, 1.0, 0.0, 0.0]
    """

    name = "pool"

    def forward(self, params, a, key):
        self.out_shape(a.shape)
        (kh, kw), (sh, sw) = self.windows
        lowest = np.array(_lowest(a.dtype), a.dtype)
        z = jax.lax.reduce_window(a, lowest, jax.lax.max, (kh, kw, 1), (sh, sw, 1), "VALID")
        return z, (a, z)

    def pull_back(self, params, cache, delta):
        a, z = cache
        (kh, kw), (sh, sw) = self.windows
        rows = functools.reduce(jnp.maximum, shifted(a, -2, kw, sw))  # z is the largest of these
        return _route(_route(delta, z, rows, -3, kh, sh), rows, a, -2, kw, sw)


@dataclass(frozen=True)
class MaxPoolThen(MaxPool):
    """Max-pooling, then an activation function: see `Network.pooling_first`.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> from nnjax.layers.pool import MaxPoolThen
        >>> MaxPoolThen(2, activation=nnjax.relu).activation
        ReLU()
    """

    name = "pool"

    activation: Activation = identity


@dataclass(frozen=True)
class MeanPool(_Pool):
    """The mean of every window's m inputs: z = Σ_i a_i / m.

    Backward: ∂z/∂a_i = 1/m, so δ/m is spread over the window.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> a = jnp.arange(4.0).reshape(2, 2, 1)
        >>> nnjax.MeanPool(2).forward((), a, None)[0].ravel().tolist()
        [1.5]
    """

    name = "meanpool"

    def forward(self, params, a, key):
        self.out_shape(a.shape)
        size, _ = self.windows
        return _sums(a, *self.windows) / math.prod(size), a

    def pull_back(self, params, cache, delta):
        size, stride = self.windows
        return spread(delta / math.prod(size), cache.shape, size, stride)


@dataclass(frozen=True)
class L2Pool(_Pool):
    """The Euclidean length of every window: z = √(Σ_i a_i²), chapter 6 of the book.

    Computed as s √(Σ_i (a_i / s)²) with s = max_i |a_i|, so that no square overflows.
    Backward: ∂z/∂a_i = a_i / z, so a window spreads δ / z and every input multiplies it by
    itself: ∂C/∂a = a ⊙ spread(δ / z). A window of zeros, where the length has a kink, gives 0.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> a = jnp.array([3.0, 4.0, 0.0, 0.0]).reshape(2, 2, 1)
        >>> z, cache = nnjax.L2Pool(2).forward((), a, None)
        >>> z.ravel().tolist()
        [5.0]
    """

    name = "l2pool"

    def forward(self, params, a, key):
        self.out_shape(a.shape)
        (kh, kw), (sh, sw) = self.windows
        inputs = [i for row in shifted(a, -3, kh, sh) for i in shifted(row, -2, kw, sw)]
        largest = functools.reduce(jnp.maximum, [jnp.abs(i) for i in inputs])
        usable = jnp.isfinite(largest) & (largest > 0)
        # z = s √… does not depend on s, nor does its derivative.
        s = jax.lax.stop_gradient(jnp.where(usable, largest, jnp.ones_like(largest)))
        squares = functools.reduce(jnp.add, [(i / s) ** 2 for i in inputs])
        nothing = squares == 0
        one = jnp.ones_like(squares)  # keeps √ away from 0, where its own derivative is infinite
        z = jnp.where(nothing, 0 * squares, s * jnp.sqrt(jnp.where(nothing, one, squares)))
        return z, (a, z)

    def pull_back(self, params, cache, delta):
        a, z = cache
        size, stride = self.windows
        nothing = z == 0
        share = jnp.where(
            nothing, jnp.zeros_like(z), delta / jnp.where(nothing, jnp.ones_like(z), z)
        )
        return a * spread(share, a.shape, size, stride)


def _lowest(dtype):
    """Return what is not larger than any number of this dtype."""
    if jnp.issubdtype(dtype, jnp.integer):
        return jnp.iinfo(dtype).min
    return -np.inf if jnp.issubdtype(dtype, jnp.floating) else False


def _route(delta, z, a, axis, size, stride):
    """Return δ of the windows along one axis, whose maxima are z, at the winner of each in a."""
    taken = jnp.zeros(z.shape, bool)
    number = z == z  # where z is NaN, the first NaN wins; else the first that is not less than z
    routed = []
    for candidate in shifted(a, axis, size, stride):
        wins = ~(candidate < z) & (number | (candidate != candidate)) & ~taken
        taken |= wins
        routed.append(jnp.where(wins, delta, jnp.zeros_like(delta)))
    return fold(routed, axis, a.shape[axis], stride)


def _sums(a, size, stride):
    """Return the sum of every window."""
    (kh, kw), (sh, sw) = size, stride
    rows = functools.reduce(jnp.add, shifted(a, -2, kw, sw))
    return functools.reduce(jnp.add, shifted(rows, -3, kh, sh))
