"""Records of nnjax on MNIST: a recipe for each, trained from many seeds.

    python scripts/records.py fastest    99 % of the test images in the least time
    python scripts/records.py accurate   one convolutional network, ten minutes
    python scripts/records.py small      99.4 % of the test images with few parameters
    python scripts/records.py mlp        dense layers, which do not know that inputs are images
    python scripts/records.py fashion    Fashion-MNIST
    python scripts/records.py fastest --choose --seeds 3

The last trains, in turns, the chosen recipe and the main others, and measures them on the
validation images alone: 10,000 of the 60,000 images for training. Otherwise the chosen recipe is
trained from every seed, and when all are trained, each network is measured on the test images,
once. The parameters are those of the last epoch. `fastest` learns from the other 50,000 images;
the rest, once chosen, from all 60,000, as published networks usually do.

Seconds are counted from the images in memory to the trained parameters, with starting parameters,
copies to the device and shuffling. Each recipe is compiled before, in a first epoch that is
thrown away; what compiling took, by that epoch less the same one again, is printed by itself, and
the seconds with and without it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import options, run

import nnjax
from nnjax.data import Dataset
from nnjax.descent import loss_and_gradient
from nnjax.initializers import he
from nnjax.network import Params
from nnjax.regularizers import MaxNorm, Regularizer
from nnjax.training import optimizers, train_epochs
from nnjax.training.augmentation import Distortion
from nnjax.training.recipe import Augmentation

__all__ = ["RECORDS", "Recipe", "Record", "Result", "report", "trained"]


@dataclass(frozen=True)
class Recipe:
    """A network of rectified linear units, trained by Adam with a one-cycle schedule."""

    net: str
    """Its hidden layers, in the words of `nnjax.architecture`."""
    epochs: int
    batch_size: int
    peak: float
    """The highest learning rate."""
    augment: Augmentation | None = None
    regularizer: Regularizer | None = None
    mixup: float | None = None
    """α of mixup (Zhang et al. 2018, arXiv:1710.09412): a step learns from its mini-batch, mixed
    with itself in another order, targets as images, by a share drawn from Beta(α, α)."""
    shifts: int = 0
    """The network is also measured by its mean output over all shifts of an image by up to so many
    pixels, each way: a second accuracy, of the same parameters."""

    def __post_init__(self) -> None:
        if self.mixup is not None and self.augment is not None:
            raise ValueError("a recipe has mixup or augment; leave one of them out")

    def network(self, data: Dataset) -> nnjax.Network:
        x, y = data.train
        words, classes = self.net, int(y.max()) + 1
        return nnjax.architecture.parse(
            words, x.shape[1:], classes, activation=nnjax.relu, initializer=he
        )

    def optimizer(self, n: int) -> optax.GradientTransformation:
        """Return Adam, its rate in one cycle over all steps of training on n images."""
        steps = -(-n // self.batch_size) * self.epochs
        return optimizers.by_name("adam", optimizers.schedule("one_cycle", self.peak, steps))

    def epochs_of_training(self, data: Dataset, seed: int) -> Iterator[Params]:
        """Yield the parameters after every epoch; nothing is measured on the way."""
        net, key = self.network(data), jax.random.key(seed)
        if self.mixup is not None:
            yield from self._mixed_up(self.mixup, net, data, key)
            return
        for state, _ in train_epochs(
            net,
            Dataset(data.train, None, None),
            optimizer=self.optimizer(len(data.train[0])),
            epochs=self.epochs,
            batch_size=self.batch_size,
            key=key,
            evaluate_on=[],
            augment=self.augment,
            regularizer=self.regularizer,
        ):
            yield jax.block_until_ready(state).params

    def _mixed_up(
        self, alpha: float, net: nnjax.Network, data: Dataset, key: Any
    ) -> Iterator[Params]:
        key_of_start, key = jax.random.split(key)
        x, y = map(jnp.asarray, data.train)
        params = nnjax.init(net, key_of_start)
        state = params, self.optimizer(len(x)).init(params)
        for epoch in range(self.epochs):
            state = self._mixed_up_epoch(net, alpha, state, jax.random.fold_in(key, epoch), x, y)
            yield jax.block_until_ready(state)[0]

    @partial(jax.jit, static_argnums=(0, 1))
    def _mixed_up_epoch(self, net, alpha, state, key, x, y):
        n, regularizer = len(x), self.regularizer or Regularizer()
        key_of_order, key = jax.random.split(key)
        keys = jax.random.split(key, n // self.batch_size)
        order = jax.random.permutation(key_of_order, n)
        batches = order[: len(keys) * self.batch_size].reshape(len(keys), self.batch_size)

        def step(state, drawn):
            (params, opt_state), (batch, key) = state, drawn
            key_of_share, key_of_dropout = jax.random.split(key)
            share = jax.random.beta(key_of_share, alpha, alpha)

            def mixed(a):
                return share * a + (1 - share) * a[::-1]

            images, targets = mixed(x[batch] / 255), mixed(jax.nn.one_hot(y[batch], net.n_out))
            _, grads = loss_and_gradient(net, params, images, targets, key_of_dropout)
            grads = jax.tree.map(jnp.add, grads, regularizer.gradient(params, n))
            updates, opt_state = self.optimizer(n).update(grads, opt_state, params)
            return (regularizer.project(optax.apply_updates(params, updates)), opt_state), None

        return jax.lax.scan(step, state, (batches, keys))[0]

    def __str__(self) -> str:
        augment = getattr(self.augment, "__name__", self.augment)
        parts = [f"{self.epochs} epochs", f"mini-batch {self.batch_size}", f"peak {self.peak:g}"]
        parts += [str(part) for part in (augment, self.regularizer) if part]
        parts += [f"mixup {self.mixup:g}"] if self.mixup is not None else []
        parts += [f"outputs averaged over {(2 * self.shifts + 1) ** 2} shifts"] * bool(self.shifts)
        return f"{self.net}: {', '.join(parts)}"


@dataclass(frozen=True)
class Record:
    """What is tried for, the recipe for it, and the main others that it was chosen from."""

    goal: float | None
    """The accuracy on the test images that each seed is held against, where there is one."""
    chosen: Recipe
    others: tuple[Recipe, ...] = ()
    seeds: int = 10
    data: str = "mnist"
    all_images: bool = False
    """Whether the chosen recipe is trained on the validation images too."""


@dataclass
class Result:
    """What was measured of a recipe: an entry per seed."""

    recipe: str
    parameters: int
    compiling: float
    seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    validation_averaged: list[float] = field(default_factory=list)
    test: list[float] = field(default_factory=list)
    test_averaged: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        compiled = [seconds + self.compiling for seconds in self.seconds]
        rows = {"seconds": self.seconds, "seconds, with compiling": compiled}
        rows["processor seconds"] = self.processor_seconds
        for part in ("validation", "test"):
            for averaged in ("", "_averaged"):
                accuracies = getattr(self, part + averaged)
                name = f"{part} accuracy, %{', averaged' * bool(averaged)}"
                rows[name] = [100 * accuracy for accuracy in accuracies]
        lines = [self.recipe]
        lines += [f"{self.parameters:,} parameters, {len(self.seconds)} seeds"]
        lines += [f"{'':34}{'minimum':>9}{'median':>9}{'maximum':>9}"]
        for name, values in rows.items():
            if values:
                spread = min(values), statistics.median(values), max(values)
                lines.append(f"  {name:32}" + "".join(f"{value:9.2f}" for value in spread))
        return "\n".join(lines)

    def measure(self, part: str, net: nnjax.Network, params: Params, images: Any, shifts: int):
        """Add the accuracy on a part of the data, and that of outputs averaged over shifts."""
        getattr(self, part).append(_accuracy(net, params, images))
        if shifts:
            averaged = _averaged_accuracy(net, params, images, shifts)
            getattr(self, f"{part}_averaged").append(averaged)


def trained(
    recipes: Sequence[Recipe], data: Dataset, seeds: Sequence[int], test: bool
) -> list[Result]:
    """Train each recipe from each seed, in turns; return what was measured of each recipe.

    Args:
        recipes: what to train with.
        data: validation images, where there are any, are looked at when a seed is trained, test
            images not before all are.
        seeds: of the random keys.
        test: whether the test images are looked at.
    """
    nets = [recipe.network(data) for recipe in recipes]
    results, kept = [], []
    for recipe, net in zip(recipes, nets, strict=True):
        first, again = (_first_epoch(recipe, data, seeds[0]) for _ in range(2))
        parameters = nnjax.summary(net).parameters
        results.append(Result(str(recipe), parameters, max(first - again, 0.0)))
    for seed in seeds:
        for recipe, net, result in zip(recipes, nets, results, strict=True):
            start, processor = time.perf_counter(), time.process_time()
            *_, params = recipe.epochs_of_training(data, seed)
            result.seconds.append(time.perf_counter() - start)
            result.processor_seconds.append(time.process_time() - processor)
            kept.append((recipe, net, result, jax.device_get(params)))
            reached = "trained"
            if data.validation is not None:
                result.measure("validation", net, params, data.validation, recipe.shifts)
                reached = f"{result.validation[-1]:.2%} of the validation images"
            print(
                f"Seed {seed}: {reached} after {result.seconds[-1]:.2f} s ({recipe.net})",
                flush=True,
            )
    for recipe, net, result, params in kept if test else ():
        result.measure("test", net, params, data.test, recipe.shifts)
    return results


def _first_epoch(recipe: Recipe, data: Dataset, seed: int) -> float:
    start = time.perf_counter()
    next(recipe.epochs_of_training(data, seed))
    return time.perf_counter() - start


def _accuracy(net: nnjax.Network, params: Any, part: Any) -> float:
    x, y = part
    return int(nnjax.evaluate(net, params, x, y).correct) / len(y)


def _averaged_accuracy(net: nnjax.Network, params: Any, part: Any, shifts: int) -> float:
    """Return the accuracy of the mean output over all shifts by up to so many pixels."""
    x, y = part
    height, width = x.shape[1:3]
    margins = np.pad(x, [(0, 0), (shifts, shifts), (shifts, shifts), (0, 0)])
    starts = range(2 * shifts + 1)
    outputs = [
        np.asarray(
            nnjax.predict_proba(net, params, margins[:, top : top + height, left : left + width])
        )
        for top in starts
        for left in starts
    ]
    return float(np.mean(np.sum(outputs, axis=0).argmax(axis=1) == y))


def noisy(key: jax.Array, x: jax.Array) -> jax.Array:
    """Return grey levels, 0 to 1, plus normal noise of deviation 0.3, alike for every pixel."""
    noise = jax.random.normal(key, (x.size,), jnp.float32)
    return x.astype(jnp.float32) / 255 + 0.3 * noise.reshape(x.shape)


_AFFINE = Distortion(shift=1, rotation=10.0, scaling=0.1)
_STRONGER = Distortion(shift=2, rotation=12.0, scaling=0.15, skew=0.2)
_SKEWED = Distortion(shift=1, rotation=12.0, scaling=0.12, skew=0.2)
_SMALL = "conv8k5:silu pool2 conv16k3:silu*2 pool2 conv16k3:silu"
_ACCURATE = "conv24k5:silu pool2 conv48k3:silu*2 pool2 conv96k3:silu dropout0.3"
_WIDER = "conv32k5:silu pool2 conv64k3:silu*2 pool2 conv128k3:silu dropout0.3"

RECORDS = {
    "fastest": Record(
        0.99,
        Recipe("conv16k5s2 conv32k3 pool2 dense100", 4, 50, 0.006),
        (
            Recipe("conv16k5s2 conv32k3 pool2 dense100", 3, 50, 0.006),
            Recipe("conv16k5 pool2 conv32k5 pool2 dense100", 2, 50, 0.006),
            Recipe("conv16k5 pool2 conv32k5s2 dense100", 2, 50, 0.006),
            Recipe("conv16k5 pool2 conv32k5s2 dense100", 3, 50, 0.006),
            Recipe("conv16k5s2 conv32k5s2 dense100", 4, 50, 0.006),
            Recipe("conv16k5s2 conv32k5s2 dense100", 5, 50, 0.006),
            Recipe("conv12k5 pool2 conv48k5s2 dense100", 2, 50, 0.006),
            Recipe("conv24k5s2 conv48k5s2 dense100", 4, 50, 0.005),
        ),
        seeds=20,
    ),
    "accurate": Record(
        0.996,
        Recipe(_ACCURATE, 24, 100, 0.003, _SKEWED, shifts=1),
        (
            Recipe(_ACCURATE, 15, 100, 0.003, _AFFINE),
            Recipe(_ACCURATE, 15, 100, 0.003, _STRONGER),
            Recipe(_WIDER, 18, 100, 0.003, _STRONGER),
            Recipe(
                "conv24k5 pool2 conv48k3*2 pool2 conv96k3 dropout0.3", 15, 100, 0.003, _STRONGER
            ),
            Recipe("conv24k5 pool2 conv48k5 pool2 dense128", 18, 100, 0.003, _AFFINE),
        ),
        all_images=True,
    ),
    "small": Record(
        0.994,
        Recipe(_SMALL, 40, 100, 0.006, _STRONGER, shifts=1),
        (
            Recipe(_SMALL, 60, 100, 0.006, _AFFINE),
            Recipe("conv8k5 pool2 conv16k3*2 pool2 conv16k3", 30, 100, 0.006, _AFFINE),
            Recipe("conv8k5 pool2 conv16k3*2 pool2 conv16k3 meanpool2", 30, 100, 0.01, _AFFINE),
            Recipe("conv8k3 conv12k3 pool2 conv16k3 pool2 conv16k3", 30, 100, 0.01, _AFFINE),
            Recipe("conv8k5 pool2 conv12k3 conv16k3 pool2 conv16k3", 30, 100, 0.01, _AFFINE),
        ),
        all_images=True,
    ),
    "mlp": Record(
        0.988,
        Recipe(
            "dense1000 dropout0.3 dense1000 dropout0.3",
            50,
            200,
            0.002,
            regularizer=MaxNorm(2.0),
            mixup=0.5,
        ),
        (
            Recipe(
                "dropout0.2 dense800 dropout0.5 dense800 dropout0.5",
                30,
                200,
                0.0015,
                regularizer=MaxNorm(2.0),
            ),
            Recipe(
                "dropout0.2 dense1200 dropout0.5 dense1200 dropout0.5",
                30,
                200,
                0.001,
                regularizer=MaxNorm(2.0),
            ),
            Recipe(
                "dense1200 dropout0.5 dense1200 dropout0.5", 20, 200, 0.0015, noisy, MaxNorm(2.0)
            ),
        ),
        all_images=True,
    ),
    "fashion": Record(
        None,
        Recipe("conv24k3 pool2 conv48k3*2 pool2 dropout0.3 dense128", 12, 100, 0.002),
        (
            Recipe(
                "conv24k3 pool2 dropout0.1 conv48k3*2 pool2 dropout0.3 dense128 dropout0.4",
                12,
                100,
                0.002,
            ),
            Recipe(
                "conv24k5 pool2 dropout0.2 conv48k5 pool2 dropout0.3 dense128 dropout0.4",
                12,
                100,
                0.002,
            ),
            Recipe(
                "conv24k5 pool2 conv48k5 pool2 dense128 dropout0.5",
                12,
                100,
                0.003,
                Distortion(shift=1),
            ),
            Recipe("conv24k5 pool2 conv48k5 pool2 dense128", 9, 100, 0.003, Distortion(shift=2)),
        ),
        data="fashion-mnist",
        all_images=True,
    ),
}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("record", choices=RECORDS, help="what is tried for")
    parser.add_argument(
        "--seeds", type=int, help="how many random seeds; without it 20 for fastest, otherwise 10"
    )
    parser.add_argument(
        "--choose",
        action="store_true",
        help="compare all recipes of the record on the validation images, not on the test images",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures there")
    run(parser, report)


def report(args: argparse.Namespace) -> None:
    """Train for a record, and print what was measured."""
    record = RECORDS[args.record]
    seeds = range(record.seeds if args.seeds is None else args.seeds)
    if not seeds:
        raise ValueError(f"--seeds is {args.seeds}; expected at least 1")
    machine = (
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}"
    )
    print(machine, flush=True)
    data = nnjax.data.load(record.data, data_dir=args.data_dir)
    recipes = [record.chosen, *record.others] if args.choose else [record.chosen]
    if record.all_images and not args.choose:
        parts = [part for part in (data.train, data.validation) if part is not None]
        x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        data = data._replace(train=(x, y), validation=None)
    print(f"Training on {len(data.train[0]):,} images", flush=True)
    results = trained(recipes, data, seeds, test=not args.choose)
    for result in results:
        print(f"\n{result}")
        tested = {"": result.test, ", outputs averaged": result.test_averaged}
        for how, accuracies in tested.items():
            if accuracies and record.goal is not None:
                reached = sum(np.array(accuracies) >= record.goal)
                print(f"  {record.goal:.2%} of the test images reached from {reached} seeds{how}")
    if args.json is not None:
        content = {"machine": machine, "record": args.record}
        content["results"] = [vars(result) for result in results]
        args.json.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
