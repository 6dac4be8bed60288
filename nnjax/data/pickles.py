"""The arrays in a pickle, read without unpickling: nothing that the file names is called or built.

A pickle is a program for a small stack machine. Python's own machine calls whatever functions the
program names; even `numpy.ndarray` and `numpy.dtype` are enough for it to make an array of
pointers. This machine knows plain values, containers, and the few steps by which NumPy writes an
array. Of an array it takes the shape, the type of number and the bytes, and hands them to
`np.frombuffer` after it has checked that they fit each other. All arrays together take at
most twice the bytes of the pickle.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["RefusedError", "array_from_bytes", "loads"]


class RefusedError(ValueError):
    """The pickle asks for something that is not an array of numbers or a plain container."""


def loads(content: bytes) -> Any:
    """Return the NumPy arrays and plain containers in a pickle of any protocol, 0 to 5.

    Args:
        content: the pickle; text that Python 2 wrote comes back as str, by Latin-1.

    Returns:
        What was pickled, made of arrays of booleans, integers and floats, of tuples, lists and
        dicts, and of numbers, text and None.

    Raises:
        RefusedError: if it asks for anything else, or for the same bytes again and again; says for
            what.
        ValueError: if it is truncated or corrupt.

    Example:
        >>> import pickle
        >>> import numpy as np
        >>> loads(pickle.dumps([np.arange(3), "text"]))
        [array([0, 1, 2]), 'text']
        >>> loads(pickle.dumps(print))
        Traceback (most recent call last):
        nnjax.data.pickles.RefusedError: builtins.print
    """
    machine = _Machine(len(content))
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except RefusedError:
        raise
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(str(error) or type(error).__name__) from None
    raise ValueError("it has no end")


def array_from_bytes(
    content: bytes | bytearray | memoryview,
    dtype: np.dtype,
    shape: tuple[int, ...],
    *,
    by_columns: bool = False,
) -> np.ndarray:
    """Return a new array made of bytes, which must be as many as its shape and dtype take.

    Args:
        content: the values one after the other.
        dtype: of a value.
        shape: the lengths, as a file states them: anything is possible.
        by_columns: the first index changes fastest (Fortran's order), not the last.

    Raises:
        ValueError: if they do not fit each other.

    Example:
        >>> import numpy as np
        >>> array_from_bytes(bytes([1, 2, 3, 4]), np.dtype("u1"), (2, 2))
        array([[1, 2],
               [3, 4]], dtype=uint8)
    """
    if len(shape) > 32 or not all(isinstance(n, int) and 0 <= n < 2**63 for n in shape):
        raise ValueError("the shape of an array is not a few lengths")
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(content):,} bytes for {dtype} of shape {shape}")
    if not len(content):
        return np.zeros(shape, dtype)
    values = np.frombuffer(content, dtype)
    return values.reshape(shape, order="F" if by_columns else "C").copy()


class _Unfinished:
    """An array or dtype under way; complete once it has a value."""

    value: np.ndarray | np.dtype | None = None


_COPIES = 2
"""How often a byte of a pickle is copied: Python 3 writes bytes as text into protocols 0 to 2."""


class _Machine:
    def __init__(self, size: int):
        self.size, self.left = size, _COPIES * size  # of the pickle; what may still be copied
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise RefusedError(f"the opcode {name}")

    def pop(self) -> Any:
        item = self.stack.pop()
        if isinstance(item, _Unfinished):
            item = item.value
            if item is None:
                raise ValueError("an array without content")
        return item

    def pop_many(self, n: int) -> list[Any]:
        return [self.pop() for _ in range(n)][::-1]

    def pop_to_mark(self) -> list[Any]:
        return self.pop_many(len(self.stack) - self.marks.pop())

    def copies(self, content: Any) -> None:
        """Count what is copied into an array: a few opcodes may ask for the same bytes again."""
        if isinstance(content, str | bytes | bytearray):
            self.left -= len(content)
        if self.left < 0:
            raise RefusedError(
                f"more than {_COPIES * self.size:,} bytes of arrays, though it has {self.size:,} "
                "itself"
            )

    def named(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a name that is not text")
        name = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # as NumPy 2 calls it
        if name not in _FUNCTIONS:
            raise RefusedError(ascii(name)[1:-1])
        self.stack.append(_Name(name))

    def memoise(self, place: int | None) -> None:
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def reduce(self) -> None:
        """Do what calling a function of NumPy would have done."""
        arguments, function = self.pop(), self.pop()
        self.copies(next(iter(arguments), None))
        made = _FUNCTIONS[function.name](*arguments)
        if isinstance(made, np.ndarray | np.dtype):
            shell = _Unfinished()
            shell.value = made
            made = shell
        self.stack.append(made)

    def build(self) -> None:
        """Give a dtype its byte order, or an array its shape, dtype and bytes."""
        state, shell = self.pop(), self.stack[-1]
        if not isinstance(shell, _Unfinished):
            raise RefusedError("changing what is not an array")
        if isinstance(shell.value, np.dtype):
            if any(part is not None for part in state[2:5]):
                raise RefusedError("an array of records")
            shell.value = _dtype(state[1] + shell.value.str[1:])
        elif shell.value is None:
            shape, dtype, by_columns, content = state[-4:]
            self.copies(content)
            shell.value = _array(content, dtype, shape, "FC"[not by_columns])
        else:
            raise ValueError("an array with two contents")

    def update(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise ValueError("items for what is not a dict")
        self.stack[-1].update(_dict(items))

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("items for what is not a list")
        self.stack[-1].extend(items)


class _Name:
    """A function that the pickle names: no more than its name."""

    def __init__(self, name: str):
        self.name = name


# Values that the pickle made up are not shown in messages unless they are known to be short: a
# tuple of tuples of itself takes a few bytes, and its text would fill the memory.


def _dict(items: list[Any]) -> dict[Any, Any]:
    if not all(isinstance(key, str | int) for key in items[::2]):
        raise RefusedError("a dict whose keys are not text or integers")
    return dict(zip(items[::2], items[1::2], strict=True))


def _dtype(text: str, *_: Any) -> np.dtype:
    if not re.fullmatch(r"[<>|=]?(b1|[iu][1248]|f[248])", text, re.ASCII):
        raise RefusedError(f"an array of {ascii(text)[:20]}")
    return np.dtype(text)


def _array(content: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray:
    if isinstance(content, str):  # how Python 2 wrote bytes
        content = content.encode("latin1")
    if not (isinstance(content, bytes | bytearray) and isinstance(dtype, np.dtype)):
        raise RefusedError("an array of other things than numbers")
    return array_from_bytes(content, dtype, shape, by_columns=order == "F")


def _reconstruct(kind: Any, *_: Any) -> _Unfinished:
    if not (isinstance(kind, _Name) and kind.name == "numpy.ndarray"):
        raise RefusedError("an array of an unknown kind")
    return _Unfinished()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # how Python 3 writes bytes into the protocols of Python 2
        raise RefusedError("another encoding than Latin-1")
    return text.encode("latin1")


def _ndarray(*_: Any) -> None:
    raise RefusedError("a call of numpy.ndarray")


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": _ndarray,
    "numpy.dtype": _dtype,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy.core.numeric._frombuffer": _array,
    "_codecs.encode": _encode,
    "__builtin__.bytes": lambda: b"",  # how Python 3 writes b"" there
}

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}

_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}

_ACTIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.pop_to_mark(),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, _: m.stack.append(tuple(m.pop_many(1))),
    "TUPLE2": lambda m, _: m.stack.append(tuple(m.pop_many(2))),
    "TUPLE3": lambda m, _: m.stack.append(tuple(m.pop_many(3))),
    "LIST": lambda m, _: m.stack.append(m.pop_to_mark()),
    "APPEND": lambda m, _: m.extend(m.pop_many(1)),
    "APPENDS": lambda m, _: m.extend(m.pop_to_mark()),
    "DICT": lambda m, _: m.stack.append(_dict(m.pop_to_mark())),
    "SETITEM": lambda m, _: m.update(m.pop_many(2)),
    "SETITEMS": lambda m, _: m.update(m.pop_to_mark()),
    "GET": lambda m, place: m.stack.append(m.memo[place]),
    "PUT": lambda m, place: m.memoise(place),
    "MEMOIZE": lambda m, _: m.memoise(None),
    "GLOBAL": lambda m, names: m.named(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.named(*m.pop_many(2)),
    "REDUCE": lambda m, _: m.reduce(),
    "BUILD": lambda m, _: m.build(),
}
_ACTIONS |= {
    f"{size}{name}": _ACTIONS[name] for name in ("GET", "PUT") for size in ("BIN", "LONG_BIN")
}
