"""Windows that slide over an image: what convolution and pooling have in common.

Legend: H, W, C an image (channels last), ... any axes before it, kh, kw the size of a window,
sh, sw its stride, oh, ow how many windows there are. Window (y, x) covers the rows sh·y to
sh·y + kh − 1 and the columns sw·x to sw·x + kw − 1. Windows that would stick out are dropped.

Rows and columns are dealt with one after the other. Along an axis, `shifted` takes the i-th input
of every window, and `fold`, its transpose, adds numbers back where they were taken from. With a
dilation d the inputs of a window lie d apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.checks import require_size

__all__ = [
    "Pair",
    "count",
    "extent",
    "fold",
    "overlap_add",
    "pair",
    "require_image",
    "shifted",
    "spread",
    "unfold",
]

Pair = tuple[int, int]
_RUNS = 64  # up to this width, windows are copied out in runs: fewer, longer pieces


def pair(value: Any, name: str, at_least: int = 1) -> Pair:
    """Return (height, width), given both or one number for both; raise ValueError otherwise.

    Example:
        >>> from nnjax.layers.windows import pair
        >>> pair(5, "kernel of Conv")
        (5, 5)
    """
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    if not isinstance(values, tuple):
        values = (values, values)
    if len(values) != 2:
        raise ValueError(f"{name} is {value!r}; expected an integer or a pair (height, width)")
    height, width = (require_size(v, name, at_least) for v in values)
    return height, width


def require_image(in_shape: tuple[int, ...], name: str) -> None:
    """Raise ValueError unless what comes in has the shape (height, width, channels).

    Example:
        >>> from nnjax.layers.windows import require_image
        >>> require_image((784,), "Conv")
        Traceback (most recent call last):
        ...
        ValueError: Conv takes an image (height, width, channels), but what comes in has the \
shape (784,); give the network an input_shape such as (28, 28, 1)
    """
    if len(in_shape) != 3:
        raise ValueError(
            f"{name} takes an image (height, width, channels), but what comes in has the shape "
            f"{tuple(in_shape)}; give the network an input_shape such as (28, 28, 1)"
        )


def count(length: int, size: int, stride: int) -> int:
    """Return how many windows fit along an axis, 0 if not one: ⌊(length − size) / stride⌋ + 1.

    Example:
        >>> from nnjax.layers.windows import count
        >>> count(28, 5, 1), count(7, 2, 2), count(3, 5, 1)
        (24, 3, 0)
    """
    return max((length - size) // stride + 1, 0)


def extent(size: int, dilation: int) -> int:
    """Return how many places of an axis a window covers, the gaps between its inputs counted in.

    Example:
        >>> from nnjax.layers.windows import extent
        >>> extent(3, 1), extent(3, 2)
        (3, 5)
    """
    return (size - 1) * dilation + 1


def shifted(a: jax.Array, axis: int, size: int, stride: int, dilation: int = 1) -> list[jax.Array]:
    """Return `size` arrays, with a window an entry along the axis: the i-th input of each.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.layers.windows import shifted
        >>> [s.tolist() for s in shifted(jnp.arange(5), 0, size=2, stride=2)]
        [[0, 2], [1, 3]]
    """
    n = count(a.shape[axis], extent(size, dilation), stride)
    last, starts = (n - 1) * stride + 1, range(0, size * dilation, dilation)
    return [jax.lax.slice_in_dim(a, i, i + last, stride, axis) for i in starts]


def fold(
    pieces: Sequence[jax.Array], axis: int, length: int, stride: int, dilation: int = 1
) -> jax.Array:
    """Return an array of this length along the axis: pieces added where `shifted` takes them.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.layers.windows import fold
        >>> fold([jnp.ones(2), jnp.ones(2), jnp.ones(2)], 0, length=5, stride=1).tolist()
        [1.0, 2.0, 2.0, 1.0, 0.0]
    """
    axis %= pieces[0].ndim
    # Windows that tile the axis: their inputs lie side by side.
    if stride == len(pieces) and dilation == 1:
        tiles = jnp.stack(pieces, axis + 1)
        shape = tiles.shape
        tiles = tiles.reshape(*shape[:axis], shape[axis] * stride, *shape[axis + 2 :])
        return _padded(tiles, axis, 0, length)
    total = None
    for i, piece in enumerate(pieces):
        placed = _padded(piece, axis, i * dilation, length, stride)
        total = placed if total is None else total + placed
    assert total is not None  # a window has at least one input
    return total


def _padded(a, axis, start, length, stride=1):
    """Return zeros of this length along the axis, with a from `start` on, at a fixed spacing."""
    margins = [(0, 0, 0)] * a.ndim
    end = start + (a.shape[axis] - 1) * stride + 1
    margins[axis] = (start, length - end, stride - 1)
    return jax.lax.pad(a, np.zeros((), a.dtype), margins)


def overlap_add(x: jax.Array, axis: int, length: int, stride: int) -> jax.Array:
    """Return what `fold` does of one array that holds the pieces on the axis after `axis`.

    (..., n windows, k inputs of each, ...) to (..., length, ...). Laid out in one row, the i-th
    input of window y stands at k·y + i; with stride 1 it goes to p = y + i, so that the sum for p
    takes the places k·p − (k−1)·i: a window with holes that moves by k, a case of
    `reduce_window`. On a CPU it is quicker than shifted copies, where runs of numbers are short.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.layers.windows import overlap_add
        >>> overlap_add(jnp.ones((3, 3)), 0, length=6, stride=1).tolist()
        [1.0, 2.0, 3.0, 2.0, 1.0, 0.0]
    """
    axis %= x.ndim
    zero = np.zeros((), x.dtype)
    n, k = x.shape[axis : axis + 2]
    if stride > 1:  # windows of zeros in between: then all lie one apart
        n = (n - 1) * stride + 1
        x = _padded(x, axis, 0, n, stride)
    x = x.reshape(*x.shape[:axis], n * k, *x.shape[axis + 2 :])
    window, holes, margins = [1] * x.ndim, [1] * x.ndim, [(0, 0)] * x.ndim
    window[axis], holes[axis] = k, max(k - 1, 1)
    margins[axis] = ((k - 1) ** 2, (k - 1) ** 2 + (length - (n + k - 1)) * k)
    return jax.lax.reduce_window(
        x, zero, jax.lax.add, window, window, margins, window_dilation=holes
    )


def unfold(a: jax.Array, size: Pair, stride: Pair, dilation: Pair = (1, 1)) -> jax.Array:
    """Return the inputs of every window in a row, (..., oh, ow, kh·kw·C), channels fastest.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.layers.windows import unfold
        >>> unfold(jnp.arange(4).reshape(1, 4, 1), (1, 3), (1, 1)).tolist()
        [[[0, 1, 2], [1, 2, 3]]]
    """
    *lead, height, width, channels = a.shape
    n_windows = count(width, extent(size[1], dilation[1]), stride[1])
    # What a window holds of one row of the image is one run of numbers.
    if n_windows <= _RUNS and dilation[1] == 1:
        rows = a.reshape(*lead, height, width * channels)
        bands = shifted(rows, -2, size[0], stride[0], dilation[0])
        bands = jnp.stack(bands, axis=-2)  # (..., oh, kh, W·C)
        step, length = stride[1] * channels, size[1] * channels
        runs = [jax.lax.slice_in_dim(bands, x, x + length, axis=-1)
                for x in range(0, n_windows * step, step)]  # fmt: skip
        x = jnp.stack(runs, axis=-3)
        return x.reshape(*x.shape[:-2], size[0] * length)
    across = jnp.concatenate(shifted(a, -2, size[1], stride[1], dilation[1]), axis=-1)
    return jnp.concatenate(shifted(across, -3, size[0], stride[0], dilation[0]), axis=-1)


def spread(g: jax.Array, shape: tuple[int, ...], size: Pair, stride: Pair) -> jax.Array:
    """Return the image (..., H, W, C) where every window has added its g to all of its inputs.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.layers.windows import spread
        >>> spread(jnp.array([[[3.0], [5.0]]]), (1, 5, 1), (1, 2), (1, 2)).ravel().tolist()
        [3.0, 3.0, 5.0, 5.0, 0.0]
    """
    g = fold([g] * size[0], -3, shape[-3], stride[0])
    return fold([g] * size[1], -2, shape[-2], stride[1])
