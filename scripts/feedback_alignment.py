"""Train MNIST by rules that carry errors back without the transpose of the weights.

    python scripts/feedback_alignment.py

trains [784, 256, 256, 10] by backpropagation and by each feedback rule, with the same optimizer,
number of epochs and starting weights, and prints, for each, the test error and the angle between
its updates and the gradient, layer by layer: below 90 degrees they go downhill. Random feedback
learns because the forward weights come to align with it.
"""

from __future__ import annotations

import argparse

import jax
import numpy as np
import optax
from common import options, run

import nnjax
from nnjax import feedback
from nnjax.training import train_epochs

RULES = [name for name in feedback.RULES if name != "transpose"]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--rules",
        nargs="*",
        choices=RULES,
        default=RULES,
        metavar="RULE",
        help="learning rules to compare",
    )
    parser.add_argument(
        "--activation",
        choices=["tanh", "relu"],
        default="tanh",
        help="activation function of the hidden layers",
    )
    parser.add_argument(
        "--hidden", type=int, nargs="+", default=[256, 256], help="sizes of the hidden layers"
    )
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of Adam")
    parser.add_argument("--batch-size", type=int, default=100, help="mini-batch size")
    parser.add_argument("--epochs", type=int, default=15, help="passes over the training data")
    parser.add_argument(
        "--seeds", type=int, default=3, help="number of runs, each with its own seed"
    )
    run(parser, compare)


def compare(args: argparse.Namespace) -> None:
    data = nnjax.data.load("mnist", data_dir=args.data_dir)
    net = nnjax.mlp(
        [784, *args.hidden, 10],
        activation=getattr(nnjax, args.activation),
        loss=nnjax.log_likelihood,
        initializer=nnjax.initializers.glorot,
    )
    print(f"{'rule':32}  test error in %, per seed            angle to the gradient by layer")
    for name in ["transpose", *args.rules]:
        runs = [train(args, net, data, name, seed) for seed in range(args.seeds)]
        errors = " ".join(f"{error:5.2f}" for error, _ in runs)
        angles = " ".join(f"{angle:4.0f}°" for angle in np.mean([a for _, a in runs], axis=0))
        mean = np.mean([error for error, _ in runs])
        print(f"{name:32}  {errors}  mean {mean:5.2f}  {angles}", flush=True)


def train(args, net, data, name, seed):
    """Return the test error in %, and the angles on 1,000 training images, after training."""
    key = jax.random.key(seed)
    rule = feedback.init(net, jax.random.fold_in(key, 2), name)
    steps = args.epochs * (len(data.train[0]) // args.batch_size)
    state, record = None, {}
    for state, record in train_epochs(  # noqa: B007  (the last one is looked at)
        net,
        data,
        optimizer=optax.adam(optax.cosine_decay_schedule(args.rate, steps)),
        epochs=args.epochs,
        batch_size=args.batch_size,
        key=key,
        evaluate_on=["test"],
        feedback=rule,
    ):
        pass
    assert state is not None
    x, y = (part[:1000] for part in data.train)
    grads = nnjax.backprop(net, state.params, x, y).grads
    updates = grads
    if state.feedback is not None:
        updates = nnjax.backprop(net, state.params, x, y, feedback=state.feedback).updates
    angles = feedback.alignment([u.w for u in updates], [g.w for g in grads])
    return 100 * (1 - record["test_accuracy"]), np.asarray(angles)


if __name__ == "__main__":
    main()
