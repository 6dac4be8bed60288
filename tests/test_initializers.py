"""Initializers: the spread that each promises, for dense and for convolutional shapes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnjax
from nnjax import initializers

WIDE = nnjax.mlp([400, 300])


def start(initializer, net=None):
    net = net or nnjax.mlp([400, 300], initializer=initializer)
    return nnjax.init(net, jax.random.key(0))[0]


@pytest.mark.parametrize(
    ("initializer", "w_std", "b_std"),
    [
        (initializers.default, 400**-0.5, 1.0),
        (initializers.large, 1.0, 1.0),
        (initializers.he, (2 / 400) ** 0.5, 0.0),
        (initializers.glorot, (2 / 700) ** 0.5, 0.0),
    ],
)
def test_spread(initializer, w_std, b_std):
    w, b = start(initializer)
    np.testing.assert_allclose(jnp.std(w), w_std, rtol=0.01)
    assert abs(float(jnp.mean(w))) < 0.02 * w_std
    np.testing.assert_allclose(jnp.std(b), b_std, rtol=0.1)


def test_n_in_of_a_convolution_is_channels_times_kernel_area():
    w = initializers.default.weights(jax.random.key(0), (200, 5, 3, 7), jnp.float32)
    np.testing.assert_allclose(jnp.std(w), (5 * 3 * 7) ** -0.5, rtol=0.02)


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
@pytest.mark.parametrize("shape", [(7, 5), (4, 3, 2, 5), (1025, 1)])
def test_numbers_are_those_of_the_initializers_of_jax(distribution, shape):
    for mode in ("fan_in", "fan_out", "fan_avg"):
        ours = initializers.VarianceScaling(2.0, mode, distribution)
        theirs = jax.nn.initializers.variance_scaling(2.0, mode, distribution, -1, 0)
        drawn = (rule(jax.random.key(3), shape, jnp.float32) for rule in (ours, theirs))
        np.testing.assert_allclose(*drawn, rtol=3e-7)  # newer versions of jax round once less


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("n", [1, 6, 1024, 1025])
def test_normal_numbers_are_those_of_jax_bit_for_bit(dtype, n):
    normal = initializers.Normal(0.3)(jax.random.key(3), (n,), dtype)
    by_jax = jax.random.normal(jax.random.key(3), (n,), dtype) * jnp.asarray(0.3, dtype)
    np.testing.assert_array_equal(normal, by_jax)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_split_is_that_of_jax(n):
    keys = initializers.split(jax.random.key(1), n)
    assert len(keys) == n
    data = [jax.random.key_data(key) for key in keys]
    np.testing.assert_array_equal(data, jax.random.key_data(jax.random.split(jax.random.key(1), n)))


def test_split_refuses_what_is_no_key_or_no_number_of_keys():
    with pytest.raises(TypeError, match=r"key is .*; expected a random key such as jax.random.key"):
        initializers.split(0, 2)
    with pytest.raises(ValueError, match="n is 0; expected"):
        initializers.split(jax.random.key(0), 0)


def test_numbers_that_depend_on_how_many_there_are_are_those_of_jax_too():
    rule = initializers.Normal(0.3)
    key = jax.random.key(3, impl="rbg")
    by_jax = jax.random.normal(key, (7,), jnp.float32) * np.float32(0.3)
    np.testing.assert_array_equal(rule(key, (7,), jnp.float32), by_jax)
    with jax.threefry_partitionable(False):
        key = jax.random.key(3)
        by_jax = jax.random.normal(key, (7,), jnp.float32) * np.float32(0.3)
        np.testing.assert_array_equal(rule(key, (7,), jnp.float32), by_jax)


def test_arrays_of_about_one_size_share_their_random_numbers_program():
    rule = initializers.default.weights
    key = jax.random.key(0)
    initializers.draw(rule, key, (3, 7), jnp.float32)
    programs = initializers._row._cache_size()
    for shape in ((5, 4), (2, 3, 3, 1)):
        initializers.draw(rule, key, shape, jnp.float32)
    assert initializers._row._cache_size() == programs


def test_a_rule_of_ones_own_is_called():
    @dataclasses.dataclass(frozen=True)
    class Positive(initializers.Normal):
        def __call__(self, key, shape, dtype):
            return abs(super().__call__(key, shape, dtype))

    rules = [Positive(0.3), lambda key, shape, dtype: jax.random.uniform(key, shape, dtype)]
    for rule in rules:
        start = initializers.Initializer(rule, rule)
        layer, *_ = nnjax.init(nnjax.mlp([4, 3], initializer=start), jax.random.key(0))
        assert min(np.min(layer.w), np.min(layer.b)) >= 0


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
def test_numbers_are_drawn_in_one_row(mode):
    for rule in (initializers.VarianceScaling(1.0, mode, "normal"), initializers.Normal()):
        program = jax.make_jaxpr(lambda key, rule=rule: rule(key, (4, 3, 2, 5), jnp.float32))
        text = str(program(jax.random.key(0)))
        assert "120]" in text
        assert "1024]" not in text  # within a program of the caller's no more are drawn


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("fan", "normal"), "mode of VarianceScaling is 'fan'; expected one of fan_in, fan_out"),
        (("fan_in", "gamma"), "distribution of VarianceScaling is 'gamma'; expected one of normal"),
    ],
)
def test_a_wrong_scaling_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        initializers.VarianceScaling(1.0, *arguments)


def test_biases_have_no_variance_to_scale():
    with pytest.raises(ValueError, match=r"VarianceScaling is for weights .* not for \(3,\)"):
        initializers.default.weights(jax.random.key(0), (3,), jnp.float32)


def test_constants():
    assert set(np.unique(start(initializers.zeros).w)) == {0.0}
    w, b = start(initializers.constant(0.5))
    assert set(np.unique(w)) == set(np.unique(b)) == {0.5}


def test_layers_start_differently_and_equal_keys_alike():
    net = nnjax.mlp([5, 5, 5])
    first, second = nnjax.init(net, jax.random.key(0))
    assert not np.allclose(first.w, second.w)
    assert not np.allclose(first.w[0], first.b)
    again = nnjax.init(net, jax.random.key(0))
    assert np.array_equal(first.w, again[0].w)
    assert not np.array_equal(first.w, nnjax.init(net, jax.random.key(1))[0].w)


def test_equal_initializers_are_equal():
    assert initializers.constant(0.5) == initializers.constant(0.5)
    assert nnjax.mlp([3, 2], initializer=initializers.he) != WIDE


def test_dtype():
    net = nnjax.mlp([3, 2])
    assert nnjax.init(net, jax.random.key(0))[0].w.dtype == jnp.float32
    assert nnjax.init(net, jax.random.key(0), jnp.bfloat16)[0].b.dtype == jnp.bfloat16
    with jax.enable_x64(True):
        assert nnjax.init(net, jax.random.key(0))[0].w.dtype == jnp.float64
    with pytest.raises(TypeError, match=r"dtype is .*; expected a floating-point type"):
        nnjax.init(net, jax.random.key(0), jnp.int32)


@pytest.mark.parametrize("key", [0, None, np.zeros(3), "seed"])
def test_key(key):
    with pytest.raises(TypeError, match=r"key is .*; expected a random key such as jax.random.key"):
        nnjax.init(WIDE, key)


def test_raw_keys_work():
    nnjax.init(nnjax.mlp([3, 2]), jax.random.PRNGKey(0))


def test_an_initializer_by_name_is_refused():
    for layer in (
        lambda: nnjax.mlp([3, 2], initializer="he"),
        lambda: nnjax.Conv(2, 3, initializer="he"),
    ):
        with pytest.raises(TypeError, match=r"initializer of .* is 'he'; .* nnjax.initializers.he"):
            layer()


def test_the_table_holds_every_initializer():
    for name, initializer in initializers.INITIALIZERS.items():
        assert getattr(initializers, name) is initializer
    made = [v for v in vars(initializers).values() if isinstance(v, initializers.Initializer)]
    assert made == list(initializers.INITIALIZERS.values())
