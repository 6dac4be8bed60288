"""Small pictures inside a page: arrays as PNG data, without a library."""

from __future__ import annotations

import base64
import math
import struct
import zlib

import numpy as np

from nnjax.page.html import Html, element

__all__ = ["diverging", "grey", "picture", "png", "tiled"]


def png(pixels: np.ndarray) -> bytes:
    r"""Return the content of a PNG file: (h, w) grey levels or (h, w, 3) colours, uint8.

    Example:
        >>> import numpy as np
        >>> from nnjax.page.pictures import png
        >>> png(np.zeros((2, 3), np.uint8))[:8]
        b'\x89PNG\r\n\x1a\n'
    """

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    height, width = pixels.shape[:2]
    colour = 2 if pixels.ndim == 3 else 0
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    rows = pixels.reshape(height, -1)
    lines = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1)  # 0: no filter
    data = zlib.compress(lines.tobytes(), 9)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    )


def picture(pixels: np.ndarray, alt: str, scale: int = 1) -> Html:
    """Return an <img> that holds the picture, each pixel `scale` units wide.

    Example:
        >>> import numpy as np
        >>> from nnjax.page.pictures import picture
        >>> picture(np.zeros((2, 3), np.uint8), "nothing", scale=2).split(" ", 2)[2]
        'alt="nothing" width="6" height="4" class="pixels">'
    """
    source = "data:image/png;base64," + base64.b64encode(png(pixels)).decode()
    height, width = pixels.shape[:2]
    return element(
        "img", src=source, alt=alt, width=scale * width, height=scale * height, class_="pixels"
    )


def grey(x: np.ndarray) -> np.ndarray:
    """Return one image (h, w, c) or (h, w) as levels or colours, its range spread over 0 to 255.

    Example:
        >>> import numpy as np
        >>> from nnjax.page.pictures import grey
        >>> grey(np.array([[0.0, 0.5], [1.0, 1.0]])).tolist()
        [[0, 128], [255, 255]]
    """
    x = np.asarray(x, float)
    x = x[..., 0] if x.ndim == 3 and x.shape[-1] != 3 else x
    low, high = x.min(), x.max()
    return np.rint(255 * (x - low) / ((high - low) or 1)).astype(np.uint8)


def diverging(values: np.ndarray, largest: float) -> np.ndarray:
    """Return colours (..., 3): blue for positive values, red for negative ones, white for 0.

    Example:
        >>> import numpy as np
        >>> from nnjax.page.pictures import diverging
        >>> diverging(np.array([-1.0, 0.0, 1.0]), 1.0).tolist()
        [[178, 24, 43], [255, 255, 255], [33, 102, 172]]
    """
    share = np.clip(np.asarray(values, float) / (largest or 1), -1, 1)[..., None]
    full = np.where(share > 0, np.array([33.0, 102, 172]), np.array([178.0, 24, 43]))
    return np.rint(255 + (full - 255) * np.abs(share)).astype(np.uint8)


def tiled(images: np.ndarray, columns: int = 0) -> np.ndarray:
    """Return images (n, h, w, 3) as one, in rows, with a grey line between them.

    Example:
        >>> import numpy as np
        >>> from nnjax.page.pictures import tiled
        >>> tiled(np.zeros((3, 4, 5, 3), np.uint8), columns=2).shape
        (9, 11, 3)
    """
    n, height, width, _ = images.shape
    columns = columns or math.ceil(math.sqrt(1.6 * n))
    rows = -(-n // columns)
    whole = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, 3), 160, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + 1), (i % columns) * (width + 1)
        whole[top : top + height, left : left + width] = image
    return whole
