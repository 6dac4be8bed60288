"""What a training run was asked for: one frozen description, from which everything is rebuilt.

The command line makes a `TrainConfig` from its options, a run keeps it as JSON, and whoever opens
the run again (to predict, to evaluate, to continue) gets the same network from it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jax
import numpy as np

from nnjax import activations, architecture, feedback, initializers, losses, tasks
from nnjax.checks import did_you_mean, require_number, require_size
from nnjax.cli.options import (
    GROUPS,
    DataOptions,
    NetworkOptions,
    OptimizationOptions,
    OutputOptions,
    RegularizationOptions,
)
from nnjax.data import Dataset, load, standardize
from nnjax.data.sources import NAMES
from nnjax.data.stream import Folder, is_streamed
from nnjax.layers.base import Shape
from nnjax.network import Network, mlp
from nnjax.regularizers import L1, L2, MaxNorm, Regularizer
from nnjax.training import optimizers
from nnjax.training.arguments import Arguments
from nnjax.training.augmentation import Distortion, shifted
from nnjax.training.class_weights import ClassWeight
from nnjax.training.early_stopping import EarlyStopping

__all__ = ["TrainConfig", "n_classes"]

_NONE = Distortion()
_AT_ONCE = (
    *("target", "train_size", "standardize", "expand", "feedback", "precision", "patience"),
    *("lower_rate_to", "class_weight", "monitors", "monitor_every", "evaluate_on"),
)  # what data that are read in windows do not have
_RATES = {"sgd": 0.3, "momentum": 0.05, "nesterov": 0.05}  # others divide by the gradient's size

_LOSSES = {"regression": "quadratic", "binary": "cross_entropy", "multilabel": "cross_entropy"}

_STARTS = {
    "default": "N(0, 1/n)",
    "large": "N(0, 1)",
    "he": "He",
    "glorot": "Glorot",
    "zeros": "zero",
}


@dataclass(frozen=True)
class TrainConfig(
    OutputOptions, RegularizationOptions, OptimizationOptions, NetworkOptions, DataOptions
):
    """What to train, on what, and how. The defaults suit the digits data set bundled with
    scikit-learn.

    Example:
        >>> from nnjax.cli.config import TrainConfig
        >>> config = TrainConfig(hidden=(30,), rate=3.0)
        >>> config.network((8, 8, 1), 10).shapes
        ((64,), (30,), (10,))
        >>> TrainConfig.from_json(config.to_json()) == config
        True
    """

    distort: Distortion = _NONE
    """Random distortions, redrawn every time a training image is used."""

    def __post_init__(self):
        for name, hint in get_type_hints(type(self)).items():
            _require_choice(name, hint, getattr(self, name))

    def dataset(self, standardized: bool = True) -> Dataset:
        """Return the data set to train on.

        Args:
            standardized: False: with inputs and targets as they came. Otherwise the targets of a
                regression are standardised, and the inputs where that was asked for.
        """
        task = {"auto": None, "binary": "classification"}.get(self.task, self.task)
        if (source := self.source()) is not None:
            return _in_parts(self.data, source, task)
        mapped = jax.distributed.is_initialized()  # a process trains on its share
        names: dict[str, Any] = {"data_dir": self.data_dir, "target": self.target}
        dataset = load(self.data, **names, task=task, mapped=mapped)
        x, y = dataset.train
        if self.train_size is not None:
            n = require_size(self.train_size, "train_size")
            if n > len(x):
                raise ValueError(f"train_size is {n:,}, and {self.data} has {len(x):,} examples")
            dataset = dataset._replace(train=(x[:n], y[:n]))
        if self.standardize and self.distort != _NONE:
            raise ValueError("distortions fill in 0 where paper is; leave out --standardize")
        dataset = shifted(dataset) if self.expand else dataset
        if not standardized:
            return dataset
        numbers = dataset.task == "regression"
        return standardize(dataset, inputs=self.standardize, targets=numbers)

    def source(self) -> Folder | None:
        """Return the training data to be read a window at a time; None: they fit into memory.

        Raises:
            ValueError: if something is asked for that needs all of them at once.
        """
        if self.data in NAMES or not is_streamed(self.data):
            return None
        asked, usual = vars(self), vars(TrainConfig())
        if names := [name for name in _AT_ONCE if asked[name] != usual[name]]:
            raise ValueError(
                f"{names[0]} needs all data in memory, and the files in {self.data} are read a "
                "window at a time; leave it out"
            )
        folder = Path(self.data)
        within = folder / "train"
        return Folder(within if within.is_dir() else folder, self.window, seed=self.seed)

    def for_data(self, dataset: Dataset) -> TrainConfig:
        """Return the description with the task, and the loss and the measure that suit it.

        Raises:
            ValueError: if the loss does not suit the task.

        Example:
            >>> import nnjax
            >>> from nnjax.cli.config import TrainConfig
            >>> config = TrainConfig().for_data(nnjax.data.load("digits"))
            >>> config.task, config.loss, config.measure
            ('classification', 'log_likelihood', 'validation_accuracy')
        """
        task = dataset.task if self.task == "auto" else self.task
        # The default is for classes, of which one is right.
        loss = _LOSSES.get(task, self.loss) if self.loss == "log_likelihood" else self.loss
        if task == "regression" and loss == "cross_entropy":
            raise ValueError("loss is cross_entropy, and the task is a regression; give quadratic")
        rule = EarlyStopping(1, self.measure).for_task(tasks.TASKS[_task_name(task)])
        return dataclasses.replace(self, task=task, loss=loss, measure=rule.measure)

    def require_measure(self, dataset: Dataset) -> None:
        """Raise ValueError unless `measure` is a number that is recorded after each epoch.

        The main metric of the task is taken also where there are no data to measure it on.

        Args:
            dataset: what to train on, for which this is `for_data`.

        Example:
            >>> import nnjax
            >>> from nnjax.cli.config import TrainConfig
            >>> data = nnjax.data.load("digits")
            >>> TrainConfig(measure="acuracy").for_data(data).require_measure(data)
            Traceback (most recent call last):
            ...
            ValueError: measure is 'acuracy'; expected one of train_loss, validation_loss, \
validation_accuracy, validation_correct
        """
        task = self.metrics()
        parts = [part for part in self.evaluate_on if getattr(dataset, part)]
        names = ["train_loss", *(f"{part}_{name}" for part in parts for name in task.metrics)]
        names += ["penalty"] * (self._regularizer() is not None)
        if self.measure not in (*names, f"validation_{task.main}"):
            raise ValueError(
                f"measure is {self.measure!r}; expected one of {', '.join(names)}"
                f"{did_you_mean(self.measure, names)}"
            )

    def n_out(self, dataset: Dataset) -> int:
        """Return the number of outputs that a network for this data set has.

        Raises:
            ValueError: if the task is binary, and there are not two classes.
        """
        if dataset.task != "classification":
            return int(np.prod(dataset.train[1].shape[1:]))
        classes = n_classes(dataset)
        if self.task != "binary":
            return classes
        if classes != 2:
            raise ValueError(f"{self.data} has {classes} classes, and the task is binary")
        return 1

    def network(self, input_shape: Shape, n_out: int) -> Network:
        """Return the network.

        Args:
            input_shape: of one example, such as (28, 28, 1).
            n_out: the number of outputs.
        """
        kinds: dict[str, Any] = {
            "activation": getattr(activations, self.activation),
            "output": activations.identity if self.task == "regression" else None,
            "loss": getattr(losses, self.loss),
            "initializer": getattr(initializers, self.init),
        }
        if self.net and self.hidden != TrainConfig.hidden:
            raise ValueError("net and hidden both say what the layers are; give one of them")
        if self.net == ("conv",):
            small = min(input_shape[:2]) < 16  # has no room for two kernels of 5
            size: dict[str, Any] = {"filters": (20,), "kernel": 3} if small else {}
            return architecture.convnet(input_shape, n_out, **size, **kinds)
        if self.net:
            return architecture.parse(" ".join(self.net), input_shape, n_out, **kinds)
        return mlp([math.prod(input_shape), *self.hidden, n_out], **kinds)

    def metrics(self, target_standardization: Any = None) -> tasks.Task:
        """Return the task with its metrics.

        Args:
            target_standardization: mean and deviation that the targets were standardised by.
        """
        task = tasks.TASKS[_task_name(self.task)]
        if isinstance(task, tasks.Regression):
            return tasks.Regression.standardized(target_standardization)
        return task

    @property
    def learning_rate(self) -> float:
        """The learning rate η: what was asked for, or what usually suits the optimizer."""
        if self.rate is not None:
            return self.rate
        if self.optimizer not in _RATES:
            return 0.001
        # The more inputs a neuron has, the smaller the steps have to be.
        return _RATES[self.optimizer] / (1 if self.data == "digits" else 10)

    def arguments(
        self, net: Network, dataset: Dataset, batches: int | None = None
    ) -> dict[str, Any]:
        """Return the arguments of `nnjax.train` after the network and the data set.

        Args:
            net: the network.
            dataset: what to train on; parts that it does not have are not measured.
            batches: mini-batches per epoch; None: as many as the training data give.

        Raises:
            ValueError: if a value is out of range.
        """
        if self.patience is None and self.lower_rate_to != 1:
            raise ValueError("lower_rate_to says what happens after patience epochs; give both")
        if self.save_every is not None:
            require_size(self.save_every, "save_every")
        rate: Any = self.learning_rate
        if self.schedule != "constant":
            size = require_size(self.batch_size, "batch_size")
            batches = batches or -(-len(dataset.train[0]) // size)
            steps = batches * require_size(self.epochs, "epochs")
            rate = optimizers.schedule(self.schedule, rate, steps)
        options, key = {} if self.mu is None else {"mu": self.mu}, self.key()
        # What has the same name here and there is passed on as it is.
        shared = {f.name for f in dataclasses.fields(Arguments)} - {"net", "data"}
        same = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name in shared}
        return same | {
            "optimizer": optimizers.by_name(self.optimizer, rate, **options),
            "key": key,
            "evaluate_on": [part for part in self.evaluate_on if getattr(dataset, part)],
            "regularizer": self._regularizer(),
            "compute_dtype": None if self.precision == "float32" else self.precision,
            "augment": None if self.distort == _NONE else self.distort,
            "class_weight": self._class_weight(net, dataset),
            "early_stopping": None
            if self.patience is None
            else EarlyStopping(self.patience, self.measure, self.lower_rate_to),
            # `train` makes two keys of the run's own; this is a third.
            "feedback": None
            if self.feedback == "transpose"
            else feedback.init(net, jax.random.fold_in(key, 2), self.feedback),
        }

    def _class_weight(self, net: Network, dataset: Dataset) -> ClassWeight | None:
        if self.class_weight in ((), ("balanced",)):
            return "balanced" if self.class_weight else None
        count, classes = len(self.class_weight), max(net.n_out, 2)
        try:
            weights = [float(weight) for weight in self.class_weight]
        except ValueError:
            raise ValueError(
                f"class_weight is {' '.join(self.class_weight)}; expected balanced, or one number "
                "per class"
            ) from None
        if dataset.task == "classification" and count != classes:  # training refuses others
            raise ValueError(
                f"class_weight has {count} number{'s' * (count != 1)} for {classes} classes; "
                "expected balanced, or one number per class"
            )
        return weights

    def _regularizer(self) -> Regularizer | None:
        parts: list[Regularizer] = []
        if self.l2 != 0:
            parts.append(L2(self.l2))
        if self.l1 != 0:
            parts.append(L1(self.l1))
        if self.max_norm is not None:
            parts.append(MaxNorm(self.max_norm))
        return sum(parts[1:], start=parts[0]) if parts else None

    def key(self) -> jax.Array:
        """Return the random key of the run, made from the seed."""
        largest = 2**32 - 1
        require_number(self.seed, "seed", f"an integer from 0 to {largest}", 0, largest)
        return jax.random.key(self.seed)

    @property
    def title(self) -> str:
        """The setting in a line, as for a plot."""
        sizes = " and ".join(map(str, self.hidden))
        layers = " ".join(self.net) or (f"{sizes} hidden neurons" if sizes else "no hidden layer")
        rate = f"η = {self.learning_rate:g}"
        schedule = "" if self.schedule == "constant" else f" {self.schedule}"
        parts = [
            f"{self.data}: {layers}",
            self.activation,
            f"{self.loss.replace('_', '-')} loss",
            f"{_STARTS[self.init]} initialisation",
            f"{self.optimizer} {rate}{schedule}",
            f"batch size {self.batch_size}",
        ]
        parts += [f"λ = {self.l2:g}"] * (self.l2 != 0) + [f"λ = {self.l1:g} (L1)"] * (self.l1 != 0)
        parts += [f"{self.train_size} training examples"] * (self.train_size is not None)
        parts += (
            ["standardised"] * self.standardize
            + ["expanded"] * self.expand
            + ["distorted"] * (self.distort != _NONE)
        )
        if self.class_weight:
            parts.append(f"class weights {' '.join(self.class_weight)}")
        parts += [self.feedback.replace("_", " ")] * (self.feedback != "transpose")
        parts += [f"in {self.precision}"] * (self.precision != "float32")
        parts.append(f"seed {self.seed}")
        # A line may end between them, and between layers, but not within "λ = 5".
        return ", ".join(
            [parts[0], *(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts[1:])]
        )

    @classmethod
    def of(cls, groups: Iterable[Any], distort: Distortion = _NONE) -> TrainConfig:
        """Return the description with the options of several groups.

        Example:
            >>> from nnjax.cli.config import TrainConfig
            >>> from nnjax.cli.options import NetworkOptions, OptimizationOptions
            >>> TrainConfig.of([NetworkOptions(hidden=(30,)), OptimizationOptions(epochs=3)]).hidden
            (30,)
        """
        known = {field.name for field in dataclasses.fields(cls)}
        given = {name: vars(group)[name] for group in groups for name in vars(group).keys() & known}
        return cls(**given, distort=distort)

    @property
    def groups(self) -> dict[str, Any]:
        """The options in their groups, by the names of `nnjax.cli.options.GROUPS`."""
        return {
            name: kind(**{f.name: getattr(self, f.name) for f in dataclasses.fields(kind)})
            for name, kind in GROUPS.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return the fields in the kinds that JSON has."""
        fields = dataclasses.asdict(self)
        return fields | {"data_dir": None if self.data_dir is None else str(self.data_dir)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> TrainConfig:
        """Return the description that `to_json` wrote down.

        Raises:
            ValueError: if it holds a field or a value that this version does not know.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(fields.keys() - known):
            raise ValueError(f"the configuration holds {', '.join(unknown)}: update nnjax")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        if not isinstance(target := values.get("target", ()), tuple):  # of an earlier version
            values["target"] = () if target is None else (target,)
        if values.get("data_dir") is not None:
            values["data_dir"] = Path(values["data_dir"])
        if "distort" in values:
            values["distort"] = _distortion(values["distort"])
        return cls(**values)


def _in_parts(path: str, source: Folder, task: str | None) -> Dataset:
    """Return some of the training data, and the others as a whole, of data read in windows."""
    some = next(Folder(source.path, min(source.window, 1000), seed=source.seed).windows(0))
    others = [Path(path, name) for name in ("validation", "test")]
    validation, test = (Folder(part).whole() if part.is_dir() else None for part in others)
    dataset = Dataset(some, validation, test)
    if task not in (None, dataset.task):
        raise ValueError(
            f"task is {task}, and the targets in {path} are {some[1].dtype} {some[1].shape[1:]}, "
            f"for a {dataset.task}; save them as another kind"
        )
    if dataset.task == "classification":
        dataset = dataset._replace(classes=tuple(map(str, range(source.classes))))
    return dataset


def _task_name(task: str) -> str:
    """Return the name in `nnjax.tasks` of a word of --task."""
    return "classification" if task in ("auto", "binary") else task


def _distortion(strengths: Any) -> Distortion:
    known = [field.name for field in dataclasses.fields(Distortion)]
    if not isinstance(strengths, Mapping) or strengths.keys() - known:
        raise ValueError(f"distort is {strengths!r}; expected strengths of {', '.join(known)}")
    return Distortion(**strengths)


def _require_choice(name: str, hint: Any, value: Any) -> None:
    """Raise ValueError if a field takes one of several words, or some of them, and got others."""
    if get_origin(hint) is Literal and value not in get_args(hint):
        expected = ", ".join(get_args(hint))
        raise ValueError(f"{name} is {value!r}; expected one of {expected}")
    if get_origin(hint) is tuple and get_origin(get_args(hint)[0]) is Literal:
        if not isinstance(value, tuple):
            raise ValueError(f"{name} is {value!r}; expected several words")
        for word in value:
            _require_choice(name, get_args(hint)[0], word)


def n_classes(dataset: Dataset) -> int:
    """Return the number of classes: of those with names, else one more than the largest label.

    Example:
        >>> import nnjax
        >>> from nnjax.cli.config import n_classes
        >>> n_classes(nnjax.data.load("digits"))
        10
    """
    largest = max(int(part[1].max()) for part in dataset if part is not None)
    return len(dataset.classes) or 1 + largest
