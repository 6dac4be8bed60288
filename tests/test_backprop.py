"""BP1 to BP4 against jax.grad, leaf by leaf in float64, and what composes with them."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from strategies import LOSSES, PAIRED, Case, dense_cases, relative_errors

import nnjax
from nnjax.backprop import backprop
from nnjax.descent import loss_and_gradient

TIGHT = 1e-12


@pytest.fixture
def quick_compilation():
    """Compile without most optimisations, for tests of many networks that run once each."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@partial(jax.jit, static_argnums=0)
def errors_of_gradients(net, params, x, y):
    """Return the relative error of every leaf: backprop against jax.grad."""
    auto_loss, auto = jax.value_and_grad(nnjax.loss, argnums=1)(net, params, x, y)
    hand = nnjax.backprop(net, params, x, y)
    return relative_errors((hand.loss, hand.grads), (auto_loss, auto))


@pytest.mark.usefixtures("quick_compilation")
@given(dense_cases())
def test_random_networks(case):
    """200 of them, as many as the settings of the tests say."""
    with jax.enable_x64(True):
        errors = errors_of_gradients(case.net, *case.arrays())
        worst = max(map(float, jax.tree.leaves(errors)))
    assert worst <= TIGHT, errors


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("loss", LOSSES)
def test_every_pair_of_output_activation_and_loss(loss):
    with jax.enable_x64(True):
        for activation in PAIRED:
            net = nnjax.mlp([3, 5], output=activation, loss=loss)
            errors = errors_of_gradients(net, *Case(net, 5, "soft", 0).arrays())
            assert max(map(float, jax.tree.leaves(errors))) <= TIGHT, activation


def test_errors_under_a_weighted_loss():
    """δ^l is the gradient with respect to what is added to z^l, example by example."""
    net = nnjax.mlp([3, 4, 6, 5], nnjax.tanh, loss=nnjax.log_likelihood)
    with jax.enable_x64(True):
        params, x, y = Case(net, 4, "soft", 0).arrays()
        hand = nnjax.backprop(net, params, x, y)
        weights = jnp.array([0.5, -1.0, 2.0, 3.0])

        @jax.jit
        @jax.grad
        def gradient(offsets):
            a = x
            for layer, p, offset in zip(net.layers, params, offsets, strict=True):
                z = a @ p.w.T + p.b[None] + offset
                a = layer.activation(z)
            return jnp.sum(weights * nnjax.log_likelihood(a, y))

        auto = gradient(tuple(map(jnp.zeros_like, hand.weighted_inputs)))
        weighted = tuple(weights[:, None] * d for d in hand.errors)
        assert max(map(float, jax.tree.leaves(relative_errors(weighted, auto)))) < TIGHT


def test_by_hand():
    """One neuron worked on paper: signals 0.4 and 0.5, weights 2 and 3, error t − o = 1.5."""
    z = 0.4 * 2 + 0.5 * 3
    a = 1 / (1 + np.exp(-z))
    with jax.enable_x64(True):
        net = nnjax.mlp([2, 1], loss=nnjax.quadratic)
        params = (nnjax.Affine(jnp.array([[2.0, 3.0]]), jnp.zeros(1)),)
        x, y = jnp.array([[0.4, 0.5]]), jnp.array([[a + 1.5]])
        bp = nnjax.backprop(net, params, x, y)
        stepped = nnjax.sgd_step(net, params, x, y, 1.0)
    delta = -1.5 * a * (1 - a)
    np.testing.assert_allclose(bp.weighted_inputs[0], [[2.3]], rtol=1e-15)
    np.testing.assert_allclose(bp.errors[0], [[delta]], rtol=1e-14)
    np.testing.assert_allclose(bp.grads[0].w, [[delta * 0.4, delta * 0.5]], rtol=1e-14)
    np.testing.assert_allclose(bp.grads[0].b, [delta], rtol=1e-14)
    np.testing.assert_allclose(stepped[0].w[0, 0], 2 - delta * 0.4, rtol=1e-14)
    assert f"{delta:.3f} {stepped[0].w[0, 0]:.3f}" == "-0.124 2.050"


def test_against_numpy():
    """The book's loops over single examples, in NumPy: nothing of JAX in the reference."""
    sizes, n = [4, 5, 3], 6
    net = nnjax.mlp(sizes, loss=nnjax.quadratic)
    with jax.enable_x64(True):
        params, x, y = Case(net, n, "soft", 3).arrays()
        bp = nnjax.backprop(net, params, x, y)
    ws, bs = [np.asarray(p.w) for p in params], [np.asarray(p.b) for p in params]
    total = [(np.zeros_like(w), np.zeros_like(b)) for w, b in zip(ws, bs, strict=True)]
    for example in range(n):
        activations, zs = [np.asarray(x[example])], []
        for w, b in zip(ws, bs, strict=True):
            zs.append(np.array([sum(w_j * activations[-1]) for w_j in w]) + b)
            activations.append(1 / (1 + np.exp(-zs[-1])))
        slopes = [a * (1 - a) for a in activations[1:]]
        delta = (activations[-1] - np.asarray(y[example])) * slopes[-1]
        for l in (1, 0):
            np.testing.assert_allclose(bp.errors[l][example], delta, rtol=1e-12)
            total[l][0][:] += np.outer(delta, activations[l]) / n
            total[l][1][:] += delta / n
            if l:
                delta = ws[l].T @ delta * slopes[l - 1]
    for (w, b), grads in zip(total, bp.grads, strict=True):
        np.testing.assert_allclose(grads.w, w, rtol=1e-12)
        np.testing.assert_allclose(grads.b, b, rtol=1e-12)


def test_against_torch():
    torch = pytest.importorskip("torch")
    net = nnjax.mlp([6, 8, 7, 4], nnjax.tanh, loss=nnjax.log_likelihood)
    with jax.enable_x64(True):
        params, x, y = Case(net, 5, "classes", 1).arrays()
        grads = nnjax.backprop(net, params, x, y).grads
    tensors = [torch.tensor(np.asarray(p), requires_grad=True) for p in jax.tree.leaves(params)]
    a = torch.tensor(np.asarray(x))
    for i in range(0, len(tensors), 2):
        z = a @ tensors[i].T + tensors[i + 1]
        a = torch.tanh(z)
    torch.nn.functional.cross_entropy(z, torch.tensor(np.asarray(y))).backward()
    for tensor, grad in zip(tensors, jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(grad, tensor.grad.numpy(), rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("activation", [nnjax.relu, nnjax.leaky_relu, nnjax.absolute])
def test_at_the_kink(activation):
    """z = 0 exactly, in every neuron: the hand gradient and jax.grad follow the same rule."""
    net = nnjax.mlp([3, 4, 2], activation, nnjax.identity, nnjax.quadratic)
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.zeros_like, nnjax.init(net, jax.random.key(0)))
        params = (params[0], params[1]._replace(w=jnp.ones((2, 4))))
        x, y = jnp.ones((2, 3)), jnp.ones((2, 2))
        hand = nnjax.backprop(net, params, x, y)
        auto = jax.grad(nnjax.loss, argnums=1)(net, params, x, y)
        slope = float(activation.derivative(jnp.zeros(())))
    np.testing.assert_allclose(hand.errors[0], np.full((2, 4), -2.0 * slope), rtol=1e-12)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), hand.grads, auto)


def test_errors_are_never_divided_by_n():
    net = nnjax.mlp([3, 4, 2])
    params, x, y = Case(net, 4, "one-hot", 0).arrays(jnp.float32)
    batch = nnjax.backprop(net, params, x, y)
    for i in range(4):
        single = nnjax.backprop(net, params, x[i : i + 1], y[i : i + 1])
        for of_batch, alone in zip(batch.errors, single.errors, strict=True):
            np.testing.assert_allclose(of_batch[i], alone[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_gradients_have_the_dtype_of_the_parameters(dtype):
    net = nnjax.mlp([5, 4, 3], nnjax.relu, loss=nnjax.log_likelihood)
    with jax.enable_x64(dtype == "float64"):
        params, x, y = Case(net, 4, "classes", 0).arrays(dtype)
        for given_x in (x, x.astype(jnp.float32)):
            bp = nnjax.backprop(net, params, given_x, y)
            assert bp.loss.dtype == ("float64" if dtype == "float64" else "float32")
            for array in jax.tree.leaves(bp[1:]):
                assert array.dtype == dtype
    assert jax.tree.structure(bp.grads) == jax.tree.structure(params)
    assert jax.tree.map(jnp.shape, bp.grads) == jax.tree.map(jnp.shape, params)


LAYERS_OF_SUMS = {
    "dense": (2, [nnjax.Dense(1, nnjax.identity)]),
    "conv": ((2, 2, 2), [nnjax.Conv(2, 2, activation=nnjax.identity), nnjax.Flatten()]),
    "groups": ((2, 2, 2), [nnjax.Conv(2, 1, groups=2), nnjax.Flatten()]),
    "layernorm": (2, [nnjax.LayerNorm()]),
}


@pytest.mark.parametrize(
    ("layers", "n", "target"),
    [
        pytest.param(layers, n, target, marks=[pytest.mark.slow] * (layers not in quick))
        for n, target, quick in ((1000, 100.0, ["conv"]), (70_000, 0.5, ["dense", "layernorm"]))
        for layers in LAYERS_OF_SUMS
    ],
)
def test_sums_over_examples_and_their_number_exceed_float16(layers, n, target):
    """Which ends at 65,504; the means, about -100 and -0.5, are small."""
    net = nnjax.Network(*LAYERS_OF_SUMS[layers], nnjax.quadratic)
    one = jnp.linspace(0, 1, np.prod(net.input_shape)).reshape(net.input_shape)
    x, y = jnp.broadcast_to(one, (n, *one.shape)), jnp.full((n, net.n_out), target)
    params = jax.tree.map(jnp.zeros_like, nnjax.init(net, jax.random.key(0)))

    def results(params):
        bp = nnjax.backprop(net, params, x, y)
        weights = jnp.full(n, 2.0)
        ones = jax.tree.map(jnp.ones_like, params)
        return (
            bp.grads,
            loss_and_gradient(net, params, x, y, weights=weights)[1],
            nnjax.per_example.clipped_gradient(net, params, bp, 1000.0),
            nnjax.curvature.ggn_vector_product(net, params, bp, ones),
            nnjax.curvature.hessian_vector_product(net, params, bp, ones),
        )

    narrow = results(jax.tree.map(lambda p: p.astype(jnp.float16), params))
    for a, b in zip(*map(jax.tree.leaves, (narrow, results(params))), strict=True):
        assert a.dtype == jnp.float16
        np.testing.assert_allclose(np.float32(a), b, rtol=4e-3, atol=1e-3)


@pytest.mark.slow
def test_bfloat16_is_close_to_float32():
    net = nnjax.mlp([5, 4, 3])
    params, x, y = Case(net, 8, "classes", 0).arrays(jnp.float32)
    wide = nnjax.backprop(net, params, x, y).grads
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    narrow = nnjax.backprop(net, params, x, y).grads
    for a, b in zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True):
        assert np.linalg.norm(a.astype(jnp.float32) - b) < 0.05 * np.linalg.norm(b)


def test_vmap_over_networks():
    net = nnjax.mlp([3, 4, 2])
    _, x, y = Case(net, 4, "classes", 0).arrays(jnp.float32)
    keys = jax.random.split(jax.random.key(1), 3)
    stacked = jax.vmap(partial(nnjax.init, net))(keys)
    step = jax.vmap(lambda p, eta: nnjax.sgd_step(net, p, x, y, eta))
    together = step(stacked, jnp.array([0.1, 0.2, 0.3]))
    for i, eta in enumerate([0.1, 0.2, 0.3]):
        alone = nnjax.sgd_step(net, nnjax.init(net, keys[i]), x, y, eta)
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-6)


def test_grad_through_backprop_and_a_step():
    """Second derivatives: through the hand-written pass as through jax.grad."""
    net = nnjax.mlp([3, 4, 2], nnjax.tanh, loss=nnjax.log_likelihood)
    with jax.enable_x64(True):
        params, x, y = Case(net, 4, "classes", 0).arrays()

        def norm_of(gradients):
            return lambda p: sum(jnp.sum(g**2) for g in jax.tree.leaves(gradients(p)))

        hand = jax.grad(norm_of(lambda p: nnjax.backprop(net, p, x, y).grads))(params)
        auto = jax.grad(norm_of(lambda p: jax.grad(nnjax.loss, 1)(net, p, x, y)))(params)
        assert max(map(float, jax.tree.leaves(relative_errors(hand, auto)))) < 1e-11

        def loss_after(eta):
            return nnjax.loss(net, nnjax.sgd_step(net, params, x, y, eta), x, y)

        slope = (loss_after(0.1 + 1e-5) - loss_after(0.1 - 1e-5)) / 2e-5
        np.testing.assert_allclose(jax.grad(loss_after)(0.1), slope, rtol=1e-8)


def test_scan_and_eval_shape():
    net = nnjax.mlp([3, 4, 2])
    params, x, y = Case(net, 4, "classes", 0).arrays(jnp.float32)
    scanned, _ = jax.lax.scan(
        lambda p, _: (nnjax.sgd_step(net, p, x, y, 0.5), None), params, length=3
    )
    for _ in range(3):
        params = nnjax.sgd_step(net, params, x, y, 0.5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), scanned, params)
    shapes = jax.eval_shape(partial(nnjax.backprop, net), params, x, y)
    assert [d.shape for d in shapes.errors] == [(4, 4), (4, 2)]


def test_equal_descriptions_do_not_retrace():
    traced = []

    @jax.jit
    def f(net, x):
        traced.append(net)
        return x

    f(nnjax.mlp([3, 4, 2], nnjax.LeakyReLU(0.1)), jnp.ones(1))
    f(nnjax.mlp([3, 4, 2], nnjax.LeakyReLU(0.1)), jnp.ones(1))
    assert len(traced) == 1
    f(nnjax.mlp([3, 4, 2], nnjax.LeakyReLU(0.2)), jnp.ones(1))
    assert len(traced) == 2


def test_no_gradient_of_single_examples_in_a_step():
    """The gradient of a batch is one contraction: no array as large as n times the weights."""
    net, n = nnjax.mlp([50, 40, 10]), 64
    params, x, y = Case(net, n, "classes", 0).arrays(jnp.float32)
    text = str(jax.make_jaxpr(lambda p: nnjax.sgd_step(net, p, x, y, 0.1))(params))
    assert f"[{n},40,50]" not in text
    assert f"[{n},50,40]" not in text
    compiled = jax.jit(lambda p: backprop(net, p, x, y).grads).lower(params).compile()
    memory = compiled.memory_analysis()
    assert memory is None or memory.temp_size_in_bytes < n * 40 * 50 * 4


def test_step_and_sign_say_that_they_have_no_derivative():
    for activation, smooth in ((nnjax.step, "sigmoid"), (nnjax.sign, "tanh")):
        net = nnjax.mlp([2, 3, 1], activation, nnjax.sigmoid)
        params = nnjax.init(net, jax.random.key(0))
        with pytest.raises(TypeError, match=f"no useful derivative.*use {smooth}"):
            nnjax.backprop(net, params, jnp.ones((1, 2)), jnp.ones((1, 1)))


def test_negative_eta():
    net = nnjax.mlp([3, 2])
    params, x, y = Case(net, 4, "classes", 0).arrays(jnp.float32)
    for eta in (-0.1, float("nan")):
        with pytest.raises(ValueError, match=r"eta is .*; expected a learning rate of at least 0"):
            nnjax.sgd_step(net, params, x, y, eta)


@pytest.mark.parametrize("call", [
    lambda net, params, x, y: nnjax.sgd_step(net, params, x, y, 0.1),
    nnjax.backprop,
    nnjax.loss,
    lambda net, params, x, y: nnjax.predict(net, params, x),
    lambda net, params, x, y: nnjax.feedforward(net, params, x),
], ids=["sgd_step", "backprop", "loss", "predict", "feedforward"])  # fmt: skip
def test_a_second_call_checks_reads_and_converts_nothing(call):
    """The detour before the compiled program is a handful of Python functions."""
    net = nnjax.mlp([3, 2])
    params, x, y = Case(net, 4, "classes", 0).arrays(jnp.float32)
    jax.block_until_ready(call(net, params, x, y))
    called = []

    def profile(frame, event, _):
        if event == "call":
            called.append(frame.f_code.co_name)

    sys.setprofile(profile)
    call(net, params, x, y)
    sys.setprofile(None)
    assert len(called) <= 12, called
    assert not {"check_batch", "asarray", "_value", "__array__", "__float__"} & set(called)


def test_what_only_values_tell_is_still_looked_at_in_every_call():
    net = nnjax.mlp([3, 2])
    params, x, y = Case(net, 4, "classes", 0).arrays(jnp.float32)
    broken = (params[0]._replace(w=params[0].w.tolist()),)
    for _ in range(2):
        nnjax.sgd_step(net, params, x, y, 0.1)
        with pytest.raises(ValueError, match="y holds the class 2; this network has 2 outputs"):
            nnjax.sgd_step(net, params, x, np.array([0, 1, 2, 0]), 0.1)
        for eta in (-0.1, np.float32(-0.1), jnp.float32(-0.1)):
            with pytest.raises(ValueError, match=r"eta is .*-0\.1"):
                nnjax.sgd_step(net, params, x, y, eta)
        with pytest.raises(TypeError, match="key is 0; expected a random key"):
            nnjax.sgd_step(net, params, x, y, 0.1, 0)  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match=r"params has the structure .*, but this network has"):
            nnjax.sgd_step(net, broken, x, y, 0.1)
