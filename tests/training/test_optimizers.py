"""Optimizers against their formulas, step by step; schedules; what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nnjax.training import optimizers

ETA = 0.3
W0 = np.array([1.0, -2.0, 0.5])
GRADIENTS = [np.array([0.2, -0.4, 1.0]), np.array([-0.1, 0.3, 2.0]), np.array([0.5, 0.5, -1.0])]


@pytest.fixture(autouse=True)
def _promotion_as_optax_needs_it():
    with jax.numpy_dtype_promotion("standard"):  # optax mixes floats with counts of steps
        yield


def sgd(eta):
    w = W0
    for g in GRADIENTS:
        w = w - eta() * g
        yield w


def momentum(eta, mu=0.9):
    w, v = W0, 0.0
    for g in GRADIENTS:
        v = mu * v - eta() * g
        w = w + v
        yield w


def nesterov(eta, mu=0.9):
    w, v = W0, 0.0
    for g in GRADIENTS:
        v = mu * v - eta() * g
        w = w + mu * v - eta() * g
        yield w


def adam(eta, decay=0.0):
    w, m, s = W0, 0.0, 0.0
    for t, g in enumerate(GRADIENTS, start=1):
        m = 0.9 * m + 0.1 * g
        s = 0.999 * s + 0.001 * g**2
        step = (m / (1 - 0.9**t)) / (np.sqrt(s / (1 - 0.999**t)) + 1e-8)
        w = w - eta() * (step + decay * w)
        yield w


def rmsprop(eta):
    w, s = W0, 0.0
    for g in GRADIENTS:
        s = 0.9 * s + 0.1 * g**2
        w = w - eta() * g / np.sqrt(s + 1e-8)
        yield w


def run(optimizer, change=lambda i, state: state):
    w = jnp.asarray(W0)
    state = optimizer.init(w)
    for i, g in enumerate(GRADIENTS):
        state = change(i, state)
        updates, state = jax.jit(optimizer.update)(jnp.asarray(g), state, w)
        w = optax.apply_updates(w, updates)
        yield np.asarray(w)


@pytest.mark.parametrize(
    ("name", "options", "formula"),
    [
        ("sgd", {}, sgd),
        ("momentum", {}, momentum),
        ("momentum", {"mu": 0.0}, lambda eta: momentum(eta, 0.0)),
        ("momentum", {"mu": 1.0}, lambda eta: momentum(eta, 1.0)),
        ("nesterov", {"mu": 0.5}, lambda eta: nesterov(eta, 0.5)),
        ("adam", {}, adam),
        ("adamw", {"weight_decay": 0.1}, lambda eta: adam(eta, 0.1)),
        ("rmsprop", {}, rmsprop),
    ],
)
def test_the_first_steps_are_those_of_the_formulas(name, options, formula):
    with jax.enable_x64(True):
        optimizer = optimizers.by_name(name, ETA, **options)
        for ours, by_hand in zip(run(optimizer), formula(lambda: ETA), strict=True):
            np.testing.assert_allclose(ours, by_hand, rtol=1e-7)


@pytest.mark.parametrize(("name", "formula"), [("sgd", sgd), ("momentum", momentum)])
def test_a_rate_that_is_lowered_counts_from_then_on(name, formula):
    def halve(i, state):
        return optimizers.scale_rate(state, 0.5) if i else state

    rates = iter([ETA, ETA / 2, ETA / 4])
    with jax.enable_x64(True):
        ours = run(optimizers.by_name(name, ETA), halve)
        for w, by_hand in zip(ours, formula(lambda: next(rates)), strict=True):
            np.testing.assert_allclose(w, by_hand, rtol=1e-7)


def test_momentum_keeps_the_rate_that_it_set_out_with():
    falling = optimizers.schedule("step", ETA, steps=3, every=1, factor=0.5)
    rates = iter([ETA, ETA / 2, ETA / 4])
    with jax.enable_x64(True):
        ours = list(run(optimizers.by_name("momentum", falling)))
        by_hand = list(momentum(lambda: next(rates)))
        np.testing.assert_allclose(ours, by_hand, rtol=1e-7)
        theirs = list(run(optax.sgd(falling, momentum=0.9)))
        assert np.abs(theirs[-1] - by_hand[-1]).max() > 1e-3


@pytest.mark.parametrize("kind", [optimizers.momentum, optimizers.nesterov])
def test_numbers_of_numpy_leave_the_dtype_as_it_is(kind):
    w = jnp.ones(2, jnp.bfloat16)
    optimizer = kind(np.float64(0.1), mu=np.float64(0.9))
    updates, state = optimizer.update(w, optimizer.init(w))
    assert {leaf.dtype for leaf in jax.tree.leaves((updates, state))} == {w.dtype}


def test_the_state_is_made_by_one_program():
    params = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(3)}
    made = jax.make_jaxpr(optimizers.by_name("adam", 0.1).init)(params)
    assert len(made.eqns) == 1


def test_the_state_holds_the_rate_also_of_a_schedule():
    optimizer = optimizers.by_name("adam", optimizers.schedule("cosine", 0.5, steps=2))
    w = jnp.asarray(W0, jnp.float32)
    state, rates = optimizer.init(w), []
    for _ in range(3):
        _, state = optimizer.update(w, state, w)
        rates.append(float(optimizers.rate(state)))
    np.testing.assert_allclose(rates, [0.5, 0.25, 0.0], atol=1e-7)


def test_any_optimizer_of_optax_goes_by_its_name():
    expected = optax.lion(0.1, b1=0.5)
    ours = optimizers.by_name("lion", 0.1, b1=0.5)
    np.testing.assert_allclose(list(run(ours)), list(run(expected)), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "values"),
    [
        ("constant", {}, [0.8, 0.8, 0.8, 0.8]),
        ("step", {}, [0.8, 0.8, 0.08, 0.08]),
        ("step", {"every": 1, "factor": 0.5}, [0.8, 0.4, 0.2, 0.1]),
        ("cosine", {}, [0.8, 0.6, 0.2, 0.0]),
        ("one_cycle", {"pct_start": 1 / 3, "div_factor": 2.0}, [0.4, 0.8, 0.4, 0.0]),
    ],
)
def test_schedules(name, options, values):
    steps = 4 if name == "step" and not options else 3
    rate = optimizers.schedule(name, 0.8, steps, **options)
    np.testing.assert_allclose([rate(i) for i in range(4)], values, rtol=1e-5, atol=1e-4)


def test_equal_settings_are_the_same_object():
    assert optimizers.schedule("cosine", 1.0, 9) is optimizers.schedule("cosine", 1.0, 9)
    assert optimizers.by_name("adam", 0.1, b1=0.5) is optimizers.by_name("adam", 0.1, b1=0.5)


@pytest.mark.parametrize("kind", [optimizers.momentum, optimizers.nesterov])
@pytest.mark.parametrize("mu", [-0.1, 1.1, float("nan"), "0.9"])
def test_a_momentum_coefficient_outside_0_to_1_is_refused_with_the_reason(kind, mu):
    with pytest.raises(ValueError, match=r"mu is .*0 ≤ μ ≤ 1: with μ > 1 the velocity would grow"):
        kind(0.1, mu)
    with pytest.raises(ValueError, match="0 ≤ μ ≤ 1"):
        optimizers.by_name(kind.__name__, 0.1, mu=mu)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "fast", None])
def test_a_wrong_rate_is_refused(value):
    with pytest.raises(ValueError, match=r"the learning rate is .*a finite number of at least 0"):
        optimizers.by_name("sgd", value)
    with pytest.raises(ValueError, match="the learning rate is"):
        optimizers.schedule("cosine", value, 10)


def test_a_rate_that_is_0_in_float32_is_refused():
    with pytest.raises(
        ValueError, match="the learning rate is 1e-50, which is 0 in float32; expec"
    ):
        optimizers.by_name("sgd", 1e-50)
    with jax.enable_x64(True):
        optimizers.by_name("sgd", 1e-50)
    optimizers.by_name("sgd", 0.0)


@pytest.mark.parametrize("value", [np.float32(-1), jnp.float32(-1), 1j, [0.1]])
def test_a_rate_of_another_type_is_refused(value):
    with pytest.raises(ValueError, match=r"the learning rate is .*; expected a finite number of"):
        optimizers.by_name("sgd", value)


def test_an_option_without_a_hash_is_refused():
    with pytest.raises(TypeError, match=r"b1 of the optimizer adam is \[0.9\]; expected a number"):
        optimizers.by_name("adam", 0.1, b1=[0.9])


@pytest.mark.parametrize("name", ["adaam", "cosine_decay_schedule", "scale", "__doc__", ""])
def test_an_unknown_optimizer_is_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match=r"optimizer is .*expected one of .*adamw.*, sgd,"):
        optimizers.by_name(name, 0.1)


def test_an_unknown_option_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="the optimizer momentum has no option nu; it takes mu"):
        optimizers.by_name("momentum", 0.1, nu=0.5)
    with pytest.raises(ValueError, match="the schedule cosine has no option every; it takes none"):
        optimizers.schedule("cosine", 0.1, 10, every=3)


def test_an_unknown_schedule_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="schedule is 'sine'; expected one of constant, step"):
        optimizers.schedule("sine", 0.1, 10)


@pytest.mark.parametrize("name", ["cosine", "one_cycle"])
def test_a_schedule_that_ends_before_the_run_is_refused(name):
    with pytest.raises(ValueError, match="ends after 10 steps, but the run takes 30"):
        optimizers.schedule(name, 0.1, 10, run=30)
    assert optimizers.schedule(name, 0.1, 30, run=30) is not None
    assert optimizers.schedule("step", 0.1, 10, run=30) is not None


def test_wrong_options_of_a_schedule_are_refused():
    with pytest.raises(ValueError, match="every is 0; expected an integer of at least 1"):
        optimizers.schedule("step", 0.1, 10, every=0)
    for value in (0, 2):  # with a factor of 0 optax would leave the rate as it is
        with pytest.raises(ValueError, match=f"factor is {value}; expected a number greater than"):
            optimizers.schedule("step", 0.1, 10, factor=value)
    for value in (-0.1, 1, 2, "half"):  # with 1 the rate would never rise
        with pytest.raises(ValueError, match=r"pct_start is .*; expected a fraction of the steps"):
            optimizers.schedule("one_cycle", 0.1, 10, pct_start=value)
    with pytest.raises(ValueError, match="div_factor is 0; expected a finite number of at least 1"):
        optimizers.schedule("one_cycle", 0.1, 10, div_factor=0)
    with pytest.raises(ValueError, match="steps is 0; expected an integer of at least 1"):
        optimizers.schedule("cosine", 0.1, 0)


def test_a_rate_that_cannot_be_lowered_is_said():
    with pytest.raises(ValueError, match="does not hold its learning rate in its state"):
        optimizers.scale_rate(optax.sgd(0.1).init(W0), 0.5)
    falling = optimizers.by_name("sgd", optimizers.schedule("cosine", 0.1, 10))
    with pytest.raises(ValueError, match="a schedule sets the learning rate"):
        optimizers.scale_rate(falling.init(W0), 0.5)


def test_any_optimizer_of_optax_that_takes_a_rate_has_a_name():
    assert optimizers.by_name("adafactor", 0.1).init(jnp.zeros(3))
    for name in ("scale_by_rprop", "lbfgs", "_private"):
        with pytest.raises(ValueError, match=f"optimizer is '{name}'; expected one of .*adamw"):
            optimizers.by_name(name, 0.1)
