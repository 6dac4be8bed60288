"""`check_gradient`, `check_vjp` and `assert_gradient`: is this gradient right?"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.gradcheck.claim import Claim
from nnjax.gradcheck.compare import named_leaves
from nnjax.gradcheck.examine import examine
from nnjax.gradcheck.mistakes import general_candidates, jacobian_candidates
from nnjax.gradcheck.reference import double_precision, to_double
from nnjax.gradcheck.report import GradientReport
from nnjax.gradcheck.subject import Subject

__all__ = ["assert_gradient", "check_gradient", "check_vjp"]


COVERED = "3 points in float64"
NOT_COVERED = "other shapes, other precisions, other devices"


def check_gradient(
    f: Callable,
    grad_f: Callable,
    *args: Any,
    argnums: int | Sequence[int] = 0,
    time_limit: float = 60.0,
    repeat: str = "",
) -> GradientReport:
    """Return a report on whether `grad_f` is the gradient of the scalar function f.

    Both are called in float64, at the arguments given and at two points around them. The reference
    is `jax.grad(f)`, held against central differences.

    Args:
        f: f(*args) -> a scalar, traceable by JAX.
        grad_f: grad_f(*args) -> ∂f/∂args[argnums], in the structure of that argument (a tuple, if
            argnums is one), of JAX, NumPy or PyTorch arrays.
        *args: example arguments, pytrees of arrays; integer arrays and other objects are passed on
            as they are.
        argnums: which of them the gradient is for.
        time_limit: seconds that one call of `grad_f` may take.
        repeat: the command that repeats the check, for the report.

    Raises:
        TypeError: if f returns no scalar, or the gradient is asked for an argument that holds
            integers.
        ValueError: if argnums does not fit the arguments.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> f = lambda w: jnp.sum(w**2) / 2
        >>> nnjax.check_gradient(f, lambda w: w, jnp.array([1.0, -2.0])).ok
        True
        >>> print(nnjax.check_gradient(f, lambda w: 2 * w, jnp.array([1.0, -2.0])).diagnosis)
        factor 2: twice too large, as when the ½ of a square is forgotten

    Differs from `jax.test_util.check_grads`, which compares along one random direction and with a
    tolerance that grows with the size of the arrays.
    """
    with double_precision():
        args = to_double(args)
        positions = _checked_positions(argnums, args)
        _require_scalar(f, args)
        argnums = positions[0] if isinstance(argnums, int) else positions
        claim = Claim(grad_f, time_limit)
        subject = Subject(
            f, claim, argnums, names=_names(f, args, argnums), **_batch(args, positions)
        )
        probes = _probes(subject, args)
        _by_jax(f, lambda: probes[0].expected)
        return examine(
            f"the gradient {_name(grad_f)} of {_name(f)}",
            claim,
            probes,
            covered=f"{COVERED}: {'; '.join(probe.label for probe in probes)}",
            not_covered=NOT_COVERED,
            repeat=repeat,
        )


def check_vjp(
    f: Callable, vjp: Callable | None = None, *args: Any, time_limit: float = 60.0
) -> GradientReport:
    """Return a report on whether `vjp` pulls errors back through f as it should.

    For random output weights g the pull-back is the gradient of ⟨g, f(x)⟩, so that nothing which a
    plain sum of outputs would hide stays hidden. The adjoint test ⟨g, J v⟩ = ⟨Jᵀg, v⟩ is included:
    J v by differences.

    Args:
        f: f(*args) -> a pytree of arrays, traceable by JAX; or a `jax.custom_vjp` function, whose
            own rule is then checked against its primal, and `vjp` is None.
        vjp: vjp(*args, g) -> ∂⟨g, f⟩/∂args, an array or a tuple with one entry an argument; or a
            function like `jax.vjp(f, *args)`: vjp(*args) -> (f(*args), pull_back), with
            pull_back(g); or a `jax.custom_vjp` function with f as its primal.
        *args: example arguments.
        time_limit: seconds that one call of `vjp` may take.

    Raises:
        TypeError: if no argument holds floating-point numbers, or vjp is None and f has no rule.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> z = jnp.array([0.3, -1.2, 2.0])
        >>> nnjax.check_vjp(jnp.tanh, lambda z, g: g * (1 - jnp.tanh(z) ** 2), z).ok
        True
    """
    if vjp is not None and not callable(vjp):
        raise TypeError(f"vjp is {vjp!r}; expected a function vjp(*args, g), then the arguments")
    if vjp is None:
        if not isinstance(f, jax.custom_vjp):
            raise TypeError(
                "vjp is None; expected vjp(*args, g), or a jax.custom_vjp function as f"
            )
        vjp = f
    if isinstance(f, jax.custom_vjp):
        f = f.__wrapped__
    with double_precision():
        args = to_double(args)
        positions = tuple(i for i, argument in enumerate(args) if _is_floating(argument))
        if not positions:
            raise TypeError(f"none of the {len(args)} arguments holds floating-point numbers")
        outputs = jax.eval_shape(f, *args)
        pull_back = _pull_back_of(vjp, len(args))

        def weighted(g, *args):
            products = jax.tree.map(lambda w, out: jnp.sum(w * out), g, f(*args))
            return sum(jax.tree.leaves(products), jnp.zeros(()))

        def claimed(g, *args):
            pulled = pull_back(args, g)
            if not isinstance(pulled, (tuple, list)) or _is_entry(pulled, args):
                pulled = (pulled,)
            if len(pulled) == len(args):
                return tuple(pulled[i] for i in positions)
            return tuple(pulled)

        claim = Claim(claimed, time_limit)
        argnums = tuple(i + 1 for i in positions)
        subject = Subject(weighted, claim, argnums, names=_names(f, args, positions))
        probes = [
            subject.at(label, (_weights(outputs, seed), *around[1:]))
            for seed, label, around in _around(subject, (None, *args))
        ]
        return examine(
            f"the pull-back {_name(vjp)} of {_name(f)}",
            claim,
            probes,
            candidates=partial(_pull_back_candidates, f),
            covered=f"{COVERED}, random output weights: "
            f"{'; '.join(probe.label for probe in probes)}",
            not_covered=NOT_COVERED,
        )


def assert_gradient(f: Callable, grad_f: Callable, *args: Any, **options: Any) -> None:
    """Raise `GradientError`, an AssertionError with the report, unless `grad_f` is f's gradient.

    For tests, in one line; arguments as for `check_gradient`.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> nnjax.assert_gradient(jnp.sin, jnp.cos, 0.3)
    """
    check_gradient(f, grad_f, *args, **options).raise_if_wrong()


def _pull_back_candidates(f, probes):
    """Yield the mistakes about a Jacobian, where f maps one array to one, then the general ones."""
    args = probes[0].args
    if len(args) == 2 and all(hasattr(argument, "shape") for argument in args):
        yield from jacobian_candidates(f)
    yield from general_candidates(probes)


def _probes(subject, args):
    return [subject.at(label, around) for _, label, around in _around(subject, args)]


def _around(subject, args):
    yield 0, "the arguments given", args
    for seed in (1, 2):
        yield seed, f"random point {seed}", subject.moved(args, 0.5, seed)


def _weights(outputs, seed):
    """Return random output weights, one a number, all away from 0."""
    rng = np.random.default_rng(seed)

    def draw(out):
        sign = rng.choice([-1.0, 1.0], out.shape)
        return jnp.asarray(sign * rng.uniform(0.5, 1.5, out.shape), out.dtype)

    return jax.tree.map(draw, outputs)


def _pull_back_of(vjp, count):
    """Return (args, g) ↦ the pull-back, from any of the forms that it may be written in."""
    if isinstance(vjp, jax.custom_vjp):
        return lambda args, g: jax.vjp(vjp, *args)[1](g)
    try:
        inspect.signature(vjp).bind(*range(count + 1))
    except TypeError:

        def from_pair(args, g):
            out = vjp(*args)
            return (out[1] if isinstance(out, tuple) else out)(g)

        return from_pair
    except ValueError:  # a built-in function tells nothing
        pass
    return lambda args, g: vjp(*args, g)


def _is_entry(pulled, args):
    """Whether a tuple is the gradient of the only argument, itself a tuple, not a tuple of one."""
    only = args[0] if len(args) == 1 else None
    return isinstance(only, (tuple, list)) and len(pulled) == len(only)


def _is_floating(argument):
    leaves = jax.tree.leaves(argument)
    return bool(leaves) and all(
        hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves
    )


def _checked_positions(argnums, args):
    given = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if not given or not all(isinstance(i, int) and -len(args) <= i < len(args) for i in given):
        raise ValueError(f"argnums is {argnums!r}, but there are {len(args)} example arguments")
    positions = tuple(i % len(args) for i in given)
    for i in positions:
        for path, leaf in zip(*named_leaves(args[i]), strict=True):
            dtype = getattr(leaf, "dtype", type(leaf).__name__)
            if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise TypeError(
                    f"argument {i}{path} has dtype {dtype}; a gradient needs floating-point "
                    "numbers: give it as floats, or choose other argnums"
                )
    return positions


def _require_scalar(f, args):
    out = _by_jax(f, lambda: f(*args))
    shape, dtype = getattr(out, "shape", None), getattr(out, "dtype", type(out))
    if isinstance(out, float):
        return
    if shape != () or not jnp.issubdtype(dtype, jnp.floating):
        came = f"a {type(out).__name__}" if shape is None else f"an array of shape {shape}"
        came = f"a scalar of dtype {dtype}" if shape == () else came
        raise TypeError(
            f"{_name(f)} returns {came}; a gradient needs a real scalar: return the sum, or use "
            "check_vjp"
        )


def _by_jax(f, call):
    """Return what a call of f by JAX returns; TypeError in one sentence where that fails."""
    try:
        return call()
    except Exception as error:
        message = " ".join(str(error).split())[:200]
        raise TypeError(
            f"{_name(f)} cannot be differentiated by JAX at the example arguments: "
            f"{type(error).__name__}: {message}"
        ) from error


def _names(f, args, argnums):
    """Return what to call the leaves: the parameter's own name, then the path in it."""
    positions = (argnums,) if isinstance(argnums, int) else argnums
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names = []
    for i in positions:
        own = i < len(parameters) and parameters[i].kind in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        )
        base = parameters[i].name if own else f"args[{i}]"
        names += [base + path for path in named_leaves(args[i])[0]]
    return names


def _batch(args, positions):
    """Return how to count and pick examples, where other arguments share a first axis."""
    others = [
        i
        for i, argument in enumerate(args)
        if i not in positions and getattr(argument, "ndim", 0) >= 1
    ]
    if not others or len({args[i].shape[0] for i in others}) != 1 or args[others[0]].shape[0] < 2:
        return {}

    def subset(args, indices):
        picked = np.asarray(list(indices))
        return tuple(
            argument[picked] if i in others else argument for i, argument in enumerate(args)
        )

    return {"examples": lambda args: args[others[0]].shape[0], "subset": subset}


def _name(function):
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    name = getattr(function, "__name__", None) or type(function).__name__
    return "(lambda)" if name == "<lambda>" else name
