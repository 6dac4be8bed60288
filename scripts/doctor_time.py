"""How long a check takes, the search for the line included, and how much memory.

    python scripts/doctor_time.py

prints a table in Markdown: a recurrence of about 60 and of about 500 equations, and a layer of a
million parameters, each with a mistake in its gradient. Everything is compiled for the first time,
as long as no cache of compiled programs is set.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import nnjax


def recurrence(w, u, b, x):
    """Return the loss of a recurrence that is to follow x."""
    h, loss = jnp.zeros(len(b)), 0.0
    for row in x:
        a = w @ h + u @ row + b
        h = jnp.tanh(a)
        error = h - row
        loss = loss + jnp.sum(error**2)
    return loss


def recurrence_gradient(w, u, b, x):
    """Return its gradient, with w for its transpose."""
    w, u, b, x = map(np.asarray, (w, u, b, x))
    hs = [np.zeros(len(b))]
    for row in x:
        hs.append(np.tanh(w @ hs[-1] + u @ row + b))
    dw, du, db, back = np.zeros_like(w), np.zeros_like(u), np.zeros_like(b), np.zeros_like(b)
    for t in reversed(range(len(x))):
        da = (2 * (hs[t + 1] - x[t]) + back) * (1 - hs[t + 1] ** 2)
        dw += np.outer(da, hs[t])
        du += np.outer(da, x[t])
        db += da
        back = w @ da
    return dw, du, db


def layer(w, x):
    """Return the size of the outputs of a layer."""
    h = jnp.tanh(w @ x)
    return jnp.sum(h**2)


def layer_gradient(w, x):
    """Return its gradient, without the derivative of tanh."""
    return np.outer(2 * np.tanh(np.asarray(w) @ np.asarray(x)), x)


def main() -> None:
    """Time each check, and print the table."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    ).parse_args()
    rng = np.random.default_rng(0)
    print("| equations | parameters | seconds | CPU seconds | peak memory | found |")
    print("| --- | --- | --- | --- | --- | --- |")
    for steps in (5, 46):
        shapes = (5, 5), (5, 5), (5,), (steps, 5)
        check(
            recurrence, recurrence_gradient, [0.4 * rng.normal(size=s) for s in shapes], (0, 1, 2)
        )
    args = [0.03 * rng.normal(size=(1000, 1000)), rng.normal(size=1000)]
    check(layer, layer_gradient, args, 0)


def check(f, gradient, args, argnums) -> None:
    """Check a gradient; print a row."""
    equations = len(jax.make_jaxpr(f)(*args).jaxpr.eqns)
    trained = [args[i] for i in ([argnums] if isinstance(argnums, int) else argnums)]
    start, cpu = time.perf_counter(), time.process_time()
    report = nnjax.check_gradient(f, gradient, *args, argnums=argnums)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    unit = 2**20 if sys.platform == "darwin" else 2**10
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    found = "; ".join(f"{one.name}, line {one.line}" for one in report.findings)
    size = sum(array.size for array in trained)
    print(f"| {equations} | {size:,} | {seconds:.1f} | {cpu:.1f} | {memory:,.0f} MiB | {found} |")


if __name__ == "__main__":
    main()
