"""trace_gradient: cotangents by source line, where NaN begins, and bounds."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nnjax.gradcheck import trace_gradient

W = 0.1 * np.random.default_rng(0).normal(size=(4, 4))
X = np.ones((20, 4))


def recurrent(w, x):
    h = jnp.zeros(4)
    for t in range(20):
        a = w @ h
        h = jnp.tanh(a + x[t])
    return jnp.sum(h)


def scanned(w, x):
    def body(h, now):
        h = jnp.tanh(w @ h + now)
        return h, None

    return jnp.sum(jax.lax.scan(body, jnp.zeros(4), x)[0])


@pytest.mark.parametrize(("f", "tanh"), [(recurrent, 4), (scanned, 2)])
def test_a_line_in_a_loop_is_one_row_with_all_its_visits(f, tanh):
    found = trace_gradient(f, W, X)
    assert found.ok
    first = f.__code__.co_firstlineno
    (line,) = (line for line in found.lines if line.line == first + tanh)
    assert line.file == __file__
    assert len(line.cotangents) == 20
    assert line.cotangents[0] < 1e-15 < line.cotangents[-1] == 1.0  # it vanishes
    assert line.variable == "h"


def test_the_sizes_are_those_of_autodiff():
    def f(x):
        y = jnp.exp(x)
        return jnp.sum(y**3)

    x = np.array([0.1, -0.4])
    found = trace_gradient(f, x)
    (line,) = (line for line in found.lines if line.variable == "y")
    assert line.values[0] == pytest.approx(np.exp(x).max(), rel=1e-14)
    assert line.cotangents[0] == pytest.approx(3 * np.exp(2 * x).max(), rel=1e-14)


def test_bounds():
    found = trace_gradient(recurrent, W, X, bounds=(1e-6, 10.0))
    assert not found.ok
    assert found.outside[0].variable == "h"
    assert "Cotangents leave 1e-06 to 10 first in line" in str(found)
    assert trace_gradient(recurrent, W, X, bounds=(0.0, 10.0)).ok


def safe(x):
    return jnp.where(x > 0, jnp.sqrt(x), 0.0)


@pytest.mark.parametrize(
    ("kind", "backward", "cause", "f", "x"),
    [
        ("NaN", True, "derivative of sqrt is not finite where its operand is 0", safe, [0.0, 4.0]),
        ("NaN", True, "0 · ∞ is NaN", safe, [0.0, 4.0]),
        ("infinity", True, "derivative of sqrt is not finite", jnp.sqrt, [0.0, 4.0]),
        ("infinity", False, "log of 0 is -inf", lambda x: jnp.log(x - 1), [2.0, 1.0]),
        ("NaN", False, "sqrt of -1 is nan (entry [1])", jnp.sqrt, [1.0, -1.0]),
        ("infinity", False, "exp of 800 is inf", jnp.exp, [800.0, 1.0]),
        ("infinity", False, "exp of 800 is inf", lambda x: jnp.exp(x) - jnp.exp(x), [800.0]),
        ("NaN", False, "x holds it already", jnp.sin, [np.nan]),
    ],
)
def test_the_first_value_that_is_not_finite_with_its_cause(kind, backward, cause, f, x):
    def g(x):
        return jnp.sum(f(x))

    found = trace_gradient(g, np.array(x))
    assert not found.ok
    assert (found.not_finite.kind, found.not_finite.backward) == (kind, backward)
    assert cause in found.not_finite.cause
    assert cause in str(found)
    if found.not_finite.file:
        assert found.not_finite.file == __file__
        assert f"line {found.not_finite.line}" in str(found)


def test_numpy_functions_and_machines():
    def f(x):
        e = np.exp(x)
        return -np.log(e[0] / e.sum())

    found = trace_gradient(f, np.array([1.0, 2.0]))
    assert [line.source for line in found.lines] == [
        "e = np.exp(x)",
        "return -np.log(e[0] / e.sum())",
    ]
    data = json.loads(trace_gradient(f, np.array([1000.0, 2.0])).to_json())
    assert data["not_finite"]["kind"] == "infinity"
    assert data["ok"] is False
    assert max(map(len, str(found).splitlines())) <= 80


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (
            TypeError,
            r"f returns an array of shape \(2,\)",
            lambda: trace_gradient(jnp.sin, np.ones(2)),
        ),
        (
            TypeError,
            "JAX cannot trace",
            lambda: trace_gradient(lambda x: sum(map(float, x)), np.ones(2)),
        ),
        (
            ValueError,
            r"bounds is \(1, 0\); expected \(low, high\)",
            lambda: trace_gradient(jnp.sum, np.ones(2), bounds=(1, 0)),
        ),
        (
            TypeError,
            "argument 0 has dtype int64",
            lambda: trace_gradient(jnp.sum, np.arange(2)),
        ),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(error, match, call):
    with pytest.raises(error, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)
