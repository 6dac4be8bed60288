"""check_backprop: how functions are called, bad arguments and the report."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mutants import mutant, through

import nnjax
from nnjax.gradcheck import check_backprop
from nnjax.regularizers import L2

NET = nnjax.mlp([6, 5, 3], activation=nnjax.tanh, loss=nnjax.quadratic)


def numpy_only(params, x, y):
    """Work in place, as NumPy allows and JAX does not."""
    hand = mutant(NET)
    x[...] = np.asarray(x)
    return hand(params, x, y)


def flat(params, x, y):
    """One example without a second axis, gradients as lists of vectors and matrices."""
    assert x.shape == (6,)
    nabla_b, nabla_w = mutant(NET, "book")(params, x[:, None], y[:, None])
    return [b[:, 0] for b in nabla_b], nabla_w


def columns_for_biases(params, x, y):
    """The book's own way of writing it: np.dot(w, a) + b with b a column."""
    (w1, b1), (w2, b2) = params
    a1 = np.tanh(np.dot(w1, x) + b1)
    z2 = np.dot(w2, a1) + b2
    a2 = 1 / (1 + np.exp(-z2))
    delta2 = (a2 - y) * a2 * (1 - a2)
    delta1 = np.dot(w2.T, delta2) * (1 - a1**2)
    return [delta1, delta2], [np.dot(delta1, x.T), np.dot(delta2, a1.T)]


def as_lists(params, x, y):
    return [[layer.w, layer.b] for layer in mutant(NET)(params, x, y)]


def with_errors(params, x, y):
    return nnjax.backprop(NET, params, x, y)


@pytest.mark.parametrize(
    "hand", [numpy_only, flat, columns_for_biases, as_lists, with_errors], ids=lambda f: f.__name__
)
def test_functions_are_called_as_they_want(hand):
    report = check_backprop(NET, hand)
    assert report.verdict == "RIGHT", report


def test_a_point_of_ones_own_is_the_first():
    params = nnjax.init(NET, jax.random.key(0))
    x, y = jnp.ones((2, 6)), jnp.array([0, 2])
    report = check_backprop(NET, lambda p, x, y: nnjax.backprop(NET, p, x, y), params, x, y)
    assert report.ok
    assert "4 points in float64: the point given;" in report.covered


def test_a_function_that_raises_is_told_in_a_sentence():
    report = check_backprop(NET, lambda params, x, y: params["w"])
    assert report.verdict == "WRONG"
    assert report.reason.startswith("The gradient raises TypeError: tuple indices must be")
    assert "another structure" in check_backprop(NET, lambda params, x, y: 3.0).reason


def test_the_report_fits_on_a_screen():
    report = check_backprop(NET, mutant(NET, through=lambda h, l, g: g))
    lines = str(report).splitlines()
    assert len(lines) <= 32
    assert all(len(line) <= 110 for line in lines)
    assert lines[0].startswith("WRONG")
    assert any(line.split()[:2] == ["you", "have"] for line in lines)
    assert any(line.split()[:1] == ["expected"] for line in lines)


@pytest.mark.slow
def test_a_mistake_in_one_of_five_layers_of_a_hundred_is_named():
    net = nnjax.mlp([100] * 6, loss=nnjax.quadratic)

    def change(hand, l, g):
        return g if l == 3 else through(hand.act(l), hand.z[l], g)

    report = check_backprop(net, mutant(net, through=change))
    assert [finding.name for finding in report.mistakes] == ["σ' missing"]
    assert report.mistakes[0].where == "layer 3"


def test_bad_arguments_are_refused_in_one_sentence():
    for error, match, call in [
        (TypeError, "expected a Network", lambda: check_backprop("net", flat)),
        (TypeError, "expected a function", lambda: check_backprop(NET, None)),
        (TypeError, "give params, x and y, or none", lambda: check_backprop(NET, flat, (), None)),
        (ValueError, "training_size is 0", lambda: check_backprop(NET, flat, training_size=0)),
        (TypeError, "key is 0", lambda: check_backprop(NET, flat, key=0)),
    ]:
        with pytest.raises(error, match=match):
            call()


def test_a_regularizer_is_part_of_the_loss():
    assert not check_backprop(NET, mutant(NET), regularizer=L2(0.5)).ok


def test_behind_a_shape_error_the_mistake_is_found_with_layers_of_equal_size():
    def untransposed(params, x, y):
        """One example, as in the book, with w for wᵀ: a shape error, as sizes differ."""
        (w1, b1), (w2, b2) = params
        hidden = np.tanh(w1 @ x + b1.reshape(-1, 1))
        out = 1 / (1 + np.exp(-w2 @ hidden - b2.reshape(-1, 1)))
        delta2 = (out - y) * out * (1 - out)
        delta1 = (w2 @ delta2) * (1 - hidden**2)
        return [delta1, delta2], [delta1 @ x.T, delta2 @ hidden.T]

    report = check_backprop(NET, untransposed)
    assert report.verdict == "WRONG"
    assert "raises ValueError" in report.reason
    assert "test_network.py, line" in report.reason
    assert "With 7 neurons in every layer all shapes fit" in report.reason
    assert report.findings[0].name == "W not transposed"
