"""Artificial expansion of the training data: shifted copies, and random distortions.

`shifted` is the book's way: a data set five times as large. `Distortion` works inside the jitted
epoch, on every mini-batch, so that no image is ever seen twice; it is a frozen description and
draws from the key that it is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from nnjax.checks import require_number, require_size
from nnjax.data import Dataset

__all__ = ["Distortion", "shifted"]

_TAIL = 1e-3  # modes of an elastic field that are weaker than this are left out


def shifted(data: Dataset, pixels: int = 1) -> Dataset:
    """Return the data set with four more copies of every training image, moved by one pixel.

    The training images come first as they were, then all moved down, up, right and left; what
    comes in at the border is 0. Validation and test images stay as they are.

    Args:
        data: with images (n, h, w, channels).
        pixels: how far, at least 1 and less than the height and the width.

    Raises:
        ValueError: if the data are not images, or the images would move out of sight.

    Example:
        >>> import nnjax
        >>> from nnjax.training.augmentation import shifted
        >>> shifted(nnjax.data.load("digits")).train[0].shape
        (6285, 8, 8, 1)

    Reference: Nielsen 2015, chapter 6, `expand_mnist.py`.
    """
    x, y = np.asarray(data.train[0]), np.asarray(data.train[1])
    _require_images(x)
    least = min(x.shape[1:3])
    if require_size(pixels, "pixels") >= least:
        raise ValueError(f"pixels is {pixels}; expected less than the {least} that the images have")
    copies = [x]
    for axis in (1, 2):
        for step in (pixels, -pixels):
            moved = np.roll(x, step, axis)
            edge = slice(None, step) if step > 0 else slice(step, None)
            moved[(slice(None),) * axis + (edge,)] = 0
            copies.append(moved)
    return data._replace(train=(np.concatenate(copies), np.concatenate([y] * len(copies))))


@jax.tree_util.register_static
@dataclass(frozen=True)
class Distortion:
    """Random shifts, rotations, scalings, skews and elastic distortions of images.

    The value at pixel p of the new image is that at A (p − c) + c + s + u(p) of the old one (c:
    the centre), between pixels bilinearly, outside 0. A is a rotation times a skew times a
    scaling, s a shift by whole pixels, and u the displacement field of Simard et al.: noise of
    variance ⅓ at every pixel and in both directions, convolved with a Gaussian of width σ, times
    α. All strengths are drawn uniformly, for every image separately.

    Args:
        shift: whole pixels, −shift … shift along each axis.
        rotation: degrees, −rotation … rotation.
        scaling: along each axis by 1 − scaling … 1 + scaling, less than 1.
        skew: sideways by −skew … skew times the height above the centre.
        elastic: α, pixels; the displacement is 0.16 α / σ pixels in the root mean square.
        sigma: σ, pixels: small values tear the image, large ones move it as a whole.

    Raises:
        ValueError: if a strength is negative or out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nnjax.training.augmentation import Distortion
        >>> distort = Distortion(rotation=15.0, elastic=34.0)
        >>> distort(jax.random.key(0), jnp.ones((10, 28, 28, 1))).shape
        (10, 28, 28, 1)

    Reference: Simard, Steinkraus and Platt 2003, "Best practices for convolutional neural networks
    applied to visual document analysis" (α = 34, σ = 4 for MNIST). Differs from it: the noise is
    normal instead of uniform, which the convolution makes of it anyway, so that the field can be
    drawn as the few waves that it consists of, in the same distribution.
    """

    shift: int = 0
    rotation: float = 0.0
    scaling: float = 0.0
    skew: float = 0.0
    elastic: float = 0.0
    sigma: float = 4.0

    def __post_init__(self):
        require_size(self.shift, "shift of Distortion", 0)
        huge = 1e6
        for name, expected, low, high in (
            ("rotation", "degrees from 0 to 180", 0, 180),
            ("scaling", "a fraction of at least 0, less than 1", 0, 1 - 1e-6),
            ("skew", "a finite slope of at least 0", 0, huge),
            ("elastic", "a finite strength α of at least 0, in pixels", 0, huge),
            ("sigma", "a width σ of at least 0.5 pixels", 0.5, huge),
        ):
            require_number(getattr(self, name), f"{name} of Distortion", expected, low, high)

    def __call__(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Return distorted images of the same shape.

        Args:
            key: a random key.
            x: (n, h, w, channels); uint8 grey levels come back as float32, divided by 255.

        Raises:
            ValueError, TypeError: if x has another shape, is of whole numbers other than uint8, or
                could be moved out of sight.
        """
        _require_images(x)
        if x.dtype == jnp.uint8:
            x = x.astype(jnp.float32) / 255
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(
                f"x is {x.dtype}; expected uint8 grey levels or floating-point numbers: between "
                "pixels there are no whole ones"
            )
        if self.shift >= min(x.shape[1:3]):
            raise ValueError(
                f"shift of Distortion is {self.shift}; expected less than the "
                f"{min(x.shape[1:3])} pixels that the images have"
            )
        dtype = x.dtype
        x = x.astype(np.promote_types(dtype, np.float32))  # coordinates need more than 8 bits
        source = self._sources(key, *x.shape[:3]).astype(x.dtype)
        # Without the barrier each of the four corners of every pixel would compute them again.
        source = jax.lax.optimization_barrier(source)

        def warp(image, source):
            return map_coordinates(image, list(source), order=1, mode="constant", cval=0.0)

        moved = jax.vmap(jax.vmap(warp, in_axes=(-1, None), out_axes=-1))(x, source)
        return moved.astype(dtype)

    def _sources(self, key, n, h, w):
        """Return where the value of each pixel comes from: (n, 2, h, w), in pixels."""
        key_affine, key_shift, key_elastic = jax.random.split(key, 3)
        middle_row, middle_column = (h - 1) / 2, (w - 1) / 2
        rows = jnp.arange(h, dtype=jnp.float32).reshape(1, h, 1) - middle_row
        columns = jnp.arange(w, dtype=jnp.float32).reshape(1, 1, w) - middle_column
        a = self._affine(key_affine, n).reshape(2, 2, n, 1, 1)
        sources = jnp.stack(
            [
                a[0, 0] * rows + a[0, 1] * columns + middle_row,
                a[1, 0] * rows + a[1, 1] * columns + middle_column,
            ],
            axis=1,
        )
        if self.shift:
            whole = jax.random.randint(key_shift, (2 * n,), -self.shift, self.shift + 1)
            sources = sources + whole.astype(jnp.float32).reshape(n, 2, 1, 1)
        if self.elastic:
            down, across = _modes(h, self.sigma), _modes(w, self.sigma)
            shape = (n, 2, down.shape[1], across.shape[1])
            # Drawn flat: random numbers of four dimensions take seconds to compile on a CPU.
            waves = jax.random.normal(key_elastic, (math.prod(shape),), jnp.float32)
            waves = waves.reshape(shape)
            field = jnp.einsum("ik,nakl,jl->naij", down, waves, across)
            sources = sources + self.elastic / 3**0.5 * field
        return sources

    def _affine(self, key, n):
        """Return A, (2, 2, n), acting on (row, column): a rotation, times a skew and a scaling."""
        drawn = jax.random.uniform(key, (4 * n,), jnp.float32, minval=-1.0, maxval=1.0)
        angle, skew, scale_y, scale_x = drawn.reshape(4, n)
        angle = math.radians(self.rotation) * angle
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        skew = self.skew * skew
        scale_y, scale_x = 1 + self.scaling * scale_y, 1 + self.scaling * scale_x
        first_row = [(cos - sin * skew) * scale_y, -sin * scale_x]
        second_row = [(sin + cos * skew) * scale_y, cos * scale_x]
        return jnp.stack([*first_row, *second_row])


@lru_cache(maxsize=16)
def _modes(size: int, sigma: float) -> np.ndarray:
    """Return (size, k): the waves that noise consists of after a convolution with a Gaussian.

    With G = u diag(s) vᵀ, the convolution G R of noise R that is independent and normal has the
    distribution of u diag(s) R' with R' of the same kind; most of s is as good as 0.
    """
    distance = np.arange(size)[:, None] - np.arange(size)
    gaussian = np.exp(-(distance**2) / (2 * sigma**2))
    u, s, _ = np.linalg.svd(gaussian / (np.sqrt(2 * np.pi) * sigma))
    return (u * s)[:, s > _TAIL * s[0]].astype(np.float32)


def _require_images(x: Any) -> None:
    if x.ndim != 4:
        raise ValueError(f"augmentation takes images (n, h, w, channels); x has shape {x.shape}")
