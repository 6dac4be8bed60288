"""Checks of arguments: what they let through, and the sentence for everything else."""

import re

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from nnjax.checks import (
    check_key,
    checked,
    require_floating,
    require_number,
    require_real_array,
    require_scalar,
    require_size,
)

RATE = ("eta", "a finite rate of at least 0", 0, 1e30)


@pytest.mark.parametrize(
    "value", [0, 1, 0.5, np.float32(0.5), np.int64(2), np.array(0.5), jnp.array(0.5), jnp.array(2)]
)
def test_numbers_and_arrays_of_one_pass_as_they_came(value):
    assert require_scalar(value, *RATE) is value


@pytest.mark.parametrize(
    "value",
    [-1, np.inf, np.nan, "0.1", None, 1j, True, [0.1], np.float32(-1), np.float16(np.inf)]
    + [f(v) for f in (np.array, jnp.array) for v in (-1.0, np.nan, np.inf, 1j, True, [0.1])],
)
def test_everything_else_is_refused_in_one_sentence(value):
    with pytest.raises(ValueError, match=r"eta is .*; expected a finite rate of at least 0"):
        require_scalar(value, *RATE)


def test_a_traced_number_is_judged_by_shape_and_dtype():
    jax.jit(lambda eta: require_scalar(eta, *RATE))(-1.0)  # its value is not there yet
    for wrong in (jnp.ones(3), jnp.array(1j)):
        with pytest.raises(ValueError, match=r"eta is an array of shape .*; expected a finite"):
            jax.jit(lambda eta: require_scalar(eta, *RATE))(wrong)


def test_sizes_and_numbers_of_numpy():
    assert require_size(np.int16(3), "n") == 3
    assert require_number(np.float32(0.5), "rate", "0 to 1", 0, 1) == 0.5
    with pytest.raises(ValueError, match="n is 2; expected an integer of at least 3"):
        require_size(2, "n", at_least=3)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        ("w", "p is 'w'; expected an array"),
        (1.0, "p is 1.0; expected an array"),
        (None, "p is None; expected an array"),
        (np.ones(2, int), "p has dtype int64; expected floating-point numbers such as float32"),
        (jnp.ones(2, jnp.complex64), "p has dtype complex64; expected floating-point numbers"),
        (np.ones(2, ">f4"), "p has dtype >f4; expected floating-point numbers"),
        (np.ones(2, np.longdouble), "p has dtype float128; expected floating-point numbers"),
    ],
)
def test_parameters_are_floating_point(array, sentence):
    with pytest.raises(TypeError, match=re.escape(sentence)):
        require_floating(array, "p")


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_every_floating_point_type_of_jax_is_one(dtype):
    require_floating(np.ones(2, dtype), "p")


def test_arrays_that_jax_would_not_take_are_converted():
    for dtype in (">f4", ">i2", np.longdouble):
        array = require_real_array(np.arange(3).astype(dtype), "x")
        assert jnp.asarray(array).tolist() == [0, 1, 2]
    with pytest.raises(TypeError, match=r"x is a masked array; fill it first, as x\.filled\(0\)"):
        require_real_array(np.ma.masked_array([1.0, 2.0], [True, False]), "x")


def test_a_raw_key_has_as_many_words_as_the_generator_takes():
    check_key(jax.random.PRNGKey(0))
    with pytest.raises(TypeError, match=r"key is an array of shape \(4,\) and dtype uint32"):
        check_key(np.zeros(4, np.uint32))


def test_the_body_is_traced_once_and_the_check_runs_each_time():
    seen = []

    def check(x, power=2):
        seen.append(power)
        return x, power

    @checked(check, static=("power",))
    @chex.assert_max_traces(n=2)
    def raised(x, power=2):
        return x**power

    assert float(raised(3.0)) == float(raised(3.0, power=2)) == 9.0
    assert float(raised(3.0, 3)) == 27.0
    assert seen == [2, 2, 3]
    assert float(raised.unchecked(2.0, 3)) == 8.0


def test_a_missing_argument_is_named_as_the_function_has_it():
    @checked(lambda net, x: (net, x))
    def f(net, x):
        return x

    with pytest.raises(TypeError, match="missing a required argument: 'x'"):
        f(1)
