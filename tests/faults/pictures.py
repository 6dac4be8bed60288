"""Damaged pictures of every format: each is read or refused in a sentence."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from faults.campaign import SENTENCE, SURVIVED, TRACEBACK, WRONG, Tally
from PIL import Image, features

from nnjax.data.images import prepare


def samples() -> Iterator[tuple[str, bytes]]:
    """Files of every format and mode that Pillow writes here."""
    paper = np.full((60, 50), 250, np.uint8)
    paper[10:50, 20:26] = 30
    picture = Image.fromarray(paper)
    kinds = [("PNG", mode) for mode in ("L", "RGB", "RGBA", "LA", "P", "1", "I;16")]
    kinds += [("TIFF", mode) for mode in ("L", "RGB", "CMYK", "LAB", "F", "I", "1", "RGBA")]
    kinds += [("JPEG", mode) for mode in ("L", "RGB", "CMYK")]
    kinds += [("GIF", "P"), ("BMP", "RGB"), ("WEBP", "RGB"), ("PPM", "L"), ("ICO", "RGBA")]
    kinds += [("AVIF", "RGB")] * bool(features.check("avif"))
    kinds += [("JPEG2000", "L")] * bool(features.check("jpg_2000"))
    for kind, mode in kinds:
        if mode == "I;16":
            converted = Image.fromarray(paper.astype(np.uint16) * 257)
        elif mode == "LAB":
            converted = Image.merge("LAB", [picture] * 3)
        else:
            converted = picture.convert(mode)
        content = io.BytesIO()
        converted.save(content, kind)
        yield f"{kind}-{mode}", content.getvalue()


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """The file with bytes changed, cut off, put in, or its numbers made large."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        place = int(rng.integers(len(changed)))
        match rng.integers(5):
            case 0:
                changed[place] ^= 1 << int(rng.integers(8))
            case 1:
                changed[place] = int(rng.integers(256))
            case 2:
                del changed[place : place + int(rng.integers(1, 40))]
            case 3:
                changed[place:place] = rng.bytes(int(rng.integers(1, 9)))
            case 4:
                changed[place : place + 4] = b"\xff\xff\xff\x7f"
        if not changed:
            break
    return bytes(changed)


def mutated(trials: int, work: Path, seed: int = 0) -> Tally:
    """Prepare damaged pictures, as `nnjax predict` does."""
    tally, rng, kinds = Tally("mutated pictures"), np.random.default_rng(seed), list(samples())
    for i in range(trials):
        name, content = kinds[i % len(kinds)]
        path = work / f"{i}-{name}"
        path.write_bytes(mutate(content, rng))
        what = f"{name}, picture {i}"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                prepared = prepare(path)
            except ValueError as error:
                said = str(error).startswith(f"{path}: ") and "\n" not in str(error)
                tally.add(SENTENCE if said else TRACEBACK, f"{what}: {error!r}")
            except Exception as error:
                tally.add(TRACEBACK, f"{what}: {error!r}")
            else:
                right = prepared.shape == (28, 28, 1) and prepared.dtype == np.uint8
                tally.add(SURVIVED if right else WRONG, what)
        path.unlink()
    return tally
