"""Which way each product of a convolution is computed, chosen in this one place by measurement.

On accelerators every product is a call of the library, `jax.lax.conv_general_dilated`: cuDNN on a
GPU. On CPUs, for float32 and without groups,

    forward    the library; patches for at most 16 maps of fewer than 6 channels, for so few places
               that the library takes longer to reorder the kernels (`FewPlaces`), and in a backward
               pass whose BP4 takes patches, which are the same
    BP2        the library where kernels move by one, there are hardly more inputs than outputs
               ("same" padding, or a kernel that is small beside the image), and at least 16
               channels; `ManyImages` for fewer channels in long windows on large images; else
               patches
    BP4        the library where kernels of 7x7 or wider move by one and there are at least 16
               channels; else patches

and patches for everything in other dtypes, with groups, and where `jax.vmap` gives every network
weights of its own: XLA has no quick convolution for these on CPUs. Of BP2 the library computes the
full correlation, H·W places, where patches have oh·ow. For BP4, in which the examples are what is
summed over, the axes have to be reordered first (`InOrder`): within a loop XLA is tens of times
slower in other orders. Where `NNJAX_CONVOLUTIONS` asks for oneDNN (`nnjax.layers.onednn`), it
computes all that is float32 and without groups, but for BP2 with fewer than 8 channels, which goes
as without it, and for the forward pass at few places.

Processor time of the library over that of patches, within a loop, on two cores: forward 0.25 to
0.97 (1.25 for 1x1 with stride 2), and on the clock 1.2 to 8 for at most 16 maps of fewer than 6
channels; BP2 0.45 to 1.05 where the library is taken, 0.6 to 2.3 elsewhere; BP4 0.45 to 0.92 where
it is taken, 0.35 to 1.5 elsewhere (`docs/speed.md`).

Each product f(u, v) is linear in u and in v, so its derivative is f(du, v) + f(u, dv). JAX would
say the same of the library's, and transpose that into the products that are slow; so the rule is
written out below with patches in it. Forward mode, reverse mode and any mixture stay defined.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import SymbolicZero

from nnjax.layers.base import Shape
from nnjax.layers.onednn import OneDNN, asked_for, onednn
from nnjax.layers.products import Library, Patches, in_order, library, patches
from nnjax.layers.rows import Geometry

__all__ = [
    "FewPlaces",
    "ManyImages",
    "back_on_cpu",
    "correlate",
    "forward_on_cpu",
    "pull_back",
    "to_be_followed_by_bp4",
    "weight_gradient",
    "weights_on_cpu",
]

_CHANNELS = 16  # fewer results at every place are a product that the library is slow at
# With fewer channels it is ahead in BP2, where there are no fewer than these:
_SOME_CHANNELS, _LONG_WINDOW, _MAPS, _LARGE_IMAGE, _MANY_PLACES = 3, 100, 32, 24 * 24, 8192
_CHANNELS_OF_ONEDNN = 8  # it computes as many at a time, and pads where there are fewer
_FEW_MAPS, _FEW_CHANNELS = 16, 5  # no more of both are a forward pass that the library is slow at
_WIDE = 7  # kernels of this size have so many patches that the library is ahead for BP4
_INPUTS = 1.25  # of an image for each output: the library's work over that of patches

_bp4_follows: ContextVar[bool] = ContextVar("bp4_follows", default=False)


@dataclass(frozen=True)
class FewPlaces:
    """A way forward, with patches in its place where all images together have few places.

    The library and oneDNN bring the kernels into their own order in every call, J·K numbers; at no
    more than 2J places, it takes less time to write the patches, as many numbers as places times K.

    Args:
        other: the way where there are more places.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.layers.products import library
        >>> from nnjax.layers.ways import FewPlaces, Geometry
        >>> geometry = Geometry((3, 3), (1, 1), ((0, 0), (0, 0)))
        >>> w, a = jnp.ones((20, 3, 3, 2)), jnp.ones((1, 8, 8, 2))  # 36 places
        >>> z = FewPlaces(library).correlate(w, a, geometry)
        >>> bool(jnp.allclose(z, library.correlate(w, a, geometry)))
        True
    """

    other: Library | OneDNN

    def correlate(self, w: jax.Array, a: jax.Array, geometry: Geometry) -> jax.Array:
        """Return z without its bias, (..., oh, ow, J)."""
        places = math.prod((*a.shape[:-3], *geometry.places(a.shape)))
        few = isinstance(places, int) and places <= 2 * len(w)  # it is no int in `jax.export`
        return (patches if few else self.other).correlate(w, a, geometry)


class ManyImages:
    """BP2 by the library where all images together have many places, and else by patches.

    Of long windows on few channels, the library takes down to 0.4 times as long as patches; but for
    a few images it uses one thread.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.layers.products import library
        >>> from nnjax.layers.ways import Geometry, ManyImages
        >>> geometry = Geometry((3, 3), (1, 1), ((1, 1), (1, 1)))
        >>> w, delta = jnp.ones((20, 3, 3, 2)), jnp.ones((1, 8, 8, 20))
        >>> a = ManyImages().pull_back(w, delta, (8, 8, 2), geometry)
        >>> bool(jnp.allclose(a, library.pull_back(w, delta, (8, 8, 2), geometry)))
        True
    """

    def pull_back(
        self, w: jax.Array, delta: jax.Array, in_shape: Shape, geometry: Geometry
    ) -> jax.Array:
        """Return ∂C/∂a (..., H, W, C), given δ (..., oh, ow, J)."""
        places = math.prod((*delta.shape[:-3], *in_shape[-3:-1]))
        many = isinstance(places, int) and places >= _MANY_PLACES  # it is no int in `jax.export`
        return (library if many else patches).pull_back(w, delta, in_shape, geometry)


many_images = ManyImages()


Product = Callable[[Any, jax.Array, jax.Array], jax.Array]  # f(way, u, v)
Way = FewPlaces | Library | ManyImages | OneDNN | Patches


def forward_on_cpu(w_shape: Shape, geometry: Geometry, *dtypes: Any) -> Way:
    """Return what computes the forward pass on CPUs, given weights of shape (J, kh, kw, C / G).

    Args:
        w_shape: of the weights.
        geometry: where the windows lie.
        dtypes: of the weights and of the images.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.layers.ways import Geometry, forward_on_cpu
        >>> geometry = Geometry((5, 5), (1, 1), ((0, 0), (0, 0)))
        >>> type(forward_on_cpu((20, 5, 5, 1), geometry, jnp.float32)).__name__
        'FewPlaces'
        >>> type(forward_on_cpu((6, 5, 5, 1), geometry, jnp.float32)).__name__
        'Patches'
        >>> type(forward_on_cpu((20, 5, 5, 1), geometry, jnp.float64)).__name__
        'Patches'
    """
    way = _possible(geometry, *dtypes)
    few = w_shape[0] <= _FEW_MAPS and w_shape[-1] <= _FEW_CHANNELS
    if isinstance(way, Patches) or (way is library and few):
        return patches
    return FewPlaces(way)


def _possible(geometry, *dtypes):
    """Return oneDNN or the library for what they compute quickly, and patches for the rest."""
    if geometry.groups > 1 or any(dtype != jnp.float32 for dtype in dtypes):
        return patches
    return onednn if asked_for() else library


def back_on_cpu(w_shape: Shape, in_shape: Shape, geometry: Geometry, *dtypes: Any) -> Way:
    """Return what computes BP2 on CPUs, given weights of shape (J, kh, kw, C / G).

    Args:
        w_shape: of the weights.
        in_shape: (H, W, C), of an image that comes in.
        geometry: where the windows lie.
        dtypes: of the weights and of the errors.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.layers.ways import Geometry, back_on_cpu
        >>> same = Geometry((3, 3), (1, 1), ((1, 1), (1, 1)))
        >>> type(back_on_cpu((64, 3, 3, 64), (32, 32, 64), same, jnp.float32)).__name__
        'Library'
        >>> valid = Geometry((5, 5), (1, 1), ((0, 0), (0, 0)))  # of 144 inputs, 64 outputs
        >>> type(back_on_cpu((40, 5, 5, 20), (12, 12, 20), valid, jnp.float32)).__name__
        'Patches'
    """
    way = _possible(geometry, *dtypes)
    if way is patches or (way is onednn and in_shape[-1] >= _CHANNELS_OF_ONEDNN):
        return way
    inputs, outputs = math.prod(in_shape[-3:-1]), math.prod(geometry.places(in_shape))
    if not _moves_by_one(geometry) or inputs > _INPUTS * outputs:
        return patches
    if in_shape[-1] >= _CHANNELS:
        return library
    maps, *window = w_shape
    long = in_shape[-1] >= _SOME_CHANNELS and math.prod(window) >= _LONG_WINDOW
    return many_images if long and maps >= _MAPS and inputs >= _LARGE_IMAGE else patches


def weights_on_cpu(in_shape: Shape, geometry: Geometry, *dtypes: Any) -> Way:
    """Return what computes BP4 on CPUs, given the shape (H, W, C) of an image that comes in.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.layers.ways import Geometry, weights_on_cpu
        >>> wide = Geometry((7, 7), (1, 1), ((3, 3), (3, 3)))
        >>> type(weights_on_cpu((16, 16, 32), wide, jnp.float32)).__name__
        'InOrder'
        >>> type(weights_on_cpu((28, 28, 1), wide, jnp.float32)).__name__
        'Patches'
    """
    way = _possible(geometry, *dtypes)
    if way is not library:
        return way
    quick = _moves_by_one(geometry) and in_shape[-1] >= _CHANNELS
    return in_order if quick and min(geometry.kernel) >= _WIDE else patches


def _moves_by_one(geometry):
    return geometry.stride == geometry.dilation == (1, 1)


def correlate(w: jax.Array, a: jax.Array, geometry: Geometry) -> jax.Array:
    """Return z without its bias (..., oh, ow, J), given w (J, kh, kw, C / G), a (..., H, W, C).

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.layers.ways import Geometry, correlate
        >>> w = jnp.array([10.0, 1.0]).reshape(1, 1, 2, 1)
        >>> a = jnp.array([1.0, 2.0, 3.0]).reshape(1, 3, 1)
        >>> correlate(w, a, Geometry((1, 2), (1, 1), ((0, 0), (0, 0)))).ravel().tolist()
        [12.0, 23.0]
    """

    def product(way, w, a):
        return way.correlate(w, a, geometry)

    way = forward_on_cpu(w.shape, geometry, w.dtype, a.dtype)
    if _bp4_follows.get() and weights_on_cpu(a.shape, geometry, w.dtype, a.dtype) is patches:
        way = patches
    return _computed(product, way, w, a, images_alone=True)


@contextmanager
def to_be_followed_by_bp4() -> Iterator[None]:
    """Say of the forward passes traced within that BP4 follows: it may take patches made there.

    XLA makes the patches of both once. By the library, which makes none, a training step of the
    book's two convolutions took 1.2 times as long.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.layers.ways import Geometry, correlate, to_be_followed_by_bp4
        >>> geometry = Geometry((1, 2), (1, 1), ((0, 0), (0, 0)))
        >>> with to_be_followed_by_bp4():
        ...     z = correlate(jnp.ones((1, 1, 2, 1)), jnp.ones((1, 3, 1)), geometry)
        >>> z.ravel().tolist()
        [2.0, 2.0]
    """
    before = _bp4_follows.set(True)
    try:
        yield
    finally:
        _bp4_follows.reset(before)


def pull_back(w: jax.Array, delta: jax.Array, in_shape: Shape, geometry: Geometry) -> jax.Array:
    """Return ∂C/∂a (..., H, W, C), given w and δ (..., oh, ow, J): wᵀδ of BP2.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.layers.ways import Geometry, pull_back
        >>> w = jnp.array([10.0, 1.0]).reshape(1, 1, 2, 1)
        >>> geometry = Geometry((1, 2), (1, 1), ((0, 0), (0, 0)))
        >>> pull_back(w, jnp.ones((1, 2, 1)), (1, 3, 1), geometry).ravel().tolist()
        [10.0, 11.0, 1.0]
    """

    def product(way, w, delta):
        return way.pull_back(w, delta, in_shape, geometry)

    way = back_on_cpu(w.shape, in_shape, geometry, w.dtype, delta.dtype)
    return _computed(product, way, w, delta, images_alone=True)


def weight_gradient(a: jax.Array, delta: jax.Array, geometry: Geometry) -> jax.Array:
    """Return ∂C/∂w (J, kh, kw, C / G), summed over all examples, given a and δ: BP4.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.layers.ways import Geometry, weight_gradient
        >>> a = jnp.array([1.0, 2.0, 3.0]).reshape(1, 3, 1)
        >>> geometry = Geometry((1, 2), (1, 1), ((0, 0), (0, 0)))
        >>> weight_gradient(a, jnp.ones((1, 2, 1)), geometry).ravel().tolist()
        [3.0, 5.0]
    """

    def product(way, a, delta):
        return way.weight_gradient(a, delta, geometry)

    way = weights_on_cpu(a.shape, geometry, a.dtype, delta.dtype)
    return _computed(product, way, a, delta)


def _computed(product: Product, way: Way, u, v, images_alone: bool = False):
    """Compute the product in one way on CPUs, with patches where that would be slow or undefined.

    Args:
        product: f(way, u, v).
        way: in which to compute it.
        u, v: its arguments.
        images_alone: see `_unless_batched`.
    """
    if way is patches:
        return _by_platform(product, partial(product, patches), u, v)
    return _with_tangents(product, _unless_batched(product, way, images_alone), u, v)


def _by_platform(product: Product, on_cpu, *arrays):
    """Compute on_cpu(*arrays) if that is what the program is compiled for, else by the library."""
    return jax.lax.platform_dependent(*arrays, cpu=on_cpu, default=partial(product, library))


def _with_tangents(product: Product, on_cpu, u, v):
    """Compute the product as `_by_platform` does, with patches in its derivative on CPUs."""

    @jax.custom_jvp
    def value(u, v):
        return _by_platform(product, on_cpu, u, v)

    def value_and_tangent(primals, tangents):
        (u, v), (du, dv) = primals, tangents
        term = partial(_by_platform, product, partial(product, patches))
        terms = [
            term(*pair)
            for pair, t in (((du, v), du), ((u, dv), dv))
            if not isinstance(t, SymbolicZero)
        ]
        z = value(u, v)
        return z, sum(terms[1:], terms[0]) if terms else jnp.zeros_like(z)

    value.defjvp(value_and_tangent, symbolic_zeros=True)
    return value(u, v)


def _unless_batched(product: Product, way: Way, images_alone: bool):
    """Return the product in one way, and by patches where `jax.vmap` gives it a batch.

    Args:
        product: f(way, u, v).
        way: in which to compute it.
        images_alone: whether v holds images, of which a batch is only more of them where u, the
            weights, is shared.
    """

    @custom_vmap
    def one(u, v):
        return product(way, u, v)

    @one.def_vmap
    def batched(axis_size, in_batched, u, v):
        if images_alone and not in_batched[0]:
            return one(u, v), True  # (axis_size, ..., H, W, C)
        axes = tuple(0 if several else None for several in in_batched)
        return jax.vmap(partial(product, patches), in_axes=axes)(u, v), True

    return one
