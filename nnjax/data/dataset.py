"""A data set in its parts, and the one form that every source is brought to, checked on load.

Every part is a pair `(x, y)`:

- x, images (n, h, w, channels): uint8 grey levels 0 to 255 as in the file (the training step
  scales them by 1/255), or float32 as they are. Rows of features (n, features) stay rows, and
  their values, whole or not, become float32 as they are.
- y, by the task: classes (n,), int32, counted from 0; the numbers of a regression (n,) or (n, k),
  float32; several labels at once (n, k), uint8, 1 where an example has the label, otherwise 0.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from nnjax.data.image_format import require_scale

__all__ = [
    "Dataset",
    "Part",
    "TaskName",
    "checked_dataset",
    "checked_part",
    "guessed_task",
    "require_dataset",
]

TaskName: TypeAlias = Literal["classification", "multilabel", "regression"]
"""What the targets of a data set are for: see `nnjax.tasks`."""

Part: TypeAlias = tuple[np.ndarray, np.ndarray]
"""The inputs x and the targets y of some examples."""


class _Parts(NamedTuple):
    train: Part
    validation: Part | None
    test: Part | None


class Dataset(_Parts):
    """A data set in its three parts, each `(x, y)`, or `None` where the source has no such part.

    It is a tuple of the three parts; what else is known of the data are attributes.

    Attributes:
        train: what the parameters are fitted to: x (n, h, w, channels) or (n, features),
            uint8 or float32; y (n,), int32 classes, or see above.
        validation: what choices are made by (when to stop, which learning rate).
        test: what the final figure is taken from, once.
        classes: the names of the classes, by number, or of the columns of y; empty where there
            are none.
        standardization: mean and deviation of x before it was standardised, or None.
        target_standardization: mean and deviation of y before it was standardised, or None.
        features: the names of the columns of x in a table; empty where there are none.
        pictures: whether x was read from pictures by `nnjax.data.pictures`.

    Example:
        >>> import numpy as np
        >>> from nnjax.data import Dataset
        >>> x, y = np.zeros((2, 8, 8, 1), np.float32), np.array([3, 1], np.int32)
        >>> Dataset(train=(x, y), validation=None, test=None).train[0].shape
        (2, 8, 8, 1)
    """

    classes: tuple[str, ...] = ()
    standardization: tuple[Any, Any] | None = None
    target_standardization: tuple[Any, Any] | None = None
    features: tuple[str, ...] = ()
    pictures: bool = False

    def __new__(
        cls,
        train: Part,
        validation: Part | None,
        test: Part | None,
        classes: tuple[str, ...] = (),
        standardization: tuple[Any, Any] | None = None,
        target_standardization: tuple[Any, Any] | None = None,
        features: tuple[str, ...] = (),
        pictures: bool = False,
    ) -> Dataset:
        """Make a data set of its parts."""
        data = super().__new__(cls, train, validation, test)
        data.classes, data.standardization = tuple(classes), standardization
        data.target_standardization, data.features = target_standardization, tuple(features)
        data.pictures = pictures
        return data

    def _replace(self, **changes: Any) -> Dataset:
        """Return the data set with other parts or attributes; what else is known of it stays."""
        return Dataset(**{**self._asdict(), **vars(self), **changes})

    @property
    def task(self) -> TaskName:
        """What y is for, by its dtype and shape: classification, multilabel or regression."""
        y = self.train[1]
        if np.issubdtype(y.dtype, np.floating):
            return "regression"
        return "multilabel" if y.ndim == 2 else "classification"


def guessed_task(y: np.ndarray) -> TaskName:
    """Return what targets look as if they were for.

    Real numbers are a regression if some of them are not whole, or if there are many different
    ones: more than 20, and more than the square root of how many there are. Rows of zeros and ones
    are several labels at once, unless every row has a single 1. All else is a classification.

    Example:
        >>> import numpy as np
        >>> from nnjax.data.dataset import guessed_task
        >>> guessed_task(np.array([3.5, 2.0])), guessed_task(np.array([3, 2]))
        ('regression', 'classification')
        >>> guessed_task(np.array([[1, 1, 0], [0, 0, 1]]))
        'multilabel'
    """
    if y.ndim == 2 and y.dtype.kind in "biuf":
        if not np.isin(y, (0, 1)).all():
            return "regression"
        return "classification" if (y.sum(axis=1) == 1).all() else "multilabel"
    if y.dtype.kind != "f":
        return "classification"
    whole = (y == np.rint(y)).all()
    many = len(np.unique(y)) > max(20, np.sqrt(len(y)))
    return "regression" if many or not whole else "classification"


def checked_part(x: Any, y: Any, what: str, task: str = "classification") -> Part:
    """`(x, y)` in the form that the module promises, or a sentence that says what is wrong."""
    x, y = np.asarray(x), np.asarray(y)
    _require_targets(y, what, task)
    if x.ndim not in (2, 3, 4):
        raise ValueError(
            f"{what}: x must be images (n, h, w) or (n, h, w, channels), or rows of features "
            f"(n, features), got shape {x.shape}"
        )
    if len(x) != len(y):
        raise ValueError(f"{what}: x has {len(x):,} examples and y has {len(y):,} labels")
    if x.size == 0:
        raise ValueError(f"{what}: empty: x has shape {x.shape}")
    y = _checked_targets(y, what, task)
    if x.ndim == 2 and x.shape[1] == 784:
        x = x.reshape(-1, 28, 28)
    if x.dtype.kind == "f" or (x.dtype.kind in "biu" and (x.ndim == 2 or x.dtype == bool)):
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes Inf: found below
            x = x.astype(np.float32, copy=False)
        if not np.isfinite(x).all():
            raise ValueError(
                f"{what}: x has {np.sum(~np.isfinite(x)):,} NaN or Inf among its values"
            )
    elif x.dtype.kind in "iu":
        if x.min() < 0 or x.max() > 255:
            raise ValueError(
                f"{what}: whole numbers in images are taken as grey levels 0 to 255, got "
                f"{x.min()} to {x.max()}; store other quantities as float32"
            )
        x = x.astype(np.uint8, copy=False)
    else:
        raise ValueError(f"{what}: x must hold real numbers, got dtype {x.dtype}")

    if x.ndim == 3:
        x = x[..., None]
    if x.ndim == 4:
        require_scale(x, what)
    return x, y


def _require_targets(y: np.ndarray, what: str, task: str) -> None:
    """Raise ValueError unless y has a shape and a dtype that targets of the task have."""
    if task == "classification" and (y.ndim != 1 or y.dtype.kind not in "iu"):
        raise ValueError(
            f"{what}: y must be integer classes of shape (n,), got {y.dtype} of shape {y.shape}"
            + ("; one-hot rows become classes by y.argmax(axis=1)" if y.ndim == 2 else "")
        )
    if task == "regression" and (y.ndim not in (1, 2) or y.dtype.kind not in "fiu"):
        raise ValueError(
            f"{what}: y must be real numbers of shape (n,) or (n, k) for a regression, got "
            f"{y.dtype} of shape {y.shape}"
        )
    if task == "multilabel" and not (
        y.ndim == 2 and y.dtype.kind in "fiub" and np.isin(y, (0, 1)).all()
    ):
        raise ValueError(
            f"{what}: y must be zeros and ones of shape (n, k) for several labels at once, got "
            f"{y.dtype} of shape {y.shape}" + " with other values" * (y.ndim == 2)
        )


def _checked_targets(y: np.ndarray, what: str, task: str) -> np.ndarray:
    if task == "multilabel":
        return y.astype(np.uint8, copy=False)
    if task == "regression":
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes Inf
            y = y.astype(np.float32, copy=False)
        if not np.isfinite(y).all():
            count = np.sum(~np.isfinite(y))
            raise ValueError(f"{what}: y has {count:,} NaN or Inf among its values")
        return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.min() < 0 or y.max() > np.iinfo(np.int32).max:
        raise ValueError(
            f"{what}: classes must be counted from 0 and fit int32, got {y.min()} to {y.max()}"
        )
    return y.astype(np.int32, copy=False)


def checked_dataset(
    what: object,
    train: Part,
    validation: Part | None,
    test: Part | None,
    classes: tuple[str, ...] = (),
    features: tuple[str, ...] = (),
    task: str | None = None,
) -> Dataset:
    """The checked parts of a data set; their examples must have one shape and one dtype.

    Args:
        what: names the data set in errors.
        train, validation, test: the parts.
        classes, features: see `Dataset`.
        task: None: as the targets of the training data look.
    """
    if task is None:
        task = guessed_task(np.asarray(train[1]))
    elif task not in get_args(TaskName):
        raise ValueError(f"task is {task!r}; expected one of {', '.join(get_args(TaskName))}")
    data = Dataset(
        checked_part(*train, f"{what}: training data", task),
        validation and checked_part(*validation, f"{what}: validation data", task),
        test and checked_part(*test, f"{what}: test data", task),
        classes,
        features=features,
    )
    kinds = {f"{part[0].dtype} {part[0].shape[1:]}" for part in data if part}
    if len(kinds) > 1:
        raise ValueError(
            f"{what}: training, validation and test data must hold examples of one dtype and "
            f"shape, got {' and '.join(sorted(kinds))}"
        )
    columns = {part[1].shape[1:] for part in data if part}
    if len(columns) > 1:
        raise ValueError(
            f"{what}: training, validation and test data must have targets of one shape, got "
            f"{' and '.join(map(str, sorted(columns)))} per example"
        )
    if task != "classification":
        return data
    largest, most = (
        max(int(part[1].max()) for part in data if part),
        max(10_000, len(data.train[0])),
    )
    if largest >= most:
        raise ValueError(
            f"{what}: labels are classes counted from 0, and {largest:,} among them would take "
            f"{largest + 1:,} output neurons; expected labels below {most:,}"
        )
    return data


def require_dataset(data: Any) -> Dataset:
    """Return `data` if it is a data set with pairs (x, y), one to train on, else raise.

    Raises:
        TypeError: if it is not a `Dataset`, or a part is not a pair.
        ValueError: if there is nothing to train on.

    Example:
        >>> from nnjax.data.dataset import Dataset, require_dataset
        >>> require_dataset(Dataset(None, None, None))
        Traceback (most recent call last):
        ...
        ValueError: data.train is None; expected (x, y) to train on
    """
    if not isinstance(data, Dataset):
        raise TypeError(
            f"data is a {type(data).__name__}; expected nnjax.data.Dataset(train=(x, y), "
            "validation=None, test=None)"
        )
    if data.train is None:
        raise ValueError("data.train is None; expected (x, y) to train on")
    for name, part in data._asdict().items():
        if part is not None and not (isinstance(part, tuple | list) and len(part) == 2):
            shape = getattr(part, "shape", None)
            came = f"a {type(part).__name__}" if shape is None else f"an array of shape {shape}"
            if isinstance(part, tuple | list):
                came += f" of length {len(part)}"
            raise TypeError(f"data.{name} is {came}; expected a pair (x, y)")
    return data
