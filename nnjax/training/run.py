"""A run: the folder that one training leaves behind.

    config.json                             what was asked for
    history.jsonl                           one line an epoch, written as the run goes on
    params.safetensors                      the parameters that it ended with
    checkpoints/epoch-000012.safetensors    all that is needed to go on after 12 epochs

Whoever trains opens the folder by `Run.create` or `Run.resume` and holds its lock, which falls
with the process, however that ends. Whoever only reads opens it by `Run(folder)`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nnjax.checks import require_size
from nnjax.files import write_atomically
from nnjax.training import checkpoint

__all__ = ["Run"]

_VERSION = 1


@dataclass(frozen=True)
class Run:
    """A run that lies in a folder, to read from.

    Args:
        folder: where it lies.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: if it was written in a newer format or its configuration is damaged.

    Example:
        >>> import pathlib, tempfile, jax, nnjax
        >>> from nnjax.training.run import Run
        >>> net = nnjax.mlp([4, 3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Run.create(pathlib.Path(folder, "first"), {"hidden": [3]}) as run:
        ...         run.log({"epoch": 0, "validation_accuracy": 0.5})
        ...         run.save_checkpoint({"params": params}, epoch=1)
        ...         run.save_params(params)
        ...     run = Run(pathlib.Path(folder, "first"))
        ...     run.config, run.history, run.checkpoints[-1].name
        ({'hidden': [3]}, [{'epoch': 0, 'validation_accuracy': 0.5}], 'epoch-000001.safetensors')
    """

    folder: Path

    def __post_init__(self):
        object.__setattr__(self, "folder", Path(self.folder))
        _ = self.config

    @staticmethod
    @contextmanager
    def create(folder: str | os.PathLike[str], config: Mapping[str, Any]) -> Iterator[Run]:
        """Make a new run and hold its lock: a context manager that gives the `Run`.

        Args:
            folder: where; it is made, or must be empty.
            config: what was asked for, of the kinds that JSON has.

        Raises:
            FileExistsError: if something lies there already.
            BlockingIOError: if another process trains in it.
            OSError: if it cannot be written.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(error.errno, f"cannot make {folder}: {error.strerror}") from None
        if not (folder / ".lock").is_file():
            _require_empty(folder)  # before a lock is left in the folder of somebody else
        with _locked(folder):
            for left_over in folder.glob(".config.json.*.tmp"):  # killed while it was written
                left_over.unlink()
            _require_empty(folder)
            try:
                _write_config(folder, config)
            except OSError:
                (folder / "config.json").unlink(missing_ok=True)
                raise
            yield Run(folder)

    @staticmethod
    @contextmanager
    def resume(folder: str | os.PathLike[str]) -> Iterator[Run]:
        """Open a run to go on with it and hold its lock: a context manager that gives the `Run`.

        Raises:
            FileNotFoundError, ValueError: if there is no run, or a damaged one.
            BlockingIOError: if another process trains in it.
        """
        run = Run(Path(folder))
        with _locked(run.folder):
            for left_over in run.folder.rglob(".*.tmp"):
                left_over.unlink()
            yield run

    # ------------------------------------------------------------ reading

    @property
    def config(self) -> dict[str, Any]:
        """What the run was asked to do, as given to `create`."""
        path = self.folder / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"{self.folder} is no run: it has no config.json")
        try:
            content = json.loads(path.read_text())
            version, config = content["version"], content["config"]
            newer = version > _VERSION
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}: damaged, or not written by nnjax") from None
        if newer:
            raise ValueError(
                f"{path}: has version {version} of the format, and this nnjax reads up to "
                f"{_VERSION}; update nnjax"
            )
        return config

    @property
    def history(self) -> list[dict[str, Any]]:
        """The records, oldest first; a last line that is not complete yet is left out."""
        path = self.folder / "history.jsonl"
        try:
            return [_with_nan(json.loads(line)) for line in self._lines()]
        except ValueError as error:
            raise ValueError(f"{path}: damaged: {error}") from None

    @property
    def checkpoints(self) -> list[Path]:
        """The files of the checkpoints, oldest first."""
        return sorted((self.folder / "checkpoints").glob("epoch-*.safetensors"))

    @property
    def best_checkpoint(self) -> Path | None:
        """The file of the checkpoint with the largest score, or None where none has a score."""
        scores = {p: score for p in self.checkpoints if (score := _score(p)) is not None}
        return max(scores, key=lambda path: scores[path], default=None)

    def load_params(self, template: Any) -> Any:
        """Return the parameters that the run ended with.

        Args:
            template: parameters, or their shapes, of the network: `nnjax.init(net, key)`.

        Raises:
            FileNotFoundError: if the run has saved none yet.
            ValueError: if they are damaged or of another network.
        """
        path = self.folder / "params.safetensors"
        if not path.is_file():
            hint = f"; nnjax train --resume {self.folder} goes on with it" * bool(self.checkpoints)
            raise FileNotFoundError(f"{self.folder}: this run has saved no parameters yet{hint}")
        return checkpoint.load(path, template)

    # ------------------------------------------------------------ writing, under the lock

    def save_config(self, config: Mapping[str, Any]) -> None:
        """Write down what the run is asked for from now on, in the place of what `create` wrote."""
        if json.loads(_json(config)) != self.config:
            _write_config(self.folder, config)

    def log(self, record: Mapping[str, Any]) -> None:
        """Add a record to the history: names with numbers or arrays of them.

        What is not finite is written as null, and read as NaN.
        """
        try:
            with open(self.folder / "history.jsonl", "ab") as file:
                file.write(_json(record) + b"\n")
        except OSError as error:
            raise OSError(
                error.errno, f"cannot write to {self.folder / 'history.jsonl'}: {error.strerror}"
            ) from None

    def save_params(self, params: Any) -> None:
        """Write the parameters of the network to `params.safetensors`."""
        checkpoint.save(self.folder / "params.safetensors", params)

    def save_checkpoint(
        self, tree: Any, epoch: int, *, score: float | None = None, keep: int = 3
    ) -> None:
        """Write a checkpoint; of the older ones keep the last few, and the best.

        Args:
            tree: all that is needed to go on, a pytree of arrays.
            epoch: how many epochs lie behind it.
            score: how good it is, the largest is the best, of equals the first; None or NaN: no
                candidate.
            keep: how many of the last are kept, at least 1.

        Raises:
            ValueError: if keep is no positive integer.
            OSError: if it cannot be written; the one before is still there.
        """
        require_size(keep, "keep")
        (self.folder / "checkpoints").mkdir(exist_ok=True)
        info = _plain({"epoch": epoch, "records": len(self._lines()), "score": score})
        path = self.folder / "checkpoints" / f"epoch-{epoch:06d}.safetensors"
        checkpoint.save(path, tree, info)
        best = self.best_checkpoint
        for path in self.checkpoints[:-keep]:
            if path != best:
                path.unlink()

    def restore(self, template: Any) -> Any:
        """Return what the last checkpoint holds, and cut the history back to that moment.

        Args:
            template: a pytree of the structure, shapes and dtypes that `save_checkpoint` was given.

        Raises:
            FileNotFoundError: if there is no checkpoint.
            ValueError: if it is damaged or of another network.
        """
        if not self.checkpoints:
            raise FileNotFoundError(
                f"{self.folder} has no checkpoint to resume from; train with --save-every"
            )
        path = self.checkpoints[-1]
        try:
            tree = checkpoint.load(path, template)
        except ValueError as error:
            hint = "; without that file the one before it is used"
            raise ValueError(f"{error}{hint if len(self.checkpoints) > 1 else ''}") from None
        lines = self._lines()[: checkpoint.read_info(path)["records"]]
        write_atomically(self.folder / "history.jsonl", b"".join(lines))
        return tree

    def _lines(self) -> list[bytes]:
        path = self.folder / "history.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        return [line for line in lines if line.endswith(b"\n")]


def _require_empty(folder: Path) -> None:
    ours = (".lock", ".config.json.")
    if any(not file.name.startswith(ours) for file in folder.iterdir()):
        raise FileExistsError(
            f"{folder} is not empty; resume the run that lies there, or name another folder"
        )


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    content = {"format": "nnjax run", "version": _VERSION, "config": dict(config)}
    write_atomically(folder / "config.json", _json(content, indent=2))


def _score(path: Path) -> float | None:
    """The score of a checkpoint; None where it has none, or is damaged and so no candidate."""
    try:
        score = checkpoint.read_info(path).get("score")
    except ValueError:
        return None
    return score if isinstance(score, int | float) else None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        import filelock
    except ImportError:
        raise ImportError('runs take filelock: pip install "nnjax[cli]"') from None
    try:
        with filelock.FileLock(folder / ".lock", timeout=0):
            yield
    except filelock.Timeout:
        raise BlockingIOError(
            f"{folder} is in use: another process trains in it; wait for it, or name another folder"
        ) from None


def _json(value: Any, indent: int | None = None) -> bytes:
    return json.dumps(_plain(value), indent=indent, allow_nan=False).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return math.nan if value is None else value
