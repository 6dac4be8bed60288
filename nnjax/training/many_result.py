"""What training many networks gives: states and histories by named axes, the best, ensembles."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from nnjax.checks import require_instance
from nnjax.evaluation import predict
from nnjax.network import Network, check_params, feedforward
from nnjax.tasks import TASKS, Classification, task_of
from nnjax.training.early_stopping import EarlyStopping
from nnjax.training.epoch import TrainState
from nnjax.training.grid import Grid, Group, Settings
from nnjax.training.monitors import Better, Penalty, Performance, directions
from nnjax.training.processes import Share

__all__ = [
    "DIVERGED",
    "DROPPED",
    "RUNNING",
    "STOPPED",
    "Choice",
    "GroupState",
    "Many",
    "Trained",
    "ensemble",
]

RUNNING, STOPPED, DIVERGED, DROPPED = range(4)
"""Whether a network goes on; DROPPED by successive halving."""

_BETTER: dict[str, Better] = {
    "train_loss": "smaller",
    **directions(map(Performance, ("train", "validation", "test"))),
    **Penalty.better,
}


class GroupState(NamedTuple):
    """The networks of one program, S seeds and C settings.

    Attributes:
        group: their settings.
        net: what they share.
        states: stacked, (S, C, ...).
        status: RUNNING, STOPPED, DIVERGED or DROPPED, (S, C).
        history: by name, (S, C, epochs), NaN for epochs that were not trained.
        share: on several processes, the networks whose states are in this one.
    """

    group: Group
    net: Network
    states: TrainState
    status: np.ndarray
    history: dict[str, np.ndarray]
    share: Share


class Trained(NamedTuple):
    """One network of many.

    Attributes:
        net: its description.
        state: its state; `state.best_params` are its parameters.
        history: as `nnjax.train` returns it, without `epoch` and `seconds`.
    """

    net: Network
    state: TrainState
    history: dict[str, np.ndarray]


class Choice(NamedTuple):
    """The best settings of a grid.

    Attributes:
        settings: by name, those along the axes of the grid.
        measure: what they were chosen by.
        values: that measure, one value per seed.
    """

    settings: Settings
    measure: str
    values: np.ndarray


@dataclass(frozen=True, eq=False)
class Many:
    """Many networks: what `nnjax.train_many` returns. It unpacks into `states` and `history`.

    Attributes:
        grid: the settings.
        seeds: the seeds.
        keys: the random keys of the seeds, as `nnjax.train` takes them.
        epochs: how many epochs were asked for.
        epoch: how many are done.
        groups: the networks, by the program that they share.
        early_stopping: the rule, or None.

    Example:
        >>> import nnjax
        >>> many = nnjax.train_many(
        ...     nnjax.mlp([64, 10]), nnjax.data.load("digits"), {"rate": [0.1, 1.0]},
        ...     seeds=2, epochs=1, batch_size=100,
        ... )
        >>> many.axes
        {'rate': (0.1, 1.0), 'seed': (0, 1)}
        >>> states, history = many
        >>> history["validation_accuracy"].shape
        (2, 2, 1)
        >>> many.at(rate=0.1, seed=1).state.params[0].w.shape
        (10, 64)
        >>> many.ensemble(nnjax.data.load("digits").test[0], rate=1.0).shape
        (360, 10)
    """

    grid: Grid
    seeds: tuple[int, ...]
    keys: tuple[jax.Array, ...]
    epochs: int
    epoch: int
    groups: tuple[GroupState, ...]
    early_stopping: EarlyStopping | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.states, self.history))

    @property
    def axes(self) -> dict[str, tuple[Any, ...]]:
        """The names of the axes and the values along them: those of the grid, then the seeds."""
        return {**self.grid.axes, "seed": self.seeds}

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of values along each axis."""
        return (*self.grid.shape, len(self.seeds))

    @cached_property
    def states(self) -> TrainState:
        """The states of all networks, each leaf with the axes in front.

        Raises:
            ValueError: if the networks differ in shape, or in what their optimizers remember.
            RuntimeError: if some lie on other processes.
        """
        self._require_whole()
        structures = {
            (jax.tree.structure(g.states), tuple(a.shape[2:] for a in jax.tree.leaves(g.states)))
            for g in self.groups
        }
        if len(structures) > 1:
            raise ValueError(
                "these networks differ in shape or in the state of their optimizers and cannot be "
                "stacked; take one with at(...)"
            )
        return jax.tree.map(self._stacked, *(g.states for g in self.groups))

    @cached_property
    def history(self) -> dict[str, np.ndarray]:
        """What was measured of all networks, by name, (axes..., epochs done); NaN: not trained."""
        names = [n for n in self.groups[0].history if all(n in g.history for g in self.groups)]
        every = {n: self._stacked(*(np.asarray(g.history[n]) for g in self.groups)) for n in names}
        return {name: np.asarray(values)[..., : self.epoch] for name, values in every.items()}

    @cached_property
    def status(self) -> np.ndarray:
        """RUNNING, STOPPED, DIVERGED or DROPPED, (axes...)."""
        return np.asarray(self._stacked(*(g.status for g in self.groups)))

    @property
    def diverged(self) -> np.ndarray:
        """Whether the loss or a parameter became NaN or infinite, (axes...)."""
        return self.status == DIVERGED

    @property
    def dropped(self) -> np.ndarray:
        """Which settings successive halving took out of training, (axes of the grid...)."""
        return np.any(self.status == DROPPED, axis=-1)

    @property
    def epochs_trained(self) -> np.ndarray:
        """How many epochs each network was trained for, (axes...)."""
        return np.sum(~np.isnan(self.history["train_loss"]), axis=-1)

    def _stacked(self, *leaves: Any) -> Any:
        """Return leaves (S, C, ...) of the groups as one array along the axes of the grid."""
        xp: Any = np if isinstance(leaves[0], np.ndarray) else jnp
        joined = leaves[0] if len(leaves) == 1 else xp.concatenate(leaves, axis=1)
        cells = np.concatenate([g.group.cells for g in self.groups])
        in_order = xp.moveaxis(joined[:, np.argsort(cells)], 0, 1)
        return in_order.reshape(*self.shape, *in_order.shape[2:])

    # ------------------------------------------------------------ looking at them

    def at(self, seed: int | None = None, **settings: Any) -> Trained:
        """Return one network.

        Args:
            seed: its seed; None: the first.
            **settings: its value along each axis of the grid.

        Raises:
            ValueError: if a name or a value is not in the grid.
        """
        seed = self.seeds[0] if seed is None else seed
        if seed not in self.seeds:
            raise ValueError(f"seed is {seed}; expected one of {', '.join(map(str, self.seeds))}")
        group, c = self._find(settings)
        s = self.seeds.index(seed)
        state = jax.tree.map(lambda leaf: leaf[s, c], group.states)
        done = int(np.sum(~np.isnan(group.history["train_loss"][s, c])))
        return Trained(
            group.net, state, {name: v[s, c, :done] for name, v in group.history.items()}
        )

    def final(self, measure: str) -> np.ndarray:
        """Return a measure of the parameters that each network ended with, (axes...).

        NaN where a network diverged, or was not trained. With early stopping it is the measure
        after the best epoch.
        """
        if not isinstance(measure, str) or measure not in self.history:
            raise ValueError(
                f"measure is {measure!r}, which was not measured; available: "
                f"{', '.join(self.history)}"
            )
        values, last = self.history[measure], np.maximum(self.epochs_trained - 1, 0)
        if self.early_stopping is not None:
            best = self.history["best_epoch"]
            latest = np.take_along_axis(best, last[..., None], axis=-1)[..., 0]
            last = np.where(latest >= 0, latest, last).astype(int)
        value = np.take_along_axis(values, last[..., None], axis=-1)[..., 0]
        return np.where(self.diverged, np.nan, value)

    @property
    def measure(self) -> str:
        """What networks are compared by: what early stopping watches, or the task's main metric.

        Without validation data it is `train_loss`.
        """
        if self.early_stopping is not None:
            return self.early_stopping.measure
        names = (*(f"validation_{task.main}" for task in TASKS.values()), "train_loss")
        return next(name for name in names if name in self.history)

    def ranked(self, values: np.ndarray, measure: str | None = None) -> np.ndarray:
        """Return the median over the seeds, negated where smaller is better; NaN is the worst."""
        measure, rule = measure or self.measure, self.early_stopping
        declared = rule.better if rule is not None and rule.measure == measure else None
        better = declared or _BETTER.get(measure, "larger")
        signed = -values if better == "smaller" else values
        return np.median(np.where(np.isnan(signed), -np.inf, signed), axis=-1)

    def best(self, measure: str | None = None) -> Choice:
        """Return the best settings: by the median over the seeds, on the validation data.

        Networks that diverged count as the worst, those dropped by successive halving do not count.

        Args:
            measure: a name in `history`; None: `measure`.

        Raises:
            ValueError: if it was not measured, or at least half of the networks diverged of every
                setting that was not dropped.
        """
        measure = measure or self.measure
        values = self.final(measure)
        ranks = np.where(self.dropped, -np.inf, self.ranked(values, measure))
        if not np.any(ranks > -np.inf):
            kept = " that successive halving kept" if np.any(self.dropped) else ""
            who = f"every network{kept}"
            if not np.all(self.diverged | (self.status == DROPPED)):
                who = f"at least half of the networks{kept} of every setting"
            raise ValueError(f"{who} diverged; try smaller learning rates")
        at = np.unravel_index(np.argmax(ranks), ranks.shape)
        axes = zip(at, self.grid.axes.items(), strict=True)
        settings = {name: along[i] for i, (name, along) in axes}
        return Choice(settings, measure, values[at])

    def table(self, *measures: str) -> list[dict[str, Any]]:
        """Return one row per settings: median, smallest and largest over the seeds.

        Args:
            *measures: names in `history`; none: what networks are compared by.

        Returns:
            The value along each axis by its name; for each measure `measure`, `measure_min` and
            `measure_max`, NaN where every seed diverged; `diverged`, how many did; `epochs`, how
            many the longest was trained for.
        """
        rows = []
        finals = {name: self.final(name) for name in measures or (self.measure,)}
        for at in np.ndindex(*self.grid.shape):
            axes = zip(at, self.grid.axes.items(), strict=True)
            row: dict[str, Any] = {name: along[i] for i, (name, along) in axes}
            for name, values in finals.items():
                good = values[at][~np.isnan(values[at])]
                figures = (np.median, np.min, np.max)
                low = [float(f(good)) if good.size else float("nan") for f in figures]
                row |= dict(zip((name, f"{name}_min", f"{name}_max"), low, strict=True))
            row["diverged"] = int(np.sum(self.diverged[at]))
            row["epochs"] = int(np.max(self.epochs_trained[at]))
            rows.append(row)
        return rows

    def ensemble(self, x: ArrayLike, how: str = "mean", **settings: Any) -> jax.Array:
        """Return the outputs (n, n_out) of the networks of all seeds with these settings, together.

        Networks that diverged have no part in it.

        Args:
            x: (n, ...) inputs.
            how: "mean", the mean of the outputs; or "vote", the fraction of the networks that
                decide for each class.
            **settings: as in `at`; none: the best ones.

        Raises:
            ValueError: if a setting is not in the grid, or all of these networks diverged.
        """
        group, c = self._find(settings or self.best().settings)
        good = np.flatnonzero(group.status[:, c] != DIVERGED)
        if not good.size:
            raise ValueError("all networks with these settings diverged; choose others")
        params = jax.tree.map(lambda leaf: leaf[good, c], group.states.best_params)
        return ensemble(group.net, params, x, how)

    def _find(self, settings: Settings) -> tuple[GroupState, int]:
        """Return the group of some settings, and the number of the network in it."""
        self._require_whole()
        axes = self.grid.axes
        if settings.keys() != axes.keys():
            raise ValueError(
                f"settings are {', '.join(settings) or 'missing'}; expected a value for each of "
                f"{', '.join(axes)}"
            )
        at = []
        for name, along in axes.items():
            if settings[name] not in along:
                raise ValueError(
                    f"{name} is {settings[name]!r}; expected one of {', '.join(map(str, along))}"
                )
            at.append(along.index(settings[name]))
        cell = np.ravel_multi_index(at, self.grid.shape) if at else 0
        group = next(g for g in self.groups if cell in g.group.cells)
        return group, int(np.flatnonzero(group.group.cells == cell)[0])

    # ------------------------------------------------------------ keeping them

    def followed_by(self, other: Many) -> Many:
        """Return these trials and then those of another search, along one axis `trial`.

        Args:
            other: trained with other trials, and otherwise with the same arguments.

        Example:
            >>> import nnjax
            >>> def trained(trials):
            ...     net, data = nnjax.mlp([64, 10]), nnjax.data.load("digits")
            ...     return nnjax.train_many(net, data, trials, seeds=1, epochs=1, batch_size=100)
            >>> both = trained([{"rate": 0.1}]).followed_by(trained([{"rate": 1.0}]))
            >>> both.shape, both.grid.trials[1]
            ((2, 1), {'rate': 1.0})
        """
        trials, first = self.grid.trials + other.grid.trials, len(self.grid.trials)
        grid = dataclasses.replace(
            self.grid, axes={"trial": tuple(range(len(trials)))}, trials=trials
        )
        moved = tuple(
            each._replace(group=each.group._replace(cells=each.group.cells + first))
            for each in other.groups
        )
        epoch, groups = max(self.epoch, other.epoch), self.groups + moved
        return dataclasses.replace(self, grid=grid, epoch=epoch, groups=groups)

    def gathered(self) -> Many:
        """Return the networks with the states of those that other processes train.

        All processes must call it at the same time. Where there is one, nothing changes.
        """
        groups = tuple(
            group._replace(
                states=group.share.gathered(group.states), share=Share(group.share.count)
            )
            for group in self.groups
        )
        return dataclasses.replace(self, groups=groups)

    def _require_whole(self) -> None:
        if not all(group.share.whole for group in self.groups):
            raise RuntimeError(
                "some of these networks lie on other processes; call gathered() on all processes "
                "first"
            )

    @property
    def progress(self) -> dict[str, Any]:
        """All that the next epoch needs, a pytree of arrays for `nnjax.training.checkpoint`."""
        self._require_whole()
        parts = ("states", "status", "history")
        groups = [{part: getattr(group, part) for part in parts} for group in self.groups]
        return {"epoch": np.int32(self.epoch), "groups": groups}

    def with_progress(self, progress: Mapping[str, Any]) -> Many:
        """Return the networks as they were when this `progress` was taken."""
        require_instance(progress, Mapping, "progress", "that of a Many of the same networks")
        groups = tuple(
            group._replace(
                states=saved["states"],
                status=np.asarray(saved["status"]),
                history={name: np.asarray(v, float) for name, v in saved["history"].items()},
            )
            for group, saved in zip(self.groups, progress["groups"], strict=True)
        )
        return dataclasses.replace(self, epoch=int(progress["epoch"]), groups=groups)


def ensemble(net: Network, params: Any, x: ArrayLike, how: str = "mean") -> jax.Array:
    """Return the outputs (n, n_out) of several networks together.

    Args:
        net: what they share.
        params: their parameters, stacked along a first axis.
        x: (n, ...) inputs.
        how: "mean", the mean of the outputs; or "vote", the fraction of the networks that decide
            for each class, whose largest is the majority.

    Raises:
        ValueError, TypeError: if `how` is neither, or "vote" of networks for a regression, or an
            argument does not fit.

    Example:
        >>> import jax, jax.numpy as jnp, nnjax
        >>> from nnjax.training.many_result import ensemble
        >>> net = nnjax.mlp([3, 2])
        >>> keys = jax.random.split(jax.random.key(0), 5)
        >>> params = jax.vmap(lambda key: nnjax.init(net, key))(keys)
        >>> ensemble(net, params, jnp.eye(3), "vote").sum(axis=1).tolist()
        [1.0, 1.0, 1.0]
    """
    if not isinstance(how, str) or how not in ("mean", "vote"):
        raise ValueError(f"how is {how!r}; expected 'mean' or 'vote'")
    if how == "vote" and not isinstance(task_of(net), Classification):
        raise ValueError(
            "how is 'vote', which counts classes, and the outputs of this network are numbers; "
            "expected 'mean'"
        )
    leaves = jax.tree.leaves(params)
    count = np.shape(leaves[0])[:1] if leaves else ()
    if count in ((), (0,)) or not all(np.shape(leaf)[:1] == count for leaf in leaves):
        raise TypeError("params are not stacked; expected parameters with a first axis of networks")
    check_params(net, jax.tree.map(lambda leaf: leaf[0], params))
    if how == "mean":
        return jnp.mean(jax.lax.map(lambda p: feedforward(net, p, x), params), axis=0)

    def votes(p):
        classes = predict(net, p, x)
        if net.n_out == 1:
            return (classes == 1).astype(float)[:, None]
        return jax.nn.one_hot(classes, net.n_out)

    return jnp.mean(jax.lax.map(votes, params), axis=0)
