"""A picture of a handwritten digit, in the form in which networks have learnt digits."""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Callable
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from nnjax.checks import install

__all__ = ["on_paper", "opened", "prepare"]

T = TypeVar("T")


def prepare(
    path_or_array: str | os.PathLike[str] | np.ndarray, shape: tuple[int, int] = (28, 28)
) -> np.ndarray:
    """Return the picture prepared as MNIST was: light on dark, scaled, centred by mass.

    1. ink = closing(grey) - grey, how much darker a place is than the paper around it. The closing
       (the maximum, then the minimum over a window wider than a stroke) is the picture without
       its strokes, so paper in the shade is not ink. A picture that is dark at its edges is light
       on dark and turned into its negative first; a thin frame around it is cut off before, and
       a margin of paper is added, as the digit may fill the picture.
    2. The noise of the paper becomes 0, the typical stroke 1.
    3. The picture is cropped to the ink and scaled, its proportions kept, to fit a box of 20/28
       of the shape, as in MNIST (20x20 in 28x28). In 8x8 the box is the whole picture, as in the
       digits of scikit-learn.
    4. The box is moved, by whole pixels, until its centre of mass is in the middle: at pixel 14 of
       0 to 27, as in MNIST.

    Args:
        path_or_array: a picture file, of any size and colours, with or without transparency; or
            a picture as an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), of whole numbers
            0 to 255 or real numbers 0 to 1.
        shape: height and width to return.

    Returns:
        uint8 (h, w, 1): 0 is paper, 255 ink.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a picture, or a blank one.
        ImportError: Pillow is missing; says how to install it.

    Example:
        >>> import numpy as np
        >>> paper = np.full((200, 300), 250, np.uint8)
        >>> paper[40:120, 20:30] = 30  # a "1", far from the middle
        >>> one = prepare(paper)
        >>> one.shape, one.dtype.name, bool(one[14, 14, 0] > 200), int(one[0, 0, 0])
        ((28, 28, 1), 'uint8', True, 0)

    Reference: LeCun, Cortes and Burges, "The MNIST database of handwritten digits".
    """
    try:
        from PIL import Image
    except ImportError:
        raise ImportError(f"reading pictures requires Pillow: {install('images')}") from None
    if not (
        isinstance(shape, tuple | list)
        and len(shape) == 2
        and all(isinstance(side, Integral) and 4 <= side <= _LARGE for side in shape)
    ):
        raise ValueError(
            f"shape must be a height and a width of 4 to {_LARGE} pixels, such as (28, 28), got "
            f"{shape!r}"
        )
    if isinstance(path_or_array, str | os.PathLike):
        what = os.fspath(path_or_array)
        grey = opened(what, _grey)
    else:
        what = "the array"
        grey = _grey(_from_array(np.asarray(path_or_array)))
    ink = _ink(grey)
    if ink is None:
        raise ValueError(f"{what}: a blank picture: nothing stands out from its background")

    # Crop to the ink, and scale to the box.
    rows, columns = (np.flatnonzero((ink > 0.3).any(axis)) for axis in (1, 0))
    crop = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    crop_width, crop_height = crop[2] - crop[0], crop[3] - crop[1]
    if tuple(shape) == (8, 8):  # measured: what brings back the digits of scikit-learn best
        box, middle = shape, [(side - 1) / 2 for side in shape]
    else:
        box, middle = [side * 20 / 28 for side in shape], [side // 2 for side in shape]
    scale = min(box[0] / crop_height, box[1] / crop_width)
    size = max(1, round(scale * crop_width)), max(1, round(scale * crop_height))
    small = Image.fromarray(ink).resize(size, Image.Resampling.LANCZOS, crop)
    digit = np.asarray(small).clip(0)
    digit = np.rint(255 * (digit / digit.max())).astype(np.uint8)

    # Centre by mass.
    prepared = np.zeros((*shape, 1), np.uint8)
    window = []
    for axis, side in enumerate(shape):
        mass = digit.sum(1 - axis, dtype=float)
        centre = mass @ np.arange(len(mass)) / mass.sum()
        start = min(max(round(middle[axis] - centre), 0), side - len(mass))
        window.append(slice(start, start + len(mass)))
    prepared[*window, 0] = digit
    return prepared


_LARGE = 512
"""Longer sides are scaled down to this first: pixels enough, and the noise of a photo is gone."""

_FORMATS = ("PNG", "JPEG", "MPO", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "ICO")
"""Of photographs, scans and drawings. Pillow knows more; for some it starts other programs."""

_UNREADABLE = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, NotImplementedError),
    *(OSError, RuntimeError, SyntaxError, TypeError, ValueError, struct.error),
)
"""What Pillow raises, while it opens or decodes a file that is damaged or unusual."""


def opened(path: str | os.PathLike[str], use: Callable[[Any], T]) -> T:
    """Return `use(picture)` of the picture in a file, upright, as a Pillow image.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a picture of a known format, is damaged or larger than 89 megapixels.
        ImportError: Pillow is missing; says how to install it.

    Example:
        >>> opened("no-such-file.png", lambda picture: picture.size)
        Traceback (most recent call last):
        ...
        FileNotFoundError: no-such-file.png: file not found
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise ImportError(f"reading pictures requires Pillow: {install('images')}") from None

    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata that do not matter here
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # over 89 megapixels
            with Image.open(path, formats=formats) as picture:
                return use(ImageOps.exif_transpose(picture))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: file not found") from None
    except UnidentifiedImageError:
        raise ValueError(
            f"{path}: not an image, or in a format that is not read (expected one of "
            f"{', '.join(formats)})"
        ) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(
            f"{path}: has more than {Image.MAX_IMAGE_PIXELS:,} pixels; scale it down first"
        ) from None
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: cannot be read as an image ({reason})") from None


def _from_array(array: np.ndarray) -> Any:
    from PIL import Image

    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ValueError(
            "a picture as an array must be (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), "
            f"got shape {array.shape}"
        )
    if array.dtype.kind not in "buif":
        raise ValueError(f"a picture as an array must hold real numbers, got dtype {array.dtype}")
    top = 255 if array.dtype.kind in "ui" else 1
    if not ((array >= 0) & (array <= top)).all():
        raise ValueError(
            f"a picture as an array of {array.dtype} must hold values from 0 to {top}, got "
            f"{array.min()} to {array.max()}"
        )
    return Image.fromarray(np.rint(array * (255.0 / top)).astype(np.uint8))


def on_paper(picture: Any) -> Any:
    """Return a Pillow image of 8-bit levels in which what is transparent is paper.

    Levels of more bits are scaled to 0 to 255; paper is white, or black where the picture is mostly
    light.

    Example:
        >>> from PIL import Image
        >>> on_paper(Image.new("RGBA", (1, 1), (9, 9, 9, 1))).getpixel((0, 0))[0] > 250
        True
    """
    from PIL import Image

    if picture.mode == "F" or picture.mode.startswith("I"):  # levels of any range
        levels = np.asarray(picture, np.float64)
        if not np.isfinite(levels).all():
            raise ValueError("it holds NaN or infinite levels")
        levels = levels - levels.min()
        picture = Image.fromarray(np.rint(255 * levels / max(levels.max(), 1)).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        grey, alpha = (np.asarray(picture.getchannel(c).convert("L"), float) for c in "GA")
        paper = 255 if (alpha * grey).sum() < 127.5 * alpha.sum() else 0
        picture = Image.alpha_composite(
            Image.new("RGBA", picture.size, (paper,) * 3 + (255,)), picture
        )
    return picture


def _grey(picture: Any) -> np.ndarray:
    """Grey levels from 0 to 1, (h, w), where what is transparent is paper."""
    from PIL import ImageFilter

    picture = on_paper(picture)
    picture = picture.convert("L")
    picture.thumbnail((_LARGE, _LARGE))
    picture = picture.filter(ImageFilter.GaussianBlur(max(picture.size) / 200))
    return np.asarray(picture, np.float32) / 255


def _ink(grey: np.ndarray) -> np.ndarray | None:
    """How much ink there is, from 0 to 1, (h, w); None where nothing stands out."""
    within = _without_frame(grey)
    ink = _ink_of_any_shade(within)
    # What looks like a frame around nothing is the background of a stroke that fills the picture.
    return _ink_of_any_shade(grey) if ink is None and within is not grey else ink


def _ink_of_any_shade(grey: np.ndarray) -> np.ndarray | None:
    if np.median(_edge(grey)) < (grey.min() + grey.max()) / 2:
        grey = 1 - grey
    ink = _dark_ink(grey)  # a stroke may fill the edges, and the picture: then it is the other way
    return _dark_ink(1 - grey) if ink is None else ink


def _dark_ink(grey: np.ndarray) -> np.ndarray | None:
    margin = max(grey.shape) // 4
    paper = _closing(_with_margin(grey, margin))
    ink = paper[margin:-margin, margin:-margin] - grey if margin else paper - grey
    strong = ink >= ink.max() / 2
    stroke, rest = np.median(ink[strong]), ink[~strong] if strong.mean() < 1 else ink
    middle = np.median(rest)
    noise = middle + 6 * np.median(np.abs(rest - middle))  # 4 standard deviations of the paper
    if stroke < max(0.05, 1.25 * noise):
        return None
    return np.clip((ink - noise) / (stroke - noise), 0, 1)


def _edge(array: np.ndarray) -> np.ndarray:
    return np.concatenate([array[0], array[-1], array[:, 0], array[:, -1]])


def _without_frame(grey: np.ndarray) -> np.ndarray:
    """The picture within its frame, if it has one: thin lines of one shade along all four edges,
    within which most of the edge has the other shade, as a stroke may touch the frame."""
    dark = grey < (grey.min() + grey.max()) / 2
    if dark[0].mean() < 0.5:
        dark = ~dark  # now True is the shade of the frame
    cut, thin = [], max(2, min(max(grey.shape) // 10, min(grey.shape) // 4))
    for lines in (dark, dark[::-1], dark.T, dark.T[::-1]):
        inside = np.flatnonzero(lines[:thin].mean(1) < 0.9)
        if not len(inside) or inside[0] == 0:
            return grey
        cut.append(inside[0] + 1)  # one more, for a soft edge
    top, bottom, left, right = cut
    within = np.s_[top : len(grey) - bottom, left : grey.shape[1] - right]
    return grey[within] if _edge(dark[within]).mean() < 0.5 else grey


def _with_margin(grey: np.ndarray, margin: int) -> np.ndarray:
    """The picture with paper around it, whose shade goes on as a plane from that on the edges."""
    height, width = grey.shape
    y, x = np.mgrid[-margin : height + margin, -margin : width + margin]
    plane = np.stack([np.ones(y.shape), y / height, x / width], -1)
    inner = np.s_[margin : margin + height, margin : margin + width]
    levels, places = _edge(grey), _edge(plane[inner])
    light = np.ones(len(levels), bool)
    for _ in range(5):  # strokes may reach the edge: the lightest quarter of it is paper
        shade = np.linalg.lstsq(places[light], levels[light], rcond=None)[0]
        rest = levels - places @ shade
        light = rest >= np.quantile(rest, 0.75)
    padded = (plane @ shade).astype(np.float32)
    padded[inner] = grey
    return padded


def _closing(grey: np.ndarray) -> np.ndarray:
    """The grey closing over a third of the picture, found on a coarse copy, as paper is smooth."""
    from PIL import Image

    coarse = Image.fromarray(grey)
    coarse.thumbnail((64, 64), Image.Resampling.BOX)
    paper = np.asarray(coarse)
    half = max(paper.shape) // 6
    paper = np.pad(paper, 2 * half, mode="edge")
    for extreme in (np.max, np.min):
        for axis in (0, 1):
            paper = extreme(sliding_window_view(paper, 2 * half + 1, axis), axis=-1)
    return np.asarray(Image.fromarray(paper).resize(grey.shape[::-1], Image.Resampling.BILINEAR))
