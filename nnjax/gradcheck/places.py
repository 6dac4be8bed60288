"""Where a gradient goes wrong: the places in f from which the whole residual can come.

Write G for the gradient, C for the claim. If what flows back into a variable u is wrong by d, and
everything from u to the inputs was done right, then C − G = (∂u/∂x)ᵀ d. The tangents ∂u/∂x of every
u come from one forward pass, so that least squares tells for each whether such a d exists. The
smaller the number of directions (the rank of ∂u/∂x) that explains all the numbers of the claim, the
stronger the evidence.

Every number is taken relative to the size of its leaf, so that leaves of all sizes count alike.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from nnjax.gradcheck.graph import TOTAL, Graph

__all__ = ["MOST_NUMBERS", "Edge", "Fit", "Site", "Spot", "sites"]

Edge = tuple[int, int]

# Directions to look along: as many as the gradient has numbers, up to these.
MOST_DIRECTIONS = 320
# What is calculated side by side, in numbers.
MOST_NUMBERS = 10_000_000
# What a claim may differ by, relative to the size of a leaf, and still be the one predicted.
TOLERANCE = 1e-8


@dataclass(frozen=True)
class Site:
    """Edges of the graph that come from one operand of one spot in the source.

    Attributes:
        edges: (k, j), operand j of equation k, in the order of the calculation; k is `TOTAL` where
            all that arrives at node j is meant.
        nodes: the operands themselves.
        serial: whether what flows along one of the edges continues to another of them.
        group: the equations of all turns, also of those in which nothing flows back.
        siblings: whether these are two variables that one operation takes.
    """

    edges: tuple[Edge, ...]
    nodes: tuple[int, ...]
    serial: bool
    group: tuple[int, ...]
    siblings: bool = False

    @property
    def turns(self) -> int:
        """In how many turns of a loop the operation is done."""
        return len(self.group) or len(self.edges)

    def turn(self, edge: Edge) -> int:
        """Return the turn in which an edge lies."""
        return self.group.index(edge[0]) if self.group else self.edges.index(edge)


class Fit(NamedTuple):
    """How well a place explains the residual.

    Attributes:
        rank: how many directions there are to choose from.
        residual: for each leaf what is left, relative to its size.
        basis: orthonormal columns that span what the place can change, (K, rank).
    """

    rank: int
    residual: np.ndarray
    basis: np.ndarray


@dataclass(eq=False)
class Spot:
    """One point of comparison: the graph there, what flows back, and the residual.

    Attributes:
        graph: of f at this point.
        claimed: one array a leaf, None where there is none to compare.
        noise: the rounding of the gradient, leaf by leaf.
        edits: mistakes found so far; the residual is what they leave.
        limit: entries of the claim as large as this are clipped, and do not count.
    """

    graph: Graph
    claimed: Sequence[np.ndarray | None]
    noise: Sequence[np.ndarray]
    edits: Mapping[Edge, Callable] = field(default_factory=dict)
    limit: float = np.inf
    shared: dict[str, Any] = field(default_factory=dict)

    def edited(self, edits: Mapping[Edge, Callable]) -> Spot:
        """Return this point with mistakes made."""
        together = dict(edits)
        for edge in edits.keys() & self.edits.keys():  # the earlier mistake first
            one, two = self.edits[edge], edits[edge]
            together[edge] = lambda e, g, flow, c, one=one, two=two: two(
                e, g, one(e, g, flow, c), c
            )
        together = {**self.edits, **together}
        return dataclasses.replace(self, edits=together)

    def trial(self, edits: Mapping[Edge, Callable], count: int) -> np.ndarray:
        """Return what further mistakes do to the gradient, for passes side by side: (count, K)."""
        spot = self.edited(edits)
        cotangents, _ = self.graph.backward(spot.edits, count)
        leaves = [cotangents[leaf] for leaf in self.graph.leaves]
        return self.along(leaves) * self.weights - self.baseline

    @functools.cached_property
    def _backward(self):
        return self.graph.backward(self.edits)

    @property
    def cotangents(self) -> dict[int, np.ndarray]:
        """What arrives at every node, with a leading axis of 1."""
        return self._backward[0]

    def flow(self, edge: Edge) -> np.ndarray:
        """Return what flows along an edge."""
        k, j = edge
        if k == TOTAL:
            return self.cotangents[j][0]
        return self._backward[1][edge][0]

    def arriving(self, edge: Edge) -> np.ndarray:
        """Return what arrives at the equation of an edge, from which the flow is calculated."""
        k, j = edge
        if k == TOTAL:
            return self.cotangents[j][0]
        outputs = self.graph.equations[k].outputs
        return next(self.cotangents[node][0] for node in outputs if node in self.cotangents)

    @property
    def cancelled(self) -> set[int]:
        """The nodes to which nothing is carried back, as it sums to zero whatever the values."""
        return {
            node
            for node, edges in self.graph.consumers.items()
            if node not in self.graph.leaves
            and np.linalg.norm(self.cotangents[node])
            <= 1e-12 * sum(np.linalg.norm(self.arriving(edge)) for edge in edges)
        }

    def without(self, nodes: set[int]) -> Spot:
        """Return this point with nothing carried back through some nodes."""
        graph = dataclasses.replace(self.graph, constants=frozenset(nodes))
        return dataclasses.replace(self, graph=graph, edits={}, shared={})

    @functools.cached_property
    def gradient(self) -> list[np.ndarray]:
        """The gradient, with the mistakes made that are known."""
        return [self.cotangents[leaf][0] for leaf in self.graph.leaves]

    # Directions and weights do not depend on the edits.

    def _once(self, name, make):
        if name not in self.shared:
            self.shared[name] = make()
        return self.shared[name]

    @property
    def compared(self) -> list[int]:
        """The leaves that can be compared at all."""
        return [i for i, claimed in enumerate(self.claimed) if claimed is not None]

    @property
    def directions(self) -> tuple[list[np.ndarray], np.ndarray]:
        """What moves each leaf, (K, *leaf), and for each direction which leaf it moves."""
        return self._once("directions", self._make_directions)

    def _make_directions(self):
        graph = self.graph
        sizes = [int(np.prod(graph.shape(leaf))) for leaf in graph.leaves]
        most = int(min(MOST_DIRECTIONS, max(16, MOST_NUMBERS // max(graph.size, 1))))
        counts = {i: sizes[i] for i in self.compared}
        share = most // max(len(counts), 1)
        if sum(counts.values()) > most:
            small = {i for i, n in counts.items() if n <= share}
            left = most - sum(counts[i] for i in small)
            share = max(left // max(len(counts) - len(small), 1), 4)
            counts = {i: n if i in small else min(n, share) for i, n in counts.items()}
        total, start, rng = sum(counts.values()), 0, np.random.default_rng(0)
        directions = [np.zeros((total, n)) for n in sizes]
        for i, count in counts.items():
            rows = np.eye(count) if count == sizes[i] else rng.normal(size=(count, sizes[i]))
            directions[i][start : start + count] = rows
            start += count
        leaf_of = np.repeat(list(counts), list(counts.values())).astype(int)
        shaped = [
            d.reshape(total, *graph.shape(leaf))
            for d, leaf in zip(directions, graph.leaves, strict=True)
        ]
        return shaped, leaf_of

    @property
    def leaf_of(self) -> np.ndarray:
        """For each direction, the leaf that it moves."""
        return self.directions[1]

    @property
    def whole(self) -> bool:
        """Whether every number of the gradient is looked at, rather than random directions."""
        return len(self.leaf_of) == sum(np.size(self.gradient[i]) for i in self.compared)

    def along(self, leaves: Sequence[np.ndarray]) -> np.ndarray:
        """Return gradients, (C, *leaf) each, along the directions: (C, K), without weights."""
        out = np.zeros((len(leaves[0]), len(self.leaf_of)))
        for leaf, directions in zip(leaves, self.directions[0], strict=True):
            if leaf.size:
                out += (directions.reshape(len(out.T), -1) @ leaf.reshape(len(leaf), -1).T).T
        return out

    @property
    def right(self) -> list[np.ndarray]:
        """The right gradient: the first one, before any mistakes were made."""
        return self._once("right", lambda: list(self.gradient))

    @property
    def weights(self) -> np.ndarray:
        """One over the size of the leaf, for each direction."""
        return self._once("weights", self._make_weights)

    def _make_weights(self):
        right = self.right
        claimed = [
            np.zeros_like(g) if c is None else c for c, g in zip(self.claimed, right, strict=True)
        ]
        both = [np.stack([c, g]) for c, g in zip(claimed, right, strict=True)]
        sizes = np.sqrt(self.by_leaf(self.along(both) ** 2)).max(axis=0)
        weights = 1 / np.where(sizes > 0, sizes, 1.0)[self.leaf_of]
        if self.limit < np.inf:
            weights[self.claimed_entries >= self.limit] = 0.0
        return weights

    @property
    def claimed_entries(self) -> np.ndarray:
        """The size of every number of the claim, in the order of the directions if `whole`."""
        claimed = [c for c in self.claimed if c is not None]
        return np.abs(np.concatenate([c.ravel() for c in claimed]))

    def by_leaf(self, numbers: np.ndarray) -> np.ndarray:
        """Sum (..., K) over the directions of each leaf: (..., leaves)."""
        out = np.zeros((*numbers.shape[:-1], len(self.graph.leaves)))
        if self.leaf_of.size:
            starts = np.flatnonzero(np.diff(self.leaf_of, prepend=-1))
            out[..., self.leaf_of[starts]] = np.add.reduceat(numbers, starts, axis=-1)
        return out

    def sizes(self, numbers: np.ndarray) -> np.ndarray:
        """Return the size of weighted numbers (..., K) in each leaf: (..., leaves)."""
        return np.sqrt(self.by_leaf(np.abs(numbers) ** 2))

    @functools.cached_property
    def baseline(self) -> np.ndarray:
        """The gradient, with the mistakes made that are known, along the directions, weighted."""
        return self.along([g[None] for g in self.gradient])[0] * self.weights

    @functools.cached_property
    def residual(self) -> np.ndarray:
        """Claim minus gradient along the directions, weighted: (K,)."""
        claimed = [
            np.zeros_like(g) if c is None else c
            for c, g in zip(self.claimed, self.gradient, strict=True)
        ]
        difference = [(c - g)[None] for c, g in zip(claimed, self.gradient, strict=True)]
        return self.along(difference)[0] * self.weights

    @property
    def tolerance(self) -> np.ndarray:
        """For each leaf, what may be left, relative to its size."""
        return self._once("tolerance", self._make_tolerance)

    def _make_tolerance(self):
        out = np.full(len(self.graph.leaves), TOLERANCE)
        for i in self.compared:
            weight = self.weights[self.leaf_of == i][:1]
            share = np.sqrt(np.mean(np.square(self.noise[i]))) if self.noise[i].size else 0.0
            out[i] += float(share * weight.sum() * np.sqrt((self.leaf_of == i).sum()) * 3)
        return out

    @functools.cached_property
    def wrong(self) -> np.ndarray:
        """Which leaves are wrong."""
        return self.sizes(self.residual) > self.tolerance

    @property
    def tangents(self) -> dict[int, np.ndarray]:
        """For each node, how it moves along the directions, weighted: (K, size)."""
        return self._once("tangents", self._make_tangents)

    def _make_tangents(self):
        with np.errstate(all="ignore"):
            found = self.graph.forward(self.directions[0])
        return {
            node: tangent.reshape(len(tangent), -1) * self.weights[:, None]
            for node, tangent in found.items()
            if node in self.graph.active
        }

    def effect(self, node: int, change: np.ndarray) -> np.ndarray:
        """Return what changes of a node's cotangent, (..., *node), do to the gradient: (..., K)."""
        tangent = self.tangents[node]
        lead = change.shape[: change.ndim - len(self.graph.shape(node))]
        return change.reshape(*lead, tangent.shape[1]) @ tangent.T

    def fit(self, nodes: tuple[int, ...], residual: np.ndarray | None = None) -> Fit:
        """Return how well wrong cotangents at these nodes, one each, explain the residual."""
        basis = self._once(("basis", nodes), lambda: self._basis(nodes))
        residual = self.residual if residual is None else residual
        left = residual - basis @ (basis.T @ residual)
        # Rows of leaves that no node reaches stay as they are.
        return Fit(basis.shape[1], self.sizes(left), basis)

    def left_by_both(self, one: tuple[int, ...], two: tuple[int, ...]) -> np.ndarray:
        """Return what wrong cotangents at these nodes and those leave of each leaf's residual."""
        first, second = self.fit(one).basis, self.fit(two).basis
        beside = second - first @ (first.T @ second)
        left = self.residual - first @ (first.T @ self.residual)
        directions, sizes, _ = np.linalg.svd(beside, full_matrices=False)
        directions = directions[:, sizes > 1e-8]
        return self.sizes(left - directions @ (directions.T @ left))

    def as_claimed(self, places: Sequence[Site]) -> tuple[Spot, dict[Edge, np.ndarray]] | None:
        """Return the backward pass that the claim is the result of, if all but these is right.

        With it comes what is added at every edge of the places; None where that is not determined.
        """
        at = [edge for where in places for edge in where.edges]
        nodes = [self.graph.equations[k].inputs[j] for k, j in at]
        if len(set(nodes)) < len(nodes):
            return None
        columns = np.concatenate([self.tangents[node] for node in nodes], axis=1)
        scale = np.linalg.norm(columns, axis=0)
        if not scale.all():
            return None
        added, _, rank, _ = np.linalg.lstsq(columns / scale, self.residual, rcond=1e-9)
        if rank < len(scale):
            return None
        ends = np.cumsum([self.tangents[node].shape[1] for node in nodes])[:-1]
        parts = np.split(added / scale, ends)
        shaped = {
            edge: part.reshape(self.graph.shape(node))
            for edge, node, part in zip(at, nodes, parts, strict=True)
        }
        return self.edited({e: lambda e, g, flow, c: flow + shaped[e] for e in shaped}), shaped

    def fit_leaf(self, nodes: tuple[int, ...], leaf: int) -> float:
        """Return what wrong cotangents at these nodes leave of one leaf's residual, taken alone."""
        rows = self.leaf_of == leaf
        basis = self._once(("basis", nodes, leaf), lambda: self._basis(nodes, rows))
        residual = self.residual[rows]
        return float(np.linalg.norm(residual - basis @ (basis.T @ residual)))

    def _basis(self, nodes, chosen=slice(None)):
        columns = np.concatenate([self.tangents[node][chosen] for node in nodes], axis=1)
        rows = len(columns)
        if columns.shape[1] > 2 * rows:
            signs = np.random.default_rng(1).integers(0, 2, (columns.shape[1], rows + 8), np.int8)
            columns = columns @ (2.0 * signs - 1.0)
        scale = np.linalg.norm(columns, axis=0)
        columns = columns[:, scale > 0] / scale[scale > 0]
        if not np.all(np.isfinite(columns)) or not columns.size:
            return np.zeros((rows, 0))
        left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
        return left[:, sizes > 1e-10 * sizes[0]]


def sites(graph: Graph) -> list[Site]:
    """Return all sites of a graph: each operand of each spot in the source, then whole variables.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> from nnjax.gradcheck.graph import trace, trace_at
        >>> def f(x):
        ...     for _ in range(2):
        ...         x = jnp.tanh(x)
        ...     return jnp.sum(x)
        >>> point = (np.ones(3),)
        >>> [site.edges for site in sites(trace_at(trace(f, point), point, [0]))]
        [((0, 0), (1, 0)), ((2, 0),), ((-1, 0),)]
    """
    known = set(graph.edges)
    found: list[Site] = []
    for group in graph.groups:
        operands = range(len(graph.equations[group[0]].inputs))
        for j in operands:
            edges = [(k, j) for k in group if (k, j) in known]
            if edges:
                found.append(site(graph, edges, group))
    totals = [[graph.equations[k].outputs[0] for k in group] for group in graph.groups]
    for nodes in (*totals, *([leaf] for leaf in graph.leaves)):
        used = [node for node in nodes if node in graph.active and node != graph.output]
        several = any(len(graph.consumers.get(node, ())) > 1 for node in used)
        if used and (several or used[0] in graph.leaves):
            found.append(site(graph, [(TOTAL, node) for node in used]))
    return found + list(_siblings(graph))


def _siblings(graph: Graph) -> Iterator[Site]:
    """Yield the pairs of variables, of one shape, that are added or chosen from."""
    for k, *turns in graph.groups:
        if turns or graph.equations[k].name not in ("add", "sub", "select_n"):
            continue
        nodes = [_variable(graph, n) for n in graph.equations[k].inputs if n in graph.active]
        if len(set(nodes)) != 2 or not all(graph.assigned(node) for node in nodes):
            continue
        both = site(graph, [(TOTAL, node) for node in nodes])
        if graph.shape(nodes[0]) == graph.shape(nodes[1]) and not both.serial:
            yield dataclasses.replace(both, siblings=True)


def _variable(graph: Graph, node: int) -> int:
    """Return the user's variable of which a step within an expression is a function."""
    while not graph.assigned(node):
        k = graph.producer.get(node)
        if k is None or graph.partials(k) is None:
            break
        before = {n for n in graph.equations[k].inputs if n in graph.active}
        if len(before) != 1:
            break
        (node,) = before
    return node


def site(graph: Graph, edges: Sequence[Edge], group: Sequence[int] = ()) -> Site:
    """Return the site of these edges, of the equations of a group."""
    nodes = [j if k == TOTAL else graph.equations[k].inputs[j] for k, j in edges]
    return Site(
        tuple(edges), tuple(dict.fromkeys(nodes)), _serial(graph, edges, nodes), tuple(group)
    )


def _serial(graph, edges, nodes):
    """Whether one operand is calculated from the result at another edge."""
    if len(edges) == 1:
        return False
    # What an edge changes is everything calculated from its result: later edges feed earlier ones.
    starts = {j if k == TOTAL else graph.equations[k].outputs[0] for k, j in edges}
    after: set[int] = set()
    for equation in graph.equations:
        if any(node in starts or node in after for node in equation.inputs):
            after.update(equation.outputs)
    return any(
        node in after or (node in starts and k != TOTAL)
        for (k, _), node in zip(edges, nodes, strict=True)
    )
