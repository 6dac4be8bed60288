"""A function as the graph of operations that JAX traces, at one point, with the line behind each.

Functions within functions (jit, checkpoint, custom rules), the branch of a `cond` and every step of
a `scan` are laid out flat, so that what flows back along every single edge of the graph can be
looked at, and changed. Shapes: a value v of a node has its own shape; its tangents along K
directions are (K, *v.shape), and cotangents of C backward passes side by side (C, *v.shape).
"""

from __future__ import annotations

import ast
import functools
import itertools
import linecache
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.gradcheck.forms import parameter_names
from nnjax.gradcheck.reference import program_within
from nnjax.gradcheck.rules import PARTIALS, Passage, evaluate, passage

__all__ = [
    "ARRAYS",
    "MOVES",
    "TOTAL",
    "Equation",
    "Graph",
    "Place",
    "Traced",
    "derivative",
    "sum_to",
    "trace",
    "trace_at",
]

# More equations than this are too many to lay out: a longer scan stays one equation.
LIMIT = 4000
# What is traced as an array.
ARRAYS = (jax.Array, np.ndarray, np.generic)
# In place of the number of an equation: all edges out of a node together.
TOTAL = -1


class Place(NamedTuple):
    """A stretch of somebody's source: lines count from 1, columns from 0."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int

    @property
    def source(self) -> str:
        """The text of the line."""
        return linecache.getline(self.file, self.line).strip()

    @property
    def text(self) -> str:
        """The expression itself, on one line; "" where the source is not kept."""
        lines = linecache.getlines(self.file)[self.line - 1 : self.end_line]
        if not lines or self.end_line == 0:
            return self.source
        lines[-1] = lines[-1].encode()[: self.end_column].decode(errors="ignore")
        lines[0] = lines[0].encode()[self.column :].decode(errors="ignore")
        return " ".join(part.strip() for part in lines)

    @property
    def position(self) -> dict[str, Any]:
        """What a finding says of it."""
        of_line = {"file": self.file, "line": self.line, "column": self.column + 1}
        target = f", in `{self.target}`" if self.target else ""
        return of_line | {"source": self.source, "where": f"line {self.line}{target}"}

    @property
    def target(self) -> str | None:
        """The name that this expression is assigned to; None where it is not."""
        return _targets(self.file).get(self[1:])


@functools.lru_cache(maxsize=64)
def _targets(file: str) -> dict[tuple, str]:
    """Return what is assigned to in a file, by where the expression stands that is assigned."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return {}
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            value = node.value
            where = (value.lineno, value.col_offset, value.end_lineno, value.end_col_offset)
            found[where] = ast.unparse(target)
    return found


_LIBRARIES = tuple(
    {str(Path(sysconfig.get_path(name))) for name in ("purelib", "platlib", "stdlib")}
)
_NNJAX = str(Path(__file__).parents[1])
_HERE = str(Path(__file__).parent)
_SUBSTITUTE = str(Path(__file__).with_name("substitute.py"))  # between the user's code and JAX


def _path(source_info: Any) -> tuple[Place, ...]:
    """Return where an equation comes from, innermost call first, in files of the user's own."""
    from jax._src import source_info_util

    path, libraries = [], []
    for frame in source_info_util.user_frames(source_info.traceback):
        file = frame.file_name
        if file == _SUBSTITUTE:
            continue
        if file.startswith(_HERE):
            break  # whoever called the check
        lines = (frame.start_line, frame.start_column, frame.end_line, frame.end_column)
        if file.startswith(_NNJAX):
            continue
        (libraries if file.startswith(_LIBRARIES) else path).append(Place(file, *lines))
    return tuple(path or libraries)


@dataclass(frozen=True, eq=False)
class Equation:
    """One operation of the graph.

    Attributes:
        name: of the JAX primitive.
        function: takes the inputs, returns a list of outputs.
        params: of the primitive.
        inputs, outputs: numbers of nodes.
        path: where it was written, the innermost call first; empty where that is not known.
        run: the number of the turn of a scan in which it stands.
    """

    name: str
    function: Callable[..., Sequence[Any]]
    params: Mapping[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    path: tuple[Place, ...]
    run: int

    @property
    def place(self) -> Place | None:
        """The innermost line of the user's own."""
        return self.path[0] if self.path else None


_ELEMENTWISE = frozenset(
    [
        *("abs", "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "clamp"),
        *("cos", "cosh", "digamma", "erf", "erf_inv", "erfc", "exp2", "expm1", "integer_pow"),
        *("lgamma", "log", "log1p", "logistic", "max", "min", "pow", "rem", "rsqrt", "select_n"),
        *("sin", "sinh", "sqrt", "square", "tan", "tanh"),
    ]
)

# Operations that only move numbers or copy them.
MOVES = frozenset(
    [
        *("broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "slice", "rev"),
        *("dynamic_slice", "gather", "convert_element_type", "copy", "step"),
    ]
)


@dataclass(eq=False)
class Graph:
    """The operations of a scalar function at one point.

    Attributes:
        values: the value of every node.
        equations: in the order of the calculation.
        leaves: the nodes that the gradient is for.
        output: the node of the function's value.
        inputs: what the user calls f's arguments and their parts, by node.
        constants: nodes that nothing is carried back through.
        left_out: small constants that are added in f, and not here, with the place of each and the
            node of the sum.
    """

    values: list[Any]
    equations: list[Equation]
    leaves: list[int]
    output: int
    inputs: Mapping[int, str]
    constants: frozenset[int] = frozenset()
    left_out: tuple[tuple[float, Place | None, int], ...] = ()

    def __post_init__(self):
        self._names: dict[int, str] = {}
        self._partials: dict[int, tuple] = {}
        self._passages: dict[int, Passage] = {}
        # An edge (k, j) is operand j of equation k; it matters where a leaf is behind it and the
        # output ahead.
        behind, ahead = set(self.leaves), {self.output}
        for equation in self.equations:
            if behind.intersection(equation.inputs):
                real = {o for o in equation.outputs if _is_real(self.values[o])}
                behind |= real - self.constants
        for equation in reversed(self.equations):
            # Nothing flows back through a comparison.
            through = ahead.intersection(equation.outputs) - self.constants
            if any(_is_real(self.values[o]) for o in through):
                ahead.update(equation.inputs)
        self.active = behind & ahead
        self.producer: dict[int, int] = {}
        self.uses: dict[int, list[tuple[int, int]]] = {}
        self.consumers: dict[int, list[tuple[int, int]]] = {}  # those among them that matter
        for k, equation in enumerate(self.equations):
            self.producer.update((o, k) for o in equation.outputs)
            for j, node in enumerate(equation.inputs):
                self.uses.setdefault(node, []).append((k, j))
            if self.active.intersection(equation.outputs):
                for j, node in enumerate(equation.inputs):
                    if node in self.active:
                        self.consumers.setdefault(node, []).append((k, j))

    @functools.cached_property
    def edges(self) -> list[tuple[int, int]]:
        """All edges that something flows back along, in the order of the calculation."""
        return sorted(edge for edges in self.consumers.values() for edge in edges)

    def guarded(self, left_out: tuple) -> bool:
        """Return whether a small constant keeps something finite: a logarithm, a root, a division.

        Of any other, such as a time step, the function is another one without it.
        """
        reached, nodes = set(), [left_out[-1]]
        while nodes:
            node = nodes.pop()
            for k, j in self.uses.get(node, ()):
                equation = self.equations[k]
                divides = equation.name == "div" and j == 1
                power = equation.params.get("y", 0.5) if "pow" in equation.name else 1
                if (
                    divides
                    or equation.name in ("log", "sqrt", "rsqrt", "cbrt")
                    or (j == 0 and (power < 0 or power != int(power)))
                ):
                    return True
                if equation.name in (*MOVES, "max", "min", "clamp") and k not in reached:
                    reached.add(k)
                    nodes += equation.outputs
        return False

    def name(self, node: int) -> str:
        """Return what the user calls a node: its variable, or the expression that it is."""
        if node not in self._names:
            self._names[node] = self._name(node)
        return self._names[node]

    def _name(self, node):
        if node in self.inputs:
            return self.inputs[node]
        k = self.producer.get(node)
        if k is None:
            value = self.values[node]
            return f"{value:g}" if np.size(value) == 1 and _is_real(value) else "a constant"
        equation = self.equations[k]
        if equation.place is None:
            return f"the result of {equation.name}"
        if self.inner(node) and equation.name in MOVES:
            return self.name(equation.inputs[0])
        place = equation.place
        return place.target or place.text or f"the result of {equation.name}"

    def assigned(self, node: int) -> bool:
        """Whether the user has a name for a node that f calculates."""
        k = self.producer.get(node)
        place = None if k is None else self.equations[k].place
        return place is not None and place.target is not None and not self.inner(node)

    def inner(self, node: int) -> bool:
        """Whether a node is a step within one expression of the user's, and not its value."""
        k = self.producer.get(node)
        path = () if k is None else self.equations[k].path
        return any(self.equations[k].path == path for k, _ in self.uses.get(node, ()))

    def shape(self, node: int) -> tuple[int, ...]:
        """Return the shape of a node's value."""
        return np.shape(self.values[node])

    def is_real(self, node: int) -> bool:
        """Whether a node's value holds floating-point numbers."""
        return _is_real(self.values[node])

    def size_of(self, node: int) -> int:
        """Return how many numbers a node's value has."""
        return np.size(self.values[node])

    @functools.cached_property
    def size(self) -> int:
        """How many numbers all the nodes have to which something flows back."""
        return sum(map(self.size_of, self.active))

    def partials(self, k: int) -> tuple | None:
        """Return ∂out/∂operand of an elementwise equation, one array an operand, else None."""
        equation = self.equations[k]
        if equation.name not in PARTIALS and equation.name not in _ELEMENTWISE:
            return None
        if k not in self._partials:
            inputs = [self.values[node] for node in equation.inputs]
            self._partials[k] = tuple(
                derivative(equation, inputs, j) if node in self.active else 0.0
                for j, node in enumerate(equation.inputs)
            )
        return self._partials[k]

    def _passage(self, k: int) -> Passage:
        if k not in self._passages:
            inputs = [self.values[node] for node in self.equations[k].inputs]
            self._passages[k] = self.passage_at(k, inputs)
        return self._passages[k]

    def passage_at(self, k: int, inputs: Sequence[Any]) -> Passage:
        """Return how tangents and cotangents pass through equation k at these operands."""
        equation = self.equations[k]
        return passage(
            equation.name,
            equation.function,
            equation.params,
            inputs,
            [self.shape(node) for node in equation.outputs],
            [j for j, node in enumerate(equation.inputs) if node in self.active],
            [i for i, node in enumerate(equation.outputs) if node in self.active],
        )

    def pull_back(self, k: int, cotangents: Sequence[Any]) -> dict[int, np.ndarray]:
        """Return what flows back along the edges of equation k: (C, *operand) an operand.

        Args:
            k: the equation.
            cotangents: of its outputs, (C, *output) each; None for zero.
        """
        equation = self.equations[k]
        partials = self.partials(k)
        if partials is not None:
            g = cotangents[0]
            return {
                j: sum_to(g * partials[j], self.shape(node))
                for j, node in enumerate(equation.inputs)
                if node in self.active
            }
        return dict(
            self._passage(k).pull({i: g for i, g in enumerate(cotangents) if g is not None})
        )

    def backward(
        self, edits: Mapping[tuple[int, int], Callable] | None = None, count: int = 1
    ) -> tuple[dict[int, np.ndarray], dict[tuple[int, int], np.ndarray]]:
        """Return the cotangents of all nodes, and what flows along every edge.

        Args:
            edits: for some edges, change(edge, out's cotangent, what flows, cotangents of all nodes
                so far) -> what flows instead, all for `count` passes side by side; (TOTAL, node)
                stands for all that arrives at a node.
            count: the number of passes C.
        """
        edits = edits or {}
        cotangents = {self.output: np.ones((count, *self.shape(self.output)))}
        flows: dict[tuple[int, int], np.ndarray] = {}
        for k in range(len(self.equations) - 1, -1, -1):
            equation = self.equations[k]
            for node in equation.outputs:
                if (TOTAL, node) in edits and node in cotangents:
                    total = cotangents[node]
                    change = edits[TOTAL, node]
                    cotangents[node] = change((TOTAL, node), total, total, cotangents)
            given = [cotangents.get(node) for node in equation.outputs]
            if all(g is None for g in given):
                continue
            for j, flow in self.pull_back(k, given).items():
                if (k, j) in edits:
                    g = next(g for g in given if g is not None)
                    flow = edits[k, j]((k, j), g, flow, cotangents)
                flows[k, j] = flow
                node = equation.inputs[j]
                cotangents[node] = cotangents[node] + flow if node in cotangents else flow
        for leaf in self.leaves:
            total = cotangents.setdefault(leaf, np.zeros((count, *self.shape(leaf))))
            if (TOTAL, leaf) in edits:
                change = edits[TOTAL, leaf]
                cotangents[leaf] = change((TOTAL, leaf), total, total, cotangents)
        return cotangents, flows

    def gradient(self) -> list[np.ndarray]:
        """Return the gradient, a leaf each."""
        cotangents, _ = self.backward()
        return [cotangents[leaf][0] for leaf in self.leaves]

    @functools.cached_property
    def groups(self) -> list[list[int]]:
        """The equations, those together that come from the same spot in every turn of a loop."""
        found: dict[Any, list[int]] = {}
        runs = itertools.groupby(
            range(len(self.equations)),
            lambda k: (self.equations[k].path or k, self.equations[k].run),
        )
        for (path, _), run in runs:
            run = list(run)
            kinds = [
                ((e.name, len(e.inputs), len(e.outputs)), self.shape(e.outputs[0]))
                for e in map(self.equations.__getitem__, run)
            ]
            # A loop on one line repeats the same few equations.
            period = next(p for p in range(1, len(run) + 1) if kinds[p:] == kinds[: len(run) - p])
            for i, k in enumerate(run):
                found.setdefault((path, i % period, kinds[i][0]), []).append(k)
        return list(found.values())

    def forward(self, directions: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
        """Return the tangents of all active nodes, (K, *value), along directions of the leaves."""
        tangents = {node: np.asarray(d) for node, d in zip(self.leaves, directions, strict=True)}
        for k, equation in enumerate(self.equations):
            if not self.active.intersection(equation.outputs):
                continue
            known = {j: tangents[n] for j, n in enumerate(equation.inputs) if n in tangents}
            partials = self.partials(k)
            if partials is not None:
                out = equation.outputs[0]
                shape = self.shape(out)
                total: Any = 0.0
                for j, tangent in known.items():
                    # The operand may be spread over axes of length 1.
                    total = total + _spread(tangent, shape) * partials[j]
                tangents[out] = np.broadcast_to(total, (len(total), *shape))
                continue
            for i, tangent in self._passage(k).push(known).items():
                tangents[equation.outputs[i]] = tangent
        return tangents


def derivative(equation: Equation, inputs: Sequence[Any], j: int) -> np.ndarray:
    """Return ∂out/∂operand j of an elementwise equation at these inputs."""
    if equation.name in PARTIALS:
        return PARTIALS[equation.name](*inputs)[j]
    if equation.name == "integer_pow":
        return equation.params["y"] * inputs[0] ** (equation.params["y"] - 1)
    if equation.name == "select_n" and j:
        mask = np.asarray(np.asarray(inputs[0]) == j - 1, float)
        return np.broadcast_to(mask, np.shape(inputs[j]))

    def function(x):
        return equation.function(*inputs[:j], x, *inputs[j + 1 :])[0]

    x = jax.device_put(inputs[j])
    return np.asarray(jax.jvp(function, (x,), (jnp.ones_like(x),))[1])


def _spread(tangent, shape):
    return tangent.reshape(
        len(tangent), *(1,) * (len(shape) - tangent.ndim + 1), *tangent.shape[1:]
    )


def sum_to(g: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum (C, *result) over the axes along which an operand of this shape was spread."""
    if not shape:  # a scalar goes with an array of any shape
        return g.reshape(len(g), -1).sum(axis=1)
    axes = tuple(a + 1 for a, (n, m) in enumerate(zip(g.shape[1:], shape, strict=True)) if n != m)
    return g.sum(axis=axes, keepdims=True) if axes else g


def _is_real(value) -> bool:
    return jnp.issubdtype(jnp.result_type(value), jnp.floating)


def _numpy(value):
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return value
    return np.asarray(value)


# From f to the graph.


class Traced(NamedTuple):
    """A function as JAX traces it.

    Attributes:
        program: a program of the arrays among the arguments; the rest, such as flags, is built in.
        dynamic: which leaves of the arguments these arrays are.
        names: what the user calls each of them.
    """

    program: Any
    dynamic: tuple[int, ...]
    names: tuple[str, ...]

    def arrays(self, args: tuple) -> list[Any]:
        """Return the arrays among arguments."""
        leaves = jax.tree.leaves(args)
        return [leaves[i] for i in self.dynamic]


def trace(f: Callable, args: tuple) -> Traced:
    """Return f as JAX traces it, for `trace_at` at any point of these shapes."""
    leaves, structure = jax.tree.flatten(args)
    dynamic = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, ARRAYS))
    paths = zip(parameter_names(f, len(args)), args, strict=True)
    names = [
        name + jax.tree_util.keystr(path)
        for name, argument in paths
        for path, _ in jax.tree_util.tree_leaves_with_path(argument)
    ]

    def of_arrays(arrays):
        full = list(leaves)
        for i, array in zip(dynamic, arrays, strict=True):
            full[i] = array
        return f(*jax.tree.unflatten(structure, full))

    program = jax.make_jaxpr(of_arrays)([leaves[i] for i in dynamic])
    return Traced(program, dynamic, tuple(names[i] for i in dynamic))


def trace_at(
    traced: Traced,
    args: tuple,
    argnums: Sequence[int],
    opaque: bool = False,
    epsilon: float = 0.0,
) -> Graph:
    """Return the graph of a traced function at one point.

    Args:
        traced: what `trace` returned.
        args: the point.
        argnums: the arguments that the gradient is for.
        opaque: leave functions with a derivative rule of their own as one equation each, so that
            the rule counts and not the function's body.
        epsilon: leave out constants up to this size that are added to something.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> def f(x):
        ...     return jnp.sum(jnp.tanh(x))
        >>> point = (np.ones(3),)
        >>> [equation.name for equation in trace_at(trace(f, point), point, [0]).equations]
        ['tanh', 'reduce_sum']
    """
    builder = _Builder(opaque, epsilon)
    flat = [builder.node(array) for array in traced.arrays(args)]
    owner = [i for i, argument in enumerate(args) for _ in jax.tree.leaves(argument)]
    leaves = [n for n, i in zip(flat, traced.dynamic, strict=True) if owner[i] in argnums]
    (output,) = builder.walk(traced.program.jaxpr, traced.program.consts, flat, ())
    inputs = dict(zip(flat, traced.names, strict=True))
    left_out = tuple(builder.left_out)
    return Graph(builder.values, builder.equations, leaves, output, inputs, left_out=left_out)


class _Builder:
    def __init__(self, opaque, epsilon):
        self.opaque, self.epsilon, self.run = opaque, epsilon, 0
        self.values, self.equations, self.left_out = [], [], []
        self.literals: set[int] = set()

    def node(self, value):
        self.values.append(_numpy(value))
        return len(self.values) - 1

    def add(self, name, function, params, inputs, path):
        given = [self.values[node] for node in inputs]
        results = evaluate(name, params, given) or function(*given)
        outputs = [self.node(result) for result in results]
        self.equations.append(
            Equation(name, function, params, tuple(inputs), tuple(outputs), path, self.run)
        )
        return outputs

    def walk(self, jaxpr, consts, inputs, outer):
        from jax.extend import core  # costs 50 ms, which `import nnjax` need not pay

        nodes = dict(zip(jaxpr.invars, inputs, strict=True))
        nodes.update((var, self.node(c)) for var, c in zip(jaxpr.constvars, consts, strict=True))

        def number(atom):
            if not isinstance(atom, core.Literal):
                return nodes[atom]
            aval: Any = atom.aval
            node = self.node(np.asarray(atom.val, aval.dtype))
            self.literals.add(node)
            return node

        for equation in jaxpr.eqns:
            given = [number(atom) for atom in equation.invars]
            path = _path(equation.source_info) + outer
            small = []
            if self.epsilon and equation.primitive.name in ("add", "sub", "max"):
                small = [self.values[node] for node in given if self.is_small(node)]
                given = [self.zero(node) if self.is_small(node) else node for node in given]
            outputs = self.inner(equation, given, path)
            if outputs is None:
                bind = _binder(equation.primitive, tuple(equation.params.items()))
                outputs = self.add(equation.primitive.name, bind, equation.params, given, path)
            place = path[0] if path else None
            self.left_out += [(float(value), place, outputs[0]) for value in small]
            nodes.update(zip(equation.outvars, outputs, strict=True))
        return [number(atom) for atom in jaxpr.outvars]

    def is_small(self, node):
        """Whether a node is a constant that is to be left out."""
        return node in self.literals and 0 < abs(self.values[node]) <= self.epsilon

    def zero(self, node):
        return self.node(np.zeros_like(self.values[node]))

    def inner(self, equation, given, path) -> list[int] | None:
        """Lay out a program within the program; None where the equation stays as it is."""
        name, params = equation.primitive.name, equation.params
        if name == "cond":
            branch = params["branches"][int(self.values[given[0]])]
            return self.walk(branch.jaxpr, branch.consts, given[1:], path)
        if name == "scan":
            return self.scan(equation, given, path)
        within = program_within(equation)
        if within is None or (self.opaque and name.startswith("custom_")):
            return None
        return self.walk(*within, given, path)

    def scan(self, equation, given, path):
        params = equation.params
        body, length = params["jaxpr"], params["length"]
        if len(self.equations) + length * _size(body.jaxpr) > LIMIT:
            return None
        # What is cut into slices, or stacked from them, has one axis more outside than inside. (The
        # names of the parameters that count it differ between versions of jax.)
        cut = _deeper(equation.invars, body.jaxpr.invars)
        carried = len(equation.outvars) - _deeper(equation.outvars, body.jaxpr.outvars)
        constant = len(given) - carried - cut
        consts, carry = given[:constant], given[constant : constant + carried]
        sequences, stacks = given[constant + carried :], {}
        turns = range(length)
        for t in reversed(turns) if params["reverse"] else turns:
            self.run += 1
            slices = [self.add("step", lambda x, t=t: [x[t]], {}, [x], path)[0] for x in sequences]
            outputs = self.walk(body.jaxpr, body.consts, [*consts, *carry, *slices], path)
            carry, stacks[t] = outputs[:carried], outputs[carried:]
        self.run += 1
        ys = [
            self.add("stack", _stack, {}, list(steps), path)[0]
            for steps in zip(*(stacks[t] for t in turns), strict=True)
        ]
        return [*carry, *ys]


def _stack(*ys):
    return [(jnp if isinstance(ys[0], jax.Array) else np).stack(ys)]  # keys are JAX's own


def _deeper(outside, inside) -> int:
    """Return how many of the atoms outside a loop have more axes than those inside it."""
    return sum(len(a.aval.shape) > len(b.aval.shape) for a, b in zip(outside, inside, strict=True))


def _size(jaxpr) -> int:
    inner = (p for e in jaxpr.eqns for p in e.params.values() if hasattr(p, "jaxpr"))
    return len(jaxpr.eqns) + sum(_size(p.jaxpr) for p in inner)


@functools.lru_cache(maxsize=4096)
def _binder(primitive, params):
    """Return an operation as a function: the same one for the same operation, which is compiled
    with it."""
    params = dict(params)

    def bind(*inputs):
        found = primitive.get_bind_params(params)  # (functions, params) before jax 0.10
        functions, rest = found if isinstance(found, tuple) else ((), found)
        outputs = primitive.bind(*functions, *inputs, **rest)
        return outputs if primitive.multiple_results else [outputs]

    return bind
