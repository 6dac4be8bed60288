"""Backpropagation by hand: the four equations of the book's chapter 2, for layers of any kind.

With δ^l = ∂C_x/∂z^l, the error of layer l for one example:

    BP1   δ^L = ∇_a C ⊙ σ'(z^L)                       the error at the output       (eq. 30)
    BP2   δ^l = ((w^{l+1})ᵀ δ^{l+1}) ⊙ σ'(z^l)        carried back one layer        (eq. 45)
    BP3   ∂C/∂b_j^l  = δ_j^l                          the gradient of the biases    (eq. 31)
    BP4   ∂C/∂w_jk^l = a_k^{l-1} δ_j^l                the gradient of the weights   (eq. 32)

Why: z^{l+1} depends on z^l by a^l = σ(z^l), then z^{l+1} = w^{l+1} a^l + b^{l+1}; the chain rule
through both gives BP2. z_j^l depends on b_j^l with slope 1 and on w_jk^l with slope a_k^{l-1};
that gives BP3 and BP4. A convolution is the same with patches of the image for a; pooling,
dropout and flattening have no parameters, and their w is a fixed map. Where an activation goes two
ways, as around a residual block, what comes back along both is added up.

The code is the book's algorithm, step by step: `backpropagate`, and below it `errors_of_layers`.
What a layer contributes (wᵀδ, BP3, BP4) stands in its own file; a step of SGD in `nnjax.descent`.
"""

from __future__ import annotations

from typing import Any, NamedTuple, overload

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from nnjax.checks import checked
from nnjax.display import table_of_pass
from nnjax.feedback import Feedback, check_feedback
from nnjax.layers.ways import to_be_followed_by_bp4
from nnjax.losses import targets
from nnjax.network import (
    ForwardPass,
    Network,
    Params,
    check_batch,
    check_weights,
    forward,
    one_dtype,
    wide_outputs,
    without_weight,
)
from nnjax.pieces import means_like
from nnjax.sharding import like_examples, like_params, replicated

__all__ = [
    "Backprop",
    "FeedbackPass",
    "backprop",
    "backprop_arguments",
    "backpropagate",
    "errors_of_layers",
]


class Backprop(NamedTuple):
    """Everything that backpropagation computes. L layers, n examples.

    Attributes:
        loss: C, the mean over the examples, (), in float32 at least.
        grads: ∇C, the gradient of that mean: structure, shapes and dtypes of the parameters.
        activations: a⁰ = x, a¹, …, a^L, each (n, ...).
        weighted_inputs: z¹, …, z^L, each (n, ...).
        errors: δ¹, …, δ^L, each (n, ...): ∂C_x/∂z^l, one row per example, never divided by n.
        targets: y, one-hot or soft, (n, n_out).
        key: the key that came in, None at inference: with it dropout draws the same masks again.
        weights: those of the examples that came in, (n,); None: every example counts once.
    """

    loss: jax.Array
    grads: Any
    activations: tuple[jax.Array, ...]
    weighted_inputs: tuple[jax.Array, ...]
    errors: tuple[jax.Array, ...]
    targets: jax.Array
    key: chex.PRNGKey | None = None
    weights: jax.Array | None = None

    def _repr_html_(self) -> str | None:
        """Return for a notebook what was computed in each layer: shapes, and sizes."""
        return table_of_pass(self, self.grads, "∂C/∂(w, b)")


class FeedbackPass(NamedTuple):
    """What a backward pass with a `feedback` computes: `Backprop`, but for two entries.

    Attributes:
        updates: what takes the place of ∇C, to be subtracted likewise; they are not
            a gradient.
        errors: what takes the place of δ¹, …, δ^L, each (n, ...); δ^L itself is BP1's.
        loss, activations, weighted_inputs, targets, key, weights: as in `Backprop`.
    """

    loss: jax.Array
    updates: Any
    activations: tuple[jax.Array, ...]
    weighted_inputs: tuple[jax.Array, ...]
    errors: tuple[jax.Array, ...]
    targets: jax.Array
    key: chex.PRNGKey | None = None
    weights: jax.Array | None = None

    def _repr_html_(self) -> str | None:
        """Return for a notebook what was computed in each layer: shapes, and sizes."""
        return table_of_pass(self, self.updates, "update of (w, b)")


@overload
def backprop(
    net: Network,
    params: Params,
    x: ArrayLike,
    y: ArrayLike,
    key: chex.PRNGKey | None = None,
    feedback: None = None,
    weights: ArrayLike | None = None,
) -> Backprop: ...
@overload
def backprop(
    net: Network,
    params: Params,
    x: ArrayLike,
    y: ArrayLike,
    key: chex.PRNGKey | None = None,
    *,
    feedback: Feedback,
    weights: ArrayLike | None = None,
) -> FeedbackPass: ...
def backprop(net, params, x, y, key=None, feedback=None, weights=None):
    """Return loss, gradients and every layer's activations and errors, by BP1 to BP4.

    Args:
        net: the network.
        params: its parameters.
        x: (n, *input_shape) inputs.
        y: (n, n_out) one-hot or soft targets, or (n,) integer classes.
        key: given: training mode (dropout on); None: inference.
        feedback: None: wᵀ carries the errors back, which is backpropagation; else a rule of
            `nnjax.feedback`, such as feedback alignment.
        weights: (n,) how much each example counts, in C = (1/n) Σ_x w_x C_x; None: 1. The errors
            of an example are then w_x times as large, and all that follows from them: 0 of weight
            0, even if its target is NaN or no class.

    Returns:
        `Backprop(loss, grads, activations, weighted_inputs, errors, targets, key, weights)`; with
        a feedback a `FeedbackPass`, the same with `updates` in place of `grads`.

    Raises:
        ValueError, TypeError: if x, y, params, the feedback or the weights do not fit the network.

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
    return backpropagate(net, params, x, y, key, feedback, weights)


def backprop_arguments(net, params, x, y, key=None, feedback=None, weights=None):
    """Return the arguments of `backprop` as the arrays they stand for, if they fit, else raise."""
    x, y = check_batch(net, params, x, y, key)
    check_feedback(net, feedback)
    return net, params, x, y, key, feedback, check_weights(weights, x.shape[0])


def _layout(net, params, x, y, key, feedback=None, weights=None):
    result: Any = Backprop if feedback is None else FeedbackPass
    rows, of_key = like_examples(net, params, x), None if key is None else replicated()
    of_weights = None if weights is None else rows
    own = of_key, of_weights
    return result(replicated(), like_params(net, params), rows, rows, rows, rows, *own)


@checked(backprop_arguments, layout=_layout, once=True)
def backpropagate(net, params, x, y, key=None, feedback=None, weights=None):
    """Do what `backprop` does. `backpropagate.unchecked` also takes one key for each example."""
    like, params = params, one_dtype(params)
    with to_be_followed_by_bp4():
        passed = forward(net, params, x, key)
    z, a = wide_outputs(net, passed)
    output, y, n = net.layers[-1].activation, targets(y, a), x.shape[0]
    dtype = passed.weighted_inputs[-1].dtype

    loss = net.loss.at(output, z, a, y)
    delta = net.loss.output_error(output, z, a, y)  #                                BP1
    if weights is not None:  # C_x counts w_x times, and so does its error
        weights = weights.astype(loss.dtype)
        loss, delta = without_weight(weights, weights * loss, weights[:, None] * delta)
    delta, y = delta.astype(dtype), y.astype(dtype)
    errors = errors_of_layers(net, params, passed, delta, y, feedback)  #            BP2
    totals = tuple(
        layer.gradients(cache, delta)  #                                             BP3, BP4
        for layer, cache, delta in zip(net.layers, passed.caches, errors, strict=True)
    )
    grads = means_like(like, totals, n)
    result: Any = Backprop if feedback is None else FeedbackPass
    of_layers = grads, passed.activations, passed.weighted_inputs, errors
    return result(jnp.mean(loss), *of_layers, y, key, weights)


def errors_of_layers(
    net: Network,
    params: Params,
    passed: ForwardPass,
    delta: jax.Array,
    y: Any = None,
    feedback: Feedback | None = None,
) -> tuple[jax.Array, ...]:
    """Return δ¹, …, δ^L, given δ^L: BP2, layer by layer."""
    a, z, caches = passed  # a[l] and caches[l] go into layer l, z[l] comes out
    errors, L = [delta], len(net.layers)
    for l in reversed(range(1, L)):
        if feedback is None:
            pull_back = jax.vmap(net.layers[l].pull_back, in_axes=(None, 0, 0))
            g = pull_back(params[l], caches[l], delta)  #                            BP2: wᵀδ
        else:
            g = feedback.pull_back(net, params, l, caches[l], delta, errors[0], y)
        for k in net.skips[l]:  # the sums, z[k] = … + a[l]
            g = g + errors[L - 1 - k]  #                                             BP2: + δ
        delta = net.layers[l - 1].activation.pull_back(z[l - 1], a[l], g)  #         BP2: ⊙ σ'(z)
        errors.append(delta)
    return tuple(reversed(errors))
