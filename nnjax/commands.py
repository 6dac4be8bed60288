"""The commands of the command line, one frozen dataclass each.

Its docstring is the help, its fields are the options, from which tyro makes the parser, and calling
it does the job. To add a command, write one and name it in `COMMANDS`. What only one command needs
is imported in that command, so that the others start fast.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import jax
import jax.numpy as jnp
import tyro

from nnjax.architecture import summary
from nnjax.config import TrainConfig, n_classes
from nnjax.console import KEPT, progress
from nnjax.data import Dataset
from nnjax.network import Network, Params, evaluate, feedforward, init
from nnjax.training import DivergedError, Record, TrainState, initial_state, train_epochs
from nnjax.training.run import Run

__all__ = ["COMMANDS", "Evaluate", "Predict", "Train", "open_run", "parse"]


@dataclass(frozen=True)
class Train:
    """Train a network; without options, on the embedded digits.

    Every run is kept in a folder: config.json, history.jsonl, params.safetensors.
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    out: Path | None = None
    """Folder for the run; otherwise a new one in runs/."""
    resume: Path | None = None
    """Go on with the run in this folder from its last checkpoint, with the options it had."""
    platform: Literal["cpu", "gpu", "tpu"] | None = None
    """Where to compute; otherwise where jax would."""

    def __call__(self) -> None:
        if self.platform is not None:
            _use(self.platform)
        config, data = self.config, self.config.dataset()
        shape, n_out = data.train[0].shape[1:], n_classes(data)
        net, arguments = config.network(shape, n_out), config.arguments(data)
        params: Any = None
        with self._run({"train": config.to_json(), "input_shape": shape, "n_out": n_out}) as run:
            state = _restored(run, net, arguments) if self.resume else None
            steps = train_epochs(net, data, **arguments, state=state)
            print(_opening(config, data, net, arguments["evaluate_on"]), flush=True)
            params = None if state is None else state.best_params
            try:
                with progress(data, arguments["evaluate_on"], config.epochs) as show:
                    for state, record in steps:
                        # A copy: the next epoch works in the memory of this state.
                        params = jax.device_get(state.best_params)
                        run.log(record)
                        done = record["epoch"] + 1
                        if config.save_every and (
                            done % config.save_every == 0 or done == config.epochs
                        ):
                            run.save_checkpoint(state, done, score=_score(record))
                        show(record)
            except (DivergedError, OSError, KeyboardInterrupt) as stop:
                if isinstance(stop, DivergedError):
                    params = stop.state.best_params
                if params is not None:
                    run.save_params(params)
                    stop.add_note(f"{KEPT} {run.folder}")
                raise
            run.save_params(params)
            if data.test is not None:
                result = evaluate(net, params, *map(jnp.asarray, data.test))
                print(
                    f"Test: {int(result.correct)} / {len(data.test[0])} "
                    f"({100 * float(result.accuracy):.2f} %), loss {float(result.loss):.4g}"
                )
            print(f"Saved in {run.folder}")

    def _run(self, content: dict[str, Any]) -> AbstractContextManager[Run]:
        """Open the run: a new one, or, if it was asked for the same, the one to go on with."""
        if self.resume is None:
            return _new_run(self.out or _free_folder(self.config.data), content)
        if self.out is not None:
            raise ValueError("resume goes on in the folder of the run; leave out --out")
        before = open_run(self.resume)[1].to_json()
        for name, value in content["train"].items():
            if value != before[name] and name not in ("epochs", "data_dir", "save_every"):
                raise ValueError(
                    f"{self.resume} was trained with {name} {before[name]}, not {value}; to resume "
                    "it, leave that out"
                )
        return Run.resume(self.resume)


@dataclass(frozen=True)
class Predict:
    """Say which class each picture is of, with the network's output for it in percent.

    Pictures may be of any size, dark on light or light on dark. After log_likelihood the outputs
    are probabilities; sigmoid outputs need not add up to 100 %.
    """

    run: tyro.conf.Positional[Path]
    """Folder of a run, as nnjax train has saved it."""
    images: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="IMAGE...")]]
    """Picture files."""

    def __call__(self) -> None:
        import numpy as np

        from nnjax.images import prepare

        if not self.images:
            raise ValueError("no picture to classify: name at least one file after the run")
        run, _, net, shape = open_run(self.run)
        if len(shape) != 3 or shape[2] != 1:
            raise ValueError(
                f"{self.run}: was trained on examples of shape {shape}; expected grey pictures "
                "(height, width, 1)"
            )
        params = _params(run, net)
        x = np.stack([prepare(path, shape[:2]) for path in self.images])
        outputs = np.asarray(feedforward(net, params, jnp.asarray(x)))
        for path, row in zip(self.images, outputs, strict=True):
            best = [f"{k} ({100 * row[k]:.1f} %)" for k in np.argsort(row)[:-3:-1]]
            print(f"{path}: {', else '.join(best)}")


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained network class by class: precision, recall, confusion matrix."""

    run: tyro.conf.Positional[Path]
    """Folder of a run, as nnjax train has saved it."""
    data: str | None = None
    """A data set, by name or path; otherwise the one that the run was trained on."""
    data_dir: Path | None = None
    """Where the files of mnist or fashion-mnist are."""
    part: Literal["train", "validation", "test"] = "test"
    """Which part of the data set."""

    def __call__(self) -> None:
        from nnjax.evaluation import evaluate_classes

        run, config, net, _ = open_run(self.run)
        asked = {"data": self.data or config.data, "data_dir": self.data_dir or config.data_dir}
        part = getattr(replace(config, **asked).dataset(), self.part)
        if part is None:
            raise ValueError(f"{asked['data']} has no {self.part} data; ask for another --part")
        print(evaluate_classes(net, _params(run, net), *map(jnp.asarray, part)))


def open_run(folder: Path) -> tuple[Run, TrainConfig, Network, tuple[int, ...]]:
    """Return a run, what it was asked for, its network and the shape of one example.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: if its configuration is damaged or of a newer version.
    """
    run = Run(folder)
    try:
        config = TrainConfig.from_json(run.config["train"])
        shape, n_out = tuple(run.config["input_shape"]), run.config["n_out"]
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"{folder / 'config.json'}: damaged, or not of a training run") from None
    return run, config, config.network(shape, n_out), shape


def _params(run: Run, net: Network) -> Params:
    return run.load_params(jax.eval_shape(lambda key: init(net, key), jax.random.key(0)))


def _opening(config: TrainConfig, data: Dataset, net: Network, evaluate_on: Sequence[str]) -> str:
    """The lines above the first epoch: what is trained on what, and what its numbers will mean."""
    parts = {"train": "to train on", "validation": "for validation", "test": "to test on"}
    sizes = [f"{len(part[0]):,} {parts[name]}" for name, part in data._asdict().items() if part]
    lines = [
        f"Data: {config.data}, {', '.join(sizes)}",
        f"Training: {config.loss}, {config.optimizer}, η = {config.learning_rate:g}, "
        f"mini-batches of {config.batch_size}",
        "",
        str(summary(net)),
        "",
    ]
    if evaluate_on:
        lines.append(f"Read rightly after each epoch, of the {' and '.join(evaluate_on)} data:")
    return "\n".join(lines)


def _use(platform: str) -> None:
    """Make jax compute there; it has to be said before jax has computed anything."""
    before = jax.config.values["jax_platforms"]
    jax.config.update("jax_platforms", platform)
    try:
        found = jax.default_backend()
    except RuntimeError:
        jax.config.update("jax_platforms", before)
        found = "nothing"
    if found != platform:
        raise ValueError(
            f"platform is {platform}, but jax has {found} for it here; leave it out, or install "
            'jax for it, as pip install "nnjax[cuda]" does for NVIDIA'
        )


@contextmanager
def _new_run(folder: Path, content: dict[str, Any]) -> Iterator[Run]:
    """A new run, of which nothing stays if it breaks off before parameters are saved in it."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with Run.create(folder, content) as run:
            yield run
    except (FileExistsError, BlockingIOError):  # it is another's
        raise
    except BaseException:
        if not any(folder.rglob("*.safetensors")):
            shutil.rmtree(folder, ignore_errors=True)
            for path in made:
                with suppress(OSError):  # another run may have come into it
                    path.rmdir()
        raise


def _free_folder(dataset: str) -> Path:
    """The first of runs/<data set>-<day>-1, -2, ... that is not there yet."""
    name = f"{Path(dataset).name.split('.')[0]}-{time.strftime('%Y-%m-%d')}"
    folders = (Path("runs", f"{name}-{n}") for n in itertools.count(1))
    return next(folder for folder in folders if not folder.exists())


def _restored(run: Run, net: Network, arguments: dict[str, Any]) -> TrainState | None:
    """The state after the last checkpoint; None where the run broke off before the first."""
    if run.config["train"]["save_every"] and not run.checkpoints:
        (run.folder / "history.jsonl").unlink(missing_ok=True)
        return None
    names = ("optimizer", "key", "early_stopping")
    return run.restore(initial_state(net, **{name: arguments[name] for name in names}))


def _score(record: Record) -> float | None:
    """How good the parameters of an epoch are: by what may be chosen by, the validation data."""
    return record.get("validation_accuracy")


COMMANDS: dict[str, Any] = {"train": Train, "predict": Predict, "evaluate": Evaluate}
"""The commands by name."""


def parse(argv: Sequence[str] | None) -> Callable[[], int | None]:
    """Return the command that the arguments ask for, to be called; it may return an exit status.

    Args:
        argv: what follows `nnjax`; None: the arguments of this process.

    Raises:
        SystemExit: after help, or a message about arguments that do not parse.
        OSError, ValueError: if a run is to be resumed that is not there or damaged.

    Example:
        >>> from nnjax.commands import parse
        >>> parse(["train", "--hidden", "30", "20"]).config.hidden
        (30, 20)
    """
    command = _parse(argv, Train())
    if isinstance(command, Train) and command.resume is not None:
        # Once more: what is not given is what the run was given.
        command = _parse(argv, Train(open_run(command.resume)[1]))
    return command


def _parse(argv: Sequence[str] | None, train: Train) -> Any:
    defaults = {"train": train}
    kinds = [
        Annotated[kind, tyro.conf.subcommand(name, default=defaults.get(name, tyro.MISSING))]
        for name, kind in COMMANDS.items()
    ]
    one_of: Any = Union[tuple(kinds)]  # noqa: UP007  (made while running)
    return tyro.cli(
        one_of,
        args=argv,
        prog="nnjax",
        description="Neural networks whose gradients are derived by hand.",
    )
