"""`check_layer`: somebody's own layer, its backward pass held against its forward pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.gradcheck.derivation import Derivation
from nnjax.gradcheck.examine import examine
from nnjax.gradcheck.forms import Claim
from nnjax.gradcheck.hypotheses import MISTAKES, Candidate
from nnjax.gradcheck.mistakes import general_candidates
from nnjax.gradcheck.reference import double_precision
from nnjax.gradcheck.report import GradientReport
from nnjax.gradcheck.subject import Probe, Subject
from nnjax.layers import Affine, Layer

__all__ = ["check_layer"]

# Shapes to try where none is given: sizes that share no factor, so that no two axes can be mixed.
SHAPES = ((11,), (8, 7, 3), (7,), (16, 15, 2))


def check_layer(
    layer: Layer,
    in_shape: Sequence[int] | None = None,
    *,
    key: jax.Array | None = None,
    seed: int = 0,
    time_limit: float = 60.0,
) -> GradientReport:
    """Return a report on whether a layer's backward pass is the derivative of its forward pass.

    With random output weights δ, `pull_back` is held against the derivative of ⟨δ, z⟩ with respect
    to the input, `gradients` against that with respect to the parameters, and the activation
    function's own `pull_back` against its derivative.

    Args:
        layer: a layer, such as your own subclass of `nnjax.Layer`.
        in_shape: of one input; None: the first of some odd shapes that the layer takes.
        key: given: training mode, for layers that draw random numbers.
        seed: of the random points.
        time_limit: seconds that one call of the backward pass may take.

    Raises:
        TypeError: if it is no layer.
        ValueError: if it takes none of the shapes tried.

    Example:
        >>> import nnjax
        >>> nnjax.check_layer(nnjax.Dense(5, nnjax.tanh)).ok
        True
    """
    if not isinstance(layer, Layer):
        raise TypeError(f"layer is {layer!r}; expected a layer such as nnjax.Dense(5)")
    shape = _shape_for(layer, in_shape)
    with double_precision():
        points = [
            (label, _draw(layer, shape, n, seed + i))
            for i, (label, n) in enumerate(
                [("a batch of 5", 5), ("one example", 1), ("another batch of 5", 5)]
            )
        ]
        claim = Claim(partial(_claimed, layer, key), time_limit)
        out_shape = tuple(points[0][1][2].shape[1:])
        names = _names(points[0][1][0])
        subject = Subject(
            partial(_weighted, layer, key),
            claim,
            argnums=(0, 1, 2),
            names=names,
            symbols=[name.split()[-1] for name in names],
            letter="C",
            examples=lambda args: args[1].shape[0],
            derive=lambda args, claimed: _LayerDerivation(layer, key, *args),
        )
        return examine(
            f"the layer {_brief(layer)}, {'×'.join(map(str, shape))} → "
            f"{'×'.join(map(str, out_shape))}",
            claim,
            [subject.at(label, args) for label, args in points],
            candidates=_candidates,
            covered=f"{len(points)} points in float64: {'; '.join(label for label, _ in points)}",
            not_covered="other shapes, other precisions, other devices",
            repeat=f"nnjax.check_layer({_brief(layer)}, {shape})",
        )


def _brief(layer):
    """Return a layer as it would be written, without the settings that have their default."""
    said = [
        f"{field.name}={getattr(layer, field.name)!r}"
        for field in dataclasses.fields(layer)
        if getattr(layer, field.name) != field.default
    ]
    return f"{type(layer).__name__}({', '.join(said)})"


def _shape_for(layer, in_shape):
    complaints = []
    for shape in SHAPES if in_shape is None else (tuple(in_shape),):
        try:
            layer.out_shape(shape)
        except Exception as error:
            complaints.append(f"{shape}: {error}")
        else:
            return shape
    raise ValueError(f"{layer} takes none of the shapes tried, give in_shape: {complaints[0]}")


def _draw(layer, shape, n, seed):
    """Return parameters, inputs a, weighted inputs z, and the output weights of both."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.3, 1, leaf.shape) * rng.choice([-1, 1], leaf.shape)),
        jax.eval_shape(lambda: layer.init(jax.random.key(0), shape)),
    )
    out = (n, *layer.out_shape(shape))
    arrays = [rng.normal(size=size) for size in ((n, *shape), out, out, out)]
    return params, *map(jnp.asarray, arrays)


def _forward(layer, key, params, a):
    keys = None if key is None or not layer.random else jax.random.split(key, a.shape[0])
    axes = (None, 0, None if keys is None else 0)
    return jax.vmap(layer.forward, in_axes=axes)(params, a, keys)


def _weighted(layer, key, params, a, z, delta, g):
    """Return (⟨δ, f(a)⟩ + ⟨g, σ(z)⟩) / n: what the layer and its activation are derived of."""
    out, _ = _forward(layer, key, params, a)
    return (jnp.sum(delta * out) + jnp.sum(g * layer.activation(z))) / a.shape[0]


def _claimed(layer, key, params, a, z, delta, g):
    n = a.shape[0]
    _, cache = _forward(layer, key, params, a)
    pulled = jax.vmap(layer.pull_back, in_axes=(None, 0, 0))(params, cache, delta)
    through = layer.activation.pull_back(z, layer.activation(z), g)
    return layer.gradients(cache, delta / n), pulled / n, through / n


def _names(params):
    affine = isinstance(params, Affine)
    leaves = len(jax.tree.leaves(params))
    own = ["gradients w", "gradients b"] if affine else [f"gradients {i}" for i in range(leaves)]
    return [*own, "pull_back a", "activation z"]


class _LayerDerivation(Derivation):
    """The derivation of a single layer, by autodiff: the layer itself is what is in doubt."""

    def __init__(self, layer, key, params, a, z, delta, g):
        self._layer, self.params, self.key = layer, (params,), key
        self.L, self.n, self.claimed = 1, a.shape[0], ()
        self.a = [np.asarray(a), np.asarray(layer.activation(z))]
        self.z = [None, np.asarray(z)]
        self.error, self.arriving = np.asarray(delta), np.asarray(g)
        out, _ = _forward(layer, key, params, a)
        self.out = np.asarray(out)

    @property
    def canonical(self):  # pyright: ignore  (a property for a cached one)
        return False

    def layer(self, l):
        return self._layer

    def _vjp(self, delta, params=None):
        params = self.params[0] if params is None else params
        forward = partial(_forward, self._layer, self.key)
        _, pull = jax.vjp(lambda p, a: forward(p, a)[0], params, jnp.asarray(self.a[0]))
        return pull(jnp.asarray(delta))

    def pull_back(self, l, delta, params=None):
        return np.asarray(self._vjp(delta, params)[1])

    def weights(self, l, delta):
        return np.asarray(self._vjp(delta)[0].w) / self.n

    def biases(self, l, delta):
        return np.asarray(self._vjp(delta)[0].b) / self.n

    def through(self, l, g):
        _, pull = jax.vjp(self.activation(1), jnp.asarray(self.z[1]))
        return np.asarray(pull(jnp.asarray(g))[0])


def _candidates(probes: Sequence[Probe]) -> Iterator[Candidate]:
    """Yield the mistakes that one layer can show, then the general ones."""
    names = probes[0].names
    leaf_of = {"weights": 0, "biases": 1, "pull_back": len(names) - 2, "through": len(names) - 1}
    words = {"l": "", "next": "", "prev": "⁻", "arrives": "g"}
    for made in MISTAKES:
        if made.step in leaf_of:
            i = leaf_of[made.step]
            yield Candidate(made, names[i], partial(_edited, made, i), words)
    yield from general_candidates(probes)


def _edited(made, i, probe: Probe, t: float) -> list[tuple[int, Any]]:
    d = probe.derivation
    given = d.arriving if made.step == "through" else d.error
    # What a pull-back looks at is the layer's own output, what an activation looks at is drawn.
    d.z = [None, d.out if made.step == "pull_back" else probe.args[2]]
    out = made.change(d, 1, given, *([t] if made.fitted else []))
    return [(i, out / d.n if made.step in ("pull_back", "through") else out)]
