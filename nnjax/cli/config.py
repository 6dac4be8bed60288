"""What a training run was asked for: one frozen description, from which everything is rebuilt.

The command line makes a `TrainConfig` from its options, a run keeps it as JSON, and whoever opens
the run again (to predict, to evaluate, to go on) gets the same network from it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax

from nnjax import activations, architecture, feedback, initializers, losses
from nnjax.checks import require_number, require_size
from nnjax.data import Dataset, load
from nnjax.layers.base import Shape
from nnjax.network import Network, mlp
from nnjax.regularizers import L1, L2, MaxNorm, Regularizer
from nnjax.training import optimizers
from nnjax.training.augmentation import Distortion, shifted
from nnjax.training.early_stopping import EarlyStopping

__all__ = ["TrainConfig", "n_classes"]

_RATES = {"sgd": 0.3, "momentum": 0.05, "nesterov": 0.05}  # others divide by the gradient's size


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on what, and how. The defaults suit the embedded digits.

    Example:
        >>> from nnjax.cli.config import TrainConfig
        >>> config = TrainConfig(hidden=(30,), rate=3.0)
        >>> config.network((8, 8, 1), 10).shapes
        ((64,), (30,), (10,))
        >>> TrainConfig.from_json(config.to_json()) == config
        True
    """

    data: str = "digits"
    """A data set: digits, mnist, fashion-mnist, or a path (IDX folder, .npz, mnist.pkl.gz)."""
    data_dir: Path | None = None
    """Where the files of mnist or fashion-mnist are; else $NNJAX_DATA, else they are downloaded."""
    expand: bool = False
    """Add to the training images four copies of each, moved by one pixel."""
    distort: Distortion = field(default_factory=Distortion)
    """How far training images are distorted at random, anew every time they are seen."""

    hidden: tuple[int, ...] = (200,)
    """Sizes of the hidden layers, from the input to the output; none: a single layer."""
    net: tuple[str, ...] = ()
    """Layers in words, in place of the hidden ones: conv20k5 pool2 dense100 dropout0.5; or conv."""
    activation: Literal["sigmoid", "tanh", "relu", "leaky_relu", "absolute", "identity"] = "relu"
    """Activation function of the hidden layers."""
    loss: Literal["cross_entropy", "log_likelihood", "quadratic"] = "log_likelihood"
    """What is made small; log_likelihood makes the output layer a softmax, the others sigmoid."""
    init: Literal["default", "large", "he", "glorot", "zeros"] = "he"
    """How weights start: randn / √n_in, randn, He's for ReLU, Glorot's, or all 0."""

    feedback: Literal[
        "transpose",
        "feedback_alignment",
        "sign_symmetry",
        "kolen_pollack",
        "direct_feedback_alignment",
        "direct_random_target_projection",
        "output_only",
    ] = "transpose"
    """What carries errors back: the transpose is backpropagation, the others learn without it."""

    optimizer: str = "momentum"
    """How the gradient is followed: sgd, momentum, nesterov, adam, ..., or any other of optax."""
    rate: float | None = None
    """The learning rate η; otherwise, on the digits, 0.3 for sgd and 0.05 with momentum, on other
    data a tenth of that; 0.001 for all other optimizers."""
    mu: float | None = None
    """The coefficient of momentum and nesterov; otherwise 0.9."""
    schedule: Literal["constant", "step", "cosine", "one_cycle"] = "constant"
    """How the rate changes over the run; step: to a tenth after each third."""
    batch_size: int = 10
    """Examples a step: the size of a mini-batch."""
    epochs: int = 30
    """How often to go through the training data."""
    seed: int = 0
    """The same seed gives the same run, on one machine."""

    l2: float = 0.0
    """λ of L2 regularisation, as in the book: λ/2n Σ w² is added to the loss."""
    l1: float = 0.0
    """λ of L1 regularisation: λ/n Σ |w| is added to the loss."""
    max_norm: float | None = None
    """The largest length that the weights into one neuron may have."""

    evaluate_on: tuple[Literal["train", "validation", "test"], ...] = ("validation",)
    """What to measure after each epoch. The test data come at the end anyway."""
    monitors: tuple[
        Literal["error_norms", "gradient_norms", "weight_norms", "saturated", "dead"], ...
    ] = ()
    """What else to measure, by layer, for history.jsonl."""
    monitor_every: int | None = None
    """Measure that after every so many mini-batches; otherwise after each epoch."""
    patience: int | None = None
    """Stop after so many epochs without improvement, and keep the best parameters."""
    measure: str = "validation_accuracy"
    """Where improvement is looked for: a name in history.jsonl."""
    lower_rate_to: float = 1.0
    """Halve the rate instead of stopping, down to this fraction of it (the book: 1/128)."""
    save_every: int | None = None
    """Write a checkpoint after every so many epochs, from which --resume can go on."""

    def dataset(self) -> Dataset:
        """Return the data set to train on."""
        dataset = load(self.data, data_dir=self.data_dir)
        return shifted(dataset) if self.expand else dataset

    def network(self, input_shape: Shape, n_out: int) -> Network:
        """Return the network.

        Args:
            input_shape: of one example, such as (28, 28, 1).
            n_out: the number of classes.
        """
        kinds: dict[str, Any] = {
            "activation": getattr(activations, self.activation),
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

    @property
    def learning_rate(self) -> float:
        """The learning rate η: what was asked for, or what usually suits the optimizer."""
        if self.rate is not None:
            return self.rate
        if self.optimizer not in _RATES:
            return 0.001
        # The more inputs a neuron has, the smaller the steps that it bears.
        return _RATES[self.optimizer] / (1 if self.data == "digits" else 10)

    def arguments(self, net: Network, dataset: Dataset) -> dict[str, Any]:
        """Return the arguments of `nnjax.train` after the network and the data set.

        Args:
            net: the network.
            dataset: what to train on; parts that it does not have are not measured.

        Raises:
            ValueError: if a value is out of range.
        """
        if self.patience is None and self.lower_rate_to != 1:
            raise ValueError("lower_rate_to says what happens after patience epochs; give both")
        if self.save_every is not None:
            require_size(self.save_every, "save_every")
        rate: Any = self.learning_rate
        if self.schedule != "constant":
            batches = -(-len(dataset.train[0]) // require_size(self.batch_size, "batch_size"))
            steps = batches * require_size(self.epochs, "epochs")
            rate = optimizers.schedule(self.schedule, rate, steps)
        options = {} if self.mu is None else {"mu": self.mu}
        return {
            "optimizer": optimizers.by_name(self.optimizer, rate, **options),
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "key": self.key(),
            "evaluate_on": [part for part in self.evaluate_on if getattr(dataset, part)],
            "regularizer": self._regularizer(),
            "augment": None if self.distort == Distortion() else self.distort,
            "monitors": self.monitors,
            "monitor_every": self.monitor_every,
            "early_stopping": None
            if self.patience is None
            else EarlyStopping(self.patience, self.measure, self.lower_rate_to),
            # `train` makes two keys of the run's own; this is a third.
            "feedback": feedback.init(net, jax.random.fold_in(self.key(), 2), self.feedback),
        }

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
        layers = " ".join(self.net) or " ".join(f"dense{size}" for size in self.hidden)
        rate = f"η = {self.learning_rate:g}"
        schedule = "" if self.schedule == "constant" else f" {self.schedule}"
        parts = [
            f"{self.data}: {layers}",
            self.activation,
            self.loss,
            f"{self.init} start",
            f"{self.optimizer} {rate}{schedule}",
            f"mini-batches of {self.batch_size}",
        ]
        parts += [f"λ = {self.l2:g}"] * (self.l2 != 0) + [f"λ = {self.l1:g} (L1)"] * (self.l1 != 0)
        parts += ["expanded"] * self.expand + ["distorted"] * (self.distort != Distortion())
        parts += [self.feedback.replace("_", " ")] * (self.feedback != "transpose")
        parts.append(f"seed {self.seed}")
        # A line may end between them, and between layers, but not within "λ = 5".
        return ", ".join(
            [parts[0], *(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts[1:])]
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields in the kinds that JSON has."""
        fields = dataclasses.asdict(self)
        return fields | {"data_dir": None if self.data_dir is None else str(self.data_dir)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> TrainConfig:
        """Return the description that `to_json` wrote down.

        Raises:
            ValueError: if it holds a field that this version does not know.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(fields.keys() - known):
            raise ValueError(f"the configuration holds {', '.join(unknown)}: update nnjax")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        if values.get("data_dir") is not None:
            values["data_dir"] = Path(values["data_dir"])
        if "distort" in values:
            values["distort"] = Distortion(**values["distort"])
        return cls(**values)


def n_classes(dataset: Dataset) -> int:
    """Return the number of classes: one more than the largest label in any part.

    Example:
        >>> import nnjax
        >>> from nnjax.cli.config import n_classes
        >>> n_classes(nnjax.data.load("digits"))
        10
    """
    return 1 + max(int(part[1].max()) for part in dataset if part is not None)
