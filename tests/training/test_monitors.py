"""Monitors against NumPy, on a network small enough to see through."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nnjax
from nnjax.data import Dataset
from nnjax.regularizers import L2
from nnjax.training import monitors
from nnjax.training.monitors import MONITORS, Dead, Saturated, measure

NET = nnjax.Network(
    (2, 2, 1),
    [nnjax.Flatten(), nnjax.Dense(5), nnjax.Dense(4, nnjax.relu), nnjax.Dense(3, nnjax.softmax)],
    nnjax.log_likelihood,
)
PARAMS = nnjax.init(NET, jax.random.key(0))
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(1200, 2, 2, 1)).astype(np.float32), RNG.integers(3, size=1200)
DATA = Dataset((jnp.asarray(X), jnp.asarray(Y)), (jnp.asarray(X[:50]), jnp.asarray(Y[:50])), None)


def close(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-7)


def norm(*arrays):
    return np.sqrt(sum(np.sum(np.square(np.asarray(array, np.float64))) for array in arrays))


def test_norms_are_those_of_the_layers_with_weights_over_the_first_1000_examples():
    measured = measure(NET, ["error_norms", "gradient_norms", "weight_norms"], PARAMS, DATA)
    bp = nnjax.backprop(NET, PARAMS, X[:1000], Y[:1000])
    layers = (1, 2, 3)
    close(measured["error_norms"], [norm(np.mean(bp.errors[l], axis=0)) for l in layers])
    close(measured["gradient_norms"], [norm(*bp.grads[l]) for l in layers])
    close(measured["weight_norms"], [norm(PARAMS[l].w) for l in layers])
    close(measured["error_norms"], [norm(bp.grads[l].b) for l in layers])  # BP3


def test_saturated_and_dead_look_at_the_derivative():
    forced = list(PARAMS)
    forced[1] = PARAMS[1]._replace(b=jnp.array([0, 0, 50.0, -50.0, 0]))
    forced[2] = PARAMS[2]._replace(b=jnp.array([-1e3, 1e3, 1e3, -1e3]))
    measured = measure(NET, ["saturated", "dead"], tuple(forced), DATA)
    z = nnjax.backprop(NET, tuple(forced), X[:1000], Y[:1000]).weighted_inputs[1]
    close(measured["saturated"], [np.mean(nnjax.sigmoid.derivative(z) < 0.01), 0.5])
    assert measured["saturated"][0] > 0.39
    assert measured["dead"][0] < 0.41
    assert measured["dead"][1] == 0.5


@pytest.mark.slow
def test_thresholds_and_examples_can_be_chosen():
    assert Saturated(below=1.0)(NET, PARAMS, DATA)[0] == 1.0
    assert Saturated(below=0.0)(NET, PARAMS, DATA)[0] == 0.0
    one = Dead(examples=1)(NET, PARAMS, DATA)[1]
    z = nnjax.backprop(NET, PARAMS, X[:1], Y[:1]).weighted_inputs[2]
    close(one, np.mean(np.asarray(z) <= 0))


def test_performance_and_penalty():
    chosen = [monitors.Performance("validation"), monitors.Penalty(L2(3.0))]
    measured = measure(NET, chosen, PARAMS, DATA)
    expected = nnjax.evaluate(NET, PARAMS, X[:50], Y[:50])
    close(measured["validation_loss"], expected.loss)
    close(measured["validation_accuracy"], expected.accuracy)
    assert measured["validation_correct"] == expected.correct
    close(measured["penalty"], L2(3.0).penalty(PARAMS, 1200))


def test_all_monitors_are_one_program_that_is_compiled_once():
    traced = []

    def watched(net, params, data):
        traced.append(net)
        return {"loss_here": nnjax.loss(net, params, *data.validation)}

    for seed in range(3):
        params = nnjax.init(NET, jax.random.key(seed))
        measured = measure(NET, [*MONITORS, watched], params, DATA)
    assert set(measured) == {*MONITORS, "loss_here"}
    assert len(traced) == 1


LIMIT = 0.5


def below_the_limit(net, params, data):
    return jnp.mean(data.train[0] < LIMIT)


def test_a_monitor_that_reads_a_variable_is_compiled_again_when_it_changes(monkeypatch):
    for limit in (0.5, -0.5):
        monkeypatch.setitem(globals(), "LIMIT", limit)
        close(measure(NET, [below_the_limit], PARAMS, DATA)["below_the_limit"], np.mean(limit > X))


def test_monitors_that_do_the_same_keep_their_names():
    def called(name):
        def monitor(net, params, data):
            return jnp.ones(())

        monitor.__name__ = name
        return monitor

    assert [*measure(NET, [called("one")], PARAMS, DATA)] == ["one"]
    assert [*measure(NET, [called("two")], PARAMS, DATA)] == ["two"]


@pytest.mark.slow
def test_two_monitors_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two monitors give the name dead; rename one of them"):
        measure(NET, ["dead", lambda net, params, data: {"dead": jnp.zeros(())}], PARAMS, DATA)


@pytest.mark.parametrize(
    ("monitor", "error", "sentence"),
    [
        ("norm", ValueError, "monitor is 'norm'; expected one of error_norms, gradient_norms"),
        (3, TypeError, r"monitor is 3; expected one of error_norms.* a function of \(net, params"),
        ([], TypeError, r"monitor is \[\], which has no hash; give a function"),
    ],
)
def test_what_is_no_monitor_is_refused(monitor, error, sentence):
    with pytest.raises(error, match=sentence):
        monitors.by_name(monitor)


def test_a_monitor_that_returns_text_is_refused():
    def mood(net, params, data):
        return "good"

    with pytest.raises(TypeError, match="the monitor mood gives 'good' as mood; expected an array"):
        measure(NET, [mood], PARAMS, DATA)


@pytest.mark.parametrize("kind", [type(monitor) for monitor in MONITORS.values()][:2])
def test_a_wrong_number_of_examples_is_refused(kind):
    with pytest.raises(ValueError, match="examples is 0; expected an integer of at least 1"):
        kind(examples=0)


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.slow
def test_error_norms_under_another_rule_are_those_of_that_rule(every):
    net = nnjax.mlp([4, 5, 3], activation=nnjax.tanh)
    data = Dataset((X[:40].reshape(40, 4), Y[:40]), None, None)
    rule = nnjax.feedback.init(net, jax.random.key(1), "feedback_alignment")
    state, history = nnjax.train(
        net, data, optimizer=optax.sgd(0.5), epochs=1, batch_size=20, key=jax.random.key(0),
        monitors=["error_norms"], monitor_every=every, feedback=rule,
    )  # fmt: skip
    passed = nnjax.backprop(net, state.params, *data.train, feedback=rule)
    by_rule = [norm(np.mean(errors, axis=0)) for errors in passed.errors]
    close(history["error_norms"].reshape(-1, 2)[-1], by_rule)
    by_backprop = nnjax.backprop(net, state.params, *data.train).errors[0]
    assert abs(by_rule[0] / norm(np.mean(by_backprop, axis=0)) - 1) > 0.01
