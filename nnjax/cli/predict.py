"""`nnjax predict`: what a trained network says of pictures, or of the lines of a table."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import jax.numpy as jnp
import numpy as np
import tyro

from nnjax.cli.console import busy, complain, show
from nnjax.cli.loaded import LoadedRun, load_run
from nnjax.data.tables import read_rows, unstandardized
from nnjax.network import feedforward
from nnjax.tasks import Multilabel, Regression

__all__ = ["Predict"]

_Inputs: TypeAlias = list[tuple[str, Any]]


@dataclass(frozen=True)
class Predict:
    """Classify pictures or the lines of CSV files, and print the network's output for the two most
    likely classes in percent; of several labels those that it finds, of a regression the numbers.

    Pictures may be of any size, dark on light or light on dark; they are brought to the form of the
    images that the network was trained on. With log_likelihood the outputs are probabilities;
    sigmoid outputs need not add up to 100 %. CSV files have the columns of the features, in any
    order; other columns are ignored.
    """

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Folder of a run, as saved by nnjax train."""
    files: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE...")]]
    """Picture files; CSV files where the network was trained on a table."""
    json: bool = False
    """Print all outputs as JSON, with an error in place of a bad file."""

    def __call__(self) -> int:
        if not self.files:
            raise ValueError("no picture to classify: give at least one file after the run")
        loaded = load_run(self.run)
        kind, read = ("row", _rows) if loaded.features else ("image", _picture_reader(loaded))
        params, inputs, refused = loaded.params, [], {}
        for path in self.files:  # one bad file does not hide the results of the others
            try:
                inputs += read(loaded, path)
            except (OSError, ValueError) as error:
                refused[str(path)] = str(error)
                inputs.append((str(path), None))
        outputs = iter(())
        if rows := [x for _, x in inputs if x is not None]:
            with busy("classifying"):
                batch = jnp.asarray(np.stack(rows))
                outputs = iter(np.asarray(feedforward(loaded.net, params, batch)))
        entries = []
        for name, x in inputs:
            if x is None:
                entry = {"error": refused[name]}
            elif np.isfinite(row := next(outputs)).all():
                entry = _entry(loaded, row)
            else:
                refused[name] = (
                    f"{name}: the outputs of the network are not finite; look for values that are "
                    "far from those of the training data"
                )
                entry = {"error": refused[name]}
            entries.append({kind: name, **entry})
        if self.json:
            show(json.dumps(entries))
        else:
            for entry in entries:
                if "error" not in entry:
                    show(f"{entry[kind]}: {_words(loaded, entry)}")
        for sentence in refused.values():
            complain(sentence)
        return 2 if refused else 0


def _rows(loaded: LoadedRun, path: Path) -> _Inputs:
    """Return the lines of a CSV file, by their numbers."""
    if path.suffix not in (".csv", ".tsv"):
        raise ValueError(f"{path}: expected a .csv or .tsv file, as the run was trained on a table")
    x, lines = read_rows(path, loaded.features)
    rows = zip(lines, loaded.standardized(x), strict=True)
    return [(f"{path}:{line}", row) for line, row in rows]


def _picture_reader(loaded: LoadedRun) -> Callable[[LoadedRun, Path], _Inputs]:
    """Return the function that reads pictures as the run has read its own, or raise ValueError."""
    if loaded.pictures:
        return _picture
    if len(loaded.input_shape) != 3 or loaded.input_shape[2] != 1:
        raise ValueError(
            f"{loaded.run.folder}: was trained on examples of shape {loaded.input_shape}; expected "
            "grey pictures (height, width, 1)"
        )
    if loaded.images is None:
        raise ValueError(
            f"{loaded.run.folder}: has no record of the form of its training images; train it again"
        )
    return _digit


def _picture(loaded: LoadedRun, path: Path) -> _Inputs:
    from nnjax.data.pictures import read_picture

    return [(str(path), loaded.standardized(read_picture(path, loaded.input_shape)))]


def _digit(loaded: LoadedRun, path: Path) -> _Inputs:
    from nnjax.data.images import prepare

    height, width, _ = loaded.input_shape
    assert loaded.images is not None  # `_picture_reader` has looked
    return [(str(path), loaded.images.converted(prepare(path, (height, width))))]


def _entry(loaded: LoadedRun, row: np.ndarray) -> dict[str, Any]:
    """Return what the outputs for one example say, for JSON."""
    if isinstance(loaded.task, Regression):
        row = unstandardized(row, loaded.target_standardization)
    elif loaded.config.task == "binary":
        row = np.array([1 - row[0], row[0]])
    names = loaded.classes or tuple(map(str, range(len(row))))
    outputs = dict(zip(names, row.tolist(), strict=True))
    if isinstance(loaded.task, Regression):
        return {"outputs": outputs}
    if isinstance(loaded.task, Multilabel):
        return {"labels": [name for name, a in outputs.items() if a > 0.5], "outputs": outputs}
    return {"class": names[int(row.argmax())], "outputs": outputs}


def _words(loaded: LoadedRun, entry: dict[str, Any]) -> str:
    """Return the same for people."""
    outputs: dict[str, float] = entry["outputs"]
    if isinstance(loaded.task, Regression):
        return ", ".join(
            f"{name} {value:.5g}" if loaded.classes else f"{value:.5g}"
            for name, value in outputs.items()
        )
    if isinstance(loaded.task, Multilabel):
        return ", ".join(f"{k} ({100 * outputs[k]:.1f} %)" for k in entry["labels"]) or "no label"
    best = sorted(outputs, key=lambda name: -outputs[name])[:2]
    return ", then ".join(f"{name} ({100 * outputs[name]:.1f} %)" for name in best)
