"""Pooling by hand against `lax.reduce_window`, PyTorch and autodiff of itself, ties included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lax_reference import by_autodiff, by_hand, hand, normal, pairs, quick, whole
from strategies import random_params, relative_errors
from thinning import thinned

import nnjax

TIGHT = 1e-11
POOLS = [nnjax.MaxPool, nnjax.MeanPool, nnjax.L2Pool]


@st.composite
def poolings(draw):
    """Return (layer, input shape, batch size): overlapping, with gaps, not dividing the size."""
    pool = draw(st.sampled_from(POOLS))
    layer = pool(draw(pairs(1, 4)), draw(st.one_of(st.none(), pairs(1, 3))))
    return layer, (*draw(pairs(4, 9)), draw(st.integers(1, 8))), draw(st.integers(1, 9))


@quick
def errors(layer, x, delta):
    """Return relative errors of z and ∂C/∂x: against the reference, against autodiff of itself."""
    z, g, grads = by_hand(layer, (), x, delta)
    assert grads == ()
    expected = by_autodiff(layer, (), x, delta)[:2]
    own_z, vjp = jax.vjp(lambda x: jax.vmap(lambda a: layer.forward((), a, None)[0])(x), x)
    return relative_errors((z, g), expected), relative_errors((z, g), (own_z, *vjp(delta)))


@given(poolings(), st.booleans())
def test_equals_autodiff_of_the_library(case, ties):
    layer, in_shape, n = case
    ties = ties and not isinstance(layer, nnjax.L2Pool)  # the library's √ has no gradient at 0
    with jax.enable_x64(True):
        x = (whole if ties else normal)(0, n, *in_shape)
        if isinstance(layer, nnjax.L2Pool):
            x = x + 0.1
        found = errors(layer, x, normal(1, n, *layer.out_shape(in_shape)))
        assert max(map(float, jax.tree.leaves(found))) <= TIGHT, found


@pytest.mark.parametrize("pool", thinned(POOLS, lambda pool: pool.__name__))
def test_kinks_and_ties_agree_with_autodiff_of_the_layer(pool):
    """Zeros, equal numbers, whole windows of zeros; jax.grad of nnjax.loss says the same."""
    net = nnjax.Network(
        (7, 7, 2), [pool(3, 2), pool(2, 1), nnjax.Flatten(), nnjax.Dense(3)], nnjax.quadratic
    )
    conv = nnjax.Network(
        (9, 9, 1), [nnjax.Conv(2, 3, activation=nnjax.relu), *net.layers], nnjax.quadratic
    )
    with jax.enable_x64(True):
        params = random_params(conv, 0, jnp.float64)
        params = (nnjax.Affine(whole(0, 2, 3, 3, 1), whole(1, 2)), *params[1:])
        x = whole(2, 4, 9, 9, 1).at[0].set(0.0)
        y = jnp.asarray([0, 1, 2, 0])
        by_us = nnjax.backprop(conv, params, x, y).grads
        auto = jax.grad(nnjax.loss, argnums=1)(conv, params, x, y)
        found = relative_errors(by_us, auto)
        assert max(map(float, jax.tree.leaves(found))) <= TIGHT, found


def test_max_routes_to_the_first_of_the_largest():
    layer = nnjax.MaxPool(2)
    x = jnp.array([[1.0, 5.0], [5.0, 5.0]]).reshape(1, 2, 2, 1)
    _, g, _ = hand(layer, (), x, jnp.full((1, 1, 1, 1), 7.0))
    assert g.ravel().tolist() == [0.0, 7.0, 0.0, 0.0]


def test_an_input_in_several_windows_gets_the_sum():
    x = jnp.array([0.0, 1.0, 0.0]).reshape(1, 1, 3, 1)
    delta = jnp.array([3.0, 4.0]).reshape(1, 1, 2, 1)
    _, g, _ = hand(nnjax.MaxPool((1, 2), 1), (), x, delta)
    assert g.ravel().tolist() == [0.0, 7.0, 0.0]
    _, g, _ = hand(nnjax.MeanPool((1, 2), 1), (), x, delta)
    assert g.ravel().tolist() == [1.5, 3.5, 2.0]
    _, g, _ = hand(nnjax.L2Pool((1, 2), 1), (), x, delta)
    assert g.ravel().tolist() == [0.0, 7.0, 0.0]


def test_a_window_of_zeros_gives_no_gradient_and_no_nan():
    z, g, _ = hand(nnjax.L2Pool(2), (), jnp.zeros((1, 2, 2, 1)), jnp.ones((1, 1, 1, 1)))
    assert z.ravel().tolist() == [0.0]
    assert g.ravel().tolist() == [0.0] * 4


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("place", range(4))
def test_nan_is_passed_on(pool, place):
    x = jnp.arange(4.0).at[place].set(jnp.nan).reshape(1, 2, 2, 1)
    z, g, _ = hand(pool(2), (), x, jnp.ones((1, 1, 1, 1)))
    assert np.isnan(z).all()
    if pool is nnjax.MaxPool:
        assert g.ravel().tolist() == [float(i == place) for i in range(4)]


def test_negative_infinity_is_a_number_like_others():
    x = jnp.full((1, 2, 2, 1), -jnp.inf)
    z, g, _ = hand(nnjax.MaxPool(2), (), x, jnp.ones((1, 1, 1, 1)))
    assert z.ravel().tolist() == [-np.inf]
    assert g.ravel().tolist() == [1.0, 0.0, 0.0, 0.0]


def test_windows_of_more_than_256_inputs():
    with jax.enable_x64(True):
        x = normal(0, 1, 17, 18, 1)
        delta = normal(1, 1, 1, 2, 1)
        found = errors(nnjax.MaxPool(17, 1), x, delta)
    assert max(map(float, jax.tree.leaves(found))) <= TIGHT


def test_bfloat16_keeps_its_dtype():
    x = jnp.ones((1, 4, 4, 2), jnp.bfloat16)
    for pool in POOLS:
        z, g, _ = hand(pool(2), (), x, jnp.ones((1, 2, 2, 2), jnp.bfloat16))
        assert z.dtype == g.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("layer", "name"),
    [(nnjax.MaxPool((3, 2), (2, 1)), "max_pool2d"), (nnjax.MeanPool((3, 2), (2, 1)), "avg_pool2d")],
)
def test_equals_pytorch(layer, name):
    torch = pytest.importorskip("torch")
    with jax.enable_x64(True):
        x, delta = whole(0, 3, 7, 6, 2), normal(1, 3, 3, 5, 2)
        z, g, _ = hand(layer, (), x, delta)
    images = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2).copy(), requires_grad=True)
    out = getattr(torch.nn.functional, name)(images, (3, 2), (2, 1))
    out.backward(torch.tensor(np.asarray(delta).transpose(0, 3, 1, 2).copy()))
    for ours, theirs in ((z, out.detach()), (g, images.grad)):
        np.testing.assert_allclose(ours, theirs.numpy().transpose(0, 2, 3, 1), rtol=TIGHT)


def test_equal_descriptions_are_equal():
    assert nnjax.MaxPool(2) == nnjax.MaxPool((2, 2), 2)
    assert nnjax.MaxPool(2) != nnjax.MeanPool(2)
    assert hash(nnjax.L2Pool([3, 3])) == hash(nnjax.L2Pool(3, (3, 3)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nnjax.MaxPool(0), "size of MaxPool is 0; expected an integer of at least 1"),
        (lambda: nnjax.MeanPool(2, 0), "stride of MeanPool is 0; expected an integer of at"),
        (lambda: nnjax.L2Pool("2"), "size of L2Pool is '2'; expected an integer"),
        (
            lambda: nnjax.MaxPool(3).out_shape((2, 9, 1)),
            "MaxPool of size 3x3 leaves nothing of an image of 2x9; take a smaller size",
        ),
        (lambda: nnjax.MeanPool(3).out_shape((30,)), "MeanPool takes an image"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("dtype", "size"), [("float16", 300.0), ("float16", 1e-4), ("float32", 1e30)]
)
def test_l2_pool_where_squares_overflow_or_vanish(dtype, size):
    a = jnp.asarray(np.array([3.0, -4.0, 0.0, 0.0]).reshape(2, 2, 1) * size, dtype)
    z, cache = nnjax.L2Pool(2).forward((), a, None)
    np.testing.assert_allclose(np.float64(z).ravel(), [5 * size], rtol=2e-3)
    g = nnjax.L2Pool(2).pull_back((), cache, jnp.ones((1, 1, 1), dtype))
    np.testing.assert_allclose(np.float64(g).ravel(), [0.6, -0.8, 0, 0], rtol=2e-3)
