"""Layer normalization against autodiff of its formula and PyTorch, in 16 bits too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lax_reference import by_autodiff, hand, normal, quick
from strategies import relative_errors

import nnjax
from nnjax.layers import LayerNorm, ScaleShift

autodiff = quick(by_autodiff)


def arrays(shape, seed, n=3):
    params = ScaleShift(normal(seed, *shape), normal(seed + 1, *shape))
    return params, normal(seed + 2, n, *shape), normal(seed + 3, n, *shape)


@settings(deadline=None)
@given(
    shape=st.sampled_from([(7,), (3, 4, 2)]),
    offset=st.sampled_from([0.0, -3.0, 1e3]),
    seed=st.integers(0, 1000),
)
def test_equals_autodiff_of_the_formula(shape, offset, seed):
    with jax.enable_x64(True):
        params, x, delta = arrays(shape, seed)
        layer, x = LayerNorm(), x + offset
        ours, theirs = (f(layer, params, x, delta) for f in (hand, autodiff))
        assert max(map(float, jax.tree.leaves(relative_errors(ours, theirs)))) <= 1e-10
        one = jax.vmap(lambda x, d: layer.gradients(layer.forward(params, x, None)[1], d))(x, delta)
        np.testing.assert_allclose(one.gamma.sum(0), ours[2].gamma, rtol=1e-10, atol=1e-12)


def test_equals_pytorch():
    torch = pytest.importorskip("torch")
    with jax.enable_x64(True):
        params, x, delta = arrays((3, 4, 2), 0)
        z, g, grads = hand(LayerNorm(epsilon=0.1), params, x, delta)
        a, *theirs = (torch.tensor(np.asarray(v), requires_grad=True) for v in (x, *params))
        out = torch.nn.functional.layer_norm(a, (3, 4, 2), *theirs, eps=0.1)
        out.backward(torch.tensor(np.asarray(delta)))
        pairs = [(z, out.detach()), (g, a.grad), *zip(grads, (t.grad for t in theirs), strict=True)]
        for ours, other in pairs:
            np.testing.assert_allclose(ours, other.numpy(), rtol=1e-11, atol=1e-13)


def test_statistics_of_16_bits_are_those_of_32():
    """Squares of about 300 overflow in float16, and so does their sum."""
    layer, params = LayerNorm(), ScaleShift(jnp.ones(64), jnp.zeros(64))
    a, delta = 300 + jnp.arange(64.0) / 4, jnp.cos(jnp.arange(64.0))
    z, cache = layer.forward(params, a, None)
    g = layer.pull_back(params, cache, delta)
    params, a, delta = jax.tree.map(lambda v: v.astype(jnp.float16), (params, a, delta))
    narrow, cache = layer.forward(params, a, None)
    assert narrow.dtype == jnp.float16
    np.testing.assert_allclose(narrow, z, atol=2e-3)
    np.testing.assert_allclose(layer.pull_back(params, cache, delta), g, atol=2e-3)


def test_description():
    net = nnjax.architecture.parse("dense4 layernorm layernorm:relu", (5,), 2)
    assert [layer.word() for layer in net.layers[1:3]] == ["layernorm", "layernorm:relu"]
    assert net.layers[2] == LayerNorm(nnjax.relu)
    assert nnjax.summary(net).layers[1].parameters == 8
    params = nnjax.init(net, jax.random.key(0), jnp.float16)
    assert params[1].gamma.tolist() == [1.0] * 4
    assert params[1].beta.dtype == jnp.float16


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LayerNorm("relu"), TypeError, "activation of LayerNorm is 'relu'"),
        (lambda: LayerNorm(epsilon=-1.0), ValueError, "epsilon of LayerNorm is -1.0"),
        (lambda: LayerNorm().out_shape((1,)), ValueError, r"at least 2 features, .* shape \(1,\)"),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
