"""Curves as SVG inside a page; the values are in the page too, for a reader and for the script."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

from nnjax.notation import number
from nnjax.page.html import Html, element, table

__all__ = ["chart", "ticks"]

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 68, 12, 12, 40  # margins
DASHES = ("", "7 4", "2 3", "7 3 2 3")
MOST = 50  # rows in the table of values


def chart(
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    label: str,
    logarithmic: bool = False,
    xlabel: str = "epoch",
) -> Html:
    """Return curves of one figure: axes, lines, a legend, and the values in a table to unfold.

    Args:
        x: where the values stand, such as the numbers of epochs.
        series: by name, one value for each x; what is not finite is left out.
        label: of the y axis; it is the name of the figure too.
        logarithmic: whether the y axis is, for values above 0.
        xlabel: of the x axis.

    Example:
        >>> from nnjax.page.charts import chart
        >>> svg = chart([1, 2], {"train": [0.5, 0.25]}, "loss")
        >>> svg.count("<polyline"), "0.25" in svg
        (1, True)
    """
    values = [v for line in series.values() for v in line if _shown(v, logarithmic)] or [0.0, 1.0]
    scale = math.log10 if logarithmic else float
    low, high = scale(min(values)), scale(max(values))
    if logarithmic:
        low, high = math.floor(low), math.ceil(high)
        step = max(1, -(-(high - low) // 5))  # powers of ten, not more than five apart
        marks = [10.0**k for k in range(int(low), int(high) + 1, int(step))]
    else:
        marks = ticks(low, high)
        low, high = min(low, marks[0]), max(high, marks[-1])
    first, last = min(x), max(x)

    def across(value: float) -> float:
        share = (value - first) / (last - first) if last > first else 0.5
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def up(value: float) -> float:
        share = (scale(value) - low) / (high - low) if high > low else 0.5
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    parts = []
    for mark in marks:
        y = up(mark)
        parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(element("text", number(mark), x=LEFT - 6, y=y + 4, text_anchor="end"))
    inside = [mark for mark in ticks(first, last) if first <= mark <= last]
    whole = [mark for mark in inside if mark == round(mark)]  # half an epoch is an odd number
    for mark in whole if len(whole) > 1 else inside:
        place = {"x": across(mark), "y": HEIGHT - BOTTOM + 18}
        parts.append(element("text", number(mark), text_anchor="middle", **place))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = {"x": 14, "y": middle, "transform": f"rotate(-90 14 {middle})"}
    parts.append(element("text", label, text_anchor="middle", **turned))
    parts.append(element("text", xlabel, x=(LEFT + WIDTH) / 2, y=HEIGHT - 6, text_anchor="middle"))
    for i, line in enumerate(series.values()):
        places = [
            f"{across(at)},{up(value)}"
            for at, value in zip(x, line, strict=True)
            if _shown(value, logarithmic)
        ]
        style = {"class_": f"line c{i % 8}", "stroke_dasharray": DASHES[i % 4] or None}
        parts.append(element("polyline", points=" ".join(places), **style))
        if len(places) == 1:
            cx, cy = places[0].split(",")
            parts.append(element("circle", cx=cx, cy=cy, r=4, class_=f"dot c{i % 8}"))
    names = " and ".join(series)
    drawing = element(
        "svg",
        element("title", f"{label} by {xlabel}: {names}"),
        *parts,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{label} by {xlabel}: {names}. The values are in the table below.",
    )
    content = {"x": [float(v) for v in x], "left": LEFT, "right": WIDTH - RIGHT, "top": TOP}
    content |= {"bottom": HEIGHT - BOTTOM, "xlabel": xlabel}
    content["series"] = {name: [_plain(v) for v in line] for name, line in series.items()}
    return element(
        "figure",
        drawing,
        element("figcaption", _legend(series), class_="legend"),
        _values(x, series, label, xlabel),
        class_="chart",
        data_chart=json.dumps(content),
    )


def ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers, 1, 2 or 5 times a power of ten apart, around [low, high].

    Example:
        >>> from nnjax.page.charts import ticks
        >>> ticks(0.3, 2.2)
        [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    """
    reach = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(reach / 5))
    step = next(k * power for k in (1, 2, 5, 10) if reach / (k * power) <= 6)
    begin, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(begin, max(end, begin + 1) + 1)]


def _legend(series: Mapping[str, Sequence[float]]) -> Html:
    entries = []
    for i, name in enumerate(series):
        stroke = element(
            "line", x1=0, x2=28, y1=6, y2=6, class_=f"line c{i % 8}",
            stroke_dasharray=DASHES[i % 4] or None,
        )  # fmt: skip
        sample = element(
            "svg", stroke, viewBox="0 0 28 12", width=28, height=12, aria_hidden="true"
        )
        entries.append(element("span", sample, " ", name))
    return Html("".join(entries))


def _values(
    x: Sequence[float], series: Mapping[str, Sequence[float]], label: str, xlabel: str
) -> Html:
    every = -(-len(x) // MOST)
    kept = sorted({*range(0, len(x), every), len(x) - 1})
    rows = [[f"{x[i]:g}", *(_text(line[i]) for line in series.values())] for i in kept]
    caption = f"{label} by {xlabel}" + (f", every {every}th value" if every > 1 else "")
    return element("details", element("summary", "Values"), table([xlabel, *series], rows, caption))


def _shown(value: float, logarithmic: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not logarithmic)


def _plain(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _text(value: float) -> str:
    return number(f"{value:.4g}") if math.isfinite(value) else "–"
