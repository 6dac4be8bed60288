"""The options of a training run, in the groups in which the help shows them.

A field is an option, and the text below it is its help. To add an option, add a field to the group
that it belongs to: `TrainConfig` in `nnjax.cli.config` has the fields of all groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nnjax.cli.choices import Activation, Initializer, Loss, Monitor, Rule, Schedule, Task

__all__ = [
    "GROUPS",
    "DataOptions",
    "NetworkOptions",
    "OptimizationOptions",
    "OutputOptions",
    "RegularizationOptions",
]


@dataclass(frozen=True)
class DataOptions:
    """What to train on."""

    data: str = "digits"
    """A data set: digits, mnist, fashion-mnist, or a path (IDX folder, folder of pictures by class,
    .npz, .csv, .pkl.gz; a folder of .npy or .npz files may be larger than memory)."""
    data_dir: Path | None = None
    """Folder with the files of mnist or fashion-mnist (default: $NNJAX_DATA, else downloaded)."""
    target: tuple[str, ...] = ()
    """Column of a CSV file that holds the labels or the numbers to predict, or several columns of
    numbers (default: class, label, target, species, or the last column)."""
    task: Task = "auto"
    """What the targets are: classes (binary: two, with one output), several labels at once, as
    columns of 0 and 1, or the numbers of a regression. auto: a regression if they are real numbers,
    or very many different ones."""
    train_size: int | None = None
    """Train on the first N training examples only."""
    standardize: bool = False
    """Standardise the inputs by the mean and standard deviation of the training data."""
    expand: bool = False
    """Add four copies of each training image, shifted by one pixel up, down, left and right."""
    window: int = 10_000
    """Of a folder of .npy or .npz files: how many examples are in memory at once."""


@dataclass(frozen=True)
class NetworkOptions:
    """What the network is, and how its weights start."""

    hidden: tuple[int, ...] = (200,)
    """Sizes of the hidden layers, from input to output; give no sizes for a network without hidden
    layers."""
    net: tuple[str, ...] = ()
    """Hidden layers in words, instead of --hidden: conv20k5 pool2 dense100 dropout0.5; or conv."""
    activation: Activation = "relu"
    """Activation function of the hidden layers."""
    loss: Loss = "log_likelihood"
    """The loss function to minimise; log_likelihood makes the output layer a softmax, the others a
    sigmoid layer. A regression has quadratic with identity outputs instead; binary and multilabel
    have cross_entropy."""
    init: Initializer = "he"
    """Weight initialisation: N(0, 1/n_in), N(0, 1), He (for ReLU), Glorot, or zeros."""
    feedback: Rule = "transpose"
    """How errors are propagated backwards: the transposed weights (backpropagation), or an
    alternative such as feedback alignment."""


@dataclass(frozen=True)
class OptimizationOptions:
    """How the loss is minimised, and when to stop."""

    optimizer: str = "momentum"
    """Optimizer: sgd, momentum, nesterov, adam, ... or any other optax optimizer."""
    rate: float | None = None
    """Learning rate η (default: on the digits 0.3 for sgd and 0.05 with momentum, on other data a
    tenth of that; 0.001 for all other optimizers)."""
    mu: float | None = None
    """Momentum coefficient of momentum and nesterov (default: 0.9)."""
    schedule: Schedule = "constant"
    """How the learning rate changes over the run; step: to a tenth after each third."""
    batch_size: int = 10
    """Mini-batch size."""
    epochs: int = 30
    """Number of passes over the training data."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """What to compute in; the weights themselves are always kept in float32 (the master copy)."""
    seed: int = 0
    """Random seed: the same seed gives the same run on the same machine, bit for bit."""
    patience: int | None = None
    """Early stopping: stop after N epochs without improvement, and restore the best parameters."""
    measure: str = "auto"
    """Metric that early stopping monitors, and by which the best checkpoint is chosen (a key of
    history.jsonl). auto: validation_accuracy, or the main metric of another task, as
    validation_rmse."""
    lower_rate_to: float = 1.0
    """Halve the rate instead of stopping, down to this fraction of it (the book: 1/128)."""
    class_weight: tuple[str, ...] = ()
    """How much the examples of each class count: balanced (each class the same in total), or one
    number per class."""


@dataclass(frozen=True)
class RegularizationOptions:
    """What is added to the loss, or bounds the weights. Dropout is a layer: see --net."""

    l2: float = 0.0
    """λ of L2 regularisation, as in the book: λ/2n Σ w² is added to the loss."""
    l1: float = 0.0
    """λ of L1 regularisation: λ/n Σ |w| is added to the loss."""
    max_norm: float | None = None
    """Max-norm constraint: upper bound on the norm of each neuron's incoming weights."""


@dataclass(frozen=True)
class OutputOptions:
    """What is measured, shown and kept."""

    evaluate_on: tuple[Literal["train", "validation", "test"], ...] = ("validation",)
    """Parts of the data to evaluate after each epoch. The test data are always evaluated at the
    end."""
    monitors: tuple[Monitor, ...] = ()
    """Additional per-layer metrics to record in history.jsonl."""
    monitor_every: int | None = None
    """Record the monitors every N mini-batches (default: after each epoch)."""
    save_every: int | None = None
    """Also save a checkpoint every N epochs, against SIGKILL and power failures; Ctrl-C and SIGTERM
    save one by themselves."""


GROUPS: dict[str, type] = {
    "data": DataOptions,
    "network": NetworkOptions,
    "optimization": OptimizationOptions,
    "regularization": RegularizationOptions,
    "output": OutputOptions,
}
"""The groups by name."""
