"""Data sets from tables and from any arrays: CSV files, pandas, scikit-learn, NumPy, lists.

Labels may be text, numbers or truth values; they become classes counted from 0, in the order of
their names, which the data set keeps in `classes`. Numbers that are not classes, and several
columns of targets, stay what they are.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnjax.checks import require_instance, require_size
from nnjax.data.dataset import Dataset, checked_dataset, guessed_task, require_dataset

__all__ = [
    "Table",
    "column_names",
    "encode",
    "read_csv",
    "read_rows",
    "split",
    "standardize",
    "standardized",
    "unstandardized",
]


def split(
    x: Any,
    y: Any,
    *,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    task: str | None = None,
) -> Dataset:
    """Return a data set whose validation and test data are random shares of each class.

    Args:
        x: (n, features) or images (n, h, w) or (n, h, w, channels): a NumPy array, a pandas
            DataFrame, nested lists, or whatever `numpy.asarray` takes.
        y: (n,) labels of any kind: integers, text, truth values, a pandas Series; (n,) or (n, k)
            numbers of a regression; (n, k) zeros and ones for several labels at once.
        validation: share of each class for validation, from 0 (none) to below 1.
        test: share of each class for testing, from 0 (none) to below 1.
        seed: another seed draws other shares.
        task: "classification", "multilabel" or "regression"; None: as y looks. Numbers are a
            regression if some are not whole, or if they are many different real ones.

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
    features = tuple(map(str, getattr(x, "columns", ())))
    columns = tuple(map(str, getattr(y, "columns", ())))
    x, y = np.asarray(x), np.asarray(y)
    task = guessed_task(y) if task is None else task
    labels, classes = encode(y) if task == "classification" else (y, columns)
    if len(labels) != len(x):
        raise ValueError(f"x has {len(x):,} examples and y has {len(labels):,} labels")
    # Within each class, shuffled, example i of n stands at (i + 1/2)/n of the way from 0 to 1.
    order = np.random.default_rng(seed).permutation(len(labels))
    place = np.empty(len(labels))
    kinds = labels if task == "classification" else np.zeros(len(labels), int)
    for k in range(kinds.max(initial=0) + 1):
        members = order[kinds[order] == k]
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
    return checked_dataset("split", pairs[0], pairs[1], pairs[2], classes, features, task)


def encode(y: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels as classes counted from 0, and the names of the classes.

    Args:
        y: (n,) labels of any kind.

    Raises:
        ValueError: if y is not one label per example, a label is missing, or y holds real numbers
            that are not whole.

    Example:
        >>> labels, names = encode(["setosa", "virginica", "setosa"])
        >>> labels.tolist(), names
        ([0, 1, 0], ('setosa', 'virginica'))
    """
    y = np.asarray(y)
    if y.ndim != 1 or not len(y):
        raise ValueError(f"y must hold one label per example, shape (n,), got shape {y.shape}")
    if y.dtype.kind == "O":
        if missing := sum(map(_is_missing, y)):
            raise ValueError(
                f"y has no label for {missing:,} of {len(y):,} examples (None or NaN); leave those "
                "examples out, or give them a label of their own"
            )
        y = np.asarray([str(label) for label in y])
    if y.dtype.kind == "f":
        if not (np.isfinite(y).all() and (y == np.rint(y)).all()):
            raise ValueError("y holds real numbers that are not whole; expected classes")
        y = np.array([f"{label:.0f}" for label in y]) if np.abs(y).max() > 2**53 else y.astype(int)
    if y.dtype.kind not in "biuSU":
        raise ValueError(f"y must hold labels: text, whole numbers or truth values, got {y.dtype}")
    names, labels = np.unique(y, return_inverse=True)
    return labels.astype(np.int32), tuple(str(name) for name in names.tolist())


def _is_missing(label: Any) -> bool:
    """Whether this stands for a value that is not there, in Python, NumPy or pandas."""
    return label is None or (not isinstance(label, str) and str(label) in ("nan", "<NA>", "NaT"))


class Table(NamedTuple):
    """What `read_csv` returns.

    Attributes:
        x: (n, m) features, float32.
        y: (n,) labels, as text, or numbers, float64; (n, k) numbers of several columns.
        features: the names of the m columns of x.
        targets: the names of the columns of y.
    """

    x: np.ndarray
    y: np.ndarray
    features: tuple[str, ...]
    targets: tuple[str, ...]


def read_csv(
    path: str | os.PathLike[str],
    target: str | Sequence[str] | None = None,
    task: str | None = None,
) -> Table:
    """Return the features and the targets of a CSV file.

    Args:
        path: a file whose first line names its columns, separated by commas, semicolons or tabs.
        target: the column with the labels or numbers to predict, or several columns of numbers;
            None: the one called class, label, target or species (in any case), otherwise the last.
        task: "classification": the labels are text, whatever they look like; "regression" or
            "multilabel": they must be numbers; None: numbers where `guessed_task` says regression.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, two have the same name, a line has more or fewer values
            than there are columns, or a value is missing or not a finite number; says in which
            line and column.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "iris.csv")
        ...     _ = path.write_text("length,width,species\\n5.1,3.5,setosa\\n6.3,3.3,virginica\\n")
        ...     table = read_csv(path)
        >>> table.x.shape, table.y.tolist(), table.features
        ((2, 2), ['setosa', 'virginica'], ('length', 'width'))
    """
    names, rows = _rows(path)
    targets = _targets(names, target, path)
    features = [i for i in range(len(names)) if i not in targets]
    if not features:
        raise ValueError(f"{path}: every column is a target; expected features too")
    x = _numbers(path, names, rows, features).astype(np.float32)
    text = np.array([row[targets[0]].strip() for row in rows.values()])
    if "" in text:
        line = list(rows)[text.tolist().index("")]
        raise ValueError(
            f"{path}: line {line}, column {names[targets[0]]!r}: expected a label or a number, got "
            "nothing"
        )
    numbers = len(targets) > 1 or task in ("regression", "multilabel")
    if not numbers and task is None:
        with suppress(ValueError):
            numbers = guessed_task(text.astype(np.float64)) == "regression"
    y = _numbers(path, names, rows, targets) if numbers else text
    return Table(
        x,
        y[:, 0] if numbers and len(targets) == 1 else y,
        tuple(names[i] for i in features),
        tuple(names[i] for i in targets),
    )


def read_rows(
    path: str | os.PathLike[str], features: Sequence[str]
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return the columns of a CSV file that have these names, and the numbers of its lines.

    Args:
        path: of the file.
        features: the names, in the order that the columns are wanted in; others are ignored.

    Returns:
        The values, (n, m), float32, and the line of the file that each row stands in, from 2 on.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, or a value is not a finite number; says in which line and
            column.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "new.csv")
        ...     _ = path.write_text("id,width,length\\n7,3.5,5.0\\n")
        ...     x, lines = read_rows(path, ["length", "width"])
        >>> x.tolist(), lines
        ([[5.0, 3.5]], (2,))
    """
    names, rows = _rows(path)
    if missing := [name for name in features if name not in names]:
        raise ValueError(
            f"{path}: has no column {', '.join(map(repr, missing))}; expected the features "
            f"{', '.join(features)}"
        )
    columns = [names.index(name) for name in features]
    return _numbers(path, names, rows, columns).astype(np.float32), tuple(rows)


def column_names(path: str | os.PathLike[str]) -> list[str]:
    """Return the names of the columns of a CSV file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a table with named columns.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "new.csv")
        ...     _ = path.write_text("id,width,length\\n7,3.5,5.0\\n")
        ...     column_names(path)
        ['id', 'width', 'length']
    """
    return _rows(path)[0]


def _rows(path: str | os.PathLike[str]) -> tuple[list[str], dict[int, list[str]]]:
    """Return the names of the columns of a CSV file, and the values by the number of their line."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a CSV file in UTF-8") from None
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: dict[int, list[str]] = {}
    try:
        for row in reader:
            if row:
                rows[reader.line_num] = row
    except csv.Error as error:
        raise ValueError(f"{path}: not a CSV file ({error})") from None
    names = [name.strip() for name in rows.pop(min(rows), [])] if rows else []
    if not rows or len(names) < 2:
        raise ValueError(
            f"{path}: expected a line with the names of the columns, then lines of values"
        )
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"{path}: two columns have the name {twice[0]!r}; expected different names"
        )
    for line, row in rows.items():
        if len(row) != len(names):
            raise ValueError(
                f"{path}: line {line} has {len(row)} values, expected {len(names)}, one per column"
            )
    return names, rows


def _numbers(
    path: Any, names: Sequence[str], rows: Mapping[int, Sequence[str]], columns: Sequence[int]
) -> np.ndarray:
    """Return these columns as numbers (n, k), or say in which line one is not a finite number."""
    values = np.empty((len(rows), len(columns)))
    for i, (line, row) in enumerate(rows.items()):
        try:
            values[i] = [row[column] for column in columns]
        except ValueError:
            _explain(path, line, [names[c] for c in columns], [row[c] for c in columns])
    if len(bad := np.argwhere(~(np.abs(values) <= _LARGEST))):
        i, j = map(int, bad[0])
        line, column = list(rows)[i], columns[j]
        raise ValueError(
            f"{path}: line {line}, column {names[column]!r}: expected a finite number of at most "
            f"{_LARGEST:.2g} in size, got {rows[line][column].strip()!r:.40}"
        )
    return values


def standardize(data: Dataset, *, inputs: bool = True, targets: bool = False) -> Dataset:
    """Return the data set with x of mean 0 and standard deviation 1, by the training data.

    Features are standardised one by one, (x − mean)/deviation; one that never changes becomes 0.
    Images have one mean and one deviation for all their pixels, so that they stay images.

    The targets of a regression can be standardised too. `nnjax.train` still reports RMSE and MAE in
    their units; an output a of the network stands for mean + deviation · a.

    Args:
        data: a data set. Of one that is standardised already, the mean and the deviation remain
            those of the numbers that came first.
        inputs: whether to standardise x.
        targets: whether to standardise y, which must be the numbers of a regression.

    Returns:
        A data set whose `standardization` holds the mean and the deviation of x, each () or
        (features,), and whose `target_standardization` holds those of y, each () or (k,).

    Raises:
        TypeError, ValueError: if it is not a data set, or holds no training data, or its targets
            are classes or labels.

    Example:
        >>> import numpy as np
        >>> from nnjax.data import Dataset, standardize
        >>> x = np.array([[1.0, 10.0], [3.0, 10.0]], np.float32)
        >>> data = standardize(Dataset((x, np.array([0, 1])), None, None))
        >>> data.train[0].tolist(), data.standardization
        ([[-1.0, 0.0], [1.0, 0.0]], ([2.0, 10.0], [1.0, 1.0]))
    """
    x, y = map(np.asarray, require_dataset(data).train)
    for name, value in (("inputs", inputs), ("targets", targets)):
        require_instance(value, bool | np.bool_, name, "True or False")
    if targets and not np.issubdtype(y.dtype, np.floating):
        raise ValueError(
            f"y holds {y.dtype} classes or labels; only the numbers of a regression, as float, can "
            "be standardised"
        )
    scales = [_scale(x) if inputs else None, _scale(y) if targets else None]
    parts = {
        name: part and tuple(standardized(*pair) for pair in zip(part, scales, strict=True))
        for name, part in data._asdict().items()
    }
    names = ("standardization", "target_standardization")
    fitted = {
        name: _after(getattr(data, name), scale)
        for name, scale in zip(names, scales, strict=True)
        if scale is not None
    }
    return data._replace(**parts, **fitted)


def _after(first: tuple[Any, Any] | None, second: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return the mean and the deviation by which one standardisation does what these two do."""
    if first is None:
        return second
    (mean, deviation), (mean_left, deviation_left) = np.asarray(first), np.asarray(second)
    return (mean + deviation * mean_left).tolist(), (deviation * deviation_left).tolist()


def _scale(array: np.ndarray) -> tuple[Any, Any]:
    """Return the mean and the deviation: of each column of a table, of all pixels of images."""
    axes = 0 if array.ndim == 2 else None
    mean, deviation = array.mean(axes, dtype=np.float64), array.std(axes, dtype=np.float64)
    first = array[0] if axes == 0 else array.ravel()[0]
    constant = (array == first).all(axes)  # then any deviation is the rounding of the mean
    mean = np.where(constant, first, mean)
    return mean.tolist(), np.where(~constant & (deviation > 0), deviation, 1.0).tolist()


def standardized(array: np.ndarray, scale: tuple[Any, Any] | None) -> np.ndarray:
    """Return (array − mean)/deviation, float32; the array itself without a scale.

    Args:
        array: (n, features), images, or targets.
        scale: mean and deviation of the training data, each () or of the length of a row; or None.

    Example:
        >>> import numpy as np
        >>> standardized(np.array([[1.0, 4.0]]), ([0.0, 2.0], [1.0, 4.0])).tolist()
        [[1.0, 0.5]]
    """
    if scale is None:
        return array
    mean, deviation = map(np.asarray, scale)
    return ((np.asarray(array) - mean) / deviation).astype(np.float32)


def unstandardized(array: Any, scale: tuple[Any, Any] | None) -> np.ndarray:
    """Return mean + deviation · array: what `standardized` took away.

    Example:
        >>> unstandardized([[1.0, 0.5]], ([0.0, 2.0], [1.0, 4.0])).tolist()
        [[1.0, 4.0]]
    """
    mean, deviation = map(np.asarray, scale or (0.0, 1.0))
    return mean + deviation * np.asarray(array)


def _targets(names: Sequence[str], target: str | Sequence[str] | None, path: Any) -> list[int]:
    wanted = [target] if isinstance(target, str) else list(target or ())
    for name in wanted:
        if name not in names:
            raise ValueError(f"{path}: has no column {name!r}; its columns are {', '.join(names)}")
    if wanted:
        return [names.index(name) for name in dict.fromkeys(wanted)]
    usual = [i for i, name in enumerate(names) if name.lower() in _TARGETS]
    return usual if len(usual) == 1 else [len(names) - 1]


_LARGEST = float(np.finfo(np.float32).max)
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
