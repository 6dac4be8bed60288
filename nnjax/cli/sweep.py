"""`nnjax sweep`: train all combinations of some settings from several seeds, and compare them."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from nnjax.checks import require_size
from nnjax.cli.choices import Schedule
from nnjax.cli.compiled import keep_programs
from nnjax.cli.config import TrainConfig
from nnjax.cli.console import loss_text, printable, show, wrapped
from nnjax.cli.devices import mesh_of
from nnjax.cli.distributed import Cluster, StoppedTogether, stopped_together
from nnjax.cli.loaded import description
from nnjax.cli.options import DataOptions, NetworkOptions
from nnjax.cli.search import TOGETHER, Space, new_study
from nnjax.cli.stop import Saved, undisturbed
from nnjax.cli.train import free_folder, new_run, use
from nnjax.data import Dataset
from nnjax.evaluation import evaluate
from nnjax.files import write_atomically
from nnjax.losses import targets
from nnjax.network import Network
from nnjax.tasks import METRICS, Metric, Regression, Task, task_of
from nnjax.training import EarlyStopping, Many, checkpoint, many_epochs
from nnjax.training.grid import Grid
from nnjax.training.many_result import RUNNING
from nnjax.training.processes import decided_by_the_first
from nnjax.training.run import Run, plain_json
from nnjax.training.search import ask, tell

__all__ = ["Sweep"]

Group = TypeVar("Group")
_Of: TypeAlias = tyro.conf.OmitArgPrefixes[Group]
_RESULTS = "sweep.json"
_EVERY = 30.0  # seconds between two times that everything is saved
_AXES = ("rate", "mu", "l2", "l1", "max_norm", "dropout", "init_scale", "batch_size")
_SHOWN = {"rate": "η", "mu": "μ", "l2": "λ", "l1": "λ (L1)", "batch_size": "batch size"}


@dataclass(frozen=True)
class Sweep:
    """Train all combinations of some settings, from several seeds, and compare them.

    Give several values to an option, as in --rate 0.01 0.03 0.1 --l2 0 1 5. The best settings are
    chosen on the validation data, and only these are measured on the test data. The folder is a run
    with the best network, which the other commands read.
    """

    rate: tuple[float, ...] = ()
    """Learning rates η (default: that of nnjax train)."""
    mu: tuple[float, ...] = ()
    """Momentum coefficients, of momentum and nesterov."""
    l2: tuple[float, ...] = ()
    """Values of λ of L2 regularisation."""
    l1: tuple[float, ...] = ()
    """Values of λ of L1 regularisation."""
    max_norm: tuple[float, ...] = ()
    """Upper bounds on the norm of each neuron's incoming weights."""
    dropout: tuple[float, ...] = ()
    """Rates of all dropout layers in --net."""
    init_scale: tuple[float, ...] = ()
    """Factors for the starting weights."""
    batch_size: tuple[int, ...] = (10,)
    """Mini-batch sizes."""
    seeds: int = 3
    """How many seeds to train each combination from: 0, 1, ..."""
    epochs: int = 30
    """Number of passes over the training data."""
    refine: int | None = None
    """Successive halving: keep only the best 1/N of the combinations after 1/N of the epochs, of
    these again the best 1/N after the next power, and so on."""
    search: int | None = None
    """Train N combinations that Optuna proposes, learning from one to the next, in place of all:
    two values of an option are then the ends of a range, and more are choices."""
    optimizer: str = "momentum"
    """Optimizer: sgd, momentum, nesterov, adam, ... or any other optax optimizer."""
    schedule: Schedule = "constant"
    """How the learning rate changes over the run; step: to a tenth after each third."""
    patience: int | None = None
    """Early stopping of each network: after N epochs without improvement."""
    measure: str = "auto"
    """What the combinations are compared by, and what early stopping monitors (default: the
    main metric of the task on the validation data, such as validation_accuracy)."""
    out: Path | None = None
    """Folder for the sweep (default: a new one in runs/)."""
    resume: Path | None = None
    """Continue the sweep in this folder, with its original options."""
    devices: Literal["all"] | int | None = None
    """Divide the networks over this many devices (default: one)."""
    platform: Literal["cpu", "gpu", "tpu"] | None = None
    """Device to run on (default: chosen by JAX)."""
    json: bool = False
    """Print the results as JSON."""
    cluster: _Of[Cluster] = field(default_factory=Cluster)
    data: _Of[DataOptions] = field(default_factory=DataOptions)
    network: _Of[NetworkOptions] = field(default_factory=NetworkOptions)

    def __call__(self) -> None:
        with self.cluster.joined(self.platform, self.out, self.resume) as (out, resume):
            devices = "all" if self.cluster.distributed else self.devices
            dataclasses.replace(self, devices=devices, out=out, resume=resume)._sweep()

    def _sweep(self) -> None:
        if self.platform is not None:
            use(self.platform)
        asked, run = self, None
        if self.resume is not None:
            run = Run(self.resume)
            asked = dataclasses.replace(_from_json(run), **{k: getattr(self, k) for k in _NOW})
            if (run.folder / _RESULTS).is_file():
                raise ValueError(f"{run.folder}: this sweep is complete; see its {_RESULTS}")
        if asked.network.feedback != "transpose":
            raise ValueError("a sweep trains by backpropagation; leave out --feedback")
        config = asked._config({})
        if config.source() is not None:
            raise ValueError(
                f"a sweep needs its data in memory, and the files in {config.data} are read a "
                "window at a time; give a .npz file of a part of them"
            )
        data = config.dataset()
        config = config.for_data(data)
        asked = dataclasses.replace(asked, measure=config.measure)
        shape, n_out = data.train[0].shape[1:], config.n_out(data)
        known = ["train_loss"]
        if data.validation is not None:
            known += [f"validation_{name}" for name in config.metrics().metrics]
        if asked.measure not in known:
            raise ValueError(
                f"measure is {asked.measure!r}; expected one of {', '.join(known)}"
                + ("" if len(known) > 1 else f", since {config.data} has no validation data")
            )
        net, space, study = config.network(shape, n_out), None, None
        if asked.search is not None:
            space = asked._space(config, net)
            study = new_study(larger=_metric(asked.measure).better == "larger")
        content = description(config, data) | {"sweep": asked._to_json()}
        if run is not None and run.config["data_sha256"] != content["data_sha256"]:
            raise ValueError(
                f"the data set {config.data} is not the one that {run.folder} was begun with; "
                "restore it, or start a new sweep"
            )
        opened = (
            new_run(self.out or free_folder(config.data), content)
            if run is None
            else Run.resume(run.folder)
        )
        with opened as run:
            begin = partial(
                many_epochs,
                net,
                data,
                seeds=asked.seeds,
                epochs=asked.epochs,
                optimizer=asked.optimizer,
                schedule=asked.schedule,
                evaluate_on=("validation",) if data.validation is not None else (),
                early_stopping=None
                if asked.patience is None
                else EarlyStopping(asked.patience, asked.measure),
                refine=asked.refine,
                mesh=mesh_of(self.devices, "networks"),
            )
            with _shown(asked) as shown:
                if space is None:
                    many = _follow(run, begin, asked._grid(config), shown)
                else:
                    many = asked._search(run, begin, space, study, shown)
            results = _results(many, data, asked)
            asked._keep(run, many, data, results, content)
            if self.json:
                show(json.dumps(plain_json({"folder": run.folder, **results})))
            else:
                _print_table(many, asked.measure, results)
                show(f"Saved in {run.folder}")

    def _grid(self, config: TrainConfig) -> dict[str, Any]:
        grid: dict[str, Any] = {"rate": config.learning_rate}
        for name, values in self._given().items():
            grid[name] = values[0] if len(values) == 1 else values
        return grid

    def _space(self, config: TrainConfig, net: Network) -> Space:
        require_size(self.search, "search")
        if self.refine is not None:
            raise ValueError("search and refine both say what is trained; leave one of them out")
        rate: tuple[float, ...] = (config.learning_rate,)
        space = Space({"rate": rate} | self._given())
        fixed = {"net": net, "optimizer": self.optimizer, "schedule": self.schedule}
        Grid.of_trials(space.ends, fixed)  # says what does not fit, before anything is trained
        return space

    def _search(
        self, run: Run, begin: _Begin, space: Space, study: Any, shown: Callable[..., None]
    ) -> Many:
        """Train what Optuna proposes, in batches; of one that is complete the end is read."""
        every: Many | None = None
        left = range(self.search or 0)
        for number, start in enumerate(left[::TOGETHER]):
            trials, settings = ask(study, space, len(left[start : start + TOGETHER]))
            many = _follow(run, begin, settings, partial(shown, before=every), number)
            tell(study, trials, np.median(many.final(self.measure), axis=1))
            every = many if every is None else every.followed_by(many)
        assert every is not None  # there is at least one trial
        return every

    def _given(self) -> dict[str, tuple[Any, ...]]:
        return {name: values for name in _AXES if (values := getattr(self, name))}

    def _config(self, settings: Mapping[str, Any]) -> TrainConfig:
        """Return what `nnjax train` is asked for to train one of the networks."""
        names = {f.name for f in dataclasses.fields(TrainConfig)}
        one = {name: values[0] for name, values in self._given().items()}
        one |= settings
        shared = ("epochs", "optimizer", "schedule", "patience", "measure")
        values: dict[str, Any] = {**vars(self.data), **vars(self.network)}
        values |= {name: getattr(self, name) for name in shared}
        values |= {name: value for name, value in one.items() if name in names}
        if "dropout" in one:
            word = f"dropout{one['dropout']}"
            words = values["net"]
            values["net"] = tuple(word if re.match(r"dropout[\d.]", w) else w for w in words)
        return TrainConfig(**values)

    def _to_json(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        fields["data"]["data_dir"] = self.data.data_dir and str(self.data.data_dir)
        return {name: value for name, value in fields.items() if name not in _NOW}

    def _keep(
        self,
        run: Run,
        many: Many,
        data: Dataset,
        results: dict[str, Any],
        content: dict[str, Any],
    ) -> None:
        """Write the best network as that of the run, the table, and the pictures."""
        best = results["best"]
        at = {"trial": best["trial"]} if many.grid.trials else best["settings"]
        one = many.at(seed=best["seed"], **at)
        run.save_params(one.state.best_params)
        epochs = len(one.history["train_loss"])
        names = [name for name, values in one.history.items() if not np.isnan(values).any()]
        run.save_history(
            [{"epoch": e, **{n: float(one.history[n][e]) for n in names}} for e in range(epochs)]
        )
        config = self._config(best["settings"]).for_data(data)
        config = dataclasses.replace(config, seed=best["seed"])
        run.save_config(content | {"train": config.to_json()})
        try:
            from nnjax.many_plots import pictures

            figures = pictures(many, self.measure)
        except ImportError:
            figures = {}  # matplotlib is not installed: there are no pictures
        for name, figure in figures.items():
            figure.savefig(run.folder / f"{name}.png")
        # The last: a sweep that has it is complete.
        write_atomically(run.folder / _RESULTS, json.dumps(plain_json(results)).encode())


_NOW = ("out", "resume", "devices", "platform", "json", "cluster")  # of this call, not of the sweep


def _from_json(run: Run) -> Sweep:
    """Return the sweep that a folder was made by."""
    try:
        fields = dict(run.config["sweep"])
        groups = {"data": DataOptions, "network": NetworkOptions}
        for name, kind in groups.items():
            fields[name] = kind(**_tuples(fields[name]))
        if fields["data"].data_dir is not None:
            folder = Path(fields["data"].data_dir)
            fields["data"] = dataclasses.replace(fields["data"], data_dir=folder)
        return Sweep(**_tuples(fields))
    except KeyError:
        raise ValueError(f"{run.folder} holds a run of nnjax train, not a sweep") from None
    except TypeError:
        raise ValueError(f"{run.folder / 'config.json'}: of another version of nnjax") from None


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}


_Begin: TypeAlias = Callable[..., Iterator[Many]]


def _restored(path: Path, template: Any, trials: Any) -> Any:
    """Return the progress that was saved, or the start where there is none yet."""
    if not path.is_file():
        return template
    if checkpoint.read_info(path).get("trials") != plain_json(trials):
        raise ValueError(
            f"{path}: holds other trials than Optuna proposes now, which may be of another "
            "version; start a new search"
        )
    return checkpoint.load(path, template)


def _follow(
    run: Run, begin: _Begin, grid: Any, shown: Callable[[Many], None], number: int = 0
) -> Many:
    """Go through the epochs, show and save how far they are, and return all networks.

    Args:
        run: to write to.
        begin: given a grid, and what restores its progress, gives the epochs.
        grid: what is trained.
        shown: shows how far it is.
        number: of the grid, where a search has several.
    """
    path = run.folder / f"sweep{f'-{number}' if number else ''}.safetensors"
    info = {"trials": grid if isinstance(grid, list) else None}
    steps = begin(grid=grid, restore=lambda template: _restored(path, template, info["trials"]))
    many = None
    saved, due = None, 0.0  # the first epoch is saved
    try:
        for many in stopped_together(steps):
            shown(many)
            if decided_by_the_first(time.monotonic() > due):
                saved = many.gathered()
                checkpoint.save(path, saved.progress, info)
                keep_programs()
                due = time.monotonic() + _EVERY
        assert many is not None  # there is at least one epoch
        many = many.gathered()
    except BaseException as stop:
        # Of several processes others may be gone, unless all have stopped together.
        if many is not None and (jax.process_count() == 1 or isinstance(stop, StoppedTogether)):
            with undisturbed():
                saved = many.gathered()
                checkpoint.save(path, saved.progress, info)
        if saved is None and not number:
            raise
        raise Saved(run.folder, 0 if saved is None else saved.epoch, "progress") from stop
    checkpoint.save(path, many.progress, info)
    return many


@contextmanager
def _shown(sweep: Sweep) -> Iterator[Callable[..., None]]:
    """Give a function that shows how far the networks are: a line per epoch, or a bar.

    It is called with the networks in training, and those of a search that are done.
    """
    start, first, last = time.monotonic(), 0, None

    def progress(many: Many, before: Many | None) -> tuple[int, int]:
        """How many epochs are done, and how many there are, one batch after another."""
        if sweep.search is None:
            return many.epoch, many.epochs
        done = 0 if before is None else len(before.grid.trials) // TOGETHER
        return done * many.epochs + many.epoch, -(-sweep.search // TOGETHER) * many.epochs

    def line(many: Many, before: Many | None = None) -> str:
        nonlocal start, first, last
        done, all_ = progress(many, before)
        if last is None:
            first = done - 1  # of a sweep that continues
        elif done > last + 1:  # a batch that was done before
            start, first = time.monotonic(), done
        last = done
        running = int(np.sum(many.status == RUNNING))
        text = f"Epoch {many.epoch}/{many.epochs}  {running} of {many.status.size} networks"
        every = many
        if sweep.search is not None:
            number = 0 if before is None else len(before.grid.trials)
            text = f"Trials {number + len(many.grid.trials)}/{sweep.search}  {text}"
            every = many if before is None else before.followed_by(many)
        with suppress(ValueError):  # none is best where too many networks have diverged
            best = every.best(sweep.measure)
            text += f"  best {_words(best.measure)} {_figure(best.measure, np.median(best.values))}"
            settings = _chosen(every, best.settings, sweep)
            text += f" ({_settings(settings)})" if settings else ""
        if first < done < all_:
            seconds = (time.monotonic() - start) / (done - first) * (all_ - done)
            text += f"  {_time(seconds)} left"
        return text

    if sweep.json or not sys.stdout.isatty():
        yield lambda *many, **more: None if sweep.json else show(line(*many, **more))
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("Epochs"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("", total=None)

        def above(many: Many, before: Many | None = None) -> None:
            bar.console.print(printable(line(many, before)), highlight=False, markup=False)
            done, all_ = progress(many, before)
            bar.update(task, completed=done, total=all_)

        yield above


def _chosen(many: Many, at: Mapping[str, Any], sweep: Sweep) -> dict[str, Any]:
    """Return the settings at a place of the grid; of a trial those that were searched."""
    if sweep.search is None:
        return dict(at)
    trial = many.grid.trials[at["trial"]]
    return {name: trial[name] for name, values in sweep._given().items() if len(values) > 1}


def _results(many: Many, data: Dataset, sweep: Sweep) -> dict[str, Any]:
    """Return the table, the best settings, and what these reach on the test data."""
    measure = sweep.measure
    best = many.best(measure)
    sign = -1 if _metric(measure).better == "smaller" else 1
    seed = many.seeds[int(np.nanargmax(sign * best.values))]
    task = _task(many, data)
    found: dict[str, Any] = {"settings": _chosen(many, best.settings, sweep), "seed": seed}
    found[measure] = best.values
    table = many.table(measure)
    if sweep.search is not None:
        found["trial"] = best.settings["trial"]
        table = [{"trial": row["trial"], **_chosen(many, row, sweep), **row} for row in table]
    if data.test is not None:
        x, y = map(jnp.asarray, data.test)
        members = [many.at(seed=s, **best.settings) for s in many.seeds]
        name = f"test_{task.main}"
        each = [evaluate(m.net, m.state.best_params, x, y, task) for m in members]
        found[name] = [float(getattr(one, task.main)) for one in each]
        if len(members) > 1:
            outputs = many.ensemble(x, **best.settings)
            scores = task.scores(outputs, targets(y, outputs))
            together = task.result(jnp.zeros((), outputs.dtype), scores)
            found[f"ensemble_{name}"] = float(getattr(together, task.main))
    return {"measure": measure, "table": table, "best": found}


def _print_table(many: Many, measure: str, results: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    best, count = results["best"], len(many.seeds)
    names = [*(["trial"] if many.grid.trials else []), *best["settings"]]
    table = Table(title=f"{_words(measure).capitalize()}, {count} seeds", title_justify="left")
    for name in names:
        table.add_column(_SHOWN.get(name, _words(name)), justify="right")
    for name in ("median", "min to max", "epochs", "diverged"):
        table.add_column(name, justify="right")
    chosen = {name: best.get(name, best["settings"].get(name)) for name in names}
    for row in results["table"]:
        settings = {name: row[name] for name in names}
        figures = [_figure(measure, row[f"{measure}{end}"]) for end in ("", "_min", "_max")]
        marked = settings == chosen
        cells = [f"{value:g}" for value in settings.values()]
        spread = f"{figures[1]} to {figures[2]}" if figures[0] != "-" else "-"
        cells += [figures[0], spread, str(row["epochs"]), str(row["diverged"] or "")]
        table.add_row(*cells, style="bold" if marked else None)
    Console(file=sys.stdout).print(table)
    values = np.asarray(best[measure])
    text = f"Best: {_settings(best['settings'])}: {_words(measure)} {_spread(measure, values)}"
    for name in best:
        if name.startswith("test_"):
            text += f"; {_words(name)} {_spread(name, np.asarray(best[name]))}"
        elif name.startswith("ensemble_"):
            text += f"; all {count} together {_figure(name, best[name])}"
    show(wrapped(text))


def _spread(measure: str, values: np.ndarray) -> str:
    figures = [_figure(measure, f(values)) for f in (np.nanmedian, np.nanmin, np.nanmax)]
    return figures[0] if len(values) == 1 else f"{figures[0]} ({figures[1]} to {figures[2]})"


def _figure(measure: str, value: Any) -> str:
    if np.isnan(value):
        return "-"
    metric = _metric(measure)
    if metric.unit == "%":
        return f"{100 * value:.2f} %"
    return loss_text(float(value)) if metric.name == "loss" else f"{value:#.3g}".rstrip(".")


def _metric(measure: str) -> Metric:
    """The metric of a name in the records, such as validation_accuracy or ensemble_test_rmse."""
    found = [m for name, m in METRICS.items() if measure.endswith(f"_{name}")]
    return max(found, key=lambda metric: len(metric.name))


def _task(many: Many, data: Dataset) -> Task:
    task = task_of(many.at(seed=many.seeds[0], **many.best().settings).net, data.train[1])
    regression = isinstance(task, Regression)
    return Regression.standardized(data.target_standardization) if regression else task


def _settings(settings: Mapping[str, Any]) -> str:
    return (
        ", ".join(f"{_SHOWN.get(k, _words(k))} = {v:g}" for k, v in settings.items()) or "as asked"
    )


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _words(name: str) -> str:
    return name.replace("_", " ")
