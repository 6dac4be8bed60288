"""Eight mistakes in the same gradient, and what each gradient checker says about them.

    python scripts/compare_checkers.py

prints a table in Markdown. The gradient is that of a small network (tanh, softmax, log-likelihood),
written once for JAX and for NumPy. Every checker is called with its own defaults, in the way of its
documentation; those that are not installed are left out: PyTorch, SciPy, Ceres (pyceres).
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from common import options, run

import nnjax

N, SIZE = 5, 4  # examples; every layer has as many neurons, so that w and wᵀ can be mixed up
NET = nnjax.mlp([SIZE] * 3, activation=nnjax.tanh, loss=nnjax.log_likelihood)
MISTAKES = [
    "none",
    "sign flipped",
    "sum for mean",
    "tanh' missing",
    "w not transposed",
    "b of layer 1 forgotten",
    "softmax's Jacobian twice",
    "first example only",
    "one entry off by 1e-6",
]


def loss(xp, params, x, y):
    """Return C of the network; `xp` is numpy or jax.numpy."""
    w1, b1, w2, b2 = params
    z = xp.tanh(x @ w1.T + b1) @ w2.T + b2
    return xp.mean(xp.log(xp.sum(xp.exp(z), axis=1)) - xp.sum(y * z, axis=1))


def gradient(xp, params, x, y, mistake):
    """Return ∂C/∂(w¹, b¹, w², b²) by hand, with a mistake."""
    w1, b1, w2, b2 = params
    if mistake == "first example only":
        x, y = x[:1], y[:1]
    n = 1 if mistake == "sum for mean" else len(x)
    a1 = xp.tanh(x @ w1.T + b1)
    e = xp.exp(a1 @ w2.T + b2)
    a2 = e / xp.sum(e, axis=1, keepdims=True)
    delta2 = a2 - y
    if mistake == "softmax's Jacobian twice":
        delta2 = a2 * (delta2 - xp.sum(delta2 * a2, axis=1, keepdims=True))
    delta1 = delta2 @ (w2.T if mistake == "w not transposed" else w2)
    if mistake != "tanh' missing":
        delta1 = delta1 * (1 - a1**2)
    if mistake == "sign flipped":
        delta1, delta2 = -delta1, -delta2
    grads = [delta1.T @ x / n, xp.sum(delta1, 0) / n, delta2.T @ a1 / n, xp.sum(delta2, 0) / n]
    if mistake == "b of layer 1 forgotten":
        grads[1] = 0 * grads[1]
    if mistake == "one entry off by 1e-6":
        factor = np.ones((SIZE, SIZE))
        factor[1, 2] += 1e-6
        grads[2] = grads[2] * factor
    return grads


def point():
    """Return parameters, x and y as NumPy arrays, float64."""
    rng = np.random.default_rng(0)
    params = [rng.normal(size=shape) / 2 for shape in ((SIZE, SIZE), (SIZE,)) * 2]
    return params, rng.normal(size=(N, SIZE)), np.eye(SIZE)[rng.integers(SIZE, size=N)]


def with_rule(x, y, mistake):
    """Return the loss as a JAX function of the parameters whose derivative is the hand's."""

    @jax.custom_vjp
    def f(*params):
        return loss(jnp, params, x, y)

    def backward(params, g):
        # The mistake of one entry needs a factor in the dtype of the gradient.
        grads = gradient(jnp, params, x, y, mistake)
        return tuple((g * leaf).astype(leaf.dtype) for leaf in grads)

    f.defvjp(lambda *params: (f(*params), params), backward)
    return f


def by_jax(mistake):
    from jax.test_util import check_grads

    params, x, y = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), point())
    check_grads(with_rule(x, y, mistake), params, order=1, modes=["rev"])


def by_chex(mistake):
    import chex

    params, x, y = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), point())
    chex.assert_numerical_grads(with_rule(x, y, mistake), params, order=1, modes=["rev"])


def by_torch(mistake):
    import torch

    params, x, y = point()

    class Hand(torch.autograd.Function):
        @staticmethod
        def forward(context, *params):
            context.save_for_backward(*params)
            return torch.tensor(loss(np, [p.detach().numpy() for p in params], x, y))

        @staticmethod
        def backward(context, g):
            held = [p.detach().numpy() for p in context.saved_tensors]
            return tuple(g * torch.tensor(v) for v in gradient(np, held, x, y, mistake))

    leaves = [torch.tensor(p, requires_grad=True) for p in params]
    torch.autograd.gradcheck(Hand.apply, leaves)


def by_scipy(mistake):
    from scipy.optimize import check_grad

    params, x, y = point()
    ends = np.cumsum([p.size for p in params])[:-1]

    def unravel(v):
        parts = np.split(v, ends)
        return [part.reshape(p.shape) for part, p in zip(parts, params, strict=True)]

    def derivative(v):
        return np.concatenate([g.ravel() for g in gradient(np, unravel(v), x, y, mistake)])

    start = np.concatenate([p.ravel() for p in params])
    return check_grad(lambda v: loss(np, unravel(v), x, y), derivative, start)


def by_ceres(mistake):
    import pyceres

    params, x, y = point()

    class Cost(pyceres.CostFunction):
        def __init__(self):
            super().__init__()
            self.set_num_residuals(1)
            self.set_parameter_block_sizes([p.size for p in params])

        def Evaluate(self, parameters, residuals, jacobians):  # the name that Ceres calls
            given = [np.reshape(v, p.shape) for v, p in zip(parameters, params, strict=True)]
            residuals[0] = loss(np, given, x, y)
            if jacobians is not None:
                for out, g in zip(jacobians, gradient(np, given, x, y, mistake), strict=True):
                    if out is not None:
                        out[:] = g.ravel()
            return True

    problem, cost = pyceres.Problem(), Cost()
    blocks = [p.ravel().copy() for p in params]
    problem.add_residual_block(cost, None, blocks)
    options, summary = pyceres.SolverOptions(), pyceres.SolverSummary()
    options.check_gradients = True
    options.max_num_iterations = 1
    options.logging_type = pyceres.LoggingType.SILENT
    pyceres.solve(options, problem, summary)
    if "Gradient" in summary.message or "gradient" in summary.message:
        raise AssertionError(summary.message)


def by_nnjax(mistake):
    def backprop(params, x, y):
        flat = [np.asarray(leaf) for layer in params for leaf in layer]
        w1, b1, w2, b2 = gradient(np, flat, np.asarray(x), np.asarray(y), mistake)
        return (nnjax.Affine(w1, b1), nnjax.Affine(w2, b2))

    report = nnjax.check_backprop(NET, backprop)
    if report.ok:
        return "passes"
    if report.mistakes:
        return "**" + " or ".join(f"{m.name}, {m.where}" for m in report.mistakes) + "**"
    return f"wrong: {report.reason.partition('.')[0].lower()}"


def outcome(check: Callable, mistake: str) -> str:
    """Return what a checker says, in a few words."""
    try:
        said = check(mistake)
    except (AssertionError, RuntimeError) as error:
        return f"wrong: “{gist(str(error))}”"
    if isinstance(said, float):
        return f"{said:.1e}"
    return said or "passes"


def gist(message: str) -> str:
    """Return the telling line of an error message, shortened."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    telling = [line for line in lines if "mismatch" in line.lower() or "Jacobian" in line]
    line = (telling or lines)[0].replace("|", "/")
    return line if len(line) <= 60 else line[:57] + "…"


CHECKERS = {
    "PyTorch `gradcheck`": ("torch", by_torch),
    "`jax.test_util.check_grads`": ("jax", by_jax),
    "`chex.assert_numerical_grads`": ("chex", by_chex),
    "SciPy `check_grad` (a norm)": ("scipy", by_scipy),
    "Ceres `check_gradients`": ("pyceres", by_ceres),
    "`nnjax.check_backprop`": ("nnjax", by_nnjax),
}


def main() -> None:
    run(options(__doc__, mnist=False), compare)


def compare(_: argparse.Namespace) -> None:
    found = {name: check for name, (module, check) in CHECKERS.items() if _installed(module)}
    print("| mistake | " + " | ".join(found) + " |")
    print("| --- " * (len(found) + 1) + "|")
    for mistake in MISTAKES:
        cells = [outcome(check, mistake) for check in found.values()]
        print(f"| {mistake} | " + " | ".join(cells) + " |", flush=True)
    missing = [name for name in CHECKERS if name not in found]
    if missing:
        print(f"\nNot installed here: {', '.join(missing)}.")


def _installed(module):
    return importlib.util.find_spec(module) is not None


if __name__ == "__main__":
    main()
