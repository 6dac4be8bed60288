"""Data sets by name (`digits`, `mnist`, `fashion-mnist`) or from the user's files."""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib.util
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnjax.checks import install
from nnjax.data.dataset import Dataset, Part, checked_dataset, checked_part
from nnjax.data.pictures import is_picture_folder, read_pictures
from nnjax.data.readers import IDX_FILES, find_idx, read_idx, read_npz, read_pickle
from nnjax.data.tables import read_csv, split

__all__ = ["NAMES", "load"]


def load(
    name_or_path: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    target: str | Sequence[str] | None = None,
    task: str | None = None,
    mapped: bool = False,
) -> Dataset:
    """Load a data set by name or from a path.

    Names:

    - `"digits"`: the 1,797 handwritten digits, 8x8, that come with scikit-learn (no network);
      x float32 in [0, 1]. In each class a random fifth is for testing and a tenth for validation,
      always the same ones: 1,257 / 180 / 360. Few as they are, a tenth is kept for validation, so
      that nobody has to choose by the test images; it costs about 0.2 % of accuracy.
    - `"mnist"`, `"fashion-mnist"`: 70,000 images, 28x28, uint8, in the order of the book: 50,000
      to train on, the last 10,000 of the 60,000 for validation, 10,000 for testing. Read from
      `data_dir`, else from the folder that the environment variable `NNJAX_DATA` names (the
      folder itself or its subfolder of that name), as the files there are; else downloaded once,
      checked by SHA-256, and cached.

    Paths (a file or folder that has the name of a data set: write `./mnist`):

    - a folder with the four IDX files of an MNIST-like set (`train-images-idx3-ubyte`, ...,
      gzipped or not); the last sixth of the training images is for validation
    - a folder of pictures by class, one sub-folder for each, also within `train`, `validation` and
      `test`: see `nnjax.data.pictures`
    - `.npz` with arrays `x_train, y_train` (or `x, y`) and, optionally, `x_validation,
      y_validation` and `x_test, y_test`; also `X` for x, `val` or `valid` for validation; so also
      the `mnist.npz` of Keras
    - `.csv` or `.tsv`: a table of numbers with the names of its columns in the first line, and one
      column of labels (`target`), which may be text, or one or several of numbers to predict; a
      tenth of each class is for validation, a fifth for testing
    - `.pkl` or `.pkl.gz`: the `mnist.pkl.gz` of the book, three pairs (x, y). Only NumPy arrays
      are read from it: a pickle that asks for anything else is refused and nothing of it is run.

    Images without a channel axis get one: (n, h, w) and (n, 784) become (n, h, w, 1) and
    (n, 28, 28, 1).

    Args:
        name_or_path: a name or a path as above.
        data_dir: the folder with the files of `"mnist"` or `"fashion-mnist"`.
        target: of a CSV file, the column with the labels, or several columns of numbers; otherwise
            the one called class, label, target or species, or the last.
        task: of a CSV or .npz file: "classification", "multilabel" (zeros and ones in several
            columns) or "regression"; None: as the targets look. Numbers are a regression if some of
            them are not whole, or if there are many different ones (see
            `nnjax.data.dataset.guessed_task`).
        mapped: map IDX and .npz files that are not compressed into memory: of inputs in uint8 or
            float32 only the rows that are used are read then. The files must not change meanwhile.

    Returns:
        A `Dataset`.

    Raises:
        FileNotFoundError: there is no such path, or files are missing in the folder.
        ValueError: a file is truncated, corrupt, or holds no data set: NaN or Inf, labels that
            are not classes, x and y of different lengths, images of a scale that cannot be meant,
            nothing at all.
        ConnectionError: no mirror gave the published file; says where to put which files.
        ImportError: an optional package is missing; says how to install it.

    Example:
        >>> from nnjax.data import load
        >>> data = load("digits")
        >>> x, y = data.train
        >>> x.shape, x.dtype.name, y.shape, y.dtype.name
        ((1257, 8, 8, 1), 'float32', (1257,), 'int32')

    References:
        LeCun, Cortes and Burges, "The MNIST database of handwritten digits".
        Xiao, Rasul and Vollgraf (2017), "Fashion-MNIST", arXiv:1708.07747.
        Alpaydin and Kaynak (1998), "Optical recognition of handwritten digits", UCI.

    Differs from `sklearn.datasets.load_digits` and its usual split into first and second half:
    there the two halves come from different writers; here writers are shared, which is easier.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(
            f"name_or_path must be the name of a data set or a path, got {name_or_path!r:.60}"
        )
    name = os.fspath(name_or_path)
    if target and not name.endswith((".csv", ".tsv")):
        raise ValueError(f"target names a column of a CSV file; {name!r} is not one")
    if task not in (None, "classification") and not name.endswith((".csv", ".tsv", ".npz")):
        raise ValueError(f"the targets of {name!r} are classes; task {task!r} is for others")
    if name in _SOURCES:
        return _load_source(name, data_dir, mapped)
    if data_dir is not None:
        raise ValueError(
            f"data_dir says where the files of {' or '.join(_SOURCES)} are; {name!r} takes none"
        )
    if name == "digits":
        return _digits()
    path = Path(name).expanduser()
    if path.is_dir():
        by_class = not find_idx(path) and is_picture_folder(path)
        return read_pictures(path) if by_class else _from_folder(path, mapped)
    if not path.exists():
        close = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise FileNotFoundError(
            f"unknown data set {name!r}{hint} Expected {', '.join(NAMES)} or a path to a file or "
            "folder"
        )
    if path.name.endswith(".npz"):
        return _from_npz(path, task, mapped)
    if path.name.endswith((".csv", ".tsv")):
        return _from_csv(path, target, task)
    if path.name.endswith((".pkl", ".pkl.gz")):
        return _from_pickle(path)
    raise ValueError(
        f"{name}: expected a folder with IDX files or pictures by class, or a .npz, .csv, .tsv, "
        ".pkl or .pkl.gz file"
    )


def _digits() -> Dataset:
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"the digits come with scikit-learn: {install('data')}")
    file = Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    if file.is_file():  # importing scikit-learn takes 0.7 s, its file 10 ms
        rows = np.loadtxt(file, delimiter=",", dtype=np.float32)
        x, y = rows[:, :-1], rows[:, -1].astype(np.int32)
    else:
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
    x = np.asarray(x, np.float32).reshape(-1, 8, 8, 1) / np.float32(16)

    # Stratified: deal the examples, class by class and shuffled within each, into ten hands.
    order = np.random.default_rng(0).permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]
    hand = np.empty(len(y), int)
    hand[order] = np.arange(len(y)) % 10
    train, validation, test = hand > 2, hand == 2, hand < 2
    parts = [(x[part], y[part]) for part in (train, validation, test)]
    return checked_dataset("digits", parts[0], parts[1], parts[2])


def _from_folder(folder: Path, mapped: bool) -> Dataset:
    files = find_idx(folder)
    if missing := [file for file in IDX_FILES if file not in files]:
        raise FileNotFoundError(f"{folder}: missing {', '.join(missing)} (each gzipped or not)")
    x, y, x_test, y_test = (read_idx(files[file], mapped) for file in IDX_FILES)
    x, y = checked_part(x, y, f"{folder}: training data")
    n = len(x) - len(x) // 6  # the book's 50,000 of 60,000
    validation = (x[n:], y[n:]) if n < len(x) else None
    return checked_dataset(folder, (x[:n], y[:n]), validation, (x_test, y_test))


def _from_csv(path: Path, target: str | Sequence[str] | None, task: str | None) -> Dataset:
    table = read_csv(path, target, task)
    y = table.y
    if task == "multilabel" and y.ndim == 1:
        y = y[:, None]
    try:
        data = split(table.x, y, task=task)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    columns = data.classes if data.task == "classification" else table.targets
    return data._replace(features=table.features, classes=columns)


def _from_npz(path: Path, task: str | None, mapped: bool) -> Dataset:
    arrays, parts = read_npz(path, mapped), {}
    for name, array in arrays.items():
        spelt = re.fullmatch(r"([xy])(?:_(train|validation|valid|val|test))?", name.lower())
        axis, part = spelt.groups() if spelt else ("", "")
        key = axis, {None: "train", "val": "validation", "valid": "validation"}.get(part, part)
        if key in parts or not spelt:
            raise ValueError(
                f"{path}: expected arrays x_train and y_train (or x and y), and where there are "
                "such x_validation, y_validation, x_test and y_test, each once; got "
                f"{', '.join(sorted(map(_shown, arrays)))}"
            )
        parts[key] = array

    def pair(part: str) -> Part | None:
        there = [axis for axis in "xy" if (axis, part) in parts]
        if len(there) == 1:
            raise ValueError(
                f"{path}: x_{part} and y_{part} go together, only {there[0]}_{part} is there"
            )
        return (parts["x", part], parts["y", part]) if there else None

    train = pair("train")
    if train is None:
        raise ValueError(
            f"{path}: expected arrays x_train and y_train (or x and y), got "
            f"{', '.join(sorted(map(_shown, arrays))) or 'none'}"
        )
    return checked_dataset(path, train, pair("validation"), pair("test"), task=task)


def _shown(name: str) -> str:
    return ascii(name)[1:-1]  # a file may name its arrays so that a terminal obeys them


def _from_pickle(path: Path) -> Dataset:
    content = read_pickle(path)
    # Arrays only: a list of lists of itself takes a few bytes, and as an array all memory.
    match content:
        case [
            [np.ndarray() as x, np.ndarray() as y],
            [np.ndarray() as x_validation, np.ndarray() as y_validation],
            [np.ndarray() as x_test, np.ndarray() as y_test],
        ]:
            return checked_dataset(path, (x, y), (x_validation, y_validation), (x_test, y_test))
    raise ValueError(
        f"{path}: expected three pairs (x, y) of arrays: training, validation and test data"
    )


class _Source(NamedTuple):
    mirrors: tuple[str, ...]
    sha256: tuple[str, ...]  # of the gzipped files, in the order of IDX_FILES
    test_labels: str  # SHA-256 of the labels themselves: which data set a folder holds


_SOURCES = {
    "mnist": _Source(
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "http://yann.lecun.com/exdb/mnist/",
        ),
        (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    ),
    "fashion-mnist": _Source(
        (
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
    ),
}

NAMES = ("digits", *_SOURCES)
"""The data sets that are loaded by name, whatever files there are of that name."""


def _load_source(name: str, data_dir: str | os.PathLike[str] | None, mapped: bool) -> Dataset:
    named = data_dir or os.environ.get("NNJAX_DATA")
    if not named:
        return _from_folder(_download(name), mapped)
    root = Path(named).expanduser()
    folder = next((f for f in (root / name, root) if find_idx(f)), None)
    if folder is None:
        variable = "data_dir" if data_dir else "environment variable NNJAX_DATA"
        raise FileNotFoundError(
            f"{variable}: neither {root} nor {root / name} holds the files of {name}: put "
            f"{_file_list()} there, or name no folder to have them downloaded"
        )
    data = _from_folder(folder, mapped)
    # MNIST and its likes have the same file names: labels that are another's would go unseen.
    labels = b"" if data.test is None else data.test[1].astype(np.uint8).tobytes()
    digest = hashlib.sha256(labels).hexdigest()
    for other, source in _SOURCES.items():
        if other != name and digest == source.test_labels:
            raise ValueError(f"{folder}: holds the files of {other}, not of {name}")
    return data


def _file_list() -> str:
    return ", ".join(f"{file}.gz" for file in IDX_FILES)


_LARGEST = 2**25
"""Of a file to download, in bytes: the largest published one has 26 million."""

_GRACE, _SLOWEST = 20, 2**16
"""A mirror has 20 seconds, and a second more for every 64 KiB that it has sent."""


def _download(name: str) -> Path:
    """The folder in the user's cache that holds the published files, downloaded where missing."""
    try:
        import pooch
        import requests
    except ImportError:
        raise ImportError(
            f'downloading {name} requires pooch: pip install "nnjax[data]"; or put {_file_list()} '
            "into a folder and name it by data_dir or NNJAX_DATA"
        ) from None
    folder = Path(pooch.os_cache("nnjax"), name)
    bar = sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None

    downloader: Any = functools.partial(_save_url, bar=bar)

    def fetch(file: str, sha256: str) -> None:
        failures = []
        for mirror in _SOURCES[name].mirrors:
            try:
                # Written under a temporary name, checked, then renamed: never a partial file.
                pooch.retrieve(
                    f"{mirror}{file}.gz",
                    known_hash=f"sha256:{sha256}",
                    fname=f"{file}.gz",
                    path=folder,
                    downloader=downloader,
                )
                return
            except requests.RequestException as error:
                failures.append(f"{mirror}: {type(error).__name__}")
            except ValueError:
                failures.append(f"{mirror}: wrong SHA-256")
            except OSError as error:
                reason = error.strerror or "the folder cannot be written to"
                raise OSError(f"{folder}: cannot store {name} there: {reason}") from None
        raise ConnectionError(
            f"could not download {file}.gz of {name} ({'; '.join(failures)}): put {_file_list()} "
            "into a folder and name it by data_dir or NNJAX_DATA"
        )

    logger = pooch.get_logger()
    disabled = logger.disabled
    logger.disabled = not bar  # what it says goes with the bar
    try:
        _remove_left_over(folder)
        for file, sha256 in zip(IDX_FILES, _SOURCES[name].sha256, strict=True):
            fetch(file, sha256)
    finally:
        logger.disabled = disabled
    return folder


def _remove_left_over(folder: Path) -> None:
    """Remove what downloads that were killed have left: files older than any download takes."""
    for path in folder.glob("tmp*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _GRACE + _LARGEST / _SLOWEST:
                path.unlink()


def _save_url(url: str, output: Any, pooch: Any, *, bar: bool) -> None:
    """Download a file, in bounded time and memory whatever the server does.

    A server that sends a byte now and then never lets a read time out, so that the reading is done
    in a thread which can be left behind.
    """
    import requests

    content, failures, given_up = bytearray(), [], threading.Event()

    def read() -> None:
        try:
            with requests.get(url, stream=True, timeout=_GRACE) as response:
                response.raise_for_status()
                for piece in _with_bar(response, bar):
                    content.extend(piece)
                    if given_up.is_set():
                        return
                    if len(content) > _LARGEST:
                        raise requests.exceptions.ContentDecodingError("too large")
        except BaseException as error:
            failures.append(error)

    start = time.monotonic()
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.1)
            if time.monotonic() - start > _GRACE + len(content) / _SLOWEST:
                raise requests.Timeout("too slow")
    finally:
        given_up.set()
    if failures:
        raise failures[0]
    Path(output).write_bytes(content)


def _with_bar(response: Any, bar: bool) -> Iterator[bytes]:
    """The pieces of a response, with a bar that says how many have come."""
    pieces = response.iter_content(chunk_size=2**12)
    if not bar:
        yield from pieces
        return
    from tqdm import tqdm

    total = int(response.headers.get("content-length", 0))
    with tqdm(total=total, unit="B", unit_scale=True, leave=True) as shown:
        for piece in pieces:
            shown.update(len(piece))
            yield piece
