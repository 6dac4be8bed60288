"""Class by class: against scikit-learn, and where a class is missing."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

import nnjax
from nnjax.evaluation import evaluate_classes

NET = nnjax.mlp([6, 4])
PARAMS = nnjax.init(NET, jax.random.key(0))
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
    params = nnjax.init(net, jax.random.key(0))
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
    params = nnjax.init(net, jax.random.key(0))
    classes = np.arange(300) % 2
    one, other = (
        evaluate_classes(net, params, X, y) for y in (classes, np.float32(classes)[:, None])
    )
    np.testing.assert_array_equal(one.confusion, other.confusion)
    assert one.confusion.sum(axis=1).tolist() == [150, 150]
    with pytest.raises(ValueError, match="y holds the class 2; this network has 1 output, so"):
        evaluate_classes(net, params, X, classes + 1)
