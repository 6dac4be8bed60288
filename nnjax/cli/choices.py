"""The words that options take, from the tables of their kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from nnjax.activations import ACTIVATIONS
from nnjax.feedback import RULES
from nnjax.initializers import INITIALIZERS
from nnjax.losses import LOSSES
from nnjax.tasks import TASKS
from nnjax.training.monitors import MONITORS
from nnjax.training.optimizers import SCHEDULES

__all__ = ["Activation", "Initializer", "Loss", "Monitor", "Output", "Rule", "Schedule", "Task"]

if TYPE_CHECKING:  # a type checker reads no tables
    Activation: TypeAlias = str
    Initializer: TypeAlias = str
    Loss: TypeAlias = str
    Monitor: TypeAlias = str
    Output: TypeAlias = str
    Rule: TypeAlias = str
    Schedule: TypeAlias = str
    Task: TypeAlias = str
else:

    def _words(table: Any, without: tuple[str, ...] = ()) -> Any:
        return Literal[tuple(word for word in table if word not in without)]

    # Perceptrons have no derivative to train with, softmax is for the output alone.
    Activation = _words(ACTIVATIONS, ("softmax", "step", "sign"))
    Output = _words(ACTIVATIONS, ("step", "sign"))
    Initializer = _words(INITIALIZERS)
    Loss = _words(LOSSES)
    Monitor = _words(MONITORS)
    Rule = _words(RULES)
    Schedule = _words(SCHEDULES)
    Task = _words(["auto", *TASKS, "binary"])
