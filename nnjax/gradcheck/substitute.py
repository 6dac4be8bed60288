"""NumPy code traced by JAX as it stands: jax.numpy in numpy's place.

`Array` holds a JAX value and answers to NumPy's functions, operators and assignments to entries.
While `in_place_of_numpy` is active, what the function's modules call `np` makes such arrays. Views
are not followed, so that whoever uses this holds the value against NumPy's own.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.gradcheck.compare import Misfit
from nnjax.gradcheck.forms import LIBRARIES, as_numpy, as_torch, name_of, raised
from nnjax.gradcheck.reference import compiled

__all__ = ["Array", "by_jax", "evaluable", "in_place_of_numpy"]


class Array:
    """A JAX array that can be used where a NumPy array is expected, assignments included.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> x = Array(jnp.zeros(3))
        >>> x[1] = 2.0
        >>> np.exp(x).value.tolist()
        [1.0, 7.389056205749512, 1.0]
    """

    __slots__ = ("value",)
    __hash__ = None  # pyright: ignore  (as NumPy's arrays)

    def __init__(self, value: Any):
        self.value = value

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if method == "at":  # np.add.at(array, index, value), and in the same way the others
            target, index, *value = inputs
            update = getattr(target.value.at[_unwrap(index)], ufunc.__name__)
            target.value = update(*_unwrap(value))
            return None
        if method != "__call__":
            return NotImplemented
        return _lifted(_counterpart(ufunc.__name__))(*inputs, **options)

    def __array_function__(self, function, types, args, options):
        return _lifted(_counterpart(function.__name__, function.__module__))(*args, **options)

    def __jax_array__(self):
        return self.value

    def __getattr__(self, name):
        if name.startswith("__"):  # no conversion to a NumPy array behind one's back
            raise AttributeError(name)
        found = getattr(self.value, name)
        return _lifted(found) if callable(found) else _wrap(found)

    def __getitem__(self, index):
        return _wrap(self.value[_unwrap(index)])

    def __setitem__(self, index, value):
        value = jnp.asarray(_unwrap(value), self.value.dtype)
        self.value = self.value.at[_unwrap(index)].set(value)

    def __len__(self):
        return len(self.value)

    def __iter__(self):
        return map(_wrap, self.value)

    def copy(self, order: str = "C") -> Array:
        return Array(self.value)

    def fill(self, value: Any) -> None:
        self[...] = value


def _add_operators():
    def both(name):
        own = getattr(operator, name if name not in ("and", "or") else f"{name}_")

        def forward(self, other):
            return _wrap(own(self.value, _unwrap(other)))

        def reverse(self, other):
            return _wrap(own(_unwrap(other), self.value))

        def in_place(self, other):
            result = own(self.value, _unwrap(other))
            self.value = result.astype(self.value.dtype)
            return self

        return forward, reverse, in_place

    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or"):
        for prefix, method in zip(("", "r", "i"), both(name), strict=True):
            setattr(Array, f"__{prefix}{name}__", method)
    for name in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(Array, f"__{name}__", both(name)[0])
    for name in ("neg", "pos", "abs", "invert"):
        own = getattr(operator, name)
        setattr(Array, f"__{name}__", lambda self, own=own: _wrap(own(self.value)))
    for own in (bool, int, float, operator.index):
        setattr(Array, f"__{own.__name__}__", lambda self, own=own: own(self.value))


_add_operators()


def _wrap(tree):
    return jax.tree.map(lambda leaf: Array(leaf) if isinstance(leaf, jax.Array) else leaf, tree)


def _unwrap(tree):
    return jax.tree.map(
        lambda leaf: leaf.value if isinstance(leaf, Array) else leaf,
        tree,
        is_leaf=lambda node: isinstance(node, Array),
    )


def _lifted(function):
    @functools.wraps(function)
    def call(*args, **options):
        out = options.pop("out", None)
        result = _wrap(function(*_unwrap(args), **_unwrap(options)))
        if out is not None:
            target = out[0] if isinstance(out, tuple) else out
            target.value = result.value
            return target
        return result

    return call


MODULES = {"numpy.linalg": [jnp.linalg], "numpy.fft": [jnp.fft]}


def _counterpart(name, of="numpy"):
    for module in MODULES.get(of, [jnp, jax.scipy.special]):
        if hasattr(module, name):
            return getattr(module, name)
    raise TypeError(f"jax.numpy has no {name}")


# Functions that make arrays, and so do not see that others are traced.
MAKERS = ("zeros", "ones", "empty", "full", "eye", "identity", "array", "asarray")
MAKERS = (*MAKERS, "ascontiguousarray", "zeros_like", "ones_like", "empty_like", "full_like")


def _maker(name):
    own, theirs = getattr(np, name), getattr(jnp, name, jnp.asarray)

    @functools.wraps(own)
    def make(*args, **options):
        leaves = jax.tree.leaves((args, options), is_leaf=lambda node: isinstance(node, Array))
        traced = any(isinstance(leaf, (Array, jax.Array)) for leaf in leaves)
        if not traced:
            array = own(*args, **options)
            return Array(jnp.asarray(array)) if array.dtype.kind == "f" else array
        options.pop("order", None)
        return _lifted(theirs)(*args, **options)

    return make


class _Numpy(ModuleType):
    """numpy, but for the functions that make arrays."""

    def __getattr__(self, name):
        return getattr(np, name)


NUMPY = _Numpy("numpy")
for _name in MAKERS:
    setattr(NUMPY, _name, _maker(_name))


@contextlib.contextmanager
def in_place_of_numpy(function: Callable) -> Iterator[None]:
    """Let what the function's modules call numpy make arrays for JAX, and give numpy back after."""
    own = {id(getattr(np, name)): name for name in MAKERS}
    changed = []
    try:
        for names in _globals(function):
            for name, value in list(names.items()):
                if value is np:
                    new = NUMPY
                elif id(value) in own:
                    new = getattr(NUMPY, own[id(value)])
                else:
                    continue
                changed.append((names, name, value))
                names[name] = new
        yield
    finally:
        for names, name, value in changed:
            names[name] = value


def _globals(function) -> list[dict]:
    """Return the global names of the function and of the functions in its reach, by module."""
    found, waiting, seen = [], [function], set()
    while waiting:
        one = waiting.pop()
        one = getattr(one, "func", one)  # functools.partial
        one = getattr(one, "__func__", one)  # a method
        if isinstance(one, ModuleType):
            names = vars(one)
        elif isinstance(one, type):
            module = sys.modules.get(one.__module__)
            names = vars(module) if module is not None else {}
        elif hasattr(one, "__globals__"):
            names = one.__globals__
            waiting += [cell.cell_contents for cell in one.__closure__ or () if _filled(cell)]
        else:  # an object, whose methods may be called
            waiting.append(type(one))
            continue
        file = names.get("__file__") or ""
        if id(names) in seen or file.startswith(LIBRARIES) or not names:
            continue
        seen.add(id(names))
        if names.get("__name__", "").partition(".")[0] in ("nnjax", "jax", "numpy", "builtins"):
            continue
        found.append(names)
        waiting += [
            v
            for v in names.values()
            if isinstance(v, (type, ModuleType)) or hasattr(v, "__globals__")
        ]
    return found


def _filled(cell):
    try:
        return cell.cell_contents is not None
    except ValueError:  # not yet assigned
        return False


def by_jax(function: Callable) -> Callable:
    """Return a NumPy function as one that JAX can trace; it may raise whatever JAX raises.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> jax.grad(by_jax(lambda x: np.exp(x).sum()))(jnp.zeros(2)).tolist()
        [1.0, 1.0]
    """

    @functools.wraps(function)
    def traced(*args):
        with in_place_of_numpy(function):
            return _unwrap(function(*_wrap(args)))

    return traced


def evaluable(
    function: Callable, args: tuple, positions: Sequence[int], read: Callable = lambda out: out
) -> tuple[Callable, str, Any]:
    """Return the function in a form that can be differentiated, why JAX cannot, "" if it can, and
    what it returns, or at least the shapes of that.

    As it is, if JAX can trace it; else with jax.numpy in numpy's place, if that gives the same
    value; else as a function of NumPy arrays (of PyTorch tensors) that can only be called.

    Args:
        function: somebody's function.
        args: example arguments.
        positions: of those it is differentiated with respect to.
        read: what to take of its result.

    Raises:
        TypeError: if it raises an error whatever arrays it is given.
    """

    def reading(call):
        return functools.wraps(function)(lambda *args: read(call(*args)))

    def differentiated(call, evaluate=False):
        def of(parameters):
            full = list(args)
            for i, value in zip(positions, parameters, strict=True):
                full[i] = value
            return call(*full)

        given = [args[i] for i in positions]
        try:
            shapes = jax.eval_shape(lambda parameters: jax.vjp(of, parameters)[0], given)
        except Exception:  # Python may look at values in it, which is slower
            return jax.vjp(of, given)[0]
        return compiled(of)(given) if evaluate else shapes

    plain = reading(function)
    try:
        out = differentiated(function)
        if getattr(out, "shape", None) == ():  # as it is, so that it is compiled but once
            return function, "", out
        return plain, "", differentiated(plain)
    except Exception as error:
        complaint = raised(error)
    by_value, value, failed = None, None, complaint
    for convert in (as_numpy, *([as_torch] if "torch" in sys.modules else [])):

        def call(*args, convert=convert):
            result = read(function(*convert(args)))
            return jax.tree.map(_numbers, result)

        try:
            value = call(*args)
        except Misfit as error:
            failed = error
        except Exception as error:
            failed = raised(error) if complaint.of_jax else complaint
        else:
            by_value = functools.wraps(function)(call)
            break
    if by_value is None:
        raise TypeError(
            f"{name_of(function)} cannot be evaluated at the example arguments: it {failed}"
        )
    substituted = reading(by_jax(function))
    why = "it gives another value when jax.numpy takes numpy's place"
    try:
        if _agree(differentiated(substituted, evaluate=True), value):
            return substituted, "", value
    except Exception as error:
        why = f"it {raised(error)}"
    untraceable = (
        f"JAX cannot trace {name_of(function)}, so that no line can be named and differences are "
        f"the reference: {why}."
    )
    return by_value, untraceable, value


def _numbers(leaf):
    """Return a result as a NumPy array, complex ones included: they carry complex steps."""
    return np.asarray(leaf.detach().cpu().numpy() if hasattr(leaf, "detach") else leaf)


def _agree(one, other):
    def same(a, b):
        return np.allclose(np.asarray(a), np.asarray(b), rtol=1e-9, atol=1e-12, equal_nan=True)

    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(same(a, b) for a, b in pairs)
