"""Many networks at once: all settings of a grid, from several seeds, in few compiled programs.

Networks that differ in numbers alone share one compiled program (`nnjax.training.grid`). An epoch
of it trains all of them, each exactly as `nnjax.train` would, and the data lie in memory once. A
network that has stopped or diverged keeps its state and costs nothing more.

How the program goes through its networks, by measurement:

- On a CPU one after another (`lax.map`). 16 networks [784, 30, 10] and 20,000 images, seconds per
  network and epoch: 0.059 against 0.086 under `vmap` at a mini-batch of 10, 0.051 against 0.063 at
  100. A mini-batch of one network stays in the cache; the examples are shuffled once for all
  networks with the same seed.
- On an accelerator side by side (`vmap`), where one small network leaves most of it idle. There the
  order of the examples is what networks have of their own, and a mini-batch is gathered when its
  turn comes: shuffled copies of the data would be as many as there are seeds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nnjax.checks import check_key, require_instance, require_size
from nnjax.data import Dataset
from nnjax.data.dataset import require_dataset
from nnjax.layers.base import Affine, Layer
from nnjax.layers.dropout import Dropout
from nnjax.network import Network, init
from nnjax.training import optimizers
from nnjax.training.arguments import Arguments, on_device
from nnjax.training.early_stopping import EarlyStopping
from nnjax.training.epoch import TrainState, run_epoch_on, shuffled, visiting_order
from nnjax.training.grid import Grid, Group, Settings, regularizer, seed_numbers
from nnjax.training.loop import check_sizes, initial_state, task_trained
from nnjax.training.many_result import DIVERGED, DROPPED, RUNNING, STOPPED, GroupState, Many
from nnjax.training.monitors import Performance, directions, measure
from nnjax.training.processes import Share, own_devices
from nnjax.training.recipe import Augmentation, Recipe
from nnjax.training.shares import batches_of

__all__ = ["many_epochs", "train_many"]


def train_many(
    net: Network,
    data: Dataset,
    grid: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    seeds: int | Sequence[int],
    epochs: int,
    batch_size: int | None = None,
    key: jax.Array | None = None,
    optimizer: Any = "sgd",
    schedule: str = "constant",
    evaluate_on: Sequence[str] = ("validation",),
    augment: Augmentation | None = None,
    early_stopping: EarlyStopping | None = None,
    refine: int | None = None,
    mesh: Mesh | None = None,
) -> Many:
    """Train a network with all settings of a grid, from several seeds; return all of them.

    Each network is trained as `nnjax.train` trains it with the same settings and key.

    Args:
        net: the network; several in the grid, as `{"net": [...]}`, take its place.
        data: `Dataset(train, validation, test)`, each part `(x, y)` or None.
        grid: values by name. Several values make an axis; a single number holds for every network
            and makes none. Names: `rate`; `mu` and the other numbers that the optimizer takes;
            `l2`, `l1`, `max_norm`; `dropout`, the rate of every Dropout layer; `init_scale`, what
            the starting weights are multiplied by; `batch_size`, `net`, `optimizer`, `schedule`.
            Or a list of settings, such as `[{"rate": 0.1, "l2": 0}, {"rate": 0.3, "l2": 5}]`, in
            place of all combinations; they are numbered along the axis `trial`.
        seeds: how many, 0, 1, ..., or a list of them: starting parameters, order of the examples,
            dropout and augmentation.
        epochs: number of passes over the training data.
        batch_size: mini-batch size; None: it is in the grid.
        key: a random key; the network of seed s has `jax.random.fold_in(key, s)`. None:
            `jax.random.key(s)`, as `nnjax train --seed s` has.
        optimizer: the name of one, see `nnjax.training.optimizers`; a function of the learning
            rate, such as `optax.adam`; or one that is made already, with its rate.
        schedule: the name of a rate schedule.
        evaluate_on: the parts of the data on which to measure loss and accuracy after each epoch.
        augment, early_stopping: see `nnjax.train`; each network stops by itself.
        refine: k: successive halving. After 1/k, 1/k², ... of the epochs only the best k-th of the
            settings is trained on, by the median over the seeds.
        mesh: devices to divide the networks over, such as `jax.make_mesh((4,), ("networks",))`;
            they do not communicate. It may have devices of several processes, all of which call
            this; each trains its share of the settings, and all return the same.

    Returns:
        A `Many`: `states` and `history`, stacked along the axes of the grid in its order, the seeds
        last; `best()`, `table()`, `ensemble(x)`. It unpacks into states and history.

    Raises:
        ValueError, TypeError: if an argument does not fit.

    Example:
        >>> import jax, nnjax
        >>> many = nnjax.train_many(
        ...     nnjax.mlp([64, 10]), nnjax.data.load("digits"), {"rate": [0.1, 1.0], "l2": [0, 1]},
        ...     seeds=2, epochs=2, batch_size=10, key=jax.random.key(0),
        ... )
        >>> many.states.params[0].w.shape
        (2, 2, 2, 10, 64)
        >>> many.history["validation_accuracy"].shape
        (2, 2, 2, 2)
        >>> sorted(many.best().settings)
        ['l2', 'rate']

    Reference: Nielsen 2015, chapter 3, "How to choose a neural network's hyper-parameters?";
    Jamieson and Talwalkar 2016, arXiv:1502.07943 (successive halving).
    """
    arguments = locals()
    result = None
    for result in many_epochs(**arguments):  # noqa: B007  (the last one is the result)
        pass
    assert result is not None  # epochs is at least 1
    return result.gathered()


def many_epochs(
    net: Network,
    data: Dataset,
    grid: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    seeds: int | Sequence[int],
    epochs: int,
    batch_size: int | None = None,
    key: jax.Array | None = None,
    optimizer: Any = "sgd",
    schedule: str = "constant",
    evaluate_on: Sequence[str] = ("validation",),
    augment: Augmentation | None = None,
    early_stopping: EarlyStopping | None = None,
    refine: int | None = None,
    mesh: Mesh | None = None,
    restore: Callable[[Any], Any] = lambda progress: progress,
) -> Iterator[Many]:
    """Yield all networks after every epoch, until none is left to train: `train_many` in steps.

    Arguments are checked at the call, before the first epoch is asked for. On several processes the
    figures of all networks are there; their states are those of this process until they are
    `gathered()`.

    Args:
        restore: given the `progress` of a `Many` before the first epoch, returns that of an earlier
            search with the same arguments, which then ends, bit for bit, as if it had never been
            interrupted; of a complete one the end is yielded.

    Other arguments, raises: see `train_many`.

    Example:
        >>> import nnjax
        >>> from nnjax.training.many import many_epochs
        >>> for many in many_epochs(
        ...     nnjax.mlp([64, 10]), nnjax.data.load("digits"), {"rate": [0.1, 1.0]},
        ...     seeds=1, epochs=2, batch_size=100,
        ... ):
        ...     print(many.epoch, many.epochs_trained.tolist())
        1 [[1], [1]]
        2 [[2], [2]]
    """
    given = {"net": net, "optimizer": optimizer, "schedule": schedule}
    if batch_size is not None:
        given["batch_size"] = batch_size
    whole = _grid(grid, given)
    require_size(epochs, "epochs")
    require_dataset(data)
    if early_stopping is not None:
        expected = "None or a nnjax.training.EarlyStopping"
        require_instance(early_stopping, EarlyStopping, "early_stopping", expected)
    if not callable(restore):
        raise TypeError(f"restore is {restore!r}; expected a function of the progress")
    if refine is not None:
        require_size(refine, "refine", 2)
    numbers = seed_numbers(seeds)
    if key is not None:
        check_key(key)
    keys = [jax.random.key(s) if key is None else jax.random.fold_in(key, s) for s in numbers]
    programs = []
    for group in whole.groups:
        first = group.settings[0]
        steps = epochs * -(-len(data.train[0]) // first["batch_size"])
        arguments = Arguments(
            first["net"],
            data,
            optimizer=group.optimizer(first, steps),
            batch_size=first["batch_size"],
            epochs=epochs,
            key=keys[0],
            evaluate_on=evaluate_on,
            augment=augment,
            early_stopping=early_stopping,
            mesh=mesh,
        )
        programs.append(_Program.of(group, arguments, steps))
    groups = tuple(program.start(keys) for program in programs)
    start = Many(whole, numbers, tuple(keys), epochs, 0, groups, programs[0].rule)
    many = start.with_progress(restore(start.progress))
    if mesh is not None and own_devices(mesh).size < mesh.size:
        many = _divided(many)
    return _iterate(programs, many, refine)


def _grid(grid: Any, given: Settings) -> Grid:
    """Return the grid of what was given as one, and by itself."""
    several = isinstance(grid, list | tuple)
    if not several:
        require_instance(grid, Mapping, "grid", "values by name, such as {'rate': [0.1, 0.3]}")
    for names in grid if several else [grid]:
        if isinstance(names, Mapping) and "batch_size" not in {**given, **names}:
            raise ValueError("batch_size is missing; give a number, or several in the grid")
    if several:
        return Grid.of_trials(grid, given)
    whole = Grid.of(given | dict(grid))
    return dataclasses.replace(whole, axes={n: whole.axes[n] for n in grid if n in whole.axes})


def _divided(many: Many) -> Many:
    """Return the networks with the states of those that this process trains."""
    groups, first = [], 0
    for group in many.groups:
        count, processes = len(group.group.cells), jax.process_count()
        share = Share(count, first, jax.process_index(), processes)
        states = jax.tree.map(lambda leaf, own=share.own: leaf[:, own], group.states)
        groups.append(group._replace(states=states, share=share))
        first = (first + count) % processes  # so that small programs do not all go to the first
    return dataclasses.replace(many, groups=tuple(groups))


def _iterate(programs: Sequence[_Program], many: Many, refine: int | None) -> Iterator[Many]:
    rungs = {} if refine is None else _rungs(many, refine)
    if many.epoch and _complete(many):
        yield many
    while not _complete(many):
        epoch = many.epoch
        pairs = zip(programs, many.groups, strict=True)
        groups = tuple(program.epoch(group, epoch) for program, group in pairs)
        many = dataclasses.replace(many, epoch=epoch + 1, groups=groups)
        if epoch + 1 in rungs:
            many = _halved(many, rungs[epoch + 1])
        yield many


def _complete(many: Many) -> bool:
    running = any(np.any(group.status == RUNNING) for group in many.groups)
    return many.epoch == many.epochs or not running


def _rungs(many: Many, k: int) -> dict[int, int]:
    """Return after how many epochs the settings are thinned out, and how many are then left."""
    count, times = math.prod(many.grid.shape), 0
    while k ** (times + 1) <= count and k ** (times + 1) <= many.epochs:
        times += 1
    return {
        -(-many.epochs // k**i): max(1, -(-count // k ** (times - i + 1)))
        for i in range(times, 0, -1)
    }


def _halved(many: Many, left: int) -> Many:
    """Return the networks with all but the best settings taken out of training."""
    ranks = many.ranked(many.final(many.measure)).ravel()
    # What is dropped keeps the value of an earlier epoch, and what diverged is not trained on.
    over = (many.dropped | np.all(many.diverged, axis=-1)).ravel()
    keep = np.lexsort((-ranks, over))[:left]
    groups = []
    for group in many.groups:
        out = ~np.isin(group.group.cells, keep)[None] & (group.status == RUNNING)
        groups.append(group._replace(status=np.where(out, DROPPED, group.status)))
    return dataclasses.replace(many, groups=tuple(groups))


# ------------------------------------------------------------ the program of a group


@dataclasses.dataclass(frozen=True, eq=False)
class _Program:
    """What a group of networks runs every epoch, and on what."""

    group: Group
    net: Network
    recipe: Recipe
    rule: EarlyStopping | None
    performances: tuple[Performance, ...]
    steps: int
    epochs: int
    data: Dataset
    mesh: Mesh | None

    @classmethod
    def of(cls, group: Group, arguments: Arguments, steps: int) -> _Program:
        """Return the program of a group, given what its first network is trained with."""
        net, data, rule = arguments.net, arguments.data, arguments.early_stopping
        task = task_trained(arguments)
        performances = tuple(
            Performance(part, task)
            for part in arguments.evaluate_on
            if getattr(data, part) is not None
        )
        check_sizes(arguments.recipe, len(data.train[0]))
        if rule is not None:
            rule = rule.for_task(task)
            known = ["train_loss", *directions(performances)]
            if rule.measure not in known:
                raise ValueError(
                    f"early stopping cannot monitor {rule.measure!r}; available: {', '.join(known)}"
                )
            rule = rule.with_direction(directions(performances))
        placed = on_device(net, init(net, arguments.key), data)
        mesh = arguments.recipe.mesh
        if mesh is not None:
            mesh = own_devices(mesh)
            placed = jax.device_put(placed, NamedSharding(mesh, PartitionSpec()))
        recipe = dataclasses.replace(arguments.recipe, mesh=None)
        return cls(group, net, recipe, rule, performances, steps, arguments.epochs, placed, mesh)

    def start(self, keys: Sequence[jax.Array]) -> GroupState:
        """Return the networks before the first epoch, stacked (S, C, ...)."""
        settings = self.group.settings
        made = [self.group.optimizer(each, self.steps) for each in settings]
        rows = []
        for key in keys:
            first = initial_state(self.net, made[0], key, early_stopping=self.rule)
            row = [
                _start(first, each, optimizer, self.rule)
                for each, optimizer in zip(settings, made, strict=True)
            ]
            rows.append(_stack(row))
        states = _stack(rows)
        names = ["train_loss", *directions(self.performances)]
        names += ["penalty"] if regularizer(settings[0]) is not None else []
        names += ["rate"] if optimizers.rate(states.opt_state) is not None else []
        names += ["best_epoch", "waited"] if self.rule is not None else []
        shape = (len(keys), len(settings))
        history = {name: np.full((*shape, self.epochs), np.nan) for name in names}
        status = np.full(shape, RUNNING, np.int8)
        return GroupState(self.group, self.net, states, status, history, Share(len(settings)))

    def epoch(self, before: GroupState, epoch: int) -> GroupState:
        """Return the networks after one more epoch; those that are not running stay as they are."""
        if not np.any(before.status == RUNNING):
            return before
        share, states = before.share, before.states
        status: Any = before.status[:, share.own]
        record: Any = {name: np.zeros(status.shape) for name in before.history}
        if np.any(status == RUNNING):
            numbers = {k: v[share.own] for k, v in self.group.numbers.items() if k in _NUMBERS}
            rates = tuple(map(jnp.asarray, self.recipe.rates))
            side_by_side = jax.default_backend() != "cpu"
            what = (self.net, self.recipe, self.rule, self.performances, self.mesh, side_by_side)
            at, networks = jnp.asarray(epoch, jnp.int32), (states, status)
            (states, status), record = _run(*what, rates, at, numbers, networks, self.data)
        figures = {name: np.asarray(record[name], float) for name in before.history}
        status, record = share.gathered((np.asarray(status), figures))
        done = (before.status == RUNNING) & (status != DIVERGED)
        history = {name: values.copy() for name, values in before.history.items()}
        for name, values in record.items():
            history[name][..., epoch] = np.where(done, values, np.nan)
        return before._replace(states=states, status=status, history=history)


_NUMBERS = ("l2", "l1", "max_norm", "dropout")  # the others are in the state from the start


def _start(first: TrainState, settings: Settings, optimizer: Any, rule: Any) -> TrainState:
    """Return the state that one network starts from, given that of its seed."""

    def scaled(entry):
        if not isinstance(entry, Affine):
            return entry
        return entry._replace(w=entry.w * jnp.asarray(settings["init_scale"], entry.w.dtype))

    params = first.params
    if "init_scale" in settings:
        is_affine = lambda entry: isinstance(entry, Affine)  # noqa: E731
        params = jax.tree.map(scaled, params, is_leaf=is_affine)
    stopping = () if rule is None else rule.init(params)
    return first._replace(params=params, stopping=stopping, opt_state=optimizer.init(params))


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@partial(jax.jit, static_argnums=(3, 4, 5))
def _run(net, recipe, rule, measured, mesh, side_by_side, rates, epoch, numbers, networks, data):
    """Return the networks (S, C, ...) after an epoch, and what was measured, each (S, C)."""

    def every(rates, epoch, numbers, networks, data):
        own = recipe.with_rates(rates)

        def of_seed(networks):
            first = TrainState((), (), networks[0].key[0], epoch)
            one = partial(_network, net, own, rule, measured, data)
            if side_by_side:
                one = partial(one, (visiting_order(first, data),), partial(_rows_of, data))
                return jax.vmap(one)(numbers, networks)
            one = partial(one, shuffled(first, data), lambda x, y: (x, y))
            return jax.lax.map(lambda args: one(*args), (numbers, networks))

        return jax.vmap(of_seed)(networks) if side_by_side else jax.lax.map(of_seed, networks)

    if mesh is None:
        return every(rates, epoch, numbers, networks, data)
    count, devices = networks[1].shape[1], mesh.devices.size
    filled = np.arange(count + -count % devices) % count  # the last devices do some again
    names = PartitionSpec(mesh.axis_names)
    by_cell, whole = PartitionSpec(None, mesh.axis_names), PartitionSpec()
    over_devices = jax.shard_map(
        every,
        mesh=mesh,
        in_specs=(whole, whole, names, by_cell, whole),
        out_specs=by_cell,
        check_vma=False,  # they do not communicate
    )
    numbers = jax.tree.map(lambda a: a[filled], numbers)
    networks = jax.tree.map(lambda a: a[:, filled], networks)
    results = over_devices(rates, epoch, numbers, networks, data)
    return jax.tree.map(lambda a: a[:, :count], results)


def _rows_of(data, rows):
    x, y = data.train
    return jnp.take(x, rows, axis=0), jnp.take(y, rows, axis=0)


def _network(net, recipe, rule, measured, data, examples, pick, numbers, network):
    """Return one network after an epoch, and what was measured."""

    def train(network):
        state, status = network
        dtype = jax.tree.leaves(state.params)[0].dtype
        own = {name: value.astype(dtype) for name, value in numbers.items()}
        penalty = regularizer(own)
        batches, _ = batches_of(None, examples, recipe.batch_size)
        epoch_of = partial(run_epoch_on, batches, data=data, pick=pick)
        with_penalty = dataclasses.replace(recipe, regularizer=penalty)
        if "dropout" in own:
            after, loss = _with_dropout(epoch_of, net, with_penalty, state, own["dropout"])
        else:
            after, loss, _ = epoch_of(net, with_penalty, state)
        diverged = ~jnp.isfinite(loss)
        record = {"train_loss": loss, **measure(net, measured, after.params, data)}
        if penalty is not None:
            record["penalty"] = penalty.penalty(after.params, len(data.train[0]))
        if (rate := optimizers.rate(after.opt_state)) is not None:
            record["rate"] = rate * getattr(after.opt_state, "hyperparams", {}).get("factor", 1.0)
        stopped = jnp.zeros((), bool)
        if rule is not None:
            stopping, factor = rule.update(
                state.stopping, after.params, state.epoch, record[rule.measure]
            )
            kept = jax.tree.map(partial(jnp.where, diverged), state.stopping, stopping)
            after, stopped = after._replace(stopping=kept), kept.stopped
            record |= {"best_epoch": kept.best_epoch, "waited": kept.waited}
            if rule.lower_rate_to < 1:
                factor = jnp.where(diverged, jnp.ones_like(factor), factor)
                after = after._replace(opt_state=optimizers.scale_rate(after.opt_state, factor))
        status = jnp.where(diverged, DIVERGED, jnp.where(stopped, STOPPED, RUNNING))
        return (after, status.astype(jnp.int8)), record

    def rest(network):
        _, record = jax.eval_shape(train, network)
        return network, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), record)

    return jax.lax.cond(network[1] == RUNNING, train, rest, network)


# ------------------------------------------------------------ dropout, as a number


@dataclasses.dataclass(frozen=True)
class _Dropout(Layer):
    """`Dropout` whose probability to keep an input is its parameter, so that it can be traced."""

    name = "dropout"
    random = True

    def out_shape(self, in_shape):
        return in_shape

    def init(self, key, in_shape, dtype=float):
        return jnp.ones((), dtype)

    def forward(self, params, a, key):
        if key is None:
            return a, None
        kept = jax.random.bernoulli(key, params, a.shape)
        return self.pull_back(params, kept, a), kept

    def pull_back(self, params, cache, delta):
        if cache is None:
            return delta
        return jnp.where(cache, delta / params.astype(delta.dtype), jnp.zeros_like(delta))

    def gradients(self, cache, delta):
        return jnp.zeros((), delta.dtype)


def _with_dropout(epoch_of, net, recipe, state, rate):
    """Return the state and the loss after an epoch in which every Dropout layer has this rate."""
    dropouts = [isinstance(layer, Dropout) for layer in net.layers]

    def replaced(entries, by):
        return tuple(by if d else entry for d, entry in zip(dropouts, entries, strict=True))

    def update(updates, state, params=None):
        updates, state = recipe.optimizer.update(replaced(updates, ()), state, replaced(params, ()))
        return replaced(updates, jnp.zeros_like(rate)), state

    numeric = Network(net.input_shape, replaced(net.layers, _Dropout()), net.loss)
    optimizer = optax.GradientTransformation(recipe.optimizer.init, update)
    own = dataclasses.replace(recipe, optimizer=optimizer)
    start = state._replace(params=replaced(state.params, 1 - rate))
    after, loss, _ = epoch_of(numeric, own, start)
    return after._replace(params=replaced(after.params, ())), loss
