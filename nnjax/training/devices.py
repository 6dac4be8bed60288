"""One network on several devices: every mini-batch is divided among them, its gradient added up.

The first axis of the mesh is that of the examples: each device works on its share of the
mini-batch, and the gradients of the shares are averaged, so that all devices take the same step as
one device would, up to rounding. A mini-batch that does not divide evenly is filled up with
examples of weight 0. A second axis, where the mesh has one, is that of the neurons: dense layers
are split over it in turn by their outputs and by their inputs, so that each pair of layers
communicates once (Shoeybi et al. 2019, arXiv:1909.08053).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from nnjax.descent import loss_and_gradient
from nnjax.feedback import Feedback
from nnjax.layers.base import Affine
from nnjax.network import Network, Params, example_keys
from nnjax.pieces import at_least_float32

__all__ = [
    "gradient_over",
    "in_mesh",
    "on_one_device",
    "placed",
    "placed_state",
    "require_mesh",
]


def require_mesh(mesh: Any) -> Mesh:
    """Return a mesh with Auto axes, in which the compiler lays out what lies in between.

    Args:
        mesh: of devices, with one axis for the examples and perhaps a second for the neurons.

    Raises:
        TypeError: if it is not a `jax.sharding.Mesh`.
        ValueError: if it has no axis, or more than two.

    Example:
        >>> import jax
        >>> from nnjax.training.devices import require_mesh
        >>> auto = (jax.sharding.AxisType.Auto,)
        >>> require_mesh(jax.make_mesh((1,), ("data",))).axis_types == auto
        True
        >>> require_mesh(4)
        Traceback (most recent call last):
        ...
        TypeError: mesh is 4; expected a jax.sharding.Mesh such as jax.make_mesh((4,), ("data",))
    """
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f'mesh is {mesh!r}; expected a jax.sharding.Mesh such as jax.make_mesh((4,), ("data",))'
        )
    if not 1 <= len(mesh.axis_names) <= 2:
        raise ValueError(
            f"mesh has the axes {mesh.axis_names}; expected one for the examples, and at most a "
            "second one for the neurons"
        )
    return Mesh(mesh.devices, mesh.axis_names, (AxisType.Auto,) * len(mesh.axis_names))


def in_mesh(mesh: Mesh | None) -> AbstractContextManager[Any]:
    """Return a context in which arrays of this mesh are computed with; None: nothing changes.

    Example:
        >>> from nnjax.training.devices import in_mesh
        >>> with in_mesh(None):
        ...     pass
    """
    return nullcontext() if mesh is None else jax.set_mesh(mesh)


def placed(mesh: Mesh | None, tree: Any) -> Any:
    """Return arrays that every device of the mesh holds as a whole; None: as they are.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nnjax.training.devices import placed, require_mesh
        >>> mesh = require_mesh(jax.make_mesh((1,), ("data",)))
        >>> tuple(placed(mesh, jnp.ones(3)).sharding.spec)
        ()
    """
    if mesh is None:
        return tree
    return jax.tree.map(lambda leaf: _placed(mesh, leaf, PartitionSpec()), tree)


def on_one_device(tree: Any) -> Any:
    """Return arrays that every device holds as a whole as one device of this process holds them.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nnjax.training.devices import on_one_device, placed, require_mesh
        >>> mesh = require_mesh(jax.make_mesh((1,), ("data",)))
        >>> on_one_device(placed(mesh, jnp.ones(3))).tolist()
        [1.0, 1.0, 1.0]
    """
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def placed_state(mesh: Mesh, net: Network, state: Any) -> Any:
    """Return a `TrainState` on the mesh: whole on every device, but for what is split by neurons.

    Example:
        >>> import jax, nnjax, optax
        >>> from nnjax.training import initial_state
        >>> from nnjax.training.devices import placed_state, require_mesh
        >>> net = nnjax.mlp([4, 3, 2])
        >>> state = initial_state(net, optax.sgd(0.5), jax.random.key(0))
        >>> mesh = require_mesh(jax.make_mesh((1, 1), ("data", "neurons")))
        >>> [tuple(layer.w.sharding.spec) for layer in placed_state(mesh, net, state).params]
        [('neurons',), (None, 'neurons')]
    """
    specs = _specs(mesh, net, state.params)
    structure = jax.tree.structure(state.params)

    def like_params(tree):
        return jax.tree.structure(tree) == structure

    def split(tree):
        if like_params(tree):
            return jax.tree.map(lambda leaf, spec: _placed(mesh, leaf, spec), tree, specs)
        return placed(mesh, tree)

    # What has the structure of the parameters, such as a velocity, lies as they do.
    return jax.tree.map(split, state, is_leaf=like_params)


def _specs(mesh: Mesh, net: Network, params: Params) -> Any:
    """Return how each parameter lies: over the second axis, split by outputs or by inputs."""
    whole = jax.tree.map(lambda leaf: PartitionSpec(), params)
    if len(mesh.axis_names) == 1:
        return whole
    name, specs, by_outputs = mesh.axis_names[1], [], True
    size = mesh.shape[name]
    for entry, unsplit in zip(params, whole, strict=True):
        dense = isinstance(entry, Affine) and entry.w.ndim == 2
        if dense and entry.w.shape[0 if by_outputs else 1] % size == 0:
            w: Any = PartitionSpec(name) if by_outputs else PartitionSpec(None, name)
            b: Any = PartitionSpec(name) if by_outputs else PartitionSpec()
            specs.append(Affine(w, b))
            by_outputs = not by_outputs
        else:
            specs.append(unsplit)
            by_outputs = by_outputs or dense
    return tuple(specs)


def _placed(mesh: Mesh, leaf: jax.Array, spec: PartitionSpec) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _placed(mesh, jax.random.key_data(leaf), PartitionSpec())
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    on_host = np.asarray(leaf)
    sharding = NamedSharding(mesh, spec)
    return jax.make_array_from_callback(on_host.shape, sharding, lambda at: on_host[at])


def gradient_over(
    mesh: Mesh | None,
    net: Network,
    params: Params,
    x: jax.Array,
    y: jax.Array,
    key: jax.Array | None,
    feedback: Feedback | None,
    weights: jax.Array | None = None,
) -> tuple[jax.Array, Any]:
    """Return what `loss_and_gradient` does, each device working on its share of the mini-batch.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> from nnjax.training.devices import gradient_over, require_mesh
        >>> mesh = require_mesh(jax.make_mesh((1,), ("data",)))
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> loss, grads = gradient_over(mesh, net, params, jnp.eye(3), jnp.ones((3, 2)), None, None)
        >>> grads[0].w.shape
        (2, 3)
    """
    # XLA cannot compile a mapping over an axis of length 1 where a second one splits the neurons.
    if mesh is None or mesh.devices.shape[0] == 1:
        return loss_and_gradient(net, params, x, y, key, feedback, weights)
    name, n = mesh.axis_names[0], x.shape[0]
    filled = n + -n % mesh.shape[name]
    keys = None if key is None else example_keys(key, n)
    if filled > n:
        rows, own = np.arange(filled) % n, np.arange(filled) < n
        x, y, keys, weights = jax.tree.map(lambda array: array[rows], (x, y, keys, weights))
        weights = jnp.asarray(own, jnp.float32) if weights is None else jnp.where(own, weights, 0.0)

    def share(params, feedback, x, y, keys, weights):
        part = loss_and_gradient.unchecked(net, params, x, y, keys, feedback, weights)
        return jax.lax.pmean(part, name)

    whole, divided = PartitionSpec(), PartitionSpec(name)
    over_devices = jax.shard_map(
        share,
        mesh=mesh,
        in_specs=(whole, whole, divided, divided, divided, divided),
        out_specs=whole,
        axis_names={name},
    )
    means = over_devices(params, feedback, x, y, keys, weights)
    return means if filled == n else jax.tree.map(partial(_times, filled / n), means)


def _times(factor: float, v: jax.Array) -> jax.Array:
    return (factor * v.astype(at_least_float32(v.dtype))).astype(v.dtype)
