"""What `bench.py` measures of convolutions: the same networks in nnjax, JAX, Flax and PyTorch.

python scripts/bench.py conv           the book's two convolutions: an epoch, and inference
python scripts/bench.py shapes         single layers of many shapes, and a small VGG
python scripts/bench.py profile        one training step by its parts, against the floor
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nnjax
from nnjax.activations import relu, sigmoid
from nnjax.network import forward, microbatch_size
from nnjax.pieces import UNROLL, map_in_pieces, sum_in_pieces

__all__ = [
    "BOOK",
    "ETA",
    "LAYERS",
    "VGG",
    "WHOLE",
    "Part",
    "Peer",
    "parts_of_a_step",
    "peers",
    "steps_of_a_layer",
]

ETA = 0.1
WHOLE = "the whole step"
BOOK = "conv20k5 pool2 conv40k5 pool2 dense100"
VGG = "conv64k3same:relu conv64k3same:relu pool2 conv128k3same:relu conv128k3same:relu pool2"
ACTIVATIONS = {relu: ("relu", "ReLU"), sigmoid: ("sigmoid", "Sigmoid")}  # in JAX, in PyTorch
LAYERS = [  # image, layer, mini-batch
    ((28, 28, 1), nnjax.Conv(20, 5), 100),
    ((12, 12, 20), nnjax.Conv(40, 5), 100),
    ((28, 28, 1), nnjax.Conv(20, 5), 10),
    ((12, 12, 20), nnjax.Conv(40, 5), 10),
    ((32, 32, 3), nnjax.Conv(64, 3, padding="same"), 64),
    ((32, 32, 64), nnjax.Conv(64, 3, padding="same"), 64),
    ((16, 16, 64), nnjax.Conv(128, 3, padding="same"), 64),
    ((16, 16, 128), nnjax.Conv(128, 3, padding="same"), 64),
    ((33, 33, 64), nnjax.Conv(128, 3, stride=2, padding=1), 64),
    ((16, 16, 128), nnjax.Conv(64, 1), 64),
    ((32, 32, 3), nnjax.Conv(32, 7, padding="same"), 64),
    ((24, 24, 16), nnjax.Conv(32, 11, padding="same"), 64),
]


class Peer:
    """A network, and functions without arguments that run a job of it on x (n, ...) and y (n,).

    Attributes:
        name: what the table says.
        part: the share of an epoch that is timed.
    """

    name, part = "nnjax", 1.0
    params: Any

    def __init__(self, net):
        self.net, self.params = net, nnjax.init(net, jax.random.key(0))

    def outputs(self, params, x):
        """Return what comes out, or logits."""
        return nnjax.feedforward(self.net, params, x)

    def step(self, params, x, y):
        """Return the parameters after a step of SGD."""
        return nnjax.sgd_step(self.net, params, x, y, ETA)

    def scanned(self, params, *batches):
        """Return the parameters after a step on each of the mini-batches, in one program."""
        return jax.lax.scan(lambda p, rows: (self.step(p, *rows), None), params, batches)[0]

    def epoch(self, x, y, batch):
        epoch, batches = jax.jit(self.scanned), _batches(batch, x, y)
        return lambda: epoch(self.params, *batches)

    def loop(self, x, y, batch):
        batches, step = _batches(batch, x, y), jax.jit(self.step)

        def run():
            params = self.params
            for rows in zip(*batches, strict=True):
                params = step(params, *rows)
            return params

        return run

    def inference(self, x, y, batch):
        (batches,) = _batches(batch, x)
        run = jax.jit(lambda params, xs: jax.lax.map(partial(self.outputs, params), xs))
        return lambda: run(self.params, batches)


class Lax(Peer):
    """The same network by `lax.conv_general_dilated`, `reduce_window` and `jax.grad`."""

    name, part = "jax.grad of lax.conv", 0.02

    def __init__(self, net):
        super().__init__(net)
        # kernels as (height, width, in, out): with any other order XLA is far slower on a CPU
        self.params = tuple(
            (p.w.transpose(1, 2, 3, 0) if p.w.ndim == 4 else p.w.T, p.b) if p else ()
            for p in self.params
        )

    def outputs(self, params, x):
        a = _grey(x)
        last = len(params) - 1
        for l, (layer, p) in enumerate(zip(self.net.layers, params, strict=True)):
            if isinstance(layer, nnjax.Conv):
                where = layer.geometry(a.shape)
                a = p[1] + jax.lax.conv_general_dilated(
                    a, p[0], where.stride, where.margins, dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
            elif isinstance(layer, nnjax.MaxPool):
                window = (1, *layer.windows[0], 1)
                a = jax.lax.reduce_window(a, -np.inf, jax.lax.max, window, window, "VALID")
            elif isinstance(layer, nnjax.Flatten):
                a = a.reshape(len(a), -1)
            else:
                a = a @ p[0] + p[1]
            if layer.activation in ACTIVATIONS and l < last:
                a = getattr(jax.nn, ACTIVATIONS[layer.activation][0])(a)
        return a

    def step(self, params, x, y):
        def loss(params):
            logits = self.outputs(params, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        return jax.tree.map(lambda p, g: p - ETA * g, params, jax.grad(loss)(params))


class Flax(Lax):
    """The same network of Flax NNX."""

    name = "Flax NNX"

    def __init__(self, net):
        super().__init__(net)
        from flax import nnx

        rngs, layers = nnx.Rngs(0), []
        for layer, shape in zip(net.layers, net.shapes, strict=False):
            if isinstance(layer, nnjax.Conv):
                margins = layer.geometry(shape).margins
                layers.append(
                    nnx.Conv(
                        shape[-1], layer.filters, layer.kernel, layer.stride, padding=margins,
                        rngs=rngs,
                    )
                )  # fmt: skip
            elif isinstance(layer, nnjax.MaxPool):
                size = layer.windows[0]
                layers.append(partial(nnx.max_pool, window_shape=size, strides=size))
            elif isinstance(layer, nnjax.Flatten):
                layers.append(lambda a: a.reshape(len(a), -1))
            else:
                layers.append(nnx.Linear(shape[0], layer.size, rngs=rngs))
            if layer.activation in ACTIVATIONS and layer is not net.layers[-1]:
                layers.append(getattr(nnx, ACTIVATIONS[layer.activation][0]))
        self.graph, self.params = nnx.split(nnx.Sequential(*layers))
        self.merge = nnx.merge

    def outputs(self, params, x):
        return self.merge(self.graph, params)(_grey(x))


class Torch:
    """The same network of PyTorch, with so many threads, channels last or not."""

    part = 0.1

    def __init__(self, net, threads, channels_last):
        import torch

        self.net, self.torch, self.threads = net, torch, threads
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.name = f"PyTorch, {threads} thread(s){', channels last' * channels_last}"

    def model(self):
        nn = self.torch.nn
        self.torch.set_num_threads(self.threads)
        layers = []
        for layer, shape in zip(self.net.layers, self.net.shapes, strict=False):
            if isinstance(layer, nnjax.Conv):
                (top, bottom), (left, right) = layer.geometry(shape).margins
                assert (top, left) == (bottom, right)
                layers.append(
                    nn.Conv2d(shape[-1], layer.filters, layer.kernel, layer.stride, (top, left))
                )
            elif isinstance(layer, nnjax.MaxPool):
                layers.append(nn.MaxPool2d(layer.windows[0]))
            elif isinstance(layer, nnjax.Flatten):
                layers.append(nn.Flatten())
            else:
                layers.append(nn.Linear(shape[0], layer.size))
            if layer.activation in ACTIVATIONS and layer is not self.net.layers[-1]:
                layers.append(getattr(nn, ACTIVATIONS[layer.activation][1])())
        return nn.Sequential(*layers).to(memory_format=self.format)

    def images(self, x):
        x = self.torch.tensor(np.asarray(_grey(jnp.asarray(x)))).permute(0, 3, 1, 2)
        return x.contiguous(memory_format=self.format)

    def epoch(self, x, y, batch):
        torch, x, y = self.torch, self.images(x), self.torch.tensor(np.asarray(y)).long()
        model = self.model()
        optimizer = torch.optim.SGD(model.parameters(), lr=ETA)

        def run():
            torch.set_num_threads(self.threads)
            order = torch.randperm(len(x))
            for start in range(0, len(x), batch):
                rows = order[start : start + batch]
                loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        return run

    loop = epoch

    def inference(self, x, y, batch):
        x, model = self.images(x), self.model().eval()

        def run():
            self.torch.set_num_threads(self.threads)
            with self.torch.inference_mode():
                for start in range(0, len(x), batch):
                    model(x[start : start + batch])

        return run


def peers(net: nnjax.Network) -> list[Any]:
    """Return the network in nnjax and in whatever else is installed."""
    makers: list[Callable[[], Any]] = [partial(Peer, net), partial(Lax, net), partial(Flax, net)]
    for threads in sorted({1, os.cpu_count() or 1}):
        makers += [partial(Torch, net, threads, last) for last in (False, True)]
    found = []
    for make in makers:
        try:
            found.append(make())
        except ImportError:
            continue
    return found


def _grey(x):
    return x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x


def _batches(batch, *arrays):
    return [jnp.asarray(a).reshape(-1, batch, *a.shape[1:]) for a in arrays]


def steps_of_a_layer(shape: Any, layer: nnjax.Conv, n: int) -> dict[str, Callable[[], Any]]:
    """Return for each peer a function that computes z, ∂C/∂a and ∂C/∂w of a convolution."""
    net = nnjax.Network(shape, [layer, nnjax.Flatten()], nnjax.quadratic)
    (params, _), geometry = nnjax.init(net, jax.random.key(0)), layer.geometry(shape)
    x = jax.random.normal(jax.random.key(1), (n, *shape))
    delta = jax.random.normal(jax.random.key(2), (n, *net.shapes[1]))
    size = microbatch_size(net, n)

    def by_nnjax(params, x, delta):
        def both(piece):
            x, delta = piece
            z, cache = jax.vmap(lambda a: layer.forward(params, a, None))(x)
            return z, jax.vmap(partial(layer.pull_back, params))(cache, delta)

        out = map_in_pieces(both, (x, delta), size, UNROLL)
        return out, sum_in_pieces(lambda xs: layer.gradients(*xs), (x, delta), size, UNROLL)

    def in_one_program(params, *batches):
        return jax.lax.map(lambda rows: by_nnjax(params, *rows), batches)

    def by_lax(kernel, x, delta):
        def conv(kernel, x):
            return jax.lax.conv_general_dilated(
                x,
                kernel,
                geometry.stride,
                geometry.margins,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )

        z, vjp = jax.vjp(conv, kernel, x)
        return z, vjp(delta)

    kernel = params.w.transpose(1, 2, 3, 0)
    steps = {
        "nnjax": partial(jax.jit(by_nnjax), params, x, delta),
        "nnjax, in a loop": partial(jax.jit(in_one_program), params, x[None], delta[None]),
        "jax.grad of lax.conv": partial(jax.jit(by_lax), kernel, x, delta),
    }
    return steps | _steps_of_torch(params.w, x, delta, layer.stride, geometry.margins)


def _steps_of_torch(w, x, delta, stride, margins):
    try:
        import torch
    except ImportError:
        return {}
    (top, bottom), (left, right) = margins
    assert (top, left) == (bottom, right)
    arrays = [torch.tensor(np.asarray(a)).permute(0, 3, 1, 2) for a in (x, w, delta)]

    def step(threads, x, w, delta):
        torch.set_num_threads(threads)
        z = torch.nn.functional.conv2d(x, w, stride=stride, padding=(top, left))
        return z, torch.autograd.grad(z, (x, w), delta)

    steps = {}
    for threads in sorted({1, os.cpu_count() or 1}):
        for form in (torch.contiguous_format, torch.channels_last):
            x, w, delta = (a.contiguous(memory_format=form).requires_grad_() for a in arrays)
            last = ", channels last" * (form is torch.channels_last)
            name = f"PyTorch, {threads} thread(s){last}"
            steps[name] = partial(step, threads, x, w, delta.detach())
    return steps


class Part(NamedTuple):
    """A part of a training step: what runs it, its multiplications and additions, its bytes."""

    run: Callable[[], Any]
    flop: float
    bytes: float


def parts_of_a_step(net: nnjax.Network, n: int) -> dict[str, Part]:
    """Return the parts of a step of SGD on n examples, and at last the whole of it.

    Each runs by itself, in the pieces that the step is cut into. Bytes are those of the arrays that
    go in and come out, once each.
    """
    net = net.pooling_first  # as in the step
    params = nnjax.init(net, jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (n, *net.input_shape))
    y = jax.random.randint(jax.random.key(2), (n,), 0, net.n_out)
    bp, size = nnjax.backprop(net, params, x, y), microbatch_size(net, n)
    caches = forward(net, params, x, None).caches
    parts: dict[str, Part] = {}

    def add(name, f, *arrays, flop=0.0, reduce=map_in_pieces):
        run = jax.jit(lambda *arrays: reduce(lambda piece: f(*piece), arrays, size, UNROLL))
        moved = jax.tree.leaves((arrays, jax.eval_shape(run, *arrays)))
        bytes_moved = sum(a.size * a.dtype.itemsize for a in moved)
        parts[name] = Part(partial(run, *arrays), flop, bytes_moved)

    for l, layer in enumerate(net.layers):
        p, a, z, delta = params[l], bp.activations[l], bp.weighted_inputs[l], bp.errors[l]
        # every output of an affine layer is a product with as many weights as it sees inputs
        flop = 2.0 * z.size * p.w[0].size if p else 0.0
        name, f = f"{l + 1} {layer.word()}", layer.activation
        if isinstance(layer, nnjax.Flatten):
            continue
        z_of = jax.vmap(lambda a, layer=layer, p=p: layer.forward(p, a, None)[0])
        add(f"{name}: z", z_of, a, flop=flop)
        if f != nnjax.activations.identity:
            add(f"{name}: a", f, z)
        if p:
            add(
                f"{name}: BP3, BP4",
                layer.gradients,
                caches[l],
                delta,
                flop=flop,
                reduce=sum_in_pieces,
            )
        if l:
            back = jax.vmap(partial(layer.pull_back, p))
            add(f"{name}: BP2", back, caches[l], delta, flop=flop)
            before = net.layers[l - 1].activation
            if before != nnjax.activations.identity:
                a_before, z_before = bp.activations[l], bp.weighted_inputs[l - 1]
                add(f"{name}: BP2, times the derivative", before.pull_back, z_before, a_before, a)
    update = jax.jit(lambda p, g: jax.tree.map(lambda p, g: p - ETA * g, p, g))
    leaves = jax.tree.leaves((params, params, params))
    moved = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    parts["update"] = Part(partial(update, params, params), 0.0, moved)
    rows = x[None], y[None]
    steps = jax.jit(Peer(net).scanned)
    parts[WHOLE] = Part(partial(steps, params, *rows), 0.0, 0.0)
    return parts
