"""check_gradient, check_vjp, assert_gradient: verdicts, and sentences for what goes wrong."""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnjax
from nnjax.gradcheck import GradientError, Verdict, assert_gradient, check_gradient, check_vjp

X = jax.random.normal(jax.random.key(1), (6, 4))
W = {"a": jax.random.normal(jax.random.key(0), (4,)), "b": jnp.array(0.3)}


def f(w, x):
    return jnp.mean(jnp.tanh(x @ w["a"] + w["b"]))


def right(w, x):
    """∂f/∂w by hand, in NumPy."""
    x = np.asarray(x)
    slope = 1 - np.tanh(x @ np.asarray(w["a"]) + float(w["b"])) ** 2
    return {"a": (slope[:, None] * x).mean(0), "b": slope.mean()}


def but(change):
    """Return the right gradient, changed."""
    return lambda w, x: change(right(w, x), w, np.asarray(x))


def test_a_right_gradient_is_right_whatever_precision_the_caller_has():
    report = check_gradient(f, right, W, X)
    assert report.verdict == Verdict.RIGHT
    assert report.ok
    assert report.diagnosis == ""
    assert [leaf.path for leaf in report.leaves] == ["w['a']", "w['b']"]
    assert all(leaf.relative_error < 1e-14 for leaf in report.leaves)
    report.raise_if_wrong()
    with jax.enable_x64(True):
        assert check_gradient(f, right, W, X).ok


MISTAKES = {
    "sign": lambda g, w, x: {k: -v for k, v in g.items()},
    "factor 2": lambda g, w, x: {k: 2 * v for k, v in g.items()},
    "factor ½": lambda g, w, x: {k: v / 2 for k, v in g.items()},
    "sum for mean": lambda g, w, x: {k: len(x) * v for k, v in g.items()},
    "mean twice": lambda g, w, x: {k: v / len(x) for k, v in g.items()},
    "scaled": lambda g, w, x: {**g, "a": 1.7 * g["a"]},
    "left out": lambda g, w, x: {**g, "b": 0.0},
    "not returned": lambda g, w, x: {**g, "b": None},
    "L2 term added": lambda g, w, x: {**g, "a": g["a"] + 0.1 * np.asarray(w["a"])},
    "L1 term added": lambda g, w, x: {**g, "a": g["a"] + 0.1 * np.sign(w["a"])},
    "a constant added": lambda g, w, x: {**g, "a": g["a"] + 0.25},
    "a term |p| missing": lambda g, w, x: {**g, "a": g["a"] - 0.1 * np.abs(w["a"])},
    "rows in reverse": lambda g, w, x: {**g, "a": g["a"][::-1]},
    "rows shifted by one": lambda g, w, x: {**g, "a": np.roll(g["a"], -1)},
    "permuted": lambda g, w, x: {**g, "a": g["a"][[2, 0, 3, 1]]},
    "the absolute value": lambda g, w, x: {**g, "a": np.abs(g["a"])},
    "another shape": lambda g, w, x: {**g, "a": g["a"][:, None]},
    "first example only": lambda g, w, x: right(w, x[:1]),
    "first example only, over n": lambda g, w, x: {
        k: v / len(x) for k, v in right(w, x[:1]).items()
    },
    "last example only": lambda g, w, x: right(w, x[-1:]),
    "last example left out": lambda g, w, x: {
        k: v * (len(x) - 1) / len(x) for k, v in right(w, x[:-1]).items()
    },
    "not summed over the batch": lambda g, w, x: {
        k: np.stack([right(w, row[None])[k] for row in x]) for k in g
    },
}


@pytest.mark.parametrize("name", MISTAKES)
def test_general_mistakes_are_named(name):
    report = check_gradient(f, but(MISTAKES[name]), W, X)
    convention = name == "sum for mean"  # right for a sum, which f is not
    assert report.verdict == (Verdict.ANOTHER_CONVENTION if convention else Verdict.WRONG)
    assert not report.ok
    assert report.mistakes[0].name.startswith(name)
    assert name in report.diagnosis
    assert name in str(report)
    assert len(report.mistakes) == 1


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("transposed gradient", lambda g: g.T),
        ("flattened in another order", lambda g: g.ravel("F").reshape(g.shape)),
        ("columns in reverse", lambda g: g[:, ::-1]),
        ("summed over the last axis", lambda g: g.sum(1)),
        ("summed over the first axis", lambda g: g.sum(0)),
        ("rows shifted by one, the other way", lambda g: np.roll(g, 1, 0)),
    ],
)
def test_mistakes_in_the_order_of_a_matrix_are_named(name, change):
    m = jax.random.normal(jax.random.key(2), (3, 5))
    report = check_gradient(lambda m: jnp.sum(jnp.sin(m)), lambda m: change(np.cos(m)), m)
    assert [finding.name for finding in report.mistakes] == [name]


def test_interchanged_arrays_are_named():
    def g(one, two):
        return jnp.sum(jnp.sin(one)) + jnp.sum(two**3)

    args = jnp.array([0.1, 0.7]), jnp.array([1.0, -2.0])
    report = check_gradient(g, lambda one, two: (3 * two**2, jnp.cos(one)), *args, argnums=(0, 1))
    assert [finding.name for finding in report.mistakes] == ["arrays interchanged"]


def test_a_missing_penalty_is_told_by_its_sign():
    def penalised(w, x):
        return f(w, x) + 0.05 * jnp.sum(w["a"] ** 2)

    report = check_gradient(penalised, right, W, X)
    (finding,) = report.mistakes
    assert finding.name == "L2 term missing (left out)"
    assert finding.factor == pytest.approx(-0.1)
    assert "− 0.1 · w['a']" in finding.have


@pytest.mark.parametrize("entry", range(4))
@pytest.mark.parametrize("size", [1e-6, -1e-6])
def test_a_millionth_in_a_single_entry_is_caught(entry, size):
    def change(g, w, x):
        g["a"][entry] *= 1 + size
        return g

    report = check_gradient(f, but(change), W, X)
    assert report.verdict == Verdict.WRONG
    assert not [one for one in report.findings if "place only" not in one.name]
    leaf = report.leaves[0]
    assert (leaf.verdict, leaf.index, leaf.wrong_entries) == ("wrong", (entry,), 1)
    assert f"in the single entry [{entry}]" in report.reason


def test_a_millionth_in_one_small_entry_of_a_large_array_is_caught():
    x = jnp.linspace(0.1, 3.0, 10_000)
    scale = jnp.ones(10_000).at[77].set(1e-6)

    def wrong(x):
        return np.asarray(scale * jnp.cos(x)) * np.where(np.arange(10_000) == 77, 1 + 1e-6, 1)

    assert not check_gradient(lambda x: jnp.sum(scale * jnp.sin(x)), wrong, x).ok


@pytest.mark.parametrize(
    ("sentence", "claimed"),
    [
        ("has another structure at the top: keys", lambda w, x: {"a": w["a"]}),
        ("has another structure at the top: a tuple of 2", lambda w, x: (w["a"], w["b"])),
        ("has another structure at the top: None", lambda w, x: None),
        ("raises ZeroDivisionError: division by zero", lambda w, x: 1 / 0),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_sentence(sentence, claimed):
    report = check_gradient(f, claimed, W, X)
    assert report.verdict == Verdict.WRONG
    assert sentence in report.reason
    assert "\n" not in report.reason
    assert report.diagnosis == report.reason


@pytest.mark.parametrize(
    ("trouble", "leaf"),
    [
        ("shape (2,)", np.ones(2)),
        ("NaN", np.array([1.0, np.nan, 1.0, 1.0])),
        ("infinite", np.array([1.0, np.inf, 1.0, 1.0])),
        ("dtype int64", np.arange(4)),
        ("None", None),
        ("is a str, which is not an array of numbers", "many"),
        ("is complex; gradients of real losses are real", np.ones(4) * 1j),
    ],
)
def test_troubles_with_one_array_are_told_apart(trouble, leaf):
    report = check_gradient(f, but(lambda g, w, x: {**g, "a": leaf}), W, X)
    assert report.leaves[0].verdict == trouble
    assert report.leaves[1].verdict == "right"
    assert not report.ok


def test_a_gradient_that_is_not_deterministic_is_told():
    rng = np.random.default_rng()
    noisy = but(lambda g, w, x: {**g, "a": g["a"] + rng.normal(size=4)})
    report = check_gradient(f, noisy, W, X)
    assert (
        "not deterministic: called twice with the same arguments, w['a'] differs" in report.reason
    )


def test_functions_that_print_mutate_or_are_slow_are_handled(capsys):
    def talkative(w, x):
        print("here\nand here")
        out = right(w, x)
        if isinstance(x, np.ndarray):
            x[...] = 0
        return out

    report = check_gradient(f, talkative, W, X)
    assert report.ok
    assert capsys.readouterr().out == ""
    assert any("prints" in remark for remark in report.remarks)

    def asleep(w, x):
        time.sleep(30)

    started = time.monotonic()
    report = check_gradient(f, asleep, W, X, time_limit=0.2)
    assert time.monotonic() - started < 20
    assert report.verdict == Verdict.INCONCLUSIVE
    assert "did not return within 0.2 s" in report.reason


def test_torch_gradients_are_read():
    torch = pytest.importorskip("torch")

    def by_torch(x):
        t = torch.tensor(np.asarray(x), requires_grad=True)
        (t**3).sum().backward()
        return t.grad

    assert check_gradient(lambda x: jnp.sum(x**3), by_torch, jnp.array([1.0, -2.0, 0.5])).ok


def test_lists_and_tuples_stand_for_each_other():
    w = (jnp.array([1.0, 2.0]), jnp.array(3.0))
    report = check_gradient(
        lambda w: jnp.sum(w[0] ** 2) + w[1] ** 2, lambda w: [2 * w[0], 2 * w[1]], w
    )
    assert report.ok


# Kinks, precision, and a reference in doubt.


def kinked(x):
    return jnp.sum(jnp.maximum(x, 0) * jnp.arange(1.0, 4.0))


AT_KINK = jnp.array([0.0, 1.0, -1.0])


@pytest.mark.parametrize("at_zero", [0.0, 0.25, 1.0])
def test_another_choice_at_a_kink_is_a_convention(at_zero):
    def claimed(x):
        slope = np.where(np.asarray(x) > 0, 1.0, np.where(np.asarray(x) == 0, at_zero, 0.0))
        return slope * np.arange(1.0, 4.0)

    report = check_gradient(kinked, claimed, AT_KINK)
    assert report.verdict == Verdict.CONVENTION
    assert report.ok
    assert "only at a kink or a tie" in report.reason


def test_ties_are_a_convention_and_nonsense_at_a_kink_is_not():
    tied = jnp.array([2.0, 2.0, 1.0])
    to_first = check_gradient(jnp.max, lambda x: np.eye(3)[np.argmax(x)], tied)
    assert to_first.verdict == Verdict.CONVENTION
    far_off = check_gradient(
        kinked,
        lambda x: np.where(np.asarray(x) == 0, 40.0, (np.asarray(x) > 0) * np.arange(1.0, 4.0)),
        AT_KINK,
    )
    assert far_off.verdict == Verdict.WRONG


def test_a_wrong_branch_is_wrong_even_where_there_is_a_kink():
    inverted = check_gradient(kinked, lambda x: (x <= 0) * jnp.arange(1.0, 4.0), AT_KINK)
    assert inverted.verdict == Verdict.WRONG


def test_float32_is_inconclusive_when_it_agrees_and_wrong_when_it_does_not():
    single = but(lambda g, w, x: {k: np.asarray(v, np.float32) for k, v in g.items()})
    report = check_gradient(f, single, W, X)
    assert report.verdict == Verdict.INCONCLUSIVE
    assert not report.ok
    assert "as far as float32 reaches" in report.reason
    off = but(lambda g, w, x: {k: np.asarray(1.01 * v, np.float32) for k, v in g.items()})
    assert check_gradient(f, off, W, X).verdict == Verdict.WRONG


def test_a_gradient_by_differences_is_inconclusive():
    def numeric(x):
        x = np.asarray(x)
        steps = 1e-6 * np.eye(len(x))
        return np.array([(np.sin(x + h).sum() - np.sin(x - h).sum()) / 2e-6 for h in steps])

    report = check_gradient(lambda x: jnp.sum(jnp.sin(x)), numeric, jnp.array([0.3, 1.1, 2.0]))
    assert report.verdict == Verdict.INCONCLUSIVE
    assert "own rounding" in report.reason


def test_autodiff_that_differences_contradict_is_suspect():
    def stopped(x):
        return jnp.sum(x * jax.lax.stop_gradient(x))

    x = jnp.array([0.5, 1.0, -1.5])
    # With stop_gradient it is autodiff that is meant, and both claims are told apart.
    assert check_gradient(stopped, lambda x: x, x).verdict == Verdict.RIGHT
    ignored = check_gradient(stopped, lambda x: 2 * x, x)
    assert ignored.verdict == Verdict.WRONG
    assert "contains stop_gradient, so that finite differences do not apply" in ignored.reason

    def through_integers(x):  # which autodiff takes for constant
        bits = jax.lax.bitcast_convert_type(x, jnp.int64)
        return jnp.sum(x * jax.lax.bitcast_convert_type(bits, jnp.float64))

    agrees = check_gradient(through_integers, lambda x: 2 * x, x)
    assert agrees.verdict == Verdict.REFERENCE_SUSPECT
    assert not agrees.ok
    assert "which the claim agrees with" in agrees.reason
    nan = check_gradient(lambda x: jnp.sum(jnp.sqrt(x**2)), jnp.sign, jnp.array([0.0, 1.0]))
    assert nan.verdict == Verdict.REFERENCE_SUSPECT
    assert "Look for a norm or sqrt at 0" in nan.reason


def test_saturated_sigmoids_are_no_mistake():
    # a(1 − a) is 0 where σ(z) σ(−z) is 1e-18: rounding, not an error.
    z = jnp.array([-800.0, -40.0, -36.0, 20.0, 36.0, 37.0, 40.0, 800.0])

    def stable(z):
        return jax.nn.sigmoid(z) * jax.nn.sigmoid(-z)

    assert check_gradient(lambda z: jnp.sum(jax.nn.sigmoid(z)), stable, z).verdict == Verdict.RIGHT


@pytest.mark.parametrize("scale", [1e-12, 1e12, 1e-200])
def test_tiny_and_huge_gradients(scale):
    x = jnp.linspace(0.1, 3, 20)
    assert check_gradient(lambda x: scale * jnp.sum(jnp.sin(x)), lambda x: scale * jnp.cos(x), x).ok
    wrong = check_gradient(lambda x: scale * jnp.sum(jnp.sin(x)), lambda x: -scale * jnp.cos(x), x)
    assert [finding.name for finding in wrong.mistakes] == ["sign"]


def test_a_sum_that_cancels_is_no_mistake():
    # Every entry of the gradient is 0 but for rounding.
    x = jax.random.normal(jax.random.key(0), (50,))
    report = check_gradient(
        lambda x: jnp.sum(jax.nn.softmax(x)), lambda x: 1e-17 * np.cos(np.asarray(x)), x
    )
    assert report.ok


def test_python_may_look_at_values():
    def branching(x):
        return jnp.sum(x**2) if x[0] > 0 else jnp.sum(x**3)

    def claimed(x):
        return 2 * x if x[0] > 0 else 3 * x**2

    assert check_gradient(branching, claimed, jnp.array([1.0, -2.0])).ok
    assert not check_gradient(branching, lambda x: 2 * x, jnp.array([-1.0, -2.0])).ok


# Pull-backs.


def softmax_pull_back(z, g):
    a = jax.nn.softmax(z)
    return a * (g - jnp.vdot(g, a))


Z = jnp.array([0.3, -1.2, 2.0])


def test_a_pull_back_is_held_against_random_weights():
    assert check_vjp(jax.nn.softmax, softmax_pull_back, Z).ok
    # The sum of the outputs of a softmax is constant: a plain sum would let this pass.
    assert not check_vjp(jax.nn.softmax, lambda z, g: jnp.zeros_like(z), Z).ok


@pytest.mark.parametrize(
    ("name", "pull_back"),
    [
        ("the Jacobian not transposed", lambda m, x, g: m @ g),
        ("the diagonal of the Jacobian only", lambda m, x, g: jnp.diag(m) * g),
        ("the output weights ignored", lambda m, x, g: m.T @ jnp.ones(3)),
        ("the Jacobian applied twice", lambda m, x, g: m.T @ (m.T @ g)),
        ("the Jacobian missing", lambda m, x, g: g),
        ("sign", lambda m, x, g: -m.T @ g),
    ],
)
def test_mistakes_in_a_pull_back_are_named(name, pull_back):
    m = jax.random.normal(jax.random.key(0), (3, 3))
    m64 = np.asarray(m, np.float64)
    report = check_vjp(lambda x: jnp.asarray(m64) @ x, lambda x, g: pull_back(m64, x, g), Z)
    assert [finding.name for finding in report.mistakes] == [name]


def test_pull_backs_in_every_form():
    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))
    assert check_vjp(square, None, Z).ok
    assert check_vjp(lambda x: x**2, square, Z).ok
    assert check_vjp(lambda x: x**2, lambda x: (x**2, lambda g: 2 * x * g), Z).ok
    assert check_vjp(lambda x: x**2, lambda x, g: (2 * x * g,), Z).ok
    assert check_vjp(lambda x: x**2, lambda x: np.diag(2 * x), Z).ok
    assert check_vjp(lambda x: x**2, lambda x: (x**2, np.diag(2 * x)), Z).ok
    assert check_gradient(lambda x: x**2, lambda x: np.diag(2 * x), Z).ok
    assert not check_gradient(lambda x: x**2, lambda x: np.diag(3 * x), Z).ok
    named = check_vjp(lambda x, y: x * y, lambda x, y, g: {"dy": g * x, "dx": g * y}, Z, Z + 1)
    assert named.ok
    two = check_vjp(lambda x, y: x * y, lambda x, y, g: (g * y, g * x), Z, Z + 1)
    assert two.ok
    assert [leaf.path for leaf in two.leaves] == ["x", "y"]

    @jax.custom_vjp
    def wrong(x):
        return x**2

    wrong.defvjp(lambda x: (x**2, x), lambda x, g: (x * g,))
    assert [finding.name for finding in check_vjp(wrong, None, Z).mistakes] == ["factor ½"]


def test_activations_of_nnjax_pull_back():
    for activation in (nnjax.sigmoid, nnjax.tanh, nnjax.softmax, nnjax.Softmax(2.0), nnjax.relu):
        assert check_vjp(activation, lambda z, g, s=activation: s.pull_back(z, s(z), g), Z).ok, (
            activation
        )


# Arguments that are wrong.


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (
            TypeError,
            r"returns an array of shape \(3,\); a gradient needs a real scalar: return the "
            "sum, or use check_vjp",
            lambda: check_gradient(jnp.sin, jnp.cos, Z),
        ),
        (
            TypeError,
            "returns a scalar of dtype int32",
            lambda: check_gradient(lambda x: jnp.argmax(x).astype(jnp.int32), jnp.cos, Z),
        ),
        (
            TypeError,
            r"argument 0 has dtype int32; a gradient needs floating-point",
            lambda: check_gradient(jnp.sum, jnp.ones_like, jnp.arange(3)),
        ),
        (
            ValueError,
            "argnums is 2, but there are 1 example arguments",
            lambda: check_gradient(jnp.sum, jnp.ones_like, Z, argnums=2),
        ),
        (
            TypeError,
            r"cannot be evaluated at the example arguments: it raises ZeroDivisionError: division "
            r"by zero \(test_check.py, line \d+: lambda: check_gradient",
            lambda: check_gradient(lambda x: 1 / 0, jnp.ones_like, Z),
        ),
        (TypeError, "vjp is None; expected vjp", lambda: check_vjp(jnp.sin, None, Z)),
        (TypeError, "expected a function vjp", lambda: check_vjp(jnp.sin, Z)),
        (
            TypeError,
            "none of the 1 arguments holds floating-point numbers",
            lambda: check_vjp(jnp.sin, lambda x, g: g, jnp.arange(3)),
        ),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(error, match, call):
    with pytest.raises(error, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_assert_gradient_fails_with_the_report():
    assert_gradient(f, right, W, X)
    with pytest.raises(GradientError, match="the sign is flipped") as caught:
        assert_gradient(f, but(MISTAKES["sign"]), W, X)
    assert isinstance(caught.value, AssertionError)
    assert caught.value.report.mistakes[0].name == "sign"


def test_the_report_for_machines():
    report = check_gradient(f, but(lambda g, w, x: {**g, "b": None}), W, X)
    data = json.loads(report.to_json())
    assert data["verdict"] == "WRONG"
    assert data["ok"] is False
    assert data["leaves"][1]["cosine"] is None
    assert data["findings"][0]["name"] == "not returned (None)"
    assert "\x1b[" not in str(report)
    assert "\x1b[" in report.render(color=True)


def test_a_small_constant_that_keeps_f_finite_may_be_left_out_of_its_gradient():
    x = np.array([[0.3, -1.2, 2.0], [1.1, 0.4, -0.5]])

    def f(x):
        p = jax.nn.softmax(x)
        return -jnp.sum(jnp.log(p[:, 0] + 1e-7))

    def grad(x):
        return jax.nn.softmax(x) - np.eye(3)[[0, 0]]

    report = check_gradient(f, grad, x)
    assert report.ok
    assert report.verdict == "RIGHT BY ANOTHER CONVENTION"
    assert "right for the function without the 1e-07" in report.reason
    assert "1e-7" in report.findings[0].source
    assert check_gradient(f, lambda x: grad(x) + 1e-6, x).verdict == "WRONG"
