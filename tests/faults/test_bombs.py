"""Files that claim, or unpack to, far more than they hold."""

import gzip
import io
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from nnjax.data import images, load, readers


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    """As if the least limit were 1 MiB, so that the bombs of the tests stay small."""
    monkeypatch.setattr(readers, "_LEAST", 2**20)


def npy(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def header(shape, descr="<f8"):
    """An .npy file that claims a shape and holds nothing."""
    text = str({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    text = text.ljust(128 - 10 - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def zipped(method=zipfile.ZIP_DEFLATED, **members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, member in members.items():
            archive.writestr(f"{name}.npy", member)
    return content.getvalue()


def lying(content, claimed):
    """The archive with another unpacked size in its directory and its local header."""
    content = bytearray(content)
    for signature, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.index(signature) + place
        content[at : at + 4] = struct.pack("<I", claimed)
    return bytes(content)


def encrypted(content):
    content = bytearray(content)
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + place] |= 1
    return bytes(content)


ZEROS = npy(np.zeros(2**21, np.uint8))
BOMBS = {
    "zip": (zipped(x=ZEROS, y=npy(np.arange(3))), "unpack to more than"),
    "two members that together are one": (
        zipped(x=ZEROS[: 2**20 - 100], y=ZEROS[: 2**20 - 100]), "unpack to more than|bytes for"
    ),
    "zip that claims to be small": (lying(zipped(x=ZEROS), 100), "truncated or corrupt"),
    "bzip2": (zipped(zipfile.ZIP_BZIP2, x=ZEROS), "compressed otherwise than np.savez"),
    "lzma": (zipped(zipfile.ZIP_LZMA, x=ZEROS), "compressed otherwise than np.savez"),
    "encrypted": (encrypted(zipped(x=npy(np.arange(3)))), "encrypted"),
    "a shape of 2**60": (zipped(x=header((2**60,))), "0 bytes for float64 of shape"),
    "a shape of 2**60 nothings": (zipped(x=header((2**60, 0))), "array is too big"),
    "a shape of negative lengths": (zipped(x=header((-1, -1))), "not a few lengths"),
    "a shape of 100 lengths": (zipped(x=header((1,) * 33)), "not a few lengths"),
    "a long type": (zipped(x=header((1,), "<U500000000")), "0 bytes for <U500000000"),
    "objects": (zipped(x=header((1,), "|O")), "Object arrays cannot be loaded"),
    "not an array": (zipped(x=b"\x93NUMPY\x01\x00\xff\xff{"), "truncated or corrupt"),
    "version 9": (zipped(x=b"\x93NUMPY\x09\x00" + header((1,))[8:]), "truncated or corrupt"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_npz(tmp_path, name):
    content, message = BOMBS[name]
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.npz: .*({message})") as caught:
        load(tmp_path / "a.npz")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [bytes(2**21), bytes([0, 0, 8, 1, 0, 32, 0, 0]) + bytes(2**21)])
def test_gzip(tmp_path, content):
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match="bytes unpack to more than 1,048,576"):
        readers.read_idx(path)
    path.write_bytes(gzip.compress(bytes(2**19)) * 4)  # member after member
    with pytest.raises(ValueError, match="bytes unpack to more than 1,048,576"):
        readers.read_idx(path)


def test_a_file_that_compresses_well_is_read(tmp_path):
    x = np.zeros((700, 28, 28), np.uint8)
    x[:, 5, 5] = 255
    np.savez_compressed(tmp_path / "a.npz", x=x, y=np.arange(700) % 2)
    assert len(load(tmp_path / "a.npz").train[0]) == 700


def test_idx_claims(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes([0, 0, 8, 4]) + b"\xff" * 16)
    with pytest.raises(ValueError, match=r"truncated: 20 bytes, expected"):
        readers.read_idx(path)
    path.write_bytes(bytes([0, 0, 8, 200]) + bytes([0, 0, 0, 1]) * 200 + b"\0")
    with pytest.raises(ValueError, match="has rank 200, and at most 32 is read"):
        readers.read_idx(path)


def png(width, height):
    """A grey PNG that claims a size and has one row of 100 pixels."""

    def chunk(kind, content):
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    start = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (b"IHDR", start), (b"IDAT", zlib.compress(bytes(101))), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("size", [(10_000, 9_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_png(tmp_path, size):
    (tmp_path / "a.png").write_bytes(png(*size))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"a\.png: has more than 89,478,485 pixels"):
            images.prepare(tmp_path / "a.png")


def test_pictures_that_start_other_programs_are_not_opened(tmp_path):
    Image.new("L", (30, 30)).save(tmp_path / "a.eps")
    with pytest.raises(ValueError, match=r"a\.eps: not an image, or in a format that is not read"):
        images.prepare(tmp_path / "a.eps")


def test_the_limit_follows_the_size_of_the_file(tmp_path):
    assert readers._limit(bytes(10**6)) == 10**8
