"""Examples worked through in pieces, in the memory of one piece, whatever the function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = [
    "UNROLL",
    "at_least_float32",
    "equal_size",
    "map_in_pieces",
    "means_like",
    "sum_in_pieces",
    "wide_product",
]

UNROLL = 2  # small pieces side by side: while one waits for memory, another computes


def equal_size(n: int, limit: int) -> int:
    """Return a size of at most `limit` that divides n; if none is near, the most equal one.

    Examples left over are a second program to compile. A symbolic n, as in `jax.export`, is not
    divided.

    Example:
        >>> from nnjax.pieces import equal_size
        >>> equal_size(100, 30), equal_size(101, 30), equal_size(20, 30)
        (25, 26, 20)
    """
    if not isinstance(n, int) or n <= limit:
        return n
    dividing = (size for size in range(limit, limit // 2, -1) if n % size == 0)
    return next(dividing, -(-n // -(-n // limit)))


def map_in_pieces(f: Callable[[Any], Any], xs: Any, size: int, unroll: int = 1) -> Any:
    """Return f(xs), where f takes a batch, computed for `size` examples at a time.

    Args:
        f: from arrays with examples on the first axis to such arrays.
        xs: a pytree of arrays (n, ...).
        size: of a piece, at least 1; what is left over is a piece of its own.
        unroll: how many pieces are worked through side by side, where that divides their number.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.pieces import map_in_pieces
        >>> map_in_pieces(lambda x: x + jnp.max(x), jnp.arange(5), size=2).tolist()
        [1, 2, 5, 6, 8]
    """
    n = jax.tree.leaves(xs)[0].shape[0]
    if n <= size:
        return f(xs)
    pieces, rest = _split(xs, n, size)
    _, out = jax.lax.scan(
        lambda _, x: (None, f(x)), None, pieces, unroll=_unrolled(n // size, unroll)
    )
    out = jax.tree.map(lambda r: r.reshape(-1, *r.shape[2:]), out)
    if n % size == 0:
        return out
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), out, f(rest))


def sum_in_pieces(f: Callable[[Any], Any], xs: Any, size: int, unroll: int = 1) -> Any:
    """Return the sum of f over pieces of `size` examples, added up in float32 at least.

    Args:
        f: from arrays with examples on the first axis to what is added up.
        xs: a pytree of arrays (n, ...), the first of real numbers.
        size: of a piece, at least 1; what is left over is a piece of its own.
        unroll: how many pieces are worked through side by side, where that divides their number.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.pieces import sum_in_pieces
        >>> int(sum_in_pieces(jnp.max, jnp.arange(5), size=2))
        8
    """
    n = jax.tree.leaves(xs)[0].shape[0]
    if n <= size:
        return f(xs)
    pieces, rest = _split(xs, n, size)
    like = jax.eval_shape(f, jax.tree.map(lambda x: x[0], pieces))
    # Always false, but inside `shard_map` it varies with the data, as the sum over them will.
    never = jnp.zeros((), bool) & (jax.tree.leaves(xs)[0].ravel()[0] > 0)

    def zero(leaf):
        wide = jnp.zeros(leaf.shape, at_least_float32(leaf.dtype))
        return jnp.where(never, jnp.ones_like(wide), wide)

    def add(total, piece):
        return jax.tree.map(lambda t, v: t + v.astype(t.dtype), total, f(piece)), None

    start = jax.tree.map(zero, like)
    total, _ = jax.lax.scan(add, start, pieces, unroll=_unrolled(n // size, unroll))
    if n % size:
        total, _ = add(total, rest)
    return jax.tree.map(lambda t, leaf: t.astype(leaf.dtype), total, like)


def at_least_float32(dtype: Any) -> Any:
    """Return the dtype to add up many numbers of this dtype in: float32 for 16 bits and fewer.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.pieces import at_least_float32
        >>> at_least_float32(jnp.bfloat16), at_least_float32(jnp.float64)
        (dtype('float32'), dtype('float64'))
    """
    narrow = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
    return jnp.dtype(jnp.float32) if narrow else jnp.dtype(dtype)


def wide_product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return a @ b, added up in float32 at least and not rounded to fewer bits.

    XLA has no product of two arrays in bfloat16 with a result in float32 within a loop on CPUs,
    where it converts both anyway.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.pieces import wide_product
        >>> ones = jnp.ones(70_000, jnp.float16)  # which ends at 65,504
        >>> float(wide_product(ones, ones))
        70000.0
    """
    wide = at_least_float32(a.dtype)
    if a.dtype == wide:
        return a @ b
    return jax.lax.platform_dependent(
        a,
        b,
        cpu=lambda a, b: a.astype(wide) @ b.astype(wide),
        default=lambda a, b: jnp.matmul(a, b, preferred_element_type=wide),
    )


def means_like(params: Any, totals: Any, n: Any = None) -> Any:
    """Return totals / n in the dtypes of the parameters, divided before they are rounded to them.

    Args:
        params: a pytree of arrays.
        totals: sums over n examples, shaped alike, in float32 at least: those of float16 end at
            65,504, and so does n.
        n: how many were added up; None: the totals are means already.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.pieces import means_like
        >>> means_like(jnp.ones((), jnp.float16), jnp.float32(1e5), 200_000)
        Array(0.5, dtype=float16)
    """

    def mean(p, total):
        total = total.astype(at_least_float32(total.dtype))
        return (total if n is None else total / n).astype(p.dtype)

    return jax.tree.map(mean, params, totals)


def _split(xs, n, size):
    """Return the whole pieces, (n // size, size, ...), and the examples left over."""
    whole = n - n % size
    pieces = jax.tree.map(lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), xs)
    return pieces, jax.tree.map(lambda x: x[whole:], xs)


def _unrolled(pieces, unroll):
    """Return how many pieces each turn of a loop takes: `unroll`, or 1 if some would be left over.

    What is left over, or all if there is but one turn, would stand outside of the loop. XLA takes
    up to twice as long there: BP3 and BP4 of 64 maps of 3x3 on 32x32x3 in two pieces of 32 images
    took 19.3 ms, in a loop 7.5.
    """
    return unroll if pieces > unroll and pieces % unroll == 0 else 1
