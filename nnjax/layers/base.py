"""What a layer is: a map z = f(a) that is affine (or piecewise affine), then an activation.

Legend: n examples, J outputs of a layer (n_out, filters), K inputs that one output sees (n_in,
kernel area times channels), T positions where the same weights are used (1 for a dense layer).

All functions are written for ONE example, in the notation of the book, and batched by `jax.vmap`.
`gradients` alone may also be handed a whole batch: it sums over rows, and a mini-batch is just
more rows, so that the gradient of a batch is one matrix product.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from nnjax.activations import Activation, identity
from nnjax.initializers import Initializer, draw, split
from nnjax.notation import Named
from nnjax.pieces import at_least_float32, wide_product

__all__ = ["Affine", "AffineLayer", "Layer", "Shape"]

Shape = tuple[int, ...]


class Affine(NamedTuple):
    """The parameters of a layer: weights w, outputs first, and biases b (J,).

    Example:
        >>> import jax, nnjax
        >>> nnjax.init(nnjax.mlp([4, 3]), jax.random.key(0))[0].w.shape
        (3, 4)
    """

    w: jax.Array
    b: jax.Array


class Layer(Named):
    """A layer without parameters, and the base of all others: subclass it as a frozen dataclass.

    A subclass defines `out_shape`, `forward` and `pull_back`; with parameters, `init` and
    `gradients` too. It sets `random` where training draws random numbers, and `skip` where the
    network adds to z what went into the layer that many places before. To be a word in
    `nnjax.architecture` as well, it sets `name` and `pattern`, defines `parse` and `word`, and
    stands in `nnjax.layers.LAYERS`.

    Example:
        >>> import dataclasses, jax, nnjax
        >>> @dataclasses.dataclass(frozen=True)
        ... class Scale(nnjax.layers.Layer):
        ...     factor: float
        ...     def out_shape(self, in_shape):
        ...         return in_shape
        ...     def forward(self, params, a, key):
        ...         return self.factor * a, None
        ...     def pull_back(self, params, cache, delta):
        ...         return self.factor * delta
        >>> net = nnjax.Network(3, [Scale(2.0), nnjax.Dense(2)], nnjax.cross_entropy)
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> x, y = jax.numpy.ones((5, 3)), jax.numpy.ones((5, 2))
        >>> nnjax.backprop(net, params, x, y).errors[0].shape
        (5, 3)
    """

    pattern: ClassVar[str] = ""
    activation: Activation = identity
    random: bool = False
    skip: int = 0

    def out_shape(self, in_shape: Shape) -> Shape:
        """Return the shape of z for one example, given that of a; refuse what does not fit."""
        raise NotImplementedError(f"{type(self).__name__} must define out_shape(in_shape)")

    def init(self, key: jax.Array, in_shape: Shape, dtype: Any = float) -> Any:
        """Return the parameters: `Affine(w, b)`, or `()` for a layer that has none."""
        return ()

    def forward(self, params: Any, a: jax.Array, key: jax.Array | None) -> tuple[jax.Array, Any]:
        """Return z and what the backward pass has to remember. key: None at inference."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(params, a, key)")

    def pull_back(self, params: Any, cache: Any, delta: jax.Array) -> jax.Array:
        """Return ∂C/∂a, given δ = ∂C/∂z: for an affine layer wᵀδ, the first half of BP2."""
        raise NotImplementedError(
            f"{type(self).__name__} must define pull_back(params, cache, delta)"
        )

    def gradients(self, cache: Any, delta: jax.Array) -> Any:
        """Return the gradient with respect to the parameters, summed over all rows of δ.

        Of arrays in 16 bits the sums are float32: in float16 they would end at 65,504.
        """
        return ()

    def patch_numbers(self, in_shape: Shape) -> int:
        """Return how many numbers the layer writes for one example in addition to z: patches."""
        return 0

    @classmethod
    def parse(cls, parts: Any, activation: Activation, initializer: Initializer) -> Layer:
        """Return the layer that a word of an architecture stands for.

        Args:
            parts: the groups of `pattern`, which is what follows the name in the word.
            activation: of layers that name none.
            initializer: of its parameters.
        """
        return cls()

    def word(self) -> str:
        """Return the layer as a word that `nnjax.architecture` reads, or else as it prints."""
        return str(self)


class AffineLayer(Layer):
    """A layer z = w X + b, where X (T, K) are the inputs that meet the weights: BP3 and BP4.

    A subclass defines `w_shape(in_shape)`, `inputs(cache)`, `forward` and `pull_back`. With more
    than one of `groups`, in each of which other inputs meet other weights, there is no one X: it
    defines `gradients` in place of `inputs`.
    """

    initializer: Initializer
    groups: int = 1

    def w_shape(self, in_shape: Shape) -> Shape:
        """Return the shape of the weights: outputs first, input channels last."""
        raise NotImplementedError(f"{type(self).__name__} must define w_shape(in_shape)")

    def inputs(self, cache: Any) -> jax.Array:
        """Return X, (T, K) or, of a batch, (n, T, K): the a^{l-1} that meets δ^l in BP4."""
        raise NotImplementedError(f"{type(self).__name__} must define inputs(cache)")

    def init(self, key, in_shape, dtype=float):
        shape = self.w_shape(in_shape)
        key_w, key_b = split(key, 2)
        return Affine(
            w=draw(self.initializer.weights, key_w, shape, dtype),
            b=draw(self.initializer.biases, key_b, shape[:1], dtype),
        )

    def gradients(self, cache, delta):
        x = self.inputs(cache)
        x, delta = x.reshape(-1, x.shape[-1]), delta.reshape(-1, delta.shape[-1])
        wide = at_least_float32(delta.dtype)
        return Affine(
            w=wide_product(delta.T, x),  #             BP4  ∂C/∂w_jk = a_k^{l-1} δ_j^l
            b=jnp.sum(delta, axis=0, dtype=wide),  #   BP3  ∂C/∂b_j  = δ_j^l
        )
