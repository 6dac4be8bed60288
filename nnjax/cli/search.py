"""What `nnjax sweep --search` searches: a space of settings, and a study of Optuna.

The study always proposes the same settings where it is told the same, so that a search that was
stopped continues as if it had not been.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nnjax.checks import install
from nnjax.training.grid import Settings

__all__ = ["TOGETHER", "Space", "new_study"]

TOGETHER = 8
"""How many combinations Optuna proposes at a time; they are trained together."""

_FRACTIONS = ("mu", "dropout")  # of the other numbers the order of magnitude counts


@dataclass(frozen=True)
class Space:
    """The settings to search: one value of a name is fixed, two are a range, more are choices.

    A range is searched on a logarithmic scale, unless it begins at 0 or holds fractions, and to
    three digits. Mini-batch sizes are doubled from the smaller to the larger one.

    Args:
        values: by name, at least one of each.

    Raises:
        ValueError: if no name has several values, or the ends of a range are equal.

    Example:
        >>> from nnjax.cli.search import Space
        >>> space = Space({"rate": (0.01, 1.0), "l2": (5.0,), "batch_size": (10, 50)})
        >>> space.searched, space.choices("batch_size")
        (['rate', 'batch_size'], [10, 20, 40])
        >>> space.ends
        [{'rate': 0.01, 'l2': 5.0, 'batch_size': 10}, {'rate': 1.0, 'l2': 5.0, 'batch_size': 50}]
    """

    values: dict[str, tuple[Any, ...]]

    def __post_init__(self):
        if not self.searched:
            raise ValueError(
                "search needs an option to choose a value of; give the ends of a range, as in "
                "--rate 0.001 1"
            )
        for name in self.searched:
            values = self.values[name]
            if len(set(values)) < len(values):
                given = " ".join(f"{value:g}" for value in values)
                raise ValueError(f"{name} is {given}; expected different values to search")

    @property
    def searched(self) -> list[str]:
        """The names with several values."""
        return [name for name, values in self.values.items() if len(values) > 1]

    @property
    def ends(self) -> list[Settings]:
        """The smallest and the largest value of every name."""
        return [{name: f(values) for name, values in self.values.items()} for f in (min, max)]

    def choices(self, name: str) -> list[Any]:
        """Return the values that are chosen among; of a range none."""
        values = self.values[name]
        if len(values) != 2:
            return list(values)
        if name != "batch_size":
            return []
        size, largest = min(values), max(values)
        return [size << k for k in range(largest.bit_length()) if size << k <= largest]

    def __call__(self, trial: Any) -> Settings:
        """Return the settings of a trial of Optuna."""
        settings = {name: values[0] for name, values in self.values.items()}
        for name in self.searched:
            if choices := self.choices(name):
                settings[name] = trial.suggest_categorical(name, choices)
            else:
                low, high = sorted(self.values[name])
                log = low > 0 and name not in _FRACTIONS
                value = trial.suggest_float(name, low, high, log=log)
                settings[name] = min(max(low, float(f"{value:.3g}")), high)
        return settings


def new_study(larger: bool) -> Any:
    """Return a study in memory, which proposes the same settings every time.

    Args:
        larger: whether larger values are better.

    Raises:
        ImportError: if Optuna is missing.
    """
    try:
        import optuna  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(f"a search by Optuna needs it: {install('optuna')}") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=0)
    return optuna.create_study(direction="maximize" if larger else "minimize", sampler=sampler)
