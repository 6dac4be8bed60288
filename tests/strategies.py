"""Random networks and batches for hypothesis, shared by the tests."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

import nnjax
from nnjax import activations, losses

SMOOTH = [activations.sigmoid, activations.tanh, activations.softmax, activations.Softmax(0.5)]
KINKED = [activations.relu, activations.leaky_relu, activations.LeakyReLU(0.3)]
GATED = [activations.gelu, activations.gelu_tanh, activations.silu]
SOFT = [activations.softplus, activations.elu]
FROM_JAX = [activations.from_jax(jax.nn.mish), activations.from_jax(jax.nn.log_softmax)]
PAIRED = [*SMOOTH, *KINKED, activations.absolute, activations.identity]  # with every loss
ACTIVATIONS = [*PAIRED, *GATED, *SOFT, *FROM_JAX]
LOSSES = [losses.quadratic, losses.cross_entropy, losses.log_likelihood]
WIDTHS = [1, 2, 3, 5, 10, 17, 30, 64]


def random_params(net, seed, dtype=None):
    """Return parameters drawn by NumPy, which has nothing to compile, unlike `nnjax.init`."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(partial(nnjax.init, net), jax.random.key(0))
    return jax.tree.map(
        lambda p: jnp.asarray(rng.normal(size=p.shape) / np.sqrt(p.shape[-1]), dtype or p.dtype),
        shapes,
    )


class Case(NamedTuple):
    """A network, a batch and the seed of its parameters."""

    net: nnjax.Network
    n: int
    labels: str
    seed: int

    def arrays(self, dtype=jnp.float64):
        """Return params, x and y: inputs of both signs, biases not zero."""
        rng = np.random.default_rng(self.seed)
        params = random_params(self.net, rng, dtype)
        x = jnp.asarray(rng.normal(size=(self.n, *self.net.input_shape)), dtype)
        k = self.net.n_out
        if self.labels == "classes":
            y = jax.device_put(rng.integers(k, size=self.n))
        elif self.labels == "one-hot":
            y = jnp.asarray(np.eye(k)[rng.integers(k, size=self.n)], dtype)
        else:
            y = jnp.asarray(rng.random((self.n, k)), dtype)
        return params, x, y


@st.composite
def dense_cases(draw):
    """Depth 1 to 6, widths 1 to 64, any activation in any layer, any loss, batch 1 to 33."""
    widths = st.sampled_from(WIDTHS)
    sizes = draw(st.lists(widths, min_size=1, max_size=6))
    layers = [nnjax.Dense(size, draw(st.sampled_from(ACTIVATIONS))) for size in sizes]
    net = nnjax.Network(draw(widths), layers, draw(st.sampled_from(LOSSES)))
    return Case(
        net,
        n=draw(st.sampled_from([1, 2, 5, 33])),
        labels=draw(st.sampled_from(["classes", "one-hot", "soft"])),
        seed=draw(st.integers(0, 2**16)),
    )


def relative_errors(claimed, expected):
    """Return ‖claimed − expected‖ / ‖expected‖, one number a leaf; 0 / 0 counts as 0."""

    def error(a, b):
        of = jnp if isinstance(a, jax.core.Tracer) else np  # NumPy compiles nothing
        a, b = of.ravel(of.asarray(a)), of.ravel(of.asarray(b))
        difference, size = of.linalg.norm(a - b), of.linalg.norm(b)
        return of.where(difference == 0, 0.0, difference / of.where(difference == 0, 1.0, size))

    return jax.tree.map(error, claimed, expected)
