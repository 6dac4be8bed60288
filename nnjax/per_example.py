"""What each example contributes to the gradient, from one backward pass.

`backprop` returns, for every example, the input a^{l-1} and the error δ^l of every layer. By BP3
and BP4 those are the gradient of that example, ∂C_x/∂b = δ and ∂C_x/∂w = δ aᵀ, factorised. The
functions here work on the factors, so most cost as much as one gradient, where
`jax.vmap(jax.grad)` costs n.

All jit and vmap, and are exact. Biases are included. Gradients are those of C_x, one example's
loss, never divided by n: their mean is `bp.grads`. Where `backprop` was given weights, each is
w_x times as large, as in `bp.errors`. All take

    net: the network
    params: its parameters
    bp: what `nnjax.backprop` returned for them. A `FeedbackPass` serves too where only activations
        and errors are used: then read "update" for "gradient"

and raise ValueError or TypeError where these do not fit one another.

Legend: n examples, J outputs of a layer, K inputs that one output sees, T positions that share the
weights (1 for a dense layer). "One gradient" is what BP4 costs.

    function            closed form for T = 1                           cost, in one gradient
    gradients           g_n = δ_n a_nᵀ                                  memory of n gradients
    squared_norms       ‖g_n‖² = ‖δ_n‖² (‖a_n‖² + 1)                    next to nothing
    sum_of_squares      Σ_n g_n² = (δ²)ᵀ a²                             1
    variance            (1/n) Σ_n g_n² − ḡ²                             1
    gram                ⟨g_n, g_m⟩ = (δ_n·δ_m)(a_n·a_m + 1)             n² (J + K) against n J K
    weighted_gradient   Σ_n c_n g_n = (c ⊙ δ)ᵀ a                        1
    clipped_gradient    (1/n) Σ_n min(1, C / ‖g_n‖) g_n                 1

For convolutions (T > 1) see `nnjax.contractions`: norms by the patches' Gram matrix when 2T² is at
most the number of weights, else by instantiating a chunk of examples at a time.

Differs from BackPACK: nothing is divided by n, and results are values, not attributes of the
parameters. Differs from Opacus: convolutions share weights over T positions, which is taken account
of exactly; there is no second backward pass for clipping.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from nnjax import contractions
from nnjax.backprop import Backprop, FeedbackPass
from nnjax.backward import require_bp_of, require_plain_bp
from nnjax.checks import FINITE, TINY, checked, require_real_array, require_scalar, require_size
from nnjax.network import Network, Params, check_params, forward_layer, layer_keys, one_dtype
from nnjax.pieces import at_least_float32, means_like
from nnjax.sharding import like_examples, like_params

__all__ = [
    "NoiseScale",
    "clipped_gradient",
    "gradient_noise_scale",
    "gradients",
    "gram",
    "input_gradients",
    "squared_norms",
    "squared_norms_by_layer",
    "sum_of_squares",
    "variance",
    "weighted_gradient",
]

BackwardPass = Backprop | FeedbackPass


def _require_pass(net, params, bp):
    """Return n, the number of examples of bp, if all fit one another, else raise."""
    if not isinstance(bp, BackwardPass):
        raise TypeError(f"bp is a {type(bp).__name__}; expected what nnjax.backprop returns")
    check_params(net, params)
    return require_bp_of(net, bp)


def _arguments(net, params, bp):
    _require_pass(net, params, bp)
    return net, params, bp


def _arguments_of_gradients(net, params, bp, reduce=None, chunk=None):
    n = _require_pass(net, params, bp)
    if reduce is not None and not callable(reduce):
        raise TypeError(f"reduce is {reduce!r}; expected a function of one example's gradient")
    return net, params, bp, reduce, n if chunk is None else require_size(chunk, "chunk")


@checked(_arguments_of_gradients, static=("reduce", "chunk"), layout=like_examples)
def gradients(
    net: Network,
    params: Params,
    bp: BackwardPass,
    reduce: Callable[[Params], Any] | None = None,
    chunk: int | None = None,
) -> Any:
    """Return the gradient of every example, or what a function makes of each.

    g_n = ∂C_x/∂θ for example n: BP3 and BP4 without the sum over the batch.

    Args:
        reduce: a function of ONE example's gradient (a pytree like params); None: the gradient
            itself.
        chunk: how many examples to instantiate at once; None: all. With `reduce` the memory
            needed is that of `chunk` gradients and of what is returned.

    Returns:
        What `reduce` returns, with an axis n in front of every array: by default a pytree like
        params with leaves (n, ...), what optax's `differentially_private_aggregate` takes.

    Raises:
        ValueError: if params or bp do not fit the network, or chunk is not at least 1.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> bp = nnjax.backprop(net, params, jnp.eye(3), jnp.array([0, 1, 1]))
        >>> nnjax.per_example.gradients(net, params, bp)[0].w.shape
        (3, 2, 3)
        >>> largest = lambda g: jnp.max(jnp.abs(g[0].w))
        >>> nnjax.per_example.gradients(net, params, bp, largest, chunk=2).shape
        (3,)
    """
    like, params = params, one_dtype(params)
    layers, n = range(len(net.layers)), bp.errors[0].shape[0]
    keys = [layer_keys(net, l, bp.errors[l].shape[0], bp.key) for l in layers]

    def one(example):
        activations, keys, errors = example
        g = tuple(
            contractions.gradient(net.layers[l], params[l], activations[l], keys[l], errors[l])
            for l in layers
        )
        g = means_like(like, g)
        return g if reduce is None else reduce(g)

    examples = (bp.activations[:-1], keys, bp.errors)
    if chunk is None or chunk >= n:
        return jax.vmap(one)(examples)
    return jax.lax.map(one, examples, batch_size=chunk)


@checked(_arguments, layout=like_examples)
def squared_norms(net: Network, params: Params, bp: BackwardPass) -> jax.Array:
    """Return ‖g_n‖², the squared norm of every example's gradient, (n,).

    Sum of `squared_norms_by_layer`: T = 1: ‖δ_n‖² (‖a_n‖² + 1), exact, next to no cost on top of
    the gradient; never ‖δ‖² ‖X‖² for convolutions, where positions share the weights.

    Raises:
        ValueError: if params or bp do not fit the network.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> bp = nnjax.backprop(net, params, jnp.eye(3), jnp.array([0, 1, 1]))
        >>> nnjax.per_example.squared_norms(net, params, bp).shape
        (3,)

    Reference: Goodfellow 2015, arXiv:1510.01799; convolutions: Rochette et al. 2019,
    arXiv:1912.06015, Bu et al. 2022, arXiv:2205.10683.
    """
    return _narrow(_squared_norms(net, params, bp), bp)


@checked(_arguments, layout=like_examples)
def squared_norms_by_layer(net: Network, params: Params, bp: BackwardPass) -> Any:
    """Return the squared norms by layer, weights and biases apart.

    Args, raises: see `squared_norms`.

    Returns:
        A pytree like params: `Affine(w, b)` with leaves (n,), or ().

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 4, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> bp = nnjax.backprop(net, params, jnp.eye(3), jnp.array([0, 1, 1]))
        >>> [layer.w.shape for layer in nnjax.per_example.squared_norms_by_layer(net, params, bp)]
        [(3,), (3,)]
    """
    norms = _each_layer(contractions.squared_norms, net, params, bp)
    return _narrow(jax.tree.map(lambda v: jnp.squeeze(v, axis=0), norms), bp)


@checked(_arguments, layout=like_params)
def sum_of_squares(net: Network, params: Params, bp: BackwardPass) -> Any:
    """Return Σ_n g_n², element by element: n times the diagonal of the empirical Fisher matrix.

    T = 1: (δ²)ᵀ a², exact, as costly as one gradient. Else instantiated in chunks.

    Returns:
        A pytree like params.

    Raises:
        ValueError: if params or bp do not fit the network.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> bp = nnjax.backprop(net, params, jnp.eye(3), jnp.array([0, 1, 1]))
        >>> squares = nnjax.per_example.sum_of_squares(net, params, bp)
        >>> rows = nnjax.per_example.gradients(net, params, bp)
        >>> bool(jnp.allclose(squares[0].w, jnp.sum(rows[0].w ** 2, axis=0)))
        True

    Reference: Dangel, Kunstner and Hennig 2020, arXiv:1912.10985. Differs from BackPACK's
    SumGradSquared, which divides by n² where the loss is a mean.
    """
    return _narrow(_each_layer(contractions.sum_of_squares, net, params, bp), bp)


@checked(_arguments, layout=like_params)
def variance(net: Network, params: Params, bp: BackwardPass) -> Any:
    """Return the variance of the gradients over the batch, element by element.

    (1/n) Σ_n g_n² − ḡ², with ḡ the mean: `jnp.var` of the rows over the examples. Exact but for
    rounding: where the mean is much larger than the spread, digits are lost.

    Returns:
        A pytree like params, at least 0.

    Raises:
        ValueError: if params or bp do not fit the network.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> bp = nnjax.backprop(net, params, jnp.eye(3), jnp.array([0, 1, 1]))
        >>> nnjax.per_example.variance(net, params, bp)[0].b.shape
        (2,)
    """
    squares, n = _each_layer(contractions.sum_of_squares, net, params, bp), bp.errors[0].shape[0]
    spread = jax.tree.map(
        lambda total, mean: jnp.maximum(total / n - mean.astype(total.dtype) ** 2, 0),
        squares,
        _mean(bp),
    )
    return _narrow(spread, bp)


@checked(_arguments, layout=like_examples)
def gram(net: Network, params: Params, bp: BackwardPass) -> jax.Array:
    """Return the Gram matrix of the gradients, ⟨g_n, g_m⟩ (n, n).

    T = 1: (δ_n·δ_m)(a_n·a_m + 1), exact; else gradients are instantiated, some filters at a time.
    Its diagonal holds the squared norms; its eigenvalues over n are those of the empirical Fisher
    matrix that are not zero.

    Raises:
        ValueError: if params or bp do not fit the network.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> bp = nnjax.backprop(net, params, jnp.eye(3), jnp.array([0, 1, 1]))
        >>> products = nnjax.per_example.gram(net, params, bp)
        >>> norms = nnjax.per_example.squared_norms(net, params, bp)
        >>> bool(jnp.allclose(jnp.diagonal(products), norms))
        True

    Reference: Dangel et al. 2022 (ViViT), arXiv:2106.02624.
    """
    grams = _each_layer(contractions.gram, net, params, bp)
    return _narrow(contractions.over_layers(grams, (1, bp.errors[0].shape[0]) * 2)[0, :, 0, :], bp)


def _arguments_of_weighted_gradient(net, params, bp, weights):
    n = _require_pass(net, params, bp)
    weights = require_real_array(weights, "weights")
    if weights.shape != (n,):
        raise ValueError(
            f"weights has shape {weights.shape}; expected ({n},), one weight per example"
        )
    return net, params, bp, weights


@checked(_arguments_of_weighted_gradient, layout=like_params)
def weighted_gradient(net: Network, params: Params, bp: BackwardPass, weights: chex.Array) -> Any:
    """Return Σ_n c_n g_n for any weights c: one contraction, no second backward pass.

    (c ⊙ δ)ᵀ a, exact for every layer, as costly as one gradient.

    Args:
        weights: c, (n,). One-hot weights give one row; 1/n everywhere gives `bp.grads`.

    Returns:
        A pytree like params.

    Raises:
        ValueError: if params, bp or the weights do not fit.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> bp = nnjax.backprop(net, params, jnp.eye(3), jnp.array([0, 1, 1]))
        >>> mean = nnjax.per_example.weighted_gradient(net, params, bp, jnp.full(3, 1 / 3))
        >>> bool(jnp.allclose(mean[0].w, bp.grads[0].w))
        True
    """
    return means_like(params, _weighted_total(net, params, bp, weights))


def _weighted_total(net, params, bp, weights):
    """Return Σ_n c_n g_n in float32 at least."""

    def weighted(delta):
        return delta * jnp.asarray(weights, delta.dtype).reshape(-1, *[1] * (delta.ndim - 1))

    return contractions.total(net, params, bp, [weighted(delta) for delta in bp.errors])


def _arguments_of_clipped_gradient(net, params, bp, clip_norm):
    _require_pass(net, params, bp)
    require_scalar(clip_norm, "clip_norm", "a norm of at least 1.2e-38 and finite", TINY, FINITE)
    return net, params, bp, clip_norm


@checked(_arguments_of_clipped_gradient, layout=like_params)
def clipped_gradient(
    net: Network, params: Params, bp: BackwardPass, clip_norm: chex.Numeric
) -> Any:
    """Return the mean of the gradients, each clipped to a norm of at most C.

    (1/n) Σ_n min(1, C / ‖g_n‖) g_n: what DP-SGD takes in place of the gradient, before noise.
    The cost of norms and of one gradient more.

    For DP-SGD, optax adds the noise: with σ its noise multiplier for a batch of n,
    `optax.contrib.differentially_private_aggregate(C, σ / n, key)` takes this mean as the gradient
    of one single example (an axis in front), whose norm is at most C already.

    Args:
        clip_norm: C, a finite number of at least 1.2e-38, or an array () of one.

    Returns:
        A pytree like params.

    Raises:
        ValueError: if params or bp do not fit the network, or clip_norm is not such a number.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax, optax
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> bp = nnjax.backprop(net, params, jnp.eye(3), jnp.array([0, 1, 1]))
        >>> clipped = nnjax.per_example.clipped_gradient(net, params, bp, 0.1)
        >>> bool(optax.tree.norm(clipped) <= 0.1)
        True
        >>> noise = optax.contrib.differentially_private_aggregate(0.1, 1.0 / 3, jax.random.key(1))
        >>> one = jax.tree.map(lambda g: g[None], clipped)
        >>> private, state = noise.update(one, noise.init(params))

    Reference: Abadi et al. 2016, arXiv:1607.00133.
    """
    norms = jnp.sqrt(_squared_norms(net, params, bp))
    clip = jnp.asarray(clip_norm, norms.dtype)
    total = _weighted_total(net, params, bp, clip / jnp.maximum(norms, clip))
    # Divided at the end: weights of 1/n lose their digits in float16.
    return means_like(params, total, norms.shape[0])


class NoiseScale(NamedTuple):
    """How noisy the gradient of a batch is. Average both estimates over steps, then divide.

    Attributes:
        scale: B = tr Σ / ‖G‖², in examples, (): batches much smaller are mostly noise, much larger
            ones a waste.
        trace: an unbiased estimate of tr Σ, the variance of one example's gradient, ().
        squared_norm: an unbiased estimate of ‖G‖², of the true gradient; may be negative, ().
    """

    scale: jax.Array
    trace: jax.Array
    squared_norm: jax.Array


def _arguments_of_noise_scale(net, params, bp):
    if _require_pass(net, params, bp) < 2:
        raise ValueError("bp holds 1 example; a noise scale needs at least 2 to compare")
    return net, params, bp


@checked(_arguments_of_noise_scale)
def gradient_noise_scale(net: Network, params: Params, bp: BackwardPass) -> NoiseScale:
    """Return the simple gradient noise scale B = tr Σ / ‖G‖², from one batch.

    tr Σ ≈ (Σ_n ‖g_n‖² − n ‖ḡ‖²) / (n − 1), ‖G‖² ≈ ‖ḡ‖² − tr Σ / n. Costs what `squared_norms` does.

    Raises:
        ValueError: if params or bp do not fit the network, or there is one example only.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> bp = nnjax.backprop(net, params, jnp.eye(3), jnp.array([0, 1, 1]))
        >>> nnjax.per_example.gradient_noise_scale(net, params, bp)._fields
        ('scale', 'trace', 'squared_norm')

    Reference: McCandlish et al. 2018, arXiv:1812.06162, appendix A. Differs from it in that one
    batch gives both estimates, by its examples, where the paper compares two batch sizes.
    """
    n = bp.errors[0].shape[0]
    wide = [g.astype(at_least_float32(g.dtype)) for g in jax.tree.leaves(_mean(bp))]
    of_mean = sum(jnp.sum(g**2) for g in wide)
    trace = (jnp.sum(_squared_norms(net, params, bp)) - n * of_mean) / (n - 1)
    squared_norm = of_mean - trace / n
    return _narrow(NoiseScale(trace / squared_norm, trace, squared_norm), bp)


def _arguments_of_input_gradients(net, params, bp):
    require_plain_bp(net, params, bp, "input_gradients")
    return net, params, bp


@checked(_arguments_of_input_gradients, layout=like_examples)
def input_gradients(net: Network, params: Params, bp: Backprop) -> jax.Array:
    """Return ∂C_x/∂x, how the loss of every example moves with its input: saliency.

    (w¹)ᵀ δ¹, plus the δ of the sums that x is added in (residual blocks): BP2's first half once
    more. Exact; costs one layer's pull-back.

    Returns:
        (n, *input_shape).

    Raises:
        ValueError: if params or bp do not fit the network.
        TypeError: if bp was made with a feedback.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> bp = nnjax.backprop(net, params, jnp.eye(3), jnp.array([0, 1, 1]))
        >>> nnjax.per_example.input_gradients(net, params, bp).shape
        (3, 3)

    Reference: Simonyan, Vedaldi and Zisserman 2014, arXiv:1312.6034.
    """
    params = one_dtype(params)
    cache = forward_layer(net, params, 0, bp.activations[0], bp.key)[1]
    pull_back = jax.vmap(net.layers[0].pull_back, in_axes=(None, 0, 0))
    return sum((bp.errors[k] for k in net.skips[0]), pull_back(params[0], cache, bp.errors[0]))


def _mean(bp):
    return bp.grads if isinstance(bp, Backprop) else bp.updates


def _squared_norms(net, params, bp):
    """Return ‖g_n‖² (n,) in float32 at least."""
    norms = _each_layer(contractions.squared_norms, net, params, bp)
    return jnp.squeeze(contractions.over_layers(norms, (1, bp.errors[0].shape[0])), axis=0)


def _narrow(tree, bp):
    """Return sums of squares, which are taken in float32 at least, in the network's own dtype."""
    return jax.tree.map(lambda v: v.astype(bp.errors[-1].dtype), tree)


def _each_layer(contract, net, params, bp):
    return contractions.each_layer(contract, net, params, bp, [d[None] for d in bp.errors])
