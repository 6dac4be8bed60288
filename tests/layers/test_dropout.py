"""Dropout: the mask, its mean, the same mask backward, nothing at inference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from strategies import random_params, relative_errors

import nnjax


def test_masks_and_scales_in_training():
    a = jnp.full(20_000, 3.0)
    z, _ = nnjax.Dropout(0.25).forward((), a, jax.random.key(0))
    assert sorted(set(np.asarray(z).tolist())) == [0.0, 4.0]
    dropped = float(jnp.mean(z == 0))
    assert dropped == pytest.approx(0.25, abs=0.01)  # the rate is to DROP
    assert float(jnp.mean(z)) == pytest.approx(3.0, abs=0.05)


def test_a_rate_of_numpy_leaves_the_dtype_as_it_is():
    a = jnp.ones(4, jnp.bfloat16)
    assert nnjax.Dropout(np.float64(0.5)).forward((), a, jax.random.key(0))[0].dtype == a.dtype


def test_the_same_mask_backward():
    layer, a = nnjax.Dropout(0.5), jnp.ones((4, 5, 2))
    z, cache = layer.forward((), a, jax.random.key(1))
    g = layer.pull_back((), cache, jnp.full(a.shape, 7.0))
    assert np.array_equal(g, 7 * z)


def test_inference_changes_nothing():
    layer, a = nnjax.Dropout(0.9), jnp.arange(6.0)
    z, cache = layer.forward((), a, None)
    assert np.array_equal(z, a)
    assert np.array_equal(layer.pull_back((), cache, a), a)


@pytest.mark.slow
def test_every_example_has_its_own_mask_and_every_layer_too():
    net = nnjax.Network(
        50, [nnjax.Dropout(0.5), nnjax.Dense(50), nnjax.Dropout(0.5)], nnjax.quadratic
    )
    params = random_params(net, 0)
    bp = nnjax.backprop(net, params, jnp.ones((3, 50)), jnp.ones((3, 50)), jax.random.key(1))
    masks = np.stack([bp.weighted_inputs[0] != 0, bp.weighted_inputs[2] != 0]).reshape(6, 50)
    assert len({mask.tobytes() for mask in masks}) == 6


def test_equals_autodiff_with_the_same_key():
    net = nnjax.Network(
        (6, 6, 1),
        [
            nnjax.Conv(3, 3, activation=nnjax.tanh),
            nnjax.Dropout(0.3),
            nnjax.Flatten(),
            nnjax.Dropout(0.5),
            nnjax.Dense(4),
        ],
        nnjax.cross_entropy,
    )
    with jax.enable_x64(True):
        params = random_params(net, 0, jnp.float64)
        x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 6, 6, 1)))
        y, key = jnp.asarray([0, 1, 2, 3, 0]), jax.random.key(2)
        hand = nnjax.backprop(net, params, x, y, key)
        auto = jax.grad(nnjax.loss, argnums=1)(net, params, x, y, key)
        errors = relative_errors(hand.grads, auto)
        assert max(map(float, jax.tree.leaves(errors))) <= 1e-11
        assert float(hand.loss) == pytest.approx(float(nnjax.loss(net, params, x, y, key)))


def test_rate_zero_keeps_everything():
    a = jnp.arange(5.0)
    assert np.array_equal(nnjax.Dropout(0).forward((), a, jax.random.key(0))[0], a)


@pytest.mark.parametrize("rate", [-0.1, 1, 1.0, 1.5, float("nan"), "half", None])
def test_bad_rate(rate):
    with pytest.raises(ValueError, match=r"rate of Dropout is .*; expected the probability"):
        nnjax.Dropout(rate)
