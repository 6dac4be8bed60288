"""Functions as values: when two of them do the same, and which learning rates they hold.

`optax.adam(1e-3)` returns new functions at every call. Compared as Python compares functions, by
identity, each of them would be compiled by itself. Here a function is its code, what it closes
over, and what it reads of the variables of its module: two that agree in all are equal. One that
holds what may change meanwhile, such as a list or an object with attributes, is equal to itself
alone. The factor of `optax.scale`, which is where optax keeps a
constant learning rate, counts as an argument, not as a part of the function: optimizers that
differ in it alone are equal too, and share a compiled program that takes the rates as numbers.
"""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple, cast

import jax
import optax

__all__ = ["identity", "rates_of", "with_rates"]

_SCALE = cast(FunctionType, optax.scale(1.0).update).__code__


@dataclass(frozen=True, eq=False)
class _Only:
    """Equal to itself alone: something whose contents cannot be compared, or may change."""

    thing: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Only) and self.thing is other.thing

    def __hash__(self) -> int:
        return id(self.thing)


def identity(value: Any, _within: tuple[Any, ...] = ()) -> Hashable:
    """Return what a value is compared by: equal for functions that do the same up to their rates.

    Args:
        value: a function, or a tuple, dictionary or `functools.partial` that holds some; anything
            else is compared by its own `==` if it has a hash, and by identity if not.

    Example:
        >>> import optax
        >>> from nnjax.training.closures import identity
        >>> identity(optax.adam(0.1).update) == identity(optax.adam(0.3).update)
        True
        >>> identity(optax.adam(0.1).update) == identity(optax.adam(0.1, b1=0.5).update)
        False
    """
    if any(value is outer for outer in _within):  # a function that closes over itself
        return _Only(value)
    if _is_rate(value):
        return _SCALE
    if isinstance(value, FunctionType) and _may_change(value):
        return _Only(value)
    if (taken := _taken_apart(value)) is not None:
        return taken.kind, tuple(identity(part, (*_within, value)) for part in _parts(value, taken))
    if isinstance(value, numbers.Number):
        return type(value), repr(value)  # 0.0 == -0.0, but a program with them may not be
    try:
        hash(value)
    except TypeError:
        return _Only(value)
    return type(value), value


def rates_of(value: Any) -> tuple[float, ...]:
    """Return the factors of `optax.scale` within a value, in the order of `with_rates`.

    Example:
        >>> import optax
        >>> from nnjax.training.closures import rates_of
        >>> rates_of(optax.sgd(0.5, momentum=0.9).update)
        (-0.5,)
    """
    found: list[float] = []

    def note(rate: float) -> float:
        found.append(rate)
        return rate

    _replaced(value, note)
    return tuple(found)


def with_rates(value: Any, rates: Iterator[Any]) -> Any:
    """Return the value with other factors in place of `rates_of(value)`.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from nnjax.training.closures import with_rates
        >>> sgd = optax.sgd(0.5)
        >>> update = with_rates(sgd.update, iter([-2.0]))
        >>> float(update(jnp.array(3.0), sgd.init(jnp.array(0.0)))[0])
        -6.0
    """
    return _replaced(value, lambda rate: next(rates))


class _Apart(NamedTuple):
    """A value as what kind it is, what it holds, and how it is made of such parts."""

    kind: Hashable
    parts: tuple[Any, ...]
    make: Callable[[tuple[Any, ...]], Any]


def _taken_apart(value: Any) -> _Apart | None:
    if isinstance(value, FunctionType):
        parts = (value.__defaults__, value.__kwdefaults__, *_held(value))
        make = functools.partial(_function_like, value)
        return _Apart((value.__code__, _Only(value.__globals__)), parts, make)
    if isinstance(value, functools.partial):
        parts = (value.func, value.args, value.keywords)
        return _Apart(type(value), parts, lambda p: functools.partial(p[0], *p[1], **p[2]))
    if isinstance(value, tuple):
        named = hasattr(value, "_fields")
        return _Apart(type(value), value, lambda p: type(value)(*p) if named else p)
    if isinstance(value, dict):
        names = tuple(value)
        parts = tuple(value.values())
        return _Apart((dict, names), parts, lambda p: dict(zip(names, p, strict=True)))
    return None


def _parts(value: Any, taken: _Apart) -> tuple[Any, ...]:
    """Return all that a value does depends on."""
    return (*taken.parts, _variables(value)) if isinstance(value, FunctionType) else taken.parts


def _variables(function: FunctionType) -> dict[str, Any]:
    """Return what a function, and those of its module that it uses, read of the module's variables.

    Functions, classes and modules count as themselves, so that one defined again is another.
    """
    found: dict[str, Any] = {}
    scope, left = function.__globals__, [function.__code__]
    while left:
        code = left.pop()
        left += [const for const in code.co_consts if isinstance(const, CodeType)]
        for name in code.co_names:
            if name not in scope or name in found:
                continue
            value = scope[name]
            fixed = callable(value) or isinstance(value, ModuleType)
            found[name] = _Only(value) if fixed else value
            if isinstance(value, FunctionType) and value.__globals__ is scope:
                left.append(value.__code__)
    return dict(sorted(found.items()))


def _may_change(value: Any, within: tuple[Any, ...] = ()) -> bool:
    """Whether a value is, or holds, what can be changed in place; functions and modules are not."""
    if any(value is outer for outer in within):
        return False
    if (taken := _taken_apart(value)) is not None:
        return any(_may_change(part, (*within, value)) for part in _parts(value, taken))
    if callable(value) or isinstance(value, jax.Array | CellType | ModuleType | _Only):
        return False
    try:
        hash(value)
    except TypeError:
        return True
    return hasattr(value, "__dict__") and type(value).__hash__ is object.__hash__


def _replaced(value: Any, replace: Callable[[float], Any], within: tuple[Any, ...] = ()) -> Any:
    """Return the value with `replace(rate)` for each rate; what holds none stays as it is."""
    if any(value is outer for outer in within):
        return value
    if _is_rate(value):
        return _function_like(
            value, (value.__defaults__, value.__kwdefaults__, replace(_held(value)[0]))
        )
    if (taken := _taken_apart(value)) is None:
        return value
    parts = tuple(_replaced(part, replace, (*within, value)) for part in taken.parts)
    same = all(new is old for new, old in zip(parts, taken.parts, strict=True))
    return value if same else taken.make(parts)


def _is_rate(value: Any) -> bool:
    """Whether it is the function in which `optax.scale` multiplies by a number."""
    return (
        isinstance(value, FunctionType)
        and value.__code__ is _SCALE
        and isinstance(_held(value)[0], float)
    )


def _held(function: FunctionType) -> tuple[Any, ...]:
    """Return what a function closes over; a cell without contents stands for itself."""
    contents = []
    for cell in function.__closure__ or ():
        try:
            contents.append(cell.cell_contents)
        except ValueError:
            contents.append(cell)
    return tuple(contents)


def _function_like(function: FunctionType, parts: tuple[Any, ...]) -> FunctionType:
    """Return a function of the same code with other defaults, and that closes over other values."""
    defaults, kwdefaults, *held = parts
    cells = tuple(map(CellType, held))
    new = FunctionType(function.__code__, function.__globals__, function.__name__, defaults, cells)
    new.__kwdefaults__ = kwdefaults
    return new
