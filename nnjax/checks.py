"""Checks of arguments, each raising one sentence: what came, what was expected, what to do.

They look at shapes and dtypes, which are there under jit too, and at values only where that costs
no wait for a device. `checked` is how a public function comes to have them: it checks its
arguments, then calls its jitted body.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import numbers
from collections.abc import Callable, Iterable
from types import UnionType
from typing import Any, ParamSpec, Protocol, TypeVar

import chex
import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from nnjax.sharding import automatic, replicated

__all__ = [
    "FINITE",
    "LARGEST_SIZE",
    "TINY",
    "Checked",
    "check_key",
    "checked",
    "did_you_mean",
    "install",
    "plain_number",
    "require_dtype",
    "require_floating",
    "require_instance",
    "require_number",
    "require_real_array",
    "require_scalar",
    "require_size",
]

FINITE = float(np.finfo(np.float32).max)
"""The largest number that is finite in the precision networks usually have."""

TINY = float(np.finfo(np.float32).tiny)
"""The smallest number greater than 0 that keeps all its digits in that precision."""

LARGEST_SIZE = 2**31 - 1
"""The largest size that every array library can count."""

P = ParamSpec("P")
R = TypeVar("R")


class Checked(Protocol[P, R]):
    """A function that checks its arguments; `unchecked` is its jitted body, without the checks."""

    unchecked: Callable[..., R]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Check the arguments, then call the jitted body."""
        ...


def checked(
    check: Callable[..., tuple[Any, ...]],
    static: tuple[str, ...] = (),
    layout: Callable[..., Any] = replicated,
    once: bool = False,
) -> Callable[[Callable[P, R]], Checked[P, R]]:
    """Return a decorator: check the arguments, then call the function's jitted body.

    Args:
        check: a function with the parameters of the decorated one. It raises, or returns the
            arguments that the body gets, all of them by position.
        static: names of the arguments that are static under `jax.jit`.
        layout: how the results lie on a mesh of devices, see `nnjax.sharding.automatic`.
        once: for a function of a network, its parameters and arrays, whose check looks at no value
            of an array on a device and takes what it returned. Arrays on a device are then checked
            where JAX traces the body for new shapes and dtypes, and no more in later calls.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.checks import checked, require_number
        >>> def check(x, rate):
        ...     return jnp.asarray(x), require_number(rate, "rate", "a number of 0 to 1", 0, 1)
        >>> @checked(check)
        ... def scaled(x, rate):
        ...     return rate * x
        >>> float(scaled(3.0, rate=0.5))
        1.5
        >>> scaled(3.0, rate=2)
        Traceback (most recent call last):
        ...
        ValueError: rate is 2; expected a number of 0 to 1
    """
    if not callable(check) or not isinstance(static, tuple):
        raise TypeError(f"expected checked(function, names), got {check!r} and {static!r}")
    if not isinstance(once, bool):
        raise TypeError(f"once is {once!r}; expected True or False")

    def decorate(body: Callable[P, R]) -> Checked[P, R]:
        unchecked = automatic(body, layout)
        jitted = jax.jit(unchecked, static_argnames=static)
        defaults = tuple(p.default for p in inspect.signature(body).parameters.values())

        @functools.wraps(body)
        def check_and_call(*args):
            return unchecked(*check(*args))

        checking = jax.jit(check_and_call, static_argnames=static) if once else jitted

        @functools.wraps(body)
        def call(*args, **kwargs):
            if once and not kwargs and all(map(_needs_no_look, map(type, args[2:]))):
                try:
                    return checking(*args, *defaults[len(args) :])
                except TypeError:  # of a parameter that is not an array: the check says it better
                    pass
            try:
                arguments = check(*args, **kwargs)
            except TypeError:
                inspect.signature(body).bind(*args, **kwargs)  # names what is missing or unknown
                raise
            return checking(*arguments)

        call.unchecked = jitted  # pyright: ignore[reportAttributeAccessIssue]
        return call  # pyright: ignore[reportReturnType]

    return decorate


@functools.cache  # of a handful of types, asked for at every call
def _needs_no_look(kind: type) -> bool:
    """Return whether this is the type of arrays on a device, or of what has no more than a type."""
    return kind in (float, type(None)) or issubclass(kind, jax.Array)


def require_size(value: Any, name: str, at_least: int = 1, at_most: float = LARGEST_SIZE) -> int:
    """Return `value` as an int if it is an integer in this range, else raise ValueError.

    Example:
        >>> from nnjax.checks import require_size
        >>> require_size(0, "batch_size")
        Traceback (most recent call last):
        ...
        ValueError: batch_size is 0; expected an integer of at least 1
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < at_least:
        raise ValueError(f"{name} is {value!r}; expected an integer of at least {at_least}")
    if int(value) > at_most:
        raise ValueError(f"{name} is {value!r}; expected an integer of at most {at_most}")
    return int(value)


def did_you_mean(word: Any, known: Iterable[str]) -> str:
    """Return " (did you mean ...?)" for a word close to a known one, otherwise nothing.

    Example:
        >>> from nnjax.checks import did_you_mean
        >>> did_you_mean("trian", ["train", "plot"]), did_you_mean("xyz", ["train", "plot"])
        (" (did you mean 'train'?)", '')
    """
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def install(extra: str) -> str:
    """Return how to install an extra, as messages about a missing package say it.

    Example:
        >>> from nnjax.checks import install
        >>> print(install("plots"))
        pip install "nnjax[plots]" (in a clone: pip install ".[all]")
    """
    return f'pip install "nnjax[{extra}]" (in a clone: pip install ".[all]")'


def require_instance(
    value: Any, kind: type | tuple[type, ...] | UnionType, name: str, expected: str
) -> Any:
    """Return `value` if it is an instance of `kind`, else raise TypeError.

    Example:
        >>> from nnjax.checks import require_instance
        >>> require_instance(5, str, "title", "a text")
        Traceback (most recent call last):
        ...
        TypeError: title is 5; expected a text
    """
    if not isinstance(value, kind):
        came = repr(value)
        if len(came) > 100 or "\n" in came:  # such as arrays
            came = f"of the type {type(value).__name__}"
        raise TypeError(f"{name} is {came}; expected {expected}")
    return value


def require_dtype(dtype: Any, name: str = "dtype") -> Any:
    """Return `dtype` if it is a floating-point type, else raise TypeError.

    Example:
        >>> from nnjax.checks import require_dtype
        >>> require_dtype(int)
        Traceback (most recent call last):
        ...
        TypeError: dtype is <class 'int'>; expected a floating-point type such as jnp.float32
    """
    try:
        floating = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except (TypeError, ValueError):
        floating = False
    if dtype is None or not floating:
        raise TypeError(f"{name} is {dtype!r}; expected a floating-point type such as jnp.float32")
    return dtype


def require_number(value: Any, name: str, expected: str, low: float, high: float) -> float:
    """Return `value` if it is a real number with low <= value <= high, else raise ValueError.

    Example:
        >>> from nnjax.checks import require_number
        >>> require_number(-1.0, "eta", "a rate of at least 0", 0, float("inf"))
        Traceback (most recent call last):
        ...
        ValueError: eta is -1.0; expected a rate of at least 0
    """
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not low <= float(value) <= high:
        raise ValueError(f"{name} is {value!r}; expected {expected}")
    return float(value)


def plain_number(value: Any) -> Any:
    """Return a number of NumPy, or an array () of one, as one of Python; others as is.

    Numbers of Python have a hash, and leave arrays their dtype: `np.float64(0.5) * x` is float32 or
    float64 where x is bfloat16; `0.5 * x` is bfloat16. A traced one, which has no value, stays.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> from nnjax.checks import plain_number
        >>> plain_number(np.float64(0.5)), plain_number(jnp.array(0.25)), plain_number(2)
        (0.5, 0.25, 2)
    """
    number = isinstance(value, np.generic | np.ndarray | jax.Array) and value.shape == ()
    return value.item() if number and not isinstance(value, jax.core.Tracer) else value


def require_scalar(value: Any, name: str, expected: str, low: float, high: float) -> Any:
    """Return `value` if it is a real number, or an array () of one, low <= value <= high.

    A traced one, whose value is not there yet, is judged by its shape and dtype alone.

    Raises:
        ValueError: if it is anything else.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.checks import require_scalar
        >>> require_scalar(jnp.array(-1.0), "eta", "a rate of at least 0", 0, 10)
        Traceback (most recent call last):
        ...
        ValueError: eta is -1.0; expected a rate of at least 0
    """
    if type(value) is float and low <= value <= high:  # the usual case, without a detour
        return value
    if not isinstance(value, jax.Array | np.ndarray):
        require_number(value, name, expected, low, high)
        return value
    real = jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)
    if value.shape != () or not real:
        raise ValueError(
            f"{name} is an array of shape {value.shape} and dtype {value.dtype}; "
            f"expected {expected}"
        )
    if not isinstance(value, jax.core.Tracer):
        require_number(float(value), name, expected, low, high)
    return value


def require_floating(array: Any, name: str) -> None:
    """Raise TypeError unless this is an array of floating-point numbers that JAX can compute with.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.checks import require_floating
        >>> require_floating(jnp.array([1, 2]), "params[0].b")
        Traceback (most recent call last):
        ...
        TypeError: params[0].b has dtype int32; expected floating-point numbers such as float32
    """
    dtype = getattr(array, "dtype", None)
    if dtype is None or not hasattr(array, "shape"):
        raise TypeError(f"{name} is {array!r}; expected an array")
    known = dtype.kind == "f" or jnp.issubdtype(dtype, jnp.floating)
    if not known or dtype.itemsize > 8 or not dtype.isnative:
        raise TypeError(
            f"{name} has dtype {dtype}; expected floating-point numbers such as float32"
        )


def require_real_array(array: Any, name: str) -> jax.Array | np.ndarray:
    """Return `array` as an array of real numbers that JAX can take, on the host if it was there.

    Raises:
        ValueError: if it is not rectangular.
        TypeError: if its numbers are not real, or some are masked.

    Example:
        >>> from nnjax.checks import require_real_array
        >>> require_real_array([[1.0], [2.0, 3.0]], "x")
        Traceback (most recent call last):
        ...
        ValueError: x is not a rectangular array: its rows differ in length
    """
    if not isinstance(array, jax.Array | np.ndarray):
        try:
            array = np.asarray(array)
        except ValueError:
            raise ValueError(
                f"{name} is not a rectangular array: its rows differ in length"
            ) from None
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; fill it first, as {name}.filled(0) does")
    dtype = array.dtype
    if dtype.kind == "O" and array.shape == ():
        raise TypeError(f"{name} is {array.item()!r}; expected an array of real numbers")
    if dtype.kind not in "fiub" and (
        dtype.kind in "cmMOSU" or not jnp.issubdtype(dtype, jnp.number)
    ):
        raise TypeError(f"{name} has dtype {dtype}; expected real numbers")
    if isinstance(array, jax.Array):
        return array
    if dtype.kind == "f" and dtype.itemsize > 8:
        return array.astype(np.float64)
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def check_key(key: Any) -> chex.PRNGKey:
    """Return `key` if it is one JAX random key, typed or raw, else raise TypeError.

    Example:
        >>> from nnjax.checks import check_key
        >>> check_key(0)
        Traceback (most recent call last):
        ...
        TypeError: key is 0; expected a random key such as jax.random.key(0)
    """
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    generator = jax.config.jax_default_prng_impl  # pyright: ignore[reportAttributeAccessIssue]
    raw = (2,) if generator == "threefry2x32" else (4,)
    if not typed and not (dtype == np.uint32 and shape == raw):
        came = repr(key) if shape is None else f"an array of shape {shape} and dtype {dtype}"
        raise TypeError(f"key is {came}; expected a random key such as jax.random.key(0)")
    return key
