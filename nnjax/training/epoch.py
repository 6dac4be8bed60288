"""One epoch: a pass over the training data, one jitted program.

The examples are permuted and gathered once, then `lax.scan` walks over the mini-batches; the last
one may be smaller. The data are arguments of the program, kept in the dtype they came in (uint8
images stay bytes until a mini-batch needs them).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nnjax.checks import require_instance
from nnjax.data.dataset import Dataset, require_dataset
from nnjax.descent import loss_and_gradient
from nnjax.display import heading, shape_text, table
from nnjax.feedback import Feedback
from nnjax.network import Network, Params, require_network
from nnjax.training.monitors import measure
from nnjax.training.progress import REPORTS, report
from nnjax.training.recipe import Recipe

__all__ = ["TrainState", "run_epoch"]


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

    def _repr_html_(self) -> str:
        """Return for a notebook what is trained, and for how long."""
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
        listener: the number of one who is told how far the epoch is, from
            `nnjax.training.progress.listening`; None: nobody is.

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
    optimizer, batch_size, regularizer = recipe.optimizer, recipe.batch_size, recipe.regularizer
    x, y = data.train
    n = x.shape[0]
    steps, rest = divmod(n, batch_size)
    shuffle_key, step_key = jax.random.split(jax.random.fold_in(state.key, state.epoch))
    order = jax.random.permutation(shuffle_key, n)
    x, y = jnp.take(x, order, axis=0), jnp.take(y, order, axis=0)
    random = any(layer.random for layer in net.layers)

    def step(carry, batch):
        params, opt_state, feedback, total = carry
        i, x, y = batch
        key = jax.random.fold_in(step_key, i)
        if recipe.augment is not None:
            key, augment_key = jax.random.split(key)
            x = recipe.augment(augment_key, x)
        computing = recipe.computing(params)
        loss, grads = loss_and_gradient(net, computing, x, y, key if random else None, feedback)
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
        return carry, measure(net, recipe.observed, recipe.computing(carry[0]), data, carry[2])

    batches = (jnp.arange(steps), *(_rows(a, steps, batch_size) for a in (x, y)))
    dtype = np.promote_types(jax.tree.leaves(state.params)[0].dtype, np.float32)
    carry = (state.params, state.opt_state, state.feedback, jnp.zeros((), dtype))
    observed: dict[str, jax.Array] = {}
    every = recipe.monitor_every
    if every is None and listener is not None:
        every = -(-steps // REPORTS)
    if every is not None:
        groups = steps // every
        grouped = jax.tree.map(lambda a: _rows(a, groups, every), batches)
        carry, observed = jax.lax.scan(walk, carry, grouped)
        batches = jax.tree.map(lambda a: a[groups * every :], batches)
    carry, _ = jax.lax.scan(step, carry, batches)
    if rest:
        carry, _ = step(carry, (steps, x[-rest:], y[-rest:]))
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


def _norm(leaf):
    return jnp.sqrt(jnp.sum(jnp.square(leaf)))


def _rows(array, rows, size):
    """Return the first rows · size entries as (rows, size, ...)."""
    return array[: rows * size].reshape(rows, size, *array.shape[1:])
