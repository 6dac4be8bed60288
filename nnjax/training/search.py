"""A search that learns from its trials: Optuna proposes settings, which are trained in batches.

For spaces that are too large for a grid. Optuna is asked for several settings at a time, which are
trained together (`train_many`), and told what they reached. It needs the extra `optuna`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from nnjax.checks import install, require_size
from nnjax.data import Dataset
from nnjax.network import Network
from nnjax.training.grid import Settings
from nnjax.training.many import train_many
from nnjax.training.many_result import Trained

__all__ = ["ask", "search", "tell"]


def search(
    study: Any,
    net: Network,
    data: Dataset,
    space: Callable[[Any], Settings],
    *,
    trials: int,
    seeds: int = 1,
    together: int = 8,
    measure: str | None = None,
    **settings: Any,
) -> Trained:
    """Train networks with the settings that an Optuna study proposes; return the best network.

    The study is told the median of a measure over the seeds; a trial whose networks diverged has
    failed. Afterwards `study.best_params`, `study.trials` and its plots are there as always, and a
    study with a storage continues where it was.

    Args:
        study: from `optuna.create_study(direction="maximize")`, or "minimize" for a loss.
        net: the network; a `net` in the settings of a trial takes its place.
        data: the data set.
        space: given a trial of Optuna, returns its settings by the names of `nnjax.train_many`.
        trials: how many settings to try.
        seeds: how many networks to train with each.
        together: how many settings to ask for at a time. The more, the faster, and the less each
            of them knows of the others.
        measure: a name in the history; None: what `Many.best` compares by.
        **settings: further arguments of `nnjax.train_many`, such as epochs.

    Returns:
        Of the best trial of this call the network whose seed did best.

    Raises:
        ValueError, TypeError: if an argument does not fit, or every network diverged.
        ImportError: if Optuna is missing.

    Example:
        >>> import nnjax
        >>> from nnjax.training.search import search
        >>> def space(trial):
        ...     return {
        ...         "rate": trial.suggest_float("rate", 0.01, 1.0, log=True),
        ...         "l2": trial.suggest_float("l2", 0.0, 5.0),
        ...     }
        >>> def run():  # the study is made by optuna.create_study(direction="maximize")
        ...     net, data = nnjax.mlp([64, 10]), nnjax.data.load("digits")
        ...     return search(study, net, data, space, trials=32, epochs=5, batch_size=10)
    """
    try:
        from optuna.study import Study, StudyDirection  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(f"a search by Optuna needs it: {install('optuna')}") from None
    if not isinstance(study, Study):
        raise TypeError(
            f"study is a {type(study).__name__}; expected what optuna.create_study returns"
        )
    left, at_once = require_size(trials, "trials"), require_size(together, "together")
    sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
    best: tuple[float, Trained] | None = None
    while left:
        asked, proposed = ask(study, space, min(at_once, left))
        left -= len(asked)
        many = train_many(net, data, proposed, seeds=seeds, **settings)
        finals = many.final(measure or many.measure)
        medians = np.median(finals, axis=1)
        tell(study, asked, medians)
        signed = np.where(np.isfinite(medians), sign * medians, -np.inf)
        i = int(np.argmax(signed))
        if np.isfinite(signed[i]) and (best is None or signed[i] > best[0]):
            seed = many.seeds[int(np.argmax(sign * finals[i]))]
            best = signed[i], many.at(trial=i, seed=seed)
    if best is None:
        raise ValueError("every network diverged; try smaller learning rates")
    return best[1]


def ask(
    study: Any, space: Callable[[Any], Settings], count: int
) -> tuple[list[Any], list[Settings]]:
    """Return several trials that a study proposes, and the settings of each.

    Args:
        study: of Optuna.
        space: given a trial, returns its settings.
        count: how many.

    Example:
        >>> import optuna
        >>> from nnjax.training.search import ask
        >>> study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        >>> trials, settings = ask(study, lambda t: {"rate": t.suggest_float("rate", 0.1, 1)}, 3)
        >>> [trial.number for trial in trials], all(0.1 <= s["rate"] <= 1 for s in settings)
        ([0, 1, 2], True)
    """
    trials = [study.ask() for _ in range(count)]
    return trials, [space(trial) for trial in trials]


def tell(study: Any, trials: Sequence[Any], values: Iterable[float]) -> None:
    """Tell a study what its trials reached; those with a value that is not finite have failed.

    Args:
        study: of Optuna.
        trials: that it proposed.
        values: one for each.

    Example:
        >>> import optuna
        >>> from nnjax.training.search import ask, tell
        >>> study = optuna.create_study(direction="maximize")
        >>> trials, _ = ask(study, lambda trial: {"rate": trial.suggest_float("rate", 0, 1)}, 3)
        >>> tell(study, trials, [0.25, float("nan"), 0.75])
        >>> [trial.state.name for trial in study.trials], study.best_value
        (['COMPLETE', 'FAIL', 'COMPLETE'], 0.75)
    """
    from optuna.trial import TrialState  # pyright: ignore[reportMissingImports]

    for trial, value in zip(trials, values, strict=True):
        if np.isfinite(value):
            study.tell(trial, float(value))
        else:
            study.tell(trial, state=TrialState.FAIL)
