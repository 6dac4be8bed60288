"""The description of a run: its choices against the tables of their kinds, and what is refused."""

import re
from typing import get_args, get_type_hints

import pytest

import nnjax
from nnjax import activations, initializers, losses
from nnjax.cli.config import TrainConfig
from nnjax.data import Dataset
from nnjax.training.monitors import MONITORS
from nnjax.training.optimizers import OPTIMIZERS, SCHEDULES

HINTS = get_type_hints(TrainConfig)


def choices(field):
    """Return the words that a field takes, or some of which it takes."""
    arguments = get_args(HINTS[field])
    return set(get_args(arguments[0]) or arguments)


@pytest.mark.parametrize(
    ("field", "table"),
    [
        ("monitors", MONITORS),
        ("schedule", SCHEDULES),
        ("feedback", nnjax.feedback.RULES),
        ("evaluate_on", Dataset._fields),
        ("loss", losses.LOSSES),
        ("init", initializers.INITIALIZERS),
    ],
)
def test_the_choices_are_those_of_the_table(field, table):
    assert choices(field) == set(table)


def test_the_activations_are_those_of_the_table_that_have_a_derivative():
    assert choices("activation") == activations.ACTIVATIONS.keys() - {"softmax", "step", "sign"}


def test_the_optimizers_named_in_the_help_are_there():
    assert {"sgd", "momentum", "nesterov", "adam"} <= OPTIMIZERS.keys()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"init": "Normal"}, "init is 'Normal'; expected one of default, large, he, glorot, zeros"),
        ({"init": "annotations"}, "init is 'annotations'; expected one of"),
        ({"loss": ["quadratic"]}, "loss is ('quadratic',); expected one of cross_entropy"),
        ({"evaluate_on": ["foo"]}, "evaluate_on is 'foo'; expected one of train, validation, test"),
        ({"monitors": "dead"}, "monitors is 'dead'; expected several words"),
        ({"distort": 5}, "distort is 5; expected strengths of shift, rotation"),
        ({"distort": {"turn": 5}}, "distort is {'turn': 5}; expected strengths of shift"),
        ({"wings": 2}, "the configuration holds wings: update nnjax"),
    ],
)
def test_a_damaged_configuration_is_refused(changed, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        TrainConfig.from_json(TrainConfig().to_json() | changed)


def test_precision_is_what_is_computed_in():
    digits = TrainConfig().dataset()
    for precision, expected in (("float32", None), ("bfloat16", "bfloat16")):
        config = TrainConfig(precision=precision)
        net = config.network((8, 8, 1), 10)
        assert config.arguments(net, digits)["compute_dtype"] == expected
    assert "in\N{NO-BREAK SPACE}bfloat16" in config.title
