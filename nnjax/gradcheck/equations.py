"""The equations of backpropagation as expressions: one tree is evaluated, printed and edited.

The steps are those of the book, for a batch of n examples. Layers count from 1, so that z[l], a[l]
and δ[l] are z^l, a^l and δ^l, and a[0] is x:

    affine     z^l = w^l a^{l-1} + b^l
    activate   a^l = σ(z^l)
    error      δ^L = ∂C_x/∂z^L                           BP1
    back       ∂C_x/∂a^{l-1} = (w^l)ᵀ δ^l                BP2, first half; + δ of the sums that
                                                         a^{l-1} is added in
    through    δ^l = ∂C_x/∂a^l ⊙ σ'(z^l)                 BP2, second half
    biases     ∂C/∂b^l = (1/n) Σ δ^l                     BP3
    weights    ∂C/∂w^l = (1/n) Σ δ^l (a^{l-1})ᵀ          BP4

`forms` gives the expressions of a step in a layer, `Derivation` the numbers they work on.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.activations import Elementwise, Sigmoid, Softmax, Tanh
from nnjax.gradcheck.expressions import Expression, Scope, minus, number, plus, quantity, times
from nnjax.gradcheck.operations import OPERATIONS
from nnjax.layers import (
    Add,
    Affine,
    Conv,
    Dense,
    Dropout,
    Flatten,
    L2Pool,
    LayerNorm,
    MaxPool,
    MeanPool,
    ScaleShift,
)
from nnjax.losses import targets
from nnjax.network import Network, forward_layer

__all__ = ["BACKWARD", "EDIT_FAILS", "FORWARD", "STEPS", "Derivation", "Site", "forms", "scales_of"]

FORWARD = ("affine", "activate")
BACKWARD = ("error", "through", "back", "weights", "biases")
STEPS = (*BACKWARD, *FORWARD)
# What an edit raises where it has no meaning: shapes that do not fit, no such layer.
EDIT_FAILS = (TypeError, ValueError, LookupError, AttributeError, ZeroDivisionError)


DELTA, A, Z, G, W, B = (quantity(name) for name in ("δ", "a", "z", "∂C/∂a", "w", "b"))
GAMMA, BEFORE, Y = quantity("γ"), quantity("a", -1), quantity("y", None)


class Site(NamedTuple):
    """A layer in its place, as far as the equations depend on it.

    Attributes:
        layer: the layer.
        in_shape: of what comes in, for one example.
        affine: whether it has weights and biases.
        masked: whether it draws a mask (dropout in training mode).
        last: whether it is the output.
        canonical: for the output, whether δ^L = a^L − y, so that σ' cancels.
        loss: for the output, the loss.
        skips: how many layers ahead the sums are that what comes in is added in.
    """

    layer: Any
    in_shape: tuple[int, ...]
    affine: bool
    masked: bool = False
    last: bool = False
    canonical: bool = False
    loss: Any = None
    skips: tuple[int, ...] = ()


def forms(site: Site, step: str) -> list[Expression]:
    """Return the expressions of a step in a layer; several are ways to write the same.

    Example:
        >>> import nnjax
        >>> [form.text() for form in forms(Site(nnjax.Dense(2), (3,), True), "through")]
        ["∂C/∂a ⊙ σ'(z)", '∂C/∂a ⊙ a (1 − a)']
    """
    found = _own_forms(site, step)
    if step == "affine" and site.layer.skip:
        return [plus(*found, Expression("skip", (quantity("a", -1 - site.layer.skip),)))]
    if step == "back" and site.skips:
        back = [quantity("δ", ahead) for ahead in site.skips]
        skip = Expression("skip", (plus(*back) if len(back) > 1 else back[0],))
        return [plus(form, skip) for form in found]
    return found


def _own_forms(site, step):
    layer, image = site.layer, len(site.in_shape) == 3
    if step == "error":
        return [plus(A, minus(Y))] if site.canonical else _through(layer.activation)[:1]
    if step == "through":
        return _through(layer.activation)
    if step == "activate":
        return [Expression("σ", (Z,), layer.activation)]
    if step in ("weights", "biases") and not site.affine:
        return []
    if step == "biases":
        return [Expression("total", (DELTA,), "Σ")]
    if isinstance(layer, Dense):
        dense = {
            "affine": plus(Expression("w a", (W, BEFORE)), B),
            "back": Expression("wᵀδ", (W, DELTA)),
            "weights": Expression("outer", (DELTA, BEFORE), "Σ"),
        }
        return [dense[step]]
    if isinstance(layer, Conv) and layer.dilation == (1, 1) and layer.groups == 1:
        return [_of_conv(step, number(layer.geometry(site.in_shape)[:3], ""))]
    if step == "back" and isinstance(layer, (MaxPool, MeanPool, L2Pool)):
        return [_of_pool(layer)]
    if step == "back" and isinstance(layer, Dropout) and site.masked:
        return [times(DELTA, quantity("m"), number(1 / (1 - layer.rate), "/ (1 − rate)"))]
    if step == "affine" and isinstance(layer, Flatten) and image:
        return [Expression("flat", (BEFORE,))]
    if step == "back" and isinstance(layer, Flatten) and image:
        return [Expression("unflat", (DELTA, BEFORE))]
    if step == "back" and isinstance(layer, LayerNorm):
        parts = (GAMMA, DELTA, BEFORE, number(layer.epsilon, ""))
        return [Expression("layernorm", parts, "J")]
    if isinstance(layer, Add):
        return [BEFORE if step == "affine" else DELTA]
    return [Expression("own", (BEFORE if step == "affine" else DELTA,), step)]


def _through(activation):
    if isinstance(activation, Softmax):
        c = number(activation.scale, "" if activation.scale == 1 else f"{activation.scale:g}")
        return [Expression("softmax", (c, G, A), "J")]
    if not isinstance(activation, Elementwise):
        return [Expression("own", (G,), "through")]
    found = [times(G, Expression("σ'", (Z,), activation))]
    if isinstance(activation, (Sigmoid, Tanh)):
        formula = "a (1 − a)" if isinstance(activation, Sigmoid) else "1 − a²"
        found.append(times(G, Expression("formula", (A,), formula)))
    return found


def _of_conv(step, geometry):
    windows = Expression("windows", (BEFORE, geometry))
    if step == "affine":
        kernel = Expression("kernel", (W,), "as it is")
        return plus(Expression("correlation", (kernel, windows)), B)
    if step == "weights":
        return Expression("kernel gradient", (DELTA, windows), "as it is")
    kernel = Expression("turned kernel", (W,), "as it is")
    return Expression("fold", (Expression("spread", (kernel, DELTA)), BEFORE, geometry))


def _of_pool(layer):
    size, stride = layer.windows
    geometry = number((size, stride, ((0, 0), (0, 0))), "")
    inputs = Expression("windows", (BEFORE, geometry))
    if isinstance(layer, L2Pool):
        factors = [inputs, Expression("inverse", (Expression("each", (Z,)),))]
    else:
        op = "max share" if isinstance(layer, MaxPool) else "mean share"
        factors = [Expression(op, (inputs,), next(iter(OPERATIONS[op])))]
    pieces = times(Expression("each", (DELTA,)), *factors)
    return Expression("fold", (pieces, BEFORE, geometry))


def scales_of(params: Mapping[int, Any]) -> dict[int, np.ndarray]:
    """Return γ by layer, for the layers that have one.

    Example:
        >>> import nnjax
        >>> scales_of({1: (), 2: nnjax.layers.ScaleShift(jnp.ones(2), jnp.zeros(2))})
        {2: array([1., 1.], dtype=float32)}
    """
    return {l: np.asarray(p.gamma) for l, p in params.items() if isinstance(p, ScaleShift)}


class Derivation:
    """The derivation at one point: all its quantities, and the gradients with steps replaced.

    Args:
        net: the network, of L layers.
        params: its parameters.
        x: (n, *input_shape).
        y: targets.
        key: for dropout in training mode, else None.
        edits: expressions to put in place of steps of the forward pass, by (step, l).
        t: the fitted number in them.
    """

    def __init__(self, net: Network, params: Any, x: Any, y: Any, key=None, edits=None, t=0.0):
        self.net, self.params, self.key = net, params, key
        self.L, self.n = len(net.layers), x.shape[0]
        affine = {l: p for l, p in enumerate(params, 1) if isinstance(p, Affine)}
        scale = 255 if x.dtype == np.uint8 else 1
        self.a = {0: np.asarray(x, np.float64).reshape(self.n, *net.input_shape) / scale}
        self.z: dict[int, np.ndarray] = {}
        self.masks: dict[int, np.ndarray] = {}
        self.caches: dict[int, Any] = {}
        self.quantities: dict[str, Any] = {
            "a": self.a,
            "z": self.z,
            "m": self.masks,
            "w": {l: np.asarray(p.w) for l, p in affine.items()},
            "b": {l: np.asarray(p.b) for l, p in affine.items()},
            "γ": scales_of(dict(enumerate(params, 1))),
            "x": self.a[0],
            "1/n": 1 / self.n,
            "own": self._own,
        }
        for l, layer in enumerate(net.layers, 1):
            for step, into in (("affine", self.z), ("activate", self.a)):
                form = (edits or {}).get((step, l)) or forms(self.site(l), step)[0]
                into[l] = form.value(Scope(self.quantities, l, t))
            if isinstance(layer, Dropout) and self.caches[l] is not None:
                self.masks[l] = np.asarray(self.caches[l], np.float64)
        self.y = np.asarray(targets(jax.device_put(y), jax.device_put(self.a[self.L])))
        self.quantities["y"] = self.y

    def site(self, l: int) -> Site:
        """Return layer l in its place."""
        layer, last = self.net.layers[l - 1], l == self.L and "y" in self.quantities
        return Site(
            layer,
            self.a[l - 1].shape[1:],
            self.has_parameters(l),
            l in self.masks,
            last,
            last and self.canonical,
            self.net.loss if last else None,
            tuple(k + 1 - l for k in self.net.skips[l - 1]),
        )

    def has_parameters(self, l: int) -> bool:
        """Return whether layer l has weights."""
        return l in self.quantities["w"]

    def _own(self, step, l, given):
        """Run what a layer or an activation function of another kind defines itself."""
        layer, given = self.net.layers[l - 1], jax.device_put(given)
        if step == "affine":
            z, self.caches[l] = forward_layer(self.net, self.params, l - 1, given, self.key)
            return z
        if step == "through":
            z, a = jax.device_put((self.z[l], self.a[l]))
            return layer.activation.pull_back(z, a, given)
        if step == "weights":
            return layer.gradients(self.caches[l], given / self.n).w
        return _pull_back(layer, self.params[l - 1], self.caches[l], given)

    @functools.cached_property
    def output(self) -> tuple[np.ndarray, np.ndarray]:
        """∂C_x/∂a^L and δ^L, the latter in its stable form."""
        z, a, y = (jnp.asarray(array) for array in (self.z[self.L], self.a[self.L], self.y))
        loss, activation = self.net.loss, self.net.layers[-1].activation
        return np.asarray(loss.gradient(a, y)), np.asarray(loss.output_error(activation, z, a, y))

    @functools.cached_property
    def canonical(self) -> bool:
        """Whether δ^L = a^L − y, so that σ' cancels."""
        return np.allclose(self.output[1], self.a[self.L] - self.y, rtol=1e-10, atol=1e-14)

    @functools.cached_property
    def errors(self) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
        """∂C_x/∂a^l and δ^l of every layer."""
        g, delta = ({self.L: array} for array in self.output)
        for l in range(self.L - 1, 0, -1):
            g[l] = self.step("back", l + 1, delta[l + 1], delta)
            delta[l] = self.step("through", l, g[l])
        return g, delta

    @property
    def delta(self) -> dict[int, np.ndarray]:
        """δ^l of every layer."""
        return self.errors[1]

    def step(
        self, name: str, l: int, given: np.ndarray, ahead: Mapping[int, np.ndarray] | None = None
    ) -> np.ndarray:
        """Return what a step makes of the error given: δ^l, or ∂C/∂a^l for "through".

        Args:
            name: of the step.
            l: the layer.
            given: the error.
            ahead: δ of the layers after it, for what comes back through residual blocks.
        """
        fed = {"∂C/∂a": {l: given}} if name == "through" else {"δ": {**(ahead or {}), l: given}}
        return forms(self.site(l), name)[0].value(Scope({**self.quantities, **fed}, l))

    def leaves(
        self, edits: Mapping[tuple[str, int], Expression], t: float = 0.0, **known: Any
    ) -> Iterator[tuple[int, str, Any]]:
        """Yield (l, part, array) from the output back, lazily, for all parts that an edit touches.

        The part is "w" or "b" for gradients, "δ" for errors.

        Args:
            edits: the expression to put in place of a step, by (step, l).
            t: the fitted number in them.
            **known: quantities beyond those of the derivation.
        """
        ahead = any(step in FORWARD for step, _ in edits)
        d = self
        if ahead:
            d = Derivation(self.net, self.params, self.a[0], self.y, self.key, edits, t)
        g, delta = (dict(right) for right in d.errors)
        scope = {**d.quantities, "∂C/∂a": g, "δ": delta, **known}

        def run(step, l):
            here = Scope(scope, l, t)
            if (step, l) in edits:
                try:
                    return edits[step, l].value(here)
                except EDIT_FAILS:
                    if len(edits) == 1:
                        raise  # of several layers, those where the edit has no meaning are right
            return forms(d.site(l), step)[0].value(here)

        changed = False  # whether the error of the layer above is another one than the right one
        for l in range(d.L, 0, -1):
            pulled = changed or ("back", l + 1) in edits
            if pulled:
                g[l] = run("back", l + 1)
            if ("error", l) in edits:
                delta[l], changed = run("error", l), True
            elif pulled or ("through", l) in edits:
                delta[l], changed = run("through", l), True
            if changed or ahead:
                yield l, "δ", delta[l]
            for step, part in (("weights", "w"), ("biases", "b")):
                if d.has_parameters(l) and (changed or ahead or (step, l) in edits):
                    yield l, part, run(step, l)


@functools.partial(jax.jit, static_argnums=0)
def _pull_back(layer, params, cache, delta):
    return jax.vmap(layer.pull_back, in_axes=(None, 0, 0))(params, cache, delta)
