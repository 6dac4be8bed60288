"""Initializers: how weights and biases start.

n_in is the number of inputs of one neuron: the layer before for a dense layer, channels times
kernel area for a convolution. Arrays come with the outputs on the first axis and the input
channels on the last: (n_out, n_in), or (filters, height, width, channels).

Numbers are drawn in one row and then arranged. They are the same, as each depends on its place in
the row alone; for an array of four axes XLA would compile for several times as long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Protocol

import jax
import jax.numpy as jnp
from jax.core import Tracer

from nnjax.checks import check_key, require_size

__all__ = [
    "INITIALIZERS",
    "Constant",
    "Initializer",
    "Normal",
    "Rule",
    "VarianceScaling",
    "constant",
    "default",
    "draw",
    "glorot",
    "he",
    "large",
    "require_initializer",
    "split",
    "zeros",
]


class Rule(Protocol):
    """How one array starts: called as `rule(key, shape, dtype)`, it returns the array."""

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array: ...


def draw(rule: Rule, key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
    """Return `rule(key, shape, dtype)`, by programs that many shapes share.

    Example:
        >>> import jax, nnjax
        >>> draw = nnjax.initializers.draw
        >>> draw(nnjax.initializers.Normal(0.1), jax.random.key(0), (3, 2), float).shape
        (3, 2)
    """
    shared = type(rule) in (Normal, VarianceScaling)
    return rule(key, shape, dtype) if shared else _as_one_program(rule, key, shape, dtype)


def split(key: jax.Array, n: int) -> tuple[jax.Array, ...]:
    """Return `jax.random.split(key, n)` as a tuple, by a program that many n share.

    Raises:
        TypeError, ValueError: if key is not a random key, or n not at least 1.

    Example:
        >>> import jax, nnjax
        >>> first, second = nnjax.initializers.split(jax.random.key(0), 2)
    """
    check_key(key)
    require_size(n, "n")
    return _keys(key, _padded(key, n, 2))[:n]


def _padded(key, n, least):
    """Return n, or a greater size that other n share, where it starts with the same n numbers.

    Random numbers take long to compile, 0.3 s for each size. Those of JAX's usual keys depend on
    the key and on their place alone. Within a program of the caller's there is nothing to share.
    """
    own = jax.config.jax_threefry_partitionable and jax.random.key_impl(key) == "threefry2x32"
    if isinstance(key, Tracer) or not own:
        return n
    return max(least, 1 << (int(n) - 1).bit_length())


def _drawn(rule, key, shape, dtype):
    row = _row(rule.distribution, key, _padded(key, math.prod(shape), 1024), dtype)
    return _scaled(rule, row, shape)


@partial(jax.jit, static_argnums=(0, 2, 3))
def _row(distribution, key, n, dtype):
    if distribution == "normal":
        return jax.random.normal(key, (n,), dtype)
    return jax.random.uniform(key, (n,), dtype, -1)


@partial(jax.jit, static_argnums=1)
def _keys(key, n):
    return tuple(jax.random.split(key, n))


@partial(jax.jit, static_argnums=(0, 2))
def _scaled(rule, row, shape):
    return row[: math.prod(shape)].reshape(shape) * rule._factor(shape, row.dtype)


@partial(jax.jit, static_argnums=(0, 2, 3))
def _as_one_program(rule, key, shape, dtype):
    return rule(key, shape, dtype)


@dataclass(frozen=True)
class Normal:
    """N(0, std²), as by `jax.nn.initializers.normal`.

    Example:
        >>> import jax, nnjax
        >>> nnjax.initializers.Normal(0.1)(jax.random.key(0), (3, 2), float).shape
        (3, 2)
    """

    std: float = 1.0

    distribution: ClassVar = "normal"

    def __call__(self, key, shape, dtype):
        return _drawn(self, key, shape, dtype)

    def _factor(self, shape, dtype):
        """Return what numbers of N(0, 1) are multiplied by."""
        return jnp.asarray(self.std, dtype)


@dataclass(frozen=True)
class VarianceScaling:
    """Variance scale / n, n by `mode`, as by `jax.nn.initializers.variance_scaling`.

    Args:
        scale: of the variance.
        mode: n is that of the inputs ("fan_in"), of the outputs ("fan_out"), or their mean
            ("fan_avg"), of one neuron.
        distribution: "normal", or "uniform" between −√(3 scale / n) and √(3 scale / n).

    Raises:
        ValueError: if the mode or the distribution is another one, or the array has one axis.

    Example:
        >>> import jax, nnjax
        >>> rule = nnjax.initializers.VarianceScaling(1.0, "fan_in", "normal")
        >>> rule(jax.random.key(0), (30, 784), float).shape
        (30, 784)
    """

    scale: float
    mode: Literal["fan_in", "fan_out", "fan_avg"]
    distribution: Literal["normal", "uniform"]

    def __post_init__(self):
        choices = {"mode": ("fan_in", "fan_out", "fan_avg"), "distribution": ("normal", "uniform")}
        for name, known in choices.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(
                    f"{name} of VarianceScaling is {value!r}; expected one of {', '.join(known)}"
                )

    def __call__(self, key, shape, dtype):
        return _drawn(self, key, shape, dtype)

    def _factor(self, shape, dtype):
        """Return what numbers of N(0, 1), or between −1 and 1, are multiplied by."""
        if len(shape) < 2:
            raise ValueError(f"VarianceScaling is for weights (n_out, ..., n_in), not for {shape}")
        n_in, n_out = math.prod(shape[1:]), math.prod(shape[:-1])
        n = {"fan_in": n_in, "fan_out": n_out, "fan_avg": (n_in + n_out) / 2}[self.mode]
        variance = jnp.asarray(self.scale / n, dtype)
        return jnp.sqrt(variance if self.distribution == "normal" else 3 * variance)


@dataclass(frozen=True)
class Constant:
    """The same value everywhere, by `jax.nn.initializers.constant`.

    Example:
        >>> import jax, nnjax
        >>> nnjax.initializers.Constant(0.5)(jax.random.key(0), (2,), float).tolist()
        [0.5, 0.5]
    """

    value: float = 0.0

    def __call__(self, key, shape, dtype):
        return jax.nn.initializers.constant(self.value)(key, shape, dtype)


@dataclass(frozen=True)
class Initializer:
    """How a layer starts: one rule for its weights, one for its biases.

    Example:
        >>> import jax, nnjax
        >>> start = nnjax.initializers.Initializer(
        ...     nnjax.initializers.Normal(0.01), nnjax.initializers.Constant(0.5)
        ... )
        >>> net = nnjax.mlp([4, 3, 2], initializer=start)
        >>> nnjax.init(net, jax.random.key(0))[0].b.tolist()
        [0.5, 0.5, 0.5]
    """

    weights: Rule
    biases: Rule


default = Initializer(VarianceScaling(1.0, "fan_in", "normal"), Normal(1.0))
"""Weights randn / √n_in, biases randn: the book's chapter 3."""

large = Initializer(Normal(1.0), Normal(1.0))
"""Weights and biases randn: the book's chapter 1."""

he = Initializer(VarianceScaling(2.0, "fan_in", "normal"), Constant(0.0))
"""Weights randn · √(2 / n_in), biases 0 (He et al. 2015), for ReLU."""

glorot = Initializer(VarianceScaling(1.0, "fan_avg", "uniform"), Constant(0.0))
"""Weights uniform, variance 2 / (n_in + n_out), biases 0 (Glorot and Bengio 2010)."""

zeros = Initializer(Constant(0.0), Constant(0.0))
"""Everything 0: right for an output layer; hidden neurons would all stay alike."""


def constant(value: float) -> Initializer:
    """Return the initializer that sets every weight and bias to `value`.

    Example:
        >>> import jax, nnjax
        >>> net = nnjax.mlp([2, 1], initializer=nnjax.initializers.constant(0.5))
        >>> nnjax.init(net, jax.random.key(0))[0].w.tolist()
        [[0.5, 0.5]]
    """
    return Initializer(Constant(value), Constant(value))


INITIALIZERS: dict[str, Initializer] = {
    "default": default,
    "large": large,
    "he": he,
    "glorot": glorot,
    "zeros": zeros,
}
"""The initializers by name."""


def require_initializer(value: Any, name: str) -> Initializer:
    """Return `value` if it is an initializer, else raise TypeError.

    Example:
        >>> import nnjax
        >>> nnjax.initializers.require_initializer("he", "initializer of Dense")
        Traceback (most recent call last):
        ...
        TypeError: initializer of Dense is 'he'; expected an Initializer of nnjax.initializers, \
such as nnjax.initializers.he
    """
    if not isinstance(value, Initializer):
        like = value if isinstance(value, str) and value in INITIALIZERS else "default"
        raise TypeError(
            f"{name} is {value!r}; expected an Initializer of nnjax.initializers, such as "
            f"nnjax.initializers.{like}"
        )
    return value
