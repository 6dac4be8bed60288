"""What a training run was asked for: one frozen description, from which everything is rebuilt.

The command line makes a `TrainConfig` from its options, a run keeps it as JSON, and whoever opens
the run again (to predict, to evaluate, to go on) gets the same network from it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import optax

from nnjax import activations, architecture, initializers, losses
from nnjax.checks import require_number
from nnjax.data import Dataset, load
from nnjax.layers.base import Shape
from nnjax.network import Network, mlp
from nnjax.training import optimizers

__all__ = ["TrainConfig", "n_classes"]

_RATES = {"sgd": 0.3, "momentum": 0.05, "nesterov": 0.05}  # others divide by the gradient's size


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on what, and how. The defaults suit the embedded digits.

    Example:
        >>> from nnjax.config import TrainConfig
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
    optimizer: str = "momentum"
    """How the gradient is followed: sgd, momentum, nesterov, adam, ..., or any other of optax."""
    rate: float | None = None
    """The learning rate η; otherwise 0.3 for sgd, 0.05 with momentum, 0.001 for all the others."""
    batch_size: int = 10
    """Examples a step: the size of a mini-batch."""
    epochs: int = 30
    """How often to go through the training data."""
    seed: int = 0
    """The same seed gives the same run, on one machine."""

    def dataset(self) -> Dataset:
        """Return the data set to train on."""
        return load(self.data, data_dir=self.data_dir)

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
        return _RATES.get(self.optimizer, 0.001) if self.rate is None else self.rate

    def transformation(self) -> optax.GradientTransformation:
        """Return the optimizer, with its learning rate."""
        return optimizers.by_name(self.optimizer, self.learning_rate)

    def key(self) -> jax.Array:
        """Return the random key of the run, made from the seed."""
        largest = 2**32 - 1
        require_number(self.seed, "seed", f"an integer from 0 to {largest}", 0, largest)
        return jax.random.key(self.seed)

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
        return cls(**values)


def n_classes(dataset: Dataset) -> int:
    """Return the number of classes: one more than the largest label in any part.

    Example:
        >>> import nnjax
        >>> from nnjax.config import n_classes
        >>> n_classes(nnjax.data.load("digits"))
        10
    """
    return 1 + max(int(part[1].max()) for part in dataset if part is not None)
