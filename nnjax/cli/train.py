"""`nnjax train`: train a network and keep the run in a folder."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from nnjax.architecture import summary
from nnjax.cli.advice import advice
from nnjax.cli.compiled import keep_programs
from nnjax.cli.config import TrainConfig
from nnjax.cli.console import Progress, busy, result_line, show, wrapped
from nnjax.cli.devices import mesh_of
from nnjax.cli.distributed import Cluster, stopped_together
from nnjax.cli.loaded import description, load_run, settings
from nnjax.cli.options import (
    GROUPS,
    DataOptions,
    NetworkOptions,
    OptimizationOptions,
    OutputOptions,
    RegularizationOptions,
)
from nnjax.cli.stop import Saved, undisturbed
from nnjax.cli.streamed import train_streamed
from nnjax.data import Dataset
from nnjax.data.stream import Folder
from nnjax.evaluation import evaluate
from nnjax.network import Network, Params
from nnjax.training import (
    DivergedError,
    EarlyStopping,
    Record,
    TrainState,
    initial_state,
    train_epochs,
)
from nnjax.training.augmentation import Distortion
from nnjax.training.devices import on_one_device
from nnjax.training.monitors import directions
from nnjax.training.run import Run
from nnjax.training.tensorboard import tensorboard

__all__ = ["Train", "free_folder", "new_run", "use"]

_LOOKED_AT = 1000  # training examples, for advice on a run that did not learn
_OF_STATE = ("optimizer", "key", "early_stopping", "feedback")  # what the state is made of

Group = TypeVar("Group")
_Of: TypeAlias = tyro.conf.OmitArgPrefixes[Group]  # --rate instead of --optimization.rate


@dataclass(frozen=True)
class Output(OutputOptions):
    """What is measured, shown and kept."""

    out: Path | None = None
    """Folder for the run (default: a new one in runs/)."""
    tensorboard: bool = False
    """Also write everything that is measured for TensorBoard, into the folder of the run."""
    quiet: bool = False
    """Print nothing but the folder of the run, at the end."""


@dataclass(frozen=True)
class Train:
    """Train a network; without options, on the digits data set bundled with scikit-learn.

    Every run is kept in a folder: its configuration, its history, the parameters and the last
    state, from which --resume continues.
    """

    resume: Path | None = None
    """Continue the run in this folder from its last checkpoint, with its original options; a
    finished run continues with more --epochs."""
    source: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Start a new run from the parameters of the run in this folder, with its options."""
    options: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    """Take the options that are not given from this file: TOML or JSON with their names, or the
    config.json of a run."""
    platform: Literal["cpu", "gpu", "tpu"] | None = None
    """Device to run on (default: chosen by JAX)."""
    devices: Literal["all"] | int | None = None
    """Divide every mini-batch over this many devices (default: one)."""
    data: _Of[DataOptions] = field(default_factory=DataOptions)
    distort: Distortion = field(default_factory=Distortion)
    """Random distortions, redrawn every time a training image is used."""
    network: _Of[NetworkOptions] = field(default_factory=NetworkOptions)
    optimization: _Of[OptimizationOptions] = field(default_factory=OptimizationOptions)
    regularization: _Of[RegularizationOptions] = field(default_factory=RegularizationOptions)
    output: _Of[Output] = field(default_factory=Output)
    cluster: _Of[Cluster] = field(default_factory=Cluster)

    @staticmethod
    def of(config: TrainConfig, tensorboard: bool = False) -> Train:
        """Return the command that trains what a configuration describes."""
        groups = config.groups
        groups["output"] = Output(**vars(groups["output"]), tensorboard=tensorboard)
        return Train(**groups, distort=config.distort)

    @property
    def config(self) -> TrainConfig:
        """What to train, on what, and how."""
        return TrainConfig.of([getattr(self, name) for name in GROUPS], self.distort)

    def __call__(self) -> None:
        with self.cluster.joined(self.platform, self.output.out, self.resume) as (out, resume):
            devices = "all" if self.cluster.distributed else self.devices
            output = replace(self.output, out=out)
            replace(self, devices=devices, resume=resume, output=output)._train()

    def _train(self) -> None:
        if self.platform is not None:
            use(self.platform)
        say = (lambda text: None) if self.output.quiet else show
        data = self.config.dataset()
        config = self.config.for_data(data)
        if self.resume is None:
            config.require_measure(data)
        shape, n_out = data.train[0].shape[1:], config.n_out(data)
        net = config.network(shape, n_out)
        if (source := config.source()) is not None:
            self._train_streamed(config, data, net, source)
            return
        arguments = config.arguments(net, data)
        start = self._start(data)
        content = description(config, data) | {"tensorboard": self.output.tensorboard}
        with self._run(content) as run:
            keeper = _Keeper(run, content, config)
            if self.resume is not None:
                keeper.restore(net, arguments)
                run.save_config(content)  # it may be asked for more epochs from now on
            shown = Progress(
                data, arguments["evaluate_on"], config.epochs, keeper.epoch, self.output.quiet
            )
            steps = train_epochs(
                net,
                data,
                **arguments,
                params=start,
                state=keeper.state,
                within=shown.within,
                mesh=mesh_of(self.devices, "data"),
            )
            if start is not None:
                keeper.begin(net, arguments, start)
            if self.devices is not None:
                steps = ((on_one_device(state), record) for state, record in steps)
            say(_opening(config, data, net))
            if self.cluster.distributed:  # the share of this process is on its devices
                x, y = data.train
                data = data._replace(train=(x[:_LOOKED_AT].copy(), y[:_LOOKED_AT].copy()))
            with ExitStack() as stack:
                listeners: list[Callable[[Record], None]] = [run.log]
                if self.output.tensorboard:
                    often = config.monitors if config.monitor_every is not None else ()
                    board = tensorboard(run.folder / "tensorboard", often, keeper.records)
                    listeners.append(stack.enter_context(board))
                listeners.append(stack.enter_context(shown))
                state = keeper.follow(stopped_together(steps), listeners)
            if config.patience is not None:
                best = int(state.stopping.best_epoch) + 1
                say(f"Restored the parameters of epoch {best} (best {_words(config.measure)})")
            if data.test is not None:
                task = config.metrics(data.target_standardization)
                x, y = map(jnp.asarray, data.test)
                with busy("evaluating"):
                    result = evaluate(net, state.best_params, x, y, task)
                say(result_line("Test", result._asdict(), len(data.test[0])))
            if start is None:
                start = initial_state(net, arguments["optimizer"], arguments["key"]).params
            if text := advice(config, net, start, state.params, data, keeper.records):
                say(wrapped(text))
            show(str(run.folder) if self.output.quiet else f"Saved in {run.folder}")

    def _train_streamed(
        self, config: TrainConfig, data: Dataset, net: Network, source: Folder
    ) -> None:
        if self.output.tensorboard:
            raise ValueError("tensorboard is for data in memory; leave it out")
        content = description(config, data) | {"tensorboard": False}
        content |= {"files": source.files, "files_sha256": source.files_sha256}
        start = self._start(data)
        with self._run(content) as run:
            if not self.output.quiet:
                show(_opening(config, data, net, len(source)))
            train_streamed(
                run,
                content,
                config,
                net,
                data,
                source,
                start=start,
                resumed=self.resume is not None,
                mesh=mesh_of(self.devices, "data"),
                quiet=self.output.quiet,
            )

    def _start(self, data: Dataset) -> Params | None:
        """Return the parameters to start from, None for random ones."""
        if self.source is None:
            return None
        earlier = load_run(self.source)
        if earlier.features and data.features and earlier.features != data.features:
            raise ValueError(
                f"{self.config.data} has the features {', '.join(data.features)}, and "
                f"{self.source} was trained on {', '.join(earlier.features)}; bring the columns "
                "into that order"
            )
        return earlier.params

    def _run(self, content: dict[str, Any]) -> AbstractContextManager[Run]:
        """Open the run: a new one, or, if it was asked for the same, the one to continue."""
        if self.resume is None:
            return new_run(self.output.out or free_folder(self.config.data), content)
        if self.output.out is not None:
            raise ValueError("--resume continues in the folder of the run; leave out --out")
        earlier = Run(self.resume).config
        if "sweep" in earlier:
            done = (self.resume / "params.safetensors").is_file()
            raise ValueError(
                f"{self.resume} holds a sweep; "
                + ("start a run from its best network" if done else "continue it")
                + f" with nnjax {'train --from' if done else 'sweep --resume'} {self.resume}"
            )
        before, now = (settings(config) for config in (earlier, content))
        for name, value in now.items():
            if value == before.get(name, value):
                continue
            if name in ("data_sha256", "files", "files_sha256"):
                raise ValueError(
                    f"the data set {self.config.data} is not the one that {self.resume} was "
                    "trained on: its contents have changed; restore them, or start a new run"
                )
            raise ValueError(
                f"{self.resume} was trained with {name} {before[name]}, not {value}; leave that "
                "option out to resume it"
            )
        return Run.resume(self.resume)


class _Keeper:
    """Keeps a run on the disk while it trains: its state, and the records so far."""

    def __init__(self, run: Run, content: Mapping[str, Any], config: TrainConfig):
        self.run, self.content, self.config = run, content, config
        self.state: TrainState | None = None
        self.records: list[Record] = []

    def begin(self, net: Network, arguments: Mapping[str, Any], start: Params) -> None:
        """Save the state before the first epoch: what --resume cannot make again from the seed."""
        options = {name: arguments[name] for name in _OF_STATE}
        state = initial_state(net, **options, params=start)
        self.run.save_checkpoint(state, 0, settings=settings(self.content))

    def restore(self, net: Network, arguments: Mapping[str, Any]) -> None:
        """Take up the state of the last checkpoint; none where the run was killed before it."""
        run, every = self.run, self.config.save_every
        if not run.checkpoints:
            trained = len(run.history)
            if trained > (every or 0):
                raise FileNotFoundError(
                    f"{run.folder} was trained for {trained} epochs, but has no checkpoint to "
                    "resume from; start a new run (with --save-every N it can continue after a "
                    "kill too)"
                )
            (run.folder / "history.jsonl").unlink(missing_ok=True)
            return
        template = initial_state(net, **{name: arguments[name] for name in _OF_STATE})
        self.state = run.restore(template, settings(self.content))
        self.records = run.history
        epochs, before, trained = arguments["epochs"], run.config["train"]["epochs"], self.epoch
        if trained > epochs != before:
            raise ValueError(
                f"{run.folder} was already trained for {trained} epochs, and epochs is {epochs}; "
                "expected at least as many"
            )

    def follow(
        self,
        steps: Iterable[tuple[TrainState, Record]],
        listeners: Sequence[Callable[[Record], None]],
    ) -> TrainState:
        """Go through the epochs, pass on each record, save, and return the last state.

        Raises:
            Saved: if that breaks off after an epoch; what was trained until then is saved.
        """
        every = self.config.save_every
        try:
            for state, record in steps:
                self.records.append(record)
                self.state = state
                for listen in listeners:
                    listen(record)
                if len(self.records) == 1:
                    keep_programs()
                if every is not None and (record["epoch"] + 1) % every == 0:
                    self._checkpoint(self.run)
            self._save(self.run)
        except BaseException as stop:
            if isinstance(stop, DivergedError):
                self.state = on_one_device(stop.state)
            with undisturbed():
                folder = self._rescue()
            if folder is None:
                raise
            raise Saved(folder, self.epoch) from stop
        assert self.state is not None  # there is at least one epoch
        return self.state

    @property
    def epoch(self) -> int:
        """The epochs behind the state; a signal may come when one more is recorded already."""
        return 0 if self.state is None else int(self.state.epoch)

    def _checkpoint(self, run: Run) -> None:
        value = self.records[self.epoch - 1].get(self.config.measure) if self.epoch else None
        score = None
        if value is not None and not np.ndim(value):
            rule = EarlyStopping(1, self.config.measure)
            better = rule.with_direction(directions(self.config.monitors)).better
            score = value if better == "larger" else -value
        fixed = settings(self.content)
        run.save_checkpoint(self.state, self.epoch, score=score, settings=fixed)

    def _save(self, run: Run) -> None:
        """Write everything: parameters, history, configuration, and the state to continue from."""
        assert self.state is not None
        run.save_params(self.state.best_params)
        run.save_history(self.records[: self.epoch])
        run.save_config(self.content)
        self._checkpoint(run)

    def _rescue(self) -> Path | None:
        """Save the run, elsewhere if its folder is gone or full; return where, None if nowhere."""
        if self.state is None:
            return None
        with suppress(OSError):
            self._save(self.run)
            return self.run.folder
        folder = Path(tempfile.mkdtemp(prefix="nnjax-run-"))
        try:
            with Run.create(folder, self.content) as run:
                self._save(run)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            return None
        return folder


_OPTIMIZERS = {
    "sgd": "SGD",
    "momentum": "SGD with momentum",
    "nesterov": "SGD with Nesterov momentum",
    "adam": "Adam",
    "adamw": "AdamW",
    "rmsprop": "RMSProp",
    "adagrad": "Adagrad",
}


def _opening(config: TrainConfig, data: Dataset, net: Network, streamed: int | None = None) -> str:
    """The lines above the first epoch: what is trained, on what, and how."""
    names = {"train": "training", "validation": "validation", "test": "test"}
    counts = {name: len(part[0]) for name, part in data._asdict().items() if part}
    counts |= {} if streamed is None else {"train": streamed}
    sizes = [f"{count:,} {names[name]}" for name, count in counts.items()]
    lines = [
        f"Data: {config.data} ({', '.join(sizes)} examples)",
        *_task(config, data),
        f"Loss: {config.loss.replace('_', '-')}",
        f"Optimizer: {_OPTIMIZERS.get(config.optimizer, config.optimizer)}, "
        f"learning rate η = {config.learning_rate:g}, batch size {config.batch_size}",
    ]
    if config.patience is not None:
        lines.append(
            f"Early stopping after {config.patience} epochs without improvement in "
            f"{_words(config.measure)}"
        )
    return "\n".join([*lines, "", str(summary(net)), ""])


def _task(config: TrainConfig, data: Dataset) -> list[str]:
    """What the targets of a table are taken for."""
    if not data.features:
        return []
    names, count = list(data.classes), max(len(data.classes), 1)
    things = {"regression": "target", "multilabel": "label"}.get(config.task, "class")
    listed = f": {', '.join(names[:5])}{', ...' * (count > 5)}" if names else ""
    plural = things if count == 1 else things + ("es" if things == "class" else "s")
    return [f"Task: {config.task}, {count} {plural}{listed} (choose with --task)"]


def _words(name: str) -> str:
    return name.replace("_", " ")


def use(platform: str) -> None:
    """Make JAX compute there; this must happen before JAX has computed anything."""
    before = jax.config.values["jax_platforms"]
    jax.config.update("jax_platforms", platform)
    try:
        found = jax.default_backend()
    except RuntimeError:
        jax.config.update("jax_platforms", before)
        found = None
    if found != platform:
        raise ValueError(
            f"platform is {platform}, but JAX finds no such device on this machine; leave the "
            f'option out, or install JAX for it (for NVIDIA GPUs: pip install "nnjax[cuda]")'
        )


@contextmanager
def new_run(folder: Path, content: dict[str, Any]) -> Iterator[Run]:
    """A new run, of which nothing stays if it breaks off before the first epoch is trained.

    Only what this run has created is removed.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    run = None
    try:
        with Run.create(folder, content) as run:
            yield run
    except BaseException as error:
        kept = ("history.jsonl", "params.safetensors", "sweep.safetensors")
        if run is not None and not any((folder / name).exists() for name in kept):
            for name in ("checkpoints", "tensorboard"):
                shutil.rmtree(folder / name, ignore_errors=True)
            (folder / "config.json").unlink(missing_ok=True)
        ours = folder in made and not isinstance(error, BlockingIOError)
        if ours and [path.name for path in folder.glob("*")] == [".lock"]:
            (folder / ".lock").unlink()
        for path in made:
            with suppress(OSError):  # it holds something
                path.rmdir()
        raise


def free_folder(dataset: str) -> Path:
    """The first of runs/<data set>-<day>-1, -2, ... that does not exist yet."""
    name = f"{Path(dataset).name.split('.')[0]}-{time.strftime('%Y-%m-%d')}"
    folders = (Path("runs", f"{name}-{n}") for n in itertools.count(1))
    return next(folder for folder in folders if not folder.exists())
