"""nnjax: backpropagation in the open, as pure JAX functions whose gradients are derived by hand."""

from nnjax import activations, checks, data, initializers, layers, losses, training
from nnjax.activations import (
    LeakyReLU,
    Softmax,
    absolute,
    identity,
    leaky_relu,
    relu,
    sigmoid,
    sign,
    softmax,
    step,
    tanh,
)
from nnjax.backprop import Backprop, backprop, sgd_step
from nnjax.layers import Affine, Dense, Layer
from nnjax.losses import cross_entropy, log_likelihood, quadratic
from nnjax.network import (
    Evaluation,
    Network,
    accuracy,
    evaluate,
    feedforward,
    init,
    loss,
    mlp,
    predict,
)
from nnjax.training import DivergedError, TrainState, train

__all__ = [
    "Affine",
    "Backprop",
    "Dense",
    "DivergedError",
    "Evaluation",
    "Layer",
    "LeakyReLU",
    "Network",
    "Softmax",
    "TrainState",
    "absolute",
    "accuracy",
    "activations",
    "backprop",
    "checks",
    "cross_entropy",
    "data",
    "evaluate",
    "feedforward",
    "identity",
    "init",
    "initializers",
    "layers",
    "leaky_relu",
    "log_likelihood",
    "loss",
    "losses",
    "mlp",
    "predict",
    "quadratic",
    "relu",
    "sgd_step",
    "sigmoid",
    "sign",
    "softmax",
    "step",
    "tanh",
    "train",
    "training",
]
__version__ = "0.1.0"
