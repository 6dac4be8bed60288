"""Planted mistakes: the engine names the line and what was done there, or the place alone."""

import inspect
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nnjax.gradcheck.terms import explain_residual


@pytest.fixture(autouse=True)
def as_people_write_it():
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


def found(f, claim, *shapes, wrt=None, seeds=3):
    """Return what is found of a claimed gradient, at random points."""
    points = []
    numbers = tuple(range(len(shapes) if wrt is None else wrt))
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        args = tuple(rng.normal(size=shape) for shape in shapes)
        right = [np.asarray(g) for g in jax.grad(f, numbers)(*args)]
        points.append(
            SimpleNamespace(
                args=args,
                claimed_arrays=[np.asarray(g) for g in claim(*args)],
                expected=right,
                noise=[np.full(g.shape, 1e-16 * np.abs(g).max()) for g in right],
                names=[f"argument {i}" for i in numbers],
            )
        )
    return explain_residual(f, points, numbers)


def check(finding, f, name, text):
    assert name in finding.name
    assert text in finding.source
    lines, first = inspect.getsourcelines(f)
    assert text in lines[finding.line - first]
    assert finding.file == __file__


def affine(x, w, b):
    z = x @ w
    z = z + b
    h = jnp.tanh(z)
    return jnp.mean(h**2)


def affine_claim(mistake):
    def claim(x, w, b):
        z = x @ w + b
        h = np.tanh(z)
        dh = (1 if mistake == "square" else 2) * h / (1 if mistake == "sum" else h.size)
        d = dh * {"missing": 1, "twice": (1 - h**2) ** 2, "other": h * (1 - h)}.get(
            mistake, 1 - h**2
        )
        d = -d if mistake == "sign" else d
        dw = (z.T if mistake == "partner" else x.T) @ d
        db = d[0] if mistake == "first" else d.sum(0)
        dw = 0 * dw if mistake == "left out" else dw
        return d @ (w if mistake == "not transposed" else w.T), dw, db

    return claim


@pytest.mark.parametrize(
    ("mistake", "name", "text"),
    [
        ("sum", "sum for mean", "return jnp.mean"),
        ("missing", "derivative missing", "h = jnp.tanh"),
        ("twice", "derivative applied twice", "h = jnp.tanh"),
        ("other", "another function's derivative", "h = jnp.tanh"),
        ("square", "factor 1/2", "return jnp.mean"),
        ("partner", "wrong partner in the product", "z = x @ w"),
        ("first", "first copy only", "z = z + b"),
        ("left out", "left out", "z = x @ w"),
        ("not transposed", "not transposed", "z = x @ w"),
    ],
)
def test_a_mistake_in_one_operation(mistake, name, text):
    (finding,) = found(affine, affine_claim(mistake), (4, 3), (3, 3), (3,))
    check(finding, affine, name, text)


def test_a_right_gradient_has_no_findings():
    assert found(affine, affine_claim("none"), (4, 3), (3, 3), (3,)) == ()


def loop(w, h, x):
    total = 0.0
    for t in range(4):
        a = w @ h + x[t]
        h = jnp.tanh(a)
        total = total + jnp.sum(h**2)
    return total


def scan(w, h, x):
    def step(h, row):
        a = w @ h + row
        h = jnp.tanh(a)
        return h, jnp.sum(h**2)

    return jnp.sum(jax.lax.scan(step, h, x)[1])


def loop_claim(mistake):
    def claim(w, h, x):
        hs = [h]
        for row in x:
            hs.append(np.tanh(w @ hs[-1] + row))
        dw, dnext = np.zeros_like(w), np.zeros_like(h)
        for t in reversed(range(4)):
            dh = 2 * hs[t + 1] + (0 if mistake == "carry" else dnext)
            da = dh * (1 - hs[t if mistake == "earlier" else t + 1] ** 2)
            dw = dw + np.outer(da, hs[t + 1 if mistake == "later" else t])
            dnext = w.T @ (dh if mistake == "branch" else da)
        return dw, dnext

    return claim


@pytest.mark.parametrize("f", [loop, scan])
@pytest.mark.parametrize(
    ("mistake", "name", "text"),
    [
        ("carry", "carry dropped", "a = w @ h"),
        ("later", "one step off", "a = w @ h"),
        ("branch", "derivative missing", "a = w @ h"),
    ],
)
def test_a_mistake_in_every_step_is_one_finding(f, mistake, name, text):
    (finding, *more) = found(f, loop_claim(mistake), (3, 3), (3,), (4, 3), wrt=2)
    assert not more
    check(finding, f, name, text)


def standardized(x, gamma):
    mean = jnp.mean(x, axis=0)
    centred = x - mean
    var = jnp.mean(centred**2, axis=0)
    normed = centred / jnp.sqrt(var + 1e-3)
    return jnp.sum(jnp.sin(normed * gamma))


def standardized_claim(mistake):
    def claim(x, gamma):
        n = len(x)
        std = np.sqrt(x.var(0) + 1e-3)
        normed = (x - x.mean(0)) / std
        d = np.cos(normed * gamma)
        dgamma = (d * (x if "gamma" in mistake else normed)).sum(0)
        d = d * gamma
        mean, var = d.sum(0), normed * (d * normed).sum(0)
        if "frozen" in mistake:
            mean = var = 0
        if "var" in mistake:
            var = 0
        if "sum" in mistake:
            mean = n * mean
        return (n * d - mean - var) / (n * std), dgamma

    return claim


@pytest.mark.parametrize(
    ("mistakes", "expected"),
    [
        (["frozen"], [("left out", "mean ="), ("left out", "var =")]),
        (["gamma", "var"], [("wrong partner", "return"), ("left out", "var =")]),
        (["sum", "var"], [("sum for mean", "mean ="), ("left out", "var =")]),
    ],
    ids=str,
)
def test_two_mistakes_at_once(mistakes, expected):
    findings = found(standardized, standardized_claim(mistakes), (5, 3), (3,))
    assert len(findings) == 2
    for name, text in expected:
        assert any(name in finding.name and text in finding.source for finding in findings)


def test_what_has_no_name_is_told_by_its_place():
    def claim(x, w, b):
        h = np.tanh(x @ w + b)
        d = (2 * h / h.size + 0.1 * np.cos(7 * x @ w)) * (1 - h**2)
        return d @ w.T, x.T @ d, d.sum(0)

    (finding,) = found(affine, claim, (6, 3), (3, 2), (2,))
    assert finding.name == "place only"
    assert 0 < finding.residual < 1e-6  # measured, not left at 0
    assert "everything after it is right" in finding.sentence
    assert "directions explain all" in finding.evidence
    assert finding.factor is None


def test_a_softmax_without_its_sum():
    def f(z):
        e = jnp.exp(z - jnp.max(z))
        p = e / jnp.sum(e)
        return jnp.sum(p**2)

    def claim(z):
        p = np.exp(z) / np.exp(z).sum()
        return (2 * p**2,)

    (finding,) = found(f, claim, (5,))
    check(finding, f, "left out", "p = e / jnp.sum(e)")


def test_a_scalar_argument_and_one_of_python():
    def f(x, scale):
        return jnp.sum(scale * jnp.exp(x))

    (finding,) = found(f, lambda x, s: (s * np.exp(x), -np.exp(x).sum()), (3,), ())
    check(finding, f, "sign", "return")
    assert finding.leaves == ("argument 1",)


def clipped(g, c=1.5):
    return np.clip(g, -c, c)


def test_clipped_entries_do_not_hide_another_mistake():
    def claim(x, w, b):
        return tuple(clipped(10 * g) for g in affine_claim("not transposed")(x, w, b))

    def f(x, w, b):
        return 10 * affine(x, w, b)

    one, two = found(f, claim, (4, 3), (3, 3), (3,))
    check(one, affine, "not transposed", "z = x @ w")
    assert (two.name, round(two.factor, 9)) == ("clipped", 1.5)


def test_one_array_is_scaled_to_a_length_of_its_own():
    def claim(x, w, b):
        dx, dw, db = affine_claim("none")(x, w, b)
        return dx, 3 * dw / np.linalg.norm(dw), db

    (finding,) = found(affine, claim, (4, 3), (3, 3), (3,))
    assert (finding.name, finding.leaves) == ("normalised", ("argument 1",))
    assert "length 3" in finding.sentence


def test_the_gradient_of_log_f():
    def claim(x, w, b):
        return tuple(g / affine(x, w, b) for g in affine_claim("none")(x, w, b))

    (finding,) = found(affine, claim, (4, 3), (3, 3), (3,))
    check(finding, affine, "gradient of log f", "return jnp.mean")


def test_what_is_left_out_of_a_squared_difference():
    def f(w, x, y):
        error = x @ w - y
        return jnp.sum(error**2)

    (finding,) = found(f, lambda w, x, y: (2 * x.T @ (x @ w),), (3,), (5, 3), (5,), wrt=1)
    check(finding, f, "left out", "error = x @ w - y")


def test_the_error_of_a_later_variable_is_taken_for_the_gradient():
    def f(x):
        t = x - 0.5
        return jnp.sum(jnp.sin(t**3))

    def claim(x):
        return (np.cos((x - 0.5) ** 3),)  # not times 3 t²

    (finding,) = found(f, claim, (5,))
    assert "derivative missing" in finding.name


def test_weights_that_are_updated_before_they_are_used():
    def f(w, v, x):
        a = jnp.tanh(w @ x)
        z = v @ a
        return jnp.sum(jnp.sin(z))

    def claim(w, v, x):
        a = np.tanh(w @ x)
        d = np.cos(v @ a)
        dv = np.outer(d, a)
        return np.outer((v - 0.1 * dv).T @ d * (1 - a**2), x), dv

    (finding,) = found(f, claim, (4, 3), (5, 4), (3,), wrt=2)
    check(finding, f, "wrong partner in the product (updated)", "z = v @ a")
    assert abs(finding.factor - 0.1) < 1e-9


def test_copies_of_copies_of_which_one_counts():
    def f(x, g):
        big = jnp.repeat(jnp.repeat(x, 2, axis=0), 2, axis=1)
        return jnp.sum(g * big)

    (finding,) = found(f, lambda x, g: (g[::2, ::2],), (2, 3), (4, 6), wrt=1)
    check(finding, f, "first copy only", "big = jnp.repeat")


def test_a_mean_over_a_mask():
    mask = np.array([1.0, 0, 1, 1, 0, 1, 0])

    def f(w, x):
        error = (x @ w) * mask
        return jnp.sum(error**2) / jnp.sum(mask)

    (finding,) = found(f, lambda w, x: (2 * x.T @ (x @ w * mask) / 7,), (3,), (7, 3), wrt=1)
    check(finding, f, "factor", "return jnp.sum")
    assert "4" in finding.sentence
    assert "7" in finding.sentence


def test_one_line_may_take_fewer_operands_in_each_turn():
    def shrinking(w, x):
        rows, total = list(x), 0.0
        while len(rows) > 1:
            total += jnp.sum(jnp.tanh(w * jnp.concatenate(rows)) ** 2)
            rows.pop()
        return total

    def claim(w, x):
        return [sum((2 * np.tanh(w * x[:n]) * x[:n]).sum() for n in (3, 2))]

    (finding,) = found(shrinking, claim, (), (3, 2), wrt=1)
    check(finding, shrinking, "derivative missing", "jnp.tanh(w * jnp.concatenate(rows))")


def test_random_keys_may_be_split_on_the_way():
    def dropped(w):
        keys = jax.random.split(jax.random.key(0))
        kept = jax.random.bernoulli(keys[0], 0.5, w.shape)
        return jnp.sum(jnp.tanh(jnp.where(kept, w, 0.0)) ** 2)

    def claim(w):
        kept = np.asarray(jax.grad(dropped)(w)) != 0
        return [2 * np.tanh(w) * kept]

    (finding,) = found(dropped, claim, (8,))
    check(finding, dropped, "derivative missing", "jnp.tanh(jnp.where")
