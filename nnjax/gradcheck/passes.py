"""Forward and backward passes as people write them, each brought to one form.

That form is a pair of functions: forward(*args) -> outputs, and pull_back(args, g) -> (the value
that the pull-back computes itself, or None; the gradients of ⟨g, outputs⟩).
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from nnjax.gradcheck.forms import (
    GRADIENT_NAMES,
    as_numpy,
    gradient_named,
    name_of,
    parameter_names,
    takes,
)

__all__ = ["Pass", "gradients_of", "of_torch", "pull_back_of"]


def of_torch(function: Any) -> Callable | None:
    """Return the forward pass of a `torch.autograd.Function`; None if it is not one."""
    torch = sys.modules.get("torch")
    if torch is None or not inspect.isclass(function):
        return None
    if not issubclass(function, torch.autograd.Function):
        return None
    apply: Callable = function.apply  # pyright: ignore
    return apply


def pull_back_of(vjp: Callable, count: int) -> Callable[[tuple, Any], tuple[Any, Any]]:
    """Return pull_back(args, g) -> (value or None, gradients) from any form of a pull-back.

    Args:
        vjp: as for `check_vjp`.
        count: the number of arguments.
    """
    apply = of_torch(vjp)
    if apply is not None:

        def by_torch(args, g):
            out = apply(*args)
            recorded = [one for one in args if getattr(one, "requires_grad", False)]
            given = sys.modules["torch"].autograd.grad(out, recorded, g, allow_unused=True)
            return out.detach(), given

        return by_torch
    if isinstance(vjp, jax.custom_vjp):

        def by_rule(args, g):
            out, pull = jax.vjp(vjp, *args)
            return out, pull(g)

        return by_rule
    if not takes(vjp, count) or takes(vjp, count + 1):
        return lambda args, g: (None, vjp(*args, g))

    def from_what_it_returns(args, g):
        out = vjp(*args)
        if callable(out):
            return None, out(g)
        if isinstance(out, (tuple, list)) and len(out) == 2 and any(map(callable, out)):
            value, pull = out if callable(out[1]) else out[::-1]
            return value, pull(g)
        value = None
        if isinstance(out, (tuple, list)) and len(out) == 2 and np.shape(out[0]) == np.shape(g):
            value, out = out
        contract = lambda jacobian: np.tensordot(np.asarray(g), np.asarray(jacobian), np.ndim(g))  # noqa: E731
        return value, jax.tree.map(contract, out)

    return from_what_it_returns


def gradients_of(pulled: Any, args: tuple, positions: Sequence[int], names: Sequence[str]) -> tuple:
    """Return one gradient per position, None where there is none, from what a pull-back returned.

    Args:
        pulled: an array, a tuple with one entry per argument or per position, or a dict by names.
        args: the arguments.
        positions: of those that hold floating-point numbers.
        names: of these.
    """
    if isinstance(pulled, Mapping) and not (
        len(positions) == 1 and _alike(pulled, args[positions[0]])
    ):
        return tuple(gradient_named(pulled, name) for name in names)
    if not isinstance(pulled, (tuple, list)) or (len(args) == 1 and _alike(pulled, args[0])):
        pulled = (pulled,)
    if len(pulled) == len(args):
        return tuple(pulled[i] for i in positions)
    if len(pulled) >= len(positions):
        return tuple(pulled)
    # Fewer than there are: each belongs to the next argument of its shape.
    found: list[Any] = [None] * len(positions)
    start = 0
    for one in pulled:
        for k in range(start, len(positions)):
            value = args[positions[k]]
            if jax.tree.structure(value) == jax.tree.structure(one) and np.shape(one) == np.shape(
                value
            ):
                found[k], start = one, k + 1
                break
    return tuple(found)


def _alike(pulled, argument):
    """Whether a container is the gradient of an argument that is such a container itself."""
    if isinstance(pulled, Mapping):
        return isinstance(argument, Mapping) and set(pulled) == set(argument)
    return isinstance(argument, (tuple, list)) and len(pulled) == len(argument)


class Pass(NamedTuple):
    """Somebody's forward and backward pass.

    Attributes:
        name: in words.
        forward: (*args) -> outputs.
        pull_back: (args, g) -> (None, gradients).
        backward: the function that is called, for what is said about it.
        args: example arguments; of an object, its arrays are the first one, a dict by name.
        names: of the arguments.
    """

    name: str
    forward: Callable
    pull_back: Callable[[tuple, Any], tuple[Any, Any]]
    backward: Any
    args: tuple
    names: tuple[str, ...]

    @classmethod
    def of(cls, forward: Any, backward: Any, args: tuple) -> Pass:
        """Return the pass that these two functions, or this object, describe.

        Raises:
            TypeError: if there is nothing to call, or it fails at the arguments.
        """
        if backward is None and hasattr(forward, "forward") and hasattr(forward, "backward"):
            forward, backward = forward.forward, forward.backward
        for name, function in (("forward", forward), ("backward", backward)):
            if not callable(function) and not (name == "backward" and function is None):
                kind = type(function).__name__
                raise TypeError(f"{name} is a {kind}; expected a function, then the arguments")
        owner, other = (getattr(one, "__self__", None) for one in (forward, backward))
        if owner is not None and owner is other:
            return cls._of_object(owner, name_of(forward), name_of(backward), args)
        names = tuple(parameter_names(forward, len(args)))

        def outputs(*args):
            return _split(forward(*args), backward)[0]

        def pull_back(args, g):
            _, cache = _split(forward(*args), backward)
            return None, _call_backward(backward, g, cache, args)

        title = f"{name_of(backward or forward)} of {name_of(forward)}"
        return cls(title, outputs, pull_back, backward or forward, args, names)

    @classmethod
    def _of_object(cls, owner, forward, backward, args) -> Pass:
        trial = copy.deepcopy(owner)
        out = _split(getattr(trial, forward)(*as_numpy(args)), getattr(trial, backward))[0]
        ones = jax.tree.map(lambda leaf: np.ones(np.shape(leaf)), out)
        _call_backward(getattr(trial, backward), ones, None, args)
        pairs, seen = {}, set()
        for name, ways in _with_gradients(trial, (), 0):
            # What is not there before is a state that the pass sets itself; and one array may be
            # known by several names.
            if _holds(owner, ways[0]) and id(_at(trial, ways[0])) not in seen:
                seen.add(id(_at(trial, ways[0])))
                pairs[name] = ways
        arrays = {
            name: np.asarray(_at(owner, path), np.float64) for name, (path, _) in pairs.items()
        }

        def filled(state):
            # Every reference to an array is replaced, whoever in the object holds it.
            memo = {id(_at(owner, path)): state[name] for name, (path, _) in pairs.items()}
            return copy.deepcopy(owner, memo)

        def outputs(state, *args):
            return _split(getattr(filled(state), forward)(*args), getattr(owner, backward))[0]

        def pull_back(args, g):
            one = filled(args[0])
            _, cache = _split(getattr(one, forward)(*args[1:]), getattr(one, backward))
            pulled = _call_backward(getattr(one, backward), g, cache, args[1:])
            own = {name: _at(one, path) for name, (_, path) in pairs.items()}
            given = pulled if isinstance(pulled, tuple) else (pulled,)
            return None, (own, *given, *[None] * (len(args) - 1 - len(given)))

        names = (type(owner).__name__, *parameter_names(getattr(owner, forward), len(args)))
        title = f"{backward} of {type(owner).__name__}"
        return cls(title, outputs, pull_back, getattr(owner, backward), (arrays, *args), names)


def _split(result, backward):
    """Return the outputs, and a list with what backward needs beside their gradients."""
    if not isinstance(result, tuple) or len(result) < 2:
        return result, []
    if backward is not None:
        count = _count(backward)
        called = [name.lower() for name in parameter_names(backward, count)]
        if count == 1 or (count == len(result) and all(n.startswith(("d", "g")) for n in called)):
            return result, []
    *outputs, cache = result
    return outputs[0] if len(outputs) == 1 else tuple(outputs), [cache]


def _count(function):
    """Return how many arguments without a default a function takes; 2 where it does not say."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 2
    return sum(p.kind in (0, 1) and p.default is p.empty for p in parameters)


def _call_backward(backward, g, cache, args):
    gs = g if isinstance(g, tuple) else (g,)
    if backward is None:  # forward returned (outputs, pull_back)
        return cache[0](*gs)
    if not cache:
        return backward(*gs) if takes(backward, len(gs)) else backward(*gs, *args)
    first = parameter_names(backward, 1)[0].lower()
    if any(word in first for word in ("cache", "ctx", "context", "memory", "saved")):
        return backward(*cache, *gs)
    return backward(*gs, *cache)


# The arrays of an object that have gradients beside them.

OTHERS = {"params": ("grads",), "parameters": ("gradients", "grads"), "weights": ("gradients",)}
OTHERS |= {"data": ("grad",), "value": ("grad", "gradient"), "param": ("grad",)}


def _with_gradients(node, path, depth) -> Iterator[tuple[str, tuple[tuple, tuple]]]:
    """Yield the name of each array that has a gradient, with the ways to both."""
    if depth > 4:
        return
    held: Any = node if isinstance(node, Mapping) else getattr(node, "__dict__", None)
    if isinstance(node, (tuple, list)):
        held = dict(enumerate(node))
    for key, value in (held or {}).items():
        here = (*path, key)
        for other in (*[form.format(key) for form in GRADIENT_NAMES], *OTHERS.get(str(key), ())):
            if held is not None and other in held:
                yield from _pairs(value, held[other], here, (*path, other))
        if not isinstance(value, np.ndarray) and not callable(value):
            yield from _with_gradients(value, here, depth + 1)


def _pairs(value, gradient, path, other) -> Iterator[tuple[str, tuple[tuple, tuple]]]:
    if isinstance(value, np.ndarray):
        if np.shape(gradient) == value.shape and value.dtype.kind == "f":
            yield ".".join(map(str, path)), (path, other)
    elif isinstance(value, Mapping) and isinstance(gradient, Mapping):
        for key in value:
            keys = (key, *[form.format(key) for form in GRADIENT_NAMES])
            match = next((k for k in keys if k in gradient), None)
            if match is not None:
                yield from _pairs(value[key], gradient[match], (*path, key), (*other, match))
    elif isinstance(value, (tuple, list)) and isinstance(gradient, (tuple, list)):
        for i in range(min(len(value), len(gradient))):
            yield from _pairs(value[i], gradient[i], (*path, i), (*other, i))


def _holds(node, path) -> bool:
    """Whether there is an array at the end of this way."""
    try:
        return isinstance(_at(node, path), np.ndarray)
    except (LookupError, TypeError):
        return False


def _at(node, path):
    for key in path:
        held: Any = node if isinstance(node, (Mapping, tuple, list)) else vars(node)
        node = held[key]
    return node
