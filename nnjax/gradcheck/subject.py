"""What is examined: a scalar function, the gradient claimed for it, and where to evaluate both.

Every check comes down to this one form. A pull-back is the gradient of ⟨g, f(x)⟩ for a random g; a
hand-written backpropagation is the gradient of a network's loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.gradcheck.compare import Misfit, align, named_leaves, to_numpy
from nnjax.gradcheck.reference import nearby, rounding_noise

__all__ = ["Probe", "Subject"]


@dataclass
class Subject:
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
        n_out: the number of outputs of a network.
        examples: for arguments, the number of examples in the batch, None where there is no batch.
        subset: for arguments and a list of indices, arguments with these examples alone.
        penalties: for arguments and the number of a leaf, what a regularizer adds to that leaf, as
            `LeafView` names it.
        mean_of_examples: whether the gradient of a batch is the mean of those of its examples.
        derive: for arguments and claimed leaves, a network's `Derivation`.
    """

    function: Callable
    claim: Callable
    argnums: int | tuple[int, ...] = 0
    gradient: Callable | None = None
    names: Sequence[str] | None = None
    symbols: Sequence[str] | None = None
    groups: Sequence[str] | None = None
    letter: str = "f"
    n_out: int | None = None
    examples: Callable[[tuple], int | None] = lambda args: None
    subset: Callable[[tuple, Sequence[int]], tuple] | None = None
    penalties: Callable[[tuple, int], dict[str, Any]] = lambda args, leaf: {}
    mean_of_examples: bool = False
    derive: Callable[[tuple, Sequence[Any]], Any] | None = None

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
        """Return the arguments with the parameters moved a little."""
        moved = nearby([args[i] for i in self.positions], strength, seed, sign)
        out = list(args)
        for i, argument in zip(self.positions, moved, strict=True):
            out[i] = argument
        return tuple(out)

    def at(self, label: str, args: tuple, on_kinks: bool = False) -> Probe:
        """Return the probe at these arguments."""
        return Probe(self, label, args, on_kinks)

    def compiled(self, args: tuple) -> tuple[Callable, Callable, list]:
        """Return value(arrays) and gradient(arrays), compiled where f can be, and the arrays.

        Whatever else is among the arguments, such as a network or a flag, is closed over.
        """
        leaves, structure = jax.tree.flatten(args)
        dynamic = [i for i, leaf in enumerate(leaves) if isinstance(leaf, (jax.Array, np.ndarray))]
        arrays = [leaves[i] for i in dynamic]

        def rebuild(arrays):
            full = list(leaves)
            for i, array in zip(dynamic, arrays, strict=True):
                full[i] = array
            return jax.tree.unflatten(structure, full)

        signature = self._signature(args, arrays)
        if signature not in self._programs:
            value, gradient = self._compile(arrays, rebuild, len(arrays) == len(leaves))
            self._programs[signature] = value, gradient
        return *self._programs[signature], arrays

    def _compile(self, arrays, rebuild, only_arrays):
        f, argnums = self.function, self.argnums
        if self.gradient is not None:
            compiled = self.gradient
            return lambda arrays: f(*rebuild(arrays)), lambda arrays: compiled(*rebuild(arrays))
        try:
            if only_arrays:  # the same function again is not compiled again
                _gradient(f, argnums, rebuild(arrays))
                return (
                    lambda arrays: _value(f, rebuild(arrays)),
                    lambda arrays: _gradient(f, argnums, rebuild(arrays)),
                )
            gradient = jax.jit(lambda arrays: jax.grad(f, argnums)(*rebuild(arrays)))
            gradient(arrays)
            return jax.jit(lambda arrays: f(*rebuild(arrays))), gradient
        except (jax.errors.JAXTypeError, jax.errors.JAXIndexError):
            # Python looks at values in f: it cannot be compiled, but it has a gradient.
            return (
                lambda arrays: f(*rebuild(arrays)),
                lambda arrays: jax.grad(f, argnums)(*rebuild(arrays)),
            )

    def noise(self, args: tuple) -> Callable | None:
        """Return `rounding_noise` of the gradient as a function of arrays; None if untraceable."""
        _, gradient, arrays = self.compiled(args)
        signature = ("noise", self._signature(args, arrays))
        if signature not in self._programs:
            try:
                self._programs[signature] = rounding_noise(gradient, (arrays,))
            except (jax.errors.JAXTypeError, jax.errors.JAXIndexError):
                self._programs[signature] = None
        return self._programs[signature]

    def _signature(self, args, arrays):
        shapes = tuple((np.shape(array), str(jnp.result_type(array))) for array in arrays)
        return shapes, jax.tree.structure(args)

    @cached_property
    def _programs(self) -> dict:
        return {}


@partial(jax.jit, static_argnums=0)
def _value(f, args):
    return f(*args)


@partial(jax.jit, static_argnums=(0, 1))
def _gradient(f, argnums, args):
    return jax.grad(f, argnums)(*args)


@dataclass
class Probe:
    """One point where expected and claimed gradient are compared.

    `wrong` holds the leaves found wrong there; `on_kinks` says that the point lies on kinks or ties
    by design, where right gradients may differ.
    """

    subject: Subject
    label: str
    args: tuple
    on_kinks: bool = False
    wrong: list[int] = field(default_factory=list)

    @cached_property
    def expected(self) -> list[np.ndarray]:
        """The leaves of the gradient by autodiff, float64."""
        _, gradient, arrays = self.subject.compiled(self.args)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(gradient(arrays))]

    @cached_property
    def names(self) -> list[str]:
        """What each leaf is called."""
        if self.subject.names is not None:
            return list(self.subject.names)
        return [path or "gradient" for path in named_leaves(self.parameters_tree)[0]]

    @property
    def parameters_tree(self) -> Any:
        """The arguments that the gradient is for."""
        return self.subject.parameters(self.args)

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
        return align(self.parameters_tree, self.subject.claim(*self.args))

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
    def noise(self) -> list[np.ndarray]:
        """The rounding of every entry of the expected gradient."""
        noise = self.subject.noise(self.args)
        if noise is None:
            return [np.full(leaf.shape, 1e-13 * _largest(leaf)) for leaf in self.expected]
        return noise(self.subject.compiled(self.args)[2])

    @cached_property
    def derivation(self) -> Any:
        """The network's derivation at this point."""
        if self.subject.derive is None:
            raise TypeError("only networks have a derivation")
        return self.subject.derive(self.args, self.claimed_arrays)

    @property
    def n(self) -> int | None:
        """The number of examples in the batch, None where there is no batch."""
        return self.subject.examples(self.args)

    def of_examples(self, indices: Sequence[int]) -> list[np.ndarray]:
        """Return the gradient of the loss of these examples alone; TypeError without a batch."""
        subset = self.subject.subset
        if subset is None or self.n is None:
            raise TypeError("there is no batch")
        if not self.subject.mean_of_examples:
            return Probe(self.subject, "", subset(self.args, indices)).expected
        # One program, that of a single example, serves for any selection.
        for i in indices:
            if i not in self._single:
                self._single[i] = Probe(self.subject, "", subset(self.args, [i])).expected
        chosen = [self._single[i] for i in indices]
        return [np.mean(np.stack(leaves), axis=0) for leaves in zip(*chosen, strict=True)]

    @cached_property
    def _single(self) -> dict[int, list[np.ndarray]]:
        return {}

    def value(self, args: tuple) -> float:
        """Return f at other arguments of the same shapes."""
        value, _, arrays = self.subject.compiled(args)
        return float(value(arrays))


def _largest(leaf):
    return float(np.max(np.abs(leaf), initial=0.0))
