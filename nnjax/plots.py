"""Pictures of runs and networks, as matplotlib figures to show or to save as PNG or SVG.

Each function returns a figure; `figure.savefig("loss.svg")` writes it. Colours are those of Okabe
and Ito, which colour-blind readers can tell apart; lines differ in their strokes too.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from nnjax.activations import Activation, Elementwise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "COLORS",
    "activation_functions",
    "confusion",
    "curves",
    "first_layer",
    "layer_curves",
    "misread",
]

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#F0E442")
"""Blue, vermilion, green, purple, sky blue, orange, black, yellow (Okabe and Ito 2008)."""

_STROKES = ("-", "--", ":", "-.")
_PARTS = ("train", "validation", "test")

Histories = Mapping[str, Mapping[str, Sequence[float] | np.ndarray]]


def curves(histories: Histories, title: str = "") -> Figure:
    """Return loss and accuracy by epoch, of one run or of several over each other.

    One colour a run, one stroke a part of the data; accuracies in percent.

    Args:
        histories: by name of the run, the history that `train` returned: `train_loss`,
            `validation_accuracy`, ..., one value an epoch.
        title: such as the setting of the run.

    Raises:
        ValueError: if no history holds a loss or an accuracy.
        ImportError: if matplotlib is missing.

    Example:
        >>> from nnjax import plots
        >>> history = {"epoch": [0, 1], "train_loss": [0.5, 0.4], "test_accuracy": [0.8, 0.9]}
        >>> figure = plots.curves({"first": history}, title="30 hidden neurons")
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss', 'accuracy in %']
    """
    kinds = [
        (kind, ylabel, scale)
        for kind, ylabel, scale in (("_loss", "loss", 1), ("_accuracy", "accuracy in %", 100))
        if any(part + kind in history for history in histories.values() for part in _PARTS)
    ]
    if not kinds:
        raise ValueError("no loss and no accuracy in the histories; nothing to plot")
    figure, axes = _figure(len(kinds), title)
    alone = len(histories) == 1
    for (kind, ylabel, scale), panel in zip(kinds, axes, strict=True):
        for i, (run, history) in enumerate(histories.items()):
            for j, part in enumerate(_PARTS):
                if part + kind not in history:
                    continue
                values = scale * np.asarray(history[part + kind], float)
                panel.plot(
                    np.asarray(history.get("epoch", range(len(values)))),
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
        name: of a monitor that gives one value a layer, such as `error_norms`.
        title: such as the setting of the run.

    Raises:
        ValueError: if the history has nothing by that name, or not one value a layer.
        ImportError: if matplotlib is missing.

    Example:
        >>> from nnjax import plots
        >>> history = {"epoch": [0, 1], "error_norms": [[0.1, 0.3], [0.05, 0.2]]}
        >>> figure = plots.layer_curves(history, "error_norms")
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['layer 1', 'layer 2']
    """
    if name not in history:
        raise ValueError(f"the history has no {name}; it has {', '.join(history)}")
    values = np.asarray(history[name], float)
    if values.ndim == 3:  # several times an epoch
        values = values.reshape(-1, values.shape[-1])
    if values.ndim != 2:
        raise ValueError(f"{name} has shape {values.shape}; expected (epochs, layers)")
    figure, (axes,) = _figure(1, title)
    epochs = np.asarray(history.get("epoch", range(len(values))), float)
    if len(epochs) != len(values):
        epochs = epochs[0] + (np.arange(len(values)) + 1) * len(epochs) / len(values) - 1
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
    _finish(axes, "epoch", name.replace("_", " "))
    _legend(figure, [axes])
    return figure


def first_layer(w: Any, input_shape: Sequence[int], title: str = "", most: int = 100) -> Figure:
    """Return the weights into each neuron of the first layer as a picture of the input's shape.

    Blue: positive, red: negative, white: 0; one scale for all, beyond which the half percent of
    the largest weights lies.

    Args:
        w: (n_out, h · w · channels), or filters (n_out, h, w, channels), summed over channels.
        input_shape: (h, w) or (h, w, channels), of a picture or of a filter.
        title: such as the setting of the run.
        most: how many neurons are shown, the first ones.

    Raises:
        ValueError: if the weights do not fit the shape.
        ImportError: if matplotlib is missing.

    Example:
        >>> import numpy as np
        >>> from nnjax import plots
        >>> len(plots.first_layer(np.ones((30, 784)), (28, 28)).axes)
        31
    """
    w = np.asarray(w)
    height, width, *channels = input_shape
    if w.size != len(w) * int(np.prod(input_shape)):
        raise ValueError(f"w has shape {w.shape}, which is no row of {tuple(input_shape)} each")
    pictures = w.reshape(len(w), height, width, *(channels or [1])).sum(axis=-1)[:most]
    largest = float(np.quantile(np.abs(pictures), 0.995)) or 1.0
    figure, axes = _pictures(len(pictures), title)
    drawn: Any = None
    for panel, picture in zip(axes, pictures, strict=True):
        drawn = panel.imshow(picture, cmap="RdBu", vmin=-largest, vmax=largest)
    figure.colorbar(drawn, ax=list(axes), label="weight", shrink=0.6, extend="both")
    return figure


def confusion(matrix: Any, title: str = "") -> Figure:
    """Return a confusion matrix as a table: colours are by row, the diagonal is left white.

    Args:
        matrix: (m, m) counts: a row a class, a column what was read.
        title: such as the setting of the run.

    Raises:
        ValueError: if the matrix is not square.
        ImportError: if matplotlib is missing.

    Example:
        >>> from nnjax import plots
        >>> plots.confusion([[9, 1], [2, 8]]).axes[0].get_xlabel()
        'read as'
    """
    matrix = np.asarray(matrix)
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
    axes.set(xticks=range(m), yticks=range(m), xlabel="read as", ylabel="class")
    axes.tick_params(length=0)
    return figure


def misread(x: Any, y: Any, predictions: Any, title: str = "", most: int = 60) -> Figure:
    """Return the pictures that were misread, each with its class and what was read.

    Args:
        x: (n, h, w) or (n, h, w, channels) pictures.
        y: (n,) classes.
        predictions: (n,) what was read.
        title: such as the setting of the run.
        most: how many are shown, the first ones.

    Raises:
        ValueError: if x are no pictures, or none was misread.
        ImportError: if matplotlib is missing.

    Example:
        >>> import numpy as np
        >>> from nnjax import plots
        >>> figure = plots.misread(np.zeros((3, 8, 8)), [1, 2, 3], [1, 7, 5])
        >>> [axes.get_title() for axes in figure.axes]
        ['2 read as 7', '3 read as 5']
    """
    x, y, predictions = np.asarray(x), np.asarray(y), np.asarray(predictions)
    if x.ndim not in (3, 4):
        raise ValueError(f"x has shape {x.shape}; expected pictures (n, h, w, channels)")
    wrong = np.flatnonzero(y != predictions)
    if not len(wrong):
        raise ValueError("every picture was read rightly; there is none to show")
    shown = wrong[:most]
    count = f"{len(wrong)} of {len(x)} misread" + (f", the first {most}" * (len(wrong) > most))
    figure, axes = _pictures(len(shown), f"{title}\n{count}".strip(), width=1.1)
    for panel, i in zip(axes, shown, strict=True):
        picture = x[i].squeeze() if x.ndim == 4 and x.shape[-1] == 1 else x[i]
        panel.imshow(picture, cmap="gray_r")
        panel.set_title(f"{y[i]} read as {predictions[i]}", fontsize=8, pad=2)
    return figure


def activation_functions(
    activations: Sequence[Activation], low: float = -4.0, high: float = 4.0
) -> Figure:
    """Return activation functions, and below them their derivatives where they have any.

    Args:
        activations: such as `[nnjax.sigmoid, nnjax.relu]`.
        low: the smallest z.
        high: the largest z.

    Raises:
        ImportError: if matplotlib is missing.

    Example:
        >>> import nnjax
        >>> from nnjax import plots
        >>> figure = plots.activation_functions([nnjax.sigmoid, nnjax.step])
        >>> [len(axes.lines) for axes in figure.axes]
        [2, 1]
    """
    z = jnp.linspace(low, high, 801)
    figure, (values, slopes) = _figure(2, "")
    for i, sigma in enumerate(activations):
        style = {
            "label": str(sigma).removesuffix("()"),
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
    plt = _matplotlib()
    figure = plt.figure.Figure(figsize=size or (5.5 * panels, 4), dpi=120, layout="constrained")
    _entitle(figure, title)
    return figure, np.atleast_1d(np.asarray(figure.subplots(1, panels)))


def _pictures(count: int, title: str, width: float = 0.8) -> tuple[Figure, list[Any]]:
    plt = _matplotlib()
    columns = int(np.ceil(np.sqrt(1.6 * count)))
    rows = -(-count // columns)
    size = (max(4.0, width * columns + 0.5), max(2.5, (width + 0.15) * rows + 0.8))
    figure = plt.figure.Figure(figsize=size, dpi=120, layout="constrained")
    _entitle(figure, title)
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    for panel in axes:
        panel.set_axis_off()
    return figure, axes


def _entitle(figure: Figure, title: str) -> None:
    """Write the title above a figure, in as many lines as its width makes of it."""
    width = int(9 * figure.get_figwidth())  # letters that an inch has room for
    lines = [textwrap.fill(line, width) for line in title.splitlines()]
    if lines:
        figure.suptitle("\n".join(lines))


def _finish(axes: Any, xlabel: str, ylabel: str) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    if xlabel == "epoch":
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, axes: Any) -> None:
    """One legend for all panels, below them, where it hides no line and fits."""
    named = {line.get_label(): line for panel in axes for line in panel.lines}
    longest = max(map(len, map(str, named)))
    room = figure.get_figwidth() / (0.6 + 0.085 * longest)  # inches: the stroke, and its label
    columns = max(1, min(len(named), 3 * len(figure.axes), int(room)))
    figure.legend(
        named.values(), named.keys(), loc="outside lower center", ncols=columns, frameon=False
    )


def _matplotlib() -> Any:
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError:
        raise ImportError('plots take matplotlib: pip install "nnjax[plots]"') from None
    return matplotlib
