"""Reports call activations and losses by the names that users import."""

import pytest

import nnjax
from nnjax.gradcheck.backprop import describe


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "sigmoid", "absolute"])
@pytest.mark.parametrize("loss", ["cross_entropy", "log_likelihood", "quadratic"])
def test_names_are_those_that_users_import(activation, loss):
    net = nnjax.mlp([3, 2, 2], getattr(nnjax, activation), loss=getattr(nnjax, loss))
    text = describe(net)
    assert f"Dense 2 {activation} " in text
    assert text.endswith(f", {loss}")
