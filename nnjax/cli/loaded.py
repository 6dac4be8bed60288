"""A saved run, opened: what it was asked for, its network, its parameters and its history."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.cli.config import TrainConfig
from nnjax.data.dataset import Dataset
from nnjax.data.image_format import ImageFormat
from nnjax.data.tables import standardized, unstandardized
from nnjax.display import heading
from nnjax.evaluation import predict
from nnjax.layers.base import Shape
from nnjax.network import Network, Params, init
from nnjax.tasks import Task
from nnjax.training import History, history
from nnjax.training.checkpoint import digest
from nnjax.training.run import Run, plain_json

__all__ = ["LoadedRun", "description", "load_run", "settings"]


@dataclass(frozen=True)
class LoadedRun:
    """A saved run, as `load_run` returns it.

    Attributes:
        run: its folder, for everything else that lies there.
        config: what it was asked for.
        net: its network.
        input_shape: of one example of its data, such as (28, 28, 1).
        classes: the names of the classes, or of the columns of the targets; empty where there are
            none.
        standardization: mean and deviation that its inputs were standardised by, or None.
        target_standardization: mean and deviation that its targets were standardised by, or None:
            an output a stands for mean + deviation · a.
        features: the names of the columns of its inputs; empty where there are none.
        pictures: whether it was trained on a folder of pictures by class.
        images: the form of its training images; None if it was not trained on images.
    """

    run: Run
    config: TrainConfig
    net: Network
    input_shape: Shape
    classes: tuple[str, ...]
    standardization: tuple[Any, Any] | None
    target_standardization: tuple[Any, Any] | None
    features: tuple[str, ...]
    pictures: bool
    images: ImageFormat | None

    def _repr_html_(self) -> str:
        """Return for a notebook the setting, the network, and what was measured."""
        title = heading(f"{self.run.folder}: {self.config.title}")
        return title + self.net._repr_html_() + self.history._repr_html_()

    @property
    def params(self) -> Params:
        """The parameters that the run ended with.

        Raises:
            FileNotFoundError: if the run has not saved any yet.
            ValueError: if they are damaged or belong to another network.
        """
        return self.run.load_params(self._template)

    @property
    def best_params(self) -> Params:
        """The parameters in the best checkpoint by the run's `measure` (`config.measure`).

        Raises:
            FileNotFoundError: if that was measured at no checkpoint.
            ValueError: if the checkpoint is damaged or belongs to another network.
        """
        return self.run.load_best_params(self._template, self.config.measure)

    @property
    def history(self) -> History:
        """What was measured, as `nnjax.train` returns it: arrays by name, one value per epoch.

        Raises:
            ValueError: if the file is damaged.
        """
        return history(self.run.history)

    def part(self, name: str, data_dir: Path | None = None) -> tuple[jax.Array, jax.Array]:
        """Return one part of the data set of the run, on the device.

        The columns of a table are found by their names.

        Args:
            name: train, validation or test.
            data_dir: where the files of mnist or fashion-mnist are, if not where they were.

        Raises:
            ValueError: if the data set has no such part, or not the features of the run.
        """
        config = replace(self.config, data_dir=data_dir or self.config.data_dir)
        if name == "train" and config.source() is not None:
            raise ValueError(
                f"the training data in {config.data} are read a window at a time; choose another "
                "--part"
            )
        data = config.dataset(standardized=False)
        if data.classes != self.classes:
            raise ValueError(
                f"{config.data} has the classes {', '.join(data.classes) or 'without names'}; the "
                f"run was trained on {', '.join(self.classes) or 'classes without names'}"
            )
        part = getattr(data, name)
        if part is None:
            raise ValueError(f"{config.data} has no {name} data; choose another --part")
        scales = self.standardization, self.target_standardization  # of the run, whatever data
        pair = self._by_name(part[0], data.features), part[1]
        x, y = (standardized(*pair) for pair in zip(pair, scales, strict=True))
        return jnp.asarray(x), jnp.asarray(y)

    def _by_name(self, x: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
        """Return the columns that the run was trained on, in its order; others are left out."""
        if names == self.features or not (names and self.features):
            return x
        if missing := [name for name in self.features if name not in names]:
            raise ValueError(
                f"{self.config.data} has no feature {', '.join(map(repr, missing))} among "
                f"{', '.join(names)}; expected the features of the run, {', '.join(self.features)}"
            )
        columns = [names.index(name) for name in self.features]
        return x.reshape(len(x), -1)[:, columns].reshape(len(x), *self.input_shape)

    @property
    def task(self) -> Task:
        """What its network is for, with the metrics, as `nnjax.evaluate` takes it."""
        return self.config.metrics(self.target_standardization)

    def predict(self, x: Any) -> np.ndarray:
        """Return what the run says of inputs that have not been standardised.

        Args:
            x: (n, *input_shape) inputs as they were before the run standardised them.

        Returns:
            What `nnjax.predict` returns for the task of the run; of a regression numbers in the
            units of its targets.
        """
        found = np.asarray(predict(self.net, self.params, self.standardized(x), self.task))
        scale = self.target_standardization
        return found if scale is None else unstandardized(found, scale)

    def standardized(self, x: Any) -> np.ndarray:
        """Return inputs as the network takes them: standardised as those it was trained on."""
        return standardized(np.asarray(x), self.standardization)

    @property
    def _template(self) -> Params:
        return jax.eval_shape(lambda key: init(self.net, key), jax.random.key(0))


def description(config: TrainConfig, data: Dataset) -> dict[str, Any]:
    """Return what a run folder says of the network and its data: what `load_run` reads.

    Args:
        config: what the run is asked for, `TrainConfig.for_data(data)`.
        data: its data set.

    Example:
        >>> import nnjax
        >>> from nnjax.cli.config import TrainConfig
        >>> from nnjax.cli.loaded import description
        >>> data = nnjax.data.load("digits")
        >>> said = description(TrainConfig().for_data(data), data)
        >>> said["input_shape"], said["n_out"]
        ((8, 8, 1), 10)
    """
    x, _ = data.train
    return {
        "train": config.to_json(),
        "input_shape": x.shape[1:],
        "n_out": config.n_out(data),
        "data_sha256": digest(data),
        "classes": data.classes,
        "standardization": data.standardization,
        "target_standardization": data.target_standardization,
        "features": data.features,
        "pictures": data.pictures,
        "images": ImageFormat.of(x)._asdict() if x.ndim == 4 else None,
    }


def settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what may not change where a run continues, by name.

    Example:
        >>> import nnjax
        >>> from nnjax.cli.config import TrainConfig
        >>> from nnjax.cli.loaded import description, settings
        >>> data = nnjax.data.load("digits")
        >>> found = settings(description(TrainConfig().for_data(data), data))
        >>> found["rate"], "epochs" in found
        (None, False)
    """
    content = plain_json(content)
    target = content["train"].get("target") or []  # of an earlier version: None or one name
    content["train"]["target"] = [target] if isinstance(target, str) else target
    free = {"train", "tensorboard", "data_dir", "save_every"}
    if content["train"]["schedule"] == "constant":  # the others last as long as the run
        free.add("epochs")
    return {name: v for name, v in (content | content["train"]).items() if name not in free}


def load_run(folder: str | os.PathLike[str]) -> LoadedRun:
    """Return the run that `nnjax train` saved in a folder.

    Args:
        folder: of the run.

    Returns:
        A `LoadedRun` with `.net`, `.params`, `.history` and `.config`. The parameters and the
        history are read when they are asked for.

    Raises:
        FileNotFoundError: if the folder holds no run.
        ValueError: if its configuration is damaged or was written by a newer version.

    Example:
        >>> import contextlib, io, tempfile, nnjax
        >>> from nnjax.cli import main
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with contextlib.redirect_stdout(io.StringIO()):
        ...         _ = main(["train", "--hidden", "16", "--epochs", "2", "--out", f"{folder}/run"])
        ...     run = nnjax.load_run(f"{folder}/run")
        ...     run.net.shapes, run.params[0].w.shape, run.history["epoch"], run.config.epochs
        (((64,), (16,), (10,)), (16, 64), array([0, 1]), 2)
    """
    run = Run(Path(folder))
    path = run.folder / "config.json"
    content = run.config
    try:
        fields, shape, n_out = content["train"], tuple(content["input_shape"]), content["n_out"]
        config = TrainConfig.from_json(fields)
        net = config.network(shape, n_out)
        classes = tuple(map(str, content.get("classes", ())))
        if len(classes) not in (0, 2 if config.task == "binary" else n_out):
            raise ValueError(f"{len(classes)} names of classes for {n_out} outputs")
        scales = content.get("standardization"), content.get("target_standardization")
        features = tuple(map(str, content.get("features", ())))
        pictures = bool(content.get("pictures"))
        images = content.get("images") and ImageFormat(**content["images"]).checked()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"{path}: damaged, or not the configuration of a training run") from None
    return LoadedRun(run, config, net, shape, classes, *scales, features, pictures, images)
