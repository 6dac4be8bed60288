"""The description of a network, what it computes, and what it refuses."""

import pickle
import re

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from strategies import Case, random_params

import nnjax
from nnjax.descent import loss_and_gradient

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
    params = random_params(net, 0)
    grey = np.arange(12, dtype=np.uint8).reshape(2, 3, 2, 1) * 20
    expected = nnjax.feedforward(net, params, grey.reshape(2, 6) / np.float32(255))
    np.testing.assert_allclose(nnjax.feedforward(net, params, grey), expected, rtol=1e-6)
    np.testing.assert_allclose(
        nnjax.backprop(net, params, grey, np.array([0, 1])).activations[0], grey.reshape(2, 6) / 255
    )


@pytest.mark.slow
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
        ([[1.0, 2.0], [1.0]], "x is not a rectangular array"),
    ):
        refuses(ValueError, sentence, call, NET, PARAMS, x)
    for x in (np.array([["a"] * 6]), np.full((1, 6), None), np.ones((1, 6), complex)):
        refuses(TypeError, f"x has dtype {x.dtype}; expected real numbers", call, NET, PARAMS, x)


@pytest.mark.parametrize("call", [nnjax.loss, nnjax.backprop, nnjax.accuracy, nnjax.evaluate])
def test_y_that_does_not_fit(call):
    for y, sentence in (
        (jnp.array([0, 1, 2]), "y has shape (3,), but x has 4 examples; expected as many"),
        (np.array([0, 1, 2, 3]), "y holds the class 3; this network has 3 outputs, so classes"),
        ([0, -1, 2, 1], "y holds the class -1; this network has 3 outputs"),
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


def test_labels_on_a_device_are_not_read_back():
    """A wrong one shows as NaN, for looking at it would wait for the device at every step."""
    wrong = jnp.array([0, 1, 2, 3])
    assert bool(jnp.isnan(nnjax.loss(NET, PARAMS, X, wrong)))
    assert float(nnjax.accuracy(NET, PARAMS, X, wrong)) <= 0.75
    reads = []

    original = type(wrong).__array__
    try:
        type(wrong).__array__ = lambda self, *a, **k: (reads.append(1), original(self, *a, **k))[1]
        jax.block_until_ready(nnjax.sgd_step(NET, PARAMS, X, jnp.array([0, 1, 2, 2]), 0.1))
    finally:
        type(wrong).__array__ = original
    assert not reads


@pytest.mark.parametrize(
    ("label", "dtype"), [(2**32 + 1, np.int64), (2**32, np.uint64), (2**63, np.uint64)]
)
def test_labels_beyond_int32_do_not_wrap_round(label, dtype):
    y = np.array([0, 1, 2, label], dtype)
    for call in (nnjax.loss, nnjax.backprop, nnjax.accuracy):
        refuses(ValueError, f"y holds the class {label}; this", call, NET, PARAMS, X, y)


def test_inputs_and_targets_beyond_int32_keep_their_size():
    net = nnjax.mlp([2, 2], output=nnjax.identity, loss=nnjax.quadratic)
    params = (nnjax.Affine(jnp.eye(2), jnp.zeros(2)),)
    x = np.array([[2**40, -(2**33)]])
    assert nnjax.feedforward(net, params, x).tolist() == [[2.0**40, -(2.0**33)]]
    assert float(nnjax.loss(net, params, x, x)) == 0.0


@pytest.mark.parametrize("dtype", [">f4", ">f8", np.longdouble, ">i4", np.float64])
def test_inputs_of_every_layout(dtype):
    x = np.arange(24).reshape(4, 6).astype(dtype)
    expected = nnjax.feedforward(NET, PARAMS, np.float32(x))
    np.testing.assert_array_equal(nnjax.feedforward(NET, PARAMS, x), expected)


def test_what_is_not_a_network():
    key = jax.random.key(0)
    for call in (
        lambda net: nnjax.init(net, key),
        lambda net: nnjax.feedforward(net, PARAMS, X),
        lambda net: nnjax.loss(net, PARAMS, X, Y),
        lambda net: nnjax.predict(net, PARAMS, X),
        lambda net: nnjax.evaluate(net, PARAMS, X, Y),
        lambda net: nnjax.backprop(net, PARAMS, X, Y),
        lambda net: nnjax.sgd_step(net, PARAMS, X, Y, 0.1),
        lambda net: nnjax.summary(net),
        lambda net: nnjax.explain(net, PARAMS, X, Y),
        lambda net: nnjax.feedback.init(net, key, "output_only"),
        lambda net: nnjax.per_example.gram(net, PARAMS, nnjax.backprop(NET, PARAMS, X, Y)),
    ):
        for net in (None, "mlp", [784, 10]):
            refuses(TypeError, f"net is {net!r}; expected a Network, such as", call, net)


def test_parameters_that_are_not_floating_point():
    for bad, came in (
        (lambda p: p.astype(jnp.int32), "has dtype int32"),
        (lambda p: p.astype(jnp.complex64), "has dtype complex64"),
        (lambda p: "w", "is 'w'; expected an array"),
    ):
        params = jax.tree.map(bad, PARAMS)
        refuses(TypeError, f"params[0].w {came}", nnjax.feedforward, NET, params, X)


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.slow
def test_parameters_of_mixed_dtypes(place):
    """They compute in the widest; each gradient has the dtype of its own leaf, as jax.grad's."""
    with jax.enable_x64(True):
        params, x, y = Case(NET, 4, "classes", 0).arrays()
        leaves, structure = jax.tree.flatten(params)
        leaves[place] = leaves[place].astype(jnp.float32)
        params = jax.tree.unflatten(structure, leaves)
        bp = nnjax.backprop(NET, params, x, y)
        auto = jax.grad(nnjax.loss, argnums=1)(NET, params, x, y)
        for p, hand, by_jax in zip(*map(jax.tree.leaves, (params, bp.grads, auto)), strict=True):
            assert hand.dtype == by_jax.dtype == p.dtype
            np.testing.assert_allclose(hand, by_jax, rtol=1e-6 if p.dtype == "float32" else 1e-12)
        stepped = nnjax.sgd_step(NET, params, x, y, 0.1)
        assert jax.tree.map(lambda p: p.dtype, stepped) == jax.tree.map(lambda p: p.dtype, params)
        norms = nnjax.per_example.squared_norms(NET, params, bp)
        wide = jax.tree.map(lambda p: p.astype(jnp.float64), params)
        expected = nnjax.per_example.squared_norms(NET, wide, nnjax.backprop(NET, wide, x, y))
        np.testing.assert_allclose(norms, expected, rtol=1e-12)


def test_the_loss_of_a_data_set_takes_the_memory_of_a_piece():
    net = nnjax.mlp([100, 2000, 3])
    params = jax.eval_shape(lambda: nnjax.init(net, jax.random.key(0)))
    x = jax.ShapeDtypeStruct((50_000, 100), jnp.float32)
    y = jax.ShapeDtypeStruct((50_000,), jnp.int32)
    compiled = nnjax.loss.unchecked.lower(net, params, x, y, None).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 50_000 * 2000 * 4 / 10


def test_a_convolution_exports_for_any_number_of_examples():
    net = nnjax.architecture.parse("conv4k3 pool2", (8, 8, 1), 3)
    params = random_params(net, 0)
    (n,) = jax.export.symbolic_shape("n")
    like = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    images = jax.ShapeDtypeStruct((n, 8, 8, 1), jnp.float32)
    exported = jax.export.export(jax.jit(lambda p, x: nnjax.feedforward(net, p, x)))(like, images)
    for size in (1, 5):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(size, 8, 8, 1)), jnp.float32)
        chex.assert_trees_all_close(
            exported.call(params, x), nnjax.feedforward(net, params, x), rtol=1e-5
        )


@pytest.mark.parametrize("words", ["dense4", "conv4k3 pool2"])
def test_losses_and_gradients_export_for_any_number_of_examples(words):
    net = nnjax.architecture.parse(words, (8, 8, 1) if "conv" in words else (6,), 3)
    params = random_params(net, 0)

    def results(params, x, y):
        return (
            nnjax.loss(net, params, x, y),
            nnjax.evaluate(net, params, x, y, "classification"),
            nnjax.predict(net, params, x),
            jax.grad(nnjax.loss, argnums=1)(net, params, x, y),
            nnjax.backprop(net, params, x, y).grads,
            loss_and_gradient(net, params, x, y),
        )

    (n,) = jax.export.symbolic_shape("n")
    like = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    shapes = (n, *net.input_shape), (n, net.n_out)
    arrays = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    exported = jax.export.export(jax.jit(results))(like, *arrays)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, *net.input_shape)).astype(np.float32)
    y = np.eye(3, dtype=np.float32)[[0, 1, 2, 1, 0]]
    found, expected = exported.call(params, x, y), jax.jit(results)(params, x, y)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_network_is_pickled_without_its_hash():
    """Hashes of text differ from process to process."""
    hash(NET)
    again = pickle.loads(pickle.dumps(NET))
    assert again == NET
    assert "_hash" not in vars(again)
    assert hash(again) == hash(NET)


class WithAndWithoutJit(chex.TestCase):
    """The public functions under jit, and without it."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True)
    def test_feedforward_loss_and_backprop(self):
        bp = nnjax.backprop(NET, PARAMS, X, Y)
        loss = self.variant(lambda p, x, y: nnjax.loss(NET, p, x, y))
        chex.assert_trees_all_close(loss(PARAMS, X, Y), bp.loss, rtol=1e-6)
        outputs = self.variant(lambda p, x: nnjax.feedforward(NET, p, x))
        chex.assert_trees_all_close(outputs(PARAMS, X), bp.activations[-1], rtol=1e-6)
        grads = self.variant(lambda p, x, y: nnjax.backprop(NET, p, x, y).grads)
        chex.assert_trees_all_close(grads(PARAMS, X, Y), bp.grads, rtol=1e-5)


def test_pooling_comes_first_where_the_activation_rises():
    words = "conv2k3 pool2 conv3k2:relu pool2s1 dense4"
    net = nnjax.architecture.parse(words, (9, 9, 1), 3)
    first = net.pooling_first
    assert [layer.activation.name for layer in first.layers] == [
        "identity", "sigmoid", "identity", "relu", "identity", "sigmoid", "softmax",
    ]  # fmt: skip
    assert first.shapes == net.shapes
    assert first.pooling_first is first
    with jax.enable_x64(True):
        params, x, y = Case(net, 5, "classes", 0).arrays(jnp.float64)
        bp = nnjax.backprop(net, params, x, y)  # all of whose activations are the network's own
        loss, grads = loss_and_gradient(net, params, x, y)
        chex.assert_trees_all_close((loss, grads), (bp.loss, bp.grads), rtol=1e-12)
        outputs = nnjax.feedforward(net, params, x)
        chex.assert_trees_all_close(outputs, bp.activations[-1], rtol=1e-12)


@pytest.mark.parametrize(
    "words",
    [
        "conv2k3:gelu pool2",  # falls, then rises
        "conv2k3:absolute pool2",
        "conv2k3:softmax pool2",
        "conv2k3 dropout0.5 pool2",
        "conv2k3 meanpool2",
        "conv2k3same pool1 add1 dense3",  # the activations go another way too
        "dense4 dense3",
    ],
)
def test_pooling_stays_where_it_is(words):
    net = nnjax.architecture.parse(words, (8, 8, 1), 3)
    assert net.pooling_first is net


def test_increasing_activations_rise():
    z = jnp.linspace(-8.0, 8.0, 1001)
    for activation in nnjax.activations.ACTIVATIONS.values():
        if getattr(activation, "increasing", False):
            assert bool(jnp.all(jnp.diff(activation(z)) >= -1e-6)), activation
