"""Checks of arguments, each raising one sentence: what came, what was expected, what to do.

They look at shapes and dtypes, which are there under jit too, and at values only where arrays are
concrete.
"""

from __future__ import annotations

import numbers
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from nnjax.activations import Activation

if TYPE_CHECKING:
    from nnjax.network import Network

__all__ = [
    "check_backprop_of",
    "check_batch",
    "check_key",
    "check_params",
    "require_activation",
    "require_number",
    "require_size",
]


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


def require_activation(value: Any, name: str) -> Activation:
    """Return `value` if it is an activation function of nnjax, else raise TypeError.

    Example:
        >>> import nnjax
        >>> nnjax.checks.require_activation(nnjax.tanh, "activation of Dense")
        Tanh()
    """
    if not isinstance(value, Activation):
        raise TypeError(
            f"{name} is {value!r}; expected an activation of nnjax.activations, such as "
            "nnjax.sigmoid, or your own subclass of nnjax.activations.Elementwise"
        )
    return value


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


@lru_cache(maxsize=256)
def _expected(net: Network) -> tuple[Any, list[tuple[str, tuple[int, ...]]]]:
    """Return the tree structure of the network's parameters and each leaf's path and shape."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = tuple(
        jax.eval_shape(lambda k, layer=layer, shape=shape: layer.init(k, shape), key)
        for layer, shape in zip(net.layers, net.shapes, strict=False)
    )
    leaves, structure = jax.tree.flatten_with_path(params)
    return structure, [(jax.tree_util.keystr(path), leaf.shape) for path, leaf in leaves]


def check_params(net: Network, params: Any, name: str = "params") -> None:
    """Raise ValueError if `params` are not the parameters of `net`; say what differs.

    Example:
        >>> import jax, nnjax
        >>> params = nnjax.init(nnjax.mlp([3, 2]), jax.random.key(0))
        >>> nnjax.checks.check_params(nnjax.mlp([4, 2]), params)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: params[0].w has shape (2, 3), but this network has (2, 4) there; ...
    """
    structure, expected = _expected(net)
    leaves, came = jax.tree.flatten(params)
    if came != structure:
        raise ValueError(
            f"{name} has the structure {came}, but this network has {structure}; start from "
            "nnjax.init(net, key)"
        )
    for (path, shape), leaf in zip(expected, leaves, strict=True):
        if jnp.shape(leaf) != shape:
            raise ValueError(
                f"{name}{path} has shape {jnp.shape(leaf)}, but this network has {shape} there; "
                "start from nnjax.init(net, key)"
            )


def check_batch(
    net: Network, params: Any, x: Any, y: Any = None, key: Any = None
) -> tuple[jax.Array, Any]:
    """Return x and y as arrays if they and the parameters fit the network, else raise.

    Args:
        net: the network.
        params: its parameters.
        x: (n, *input_shape); images (n, h, w, c) too where the network takes vectors.
        y: None, (n, n_out) targets or (n,) integer classes; concrete ones are looked at.
        key: None or one random key.

    Raises:
        ValueError: if a shape does not fit, or a class is not in 0 … n_out − 1.
        TypeError: if a dtype is no number.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> nnjax.checks.check_batch(net, params, jnp.ones((5, 4)))
        Traceback (most recent call last):
        ...
        ValueError: x has shape (5, 4); this network takes (n, 3)
    """
    check_params(net, params)
    if key is not None:
        check_key(key)
    x = _numbers(x, "x")
    takes = ", ".join(["n", *map(str, net.input_shape)])
    flat = len(net.input_shape) == 1 and x.ndim > 2
    shape = (int(np.prod(x.shape[1:])),) if flat else x.shape[1:]
    if x.ndim == 0 or shape != net.input_shape:
        single = x.shape == net.input_shape
        hint = "; for a single example give x[None]" if single else ""
        raise ValueError(f"x has shape {x.shape}; this network takes ({takes}){hint}")
    if x.shape[0] == 0:
        raise ValueError("x has no examples; expected at least one")
    if y is None:
        return x, None
    y, n = _numbers(y, "y"), x.shape[0]
    classes = y.ndim == 1 and jnp.issubdtype(y.dtype, jnp.integer)
    if y.shape[:1] != (n,):
        raise ValueError(f"y has shape {y.shape}, but x has {n} examples; expected as many")
    if not classes and y.shape != (n, net.n_out):
        raise ValueError(
            f"y has shape {y.shape} and dtype {y.dtype}; expected ({n}, {net.n_out}) targets, one "
            f"column an output of this network, or ({n},) integer classes"
        )
    if classes and not isinstance(y, jax.core.Tracer):
        host = np.asarray(y)
        low, high = host.min(), host.max()
        if low < 0 or high >= net.n_out:
            raise ValueError(
                f"y holds the class {low if low < 0 else high}; this network has {net.n_out} "
                f"outputs, so classes are 0 to {net.n_out - 1}"
            )
    return x, y


def check_backprop_of(net: Network, bp: Any) -> int:
    """Return n, the number of examples of `bp`, if `net` made it, else raise ValueError.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> bp = nnjax.backprop(net, params, jnp.ones((5, 3)), jnp.ones((5, 2)))
        >>> nnjax.checks.check_backprop_of(nnjax.mlp([3, 4, 2]), bp)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: bp is of another network: its activations have the shapes (3,), (2,) an \
example, this network has (3,), (4,), (2,); ...
    """
    shapes = tuple(jnp.shape(a)[1:] for a in bp.activations)
    if shapes != net.shapes:
        came, expected = (", ".join(map(str, s)) for s in (shapes, net.shapes))
        raise ValueError(
            f"bp is of another network: its activations have the shapes {came} an example, this "
            f"network has {expected}; give the bp of nnjax.backprop(net, params, x, y)"
        )
    return bp.activations[0].shape[0]


def _numbers(array: Any, name: str) -> Any:
    if not isinstance(array, jax.Array | np.ndarray):
        try:
            array = np.asarray(array)
        except ValueError:
            raise ValueError(f"{name} is no rectangular array: its rows differ in length") from None
    dtype = array.dtype
    if not (jnp.issubdtype(dtype, jnp.number) or dtype == np.bool_) or dtype.kind == "c":
        raise TypeError(f"{name} has dtype {dtype}; expected real numbers")
    return jnp.asarray(array)
