"""Chapter 3: how fast a neuron learns, overfitting, and where the weights start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from nnjax.activations import Softmax, absolute, identity, leaky_relu, relu, sigmoid, tanh
from nnjax.book.chapter1 import SVM_IMAGES, svm
from nnjax.book.drawing import COLORS, STROKES, finish, legend, panels
from nnjax.book.figures import BookFigure, Numbers
from nnjax.book.setting import Setting, default, large
from nnjax.data import Dataset, load
from nnjax.descent import sgd_step
from nnjax.layers import Affine, Dense
from nnjax.losses import Loss, cross_entropy, quadratic
from nnjax.network import Network, feedforward, init, loss, mlp
from nnjax.training import DivergedError, optimizers

__all__ = [
    "FEW",
    "FIGURES",
    "SIZES",
    "SLOW",
    "activation_functions",
    "cross_entropy_neuron",
    "initialisation",
    "momentum",
    "overfitting",
    "polynomials",
    "quadratic_neuron",
    "rates",
    "regularisation",
    "search",
    "sizes",
    "softmax",
    "spread",
]

FEW: dict[str, Any] = {"examples": 1000, "epochs": 400}
"""Too few images, for too long: the setting of the chapter that overfits."""

SLOW: dict[str, Any] = {"eta": 0.1, "lmbda": 5.0}
"""The rate and the regularisation of the chapter's later runs."""

SIZES = (100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)
"""Numbers of training images."""


def _one_neuron(cost: Loss, eta: float) -> Numbers:
    """Train the neuron of the chapter, which is to turn x = 1 into 0, from its two starts."""
    net = Network(1, [Dense(1)], cost)
    x, y = jnp.ones((1, 1)), jnp.zeros((1, 1))
    runs = {}
    for w, b in ((0.6, 0.9), (2.0, 2.0)):
        params: Any = (Affine(w=jnp.array([[w]]), b=jnp.array([b])),)
        outputs, costs = [], []
        for _ in range(301):
            outputs.append(float(feedforward(net, params, x)[0, 0]))
            costs.append(float(loss(net, params, x, y)))
            params = sgd_step(net, params, x, y, eta)
        runs[f"w = {w}, b = {b}"] = {"output": outputs, "cost": costs}
    return {"η": eta, "runs": runs}


def quadratic_neuron(seed: int = 0) -> Numbers:
    """Return output and cost by epoch of one neuron with the quadratic cost, η = 0.15.

    Example:
        >>> from nnjax.book import chapter3
        >>> numbers = chapter3.quadratic_neuron()
        >>> [round(run["output"][0], 2) for run in numbers["runs"].values()]
        [0.82, 0.98]
    """
    return _one_neuron(quadratic, 0.15)


def cross_entropy_neuron(seed: int = 0) -> Numbers:
    """Return output and cost by epoch of one neuron with the cross-entropy, η = 0.15.

    Example:
        >>> from nnjax.book import chapter3
        >>> saturated = chapter3.cross_entropy_neuron()["runs"]["w = 2.0, b = 2.0"]
        >>> bool(saturated["output"][100] < 0.1)
        True
    """
    return _one_neuron(cross_entropy, 0.15)


def draw_neuron(figure: Any, numbers: Numbers) -> None:
    left, right = panels(figure, 1, 2)
    for i, (name, run) in enumerate(numbers["runs"].items()):
        for axes, values in ((left, run["cost"]), (right, run["output"])):
            axes.plot(values, STROKES[i], color=COLORS[i], label=name)
    finish(left, "epoch", "cost C", f"η = {numbers['η']}")
    finish(right, "epoch", "output a", "x = 1, desired output 0")
    right.set_ylim(0, 1)
    legend(left)


def softmax(seed: int = 0) -> Numbers:
    """Return the softmax of four weighted inputs, the fourth going from −5 to 5; and its scale c.

    a_j = exp(c z_j) / Σ_k exp(c z_k): with c → ∞ the largest z takes it all.

    Example:
        >>> import numpy as np
        >>> from nnjax.book import chapter3
        >>> numbers = chapter3.softmax()
        >>> bool(np.allclose(np.sum(numbers["outputs"], axis=1), 1))
        True
    """
    fourth = np.linspace(-5.0, 5.0, 101)
    z = np.column_stack([*np.broadcast_to([2.5, -1.0, 3.2], (101, 3)).T, fourth])
    scales = {
        str(c): np.asarray(Softmax(scale=c)(jnp.array([2.5, -1.0, 3.2, 0.5])))
        for c in (0.1, 1.0, 4.0)
    }
    return {"z₄": fourth, "outputs": np.asarray(Softmax()(jnp.asarray(z))), "scales": scales}


def draw_softmax(figure: Any, numbers: Numbers) -> None:
    left, right = panels(figure, 1, 2)
    for j, values in enumerate(np.asarray(numbers["outputs"]).T):
        left.plot(numbers["z₄"], values, STROKES[j], color=COLORS[j], label=f"a{'₁₂₃₄'[j]}")
    finish(left, "z₄", "activation", "z₁ = 2.5, z₂ = −1, z₃ = 3.2")
    legend(left)
    for i, (c, values) in enumerate(numbers["scales"].items()):
        right.bar(np.arange(4) + 0.27 * (i - 1), values, 0.25, color=COLORS[i], label=f"c = {c}")
    right.set_xticks(range(4), ["z₁ = 2.5", "z₂ = −1", "z₃ = 3.2", "z₄ = 0.5"], fontsize=8)
    finish(right, "", "activation", "softmax of c z")
    legend(right)


def overfitting(seed: int, data: Dataset) -> Numbers:
    """Return losses and accuracies of 400 epochs on 1,000 images, without and with λ = 0.1.

    Example:
        >>> from nnjax import book
        >>> numbers = book.result("3.4").numbers
        >>> numbers["λ = 0"]["train_accuracy"][-1], list(numbers)
        (100.0, ['λ = 0', 'λ = 0.1'])
    """
    runs = {"λ = 0": Setting(**FEW), "λ = 0.1": Setting(**FEW, lmbda=0.1)}
    return _curves(runs, seed, data, ("train", "test"))


def regularisation(seed: int, data: Dataset) -> Numbers:
    """Return losses and accuracies of 30 epochs on all images, without and with λ = 5.

    Example:
        >>> from nnjax import book
        >>> numbers = book.result("3.6").numbers
        >>> max(numbers["λ = 5"]["test_accuracy"]) > max(numbers["λ = 0"]["test_accuracy"])
        True
    """
    runs = {"λ = 0": Setting(), "λ = 5": Setting(lmbda=5.0)}
    return _curves(runs, seed, data, ("train", "test"))


def _curves(
    settings: Mapping[str, Setting], seed: int, data: Dataset, parts: tuple[str, ...]
) -> Numbers:
    """Train with each setting; return losses, and accuracies in percent, by name and epoch."""
    curves = {}
    for name, setting in settings.items():
        history = setting.run(data, seed, parts)
        kept = {key: values for key, values in history.items() if key.startswith(parts)}
        kept["train_cost"] = history["train_loss"] + history["penalty"]
        curves[name] = {
            key: values * (100 if key.endswith("accuracy") else 1)
            for key, values in kept.items()
            if not key.endswith("correct")
        }
    return curves


def _draw_curves(axes: Any, curves: Mapping[str, Any], ylabel: str, title: str = "") -> None:
    for i, (name, values) in enumerate(curves.items()):
        axes.plot(np.arange(1, 1 + len(values)), values, STROKES[i % 4], color=COLORS[i],
                  label=name)  # fmt: skip
    finish(axes, "epoch", ylabel, title)
    if len(curves) > 1:
        legend(axes)


def draw_overfitting(figure: Any, numbers: Numbers) -> None:
    curves = numbers["λ = 0"]
    for axes, (name, title) in zip(
        panels(figure, 2, 2),
        (
            ("train_cost", "cost, training data"),
            ("test_accuracy", "accuracy, test data"),
            ("test_loss", "cost, test data"),
            ("train_accuracy", "accuracy, training data"),
        ),
        strict=True,
    ):
        _draw_curves(axes, {"": curves[name]}, "%" if "acc" in name else "C", title)


def draw_regularised(figure: Any, numbers: Numbers) -> None:
    left, right = panels(figure, 1, 2)
    accuracies = {
        f"{part}, {name}": curves[f"{part}_accuracy"]
        for part in ("train", "test")
        for name, curves in numbers.items()
    }
    _draw_curves(left, accuracies, "accuracy (%)")
    _draw_curves(right, {name: c["test_loss"] for name, c in numbers.items()}, "cost, test data")


def sizes(seed: int, data: Dataset) -> Numbers:
    """Return the validation accuracy by the number of training images, of a network and an SVM.

    The network takes the same number of steps for each size; λ grows with the size. The machine
    is trained with up to 10,000 images, as its time grows with the square of their number.

    Example:
        >>> from nnjax import book
        >>> numbers = book.result("3.7").numbers
        >>> numbers["network"][0] < numbers["network"][-1]
        True
    """
    network, machine = [], []
    for size in SIZES:
        setting = Setting(
            examples=size, epochs=1_500_000 // size, lmbda=size * 1e-4, every_epoch=False
        )
        history = setting.run(data, seed, ["validation"])
        network.append(100 * float(history["validation_accuracy"][-1]))
        if size <= SVM_IMAGES:
            machine.append(100 * svm(data, size, "validation", gamma="auto"))
    return {"images": list(SIZES), "network": network, "SVM, default": machine}


def draw_sizes(figure: Any, numbers: Numbers) -> None:
    (axes,) = panels(figure, 1, 1)
    for i, name in enumerate(("network", "SVM, default")):
        values = numbers[name]
        axes.semilogx(numbers["images"][: len(values)], values, "os"[i] + STROKES[i],
                      color=COLORS[i], label=name)  # fmt: skip
    finish(axes, "number of training images", "validation accuracy (%)")
    legend(axes)


def polynomials(seed: int = 0) -> Numbers:
    """Return ten noisy points on y = 2x, and polynomials of order 1 and 9 that fit them best.

    Each is a network without hidden layers: its inputs are the Legendre polynomials of x, its
    output is linear. The quadratic cost is then a parabola in the weights, and one step of
    Newton's method, −H⁻¹ ∇C, reaches its minimum.

    Example:
        >>> from nnjax.book import chapter3
        >>> numbers = chapter3.polynomials()
        >>> numbers["cost"]["9"] < 1e-20 < numbers["cost"]["1"]
        True
    """
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        x = np.linspace(0.5, 5.0, 10)
        y = 2 * x + rng.normal(0, 0.7, 10)
        fine = np.linspace(0.5, 5.5, 201)
        curves, costs = {}, {}
        for order in (1, 9):
            net = mlp([order, 1], output=identity, loss=quadratic)
            inputs, targets = _legendre(x, order), jnp.asarray(y[:, None])
            params = _newton(net, inputs, targets)
            curves[str(order)] = feedforward(net, params, _legendre(fine, order))[:, 0]
            costs[str(order)] = float(loss(net, params, inputs, targets))
        return {"x": x, "y": y, "fine": fine, "curves": curves, "cost": costs}


def _legendre(x, order):
    """Return the Legendre polynomials 1 to order of x, scaled from 0.5 … 5 to −1 … 1."""
    return jnp.asarray(np.polynomial.legendre.legvander((x - 2.75) / 2.25, order)[:, 1:])


def _newton(net, x, y):
    flat, structured = ravel_pytree(jax.tree.map(jnp.zeros_like, init(net, jax.random.key(0))))

    def cost(v):
        return loss(net, structured(v), x, y)

    newton = jax.jit(lambda v: v - jnp.linalg.solve(jax.hessian(cost)(v), jax.grad(cost)(v)))
    return structured(newton(newton(flat)))  # the second step takes away the rounding of the first


def draw_polynomials(figure: Any, numbers: Numbers) -> None:
    (axes,) = panels(figure, 1, 1)
    axes.plot(numbers["x"], numbers["y"], "o", color="black", label="data")
    for i, (order, curve) in enumerate(numbers["curves"].items()):
        axes.plot(numbers["fine"], curve, STROKES[i], color=COLORS[i], label=f"order {order}")
    axes.set_ylim(-2, 15)
    finish(axes, "x", "y")
    legend(axes)


def spread(seed: int = 0) -> Numbers:
    """Return weighted inputs z of neurons with 1,000 inputs, half of them 1, under both starts.

    z = Σ_k w_k x_k + b sums 500 weights and a bias: its standard deviation is √501 ≈ 22.4 for
    w ~ N(0, 1), and √(3/2) ≈ 1.22 for w ~ N(0, 1/n_in).

    Example:
        >>> from nnjax.book import chapter3
        >>> {name: round(s, 1) for name, s in chapter3.spread()["deviation"].items()}
        {'w ~ N(0, 1)': 22.5, 'w ~ N(0, 1/n_in)': 1.2}
    """
    x = jnp.asarray(np.repeat([1.0, 0.0], 500)[None], jnp.float32)
    found, deviation = {}, {}
    for name, initializer in (("w ~ N(0, 1)", large), ("w ~ N(0, 1/n_in)", default)):
        net = mlp([1000, 3000], output=identity, loss=quadratic, initializer=initializer)
        z = np.asarray(feedforward(net, init(net, jax.random.key(seed)), x)[0])
        found[name], deviation[name] = z, float(z.std())
    return {"z": found, "deviation": deviation}


def draw_spread(figure: Any, numbers: Numbers) -> None:
    for axes, (name, z) in zip(panels(figure, 1, 2), numbers["z"].items(), strict=True):
        axes.hist(z, bins=60, density=True, color=COLORS[0])
        axes.axvspan(-5, 5, color=COLORS[5], alpha=0.2, label="σ'(z) > 0.0066")
        axes.set_xlim(-80, 80) if numbers["deviation"][name] > 10 else axes.set_xlim(-6, 6)
        finish(axes, "z", "density", f"{name}: standard deviation {numbers['deviation'][name]:.2f}")
        legend(axes, loc="upper right")


def initialisation(seed: int, data: Dataset) -> Numbers:
    """Return the validation accuracy by epoch under both initialisations, 30 and 100 hidden.

    Example:
        >>> from nnjax import book
        >>> runs = book.result("3.10").numbers
        >>> runs["30 hidden, default"][0] > runs["30 hidden, large"][0]
        True
    """
    return {
        f"{hidden} hidden, {name}": 100
        * Setting((hidden,), initializer=initializer, **SLOW).run(data, seed, ["validation"])[
            "validation_accuracy"
        ]
        for hidden in (30, 100)
        for name, initializer in (("default", default), ("large", large))
    }


def draw_initialisation(figure: Any, numbers: Numbers) -> None:
    for axes, hidden in zip(panels(figure, 1, 2, sharey=True), ("30", "100"), strict=True):
        curves = {n.split(", ")[1]: v for n, v in numbers.items() if n.startswith(hidden + " ")}
        _draw_curves(axes, curves, "validation accuracy (%)", f"{hidden} hidden neurons")


def rates(seed: int, data: Dataset) -> Numbers:
    """Return the training cost by epoch for three learning rates.

    Example:
        >>> from nnjax import book
        >>> list(book.result("3.11").numbers)
        ['η = 0.025', 'η = 0.25', 'η = 2.5']
    """
    settings = {
        f"η = {eta:g}": Setting(eta=eta, lmbda=5.0, initializer=default)
        for eta in (0.025, 0.25, 2.5)
    }
    runs = _curves(settings, seed, data, ("train",))
    return {name: curves["train_cost"] for name, curves in runs.items()}


def draw_rates(figure: Any, numbers: Numbers) -> None:
    (axes,) = panels(figure, 1, 1)
    _draw_curves(axes, numbers, "cost, training data")


def search(seed: int = 0) -> Numbers:
    """Return the validation accuracy on the 8x8 digits over a grid of η and λ, 10 epochs each.

    The chapter begins its search with η = 10 and λ = 1000, which is no better than chance.

    Example:
        >>> from nnjax import book
        >>> numbers = book.result("3.12").numbers
        >>> best = max(max(row) for row in numbers["accuracy"])
        >>> numbers["at the start"] < 30 < 90 < best
        True
    """
    data = load("digits")
    etas, lmbdas = [0.025, 0.1, 0.5, 2.0, 10.0], [0.0, 1.0, 10.0, 100.0, 1000.0]
    accuracy = [[_accuracy(data, seed, eta, lmbda) for eta in etas] for lmbda in lmbdas]
    return {"η": etas, "λ": lmbdas, "accuracy": accuracy, "at the start": accuracy[-1][-1]}


def _accuracy(data: Dataset, seed: int, eta: float, lmbda: float) -> float:
    """Return the accuracy after the last epoch; chance, 10 %, for a network that diverged."""
    setting = Setting(eta=eta, lmbda=lmbda, epochs=10, initializer=default)
    try:
        return 100 * float(setting.run(data, seed, ["validation"])["validation_accuracy"][-1])
    except DivergedError:
        return 10.0


def draw_search(figure: Any, numbers: Numbers) -> None:
    (axes,) = panels(figure, 1, 1)
    values = np.asarray(numbers["accuracy"])
    drawn = axes.imshow(values, cmap="viridis", vmin=10, vmax=100, aspect="auto")
    for i, j in np.ndindex(values.shape):
        axes.text(j, i, f"{values[i, j]:.0f}", ha="center", va="center",
                  color="black" if values[i, j] > 60 else "white")  # fmt: skip
    axes.set_xticks(range(len(numbers["η"])), [f"{v:g}" for v in numbers["η"]])
    axes.set_yticks(range(len(numbers["λ"])), [f"{v:g}" for v in numbers["λ"]])
    axes.set(xlabel="learning rate η", ylabel="regularisation λ")
    figure.colorbar(drawn, ax=axes, label="validation accuracy (%)")


def activation_functions(seed: int = 0) -> Numbers:
    """Return five activation functions and their derivatives.

    Example:
        >>> from nnjax.book import chapter3
        >>> float(chapter3.activation_functions()["derivatives"]["sigmoid"].max())
        0.25
    """
    z = jnp.linspace(-4.0, 4.0, 401)
    functions = (sigmoid, tanh, relu, leaky_relu, absolute)
    return {
        "z": np.asarray(z),
        "values": {f.name: np.asarray(f(z)) for f in functions},
        "derivatives": {f.name: np.asarray(f.derivative(z)) for f in functions},
    }


def draw_activation_functions(figure: Any, numbers: Numbers) -> None:
    left, right = panels(figure, 1, 2)
    for i, name in enumerate(numbers["values"]):
        style = {"color": COLORS[i], "ls": STROKES[i % 4], "lw": 3 - 0.4 * i, "label": name}
        left.plot(numbers["z"], numbers["values"][name], **style)
        right.plot(numbers["z"], numbers["derivatives"][name], **style)
    left.set_ylim(-1.5, 4)
    finish(left, "z", "σ(z)")
    finish(right, "z", "σ'(z)")
    legend(left)


def momentum(seed: int = 0) -> Numbers:
    """Return paths down a narrow valley, C = (w₁² + 30 w₂²) / 2, with momentum μ from 0 to 1.

    v → μv − η∇C, w → w + v: with μ = 0 it is gradient descent, with μ = 1 nothing slows it down.

    Example:
        >>> from nnjax.book import chapter3
        >>> numbers = chapter3.momentum()
        >>> last = {mu: float(cost[-1]) for mu, cost in numbers["cost"].items()}
        >>> last["0.8"] < last["0.0"] < last["1.0"]
        True
    """
    curvature = jnp.array([1.0, 30.0])
    paths, costs = {}, {}
    for mu in (0.0, 0.5, 0.8, 1.0):
        optimizer, w = optimizers.momentum(0.03, mu), jnp.array([-4.0, 1.0])
        state, path = optimizer.init(w), [w]
        v: Any
        for _ in range(60):
            v, state = optimizer.update(curvature * w, state)
            w = w + v
            path.append(w)
        paths[str(mu)] = np.asarray(path)
        costs[str(mu)] = 0.5 * np.sum(np.asarray(curvature) * paths[str(mu)] ** 2, axis=1)
    return {"η": 0.03, "paths": paths, "cost": costs}


def draw_momentum(figure: Any, numbers: Numbers) -> None:
    left, right = panels(figure, 1, 2)
    w1, w2 = np.meshgrid(np.linspace(-4.5, 4.5, 100), np.linspace(-1.3, 1.3, 100))
    left.contour(w1, w2, (w1**2 + 30 * w2**2) / 2, levels=12, colors="0.8")
    for i, (mu, path) in enumerate(numbers["paths"].items()):
        left.plot(*np.asarray(path).T, ".-", ms=3, lw=0.8, color=COLORS[i], label=f"μ = {mu}")
        right.semilogy(numbers["cost"][mu], STROKES[i], color=COLORS[i], label=f"μ = {mu}")
    finish(left, "w₁", "w₂", f"η = {numbers['η']}")
    finish(right, "step", "cost C")
    legend(right)


def _mnist(number: str, title: str, compute: Any, draw: Any, seconds: float, size=(8.0, 4.0)):
    return BookFigure(number, title, compute, draw, seconds, "mnist", saved=True, size=size)


FIGURES = (
    BookFigure("3.1", "One neuron, quadratic cost", quadratic_neuron, draw_neuron),
    BookFigure("3.2", "One neuron, cross-entropy", cross_entropy_neuron, draw_neuron),
    BookFigure("3.3", "Softmax", softmax, draw_softmax),
    _mnist("3.4", "Overfitting: 1,000 images, 400 epochs", overfitting, draw_overfitting, 60,
           (8, 6)),
    _mnist("3.5", "The same 1,000 images with λ = 0.1", overfitting, draw_regularised, 60),
    _mnist("3.6", "All 50,000 images, without and with λ = 5", regularisation, draw_regularised,
           30),
    _mnist("3.7", "More training data", sizes, draw_sizes, 120),
    BookFigure("3.8", "Polynomials of order 1 and 9 through ten points", polynomials,
               draw_polynomials),
    BookFigure("3.9", "The weighted inputs of new neurons", spread, draw_spread, 2),
    _mnist("3.10", "Weights that start as N(0, 1/n_in) or as N(0, 1)",
           initialisation, draw_initialisation, 60),
    _mnist("3.11", "Three learning rates", rates, draw_rates, 40),
    BookFigure("3.12", "The search for η and λ on the 8x8 digits", search, draw_search, 40,
               saved=True),
    BookFigure("3.13", "Activation functions and their derivatives", activation_functions,
               draw_activation_functions),
    BookFigure("3.14", "Momentum in a narrow valley", momentum, draw_momentum),
)  # fmt: skip
"""The figures of the chapter."""
