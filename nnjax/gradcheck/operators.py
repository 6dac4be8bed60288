"""The operators that turn a right step of a backward pass into a wrong one.

At an edge of f's graph, from the operand u of an operation to its result v, a backward pass takes
what arrives at v, written d[v], and makes of it what flows on to u. The operators are few: `times`
multiplies by something else than the derivative, `instead` puts another value in place of an
operand, `before` and `after` rearrange what arrives or what flows on, `other` takes another
variable's error; `by` is for what is none of these. A `Flow` is what they work on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from nnjax.gradcheck.graph import MOVES, Equation, Graph, derivative, sum_to
from nnjax.gradcheck.places import Edge, Spot

__all__ = [
    "Change",
    "Family",
    "Flow",
    "after",
    "before",
    "by",
    "families",
    "instead",
    "other",
    "times",
]


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


class Flow(NamedTuple):
    """What an operator may look at: one edge at one point, in one turn of a loop.

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
        return [self.spot.graph.values[n] for n in self.equation.inputs]

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
        equation, inputs = self.equation, self.inputs
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

    @property
    def equation(self) -> Equation:
        """The operation."""
        return self.spot.graph.equations[self.edge[0]]

    @property
    def argument(self) -> Any:
        """The value of u."""
        return self.inputs[self.edge[1]]

    @property
    def result(self) -> Any:
        """The value of v."""
        return self.spot.graph.values[self.equation.outputs[0]]

    def in_turn(self, nodes: Sequence[int], turn: Callable[[int], int]) -> Any:
        """Return the value, in another turn, of a variable with a node in each."""
        return self.spot.graph.values[nodes[turn(self.turn)]]

    def transposed(self, family: Family) -> np.ndarray:
        """Return the transpose of a variable."""
        return self.value(family).T

    def power(self, family: Family, p: float) -> np.ndarray:
        """Return a power of a variable."""
        value = np.asarray(self.value(family), float)
        return np.abs(value) ** p if p % 1 else value**p

    def if_edge(self, chosen: Edge, alone: bool) -> np.ndarray:
        """Let one edge of the site alone count, or all the others."""
        return self.flow * ((self.edge == chosen) == alone)

    def flow_along(self, edge: Edge) -> np.ndarray:
        """Return what flows along another edge."""
        return self.spot.flow(edge)

    def from_after(self, steps: int) -> np.ndarray:
        """Carry back the error of the variable that is calculated some steps after v."""
        node = self.equation.outputs[0]
        for _ in range(steps):
            ((k, _),) = self.spot.graph.consumers[node]
            node = self.spot.graph.equations[k].outputs[0]
        return self.pull(self.cotangents[node][self.which])

    def everywhere(self) -> np.ndarray:
        """Carry back to every entry what belongs to one of them."""
        return np.broadcast_to(
            np.expand_dims(self.arriving, self.equation.params["axes"]), self.flow.shape
        )

    def swapped(self, sizes: Sequence[int], axis: int, a: int, b: int) -> np.ndarray:
        """Interchange parts a and b of what flows on, which have these sizes along an axis."""
        parts = np.split(self.flow, np.cumsum(sizes)[:-1], axis)
        parts[a], parts[b] = parts[b], parts[a]
        return np.concatenate(parts, axis)

    def through_turn(self, group: Sequence[int], turn: Callable[[int], int]) -> np.ndarray:
        """Carry d[v] back through the operation of another turn."""
        return self.pull_through(group[turn(self.turn)], self.arriving)

    def pull_through(self, k: int, arriving: np.ndarray) -> np.ndarray:
        """Return what would flow on to u if this arrived at the result of operation k."""
        return self.spot.graph.pull_back(k, [arriving[None]])[self.edge[1]][0]

    def uncovered(self, group: Sequence[int], later: bool) -> np.ndarray:
        """Return what flows on, but for the entries that later turns, or earlier ones, take too."""
        ones = np.ones_like(self.arriving)
        rest = group[self.turn + 1 :] if later else group[: self.turn]
        return self.flow * (sum(self.pull_through(k, ones) for k in rest) == 0)

    def overwritten(self, order: int) -> np.ndarray:
        """Carry copies back by assignment, so that of equal indices one alone counts.

        Copies of copies are one copying, such as two calls of repeat.
        """
        graph, (k, j) = self.spot.graph, self.edge
        operand = self.inputs[j]
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
        arriving = self.cotangents[node][self.which].ravel()
        out = np.zeros(operand.size)
        out[index[::order]] = arriving[::order]
        return out.reshape(operand.shape)

    def own_share(self) -> np.ndarray:
        """Return what an entry would carry back if the sum were over itself alone."""
        graph = self.spot.graph
        node = self.equation.outputs[0]
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
            if graph.shape(out) == self.flow.shape:
                return np.broadcast_to(self.cotangents[out][self.which] * along, self.flow.shape)
            node = out
        raise ValueError("something else happens in between")

    def share(self, axis: int) -> np.ndarray:
        """Return what an entry would carry back if the sum were over this axis."""
        return np.broadcast_to(self.own_share().sum(axis=axis, keepdims=True), self.flow.shape)

    def normalised_share(self, axis: int) -> np.ndarray:
        """As `share`, where the sum divides what it is taken of."""
        total = self.spot.graph.values[self.equation.outputs[0]]
        total = np.expand_dims(total, self.equation.params["axes"])
        return (self.own_share() * total).sum(axis=axis, keepdims=True) / total


Change = Callable[[Flow, float], Any]


def times(factor: Callable[[Flow], Any]) -> Change:
    """Return the edit that multiplies d[v] by a factor in place of ∂v/∂u."""
    return lambda e, t: e.reduced(e.arriving * factor(e))


def instead(operand: int, value: Callable[[Flow], Any]) -> Change:
    """Return the edit that carries d[v] back with another value for an operand."""
    return lambda e, t: e.pull_at(operand, value(e))


def before(move: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Return the edit that rearranges d[v] before it is carried back."""
    return lambda e, t: e.pull(move(e.arriving))


def after(move: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Return the edit that rearranges what flows on to u."""
    return lambda e, t: move(e.flow)


def other(nodes: Mapping[int, int]) -> Change:
    """Return the edit that takes the error of another variable for that of each u."""
    return lambda e, t: e.spot.cotangents[nodes[e.edge[1]]][0]


def by(function: Callable, *given: Any) -> Change:
    """Return the edit that a function of the edge makes, given something more."""
    return lambda e, t: function(e, *given)
