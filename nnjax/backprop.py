"""Backpropagation by hand: the four equations of the book's chapter 2, for layers of any kind.

With δ^l = ∂C_x/∂z^l, the error of layer l for one example:

    BP1   δ^L = ∇_a C ⊙ σ'(z^L)                       the error at the output       (eq. 30)
    BP2   δ^l = ((w^{l+1})ᵀ δ^{l+1}) ⊙ σ'(z^l)        carried back one layer        (eq. 45)
    BP3   ∂C/∂b_j^l  = δ_j^l                          the gradient of the biases    (eq. 31)
    BP4   ∂C/∂w_jk^l = a_k^{l-1} δ_j^l                the gradient of the weights   (eq. 32)

Why: z^{l+1} depends on z^l by a^l = σ(z^l), then z^{l+1} = w^{l+1} a^l + b^{l+1}; the chain rule
through both gives BP2. z_j^l depends on b_j^l with slope 1 and on w_jk^l with slope a_k^{l-1};
that gives BP3 and BP4. A convolution is the same with patches of the image for a; pooling,
dropout and flattening have no parameters, and their w is a fixed map.

The loop below is all of it. What a layer contributes (wᵀδ, BP3, BP4) stands in its own file.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nnjax.checks import check_batch, require_number
from nnjax.losses import targets
from nnjax.network import Network, Params, forward

__all__ = ["Backprop", "backprop", "sgd_step"]


class Backprop(NamedTuple):
    """What backpropagation lays open. L layers, n examples.

    Attributes:
        loss: C, the mean over the examples, ().
        grads: ∇C, the gradient of that mean: structure, shapes and dtypes of the parameters.
        activations: a⁰ = x, a¹, …, a^L, each (n, ...).
        weighted_inputs: z¹, …, z^L, each (n, ...).
        errors: δ¹, …, δ^L, each (n, ...): ∂C_x/∂z^l, one row an example, never divided by n.
    """

    loss: jax.Array
    grads: Any
    activations: tuple[jax.Array, ...]
    weighted_inputs: tuple[jax.Array, ...]
    errors: tuple[jax.Array, ...]


def backprop(
    net: Network, params: Params, x: jax.Array, y: jax.Array, key: jax.Array | None = None
) -> Backprop:
    """Return loss, gradients and every layer's activations and errors, by BP1 to BP4.

    Args:
        net: the network.
        params: its parameters.
        x: (n, *input_shape) inputs.
        y: (n, n_out) one-hot or soft targets, or (n,) integer classes.
        key: given: training mode (dropout on); None: inference.

    Returns:
        `Backprop(loss, grads, activations, weighted_inputs, errors)`.

    Raises:
        ValueError, TypeError: if x, y or params do not fit the network.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 4, 2], activation=nnjax.tanh)
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> x, y = jnp.eye(3), jnp.array([0, 1, 1])
        >>> by_hand = nnjax.backprop(net, params, x, y).grads
        >>> auto = jax.grad(nnjax.loss, argnums=1)(net, params, x, y)
        >>> all(jax.tree.leaves(jax.tree.map(jnp.allclose, by_hand, auto)))
        True

    Reference: Rumelhart, Hinton and Williams 1986; Nielsen 2015, chapter 2.
    """
    x, y = check_batch(net, params, x, y, key=key)
    return _backprop(net, params, x, y, key)


@jax.jit
def _backprop(net, params, x, y, key):
    passed = forward(net, params, x, key)
    a, z = passed.activations, passed.weighted_inputs  # a[l] goes into layer l, z[l] comes out
    n, last = x.shape[0], len(net.layers) - 1
    activation = [layer.activation for layer in net.layers]
    grads: list[Any] = [None] * len(net.layers)
    errors: list[Any] = [None] * len(net.layers)

    y = targets(y, a[-1])
    loss = jnp.mean(net.loss.at(activation[last], z[last], a[-1], y))
    delta = net.loss.output_error(activation[last], z[last], a[-1], y)  #            BP1
    for l in reversed(range(last + 1)):
        layer, cache = net.layers[l], passed.caches[l]
        errors[l] = delta
        grads[l] = layer.gradients(cache, delta / n)  #                              BP3, BP4
        if l > 0:
            pull_back = jax.vmap(layer.pull_back, in_axes=(None, 0, 0))
            g = pull_back(params[l], cache, delta)  #                                BP2: wᵀδ
            delta = activation[l - 1].pull_back(z[l - 1], a[l], g)  #                BP2: ⊙ σ'(z)
    return Backprop(loss, tuple(grads), a, z, tuple(errors))


def sgd_step(
    net: Network,
    params: Params,
    x: jax.Array,
    y: jax.Array,
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
    grads = _backprop(net, params, x, y, key).grads
    return jax.tree.map(lambda p, g: p - jnp.asarray(eta, p.dtype) * g, params, grads)
