"""The training loop against a loop by hand, and what it does with bad data and divergence."""

import inspect
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nnjax
from nnjax.data import Dataset, standardize
from nnjax.training import DivergedError, Interrupted, Recipe, TrainState, run_epoch, train_epochs
from nnjax.training.early_stopping import EarlyStopping

NET = nnjax.mlp([4, 5, 3], nnjax.tanh, loss=nnjax.log_likelihood)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(23, 4)).astype(np.float32), RNG.integers(3, size=23)
DATA = Dataset((X, Y), (X[:7], Y[:7]), (X[7:12], Y[7:12]))
KEY = jax.random.key(0)
SETTING = {"optimizer": optax.sgd(0.5), "epochs": 2, "batch_size": 5, "key": KEY}


def train(net=NET, data=DATA, **changed):
    return nnjax.train(net, data, **(SETTING | changed))


def test_against_a_loop_by_hand():
    """23 examples in mini-batches of 5: four whole ones and one of 3, every example once."""
    state, history = train(evaluate_on=["test"])
    init_key, run_key = jax.random.split(jax.random.key(0))
    params, losses = nnjax.init(NET, init_key), []
    for epoch in range(2):
        shuffle_key, _ = jax.random.split(jax.random.fold_in(run_key, epoch))
        order = np.asarray(jax.random.permutation(shuffle_key, 23))
        assert sorted(order) == list(range(23))
        total = 0.0
        for start in range(0, 23, 5):
            rows = order[start : start + 5]
            total += len(rows) * float(nnjax.loss(NET, params, X[rows], Y[rows]))
            params = nnjax.sgd_step(NET, params, X[rows], Y[rows], 0.5)
        losses.append(total / 23)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), state.params, params)
    np.testing.assert_allclose(history["train_loss"], losses, rtol=1e-5)
    assert history["epoch"].tolist() == [0, 1]
    assert int(state.epoch) == 2
    assert history["test_correct"][-1] == int(
        nnjax.evaluate(NET, state.params, X[7:12], Y[7:12])[2]
    )


def test_same_key_same_bits():
    first, second = train()[0], train()[0]
    for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(second.params), strict=True):
        assert np.array_equal(a, b)
    other = train(key=jax.random.key(1))[0]
    assert not np.array_equal(first.params[0].w, other.params[0].w)


@pytest.mark.slow
def test_any_optimizer():
    for optimizer in (optax.adam(0.01), optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1))):
        with jax.numpy_dtype_promotion("standard"):  # optax is not written for strict
            history = train(optimizer=optimizer, epochs=5)[1]
        assert history["train_loss"][-1] < history["train_loss"][0]


def test_params_of_the_caller_stay_his():
    params = nnjax.init(NET, jax.random.key(3))
    before = jax.tree.map(np.array, params)
    state, _ = train(params=params)
    jax.tree.map(np.testing.assert_array_equal, params, before)
    assert not np.array_equal(state.params[0].w, before[0].w)


def test_what_is_measured():
    names = {"epoch", "train_loss", "seconds"}
    of = lambda part: {f"{part}_loss", f"{part}_accuracy", f"{part}_correct"}  # noqa: E731
    assert set(train()[1]) == names | of("validation")
    assert set(train(data=DATA._replace(validation=None))[1]) == names
    assert set(train(evaluate_on=())[1]) == names
    state, history = train(evaluate_on=["train"])
    exact = nnjax.loss(NET, state.params, X, Y)
    np.testing.assert_allclose(history["train_loss"][-1], exact, rtol=1e-5)


def test_grey_levels_stay_bytes():
    x = RNG.integers(256, size=(30, 2, 2, 1), dtype=np.uint8)
    y = RNG.integers(3, size=30)
    as_bytes = train(data=Dataset((x, y), None, None))[0]
    as_floats = train(data=Dataset((x / np.float32(255), y), None, None))[0]
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), as_bytes.params, as_floats.params
    )


@pytest.mark.slow
def test_vmap_over_networks():
    recipe, keys = Recipe(optimizer=optax.sgd(0.5), batch_size=5), jax.random.split(KEY, 3)
    params = jax.vmap(partial(nnjax.init, NET))(keys)
    opt_states = jax.vmap(recipe.optimizer.init)(params)
    states = TrainState(params, opt_states, keys, jnp.zeros(3, jnp.int32))
    data = Dataset((jnp.asarray(X), jnp.asarray(Y)), None, None)
    epoch = partial(run_epoch, NET, recipe)
    together, losses, _ = jax.vmap(epoch, in_axes=(0, None))(states, data)
    assert losses.shape == (3,)
    alone, loss, _ = epoch(jax.tree.map(lambda a: a[1], states), data)
    np.testing.assert_allclose(together.params[0].w[1], alone.params[0].w, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(losses[1], loss, rtol=1e-5)


def test_divergence_keeps_the_last_good_state():
    net = nnjax.mlp([4, 3], nnjax.identity, nnjax.identity, nnjax.quadratic)
    epochs = train_epochs(net, DATA, **(SETTING | {"optimizer": optax.sgd(30.0), "epochs": 50}))
    seen = []

    def run():
        for state, record in epochs:
            seen.append((jax.tree.map(np.array, state.params), record["train_loss"]))

    with pytest.raises(DivergedError, match=r"NaN or infinite in epoch \d+; training stopped") as e:
        run()
    assert seen
    jax.tree.map(np.testing.assert_array_equal, e.value.state.params, seen[-1][0])
    assert e.value.history["train_loss"].tolist() == [loss for _, loss in seen]
    assert int(e.value.state.epoch) == len(seen)
    assert f"epoch {len(seen)};" in str(e.value)


def test_divergence_in_the_first_epoch():
    bad = optax.GradientTransformation(
        lambda params: (), lambda g, s, p=None: (jax.tree.map(lambda g: g * jnp.nan, g), s)
    )
    with pytest.raises(DivergedError, match="in epoch 0; ") as e:
        train(optimizer=bad)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(e.value.state.params))
    assert e.value.history == {}


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_data_that_are_not_finite(part, value):
    x, y = getattr(DATA, part)
    x = x.copy()
    x[3, 2] = value
    with pytest.raises(ValueError, match=f"data.{part}: x holds NaN or infinity"):
        train(data=DATA._replace(**{part: (x, y)}))


@pytest.mark.parametrize(
    ("changed", "error", "sentence"),
    [
        ({"batch_size": 24}, ValueError, "batch_size is 24, but there are 23 training examples"),
        ({"batch_size": 0}, ValueError, "batch_size is 0; expected an integer of at least 1"),
        ({"epochs": 0}, ValueError, "epochs is 0; expected an integer of at least 1"),
        ({"key": 0}, TypeError, "key is 0; expected a random key"),
        ({"optimizer": 0.5}, TypeError, "optimizer is 0.5; expected an optax.GradientTransform"),
        ({"evaluate_on": "test"}, ValueError, "evaluate_on is 'test'; expected some of ['train'"),
        ({"evaluate_on": ["tset"]}, ValueError, "evaluate_on is ['tset']; expected some of"),
        ({"data": (X, Y)}, TypeError, "data is a tuple; expected nnjax.data.Dataset(train=(x, y)"),
        ({"data": Dataset(None, None, None)}, ValueError, "data.train is None; expected (x, y)"),
        (
            {"data": DATA._replace(train=X)},
            TypeError,
            "data.train is an array of shape (23, 4); exp",
        ),
        (
            {"data": DATA._replace(test=(X, Y, Y))},
            TypeError,
            "data.test is a tuple of length 3; exp",
        ),
        ({"net": None}, TypeError, "net is None; expected a Network, such as nnjax.mlp("),
        ({"evaluate_on": None}, ValueError, "evaluate_on is None; expected some of ['train'"),
        ({"monitors": None}, TypeError, "monitors is None; expected a list of names and functions"),
        ({"state": (1, 2)}, TypeError, "state is a tuple; expected the TrainState that an earlier"),
        ({"optimizer": optax.lbfgs()}, TypeError, "optimizer cannot follow a gradient alone: "),
        ({"momentum": 0.9}, TypeError, "train(): got an unexpected keyword argument 'momentum'"),
        ({"data": DATA._replace(test=(X, Y[:3]))}, ValueError, "data.test: y has shape (3,), but"),
        (
            {"data": Dataset((X[:, :3], Y), None, None)},
            ValueError,
            "data.train: x has shape (23, 3",
        ),
        ({"data": Dataset((X, Y + 1), None, None)}, ValueError, "data.train: y holds the class 3"),
        ({"params": ()}, ValueError, "params has the structure"),
        ({"monitors": "dead"}, TypeError, "monitors is 'dead'; expected several, such as ['dead']"),
    ],
)
def test_bad_arguments(changed, error, sentence):
    with pytest.raises(error, match=re.escape(sentence)):
        train(**changed)


def test_optimizers_that_keep_the_parameters_they_start_from():
    keeper = optax.GradientTransformation(
        lambda params: params, lambda updates, state, params=None: (updates, state)
    )
    start = nnjax.init(NET, jax.random.key(3))
    state, _ = train(optimizer=optax.chain(keeper, optax.sgd(0.1)), params=start)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state[0], start)


@pytest.mark.parametrize(("bytes_in", "floats_in"), [("train", "test"), ("validation", "train")])
def test_bytes_beside_numbers_of_another_scale_are_refused(bytes_in, floats_in):
    x = RNG.integers(256, size=(23, 2, 2, 1), dtype=np.uint8)
    x[0, 0, :, 0] = 0, 255
    part = {bytes_in: (x, Y), floats_in: (x.astype(np.float32), Y)}
    data = Dataset(**({"train": None, "validation": None, "test": None} | part))
    sentence = (
        f"data.{floats_in}: x lies between 0 and 255, but data.{bytes_in} holds uint8, which is "
        "divided by 255; give both in the same dtype and scale"
    )
    with pytest.raises(ValueError, match=re.escape(sentence)):
        train(data=data)
    part[floats_in] = (x / np.float32(255), Y)
    train(data=Dataset(**({"train": None, "validation": None, "test": None} | part)))


def test_the_signature_is_that_of_the_arguments():
    parameters = inspect.signature(nnjax.train).parameters
    names = {"net", "data", "optimizer", "epochs", "batch_size", "key", "params", "evaluate_on"}
    names |= {
        "class_weight",
        "regularizer",
        "augment",
        "monitors",
        "monitor_every",
        "early_stopping",
        "feedback",
        "compute_dtype",
        "mesh",
    }
    assert set(inspect.signature(train_epochs).parameters) == names | {"state", "within"}
    assert set(parameters) == names | {"state", "within", "progress"}
    assert all(name in (nnjax.train.__doc__ or "") for name in parameters)


def test_a_regression_is_reported_in_the_units_of_its_targets():
    net = nnjax.mlp([4, 1], output=nnjax.identity, loss=nnjax.quadratic)
    y = np.float32(1000 + 300 * X[:, 0])
    data = standardize(Dataset((X, y), (X[:9], y[:9]), None), inputs=False, targets=True)
    rule = nnjax.training.EarlyStopping(patience=2)
    state, history = train(net, data, evaluate_on=["validation"], early_stopping=rule)
    mean, deviation = data.target_standardization
    found = mean + deviation * np.asarray(nnjax.predict(net, state.params, X[:9]))
    rmse = np.sqrt(np.mean((found - y[:9]) ** 2))
    assert history["validation_rmse"][-1] == pytest.approx(rmse, rel=1e-4)
    assert not [name for name in history if "accuracy" in name]
    assert history["best_epoch"][-1] == np.argmin(history["validation_rmse"])


@pytest.mark.slow
def test_features_in_bytes_are_no_grey_levels():
    """Whole numbers are divided by 255 only where they are images."""
    table = RNG.integers(0, 9, (23, 4), dtype=np.uint8)
    bytes_, floats = (train(data=Dataset((x, Y), None, None)) for x in (table, np.float32(table)))
    np.testing.assert_array_equal(bytes_[1]["train_loss"], floats[1]["train_loss"])
    images = table.reshape(23, 2, 2, 1)
    a, b = (nnjax.feedforward(NET, nnjax.init(NET, KEY), x) for x in (images, table / 255))
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_parts_to_evaluate_may_come_from_a_generator():
    assert "test_loss" in train(evaluate_on=(part for part in ["test"]))[1]


def test_divergence_names_the_likely_reasons():
    net = nnjax.mlp([4, 3], nnjax.identity, nnjax.identity, nnjax.quadratic)
    data = Dataset((100 * X, Y), None, None)
    optimizer = nnjax.training.optimizers.by_name("sgd", 30.0)
    reasons = r"likely reasons: a learning rate that is too large \(30\); inputs as large as \d+"
    with pytest.raises(DivergedError, match=reasons):
        train(net, data, optimizer=optimizer, epochs=50)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)])
def test_the_loss_of_an_epoch_is_added_up_in_float32(dtype):
    """With rate 0 it is the mean over mini-batches; bfloat16 cannot count beyond 256."""
    x = np.tile(X, (100, 1))
    y = np.tile(Y, 100)
    params = jax.tree.map(lambda a: a.astype(dtype), nnjax.init(NET, KEY))
    setting = {"optimizer": optax.sgd(0.0), "epochs": 1, "evaluate_on": (), "params": params}
    history = train(data=Dataset((x.astype(dtype), y), None, None), **setting)[1]
    exact = float(nnjax.loss(NET, nnjax.init(NET, KEY), X, Y))
    np.testing.assert_allclose(history["train_loss"], exact, rtol=1e-2)


@pytest.mark.slow
def test_an_optimizer_whose_eps_is_0_in_float16_is_refused():
    params = jax.tree.map(lambda a: a.astype(jnp.float16), nnjax.init(NET, KEY))
    data = Dataset((X.astype(np.float16), Y), None, None)
    with jax.numpy_dtype_promotion("standard"):
        with pytest.raises(ValueError, match="divides by zero in float16 where a gradient is 0"):
            train(data=data, optimizer=optax.adam(1e-3), params=params)
        history = train(data=data, optimizer=optax.adam(1e-3, eps=1e-4), params=params)[1]
    assert np.isfinite(history["train_loss"]).all()


def test_ctrl_c_hands_back_the_state_and_the_history(monkeypatch):
    """It comes within the third epoch; training on from there ends as if nothing had happened."""

    def interrupt(*args):
        raise KeyboardInterrupt

    often = {"evaluate_on": ["validation"], "epochs": 5}
    whole, history = train(**often)
    epochs = train_epochs(NET, DATA, **(SETTING | often))
    kept = [next(epochs), next(epochs)]
    monkeypatch.setattr(jax, "device_get", interrupt)
    with pytest.raises(Interrupted) as stop:
        next(epochs)
    monkeypatch.undo()
    assert isinstance(stop.value, KeyboardInterrupt)
    assert "interrupted in epoch 2; the parameters from before that epoch are kept" in str(
        stop.value
    )
    assert int(stop.value.state.epoch) == 2
    assert stop.value.state.params is kept[1][0].params
    resumed, after = train(**often, state=stop.value.state)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
    both = np.concatenate([stop.value.history["train_loss"], after["train_loss"]])
    np.testing.assert_array_equal(both, history["train_loss"])


def test_ctrl_c_while_a_record_is_shown_keeps_its_epoch():
    def show(record):
        if record["epoch"] == 1:
            raise KeyboardInterrupt

    whole, history = train(epochs=3)
    with pytest.raises(
        Interrupted, match="interrupted after epoch 1; its parameters are k"
    ) as stop:
        train(epochs=3, progress=show)
    assert int(stop.value.state.epoch) == 2
    np.testing.assert_array_equal(stop.value.history["train_loss"], history["train_loss"][:2])
    resumed, _ = train(epochs=3, state=stop.value.state)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)


def test_early_stopping_works_while_jax_looks_for_nan_and_infinity():
    with jax.debug_nans(True), jax.debug_infs(True):
        train(early_stopping=EarlyStopping(2), epochs=3)


def test_nothing_goes_to_the_device_unasked():
    rule, rate = EarlyStopping(1, lower_rate_to=0.5), nnjax.training.optimizers.by_name("sgd", 0.5)
    with jax.transfer_guard("disallow"):
        train(optimizer=rate, early_stopping=rule)
        train()


def named(name, shape=()):
    def monitor(net, params, data):
        return {name: jnp.zeros(shape)}

    return monitor


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"monitors": [named("train_loss")]}, "a monitor gives the name train_loss, which every"),
        ({"monitors": [named("seconds")]}, "a monitor gives the name seconds, which every record"),
        (
            {"monitors": [named("validation_loss")], "monitor_every": 2},
            "a monitor gives the name validation_loss, which every record has already",
        ),
        (
            {"monitors": [named("margin")], "early_stopping": EarlyStopping(3, "margin")},
            "nothing says whether a smaller or a larger margin is better; give Earl",
        ),
        (
            {"monitors": [named("two", (2,))], "early_stopping": EarlyStopping(3, "two")},
            "early stopping cannot monitor 'two'; available: train_loss, validation_accuracy",
        ),
    ],
)
def test_names_of_what_is_measured(changed, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        train(**changed)


def test_a_monitor_declares_which_way_its_value_is_better():
    """It falls in every epoch, so the first is the best; a name that ends in loss says nothing."""

    def steps_to_loss(net, params, data):
        return {"gain_loss": -jnp.sum(params[0].b ** 2)}

    steps_to_loss.better = {"gain_loss": "larger"}
    rule = EarlyStopping(9, "gain_loss")
    _, declared = train(monitors=[steps_to_loss], early_stopping=rule, epochs=3)
    best = int(np.argmax(declared["gain_loss"]))
    assert declared["best_epoch"][-1] == best
    other = EarlyStopping(9, "gain_loss", better="smaller")
    _, said = train(monitors=[steps_to_loss], early_stopping=other, epochs=3)
    assert said["best_epoch"][-1] == int(np.argmin(said["gain_loss"])) != best
