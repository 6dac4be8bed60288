"""BP2 from any seeds: the error of every layer for whatever stands at the output."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from nnjax.backprop import Backprop, FeedbackPass, errors_of_layers
from nnjax.checks import checked
from nnjax.network import (
    ForwardPass,
    Network,
    Params,
    check_params,
    forward_layer,
    one_dtype,
    require_network,
)
from nnjax.sharding import like_examples

__all__ = ["backward", "require_bp_of", "require_plain_bp"]


def _arguments(net, params, bp, seeds):
    n = require_plain_bp(net, params, bp, "backward")
    if jnp.ndim(seeds) != 3 or jnp.shape(seeds)[1:] != (n, net.n_out):
        raise ValueError(
            f"seeds has shape {jnp.shape(seeds)}; expected (V, {n}, {net.n_out}): V seeds for "
            f"each of the {n} examples of bp and each of the {net.n_out} outputs"
        )
    return net, params, bp, jnp.asarray(seeds, bp.errors[-1].dtype)


def _layout(net, params, bp, seeds):
    return PartitionSpec(None, *like_examples(net, params, bp))


@checked(_arguments, layout=_layout)
def backward(net: Network, params: Params, bp: Backprop, seeds: jax.Array) -> tuple[jax.Array, ...]:
    """Return what BP2 makes, in every layer, of any seeds at the output.

    For each seed s (n, n_out), one vector per example where δ^L stands in backpropagation, this is
    (∂z^L/∂z^l)ᵀ s: the primitive behind Jacobians, curvature and kernels. The forward pass of `bp`
    is not repeated except for what the layers' caches need. Costs V backward passes without BP3
    and BP4.

    Args:
        net: the network.
        params: its parameters, those that `bp` was made with.
        bp: from `backprop`, without feedback.
        seeds: (V, n, n_out), at the weighted inputs z^L. For seeds s at the outputs a^L, give
            `activation.pull_back(bp.weighted_inputs[-1], bp.activations[-1], s)`.

    Returns:
        (∂z^L/∂z^l)ᵀ s for l = 1, …, L, each (V, n, ...). `bp.errors` are those of
        `bp.errors[-1][None]`.

    Raises:
        ValueError: if params, bp or the seeds do not fit the network.
        TypeError: if bp is not from `backprop`, or was made with a feedback.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 4, 2], activation=nnjax.tanh)
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> bp = nnjax.backprop(net, params, jnp.eye(3), jnp.array([0, 1, 1]))
        >>> hidden, output = nnjax.backward(net, params, bp, bp.errors[-1][None])
        >>> bool(jnp.allclose(hidden[0], bp.errors[0]))
        True

    Differs from `jax.vjp` of the network in that it starts at z^L and gives the errors of all
    layers, one row per example, in place of a sum over the batch in terms of the parameters.
    """
    params, layers = one_dtype(params), range(len(net.layers))
    caches = tuple(forward_layer(net, params, l, bp.activations[l], bp.key)[1] for l in layers)
    passed = ForwardPass(bp.activations, bp.weighted_inputs, caches)
    return jax.vmap(partial(errors_of_layers, net, params, passed))(seeds)


def require_plain_bp(net: Network, params: Params | None, bp: Any, name: str) -> int:
    """Return n, the number of examples of `bp`, if `net` made it without feedback, else raise."""
    if isinstance(bp, FeedbackPass):
        raise TypeError(
            f"bp holds the updates of a feedback rule, which are not gradients; {name} needs the "
            "bp of nnjax.backprop without feedback"
        )
    if not isinstance(bp, Backprop):
        raise TypeError(f"bp is a {type(bp).__name__}; {name} needs the bp of nnjax.backprop")
    n = require_bp_of(net, bp)
    if params is None:
        return n
    check_params(net, params)
    for l, layer in enumerate(net.layers):
        if not layer.random or bp.key is not None or isinstance(bp.errors[l], jax.core.Tracer):
            continue
        at_inference = forward_layer(net, params, l, bp.activations[l], None)[0]
        if not jnp.array_equal(at_inference, bp.weighted_inputs[l], equal_nan=True):
            raise ValueError(
                f"bp.key is None, but layers[{l}], {layer}, was in training mode; {name} needs the "
                "key that nnjax.backprop was given, to draw the same masks again"
            )
    return n


def require_bp_of(net: Network, bp: Any) -> int:
    """Return n, the number of examples of `bp`, if `net` made it, else raise ValueError.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> from nnjax.backward import require_bp_of
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> bp = nnjax.backprop(net, params, jnp.ones((5, 3)), jnp.ones((5, 2)))
        >>> require_bp_of(nnjax.mlp([3, 4, 2]), bp)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: bp is of another network: its activations have the shapes (3,), (2,) per \
example, this network has (3,), (4,), (2,); ...
    """
    require_network(net)
    shapes = tuple(jnp.shape(a)[1:] for a in bp.activations)
    if shapes != net.shapes:
        came, expected = (", ".join(map(str, s)) for s in (shapes, net.shapes))
        raise ValueError(
            f"bp is of another network: its activations have the shapes {came} per example, this "
            f"network has {expected}; give the bp of nnjax.backprop(net, params, x, y)"
        )
    return bp.activations[0].shape[0]
