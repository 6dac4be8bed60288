"""The form that the images of a data set have, and pictures brought to that form.

A network trained on black digits on white, or on standardised images, reads white digits on black
as something else. `ImageFormat.of(x)` measures what training images are; the run keeps it, and
`nnjax predict` brings pictures to it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

__all__ = ["ImageFormat", "require_scale"]

_SAMPLE = 1000
"""How many images, evenly spaced, are looked at."""


class ImageFormat(NamedTuple):
    """The values that paper and ink have in the images of a data set.

    Attributes:
        dtype: "uint8" (grey levels, which the network scales by 1/255) or "float32".
        paper: the value of the background.
        ink: the value of a full stroke, smaller than `paper` where images are dark on light.
            Both are None where images have no plain background, or were standardised pixel by
            pixel.

    Example:
        >>> import numpy as np
        >>> from nnjax.data import load
        >>> x, _ = load("digits").train
        >>> ImageFormat.of(x)
        ImageFormat(dtype='float32', paper=0.0, ink=1.0)
        >>> ImageFormat.of(1 - 2 * x)
        ImageFormat(dtype='float32', paper=1.0, ink=-1.0)
        >>> ImageFormat.of(1 - 2 * x).converted(np.uint8([0, 51, 255]))
        array([ 1. ,  0.6, -1. ], dtype=float32)
    """

    dtype: str
    paper: float | None
    ink: float | None

    @classmethod
    def of(cls, x: np.ndarray) -> ImageFormat:
        """Return the form of the images x (n, h, w, channels).

        The background is the median of the pixels on the border, and has to be near the least or
        the largest value; ink is the other end of the range of a typical image.
        """
        name = x.dtype.name
        sample = _sample(x)
        low, high = (float(np.median(f(sample, axis=(1, 2, 3)))) for f in (np.min, np.max))
        border = np.concatenate(
            [part.reshape(-1) for part in (sample[:, [0, -1]], sample[:, :, [0, -1]])]
        )
        paper, reach = float(np.median(border)), high - low
        plain = reach > 0 and np.mean(np.abs(border - paper) <= 0.2 * reach) >= 0.75
        if not plain or min(paper - low, high - paper) > 0.2 * reach or _by_pixel(sample):
            return cls(name, None, None)
        return cls(name, paper, high if paper - low < high - paper else low)

    def checked(self) -> ImageFormat:
        """Return this form, as it was read from a file, if it can be one.

        Raises:
            ValueError: if it cannot.
        """
        levels = (self.paper, self.ink)
        known = levels == (None, None) or all(
            isinstance(level, int | float) and math.isfinite(level) for level in levels
        )
        if self.dtype not in ("uint8", "float32") or not known:
            raise ValueError(f"the form of the images is damaged: {self}")
        return self

    def converted(self, prepared: np.ndarray) -> np.ndarray:
        """Return pictures in this form.

        Args:
            prepared: pictures of any shape as `nnjax.data.images.prepare` returns them, uint8:
                0 is paper, 255 ink.

        Raises:
            ValueError: if the form is not one that a picture can be brought to.
        """
        if self.paper is None or self.ink is None:
            raise ValueError(
                "a picture cannot be brought to the form of the training images: they have no "
                "plain background, or were standardised pixel by pixel"
            )
        values = self.paper + (self.ink - self.paper) * (prepared / np.float64(255))
        return (np.rint(values) if self.dtype == "uint8" else values).astype(self.dtype)


def require_scale(x: np.ndarray, what: str) -> None:
    """Refuse images (n, h, w, channels) of a scale that cannot be meant.

    Args:
        x: uint8, which the network scales by 1/255, or float32, which it takes as they are.
        what: names them in the error.

    Raises:
        ValueError: if a typical uint8 image does not reach a quarter of the grey levels, or a
            typical float32 image has values beyond 64.

    Example:
        >>> import numpy as np
        >>> require_scale(np.full((2, 8, 8, 1), 255, np.float32), "x")
        Traceback (most recent call last):
        ValueError: x: images as real numbers should lie between about 0 and 1, and these reach \
255; divide by 255, or store whole numbers as uint8
    """
    top = float(np.median(np.max(np.abs(_sample(x)), axis=(1, 2, 3))))
    if x.dtype == np.uint8 and 0 < top < 64:
        raise ValueError(
            f"{what}: whole numbers in images are grey levels 0 to 255, and these reach only "
            f"{top:g}; store x / {top:g} as float32"
        )
    if x.dtype != np.uint8 and top > 64:
        raise ValueError(
            f"{what}: images as real numbers should lie between about 0 and 1, and these reach "
            f"{top:g}; divide by {top:g}, or store whole numbers as uint8"
        )


def _sample(x: np.ndarray) -> np.ndarray:
    sample = x[:: -(-len(x) // _SAMPLE)]
    return sample.astype(np.float32)


def _by_pixel(x: np.ndarray) -> bool:
    """Whether every pixel has the mean 0 over the examples, as StandardScaler makes it."""
    means = x.mean(0)
    return len(x) > 20 and bool(x.min() < 0 and np.abs(means).mean() < 0.1 * x.std())
