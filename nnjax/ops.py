"""Convolution and max-pooling as operations for any JAX model, with the backward passes by hand.

The same code as `nnjax.Conv` and `nnjax.MaxPool`, behind a `jax.custom_vjp`: on CPUs training by
`jax.grad` of `jax.lax.conv_general_dilated` and `reduce_window` takes up to 4 times as long, within
a loop such as `jax.lax.scan` up to 20 times (`docs/speed.md`). They work under `jit`, `vmap`,
`grad` and meshes, and a gradient of a gradient is defined; forward mode (`jax.jvp`) is not, as for
every `custom_vjp`.

Legend: n examples, H, W, C the image (channels last), J filters, kh, kw the kernel, oh, ow what
comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from nnjax.activations import identity
from nnjax.checks import require_real_array
from nnjax.layers.base import Affine
from nnjax.layers.conv import Conv
from nnjax.layers.pool import MaxPool
from nnjax.layers.windows import Pair
from nnjax.network import NUMBERS_FORWARD, examples_at_once
from nnjax.pieces import UNROLL, map_in_pieces, sum_in_pieces
from nnjax.sharding import automatic, spec, varying_alike

__all__ = ["conv", "conv_general_dilated", "max_pool"]


def conv(
    x: jax.Array,
    w: jax.Array,
    stride: int | Pair = 1,
    padding: int | Pair | Literal["same", "valid", "SAME", "VALID"] = 0,
) -> jax.Array:
    """Return the correlation of images with kernels.

    z_{y,x,j} = Σ_{i,k,c} w_{j,i,k,c} a_{sh·y+i, sw·x+k, c}; backward ∂C/∂a = fold(δ w) and
    ∂C/∂w = δᵀ X, where X holds the window at every place as a row (see `nnjax.layers.conv`).

    Args:
        x: (n, H, W, C), or one image (H, W, C).
        w: (J, kh, kw, C); a kernel (kh, kw, C, J) of Flax is `w.transpose(3, 0, 1, 2)`. Where the
            dtypes of x and w differ, both are promoted as in `jnp.add`.
        stride: from one place to the next, one number or (height, width).
        padding: zeros laid around the image: one number, (above and below, left and right),
            "valid" (none) or "same" (the output is ⌈size / stride⌉); capitals as in `jax.lax`
            mean the same.

    Returns:
        (n, oh, ow, J), or (oh, ow, J).

    Raises:
        ValueError: if the shapes, the stride or the padding do not fit together.
        TypeError: if x or w is not an array of real numbers.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> x, w = jnp.ones((2, 5, 5, 3)), jnp.ones((4, 3, 3, 3))
        >>> z, pull_back = jax.vjp(nnjax.ops.conv, x, w)
        >>> z.shape, [g.shape for g in pull_back(z)]
        ((2, 3, 3, 4), [(2, 5, 5, 3), (4, 3, 3, 3)])

    Differs from `jax.lax.conv_general_dilated` in its backward pass and in the order of the axes;
    `nnjax.ops.conv_general_dilated` takes that function's arguments.
    """
    x, w = _require_images(x), jnp.asarray(require_real_array(w, "w"))
    if w.ndim != 4 or w.shape[-1] != x.shape[-1]:
        raise ValueError(
            f"w has shape {w.shape}; for images with {x.shape[-1]} channels expected "
            f"(filters, height, width, {x.shape[-1]})"
        )
    zeros: Any = padding.lower() if padding in ("SAME", "VALID") else padding
    filters, height, width, _ = w.shape
    layer = Conv(filters, (height, width), stride, zeros, identity)
    layer.out_shape(x.shape[-3:])  # refuses a kernel that is larger than the image
    w, x = varying_alike(*(v.astype(jnp.result_type(w, x)) for v in (w, x)))
    return _of_images(partial(_conv, layer, w), x)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(layer, w, x):
    return automatic(partial(_correlate, layer), lambda w, x: PartitionSpec(spec(x)[0]))(w, x)


def _correlate(layer, w, x):
    params = Affine(w, jnp.zeros(w.shape[0], w.dtype))
    forward = jax.vmap(lambda a: layer.forward(params, a, None)[0])
    return map_in_pieces(forward, x, _at_once(layer, x, NUMBERS_FORWARD))


def _conv_forward(layer, w, x):
    return _conv(layer, w, x), (w, x)


def _conv_backward(layer, saved, delta):
    return automatic(partial(_pull_back, layer), lambda w, x, _: (spec(w), spec(x)))(*saved, delta)


def _pull_back(layer, w, x, delta):
    """Return BP4 and the first half of BP2, in pieces as a network computes them."""
    params = Affine(w, jnp.zeros(w.shape[0], w.dtype))
    size = _at_once(layer, x)
    pull_back = jax.vmap(partial(layer.pull_back, params))
    gradient = sum_in_pieces(lambda xs: layer.gradients(*xs).w, (x, delta), size, UNROLL)
    back = map_in_pieces(lambda xs: pull_back(*xs), (x, delta), size, UNROLL)
    return gradient.astype(w.dtype), back


def _at_once(layer, x, limit=None):
    """Return how many images to work through at once, as in `nnjax.network.examples_at_once`.

    All where there are several devices: over these XLA divides images, but not pieces of them.
    """
    n = x.shape[0]
    numbers = layer.patch_numbers(x.shape[1:])
    return n if jax.device_count() > 1 else examples_at_once(n, numbers, limit)


_conv.defvjp(_conv_forward, _conv_backward)


def max_pool(x: jax.Array, size: int | Pair, stride: int | Pair | None = None) -> jax.Array:
    """Return the largest number of every window, in every channel.

    Backward, δ of a window goes to its largest input; of equal ones to the first, row by row.

    Args:
        x: (n, H, W, C), or one image (H, W, C).
        size: of the windows: one number, or (height, width).
        stride: from one window to the next, likewise; None: the size, so that windows tile.

    Returns:
        (n, oh, ow, C), or (oh, ow, C). Windows that would stick out of the image are dropped.

    Raises:
        ValueError: if no window fits the image, or a size is not a positive integer.
        TypeError: if x is not an array of real numbers.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> x = jnp.array([[1.0, 3.0], [3.0, 2.0]])[..., None]
        >>> jax.grad(lambda x: nnjax.ops.max_pool(x, 2).sum())(x).ravel().tolist()
        [0.0, 1.0, 0.0, 0.0]
    """
    x = _require_images(x)
    layer = MaxPool(size, stride)
    layer.out_shape(x.shape[-3:])
    return _of_images(partial(_max_pool, layer), x)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _max_pool(layer, x):
    return _max_pool_forward(layer, x)[0]


def _max_pool_forward(layer, x):
    return jax.vmap(lambda a: layer.forward((), a, None))(x)


def _max_pool_backward(layer, cache, delta):
    return (jax.vmap(lambda c, d: layer.pull_back((), c, d))(cache, delta),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    **options: Any,
) -> jax.Array:
    """Return what `jax.lax.conv_general_dilated` returns, with the backward pass of `conv`.

    For layers that take the function as an argument, such as
    `flax.nnx.Conv(..., conv_general_dilated=nnjax.ops.conv_general_dilated)`.

    Args:
        lhs, rhs, window_strides, padding, options: these and all others are those of
            `jax.lax.conv_general_dilated`. Images (n, H, W, C) with kernels (kh, kw, C, J) of
            the same dtype that are no larger, "SAME", "VALID" or equal margins on opposite sides,
            without dilation, groups and further options, are computed by `conv`; everything else
            by `jax.lax` itself.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> x, w = jnp.ones((2, 5, 5, 3)), jnp.ones((3, 3, 3, 4))
        >>> nnjax.ops.conv_general_dilated(
        ...     x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ... ).shape
        (2, 5, 5, 4)
    """
    plain = all(d is None or set(d) == {1} for d in (lhs_dilation, rhs_dilation))
    plain &= all(value is None for value in options.values())
    ungrouped = feature_group_count == batch_group_count == 1
    margins = _margins(padding)
    images = lhs.ndim == rhs.ndim == 4 and _channels_last(lhs, rhs, dimension_numbers)
    usual = images and plain and ungrouped and lhs.dtype == rhs.dtype
    if not (usual and margins is not None and _fits(lhs.shape, rhs.shape, margins)):
        return jax.lax.conv_general_dilated(
            lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers,
            feature_group_count, batch_group_count, **options,
        )  # fmt: skip
    height, width = window_strides
    return conv(lhs, rhs.transpose(3, 0, 1, 2), (int(height), int(width)), margins)


def _channels_last(lhs: jax.Array, rhs: jax.Array, dimension_numbers: Any) -> bool:
    """Return whether these are the numbers of images (n, H, W, C) and kernels (kh, kw, C, J)."""
    numbers = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    images = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, ("NHWC", "HWIO", "NHWC"))
    return numbers == images


def _fits(images: tuple[int, ...], kernels: tuple[int, ...], margins: Any) -> bool:
    """Return whether there is a place for kernels (kh, kw, C, J) on images (n, H, W, C)."""
    if margins == "SAME":
        return True
    zeros = (0, 0) if margins == "VALID" else margins
    return all(images[1 + i] + 2 * zeros[i] >= kernels[i] for i in (0, 1))


def _margins(padding: Any) -> Any:
    """Return the padding as `conv` takes it; None where it cannot be said so."""
    if isinstance(padding, str):
        return padding if padding in ("SAME", "VALID") else None
    if all(low == high >= 0 for low, high in padding):
        return tuple(int(low) for low, _ in padding)
    return None


def _require_images(x):
    x = jnp.asarray(require_real_array(x, "x"))
    if x.ndim not in (3, 4):
        raise ValueError(
            f"x has shape {x.shape}; expected images (n, height, width, channels) or one image "
            "(height, width, channels)"
        )
    return x


def _of_images(f, x):
    """Apply f, which takes (n, H, W, C), to these or to one image."""
    return f(x) if x.ndim == 4 else f(x[None])[0]
