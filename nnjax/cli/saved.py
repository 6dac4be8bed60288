"""What is done with saved runs: `nnjax predict`, `nnjax evaluate`, `nnjax plot`."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import tyro

from nnjax.activations import Elementwise, Identity
from nnjax.cli.config import TrainConfig
from nnjax.files import write_atomically
from nnjax.layers import Affine
from nnjax.layers.base import Shape
from nnjax.network import Network, Params, feedforward, init
from nnjax.training import history
from nnjax.training.run import Run

__all__ = ["Evaluate", "Plot", "Predict", "open_run"]


def open_run(folder: Path) -> tuple[Run, TrainConfig, Network, Shape]:
    """Return a run, what it was asked for, its network and the shape of one example.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: if its configuration is damaged or of a newer version.
    """
    run = Run(folder)
    try:
        config = TrainConfig.from_json(run.config["train"])
        shape, n_out = tuple(run.config["input_shape"]), run.config["n_out"]
        net = config.network(shape, n_out)
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"{folder / 'config.json'}: damaged, or not of a training run") from None
    return run, config, net, shape


def _part(config: TrainConfig, name: str, data_dir: Path | None) -> tuple[jax.Array, jax.Array]:
    """One part of the data that a run was trained on, on the device."""
    part = getattr(replace(config, data_dir=data_dir or config.data_dir).dataset(), name)
    if part is None:
        raise ValueError(f"{config.data} has no {name} data; ask for another --part")
    x, y = part
    return jnp.asarray(x), jnp.asarray(y)


def _params(run: Run, net: Network) -> Params:
    return run.load_params(jax.eval_shape(lambda key: init(net, key), jax.random.key(0)))


def _stems(folders: list[str]) -> dict[str, str]:
    """What tells folders apart: the last parts of their paths, as many as it takes."""
    parts = {folder: Path(folder).resolve().parts for folder in folders}
    stems: dict[str, str] = {}
    for k in range(1, 1 + max(map(len, parts.values()))):
        stems = {folder: "-".join(part[-k:]) for folder, part in parts.items()}
        if len({*stems.values()}) == len({*parts.values()}):
            break
    return stems


@dataclass(frozen=True)
class Predict:
    """Say which class each picture is of, with the network's output for it in percent.

    Pictures may be of any size, dark on light or light on dark. After log_likelihood the outputs
    are probabilities; sigmoid outputs need not add up to 100 %.
    """

    run: tyro.conf.Positional[Path]
    """Folder of a run, as nnjax train has saved it."""
    images: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="IMAGE...")]]
    """Picture files."""

    def __call__(self) -> None:
        import numpy as np

        from nnjax.data.images import prepare

        if not self.images:
            raise ValueError("no picture to classify: name at least one file after the run")
        run, _, net, shape = open_run(self.run)
        if len(shape) != 3 or shape[2] != 1:
            raise ValueError(
                f"{self.run}: was trained on examples of shape {shape}; expected grey pictures "
                "(height, width, 1)"
            )
        params = _params(run, net)
        x = np.stack([prepare(path, shape[:2]) for path in self.images])
        outputs = np.asarray(feedforward(net, params, jnp.asarray(x)))
        for path, row in zip(self.images, outputs, strict=True):
            best = [f"{k} ({100 * row[k]:.1f} %)" for k in np.argsort(row)[:-3:-1]]
            print(f"{path}: {', else '.join(best)}")


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained network class by class: precision, recall, confusion matrix."""

    run: tyro.conf.Positional[Path]
    """Folder of a run, as nnjax train has saved it."""
    data: str | None = None
    """A data set, by name or path; otherwise the one that the run was trained on."""
    data_dir: Path | None = None
    """Where the files of mnist or fashion-mnist are."""
    part: Literal["train", "validation", "test"] = "test"
    """Which part of the data set."""

    def __call__(self) -> None:
        from nnjax.evaluation import evaluate_classes

        run, config, net, _ = open_run(self.run)
        if self.data is not None:
            config = replace(config, data=self.data, data_dir=None)
        x, y = _part(config, self.part, self.data_dir)
        print(evaluate_classes(net, _params(run, net), x, y))


@dataclass(frozen=True)
class Plot:
    """Draw runs: learning curves, norms by layer, weights, confusion matrix, misread pictures.

    The learning curves of several runs are drawn over each other, all else run by run.
    """

    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN...")]]
    """Folders of runs, as nnjax train has saved them."""
    out: Path = Path("plots")
    """Folder for the pictures."""
    format: Literal["png", "svg"] = "png"
    """Format of the pictures."""
    data_dir: Path | None = None
    """Where the files of mnist or fashion-mnist are."""
    part: Literal["train", "validation", "test"] = "test"
    """Which part of the data set is read for the confusion matrix and the misread pictures."""

    def __call__(self) -> None:
        from nnjax import plots

        if not self.runs:
            raise ValueError("no run to draw: name at least one folder")
        opened = {str(folder): open_run(folder) for folder in self.runs}
        histories = {name: history(run.history) for name, (run, *_) in opened.items()}
        alone = len(opened) == 1
        settings = {config.title for _, config, *_ in opened.values()}
        title = settings.pop() if len(settings) == 1 else ""
        self._save("curves", plots.curves(histories, title))
        stems = _stems(list(opened))
        for name, (run, config, net, shape) in opened.items():
            stem = "" if alone else f"{stems[name]}-"
            figures = {
                monitor: plots.layer_curves(histories[name], monitor, config.title)
                for monitor in config.monitors
            }
            figures |= self._network(config, net, _params(run, net), shape)
            for kind, figure in figures.items():
                self._save(stem + kind, figure)

    def _network(self, config: TrainConfig, net: Network, params: Params, shape: Shape):
        """The figures of one network: what it has learnt, and what it reads."""
        from nnjax import plots
        from nnjax.evaluation import evaluate_classes

        figures = {}
        first = next(entry for entry in params if isinstance(entry, Affine))
        seen = first.w.shape[1:] if first.w.ndim > 2 else shape  # a filter, or the whole input
        if len(seen) == 3 and first.w[0].size == math.prod(seen):
            figures["weights"] = plots.first_layer(first.w, seen, config.title)
        functions = dict.fromkeys(layer.activation for layer in net.layers)
        shown = [f for f in functions if isinstance(f, Elementwise) and not isinstance(f, Identity)]
        if shown:
            figures["activations"] = plots.activation_functions(shown)
        x, y = _part(config, self.part, self.data_dir)
        result = evaluate_classes(net, params, x, y)
        figures["confusion"] = plots.confusion(result.confusion, config.title)
        if result.accuracy < 1 and x.ndim == 4:
            figures["misread"] = plots.misread(x, y, result.predictions, config.title)
        return figures

    def _save(self, name: str, figure: Any) -> None:
        content = io.BytesIO()
        figure.savefig(content, format=self.format)
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / f"{name}.{self.format}"
        write_atomically(path, content.getvalue())
        print(path)
