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
from nnjax.training.many import many_epochs, train_many
from nnjax.training.many_result import Many, ensemble
from nnjax.training.recipe import Recipe

__all__ = [
    "DivergedError",
    "EarlyStopping",
    "History",
    "Interrupted",
    "Many",
    "Recipe",
    "Record",
    "TrainState",
    "augmentation",
    "ensemble",
    "history",
    "initial_state",
    "many_epochs",
    "monitors",
    "optimizers",
    "run_epoch",
    "train",
    "train_epochs",
    "train_many",
]
