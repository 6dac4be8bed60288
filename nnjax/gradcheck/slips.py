"""The ways in which people go wrong at one operation of a backward pass.

A `Slip` is an operator of `nnjax.gradcheck.operators` at the edges of one site, from the operand u
of an operation to its result v; d[v] is what arrives at v. The words, in a table, name u, v and
whatever variable of f is mixed up with them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from nnjax.gradcheck.graph import MOVES, TOTAL, Graph
from nnjax.gradcheck.names import rows
from nnjax.gradcheck.operators import (
    Change,
    Family,
    Flow,
    after,
    before,
    by,
    instead,
    other,
    times,
)
from nnjax.gradcheck.places import Site

__all__ = ["FACTOR", "Slip", "slips"]

# The name of the slip whose words are those of the number found.
FACTOR = ""


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


def slips(graph: Graph, where: Site, known: list[Family]) -> Iterator[Slip]:
    """Return the ways to go wrong at a site.

    Args:
        graph: at any of the points.
        where: the site.
        known: `families(graph)`.
    """
    return _Slips(graph, where, known).all()


# Operations whose derivative is a matter of calculus, rather than another factor of a product.
_FACTORS = frozenset(["mul", "div", "add", "sub", "add_any", "neg", "copy"])
# Operations that let some entries through, and not others.
_MASKS = frozenset(["select_n", "max", "min", "clamp"])
# What stands in place of a turn of a loop.
_OTHER_TURNS: tuple[tuple[Callable[[int], int], str], ...] = (
    (lambda turn: 0, "the first step"),
    (lambda turn: -1, "the last step"),
    (lambda turn: -1 - turn, "the steps in reverse"),
)
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


# key | name | cost | what flows on to u | what went wrong
TABLE = """
interchanged | operands interchanged | 1.7 | d[{b}] for d[{a}], and d[{a}] for d[{b}] | what is
    carried back into `{a}` and into `{b}` is interchanged
one step | {which} step only{carry} | 1.9 | that of the {which} step alone | only the {which} of {n}
    steps counts
other steps | {which} step left out | 2 | without the {which} step | the {which} of {n} steps is
    left out
flow moved | {name} | 0 | d[{u}], {have} | what is carried back into `{u}` {words}
error moved | {name} | 0.05 | d[{v}], {have} | what arrives at `{v}` {words} before it is carried on
    to `{u}`
one entry | {which} {kind} only | 2 | d[{v}], entry {index} along axis {axis} | of what arrives at
    `{v}` only the {which} entry along axis {axis} is carried back into `{u}`, in place of their sum

normalised | normalised | 2.2 | {t} · d[{u}] / ‖d[{u}]‖ | what is carried back into `{u}` is scaled
    to length {t}, whatever its own length
penalty | L2 term added or missing | 2.4 | d[{u}] + {t} · {u} | a multiple of `{u}` itself is added
for the leaf | derivative missing | 2.3 | d[{x}] | what arrives at `{x}` is taken for the gradient
    of `{u}`
other leaf | operands interchanged | 1.7 | d[{x}] | the gradient of `{x}` stands in place of that of
    `{u}`
one use | overwritten instead of added | 1.6 | that of the {which} use alone | `{u}` is used in {n}
    places; only what the {which} of them carries back counts
later | derivative missing | 1.7 | from d[{x}] instead of d[{v}] | what `{v}` carries back into
    `{u}` is calculated from the error of `{x}`, without the derivative in between

derivative | derivative missing | 1.2 | d[{v}] | the derivative of `{v}` is left out
mask | derivative missing (mask) | 1.2 | d[{v}] | the mask of `{v}` is left out
factor | derivative missing (factor left out) | 1.2 | d[{v}] | the factor `{x}` is left out
sign alone | derivative missing | 1.6 | −d[{v}] | the derivative of `{v}` is left out up to its sign
twice | derivative applied twice | 1.4 | d[{v}] · (∂/∂u)² | the derivative of `{v}` is multiplied by
    twice
inverted | mask inverted | 1.5 | d[{v}] where it should be 0 | the mask of `{v}` lets through what
    it should stop
at another | derivative at another variable{off} | 0 | d[{v}] · ∂({v}) at {x} | the derivative of
    `{v}` is taken at `{x}` instead of `{u}`
function | another function's derivative | 1.8 | d[{v}] · {formula} | {words} stands where the
    derivative of `{v}` belongs
no term | left out | 1.9 | d[{v}] with another {u} | `{x}` is left out of `{u}`
other term | wrong partner (one step off) | 2.3 | d[{v}] with another {u} | `{x}` of {turn} stands
    in `{u}`

partner | wrong partner in the product{off} | 0 | d[{v}] with {x} | `{x}` stands where `{right}`
    belongs
updated | wrong partner in the product (updated) | 2 | d[{v}] with {x} − {t} · ∂f/∂{x} | `{x}` has
    been changed by a step of size {t} before it stands here
untransposed | not transposed | 1.4 | d[{v}] with ({x})ᵀ in place of {x} | `{x}` is transposed where
    it should not be, or not where it should
unturned | not turned by 180° | 1.6 | d[{v}] with {x} turned | `{x}` is turned by 180° where it
    should not be, or not where it should
axes | axes not interchanged (not transposed) | 1.5 | d[{v}].reshape | what arrives at `{v}` is
    brought to the shape of `{u}` without interchanging axes
everywhere | derivative missing (mask) | 1.6 | d[{v}], everywhere | what arrives at `{v}` goes to
    every entry, not to the largest alone
parts | operands interchanged | 1.7 | d[part {b}] for part {a}, and d[part {a}] for part {b} | what
    comes back from parts {a} and {b} of `{u}` is interchanged
copies | overwritten instead of added{first} | 1.7 | d[{u}][index] = d[{v}] (= for +=) | of the
    copies of an entry of `{u}` that `{v}` holds, only the {which} one counts
window | index shift | 2.3 | d[{u}][index of {turn}] += d[{v}] | what arrives at `{v}` is carried
    back to where {turn} takes it from `{u}`
windows | overwritten instead of added | 1.9 | d[{u}][index] = d[{v}] (= for +=) | where the turns
    of the loop take the same entry of `{u}`, only the {which} one counts
no sum | left out (diagonal only) | 1.8 | the diagonal of the Jacobian alone | the sum in `{v}` is
    left out: every entry carries back its own share alone
other sum | summed over the wrong axis | 1.85 | sum over axis {axis} | what belongs to the sum in
    `{v}` is summed over axis {axis}, not over {right}
divided sum | summed over the wrong axis | 1.9 | sum over axis {axis}, of what is divided by `{v}`
    already | what belongs to the sum in `{v}` is summed over axis {axis}, not over {right}

power | another function's derivative (power) | 2.2 | d[{u}] · {x}^{p:g} | in what is carried back
    into `{u}` the power of `{x}` is wrong by {p:g}
lost factor | derivative missing (factor left out) | 2.2 | d[{u}] · {x}^{p:g} | in what is carried
    back into `{u}` the factor `{x}` is left out
lost division | derivative missing (factor left out) | 2.2 | d[{u}] · {x}^{p:g} | in what is carried
    back into `{u}` the division by `{x}` is left out
log f | gradient of log f | 2.4 | d[{u}] · {x}^{p:g} | in what is carried back into `{u}` the value
    of f divides it: it is the gradient of log f
no factor | factor left out | 2.4 | d[{u}] · {x}^{p:g} | in what is carried back into `{u}` a factor
    `{x}` is left out
more | factor too many | 2.4 | d[{u}] · {x}^{p:g} | in what is carried back into `{u}` a factor
    `{x}` is there once too often
many | factor too many | 2.4 | d[{u}] · {x}^{p:g} | in what is carried back into `{u}` a factor
    `{x}`^{p:g} is there
"""
WORDS = {key: rest for key, *rest in rows(TABLE)}


class _Slips:
    """The ways to go wrong at a site: at operand u of an operation that gives v.

    Where the site is all that arrives at a variable (`TOTAL`), u and v both are that variable.
    """

    def __init__(self, graph: Graph, where: Site, known: list[Family]):
        self.graph, self.where = graph, where
        self.fitting = [f for f in known if len(f.nodes) in (1, where.turns)]
        self.k, self.j = where.edges[0]
        self.node = where.nodes[-1]
        self.u = self.v = graph.name(self.node)
        self.partials = None
        if self.k != TOTAL:
            self.equation = graph.equations[self.k]
            self.operands = self.equation.inputs
            self.out = self.equation.outputs[0]
            self.partials = graph.partials(self.k)
            self.v = graph.name(graph.equations[where.edges[-1][0]].outputs[0])

    def slip(
        self, key: str, change: Change, more: float = 0.0, at: int | None = None, **words: Any
    ):
        """Return a slip with the words of the table, its cost raised by `more`."""
        name, cost, have, sentence = WORDS[key]
        words |= {"u": self.u, "v": self.v, "t": "{t}"}
        name, sentence, flows = (text.format(**words) for text in (name, sentence, have))
        return Slip(name, sentence, flows, change, float(cost) + more, "{t}" in have, at=at)

    def all(self) -> Iterator[Slip]:
        """Yield them, the multiple that is to be found first."""
        if self.where.siblings:
            one, two = self.where.nodes
            words: dict[str, Any] = {"a": self.graph.name(one), "b": self.graph.name(two)}
            yield self.slip("interchanged", other({one: two, two: one}), **words)
            return
        yield Slip(FACTOR, "", "", lambda e, t: t * e.flow, 1.0, fitted=True)
        if self.where.serial:  # where the gradient is no straight line in t
            for number in (-1.0, 2.0, 0.5, *self.likely_factors()):
                yield Slip(FACTOR, "", "", lambda e, t, c=number: c * e.flow, 1.0, number=number)
        if len(self.where.edges) > 2:
            yield from self.turns()
        yield from self.moved()
        if self.k == TOTAL:
            yield from self.totals()
        else:
            yield from self.later()
            yield from self.operations() if self.partials is None else self.elementwise()
        yield from self.powers()

    def likely_factors(self) -> Iterator[float]:
        """What people forget or add where an operation is done: an exponent, a sum for a mean."""
        if self.k == TOTAL:
            return
        exponent = abs(self.equation.params.get("y", 1))
        if exponent > 2:
            yield 1 / exponent
        spread = self.graph.size_of(self.out) / max(self.graph.size_of(self.where.nodes[0]), 1)
        if spread > 2 and self.partials is not None:
            yield from (1 / spread, spread)

    def turns(self) -> Iterator[Slip]:
        """Some turns of a loop alone."""
        edges = self.where.edges
        for which, chosen in (("last", edges[-1]), ("first", edges[0])):
            carry = " (carry dropped)" * (self.where.serial and which == "first")
            words: dict[str, Any] = {"which": which, "n": len(edges), "carry": carry}
            yield self.slip("one step", by(Flow.if_edge, chosen, True), **words)
            yield self.slip("other steps", by(Flow.if_edge, chosen, False), **words)

    def moved(self) -> Iterator[Slip]:
        """What flows on, or what arrives before it is carried on, turned, shifted or cut down."""
        for move, cost, words in _moves(self.graph.shape(self.where.nodes[0])):
            yield self.slip("flow moved", after(move), cost, **words)
        if self.k == TOTAL or len(self.equation.outputs) != 1:
            return
        shape = self.graph.shape(self.out)
        for move, cost, words in _moves(shape):
            yield self.slip("error moved", before(move), cost, **words)
        copied = self.equation.name in MOVES or self.partials is not None
        words: dict[str, Any] = {"kind": "copy" if copied else "example"}
        for axis, index in itertools.product(range(len(shape)), (0, -1)):
            if shape[axis] > 1:
                words |= {"which": "last" if index else "first", "axis": axis, "index": index}
                yield self.slip("one entry", before(partial(_only, axis, index)), **words)

    def totals(self) -> Iterator[Slip]:
        """All that arrives at a variable."""
        graph, node = self.graph, self.where.nodes[0]
        yield self.slip("normalised", lambda e, t: t * e.flow / np.linalg.norm(e.flow))
        if node in graph.leaves:
            yield self.slip("penalty", lambda e, t: e.flow + t * e.spot.graph.values[node])
            for family in self.fitting:
                (later, *_) = family.nodes
                if later in graph.active and graph.shape(later) == graph.shape(node) != ():
                    yield self.slip("for the leaf", other({node: later}), x=family.name)
            for leaf in graph.leaves:
                if leaf != node and graph.shape(leaf) == graph.shape(node):
                    yield self.slip("other leaf", other({node: leaf}), x=graph.name(leaf))
        uses = graph.consumers.get(node, [])
        if len(self.where.nodes) == 1 and len(uses) > 2:
            for which, edge in (("last", uses[-1]), ("first", uses[0])):
                yield self.slip("one use", by(Flow.flow_along, edge), which=which, n=len(uses))

    def later(self) -> Iterator[Slip]:
        """The error of a later variable, which v's own follows from."""
        graph, equation = self.graph, self.graph.equations[self.where.edges[-1][0]]
        node = equation.outputs[0]
        for steps in range(1, 6) if len(equation.outputs) == 1 else ():
            edges = graph.consumers.get(node, [])
            if len(edges) != 1 or graph.partials(edges[0][0]) is None:
                return
            node = graph.equations[edges[0][0]].outputs[0]
            if graph.shape(node) != graph.shape(equation.outputs[0]):
                return
            if not graph.inner(node):
                yield self.slip(
                    "later", by(Flow.from_after, steps), 0.05 * steps, x=graph.name(node)
                )

    # Operations that work entry by entry.

    def elementwise(self) -> Iterator[Slip]:
        """Another derivative, or another partner, in place of the right one."""
        assert self.partials is not None
        own, kind, operands = np.asarray(self.partials[self.j]), self.equation.name, self.operands
        partner = operands[1 - self.j] if len(operands) == 2 else None
        # A single number differs from point to point, where calculus says so.
        varying = own.size == 1 and (kind not in _FACTORS or partner in self.graph.active)
        constant = not own.size or (
            not varying and np.ptp(own) <= 1e-12 * np.max(np.abs(own), initial=0)
        )
        if not constant:
            yield from self.multiples(partner)
        if kind in ("mul", "div") and partner is not None:
            yield from self.partners(1 - self.j)
        if kind in _FACTORS:
            return
        if self.equation.params.get("y") == 2 or kind == "square":
            yield from self.differences()
        for found in () if constant else self.others(self.j):
            change = instead(self.j, found.value)
            yield self.slip("at another", change, found.cost, x=found.name, off=found.off)
        for text, function in OTHERS.items():
            for name, value, more in ((self.u, "argument", 0.0), (self.v, "result", 0.1)):
                change = times(lambda e, f=function, value=value: f(getattr(e, value)))
                formula = text.format(v=name)
                words: dict[str, Any] = {
                    "formula": f"({formula})" if text.startswith("1 ") else formula,
                    "words": text.format(v=f"`{name}`"),
                }
                yield self.slip("function", change, more, **words)

    def multiples(self, partner: int | None) -> Iterator[Slip]:
        """Nothing in place of the derivative, or some function of the derivative itself."""
        kind, nothing = self.equation.name, times(lambda e: 1.0)
        if kind in _MASKS:
            yield self.slip("mask", nothing)
            yield self.slip("inverted", times(lambda e: 1 - e.partial))
            return
        if partner is not None and kind in _FACTORS:
            yield self.slip("factor", nothing, x=self.graph.name(partner))
        else:
            yield self.slip("derivative", nothing)
        if kind == "div" and self.j == 1:
            yield self.slip("sign alone", times(lambda e: -1.0))
        yield self.slip("twice", times(lambda e: e.partial**2))

    def differences(self) -> Iterator[Slip]:
        """Another operand in the sum or difference that is squared."""
        graph = self.graph
        made = [graph.producer.get(node, -1) for node in self.where.nodes]
        last = graph.equations[made[-1]]
        if -1 in made or last.name not in ("add", "sub") or len(made) != self.where.turns:
            return
        for i, term in enumerate(last.inputs):
            nodes = [graph.equations[m].inputs[i] for m in made]
            sign = -1 if i and last.name == "sub" else 1

            def moved(e, turn=None, nodes=nodes, sign=sign):
                values = e.spot.graph.values
                new = 0.0 if turn is None else values[nodes[turn(e.turn)]]
                return e.argument + sign * (new - values[nodes[e.turn]])

            name = graph.name(term)
            yield self.slip("no term", instead(self.j, moved), at=made[-1], x=name)
            for turn, words in _OTHER_TURNS if len(nodes) > 2 else ():
                change = instead(self.j, partial(moved, turn=turn))
                yield self.slip("other term", change, at=made[-1], x=name, turn=words)

    def partners(self, operand: int) -> Iterator[Slip]:
        """Another variable in place of the other operand of a product."""
        graph, node = self.graph, self.operands[operand]
        name = graph.name(node)
        if not graph.shape(node):
            return
        if node in graph.leaves:
            leaf = graph.leaves.index(node)

            def updated(e, t):
                return e.pull_at(operand, e.inputs[operand] - t * e.spot.right[leaf])

            yield self.slip("updated", updated, x=name)
        for found in self.others(operand):
            change, words = instead(operand, found.value), {"off": found.off, "right": name}
            yield self.slip("partner", change, found.cost, found.at, x=found.name, **words)

    def others(self, operand: int) -> Iterator[Other]:
        """What may stand in place of an operand: other variables, and other turns of its own."""
        graph, group, node = self.graph, self.where.group, self.operands[operand]
        name, shape, step = graph.name(node), graph.shape(node), " (one step off)"
        right = tuple(graph.equations[k].inputs[operand] for k in group)
        result = tuple(graph.equations[k].outputs[0] for k in group)
        for family in self.fitting:
            same = family.nodes == right or (len(set(right)) == 1 and family.nodes == right[:1])
            again = family.name == name and not same
            far = 0.3 * (not family.plain or family.nodes == result)
            turns = len(family.nodes)
            shifts = {1: " of the step after", -1: " of the step before"} if turns > 1 else {}
            shifts |= {} if same else {0: " of another step" * again}
            for shift, words in shifts.items() if _fits(graph, family, node) else ():
                value = partial(Flow.value, family=family, shift=shift)
                off = step * bool(shift or again)
                yield Other(family.name + words, value, 2.0 + far + 0.1 * abs(shift), off)
            for turn, words in _OTHER_TURNS if same and turns > 2 and shape else ():
                value = partial(Flow.in_turn, nodes=family.nodes, turn=turn)
                at = graph.producer[node] if graph.assigned(node) else None
                yield Other(f"{name} of {words}", value, 2.3, step, at)
            turned = graph.shape(family.nodes[0])[::-1]
            if shape == turned and len(shape) == 2 and shape[0] != shape[1]:
                value = partial(Flow.transposed, family=family)
                yield Other(f"{family.name}ᵀ", value, 2.1 + far)

    # Operations that mix the entries of their operands, or move them.

    def operations(self) -> Iterator[Slip]:
        """Another operand, other axes, copies that count once, masks, sums."""
        graph, kind, params = self.graph, self.equation.name, self.equation.params
        for operand, node in enumerate(self.operands):
            if operand != self.j and graph.is_real(node):
                yield from self.turned(operand)
                yield from self.partners(operand)
        if kind == "transpose":
            yield self.slip("axes", lambda e, t: e.arriving.reshape(e.flow.shape))
        if kind in MOVES:
            yield from self.copies()
        if kind in ("reduce_max", "reduce_min", "argmax"):
            yield self.slip("everywhere", by(Flow.everywhere))
        if kind == "split":
            sizes, axis = params["sizes"], params["axis"]
            for a, b in itertools.combinations(range(len(sizes)), 2):
                if sizes[a] == sizes[b]:
                    yield self.slip("parts", by(Flow.swapped, sizes, axis, a, b), a=a, b=b)
        if kind == "reduce_sum":
            yield self.slip("no sum", by(Flow.own_share))
            right = ", ".join(map(str, params["axes"]))
            for axis in range(len(graph.shape(self.operands[0]))):
                if (axis,) != tuple(params["axes"]):
                    words: dict[str, Any] = {"axis": axis, "right": right}
                    yield self.slip("other sum", by(Flow.share, axis), **words)
                    yield self.slip("divided sum", by(Flow.normalised_share, axis), **words)

    def turned(self, operand: int) -> Iterator[Slip]:
        """Another operand transposed, or a kernel turned."""
        node = self.operands[operand]
        shape, name = self.graph.shape(node), self.graph.name(node)
        if len(shape) > 1 and shape[-1] == shape[-2] > 1:
            change = instead(operand, lambda e: np.swapaxes(e.inputs[operand], -1, -2))
            yield self.slip("untransposed", change, x=name)
        convolution = self.equation.name == "conv_general_dilated" and len(shape) == 4
        for axes in ((0, 1), (1, 2), (2, 3)) if convolution else ():
            change = instead(operand, lambda e, axes=axes: np.flip(e.inputs[operand], axes))
            yield self.slip("unturned", change, x=name)

    def copies(self) -> Iterator[Slip]:
        """Of several copies one alone; what a loop cuts out, put back elsewhere."""
        group = self.where.group
        for which, order, first in (("last", 1, ""), ("first", -1, " (first copy only)")):
            yield self.slip("copies", by(Flow.overwritten, order), which=which, first=first)
        if len(group) == 1 or self.where.serial:
            return
        for turn, words in _OTHER_TURNS:
            yield self.slip("window", by(Flow.through_turn, group, turn), turn=words)
        for which, later in (("last", True), ("first", False)):
            yield self.slip("windows", by(Flow.uncovered, group, later), which=which)

    # A factor too many or too few.

    def powers(self) -> Iterator[Slip]:
        """Some variable of f, to some power."""
        graph, node = self.graph, self.node
        elementwise = self.partials is not None
        out = node if self.k == TOTAL else self.out
        # Whether the derivative is a matter of calculus, so that a power of u or v is its power.
        calculus = elementwise and (
            self.equation.name not in _FACTORS or (self.equation.name == "div" and self.j == 1)
        )
        divided, multiplied = _partners_of(graph, node, "div"), _partners_of(graph, node, "mul")
        for family in self.fitting:
            early = elementwise and _fits(graph, family, out)
            if not family.plain or not (early or _fits(graph, family, node)):
                continue
            last = family.nodes[-1]
            for p in (-1, 1, -2, 2, -0.5, 0.5, -3, 3):
                key, at = {-1.0: "no factor", 1.0: "more"}.get(p, "many"), None
                if calculus and last in (node, out):
                    key = "power"
                if p == -1 and family.nodes == (graph.output,):
                    key = "log f"
                if (p == 1 and last in divided) or (p == -1 and last in multiplied):
                    key, at = "lost division" if p == 1 else "lost factor", graph.producer[node]

                power = partial(Flow.power, family=family, p=p)
                change = times(lambda e, power=power: e.partial * power(e))
                more = {1.0: 0.0, 2.0: 0.1}.get(abs(p), 0.3) + 0.2 * (not calculus and last == node)
                change = change if early else lambda e, t, power=power: e.flow * power(e)
                yield self.slip(key, change, more, at, x=family.name, p=p)


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


def _fits(graph, family, node):
    """Whether a variable can be multiplied with a node's value, entry by entry."""
    try:
        shape = np.broadcast_shapes(graph.shape(family.nodes[0]), graph.shape(node))
    except ValueError:
        return False
    return shape == graph.shape(node)


def _partners_of(graph, node, name) -> set[int]:
    """Return what a node was divided by or multiplied with where it was calculated."""
    k = graph.producer.get(node)
    if k is None or graph.equations[k].name != name:
        return set()
    if name == "div" and graph.equations[k].inputs[0] not in graph.active:
        return set()  # a power, rather than a factor
    found = set()
    for partner in graph.equations[k].inputs[1 if name == "div" else 0 :]:
        found.add(partner)
        while partner in graph.producer and graph.equations[graph.producer[partner]].name in MOVES:
            partner = graph.equations[graph.producer[partner]].inputs[0]
            found.add(partner)
    return found


# Arrays, turned and shifted.


def _moves(shape) -> Iterator[tuple[Callable, float, dict[str, Any]]]:
    """Yield what people do to the entries of an array of this shape: the move, its cost, words."""

    def move(change, cost, name, words, have):
        return change, cost, {"name": name, "words": words, "have": have}

    if len(shape) > 1 and shape[-1] == shape[-2] > 1:
        turned = partial(np.swapaxes, axis1=-1, axis2=-2)
        yield move(turned, 1.5, "transposed", "is transposed", "transposed")
    for axis in (axis for axis, size in enumerate(shape) if size > 1):
        along, turned = f"along axis {axis}", partial(np.flip, axis=axis)
        for step, (shift, cost) in itertools.product((1, -1), ((np.roll, 2.2), (_shifted, 2.3))):
            words = f"is shifted by one {along}", f"shifted by {step} {along}"
            yield move(partial(shift, shift=step, axis=axis), cost, "index shift", *words)
        cost = 2.3 if shape[axis] > 2 else 2.4
        yield move(turned, cost, "index reversed", f"runs backwards {along}", f"reversed {along}")
    for axes in ((0, 1), (-2, -1))[: max(len(shape) - 1, 0)]:
        turned, words = partial(np.flip, axis=axes), "turned by 180°"
        yield move(turned, 2.2, words, f"is {words}", words)


def _shifted(array, shift, axis):
    out = np.roll(array, shift, axis)
    np.moveaxis(out, axis, 0)[0 if shift > 0 else -1] = 0
    return out


def _only(axis, index, array):
    out = np.zeros_like(array)
    np.moveaxis(out, axis, 0)[index] = np.moveaxis(array, axis, 0)[index]
    return out
