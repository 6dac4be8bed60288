"""Convolution by hand against `lax.conv_general_dilated`, its turned kernel, PyTorch and itself."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from lax_reference import by_autodiff, by_hand, hand, normal, pairs, quick
from strategies import random_params, relative_errors

import nnjax
from nnjax.descent import loss_and_gradient
from nnjax.layers.conv import Geometry, library, patches
from nnjax.layers.rows import places_per_row
from nnjax.layers.windows import fold, overlap_add
from nnjax.network import microbatch_size

TIGHT = 1e-11


GROUPS = st.sampled_from([1, 1, 2, 4])


@st.composite
def convolutions(draw):
    """Return (layer, input shape, batch size): H ≠ W, any kernel, stride to 3, any padding."""
    kernel = draw(pairs(1, 5))
    padding = draw(st.one_of(st.sampled_from(["same", "valid"]), pairs(0, 3)))
    dilation, groups = draw(st.sampled_from([(1, 1), (1, 1), (1, 2), (2, 1)])), draw(GROUPS)
    least = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    height, width = (max(size, low) for size, low in zip(draw(pairs(5, 11)), least, strict=True))
    filters, channels = (groups * draw(st.integers(1, 8 // groups)) for _ in range(2))
    stride = draw(pairs(1, 3))
    layer = nnjax.Conv(filters, kernel, stride, padding, dilation=dilation, groups=groups)
    return layer, (height, width, channels), draw(st.integers(1, 9))


def arrays(layer, in_shape, n, seed=0):
    w_shape, out_shape = layer.w_shape(in_shape), layer.out_shape(in_shape)
    params = nnjax.Affine(normal(seed, *w_shape), normal(seed + 1, *w_shape[:1]))
    return params, normal(seed + 2, n, *in_shape), normal(seed + 3, n, *out_shape)


@quick
def errors(layer, params, x, delta):
    """Return relative errors of z, ∂C/∂x, ∂C/∂w, ∂C/∂b: the layer's, and the other platforms'."""
    expected = by_autodiff(layer, params, x, delta)
    geometry = layer.geometry(x.shape)
    turned = (
        library.correlate(params.w, x, geometry) + params.b.reshape(1, 1, 1, -1),
        library.pull_back(params.w, delta, x.shape[1:], geometry),
        nnjax.Affine(library.weight_gradient(x, delta, geometry), expected[2].b),
    )
    return [relative_errors(c, expected) for c in (by_hand(layer, params, x, delta), turned)]


@given(convolutions())
def test_equals_autodiff_of_the_library(case):
    layer, in_shape, n = case
    with jax.enable_x64(True):
        found = errors(layer, *arrays(layer, in_shape, n))
        assert max(map(float, jax.tree.leaves(found))) <= TIGHT, found


@given(pairs(1, 4), pairs(4, 9), st.integers(1, 5), st.integers(1, 5))
def test_pull_back_is_full_correlation_with_the_turned_kernel(kernel, size, channels, filters):
    """Written out with scipy-like loops over places: no unfold, no fold, no library."""
    layer = nnjax.Conv(filters, kernel)
    with jax.enable_x64(True):
        params, x, delta = arrays(layer, (*size, channels), 1)
        _, g, grads = hand(layer, params, x, delta)
        w, x, delta = (np.asarray(array) for array in (params.w, x[0], delta[0]))
        (kh, kw), (oh, ow) = kernel, delta.shape[:2]
        full = np.pad(delta, ((kh - 1, kh - 1), (kw - 1, kw - 1), (0, 0)))
        turned = w[:, ::-1, ::-1]
        expected = np.zeros_like(x)
        for y in range(size[0]):
            for k in range(size[1]):
                window = full[y : y + kh, k : k + kw]
                expected[y, k] = np.einsum("ikj,jikc->c", window, turned)
        np.testing.assert_allclose(g[0], expected, rtol=TIGHT, atol=1e-13)
        for i in range(kh):
            for k in range(kw):
                correlated = np.einsum("yxj,yxc->jc", delta, x[i : i + oh, k : k + ow])
                np.testing.assert_allclose(grads.w[:, i, k], correlated, rtol=TIGHT, atol=1e-13)


@pytest.mark.slow
def test_gradients_of_one_example_and_of_a_batch():
    layer = nnjax.Conv(3, (2, 3), stride=2, padding=1)
    with jax.enable_x64(True):
        params, x, delta = arrays(layer, (6, 7, 2), 4)
        _, cache = jax.vmap(lambda a: layer.forward(params, a, None))(x)
        each = jax.vmap(layer.gradients)(cache, delta)
        batch = layer.gradients(cache, delta)
        summed = jax.tree.map(lambda g: jnp.sum(g, axis=0), each)
        assert max(map(float, jax.tree.leaves(relative_errors(summed, batch)))) <= TIGHT
        inputs = layer.inputs(cache)
        assert inputs.shape == (4, 16, 12)
        w = jnp.einsum("ntj,ntk->jk", delta.reshape(4, 16, 3), inputs)
        assert float(relative_errors(w.reshape(batch.w.shape), batch.w)) <= TIGHT


def test_wide_images_are_unfolded_the_same():
    geometry = Geometry((2, 3), (1, 2), ((0, 0), (1, 1)))
    with jax.enable_x64(True):
        x, w = normal(0, 2, 3, 160, 2), normal(1, 4, 2, 3, 2)
        expected = library.correlate(w, x, geometry)
        assert float(relative_errors(patches.correlate(w, x, geometry), expected)) <= TIGHT


@pytest.mark.parametrize(
    ("width", "filters", "channels", "stride", "places"),
    [
        pytest.param(14, 20, 1, 1, 4, marks=pytest.mark.slow),
        pytest.param(11, 20, 1, 1, 3, marks=pytest.mark.slow),
        pytest.param(12, 20, 1, 1, 2, marks=pytest.mark.slow),
        # 11 places: they cannot be shared out evenly
        pytest.param(13, 20, 1, 1, 1, marks=pytest.mark.slow),
        (17, 26, 1, 2, 2),  # 8 places, 4 of which would have too many outputs
        pytest.param(14, 20, 5, 1, 1, marks=pytest.mark.slow),  # many weights
    ],
)
def test_places_that_share_a_row_of_patches(width, filters, channels, stride, places):
    geometry = Geometry((2, 3), (1, stride), ((1, 0), (0, 0)))
    with jax.enable_x64(True):
        x, w = normal(0, 2, 4, width, channels), normal(1, filters, 2, 3, channels)
        assert places_per_row(w.shape, x.shape, geometry) == places
        z = library.correlate(w, x, geometry)
        delta = normal(2, *z.shape)
        gradient = library.weight_gradient(x, delta, geometry)
        found = relative_errors(
            (patches.correlate(w, x, geometry), patches.weight_gradient(x, delta, geometry)),
            (z, gradient),
        )
        assert max(map(float, found)) <= TIGHT, found


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_overlap_add_is_fold(n, size, stride):
    with jax.enable_x64(True):
        pieces = normal(0, 3, n, size, 2)
        for length in ((n - 1) * stride + size, (n - 1) * stride + size + 2):
            expected = np.zeros((3, length, 2))
            for y in range(n):
                expected[:, y * stride : y * stride + size] += pieces[:, y]
            folded = fold([pieces[:, :, i] for i in range(size)], -2, length, stride)
            added = overlap_add(pieces, -3, length, stride)
            assert max(map(float, relative_errors((folded, added), (expected,) * 2))) <= TIGHT


def test_other_platforms_get_the_library():
    layer, zeros = nnjax.Conv(17, 3), jnp.zeros
    params = nnjax.Affine(zeros((17, 3, 3, 1)), zeros(17))
    traced = jax.jit(by_hand, static_argnums=0).trace(
        layer, params, zeros((4, 6, 6, 1)), zeros((4, 4, 4, 17))
    )
    gpu, cpu = (traced.lower(lowering_platforms=(name,)).as_text() for name in ("cuda", "cpu"))
    assert gpu.count("stablehlo.convolution") == 3
    assert cpu.count("stablehlo.convolution") == 1  # forward, see test_ways


def test_equals_pytorch():
    torch = pytest.importorskip("torch")
    layer = nnjax.Conv(4, (3, 2), stride=(2, 1), padding=(1, 2))
    with jax.enable_x64(True):
        params, x, delta = arrays(layer, (7, 6, 3), 5)
        z, g, grads = hand(layer, params, x, delta)
    w = torch.tensor(np.asarray(params.w).transpose(0, 3, 1, 2), requires_grad=True)
    b = torch.tensor(np.asarray(params.b), requires_grad=True)
    images = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2), requires_grad=True)
    out = torch.nn.functional.conv2d(images, w, b, stride=(2, 1), padding=(1, 2))
    out.backward(torch.tensor(np.asarray(delta).transpose(0, 3, 1, 2).copy()))
    for ours, theirs in ((z, out.detach()), (g, images.grad), (grads.w, w.grad)):
        np.testing.assert_allclose(
            ours, theirs.numpy().transpose(0, 2, 3, 1), rtol=TIGHT, atol=1e-12
        )
    np.testing.assert_allclose(grads.b, b.grad.numpy(), rtol=TIGHT)


def test_shapes_and_parameters_of_the_book():
    net = nnjax.Network(
        (28, 28, 1),
        [nnjax.Conv(20, 5), nnjax.MaxPool(2), nnjax.Flatten(), nnjax.Dense(10)],
        nnjax.cross_entropy,
    )
    assert net.shapes == ((28, 28, 1), (24, 24, 20), (12, 12, 20), (2880,), (10,))
    params = random_params(net, 0)
    assert params[0].w.shape == (20, 5, 5, 1)
    assert params[0].b.shape == (20,)
    assert params[1] == ()


def test_fan_in_counts_the_kernel():
    layer = nnjax.Conv(400, 5)
    w = layer.init(jax.random.key(0), (8, 8, 4)).w
    assert float(jnp.std(w)) == pytest.approx(0.1, rel=0.02)  # 1 / √(25 · 4)


def test_equal_descriptions_are_equal():
    assert nnjax.Conv(8, 3, padding="valid") == nnjax.Conv(8, (3, 3), (1, 1), 0)
    assert hash(nnjax.Conv(8, [3, 3])) == hash(nnjax.Conv(8, 3))


def test_groups_in_words():
    net = nnjax.architecture.parse("conv8k3s2p1d2x1g4:tanh", (9, 9, 4), 2)
    layer = nnjax.Conv(8, 3, 2, 1, nnjax.tanh, dilation=(2, 1), groups=4)
    assert net.layers[0] == layer
    assert layer.word() == "conv8k3s2p1d2x1g4:tanh"
    assert nnjax.summary(net).layers[0].parameters == 8 * (3 * 3 * 1 + 1)
    with pytest.raises(TypeError, match="has 4 groups, each of which has inputs of its own"):
        layer.inputs(jnp.zeros((9, 9, 4)))


def test_same_padding_is_the_library_rule():
    for length in range(1, 9):
        for kernel in range(1, 6):
            for stride in range(1, 4):
                layer = nnjax.Conv(1, kernel, stride, "same")
                pads = lax.padtype_to_pads((length,), (kernel,), (stride,), "SAME")
                assert layer.geometry((length, length, 1)).margins[0] == tuple(pads[0])
                assert layer.out_shape((length, length, 1))[0] == -(-length // stride)


BOOK = "conv20k5 pool2 conv40k5 pool2 dense100"


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_a_mini_batch_in_pieces_gives_the_same(size, monkeypatch):
    net = nnjax.architecture.parse("conv2k3 dropout0.3 pool2 dense4 dropout0.5", (8, 8, 1), 3)
    with jax.enable_x64(True):
        params = random_params(net, 0, jnp.float64)
        x, y, key = normal(0, 7, 8, 8, 1), jnp.asarray([0, 1, 2, 0, 1, 2, 0]), jax.random.key(1)
        whole = nnjax.backprop(net, params, x, y, key)
        outputs = nnjax.feedforward(net, params, x, key)
        assert microbatch_size(net, 7) == 7
        # 7 examples: none and some left over
        monkeypatch.setattr(
            nnjax.network, "_PATCH_NUMBERS", size * net.layers[0].patch_numbers((8, 8, 1))
        )
        assert microbatch_size(net, 7) == size
        jax.clear_caches()
        found = loss_and_gradient(net, params, x, y, key)
        errors = relative_errors(found, (whole.loss, whole.grads))
        assert max(map(float, jax.tree.leaves(errors))) <= TIGHT, errors
        again = nnjax.feedforward(net, params, x, key)
        assert float(relative_errors(again, outputs)) <= TIGHT
        monkeypatch.undo()
        jax.clear_caches()


def test_pieces_divide_the_mini_batch_if_they_can():
    net = nnjax.architecture.parse(BOOK, (28, 28, 1), 10)
    sizes = {n: microbatch_size(net, n) for n in (10, 100, 101, 4096, 50_000)}
    assert sizes == {10: 10, 100: 25, 101: 26, 4096: 32, 50_000: 25}
    assert microbatch_size(nnjax.mlp([784, 30, 10]), 50_000) == 50_000
    vgg = nnjax.architecture.parse("conv64k3p1 conv64k3p1 pool2 dense10", (32, 32, 3), 10)
    assert [microbatch_size(vgg, n) for n in (1, 2, 3, 64)] == [1, 2, 2, 2]


def test_memory_of_a_large_mini_batch_is_that_of_a_piece():
    net = nnjax.architecture.parse(BOOK, (28, 28, 1), 10)
    params = jax.eval_shape(lambda: nnjax.init(net, jax.random.key(0)))
    x = jax.ShapeDtypeStruct((4096, 28, 28, 1), jnp.uint8)
    y = jax.ShapeDtypeStruct((4096,), jnp.int32)
    program = jax.jit(loss_and_gradient, static_argnums=0).lower(net, params, x, y).compile()
    assert program.memory_analysis().temp_size_in_bytes < 100e6  # all patches: 760 MB


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nnjax.Conv(0, 3), "filters of Conv is 0; expected an integer of at least 1"),
        (lambda: nnjax.Conv(4, 0), "kernel of Conv is 0; expected an integer of at least 1"),
        (lambda: nnjax.Conv(4, 2.5), "kernel of Conv is 2.5; expected an integer"),
        (lambda: nnjax.Conv(4, (3, 3, 3)), r"kernel of Conv is \(3, 3, 3\); expected an"),
        (lambda: nnjax.Conv(4, 3, stride=0), "stride of Conv is 0"),
        (lambda: nnjax.Conv(4, 3, padding=-1), "padding of Conv is -1; expected an integer of at"),
        (lambda: nnjax.Conv(4, 3, padding="full"), "padding of Conv is 'full'; expected 'same'"),
        (lambda: nnjax.Conv(4, 3, dilation=0), "dilation of Conv is 0"),
        (lambda: nnjax.Conv(4, 3, groups=0), "groups of Conv is 0"),
        (lambda: nnjax.Conv(4, 3, groups=3), "groups of Conv is 3, .* divide its 4 filters"),
        (
            lambda: nnjax.Conv(4, 3, groups=2).out_shape((8, 8, 3)),
            "groups of Conv is 2, which does not divide the 3 channels that come in",
        ),
        (
            lambda: nnjax.Conv(4, 3, dilation=2).out_shape((4, 9, 1)),
            "Conv has a kernel of 5x5, larger than the image of 4x9",
        ),
        (
            lambda: nnjax.Conv(4, 5).out_shape((4, 9, 1)),
            "Conv has a kernel of 5x5, larger than the image of 4x9",
        ),
        (
            lambda: nnjax.Conv(4, 5).out_shape((784,)),
            r"Conv takes an image \(height, width, channels\), but what comes in has the shape",
        ),
        (
            lambda: nnjax.Network(784, [nnjax.Conv(4, 5)], nnjax.cross_entropy),
            r"layers\[0\]: Conv takes an image",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_activation():
    with pytest.raises(TypeError, match="activation of Conv is 'relu'; expected an activation"):
        nnjax.Conv(4, 3, activation="relu")


def test_channels_that_do_not_match():
    net = nnjax.Network(
        (8, 8, 3), [nnjax.Conv(2, 3), nnjax.Flatten(), nnjax.Dense(2)], nnjax.cross_entropy
    )
    params = random_params(net, 0)
    with pytest.raises(ValueError, match=r"x has shape \(5, 8, 8, 1\); this network takes"):
        nnjax.feedforward(net, params, jnp.ones((5, 8, 8, 1)))


@pytest.mark.parametrize(
    ("layer", "w_shape", "shape", "message"),
    [
        (nnjax.Conv(4, 3), (4, 3, 3, 1), (8, 8, 3), r"w of Conv has shape \(4, 3, 3, 1\); for an "),
        (nnjax.Conv(4, 9), (4, 9, 9, 1), (8, 8, 1), "kernel of 9x9, larger than the image of 8x8"),
        (nnjax.Conv(4, 3), (4, 3, 3, 1), (64,), "Conv takes"),
        (nnjax.MaxPool(9), None, (8, 8, 1), "MaxPool of size 9x9 leaves nothing of an image"),
        (nnjax.MeanPool(9), None, (8, 8, 1), "MeanPool of size 9x9 leaves nothing of an image"),
        (nnjax.L2Pool(9), None, (8, 8, 1), "L2Pool of size 9x9 leaves nothing of an image"),
    ],
)
def test_a_layer_called_by_itself_refuses_too(layer, w_shape, shape, message):
    params = () if w_shape is None else nnjax.Affine(jnp.zeros(w_shape), jnp.zeros(w_shape[0]))
    with pytest.raises(ValueError, match=message):
        layer.forward(params, jnp.zeros(shape), None)


@pytest.mark.slow
def test_a_step_on_several_devices_is_the_step_on_one():
    """Each device works through pieces; the gradients are averaged over devices by `pmean`."""
    program = """
import jax, jax.numpy as jnp, nnjax
from jax.sharding import AxisType, PartitionSpec as P

net = nnjax.architecture.parse("conv20k5 pool2 conv4k3", (28, 28, 1), 10)
params = nnjax.init(net, jax.random.key(0))
x, y = jax.random.uniform(jax.random.key(1), (202, 28, 28, 1)), jnp.arange(202) % 10
mesh = jax.make_mesh((2,), ("n",), axis_types=(AxisType.Auto,))
def step(params, x, y):
    return jax.lax.pmean(nnjax.sgd_step(net, params, x, y, 0.1), "n")
specs = {"in_specs": (P(), P("n"), P("n")), "out_specs": P()}
several = jax.jit(jax.shard_map(step, mesh=mesh, **specs))(params, x, y)
one = nnjax.sgd_step(net, params, x, y, 0.1)
assert nnjax.network.microbatch_size(net, 101) < 101
print(max(jax.tree.leaves(jax.tree.map(lambda a, b: float(abs(a - b).max()), several, one))))
"""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    found = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | flags,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert float(found.stdout) < 1e-6
