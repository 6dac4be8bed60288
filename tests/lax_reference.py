"""The layers once more, sharing nothing with nnjax: `lax.conv` and `reduce_window`."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax

import nnjax

# Many shapes, each computed once: compiling has to be fast, not what is compiled.
quick = partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})


def conv(layer, params, x):
    """Return z (n, oh, ow, J) of a Conv by the library's convolution."""
    padding = layer.padding
    padding = padding.upper() if isinstance(padding, str) else [(p, p) for p in padding]
    numbers = ("NHWC", "OHWI", "NHWC")
    return lax.conv_general_dilated(
        x,
        params.w,
        layer.stride,
        padding,
        rhs_dilation=layer.dilation,
        feature_group_count=layer.groups,
        dimension_numbers=numbers,
    ) + params.b.reshape(1, 1, 1, -1)


def pool(layer, params, x):
    """Return z of a pooling layer by `reduce_window`."""
    if isinstance(layer, nnjax.MaxPool):
        return _reduced(layer, x, -jnp.inf, lax.max)
    if isinstance(layer, nnjax.MeanPool):
        return _reduced(layer, x, 0.0, lax.add) / math.prod(layer.size)
    return jnp.sqrt(_reduced(layer, x**2, 0.0, lax.add))


def dense(layer, params, x):
    """Return z of a Dense."""
    return jnp.einsum("nk,jk->nj", x, params.w) + params.b[None]


def flatten(layer, params, x):
    """Return z of a Flatten."""
    return x.reshape(x.shape[0], -1)


def layer_norm(layer, params, x):
    """Return z of a LayerNorm."""
    axes = tuple(range(1, x.ndim))
    centred = x - jnp.mean(x, axes, keepdims=True)
    s = jnp.sqrt(jnp.mean(centred**2, axes, keepdims=True) + layer.epsilon)
    return params.gamma[None] * centred / s + params.beta[None]


REFERENCE = {
    nnjax.LayerNorm: layer_norm,
    nnjax.Conv: conv,
    nnjax.MaxPool: pool,
    nnjax.MeanPool: pool,
    nnjax.L2Pool: pool,
    nnjax.Dense: dense,
    nnjax.Flatten: flatten,
}


def loss(net, params, x, y):
    """Return the mean loss of a network, by the reference implementations of its layers."""
    a = z = x
    for layer, p in zip(net.layers, params, strict=True):
        z = REFERENCE[type(layer)](layer, p, a)
        a = layer.activation(z)
    return jnp.mean(net.loss.at(net.layers[-1].activation, z, a, y))


def _reduced(layer, x, start, operation):
    window, strides = (1, *layer.size, 1), (1, *layer.stride, 1)
    return lax.reduce_window(x, np.asarray(start, x.dtype), operation, window, strides, "VALID")


def pairs(least, most):
    """Pairs (height, width) that differ more often than not."""
    return st.tuples(st.integers(least, most), st.integers(least, most))


def normal(seed, *shape):
    """Return float64 numbers of both signs; a quarter of them rounded, so that many are equal."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape)
    return jax.device_put(np.where(rng.random(shape) < 0.25, np.round(values), values))


def whole(seed, *shape):
    """Return small whole numbers as float64: full of ties and zeros."""
    return jnp.asarray(np.random.default_rng(seed).integers(-1, 2, size=shape), jnp.float64)


def by_hand(layer, params, x, delta, key=None):
    """Return z, ∂C/∂x and the gradients of the parameters of a batch, given ∂C/∂z = δ."""
    z, cache = jax.vmap(lambda a: layer.forward(params, a, key))(x)
    g = jax.vmap(layer.pull_back, in_axes=(None, 0, 0))(params, cache, delta)
    return z, g, layer.gradients(cache, delta)


hand = quick(by_hand)


def by_autodiff(layer, params, x, delta):
    """Return the same three by `jax.vjp` of the reference implementation."""
    z, vjp = jax.vjp(lambda p, x: REFERENCE[type(layer)](layer, p, x), params, x)
    grads, g = vjp(delta)
    return z, g, grads
