"""The expressions evaluate to the gradient; every edit has a meaning somewhere, and words."""

import itertools
import re

import jax
import numpy as np
import pytest
from thinning import thinned

import nnjax
from nnjax import Dense, Network
from nnjax.activations import LeakyReLU, Softmax, relu, sigmoid, softmax, tanh
from nnjax.gradcheck import MISTAKES, Mistake, backprop, check_backprop, check_gradient
from nnjax.gradcheck.edits import mentions, network_edits
from nnjax.gradcheck.equations import STEPS, Derivation, forms
from nnjax.gradcheck.names import NAMES, words
from nnjax.gradcheck.operations import OPERATIONS
from nnjax.gradcheck.reference import double_precision
from nnjax.layers import Conv, Dropout, Flatten, L2Pool, LayerNorm, MaxPool, MeanPool, Residual
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
    Network(
        4,
        [Dense(3, tanh), Residual(Dense(3, tanh), Residual(LayerNorm(relu))), Dense(4)],
        quadratic,
    ),
]


@pytest.fixture(scope="module")
def derivations():
    key = jax.random.key(0)
    with double_precision():
        return [
            Derivation(net, *backprop.draw(net, 6, seed=i), key=key)
            for i, net in enumerate(NETWORKS)
        ]


def right_leaves(d):
    """Return every array of the gradient and every error, by the expressions themselves."""
    return {(l, part): np.asarray(array) for l, part, array in d.leaves(identity(d))}


def identity(d):
    """Return the first step of the forward pass, put in place of itself, so that all follows."""
    return {("affine", 1): forms(d.site(1), "affine")[0]}


@pytest.mark.parametrize("i", thinned(range(len(NETWORKS)), str, 6))
@pytest.mark.slow
def test_the_expressions_evaluate_to_the_gradient_and_the_errors(i, derivations):
    d = derivations[i]
    with double_precision():
        expected = nnjax.backprop(d.net, d.params, d.a[0], d.y, d.key)
        by_autodiff = jax.grad(nnjax.loss, argnums=1)(d.net, d.params, d.a[0], d.y, d.key)
        found = right_leaves(d)
    for l in range(1, d.L + 1):
        close(found[l, "δ"], expected.errors[l - 1])
        if d.has_parameters(l):
            close(found[l, "w"], by_autodiff[l - 1].w)
            close(found[l, "b"], by_autodiff[l - 1].b)


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-14)


@pytest.mark.slow
def test_all_forms_of_a_step_have_the_same_value(derivations):
    for d in derivations:
        with double_precision():
            right = right_leaves(d)
            for step, l in itertools.product(STEPS, range(1, d.L + 1)):
                for form in forms(d.site(l), step):
                    if step != "error" or l == d.L:
                        for k, part, array in d.leaves({(step, l): form}):
                            close(array, right[k, part])


def meaningful(derivations):
    """Return the edits, step and key, that change the gradient of some network, and all."""
    changing, every = set(), set()
    for d in derivations:
        right = right_leaves(d)
        for made in network_edits(d):
            every.add((made.step, made.key))
            for changes in made.changes.values():
                if (made.step, made.key) not in changing and changes_something(d, changes, right):
                    changing.add((made.step, made.key))
    return changing, every


def changes_something(d, changes, right):
    try:
        leaves = list(d.leaves(changes, 0.37, **{"m'": {2: 1 - d.masks.get(2, np.ones(1))}}))
    except (TypeError, ValueError, LookupError, ZeroDivisionError):
        return False
    return any(
        np.shape(array) != right[l, part].shape
        or not np.allclose(array, right[l, part], rtol=1e-6, atol=1e-12)
        for l, part, array in leaves
    )


# These need ties, or are of the step of gradient descent and of pull-backs; they are planted.
ELSEWHERE = re.compile(r"back max share: (tied|last tied)|(v'|w'|both decay|pull-back) ?")


@pytest.mark.slow
def test_every_named_edit_changes_the_gradient_of_some_network(derivations):
    with double_precision(), np.errstate(all="ignore"):
        changing, every = meaningful(derivations)
    named = {key for key in NAMES if not ELSEWHERE.match(key)}
    assert named - {f"{step} {key}" for step, key in every} == set()
    assert named - {f"{step} {key}" for step, key in changing} == set()
    for step, key in every:
        (name, sentence), _ = words(step, key)
        assert name
        assert sentence[-1] != "."


def test_operations_that_are_edits_have_names():
    for op in (
        "softmax",
        "layernorm",
        "total",
        "turned kernel",
        "kernel gradient",
        "max share",
        "mean share",
    ):
        for variant in list(OPERATIONS[op])[1:]:
            assert any(key.endswith(f" {op}: {variant}") for key in NAMES), (op, variant)


def test_formulas_are_printed_from_the_tree_that_is_evaluated(derivations):
    made = {(one.step, one.key): one for one in network_edits(derivations[0])}
    said = made["through", "z → a"].formulas(lambda shift: str(2 + shift), "(w3)ᵀ δ3")
    assert said == ("δ2 = (w3)ᵀ δ3 ⊙ σ'(a2)", "δ2 = (w3)ᵀ δ3 ⊙ σ'(z2)")
    said = made["back", "w → (w)ᵀ"].formulas(lambda shift: str(2 + shift), "")
    assert said == ("∂C/∂a1 = w2 δ2", "∂C/∂a1 = (w2)ᵀ δ2")
    assert made["back", "w → w − {t} ∂C/∂w"].fitted
    assert mentions(forms(derivations[0].site(1), "biases")[0], "δ")


def test_names_are_unique_and_sentences_complete():
    names = [made.name for made in MISTAKES]
    assert len(set(names)) == len(names)
    for made in MISTAKES:
        assert made.sentence[0].islower() or made.sentence[0] in "λΣ=1{0123456789"
        assert made.sentence[-1] != "."
        assert made.have != made.expected


def test_adding_a_mistake_is_adding_a_row():
    MISTAKES.append(Mistake("the cube", "every entry is cubed", "({leaf})³", lambda v: v.g**3))
    try:
        report = check_gradient(
            lambda x: (x**2).sum(), lambda x: (2 * x) ** 3, np.array([0.3, 0.4])
        )
        assert report.diagnosis == "the cube: every entry is cubed"
        assert report.mistakes[0].have == "(∂f/∂x)³"
    finally:
        MISTAKES.pop()


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_a_number_that_varies_from_point_to_point_is_not_a_constant():
    report = check_gradient(lambda t: (t**2 + 1e-8) ** 0.5, lambda t: np.sign(np.asarray(t)), 0.7)
    assert not any(finding.name == "scaled" for finding in report.mistakes)
