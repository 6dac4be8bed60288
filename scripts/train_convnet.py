"""Convolutional networks on MNIST, as in chapter 6 of the book.

    python scripts/train_convnet.py
    python scripts/train_convnet.py --net "conv20k5 pool2 dense100" --activation sigmoid --epochs 20

The first trains two convolutions with rectified linear units; the second is the first network of
the chapter that convolves, where the book reports 98.78 %. The words of --net are explained in
nnjax/architecture.py. The test images are read once, with the parameters of the epoch that was
best on the validation images.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax

import nnjax
from nnjax.training import optimizers, train_epochs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    activations = ["sigmoid", "tanh", "relu", "leaky_relu", "absolute"]
    option = parser.add_argument
    option("--net", default="conv20k5 pool2 conv40k5 pool2 dense100", help="default: %(default)s")
    option("--activation", choices=activations, default="relu", help="default: %(default)s")
    option("--data-dir", type=Path, help="where the files of MNIST are")
    option("--rate", type=float, default=0.003, help="Adam's highest (default: %(default)s)")
    option("--batch-size", type=int, default=100, help="default: %(default)s")
    option("--epochs", type=int, default=12, help="default: %(default)s")
    option("--seed", type=int, default=0, help="default: %(default)s")
    try:
        train(parser.parse_args())
    except (ArithmeticError, OSError, TypeError, ValueError) as error:
        parser.exit(2, f"train_convnet: {error}\n")


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
        right, seconds = record["validation_correct"], time.perf_counter() - start
        print(f"Epoch {record['epoch']}: {right} / 10000 after {seconds:.0f} s", flush=True)
        if right > best:
            best, params = right, jax.device_get(state.params)
    assert data.test is not None  # MNIST has test images
    test = nnjax.evaluate(net, params, *data.test)
    print(f"Best on the validation images: {best / 100:.2f} %")
    print(f"The same parameters on the test images: {test.correct / 100:.2f} %")


if __name__ == "__main__":
    main()
