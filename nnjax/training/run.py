"""A run: the folder that one training leaves behind.

    config.json                             what was asked for
    history.jsonl                           one line per epoch, written during training
    params.safetensors                      the parameters at the end of the run
    checkpoints/epoch-000012.safetensors    everything needed to continue after 12 epochs

Training opens the folder with `Run.create` or `Run.resume` and holds its lock, which is released
with the process, however that ends. To read, `Run(folder)` is enough.

A checkpoint knows the settings of its run and the history up to it, so that `Run.restore` refuses
the checkpoint of another run, and a history that was cut or edited.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

from nnjax.checks import did_you_mean, install, require_size
from nnjax.files import write_atomically
from nnjax.training import checkpoint

__all__ = ["Run", "plain_json"]

_VERSION = 1


@dataclass(frozen=True)
class Run:
    """A run in a folder, to read from.

    Args:
        folder: of the run.

    Raises:
        FileNotFoundError: if the folder holds no run.
        ValueError: if it was written in a newer format, or its configuration was changed or
            damaged.

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
            folder: created if missing; otherwise it must be empty.
            config: what was asked for, of the kinds that JSON has.

        Raises:
            FileExistsError: if the folder is not empty.
            BlockingIOError: if another process trains in it.
            OSError: if it cannot be written.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(error.errno, f"cannot create {folder}: {error.strerror}") from None
        if not (folder / ".lock").is_file():
            _require_empty(folder)  # before a lock is left in a folder that is not ours
        with _locked(folder):
            _remove_temporary(folder)
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
        """Open a run to continue it and hold its lock: a context manager that gives the `Run`.

        Raises:
            FileNotFoundError, ValueError: if the folder holds no run, or a damaged one.
            BlockingIOError: if another process trains in it.
        """
        run = Run(Path(folder))
        with _locked(run.folder):
            _remove_temporary(run.folder)
            yield run

    # ------------------------------------------------------------ reading

    @property
    def config(self) -> dict[str, Any]:
        """What the run was asked to do, as given to `create`."""
        path = self.folder / "config.json"
        if not path.is_file():
            runs = [found.parent.name for found in self.folder.parent.glob("*/config.json")]
            raise FileNotFoundError(
                f"{self.folder} is not a run folder (config.json not found)"
                f"{did_you_mean(self.folder.name, runs)}"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version, config = content["version"], dict(content["config"])
            newer = version > _VERSION
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"{path}: damaged, or not written by nnjax") from None
        if newer:
            raise ValueError(
                f"{path}: has version {version} of the format, and this nnjax reads up to "
                f"{_VERSION}; update nnjax"
            )
        # Files of earlier versions have no digest.
        if "sha256" in content and content["sha256"] != _config_digest(content):
            raise ValueError(
                f"{path}: was changed after it was written: its digest differs; restore it, or "
                "start a new run"
            )
        return config

    @property
    def history(self) -> list[dict[str, Any]]:
        """The records, oldest first; a last line that is not complete yet is left out.

        Raises:
            ValueError: if a line is damaged, has other names or shapes than the first one, an
                epoch is missing, or the records up to the last checkpoint were changed.
        """
        last = self._last_intact()  # before the lines: of a run that goes on there are then enough
        lines = self._lines()
        records: list[dict[str, Any]] = []
        first: dict[str, Any] = {}
        for number, line in enumerate(lines, start=1):
            try:
                record = _with_nan(json.loads(line))
                shapes = {name: np.asarray(value, float).shape for name, value in record.items()}
            except (ValueError, TypeError, AttributeError, RecursionError):
                self._damaged(number, "not a record of numbers by name")
            first = shapes if number == 1 else first
            if shapes != first:
                self._damaged(number, "other names or shapes than in line 1")
            if record.get("epoch", number - 1) != number - 1:
                self._damaged(number, f"epoch {record['epoch']}; expected epoch {number - 1}")
            records.append(record)
        if last is not None:
            self._require_history(lines, *last)
        return records

    def _last_intact(self) -> tuple[Path, dict[str, Any]] | None:
        """Return the last checkpoint that is not damaged, and its info; None without any."""
        for path in reversed(self.checkpoints):
            try:
                return path, checkpoint.read_info(path, whole=True)
            except (ValueError, FileNotFoundError):  # damaged, or removed as a run went on
                continue
        return None

    def _require_history(
        self, lines: Sequence[bytes], path: Path, info: Mapping[str, Any]
    ) -> list[bytes]:
        """Return the lines up to a checkpoint; raise ValueError if it has seen others."""
        count = info.get("records", 0)
        seen = list(lines[:count])
        if info.get("history", _sha256(seen)) != _sha256(seen):
            raise ValueError(
                f"{self.folder / 'history.jsonl'}: the {count} records up to {path.name} are not "
                "there as they were written; restore the file, or start a new run"
            )
        return seen

    def _damaged(self, line: int, what: str) -> NoReturn:
        raise ValueError(f"{self.folder / 'history.jsonl'}: damaged: line {line}: {what}")

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
        """Return the parameters at the end of the run.

        Args:
            template: parameters, or their shapes, of the network: `nnjax.init(net, key)`.

        Raises:
            FileNotFoundError: if the run has not saved any yet.
            ValueError: if they are damaged or belong to another network.
        """
        path = self.folder / "params.safetensors"
        if not path.is_file():
            hint = f"; continue it with nnjax train --resume {self.folder}" * bool(self.checkpoints)
            raise FileNotFoundError(
                f"{self.folder}: this run has not saved its parameters yet{hint}"
            )
        return checkpoint.load(path, template)

    def load_best_params(self, template: Any, measure: str = "validation_accuracy") -> Any:
        """Return the parameters, `tree.params`, of the best checkpoint.

        Args:
            template: parameters, or their shapes, of the network: `nnjax.init(net, key)`.
            measure: what their scores are, for the error.

        Raises:
            FileNotFoundError: if no checkpoint has a score.
            ValueError: if the checkpoint is damaged or belongs to another network.
        """
        if self.best_checkpoint is None:
            raise FileNotFoundError(
                f"{self.folder} has no checkpoint with a {measure.replace('_', ' ')}; train with "
                "--save-every and evaluate on that part of the data"
            )
        return checkpoint.load(self.best_checkpoint, template, under="params")

    # ------------------------------------------------------------ writing, under the lock

    def save_config(self, config: Mapping[str, Any]) -> None:
        """Replace the configuration; nothing is written where it is the same."""
        _write_config(self.folder, config)

    def log(self, record: Mapping[str, Any]) -> None:
        """Add a record to the history: numbers, or arrays of numbers, by name.

        What is not finite is written as null, and read as NaN.

        Raises:
            OSError: if it cannot be written, or the history was deleted since the first epoch.
        """
        begun = record.get("epoch", 0) > 0
        try:
            with open(self.folder / "history.jsonl", "r+b" if begun else "ab") as file:
                file.seek(0, os.SEEK_END)
                file.write(_json(record) + b"\n")
        except OSError as error:
            raise OSError(
                error.errno, f"cannot write to {self.folder / 'history.jsonl'}: {error.strerror}"
            ) from None

    def save_history(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write the whole history at once, in place of what `log` has written."""
        lines = b"".join(_json(record) + b"\n" for record in records)
        write_atomically(self.folder / "history.jsonl", lines)

    def save_params(self, params: Any) -> None:
        """Write the parameters of the network to `params.safetensors`."""
        checkpoint.save(self.folder / "params.safetensors", params)

    def save_checkpoint(
        self,
        tree: Any,
        epoch: int,
        *,
        score: float | None = None,
        keep: int = 3,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a checkpoint; of the older ones keep the last few, and the best.

        Args:
            tree: everything needed to continue, a pytree of arrays.
            epoch: the number of epochs trained so far.
            score: the larger the better, of equal ones the first; None or NaN: never the best.
            keep: how many of the last checkpoints are kept, at least 1.
            settings: what the run is made of, by name, which `restore` compares.

        Raises:
            ValueError: if keep is not a positive integer.
            OSError: if it cannot be written; the one before is still there.
        """
        require_size(keep, "keep")
        (self.folder / "checkpoints").mkdir(exist_ok=True)
        self._sync_history()  # a checkpoint must never know more than the history on the disk
        lines = self._lines()
        info = {"epoch": epoch, "records": len(lines), "score": score, "history": _sha256(lines)}
        info["settings"] = settings or {}
        path = self.folder / "checkpoints" / f"epoch-{epoch:06d}.safetensors"
        checkpoint.save(path, tree, plain_json(info))
        best = self.best_checkpoint
        for path in self.checkpoints[:-keep]:
            if path != best:
                path.unlink()

    def restore(self, template: Any, settings: Mapping[str, Any] | None = None) -> Any:
        """Return what the last checkpoint holds, and cut the history back to that moment.

        Args:
            template: a pytree of the structure, shapes and dtypes that `save_checkpoint` was given.
            settings: what `save_checkpoint` was given.

        Raises:
            FileNotFoundError: if there is no checkpoint.
            ValueError: if it is damaged, of another network or of another run, or if the history
                is not the one that was written up to it.
        """
        if not self.checkpoints:
            raise FileNotFoundError(f"{self.folder} has no checkpoint to resume from")
        path = self.checkpoints[-1]
        try:
            tree = checkpoint.load(path, template)
        except ValueError as error:
            hint = "; delete that file to resume from the one before"
            raise ValueError(f"{error}{hint if len(self.checkpoints) > 1 else ''}") from None
        info = checkpoint.read_info(path)
        written = info.get("settings", {})
        for name, value in plain_json(settings or {}).items():
            if name in written and written[name] != value:
                raise ValueError(
                    f"{path}: was written with {name} {written[name]}, but config.json has "
                    f"{value}: it belongs to another run, or config.json was edited"
                )
        lines = self._require_history(self._lines(), path, info)
        write_atomically(self.folder / "history.jsonl", b"".join(lines))
        return tree

    def _lines(self) -> list[bytes]:
        path = self.folder / "history.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        return [line for line in lines if line.endswith(b"\n")]

    def _sync_history(self) -> None:
        path = self.folder / "history.jsonl"
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())


def _require_empty(folder: Path) -> None:
    ours = (".lock", ".config.json.")
    if any(not file.name.startswith(ours) for file in folder.iterdir()):
        raise FileExistsError(
            f"{folder} is not empty; resume that run with --resume {folder}, or choose another "
            "folder"
        )


def _remove_temporary(folder: Path) -> None:
    """Remove what a kill has left of the files of a run while they were written; nothing else."""
    for name in ("config.json", "history.jsonl", "params.safetensors"):
        for path in folder.glob(f".{name}.*.tmp"):
            path.unlink()
    for path in (folder / "checkpoints").glob(".epoch-*.safetensors.*.tmp"):
        path.unlink()


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    content = {"format": "nnjax run", "version": _VERSION, "config": dict(config)}
    content["sha256"] = _config_digest(content)
    path, text = folder / "config.json", _json(content, indent=2)
    if not path.is_file() or path.read_bytes() != text:
        write_atomically(path, text)


def _config_digest(content: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in plain_json(content).items() if name != "sha256"}
    return _sha256([json.dumps(rest, sort_keys=True).encode()])


def _score(path: Path) -> float | None:
    """The score of a checkpoint; None where it has none, or is damaged."""
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
        raise ImportError(f"runs require filelock: {install('cli')}") from None
    try:
        with filelock.FileLock(folder / ".lock", timeout=0):
            yield
    except filelock.Timeout:
        raise BlockingIOError(
            f"{folder} is in use: another process trains in it; wait, or choose another folder"
        ) from None


def _sha256(lines: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(lines)).hexdigest()


def plain_json(value: Any) -> Any:
    """Return a value as it comes back from JSON: lists for tuples, None for NaN and infinity.

    Example:
        >>> import math
        >>> from nnjax.training.run import plain_json
        >>> plain_json({"sizes": (2, 3), "loss": math.nan})
        {'sizes': [2, 3], 'loss': None}
    """
    return json.loads(_json(value))


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
