"""`nnjax plot`: draw learning curves, weights and misclassified images of runs."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro

from nnjax.activations import Elementwise, Identity
from nnjax.cli.console import busy, show
from nnjax.cli.loaded import LoadedRun, load_run
from nnjax.data.tables import unstandardized
from nnjax.files import write_atomically
from nnjax.layers import Affine
from nnjax.network import Network, Params, forward, in_pieces
from nnjax.tasks import Multilabel, Regression
from nnjax.training import History

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
    overwrite: bool = False
    """Replace figures of the same name that are there already."""
    data_dir: Path | None = None
    """Folder with the files of mnist or fashion-mnist."""
    part: Literal["train", "validation", "test"] = "test"
    """Part of the data set for the confusion matrix and the misclassified images."""

    def __call__(self) -> None:

        if not self.runs:
            raise ValueError("no run to plot: give at least one folder")
        opened = {str(folder): load_run(folder) for folder in self.runs}
        names = _stems(list(opened))
        histories = {names[folder]: loaded.history for folder, loaded in opened.items()}
        with busy("drawing"):
            figures = {_curves_name(list(histories)): self._curves(opened, histories)}
            for folder, loaded in opened.items():
                drawn = self._monitors(loaded, histories[names[folder]]) | self._network(loaded)
                figures |= {f"{names[folder]}-{kind}": figure for kind, figure in drawn.items()}
        self._save({self.out / f"{name}.{self.format}": each for name, each in figures.items()})

    def _curves(self, opened: Mapping[str, LoadedRun], histories: Mapping[str, Any]) -> Any:
        from nnjax import plots

        configs = [loaded.config for loaded in opened.values()]
        losses = [config.loss.replace("_", "-") for config in configs]
        settings = {config.title for config in configs}
        title = _titled("Learning curves", settings.pop() if len(settings) == 1 else "")
        return plots.curves(histories, title, dict(zip(histories, losses, strict=True)))

    def _monitors(self, loaded: LoadedRun, history: History) -> dict[str, Any]:
        """A figure for each monitor: its values in every layer."""
        from nnjax import plots

        figures = {}
        for monitor in loaded.config.monitors:
            title = _titled(f"{_MONITORS.get(monitor, monitor)}, by layer", loaded.config.title)
            name = f"{monitor.replace('_', '-')}-by-layer"
            figures[name] = plots.layer_curves(history, monitor, title)
        return figures

    def _network(self, loaded: LoadedRun) -> dict[str, Any]:
        """The figures of one network: its weights and activations, and how it classifies."""
        from nnjax import plots
        from nnjax.evaluation import evaluate_classes, predict

        figures = {}
        net, params, setting = loaded.net, loaded.params, loaded.config.title
        first = next(entry for entry in params if isinstance(entry, Affine))
        seen = first.w.shape[1:] if first.w.ndim > 2 else loaded.input_shape  # a filter, or x
        if len(seen) == 3 and first.w[0].size == math.prod(seen):
            title = _titled("Weights of the first layer", setting)
            figures["first-layer-weights"] = plots.first_layer(first.w, seen, title)
        functions = dict.fromkeys(layer.activation for layer in net.layers)
        shown = [f for f in functions if isinstance(f, Elementwise) and not isinstance(f, Identity)]
        if shown:
            title = "Activation functions and their derivatives"
            figures["activation-functions"] = plots.activation_functions(shown, title=title)
        if isinstance(loaded.task, Multilabel):
            return figures
        x, y = loaded.part(self.part, self.data_dir)
        if isinstance(loaded.task, Regression):
            a = predict(net, params, x, loaded.task)
            y, a = (unstandardized(v, loaded.target_standardization) for v in (y, a))
            title = _titled(f"Estimates on the {self.part} data", setting)
            figures[f"estimates-{self.part}"] = plots.estimates(y, a, title, loaded.classes)
            return figures
        result = evaluate_classes(net, params, x, y)
        title = f"Confusion matrix on the {self.part} data: {100 * result.accuracy:.2f} % correct"
        figures[f"confusion-matrix-{self.part}"] = plots.confusion(
            result.confusion, _titled(title, setting), loaded.classes
        )
        if result.accuracy < 1 and x.ndim == 4:
            outputs = _outputs(net, params, x)
            figures[f"misclassified-{self.part}"] = plots.misread(
                x,
                y,
                result.predictions,
                _titled(f"{self.part.capitalize()} images", setting),
                classes=loaded.classes,
                outputs=outputs,
            )
        return figures

    def _save(self, figures: Mapping[Path, Any]) -> None:
        there = [path for path in figures if path.exists()]
        if there and not self.overwrite:
            others = f" and {len(there) - 1} other figures" if len(there) > 1 else ""
            raise FileExistsError(
                f"{there[0]}{others} exist already; replace them with --overwrite, or choose "
                "another folder with --out"
            )
        self.out.mkdir(parents=True, exist_ok=True)
        for path, figure in figures.items():
            content = io.BytesIO()
            figure.savefig(content, format=self.format)
            write_atomically(path, content.getvalue())
            show(str(path))


_MONITORS = {
    "error_norms": "Norms of the errors δ",
    "gradient_norms": "Norms of the gradient",
    "weight_norms": "Norms of the weights",
    "saturated": "Saturated neurons",
    "dead": "Dead neurons",
}


@partial(jax.jit, static_argnums=0)
def _outputs(net: Network, params: Params, x: jax.Array) -> jax.Array:
    return in_pieces(net, lambda x: forward(net, params, x, None).activations[-1], x)


def _titled(title: str, setting: str) -> str:
    return f"{title}\n{setting}".strip()


def _curves_name(names: Sequence[str]) -> str:
    return f"{'-'.join(names) if len(names) < 4 else f'{len(names)}-runs'}-learning-curves"


def _stems(folders: list[str]) -> dict[str, str]:
    """Short names for folders: the last parts of their paths, as many as tell them apart."""
    parts = {folder: Path(folder).resolve().parts for folder in folders}
    stems: dict[str, str] = {}
    for k in range(1, 1 + max(map(len, parts.values()))):
        stems = {folder: "-".join(part[-k:]) for folder, part in parts.items()}
        if len({*stems.values()}) == len({*parts.values()}):
            break
    return stems
