"""Time nnjax beside its peers, on this machine, in one run: python scripts/bench.py [section ...]

Every section prints tables: seconds (or what the column says), how many times longer than nnjax,
and the shortest and longest. All rivals of a table take turns within each repeat, so that whatever
else the machine does falls on all of them alike; the first figure is the median over the repeats.
What is short runs for half a second in each turn, which counts as the median of these runs.

    python scripts/bench.py dense conv --repeats 7 --processes 2 --json before.json
    python scripts/bench.py dense conv --compare before.json
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import convolutions
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scale import devices, disk, search

import nnjax
from nnjax.data import stream
from nnjax.training.streaming import stream_epochs

SECTIONS: dict[str, Callable[[argparse.Namespace], None]] = {}
TURN = 0.5  # seconds that a rival runs on at least, so that threads and caches are as in training


def section(function: Callable[[argparse.Namespace], None]) -> Callable:
    """Register a function as a section of the benchmark, under its name."""
    SECTIONS[function.__name__.replace("_", "-")] = function
    return function


class Rival(NamedTuple):
    """Something to time: a function that does `share` of the job, called without arguments."""

    run: Callable[[], Any]
    share: float = 1.0


class Spread(NamedTuple):
    """Seconds over the repeats."""

    median: float
    least: float
    most: float


Results = dict[str, dict[str, list[float]]]
RESULTS: Results = {}
"""What has been measured so far: the seconds of each repeat by title of the table and rival."""


def spreads(seconds: dict[str, list[float]]) -> dict[str, Spread]:
    """Return the median, the least and the most of each rival's repeats."""
    return {
        name: Spread(statistics.median(values), min(values), max(values))
        for name, values in seconds.items()
    }


def timed(title: str, rivals: dict[str, Rival], repeats: int = 5) -> dict[str, Spread]:
    """Return the seconds that each rival takes for the whole job, the rivals taking turns.

    Each is run once before the clock starts, so that compiling is not counted.
    """
    for rival in rivals.values():
        jax.block_until_ready(rival.run())
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(repeats):
        for name, rival in rivals.items():
            seconds[name].append(_turn(rival.run) / rival.share)
    RESULTS[title] = seconds
    return spreads(seconds)


def _turn(run: Callable[[], Any]) -> float:
    """Return the seconds of a run: the median of as many as half a second has, or of a longer one.

    Where there are several the first is left out: threads of the rival before may still spin.
    """
    seconds: list[float] = []
    while sum(seconds) < TURN:
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:] or seconds)


def table(
    title: str,
    rivals: dict[str, Rival],
    repeats: int = 5,
    unit: str = "s",
    scale: float = 1.0,
    ours: str = "nnjax",
) -> None:
    """Time the rivals; print each one's time in `unit` (1 s = `scale` units), ratio and spread."""
    show(title, timed(title, rivals, repeats), unit, scale, ours)


def show(
    title: str,
    seconds: dict[str, Spread],
    unit: str = "s",
    scale: float = 1.0,
    ours: str = "nnjax",
) -> None:
    """Print a table: each rival's time, how many times ours, and the spread."""
    print(f"\n{title}")
    width = max(map(len, seconds))
    for name, (median, least, most) in seconds.items():
        beside = name != ours and ours in seconds
        ratio = f"{median / seconds[ours].median:9.2f} x" if beside else ""
        spread = f"{least * scale:.3f} to {most * scale:.3f}"
        print(f"  {name:{width}}  {median * scale:10.3f} {unit}{ratio:11}   {spread}", flush=True)


def compare(before: Results, now: Results) -> None:
    """Print how each figure has changed; beyond the spread where the two ranges do not overlap."""
    print("\nNow, as a multiple of the time before")
    for title, seconds in now.items():
        if title not in before:
            print(f"\n{title}\n  not measured before")
            continue
        print(f"\n{title}")
        width = max(map(len, seconds))
        earlier = spreads(before[title])
        for name, spread in spreads(seconds).items():
            if name not in earlier:
                print(f"  {name:{width}}  not measured before")
                continue
            old = earlier[name]
            beyond = "slower" * (spread.least > old.most) or "faster" * (spread.most < old.least)
            print(f"  {name:{width}}  {spread.median / old.median:6.2f} x  {beyond}".rstrip())


@section
def dense(options: argparse.Namespace) -> None:
    """An epoch of 50,000 images through [784, 30, 10] at batch 10, beside its peers."""
    rng = np.random.default_rng(0)
    x = rng.integers(256, size=(50_000, 784), dtype=np.uint8)
    y = rng.integers(10, size=50_000)
    sizes, batch, eta = [784, 30, 10], 10, 0.1
    net = nnjax.mlp(sizes)
    rivals = {
        "nnjax": Rival(_epoch_of_nnjax(net, x, y, batch, eta)),
        "jax.grad in the same loop": Rival(_epoch_of_nnjax(net, x, y, batch, eta, by_hand=False)),
        "NumPy, batched": Rival(_epoch_of_numpy(sizes, x[:10_000], y[:10_000], batch, eta), 0.2),
        "NumPy, one example at a time": Rival(_epoch_of_book(sizes, x[:2000], y[:2000], eta), 0.04),
    }
    if in_c := _epoch_of_c(sizes, x, y, batch, eta):
        rivals["loops in C, one thread"] = Rival(in_c)
    if sklearn := _epoch_of_sklearn(x[:10_000], y[:10_000], batch, eta):
        rivals["scikit-learn"] = Rival(sklearn, 0.2)
    rivals |= {
        f"PyTorch, {threads} thread(s)": Rival(run, 0.2)
        for threads, run in _epochs_of_torch(sizes, x[:10_000], y[:10_000], batch, eta).items()
    }
    title = "An epoch of 50,000 through [784, 30, 10], cross-entropy, SGD, batch 10"
    table(title, rivals, options.repeats)


@section
def calls(options: argparse.Namespace) -> None:
    """One call from a Python loop, beside a function of the user's own around it, jitted."""
    for sizes, batch in (([1, 1], 1), ([784, 30, 10], 10)):
        net = nnjax.mlp(sizes)
        params, x, y = _batch_for(net, batch)
        for name, (call, *args) in {
            "sgd_step": (nnjax.sgd_step, params, x, y, 0.1),
            "backprop": (nnjax.backprop, params, x, y),
            "predict": (nnjax.predict, params, x),
        }.items():
            rivals = {
                "nnjax": Rival(partial(_repeated, partial(call, net), args), 1000),
                "in a jitted function": Rival(
                    partial(_repeated, jax.jit(partial(call, net)), args), 1000
                ),
            }
            title = f"One call of {name}, {sizes}, batch {batch}"
            table(title, rivals, 5 * options.repeats, "µs", 1e6)


def _repeated(function, args, times=1000):
    out = function(*args)
    for _ in range(times - 1):
        out = function(*args)
    return out


@section
def scaling(options: argparse.Namespace) -> None:
    """Time, memory and share of the machine's matrix-product peak, as a step of SGD grows."""
    peak = _peak()
    print(
        f"\nOne step of SGD on [n, n, n, 10]-like networks; matrix-product peak {peak:.0f} GFLOP/s"
    )
    print("  width  depth  batch     ms/step   GFLOP/s   of peak   temporary MB")
    grid = [(width, 2, 256) for width in (30, 100, 300, 1024, 2048, 4096)]
    grid += [(512, depth, 256) for depth in (1, 4, 8)]
    grid += [(1024, 2, batch) for batch in (1, 16, 64, 1024, 4096)]
    for width, depth, batch in grid:
        net = nnjax.mlp([width] * (depth + 1) + [10])
        params = nnjax.init(net, jax.random.key(0))
        x = jax.random.normal(jax.random.key(1), (batch, width))
        y = jnp.zeros(batch, jnp.int32)
        # as in an epoch, where each step takes over the memory of the one before
        steps = max(1, 2**22 // (width * batch))

        def walk(params, x, y, net=net, steps=steps):
            def step(params, _):
                return nnjax.sgd_step(net, params, x, y, 0.1), None

            return jax.lax.scan(step, params, length=steps)[0]

        compiled = jax.jit(walk).lower(params, x, y).compile()
        rival = Rival(partial(compiled, params, x, y), share=steps)
        title = f"A step of SGD, width {width}, depth {depth}, batch {batch}"
        seconds = timed(title, {"nnjax": rival}, options.repeats)["nnjax"].median
        weights = sum(p.w.size for p in params)
        # forward, BP4 and, but for the first layer, BP2: a multiplication and an addition each
        flop = 2 * batch * (3 * weights - params[0].w.size)
        rate = flop / seconds / 1e9
        memory: Any = compiled.memory_analysis()
        print(
            f"  {width:5}  {depth:5}  {batch:5}  {seconds * 1e3:10.3f}  {rate:8.1f}  "
            f"{rate / peak:8.0%}  {memory.temp_size_in_bytes / 2**20:13.1f}",
            flush=True,
        )


def _peak() -> float:
    """Return the rate of the best of a few large float32 matrix products, in GFLOP/s."""
    rates = []
    for n in (1024, 2048, 4096):
        a = jax.random.normal(jax.random.key(0), (n, n))
        seconds = timed(f"Product of {n} x {n}", {"": Rival(lambda: jnp.dot(a, a))})[""].median  # noqa: B023
        rates.append(2 * n**3 / seconds / 1e9)
    return max(rates)


def _epoch_of_nnjax(net, x, y, batch, eta, by_hand=True):
    """Return a function that runs one epoch; by_hand=False: jax.grad in the same scanned loop."""
    x, y = jnp.asarray(x), jnp.asarray(y)
    params = nnjax.init(net, jax.random.key(0))
    if by_hand:
        recipe = nnjax.training.Recipe(optimizer=optax.sgd(eta), batch_size=batch)
        state = nnjax.training.initial_state(net, recipe.optimizer, jax.random.key(1), params)
        epoch = jax.jit(partial(nnjax.training.run_epoch, net, recipe))
        data = nnjax.data.Dataset((x, y), None, None)  # pyright: ignore[reportArgumentType]
        return lambda: epoch(state, data)

    @jax.jit
    def epoch_of_autodiff(params, key, x, y):
        order = jax.random.permutation(key, len(x))
        batches = (x[order].reshape(-1, batch, *x.shape[1:]), y[order].reshape(-1, batch))

        def step(carry, batch):
            params, total = carry
            loss, grads = jax.value_and_grad(nnjax.loss, argnums=1)(net, params, *batch)
            params = jax.tree.map(lambda p, g: p - eta * g, params, grads)
            return (params, total + loss), None

        return jax.lax.scan(step, (params, jnp.zeros(())), batches)[0]

    return lambda: epoch_of_autodiff(params, jax.random.key(1), x, y)


def _start(sizes):
    rng = np.random.default_rng(0)
    ws = [rng.normal(size=(j, k)) / k**0.5 for k, j in itertools.pairwise(sizes)]
    return [w.astype(np.float32) for w in ws], [
        rng.normal(size=j).astype(np.float32) for j in sizes[1:]
    ]


def _epoch_of_numpy(sizes, x, y, batch, eta):
    x, one_hot = x.astype(np.float32) / 255, np.eye(sizes[-1], dtype=np.float32)[y]

    def run():
        (ws, bs), order = _start(sizes), np.random.default_rng(1).permutation(len(x))
        for start in range(0, len(x), batch):
            rows = order[start : start + batch]
            activations = [x[rows]]
            for w, b in zip(ws, bs, strict=True):
                activations.append(1 / (1 + np.exp(-(activations[-1] @ w.T + b))))
            delta = activations[-1] - one_hot[rows]
            for l in reversed(range(len(ws))):
                grad_w, grad_b = delta.T @ activations[l], delta.sum(0)
                if l:
                    a = activations[l]
                    delta = delta @ ws[l] * a * (1 - a)
                ws[l] -= eta / batch * grad_w
                bs[l] -= eta / batch * grad_b
        return ws

    return run


def _epoch_of_book(sizes, x, y, eta):
    """Return an epoch as the book's first program runs it: column vectors, one at a time."""
    x = (x.astype(np.float32) / 255)[:, :, None]
    one_hot = np.eye(sizes[-1], dtype=np.float32)[y][:, :, None]

    def run():
        ws, bs = _start(sizes)
        bs = [b[:, None] for b in bs]
        for start in range(0, len(x), 10):
            sum_w, sum_b = [np.zeros_like(w) for w in ws], [np.zeros_like(b) for b in bs]
            for i in range(start, start + 10):
                activations = [x[i]]
                for w, b in zip(ws, bs, strict=True):
                    activations.append(1 / (1 + np.exp(-(w @ activations[-1] + b))))
                delta = activations[-1] - one_hot[i]
                for l in reversed(range(len(ws))):
                    sum_w[l] += delta @ activations[l].T
                    sum_b[l] += delta
                    if l:
                        a = activations[l]
                        delta = ws[l].T @ delta * a * (1 - a)
            ws = [w - eta / 10 * g for w, g in zip(ws, sum_w, strict=True)]
            bs = [b - eta / 10 * g for b, g in zip(bs, sum_b, strict=True)]
        return ws

    return run


def _epoch_of_c(sizes, x, y, batch, eta):
    """Return an epoch of `epoch.c`, compiled for this processor; None without a compiler."""
    if (compiler := shutil.which("cc")) is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library, compiled = Path(folder, "epoch.so"), Path(folder, "epoch.o")
        numbers = [f"-D{name}={n}" for name, n in zip("KJIM", [*sizes, batch], strict=True)]
        flags = ["-O3", "-march=native", "-ffast-math", "-fPIC", *numbers, "-c"]
        source = Path(__file__).with_name("epoch.c")
        subprocess.run([compiler, *flags, "-o", compiled, source], check=True)
        # Linked without -ffast-math, which would make zeros of the process' subnormal numbers.
        subprocess.run([compiler, "-shared", "-o", library, compiled, "-lm"], check=True)
        epoch = ctypes.CDLL(str(library)).epoch
    y = y.astype(ctypes.c_long)

    def run():
        (ws, bs), order = _start(sizes), np.random.default_rng(1).permutation(len(x))
        rows = order.astype(ctypes.c_long)
        arrays = x, y, rows, ws[0], bs[0], ws[1], bs[1]
        images, labels, rows, *params = (a.ctypes.data_as(ctypes.c_void_p) for a in arrays)
        epoch(ctypes.c_long(len(x)), images, labels, rows, ctypes.c_float(eta), *params)
        return ws

    return run


def _epoch_of_sklearn(x, y, batch, eta):
    try:
        from sklearn.neural_network import MLPClassifier
    except ImportError:
        return None
    x = x.astype(np.float32) / 255
    model = MLPClassifier(
        (30,), activation="logistic", solver="sgd", alpha=0, batch_size=batch,
        learning_rate_init=eta, momentum=0, max_iter=1,
    )  # fmt: skip

    def run():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one epoch does not converge
            return model.fit(x, y).coefs_

    return run


def _epochs_of_torch(sizes, x, y, batch, eta):
    """Return an epoch of PyTorch for each number of threads."""
    try:
        import torch
    except ImportError:
        return {}
    x = torch.tensor(x.astype(np.float32) / 255)
    one_hot = torch.nn.functional.one_hot(torch.tensor(y), sizes[-1]).float()

    def epoch(threads):
        torch.set_num_threads(threads)
        model = torch.nn.Sequential(
            torch.nn.Linear(sizes[0], sizes[1]),
            torch.nn.Sigmoid(),
            torch.nn.Linear(sizes[1], sizes[2]),
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=eta)
        order = torch.randperm(len(x))
        for start in range(0, len(x), batch):
            rows = order[start : start + batch]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                model(x[rows]), one_hot[rows], reduction="sum"
            )
            optimizer.zero_grad()
            (loss / batch).backward()
            optimizer.step()

    return {threads: partial(epoch, threads) for threads in sorted({1, os.cpu_count() or 1})}


@section
def per_example(options: argparse.Namespace) -> None:
    """Per-example norms, clipping and curvature, beside one gradient and beside vmap(grad)."""
    _norms_of_dense_layers(options)
    for shape, layer in (
        ((28, 28, 1), nnjax.Conv(20, 5)),
        ((12, 12, 20), nnjax.Conv(40, 5)),
        ((8, 8, 64), nnjax.Conv(64, 3, padding="same")),
    ):
        _norms_of_a_convolution(options, shape, layer)
    _diagonal_beside_backpack(options)


def _norms_by_vmap(net, params, x, y):
    """Return the gradient and every example's squared norm, by `jax.grad` and `jax.vmap` of it."""
    gradient = jax.grad(nnjax.loss, argnums=1)

    def norm(x, y):
        return sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient(net, params, x[None], y[None])))

    # the mean of the rows instead of a second backward pass takes forty times longer here
    return gradient(net, params, x, y), jax.vmap(norm)(x, y)


def _batch_for(net, n):
    params = nnjax.init(net, jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (n, *net.input_shape))
    return params, x, jax.random.randint(jax.random.key(2), (n,), 0, net.n_out)


def _compiled(function, *args):
    """Return a compiled function of no arguments, and the megabytes it needs on the way."""
    program = jax.jit(function).lower(*args).compile()
    memory: Any = program.memory_analysis()
    return lambda: program(*args), memory.temp_size_in_bytes / 2**20


def _norms_of_dense_layers(options):
    net = nnjax.mlp([800] * 4, activation=nnjax.tanh)
    args = _batch_for(net, 256)

    def gradient(params, x, y):
        return nnjax.backprop(net, params, x, y).grads

    def norms(params, x, y):
        bp = nnjax.backprop(net, params, x, y)
        return bp.grads, nnjax.per_example.squared_norms(net, params, bp)

    def clipped(params, x, y):
        bp = nnjax.backprop(net, params, x, y)
        return nnjax.per_example.clipped_gradient(net, params, bp, 1.0)

    programs = {
        "the gradient alone": _compiled(gradient, *args),
        "gradient and norms": _compiled(norms, *args),
        "clipped gradient": _compiled(clipped, *args),
        "gradient and norms, vmap(grad)": _compiled(partial(_norms_by_vmap, net), *args),
    }
    table(
        "Per-example norms, three dense layers of 800, batch 256",
        {name: Rival(run) for name, (run, _) in programs.items()},
        5 * options.repeats,
        "ms",
        1e3,
        ours="the gradient alone",
    )
    alone = programs["the gradient alone"][1]
    for name, (_, megabytes) in programs.items():
        print(f"  {name:30}  {megabytes:10.1f} MB temporary, {megabytes - alone:+.1f}")


def _norms_of_a_convolution(options, shape, layer):
    net = nnjax.Network(
        shape, (layer, nnjax.MeanPool(2), nnjax.Flatten(), nnjax.Dense(10)), nnjax.cross_entropy
    )
    args = _batch_for(net, 64)

    def norms(params, x, y):
        bp = nnjax.backprop(net, params, x, y)
        return nnjax.per_example.squared_norms(net, params, bp), bp.grads

    rivals = {
        "nnjax": Rival(_compiled(norms, *args)[0]),
        "vmap(grad)": Rival(_compiled(partial(_norms_by_vmap, net), *args)[0]),
    }
    height, width, filters = net.shapes[1]
    weights = args[0][0].w.size
    table(
        f"Gradient and per-example norms, Conv({filters}, {layer.kernel[0]}) on {shape}: "
        f"2T² = {2 * (height * width) ** 2}, {weights} weights, batch 64",
        rivals,
        5 * options.repeats,
        "ms",
        1e3,
    )


def _diagonal_beside_backpack(options):
    sizes, n = [784, 256, 256, 10], 128
    net = nnjax.mlp(sizes, activation=nnjax.tanh, loss=nnjax.log_likelihood)
    params, x, y = _batch_for(net, n)

    def diagonal(params, x, y):
        bp = nnjax.backprop(net, params, x, y)
        return bp.grads, nnjax.curvature.ggn_diagonal(net, params, bp)

    rivals = {"nnjax": Rival(_compiled(diagonal, params, x, y)[0])}
    if theirs := _diagonal_of_backpack(sizes, np.asarray(x), np.asarray(y)):
        rivals["BackPACK"] = Rival(theirs)
    table(
        f"Gradient and exact diagonal of the Gauss-Newton matrix, {sizes}, batch {n}",
        rivals,
        3 * options.repeats,
        "ms",
        1e3,
    )


def _diagonal_of_backpack(sizes, x, y):
    try:
        import backpack
        import torch
        from backpack.extensions import DiagGGNExact
    except ImportError:
        return None
    torch.set_num_threads(os.cpu_count() or 1)
    layers = []
    for k, j in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(k, j), torch.nn.Tanh()]
    model = backpack.extend(torch.nn.Sequential(*layers[:-1]))
    loss = backpack.extend(torch.nn.CrossEntropyLoss())
    x, y = torch.tensor(x), torch.tensor(y, dtype=torch.long)

    def run():
        with warnings.catch_warnings(), backpack.backpack(DiagGGNExact()):
            warnings.simplefilter("ignore")  # of PyTorch's hooks
            model.zero_grad()
            loss(model(x), y).backward()

    return run


@section
def conv(options: argparse.Namespace) -> None:
    """The book's network of two convolutions: an epoch of 50,000, and inference, beside peers."""
    net = nnjax.architecture.parse(convolutions.BOOK, (28, 28, 1), 10)
    rng = np.random.default_rng(0)
    x = rng.integers(256, size=(10_000, 28, 28, 1), dtype=np.uint8)
    y = rng.integers(10, size=10_000)
    jobs = [("epoch", 100), ("loop", 100), ("epoch", 10), ("loop", 10)]
    jobs += [("inference", batch) for batch in (1, 10, 100, 1000)]
    titles = {
        "epoch": "An epoch of 50,000 in one program (jax.lax.scan)",
        "loop": "An epoch of 50,000 in a Python loop of a jitted step",
        "inference": "Inference of 50,000",
    }
    for job, batch in jobs:
        rivals = {}
        for peer in convolutions.peers(net):
            n = max(int(len(x) * peer.part), 1000)
            run = getattr(peer, job)(x[:n], y[:n], batch)
            if (job, peer.name) == ("epoch", "nnjax"):
                run = _epoch_of_nnjax(net, x, y, batch, convolutions.ETA)
            rivals[peer.name] = Rival(run, n / 50_000)
        table(
            f"{titles[job]}, {convolutions.BOOK}, sigmoid, batch {batch}", rivals, options.repeats
        )


@section
def shapes(options: argparse.Namespace) -> None:
    """Convolutions of many shapes, forward and backward, and a step of a small VGG."""
    for shape, layer, n in convolutions.LAYERS:
        steps = convolutions.steps_of_a_layer(shape, layer, n)
        title = f"z, BP2 and BP4 of {layer.filters} of {layer.kernel} on {shape}, "
        title += f"stride {layer.stride}, batch {n}"
        table(title, {name: Rival(run) for name, run in steps.items()}, options.repeats, "ms", 1e3)
    net = nnjax.architecture.parse(convolutions.VGG, (32, 32, 3), 10)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(128, 32, 32, 3)).astype(np.float32), rng.integers(10, size=128)
    steps = {peer.name: Rival(peer.loop(x, y, 64), 2) for peer in convolutions.peers(net)}
    steps["nnjax, in one program"] = Rival(convolutions.Peer(net).epoch(x, y, 64), 2)
    table(f"A step of {convolutions.VGG}, batch 64", steps, options.repeats, "ms", 1e3)
    runs = {peer.name: Rival(peer.inference(x, y, 64), 2) for peer in convolutions.peers(net)}
    table(f"Inference of 64, {convolutions.VGG}", runs, options.repeats, "ms", 1e3)


@section
def profile(options: argparse.Namespace) -> None:
    """A training step of the book's two convolutions by its parts, each against its floor."""
    net, n = nnjax.architecture.parse(convolutions.BOOK, (28, 28, 1), 10), 100
    parts = convolutions.parts_of_a_step(net, n)
    title = f"A step of SGD, {convolutions.BOOK}, batch {n}, by its parts"
    seconds = timed(title, {name: Rival(p.run) for name, p in parts.items()}, 3 * options.repeats)
    peak, bandwidth = _peak(), _bandwidth()
    print(f"\n{title}: medians; peak {peak:.1f} GFLOP/s, bandwidth {bandwidth:.1f} GB/s")
    print("  floor: the longer of multiplications at the peak and bytes at the bandwidth")
    width = max(map(len, parts))
    print(f"  {'':{width}}        ms     MFLOP        MB    floor ms")
    total = [0.0, 0.0, 0.0, 0.0]
    for name, part in parts.items():
        floor = max(part.flop / peak, part.bytes / bandwidth) / 1e9
        row = [seconds[name].median * 1e3, part.flop / 1e6, part.bytes / 1e6, floor * 1e3]
        if name != convolutions.WHOLE:
            total = [t + value for t, value in zip(total, row, strict=True)]
            print(f"  {name:{width}}" + "".join(f"{value:10.3f}" for value in row), flush=True)
    print(f"  {'all of these':{width}}" + "".join(f"{value:10.3f}" for value in total))
    whole = seconds[convolutions.WHOLE].median * 1e3
    print(f"  {convolutions.WHOLE:{width}}{whole:10.3f}", flush=True)


def _bandwidth() -> float:
    """Return the rate at which memory is read and written, in GB/s: 128 MB plus one, in place."""
    times, a = 10, jnp.zeros(2**25)
    add = jax.jit(lambda a: jax.lax.fori_loop(0, times, lambda _, a: a + 1, a))
    seconds = timed("128 MB plus one", {"": Rival(lambda: add(a), times)})[""].least
    return 2 * a.nbytes / seconds / 1e9


@section
def scale(options: argparse.Namespace) -> None:
    """Many networks, and data on the disk: each against one network in memory."""
    rng = np.random.default_rng(0)
    n, sizes, eta, count = 10_000, [784, 30, 10], 0.1, 64
    x = rng.integers(256, size=(n, 784), dtype=np.uint8)
    y = rng.integers(10, size=n)
    net, data = nnjax.mlp(sizes), nnjax.data.Dataset((x, y), None, None)
    for batch in (10, 100):
        rivals = {
            "nnjax": Rival(partial(_many_of_nnjax, net, data, batch, count, 1)),
            "one after another": Rival(partial(_one_by_one, net, data, batch, 8), 8 / count),
            "a process each": Rival(partial(_own_process, sizes, n, batch), 1 / count),
        }
        if sklearn := _epoch_of_sklearn(x, y, batch, eta):
            rivals["scikit-learn"] = Rival(sklearn, 1 / count)
        rivals |= {
            f"PyTorch, {threads} thread(s)": Rival(run, 1 / count)
            for threads, run in _epochs_of_torch(sizes, x, y, batch, eta).items()
        }
        title = f"{count} networks [784, 30, 10], an epoch of {n:,}, batch {batch}"
        table(title, rivals, options.repeats)

    print("\nCompiling, and an epoch of 1,000: seconds")
    small = nnjax.data.Dataset((x[:1000], y[:1000]), None, None)
    for settings in (2, 36):
        jax.clear_caches()
        start = time.perf_counter()
        _many_of_nnjax(net, small, 10, settings, 1)
        print(f"  {settings:3} settings  {time.perf_counter() - start:8.2f} s", flush=True)

    title = "An epoch of 10,000 through [784, 30, 10], batch 100"
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "x.npy"), x)
        np.save(Path(folder, "y.npy"), y)
        source = stream.Folder(folder, window=2000)
        rivals = {
            "nnjax": Rival(partial(_one_by_one, net, data, 100, 1)),
            "read from the disk": Rival(partial(_streamed, net, source, 100)),
        }
        table(title, rivals, options.repeats)


def _many_of_nnjax(net, data, batch, settings, seeds):
    grid = {"rate": np.linspace(0.01, 0.5, settings).tolist()}
    many = nnjax.train_many(net, data, grid, seeds=seeds, epochs=1, batch_size=batch)
    return many.groups[0].states.params


def _one_by_one(net, data, batch, count):
    for rate in np.linspace(0.01, 0.5, count):
        optimizer = nnjax.training.optimizers.by_name("sgd", float(rate))
        key = jax.random.key(0)
        nnjax.train(net, data, optimizer=optimizer, epochs=1, batch_size=batch, key=key)


def _own_process(sizes, n, batch):
    code = (
        "import jax, nnjax, numpy as np, optax\n"
        f"x = np.zeros(({n}, {sizes[0]}), np.uint8)\n"
        f"data = nnjax.data.Dataset((x, np.zeros({n}, int)), None, None)\n"
        f"nnjax.train(nnjax.mlp({sizes}), data, optimizer=optax.sgd(0.1), epochs=1,"
        f" batch_size={batch}, key=jax.random.key(0))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _streamed(net, source, batch):
    steps = stream_epochs(
        net, source, optimizer=optax.sgd(0.1), epochs=1, batch_size=batch, key=jax.random.key(0)
    )
    *_, (state, _) = steps
    return state.params


for _function in (devices, disk, search):
    section(_function)


def _read(path: Path) -> Results:
    return json.loads(path.read_text("utf-8"))["seconds"]


_UNITS = (("s", 1.0), ("ms", 1e3), ("µs", 1e6))


def _in_processes(options: argparse.Namespace) -> None:
    """Measure in several processes, one after another, and show all of their repeats together."""
    for _ in range(options.processes):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "one.json")
            more = ["--repeats", str(options.repeats), "--json", str(path)]
            more += [] if options.out is None else ["--out", str(options.out)]
            command = [sys.executable, __file__, *options.sections, *more]
            subprocess.run(command, check=True)
            for title, seconds in _read(path).items():
                together = RESULTS.setdefault(title, {})
                for name, values in seconds.items():
                    together.setdefault(name, []).extend(values)
    print(f"\nAll repeats of {options.processes} processes together")
    for title, seconds in RESULTS.items():
        found = spreads(seconds)
        least = min(spread.median for spread in found.values())
        unit, scale = next((u, n) for u, n in _UNITS if least * n >= 1 or u == "µs")
        show(title, found, unit, scale)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="section", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--repeats", type=int, default=5, help="of every measurement (5)")
    parser.add_argument(
        "--processes", type=int, default=1, help="one after another, each with all repeats (1)"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where search puts its pictures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures there")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="a file of --json, before")
    options = parser.parse_args(arguments)
    before = None
    if options.compare is not None:  # read first: a run takes minutes
        before = _read(options.compare)
    unknown = [name for name in options.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    machine = (
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, NumPy {np.__version__}"
    )
    print(machine)
    if options.processes > 1:
        _in_processes(options)
    else:
        for name in options.sections or SECTIONS:
            SECTIONS[name](options)
    if options.json is not None:
        content = json.dumps({"machine": machine, "seconds": RESULTS}, indent=2)
        options.json.write_text(content + "\n", "utf-8")
    if before is not None:
        compare(before, RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
