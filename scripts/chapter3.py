"""The book's chapter 3: cross-entropy, overfitting, regularisation, initialisation, rates, sizes.

    python scripts/chapter3.py --seeds 3

trains sigmoid networks with the cross-entropy on MNIST and prints a table of what the book (or its
code) gives and what comes out here, as Markdown. `--only` names single experiments. All of it takes
about six minutes on two cores.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from common import options, run

import nnjax
from nnjax.book import Setting
from nnjax.book.chapter3 import FEW, SLOW
from nnjax.initializers import default, large
from nnjax.training import History


@dataclass(frozen=True)
class Experiment:
    """A setting, what is measured, and what the book gives for it."""

    title: str
    setting: Setting
    measures: tuple[tuple[str, str, float], ...]
    """Of each figure: a name in the history, `first`, `last` or `best` epoch, the expected value
    (accuracies in percent)."""


SIZES = {
    100: 69.09,
    200: 76.37,
    500: 85.29,
    1000: 88.85,
    2000: 91.27,
    5000: 93.24,
    10000: 94.89,
    20000: 95.85,
    50000: 95.97,
}
EXPERIMENTS = {
    "cross-entropy": [
        Experiment(f"{hidden} hidden", Setting((hidden,)), (("test_accuracy", "best", expected),))
        for hidden, expected in ((30, 95.49), (100, 96.82))
    ],
    "overfitting": [
        Experiment(
            "30 hidden, 1,000 images, 400 epochs",
            Setting(**FEW),
            (
                ("test_accuracy", "last", 82.27),
                ("train_accuracy", "last", 100.0),
                ("test_loss", "best", 1.203),
                ("test_loss", "last", 1.773),
            ),
        ),
        Experiment(
            "the same, λ 0.1", Setting(**FEW, lmbda=0.1), (("test_accuracy", "best", 87.1),)
        ),
    ],
    "regularisation": [
        Experiment(
            "30 hidden",
            Setting(),
            (("test_accuracy", "last", 95.33), ("train_accuracy", "last", 97.86)),
        ),
        Experiment(
            "30 hidden, λ 5",
            Setting(lmbda=5.0),
            (("test_accuracy", "best", 96.49), ("train_accuracy", "last", 97.12)),
        ),
        Experiment(
            "100 hidden, λ 5",
            Setting(hidden=(100,), lmbda=5.0),
            (("validation_accuracy", "best", 97.92),),
        ),
        Experiment(
            "100 hidden, λ 5, η 0.1, 60 epochs",
            Setting(hidden=(100,), epochs=60, **SLOW),
            (("validation_accuracy", "best", 98.04),),
        ),
    ],
    "initialisation": [
        Experiment(
            f"{hidden} hidden, {name} initialisation, η 0.1, λ 5",
            Setting(hidden=(hidden,), initializer=initializer, **SLOW),
            (("validation_accuracy", "first", first), ("validation_accuracy", "last", last)),
        )
        for hidden, name, initializer, first, last in (
            (30, "default", default, 92.70, 96.50),
            (30, "large", large, 86.43, 96.37),
            (100, "default", default, 92.95, 97.81),
            (100, "large", large, 89.94, 97.42),
        )
    ],
    "rates": [
        Experiment(
            f"30 hidden, default initialisation, λ 5, η {eta}",
            Setting(eta=eta, lmbda=5.0, initializer=default),
            (("train_cost", "first", first), ("train_cost", "last", last)),
        )
        for eta, first, last in ((0.025, 0.878, 0.339), (0.25, 0.495, 0.339), (2.5, 0.925, 0.861))
    ],
    "sizes": [
        Experiment(
            f"30 hidden, {size:,} images, {1_500_000 // size} epochs, λ {size * 1e-4:g}",
            Setting(examples=size, epochs=1_500_000 // size, lmbda=size * 1e-4, every_epoch=False),
            (("validation_accuracy", "last", expected),),
        )
        for size, expected in SIZES.items()
    ],
}


def figure(history: History, name: str, which: str) -> float:
    """Return one figure of a run; the best accuracy is the largest, the best loss the smallest."""
    if name == "train_cost":
        values = history["train_loss"] + history["penalty"]
    else:
        values = history[name] * (100 if name.endswith("accuracy") else 1)
    best = np.min if name.endswith("loss") else np.max
    return {"first": values[0], "last": values[-1], "best": best(values)}[which]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--seeds", type=int, default=3, help="number of runs, each with its own seed"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=EXPERIMENTS,
        default=list(EXPERIMENTS),
        help="experiments to run",
    )
    run(parser, compare)


def compare(args: argparse.Namespace) -> None:
    data = nnjax.data.load("mnist", data_dir=args.data_dir)
    print("| setting | figure | expected | median | by seed |")
    print("| --- | --- | --- | --- | --- |")
    for name in args.only:
        for experiment in EXPERIMENTS[name]:
            parts = {measure.split("_")[0] for measure, _, _ in experiment.measures}
            histories = [
                experiment.setting.run(data, seed, sorted(parts)) for seed in range(args.seeds)
            ]
            for measure, which, expected in experiment.measures:
                figures = [figure(history, measure, which) for history in histories]
                digits = 2 if measure.endswith("accuracy") else 3
                median, *each = (f"{v:.{digits}f}" for v in (np.median(figures), *figures))
                label = f"{measure.replace('_', ' ')}, {which}"
                print(
                    f"| {experiment.title} | {label} | {expected} | {median} | {' '.join(each)} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
