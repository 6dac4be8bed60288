"""Readers of the files that data sets come in: IDX, `.npz`, and the book's pickle.

They return what the file holds and check that it is whole; `nnjax.data` checks what it means.
Nothing that a file could run is run.
"""

import gzip
import io
import math
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

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


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Returns the array in an IDX file, gzipped or not, of any type and rank.

    An IDX file is two zero bytes, a byte for the type, a byte for the rank, each length as a
    big-endian uint32, then the values, big-endian, the last index changing fastest.

    Args:
        path: the file; that it is gzipped is seen from its content, not from its name.

    Returns:
        A new array in the byte order of the machine.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no IDX file, or is truncated, too long, or corrupt.

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
            f"{path}: no IDX file: expected it to begin with 00 00, a type 08 to 0e and the "
            f"rank, got {content[:4].hex(' ') or 'nothing'}"
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{path}: truncated: it ends within its header of {start} bytes")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        trouble = "truncated" if len(content) < expected else "too long"
        raise ValueError(
            f"{path}: {trouble}: {len(content):,} bytes, expected {expected:,} for "
            f"{dtype.name} of shape {shape}"
        )
    values = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="))


def find_idx(folder: Path) -> dict[str, Path]:
    """Returns those of `IDX_FILES` that a folder has, gzipped or not, also as `-images.idx3-`.

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
    """Returns the arrays in an `.npz` file by name, as NumPy stores them; no pickled objects.

    Args:
        path: the file.

    Returns:
        Each array by its name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no `.npz` file, is truncated or corrupt, or holds pickled objects.

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
        raise ValueError(f"{path}: no .npz file: expected a zip archive of arrays")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return {name: np.asarray(file[name]) for name in file.files}
    except (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: a truncated or corrupt .npz file ({error})") from None


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Returns the NumPy arrays and plain containers in a pickle, gzipped or not.

    Unpickling calls whatever a pickle names. Here it can name only what rebuilds an array; asked
    for anything else, the reader stops before that is called. Pickles of Python 2, such as the
    book's `mnist.pkl.gz`, are read too.

    Args:
        path: the file.

    Returns:
        What was pickled.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds other things than arrays, or is truncated or corrupt.

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
        return _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    except _Refused as error:
        raise ValueError(
            f"{path}: refused: only NumPy arrays are read from a pickle, and it asks for {error}"
        ) from None
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(f"{path}: a truncated or corrupt pickle ({error!r})") from None


class _Refused(Exception):
    """A pickle names something that does not rebuild an array."""


def _encode(text: str, encoding: str) -> bytes:
    return text.encode("latin1")  # how Python 3 writes bytes into the protocols of Python 2


class _ArrayUnpickler(pickle.Unpickler):
    allowed = {
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
        "numpy.core.multiarray._reconstruct": np.empty(0).__reduce_ex__(2)[0],
        "numpy.core.numeric._frombuffer": np.empty(0).__reduce_ex__(5)[0],
        "_codecs.encode": _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        name = f"{module}.{name}"
        try:
            return self.allowed[name.replace("numpy._core.", "numpy.core.")]  # as NumPy 2 calls it
        except KeyError:
            raise _Refused(name) from None


def _read_bytes(path: str | os.PathLike[str]) -> bytes:
    content = Path(path).read_bytes()
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: a truncated or corrupt gzip file ({error})") from None
