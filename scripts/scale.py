"""What `bench.py` measures of several devices, several processes, data on the disk, and a search.

python scripts/bench.py devices      1, 2 and 4 devices; 2 processes of 2 devices
python scripts/bench.py disk         20 GB on the disk beside the same examples in memory
python scripts/bench.py search       the book's chapter 3, from bad to good, as one sweep
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import optax

import nnjax
from nnjax.activations import sigmoid
from nnjax.data import stream
from nnjax.initializers import default
from nnjax.losses import cross_entropy, quadratic
from nnjax.many_plots import pictures
from nnjax.training import train_epochs
from nnjax.training.streaming import stream_epochs

__all__ = ["devices", "disk", "search"]

# Trains alone and over all devices; the first process prints seconds and difference.
_TRAIN = """
import sys, time, jax, numpy as np, nnjax, optax
if len(sys.argv) > 2:
    jax.distributed.initialize(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
rng = np.random.default_rng(0)
data = rng.integers(256, size=(10_000, 784), dtype=np.uint8), rng.integers(10, size=10_000)
data = nnjax.data.Dataset(data, None, None)
settings = dict(optimizer=optax.sgd(0.1), epochs=3, batch_size=100, key=jax.random.key(0))
net, mesh = nnjax.mlp([784, 30, 10]), jax.make_mesh((jax.device_count(),), ("data",))
alone, _ = nnjax.train(net, data, **settings)
state, history = nnjax.train(net, data, **settings, mesh=mesh)
if jax.process_index() == 0:
    leaves = [np.asarray(a.addressable_data(0)) for a in jax.tree.leaves(state.params)]
    np.savez(sys.argv[1], *leaves)
    pairs = zip(jax.tree.leaves(alone.params), leaves)
    difference = max(float(np.abs(np.asarray(a) - b).max()) for a, b in pairs)
    print(f"SAID {min(history['seconds']):8.3f} s   {difference:.1e}")
"""


def devices(options: argparse.Namespace) -> None:
    """Print the time and the result of training on several devices and processes."""
    print("\nAn epoch of 10,000 through [784, 30, 10], batch 100, over CPU devices")
    print("  processes x devices    seconds    largest difference from one device")
    with tempfile.TemporaryDirectory() as folder:
        for processes, each in ((1, 1), (1, 2), (1, 4), (2, 2), (4, 2)):
            said = _trained(Path(folder, f"{processes}x{each}.npz"), processes, each)
            print(f"  {processes} x {each}               {said}", flush=True)
        one, two = (np.load(Path(folder, name)) for name in ("1x4.npz", "2x2.npz"))
        difference = max(float(np.abs(one[name] - two[name]).max()) for name in one.files)
        print(f"  2 x 2 beside 1 x 4: largest difference {difference:.1e}")


def _trained(file: Path, processes: int, each: int) -> str:
    flags = f"--xla_force_host_platform_device_count={each}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    running = []
    for number in range(processes):
        place = [address, str(processes), str(number)] if processes > 1 else []
        command = [sys.executable, "-c", _TRAIN, str(file), *place]
        running.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        )
    said = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError(f"{processes} x {each}: a process has failed")
    return next(line for line in said[0].splitlines() if line.startswith("SAID"))[5:]


# Trains on windows of a folder and prints how much memory that took at most.
_MEMORY = """
import itertools, resource, sys
sys.path.insert(0, sys.argv[1])
import scale
for _ in itertools.islice(scale.windows(sys.argv[2]), int(sys.argv[3])):
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
_WINDOW, _BATCH, _WORDS = 10_000, 100, "conv8k5 pool2"


def disk(options: argparse.Namespace) -> None:
    """Print time per example and memory of training on 20 GB on the disk."""
    n = 20 * 10**9 // 784
    with tempfile.TemporaryDirectory() as folder:
        for name, shape in (("x", (n, 28, 28, 1)), ("y", (n,))):  # holes: they take no room
            np.lib.format.open_memmap(f"{folder}/{name}.npy", "w+", np.uint8, shape).flush()
        size = Path(folder, "x.npy").stat().st_size / 1e9
        print(f"\n{_WORDS} on {n:,} images, {size:.1f} GB, batch {_BATCH}, windows of {_WINDOW:,}")
        zeros = np.zeros((_WINDOW, 28, 28, 1), np.uint8), np.zeros(_WINDOW, int)
        memory = train_epochs(
            _net(), nnjax.data.Dataset(zeros, None, None), epochs=10**6, **_settings()
        )
        rivals = {"in memory": memory, "on the disk": windows(folder)}
        for rival in rivals.values():
            next(rival)
        seconds: dict[str, list[float]] = {name: [] for name in rivals}
        for _ in range(options.repeats):
            for name, rival in rivals.items():
                start = time.perf_counter()
                for _ in range(_IN_TURN):  # reading ahead is then part of the time
                    next(rival)
                seconds[name].append((time.perf_counter() - start) / _IN_TURN / _WINDOW)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        for name, values in seconds.items():
            ratio = medians[name] / medians["in memory"]
            spread = f"{1e6 * min(values):.2f} to {1e6 * max(values):.2f}"
            print(
                f"  {name:12} {1e6 * medians[name]:8.2f} µs per example  {ratio:.2f} x  ({spread})"
            )
        here, count = str(Path(__file__).parent), _IN_TURN * options.repeats
        command = [sys.executable, "-c", _MEMORY, here, folder, str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        print(f"  memory of {count} windows in a process of its own: {float(done.stdout):.0f} MiB")


_IN_TURN = 4


def windows(folder: str):
    """Yield the states of training on the windows of a folder."""
    return stream_epochs(_net(), stream.Folder(folder, window=_WINDOW), epochs=1, **_settings())


def _settings():
    return {"optimizer": optax.sgd(0.1), "batch_size": _BATCH, "key": jax.random.key(0)}


def _net():
    return nnjax.architecture.parse(_WORDS, (28, 28, 1), 10)


def search(options: argparse.Namespace) -> None:
    """Print the table of a search over what the book's chapter 3 changes one after another."""
    losses = {"quadratic": quadratic, "cross-entropy": cross_entropy}
    nets = {
        nnjax.mlp(
            [784, 100, 10], activation=sigmoid, output=sigmoid, loss=loss, initializer=default
        ): name
        for name, loss in losses.items()
    }
    data = nnjax.data.load("mnist")
    grid = {"net": list(nets), "rate": [0.1, 0.5, 10.0], "l2": [0.0, 5.0, 1000.0]}
    start = time.perf_counter()
    many = nnjax.train_many(
        next(iter(nets)), data, grid, seeds=1, epochs=18, batch_size=10, refine=3
    )
    seconds = time.perf_counter() - start
    print(f"\n[784, 100, 10] on MNIST, {many.status.size} networks in {seconds:.0f} s")
    print("  loss           η      λ     epochs  validation accuracy")
    for row in many.table("validation_accuracy"):
        accuracy = 100 * row["validation_accuracy"]
        name = nets[row["net"]]
        print(
            f"  {name:13} {row['rate']:<5g} {row['l2']:6g} {row['epochs']:6}     {accuracy:6.2f} %"
        )
    best = many.best().settings
    one = many.at(**best)
    assert data.test is not None
    x, y = data.test
    accuracy = float(nnjax.accuracy(one.net, one.state.best_params, x, y))
    said = f"{nets[best['net']]}, η = {best['rate']:g}, λ = {best['l2']:g}"
    print(f"  best: {said}; test accuracy {100 * accuracy:.2f} %")
    folder = options.out or Path(tempfile.mkdtemp(prefix="nnjax-search-"))
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures(many).items():
        figure.savefig(folder / f"{name}.png")
    print(f"  pictures in {folder}")
