"""Chapter 1: perceptrons, sigmoid neurons, gradient descent, and a network that reads digits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.activations import sigmoid, step
from nnjax.book.drawing import COLORS, STROKES, finish, images, legend, panels
from nnjax.book.figures import BookFigure, Numbers
from nnjax.book.setting import Setting
from nnjax.data import Dataset, load
from nnjax.descent import sgd_step
from nnjax.layers import Affine, Dense
from nnjax.losses import quadratic
from nnjax.network import Network, feedforward, loss

__all__ = [
    "FIGURES",
    "SVM_IMAGES",
    "adder",
    "baselines",
    "darkness",
    "digits",
    "first_network",
    "nand",
    "rates",
    "smooth_step",
    "valley",
]

SVM_IMAGES = 10_000
"""Training images of the support vector machines, whose time grows with the square of these."""

PERCEPTRON = Network(2, [Dense(1, step)], quadratic)
NAND = (Affine(w=jnp.array([[-2.0, -2.0]]), b=jnp.array([3.0])),)


def nand(seed: int = 0) -> Numbers:
    """Return the outputs of the perceptron w = (−2, −2), b = 3 for the four inputs: NAND.

    Example:
        >>> from nnjax.book import chapter1
        >>> chapter1.nand()["output"]
        [1.0, 1.0, 1.0, 0.0]
    """
    x = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    output = feedforward(PERCEPTRON, NAND, x)[:, 0]
    return {"x": x.tolist(), "output": output.tolist(), "w": [-2.0, -2.0], "b": 3.0}


def draw_nand(figure: Any, numbers: Numbers) -> None:
    (axes,) = panels(figure, 1, 1)
    line = np.array([-0.5, 2.0])
    axes.fill_between(line, 1.5 - line, -0.5, color=COLORS[4], alpha=0.2)
    axes.plot(line, 1.5 - line, color=COLORS[0], label="z = −2x₁ − 2x₂ + 3 = 0")
    for (x1, x2), a in zip(numbers["x"], numbers["output"], strict=True):
        axes.plot(x1, x2, "o", ms=14, mec="black", mfc="white" if a else "black")
        axes.annotate(f"NAND({x1:.0f}, {x2:.0f}) = {a:.0f}", (x1, x2), (12, 8),
                      textcoords="offset points", fontsize=9,
                      bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1})  # fmt: skip
    axes.text(-0.3, -0.3, "z > 0: the perceptron gives 1", fontsize=9, color=COLORS[0])
    axes.set(xlim=(-0.5, 2.0), ylim=(-0.5, 1.6), xticks=[0, 1], yticks=[0, 1])
    finish(axes, "x₁", "x₂")
    legend(axes, loc="upper right")


def adder(seed: int = 0) -> Numbers:
    """Return what a half adder of five NAND gates gives, and how many sums of 4 bits are correct.

    Every gate is the perceptron of `nand`. Two half adders and a NAND make a full adder, four full
    adders add two numbers of four bits: all 256 pairs are tried.

    Example:
        >>> from nnjax.book import chapter1
        >>> chapter1.adder()["sum"], chapter1.adder()["carry"]
        ([0, 1, 1, 0], [0, 0, 0, 1])
    """
    first, second = np.divmod(np.arange(256), 16)
    carry, added = np.zeros(256), np.zeros(256)
    for bit in range(4):
        total, carry = _full_adder(first >> bit & 1, second >> bit & 1, carry)
        added += 2**bit * total
    added += 16 * carry
    half = _half_adder(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    return {
        "x": [[0, 0], [0, 1], [1, 0], [1, 1]],
        "sum": half[0].astype(int).tolist(),
        "carry": half[1].astype(int).tolist(),
        "sums": 256,
        "correct sums": int((added == first + second).sum()),
    }


def _gate(a, b):
    """Return NAND(a, b) of arrays of bits, by the perceptron."""
    x = jnp.asarray(np.stack([a, b], axis=1), jnp.float32)
    return np.asarray(feedforward(PERCEPTRON, NAND, x)[:, 0])


def _half_adder(a, b):
    both = _gate(a, b)
    return _gate(_gate(a, both), _gate(b, both)), _gate(both, both)


def _full_adder(a, b, carry):
    total, first = _half_adder(a, b)
    total, second = _half_adder(total, carry)
    return total, _gate(1 - first, 1 - second)  # the carry of either


def draw_adder(figure: Any, numbers: Numbers) -> None:
    circuit, table = panels(figure, 1, 2, width_ratios=[3, 2])
    gates = {"A": (2, 1.5), "B": (4, 2.6), "C": (4, 0.4), "sum": (6, 1.5), "carry": (4, -0.9)}
    wires = [
        ("x₁", "A"), ("x₂", "A"), ("x₁", "B"), ("A", "B"), ("A", "C"), ("x₂", "C"),
        ("B", "sum"), ("C", "sum"), ("A", "carry"),
    ]  # fmt: skip
    at = gates | {"x₁": (0, 2.6), "x₂": (0, 0.4)}
    for start, end in wires:
        circuit.annotate("", at[end], at[start], arrowprops={
            "arrowstyle": "-|>", "shrinkA": 14, "shrinkB": 17, "color": "0.3"})  # fmt: skip
    for name, (x, y) in at.items():
        gate = name in gates
        circuit.text(x, y, "NAND" if gate else name, ha="center", va="center", fontsize=9 if gate
                     else 12, bbox={"boxstyle": "round,pad=0.4", "fc": "white", "ec": "0.3"}
                     if gate else None)  # fmt: skip
    for name in ("sum", "carry"):
        x, y = gates[name]
        circuit.annotate(name, (x + 0.55, y), (x + 1.5, y), va="center", fontsize=11, arrowprops={
            "arrowstyle": "<|-", "color": "0.3"})  # fmt: skip
    circuit.set(xlim=(-0.4, 8.4), ylim=(-1.5, 3.2))
    circuit.set_axis_off()
    rows = [
        [*map(str, x), str(carry), str(total)]
        for x, carry, total in zip(numbers["x"], numbers["carry"], numbers["sum"], strict=True)
    ]
    table.set_axis_off()
    drawn = table.table(rows, colLabels=["x₁", "x₂", "carry", "sum"], loc="center",
                        cellLoc="center")  # fmt: skip
    drawn.scale(1, 1.6)
    table.set_title(
        f"{numbers['correct sums']} of {numbers['sums']} sums of two 4-bit\nnumbers are correct",
        fontsize=10,
    )


def smooth_step(seed: int = 0) -> Numbers:
    """Return the step function and σ(c z), which comes closer to it the larger c is.

    Example:
        >>> from nnjax.book import chapter1
        >>> round(chapter1.smooth_step()["largest gap at |z| > 0.5"]["10"], 4)
        0.0067
    """
    z = np.linspace(-4.0, 4.0, 401)
    sharp = np.asarray(step(jnp.asarray(z)))
    smooth = {str(c): np.asarray(sigmoid(jnp.asarray(c * z))) for c in (1, 3, 10)}
    away = np.abs(z) > 0.5 - 1e-9
    gaps = {c: float(np.abs(a - sharp)[away].max()) for c, a in smooth.items()}
    return {"z": z, "step": sharp, "sigmoid": smooth, "largest gap at |z| > 0.5": gaps}


def draw_smooth_step(figure: Any, numbers: Numbers) -> None:
    (axes,) = panels(figure, 1, 1)
    axes.plot(numbers["z"], numbers["step"], color="black", lw=2.5, label="step(z)")
    for (c, a), color, stroke in zip(numbers["sigmoid"].items(), COLORS, STROKES, strict=False):
        axes.plot(numbers["z"], a, stroke, color=color, label=f"σ({c} z)" if c != "1" else "σ(z)")
    finish(axes, "weighted input z", "output a")
    legend(axes)


VALLEY = Network(1, [Dense(1)], quadratic)


def valley(seed: int = 0) -> Numbers:
    """Return the cost of one sigmoid neuron over (w, b), and two paths of descent on it.

    The neuron learns from twenty examples whether x > 0.5, with a few labels wrong. One path
    follows the gradient of all examples, the other that of mini-batches of two; both take 60 steps
    with η = 20.

    Example:
        >>> from nnjax.book import chapter1
        >>> numbers = chapter1.valley()
        >>> bool(numbers["cost"]["all examples"][-1] < numbers["cost"]["all examples"][0])
        True
    """
    rng = np.random.default_rng(seed)
    x = np.linspace(-1.0, 2.0, 20)[:, None]
    y = (x > 0.5).astype(float)
    y[rng.choice(20, 3, replace=False)] = 0.5
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    w, b = np.linspace(-4.0, 10.0, 71), np.linspace(-8.0, 6.0, 71)
    grid = jnp.asarray(np.stack(np.meshgrid(w, b), axis=-1).reshape(-1, 2), jnp.float32)
    at = jax.jit(jax.vmap(lambda point: loss(VALLEY, _neuron(*point), x, y)))
    surface = np.asarray(at(grid)).reshape(71, 71)
    batches = {
        "all examples": (20.0, [np.arange(20)] * 60),
        "mini-batches of 2": (20.0, [rng.choice(20, 2, replace=False) for _ in range(60)]),
    }
    paths = {}
    for name, (eta, indices) in batches.items():
        params = _neuron(jnp.float32(-3.0), jnp.float32(4.0))
        path = [(-3.0, 4.0)]
        for batch in indices:
            params = sgd_step(VALLEY, params, x[batch], y[batch], eta)
            path.append((float(params[0].w[0, 0]), float(params[0].b[0])))
        paths[name] = path
    costs = {name: np.asarray(at(jnp.asarray(path))) for name, path in paths.items()}
    return {"w": w, "b": b, "surface": surface, "paths": paths, "cost": costs}


def _neuron(w, b):
    return (Affine(w=w.reshape(1, 1), b=b.reshape(1)),)


def draw_valley(figure: Any, numbers: Numbers) -> None:
    left = figure.add_subplot(1, 2, 1, projection="3d")
    right = figure.add_subplot(1, 2, 2)
    w, b = np.meshgrid(numbers["w"], numbers["b"])
    left.plot_surface(w, b, numbers["surface"], cmap="viridis", alpha=0.7, lw=0, rstride=2,
                      cstride=2)  # fmt: skip
    filled = right.contourf(w, b, numbers["surface"], levels=20, cmap="viridis", alpha=0.8)
    figure.colorbar(filled, ax=right, label="cost C")
    for (name, path), color in zip(numbers["paths"].items(), (COLORS[1], "black"), strict=True):
        at = np.asarray(path)
        left.plot(*at.T, np.asarray(numbers["cost"][name]) + 0.01, color=color, lw=2, zorder=5)
        right.plot(*at.T, ".-", color=color, lw=1, ms=4, label=name)
    left.set(xlabel="weight w", ylabel="bias b", zlabel="cost C")
    left.view_init(35, -125)
    left.set_box_aspect(None, zoom=0.82)  # room for the labels
    finish(right, "weight w", "bias b")
    right.legend(fontsize=8, loc="lower right")


def digits(seed: int = 0) -> Numbers:
    """Return forty of the handwritten digits that come with scikit-learn, and their classes.

    Example:
        >>> from nnjax.book import chapter1
        >>> chapter1.digits()["images"].shape
        (40, 8, 8)
    """
    x, y = load("digits").train
    chosen = np.random.default_rng(seed).choice(len(x), 40, replace=False)
    return {"images": x[chosen, :, :, 0], "classes": y[chosen].tolist()}


def draw_digits(figure: Any, numbers: Numbers) -> None:
    images(figure, numbers["images"], [str(c) for c in numbers["classes"]], 10)


def darkness(data: Dataset) -> float:
    """Return the accuracy on the test images of a guess by how dark an image is.

    The average darkness of each class is taken from the training images; an image is said to be
    of the class whose average is nearest.

    Example:
        >>> import nnjax
        >>> from nnjax.book import chapter1
        >>> 0.1 < chapter1.darkness(nnjax.data.load("digits")) < 0.4
        True
    """
    (x, y), test = data.train, data.test
    assert test is not None
    mean = x.reshape(len(x), -1).mean(axis=1)
    by_class = np.array([mean[y == c].mean() for c in range(1 + int(y.max()))])
    seen = test[0].reshape(len(test[0]), -1).mean(axis=1)
    guess = np.abs(seen[:, None] - by_class[None, :]).argmin(axis=1)
    return float((guess == test[1]).mean())


def svm(data: Dataset, examples: int | None, part: str = "test", **options: Any) -> float:
    """Return the accuracy of scikit-learn's support vector machine, trained on the first examples.

    Example:
        >>> import nnjax
        >>> from nnjax.book import chapter1
        >>> chapter1.svm(nnjax.data.load("digits"), 500, gamma="scale") > 0.9
        True
    """
    from sklearn.svm import SVC

    def rows(x):
        return x.reshape(len(x), -1) / (255.0 if x.dtype == np.uint8 else 1.0)

    x, y = data.train
    machine = SVC(**options).fit(rows(x[:examples]), y[:examples])
    x, y = getattr(data, part)
    return float((machine.predict(rows(x)) == y).mean())


def baselines(seed: int, data: Dataset) -> Numbers:
    """Return test accuracies in percent: guesses, support vector machines, the first network.

    The machines see the first 10,000 images, as their time grows with the square of that number.
    The default is that of the book's time, γ = 1/n_in; the tuned one has C = 5, γ = 0.02.

    Example:
        >>> import nnjax
        >>> from nnjax.book import chapter1
        >>> data = nnjax.data.load("digits")
        >>> numbers = chapter1.baselines(0, data)
        >>> numbers["accuracy"]["guess at random"] < numbers["accuracy"]["guess by darkness"]
        True
    """
    test = data.test
    assert test is not None
    random = np.random.default_rng(seed).integers(0, 10, len(test[1]))
    history = Setting(eta=3.0, loss=quadratic).run(data, seed, ["test"])
    return {
        "accuracy": {
            "guess at random": 100 * float((random == test[1]).mean()),
            "guess by darkness": 100 * darkness(data),
            "SVM, default": 100 * svm(data, SVM_IMAGES, gamma="auto"),
            "30 hidden neurons": 100 * float(history["test_accuracy"].max()),
            "SVM, tuned": 100 * svm(data, SVM_IMAGES, C=5.0, gamma=0.02),
        }
    }


def draw_baselines(figure: Any, numbers: Numbers) -> None:
    (axes,) = panels(figure, 1, 1)
    names, values = zip(*numbers["accuracy"].items(), strict=True)
    bars = axes.barh(names, values, color=[COLORS[0] if "hidden" in n else "0.7" for n in names])
    axes.bar_label(bars, fmt="%.2f %%", padding=3, fontsize=9)
    axes.set_xlim(0, 112)
    axes.invert_yaxis()
    finish(axes, "test accuracy (%)", "")


def first_network(seed: int, data: Dataset) -> Numbers:
    """Return the test accuracy by epoch of [784, 30, 10] and [784, 100, 10], in percent.

    Quadratic cost, N(0, 1) initialisation, η = 3, mini-batches of 10, as in the book's first runs.

    Example:
        >>> import nnjax
        >>> from nnjax.book import chapter1
        >>> numbers = chapter1.first_network(0, nnjax.data.load("digits"))
        >>> sorted(numbers["accuracy"])
        ['100 hidden neurons', '30 hidden neurons']
    """
    settings = {f"{n} hidden neurons": Setting((n,), 3.0, loss=quadratic) for n in (30, 100)}
    return {"accuracy": _accuracies(settings, seed, data)}


def rates(seed: int, data: Dataset) -> Numbers:
    """Return the test accuracy by epoch for rates that are too small, good and too large.

    Example:
        >>> import nnjax
        >>> from nnjax.book import chapter1
        >>> numbers = chapter1.rates(0, nnjax.data.load("digits"))
        >>> list(numbers["accuracy"])
        ['η = 0.001', 'η = 3', 'η = 100']
    """
    settings = {f"η = {eta:g}": Setting((30,), eta, loss=quadratic) for eta in (0.001, 3.0, 100.0)}
    return {"accuracy": _accuracies(settings, seed, data)}


def _accuracies(settings: dict[str, Setting], seed: int, data: Dataset) -> dict[str, np.ndarray]:
    runs = {name: setting.run(data, seed, ["test"]) for name, setting in settings.items()}
    return {name: 100 * history["test_accuracy"] for name, history in runs.items()}


def draw_accuracies(figure: Any, numbers: Numbers) -> None:
    (axes,) = panels(figure, 1, 1)
    for i, (name, values) in enumerate(numbers["accuracy"].items()):
        axes.plot(np.arange(1, 1 + len(values)), values, STROKES[i], color=COLORS[i], label=name)
    finish(axes, "epoch", "test accuracy (%)")
    legend(axes)


FIGURES = (
    BookFigure("1.1", "A perceptron that computes NAND", nand, draw_nand, size=(6, 4)),
    BookFigure("1.2", "A half adder of NAND gates", adder, draw_adder),
    BookFigure(
        "1.3", "The step function, and sigmoids that approach it", smooth_step, draw_smooth_step
    ),
    BookFigure(
        "1.4", "Gradient descent in the valley of a real cost", valley, draw_valley, size=(10, 4.5)
    ),
    BookFigure("1.5", "Handwritten digits, 8x8", digits, draw_digits, size=(8, 4)),
    BookFigure(
        "1.6", "Baselines beside the first network (MNIST)", baselines, draw_baselines,
        120, "mnist", saved=True,
    ),
    BookFigure(
        "1.7", "The first networks on MNIST, η = 3", first_network, draw_accuracies,
        20, "mnist", saved=True,
    ),
    BookFigure(
        "1.8", "Learning rates: too small, good, too large", rates, draw_accuracies,
        20, "mnist", saved=True,
    ),
)  # fmt: skip
"""The figures of the chapter."""
