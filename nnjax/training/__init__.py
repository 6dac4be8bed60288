"""Training: the loop, and what it can be given."""

from nnjax.training import augmentation, monitors, optimizers
from nnjax.training.early_stopping import EarlyStopping
from nnjax.training.epoch import TrainState, run_epoch
from nnjax.training.loop import (
    DivergedError,
    History,
    Interrupted,
    Record,
    history,
    initial_state,
    train,
    train_epochs,
)
from nnjax.training.recipe import Recipe

__all__ = [
    "DivergedError",
    "EarlyStopping",
    "History",
    "Interrupted",
    "Recipe",
    "Record",
    "TrainState",
    "augmentation",
    "history",
    "initial_state",
    "monitors",
    "optimizers",
    "run_epoch",
    "train",
    "train_epochs",
]
