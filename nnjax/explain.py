"""One training step worked by hand: every number, with its equation and the numbers put in.

`explain(net, params, x, y)` returns it as data; printed, it reads like the working on paper:

    z¹₁ = w¹₁₁ x₁ + w¹₁₂ x₂ + b¹₁ = 2·0.4 + 3·0.5 + 0 = 2.3
    a¹₁ = σ(z¹₁) = σ(2.3) = 0.908877

The numbers are those of `nnjax.backprop`; only their wording is made here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnjax import losses
from nnjax.activations import Elementwise, FromJax, Softmax
from nnjax.backprop import backprop
from nnjax.checks import FINITE, require_number, require_real_array
from nnjax.display import heading, table
from nnjax.layers import Affine, Dense
from nnjax.losses import targets
from nnjax.network import Network, check_batch, require_network
from nnjax.notation import factor, number, subscript, superscript, total

__all__ = ["Explanation", "Line", "explain"]

_HEADINGS = {
    "forward": "Forward",
    "loss": "Loss",
    "backward": "Backward: the errors δ = ∂C/∂z",
    "gradient": "Gradient: the partial derivatives",
    "update": "Update: one step of gradient descent",
}
LIMIT = 2000  # lines: more than a hundred pages are not a working by hand any more


class Line(NamedTuple):
    """One number of the working.

    Attributes:
        section: "forward", "loss", "backward", "gradient" or "update".
        equation: its name: "BP1" to "BP4", or what it says.
        symbol: what is computed, such as "z¹₁".
        formula: in symbols.
        numbers: the formula with the numbers put in.
        value: the result.
        example: of which example of the batch, from 0; −1 where it is of the whole batch.
        place: (l, j), a neuron, or (l, j, k), a weight: layers from 1, the rest from 0; () for
            neither.
    """

    section: str
    equation: str
    symbol: str
    formula: str
    numbers: str
    value: float
    example: int = -1
    place: tuple[int, ...] = ()

    @property
    def steps(self) -> list[str]:
        """What stands between the equals signs, each once: symbols, numbers put in, the result."""
        return list(dict.fromkeys(s for s in (self.formula, self.numbers, number(self.value)) if s))


@dataclass(frozen=True)
class Explanation:
    """A training step as a list of lines; `str()` is the working as text.

    Attributes:
        title: the network in words.
        lines: in the order of the working.
        loss: C before the step.
        params: the new parameters, in the structure of the old ones.
    """

    title: str
    lines: tuple[Line, ...]
    loss: float
    params: Any

    def __getitem__(self, symbol: str) -> float:
        """Return the value of a symbol, such as `explanation["δ¹₁"]`, of the first example."""
        for line in self.lines:
            if line.symbol == symbol:
                return line.value
        raise KeyError(
            f"{symbol} is not in this working; there are, for example, "
            f"{', '.join(line.symbol for line in self.lines[:5])}"
        )

    def __str__(self) -> str:
        out = [self.title]
        for title, lines in self.sections():
            out += ["", title]
            for line in lines:
                name = f"  [{line.equation}]" if line.equation else ""
                out.append(f"  {' = '.join([line.symbol, *line.steps])}{name}")
        return "\n".join(out)

    def _repr_html_(self) -> str:
        """Return the working for a notebook: a row for each number."""
        rows = [("", "", "formula", "numbers put in", "value")]
        for line in self.lines:
            of = line.symbol if line.example < 1 else f"{line.symbol} (example {line.example + 1})"
            rows.append((line.equation, of, line.formula, line.numbers, number(line.value)))
        return heading(self.title) + table(rows, numbers_from=4)

    def sections(self) -> list[tuple[str, list[Line]]]:
        """Return the lines in their sections, each with a heading, example by example."""
        several = any(line.example > 0 for line in self.lines)
        sections = []
        for (name, example), lines in itertools.groupby(
            self.lines, key=lambda line: (line.section, line.example)
        ):
            of = f", example {example + 1}" if several and example >= 0 else ""
            sections.append((_HEADINGS[name] + of, list(lines)))
        return sections

    def to_dict(self) -> dict[str, Any]:
        """Return title, loss and lines as plain dictionaries, strings and numbers."""
        return {
            "title": self.title,
            "loss": self.loss,
            "lines": [line._asdict() for line in self.lines],
        }


def explain(net: Network, params: Any, x: Any, y: Any, eta: float = 1.0) -> Explanation:
    """Return one training step of a dense network as worked by hand.

    Every weighted input, activation, error, partial derivative and new weight, each with its
    equation and the numbers put in. Works for batches; the gradient is then the mean over them.

    Args:
        net: a network of dense layers, small enough to be worked by hand.
        params: its parameters.
        x: (n, n_in) inputs, or (n_in,) for one example.
        y: (n, n_out) targets or (n,) classes, or (n_out,) for one example.
        eta: the learning rate η.

    Raises:
        TypeError: if a layer is not `Dense`: of layer normalization, residual blocks, convolutions
            and all others `nnjax.backprop` gives the numbers.
        ValueError: if the working would be longer than 2000 lines, or an argument does not fit.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([2, 1], loss=nnjax.quadratic)
        >>> params = (nnjax.Affine(w=jnp.array([[2.0, 3.0]]), b=jnp.zeros(1)),)
        >>> working = nnjax.explain(net, params, jnp.array([[0.4, 0.5]]), jnp.array([[1.0]]))
        >>> round(working["z¹₁"], 3), round(working["a¹₁"], 3)
        (2.3, 0.909)

    Reference: Nielsen 2015, chapter 2.
    """
    require_network(net)
    for i, layer in enumerate(net.layers):
        if not isinstance(layer, Dense):
            raise TypeError(
                f"layers[{i}] is {layer}; only dense layers are worked by hand here: "
                "nnjax.backprop gives the numbers of all other layers, and docs/layers.md their "
                "equations"
            )
    eta = require_number(eta, "eta", "a learning rate of at least 0", 0, FINITE)
    x, y = (jnp.asarray(require_real_array(v, name)) for v, name in ((x, "x"), (y, "y")))
    if x.ndim == 1:
        x, y = x[None], y[None]
    x, y = check_batch(net, params, x, y)
    length = _length(net, len(x))
    if length > LIMIT:
        raise ValueError(
            f"the working would have {length} lines, more than {LIMIT}; take a smaller network or "
            "fewer examples"
        )
    working = _Working(net, params, x, y, eta)
    return Explanation(
        title=f"One training step of {' → '.join(map(str, (s[0] for s in net.shapes)))}, "
        f"{working.loss_name}, η = {number(eta)}{_not_by_hand(net)}",
        lines=tuple(working.lines()),
        loss=float(working.bp.loss),
        params=working.updated(),
    )


def _not_by_hand(net):
    """Return which derivatives are those of `jax.vjp`, if any."""
    functions = [net.loss, *(layer.activation for layer in net.layers)]
    names = [f.name for f in functions if isinstance(f, (FromJax, losses.FromJax))]
    return f"; derivative of {' and '.join(dict.fromkeys(names))} by jax.vjp" if names else ""


def _length(net, n):
    sizes = [shape[0] for shape in net.shapes]
    neurons = sum(sizes[1:])
    weights = sum(a * b for a, b in itertools.pairwise(sizes))
    return n * (3 * neurons + 1) + 2 * (weights + neurons)


class _Working:
    """The numbers of the step, and the lines that show them."""

    def __init__(self, net, params, x, y, eta):
        self.net, self.eta, self.L, self.n = net, eta, len(net.layers), len(x)
        self.bp = backprop(net, params, x, y)
        self.structure = params
        self.params = [None, *((np.asarray(p.w), np.asarray(p.b)) for p in params)]
        self.grads = [None, *((np.asarray(g.w), np.asarray(g.b)) for g in self.bp.grads)]
        self.a = [np.asarray(a) for a in self.bp.activations]
        self.z = [None, *(np.asarray(z) for z in self.bp.weighted_inputs)]
        self.delta = [None, *(np.asarray(d) for d in self.bp.errors)]
        self.y = np.asarray(targets(y, self.bp.activations[-1]))
        self.loss_name = net.loss.name

    def updated(self):
        return tuple(
            Affine(p.w - self.eta * g.w, p.b - self.eta * g.b)
            for p, g in zip(self.structure, self.bp.grads, strict=True)
        )

    def lines(self) -> Iterator[Line]:
        for i in range(self.n):
            yield from self._forward(i)
        for i in range(self.n):
            yield self._loss(i)
        if self.n > 1:
            values = [float(self._loss_of(i)) for i in range(self.n)]
            yield Line(
                "loss",
                "mean over the batch",
                "C",
                f"1/{self.n} Σ C",
                f"({total([number(v) for v in values])})/{self.n}",
                float(np.mean(values)),
            )
        for i in range(self.n):
            yield from self._backward(i)
        yield from self._gradient()
        yield from self._update()

    def _activation_name(self, l):
        return self.net.layers[l - 1].activation.name

    def _input(self, l, k):
        return f"x{subscript(k)}" if l == 1 else f"a{superscript(l - 1)}{subscript(k)}"

    def _forward(self, i):
        for l in range(1, self.L + 1):
            w, b = self.params[l]
            up, name = superscript(l), self._activation_name(l)
            for j in range(len(b)):
                symbol = f"z{up}{subscript(j)}"
                inputs = range(w.shape[1])
                yield Line(
                    "forward",
                    "",
                    symbol,
                    total(
                        [
                            *(f"w{up}{subscript(j, k)} {self._input(l, k)}" for k in inputs),
                            f"b{up}{subscript(j)}",
                        ]
                    ),
                    total(
                        [
                            *(f"{factor(w[j, k])}·{factor(self.a[l - 1][i, k])}" for k in inputs),
                            number(b[j]),
                        ]
                    ),
                    float(self.z[l][i, j]),
                    i,
                    (l, j),
                )
            for j in range(len(b)):
                z = self.z[l][i]
                given = f"z{up}{subscript(j)}" if self._elementwise(l) else f"z{up}"
                put_in = number(z[j]) if self._elementwise(l) else _vector(z)
                yield Line(
                    "forward",
                    "",
                    f"a{up}{subscript(j)}",
                    f"{name}({given})",
                    f"{name}({put_in})" + ("" if self._elementwise(l) else subscript(j)),
                    float(self.a[l][i, j]),
                    i,
                    (l, j),
                )

    def _elementwise(self, l):
        return isinstance(self.net.layers[l - 1].activation, Elementwise)

    def _loss_of(self, i):
        loss, activation = self.net.loss, self.net.layers[-1].activation
        arrays = (self.z[-1][i], self.a[-1][i], self.y[i])
        return loss.at(activation, *map(jnp.asarray, arrays))

    def _loss(self, i):
        a, y, up = self.a[-1][i], self.y[i], superscript(self.L)
        rows = range(len(a))
        formula = self.net.loss.text(
            [f"a{up}{subscript(j)}" for j in rows], [f"y{subscript(j)}" for j in rows]
        )
        numbers = self.net.loss.numbers(a, y)
        symbol = "C" if self.n == 1 else f"C (example {i + 1})"
        return Line("loss", "", symbol, formula, numbers, float(self._loss_of(i)), i)

    def _backward(self, i):
        for l in range(self.L, 0, -1):
            up, act = superscript(l), self.net.layers[l - 1].activation
            last = l == self.L
            g = self._arriving(l, i)
            a, delta = self.a[l][i], self.delta[l][i]
            here = jnp.asarray(self.z[l][i]), jnp.asarray(a)
            canonical = last and np.allclose(delta, a - self.y[i], rtol=1e-5, atol=1e-6)
            canonical = canonical and not np.allclose(g, delta)
            for j in range(len(delta)):
                symbol, at = f"δ{up}{subscript(j)}", f"z{up}{subscript(j)}"
                equation = "BP1" if last else "BP2"
                if canonical:
                    formula = f"a{up}{subscript(j)} − y{subscript(j)}"
                    numbers = f"{number(a[j])} − {factor(self.y[i][j])}"
                elif isinstance(act, Elementwise):
                    slope = float(act.derivative(here[0])[j])
                    arriving, put_in = self._arriving_text(l, i, j)
                    formula = f"{arriving} · {self._activation_name(l)}'({at})"
                    numbers = f"{put_in} · {factor(slope)}"
                elif isinstance(act, Softmax):
                    formula = f"a{up}{subscript(j)} (g{subscript(j)} − Σ g a), g = ∂C/∂a{up}"
                    numbers = f"{factor(a[j])} · ({number(g[j])} − {factor(float(g @ a))})"
                    if act.scale != 1:
                        formula = f"{act.scale:g} " + formula
                        numbers = f"{act.scale:g} · " + numbers
                else:
                    rows = range(len(a))
                    slopes = jax.vmap(act.pull_back, (None, None, 0))(*here, jnp.eye(len(a)))
                    terms = (f"∂C/∂a{up}{subscript(k)} ∂a{up}{subscript(k)}/∂{at}" for k in rows)
                    formula = total(list(terms))
                    numbers = total([f"{factor(g[k])}·{factor(slopes[k, j])}" for k in rows])
                value = float(delta[j])
                yield Line("backward", equation, symbol, formula, numbers, value, i, (l, j))

    def _arriving(self, l, i):
        """Return ∂C/∂a^l."""
        if l == self.L:
            return np.asarray(self.net.loss.gradient(jnp.asarray(self.a[l][i]), self.y[i]))
        return self.delta[l + 1][i] @ self.params[l + 1][0]

    def _arriving_text(self, l, i, j):
        if l == self.L:
            symbol, a, y = f"a{superscript(l)}{subscript(j)}", self.a[l][i, j], self.y[i, j]
            formula = self.net.loss.slope_text(symbol, f"y{subscript(j)}")
            if formula is None:
                return f"∂C/∂{symbol}", factor(self._arriving(l, i)[j])
            return formula, self.net.loss.slope_text(number(a), factor(y))
        w, delta, up = self.params[l + 1][0], self.delta[l + 1][i], superscript(l + 1)
        rows = range(len(delta))
        formula = total([f"w{up}{subscript(k, j)} δ{up}{subscript(k)}" for k in rows])
        numbers = total([f"{factor(w[k, j])}·{factor(delta[k])}" for k in rows])
        return f"({formula})", f"({numbers})"

    def _gradient(self):
        mean = "" if self.n == 1 else f"1/{self.n} Σ "
        for l in range(1, self.L + 1):
            up, (gw, gb) = superscript(l), self.grads[l]
            delta, a = self.delta[l], self.a[l - 1]
            for j in range(gw.shape[0]):
                for k in range(gw.shape[1]):
                    products = [
                        f"{factor(d)}·{factor(v)}"
                        for d, v in zip(delta[:, j], a[:, k], strict=True)
                    ]
                    yield Line(
                        "gradient",
                        "BP4",
                        f"∂C/∂w{up}{subscript(j, k)}",
                        f"{mean}δ{up}{subscript(j)} {self._input(l, k)}",
                        self._mean(products),
                        float(gw[j, k]),
                        place=(l, j, k),
                    )
                yield Line(
                    "gradient",
                    "BP3",
                    f"∂C/∂b{up}{subscript(j)}",
                    f"{mean}δ{up}{subscript(j)}",
                    self._mean([factor(d) for d in delta[:, j]]),
                    float(gb[j]),
                    place=(l, j),
                )

    def _mean(self, terms):
        if self.n == 1:
            return terms[0] if "·" in terms[0] else ""
        return f"({total(terms)})/{self.n}"

    def _update(self):
        for l, new in enumerate(self.updated(), 1):
            up, (w, b), (gw, gb) = superscript(l), self.params[l], self.grads[l]
            new_w, new_b = np.asarray(new.w), np.asarray(new.b)
            for j in range(w.shape[0]):
                for k in range(w.shape[1]):
                    symbol = f"w{up}{subscript(j, k)}"
                    yield self._step(symbol, w[j, k], gw[j, k], new_w[j, k], (l, j, k))
                yield self._step(f"b{up}{subscript(j)}", b[j], gb[j], new_b[j], (l, j))

    def _step(self, symbol, old, slope, new, place):
        return Line(
            "update",
            "w → w − η ∂C/∂w" if symbol[0] == "w" else "b → b − η ∂C/∂b",
            f"new {symbol}",
            f"{symbol} − η ∂C/∂{symbol}",
            f"{number(old)} − {factor(self.eta)}·{factor(slope)}",
            float(new),
            place=place,
        )


def _vector(values) -> str:
    return "[" + ", ".join(number(v) for v in values) + "]"
