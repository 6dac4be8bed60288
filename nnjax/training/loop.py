"""The training loop: mini-batch gradient descent with the gradients of `backprop`.

An epoch is one jitted program (`nnjax.training.epoch`), and what is measured after it another. The
data lie on the device, in the dtype they came in; the state goes in and comes out in the same
memory.

The loop yields a record after every epoch and prints nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nnjax.checks import check_key, require_size
from nnjax.data import Dataset
from nnjax.feedback import Feedback, check_feedback
from nnjax.network import Network, Params, check_batch, check_params, init
from nnjax.regularizers import Regularizer
from nnjax.training import optimizers
from nnjax.training.early_stopping import EarlyStopping
from nnjax.training.epoch import Augmentation, TrainState, observed_epoch
from nnjax.training.monitors import Monitor, Penalty, Performance, by_name, measure

__all__ = [
    "DivergedError",
    "History",
    "Record",
    "history",
    "initial_state",
    "train",
    "train_epochs",
]

Record = dict[str, Any]
History = dict[str, np.ndarray]


class DivergedError(FloatingPointError):
    """The loss or a parameter became NaN or infinite; the last good state is kept.

    Attributes:
        state: the `TrainState` before the epoch that failed.
        history: what was recorded until then.
    """

    def __init__(self, message: str, state: TrainState, history: History):
        super().__init__(message)
        self.state = state
        self.history = history


def initial_state(
    net: Network,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    params: Params | None = None,
    early_stopping: EarlyStopping | None = None,
    feedback: Feedback | None = None,
) -> TrainState:
    """Return the state that training starts from, and the template for one that was saved.

    Args:
        net: the network.
        optimizer: from optax.
        key: the random key given to `train`.
        params: where to start; None: `init` with a key split from `key`.
        early_stopping: the rule given to `train`, whose state is part of this one.
        feedback: the one given to `train`, whose weights are part of this state.

    Raises:
        ValueError, TypeError: if an argument does not fit.

    Example:
        >>> import jax, nnjax, optax
        >>> net = nnjax.mlp([3, 2])
        >>> state = nnjax.training.initial_state(net, optax.sgd(0.5), jax.random.key(0))
        >>> int(state.epoch)
        0
    """
    if not (callable(getattr(optimizer, "init", None)) and hasattr(optimizer, "update")):
        raise TypeError(
            f"optimizer is {optimizer!r}; expected an optax.GradientTransformation such as "
            "optax.sgd(0.5)"
        )
    check_key(key)
    init_key, run_key = jax.random.split(key)
    if params is None:
        start = init(net, init_key)
    else:
        check_params(net, params)
        start = jax.tree.map(jnp.copy, params)  # the caller's stay his: the state is donated
    # A copy: some optimizers keep the parameters they start from, and the state is donated.
    opt_state = jax.tree.map(_own, optimizer.init(start))
    stopping: Any = ()
    if early_stopping is not None:
        if not isinstance(early_stopping, EarlyStopping):
            raise TypeError(f"early_stopping is {early_stopping!r}; expected an EarlyStopping")
        if early_stopping.lower_rate_to < 1:
            optimizers.scale_rate(opt_state, 1.0)  # says if it cannot be lowered
        stopping = early_stopping.init(start)
    check_feedback(net, feedback)
    feedback = jax.tree.map(jnp.copy, feedback)
    return TrainState(start, opt_state, run_key, jnp.zeros((), jnp.int32), stopping, feedback)


def train_epochs(
    net: Network,
    data: Dataset,
    *,
    optimizer: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    key: jax.Array,
    params: Params | None = None,
    evaluate_on: Sequence[str] = ("validation", "test"),
    regularizer: Regularizer | None = None,
    augment: Augmentation | None = None,
    monitors: Iterable[str | Monitor] = (),
    monitor_every: int | None = None,
    early_stopping: EarlyStopping | None = None,
    feedback: Feedback | None = None,
    state: TrainState | None = None,
) -> Iterator[tuple[TrainState, Record]]:
    """Yield the state and a record after every epoch: `train`, step by step.

    The state is handed on to the next epoch, which reuses its memory: copy what you keep
    (`jax.tree.map(jnp.copy, state.params)`).

    Args, raises: see `train`.

    Example:
        >>> import jax, numpy as np, nnjax, optax
        >>> x, y = np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1])
        >>> for state, record in nnjax.training.train_epochs(
        ...     nnjax.mlp([4, 2]), nnjax.data.Dataset((x, y), None, None),
        ...     optimizer=optax.sgd(1.0), epochs=2, batch_size=2, key=jax.random.key(0),
        ... ):
        ...     print(record["epoch"], sorted(record))
        0 ['epoch', 'seconds', 'train_loss']
        1 ['epoch', 'seconds', 'train_loss']
    """
    require_size(epochs, "epochs")
    _check_functions(regularizer, augment)
    start = initial_state(net, optimizer, key, params, early_stopping, feedback)
    if state is not None:
        start = _checked_state(net, state, start)
    data, parts = _check_data(net, start.params, data, evaluate_on)
    n = len(data.train[0])
    if require_size(batch_size, "batch_size") > n:
        raise ValueError(
            f"batch_size is {batch_size}, but there are {n} training examples; expected at "
            "most as many"
        )
    performance = tuple(Performance(part) for part in parts)
    if isinstance(monitors, str):
        raise TypeError(f"monitors is {monitors!r}; expected several, such as [{monitors!r}]")
    chosen = tuple(map(by_name, monitors))
    if monitor_every is not None and require_size(monitor_every, "monitor_every") > n // batch_size:
        raise ValueError(
            f"monitor_every is {monitor_every}, but an epoch has {n // batch_size} whole "
            "mini-batches; expected at most as many"
        )
    penalty = () if regularizer is None else (Penalty(regularizer),)
    after_steps, after_epoch = (chosen, ()) if monitor_every is not None else ((), chosen)
    after_epoch = (*performance, *penalty, *after_epoch)
    numbers = _check_names(net, after_epoch, after_steps, chosen, start.params, data)
    if early_stopping is not None and early_stopping.measure not in numbers:
        raise ValueError(
            f"early stopping watches {early_stopping.measure}, which is not measured as one number "
            f"an epoch; such are {', '.join(numbers)}"
        )
    fixed = (net, optimizer, batch_size, regularizer, augment, after_steps, monitor_every or 1)
    run, measured = partial(_run_epoch, *fixed), partial(measure, net, after_epoch)
    return _iterate(run, measured, early_stopping, epochs, start, data)


@partial(jax.jit, static_argnums=(1, 2, 3, 4, 5, 6), donate_argnums=7)
def _run_epoch(net, optimizer, batch_size, regularizer, augment, monitors, every, state, data):
    x, y = data.train
    observe = partial(measure, net, monitors, data=data) if monitors else None
    return observed_epoch(
        net, optimizer, batch_size, state, x, y, regularizer, augment, observe, every
    )


def _iterate(
    run: Callable[..., Any],
    measured: Callable[..., Any],
    early_stopping: EarlyStopping | None,
    epochs: int,
    state: TrainState,
    data: Dataset,
) -> Iterator[tuple[TrainState, Record]]:
    records: list[Record] = []
    for epoch in range(int(state.epoch), epochs):
        if early_stopping is not None and state.stopping.stopped:
            return
        start = time.perf_counter()
        state, loss, observed = run(state, data)
        record: Record = {"epoch": epoch, "train_loss": float(loss)}
        if not np.isfinite(record["train_loss"]):
            raise DivergedError(
                f"the loss or a parameter became NaN or infinite in epoch {epoch}; training "
                "stopped and kept the parameters from before that epoch; try a smaller learning "
                "rate",
                state,
                history(records),
            )
        rate = optimizers.rate(state.opt_state)
        values = measured(state.params, data) | (observed or {})
        values |= {} if rate is None else {"rate": rate}
        record |= {name: _plain(value) for name, value in jax.device_get(values).items()}
        if early_stopping is not None:
            state = _watch(early_stopping, state, epoch, record[early_stopping.measure])
            record["best_epoch"] = int(state.stopping.best_epoch)
            record["waited"] = int(state.stopping.waited)
        record["seconds"] = time.perf_counter() - start
        records.append(record)
        yield state, record


def _watch(rule: EarlyStopping, state: TrainState, epoch: int, value: float) -> TrainState:
    stopping, factor = rule.update(state.stopping, state.params, epoch, value)
    if rule.lower_rate_to < 1:
        state = state._replace(opt_state=optimizers.scale_rate(state.opt_state, factor))
    return state._replace(stopping=stopping)


def _plain(value: np.ndarray) -> Any:
    return value.item() if value.ndim == 0 else value


def train(
    net: Network,
    data: Dataset,
    *,
    optimizer: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    key: jax.Array,
    params: Params | None = None,
    evaluate_on: Sequence[str] = ("validation", "test"),
    regularizer: Regularizer | None = None,
    augment: Augmentation | None = None,
    monitors: Iterable[str | Monitor] = (),
    monitor_every: int | None = None,
    early_stopping: EarlyStopping | None = None,
    feedback: Feedback | None = None,
    state: TrainState | None = None,
) -> tuple[TrainState, History]:
    """Train a network; return the final state and the history of the run.

    Every epoch visits every training example once, in a new random order, `batch_size` at a time;
    the last mini-batch holds what is left over. On one machine the same key gives the same
    result, bit for bit.

    Args:
        net: the network.
        data: `Dataset(train, validation, test)`, each part `(x, y)` or None.
        optimizer: any `optax.GradientTransformation`, such as `optax.sgd(0.5)`; by name, and with
            rate schedules, from `nnjax.training.optimizers`.
        epochs: how often to go through the training data, those before `state` counted.
        batch_size: examples a step, at most as many as there are.
        key: a random key: starting parameters, order of the examples, dropout, augmentation.
        params: where to start; None: `init` with a key split from `key`.
        evaluate_on: on which parts of the data to measure loss and accuracy after each epoch;
            parts that are None are left out. Add "train" to measure the training data too.
        regularizer: such as `nnjax.regularizers.L2(5.0)`; n is the number of training examples.
        augment: such as `nnjax.training.augmentation.Distortion(rotation=10.0)`; any pure,
            hashable function of (key, x).
        monitors: what else to measure: names in `nnjax.training.monitors.MONITORS`, or functions
            of (net, params, data).
        monitor_every: None: after each epoch; k: after every k mini-batches, so that each record
            holds the values in an array, one row a time.
        early_stopping: ends the run, or lowers its rate, by a measure in the records.
        feedback: None: backpropagation; else what carries errors back in the place of wᵀ, such as
            `nnjax.feedback.init(net, key, "feedback_alignment")`. Weights that learn are in
            `state.feedback`.
        state: where to go on: the state of an earlier run with the same arguments, which then
            ends, bit for bit, as if it had never been interrupted.

    Returns:
        `(state, history)`: `state.best_params` are the trained parameters, with early stopping
        the best, else the last ones, `state.params`. `history` maps names to arrays, one value an
        epoch: `epoch`, `train_loss` (the mean met on the way, without penalty; with "train" in
        `evaluate_on`, that of the parameters at the end of the epoch), `seconds`, and, of each
        part measured, `test_loss`, `test_accuracy` (a fraction), `test_correct` (a count); with a
        regularizer `penalty`; with an optimizer by name `rate`; with early stopping `best_epoch`
        and `waited`; what the monitors give.

    Raises:
        ValueError, TypeError: if an argument does not fit, or the data hold NaN or infinity.
        DivergedError: if the loss or a parameter is no longer finite; it carries the last good
            state and the history.

    Example:
        >>> import jax, nnjax, optax
        >>> data = nnjax.data.load("digits")
        >>> state, history = nnjax.train(
        ...     nnjax.mlp([64, 30, 10]), data, optimizer=optax.sgd(0.5), epochs=3, batch_size=10,
        ...     key=jax.random.key(0), evaluate_on=["test"],
        ... )
        >>> history["test_accuracy"].shape
        (3,)
        >>> bool(history["test_accuracy"][-1] > 0.8)
        True

    Reference: Nielsen 2015, chapter 1, `SGD`, and chapter 3.
    """
    records = []
    steps = train_epochs(
        net,
        data,
        optimizer=optimizer,
        epochs=epochs,
        batch_size=batch_size,
        key=key,
        params=params,
        evaluate_on=evaluate_on,
        regularizer=regularizer,
        augment=augment,
        monitors=monitors,
        monitor_every=monitor_every,
        early_stopping=early_stopping,
        feedback=feedback,
        state=state,
    )
    for state, record in steps:  # noqa: B007  (the last state is the result)
        records.append(record)
    assert state is not None  # epochs is at least 1
    return state, history(records)


def history(records: Sequence[Mapping[str, Any]]) -> History:
    """Return the records of a run as arrays by name, one value an epoch.

    Example:
        >>> import nnjax
        >>> nnjax.training.history([{"epoch": 0, "loss": 0.5}, {"epoch": 1, "loss": 0.25}])["loss"]
        array([0.5 , 0.25])
    """
    names = records[0] if records else ()
    return {name: np.asarray([record[name] for record in records]) for name in names}


def _check_names(net, after_epoch, after_steps, chosen, params, data) -> list[str]:
    """Return the names of what is measured once an epoch as a single number."""
    measured, often, theirs = (
        jax.eval_shape(partial(measure, net, group), params, data)
        for group in (after_epoch, after_steps, chosen)
    )
    own = {"epoch", "train_loss", "rate", "best_epoch", "waited", "seconds"}
    if twice := sorted(theirs.keys() & own | often.keys() & measured.keys()):
        raise ValueError(
            f"a monitor gives the name {twice[0]}, which every record has already; give it another"
        )
    return [*{"train_loss": 0} | {k: v for k, v in measured.items() if v.shape == ()}]


def _check_functions(regularizer, augment):
    if regularizer is not None and not isinstance(regularizer, Regularizer):
        raise TypeError(
            f"regularizer is {regularizer!r}; expected one such as nnjax.regularizers.L2(5.0)"
        )
    if augment is not None and not callable(augment):
        raise TypeError(
            f"augment is {augment!r}; expected a function of (key, x), such as "
            "nnjax.training.augmentation.Distortion(rotation=10.0)"
        )


def _checked_state(net: Network, state: TrainState, template: TrainState) -> TrainState:
    """Return a copy of a state to go on from, if it is one of this run."""
    check_params(net, state.params, "state.params")
    givers = {"opt_state": "optimizer", "stopping": "early_stopping", "feedback": "feedback"}
    for part, giver in givers.items():
        came, expected = (_shapes(getattr(s, part)) for s in (state, template))
        if came != expected:
            raise ValueError(
                f"state.{part} is of another run: of another {giver} than is given here"
            )
    return jax.tree.map(jnp.copy, state)  # the caller's stays his: it will be donated


def _own(leaf):
    return jnp.copy(leaf) if isinstance(leaf, jax.Array) else leaf


def _shapes(tree):
    leaves, structure = jax.tree.flatten(tree)
    return structure, [jnp.shape(leaf) for leaf in leaves]


def _check_data(net, params, data, evaluate_on):
    """Return the data, checked and on the device, and the names of the parts to measure."""
    if not isinstance(data, Dataset):
        raise TypeError(
            f"data is a {type(data).__name__}; expected nnjax.data.Dataset(train=(x, y), "
            "validation=None, test=None)"
        )
    if data.train is None:
        raise ValueError("data.train is None; expected (x, y) to train on")
    unknown = set(evaluate_on) - set(Dataset._fields)
    if isinstance(evaluate_on, str) or unknown:
        raise ValueError(
            f"evaluate_on is {evaluate_on!r}; expected some of {list(Dataset._fields)}"
        )
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
    on_device = Dataset(parts["train"], parts.get("validation"), parts.get("test"))
    return on_device, [name for name in evaluate_on if name in parts]
