"""What is done with saved runs: `nnjax predict`, `nnjax evaluate`, `nnjax plot`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import tyro

from nnjax.config import TrainConfig
from nnjax.network import Network, Params, feedforward, init
from nnjax.training.run import Run

__all__ = ["Evaluate", "Predict", "open_run"]


def open_run(folder: Path) -> tuple[Run, TrainConfig, Network, tuple[int, ...]]:
    """Return a run, what it was asked for, its network and the shape of one example.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: if its configuration is damaged or of a newer version.
    """
    run = Run(folder)
    try:
        config = TrainConfig.from_json(run.config["train"])
        shape, n_out = tuple(run.config["input_shape"]), run.config["n_out"]
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"{folder / 'config.json'}: damaged, or not of a training run") from None
    return run, config, config.network(shape, n_out), shape


def _params(run: Run, net: Network) -> Params:
    return run.load_params(jax.eval_shape(lambda key: init(net, key), jax.random.key(0)))


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

        from nnjax.images import prepare

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
        asked = {"data": self.data or config.data, "data_dir": self.data_dir or config.data_dir}
        part = getattr(replace(config, **asked).dataset(), self.part)
        if part is None:
            raise ValueError(f"{asked['data']} has no {self.part} data; ask for another --part")
        print(evaluate_classes(net, _params(run, net), *map(jnp.asarray, part)))
