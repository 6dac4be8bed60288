"""Domains, other conventions, rounding, and functions that are not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nnjax.gradcheck import Verdict, check_gradient

RNG = np.random.default_rng(0)
A = RNG.normal(size=(3, 3))
S = A @ A.T + np.eye(3)
P = np.array([0.2, 0.3, 0.5])
INV = np.linalg.inv


def logdet(s):
    return jnp.linalg.slogdet(s)[1]


def test_points_outside_of_the_domain_are_drawn_again_nearer():
    def claimed(x):
        return -1 / np.sqrt(1 - np.asarray(x) ** 2)

    report = check_gradient(lambda x: jnp.sum(jnp.arccos(x)), claimed, np.array([0.9, -0.8, 0.3]))
    assert report.verdict == Verdict.RIGHT
    assert "random point 2" in report.covered


@pytest.mark.parametrize(
    ("f", "claimed"),
    [
        pytest.param(logdet, INV, marks=pytest.mark.slow),
        pytest.param(
            lambda s: jnp.sum(jnp.log(jnp.diag(jnp.linalg.cholesky(s)))),
            lambda s: INV(s) / 2,
            marks=pytest.mark.slow,
        ),
        (lambda s: np.sum(np.log(np.diag(np.linalg.cholesky(s)))), lambda s: INV(s) / 2),
    ],
    ids=["slogdet", "cholesky", "numpy"],
)
def test_a_symmetric_argument_is_noticed(f, claimed):
    report = check_gradient(f, claimed, S)
    assert report.verdict == Verdict.RIGHT
    assert not check_gradient(f, lambda s: 1.001 * claimed(s), S).ok


def test_a_transposed_gradient_is_wrong_for_a_symmetric_argument_too():
    def f(s):
        return jnp.sum(jnp.tanh(s) @ jnp.asarray(A))

    right = jax.grad(f)
    assert check_gradient(f, lambda s: np.asarray(right(s)), S).ok
    assert check_gradient(f, lambda s: np.asarray(right(s)).T, S).verdict == Verdict.WRONG


def test_what_counts_along_a_domain_that_is_said():
    symmetric = check_gradient(
        lambda s: jnp.sum(s * A), lambda s: (A + A.T) / 2, S, domain="symmetric"
    )
    assert symmetric.verdict == Verdict.RIGHT
    entropy = check_gradient(
        lambda p: -jnp.sum(p * jnp.log(p)), lambda p: -np.log(p), P, domain={"p": "simplex"}
    )
    assert entropy.verdict == Verdict.RIGHT
    q = np.linalg.qr(A)[0]

    def riemannian(q):
        q = np.asarray(q)
        return (A - q @ A.T @ q) / 2

    assert check_gradient(lambda q: jnp.sum(q * A), riemannian, q, domain="orthogonal").ok
    wrong = check_gradient(
        lambda q: jnp.sum(q * A), lambda q: 2 * riemannian(q), q, domain="orthogonal"
    )
    assert wrong.verdict == Verdict.WRONG


@pytest.mark.parametrize(
    ("match", "domain", "value"),
    [
        ("domain is 'spherical'; expected one of positive definite", "spherical", S),
        (r"s, of shape \(3, 3\), does not lie in its domain \(symmetric\)", "symmetric", A),
        ("domain is given for 'q'; the arguments are s", {"q": "symmetric"}, S),
    ],
)
def test_domains_that_do_not_fit_are_refused(match, domain, value):
    with pytest.raises(ValueError, match=match):
        check_gradient(lambda s: jnp.sum(s), jnp.ones_like, value, domain=domain)


X, W = RNG.normal(size=(6, 3)), RNG.normal(size=3)


def squares(w, x):
    return jnp.sum((x @ w) ** 2)


def of_squares(w, x):
    x, w = np.asarray(x), np.asarray(w)
    return 2 * x.T @ (x @ w)


@pytest.mark.parametrize(
    ("name", "f", "claimed", "args", "ok"),
    [
        ("logarithm", lambda p: jnp.sum(p**3), lambda p: 3 * p**3, (P,), True),
        ("degrees", lambda p: jnp.sum(jnp.sin(p)), lambda p: np.pi / 180 * jnp.cos(p), (P,), True),
        ("off-diagonal", logdet, lambda s: 2 * INV(s) - np.diag(np.diag(INV(s))), (S,), True),
        (
            "lower triangle",
            logdet,
            lambda s: np.tril(2 * INV(s) - np.diag(np.diag(INV(s)))),
            (S,),
            True,
        ),
        ("factor ½", squares, lambda w, x: of_squares(w, x) / 2, (W, X), False),
        ("factor 2", lambda w, x: squares(w, x) / 2, of_squares, (W, X), False),
        ("mean for sum", squares, lambda w, x: of_squares(w, x) / 6, (W, X), False),
        ("sum for mean", lambda w, x: squares(w, x) / len(x), of_squares, (W, X), False),
    ],
)
def test_right_by_another_convention(name, f, claimed, args, ok):
    report = check_gradient(f, claimed, *args)
    assert report.verdict == Verdict.ANOTHER_CONVENTION
    assert name in report.findings[0].name
    assert report.ok is ok
    assert "right for" in report.reason


def test_a_factor_of_something_that_is_no_square_is_a_mistake():
    report = check_gradient(lambda x: jnp.sum(jnp.sin(x)), lambda x: 2 * jnp.cos(x), W)
    assert report.verdict == Verdict.WRONG
    assert report.findings[0].name == "factor 2"


def test_right_where_it_is_given_and_wrong_around_it_is_told_apart():
    def f(x):
        return jnp.sum(jnp.where(jnp.abs(x) < 2, x**2, x**4))

    report = check_gradient(f, lambda x: 2 * np.asarray(x), np.array([1.8, -1.9, 0.3]))
    assert report.verdict == Verdict.WRONG
    assert "right at the arguments given, wrong at random point" in report.reason


@pytest.mark.parametrize(
    "claimed",
    [
        lambda x: np.exp(np.asarray(x).astype(np.float32)).astype(np.float64),
        lambda x: np.float64(np.float32(np.exp(np.asarray(x)))),
    ],
)
def test_float32_on_the_way_is_measured_and_not_blamed(claimed):
    report = check_gradient(lambda x: jnp.sum(jnp.exp(x)), claimed, RNG.normal(size=20))
    assert report.verdict == Verdict.INCONCLUSIVE
    assert "as of float32 on the way" in report.reason
    # A wrong constant of that size is not rounding.
    smooth = check_gradient(lambda x: jnp.sum(jnp.exp(x)), lambda x: jnp.exp(x) * (1 + 1e-7), W)
    assert smooth.verdict == Verdict.WRONG


def test_a_function_in_float32_does_not_make_autodiff_suspect():
    def f(x):
        return jnp.sum(jnp.sin(x.astype(jnp.float32)) ** 2)

    x = np.linspace(0.3, 2.0, 9)
    for claimed in (lambda x: np.sin(2 * x), lambda x: np.sin(2 * x).astype(np.float32)):
        report = check_gradient(f, lambda x, c=claimed: c(np.asarray(x)), x)
        assert report.verdict in (Verdict.RIGHT, Verdict.INCONCLUSIVE), report
    assert check_gradient(f, lambda x: np.cos(2 * np.asarray(x)), x).verdict == Verdict.WRONG


@pytest.mark.parametrize(
    ("f", "claimed", "x"),
    [
        (lambda x: jnp.sum(jnp.log(x)), lambda x: 1 / x, [-1.0, 2.0]),
        (lambda x: jnp.sum(jnp.exp(x)), lambda x: jnp.exp(x), [800.0, 1.0]),
    ],
    ids=["nan", "inf"],
)
def test_where_the_function_is_not_finite_there_is_no_verdict(f, claimed, x):
    report = check_gradient(f, claimed, np.array(x))
    assert report.verdict == Verdict.INCONCLUSIVE
    assert "at the arguments given, where it has no gradient" in report.reason


def test_a_gradient_that_is_zero_up_to_rounding_is_said_to_be_so():
    def f(p):
        return jnp.sum(jax.nn.softmax(p["b"] + jnp.arange(3.0))) + jnp.sum(p["w"] ** 2)

    def claimed(p):
        return {"b": 1e-17 * np.cos(np.arange(3)), "w": 2 * p["w"]}

    report = check_gradient(f, claimed, {"b": W, "w": W})
    assert report.verdict == Verdict.RIGHT
    assert "p['b'] is 0, or equal, up to rounding" in report.reason
    assert "1e+00" not in report.reason


def test_a_difference_far_below_the_size_of_f_does_not_make_autodiff_suspect():
    def f(x):
        return jax.nn.logsumexp(x) - jnp.max(x)

    def claimed(x):
        return jax.nn.softmax(x) - (x == x.max())

    assert check_gradient(f, claimed, np.array([50.0, 1.0, 0.0])).ok


def cubes(x):
    return jnp.sum(jnp.abs(x) ** 3)


def of_cubes(x):
    x = np.asarray(x)
    return 3 * x * np.abs(x)


C = np.array([0.3, -1.2, 0.8, 2.0, -0.4])


@pytest.mark.parametrize(
    ("name", "claimed"),
    [
        ("normalised", lambda x: of_cubes(x) / np.linalg.norm(of_cubes(x))),
        ("gradient of log f", lambda x: of_cubes(x) / np.sum(np.abs(x) ** 3)),
        ("clipped", lambda x: np.clip(of_cubes(x), -2, 2)),
        ("clipped", lambda x: of_cubes(x) * min(1, 11 / np.linalg.norm(of_cubes(x)))),
    ],
    ids=["normalised", "log f", "entries", "length"],
)
def test_another_length_of_the_right_gradient_is_named(name, claimed):
    report = check_gradient(cubes, claimed, C)
    assert report.verdict == Verdict.WRONG
    assert [finding.name for finding in report.findings] == [name]


def test_a_gradient_that_keeps_something_from_call_to_call_is_named():
    calls = []

    def accumulated(x):
        calls.append(x)
        return len(calls) * of_cubes(x)

    report = check_gradient(cubes, accumulated, C)
    assert report.verdict == Verdict.WRONG
    assert "stale" in report.findings[0].name
    assert "called twice with the same arguments" in report.reason


def test_a_tiny_difference_in_a_single_number_is_not_called_a_factor():
    report = check_gradient(lambda t: jnp.tanh(t), lambda t: (1 - np.tanh(t) ** 2) + 1e-8, 0.7)
    assert report.verdict == Verdict.WRONG
    assert "scaled" not in report.diagnosis
    assert "times" not in report.diagnosis


def test_a_flag_among_the_arguments_does_not_keep_the_line_from_being_named():
    def f(x, mode, w):
        h = jnp.tanh(x * w)
        return jnp.sum(h**2) if mode == "square" else jnp.sum(h)

    def claimed(x, mode, w):
        return 2 * np.tanh(x * w) * np.asarray(w)

    report = check_gradient(f, claimed, np.linspace(0.1, 1, 6), "square", np.linspace(1, 2, 6))
    assert report.findings[0].source.strip() == "h = jnp.tanh(x * w)"
