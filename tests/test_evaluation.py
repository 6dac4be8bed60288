"""Class by class: against scikit-learn, and where a class is missing."""

import json

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from strategies import random_params

import nnjax
from nnjax.evaluation import evaluate_classes

NET = nnjax.mlp([6, 4])
PARAMS = random_params(NET, 0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 6)).astype(np.float32)
Y = RNG.integers(0, 4, 300)


def test_it_agrees_with_scikit_learn():
    result = evaluate_classes(NET, PARAMS, X, Y)
    read = np.asarray(nnjax.predict(NET, PARAMS, X))
    np.testing.assert_array_equal(result.predictions, read)
    np.testing.assert_array_equal(result.confusion, confusion_matrix(Y, read))
    precision, recall, _, _ = precision_recall_fscore_support(Y, read)
    np.testing.assert_allclose(result.precision, precision)
    np.testing.assert_allclose(result.recall, recall)
    assert result.accuracy == pytest.approx(np.mean(read == Y))
    assert result.loss == pytest.approx(float(nnjax.loss(NET, PARAMS, X, Y)))


def test_one_hot_targets_are_the_classes():
    by_class, one_hot = (evaluate_classes(NET, PARAMS, X, y) for y in (Y, np.eye(4)[Y]))
    np.testing.assert_array_equal(by_class.confusion, one_hot.confusion)


def test_a_single_output_has_two_classes():
    net = nnjax.mlp([6, 1])
    params = random_params(net, 0)
    y = RNG.integers(0, 2, (300, 1)).astype(np.float32)
    read = np.asarray(nnjax.predict(net, params, X))
    result = evaluate_classes(net, params, X, y)
    np.testing.assert_array_equal(result.confusion, confusion_matrix(y[:, 0], read))


def test_what_cannot_be_measured_is_nan_and_null():
    only = (nnjax.Affine(w=jnp.zeros((4, 6)), b=jnp.array([1.0, 0.0, 0.0, 0.0])),)
    result = evaluate_classes(NET, only, X[:5], np.array([0, 0, 1, 1, 1]))
    assert result.precision.tolist()[:1] == [0.4]
    assert np.isnan(result.precision[1:]).all()
    assert result.recall[:2].tolist() == [1.0, 0.0]
    assert np.isnan(result.recall[2:]).all()
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["recall"] == [
        1.0,
        0,
        None,
        None,
    ]
    assert "accuracy 40.00 % (2/5)" in str(result)
    assert "    2         0          -       -" in str(result)


def test_wrong_data_are_refused():
    with pytest.raises(ValueError, match=r"x has shape \(300, 5\); this network takes \(n, 6\)"):
        evaluate_classes(NET, PARAMS, X[:, :5], Y)


def test_the_classes_of_a_single_output_may_be_numbers():
    net = nnjax.mlp([6, 1])
    params = random_params(net, 0)
    classes = np.arange(300) % 2
    one, other = (
        evaluate_classes(net, params, X, y) for y in (classes, np.float32(classes)[:, None])
    )
    np.testing.assert_array_equal(one.confusion, other.confusion)
    assert one.confusion.sum(axis=1).tolist() == [150, 150]
    with pytest.raises(ValueError, match="y holds the class 2; this network has 1 output, so"):
        evaluate_classes(net, params, X, classes + 1)


@pytest.mark.parametrize("spoilt", ["x", "infinite x", "params", "infinite params"])
def test_what_is_not_finite_has_no_class(spoilt):
    """Not class 0, and never correct, whatever the labels say."""
    value = np.inf if "infinite" in spoilt else np.nan
    x, params, n = X.copy(), PARAMS, len(X)
    if "x" in spoilt:
        x[:7, 2], n = value, 7
    else:
        params = (PARAMS[0]._replace(b=PARAMS[0].b.at[1].set(value)),)
    predictions = np.asarray(nnjax.predict(NET, params, x))
    assert (predictions[:n] == -1).all()
    np.testing.assert_array_equal(predictions[n:], nnjax.predict(NET, PARAMS, X)[n:])
    labels = np.where(predictions < 0, 0, predictions)
    assert int(nnjax.evaluate(NET, params, x, labels).correct) == 300 - n
    assert float(nnjax.accuracy(NET, params, x, labels)) == pytest.approx(1 - n / 300)
    with pytest.raises(ValueError, match=rf"{n} of 300 examples have no class, .* x\[0\]: it, the"):
        evaluate_classes(NET, params, x, labels)


def test_a_soft_target_that_is_nan_is_never_correct():
    soft = np.full((300, 4), 0.25, np.float32)
    soft[5] = np.nan
    with pytest.raises(ValueError, match=r"1 of 300 examples have no class, .* y\[5\]: it is not"):
        evaluate_classes(NET, PARAMS, X, soft)
    with pytest.raises(ValueError, match="y holds the class 4"):
        evaluate_classes(NET, PARAMS, X, jnp.asarray(Y).at[0].set(4))
    assert float(nnjax.accuracy(NET, PARAMS, X, np.full((300, 4), np.nan, np.float32))) == 0.0


def test_classes_of_a_single_output_are_right_everywhere():
    net = nnjax.mlp([6, 1])
    params = random_params(net, 1)
    classes = np.asarray(nnjax.predict(net, params, X))
    assert 0 < classes.sum() < 300
    assert float(nnjax.accuracy(net, params, X, classes)) == 1.0
    column = np.float32(classes)[:, None]
    assert float(nnjax.loss(net, params, X, classes)) == float(nnjax.loss(net, params, X, column))
    a, b = (nnjax.backprop(net, params, X, y).grads for y in (classes, column))
    chex.assert_trees_all_equal(a, b)
    with pytest.raises(ValueError, match="y holds the class 2; this network has 1 output, so cl"):
        nnjax.loss(net, params, X, classes + 1)


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_means_of_many_examples_in_low_precision(dtype):
    x, y = np.tile(X, (40, 1)), np.tile(Y, 40)
    params = random_params(NET, 0, dtype)
    found, few = nnjax.evaluate(NET, params, x, y), nnjax.evaluate(NET, params, X, Y)
    assert float(found.loss) == pytest.approx(float(few.loss), rel=1e-5)
    assert float(found.accuracy) == pytest.approx(float(found.correct) / len(y), rel=1e-6)
    eps = float(jnp.finfo(dtype).eps)
    assert float(nnjax.loss(NET, params, x, y)) == pytest.approx(float(found.loss), rel=eps)
