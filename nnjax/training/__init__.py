"""Training: the loop, and what it can be given."""

from nnjax.training.loop import (
    DivergedError,
    History,
    Record,
    TrainState,
    history,
    run_epoch,
    train,
    train_epochs,
)

__all__ = [
    "DivergedError",
    "History",
    "Record",
    "TrainState",
    "history",
    "run_epoch",
    "train",
    "train_epochs",
]
