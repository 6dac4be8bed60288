"""One epoch: regularised steps by hand, augmentation, observations, and going on from a state."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nnjax
from nnjax.data import Dataset
from nnjax.regularizers import L1, L2, MaxNorm
from nnjax.training import (
    EarlyStopping,
    Recipe,
    initial_state,
    optimizers,
    run_epoch,
    train_epochs,
)
from nnjax.training.augmentation import Distortion

NET = nnjax.mlp([4, 5, 3], nnjax.tanh, loss=nnjax.log_likelihood)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(23, 4)).astype(np.float32), RNG.integers(3, size=23)
DATA = Dataset((X, Y), (X[:7], Y[:7]), None)
SETTING = {
    "optimizer": optimizers.by_name("momentum", 0.3),
    "epochs": 4,
    "batch_size": 5,
    "key": jax.random.key(0),
}
CLOSE = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)


def train(net=NET, data=DATA, **changed):
    return nnjax.train(net, data, **(SETTING | changed))


def orders(key, epochs, n):
    _, run_key = jax.random.split(key)
    for epoch in range(epochs):
        shuffle_key, _ = jax.random.split(jax.random.fold_in(run_key, epoch))
        yield np.asarray(jax.random.permutation(shuffle_key, n))


@pytest.mark.slow
def test_l2_shrinks_the_weights_before_it_moves_them():
    """w → (1 − ηλ/n) w − η ∂C₀/∂w, b → b − η ∂C₀/∂b, with n = 23, not 5 (eqs. 91 to 94)."""
    eta, lmbda, n = 0.3, 2.0, 23
    state, history = train(optimizer=optax.sgd(eta), regularizer=L2(lmbda), epochs=2)
    params = nnjax.init(NET, jax.random.split(jax.random.key(0))[0])
    for order in orders(jax.random.key(0), 2, n):
        for start in range(0, n, 5):
            rows = order[start : start + 5]
            grads = nnjax.backprop(NET, params, X[rows], Y[rows]).grads
            params = tuple(
                nnjax.Affine((1 - eta * lmbda / n) * p.w - eta * g.w, p.b - eta * g.b)
                for p, g in zip(params, grads, strict=True)
            )
    jax.tree.map(CLOSE, state.params, params)
    CLOSE(history["penalty"][-1], lmbda / (2 * n) * sum(float((p.w**2).sum()) for p in params))


def observed(optimizer, monitor, every, **options):
    """Return the state after an epoch, its loss, and what a monitor gave on the way."""
    recipe = Recipe(
        optimizer=optimizer, batch_size=5, monitors=[monitor], monitor_every=every, **options
    )
    state = initial_state(NET, optimizer, jax.random.key(0))
    data = Dataset((jnp.asarray(X), jnp.asarray(Y)), None, None)
    after, loss, seen = run_epoch(NET, recipe, state, data)
    return after, loss, seen[monitor.__name__]


@pytest.mark.slow
def test_max_norm_holds_after_every_step():
    def lengths(net, params, data):
        return jnp.linalg.norm(params[0].w, axis=1)

    _, _, seen = observed(optax.sgd(3.0), lengths, 1, regularizer=L1(0.1) + MaxNorm(0.7))
    assert seen.shape == (4, 5)
    assert seen.max() <= 0.7 + 1e-6


@pytest.mark.slow
def test_what_augments_is_what_is_trained_on():
    def twice(key, x):
        return 2 * x

    augmented = train(augment=twice)[0]
    plain = train(data=Dataset((2 * X, Y), (X[:7], Y[:7]), None))[0]
    jax.tree.map(CLOSE, augmented.params, plain.params)


@pytest.mark.slow
def test_augmentation_draws_anew_in_every_step_and_epoch():
    keys = []

    def watched(key, x):
        jax.debug.callback(keys.append, jax.random.key_data(key))
        return x

    train(augment=watched, epochs=2)
    jax.effects_barrier()
    assert len({tuple(np.asarray(key)) for key in keys}) == 2 * 5


@pytest.mark.slow
def test_images_can_be_distorted():
    x = RNG.integers(256, size=(23, 4, 4, 1), dtype=np.uint8)
    net = nnjax.mlp([16, 5, 3])
    distort = Distortion(shift=1, rotation=10.0)
    history = train(net, Dataset((x, Y), None, None), augment=distort)[1]
    assert np.isfinite(history["train_loss"]).all()


@pytest.mark.slow
def test_observations_are_those_of_a_run_step_by_step():
    def bias(net, params, data):
        return params[1].b

    epoch = partial(observed, optax.sgd(0.5), bias)
    after, loss, each = epoch(every=1)
    same, same_loss, second = epoch(every=2)
    third = epoch(every=3)[2]
    np.testing.assert_array_equal(second, each[1::2])
    np.testing.assert_array_equal(third, each[2:3])
    CLOSE(loss, same_loss)
    jax.tree.map(CLOSE, after.params, same.params)
    params = nnjax.init(NET, jax.random.split(jax.random.key(0))[0])
    order = next(orders(jax.random.key(0), 1, 23))
    for step in range(4):
        rows = order[5 * step : 5 * step + 5]
        params = nnjax.sgd_step(NET, params, X[rows], Y[rows], 0.5)
        CLOSE(each[step], params[1].b)


DROPOUT = nnjax.Network(
    4, [nnjax.Dense(5), nnjax.Dropout(0.3), nnjax.Dense(3, nnjax.softmax)], nnjax.log_likelihood
)


@pytest.mark.parametrize("stop_after", [1, 3])
def test_going_on_from_a_state_ends_as_if_never_interrupted(stop_after):
    everything = {
        "regularizer": L2(1.0),
        "monitors": ["error_norms"],
        "early_stopping": EarlyStopping(patience=1, lower_rate_to=0.25),
        "evaluate_on": ["validation"],
        "epochs": 6,
    }
    whole, history = train(DROPOUT, **everything)
    state, before = train(DROPOUT, **(everything | {"epochs": stop_after}))
    resumed, after = train(DROPOUT, **everything, state=state)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(one, other)
    for name in set(history) - {"seconds"}:
        both = np.concatenate([before[name], after[name]])
        np.testing.assert_array_equal(history[name], both)
    assert int(state.epoch) == stop_after  # the state given is still there


def test_going_on_from_the_end_changes_nothing():
    state = train()[0]
    again, history = train(state=state)
    jax.tree.map(np.testing.assert_array_equal, again.params, state.params)
    assert history == {}


def test_early_stopping_ends_the_run_and_keeps_the_best():
    setting = {"early_stopping": EarlyStopping(2), "evaluate_on": ["validation"], "epochs": 200}
    kept = {}
    state = None
    for state, record in train_epochs(NET, DATA, **(SETTING | setting)):
        kept[record["epoch"]] = jax.tree.map(np.array, state.params), record
    assert state is not None
    assert len(kept) < 200
    accuracies = [record["validation_accuracy"] for _, record in kept.values()]
    best = int(np.argmax(accuracies))
    assert best == len(kept) - 3
    assert record["best_epoch"] == best
    assert record["waited"] == 2
    jax.tree.map(np.testing.assert_array_equal, state.best_params, kept[best][0])
    assert bool(state.stopping.stopped)


def test_the_rate_is_halved_when_validation_stalls():
    rule = EarlyStopping(patience=1, lower_rate_to=0.25)
    frozen = optimizers.by_name("sgd", 0.0)  # nothing ever improves after the first epoch
    _, history = train(optimizer=frozen, early_stopping=rule, epochs=20)
    assert history["waited"].tolist() == [0, 0, 0, 1]
    state, history = train(optimizer=optimizers.by_name("sgd", 1e-9), early_stopping=rule, epochs=9)
    np.testing.assert_allclose(history["rate"], [1e-9] * 2 + [5e-10] + [2.5e-10])
    assert float(state.stopping.fraction) == 0.25


def test_monitors_are_in_the_history():
    def bias(net, params, data):
        return {"first_bias": params[0].b[0], "examples": jnp.asarray(len(data.train[0]))}

    state, history = train(monitors=["error_norms", bias])
    assert history["error_norms"].shape == (4, 2)
    assert history["examples"].tolist() == [23] * 4
    assert history["first_bias"][-1] == float(state.params[0].b[0])
    errors = nnjax.backprop(NET, state.params, X, Y).errors
    CLOSE(history["error_norms"][-1], [np.linalg.norm(np.mean(e, axis=0)) for e in errors])


def test_monitors_every_k_steps():
    def bias(net, params, data):
        return params[1].b

    _, every_epoch = train(monitors=[bias])
    state, by_step = train(monitors=[bias], monitor_every=2)
    assert by_step["bias"].shape == (4, 2, 3)
    CLOSE(state.params[1].b, every_epoch["bias"][-1])


@pytest.mark.parametrize(
    ("changed", "error", "sentence"),
    [
        ({"regularizer": 5.0}, TypeError, "regularizer is 5.0; expected one such as"),
        ({"augment": 3}, TypeError, "augment is 3; expected a function of"),
        ({"early_stopping": 3}, TypeError, "early_stopping is 3; expected an EarlyStopping"),
        ({"monitors": ["norms"]}, ValueError, "monitor is 'norms'; expected one of error_norms"),
        ({"monitor_every": 5}, ValueError, "monitor_every is 5, but an epoch has 4 whole mini"),
        ({"monitor_every": 0}, ValueError, "monitor_every is 0; expected an integer of at least"),
        (
            {"early_stopping": EarlyStopping(2, "test_accuracy")},
            ValueError,
            "early stopping cannot monitor 'test_accuracy'; available: train_loss",
        ),
        (
            {"early_stopping": EarlyStopping(2, lower_rate_to=0.5), "optimizer": optax.sgd(0.1)},
            ValueError,
            "does not hold its learning rate in its state",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changed, error, sentence):
    with pytest.raises(error, match=sentence):
        train(**changed)


def test_a_state_of_another_run_is_refused():
    state = train(epochs=1)[0]
    with pytest.raises(ValueError, match=r"state.params\[0\].w has shape \(5, 4\), but this net"):
        train(nnjax.mlp([4, 6, 3]), state=state)
    with pytest.raises(
        ValueError, match=r"state\.opt_state is of another run: of another optimizer"
    ):
        train(optimizer=optax.sgd(0.1), state=state)
    with pytest.raises(
        ValueError, match=r"state\.stopping is of another run: of another early_stop"
    ):
        train(early_stopping=EarlyStopping(3), state=state)
