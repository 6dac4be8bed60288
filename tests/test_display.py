"""What a notebook shows: well-formed HTML that says what it should, and pictures that are PNG."""

from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nnjax
from nnjax import plots
from nnjax.display import table
from nnjax.evaluation import evaluate_classes
from nnjax.training import history, initial_state

NET = nnjax.mlp([2, 3, 2], loss=nnjax.log_likelihood)
PARAMS = nnjax.init(NET, jax.random.key(0))
X, Y = np.eye(2, dtype=np.float32), np.array([0, 1])


class Cells(HTMLParser):
    """The texts of a page, and whether every tag that is opened is closed in its place."""

    def __init__(self, page):
        super().__init__()
        self.open, self.texts = [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def feedback_pass():
    rule = nnjax.feedback.init(NET, jax.random.key(1), "feedback_alignment")
    return nnjax.backprop(NET, PARAMS, X, Y, feedback=rule)


SHOWN = {
    "network": (lambda: NET, ["dense3:sigmoid", "3", "dense2:softmax"]),
    "summary": (lambda: nnjax.summary(NET), ["dense3:sigmoid", "9", "17"]),
    "backprop": (lambda: nnjax.backprop(NET, PARAMS, X, Y), ["2 x 3", "2 x 2", "‖∂C/∂(w, b)‖"]),
    "feedback": (feedback_pass, ["2 x 3", "2 x 2", "‖update of (w, b)‖"]),
    "explain": (lambda: nnjax.explain(NET, PARAMS, X, Y), ["BP1", "BP4", "δ²₁", "δ²₁ (example 2)"]),
    "classes": (
        lambda: evaluate_classes(NET, PARAMS, X, Y)._replace(classes=("<cat>", "dog")),
        ["<cat>", "dog", "Confusion matrix"],
    ),
    "state": (
        lambda: initial_state(NET, optax.sgd(0.1), jax.random.key(0)),
        ["params[0].w", "3 x 2", "TrainState after 0 epochs"],
    ),
    "history": (
        lambda: history([{"epoch": k, "train_loss": 1 / (k + 1)} for k in range(50)]),
        ["train loss", "0.5", "…", "0.02"],
    ),
    "report": (lambda: nnjax.check_gradient(jnp.sin, jnp.cos, 0.3), ["RIGHT"]),
    "trace": (lambda: nnjax.trace_gradient(jnp.sin, 0.3), []),
}


@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.slow
def test_a_notebook_shows_tables(name):
    make, expected = SHOWN[name]
    texts = Cells(make()._repr_html_()).texts
    assert set(expected) <= set(texts)


def test_stacked_and_traced_results_have_no_table_of_their_own():
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), PARAMS)
    stacked = jax.vmap(lambda params: nnjax.backprop(NET, params, X, Y))(several)
    assert stacked._repr_html_() is None
    states = jax.vmap(lambda key: initial_state(NET, optax.sgd(0.1), key))(
        jax.random.split(jax.random.key(0))
    )
    assert states._repr_html_() is None

    def shown(params):
        return nnjax.backprop(NET, params, X, Y)._repr_html_() is None

    assert jax.eval_shape(lambda params: jnp.full((), shown(params)), PARAMS).shape == ()


def test_history_is_a_tree_of_arrays():
    one = history([{"loss": 0.5, "epoch": 0}])
    assert jax.tree.map(lambda a: 2 * a, one) == {"loss": 1.0, "epoch": 0}
    assert type(jax.tree.map(lambda a: a, one)) is type(one)


def test_figures_are_pictures():
    figure = plots.curves({"a": {"train_loss": [0.5, 0.4]}})
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_cells_are_escaped():
    assert "&lt;script&gt;" in table([("name",), ("<script>",)])


def test_a_network_prints_its_layers_in_lines():
    net = nnjax.convnet((28, 28, 1), 10)
    lines = repr(net).splitlines()
    assert lines[0] == "Network, loss log_likelihood"
    assert lines[2].split() == ["conv20k5:relu", "24", "x", "24", "x", "20"]
    assert len(lines) == 2 + len(net.layers)
