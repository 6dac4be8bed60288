"""Second-order quantities from one backward pass: Gauss-Newton, K-FAC, Hessian products, the NTK.

The Gauss-Newton matrix (GGN) of the mean loss is G = (1/n) Σ_n J_nᵀ H_n J_n, with J = ∂z^L/∂θ and
H = ∂²C_x/∂z^L², n_out x n_out. Write H = Σ_v s_v s_vᵀ; then G = (1/n) Σ_{n,v} (Jᵀs)(Jᵀs)ᵀ, and
every Jᵀs is a gradient of BP4's form whose errors `backward` gets by carrying s back. So all that
`contractions` does for gradients it does for curvature. Which s decides what comes out:

    seeds                             V        matrix
    exact_seeds(net, bp)              n_out    Gauss-Newton = Fisher, exact
    sampled_seeds(net, bp, key, m)    m        the same in the mean, an approximation
    bp.errors[-1][None]               1        empirical Fisher, with the true labels: another

`ggn_diagonal` and `kronecker_factors` take any of them. Costs count "one gradient" as what
backpropagation of the batch takes. All functions jit and vmap, and take

    net: the network
    params: its parameters
    bp: what `nnjax.backprop` returned for them, without feedback

and raise ValueError or TypeError where these do not fit one another.

For which losses: quadratic with any activation (H is taken at a^L, where the loss is convex);
cross_entropy with sigmoid and log_likelihood with softmax (at z^L), where G is the Fisher matrix of
the model's distribution over labels. Others have no Gauss-Newton matrix that all agree on.

Soft targets: H of softmax with log-likelihood is (Σ_j y_j) c² (diag(a) − a aᵀ). Targets that sum
to 1 change nothing, soft or one-hot; other sums weight their examples.

Where `backprop` was given weights, each C_x counts w_x times, and so does its H.

Legend: n examples, V seeds, J outputs of a layer, K inputs that one output sees, T positions that
share the weights (1 for a dense layer).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from nnjax import contractions
from nnjax.activations import Sigmoid, Softmax
from nnjax.backprop import Backprop, backprop
from nnjax.backward import backward, require_plain_bp
from nnjax.checks import FINITE, TINY, check_key, checked, require_scalar, require_size
from nnjax.layers.base import Affine, AffineLayer
from nnjax.losses import CrossEntropy, LogLikelihood, Quadratic
from nnjax.network import Network, Params, check_params, forward, one_dtype, require_network
from nnjax.pieces import means_like, wide_product
from nnjax.sharding import automatic, like_params

__all__ = [
    "KroneckerFactors",
    "exact_seeds",
    "ggn_diagonal",
    "ggn_vector_product",
    "hessian_vector_product",
    "kfac_step",
    "kronecker_factors",
    "neural_tangent_kernel",
    "precondition",
    "sampled_seeds",
]


def exact_seeds(net: Network, bp: Backprop) -> jax.Array:
    """Return a root of the loss's Hessian at the output: s_v (n_out, n, n_out), Σ_v s_v s_vᵀ = H.

    quadratic: e_v, pulled back through the activation; sigmoid with cross-entropy:
    √(a_v (1 − a_v)) e_v; softmax with log-likelihood: c √(a_v Σ_j y_j) (e_v − a).

    Raises:
        ValueError: if bp is of another network, the pairing of loss and activation is none of
            these, or targets of softmax sum to less than 0.
        TypeError: if bp was made with a feedback.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2], loss=nnjax.log_likelihood)
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> bp = nnjax.backprop(net, params, jnp.eye(3), jnp.array([0, 1, 1]))
        >>> s = nnjax.curvature.exact_seeds(net, bp)
        >>> a = bp.activations[-1][0]
        >>> hessian = jnp.diag(a) - jnp.outer(a, a)
        >>> bool(jnp.allclose(s[:, 0].T @ s[:, 0], hessian, atol=1e-6))
        True

    Reference: Dangel, Kunstner and Hennig 2020, arXiv:1912.10985. Differs from BackPACK in that
    the activation of the output belongs to the network, so sigmoid with quadratic is served too.
    """
    _check_output(net, bp)
    z, a = bp.weighted_inputs[-1], bp.activations[-1]
    activation, unit = net.layers[-1].activation, jnp.eye(net.n_out, dtype=a.dtype)[:, None, :]
    if isinstance(net.loss, Quadratic):
        at_a = jnp.broadcast_to(unit, (net.n_out, *a.shape))
        seeds = jax.vmap(partial(activation.pull_back, z, a))(at_a)
    elif isinstance(net.loss, CrossEntropy):
        seeds = unit * jnp.sqrt(a * (1 - a))[None]
    else:
        seeds = jnp.sqrt(a.T)[:, :, None] * (unit - a[None]) * _softmax_factor(net, bp)[None]
    return _weighted(seeds, bp)


def sampled_seeds(net: Network, bp: Backprop, key: chex.PRNGKey, samples: int = 1) -> jax.Array:
    """Return output errors for labels drawn from the model: s (samples, n, n_out), E Σ_v s sᵀ = H.

    Each is BP1 with a label ŷ from the network's own distribution, over √samples: Bernoulli for
    sigmoid with cross-entropy, categorical for softmax with log-likelihood, N(a, 1) for quadratic.
    V = 1 in place of n_out, at the price of noise: the cheap way to the Fisher matrix.

    Args:
        key: a random key.
        samples: labels per example.

    Raises:
        ValueError, TypeError: as `exact_seeds`; if samples is not at least 1 or key not a key.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2], loss=nnjax.log_likelihood)
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> bp = nnjax.backprop(net, params, jnp.eye(3), jnp.array([0, 1, 1]))
        >>> nnjax.curvature.sampled_seeds(net, bp, jax.random.key(1), samples=4).shape
        (4, 3, 2)

    Reference: Martens and Grosse 2015, arXiv:1503.05671, section 5.
    """
    _check_output(net, bp)
    check_key(key)
    require_size(samples, "samples")
    z, a = bp.weighted_inputs[-1], bp.activations[-1]
    activation: Any = net.layers[-1].activation
    shape = (samples, *a.shape)
    if isinstance(net.loss, Quadratic):
        errors = jax.vmap(partial(activation.pull_back, z, a))(
            jax.random.normal(key, shape, a.dtype)
        )
    elif isinstance(net.loss, CrossEntropy):
        errors = a[None] - jax.random.bernoulli(key, a[None], shape).astype(a.dtype)
    else:
        labels = jax.random.categorical(key, activation.log(z), shape=shape[:-1])
        errors = a[None] - jax.nn.one_hot(labels, net.n_out, dtype=a.dtype)
        errors = errors * _softmax_factor(net, bp)[None]
    return _weighted(errors / np.sqrt(samples).astype(a.dtype), bp)


def ggn_diagonal(net: Network, params: Params, bp: Backprop, seeds: jax.Array | None = None) -> Any:
    """Return the diagonal of the Gauss-Newton matrix, shaped as the parameters.

    T = 1: (1/n) Σ_{n,v} δ_{vnj}² a_{nk}², one contraction; else V gradients an example are
    instantiated, in chunks. Exact, for the matrix that the seeds stand for. Costs V backward
    passes without BP4, and one gradient.

    Args:
        seeds: (V, n, n_out), see the module; None: `exact_seeds`.

    Raises:
        ValueError, TypeError: if params, bp or seeds do not fit the network, or see `exact_seeds`.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 4, 2], loss=nnjax.log_likelihood)
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> bp = nnjax.backprop(net, params, jnp.eye(3), jnp.array([0, 1, 1]))
        >>> exact = nnjax.curvature.ggn_diagonal(net, params, bp)
        >>> seeds = nnjax.curvature.sampled_seeds(net, bp, jax.random.key(1), samples=10_000)
        >>> sampled = nnjax.curvature.ggn_diagonal(net, params, bp, seeds)
        >>> bool(jnp.allclose(exact[0].w, sampled[0].w, rtol=0.1))
        True

    Reference: Dangel, Kunstner and Hennig 2020, arXiv:1912.10985: DiagGGNExact, DiagGGNMC, here
    told apart by the seeds.
    """
    n = require_plain_bp(net, params, bp, "ggn_diagonal")
    errors = backward(net, params, bp, exact_seeds(net, bp) if seeds is None else seeds)
    squares = _each_layer(contractions.sum_of_squares, net, params, bp, errors)
    return jax.tree.map(lambda total: (total / n).astype(bp.errors[-1].dtype), squares)


class KroneckerFactors(NamedTuple):
    """Two small matrices whose product stands for one layer's block of the Gauss-Newton matrix.

    The block is about g ⊗ a, for the parameters in the order of [w | b] (J, K + 1), row by row.

    Attributes:
        a: of the inputs with a 1 for the bias, (K + 1, K + 1).
        g: of the errors, (J, J).
    """

    a: jax.Array
    g: jax.Array


def kronecker_factors(
    net: Network, params: Params, bp: Backprop, seeds: jax.Array | None = None
) -> tuple[Any, ...]:
    """Return the Kronecker factors (K-FAC) of every layer.

    A = (1/n) Σ_{n,t} x̄ x̄ᵀ with x̄ = (x, 1), G = (1/nT) Σ_{v,n,t} δ δᵀ. G ⊗ A is the block of the
    Gauss-Newton matrix if inputs and errors are independent of each other, and positions too:
    exactly so for one example, and for linear networks with quadratic loss (both with T = 1); else
    it is an approximation. Costs V backward passes without BP4, and products n T (K² + V J²).

    Args:
        seeds: (V, n, n_out); None: `exact_seeds` (also known as KFLR). `sampled_seeds` give
            K-FAC proper, `bp.errors[-1][None]` the empirical one.

    Returns:
        One entry per layer: `KroneckerFactors(a, g)` in float32 at least, or () where there are no
        parameters.

    Raises:
        ValueError, TypeError: if params, bp or seeds do not fit the network, or see `exact_seeds`.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 4, 2], loss=nnjax.log_likelihood)
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> bp = nnjax.backprop(net, params, jnp.eye(3), jnp.array([0, 1, 1]))
        >>> [f.a.shape + f.g.shape for f in nnjax.curvature.kronecker_factors(net, params, bp)]
        [(4, 4, 4, 4), (5, 5, 2, 2)]

    Reference: Martens and Grosse 2015, arXiv:1503.05671; convolutions: Grosse and Martens 2016,
    arXiv:1602.01407 (KFC; "expand" in Eschenhagen et al. 2023, arXiv:2311.00636). Differs from
    BackPACK, which keeps the bias as a block of its own and whose factors G of convolutions are T
    times larger, as they lack the 1/T of KFC; and from kfac-jax, which averages over steps.
    """
    require_plain_bp(net, params, bp, "kronecker_factors")
    errors = backward(net, params, bp, exact_seeds(net, bp) if seeds is None else seeds)
    for l, layer in enumerate(net.layers):
        affine = isinstance(layer, AffineLayer) and layer.groups == 1
        if jax.tree.leaves(params[l]) and not affine:
            raise TypeError(
                f"layers[{l}] is {layer}, which has parameters but is not an affine layer of one "
                "group; Kronecker factors stand for z = w X + b alone"
            )
    return _each_layer(_kronecker_factors, net, params, bp, errors)


def _kronecker_factors(f):
    x, d = contractions.inputs_and_errors(f)
    n, positions = x.shape[:2]
    x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1).reshape(n * positions, -1)
    d = d.reshape(-1, d.shape[-1])
    return KroneckerFactors(a=wide_product(x.T, x) / n, g=wide_product(d.T, d) / (n * positions))


def _precondition_arguments(factors, grads, damping):
    require_scalar(damping, "damping", "a number of at least 1.2e-38 and finite", TINY, FINITE)
    if not _same_shapes(factors, grads):
        raise TypeError(
            f"grads is a {type(grads).__name__} that the factors do not fit; expected the gradient "
            "that nnjax.backprop returns, or anything shaped as the parameters"
        )
    return factors, grads, damping


def _same_shapes(factors, grads):
    """Return whether these are gradients of the layers that the factors belong to."""
    if not isinstance(grads, tuple | list) or len(grads) != len(factors):
        return False
    return all(
        isinstance(grad, Affine)
        and np.shape(grad.b) == (len(factor.g),)
        and np.size(grad.w) == len(factor.g) * (len(factor.a) - 1)
        for factor, grad in zip(factors, grads, strict=True)
        if factor
    )


@checked(_precondition_arguments, layout=like_params)
def precondition(factors: tuple[Any, ...], grads: Any, damping: chex.Numeric) -> Any:
    """Return (G ⊗ A + λ)⁻¹ ∇C, layer by layer: the direction of an approximate Newton step.

    (G + √λ/π)⁻¹ [∂w | ∂b] (A + π√λ)⁻¹, with π² = (tr A / dim A) / (tr G / dim G), which splits
    the damping so as to suit both factors. Exact but for the damping, which is an approximation:
    √λ is added to each factor, not λ to the product. Costs the Cholesky factors, (K³ + J³)/3.

    Args:
        factors: from `kronecker_factors`.
        grads: the gradient, or anything shaped as the parameters.
        damping: λ, at least 1.2e-38, in units of the Gauss-Newton matrix.

    Raises:
        ValueError: if damping is not such a number.
        TypeError: if grads are not shaped as the parameters that the factors belong to.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 4, 2], loss=nnjax.log_likelihood)
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> bp = nnjax.backprop(net, params, jnp.eye(3), jnp.array([0, 1, 1]))
        >>> factors = nnjax.curvature.kronecker_factors(net, params, bp)
        >>> direction = nnjax.curvature.precondition(factors, bp.grads, damping=0.01)
        >>> direction[0].w.shape
        (4, 3)

    Reference: Martens and Grosse 2015, arXiv:1503.05671, section 6.3.
    """
    return tuple(_solve(f, g, damping) if f else g for f, g in zip(factors, grads, strict=True))


def _solve(factors, grad, damping):
    a, g = factors
    size_a, size_g = jnp.trace(a) / len(a), jnp.trace(g) / len(g)
    balanced = (size_a > 0) & (size_g > 0)
    pi = jnp.where(balanced, jnp.sqrt(size_a / jnp.where(balanced, size_g, 1)), 1)
    root = jnp.sqrt(jnp.asarray(damping, a.dtype))
    a = jax.scipy.linalg.cho_factor(a + pi * root * jnp.eye(len(a), dtype=a.dtype))
    g = jax.scipy.linalg.cho_factor(g + root / pi * jnp.eye(len(factors.g), dtype=g.dtype))
    matrix = jnp.concatenate([grad.w.reshape(len(grad.b), -1), grad.b[:, None]], axis=1)
    matrix = jax.scipy.linalg.cho_solve(g, matrix.astype(root.dtype))
    matrix = jax.scipy.linalg.cho_solve(a, matrix.T).T
    return means_like(grad, Affine(w=matrix[:, :-1].reshape(grad.w.shape), b=matrix[:, -1]))


def kfac_step(
    net: Network,
    params: Params,
    x: ArrayLike,
    y: ArrayLike,
    eta: chex.Numeric,
    key: chex.PRNGKey,
    damping: chex.Numeric = 0.01,
) -> Params:
    """Return the parameters after one K-FAC step on one mini-batch: natural gradient descent.

    θ → θ − η (G ⊗ A + λ)⁻¹ ∇C, with factors from this mini-batch and labels sampled from the
    model. `sgd_step` with curvature: take batches of some hundreds. Costs about two gradients and
    the Cholesky factors.

    Args:
        net: the network, all whose parameters belong to affine layers.
        params: its parameters.
        x: (n, *input_shape) the inputs of the mini-batch.
        y: (n, n_out) targets, or (n,) integer classes.
        eta: the learning rate η, at least 0; about 1 where the damping is large enough.
        key: a random key, for the sampled labels and dropout.
        damping: λ, at least 1.2e-38.

    Raises:
        ValueError, TypeError: if an argument does not fit the network or is out of range.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 4, 2], loss=nnjax.log_likelihood)
        >>> params, key = nnjax.init(net, jax.random.key(0)), jax.random.key(1)
        >>> x, y = jnp.eye(3), jnp.array([0, 1, 1])
        >>> stepped = nnjax.curvature.kfac_step(net, params, x, y, 0.5, key, damping=0.1)
        >>> bool(nnjax.loss(net, stepped, x, y) < nnjax.loss(net, params, x, y))
        True

    Reference: Martens and Grosse 2015, arXiv:1503.05671. Differs from it and from kfac-jax in that
    factors are those of the mini-batch, not averaged over steps, and damping and rate are yours.
    """
    require_network(net)
    require_scalar(eta, "eta", "a learning rate of at least 0 and finite", 0, FINITE)
    check_key(key)
    dropout_key, label_key = jax.random.split(key)
    random = any(layer.random for layer in net.layers)
    bp = backprop(net, params, x, y, dropout_key if random else None)
    factors = kronecker_factors(net, params, bp, sampled_seeds(net, bp, label_key))
    direction = precondition(factors, bp.grads, damping)
    return jax.tree.map(lambda p, d: p - jnp.asarray(eta, p.dtype) * d, params, direction)


def ggn_vector_product(net: Network, params: Params, bp: Backprop, vector: Any) -> Any:
    """Return G v, the Gauss-Newton matrix times a vector.

    J v by forward-mode differentiation, H through its root, Jᵀ by `backward`. Exact; costs about
    two gradients, no matrix of the size of the parameters squared.

    Args:
        vector: v, of the structure and shapes of the parameters.

    Raises:
        ValueError, TypeError: if params, bp or v do not fit the network, or see `exact_seeds`.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 4, 2], loss=nnjax.log_likelihood)
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> bp = nnjax.backprop(net, params, jnp.eye(3), jnp.array([0, 1, 1]))
        >>> product = nnjax.curvature.ggn_vector_product(net, params, bp, bp.grads)
        >>> products = jax.tree.map(lambda v, gv: jnp.sum(v * gv), bp.grads, product)
        >>> bool(sum(jax.tree.leaves(products)) >= 0)
        True

    Reference: Schraudolph 2002, Neural Computation 14:1723.
    """
    require_plain_bp(net, params, bp, "ggn_vector_product")
    check_params(net, vector, "vector")
    return _ggn_vector_product(net, params, bp, exact_seeds(net, bp), vector)


@jax.jit
@partial(automatic, layout=like_params)
def _ggn_vector_product(net, params, bp, seeds, vector):
    def outputs(params):
        return forward(net, params, bp.activations[0], bp.key).weighted_inputs[-1]

    n, computed = seeds.shape[1], one_dtype(params)
    jv = jax.jvp(outputs, (computed,), (_like(computed, vector),))[1]
    hjv = jnp.einsum("vno,vnp,np->no", seeds, seeds, jv)
    errors = backward(net, params, bp, hjv[None])
    total = contractions.total(net, params, bp, [delta[0] for delta in errors])
    return means_like(params, total, n)


def hessian_vector_product(net: Network, params: Params, bp: Backprop, vector: Any) -> Any:
    """Return ∇²C v, the Hessian of the mean loss times a vector.

    The derivative of the hand-written gradient in the direction v, by forward-mode
    differentiation: Pearlmutter's R-operator. Exact, for any loss; costs about two gradients.

    Args:
        vector: v, of the structure and shapes of the parameters.

    Raises:
        ValueError, TypeError: if params, bp or v do not fit the network.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 4, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> bp = nnjax.backprop(net, params, jnp.eye(3), jnp.array([0, 1, 1]))
        >>> nnjax.curvature.hessian_vector_product(net, params, bp, bp.grads)[0].w.shape
        (4, 3)

    Reference: Pearlmutter 1994, Neural Computation 6:147.
    """
    require_plain_bp(net, params, bp, "hessian_vector_product")
    check_params(net, vector, "vector")

    def gradient(params):
        x, y = bp.activations[0], bp.targets
        return backprop(net, params, x, y, bp.key, weights=bp.weights).grads

    return jax.jvp(gradient, (params,), (_like(params, vector),))[1]


def neural_tangent_kernel(
    net: Network, params: Params, bp: Backprop, seeds: jax.Array | None = None
) -> jax.Array:
    """Return the empirical neural tangent kernel Θ = J Jᵀ, (n, n, n_out, n_out).

    Θ_{n,m,v,u} = ⟨∂z^L_v(x_n)/∂θ, ∂z^L_u(x_m)/∂θ⟩. T = 1: (δ_{vn}·δ_{um})(a_n·a_m + 1) summed over
    the layers, and no Jacobian is written down; else some filters at a time. Exact; costs n_out
    backward passes without BP4, and n² n_out² (J + 1) + n² K a layer.

    Args:
        seeds: (V, n, n_out), combinations of outputs; None: each output by itself.

    Returns:
        (n, n, V, V), in the order of `neural_tangents`.

    Raises:
        ValueError, TypeError: if params, bp or seeds do not fit the network.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 4, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> bp = nnjax.backprop(net, params, jnp.eye(3), jnp.array([0, 1, 1]))
        >>> nnjax.curvature.neural_tangent_kernel(net, params, bp).shape
        (3, 3, 2, 2)

    Reference: Jacot, Gabriel and Hongler 2018, arXiv:1806.07572. Differs from `neural_tangents` in
    that the outputs are z^L, before the activation of the last layer.
    """
    n = require_plain_bp(net, params, bp, "neural_tangent_kernel")
    if seeds is None:
        unit = jnp.eye(net.n_out, dtype=bp.errors[-1].dtype)
        seeds = jnp.broadcast_to(unit[:, None, :], (net.n_out, n, net.n_out))
    errors = backward(net, params, bp, seeds)
    grams = _each_layer(contractions.gram, net, params, bp, errors)
    kernel = contractions.over_layers(grams, errors[-1].shape[:2] * 2).astype(bp.errors[-1].dtype)
    return jnp.transpose(kernel, (1, 3, 0, 2))


def _like(params, vector):
    """Return the vector in the dtypes of the parameters, as `jax.jvp` requires."""
    return jax.tree.map(lambda p, v: jnp.asarray(v, p.dtype), params, vector)


_each_layer = jax.jit(automatic(contractions.each_layer), static_argnums=0)


def _check_output(net, bp):
    require_plain_bp(net, None, bp, "curvature")
    activation, loss = net.layers[-1].activation, net.loss
    pairs = [(Quadratic, object), (CrossEntropy, Sigmoid), (LogLikelihood, Softmax)]
    if not any(isinstance(loss, a) and isinstance(activation, b) for a, b in pairs):
        raise ValueError(
            f"{loss.name} with {activation.name} has no Gauss-Newton matrix "
            "that all agree on; it is there for quadratic with any activation, cross_entropy with "
            "sigmoid and log_likelihood with softmax (hessian_vector_product serves any pairing)"
        )


def _weighted(seeds, bp):
    """Return √w s, whose Σ_v s_v s_vᵀ is w H, for the weights of the examples."""
    if bp.weights is None:
        return seeds
    seeds = seeds * jnp.sqrt(bp.weights).astype(seeds.dtype)[None, :, None]
    return jnp.where((bp.weights == 0)[None, :, None], jnp.zeros_like(seeds), seeds)


def _softmax_factor(net, bp):
    """Return c √(Σ_j y_j), (n, 1): 1 for probabilities and c = 1."""
    sums = jnp.sum(bp.targets, axis=-1, keepdims=True)
    if not isinstance(sums, jax.core.Tracer) and bool(jnp.any(sums < 0)):
        raise ValueError(
            f"bp.targets sum to {float(jnp.min(sums)):.3g} in an example; the curvature of softmax "
            "with log_likelihood is that sum times the covariance of the classes, so it must be "
            "at least 0 (1 for one-hot and for soft targets that are probabilities)"
        )
    return net.layers[-1].activation.scale * jnp.sqrt(sums)
