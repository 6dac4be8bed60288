"""The book's first network that learns: chapter 1, "Implementing our network to classify digits".

    python scripts/train_mnist.py

trains [784, 30, 10] by mini-batch stochastic gradient descent, with the quadratic loss and all
weights and biases from N(0, 1), and prints how many test images it classifies correctly after each
epoch.
The book reports 9129, 9295 and 9348 of 10000 for the first three epochs, and 9542 at the best.
"""

from __future__ import annotations

import argparse

import jax
from common import options, run

import nnjax
from nnjax.training import optimizers, train_epochs


def main() -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--hidden", type=int, nargs="*", default=[30], help="sizes of the hidden layers"
    )
    parser.add_argument("--eta", type=float, default=3.0, help="learning rate")
    parser.add_argument("--batch-size", type=int, default=10, help="mini-batch size")
    parser.add_argument("--epochs", type=int, default=30, help="passes over the training data")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    run(parser, train)


def train(args: argparse.Namespace) -> None:
    data = nnjax.data.load("mnist", data_dir=args.data_dir)
    net = nnjax.mlp(
        [784, *args.hidden, 10], loss=nnjax.quadratic, initializer=nnjax.initializers.large
    )
    best = 0
    for _, record in train_epochs(
        net,
        data,
        optimizer=optimizers.by_name("sgd", args.eta),
        epochs=args.epochs,
        batch_size=args.batch_size,
        key=jax.random.key(args.seed),
        evaluate_on=["test"],
    ):
        print(f"Epoch {record['epoch'] + 1}: {record['test_correct']} of 10,000", flush=True)
        best = max(best, record["test_correct"])
    print(f"Best epoch: {best / 100:.2f} %")


if __name__ == "__main__":
    main()
