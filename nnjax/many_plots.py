"""Pictures of many networks: what a setting does, what two do together, and how they learn.

The middle is the median over the seeds, the band reaches from the smallest to the largest value.
They need the extra `plots`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nnjax.checks import require_instance
from nnjax.training.many_result import Many

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["along", "landscape", "learning_curves", "pictures"]

_MOST = 8  # learning curves in one picture
_LABELS = {"rate": "learning rate η", "mu": "momentum coefficient μ", "l2": "λ", "l1": "λ (L1)"}


def pictures(many: Many, measure: str | None = None) -> dict[str, Figure]:
    """Return all pictures that suit the grid, by name.

    Args:
        many: the networks.
        measure: a name in their history; None: what they are compared by.

    Raises:
        ImportError: if matplotlib is missing.

    Example:
        >>> import nnjax
        >>> many = nnjax.train_many(
        ...     nnjax.mlp([64, 10]), nnjax.data.load("digits"), {"rate": [0.1, 1.0]},
        ...     seeds=2, epochs=1, batch_size=100,
        ... )
        >>> sorted(nnjax.many_plots.pictures(many))
        ['along-rate', 'learning']
    """
    measure = _measure(many, measure)
    numeric = [n for n, v in many.grid.axes.items() if len(v) > 1 and _are_numbers(v)]
    figures = {f"along-{name}": along(many, name, measure) for name in numeric}
    if len(numeric) > 1:
        figures["map"] = landscape(many, numeric[0], numeric[1], measure)
    return figures | {"learning": learning_curves(many, measure)}


def along(many: Many, name: str, measure: str | None = None) -> Figure:
    """Return the curve of a measure over one setting, with its spread over the seeds.

    Where the grid has other axes, each point is that of their best values.

    Args:
        many: the networks.
        name: of an axis with numbers.
        measure: a name in their history; None: what they are compared by.

    Raises:
        ValueError: if the grid has no such axis, or it does not hold numbers.

    Example:
        >>> import nnjax
        >>> many = nnjax.train_many(
        ...     nnjax.mlp([64, 10]), nnjax.data.load("digits"), {"rate": [0.1, 1.0]},
        ...     seeds=1, epochs=1, batch_size=100,
        ... )
        >>> nnjax.many_plots.along(many, "rate").axes[0].get_xscale()
        'linear'
    """
    measure = _measure(many, measure)
    axis, values = _axis(many, name)
    final = many.final(measure)
    per_value = []
    for i in range(len(values)):
        here = np.take(final, i, axis=axis)
        here = here.reshape(-1, len(many.seeds))
        ranks = np.ravel(many.ranked(here, measure))
        good = here[int(np.argmax(ranks))]
        per_value.append(good[~np.isnan(good)] if not np.isnan(good).all() else good[:1])
    figure, panel = _panel()
    order = np.argsort(values)
    x = np.asarray(values, float)[order]
    figures = (np.median, np.min, np.max)
    middle, low, high = (np.asarray([f(per_value[i]) for i in order]) for f in figures)
    panel.fill_between(x, low, high, alpha=0.25, linewidth=0)
    panel.plot(x, middle, marker="o")
    if (x > 0).all() and x[-1] > 10 * x[0]:
        panel.set_xscale("log")
    panel.set(xlabel=_words(name), ylabel=_words(measure))
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    return figure


def landscape(many: Many, across: str, up: str, measure: str | None = None) -> Figure:
    """Return the map of a measure over two settings: the median over the seeds.

    Args:
        many: the networks.
        across, up: the names of two axes with numbers. Of other axes the best value counts.
        measure: a name in their history; None: what they are compared by.

    Raises:
        ValueError: if the grid has no such axes, or they do not hold numbers.

    Example:
        >>> import nnjax
        >>> many = nnjax.train_many(
        ...     nnjax.mlp([64, 10]), nnjax.data.load("digits"), {"rate": [0.1, 1.0], "l2": [0, 1]},
        ...     seeds=1, epochs=1, batch_size=100,
        ... )
        >>> len(nnjax.many_plots.landscape(many, "rate", "l2").axes[0].texts)
        4
    """
    measure = _measure(many, measure)
    (i, xs), (j, ys) = _axis(many, across), _axis(many, up)
    if i == j:
        raise ValueError(f"across and up are both {up}; expected two axes of the grid")
    ranked = many.ranked(many.final(measure), measure)
    values = np.moveaxis(ranked, (j, i), (0, 1)).reshape(len(ys), len(xs), -1).max(axis=2)
    values = np.where(np.isfinite(values), values, np.nan)
    smaller = np.nanmax(values) <= 0 and measure.endswith("loss")
    values = -values if smaller else values
    figure, panel = _panel()
    image = panel.imshow(values, origin="lower", cmap="viridis_r" if smaller else "viridis")
    panel.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
    panel.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
    middle = np.nanmean(image.get_clim())
    for (row, column), value in np.ndenumerate(values):
        text = "diverged" if np.isnan(value) else f"{value:.3g}"
        dark = np.isnan(value) or (value > middle) != smaller
        panel.text(column, row, text, ha="center", va="center", color="black" if dark else "white")
    panel.set(xlabel=_words(across), ylabel=_words(up))
    figure.colorbar(image, label=_words(measure))
    return figure


def learning_curves(many: Many, measure: str | None = None) -> Figure:
    """Return the measure over the epochs, a curve with its spread for each of the best settings.

    Args:
        many: the networks.
        measure: a name in their history; None: what they are compared by.

    Raises:
        ValueError: if it was not measured.

    Example:
        >>> import nnjax
        >>> many = nnjax.train_many(
        ...     nnjax.mlp([64, 10]), nnjax.data.load("digits"), {"rate": [0.1, 1.0]},
        ...     seeds=1, epochs=2, batch_size=100,
        ... )
        >>> len(nnjax.many_plots.learning_curves(many, "validation_loss").axes[0].lines)
        2
    """
    measure = _measure(many, measure)
    ranks = many.ranked(many.final(measure), measure)
    best_first = np.argsort(-ranks.ravel(), kind="stable")[:_MOST]
    figure, panel = _panel()
    for cell in best_first:
        at = np.unravel_index(cell, ranks.shape) if ranks.shape else ()
        curves = many.history[measure][at]
        done = ~np.isnan(curves).any(axis=0)
        if not done.any():
            continue
        curves, epochs = curves[:, done], 1 + np.flatnonzero(done)
        axes = zip(many.grid.axes.items(), at, strict=True)
        label = ", ".join(f"{_words(n)} {_short(v, i)}" for (n, v), i in axes if len(v) > 1)
        (line,) = panel.plot(epochs, np.median(curves, axis=0), label=label or "all seeds")
        low, high = curves.min(axis=0), curves.max(axis=0)
        panel.fill_between(epochs, low, high, alpha=0.2, linewidth=0, color=line.get_color())
    panel.set(xlabel="epoch", ylabel=_words(measure))
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    if panel.lines:
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _measure(many: Many, measure: str | None) -> str:
    require_instance(many, Many, "many", "what nnjax.train_many returns")
    if measure is None:
        return many.measure
    return require_instance(measure, str, "measure", "a name in the history")


def _axis(many: Many, name: str) -> tuple[int, Sequence[Any]]:
    axes = many.grid.axes
    if not isinstance(name, str) or name not in axes or not _are_numbers(axes[name]):
        numeric = [n for n, values in axes.items() if _are_numbers(values)]
        raise ValueError(
            f"{name} is not an axis with numbers of this grid; expected one of {', '.join(numeric)}"
        )
    return list(axes).index(name), axes[name]


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float | np.number) for value in values)


def _short(values: Sequence[Any], i: int) -> str:
    """Return a value as a word; of what has none, such as a network, its place on the axis."""
    if isinstance(values[i], int | float):
        return f"{values[i]:g}"
    return values[i] if isinstance(values[i], str) else f"{i + 1} of {len(values)}"


def _panel() -> tuple[Figure, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('plots require matplotlib: pip install "nnjax[plots]"') from None
    figure = Figure(figsize=(6, 4.2), dpi=120, layout="constrained")
    return figure, figure.subplots()


def _words(name: str) -> str:
    return _LABELS.get(name, name.replace("_", " "))
