"""Flatten: row by row, channels fastest, and back."""

import jax.numpy as jnp
import numpy as np
from lax_reference import hand

import nnjax


def test_flatten_and_back():
    x = jnp.arange(24.0).reshape(2, 3, 2, 2)
    z, g, grads = hand(nnjax.Flatten(), (), x, 2 * x.reshape(2, 12))
    assert np.array_equal(z[0], np.arange(12.0))
    assert np.array_equal(g, 2 * x)
    assert grads == ()


def test_shape():
    assert nnjax.Flatten().out_shape((4, 4, 40)) == (640,)
    assert nnjax.Flatten().out_shape((7,)) == (7,)
