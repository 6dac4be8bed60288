"""The working by hand shows the numbers of backprop, and those of the textbook."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from strategies import random_params

import nnjax
from nnjax.explain import explain


def neuron():
    params = (nnjax.Affine(w=jnp.array([[2.0, 3.0]]), b=jnp.zeros(1)),)
    return nnjax.mlp([2, 1], loss=nnjax.quadratic), params, jnp.array([[0.4, 0.5]])


def test_the_neuron_worked_by_hand():
    # Signals 0.4 and 0.5, weights 2 and 3, error t − o = 1.5, learning rate 1.
    with jax.enable_x64(True):
        net, params, x = neuron()
        y = nnjax.feedforward(net, params, x) + 1.5
        working = explain(net, params, x, y, eta=1.0)
    assert working["z¹₁"] == pytest.approx(2.3, abs=1e-12)
    assert round(working["a¹₁"], 3) == 0.909
    assert round(working["∂C/∂w¹₁₁"], 4) == -0.0497
    assert working["∂C/∂w¹₁₁"] == pytest.approx(-1.5 * 0.08281956699 * 0.4, rel=1e-8)
    assert working["new w¹₁₁"] == pytest.approx(2.0 - working["∂C/∂w¹₁₁"], rel=1e-12)
    assert round(working["new w¹₁₁"], 3) == 2.050
    text = str(working)
    assert "z¹₁ = w¹₁₁ x₁ + w¹₁₂ x₂ + b¹₁ = 2·0.4 + 3·0.5 + 0 = 2.3" in text
    assert re.search(
        r"δ¹₁ = \(a¹₁ − y₁\) · sigmoid'\(z¹₁\) = .* · 0.0828196 = −0.124229 +\[BP1\]", text
    )


@pytest.mark.parametrize("loss", [nnjax.quadratic, nnjax.cross_entropy, nnjax.log_likelihood])
@pytest.mark.parametrize("n", [1, 3])
def test_the_numbers_are_those_of_backprop(loss, n):
    net = nnjax.mlp([3, 4, 2], activation=nnjax.tanh, loss=loss)
    params = random_params(net, 0)
    x = jax.random.normal(jax.random.key(1), (n, 3))
    y = jnp.arange(n) % 2
    working, bp = explain(net, params, x, y, eta=0.5), nnjax.backprop(net, params, x, y)
    values = {(line.symbol, line.example): line.value for line in working.lines}
    for i in range(n):
        for j in range(4):
            assert values[f"δ¹{'₁₂₃₄'[j]}", i] == pytest.approx(float(bp.errors[0][i, j]))
    assert values["∂C/∂w²₂₃", -1] == pytest.approx(float(bp.grads[1].w[1, 2]))
    assert working.loss == pytest.approx(float(bp.loss))
    stepped = nnjax.sgd_step(net, params, x, y, 0.5)
    for one, other in zip(jax.tree.leaves(working.params), jax.tree.leaves(stepped), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [nnjax.quadratic, nnjax.cross_entropy, nnjax.log_likelihood])
@pytest.mark.parametrize("output", [nnjax.sigmoid, nnjax.softmax, nnjax.Softmax(2.0)])
def test_the_numbers_put_in_give_the_value_that_is_written(loss, output):
    net = nnjax.mlp([2, 3, 2], output=output, loss=loss)
    params = random_params(net, 3)
    working = explain(net, params, jnp.array([[0.3, -0.7]]), jnp.array([1]), eta=0.1)
    checked = 0
    for line in working.lines:
        numbers = line.numbers.replace("−", "-").replace("·", "*").replace("½", "0.5 *")
        numbers = re.sub(r"\)²", ")**2", numbers)
        numbers = re.sub(r"ln (\d[^ )]*)", r"log(\1)", numbers)
        if not numbers or "[" in numbers or "sigmoid" in numbers:
            continue
        value = eval(numbers, {"log": np.log})  # our own arithmetic, nothing from outside
        assert value == pytest.approx(line.value, rel=1e-3, abs=2e-5), line
        checked += 1
    assert checked > 30


def test_a_single_example_needs_no_batch_axis_and_data_is_plain():
    net, params, x = neuron()
    one = explain(net, params, x[0], jnp.array([1.0]))
    assert str(one) == str(explain(net, params, x, jnp.array([[1.0]])))
    assert one.to_dict()["lines"][0]["symbol"] == "z¹₁"
    with pytest.raises(KeyError, match="q is not in this working"):
        one["q"]


def test_two_digit_indices_are_kept_apart():
    net = nnjax.mlp([11, 1])
    working = explain(net, random_params(net, 0), jnp.ones((1, 11)), jnp.ones((1, 1)))
    assert "∂C/∂w¹₁,₁₁" in {line.symbol for line in working.lines}


def test_what_cannot_be_worked_by_hand_is_refused():
    net, params, x = neuron()
    with pytest.raises(TypeError, match="expected a Network"):
        explain("net", params, x, x)
    with pytest.raises(ValueError, match="eta is -1\\.0; expected a learning rate"):
        explain(net, params, x, jnp.ones((1, 1)), eta=-1.0)
    big = nnjax.mlp([784, 30, 10])
    with pytest.raises(ValueError, match="more than 2000; take a smaller network"):
        explain(big, random_params(big, 0), jnp.ones((1, 784)), jnp.ones((1, 10)))
    block = nnjax.Residual(nnjax.Dense(2))
    for l, name, first in (
        (0, "Flatten", nnjax.layers.Flatten()),
        (0, "LayerNorm", nnjax.LayerNorm()),
        (1, "Add", block),
    ):
        other = nnjax.Network(2, [first, nnjax.Dense(1)], nnjax.quadratic)
        sentence = (
            rf"layers\[{l}\] is {name}\(.*only dense layers.*nnjax\.backprop.*docs/layers\.md"
        )
        with pytest.raises(TypeError, match=sentence):
            explain(other, random_params(other, 0), x, jnp.ones((1, 1)))


def test_a_loss_of_ones_own_is_shown_as_itself():
    """Not with the formula of another loss: its value and slope, as nnjax computes them."""

    @dataclasses.dataclass(frozen=True)
    class LogCosh(nnjax.losses.Loss):
        name = "log_cosh"

        def value(self, a, y):
            return jnp.sum(jnp.logaddexp(a - y, y - a) - jnp.log(2.0), axis=-1)

        def gradient_at(self, a, y):
            return jnp.tanh(a - y)

    params = (nnjax.Affine(w=jnp.array([[2.0, 3.0]]), b=jnp.zeros(1)),)
    net = nnjax.mlp([2, 1], loss=LogCosh())
    working = explain(net, params, jnp.array([[0.4, 0.5]]), jnp.array([[0.0]]))
    text = str(working)
    assert working["C"] == pytest.approx(np.log(np.cosh(0.908877)), rel=1e-5)
    assert "C = log_cosh([a¹₁], [y₁]) = log_cosh([0.908877], [0]) = " in text
    assert "δ¹₁ = ∂C/∂a¹₁ · sigmoid'(z¹₁)" in text
    assert "ln" not in text.replace("log_cosh", "")


def test_activations_and_losses_are_called_as_everywhere():
    net = nnjax.mlp([2, 2, 1], activation=nnjax.leaky_relu)
    params = random_params(net, 0)
    working = explain(net, params, jnp.ones((1, 2)), jnp.ones((1, 1)))
    assert "leaky_relu(z¹₁)" in str(working)
    assert ", cross_entropy, η = 1" in working.title


@pytest.mark.slow
def test_what_is_not_derived_by_hand_is_said_and_shown_by_its_slopes():
    """mish works element by element; log_softmax has a full Jacobian that is not softmax's."""
    mish, log_softmax = map(nnjax.activations.from_jax, (jax.nn.mish, jax.nn.log_softmax))
    loss = nnjax.losses.from_jax(optax.cosine_distance)
    net = nnjax.mlp([2, 2, 2], activation=mish, output=log_softmax, loss=loss)
    params = random_params(net, 0)
    working = explain(net, params, jnp.array([[0.5, -1.0]]), jnp.array([[1.0, 0.0]]))
    assert working.title.endswith(
        "; derivative of cosine_distance and mish and log_softmax by jax.vjp"
    )
    line = next(line for line in working.lines if line.symbol == "δ²₁")
    assert line.formula == "∂C/∂a²₁ ∂a²₁/∂z²₁ + ∂C/∂a²₂ ∂a²₂/∂z²₁"
    value = eval(line.numbers.replace("·", "*").replace("−", "-"))
    assert value == pytest.approx(line.value, rel=1e-4)
    assert "· mish'(z¹₁)" in str(working)
