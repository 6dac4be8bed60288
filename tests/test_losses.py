"""Losses: values, gradients, the stable output error of every pairing, far from zero too."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from strategies import LOSSES, PAIRED

import nnjax
from nnjax import losses
from nnjax.losses import targets


def test_values_against_the_formulas():
    rng = np.random.default_rng(0)
    a, y = rng.uniform(0.05, 0.95, (4, 3)), rng.uniform(size=(4, 3))
    with jax.enable_x64(True):
        np.testing.assert_allclose(nnjax.quadratic(a, y), ((a - y) ** 2).sum(1) / 2, rtol=1e-14)
        np.testing.assert_allclose(
            nnjax.cross_entropy(a, y),
            -(y * np.log(a) + (1 - y) * np.log(1 - a)).sum(1),
            rtol=1e-14,
        )
        np.testing.assert_allclose(nnjax.log_likelihood(a, y), -(y * np.log(a)).sum(1), rtol=1e-14)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_gradient(loss):
    with jax.enable_x64(True):
        a = jax.device_put(np.random.default_rng(0).uniform(0.05, 0.95, (4, 3)))
        y = jax.device_put(np.random.default_rng(1).uniform(size=(4, 3)))
        auto = jax.grad(lambda a: loss(a, y).sum())(a)
        np.testing.assert_allclose(loss.gradient(a, y), auto, rtol=1e-13)


@partial(jax.jit, static_argnums=(0, 1))
def errors_and_losses(activation, loss, z, y):
    c = jnp.arange(1.0, 7.0)
    auto = jax.grad(lambda z: jnp.sum(c * loss(activation(z), y)))(z)
    a = activation(z)
    hand = c[:, None] * loss.output_error(activation, z, a, y)
    return hand, auto, loss.at(activation, z, a, y), loss(a, y)


@pytest.mark.parametrize(
    ("activation", "loss"), list(itertools.product(PAIRED, LOSSES)), ids=lambda o: repr(o)
)
def test_output_error_of_every_pairing(activation, loss):
    """Against jax.grad of the plain formula, not of the stable form, with weighted examples."""
    with jax.enable_x64(True):
        z = np.random.default_rng(0).normal(size=(6, 4))
        y = np.random.default_rng(1).uniform(size=(6, 4))
        hand, auto, stable, plain = errors_and_losses(activation, loss, z, y)
        np.testing.assert_allclose(hand, auto, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(stable, plain, rtol=1e-12)


@pytest.mark.parametrize(
    ("activation", "loss"), list(itertools.product(PAIRED, LOSSES)), ids=lambda o: repr(o)
)
@pytest.mark.slow
def test_far_from_zero_in_float32(activation, loss):
    z = jnp.array([[1000.0, -1000.0, 0.0], [-1000.0, 1000.0, 1000.0]])
    a = activation(z)
    for label in range(3):
        y = jnp.array([label, label])
        value = loss.at(activation, z, a, y)
        delta = loss.output_error(activation, z, a, y)
        auto = jax.grad(lambda z, y=y: loss.at(activation, z, activation(z), y).sum())(z)
        assert bool(jnp.isfinite(value).all() & jnp.isfinite(delta).all())
        np.testing.assert_allclose(delta, auto, rtol=1e-6)


def test_right_far_from_zero():
    """sigmoid with cross-entropy and softmax with log-likelihood: −ln a is |z| there, δ a − y."""
    z = jnp.array([[1000.0, -1000.0]])
    y = jnp.array([[0.0, 1.0]])
    for activation, loss, value in (
        (nnjax.sigmoid, nnjax.cross_entropy, 2000.0),
        (nnjax.softmax, nnjax.log_likelihood, 2000.0),
        (nnjax.softmax, nnjax.cross_entropy, 4000.0),
        (nnjax.sigmoid, nnjax.log_likelihood, 1000.0),
    ):
        a = activation(z)
        assert loss.at(activation, z, a, y).tolist() == [value]
    for activation, loss in (
        (nnjax.sigmoid, nnjax.cross_entropy),
        (nnjax.softmax, nnjax.log_likelihood),
    ):
        assert loss.output_error(activation, z, activation(z), y).tolist() == [[1.0, -1.0]]


def test_small_errors_keep_their_digits():
    """Where a rounds to 1, a − y would be 0 in float32; σ(−z) is not."""
    z, y = jnp.array([[30.0]]), jnp.array([[1.0]])
    delta = nnjax.cross_entropy.output_error(nnjax.sigmoid, z, nnjax.sigmoid(z), y)
    np.testing.assert_allclose(delta, [[-np.exp(-30.0)]], rtol=1e-6)


def test_outputs_that_are_no_probabilities():
    a = jnp.array([[1.5, -0.5, 0.0, 1.0]])
    for loss in (nnjax.cross_entropy, nnjax.log_likelihood):
        assert loss(a, jnp.array([[1.0, 0.0, 0.0, 1.0]])).tolist() == [0.0]
        worst = -float(jnp.log(jnp.finfo(jnp.float32).tiny))
        np.testing.assert_allclose(loss(a, jnp.array([[0.0, 1.0, 0.0, 1.0]])) % worst, 0, atol=1e-3)
    assert bool(jnp.isnan(nnjax.cross_entropy(jnp.array([[jnp.nan]]), jnp.array([[1.0]])))[0])


def test_targets():
    a = jnp.zeros((3, 4), jnp.bfloat16)
    one_hot = targets(np.array([3, 0, 1]), a)
    assert one_hot.dtype == a.dtype
    assert one_hot.tolist() == np.eye(4)[[3, 0, 1]].tolist()
    assert targets(np.eye(4)[:3], a).dtype == a.dtype
    assert bool(jnp.isnan(targets(np.array([0, 4, -1]), a)[1:]).all())  # seen, even under jit


@pytest.mark.parametrize("y", [np.zeros((3, 5)), np.zeros(3), np.zeros(2, int), np.zeros((4, 3))])
def test_targets_that_do_not_fit(y):
    with pytest.raises(ValueError, match=r"y has shape .* expected \(3, 4\) one-hot or soft"):
        targets(y, jnp.zeros((3, 4)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("size", [30.0, 300.0, 1e4, 1e6])
def test_softmax_with_cross_entropy_at_large_logits(dtype, size):
    """Against float64, within a few roundings, the logits being those that the dtype has."""
    if size > float(jnp.finfo(dtype).max):
        return
    z = jnp.asarray(np.array([[1.0, -0.5, 0.25], [0.3, 0.3, -1.0]]) * size, dtype)
    y = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    with jax.enable_x64(True):
        exact = np.asarray(z, np.float64)
        log_p = exact - np.logaddexp.reduce(exact, axis=1, keepdims=True)
        others = np.stack(
            [np.logaddexp.reduce(np.delete(log_p, j, 1), axis=1) for j in range(3)], 1
        )
        expected = -(y * log_p + (1 - y) * others).sum(axis=1)
    a = nnjax.softmax(z)
    value = nnjax.cross_entropy.at(nnjax.softmax, z, a, jnp.asarray(y, dtype))
    rounding = float(jnp.finfo(dtype).eps)
    if np.isfinite(np.asarray(expected, dtype)).all():
        np.testing.assert_allclose(np.float64(value), expected, rtol=6 * rounding)


def test_a_single_softmax_output():
    """It is 1 whatever z: right for y = 1, as wrong as can be for y = 0, and moved by nothing."""
    z = jnp.array([[3.0], [-2.0]])
    a = nnjax.softmax(z)
    for y, worst in (([[1.0], [1.0]], 0.0), ([[0.0], [0.0]], -np.log(np.finfo(np.float32).tiny))):
        y = jnp.array(y)
        value = nnjax.cross_entropy.at(nnjax.softmax, z, a, y)
        np.testing.assert_allclose(value, [worst, worst], rtol=1e-6)
        assert nnjax.cross_entropy.output_error(nnjax.softmax, z, a, y).tolist() == [[0.0], [0.0]]
        slope = jax.grad(lambda z, y=y: nnjax.cross_entropy.at(nnjax.softmax, z, a, y).sum())(z)
        assert slope.tolist() == [[0.0], [0.0]]


def test_classes_of_a_single_output_are_its_targets():
    found = targets(np.array([0, 1, 2, -1]), jnp.zeros((4, 1)))
    assert found[:2].tolist() == [[0.0], [1.0]]
    assert bool(jnp.isnan(found[2:]).all())


def test_narrow_integers_hold_classes_of_wide_outputs():
    one_hot = targets(np.array([100, 7], np.int8), jnp.zeros((2, 300)))
    assert jnp.argmax(one_hot, axis=1).tolist() == [100, 7]
    assert float(one_hot.sum()) == 2.0


def test_a_loss_made_of_a_function_of_jax():
    """Cross-entropy of logits: the loss and the gradients of softmax with log-likelihood."""
    loss = losses.from_jax(optax.softmax_cross_entropy)
    assert loss == losses.from_jax(optax.softmax_cross_entropy)
    assert loss != losses.from_jax(optax.cosine_distance)
    assert repr(loss) == "from_jax(softmax_cross_entropy, derivative by jax.vjp)"
    with jax.enable_x64(True):
        nets = [
            nnjax.mlp([4, 3, 5], output=nnjax.identity, loss=loss),
            nnjax.mlp([4, 3, 5], loss=losses.log_likelihood),
        ]
        params = nnjax.init(nets[0], jax.random.key(0))
        x, y = jax.random.normal(jax.random.key(1), (6, 4)), jnp.arange(6) % 5
        ours, others = (nnjax.backprop(net, params, x, y) for net in nets)
        np.testing.assert_allclose(ours.loss, others.loss, rtol=1e-12)
        for a, b in zip(jax.tree.leaves(ours.grads), jax.tree.leaves(others.grads), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14)
    rows = jnp.ones((8, 4))
    _, history = nnjax.train(
        nets[0],
        nnjax.data.Dataset((rows, jnp.zeros(8, int)), None, None),
        optimizer=optax.sgd(0.1),
        epochs=2,
        batch_size=4,
        key=jax.random.key(0),
    )
    assert history["train_loss"][1] < history["train_loss"][0]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (3, "function is 3; expected a function of JAX from outputs and targets"),
        (
            optax.l2_loss,
            r"makes .* of outputs \(2, 3\); expected .*: take the sum over the last axis",
        ),
        (lambda a, y: jnp.mean(a), r"makes .* of outputs \(2, 3\); expected .* one value per row$"),
        (lambda a: a, r"jax.jit cannot apply to outputs and targets \(2, 3\) \(TypeError\)"),
    ],
)
def test_what_is_not_a_loss_of_jax(function, message):
    with pytest.raises(TypeError, match=message):
        losses.from_jax(function)


def test_every_loss_of_the_table_is_tested_and_exported():
    assert list(losses.LOSSES.values()) == [losses.cross_entropy, *LOSSES[2:], losses.quadratic]
    for name, loss in losses.LOSSES.items():
        assert loss.name == name
        assert getattr(nnjax, name) is loss
        assert nnjax.mlp([3, 2], loss=loss).layers[-1].activation == loss.output


def test_a_loss_of_ones_own_has_a_name_an_output_and_a_formula():
    class Hinge(losses.Loss):
        output = nnjax.identity

    assert nnjax.mlp([3, 2], loss=Hinge()).layers[-1].activation == nnjax.identity
    assert Hinge().text(["a₁", "a₂"], ["y₁", "y₂"]) == "Hinge([a₁, a₂], [y₁, y₂])"
    assert Hinge().numbers([0.5, -1.0], [1.0, 0.0]) == "Hinge([0.5, −1], [1, 0])"
    with pytest.raises(TypeError, match="loss is 'mse'; expected a loss such as"):
        nnjax.mlp([3, 2], loss="mse")
