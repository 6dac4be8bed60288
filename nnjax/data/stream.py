"""Data larger than memory: read a window of examples at a time, in a new random order each epoch.

A source gives the windows of an epoch, in an order that depends on its seed and on the epoch alone,
so that training can continue in the middle of an epoch. Files are mapped into memory and read in
blocks of neighbouring examples; the blocks of a window come from all over the data, and within a
window every example is in a random place.
"""

from __future__ import annotations

import hashlib
import itertools
import mmap
import os
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nnjax.checks import require_size
from nnjax.data.readers import map_member

__all__ = ["Folder", "Iterated", "Rows", "Source", "Window", "is_streamed"]

Window = tuple[np.ndarray, np.ndarray]
"""Inputs x (n, ...) and targets y (n, ...) of some examples."""

_PIECE, _PIECES = 2**16, 16  # of a file, by which it is known again

Rows = Callable[[int], np.ndarray | slice]
"""Given how many examples a window has: which of them are wanted, by their places in it."""


def _all(count: int) -> slice:
    return slice(count)


class Source(Protocol):
    """Where examples come from: `len` of it is their number."""

    def __len__(self) -> int:
        """Return the number of examples in an epoch."""
        ...

    def windows(self, epoch: int, first: int = 0, rows: Rows = _all) -> Iterator[Window]:
        """Yield the windows of an epoch, from window `first` on, or some rows of each."""
        ...


@dataclass(frozen=True)
class Folder:
    """Examples in the files of a folder, mapped into memory: only a window of them is ever read.

    The files are pairs `x*.npy` and `y*.npy` with equal names but for the first letter, or `*.npz`
    files with arrays x and y, not compressed (`np.savez`).

    Args:
        path: of the folder.
        window: how many examples are in memory at once; they are shuffled.
        block: how many neighbouring examples are read together.
        seed: of the order.

    Raises:
        FileNotFoundError: if the folder holds no such files.
        ValueError: if a file is damaged or compressed, or the files do not fit together.

    Example:
        >>> import pathlib, tempfile, numpy as np
        >>> from nnjax.data.stream import Folder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(pathlib.Path(folder, "x-0.npy"), np.arange(6.0).reshape(6, 1))
        ...     np.save(pathlib.Path(folder, "y-0.npy"), np.arange(6))
        ...     source = Folder(folder, window=4, block=2)
        ...     windows = list(source.windows(epoch=0))
        >>> len(source), [len(y) for x, y in windows]
        (6, [4, 2])
        >>> sorted(int(v) for x, y in windows for v in y)
        [0, 1, 2, 3, 4, 5]
    """

    path: str | os.PathLike[str]
    window: int = 10_000
    block: int = 100
    seed: int = 0
    _parts: tuple[Window, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        require_size(self.window, "window")
        require_size(self.block, "block")
        require_size(self.seed, "seed", 0)
        object.__setattr__(self, "_parts", _mapped(Path(self.path)))

    def __len__(self) -> int:
        return sum(len(y) for _, y in self._parts)

    def whole(self) -> Window:
        """Return all examples, in the order of the files; they have to fit into memory."""
        xs, ys = zip(*self._parts, strict=True)
        return np.concatenate(xs), np.concatenate(ys)

    @property
    def files(self) -> dict[str, int]:
        """The sizes of the files in bytes, by their names."""
        return {path.name: path.stat().st_size for path in self._paths}

    @property
    def files_sha256(self) -> str:
        """The SHA-256 of the files: their names, sizes, and contents.

        Of a file of more than a mebibyte only 16 pieces count, evenly spaced from its beginning to
        its end, so that it takes little time however large the data are.
        """
        found = hashlib.sha256()
        for path in self._paths:
            size = path.stat().st_size
            found.update(f"{path.name}\0{size}\0".encode())
            with open(path, "rb", buffering=0) as file:
                for start in np.unique(np.linspace(0, max(size - _PIECE, 0), _PIECES, dtype=int)):
                    file.seek(int(start))
                    found.update(file.read(_PIECE))
        return found.hexdigest()

    @property
    def _paths(self) -> list[Path]:
        return sorted(path for kind in ("*.npy", "*.npz") for path in Path(self.path).glob(kind))

    @property
    def classes(self) -> int:
        """The number of classes: one more than the largest label."""
        return 1 + max(int(y.max()) for _, y in self._parts if len(y))

    def windows(self, epoch: int, first: int = 0, rows: Rows = _all) -> Iterator[Window]:
        """Yield the windows of an epoch, from window `first` on; the last one may be smaller.

        Args:
            epoch: which one.
            first: the windows before this one are not read.
            rows: which examples of a window to read; by default all.
        """
        random = np.random.default_rng([self.seed, epoch])
        blocks = [
            (part, start) for part, (_, y) in enumerate(self._parts)
            for start in range(0, len(y), self.block)
        ]  # fmt: skip
        pieces: list[Window] = []
        held, number = 0, 0
        for at in random.permutation(len(blocks)):
            part, start = blocks[at]
            x, y = self._parts[part]
            pieces.append((x[start : start + self.block], y[start : start + self.block]))
            if number + 1 >= first:  # read while others are looked for
                _advise(x, "MADV_WILLNEED", start, start + len(pieces[-1][1]))
            held += len(pieces[-1][1])
            while held >= self.window:
                taken, pieces = _cut(pieces, self.window)
                held -= self.window
                order = random.permutation(self.window)
                if number >= first:  # those before are not read from the disk
                    yield self._read(taken, order[rows(self.window)])
                number += 1
        if held and number >= first:
            yield self._read(pieces, random.permutation(held)[rows(held)])

    def _read(self, pieces: list[Window], order: np.ndarray) -> Window:
        """Return some examples of the pieces, and let go of the memory that they are mapped to."""
        window = _together(pieces, order)
        for array in itertools.chain(*self._parts):
            _advise(array, "MADV_DONTNEED")
        return window


@dataclass(frozen=True)
class Iterated:
    """Examples from anything that can be gone through again for every epoch, such as a pipeline.

    Args:
        examples: gives pairs (x, y), one example each; `iter` of it starts again from the front.
        count: how many there are.
        window: how many are in memory at once; they are shuffled.
        seed: of the order within the windows.

    Raises:
        TypeError: if it is an iterator, which can be gone through only once.

    Example:
        >>> from nnjax.data.stream import Iterated
        >>> source = Iterated([([0.0], 0), ([1.0], 1), ([2.0], 0)], count=3, window=2)
        >>> [x.shape for x, y in source.windows(epoch=0)]
        [(2, 1), (1, 1)]
    """

    examples: Iterable[tuple[Any, Any]]
    count: int
    window: int = 10_000
    seed: int = 0

    def __post_init__(self):
        require_size(self.count, "count")
        require_size(self.window, "window")
        require_size(self.seed, "seed", 0)
        if not isinstance(self.examples, Iterable) or isinstance(self.examples, Iterator):
            raise TypeError(
                f"examples is a {type(self.examples).__name__}; expected what can be gone through "
                "again for every epoch, such as a list or an object with __iter__, not an iterator"
            )

    def __len__(self) -> int:
        return self.count

    def windows(self, epoch: int, first: int = 0, rows: Rows = _all) -> Iterator[Window]:
        """Yield the windows of an epoch, from window `first` on; those before are skipped."""
        random = np.random.default_rng([self.seed, epoch])
        examples, number, seen = iter(self.examples), 0, 0
        while pairs := list(itertools.islice(examples, min(self.window, self.count - seen))):
            order = random.permutation(len(pairs))[rows(len(pairs))]
            seen += len(pairs)
            if number >= first:
                yield (
                    np.stack([np.asarray(pairs[i][0]) for i in order]),
                    np.stack([np.asarray(pairs[i][1]) for i in order]),
                )
            number += 1
            if seen == self.count:
                return
        raise ValueError(f"examples ended after {seen:,}, but count is {self.count:,}")


def is_streamed(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder with training data for `Folder`, or with one called train.

    Example:
        >>> from nnjax.data.stream import is_streamed
        >>> is_streamed("digits")
        False
    """
    path = Path(path)
    return any(
        any(folder.glob(pattern))
        for folder in (path, path / "train")
        for pattern in ("x*.npy", "*.npz")
    )


def _cut(pieces: list[Window], size: int) -> tuple[list[Window], list[Window]]:
    """Return the first `size` examples, and the others."""
    taken, left = [], []
    for x, y in pieces:
        take = min(size, len(y))
        taken += [(x[:take], y[:take])] * (take > 0)
        left += [(x[take:], y[take:])] * (take < len(y))
        size -= take
    return taken, left


def _together(pieces: list[Window], order: np.ndarray) -> Window:
    """Return some examples of the pieces, counted through, in this order; only they are read."""
    ends = np.cumsum([len(y) for _, y in pieces])
    x, y = (np.empty((len(order), *a.shape[1:]), a.dtype) for a in pieces[0])
    piece_of = np.searchsorted(ends, order, side="right")
    by_piece = np.argsort(piece_of, kind="stable")
    limits = np.searchsorted(piece_of[by_piece], np.arange(len(pieces) + 1))
    for k, (from_x, from_y) in enumerate(pieces):
        at = by_piece[limits[k] : limits[k + 1]]
        rows = order[at] - (ends[k] - len(from_y))
        x[at], y[at] = from_x[rows], from_y[rows]
    return x, y


def _mapped(folder: Path) -> tuple[Window, ...]:
    """Return the arrays in the files of a folder, by name."""
    parts = []
    for path in sorted(folder.glob("x*.npy")):
        targets = path.with_name(f"y{path.name[1:]}")
        if not targets.is_file():
            raise FileNotFoundError(f"{targets}: no such file; {path.name} has no targets")
        parts.append((path, (_npy(path), _npy(targets))))
    for path in sorted(folder.glob("*.npz")):
        parts.append((path, (_member(path, "x"), _member(path, "y"))))
    if not parts:
        raise FileNotFoundError(
            f"{folder} holds no data; expected x*.npy with y*.npy, or *.npz files with x and y"
        )
    first_x, first_y = parts[0][1]
    for path, (x, y) in parts:
        if x.ndim == 0 or y.shape[:1] != x.shape[:1]:
            raise ValueError(f"{path}: x has shape {x.shape} and y {y.shape}; expected as many")
        if (x.shape[1:], x.dtype) != (first_x.shape[1:], first_x.dtype):
            raise ValueError(
                f"{path}: examples are {x.dtype} {x.shape[1:]}, but those of {parts[0][0].name} "
                f"are {first_x.dtype} {first_x.shape[1:]}"
            )
        if (y.shape[1:], y.dtype) != (first_y.shape[1:], first_y.dtype):
            raise ValueError(f"{path}: targets differ in kind from those of {parts[0][0].name}")
    for array in itertools.chain(*(part for _, part in parts)):
        _advise(array, "MADV_RANDOM")  # reading on past a block costs 20 times as much
    return tuple(part for _, part in parts)


def _advise(array: np.ndarray, advice: str, start: int = 0, stop: int | None = None) -> None:
    """Tell the system, where it listens, what will be done with rows of a mapped array."""
    mapped = array.base
    if not isinstance(array, np.memmap) or not isinstance(mapped, mmap.mmap):
        return
    if not hasattr(mmap, advice) or not array.flags.c_contiguous or array.ndim == 0:
        return
    at = array.offset % mmap.ALLOCATIONGRANULARITY
    row = array.strides[0]
    first = (at + start * row) // mmap.PAGESIZE * mmap.PAGESIZE
    last = min(at + (len(array) if stop is None else stop) * row, len(mapped))
    if first < last:
        mapped.madvise(getattr(mmap, advice), first, last - first)


def _npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):
        raise ValueError(f"{path}: damaged, or not a .npy file of numbers") from None


def _member(path: Path, name: str) -> np.ndarray:
    """Return an array of an .npz file, mapped into memory where it stands in the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return map_member(path, archive.getinfo(f"{name}.npy"))
    except KeyError:
        raise ValueError(f"{path}: holds no array {name}; expected x and y") from None
    except (zipfile.BadZipFile, struct.error, EOFError):
        raise ValueError(f"{path}: damaged, or not an .npz file") from None
