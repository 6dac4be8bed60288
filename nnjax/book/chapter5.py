"""Chapter 5: why deep networks are hard to train."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.backprop import backprop
from nnjax.book.drawing import COLORS, STROKES, finish, legend, panels
from nnjax.book.figures import BookFigure, Numbers
from nnjax.book.setting import Setting, default
from nnjax.data import Dataset
from nnjax.layers import Affine
from nnjax.losses import quadratic
from nnjax.network import Network, init, mlp
from nnjax.regularizers import L2
from nnjax.training import optimizers, train
from nnjax.training.monitors import ErrorNorms, measure

__all__ = ["FIGURES", "chain", "depths", "exploding", "gradient_bars", "setting", "speeds"]

NORMS = ErrorNorms(examples=1000)


def setting(depth: int) -> Setting:
    """Return the setting of the chapter with this many hidden layers of 30.

    Example:
        >>> from nnjax.book import chapter5
        >>> chapter5.setting(3).hidden
        (30, 30, 30)
    """
    return Setting((30,) * depth, eta=0.1, lmbda=5.0, initializer=default)


def gradient_bars(seed: int, data: Dataset) -> Numbers:
    """Return ∂C/∂b of every hidden neuron of [784, 30, 30, 10] before training, and their norms.

    C is the cost of the first 1,000 training images; ∂C/∂b is the mean of the errors (BP3).

    Example:
        >>> import nnjax
        >>> from nnjax.book import chapter5
        >>> norms = chapter5.gradient_bars(0, nnjax.data.load("digits"))["norms"]
        >>> norms[0] < norms[1]
        True
    """
    x, y = data.train
    net = setting(2).network(int(np.prod(x.shape[1:])), 10)
    grads = backprop(net, init(net, jax.random.key(seed)), x[:1000], y[:1000]).grads
    hidden = [np.asarray(g.b) for g in grads[:-1]]
    return {
        "bars": [b.tolist() for b in hidden],
        "norms": [float(np.linalg.norm(b)) for b in hidden],
    }


def draw_gradient_bars(figure: Any, numbers: Numbers) -> None:
    top = max(np.abs(bars).max() for bars in numbers["bars"])
    axes = panels(figure, 1, 2, sharex=True)
    for l, (panel, bars) in enumerate(zip(axes, numbers["bars"], strict=True)):
        panel.barh(np.arange(1, 31), np.abs(bars), color=COLORS[l])
        panel.set_xlim(0, 1.05 * top)
        panel.invert_yaxis()
        finish(panel, "|∂C/∂b|", "neuron",
               f"hidden layer {l + 1}: norm {numbers['norms'][l]:.3f}")  # fmt: skip


def norms(depth: int, data: Dataset, seed: int) -> np.ndarray:
    """Return ‖mean δ^l‖ (501, depth) of the hidden layers, before and after each of 500 steps.

    Each step follows the gradient of the first 1,000 training images, with η = 0.1 and λ = 5.

    Example:
        >>> import nnjax
        >>> from nnjax.book import chapter5
        >>> chapter5.norms(2, nnjax.data.load("digits"), seed=0).shape
        (501, 2)
    """
    x, y = data.train
    net = setting(depth).network(int(np.prod(x.shape[1:])), 10)
    params = init(net, jax.random.key(seed))
    few = Dataset((x[:1000], y[:1000]), None, None)
    start = measure(net, [NORMS], params, few)["error_norms"]
    _, history = train(
        net,
        few,
        optimizer=optimizers.by_name("sgd", 0.1),
        regularizer=L2(5.0),
        epochs=500,
        batch_size=len(few.train[0]),
        key=jax.random.key(seed),
        params=params,
        monitors=[NORMS],
    )
    return np.concatenate([np.asarray(start)[None], history["error_norms"]])[:, :-1]


def speeds(seed: int, data: Dataset) -> Numbers:
    """Return how fast each hidden layer learns, ‖mean δ^l‖, by epoch, for 2 to 4 hidden layers.

    Example:
        >>> from nnjax import book
        >>> start = [row[0] for row in book.result("5.2").numbers["4 hidden layers"]]
        >>> start == sorted(start)
        True
    """
    return {f"{depth} hidden layers": norms(depth, data, seed).T for depth in (2, 3, 4)}


def draw_speeds(figure: Any, numbers: Numbers) -> None:
    axes = panels(figure, 1, 3, sharey=True)
    for panel, (name, layers) in zip(axes, numbers.items(), strict=True):
        for l, values in enumerate(layers):
            panel.semilogy(values, STROKES[l], color=COLORS[l], label=f"layer {l + 1}")
        finish(panel, "epoch", "‖mean δ‖" if panel is axes[0] else "", name)
        legend(panel)


def _chain(depth: int) -> Network:
    """Return a chain: one input, and `depth` layers of one sigmoid neuron."""
    return mlp([1] * (depth + 1), loss=quadratic)


def chain(seed: int = 0) -> Numbers:
    """Return δ¹/δ^L of chains of neurons with w, b ~ N(0, 1): each layer gives a factor w σ'(z).

    Medians of |δ¹/δ^L| over 500 chains. As σ' ≤ 1/4, a factor is mostly less than 1/4, so that
    the gradient vanishes exponentially with the depth.

    Example:
        >>> from nnjax.book import chapter5
        >>> numbers = chapter5.chain()
        >>> all(m <= 0.25 ** (d - 1) for d, m in zip(numbers["depth"], numbers["median"]))
        True
    """
    depths, medians = [1, 2, 3, 5, 8], []
    x, y = jnp.array([[0.5]]), jnp.array([[1.0]])
    for depth in depths:
        net = _chain(depth)
        keys = jax.random.split(jax.random.key(seed), 500)

        def ratio(key, net=net):
            drawn = jax.random.normal(key, (len(net.layers), 2))
            errors = backprop(
                net, tuple(Affine(w=p[:1, None], b=p[1:]) for p in drawn), x, y
            ).errors
            return jnp.abs(errors[0] / errors[-1])[0, 0]

        medians.append(float(jnp.median(jax.jit(jax.vmap(ratio))(keys))))
    return {"depth": depths, "median": medians}


def draw_chain(figure: Any, numbers: Numbers) -> None:
    (axes,) = panels(figure, 1, 1)
    depth = np.asarray(numbers["depth"])
    axes.semilogy(depth, numbers["median"], "o-", color=COLORS[0], label="median of 500 chains")
    axes.semilogy(depth, 0.25 ** (depth - 1.0), "--", color="0.4", label="(1/4)ᴸ⁻¹")
    finish(axes, "number of layers L", "|δ¹ / δᴸ|")
    legend(axes)


def exploding(seed: int = 0) -> Numbers:
    """Return the errors of a chain with w = 100 and biases that keep every z at 0.

    Each factor is then w σ'(0) = 25: the gradient explodes instead of vanishing.

    Example:
        >>> from nnjax.book import chapter5
        >>> chapter5.exploding()["factors"]
        [25.0, 25.0, 25.0]
    """
    net = _chain(4)
    params: Any = [Affine(w=jnp.array([[100.0]]), b=jnp.array([-50.0]))] * 4
    errors = backprop(net, tuple(params), jnp.array([[0.5]]), jnp.array([[1.0]])).errors
    errors = [float(delta[0, 0]) for delta in errors]
    return {"errors": errors, "factors": [a / b for a, b in pairwise(errors)]}


def draw_exploding(figure: Any, numbers: Numbers) -> None:
    (axes,) = panels(figure, 1, 1)
    layers = np.arange(1, 1 + len(numbers["errors"]))
    bars = axes.bar(layers, np.abs(numbers["errors"]), color=COLORS[0])
    axes.bar_label(bars, fmt="%.4g")
    axes.set_yscale("log")
    axes.set_xticks(layers)
    finish(axes, "layer", "|δ|", "w = 100, z = 0 in every layer: a factor 25 per layer")


def depths(seed: int, data: Dataset) -> Numbers:
    """Return the validation accuracy by epoch with one to four hidden layers of 30, in percent.

    Example:
        >>> from nnjax import book
        >>> sorted(book.result("5.4").numbers["accuracy"])
        ['1', '2', '3', '4']
    """
    runs = {
        str(depth): setting(depth).run(data, seed, ["validation"])["validation_accuracy"]
        for depth in range(1, 5)
    }
    return {"accuracy": {depth: 100 * values for depth, values in runs.items()}}


def draw_depths(figure: Any, numbers: Numbers) -> None:
    (axes,) = panels(figure, 1, 1)
    for i, (depth, values) in enumerate(numbers["accuracy"].items()):
        axes.plot(np.arange(1, 1 + len(values)), values, STROKES[i], color=COLORS[i],
                  label=f"{depth} hidden: best {max(values):.2f} %")  # fmt: skip
    axes.set_ylim(85, 98)
    finish(axes, "epoch", "validation accuracy (%)")
    legend(axes)


FIGURES = (
    BookFigure("5.1", "The gradient of every hidden neuron before training",
               gradient_bars, draw_gradient_bars, 5, "mnist", saved=True),
    BookFigure("5.2", "How fast each hidden layer learns", speeds, draw_speeds, 60, "mnist",
               saved=True, size=(10, 4)),
    BookFigure("5.3", "The gradient in a chain of single neurons", chain, draw_chain, 3),
    BookFigure("5.4", "One to four hidden layers of 30", depths, draw_depths, 60, "mnist",
               saved=True),
    BookFigure("5.5", "An exploding gradient", exploding, draw_exploding, size=(6, 4)),
)  # fmt: skip
"""The figures of the chapter."""
