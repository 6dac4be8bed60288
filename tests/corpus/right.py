"""Right gradients of awkward kinds: what a checker must not call wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import CASES

__all__ = ["KINDS", "Right", "right_gradients"]


@dataclass(frozen=True)
class Right:
    """A function, its gradient with respect to `argnums`, and the arguments to check it at."""

    name: str
    f: Callable
    gradient: Callable
    args: tuple[Any, ...]
    argnums: int | tuple[int, ...] = 0


def right_gradients(count: int = 520) -> Iterator[Right]:
    """Yield that many right gradients, the kinds taking turns, with new numbers at every turn."""
    rng = np.random.default_rng(0)
    for i in range(count):
        kind = KINDS[i % len(KINDS)]
        yield kind(rng, i // len(KINDS))


def in_numpy(gradient):
    def call(*args):
        with np.errstate(all="ignore"):  # points may lie off the domain
            return gradient(*jax.tree.map(np.asarray, args))

    return call


def of_the_corpus(rng, turn):
    case = CASES[turn % len(CASES)]
    return Right(case.name, case.f, case.gradient(), case.args(100 + turn), case.argnums)


def scaled(rng, turn):
    # Values, arguments and gradient between 1e-8 and 1e8.
    case = CASES[(7 * turn + 3) % len(CASES)]
    scale = 10.0 ** rng.integers(-8, 9)

    def f(*args):
        return scale * case.f(*args)

    def gradient(*args):
        return jax.tree.map(lambda g: scale * g, case.gradient()(*args))

    return Right(f"{case.name} times {scale:g}", f, gradient, case.args(200 + turn), case.argnums)


def units(rng, turn):
    # Arguments in units that differ by sixteen powers of ten.
    unit = 10.0 ** rng.integers(-8, 9, 5)

    def f(x):
        z = x / unit
        return jnp.sum(jnp.sin(z) + z**2)

    def gradient(x):
        z = x / unit
        return (np.cos(z) + 2 * z) / unit

    return Right("units", f, in_numpy(gradient), (rng.normal(size=5) * unit,))


def relu_at_zero(rng, turn):
    slope = [0.0, 1.0, 0.5][turn % 3]

    def f(x):
        return jnp.sum(jnp.maximum(x, 0) * jnp.arange(1.0, 7))

    def gradient(x):
        return np.where(x == 0, slope, x > 0) * np.arange(1.0, 7)

    x = rng.normal(size=6)
    x[rng.integers(0, 6, 2)] = 0
    return Right(f"ReLU with slope {slope} at 0", f, in_numpy(gradient), (x,))


def absolute_at_zero(rng, turn):
    side = [0.0, 1.0, -1.0][turn % 3]

    def f(w):
        return jnp.sum(w**2) + 0.1 * jnp.sum(jnp.abs(w))

    def gradient(w):
        return 2 * w + 0.1 * np.where(w == 0, side, np.sign(w))

    return Right("L1 penalty at 0", f, in_numpy(gradient), (rng.integers(-1, 2, 6).astype(float),))


def first_of_ties(rng, turn):
    pick = [np.argmax, lambda x: len(x) - 1 - np.argmax(x[::-1])][turn % 2]

    def f(x):
        return jnp.max(x) ** 2 + jnp.sum(x)

    def gradient(x):
        return 2 * np.max(x) * np.eye(len(x))[pick(x)] + 1

    x = rng.normal(size=5)
    x[[1, 3]] = 2.5
    return Right("maximum with ties", f, in_numpy(gradient), (x,))


def pooled_ties(rng, turn):
    def f(x):
        return jnp.sum(jnp.max(x.reshape(3, 2), axis=1) ** 3)

    def gradient(x):
        blocks = x.reshape(3, 2)
        first = np.eye(2)[blocks.argmax(1)]
        return (3 * blocks.max(1)[:, None] ** 2 * first).reshape(6)

    return Right("pooling with ties", f, in_numpy(gradient), (rng.integers(1, 3, 6).astype(float),))


def hinge_at_the_corner(rng, turn):
    closed = turn % 2

    def f(w, x):
        return jnp.mean(jnp.maximum(1 - x @ w, 0))

    def gradient(w, x):
        z = 1 - x @ w
        active = z >= 0 if closed else z > 0
        return -x.T @ active / len(x)

    x = rng.integers(-1, 2, (4, 2)).astype(float)
    return Right("hinge at its corner", f, in_numpy(gradient), (np.array([1.0, 0.0]), x))


def clipped(rng, turn):
    def f(x):
        return jnp.sum(jnp.clip(x, -1, 1) ** 2 * jnp.arange(1.0, 6))

    def gradient(x):
        return 2 * x * (np.abs(x) < 1) * np.arange(1.0, 6)

    return Right("clip", f, in_numpy(gradient), (rng.normal(size=5) * 2,))


def sorted_sum(rng, turn):
    def f(x):
        return jnp.sum(jnp.sort(x) * jnp.arange(1.0, 6))

    def gradient(x):
        return np.arange(1.0, 6)[np.argsort(np.argsort(x))]

    return Right("sort", f, in_numpy(gradient), (rng.normal(size=5),))


def arccosine(rng, turn):
    def f(x):
        return jnp.sum(jnp.arccos(x))

    def gradient(x):
        return -1 / np.sqrt(1 - x**2)

    return Right("arccos", f, in_numpy(gradient), (rng.uniform(-0.95, 0.95, 3),))


def inverse_tanh(rng, turn):
    def f(x):
        return jnp.sum(jnp.arctanh(x) ** 2)

    def gradient(x):
        return 2 * np.arctanh(x) / (1 - x**2)

    return Right("arctanh", f, in_numpy(gradient), (rng.uniform(-0.97, 0.97, 4),))


def near_one(rng, turn):
    def f(p, y):
        return -jnp.mean(y * jnp.log(p) + (1 - y) * jnp.log(1 - p))

    def gradient(p, y):
        return (p - y) / (p * (1 - p)) / len(p)

    p, y = rng.uniform(0.02, 0.98, 5), rng.integers(0, 2, 5).astype(float)
    return Right("cross-entropy of probabilities", f, in_numpy(gradient), (p, y))


def logarithm(rng, turn):
    def f(x):
        return jnp.sum(x * jnp.log(x))

    def gradient(x):
        return np.log(x) + 1

    return Right("entropy", f, in_numpy(gradient), (10.0 ** rng.uniform(-8, 2, 5),))


def square_root(rng, turn):
    def f(x):
        return jnp.sum(jnp.sqrt(x - 1))

    def gradient(x):
        return 0.5 / np.sqrt(x - 1)

    return Right("root near its end", f, in_numpy(gradient), (1 + 10.0 ** rng.uniform(-3, 0, 4),))


def determinant(rng, turn):
    def f(S):
        return jnp.linalg.slogdet(S)[1]

    def gradient(S):
        return np.linalg.inv(S)

    return Right("slogdet, symmetric", f, in_numpy(gradient), (positive_definite(rng),))


def positive_definite(rng, n=3):
    a = rng.normal(size=(n, n))
    return a @ a.T + n * np.eye(n)


def smallest_eigenvalue(rng, turn):
    def f(S):
        return jnp.linalg.eigvalsh(S)[0]

    def gradient(S):
        v = np.linalg.eigh(S)[1][:, 0]
        return np.outer(v, v)

    return Right("eigenvalue, symmetric", f, in_numpy(gradient), (positive_definite(rng),))


def cholesky_logdet(rng, turn):
    def f(S):
        return 2 * jnp.sum(jnp.log(jnp.diag(jnp.linalg.cholesky(S))))

    def gradient(S):
        return np.linalg.inv(S)

    return Right("Cholesky, symmetric", f, in_numpy(gradient), (positive_definite(rng),))


def quadratic_form(rng, turn):
    def f(S, x):
        return x @ S @ x

    def gradient(S, x):
        return np.outer(x, x), 2 * S @ x

    args = positive_definite(rng), rng.normal(size=3)
    return Right("quadratic form, symmetric", f, in_numpy(gradient), args, (0, 1))


def single_inside(rng, turn):
    # float32 on the way, float64 again at the end.
    def f(W, x):
        return jnp.sum(jnp.tanh(x @ W) ** 2)

    def gradient(W, x):
        W, x = W.astype(np.float32), x.astype(np.float32)
        a = np.tanh(x @ W)
        return (x.T @ (2 * a * (1 - a**2))).astype(np.float64)

    args = rng.normal(size=(3, 2)), rng.normal(size=(5, 3))
    return Right("float32 inside", f, in_numpy(gradient), args)


def single_buffer(rng, turn):
    def f(W, x):
        return 0.5 * jnp.mean(jnp.sum((x @ W) ** 2, axis=1))

    def gradient(W, x):
        out = np.zeros(W.shape, "f")
        for row in x:
            out += np.outer(row, row @ W) / len(x)
        return out.astype(float)

    args = rng.normal(size=(3, 2)), rng.normal(size=(5, 3))
    return Right("a float32 buffer", f, in_numpy(gradient), args)


def single_returned(rng, turn):
    def f(x):
        return jnp.sum(jnp.exp(-(x**2)))

    def gradient(x):
        x = x.astype(np.float32)
        return -2 * x * np.exp(-(x**2))

    return Right("float32 returned", f, in_numpy(gradient), (rng.normal(size=5),))


def saturated(rng, turn):
    def f(w, x):
        return jnp.sum(jax.nn.sigmoid(x @ w)) + jnp.sum(jnp.tanh(w))

    def gradient(w, x):
        z = x @ w
        return x.T @ np.exp(-np.logaddexp(0, z) - np.logaddexp(0, -z)) + 1 / np.cosh(w) ** 2

    args = rng.normal(size=3) * 8, rng.normal(size=(4, 3)) * 4
    return Right("saturated", f, in_numpy(gradient), args)


def exactly_zero(rng, turn):
    # The bias before a batch norm: its gradient is rounding.
    def f(w, b, x):
        z = x @ w + b
        centred = z - jnp.mean(z, axis=0)
        return jnp.sum(centred**2)

    def gradient(w, b, x):
        z = x @ w
        return 2 * x.T @ (z - z.mean(0)), np.zeros_like(b)

    args = rng.normal(size=(3, 2)), rng.normal(size=2), rng.normal(size=(6, 3))
    return Right("bias before a batch norm", f, in_numpy(gradient), args, (0, 1))


def cancelling(rng, turn):
    def f(x):
        return jax.nn.logsumexp(x) - jnp.mean(x)

    def gradient(x):
        e = np.exp(x - x.max())
        return e / e.sum() - 1 / len(x)

    return Right("logsumexp less the mean", f, in_numpy(gradient), (rng.normal(size=6) * 10,))


def far_from_zero(rng, turn):
    def f(x):
        return jnp.sum((x - 1e6) ** 2)

    def gradient(x):
        return 2 * (x - 1e6)

    return Right("far from 0", f, in_numpy(gradient), (1e6 + rng.normal(size=4),))


def nested(rng, turn):
    def f(params, x):
        h = jnp.tanh(x @ params["w"] + params["b"])
        return jnp.mean(h @ params["v"])

    def gradient(params, x):
        h = np.tanh(x @ params["w"] + params["b"])
        dh = np.outer(np.ones(len(x)), params["v"]) / len(x)
        dz = dh * (1 - h**2)
        return {"v": h.mean(0), "w": x.T @ dz, "b": dz.sum(0)}

    params = {"w": rng.normal(size=(3, 2)), "b": rng.normal(size=2), "v": rng.normal(size=2)}
    return Right("a dict", f, in_numpy(gradient), (params, rng.normal(size=(4, 3))))


def number(rng, turn):
    def f(t):
        return jnp.sqrt(t**2 + 1e-8)

    def gradient(t):
        return t / np.sqrt(t**2 + 1e-8)

    return Right("one number", f, in_numpy(gradient), (float(rng.normal()),))


def where_branch(rng, turn):
    def f(x):
        return jnp.sum(jnp.where(jnp.abs(x) < 2, x**2, 4 * jnp.abs(x) - 4))

    def gradient(x):
        return np.where(np.abs(x) < 2, 2 * x, 4 * np.sign(x))

    return Right("two branches", f, in_numpy(gradient), (rng.normal(size=6) * 2,))


def normalised(rng, turn):
    def f(x, t):
        return jnp.sum(x / jnp.linalg.norm(x) * t)

    def gradient(x, t):
        length = np.linalg.norm(x)
        return t / length - x * (x @ t) / length**3

    x = rng.normal(size=4)
    return Right(
        "a unit vector", f, in_numpy(gradient), (x / np.linalg.norm(x), rng.normal(size=4))
    )


def sparse_labels(rng, turn):
    def f(z, labels):
        return -jnp.sum(jax.nn.log_softmax(z)[jnp.arange(len(labels)), labels])

    def gradient(z, labels):
        e = np.exp(z - z.max(1, keepdims=True))
        e /= e.sum(1, keepdims=True)
        e[np.arange(len(labels)), labels] -= 1
        return e

    args = rng.normal(size=(4, 3)) * 5, rng.integers(0, 3, 4)
    return Right("labels", f, in_numpy(gradient), args)


def many_steps(rng, turn):
    def f(x):
        for _ in range(30):
            x = x + 0.1 * jnp.sin(x)
        return jnp.sum(x)

    def gradient(x):
        slope = np.ones_like(x)
        for _ in range(30):
            slope = slope * (1 + 0.1 * np.cos(x))
            x = x + 0.1 * np.sin(x)
        return slope

    return Right("thirty steps", f, in_numpy(gradient), (rng.normal(size=3),))


def power(rng, turn):
    exponent = [2, 3, 0.5, -1, 1.5][turn % 5]

    def f(x):
        return jnp.sum(x**exponent)

    def gradient(x):
        return exponent * x ** (exponent - 1)

    return Right(f"power {exponent}", f, in_numpy(gradient), (rng.uniform(0.1, 3, 4),))


KINDS = (
    of_the_corpus,
    scaled,
    units,
    relu_at_zero,
    absolute_at_zero,
    first_of_ties,
    pooled_ties,
    hinge_at_the_corner,
    clipped,
    sorted_sum,
    of_the_corpus,
    arccosine,
    inverse_tanh,
    near_one,
    logarithm,
    square_root,
    determinant,
    smallest_eigenvalue,
    cholesky_logdet,
    quadratic_form,
    single_inside,
    single_buffer,
    single_returned,
    saturated,
    exactly_zero,
    scaled,
    cancelling,
    far_from_zero,
    nested,
    number,
    where_branch,
    normalised,
    sparse_labels,
    many_steps,
    power,
)
