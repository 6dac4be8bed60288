"""`nnjax train` on a folder of .npy or .npz files, which may be larger than memory.

    FOLDER/x-0.npy, y-0.npy, ...            everything is for training
    FOLDER/train/..., validation/, test/    the last two are held in memory

The state within the epoch is saved every half minute, and where the run is interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from nnjax.cli.compiled import keep_programs
from nnjax.cli.config import TrainConfig
from nnjax.cli.console import Progress, busy, result_line, show
from nnjax.cli.distributed import stopped_together
from nnjax.cli.loaded import settings
from nnjax.cli.stop import Saved, undisturbed
from nnjax.data import Dataset
from nnjax.data.stream import Folder
from nnjax.evaluation import evaluate
from nnjax.network import Network, Params
from nnjax.training import Record, initial_state
from nnjax.training.devices import on_one_device
from nnjax.training.run import Run
from nnjax.training.streaming import StreamState, begin, steps_per_epoch, stream_epochs

__all__ = ["train_streamed"]

_EVERY = 30.0  # seconds between two times that the state is saved
_GIVEN = ("optimizer", "epochs", "batch_size", "key", "regularizer", "augment")


def train_streamed(
    run: Run,
    content: Mapping[str, Any],
    config: TrainConfig,
    net: Network,
    data: Dataset,
    source: Folder,
    *,
    start: Params | None,
    resumed: bool,
    mesh: Mesh | None,
    quiet: bool,
) -> None:
    """Train a network on data that are read a window at a time, and keep the run.

    Args:
        run: to write to.
        content: its configuration.
        config: what to train.
        net: the network.
        data: some of the training data; the validation and test data.
        source: the training data.
        start: parameters to start from; None: `nnjax.init`.
        resumed: whether the run was begun earlier.
        mesh: devices to divide the mini-batches over, or None.
        quiet: print nothing but the folder of the run.

    Raises:
        Saved: if that breaks off after the first window; what was trained until then is saved.
    """
    batches = steps_per_epoch(len(source), source.window, config.batch_size)
    arguments = config.arguments(net, data, batches)
    key, optimizer = arguments["key"], arguments["optimizer"]
    state = begin(initial_state(net, optimizer, key, start))
    records: list[Record] = []
    if resumed:
        if run.checkpoints:
            state = run.restore(state, settings(content))
            records = run.history
        else:
            (run.folder / "history.jsonl").unlink(missing_ok=True)
        run.save_config(content)
    shown = Progress(data, arguments["evaluate_on"], config.epochs, int(state.train.epoch), quiet)
    steps = stream_epochs(
        net,
        source,
        **{name: arguments[name] for name in _GIVEN},
        validation=data.validation if "validation" in arguments["evaluate_on"] else None,
        state=state,
        mesh=mesh,
    )
    if start is not None:  # which --resume cannot make again from the seed
        run.save_checkpoint(state, 0, settings=settings(content))
    windows = -(-len(source) // source.window)
    kept: tuple[StreamState, list[Record]] | None = None  # in one, whenever a signal comes
    due = time.monotonic() + _EVERY

    def save(state: StreamState, records: list[Record]) -> None:
        run.save_history(records)
        epoch = int(state.train.epoch)
        whole = state if mesh is None else on_one_device(state)
        run.save_checkpoint(whole, epoch, settings=settings(content))
        run.save_params(whole.params)

    try:
        with shown:
            for state, record in stopped_together(steps):
                records = records if record is None else [*records, record]
                kept = state, records
                if record is not None:
                    shown(record)
                elif shown.within is not None:
                    shown.within(int(state.windows) / windows)
                every = config.save_every
                at_end = record is not None and every is not None and len(records) % every == 0
                if at_end or time.monotonic() > due:
                    save(*kept)
                    keep_programs()
                    due = time.monotonic() + _EVERY
        if kept is not None:
            save(*kept)
    except BaseException as stop:
        if kept is None:
            raise
        with undisturbed():
            save(*kept)
        raise Saved(run.folder, len(kept[1])) from stop
    if data.test is not None and not quiet:
        params = (state if mesh is None else on_one_device(state)).params
        x, y = map(jnp.asarray, data.test)
        with busy("evaluating"):
            result = evaluate(net, params, x, y, config.metrics())
        show(result_line("Test", result._asdict(), len(data.test[0])))
    show(str(run.folder) if quiet else f"Saved in {run.folder}")
