"""How well a network does, class by class: confusion matrix, precision, recall."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.network import Network, Params, check_batch, evaluate, predict

__all__ = ["ClassEvaluation", "evaluate_classes"]


class ClassEvaluation(NamedTuple):
    """What `evaluate_classes` returns. Classes j, k = 0, …, m − 1.

    Attributes:
        loss: the mean loss over the examples.
        accuracy: the fraction of examples classified correctly.
        confusion: (m, m) counts: row j, column k: examples of class j that were predicted as k.
        precision: (m,) of those predicted as j, the fraction of class j; NaN where there is none.
        recall: (m,) of those of class j, the fraction predicted as j; NaN where there is none.
        predictions: (n,) the predicted class of each example.
    """

    loss: float
    accuracy: float
    confusion: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    predictions: np.ndarray

    def __str__(self) -> str:
        """Return it as text: one line for all classes, one line per class, the confusion matrix."""
        n = self.confusion.sum()
        correct = np.trace(self.confusion)
        total = f"accuracy {_percent(self.accuracy)} ({correct}/{n}), loss {self.loss:.4f}"
        lines = [total, ""]
        lines.append("class  examples  precision  recall")
        for j, row in enumerate(self.confusion):
            lines.append(
                f"{j:5d}  {row.sum():8d}  {_percent(self.precision[j]):>9}  "
                f"{_percent(self.recall[j]):>6}"
            )
        width = max(5, len(str(self.confusion.max())) + 1)
        lines += ["", "confusion matrix (rows: true class, columns: predicted class)"]
        lines.append(" " * 5 + "".join(f"{k:{width}d}" for k in range(len(self.confusion))))
        for j, row in enumerate(self.confusion):
            lines.append(f"{j:5d}" + "".join(f"{count:{width}d}" for count in row))
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return it for JSON, without the predictions of single examples; NaN becomes null."""
        return {
            "examples": int(self.confusion.sum()),
            "loss": self.loss,
            "accuracy": self.accuracy,
            "precision": [None if np.isnan(p) else float(p) for p in self.precision],
            "recall": [None if np.isnan(r) else float(r) for r in self.recall],
            "confusion": self.confusion.tolist(),
        }


def evaluate_classes(net: Network, params: Params, x: jax.Array, y: jax.Array) -> ClassEvaluation:
    """Return loss, accuracy, and how well each class is told from the others.

    precision_j = confusion_jj / Σ_i confusion_ij, recall_j = confusion_jj / Σ_k confusion_jk.

    Args:
        net: the network; with a single output the classes are 0 and 1.
        params: its parameters.
        x: (n, *input_shape) inputs.
        y: (n,) integer classes, or (n, n_out) targets, of which the largest is the class.

    Raises:
        ValueError, TypeError: if x, y or params do not fit the network.

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
    if net.n_out == 1 and jnp.ndim(y) == 1:
        if other := {*np.asarray(y).tolist()} - {0, 1}:
            raise ValueError(
                f"y holds the class {min(other)}; this network has 1 output, so classes are 0 and 1"
            )
        y = jnp.asarray(y, jax.tree.leaves(params)[0].dtype)[:, None]  # they are its targets
    x, y = check_batch(net, params, x, y)
    total = evaluate(net, params, x, y)
    read = np.asarray(predict(net, params, x))
    if y.ndim == 2:
        y = jnp.argmax(y, axis=-1) if net.n_out > 1 else y[:, 0] > 0.5
    m = max(net.n_out, 2)
    confusion = np.zeros((m, m), int)
    np.add.at(confusion, (np.asarray(y, int), read), 1)
    right = np.diagonal(confusion).astype(float)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: there is nothing to measure by
        precision, recall = right / confusion.sum(axis=0), right / confusion.sum(axis=1)
    return ClassEvaluation(
        float(total.loss), float(total.accuracy), confusion, precision, recall, read
    )


def _percent(fraction: float) -> str:
    return "-" if np.isnan(fraction) else f"{100 * fraction:.2f} %"
