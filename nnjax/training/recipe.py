"""The recipe: what an epoch of training is made of, in one frozen description."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from nnjax.checks import require_dtype, require_size
from nnjax.regularizers import Regularizer
from nnjax.training import monitors as known
from nnjax.training import optimizers
from nnjax.training.class_weights import ClassWeight, require_class_weight
from nnjax.training.closures import identity, rates_of, with_rates
from nnjax.training.devices import require_mesh
from nnjax.training.monitors import Monitor

__all__ = ["Augmentation", "Recipe"]

Augmentation: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
"""A pure, hashable function of (key, x) that returns other x, such as a `Distortion`."""


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True, eq=False)
class Recipe:
    """How one epoch is trained: the keywords of `nnjax.train` that its compiled program depends on.

    Equal recipes share one compiled program. Functions are equal if they do the same (see
    `nnjax.training.closures`), and a learning rate that is a plain number does not count: it is an
    argument of the program.

    Args:
        optimizer, batch_size, regularizer, augment, class_weight, monitors, monitor_every,
            compute_dtype, mesh: see `nnjax.train`.

    Raises:
        ValueError, TypeError: if an argument does not fit.

    Example:
        >>> import optax
        >>> from nnjax.training import Recipe
        >>> recipe = Recipe(optimizer=optax.adam(0.1), batch_size=10)
        >>> recipe == Recipe(optimizer=optax.adam(0.3), batch_size=10)
        True
        >>> recipe == Recipe(optimizer=optax.adam(0.1), batch_size=20)
        False
    """

    optimizer: optax.GradientTransformation
    batch_size: int
    regularizer: Regularizer | None = None
    augment: Augmentation | None = None
    class_weight: ClassWeight | None = None
    monitors: Sequence[str | Monitor] = ()
    monitor_every: int | None = None
    compute_dtype: Any = None
    mesh: Mesh | None = None

    def __post_init__(self):
        optimizers.require_optimizer(self.optimizer)
        require_size(self.batch_size, "batch_size")
        if self.regularizer is not None and not isinstance(self.regularizer, Regularizer):
            raise TypeError(
                f"regularizer is {self.regularizer!r}; expected one such as "
                "nnjax.regularizers.L2(5.0)"
            )
        if self.augment is not None and not callable(self.augment):
            raise TypeError(
                f"augment is {self.augment!r}; expected a function of (key, x), such as "
                "nnjax.training.augmentation.Distortion(rotation=10.0)"
            )
        # A frozen dataclass sets its own fields this way: here an iterator would be used up.
        object.__setattr__(self, "monitors", _chosen(self.monitors))
        object.__setattr__(self, "class_weight", require_class_weight(self.class_weight))
        if self.monitor_every is not None:
            require_size(self.monitor_every, "monitor_every")
        if self.compute_dtype is not None:
            dtype = jnp.dtype(require_dtype(self.compute_dtype, "compute_dtype"))
            object.__setattr__(self, "compute_dtype", dtype)
        if self.mesh is not None:
            object.__setattr__(self, "mesh", require_mesh(self.mesh))
        if type(self) is Recipe:
            _ = self._identity  # as of now: the variables that functions read may change later

    @property
    def observed(self) -> tuple[Monitor, ...]:
        """The monitors that are evaluated within the epoch, not after it."""
        return () if self.monitor_every is None else tuple(map(known.by_name, self.monitors))

    def computing(self, params: Any) -> Any:
        """Return parameters in the precision that the network computes in.

        Example:
            >>> import jax.numpy as jnp, optax
            >>> from nnjax.training import Recipe
            >>> recipe = Recipe(optimizer=optax.sgd(0.5), batch_size=10, compute_dtype="bfloat16")
            >>> recipe.computing(jnp.ones(2)).dtype
            dtype(bfloat16)
        """
        if self.compute_dtype is None:
            return params
        return jax.tree.map(lambda p: p.astype(self.compute_dtype), params)

    @property
    def rates(self) -> tuple[float, ...]:
        """The numbers that the program takes as arguments: the constant rates of the optimizer."""
        return rates_of(self.optimizer.update)

    def with_rates(self, rates: Iterable[Any]) -> Recipe:
        """Return the recipe with these numbers in place of `rates`.

        Example:
            >>> import optax
            >>> from nnjax.training import Recipe
            >>> Recipe(optimizer=optax.sgd(0.5), batch_size=10).with_rates([-0.25]).rates
            (-0.25,)
        """
        update = with_rates(self.optimizer.update, iter(rates))
        optimizer = optax.GradientTransformation(self.optimizer.init, update)
        return dataclasses.replace(self, optimizer=optimizer)

    @cached_property
    def _identity(self) -> Hashable:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        # An epoch does not start the optimizer, nor evaluate what is measured after it.
        return identity(values | {"optimizer": self.optimizer.update, "monitors": self.observed})

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)


def _chosen(monitors: Any) -> tuple[Monitor, ...]:
    if isinstance(monitors, str):
        raise TypeError(f"monitors is {monitors!r}; expected several, such as [{monitors!r}]")
    if not isinstance(monitors, Iterable):
        raise TypeError(
            f"monitors is {monitors!r}; expected a list of names and functions, such as ['dead'], "
            "or [] for none"
        )
    return tuple(map(known.by_name, monitors))
