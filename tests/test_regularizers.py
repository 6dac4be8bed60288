"""Regularizers: gradients against `jax.grad` of the penalty, the book's formulas, projections."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnjax
from nnjax.regularizers import L1, L2, MaxNorm, Regularizer

EVERY = [Regularizer(), L2(5.0), L1(0.3), MaxNorm(2.0), L2(0.1) + L1(2.0), L1(1.0) + MaxNorm(0.5)]


def network_params(seed, sizes=(5, 4, 3)):
    return nnjax.init(nnjax.mlp(sizes), jax.random.key(seed))


def relative_error(ours, theirs):
    size = np.linalg.norm(theirs)
    return np.linalg.norm(ours - theirs) / (size if size else 1.0)


@pytest.mark.parametrize("regularizer", EVERY, ids=str)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 10**6))
@settings(max_examples=30)
def test_the_gradient_is_that_of_the_penalty(regularizer, seed, n):
    with jax.enable_x64(True):
        params = drawn(seed)
        by_hand, auto = both_gradients(regularizer, params, n)
        assert jax.tree.structure(by_hand) == jax.tree.structure(params)
        for ours, theirs, p in zip(*map(jax.tree.leaves, (by_hand, auto, params)), strict=True):
            assert ours.dtype == p.dtype
            assert relative_error(ours, theirs) <= 1e-14


@jax.jit
def both_gradients(regularizer, params, n):
    return regularizer.gradient(params, n), jax.grad(regularizer.penalty)(params, n)


def drawn(seed):
    """Parameters of a network with a layer that has none, and weights at the kink of |w|."""
    rng = np.random.default_rng(seed)
    layers = [nnjax.Affine(rng.normal(size=(4, 5)), rng.normal(size=4)), (), rng.normal(size=3)]
    layers[0].w[0, :2] = 0.0
    return jax.tree.map(jnp.asarray, tuple(layers))


def test_penalties_are_the_formulas_of_the_book():
    with jax.enable_x64(True):
        params, n, lmbda = network_params(1), 1000, 5.0
        w = np.concatenate([np.ravel(layer.w) for layer in params])
        np.testing.assert_allclose(
            L2(lmbda).penalty(params, n), lmbda / (2 * n) * np.sum(w**2), rtol=1e-14
        )
        np.testing.assert_allclose(
            L1(lmbda).penalty(params, n), lmbda / n * np.sum(np.abs(w)), rtol=1e-14
        )


def test_biases_are_not_regularised():
    for regularizer in EVERY:
        for layer in regularizer.gradient(network_params(0), 10):
            assert not layer.b.any()
        projected = regularizer.project(network_params(0))
        np.testing.assert_array_equal(projected[0].b, network_params(0)[0].b)


@pytest.mark.slow
def test_max_norm_shortens_long_rows_only_and_to_the_norm_allowed():
    with jax.enable_x64(True):
        w = network_params(0)[0].w
        norms = np.linalg.norm(w, axis=1)
        most = float(np.median(norms))
        projected = MaxNorm(most).project(network_params(0))[0].w
        expected = np.where(norms > most, most / norms, 1.0)[:, None] * w
        np.testing.assert_allclose(projected, expected, rtol=1e-14)
        kernels = (nnjax.Affine(w=jnp.full((2, 3, 3, 1), 4.0), b=jnp.zeros(2)),)
        assert MaxNorm(6.0).project(kernels)[0].w[0, 0, 0, 0] == 2.0
    zeros = jax.tree.map(jnp.zeros_like, network_params(0))
    assert not MaxNorm(1.0).project(zeros)[0].w.any()


def test_a_sum_projects_in_turn():
    both = MaxNorm(2.0) + MaxNorm(1.0)
    w = both.project(network_params(3))[0].w
    assert np.linalg.norm(w, axis=1).max() <= 1.0 + 1e-6


def test_descriptions_are_static_and_equal_by_value():
    calls = []

    @jax.jit
    def gradient(regularizer, params):
        calls.append(1)
        return regularizer.gradient(params, 10)

    gradient(L2(5.0) + MaxNorm(1.0), network_params(0))
    gradient(L2(5.0) + MaxNorm(1.0), network_params(1))
    assert len(calls) == 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.slow
def test_the_dtype_of_the_parameters_is_kept(dtype):
    params = nnjax.init(nnjax.mlp([3, 2]), jax.random.key(0), dtype)
    for regularizer in EVERY:
        leaves = jax.tree.leaves((regularizer.gradient(params, 10), regularizer.project(params)))
        assert {leaf.dtype for leaf in leaves} == {jnp.dtype(dtype)}
        assert regularizer.penalty(params, 10).dtype == jnp.float32  # a part of the loss


@pytest.mark.parametrize("kind", [L1, L2])
def test_numbers_of_numpy_leave_the_dtype_as_it_is(kind):
    params = (nnjax.Affine(jnp.ones((2, 2), jnp.bfloat16), jnp.ones(2, jnp.bfloat16)),)
    gradient = kind(np.float64(5.0)).gradient(params, np.int64(10))
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("kind", [L1, L2, MaxNorm])
@pytest.mark.parametrize("array", [jnp.array, np.array])
def test_a_number_in_an_array_is_a_number_of_python(kind, array):
    made = kind(array(0.5))
    assert made == kind(0.5)
    assert hash(made) == hash(kind(0.5))


def test_a_traced_strength_stays_traced():
    params = network_params(0)
    penalty = jax.jit(lambda strength: L2(strength).penalty(params, 10))
    np.testing.assert_allclose(penalty(5.0), L2(5.0).penalty(params, 10), rtol=1e-6)


@pytest.mark.parametrize("kind", [L1, L2])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "5", None, True])
def test_a_wrong_strength_is_refused(kind, value):
    with pytest.raises(ValueError, match=rf"strength of {kind.__name__} is .*at least 0"):
        kind(value)


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), None])
def test_a_wrong_norm_is_refused(value):
    with pytest.raises(ValueError, match=r"limit of MaxNorm is .*positive finite norm"):
        MaxNorm(value)


def test_only_regularizers_add_up():
    with pytest.raises(TypeError):
        L2(1.0) + 1.0


@pytest.mark.parametrize(("dtype", "size"), [(jnp.float16, 300.0), (jnp.float32, 1e30)])
def test_max_norm_where_squares_overflow(dtype, size):
    params = (
        nnjax.Affine(jnp.asarray([[3 * size, -4 * size], [0, 0]], dtype), jnp.zeros(2, dtype)),
    )
    w = MaxNorm(5.0).project(params)[0].w
    assert w.dtype == dtype
    np.testing.assert_allclose(np.float64(w), [[3.0, -4.0], [0.0, 0.0]], rtol=2e-3)
