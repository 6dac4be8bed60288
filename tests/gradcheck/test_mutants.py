"""Every family of mistakes, planted into backpropagations written by hand: caught and named."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mutants import mutant, prime, through, value
from thinning import thinned

import nnjax
from nnjax import Dense, Network, regularizers
from nnjax.activations import LeakyReLU, Softmax, relu, softmax, tanh
from nnjax.gradcheck import check_backprop
from nnjax.layers import Conv, Dropout, Flatten, L2Pool, MaxPool, MeanPool
from nnjax.losses import cross_entropy, log_likelihood, quadratic

QUADRATIC = nnjax.mlp([11, 7, 5, 3], loss=quadratic)
CROSS = nnjax.mlp([11, 7, 5, 3], loss=cross_entropy)
LIKELIHOOD = nnjax.mlp([11, 7, 5, 3], activation=tanh, loss=log_likelihood)
RELU = nnjax.mlp([11, 7, 5, 3], activation=relu, output=nnjax.identity, loss=quadratic)
LEAKY = nnjax.mlp([11, 7, 5, 3], activation=LeakyReLU(0.1))
SQUARE = nnjax.mlp([4, 4, 4, 4], activation=tanh, loss=quadratic)
PROBABLE = nnjax.mlp([11, 7, 5, 3], output=nnjax.sigmoid, loss=log_likelihood)
SCALED = Network(11, [Dense(7, tanh), Dense(5, Softmax(2.0)), Dense(3, softmax)], quadratic)
SOFT = Network(11, [Dense(7, softmax), Dense(5, tanh), Dense(3, softmax)], quadratic)


def hidden(change):
    """Return the step `through`, changed in the hidden layers."""

    def step(hand, l, g):
        return change(hand, l, g) if l < hand.L else through(hand.act(l), hand.z[l], g)

    return step


def only(layer, change):
    """Return the step `through`, changed in one layer."""

    def step(hand, l, g):
        return change(hand, l, g) if l == layer else through(hand.act(l), hand.z[l], g)

    return step


def scaled(factor, leaf=None):
    """Return the step `finish` that multiplies all leaves, or one (layer, part), by a factor."""

    def finish(hand, grads):
        c = factor(hand) if callable(factor) else factor
        return [
            tuple(c * g if leaf in (None, (i, part)) else g for part, g in enumerate(pair))
            for i, pair in enumerate(grads)
        ]

    return finish


# name of the mistake, where, network, and the step that has it. "*": needs more than one example.
MUTANTS = [
    ("sign", "the whole gradient", CROSS, {"finish": scaled(-1)}),
    ("factor 2", "the whole gradient", QUADRATIC, {"finish": scaled(2)}),
    ("factor ½", "the whole gradient", QUADRATIC, {"finish": scaled(0.5)}),
    ("sum for mean (factor n)*", "the whole gradient", CROSS, {"finish": scaled(lambda h: h.n)}),
    ("sum for mean (factor n)*", "layer 2 b", CROSS, {"finish": scaled(lambda h: h.n, (1, 1))}),
    ("mean twice (factor 1/n)*", "the whole", CROSS, {"finish": scaled(lambda h: 1 / h.n)}),
    ("factor n_out", "the whole gradient", CROSS, {"finish": scaled(3)}),
    ("factor 1/n_out", "the whole gradient", CROSS, {"finish": scaled(1 / 3)}),
    ("scaled", "layer 2 w", CROSS, {"finish": scaled(1.7, (1, 0))}),
    ("left out (zero)", "layer 3 b", CROSS, {"finish": scaled(0, (2, 1))}),
    ("σ' missing", "every layer", QUADRATIC, {"through": lambda h, l, g: g}),
    ("σ' missing", "layer 2", QUADRATIC, {"through": only(2, lambda h, l, g: g)}),
    ("σ' missing", "layer 3", QUADRATIC, {"output_error": lambda h: h.a[-1] - h.y}),
    (
        "σ' kept where it cancels",
        "layer 3",
        CROSS,
        {"output_error": lambda h: (h.a[-1] - h.y) * prime(h.act(h.L), h.z[-1])},
    ),
    (
        "σ' at a instead of z",
        "every hidden layer",
        CROSS,
        {"through": hidden(lambda h, l, g: g * prime(h.act(l), h.a[l]))},
    ),
    (
        "σ' = σ(1 − σ) fed with z",
        "layer 1",
        CROSS,
        {"through": only(1, lambda h, l, g: g * h.z[l] * (1 - h.z[l]))},
    ),
    (
        "a constant in place of σ'",
        "layer 2",
        CROSS,
        {"through": only(2, lambda h, l, g: g / 4)},
    ),
    (
        "σ' applied twice",
        "layer 2",
        CROSS,
        {"through": only(2, lambda h, l, g: g * prime(h.act(l), h.z[l]) ** 2)},
    ),
    (
        "σ' of the wrong function (tanh')",
        "every hidden layer",
        CROSS,
        {"through": hidden(lambda h, l, g: g * prime(tanh, h.z[l]))},
    ),
    (
        "σ' of the wrong function (relu')",
        "layer 1",
        LIKELIHOOD,
        {"through": only(1, lambda h, l, g: g * prime(relu, h.z[l]))},
    ),
    (
        "σ' of the wrong layer (the next)",
        "every hidden layer",
        SQUARE,
        {"through": hidden(lambda h, l, g: g * prime(h.act(l), h.z[l + 1]))},
    ),
    (
        "σ' of the wrong layer (the previous)",
        "layer 2",
        SQUARE,
        {"through": only(2, lambda h, l, g: g * prime(h.act(l), h.z[l - 1]))},
    ),
    (
        "softmax Jacobian diagonal only",
        "layer 3",
        SOFT,
        {"through": only(3, lambda h, l, g: g * h.a[l] * (1 - h.a[l]))},
    ),
    (
        "softmax Jacobian diagonal only",
        "layer 1",
        SOFT,
        {"through": only(1, lambda h, l, g: g * h.a[l] * (1 - h.a[l]))},
    ),
    ("softmax Jacobian missing", "layer 1", SOFT, {"through": only(1, lambda h, l, g: g)}),
    (
        "softmax Jacobian applied twice",
        "layer 3",
        LIKELIHOOD,
        {"output_error": lambda h: through(h.act(h.L), h.z[-1], h.a[-1] - h.y)},
    ),
    (
        "softmax over the wrong axis",
        "layer 3",
        LIKELIHOOD,
        {
            "activate": lambda h, l, z: (
                value(h.act(l), z) if l < h.L else np.exp(z) / np.exp(z).sum(0)
            ),
            "output_error": lambda h: h.a[-1] - h.y,
        },
    ),
    ("p − 1 in every class", "layer 3", LIKELIHOOD, {"output_error": lambda h: h.a[-1] - 1}),
    ("targets left out", "layer 3", LIKELIHOOD, {"output_error": lambda h: h.a[-1]}),
    (
        "W not transposed",
        "every layer",
        SQUARE,
        {"back": lambda h, l, delta: delta @ h.params[l][0].T},
    ),
    (
        "W not transposed",
        "from layer 2 back to layer 1",
        SQUARE,
        {"back": lambda h, l, delta: delta @ (h.params[l][0].T if l == 2 else h.params[l][0])},
    ),
    (
        "the wrong layer's W (the one before)",
        "every layer",
        SQUARE,
        {"back": lambda h, l, delta: delta @ h.params[l - 1][0]},
    ),
    (
        "the wrong layer's W (the one after)",
        "from layer 2 back to layer 1",
        SQUARE,
        {"back": lambda h, l, delta: delta @ h.params[min(l + 1, h.L)][0]},
    ),
    (
        "updated W",
        "every layer",
        CROSS,
        {"back": lambda h, l, delta: delta @ (h.params[l][0] - 0.5 * delta.T @ h.a[l - 1] / h.n)},
    ),
    (
        "gradient used as W",
        "every layer",
        CROSS,
        {"back": lambda h, l, delta: delta @ (delta.T @ h.a[l - 1] / h.n)},
    ),
    (
        "W left out",
        "every layer",
        SQUARE,
        {"back": lambda h, l, delta: delta},
    ),
    (
        "the error with the wrong sign",
        "layer 2",
        CROSS,
        {"through": only(2, lambda h, l, g: -g * prime(h.act(l), h.z[l]))},
    ),
    (
        "off by one in the activations (a^l for a^{l−1})",
        "every layer",
        SQUARE,
        {"grad_w": lambda h, l, delta: delta.T @ h.a[l] / h.n},
    ),
    (
        "off by one in the activations (a^{l−2} for a^{l−1})",
        "every layer",
        SQUARE,
        {"grad_w": lambda h, l, delta: delta.T @ h.a[max(l - 2, 0)] / h.n},
    ),
    (
        "z for a",
        "every layer",
        CROSS,
        {"grad_w": lambda h, l, delta: delta.T @ (h.z[l - 1] if l > 1 else h.x) / h.n},
    ),
    ("x in every layer", "", SQUARE, {"grad_w": lambda h, l, delta: delta.T @ h.x / h.n}),
    (
        "product of the means*",
        "every layer",
        CROSS,
        {"grad_w": lambda h, l, delta: np.outer(delta.mean(0), h.a[l - 1].mean(0))},
    ),
    ("not summed over the batch*", "all biases", CROSS, {"grad_b": lambda h, l, delta: delta}),
    (
        "not summed over the batch, over n*",
        "layer 2 b",
        CROSS,
        {"grad_b": lambda h, l, delta: delta / h.n if l == 2 else delta.sum(0) / h.n},
    ),
    (
        "b summed over the wrong axis*",
        "every layer",
        CROSS,
        {"grad_b": lambda h, l, delta: delta.sum(1)},
    ),
    (
        "b averaged over the wrong axis*",
        "every layer",
        CROSS,
        {"grad_b": lambda h, l, delta: delta.mean(1)},
    ),
    (
        "left out (zero)",
        "all biases",
        CROSS,
        {"grad_b": lambda h, l, delta: np.zeros(delta.shape[1])},
    ),
    (
        "not returned (None)",
        "layer 1 b, layer 2 b, layer 3 b",
        CROSS,
        {"grad_b": lambda h, l, delta: None},
    ),
    (
        "b forgotten in the forward pass",
        "every layer",
        CROSS,
        {"affine": lambda h, l, a: a @ h.params[l][0].T},
    ),
    (
        "first example only*",
        "the whole gradient",
        CROSS,
        {
            "grad_w": lambda h, l, delta: np.outer(delta[0], h.a[l - 1][0]),
            "grad_b": lambda h, l, delta: delta[0],
        },
    ),
    (
        "last example only, over n*",
        "the whole gradient",
        CROSS,
        {
            "grad_w": lambda h, l, delta: np.outer(delta[-1], h.a[l - 1][-1]) / h.n,
            "grad_b": lambda h, l, delta: delta[-1] / h.n,
        },
    ),
    (
        "transposed gradient",
        "all weights",
        CROSS,
        {"grad_w": lambda h, l, delta: h.a[l - 1].T @ delta / h.n},
    ),
    (
        "transposed gradient",
        "layer 2 w",
        SQUARE,
        {
            "grad_w": lambda h, l, delta: (
                (h.a[l - 1].T @ delta if l == 2 else delta.T @ h.a[l - 1]) / h.n
            )
        },
    ),
    (
        "ReLU mask inverted",
        "every hidden layer",
        RELU,
        {"through": hidden(lambda h, l, g: g * (h.z[l] <= 0))},
    ),
    ("ReLU mask absent", "every hidden layer", RELU, {"through": lambda h, l, g: g}),
    (
        "leaky slope dropped",
        "every hidden layer",
        LEAKY,
        {"through": hidden(lambda h, l, g: g * (h.z[l] > 0))},
    ),
    (
        "another leaky slope",
        "layer 2",
        LEAKY,
        {"through": only(2, lambda h, l, g: g * np.where(h.z[l] > 0, 1, 0.3))},
    ),
    (
        "a − y where σ' does not cancel",
        "layer 3",
        PROBABLE,
        {"output_error": lambda h: h.a[-1] - h.y},
    ),
    (
        "z for a in the output error",
        "layer 3",
        CROSS,
        {"output_error": lambda h: h.z[-1] - h.y},
    ),
    (
        "ReLU mask of the error",
        "every hidden layer",
        RELU,
        {"through": hidden(lambda h, l, g: np.maximum(g, 0))},
    ),
    ("half of σ' missing: a", "layer 2", CROSS, {"through": only(2, lambda h, l, g: g * h.a[l])}),
    (
        "half of σ' missing: 1 − a",
        "layer 1",
        LIKELIHOOD,
        {"through": only(1, lambda h, l, g: g * (1 - h.a[l]))},
    ),
    (
        "half of σ' missing: 1 + a",
        "layer 1",
        LIKELIHOOD,
        {"through": only(1, lambda h, l, g: g * (1 + h.a[l]))},
    ),
    (
        "σ' of the wrong function (a(1 − a))",
        "layer 2",
        LIKELIHOOD,
        {"through": only(2, lambda h, l, g: g * h.a[l] * (1 - h.a[l]))},
    ),
    (
        "σ' of the wrong function (1 − a²)",
        "layer 2",
        CROSS,
        {"through": only(2, lambda h, l, g: g * (1 - h.a[l] ** 2))},
    ),
    (
        "the error divided by n*",
        "layer 2",
        CROSS,
        {"through": only(2, lambda h, l, g: g * prime(h.act(l), h.z[l]) / h.n)},
    ),
    (
        "the error scaled",
        "layer 2",
        CROSS,
        {"through": only(2, lambda h, l, g: 0.7 * g * prime(h.act(l), h.z[l]))},
    ),
    (
        "softmax: ⟨g, a⟩ over the wrong axis*",
        "layer 1",
        SOFT,
        {"through": only(1, lambda h, l, g: h.a[l] * (g - (g * h.a[l]).sum(0)))},
    ),
    (
        "softmax scale dropped",
        "layer 2",
        SCALED,
        {"through": only(2, lambda h, l, g: h.a[l] * (g - (g * h.a[l]).sum(1, keepdims=True)))},
    ),
    (
        "the error of the wrong layer",
        "from layer 2 back to layer 1",
        SQUARE,
        {"back": lambda h, l, delta: (h.delta[3] if l == 2 else delta) @ h.params[l][0]},
    ),
    (
        "σ' missing in the gradient of the weights",
        "layer 2",
        CROSS,
        {
            "grad_w": lambda h, l, delta: (
                (h.delta[3] @ h.params[3][0] if l == 2 else delta).T @ h.a[l - 1] / h.n
            )
        },
    ),
    (
        "σ' missing in the gradient of the biases",
        "layer 2",
        CROSS,
        {
            "grad_b": lambda h, l, delta: (
                (h.delta[3] @ h.params[3][0] if l == 2 else delta).sum(0) / h.n
            )
        },
    ),
    (
        "the error of the wrong layer in the gradient of the weights",
        "layer 2",
        SQUARE,
        {"grad_w": lambda h, l, delta: (h.delta[3] if l == 2 else delta).T @ h.a[l - 1] / h.n},
    ),
    (
        "the error of the wrong layer in the gradient of the biases",
        "layer 2",
        SQUARE,
        {"grad_b": lambda h, l, delta: (h.delta[3] if l == 2 else delta).sum(0) / h.n},
    ),
    (
        "b summed over the wrong axis, over n*",
        "every layer",
        CROSS,
        {"grad_b": lambda h, l, delta: delta.sum(1) / h.n},
    ),
    (
        "b summed over both axes",
        "every layer",
        CROSS,
        {"grad_b": lambda h, l, delta: np.full(delta.shape[1], delta.sum() / h.n)},
    ),
    (
        "activation missing in the forward pass",
        "layer 2",
        SQUARE,
        {"activate": lambda h, l, z: z if l == 2 else value(h.act(l), z)},
    ),
    (
        "activation applied twice in the forward pass",
        "layer 2",
        SQUARE,
        {"activate": lambda h, l, z: value(h.act(l), value(h.act(l), z) if l == 2 else z)},
    ),
    (
        "first example left out*",
        "the whole gradient",
        CROSS,
        {
            "grad_w": lambda h, l, delta: delta[1:].T @ h.a[l - 1][1:] / h.n,
            "grad_b": lambda h, l, delta: delta[1:].sum(0) / h.n,
        },
    ),
]


@pytest.mark.parametrize("style", ["batch", "book"])
@pytest.mark.parametrize("case", thinned(MUTANTS, lambda case: f"{case[0]}, {case[1]}", 32))
def test_planted_mistakes_are_named(case, style):
    name, where, net, steps = case
    if name.endswith("*") and style == "book":
        pytest.skip("a single example cannot show it")
    report = check_backprop(net, mutant(net, style, **steps))
    assert report.verdict == "WRONG"
    assert [finding.name for finding in report.mistakes] == [name.rstrip("*")], report
    assert where in report.mistakes[0].where
    assert report.mistakes[0].residual < 1e-10


@pytest.mark.parametrize("style", ["batch", "book"])
@pytest.mark.parametrize("net", thinned([QUADRATIC, LIKELIHOOD, RELU, LEAKY, SQUARE, SOFT], str))
def test_the_hand_written_originals_are_right(net, style):
    report = check_backprop(net, mutant(net, style))
    assert report.ok, report


@pytest.mark.slow
def test_what_no_entry_explains_is_not_named():
    for change in (
        lambda h, l, g: g * prime(h.act(l), h.z[l]) ** 1.5,
        lambda h, l, g: g * np.exp(-(h.z[l] ** 2)),
        lambda h, l, g: g * prime(h.act(l), h.z[l]) * (1 + 1e-6 * h.z[l]),
        lambda h, l, g: g * prime(h.act(l), h.z[l]) + 1e-6,
    ):
        report = check_backprop(CROSS, mutant(CROSS, through=hidden(change)))
        assert report.verdict == "WRONG"
        assert not report.mistakes
        assert report.nearest is None or report.nearest.residual > 1e-9
        assert "no known mistake explains it" in report.diagnosis


@pytest.mark.slow
def test_the_first_wrong_step_is_found_and_those_after_it_are_not_blamed():
    def blamed(**steps):
        report = check_backprop(QUADRATIC, mutant(QUADRATIC, **steps))
        return report.steps

    errors, first = blamed(through=only(2, lambda h, l, g: g))
    assert "δ³ right; δ² wrong" in errors
    assert "δ¹ right, given what it was fed" in errors
    assert first == "first wrong: BP2, from δ³ to δ²"
    _, first = blamed(output_error=lambda h: h.a[-1] - h.y)
    assert first == "first wrong: BP1, the error at the output, δ³"
    _, first = blamed(
        grad_b=lambda h, l, delta: 2 * delta.sum(0) / h.n if l == 2 else delta.mean(0)
    )
    assert first == "first wrong: BP3, ∂C/∂b² from δ²"
    _, first = blamed(finish=scaled(3, (0, 0)))
    assert first == "first wrong: BP4, ∂C/∂w¹ from δ¹"
    _, first = blamed(through=hidden(lambda h, l, g: g))
    assert first.startswith("first wrong: BP2, from δ³ to δ²; wrong on their own too: BP2, from δ²")


@pytest.mark.slow
def test_claimed_errors_are_compared_like_gradients():
    def wrong(params, x, y):
        bp = nnjax.backprop(QUADRATIC, params, x, y)
        return bp._replace(errors=(2 * bp.errors[0], *bp.errors[1:]))

    assert check_backprop(QUADRATIC, lambda p, x, y: nnjax.backprop(QUADRATIC, p, x, y)).ok
    report = check_backprop(QUADRATIC, wrong)
    assert report.verdict == "WRONG"
    assert [leaf.path for leaf in report.leaves if not leaf.ok] == ["layer 1 error"]
    assert [(f.name, f.where) for f in report.mistakes] == [("factor 2", "layer 1 error")]


def test_two_mistakes_at_once_are_both_named():
    steps = {
        "through": only(1, lambda h, l, g: g),
        "grad_b": lambda h, l, delta: delta.mean(1) if l == 3 else delta.sum(0) / h.n,
    }
    report = check_backprop(CROSS, mutant(CROSS, **steps))
    assert [(f.name, f.where) for f in report.mistakes] == [
        ("b averaged over the wrong axis", "layer 3"),
        ("σ' missing", "layer 1"),
    ]
    assert report.mistakes[0].leaves == ("layer 3 b",)
    assert report.mistakes[1].leaves == ("layer 1 w", "layer 1 b")


def test_each_wrong_array_is_explained_by_itself():
    def finish(hand, grads):
        return [(-grads[0][0], grads[0][1]), (grads[1][0], 2 * grads[1][1]), *grads[2:]]

    report = check_backprop(CROSS, mutant(CROSS, finish=finish))
    assert {(f.name, f.leaves) for f in report.mistakes} == {
        ("sign", ("layer 1 w",)),
        ("factor 2", ("layer 2 b",)),
    }


def test_a_finding_says_where_the_function_is_defined():
    def backward(params, x, y):
        return jax.tree.map(jnp.negative, nnjax.backprop(QUADRATIC, params, x, y).grads)

    (finding,) = check_backprop(QUADRATIC, backward).mistakes
    assert finding.file == __file__
    assert finding.line == backward.__code__.co_firstlineno
    assert finding.source == "def backward(params, x, y):"


# Regularizers.

L2, L1 = regularizers.L2(0.7), regularizers.L1(0.7)


def penalised(term, on_biases=None):
    def finish(hand, grads):
        return [
            (gw + term(w, hand.n), gb if on_biases is None else gb + on_biases(b))
            for (gw, gb), (w, b) in zip(grads, hand.params[1:], strict=True)
        ]

    return {"finish": finish}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "regularizer", "steps"),
    [
        ("L2 or L1 missing", L2, {}),
        ("L2 or L1 missing", L1, {}),
        ("L2 or L1 doubled", L2, penalised(lambda w, m: 2 * 0.007 * w)),
        ("L2 or L1 with the wrong sign", L1, penalised(lambda w, m: -0.007 * np.sign(w))),
        ("L2 or L1 over the wrong n (none)", L2, penalised(lambda w, m: 0.7 * w)),
        ("L2 or L1 over the wrong n (the mini-batch)", L2, penalised(lambda w, m: 0.7 / m * w)),
        ("L2 or L1 over the wrong n (twice)", L1, penalised(lambda w, m: 0.007 / m * np.sign(w))),
        ("L2 or L1 on biases", L2, penalised(lambda w, m: 0.007 * w, lambda b: 0.007 * b)),
        (
            "L2 or L1 on biases",
            L1,
            penalised(lambda w, m: 0.007 * np.sign(w), lambda b: 0.007 * np.sign(b)),
        ),
        ("L1: |w| for sign(w)", L1, penalised(lambda w, m: 0.007 * np.abs(w))),
        ("L1: w for sign(w)", L1, penalised(lambda w, m: 0.007 * w)),
        ("L2: sign(w) for w", L2, penalised(lambda w, m: 0.007 * np.sign(w))),
    ],
)
def test_mistakes_in_regularizers_are_named(name, regularizer, steps):
    report = check_backprop(CROSS, mutant(CROSS, **steps), regularizer=regularizer)
    assert [finding.name for finding in report.mistakes] == [name], report


def test_a_right_regularizer_is_right():
    steps = penalised(lambda w, m: 0.007 * w)
    assert check_backprop(CROSS, mutant(CROSS, **steps), regularizer=L2).ok


# Convolution, pooling, flattening, dropout: a layer of nnjax with one function changed.

CONV = Network(
    (7, 6, 2),
    [Conv(3, (3, 2), activation=tanh), Conv(2, (2, 3), activation=tanh), Flatten(), Dense(3)],
    quadratic,
)
STRIDED = Network(
    (8, 8, 3),
    [
        Conv(3, 3, activation=tanh),
        Conv(3, 3, stride=2, padding=1, activation=tanh),
        MeanPool(2, 1),
        Flatten(),
        Dense(3),
    ],
    quadratic,
)
POOLED = Network(
    (8, 7, 2),
    [
        Conv(3, 3, activation=tanh),
        MaxPool(2, 1),
        Conv(3, 2, activation=relu),
        L2Pool(2),
        Flatten(),
        Dense(3),
    ],
    quadratic,
)
DROPPED = Network(11, [Dense(7, tanh), Dropout(0.4), Dense(5, tanh), Dense(3)], quadratic)


def with_layer(net, i, **functions):
    """Return the backpropagation of the network in which functions of layer i are replaced."""
    old = net.layers[i]
    kind = dataclasses.dataclass(frozen=True)(type("Changed", (type(old),), functions))
    new = kind(**{field.name: getattr(old, field.name) for field in dataclasses.fields(old)})
    changed = Network(net.input_shape, [*net.layers[:i], new, *net.layers[i + 1 :]], net.loss)
    return lambda params, x, y, key=None: nnjax.backprop(changed, params, x, y, key).grads


def with_kernel(change):
    def pull_back(self, params, cache, delta):
        return Conv.pull_back(self, params._replace(w=change(params.w)), cache, delta)

    return {"pull_back": pull_back}


def with_gradient(change):
    def gradients(self, cache, delta):
        found = Conv.gradients(self, cache, delta)
        return found._replace(w=change(found.w))

    return {"gradients": gradients}


def inputs_of(a):
    """Return the inputs of the 2×2 windows of an image that overlap, first to last."""
    height, width, _ = a.shape
    return [a[i : height - 1 + i, j : width - 1 + j] for i in (0, 1) for j in (0, 1)]


def add_up(pieces, shape):
    """Add what the windows hold for their four inputs: the transpose of `inputs_of`."""
    image, (height, width, _) = jnp.zeros(shape), shape
    for k, piece in enumerate(pieces):
        i, j = divmod(k, 2)
        image = image.at[i : height - 1 + i, j : width - 1 + j].add(piece)
    return image


def max_to(shares):
    """Return a pull-back that multiplies δ by shares(inputs of the windows, their maximum)."""

    def pull_back(self, params, cache, delta):
        inputs = inputs_of(cache[0])
        best = jnp.stack(inputs).max(0)
        return add_up([delta * share for share in shares(inputs, best)], cache[0].shape)

    return {"pull_back": pull_back}


def last_tied(inputs, best):
    taken, shares = jnp.zeros(best.shape, bool), []
    for one in inputs[::-1]:
        share = (one == best) & ~taken
        taken |= share
        shares.append(share)
    return shares[::-1]


def place_by_place(self, params, cache, delta):
    """∂C/∂a of a max-pool, window by window, each overwriting what was there."""
    a = cache[0]
    image = jnp.zeros(a.shape)
    for y in range(delta.shape[0]):
        for x in range(delta.shape[1]):
            window = a[y : y + 2, x : x + 2]
            piece = jnp.where(window == window.max((0, 1)), delta[y, x], 0.0)
            image = image.at[y : y + 2, x : x + 2].set(piece)
    return image


def channels_first(self, params, cache, delta):
    height, width, channels = cache.shape
    return delta.reshape(channels, height, width).transpose(1, 2, 0)


def mean_to(shares):
    """Return a pull-back of a mean pool that gives each input of a window its share of δ."""
    return {"pull_back": lambda s, p, c, d: add_up([d * share for share in shares], c.shape)}


def to_the_largest(self, params, cache, delta):
    inputs = inputs_of(cache)
    best = jnp.stack(inputs).max(0)
    return add_up([delta * (one == best) for one in inputs], cache.shape)


def of_last(layer, cache, delta):
    """Return the gradients of the last place alone."""
    last = jnp.zeros(delta.shape).at[..., -1, -1, :].set(delta[..., -1, -1, :])
    return Conv.gradients(layer, cache, last)


def biased(layer, cache, delta, b):
    return Conv.gradients(layer, cache, delta)._replace(b=b)


def turned(params):
    return params._replace(w=params.w[:, ::-1, ::-1])


def correlated(layer, cache, delta, stride, before):
    """Return the gradients of a 3×3 kernel, the padding of 1 laid `before` and behind the image."""
    a = jnp.pad(cache, ((0, 0),) * (cache.ndim - 3) + ((before, 2 - before),) * 2 + ((0, 0),))
    a, rows = a.reshape(-1, *a.shape[-3:]), delta.reshape(-1, *delta.shape[-3:])
    w = sum(
        jnp.einsum("nj,nikc->jikc", rows[:, y, x], a[:, i : i + 3, k : k + 3])
        for y in range(rows.shape[1])
        for x in range(rows.shape[2])
        for i, k in [(stride * y, stride * x)]
    )
    return Conv.gradients(layer, cache, delta)._replace(w=w)


LAYERS = [
    ("kernel not turned", CONV, 1, with_kernel(lambda w: w[:, ::-1, ::-1])),
    ("kernel channels reversed", CONV, 1, with_kernel(lambda w: w[..., ::-1])),
    ("kernel transposed", STRIDED, 1, with_kernel(lambda w: w.swapaxes(1, 2))),
    ("kernel channels swapped", STRIDED, 1, with_kernel(lambda w: w.swapaxes(0, 3))),
    ("kernel gradient turned", CONV, 0, with_gradient(lambda w: w[:, ::-1, ::-1])),
    ("kernel gradient transposed", STRIDED, 1, with_gradient(lambda w: w.swapaxes(1, 2))),
    (
        "kernel gradient with its channels swapped",
        STRIDED,
        1,
        with_gradient(lambda w: w.swapaxes(0, 3)),
    ),
    ("kernel gradient averaged over the places", CONV, 1, with_gradient(lambda w: w / 12)),
    ("max-pool to all", POOLED, 1, max_to(lambda inputs, best: [1.0] * 4)),
    ("max-pool to all, shared", POOLED, 1, max_to(lambda inputs, best: [0.25] * 4)),
    (
        "max-pool to all of tied entries",
        POOLED,
        1,
        max_to(lambda inputs, best: [one == best for one in inputs]),
    ),
    ("= for += in overlapping windows", POOLED, 1, {"pull_back": place_by_place}),
    (
        "mean pool without 1/k²",
        STRIDED,
        2,
        {"pull_back": lambda s, p, c, d: MeanPool.pull_back(s, p, c, 4 * d)},
    ),
    (
        "L2 pool without its quotient",
        POOLED,
        3,
        {
            "pull_back": lambda s, p, c, d: (
                c[0] * jnp.pad(d.repeat(2, 0).repeat(2, 1), ((0, 0), (0, 1), (0, 0)))
            )
        },
    ),
    (
        "flattened in another order (channels first)",
        CONV,
        2,
        {"pull_back": channels_first},
    ),
    (
        "flattened in another order, both ways (channels first)",
        CONV,
        2,
        {
            "pull_back": channels_first,
            "forward": lambda s, p, a, key: (a.transpose(2, 0, 1).reshape(-1), a),
        },
    ),
    ("max-pool to the first entry", POOLED, 1, max_to(lambda inputs, best: [1.0, 0.0, 0.0, 0.0])),
    (
        "max-pool to the smallest",
        POOLED,
        1,
        max_to(lambda inputs, best: [one == jnp.stack(inputs).min(0) for one in inputs]),
    ),
    ("mean pool to the first entry", STRIDED, 2, mean_to([1.0, 0.0, 0.0, 0.0])),
    ("mean pool with 1/k for 1/k²", STRIDED, 2, mean_to([0.5] * 4)),
    ("mean pool to the largest entry", STRIDED, 2, {"pull_back": to_the_largest}),
    (
        "L2 pool without its numerator",
        POOLED,
        3,
        {
            "pull_back": lambda s, p, c, d: jnp.pad(
                (d / c[1]).repeat(2, 0).repeat(2, 1), ((0, 0), (0, 1), (0, 0))
            )
        },
    ),
    (
        "L2 pool with 2a for a",
        POOLED,
        3,
        {"pull_back": lambda s, p, c, d: L2Pool.pull_back(s, p, c, 2 * d)},
    ),
    (
        "flattened in another order (columns first)",
        CONV,
        2,
        {
            "pull_back": lambda s, p, c, d: d.reshape(c.shape[1], c.shape[0], c.shape[2]).transpose(
                1, 0, 2
            )
        },
    ),
    (
        "flattened in another order (Fortran)",
        CONV,
        2,
        {"pull_back": lambda s, p, c, d: d.reshape(c.shape[::-1]).transpose(2, 1, 0)},
    ),
    (
        "last place only in the gradient of the kernel",
        CONV,
        1,
        {"gradients": lambda s, c, d: Conv.gradients(s, c, d)._replace(w=of_last(s, c, d).w)},
    ),
    (
        "last place only in the gradient of b",
        CONV,
        1,
        {"gradients": lambda s, c, d: Conv.gradients(s, c, d)._replace(b=of_last(s, c, d).b)},
    ),
    (
        "b averaged over the places",
        CONV,
        1,
        {"gradients": lambda s, c, d: biased(s, c, d, d.mean((-3, -2)).reshape(-1, 2).sum(0))},
    ),
    (
        "b not summed over the places",
        CONV,
        1,
        {"gradients": lambda s, c, d: biased(s, c, d, d.reshape(-1, *d.shape[-3:]).sum(0))},
    ),
    (
        "stride ignored in the gradient of the kernel",
        STRIDED,
        1,
        {"gradients": lambda s, c, d: correlated(s, c, d, 1, 1)},
    ),
    (
        "padding shifted in the gradient of the kernel",
        STRIDED,
        1,
        {"gradients": lambda s, c, d: correlated(s, c, d, 2, 0)},
    ),
    (
        "kernel turned, forward and backward",
        CONV,
        1,
        {
            "forward": lambda s, p, a, key: Conv.forward(s, turned(p), a, key),
            "pull_back": lambda s, p, c, d: Conv.pull_back(s, turned(p), c, d),
            "gradients": lambda s, c, d: turned(Conv.gradients(s, c, d)),
        },
    ),
]


@pytest.mark.parametrize("case", thinned(LAYERS, lambda case: case[0], 40))
@pytest.mark.slow
def test_mistakes_in_layers_are_named(case):
    name, net, i, functions = case
    report = check_backprop(net, with_layer(net, i, **functions))
    assert report.verdict == "WRONG"
    assert [finding.name for finding in report.mistakes] == [name], report


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pull_back"),
    [
        ("stride ignored", lambda y, x: (y, x)),
        ("padding not cropped (shifted)", lambda y, x: (2 * y + 1, 2 * x + 1)),
        ("padding cropped twice (shifted)", lambda y, x: (2 * y - 1, 2 * x - 1)),
    ],
)
def test_a_convolution_that_hands_back_to_the_wrong_place_is_named(name, pull_back):
    def place_by_place(self, params, cache, delta):
        height, width, _ = cache.shape
        image = jnp.zeros((height + 6, width + 6, cache.shape[-1]))
        for y in range(delta.shape[0]):
            for x in range(delta.shape[1]):
                top, left = (v + 3 - 1 for v in pull_back(y, x))  # the padding is 1
                piece = jnp.einsum("j,jikc->ikc", delta[y, x], params.w)
                image = image.at[top : top + 3, left : left + 3].add(piece)
        return image[3 : 3 + height, 3 : 3 + width]

    report = check_backprop(STRIDED, with_layer(STRIDED, 1, pull_back=place_by_place))
    assert [finding.name for finding in report.mistakes] == [name], report


@pytest.mark.slow
@pytest.mark.parametrize("net", [CONV, STRIDED, POOLED], ids=["conv", "strided", "pooled"])
def test_right_convolutional_networks_are_right(net):
    report = check_backprop(net, lambda params, x, y: nnjax.backprop(net, params, x, y))
    assert report.verdict == "RIGHT"


@pytest.mark.slow
def test_another_one_of_tied_entries_is_a_convention_and_is_named():
    report = check_backprop(POOLED, with_layer(POOLED, 1, **max_to(last_tied)))
    assert report.verdict == "CONVENTION"
    assert report.ok
    assert report.diagnosis == ""
    assert [finding.name for finding in report.mistakes] == [
        "max-pool to the wrong of tied entries (the last)"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pull_back"),
    [
        (None, Dropout.pull_back),
        ("dropout mask not applied", lambda s, p, c, d: d / (1 - s.rate)),
        ("dropout left out of the backward pass", lambda s, p, c, d: d),
        ("dropout not rescaled", lambda s, p, c, d: jnp.where(c, d, 0.0)),
        ("dropout rescaled twice", lambda s, p, c, d: jnp.where(c, d, 0.0) / (1 - s.rate) ** 2),
        (
            "dropout mask drawn again",
            lambda s, p, c, d: Dropout.pull_back(
                s, p, jax.random.bernoulli(jax.random.key(9), 0.6, d.shape), d
            ),
        ),
    ],
)
def test_mistakes_in_dropout_are_named(name, pull_back):
    hand = with_layer(DROPPED, 1, pull_back=pull_back)
    report = check_backprop(DROPPED, hand, key=jax.random.key(3))
    assert [finding.name for finding in report.mistakes] == ([name] if name else []), report
    assert report.ok == (name is None)
