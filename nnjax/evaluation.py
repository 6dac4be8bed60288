"""How well a network does: its classes, loss and accuracy, and the same class by class.

Where x, a parameter or an output is NaN or infinite, there is no class: `predict` says −1, which
no label is, so that such examples never count as correct.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from nnjax.checks import checked
from nnjax.display import heading, table
from nnjax.losses import targets
from nnjax.network import (
    Network,
    Params,
    check_batch,
    forward,
    in_pieces,
    losses_and_outputs,
    wide_outputs,
)
from nnjax.pieces import at_least_float32
from nnjax.sharding import like_examples

__all__ = [
    "ClassEvaluation",
    "Evaluation",
    "accuracy",
    "evaluate",
    "evaluate_classes",
    "predict",
]


def _inputs(net, params, x):
    return net, params, check_batch(net, params, x)[0]


def _examples(net, params, x, y):
    return net, params, *check_batch(net, params, x, y)


@checked(_inputs, layout=like_examples)
def predict(net: Network, params: Params, x: ArrayLike) -> jax.Array:
    """Return the class of each example (n,): the strongest output; of a single output, a > ½.

    It is −1 where the example, the parameters or the outputs are not finite.

    Args:
        net: the network.
        params: its parameters.
        x: (n, *input_shape) inputs, as many as fit in memory: they are worked through in pieces.

    Raises:
        ValueError, TypeError: if x or params do not fit the network.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2])
        >>> nnjax.predict(net, nnjax.init(net, jax.random.key(0)), jnp.ones((5, 3))).shape
        (5,)
    """

    def classes(x):
        return _predictions(params, x, wide_outputs(net, forward(net, params, x, None))[1])

    return in_pieces(net, classes, x)


class Evaluation(NamedTuple):
    """What `evaluate` returns.

    Attributes:
        loss: the mean loss over the examples, ().
        accuracy: the fraction of correct predictions, ().
        correct: the number of correct predictions, ().
    """

    loss: jax.Array
    accuracy: jax.Array
    correct: jax.Array


@checked(_examples)
def evaluate(net: Network, params: Params, x: ArrayLike, y: ArrayLike) -> Evaluation:
    """Return the mean loss and the accuracy at inference, in one pass, a piece at a time.

    Both are means in float32 at least. An example that is not finite, or whose outputs are not,
    is never correct.

    Args:
        net: the network.
        params: its parameters.
        x: (n, *input_shape) inputs.
        y: (n,) integer classes, or (n, n_out) targets, of which the largest is the class.

    Raises:
        ValueError, TypeError: if x, y or params do not fit the network.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> nnjax.evaluate(net, params, jnp.eye(3), jnp.array([0, 1, 0]))._fields
        ('loss', 'accuracy', 'correct')
    """

    def one_piece(examples):
        x, y = examples
        losses, a = losses_and_outputs(net, params, x, y, None)
        predictions, labels = _predictions(params, x, a), _classes(targets(y, a))
        return losses, (predictions == labels) & (predictions >= 0)

    losses, correct = in_pieces(net, one_piece, (x, y))
    dtype = at_least_float32(losses.dtype)
    return Evaluation(
        jnp.mean(losses, dtype=dtype), jnp.mean(correct, dtype=dtype), jnp.sum(correct)
    )


def accuracy(net: Network, params: Params, x: ArrayLike, y: ArrayLike) -> jax.Array:
    """Return the fraction of examples that are classified correctly, between 0 and 1.

    Args, raises: see `evaluate`.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> x = jnp.eye(3)
        >>> float(nnjax.accuracy(net, params, x, nnjax.predict(net, params, x)))
        1.0
    """
    return evaluate(net, params, x, y).accuracy


def _classes(a):
    """Return the class of each row of outputs or targets, −1 where it is not finite."""
    classes = jnp.argmax(a, axis=-1) if a.shape[-1] > 1 else (a[..., 0] > 0.5).astype(int)
    return jnp.where(jnp.isfinite(a).all(axis=-1), classes, -1)


def _predictions(params, x, a):
    """Return the class of each example, −1 where it, the parameters or a are not finite."""
    finite = jnp.isfinite(x).all(axis=range(1, x.ndim))
    for leaf in jax.tree.leaves(params):
        finite &= jnp.isfinite(leaf).all()
    return jnp.where(finite, _classes(a), -1)


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
        names = [
            name if len(name) <= 12 else f"{name[:11]}…"
            for name in self.classes or map(str, range(len(self.confusion)))
        ]
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
            because it, the parameters or the outputs are NaN or infinite.

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
    on_host = np.asarray(y) if isinstance(y, jax.Array) else y
    inputs, given = check_batch(net, params, x, on_host)
    total, predictions = evaluate(net, params, inputs, given), np.asarray(predict(net, params, x))
    labels = np.asarray(given if given.ndim == 1 else _classes(given), int)
    for name, classes, of in (
        ("x", predictions, ", the parameters or the outputs"),
        ("y", labels, ""),
    ):
        if (classes < 0).any():
            raise ValueError(
                f"{(classes < 0).sum()} of {len(classes)} examples have no class, the first of "
                f"them {name}[{np.argmax(classes < 0)}]: it{of} is not finite"
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


def _percent(fraction: float) -> str:
    return "-" if np.isnan(fraction) else f"{100 * fraction:.2f} %"
