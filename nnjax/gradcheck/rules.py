"""Operations in NumPy: their values, and how tangents and cotangents pass through them.

One pass through f's operations in JAX compiles each of them again for every shape, which takes
longer than all the arithmetic of a check. What is common is therefore done in NumPy; of everything
else JAX gives the Jacobian, once. A tangent along K directions is (K, *operand), C cotangents side
by side are (C, *output).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from nnjax.gradcheck.reference import compiled

__all__ = ["COPIES", "PARTIALS", "Passage", "evaluate", "passage"]

# Numbers of a Jacobian that is kept.
MOST_NUMBERS = 4_000_000
# How the names of operations begin that have a derivative rule of the user's own.
_OWN_RULE = ("custom_jvp", "custom_vjp")


def _logistic(x):
    return 1 / (1 + np.exp(-x))


# Of operands in float64.
_FUNCTIONS: dict[str, Callable] = {
    "div": np.divide,
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "logistic": _logistic,
    "pow": np.power,
    "sqrt": np.sqrt,
    "sin": np.sin,
    "cos": np.cos,
}
# Of integers as well.
_EXACT: dict[str, Callable] = {
    "add": np.add,
    "add_any": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
    "square": np.square,
    "abs": np.abs,
    "sign": np.sign,
    "max": np.maximum,
    "min": np.minimum,
    "copy": np.array,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "not": np.invert,
    "is_finite": np.isfinite,
    "stop_gradient": np.array,
}


def _spread(p, x):
    shape = [1] * len(p["shape"])
    for n, axis in zip(np.shape(x), p["broadcast_dimensions"], strict=True):
        shape[axis] = n
    return np.broadcast_to(np.reshape(x, shape), p["shape"])


def _slice(p, x):
    bounds = p["start_indices"], p["limit_indices"], p["strides"] or [1] * np.ndim(x)
    return x[tuple(map(slice, *bounds))]


# Given the parameters of the operation too.
_BY_PARAMETERS: dict[str, Callable] = {
    "broadcast_in_dim": _spread,
    "concatenate": lambda p, *xs: np.concatenate(xs, p["dimension"]),
    "convert_element_type": lambda p, x: np.asarray(x, p["new_dtype"]),
    "integer_pow": lambda p, x: x ** p["y"],
    "reduce_max": lambda p, x: x.max(p["axes"]),
    "reduce_sum": lambda p, x: x.sum(p["axes"], dtype=x.dtype),
    "reshape": lambda p, x: x.reshape(p["new_sizes"]),
    "rev": lambda p, x: np.flip(x, p["dimensions"]),
    "select_n": lambda p, which, *xs: np.choose(np.asarray(which, int), xs),
    "slice": _slice,
    "squeeze": lambda p, x: np.squeeze(x, p["dimensions"]),
    "transpose": lambda p, x: np.transpose(x, p["permutation"]),
}

# Derivatives of the result with respect to each operand, given the operands.
PARTIALS: dict[str, Callable[..., tuple]] = {
    "add": lambda x, y: (1.0, 1.0),
    "add_any": lambda x, y: (1.0, 1.0),
    "sub": lambda x, y: (1.0, -1.0),
    "mul": lambda x, y: (y, x),
    "div": lambda x, y: (1 / y, -x / y**2),
    "neg": lambda x: (-1.0,),
    "exp": lambda x: (np.exp(x),),
    "log": lambda x: (1 / x,),
    "tanh": lambda x: (1 - np.tanh(x) ** 2,),
    "logistic": lambda x: (_logistic(x) * _logistic(-x),),
    "sqrt": lambda x: (0.5 / np.sqrt(x),),
    "square": lambda x: (2 * x,),
    "sin": lambda x: (np.cos(x),),
    "cos": lambda x: (-np.sin(x),),
    "abs": lambda x: (np.sign(x),),
    "log1p": lambda x: (1 / (1 + x),),
    "copy": lambda x: (1.0,),
}

# Operations whose results are entries of their operands.
COPIES = frozenset(
    [
        *("broadcast_in_dim", "concatenate", "convert_element_type", "dynamic_slice"),
        *("dynamic_update_slice", "expand_dims", "gather", "pad", "reshape", "rev", "slice"),
        *("split", "squeeze", "stack", "step", "transpose"),
    ]
)


def evaluate(
    name: str, params: Mapping[str, Any], inputs: Sequence[Any]
) -> list[np.ndarray] | None:
    """Return the results of an operation, or None where it is left to JAX.

    Example:
        >>> evaluate("mul", {}, [np.array([1.0, 2.0]), np.array(3.0)])
        [array([3., 6.])]
    """
    kinds = [getattr(x, "dtype", None) for x in inputs]
    double = all(kind == np.float64 for kind in kinds)
    if not all(kind == np.float64 or getattr(kind, "kind", "O") in "biu" for kind in kinds):
        return None
    if name in _EXACT or (double and name in _FUNCTIONS):
        return [np.asarray((_EXACT.get(name) or _FUNCTIONS[name])(*inputs))]
    if name in _BY_PARAMETERS:
        return [np.asarray(_BY_PARAMETERS[name](params, *inputs))]
    if name == "dot_general" and double:
        x, y, out = _letters(params["dimension_numbers"], inputs)
        return [np.einsum(f"{x},{y}->{out}", *inputs, optimize=True)]
    return None


class Passage(NamedTuple):
    """How tangents and cotangents pass through an operation at one point.

    Attributes:
        push: tangents, by operand -> tangents, by output.
        pull: cotangents, by output -> what flows back, by operand.
    """

    push: Callable[[Mapping], Mapping]
    pull: Callable[[Mapping], Mapping]


def passage(
    name: str,
    function: Callable[..., Sequence[Any]],
    params: Mapping[str, Any],
    inputs: Sequence[Any],
    shapes: Sequence[tuple[int, ...]],
    operands: Sequence[int],
    outputs: Sequence[int],
) -> Passage:
    """Return the passage through an operation.

    Args:
        name, function, params: the operation.
        inputs: all its operands.
        shapes: of all its results.
        operands, outputs: the numbers of those that something passes through.

    Example:
        >>> import jax.numpy as jnp
        >>> at = [np.arange(3.0)]
        >>> through = passage("cumsum", lambda x: [jnp.cumsum(x)], {}, at, [(3,)], [0], [0])
        >>> through.pull({0: np.array([[1.0, 1.0, 1.0]])})[0]
        array([[3., 2., 1.]])
    """
    if name == "dot_general":
        return _product(params["dimension_numbers"], inputs, operands)
    if name == "reduce_sum":
        return _sum(params["axes"], np.shape(inputs[0]))
    if name in COPIES:
        return _copy(name, function, params, inputs, shapes, operands, outputs)
    sizes = sum(np.size(inputs[j]) for j in operands), sum(math.prod(shapes[i]) for i in outputs)
    given = name, function, inputs, shapes, operands, outputs, sizes
    if name.startswith(_OWN_RULE):  # which need not be linear in the cotangent
        return Passage(_dense(*given).push, _jax(*given).pull)
    return _dense(*given) if sizes[0] * sizes[1] <= MOST_NUMBERS else _jax(*given)


def _letters(numbers, inputs):
    """Return which axes of a product of arrays go together, in the notation of einsum."""
    ((left, right), (left_batch, right_batch)), letters = numbers, iter("abcdefghijklmnopqrstuvwxy")
    names: list[dict[int, str]] = [{}, {}]
    for one, two in (*zip(left_batch, right_batch, strict=True), *zip(left, right, strict=True)):
        names[0][one] = names[1][two] = next(letters)
    free = ["", ""]
    for side in (0, 1):
        for axis in range(np.ndim(inputs[side])):
            if axis not in names[side]:
                names[side][axis] = next(letters)
                free[side] += names[side][axis]
    x, y = ("".join(names[side][a] for a in range(np.ndim(inputs[side]))) for side in (0, 1))
    return x, y, "".join(names[0][a] for a in left_batch) + free[0] + free[1]


def _product(numbers, inputs, operands):
    x, y, out = _letters(numbers, inputs)
    forms = {
        0: (f"z{x},{y}->z{out}", f"z{out},{y}->z{x}"),
        1: (f"z{y},{x}->z{out}", f"z{out},{x}->z{y}"),
    }

    def push(tangents):
        terms = (
            np.einsum(forms[j][0], t, inputs[1 - j], optimize=True) for j, t in tangents.items()
        )
        return {0: sum(terms)}

    def pull(cotangents):
        return {
            j: np.einsum(forms[j][1], cotangents[0], inputs[1 - j], optimize=True) for j in operands
        }

    return Passage(push, pull)


def _sum(axes, shape):
    behind = tuple(a + 1 for a in axes)

    def pull(cotangents):
        g = np.expand_dims(cotangents[0], behind)
        return {0: np.broadcast_to(g, (len(g), *shape))}

    return Passage(lambda tangents: {0: tangents[0].sum(axis=behind)}, pull)


def _copy(name, function, params, inputs, shapes, operands, outputs):
    """Ask the operation itself which entry goes where, by giving it numbered entries."""
    start, numbered, starts = 1, [], {}
    for j, value in enumerate(inputs):
        if j in operands:
            starts[j] = start
            value = np.arange(start, start + np.size(value), dtype=float).reshape(np.shape(value))
            start += value.size
        elif np.issubdtype(np.asarray(value).dtype, np.floating):
            value = np.zeros_like(value)
        numbered.append(value)
    results = evaluate(name, params, numbered) or function(*numbered)
    index = {i: np.nan_to_num(np.asarray(results[i], float)).astype(int).ravel() for i in outputs}
    maps = []  # (output, operand, entries of the output, entries of the operand, each one once)
    for i, numbers in index.items():
        for j in operands:
            to = np.flatnonzero((numbers >= starts[j]) & (numbers < starts[j] + np.size(inputs[j])))
            if to.size:
                source = numbers[to] - starts[j]
                order = np.argsort(source, kind="stable")
                first = np.flatnonzero(np.diff(source[order], prepend=-1))
                maps.append((i, j, to, source, order, first))

    def push(tangents):
        count = len(next(iter(tangents.values())))
        found = {i: np.zeros((count, math.prod(shapes[i]))) for i in outputs}
        for i, j, to, source, *_ in maps:
            if j in tangents:
                found[i][:, to] = tangents[j].reshape(count, -1)[:, source]
        return {i: out.reshape(count, *shapes[i]) for i, out in found.items()}

    def pull(cotangents):
        count = len(next(iter(cotangents.values())))
        found = {j: np.zeros((count, np.size(inputs[j]))) for j in operands}
        for i, j, to, source, order, first in maps:
            if i in cotangents:
                g = cotangents[i].reshape(count, -1)[:, to[order]]
                if len(first) < len(order):
                    g = np.add.reduceat(g, first, axis=1)
                found[j][:, source[order][first]] += g
        return {j: out.reshape(count, *np.shape(inputs[j])) for j, out in found.items()}

    return Passage(push, pull)


def _restricted(function, inputs, operands, outputs):
    """Return a function of the operands that something passes through, and their values."""

    def restricted(*chosen):
        every = list(inputs)
        for j, value in zip(operands, chosen, strict=True):
            every[j] = value
        results = function(*every)
        return [results[i] for i in outputs]

    return restricted, [inputs[j] for j in operands]


@functools.lru_cache(maxsize=512)
def _jacobian(make, function, operands, outputs):
    """Return the Jacobian of an operation as a function of its inputs, compiled."""

    @compiled
    def jacobian(inputs):
        restricted, at = _restricted(function, inputs, operands, outputs)
        return make(restricted, argnums=tuple(range(len(at))))(*at)

    return jacobian


def _dense(name, function, inputs, shapes, operands, outputs, sizes):
    # A loop whose end is not known beforehand cannot be gone through backwards, a function with a
    # rule of its own for the way back not forwards.
    forwards = name == "while" or sizes[0] <= sizes[1]
    make = jax.jacfwd if forwards and not name.startswith(_OWN_RULE) else jax.jacrev
    found = _jacobian(make, function, tuple(operands), tuple(outputs))(list(inputs))
    jacobians = {
        (i, j): np.asarray(found[a][b], np.float64).reshape(math.prod(shapes[i]), -1)
        for a, i in enumerate(outputs)
        for b, j in enumerate(operands)
    }

    def push(tangents):
        count = len(next(iter(tangents.values())))
        flat = {j: t.reshape(count, -1) for j, t in tangents.items()}
        sums = {i: [t @ jacobians[i, j].T for j, t in flat.items()] for i in outputs}
        return {i: np.sum(terms, axis=0).reshape(count, *shapes[i]) for i, terms in sums.items()}

    def pull(cotangents):
        count = len(next(iter(cotangents.values())))
        flat = {i: g.reshape(count, -1) for i, g in cotangents.items()}
        sums = {j: [g @ jacobians[i, j] for i, g in flat.items()] for j in operands}
        return {
            j: np.sum(terms, axis=0).reshape(count, *np.shape(inputs[j]))
            for j, terms in sums.items()
        }

    return Passage(push, pull)


def _jax(name, function, inputs, shapes, operands, outputs, sizes):
    restricted, at = _restricted(function, inputs, operands, outputs)
    results, back = jax.vjp(restricted, *at)
    vjp = jax.vmap(lambda cotangents: back(cotangents))

    def stacked(given, numbers, like):
        """Return what is given for these operands or outputs, zeros where there is nothing."""
        count = len(next(iter(given.values())))
        return [
            np.asarray(given.get(i, np.zeros((count, *np.shape(one)))), one.dtype)
            for i, one in zip(numbers, like, strict=True)
        ]

    def push(tangents):
        given = stacked(tangents, operands, at)
        pushed = jax.vmap(lambda *ts: jax.jvp(restricted, tuple(at), ts)[1])(*given)
        return {i: np.asarray(t, np.float64) for i, t in zip(outputs, pushed, strict=True)}

    def pull(cotangents):
        pulled = vjp(stacked(cotangents, outputs, results))
        return {j: np.asarray(e, np.float64) for j, e in zip(operands, pulled, strict=True)}

    return Passage(push, pull)
