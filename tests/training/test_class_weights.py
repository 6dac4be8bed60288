"""Weights of classes and of examples: δ^L scaled by hand, against jax.grad and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.utils.class_weight import compute_sample_weight
from strategies import random_params

import nnjax
from nnjax.data import Dataset
from nnjax.descent import loss_and_gradient
from nnjax.training.class_weights import example_weights, require_class_weight, weights_of_classes

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(23, 4)), RNG.choice(3, 23, p=[0.7, 0.2, 0.1])
WEIGHTS = RNG.uniform(0, 3, 23)


@pytest.mark.parametrize("loss", [nnjax.cross_entropy, nnjax.log_likelihood])
def test_an_example_of_weight_0_has_no_part_whatever_it_holds(loss):
    net = nnjax.mlp([4, 3], loss=loss)
    params = random_params(net, 0)
    x, y, weights = jnp.ones((3, 4)), jnp.array([0, 2, 1]), jnp.array([1.0, 2.0, 0.0])
    expected = jax.value_and_grad(nnjax.loss, argnums=1)(net, params, x, y, weights=weights)

    def same(found):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)

    padding = y.at[2].set(-1)
    bp = nnjax.backprop(net, params, x, padding, weights=weights)
    same((bp.loss, bp.grads))
    x = x.at[2].set(jnp.nan)
    same(loss_and_gradient(net, params, x, padding, weights=weights))
    same(jax.value_and_grad(nnjax.loss, argnums=1)(net, params, x, padding, weights=weights))


@pytest.mark.parametrize("loss", [nnjax.cross_entropy, nnjax.log_likelihood, nnjax.quadratic])
@pytest.mark.slow
def test_the_gradient_of_the_weighted_loss(loss):
    """C = (1/n) Σ_x w_x C_x, and each error is w_x times as large."""
    with jax.enable_x64(True):
        net = nnjax.mlp([4, 5, 3], nnjax.tanh, loss=loss)
        params = random_params(net, 0)
        bp, plain = (nnjax.backprop(net, params, X, Y, weights=w) for w in (WEIGHTS, None))
        auto = jax.grad(nnjax.loss, argnums=1)(net, params, X, Y, weights=WEIGHTS)
        each = [float(nnjax.loss(net, params, X[i : i + 1], Y[i : i + 1])) for i in range(23)]
        assert float(bp.loss) == pytest.approx(np.mean(WEIGHTS * each), rel=1e-12)
        for hand, by_jax in zip(*map(jax.tree.leaves, (bp.grads, auto)), strict=True):
            np.testing.assert_allclose(hand, by_jax, rtol=1e-10, atol=1e-14)
        for weighted, delta in zip(bp.errors, plain.errors, strict=True):
            np.testing.assert_allclose(weighted, WEIGHTS[:, None] * delta, rtol=1e-12)
        found, grads = loss_and_gradient(net, params, X, Y, weights=WEIGHTS)
        assert float(found) == float(bp.loss)
        jax.tree.map(np.testing.assert_array_equal, grads, bp.grads)


@pytest.mark.parametrize("given", ["balanced", {0: 0.5, 1: 7.0}])
def test_the_weights_of_the_examples(given):
    net, checked = nnjax.mlp([4, 3]), require_class_weight(given)
    expected = compute_sample_weight(given, Y)
    for y in (Y, np.eye(3)[Y]):
        by_class = weights_of_classes(net, checked, y)
        np.testing.assert_allclose(example_weights(net, by_class, y), expected, rtol=1e-6)
    two = nnjax.mlp([4, 1])
    for y in (Y > 0, (Y > 0)[:, None]):
        y = y.astype(np.int32)
        found = example_weights(two, weights_of_classes(two, checked, y), y)
        np.testing.assert_allclose(found, compute_sample_weight(given, (Y > 0).astype(int)), 1e-6)


def test_classes_that_are_not_known_cannot_be_balanced():
    with pytest.raises(ValueError, match=r"class_weight is 'balanced', which counts .* a stream"):
        weights_of_classes(nnjax.mlp([4, 3]), "balanced", None)


@pytest.mark.slow
def test_training_with_weights_of_classes():
    """One mini-batch of all examples: a step along the weighted gradient."""
    net, data = nnjax.mlp([4, 3]), Dataset((X.astype(np.float32), Y), None, None)
    start = random_params(net, 1)
    common = {"optimizer": optax.sgd(0.5), "epochs": 1, "key": jax.random.key(0), "params": start}
    state, history = nnjax.train(net, data, batch_size=23, class_weight="balanced", **common)
    weights = compute_sample_weight("balanced", Y)
    bp = nnjax.backprop(net, start, *data.train, weights=weights)
    stepped = jax.tree.map(lambda p, g: p - 0.5 * g, start, bp.grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state.params, stepped)
    assert history["train_loss"][0] == pytest.approx(float(bp.loss), rel=1e-5)
    uneven, _ = nnjax.train(net, data, batch_size=5, class_weight=[1.0, 1.0, 1.0], **common)
    plain, _ = nnjax.train(net, data, batch_size=5, **common)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), uneven.params, plain.params
    )


def test_weights_of_classes_in_an_array():
    for array in (np.array([1.0, 2.0]), jnp.array([1.0, 2.0])):
        assert require_class_weight(array) == (1.0, 2.0)
    with pytest.raises(ValueError, match=r"class_weight is array\(2\.\); expected 'balanced'"):
        require_class_weight(np.array(2.0))


@pytest.mark.parametrize("value", ["even", [], [1.0, -1.0], {"a": 1.0}, 3, [np.nan], [1e31], {}])
def test_what_is_no_weight_of_classes(value):
    with pytest.raises(ValueError, match=r"class_weight is .*; expected 'balanced', a weight fr"):
        require_class_weight(value)


def test_weights_that_do_not_fit():
    net = nnjax.mlp([4, 3])
    params = random_params(net, 0)
    with pytest.raises(ValueError, match=r"weights has shape \(22,\); expected one number"):
        nnjax.backprop(net, params, X, Y, weights=WEIGHTS[1:])
    with pytest.raises(ValueError, match=r"weights holds -1.0; expected finite numbers"):
        nnjax.loss(net, params, X, Y, weights=np.full(23, -1.0))
    data = Dataset((X.astype(np.float32), Y), None, None)
    common = {"optimizer": optax.sgd(0.5), "epochs": 1, "batch_size": 23, "key": jax.random.key(0)}
    with pytest.raises(ValueError, match="class_weight holds a weight for class 3; this network"):
        nnjax.train(net, data, class_weight=[1, 1, 1, 1], **common)
    line = nnjax.mlp([4, 1], output=nnjax.identity, loss=nnjax.quadratic)
    with pytest.raises(ValueError, match="class_weight gives weights to classes, and the task is"):
        nnjax.train(line, data, class_weight="balanced", **common)


def test_a_weight_of_0_leaves_an_example_out():
    net = nnjax.mlp([4, 3])
    params = random_params(net, 0)
    weights = jnp.asarray(Y != 2, jnp.float32)
    one = nnjax.backprop(net, params, X, Y, weights=weights).grads
    few = nnjax.backprop(net, params, X[Y != 2], Y[Y != 2]).grads
    share = np.mean(Y != 2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, share * b, rtol=1e-4), one, few)
