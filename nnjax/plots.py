"""Plots of runs and networks, as matplotlib figures to show or to save as PNG or SVG.

Each function returns a figure; `figure.savefig("loss.svg")` writes it. The colours are those of
Okabe and Ito, which colour-blind readers can tell apart; lines differ in their dashes too.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from nnjax.activations import Activation, Elementwise, require_activation
from nnjax.checks import FINITE, install, require_instance, require_number, require_size
from nnjax.tasks import METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "COLORS",
    "activation_functions",
    "confusion",
    "curves",
    "estimates",
    "first_layer",
    "layer_curves",
    "misread",
]

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#F0E442")
"""Blue, vermilion, green, purple, sky blue, orange, black, yellow (Okabe and Ito 2008)."""

_STROKES = ("-", "--", ":", "-.")
_PARTS = ("train", "validation", "test")

Histories = Mapping[str, Mapping[str, Sequence[float] | np.ndarray]]


def curves(
    histories: Histories, title: str = "", losses: Mapping[str, str] | None = None
) -> Figure:
    """Return loss and metrics by epoch, of one run or of several in the same axes.

    One colour per run, one dash pattern per part of the data; accuracies in percent. Epochs are
    counted from 1: a value stands at the number of epochs after which it was measured. Losses of
    different kinds cannot be compared, so that each kind gets axes of its own. Which metrics there
    are depends on the task (`nnjax.tasks`): of a regression RMSE and R².

    Args:
        histories: by name of the run, the history that `train` returned: `train_loss`,
            `validation_accuracy`, ..., one value per epoch.
        title: such as the settings of the run.
        losses: by name of the run, the name of its loss; None: all have the same.

    Raises:
        ValueError: if no history holds a loss or another metric, one does not hold one value per
            epoch, or the loss of a run has no name.
        TypeError: if histories are not histories by name, or title is not a text.
        ImportError: if matplotlib is missing.

    Example:
        >>> from nnjax import plots
        >>> history = {"epoch": [0, 1], "train_loss": [0.5, 0.4], "test_accuracy": [0.8, 0.9]}
        >>> figure = plots.curves({"first": history}, title="30 hidden neurons")
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss', 'accuracy (%)']
        >>> both = {"first": history, "second": history}
        >>> figure = plots.curves(both, losses={"first": "quadratic", "second": "cross-entropy"})
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['quadratic loss', 'cross-entropy loss', 'accuracy (%)']
    """
    require_instance(histories, Mapping, "histories", "the history of each run by its name")
    for run, history in histories.items():
        require_instance(history, Mapping, f"histories[{run!r}]", "what nnjax.train returned")
    if losses is not None and (unnamed := [run for run in histories if run not in losses]):
        raise ValueError(f"losses has no name for the loss of {unnamed[0]!r}")
    named = {run: "loss" if losses is None else f"{losses[run]} loss" for run in histories}
    kinds = [
        ("_loss", ylabel, 1, [run for run in named if named[run] == ylabel])
        for ylabel in dict.fromkeys(named.values())
    ]
    kinds += [
        (f"_{name}", metric.axis, 100 if metric.unit == "%" else 1, list(histories))
        for name, metric in METRICS.items()
        if name != "loss" and metric.unit is not None
    ]
    shown = [
        kind
        for kind in kinds
        if any(part + kind[0] in histories[run] for run in kind[3] for part in _PARTS)
    ]
    if not shown:
        raise ValueError("the histories hold neither a loss nor an accuracy nor other metrics")
    figure, axes = _figure(len(shown), title)
    alone = len(histories) == 1
    for (kind, ylabel, scale, runs), panel in zip(shown, axes, strict=True):
        for i, (run, history) in enumerate(histories.items()):
            for j, part in enumerate(_PARTS):
                if run not in runs or part + kind not in history:
                    continue
                values = scale * _numbers(history[part + kind], part + kind)
                panel.plot(
                    _epochs(history, values, part + kind),
                    values,
                    color=COLORS[(j if alone else i) % len(COLORS)],
                    linestyle=_STROKES[j],
                    label=part if alone else f"{run}, {part}",
                )
        _finish(panel, "epoch", ylabel)
    _legend(figure, axes)
    return figure


def layer_curves(history: Mapping[str, Any], name: str, title: str = "") -> Figure:
    """Return what a monitor measured in each layer, by epoch; norms on a logarithmic scale.

    Args:
        history: of a run.
        name: of a monitor that gives one value per layer, such as `error_norms`.
        title: such as the settings of the run.

    Raises:
        ValueError: if the history has nothing by that name, or not one value per layer.
        TypeError: if history is not a history, or title is not a text.
        ImportError: if matplotlib is missing.

    Example:
        >>> from nnjax import plots
        >>> history = {"epoch": [0, 1], "error_norms": [[0.1, 0.3], [0.05, 0.2]]}
        >>> figure = plots.layer_curves(history, "error_norms")
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['layer 1', 'layer 2']
    """
    require_instance(history, Mapping, "history", "what nnjax.train returned")
    if name not in history:
        raise ValueError(f"the history has no {name}; it has {', '.join(history)}")
    values = _numbers(history[name], name)
    if values.ndim not in (2, 3):
        raise ValueError(f"{name} has shape {values.shape}; expected (epochs, layers)")
    epochs = _epochs(history, values, name)
    if values.ndim == 3:  # several times per epoch, the last time at its end
        times = values.shape[1]
        epochs = (epochs[:, None] - 1 + (np.arange(times) + 1) / times).ravel()
        values = values.reshape(-1, values.shape[-1])
    figure, (axes,) = _figure(1, title)
    for l in range(values.shape[1]):
        axes.plot(
            epochs,
            values[:, l],
            color=COLORS[l % len(COLORS)],
            linestyle=_STROKES[l % len(_STROKES)],
            label=f"layer {l + 1}",
        )
    if name.endswith("norms") and (values > 0).all():
        axes.set_yscale("log")
    fraction = name in ("dead", "saturated")
    _finish(axes, "epoch", f"fraction of {name} neurons" if fraction else name.replace("_", " "))
    _legend(figure, [axes])
    return figure


def first_layer(w: Any, input_shape: Sequence[int], title: str = "", most: int = 100) -> Figure:
    """Return the weights of each neuron of the first layer as an image of the input's shape.

    Blue: positive, red: negative, white: 0; one scale for all, from which the largest half percent
    of the weights is left out.

    Args:
        w: (n_out, h · w · channels), or filters (n_out, h, w, channels), summed over channels.
        input_shape: (h, w) or (h, w, channels), of an image or of a filter.
        title: such as the settings of the run.
        most: how many neurons are shown, the first ones.

    Raises:
        ValueError: if the weights do not fit the shape, which must be two or three sizes.
        TypeError: if title is not a text.
        ImportError: if matplotlib is missing.

    Example:
        >>> import numpy as np
        >>> from nnjax import plots
        >>> len(plots.first_layer(np.ones((30, 784)), (28, 28)).axes)
        31
    """
    w = _numbers(w, "w")
    require_instance(input_shape, list | tuple, "input_shape", "a shape such as (28, 28)")
    if len(input_shape) not in (2, 3):
        raise ValueError(f"input_shape is {input_shape}; expected (h, w) or (h, w, channels)")
    require_size(most, "most")
    height, width, *channels = (require_size(s, "a size in input_shape") for s in input_shape)
    if w.size == 0 or w.size != len(w) * int(np.prod(input_shape)):
        raise ValueError(
            f"w has shape {w.shape}; expected one row of {tuple(input_shape)} per neuron"
        )
    images = w.reshape(len(w), height, width, *(channels or [1])).sum(axis=-1)[:most]
    largest = float(np.quantile(np.abs(images), 0.995)) or 1.0
    figure, axes = _images(len(images), title)
    drawn: Any = None
    for panel, image in zip(axes, images, strict=True):
        drawn = panel.imshow(image, cmap="RdBu", vmin=-largest, vmax=largest)
    figure.colorbar(drawn, ax=list(axes), label="weight", shrink=0.6, extend="both")
    return figure


def confusion(matrix: Any, title: str = "", classes: Sequence[str] = ()) -> Figure:
    """Return a confusion matrix as a table, its errors coloured by their share of the row.

    Args:
        matrix: (m, m) counts: one row per true class, one column per predicted class.
        title: such as the settings of the run.
        classes: (m,) their names; empty for their numbers.

    Raises:
        ValueError: if the matrix is not square, or there is not one name per class.
        TypeError: if title or a name is not a text.
        ImportError: if matplotlib is missing.

    Example:
        >>> from nnjax import plots
        >>> plots.confusion([[9, 1], [2, 8]]).axes[0].get_xlabel()
        'predicted class'
    """
    matrix = np.asarray(matrix)
    _require_names(classes, len(matrix) if matrix.ndim else 0)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"matrix has shape {matrix.shape}; expected a square one")
    m = len(matrix)
    wrong = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(wrong, 0)
    size = max(4.5, 0.6 * m + 1)
    figure, (axes,) = _figure(1, title, size=(size, size))
    top = wrong.max() or 1
    axes.imshow(wrong, cmap="Oranges", vmin=0, vmax=top)
    for j in range(m):
        for k in range(m):
            axes.text(
                k,
                j,
                f"{matrix[j, k]:,}" if matrix[j, k] else "·",
                ha="center",
                va="center",
                fontsize=9,
                weight="bold" if j == k else "normal",
                color="white" if wrong[j, k] > 0.7 * top else "black",
            )
    axes.set(xticks=range(m), yticks=range(m), xlabel="predicted class", ylabel="true class")
    axes.tick_params(length=0)
    if classes:
        axes.set_xticklabels(classes, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticklabels(classes)
    return figure


def estimates(
    y: Any, a: Any, title: str = "", names: Sequence[str] = (), most: int = 5000
) -> Figure:
    """Return the estimates of a regression against the true values, one panel per output.

    On the diagonal, drawn in grey, both are equal.

    Args:
        y: (n,) or (n, k) true values.
        a: of the same shape, what the network says.
        title: such as the settings of the run.
        names: (k,) of what is estimated; empty for none.
        most: how many examples are shown, the first ones.

    Raises:
        ValueError: if the shapes differ, or there is not one name per output.
        TypeError: if title or a name is not a text.
        ImportError: if matplotlib is missing.

    Example:
        >>> from nnjax import plots
        >>> figure = plots.estimates([1.0, 2.0, 4.0], [1.1, 2.3, 3.8], names=["price"])
        >>> figure.axes[0].get_xlabel()
        'true price'
    """
    y, a = _numbers(y, "y"), _numbers(a, "a")
    if y.shape != a.shape or y.ndim not in (1, 2) or not y.size:
        raise ValueError(
            f"y has shape {y.shape} and a {a.shape}; expected the same, (n,) or (n, k)"
        )
    y, a = (v.reshape(len(v), -1)[: require_size(most, "most")] for v in (y, a))
    _require_names(names, y.shape[1])
    figure, axes = _figure(y.shape[1], title, size=(4.5 * y.shape[1], 4.5))
    for j, panel in enumerate(axes):
        ends = [min(y[:, j].min(), a[:, j].min()), max(y[:, j].max(), a[:, j].max())]
        panel.plot(ends, ends, color="0.6", linewidth=1)
        panel.plot(y[:, j], a[:, j], ".", color=COLORS[0], alpha=0.6, markeredgewidth=0)
        name = names[j] if names else "value"
        _finish(panel, f"true {name}", f"estimated {name}")
    return figure


def misread(
    x: Any,
    y: Any,
    predictions: Any,
    title: str = "",
    most: int = 60,
    classes: Sequence[str] = (),
    outputs: Any = None,
) -> Figure:
    """Return the images that were misclassified, each with its true and its predicted class.

    With the outputs of the network, the mistakes that it was surest of come first, and below each
    image stand its three largest outputs in percent.

    Args:
        x: (n, h, w) or (n, h, w, channels) images.
        y: (n,) classes.
        predictions: (n,) predicted classes.
        title: such as the settings of the run.
        most: how many are shown, the first ones.
        classes: names of the classes; empty for their numbers.
        outputs: (n, m) outputs of the network, such as probabilities; None: none are shown.

    Raises:
        ValueError: if x are not images, the lengths differ, no image was misclassified, or a class
            has no name.
        TypeError: if title or a name is not a text.
        ImportError: if matplotlib is missing.

    Example:
        >>> import numpy as np
        >>> from nnjax import plots
        >>> figure = plots.misread(np.zeros((3, 8, 8)), [1, 2, 3], [1, 7, 5])
        >>> [axes.get_title() for axes in figure.axes]
        ['true 2, predicted 7', 'true 3, predicted 5']
    """
    x, y, predictions = np.asarray(x), np.asarray(y), np.asarray(predictions)
    if x.ndim not in (3, 4):
        raise ValueError(f"x has shape {x.shape}; expected images (n, h, w, channels)")
    if y.shape != (len(x),) or predictions.shape != (len(x),):
        raise ValueError(
            f"y has shape {y.shape} and predictions {predictions.shape}; expected one class per "
            f"image, ({len(x)},)"
        )
    wrong, sure = np.flatnonzero(y != predictions), np.empty((len(x), 0))
    if outputs is not None:
        outputs = _numbers(outputs, "outputs")
        if outputs.ndim != 2 or len(outputs) != len(x):
            raise ValueError(
                f"outputs has shape {outputs.shape}; expected one row per image, ({len(x)}, m)"
            )
        # With a single output, it is that of class 1.
        sure = outputs if outputs.shape[1] > 1 else np.hstack([1 - outputs, outputs])
        wrong = wrong[np.argsort(-sure[wrong, predictions[wrong]], kind="stable")]
    if not len(wrong):
        raise ValueError("every image was classified correctly; there is nothing to show")
    if classes:
        _require_names(classes, max(1 + int(max(y.max(), predictions.max())), sure.shape[1]))
    shown = wrong[: require_size(most, "most")]
    count = f"{len(wrong):,} of {len(x):,} misclassified"
    kept = "first" if outputs is None else "surest"
    count += f" ({kept} {most})" * (len(wrong) > most)
    first, _, rest = require_instance(title, str, "title", "a text").partition("\n")
    entitled = "\n".join(filter(None, (f"{first}: {count}" if first else count, rest)))
    figure, axes = _images(len(shown), entitled, width=1.3, text=0.4)
    for panel, i in zip(axes, shown, strict=True):
        image = x[i].squeeze() if x.ndim == 4 and x.shape[-1] == 1 else x[i]
        panel.imshow(image, cmap="gray_r")
        true, predicted = (classes[k] if classes else k for k in (y[i], predictions[i]))
        panel.set_title(f"true {true}, predicted {predicted}", fontsize=7, pad=2)
        if outputs is not None:
            largest = np.argsort(-sure[i], kind="stable")[:3]
            names = [classes[k] if classes else k for k in largest]
            text = "  ".join(
                f"{name}: {_percent(float(sure[i, k]))}"
                for name, k in zip(names, largest, strict=True)
            )
            panel.set_xlabel(text, fontsize=6, labelpad=2)
    return figure


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "<1 %"


def activation_functions(
    activations: Sequence[Activation], low: float = -4.0, high: float = 4.0, title: str = ""
) -> Figure:
    """Return activation functions, and below them their derivatives where they have any.

    Args:
        activations: such as `[nnjax.sigmoid, nnjax.relu]`.
        low: the smallest z.
        high: the largest z.
        title: of the figure.

    Raises:
        ValueError: if low or high is not a finite number.
        TypeError: if one is not an activation function, or title is not a text.
        ImportError: if matplotlib is missing.

    Example:
        >>> import nnjax
        >>> from nnjax import plots
        >>> figure = plots.activation_functions([nnjax.sigmoid, nnjax.step])
        >>> [len(axes.lines) for axes in figure.axes]
        [2, 1]
    """
    low = require_number(low, "low", "a finite number", -FINITE, FINITE)
    high = require_number(high, "high", "a finite number", -FINITE, FINITE)
    for sigma in activations:
        require_activation(sigma, "an entry of activations")
    z = jnp.linspace(low, high, 801)
    figure, (values, slopes) = _figure(2, title)
    for i, sigma in enumerate(activations):
        style = {
            "label": sigma.name,
            "color": COLORS[i % len(COLORS)],
            "linestyle": _STROKES[i % len(_STROKES)],
            "linewidth": 4 - 3 * i / len(activations),  # so that none hides another
        }
        values.plot(z, sigma(z), **style)
        if isinstance(sigma, Elementwise):
            slopes.plot(z, sigma.derivative(z), **style)
    _finish(values, "weighted input z", "activation σ(z)")
    _finish(slopes, "weighted input z", "derivative σ'(z)")
    _legend(figure, [values])
    return figure


def _figure(
    panels: int, title: str, size: tuple[float, float] | None = None
) -> tuple[Figure, np.ndarray]:
    figure = _new_figure(size or (5.5 * panels, 4))
    _entitle(figure, title)
    return figure, np.atleast_1d(np.asarray(figure.subplots(1, panels)))


def _images(
    count: int, title: str, width: float = 0.8, text: float = 0.15
) -> tuple[Figure, list[Any]]:
    columns = int(np.ceil(np.sqrt(1.6 * count)))
    rows = -(-count // columns)
    size = (max(4.0, width * columns + 0.5), max(2.5, (width + text) * rows + 0.8))
    figure = _new_figure(size)
    _entitle(figure, title)
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    for panel in axes:
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    return figure, axes


def _entitle(figure: Figure, title: str) -> None:
    """Write the title above a figure, broken into lines by its width."""
    require_instance(title, str, "title", "a text")
    size = 12 if "\n" not in title else 10
    width = int(108 * figure.get_figwidth() / size)  # characters: at size 12, 9 per inch
    lines = [textwrap.fill(line, width) for line in title.splitlines()]
    if lines:
        figure.suptitle("\n".join(lines), fontsize=size)


def _require_names(classes: Any, count: int) -> None:
    """Raise an error unless these are names of `count` classes, or none."""
    require_instance(classes, list | tuple, "classes", "a list of names, or () for their numbers")
    for name in classes:
        require_instance(name, str, "a name in classes", "a text")
    if 0 < len(classes) < count:
        raise ValueError(f"classes holds {len(classes)} names; expected one for each of {count}")


def _numbers(values: Any, name: str) -> np.ndarray:
    """Return the values of a history as an array, or say that they are not one."""
    try:
        return np.asarray(values, float)
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} does not hold numbers of one shape; expected the same for every epoch"
        ) from None


def _epochs(history: Mapping[str, Any], values: np.ndarray, name: str) -> np.ndarray:
    """Return after how many epochs each value was measured."""
    epochs = 1 + _numbers(history.get("epoch", range(len(values))), "epoch")
    if epochs.shape != values.shape[:1]:
        raise ValueError(
            f"{name} has {len(values)} values, but epoch has {len(epochs)}; expected one value "
            "per epoch"
        )
    return epochs


def _finish(axes: Any, xlabel: str, ylabel: str) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    if xlabel == "epoch":
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, axes: Any) -> None:
    """One legend for all panels, below them, where it fits and hides no line."""
    named = {line.get_label(): line for panel in axes for line in panel.lines}
    longest = max(map(len, map(str, named)))
    room = figure.get_figwidth() / (0.6 + 0.085 * longest)  # inches: the stroke, and its label
    columns = max(1, min(len(named), 3 * len(figure.axes), int(room)))
    figure.legend(
        named.values(), named.keys(), loc="outside lower center", ncols=columns, frameon=False
    )


def _new_figure(size: tuple[float, float]) -> Figure:
    return _figure_kind()(figsize=size, dpi=120, layout="constrained")


def _figure_kind() -> type[Figure]:
    """A figure that a notebook shows without pyplot."""
    try:
        import matplotlib  # noqa: F401  (says at once if it is missing)
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(f"plots require matplotlib: {install('plots')}") from None
    return _shown(Figure)


@lru_cache
def _shown(figure: type[Figure]) -> type[Figure]:
    class Shown(figure):
        def _repr_png_(self) -> bytes:
            content = io.BytesIO()
            self.savefig(content, format="png")
            return content.getvalue()

    return Shown
