"""What a check must not say: nothing is right that was not compared with what it should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nnjax.gradcheck import Verdict, check_forward_backward, check_gradient, check_vjp
from nnjax.gradcheck.reference import _smoothed

RNG = np.random.default_rng(0)
X, Y, W = RNG.normal(size=(6, 3)), RNG.normal(size=6), RNG.normal(size=3)


def test_a_function_that_reads_what_has_changed_is_read_anew():
    class Ridge:
        strength = 0.1

        def loss(self, w, x, y):
            return jnp.sum((x @ w - y) ** 2) + self.strength * jnp.sum(w**2)

        def gradient(self, w, x, y):
            return 2 * x.T @ (x @ w - y) + 2 * self.strength * w

    ridge = Ridge()
    assert check_gradient(ridge.loss, ridge.gradient, W, X, Y).verdict == Verdict.RIGHT
    ridge.strength = 0.7
    assert check_gradient(ridge.loss, ridge.gradient, W, X, Y).verdict == Verdict.RIGHT

    def stale(w, x, y):
        return 2 * x.T @ (x @ w - y) + 2 * 0.1 * w

    assert check_gradient(ridge.loss, stale, W, X, Y).verdict == Verdict.WRONG


def test_a_set_that_is_noticed_and_not_said_is_told():
    q = np.linalg.qr(RNG.normal(size=(3, 3)))[0]

    def penalised(q, x):
        return jnp.sum(jnp.tanh(q @ x)) + 5 * jnp.sum((q.T @ q - jnp.eye(3)) ** 2)

    def without_penalty(q, x):
        return np.outer(1 - np.tanh(q @ x) ** 2, x)

    report = check_gradient(penalised, without_penalty, q, W)
    assert "along orthogonal arguments. For arguments that are not orthogonal it is wrong" in (
        report.reason
    )
    said = check_gradient(penalised, without_penalty, q, W, domain="orthogonal")
    assert "that are not" not in said.reason


def test_a_gradient_for_the_logarithm_may_be_a_mistake():
    p = np.abs(W) + 0.1
    report = check_gradient(lambda p: jnp.sum(p**3), lambda p: 3 * p**3, p)
    assert "with respect to p it is p times too large, as when a power is not" in report.reason


def test_a_time_step_is_no_constant_that_keeps_anything_finite():
    times = np.linspace(0, 2, 9)

    def loss(w, t):
        return jnp.mean(jnp.sin(w[0] * (t + 9e-4) + w[1]))

    def one_step_early(w, t):
        slope = np.cos(w[0] * t + w[1]) / len(t)
        return np.array([slope @ t, slope.sum()])

    assert check_gradient(loss, one_step_early, W[:2], times).verdict == Verdict.WRONG
    for f, g in (
        (lambda p: jnp.sum(jnp.log(p + 1e-7)), lambda p: 1 / p),
        (lambda p: jnp.sum(1 / (p + 1e-7)), lambda p: -1 / p**2),
        (lambda p: jnp.sqrt(jnp.sum(p**2) + 1e-7), lambda p: p / np.linalg.norm(p)),
    ):
        assert check_gradient(f, g, np.abs(W)).verdict == Verdict.ANOTHER_CONVENTION


def test_an_argument_without_a_gradient_is_told():
    def forward(x, w, b):
        return np.tanh(x @ w + b), (x, w, b)

    def backward(dout, cache):
        x, w, b = cache
        dz = dout * (1 - np.tanh(x @ w + b) ** 2)
        return {"dX": dz @ w.T, "dW": x.T @ dz}  # capitals are read too

    report = check_forward_backward(forward, backward, X, RNG.normal(size=(3, 2)), W[:2])
    assert report.ok
    assert [leaf.path for leaf in report.leaves] == ["x", "w"]
    assert "not checked, as nothing is returned for it: b" in str(report)


def test_the_arguments_that_stay_as_they_are_are_told():
    def penalised(w, x, strength):
        return jnp.sum((x @ w) ** 2) + strength * jnp.sum(w**2)

    report = check_gradient(penalised, lambda w, x, s: 2 * x.T @ (x @ w) + 2 * w, W, X, 1.0)
    assert report.not_covered.endswith("other values of x and strength")


def test_nothing_is_right_where_autodiff_is_not_finite():
    w = np.array([0.0, 1.0, 4.0])

    def gradient(at_zero, factor=1.0):
        return lambda w: np.where(w > 0, 0.5 * factor / np.sqrt(np.where(w > 0, w, 1)), at_zero)

    def roots(w):
        return jnp.sum(jnp.sqrt(w))

    report = check_gradient(roots, gradient(-7.0), w)
    assert report.verdict == Verdict.INCONCLUSIVE
    assert "Autodiff gives inf for w [0] at the arguments given" in report.reason
    wrong = check_gradient(roots, gradient(-7.0, 2.0), w)
    assert wrong.verdict == Verdict.WRONG
    assert wrong.leaves[0].index != (0,)  # where there is something to compare with


@pytest.mark.parametrize("at_zero", [-2.0, -0.1, 1.1, 3.0])
def test_a_choice_beyond_both_sides_of_a_kink_is_wrong(at_zero):
    def claimed(x):
        return (x > 0) + at_zero * (x == 0)

    x = np.array([0.0, 1.0, -1.0])
    report = check_gradient(lambda x: jnp.sum(jnp.maximum(x, 0)), claimed, x)
    assert report.verdict == Verdict.WRONG


def test_of_arrays_of_one_shape_the_gradient_is_read():
    def with_predictions(w, x, y):
        return jnp.mean((x @ w - y) ** 2), x @ w

    square = X[:3], Y[:3]
    given = jax.grad(with_predictions, has_aux=True)
    assert check_gradient(with_predictions, given, W, *square).verdict == Verdict.RIGHT

    def both(w, v):
        return 2 * w * v, w**2

    f, v = (lambda w, v: jnp.sum(w**2 * v)), RNG.normal(size=3)
    assert check_gradient(f, both, W, v).verdict == Verdict.RIGHT
    assert check_gradient(f, lambda w, v: both(w, v)[::-1], W, v).verdict == Verdict.RIGHT
    assert check_gradient(f, lambda w, v: (3 * w * v, w**2), W, v).verdict == Verdict.WRONG


def test_a_list_of_numbers_has_an_array_for_its_gradient():
    def f(w):
        return w[0] ** 2 + w[1] * w[2]

    numbers = [1.0, 2.0, 3.0]
    right = check_gradient(f, lambda w: np.array([2 * w[0], w[2], w[1]]), numbers)
    wrong = check_gradient(f, lambda w: np.array([2 * w[0], w[1], w[2]]), numbers)
    assert (right.verdict, wrong.verdict) == (Verdict.RIGHT, Verdict.WRONG)


def test_a_number_that_is_fitted_to_one_number_is_no_mistake():
    def f(a, x, y):
        return jnp.sum((a * x - y) ** 2)

    report = check_gradient(f, lambda a, x, y: -2 * np.sum(x * y), 0.7, X[0], Y[:3])
    assert report.verdict == Verdict.WRONG
    assert [finding.name for finding in report.findings] == ["left out"]


K = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])


@pytest.mark.parametrize(
    ("f", "claimed", "args"),
    [
        pytest.param(
            lambda w, k, x: jnp.mean((k @ x @ w) ** 2),
            lambda w, k, x: 2 * (k @ x).T @ (k @ x @ w),
            (W, K, X[:3]),
            id="first axes are equal, but of no batch",
        ),
        pytest.param(
            lambda w, k, y: (y - w) @ jnp.linalg.solve(k + 3 * jnp.eye(3), y - w),
            lambda w, k, y: 2 * np.linalg.solve(k + 3 * np.eye(3), y - w),
            (W, K, Y[:3]),
            id="a kernel beside what is observed",
        ),
        pytest.param(
            jax.checkpoint(lambda w, x: jnp.sum((x @ w) ** 2)),
            lambda w, x: x.T @ (x @ w),
            (W, X),
            id="checkpoint",
        ),
    ],
)
def test_a_wrong_factor_gets_a_report(f, claimed, args):
    report = check_gradient(f, claimed, *args)
    assert not report.ok
    assert report.findings


def test_empty_arrays_and_loops_of_unknown_length():
    empty = check_gradient(lambda x: jnp.sum(x**2), lambda x: 2 * x, np.zeros((0, 3)))
    assert empty.verdict == Verdict.RIGHT

    def looped(x):
        def step(state):
            return state[0] * jnp.sin(state[0]), state[1] + 1

        return jax.lax.while_loop(lambda state: state[1] < 3, step, (jnp.sum(x**2), 0))[0]

    def gradient(x):
        s, slope = np.sum(x**2), 1.0
        for _ in range(3):
            slope, s = slope * (np.sin(s) + s * np.cos(s)), s * np.sin(s)
        return slope * 2 * x

    assert check_gradient(looped, gradient, W).verdict == Verdict.RIGHT
    wrong = check_gradient(looped, lambda x: -gradient(x), W)
    assert (wrong.verdict, wrong.findings[0].name) == (Verdict.WRONG, "sign")


@jax.custom_vjp
def sine(x):
    return jnp.sin(x)


sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (-g * jnp.cos(x),))  # of the wrong sign


def test_a_custom_rule_that_is_not_the_derivative_is_told():
    def f(x, y):
        return jnp.sum((sine(x) - y) ** 2)

    def claimed(factor):
        return lambda x, y: factor * 2 * (np.sin(x) - y) * np.cos(x)

    by_rule, by_body, by_none = (
        check_gradient(f, claimed(factor), W, Y[:3]) for factor in (-1, 1, 3)
    )
    assert by_rule.verdict == Verdict.RIGHT
    assert "contains a custom derivative rule, not the derivative of what it computes" in (
        by_rule.reason
    )
    assert by_body.verdict == Verdict.REFERENCE_SUSPECT
    assert "Your gradient is that of what the function computes." in by_body.reason
    assert by_none.verdict == Verdict.WRONG


def test_a_rule_that_is_the_derivative_excuses_nothing():
    def f(x):
        bits = jax.lax.bitcast_convert_type(x, jnp.int64)  # autodiff takes it for constant
        return jnp.sum(jax.nn.relu(x) * jax.lax.bitcast_convert_type(bits, jnp.float64))

    report = check_gradient(f, lambda x: np.maximum(x, 0), np.abs(W))
    assert report.verdict == Verdict.REFERENCE_SUSPECT


def test_a_random_function_is_told():
    draw = np.random.default_rng(0)

    def f(x):
        return jnp.sum(x**2) * (1 + 0.1 * draw.random())

    report = check_gradient(f, lambda x: 2 * x, W)
    assert report.verdict == Verdict.INCONCLUSIVE
    assert "not deterministic: called twice with the same arguments" in report.reason


def test_complex_outputs_and_a_forgotten_gradient_are_refused():
    with pytest.raises(TypeError, match="complex numbers; let it return their real and imaginary"):
        check_vjp(jnp.fft.fft, lambda x, g: g, W)
    with pytest.raises(TypeError, match="returns one number and no gradient; give the gradient as"):
        check_gradient(lambda x: jnp.sum(x**2), W)


def test_what_is_broadcast_and_not_summed_back_is_named():
    def f(x, b):
        return jnp.sum(jnp.tanh(x + b) ** 2)

    def unsummed(x, b):
        a = np.tanh(x + b)
        return 2 * a * (1 - a**2), 2 * a * (1 - a**2)

    report = check_gradient(f, unsummed, X, W, argnums=(0, 1))
    assert report.diagnosis.startswith("not summed (b): what is broadcast forward is summed backw")
    assert "over axis 0 (length 6)" in report.diagnosis
    doubled = check_gradient(f, lambda x, b: tuple(2 * g for g in unsummed(x, b)), X, W)
    assert "not summed" not in doubled.diagnosis


def test_fourier_transforms_of_numpy_are_traced():
    def spectrum(x):
        return np.sum(np.abs(np.fft.rfft(x)) ** 2)

    def gradient(x):
        transformed = np.fft.rfft(x)
        return 2 * np.fft.irfft(transformed * np.array([1, 0.5, 0.5, 1]) * 6, 6)

    report = check_gradient(spectrum, gradient, np.concatenate([W, W[::-1] + 1]))
    assert report.verdict == Verdict.RIGHT
    assert "JAX cannot trace" not in report.reason


def test_differences_of_a_function_in_float32_are_not_trusted_beyond_it():
    def f(w, x, y):
        r = np.asarray(x, np.float32) @ np.asarray(w, np.float32) - np.asarray(y, np.float32)
        return 0.0 if r[0].item() > 1e9 else float((r**2).sum())

    def gradient(factor):
        return lambda w, x, y: factor * 2 * x.T @ (x @ w - y)

    right = check_gradient(f, gradient(1.0), W, X, Y)
    assert right.verdict == Verdict.RIGHT
    assert "Agrees with finite differences in every array, as far as they reach" in right.reason
    assert check_gradient(f, gradient(1.1), W, X, Y).verdict == Verdict.WRONG


@pytest.mark.parametrize("small", [1e-5, 1e-8])
def test_a_small_entry_beside_a_large_one_counts(small):
    sizes = np.array([1e8, small])

    def f(t):
        return jnp.sum(jnp.sin(0.3 * sizes * t))

    def gradient(factors):
        return lambda t: 0.3 * sizes * np.cos(0.3 * sizes * t) * factors

    t = np.array([1e-8, 1 / small])
    assert check_gradient(f, gradient(1.0), t).verdict == Verdict.RIGHT
    report = check_gradient(f, gradient(np.array([1, 2])), t)
    assert report.verdict == Verdict.WRONG
    assert report.leaves[0].wrong_entries == 1
    assert not report.findings


def test_ties_that_count_once_for_each_are_wrong():
    tied = np.array([1.0, 1.0, 0.5, 2.0, 2.0])
    ways = {"RIGHT": lambda of: of / of.sum(), "WRONG": lambda of: 1.0 * of}
    for verdict, way in ways.items():
        report = check_gradient(jnp.max, lambda v, way=way: way(v == v.max()), tied)
        assert report.verdict == verdict
    first = check_gradient(jnp.max, lambda v: np.eye(5)[np.argmax(v)], tied)
    assert first.verdict == Verdict.CONVENTION

    image = np.array([[1, 1, 0, 2.0], [0, 1, 2, 1], [3, 0, 0.5, 0.5], [0, 0, 0.5, 0.1]])

    def pooled(image):
        return image.reshape(2, 2, 2, 2).max((1, 3))

    def to_every_tie(image, g):
        windows = image.reshape(2, 2, 2, 2)
        of = windows == windows.max((1, 3), keepdims=True)
        return (of * g[:, None, :, None]).reshape(4, 4)

    assert check_vjp(pooled, to_every_tie, image).verdict == Verdict.WRONG


@pytest.mark.parametrize("at_zero", [0.0, 1.0, -1.0])
def test_the_middle_of_a_kink_is_among_its_sides(at_zero):
    report = check_gradient(
        lambda w: jnp.sum(w**2) + 0.1 * jnp.sum(jnp.abs(w)),
        lambda w: 2 * w + 0.1 * np.where(w == 0, at_zero, np.sign(w)),
        np.array([0.0, 1.0, 0.0, -1.0]),
    )
    assert report.ok


def test_each_of_many_kinks_may_be_taken_from_either_side():
    x = np.concatenate([np.zeros(40), W])
    for at_zero in (0.0, 1.0):
        report = check_gradient(
            lambda x: jnp.sum(jnp.maximum(x, 0) * jnp.arange(1.0, 44)),
            lambda x, s=at_zero: np.where(x == 0, s, x > 0) * np.arange(1.0, 44),
            x,
        )
        assert report.verdict == Verdict.CONVENTION


@pytest.mark.parametrize("error", [AssertionError, RuntimeError])
def test_a_function_may_want_the_whole_batch(error):
    def f(w, x, y):
        if x.shape != (6, 3):
            raise error("the shape of x")
        return jnp.mean((x @ w - y) ** 2)

    report = check_gradient(f, lambda w, x, y: 2 * x.T @ (x @ w + y) / 6, W, X, Y)
    assert report.verdict == Verdict.WRONG


def test_parameters_may_be_none():
    def f(params, x):
        return jnp.sum((x @ params["w"]) ** 2)

    def gradient(params, x):
        return {"w": 2 * x.T @ (x @ params["w"]), "b": None}

    params = {"w": W, "b": None}
    assert check_gradient(f, gradient, params, X).verdict == Verdict.RIGHT
    sign = check_gradient(f, lambda p, x: {"w": -gradient(p, x)["w"], "b": None}, params, X)
    assert sign.findings[0].name == "sign"


def test_rows_in_a_list_are_an_array():
    def f(w):
        return jnp.sum(w**2)

    assert check_gradient(f, lambda w: [2 * row for row in w], X).verdict == Verdict.RIGHT
    assert check_gradient(f, lambda w: [3 * row for row in w], X).verdict == Verdict.WRONG
    numbers = check_gradient(lambda w: w[0] ** 2 + w[1] * w[2], lambda w: [2 * w[0], w[2], w[1]], W)
    assert numbers.verdict == Verdict.RIGHT


class Kept:
    """A loss that keeps what its gradient is computed from, and a running mean."""

    mean = 0.0

    def loss(self, w, x, y):
        self.x, self.residual = x, x @ w - y
        self.mean = 0.9 * self.mean + 0.1 * (x @ w).mean()
        return (self.residual**2).sum()

    def gradient(self, w, x, y):
        return 2 * self.x.T @ self.residual

    def number(self, w, x, y):
        return float(self.loss(w, x, y))


class Tripled(Kept):
    def gradient(self, w, x, y):
        return 3 * super().gradient(w, x, y)


def test_an_object_may_keep_what_its_gradient_needs():
    for kept, verdict in ((Kept(), Verdict.RIGHT), (Tripled(), Verdict.WRONG)):
        for loss in (kept.loss, kept.number):
            assert check_gradient(loss, kept.gradient, W, X, Y).verdict == verdict


def test_what_differences_do_not_reach_is_not_right():
    def f(w, x, y):
        r = np.asarray(x, np.float32) @ np.asarray(w, np.float32) - np.asarray(y, np.float32)
        return float((r**2).mean())

    def one_sign_wrong(w, x, y):
        return np.array([1, 1, -1]) * (2 * x.T @ (x @ w - y) / 6)

    report = check_gradient(f, one_sign_wrong, W, X * np.array([1, 1, 1e-3]), Y)
    assert report.verdict == Verdict.INCONCLUSIVE
    assert "too rough to tell which is right" in report.reason


def test_the_rounding_expected_of_an_entry_is_a_number_whatever_its_size():
    noise = _smoothed(np.full(3, 1e-16), np.array([1.0, 1e-310, 0.0]))
    assert np.isfinite(noise).all()


def in_single(w, x):
    """Calculates in float32, whatever it is given."""
    return jnp.mean(jnp.tanh(x.astype(jnp.float32) @ w.astype(jnp.float32)) ** 2)


def test_a_function_in_float32_is_checked_as_far_as_that_reaches():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 3))

    def gradient(w, x, slope=lambda a: 1 - a**2):
        a = np.tanh(x @ w)
        return 2 * x.T @ (a * slope(a)) / a.size

    w = rng.normal(size=(3, 4))
    report = check_gradient(in_single, gradient, w, x)
    assert report.ok
    assert "as far as float32 reaches, in which the function calculates" in report.reason
    report = check_gradient(in_single, lambda w, x: gradient(w, x, lambda a: 1 - a), w, x)
    assert report.verdict == Verdict.WRONG
    assert report.findings[0].name == "another function's derivative"
    assert " · (1 − jnp.tanh(" in report.findings[0].have
    report = check_gradient(in_single, lambda w, x: 1.0001 * gradient(w, x), w, x)
    assert report.verdict == Verdict.WRONG


@pytest.mark.parametrize(
    ("times", "name"),
    [
        (1.0, "L2 term (counted 10 times)"),
        (0.05, "L2 term (factor 1/2)"),
        (-0.1, "L2 term (sign)"),
        (0.0, "L2 term missing (left out)"),
    ],
)
def test_a_penalty_that_is_there_with_another_factor_is_not_missing(times, name):
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(3, 4)), rng.normal(size=(6, 3))

    def penalized(w, x):
        return ((x @ w) ** 2).mean() + 0.5 * 0.1 * (w**2).sum()

    def gradient(w, x):
        return 2 * x.T @ (x @ w) / (6 * 4) + times * w

    assert [found.name for found in check_gradient(penalized, gradient, w, x).findings] == [name]


def test_kinks_that_random_directions_cross_together_are_told_apart():
    """At this w the first eight directions cross |w₁| and the tie of w₀ and w₄ as one."""

    def kinked(w):
        return jnp.sum(jnp.abs(w)) + jnp.max(w)

    def gradient(w):
        return np.sign(w) + np.eye(len(w))[np.argmax(w)]

    w = np.array([1.0, 0.0, -1.0, -1.0, 1.0])
    assert check_gradient(kinked, gradient, w).verdict == Verdict.CONVENTION

    def both(w):
        return np.sign(w) + (np.asarray(w) == np.max(w))

    assert check_gradient(kinked, both, w).verdict == Verdict.WRONG
