"""What is said of runs that did not learn: that they did not, and the reason that was planted."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnjax
from nnjax.cli.advice import advice
from nnjax.cli.config import TrainConfig
from nnjax.data import Dataset

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 4)).astype(np.float32), np.arange(40) % 2
DATA = Dataset((X, Y), (X, Y), None)
SIGMOIDS = nnjax.mlp([4, 12, 12, 12, 12, 2], loss=nnjax.log_likelihood)
RELUS = nnjax.mlp([4, 12, 12, 12, 12, 2], nnjax.relu, loss=nnjax.log_likelihood)
KEY = jax.random.key(0)
START = nnjax.init(RELUS, KEY)


def records(losses=(0.7, 0.7), accuracy=0.5):
    return [{"train_loss": loss, "validation_accuracy": accuracy} for loss in losses]


def changed_by(net, b=0.0, w=1.0):
    return tuple(nnjax.Affine(w * layer.w, layer.b + b) for layer in nnjax.init(net, KEY))


@pytest.mark.parametrize(
    ("net", "params", "changed", "said"),
    [
        (
            RELUS,
            changed_by(RELUS),
            {"init": "zeros"},
            "all weights started at 0, .*; try --init he",
        ),
        (
            RELUS,
            changed_by(RELUS, b=-1e6),
            {},
            r"dead neurons \(100 % of hidden layer 1.*--rate 0.005",
        ),
        (
            SIGMOIDS,
            changed_by(SIGMOIDS, w=30.0),
            {"activation": "sigmoid"},
            r"saturated neurons \(\d+ % .* --init default",
        ),
        (SIGMOIDS, changed_by(SIGMOIDS, w=0.05), {}, "the errors vanish on the way back"),
        (RELUS, changed_by(RELUS, b=0.5), {}, r"the learning rate is too large \(η = 0.05\)"),
        (
            RELUS,
            changed_by(RELUS),
            {"rate": 1e-6},
            r"too small \(η = 1e-06\) .*hardly changed; try --rate 1e-05\.$",
        ),
    ],
)
def test_the_reason_is_found(net, params, changed, said):
    text = advice(TrainConfig(**changed), net, nnjax.init(net, KEY), params, DATA, records())
    assert text.startswith(
        "The network did not learn: its validation accuracy is 50.0 %, and always predicting the "
        "most frequent class gives 50.0 %. Likely reason: "
    )
    assert re.search(said, text)


def test_inputs_that_are_not_standardised_come_first():
    data = DATA._replace(train=(1000 * X, Y))
    text = advice(TrainConfig(), RELUS, START, changed_by(RELUS, b=-1e6), data, records())
    assert re.search(r"the inputs are not standardised \(they reach \d+\); try --standardize", text)


def test_a_falling_loss_asks_for_more():
    text = advice(
        TrainConfig(), RELUS, START, changed_by(RELUS, b=0.5), DATA, records((0.70, 0.69))
    )
    assert re.search(r"too small \(η = 0.05\) or the run too short \(epochs: 2\).*--rate 0.5", text)


def test_without_an_accuracy_the_loss_decides():
    losses = [{"train_loss": 0.7}, {"train_loss": 0.9}]
    assert "its training loss went from 0.7 to 0.9" in advice(
        TrainConfig(), RELUS, START, changed_by(RELUS, b=0.5), DATA, losses
    )
    assert advice(TrainConfig(), RELUS, START, changed_by(RELUS), DATA, losses[::-1]) == ""


def test_nothing_is_said_of_a_run_that_learned():
    assert advice(TrainConfig(), RELUS, START, changed_by(RELUS), DATA, records(accuracy=0.8)) == ""
    assert advice(TrainConfig(), RELUS, START, changed_by(RELUS), DATA, []) == ""
    bytes_in = DATA._replace(train=(jnp.zeros((4, 4), jnp.uint8), Y[:4]))
    assert "standardised" not in advice(
        TrainConfig(), RELUS, START, changed_by(RELUS), bytes_in, records()
    )
