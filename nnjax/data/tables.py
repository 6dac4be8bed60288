"""Data sets from tables and from any arrays: CSV files, pandas, scikit-learn, NumPy, lists.

Labels may be text, numbers or truth values; they become classes counted from 0, in the order of
their names, which the data set keeps in `classes`.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnjax.checks import require_size
from nnjax.data.dataset import Dataset, checked_dataset, require_dataset

__all__ = ["encode", "read_csv", "split", "standardize", "standardized"]


def split(x: Any, y: Any, *, validation: float = 0.1, test: float = 0.2, seed: int = 0) -> Dataset:
    """Return a data set whose validation and test data are random shares of each class.

    Args:
        x: (n, features) or images (n, h, w) or (n, h, w, channels): a NumPy array, a pandas
            DataFrame, nested lists, or whatever `numpy.asarray` takes.
        y: (n,) labels of any kind: integers, text, truth values, a pandas Series.
        validation: share of each class for validation, from 0 (none) to below 1.
        test: share of each class for testing, from 0 (none) to below 1.
        seed: another seed draws other shares.

    Raises:
        ValueError: if a share is out of range, a part of the data would be empty, or x and y are
            not a data set (see `nnjax.data.load`).

    Example:
        >>> import numpy as np
        >>> from nnjax.data import split
        >>> data = split(np.eye(10), ["cat", "dog"] * 5, validation=0.2)
        >>> data.train[0].shape, data.validation[0].shape, data.test[1].tolist(), data.classes
        ((6, 10), (2, 10), [0, 1], ('cat', 'dog'))
    """
    shares = (validation, test)
    known = all(isinstance(share, int | float) and 0 <= share < 1 for share in shares)
    if not known or validation + test >= 1:
        raise ValueError(
            "validation and test must be shares from 0 to below 1, and together below 1, got "
            f"validation={validation!r}, test={test!r}"
        )
    require_size(seed, "seed", at_least=0, at_most=np.inf)
    x = np.asarray(x)
    labels, classes = encode(y)
    if len(labels) != len(x):
        raise ValueError(f"x has {len(x):,} examples and y has {len(labels):,} labels")
    # Within each class, shuffled, example i of n stands at (i + 1/2)/n of the way from 0 to 1.
    order = np.random.default_rng(seed).permutation(len(labels))
    place = np.empty(len(labels))
    for k in range(len(classes)):
        members = order[labels[order] == k]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    parts = [
        place >= validation + test,
        (place >= test) & (place < validation + test),
        place < test,
    ]
    pairs = [(x[part], labels[part]) if part.any() else None for part in parts]
    if pairs[0] is None or (validation and pairs[1] is None) or (test and pairs[2] is None):
        raise ValueError(
            f"{len(labels)} examples are too few for the shares validation={validation}, "
            f"test={test}"
        )
    return checked_dataset("split", pairs[0], pairs[1], pairs[2], classes)


def encode(y: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels as classes counted from 0, and the names of the classes.

    Args:
        y: (n,) labels of any kind.

    Raises:
        ValueError: if y is not one label per example, or holds real numbers that are not whole.

    Example:
        >>> labels, names = encode(["setosa", "virginica", "setosa"])
        >>> labels.tolist(), names
        ([0, 1, 0], ('setosa', 'virginica'))
    """
    y = np.asarray(y)
    if y.ndim != 1 or not len(y):
        raise ValueError(f"y must hold one label per example, shape (n,), got shape {y.shape}")
    if y.dtype.kind == "O":
        y = np.asarray([str(label) for label in y])
    if y.dtype.kind == "f":
        if not (np.isfinite(y).all() and (y == np.rint(y)).all()):
            raise ValueError("y holds real numbers that are not whole; expected classes")
        y = np.array([f"{label:.0f}" for label in y]) if np.abs(y).max() > 2**53 else y.astype(int)
    if y.dtype.kind not in "biuSU":
        raise ValueError(f"y must hold labels: text, whole numbers or truth values, got {y.dtype}")
    names, labels = np.unique(y, return_inverse=True)
    return labels.astype(np.int32), tuple(str(name) for name in names.tolist())


def read_csv(
    path: str | os.PathLike[str], target: str | None = None
) -> tuple[np.ndarray, list[str]]:
    """Return the features (n, m), float32, and the labels (n,), as text, of a CSV file.

    Args:
        path: a file whose first line names its columns, separated by commas, semicolons or tabs.
        target: the column with the labels; None: the one called class, label, target or species
            (in any case), otherwise the last.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, a line has more or fewer values than there are columns,
            or a feature is not a number; says in which line and column.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "iris.csv")
        ...     _ = path.write_text("length,width,species\\n5.1,3.5,setosa\\n6.3,3.3,virginica\\n")
        ...     x, y = read_csv(path)
        >>> x.shape, y
        ((2, 2), ['setosa', 'virginica'])
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a CSV file in UTF-8") from None
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        rows = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if row]
    except csv.Error as error:
        raise ValueError(f"{path}: not a CSV file ({error})") from None
    if len(rows) < 2 or len(rows[0]) < 2:
        raise ValueError(
            f"{path}: expected a line with the names of the columns, then lines of values"
        )
    names, rows = [name.strip() for name in rows[0]], rows[1:]
    column = _target(names, target, path)
    x, y = np.empty((len(rows), len(names) - 1), np.float32), []
    for i, row in enumerate(rows):
        if len(row) != len(names):
            raise ValueError(
                f"{path}: line {i + 2} has {len(row)} values, expected {len(names)}, one per column"
            )
        y.append(row.pop(column).strip())
        try:
            x[i] = row
        except ValueError:
            _explain(path, i + 2, names[:column] + names[column + 1 :], row)
    return x, y


def standardize(data: Dataset) -> Dataset:
    """Return the data set with x of mean 0 and standard deviation 1, by the training data.

    Features are standardised one by one, (x − mean)/deviation; one that never changes becomes 0.
    Images have one mean and one deviation for all their pixels, so that they stay images.

    Args:
        data: a data set.

    Returns:
        A data set whose `standardization` holds the mean and the deviation, each () or (features,).

    Raises:
        TypeError, ValueError: if it is not a data set, or holds no training data.

    Example:
        >>> import numpy as np
        >>> from nnjax.data import Dataset, standardize
        >>> x = np.array([[1.0, 10.0], [3.0, 10.0]], np.float32)
        >>> data = standardize(Dataset((x, np.array([0, 1])), None, None))
        >>> data.train[0].tolist(), data.standardization
        ([[-1.0, 0.0], [1.0, 0.0]], ([2.0, 10.0], [1.0, 1.0]))
    """
    x = np.asarray(require_dataset(data).train[0])
    axes = 0 if x.ndim == 2 else None
    mean, deviation = x.mean(axes, dtype=np.float64), x.std(axes, dtype=np.float64)
    deviation = np.where(deviation > 0, deviation, 1.0)
    parts: list[Any] = [part and (standardized(part[0], mean, deviation), part[1]) for part in data]
    return Dataset(
        *parts, classes=data.classes, standardization=(mean.tolist(), deviation.tolist())
    )


def standardized(x: np.ndarray, mean: Any, deviation: Any) -> np.ndarray:
    """Return (x − mean)/deviation, float32.

    Args:
        x: (n, features), or images.
        mean: () or (features,), of the training data.
        deviation: likewise.

    Example:
        >>> import numpy as np
        >>> standardized(np.array([[1.0, 4.0]]), [0.0, 2.0], [1.0, 4.0]).tolist()
        [[1.0, 0.5]]
    """
    return ((np.asarray(x) - np.asarray(mean)) / np.asarray(deviation)).astype(np.float32)


def _target(names: Sequence[str], target: str | None, path: Any) -> int:
    if target is not None:
        if target not in names:
            raise ValueError(
                f"{path}: has no column {target!r}; its columns are {', '.join(names)}"
            )
        return names.index(target)
    usual = [i for i, name in enumerate(names) if name.lower() in _TARGETS]
    return usual[0] if len(usual) == 1 else len(names) - 1


_TARGETS = ("class", "label", "target", "species")


def _explain(path: Any, line: int, names: Sequence[str], row: Sequence[str]) -> None:
    for name, value in zip(names, row, strict=True):
        try:
            float(value)
        except ValueError:
            got = f"{value!r:.40}" if value.strip() else "nothing"
            raise ValueError(
                f"{path}: line {line}, column {name!r}: expected a number, got {got}"
            ) from None
