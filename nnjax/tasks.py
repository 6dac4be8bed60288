"""Tasks: what a network is for, which metrics tell how well it does it, and how they are written.

A task follows from the network and its targets y, in one place, `task_of`:

    output layer           targets y                            task
    softmax, sigmoid       (n,) classes, one-hot or soft rows   classification
    one sigmoid output     (n,) or (n, 1) zeros and ones        classification, of two classes
    sigmoid                (n, k) zeros and ones, not one-hot   multilabel
    identity               (n,) or (n, k) numbers               regression
    identity, tanh, ...    classes or one-hot rows              classification

Training, `nnjax.evaluate`, early stopping, the command line and plots read the metrics from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from nnjax.activations import Identity, Probability, Softmax
from nnjax.losses import CrossEntropy, LogLikelihood, Quadratic
from nnjax.pieces import at_least_float32

if TYPE_CHECKING:
    from nnjax.network import Network

__all__ = [
    "METRICS",
    "TASKS",
    "Better",
    "Classification",
    "Evaluation",
    "Metric",
    "Multilabel",
    "MultilabelEvaluation",
    "Regression",
    "RegressionEvaluation",
    "Task",
    "require_task",
    "takes_numbers",
    "task_of",
]

Better: TypeAlias = Literal["smaller", "larger"]
"""Which values of a measure are better."""


class Metric(NamedTuple):
    """A number that says how well a network does, and how a person writes it.

    Attributes:
        name: in records and results, such as "rmse".
        better: "smaller" or "larger".
        label: in text and on axes, such as "RMSE".
        unit: "%" of a fraction that is written in percent, "" of other numbers, None of a number
            that is only recorded.

    Example:
        >>> from nnjax.tasks import METRICS
        >>> METRICS["accuracy"].text(0.944), METRICS["rmse"].text(54.213), METRICS["r2"].text(0.5)
        ('accuracy 94.4 %', 'RMSE 54.2', 'R² 0.500')
    """

    name: str
    better: Better
    label: str
    unit: str | None = ""

    @property
    def axis(self) -> str:
        """What is written on an axis of its values."""
        return f"{self.label} (%)" if self.unit == "%" else self.label

    def text(self, value: float) -> str:
        """Return its label and a value of it, with three significant digits."""
        if self.unit == "%":
            return f"{self.label} {100 * value:.1f} %"
        return f"{self.label} {value:#.3g}".rstrip(".")


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("loss", "smaller", "loss"),
        Metric("accuracy", "larger", "accuracy", "%"),
        Metric("correct", "larger", "correct", None),
        Metric("label_accuracy", "larger", "label accuracy", "%"),
        Metric("exact_match", "larger", "exact match", "%"),
        Metric("f1", "larger", "F1", None),
        Metric("rmse", "smaller", "RMSE"),
        Metric("mae", "smaller", "MAE", None),
        Metric("r2", "larger", "R²"),
    )
}
"""All metrics by name; those of a task are the fields of its evaluation."""


class Evaluation(NamedTuple):
    """How well a network tells classes apart.

    Attributes:
        loss: the mean loss over the examples, ().
        accuracy: the fraction of correct predictions, ().
        correct: the number of correct predictions, ().
    """

    loss: jax.Array
    accuracy: jax.Array
    correct: jax.Array


class MultilabelEvaluation(NamedTuple):
    """How well a network finds the labels of examples that may have several at once, or none.

    Attributes:
        loss: the mean loss over the examples, ().
        label_accuracy: the fraction of all (example, label) pairs that are right, ().
        exact_match: the fraction of examples whose labels are all right, ().
        f1: 2 TP / (2 TP + FP + FN), counted over all labels together (micro-averaged), (); 0 where
            there is nothing to find and nothing was found.
    """

    loss: jax.Array
    label_accuracy: jax.Array
    exact_match: jax.Array
    f1: jax.Array


class RegressionEvaluation(NamedTuple):
    """How near a network comes to the targets. Of several outputs, the mean over the outputs.

    Attributes:
        loss: the mean loss over the examples, ().
        rmse: the root of the mean squared error, in the units of the targets, ().
        mae: the mean absolute error, in the units of the targets, ().
        r2: R² = 1 − Σ (y − a)² / Σ (y − ȳ)², (): 1 is perfect, 0 no better than the mean ȳ of
            these targets. Of targets that are all equal it is 1 without any error, otherwise 0.
    """

    loss: jax.Array
    rmse: jax.Array
    mae: jax.Array
    r2: jax.Array


class Task:
    """What a network is for. Subclasses are frozen descriptions without arrays.

    Attributes:
        name: "classification", "multilabel" or "regression".
        main: the metric that early stopping and the choice of the best go by.
        metrics: the names of all metrics.
    """

    name: ClassVar[str]
    main: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]

    def predictions(self, a: jax.Array) -> jax.Array:
        """Return what the outputs a (n, n_out) say; examples that are not finite have −1 or NaN."""
        raise NotImplementedError

    def scores(self, a: jax.Array, y: jax.Array) -> Any:
        """Return arrays (n, ...), from which `result` is made, given targets of the shape of a."""
        raise NotImplementedError

    def result(self, loss: jax.Array, scores: Any) -> Any:
        """Return the metrics, a named tuple, given the mean loss and the scores of all examples."""
        raise NotImplementedError


@jax.tree_util.register_static
@dataclass(frozen=True)
class Classification(Task):
    """One class for each example: the strongest output; of a single output a, class 1 if a > ½.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> nnjax.tasks.Classification().predictions(jnp.array([[0.2, 0.7], [0.9, 0.3]])).tolist()
        [1, 0]
    """

    name = "classification"
    main = "accuracy"
    metrics = Evaluation._fields

    def predictions(self, a):
        a = _floating(a)
        classes = jnp.argmax(a, axis=-1) if a.shape[-1] > 1 else (a[..., 0] > 0.5).astype(int)
        return jnp.where(jnp.isfinite(a).all(axis=-1), classes, -1)

    def scores(self, a, y):
        predicted = self.predictions(a)
        return (predicted == self.predictions(y)) & (predicted >= 0)

    def result(self, loss, scores):
        mean = jnp.mean(scores, dtype=at_least_float32(loss.dtype))
        return Evaluation(loss, mean, jnp.sum(scores))


@jax.tree_util.register_static
@dataclass(frozen=True)
class Multilabel(Task):
    """Several labels at once, each there or not: there if its output is above ½.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> nnjax.tasks.Multilabel().predictions(jnp.array([[0.2, 0.7, 0.9]])).tolist()
        [[0, 1, 1]]
    """

    name = "multilabel"
    main = "label_accuracy"
    metrics = MultilabelEvaluation._fields

    def predictions(self, a):
        a = _floating(a)
        return jnp.where(jnp.isfinite(a), (a > 0.5).astype(int), -1)

    def scores(self, a, y):
        return self.predictions(a), self.predictions(y)

    def result(self, loss, scores):
        predicted, true = scores
        right = (predicted == true) & (predicted >= 0)
        dtype = at_least_float32(loss.dtype)
        found = jnp.sum(right & (true == 1)).astype(dtype)
        counted = jnp.sum(predicted == 1).astype(dtype) + jnp.sum(true == 1).astype(dtype)
        return MultilabelEvaluation(
            loss,
            jnp.mean(right, dtype=dtype),
            jnp.mean(jnp.all(right, axis=-1), dtype=dtype),
            2 * found / jnp.maximum(counted, 1),
        )


@jax.tree_util.register_static
@dataclass(frozen=True)
class Regression(Task):
    """Quantities: the outputs are estimates of the targets.

    Args:
        deviation: what one unit of the targets stands for, one number for each of them: the
            deviation that standardised targets were divided by. RMSE and MAE are multiplied by it.
            (): the targets are what they are.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> a, y = jnp.array([[1.0], [4.0]]), jnp.array([[1.0], [2.0]])
        >>> task = nnjax.tasks.Regression(deviation=(10.0,))
        >>> float(task.result(jnp.array(1.0), task.scores(a, y)).mae)
        10.0
    """

    deviation: tuple[float, ...] = ()

    name = "regression"
    main = "rmse"
    metrics = RegressionEvaluation._fields

    @staticmethod
    def standardized(scale: tuple[Any, Any] | None) -> Regression:
        """Return the task for targets that were standardised by (mean, deviation), or were not."""
        return Regression(() if scale is None else tuple(np.atleast_1d(scale[1]).tolist()))

    def predictions(self, a):
        return a[..., 0] if a.shape[-1] == 1 else a

    def scores(self, a, y):
        return a - y, y

    def result(self, loss, scores):
        error, y = (s.astype(at_least_float32(s.dtype)) for s in scores)
        unit = jnp.asarray(self.deviation or 1.0, error.dtype)
        squared = jnp.mean(error**2, axis=0)
        variance = jnp.mean((y - jnp.mean(y, axis=0, keepdims=True)) ** 2, axis=0)
        equal = jnp.all(y == y[:1], axis=0)
        r2 = 1 - squared / jnp.where(equal, jnp.ones_like(variance), variance)
        r2 = jnp.where(equal, (squared == 0).astype(r2.dtype), r2)
        absolute = jnp.mean(jnp.abs(error), axis=0)
        figures = (jnp.sqrt(squared) * unit, absolute * unit, r2)
        return RegressionEvaluation(loss, *map(jnp.mean, figures))


def _floating(a):
    return a if jnp.issubdtype(a.dtype, jnp.floating) else a.astype(float)


TASKS: dict[str, Task] = {
    task.name: task for task in (Classification(), Multilabel(), Regression())
}
"""The tasks by name."""


def require_task(task: Any) -> Task:
    """Return a task, given one or its name.

    Raises:
        ValueError: if it is neither.

    Example:
        >>> from nnjax.tasks import require_task
        >>> require_task("regression")
        Regression(deviation=())
    """
    if isinstance(task, Task):
        return task
    if not isinstance(task, str) or task not in TASKS:
        raise ValueError(f"task is {task!r}; expected one of {', '.join(TASKS)}")
    return TASKS[task]


def task_of(net: Network, y: Any = None) -> Task:
    """Return the task of a network; see the table above.

    Args:
        net: the network.
        y: its targets, which decide where one network may have several tasks. Targets that are
            traced, as under jit, are judged by shape and dtype alone: sigmoid outputs then count
            as classes.

    Raises:
        TypeError: if it is not a network.

    Example:
        >>> import numpy as np, nnjax
        >>> from nnjax.tasks import task_of
        >>> net = nnjax.mlp([4, 3])
        >>> task_of(net, np.array([2, 0])).name
        'classification'
        >>> task_of(net, np.array([[1, 1, 0], [0, 0, 0]])).name
        'multilabel'
        >>> task_of(nnjax.mlp([4, 1], output=nnjax.identity, loss=nnjax.quadratic)).name
        'regression'
    """
    _require_layers(net)
    output, several = net.layers[-1].activation, net.n_out > 1
    if isinstance(output, Softmax) or isinstance(net.loss, LogLikelihood):
        return Classification()
    if isinstance(output, Probability) or isinstance(net.loss, CrossEntropy):
        labels = several and y is not None and _rows(y) == "labels"
        return Multilabel() if labels else Classification()
    linear = isinstance(output, Identity)
    if y is None:
        return Regression() if linear and isinstance(net.loss, Quadratic) else Classification()
    if several:
        numbers = _rows(y) in ("numbers", *(["labels", "unknown"] if linear else []))
        return Regression() if numbers else Classification()
    if linear and isinstance(net.loss, Quadratic):
        return Regression()
    y = y if isinstance(y, jax.Array) else np.asarray(y)
    y = y.reshape(-1, 1) if takes_numbers(net) else y  # whole numbers too are looked at
    return Regression() if _rows(y) == "numbers" else Classification()


def takes_numbers(net: Network) -> bool:
    """Return whether whole numbers as targets of a single output are numbers, and not classes.

    So they are of an identity output, unless the loss is one of probabilities.

    Raises:
        TypeError: if it is not a network.

    Example:
        >>> import nnjax, optax
        >>> from nnjax.tasks import takes_numbers
        >>> huber = nnjax.losses.from_jax(lambda a, y: optax.huber_loss(a, y).sum(axis=-1))
        >>> takes_numbers(nnjax.mlp([4, 1], output=nnjax.identity, loss=huber))
        True
        >>> takes_numbers(nnjax.mlp([4, 1]))
        False
    """
    _require_layers(net)
    probabilities = isinstance(net.loss, CrossEntropy | LogLikelihood)
    return isinstance(net.layers[-1].activation, Identity) and not probabilities


def _require_layers(net: Any) -> None:
    if not hasattr(net, "layers"):  # networks are known only above this module
        raise TypeError(
            f"net is {net!r:.100}; expected a Network, such as nnjax.mlp([784, 30, 10])"
        )


def _rows(y: Any) -> str:
    """Return what targets hold: classes, one-hot rows, labels, numbers; unknown where traced."""
    y = y if isinstance(y, jax.Array) else np.asarray(y)
    if y.ndim < 2 and y.dtype.kind in "iub":
        return "classes"
    if isinstance(y, jax.core.Tracer):
        return "unknown"
    values = np.asarray(jax.device_get(y), np.float64)
    if not ((values == 0) | (values == 1)).all():
        return "numbers"
    if values.ndim < 2 or values.shape[-1] == 1:
        return "classes"
    return "one-hot" if (values.sum(axis=-1) == 1).all() else "labels"
