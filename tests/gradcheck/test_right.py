"""Three hundred right gradients, of the awkward kinds too, and not one false alarm."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mutants import mutant

import nnjax
from nnjax.activations import LeakyReLU, absolute, relu, sigmoid, tanh
from nnjax.gradcheck import check_backprop, check_gradient
from nnjax.losses import cross_entropy, log_likelihood, quadratic


@pytest.mark.slow
@pytest.mark.parametrize("loss", [quadratic, cross_entropy, log_likelihood], ids=str)
@pytest.mark.parametrize("activation", [sigmoid, tanh, relu, LeakyReLU(0.2), absolute], ids=str)
def test_networks_at_many_points(loss, activation):
    # 15 networks, 12 seeds, 3 or 4 points each, on kinks where there are any.
    net = nnjax.mlp([6, 5, 3], activation=activation, loss=loss)
    hand = mutant(net)
    for seed in range(12):
        report = check_backprop(net, hand, seed=10 * seed)
        assert report.ok, report


def kinky(w, x):
    return jnp.sum(jnp.maximum(x @ w, 0) ** 2) + jnp.sum(jnp.abs(w)) + jnp.max(w)


def kinky_gradient(w, x, at_zero):
    x, w = np.asarray(x), np.asarray(w)
    sign = np.where(w == 0, at_zero, np.sign(w))
    return 2 * x.T @ np.maximum(x @ w, 0) + sign + np.eye(len(w))[np.argmax(w)]


def saturated(w, x):
    return jnp.sum(sigmoid(x @ w)) + jnp.sum(tanh(w))


def saturated_gradient(w, x):
    z, w = np.asarray(x) @ np.asarray(w), np.asarray(w)
    with np.errstate(over="ignore"):
        slope = 1 / (1 + np.exp(-z)) / (1 + np.exp(z))
        return np.asarray(x).T @ slope + 1 / np.cosh(w) ** 2


@partial(jax.jit, static_argnums=2)
def pooled(w, x, scale):
    windows = (x * w).reshape(x.shape[0], -1, 2)
    return scale * jnp.sum(jnp.max(windows, axis=-1) ** 2)


def pooled_by(scale):
    return lambda w, x: pooled(w, x, scale)


def pooled_gradient(scale):
    def gradient(w, x):
        w, x = np.asarray(w), np.asarray(x)
        windows = (x * w).reshape(x.shape[0], -1, 2)
        first = np.eye(2)[windows.argmax(-1)]
        return scale * (2 * windows.max(-1)[..., None] * first).reshape(x.shape) * x

    return lambda w, x: gradient(w, x).sum(0)


@pytest.mark.slow
def test_kinks():
    rng = np.random.default_rng(0)
    for trial in range(40):
        w = rng.integers(-2, 3, 5).astype(float)
        x = rng.integers(-1, 2, (3, 5)).astype(float)
        at_zero = [0.0, 1.0, -1.0, 0.5][trial % 4]
        report = check_gradient(kinky, partial(kinky_gradient, at_zero=at_zero), w, x)
        assert report.ok, report


@pytest.mark.parametrize("trials", [12, pytest.param(40, marks=pytest.mark.slow)])
def test_saturated_neurons(trials):
    rng = np.random.default_rng(1)
    for trial in range(trials):
        w = rng.normal(size=5) * 10.0 ** (trial % 4)
        report = check_gradient(saturated, saturated_gradient, w, rng.normal(size=(3, 5)))
        assert report.ok, report


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_tied_pools_of_tiny_and_huge_gradients(scale):
    rng, function = np.random.default_rng(2), pooled_by(scale)
    for _ in range(14):
        w = rng.integers(1, 3, 6).astype(float)
        x = rng.integers(0, 3, (4, 6)).astype(float)
        report = check_gradient(function, pooled_gradient(scale), w, x)
        assert report.ok, report
