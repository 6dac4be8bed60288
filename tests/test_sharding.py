"""Sharded arrays: under Explicit and Auto axes, and over a mesh, all numbers are those of a device.

The devices are made in a process of their own: JAX counts them once, when it starts.
"""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import nnjax
from nnjax.sharding import automatic
from nnjax.training.devices import require_mesh

BEGIN = """
import jax, numpy as np, nnjax, optax
from jax.sharding import AxisType, PartitionSpec as P
from nnjax.training import optimizers
rng, key = np.random.default_rng(0), jax.random.key(1)
x = rng.integers(0, 256, (8, 6, 6, 1), dtype=np.uint8)
y = rng.integers(0, 3, 8).astype(np.int32)
def same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if not jax.numpy.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
"""

UNDER_A_MESH = """
from nnjax import curvature, per_example
def results(net, x, y):
    params = nnjax.init(net, jax.random.key(0))
    bp = nnjax.backprop(net, params, x, y)
    yield bp
    yield nnjax.backprop(net, params, x, y, key).grads
    yield nnjax.sgd_step(net, params, x, y, 0.5)
    yield nnjax.evaluate(net, params, x, y), nnjax.predict(net, params, x)
    if FULL:
        yield jax.grad(nnjax.loss, argnums=1)(net, params, x, y)
        yield per_example.squared_norms(net, params, bp), per_example.gram(net, params, bp)
        yield per_example.clipped_gradient(net, params, bp, 1.0)
        yield nnjax.backward(net, params, bp, bp.errors[-1][None])
        yield curvature.kronecker_factors(net, params, bp)
        yield curvature.ggn_vector_product(net, params, bp, params)
    data = nnjax.data.Dataset((x, y), (x, y), None)
    state, history = nnjax.train(
        net, data, optimizer=optax.sgd(0.5), epochs=1, batch_size=3, key=key
    )
    yield state, history["validation_loss"]
for words in NETS:
    net = nnjax.architecture.parse(words, (6, 6, 1), 3)
    expected = list(results(net, x, y))
    for name in KINDS:
        kind = AxisType[name]
        with jax.set_mesh(jax.make_mesh((2,), ("data",), axis_types=(kind,))):
            on_devices = [jax.device_put(a, P("data")) for a in (x, y)]
            got = list(results(net, *on_devices))
            if name == "Explicit":
                assert jax.typeof(got[0].errors[0]).sharding.spec[0] == "data"
        same(expected, got)
"""

OVER_A_MESH = """
net = nnjax.architecture.parse("dense6 dropout0.5 dense4", (36,), 3)
data = nnjax.data.Dataset((x, y), (x, y), None)
settings = dict(
    optimizer=optimizers.by_name("momentum", 0.1), epochs=2, batch_size=3, key=key,
    regularizer=nnjax.regularizers.L2(1.0),
)
expected, history = nnjax.train(net, data, **settings)
for shape, names in MESHES:
    mesh = jax.make_mesh(shape, names)
    half, _ = nnjax.train(net, data, **{**settings, "epochs": 1}, mesh=mesh)
    if len(shape) == 2:
        assert half.params[0].w.sharding.spec == P("neurons")
    state, got = nnjax.train(net, data, **settings, mesh=mesh, state=half)
    same(expected, state)
    np.testing.assert_allclose(got["validation_loss"], history["validation_loss"][1:], rtol=1e-4)
"""


OPERATIONS_UNDER_A_MESH = """
def loss(x, w):
    return (nnjax.ops.max_pool(nnjax.ops.conv(x, w, 1, "same"), 2) ** 2).sum()
images = rng.normal(size=(8, 6, 6, 2)).astype(np.float32)
w = rng.normal(size=(16, 3, 3, 2)).astype(np.float32)
expected = jax.grad(loss, (0, 1))(images, w)
nnjax.network._PATCH_NUMBERS = 1  # no more than two images at once on one device
for name in KINDS:
    with jax.set_mesh(jax.make_mesh((4,), ("data",), axis_types=(AxisType[name],))):
        on_devices = jax.device_put(images, P("data")), jax.device_put(w, P())
        grad = jax.jit(jax.grad(loss, (0, 1)))
        same(expected, jax.grad(loss, (0, 1))(*on_devices))
        of_images, of_w = grad(*on_devices)
        same(expected, (of_images, of_w))
        assert of_images.sharding.spec[0] == "data"
        assert "all-gather" not in grad.lower(*on_devices).compile().as_text()
"""


CURVATURE_UNDER_A_MESH = """
from nnjax import curvature
net = nnjax.architecture.parse("dense4", (36,), 3)
params = nnjax.init(net, jax.random.key(0))
def product(x, y, weights):
    bp = nnjax.backprop(net, params, x, y, weights=weights)
    return curvature.ggn_vector_product(net, params, bp, params)
weights = np.linspace(0, 2, 8, dtype=np.float32)
expected = product(x, y, weights)
with jax.set_mesh(jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))):
    on_devices = [jax.device_put(a, P("data")) for a in (x, y, weights)]
    same(expected, product(*on_devices))
    same(expected, jax.jit(product)(*on_devices))
"""


OPERATIONS_IN_A_SHARD_MAP = """
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
for channels in CHANNELS:
    images = rng.integers(-2, 3, (8, 6, 6, channels)).astype(np.float32)  # all sums are exact
    w = rng.integers(-2, 3, (16, 3, 3, channels)).astype(np.float32)
    def loss(w, x):
        return (nnjax.ops.conv(x, w, 1, "same") ** 2).sum()
    def total(w, x):
        return jax.lax.psum(loss(w, x), "data")
    def mapped(f, out):
        return jax.shard_map(f, mesh=mesh, in_specs=(P(), P("data")), out_specs=out)
    expected = jax.grad(loss, (0, 1))(w, images)
    same(expected, mapped(jax.grad(total, (0, 1)), (P(), P("data")))(w, images))
    same(expected, jax.grad(mapped(total, P()), (0, 1))(w, images))
    swapped = jax.shard_map(
        jax.grad(total, (0, 1)), mesh=mesh, in_specs=(P("data"), P()), out_specs=(P("data"), P())
    )
    own = [jax.grad(loss, (0, 1))(part, images) for part in np.split(w, 4)]
    same((np.concatenate([g for g, _ in own]), sum(g for _, g in own)), swapped(w, images))
"""


EACH_ITS_SHARE = """
from functools import partial
from nnjax.training.shares import batches_of, own_examples, placed_data, whole
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
x, y = rng.integers(0, 256, (4003, 100), dtype=np.uint8), np.arange(4003)
data = nnjax.data.Dataset((x, y), None, None)
shared = placed_data(mesh, own_examples(mesh, data), data)
assert {shard.data.shape for shard in shared.train[0].rows.addressable_shards} == {(1001, 100)}
order = rng.permutation(4003)
np.testing.assert_array_equal(jax.jit(whole)(shared).train[1], y)
for size, taken in ((40, 2.3), (42, 0.6)):  # even, or looked up when their turn comes
    @jax.jit
    def epoch(train, order):
        batches, pick = batches_of(mesh, train, size, order)
        return pick(*jax.tree.map(lambda a: a[7], batches.full)), pick(*batches.rest)
    full, rest = epoch(shared.train, order)
    at = order[7 * size : 8 * size]
    same(full, (x[at], y[at]))
    at = order[4003 - 4003 % size :]
    same(rest, (x[at], y[at]))
    @jax.jit
    def total(train, order):
        batches, pick = batches_of(mesh, train, size, order)
        add = lambda carry, rows: (carry + pick(*rows)[0].sum(), None)
        return jax.lax.scan(add, 0, batches.full)[0]
    memory = total.lower(shared.train, order).compile().memory_analysis()
    assert memory.temp_size_in_bytes < taken * x.nbytes / 4, memory.temp_size_in_bytes / x.nbytes
"""


def run(code, **names):
    begin = BEGIN + "".join(f"{name} = {value!r}\n" for name, value in names.items())
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", begin + code], env={**os.environ, **flags}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]


@pytest.mark.slow
def test_everything_works_under_a_mesh():
    run(UNDER_A_MESH, NETS=["dense4"], KINDS=["Explicit"], FULL=False)


@pytest.mark.parametrize("kind", ["Explicit", pytest.param("Auto", marks=pytest.mark.slow)])
def test_operations_work_under_a_mesh_and_keep_to_their_devices(kind):
    run(OPERATIONS_UNDER_A_MESH, KINDS=[kind])


def test_products_with_the_gauss_newton_matrix_work_under_a_mesh():
    run(CURVATURE_UNDER_A_MESH)


@pytest.mark.parametrize(
    "channels",
    [pytest.param(1, id="patches", marks=pytest.mark.slow), pytest.param(16, id="library")],
)
def test_operations_have_a_gradient_in_a_shard_map(channels):
    """Where kernels are shared, and where images are: both gradients are sums over the devices."""
    run(OPERATIONS_IN_A_SHARD_MAP, CHANNELS=[channels])


def test_every_device_holds_its_share_of_the_examples():
    run(EACH_ITS_SHARE)


@pytest.mark.slow
def test_every_quantity_and_layer_works_under_a_mesh():
    nets = ["dense4", "conv2k3 pool2 dense4 dropout0.5"]
    run(UNDER_A_MESH, NETS=nets, KINDS=["Explicit", "Auto"], FULL=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param(((2, 2), ("data", "neurons")), id="data-and-neurons"),
        pytest.param(((1, 2), ("data", "neurons")), id="neurons"),
        pytest.param(((4,), ("data",)), id="data"),
    ],
)
def test_training_over_a_mesh_gives_the_numbers_of_one_device(mesh):
    run(OVER_A_MESH, MESHES=[mesh])


@pytest.mark.parametrize(
    ("mesh", "error", "sentence"),
    [
        (4, TypeError, r"mesh is 4; expected a jax.sharding.Mesh such as jax.make_mesh"),
        (
            jax.make_mesh((1, 1, 1), ("a", "b", "c")),
            ValueError,
            r"mesh has the axes \('a', 'b', 'c'\); expected one for the examples",
        ),
    ],
    ids=["number", "three-axes"],
)
def test_what_is_not_a_mesh_is_refused(mesh, error, sentence):
    with pytest.raises(error, match=sentence):
        require_mesh(mesh)


def test_automatic_takes_keywords():
    assert automatic(lambda a, b: a - b)(b=1, a=3) == 2
    assert automatic(lambda a, b=2, c=0: a - b + c)(3, c=5) == 6


def test_the_jitted_body_takes_weights_by_keyword():
    net = nnjax.mlp([3, 2])
    params = nnjax.init(net, jax.random.key(0))
    x, y, weights = jnp.eye(3), jnp.array([0, 1, 1]), jnp.array([2.0, 0.0, 1.0])
    expected = nnjax.loss(net, params, x, y, weights=weights)
    assert nnjax.loss.unchecked(net, params, x, y, weights=weights) == expected
