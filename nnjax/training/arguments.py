"""What `nnjax.train` is called with: written down once, and checked before anything is computed."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.checks import require_size
from nnjax.data.dataset import Dataset, require_dataset
from nnjax.feedback import Feedback
from nnjax.network import Network, Params, check_batch, grey_levels
from nnjax.training.early_stopping import EarlyStopping
from nnjax.training.epoch import TrainState
from nnjax.training.recipe import Recipe

__all__ = ["Arguments", "Watched", "called_with", "on_device"]

A = TypeVar("A", bound="Arguments")
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Arguments(Recipe):
    """What `nnjax.train` is called with: a recipe, the network, the data, and how long to train.

    Args, raises: see `nnjax.train`.

    Example:
        >>> import jax, nnjax, optax
        >>> from nnjax.training.arguments import Arguments
        >>> Arguments(
        ...     nnjax.mlp([64, 10]), nnjax.data.load("digits"), optimizer=optax.sgd(0.5),
        ...     batch_size=10, epochs=3, key=jax.random.key(0), evaluate_on=["test"],
        ... ).evaluate_on
        ('test',)
    """

    net: Network
    data: Dataset
    _: KW_ONLY
    epochs: int
    key: jax.Array
    params: Params | None = None
    evaluate_on: Sequence[str] = ("validation",)
    early_stopping: EarlyStopping | None = None
    feedback: Feedback | None = None
    state: TrainState | None = None
    within: Callable[[float], Any] | None = None

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.net, Network):
            raise TypeError(
                f"net is {self.net!r}; expected a Network, such as nnjax.mlp([784, 30, 10])"
            )
        require_dataset(self.data)
        require_size(self.epochs, "epochs")
        object.__setattr__(self, "evaluate_on", _parts(self.evaluate_on))
        if self.state is not None and not isinstance(self.state, TrainState):
            raise TypeError(
                f"state is a {type(self.state).__name__}; expected the TrainState that an earlier "
                "run returned"
            )
        if self.within is not None and not callable(self.within):
            raise TypeError(f"within is {self.within!r}; expected a function of a fraction")

    @property
    def recipe(self) -> Recipe:
        """The part that the compiled epoch depends on."""
        names = (field.name for field in dataclasses.fields(Recipe))
        return Recipe(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True, eq=False)
class Watched(Arguments):
    """What `nnjax.train` is called with: all that, and how it shows its progress.

    Args, raises: see `nnjax.train`.

    Example:
        >>> import jax, nnjax, optax
        >>> from nnjax.training.arguments import Watched
        >>> Watched(
        ...     nnjax.mlp([64, 10]), nnjax.data.load("digits"), optimizer=optax.sgd(0.5),
        ...     batch_size=10, epochs=3, key=jax.random.key(0), progress=print,
        ... ).progress
        <built-in function print>
    """

    progress: bool | Callable[[dict[str, Any]], Any] = False

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.progress, bool) and not callable(self.progress):
            raise TypeError(
                f"progress is {self.progress!r}; expected True for a bar, or a function that is "
                "called with the record of each epoch"
            )


def called_with(
    arguments: Callable[P, A],
) -> Callable[[Callable[[A], R]], Callable[P, R]]:
    """Return a decorator: a function of `Arguments` becomes one that is called with their fields.

    Example:
        >>> import inspect
        >>> from nnjax.training.arguments import Arguments, called_with
        >>> @called_with(Arguments)
        ... def epochs(arguments: Arguments) -> int:
        ...     return arguments.epochs
        >>> list(inspect.signature(epochs).parameters)[:4]
        ['net', 'data', 'optimizer', 'batch_size']
    """
    signature = inspect.signature(arguments)

    def decorate(function: Callable[[A], R]) -> Callable[P, R]:
        @functools.wraps(function)
        def called(*args: P.args, **keywords: P.kwargs) -> R:
            try:
                signature.bind(*args, **keywords)
            except TypeError as error:
                raise TypeError(f"{function.__name__}(): {error}") from None
            return function(arguments(*args, **keywords))

        returned = function.__annotations__["return"]
        called.__dict__["__signature__"] = signature.replace(return_annotation=returned)
        hints = {name: each.annotation for name, each in signature.parameters.items()}
        called.__annotations__ = {**hints, "return": returned}
        return called

    return decorate


def on_device(net: Network, params: Params, data: Dataset) -> Dataset:
    """Return the data, checked against the network, on the device.

    Raises:
        ValueError, TypeError: if a part does not fit, holds NaN or infinity, or is scaled
            differently from the training data.

    Example:
        >>> import jax, nnjax
        >>> from nnjax.training.arguments import on_device
        >>> net = nnjax.mlp([64, 10])
        >>> data = on_device(net, nnjax.init(net, jax.random.key(0)), nnjax.data.load("digits"))
        >>> data.test[0].shape
        (360, 8, 8, 1)
    """
    parts = {}
    for name, part in data._asdict().items():
        if part is None:
            continue
        try:
            x, y = check_batch(net, params, *part)
        except (TypeError, ValueError) as error:
            raise type(error)(f"data.{name}: {error}") from None
        for array, letter in ((x, "x"), (y, "y")):
            if (
                jnp.issubdtype(array.dtype, jnp.floating)
                and not np.isfinite(np.asarray(array)).all()
            ):
                raise ValueError(
                    f"data.{name}: {letter} holds NaN or infinity; remove or replace those examples"
                )
        parts[name] = (x, y)
    _check_scales({name: x for name, (x, _) in parts.items()})
    return Dataset(parts["train"], parts.get("validation"), parts.get("test"))


def _check_scales(inputs: dict[str, jax.Array]) -> None:
    """Bytes are divided by 255: beside them, numbers beyond 0 … 1 are of another scale."""
    as_bytes = [name for name, x in inputs.items() if grey_levels(x)]
    for name, x in inputs.items():
        if as_bytes and name not in as_bytes:
            low, high = float(jnp.min(x)), float(jnp.max(x))
            if low < 0 or high > 1:
                raise ValueError(
                    f"data.{name}: x lies between {low:g} and {high:g}, but data.{as_bytes[0]} "
                    "holds uint8, which is divided by 255; give both in the same dtype and scale"
                )


def _parts(evaluate_on: Any) -> tuple[str, ...]:
    several = isinstance(evaluate_on, Iterable) and not isinstance(evaluate_on, str)
    parts: tuple[Any, ...] = tuple(evaluate_on) if several else (evaluate_on,)
    if not several or any(part not in Dataset._fields for part in parts):
        raise ValueError(
            f"evaluate_on is {list(parts) if several else evaluate_on!r}; expected some of "
            f"{list(Dataset._fields)}"
        )
    return parts
