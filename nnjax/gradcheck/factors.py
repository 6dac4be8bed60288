"""Numbers that people lose or gain on the way: which number it is, and where it belongs.

A factor t on one edge of a backward pass is the same on any other edge in the same chain. It is
told where it belongs by nature: 1/n where a mean is taken over n, 2 at a square, −1 at a
difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from nnjax.gradcheck.graph import MOVES, TOTAL, Graph
from nnjax.gradcheck.places import Edge, Site

__all__ = ["Reading", "local", "read_factor"]


class Reading(NamedTuple):
    """What a factor means.

    Attributes:
        name, sentence, text: of the finding; `text` is the number as a person writes it.
        cost: how far-fetched it is at this place.
    """

    name: str
    sentence: str
    text: str
    cost: float


def read_factor(graph: Graph, where: Site, t: float) -> Reading:
    """Return what it means that t times what belongs flows through a site.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> from nnjax.gradcheck.graph import trace, trace_at
        >>> from nnjax.gradcheck.places import sites
        >>> def f(x):
        ...     return jnp.mean(x) ** 2
        >>> point = (np.ones(7),)
        >>> graph = trace_at(trace(f, point), point, [0])
        >>> read_factor(graph, sites(graph)[0], 7.0).name
        'sum for mean'
    """
    if t == 0:
        return _left_out(graph, where)
    u, v = _names(graph, where)
    reason = _belongs(graph, where.edges[-1], t)
    why = f": {reason}" if reason else ""
    cost = 1.0 - 0.5 * bool(reason) + 0.1 * (where.edges[0][0] == TOTAL)
    cost += 0.05 * _passed_on(graph, where)
    unlikely = {"the sum is taken": 0.1, "a mean of": 0.1, "counted twice": 0.2}
    cost += sum(more for words, more in unlikely.items() if words in reason)
    size, (sign, minus) = abs(t), ("sign and ", "−") if t < 0 else ("", "")
    carried = f"what `{v}` carries back into `{u}`"
    if abs(t + 1) < 1e-7:
        why = why.replace(":", ";", 1)
        return Reading("sign", f"{carried} has the wrong sign{why}", "−1", cost)
    text = next(_numbers(graph, size), None)
    if "a mean of" in reason:
        name = "sum for mean" if size > 1 else "factor"
        name = f"{sign}{name} (wrong number of entries)"
        return Reading(name, f"in `{v}` {reason}", text or f"{size:.6g}", cost)
    if "not multiplied" not in reason:
        summed = "the sum is" in reason
        length = next(_lengths(graph, where, size), None)
        if length is not None and (summed or size > 3.5):
            n, why = round(size), why or ": the division is left out"
            sentence = f"{carried} is counted {n} times, {length}{why}"
            return Reading(f"{sign}sum for mean", sentence, f"{minus}{n}", cost)
        length = next(_lengths(graph, where, 1 / size), None)
        if length is not None and (summed or size < 0.28):
            n = round(1 / size)
            sentence = f"{carried} is divided by {n}, {length}{why}"
            return Reading(f"{sign}mean for sum", sentence, f"{minus}1/{n}", cost)
    if text is None:
        text, cost = f"{size:.6g}", cost + 1.5
    whole = abs(size - round(size)) < 1e-7 and size < 10
    name = f"{sign}counted {text} times" if whole else f"{sign}factor {text}"
    sentence = f"{carried} is {minus}{text} times what it should be{why}"
    return Reading(name, sentence, minus + text, cost)


def _left_out(graph, where) -> Reading:
    """Return what it means that nothing flows through a site."""
    u, v = _names(graph, where)
    shared = len(graph.consumers.get(where.nodes[-1], ())) > 1 or _is_term(graph, where)
    cost = 1.0 - 0.3 * shared + 0.5 * (where.edges[0][0] == TOTAL)
    name, sentence = "left out", f"the path from `{v}` back to `{u}` is left out"
    if _carries(graph, where):
        name = "carry dropped"
        sentence = f"what `{u}` of one step passes on to the next is not carried back"
    elif _product(graph, where):
        name = "left out (half of a product rule)"
        sentence = f"the part of `{v}` through `{u}` is left out"
    return Reading(name, sentence, "0", cost)


def _passed_on(graph, where) -> bool:
    """Whether what flows back is passed on as it is, so that no factor belongs there."""
    k, j = where.edges[-1]
    if k == TOTAL:
        return False
    name = graph.equations[k].name
    return name in MOVES or name in ("add", "add_any") or (name == "sub" and j == 0)


def _is_term(graph, where) -> bool:
    """Whether it is a number that is added to others: a whole term of the loss, say."""
    k, _ = where.edges[0]
    node = where.nodes[0]
    if k == TOTAL or len(where.edges) > 1 or graph.shape(node) or not graph.assigned(node):
        return False
    equation = graph.equations[k]
    weighted = equation.name == "mul" and not graph.active.intersection({*equation.inputs} - {node})
    return weighted or equation.name in ("add", "sub", "neg")


def _names(graph, where):
    k, j = where.edges[-1]
    if k == TOTAL:
        consumers = graph.consumers.get(j)
        out = graph.equations[consumers[-1][0]].outputs[0] if consumers else j
        return graph.name(j), graph.name(out)
    equation = graph.equations[k]
    return graph.name(equation.inputs[j]), graph.name(equation.outputs[0])


def _constant(graph, edge) -> float | None:
    """Return the number that an operation multiplies by, whatever the values; None if it varies."""
    k, j = edge
    equation = graph.equations[k]
    partials = graph.partials(k)
    others = [n for i, n in enumerate(equation.inputs) if i != j]
    if partials is None or any(n in graph.active for n in others):
        return None
    if equation.name not in ("mul", "div", "neg", "sub", "add") or (equation.name == "div" and j):
        return None
    partial = np.asarray(partials[j], float).ravel()
    return float(partial[0]) if partial.size and np.all(partial == partial[0]) else None


def _belongs(graph: Graph, edge: Edge, t: float) -> str:
    """Return why a factor t is at home at an edge, in words; "" if it is not."""
    k, j = edge
    if k == TOTAL:
        return ""
    equation = graph.equations[k]
    name = equation.name
    constant = _constant(graph, edge)
    if constant is not None and abs(constant) not in (0.0, 1.0):
        ways = {1: "left out", -1: "counted twice", 2: "divided by, not multiplied with"}
        for power, what in ways.items():
            if _same(abs(t), abs(constant) ** -power):
                return f"the factor {_short(constant)} is {what}"
        n, summed = abs(1 / constant), _summed(graph, equation.inputs[j])
        instead = n / abs(t) if t else 0.0
        lengths = {m for node in graph.inputs for m in graph.shape(node)} | {n - 1, n + 1}
        if _same(summed, n) and (
            _near({n / m for m in lengths if m}, instead) or _near(lengths, instead)
        ):
            return f"a mean of {round(n)} numbers is divided by {round(instead)}"
    power = {"integer_pow": equation.params.get("y"), "square": 2, "sqrt": 0.5, "rsqrt": -0.5}
    p = power.get(name)
    if name == "pow" and j == 0:
        exponent = np.unique(np.asarray(graph.values[equation.inputs[1]], float))
        p = float(exponent[0]) if len(exponent) == 1 else None
    if p is not None and p != 0:
        if _same(abs(t), abs(1 / p)):
            return f"the exponent {_short(p)} does not come down as a factor"
        if t == -1 and p < 0:
            return "the minus of the exponent is left out"
    negative = (name in ("sub", "div") and j == 1) or name == "neg" or constant == -1.0
    if abs(t + 1) < 1e-7 and (negative or name == "cos"):
        return "the minus is left out"
    if equation.name in ("reduce_sum", "broadcast_in_dim") or graph.partials(k) is not None:
        into, out = (
            np.prod(graph.shape(equation.inputs[j])),
            np.prod(graph.shape(equation.outputs[0])),
        )
        n = max(into, out) / max(min(into, out), 1)
        if n > 1 and (_same(abs(t), n) or _same(abs(t), 1 / n)):
            return "the sum is taken for a mean, or a mean for the sum"
    return ""


def _summed(graph, node) -> float:
    """Return how many numbers are summed for each entry of a node."""
    while node in graph.producer:
        equation = graph.equations[graph.producer[node]]
        if equation.name == "reduce_sum":
            return np.size(graph.values[equation.inputs[0]]) / max(np.size(graph.values[node]), 1)
        if equation.name not in MOVES:
            return 0.0
        node = equation.inputs[0]
    return 0.0


def _near(numbers, x) -> bool:
    return any(n > 0 and _same(x, n) for n in numbers)


def _carries(graph, where) -> bool:
    """Whether a site's edges lead from one turn of a loop into the next."""
    turn = {k: (len(group), i) for group in graph.groups for i, k in enumerate(group)}
    if len(where.edges) < 2 or where.edges[0][0] == TOTAL:
        return False
    forward = []
    for k, j in where.edges:
        producer = graph.producer.get(graph.equations[k].inputs[j])
        if producer is None or turn[producer][0] < 2:
            continue
        forward.append(
            turn[k][1] > turn[producer][1] or graph.equations[k].run > graph.equations[producer].run
        )
    return bool(forward) and all(forward)


def _product(graph, where) -> bool:
    k, _j = where.edges[-1]
    if k == TOTAL or graph.equations[k].name not in ("mul", "dot_general"):
        return False
    return all(n in graph.active for n in graph.equations[k].inputs)


def _same(a, b) -> bool:
    return abs(a - b) <= 1e-7 * abs(b)


def _short(number) -> str:
    inverse = 1 / number if number else 0.0
    if abs(inverse - round(inverse)) < 1e-9 and abs(inverse) > 1.5:
        return f"1/{round(inverse)}" if inverse > 0 else f"−1/{-round(inverse)}"
    return f"{number:.6g}".replace("-", "−")


def _lengths(graph, where, t) -> Iterator[str]:
    """Yield which lengths of axes a number is, those of arrays near the site first."""
    nodes = [*where.nodes[-1:]]
    k, _ = where.edges[-1]
    if k != TOTAL:
        nodes += [*graph.equations[k].outputs, *graph.equations[k].inputs]
    nodes += [*graph.inputs]
    for node in nodes:
        shape, name = graph.shape(node), graph.name(node)
        for axis, n in enumerate(shape):
            if n > 1 and _same(t, n):
                yield f"the length of axis {axis} of `{name}`"
        for start in range(len(shape)):
            for stop in range(start + 2, len(shape) + 1):
                n = math.prod(shape[start:stop])
                if n > max(shape[start:stop]) and _same(t, n):
                    axes = " times ".join(map(str, shape[start:stop]))
                    yield f"{axes}, the lengths of axes {start} to {stop - 1} of `{name}`"


def _numbers(graph, t) -> Iterator[str]:
    """Yield what number a positive factor is, simple fractions first."""
    for q in (1, 2, 3, 4, 5, 6, 8):
        if _same(t * q, round(t * q)) and round(t * q) <= 12:
            yield f"{round(t * q)}" if q == 1 else f"{round(t * q)}/{q}"
    for text, value in _known_numbers(graph):
        if _same(t, value):
            yield text
        if _same(t, 1 / value):
            yield "/".join(text.split("/")[::-1]) if "/" in text else f"1/{text}"


def _known_numbers(graph) -> Iterator[tuple[str, float]]:
    """Yield the numbers that a factor may be: of mathematics, of f's arrays, of its own text."""
    yield from (("ln 2", math.log(2)), ("ln 10", math.log(10)), ("π", math.pi), ("2π", math.tau))
    yield from (("π/180", math.pi / 180), ("√2", math.sqrt(2)))
    yield from (("√(2π)", math.sqrt(math.tau)), ("√π", math.sqrt(math.pi)))
    for n in sorted({n for node in graph.active for n in graph.shape(node)} - {0, 1}):
        yield from ((f"{n}", n), (f"√{n}", math.sqrt(n)), (f"{n}²", n**2))
        yield from ((f"{n}/{n - 1}", n / (n - 1)), (f"{n + 1}/{n}", (n + 1) / n))
    for node, value in enumerate(graph.values):
        if node not in graph.producer and np.size(value) == 1 and graph.is_real(node):
            c = abs(float(np.ravel(value)[0]))
            if c not in (0.0, 1.0):
                yield from ((f"{c:.6g}", c), (f"{c:.6g}²", c * c))


# What should flow on to u, given d[v], by the operation and, where they differ, the operand; x
# stands for the other operand.
_LOCAL: dict[str, tuple[str, ...]] = {
    "add": ("d[{v}]",),
    "add_any": ("d[{v}]",),
    "sub": ("d[{v}]", "−d[{v}]"),
    "mul": ("d[{v}] · {x}",),
    "div": ("d[{v}] / {x}", "−d[{v}] · {x} / {u}²"),
    "integer_pow": ("d[{v}] · {y} {u}^{y1}",),
    "dot_general": ("d[{v}] times {x}",),
    "reduce_sum": ("d[{v}], to every entry of the sum",),
    "broadcast_in_dim": ("d[{v}], summed over the copies",),
    "tanh": ("d[{v}] · (1 − tanh({u})²)",),
    "logistic": ("d[{v}] · σ'({u})",),
    "exp": ("d[{v}] · exp({u})",),
    "log": ("d[{v}] · 1/{u}",),
    "log1p": ("d[{v}] · 1/(1 + {u})",),
    "sqrt": ("d[{v}] · 1/(2 √{u})",),
    "sin": ("d[{v}] · cos({u})",),
    "cos": ("d[{v}] · (−sin({u}))",),
    "neg": ("d[{v}] · (−1)",),
    "square": ("d[{v}] · 2 {u}",),
}


def local(graph: Graph, where: Site) -> str:
    """Return what should flow on to u, as a formula in d[v]."""
    k, j = where.edges[-1]
    if k == TOTAL:
        return f"d[{graph.name(j)}]"
    equation = graph.equations[k]
    u, v = _names(graph, where)
    others = [graph.name(n) for i, n in enumerate(equation.inputs) if i != j]
    y = equation.params.get("y", 0)
    formulas = _LOCAL.get(equation.name, ("d[{v}] · ∂({v})/∂({u})",))
    formula = formulas[min(j, len(formulas) - 1)]
    words = {"u": u, "v": v, "x": others[0] if others else "", "y": y, "y1": y - 1}
    return formula.format(**words).removesuffix("^1")
