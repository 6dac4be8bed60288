"""Losses: how far the outputs a are from the targets y, and BP1, the error where it all begins.

A loss called as `loss(a, y)` gives one value per example; the loss of a batch, C, is their mean.
Targets are one-hot or soft (..., n_out), or integer classes (...), which are one-hot encoded; of
a single output the classes are 0 and 1, which are its targets, and real targets may be (...).

`output_error(activation, z, a, y)` is BP1, δ^L = ∂C_x/∂a ⊙ σ'(z^L) (eq. 30 of the book). Where
a loss takes logarithms of an activation in (0, 1), sigmoid or softmax, loss and error are both
evaluated from z: sigmoid with cross-entropy and softmax with log-likelihood give δ^L = a − y, and
every pairing stays finite and right where a rounds to 0 or 1.

`from_jax` makes a loss of any function of JAX; that one's gradient is not written by hand but left
to `jax.vjp`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from nnjax.activations import Activation, Probability, sigmoid, softmax
from nnjax.checks import require_real_array
from nnjax.notation import Named, factor, function_name, number, total

__all__ = [
    "LOSSES",
    "CrossEntropy",
    "FromJax",
    "LogLikelihood",
    "Loss",
    "Quadratic",
    "cross_entropy",
    "from_jax",
    "log_likelihood",
    "quadratic",
    "require_loss",
    "targets",
]


def targets(y: jax.Array, a: jax.Array) -> jax.Array:
    """Return targets of the shape and dtype of the outputs a; integer classes become one-hot.

    With a single output the classes are 0 and 1. A class out of range becomes a row of NaN, so
    that under jit, where values cannot be looked at, a wrong label shows in the loss.

    Args:
        y: (..., n_out) one-hot or soft targets, or (...) integer classes; of a single output also
            (...) real targets.
        a: (..., n_out) outputs.

    Raises:
        ValueError: if y fits neither shape, or a has no axis of outputs.
        TypeError: if they are not arrays of real numbers.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> nnjax.losses.targets(jnp.array([2, 0]), jnp.zeros((2, 3))).tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    y, a = (jnp.asarray(require_real_array(v, name)) for v, name in ((y, "y"), (a, "a")))
    if a.ndim == 0:
        raise ValueError("a is a single number; expected outputs of shape (..., n_out)")
    n_out = a.shape[-1]
    if y.shape == a.shape:
        return y.astype(a.dtype)
    if y.shape == a.shape[:-1] and jnp.issubdtype(y.dtype, jnp.integer):
        y = y.astype(jnp.int32) if y.dtype.itemsize < 4 else y  # int8 has no class 200
        in_range = ((y >= 0) & (y < max(n_out, 2)))[..., None]
        one = jax.nn.one_hot(y, n_out, dtype=a.dtype) if n_out > 1 else y[..., None].astype(a.dtype)
        return jnp.where(in_range, one, jnp.nan)
    if y.shape == a.shape[:-1] and n_out == 1:
        return y[..., None].astype(a.dtype)
    raise ValueError(
        f"y has shape {y.shape} and dtype {y.dtype} for outputs of shape {a.shape}; expected "
        f"{a.shape} one-hot or soft targets, or {a.shape[:-1]} integer classes"
    )


class Loss(Named):
    """Base class of losses. A subclass defines `value(a, y)` and `gradient_at(a, y)`.

    It may also say what it is called, `name` (as its class, unless it does), which activation
    suits it at the output, `output`, and how its formula reads, `text` and `numbers`.

    Attributes:
        name: what it is called in reports and on the command line.
        output: the activation that an output layer has unless another is asked for.

    Example:
        >>> import dataclasses, jax.numpy as jnp, nnjax
        >>> @dataclasses.dataclass(frozen=True)
        ... class Absolute(nnjax.losses.Loss):
        ...     def value(self, a, y):
        ...         return jnp.sum(jnp.abs(a - y), axis=-1)
        ...     def gradient_at(self, a, y):
        ...         return jnp.sign(a - y)
        >>> Absolute()(jnp.array([[1.0, 3.0]]), jnp.array([[1.0, 1.0]])).tolist()
        [2.0]
    """

    output: ClassVar[Activation] = sigmoid

    def value(self, a: jax.Array, y: jax.Array) -> jax.Array:
        """Return C_x (...), given outputs and targets, both (..., n_out)."""
        raise NotImplementedError(f"{type(self).__name__} must define value(a, y)")

    def gradient_at(self, a: jax.Array, y: jax.Array) -> jax.Array:
        """Return ∂C_x/∂a (..., n_out), given outputs and targets, both (..., n_out)."""
        raise NotImplementedError(f"{type(self).__name__} must define gradient_at(a, y)")

    def __call__(self, a: jax.Array, y: jax.Array) -> jax.Array:
        """Return C_x, one value per example: (...), given a (..., n_out)."""
        a = _floating(a)
        return self.value(a, targets(y, a))

    def gradient(self, a: jax.Array, y: jax.Array) -> jax.Array:
        """Return ∂C_x/∂a, of the shape of a."""
        a = _floating(a)
        return self.gradient_at(a, targets(y, a))

    def at(self, activation: Activation, z: jax.Array, a: jax.Array, y: jax.Array) -> jax.Array:
        """Return C_x in its stable form, given z and a = activation(z)."""
        return self(a, y)

    def output_error(
        self, activation: Activation, z: jax.Array, a: jax.Array, y: jax.Array
    ) -> jax.Array:
        """Return δ^L = ∂C_x/∂z^L (BP1), of the shape of z, in its stable form."""
        return activation.pull_back(z, a, self.gradient(a, y))

    def text(self, a: Sequence[str], y: Sequence[str]) -> str:
        """Return C_x as a formula of symbols, such as a = ["a₁", "a₂"] and y = ["y₁", "y₂"]."""
        return f"{self.name}([{', '.join(a)}], [{', '.join(y)}])"

    def numbers(self, a: Sequence[float], y: Sequence[float]) -> str:
        """Return the same formula with the numbers put in."""
        return self.text([number(v) for v in a], [number(v) for v in y])

    def slope_text(self, a: str, y: str) -> str | None:
        """Return ∂C_x/∂a_j as a formula, or None where it is not written out."""
        return None


@dataclass(frozen=True)
class Quadratic(Loss):
    """C_x = ½ Σ_j (a_j − y_j)², eq. 6 of the book for one example.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> nnjax.quadratic(jnp.array([[0.0, 3.0]]), jnp.array([[0.0, 1.0]])).tolist()
        [2.0]
    """

    name = "quadratic"

    def value(self, a, y):
        return jnp.sum((a - y) ** 2, axis=-1) / 2

    def gradient_at(self, a, y):
        return a - y

    def text(self, a, y):
        return f"½ ({total([f'({p} − {q})²' for p, q in zip(a, y, strict=True)])})"

    def numbers(self, a, y):
        return self.text([number(v) for v in a], [factor(v) for v in y])

    def slope_text(self, a, y):
        return f"({a} − {y})"


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """C_x = −Σ_j [y_j ln a_j + (1 − y_j) ln(1 − a_j)], eq. 63 of the book for one example.

    With sigmoid outputs δ^L = a − y. An output outside (0, 1), which only an activation that is
    not a probability gives, counts as the nearest probability; there the gradient is 0.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> round(float(nnjax.cross_entropy(jnp.array([[0.5]]), jnp.array([[1.0]]))[0]), 4)
        0.6931
    """

    name = "cross_entropy"

    def value(self, a, y):
        return -jnp.sum(y * _log(a) + (1 - y) * _log(1 - a), axis=-1)

    def gradient_at(self, a, y):
        return (1 - y) * _log_derivative(1 - a) - y * _log_derivative(a)

    def at(self, activation, z, a, y):
        if not isinstance(activation, Probability):
            return self(a, y)
        y = targets(y, a)
        return -jnp.sum(y * activation.log(z) + (1 - y) * activation.log_complement(z), axis=-1)

    def output_error(self, activation, z, a, y):
        if not isinstance(activation, Probability):
            return super().output_error(activation, z, a, y)
        y = targets(y, a)
        return activation.pull_back_log(z, a, -y) + activation.pull_back_log_complement(z, a, y - 1)

    def text(self, a, y):
        pairs = zip(a, y, strict=True)
        return f"−({total([f'{q} ln {p} + (1 − {q}) ln(1 − {p})' for p, q in pairs])})"

    def numbers(self, a, y):
        terms = [
            f"{factor(q)}·ln {number(p)} + {factor(1 - q)}·ln {number(1 - p)}"
            for p, q in zip(a, y, strict=True)
        ]
        return f"−({total(terms)})"


@dataclass(frozen=True)
class LogLikelihood(Loss):
    """C_x = −Σ_j y_j ln a_j, which is −ln a_y for one-hot y (eq. 80 of the book).

    With softmax outputs δ^L = a − y. An output outside (0, 1) counts as the nearest probability.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> round(float(nnjax.log_likelihood(jnp.array([[0.25, 0.75]]), jnp.array([0]))[0]), 4)
        1.3863
    """

    name = "log_likelihood"
    output = softmax

    def value(self, a, y):
        return -jnp.sum(y * _log(a), axis=-1)

    def gradient_at(self, a, y):
        return -y * _log_derivative(a)

    def at(self, activation, z, a, y):
        if not isinstance(activation, Probability):
            return self(a, y)
        return -jnp.sum(targets(y, a) * activation.log(z), axis=-1)

    def output_error(self, activation, z, a, y):
        if not isinstance(activation, Probability):
            return super().output_error(activation, z, a, y)
        return activation.pull_back_log(z, a, -targets(y, a))

    def text(self, a, y):
        return f"−({total([f'{q} ln {p}' for p, q in zip(a, y, strict=True)])})"

    def numbers(self, a, y):
        terms = [f"{factor(q)}·ln {number(p)}" for p, q in zip(a, y, strict=True)]
        return f"−({total(terms)})"


@dataclass(frozen=True)
class FromJax(Loss):
    """A function of JAX as a loss, its gradient by `jax.vjp`: see `from_jax`.

    Two are equal if they are made of the same function.

    Example:
        >>> import nnjax, optax
        >>> nnjax.losses.from_jax(optax.softmax_cross_entropy)
        from_jax(softmax_cross_entropy, derivative by jax.vjp)
    """

    function: Callable[[jax.Array, jax.Array], jax.Array]

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The name of the function."""
        return function_name(self.function)

    def value(self, a, y):
        return self.function(a, y)

    def gradient_at(self, a, y):
        value, vjp = jax.vjp(lambda a: self.function(a, y), a)
        return vjp(jnp.ones_like(value))[0]

    def __repr__(self) -> str:
        return f"from_jax({self.name}, derivative by jax.vjp)"


def from_jax(function: Callable[[jax.Array, jax.Array], jax.Array]) -> FromJax:
    """Return a loss made of a function of JAX, such as `optax.softmax_cross_entropy`.

    Its gradient is not written by hand: `jax.vjp` gives it, and the loss says so when printed. It
    is a function of the outputs a alone: one that takes logits belongs to a network whose output
    is `identity`. On the command line, which takes losses by name, there are only those of
    `LOSSES`; `nnjax.save` refuses the network, whose parameters can be saved.

    Args:
        function: of outputs a and targets y, both (..., n_out), to one value per example, (...).
            Examples must not depend on one another.

    Raises:
        TypeError: if it is not such a function.

    Example:
        >>> import jax.numpy as jnp, nnjax, optax
        >>> loss = nnjax.losses.from_jax(optax.softmax_cross_entropy)
        >>> net = nnjax.mlp([784, 30, 10], output=nnjax.identity, loss=loss)
        >>> loss.gradient(jnp.zeros((1, 2)), jnp.array([1])).tolist()
        [[0.5, -0.5]]
    """
    expected = "a function of JAX from outputs and targets, (..., n_out) each, to one value per row"
    if not callable(function):
        raise TypeError(f"function is {function!r}; expected {expected}")
    rows = jax.ShapeDtypeStruct((2, 3), jnp.result_type(float))
    try:
        values = jax.eval_shape(function, rows, rows)
    except Exception as error:
        raise TypeError(
            f"function is {function!r}, which jax.jit cannot apply to outputs and targets (2, 3) "
            f"({type(error).__name__}); expected {expected}"
        ) from error
    shape = getattr(values, "shape", None)
    if shape != (2,):
        hint = ": take the sum over the last axis" if shape == (2, 3) else ""
        raise TypeError(
            f"function is {function!r}, which makes {values!r} of outputs (2, 3); expected "
            f"{expected}{hint}"
        )
    return FromJax(function)


def _floating(a):
    a = jnp.asarray(a)
    return a if jnp.issubdtype(a.dtype, jnp.floating) else a.astype(float)


def _log(p):
    """Return ln p for p read as a probability: at least the smallest number, at most 1."""
    tiny = jnp.finfo(p.dtype).tiny
    low, high = p < tiny, p > 1
    inside = jnp.log(jnp.where(low | high, jnp.ones_like(p), p))
    return jnp.where(low, jnp.log(jnp.full_like(p, tiny)), inside)


def _log_derivative(p):
    """Return the derivative of `_log`: 1/p inside, 0 outside."""
    outside = (p < jnp.finfo(p.dtype).tiny) | (p > 1)
    return jnp.where(outside, jnp.zeros_like(p), 1 / jnp.where(outside, jnp.ones_like(p), p))


quadratic = Quadratic()
cross_entropy = CrossEntropy()
log_likelihood = LogLikelihood()

LOSSES: dict[str, Loss] = {loss.name: loss for loss in (cross_entropy, log_likelihood, quadratic)}
"""The losses by name."""


def require_loss(value: Any) -> Loss:
    """Return `value` if it is a loss of nnjax, else raise TypeError.

    Example:
        >>> import nnjax
        >>> nnjax.losses.require_loss("mse")
        Traceback (most recent call last):
        ...
        TypeError: loss is 'mse'; expected a loss such as nnjax.cross_entropy
    """
    if not isinstance(value, Loss):
        raise TypeError(f"loss is {value!r}; expected a loss such as nnjax.cross_entropy")
    return value
