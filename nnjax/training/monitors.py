"""Monitors: what is measured while a network learns, on the device, in one program.

A monitor is any function of (net, params, data) that returns an array, or a dictionary of arrays
by name; `data` is the `Dataset` that is trained on, on the device. It must be pure and hashable:
a plain function is, and so are the frozen descriptions here. `measure` evaluates several at once.

A monitor whose values early stopping may look at declares which way they are better, in an
attribute `better`: a dictionary from their names to "smaller" or "larger".
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, TypeAlias, TypeGuard

import jax
import jax.numpy as jnp

from nnjax.activations import Activation, Elementwise, Identity
from nnjax.backprop import backprop
from nnjax.checks import require_size
from nnjax.data import Dataset
from nnjax.evaluation import evaluate
from nnjax.feedback import Feedback
from nnjax.layers.base import Affine
from nnjax.network import Network, Params, forward
from nnjax.pieces import at_least_float32
from nnjax.regularizers import Regularizer
from nnjax.sharding import automatic
from nnjax.tasks import METRICS, Better, Task
from nnjax.training.closures import identity
from nnjax.training.shares import whole

__all__ = [
    "MONITORS",
    "Better",
    "Dead",
    "ErrorNorms",
    "GradientNorms",
    "Monitor",
    "Penalty",
    "Performance",
    "Saturated",
    "WeightNorms",
    "by_name",
    "directions",
    "has_slope",
    "measure",
]

Monitor: TypeAlias = Callable[[Network, Params, Dataset], Any]


@dataclass(frozen=True)
class Performance:
    """Loss and metrics on a part of the data: `test_loss`, `test_accuracy`, `test_correct`.

    The metrics are those of the task, such as `test_rmse`, `test_mae` and `test_r2` of a
    regression.

    Args:
        part: train, validation or test.
        task: of `nnjax.tasks`; None: as `nnjax.tasks.task_of` tells it.

    Example:
        >>> import jax, nnjax
        >>> from nnjax.training.monitors import Performance
        >>> net, data = nnjax.mlp([64, 10]), nnjax.data.load("digits")
        >>> sorted(Performance("test")(net, nnjax.init(net, jax.random.key(0)), data))
        ['test_accuracy', 'test_correct', 'test_loss']
    """

    part: str
    task: Task | None = None

    @property
    def better(self) -> dict[str, Better]:
        """Which way each metric is better: a smaller loss, a larger accuracy, ..."""
        names = METRICS if self.task is None else self.task.metrics
        return {f"{self.part}_{name}": METRICS[name].better for name in names}

    def __call__(self, net: Network, params: Params, data: Dataset) -> dict[str, jax.Array]:
        x, y = getattr(data, self.part)
        result = evaluate(net, params, x, y, self.task)
        return {f"{self.part}_{name}": value for name, value in result._asdict().items()}


@dataclass(frozen=True)
class Penalty:
    """What a regularizer adds to the loss on the training data: `penalty`.

    Args:
        regularizer: from `nnjax.regularizers`.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> from nnjax.regularizers import L1
        >>> from nnjax.training.monitors import Penalty
        >>> data = nnjax.data.Dataset((jnp.zeros((10, 2)), jnp.zeros(10, int)), None, None)
        >>> params = (nnjax.Affine(w=jnp.array([[3.0, -4.0]]), b=jnp.array([9.0])),)
        >>> float(Penalty(L1(10.0))(nnjax.mlp([2, 1]), params, data)["penalty"])
        7.0
    """

    regularizer: Regularizer
    better: ClassVar[dict[str, Better]] = {"penalty": "smaller"}

    def __call__(self, net: Network, params: Params, data: Dataset) -> dict[str, jax.Array]:
        return {"penalty": self.regularizer.penalty(params, len(data.train[0]))}


class _OfFirstExamples:
    """A monitor that looks at the first training examples only, as many as `examples` says."""

    examples: int

    def __post_init__(self):
        require_size(self.examples, "examples")


@dataclass(frozen=True)
class ErrorNorms(_OfFirstExamples):
    """‖mean δ^l‖ of each layer with weights: how fast it learns (chapter 5 of the book).

    The mean of the errors is the gradient with respect to the biases of a dense layer (BP3). In
    training with another learning rule the errors are those of that rule.

    Args:
        examples: the mean is over this many, the first, of the training examples.

    Example:
        >>> import jax, nnjax
        >>> from nnjax.training.monitors import ErrorNorms
        >>> net, data = nnjax.mlp([64, 30, 30, 10]), nnjax.data.load("digits")
        >>> ErrorNorms()(net, nnjax.init(net, jax.random.key(0)), data).shape
        (3,)
    """

    examples: int = 1000
    takes_feedback: ClassVar[bool] = True

    def __call__(
        self, net: Network, params: Params, data: Dataset, feedback: Any = None
    ) -> jax.Array:
        errors = backprop(net, params, *_first(data, self.examples), feedback=feedback).errors
        means = [jnp.mean(errors[l], axis=0) for l in _affine_layers(params)]
        return jnp.stack([_norm(mean) for mean in means])


@dataclass(frozen=True)
class GradientNorms(_OfFirstExamples):
    """‖∂C/∂(w, b)‖ of each layer with weights.

    Args:
        examples: the loss is that of this many, the first, of the training examples.

    Example:
        >>> import jax, nnjax
        >>> from nnjax.training.monitors import GradientNorms
        >>> net, data = nnjax.mlp([64, 30, 10]), nnjax.data.load("digits")
        >>> GradientNorms(examples=10)(net, nnjax.init(net, jax.random.key(0)), data).shape
        (2,)
    """

    examples: int = 1000

    def __call__(self, net: Network, params: Params, data: Dataset) -> jax.Array:
        grads = backprop(net, params, *_first(data, self.examples)).grads
        return jnp.stack([_norm(grads[l]) for l in _affine_layers(params)])


@dataclass(frozen=True)
class WeightNorms:
    """‖w^l‖ of each layer with weights, the root of the sum of their squares.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> from nnjax.training.monitors import WeightNorms
        >>> params = (nnjax.Affine(w=jnp.array([[3.0, 4.0]]), b=jnp.array([9.0])),)
        >>> WeightNorms()(nnjax.mlp([2, 1]), params, nnjax.data.load("digits")).tolist()
        [5.0]
    """

    def __call__(self, net: Network, params: Params, data: Dataset) -> jax.Array:
        return jnp.stack([_norm(params[l].w) for l in _affine_layers(params)])


@dataclass(frozen=True)
class Saturated(_OfFirstExamples):
    """The fraction of activations with |σ'(z)| < below, in each layer with an activation function.

    There a neuron passes hardly any error on to what lies before it. Softmax, whose derivative is
    a matrix, is left out.

    Args:
        below: what counts as small; 0.01 is a sigmoid below 0.0101 or above 0.9899.
        examples: the mean is over this many, the first, of the training examples.

    Example:
        >>> import jax, nnjax
        >>> from nnjax.training.monitors import Saturated
        >>> net, data = nnjax.mlp([64, 30, 10]), nnjax.data.load("digits")
        >>> Saturated()(net, nnjax.init(net, jax.random.key(0)), data).shape
        (2,)
    """

    below: float = 0.01
    examples: int = 1000

    def __call__(self, net: Network, params: Params, data: Dataset) -> jax.Array:
        small = [abs(slope) < self.below for slope in _slopes(net, params, data, self.examples)]
        return jnp.asarray([jnp.mean(s, dtype=jnp.float32) for s in small], jnp.float32)


@dataclass(frozen=True)
class Dead(_OfFirstExamples):
    """The fraction of neurons whose σ'(z) is 0 for every example: they have stopped learning.

    Args:
        examples: "every" is every one of this many, the first, of the training examples.

    Example:
        >>> import jax, nnjax
        >>> from nnjax.training.monitors import Dead
        >>> net = nnjax.mlp([64, 30, 10], activation=nnjax.relu)
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> off = params[0]._replace(b=params[0].b.at[:].set(-1e6))
        >>> Dead()(net, (off, params[1]), nnjax.data.load("digits"))[0].item()
        1.0
    """

    examples: int = 1000

    def __call__(self, net: Network, params: Params, data: Dataset) -> jax.Array:
        flat = [jnp.all(s == 0, axis=0) for s in _slopes(net, params, data, self.examples)]
        return jnp.asarray([jnp.mean(f, dtype=jnp.float32) for f in flat], jnp.float32)


MONITORS: dict[str, Monitor] = {
    "error_norms": ErrorNorms(),
    "gradient_norms": GradientNorms(),
    "weight_norms": WeightNorms(),
    "saturated": Saturated(),
    "dead": Dead(),
}
"""The monitors by name. Loss and accuracy are not among them: training always measures them."""


def directions(monitors: Iterable[str | Monitor]) -> dict[str, Better]:
    """Return which way each value is better, by name, as the monitors declare it.

    Example:
        >>> from nnjax.training.monitors import Performance, directions
        >>> directions([Performance("test")])["test_loss"]
        'smaller'
    """
    declared = (getattr(by_name(monitor), "better", {}) for monitor in monitors)
    return {name: way for better in declared for name, way in better.items()}


def by_name(monitor: str | Monitor) -> Monitor:
    """Return a monitor: one of `MONITORS` by its name, or the function that came.

    Raises:
        ValueError: if the name is unknown.
        TypeError: if it is neither a name nor a hashable function.

    Example:
        >>> from nnjax.training import monitors
        >>> monitors.by_name("weight_norms")
        WeightNorms()
    """
    if isinstance(monitor, str):
        if monitor not in MONITORS:
            raise ValueError(f"monitor is {monitor!r}; expected one of {', '.join(MONITORS)}")
        return MONITORS[monitor]
    try:
        hash(monitor)
    except TypeError:
        raise TypeError(f"monitor is {monitor!r}, which has no hash; give a function") from None
    if not callable(monitor):
        raise TypeError(
            f"monitor is {monitor!r}; expected one of {', '.join(MONITORS)}, or a function of "
            "(net, params, data)"
        )
    return monitor


@dataclass(frozen=True)
class _Chosen:
    """Monitors that share a compiled program with others that do the same."""

    same: Hashable
    monitors: tuple[Monitor, ...] = field(compare=False)

    @classmethod
    def of(cls, monitors: tuple[Monitor, ...]) -> _Chosen:
        """Return them as they are now: the variables that functions read may change later."""
        return cls(identity(tuple((m, _name(m), _takes_feedback(m)) for m in monitors)), monitors)


@partial(jax.jit, static_argnums=1)
@automatic
def _measure(net, chosen, params, data, feedback):
    data = whole(data)
    named: dict[Any, str] = {type(monitor): name for name, monitor in MONITORS.items()}
    measured: dict[str, jax.Array] = {}
    for monitor in chosen.monitors:
        name = named.get(type(monitor)) or _name(monitor)
        own = (feedback,) if _takes_feedback(monitor) else ()
        values = monitor(net, params, data, *own)
        for key, value in (values if isinstance(values, dict) else {name: values}).items():
            if key in measured:
                raise ValueError(f"two monitors give the name {key}; rename one of them")
            try:
                measured[key] = jnp.asarray(value)
            except (TypeError, ValueError):
                raise TypeError(
                    f"the monitor {name} gives {value!r} as {key}; expected an array of numbers"
                ) from None
    return measured


def measure(
    net: Network,
    monitors: Iterable[str | Monitor],
    params: Params,
    data: Dataset,
    feedback: Feedback | None = None,
) -> dict[str, jax.Array]:
    """Return what the monitors say, by name: one jitted program for all of them.

    A monitor that returns an array gives it the monitor's own name: that of its kind in
    `MONITORS`, or that of the function.

    Args:
        net: the network.
        monitors: names in `MONITORS`, or functions of (net, params, data).
        params: the parameters of the network.
        data: what to measure on.
        feedback: the learning rule, if it is not backpropagation: monitors whose attribute
            `takes_feedback` is true get it as a fourth argument.

    Raises:
        ValueError: if a monitor is unknown, or two give the same name.

    Example:
        >>> import jax, nnjax
        >>> from nnjax.training import monitors
        >>> net, data = nnjax.mlp([64, 30, 10]), nnjax.data.load("digits")
        >>> def largest_bias(net, params, data):
        ...     return max(abs(layer.b).max() for layer in params)
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> sorted(monitors.measure(net, ["weight_norms"], params, data))
        ['weight_norms']
    """
    return _measure(net, _Chosen.of(tuple(map(by_name, monitors))), params, data, feedback)


def _name(monitor: Any) -> str:
    return getattr(monitor, "__name__", None) or type(monitor).__name__


def _takes_feedback(monitor: Any) -> bool:
    return getattr(monitor, "takes_feedback", False)


def _first(data: Dataset, examples: int) -> tuple[Any, Any]:
    x, y = data.train
    return x[:examples], y[:examples]


def _affine_layers(params: Params) -> list[int]:
    return [l for l, entry in enumerate(params) if isinstance(entry, Affine)]


def has_slope(activation: Activation) -> TypeGuard[Elementwise]:
    """Return whether `Saturated` and `Dead` look at it: elementwise, and not the identity.

    Example:
        >>> import nnjax
        >>> from nnjax.training.monitors import has_slope
        >>> has_slope(nnjax.relu), has_slope(nnjax.identity), has_slope(nnjax.softmax)
        (True, False, False)
    """
    return isinstance(activation, Elementwise) and not isinstance(activation, Identity)


def _slopes(net, params, data, examples) -> list[jax.Array]:
    """Return σ'(z) (examples, ...) of each layer whose activation works element by element."""
    passed = forward(net, params, jnp.asarray(_first(data, examples)[0]), None)
    slopes = []
    for l, layer in enumerate(net.layers):
        sigma = layer.activation
        if has_slope(sigma):
            z, a = passed.weighted_inputs[l], passed.activations[l + 1]
            slopes.append(sigma.derivative_at(z, a))
    return slopes


def _norm(tree: Any) -> jax.Array:
    wide = (leaf.astype(at_least_float32(leaf.dtype)) for leaf in jax.tree.leaves(tree))
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in wide))
