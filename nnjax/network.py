"""A network: what it is, how it starts, what it computes.

The description holds no arrays. It is hashable and static, so it passes through `jit`, `grad` and
`vmap` as it is, and two equal descriptions share one compiled program. The parameters are a tuple
with one entry a layer, `Affine(w, b)` or `()`.

Inputs x are (n, *input_shape), one row an example. uint8 images are read as grey levels and
divided by 255 (see `grey_levels`); everything else is cast to the dtype of the parameters, which
decides in which precision the network computes. A network that begins with a vector takes images
too, flattened row by row.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from nnjax.activations import Activation, identity, sigmoid
from nnjax.checks import (
    check_key,
    checked,
    require_dtype,
    require_floating,
    require_real_array,
    require_size,
)
from nnjax.display import heading, shape_text, table
from nnjax.initializers import Initializer, default, split
from nnjax.layers.base import Layer, Shape
from nnjax.layers.conv import Conv
from nnjax.layers.dense import Dense
from nnjax.layers.onednn import asked_for
from nnjax.layers.pool import MaxPool, MaxPoolThen
from nnjax.layers.residual import Residual, in_a_row, next_shape
from nnjax.losses import Loss, cross_entropy, require_loss
from nnjax.pieces import at_least_float32, equal_size, map_in_pieces
from nnjax.sharding import like_examples
from nnjax.tasks import takes_numbers

__all__ = [
    "NUMBERS_FORWARD",
    "ForwardPass",
    "Network",
    "check_batch",
    "check_params",
    "check_weights",
    "example_keys",
    "examples_at_once",
    "feedforward",
    "forward",
    "forward_layer",
    "grey_levels",
    "init",
    "layer_keys",
    "loss",
    "microbatch_size",
    "mlp",
    "one_dtype",
    "require_network",
    "wide_outputs",
    "without_weight",
]

Params = tuple[Any, ...]
PIECE = 1000  # examples worked through at once where a whole data set comes in
_PATCH_NUMBERS = 2**20  # that a layer writes at once in addition to its z: what stays in the caches
NUMBERS_FORWARD = 2**24  # the same where patches are rarely written: forward alone, by oneDNN


@jax.tree_util.register_static
@dataclass(frozen=True, init=False)
class Network:
    """What a network is: the shape of one input, its layers, its loss.

    Args:
        input_shape: of one example: n_in, (n_in,) or (height, width, channels).
        layers: descriptions such as `Dense(30)`, from the input to the output. A block of layers,
            `Residual`, stands for its layers in a row and the sum that closes it.
        loss: one of `nnjax.losses`.

    Raises:
        ValueError: if a layer does not fit what comes in, or the output is not a vector.
        TypeError: if a layer or the loss is none of nnjax's.

    Example:
        >>> import nnjax
        >>> net = nnjax.Network(784, [nnjax.Dense(30), nnjax.Dense(10)], nnjax.quadratic)
        >>> net.shapes
        ((784,), (30,), (10,))
    """

    input_shape: Shape
    layers: tuple[Layer, ...]
    loss: Loss

    def __init__(
        self, input_shape: int | Sequence[int], layers: Sequence[Layer | Residual], loss: Loss
    ):
        shape = tuple(input_shape) if isinstance(input_shape, Sequence) else (input_shape,)
        if not shape:
            raise ValueError("input_shape is (); expected n_in or (height, width, channels)")
        for size in shape:
            require_size(size, "a size in input_shape")
        if not isinstance(layers, Sequence) or not layers:
            raise ValueError(f"layers is {layers!r}; expected a list of at least one layer")
        layers = in_a_row(layers)
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(
                    f"layers[{i}] is {layer!r}; expected a layer such as nnjax.Dense(30)"
                )
        require_loss(loss)
        for name, value in (("input_shape", shape), ("layers", layers), ("loss", loss)):
            object.__setattr__(self, name, value)  # as the description is frozen
        if len(self.shapes[-1]) != 1:
            raise ValueError(
                f"the last layer gives the shape {self.shapes[-1]}; expected a vector (n_out,): "
                "end with Flatten() or Dense(n_out)"
            )

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """The shape of one example's activations: a⁰ = x, a¹, …, a^L."""
        shapes = [self.input_shape]
        for i, layer in enumerate(self.layers):
            try:
                shapes.append(next_shape(layer, shapes))
            except ValueError as error:
                raise ValueError(f"layers[{i}]: {error}") from None
        return tuple(shapes)

    def __repr__(self) -> str:
        rows = self._rows()
        width = max(len(word) for word, _ in rows)
        lines = [f"  {word:{width}}  {out}" for word, out in rows]
        return "\n".join([f"Network, loss {self.loss.name}", *lines])

    def _repr_html_(self) -> str:
        rows = [("layer", "output"), *self._rows()]
        return heading(f"Network, loss {self.loss.name}") + table(rows, numbers_from=2)

    def _rows(self) -> list[tuple[str, str]]:
        """The input and the layers in words, each with the shape that comes out."""
        words = ["input", *(layer.word() for layer in self.layers)]
        return list(zip(words, map(shape_text, self.shapes), strict=True))

    @cached_property
    def skips(self) -> tuple[tuple[int, ...], ...]:
        """For each of a⁰, …, a^L the layers, counted from 0, to whose z it is added."""
        return tuple(
            tuple(k for k, layer in enumerate(self.layers) if layer.skip and k - layer.skip == l)
            for l in range(len(self.layers) + 1)
        )

    @cached_property
    def pooling_first(self) -> Network:
        """The same network with activation functions after the max-pooling that follows them.

        Where σ falls nowhere, the largest σ(z) of a window is σ of its largest z. Outputs and
        gradients stay what they are, and σ and σ' are computed for one number of each window.
        """
        layers = list(self.layers)
        for l, (layer, pool) in enumerate(itertools.pairwise(self.layers)):
            rises = getattr(layer.activation, "increasing", False)
            if (
                rises
                and type(pool) is MaxPool
                and isinstance(layer, Conv)
                and not self.skips[l + 1]
            ):
                layers[l] = replace(layer, activation=identity)
                layers[l + 1] = MaxPoolThen(*pool.windows, layer.activation)
        return self if layers == list(self.layers) else Network(self.input_shape, layers, self.loss)

    def __hash__(self) -> int:  # asked for at every call of a jitted function, so kept
        return self._hash

    @cached_property
    def _hash(self):
        return hash((self.input_shape, self.layers, self.loss))

    def __reduce__(self):  # without what is kept: hashes of text differ from process to process
        return Network, (self.input_shape, self.layers, self.loss)

    @property
    def n_out(self) -> int:
        """The number of outputs."""
        return self.shapes[-1][0]


def require_network(net: Any) -> Network:
    """Return `net` if it is a network, else raise TypeError.

    Example:
        >>> from nnjax.network import require_network
        >>> require_network(None)
        Traceback (most recent call last):
        ...
        TypeError: net is None; expected a Network, such as nnjax.mlp([784, 30, 10])
    """
    if not isinstance(net, Network):
        raise TypeError(f"net is {net!r}; expected a Network, such as nnjax.mlp([784, 30, 10])")
    return net


def mlp(
    sizes: Sequence[int],
    activation: Activation = sigmoid,
    output: Activation | None = None,
    loss: Loss = cross_entropy,
    initializer: Initializer = default,
) -> Network:
    """Return a network of fully connected layers, the book's `Network(sizes)`.

    Args:
        sizes: [n_in, hidden, ..., n_out], at least two.
        activation: of the hidden layers.
        output: of the output layer; None: the one that suits the loss, `loss.output`.
        loss: one of `nnjax.losses`.
        initializer: how every layer starts.

    Raises:
        ValueError: if there are fewer than two sizes or one is not a positive integer.

    Example:
        >>> import nnjax
        >>> nnjax.mlp([784, 30, 10], loss=nnjax.log_likelihood).layers[-1].activation
        Softmax(scale=1.0)
    """
    if not isinstance(sizes, Sequence) or isinstance(sizes, str) or len(sizes) < 2:
        raise ValueError(f"sizes is {sizes!r}; expected at least two, such as [784, 30, 10]")
    for size in sizes:
        require_size(size, "a size in sizes")
    require_loss(loss)
    hidden = [Dense(size, activation, initializer) for size in sizes[1:-1]]
    last = Dense(sizes[-1], output or loss.output, initializer)
    return Network((sizes[0],), (*hidden, last), loss)


def init(net: Network, key: jax.Array, dtype: Any = float) -> Params:
    """Return starting parameters, one entry a layer: `Affine(w, b)` or `()`.

    Args:
        net: the network.
        key: a JAX random key, such as `jax.random.key(0)`.
        dtype: float32 (float64 under `jax.enable_x64`) unless you say otherwise.

    Raises:
        TypeError: if key is not a random key, or dtype not a floating-point type.

    Example:
        >>> import jax, nnjax
        >>> params = nnjax.init(nnjax.mlp([784, 30, 10]), jax.random.key(0))
        >>> [layer.w.shape for layer in params]
        [(30, 784), (10, 30)]
    """
    require_network(net)
    check_key(key)
    require_dtype(dtype)
    dtype = jnp.dtype(jax.dtypes.canonicalize_dtype(dtype))
    keys = split(key, len(net.layers))
    return tuple(
        layer.init(key, shape, dtype)
        for layer, key, shape in zip(net.layers, keys, net.shapes, strict=False)
    )


@lru_cache(maxsize=256)
def _expected(net: Network) -> tuple[Any, list[tuple[str, tuple[int, ...]]]]:
    """Return the tree structure of the network's parameters and each leaf's path and shape."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = tuple(
        jax.eval_shape(lambda k, layer=layer, shape=shape: layer.init(k, shape), key)
        for layer, shape in zip(net.layers, net.shapes, strict=False)
    )
    leaves, structure = jax.tree.flatten_with_path(params)
    return structure, [(jax.tree_util.keystr(path), leaf.shape) for path, leaf in leaves]


def check_params(net: Network, params: Any, name: str = "params") -> None:
    """Raise ValueError or TypeError if `params` are not the parameters of `net`; say what differs.

    Example:
        >>> import jax, nnjax
        >>> params = nnjax.init(nnjax.mlp([3, 2]), jax.random.key(0))
        >>> nnjax.network.check_params(nnjax.mlp([4, 2]), params)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: params[0].w has shape (2, 3), but this network has (2, 4) there; ...
    """
    structure, expected = _expected(require_network(net))
    leaves, came = jax.tree.flatten(params)
    if came != structure:
        raise ValueError(
            f"{name} has the structure {came}, but this network has {structure}; start from "
            "nnjax.init(net, key)"
        )
    for (path, shape), leaf in zip(expected, leaves, strict=True):
        require_floating(leaf, f"{name}{path}")
        if leaf.shape != shape:
            raise ValueError(
                f"{name}{path} has shape {leaf.shape}, but this network has {shape} there; "
                "start from nnjax.init(net, key)"
            )


def check_batch(
    net: Network, params: Any, x: Any, y: Any = None, key: Any = None
) -> tuple[jax.Array, Any]:
    """Return x and y as arrays if they and the parameters fit the network, else raise.

    Args:
        net: the network.
        params: its parameters.
        x: (n, *input_shape); images (n, h, w, c) too where the network takes vectors.
        y: None, (n, n_out) targets or (n,) integer classes; of a network with one output also
            (n,) real targets, and if `nnjax.tasks.takes_numbers` (n,) numbers of any kind. Classes
            are looked at where they are on the host, as NumPy or Python numbers; those on a device
            are never read back, and make the loss NaN where they are wrong.
        key: None or one random key.

    Raises:
        ValueError: if a shape does not fit, or a class is out of range.
        TypeError: if a dtype is not one of real numbers, or net is not a Network.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> nnjax.network.check_batch(net, params, jnp.ones((5, 4)))
        Traceback (most recent call last):
        ...
        ValueError: x has shape (5, 4); this network takes (n, 3)
    """
    check_params(net, params)
    if key is not None:
        check_key(key)
    x = require_real_array(x, "x")
    shape = x.shape[1:]
    if shape != net.input_shape and len(net.input_shape) == 1 and len(shape) > 1:
        shape = (math.prod(shape),)
    if x.ndim == 0 or shape != net.input_shape:
        single = x.shape == net.input_shape
        hint = "; for a single example give x[None]" if single else ""
        takes = ", ".join(["n", *map(str, net.input_shape)])
        raise ValueError(f"x has shape {x.shape}; this network takes ({takes}){hint}")
    if x.shape[0] == 0:
        raise ValueError("x has no examples; expected at least one")
    return _on_device(x), None if y is None else _targets(net, y, x.shape[0])


def _targets(net, y, n):
    """Return y as an array if it holds targets or classes of n examples, else raise."""
    y = require_real_array(y, "y")
    if y.shape[:1] != (n,):
        raise ValueError(f"y has shape {y.shape}, but x has {n} examples; expected as many")
    classes = y.ndim == 1 and y.dtype.kind in "iu"
    if y.ndim == 1 and net.n_out == 1 and (not classes or takes_numbers(net)):
        y, classes = y.reshape(n, 1), False
    if not classes and y.shape != (n, net.n_out):
        raise ValueError(
            f"y has shape {y.shape} and dtype {y.dtype}; expected ({n}, {net.n_out}) targets, one "
            f"column for each output of this network, or ({n},) integer classes"
        )
    if not classes or isinstance(y, jax.Array):
        return _on_device(y)
    low, high, last = y.min(), y.max(), max(net.n_out, 2) - 1
    if low < 0 or high > last:
        outputs = "1 output" if net.n_out == 1 else f"{net.n_out} outputs"
        raise ValueError(
            f"y holds the class {low if low < 0 else high}; this network has {outputs}, so "
            f"classes are {'0 and 1' if last == 1 else f'0 to {last}'}"
        )
    return jnp.asarray(y.astype(np.int32) if y.dtype.itemsize > 4 else y)


def _on_device(array):
    """Return a JAX array of the same numbers; integers that int32 would wrap become floats."""
    if isinstance(array, jax.Array):
        return array
    return jnp.asarray(
        array.astype(float) if array.dtype.kind in "iu" and array.dtype.itemsize > 4 else array
    )


class ForwardPass(NamedTuple):
    """What the forward pass leaves behind, one entry a layer (and x before all activations)."""

    activations: tuple[jax.Array, ...]
    weighted_inputs: tuple[jax.Array, ...]
    caches: tuple[Any, ...]


def forward(net: Network, params: Params, x: jax.Array, key: jax.Array | None) -> ForwardPass:
    """Return everything the forward pass computes: z^l = w^l a^{l-1} + b^l, a^l = σ(z^l).

    For checked arrays (`check_batch`); `feedforward` is the function to call from outside.
    """
    params = one_dtype(params)
    activations, weighted_inputs, caches = [_as_inputs(net, params, x)], [], []
    for l, layer in enumerate(net.layers):
        z, cache = forward_layer(net, params, l, activations[-1], key)
        if layer.skip:
            z = z + activations[l - layer.skip]
        activations.append(layer.activation(z))
        weighted_inputs.append(z)
        caches.append(cache)
    return ForwardPass(tuple(activations), tuple(weighted_inputs), tuple(caches))


def forward_layer(
    net: Network, params: Params, l: int, a: jax.Array, key: jax.Array | None
) -> tuple[jax.Array, Any]:
    """Return z and the cache of layer l of a batch, given a (n, ...) and the network's key.

    What the layer adds to z from further back (`skip`) is not part of it.
    """
    layer = net.layers[l]
    keys = layer_keys(net, l, a.shape[0], key)
    return jax.vmap(layer.forward, in_axes=(None, 0, 0))(params[l], a, keys)


def layer_keys(net: Network, l: int, n: int, key: jax.Array | None) -> jax.Array | None:
    """Return the n keys, one an example, that layer l draws from; None where it draws nothing."""
    if key is None or not net.layers[l].random:
        return None
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(example_keys(key, n), l)


def example_keys(key: jax.Array, n: int) -> jax.Array:
    """Return n keys, one an example, given one key; n keys already are returned as they are."""
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return jax.random.split(key, n) if key.ndim == (0 if typed else 1) else key


def microbatch_size(net: Network, n: int, limit: int | None = None) -> int:
    """Return how many of n examples a network works through at once: see `examples_at_once`."""
    shapes = zip(net.layers, net.shapes, strict=False)
    return examples_at_once(n, max(layer.patch_numbers(shape) for layer, shape in shapes), limit)


def examples_at_once(n: int, numbers: int, limit: int | None = None) -> int:
    """Return how many of n examples to work through at once.

    All of them are best, but for layers that write much in addition to their outputs, as
    convolutions do with patches: they are faster, and take less memory, while that stays in the
    cache of the processor. Never one alone: on three networks of 3x3 convolutions two at once took
    0.5 to 0.8 times as long per example. More at once by oneDNN, which writes no patches.

    Args:
        n: how many examples there are.
        numbers: that the layer which writes most writes of one example, in addition to its z.
        limit: of these numbers; None: what stays in the cache.

    Example:
        >>> from nnjax.network import examples_at_once
        >>> examples_at_once(64, 589_824, limit=2**20), examples_at_once(64, 0)
        (2, 64)
    """
    limit = limit or (NUMBERS_FORWARD if asked_for() else _PATCH_NUMBERS)
    return equal_size(n, max(2, limit // numbers)) if numbers else n


def one_dtype(params: Params) -> Params:
    """Return parameters of one dtype, the widest among them: the one that is computed in."""
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(params)}
    if len(dtypes) < 2:
        return params
    with jax.numpy_dtype_promotion("standard"):
        widest = jnp.result_type(*dtypes)
    return jax.tree.map(lambda leaf: leaf.astype(widest), params)


def grey_levels(x: Any) -> bool:
    """Whether x holds grey levels, which are divided by 255: uint8 images, or rows of 784 pixels.

    Other rows (n, features) are features, whole numbers or not, and stay as they are.

    Example:
        >>> import numpy as np
        >>> from nnjax.network import grey_levels
        >>> [grey_levels(np.zeros(s, np.uint8)) for s in ((5, 28, 28, 1), (5, 784), (5, 13))]
        [True, True, False]
    """
    return x.dtype == np.uint8 and (x.ndim > 2 or x.shape[-1] == 784)


def _as_inputs(net, params, x):
    dtype = next((leaf.dtype for leaf in jax.tree.leaves(params)), jnp.result_type(float))
    grey = grey_levels(x)
    x = x.reshape(-1, *net.input_shape).astype(dtype)
    return x / 255 if grey else x


def _inputs(net, params, x, key=None):
    x, _ = check_batch(net, params, x, key=key)
    return net, params, x, key


def check_weights(weights: Any, n: int) -> Any:
    """Return the weights of n examples as an array, None if there are none; else raise.

    Raises:
        ValueError: if it is not one number of at least 0 for each example. Those on a device are
            judged by their shape and dtype alone.

    Example:
        >>> from nnjax.network import check_weights
        >>> check_weights([1.0, -1.0], 2)
        Traceback (most recent call last):
        ...
        ValueError: weights holds -1.0; expected finite numbers of at least 0
    """
    if weights is None:
        return None
    weights = require_real_array(weights, "weights")
    if weights.shape != (n,):
        raise ValueError(
            f"weights has shape {weights.shape}; expected one number for each example, ({n},)"
        )
    if not isinstance(weights, jax.Array):
        wrong = ~((weights >= 0) & np.isfinite(weights))
        if wrong.any():
            raise ValueError(
                f"weights holds {weights[wrong][0]}; expected finite numbers of at least 0"
            )
    return _on_device(weights)


def without_weight(weights: Any, *arrays: Any) -> tuple[Any, ...]:
    """Return arrays (n, ...) with 0 for examples of weight 0, whatever stands there: NaN, class −1.

    Args:
        weights: (n,), or None: all arrays stay as they are.
        *arrays: such as x and y.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.network import without_weight
        >>> without_weight(jnp.array([1.0, 0.0]), jnp.array([2, -1]))[0].tolist()
        [2, 0]
    """
    if weights is None:
        return arrays
    return tuple(
        jnp.where((weights == 0).reshape(-1, *[1] * (a.ndim - 1)), jnp.zeros_like(a), a)
        for a in arrays
    )


def _examples(net, params, x, y, key=None, weights=None):
    x, y = check_batch(net, params, x, y, key)
    return net, params, x, y, key, check_weights(weights, x.shape[0])


@checked(_inputs, layout=like_examples, once=True)
def feedforward(
    net: Network, params: Params, x: ArrayLike, key: chex.PRNGKey | None = None
) -> jax.Array:
    """Return the outputs a^L (n, n_out).

    Args:
        net: the network.
        params: its parameters.
        x: (n, *input_shape) inputs.
        key: given: training mode (dropout on); None: inference.

    Raises:
        ValueError, TypeError: if x or params do not fit the network.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2])
        >>> nnjax.feedforward(net, nnjax.init(net, jax.random.key(0)), jnp.ones((5, 3))).shape
        (5, 2)
    """

    def outputs(examples):
        return forward(net.pooling_first, params, *examples).activations[-1]

    n = jnp.shape(x)[0]
    keys = None if key is None else example_keys(key, n)
    return in_pieces(net, outputs, (x, keys), limit=None)


@checked(_examples, once=True)
def loss(
    net: Network,
    params: Params,
    x: ArrayLike,
    y: ArrayLike,
    key: chex.PRNGKey | None = None,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """Return C, the mean of the loss over the examples, a scalar, in float32 at least.

    With weights C = (1/n) Σ_x w_x C_x: they are not divided by their sum. An example of weight 0
    has no part in it, whatever its input and its target are; classes on the host are checked all
    the same.

    `jax.grad(nnjax.loss, argnums=1)` is what `backprop` is proved equal to. A large data set is
    worked through in pieces.

    Args:
        net: the network.
        params: its parameters.
        x: (n, *input_shape) inputs.
        y: (n, n_out) one-hot or soft targets, or (n,) integer classes.
        key: given: training mode (dropout on); None: inference.
        weights: (n,) w_x, how much each example counts; None: 1.

    Raises:
        ValueError, TypeError: if x, y, params or the weights do not fit the network.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2], initializer=nnjax.initializers.zeros)
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> float(nnjax.loss(net, params, jnp.ones((4, 3)), jnp.array([0, 1, 1, 0])))
        1.3862943649291992
    """

    def losses(examples):
        x, y, keys = examples
        return losses_and_outputs(net, params, x, y, keys)[0]

    keys = None if key is None else example_keys(key, jnp.shape(x)[0])
    each = in_pieces(net, losses, (*without_weight(weights, x, y), keys))
    return jnp.mean(each if weights is None else jnp.asarray(weights, each.dtype) * each)


def losses_and_outputs(
    net: Network, params: Params, x: jax.Array, y: jax.Array, key: chex.PRNGKey | None
) -> tuple[jax.Array, jax.Array]:
    """Return C_x (n,) in its stable form and a^L (n, n_out), for checked arrays."""
    z, a = wide_outputs(net, forward(net.pooling_first, params, x, key))
    return net.loss.at(net.layers[-1].activation, z, a, y), a


def wide_outputs(net: Network, passed: ForwardPass) -> tuple[jax.Array, jax.Array]:
    """Return z^L and a^L in float32 at least: what losses and classes are made of.

    The outputs of a network in 16 bits are computed from its z^L, so that probabilities near 1 are
    told apart, and the loss is summed and averaged in float32.
    """
    z = passed.weighted_inputs[-1]
    dtype = at_least_float32(z.dtype)
    if z.dtype == dtype:
        return z, passed.activations[-1]
    z = z.astype(dtype)
    return z, net.layers[-1].activation(z)


def in_pieces(net: Network, f: Callable[[Any], Any], xs: Any, limit: int | None = PIECE) -> Any:
    """Return f(xs), f of a batch, computed for as many examples at a time as suit the network."""
    n = jax.tree.leaves(xs)[0].shape[0]
    own = microbatch_size(net, n, NUMBERS_FORWARD)
    return map_in_pieces(f, xs, own if limit is None else min(own, equal_size(n, limit)))
