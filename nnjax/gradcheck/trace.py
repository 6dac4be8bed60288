"""`trace_gradient`: how large what flows back is, line by line, and where it goes NaN."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnjax.display import preformatted
from nnjax.gradcheck.forms import checked_positions, scalar_in
from nnjax.gradcheck.graph import Graph, Place, trace, trace_at
from nnjax.gradcheck.reference import double_precision, to_double
from nnjax.gradcheck.substitute import evaluable

__all__ = ["GradientTrace", "NotFinite", "TracedLine", "trace_gradient"]


@dataclass(frozen=True)
class TracedLine:
    """One line of the function, however often it is passed.

    Attributes:
        file, line, source: where it is, and its text.
        variable: what it assigns to, None where it is not known.
        values: the largest absolute value that it calculates, at each visit.
        cotangents: the largest absolute derivative of f with respect to that, at each visit.
    """

    file: str
    line: int
    source: str
    variable: str | None
    values: tuple[float, ...]
    cotangents: tuple[float, ...]


@dataclass(frozen=True)
class NotFinite:
    """Where NaN or infinity comes up first.

    Attributes:
        kind: "NaN" or "infinity".
        backward: whether it comes up on the way back, not in the function itself.
        cause: what happens there, in a sentence.
        file, line, source: where that is; None, 0, "" where it is not known.
    """

    kind: str
    backward: bool
    cause: str
    file: str | None
    line: int
    source: str


@dataclass(frozen=True)
class GradientTrace:
    """What flows back through a function.

    Attributes:
        value: of the function.
        lines: in the order of the calculation.
        not_finite: where value or gradient stop being finite; None where they are finite.
        bounds: between which cotangents were asked to lie, None if they were not.
        outside: the lines that leave the bounds, the one nearest to the output first.
    """

    value: float
    lines: tuple[TracedLine, ...]
    not_finite: NotFinite | None
    bounds: tuple[float, float] | None
    outside: tuple[TracedLine, ...]

    @property
    def ok(self) -> bool:
        """Whether everything is finite and within the bounds."""
        return self.not_finite is None and not self.outside

    def to_json(self, indent: int | None = 2) -> str:
        """Return everything as JSON; numbers that are not finite become strings."""

        def plain(node):
            if isinstance(node, dict):
                return {key: plain(value) for key, value in node.items()}
            if isinstance(node, (list, tuple)):
                return [plain(value) for value in node]
            return str(node) if isinstance(node, float) and not np.isfinite(node) else node

        data = {**dataclasses.asdict(self), "ok": self.ok}
        return json.dumps(plain(data), indent=indent, ensure_ascii=False)

    def _repr_html_(self) -> str:
        return preformatted(str(self))

    def __str__(self) -> str:
        said = [f"f = {self.value:.6g}; the largest |value| of each line and |∂f/∂value| there"]
        if self.not_finite is not None:
            found = self.not_finite
            where = f"{Path(found.file).name}, line {found.line}" if found.file else "f"
            way = "on the way back" if found.backward else "in the function itself"
            said = [f"{found.kind} comes up first in {where}, {way}:", f"    {found.source}"]
            said += [found.cause]
        for line in self.outside[:1]:
            low, high = self.bounds or (0.0, np.inf)
            said.append(
                f"Cotangents leave {low:g} to {high:g} first in line {line.line}, seen from the "
                f"output: {_span(line.cotangents)}."
            )
        rows = [("line", "visits", "|value|", "|cotangent|", "")]
        for line in self.lines:
            sizes = _span(line.values[-1:]), _span(line.cotangents)
            rows.append((str(line.line), str(len(line.values)), *sizes, line.source))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        for row in rows:
            cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=False)]
            said.append(f"  {'  '.join(cells)}  {row[4]}"[:80].rstrip())
        return "\n".join(said)


def trace_gradient(
    f: Callable,
    *args: Any,
    argnums: int | Sequence[int] = 0,
    bounds: tuple[float, float] | None = None,
) -> GradientTrace:
    """Return how large the cotangent of every line of f is, and where NaN or infinity begins.

    The cotangent of a value v is ∂f/∂v: where it vanishes or explodes, learning stops. In float64.

    Args:
        f: f(*args) -> a scalar, of JAX or NumPy.
        *args: arguments.
        argnums: those that the gradient is for.
        bounds: (low, high), between which |∂f/∂v| should lie in every line.

    Raises:
        TypeError: if f returns no scalar, or JAX cannot trace it.
        ValueError: if bounds are not two numbers, the smaller one first.

    Example:
        >>> import jax.numpy as jnp
        >>> def f(x):
        ...     r = jnp.sqrt(x)
        ...     return jnp.sum(jnp.where(x > 0, r, 0.0))
        >>> found = trace_gradient(f, jnp.array([0.0, 4.0])).not_finite
        >>> found.kind, found.backward
        ('NaN', True)
        >>> "0 · ∞" in found.cause
        True
    """
    if bounds is not None and not (len(bounds) == 2 and 0 <= bounds[0] < bounds[1]):
        raise ValueError(f"bounds is {bounds!r}; expected (low, high) with 0 <= low < high")
    with double_precision(), np.errstate(all="ignore"):
        args = to_double(args)
        positions = checked_positions(argnums, args)
        function, untraceable, value = evaluable(f, args, positions, scalar_in)
        if untraceable:
            raise TypeError(untraceable)
        if np.shape(value) != ():
            raise TypeError(
                f"f returns an array of shape {np.shape(value)}; a gradient needs a real scalar: "
                "return the sum"
            )
        graph = trace_at(trace(function, args), args, positions, opaque=True)
        cotangents, flows = graph.backward()
        back = {node: g[0] for node, g in cotangents.items()}
        lines = _lines(graph, back)
        outside = ()
        if bounds is not None:
            low, high = bounds
            outside = tuple(
                line
                for line in reversed(lines)
                if not all(low <= size <= high for size in line.cotangents)
            )
        found = _forward(graph) or _backward(graph, back, {e: g[0] for e, g in flows.items()})
        value = float(graph.values[graph.output])
        return GradientTrace(value, lines, found, bounds, outside)


def _lines(graph: Graph, cotangents) -> tuple[TracedLine, ...]:
    found: dict[tuple[str, int], list[tuple]] = {}
    places: dict[tuple[str, int], Place] = {}
    placed = [(e.place, e) for e in graph.equations if graph.active.intersection(e.outputs)]
    placed = [(place, e) for place, e in placed if place is not None]
    for key, run in itertools.groupby(placed, lambda pair: (*pair[0][:2], pair[1].run)):
        *_, (place, last) = run
        places.setdefault(key[:2], place)
        node = next(o for o in last.outputs if o in graph.active)
        sizes = _largest(graph.values[node]), _largest(cotangents.get(node, 0.0))
        found.setdefault(key[:2], []).append(sizes)
    return tuple(
        TracedLine(
            key[0],
            key[1],
            places[key].source,
            places[key].target,
            tuple(size for size, _ in visits),
            tuple(size for _, size in visits),
        )
        for key, visits in found.items()
    )


def _largest(array) -> float:
    """Return the largest absolute value; NaN where there is one."""
    return float(np.max(np.abs(np.asarray(array, np.float64)), initial=0.0))


def _span(sizes) -> str:
    low, high = min(sizes), max(sizes)
    return f"{low:.2g}" if low == high or np.isnan(low) else f"{low:.2g} … {high:.2g}"


# Where it stops being finite.


def _finite(value) -> bool:
    array = np.asarray(value)
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _forward(graph: Graph) -> NotFinite | None:
    """Follow a value that is not finite back to the operation that makes it of finite ones."""
    node = graph.output
    if _finite(graph.values[node]):
        return None
    while True:
        k = graph.producer.get(node)
        if k is None:  # an argument, or a constant
            name = graph.inputs.get(node, "a constant")
            kind = _kind(graph.values[node])
            return NotFinite(kind, False, f"{name} holds it already.", None, 0, "")
        equation = graph.equations[k]
        bad = [n for n in equation.inputs if not _finite(graph.values[n])]
        made = [n for n in bad if n in graph.producer or n in graph.inputs]
        if not made:
            return _at(equation, _kind(graph.values[node]), False, _in_words(graph, equation, node))
        node = made[0]


def _in_words(graph, equation, node) -> str:
    value = np.asarray(graph.values[node])
    at = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
    operands = []
    for n in equation.inputs:
        array = np.asarray(graph.values[n])
        if array.dtype.kind == "f" and array.shape in (value.shape, ()):
            operands.append(f"{float(array[at] if array.shape else array):.6g}")
    of = f"{equation.name} of {' and '.join(operands)}" if operands else equation.name
    return f"{of} is {value[at]}{f' (entry {list(at)})' if at else ''}."


def _backward(graph: Graph, cotangents, flows) -> NotFinite | None:
    """Follow what flows back and is not finite up to the operation that makes it of finite."""
    node = next((leaf for leaf in graph.leaves if not _finite(cotangents[leaf])), None)
    while node is not None:
        bad = [e for e in graph.consumers.get(node, ()) if e in flows and not _finite(flows[e])]
        if not bad:
            return None
        k, j = bad[0]
        equation = graph.equations[k]
        node = next((n for n in equation.outputs if not _finite(cotangents.get(n, 0.0))), None)
        if node is None:
            return _steep(graph, k, j, cotangents, flows[k, j])
    return None


def _steep(graph, k, j, cotangents, flow) -> NotFinite:
    equation = graph.equations[k]
    at = tuple(int(i) for i in np.argwhere(~np.isfinite(flow))[0])
    value = np.asarray(graph.values[equation.inputs[j]])[at]
    cause = f"the derivative of {equation.name} is not finite where its operand is {value:.6g}"
    arriving = np.asarray(cotangents[equation.outputs[0]])
    if arriving.shape == flow.shape and arriving[at] == 0:
        cause += (
            "; nothing flows back there, and 0 · ∞ is NaN: give a value that is safe to the branch "
            "that jnp.where does not take, too"
        )
    return _at(equation, _kind(flow), True, f"{cause[0].upper()}{cause[1:]}.")


def _kind(value) -> str:
    return "NaN" if np.isnan(np.asarray(value)).any() else "infinity"


def _at(equation, kind, backward, cause) -> NotFinite:
    place = equation.place
    if place is None:
        return NotFinite(kind, backward, cause, None, 0, "")
    return NotFinite(kind, backward, cause, place.file, place.line, place.source)
