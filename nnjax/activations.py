"""Activation functions: a = σ(z), and how an error travels back through each of them.

Every activation is a small frozen description, so a network that holds it can be hashed and
compared. Called on an array it gives a = σ(z). `pull_back(z, a, g)` turns g = ∂C/∂a into
δ = ∂C/∂z, the second half of BP2: g ⊙ σ'(z) where the function works element by element, a full
Jacobian for softmax. It takes the a that the forward pass has computed already, so that nothing
is computed twice.

At a kink the derivative is the one on the left: 0 for `relu` at 0, the slope for `leaky_relu`;
for `absolute` it is 0, the mean of both sides. `jax.grad` of these functions says the same.

`softmax` normalises the last axis, so that every function here serves one example (n_out,) and a
batch (n, n_out) alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from nnjax.notation import Named

__all__ = [
    "ACTIVATIONS",
    "Absolute",
    "Activation",
    "Elementwise",
    "Identity",
    "LeakyReLU",
    "Probability",
    "ReLU",
    "Sigmoid",
    "Sign",
    "Softmax",
    "Step",
    "Tanh",
    "absolute",
    "identity",
    "leaky_relu",
    "relu",
    "require_activation",
    "sigmoid",
    "sign",
    "softmax",
    "step",
    "tanh",
]


class Activation(Named):
    """Base class of activation functions: a = σ(z) and its pull-back.

    To write one of your own, subclass `Elementwise` (or this class, where the Jacobian is full)
    as a frozen dataclass. It is called as its class is, unless it sets `name`.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> z = jnp.array([0.0, 1.0])
        >>> a = nnjax.tanh(z)
        >>> [round(float(d), 4) for d in nnjax.tanh.pull_back(z, a, jnp.ones(2))]
        [1.0, 0.42]
    """

    def __call__(self, z: jax.Array) -> jax.Array:
        """Return a = σ(z), of the shape and dtype of z."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(z)")

    def pull_back(self, z: jax.Array, a: jax.Array, g: jax.Array) -> jax.Array:
        """Return δ = ∂C/∂z, given a = σ(z) and g = ∂C/∂a (all of one shape)."""
        raise NotImplementedError(f"{type(self).__name__} must define pull_back(z, a, g)")


class Elementwise(Activation):
    """An activation function that works on every neuron by itself: δ = g ⊙ σ'(z).

    A subclass defines `__call__(z)` and `derivative_at(z, a)`.

    Example:
        >>> import dataclasses, jax.numpy as jnp, nnjax
        >>> @dataclasses.dataclass(frozen=True)
        ... class Square(nnjax.activations.Elementwise):
        ...     def __call__(self, z):
        ...         return z**2
        ...     def derivative_at(self, z, a):
        ...         return 2 * z
        >>> Square().derivative(jnp.array([3.0])).tolist()
        [6.0]
    """

    def derivative_at(self, z: jax.Array, a: jax.Array) -> jax.Array:
        """Return σ'(z), given z and a = σ(z), whichever is the better start."""
        raise NotImplementedError(f"{type(self).__name__} must define derivative_at(z, a)")

    def derivative(self, z: jax.Array) -> jax.Array:
        """Return σ'(z), of the shape and dtype of z."""
        z = jnp.asarray(z)
        return self.derivative_at(z, self(z))

    def pull_back(self, z: jax.Array, a: jax.Array, g: jax.Array) -> jax.Array:
        """Return δ = g ⊙ σ'(z): the second half of BP2, eq. 45 of the book."""
        return g * self.derivative_at(z, a)


class Probability(Activation):
    """An activation function whose outputs lie in (0, 1), with exact logarithms.

    A loss that takes ln a or ln(1 − a) asks for them here, as functions of z: so nothing
    overflows and nothing is lost where a rounds to 0 or 1.
    """

    def log(self, z: jax.Array) -> jax.Array:
        """Return ln a."""
        raise NotImplementedError(f"{type(self).__name__} must define log(z)")

    def log_complement(self, z: jax.Array) -> jax.Array:
        """Return ln(1 − a)."""
        raise NotImplementedError(f"{type(self).__name__} must define log_complement(z)")

    def pull_back_log(self, z: jax.Array, a: jax.Array, g: jax.Array) -> jax.Array:
        """Return ∂C/∂z, given g = ∂C/∂(ln a)."""
        raise NotImplementedError(f"{type(self).__name__} must define pull_back_log(z, a, g)")

    def pull_back_log_complement(self, z: jax.Array, a: jax.Array, g: jax.Array) -> jax.Array:
        """Return ∂C/∂z, given g = ∂C/∂(ln(1 − a))."""
        raise NotImplementedError(
            f"{type(self).__name__} must define pull_back_log_complement(z, a, g)"
        )


@dataclass(frozen=True)
class Sigmoid(Elementwise, Probability):
    """σ(z) = 1 / (1 + e⁻ᶻ), with σ' = σ (1 − σ) (eq. 3 of the book).

    Example:
        >>> import nnjax
        >>> float(nnjax.sigmoid(0.0)), float(nnjax.sigmoid.derivative(0.0))
        (0.5, 0.25)
    """

    name = "sigmoid"

    def __call__(self, z):
        return jax.nn.sigmoid(jnp.asarray(z))

    def derivative_at(self, z, a):
        return a * (1 - a)

    def log(self, z):
        return -jax.nn.softplus(-z)

    def log_complement(self, z):
        return -jax.nn.softplus(z)

    def pull_back_log(self, z, a, g):
        return g * self(-z)  # 1 − a, without the cancellation

    def pull_back_log_complement(self, z, a, g):
        return -g * a


@dataclass(frozen=True)
class Tanh(Elementwise):
    """tanh(z) = (eᶻ − e⁻ᶻ) / (eᶻ + e⁻ᶻ), with tanh' = 1 − tanh² (eq. 109 of the book).

    Example:
        >>> import nnjax
        >>> float(nnjax.tanh.derivative(0.0))
        1.0
    """

    name = "tanh"

    def __call__(self, z):
        return jnp.tanh(z)

    def derivative_at(self, z, a):
        return (1 + a) * (1 - a)  # 1 − a², without the cancellation where |a| nears 1


@dataclass(frozen=True)
class ReLU(Elementwise):
    """max(0, z); its derivative is 1 where z > 0, else 0, at the kink z = 0 too.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> nnjax.relu.derivative(jnp.array([-1.0, 0.0, 2.0])).tolist()
        [0.0, 0.0, 1.0]
    """

    name = "relu"

    def __call__(self, z):
        return jax.nn.relu(jnp.asarray(z))

    def derivative_at(self, z, a):
        return (z > 0).astype(z.dtype)


@dataclass(frozen=True)
class LeakyReLU(Elementwise):
    """z where z > 0, else slope · z; the derivative at the kink is the slope.

    Differs from `jax.nn.leaky_relu`, whose derivative at 0 is 1; PyTorch agrees with this one.

    Args:
        slope: the slope for z < 0, no unit.

    Raises:
        ValueError: if the slope is not a finite number.

    Example:
        >>> import nnjax
        >>> float(nnjax.LeakyReLU(slope=0.25)(-2.0))
        -0.5
    """

    name = "leaky_relu"
    slope: float = 0.01

    def __post_init__(self):
        _require(self.slope, "slope of LeakyReLU", "a finite number", lambda v: v - v == 0)

    def __call__(self, z):
        z = jnp.asarray(z)
        return jnp.where(z > 0, z, self.slope * z)

    def derivative_at(self, z, a):
        return jnp.where(z > 0, jnp.ones_like(z), jnp.full_like(z, self.slope))


@dataclass(frozen=True)
class Absolute(Elementwise):
    """|z|, with the derivative sign(z), which is 0 at 0.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> nnjax.absolute.derivative(jnp.array([-2.0, 0.0, 3.0])).tolist()
        [-1.0, 0.0, 1.0]
    """

    name = "absolute"

    def __call__(self, z):
        z = jnp.asarray(z)
        return z * jnp.sign(z)  # jax.grad of jnp.abs is 1 at 0; of this, sign(0) = 0

    def derivative_at(self, z, a):
        return jnp.sign(z)


@dataclass(frozen=True)
class Identity(Elementwise):
    """a = z, for linear outputs and for layers that have no activation function.

    Example:
        >>> import nnjax
        >>> float(nnjax.identity(3.0))
        3.0
    """

    name = "identity"

    def __call__(self, z):
        return jnp.asarray(z)

    def derivative_at(self, z, a):
        return jnp.ones_like(z)

    def pull_back(self, z, a, g):
        return g


@dataclass(frozen=True)
class Softmax(Probability):
    """a_j = e^{c z_j} / Σ_k e^{c z_k}, over the last axis (eq. 78 of the book; c = 1).

    Its Jacobian is full, ∂a_j/∂z_k = c a_j (δ_jk − a_k), so that
    pull_back: δ = c a ⊙ (g − ⟨g, a⟩).

    Args:
        scale: c > 0, the inverse temperature (the book's problem "where does the softmax name
            come from": c → ∞ gives the maximum).

    Raises:
        ValueError: if the scale is not positive and finite.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> nnjax.softmax(jnp.array([1000.0, 1000.0])).tolist()
        [0.5, 0.5]
    """

    name = "softmax"
    scale: float = 1.0

    def __post_init__(self):
        _require(
            self.scale,
            "scale of Softmax",
            "a positive finite number",
            lambda v: v > 0 and v - v == 0,
        )

    def __call__(self, z):
        return jax.nn.softmax(self._scaled(z))

    def pull_back(self, z, a, g):
        return self._scaled(a * (g - jnp.sum(g * a, axis=-1, keepdims=True)))

    def log(self, z):
        return jax.nn.log_softmax(self._scaled(z))

    def log_complement(self, z):
        if z.shape[-1] == 1:  # a is always 1, so ln(1 − a) is that of the least probability
            return jnp.full_like(z, jnp.log(jnp.finfo(z.dtype).tiny))
        return jax.nn.logsumexp(_others(self.log(z)), axis=-1)

    def pull_back_log(self, z, a, g):
        return self._scaled(g - a * jnp.sum(g, axis=-1, keepdims=True))

    def pull_back_log_complement(self, z, a, g):
        if z.shape[-1] == 1:
            return jnp.zeros_like(z)
        # ln(1 − a_j) = ln Σ_{k≠j} e^{z_k} − ln Σ_k e^{z_k}: two softmaxes, one without class j.
        without_j = jax.nn.softmax(_others(self._scaled(z)))
        through_others = jnp.einsum("...j,...jk->...k", g, without_j)
        return self._scaled(through_others - a * jnp.sum(g, axis=-1, keepdims=True))

    def _scaled(self, z):
        z = jnp.asarray(z)
        return z if self.scale == 1 else self.scale * z


@dataclass(frozen=True)
class Step(Activation):
    """The perceptron: 1 where z > 0, else 0 (eq. 2 of the book). It has no useful derivative.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> nnjax.step(jnp.array([-1.0, 0.0, 2.0])).tolist()
        [0.0, 0.0, 1.0]
    """

    name = "step"

    def __call__(self, z):
        z = jnp.asarray(z)
        return (z > 0).astype(z.dtype)

    def derivative(self, z):
        """Raise TypeError: the derivative is 0 wherever it exists."""
        raise TypeError(_no_derivative("step", "sigmoid"))

    def pull_back(self, z, a, g):
        raise TypeError(_no_derivative("step", "sigmoid"))


@dataclass(frozen=True)
class Sign(Activation):
    """−1, 0 or 1: the sign of z. It has no useful derivative.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> nnjax.sign(jnp.array([-3.0, 0.0, 2.0])).tolist()
        [-1.0, 0.0, 1.0]
    """

    name = "sign"

    def __call__(self, z):
        return jnp.sign(z)

    def derivative(self, z):
        """Raise TypeError: the derivative is 0 wherever it exists."""
        raise TypeError(_no_derivative("sign", "tanh"))

    def pull_back(self, z, a, g):
        raise TypeError(_no_derivative("sign", "tanh"))


def _others(z):
    """Return (..., n, n): row j holds z with class j taken out (−∞)."""
    n = z.shape[-1]
    return jnp.where(jnp.eye(n, dtype=bool), -jnp.inf, z[..., None, :])


def _no_derivative(name, smooth):
    return (
        f"{name} has no useful derivative: it is 0 wherever it exists, so nothing can be learned "
        f"through it by gradients; use {smooth}, its smooth form"
    )


def _require(value, name, expected, holds):
    try:
        good = bool(holds(value))
    except TypeError:
        good = False
    if not good:
        raise ValueError(f"{name} is {value!r}; expected {expected}")


sigmoid = Sigmoid()
tanh = Tanh()
relu = ReLU()
leaky_relu = LeakyReLU()
absolute = Absolute()
identity = Identity()
softmax = Softmax()
step = Step()
sign = Sign()


ACTIVATIONS: dict[str, Activation] = {
    activation.name: activation
    for activation in (
        sigmoid,
        tanh,
        relu,
        leaky_relu,
        absolute,
        identity,
        softmax,
        step,
        sign,
    )
}
"""The activation functions by name."""


def require_activation(value: Any, name: str) -> Activation:
    """Return `value` if it is an activation function of nnjax, else raise TypeError.

    Example:
        >>> import nnjax
        >>> nnjax.activations.require_activation(nnjax.tanh, "activation of Dense")
        Tanh()
    """
    if not isinstance(value, Activation):
        raise TypeError(
            f"{name} is {value!r}; expected an activation of nnjax.activations, such as "
            "nnjax.sigmoid, or your own subclass of nnjax.activations.Elementwise"
        )
    return value
