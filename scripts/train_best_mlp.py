"""The best that networks of dense layers do on MNIST here, chosen by the validation images.

    python scripts/train_best_mlp.py adversarial  two hidden layers of 1200, no other data
    python scripts/train_best_mlp.py distorted    one hidden layer of 800, distorted images

`adversarial` does not know that its inputs are pictures: it would do as well if all were permuted
in the same way. In every step each image is moved a little in the direction that raises its loss,
which is BP2 carried on to the inputs (Goodfellow et al. 2015, arXiv:1412.6572). `distorted` follows
Simard et al. 2003 (99.3 %), with rectifiers. The parameters of the epoch with the best validation
accuracy are measured on the test images, once, at the end.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from common import options, run

import nnjax
from nnjax import Dense, Network, log_likelihood, relu, softmax
from nnjax.data import Dataset
from nnjax.descent import loss_and_gradient
from nnjax.initializers import he
from nnjax.network import Params
from nnjax.regularizers import MaxNorm
from nnjax.training import optimizers, train_epochs
from nnjax.training.augmentation import Distortion

Epochs = Iterator[tuple[Params, float]]
"""Of every epoch: the parameters, and the loss of the training images."""


@dataclass(frozen=True)
class Adversarial:
    """Two hidden layers of 1200, and images that are moved against the network."""

    epochs: int = 40
    batch_size: int = 200
    peak: float = 2e-3
    size: float = 0.1
    """How far every pixel is moved; black is 0, white 1."""
    net = Network(
        784, [Dense(1200, relu, he), Dense(1200, relu, he), Dense(10, softmax, he)], log_likelihood
    )

    def train(self, data: Dataset, optimizer: optax.GradientTransformation, key: Any) -> Epochs:
        x, y = (jnp.asarray(a) for a in data.train)
        params = nnjax.init(self.net, key)
        opt_state = optimizer.init(params)
        for epoch in range(self.epochs):
            key_of_epoch = jax.random.fold_in(key, epoch)
            params, opt_state, loss = self.epoch(optimizer, params, opt_state, key_of_epoch, x, y)
            yield params, float(loss)

    @partial(jax.jit, static_argnums=(0, 1))
    def epoch(self, optimizer, params, opt_state, key, x, y):
        batches = jax.random.permutation(key, len(x)).reshape(-1, self.batch_size)

        def step(carry, batch):
            params, opt_state = carry
            x_moved = self.moved(params, x[batch].reshape(-1, 784) / 255, y[batch])
            loss, grads = loss_and_gradient(self.net, params, x_moved, y[batch])
            updates, opt_state = optimizer.update(grads, opt_state, params)
            params = MaxNorm(2.0).project(optax.apply_updates(params, updates))
            return (params, opt_state), loss

        (params, opt_state), losses = jax.lax.scan(step, (params, opt_state), batches)
        return params, opt_state, jnp.mean(losses)

    def moved(self, params, x, y):
        """Return x + size · sign(∂C/∂x), where ∂C_x/∂x = w¹ᵀ δ¹: BP2 carried on to the inputs."""
        delta = nnjax.backprop(self.net, params, x, y).errors[0]
        return x + self.size * jnp.sign(delta @ params[0].w)


@dataclass(frozen=True)
class Distorted:
    """One hidden layer of 800, and images that are distorted again in every step."""

    epochs: int = 100
    batch_size: int = 100
    peak: float = 2e-3
    augment = Distortion(shift=1, rotation=10.0, scaling=0.1, elastic=34.0)
    net = Network(784, [Dense(800, relu, he), Dense(10, softmax, he)], log_likelihood)

    def train(self, data: Dataset, optimizer: optax.GradientTransformation, key: Any) -> Epochs:
        for state, record in train_epochs(
            self.net,
            data,
            optimizer=optimizer,
            epochs=self.epochs,
            batch_size=self.batch_size,
            key=key,
            evaluate_on=[],
            augment=self.augment,
        ):
            # A copy: the next epoch writes over the state it starts from.
            yield jax.tree.map(jnp.copy, state.params), record["train_loss"]


RECIPES = {"adversarial": Adversarial, "distorted": Distorted}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument(
        "recipe", choices=RECIPES, help="network and data augmentation to train with"
    )
    parser.add_argument(
        "--epochs", type=int, help="passes over the training data; without it as in the recipe"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    run(parser, chosen)


def chosen(args: argparse.Namespace) -> None:
    epochs = {} if args.epochs is None else {"epochs": args.epochs}
    train(RECIPES[args.recipe](**epochs), args.data_dir, args.seed)


def train(recipe: Adversarial | Distorted, data_dir: Path | None, seed: int) -> None:
    start = time.perf_counter()
    data: Any = nnjax.data.load("mnist", data_dir=data_dir)
    steps = recipe.epochs * -(-len(data.train[0]) // recipe.batch_size)
    rate = optimizers.schedule("one_cycle", recipe.peak, steps)
    optimizer, validation = optimizers.by_name("adam", rate), [*map(jnp.asarray, data.validation)]
    best: Any = (0.0, None, None)
    for epoch, (params, loss) in enumerate(recipe.train(data, optimizer, jax.random.key(seed))):
        accuracy = float(nnjax.accuracy(recipe.net, params, *validation))
        if accuracy > best[0]:
            best = accuracy, epoch, params
        seconds = time.perf_counter() - start
        print(
            f"Epoch {epoch}: {accuracy:.2%} of the validation images, loss {loss:.4f}, "
            f"{seconds:.0f} s in all",
            flush=True,
        )
    _, epoch, params = best
    accuracy = float(nnjax.accuracy(recipe.net, params, *map(jnp.asarray, data.test)))
    seconds = time.perf_counter() - start
    print(f"Epoch chosen by validation: {epoch}; test {accuracy:.2%}; {seconds:.0f} s in all")


if __name__ == "__main__":
    main()
