"""The corpus is right where it says so, and the checker finds what is planted in it.

All mistakes, with the rates of those found, are in `python scripts/doctor_table.py`.
"""

import jax
import numpy as np
import pytest
from corpus import CASES, pairs
from corpus.case import NAMES
from corpus.right import KINDS, right_gradients
from thinning import thinned

import nnjax

NAMED = {case.name: case for case in CASES}


@pytest.fixture(autouse=True)
def as_people_write_it():
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


def check(case, *slips):
    return nnjax.check_gradient(case.f, case.gradient(*slips), *case.args(), argnums=case.argnums)


@pytest.mark.parametrize("case", thinned(CASES, lambda case: case.name, 6))
def test_backward_passes_by_hand_are_those_of_autodiff(case):
    args = case.args(seed=1)
    expected = jax.tree.leaves(jax.jit(jax.grad(case.f, case.argnums))(*args))
    claimed = jax.tree.leaves(case.gradient()(*args))
    for right, hand in zip(expected, claimed, strict=True):
        np.testing.assert_allclose(hand, right, rtol=1e-10, atol=1e-10 * np.abs(right).max())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_slip_is_a_mistake_in_a_known_place(case):
    args = case.args()
    right = jax.tree.leaves(case.gradient()(*args))
    assert len({slip.id for slip in case.slips}) == len(case.slips) >= 6
    for slip in case.slips:
        assert len(case.places(slip)) == len(slip.lines), slip
        assert set(slip.names) <= {*NAMES, "-"}, slip
        wrong = jax.tree.leaves(case.gradient(slip.id)(*args))
        assert [np.shape(array) for array in wrong] == [np.shape(array) for array in right], slip
        assert any(
            np.abs(a - b).max() > 1e-4 * np.abs(b).max() for a, b in zip(wrong, right, strict=True)
        ), slip


def test_size():
    assert len(CASES) >= 25
    assert sum(len(case.slips) for case in CASES) >= 150
    assert sum(len(pairs(case)) for case in CASES) >= 40


@pytest.mark.parametrize("case", thinned(CASES, lambda case: case.name, 12))
def test_right_gradients_are_right(case):
    report = check(case)
    assert report.verdict == "RIGHT", report


# A mistake of every kind that has a name, in functions of every family.
SAMPLE = [
    ("layer norm", "variance-left-out"),
    ("group norm", "root"),
    ("RMS norm", "square"),
    ("RNN, loop", "tanh-missing"),
    ("RNN, scan", "untransposed"),
    ("LSTM, loop", "cell-carry"),
    ("LSTM, scan", "sigmoid-for-tanh"),
    ("GRU, scan", "update-half"),
    ("causal attention", "softmax-no-sum"),
    ("multi-head attention", "keys-sign"),
    ("embedding", "overwritten"),
    ("two-layer classifier", "before-relu"),
    ("focal loss", "log-missing"),
    ("Kalman filter", "logdet"),
    ("chain CRF", "transition-transposed"),
    ("chain CRF", "uniform-message"),
    ("conv 1-d by hand", "overlap"),
    ("conv 1-d by hand", "kernel-first"),
    ("two-link arm", "components"),
    ("t-SNE", "unnormalised"),
]


@pytest.mark.parametrize("sample", thinned(SAMPLE, ", ".join, 6))
def test_mistakes_are_found_in_their_line_and_named(sample):
    name, mistake = sample
    case = NAMED[name]
    (slip,) = (slip for slip in case.slips if slip.id == mistake)
    report = check(case, mistake)
    assert report.verdict == "WRONG"
    finding = report.findings[0]
    assert finding.line in case.places(slip), finding
    assert slip.is_named(finding.name), finding


@pytest.mark.slow
def test_two_mistakes_in_every_step_are_found_in_their_lines():
    case = NAMED["LSTM, loop"]
    planted = [slip for slip in case.slips if slip.id in ("cell-after", "interchanged")]
    report = check(case, *(slip.id for slip in planted))
    for slip in planted:
        assert any(
            finding.line in case.places(slip) and slip.is_named(finding.name)
            for finding in report.findings
        ), (slip, report.findings)


@pytest.mark.slow
def test_right_gradients_of_awkward_kinds_are_not_called_wrong():
    for right in right_gradients(len(KINDS)):
        report = nnjax.check_gradient(right.f, right.gradient, *right.args, argnums=right.argnums)
        assert report.verdict != "WRONG", (right.name, report)
