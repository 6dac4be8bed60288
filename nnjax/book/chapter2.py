"""Chapter 2: backpropagation, its four equations in numbers, and what it saves."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from nnjax.backprop import backprop
from nnjax.book.drawing import COLORS, finish, legend, panels
from nnjax.book.figures import BookFigure, Numbers
from nnjax.losses import quadratic
from nnjax.network import init, loss, mlp

__all__ = ["FIGURES", "cost_of_the_gradient", "errors_flowing_back", "four_equations"]

SIZES = [3, 4, 3, 2]


def _example(seed):
    """Return a small network, its parameters and one example, in double precision."""
    net = mlp(SIZES, loss=quadratic)
    params = init(net, jax.random.key(seed))
    x = jnp.asarray(np.random.default_rng(seed).normal(size=(1, SIZES[0])).round(2))
    return net, params, x, jnp.array([[1.0, 0.0]])


def four_equations(seed: int = 0) -> Numbers:
    """Return, for each of BP1 to BP4, its numbers by hand and by autodiff, and their largest gap.

    The errors by autodiff are the derivatives of the cost with respect to a number added to each
    weighted input, which is how the book defines δ.

    Example:
        >>> from nnjax.book import chapter2
        >>> numbers = chapter2.four_equations()
        >>> max(row["gap"] for row in numbers["equations"]) < 1e-12
        True
    """
    with jax.enable_x64(True):
        net, params, x, y = _example(seed)
        by_hand = backprop(net, params, x, y)
        grads = jax.grad(loss, argnums=1)(net, params, x, y)
        # b only ever adds to z, so that ∂C/∂z = ∂C/∂b for a single example: the definition of δ.
        rows = [
            ("BP1", "δ³ = ∇ₐC ⊙ σ'(z³)", by_hand.errors[2][0], grads[2].b),
            ("BP2", "δ² = ((w³)ᵀ δ³) ⊙ σ'(z²)", by_hand.errors[1][0], grads[1].b),
            ("BP2", "δ¹ = ((w²)ᵀ δ²) ⊙ σ'(z¹)", by_hand.errors[0][0], grads[0].b),
            ("BP3", "∂C/∂b³ = δ³", by_hand.grads[2].b, grads[2].b),
            ("BP4", "∂C/∂w³ = δ³ (a²)ᵀ", by_hand.grads[2].w[0], grads[2].w[0]),
            ("BP4", "∂C/∂w¹ = δ¹ xᵀ", by_hand.grads[0].w[0], grads[0].w[0]),
        ]
        return {
            "sizes": SIZES,
            "equations": [
                {
                    "name": name,
                    "formula": formula,
                    "by hand": np.asarray(hand).tolist(),
                    "autodiff": np.asarray(auto).tolist(),
                    "gap": float(jnp.max(jnp.abs(hand - auto))),
                }
                for name, formula, hand, auto in rows
            ],
        }


def draw_four_equations(figure: Any, numbers: Numbers) -> None:
    (axes,) = panels(figure, 1, 1)
    axes.set_axis_off()

    def words(values):
        return "  ".join(f"{v:+.5f}".replace("-", "−") for v in values)

    rows = [
        [row["name"], row["formula"], words(row["by hand"]), words(row["autodiff"]),
         f"{row['gap']:.0e}".replace("-", "−") if row["gap"] else "0"]
        for row in numbers["equations"]
    ]  # fmt: skip
    table = axes.table(
        rows, colLabels=["", "equation", "by hand", "jax.grad", "gap"], loc="center",
        cellLoc="left", colWidths=[0.06, 0.25, 0.3, 0.3, 0.09],
    )  # fmt: skip
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    table.scale(1, 1.8)
    axes.set_title("of w³ and w¹ the first row is shown", fontsize=9)


def errors_flowing_back(seed: int = 0) -> Numbers:
    """Return activations and errors of every neuron of a small network, and its weights.

    Example:
        >>> from nnjax.book import chapter2
        >>> [len(delta) for delta in chapter2.errors_flowing_back()["errors"]]
        [4, 3, 2]
    """
    with jax.enable_x64(True):
        net, params, x, y = _example(seed)
        bp = backprop(net, params, x, y)
        return {
            "activations": [np.asarray(a[0]).tolist() for a in bp.activations],
            "errors": [np.asarray(delta[0]).tolist() for delta in bp.errors],
            "weights": [np.asarray(p.w).tolist() for p in params],
            "targets": np.asarray(y[0]).tolist(),
            "loss": float(bp.loss),
        }


def draw_errors_flowing_back(figure: Any, numbers: Numbers) -> None:
    forward, backward = panels(figure, 2, 1)
    weights = [np.asarray(w) for w in numbers["weights"]]
    _draw_network(forward, numbers["activations"], weights, "→", "PuOr")
    targets = ", ".join(f"{y:g}" for y in numbers["targets"])
    forward.set_title(f"forward: activations a (targets {targets}; C = {numbers['loss']:.4f})",
                      fontsize=10)  # fmt: skip
    errors = [None, *numbers["errors"]]
    _draw_network(backward, errors, weights, "←", "RdBu")
    backward.set_title(
        "backward: errors δ, coloured by layer; an edge is as wide as |w δ|, which it carries back",
        fontsize=10,
    )


def _draw_network(axes, values, weights, arrow, colors):
    """Draw neurons as circles coloured by their values, and edges by what flows through them."""
    import matplotlib

    shade = matplotlib.colormaps[colors]
    sizes = [weights[0].shape[1], *(len(w) for w in weights)]
    places = [[(2.2 * l, 0.9 * (j - (n - 1) / 2)) for j in range(n)] for l, n in enumerate(sizes)]
    for l, w in enumerate(weights):
        sent = values[l + 1] if arrow == "←" else values[l]
        flows = np.abs(w * np.asarray(sent)[:, None] if arrow == "←" else w * np.asarray(sent))
        for j, k in np.ndindex(w.shape):
            reaches = arrow == "→" or l > 0  # no error is carried to the inputs
            width = 0.3 + 4 * reaches * flows[j, k] / flows.max()
            (x0, y0), (x1, y1) = places[l][k], places[l + 1][j]
            axes.plot([x0, x1], [y0, y1], color="0.7", lw=width, zorder=1)
    for l, layer in enumerate(places):
        top = 1.0 if values[l] is None else 1.5 * np.abs(values[l]).max()
        for j, (x, y) in enumerate(layer):
            value = None if values[l] is None else values[l][j]
            color = (1.0, 1.0, 1.0) if value is None else shade(0.5 + 0.5 * value / top)[:3]
            axes.plot(x, y, "o", ms=26, mec="0.2", mfc=color, zorder=2)
            light = float(np.sum(color)) > 1.5
            text = "x" if value is None else f"{value:.4f}".replace("-", "−")
            axes.text(x, y, text, ha="center", va="center", fontsize=6, zorder=3,
                      color="black" if light else "white")  # fmt: skip
    axes.annotate("", (4.6 if arrow == "→" else 2.0, -2.1), (2.0 if arrow == "→" else 4.6, -2.1),
                  arrowprops={"arrowstyle": "-|>", "lw": 1.5})  # fmt: skip
    axes.set(xlim=(-0.6, 7.2), ylim=(-2.4, 1.9))
    axes.set_axis_off()


def cost_of_the_gradient(seed: int = 0) -> Numbers:
    """Return how long the gradient takes by naive differences and by backpropagation.

    For networks [20, h, 5] and a mini-batch of 10. The naive difference (C(w + ε e_j) − C(w)) / ε
    evaluates the cost once for every weight and once more; backpropagation takes one forward and
    one backward pass. Seconds are medians of five, compilation left out, in double precision.

    Example:
        >>> from nnjax.book import chapter2
        >>> chapter2.cost_of_the_gradient()["evaluations"]
        [58, 214, 838]
    """
    measured: Numbers = {"hidden": [2, 8, 32]}
    for name in ("weights", "evaluations", "naive", "backpropagation", "gap"):
        measured[name] = []
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        x, y = jnp.asarray(rng.normal(size=(10, 20))), jnp.asarray(rng.integers(0, 5, 10))
        for hidden in measured["hidden"]:
            net = mlp([20, hidden, 5])
            flat, structured = ravel_pytree(init(net, jax.random.key(seed)))
            moved = jax.jit(  # C with ε added to the weight j
                lambda v, j, e, net=net, at=structured: loss(net, at(v.at[j].add(e)), x, y)
            )
            by_hand = jax.jit(
                lambda v, net=net, at=structured: ravel_pytree(backprop(net, at(v), x, y).grads)[0]
            )

            def naive(v=flat, moved=moved):
                base = float(moved(v, 0, 0.0))
                return np.array([(float(moved(v, j, 1e-6)) - base) / 1e-6 for j in range(len(v))])

            differences, gradient = naive(), np.asarray(by_hand(flat))  # compiles both
            measured["weights"].append(len(flat))
            measured["evaluations"].append(len(flat) + 1)
            measured["naive"].append(_median_seconds(naive))
            measured["backpropagation"].append(
                _median_seconds(lambda by_hand=by_hand, v=flat: by_hand(v).block_until_ready())
            )
            gap = np.linalg.norm(differences - gradient) / np.linalg.norm(gradient)
            measured["gap"].append(float(gap))
    return measured


def _median_seconds(job):
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        job()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def draw_cost_of_the_gradient(figure: Any, numbers: Numbers) -> None:
    times, gaps = panels(figure, 1, 2)
    for name, color, marker in (("naive", COLORS[1], "s"), ("backpropagation", COLORS[0], "o")):
        label = "naive differences" if name == "naive" else name
        times.loglog(numbers["weights"], numbers[name], marker + "-", color=color, label=label)
    finish(times, "number of weights and biases", "seconds for one gradient")
    legend(times)
    gaps.semilogx(numbers["weights"], numbers["gap"], "o-", color=COLORS[1])
    for axes in (times, gaps):
        axes.set_xticks(numbers["weights"], numbers["weights"])
        axes.xaxis.set_minor_formatter("")
    finish(gaps, "number of weights and biases", "relative error of the naive differences")


FIGURES = (
    BookFigure(
        "2.1", "The four equations in numbers, network [3, 4, 3, 2]", four_equations,
        draw_four_equations, 2, size=(10, 3.2),
    ),
    BookFigure(
        "2.2", "Forward and back through [3, 4, 3, 2]", errors_flowing_back,
        draw_errors_flowing_back, 1, size=(8, 7),
    ),
    BookFigure(
        "2.3", "Naive differences and backpropagation in time", cost_of_the_gradient,
        draw_cost_of_the_gradient, 3,
    ),
)  # fmt: skip
"""The figures of the chapter."""
