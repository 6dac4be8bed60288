"""The training loop: mini-batch gradient descent with the gradients of `backprop`.

An epoch is one jitted program (`nnjax.training.epoch`), and what is measured after it another. The
data lie on the device, in the dtype they came in. The loop yields a record after every epoch and
prints nothing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from nnjax.checks import check_key, did_you_mean, require_instance
from nnjax.data import Dataset
from nnjax.display import table
from nnjax.feedback import Feedback, check_feedback
from nnjax.initializers import split
from nnjax.network import Network, Params, check_params, init
from nnjax.sharding import automatic, replicated, spec
from nnjax.tasks import Classification, Regression, Task, task_of
from nnjax.training import optimizers
from nnjax.training.arguments import Arguments, Watched, called_with, on_device
from nnjax.training.devices import in_mesh, placed, placed_state
from nnjax.training.early_stopping import EarlyStopping
from nnjax.training.epoch import TrainState, run_epoch
from nnjax.training.monitors import Penalty, Performance, directions, measure
from nnjax.training.progress import Bar, listening
from nnjax.training.recipe import Recipe
from nnjax.training.shares import Shared, own_examples, placed_data

__all__ = [
    "DivergedError",
    "History",
    "Interrupted",
    "Record",
    "check_sizes",
    "history",
    "initial_state",
    "task_trained",
    "train",
    "train_epochs",
]

Record = dict[str, Any]


@jax.tree_util.register_pytree_with_keys_class
class History(dict[str, np.ndarray]):
    """What was measured: arrays by name, one value per epoch. A notebook shows it as a table.

    Example:
        >>> from nnjax.training import history
        >>> history([{"epoch": 0, "train_loss": 0.5}, {"epoch": 1, "train_loss": 0.25}])
        {'epoch': array([0, 1]), 'train_loss': array([0.5 , 0.25])}
    """

    def _repr_html_(self) -> str:
        names = [name for name, values in self.items() if np.ndim(values) == 1]
        n, half = max((len(self[name]) for name in names), default=0), _ROWS // 2
        shown = range(n) if n <= _ROWS else [*range(half), None, *range(n - half, n)]
        rows = [tuple(name.replace("_", " ") for name in names)]
        for k in shown:
            rows.append(tuple("…" if k is None else f"{self[name][k]:.6g}" for name in names))
        return table(rows, numbers_from=0)

    def tree_flatten_with_keys(self) -> Any:
        """Return the arrays and their names, as a dictionary does."""
        names = tuple(sorted(self))
        return [(jax.tree_util.DictKey(name), self[name]) for name in names], names

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], values: Any) -> History:
        """Return the history of these names and arrays."""
        return cls(zip(names, values, strict=True))


_ROWS = 20  # of a history that a notebook shows
_USUAL_INPUT = 30.0  # standardised inputs seldom go beyond


class _EndedEarly(BaseException):
    def __init__(self, message: str, state: TrainState, history: History):
        super().__init__(message)
        self.state = state
        self.history = history


class DivergedError(_EndedEarly, FloatingPointError):
    """The loss or a parameter became NaN or infinite; the last good state is kept.

    Attributes:
        state: the `TrainState` before the epoch that failed.
        history: what was recorded until then.
    """


class Interrupted(_EndedEarly, KeyboardInterrupt):
    """Ctrl-C during an epoch, or while its record is shown; the complete epochs are kept.

    Attributes:
        state: the `TrainState` after the last complete epoch: `train(..., state=state)` continues
            from it, and ends bit for bit as if it had never been interrupted.
        history: what was recorded until then.
    """


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
    check_key(key)
    init_key, run_key = split(key, 2)
    if params is None:
        start = init(net, init_key)
    else:
        check_params(net, params)
        start = jax.tree.map(jnp.asarray, params)
    opt_state = optimizers.start(optimizer, start)
    stopping: Any = ()
    if early_stopping is not None:
        if not isinstance(early_stopping, EarlyStopping):
            raise TypeError(f"early_stopping is {early_stopping!r}; expected an EarlyStopping")
        if early_stopping.lower_rate_to < 1:
            optimizers.scale_rate(opt_state, 1.0)  # says if it cannot be lowered
        stopping = early_stopping.init(start)
    check_feedback(net, feedback)
    return TrainState(start, opt_state, run_key, jnp.zeros((), jnp.int32), stopping, feedback)


@called_with(Arguments)
def train_epochs(arguments: Arguments) -> Iterator[tuple[TrainState, Record]]:
    """Yield the state and a record after every epoch: `train`, step by step.

    Arguments are checked at the call, before the first epoch is asked for.

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
    return _epochs(arguments)


@jax.transfer_guard("allow")  # here data and state are meant to go to the device; later nothing is
def _epochs(arguments: Arguments) -> Iterator[tuple[TrainState, Record]]:
    """Check what the arguments are together; the epochs are trained as they are asked for."""
    net, recipe, rule = arguments.net, arguments.recipe, arguments.early_stopping
    start = initial_state(
        net, recipe.optimizer, arguments.key, arguments.params, rule, arguments.feedback
    )
    if arguments.state is not None:
        start = _checked_state(net, arguments.state, start)
    mesh, given = recipe.mesh, arguments.data
    own = given if mesh is None else own_examples(mesh, given)
    data = on_device(net, start.params, own)
    if mesh is not None:
        start, data = placed_state(mesh, net, start), placed_data(mesh, data, given)
    task = task_trained(arguments)
    check_sizes(recipe, len(data.train[0]))
    parts = [part for part in arguments.evaluate_on if getattr(data, part) is not None]
    penalty = () if recipe.regularizer is None else (Penalty(recipe.regularizer),)
    after_epoch = () if recipe.observed else recipe.monitors
    performances = (Performance(part, task) for part in parts)
    measured = partial(measure, net, (*performances, *penalty, *after_epoch))
    numbers = _check_names(recipe, recipe.computing(start.params), data, measured)
    if rule is not None:
        rule = rule.for_task(task)
        if rule.measure not in numbers:
            raise ValueError(
                f"early stopping cannot monitor {rule.measure!r}; available: {', '.join(numbers)}"
                f"{did_you_mean(rule.measure, numbers)}"
            )
        rule = rule.with_direction(directions(recipe.monitors))
    rates = placed(mesh, tuple(map(jnp.asarray, recipe.rates)))
    run = partial(_run_epoch, net, recipe, rates)
    within = arguments.within if mesh is None else None  # one of many devices tells less
    of, epochs = recipe.computing, arguments.epochs
    return _iterate(run, measured, of, rule, epochs, start, data, within, mesh)


def _layout(net, recipe, rates, state, *rest):
    return jax.tree.map(spec, state), replicated(), replicated()


def task_trained(arguments: Arguments) -> Task:
    """Return what the network is trained for, as its data tell it.

    Raises:
        ValueError: if there are weights of classes, and the task knows no classes.

    Example:
        >>> import jax, nnjax, optax
        >>> from nnjax.training.arguments import Arguments
        >>> from nnjax.training.loop import task_trained
        >>> arguments = Arguments(
        ...     nnjax.mlp([64, 10]), nnjax.data.load("digits"), optimizer=optax.sgd(0.5),
        ...     batch_size=10, epochs=3, key=jax.random.key(0),
        ... )
        >>> task_trained(arguments).name
        'classification'
    """
    data = arguments.data
    task = task_of(arguments.net, data.train[1])
    if arguments.class_weight is not None and not isinstance(task, Classification):
        raise ValueError(
            f"class_weight gives weights to classes, and the task is {task.name}; leave it out"
        )
    if isinstance(task, Regression):
        return Regression.standardized(data.target_standardization)
    return task


@jax.jit
@partial(automatic, layout=_layout)
def _run_epoch(net, recipe, rates, state, data, listener):
    return run_epoch(net, recipe.with_rates(rates), state, data, listener)


def _iterate(
    run: Callable[..., Any],
    measured: Callable[..., Any],
    computing: Callable[[Params], Params],
    early_stopping: EarlyStopping | None,
    epochs: int,
    state: TrainState,
    data: Dataset,
    within: Callable[[float], None] | None,
    mesh: Mesh | None,
) -> Iterator[tuple[TrainState, Record]]:
    records: list[Record] = []
    for epoch in range(int(jax.device_get(state.epoch)), epochs):
        if early_stopping is not None and jax.device_get(state.stopping.stopped):
            return
        start = time.perf_counter()
        try:
            with listening(within) as listener, in_mesh(mesh):
                after, loss, observed = run(state, data, listener)
                record: Record = {"epoch": epoch, "train_loss": float(jax.device_get(loss))}
            if not np.isfinite(record["train_loss"]):
                raise DivergedError(
                    _why_diverged(epoch, state, computing(state.params), data),
                    state,
                    history(records),
                )
            with in_mesh(mesh):
                rate = optimizers.rate(after.opt_state)
                values = measured(computing(after.params), data, after.feedback) | observed
                values |= {} if rate is None else {"rate": rate}
                record |= {name: _plain(value) for name, value in jax.device_get(values).items()}
                if early_stopping is not None:
                    value = record[early_stopping.measure]
                    after = _watch(early_stopping, after, epoch, value, mesh)
                    counts = after.stopping.best_epoch, after.stopping.waited
                    record["best_epoch"], record["waited"] = map(int, jax.device_get(counts))
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted in epoch {epoch}; the parameters from before that epoch are kept",
                state,
                history(records),
            ) from None
        record["seconds"] = time.perf_counter() - start
        state = after
        records.append(record)
        yield state, record


def _why_diverged(epoch: int, state: TrainState, params: Params, data: Dataset) -> str:
    """Return what happened, and the likely reasons, the most likely first."""
    rate = optimizers.rate(state.opt_state)
    reasons = ["a learning rate that is too large" + ("" if rate is None else f" ({rate:g})")]
    x: Any = data.train[0]
    x = x.rows if isinstance(x, Shared) else x
    largest = float(jnp.max(jnp.abs(x.astype(jnp.float32))))
    if x.dtype != jnp.uint8 and largest > _USUAL_INPUT:
        reasons.append(f"inputs as large as {largest:g} (scale them to about 0 … 1)")
    if jax.tree.leaves(params)[0].dtype == jnp.float16:
        reasons.append("float16, which ends at 65504 (use bfloat16 or float32)")
    return (
        f"the loss or a parameter became NaN or infinite in epoch {epoch}; training stopped and "
        f"kept the parameters from before that epoch; likely reasons: {'; '.join(reasons)}"
    )


def _watch(
    rule: EarlyStopping, state: TrainState, epoch: int, value: float, mesh: Mesh | None
) -> TrainState:
    at: tuple[Any, Any] = epoch, value
    if mesh is not None:
        at = placed(mesh, (jnp.asarray(epoch, jnp.int32), jnp.asarray(value, jnp.float32)))
    stopping, factor = rule.update(state.stopping, state.params, *at)
    if rule.lower_rate_to < 1:
        state = state._replace(opt_state=optimizers.scale_rate(state.opt_state, factor))
    return state._replace(stopping=stopping)


def _plain(value: np.ndarray) -> Any:
    return value.item() if value.ndim == 0 else value


@called_with(Watched)
def train(arguments: Watched) -> tuple[TrainState, History]:
    """Train a network; return the final state and the history of the run.

    Every epoch visits every training example once, in a new random order, `batch_size` at a time;
    the last mini-batch holds what is left over. On one machine the same key gives the same
    result, bit for bit.

    Args:
        net: the network.
        data: `Dataset(train, validation, test)`, each part `(x, y)` or None. What the network is
            trained for, and so the metrics, follows from its output layer and y: see `nnjax.tasks`.
        optimizer: any `optax.GradientTransformation`, such as `optax.sgd(0.5)`; by name, and with
            rate schedules, from `nnjax.training.optimizers`.
        epochs: number of passes over the training data, including those before `state`.
        batch_size: mini-batch size, at most the number of training examples.
        key: a random key: starting parameters, order of the examples, dropout, augmentation.
        params: where to start; None: `init` with a key split from `key`.
        evaluate_on: the parts of the data on which to measure loss and metrics after each epoch;
            parts that are None are left out. Add "train" to evaluate the training data too.
        regularizer: such as `nnjax.regularizers.L2(5.0)`; n is the number of training examples.
        augment: such as `nnjax.training.augmentation.Distortion(rotation=10.0)`; any pure,
            hashable function of (key, x).
        class_weight: how much the examples of each class count: "balanced" (each class the same in
            total), one weight per class, or weights by class such as `{1: 5.0}`. The loss of an
            example and its error δ^L are multiplied by the weight of its class.
        monitors: additional measurements: names in `nnjax.training.monitors.MONITORS`, or
            functions of (net, params, data).
        monitor_every: None: after each epoch; k: after every k mini-batches, so that each record
            holds an array of values, with one row per measurement.
        compute_dtype: None: compute in the dtype of the parameters; otherwise the one that a copy
            of the parameters is cast to, for all that is computed and measured, such as
            `jnp.bfloat16`. The parameters themselves stay as they are: in float32 they are the
            master copy, in which small steps are not rounded away.
        early_stopping: ends the run, or lowers its learning rate, when a measure in the records no
            longer improves.
        feedback: None: backpropagation; otherwise the rule that propagates errors backwards, such
            as `nnjax.feedback.init(net, key, "feedback_alignment")`. Weights that learn are in
            `state.feedback`.
        state: continue from the state of an earlier run with the same arguments, which then ends,
            bit for bit, as if it had never been interrupted.
        mesh: devices to train on, such as `jax.make_mesh((4,), ("data",))`: every mini-batch is
            divided over its first axis, with the results of one device up to rounding. Over a
            second axis the neurons of dense layers are divided.
        within: called, from another thread, with the fraction of the epoch that is done, some
            twenty times per epoch.
        progress: True: show a bar that moves within the epoch; or a function that is called with
            the record of each epoch: the numbers of `history` for that epoch, by name.

    Returns:
        `(state, history)`: `state.best_params` are the trained parameters: with early stopping
        the best, otherwise the last ones, `state.params`. `history` maps names to arrays, with one
        value per epoch: `epoch`; `train_loss` (the running mean over the epoch's mini-batches,
        without the regularisation term; with "train" in `evaluate_on`, the loss of the parameters
        at the end of the epoch); `seconds`; for each part evaluated, such as the test data,
        `test_loss` and the metrics of the task (`nnjax.tasks`): `test_accuracy` (a fraction) and
        `test_correct` (a count); of a regression `test_rmse`, `test_mae` and `test_r2`, of several
        labels `test_label_accuracy`, `test_exact_match` and `test_f1`; with a regularizer
        `penalty`; with an optimizer by name `rate`; with early stopping `best_epoch` and `waited`;
        and what the monitors measure.

    Raises:
        ValueError, TypeError: if an argument does not fit, or the data hold NaN or infinity.
        DivergedError: if the loss or a parameter is no longer finite; it carries the last good
            state and the history.
        Interrupted: on Ctrl-C; it carries the state after the last complete epoch and the history.

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
    records, state = [], arguments.state
    with _shown(arguments) as (arguments, show):
        for state, record in _epochs(arguments):
            records.append(record)
            try:
                show(record)
            except KeyboardInterrupt:
                raise Interrupted(
                    f"interrupted after epoch {record['epoch']}; its parameters are kept",
                    state,
                    history(records),
                ) from None
    assert state is not None  # epochs is at least 1
    return state, history(records)


@contextmanager
def _shown(arguments: Watched) -> Iterator[tuple[Watched, Callable[[Record], Any]]]:
    """Give the arguments with who listens within the epoch, and what is called with each record."""
    if arguments.progress is True:
        done = 0 if arguments.state is None else int(arguments.state.epoch)
        with Bar(arguments.epochs, done) as bar:
            yield dataclasses.replace(arguments, within=bar.within), bar
    else:
        yield arguments, arguments.progress or (lambda record: None)


def history(records: Sequence[Mapping[str, Any]]) -> History:
    """Return the records of a run as arrays by name, with one value per epoch.

    Raises:
        TypeError: if they are not a list of records.

    Example:
        >>> import nnjax
        >>> nnjax.training.history([{"epoch": 0, "loss": 0.5}, {"epoch": 1, "loss": 0.25}])["loss"]
        array([0.5 , 0.25])
    """
    require_instance(records, list | tuple, "records", "a list of records, one per epoch")
    for record in records:
        require_instance(record, Mapping, "a record", "numbers by name")
    names = records[0] if records else ()
    return History({name: np.asarray([record[name] for record in records]) for name in names})


def _check_names(recipe, params, data, measured) -> list[str]:
    """Return the names of what is measured as a single number per epoch."""
    own = {"epoch", "train_loss", "rate", "best_epoch", "waited", "seconds"}
    shapes = jax.eval_shape(measured, params, data)
    net = measured.args[0]
    theirs = jax.eval_shape(partial(measure, net, recipe.monitors), params, data)
    twice = theirs.keys() & (own | (shapes.keys() if recipe.observed else set()))
    if twice:
        raise ValueError(
            f"a monitor gives the name {min(twice)}, which every record has already; give it "
            "another"
        )
    return ["train_loss", *(name for name, value in shapes.items() if value.shape == ())]


def check_sizes(recipe: Recipe, n: int) -> None:
    """Raise ValueError if a recipe does not fit n training examples.

    Example:
        >>> import optax
        >>> from nnjax.training import Recipe
        >>> from nnjax.training.loop import check_sizes
        >>> check_sizes(Recipe(optimizer=optax.sgd(0.5), batch_size=10), 5)
        Traceback (most recent call last):
        ...
        ValueError: batch_size is 10, but there are 5 training examples; expected at most as many
    """
    if recipe.batch_size > n:
        raise ValueError(
            f"batch_size is {recipe.batch_size}, but there are {n} training examples; expected at "
            "most as many"
        )
    steps = n // recipe.batch_size
    if recipe.monitor_every is not None and recipe.monitor_every > steps:
        raise ValueError(
            f"monitor_every is {recipe.monitor_every}, but an epoch has {steps} whole "
            "mini-batches; expected at most as many"
        )


def _checked_state(net: Network, state: TrainState, template: TrainState) -> TrainState:
    """Return a state to continue from, if it is one of this run."""
    check_params(net, state.params, "state.params")
    givers = {"opt_state": "optimizer", "stopping": "early_stopping", "feedback": "feedback"}
    for part, giver in givers.items():
        came, expected = (_shapes(getattr(s, part)) for s in (state, template))
        if came != expected:
            raise ValueError(
                f"state.{part} is of another run: of another {giver} than is given here"
            )
    return state


def _shapes(tree):
    leaves, structure = jax.tree.flatten(tree)
    return structure, [jnp.shape(leaf) for leaf in leaves]
