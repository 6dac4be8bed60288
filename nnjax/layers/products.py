"""The three products of a convolution, by matrix products with patches and by the library.

Legend and formulas as in `nnjax.layers.conv`: `correlate` is the forward pass without its bias,
`pull_back` the first half of BP2, `weight_gradient` BP4. `patches` and `library` give the same
numbers, up to rounding; which of them computes what is chosen in `nnjax.layers.ways`.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from nnjax.layers.base import Shape
from nnjax.layers.rows import Geometry, gathered, places_per_row, side_by_side, widened
from nnjax.layers.windows import fold, overlap_add, unfold
from nnjax.pieces import at_least_float32, wide_product

__all__ = ["InOrder", "Library", "Patches", "in_order", "library", "patches"]


class Patches:
    """Convolution by matrix products with patches. Images (..., H, W, C), weights (J, kh, kw, C).

    Where weights are few, several neighbouring places share a row of X (`nnjax.layers.rows`): an
    infinite input makes NaN of z at all of them.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.layers.products import Geometry, patches
        >>> geometry = Geometry((1, 2), (1, 1), ((0, 0), (0, 0)))
        >>> w = jnp.array([10.0, 1.0]).reshape(1, 1, 2, 1)
        >>> a = jnp.array([1.0, 2.0, 3.0]).reshape(1, 3, 1)
        >>> patches.correlate(w, a, geometry).ravel().tolist()
        [12.0, 23.0]
    """

    def unfold(self, a: jax.Array, geometry: Geometry) -> jax.Array:
        """Return X (..., oh, ow, K), the inputs that meet the weights at every place."""
        margins = [(0, 0)] * (a.ndim - 3) + [*geometry.margins, (0, 0)]
        return unfold(jnp.pad(a, margins), geometry.kernel, geometry.stride, geometry.dilation)

    def correlate(self, w: jax.Array, a: jax.Array, geometry: Geometry) -> jax.Array:
        """Return X wᵀ (..., oh, ow, J)."""
        if geometry.groups > 1:
            return self._side_by_side(self.correlate, w, a, geometry)
        n = places_per_row(w.shape, a.shape, geometry)
        w = side_by_side(w, n, geometry.stride[1])
        z = self.unfold(a, widened(geometry, n)) @ w.reshape(len(w), -1).T
        return z.reshape(*z.shape[:-2], z.shape[-2] * n, z.shape[-1] // n)

    def pull_back(
        self, w: jax.Array, delta: jax.Array, in_shape: Shape, geometry: Geometry
    ) -> jax.Array:
        """Return fold(δ w) (..., H, W, C), given δ (..., oh, ow, J)."""
        if geometry.groups > 1:
            f = partial(self.pull_back, in_shape=in_shape)
            return self._side_by_side(f, w, delta, geometry)
        height, width, _ = in_shape
        (top, bottom), (left, right) = geometry.margins
        (kh, kw), (sh, sw), (dh, dw) = geometry.kernel, geometry.stride, geometry.dilation
        x = delta @ w.reshape(w.shape[0], -1)
        bands = fold(jnp.split(x, kh, axis=-1), -3, top + height + bottom, sh, dh)
        if dw > 1:
            image = fold(jnp.split(bands, kw, axis=-1), -2, left + width + right, sw, dw)
        else:
            bands = bands.reshape(*bands.shape[:-1], kw, -1)
            image = overlap_add(bands, -3, left + width + right, sw)
        return image[..., top : top + height, left : left + width, :]

    def weight_gradient(self, a: jax.Array, delta: jax.Array, geometry: Geometry) -> jax.Array:
        """Return δᵀ X (J, kh, kw, C / G), summed over all examples in float32 at least."""
        if geometry.groups > 1:
            f = partial(self.weight_gradient, geometry=geometry._replace(groups=1))
            g = jax.vmap(f)(_parts(a, geometry.groups), _parts(delta, geometry.groups))
            return g.reshape(-1, *g.shape[2:])
        filters, channels = delta.shape[-1], a.shape[-1]
        n = places_per_row((filters, *geometry.kernel, channels), a.shape, geometry)
        wide = widened(geometry, n)
        x = self.unfold(a, wide)
        x, delta = x.reshape(-1, x.shape[-1]), delta.reshape(-1, n * filters)
        # The same product either way; with the fewer rows first it is faster.
        few = delta.shape[-1] <= x.shape[-1]
        g = wide_product(delta.T, x) if few else wide_product(x.T, delta).T
        g = g.reshape(n * filters, *wide.kernel, channels)
        return gathered(g, n, geometry.kernel[1], geometry.stride[1])

    def _side_by_side(self, f, w, array, geometry):
        """Return f(w, array, geometry=...) of every group, joined again."""
        groups = geometry.groups
        f = partial(f, geometry=geometry._replace(groups=1))
        out = jax.vmap(f)(w.reshape(groups, -1, *w.shape[1:]), _parts(array, groups))
        out = jnp.moveaxis(out, 0, -2)
        return out.reshape(*out.shape[:-2], -1)


class Library:
    """The same three functions, each one call of `jax.lax.conv_general_dilated`.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.layers.products import Geometry, library, patches
        >>> geometry = Geometry((3, 3), (2, 2), ((1, 1), (0, 1)))
        >>> w, delta = jnp.ones((4, 3, 3, 2)), jnp.ones((3, 3, 4))
        >>> turned = library.pull_back(w, delta, (5, 6, 2), geometry)
        >>> bool(jnp.allclose(turned, patches.pull_back(w, delta, (5, 6, 2), geometry)))
        True
    """

    def correlate(self, w: jax.Array, a: jax.Array, geometry: Geometry) -> jax.Array:
        """Return z without its bias, (..., oh, ow, J): the correlation of a with w."""
        return _by_example(
            lambda a: jax.lax.conv_general_dilated(
                a,
                w.transpose(1, 2, 3, 0),  # the only order that XLA computes quickly on CPUs
                geometry.stride,
                geometry.margins,
                rhs_dilation=geometry.dilation,
                feature_group_count=geometry.groups,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            ),
            a,
        )

    def pull_back(
        self, w: jax.Array, delta: jax.Array, in_shape: Shape, geometry: Geometry
    ) -> jax.Array:
        """Return δ, padded "full", correlated with the kernel turned by 180° (..., H, W, C)."""
        (top, _), (left, _) = geometry.margins
        lows = (geometry.extents[0] - 1 - top, geometry.extents[1] - 1 - left)
        margins = [
            (low, length + k - 1 - ((n - 1) * s + 1) - low)
            for low, length, k, n, s in zip(
                lows,
                in_shape[:2],
                geometry.extents,
                delta.shape[-3:-1],
                geometry.stride,
                strict=True,
            )
        ]
        # As input channels J / G, as output channels (G, C / G).
        turned = w[:, ::-1, ::-1, :].reshape(geometry.groups, -1, *w.shape[1:])
        turned = turned.transpose(2, 3, 1, 0, 4)
        turned = turned.reshape(*turned.shape[:3], -1)
        return _by_example(
            lambda delta: jax.lax.conv_general_dilated(
                delta,
                turned,
                (1, 1),
                margins,
                lhs_dilation=geometry.stride,
                rhs_dilation=geometry.dilation,
                feature_group_count=geometry.groups,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            ),
            delta,
        )

    def weight_gradient(self, a: jax.Array, delta: jax.Array, geometry: Geometry) -> jax.Array:
        """Return the correlation of a with δ (J, kh, kw, C / G), summed over all examples.

        The library adds up in float32 at least and rounds the sums to the dtype that came in. Those
        of float16, which would be infinite from 65,504 on, are made of arrays in float32.
        """
        margins, wide = _margins_of_gradient(a, delta, geometry), at_least_float32(delta.dtype)
        if delta.dtype == jnp.float16:
            a, delta = a.astype(wide), delta.astype(wide)
        g = jax.lax.conv_general_dilated(
            a.reshape(-1, *a.shape[-3:]),
            delta.reshape(-1, *delta.shape[-3:]),
            geometry.dilation,
            margins,
            rhs_dilation=geometry.stride,
            batch_group_count=geometry.groups,
            dimension_numbers=("CHWN", "IHWO", "CHWN"),  # the examples are what is summed over
        )
        return g.astype(wide)


class InOrder(Library):
    """The library, with BP4 in the order (images, height, width, channels), which CPUs need.

    BP4 correlates a with δ: channels take the place of examples, and examples that of channels.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.layers.products import Geometry, in_order, library
        >>> geometry = Geometry((3, 3), (2, 2), ((1, 1), (0, 1)))
        >>> a, delta = jnp.ones((4, 5, 6, 2)), jnp.ones((4, 3, 3, 7))
        >>> g = in_order.weight_gradient(a, delta, geometry)
        >>> bool(jnp.allclose(g, library.weight_gradient(a, delta, geometry)))
        True
    """

    def weight_gradient(self, a: jax.Array, delta: jax.Array, geometry: Geometry) -> jax.Array:
        """Return what `Library.weight_gradient` does, without groups."""
        a, delta = (array.reshape(-1, *array.shape[-3:]) for array in (a, delta))
        images, kernels = a.transpose(3, 1, 2, 0), delta.transpose(3, 1, 2, 0)
        height, width = delta.shape[1:3]
        margins = _margins_of_gradient(a, delta, geometry)
        moved = Geometry((height, width), geometry.dilation, margins, geometry.stride)
        return self.correlate(kernels, images, moved).transpose(3, 1, 2, 0)


def _margins_of_gradient(a, delta, geometry):
    """Return the zeros around the image with which the correlation with δ has a kernel's size."""
    top_bottom, left_right = (
        (low, k - 1 + (n - 1) * s + 1 - length - low)
        for (low, _), length, k, n, s in zip(
            geometry.margins,
            a.shape[-3:-1],
            geometry.extents,
            delta.shape[-3:-1],
            geometry.stride,
            strict=True,
        )
    )
    return top_bottom, left_right


def _by_example(f, a):
    """Apply f, which takes (n, H, W, C), to (..., H, W, C)."""
    out = f(a.reshape(-1, *a.shape[-3:]))
    return out.reshape(*a.shape[:-3], *out.shape[1:])


def _parts(a, groups):
    """Return the channels in groups, (groups, ..., channels / groups)."""
    return jnp.moveaxis(a.reshape(*a.shape[:-1], groups, -1), -2, 0)


patches = Patches()
library = Library()
in_order = InOrder()
