"""Training: the loop, and what it can be given."""

from nnjax.training.early_stopping import EarlyStopping
from nnjax.training.epoch import TrainState, run_epoch
from nnjax.training.loop import (
    DivergedError,
    History,
    Record,
    history,
    initial_state,
    train,
    train_epochs,
)

__all__ = [
    "DivergedError",
    "EarlyStopping",
    "History",
    "Record",
    "TrainState",
    "history",
    "initial_state",
    "run_epoch",
    "train",
    "train_epochs",
]
