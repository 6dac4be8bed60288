"""Weights of classes: how much the examples of each class count in training.

An example x of class k counts w_x = class_weight[k] times: C = (1/n) Σ_x w_x C_x. Its error δ^L is
w_x times as large (`nnjax.backprop`), and so is all that it adds to the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from nnjax.network import Network

__all__ = ["ClassWeight", "example_weights", "require_class_weight", "weights_of_classes"]

ClassWeight: TypeAlias = Literal["balanced"] | Mapping[int, float] | Sequence[float]
"""One weight for each class, or some by class and 1 for the others, or "balanced"."""


def require_class_weight(value: Any) -> Any:
    """Return weights of classes in a hashable form, None if there are none; else raise ValueError.

    Example:
        >>> from nnjax.training.class_weights import require_class_weight
        >>> require_class_weight({2: 5.0})
        (1.0, 1.0, 5.0)
        >>> require_class_weight("even")
        Traceback (most recent call last):
        ...
        ValueError: class_weight is 'even'; expected 'balanced', a weight from 0 to 1e30 for each \
class, or weights by class such as {1: 5.0}
    """
    if value is None or (isinstance(value, str) and value == "balanced"):
        return value
    weights = np.asarray(value) if isinstance(value, jax.Array) else value
    if isinstance(value, Mapping) and value and all(map(_is_class, value)):
        weights = [value.get(k, 1.0) for k in range(max(value) + 1)]
    listed = hasattr(weights, "__len__") and not isinstance(weights, str | Mapping)
    listed = listed and getattr(weights, "ndim", 1) == 1
    if not listed or not len(weights) or not all(map(_is_weight, weights)):
        raise ValueError(
            f"class_weight is {value!r}; expected 'balanced', a weight from 0 to 1e30 for each "
            "class, or weights by class such as {1: 5.0}"
        )
    return tuple(map(float, weights))


def _is_class(value: Any) -> bool:
    return isinstance(value, Integral) and 0 <= int(value) < 10_000


def _is_weight(value: Any) -> bool:
    number: Any = value
    real = isinstance(value, Real) and not isinstance(value, bool)
    return real and 0 <= number <= 1e30  # what float32 holds, and what is added up in it


def weights_of_classes(net: Network, class_weight: Any, y: ArrayLike | None) -> jax.Array | None:
    """Return how much an example of each class counts, (m,); None where all count the same.

    "balanced" gives each class the same weight in total: n / (m n_k) for each of the n_k examples
    of class k, of m classes that occur.

    Args:
        net: the network; with a single output the classes are 0 and 1.
        class_weight: what `require_class_weight` returned.
        y: the targets of all training examples, as `example_weights` takes them; None where they
            are not known, as of a stream.

    Raises:
        ValueError: if there are more weights than classes, or the classes cannot be counted.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> from nnjax.training.class_weights import weights_of_classes
        >>> weights_of_classes(nnjax.mlp([4, 2]), "balanced", jnp.array([0, 0, 0, 1])).tolist()
        [0.6666666865348816, 2.0]
    """
    if class_weight is None:
        return None
    m = max(net.n_out, 2)
    if class_weight == "balanced":
        if y is None:
            raise ValueError(
                "class_weight is 'balanced', which counts the classes of all training examples, "
                "and a stream does not tell them; give weights by class such as {1: 5.0}"
            )
        counts = jnp.sum(_shares(net, y), axis=0)
        occurring = jnp.sum(counts > 0).astype(counts.dtype)
        return np.shape(y)[0] / (occurring * jnp.where(counts > 0, counts, jnp.ones_like(counts)))
    if len(class_weight) > m:
        raise ValueError(
            f"class_weight holds a weight for class {len(class_weight) - 1}; this network has "
            f"the classes 0 to {m - 1}"
        )
    return jnp.asarray(class_weight + (1.0,) * (m - len(class_weight)), jnp.result_type(float))


def example_weights(net: Network, by_class: jax.Array, y: ArrayLike) -> jax.Array:
    """Return how much each example counts, (n,).

    Args:
        net: the network.
        by_class: what `weights_of_classes` returned.
        y: (n,) classes, or (n, n_out) one-hot or soft targets, for which the weights are averaged.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> from nnjax.training.class_weights import example_weights
        >>> example_weights(nnjax.mlp([4, 2]), jnp.array([1.0, 3.0]), jnp.array([0, 1])).tolist()
        [1.0, 3.0]
    """
    return _shares(net, y) @ by_class


def _shares(net: Network, y: ArrayLike) -> jax.Array:
    """How much of each class each target is, (n, m)."""
    y, dtype = jnp.asarray(y), jnp.result_type(float)
    if y.ndim == 2 and net.n_out == 1:
        return jnp.concatenate([1 - y.astype(dtype), y.astype(dtype)], axis=1)
    return y.astype(dtype) if y.ndim == 2 else jax.nn.one_hot(y, max(net.n_out, 2), dtype=dtype)
