"""16 bits: what is reported is what float64 finds, and a master copy learns where 16 bits stall."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nnjax
from nnjax import Affine, Dense, Network
from nnjax.data import Dataset
from nnjax.regularizers import L2, MaxNorm

DIGITS = nnjax.data.load("digits")
NET = nnjax.mlp([64, 30, 10], nnjax.tanh, loss=nnjax.log_likelihood)


def in_float64(net, params, x, y):
    """Return loss and number of correct predictions, in NumPy, from these parameters."""
    a = np.asarray(x, np.float64).reshape(len(x), -1)
    for layer, p in zip(net.layers, params, strict=True):
        z = a @ np.asarray(p.w, np.float64).T + np.asarray(p.b, np.float64)
        a = np.tanh(z) if layer.activation == nnjax.tanh else np.exp(z - z.max(1, keepdims=True))
    p = a / a.sum(1, keepdims=True)
    return -np.log(p[np.arange(len(y)), y]).mean(), (p.argmax(1) == y).sum()


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_what_is_reported_is_what_float64_finds(dtype):
    """With a rate of 0 the parameters stay, so that the running mean is a loss of theirs."""
    params = nnjax.init(NET, jax.random.key(0), dtype)
    params = jax.tree.map(lambda p: 3 * p, params)  # large losses, outputs near 0 and 1
    _, history = nnjax.train(
        NET, DIGITS, optimizer=optax.sgd(0.0), epochs=1, batch_size=7, key=jax.random.key(1),
        params=params, evaluate_on=["train"],
    )  # fmt: skip
    x, y = DIGITS.train
    loss, correct = in_float64(NET, params, x, y)
    rounding = float(jnp.finfo(dtype).eps)  # that of the forward pass
    for claimed in (history["train_loss"][0], nnjax.loss(NET, params, x, y)):
        assert float(claimed) == pytest.approx(loss, rel=rounding)
    assert history["train_accuracy"][0] == pytest.approx(correct / len(x), abs=0.005)
    bp = nnjax.backprop(NET, params, x, y)
    assert bp.loss.dtype == jnp.float32
    assert float(bp.loss) == pytest.approx(loss, rel=rounding)
    result = nnjax.evaluate(NET, params, x, y)
    assert float(result.loss) == pytest.approx(loss, rel=rounding)
    assert int(result.correct) == (np.asarray(nnjax.predict(NET, params, x)) == y).sum()


def test_outputs_near_one_are_told_apart():
    """Both are 1 in bfloat16: the class is that of the larger z, and δ^L does not vanish."""
    net = Network(2, [Dense(2)], nnjax.cross_entropy)
    params = (Affine(jnp.eye(2, dtype=jnp.bfloat16), jnp.zeros(2, jnp.bfloat16)),)
    x, y = jnp.array([[7.0, 9.0]]), jnp.array([[1.0, 1.0]])
    assert nnjax.predict(net, params, x).tolist() == [1]
    error = nnjax.backprop(net, params, x, y).errors[-1]
    np.testing.assert_allclose(error.astype(float), -jax.nn.sigmoid(-x), rtol=0.01)


def one_weight(dtype, **options):
    """Return the weight after 200 steps from 1 towards 1.2, each of at most 0.002."""
    net = Network(1, [Dense(1, nnjax.identity)], nnjax.quadratic)
    x = jnp.ones((100, 1))
    state, _ = nnjax.train(
        net, Dataset((x, 1.2 * x), None, None), optimizer=optax.sgd(0.01), epochs=2, batch_size=1,
        key=jax.random.key(0), params=(Affine(jnp.ones((1, 1), dtype), jnp.zeros(1, dtype)),),
        **options,
    )  # fmt: skip
    return float(state.params[0].w[0, 0])


@pytest.mark.slow
def test_a_master_copy_learns_where_bfloat16_stalls():
    assert one_weight(jnp.bfloat16) == 1.0
    right = one_weight(jnp.float32)
    assert right == pytest.approx(1.1, abs=0.002)
    assert one_weight(jnp.float32, compute_dtype=jnp.bfloat16) == pytest.approx(right, abs=0.005)


def test_a_step_is_the_gradient_of_the_copy_applied_to_the_master():
    x, y = DIGITS.train[0][:8], DIGITS.train[1][:8]
    params = nnjax.init(NET, jax.random.key(0))
    state, history = nnjax.train(
        NET, Dataset((x, y), None, None), optimizer=optax.sgd(0.5), epochs=1, batch_size=8,
        key=jax.random.key(1), params=params, compute_dtype="bfloat16", evaluate_on=["train"],
        regularizer=L2(4.0) + MaxNorm(100.0), monitors=["weight_norms"],
    )  # fmt: skip
    copy = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    for p, g, stepped in zip(
        params, nnjax.backprop(NET, copy, x, y).grads, state.params, strict=True
    ):
        w = p.w - 0.5 * (g.w.astype(jnp.float32) + 4.0 / 8 * p.w)
        # The sums over a batch in another order differ in the last digit of bfloat16.
        np.testing.assert_allclose(stepped.w, w, rtol=0, atol=2**-8 * np.abs(g.w).max())
        assert stepped.w.dtype == jnp.float32
    copy = jax.tree.map(lambda p: p.astype(jnp.bfloat16), state.params)
    assert history["train_loss"][0] == pytest.approx(float(nnjax.loss(NET, copy, x, y)), rel=1e-5)


@pytest.mark.slow
def test_learning_rules_and_the_state_of_the_optimizer_stay_in_float32():
    rule = nnjax.feedback.init(NET, jax.random.key(2), "kolen_pollack")
    state, _ = nnjax.train(
        NET, Dataset((DIGITS.train[0][:20], DIGITS.train[1][:20]), None, None),
        optimizer=nnjax.training.optimizers.by_name("momentum", 0.1), epochs=1, batch_size=10,
        key=jax.random.key(1), compute_dtype=jnp.bfloat16, feedback=rule,
    )  # fmt: skip
    kept = jax.tree.leaves((state.params, state.opt_state, state.feedback))
    assert {leaf.dtype for leaf in kept if jnp.issubdtype(leaf.dtype, jnp.floating)} == {
        jnp.dtype(jnp.float32)
    }


def test_bad_input():
    with pytest.raises(TypeError, match="compute_dtype is <class 'int'>; expected a floating-p"):
        one_weight(jnp.float32, compute_dtype=int)
