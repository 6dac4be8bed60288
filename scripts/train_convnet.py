"""Convolutional networks on MNIST, as in chapter 6 of the book.

    python scripts/train_convnet.py
    python scripts/train_convnet.py --net "conv20k5 pool2 dense100" --activation sigmoid --epochs 20

The first trains two convolutions with rectified linear units; the second is the first network of
the chapter that convolves, where the book reports 98.78 %. The words of --net are explained in
nnjax/architecture.py. The test images are used once, with the parameters of the epoch that was
best on the validation images.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import jax
from common import options, run

import nnjax
from nnjax.training import optimizers, train_epochs


def main() -> None:
    parser = options(__doc__)
    activations = ["sigmoid", "tanh", "relu", "leaky_relu", "absolute"]
    option = parser.add_argument
    option("--net", default="conv20k5 pool2 conv40k5 pool2 dense100", help="hidden layers in words")
    option(
        "--activation",
        choices=activations,
        default="relu",
        help="activation function of the hidden layers",
    )
    option("--rate", type=float, default=0.003, help="highest learning rate of Adam")
    option("--batch-size", type=int, default=100, help="mini-batch size")
    option("--epochs", type=int, default=12, help="passes over the training data")
    option("--seed", type=int, default=0, help="random seed")
    run(parser, train)


def train(args: argparse.Namespace) -> None:
    activation = getattr(nnjax, args.activation)
    rectified = args.activation in ("relu", "leaky_relu", "absolute")
    net = nnjax.architecture.parse(
        args.net,
        (28, 28, 1),
        10,
        activation=activation,
        initializer=nnjax.initializers.he if rectified else nnjax.initializers.glorot,
    )
    print(nnjax.summary(net), flush=True)
    data = nnjax.data.load("mnist", data_dir=args.data_dir)
    steps = -(-len(data.train[0]) // args.batch_size) * args.epochs
    rate = optimizers.schedule("one_cycle", args.rate, steps)
    start, best = time.perf_counter(), 0
    params: Any = None
    for state, record in train_epochs(
        net,
        data,
        optimizer=optimizers.by_name("adam", rate),
        epochs=args.epochs,
        batch_size=args.batch_size,
        key=jax.random.key(args.seed),
        evaluate_on=["validation"],
    ):
        correct, seconds = record["validation_correct"], time.perf_counter() - start
        print(f"Epoch {record['epoch'] + 1}: {correct} of 10,000 after {seconds:.0f} s", flush=True)
        if correct > best:
            best, params = correct, jax.device_get(state.params)
    assert data.test is not None  # MNIST has test images
    test = nnjax.evaluate(net, params, *data.test)
    print(f"Best on the validation images: {best / 100:.2f} %")
    print(f"The same parameters on the test images: {test.correct / 100:.2f} %")


if __name__ == "__main__":
    main()
