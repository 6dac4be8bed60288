"""A few trials of every campaign; `scripts/fault_campaign.py` runs them all and prints a table."""

import sys

import pytest
from faults import inputs, process, stops

TRIALS = [
    (stops.flipped_bits, 8),
    (inputs.to_options, 4),
    pytest.param(inputs.to_functions, 100, marks=pytest.mark.slow),
    pytest.param(process.threads, 20, marks=pytest.mark.slow),
]


@pytest.fixture(autouse=True)
def usual_settings(request, monkeypatch, tmp_path):
    """As a user's process is, not as the tests are."""
    import jax

    monkeypatch.chdir(tmp_path)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize(("campaign", "trials"), TRIALS)
def test_nothing_ends_badly(campaign, trials, tmp_path):
    tally = campaign(trials, tmp_path)
    assert sum(tally.counts.values()) > 0
    assert not tally.bad, "\n".join(tally.bad)


@pytest.mark.slow
def test_a_run_that_is_killed_within_a_file_operation_is_resumed(tmp_path):
    tally = stops.at_every_operation(6, tmp_path)
    assert not tally.bad, "\n".join(tally.bad)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_stopped_run_is_resumed(tmp_path):
    tally = stops.by_signals(2, tmp_path)
    assert not tally.bad, "\n".join(tally.bad)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("campaign", [stops.sweeps, stops.processes])
def test_a_killed_sweep_and_a_run_of_two_processes_are_resumed(campaign, tmp_path):
    tally = campaign(1, tmp_path)
    assert not tally.bad, "\n".join(tally.bad)
