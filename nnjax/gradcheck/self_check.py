"""Everything that nnjax derives by hand, held against autodiff, on this machine and device."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnjax import activations, losses, regularizers
from nnjax.backprop import backprop
from nnjax.gradcheck.backprop import check_backprop
from nnjax.gradcheck.check import check_gradient, check_vjp
from nnjax.gradcheck.layer import check_layer
from nnjax.gradcheck.report import GradientReport
from nnjax.layers import (
    Affine,
    Conv,
    Dense,
    Dropout,
    Flatten,
    L2Pool,
    LayerNorm,
    MaxPool,
    MeanPool,
    Residual,
)
from nnjax.network import Network, mlp

__all__ = ["Proof", "self_check"]

ACTIVATIONS = {  # perceptrons have no derivative
    name: activation
    for name, activation in activations.ACTIVATIONS.items()
    if activation not in (activations.step, activations.sign)
} | {"softmax, scale 2": activations.Softmax(2.0)}
LAYERS = {
    "Dense": Dense(5, activations.tanh),
    "Conv": Conv(3, (3, 2), activation=activations.tanh),
    "Conv, stride and padding": Conv(2, 3, stride=2, padding=1),
    "MaxPool": MaxPool(2),
    "MaxPool, overlapping": MaxPool(3, 2),
    "MeanPool": MeanPool(2),
    "L2Pool": L2Pool(3, 2),
    "Flatten": Flatten(),
    "LayerNorm": LayerNorm(activations.gelu),
}
NETWORKS = {
    "sigmoid, quadratic": mlp([11, 7, 5, 3], loss=losses.quadratic),
    "tanh, log_likelihood": mlp(
        [11, 7, 5, 3], activation=activations.tanh, loss=losses.log_likelihood
    ),
    "relu, cross_entropy": mlp([11, 7, 5, 3], activation=activations.relu),
    "layer normalization in residual blocks": Network(
        7,
        (
            Dense(5, activations.silu),
            Residual(LayerNorm(), Dense(5, activations.gelu), Residual(Dense(5, activations.elu))),
            Dense(3),
        ),
        losses.cross_entropy,
    ),
    "convolution and pooling": Network(
        (9, 8, 2),
        (Conv(3, (3, 2), activation=activations.relu), MaxPool(2), Flatten(), Dense(3)),
        losses.cross_entropy,
    ),
}


class Proof(NamedTuple):
    """One thing that was proved: of which kind, what it is called, and the report."""

    kind: str
    name: str
    report: GradientReport


def self_check() -> Iterator[Proof]:
    """Yield a proof for every activation, loss, layer and regularizer, and for whole networks.

    Example:
        >>> from nnjax.gradcheck.self_check import self_check
        >>> first = next(self_check())
        >>> first.kind, first.name, first.report.ok
        ('activation', 'sigmoid', True)
    """
    z = np.array([[0.3, -1.2, 2.0], [-0.4, 0.9, -2.5]])
    y = np.eye(3)[[1, 0]]
    for name, activation in ACTIVATIONS.items():
        yield Proof("activation", name, check_vjp(activation, partial(_pull_back, activation), z))
    for name, loss in losses.LOSSES.items():
        for output in ("sigmoid", "softmax", "identity" if name == "quadratic" else "tanh"):
            activation = ACTIVATIONS[output]
            at = z if output != "tanh" else np.abs(z)  # ln a takes outputs above 0
            report = check_gradient(
                partial(_loss_at, loss, activation), partial(_error_at, loss, activation), at, y
            )
            yield Proof("output error", f"{name} of {output}", report)
    for name, layer in LAYERS.items():
        yield Proof("layer", name, check_layer(layer))
    yield Proof("layer", "Dropout, training", check_layer(Dropout(0.4), key=jax.random.key(0)))
    params = {"w": np.array([[1.0, -2.0], [0.5, 3.0]]), "b": np.array([0.5, -1.0])}
    for name, regularizer in (("L2", regularizers.L2(0.5)), ("L1", regularizers.L1(0.5))):
        report = check_gradient(
            partial(_penalty, regularizer), partial(_penalty_gradient, regularizer), params
        )
        yield Proof("regularizer", name, report)
    for name, net in NETWORKS.items():
        yield Proof("backpropagation", name, check_backprop(net, partial(backprop, net)))


def _pull_back(activation, z, g):
    return activation.pull_back(z, activation(z), g)


def _loss_at(loss, activation, z, y):
    return jnp.sum(loss.at(activation, z, activation(z), y))


def _error_at(loss, activation, z, y):
    return loss.output_error(activation, z, activation(z), y)


def _penalty(regularizer, params):
    return regularizer.penalty(_affine(params), 100)


def _penalty_gradient(regularizer, params):
    return regularizer.gradient(_affine(params), 100)[0]._asdict()


def _affine(params):
    return (Affine(params["w"], params["b"]),)
