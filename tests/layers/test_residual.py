"""Residual blocks: BP2 along both ways, in every quantity, and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from strategies import Case, random_params, relative_errors

import nnjax
from nnjax import Add, Conv, Dense, Flatten, LayerNorm, MaxPool, Network, Residual
from nnjax.activations import gelu, identity, relu, sigmoid, silu, tanh
from nnjax.layers.residual import in_a_row

DENSE = Network(
    5,
    [
        # The input itself goes two ways, and a¹ three.
        Residual(Dense(5, tanh), Residual(Residual(LayerNorm(gelu)), Dense(5, silu))),
        Dense(4, tanh),
        Residual(Dense(6, gelu), Dense(4, identity), activation=tanh),
        Dense(3),
    ],
    nnjax.cross_entropy,
)
CONV = Network(
    (6, 5, 2),
    [
        Conv(3, 3, padding="same", activation=tanh),
        Residual(Conv(3, 3, padding=1, activation=relu), LayerNorm(), activation=silu),
        MaxPool(2),
        Flatten(),
        Dense(3, nnjax.softmax),
    ],
    nnjax.log_likelihood,
)


@pytest.mark.parametrize("net", [DENSE, CONV], ids=["dense", "conv"])
def test_equals_autodiff(net):
    """Gradients, errors of every layer and input gradients."""
    with jax.enable_x64(True):
        params, x, y = Case(net, 4, "soft", 0).arrays()
        bp = nnjax.backprop(net, params, x, y)
        n, shapes = len(x), net.shapes[1:]

        def cost(params, x, zeros):
            a, inputs = x, []
            for l, (layer, zero) in enumerate(zip(net.layers, zeros, strict=True)):
                inputs.append(a)
                z = jax.vmap(lambda a, l=l, layer=layer: layer.forward(params[l], a, None)[0])(a)
                z = z + n * zero + (inputs[l - layer.skip] if isinstance(layer, Add) else 0)
                a = layer.activation(z)
            return jnp.mean(net.loss.at(net.layers[-1].activation, z, a, y))

        zeros = [jnp.zeros((n, *shape)) for shape in shapes]
        loss, auto = jax.jit(jax.value_and_grad(cost, (0, 1, 2)))(params, x, zeros)
        came = bp.grads, nnjax.per_example.input_gradients(net, params, bp) / n, [*bp.errors]
        np.testing.assert_allclose(bp.loss, loss, rtol=1e-13)
        assert max(map(float, jax.tree.leaves(relative_errors(came, auto)))) <= 1e-10


def test_the_row_of_layers():
    words = "dense5:tanh layernorm:gelu add1 dense5:silu add3 add5"
    block = DENSE.layers[:6]
    assert " ".join(layer.word() for layer in block) == words
    net = nnjax.architecture.parse(words, (5,), 2)
    assert net.layers[:6] == block
    assert net.skips[:4] == ((5,), (2, 4), (), ())
    assert in_a_row(block) == block
    assert [row.parameters for row in nnjax.summary(net).layers] == [30, 10, 0, 30, 0, 0, 12]
    assert nnjax.architecture.parse("dense4 dense4 add1:relu", (5,), 2).layers[2] == Add(1, relu)


def test_the_sum():
    net = Network(2, [Residual(Dense(2, identity), activation=relu)], nnjax.quadratic)
    params = (nnjax.Affine(w=jnp.array([[1.0, 2.0], [0.0, -3.0]]), b=jnp.array([0.5, 0.0])), ())
    assert nnjax.feedforward(net, params, jnp.array([[1.0, 1.0]])).tolist() == [[4.5, 0.0]]


@pytest.mark.slow
def test_it_is_saved_and_trains(tmp_path):
    params = random_params(DENSE, 0)
    nnjax.save(tmp_path / "net.safetensors", DENSE, params)
    net, params = nnjax.load(tmp_path / "net.safetensors")
    assert net == DENSE
    x = jax.random.normal(jax.random.key(1), (32, 5))
    _, history = nnjax.train(
        net,
        nnjax.data.Dataset((x, (x[:, 0] > 0).astype(int)), None, None),
        optimizer=optax.sgd(0.1),
        epochs=4,
        batch_size=8,
        key=jax.random.key(2),
        params=params,
    )
    assert history["train_loss"][-1] < history["train_loss"][0]


def wrong(stopped, kept):
    """Return a backpropagation of the network below that loses one of the two ways of BP2."""

    def cost(params, x, y):
        (w1, b1), (w2, b2), _, (w3, b3) = params
        a = jnp.tanh(x @ w1.T + b1)
        h = jnp.tanh(stopped(a) @ w2.T + b2) + kept(a)
        return jnp.mean(nnjax.quadratic(sigmoid(h @ w3.T + b3), y))

    return jax.grad(cost)


@pytest.mark.slow
def test_a_way_that_is_left_out_is_named():
    block = Residual(Dense(4, tanh))
    net = Network(5, [Dense(4, tanh), block, Dense(3)], nnjax.quadratic)
    stop = jax.lax.stop_gradient
    report = nnjax.check_backprop(net, wrong(identity, stop))
    assert report.findings[0].name == "skip connection missing in the backward pass"
    report = nnjax.check_backprop(net, wrong(stop, identity))
    assert report.findings[0].name == "the block missing in the backward pass"
    assert nnjax.check_backprop(net, wrong(identity, identity)).ok


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Residual(), TypeError, r"layers of Residual are \(\); expected layers"),
        (lambda: Residual([Dense(3)]), TypeError, r"layers of Residual are .*; expected layers"),
        (lambda: Residual(Dense(3), activation="relu"), TypeError, "activation of Residual is"),
        (lambda: Add(0), ValueError, "skip of Add is 0"),
        (
            lambda: Network(5, [Dense(4), Residual(Dense(3))], nnjax.quadratic),
            ValueError,
            r"layers\[2\]: Add\(1\) adds what has the shape \(4,\) to .* of the shape \(3,\)",
        ),
        (
            lambda: Network(5, [Add(1)], nnjax.quadratic),
            ValueError,
            r"layers\[0\]: Add\(1\) adds .* the layer 1 places before, but there are 0 before it",
        ),
        (
            lambda: nnjax.architecture.parse("dense3 dense4 add1", (3,), 2),
            ValueError,
            r"the same shape before and after a residual block\n  dense3 dense4 add1\n +\^\^\^\^$",
        ),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
