"""nnjax: backpropagation in the open, as pure JAX functions whose gradients are derived by hand."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nnjax import (
    activations,
    architecture,
    book_json,
    checks,
    curvature,
    data,
    evaluation,
    feedback,
    initializers,
    layers,
    losses,
    many_plots,
    notation,
    ops,
    per_example,
    plots,
    regularizers,
    tasks,
    training,
)
from nnjax.activations import (
    ELU,
    LeakyReLU,
    Softmax,
    absolute,
    elu,
    gelu,
    gelu_tanh,
    identity,
    leaky_relu,
    relu,
    sigmoid,
    sign,
    silu,
    softmax,
    softplus,
    step,
    tanh,
)
from nnjax.architecture import convnet, summary
from nnjax.backprop import Backprop, FeedbackPass, backprop
from nnjax.backward import backward
from nnjax.cli.loaded import load_run
from nnjax.descent import sgd_step
from nnjax.evaluation import Evaluation, accuracy, evaluate, predict, predict_proba
from nnjax.explain import Explanation, explain
from nnjax.feedback import Feedback
from nnjax.layers import (
    Add,
    Affine,
    Conv,
    Dense,
    Dropout,
    Flatten,
    L2Pool,
    Layer,
    LayerNorm,
    MaxPool,
    MeanPool,
    Residual,
)
from nnjax.losses import cross_entropy, log_likelihood, quadratic
from nnjax.network import Network, feedforward, init, loss, mlp
from nnjax.storage import load, save
from nnjax.training import DivergedError, Many, TrainState, train, train_many

if TYPE_CHECKING:
    from nnjax import gradcheck
    from nnjax.gradcheck import (
        GradientError,
        GradientReport,
        assert_gradient,
        check_backprop,
        check_forward_backward,
        check_gradient,
        check_layer,
        check_vjp,
        trace_gradient,
    )

__all__ = [
    "ELU",
    "Add",
    "Affine",
    "Backprop",
    "Conv",
    "Dense",
    "DivergedError",
    "Dropout",
    "Evaluation",
    "Explanation",
    "Feedback",
    "FeedbackPass",
    "Flatten",
    "GradientError",
    "GradientReport",
    "L2Pool",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Many",
    "MaxPool",
    "MeanPool",
    "Network",
    "Residual",
    "Softmax",
    "TrainState",
    "absolute",
    "accuracy",
    "activations",
    "architecture",
    "assert_gradient",
    "backprop",
    "backward",
    "book_json",
    "check_backprop",
    "check_forward_backward",
    "check_gradient",
    "check_layer",
    "check_vjp",
    "checks",
    "convnet",
    "cross_entropy",
    "curvature",
    "data",
    "elu",
    "evaluate",
    "evaluation",
    "explain",
    "feedback",
    "feedforward",
    "gelu",
    "gelu_tanh",
    "gradcheck",
    "identity",
    "init",
    "initializers",
    "layers",
    "leaky_relu",
    "load",
    "load_run",
    "log_likelihood",
    "loss",
    "losses",
    "many_plots",
    "mlp",
    "notation",
    "ops",
    "per_example",
    "plots",
    "predict",
    "predict_proba",
    "quadratic",
    "regularizers",
    "relu",
    "save",
    "sgd_step",
    "sigmoid",
    "sign",
    "silu",
    "softmax",
    "softplus",
    "step",
    "summary",
    "tanh",
    "tasks",
    "trace_gradient",
    "train",
    "train_many",
    "training",
]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:  # the checker of gradients is large: imported when asked for
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    checker = import_module("nnjax.gradcheck")
    return checker if name == "gradcheck" else getattr(checker, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
