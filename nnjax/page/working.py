"""The page of a training step worked by hand: a picture of the network, and each number in turn."""

from __future__ import annotations

import itertools
from typing import Any

from nnjax.checks import require_instance
from nnjax.explain import Explanation, Line
from nnjax.notation import subscript, superscript
from nnjax.page.html import Html, document, element

__all__ = ["working_page"]

ACROSS, DOWN, RADIUS = 210, 92, 22  # of the picture: between layers, between neurons, of a neuron
HEIGHT = 460  # of the picture at most; larger layers stand closer


def working_page(working: Explanation) -> str:
    """Return the page: every number with its equation, one step at a time by the arrow keys.

    Args:
        working: what `nnjax.explain` returned.

    Example:
        >>> import jax, nnjax
        >>> from nnjax.page import working_page
        >>> net = nnjax.mlp([2, 1], loss=nnjax.quadratic)
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> page = working_page(nnjax.explain(net, params, [0.4, 0.5], [1.0]))
        >>> page.startswith("<!DOCTYPE html>"), page.count('class="neuron"')
        (True, 3)
    """
    require_instance(working, Explanation, "working", "what nnjax.explain returns")
    sections = []
    for heading, lines in working.sections():
        items = [_item(line) for line in lines]
        sections += [element("h2", heading), element("ol", *items, class_="working")]
    body = [
        element("h1", working.title),
        element("div", _diagram(working), _CONTROLS, class_="diagram"),
        *sections,
    ]
    return document(working.title, body, ["working.js"])


_CONTROLS = element(
    "div",
    element("button", "Back", id="back", type="button"),
    element("button", "Forward", id="forward", type="button", class_="main"),
    element("button", "All", id="all", type="button"),
    element(
        "span",
        "Step by step with ",
        *(element("kbd", "←"), " and ", element("kbd", "→"), ", "),
        *(element("kbd", "Home"), " and ", element("kbd", "End")),
        class_="note",
    ),
    element("p", id="said", class_="note", aria_live="polite"),
    class_="bar-of-buttons screen",
    id="controls",
    hidden="",  # until the script is there
)


def _item(line: Line) -> Html:
    name = element("span", line.equation, class_="equation") if line.equation else ""
    text = " = ".join([line.symbol, *line.steps])
    place = "-".join(map(str, line.place)) or None
    shown = f"{line.symbol} = {line.steps[-1]}"
    return element(
        "li", name, element("span", text, class_="formula"), data_place=place, data_value=shown
    )


def _diagram(working: Explanation) -> Html:
    """Return the network as circles and lines, with room for the value that a step computes."""
    sizes = _sizes(working)
    largest = max(sizes)
    down = min(DOWN, HEIGHT / largest)
    radius = min(RADIUS, 0.34 * down)
    width, height = ACROSS * (len(sizes) - 1) + 190, down * largest + 16

    def at(l: int, j: int) -> tuple[float, float]:
        return 95 + ACROSS * l, round(down * (j + 0.5 + (largest - sizes[l]) / 2), 1)

    lines = []
    for l, (n_in, n_out) in enumerate(itertools.pairwise(sizes), 1):
        for j, k in itertools.product(range(n_out), range(n_in)):
            (x1, y1), (x2, y2) = at(l - 1, k), at(l, j)
            ends: dict[str, Any] = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
            lines.append(element("line", class_="edge", data_at=f"{l}-{j}-{k}", **ends))
    neurons = []
    for l, n in enumerate(sizes):
        for j in range(n):
            x, y = at(l, j)
            symbol = f"a{superscript(l)}{subscript(j)}" if l else f"x{subscript(j)}"
            circle = element("circle", cx=x, cy=y, r=radius, class_="neuron", data_at=f"{l}-{j}")
            neurons.append(circle)
            if radius > 12:
                value = {"class_": "value", "data_shown": f"{l}-{j}"}
                neurons.append(element("text", symbol, x=x, y=y + 5))
                neurons.append(element("text", x=x, y=round(y + radius + 15, 1), **value))
    words = "a network of " + ", ".join(map(str, sizes)) + " neurons, from the input to the output"
    return element(
        "svg", *lines, *neurons, viewBox=f"0 0 {width} {height:.0f}", role="img", aria_label=words,
        style=f"max-width: {width}px",
    )  # fmt: skip


def _sizes(working: Explanation) -> list[int]:
    """Return the number of neurons in each layer, the input first."""
    weights = [line.place for line in working.lines if len(line.place) == 3]
    layers = max(l for l, _, _ in weights)
    n_in = 1 + max(k for l, _, k in weights if l == 1)
    return [n_in] + [
        1 + max(j for l, j, _ in weights if l == layer) for layer in range(1, layers + 1)
    ]
