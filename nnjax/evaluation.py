"""How well a network does: what it predicts, and the metrics that suit its task (`nnjax.tasks`).

Where x, a parameter or an output is NaN or infinite, there is no class: `predict` says −1, which
no label is, so that such examples never count as correct; of a regression it says NaN.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from nnjax.activations import Probability
from nnjax.checks import checked, require_real_array
from nnjax.display import heading, table
from nnjax.losses import targets
from nnjax.network import (
    Network,
    Params,
    check_batch,
    feedforward,
    forward,
    in_pieces,
    losses_and_outputs,
    require_network,
    wide_outputs,
)
from nnjax.pieces import at_least_float32
from nnjax.sharding import like_examples
from nnjax.tasks import Classification, Evaluation, Multilabel, Task, require_task, task_of

__all__ = [
    "ClassEvaluation",
    "Evaluation",
    "LabelEvaluation",
    "accuracy",
    "evaluate",
    "evaluate_classes",
    "evaluate_labels",
    "predict",
    "predict_proba",
]


def _inputs(net, params, x, task=None):
    x = check_batch(net, params, x)[0]
    return net, params, x, task_of(net) if task is None else require_task(task)


def _examples(net, params, x, y, task=None):
    arrays = check_batch(net, params, x, y)
    if task is None:  # as y came: on the host its values can be looked at
        task = task_of(net, y if isinstance(y, jax.Array) else require_real_array(y, "y"))
    return net, params, *arrays, require_task(task)


@checked(_inputs, static=("task",), layout=like_examples, once=True)
def predict(
    net: Network, params: Params, x: ArrayLike, task: Task | str | None = None
) -> jax.Array:
    """Return what the network says of each example.

    - classification: (n,) the class, which is the strongest output; of a single output, a > ½. It
      is −1 where the example, the parameters or the outputs are not finite.
    - regression: the outputs themselves, (n,) for one output, otherwise (n, n_out).
    - multilabel: (n, n_out) 1 for each label whose output is above ½, otherwise 0.

    Args:
        net: the network.
        params: its parameters.
        x: (n, *input_shape) inputs, as many as fit in memory: they are worked through in pieces.
        task: of `nnjax.tasks` or its name; None: regression for identity outputs with the quadratic
            loss, otherwise classification.

    Raises:
        ValueError, TypeError: if x or params do not fit the network, or the task is unknown.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> nnjax.predict(net, params, jnp.ones((5, 3))).shape
        (5,)
        >>> nnjax.predict(net, params, jnp.ones((5, 3)), task="multilabel").shape
        (5, 2)
    """
    told: Any = task

    def predictions(x):
        _, a = wide_outputs(net, forward(net.pooling_first, params, x, None))
        return told.predictions(_where_finite(params, x, a))

    return in_pieces(net, predictions, x)


def predict_proba(net: Network, params: Params, x: ArrayLike) -> jax.Array:
    """Return probabilities, one column for each class or label.

    - softmax outputs: (n, n_out), the probability of each class; a row sums to 1.
    - one sigmoid output a: (n, 2), the probabilities 1 − a of class 0 and a of class 1.
    - several sigmoid outputs: (n, n_out), of each label by itself; a row need not sum to 1.

    Args:
        net: the network.
        params: its parameters.
        x: (n, *input_shape) inputs.

    Raises:
        ValueError: if the outputs are not probabilities, as those of a regression.
        ValueError, TypeError: if x or params do not fit the network.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 1])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> nnjax.predict_proba(net, params, jnp.ones((5, 3))).sum(axis=1).tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    output = require_network(net).layers[-1].activation
    if not isinstance(output, Probability):
        raise ValueError(
            f"the outputs of this network are not probabilities: its output layer is "
            f"{output.name}; expected sigmoid or softmax (nnjax.feedforward gives the outputs)"
        )
    a = feedforward(net, params, x)
    return jnp.concatenate([1 - a, a], axis=1) if net.n_out == 1 else a


@checked(_examples, static=("task",))
def evaluate(
    net: Network,
    params: Params,
    x: ArrayLike,
    y: ArrayLike,
    task: Task | str | None = None,
) -> Any:
    """Return the mean loss and the metrics of the task at inference, in one pass, in pieces.

    Means are taken in float32 at least. An example that is not finite, or whose outputs are not,
    is never correct; it makes the metrics of a regression NaN.

    Args:
        net: the network.
        params: its parameters.
        x: (n, *input_shape) inputs.
        y: (n,) integer classes, or (n, n_out) targets, of which the largest is the class; zeros
            and ones for several labels; (n,) or (n, n_out) numbers for a regression.
        task: of `nnjax.tasks` or its name; None: as `nnjax.tasks.task_of` tells it from the network
            and y.

    Returns:
        `Evaluation(loss, accuracy, correct)` of a classification,
        `MultilabelEvaluation(loss, label_accuracy, exact_match, f1)`, or
        `RegressionEvaluation(loss, rmse, mae, r2)`.

    Raises:
        ValueError, TypeError: if x, y or params do not fit the network, or the task is unknown.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> nnjax.evaluate(net, params, jnp.eye(3), jnp.array([0, 1, 0]))._fields
        ('loss', 'accuracy', 'correct')
        >>> line = nnjax.mlp([3, 1], output=nnjax.identity, loss=nnjax.quadratic)
        >>> params = nnjax.init(line, jax.random.key(0))
        >>> nnjax.evaluate(line, params, jnp.eye(3), jnp.array([0.5, 1.5, 2.5]))._fields
        ('loss', 'rmse', 'mae', 'r2')
    """
    told: Any = task

    def one_piece(examples):
        x, y = examples
        losses, a = losses_and_outputs(net, params, x, y, None)
        return losses, told.scores(_where_finite(params, x, a), targets(y, a))

    losses, scores = in_pieces(net, one_piece, (x, y))
    return told.result(jnp.mean(losses, dtype=at_least_float32(losses.dtype)), scores)


def accuracy(net: Network, params: Params, x: ArrayLike, y: ArrayLike) -> jax.Array:
    """Return the fraction of examples that are classified correctly, between 0 and 1.

    Args: see `evaluate`.

    Raises:
        ValueError: if the task is not a classification, and so has no accuracy.
        ValueError, TypeError: if x, y or params do not fit the network.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> x = jnp.eye(3)
        >>> float(nnjax.accuracy(net, params, x, nnjax.predict(net, params, x)))
        1.0
    """
    result = evaluate(net, params, x, y)
    if not isinstance(result, Evaluation):
        raise ValueError(
            "accuracy is the fraction of examples that are classified correctly, and these targets "
            f"are not classes; nnjax.evaluate gives {', '.join(result._fields)}"
        )
    return result.accuracy


def _where_finite(params, x, a):
    """Return the outputs a (n, n_out), NaN where the example or the parameters are not finite."""
    finite = jnp.isfinite(x).all(axis=range(1, x.ndim))
    for leaf in jax.tree.leaves(params):
        finite &= jnp.isfinite(leaf).all()
    return jnp.where(finite[:, None], a, jnp.nan)


class ClassEvaluation(NamedTuple):
    """What `evaluate_classes` returns. Classes j, k = 0, …, m − 1.

    Attributes:
        loss: the mean loss over the examples.
        accuracy: the fraction of examples classified correctly.
        confusion: (m, m) counts: row j, column k: examples of class j that were predicted as k.
        precision: (m,) of those predicted as j, the fraction of class j; NaN where there is none.
        recall: (m,) of those of class j, the fraction predicted as j; NaN where there is none.
        predictions: (n,) the predicted class of each example.
        classes: (m,) names of the classes for the text; empty for their numbers.
    """

    loss: float
    accuracy: float
    confusion: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    predictions: np.ndarray
    classes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it as text: one line for all classes, one line per class, the confusion matrix."""
        n = self.confusion.sum()
        correct = np.trace(self.confusion)
        total = f"accuracy {_percent(self.accuracy)} ({correct}/{n}), loss {self.loss:.4f}"
        lines = [total, ""]
        names = _short_names(self.classes, len(self.confusion))
        longest = max(5, *map(len, names))
        lines.append(f"{'class':>{longest}}  examples  precision  recall")
        for j, row in enumerate(self.confusion):
            lines.append(
                f"{names[j]:>{longest}}  {row.sum():8d}  {_percent(self.precision[j]):>9}  "
                f"{_percent(self.recall[j]):>6}"
            )
        width = max(5, len(str(self.confusion.max())) + 1, 1 + max(map(len, names)))
        lines += ["", "confusion matrix (rows: true class, columns: predicted class)"]
        lines.append(" " * longest + "".join(f"{name:>{width}}" for name in names))
        for j, row in enumerate(self.confusion):
            lines.append(f"{names[j]:>{longest}}" + "".join(f"{count:{width}d}" for count in row))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return for a notebook the classes, and the confusion matrix, as tables."""
        names = self.classes or [str(j) for j in range(len(self.confusion))]
        rows = [("class", "examples", "precision", "recall")]
        counts = [("true class \\ predicted", *names)]
        for j, row in enumerate(self.confusion):
            quality = _percent(self.precision[j]), _percent(self.recall[j])
            rows.append((names[j], f"{row.sum()}", *quality))
            counts.append((names[j], *map(str, row)))
        total = f"accuracy {_percent(self.accuracy)}, loss {self.loss:.4f}"
        return heading(total) + table(rows) + heading("Confusion matrix") + table(counts)

    def to_json(self) -> dict[str, Any]:
        """Return it for JSON, without the predictions of single examples; NaN becomes null."""
        return {
            "examples": int(self.confusion.sum()),
            "loss": self.loss,
            "accuracy": self.accuracy,
            "precision": [None if np.isnan(p) else float(p) for p in self.precision],
            "recall": [None if np.isnan(r) else float(r) for r in self.recall],
            "confusion": self.confusion.tolist(),
            **({"classes": list(self.classes)} if self.classes else {}),
        }


def evaluate_classes(net: Network, params: Params, x: ArrayLike, y: ArrayLike) -> ClassEvaluation:
    """Return loss, accuracy, and how well each class is told from the others.

    precision_j = confusion_jj / Σ_i confusion_ij, recall_j = confusion_jj / Σ_k confusion_jk.

    Args:
        net: the network; with a single output the classes are 0 and 1.
        params: its parameters.
        x: (n, *input_shape) inputs.
        y: (n,) integer classes, or (n, n_out) targets, of which the largest is the class.

    Raises:
        ValueError, TypeError: if x, y or params do not fit the network, or an example has no class
            because it, the parameters or the outputs are NaN or infinite; or if y holds no classes
            but several labels at once, or the numbers of a regression.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> from nnjax.evaluation import evaluate_classes
        >>> net = nnjax.mlp([3, 3], initializer=nnjax.initializers.zeros)
        >>> params = (nnjax.Affine(w=jnp.eye(3), b=jnp.zeros(3)),)
        >>> result = evaluate_classes(net, params, jnp.eye(3), jnp.array([0, 1, 1]))
        >>> result.confusion.tolist()
        [[1, 0, 0], [0, 1, 1], [0, 0, 0]]
        >>> result.precision.tolist(), result.recall.tolist()
        ([1.0, 1.0, 0.0], [1.0, 0.5, nan])
    """
    # Labels are looked at, wherever they are: this is not a step of training.
    on_host = np.asarray(y) if isinstance(y, jax.Array) else require_real_array(y, "y")
    inputs, given = check_batch(net, params, x, on_host)
    task = task_of(net, on_host)
    if not isinstance(task, Classification):
        raise ValueError(
            f"the task of this network with this y is {task.name}, which has no classes; see "
            f"{'evaluate_labels' if isinstance(task, Multilabel) else 'nnjax.evaluate'}"
        )
    total = evaluate(net, params, inputs, given, task)
    predictions = np.asarray(predict(net, params, x, task))
    labels = np.asarray(given if given.ndim == 1 else task.predictions(given), int)
    for name, classes, why in (
        ("x", predictions, "it, the parameters or the outputs are not finite"),
        ("y", labels, "it is not finite"),
    ):
        if (classes < 0).any():
            raise ValueError(
                f"{(classes < 0).sum()} of {len(classes)} examples have no class, the first of "
                f"them {name}[{np.argmax(classes < 0)}]: {why}"
            )
    m = max(net.n_out, 2)
    confusion = np.zeros((m, m), int)
    np.add.at(confusion, (labels, predictions), 1)
    correct = np.diagonal(confusion).astype(float)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: there is nothing to measure by
        precision, recall = correct / confusion.sum(axis=0), correct / confusion.sum(axis=1)
    return ClassEvaluation(
        float(total.loss), float(total.accuracy), confusion, precision, recall, predictions
    )


class LabelEvaluation(NamedTuple):
    """What `evaluate_labels` returns. Labels j = 0, …, k − 1; predicted are outputs above ½.

    Attributes:
        loss: the mean loss over the examples.
        exact_match: the fraction of examples whose labels are all right.
        accuracy: (k,) the fraction of examples for which label j is right.
        precision: (k,) of the examples predicted to have label j, the fraction that has it; NaN
            where there is none.
        recall: (k,) of the examples with label j, the fraction found; NaN where there is none.
        f1: (k,) the harmonic mean of both; NaN where no example has the label or is predicted to.
        examples: (k,) how many examples have label j.
        labels: (k,) names of the labels for the text; empty for their numbers.
    """

    loss: float
    exact_match: float
    accuracy: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    examples: np.ndarray
    labels: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it as text: one line for all labels, then one line per label."""
        lines = [
            f"exact match {_percent(self.exact_match)}, label accuracy "
            f"{_percent(float(np.mean(self.accuracy)))}, loss {self.loss:.4f}",
            "",
        ]
        names = _short_names(self.labels, len(self.accuracy))
        longest = max(5, *map(len, names))
        lines.append(f"{'label':>{longest}}  examples  accuracy  precision   recall       F1")
        for j, name in enumerate(names):
            lines.append(
                f"{name:>{longest}}  {self.examples[j]:8d}  {_percent(self.accuracy[j]):>8}  "
                f"{_percent(self.precision[j]):>9}  {_percent(self.recall[j]):>7}  "
                f"{_percent(self.f1[j]):>7}"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return it for JSON; NaN becomes null."""
        figures = {
            name: [None if np.isnan(v) else float(v) for v in getattr(self, name)]
            for name in ("accuracy", "precision", "recall", "f1")
        }
        return {
            "loss": self.loss,
            "exact_match": self.exact_match,
            "label_accuracy": float(np.mean(self.accuracy)),
            **figures,
            "examples": self.examples.tolist(),
            **({"labels": list(self.labels)} if self.labels else {}),
        }


def evaluate_labels(net: Network, params: Params, x: ArrayLike, y: ArrayLike) -> LabelEvaluation:
    """Return how well each of several labels is found.

    Args:
        net: the network, with one output per label.
        params: its parameters.
        x: (n, *input_shape) inputs.
        y: (n, n_out) zeros and ones.

    Raises:
        ValueError, TypeError: if x, y or params do not fit the network.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> from nnjax.evaluation import evaluate_labels
        >>> net = nnjax.mlp([2, 2])
        >>> params = (nnjax.Affine(w=9 * jnp.eye(2), b=jnp.array([-3.0, -3.0])),)
        >>> result = evaluate_labels(net, params, jnp.eye(2), jnp.array([[1, 0], [1, 1]]))
        >>> result.accuracy.tolist(), result.exact_match
        ([0.5, 1.0], 0.5)
    """
    inputs, given = check_batch(net, params, x, y)
    if given is None or given.ndim != 2:
        came = "is None" if given is None else f"has shape {given.shape}"
        raise ValueError(f"y {came}; expected zeros and ones, ({len(inputs)}, {net.n_out})")
    task = Multilabel()
    total = evaluate(net, params, inputs, given, task)
    predicted, true = np.asarray(predict(net, params, x, task)), np.asarray(task.predictions(given))
    found = ((predicted == 1) & (true == 1)).sum(axis=0)
    counts, claimed = (true == 1).sum(axis=0), (predicted == 1).sum(axis=0)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: there is nothing to measure by
        precision, recall, f1 = found / claimed, found / counts, 2 * found / (counts + claimed)
    right = ((predicted == true) & (predicted >= 0)).mean(axis=0)
    return LabelEvaluation(
        float(total.loss), float(total.exact_match), right, precision, recall, f1, counts
    )


def _short_names(names: tuple[str, ...], count: int) -> list[str]:
    """Return names for a table, or numbers where there are none."""
    shown = names or tuple(map(str, range(count)))
    return [name if len(name) <= 12 else f"{name[:11]}…" for name in shown]


def _percent(fraction: float) -> str:
    return "-" if np.isnan(fraction) else f"{100 * fraction:.2f} %"
