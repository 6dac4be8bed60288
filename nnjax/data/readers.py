"""Readers of the files that data sets come in: IDX, `.npz`, and the book's pickle.

They return what the file holds and check that it is whole; `nnjax.data` checks what it means.
Nothing that a file could run is run, and nothing that it claims to hold is made room for: a file
takes memory in proportion to its own size, however it is compressed.
"""

from __future__ import annotations

import gzip
import io
import math
import mmap
import os
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nnjax.data import pickles

__all__ = ["IDX_FILES", "find_idx", "map_member", "read_idx", "read_npz", "read_pickle"]

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


def read_idx(path: str | os.PathLike[str], mapped: bool = False) -> np.ndarray:
    """Return the array in an IDX file, gzipped or not, of any type and rank.

    An IDX file is two zero bytes, a byte for the type, a byte for the rank, each length as a
    big-endian uint32, then the values, big-endian, the last index changing fastest.

    Args:
        path: the file; that it is gzipped is seen from its content, not from its name.
        mapped: map a file that is not gzipped into memory, so that only the rows that are used
            are read.

    Returns:
        A new array in the byte order of the machine, or one that cannot be written to.

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
    content = _mapped(path) if mapped else _read_bytes(path)
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
    native = dtype.newbyteorder("=")
    if isinstance(content, mmap.mmap) and len(content) > start:
        return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(native, copy=False)
    values = memoryview(content)[start:]  # which copies nothing
    return pickles.array_from_bytes(values, dtype, shape).astype(native, copy=False)


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


def read_npz(path: str | os.PathLike[str], mapped: bool = False) -> dict[str, np.ndarray]:
    """Return the arrays in an `.npz` file by name, as NumPy stores them; no pickled objects.

    Args:
        path: the file.
        mapped: map the arrays of a file that is not compressed into memory, so that only the rows
            that are used are read.

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
    content = _mapped(path) if mapped else Path(path).read_bytes()
    if content[:2] != b"PK":
        raise ValueError(f"{path}: not an .npz file: expected a zip archive of arrays")
    arrays, left = {}, _limit(content)
    try:
        with zipfile.ZipFile(path if mapped else io.BytesIO(content)) as archive:
            for member in archive.infolist():
                name, dot, ending = member.filename.rpartition(".")
                if (dot, ending) == (".", "npy"):
                    if mapped and member.compress_type == zipfile.ZIP_STORED:
                        _check(archive, member)
                        arrays[name] = map_member(path, member)
                        continue
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


def map_member(path: str | os.PathLike[str], member: zipfile.ZipInfo) -> np.ndarray:
    """Return an array of an `.npz` file, mapped into memory where it stands in the file.

    Args:
        path: the file.
        member: the entry of the array, which is not compressed.

    Raises:
        ValueError: if it is compressed, holds objects, or is not as long as its header says.
        struct.error, EOFError: if the file ends before it.

    Example:
        >>> import pathlib, tempfile, zipfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "data.npz")
        ...     np.savez(path, x=np.zeros((2, 3)))
        ...     with zipfile.ZipFile(path) as archive:
        ...         map_member(path, archive.getinfo("x.npy")).shape
        (2, 3)
    """
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{path}: compressed; save it with np.savez to read it in parts")
    with open(path, "rb") as file:
        file.seek(member.header_offset)
        header = file.read(30)
        lengths = struct.unpack("<2H", header[26:30])  # of the name and the extra field
        start = file.seek(member.header_offset + 30 + sum(lengths))
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        read = read if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if dtype.hasobject:
            raise ValueError(f"{path}: {member.filename[:-4]} does not hold numbers")
        size = file.tell() - start + math.prod(shape) * dtype.itemsize
        if size != member.file_size:  # what stands behind it in the file is not its own
            raise ValueError(
                f"{path}: damaged: {member.filename} has {member.file_size:,} bytes, expected "
                f"{size:,} for {dtype.name} of shape {shape}"
            )
        if not math.prod(shape):  # there is nothing to map
            return np.zeros(shape, dtype)
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")


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


def _mapped(path: str | os.PathLike[str]) -> bytes | mmap.mmap:
    """Return the content of a file, mapped into memory unless it is gzipped or empty."""
    with open(path, "rb") as file:
        if file.read(2) in (b"", b"\x1f\x8b"):
            return _read_bytes(path)
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _check(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Read an entry through, so that what is damaged is found by its checksum."""
    with archive.open(member) as file:
        while file.read(2**20):
            pass


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


def _limit(content: bytes | mmap.mmap) -> int:
    return max(_LEAST, _RATIO * len(content))


def _too_large(path: str | os.PathLike[str], content: bytes | mmap.mmap) -> str:
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
