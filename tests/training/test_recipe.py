"""Recipes: which of them are equal, and that equal ones are compiled once."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from thinning import thinned

import nnjax
from nnjax.data import Dataset
from nnjax.training import Recipe, initial_state, optimizers, run_epoch
from nnjax.training.closures import identity, rates_of, with_rates

NET = nnjax.mlp([4, 5, 3], nnjax.tanh)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(20, 4)).astype(np.float32), RNG.integers(3, size=20)
DATA = Dataset((X, Y), None, None)
ON_DEVICE: Any = jax.tree.map(jnp.asarray, DATA)


@pytest.fixture(autouse=True)
def _promotion_as_optax_needs_it():
    with jax.numpy_dtype_promotion("standard"):
        yield


FACTOR = 1.0


def by_factor(x):
    return FACTOR * x


class Settings:
    factor = 1.0


def recipe(optimizer, **options):
    return Recipe(**({"optimizer": optimizer, "batch_size": 5} | options))


KINDS = {
    "sgd": optax.sgd,
    "adam": optax.adam,
    "chain": lambda rate: optax.chain(optax.clip(1.0), optax.sgd(rate, momentum=0.9)),
    "by_name": partial(optimizers.by_name, "adam"),
    "momentum": optimizers.momentum,
    "within a dictionary": lambda rate: optax.multi_transform(
        {"a": optax.sgd(rate)}, lambda params: jax.tree.map(lambda _: "a", params)
    ),
}


@pytest.mark.parametrize("kind", thinned(KINDS, str, 6))
def test_optimizers_that_differ_in_their_rate_share_one_program(kind):
    """They are traced once, and each still learns at its own rate."""
    kind = KINDS[kind]
    chex.clear_trace_counter()  # it counts by the name of the function

    @jax.jit
    @chex.assert_max_traces(n=1)
    def epoch(recipe, rates, state):
        return run_epoch(NET, recipe.with_rates(rates), state, ON_DEVICE)

    for rate in (0.1, 0.1, 0.3):
        optimizer = kind(rate)
        ours = recipe(optimizer)
        state = initial_state(NET, optimizer, jax.random.key(0))
        after = epoch(ours, ours.rates, state)[0]
        alone = jax.jit(partial(run_epoch, NET, ours))(state, ON_DEVICE)[0]
        close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
        jax.tree.map(close, after.params, alone.params)


def test_train_compiles_once_for_all_rates():
    traced = []

    def watched(key, x):
        traced.append(x.shape)
        return x

    setting = {"epochs": 1, "batch_size": 5, "key": jax.random.key(0), "augment": watched}
    ends = [
        nnjax.train(NET, DATA, optimizer=optimizer, **setting)[0].params[0].w
        for optimizer in (optax.sgd(0.1), optax.sgd(0.3), optax.sgd(0.1))
    ]
    assert len(traced) == 1
    np.testing.assert_array_equal(ends[0], ends[2])
    assert np.abs(ends[0] - ends[1]).max() > 1e-3


def test_what_the_program_depends_on_makes_recipes_differ():
    base = recipe(optax.adam(0.1))
    assert base == recipe(optax.adam(0.1), monitors=["dead"])  # measured after the epoch
    others = [
        recipe(optax.adam(0.1, b1=0.5)),
        recipe(optax.adamw(0.1)),
        recipe(optax.sgd(optax.cosine_decay_schedule(0.1, 9))),
        recipe(optax.adam(0.1), batch_size=4),
        recipe(optax.adam(0.1), regularizer=nnjax.regularizers.L2(1.0)),
        recipe(optax.adam(0.1), augment=lambda key, x: x),
        recipe(optax.adam(0.1), monitors=["dead"], monitor_every=2),
    ]
    every = [base, *others]
    assert len({*every}) == len(every)
    assert all((a == b) == (a is b) for a in every for b in every)


def test_functions_made_anew_are_equal_where_they_close_over_equal_values():
    def scaled_by(factor):
        return lambda key, x: factor * x

    def augmented(factor):
        return recipe(optax.sgd(0.1), augment=scaled_by(factor))

    assert augmented(2.0) == augmented(2.0)
    assert hash(augmented(2.0)) == hash(augmented(2.0))
    assert len({augmented(f) for f in (2.0, 2, 3.0, -0.0, 0.0)}) == 5
    for factor in ([1.0], np.ones(1), SimpleNamespace(factor=1.0), Settings()):
        function = scaled_by(factor)  # of what may change: equal to itself alone
        assert recipe(optax.sgd(0.1), augment=function) == recipe(optax.sgd(0.1), augment=function)
        assert augmented(factor) != augmented(factor)


def test_functions_that_read_variables_are_equal_while_these_are(monkeypatch):
    def augmented():
        return recipe(optax.sgd(0.1), augment=lambda key, x: by_factor(x))

    before = augmented()
    assert before == augmented()
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    assert before != augmented()


def test_a_loop_over_rates_that_a_schedule_reads_trains_with_each_of_them():
    setting = {"epochs": 1, "batch_size": 5, "key": jax.random.key(0)}
    ends = []
    for rate in (0.1, 0.3):
        optimizer = optax.sgd(lambda step: rate)  # noqa: B023  (called before it changes)
        ends.append(nnjax.train(NET, DATA, optimizer=optimizer, **setting)[0].params[0].w)
    assert np.abs(ends[0] - ends[1]).max() > 1e-3


def test_functions_that_close_over_themselves():
    def counting(limit):
        def count(n):
            return n if n >= limit else count(n + 1)

        return count

    count = counting(3)
    assert identity(count) == identity(count)
    assert identity(count) != identity(counting(4))
    assert with_rates(count, iter(())) is count


def test_rates_are_put_where_they_came_from():
    update = optax.chain(optax.scale(2.0), optax.clip(5.0), optax.scale(3.0)).update
    assert rates_of(update) == (2.0, 3.0)
    state = (optax.EmptyState(),) * 3
    assert with_rates(update, iter([1.0, 10.0]))(jnp.float32(4), state)[0] == 40.0
    assert update(jnp.float32(4), state)[0] == 15.0  # clipped at 5; the first is as it was
