"""A step of gradient descent on a mini-batch, with the gradient of `nnjax.backprop`."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.core
import jax.numpy as jnp
from jax.typing import ArrayLike

from nnjax.backprop import backprop_arguments, backpropagate
from nnjax.checks import FINITE, checked, require_scalar
from nnjax.feedback import Feedback
from nnjax.network import (
    Network,
    Params,
    check_batch,
    example_keys,
    microbatch_size,
    without_weight,
)
from nnjax.pieces import UNROLL, at_least_float32, means_like, sum_in_pieces
from nnjax.sharding import like_params, replicated

__all__ = ["loss_and_gradient", "sgd_step"]


def sgd_step(
    net: Network,
    params: Params,
    x: ArrayLike,
    y: ArrayLike,
    eta: chex.Numeric,
    key: chex.PRNGKey | None = None,
) -> Params:
    """Return the parameters after one step of gradient descent on one mini-batch.

    w → w − η ∂C/∂w, b → b − η ∂C/∂b (eqs. 20 and 21): the book's `update_mini_batch`, jitted. Under
    `jax.vmap` over stacked parameters it trains many networks at once.

    Args:
        net: the network.
        params: its parameters.
        x: (n, *input_shape) the inputs of the mini-batch.
        y: (n, n_out) targets, or (n,) integer classes.
        eta: the learning rate η, a finite number of at least 0, or an array () of one. An array
            on an accelerator is not read back: it is judged by its shape and dtype alone.
        key: given: training mode (dropout on); None: inference.

    Raises:
        ValueError, TypeError: if x, y or params do not fit the network, or eta is not such
            a number.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> x, y = jnp.eye(3), jnp.array([0, 1, 1])
        >>> stepped = nnjax.sgd_step(net, params, x, y, eta=0.5)
        >>> bool(nnjax.loss(net, stepped, x, y) < nnjax.loss(net, params, x, y))
        True
    """
    if not isinstance(eta, jax.Array) or _on_host(eta):
        _require_rate(eta)
    return _step(net, params, x, y, eta, key)


def _require_rate(eta):
    require_scalar(eta, "eta", "a learning rate of at least 0 and finite", 0, FINITE)


def _on_host(array):
    if isinstance(array, jax.core.Tracer):
        return False
    return all(device.platform == "cpu" for device in array.devices())


def _step_arguments(net, params, x, y, eta, key):
    return net, params, *check_batch(net, params, x, y, key), eta, key


@checked(_step_arguments, layout=like_params, once=True)
def _step(net, params, x, y, eta, key):
    _require_rate(eta)  # which is traced here: its shape and dtype
    _, grads = loss_and_gradient.unchecked(net, params, x, y, key)
    return jax.tree.map(lambda p, g: p - jnp.asarray(eta, p.dtype) * g, params, grads)


def _loss_and_like_params(net, params, *rest):
    return replicated(), like_params(net, params)


@checked(backprop_arguments, layout=_loss_and_like_params, once=True)
def loss_and_gradient(
    net: Network,
    params: Params,
    x: ArrayLike,
    y: ArrayLike,
    key: chex.PRNGKey | None = None,
    feedback: Feedback | None = None,
    weights: ArrayLike | None = None,
) -> tuple[jax.Array, Any]:
    """Return the loss of a mini-batch and its gradient, and nothing that would lie in between.

    With a feedback, its updates take the place of the gradient. With weights w_x (n,) the loss is
    the mean of w_x C_x: an example of weight 0 has no part in it, whatever its input and its target
    are; classes on the host are checked all the same.

    The numbers of `backprop`, up to rounding. Where layers need much memory beside their outputs,
    as convolutions do for patches, the mini-batch is worked through in pieces and the gradients
    are added up: faster, as the patches stay in the cache, and in the memory of one piece.

    Args, raises: see `backprop`.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> from nnjax.descent import loss_and_gradient
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> loss, grads = loss_and_gradient(net, params, jnp.eye(3), jnp.ones((3, 2)))
        >>> grads[0].w.shape
        (2, 3)
    """
    n = jnp.shape(x)[0]
    size = microbatch_size(net, n)
    if feedback is None:  # a rule may send errors of its own to every layer
        net = net.pooling_first

    def share(piece):
        """Return what a piece adds to the mean loss and its gradient."""
        x, y, keys, weights = piece
        loss_and_gradient = backpropagate.unchecked(net, params, x, y, keys, feedback, weights)[:2]
        if x.shape[0] == n:
            return loss_and_gradient
        part = x.shape[0] / n
        return jax.tree.map(lambda v: part * v.astype(at_least_float32(v.dtype)), loss_and_gradient)

    keys = None if key is None else example_keys(key, n)
    (x,) = without_weight(weights, x)  # backpropagate sees to y
    loss, grads = sum_in_pieces(share, (x, y, keys, weights), size, UNROLL)
    return loss, means_like(params, grads)
