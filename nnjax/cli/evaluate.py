"""`nnjax evaluate`: measure a trained network, class by class where there are classes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from nnjax.cli.console import busy, show
from nnjax.cli.loaded import LoadedRun, load_run
from nnjax.data.tables import column_names
from nnjax.tasks import METRICS, Multilabel, Regression

__all__ = ["Evaluate"]


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained network class by class: precision, recall, confusion matrix; label by label
    where there are several at once; a regression by RMSE, MAE and R²."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Folder of a run, as saved by nnjax train."""
    best: bool = False
    """Use the best checkpoint by the run's --measure (see --save-every of nnjax train), not the
    parameters at the end of the run."""
    data: str | None = None
    """A data set, by name or path (default: the one that the run was trained on). A table has the
    features of the run in any order, and its target: the one column that is left over, whatever it
    is called; of several it is found as nnjax train finds it, and the others are ignored."""
    data_dir: Path | None = None
    """Folder with the files of mnist or fashion-mnist."""
    part: Literal["train", "validation", "test"] = "test"
    """Part of the data set."""
    json: bool = False
    """Print the result as JSON."""

    def __call__(self) -> None:
        loaded = load_run(self.run)
        params = loaded.best_params if self.best else loaded.params
        if self.data is not None:
            target = ()
            if self.data.endswith((".csv", ".tsv")):
                columns = loaded.config.task in ("regression", "multilabel")  # and no classes
                target = loaded.config.target or (loaded.classes if columns else ())
                if not target:
                    others = set(column_names(self.data)) - set(loaded.features)
                    target = tuple(others) if len(others) == 1 else ()
            config = replace(
                loaded.config, data=self.data, data_dir=None, train_size=None, target=target
            )
            loaded = replace(loaded, config=config)
        with busy("evaluating"):
            text, figures = _measured(loaded, params, *loaded.part(self.part, self.data_dir))
        show(json.dumps(figures) if self.json else text)


def _measured(loaded: LoadedRun, params: Any, x: Any, y: Any) -> tuple[str, dict[str, Any]]:
    """Return what was measured as text, and for JSON."""
    from nnjax.evaluation import evaluate, evaluate_classes, evaluate_labels

    if isinstance(loaded.task, Regression):
        result = evaluate(loaded.net, params, x, y, loaded.task)
        figures = {name: float(value) for name, value in result._asdict().items()}
        texts = [METRICS[name].text(figures[name]) for name in ("rmse", "mae", "r2", "loss")]
        return f"{', '.join(texts)} ({len(x)} examples)", {"examples": len(x), **figures}
    if isinstance(loaded.task, Multilabel):
        result = evaluate_labels(loaded.net, params, x, y)._replace(labels=loaded.classes)
    else:
        result = evaluate_classes(loaded.net, params, x, y)._replace(classes=loaded.classes)
    return str(result), result.to_json()
