"""Much in one process: many trainings and long ones, whose memory is watched, and threads."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import optax
from faults.campaign import LOST, SURVIVED, TRACEBACK, WRONG, Tally

import nnjax

FLAT = 8.0
"""MiB that memory may grow by once everything is compiled: what the allocator keeps varies."""


def problem() -> tuple[nnjax.Network, nnjax.data.Dataset]:
    """A small network and its data; most of an epoch's memory is the data's."""
    x = np.random.default_rng(0).uniform(size=(2000, 20)).astype(np.float32)
    part = (x, (x.sum(axis=1) > 10).astype(int))
    return nnjax.mlp([20, 30, 2]), nnjax.data.Dataset(part, part, None)


def settings(seed: int, epochs: int) -> dict:
    return {
        "optimizer": optax.sgd(0.1), "epochs": epochs, "batch_size": 20,
        "key": jax.random.key(seed),
    }  # fmt: skip


def resident() -> float:
    """Memory of this process, in MiB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def judged(what: str, sizes: list[float]) -> Tally:
    """Held against the memory after a tenth of them: what is compiled once is there by then."""
    start = max(sizes[: max(2, len(sizes) // 10)])
    tally = Tally(f"memory, {len(sizes)} {what} ({start:.0f} to {sizes[-1]:.0f} MiB)")
    for i, size in enumerate(sizes):
        tally.add(SURVIVED if size < start + FLAT else LOST, f"after {i + 1}: {size:.0f} MiB")
    return tally


def trainings(trials: int, work: Path, seed: int = 0) -> Tally:
    """Train again and again in one process."""
    net, data = problem()
    sizes = []
    for i in range(trials):
        nnjax.train(net, data, **settings(seed + i, 2))
        sizes.append(resident())
    return judged("trainings in one process", sizes)


def epochs(trials: int, work: Path, seed: int = 0) -> Tally:
    """Train for many epochs."""
    net, data = problem()
    steps = nnjax.training.train_epochs(net, data, **settings(seed, trials))
    return judged("epochs of one training", [resident() for _ in steps])


def threads(trials: int, work: Path, seed: int = 0) -> Tally:
    """Two trainings in two threads, and predictions in eight, beside what each gives alone."""
    net, data = problem()
    assert data.train is not None
    x, params = data.train[0], nnjax.init(net, jax.random.key(seed))

    def trained(i: int) -> list[bytes]:
        state, history = nnjax.train(net, data, **settings(seed + i, 2))
        leaves = [*jax.tree.leaves(state.params), history["train_loss"]]
        return [np.asarray(leaf).tobytes() for leaf in leaves]

    def predicted(i: int) -> list[bytes]:
        return [np.asarray(nnjax.predict(net, params, x[i % 50 : 100 + i % 50])).tobytes()]

    tally = Tally("trainings in two threads, predictions in eight")
    for work_of, workers, jobs in ((trained, 2, trials // 10 or 2), (predicted, 8, trials)):
        alone = [work_of(i) for i in range(jobs)]
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(work_of, i) for i in range(jobs)]
        for i, (future, expected) in enumerate(zip(futures, alone, strict=True)):
            what = f"{work_of.__name__} {i}"
            if error := future.exception():
                tally.add(TRACEBACK, f"{what}: {error!r}")
            else:
                tally.add(SURVIVED if future.result() == expected else WRONG, what)
    return tally
