"""`nnjax plot`: draw learning curves, weights and misclassified images of runs."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from nnjax.activations import Elementwise, Identity
from nnjax.cli.console import show
from nnjax.cli.loaded import LoadedRun, load_run
from nnjax.data.tables import unstandardized
from nnjax.files import write_atomically
from nnjax.layers import Affine
from nnjax.tasks import Multilabel, Regression

__all__ = ["Plot"]


@dataclass(frozen=True)
class Plot:
    """Plot runs: learning curves, monitors, weights, confusion matrix, misclassified images.

    The learning curves of several runs share one figure; everything else is plotted run by run.
    """

    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN...")]]
    """Folders of runs, as saved by nnjax train."""
    out: Path = Path("plots")
    """Folder for the figures."""
    format: Literal["png", "svg"] = "png"
    """Format of the figures."""
    data_dir: Path | None = None
    """Folder with the files of mnist or fashion-mnist."""
    part: Literal["train", "validation", "test"] = "test"
    """Part of the data set for the confusion matrix and the misclassified images."""

    def __call__(self) -> None:
        from nnjax import plots

        if not self.runs:
            raise ValueError("no run to plot: give at least one folder")
        opened = {str(folder): load_run(folder) for folder in self.runs}
        histories = {name: loaded.history for name, loaded in opened.items()}
        settings = {loaded.config.title for loaded in opened.values()}
        title = settings.pop() if len(settings) == 1 else ""
        self._save("curves", plots.curves(histories, title))
        stems = _stems(list(opened))
        for name, loaded in opened.items():
            stem = f"{stems[name]}-" if len(opened) > 1 else ""
            title = loaded.config.title
            for monitor in loaded.config.monitors:
                self._save(stem + monitor, plots.layer_curves(histories[name], monitor, title))
            for kind, figure in self._network(loaded).items():
                self._save(stem + kind, figure)

    def _network(self, loaded: LoadedRun) -> dict[str, Any]:
        """The figures of one network: its weights and activations, and how it classifies."""
        from nnjax import plots
        from nnjax.evaluation import evaluate_classes, predict

        figures = {}
        net, params, title = loaded.net, loaded.params, loaded.config.title
        first = next(entry for entry in params if isinstance(entry, Affine))
        seen = first.w.shape[1:] if first.w.ndim > 2 else loaded.input_shape  # a filter, or x
        if len(seen) == 3 and first.w[0].size == math.prod(seen):
            figures["weights"] = plots.first_layer(first.w, seen, title)
        functions = dict.fromkeys(layer.activation for layer in net.layers)
        shown = [f for f in functions if isinstance(f, Elementwise) and not isinstance(f, Identity)]
        if shown:
            figures["activations"] = plots.activation_functions(shown)
        if isinstance(loaded.task, Multilabel):
            return figures
        x, y = loaded.part(self.part, self.data_dir)
        if isinstance(loaded.task, Regression):
            a = predict(net, params, x, loaded.task)
            y, a = (unstandardized(v, loaded.target_standardization) for v in (y, a))
            figures["estimates"] = plots.estimates(y, a, title, loaded.classes)
            return figures
        result = evaluate_classes(net, params, x, y)
        figures["confusion"] = plots.confusion(result.confusion, title, loaded.classes)
        if result.accuracy < 1 and x.ndim == 4:
            figures["misclassified"] = plots.misread(
                x, y, result.predictions, title, classes=loaded.classes
            )
        return figures

    def _save(self, name: str, figure: Any) -> None:
        content = io.BytesIO()
        figure.savefig(content, format=self.format)
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / f"{name}.{self.format}"
        write_atomically(path, content.getvalue())
        show(str(path))


def _stems(folders: list[str]) -> dict[str, str]:
    """Short names for folders: the last parts of their paths, as many as tell them apart."""
    parts = {folder: Path(folder).resolve().parts for folder in folders}
    stems: dict[str, str] = {}
    for k in range(1, 1 + max(map(len, parts.values()))):
        stems = {folder: "-".join(part[-k:]) for folder, part in parts.items()}
        if len({*stems.values()}) == len({*parts.values()}):
            break
    return stems
