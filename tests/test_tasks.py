"""Tasks and their metrics: what decides them, and scikit-learn's figures."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import metrics
from sklearn.metrics import multilabel_confusion_matrix

import nnjax
from nnjax.evaluation import evaluate_classes, evaluate_labels
from nnjax.tasks import (
    Classification,
    Multilabel,
    Regression,
    require_task,
    takes_numbers,
    task_of,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 5)).astype(np.float32)
NUMBERS = (1000 + 50 * RNG.normal(size=(40, 2))).astype(np.float32)
LABELS = RNG.integers(0, 2, (40, 3))
CLASSES = RNG.integers(0, 3, 40)
LINE = nnjax.mlp([5, 2], output=nnjax.identity, loss=nnjax.quadratic)
LINE_PARAMS = (nnjax.Affine(jnp.asarray(RNG.normal(size=(2, 5))), jnp.full(2, 1000.0)),)
NET = nnjax.mlp([5, 3])
PARAMS = nnjax.init(NET, jax.random.key(0))


def net(n_out, output=None, loss=nnjax.quadratic):
    return nnjax.mlp([5, n_out], output=output, loss=loss)


@pytest.mark.parametrize(
    ("network", "y", "task"),
    [
        (net(3), None, Classification()),
        (net(3), CLASSES, Classification()),
        (net(3), np.eye(3)[CLASSES], Classification()),
        (net(3), np.full((40, 3), 1 / 3), Classification()),
        (net(3), LABELS, Multilabel()),
        (net(3, loss=nnjax.cross_entropy), jnp.asarray(LABELS, jnp.float32), Multilabel()),
        (net(3, loss=nnjax.log_likelihood), LABELS, Classification()),
        (net(1), CLASSES % 2, Classification()),
        (net(1), (CLASSES % 2).astype(float), Classification()),
        (net(1, nnjax.identity), None, Regression()),
        (net(1, nnjax.identity), CLASSES, Regression()),
        (net(1, nnjax.identity), NUMBERS[:, 0], Regression()),
        (net(2, nnjax.identity), NUMBERS, Regression()),
        (net(3, nnjax.identity), CLASSES, Classification()),
        (net(3, nnjax.identity), np.eye(3)[CLASSES], Classification()),
        (net(3, nnjax.identity), LABELS, Regression()),
        (net(2, nnjax.tanh), NUMBERS, Regression()),
        (net(1, nnjax.tanh), NUMBERS[:, 0].tolist(), Regression()),
        (net(3, nnjax.tanh), LABELS, Classification()),
        (net(1, nnjax.step), CLASSES % 2, Classification()),
        (net(1, nnjax.identity, nnjax.cross_entropy), None, Classification()),
    ],
)
def test_the_task_of_a_network_and_its_targets(network, y, task):
    assert task_of(network, y) == task


@pytest.mark.parametrize("place", [np.asarray, jnp.asarray])
def test_whole_numbers_are_targets_of_an_identity_output(place):
    """As those of the quadratic loss are: with classes 0 and 1 they were NaN."""
    huber = nnjax.losses.from_jax(lambda a, y: optax.huber_loss(a, y).sum(axis=-1))
    network = net(1, nnjax.identity, huber)
    params = nnjax.init(network, jax.random.key(0))
    y = RNG.integers(-5, 100, 40)
    numbers = y.astype(np.float32)
    for function in (nnjax.loss, nnjax.backprop, nnjax.evaluate):
        found, expected = (function(network, params, X, place(t)) for t in (y, numbers))
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert nnjax.evaluate(network, params, X, place(y))._fields == ("loss", "rmse", "mae", "r2")
    assert task_of(network, place(y % 2)) == Classification()  # logits, perhaps, of two classes


def test_traced_targets_are_judged_by_what_is_known():
    assert jax.jit(lambda y: task_of(NET, y) == Classification())(LABELS)
    assert jax.jit(lambda y: task_of(LINE, y) == Regression())(NUMBERS)


def test_a_task_that_is_none():
    with pytest.raises(ValueError, match="task is 'regresion'; expected one of classification, mu"):
        require_task("regresion")


def test_a_regression_against_scikit_learn():
    a = np.asarray(nnjax.predict(LINE, LINE_PARAMS, X))
    found = nnjax.evaluate(LINE, LINE_PARAMS, X, NUMBERS)
    assert found._fields == ("loss", "rmse", "mae", "r2")
    expected = [
        metrics.root_mean_squared_error(NUMBERS, a),
        metrics.mean_absolute_error(NUMBERS, a),
        metrics.r2_score(NUMBERS, a),
    ]
    np.testing.assert_allclose(found[1:], expected, rtol=1e-5)
    assert float(found.loss) == pytest.approx(np.mean(np.sum((a - NUMBERS) ** 2, 1)) / 2, rel=1e-5)
    scaled = nnjax.evaluate(LINE, LINE_PARAMS, X, NUMBERS, Regression((10.0, 10.0)))
    np.testing.assert_allclose(scaled[1:], np.multiply(expected, [10, 10, 1]), rtol=1e-5)


def test_targets_that_are_all_equal():
    a, y = jnp.array([[1.0], [3.0]]), jnp.full((2, 1), 0.1)
    assert float(Regression().result(jnp.array(0.0), Regression().scores(a, y)).r2) == 0.0
    assert float(Regression().result(jnp.array(0.0), Regression().scores(y, y)).r2) == 1.0


def test_a_single_target_is_one_number_per_example():
    one = net(1, nnjax.identity)
    params = nnjax.init(one, jax.random.key(0))
    column, whole = NUMBERS[:, :1], np.arange(40)
    for f in (nnjax.loss, lambda *args: nnjax.backprop(*args).loss):
        assert float(f(one, params, X, column)) == float(f(one, params, X, column[:, 0]))
        assert float(f(one, params, X, whole)) == float(f(one, params, X, np.float32(whole)))
    assert nnjax.predict(one, params, X).shape == (40,)
    a = nnjax.feedforward(one, params, X)
    np.testing.assert_array_equal(one.loss(a, column[:, 0]), one.loss(a, column))
    result = nnjax.evaluate(one, params, X, whole)
    assert float(result.r2) == pytest.approx(metrics.r2_score(whole, a[:, 0]), rel=1e-5)


def test_several_labels_against_scikit_learn():
    a = np.asarray(nnjax.feedforward(NET, PARAMS, X))
    read = np.asarray(nnjax.predict(NET, PARAMS, X, "multilabel"))
    np.testing.assert_array_equal(read, a > 0.5)
    found = nnjax.evaluate(NET, PARAMS, X, LABELS)
    assert found._fields == ("loss", "label_accuracy", "exact_match", "f1")
    expected = [
        1 - metrics.hamming_loss(LABELS, read),
        metrics.accuracy_score(LABELS, read),
        metrics.f1_score(LABELS, read, average="micro"),
    ]
    np.testing.assert_allclose(found[1:], expected, rtol=1e-6)
    each = evaluate_labels(NET, PARAMS, X, LABELS)
    precision, recall, f1, count = metrics.precision_recall_fscore_support(LABELS, read)
    for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
        np.testing.assert_allclose(getattr(each, name), values)
    assert each.examples.tolist() == count.tolist()
    right = multilabel_confusion_matrix(LABELS, read)[:, [0, 1], [0, 1]].sum(1) / 40
    np.testing.assert_allclose(each.accuracy, right)
    text = str(each._replace(labels=("red", "round", "heavy")))
    assert f"exact match {100 * expected[1]:.2f} %" in text
    assert text.splitlines()[3].split()[0] == "red"
    assert each.to_json()["f1"] == pytest.approx(f1.tolist())
    with pytest.raises(ValueError, match=r"y has shape \(40,\); expected zeros and ones, \(40"):
        evaluate_labels(NET, PARAMS, X, CLASSES)
    with pytest.raises(ValueError, match=r"y is None; expected zeros and ones, \(40"):
        evaluate_labels(NET, PARAMS, X, None)
    for function in (task_of, takes_numbers):
        with pytest.raises(TypeError, match=r"'text'; expected a Network, such as nnjax\.mlp"):
            function("text")


def test_what_is_not_finite_has_no_label():
    x = X.copy()
    x[:10, 0] = np.nan
    assert (np.asarray(nnjax.predict(NET, PARAMS, x, "multilabel"))[:10] == -1).all()
    rest = nnjax.evaluate(NET, PARAMS, X[10:], LABELS[10:])
    found = nnjax.evaluate(NET, PARAMS, x, LABELS)
    assert float(found.exact_match) == pytest.approx(0.75 * float(rest.exact_match))
    assert np.isnan(float(nnjax.evaluate(LINE, LINE_PARAMS, x, NUMBERS).r2))


def test_a_task_without_an_accuracy():
    with pytest.raises(ValueError, match=r"not classes; nnjax\.evaluate gives loss, rmse, mae, r2"):
        nnjax.accuracy(LINE, LINE_PARAMS, X, NUMBERS)
    with pytest.raises(ValueError, match=r"gives loss, label_accuracy, exact_match, f1"):
        nnjax.accuracy(NET, PARAMS, X, LABELS)
    with pytest.raises(ValueError, match=r"with this y is regression, which has no classes; "):
        evaluate_classes(LINE, LINE_PARAMS, X, NUMBERS)
    with pytest.raises(ValueError, match=r"multilabel, which has no classes; see evaluate_labels"):
        evaluate_classes(NET, PARAMS, X, LABELS)


def test_probabilities():
    two = net(1)
    params = nnjax.init(two, jax.random.key(0))
    p, a = nnjax.predict_proba(two, params, X), nnjax.feedforward(two, params, X)
    np.testing.assert_array_equal(p, np.concatenate([1 - a, a], axis=1))
    np.testing.assert_array_equal(p.argmax(axis=1), nnjax.predict(two, params, X))
    np.testing.assert_array_equal(
        nnjax.predict_proba(NET, PARAMS, X), nnjax.feedforward(NET, PARAMS, X)
    )
    with pytest.raises(ValueError, match="are not probabilities: its output layer is identity"):
        nnjax.predict_proba(LINE, LINE_PARAMS, X)
