"""Convolution on a CPU: several neighbouring places share one row of X.

Legend as in `nnjax.layers.conv`. A product with few inputs and few filters is slow on a CPU. Then
one row of X serves n neighbouring places: it holds the wider window that covers theirs, and meets
the weights of each place where its own window lies, with zeros beside them. The product is larger,
and X is smaller, for windows that overlap are written once. With n = 1 nothing is changed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nnjax.layers.windows import Pair, count, extent

__all__ = ["Geometry", "gathered", "places_per_row", "side_by_side", "widened"]

_FEW_WEIGHTS, _OUTPUTS = 512, 80  # with fewer weights, make products of about this many outputs


class Geometry(NamedTuple):
    """Where the windows of a convolution lie: all sizes are (height, width).

    Attributes:
        kernel: (kh, kw).
        stride: (sh, sw).
        margins: zeros laid around the image: (top, bottom), (left, right).
        dilation: (dh, dw), how far apart the inputs of a window lie.
        groups: how many parts the channels and the filters are divided into; the filters of a part
            see its channels alone.
    """

    kernel: Pair
    stride: Pair
    margins: tuple[Pair, Pair]
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def extents(self) -> Pair:
        """How many rows and columns of the image a window covers."""
        height, width = map(extent, self.kernel, self.dilation)
        return height, width

    def places(self, in_shape: tuple[int, ...]) -> Pair:
        """Return (oh, ow), how many windows an image (..., H, W, C) has; 0 where none fits."""
        padded = [n + sum(m) for n, m in zip(in_shape[-3:-1], self.margins, strict=True)]
        height, width = (
            count(*args) for args in zip(padded, self.extents, self.stride, strict=True)
        )
        return height, width


def places_per_row(w_shape: tuple[int, ...], in_shape: tuple[int, ...], geometry: Geometry) -> int:
    """Return how many neighbouring places share a row of X: one, where weights are many.

    Example:
        >>> from nnjax.layers.rows import Geometry, places_per_row
        >>> geometry = Geometry((5, 5), (1, 1), ((0, 0), (0, 0)))
        >>> places_per_row((20, 5, 5, 1), (28, 28, 1), geometry)
        4
    """
    if math.prod(w_shape) > _FEW_WEIGHTS or geometry.dilation[1] > 1:
        return 1
    _, width = geometry.places(in_shape)
    sizes = (n for n in (4, 3, 2) if width % n == 0 and n * w_shape[0] <= _OUTPUTS)
    return next(sizes, 1)


def widened(geometry: Geometry, n: int) -> Geometry:
    """Return the windows that hold n neighbouring ones of a row each.

    Example:
        >>> from nnjax.layers.rows import Geometry, widened
        >>> widened(Geometry((5, 5), (1, 1), ((0, 0), (0, 0))), 4).kernel
        (5, 8)
    """
    (kh, kw), (sh, sw) = geometry.kernel, geometry.stride
    return geometry._replace(kernel=(kh, kw + (n - 1) * sw), stride=(sh, n * sw))


def side_by_side(w: jax.Array, n: int, step: int) -> jax.Array:
    """Return the weights (J, kh, kw, C) as each of n places has them, (n·J, kh, wider, C).

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.layers.rows import side_by_side
        >>> side_by_side(jnp.array([5.0, 6.0]).reshape(1, 1, 2, 1), 2, step=1)[..., 0].tolist()
        [[[5.0, 6.0, 0.0]], [[0.0, 5.0, 6.0]]]
    """
    return jnp.concatenate(
        [jnp.pad(w, ((0, 0), (0, 0), (i * step, (n - 1 - i) * step), (0, 0))) for i in range(n)]
    )


def gathered(g: jax.Array, n: int, width: int, step: int) -> jax.Array:
    """Return the sum over places of a gradient (n·J, kh, wider, C): `side_by_side`'s transpose.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.layers.rows import gathered
        >>> gathered(jnp.arange(6.0).reshape(2, 1, 3, 1), 2, width=2, step=1).ravel().tolist()
        [4.0, 6.0]
    """
    g = g.reshape(n, -1, *g.shape[1:])
    return jnp.sum(jnp.stack([g[i, :, :, i * step : i * step + width] for i in range(n)]), axis=0)
