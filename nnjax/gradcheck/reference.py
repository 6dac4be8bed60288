"""What a gradient is held against: autodiff in float64, its rounding, and finite differences.

The reference is `jax.grad`. Its rounding is measured, not guessed: the same program is run again
with every operation off by a random ulp (Monte Carlo arithmetic, Parker 1997), and what then
changes cannot be told from a mistake. Central differences are the arbiter, where reference and
claim disagree or the reference itself is in doubt, and the reference of functions that JAX cannot
trace.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "Slope",
    "compiled",
    "double_precision",
    "nearby",
    "numerical_gradient",
    "program_within",
    "rounding_noise",
    "slope",
    "to_double",
]

EPS = float(np.finfo(np.float64).eps)
LARGEST = 5000

# A check runs a program a few times only, so that compiling it well costs more than it gains.
compiled = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Compute in float64 inside, at full matmul precision, whatever the caller has set.

    Example:
        >>> import jax.numpy as jnp
        >>> with double_precision():
        ...     jnp.ones(1).dtype
        dtype('float64')
    """
    with (
        jax.enable_x64(True),
        jax.default_matmul_precision("highest"),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


def to_double(tree: Any) -> Any:
    """Return the pytree with its floating-point arrays and numbers in float64, the rest as is."""

    def convert(leaf):
        if isinstance(leaf, float):
            return jnp.asarray(leaf, jnp.float64)
        if hasattr(leaf, "detach"):
            leaf = leaf.detach().cpu().numpy()
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or jnp.issubdtype(dtype, jax.dtypes.prng_key):
            return leaf
        if not (jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_)):
            raise TypeError(f"an argument is an array of dtype {dtype}; expected numbers")
        floating = jnp.issubdtype(dtype, jnp.floating)
        return jnp.asarray(np.asarray(leaf), jnp.float64 if floating else dtype)

    return jax.tree.map(convert, tree)


def nearby(tree: Any, strength: float, seed: int, sign: int = 1) -> Any:
    """Return float leaves moved by a random fraction, `strength` of their own size, keeping signs.

    Zeros move too, by the same fraction of the root mean square of their leaf (of 1, in a leaf of
    zeros). Opposite values of `sign` move to opposite sides.
    """
    rng = np.random.default_rng(seed)

    def move(leaf):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return leaf
        value = np.asarray(leaf, np.float64)
        step = sign * strength * rng.uniform(-1, 1, value.shape)
        return jax.device_put(value + step * np.where(value == 0, typical_size(value), value))

    return jax.tree.map(move, tree)


def typical_size(value: np.ndarray) -> float:
    """Return the root mean square of a leaf, 1 where it is all zeros."""
    return float(np.sqrt(np.mean(np.square(value)))) or 1.0 if value.size else 1.0


# Rounding: Monte Carlo arithmetic. What follows only moves or chooses numbers and does not round.

EXACT = frozenset(
    [
        *("neg", "abs", "sign", "max", "min", "reduce_max", "reduce_min", "select_n"),
        *("transpose", "reshape", "squeeze", "expand_dims", "broadcast_in_dim", "rev", "copy"),
        *("slice", "dynamic_slice", "dynamic_update_slice", "gather", "concatenate", "pad"),
        *("convert_element_type", "stop_gradient"),
    ]
)


def rounding_noise(function: Callable, args: tuple) -> Callable[..., list[np.ndarray]]:
    """Return noise(*args): how far rounding alone moves every output of `function`, leaf by leaf.

    The largest change seen in three runs in which every floating-point operation errs by up to one
    unit in the last place (of float32, where the function calculates so), smoothed over each leaf,
    times a safety factor of 30: another right way to calculate the same rounds otherwise, and not
    more than this.

    Args:
        function: traceable by JAX, returning a pytree of arrays.
        args: example arguments; `noise` takes others of the same shapes.

    Example:
        >>> import jax.numpy as jnp
        >>> with double_precision():
        ...     x = jnp.array(1e-3)
        ...     noise = rounding_noise(lambda x: (1 + x) - 1, (x,))
        ...     bool(1e-16 < noise(x)[0] < 1e-13)
        True
    """
    program = jax.make_jaxpr(function)(*args)
    kinds: list[tuple[tuple[int, ...], Any]] = []

    def record(value):
        kinds.append((value.shape, value.dtype))
        return value

    jax.eval_shape(
        lambda *leaves: _run(program.jaxpr, program.consts, leaves, record), *jax.tree.leaves(args)
    )

    @compiled
    def disturbed(ulps, *leaves):
        ulps = iter(ulps)
        return _run(program.jaxpr, program.consts, leaves, lambda value: value * next(ulps))

    def noise(*args):
        leaves, rng = jax.tree.leaves(args), np.random.default_rng(0)
        right = disturbed([np.ones(shape, dtype) for shape, dtype in kinds], *leaves)
        spread = [np.zeros(out.shape) for out in right]
        for _ in range(3):
            ulps = [
                (1 + float(jnp.finfo(dtype).eps) * rng.uniform(-1, 1, shape)).astype(dtype)
                for shape, dtype in kinds
            ]
            outputs = disturbed(ulps, *leaves)
            for widest, out, exact in zip(spread, outputs, right, strict=True):
                np.maximum(widest, np.abs(np.asarray(out) - np.asarray(exact)), out=widest)
        return [
            30 * np.maximum(widest, _smoothed(widest, np.abs(np.asarray(exact))))
            for widest, exact in zip(spread, right, strict=True)
        ]

    return noise


def _smoothed(widest, size):
    """Return the rounding to expect of every entry from that of the others.

    Entries of very different size round each in proportion to their own; where terms cancel they
    round as the leaf does.
    """
    by_leaf, some = _root_mean_square(widest), size > 0
    with np.errstate(all="ignore"):  # the smallest of sizes make infinite quotients
        by_size = _root_mean_square(widest[some] / size[some]) * size
    return np.where(some, np.fmin(by_leaf, by_size), by_leaf)


def _root_mean_square(array):
    largest = np.max(array, initial=0.0)
    return largest * np.sqrt(np.mean((array / largest) ** 2)) if largest > 0 else 0.0


def _run(jaxpr, consts, args, disturb):
    """Run a program, with `disturb` applied to the result of every operation that rounds."""
    from jax.extend import core  # costs 50 ms, which `import nnjax` need not pay

    values = {}

    def read(atom):
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for variables, given in ((jaxpr.constvars, consts), (jaxpr.invars, args)):
        values.update(zip(variables, given, strict=True))
    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        inner = program_within(equation)
        if inner is not None:
            outputs = _run(*inner, inputs, disturb)
        else:
            primitive = equation.primitive
            bound = primitive.bind(*inputs, **equation.params)
            outputs = bound if primitive.multiple_results else [bound]
            if primitive.name not in EXACT or _narrows(inputs, outputs):
                outputs = [disturb(out) if _is_floating(out) else out for out in outputs]
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _is_floating(value):
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.floating)


def _narrows(inputs, outputs):
    """Return whether numbers become shorter, as in float32: that rounds, too."""
    floats = [[v.dtype.itemsize for v in vs if _is_floating(v)] for vs in (inputs, outputs)]
    return bool(floats[0] and floats[1]) and min(floats[1]) < max(floats[0])


def program_within(equation: Any) -> tuple[Any, Sequence[Any]] | None:
    """Return the program within an equation (jit and the like) and its constants; None if none."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = equation.params.get(name)
        if inner is not None and equation.primitive.name not in ("scan", "while", "cond"):
            jaxpr, consts = (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())
            if len(jaxpr.invars) == len(equation.invars):
                return jaxpr, consts
    return None


# Finite differences: the arbiter.


class Slope(NamedTuple):
    """What differences say about f along one line θ + h v.

    Attributes:
        value: the derivative by central differences.
        error: how far that can be off, from rounding and from the steps around it.
        left, right: the two one-sided derivatives; they differ at a kink.
        side_error: the rounding of these two.
        taylor: the exponent of |f(θ + hv) − f(θ) − h ⟨g, v⟩| as h shrinks, one for each g given:
            2.0 when g is right, 1.0 when it is not; NaN where f is linear or rounding hides it.
    """

    value: float
    error: float
    left: float
    right: float
    side_error: float
    taylor: tuple[float, ...]


def slope(line: Callable[[float], float], *predicted: float, eps: float = EPS) -> Slope:
    """Return the derivative of `line(h)` at h = 0 by differences, beside those predicted.

    The steps are fractions of v, so that v should be of the size of the parameters that it moves.
    Of all steps the one is taken whose neighbours agree best.

    Args:
        line: h ↦ f(θ + h v).
        *predicted: ⟨g, v⟩ for every g to hold against it in the Taylor test.
        eps: one unit in the last place of the numbers that f calculates in, relative to them.

    Example:
        >>> import math
        >>> found = slope(math.exp, 1.0, 1.1)
        >>> round(found.value, 8), [round(exponent, 1) for exponent in found.taylor]
        (1.0, [2.0, 1.0])
    """
    steps = 2.0 ** -np.arange(4, 26, 2)
    near = 7  # h = 2⁻¹⁸: close enough to tell a kink at h = 0 from one beside it
    with np.errstate(all="ignore"):
        return _slope(line, steps, near, predicted, eps)


def _slope(line, steps, near, predicted, eps):
    centre = line(0.0)
    ahead = np.array([line(h) for h in steps])
    behind = np.array([line(-h) for h in steps])
    rounding = 4 * eps * np.maximum(np.maximum(np.abs(ahead), np.abs(behind)), abs(centre)) / steps
    central = (ahead - behind) / (2 * steps)
    # Two central differences, h and h/4, extrapolated (Richardson); what they changed by is the
    # truncation that is left, at most.
    better = (16 * central[1:] - central[:-1]) / 15
    error = np.abs(better - central[1:]) / 15 + 2 * rounding[1:]
    error = np.where(np.isfinite(error), error, np.inf)
    best = int(np.argmin(error))
    sides = [
        (4 * one_sided[near] - one_sided[near - 1]) / 3  # Richardson, of first order
        for one_sided in ((centre - behind) / steps, (ahead - centre) / steps)
    ]
    return Slope(
        value=float(better[best]),
        error=float(error[best]),
        left=float(sides[0]),
        right=float(sides[1]),
        side_error=float(10 * rounding[near]),
        taylor=tuple(
            _exponent(steps, ahead, centre, by_gradient, eps) for by_gradient in predicted
        ),
    )


def _exponent(steps, ahead, centre, by_gradient, eps):
    remainder = np.abs(ahead - centre - steps * by_gradient)
    seen = remainder > 50 * eps * (np.abs(ahead) + abs(centre))
    if seen.sum() < 3:
        return float("nan")
    # The median: large steps see higher orders, small ones see rounding.
    return float(np.median(np.diff(np.log(remainder[seen])) / np.diff(np.log(steps[seen]))))


def numerical_gradient(
    value: Callable[[list[np.ndarray]], Any], leaves: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the gradient of a function that only can be called, and how far off it can be.

    By the complex step Im f(θ + i h) / h, which does not round, where differences confirm it;
    else by differences, entry by entry.

    Args:
        value: leaves ↦ a number.
        leaves: arrays of float64.

    Raises:
        TypeError: if there are too many entries.

    Example:
        >>> import numpy as np
        >>> (g,), (off,) = numerical_gradient(lambda p: (p[0] ** 3).sum(), [np.array([1.0, 2.0])])
        >>> g.round(9).tolist(), bool(off.max() < 1e-9)
        ([3.0, 12.0], True)
    """

    def along(directions):
        return lambda h: float(
            np.real(value([p + h * v for p, v in zip(leaves, directions, strict=True)]))
        )

    def unit(i, k):
        one = [np.zeros(p.shape) for p in leaves]
        one[i].flat[k] = typical_size(leaves[i])
        return one

    places = [(i, k) for i, p in enumerate(leaves) for k in range(p.size)]
    if len(places) > LARGEST:
        raise TypeError(
            f"the gradient has {len(places)} entries, too many to find one by one by differences; "
            f"give a smaller example (at most {LARGEST}), or a function that JAX can trace"
        )
    found, error = ([np.zeros(p.shape) for p in leaves] for _ in range(2))
    by_step = _complex_steps(value, leaves, places)
    if by_step is not None:
        rng = np.random.default_rng(0)
        random = [typical_size(p) * rng.normal(size=p.shape) for p in leaves]
        told = slope(along(random))
        predicted = sum(np.vdot(g, v) for g, v in zip(by_step, random, strict=True))
        if abs(told.value - predicted) <= 10 * told.error + 1e-9 * abs(predicted):
            return by_step, [
                np.full(g.shape, 1e-13 * np.max(np.abs(g), initial=0)) for g in by_step
            ]
    eps = EPS
    if places:
        rng = np.random.default_rng(0)
        line = along([typical_size(p) * rng.normal(size=p.shape) for p in leaves])
        if _in_float32(line):
            eps = float(np.finfo(np.float32).eps)
    for i, k in places:
        told, size = slope(along(unit(i, k)), eps=eps), typical_size(leaves[i])
        found[i].flat[k] = told.value / size
        error[i].flat[k] = 10 * told.error / size
    return found, error


def _in_float32(line) -> bool:
    """Return whether a function calculates in float32 on its way: it stays the same where it would
    have moved by many units of float64."""
    step, centre = 2.0**-34, line(0.0)
    moved = slope(line).value * step
    still = all(line(h) == centre for h in (step, -step, step / 3))
    return still and abs(moved) > 1e3 * EPS * abs(centre)


def _complex_steps(value, leaves, places):
    """Return the gradient by complex steps; None where the function does not take them."""
    found = [np.zeros(p.shape) for p in leaves]
    try:
        for i, k in places:
            moved = [p.astype(complex) if i == j else p for j, p in enumerate(leaves)]
            moved[i].flat[k] += 1e-30j
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # a part that is thrown away is only a warning
                result = value(moved)
            if not np.iscomplexobj(result):
                return None
            found[i].flat[k] = np.imag(result) / 1e-30
    except Exception:
        return None
    return found
