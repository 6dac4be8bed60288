"""A network: what it is, how it starts, what it computes.

The description holds no arrays. It is hashable and static, so it passes through `jit`, `grad` and
`vmap` as it is, and two equal descriptions share one compiled program. The parameters are a tuple
with one entry a layer, `Affine(w, b)` or `()`.

Inputs x are (n, *input_shape), one row an example. uint8 images are read as grey levels and
divided by 255; everything else is cast to the dtype of the parameters, which decides in which
precision the network computes. A network that begins with a vector takes images too, flattened
row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from nnjax.activations import Activation, sigmoid, softmax
from nnjax.checks import check_key, require_size
from nnjax.initializers import Initializer, default
from nnjax.layers.base import Layer, Shape
from nnjax.layers.dense import Dense
from nnjax.losses import LogLikelihood, Loss, cross_entropy, targets

__all__ = [
    "Evaluation",
    "Network",
    "Passed",
    "accuracy",
    "check_batch",
    "check_params",
    "evaluate",
    "example_keys",
    "feedforward",
    "forward",
    "forward_layer",
    "init",
    "layer_keys",
    "loss",
    "mlp",
    "piece_size",
    "predict",
]

Params = tuple[Any, ...]
_CHUNK = 1000  # examples worked through at once where a whole data set comes in
ABREAST = 2  # pieces worked through side by side: while one waits for memory, another computes
_SCRATCH = 2**20  # numbers that a layer writes beside its z at once: what stays in the caches


@jax.tree_util.register_static
@dataclass(frozen=True, init=False)
class Network:
    """What a network is: the shape of one input, its layers, its loss.

    Args:
        input_shape: of one example: n_in, (n_in,) or (height, width, channels).
        layers: descriptions such as `Dense(30)`, from the input to the output.
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

    def __init__(self, input_shape: int | Sequence[int], layers: Sequence[Layer], loss: Loss):
        shape = tuple(input_shape) if isinstance(input_shape, Sequence) else (input_shape,)
        if not shape:
            raise ValueError("input_shape is (); expected n_in or (height, width, channels)")
        for size in shape:
            require_size(size, "a size in input_shape")
        if not isinstance(layers, Sequence) or not layers:
            raise ValueError(f"layers is {layers!r}; expected a list of at least one layer")
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(
                    f"layers[{i}] is {layer!r}; expected a layer such as nnjax.Dense(30)"
                )
        if not isinstance(loss, Loss):
            raise TypeError(f"loss is {loss!r}; expected a loss such as nnjax.cross_entropy")
        for name, value in (("input_shape", shape), ("layers", tuple(layers)), ("loss", loss)):
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
                shapes.append(layer.out_shape(shapes[-1]))
            except ValueError as error:
                raise ValueError(f"layers[{i}]: {error}") from None
        return tuple(shapes)

    @property
    def n_out(self) -> int:
        """The number of outputs."""
        return self.shapes[-1][0]


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
        output: of the output layer; None: softmax for log_likelihood, else sigmoid.
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
    if output is None:
        output = softmax if isinstance(loss, LogLikelihood) else sigmoid
    hidden = [Dense(size, activation, initializer) for size in sizes[1:-1]]
    return Network((sizes[0],), (*hidden, Dense(sizes[-1], output, initializer)), loss)


def init(net: Network, key: jax.Array, dtype: Any = float) -> Params:
    """Return starting parameters, one entry a layer: `Affine(w, b)` or `()`.

    Args:
        net: the network.
        key: a JAX random key, such as `jax.random.key(0)`.
        dtype: float32 (float64 under `jax.enable_x64`) unless you say otherwise.

    Raises:
        TypeError: if key is no random key, or dtype no floating-point type.

    Example:
        >>> import jax, nnjax
        >>> params = nnjax.init(nnjax.mlp([784, 30, 10]), jax.random.key(0))
        >>> [layer.w.shape for layer in params]
        [(30, 784), (10, 30)]
    """
    check_key(key)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype is {dtype!r}; expected a floating-point type such as jnp.float32")
    return _init(net, key, jnp.dtype(jax.dtypes.canonicalize_dtype(dtype)))


@partial(jax.jit, static_argnums=2)  # one program starts faster than one for each array
def _init(net, key, dtype):
    keys = jax.random.split(key, len(net.layers))
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
    """Raise ValueError if `params` are not the parameters of `net`; say what differs.

    Example:
        >>> import jax, nnjax
        >>> params = nnjax.init(nnjax.mlp([3, 2]), jax.random.key(0))
        >>> nnjax.network.check_params(nnjax.mlp([4, 2]), params)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: params[0].w has shape (2, 3), but this network has (2, 4) there; ...
    """
    structure, expected = _expected(net)
    leaves, came = jax.tree.flatten(params)
    if came != structure:
        raise ValueError(
            f"{name} has the structure {came}, but this network has {structure}; start from "
            "nnjax.init(net, key)"
        )
    for (path, shape), leaf in zip(expected, leaves, strict=True):
        if jnp.shape(leaf) != shape:
            raise ValueError(
                f"{name}{path} has shape {jnp.shape(leaf)}, but this network has {shape} there; "
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
        y: None, (n, n_out) targets or (n,) integer classes; concrete ones are looked at.
        key: None or one random key.

    Raises:
        ValueError: if a shape does not fit, or a class is not in 0 … n_out − 1.
        TypeError: if a dtype is no number.

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
    x = _numbers(x, "x")
    takes = ", ".join(["n", *map(str, net.input_shape)])
    flat = len(net.input_shape) == 1 and x.ndim > 2
    shape = (int(np.prod(x.shape[1:])),) if flat else x.shape[1:]
    if x.ndim == 0 or shape != net.input_shape:
        single = x.shape == net.input_shape
        hint = "; for a single example give x[None]" if single else ""
        raise ValueError(f"x has shape {x.shape}; this network takes ({takes}){hint}")
    if x.shape[0] == 0:
        raise ValueError("x has no examples; expected at least one")
    if y is None:
        return x, None
    y, n = _numbers(y, "y"), x.shape[0]
    classes = y.ndim == 1 and jnp.issubdtype(y.dtype, jnp.integer)
    if y.shape[:1] != (n,):
        raise ValueError(f"y has shape {y.shape}, but x has {n} examples; expected as many")
    if not classes and y.shape != (n, net.n_out):
        raise ValueError(
            f"y has shape {y.shape} and dtype {y.dtype}; expected ({n}, {net.n_out}) targets, one "
            f"column an output of this network, or ({n},) integer classes"
        )
    if classes and not isinstance(y, jax.core.Tracer):
        host = np.asarray(y)
        low, high = host.min(), host.max()
        if low < 0 or high >= net.n_out:
            raise ValueError(
                f"y holds the class {low if low < 0 else high}; this network has {net.n_out} "
                f"outputs, so classes are 0 to {net.n_out - 1}"
            )
    return x, y


def _numbers(array: Any, name: str) -> Any:
    if not isinstance(array, jax.Array | np.ndarray):
        try:
            array = np.asarray(array)
        except ValueError:
            raise ValueError(f"{name} is no rectangular array: its rows differ in length") from None
    dtype = array.dtype
    if not (jnp.issubdtype(dtype, jnp.number) or dtype == np.bool_) or dtype.kind == "c":
        raise TypeError(f"{name} has dtype {dtype}; expected real numbers")
    return jnp.asarray(array)


class Passed(NamedTuple):
    """What the forward pass leaves behind, one entry a layer (and x before all activations)."""

    activations: tuple[jax.Array, ...]
    weighted_inputs: tuple[jax.Array, ...]
    caches: tuple[Any, ...]


def forward(net: Network, params: Params, x: jax.Array, key: jax.Array | None) -> Passed:
    """Return everything the forward pass computes: z^l = w^l a^{l-1} + b^l, a^l = σ(z^l).

    For checked arrays (`check_batch`); `feedforward` is the function to call from outside.
    """
    activations, weighted_inputs, caches = [_as_inputs(net, params, x)], [], []
    for l, layer in enumerate(net.layers):
        z, cache = forward_layer(net, params, l, activations[-1], key)
        activations.append(layer.activation(z))
        weighted_inputs.append(z)
        caches.append(cache)
    return Passed(tuple(activations), tuple(weighted_inputs), tuple(caches))


def forward_layer(
    net: Network, params: Params, l: int, a: jax.Array, key: jax.Array | None
) -> tuple[jax.Array, Any]:
    """Return z and the cache of layer l of a batch, given a (n, ...) and the network's key."""
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


def piece_size(net: Network, n: int) -> int:
    """Return how many of n examples to work through at once: all where more is always better.

    Layers that write much beside their outputs, as convolutions do with patches, are faster, and
    take less memory, while that stays in the cache of the processor.
    """
    shapes = zip(net.layers, net.shapes, strict=False)
    scratch = max(layer.scratch(shape) for layer, shape in shapes)
    return _equal_pieces(n, max(1, _SCRATCH // scratch)) if scratch else n


def _equal_pieces(n, most):
    """Return a size, at most `most`, that divides n; if none is near, the most equal one.

    Examples left over are a second program to compile.
    """
    if n <= most:
        return n
    dividing = (size for size in range(most, most // 2, -1) if n % size == 0)
    return next(dividing, -(-n // -(-n // most)))


def _as_inputs(net, params, x):
    dtype = next((leaf.dtype for leaf in jax.tree.leaves(params)), jnp.result_type(float))
    grey_levels = x.dtype == jnp.uint8
    x = x.reshape(-1, *net.input_shape).astype(dtype)
    return x / 255 if grey_levels else x


def feedforward(
    net: Network, params: Params, x: ArrayLike, key: ArrayLike | None = None
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
    x, _ = check_batch(net, params, x, key=key)
    return _feedforward(net, params, x, key)


@jax.jit
def _feedforward(net, params, x, key):
    def one_chunk(batch):
        return forward(net, params, *batch).activations[-1]

    keys = None if key is None else example_keys(key, x.shape[0])
    return _in_chunks(net, one_chunk, (x, keys), most=x.shape[0])


def loss(
    net: Network, params: Params, x: ArrayLike, y: ArrayLike, key: ArrayLike | None = None
) -> jax.Array:
    """Return C, the mean of the loss over the examples, a scalar.

    `jax.grad(nnjax.loss, argnums=1)` is what `backprop` is proved equal to.

    Args:
        net: the network.
        params: its parameters.
        x: (n, *input_shape) inputs.
        y: (n, n_out) one-hot or soft targets, or (n,) integer classes.
        key: given: training mode (dropout on); None: inference.

    Raises:
        ValueError, TypeError: if x, y or params do not fit the network.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2], initializer=nnjax.initializers.zeros)
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> float(nnjax.loss(net, params, jnp.ones((4, 3)), jnp.array([0, 1, 1, 0])))
        1.3862943649291992
    """
    x, y = check_batch(net, params, x, y, key=key)
    return _loss(net, params, x, y, key)


@jax.jit
def _loss(net, params, x, y, key):
    return jnp.mean(_losses(net, params, x, y, key))


def _losses(net, params, x, y, key):
    passed = forward(net, params, x, key)
    z, a = passed.weighted_inputs[-1], passed.activations[-1]
    return net.loss.at(net.layers[-1].activation, z, a, y)


def predict(net: Network, params: Params, x: ArrayLike) -> jax.Array:
    """Return the class of each example (n,): the strongest output; of a single output, a > ½.

    Args:
        net: the network.
        params: its parameters.
        x: (n, *input_shape) inputs, as many as fit in memory: they are worked through in pieces.

    Raises:
        ValueError, TypeError: if x or params do not fit the network.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2])
        >>> nnjax.predict(net, nnjax.init(net, jax.random.key(0)), jnp.ones((5, 3))).shape
        (5,)
    """
    x, _ = check_batch(net, params, x)
    return _predict(net, params, x)


@jax.jit
def _predict(net, params, x):
    def one_chunk(x):
        return _classes(forward(net, params, x, None).activations[-1])

    return _in_chunks(net, one_chunk, x)


def accuracy(net: Network, params: Params, x: ArrayLike, y: ArrayLike) -> jax.Array:
    """Return the fraction of examples that are classified rightly, between 0 and 1.

    Args:
        net: the network.
        params: its parameters.
        x: (n, *input_shape) inputs.
        y: (n,) integer classes, or (n, n_out) targets, of which the largest is the class.

    Raises:
        ValueError, TypeError: if x, y or params do not fit the network.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> x = jnp.eye(3)
        >>> float(nnjax.accuracy(net, params, x, nnjax.predict(net, params, x)))
        1.0
    """
    return evaluate(net, params, x, y).accuracy


class Evaluation(NamedTuple):
    """Loss and accuracy of a network on a data set, both scalars, and the number right."""

    loss: jax.Array
    accuracy: jax.Array
    correct: jax.Array


def evaluate(net: Network, params: Params, x: ArrayLike, y: ArrayLike) -> Evaluation:
    """Return the mean loss and the accuracy at inference, in one pass, a piece at a time.

    Args:
        net: the network.
        params: its parameters.
        x: (n, *input_shape) inputs.
        y: (n,) integer classes, or (n, n_out) targets.

    Raises:
        ValueError, TypeError: if x, y or params do not fit the network.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> nnjax.evaluate(net, params, jnp.eye(3), jnp.array([0, 1, 0]))._fields
        ('loss', 'accuracy', 'correct')
    """
    x, y = check_batch(net, params, x, y)
    return _evaluate(net, params, x, y)


@jax.jit
def _evaluate(net, params, x, y):
    def one_chunk(batch):
        x, y = batch
        passed = forward(net, params, x, None)
        z, a = passed.weighted_inputs[-1], passed.activations[-1]
        right = _classes(a) == _classes(targets(y, a))
        return net.loss.at(net.layers[-1].activation, z, a, y), right

    losses, right = _in_chunks(net, one_chunk, (x, y))
    return Evaluation(jnp.mean(losses), jnp.mean(right, dtype=losses.dtype), jnp.sum(right))


def _classes(a):
    return jnp.argmax(a, axis=-1) if a.shape[-1] > 1 else (a[..., 0] > 0.5).astype(int)


def _in_chunks(net, f, xs, most=_CHUNK):
    """Map f, which takes a batch, over a data set of any size."""
    n = jax.tree.leaves(xs)[0].shape[0]
    piece = piece_size(net, n)
    size = min(piece, _equal_pieces(n, most))
    if n <= size:
        return f(xs)
    whole = n - n % size
    body = jax.tree.map(lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), xs)
    _, out = jax.lax.scan(lambda _, x: (None, f(x)), None, body, unroll=ABREAST if piece < n else 1)
    out = jax.tree.map(lambda r: r.reshape(-1, *r.shape[2:]), out)
    if whole == n:
        return out
    rest = f(jax.tree.map(lambda x: x[whole:], xs))
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), out, rest)
