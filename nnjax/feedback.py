"""Learning rules that carry errors back by other matrices than wᵀ: BP2 with another matrix.

Backpropagation needs, on the way back, the transpose of the weights of the way forward, which no
nerve cell could know. These rules put something else in its place and leave BP1, BP3 and BP4 as
they are. With W the weights of a layer, B its feedback weights, ⊙ σ'(z) as ever:

    rule                              in place of wᵀδ          feedback weights B
    transpose                         Wᵀ δ                         none: backpropagation
    feedback_alignment                Bᵀ δ                         fixed, random
    sign_symmetry                     (sign(W) ⊙ |B|)ᵀ δ           fixed sizes, the signs of W
    kolen_pollack                     Bᵀ δ                         learn as W does, both decay
    direct_feedback_alignment         Bᵀ δ^L                       fixed, random, from the output
    direct_random_target_projection   −Bᵀ y                        fixed, random, from the targets
    output_only                       0                            none: hidden layers stay

The result is not a gradient of the loss (except with B = W), so `backprop` returns it as
`updates`. A rule is a pytree whose leaves are its feedback weights: pass it through `jit`, stack
and `vmap` it, donate it. Cost: that of backpropagation; the direct rules need one product with
(n_out, n_in) a layer in place of (n_l, n_in), and no layer waits for the one after it.

Layers that are not `z = w X + b` (pooling, dropout, flattening, layer normalization) have a
pull-back without a transposed matrix, and keep it; so do residual blocks, along which errors come
back as they are. So a direct rule projects the output's error onto the input of each layer that has
weights, from where it continues through pooling and σ' as usual. Feedback weights are cast to the
dtype of the errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp

from nnjax import initializers
from nnjax.checks import check_key, require_dtype, require_scalar
from nnjax.layers.base import Affine, AffineLayer
from nnjax.network import Network, Params, check_params, require_network
from nnjax.network import init as init_params
from nnjax.pieces import at_least_float32

__all__ = [
    "RULES",
    "DirectFeedbackAlignment",
    "DirectRandomTargetProjection",
    "Feedback",
    "FeedbackAlignment",
    "KolenPollack",
    "OutputOnly",
    "SignSymmetry",
    "alignment",
    "init",
]


class Feedback:
    """What may take the place of wᵀδ in BP2. The rules are in `nnjax.feedback`.

    A rule is a pytree whose leaves are its feedback weights. A subclass defines `check` and
    `pull_back`, and `follow` if its weights learn.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 4, 2], activation=nnjax.tanh)
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> rule = nnjax.feedback.init(net, jax.random.key(1), "feedback_alignment")
        >>> x, y = jnp.eye(3), jnp.array([0, 1, 1])
        >>> type(nnjax.backprop(net, params, x, y, feedback=rule)).__name__
        'FeedbackPass'
    """

    def check(self, net: Network) -> None:
        """Raise ValueError if the feedback weights do not fit the network."""
        raise NotImplementedError(f"{type(self).__name__} must define check(net)")

    def pull_back(
        self,
        net: Network,
        params: Params,
        l: int,
        cache: Any,
        delta: jax.Array,
        output_error: jax.Array,
        y: Any,
    ) -> jax.Array:
        """Return what stands for ∂C/∂a (n, ...), a being what goes into layers[l].

        Args:
            net, params: the network and its parameters.
            l: index of a layer, at least 1.
            cache: what its forward pass has left, one row per example.
            delta: the error of that layer, (n, ...).
            output_error: δ^L, (n, n_out).
            y: the targets, (n, n_out).
        """
        raise NotImplementedError(f"{type(self).__name__} must define pull_back(...)")

    def follow(self, before: Params, after: Params) -> tuple[Params, Feedback]:
        """Return parameters and feedback weights after a step that took `before` to `after`.

        Here both stay as they are: most rules keep their feedback weights fixed.
        """
        return after, self


def check_feedback(net: Network, feedback: Any) -> None:
    """Raise TypeError or ValueError unless `feedback` is None or a rule that fits the network."""
    if feedback is None:
        return
    if not isinstance(feedback, Feedback):
        raise TypeError(
            f"feedback is {feedback!r}; expected None or a rule with its weights, such as "
            'nnjax.feedback.init(net, key, "feedback_alignment")'
        )
    feedback.check(net)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class FeedbackAlignment(Feedback):
    """Fixed random feedback weights: g = Bᵀ δ^{l+1}. The forward weights come to align with them.

    Args:
        weights: B, of the structure and shapes of the parameters. Those of the first layer, the
            biases, and what belongs to layers that are not affine have no part in it. With the
            parameters themselves it is backpropagation.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 4, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> x, y = jnp.eye(3), jnp.array([0, 1, 1])
        >>> rule = nnjax.feedback.FeedbackAlignment(params)
        >>> updates = nnjax.backprop(net, params, x, y, feedback=rule).updates
        >>> bool(jnp.all(updates[0].w == nnjax.backprop(net, params, x, y).grads[0].w))
        True

    Reference: Lillicrap et al. 2016, Nature Communications 7:13276.
    """

    weights: Params

    def check(self, net):
        check_params(net, self.weights, "feedback.weights")

    def pull_back(self, net, params, l, cache, delta, output_error, y):
        weights = _as(delta.dtype, self.weights[l]) if _has_weights(net, l) else params[l]
        return _through(net, weights, l, cache, delta)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class SignSymmetry(FeedbackAlignment):
    """Feedback weights with the signs of the forward weights and fixed sizes.

    g = (sign(W) ⊙ |B|)ᵀ δ^{l+1}. B random is the "fixed random-magnitude" form of the paper;
    B constant, the "uniform" one.

    Args:
        weights: B, of the structure and shapes of the parameters; its signs have no part in it.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 4, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> uniform = nnjax.feedback.SignSymmetry(jax.tree.map(jnp.ones_like, params))
        >>> bp = nnjax.backprop(net, params, jnp.eye(3), jnp.array([0, 1, 1]), feedback=uniform)
        >>> bp.updates[0].w.shape
        (4, 3)

    Reference: Liao, Leibo and Poggio 2016, arXiv:1510.05067.
    """

    def pull_back(self, net, params, l, cache, delta, output_error, y):
        weights = params[l]
        if _has_weights(net, l):
            sizes = jax.tree.map(jnp.abs, _as(delta.dtype, self.weights[l]))
            weights = jax.tree.map(lambda w, size: jnp.sign(w) * size, weights, sizes)
        return _through(net, weights, l, cache, delta)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class KolenPollack(FeedbackAlignment):
    """Feedback weights that learn: W and B get the same change, and both decay.

    With u the change of one step: W ← (1 − ρ) W + u, B ← (1 − ρ) B + u. So
    B − W ← (1 − ρ)(B − W): the feedback weights become the transpose that nobody told them.
    `follow` does this after each step, whatever the optimizer; do not decay the weights there.

    Args:
        weights: B, of the structure and shapes of the parameters.
        decay: ρ, the fraction that weights (not biases) lose in a step, 0 ≤ ρ < 1.

    Raises:
        ValueError: if decay is out of range.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 4, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> x, y = jnp.eye(3), jnp.array([0, 1, 1])
        >>> rule = nnjax.feedback.init(net, jax.random.key(1), "kolen_pollack")
        >>> updates = nnjax.backprop(net, params, x, y, feedback=rule).updates
        >>> stepped = jax.tree.map(lambda p, u: p - 0.5 * u, params, updates)
        >>> stepped, rule = rule.follow(params, stepped)

    Reference: Akrout et al. 2019, arXiv:1904.05391; Kolen and Pollack 1994.
    """

    decay: chex.Numeric = 1e-4

    def check(self, net):
        super().check(net)
        expected = "the fraction that weights lose in a step, 0 <= decay < 1"
        require_scalar(self.decay, "decay of KolenPollack", expected, 0, 1 - 1e-12)

    def follow(self, before, after):
        def kept(w):
            return jnp.asarray(1 - self.decay, w.dtype) * w

        def both(old, new, b):
            if not isinstance(new, Affine):
                return new, b
            change = new.w - old.w
            return new._replace(w=kept(old.w) + change), b._replace(
                w=kept(b.w) + change.astype(b.w.dtype)
            )

        pairs = [both(*entry) for entry in zip(before, after, self.weights, strict=True)]
        params, weights = zip(*pairs, strict=True)
        return params, KolenPollack(weights, self.decay)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class DirectFeedbackAlignment(Feedback):
    """The output's error, sent to every layer at once: g = Bᵀ δ^L.

    Args:
        weights: one entry per layer: B (n_out, *shape of what goes into the layer), or () for the
            first layer and those without weights. With one hidden layer it is feedback
            alignment.

    Example:
        >>> import jax, nnjax
        >>> net = nnjax.mlp([3, 5, 4, 2])
        >>> rule = nnjax.feedback.init(net, jax.random.key(0), "direct_feedback_alignment")
        >>> [b.shape for b in rule.weights[1:]]
        [(2, 5), (2, 4)]

    Reference: Nøkland 2016, arXiv:1609.01596.
    """

    weights: tuple[Any, ...]

    def check(self, net):
        expected, came = (jax.tree.map(jnp.shape, t) for t in (_direct_weights(net), self.weights))
        if came != expected:
            raise ValueError(
                f"feedback.weights have the shapes {came}, but this network takes {expected}: "
                "(n_out, *in_shape) for each layer with weights but the first, else ()"
            )

    def pull_back(self, net, params, l, cache, delta, output_error, y):
        if not _has_weights(net, l):
            return _through(net, params[l], l, cache, delta)
        signal = self.signal(output_error, y)
        return jnp.tensordot(signal, _as(delta.dtype, self.weights[l]), axes=1)

    def signal(self, output_error: jax.Array, y: jax.Array) -> jax.Array:
        """Return what is sent to the layers, (n, n_out): here the output's error."""
        return output_error


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class DirectRandomTargetProjection(DirectFeedbackAlignment):
    """The targets, sent to every layer at once: g = −Bᵀ y. No layer waits for the output.

    The paper takes y for the sign of the output's error, y − a there and a − y here, which explains
    the minus.

    Args:
        weights: as those of `DirectFeedbackAlignment`.

    Example:
        >>> import jax, nnjax
        >>> net = nnjax.mlp([3, 4, 2])
        >>> rule = nnjax.feedback.init(net, jax.random.key(0), "direct_random_target_projection")
        >>> rule.weights[1].shape
        (2, 4)

    Reference: Frenkel, Lefebvre and Bol 2021, arXiv:1909.01311.
    """

    def signal(self, output_error, y):
        return -y


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class OutputOnly(Feedback):
    """No feedback: only the last layer that has weights learns, on random features.

    The baseline that every other rule has to beat.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> net = nnjax.mlp([3, 4, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> rule = nnjax.feedback.OutputOnly()
        >>> bp = nnjax.backprop(net, params, jnp.eye(3), jnp.array([0, 1, 1]), feedback=rule)
        >>> bool(jnp.any(bp.updates[0].w)), bool(jnp.any(bp.updates[1].w))
        (False, True)
    """

    def check(self, net):
        pass

    def pull_back(self, net, params, l, cache, delta, output_error, y):
        g = _through(net, params[l], l, cache, delta)
        return jnp.zeros_like(g) if _has_weights(net, l) else g


RULES: dict[str, type[Feedback] | None] = {
    "transpose": None,
    "feedback_alignment": FeedbackAlignment,
    "sign_symmetry": SignSymmetry,
    "kolen_pollack": KolenPollack,
    "direct_feedback_alignment": DirectFeedbackAlignment,
    "direct_random_target_projection": DirectRandomTargetProjection,
    "output_only": OutputOnly,
}
"""The rules by name; `transpose` is backpropagation, which takes no feedback weights."""


def init(net: Network, key: jax.Array, rule: str, dtype: Any = float) -> Any:
    """Return a rule with random feedback weights, for the `feedback` of `backprop` and `train`.

    Weights are randn / √n_in, as forward weights start by default, whatever the layers' own
    initializers (an output layer that starts at zero needs feedback all the same).

    Args:
        net: the network.
        key: a random key, another than that of the parameters.
        rule: a name in `RULES`.
        dtype: that of the parameters.

    Returns:
        A `Feedback`, or None for "transpose".

    Raises:
        ValueError: if there is no such rule.
        TypeError: if key is not a random key, net not a Network, or dtype not a floating-point
            type.

    Example:
        >>> import jax, nnjax
        >>> nnjax.feedback.init(nnjax.mlp([3, 2]), jax.random.key(0), "dfa")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: rule is 'dfa'; expected one of transpose, feedback_alignment, ...
    """
    require_network(net)
    check_key(key)
    require_dtype(dtype)
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}; expected one of {', '.join(RULES)}")
    kind: Any = RULES[rule]
    if kind is None:
        return None
    if kind is OutputOnly:
        return OutputOnly()
    like = _direct_weights(net) if issubclass(kind, DirectFeedbackAlignment) else _params(net)
    leaves, structure = jax.tree.flatten(like)
    keys = initializers.split(key, max(len(leaves), 1))
    randn = initializers.default.weights
    weights = [
        initializers.draw(randn, k, leaf.shape, dtype)
        if leaf.ndim > 1
        else jnp.zeros(leaf.shape, dtype)
        for k, leaf in zip(keys, leaves, strict=False)
    ]
    return kind(jax.tree.unflatten(structure, weights))


def alignment(these: Sequence[Any], those: Sequence[Any]) -> jax.Array:
    """Return the angle between two of a kind, layer by layer, in degrees.

    For updates beside gradients, feedback weights beside weights, or two passes' errors:
    0 is backpropagation's direction, below 90 still downhill, 90 as good as random.

    Args:
        these: one entry per layer, each an array, a pytree of arrays (all its leaves together are
            one vector) or ().
        those: another of the same structure and shapes.

    Returns:
        (layers,) angles from 0 to 180; NaN where an entry is empty or zero.

    Raises:
        ValueError: if the two differ in structure or shapes.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> east, north = jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0])
        >>> angles = nnjax.feedback.alignment([east, east, east], [east, north, -east])
        >>> [round(float(angle), 3) for angle in angles]
        [0.0, 90.0, 180.0]

    Reference: Lillicrap et al. 2016, figure 2.
    """
    these, those = tuple(these), tuple(those)
    came = [jax.tree.map(jnp.shape, tree) for tree in (these, those)]
    if came[0] != came[1]:
        raise ValueError(
            f"alignment compares two of the same shapes, but these have {came[0]} and those "
            f"{came[1]}"
        )
    return jnp.stack([_angle(a, b) for a, b in zip(these, those, strict=True)])


def _angle(a, b):
    if not jax.tree.leaves(a):
        return jnp.array(jnp.nan)
    a, b = (_flat(t) for t in (a, b))
    a, b = a / jnp.linalg.norm(a), b / jnp.linalg.norm(b)
    # Kahan's formula: the arc cosine would lose half the digits of a small angle.
    return jnp.degrees(2 * jnp.arctan2(jnp.linalg.norm(a - b), jnp.linalg.norm(a + b)))


def _flat(tree):
    """Return all leaves as one vector, in float32 at least, so that its norm does not overflow."""
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)]
    return jnp.concatenate([leaf.astype(at_least_float32(leaf.dtype)) for leaf in leaves])


def _through(net, weights, l, cache, delta):
    """Return wᵀδ (n, ...) with the weights given, or the pull-back of a layer that has none."""
    return jax.vmap(net.layers[l].pull_back, in_axes=(None, 0, 0))(weights, cache, delta)


def _as(dtype, weights):
    """Return feedback weights in the dtype that is computed in, whatever they came in."""
    return jax.tree.map(lambda b: b.astype(dtype), weights)


def _has_weights(net, l):
    return isinstance(net.layers[l], AffineLayer)


def _params(net):
    """Return the parameters' structure, with shapes for arrays."""
    return jax.eval_shape(lambda: init_params(net, jax.random.key(0)))


def _direct_weights(net):
    """Return B (n_out, *in_shape) for each layer, as a shape, or () where no feedback comes in."""
    return tuple(
        jax.ShapeDtypeStruct((net.n_out, *net.shapes[l]), float)
        if l and _has_weights(net, l)
        else ()
        for l in range(len(net.layers))
    )
