"""Activation functions: values, pull-backs against jax.vjp, and the rules at kinks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from strategies import ACTIVATIONS

import nnjax
from nnjax import activations

EVERYWHERE = [-1000.0, -3.0, -0.5, 0.0, 1e-3, 0.7, 4.0, 1000.0]


@functools.partial(jax.jit, static_argnums=0)
def value_and_both_pull_backs(activation, z, g):
    """Return σ(z), the pull-back by hand, and that of autodiff."""
    a, vjp = jax.vjp(activation, z)
    return a, activation.pull_back(z, a, g), vjp(g)[0]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_pull_back_is_the_vjp(activation):
    """With a random cotangent: a plain sum would hide a wrong softmax."""
    with jax.enable_x64(True):
        z = np.random.default_rng(0).normal(size=(5, 4), scale=2.0)
        g = np.random.default_rng(1).normal(size=(5, 4))
        _, delta, auto = value_and_both_pull_backs(activation, z, g)
        np.testing.assert_allclose(delta, auto, rtol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_far_from_zero_and_at_kinks(activation, dtype):
    with jax.enable_x64(dtype == "float64"):
        z, g = (np.array(values).astype(dtype) for values in (EVERYWHERE, range(1, 9)))
        a, delta, auto = value_and_both_pull_backs(activation, z, g)
    assert a.dtype == delta.dtype == z.dtype
    a, delta, auto = (np.asarray(array, float) for array in (a, delta, auto))
    assert np.isfinite(a).all()
    assert np.isfinite(delta).all()
    np.testing.assert_allclose(delta, auto, rtol=2e-2 if dtype == "bfloat16" else 1e-5)


@pytest.mark.parametrize(
    ("activation", "at_zero"),
    [
        (nnjax.sigmoid, 0.25),
        (nnjax.tanh, 1.0),
        (nnjax.relu, 0.0),
        (nnjax.leaky_relu, 0.01),
        (nnjax.LeakyReLU(-0.5), -0.5),
        (nnjax.gelu, 0.5),
        (nnjax.gelu_tanh, 0.5),
        (nnjax.silu, 0.5),
        (nnjax.softplus, 0.5),
        (nnjax.elu, 1.0),
        (nnjax.ELU(0.4), 0.4),
        (activations.from_jax(jax.nn.mish), 0.6),
        (nnjax.absolute, 0.0),
        (nnjax.identity, 1.0),
    ],
    ids=repr,
)
def test_derivative(activation, at_zero):
    assert float(activation.derivative(0.0)) == pytest.approx(at_zero)
    with jax.enable_x64(True):
        z = jnp.array([-2.0, -0.3, 0.4, 3.0])
        differences = (activation(z + 1e-6) - activation(z - 1e-6)) / 2e-6
        np.testing.assert_allclose(activation.derivative(z), differences, rtol=1e-7)


def test_values():
    z = jnp.array([-1.0, 0.0, 2.0])
    expected = {
        nnjax.sigmoid: 1 / (1 + np.exp(-np.array(z))),
        nnjax.tanh: np.tanh(z),
        nnjax.relu: [0.0, 0.0, 2.0],
        nnjax.leaky_relu: [-0.01, 0.0, 2.0],
        nnjax.absolute: [1.0, 0.0, 2.0],
        nnjax.gelu: [-0.15865525, 0.0, 1.9544997],
        nnjax.gelu_tanh: [-0.158808, 0.0, 1.954598],
        nnjax.silu: [-0.26894142, 0.0, 1.7615942],
        nnjax.softplus: [0.31326169, np.log(2), 2.126928],
        nnjax.elu: [np.exp(-1) - 1, 0.0, 2.0],
        activations.from_jax(jax.nn.mish): [-0.30340144, 0.0, 1.943959],
        nnjax.identity: z,
        nnjax.softmax: np.exp(z) / np.exp(z).sum(),
        nnjax.Softmax(2.0): np.exp(2 * z) / np.exp(2 * z).sum(),
        nnjax.step: [0.0, 0.0, 1.0],
        nnjax.sign: [-1.0, 0.0, 1.0],
    }
    for activation, values in expected.items():
        np.testing.assert_allclose(activation(z), values, rtol=1e-6)


def test_a_large_scale_makes_softmax_the_maximum():
    np.testing.assert_allclose(
        nnjax.Softmax(1000.0)(jnp.array([0.1, 0.3, 0.2])), [0.0, 1.0, 0.0], atol=1e-6
    )


@functools.partial(jax.jit, static_argnums=0)
def logarithms(activation, z, g):
    """Return for ln a and ln(1 − a): the stable form, the plain one, and both pull-backs."""
    a = activation(z)
    return [
        (log(z), value, pull_back(z, a, g), jax.vjp(log, z)[1](g)[0])
        for log, pull_back, value in (
            (activation.log, activation.pull_back_log, jnp.log(a)),
            (activation.log_complement, activation.pull_back_log_complement, jnp.log1p(-a)),
        )
    ]


@pytest.mark.parametrize("activation", [nnjax.sigmoid, nnjax.softmax, nnjax.Softmax(3.0)], ids=repr)
def test_logarithms_of_probabilities(activation):
    z, g = (np.random.default_rng(seed).normal(size=(6, 5)) for seed in (0, 1))
    with jax.enable_x64(True):
        found = logarithms(activation, z, g)
    for stable, plain, hand, auto in found:
        np.testing.assert_allclose(stable, plain, rtol=1e-12)
        np.testing.assert_allclose(hand, auto, rtol=1e-11, atol=1e-14)


def test_nan_stays_nan():
    for activation in ACTIVATIONS:
        assert bool(jnp.isnan(activation(jnp.array([jnp.nan, 1.0]))[0])), activation


@pytest.mark.parametrize(("activation", "smooth"), [(nnjax.step, "sigmoid"), (nnjax.sign, "tanh")])
def test_no_useful_derivative(activation, smooth):
    with pytest.raises(TypeError, match=f"no useful derivative.*use {smooth}"):
        activation.derivative(jnp.zeros(2))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan"), "1"])
def test_bad_scale(scale):
    with pytest.raises(ValueError, match=r"scale of Softmax is .*; expected a positive finite"):
        activations.Softmax(scale)


@pytest.mark.parametrize("alpha", [float("inf"), float("nan"), "1"])
def test_bad_alpha(alpha):
    with pytest.raises(ValueError, match=r"alpha of ELU is .*; expected a finite number"):
        nnjax.ELU(alpha)


@pytest.mark.parametrize("slope", [float("inf"), float("nan"), None])
def test_bad_slope(slope):
    with pytest.raises(ValueError, match=r"slope of LeakyReLU is .*; expected a finite number"):
        activations.LeakyReLU(slope)


@pytest.mark.parametrize("kind", [nnjax.LeakyReLU, nnjax.ELU, nnjax.Softmax])
def test_numbers_of_numpy_leave_the_dtype_as_it_is(kind):
    z = jnp.array([-1.0, 2.0], jnp.bfloat16)
    activation = kind(np.float64(0.5))
    a = activation(z)
    assert (a.dtype, activation.pull_back(z, a, z).dtype) == (z.dtype, z.dtype)
    assert repr(activation) == repr(kind(0.5))


def test_every_activation_of_the_table_is_tested_and_exported():
    tested = {activation.name for activation in ACTIVATIONS}
    for name, activation in activations.ACTIVATIONS.items():
        assert activation.name == name
        assert getattr(nnjax, name) is activation
        assert name in tested | {"step", "sign"}


@pytest.mark.parametrize("activation", [nnjax.gelu, nnjax.gelu_tanh, nnjax.silu], ids=repr)
def test_powers_do_not_overflow_in_float16(activation):
    z = jnp.asarray([-6e4, -300.0, 300.0, 6e4], jnp.float16)
    np.testing.assert_array_equal(activation(z), [0, 0, 300, z[3]])
    np.testing.assert_array_equal(activation.derivative(z), [0, 0, 1, 1])


def test_functions_of_jax_say_where_their_derivative_comes_from():
    mish, log_softmax = map(activations.from_jax, (jax.nn.mish, jax.nn.log_softmax))
    assert mish == activations.from_jax(jax.nn.mish) != log_softmax
    assert hash(mish) == hash(activations.from_jax(jax.nn.mish))
    assert repr(mish) == "from_jax(mish, derivative by jax.vjp)"
    assert mish.name == "mish"
    assert isinstance(mish, activations.Elementwise)
    assert not isinstance(log_softmax, activations.Elementwise)
    half = activations.from_jax(functools.partial(jax.nn.gelu, approximate=False))
    np.testing.assert_allclose(half(jnp.ones(2)), nnjax.gelu(jnp.ones(2)), rtol=1e-6)
    assert half.name == "gelu"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("mish", "function is 'mish'; expected a function of JAX from an array"),
        (np.tanh, r"which jax.jit cannot apply to an array \(2,\) \(TracerArrayConversionError\)"),
        (jnp.sum, r"which makes .* of an array \(2,\) of float32; expected a function of JAX"),
        (jnp.isnan, r"which makes .*bool.* of an array \(2,\) of float32"),
    ],
)
def test_what_is_not_an_activation_function_of_jax(function, message):
    with pytest.raises(TypeError, match=message):
        activations.from_jax(function)


def test_an_activation_of_ones_own_is_called_as_its_class():
    class Swish(activations.Elementwise): ...

    assert Swish.name == "Swish"
    assert nnjax.LeakyReLU(0.5).name == "leaky_relu"
