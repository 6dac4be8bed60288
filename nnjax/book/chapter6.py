"""Chapter 6: convolutional networks, dropout, more images and a vote, from 97.8 % to 99.6 %."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from nnjax.activations import relu, sigmoid
from nnjax.architecture import parse
from nnjax.backprop import backprop
from nnjax.book.drawing import COLORS, STROKES, finish, images, legend, panels
from nnjax.book.figures import BookFigure, Numbers
from nnjax.data import Dataset
from nnjax.evaluation import accuracy
from nnjax.initializers import glorot, he
from nnjax.network import Network, feedforward
from nnjax.training import EarlyStopping, History, optimizers, train
from nnjax.training.augmentation import shifted

__all__ = [
    "FIGURES",
    "MEMBERS",
    "RUNGS",
    "Rung",
    "dropout",
    "ensemble",
    "expansion",
    "feature_maps",
    "ladder",
]

CONVOLUTIONS = "conv20k5 pool2 conv40k5 pool2"
MEMBERS = 3
"""Networks that vote."""


@dataclass(frozen=True)
class Rung:
    """One step up the ladder: a network, how long it is trained, and what the book reports.

    Args:
        name: what is new.
        words: its hidden layers, as `nnjax.architecture.parse` reads them.
        book: the accuracy that the book reports, in percent.
        epochs: passes over the training images.
        rectified: rectified linear units in place of sigmoid neurons.
        expanded: four more copies of each training image, moved by one pixel.
    """

    name: str
    words: str
    book: float
    epochs: int = 20
    rectified: bool = True
    expanded: bool = False

    def network(self, data: Dataset) -> Network:
        """Return the network for these images."""
        x, y = data.train
        activation, start = (relu, he) if self.rectified else (sigmoid, glorot)
        return parse(
            self.words, x.shape[1:], 1 + int(y.max()), activation=activation, initializer=start
        )


RUNGS = (
    Rung("one hidden layer of 100", "dense100", 97.80, rectified=False),
    Rung("a convolution", "conv20k5 pool2 dense100", 98.78, rectified=False),
    Rung("a second convolution", f"{CONVOLUTIONS} dense100", 99.06, rectified=False),
    Rung("rectified linear units", f"{CONVOLUTIONS} dense100", 99.23, 12),
    Rung("images moved by a pixel", f"{CONVOLUTIONS} dense100", 99.37, 6, expanded=True),
    Rung(
        "1000 and 1000 with dropout",
        f"{CONVOLUTIONS} dropout0.5 dense1000 dropout0.5 dense1000 dropout0.5",
        99.60,
        8,
        expanded=True,
    ),
)
"""The ladder."""

VOTER = Rung("a convolution, rectified", "conv20k5 pool2 dense100", 98.78, 4)
"""The networks that vote."""


class Trained(NamedTuple):
    """A trained network: the parameters of its best epoch, its history, and how long it took."""

    net: Network
    params: Any
    history: History
    seconds: float


def trained(
    rung: Rung, data: Dataset, seed: int, evaluate_on: tuple[str, ...] = ("validation",)
) -> Trained:
    """Train a network of the chapter, and return the parameters that were best in validation.

    Adam, its rate along one cycle up to 0.003, mini-batches of 100.

    Example:
        >>> import jax, nnjax
        >>> from nnjax.book.chapter6 import Rung, trained
        >>> rung = Rung("small", "conv4k3 pool2", 0.0, epochs=1)
        >>> with jax.numpy_dtype_promotion("standard"):  # the schedule of optax wants it
        ...     trained(rung, nnjax.data.load("digits"), seed=0).history["epoch"].tolist()
        [0]
    """
    net = rung.network(data)
    seen = shifted(data) if rung.expanded else data
    steps = -(-len(seen.train[0]) // 100) * rung.epochs
    start = time.perf_counter()
    state, history = train(
        net,
        seen,
        optimizer=optimizers.by_name("adam", optimizers.schedule("one_cycle", 3e-3, steps)),
        epochs=rung.epochs,
        batch_size=100,
        key=jax.random.key(seed),
        evaluate_on=evaluate_on,
        early_stopping=EarlyStopping(rung.epochs, "validation_accuracy"),
    )
    return Trained(net, state.best_params, history, time.perf_counter() - start)


def ladder(seed: int, data: Dataset) -> Numbers:
    """Return the test accuracy of each rung, beside that of the book, in percent.

    Example:
        >>> from nnjax.book import chapter6
        >>> [rung.book for rung in chapter6.RUNGS]  # ladder(0, nnjax.data.load("mnist")) takes long
        [97.8, 98.78, 99.06, 99.23, 99.37, 99.6]
    """
    return {"rungs": [_row(rung, trained(rung, data, seed), data) for rung in RUNGS]}


def ensemble(seed: int, data: Dataset) -> Numbers:
    """Return test accuracies of networks with other seeds, of their vote, and what it gets wrong.

    Each has one convolution and rectified linear units, and is trained for four epochs.

    Example:
        >>> from nnjax import book
        >>> numbers = book.result("6.5").numbers
        >>> numbers["vote"] > sum(numbers["members"]) / len(numbers["members"])
        True
    """
    members = [trained(VOTER, data, seed + k) for k in range(MEMBERS)]
    assert data.test is not None
    x, y = data.test
    outputs = np.stack([feedforward(net, params, x) for net, params, _, _ in members])
    voted, probabilities = vote(outputs), outputs.mean(axis=0)
    return {
        "members": (100 * (outputs.argmax(-1) == y).mean(axis=1)).tolist(),
        "vote": 100 * float((voted == y).mean()),
        "wrong": [
            {
                "index": int(i),
                "true": int(y[i]),
                "predicted": int(voted[i]),
                "probability": float(probabilities[i, voted[i]]),
                "image": base64.b64encode(np.asarray(x[i], np.uint8).tobytes()).decode(),
            }
            for i in np.flatnonzero(voted != y)
        ],
        "shape": list(x.shape[1:3]),
    }


def _row(rung: Rung, network: Trained, data: Dataset) -> dict[str, Any]:
    assert data.test is not None
    return {
        "name": rung.name,
        "net": rung.words,
        "epochs": rung.epochs,
        "book": rung.book,
        "validation": 100 * float(np.max(network.history["validation_accuracy"])),
        "test": 100 * float(accuracy(network.net, network.params, *data.test)),
        "seconds": network.seconds,
    }


def vote(outputs: np.ndarray) -> np.ndarray:
    """Return the class (n,) that most members chose, by (members, n, m) outputs.

    The sum of their outputs decides between classes with equally many votes.

    Example:
        >>> import numpy as np
        >>> from nnjax.book.chapter6 import vote
        >>> vote(np.array([[[0.9, 0.1]], [[0.4, 0.6]], [[0.45, 0.55]]]))
        array([1])
    """
    votes = (outputs.argmax(-1)[..., None] == np.arange(outputs.shape[-1])).sum(axis=0)
    return np.argmax(votes + outputs.sum(axis=0) / (1 + outputs.sum(axis=(0, 2))[:, None]), -1)


def draw_ladder(figure: Any, numbers: Numbers) -> None:
    (axes,) = panels(figure, 1, 1)
    rungs = numbers["rungs"]
    rows = np.arange(len(rungs))
    axes.barh(rows - 0.2, [r["book"] for r in rungs], 0.36, color="0.75", label="the book")
    bars = axes.barh(rows + 0.2, [r["test"] for r in rungs], 0.36, color=COLORS[0], label="nnjax")
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set_yticks(rows, [rung["name"] for rung in rungs])
    axes.set_xlim(97, 100)
    axes.invert_yaxis()
    finish(axes, "test accuracy (%)", "")
    legend(axes, loc="upper right")


def draw_vote(figure: Any, numbers: Numbers) -> None:
    (axes,) = panels(figure, 1, 1)
    values = [*numbers["members"], numbers["vote"]]
    names = [f"network {k}" for k in range(1, len(values))] + ["their vote"]
    errors = 100 - np.asarray(values)
    bars = axes.bar(names, errors, color=["0.75"] * (len(values) - 1) + [COLORS[0]])
    axes.bar_label(bars, fmt="%.2f %%", fontsize=9)
    finish(axes, "", "test error (%)")


def draw_wrong(figure: Any, numbers: Numbers) -> None:
    shown = numbers["wrong"][:60]
    pictures = [
        np.frombuffer(base64.b64decode(wrong["image"]), np.uint8).reshape(numbers["shape"])
        for wrong in shown
    ]
    titles = [
        f"{w['true']}, predicted {w['predicted']}\n({100 * w['probability']:.0f} %)" for w in shown
    ]
    images(figure, pictures, titles, 10)


def feature_maps(seed: int, data: Dataset) -> Numbers:
    """Return the 20 filters of a convolution after 5 epochs, and their maps of one test image.

    Example:
        >>> import numpy as np
        >>> from nnjax import book
        >>> np.shape(book.result("6.1").numbers["maps"])
        (20, 24, 24)
    """
    rung = Rung("feature maps", "conv20k5 pool2 dense100", 0.0, epochs=5)
    net, params, _, _ = trained(rung, data, seed)
    assert data.test is not None
    x, y = data.test
    first = int(np.flatnonzero(y == 5)[0])
    bp = backprop(net, params, x[first : first + 1], y[first : first + 1])
    return {
        "filters": np.round(params[0].w[..., 0], 3),
        "image": x[first, :, :, 0].tolist(),
        "class": int(y[first]),
        "maps": np.round(np.moveaxis(np.asarray(bp.activations[1][0]), -1, 0), 2),
        "test": 100 * float(accuracy(net, params, x, y)),
    }


def draw_feature_maps(figure: Any, numbers: Numbers) -> None:
    filters, maps = np.asarray(numbers["filters"]), np.asarray(numbers["maps"])
    top = np.abs(filters).max()
    axes = panels(figure, 4, 11)
    for panel in axes:
        panel.set_axis_off()
    axes[0].imshow(np.asarray(numbers["image"]), cmap="gray_r")
    axes[0].set_title(f"a {numbers['class']}", fontsize=8)
    for j, (weights, activation) in enumerate(zip(filters, maps, strict=True)):
        row, column = divmod(j, 10)
        axes[22 * row + column + 1].imshow(weights, cmap="RdBu", vmin=-top, vmax=top)
        axes[22 * row + column + 1].set_title(f"filter {j + 1}", fontsize=7, pad=2)
        axes[22 * row + 11 + column + 1].imshow(activation, cmap="gray_r")


def dropout(seed: int, data: Dataset) -> Numbers:
    """Return the accuracies by epoch on 1,000 training images, without and with dropout.

    Example:
        >>> from nnjax import book
        >>> numbers = book.result("6.3").numbers
        >>> max(numbers["dropout 0.5"]["test"]) > max(numbers["no dropout"]["test"])
        True
    """
    x, y = data.train
    few = data._replace(train=(x[:1000], y[:1000]))
    found = {}
    for name, words in (
        ("no dropout", "dense300 dense300"),
        ("dropout 0.5", "dense300 dropout0.5 dense300 dropout0.5"),
    ):
        rung = Rung(name, words, 0.0, epochs=100)
        history = trained(rung, few, seed, ("train", "validation", "test")).history
        found[name] = {part: 100 * history[f"{part}_accuracy"] for part in ("train", "test")}
    return found


def draw_dropout(figure: Any, numbers: Numbers) -> None:
    for axes, part in zip(panels(figure, 1, 2), ("train", "test"), strict=True):
        for i, (name, curves) in enumerate(numbers.items()):
            axes.plot(np.arange(1, 1 + len(curves[part])), curves[part], STROKES[i],
                      color=COLORS[i], label=name)  # fmt: skip
        axes.set_ylim(*((80, 101) if part == "train" else (80, 93)))
        finish(axes, "epoch", "accuracy (%)", "training data" if part == "train" else "test data")
        legend(axes)


def expansion(seed: int, data: Dataset) -> Numbers:
    """Return the test accuracy by the number of training images, and with four moved copies.

    One hidden layer of 100, ReLU; with and without the copies the same number of steps.

    Example:
        >>> from nnjax import book
        >>> numbers = book.result("6.4").numbers
        >>> all(a < b for a, b in zip(numbers["as they are"], numbers["expanded"]))
        True
    """
    x, y = data.train
    numbers: Numbers = {"images": [1000, 5000, 50000], "as they are": [], "expanded": []}
    assert data.test is not None
    for size, epochs in zip(numbers["images"], (30, 20, 6), strict=True):
        few = data._replace(train=(x[:size], y[:size]))
        for name, expanded in (("as they are", False), ("expanded", True)):
            rung = Rung(name, "dense100", 0.0, epochs if expanded else 5 * epochs, True, expanded)
            net, params, _, _ = trained(rung, few, seed)
            numbers[name].append(100 * float(accuracy(net, params, *data.test)))
    return numbers


def draw_expansion(figure: Any, numbers: Numbers) -> None:
    (axes,) = panels(figure, 1, 1)
    for i, name in enumerate(("as they are", "expanded")):
        axes.semilogx(numbers["images"], numbers[name], "os"[i] + STROKES[i], color=COLORS[i],
                      label=name)  # fmt: skip
    finish(axes, "number of training images before expansion", "test accuracy (%)")
    legend(axes)


def _mnist(number: str, title: str, compute: Any, draw: Any, seconds: float, size=(8.0, 4.0)):
    return BookFigure(number, title, compute, draw, seconds, "mnist", saved=True, size=size)


FIGURES = (
    _mnist("6.1", "Twenty filters, and their feature maps of a digit", feature_maps,
           draw_feature_maps, 20, (10, 5)),
    _mnist("6.2", "The ladder: test accuracy, step by step", ladder, draw_ladder, 1500),
    _mnist("6.3", "Dropout on 1,000 images", dropout, draw_dropout, 30),
    _mnist("6.4", "Images moved by one pixel as more training data", expansion,
           draw_expansion, 60),
    _mnist("6.5", "Three networks that vote", ensemble, draw_vote, 100),
    _mnist("6.6", "Test images that the vote misclassifies", ensemble,
           draw_wrong, 100, (10, 8)),
)  # fmt: skip
"""The figures of the chapter."""
