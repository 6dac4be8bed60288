"""`check_layer`: somebody's own layer, its backward pass held against its forward pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.checks import check_key, require_instance, require_size
from nnjax.gradcheck.diagnose import Candidate
from nnjax.gradcheck.edits import candidate, edits
from nnjax.gradcheck.equations import Site, forms, scales_of
from nnjax.gradcheck.examine import examine
from nnjax.gradcheck.expressions import Scope
from nnjax.gradcheck.forms import Claim
from nnjax.gradcheck.mistakes import general_candidates
from nnjax.gradcheck.problem import Point, Problem, labels
from nnjax.gradcheck.reference import double_precision
from nnjax.gradcheck.report import GradientReport
from nnjax.layers import Affine, Dropout, Layer, ScaleShift

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
        TypeError: if it is not a layer, key not a random key, or in_shape not a shape.
        ValueError: if it takes none of the shapes tried, or seed is negative.

    Example:
        >>> import nnjax
        >>> nnjax.check_layer(nnjax.Dense(5, nnjax.tanh)).ok
        True
    """
    require_instance(layer, Layer, "layer", "a layer such as nnjax.Dense(5)")
    require_size(seed, "seed", at_least=0, at_most=np.inf)
    if key is not None:
        check_key(key)
    if in_shape is not None:
        require_instance(in_shape, list | tuple, "in_shape", "a shape such as (7,)")
        in_shape = tuple(require_size(size, "a size in in_shape") for size in in_shape)
    shape = _shape_for(layer, in_shape)
    with double_precision():
        labelled = [
            (label, _draw(layer, shape, n, seed + i))
            for i, (label, n) in enumerate(
                [("a batch of 5", 5), ("one example", 1), ("another batch of 5", 5)]
            )
        ]
        claim = Claim(partial(_claimed, layer, key), time_limit)
        out_shape = tuple(labelled[0][1][2].shape[1:])
        names = _names(labelled[0][1][0])
        problem = Problem(
            partial(_weighted, layer, key),
            claim,
            argnums=(0, 1, 2),
            names=names,
            symbols=[name.split()[-1] for name in names],
            letter="C",
            examples=lambda args: args[1].shape[0],
        )
        points = [problem.at(label, args) for label, args in labelled]
        return examine(
            f"the layer {_brief(layer)}, {'×'.join(map(str, shape))} → "
            f"{'×'.join(map(str, out_shape))}",
            claim,
            points,
            candidates=partial(_candidates, layer, key),
            covered=labels(points),
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
    for shape in SHAPES if in_shape is None else (in_shape,):
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
        lambda leaf: jax.device_put(
            rng.uniform(0.3, 1, leaf.shape) * rng.choice([-1, 1], leaf.shape)
        ),
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
    if isinstance(params, ScaleShift):
        own = ["gradients γ", "gradients β"]
    return [*own, "pull_back a", "activation z"]


def _candidates(layer, key, points: Sequence[Point]) -> Iterator[Candidate]:
    """Yield the mistakes that one layer can show, then the general ones."""
    names, first = points[0].names, points[0]
    leaf_of = {"weights": 0, "biases": 1, "back": len(names) - 2, "through": len(names) - 1}
    site = Site(
        layer,
        tuple(first.args[1].shape[1:]),
        isinstance(first.args[0], Affine),
        isinstance(layer, Dropout) and key is not None,
    )
    for step, i in leaf_of.items():
        for edit in edits(site, step) if _is_as_written(layer, key, site, step, first, i) else ():
            predict = partial(_edited, layer, key, step, edit.wrong, i)
            yield candidate(step, edit, predict, names[i], _as_formula)
    yield from general_candidates(points)


def _as_formula(e):
    return e.text(lambda shift: "⁻" * (shift < 0)).replace("∂C/∂a", "g")


def _is_as_written(layer, key, site, step, point, i):
    """Return whether the layer computes what the equations of its kind say."""
    for form in forms(site, step)[:1]:
        try:
            ((_, found),) = _edited(layer, key, step, form, i, point, 0.0)
        except (TypeError, LookupError):
            return False
        return found.shape == point.expected[i].shape and np.allclose(found, point.expected[i])
    return False


def _edited(layer, key, step, form, i, point: Point, t: float) -> list[tuple[int, Any]]:
    params, *arrays = point.args
    out, cache = _forward(layer, key, params, arrays[0])
    a, z, delta, g = (np.asarray(array) for array in arrays)
    quantities = {
        "a": {0: a, 1: np.asarray(layer.activation(arrays[1]))},
        # What a pull-back looks at is the layer's own output, what an activation looks at is drawn.
        "z": {1: np.asarray(out) if step == "back" else z},
        "δ": {1: delta},
        "∂C/∂a": {1: g},
    }
    quantities["γ"] = scales_of({1: params})
    if isinstance(params, Affine):
        quantities |= {"w": {1: np.asarray(params.w)}, "b": {1: np.asarray(params.b)}}
    if isinstance(layer, Dropout) and cache is not None:
        quantities["m"] = {1: np.asarray(cache, np.float64)}
    found = form.value(Scope(quantities, 1, t))
    return [(i, found / len(a) if step in ("back", "through") else found)]
