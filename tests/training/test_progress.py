"""Progress: it changes no number, comes from within the epoch, and is shown in a bar."""

import io
import re
import sys

import jax
import numpy as np
import optax
import pytest

import nnjax
from nnjax.data import Dataset
from nnjax.training.progress import Bar, report

NET = nnjax.mlp([4, 5, 3], nnjax.tanh, loss=nnjax.log_likelihood)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(215, 4)).astype(np.float32), RNG.integers(3, size=215)
DATA = Dataset((X, Y), (X[:7], Y[:7]), None)


def train(**changed):
    setting = {"optimizer": optax.sgd(0.5), "epochs": 2, "batch_size": 5, "key": jax.random.key(0)}
    return nnjax.train(NET, DATA, **(setting | changed))


@pytest.mark.slow
def test_who_listens_changes_no_bit(capfd):
    """43 mini-batches: reports after every third, and one mini-batch after the last report."""
    plain, history = train()
    seen, records = [], []
    state, _ = train(within=seen.append, progress=records.append)
    jax.tree.map(np.testing.assert_array_equal, plain.params, state.params)
    assert [record["train_loss"] for record in records] == history["train_loss"].tolist()
    np.testing.assert_allclose(seen, 2 * [k / 43 for k in range(3, 43, 3)], rtol=1e-6)
    assert capfd.readouterr() == ("", "")
    continued, _ = train(progress=True, epochs=3, state=state)
    assert int(continued.epoch) == 3
    shown = capfd.readouterr().err
    assert re.search(r"Epoch 3/3 \|.*, train loss \S+, validation accuracy \S+ %", shown)


def test_a_late_report_does_not_move_the_bar_back():
    page = io.StringIO()
    with Bar(2, file=page) as bar:
        bar({"epoch": 0, "train_loss": 0.5})
        bar.within(-0.5)
    assert "compiling" in page.getvalue()
    assert "Epoch 2/2" in page.getvalue()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"progress": 5}, "progress is 5; expected True for a bar, or a function that is called"),
        ({"within": 5}, "within is 5; expected a function of a fraction"),
    ],
)
def test_what_cannot_be_called_is_said(changed, sentence):
    with pytest.raises(TypeError, match=sentence):
        train(**changed)


def test_a_bar_without_tqdm_says_the_way_to_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r'pip install "nnjax\[cli\]"'):
        train(progress=True)


@pytest.mark.parametrize("number", ["text", 5, np.zeros(2, np.int32)])
def test_the_number_of_a_listener_is_checked(number):
    with pytest.raises(TypeError, match=r"listener is .*; expected None, or the number that nnjax"):
        report(number, 0.5)
