"""Show the training images that a network finds hardest: those with the largest gradients.

    python scripts/hardest_examples.py --output hardest.png

trains on MNIST for a few epochs, takes the gradient norm of every training image (from the inputs
and errors of one backward pass, no gradient is written down), and draws the images with the
largest: many are mislabelled or cut off. Below each: its label, what the network reads, the norm.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import options, run

import nnjax


def main() -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("hardest.png"), help="PNG or SVG file to write"
    )
    parser.add_argument("--epochs", type=int, default=5, help="passes over the training data")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    run(parser, show)


def show(args: argparse.Namespace) -> None:
    if not args.output.resolve().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {args.output.resolve().parent} to write to")
    data = nnjax.data.load("mnist", data_dir=args.data_dir)
    net = nnjax.mlp(
        [784, 100, 10],
        activation=nnjax.relu,
        loss=nnjax.log_likelihood,
        initializer=nnjax.initializers.he,
    )
    state, history = nnjax.train(
        net,
        data,
        optimizer=optax.adam(1e-3),
        epochs=args.epochs,
        batch_size=50,
        key=jax.random.key(args.seed),
        evaluate_on=["test"],
    )
    print(f"test accuracy after {args.epochs} epochs: {history['test_accuracy'][-1]:.2%}")
    norms = gradient_norms(net, state.params, *data.train)
    share = np.sort(norms**2)[::-1].cumsum() / np.sum(norms**2)
    print(f"median norm {np.median(norms):.3g}, largest {norms.max():.3g}")
    print(f"the hardest 1 % carry {share[len(norms) // 100]:.0%} of the squared norms")
    draw(args.output, net, state.params, data.train, norms)
    print(f"wrote {args.output}")


def gradient_norms(net, params, x, y, batch_size=1000):
    """Return ‖∂C_x/∂θ‖ of every example (n,)."""

    @jax.jit
    def of_batch(x, y):
        bp = nnjax.backprop(net, params, x, y)
        return jnp.sqrt(nnjax.per_example.squared_norms(net, params, bp))

    starts = range(0, len(x), batch_size)
    return np.concatenate([of_batch(x[i : i + batch_size], y[i : i + batch_size]) for i in starts])


def draw(path, net, params, part, norms, rows=4, columns=8):
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('plotting requires matplotlib: pip install "nnjax[plots]"') from None
    hardest = np.argsort(-norms)[: rows * columns]
    x, y = (np.asarray(array)[hardest] for array in part)
    read = np.asarray(nnjax.predict(net, params, jnp.asarray(x)))
    figure = Figure(figsize=(columns * 1.15, rows * 1.5), layout="constrained")
    figure.suptitle("MNIST training images with the largest gradients, and their norms")
    for i, axes in enumerate(figure.subplots(rows, columns).ravel()):
        axes.imshow(x[i].reshape(28, 28), cmap="gray_r")
        axes.set_title(f"true {y[i]}, pred. {read[i]}\n{norms[hardest[i]]:.1f}", fontsize=9)
        axes.set_axis_off()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
