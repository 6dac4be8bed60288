"""Chapter 4: networks put together by hand, which come as close as wanted to any function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from nnjax.activations import identity
from nnjax.book.drawing import COLORS, STROKES, finish, legend, panels
from nnjax.book.figures import BookFigure, Numbers
from nnjax.layers import Affine, Dense
from nnjax.losses import quadratic
from nnjax.network import Network, feedforward

__all__ = [
    "FIGURES",
    "bump",
    "bumps",
    "error_by_neurons",
    "one_dimension",
    "steps",
    "target",
    "target2",
    "tower",
    "towers",
    "two_dimensions",
]

STEEP = 1000.0
"""The weight that makes a step of a sigmoid neuron, on inputs from 0 to 1."""


def target(x: np.ndarray) -> np.ndarray:
    """Return the wavy function of the chapter, 0.2 + 0.4 x² + 0.3 x sin 15x + 0.05 cos 50x.

    Example:
        >>> from nnjax.book import chapter4
        >>> float(chapter4.target(0.0))
        0.25
    """
    return 0.2 + 0.4 * x**2 + 0.3 * x * np.sin(15 * x) + 0.05 * np.cos(50 * x)


def target2(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return a function of two variables with a hill, a hollow and a slope.

    Example:
        >>> from nnjax.book import chapter4
        >>> round(float(chapter4.target2(0.3, 0.3)), 2)
        0.88
    """
    hill = 0.8 * np.exp(-20 * ((x - 0.3) ** 2 + (y - 0.3) ** 2))
    return hill - 0.5 * np.exp(-30 * ((x - 0.7) ** 2 + (y - 0.6) ** 2)) + 0.3 * x * y + 0.05


def bumps(heights: Sequence[float], steep: float = STEEP) -> tuple[Network, Any]:
    """Return a network [1, 2N, 1] and its parameters: N bumps side by side on 0 … 1.

    Two sigmoid neurons step up and down at the edges of a bump; the weights into the linear
    output are its height and minus its height.

    Args:
        heights: of the N bumps, from left to right.
        steep: the weight of every step; the step at s has the bias −s · steep.

    Returns:
        `(net, params)`.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> from nnjax.book import chapter4
        >>> net, params = chapter4.bumps([0.5, -1.0])
        >>> nnjax.feedforward(net, params, jnp.array([[0.2], [0.8]])).ravel().round(3).tolist()
        [0.5, -1.0]
    """
    n = len(heights)
    edges = np.arange(n + 1) / n
    # Beyond both ends, so that the first and the last bump do not fall off within 0 … 1.
    edges[0], edges[-1] = -0.1, 1.1
    at = np.stack([edges[:-1], edges[1:]], axis=1).ravel()
    signed = np.stack([heights, -np.asarray(heights)], axis=1).ravel()
    net = Network(1, [Dense(2 * n), Dense(1, identity)], quadratic)
    return net, _params(np.full((2 * n, 1), steep), -steep * at, signed[None], [0.0])


def _params(*arrays: Any) -> tuple[Affine, ...]:
    """Return weights and biases, layer by layer, as the parameters of a network."""
    given = [jnp.asarray(array, jnp.float32) for array in arrays]
    return tuple(Affine(w=w, b=b) for w, b in zip(given[::2], given[1::2], strict=True))


def _outputs(network: tuple[Network, Any], *inputs: np.ndarray) -> np.ndarray:
    """Return the single output of a network over inputs of one shape."""
    x = jnp.asarray(np.stack([v.ravel() for v in inputs], axis=1), jnp.float32)
    return np.asarray(feedforward(*network, x))[:, 0].reshape(inputs[0].shape)


def steps(seed: int = 0) -> Numbers:
    """Return σ(w x + b) for growing w, with b = −w s: it becomes a step at s = −b/w = 0.4.

    Example:
        >>> from nnjax.book import chapter4
        >>> list(chapter4.steps()["outputs"])
        ['8', '40', '1000']
    """
    x = np.linspace(0, 1, 501)
    net = Network(1, [Dense(1)], quadratic)
    outputs = {str(w): _outputs((net, _params([[w]], [-0.4 * w])), x) for w in (8, 40, 1000)}
    return {"x": x, "outputs": outputs}


def draw_steps(figure: Any, numbers: Numbers) -> None:
    (axes,) = panels(figure, 1, 1)
    for i, (w, values) in enumerate(numbers["outputs"].items()):
        label = f"w = {w}, b = −{0.4 * float(w):g}"
        axes.plot(numbers["x"], values, STROKES[i], color=COLORS[i], label=label)
    finish(axes, "x", "output of the neuron")
    legend(axes)


def bump(seed: int = 0) -> Numbers:
    """Return the output of two steps at 0.4 and 0.6 with weights h and −h: a bump of height h.

    Example:
        >>> from nnjax.book import chapter4
        >>> round(float(chapter4.bump()["outputs"]["0.8"].max()), 3)
        0.8
    """
    x = np.linspace(0, 1, 501)
    net = Network(1, [Dense(2), Dense(1, identity)], quadratic)
    first = np.full((2, 1), STEEP), [-0.4 * STEEP, -0.6 * STEEP]
    outputs = {str(h): _outputs((net, _params(*first, [[h, -h]], [0.0])), x) for h in (0.8, -0.4)}
    return {"x": x, "outputs": outputs}


def draw_bump(figure: Any, numbers: Numbers) -> None:
    (axes,) = panels(figure, 1, 1)
    for i, (h, values) in enumerate(numbers["outputs"].items()):
        axes.plot(numbers["x"], values, STROKES[i], color=COLORS[i], label=f"h = {h}")
    finish(axes, "x", "weighted output of the two neurons")
    legend(axes)


def one_dimension(seed: int = 0) -> Numbers:
    """Return a function of one variable and networks of 5, 20 and 80 bumps that approximate it.

    Example:
        >>> from nnjax.book import chapter4
        >>> errors = list(chapter4.one_dimension()["mean error"].values())
        >>> errors == sorted(errors, reverse=True)
        True
    """
    x = np.linspace(0, 1, 1000)
    f = target(x)
    outputs = {str(n): _outputs(bumps(_middles(target, n)), x) for n in (5, 20, 80)}
    errors = {n: float(np.abs(values - f).mean()) for n, values in outputs.items()}
    return {"x": x, "f": f, "outputs": outputs, "mean error": errors}


def _middles(f: Callable[[np.ndarray], np.ndarray], n: int) -> list[float]:
    """Return the values of f in the middles of n pieces of 0 … 1."""
    return f((np.arange(n) + 0.5) / n).tolist()


def draw_one_dimension(figure: Any, numbers: Numbers) -> None:
    for axes, (n, values) in zip(
        panels(figure, 1, 3, sharey=True), numbers["outputs"].items(), strict=True
    ):
        axes.plot(numbers["x"], numbers["f"], color="0.6", lw=2.5, label="f(x)")
        axes.plot(numbers["x"], values, color=COLORS[0], lw=1.2, label="network")
        title = f"{2 * int(n)} hidden neurons: error {numbers['mean error'][n]:.3f}"
        finish(axes, "x", "", title)
        legend(axes)


def tower(seed: int = 0) -> Numbers:
    """Return the output of a tower: four steps into one neuron that is active where all agree.

    The tower neuron sums h (step up, step down) in x and in y, and subtracts 3h/2: only where
    both sums are h is its weighted input positive.

    Example:
        >>> from nnjax.book import chapter4
        >>> numbers = chapter4.tower()
        >>> sorted({round(float(v), 2) for v in numbers["outputs"][::10, ::10].ravel()})
        [0.0, 1.0]
    """
    x, y = np.meshgrid(np.linspace(0, 1, 81), np.linspace(0, 1, 81))
    net = Network(2, [Dense(4), Dense(1)], quadratic)
    edges = [0.355, 0.655]
    params = _params(*_edges(edges, edges), [[40.0, -40.0, 40.0, -40.0]], [-60.0])
    return {"x": x, "y": y, "outputs": _outputs((net, params), x, y)}


def _edges(x_edges: Any, y_edges: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and biases of neurons that step at these x, and at these y."""
    along = [[STEEP, 0.0]] * len(x_edges) + [[0.0, STEEP]] * len(y_edges)
    return np.array(along), -STEEP * np.array([*x_edges, *y_edges])


def draw_tower(figure: Any, numbers: Numbers) -> None:
    axes = figure.add_subplot(projection="3d")
    axes.plot_surface(numbers["x"], numbers["y"], numbers["outputs"], cmap="viridis", lw=0)
    axes.set(xlabel="x", ylabel="y", zlabel="output")


def towers(heights: np.ndarray) -> tuple[Network, Any]:
    """Return a network [2, 2(n + 1), n², 1] and its parameters: n x n towers on the unit square.

    Args:
        heights: (n, n), by row (y) and column (x).

    Returns:
        `(net, params)`.

    Example:
        >>> import jax.numpy as jnp, nnjax, numpy as np
        >>> from nnjax.book import chapter4
        >>> net, params = chapter4.towers(np.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> round(float(nnjax.feedforward(net, params, jnp.array([[0.8, 0.2]]))[0, 0]), 3)
        2.0
    """
    n = len(heights)
    edges = np.arange(n + 1) / n
    edges[0], edges[-1] = -0.1, 1.1
    h = 40.0
    inner = np.zeros((n, n, 2, n + 1))
    for i, j in np.ndindex(n, n):
        inner[i, j, 0, j : j + 2] = inner[i, j, 1, i : i + 2] = h, -h
    net = Network(2, [Dense(2 * n + 2), Dense(n * n), Dense(1, identity)], quadratic)
    second = inner.reshape(n * n, -1), np.full(n * n, -1.5 * h)
    return net, _params(*_edges(edges, edges), *second, np.asarray(heights).reshape(1, -1), [0.0])


def two_dimensions(seed: int = 0) -> Numbers:
    """Return a function of two variables, and networks of 5x5 and 20x20 towers close to it.

    Example:
        >>> from nnjax.book import chapter4
        >>> errors = chapter4.two_dimensions()["mean error"]
        >>> errors["20"] < errors["5"] / 2
        True
    """
    x, y = np.meshgrid(np.linspace(0, 1, 61), np.linspace(0, 1, 61))
    f = target2(x, y)
    outputs = {str(n): _outputs(towers(_middles2(n)), x, y) for n in (5, 20)}
    errors = {n: float(np.abs(values - f).mean()) for n, values in outputs.items()}
    return {"x": x, "y": y, "f": f, "outputs": outputs, "mean error": errors}


def _middles2(n: int) -> np.ndarray:
    at = (np.arange(n) + 0.5) / n
    return target2(*np.meshgrid(at, at))


def draw_two_dimensions(figure: Any, numbers: Numbers) -> None:
    surfaces = {"f(x, y)": numbers["f"]} | {
        f"{n}x{n} towers: error {numbers['mean error'][n]:.3f}": values
        for n, values in numbers["outputs"].items()
    }
    for i, (name, values) in enumerate(surfaces.items()):
        axes = figure.add_subplot(1, 3, i + 1, projection="3d")
        axes.plot_surface(numbers["x"], numbers["y"], np.asarray(values), cmap="viridis", lw=0,
                          rcount=60, ccount=60)  # fmt: skip
        axes.set_title(name, fontsize=10)
        axes.set(xlabel="x", ylabel="y")


def error_by_neurons(seed: int = 0) -> Numbers:
    """Return the mean error by the number of hidden neurons, in one and in two dimensions.

    Pieces of width 1/n leave an error proportional to 1/n: n bumps take 2n neurons, n x n towers
    take n² + 2n + 2.

    Example:
        >>> from nnjax.book import chapter4
        >>> chapter4.error_by_neurons()["one"]["neurons"]
        [8, 64, 512]
    """
    x = np.linspace(0, 1, 1000)
    one: Numbers = {"neurons": [], "error": []}
    for n in (4, 32, 256):
        one["neurons"].append(2 * n)
        values = _outputs(bumps(_middles(target, n)), x)
        one["error"].append(float(np.abs(values - target(x)).mean()))
    x, y = np.meshgrid(np.linspace(0, 1, 31), np.linspace(0, 1, 31))
    two: Numbers = {"neurons": [], "error": []}
    for n in (3, 8, 24):
        two["neurons"].append(n * n + 2 * n + 2)
        values = _outputs(towers(_middles2(n)), x, y)
        two["error"].append(float(np.abs(values - target2(x, y)).mean()))
    return {"one": one, "two": two}


def draw_error_by_neurons(figure: Any, numbers: Numbers) -> None:
    (axes,) = panels(figure, 1, 1)
    for i, (name, label) in enumerate((("one", "bumps, one variable"),
                                       ("two", "towers, two variables"))):  # fmt: skip
        axes.loglog(numbers[name]["neurons"], numbers[name]["error"], "os"[i] + STROKES[i],
                    color=COLORS[i], label=label)  # fmt: skip
    finish(axes, "hidden neurons", "mean |f − network|")
    legend(axes)


FIGURES = (
    BookFigure("4.1", "A sigmoid neuron becomes a step", steps, draw_steps),
    BookFigure("4.2", "Two steps make a bump", bump, draw_bump),
    BookFigure("4.3", "Bumps side by side: any function of one variable", one_dimension,
               draw_one_dimension, size=(11, 4)),
    BookFigure("4.4", "The error by the number of neurons", error_by_neurons,
               draw_error_by_neurons, 3),
    BookFigure("4.5", "Four steps make a tower", tower, draw_tower, size=(6, 5)),
    BookFigure("4.6", "Towers: any function of two variables", two_dimensions,
               draw_two_dimensions, size=(11, 4.5)),
)  # fmt: skip
"""The figures of the chapter."""
