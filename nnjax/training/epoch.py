"""One epoch: a pass over the training data, one jitted program.

The examples are permuted and gathered once, then `lax.scan` walks over the mini-batches; the last
one may be smaller. The data are arguments of the program, kept in the dtype they came in (uint8
images stay bytes until a mini-batch needs them).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nnjax.checks import require_instance
from nnjax.data.dataset import Dataset, require_dataset
from nnjax.display import heading, is_number, shape_text, table
from nnjax.feedback import Feedback
from nnjax.network import Network, Params, require_network
from nnjax.sharding import automatic, replicated, spec
from nnjax.training.class_weights import example_weights, weights_of_classes
from nnjax.training.devices import gradient_over
from nnjax.training.monitors import measure
from nnjax.training.progress import REPORTS, report
from nnjax.training.recipe import Recipe
from nnjax.training.shares import Batches, batches_of, whole

__all__ = ["TrainState", "run_epoch", "run_epoch_on", "shuffled", "visiting_order"]


class TrainState(NamedTuple):
    """All that the next epoch needs.

    Attributes:
        params: the parameters of the network.
        opt_state: the state of the optimizer.
        key: the random key of the run; epoch e draws from `jax.random.fold_in(key, e)`.
        epoch: the number of epochs done, ().
        stopping: the state of early stopping, or () without it.
        feedback: what carries errors back in place of wᵀ, with its weights; None: wᵀ itself.
    """

    params: Params
    opt_state: Any
    key: jax.Array
    epoch: jax.Array
    stopping: Any = ()
    feedback: Feedback | None = None

    def _repr_html_(self) -> str | None:
        """Return for a notebook what is trained, and for how long; None for stacked states."""
        if not is_number(self.epoch):
            return None
        leaves, _ = jax.tree.flatten_with_path(self.params)
        rows = [("parameter", "shape", "norm")]
        rows += [
            (f"params{jax.tree_util.keystr(path)}", shape_text(leaf.shape), f"{_norm(leaf):.3g}")
            for path, leaf in leaves
        ]
        return heading(f"TrainState after {int(self.epoch)} epochs") + table(rows)

    @property
    def best_params(self) -> Params:
        """The best parameters so far by early stopping; without it those of the last epoch."""
        return self.stopping.params if self.stopping else self.params


def _layout(net, recipe, state, *rest):
    return jax.tree.map(spec, state), replicated(), replicated()


@partial(automatic, layout=_layout)
def run_epoch(
    net: Network, recipe: Recipe, state: TrainState, data: Dataset, listener: Any = None
) -> tuple[TrainState, jax.Array, dict[str, jax.Array]]:
    """Return the state after one pass over the training data, its mean loss, and what was observed.

    A pure function, which `train` compiles: in your own loops jit it, or vmap it over stacked
    states to train many networks at once. Where the loss or a parameter is no longer finite at the
    end, the state comes back as it was and the loss is NaN.

    Args:
        net: the network.
        recipe: how to train; the last mini-batch holds the examples left over.
        state: from `initial_state`, or from an earlier epoch.
        data: the data set, on the device; its training part is what is learned from, the others
            are there for the monitors.
        listener: the number of a function that gets the fraction of the epoch that is done, from
            `nnjax.training.progress.listening`; None: there is none.

    Returns:
        The state; the running mean over the mini-batches of the loss, without the penalty, in
        float32 at least; and what the monitors of a recipe with `monitor_every` gave, by name,
        stacked along a first axis.

    Raises:
        TypeError, ValueError: if an argument is not what it should be.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax, optax
        >>> from nnjax.training import Recipe, initial_state, run_epoch
        >>> net = nnjax.mlp([3, 2])
        >>> recipe = Recipe(optimizer=optax.sgd(0.5), batch_size=2)
        >>> state = initial_state(net, recipe.optimizer, jax.random.key(0))
        >>> data = nnjax.data.Dataset((jnp.eye(3), jnp.array([0, 1, 1])), None, None)
        >>> state, loss, observed = run_epoch(net, recipe, state, data)
        >>> int(state.epoch), observed
        (1, {})
    """
    require_network(net)
    require_instance(recipe, Recipe, "recipe", "a nnjax.training.Recipe")
    require_instance(state, TrainState, "state", "what nnjax.training.initial_state returns")
    require_dataset(data)
    order = visiting_order(state, data)
    batches, pick = batches_of(recipe.mesh, data.train, recipe.batch_size, order)
    return run_epoch_on(batches, net, recipe, state, whole(data), pick, listener)


def shuffled(state: TrainState, data: Dataset) -> tuple[jax.Array, jax.Array]:
    """Return the training examples (x, y) in the order in which the next epoch visits them.

    Networks with equal `key` and `epoch` share it.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax, optax
        >>> from nnjax.training.epoch import shuffled
        >>> net = nnjax.mlp([1, 2])
        >>> state = nnjax.training.initial_state(net, optax.sgd(0.5), jax.random.key(0))
        >>> data = nnjax.data.Dataset((jnp.arange(4.0)[:, None], jnp.arange(4)), None, None)
        >>> x, y = shuffled(state, data)
        >>> sorted(y.tolist()), bool((x[:, 0] == y.astype(float)).all())
        ([0, 1, 2, 3], True)
    """
    order = visiting_order(state, data)
    x, y = data.train
    return jnp.take(x, order, axis=0), jnp.take(y, order, axis=0)


def visiting_order(state: TrainState, data: Dataset) -> jax.Array:
    """Return the numbers of the training examples in the order in which the next epoch visits them.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax, optax
        >>> from nnjax.training.epoch import visiting_order
        >>> net = nnjax.mlp([1, 2])
        >>> state = nnjax.training.initial_state(net, optax.sgd(0.5), jax.random.key(0))
        >>> data = nnjax.data.Dataset((jnp.ones((4, 1)), jnp.arange(4)), None, None)
        >>> sorted(visiting_order(state, data).tolist())
        [0, 1, 2, 3]
    """
    shuffle_key, _ = _keys(state)
    return jax.random.permutation(shuffle_key, len(data.train[0]))


def run_epoch_on(
    batches: Batches,
    net: Network,
    recipe: Recipe,
    state: TrainState,
    data: Dataset | None,
    pick: Callable[..., tuple[jax.Array, jax.Array]] = lambda x, y: (x, y),
    listener: Any = None,
    first: Any = 0,
    n: int | None = None,
) -> tuple[TrainState, jax.Array, dict[str, jax.Array]]:
    """Do what `run_epoch` does, with training examples that have been shuffled.

    Args:
        batches: the mini-batches, in the order of the epoch.
        net, recipe, state, data, listener: see `run_epoch`; data are there for the monitors.
        pick: makes x and y of the arrays of a mini-batch: what they are already, or, where they
            are the numbers of examples, the rows of the data with these numbers.
        first: the number of the first step, where the examples are a part of an epoch.
        n: how many examples the whole epoch has; None: as many as the data.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax, optax
        >>> from nnjax.training import Recipe, initial_state, run_epoch
        >>> from nnjax.training.epoch import run_epoch_on, visiting_order
        >>> from nnjax.training.shares import batches_of
        >>> net, recipe = nnjax.mlp([3, 2]), Recipe(optimizer=optax.sgd(0.5), batch_size=2)
        >>> state = initial_state(net, recipe.optimizer, jax.random.key(0))
        >>> x, y = jnp.eye(3), jnp.array([0, 1, 1])
        >>> data, pick = nnjax.data.Dataset((x, y), None, None), lambda rows: (x[rows], y[rows])
        >>> batches, _ = batches_of(None, (visiting_order(state, data),), batch_size=2)
        >>> _, loss, _ = run_epoch_on(batches, net, recipe, state, data, pick)
        >>> bool(loss == run_epoch(net, recipe, state, data)[1])
        True
    """
    optimizer, regularizer = recipe.optimizer, recipe.regularizer
    steps, left = len(batches.full[0]), batches.rest
    if n is None:
        n = steps * recipe.batch_size + (0 if left is None else len(left[0]))
    _, step_key = _keys(state)
    labels = None if data is None else data.train[1]
    by_class = weights_of_classes(net, recipe.class_weight, labels)
    random = any(layer.random for layer in net.layers)

    def step(carry, batch):
        params, opt_state, feedback, total = carry
        i, rows = batch
        x, y = pick(*rows)
        key = jax.random.fold_in(step_key, first + i)
        if recipe.augment is not None:
            key, augment_key = jax.random.split(key)
            x = recipe.augment(augment_key, x)
        computing = recipe.computing(params)
        key = key if random else None
        weights = None if by_class is None else example_weights(net, by_class, y)
        loss, grads = gradient_over(recipe.mesh, net, computing, x, y, key, feedback, weights)
        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)
        if regularizer is not None:
            grads = jax.tree.map(jnp.add, grads, regularizer.gradient(params, n))
        updates, opt_state = optimizer.update(grads, opt_state, params)
        stepped: Any = optax.apply_updates(params, updates)
        if feedback is not None:
            stepped, feedback = feedback.follow(params, stepped)
        if regularizer is not None:
            stepped = regularizer.project(stepped)
        total = total + x.shape[0] * loss.astype(total.dtype)
        return (stepped, opt_state, feedback, total), None

    def walk(carry, batches):
        carry, _ = jax.lax.scan(step, carry, batches)
        if listener is not None:
            report(listener, (batches[0][-1] + 1) / steps)
        watched: Any = data
        return carry, measure(net, recipe.observed, recipe.computing(carry[0]), watched, carry[2])

    numbered = (jnp.arange(steps), batches.full)
    dtype = np.promote_types(jax.tree.leaves(state.params)[0].dtype, np.float32)
    carry = (state.params, state.opt_state, state.feedback, jnp.zeros((), dtype))
    observed: dict[str, jax.Array] = {}
    every = recipe.monitor_every
    if every is None and listener is not None:
        every = -(-steps // REPORTS)
    if every is not None:
        groups = steps // every
        grouped = jax.tree.map(lambda a: _rows(a, groups, every), numbered)
        carry, observed = jax.lax.scan(walk, carry, grouped)
        numbered = jax.tree.map(lambda a: a[groups * every :], numbered)
    carry, _ = jax.lax.scan(step, carry, numbered)
    if left is not None:
        carry, _ = step(carry, (steps, left))
    params, opt_state, feedback, total = carry

    leaves = [total, *jax.tree.leaves(params)]
    good = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
    params, opt_state, feedback, epoch = jax.tree.map(
        lambda new, old: jnp.where(good, new, old),
        (params, opt_state, feedback, state.epoch + 1),
        (state.params, state.opt_state, state.feedback, state.epoch),
    )
    state = state._replace(params=params, opt_state=opt_state, feedback=feedback, epoch=epoch)
    return state, jnp.where(good, total / n, jnp.nan), observed


def _keys(state):
    """Return the keys of the next epoch: of the order of its examples, and of its steps."""
    return jax.random.split(jax.random.fold_in(state.key, state.epoch))


def _norm(leaf):
    return jnp.sqrt(jnp.sum(jnp.square(leaf)))


def _rows(array, rows, size):
    """Return the first rows · size entries as (rows, size, ...)."""
    return array[: rows * size].reshape(rows, size, *array.shape[1:])
