"""Many networks at once: each is the one that `nnjax.train` makes, whatever the others do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nnjax
from nnjax.training import EarlyStopping, ensemble, many_epochs, optimizers, processes, train_many
from nnjax.training.many_result import DIVERGED, RUNNING
from nnjax.training.processes import Share

RNG = np.random.default_rng(0)
X, Y = RNG.random((23, 5), dtype=np.float32), RNG.integers(0, 3, 23).astype(np.int32)
DATA = nnjax.data.Dataset((X, Y), (X[:9], Y[:9]), None)
KEY = jax.random.key(3)
NET = nnjax.architecture.parse("dense4 dropout0.5", (5,), 3)
RULE = EarlyStopping(1, "validation_loss")
GRID = {"rate": [0.1, 2.0, 1e9], "dropout": [0.0, 0.3], "mu": [0.5], "l2": 2.0, "init_scale": 0.5}
SETTINGS = {"epochs": 3, "batch_size": 5, "key": KEY, "early_stopping": RULE}


@pytest.fixture(scope="module")
def many():
    return train_many(NET, DATA, GRID, seeds=[0, 4], optimizer="momentum", **SETTINGS)


def alone(rate, dropout, seed):
    net = nnjax.architecture.parse(f"dense4 dropout{dropout}", (5,), 3)
    key = jax.random.fold_in(KEY, seed)
    start = nnjax.training.initial_state(net, optax.sgd(0.1), key).params
    half = tuple(p._replace(w=p.w * np.float32(0.5)) if p else p for p in start)
    return nnjax.train(
        net,
        DATA,
        **SETTINGS | {"key": key},
        params=half,
        optimizer=optimizers.by_name("momentum", rate, mu=0.5),
        regularizer=nnjax.regularizers.L2(2.0),
    )


def same(one, other, **tolerance):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(a, b, **tolerance)


@pytest.mark.parametrize(
    ("rate", "dropout"), [(0.1, 0.3), pytest.param(2.0, 0.0, marks=pytest.mark.slow)]
)
def test_each_network_is_the_one_that_train_makes(many, rate, dropout):
    state, history = alone(rate, dropout, seed=4)
    one = many.at(rate=rate, dropout=dropout, mu=0.5, seed=4)
    same(state.best_params, one.state.best_params, rtol=1e-5, atol=1e-7)
    assert one.history.keys() == history.keys() - {"epoch", "seconds"}
    for name, values in one.history.items():
        np.testing.assert_allclose(values, history[name], rtol=1e-5, err_msg=name)


def test_states_and_histories_are_stacked_along_the_axes_of_the_grid_seeds_last(many):
    states, history = many
    assert list(many.axes) == ["rate", "dropout", "mu", "seed"]
    assert many.shape == (3, 2, 1, 2)
    assert states.params[0].w.shape == (3, 2, 1, 2, 4, 5)
    assert history["train_loss"].shape == (3, 2, 1, 2, 3)
    one = many.at(rate=2.0, dropout=0.3, mu=0.5, seed=4)
    assert (states.params[0].w[1, 1, 0, 1] == one.state.params[0].w).all()


def test_a_network_that_diverges_is_frozen_reported_and_hurts_no_other(many):
    assert many.diverged[2].all()
    assert not many.diverged[:2].any()
    assert (many.epochs_trained[2] == 0).all()
    assert np.isnan(many.history["train_loss"][2]).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(many.states.params))
    row = many.table()[4]
    assert (row["rate"], row["diverged"]) == (1e9, 2)
    assert np.isnan(row["validation_loss"])


def test_the_best_settings_are_chosen_by_the_median_over_the_seeds(many):
    final = many.final("validation_loss")
    medians = np.median(final, axis=-1)
    at = np.unravel_index(np.nanargmin(medians), medians.shape)
    best = many.best()
    assert best.settings == {"rate": GRID["rate"][at[0]], "dropout": [0.0, 0.3][at[1]], "mu": 0.5}
    assert best.values.tolist() == final[at].tolist()
    kept = many.at(**best.settings).state.best_params
    net = nnjax.architecture.parse("dense4", (5,), 3)
    loss = nnjax.loss(net, (kept[0], kept[2]), *DATA.validation)
    np.testing.assert_allclose(loss, best.values[0], rtol=1e-5)


def test_the_best_penalty_is_the_smallest(many):
    medians = np.median(many.final("penalty"), axis=-1)
    assert np.median(many.best("penalty").values) == np.nanmin(medians) < np.nanmax(medians)


def test_ensembles_are_the_mean_of_the_outputs_or_the_majority(many):
    settings = {"rate": 2.0, "dropout": 0.0, "mu": 0.5}
    members = [many.at(**settings, seed=seed) for seed in many.seeds]
    outputs = [nnjax.feedforward(NET, m.state.best_params, X) for m in members]
    np.testing.assert_allclose(many.ensemble(X, **settings), sum(outputs) / 2, rtol=1e-6)
    votes = sum(jax.nn.one_hot(a.argmax(axis=1), 3) for a in outputs) / 2
    np.testing.assert_array_equal(many.ensemble(X, "vote", **settings), votes)
    with pytest.raises(ValueError, match="all networks with these settings diverged"):
        many.ensemble(X, rate=1e9, dropout=0.0, mu=0.5)


@pytest.mark.slow
def test_side_by_side_and_over_devices_they_are_the_same(many, monkeypatch):
    mesh = jax.make_mesh((1,), ("networks",))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    other = train_many(NET, DATA, GRID, seeds=[0, 4], optimizer="momentum", mesh=mesh, **SETTINGS)
    same(many.states, other.states, rtol=1e-5, atol=1e-6)
    assert (many.status == other.status).all()


PLAIN = nnjax.mlp([5, 3])


@pytest.mark.slow
def test_what_differs_in_numbers_is_compiled_once_and_networks_of_other_shapes_are_grouped():
    traced = []

    def noted(key, x):
        traced.append(1)
        return x

    common = {"seeds": 1, "epochs": 1, "augment": noted, "optimizer": optimizers.momentum}
    train_many(PLAIN, DATA, {"rate": [0.1, 0.2], "batch_size": 5, "l2": [0.0]}, **common)
    once = len(traced)
    grid = {"rate": [0.3, 0.4], "batch_size": [5, 23], "l2": [7.0]}
    train_many(PLAIN, DATA, grid, **common)
    assert once < len(traced) < 2 * once  # the mini-batches of 5 were compiled before

    nets = [PLAIN, nnjax.mlp([5, 2, 3])]
    many = train_many(PLAIN, DATA, {"net": nets, "rate": 0.1}, seeds=1, epochs=1, batch_size=23)
    assert many.at(net=nets[1]).state.params[0].w.shape == (2, 5)
    assert many.history["train_loss"].shape == (2, 1, 1)
    with pytest.raises(ValueError, match="differ in shape"):
        _ = many.states


def test_a_search_continues_bit_for_bit_and_halves_its_settings():
    grid = {"rate": [0.1, 0.5, 1e9, 2.0]}
    common = {"seeds": 2, "epochs": 4, "batch_size": 23, "refine": 2}
    steps = list(many_epochs(PLAIN, DATA, grid, **common))
    whole = steps[-1]
    trained = sorted(whole.epochs_trained[:, 0].tolist())
    assert trained[2:] == [2, 4]
    assert trained[1] <= 1
    assert (whole.epochs_trained[:, 0] == whole.epochs_trained[:, 1]).all()
    assert whole.best().settings["rate"] == grid["rate"][int(whole.epochs_trained[:, 0].argmax())]
    saved = steps[1].progress
    *_, last = many_epochs(PLAIN, DATA, grid, **common, restore=lambda progress: saved)
    same(whole.states, last.states, rtol=0)
    np.testing.assert_array_equal(whole.history["train_loss"], last.history["train_loss"])


def test_settings_that_get_worse_are_not_displaced_by_those_that_were_dropped():
    """The validation targets are the opposite of what is learned: every epoch is worse."""
    net = nnjax.mlp([5, 1], output=nnjax.identity, loss=nnjax.quadratic)
    y = np.full((23, 1), 10, np.float32)
    data = nnjax.data.Dataset((X, y), (X, -y), None)
    grid = {"rate": [0.013, 0.012, 0.011, 0.010]}
    many = train_many(net, data, grid, seeds=1, epochs=8, batch_size=23, refine=2)
    assert many.epochs_trained[:, 0].tolist() == [2, 2, 4, 8]
    assert many.dropped.tolist() == [True, True, True, False]
    assert many.best().settings == {"rate": 0.010}
    (group,) = many.groups
    status = np.where(group.status == RUNNING, DIVERGED, group.status)
    many = dataclasses.replace(many, groups=(group._replace(status=status),))
    with pytest.raises(ValueError, match="every network that successive halving kept diverged; tr"):
        many.best()


def test_no_setting_is_best_where_half_of_the_networks_of_each_diverged():
    grid = {"rate": [0.1, 0.2]}
    many = train_many(PLAIN, DATA, grid, seeds=2, epochs=1, batch_size=23)
    (group,) = many.groups
    status = np.array(group.status)
    status[0] = DIVERGED  # of the first seed
    many = dataclasses.replace(many, groups=(group._replace(status=status),))
    with pytest.raises(ValueError, match="at least half of the networks of every setting diverged"):
        many.best()


def test_of_two_settings_that_diverged_the_one_that_still_trains_is_kept():
    """One of its two networks diverged, and so its median is as bad as that of the other."""
    grid, common = {"rate": [1e9, 0.1]}, {"epochs": 4, "batch_size": 23, "refine": 2}

    def one_diverged(progress):
        progress["groups"][0]["status"] = np.array(
            [[DIVERGED, DIVERGED], [DIVERGED, RUNNING]], np.int8
        )
        return progress

    *_, last = many_epochs(PLAIN, DATA, grid, seeds=2, **common, restore=one_diverged)
    assert last.epochs_trained.tolist() == [[0, 0], [0, 4]]
    assert not last.dropped.any()


@pytest.mark.parametrize(
    ("grid", "more", "sentence"),
    [
        (
            {"lambda": [0.1], "rate": 0.1},
            {},
            "the grid holds lambda, which is unknown; expected",
        ),
        ({"l2": [0.1]}, {}, "the grid has no learning rate; add one"),
        ({"rate": []}, {}, "the grid has no values for rate; expected at least one"),
        ({"rate": [0.1, 0.1]}, {}, "the grid holds a value of rate twice"),
        ({"rate": 0.1, "dropout": [0.5]}, {}, "the network has no Dropout layer; add one"),
        ({"rate": 0.1}, {"optimizer": optax.sgd(0.1)}, "rate is in the grid, but the optimizer"),
        ({"rate": 0.1}, {"batch_size": None}, "batch_size is missing; give a number"),
        ({"rate": 0.1}, {"batch_size": 24}, "batch_size is 24, but there are 23 training"),
        ({"rate": 0.1}, {"seeds": [1, 1]}, r"seeds is \[1, 1\]; expected at least one, and none"),
        ({"rate": 0.1}, {"refine": 1}, "refine is 1; expected an integer of at least 2"),
        ({"rate": 0.1, "l2": -1.0}, {}, "strength of L2 is -1.0; expected a finite strength"),
        ({"rate": 0.1}, {"early_stopping": EarlyStopping(1, "test_loss")}, "cannot monitor 'test"),
        ([], {}, "the grid is an empty list; expected the settings of at least one trial"),
        ([{"rate": [0.1, 0.2]}], {}, "a trial has several values of rate; expected one"),
    ],
    ids=lambda value: next(iter(value), "none") if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_refused_at_the_call(grid, more, sentence):
    common = {"seeds": 1, "epochs": 1, "batch_size": 5}
    with pytest.raises(ValueError, match=sentence):
        many_epochs(PLAIN, DATA, grid, **common | more)


@pytest.mark.parametrize(
    ("grid", "sentence"),
    [
        (0.1, "grid is 0.1; expected values by name"),
        ([1], "a trial is 1; expected the settings of"),
    ],
)
def test_a_grid_that_is_no_mapping_is_refused(grid, sentence):
    with pytest.raises(TypeError, match=sentence):
        many_epochs(PLAIN, DATA, grid, seeds=1, epochs=1, batch_size=5)


def test_what_is_not_in_the_grid_is_refused(many):
    with pytest.raises(ValueError, match=r"seed is 1; expected one of 0, 4"):
        many.at(seed=1)
    with pytest.raises(ValueError, match=r"rate is 0.3; expected one of 0.1, 2.0"):
        many.at(rate=0.3, dropout=0.0, mu=0.5)
    with pytest.raises(ValueError, match=r"settings are rate; expected a value for each of rate"):
        many.at(rate=0.1)
    with pytest.raises(ValueError, match=r"measure is 'test_loss', which was not measured"):
        many.final("test_loss")
    with pytest.raises(TypeError, match=r"params are not stacked; expected parameters with a fi"):
        ensemble(NET, np.zeros((0, 4)), X)
    with pytest.raises(ValueError, match=r"across and up are both rate; expected two axes"):
        nnjax.many_plots.landscape(many, "rate", "rate")
    with pytest.raises(ValueError, match=r"how is 'sum'; expected 'mean' or 'vote'"):
        ensemble(NET, many.at(rate=0.1, dropout=0.0, mu=0.5).state.params, X, "sum")
    line = nnjax.mlp([4, 1], output=nnjax.identity, loss=nnjax.quadratic)
    with pytest.raises(ValueError, match=r"how is 'vote', which counts classes, and the outputs"):
        ensemble(line, (), X, "vote")


@pytest.mark.parametrize(("count", "first", "among"), [(5, 1, 3), (2, 2, 4), (6, 0, 2)])
def test_what_each_process_has_is_put_together_in_order(count, first, among, monkeypatch):
    whole = {"key": jax.random.split(KEY, (2, count)), "w": RNG.random((2, count, 3))}
    shares = [Share(count, first, p, among) for p in range(among)]
    assert sorted(np.concatenate([share.own for share in shares])) == list(range(count))

    def gathered(share, exchange):
        monkeypatch.setattr(processes.multihost_utils, "process_allgather", exchange)
        return share.gathered(jax.tree.map(lambda leaf: leaf[:, share.own], whole))

    sent = [[] for _ in shares]
    for share, leaves in zip(shares, sent, strict=True):
        gathered(share, lambda leaf, to=leaves: to.append(leaf) or np.stack([leaf] * among))
    exchanged = map(np.stack, zip(*sent, strict=True))
    found = gathered(shares[0], lambda leaf: next(exchanged))
    np.testing.assert_array_equal(found["w"], whole["w"])
    assert (jax.random.key_data(found["key"]) == jax.random.key_data(whole["key"])).all()


def test_a_part_of_the_networks_is_not_taken_for_all(many):
    part = many.groups[0]._replace(share=Share(6, processes=2))
    with pytest.raises(RuntimeError, match=r"some of these networks lie on other processes; call"):
        dataclasses.replace(many, groups=(part,)).at(rate=0.1, dropout=0.0, mu=0.5)


def test_a_mesh_without_devices_of_this_process_is_refused(monkeypatch):
    mesh = jax.make_mesh((1,), ("networks",))
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(ValueError, match=r"mesh has no device of process 1; give one with devices"):
        processes.own_devices(mesh)


@pytest.mark.slow
def test_a_list_of_settings_takes_the_place_of_all_combinations():
    trials = [{"rate": 0.1, "l2": 2.0}, {"rate": 0.3}, {"rate": 0.2, "l2": 0.5}]
    common = {"seeds": [4], "epochs": 1, "batch_size": 5, "key": KEY}
    many = train_many(PLAIN, DATA, trials, **common)
    assert many.axes == {"trial": (0, 1, 2), "seed": (4,)}
    product = train_many(PLAIN, DATA, {"rate": [0.1, 0.2], "l2": [0.5, 2.0]}, **common)
    for trial, rate in ((0, 0.1), (2, 0.2)):
        one = product.at(rate=rate, l2=trials[trial]["l2"])
        same(many.at(trial=trial).state.params, one.state.params, rtol=1e-6)
    assert "validation_accuracy" in many.history
    assert "penalty" not in many.history  # one of them has none
