"""Checks of arguments: what they let through, and the sentence for everything else."""

import re

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import nnjax
from nnjax import checks
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


NET = nnjax.mlp([4, 3, 2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: checks.require_size(2**70, "n"),
            "n is 1180.*; expected an integer of at most 2147",
        ),
        (lambda: nnjax.init(NET, jax.random.key(0), None), "dtype is None; expected a floating-"),
        (lambda: nnjax.init(NET, jax.random.key(0), "f9"), "dtype is 'f9'; expected a floating-"),
        (
            lambda: nnjax.feedback.init(NET, jax.random.key(0), "sign_symmetry", int),
            "dtype is <class 'int'>; expected a floating-",
        ),
        (lambda: nnjax.losses.targets(None, np.ones((2, 3))), "y is None; expected an array"),
        (lambda: nnjax.losses.targets(1, 0.5), "a is a single number; expected outputs"),
        (lambda: nnjax.ops.conv("x", np.ones((2, 3, 3, 1))), "x has dtype <U1; expected real"),
        (lambda: nnjax.ops.max_pool(None, 2), "x is None; expected an array of real numbers"),
        (lambda: nnjax.explain(NET, (), object(), 1), "x is <object.*; expected an array of real"),
        (lambda: nnjax.data.standardize(5), "data is a int; expected nnjax.data.Dataset"),
        (lambda: nnjax.data.split([[1]], [1], seed=-1), "seed is -1; expected an integer of at"),
        (lambda: nnjax.curvature.precondition(((1, 1),), (5,), 0.1), "grads is a tuple that the"),
        (lambda: nnjax.architecture.describe(5), "layer is 5; expected a layer such as"),
        (lambda: nnjax.notation.total([]), "terms is empty; expected at least one"),
        (lambda: nnjax.notation.total(5), "terms is 5; expected a list of texts"),
        (lambda: nnjax.training.history({"a": 1}), "records is .*; expected a list of records"),
        (lambda: nnjax.training.history([5]), "a record is 5; expected numbers by name"),
        (
            lambda: nnjax.training.run_epoch(NET, 5, None, None),
            "recipe is 5; expected a nnjax.training.Recipe",
        ),
        (lambda: nnjax.check_layer(nnjax.Dense(2), seed=-1), "seed is -1; expected an integer"),
        (lambda: nnjax.check_layer(nnjax.Dense(2), 5), "in_shape is 5; expected a shape such as"),
        (lambda: nnjax.check_layer(nnjax.Dense(2), (0.5,)), "a size in in_shape is 0.5; expected"),
        (
            lambda: nnjax.check_backprop(NET, nnjax.backprop, regularizer=5),
            "regularizer is 5; expected one such as nnjax.regularizers.L2",
        ),
        (
            lambda: nnjax.gradcheck.check_update(5, eta=0.1),
            r"update is 5; expected a function \(w, v, g\)",
        ),
        (
            lambda: nnjax.check_gradient(jnp.sin, jnp.cos, np.array(["a"])),
            "an argument is an array of dtype <U1; expected numbers",
        ),
        (lambda: checks.checked(5), r"expected checked\(function, names\), got 5"),
        (lambda: checks.checked(len, once=1), "once is 1; expected True or False"),
    ],
)
def test_bad_arguments_end_in_one_sentence(call, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        call()
