"""Train MNIST with differential privacy: DP-SGD, with clipping that costs one contraction more.

    python scripts/dp_sgd.py

Each step clips the gradient of every example to the same norm, takes the mean, and adds Gaussian
noise in proportion to that norm, so that no single image shows much in the result. Elsewhere this
takes the gradients of all examples; here `per_example.clipped_gradient` takes norms from inputs
and errors, and the noise is optax's. Prints test accuracy and what share of gradients was clipped,
and the same training without privacy beside it.

How much privacy a noise multiplier buys over a number of steps is for an accountant to say, such as
the package dp-accounting. For scale: noise 1.1 over 60 epochs at batch 256 of 60,000 is an epsilon
of 3.0 at delta 1e-5, by the tutorial of TensorFlow Privacy. Reference: Abadi et al. 2016,
arXiv:1607.00133.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import optax
from common import options, run

import nnjax


def main() -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--clip-norm", type=float, default=1.0, help="C, the largest norm of one example's gradient"
    )
    parser.add_argument("--noise", type=float, default=1.1, help="noise multiplier σ")
    parser.add_argument("--rate", type=float, default=0.5, help="learning rate")
    parser.add_argument("--batch-size", type=int, default=250, help="mini-batch size")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the training data")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    run(parser, compare)


def compare(args: argparse.Namespace) -> None:
    data = nnjax.data.load("mnist", data_dir=args.data_dir)
    net = nnjax.mlp(
        [784, 128, 10],
        activation=nnjax.tanh,
        loss=nnjax.log_likelihood,
        initializer=nnjax.initializers.glorot,
    )
    key = jax.random.key(args.seed)
    params = nnjax.init(net, key)
    for private in (False, True):
        print(f"\n{'DP-SGD' if private else 'SGD, without privacy'}")
        train(args, net, data, params, private, jax.random.fold_in(key, 1))


def train(args, net, data, params, private, key):
    x, y = map(jnp.asarray, data.train)
    steps = len(x) // args.batch_size
    noise = optax.contrib.differentially_private_aggregate(
        args.clip_norm, args.noise / args.batch_size, jax.random.fold_in(key, 0)
    )

    @jax.jit
    def epoch(params, noise_state, key, x, y):
        rows = jax.random.permutation(key, len(x))[: steps * args.batch_size]

        def step(carry, rows):
            params, noise_state = carry
            bp = nnjax.backprop(net, params, x[rows], y[rows])
            norms = jnp.sqrt(nnjax.per_example.squared_norms(net, params, bp))
            grads = bp.grads
            if private:
                clipped = nnjax.per_example.clipped_gradient(net, params, bp, args.clip_norm)
                one = jax.tree.map(lambda g: g[None], clipped)  # a batch of one, clipped already
                grads, noise_state = noise.update(one, noise_state)
            params = jax.tree.map(lambda p, g: p - args.rate * g, params, grads)
            return (params, noise_state), jnp.mean(norms > args.clip_norm)

        carry, clipped = jax.lax.scan(
            step, (params, noise_state), rows.reshape(steps, args.batch_size)
        )
        return *carry, jnp.mean(clipped)

    noise_state = noise.init(params)
    for i in range(args.epochs):
        params, noise_state, share = epoch(
            params, noise_state, jax.random.fold_in(key, i + 1), x, y
        )
        accuracy = float(nnjax.accuracy(net, params, *data.test))
        above = f"{share:.0%} of gradients above the norm"
        print(f"Epoch {i}: test accuracy {accuracy:.2%}, {above}", flush=True)


if __name__ == "__main__":
    main()
