"""Convolutions by oneDNN: when they are taken, what is said where they cannot be, the numbers."""

import importlib.metadata
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lax_reference import normal
from strategies import random_params, relative_errors

import nnjax
from nnjax.layers import onednn as module
from nnjax.layers import ways
from nnjax.layers.onednn import VARIABLE, onednn
from nnjax.layers.products import patches
from nnjax.layers.rows import Geometry
from nnjax.network import microbatch_size

PLAIN = Geometry((3, 2), (1, 2), ((1, 0), (0, 1)))
NET = nnjax.architecture.parse("conv16k3 pool2 conv3k2", (8, 8, 1), 3)


@pytest.fixture
def asked_for(monkeypatch):
    monkeypatch.setenv(VARIABLE, "onednn")


@pytest.fixture
def installed(asked_for):
    """Skip where oneDNN does not run, and say why."""
    try:
        module._register()
    except (ImportError, RuntimeError) as missing:
        pytest.skip(str(missing))


def test_the_ways_where_onednn_is_asked_for(asked_for):
    for channels, back in ((8, onednn), (7, patches)):
        shape, w_shape = (9, 9, channels), (6, 3, 2, channels)
        assert ways.forward_on_cpu(w_shape, PLAIN, jnp.float32) == ways.FewPlaces(onednn)
        assert ways.back_on_cpu(w_shape, shape, PLAIN, jnp.float32) is back
        assert ways.weights_on_cpu(shape, PLAIN, jnp.float32) is onednn
        for geometry, dtype in ((PLAIN, jnp.float64), (PLAIN._replace(groups=2), jnp.float32)):
            assert ways.forward_on_cpu(w_shape, geometry, dtype) is patches
            assert ways.back_on_cpu(w_shape, shape, geometry, dtype) is patches
            assert ways.weights_on_cpu(shape, geometry, dtype) is patches


def test_larger_pieces_of_the_mini_batch(monkeypatch):
    net = nnjax.architecture.parse("conv64k3same conv64k3same", (32, 32, 3), 10)
    assert microbatch_size(net, 64) == 2
    monkeypatch.setenv(VARIABLE, "onednn")
    assert microbatch_size(net, 64) == 16


@pytest.mark.parametrize("way", ["mkl", "1"])
def test_other_values_of_the_variable_are_refused(monkeypatch, way):
    monkeypatch.setenv(VARIABLE, way)
    with pytest.raises(ValueError, match=rf"^NNJAX_CONVOLUTIONS is '{way}'; expected 'onednn', "):
        ways.correlate(jnp.ones((3, 3, 2, 2)), jnp.ones((4, 5, 2)), PLAIN)


def no_package(monkeypatch):
    def files(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", files)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (
            lambda patch: patch.setattr(sys, "platform", "darwin"),
            r"which runs on Linux on x86-64 only, not on darwin on .*; unset NNJAX_CONVOLUTIONS",
        ),
        (
            lambda patch: patch.setattr(jax, "default_backend", lambda: "gpu"),
            r"which is for CPUs, and JAX computes on 'gpu'; unset NNJAX_CONVOLUTIONS, or set ",
        ),
        (
            no_package,
            r"which requires onednn-cpu-gomp: pip install .nnjax\[onednn\]., or unset NN",
        ),
    ],
)
def test_where_onednn_does_not_run(asked_for, monkeypatch, broken, sentence):
    if sys.platform != "linux" and "Linux" not in sentence:
        pytest.skip("oneDNN is refused here for the platform")
    broken(monkeypatch)
    module._register_once.cache_clear()
    with pytest.raises(
        (ImportError, RuntimeError), match=f"^NNJAX_CONVOLUTIONS is 'onednn', {sentence}"
    ):
        ways.correlate(jnp.ones((3, 3, 2, 2)), jnp.ones((4, 5, 2)), PLAIN)


def test_compilers_that_are_missing_or_fail(tmp_path, monkeypatch):
    arguments = tmp_path / "convolution.cc", [], tmp_path / "libdnnl.so.3", tmp_path / "out.so"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        RuntimeError, match=r"requires a C\+\+ compiler, and none of .*; install one"
    ):
        module._compile(*arguments)
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho no such header >&2\nexit 1\n")
    compiler.chmod(0o700)
    with pytest.raises(RuntimeError, match=r"/c\+\+ could not compile convolution.cc; unset .*"):
        module._compile(*arguments)


@pytest.mark.parametrize(
    ("images", "filters", "geometry"),
    [
        ((5, 7, 8, 3), 4, PLAIN),
        ((3, 9, 9, 16), 32, Geometry((3, 3), (1, 1), ((1, 1), (1, 1)))),
        ((2, 3, 11, 10, 6), 5, Geometry((3, 3), (2, 1), ((2, 1), (0, 2)), (2, 2))),
        ((12, 12, 20), 40, Geometry((5, 5), (1, 1), ((0, 0), (0, 0)))),
    ],
)
def test_the_products_are_those_of_patches(installed, images, filters, geometry):
    a, w = normal(0, *images), normal(1, filters, *geometry.kernel, images[-1])
    delta = normal(2, *images[:-3], *geometry.places(images), filters)
    a, w, delta = (np.float32(array) for array in (a, w, delta))

    def products(way, a, w, delta):
        return (
            way.correlate(w, a, geometry),
            way.pull_back(w, delta, images[-3:], geometry),
            way.weight_gradient(a, delta, geometry),
        )

    found, expected = (
        jax.jit(products, static_argnums=0)(way, a, w, delta) for way in (onednn, patches)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5)


def test_no_images(installed):
    a, delta, w = jnp.zeros((0, 7, 8, 3)), jnp.zeros((0, 6, 4, 4)), jnp.ones((4, 3, 2, 3))
    assert onednn.correlate(w, a, PLAIN).shape == delta.shape
    assert onednn.pull_back(w, delta, (7, 8, 3), PLAIN).shape == a.shape
    np.testing.assert_array_equal(onednn.weight_gradient(a, delta, PLAIN), jnp.zeros(w.shape))


def test_few_places_take_patches(installed):
    """At up to two places for each map, as with the library (`nnjax.layers.ways.FewPlaces`)."""
    w, geometry = jnp.ones((20, 3, 3, 6)), Geometry((3, 3), (1, 1), ((0, 0), (0, 0)))
    for n, calls in ((2, 0), (3, 1)):  # of 20 places each
        images = jnp.ones((n, 6, 7, 6))
        program = jax.jit(lambda a: ways.correlate(w, a, geometry)).lower(images)
        assert program.as_text().count("@nnjax_onednn_forward") == calls


def test_training_and_derivatives(installed):
    """Several steps in one program, with donated parameters; vmap, grad and jvp of the loss."""
    params, tangent = random_params(NET, 0), random_params(NET, 1)
    x, y = jnp.float32(normal(0, 3, 2, 8, 8, 1)), jnp.array([[0, 1], [2, 0], [1, 1]])

    def everything(params):
        def step(params, batch):
            x, y = batch
            return nnjax.sgd_step(NET, params, x, y, 0.5), None

        def loss(params, x=x[0]):
            return nnjax.loss(NET, params, x, y[0])

        several = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), params)
        return (
            jax.lax.scan(step, params, (x, y))[0],
            jax.vmap(loss, (None, 0))(params, x),
            jax.vmap(loss)(several),
            jax.jvp(jax.grad(loss), (params,), (tangent,)),
        )

    def result():
        return jax.jit(lambda params: everything(params), donate_argnums=0)(
            jax.tree.map(jnp.copy, params)
        )

    program = jax.jit(lambda p: everything(p)[0]).lower(params).as_text()
    # forward twice, BP4 twice, and BP2 of the layer with 16 channels
    assert program.count("@nnjax_onednn_") == 5
    found = result()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(VARIABLE)
        jax.clear_caches()
        expected = result()
    jax.clear_caches()
    errors = relative_errors(found, expected)
    assert max(map(float, jax.tree.leaves(errors))) <= 1e-5, errors


def test_what_is_compiled_is_kept_and_checked(tmp_path, monkeypatch):
    """A kept file that is not whole is made again; none is taken where others could write."""
    compiled = []

    def compile_(source, folders, library, out):
        compiled.append(source.read_text())
        out.write_bytes(b"whole")

    monkeypatch.setattr(module, "_compile", compile_)
    monkeypatch.setattr(module, "caches", lambda: tmp_path)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1")
    monkeypatch.setattr(module.ctypes, "CDLL", lambda file: libraries(Path(file)))
    foreign = False

    def libraries(file):
        if foreign and file.parent.name == "native":
            raise OSError("version GLIBCXX_3.4.32 not found")
        return file.read_bytes()

    def load():
        assert module._compiled(tmp_path / "libdnnl.so.3", tmp_path) == b"whole"
        return len(compiled), [kept.read_bytes() for kept in (tmp_path / "native").iterdir()]

    assert [load(), load()] == [(1, [b"whole"]), (1, [b"whole"])]
    (kept,) = (tmp_path / "native").iterdir()
    kept.write_bytes(b"half")
    assert load() == (2, [b"whole"])
    foreign = True
    assert load() == (3, [b"whole"])
    foreign = False
    (tmp_path / "native").chmod(0o777)
    assert load() == (4, [b"whole"])
