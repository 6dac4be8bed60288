"""Early stopping against the rule in plain Python."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnjax.training.early_stopping import EarlyStopping


def by_hand(values, patience, smaller, lower_rate_to):
    """Return the epoch after which it stops (or None), the best epoch, and the last fraction."""
    best, best_epoch, waited, fraction = math.nan, -1, 0, 1.0
    for epoch, value in enumerate(values):
        if not math.isnan(value) and (
            math.isnan(best) or (value < best if smaller else value > best)
        ):
            best, best_epoch, waited = value, epoch, 0
        else:
            waited += 1
        if waited >= patience:
            if fraction / 2 < lower_rate_to:
                return epoch, best_epoch, fraction
            fraction, waited = fraction / 2, 0
    return None, best_epoch, fraction


@given(
    values=st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4, math.nan]), min_size=1, max_size=25),
    patience=st.integers(1, 4),
    measure=st.sampled_from(["validation_accuracy", "validation_loss"]),
    lower_rate_to=st.sampled_from([1.0, 0.5, 0.3, 0.25]),
)
@pytest.mark.slow
def test_against_the_rule_in_plain_python(values, patience, measure, lower_rate_to):
    rule = EarlyStopping(patience, measure, lower_rate_to)
    state, rate, stopped_after = rule.init(jnp.float32(-1)), 1.0, None
    for epoch, value in enumerate(values):
        state, factor = rule.update(state, jnp.float32(epoch), epoch, value)
        rate *= float(factor)
        if state.stopped:
            stopped_after = epoch
            break
    smaller = measure.endswith("loss")
    expected = by_hand(values, patience, smaller, lower_rate_to)
    assert (stopped_after, int(state.best_epoch), float(state.fraction)) == expected
    assert rate == float(state.fraction)
    assert float(state.params) == expected[1]  # the parameters were numbered by their epoch
    if expected[1] >= 0:
        assert float(state.best) == np.float32(values[expected[1]])


def test_the_first_parameters_are_kept_by_value():
    start = jnp.ones(3)
    assert EarlyStopping(3).init(start).params is not start


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"patience": 0}, "patience is 0; expected an integer of at least 1"),
        ({"patience": 1.5}, "patience is 1.5; expected an integer of at least 1"),
        ({"patience": 1, "measure": 3}, "measure is 3; expected a name in the records"),
        ({"patience": 1, "better": "bigger"}, "better is 'bigger'; expected 'smaller' or 'larger'"),
        ({"patience": 1, "lower_rate_to": 0.0}, "lower_rate_to is 0.0; expected a fraction of"),
        ({"patience": 1, "lower_rate_to": 2}, "lower_rate_to is 2; expected a fraction of"),
    ],
)
def test_a_wrong_rule_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        EarlyStopping(**arguments)
