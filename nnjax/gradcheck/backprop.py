"""`check_backprop`: somebody's own backpropagation of a network, and which step of it is wrong."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.activations import Absolute, LeakyReLU, ReLU
from nnjax.checks import check_key, require_instance, require_size
from nnjax.gradcheck.compare import Misfit, named_leaves
from nnjax.gradcheck.diagnose import Candidate, explains, wrong_leaves
from nnjax.gradcheck.edits import mentions, network_edits
from nnjax.gradcheck.equations import BACKWARD, Derivation
from nnjax.gradcheck.examine import examine
from nnjax.gradcheck.forms import Caller, Claim, name_of
from nnjax.gradcheck.localise import in_words, localise
from nnjax.gradcheck.mistakes import LeafView, general_candidates, single_candidates
from nnjax.gradcheck.operations import Undetermined
from nnjax.gradcheck.problem import Point, Problem, labels
from nnjax.gradcheck.reference import double_precision, to_double
from nnjax.gradcheck.report import GradientReport, Verdict
from nnjax.layers import Affine, Dense, MaxPool, ScaleShift
from nnjax.losses import targets
from nnjax.network import Network, check_batch, forward_layer, init, loss
from nnjax.notation import superscript
from nnjax.regularizers import Regularizer

__all__ = ["check_backprop", "describe", "draw"]

KINKED = (ReLU, LeakyReLU, Absolute, MaxPool)


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
    them; and at params, x and y, if you give them. Where shapes do not fit, it is called once more
    with layers of equal size, so that the mistake behind it shows. The gradient is compared with
    `jax.grad` of the loss, and so are the errors, where they are returned. If something is wrong,
    every step of the right derivation is edited in turn, for the edit that explains it.

    Args:
        net: the network that is meant.
        hand_backprop: hand_backprop(params, x, y) -> gradients. Either for a batch, x (n, ...),
            y (n, n_out) one-hot: the gradient of the mean loss in the structure of params, or a
            `Backprop`, whose errors are then compared too. Or for ONE example, as in the book,
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
    require_size(seed, "seed", at_least=0, at_most=np.inf)
    if regularizer is not None:
        require_instance(
            regularizer, Regularizer, "regularizer", "one such as nnjax.regularizers.L2(0.1)"
        )
    if key is not None:
        check_key(key)
    with double_precision():
        labelled = []
        if params is not None:
            params, x, y = to_double((params, x, y))
            x, y = check_batch(net, params, x, y)
            labelled.append(("the point given", (params, x, y)))
        labelled += _labelled(net, seed)
        claim = Claim(hand_backprop, time_limit)
        batch = next(args for label, args in labelled if label.startswith("a batch of"))
        caller = Caller(claim, *batch, key=key)
        if caller.form.single:
            labelled = [
                (f"{label}, one example", (p, x[:1], y[:1])) if len(x) > 1 else (label, (p, x, y))
                for label, (p, x, y) in labelled
            ]
        derived = _Backpropagation(
            net, caller, regularizer, training_size, key, _gives_errors(caller, batch)
        )
        points = [
            derived.problem.at(label, derived.arguments(*args), "on kinks" in label)
            for label, args in labelled
        ]
        single = next(point for point in points if point.label == "one example")
        report = examine(
            f"the backpropagation {name_of(hand_backprop)} of {describe(net)}",
            claim,
            points,
            candidates=derived.candidates,
            localise=lambda points: derived.steps(single),
            covered=f"{labels(points)}; called with {caller.form.name}",
            not_covered="other precisions, other devices, the forward pass of the function itself",
            repeat=repeat,
        )
    square = _of_equal_sizes(net)
    fits = caller.works and all(leaf.ok or leaf.verdict == "wrong" for leaf in report.leaves)
    if report.verdict != Verdict.WRONG or report.findings or fits or square is None:
        return report
    # What does not fit because of its shape fits where all layers are of one size.
    options = {"regularizer": regularizer, "training_size": training_size, "key": key}
    again = check_backprop(square, hand_backprop, seed=seed, time_limit=time_limit, **options)
    if not again.findings:
        return report
    what = f"With {square.n_out} neurons in every layer all shapes fit, and the mistake shows."
    return replace(
        report, reason=f"{report.reason} {what}", steps=again.steps, findings=again.findings
    )


def _of_equal_sizes(net: Network) -> Network | None:
    """Return a network of dense layers with all layers of one size; None if it is not one."""
    sizes = {*net.input_shape, *(size for shape in net.shapes for size in shape)}
    dense = all(isinstance(layer, Dense) for layer in net.layers)
    if not dense or len(net.input_shape) != 1 or len(sizes) == 1:
        return None
    layers = tuple(replace(layer, size=7) for layer in net.layers)  # pyright: ignore
    return replace(net, input_shape=(7,), layers=layers)


def describe(net: Network) -> str:
    """Return a network in a few words.

    Example:
        >>> import nnjax
        >>> describe(nnjax.mlp([784, 30, 10]))
        '784 → Dense 30 sigmoid → Dense 10 sigmoid, cross_entropy'
    """
    words = ["×".join(map(str, net.input_shape))]
    for layer, shape in zip(net.layers, net.shapes[1:], strict=True):
        size, kind = "×".join(map(str, shape)), type(layer).__name__
        activation = f" {layer.activation.name}" if isinstance(layer, Dense) else ""
        words.append(f"{kind} {size}{activation}")
    return f"{' → '.join(words)}, {net.loss.name}"


def _gives_errors(caller, batch):
    try:
        return caller.call(*batch)[1] is not None
    except Misfit:
        return False  # `examine` says why


class _NetworkProblem(Problem):
    """The loss of a network as a function of its parameters, and of what is added to z."""

    def moved(self, args, strength, seed, sign=1):
        """Move the parameters alone: nobody's function is told of what is added to z."""
        return (super().moved(args, strength, seed, sign)[0], *args[1:])


class _Backpropagation:
    """A network, and somebody's backpropagation of it: where to look, and what to try.

    The gradient with respect to zeros that are added to the weighted inputs z^l is the error δ^l:
    where the function returns its errors, they are checked as such.
    """

    def __init__(self, net, caller, regularizer, training_size, key, with_errors):
        self.net, self.caller, self.key, self.with_errors = net, caller, key, with_errors
        self.regularizer, self.training_size = regularizer, training_size
        fixed = (net, regularizer, training_size, key)
        shapes = jax.eval_shape(lambda: init(net, jax.random.key(0)))
        self.parts = [(l, part) for l, entry in enumerate(shapes, 1) for part in _parts(entry)]
        self.parts += [(l, "δ") for l in range(1, len(net.layers) + 1) if with_errors]
        self.index = {at: i for i, at in enumerate(self.parts)}
        self.derivations: dict[str, Derivation] = {}
        self.problem = _NetworkProblem(
            lambda *args: _value(*args, *fixed),
            self.claimed,
            argnums=(0, 1) if with_errors else 0,
            gradient=lambda *args: _gradient(*args, *fixed)[slice(None) if with_errors else 0],
            names=[f"layer {l} {'error' if part == 'δ' else part}" for l, part in self.parts],
            symbols=[f"{'z' if part == 'δ' else part}{superscript(l)}" for l, part in self.parts],
            groups=[f"layer {l}" for l, _ in self.parts],
            letter="C",
            examples=lambda args: args[2].shape[0],
            subset=self.subset,
            mean_of_examples=not with_errors,
        )

    def arguments(self, params, x, y):
        """Return the arguments of the loss: with zeros to add to z."""
        zeros = [jnp.zeros((x.shape[0], *shape)) for shape in self.net.shapes[1:]]
        return params, tuple(zeros) if self.with_errors else (), x, y

    def subset(self, args, indices):
        """Return the arguments with these examples alone."""
        chosen = list(indices)
        pick = partial(jax.tree.map, lambda leaf: jax.device_put(np.asarray(leaf)[chosen]))
        return (args[0], *map(pick, args[1:]))

    def claimed(self, params, zeros, x, y):
        """Return what the function claims, in the structure of the arguments."""
        grads, errors = self.caller.call(params, x, y)
        return (grads, errors) if self.with_errors else grads

    def derivation(self, point):
        """Return the derivation at a point."""
        if point.label not in self.derivations:
            params, _, x, y = point.args
            self.derivations[point.label] = Derivation(self.net, params, x, y, self.key)
        return self.derivations[point.label]

    def penalty(self, point):
        """Return what the regularizer adds to each leaf."""
        params = point.args[0]
        if self.regularizer is None:
            return [0.0] * len(self.parts)
        gradient = self.regularizer.gradient(params, self.training_size)
        zeros = [0.0] * (len(self.parts) - len(jax.tree.leaves(params)))
        return [*map(np.asarray, jax.tree.leaves(gradient)), *zeros]

    def view(self, point, i):
        """Return what a mistake about leaf i sees."""
        seen = LeafView(
            point.expected[i],
            point.parameters[i],
            point.n,
            point.claimed_arrays[i],
            n_out=self.net.n_out,
        )
        if self.regularizer is None or self.parts[i][1] == "δ":
            return seen
        as_weights = (Affine(jax.device_put(point.parameters[i]), jnp.zeros(1)),)
        return replace(
            seen,
            penalty=self.penalty(point)[i],
            penalty_if=np.asarray(self.regularizer.gradient(as_weights, self.training_size)[0].w),
            training_size=self.training_size,
        )

    # Which mistakes to try, and where.

    def candidates(self, points: Sequence[Point]) -> Iterator[Candidate]:
        """Yield every edit of the derivation in every layer, the general mistakes, then pairs."""
        origin = _origin(self.caller.claim.function)
        edited = list(self.edited(points))
        for made in itertools.chain(
            (candidate for candidate, _, reaches in edited if reaches),
            general_candidates(points, self.view),
            self.pairs(points, edited),
            single_candidates(points, self.view),
        ):
            yield made._replace(origin=origin)

    def edited(self, points):
        """Yield (candidate, changes, whether it reaches all that is wrong) for edits of one step.

        Each is made in one layer, in all hidden ones, in all.
        """
        d = self.derivation(points[0])
        top = max((self.parts[i][0] for i in wrong_leaves(points)), default=0)
        for made in network_edits(d):
            for layers in _scopes(made.step, d.L, made.changes):
                changes = {at: e for l in layers for at, e in made.changes[l].items()}
                candidate = Candidate(
                    *made.words,
                    *made.formulas(*_indices(made.step, layers, d)),
                    _where(made.step, layers, d.L),
                    partial(self.predict, changes),
                    made.fitted,
                    made.known,
                )
                reach = self.reach(made.step, max(layers), d)
                yield candidate, changes, made.step not in BACKWARD or reach >= top

    def reach(self, step, l, d):
        """Return the last layer in which an edit of a step can show."""
        l = l - 1 if step == "back" else l
        shows = (k for k in range(l, 0, -1) if self.with_errors or d.has_parameters(k))
        return next(shows, 0)

    def predict(self, changes, point, t):
        """Yield the leaves that follow from the steps changed."""
        known = {}
        if any(mentions(e, "m'") for e in changes.values()):
            known["m'"] = self.claimed_masks(point)
        penalty = self.penalty(point)
        for l, part, array in self.derivation(point).leaves(changes, t, **known):
            if (l, part) in self.index:
                i = self.index[l, part]
                yield i, array + penalty[i]

    def claimed_masks(self, point):
        """Return which inputs of each layer the claimed error reaches: where it is not 0.

        It shows in the gradient of the biases of the layer before, for one example.
        """
        if point.n != 1:
            raise Undetermined
        biases = {l: point.claimed_arrays[i] for (l, part), i in self.index.items() if part == "b"}
        return {l + 1: (b != 0)[None].astype(float) for l, b in biases.items() if b is not None}

    def pairs(self, points, edited):
        """Yield two edits at once: one that explains the last wrong layer, and another one."""
        wrong = wrong_leaves(points)
        top = max((self.parts[i][0] for i in wrong), default=0)
        near = frozenset(i for i, (l, _) in enumerate(self.parts) if l >= top)
        plain = [found for found in edited if found[0].known and not found[0].fitted]
        for first, changes, reaches in plain:
            if reaches and explains(first._replace(only=near), points):
                for second, others, _ in plain:
                    if not changes.keys() & others.keys():
                        parts = (
                            first._replace(only=near & frozenset(wrong)),
                            second._replace(only=frozenset(wrong) - near),
                        )
                        both = partial(self.predict, changes | others)
                        yield first._replace(predict=both, parts=parts, stage=2)

    def steps(self, point):
        """Return lines that say which step is the first wrong one."""
        if not wrong_leaves([point]):
            return []
        penalty, claimed = self.penalty(point), point.claimed_arrays
        seen = {}
        for at, i in self.index.items():
            fits = claimed[i] is not None and claimed[i].shape == point.expected[i].shape
            seen[at] = claimed[i] - penalty[i] if fits else None
        return in_words(localise(self.derivation(point), seen))


def _parts(entry):
    """Return what the parameters of a layer are called."""
    if isinstance(entry, Affine):
        return ["w", "b"]
    if isinstance(entry, ScaleShift):
        return ["γ", "β"]
    return [path or "parameter" for path in named_leaves(entry)[0]]


def _origin(function):
    """Return the file and line where a function is defined, as far as they are known."""
    while isinstance(function, partial):
        function = function.func
    try:
        lines, number = inspect.getsourcelines(inspect.unwrap(function))
        return {"file": inspect.getsourcefile(function), "line": number, "source": lines[0].strip()}
    except (TypeError, OSError):
        return {}


def _cost(params, zeros, x, y, net, regularizer, training_size, key):
    """Return the loss, with `zeros` added to the weighted inputs, n times in a batch of n."""
    if zeros:
        n, inputs = x.shape[0], []
        a = z = jnp.reshape(x, (n, *net.input_shape)).astype(float) / (
            255 if x.dtype == jnp.uint8 else 1
        )
        for l, (layer, zero) in enumerate(zip(net.layers, zeros, strict=True)):
            inputs.append(a)
            z, _ = forward_layer(net, params, l, a, key)
            z = z + n * zero + (inputs[l - layer.skip] if layer.skip else 0)
            a = layer.activation(z)
        value = jnp.mean(net.loss.at(net.layers[-1].activation, z, a, targets(y, a)))
    else:
        value = loss(net, params, x, y, key)
    if regularizer is not None:
        value = value + regularizer.penalty(params, training_size)
    return value


_value = jax.jit(_cost, static_argnums=(4, 5, 6))
# Compiled once for a network, however often its backpropagation is checked.
_gradient = jax.jit(jax.grad(_cost, (0, 1)), static_argnums=(4, 5, 6))


# Where to look.


def _labelled(net: Network, seed: int) -> list[tuple[str, tuple]]:
    """Return random points with labels: batches of 5 and 1, other parameters each, one on kinks."""
    # A batch as large as a layer would let sums over the wrong axis pass for right ones in shape.
    sizes = {size for shape in net.shapes for size in shape}
    n = next(n for n in (5, 6, 4, 7, 9, 11, 13, *range(14, 1000)) if n not in sizes)
    labelled = [
        (f"a batch of {n}", draw(net, n, seed)),
        ("one example", draw(net, 1, seed + 1)),
        (f"other parameters, a batch of {n}", draw(net, n, seed + 2)),
    ]
    if any(isinstance(thing, KINKED) for l in net.layers for thing in (l, l.activation)):
        labelled.append((f"a batch of {n} on kinks and ties", _on_kinks(net, n, seed + 3)))
    return labelled


def draw(net: Network, n: int, seed: int) -> tuple:
    """Return random parameters, n inputs and n targets for a network."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: init(net, jax.random.key(0)))

    def entry(p):
        if not isinstance(p, Affine):
            return jax.tree.map(lambda leaf: jax.device_put(rng.normal(size=leaf.shape)), p)
        fan_in = int(np.prod(p.w.shape[1:]))
        w = rng.normal(size=p.w.shape) * (1.2 / np.sqrt(fan_in))
        b = rng.uniform(0.2, 0.7, p.b.shape) * rng.choice([-1, 1], p.b.shape)
        return Affine(*jax.device_put((w, b)))

    params = tuple(map(entry, shapes))
    x = jax.device_put(rng.normal(size=(n, *net.input_shape)))
    if net.n_out == 1:
        y = rng.integers(2, size=(n, 1)).astype(float)
    else:
        y = np.eye(net.n_out)[rng.integers(net.n_out, size=n)]
    return params, x, jax.device_put(y)


def _on_kinks(net, n, seed):
    """Return a point where some weighted inputs are exactly 0 and some inputs are equal."""
    params, x, y = draw(net, n, seed)

    def entry(p):
        if not isinstance(p, Affine):
            return p
        return Affine(p.w.at[::3].set(0.0), p.b.at[::3].set(0.0))  # every third neuron gets z = 0

    if x.ndim == 4:  # images of few grey levels have ties in every pool
        x = jnp.round(x)
    return (*map(entry, params[:-1]), params[-1]), x, y


# Places in words and in formulas.


def _scopes(step, L, changes) -> Iterator[tuple[int, ...]]:
    """Yield the sets of layers in which to make an edit: each alone, all hidden ones, all."""
    first = 2 if step == "back" else 1
    single = [(l,) for l in range(first, L + 1)]
    seen = set()
    for layers in (*single, tuple(range(first, L)), tuple(range(first, L + 1))):
        found = tuple(l for l in layers if l in changes)
        if found and (found, len(layers) > 1) not in seen and (found,) not in seen:
            seen |= {(found,), (found, len(layers) > 1)}
            yield found


def _where(step, layers, L):
    if len(layers) > 1:
        count = L - 1 if step == "back" else L
        return "every layer" if len(layers) == count else "every hidden layer"
    if step == "back":
        return f"from layer {layers[0]} back to layer {layers[0] - 1}"
    return f"layer {layers[0]}" if L > 1 else ""


def _indices(step, layers, d):
    """Return what follows the name of a quantity 0, 1, … layers ahead, and what ∂C/∂a is."""
    l = layers[0]
    single = len(layers) == 1

    def sup(shift):
        if single:
            return superscript(l + shift)
        return "ˡ" + (f"{'⁺' if shift > 0 else '⁻'}{superscript(abs(shift))}" if shift else "")

    follows = l < d.L and isinstance(d.net.layers[l], Dense) and not d.net.skips[l]
    return sup, f"(w{sup(1)})ᵀ δ{sup(1)}" if follows else f"∂C/∂a{sup(0)}"
