"""The ways in which people go wrong at one operation of a backward pass.

At an edge of f's graph, from the operand u of an operation to its result v, a backward pass takes
what arrives at v, written d[v], and makes of it what flows on to u. A `Slip` is something else made
of it: nothing, a multiple, the derivative of another function or at another variable, another
partner in the product, the wrong axes. Each is one small function; the words name u, v and whatever
variable of f is mixed up with them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from nnjax.gradcheck.graph import MOVES, TOTAL, Graph, derivative, sum_to
from nnjax.gradcheck.places import Edge, Site, Spot

__all__ = ["FACTOR", "Family", "Flow", "Slip", "families", "slips"]


# The name of the slip whose words are those of the number found.
FACTOR = ""


class Flow(NamedTuple):
    """What a slip may look at: one edge at one point, in one turn of a loop.

    Attributes:
        spot: the point.
        turn: the turn of the loop in which the edge lies.
        edge: (k, j).
        arriving: d[v].
        flow: what should flow on to u.
        cotangents, which: of the nodes calculated later, for passes side by side, and which it is.
    """

    spot: Spot
    turn: int
    edge: Edge
    arriving: np.ndarray
    flow: np.ndarray
    cotangents: Mapping[int, np.ndarray]
    which: int

    @property
    def partial(self) -> Any:
        """∂v/∂u of an elementwise operation."""
        partials = self.spot.graph.partials(self.edge[0])
        assert partials is not None
        return partials[self.edge[1]]

    @property
    def inputs(self) -> list[Any]:
        """The operands of the operation."""
        return [self.spot.graph.values[n] for n in self.spot.graph.equations[self.edge[0]].inputs]

    def reduced(self, g: np.ndarray) -> np.ndarray:
        """Sum over the axes along which u was spread."""
        return sum_to(g[None], self.flow.shape)[0]

    def pull(self, g: np.ndarray) -> np.ndarray:
        """Return what would flow on to u if g arrived at v."""
        k, j = self.edge
        return self.spot.graph.pull_back(k, [g[None]])[j][0]

    def pull_at(self, operand: int, value: Any) -> np.ndarray:
        """Return what would flow on to u if another operand had this value."""
        k, j = self.edge
        equation, inputs = self.spot.graph.equations[k], self.inputs
        own = inputs[operand]
        inputs[operand] = np.broadcast_to(value, np.shape(own)).astype(own.dtype)
        graph = self.spot.graph
        if graph.partials(k) is not None:
            return self.reduced(self.arriving * derivative(equation, inputs, j))
        return graph.passage_at(k, inputs).pull({0: self.arriving[None]})[j][0]

    def value(self, family: Family, shift: int = 0) -> np.ndarray:
        """Return the value of a variable in this turn, or some turns later; 0 beyond the last."""
        values, nodes = self.spot.graph.values, family.nodes
        if len(nodes) == 1:
            return values[nodes[0]]
        if 0 <= self.turn + shift < len(nodes):
            return values[nodes[self.turn + shift]]
        return np.zeros_like(values[nodes[self.turn]])


class Slip(NamedTuple):
    """One way to go wrong at a site.

    Attributes:
        name: in the vocabulary of findings.
        sentence: what went wrong.
        have: what flows on to u, as a formula.
        change: (flow, t) -> what flows on to u instead.
        cost: how far-fetched it is; the plainest explanation has the least.
        fitted: whether the number t is to be found.
        number: what t is where it is not.
        at: the equation at which a person would look for it; None for that of the site.
    """

    name: str
    sentence: str
    have: str
    change: Callable[[Flow, float], Any]
    cost: float
    fitted: bool = False
    number: float = 1.0
    at: int | None = None


class Family(NamedTuple):
    """A variable of f: one node, or one in every turn of a loop.

    Attributes:
        name: what the user calls it.
        nodes: one per turn.
        plain: whether it is a variable of the user's, not a step within an expression.
    """

    name: str
    nodes: tuple[int, ...]
    plain: bool


def families(graph: Graph) -> list[Family]:
    """Return the variables of f, those of a loop with all their turns."""
    found = {(node,): Family(name, (node,), True) for node, name in graph.inputs.items()}

    def enter(nodes, name):
        if all(jnp.issubdtype(graph.values[n].dtype, np.number) for n in nodes):  # no random keys
            found.setdefault(nodes, Family(name, nodes, not graph.inner(nodes[-1])))

    spot = {k: i for i, group in enumerate(graph.groups) for k in group}
    for group in graph.groups:
        first = graph.equations[group[0]]
        if first.name != "broadcast_in_dim" or graph.inputs.get(first.inputs[0]) is None:
            for i in range(len(first.outputs)):
                nodes = tuple(graph.equations[k].outputs[i] for k in group)
                enter(nodes, graph.name(nodes[-1]))
                # What a loop leaves behind is a variable of its own.
                inside = {spot[k] for k, _ in graph.uses.get(nodes[0], ())}
                if {spot[k] for k, _ in graph.uses.get(nodes[-1], ())} - inside:
                    enter(nodes[-1:], graph.name(nodes[-1]))
    for group in graph.groups:
        for j in range(len(graph.equations[group[0]].inputs)):
            nodes = tuple(graph.equations[k].inputs[j] for k in group)
            if len(set(nodes)) > 1:
                enter(nodes, f"{graph.name(nodes[-1])} of the step before")
    return list(found.values())


def slips(graph: Graph, where: Site, known: list[Family]) -> Iterator[Slip]:
    """Return the ways to go wrong at a site.

    Args:
        graph: at any of the points.
        where: the site.
        known: `families(graph)`.
    """
    k, _j = where.edges[0]
    if where.siblings:
        yield _interchange(graph, where)
        return
    fitting = [f for f in known if len(f.nodes) in (1, where.turns)]
    yield Slip(FACTOR, "", "", lambda e, t: t * e.flow, 1.0, fitted=True)
    if where.serial:  # where the gradient is no straight line in t
        for number in (-1.0, 2.0, 0.5, *_likely_factors(graph, k, where.nodes[0])):
            yield Slip(FACTOR, "", "", lambda e, t, c=number: c * e.flow, 1.0, number=number)
    if len(where.edges) > 2:
        yield from _turns(where)
    yield from _rearranged(graph, where)
    if k == TOTAL:
        yield from _wholes(graph, where, fitting)
    else:
        yield from _later(graph, where)
        if graph.partials(k) is not None:
            yield from _elementwise(graph, where, fitting)
        else:
            yield from _operations(graph, where, fitting)
    yield from _powers(graph, where, fitting)


def _interchange(graph, where):
    """What arrives at two variables of one expression, each in place of the other."""
    one, two = where.nodes
    other = {one: two, two: one}
    a, b = graph.name(one), graph.name(two)
    return Slip(
        "operands interchanged",
        f"what is carried back into `{a}` and into `{b}` is interchanged",
        f"d[{b}] for d[{a}], and d[{a}] for d[{b}]",
        lambda e, t: e.spot.cotangents[other[e.edge[1]]][0],
        1.7,
    )


def _likely_factors(graph, k, node) -> Iterator[float]:
    """Yield what people forget or add where an operation is done: an exponent, a sum for a mean."""
    if k == TOTAL:
        return
    exponent = abs(graph.equations[k].params.get("y", 1))
    if exponent > 2:
        yield 1 / exponent
    spread = np.size(graph.values[graph.equations[k].outputs[0]]) / max(
        np.size(graph.values[node]), 1
    )
    if spread > 2 and graph.partials(k) is not None:
        yield from (1 / spread, spread)


def _names(graph, where):
    k, j = where.edges[-1]
    if k == TOTAL:
        return graph.name(j), graph.name(j)
    return graph.name(graph.equations[k].inputs[j]), graph.name(graph.equations[k].outputs[0])


def _turns(where):
    n = len(where.edges)
    for name, chosen in (("last", where.edges[-1]), ("first", where.edges[0])):
        yield Slip(
            f"{name} step only" + (" (carry dropped)" if where.serial and name == "first" else ""),
            f"only the {name} of {n} steps counts",
            f"that of the {name} step alone",
            lambda e, t, chosen=chosen: e.flow * (e.edge == chosen),
            1.9,
        )
        yield Slip(
            f"{name} step left out",
            f"the {name} of {n} steps is left out",
            f"without the {name} step",
            lambda e, t, chosen=chosen: e.flow * (e.edge != chosen),
            2.0,
        )


def _rearranged(graph, where):
    """What flows on, or what arrives before it is carried on, turned or shifted."""
    k, _ = where.edges[0]
    u, v = _names(graph, where)
    for words, have, move, name, cost in _moves(graph.shape(where.nodes[0])):
        yield Slip(
            name,
            f"what is carried back into `{u}` {words}",
            f"d[{u}], {have}",
            lambda e, t, move=move: move(e.flow),
            cost,
        )
    if k == TOTAL or len(graph.equations[k].outputs) != 1:
        return
    shape = graph.shape(graph.equations[k].outputs[0])
    for words, have, move, name, cost in _moves(shape):
        yield Slip(
            name,
            f"what arrives at `{v}` {words} before it is carried on to `{u}`",
            f"d[{v}], {have}",
            lambda e, t, move=move: e.pull(move(e.arriving)),
            cost + 0.05,
        )
    copied = graph.equations[k].name in MOVES or graph.partials(k) is not None
    for axis, index in itertools.product(range(len(shape)), (0, -1)):
        if shape[axis] > 1:
            which = "last" if index else "first"
            yield Slip(
                f"{which} copy only" if copied else f"{which} example only",
                f"of what arrives at `{v}` only the {which} entry along axis {axis} is carried "
                f"back into `{u}`, in place of their sum",
                f"d[{v}][{index}]" if axis == 0 else f"d[{v}], entry {index} of axis {axis}",
                lambda e, t, axis=axis, index=index: e.pull(_only(e.arriving, axis, index)),
                2.0,
            )


def _moves(shape) -> Iterator[tuple[str, str, Callable, str, float]]:
    """Yield what people do to the entries of an array: in words, as a formula, the name, the cost.

    Of a shape alone it follows which of them make sense.
    """
    if len(shape) > 1 and shape[-1] == shape[-2] > 1:
        yield "is transposed", "transposed", lambda a: np.swapaxes(a, -1, -2), "transposed", 1.5
    for axis in (axis for axis, size in enumerate(shape) if size > 1):
        along = f"along axis {axis}"
        for by, (shift, cost) in itertools.product((1, -1), ((np.roll, 2.2), (_shifted, 2.3))):
            yield (
                f"is shifted by one {along}",
                f"shifted by {by} {along}",
                lambda a, shift=shift, by=by, axis=axis: shift(a, by, axis),
                "index shift",
                cost,
            )
        yield (
            f"runs backwards {along}",
            f"reversed {along}",
            lambda a, axis=axis: np.flip(a, axis),
            "index reversed",
            2.3 if shape[axis] > 2 else 2.4,
        )
    for axes in ((0, 1), (-2, -1))[: max(len(shape) - 1, 0)]:
        turned = "turned by 180°"
        yield f"is {turned}", turned, lambda a, axes=axes: np.flip(a, axes), turned, 2.2


def _shifted(array, by, axis):
    out = np.roll(array, by, axis)
    np.moveaxis(out, axis, 0)[0 if by > 0 else -1] = 0
    return out


def _only(array, axis, index):
    out = np.zeros_like(array)
    np.moveaxis(out, axis, 0)[index] = np.moveaxis(array, axis, 0)[index]
    return out


def _wholes(graph, where, fitting):
    """All that arrives at a variable."""
    node = where.nodes[0]
    u, _ = _names(graph, where)
    yield Slip(
        "normalised",
        f"what is carried back into `{u}` is scaled to length {{t}}, whatever its own length",
        f"{{t}} · d[{u}] / ‖d[{u}]‖",
        lambda e, t: t * e.flow / np.linalg.norm(e.flow),
        2.2,
        fitted=True,
    )
    if node in graph.leaves:
        yield Slip(
            "L2 term added or missing",
            f"a multiple of `{u}` itself is added",
            f"d[{u}] + {{t}} · {u}",
            lambda e, t: e.flow + t * e.spot.graph.values[e.edge[1]],
            2.4,
            fitted=True,
        )
        for family in fitting:
            (later, *_) = family.nodes
            if later in graph.active and graph.shape(later) == graph.shape(node) != ():
                yield Slip(
                    "derivative missing",
                    f"what arrives at `{family.name}` is taken for the gradient of `{u}`",
                    f"d[{family.name}]",
                    lambda e, t, later=later: e.spot.cotangents[later][0],
                    2.3,
                )
        for other in graph.leaves:
            if other != node and graph.shape(other) == graph.shape(node):
                yield Slip(
                    "operands interchanged",
                    f"the gradient of `{graph.name(other)}` stands in place of that of `{u}`",
                    f"d[{graph.name(other)}]",
                    lambda e, t, other=other: e.spot.cotangents[other][0],
                    1.7,
                )
    edges = graph.consumers.get(node, [])
    if len(where.nodes) == 1 and len(edges) > 2:
        for name, (k, j) in (("last", edges[-1]), ("first", edges[0])):
            yield Slip(
                "overwritten instead of added",
                f"`{u}` is used in {len(edges)} places; only what the {name} of them carries back "
                "counts",
                f"that of the {name} use alone",
                lambda e, t, edge=(k, j): e.spot.flow(edge),
                1.6,
            )


def _later(graph, where):
    """The cotangent of a later variable, which v's own follows from."""
    k, _j = where.edges[-1]
    if len(graph.equations[k].outputs) != 1:
        return
    u, v = _names(graph, where)
    node = graph.equations[k].outputs[0]
    for steps in range(1, 6):
        edges = graph.consumers.get(node, [])
        if len(edges) != 1 or graph.partials(edges[0][0]) is None:
            return
        node = graph.equations[edges[0][0]].outputs[0]
        if graph.shape(node) != graph.shape(graph.equations[k].outputs[0]):
            return
        if graph.inner(node):
            continue
        yield Slip(
            "derivative missing",
            f"what `{v}` carries back into `{u}` is calculated from the error of "
            f"`{graph.name(node)}`, without the derivative in between",
            f"from d[{graph.name(node)}] instead of d[{v}]",
            lambda e, t, steps=steps: e.pull(_error_after(e, steps)),
            1.7 + 0.05 * steps,
        )


def _error_after(e, steps):
    node = _equation(e).outputs[0]
    for _ in range(steps):
        ((k, _),) = e.spot.graph.consumers[node]
        node = e.spot.graph.equations[k].outputs[0]
    return e.cotangents[node][e.which]


# Derivatives of functions that people take for one another, given the argument or the result.
OTHERS: dict[str, Callable] = {
    "1 − {v}²": lambda v: 1 - v**2,
    "{v} (1 − {v})": lambda v: v * (1 - v),
    "1 − {v}": lambda v: 1 - v,
    "1 + {v}": lambda v: 1 + v,
    "[{v} > 0]": lambda v: v > 0,
    "exp({v})": np.exp,
    "{v}": lambda v: v,
    "2 {v}": lambda v: 2 * v,
    "1/{v}": lambda v: 1 / v,
    "−1/{v}²": lambda v: -1 / v**2,
    "1/(2 {v})": lambda v: 1 / (2 * v),
    "1/(2 √{v})": lambda v: 1 / (2 * np.sqrt(v)),
    "cos({v})": np.cos,
    "sin({v})": np.sin,
    "−sin({v})": lambda v: -np.sin(v),
    "σ({v})": lambda v: 1 / (1 + np.exp(-v)),
    "σ'({v})": lambda v: np.exp(-np.abs(v)) / (1 + np.exp(-np.abs(v))) ** 2,
    "1 − tanh({v})²": lambda v: 1 - np.tanh(v) ** 2,
    "tanh({v})": np.tanh,
    "1/(1 + {v}²)": lambda v: 1 / (1 + v**2),
    "sign({v})": np.sign,
}
# Operations whose derivative is a matter of calculus, rather than another factor of a product.
_FACTORS = frozenset(["mul", "div", "add", "sub", "add_any", "neg", "copy"])


def _elementwise(graph, where, fitting):
    k, j = where.edges[0]
    equation = graph.equations[k]
    u, v = _names(graph, where)
    partial = np.asarray(graph.partials(k)[j])
    partner = equation.inputs[1 - j] if len(equation.inputs) == 2 else None
    # A single number differs from point to point, where calculus says so.
    varying = partial.size == 1 and (equation.name not in _FACTORS or partner in graph.active)
    constant = not varying and np.ptp(partial) <= 1e-12 * np.max(np.abs(partial), initial=0)
    if not constant:
        if equation.name in ("select_n", "max", "min", "clamp"):
            words = "derivative missing (mask)", f"the mask of `{v}` is left out"
        elif partner is not None and equation.name in _FACTORS:
            factor = graph.name(partner)
            words = "derivative missing (factor left out)", f"the factor `{factor}` is left out"
        else:
            words = "derivative missing", f"the derivative of `{v}` is left out"
        yield Slip(*words, f"d[{v}]", lambda e, t: e.reduced(e.arriving), 1.2)
        if equation.name == "div" and j == 1:
            yield Slip(
                "derivative missing",
                f"the derivative of `{v}` is left out up to its sign",
                f"−d[{v}]",
                lambda e, t: e.reduced(-e.arriving),
                1.6,
            )
        if equation.name not in ("select_n", "max", "min", "clamp"):
            yield Slip(
                "derivative applied twice",
                f"the derivative of `{v}` is multiplied by twice",
                f"d[{v}] · (∂/∂u)²",
                lambda e, t: e.reduced(e.arriving * e.partial**2),
                1.4,
            )
        else:
            yield Slip(
                "mask inverted",
                f"the mask of `{v}` lets through what it should stop",
                f"d[{v}] where it should be 0",
                lambda e, t: e.reduced(e.arriving * (1 - e.partial)),
                1.5,
            )
    if equation.name in _FACTORS:
        if partner is not None and equation.name in ("mul", "div"):
            yield from _partners(graph, where, fitting, 1 - j)
        return
    if equation.params.get("y") == 2 or equation.name == "square":
        yield from _differences(graph, where)
    for other in () if constant else _others(graph, where, fitting, j):
        yield Slip(
            "derivative at another variable" + other.off,
            f"the derivative of `{v}` is taken at `{other.name}` instead of `{u}`",
            f"d[{v}] · ∂({v}) at {other.name}",
            lambda e, t, value=other.value: e.pull_at(j, value(e)),
            other.cost,
        )
    for text, function in OTHERS.items():
        for at, name in ((0, u), (1, v)):
            yield Slip(
                "another function's derivative",
                f"{text.format(v=f'`{name}`')} stands where the derivative of `{v}` belongs",
                f"d[{v}] · {text.format(v=name)}",
                lambda e, t, f=function, at=at: e.reduced(e.arriving * f(_argument(e, at))),
                1.8 + 0.1 * at,
            )


def _differences(graph, where):
    """Another operand in the sum or difference that is squared."""
    _, v = _names(graph, where)
    u = graph.name(where.nodes[-1])
    made = [graph.producer.get(node, -1) for node in where.nodes]
    last = graph.equations[made[-1]]
    if -1 in made or last.name not in ("add", "sub") or len(made) != where.turns:
        return
    for i, term in enumerate(last.inputs):
        nodes = [graph.equations[m].inputs[i] for m in made]
        sign = -1 if i and last.name == "sub" else 1
        name = graph.name(term)
        others = [
            ("wrong partner (one step off)", turn, f"`{name}` of {words} stands in `{u}`", 2.3)
            for turn, words in (_OTHER_TURNS if len(nodes) > 2 else ())
        ]
        left_out = ("left out", None, f"`{name}` is left out of `{u}`", 1.9)
        for kind, turn, sentence, cost in (left_out, *others):

            def change(e, t, turn=turn, nodes=nodes, sign=sign):
                values = e.spot.graph.values
                other = 0.0 if turn is None else values[nodes[turn(e.turn)]]
                j = e.edge[1]
                return e.pull_at(j, e.inputs[j] + sign * (other - values[nodes[e.turn]]))

            have = f"d[{v}] with another {u}"
            yield Slip(kind, sentence, have, change, cost, at=made[-1])


def _equation(e):
    return e.spot.graph.equations[e.edge[0]]


def _argument(e, at):
    return e.inputs[e.edge[1]] if at == 0 else e.spot.graph.values[_equation(e).outputs[0]]


def _fits(graph, family, node):
    """Whether a variable can be multiplied with a node's value, entry by entry."""
    try:
        shape = np.broadcast_shapes(graph.shape(family.nodes[0]), graph.shape(node))
    except ValueError:
        return False
    return shape == graph.shape(node)


_OTHER_TURNS: tuple[tuple[Callable[[int], int], str], ...] = (
    (lambda turn: 0, "the first step"),
    (lambda turn: -1, "the last step"),
    (lambda turn: -1 - turn, "the steps in reverse"),
)


def _partners(graph, where, fitting, operand):
    """Another variable in place of the other operand of a product."""
    k, _ = where.edges[0]
    _u, v = _names(graph, where)
    node = graph.equations[k].inputs[operand]
    name = graph.name(node)
    if node in graph.leaves and graph.shape(node):
        yield Slip(
            "wrong partner in the product (updated)",
            f"`{name}` has been changed by a step of size {{t}} before it stands here",
            f"d[{v}] with {name} − {{t}} · ∂f/∂{name}",
            lambda e, t: e.pull_at(
                operand, e.spot.graph.values[node] - t * e.spot.right[graph.leaves.index(node)]
            ),
            2.0,
            fitted=True,
        )
    for other in _others(graph, where, fitting, operand) if graph.shape(node) else ():
        yield Slip(
            "wrong partner in the product" + other.off,
            f"`{other.name}` stands where `{name}` belongs",
            f"d[{v}] with {other.name}",
            lambda e, t, value=other.value: e.pull_at(operand, value(e)),
            other.cost,
            at=other.at,
        )


class Other(NamedTuple):
    """What may stand in place of an operand.

    Attributes:
        name: what the user calls it.
        value: flow -> its value.
        cost: how far-fetched it is.
        off: " (one step off)" where it is the right variable of another turn of the loop.
        at: the equation at which a person would look for it; None for that of the operation.
    """

    name: str
    value: Callable[[Flow], Any]
    cost: float
    off: str = ""
    at: int | None = None


def _others(graph, where, fitting, operand) -> Iterator[Other]:
    """Yield what may stand in place of an operand: other variables, and other turns of its own."""
    node = graph.equations[where.edges[0][0]].inputs[operand]
    name, shape = graph.name(node), graph.shape(node)
    right = tuple(graph.equations[k].inputs[operand] for k in where.group)
    result = tuple(graph.equations[k].outputs[0] for k in where.group)
    step = " (one step off)"
    for family in fitting:
        same = family.nodes == right or (len(set(right)) == 1 and family.nodes == right[:1])
        far = 0.3 * (not family.plain or family.nodes == result)
        turns = len(family.nodes)
        if _fits(graph, family, node):
            for shift in (0, 1, -1) if turns > 1 else (0,):
                again = family.name == name and not same
                words = {0: again * " of another step", 1: " of the step after"}
                if not (same and shift == 0):
                    yield Other(
                        family.name + words.get(shift, " of the step before"),
                        lambda e, f=family, s=shift: e.value(f, s),
                        2.0 + far + 0.1 * abs(shift),
                        step * bool(shift or again),
                    )
        for turn, words in _OTHER_TURNS if same and turns > 2 and shape else ():
            yield Other(
                f"{name} of {words}",
                lambda e, f=family, i=turn: e.spot.graph.values[f.nodes[i(e.turn)]],
                2.3,
                step,
                graph.producer[node] if graph.assigned(node) else None,
            )
        if shape[::-1] == graph.shape(family.nodes[0]) and len(shape) == 2 and shape[0] != shape[1]:
            yield Other(f"{family.name}ᵀ", lambda e, f=family: e.value(f).T, 2.1 + far)


def _operations(graph, where, fitting):
    """Operations that mix the entries of their operands."""
    k, j = where.edges[0]
    equation = graph.equations[k]
    u, v = _names(graph, where)
    for operand, node in enumerate(equation.inputs):
        shape = graph.shape(node)
        if operand == j or not jnp.issubdtype(graph.values[node].dtype, np.floating):
            continue
        name = graph.name(node)
        if len(shape) > 1 and shape[-1] == shape[-2] > 1:
            yield Slip(
                "not transposed",
                f"`{name}` is transposed where it should not be, or not where it should",
                f"d[{v}] with ({name})ᵀ in place of {name}",
                lambda e, t, o=operand: e.pull_at(o, np.swapaxes(e.inputs[o], -1, -2)),
                1.4,
            )
        yield from _partners(graph, where, fitting, operand)
        if equation.name == "conv_general_dilated" and len(shape) == 4:
            for axes in ((0, 1), (1, 2), (2, 3)):
                yield Slip(
                    "not turned by 180°",
                    f"`{name}` is turned by 180° where it should not be, or not where it should",
                    f"d[{v}] with {name} turned",
                    lambda e, t, o=operand, a=axes: e.pull_at(o, np.flip(e.inputs[o], a)),
                    1.6,
                )
    if equation.name == "transpose":
        yield Slip(
            "axes not interchanged (not transposed)",
            f"what arrives at `{v}` is brought to the shape of `{u}` without interchanging axes",
            f"d[{v}].reshape",
            lambda e, t: e.arriving.reshape(e.flow.shape),
            1.5,
        )
    if equation.name in MOVES and len(where.group) > 1 and not where.serial:
        yield from _windows(graph, where)
    if equation.name in MOVES:
        for name, order in (("last", 1), ("first", -1)):
            copy = " (first copy only)" if name == "first" else ""
            yield Slip(
                f"overwritten instead of added{copy}",
                f"of the copies of an entry of `{u}` that `{v}` holds, only the {name} one counts",
                f"d[{u}][index] = d[{v}] (= for +=)",
                lambda e, t, order=order: _overwritten(e, order),
                1.7,
            )
    if equation.name in ("reduce_max", "reduce_min", "argmax"):
        yield Slip(
            "derivative missing (mask)",
            f"what arrives at `{v}` goes to every entry, not to the largest alone",
            f"d[{v}], everywhere",
            lambda e, t: np.broadcast_to(
                np.expand_dims(e.arriving, _equation(e).params["axes"]), e.flow.shape
            ),
            1.6,
        )
    if equation.name == "split":
        sizes, axis = equation.params["sizes"], equation.params["axis"]
        for a, b in itertools.combinations(range(len(sizes)), 2):
            if sizes[a] == sizes[b]:
                yield Slip(
                    "operands interchanged",
                    f"what comes back from parts {a} and {b} of `{u}` is interchanged",
                    f"d[part {b}] for part {a}, and d[part {a}] for part {b}",
                    lambda e, t, a=a, b=b: _interchanged(e.flow, sizes, axis, a, b),
                    1.7,
                )
    if equation.name == "cumsum":
        yield Slip(
            "not transposed",
            f"the sums of `{v}` run forwards where they should run backwards",
            f"cumsum(d[{v}])",
            lambda e, t: _equation(e).function(e.arriving)[0],
            1.6,
        )
    if equation.name == "reduce_sum":
        yield Slip(
            "left out (diagonal only)",
            f"the sum in `{v}` is left out: every entry carries back its own share alone",
            "the diagonal of the Jacobian alone",
            lambda e, t: _own_share(e),
            1.8,
        )
        right = equation.params["axes"]
        for axis in range(len(graph.shape(equation.inputs[0]))):
            if (axis,) != tuple(right):
                yield Slip(
                    "summed over the wrong axis",
                    f"what belongs to the sum in `{v}` is summed over axis {axis}, not over "
                    f"{', '.join(map(str, right))}",
                    f"sum over axis {axis}",
                    lambda e, t, axis=axis: np.broadcast_to(
                        _own_share(e).sum(axis=axis, keepdims=True), e.flow.shape
                    ),
                    1.85,
                )
                yield Slip(
                    "summed over the wrong axis",
                    f"what belongs to the sum in `{v}` is summed over axis {axis}, not over "
                    f"{', '.join(map(str, right))}",
                    f"sum over axis {axis}, of what is divided by `{v}` already",
                    lambda e, t, axis=axis: _normalised_share(e, axis),
                    1.9,
                )


def _windows(graph, where):
    """What the turns of a loop take from one array, put back elsewhere, or over one another."""
    u, v = _names(graph, where)
    for turn, words in _OTHER_TURNS:
        yield Slip(
            "index shift",
            f"what arrives at `{v}` is carried back to where {words} takes it from `{u}`",
            f"d[{u}][index of {words}] += d[{v}]",
            lambda e, t, i=turn: _pull_through(e, where.group[i(e.turn)], e.arriving),
            2.3,
        )
    for name, later in (("last", True), ("first", False)):
        yield Slip(
            "overwritten instead of added",
            f"where the turns of the loop take the same entry of `{u}`, only the {name} one counts",
            f"d[{u}][index] = d[{v}] (= for +=)",
            lambda e, t, later=later: _uncovered(e, where.group, later),
            1.9,
        )


def _pull_through(e, k, arriving):
    return e.spot.graph.pull_back(k, [arriving[None]])[e.edge[1]][0]


def _uncovered(e, group, later):
    """Return what flows on, but for the entries that later turns, or earlier ones, take too."""
    ones = np.ones_like(e.arriving)
    rest = group[e.turn + 1 :] if later else group[: e.turn]
    return e.flow * (sum(_pull_through(e, k, ones) for k in rest) == 0)


def _interchanged(array, sizes, axis, a, b):
    parts = np.split(array, np.cumsum(sizes)[:-1], axis)
    parts[a], parts[b] = parts[b], parts[a]
    return np.concatenate(parts, axis)


def _overwritten(e, order):
    """Carry copies back by assignment, so that of equal indices one alone counts.

    Copies of copies are one copying, such as two calls of repeat.
    """
    graph, (k, j) = e.spot.graph, e.edge
    operand = e.inputs[j]
    index = np.arange(operand.size).reshape(operand.shape)
    while True:
        equation = graph.equations[k]
        if equation.name == "convert_element_type":
            raise ValueError("copies nothing")
        inputs = [graph.values[n] for n in equation.inputs]
        inputs[j] = index
        index, node = np.asarray(equation.function(*inputs)[0]), equation.outputs[0]
        edges = graph.consumers.get(node, [])
        if len(edges) != 1 or graph.equations[edges[0][0]].name not in MOVES:
            break
        k, j = edges[0]
    index = index.ravel()
    if len(np.unique(index)) == len(index):
        raise ValueError("copies nothing")
    arriving = e.cotangents[node][e.which].ravel()
    out = np.zeros(operand.size)
    out[index[::order]] = arriving[::order]
    return out.reshape(operand.shape)


def _own_share(e):
    """Return what an entry would carry back if the sum were over itself alone."""
    graph = e.spot.graph
    node = _equation(e).outputs[0]
    along = np.ones(graph.shape(node))
    for _ in range(12):
        edges = graph.consumers[node]
        if len(edges) != 1:
            raise ValueError("several uses")
        k, j = edges[0]
        following = graph.equations[k]
        partials, out = graph.partials(k), following.outputs[0]
        if partials is not None:
            along = along * partials[j]
        elif following.name in MOVES:
            others = [graph.values[n] for n in following.inputs[1:]]
            along = np.asarray(following.function(along, *others)[0])
        else:
            raise ValueError("something else happens in between")
        if graph.shape(out) == e.flow.shape:
            return np.broadcast_to(e.cotangents[out][e.which] * along, e.flow.shape)
        node = out
    raise ValueError("something else happens in between")


def _normalised_share(e, axis):
    """Sum over an axis what each entry carries back, where the sum divides what it is taken of."""
    total = e.spot.graph.values[_equation(e).outputs[0]]
    total = np.expand_dims(total, _equation(e).params["axes"])
    return (_own_share(e) * total).sum(axis=axis, keepdims=True) / total


def _powers(graph, where, fitting):
    """A factor too many or too few: some variable of f, to some power."""
    u, _ = _names(graph, where)
    node = where.nodes[-1]
    out = node if where.edges[0][0] == TOTAL else graph.equations[where.edges[0][0]].outputs[0]
    elementwise = where.edges[0][0] != TOTAL and graph.partials(where.edges[0][0]) is not None
    near = {node, out}
    k, j = where.edges[0]
    calculus = elementwise and (
        graph.equations[k].name not in _FACTORS or (graph.equations[k].name == "div" and j == 1)
    )
    divided, times = _partners_of(graph, node, "div"), _partners_of(graph, node, "mul")
    for family in fitting:
        early = _fits(graph, family, out) and elementwise
        if not family.plain or not (early or _fits(graph, family, node)):
            continue
        if np.size(graph.values[family.nodes[0]]) == 1 and len(fitting) == 1:
            continue
        for p in (-1, 1, -2, 2, -0.5, 0.5, -3, 3):
            at, name, sentence = None, "factor too many", f"a factor `{family.name}`^{p:g} is there"
            if calculus and family.nodes[-1] in near:
                name = "another function's derivative (power)"
                sentence = f"the power of `{family.name}` is wrong by {p:g}"
            elif p == -1:
                name, sentence = "factor left out", f"a factor `{family.name}` is left out"
            elif p == 1:
                sentence = f"a factor `{family.name}` is there once too often"
            if p == -1 and family.nodes == (graph.output,):
                name = "gradient of log f"
                sentence = "the value of f divides it: it is the gradient of log f"
            if (p == 1 and family.nodes[-1] in divided) or (p == -1 and family.nodes[-1] in times):
                at, name = graph.producer[node], "derivative missing (factor left out)"
                sentence = (
                    f"the {'division by' if p == 1 else 'factor'} `{family.name}` is left out"
                )
            yield Slip(
                name,
                f"in what is carried back into `{u}` {sentence}",
                f"d[{u}] · {family.name}^{p:g}",
                (
                    lambda e, t, f=family, p=p: e.reduced(
                        e.arriving * e.partial * _power(e.value(f), p)
                    )
                )
                if early
                else (lambda e, t, f=family, p=p: e.flow * _power(e.value(f), p)),
                2.4
                + (0.0 if abs(p) == 1 else 0.1 if abs(p) == 2 else 0.3)
                - 0.2 * ((calculus and family.nodes[-1] in near) or at is not None)
                + 0.2 * (not calculus and family.nodes[-1] == node),
                at=at,
            )


def _partners_of(graph, node, name) -> set[int]:
    """Return what a node was divided by or multiplied with where it was calculated."""
    k = graph.producer.get(node)
    if k is None or graph.equations[k].name != name:
        return set()
    if name == "div" and graph.equations[k].inputs[0] not in graph.active:
        return set()  # a power, rather than a factor
    found = set()
    for other in graph.equations[k].inputs[1 if name == "div" else 0 :]:
        found.add(other)
        while other in graph.producer and graph.equations[graph.producer[other]].name in MOVES:
            other = graph.equations[graph.producer[other]].inputs[0]
            found.add(other)
    return found


def _power(value, p):
    value = np.asarray(value, float)
    return np.abs(value) ** p if p % 1 else value**p
