"""A search by Optuna: its trials are trained together, and it is told what they reached."""

import sys
import warnings

import numpy as np
import pytest

import nnjax
from nnjax.training.search import search

RNG = np.random.default_rng(0)
X, Y = RNG.random((30, 4), dtype=np.float32), RNG.integers(0, 3, 30).astype(np.int32)
DATA = nnjax.data.Dataset((X, Y), (X[:9], Y[:9]), None)
NET = nnjax.mlp([4, 3])
SETTINGS = {"epochs": 2, "batch_size": 10, "seeds": 3}


def space(trial):
    return {"rate": trial.suggest_float("rate", 0.01, 1e4, log=True)}


@pytest.fixture
def optuna():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("optuna")


def test_the_study_is_told_the_median_and_the_best_network_comes_back(optuna):
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(direction="minimize", sampler=sampler)
    found = search(
        study, NET, DATA, space, trials=4, together=2, measure="validation_loss", **SETTINGS
    )
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
    rates = [trial.params["rate"] for trial in study.trials]
    pairs = [
        nnjax.train_many(NET, DATA, {"rate": pair}, **SETTINGS) for pair in (rates[:2], rates[2:])
    ]
    losses = np.concatenate([many.final("validation_loss") for many in pairs])
    values = [trial.value for trial in study.trials]
    np.testing.assert_allclose(values, np.median(losses, axis=1), rtol=1e-5)
    best = np.argmin(np.median(losses, axis=1))
    np.testing.assert_allclose(found.history["validation_loss"][-1], losses[best].min(), rtol=1e-5)


def test_trials_that_diverge_have_failed(optuna):
    study = optuna.create_study(direction="maximize")
    with pytest.raises(ValueError, match="every network diverged; try smaller learning rates"):
        search(study, NET, DATA, lambda trial: {"rate": 1e38}, trials=1, **SETTINGS)


def test_what_is_not_a_study_is_refused(optuna):
    with pytest.raises(TypeError, match=r"study is a NoneType; expected what optuna.create_study"):
        search(None, NET, DATA, space, trials=1)


def test_without_optuna_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna.study", None)
    with pytest.raises(ImportError, match=r"a search by Optuna needs it: .*nnjax\[optuna\]"):
        search(None, NET, DATA, space, trials=1)
