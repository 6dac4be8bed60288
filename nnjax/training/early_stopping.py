"""Early stopping: end a run, or lower its learning rate, when a measure no longer improves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.checks import require_number, require_size
from nnjax.data import Dataset
from nnjax.tasks import Classification, Task
from nnjax.training.monitors import Better, Penalty, Performance, directions

__all__ = ["EarlyStopping", "Stopping"]

_KNOWN: dict[str, Better] = {
    "train_loss": "smaller",
    **directions(map(Performance, Dataset._fields)),
    **Penalty.better,
}


class Stopping(NamedTuple):
    """How far early stopping has come: part of the state of a run.

    Attributes:
        params: the best parameters so far.
        best: the measure that they had, (); 0 as long as there is none.
        best_epoch: the epoch after which they had it, counted from 0, (); -1: there is none yet.
        waited: the epochs since then, or since the rate was lowered, ().
        fraction: the learning rate, as a fraction of the first one, ().
        stopped: whether the run is over, ().
    """

    params: Any
    best: jax.Array
    best_epoch: jax.Array
    waited: jax.Array
    fraction: jax.Array
    stopped: jax.Array


@jax.tree_util.register_static
@dataclass(frozen=True)
class EarlyStopping:
    """No improvement in n epochs: stop, and keep the best parameters.

    With `lower_rate_to` the learning rate is halved instead, down to that fraction of the first
    rate; the run stops when there is no improvement at that rate either.

    Args:
        patience: n, how many epochs without improvement are tolerated.
        measure: a name in the records; "auto": the main metric of the task on the validation data,
            such as `validation_accuracy`, or `validation_rmse` of a regression. NaN is not an
            improvement.
        lower_rate_to: 1 stops at once; the book suggests 1/128.
        better: whether "smaller" or "larger" values of the measure are better; None: as the
            monitor that measures it declares.

    Raises:
        ValueError: if the patience is not a positive integer, the fraction is not in 0 … 1, or
            `better` is neither of the two.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.training.early_stopping import EarlyStopping
        >>> rule = EarlyStopping(patience=2)
        >>> state = rule.init(jnp.array(0.0))
        >>> for epoch, accuracy in enumerate([0.5, 0.7, 0.6, 0.6]):
        ...     state, factor = rule.update(state, jnp.array(float(epoch)), epoch, accuracy)
        >>> bool(state.stopped), int(state.best_epoch), float(state.params)
        (True, 1, 1.0)

    Reference: Nielsen 2015, chapter 3, "How to choose a neural network's hyper-parameters?".
    """

    patience: int
    measure: str = "auto"
    lower_rate_to: float = 1.0
    better: Better | None = None

    def __post_init__(self):
        require_size(self.patience, "patience")
        if not isinstance(self.measure, str):
            raise ValueError(f"measure is {self.measure!r}; expected a name in the records")
        require_number(
            self.lower_rate_to,
            "lower_rate_to",
            "a fraction of the learning rate, more than 0 and at most 1",
            2.0**-100,
            1,
        )
        if self.better is not None and self.better not in get_args(Better):
            raise ValueError(f"better is {self.better!r}; expected 'smaller' or 'larger'")

    def for_task(self, task: Task) -> EarlyStopping:
        """Return the rule with `measure` filled in, where it is "auto".

        Example:
            >>> from nnjax.tasks import Regression
            >>> from nnjax.training import EarlyStopping
            >>> EarlyStopping(2).for_task(Regression()).measure
            'validation_rmse'
        """
        measure = f"validation_{task.main}" if self.measure == "auto" else self.measure
        return dataclasses.replace(self, measure=measure)

    def with_direction(self, declared: Mapping[str, Better]) -> EarlyStopping:
        """Return the rule with `better` filled in, where it is None, from what monitors declare.

        Raises:
            ValueError: if nothing says which way the measure is better.

        A rule without a measure is one of a classification.

        Example:
            >>> from nnjax.training import EarlyStopping
            >>> EarlyStopping(2, "test_loss").with_direction({}).better
            'smaller'
            >>> EarlyStopping(2, "margin").with_direction({"margin": "larger"}).better
            'larger'
        """
        rule = self.for_task(Classification())
        better = rule.better or {**_KNOWN, **declared}.get(rule.measure)
        if better is None:
            raise ValueError(
                f"nothing says whether a smaller or a larger {rule.measure} is better; give "
                "EarlyStopping better='smaller' or better='larger'"
            )
        return dataclasses.replace(rule, better=better)

    def init(self, params: Any) -> Stopping:
        """Return the state before the first epoch."""
        return Stopping(
            params=jax.tree.map(jnp.copy, params),
            best=jnp.asarray(0.0, jnp.float32),
            best_epoch=jnp.asarray(-1, jnp.int32),
            waited=jnp.asarray(0, jnp.int32),
            fraction=jnp.asarray(1.0, jnp.float32),
            stopped=jnp.asarray(False),
        )

    def update(
        self, state: Stopping, params: Any, epoch: Any, value: Any
    ) -> tuple[Stopping, jax.Array]:
        """Return the state after an epoch, and by what to multiply the learning rate: 1 or ½.

        Args:
            state: before it.
            params: the parameters after it.
            epoch: its number, counted from 0.
            value: the measure after it; both are numbers, or both arrays ().
        """
        rule = self.with_direction({})
        if not isinstance(value, jax.Array):  # one under `jax.jit` cannot be put anywhere
            epoch, value = jax.device_put((np.int32(epoch), np.float32(value)))
        return _update(rule, state, params, epoch, value.astype(jnp.float32))


@jax.jit
def _update(rule, state, params, epoch, value):
    better = value < state.best if rule.better == "smaller" else value > state.best
    better = better | ((state.best_epoch < 0) & ~jnp.isnan(value))

    def newer(new, old):
        return jnp.where(better, new, old)

    waited = jnp.where(better, 0, state.waited + 1)
    stalled = waited >= rule.patience
    lower = stalled & (state.fraction / 2 >= rule.lower_rate_to)
    factor = jnp.where(lower, 0.5, 1.0).astype(jnp.float32)
    new = Stopping(
        params=jax.tree.map(newer, params, state.params),
        best=newer(value, state.best),
        best_epoch=newer(epoch, state.best_epoch),
        waited=jnp.where(lower, 0, waited),
        fraction=state.fraction * factor,
        stopped=stalled & ~lower,
    )
    return new, factor
