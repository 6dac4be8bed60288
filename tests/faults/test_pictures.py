"""Damaged pictures of every format: each is read or refused in a sentence.

`NNJAX_FAULTS=1 pytest tests/faults` mutates 10,000 of them, otherwise 200.
"""

import io
import os
import warnings

import numpy as np
import pytest
from PIL import Image, features

from nnjax.data.images import prepare

TRIES = 10_000 if os.environ.get("NNJAX_FAULTS") else 200


def samples():
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


def mutate(content, rng):
    """The file with bytes changed, cut off, put in, or its numbers made large."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        place = int(rng.integers(len(content)))
        match rng.integers(5):
            case 0:
                content[place] ^= 1 << int(rng.integers(8))
            case 1:
                content[place] = int(rng.integers(256))
            case 2:
                del content[place : place + int(rng.integers(1, 40))]
            case 3:
                content[place:place] = rng.bytes(int(rng.integers(1, 9)))
            case 4:
                content[place : place + 4] = b"\xff\xff\xff\x7f"
        if not content:
            break
    return bytes(content)


def test_mutated_pictures(tmp_path):
    rng, kinds = np.random.default_rng(0), list(samples())
    read = refused = 0
    for i in range(TRIES):
        name, content = kinds[i % len(kinds)]
        path = tmp_path / f"{i}-{name}"
        path.write_bytes(mutate(content, rng))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                prepared = prepare(path)
            except ValueError as error:
                assert str(error).startswith(f"{path}: ")  # noqa: PT017
                assert "\n" not in str(error)  # noqa: PT017
                refused += 1
            else:
                assert (prepared.shape, prepared.dtype) == ((28, 28, 1), np.uint8)
                read += 1
        path.unlink()
    print(f"{TRIES} mutated pictures: {read} read, {refused} refused in a sentence")
    assert min(read, refused) > TRIES / 20


@pytest.mark.parametrize(("name", "content"), list(samples()))
def test_undamaged_samples_are_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    if name == "TIFF-LAB":
        with pytest.raises(ValueError, match="TIFF-LAB: cannot be read as an image"):
            prepare(tmp_path / name)
    else:
        assert prepare(tmp_path / name)[14, 14, 0] > 100
