"""Folders of pictures by class: one sub-folder for each class, named after it.

    pets/cat/1.jpg  pets/cat/2.jpg  pets/dog/1.jpg ...

or with the parts of the data set apart:

    pets/train/cat/1.jpg ...  pets/validation/cat/9.jpg ...  pets/test/dog/7.jpg ...

All pictures are brought to one size, and become grey levels where all of them are grey, otherwise
red, green and blue.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnjax.data.dataset import Dataset, Part, checked_dataset
from nnjax.data.images import on_paper, opened
from nnjax.data.tables import split

__all__ = ["is_picture_folder", "read_picture", "read_pictures"]

_SIDE = 64
"""The longer side of the pictures of a data set, at most: every pixel is an input."""

_MOST = 2**30
"""Bytes that all pictures together may take."""

_PARTS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}
_GREY = ("1", "L", "LA", "La", "I", "F")


def is_picture_folder(folder: Path) -> bool:
    """Whether a folder has sub-folders with files.

    Example:
        >>> from pathlib import Path
        >>> is_picture_folder(Path("no such folder"))
        False
    """
    return any(_files(path) for path in _folders(folder) for path in (path, *_folders(path)))


def read_pictures(folder: str | os.PathLike[str]) -> Dataset:
    """Return the pictures of a folder as a data set, with the names of the sub-folders as classes.

    Where the parts are not apart, a tenth of each class is for validation and a fifth for testing.
    The common size is the median height and the median width of the training pictures, at most 64
    pixels for the longer side; a picture of other proportions is cropped around its middle.

    Args:
        folder: as at the top of this module; other files than pictures are not allowed in it, but
            those whose names begin with a dot.

    Raises:
        ValueError: if a file is not a picture, there are fewer than two classes, one has no
            pictures to train on, a part has other classes than the training pictures, or the
            pictures take more than a gigabyte.
        ImportError: Pillow is missing; says how to install it.

    Example:
        >>> import pathlib, tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for i in range(20):
        ...         path = pathlib.Path(folder, ("black", "white")[i % 2], f"{i}.png")
        ...         path.parent.mkdir(exist_ok=True)
        ...         Image.new("L", (12, 8), 255 * (i % 2)).save(path)
        ...     data = read_pictures(folder)
        >>> data.train[0].shape, data.classes
        ((14, 8, 12, 1), ('black', 'white'))
    """
    folder = Path(folder)
    names = {path.name.lower(): path for path in _folders(folder)}
    apart = "train" in names and names.keys() <= _PARTS.keys()
    parts = {_PARTS[name]: path for name, path in names.items()} if apart else {"train": folder}
    if len(parts) < len(names) and apart:
        raise ValueError(f"{folder}: has several folders for one part: {', '.join(sorted(names))}")
    classes = tuple(path.name for path in _folders(parts["train"]))
    if len(classes) < 2:
        raise ValueError(f"{parts['train']}: holds {len(classes)} class; expected several")
    for name in classes:
        if not _files(empty := parts["train"] / name):
            raise ValueError(
                f"{empty}: holds no pictures, and each sub-folder is a class; put some in, or "
                "remove it"
            )
    files = {part: _by_class(path, classes) for part, path in parts.items()}
    shape = _common_shape([file for file, _ in files["train"]])
    total = sum(map(len, files.values())) * int(np.prod(shape))
    if total > _MOST:
        raise ValueError(
            f"{folder}: the pictures take {total:,} bytes at {shape[1]}x{shape[0]} pixels, and at "
            f"most {_MOST:,} are read; store fewer, or smaller ones"
        )
    read = {part: _read(some, shape) for part, some in files.items()}
    if apart:
        return checked_dataset(
            folder, read["train"], read.get("validation"), read.get("test"), classes
        )._replace(pictures=True)
    x, y = read["train"]
    return split(x, y)._replace(classes=classes, pictures=True)


def read_picture(path: str | os.PathLike[str], shape: Sequence[int]) -> np.ndarray:
    """Return one picture as those of a folder are read: uint8 of this shape.

    Args:
        path: of the file.
        shape: (height, width, channels), 1 channel for grey levels or 3 for colours.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a picture.
        ImportError: Pillow is missing; says how to install it.

    Example:
        >>> import pathlib, tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "red.png")
        ...     Image.new("RGB", (30, 20), (255, 0, 0)).save(path)
        ...     read_picture(path, (2, 3, 3))[0, 0].tolist()
        [255, 0, 0]
    """
    height, width, channels = shape

    def scaled(picture: Any) -> np.ndarray:
        from PIL import Image, ImageOps

        picture = on_paper(picture).convert("L" if channels == 1 else "RGB")
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
        return np.asarray(picture).reshape(height, width, channels)

    return opened(path, scaled)


def _common_shape(files: Sequence[Path]) -> tuple[int, int, int]:
    """Return (height, width, channels) of the pictures of a data set."""
    found = [opened(file, lambda picture: (*picture.size[::-1], picture.mode)) for file in files]
    height, width = (float(np.median([size[axis] for size in found])) for axis in (0, 1))
    scale = min(1.0, _SIDE / max(height, width))
    grey = all(mode in _GREY or mode.startswith("I;") for *_, mode in found)
    return max(1, round(scale * height)), max(1, round(scale * width)), 1 if grey else 3


def _read(files: Sequence[tuple[Path, int]], shape: tuple[int, int, int]) -> Part:
    x = np.empty((len(files), *shape), np.uint8)
    for i, (file, _) in enumerate(files):
        x[i] = read_picture(file, shape)
    return x, np.array([label for _, label in files], np.int32)


def _by_class(folder: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Return the files of a part, each with its class."""
    for path in _folders(folder):
        if path.name not in classes:
            raise ValueError(
                f"{path}: is not the folder of one of the classes {', '.join(classes)}"
            )
    found = [(file, k) for k, name in enumerate(classes) for file in _files(folder / name)]
    if not found:
        raise ValueError(f"{folder}: holds no pictures; expected some in each sub-folder")
    return found


def _folders(folder: Path) -> list[Path]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in paths if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in paths if path.is_file() and not path.name.startswith("."))
