"""Readers of the files that data sets come in: IDX, `.npz`, and the book's pickle.

They return what the file holds and check that it is whole; `nnjax.data` checks what it means.
Nothing that a file could run is run, and nothing that it claims to hold is made room for: a file
takes memory in proportion to its own size, however it is compressed.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nnjax.data import pickles

__all__ = ["IDX_FILES", "find_idx", "read_idx", "read_npz", "read_pickle"]

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
"""The names of the four files of MNIST and of the data sets made in its image."""

_IDX_DTYPES = {
    code: np.dtype(f">{kind}")
    for code, kind in {8: "u1", 9: "i1", 11: "i2", 12: "i4", 13: "f4", 14: "f8"}.items()
}

_LEAST, _RATIO = 2**28, 100
"""What a compressed file may unpack to: 256 MiB, or 100 times its size (MNIST: 5 to 25 times)."""


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the array in an IDX file, gzipped or not, of any type and rank.

    An IDX file is two zero bytes, a byte for the type, a byte for the rank, each length as a
    big-endian uint32, then the values, big-endian, the last index changing fastest.

    Args:
        path: the file; that it is gzipped is seen from its content, not from its name.

    Returns:
        A new array in the byte order of the machine.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an IDX file, or is truncated, too long, or corrupt.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "labels-idx1-ubyte")
        ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3]) + bytes([5, 0, 4]))
        ...     read_idx(path)
        array([5, 0, 4], dtype=uint8)

    Reference: LeCun, Cortes and Burges, "The MNIST database", section on file formats.
    """
    content = _read_bytes(path)
    dtype = _IDX_DTYPES.get(content[2]) if content[:2] == b"\0\0" and len(content) >= 4 else None
    if dtype is None:
        raise ValueError(
            f"{path}: not an IDX file: expected it to begin with 00 00, a type 08 to 0e and the "
            f"rank, got {content[:4].hex(' ') or 'nothing'}"
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{path}: truncated: it ends within its header of {start} bytes")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(shape) > 32:
        raise ValueError(f"{path}: has rank {len(shape)}, and at most 32 is read")
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        trouble = "truncated" if len(content) < expected else "too long"
        raise ValueError(
            f"{path}: {trouble}: {len(content):,} bytes, expected {expected:,} for "
            f"{dtype.name} of shape {shape}"
        )
    return pickles.array_from_bytes(content[start:], dtype, shape).astype(dtype.newbyteorder("="))


def find_idx(folder: Path) -> dict[str, Path]:
    """Return those of `IDX_FILES` that a folder has, gzipped or not, also as `-images.idx3-`.

    Args:
        folder: where to look, not below it.

    Returns:
        The path of each file that is there, by its name in `IDX_FILES`.

    Example:
        >>> from pathlib import Path
        >>> find_idx(Path("no such folder"))
        {}
    """
    found = {}
    for file in IDX_FILES:
        dotted = file.replace("-idx", ".idx")
        for spelling in (file, f"{file}.gz", dotted, f"{dotted}.gz"):
            if (folder / spelling).is_file():
                found[file] = folder / spelling
                break
    return found


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the arrays in an `.npz` file by name, as NumPy stores them; no pickled objects.

    Args:
        path: the file.

    Returns:
        Each array by its name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an `.npz` file, is truncated or corrupt, holds pickled objects, is
            compressed otherwise than NumPy does, or unpacks to over 100 times its size.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "data.npz")
        ...     np.savez(path, x=np.zeros((2, 3)), y=np.array([0, 1]))
        ...     read_npz(path)["y"]
        array([0, 1])
    """
    content = Path(path).read_bytes()
    if not content.startswith(b"PK"):
        raise ValueError(f"{path}: not an .npz file: expected a zip archive of arrays")
    arrays, left = {}, _limit(content)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                name, dot, ending = member.filename.rpartition(".")
                if (dot, ending) == (".", "npy"):
                    npy = _member(archive, member, left)
                    left -= len(npy)
                    arrays[name] = _npy(npy, name)
    except _TooLargeError:
        raise ValueError(_too_large(path, content)) from None
    except (
        *(ArithmeticError, EOFError, LookupError, MemoryError, OSError, RuntimeError),
        *(TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error),
    ) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path}: a truncated or corrupt .npz file ({reason})") from None
    return arrays


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Return the NumPy arrays and plain containers in a pickle, gzipped or not.

    Unpickling calls whatever a pickle names. This reader calls nothing: it takes the shapes, types
    and bytes of the arrays from the pickle, and refuses one that asks for more. Pickles of
    Python 2, such as the book's `mnist.pkl.gz`, are read too.

    Args:
        path: the file.

    Returns:
        What was pickled.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds other things than arrays, is truncated or corrupt, or unpacks to over
            100 times its size.

    Example:
        >>> import pathlib, pickle, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "surprise.pkl")
        ...     _ = path.write_bytes(pickle.dumps(print))
        ...     read_pickle(path)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: ...surprise.pkl: refused: only NumPy arrays are read from a pickle, and it ...
    """
    content = _read_bytes(path)
    try:
        return pickles.loads(content)
    except pickles.RefusedError as error:
        raise ValueError(
            f"{path}: refused: only NumPy arrays are read from a pickle, and it asks for {error}"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: a truncated or corrupt pickle ({error})") from None


def _read_bytes(path: str | os.PathLike[str]) -> bytes:
    content = Path(path).read_bytes()
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        with gzip.open(io.BytesIO(content)) as file:
            return _read_up_to(_limit(content), file)
    except _TooLargeError:
        raise ValueError(_too_large(path, content)) from None
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: a truncated or corrupt gzip file ({error})") from None


class _TooLargeError(Exception):
    """A compressed file unpacks to more than it may."""


def _limit(content: bytes) -> int:
    return max(_LEAST, _RATIO * len(content))


def _too_large(path: str | os.PathLike[str], content: bytes) -> str:
    return (
        f"{path}: its {len(content):,} bytes unpack to more than {_limit(content):,}, as no data "
        "set does; if this one is meant to, unpack it first"
    )


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _read_up_to(limit: int, file: _Readable) -> bytes:
    """Everything in a file that is unpacked while it is read, by pieces, up to a limit."""
    pieces = []
    while piece := file.read(2**20):
        pieces.append(piece)
        limit -= len(piece)
        if limit < 0:
            raise _TooLargeError
    return b"".join(pieces)


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> bytes:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # zipfile unpacks those at once, however much it is.
        raise ValueError("compressed otherwise than np.savez and np.savez_compressed do")
    if member.flag_bits & 1:
        raise ValueError("encrypted")
    with archive.open(member) as file:
        return _read_up_to(limit, file)


def _npy(content: bytes, name: str) -> np.ndarray:
    """The array in the bytes of an `.npy` file."""
    file = io.BytesIO(content)
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)
    if version not in headers:  # only records with names beyond Latin-1 take version 3
        raise ValueError(f"{name!a} is in version {version} of the format")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # headers that Python 2 wrote are read all the same
        shape, by_columns, dtype = headers[version](file)
    if dtype.kind not in "biufcSUmM":
        raise ValueError(f"Object arrays cannot be loaded, and {name!a} is one")
    return pickles.array_from_bytes(file.read(), dtype, shape, by_columns=by_columns)
