"""The training loop: mini-batch gradient descent with the gradients of `backprop`.

One epoch is one jitted program: the examples are permuted and gathered once, then `lax.scan` walks
over the mini-batches; the last one may be smaller. The data are arguments of the program, kept in
the dtype they came in (uint8 images stay bytes until a mini-batch needs them). The state goes in
and comes out in the same memory.

The loop yields a record after every epoch and prints nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nnjax.backprop import backprop
from nnjax.checks import check_batch, check_key, check_params, require_size
from nnjax.data import Dataset
from nnjax.network import Network, Params, evaluate, init

__all__ = [
    "DivergedError",
    "History",
    "Record",
    "TrainState",
    "history",
    "run_epoch",
    "train",
    "train_epochs",
]

Record = dict[str, Any]
History = dict[str, np.ndarray]


class TrainState(NamedTuple):
    """All that the next epoch needs.

    Attributes:
        params: the parameters of the network.
        opt_state: the state of the optimizer.
        key: the random key of the run; epoch e draws from `jax.random.fold_in(key, e)`.
        epoch: the number of epochs done, ().
    """

    params: Params
    opt_state: Any
    key: jax.Array
    epoch: jax.Array


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


def run_epoch(
    net: Network,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    state: TrainState,
    x: jax.Array,
    y: jax.Array,
) -> tuple[TrainState, jax.Array]:
    """Return the state after one pass over the data, and the mean loss met on the way.

    A pure function for your own loops: jit it (the first three arguments are static), vmap it over
    stacked states to train many networks at once. Where the loss or a parameter is no longer
    finite at the end, the state comes back as it was and the loss is NaN.

    Args:
        net: the network.
        optimizer: from optax.
        batch_size: examples a step; the last mini-batch holds what is left over.
        state: from `TrainState` or an earlier epoch.
        x: (n, *input_shape) inputs.
        y: (n,) integer classes, or (n, n_out) targets.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax, optax
        >>> net, optimizer, key = nnjax.mlp([3, 2]), optax.sgd(0.5), jax.random.key(0)
        >>> params = nnjax.init(net, key)
        >>> state = nnjax.training.TrainState(params, optimizer.init(params), key, jnp.array(0))
        >>> x, y = jnp.eye(3), jnp.array([0, 1, 1])
        >>> state, loss = nnjax.training.run_epoch(net, optimizer, 2, state, x, y)
        >>> int(state.epoch)
        1
    """
    n = x.shape[0]
    steps, rest = divmod(n, batch_size)
    shuffle_key, step_key = jax.random.split(jax.random.fold_in(state.key, state.epoch))
    order = jax.random.permutation(shuffle_key, n)
    x, y = x[order], y[order]
    random = any(layer.random for layer in net.layers)

    def step(carry, batch):
        params, opt_state, total = carry
        i, x, y = batch
        key = jax.random.fold_in(step_key, i) if random else None
        bp = backprop(net, params, x, y, key)
        updates, opt_state = optimizer.update(bp.grads, opt_state, params)
        params: Any = optax.apply_updates(params, updates)
        return (params, opt_state, total + x.shape[0] * bp.loss), None

    def split(array):
        return array[: steps * batch_size].reshape(steps, batch_size, *array.shape[1:])

    dtype = jax.tree.leaves(state.params)[0].dtype
    carry = (state.params, state.opt_state, jnp.zeros((), dtype))
    carry, _ = jax.lax.scan(step, carry, (jnp.arange(steps), split(x), split(y)))
    if rest:
        carry, _ = step(carry, (steps, x[-rest:], y[-rest:]))
    params, opt_state, total = carry

    leaves = [total, *jax.tree.leaves(params)]
    good = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
    params, opt_state, epoch = jax.tree.map(
        lambda new, old: jnp.where(good, new, old),
        (params, opt_state, state.epoch + 1),
        (state.params, state.opt_state, state.epoch),
    )
    return TrainState(params, opt_state, state.key, epoch), jnp.where(good, total / n, jnp.nan)


_run_epoch = partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)(run_epoch)


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
    _check_optimizer(optimizer)
    check_key(key)
    require_size(epochs, "epochs")
    init_key, run_key = jax.random.split(key)
    if params is None:
        start = init(net, init_key)
    else:
        check_params(net, params)
        start = jax.tree.map(jnp.copy, params)  # the caller's stay his: the state is donated
    x, y, watched = _check_data(net, start, data, evaluate_on)
    if require_size(batch_size, "batch_size") > len(x):
        raise ValueError(
            f"batch_size is {batch_size}, but there are {len(x)} training examples; expected at "
            "most as many"
        )
    state = TrainState(start, optimizer.init(start), run_key, jnp.zeros((), jnp.int32))
    return _iterate(net, optimizer, batch_size, epochs, state, x, y, watched)


def _iterate(net, optimizer, batch_size, epochs, state, x, y, watched):
    records: list[Record] = []
    for epoch in range(epochs):
        start = time.perf_counter()
        state, loss = _run_epoch(net, optimizer, batch_size, state, x, y)
        record: Record = {"epoch": epoch, "train_loss": float(loss)}
        if not np.isfinite(record["train_loss"]):
            raise DivergedError(
                f"the loss or a parameter became NaN or infinite in epoch {epoch}; training "
                "stopped and kept the parameters from before that epoch; try a smaller learning "
                "rate",
                state,
                history(records),
            )
        for name, part in watched.items():
            result = evaluate(net, state.params, *part)
            record[f"{name}_loss"] = float(result.loss)
            record[f"{name}_accuracy"] = float(result.accuracy)
            record[f"{name}_correct"] = int(result.correct)
        record["seconds"] = time.perf_counter() - start
        records.append(record)
        yield state, record


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
) -> tuple[TrainState, History]:
    """Train a network; return the final state and the history of the run.

    Every epoch visits every training example once, in a new random order, `batch_size` at a time;
    the last mini-batch holds what is left over. On one machine the same key gives the same
    result, bit for bit.

    Args:
        net: the network.
        data: `Dataset(train, validation, test)`, each part `(x, y)` or None.
        optimizer: any `optax.GradientTransformation`, such as `optax.sgd(0.5)`.
        epochs: how often to go through the training data.
        batch_size: examples a step, at most as many as there are.
        key: a random key: starting parameters, order of the examples, dropout.
        params: where to start; None: `init` with a key split from `key`.
        evaluate_on: on which parts of the data to measure loss and accuracy after each epoch;
            parts that are None are left out. Add "train" to measure the training data too.

    Returns:
        `(state, history)`: `state.params` are the trained parameters. `history` maps names to
        arrays, one value an epoch: `epoch`, `train_loss` (the mean met on the way; with "train"
        in `evaluate_on`, that of the parameters at the end of the epoch), `seconds`, and, of
        each part measured, `test_loss`, `test_accuracy` (a fraction), `test_correct` (a count).

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

    Reference: Nielsen 2015, chapter 1, `SGD`.
    """
    state: Any = None
    records = []
    for state, record in train_epochs(  # noqa: B007  (the last state is the result)
        net,
        data,
        optimizer=optimizer,
        epochs=epochs,
        batch_size=batch_size,
        key=key,
        params=params,
        evaluate_on=evaluate_on,
    ):
        records.append(record)
    return state, history(records)


def history(records: Sequence[Record]) -> History:
    """Return the records of a run as arrays by name, one value an epoch.

    Example:
        >>> import nnjax
        >>> nnjax.training.history([{"epoch": 0, "loss": 0.5}, {"epoch": 1, "loss": 0.25}])["loss"]
        array([0.5 , 0.25])
    """
    names = records[0] if records else ()
    return {name: np.asarray([record[name] for record in records]) for name in names}


def _check_optimizer(optimizer):
    if not (callable(getattr(optimizer, "init", None)) and hasattr(optimizer, "update")):
        raise TypeError(
            f"optimizer is {optimizer!r}; expected an optax.GradientTransformation such as "
            "optax.sgd(0.5)"
        )


def _check_data(net, params, data, evaluate_on):
    """Return the training data and the parts to measure, checked and on the device."""
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
    return *parts["train"], {name: parts[name] for name in evaluate_on if name in parts}
