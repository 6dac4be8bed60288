"""Training on data larger than memory: an epoch scans one window of examples after another.

While a window is trained on, the next one is read, checked and put on the device. The state says
how far the epoch is, so that a run continues in the middle of it, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from nnjax.checks import require_instance, require_size
from nnjax.data.stream import Source
from nnjax.evaluation import evaluate
from nnjax.network import Network, Params, check_batch, require_network
from nnjax.regularizers import Regularizer
from nnjax.training.devices import in_mesh, on_one_device, placed, placed_state
from nnjax.training.epoch import TrainState, run_epoch_on
from nnjax.training.loop import DivergedError, Record, history, initial_state
from nnjax.training.recipe import Augmentation, Recipe
from nnjax.training.shares import batches_of, rows_of_this_process, shared

__all__ = ["StreamState", "begin", "steps_per_epoch", "stream_epochs"]


class StreamState(NamedTuple):
    """All that the next window needs.

    Attributes:
        train: the state of the network; its epoch is the one under way.
        windows: how many windows of this epoch are done, ().
        steps: how many mini-batches of this epoch are done, ().
        loss: their share of the mean loss of the epoch, ().
    """

    train: TrainState
    windows: jax.Array
    steps: jax.Array
    loss: jax.Array

    @property
    def params(self) -> Params:
        """The parameters of the network."""
        return self.train.params


def stream_epochs(
    net: Network,
    source: Source,
    *,
    optimizer: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    key: jax.Array,
    params: Params | None = None,
    regularizer: Regularizer | None = None,
    augment: Augmentation | None = None,
    validation: tuple[Any, Any] | None = None,
    state: StreamState | None = None,
    mesh: Mesh | None = None,
) -> Iterator[tuple[StreamState, Record | None]]:
    """Yield the state after every window, and after every epoch with its record.

    A mini-batch never reaches over the end of a window; the last one of a window may be smaller.
    Arguments are checked at the call.

    Args:
        net: the network.
        source: a `Folder` or an `Iterated` of `nnjax.data.stream`, or what has their methods.
        optimizer, epochs, batch_size, key, params, regularizer, augment: as of `nnjax.train`.
        validation: (x, y) to evaluate on after each epoch, in memory.
        state: continue from this one, in the middle of an epoch too; the run then ends, bit for
            bit, as if it had never been interrupted.
        mesh: devices to divide the mini-batches over, see `nnjax.train`. Where they belong to
            several processes, each of these reads its share of every window.

    Yields:
        The state, and None after a window; after an epoch `epoch`, `train_loss`, `seconds` (of this
        call), and with validation data `validation_loss`, `validation_accuracy` and
        `validation_correct`.

    Raises:
        ValueError, TypeError: if an argument or a window does not fit.
        DivergedError: if the loss or a parameter is no longer finite; it carries the `TrainState`
            before the window that failed.

    Example:
        >>> import jax, nnjax, optax
        >>> from nnjax.data.stream import Iterated
        >>> from nnjax.training.streaming import stream_epochs
        >>> x, y = nnjax.data.load("digits").train
        >>> source = Iterated(list(zip(x, y)), count=len(y), window=500)
        >>> steps = stream_epochs(
        ...     nnjax.mlp([64, 10]), source, optimizer=optax.sgd(0.5), epochs=1, batch_size=10,
        ...     key=jax.random.key(0), validation=(x, y),
        ... )
        >>> for state, record in steps:
        ...     print(int(state.windows), record is not None)
        1 False
        2 False
        3 False
        0 True
        >>> bool(record["validation_accuracy"] > 0.8)
        True
    """
    require_network(net)
    recipe = Recipe(
        optimizer=optimizer,
        batch_size=batch_size,
        regularizer=regularizer,
        augment=augment,
        mesh=mesh,
    )
    require_size(epochs, "epochs")
    if not hasattr(source, "windows") or not hasattr(source, "__len__"):
        raise TypeError(
            f"source is a {type(source).__name__}; expected a Folder or an Iterated of "
            "nnjax.data.stream"
        )
    if state is not None:
        require_instance(state, StreamState, "state", "the StreamState of an earlier run")
    start = initial_state(net, optimizer, key, params)
    if validation is not None:
        if not isinstance(validation, tuple | list) or len(validation) != 2:
            raise TypeError(f"validation is a {type(validation).__name__}; expected a pair (x, y)")
        validation = check_batch(net, start.params, *validation)
    if state is None:
        state = begin(start)
    return _iterate(net, source, recipe, epochs, validation, state)


def _iterate(net, source, recipe, epochs, validation, state):
    mesh = recipe.mesh
    rates = placed(mesh, tuple(map(jnp.asarray, recipe.rates)))
    if mesh is not None:
        state = placed_state(mesh, net, state)
    records: list[Record] = []
    for epoch in range(int(state.train.epoch), epochs):
        start = time.perf_counter()
        for x, y in _read_ahead(net, source, epoch, state, mesh):
            with in_mesh(mesh):
                after = _run_window(net, recipe, len(source), rates, state, x, y)
            if not np.isfinite(float(after.loss)):
                raise DivergedError(
                    f"the loss or a parameter became NaN or infinite in epoch {epoch}; training "
                    "stopped and kept the parameters from before that window; a likely reason: a "
                    "learning rate that is too large",
                    state.train,
                    history(records),
                )
            state = after
            yield state, None
        record: Record = {"epoch": epoch, "train_loss": float(state.loss)}
        if validation is not None:
            params = state.params if mesh is None else on_one_device(placed(mesh, state.params))
            result = jax.device_get(evaluate(net, params, *validation))
            record |= {f"validation_{name}": v.item() for name, v in result._asdict().items()}
        record["seconds"] = time.perf_counter() - start
        records.append(record)
        state = begin(state.train._replace(epoch=state.train.epoch + 1))
        yield state, record


def begin(train: TrainState) -> StreamState:
    """Return the state before the first window of an epoch.

    Example:
        >>> import jax, nnjax, optax
        >>> from nnjax.training.streaming import begin
        >>> net = nnjax.mlp([3, 2])
        >>> state = begin(nnjax.training.initial_state(net, optax.sgd(0.5), jax.random.key(0)))
        >>> int(state.windows)
        0
    """
    zero = jnp.zeros((), jnp.int32)
    dtype = np.promote_types(jax.tree.leaves(train.params)[0].dtype, np.float32)
    return StreamState(train, zero, zero, jnp.zeros((), dtype))


def steps_per_epoch(n: int, window: int, batch_size: int) -> int:
    """Return how many mini-batches an epoch of n examples has, a window at a time.

    Example:
        >>> from nnjax.training.streaming import steps_per_epoch
        >>> steps_per_epoch(23, window=8, batch_size=5)  # 5 3, 5 3, 5 2
        6
    """
    windows, rest = divmod(n, window)
    return windows * -(-window // batch_size) + -(-rest // batch_size)


def _read_ahead(
    net: Network, source: Source, epoch: int, state: StreamState, mesh: Mesh | None
) -> Iterator[Any]:
    """Yield each window on the devices; a thread reads and checks the next one meanwhile."""
    count = 0

    def own(n):
        nonlocal count
        count = n
        return slice(n) if mesh is None else rows_of_this_process(mesh, n)

    of_epoch = epoch, int(state.windows)
    windows = source.windows(*of_epoch) if mesh is None else source.windows(*of_epoch, own)

    def following():
        window = next(windows, None)
        if window is None:
            return None
        x, y = window
        for name, array in (("x", x), ("y", y)):
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                raise ValueError(f"{name} holds NaN or infinity; remove or replace those examples")
        checked = check_batch(net, state.params, x, y)
        return checked if mesh is None else shared(mesh, count, checked)

    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(following)
        while (window := coming.result()) is not None:
            coming = reader.submit(following)
            yield window


@partial(jax.jit, static_argnums=2)
def _run_window(net, recipe, n, rates, state, x, y):
    """Return the state after one window of an epoch of n examples."""
    own = recipe.with_rates(rates)
    batches, pick = batches_of(own.mesh, (x, y), own.batch_size)
    train, loss, _ = run_epoch_on(batches, net, own, state.train, None, pick, None, state.steps, n)
    steps = -(-len(x) // recipe.batch_size)
    train = train._replace(epoch=state.train.epoch)  # not done yet
    return StreamState(train, state.windows + 1, state.steps + steps, state.loss + loss)
