"""Which way a convolution is computed, read off the program; and derivatives of what was chosen."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from lax_reference import normal, quick
from strategies import random_params, relative_errors

import nnjax
from nnjax.layers import ways
from nnjax.layers.products import in_order, library, patches
from nnjax.layers.rows import Geometry
from nnjax.layers.ways import FewPlaces

FEW = FewPlaces(library)
PLAIN = Geometry((3, 2), (1, 2), ((1, 0), (0, 1)))
NET = nnjax.architecture.parse("conv17k3 pool2 conv3k2", (12, 12, 1), 3)


@pytest.mark.parametrize(
    ("w_shape", "geometry", "dtypes", "way"),
    [
        ((20, 3, 2, 1), PLAIN, ["float32", "float32"], FEW),
        ((64, 1, 1, 16), Geometry((1, 1), (1, 1), ((0, 0), (0, 0))), ["float32"], FEW),
        ((20, 11, 11, 3), Geometry((11, 11), (1, 1), ((5, 5), (5, 5))), ["float32"], FEW),
        ((20, 3, 2, 1), PLAIN._replace(dilation=(2, 2)), ["float32", "float32"], FEW),
        ((6, 3, 2, 1), PLAIN, ["float32", "float32"], patches),  # few maps of few channels
        ((16, 3, 2, 5), PLAIN, ["float32", "float32"], patches),
        ((17, 3, 2, 5), PLAIN, ["float32", "float32"], FEW),
        ((6, 3, 2, 6), PLAIN, ["float32", "float32"], FEW),
        ((20, 3, 2, 1), PLAIN._replace(groups=2), ["float32", "float32"], patches),
        ((20, 3, 2, 1), PLAIN, ["float64", "float64"], patches),
        ((20, 3, 2, 1), PLAIN, ["bfloat16", "bfloat16"], patches),
        ((20, 3, 2, 1), PLAIN, ["float32", "float16"], patches),
    ],
)
def test_the_way_of_the_forward_pass_on_cpus(w_shape, geometry, dtypes, way):
    assert ways.forward_on_cpu(w_shape, geometry, *map(jnp.dtype, dtypes)) == way


SAME = Geometry((3, 3), (1, 1), ((1, 1), (1, 1)))
WIDE = Geometry((7, 7), (1, 1), ((3, 3), (3, 3)))


@pytest.mark.parametrize(
    ("geometry", "in_shape", "back", "weights"),
    [
        (SAME, (32, 32, 64), library, patches),
        (SAME, (32, 32, 3), patches, patches),  # too few channels
        (WIDE, (24, 24, 16), library, in_order),
        (WIDE, (28, 28, 1), patches, patches),
        (WIDE._replace(margins=((0, 0), (0, 0))), (14, 14, 16), patches, in_order),
        (Geometry((5, 5), (1, 1), ((0, 0), (0, 0))), (12, 12, 20), patches, patches),
        (Geometry((3, 3), (1, 1), ((0, 0), (0, 0))), (32, 32, 32), library, patches),
        (WIDE._replace(stride=(2, 2)), (32, 32, 64), patches, patches),
        (WIDE._replace(dilation=(2, 2)), (32, 32, 64), patches, patches),
        (WIDE._replace(groups=2), (32, 32, 64), patches, patches),
    ],
)
def test_the_ways_back_on_cpus(geometry, in_shape, back, weights):
    w_shape = (20, *geometry.kernel, in_shape[-1])
    assert ways.back_on_cpu(w_shape, in_shape, geometry, jnp.float32) is back
    assert ways.weights_on_cpu(in_shape, geometry, jnp.float32) is weights
    assert ways.back_on_cpu(w_shape, in_shape, geometry, jnp.float64) is patches
    assert ways.weights_on_cpu(in_shape, geometry, jnp.float64) is patches


@pytest.mark.parametrize("asked_for", ["", "onednn"])
def test_few_channels_go_back_by_the_library_in_long_windows_on_large_images(
    asked_for, monkeypatch
):
    monkeypatch.setenv("NNJAX_CONVOLUTIONS", asked_for)

    def way(size=24, maps=32, channels=3, geometry=WIDE):
        w_shape = maps, *geometry.kernel, channels
        return ways.back_on_cpu(w_shape, (size, size, channels), geometry, jnp.float32)

    assert way() is way(channels=7) is way(size=100, maps=100) is ways.many_images
    assert way(size=23) is way(maps=31) is way(channels=2) is patches
    assert way(geometry=SAME, channels=7) is patches  # 63 numbers
    assert way(geometry=WIDE._replace(stride=(2, 2))) is patches
    assert way(geometry=WIDE._replace(margins=((0, 0), (0, 0)))) is patches


def test_the_library_for_few_channels_of_many_images():
    """Of all images of a call together, whether `jax.vmap` made a batch of them or not."""
    delta = normal(0, 8, 32, 32, 32).astype("float32")
    w = normal(1, 32, 7, 7, 3).astype("float32")

    def back(delta):
        return ways.pull_back(w, delta, (32, 32, 3), WIDE)

    expected = patches.pull_back(w, delta, (32, 32, 3), WIDE)
    for f in (back, jax.vmap(back)):
        assert convolutions(f, delta) == 1
        assert convolutions(f, delta[:7]) == 0
        assert float(relative_errors(jax.jit(f)(delta), expected)) <= 1e-5
    n = jax.export.symbolic_shape("n")[0]
    shape = jax.ShapeDtypeStruct((n, *delta.shape[1:]), "float32")
    program = jax.export.export(jax.jit(back))(shape)
    assert float(relative_errors(program.call(delta[:2]), expected[:2])) <= 1e-5


def test_the_products_back_are_those_of_the_library():
    """In float64, with strides and dilation; and as chosen for float32, with vmap and jvp of it."""
    with jax.enable_x64(True):
        geometry = Geometry((3, 2), (1, 2), ((1, 0), (0, 1)), (2, 1))
        a, delta = normal(0, 4, 7, 8, 3), normal(1, 4, 4, 4, 5)
        found = in_order.weight_gradient(a, delta, geometry)
        expected = library.weight_gradient(a, delta, geometry)
        assert float(relative_errors(found, expected)) <= 1e-12
    a, delta = (jnp.float32(normal(seed, 2, 3, 7, 7, 16)) for seed in (2, 3))
    w = jnp.float32(normal(4, 16, 7, 7, 16))

    def back(ways, a, delta):
        return (
            ways.pull_back(w, delta, (7, 7, 16), WIDE),
            ways.weight_gradient(a, delta, WIDE),
        )

    def slopes(ways):
        of_all = jax.jvp(jax.vmap(lambda *args: back(ways, *args)), (a, delta), (delta, a))
        return of_all, jax.jvp(lambda a: back(ways, a, delta[0]), (a[0],), (delta[0],))

    errors = relative_errors(*(jax.jit(slopes, static_argnums=0)(way) for way in (ways, library)))
    assert max(map(float, jax.tree.leaves(errors))) <= 1e-5, errors


def convolutions(f, *args):
    """Return how many convolutions of the library are in a program for CPUs."""
    lowered = jax.jit(f).trace(*args).lower(lowering_platforms=("cpu",))
    return lowered.as_text().count("stablehlo.convolution")


def test_programs_for_cpus_hold_the_library_where_only_the_forward_pass_is_wanted():
    params = random_params(NET, 0)
    x, y = jnp.ones((2, 12, 12, 1)), jnp.array([0, 1])

    def loss(params):
        return nnjax.loss(NET, params, x, y)

    # a backward pass makes patches for BP4, and the forward pass takes them too
    assert convolutions(lambda p: nnjax.backprop(NET, p, x, y), params) == 0
    assert convolutions(lambda p: nnjax.sgd_step(NET, p, x, y, 0.1), params) == 0
    assert convolutions(loss, params) == 2
    assert convolutions(jax.grad(loss), params) == 2
    stacked = jax.tree.map(lambda p: jnp.stack([p] * 3), params)
    # all networks see the same images, but the second layer of each sees its own
    assert convolutions(jax.vmap(loss), stacked) == 0
    shared = jax.vmap(lambda x: nnjax.feedforward(NET, params, x))
    assert convolutions(shared, jnp.ones((3, *x.shape))) == 2


def test_few_places_take_patches():
    """Places of all images of a call together, whether `jax.vmap` made a batch of them or not."""
    w, geometry = normal(0, 20, 3, 3, 6).astype("float32"), SAME._replace(margins=((0, 0), (0, 0)))

    def correlate(a):
        return ways.correlate(w, a, geometry)

    for n, library_calls in ((1, 0), (2, 0), (3, 1)):  # of 20 places each; 2 * 20 are few
        a = normal(1, n, 6, 7, 6).astype("float32")
        assert convolutions(correlate, a) == library_calls
        assert convolutions(jax.vmap(correlate), a) == library_calls
        expected = library.correlate(w, a, geometry)
        assert float(relative_errors(jax.vmap(correlate)(a), expected)) <= 1e-5
    assert convolutions(correlate, a[0]) == 0
    n = jax.export.symbolic_shape("n")[0]
    program = jax.export.export(jax.jit(jax.vmap(correlate)))(
        jax.ShapeDtypeStruct((n, 6, 7, 6), "float32")
    )
    for n in (1, 3):
        errors = relative_errors(program.call(a[:n]), library.correlate(w, a[:n], geometry))
        assert float(errors) <= 1e-5


def test_derivatives_of_the_library_on_cpus(monkeypatch):
    """Forward mode, reverse mode and both, in the order either way, in float64."""
    monkeypatch.setattr(ways, "forward_on_cpu", lambda *args: library)
    with jax.enable_x64(True):
        w, a = normal(0, 4, 3, 2, 2), normal(1, 3, 5, 6, 2)
        dw, da = normal(2, *w.shape), normal(3, *a.shape)

        def all_modes(correlate, w, a):
            def f(w, a):
                return jnp.sum(jnp.tanh(correlate(w, a, PLAIN)) ** 2)

            def slope(w, a):
                return jax.jvp(f, (w, a), (dw, da))[1]

            gradient = jax.grad(f, (0, 1))
            return (
                f(w, a),
                jax.jvp(lambda w: f(w, a), (w,), (dw,))[1],
                gradient(w, a),
                jax.jvp(gradient, (w, a), (dw, da))[1],
                jax.grad(slope, (0, 1))(w, a),
            )

        found, expected = (
            quick(all_modes)(correlate, w, a) for correlate in (ways.correlate, library.correlate)
        )
        errors = relative_errors(found, expected)
        assert max(map(float, jax.tree.leaves(errors))) <= 1e-12, errors


def test_networks_with_weights_of_their_own():
    ws, a = jnp.float32(normal(0, 3, 4, 3, 2, 2)), jnp.float32(normal(1, 3, 5, 6, 2))
    for axes, several in (((0, None), a), ((0, 0), jnp.stack([a, 2 * a, -a]))):
        found = jax.vmap(lambda w, a: ways.correlate(w, a, PLAIN), axes)(ws, several)
        for i, w in enumerate(ws):
            each = library.correlate(w, a if axes[1] is None else several[i], PLAIN)
            assert float(relative_errors(found[i], each)) <= 1e-6


def test_export_with_a_symbolic_batch():
    params = random_params(NET, 0)
    (n,) = jax.export.symbolic_shape("n")
    x = jax.ShapeDtypeStruct((n, 12, 12, 1), jnp.float32)
    exported = jax.export.export(jax.jit(lambda x: nnjax.feedforward(NET, params, x)))(x)
    images = jnp.float32(normal(0, 5, 12, 12, 1))
    found = exported.call(images)
    assert float(relative_errors(found, nnjax.feedforward(NET, params, images))) <= 1e-6


@pytest.mark.parametrize("way", [patches, library], ids=["patches", "library"])
def test_bp4_adds_up_beyond_float16(way):
    """Which ends at 65,504: 1000 examples with 4 places of 100 each come to 400,000."""
    a, delta = jnp.ones((1000, 3, 3, 1), jnp.float16), jnp.full((1000, 2, 2, 1), 100, jnp.float16)
    geometry = Geometry((2, 2), (1, 1), ((0, 0), (0, 0)))
    g = way.weight_gradient(a, delta, geometry)
    assert g.dtype == jnp.float32
    np.testing.assert_array_equal(g, np.full((1, 2, 2, 1), 400_000))
    of_delta = jax.grad(lambda delta: way.weight_gradient(a, delta, geometry).sum())(delta)
    np.testing.assert_array_equal(of_delta, np.full(delta.shape, 4))
