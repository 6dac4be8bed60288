"""Meshes of devices: functions that compute wherever their arrays are sharded.

Under `jax.set_mesh` with Explicit axes, the default of `jax.make_mesh`, an array carries its
sharding in its type, and an operation whose result could be laid out in several ways is refused:
BP3 and BP4 sum over the examples, which lie on different devices. `automatic` leaves these choices
to the compiler inside one function and says only how its results lie. Without a mesh, with Auto
axes and inside `jax.shard_map` it changes nothing.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

__all__ = ["automatic", "like_examples", "like_params", "replicated", "spec", "varying_alike"]


def spec(array: jax.Array) -> PartitionSpec:
    """Return how an array is sharded over the mesh in use, one entry per axis.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.sharding import spec
        >>> tuple(spec(jnp.ones((3, 2))))
        (None, None)
    """
    return jax.typeof(array).sharding.spec


def replicated(*args: Any) -> PartitionSpec:
    """Return the layout of results that every device holds as a whole.

    Example:
        >>> from nnjax.sharding import replicated
        >>> tuple(replicated())
        ()
    """
    return PartitionSpec()


def like_examples(net: Any, params: Any, examples: Any, *rest: Any) -> PartitionSpec:
    """Return the layout of results with one row per example: sharded as the examples are.

    Args:
        net, params: unused; the arguments of most functions begin with them.
        examples: x (n, ...), or a backward pass of n examples.
        *rest: unused.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.sharding import like_examples
        >>> tuple(like_examples(None, None, jnp.ones((3, 2))))
        (None,)
    """
    x = examples.activations[0] if hasattr(examples, "activations") else examples
    return PartitionSpec(spec(x)[0])


def like_params(net: Any, params: Any, *rest: Any) -> Any:
    """Return the layout of results with the structure of the parameters: sharded as they are.

    Example:
        >>> import jax, nnjax
        >>> from nnjax.sharding import like_params
        >>> net = nnjax.mlp([3, 2])
        >>> tuple(like_params(net, nnjax.init(net, jax.random.key(0)))[0].b)
        (None,)
    """
    return jax.tree.map(spec, params)


def varying_alike(*arrays: jax.Array) -> list[jax.Array]:
    """Return the arrays, made to vary over the same axes of `jax.shard_map`: those of any of them.

    The backward pass of a `custom_vjp` must return gradients that vary as the arguments do. Of
    kernels that all devices share and images that they do not, each device has its own part of the
    kernels' gradient; the derivative of this function adds the parts up.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.sharding import varying_alike
        >>> [a.shape for a in varying_alike(jnp.ones(3), jnp.ones((2, 3)))]
        [(3,), (2, 3)]
    """
    own = [_axes_varied_over(array) for array in arrays]
    over = frozenset[str]().union(*own)
    return [
        jax.lax.pcast(array, tuple(sorted(over - axes)), to="varying") if over - axes else array
        for array, axes in zip(arrays, own, strict=True)
    ]


def _axes_varied_over(array):
    kind: Any = jax.typeof(array)
    return kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma


def automatic(
    function: Callable[..., Any], layout: Callable[..., Any] = replicated
) -> Callable[..., Any]:
    """Return the function with the axes of an Explicit mesh left to the compiler inside it.

    Args:
        function: of arrays, and pytrees of them; it is traced.
        layout: a function of the same arguments that returns the layout of the results, a
            PartitionSpec or a pytree of them that is a prefix of the results.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.sharding import automatic
        >>> automatic(lambda delta, x: delta.T @ x)(jnp.ones((3, 1)), jnp.ones((3, 2))).tolist()
        [[3.0, 3.0]]
    """

    @functools.wraps(function)
    def call(*args: Any, **keywords: Any) -> Any:
        if keywords:
            bound = inspect.signature(function).bind(*args, **keywords)
            bound.apply_defaults()  # those between two that are given are arguments too
            args = bound.args
        axes = jax.sharding.get_abstract_mesh().explicit_axes
        if not axes:
            return function(*args)
        leaves, structure = jax.tree.flatten(args)
        at = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]

        def of_arrays(arrays: list[jax.Array]) -> Any:
            given = dict(zip(at, arrays, strict=True))
            filled = [given.get(i, leaf) for i, leaf in enumerate(leaves)]
            return function(*jax.tree.unflatten(structure, filled))

        inside = jax.sharding.auto_axes(of_arrays, axes=axes, out_sharding=layout(*args))
        return inside([leaves[i] for i in at])

    return call
