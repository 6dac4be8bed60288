"""`check_backprop`: somebody's own backpropagation of a network, and which step of it is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.checks import check_key, require_size
from nnjax.gradcheck.calling import Caller
from nnjax.gradcheck.claim import Claim
from nnjax.gradcheck.derivation import BACKWARD, FORWARD, Derivation
from nnjax.gradcheck.examine import examine
from nnjax.gradcheck.hypotheses import MISTAKES, Candidate
from nnjax.gradcheck.localise import Step, localise
from nnjax.gradcheck.mistakes import general_candidates
from nnjax.gradcheck.reference import double_precision, to_double
from nnjax.gradcheck.report import GradientReport
from nnjax.gradcheck.subject import Probe, Subject
from nnjax.layers import Affine, Dense
from nnjax.network import Network, check_batch, init, loss
from nnjax.notation import superscript
from nnjax.regularizers import Regularizer

__all__ = ["check_backprop", "network_candidates"]

KINKED = ("ReLU", "LeakyReLU", "Absolute", "MaxPool")


def check_backprop(
    net: Network,
    hand_backprop: Callable,
    params: Any = None,
    x: Any = None,
    y: Any = None,
    *,
    regularizer: Regularizer | None = None,
    training_size: int = 100,
    key: jax.Array | None = None,
    seed: int = 0,
    time_limit: float = 60.0,
    repeat: str = "",
) -> GradientReport:
    """Return a report on somebody's backpropagation of a network.

    Both are evaluated in float64 at random parameters (biases not zero) and inputs of both signs,
    on batches of 1 and of 5, and where activations or pools have kinks on one batch that lies on
    them; and at params, x and y, if you give them. The gradient is compared with `jax.grad` of the
    loss, the errors that it was computed with are compared layer by layer, and the library of
    mistakes is gone through for the one that explains what is wrong.

    Args:
        net: the network that is meant.
        hand_backprop: hand_backprop(params, x, y) -> gradients. Either for a batch, x (n, ...),
            y (n, n_out) one-hot: the gradient of the mean loss in the structure of params, or a
            `Backprop`, whose errors are then compared directly. Or for ONE example, as in the book,
            x (n_in, 1), y (n_out, 1): (nabla_b, nabla_w), lists of arrays, nabla_b of column
            vectors. Which of both is found by calling it. A fourth argument, if it takes one, is
            the key.
        params, x, y: a point of your own to check at first; all three or none.
        regularizer: what is added to the loss, such as `regularizers.L2(0.1)`.
        training_size: the n of the regularizer's λ/n.
        key: given: training mode (dropout on). The mask of layer i is the one that nnjax draws.
        seed: of the random points.
        time_limit: seconds that one call may take.
        repeat: the command that repeats the check, for the report.

    Raises:
        TypeError, ValueError: if net, params, x or y are not what they should be.

    Example:
        >>> import nnjax
        >>> net = nnjax.mlp([7, 5, 3], activation=nnjax.tanh)
        >>> nnjax.check_backprop(net, lambda p, x, y: nnjax.backprop(net, p, x, y).grads).ok
        True
    """
    if not isinstance(net, Network):
        raise TypeError(f"net is {net!r}; expected a Network, such as nnjax.mlp([11, 7, 3])")
    if not callable(hand_backprop):
        raise TypeError(f"hand_backprop is {hand_backprop!r}; expected a function (params, x, y)")
    if (params is None, x is None, y is None) not in ((True,) * 3, (False,) * 3):
        raise TypeError("give params, x and y, or none of them")
    require_size(training_size, "training_size")
    if key is not None:
        check_key(key)
    with double_precision():
        points = []
        if params is not None:
            params, x, y = to_double((params, x, y))
            x, y = check_batch(net, params, x, y)
            points.append(("the point given", (params, x, y)))
        points += _points(net, seed)
        claim = Claim(hand_backprop, time_limit)
        batch = next(args for label, args in points if label.startswith("a batch of"))
        caller = Caller(claim, *batch, key=key)
        if caller.form.single:
            points = [
                (f"{label}, one example", (p, x[:1], y[:1])) if len(x) > 1 else (label, (p, x, y))
                for label, (p, x, y) in points
            ]
        subject = _subject(net, caller, regularizer, training_size, key)
        probes = [subject.at(label, args, "on kinks" in label) for label, args in points]
        single = next(probe for probe in probes if probe.label == "one example")
        return examine(
            f"the backpropagation {_name(hand_backprop)} of {describe(net)}",
            claim,
            probes,
            candidates=network_candidates,
            localise=lambda probes: _steps(single, caller),
            covered=f"{len(probes)} points in float64: {'; '.join(label for label, _ in points)}; "
            f"called with {caller.form.name}",
            not_covered="other precisions, other devices, the forward pass of the function itself",
            repeat=repeat,
        )


def describe(net: Network) -> str:
    """Return a network in a few words.

    Example:
        >>> import nnjax
        >>> describe(nnjax.mlp([784, 30, 10]))
        '784 → Dense 30 sigmoid → Dense 10 sigmoid, cross_entropy'
    """
    words = ["×".join(map(str, net.input_shape))]
    for layer, shape in zip(net.layers, net.shapes[1:], strict=True):
        kind = type(layer).__name__
        if isinstance(layer, Dense):
            words.append(f"{kind} {shape[0]} {_snake(layer.activation)}")
        else:
            words.append(f"{kind} {'×'.join(map(str, shape))}")
    return f"{' → '.join(words)}, {_snake(net.loss)}"


def _snake(thing):
    return re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", type(thing).__name__).lower()


def _subject(net, caller, regularizer, training_size, key):
    fixed = (net, regularizer, training_size, key)

    def penalty_of(params):
        if regularizer is None:
            return [0.0] * len(jax.tree.leaves(params))
        gradient = regularizer.gradient(params, training_size)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(gradient)]

    def penalties(args, i):
        if regularizer is None:
            return {}
        p = jax.tree.leaves(args[0])[i]
        as_weights = regularizer.gradient((Affine(p, jnp.zeros(1)),), training_size)[0].w
        return {
            "penalty": penalty_of(args[0])[i],
            "penalty_if": np.asarray(as_weights),
            "training_size": training_size,
        }

    def derive(args, claimed):
        d = Derivation(net, *args, key=key)
        d.penalty = penalty_of(args[0])
        d.claimed = [
            None if leaf is None or leaf.shape != np.shape(p) else leaf - penalty
            for leaf, penalty, p in zip(claimed, d.penalty, jax.tree.leaves(args[0]), strict=True)
        ]
        return d

    names = [
        (l, part)
        for l, layer in enumerate(jax.eval_shape(lambda: init(net, jax.random.key(0))), 1)
        for part in (("w", "b") if isinstance(layer, Affine) else ())
    ]
    return Subject(
        lambda params, x, y: _cost(params, x, y, *fixed),
        caller,
        gradient=lambda params, x, y: _gradient(params, x, y, *fixed),
        names=[f"layer {l} {part}" for l, part in names],
        symbols=[f"{part}{superscript(l)}" for l, part in names],
        groups=[f"layer {l}" for l, part in names],
        letter="C",
        n_out=net.n_out,
        examples=lambda args: args[1].shape[0],
        subset=_pick,
        mean_of_examples=True,
        penalties=penalties,
        derive=derive,
    )


@partial(jax.jit, static_argnums=(4, 5))
def _cost(params, x, y, net, regularizer, training_size, key):
    value = loss(net, params, x, y, key)
    if regularizer is not None:
        value = value + regularizer.penalty(params, training_size)
    return value


# Compiled once for a network, however often its backpropagation is checked.
_gradient = jax.jit(jax.grad(_cost), static_argnums=(4, 5))


def _pick(args, indices):
    params, x, y = args
    chosen = list(indices)
    return params, jnp.asarray(np.asarray(x)[chosen]), jnp.asarray(np.asarray(y)[chosen])


# Where to look.


def _points(net: Network, seed: int) -> list[tuple[str, tuple]]:
    """Return random points: batches of 5 and 1, other parameters each; one on kinks and ties."""
    # A batch as large as a layer would let sums over the wrong axis pass for right ones in shape.
    sizes = {size for shape in net.shapes for size in shape}
    n = next(n for n in (5, 6, 4, 7, 9, 11, 13, *range(14, 1000)) if n not in sizes)
    points = [
        (f"a batch of {n}", _draw(net, n, seed)),
        ("one example", _draw(net, 1, seed + 1)),
        (f"other parameters, a batch of {n}", _draw(net, n, seed + 2)),
    ]
    kinds = {type(layer.activation).__name__ for layer in net.layers}
    kinds |= {type(layer).__name__ for layer in net.layers}
    if kinds & set(KINKED):
        points.append((f"a batch of {n} on kinks and ties", _on_kinks(net, n, seed + 3)))
    return points


def _draw(net, n, seed):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: init(net, jax.random.key(0)))

    def entry(p):
        if not isinstance(p, Affine):
            return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), p)
        fan_in = int(np.prod(p.w.shape[1:]))
        w = rng.normal(size=p.w.shape) * (1.2 / np.sqrt(fan_in))
        b = rng.uniform(0.2, 0.7, p.b.shape) * rng.choice([-1, 1], p.b.shape)
        return Affine(jnp.asarray(w), jnp.asarray(b))

    params = tuple(map(entry, shapes))
    x = jnp.asarray(rng.normal(size=(n, *net.input_shape)))
    if net.n_out == 1:
        y = rng.integers(2, size=(n, 1)).astype(float)
    else:
        y = np.eye(net.n_out)[rng.integers(net.n_out, size=n)]
    return params, x, jnp.asarray(y)


def _on_kinks(net, n, seed):
    """Return a point where some weighted inputs are exactly 0 and some inputs are equal."""
    params, x, y = _draw(net, n, seed)

    def entry(p):
        if not isinstance(p, Affine):
            return p
        return Affine(p.w.at[::3].set(0.0), p.b.at[::3].set(0.0))  # every third neuron gets z = 0

    if x.ndim == 4:  # images of few grey levels have ties in every pool
        x = jnp.round(x)
    last = len(params) - 1
    return tuple(p if i == last else entry(p) for i, p in enumerate(params)), x, y


# Which mistakes to try, and where.


def network_candidates(probes: Sequence[Probe]) -> Iterator[Candidate]:
    """Yield every mistake about a network's derivation in every layer, then the general ones.

    Mistakes are held against points away from kinks, unless the claim is right there.
    """
    d = probes[0].derivation
    index = {}
    for l in range(1, d.L + 1):
        if d.has_parameters(l):
            index[l, "w"], index[l, "b"] = len(index), len(index) + 1
    wrong = {probe.names[i] for probe in probes for i in probe.wrong}
    top = max((l for l, part in index if f"layer {l} {part}" in wrong), default=0)
    for made in MISTAKES:
        if made.step in FORWARD + BACKWARD:
            for layers in _scopes(made.step, d, top):
                yield Candidate(
                    made,
                    _where(made.step, layers, d),
                    _replaced(made, layers, index),
                    _formula_words(made.step, layers, d),
                )
    yield from general_candidates(probes)


def _replaced(made, layers, index):
    def predict(probe, t):
        d = probe.derivation
        for l, part, gradient in d.wrong_gradients(made, layers, t):
            i = index[l, part]
            yield i, gradient + d.penalty[i]

    return predict


def _scopes(step, d, top) -> Iterator[tuple[int, ...]]:
    """Yield the sets of layers in which to make a mistake: each alone, all hidden ones, all."""
    first = {"output_error": d.L, "pull_back": 2}.get(step, 1)
    single = [(l,) for l in range(first, d.L + 1)]
    several = [tuple(range(first, d.L)), tuple(range(first, d.L + 1))]
    seen = set()
    for layers in single + [layers for layers in several if len(layers) > 1]:
        if step not in FORWARD and _highest_affected(step, max(layers), d) < top:
            continue
        if layers not in seen:
            seen.add(layers)
            yield layers


def _highest_affected(step, l, d):
    l = l - 1 if step == "pull_back" else l
    return next((k for k in range(l, 0, -1) if d.has_parameters(k)), 0)


def _where(step, layers, d):
    if step == "pull_back":
        if len(layers) > 1:
            return "every layer" if len(layers) == d.L - 1 else "every hidden layer"
        return f"from layer {layers[0]} back to layer {layers[0] - 1}"
    if len(layers) > 1:
        return "every layer" if len(layers) == d.L else "every hidden layer"
    return f"layer {layers[0]}" if d.L > 1 else ""


def _formula_words(step, layers, d):
    if len(layers) > 1:
        l, following, before = "ˡ", "ˡ⁺¹", "ˡ⁻¹"
    else:
        number = layers[0] - (step == "pull_back")
        l, following, before = (superscript(k) for k in (number, number + 1, number - 1))
    output = layers == (d.L,) and step in ("output_error", "through")
    return {
        "l": l,
        "next": following,
        "prev": before,
        "arrives": "∂C/∂a" + l if output else f"(w{following})ᵀ δ{following}",
    }


# Which step is the first wrong one.


def _steps(probe: Probe, caller: Caller) -> list[str]:
    if not probe.wrong:
        return []
    d = probe.derivation
    return _in_words(localise(d, d.claimed, caller.errors.get(id(probe.args[0]))))


def _in_words(steps: Sequence[Step]) -> list[str]:
    errors = []
    for step in steps:
        if step.equation in ("BP1", "BP2"):
            name = f"δ{superscript(step.layer)}"
            if step.ok and step.error <= 1e-9:
                errors.append(f"{name} right")
            elif step.ok:
                errors.append(f"{name} right, given what it was fed")
            elif np.isnan(step.error):
                errors.append(f"{name} or what follows from it is wrong")
            else:
                errors.append(f"{name} wrong ({step.error:.1e})")
    wrong = [step for step in steps if not step.ok]
    lines = [f"errors from the output back: {'; '.join(errors)}"]
    if wrong:
        first, *others = wrong
        lines.append(f"first wrong: {_step_name(first)}")
        if others:
            lines[-1] += "; wrong on their own too: " + ", ".join(map(_step_name, others))
    return lines


def _step_name(step):
    l = superscript(step.layer)
    return {
        "BP1": f"BP1, the error at the output, δ{l}",
        "BP2": f"BP2, from δ{superscript(step.fed)} to δ{l}",
        "BP3": f"BP3, ∂C/∂b{l} from δ{l}",
        "BP4": f"BP4, ∂C/∂w{l} from δ{l}",
    }[step.equation]


def _name(function):
    while hasattr(function, "func"):
        function = function.func
    name = getattr(function, "__name__", None) or type(function).__name__
    return "(lambda)" if name == "<lambda>" else name
