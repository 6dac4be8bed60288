"""The description of a network, what it computes, and what it refuses."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from strategies import Case

import nnjax

NET = nnjax.mlp([6, 5, 3], nnjax.tanh, loss=nnjax.log_likelihood)
PARAMS, X, Y = Case(NET, 4, "classes", 0).arrays(jnp.float32)


def test_mlp():
    net = nnjax.mlp([784, 30, 10])
    assert net == nnjax.Network(784, [nnjax.Dense(30), nnjax.Dense(10)], nnjax.cross_entropy)
    assert hash(net) == hash(nnjax.mlp((784, 30, 10)))
    assert net.shapes == ((784,), (30,), (10,))
    assert net.n_out == 10
    assert jax.tree.leaves(net) == []
    outputs = [nnjax.mlp([3, 2], loss=loss).layers[-1].activation for loss in (
        nnjax.quadratic, nnjax.cross_entropy, nnjax.log_likelihood
    )]  # fmt: skip
    assert outputs == [nnjax.sigmoid, nnjax.sigmoid, nnjax.softmax]


def test_feedforward():
    w1, b1, w2, b2 = map(np.asarray, jax.tree.leaves(PARAMS))
    z = np.tanh(np.asarray(X) @ w1.T + b1) @ w2.T + b2
    expected = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    np.testing.assert_allclose(nnjax.feedforward(NET, PARAMS, X), expected, rtol=2e-5)
    assert nnjax.predict(NET, PARAMS, X).tolist() == expected.argmax(1).tolist()
    picked = expected[np.arange(4), np.asarray(Y)]
    np.testing.assert_allclose(nnjax.loss(NET, PARAMS, X, Y), -np.log(picked).mean(), rtol=1e-5)


def test_grey_levels_and_images():
    net = nnjax.mlp([6, 3])
    params = nnjax.init(net, jax.random.key(0))
    grey = np.arange(12, dtype=np.uint8).reshape(2, 3, 2, 1) * 20
    expected = nnjax.feedforward(net, params, grey.reshape(2, 6) / np.float32(255))
    np.testing.assert_allclose(nnjax.feedforward(net, params, grey), expected, rtol=1e-6)
    np.testing.assert_allclose(
        nnjax.backprop(net, params, grey, np.array([0, 1])).activations[0], grey.reshape(2, 6) / 255
    )


def test_evaluate_in_pieces():
    """More examples than are worked through at once, and no multiple of that number."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2345, 6)).astype(np.float32), rng.integers(3, size=2345)
    outputs = nnjax.feedforward(NET, PARAMS, x)
    right = outputs.argmax(1) == y
    result = nnjax.evaluate(NET, PARAMS, x, y)
    assert int(result.correct) == right.sum()
    np.testing.assert_allclose(result.accuracy, right.mean(), rtol=1e-6)
    np.testing.assert_allclose(result.loss, nnjax.loss(NET, PARAMS, x, y), rtol=1e-5)
    assert nnjax.predict(NET, PARAMS, x).shape == (2345,)
    assert float(nnjax.accuracy(NET, PARAMS, x, np.eye(3)[y])) == float(result.accuracy)


def test_one_output_is_a_yes_or_no():
    """XOR by perceptrons, with the weights of the book's NAND gates."""
    net = nnjax.mlp([2, 2, 1], nnjax.step, nnjax.step)
    params = (
        nnjax.Affine(jnp.array([[1.0, 1.0], [-1.0, -1.0]]), jnp.array([-0.5, 1.5])),
        nnjax.Affine(jnp.array([[1.0, 1.0]]), jnp.array([-1.5])),
    )
    x = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    assert nnjax.predict(net, params, x).tolist() == [0, 1, 1, 0]
    assert float(nnjax.accuracy(net, params, x, jnp.array([[0.0], [1.0], [1.0], [0.0]]))) == 1.0


def test_labels_out_of_range_under_jit_make_the_loss_nan():
    loss = jax.jit(lambda y: nnjax.loss(NET, PARAMS, X, y))
    assert bool(jnp.isnan(loss(jnp.array([0, 1, 2, 3]))))
    assert bool(jnp.isfinite(loss(jnp.array([0, 1, 2, 2]))))


def refuses(error, sentence, f, *args):
    with pytest.raises(error, match=re.escape(sentence)):
        f(*args)


@pytest.mark.parametrize("call", [nnjax.feedforward, nnjax.predict])
def test_x_that_does_not_fit(call):
    for x, sentence in (
        (jnp.ones((4, 7)), "x has shape (4, 7); this network takes (n, 6)"),
        (jnp.ones(6), "x has shape (6,); this network takes (n, 6); for a single example give x["),
        (jnp.ones(()), "x has shape (); this network takes (n, 6)"),
        (jnp.ones((0, 6)), "x has no examples"),
        (jnp.ones((2, 2, 2)), "x has shape (2, 2, 2); this network takes (n, 6)"),
        ([[1.0, 2.0], [1.0]], "x is no rectangular array"),
    ):
        refuses(ValueError, sentence, call, NET, PARAMS, x)
    for x in (np.array([["a"] * 6]), np.full((1, 6), None), np.ones((1, 6), complex)):
        refuses(TypeError, f"x has dtype {x.dtype}; expected real numbers", call, NET, PARAMS, x)


@pytest.mark.parametrize("call", [nnjax.loss, nnjax.backprop, nnjax.accuracy, nnjax.evaluate])
def test_y_that_does_not_fit(call):
    for y, sentence in (
        (jnp.array([0, 1, 2]), "y has shape (3,), but x has 4 examples; expected as many"),
        (jnp.array([0, 1, 2, 3]), "y holds the class 3; this network has 3 outputs, so classes"),
        (jnp.array([0, -1, 2, 1]), "y holds the class -1; this network has 3 outputs"),
        (jnp.ones((4, 10)), "y has shape (4, 10) and dtype float32; expected (4, 3) targets"),
        (jnp.ones(4), "y has shape (4,) and dtype float32; expected (4, 3) targets"),
    ):
        refuses(ValueError, sentence, call, NET, PARAMS, X, y)


def test_params_that_do_not_fit():
    other = nnjax.init(nnjax.mlp([6, 4, 3]), jax.random.key(0))
    sentence = "params[0].w has shape (4, 6), but this network has (5, 6) there"
    refuses(ValueError, sentence, nnjax.feedforward, NET, other, X)
    refuses(ValueError, "params has the structure", nnjax.feedforward, NET, PARAMS[:1], X)
    refuses(ValueError, "start from nnjax.init(net, key)", nnjax.loss, NET, list(PARAMS), X, Y)


def test_key_that_is_none():
    refuses(TypeError, "key is 3; expected a random key", nnjax.backprop, NET, PARAMS, X, Y, 3)


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ([784], "sizes is [784]; expected at least two, such as [784, 30, 10]"),
        (784, "sizes is 784; expected at least two"),
        ([784, 0, 10], "a size in sizes is 0; expected an integer of at least 1"),
        ([784, 30.5, 10], "a size in sizes is 30.5; expected an integer of at least 1"),
        ([True, 2], "a size in sizes is True; expected an integer of at least 1"),
    ],
)
def test_bad_sizes(sizes, sentence):
    refuses(ValueError, sentence, nnjax.mlp, sizes)


def test_bad_descriptions():
    dense, loss = nnjax.Dense(3), nnjax.quadratic
    refuses(ValueError, "layers is []; expected a list of at least", nnjax.Network, 3, [], loss)
    refuses(ValueError, "input_shape is ()", nnjax.Network, (), [dense], loss)
    refuses(ValueError, "a size in input_shape is -1", nnjax.Network, -1, [dense], loss)
    refuses(TypeError, "layers[0] is 3; expected a layer", nnjax.Network, 3, [3], loss)
    refuses(TypeError, "loss is 'mse'; expected a loss such", nnjax.Network, 3, [dense], "mse")
    refuses(TypeError, "activation of Dense is", nnjax.Dense, 3, jnp.tanh)
    refuses(ValueError, "size of Dense is 0", nnjax.Dense, 0)
    sentence = "layers[0]: Dense takes a vector (n_in,), but what comes in has the shape (4, 4, 1)"
    refuses(ValueError, sentence, nnjax.Network, (4, 4, 1), [dense], loss)
