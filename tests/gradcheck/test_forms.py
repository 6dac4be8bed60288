"""People's functions as they wrote them: NumPy, pairs, steps in place, passes, objects, PyTorch."""

import copy
import inspect
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nnjax.gradcheck import Verdict, check_forward_backward, check_gradient, check_vjp

RNG = np.random.default_rng(0)
W, X, Y = RNG.normal(size=8), RNG.normal(size=(5, 8)), RNG.normal(size=5)


def loss(w, x, y):
    out = np.zeros(len(x))
    for i in range(len(x)):
        out[i] = np.tanh(x[i] @ w)
    return np.mean((out - y) ** 2)


def loss_and_gradient(w, x, y):
    out = np.tanh(x @ w)
    delta = 2 * (out - y) * (1 - out**2)
    return np.mean((out - y) ** 2), x.T @ delta / len(x)


def gradient(w, x, y):
    return loss_and_gradient(w, x, y)[1]


def test_a_numpy_function_is_traced_as_it_stands_and_its_line_named():
    assert check_gradient(loss, gradient, W, X, Y).verdict == Verdict.RIGHT
    assert type(np.zeros(1)) is np.ndarray  # numpy is given back

    def without_slope(w, x, y):
        return x.T @ (2 * (np.tanh(x @ w) - y)) / len(x)

    report = check_gradient(loss, without_slope, W, X, Y)
    (finding,) = report.findings
    assert finding.file == __file__
    assert finding.source.strip() in inspect.getsource(loss)
    assert finding.source.strip() in str(report)


@pytest.mark.parametrize(
    "claimed",
    [
        loss_and_gradient,
        lambda w, x, y: loss_and_gradient(w, x, y)[::-1],
        pytest.param(lambda w, x, y: list(loss_and_gradient(w, x, y)), marks=pytest.mark.slow),
        lambda w, x, y: {"loss": loss(w, x, y), "grads": {"dw": gradient(w, x, y)}},
        pytest.param(lambda w, x, y: {"dw": gradient(w, x, y)}, marks=pytest.mark.slow),
        lambda w, x, y: (loss(w, x, y), gradient(w, x, y), "more"),
    ],
    ids=["pair", "reversed", "list", "dict", "named", "more"],
)
def test_a_gradient_is_found_in_what_is_returned(claimed):
    assert check_gradient(loss, claimed, W, X, Y).verdict == Verdict.RIGHT

    def half(w, x, y):
        return jax.tree.map(
            lambda leaf: leaf if isinstance(leaf, str) else leaf / 2, claimed(w, x, y)
        )

    assert not check_gradient(loss, half, W, X, Y).ok


def test_one_function_that_returns_both_is_checked_against_itself():
    assert check_gradient(loss_and_gradient, W, X, Y).verdict == Verdict.RIGHT
    assert check_gradient(loss_and_gradient, None, W, X, Y).ok
    assert check_gradient(loss_and_gradient, loss_and_gradient, W, X, Y).ok
    wrong = check_gradient(lambda w: (np.sum(w**2), 3 * w), W)
    assert wrong.verdict == Verdict.WRONG


def test_a_gradient_of_one_number_is_not_taken_for_the_value():
    assert check_gradient(lambda t: np.sin(t), lambda t: (np.sin(t), np.cos(t)), 0.7).ok
    assert check_gradient(lambda t: np.sin(t), lambda t: (np.cos(t), np.sin(t)), 0.7).ok
    assert not check_gradient(lambda t: np.sin(t), lambda t: (np.sin(t), 2 * np.cos(t)), 0.7).ok


def test_the_value_beside_the_gradient_is_compared_too():
    report = check_gradient(loss, lambda w, x, y: (7.0, gradient(w, x, y)), W, X, Y)
    assert report.verdict == Verdict.WRONG
    assert "The gradient is right, but the value beside it is not: 7 instead of" in report.reason


@pytest.mark.slow
def test_a_step_in_place_is_the_claim():
    def step(w, x, y, rate=0.1):
        w -= rate * gradient(w, x, y)

    report = check_gradient(loss, step, W, X, Y)
    assert report.verdict == Verdict.RIGHT
    assert any("step in place" in remark and "0.1" in remark for remark in report.remarks)

    def wrong(w, x, y):
        w[:2] -= 0.1 * gradient(w, x, y)[:2]

    assert not check_gradient(loss, wrong, W, X, Y).ok
    still = check_gradient(loss, lambda w, x, y: None, W, X, Y)
    assert still.verdict == Verdict.WRONG


def takes_twice_the_step(w, x, y, *, lr=0.1):
    w -= 2 * lr * gradient(w, x, y)


class Trainer:
    def __init__(self):
        self.eta = 0.2

    def climbs(self, w, x, y):
        w += self.eta * gradient(w, x, y)


alpha = 0.3


def reads_its_rate_around_it(w, x, y):
    w -= alpha * gradient(w, x, y) / len(x)


@pytest.mark.parametrize(
    ("step", "finding", "rate"),
    [
        (takes_twice_the_step, "factor 2", "η = 0.1 (its lr)"),
        (partial(takes_twice_the_step, lr=0.5), "factor 2", "η = 0.5 (its lr)"),
        (Trainer().climbs, "sign", "η = 0.2 (its eta)"),
        (reads_its_rate_around_it, "mean twice (factor 1/n)", "η = 0.3 (its alpha)"),
    ],
    ids=["default", "partial", "attribute", "global"],
)
def test_a_step_is_held_against_the_learning_rate_that_is_named(step, finding, rate):
    report = check_gradient(loss, step, W, X, Y)
    assert report.verdict != Verdict.RIGHT
    assert report.findings[0].name == finding
    assert any(rate in remark for remark in report.remarks)


def test_a_learning_rate_without_a_name_is_told_by_the_step():
    def step(w, x, y):
        w -= 0.2 * gradient(w, x, y)

    report = check_gradient(loss, step, W, X, Y)
    assert report.verdict == Verdict.RIGHT
    assert any("a wrong factor of the whole step is not seen" in said for said in report.remarks)


def test_a_step_of_pytorch():
    torch = pytest.importorskip("torch")

    def mean_square(w, x, y):
        return ((x @ w - y) ** 2).mean()

    def step(w, x, y, lr=0.1, factor=1.0):
        optimizer = torch.optim.SGD([w], lr=lr)
        (factor * mean_square(w, x, y)).backward()
        optimizer.step()

    assert check_gradient(mean_square, step, W, X, Y).verdict == Verdict.RIGHT
    assert not check_gradient(mean_square, partial(step, factor=3.0), W, X, Y).ok


# Forward and backward passes.


def affine(x, w, b):
    return np.dot(x, w) + b, (x, w)


def affine_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.sum(axis=0)


PASS = X, RNG.normal(size=(8, 4)), RNG.normal(size=4)


def test_a_forward_and_a_backward_pass():
    report = check_forward_backward(affine, affine_backward, *PASS)
    assert report.verdict == Verdict.RIGHT
    assert [leaf.path for leaf in report.leaves] == ["x", "w", "b"]
    swapped = check_forward_backward(affine, lambda cache, g: affine_backward(g, cache), *PASS)
    assert swapped.ok
    named = check_forward_backward(
        affine,
        lambda g, c: dict(zip(("dx", "dw", "db"), affine_backward(g, c), strict=True)),
        *PASS,
    )
    assert named.ok
    fewer = check_forward_backward(affine, lambda g, c: affine_backward(g, c)[:2], *PASS)
    assert fewer.ok
    assert [leaf.path for leaf in fewer.leaves] == ["x", "w"]


def test_a_wrong_backward_pass_is_named_with_its_line():
    def mean_for_sum(dout, cache):
        dx, dw, db = affine_backward(dout, cache)
        return dx, dw, db / len(dout)

    report = check_forward_backward(affine, mean_for_sum, *PASS)
    assert report.verdict == Verdict.WRONG
    assert [leaf.path for leaf in report.leaves if not leaf.ok] == ["b"]
    assert report.findings[0].source.strip() == "return np.dot(x, w) + b, (x, w)"
    assert "right so far x, w" in " ".join(str(report).split())


def test_a_backward_pass_of_zeros_has_a_line_too():
    report = check_forward_backward(
        affine, lambda dout, cache: tuple(map(np.zeros_like, PASS)), *PASS
    )
    assert report.findings[0].name.startswith("left out")
    assert report.findings[0].source == "return np.dot(x, w) + b, (x, w)"


class Layer:
    """As in a book: arrays and gradients are attributes."""

    scale = 1.0

    def __init__(self):
        self.params = {"W": RNG.normal(size=(8, 4)), "b": np.zeros(4)}
        self.grads = {}
        self.x = None

    def forward(self, x):
        self.x = x
        return x @ self.params["W"] + self.params["b"]

    def backward(self, dout):
        self.grads["W"] = self.x.T @ dout
        self.grads["b"] = self.scale * dout.sum(axis=0)
        return dout @ self.params["W"].T


class WithAttributes(Layer):
    def __init__(self):
        super().__init__()
        self.W, self.dW = self.params["W"], np.zeros((8, 4))

    def backward(self, dout):
        self.dW[...] = self.x.T @ dout
        return super().backward(dout)


@pytest.mark.parametrize("kind", [Layer, WithAttributes])
def test_an_object_with_its_gradients_as_attributes(kind):
    layer = kind()
    before = copy.deepcopy(layer.params)
    report = check_forward_backward(layer, None, X)
    assert report.verdict == Verdict.RIGHT
    assert len(report.leaves) >= 3
    assert check_forward_backward(layer.forward, layer.backward, X).ok
    assert layer.x is None
    assert all((layer.params[k] == before[k]).all() for k in before)
    layer.scale = 0.5
    wrong = check_forward_backward(layer, None, X)
    assert [leaf.path for leaf in wrong.leaves if not leaf.ok] == [f"{kind.__name__}['params.b']"]


class Step:
    """One step of a recurrent network with two states, as in a book."""

    def __init__(self):
        self.w, self.dw, self.c, self.dc = RNG.normal(size=(4, 4)), None, None, None

    def forward(self, h, c):
        self.h, self.c = h, c + np.tanh(h @ self.w)
        return np.sin(self.c), self.c

    def backward(self, dh, dc):
        self.dc = dc + dh * np.cos(self.c)
        inner = self.dc * (1 - np.tanh(self.h @ self.w) ** 2)
        self.dw = self.h.T @ inner
        return inner @ self.w.T, self.dc


def test_an_object_with_two_outputs_and_a_state_of_its_own():
    report = check_forward_backward(Step(), None, RNG.normal(size=(2, 4)), np.ones((2, 4)))
    assert report.verdict == Verdict.RIGHT
    assert [leaf.path for leaf in report.leaves] == ["Step['w']", "h", "c"]


def test_a_closure_is_a_pull_back():
    assert check_forward_backward(
        lambda x: (np.tanh(x), lambda g: g * (1 - np.tanh(x) ** 2)), None, X
    ).ok
    assert not check_forward_backward(lambda x: (np.tanh(x), lambda g: g), None, X).ok


def test_the_value_of_a_custom_rule_is_compared():
    @jax.custom_vjp
    def cube(x):
        return x**3

    cube.defvjp(lambda x: (x**2, x), lambda x, g: (3 * x**2 * g,))
    report = check_vjp(cube, None, W)
    assert report.verdict == Verdict.WRONG
    assert "the value of the function is not" in report.reason
    pair = check_vjp(lambda x: x**3, lambda x: (x**2, lambda g: 3 * x**2 * g), W)
    assert pair.verdict == Verdict.WRONG


def test_a_torch_function():
    torch = pytest.importorskip("torch")

    class Cube(torch.autograd.Function):
        factor = 3

        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return Cube.factor * x**2 * g

    assert check_vjp(Cube, None, W).ok
    assert check_vjp(lambda x: x**3, Cube, W).ok
    Cube.factor = 2
    assert check_vjp(Cube, None, W).verdict == Verdict.WRONG


# What cannot be traced, and what goes wrong.


def untraceable(x):
    return sum(math.sin(v) for v in x)


def test_differences_are_the_reference_where_jax_cannot_trace():
    report = check_gradient(untraceable, np.cos, W)
    assert report.verdict == Verdict.RIGHT
    assert "no line can be named" in report.reason
    assert "finite differences in every array, as far as they reach" in report.reason
    wrong = check_gradient(untraceable, lambda x: -np.cos(x), W)
    assert [finding.name for finding in wrong.findings] == ["sign"]
    assert "no line can be named" in wrong.reason
    assert not check_gradient(untraceable, lambda x: np.cos(x) * (1 + 1e-6), W).ok


def test_a_view_that_is_written_to_is_not_traced_wrongly():
    def f(x):
        out = np.zeros((2, 8))
        row = out[0]
        row[:] = x**2  # a view: jax.numpy in numpy's place would not see it
        return out.sum()

    report = check_gradient(f, lambda x: 2 * x, W)
    assert report.ok
    assert "another value when jax.numpy takes numpy's place" in report.reason


def test_the_users_own_line_is_said_where_the_users_code_fails():
    report = check_gradient(loss, lambda w, x, y: x @ y, W, X, Y)
    assert report.verdict == Verdict.WRONG
    assert "test_forms.py, line" in report.reason
    assert "lambda w, x, y: x @ y" in report.reason
    with pytest.raises(
        TypeError, match=r"loss cannot be evaluated .*test_forms.py, line \d+: out\[i"
    ):
        check_gradient(loss, gradient, W, X[:, :2], Y)
    with pytest.raises(ValueError, match="time_limit is -1; expected a positive number of seconds"):
        check_gradient(loss, gradient, W, X, Y, time_limit=-1)
    with pytest.raises(TypeError, match="f is a ndarray; expected a function"):
        check_gradient(W, gradient)
    with pytest.raises(TypeError, match="backward is a int; expected a function"):
        check_forward_backward(affine, 3, *PASS)


@pytest.mark.parametrize(
    ("trouble", "claimed"),
    [
        ("x is a str, which is not an array of numbers", lambda x: "cos"),
        ("x is complex; gradients of real losses are real", lambda x: 2j * x),
        ("x is None", lambda x: None),
        ("x is a object, which is not an array", lambda x: object()),
        ("x is NaN in 1 of 8 entries", lambda x: np.where(np.arange(8) == 1, np.nan, 2 * x)),
        ("x is of shape (8, 1) where (8,) is expected", lambda x: 2 * x[:, None]),
    ],
)
def test_what_is_no_gradient_is_said_and_not_named_otherwise(trouble, claimed):
    report = check_gradient(lambda x: jnp.sum(x**2), claimed, W)
    assert trouble in report.reason
    assert "mean" not in report.diagnosis
