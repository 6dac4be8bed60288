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

The code is the book's algorithm, step by step. What a layer contributes (wᵀδ, BP3, BP4) stands in
its own file.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, overload

import jax
import jax.core
import jax.numpy as jnp

from nnjax.checks import check_backprop_of, check_batch, check_params, require_number
from nnjax.losses import targets
from nnjax.network import Network, Params, Passed, example_keys, forward, forward_layer, piece_size

__all__ = [
    "Backprop",
    "Feedback",
    "FeedbackPass",
    "backprop",
    "backward",
    "loss_and_gradient",
    "sgd_step",
]


class Backprop(NamedTuple):
    """What backpropagation lays open. L layers, n examples.

    Attributes:
        loss: C, the mean over the examples, ().
        grads: ∇C, the gradient of that mean: structure, shapes and dtypes of the parameters.
        activations: a⁰ = x, a¹, …, a^L, each (n, ...).
        weighted_inputs: z¹, …, z^L, each (n, ...).
        errors: δ¹, …, δ^L, each (n, ...): ∂C_x/∂z^l, one row an example, never divided by n.
        targets: y, one-hot or soft, (n, n_out).
        key: the key that came in, None at inference: with it dropout draws the same masks again.
    """

    loss: jax.Array
    grads: Any
    activations: tuple[jax.Array, ...]
    weighted_inputs: tuple[jax.Array, ...]
    errors: tuple[jax.Array, ...]
    targets: jax.Array
    key: jax.Array | None = None


class FeedbackPass(NamedTuple):
    """What a backward pass with a `feedback` lays open: updates, for they are no gradient.

    Attributes:
        loss: C, the mean over the examples, ().
        updates: what takes the place of ∇C, to be subtracted likewise; shaped as the parameters.
        activations: a⁰ = x, a¹, …, a^L, each (n, ...).
        weighted_inputs: z¹, …, z^L, each (n, ...).
        errors: what takes the place of δ¹, …, δ^L, each (n, ...); δ^L itself is BP1's.
        targets: y, one-hot or soft, (n, n_out).
        key: the key that came in, None at inference.
    """

    loss: jax.Array
    updates: Any
    activations: tuple[jax.Array, ...]
    weighted_inputs: tuple[jax.Array, ...]
    errors: tuple[jax.Array, ...]
    targets: jax.Array
    key: jax.Array | None = None


class Feedback:
    """What may take the place of wᵀδ in BP2. The rules are in `nnjax.feedback`.

    A rule is a pytree whose leaves are its feedback weights. A subclass defines `check` and
    `pull_back`, and `follow` if its weights learn.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 4, 2], activation=nnjax.tanh)
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> rule = nnjax.feedback.init(net, jax.random.key(1), "feedback_alignment")
        >>> x, y = jnp.eye(3), jnp.array([0, 1, 1])
        >>> type(nnjax.backprop(net, params, x, y, feedback=rule)).__name__
        'FeedbackPass'
    """

    def check(self, net: Network) -> None:
        """Raise ValueError if the feedback weights do not fit the network."""
        raise NotImplementedError(f"{type(self).__name__} must define check(net)")

    def pull_back(
        self,
        net: Network,
        params: Params,
        l: int,
        cache: Any,
        delta: jax.Array,
        output_error: jax.Array,
        y: jax.Array,
    ) -> jax.Array:
        """Return what stands for ∂C/∂a (n, ...), a being what goes into layers[l].

        Args:
            net, params: the network and its parameters.
            l: index of a layer, at least 1.
            cache: what its forward pass has left, one row an example.
            delta: the error of that layer, (n, ...).
            output_error: δ^L, (n, n_out).
            y: the targets, (n, n_out).
        """
        raise NotImplementedError(f"{type(self).__name__} must define pull_back(...)")

    def follow(self, before: Params, after: Params) -> tuple[Params, Feedback]:
        """Return parameters and feedback weights after a step that took `before` to `after`.

        Here both stay as they are: most rules keep their feedback weights fixed.
        """
        return after, self


@overload
def backprop(
    net: Network,
    params: Params,
    x: jax.Array,
    y: jax.Array,
    key: jax.Array | None = None,
    feedback: None = None,
) -> Backprop: ...
@overload
def backprop(
    net: Network,
    params: Params,
    x: jax.Array,
    y: jax.Array,
    key: jax.Array | None = None,
    *,
    feedback: Feedback,
) -> FeedbackPass: ...
def backprop(net, params, x, y, key=None, feedback=None):
    """Return loss, gradients and every layer's activations and errors, by BP1 to BP4.

    Args:
        net: the network.
        params: its parameters.
        x: (n, *input_shape) inputs.
        y: (n, n_out) one-hot or soft targets, or (n,) integer classes.
        key: given: training mode (dropout on); None: inference.
        feedback: None: wᵀ carries the errors back, which is backpropagation; else a rule of
            `nnjax.feedback`, such as feedback alignment.

    Returns:
        `Backprop(loss, grads, activations, weighted_inputs, errors, targets, key)`; with a
        feedback a `FeedbackPass`, the same with `updates` in the place of `grads`.

    Raises:
        ValueError, TypeError: if x, y, params or the feedback do not fit the network.

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
    check_feedback(net, feedback)
    return _backprop(net, params, x, y, key, feedback)


@jax.jit
def _backprop(net, params, x, y, key, feedback=None):
    passed = forward(net, params, x, key)
    a, z = passed.activations[-1], passed.weighted_inputs[-1]
    output, y, n = net.layers[-1].activation, targets(y, a), x.shape[0]

    loss = jnp.mean(net.loss.at(output, z, a, y))
    delta = net.loss.output_error(output, z, a, y)  #                                BP1
    errors = _carry_back(net, params, passed, delta, y, feedback)  #                 BP2
    grads = tuple(
        layer.gradients(cache, delta / n)  #                                         BP3, BP4
        for layer, cache, delta in zip(net.layers, passed.caches, errors, strict=True)
    )
    result = Backprop if feedback is None else FeedbackPass
    return result(loss, grads, passed.activations, passed.weighted_inputs, errors, y, key)


def check_feedback(net: Network, feedback: Any) -> None:
    """Raise TypeError or ValueError unless `feedback` is None or a rule that fits the network."""
    if feedback is None:
        return
    if not isinstance(feedback, Feedback):
        raise TypeError(
            f"feedback is {feedback!r}; expected None or a rule with its weights, such as "
            'nnjax.feedback.init(net, key, "feedback_alignment")'
        )
    feedback.check(net)


def loss_and_gradient(
    net: Network,
    params: Params,
    x: jax.Array,
    y: jax.Array,
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
        >>> from nnjax.backprop import loss_and_gradient
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
    n, most = x.shape[0], piece_size(net)
    if most is None or n <= most:
        return _backprop(net, params, x, y, key, feedback)[:2]
    pieces = -(-n // most)
    size = -(-n // pieces)  # as equal as can be
    batch = (x, y, None if key is None else example_keys(key, n))

    def add_piece(total, piece):
        loss_and_gradient = _backprop(net, params, *piece, feedback)[:2]
        share = piece[0].shape[0] / n
        return jax.tree.map(lambda t, v: t + share * v, total, loss_and_gradient), None

    whole = n // size
    dtype = jax.tree.leaves(params)[0].dtype
    zero = (jnp.zeros((), dtype), jax.tree.map(jnp.zeros_like, params))
    split = jax.tree.map(lambda a: a[: whole * size].reshape(whole, size, *a.shape[1:]), batch)
    total, _ = jax.lax.scan(add_piece, zero, split)
    if whole * size < n:
        total, _ = add_piece(total, jax.tree.map(lambda a: a[whole * size :], batch))
    return total


def _carry_back(net, params, passed, delta, y=None, feedback=None):
    """Return δ¹, …, δ^L, given δ^L."""
    a, z, caches = passed  # a[l] and caches[l] go into layer l, z[l] comes out
    errors = [delta]
    for l in reversed(range(1, len(net.layers))):
        if feedback is None:
            pull_back = jax.vmap(net.layers[l].pull_back, in_axes=(None, 0, 0))
            g = pull_back(params[l], caches[l], delta)  #                            BP2: wᵀδ
        else:
            g = feedback.pull_back(net, params, l, caches[l], delta, errors[0], y)
        delta = net.layers[l - 1].activation.pull_back(z[l - 1], a[l], g)  #         BP2: ⊙ σ'(z)
        errors.append(delta)
    return tuple(reversed(errors))


def backward(net: Network, params: Params, bp: Backprop, seeds: jax.Array) -> tuple[jax.Array, ...]:
    """Return what BP2 makes, in every layer, of any seeds at the output.

    For each seed s (n, n_out), one vector an example where δ^L stands in backpropagation, this is
    (∂z^L/∂z^l)ᵀ s: the primitive behind Jacobians, curvature and kernels. The forward pass of `bp`
    is not repeated but for what the layers' caches need. Costs V backward passes without BP3, BP4.

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
    layers, one row an example, in place of a sum over the batch in terms of the parameters.
    """
    n = check_gradients(net, params, bp, "backward")
    if jnp.ndim(seeds) != 3 or seeds.shape[1:] != (n, net.n_out):
        raise ValueError(
            f"seeds has shape {jnp.shape(seeds)}; expected (V, {n}, {net.n_out}): V seeds for "
            f"each of the {n} examples of bp and each of the {net.n_out} outputs"
        )
    return _backward(net, params, bp, jnp.asarray(seeds, bp.errors[-1].dtype))


@jax.jit
def _backward(net, params, bp, seeds):
    layers = range(len(net.layers))
    caches = tuple(forward_layer(net, params, l, bp.activations[l], bp.key)[1] for l in layers)
    passed = Passed(bp.activations, bp.weighted_inputs, caches)
    return jax.vmap(partial(_carry_back, net, params, passed))(seeds)


def check_gradients(net: Network, params: Params | None, bp: Any, name: str) -> int:
    """Return n, the number of examples of `bp`, if `net` made it without feedback, else raise."""
    if isinstance(bp, FeedbackPass):
        raise TypeError(
            f"bp holds the updates of a feedback rule, which are no gradients; {name} needs the "
            "bp of nnjax.backprop without feedback"
        )
    if not isinstance(bp, Backprop):
        raise TypeError(f"bp is a {type(bp).__name__}; {name} needs the bp of nnjax.backprop")
    n = check_backprop_of(net, bp)
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
    _, grads = _loss_and_gradient(net, params, x, y, key)
    return jax.tree.map(lambda p, g: p - jnp.asarray(eta, p.dtype) * g, params, grads)
