"""The network in a page computes what nnjax computes: forward, and backward by BP1 to BP4."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from javascript import evaluate
from strategies import random_params

import nnjax
from nnjax.activations import ACTIVATIONS, Activation, Softmax
from nnjax.data import load
from nnjax.layers import LAYERS
from nnjax.losses import LOSSES
from nnjax.page.network import described

BACKPROP = """(() => {
  const [net, params] = read(DATA.network);
  return DATA.x.map((x, i) => {
    const bp = backprop(net, params, Float64Array.from(x), Float64Array.from(DATA.y[i]));
    const plain = (arrays) => arrays.map((array) => Array.from(array));
    const grads = bp.grads.map((g) => (g ? plain(Object.values(g)) : []));
    return [bp.loss, plain(bp.activations), plain(bp.errors), grads];
  });
})()"""


def in_double(params):
    return jax.tree.map(lambda p: jnp.asarray(np.asarray(p), jnp.float64), params)


def assert_same(net, params, x, y, folder, rtol):
    """Compare the script with `nnjax.backprop`, which sees the whole batch at once."""
    one_hot = np.eye(net.n_out)[y]
    data = {"network": described(net, params), "x": x.reshape(len(x), -1).tolist()}
    data["y"] = one_hot.tolist()
    came = evaluate(["network.js"], BACKPROP, data, folder)
    with jax.enable_x64(True):
        bp = nnjax.backprop(net, in_double(params), jnp.asarray(x, float), jnp.asarray(one_hot))
    close = {"rtol": rtol, "atol": rtol}
    np.testing.assert_allclose(np.mean([loss for loss, *_ in came]), bp.loss, **close)
    for l, a in enumerate(bp.activations):
        np.testing.assert_allclose([c[1][l] for c in came], a.reshape(len(x), -1), **close)
    for l, (delta, grads) in enumerate(zip(bp.errors, bp.grads, strict=True)):
        np.testing.assert_allclose([c[2][l] for c in came], delta.reshape(len(x), -1), **close)
        for i, g in enumerate(grads):
            mean = np.mean([c[3][l][i] for c in came], axis=0)
            np.testing.assert_allclose(mean, g.ravel(), **close)


def test_a_hundred_digits(tmp_path):
    x, y = (v[:100] for v in load("digits").test)
    net = nnjax.architecture.parse("conv4k3 pool2 dense12", (8, 8, 1), 10, nnjax.relu)
    params = random_params(net, 0)
    assert_same(net, params, x, y, tmp_path, rtol=1e-10)


def test_every_layer_of_the_table(tmp_path):
    words = "dropout0.5 pool2s1 conv2k3x2s2x1p1:tanh conv4k3samed2g2:sigmoid meanpool3x2s1 l2pool2"
    words += " layernorm:tanh flatten dense6:leaky_relu dense6 add1:gelu"
    net = nnjax.architecture.parse(words, (15, 12, 2), 3, loss=nnjax.cross_entropy)
    assert {type(layer) for layer in net.layers} == set(LAYERS.values())
    params = random_params(net, 1)
    x = jax.random.normal(jax.random.key(2), (2, 15, 12, 2)).round()  # with ties
    assert_same(net, params, np.asarray(x), [1, 2], tmp_path, rtol=1e-10)


@pytest.mark.slow
def test_every_activation_and_loss(tmp_path):
    z = np.array([-800.0, -1.5, 0.0, 0.3, 2.0, 40.0])
    g, y = np.array([0.3, -1.0, 0.7, 0.2, 1.5, -0.4]), np.array([0.0, 1.0, 0.25, 0.0, 1.0, 0.0])
    kinds = [*ACTIVATIONS.values(), nnjax.LeakyReLU(0.25), Softmax(2.0)]
    specs = [{"name": s.name, **dataclasses.asdict(s)} for s in kinds]
    data = {"specs": specs, "z": z.tolist(), "g": g.tolist(), "y": y.tolist()}
    data["losses"] = list(LOSSES)
    expression = """(() => {
      const [z, g, y] = [DATA.z, DATA.g, DATA.y].map((v) => Float64Array.from(v));
      return DATA.specs.map((spec) => {
        const sigma = ACTIVATIONS[spec.name](spec);
        const a = sigma.at(z);
        if (!sigma.pullBack) return [Array.from(a)];
        const losses = DATA.losses.map((name) => LOSSES[name]);
        return [
          Array.from(a),
          Array.from(sigma.pullBack(z, a, g)),
          losses.map((loss) => loss.at(sigma, z, a, y)),
          losses.map((loss) => Array.from(loss.outputError(sigma, z, a, y))),
        ];
      });
    })()"""
    came = evaluate(["network.js"], expression, data, tmp_path)
    close = {"rtol": 1e-9, "atol": 1e-12}
    with jax.enable_x64(True):
        z, g, y = jnp.asarray(z), jnp.asarray(g), jnp.asarray(y)
        for sigma, (a, *rest) in zip(kinds, came, strict=True):
            np.testing.assert_allclose(a, sigma(z), err_msg=sigma.name, **close)
            if sigma.name in ("step", "sign"):
                assert not rest
                continue
            back, losses, errors = rest
            np.testing.assert_allclose(back, sigma.pull_back(z, sigma(z), g), **close)
            for loss, value, delta in zip(LOSSES.values(), losses, errors, strict=True):
                if not sigma.name.startswith(("sigmoid", "softmax")) and loss.name != "quadratic":
                    continue  # outputs outside (0, 1), which each precision cuts elsewhere
                what = f"{loss.name} of {sigma.name}"
                np.testing.assert_allclose(value, loss.at(sigma, z, sigma(z), y), err_msg=what)
                expected = loss.output_error(sigma, z, sigma(z), y)
                np.testing.assert_allclose(delta, expected, err_msg=what, **close)


def test_a_step_is_that_of_sgd(tmp_path):
    net = nnjax.mlp([3, 4, 1], activation=nnjax.tanh)
    params = random_params(net, 0)
    x, y = [0.2, -0.4, 0.9], [1.0]
    data = {"network": described(net, params), "x": x, "y": y}
    expression = """(() => {
      const [net, params] = read(DATA.network);
      const { grads } = backprop(net, params, Float64Array.from(DATA.x), DATA.y);
      return sgdStep(params, grads, 0.5).map(({ w, b }) => [Array.from(w), Array.from(b)]);
    })()"""
    came = evaluate(["network.js"], expression, data, tmp_path)
    stepped = nnjax.sgd_step(net, params, jnp.array([x]), jnp.array([y]), 0.5)
    for arrays, layer in zip(came, stepped, strict=True):
        for values, expected in zip(arrays, layer, strict=True):
            np.testing.assert_allclose(values, expected.ravel(), rtol=1e-5, atol=1e-6)


@dataclasses.dataclass(frozen=True)
class Cube(Activation):
    def __call__(self, z):
        return z**3


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (
            nnjax.mlp([2, 2], output=Cube()),
            r"layers\[0\] has the activation Cube\(\), which a page",
        ),
        (nnjax.mlp([2, 2], loss=type("Mine", (nnjax.losses.Loss,), {})()), "the loss is .*Mine"),
        (
            nnjax.Network(2, [type("Own", (nnjax.Dense,), {})(2)], nnjax.quadratic),
            r"layers\[0\] is",
        ),
    ],
)
def test_what_the_script_does_not_know_is_refused(net, message):
    with pytest.raises(TypeError, match=message):
        described(net, random_params(net, 0))
