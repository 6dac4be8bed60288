"""`check_gradient`, `check_vjp`, `check_forward_backward`, `assert_gradient`: is it right?"""

from __future__ import annotations

import contextlib
import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.gradcheck.compare import Misfit, named_leaves, relative_error, to_numpy
from nnjax.gradcheck.domains import convention, domains_of, noticed
from nnjax.gradcheck.examine import examine
from nnjax.gradcheck.finding import Finding
from nnjax.gradcheck.forms import (
    Claim,
    checked_positions,
    is_scalar,
    name_of,
    named_rate,
    parameter_names,
    read_gradient,
    read_step,
    scalar_in,
    value_in,
)
from nnjax.gradcheck.mistakes import general_candidates, jacobian_candidates
from nnjax.gradcheck.passes import Pass, gradients_of, of_torch, pull_back_of
from nnjax.gradcheck.problem import Point, Problem, labels
from nnjax.gradcheck.reference import double_precision, to_double
from nnjax.gradcheck.report import GradientReport
from nnjax.gradcheck.scale import rescaled, scaled
from nnjax.gradcheck.substitute import evaluable
from nnjax.gradcheck.terms import explain_residual

__all__ = ["assert_gradient", "check_forward_backward", "check_gradient", "check_vjp"]

NOT_COVERED = "other shapes, other precisions, other devices"


def _not_covered(names: Sequence[str], positions: Sequence[int], args: tuple) -> str:
    """Return what a check leaves out: the arguments that stay as they are given, too."""
    fixed = [
        name
        for i, (name, argument) in enumerate(zip(names, args, strict=True))
        if i not in positions and _is_floating(argument)
    ]
    return f"{NOT_COVERED}, other values of {' and '.join(fixed)}" if fixed else NOT_COVERED


def check_gradient(
    f: Callable,
    grad_f: Any = None,
    *args: Any,
    argnums: int | Sequence[int] = 0,
    domain: str | dict[str, str] | None = None,
    time_limit: float = 60.0,
    repeat: str = "",
) -> GradientReport:
    """Return a report on whether `grad_f` is the gradient of the scalar function f.

    Both are called in float64, at the arguments given and at two points around them. The reference
    is `jax.grad(f)`, held against finite differences. A NumPy function is traced with jax.numpy in
    numpy's place; where that fails, finite differences are the reference.

    Args:
        f: f(*args) -> a scalar, or a pair of a scalar and its gradient. Without `grad_f`, as in
            `check_gradient(f, *args)`, it is the pair that is checked.
        grad_f: grad_f(*args) -> ∂f/∂args[argnums], in the structure of that argument (a tuple, if
            argnums is one), of JAX, NumPy or PyTorch arrays; or (value, gradient) in either order,
            a dict such as {"dw": ...}, a flat tuple; or nothing, if it takes a step of gradient
            descent in place: the step is then what is checked, with its learning rate where it is
            named (an argument, an attribute or a variable such as lr, eta or learning_rate).
        *args: example arguments, pytrees of arrays; integer arrays and other objects are passed on
            as they are.
        argnums: which of them the gradient is for.
        domain: the set in which the arguments lie, "symmetric", "positive definite", "simplex" or
            "orthogonal", for all or by name as in {"S": "symmetric"}: only directions along it
            count. An argument that lies in such a set is noticed.
        time_limit: seconds that one call of `grad_f` may take.
        repeat: the command that repeats the check, for the report.

    Raises:
        TypeError: if f returns no scalar, or the gradient is asked for an argument that holds
            integers.
        ValueError: if argnums, domain or time_limit does not fit the arguments.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> f = lambda w: jnp.sum(jnp.sin(w))
        >>> nnjax.check_gradient(f, jnp.cos, jnp.array([1.0, -2.0])).ok
        True
        >>> report = nnjax.check_gradient(f, lambda w: -jnp.cos(w), jnp.array([1.0, -2.0]))
        >>> report.findings[0].name
        'sign'

    Differs from `jax.test_util.check_grads`, which compares along one random direction and with a
    tolerance that grows with the size of the arrays.
    """
    if not callable(f):
        raise TypeError(f"f is a {type(f).__name__}; expected a function, then its gradient")
    if not callable(grad_f):  # f is the pair, and what came second is its first argument
        args, grad_f = (args if grad_f is None else (grad_f, *args)), f
    with double_precision():
        args = to_double(args)
        positions = checked_positions(argnums, args)
        argnums = positions[0] if isinstance(argnums, int) else positions
        claim = Claim(grad_f, time_limit)
        owner = getattr(f, "__self__", None)
        if owner is not None and owner is getattr(grad_f, "__self__", None) and f != grad_f:
            claim.before = f  # which may keep what its gradient is computed from
        function, untraceable, value = evaluable(_restoring(f), args, positions, scalar_in)
        if np.ndim(value) and _is_jacobian(claim, value, args):
            options = {"domain": domain, "time_limit": time_limit, "repeat": repeat}
            return check_vjp(f, grad_f, *args, **options)
        _require_scalar(f, value)
        single = len(positions) == 1 and is_scalar(args[positions[0]])
        if grad_f is f and not single and is_scalar(claim(*args)):
            raise TypeError(
                f"{name_of(f)} returns one number and no gradient; give the gradient as the second "
                "argument, or let the function return (value, gradient)"
            )
        names = parameter_names(f, len(args))
        own = [names[i] for i in positions]
        problem = Problem(
            function,
            _Reader(claim, function, untraceable, argnums, own, grad_f is f),
            argnums,
            names=_leaf_names(names, args, positions),
            untraceable=untraceable,
            **_batch(args, positions),
        )
        problem, points = _placed(problem, args, domain)
        return examine(
            f"the gradient {name_of(grad_f)} of {name_of(f)}",
            claim,
            points,
            explain=_explain,
            values=problem.claim.values,
            conventions=_convention,
            covered=labels(points),
            not_covered=_not_covered(names, positions, args),
            repeat=repeat,
        )


def check_vjp(
    f: Callable,
    vjp: Callable | None = None,
    *args: Any,
    domain: str | dict[str, str] | None = None,
    time_limit: float = 60.0,
    repeat: str = "",
) -> GradientReport:
    """Return a report on whether `vjp` pulls errors back through f as it should.

    For random output weights g the pull-back is the gradient of ⟨g, f(x)⟩, so that nothing which a
    plain sum of outputs would hide stays hidden. The adjoint test ⟨g, J v⟩ = ⟨Jᵀg, v⟩ is included:
    J v by differences. A value that the pull-back computes itself is compared with f(*args).

    Args:
        f: f(*args) -> a pytree of arrays; or a `jax.custom_vjp` function or a
            `torch.autograd.Function`, whose own rule is then checked, and `vjp` is None.
        vjp: vjp(*args, g) -> ∂⟨g, f⟩/∂args, an array, a tuple or dict with one entry per argument;
            or a function like `jax.vjp(f, *args)`: vjp(*args) -> (f(*args), pull_back), with
            pull_back(g); or vjp(*args) -> the Jacobian, (outputs..., inputs...), alone or beside
            the value; or a `jax.custom_vjp` or `torch.autograd.Function` with f as its primal.
        *args: example arguments.
        domain, repeat: as for `check_gradient`.
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
        if not isinstance(f, jax.custom_vjp) and of_torch(f) is None:
            raise TypeError(
                "vjp is None; expected vjp(*args, g), or a jax.custom_vjp function as f"
            )
        vjp = f
    primal = f.__wrapped__ if isinstance(f, jax.custom_vjp) else of_torch(f) or f
    with double_precision():
        args = to_double(args)
        return _examine_pass(
            f"the pull-back {name_of(vjp)} of {name_of(f)}",
            primal,
            pull_back_of(vjp, len(args)),
            vjp,
            args,
            domain,
            time_limit,
            repeat,
        )


def check_forward_backward(
    forward: Any,
    backward: Callable | None = None,
    *args: Any,
    domain: str | dict[str, str] | None = None,
    time_limit: float = 60.0,
    repeat: str = "",
) -> GradientReport:
    """Return a report on `out, cache = forward(*args)` with `grads = backward(dout, cache)`.

    backward is checked as the pull-back of forward, as in `check_vjp`.

    Args:
        forward: returns the output and what backward needs, or the output alone; or an object with
            the methods forward and backward (`backward` is None), whose arrays with gradients, such
            as W and dW, or params and grads, are checked too. Methods of one object do the same.
        backward: backward(dout, cache), in either order; backward(dout), if there is no cache. It
            returns a gradient for every argument that holds floating-point numbers: an array, a
            tuple in their order, or a dict such as {"dx": ..., "dw": ...}.
        *args: example arguments of forward.
        domain, repeat: as for `check_gradient`.
        time_limit: seconds that one call may take.

    Raises:
        TypeError: if forward fails at the example arguments, or none of them holds floats.

    Example:
        >>> import numpy as np, nnjax
        >>> def forward(x, w):
        ...     return np.tanh(x @ w), (x, w)
        >>> def backward(dout, cache):
        ...     x, w = cache
        ...     dz = dout * (1 - np.tanh(x @ w) ** 2)
        ...     return dz @ w.T, x.T @ dz
        >>> x, w = np.ones((2, 3)), np.full((3, 4), 0.1)
        >>> nnjax.check_forward_backward(forward, backward, x, w).ok
        True
    """
    with double_precision():
        way = Pass.of(forward, backward, to_double(args))
        return _examine_pass(
            f"the pull-back {way.name}",
            way.forward,
            way.pull_back,
            way.backward,
            way.args,
            domain,
            time_limit,
            repeat,
            way.names,
        )


def assert_gradient(f: Callable, grad_f: Callable, *args: Any, **options: Any) -> None:
    """Raise `GradientError`, an AssertionError with the report, unless `grad_f` is f's gradient.

    For tests, in one line; arguments as for `check_gradient`.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> nnjax.assert_gradient(jnp.sin, jnp.cos, 0.3)
    """
    check_gradient(f, grad_f, *args, **options).raise_if_wrong()


# Gradients.


@dataclass(frozen=True)
class _Reader:
    """Somebody's gradient, read in the form in which it comes."""

    claim: Claim
    function: Callable
    untraceable: str
    argnums: int | tuple[int, ...]
    names: Sequence[str]  # of the arguments
    pair: bool  # whether it is the function itself that returns the gradient beside its value

    def __call__(self, *args):
        result, parameters = self.claim(*args), _parameters(args, self.argnums)
        single = is_scalar(parameters)
        if result is None or (is_scalar(result) and not single):
            after = _parameters(self.claim.in_place(*args).arguments, self.argnums)
            if _moved(parameters, after):
                problem = Problem(self.function, self, self.argnums, untraceable=self.untraceable)
                expected = problem.at("", args).expected
                known = named_rate(self.claim.function, args)
                gradient, self.claim.learning_rate = read_step(parameters, after, expected, known)
                return gradient
        return self._read(result, parameters, args)

    def _read(self, result, parameters, args):
        def expected():
            problem = Problem(self.function, self, self.argnums, untraceable=self.untraceable)
            return problem.at("", args).expected

        value = float(self.function(*args)) if is_scalar(parameters) else np.nan
        return read_gradient(result, parameters, self.names, value, expected)

    def values(self, point: Point) -> Iterator[tuple[str, Any, Any]]:
        """Yield the value that stands beside the gradient, with what it should be."""
        result, value = self.claim(*point.args), point.value(point.args)
        read = self._read(result, point.parameters_tree, point.args)
        if self.pair or read is result:
            return
        if isinstance(result, (tuple, list)):
            result = tuple(part for part in result if part is not read)
        beside = value_in(result)
        if is_scalar(beside):
            yield "the value beside it", beside, np.asarray(value)


def _restoring(f: Callable) -> Callable:
    """Return a method as a function that leaves its object as it was, free of JAX's tracers."""
    owner = getattr(f, "__self__", None)
    if not hasattr(owner, "__dict__") or isinstance(owner, (type, ModuleType)):
        return f

    @functools.wraps(f)
    def call(*args):
        kept = dict(vars(owner))
        try:
            return f(*args)
        finally:
            vars(owner).clear()
            vars(owner).update(kept)

    return call


def _moved(before, after):
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return any(not np.array_equal(one, other, equal_nan=True) for one, other in pairs)


def _parameters(args, argnums):
    return args[argnums] if isinstance(argnums, int) else tuple(args[i] for i in argnums)


def _require_scalar(f, value):
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", type(value))
    if isinstance(value, float) or (shape == () and jnp.issubdtype(dtype, jnp.floating)):
        return
    came = f"a {type(value).__name__}" if shape is None else f"an array of shape {shape}"
    came = f"a scalar of dtype {dtype}" if shape == () else came
    raise TypeError(
        f"{name_of(f)} returns {came}; a gradient needs a real scalar: return the sum, or use "
        "check_vjp"
    )


def _is_jacobian(claim, value, parameters):
    """Whether what is claimed for a function with many outputs is its Jacobian."""
    try:
        claimed = to_numpy(claim(*parameters))
    except Misfit:
        return False
    return len(parameters) == 1 and claimed.shape == (*np.shape(value), *np.shape(parameters[0]))


def _leaf_names(names, args, positions):
    return [
        names[i] + path
        for i in positions
        for path, leaf in zip(*named_leaves(args[i]), strict=True)
        if leaf is not None
    ]


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


# Pull-backs.


def _examine_pass(title, forward, pull_back, called, args, domain, time_limit, repeat, names=None):
    positions = tuple(i for i, argument in enumerate(args) if _is_floating(argument))
    if not positions:
        raise TypeError(f"none of the {len(args)} arguments holds floating-point numbers")
    forward, untraceable, outputs = evaluable(forward, args, positions)
    if any(jnp.iscomplexobj(out) for out in jax.tree.leaves(outputs)):
        raise TypeError(
            "the function returns complex numbers; let it return their real and imaginary parts"
        )
    names = names or parameter_names(forward, len(args))
    sums = np.sum if untraceable else jnp.sum

    def weighted(g, *args):
        products = jax.tree.map(lambda w, out: sums(w * out), g, forward(*args))
        return sum(jax.tree.leaves(products), np.zeros(()))

    if all(name.isidentifier() for name in names):  # so that findings call the arguments by name
        weighted.__signature__ = inspect.Signature(  # pyright: ignore
            [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in ("_g", *names)]
        )
    claim = Claim(functools.wraps(called)(lambda g, *args: pull_back(args, g)), time_limit)

    def entries(args, pulled):
        return gradients_of(pulled, args, positions, [names[i] for i in positions])

    def claimed(g, *args):
        return entries(args, claim(g, *args)[1])

    def values(point):
        value = claim(*point.args)[0]
        if value is None:
            return
        leaves = zip(*named_leaves(forward(*point.args[1:])), jax.tree.leaves(value), strict=True)
        for path, expected, one in leaves:
            yield f"the value{path} of the function", one, np.asarray(expected)

    weights = _weights(outputs, 0)
    with contextlib.suppress(Misfit):  # arguments for which nothing is returned are not asked for
        given = entries(args, claim(weights, *args)[1])
        if len(given) == len(positions) and any(one is not None for one in given):
            asked = tuple(i for i, one in zip(positions, given, strict=True) if one is not None)
            claim.not_returned = [names[i] for i in positions if i not in asked]
            positions = asked
    problem = Problem(
        weighted,
        claimed,
        tuple(i + 1 for i in positions),
        names=_leaf_names(names, args, positions),
        untraceable=untraceable,
    )
    problem, points = _placed(problem, (weights, *args), domain)
    points = [
        problem.at(point.label, (_weights(outputs, seed), *point.args[1:]))
        for seed, point in enumerate(points)
    ]
    return examine(
        title,
        claim,
        points,
        candidates=partial(_pull_back_candidates, forward),
        explain=_explain,
        values=values,
        conventions=convention,
        covered=f"{labels(points)}, random output weights",
        not_covered=_not_covered(names, positions, args),
        repeat=repeat,
    )


def _pull_back_candidates(f, points):
    """Yield the mistakes about a Jacobian, where f maps one array to one, then the general ones."""
    args = points[0].args
    if (
        len(args) == 2
        and all(hasattr(a, "shape") for a in args)
        and not points[0].problem.untraceable
    ):
        yield from jacobian_candidates(f)
    yield from general_candidates(points)


def _weights(outputs, seed):
    """Return random output weights, one per number, all away from 0."""
    rng = np.random.default_rng(seed)

    def draw(out):
        sign = rng.choice([-1.0, 1.0], np.shape(out))
        return jax.device_put(sign * rng.uniform(0.5, 1.5, np.shape(out)))

    return jax.tree.map(draw, outputs)


def _is_floating(argument):
    leaves = jax.tree.leaves(argument)
    return bool(leaves) and all(
        hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves
    )


# Where to look, and why it is wrong.


def _placed(problem: Problem, args: tuple, said: Any) -> tuple[Problem, list[Point]]:
    """Return the points at which to compare, in the domain that is said or noticed."""
    here = problem.at("the arguments given", args)
    domains = domains_of(said, here.parameters, here.names)
    problem = replace(problem, domains=domains)
    points = list(_around(problem, args))
    found = {} if domains else noticed(here.parameters)
    with contextlib.suppress(Misfit):
        if found and any(point.wrong for point in points):
            # On the set itself the whole array may be right, or right by another convention.
            whole = {i: one._replace(along=lambda g, value: g) for i, one in found.items()}
            on_it = replace(problem, domains=whole, noticed=True)
            others = list(_around(on_it, args))
            if not any(point.wrong for point in others) or convention(others) is not None:
                return on_it, others
    return problem, points


def _around(problem: Problem, args: tuple) -> Iterator[Point]:
    """Yield the point given and two around it, nearer where f is not finite farther away."""
    here = problem.at("the arguments given", args)
    yield here
    for seed in (1, 2):
        for halvings in range(1, 24, 2):
            moved = problem.moved(args, 0.5**halvings, seed)
            point = problem.at(f"random point {seed}", moved)
            with (
                np.errstate(all="ignore"),
                contextlib.suppress(ArithmeticError, np.linalg.LinAlgError),
            ):
                if point.finite:
                    break
        else:
            continue
        yield point


def _explain(points: Sequence[Point]) -> Sequence[Finding]:
    """Return the place and the term in f's own computation, where JAX can trace it."""
    problem = points[0].problem
    whole = rescaled(points)
    # Where Python looks at values in f, there is not one program to walk through.
    if problem.untraceable or problem.traced(points[0].args) is None:
        return whole
    if whole and whole[0].name != "gradient of log f":
        return whole
    if whole:  # as where a square root is taken, whose derivative it is divided by
        graph = problem.graph(points[0].args)
        last = None if graph is None else graph.producer.get(graph.output)
        place = None if graph is None or last is None else graph.equations[last].place
        return whole if place is None else tuple(replace(one, **place.position) for one in whole)
    try:
        return explain_residual(problem.function, points, problem.argnums)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # The verdict does not hang on it.
        warnings.warn(f"the search for the line ended early: {error!r:.200}", stacklevel=2)
        return ()


def _convention(points: Sequence[Point]) -> Finding | None:
    """Return the convention by which a gradient is right that is wrong as it stands."""
    return convention(points) or scaled(points) or _without_epsilon(points)


def _without_epsilon(points: Sequence[Point]) -> Finding | None:
    """Return what is left out where the claim is right but for small constants that f adds."""
    worst, graph = 0.0, None
    for point in points:
        if max((point.rows[i].relative_error for i in point.wrong), default=0.0) > 1e-2:
            return None
        graph = point.problem.graph(point.args, epsilon=1e-3)
        if graph is None or not graph.left_out or not all(map(graph.guarded, graph.left_out)):
            return None
        for g, claimed in zip(graph.gradient(), point.claimed_arrays, strict=True):
            off = np.inf if claimed is None else relative_error(claimed, g)
            worst = max(worst, off)
            if not off <= 1e-9:
                return None
    if graph is None:
        return None
    size, place, _ = graph.left_out[-1]
    more = {}
    if place is not None:
        more = place.position
    return Finding(
        name="ε left out",
        sentence=f"right for the function without the {size:g} that it adds",
        have=f"∇f with 0 for {size:g}",
        expected="∇f",
        residual=worst,
        leaves=tuple(points[0].names[i] for i in points[0].wrong),
        **more,
    )
