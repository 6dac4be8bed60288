"""What is examined: a scalar function, the gradient claimed for it, and where to evaluate both.

Every check comes down to this one form. A pull-back is the gradient of ⟨g, f(x)⟩ for a random g; a
hand-written backpropagation is the gradient of a network's loss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.gradcheck.arbiter import along_difference
from nnjax.gradcheck.compare import (
    NOT_REACHED,
    Leaf,
    Misfit,
    align,
    compare,
    named_leaves,
    norm,
    to_numpy,
)
from nnjax.gradcheck.domains import Domain
from nnjax.gradcheck.graph import ARRAYS, Graph, Traced, trace, trace_at
from nnjax.gradcheck.reference import compiled, nearby, numerical_gradient, rounding_noise

__all__ = ["Point", "Problem", "labels"]


@dataclass
class Problem:
    """A scalar function and the claim about its gradient.

    Attributes:
        function: f(*args) -> scalar, by JAX.
        claim: claim(*args) -> the gradient claimed, a pytree.
        argnums: which arguments the gradient is for.
        gradient: `jax.grad` of the function, where both are compiled already; else None.
        names: what to call each leaf; the path in the pytree unless given.
        symbols: the same for formulas, such as "w²"; `names` unless given.
        groups: for each leaf, what it belongs to, such as "layer 2".
        letter: of the function in formulas.
        examples: for arguments, the number of examples in the batch, None where there is no batch.
        subset: for arguments and a list of indices, arguments with these examples alone.
        mean_of_examples: whether the gradient of a batch is the mean of those of its examples.
        untraceable: why JAX cannot trace the function, so that differences are the reference; ""
            where it can.
        domains: for the numbers of leaves, the set in which their values have to lie.
        noticed: whether that is not said, but seen of the values, and the claim is wrong elsewhere.
        derivative: of JAX, (function, argnums) -> the gradient, where `gradient` is None.
    """

    function: Callable
    claim: Callable
    argnums: int | tuple[int, ...] = 0
    gradient: Callable | None = None
    names: Sequence[str] | None = None
    symbols: Sequence[str] | None = None
    groups: Sequence[str] | None = None
    letter: str = "f"
    examples: Callable[[tuple], int | None] = lambda args: None
    subset: Callable[[tuple, Sequence[int]], tuple] | None = None
    mean_of_examples: bool = False
    untraceable: str = ""
    domains: Mapping[int, Domain] = field(default_factory=dict)
    noticed: bool = False
    derivative: Callable = jax.grad

    @property
    def positions(self) -> tuple[int, ...]:
        """`argnums` as a tuple."""
        return (self.argnums,) if isinstance(self.argnums, int) else tuple(self.argnums)

    def parameters(self, args: tuple) -> Any:
        """Return the arguments that the gradient is for, in its structure."""
        if isinstance(self.argnums, int):
            return args[self.argnums]
        return tuple(args[i] for i in self.argnums)

    def moved(self, args: tuple, strength: float, seed: int, sign: int = 1) -> tuple:
        """Return the arguments with the parameters moved a little, within their domains."""
        here = [args[i] for i in self.positions]
        moved = nearby(here, strength, seed, sign)
        if self.domains:
            leaves, structure = jax.tree.flatten(moved)
            for i, domain in self.domains.items():
                leaves[i] = jax.device_put(domain.nearest(np.asarray(leaves[i])))
            moved = jax.tree.unflatten(structure, leaves)
        out = list(args)
        for i, argument in zip(self.positions, moved, strict=True):
            out[i] = argument
        return tuple(out)

    def at(self, label: str, args: tuple, on_kinks: bool = False) -> Point:
        """Return the point at these arguments."""
        return Point(self, label, args, on_kinks)

    def compiled(self, args: tuple) -> tuple[Callable, Callable, list]:
        """Return value(arrays) and gradient(arrays), compiled where f can be, and the arrays.

        Whatever else is among the arguments, such as a network or a flag, is closed over.
        """
        arrays, rebuild = _arrays_in(args)
        signature = self._signature(args, arrays)
        if signature not in self._programs:
            self._programs[signature] = self._compile(args, arrays, rebuild)
        return *self._programs[signature], arrays

    def _compile(self, args, arrays, rebuild):
        f, argnums = self.function, self.argnums
        if self.untraceable:
            return lambda arrays: f(*rebuild(arrays)), None
        if self.gradient is not None:
            own = self.gradient
            return lambda arrays: f(*rebuild(arrays)), lambda arrays: own(*rebuild(arrays))
        try:
            # Functions of their own, as jax keeps what it compiled: f may read what has changed
            # since the last check.
            gradient = compiled(lambda arrays: self.derivative(f, argnums)(*rebuild(arrays)))
            try:
                gradient(arrays)
            except ValueError as error:
                if "Reverse-mode" not in str(error):  # as through a loop of unknown length
                    raise
                self.derivative = jax.jacfwd
                gradient = compiled(lambda arrays: jax.jacfwd(f, argnums)(*rebuild(arrays)))
                gradient(arrays)
            return compiled(lambda arrays: f(*rebuild(arrays))), gradient
        except (jax.errors.JAXTypeError, jax.errors.JAXIndexError):
            # Python looks at values in f: it cannot be compiled, but it has a gradient.
            return (
                lambda arrays: f(*rebuild(arrays)),
                lambda arrays: self.derivative(f, argnums)(*rebuild(arrays)),
            )

    def traced(self, args: tuple) -> Traced | None:
        """Return f as JAX traces it; None where it cannot be traced without looking at values."""
        signature = ("traced", self._signature(args, jax.tree.leaves(args)))
        if signature not in self._programs:
            try:
                self._programs[signature] = trace(self.function, args)
            except (jax.errors.JAXTypeError, jax.errors.JAXIndexError):
                self._programs[signature] = None
        return self._programs[signature]

    def in_float32(self, args: tuple) -> bool:
        """Return whether f calculates something in float32, whatever its arguments."""
        traced = None if self.untraceable else self.traced(args)
        return traced is not None and "f32[" in str(traced.program)

    def graph(self, args: tuple, epsilon: float = 0.0, opaque: bool = True) -> Graph | None:
        """Return the graph of f's operations at these arguments; None where it has none."""
        traced = None if self.untraceable else self.traced(args)
        if traced is None:
            return None
        with np.errstate(all="ignore"):
            return trace_at(traced, args, self.positions, opaque, epsilon)

    def noise(self, args: tuple) -> Callable | None:
        """Return `rounding_noise` of the gradient as a function of arrays; None if untraceable."""
        arrays, rebuild = _arrays_in(args)
        signature = ("noise", self._signature(args, arrays))
        if signature not in self._programs:
            gradient = self.gradient or self.derivative(self.function, self.argnums)
            try:
                self._programs[signature] = rounding_noise(
                    lambda arrays: gradient(*rebuild(arrays)), (arrays,)
                )
            except (jax.errors.JAXTypeError, jax.errors.JAXIndexError):
                self._programs[signature] = None
        return self._programs[signature]

    def _signature(self, args, arrays):
        kinds = tuple(
            array if isinstance(array, str) else (np.shape(array), str(jnp.result_type(array)))
            for array in arrays
        )
        return kinds, jax.tree.structure(args)

    @cached_property
    def _programs(self) -> dict:
        return {}


def _arrays_in(args):
    """Return the arrays among arguments, and what makes arguments of others like them."""
    leaves, structure = jax.tree.flatten(args)
    dynamic = [i for i, leaf in enumerate(leaves) if isinstance(leaf, ARRAYS)]

    def rebuild(arrays):
        full = list(leaves)
        for i, array in zip(dynamic, arrays, strict=True):
            full[i] = array
        return jax.tree.unflatten(structure, full)

    return [leaves[i] for i in dynamic], rebuild


@dataclass
class Point:
    """One point where expected and claimed gradient are compared.

    `on_kinks` says that the point lies on kinks or ties by design, where right gradients may
    differ.
    """

    problem: Problem
    label: str
    args: tuple
    on_kinks: bool = False

    @cached_property
    def expected(self) -> list[np.ndarray]:
        """The leaves of the gradient by autodiff, or by differences if f is untraceable."""
        if self.problem.untraceable:
            return self._by_differences[0]
        _, gradient, arrays = self.problem.compiled(self.args)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(gradient(arrays))]

    @cached_property
    def _by_differences(self):
        return numerical_gradient(
            lambda leaves: self.problem.function(*self.with_parameters(leaves)), self.parameters
        )

    def with_parameters(self, leaves: Sequence[Any]) -> tuple:
        """Return the arguments with other values for the parameters, a leaf each."""
        new = jax.tree.unflatten(jax.tree.structure(self.parameters_tree), leaves)
        args = list(self.args)
        values = (new,) if isinstance(self.problem.argnums, int) else new
        for position, argument in zip(self.problem.positions, values, strict=True):
            args[position] = argument
        return tuple(args)

    @cached_property
    def names(self) -> list[str]:
        """What each leaf is called."""
        if self.problem.names is not None:
            return list(self.problem.names)
        return [path or "gradient" for path in named_leaves(self.parameters_tree)[0]]

    @property
    def parameters_tree(self) -> Any:
        """The arguments that the gradient is for."""
        return self.problem.parameters(self.args)

    @cached_property
    def parameters(self) -> list[np.ndarray]:
        """The values of the parameters, a leaf each."""
        return [np.asarray(leaf) for leaf in jax.tree.leaves(self.parameters_tree)]

    @cached_property
    def claimed(self) -> list[Any]:
        """The leaves of the claimed gradient, in the order of `expected`.

        Raises:
            Misfit: if the function raises or returns another structure.
        """
        return align(self.parameters_tree, self.problem.claim(*self.args))

    @cached_property
    def claimed_arrays(self) -> list[np.ndarray | None]:
        """The claimed leaves as float64 arrays; None where a leaf is none."""

        def convert(leaf):
            try:
                return None if leaf is None else to_numpy(leaf).astype(np.float64)
            except Misfit:
                return None

        return [convert(leaf) for leaf in self.claimed]

    @cached_property
    def compared(self) -> list[Leaf]:
        """A row for every leaf, allowing for rounding.

        How large the rounding is, which costs a compilation, is asked only where it could matter:
        not where leaves agree anyhow, and not where differences speak against the claim.
        """
        rows = []
        for i, name in enumerate(self.names):
            claimed, expected = self.claimed[i], self.expected[i]
            row = compare(name, claimed, expected, 0.0, self.label)
            if row.verdict == "wrong" and i in self.problem.domains:
                along, value = self.problem.domains[i].along, self.parameters[i]
                claimed = along(to_numpy(claimed), value)
                expected = along(expected, value)
                row = compare(name, claimed, expected, 1e-13 * norm(expected), self.label)
            if row.verdict == "wrong" and np.isfinite(expected).all():
                certain = not self.problem.untraceable and row.relative_error > 1e-6
                if not (certain and along_difference(self, i).refuted):
                    row = compare(name, claimed, expected, self.noise[i], self.label)
            if row.verdict == "right" and self.problem.untraceable and self._not_reached(i):
                row = dataclasses.replace(row, verdict=NOT_REACHED)
            rows.append(row)
        return rows

    def _not_reached(self, i) -> bool:
        """Return whether entries are called right only because differences are so far off."""
        claimed, expected = self.claimed_arrays[i], self.expected[i]
        off = np.abs(claimed - expected)
        differs = off > np.maximum(1e-3 * np.abs(expected), 1e-6 * _largest(expected))
        return bool(differs.any())

    @cached_property
    def rows(self) -> list[Leaf]:
        """`compared`, with "convention" for what differs from autodiff only at kinks and ties."""
        if all(leaf.ok for leaf in self.compared) or not self._only_at_kinks():
            return self.compared
        return [r if r.ok else dataclasses.replace(r, verdict="convention") for r in self.compared]

    @property
    def wrong(self) -> list[int]:
        """The numbers of the leaves that are wrong here."""
        return [i for i, leaf in enumerate(self.rows) if not leaf.ok]

    def _only_at_kinks(self) -> bool:
        """Return whether the claim is right all around this point, and autodiff jumps there.

        Around: at points a millionth away, on opposite sides, so that every kink is crossed.
        """
        wrong = [i for i, leaf in enumerate(self.compared) if not leaf.ok]
        if any(np.isnan(self.compared[i].cosine) for i in wrong):
            return False
        sides = self._sides(wrong, range(8))
        if sides is None:
            return False
        low = [
            np.minimum(leaves.min(axis=0), self.expected[i])
            for leaves, i in zip(sides, wrong, strict=True)
        ]
        high = [
            np.maximum(leaves.max(axis=0), self.expected[i])
            for leaves, i in zip(sides, wrong, strict=True)
        ]
        for k, i in enumerate(wrong):
            claimed, expected = np.asarray(self.claimed_arrays[i]), self.expected[i]
            differs = np.abs(claimed - expected) > 1e-9 * np.abs(expected)
            jump = high[k] - low[k]
            # Of one kink both sides are seen. A sum over k kinks that all fall to one side lies up
            # to √k spreads outside of what a few random sides show.
            between = (sides[k] - low[k] > 1e-3 * jump) & (high[k] - sides[k] > 1e-3 * jump)
            widest = np.where(between.any(axis=0), 5, 0.5 + 1e-3) * jump
            reach = np.abs(claimed - (high[k] + low[k]) / 2) <= widest
            steep = jump > 1e-3 * np.abs(claimed - expected)
            if not (reach & steep)[differs].all():
                return False
        if self._among(sides, wrong):
            return True
        # Of eight directions all may happen to cross two kinks together.
        more = self._sides(wrong, range(8, 32))
        return more is not None and self._among(
            [np.concatenate(leaves) for leaves in zip(sides, more, strict=True)], wrong
        )

    def _sides(self, wrong, seeds) -> list[np.ndarray] | None:
        """Return what autodiff says a millionth away, each leaf stacked; None where the claim is
        wrong there."""
        sides: list[Any] = [[] for _ in wrong]
        for seed in seeds:
            for sign in (1, -1):
                beside = self.problem.at("", self.problem.moved(self.args, 1e-6, seed, sign))
                try:
                    if not all(leaf.ok for leaf in beside.compared):
                        return None
                except Misfit:
                    return None
                for k, i in enumerate(wrong):
                    sides[k].append(beside.expected[i])
        return [np.stack(leaves) for leaves in sides]

    def _among(self, sides, wrong) -> bool:
        """Return whether the claim is a mixture of what autodiff says on the sides of the kinks.

        Of a tie it is not if every input of the maximum counts once, as their sum is then too large
        on every side. Where there are more kinks than were crossed one by one, it may be.
        """
        sides = np.concatenate([leaves.reshape(len(leaves), -1) for leaves in sides], axis=1)
        claimed = np.concatenate([np.ravel(self.claimed_arrays[i]) for i in wrong])
        centre = sides.mean(axis=0)
        _, sizes, directions = np.linalg.svd(sides - centre, full_matrices=False)
        off = claimed - centre
        small = 1e-3 * max(norm(off), sizes[0])  # of what moves smoothly
        directions = directions[sizes > small]
        if len(directions) > len(sides) // 2 - 2:  # opposite sides are mirror images
            return True
        return norm(off - directions.T @ (directions @ off)) <= small

    @cached_property
    def noise(self) -> list[np.ndarray]:
        """The rounding of every entry of the expected gradient."""
        if self.problem.untraceable:
            return self._by_differences[1]
        noise = self.problem.noise(self.args)
        if noise is None:
            return [np.full(leaf.shape, 1e-13 * _largest(leaf)) for leaf in self.expected]
        return noise(_arrays_in(self.args)[0])

    @property
    def n(self) -> int | None:
        """The number of examples in the batch, None where there is no batch."""
        return self.problem.examples(self.args)

    def of_examples(self, indices: Sequence[int]) -> list[np.ndarray]:
        """Return the gradient of the loss of these examples alone; TypeError without a batch."""
        subset = self.problem.subset
        if subset is None or self.n is None:
            raise TypeError("there is no batch")
        if self.problem.mean_of_examples:  # one program, that of a single example, serves for all
            chosen = [self._of_subset(i) for i in indices]
            return [np.mean(np.stack(leaves), axis=0) for leaves in zip(*chosen, strict=True)]
        return self._of_subset(*indices)

    def _of_subset(self, *indices):
        if indices not in self._subsets:
            assert self.problem.subset is not None
            args = self.problem.subset(self.args, indices)
            point = Point(self.problem, "", args)  # whose gradient would have to be compiled
            try:
                graph = None if self.problem.gradient is not None else self.problem.graph(args)
                self._subsets[indices] = point.expected if graph is None else graph.gradient()
            except Exception as error:  # f wants all of the batch
                raise TypeError("there is no gradient of a part of the batch") from error
        return self._subsets[indices]

    @cached_property
    def _subsets(self) -> dict[tuple[int, ...], list[np.ndarray]]:
        return {}

    def value(self, args: tuple) -> float:
        """Return f at other arguments of the same shapes."""
        value, _, arrays = self.problem.compiled(args)
        return float(value(arrays))

    @cached_property
    def finite(self) -> bool:
        """Whether the function and its gradient are numbers here."""
        return bool(np.isfinite(self.value(self.args))) and all(
            np.isfinite(leaf).all() for leaf in self.expected
        )


def labels(points: Sequence[Point]) -> str:
    """Return which points these are, for a report."""
    return f"{len(points)} points in float64: {'; '.join(point.label for point in points)}"


def _largest(leaf):
    return float(np.max(np.abs(leaf), initial=0.0))
