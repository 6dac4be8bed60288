"""Sums over products of inputs and errors: what a layer's per-example gradients come to.

By BP4 the gradient of one example is g = δᵀ X. Nearly everything one wants to know of the n
gradients, their norms, their inner products, the sums of their squares, is a contraction of X and
δ that never writes the gradients down. Here are these contractions, for one layer at a time;
`per_example` and `curvature` put layers together.

Legend: n examples, V vectors per example that were carried back (1 for the errors themselves),
J outputs of a layer, K inputs that one output sees, T positions that share the weights (1 for a
dense layer), X (n, T, K), D (V, n, T, J).

For T = 1 every contraction is exact and costs about one gradient. For T > 1 the contributions of
the positions to one gradient overlap, so that ‖g‖² is not ‖δ‖² ‖X‖² but
Σ_{t,s} (X_t·X_s)(δ_t·δ_s), the inner product of two T x T Gram matrices. This takes 2T² numbers an
example: a good way as long as that is at most J·K, the number of weights (Bu et al. 2022,
arXiv:2205.10683), and the work no more either. Beyond, and for layers that are not an
`AffineLayer` of one group, gradients are instantiated, a piece of the examples at a time. Squares
are taken in float32 at least: those of float16 end at 65,504.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nnjax.layers.base import Affine, AffineLayer, Layer
from nnjax.network import Network, Params, forward_layer, layer_keys, one_dtype
from nnjax.pieces import at_least_float32, equal_size, map_in_pieces, sum_in_pieces

__all__ = [
    "Factors",
    "by_gram",
    "each_layer",
    "factors",
    "gradient",
    "gram",
    "inputs_and_errors",
    "instantiate",
    "over_layers",
    "squared_norms",
    "sum_of_squares",
    "total",
]

_PIECE = 2**21  # numbers instantiated at once: what stays near the caches of a CPU


class Factors(NamedTuple):
    """What the gradients of one layer are made of.

    Attributes:
        layer: the layer.
        params: its parameters.
        a: what goes into it, (n, ...).
        keys: n random keys, or None.
        deltas: vectors carried back to its z, (V, n, ...).
    """

    layer: Layer
    params: Any
    a: jax.Array
    keys: jax.Array | None
    deltas: jax.Array


def factors(net: Network, params: Params, bp: Any, errors: Any) -> list[Factors | None]:
    """Return the factors of every layer that has parameters, None for the others.

    Args:
        net, params: the network and its parameters.
        bp: what `backprop` returns.
        errors: one (V, n, ...) per layer, from `backward`, or `bp.errors` with an axis in front.
    """
    return [
        Factors(layer, p, a, layer_keys(net, l, a.shape[0], bp.key), deltas)
        if jax.tree.leaves(p)
        else None
        for l, (layer, p, a, deltas) in enumerate(
            zip(net.layers, one_dtype(params), bp.activations, errors, strict=False)
        )
    ]


def each_layer(
    contract: Callable[[Factors], Any], net: Network, params: Params, bp: Any, errors: Any
) -> tuple[Any, ...]:
    """Return what a contraction gives for each layer, () where there are no parameters."""
    return tuple(() if f is None else contract(f) for f in factors(net, params, bp, errors))


def over_layers(of_layers: Any, shape: tuple[int, ...]) -> jax.Array:
    """Return the sum of what `each_layer` gives; zeros of this shape where no layer has parameters.

    Example:
        >>> from nnjax.contractions import over_layers
        >>> over_layers(((), ()), (3,)).tolist()
        [0.0, 0.0, 0.0]
    """
    return jax.tree.reduce(jnp.add, jax.tree.leaves(of_layers) or [jnp.zeros(shape)])


def gradient(layer: Layer, params: Any, a: jax.Array, key: Any, delta: jax.Array) -> Any:
    """Return the gradient of one example: BP3 and BP4 by the layer's own `gradients`."""
    return layer.gradients(layer.forward(params, a, key)[1], delta)


def total(net: Network, params: Params, bp: Any, errors: Any) -> Params:
    """Return the sum of all gradients, given one (n, ...) per layer in place of `bp.errors`.

    In float32 at least: see `nnjax.pieces.means_like`.
    """
    params = one_dtype(params)

    def of_layer(l):
        cache = forward_layer(net, params, l, bp.activations[l], bp.key)[1]
        return net.layers[l].gradients(cache, errors[l])

    return tuple(of_layer(l) if jax.tree.leaves(p) else () for l, p in enumerate(params))


def instantiate(f: Factors) -> Any:
    """Return all gradients, each leaf (V, n, *shape of the parameter). Memory: V·n times theirs.

    Where X is there, g = δᵀ X is one product for each example, of its V vectors side by side: a
    layer's own `gradients` is made for the sum over a batch, and arranges X for that.
    """
    if _positions(f):
        x, d = inputs_and_errors(f)
        n_seeds, n, positions, _ = d.shape
        rows = jnp.moveaxis(d, 0, 2).reshape(n, positions, -1)  # (n, T, V·J)
        w = jnp.einsum("ntj,ntk->njk", rows, x).reshape(n, n_seeds, *f.params.w.shape)
        return Affine(w=jnp.moveaxis(w, 1, 0), b=jnp.sum(d, axis=2))
    per_example = jax.vmap(gradient, in_axes=(None, None, 0, 0, 0))
    per_seed = jax.vmap(per_example, in_axes=(None, None, None, None, 0))
    return per_seed(f.layer, f.params, f.a, f.keys, f.deltas)


def inputs_and_errors(f: Factors) -> tuple[jax.Array, jax.Array]:
    """Return X (n, T, K) and D (V, n, T, J) of an affine layer."""
    assert isinstance(f.layer, AffineLayer)
    cache = jax.vmap(f.layer.forward, in_axes=(None, 0, 0))(f.params, f.a, f.keys)[1]
    x = jax.vmap(f.layer.inputs)(cache)
    n_seeds, n = f.deltas.shape[:2]
    return x, f.deltas.reshape(n_seeds, n, x.shape[1], -1)


def squared_norms(f: Factors) -> Any:
    """Return ‖g‖² of every gradient, each leaf (V, n)."""
    if not by_gram(f):
        each = _in_pieces(map_in_pieces, lambda g: jnp.sum(g**2, range(2, g.ndim)).T, f)
        return jax.tree.map(jnp.transpose, each)
    x, d = map(_wide, inputs_and_errors(f))
    of_b = jnp.sum(jnp.sum(d, axis=2) ** 2, axis=2)
    if x.shape[1] == 1:
        return Affine(w=of_b * jnp.sum(x**2, axis=(1, 2))[None], b=of_b)
    positions_x = jnp.einsum("ntk,nsk->nts", x, x)
    positions_d = jnp.einsum("vntj,vnsj->vnts", d, d)
    return Affine(w=jnp.einsum("nts,vnts->vn", positions_x, positions_d), b=of_b)


def sum_of_squares(f: Factors) -> Any:
    """Return Σ g² over all vectors and examples, element by element: shaped as the parameters."""
    if _positions(f) != 1:
        return _in_pieces(sum_in_pieces, lambda g: jnp.sum(g**2, axis=(0, 1)), f)
    x, d = map(_wide, inputs_and_errors(f))
    squares = jnp.sum(d**2, axis=(0, 2))
    w = squares.T @ jnp.squeeze(x, axis=1) ** 2
    return Affine(w=w.reshape(f.params.w.shape), b=jnp.sum(squares, axis=0))


def gram(f: Factors) -> jax.Array:
    """Return the inner products of all gradients, (V, n, V, n)."""
    shape = f.deltas.shape[:2] * 2
    if not _positions(f):
        rows = [_wide(g).reshape(math.prod(shape[:2]), -1) for g in jax.tree.leaves(instantiate(f))]
        return jax.tree.reduce(jnp.add, [g @ g.T for g in rows]).reshape(shape)
    x, d = map(_wide, inputs_and_errors(f))
    of_b = jnp.einsum("vnj,umj->vnum", *[jnp.sum(d, axis=2)] * 2)
    if x.shape[1] == 1:
        x = jnp.squeeze(x, axis=1)
        return of_b * (1 + x @ x.T)[None, :, None, :]

    def of_filters(d):
        g = jnp.einsum("jvnt,ntk->vnjk", d, x).reshape(math.prod(shape[:2]), -1)
        return g @ g.T

    size = max(1, _PIECE // (math.prod(shape[:2]) * x.shape[2]))
    of_w = sum_in_pieces(of_filters, jnp.moveaxis(d, 3, 0), size)
    return of_w.reshape(shape) + of_b


def _positions(f):
    """Return T, or 0 for a layer that is not affine or has groups."""
    if not isinstance(f.layer, AffineLayer) or f.layer.groups > 1:
        return 0
    return math.prod(f.deltas.shape[2:-1])


def by_gram(f: Factors) -> bool:
    """Return whether squared norms come from Gram matrices: T = 1, or less memory and work.

    Memory: 2T² against J·K numbers. Work: T²(J + K) multiplications against T·J·K, with a quarter
    allowed for the J·K numbers that are not written: of the shapes in `scripts/bench.py` Gram
    matrices are level with autodiff at a ratio of 1.7 and ahead at 1.1.
    """
    positions = _positions(f)
    if positions <= 1:
        return positions == 1  # 0: not an affine layer
    weights, per_position = f.params.w.size, f.params.w.shape[0] + f.params.w[0].size
    return 2 * positions**2 <= weights and positions * per_position <= 1.25 * weights


def _in_pieces(way, reduce, f):
    """Return what `map_in_pieces` or `sum_in_pieces` makes of reduce(g), g (V, c, ...)."""

    def one_piece(examples):
        a, keys, deltas = examples
        piece = f._replace(a=a, keys=keys, deltas=jnp.moveaxis(deltas, 0, 1))
        return jax.tree.map(lambda g: reduce(_wide(g)), instantiate(piece))

    size = len(f.deltas) * sum(leaf.size for leaf in jax.tree.leaves(f.params))
    examples = f.a, f.keys, jnp.moveaxis(f.deltas, 1, 0)
    return way(one_piece, examples, equal_size(f.a.shape[0], max(1, _PIECE // size)))


def _wide(g):
    """Return g in float32 at least, so that its squares and their sums do not overflow."""
    return g.astype(at_least_float32(g.dtype))
