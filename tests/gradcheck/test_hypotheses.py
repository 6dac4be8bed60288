"""The table of mistakes: every entry has a meaning somewhere and is documented."""

import jax
import numpy as np
import pytest

import nnjax
import nnjax.gradcheck.network as network
from nnjax import Dense, Network
from nnjax.activations import LeakyReLU, Softmax, relu, sigmoid, softmax, tanh
from nnjax.gradcheck import MISTAKES, check_backprop, check_gradient, mistake
from nnjax.gradcheck.derivation import BACKWARD, FORWARD, Derivation
from nnjax.gradcheck.reference import double_precision
from nnjax.layers import Conv, Dropout, Flatten, L2Pool, MaxPool, MeanPool
from nnjax.losses import cross_entropy, log_likelihood, quadratic

NETWORKS = [
    Network(4, [Dense(4, sigmoid), Dense(4, tanh), Dense(4, sigmoid), Dense(4)], cross_entropy),
    Network(4, [Dense(4, relu), Dense(4, LeakyReLU(0.2)), Dense(4, tanh)], cross_entropy),
    Network(
        4,
        [Dense(4, softmax), Dense(4, Softmax(2.0)), Dense(4, sigmoid), Dense(4, softmax)],
        log_likelihood,
    ),
    Network(
        (8, 8, 3),
        [
            Conv(3, 3, stride=2, padding=1, activation=tanh),
            Conv(3, 3, stride=2, padding=2, activation=tanh),
            MaxPool(2, 1),
            Flatten(),
            Dense(3),
        ],
        quadratic,
    ),
    Network(
        (8, 9, 2),
        [Conv(2, 2, activation=tanh), MeanPool(3, 2), L2Pool(2, 1), Flatten(), Dense(3)],
        quadratic,
    ),
    Network(5, [Dense(5, tanh), Dropout(0.4), Dense(4)], quadratic),
]
STEPS = [made for made in MISTAKES if made.step in FORWARD + BACKWARD]


@pytest.fixture(scope="module")
def derivations():
    key = jax.random.key(0)
    with double_precision():
        return [
            Derivation(net, *network._draw(net, 6, seed=i), key=key)
            for i, net in enumerate(NETWORKS)
        ]


def gradients(d, made, layers):
    t = 0.37 if made.fitted else 0.0
    with double_precision(), np.errstate(all="ignore"):
        return [np.asarray(leaf) for _, _, leaf in d.wrong_gradients(made, layers, t)]


def test_the_derivation_without_a_mistake_is_the_gradient(derivations):
    for d in derivations:
        with double_precision():
            found = [leaf for _, _, leaf in d.wrong_gradients()]
            right = jax.grad(nnjax.loss, argnums=1)(d.net, d.params, d.a[0], d.y, d.key)
            expected = [
                leaf for layer in reversed(right) if layer != () for leaf in (layer.w, layer.b)
            ]
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-14)


# Two need a claim to look at, or ties; they are planted in test_mutants.
ELSEWHERE = {
    "dropout mask drawn anew",
    "max-pool to all of tied entries",
    "max-pool to the wrong of tied entries (the last)",
}


@pytest.mark.parametrize("made", STEPS, ids=lambda made: made.name)
def test_every_mistake_changes_the_gradient_of_some_network(made, derivations):
    if made.name in ELSEWHERE:
        pytest.skip("planted in test_mutants")
    for d in derivations:
        with double_precision():
            right = [np.asarray(leaf) for _, _, leaf in d.wrong_gradients()]
        for l in range(1, d.L + 1):
            try:
                wrong = gradients(d, made, (l,))
            except (TypeError, ValueError, LookupError, AttributeError):
                continue
            if any(
                a.shape != b.shape or not np.allclose(a, b, rtol=1e-6, atol=1e-12)
                for a, b in zip(wrong, right, strict=True)
            ):
                return
    pytest.fail(f"{made.name} has no meaning in any of the networks")


def test_names_are_unique_and_formulas_complete():
    names = [made.name for made in MISTAKES]
    assert len(set(names)) == len(names)
    for made in MISTAKES:
        assert made.sentence[0].islower() or made.sentence[0] in "λΣ=1{0123456789"
        assert made.sentence[-1] != "."
        assert made.have != made.expected


def test_adding_a_mistake_is_adding_a_function():
    @mistake("the cube", "every entry is cubed", have="({leaf})³", expected="{leaf}", step="leaf")
    def cubed(leaf):
        return leaf.g**3

    try:
        report = check_gradient(
            lambda x: (x**2).sum(), lambda x: (2 * x) ** 3, np.array([0.3, 0.4])
        )
        assert report.diagnosis == "the cube: every entry is cubed"
        assert report.mistakes[0].have == "(∂f/∂x)³"
    finally:
        MISTAKES.pop()


def test_two_mistakes_that_are_the_same_here_are_alternatives():
    # With two layers, the activations before the last but one are x.
    net = nnjax.mlp([4, 4, 4], activation=tanh)

    def with_x(params, x, y):
        bp = nnjax.backprop(net, params, x, y)
        w = bp.errors[1].T @ x / len(x)
        return (bp.grads[0], bp.grads[1]._replace(w=w))

    report = check_backprop(net, with_x)
    assert {finding.name for finding in report.mistakes} == {
        "x in every layer",
        "off by one in the activations (a^{l−2} for a^{l−1})",
    }
    assert " or " in report.diagnosis


def test_a_factor_is_told_from_the_number_of_examples():
    net = nnjax.mlp([4, 3], loss=quadratic)

    def times(factor):
        def hand(params, x, y):
            grads = nnjax.backprop(net, params, x, y).grads
            return jax.tree.map(lambda g: factor(len(x)) * g, grads)

        return [finding.name for finding in check_backprop(net, hand).mistakes]

    assert times(lambda n: n) == ["sum for mean (factor n)"]
    assert times(lambda n: 3) == ["factor n_out"]
    assert times(lambda n: 5) == ["scaled"]
