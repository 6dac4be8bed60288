"""The grid of a search: which networks to train, and which of them share one compiled program.

A grid maps names to values: several values make an axis, a single one holds for every network.

    rate                        the learning rate η
    mu, b1, eps, ...            any other number that the optimizer takes, by its name there
    l2, l1                      λ of these regularizers
    max_norm                    the limit of `MaxNorm`
    dropout                     the rate of every Dropout layer
    init_scale                  what the starting weights are multiplied by
    batch_size                  the mini-batch size
    net, optimizer, schedule    networks, names of optimizers, names of schedules

Where the settings are not all combinations, a list of them takes the place of the grid: they lie
along one axis, `trial`.

Networks that differ in numbers alone share a program, which takes the numbers as arguments. Those
that differ in the last two rows, in shapes or in functions, are compiled apart.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from nnjax.checks import FINITE, require_instance, require_number, require_size
from nnjax.layers.dropout import Dropout
from nnjax.network import require_network
from nnjax.regularizers import L1, L2, MaxNorm, Regularizer
from nnjax.training import optimizers

__all__ = ["Grid", "Group", "Settings", "regularizer", "seed_numbers"]

Settings = dict[str, Any]
"""The values of one network, by name."""

_PENALTIES: dict[str, Callable[[Any], Regularizer]] = {"l2": L2, "l1": L1, "max_norm": MaxNorm}
_KINDS = ("net", "batch_size", "optimizer", "schedule")  # each value of these is compiled apart
_OWN = (*_PENALTIES, "dropout", "init_scale")  # numbers that are not the optimizer's


class Group(NamedTuple):
    """Settings that share one program.

    Attributes:
        settings: of each of its C networks.
        cells: where each of them lies in the grid, counted through, (C,).
        numbers: what differs, and what the program takes as arguments, by name, each (C,).
    """

    settings: tuple[Settings, ...]
    cells: np.ndarray
    numbers: dict[str, np.ndarray]

    @property
    def common(self) -> Settings:
        """The settings of the first network, which the others share but for the numbers."""
        return self.settings[0]

    def optimizer(self, settings: Settings, steps: int) -> optax.GradientTransformation:
        """Return the optimizer of these settings; of the whole group they do the same.

        What the optimizer is called with, and what differs between networks, is in its state.

        Args:
            settings: of one of the networks.
            steps: how many steps the run takes, which schedules last for.
        """
        made = settings["optimizer"]
        if not isinstance(made, str) and not callable(made):
            return made
        given = {k: v for k, v in settings.items() if k not in (*_KINDS, *_OWN, "rate")}
        inside = {"learning_rate": settings["rate"]}
        inside |= {k: v for k, v in given.items() if k in self.numbers}
        fixed = tuple(sorted((k, v) for k, v in given.items() if k not in inside))
        schedule = settings["schedule"]
        factory = _factory(made, schedule, tuple(inside), fixed)
        if schedule != "constant":
            inside["factor"] = optimizers.schedule(schedule, 1.0, steps)
        return optax.inject_hyperparams(factory)(**inside)


@dataclass(frozen=True, eq=False)
class Grid:
    """The settings of all networks, along named axes.

    Args:
        axes: the values along each axis, in order.
        fixed: what holds for every network.
        trials: the settings along the axis `trial`, which is then the only one; none: they are all
            combinations of the values along the axes.

    Example:
        >>> import nnjax
        >>> from nnjax.training.grid import Grid
        >>> values = {"rate": [0.1, 0.3], "l2": [0.0, 5.0], "net": nnjax.mlp([4, 2])}
        >>> grid = Grid.of(values | {"batch_size": 10, "optimizer": "sgd", "schedule": "constant"})
        >>> grid.shape, len(grid.settings), len(grid.groups)
        ((2, 2), 4, 1)
        >>> {name: numbers.tolist() for name, numbers in grid.groups[0].numbers.items()}
        {'rate': [0.1, 0.1, 0.3, 0.3], 'l2': [0.0, 5.0, 0.0, 5.0]}
    """

    axes: dict[str, tuple[Any, ...]]
    fixed: Settings
    trials: tuple[Settings, ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Grid:
        """Return the grid of these values by name, checked one by one.

        Raises:
            ValueError, TypeError: if a name is unknown, an axis is empty or holds a value twice, or
                a value does not fit.
        """
        axes, fixed = {}, {}
        for name, value in values.items():
            if not _several(value):
                fixed[name] = value
                continue
            along = tuple(value)
            if not along:
                raise ValueError(f"the grid has no values for {name}; expected at least one")
            if any(a == b for a, b in itertools.combinations(along, 2)):
                raise ValueError(f"the grid holds a value of {name} twice: {list(along)!r}")
            axes[name] = along
        grid = cls(axes, fixed)
        for settings in grid.settings:
            _check(settings)
        return grid

    @classmethod
    def of_trials(cls, trials: Iterable[Any], fixed: Mapping[str, Any]) -> Grid:
        """Return the grid of these settings along one axis, checked one by one.

        Raises:
            ValueError, TypeError: if there are none, or one of them does not fit.

        Example:
            >>> import nnjax
            >>> from nnjax.training.grid import Grid
            >>> fixed = {"net": nnjax.mlp([4, 2]), "batch_size": 10}
            >>> fixed |= {"optimizer": "momentum", "schedule": "constant"}
            >>> trials = [{"rate": 0.1}, {"rate": 0.3, "mu": 0.5}]
            >>> grid = Grid.of_trials(trials, fixed)
            >>> grid.axes, len(grid.groups)
            ({'trial': (0, 1)}, 2)
        """
        expected = "the settings of one network by name, such as {'rate': 0.1}"
        made = tuple(dict(require_instance(t, Mapping, "a trial", expected)) for t in trials)
        if not made:
            raise ValueError(
                "the grid is an empty list; expected the settings of at least one trial"
            )
        for trial in made:
            if several := [name for name, value in trial.items() if _several(value)]:
                raise ValueError(f"a trial has several values of {several[0]}; expected one")
        grid = cls({"trial": tuple(range(len(made)))}, dict(fixed), made)
        for settings in grid.settings:
            _check(settings)
        return grid

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of values along each axis."""
        return tuple(len(values) for values in self.axes.values())

    @cached_property
    def settings(self) -> tuple[Settings, ...]:
        """The settings of every network, the last axis fastest."""
        if self.trials:
            return tuple(self.fixed | trial for trial in self.trials)
        rows = itertools.product(*self.axes.values())
        return tuple(self.fixed | dict(zip(self.axes, row, strict=True)) for row in rows)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The networks by the program that they share."""
        alike: dict[Any, list[int]] = {}
        for i, settings in enumerate(self.settings):
            kinds = tuple(settings[kind] for kind in _KINDS)
            alike.setdefault((kinds, frozenset(settings)), []).append(i)
        groups = []
        for cells in alike.values():
            settings = tuple(self.settings[i] for i in cells)
            differing = self.trials[cells[0]] if self.trials else self.axes
            names = [name for name in differing if name not in _KINDS]
            names += [name for name in _OWN if name in self.fixed]
            numbers = {name: np.asarray([float(s[name]) for s in settings]) for name in names}
            groups.append(Group(settings, np.asarray(cells), numbers))
        return tuple(groups)


def regularizer(numbers: Mapping[str, Any]) -> Regularizer | None:
    """Return the sum of the regularizers whose strengths are given by name, None without any.

    Example:
        >>> from nnjax.training.grid import regularizer
        >>> regularizer({"rate": 0.5, "l2": 5.0})
        L2(strength=5.0)
    """
    parts = [kind(numbers[name]) for name, kind in _PENALTIES.items() if name in numbers]
    return sum(parts[1:], start=parts[0]) if parts else None


def seed_numbers(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """Return the seeds: those given, or 0, 1, ... as many as the number says.

    Raises:
        ValueError: if there is none, one comes twice, or one is not an integer of at least 0.

    Example:
        >>> from nnjax.training.grid import seed_numbers
        >>> seed_numbers(3), seed_numbers([7, 5])
        ((0, 1, 2), (7, 5))
    """
    if not isinstance(seeds, Iterable):
        return tuple(range(require_size(seeds, "seeds")))
    numbers = tuple(require_size(seed, "a seed", 0, 2**32 - 1) for seed in seeds)
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"seeds is {list(numbers)}; expected at least one, and none of them twice")
    return numbers


def _several(value: Any) -> bool:
    if isinstance(value, np.ndarray | jax.Array):
        return value.ndim == 1
    return isinstance(value, list | tuple | range) and not hasattr(value, "update")


def _check(settings: Settings) -> None:
    """Raise if the settings of one network do not fit together."""
    net = require_network(settings["net"])
    require_size(settings["batch_size"], "batch_size")
    for name, kind in _PENALTIES.items():
        if name in settings:
            kind(settings[name])
    if "dropout" in settings:
        Dropout(settings["dropout"])
        if not any(isinstance(layer, Dropout) for layer in net.layers):
            raise ValueError(
                "dropout is in the grid, but the network has no Dropout layer; add one, such as "
                "nnjax.Dropout(0.5)"
            )
    if "init_scale" in settings:
        expected = "a factor of at least 0 for the starting weights"
        require_number(settings["init_scale"], "init_scale", expected, 0, FINITE)
    _check_optimizer(settings)


def _check_optimizer(settings: Settings) -> None:
    made: Any = settings["optimizer"]
    schedule = require_instance(settings["schedule"], str, "schedule", "the name of one")
    options = {k: v for k, v in settings.items() if k not in (*_KINDS, *_OWN, "rate")}
    if isinstance(made, str) and made not in optimizers.OPTIMIZERS:
        optimizers.by_name(made, 0.0)  # says which there are
    if isinstance(made, str) or callable(made):
        make: Any = optimizers.OPTIMIZERS[made] if isinstance(made, str) else made
        known = list(inspect.signature(make).parameters)[1:]
        if unknown := sorted(options.keys() - set(known)):
            takes = ", ".join(["rate", *_OWN, *_KINDS, *known])
            raise ValueError(f"the grid holds {unknown[0]}, which is unknown; expected {takes}")
        if "rate" not in settings:
            raise ValueError("the grid has no learning rate; add one, such as {'rate': [0.1, 0.3]}")
        optimizers.schedule(schedule, settings["rate"], 1)
        for name, value in options.items():
            expected = "a finite number, or several of them"
            require_number(value, f"{name} in the grid", expected, -FINITE, FINITE)
        optimizers.require_optimizer(make(float(settings["rate"]), **options))
        return
    optimizers.require_optimizer(made)
    if options or "rate" in settings or schedule != "constant":
        name = next(iter([*options, *(["rate"] if "rate" in settings else []), "schedule"]))
        raise ValueError(
            f"{name} is in the grid, but the optimizer is made already; give its name, such as "
            "'momentum', or its function, such as optax.adam"
        )


@lru_cache(maxsize=256)
def _factory(made: Any, schedule: str, inside: tuple[str, ...], fixed: tuple[Any, ...]) -> Any:
    """Return a function of the numbers in the state of the optimizer, in the form optax reads."""
    make = optimizers.OPTIMIZERS[made] if isinstance(made, str) else made

    def factory(**numbers):
        factor = numbers.pop("factor", None)
        if factor is not None:
            numbers["learning_rate"] = numbers["learning_rate"] * factor
        return make(**numbers, **dict(fixed))

    names = (*inside, "factor") if schedule != "constant" else inside
    kind = inspect.Parameter.KEYWORD_ONLY
    factory.__dict__["__signature__"] = inspect.Signature(
        [inspect.Parameter(name, kind) for name in names]
    )
    return factory
