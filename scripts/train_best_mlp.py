"""The best that networks of dense layers do on MNIST here, chosen by the validation images.

    python scripts/train_best_mlp.py plain        two hidden layers of 1000, dropout, no other data
    python scripts/train_best_mlp.py distorted    one hidden layer of 800, distorted images

`plain` does not know that its inputs are pictures: it would do as well if all were permuted in the
same way. `distorted` follows Simard et al. 2003 (99.3 %), with rectifiers. The parameters of the
epoch with the best validation accuracy are measured on the test images, once, at the end.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import nnjax
from nnjax import Dense, Dropout, Network, log_likelihood, relu, softmax
from nnjax.initializers import he
from nnjax.regularizers import MaxNorm, Regularizer
from nnjax.training import EarlyStopping, optimizers, train_epochs
from nnjax.training.augmentation import Distortion


@dataclass(frozen=True)
class Recipe:
    """A network and how it is trained; mini-batches of 100, Adam, one cycle of the rate."""

    layers: tuple[nnjax.Layer, ...]
    epochs: int
    peak: float
    regularizer: Regularizer | None = None
    augment: Distortion | None = None


RECIPES = {
    "plain": Recipe(
        layers=(
            Dropout(0.2),
            Dense(1000, relu, he),
            Dropout(0.5),
            Dense(1000, relu, he),
            Dropout(0.5),
            Dense(10, softmax, he),
        ),
        epochs=45,
        peak=2e-3,
        regularizer=MaxNorm(2.0),
    ),
    "distorted": Recipe(
        layers=(Dense(800, relu, he), Dense(10, softmax, he)),
        epochs=100,
        peak=2e-3,
        augment=Distortion(shift=1, rotation=10.0, scaling=0.1, elastic=34.0),
    ),
}
BATCH = 100


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--data-dir", type=Path, help="where the files of MNIST are")
    parser.add_argument("--epochs", type=int, help="default: as in the recipe")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    try:
        train(parser.parse_args())
    except (ArithmeticError, OSError, ValueError) as error:
        parser.exit(2, f"train_best_mlp: {error}\n")


def train(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    recipe = RECIPES[args.recipe]
    epochs = recipe.epochs if args.epochs is None else args.epochs
    data: Any = nnjax.data.load("mnist", data_dir=args.data_dir)
    net = Network((784,), recipe.layers, log_likelihood)
    rate = optimizers.schedule("one_cycle", recipe.peak, epochs * (len(data.train[0]) // BATCH))
    state: Any = None
    for state, record in train_epochs(  # noqa: B007  (the last state is the result)
        net,
        data,
        optimizer=optimizers.by_name("adam", rate),
        epochs=epochs,
        batch_size=BATCH,
        key=jax.random.key(args.seed),
        evaluate_on=["validation"],
        regularizer=recipe.regularizer,
        augment=recipe.augment,
        early_stopping=EarlyStopping(patience=epochs),  # stops never, but keeps the best
    ):
        print(
            f"Epoch {record['epoch']}: {record['validation_accuracy']:.2%}, "
            f"loss {record['train_loss']:.4f}, {record['seconds']:.1f} s",
            flush=True,
        )
    best = state.stopping
    result = nnjax.evaluate(net, best.params, *map(jnp.asarray, data.test))
    print(
        f"Best by validation: epoch {int(best.best_epoch)}, {100 * float(best.best):.2f} %; "
        f"test {100 * float(result.accuracy):.2f} %; {time.perf_counter() - start:.0f} s in all"
    )


if __name__ == "__main__":
    main()
