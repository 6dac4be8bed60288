"""`nnjax evaluate`: measure a trained network class by class."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nnjax.cli.console import busy, show
from nnjax.cli.loaded import load_run

__all__ = ["Evaluate"]


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained network class by class: precision, recall, confusion matrix."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Folder of a run, as saved by nnjax train."""
    best: bool = False
    """Use the best checkpoint by the run's --measure (see --save-every of nnjax train), not the
    parameters at the end of the run."""
    data: str | None = None
    """A data set, by name or path (default: the one that the run was trained on)."""
    data_dir: Path | None = None
    """Folder with the files of mnist or fashion-mnist."""
    part: Literal["train", "validation", "test"] = "test"
    """Part of the data set."""
    json: bool = False
    """Print the result as JSON."""

    def __call__(self) -> None:
        from nnjax.evaluation import evaluate_classes

        loaded = load_run(self.run)
        params = loaded.best_params if self.best else loaded.params
        if self.data is not None:
            target = loaded.config.target if self.data.endswith((".csv", ".tsv")) else None
            config = replace(
                loaded.config, data=self.data, data_dir=None, train_size=None, target=target
            )
            loaded = replace(loaded, config=config)
        with busy("evaluating"):
            result = evaluate_classes(loaded.net, params, *loaded.part(self.part, self.data_dir))
        result = result._replace(classes=loaded.classes)
        show(json.dumps(result.to_json()) if self.json else str(result))
