"""`nnjax runs`: list the runs in a folder and compare them."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from nnjax.cli.console import show
from nnjax.cli.loaded import LoadedRun, load_run
from nnjax.tasks import METRICS

__all__ = ["Runs"]


@dataclass(frozen=True)
class Runs:
    """List the runs in a folder: what they reached, their time, and the settings that differ."""

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FOLDER")]] = Path("runs")
    """Folder that holds the folders of the runs."""
    json: bool = False
    """Print the list as JSON."""

    def __call__(self) -> None:
        folders = sorted(path.parent for path in self.folder.glob("*/config.json"))
        if not folders:
            what = "holds no runs" if self.folder.is_dir() else "is not a folder"
            raise ValueError(
                f"{self.folder} {what}; give the folder that holds the folders of your runs (. is "
                "the current one)"
            )
        loaded, damaged = {}, {}
        for folder in folders:
            try:
                run = load_run(folder)
                loaded[folder.name] = run, _figures(run)
            except ValueError as error:
                damaged[folder.name] = str(error)
        settings = {name: _flat(run.run.config["train"]) for name, (run, _) in loaded.items()}
        differ = [
            key
            for key in dict.fromkeys(key for fields in settings.values() for key in fields)
            if key not in _SHOWN and not _same(settings, key)
        ]
        measured = dict.fromkeys(key for _, figures in loaded.values() for key in figures)
        rows = [
            {"run": name} | measured | figures | {key: settings[name].get(key) for key in differ}
            for name, (_, figures) in loaded.items()
        ]
        if self.json:
            show(json.dumps(rows + [{"run": k, "error": v} for k, v in damaged.items()]))
            return
        if rows:
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
            show(_table(rows, 1 + len(measured), width))
        for sentence in damaged.values():
            show(sentence)


_SHOWN = ("epochs", "save_every", "data_dir")  # in a column of their own, or of no consequence


_METRICS = {f"val {metric.label}": metric for metric in METRICS.values()}


def _same(settings: dict[str, dict[str, Any]], key: str) -> bool:
    return len({json.dumps(fields.get(key), sort_keys=True) for fields in settings.values()}) == 1


def _figures(run: LoadedRun) -> dict[str, Any]:
    """What a run has reached: None for what it has not measured."""
    history, metric = run.history, METRICS[run.task.main]
    values = history.get(f"validation_{metric.name}")
    best = None
    if values is not None and not np.isnan(values).all():
        best = int(np.nanargmin(values) if metric.better == "smaller" else np.nanargmax(values))
    return {
        "epochs": len(history.get("epoch", ())),
        f"val {metric.label}": None if values is None or best is None else float(values[best]),
        "best epoch": None if best is None else best + 1,
        "seconds": round(float(np.sum(history.get("seconds", 0.0))), 1),
    }


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with those of a group, such as distort, each by itself."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {}
        flat |= {} if isinstance(value, dict) else {name: value}
    return flat


def _table(rows: list[dict[str, Any]], results: int, width: int) -> str:
    """One line per run; where that is too wide, what comes after its results stands below it."""
    lines = _aligned([list(rows[0]), *([_cell(*item) for item in row.items()] for row in rows)])
    if max(map(len, lines)) <= width:
        return "\n".join(lines)
    names = list(rows[0])[:results]
    lines = _aligned([names, *([_cell(name, row[name]) for name in names] for row in rows)])
    text = lines[:1]
    for line, row in zip(lines[1:], rows, strict=True):
        settings = [
            f"{name} {_cell(name, value)}"
            for name, value in list(row.items())[results:]
            if value not in (None, [])
        ]
        text.append(line)
        indent = " " * 4
        text += textwrap.wrap(
            ", ".join(settings),
            width,
            initial_indent=indent,
            subsequent_indent=indent,
            break_on_hyphens=False,
        )
    return "\n".join(text)


def _aligned(cells: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name in _METRICS:
        return f"{100 * value:.2f} %" if _METRICS[name].unit == "%" else f"{value:#.4g}"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
