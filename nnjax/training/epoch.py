"""One epoch: a pass over the training data, one jitted program.

The examples are permuted and gathered once, then `lax.scan` walks over the mini-batches; the last
one may be smaller. The data are arguments of the program, kept in the dtype they came in (uint8
images stay bytes until a mini-batch needs them).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from nnjax.descent import loss_and_gradient
from nnjax.feedback import Feedback
from nnjax.network import Network, Params
from nnjax.regularizers import Regularizer

__all__ = ["Augmentation", "TrainState", "observed_epoch", "run_epoch"]

Augmentation: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
"""A pure, hashable function of (key, x) that returns other x, such as a `Distortion`."""


class TrainState(NamedTuple):
    """All that the next epoch needs.

    Attributes:
        params: the parameters of the network.
        opt_state: the state of the optimizer.
        key: the random key of the run; epoch e draws from `jax.random.fold_in(key, e)`.
        epoch: the number of epochs done, ().
        stopping: the state of early stopping, or () without it.
        feedback: what carries errors back in the place of wᵀ, with its weights; None: wᵀ itself.
    """

    params: Params
    opt_state: Any
    key: jax.Array
    epoch: jax.Array
    stopping: Any = ()
    feedback: Feedback | None = None

    @property
    def best_params(self) -> Params:
        """The best parameters so far by early stopping; without it those of the last epoch."""
        return self.stopping.params if self.stopping else self.params


def run_epoch(
    net: Network,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    state: TrainState,
    x: jax.Array,
    y: jax.Array,
    regularizer: Regularizer | None = None,
    augment: Augmentation | None = None,
) -> tuple[TrainState, jax.Array]:
    """Return the state after one pass over the data, and the mean loss met on the way.

    A pure function for your own loops: jit it (the first three arguments and the last two are
    static), vmap it over stacked states to train many networks at once. Where the loss or a
    parameter is no longer finite at the end, the state comes back as it was and the loss is NaN.

    Args:
        net: the network.
        optimizer: from optax.
        batch_size: examples a step; the last mini-batch holds what is left over.
        state: from `TrainState` or an earlier epoch.
        x: (n, *input_shape) inputs.
        y: (n,) integer classes, or (n, n_out) targets.
        regularizer: its gradient is added in every step; the loss returned is without its penalty.
        augment: makes other inputs of those of a mini-batch, anew in every step.

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
    state, loss, _ = observed_epoch(net, optimizer, batch_size, state, x, y, regularizer, augment)
    return state, loss


def observed_epoch(
    net: Network,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    state: TrainState,
    x: jax.Array,
    y: jax.Array,
    regularizer: Regularizer | None = None,
    augment: Augmentation | None = None,
    observe: Callable[[Params], Any] | None = None,
    every: int = 1,
) -> tuple[TrainState, jax.Array, Any]:
    """Return what `run_epoch` does, and what was observed on the way.

    Args:
        net, optimizer, batch_size, state, x, y, regularizer, augment: as for `run_epoch`.
        observe: a pure function of the parameters, called after every so many steps.
        every: how many steps lie between.

    Returns:
        The state, the loss, and the observations, stacked on a first axis; None without `observe`.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax, optax
        >>> from nnjax.training.epoch import observed_epoch
        >>> net, optimizer, key = nnjax.mlp([3, 2]), optax.sgd(0.5), jax.random.key(0)
        >>> params = nnjax.init(net, key)
        >>> state = nnjax.training.TrainState(params, optimizer.init(params), key, jnp.array(0))
        >>> x, y = jnp.ones((20, 3)), jnp.zeros(20, int)
        >>> observed_epoch(
        ...     net, optimizer, 2, state, x, y, observe=lambda params: params[0].b, every=5
        ... )[2].shape
        (2, 2)
    """
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
        if augment is not None:
            key, augment_key = jax.random.split(key)
            x = augment(augment_key, x)
        loss, grads = loss_and_gradient(net, params, x, y, key if random else None, feedback)
        if regularizer is not None:
            grads = jax.tree.map(jnp.add, grads, regularizer.gradient(params, n))
        updates, opt_state = optimizer.update(grads, opt_state, params)
        stepped: Any = optax.apply_updates(params, updates)
        if feedback is not None:
            stepped, feedback = feedback.follow(params, stepped)
        if regularizer is not None:
            stepped = regularizer.project(stepped)
        return (stepped, opt_state, feedback, total + x.shape[0] * loss), None

    def walk(carry, batches):
        carry, _ = jax.lax.scan(step, carry, batches)
        return carry, None if observe is None else observe(carry[0])

    batches = (jnp.arange(steps), *(_rows(a, steps, batch_size) for a in (x, y)))
    dtype = jax.tree.leaves(state.params)[0].dtype
    carry = (state.params, state.opt_state, state.feedback, jnp.zeros((), dtype))
    if observe is None:
        carry, observed = walk(carry, batches)
    else:
        groups = steps // every
        grouped = jax.tree.map(lambda a: _rows(a, groups, every), batches)
        carry, observed = jax.lax.scan(walk, carry, grouped)
        left_over = jax.tree.map(lambda a: a[groups * every :], batches)
        carry, _ = jax.lax.scan(step, carry, left_over)
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


def _rows(array, rows, size):
    """Return the first rows · size entries as (rows, size, ...)."""
    return array[: rows * size].reshape(rows, size, *array.shape[1:])
