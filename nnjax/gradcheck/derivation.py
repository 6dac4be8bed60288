"""The right derivation of a network's gradient, step by step, and with one step replaced.

The steps are those of the book, for a batch of n examples. Layers are numbered from 1, so that
z[l], a[l] and δ[l] are z^l, a^l and δ^l, and a[0] is x:

    affine         z^l = w^l a^{l-1} + b^l
    activate       a^l = σ(z^l)
    output_error   δ^L = ∂C_x/∂z^L                           BP1
    pull_back      g^{l-1} = (w^l)ᵀ δ^l = ∂C_x/∂a^{l-1}      BP2, first half
    through        δ^l = g^l ⊙ σ'(z^l)                       BP2, second half
    biases         ∂C/∂b^l = (1/n) Σ δ^l                     BP3
    weights        ∂C/∂w^l = (1/n) Σ δ^l (a^{l-1})ᵀ          BP4

A mistake replaces one of them: a function of the derivation, the layer l and what the step takes
(nothing for `output_error`). At the step "layer" it replaces the whole layer, forward and backward,
by another one that it returns. `wrong_gradients` runs the derivation with it.

Everything is in NumPy but what layers of other kinds than `Dense` compute, which is theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.activations import Activation, Elementwise, Softmax
from nnjax.gradcheck.hypotheses import EDIT_FAILS, Mistake, Undetermined
from nnjax.layers import Affine, Dense
from nnjax.losses import targets
from nnjax.network import Network, forward

__all__ = ["BACKWARD", "FORWARD", "Derivation"]

FORWARD = ("layer", "affine", "activate")
BACKWARD = ("output_error", "pull_back", "through", "biases", "weights")


class Derivation:
    """The derivation at one probe: every quantity of it, and the steps as methods.

    Args:
        net: the network, of L layers.
        params: its parameters.
        x: (n, *input_shape).
        y: targets.
        key: for dropout in training mode, else None.
        claimed: the leaves of the claimed gradient, for mistakes that leave something open.

    `penalty` is what a regularizer adds to each leaf.
    """

    def __init__(self, net: Network, params: Any, x: Any, y: Any, key=None, claimed=()):
        self.net, self.params, self.key = net, params, key
        self.claimed = claimed
        self.penalty: list[Any] = []
        self.L, self.n = len(net.layers), x.shape[0]
        passed = forward(net, params, jnp.asarray(x), key)
        self.a = [np.asarray(a) for a in passed.activations]
        self.z = [None, *(np.asarray(z) for z in passed.weighted_inputs)]
        self.caches = [None, *passed.caches]
        self.y = np.asarray(targets(jnp.asarray(y), passed.activations[-1]))

    def layer(self, l: int) -> Any:
        """Return the description of layer l."""
        return self.net.layers[l - 1]

    def activation(self, l: int) -> Activation:
        """Return the activation function of layer l."""
        return self.layer(l).activation

    def has_parameters(self, l: int) -> bool:
        """Return whether layer l has weights."""
        return isinstance(self.params[l - 1], Affine)

    def w(self, l: int) -> np.ndarray:
        """Return the weights of layer l; IndexError where there are none."""
        if not 1 <= l <= self.L or not self.has_parameters(l):
            raise IndexError(f"layer {l} has no weights")
        return np.asarray(self.params[l - 1].w)

    def b(self, l: int) -> np.ndarray:
        """Return the biases of layer l; IndexError where there are none."""
        self.w(l)
        return np.asarray(self.params[l - 1].b)

    def derivative(self, l: int, at: np.ndarray) -> np.ndarray:
        """Return σ' of layer l, elementwise, at any array."""
        return derivative(self.activation(l), at)

    # The right steps.

    def affine(self, l, a):
        """z^l = w^l a^{l-1} + b^l."""
        layer = self.layer(l)
        if isinstance(layer, Dense):
            return a @ self.w(l).T + self.b(l)
        if layer.random and self.key is not None:
            raise TypeError("the mask of a dropout layer is not drawn again")
        again = jax.vmap(lambda a: layer.forward(self.params[l - 1], a, None))
        z, self.caches[l] = again(jnp.asarray(a))
        return np.asarray(z)

    def activate(self, l, z):
        """a^l = σ(z^l)."""
        return np.asarray(self.activation(l)(jnp.asarray(z)))

    def output_error(self, l):
        """BP1: δ^L, in its stable form."""
        activation, last = self.activation(l), jnp.asarray
        z, a, y = last(self.z[l]), last(self.a[l]), last(self.y)
        return np.asarray(self.net.loss.output_error(activation, z, a, y))

    def loss_gradient(self):
        """∂C_x/∂a^L."""
        return np.asarray(self.net.loss.gradient(jnp.asarray(self.a[-1]), jnp.asarray(self.y)))

    def pull_back(self, l, delta, params=None):
        """BP2, first half: ∂C/∂a^{l-1} = (w^l)ᵀ δ^l, with other parameters where given."""
        params = self.params[l - 1] if params is None else params
        if isinstance(self.layer(l), Dense):
            return delta @ np.asarray(params.w)
        return np.asarray(_pull_back(self.layer(l))(params, self.caches[l], jnp.asarray(delta)))

    def through(self, l, g):
        """BP2, second half: δ^l = g ⊙ σ'(z^l)."""
        activation = self.activation(l)
        if isinstance(activation, Elementwise):
            return g * self.slopes[l]
        z, a = jnp.asarray(self.z[l]), jnp.asarray(self.a[l])
        return np.asarray(activation.pull_back(z, a, jnp.asarray(g)))

    def biases(self, l, delta):
        """BP3: (1/n) Σ δ^l, over examples and places."""
        return delta.reshape(-1, delta.shape[-1]).sum(0) / self.n

    def weights(self, l, delta):
        """BP4: (1/n) Σ δ^l (a^{l-1})ᵀ."""
        if isinstance(self.layer(l), Dense):
            return delta.T @ self.a[l - 1] / self.n
        gradients = self.layer(l).gradients(self.caches[l], jnp.asarray(delta) / self.n)
        return np.asarray(gradients.w)

    def claimed_mask(self, l):
        """Return which inputs of layer l the claimed error reaches: where it is not 0.

        It shows in the gradient of the biases of the layer before, for one example.
        """
        if self.n != 1:
            raise Undetermined
        i = 2 * sum(self.has_parameters(k) for k in range(1, l - 1)) + 1
        if not self.has_parameters(l - 1) or self.claimed[i] is None:
            raise TypeError("the layer before has no biases")
        return (self.claimed[i] != 0).reshape(self.a[l - 1].shape).astype(float)

    # What follows from them.

    @cached_property
    def slopes(self) -> dict[int, np.ndarray]:
        """σ'(z^l) of every layer whose activation works element by element."""
        return {
            l: self.derivative(l, self.z[l])
            for l in range(1, self.L + 1)
            if isinstance(self.activation(l), Elementwise)
        }

    @cached_property
    def g(self) -> dict[int, np.ndarray]:
        """∂C_x/∂a^l of every layer."""
        found = {self.L: self.loss_gradient()}
        for l in range(self.L - 1, 0, -1):
            found[l] = self.pull_back(l + 1, self.delta[l + 1])
        return found

    @cached_property
    def delta(self) -> dict[int, np.ndarray]:
        """δ^l of every layer."""
        found = {self.L: self.output_error(self.L)}
        for l in range(self.L - 1, 0, -1):
            found[l] = self.through(l, self.pull_back(l + 1, found[l + 1]))
        return found

    @cached_property
    def canonical(self) -> bool:
        """Whether δ^L = a^L − y, so that σ' cancels."""
        return np.allclose(self.delta[self.L], self.a[-1] - self.y, rtol=1e-10, atol=1e-14)

    def wrong_gradients(
        self, made: Mistake | None = None, layers: Collection[int] = (), t: float = 0.0
    ) -> Iterator[tuple[int, str, Any]]:
        """Yield (l, "w" or "b", gradient) from the output back, with a step replaced in `layers`.

        Args:
            made: the mistake; None: the right derivation.
            layers: where it is made.
            t: its number, if it has one.
        """

        def step(d, name, l, *given):
            if made is not None and made.step == name and l in layers:
                try:
                    return made.change(d, l, *given, *([t] if made.fitted else []))
                except EDIT_FAILS:
                    if len(layers) == 1:
                        raise  # with several layers, those where the edit has no meaning are right
            return getattr(d, name)(l, *given)

        if made is not None and made.step == "layer":
            own = list(self.net.layers)
            for l in layers:
                try:
                    own[l - 1] = made.change(self, l)
                except EDIT_FAILS:
                    if len(layers) == 1:
                        raise
            other = Network(self.net.input_shape, tuple(own), self.net.loss)
            yield from self._forward_again(lambda d, name, l, v: getattr(d, name)(l, v), other)
            return
        if made is not None and made.step in FORWARD:
            yield from self._forward_again(step)
            return
        for l in range(self.L, 0, -1):
            if l == self.L:
                replaced = made is not None and made.step == "through" and l in layers
                g = self.loss_gradient() if replaced else None
                delta = step(self, "through", l, g) if replaced else step(self, "output_error", l)
            else:
                delta = step(self, "through", l, step(self, "pull_back", l + 1, delta))
            if self.has_parameters(l):
                yield l, "w", step(self, "weights", l, delta)
                yield l, "b", step(self, "biases", l, delta)

    def _forward_again(self, step, net=None) -> Iterator[tuple[int, str, Any]]:
        """Yield the gradients when the forward pass goes through `step`, or another network."""
        again = object.__new__(Derivation)
        own = {
            k: v for k, v in self.__dict__.items() if k not in ("slopes", "g", "delta", "canonical")
        }
        again.__dict__.update(own, net=net or self.net)
        again.a, again.z, again.caches = [self.a[0]], [None], list(self.caches)
        for l in range(1, self.L + 1):
            again.z.append(step(again, "affine", l, again.a[-1]))
            again.a.append(step(again, "activate", l, again.z[-1]))
        yield from again.wrong_gradients()


def derivative(activation: Activation, at: np.ndarray) -> np.ndarray:
    """Return σ'(at), element by element."""
    if not isinstance(activation, Elementwise):
        raise TypeError(f"{activation} does not work element by element")
    return np.asarray(activation.derivative(jnp.asarray(at)))


def softmax_derivative(d: Derivation, l: int) -> np.ndarray:
    """Return the diagonal of the Jacobian of a softmax layer, c a (1 − a)."""
    activation = d.activation(l)
    scale = activation.scale if isinstance(activation, Softmax) else 1.0
    return scale * d.a[l] * (1 - d.a[l])


def _pull_back(layer):
    return partial(_jitted_pull_back, layer)


@partial(jax.jit, static_argnums=0)
def _jitted_pull_back(layer, params, cache, delta):
    return jax.vmap(layer.pull_back, in_axes=(None, 0, 0))(params, cache, delta)
