"""A step of gradient descent on a mini-batch, with the gradient of `nnjax.backprop`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from nnjax.backprop import backpropagate
from nnjax.checks import require_number
from nnjax.feedback import Feedback, check_feedback
from nnjax.network import ABREAST, Network, Params, check_batch, example_keys, piece_size

__all__ = ["loss_and_gradient", "sgd_step"]


def sgd_step(
    net: Network,
    params: Params,
    x: ArrayLike,
    y: ArrayLike,
    eta: float,
    key: jax.Array | None = None,
) -> Params:
    """Return the parameters after one step of gradient descent on one mini-batch.

    w → w − η ∂C/∂w, b → b − η ∂C/∂b (eqs. 20 and 21): the book's `update_mini_batch`, jitted. Under
    `jax.vmap` over stacked parameters it trains many networks at once.

    Args:
        net: the network.
        params: its parameters.
        x: (n, *input_shape) the inputs of the mini-batch.
        y: (n, n_out) targets, or (n,) integer classes.
        eta: the learning rate η, at least 0.
        key: given: training mode (dropout on); None: inference.

    Raises:
        ValueError, TypeError: if x, y or params do not fit the network, or eta is negative.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> x, y = jnp.eye(3), jnp.array([0, 1, 1])
        >>> stepped = nnjax.sgd_step(net, params, x, y, eta=0.5)
        >>> bool(nnjax.loss(net, stepped, x, y) < nnjax.loss(net, params, x, y))
        True
    """
    if isinstance(eta, int | float):
        require_number(eta, "eta", "a learning rate of at least 0", 0, float("inf"))
    x, y = check_batch(net, params, x, y, key=key)
    return _sgd_step(net, params, x, y, eta, key)


@jax.jit
def _sgd_step(net, params, x, y, eta, key):
    _, grads = _loss_and_gradient(net, params, x, y, key)
    return jax.tree.map(lambda p, g: p - jnp.asarray(eta, p.dtype) * g, params, grads)


def loss_and_gradient(
    net: Network,
    params: Params,
    x: ArrayLike,
    y: ArrayLike,
    key: jax.Array | None = None,
    feedback: Feedback | None = None,
) -> tuple[jax.Array, Any]:
    """Return the loss of a mini-batch and its gradient, and nothing that would lie in between.

    With a feedback, its updates take the place of the gradient.

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
    x, y = check_batch(net, params, x, y, key=key)
    check_feedback(net, feedback)
    return _loss_and_gradient(net, params, x, y, key, feedback)


@jax.jit
def _loss_and_gradient(net, params, x, y, key, feedback=None):
    n = x.shape[0]
    size = piece_size(net, n)
    if n <= size:
        return backpropagate(net, params, x, y, key, feedback)[:2]
    batch = (x, y, None if key is None else example_keys(key, n))

    def add_piece(total, piece):
        loss_and_gradient = backpropagate(net, params, *piece, feedback)[:2]
        share = piece[0].shape[0] / n
        return jax.tree.map(lambda t, v: t + share * v, total, loss_and_gradient), None

    whole = n // size
    dtype = jax.tree.leaves(params)[0].dtype
    # Always false, but inside `shard_map` it varies with the data, as the sum over them will.
    never = jnp.zeros((), bool) & (x.ravel()[0] > 0)
    zero = (jnp.zeros((), dtype), jax.tree.map(jnp.zeros_like, params))
    zero = jax.tree.map(lambda t: jnp.where(never, jnp.ones_like(t), t), zero)
    split = jax.tree.map(lambda a: a[: whole * size].reshape(whole, size, *a.shape[1:]), batch)
    total, _ = jax.lax.scan(add_piece, zero, split, unroll=ABREAST)
    if whole * size < n:
        total, _ = add_piece(total, jax.tree.map(lambda a: a[whole * size :], batch))
    return total
