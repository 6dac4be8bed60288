"""The book's chapter 5: why deep networks are hard to train.

    python scripts/chapter5.py --seeds 3

trains one to four hidden layers of 30 sigmoid neurons on MNIST (cross-entropy, η 0.1, λ 5) and
prints, as Markdown, the accuracy that they reach and how fast each hidden layer learns: ‖mean δ^l‖
over the first 1,000 training images, at the start, and after 500 steps of gradient descent on
those images alone. The seed decides the norms as much as the depth does: compare their ratios.
"""

from __future__ import annotations

import argparse

import numpy as np
from common import options, run

import nnjax
from nnjax.book import chapter5
from nnjax.data import Dataset

ACCURACY = {1: 96.48, 2: 96.90, 3: 96.57, 4: 96.53}
AT_THE_START = {2: "0.066 0.309", 3: "0.012 0.060 0.283", 4: "0.0030 0.0171 0.0695 0.285"}
AFTER_500 = {4: "8.2e-6 2.6e-5 1.8e-4 9.2e-4"}


def accuracy(depth: int, data: Dataset, seed: int) -> float:
    """Return the best validation accuracy of 30 epochs, in percent."""
    history = chapter5.setting(depth).run(data, seed, ["validation"])
    return 100 * history["validation_accuracy"].max()


def norms(depth: int, data: Dataset, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ‖mean δ^l‖ of the hidden layers, at the start and after 500 full-batch steps."""
    by_epoch = chapter5.norms(depth, data, seed)
    return by_epoch[0], by_epoch[-1]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--seeds", type=int, default=3, help="number of runs, each with its own seed"
    )
    run(parser, compare)


def compare(args: argparse.Namespace) -> None:
    data = nnjax.data.load("mnist", data_dir=args.data_dir)
    print("| hidden layers | figure | expected | median | by seed |")
    print("| --- | --- | --- | --- | --- |")

    def row(depth, figure, expected, median, each):
        print(f"| {depth} | {figure} | {expected} | {median} | {each} |", flush=True)

    def words(values):
        return " ".join(f"{v:.2g}" for v in values)

    for depth in range(2, 5):
        runs = [norms(depth, data, seed) for seed in range(args.seeds)]
        expected = (AT_THE_START, AFTER_500)
        for i, figure in enumerate(("norms at the start", "norms after 500 steps")):
            found = np.stack([run[i] for run in runs])
            each = ", ".join(map(words, found))
            row(depth, figure, expected[i].get(depth, ""), words(np.median(found, axis=0)), each)
    for depth, expected in ACCURACY.items():
        found = [accuracy(depth, data, seed) for seed in range(args.seeds)]
        each = " ".join(f"{value:.2f}" for value in found)
        row(depth, "validation accuracy, best", expected, f"{np.median(found):.2f}", each)


if __name__ == "__main__":
    main()
