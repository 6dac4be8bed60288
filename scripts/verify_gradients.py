"""Find a mistake in a hand-written backpropagation: the book's own `Network.backprop`, spoilt.

    python scripts/verify_gradients.py

`backprop` below is the one of the book's network.py, for one example in column vectors, with one
mistake planted in it, of a kind that is easy to make and hard to see: training still works a
little. The check says that the gradient is wrong, in which step, and what the step lacks. With
`--fixed` the same code without the mistake passes. The command line does the same for any file:

    nnjax check scripts/verify_gradients.py:backprop --sizes 11 7 5 3 --loss quadratic
"""

from __future__ import annotations

import argparse
import functools
import sys

import numpy as np
from common import options, run

import nnjax

SIZES = [11, 7, 5, 3]


def backprop(params, x, y, fixed=False):
    """Return (nabla_b, nabla_w), the gradient for one example; x and y are column vectors."""
    biases = [np.reshape(b, (-1, 1)) for _, b in params]
    weights = [np.asarray(w) for w, _ in params]
    nabla_b = [np.zeros(b.shape) for b in biases]
    nabla_w = [np.zeros(w.shape) for w in weights]
    # feedforward
    activation = x
    activations = [x]  # all the activations, layer by layer
    zs = []  # all the z vectors, layer by layer
    for b, w in zip(biases, weights, strict=True):
        z = np.dot(w, activation) + b
        zs.append(z)
        activation = sigmoid(z)
        activations.append(activation)
    # backward pass
    delta = (activations[-1] - y) * sigmoid_prime(zs[-1])
    nabla_b[-1] = delta
    nabla_w[-1] = np.dot(delta, activations[-2].transpose())
    for l in range(2, len(weights) + 1):
        # The planted mistake: the derivative of σ is taken at the activation, where σ has been
        # applied already, not at the weighted input.
        sp = sigmoid_prime(zs[-l] if fixed else activations[-l])
        delta = np.dot(weights[-l + 1].transpose(), delta) * sp
        nabla_b[-l] = delta
        nabla_w[-l] = np.dot(delta, activations[-l - 1].transpose())
    return nabla_b, nabla_w


def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))


def sigmoid_prime(z):
    return sigmoid(z) * (1 - sigmoid(z))


def main() -> None:
    parser = options(__doc__, mnist=False)
    parser.add_argument("--fixed", action="store_true", help="check the code without the mistake")
    run(parser, verify)


def verify(args: argparse.Namespace) -> int:
    net = nnjax.mlp(SIZES, loss=nnjax.quadratic)
    report = nnjax.check_backprop(net, functools.partial(backprop, fixed=args.fixed))
    print(report.render(color=sys.stdout.isatty()))
    return 0 if report.ok else 1


if __name__ == "__main__":
    main()
