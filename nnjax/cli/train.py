"""`nnjax train`: train a network and keep the run in a folder."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import tyro

from nnjax.architecture import summary
from nnjax.cli.config import TrainConfig, n_classes
from nnjax.cli.console import KEPT, progress
from nnjax.cli.saved import open_run
from nnjax.data import Dataset
from nnjax.network import Network, Params, evaluate
from nnjax.training import DivergedError, Record, TrainState, initial_state, train_epochs
from nnjax.training.run import Run
from nnjax.training.tensorboard import tensorboard

__all__ = ["Train"]


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
    tensorboard: bool = False
    """Write what is measured for TensorBoard too, into the folder of the run."""
    platform: Literal["cpu", "gpu", "tpu"] | None = None
    """Where to compute; otherwise where jax would."""

    def __call__(self) -> None:
        if self.platform is not None:
            _use(self.platform)
        config, data = self.config, self.config.dataset()
        shape, n_out = data.train[0].shape[1:], n_classes(data)
        net = config.network(shape, n_out)
        arguments = config.arguments(net, data)
        content = {"train": config.to_json(), "input_shape": shape, "n_out": n_out}
        with self._run(content) as run:
            state = None
            if self.resume:
                state = _restored(run, net, arguments)
                run.save_config(content)  # it may be asked for more epochs from now on
            steps = train_epochs(net, data, **arguments, state=state)
            print(_opening(config, data, net, arguments["evaluate_on"]), flush=True)
            with ExitStack() as stack:
                listeners: list[Callable[[Record], None]] = [run.log]
                if self.tensorboard:
                    often = config.monitors if config.monitor_every is not None else ()
                    board = tensorboard(run.folder / "tensorboard", often)
                    listeners.append(stack.enter_context(board))
                shown = progress(data, arguments["evaluate_on"], config.epochs)
                listeners.append(stack.enter_context(shown))
                params = _follow(steps, state, run, config, listeners)
            run.save_params(params)
            if config.patience is not None:
                best = run.history[-1]["best_epoch"]
                print(f"Kept the parameters after epoch {best}, the best by {config.measure}")
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
        free = {"data_dir", "save_every"}
        if self.config.schedule == "constant":  # the others last as long as the run
            free.add("epochs")
        for name, value in content["train"].items():
            if value != before[name] and name not in free:
                raise ValueError(
                    f"{self.resume} was trained with {name} {before[name]}, not {value}; to resume "
                    "it, leave that out"
                )
        return Run.resume(self.resume)


def _follow(
    steps: Iterable[tuple[TrainState, Record]],
    state: TrainState | None,
    run: Run,
    config: TrainConfig,
    listeners: Sequence[Callable[[Record], None]],
) -> Params:
    """Go through the epochs, tell of each, and return the parameters that came of them.

    Where that breaks off, the last good parameters are saved.
    """
    params: Any = None if state is None else state.best_params
    every, epochs = config.save_every, config.epochs
    try:
        for state, record in steps:
            # A copy: the next epoch works in the memory of this state.
            params = jax.device_get(state.best_params)
            for listen in listeners:
                listen(record)
            done = record["epoch"] + 1
            if every is not None and (done % every == 0 or done == epochs):
                # The best is chosen by the validation data, as everything should be.
                run.save_checkpoint(state, done, score=record.get("validation_accuracy"))
    except BaseException as stop:
        if isinstance(stop, DivergedError):
            params = stop.state.best_params
        if params is not None:
            run.save_params(params)
            stop.add_note(f"{KEPT} {run.folder}")
        raise
    return params


def _opening(config: TrainConfig, data: Dataset, net: Network, evaluate_on: Sequence[str]) -> str:
    """The lines above the first epoch: what is trained on what, and what its numbers will mean."""
    parts = {"train": "to train on", "validation": "for validation", "test": "to test on"}
    sizes = [f"{len(part[0]):,} {parts[name]}" for name, part in data._asdict().items() if part]
    lines = [
        f"Data: {config.data}, {', '.join(sizes)}",
        f"Training: {config.loss}, {config.optimizer}, η = {config.learning_rate:g}, "
        f"mini-batches of {config.batch_size}",
    ]
    if config.patience is not None:
        lines.append(f"Patience: {config.patience} epochs without a better {config.measure}")
    lines += ["", str(summary(net)), ""]
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
    """A new run, of which nothing stays if it breaks off before the first epoch is trained.

    Only what this run has made is removed.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    run = None
    try:
        with Run.create(folder, content) as run:
            yield run
    except BaseException as error:
        kept = ("history.jsonl", "params.safetensors")
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


def _free_folder(dataset: str) -> Path:
    """The first of runs/<data set>-<day>-1, -2, ... that is not there yet."""
    name = f"{Path(dataset).name.split('.')[0]}-{time.strftime('%Y-%m-%d')}"
    folders = (Path("runs", f"{name}-{n}") for n in itertools.count(1))
    return next(folder for folder in folders if not folder.exists())


def _restored(run: Run, net: Network, arguments: dict[str, Any]) -> TrainState | None:
    """The state after the last checkpoint; None where the run broke off before the first."""
    every, trained = run.config["train"]["save_every"], len(run.history)
    if every and not run.checkpoints:
        if trained > every:
            raise FileNotFoundError(
                f"{run.folder} has trained {trained} epochs, but its checkpoints are gone, so that "
                "it cannot go on; train anew in another folder"
            )
        (run.folder / "history.jsonl").unlink(missing_ok=True)
        return None
    if trained > arguments["epochs"] != run.config["train"]["epochs"]:
        raise ValueError(
            f"{run.folder} has trained {trained} epochs already, and epochs is "
            f"{arguments['epochs']}; expected at least as many"
        )
    names = ("optimizer", "key", "early_stopping", "feedback")
    return run.restore(initial_state(net, **{name: arguments[name] for name in names}))
