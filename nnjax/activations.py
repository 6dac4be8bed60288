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

`from_jax` makes an activation function of any function of JAX; that one's derivative is not written
by hand but left to `jax.vjp`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from nnjax.checks import plain_number
from nnjax.notation import Named, function_name

__all__ = [
    "ACTIVATIONS",
    "ELU",
    "GELU",
    "Absolute",
    "Activation",
    "Elementwise",
    "ElementwiseFromJax",
    "FromJax",
    "GELUTanh",
    "Identity",
    "LeakyReLU",
    "Probability",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Sign",
    "Softmax",
    "Softplus",
    "Step",
    "Tanh",
    "absolute",
    "elu",
    "from_jax",
    "gelu",
    "gelu_tanh",
    "identity",
    "leaky_relu",
    "relu",
    "require_activation",
    "sigmoid",
    "sign",
    "silu",
    "softmax",
    "softplus",
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

    A subclass defines `__call__(z)` and `derivative_at(z, a)`. It sets `increasing` where σ falls
    nowhere: the largest of several σ(z) is then σ of the largest z, which saves work.

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

    increasing: ClassVar[bool] = False

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
    increasing = True

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
    increasing = True

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
    increasing = True

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
        _set(self, "slope", "a finite number", lambda v: v - v == 0)

    def __call__(self, z):
        z = jnp.asarray(z)
        return jnp.where(z > 0, z, self.slope * z)

    def derivative_at(self, z, a):
        return jnp.where(z > 0, jnp.ones_like(z), jnp.full_like(z, self.slope))


@dataclass(frozen=True)
class ELU(Elementwise):
    """z where z > 0, else α (eᶻ − 1), with the derivative 1 or α eᶻ; α at 0.

    Args:
        alpha: α, the limit for z → −∞ is −α; no unit.

    Raises:
        ValueError: if alpha is not a finite number.

    Example:
        >>> import nnjax
        >>> float(nnjax.elu(2.0)), round(float(nnjax.elu(-2.0)), 4)
        (2.0, -0.8647)

    Reference: Clevert, Unterthiner and Hochreiter 2015, arXiv:1511.07289.
    """

    name = "elu"
    alpha: float = 1.0

    def __post_init__(self):
        _set(self, "alpha", "a finite number", lambda v: v - v == 0)

    def __call__(self, z):
        z = jnp.asarray(z)
        return jnp.where(z > 0, z, self.alpha * jnp.expm1(_negative(z)))

    def derivative_at(self, z, a):
        return jnp.where(z > 0, jnp.ones_like(z), self.alpha * jnp.exp(_negative(z)))


@dataclass(frozen=True)
class Softplus(Elementwise):
    """ln(1 + eᶻ), a smooth max(0, z); its derivative is the sigmoid, 1 / (1 + e⁻ᶻ).

    Example:
        >>> import nnjax
        >>> round(float(nnjax.softplus(0.0)), 4), float(nnjax.softplus.derivative(0.0))
        (0.6931, 0.5)
    """

    name = "softplus"
    increasing = True

    def __call__(self, z):
        return jax.nn.softplus(jnp.asarray(z))

    def derivative_at(self, z, a):
        return jax.nn.sigmoid(z)


@dataclass(frozen=True)
class SiLU(Elementwise):
    """z s(z) with s(z) = 1 / (1 + e⁻ᶻ), also known as swish; the derivative is s + a (1 − s).

    Example:
        >>> import nnjax
        >>> float(nnjax.silu.derivative(0.0))
        0.5

    Reference: Elfwing, Uchibe and Doya 2018, arXiv:1702.03118.
    """

    name = "silu"

    def __call__(self, z):
        return jax.nn.silu(jnp.asarray(z))

    def derivative_at(self, z, a):
        s = jax.nn.sigmoid(z)
        return s + a * (1 - s)


@dataclass(frozen=True)
class GELU(Elementwise):
    """z Φ(z), with the derivative Φ(z) + z φ(z).

    Φ is the distribution function of N(0, 1), φ(z) = e^{−z²/2} / √2π its density. This is the exact
    form, as in PyTorch; differs from `jax.nn.gelu`, whose default is `gelu_tanh`.

    Example:
        >>> import nnjax
        >>> round(float(nnjax.gelu(1.0)), 4), float(nnjax.gelu.derivative(0.0))
        (0.8413, 0.5)

    Reference: Hendrycks and Gimpel 2016, arXiv:1606.08415.
    """

    name = "gelu"

    def __call__(self, z):
        return jax.nn.gelu(jnp.asarray(z), approximate=False)

    def derivative_at(self, z, a):
        density = jnp.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
        return jax.scipy.special.erfc(-z / math.sqrt(2)) / 2 + z * density


@dataclass(frozen=True)
class GELUTanh(Elementwise):
    """z (1 + tanh u) / 2 with u = √(2/π) (z + 0.044715 z³): close to `gelu`, and cheaper.

    Since (1 + tanh u) / 2 = s(2u) with s the sigmoid, it is z s, with the derivative
    s + z s (1 − s) 2u', u' = √(2/π) (1 + 3·0.044715 z²): nothing cancels. Where |z| > 25, s is 0 or
    1 to the last digit; it is taken at ±25, so that no power of z overflows.

    Example:
        >>> import nnjax
        >>> round(float(nnjax.gelu_tanh(1.0)), 4), float(nnjax.gelu_tanh.derivative(0.0))
        (0.8412, 0.5)

    Reference: Hendrycks and Gimpel 2016, arXiv:1606.08415; the default of `jax.nn.gelu`.
    """

    name = "gelu_tanh"

    def __call__(self, z):
        z = jnp.asarray(z)
        return z * self._s(jnp.clip(z, -25, 25))

    def derivative_at(self, z, a):
        z = jnp.clip(z, -25, 25)
        s, slope = self._s(z), math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z**2)
        return s + z * s * (1 - s) * 2 * slope

    def _s(self, z):
        return jax.nn.sigmoid(2 * math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))


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
        _set(self, "scale", "a positive finite number", lambda v: v > 0 and v - v == 0)

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


@dataclass(frozen=True)
class FromJax(Activation):
    """A function of JAX as an activation function, its pull-back by `jax.vjp`: see `from_jax`.

    Two are equal if they are made of the same function.

    Example:
        >>> import jax, nnjax
        >>> nnjax.activations.from_jax(jax.nn.log_softmax)
        from_jax(log_softmax, derivative by jax.vjp)
    """

    function: Callable[[jax.Array], jax.Array]

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The name of the function."""
        return function_name(self.function)

    def __call__(self, z):
        return self.function(jnp.asarray(z))

    def pull_back(self, z, a, g):
        return jax.vjp(self.function, z)[1](g)[0]

    def __repr__(self) -> str:
        return f"from_jax({self.name}, derivative by jax.vjp)"


@dataclass(frozen=True, repr=False)
class ElementwiseFromJax(FromJax, Elementwise):
    """A function of JAX that works element by element: it has a `derivative` too.

    Example:
        >>> import jax, nnjax
        >>> float(nnjax.activations.from_jax(jax.nn.mish).derivative(0.0))
        0.6000000238418579
    """

    name = FromJax.name

    def derivative_at(self, z, a):
        return jax.vjp(self.function, z)[1](jnp.ones_like(z))[0]


def from_jax(function: Callable[[jax.Array], jax.Array]) -> FromJax:
    """Return an activation function made of a function of JAX, such as `jax.nn.mish`.

    Its derivative is not written by hand: `jax.vjp` gives it, and the activation says so when
    printed. On the command line and in architectures, which take activations by name, there are
    only those of `ACTIVATIONS`; `nnjax.save` refuses the network, whose parameters can be saved.

    Args:
        function: of an array (..., n_out), to an array of its shape and dtype. Rows must not
            depend on one another.

    Raises:
        TypeError: if it is not such a function.

    Example:
        >>> import jax, nnjax
        >>> mish = nnjax.activations.from_jax(jax.nn.mish)
        >>> mish == nnjax.activations.from_jax(jax.nn.mish)
        True
        >>> nnjax.mlp([784, 30, 10], activation=mish).layers[0].activation
        from_jax(mish, derivative by jax.vjp)
    """
    expected = "a function of JAX from an array to one of its shape and dtype, such as jax.nn.mish"
    if not callable(function):
        raise TypeError(f"function is {function!r}; expected {expected}")
    with jax.ensure_compile_time_eval():  # where it is called within a jitted function too
        z = jnp.array([0.3, -1.2])
        try:
            a, *alone = jax.jit(lambda z: tuple(map(function, (z, z[:1], z[1:]))))(z)
        except Exception as error:
            raise TypeError(
                f"function is {function!r}, which jax.jit cannot apply to an array (2,) "
                f"({type(error).__name__}); expected {expected}"
            ) from error
        if getattr(a, "shape", None) != z.shape or a.dtype != z.dtype:
            raise TypeError(
                f"function is {function!r}, which makes {a!r} of an array (2,) of {z.dtype}; "
                f"expected {expected}"
            )
        elementwise = bool(jnp.allclose(a, jnp.concatenate(alone), rtol=1e-4, atol=1e-5))
    return (ElementwiseFromJax if elementwise else FromJax)(function)


def _negative(z):
    """Return z where it is negative, else 0: so that no exponential overflows where unused."""
    return jnp.where(z > 0, jnp.zeros_like(z), z)


def _others(z):
    """Return (..., n, n): row j holds z with class j taken out (−∞)."""
    n = z.shape[-1]
    return jnp.where(jnp.eye(n, dtype=bool), -jnp.inf, z[..., None, :])


def _no_derivative(name, smooth):
    return (
        f"{name} has no useful derivative: it is 0 wherever it exists, so nothing can be learned "
        f"through it by gradients; use {smooth}, its smooth form"
    )


def _set(activation, name, expected, holds):
    """Make a parameter of a description a plain number, if it is one for which `holds` is true."""
    value = getattr(activation, name)
    try:
        good = bool(holds(value))
    except TypeError:
        good = False
    if not good:
        raise ValueError(f"{name} of {type(activation).__name__} is {value!r}; expected {expected}")
    object.__setattr__(activation, name, plain_number(value))  # as the description is frozen


sigmoid = Sigmoid()
tanh = Tanh()
relu = ReLU()
leaky_relu = LeakyReLU()
elu = ELU()
softplus = Softplus()
silu = SiLU()
gelu = GELU()
gelu_tanh = GELUTanh()
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
        elu,
        softplus,
        silu,
        gelu,
        gelu_tanh,
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
