"""Checks of arguments, each raising one sentence: what came, what was expected, what to do.

They look at shapes and dtypes, which are there under jit too, and at values only where arrays are
concrete.
"""

from __future__ import annotations

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["check_key", "require_number", "require_size"]


def require_size(value: Any, name: str, least: int = 1) -> int:
    """Return `value` as an int if it is an integer of at least `least`, else raise ValueError.

    Example:
        >>> from nnjax.checks import require_size
        >>> require_size(0, "batch_size")
        Traceback (most recent call last):
        ...
        ValueError: batch_size is 0; expected an integer of at least 1
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{name} is {value!r}; expected an integer of at least {least}")
    return int(value)


def require_number(value: Any, name: str, expected: str, low: float, high: float) -> float:
    """Return `value` if it is a real number with low <= value <= high, else raise ValueError.

    Example:
        >>> from nnjax.checks import require_number
        >>> require_number(-1.0, "eta", "a rate of at least 0", 0, float("inf"))
        Traceback (most recent call last):
        ...
        ValueError: eta is -1.0; expected a rate of at least 0
    """
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not low <= float(value) <= high:
        raise ValueError(f"{name} is {value!r}; expected {expected}")
    return float(value)


def check_key(key: Any) -> jax.Array:
    """Return `key` if it is one JAX random key, typed or raw, else raise TypeError.

    Example:
        >>> from nnjax.checks import check_key
        >>> check_key(0)
        Traceback (most recent call last):
        ...
        TypeError: key is 0; expected a random key such as jax.random.key(0)
    """
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    if not typed and not (dtype == np.uint32 and shape in ((2,), (4,))):
        came = repr(key) if shape is None else f"an array of shape {shape} and dtype {dtype}"
        raise TypeError(f"key is {came}; expected a random key such as jax.random.key(0)")
    return key
