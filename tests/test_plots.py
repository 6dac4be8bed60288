"""Plots: what they draw, that they can be saved, and what they refuse."""

import sys

import jax
import numpy as np
import pytest

import nnjax
from nnjax import plots

HISTORY = {
    "epoch": np.arange(3),
    "train_loss": np.array([0.5, 0.4, 0.3]),
    "validation_accuracy": np.array([0.8, 0.9, 0.95]),
    "error_norms": np.array([[0.1, 0.3], [0.05, 0.2], [0.02, 0.1]]),
    "weight_norms": np.ones((3, 4, 2)),
}


def labels(axes):
    return [line.get_label() for line in axes.lines]


def test_curves_of_one_run_are_its_parts():
    figure = plots.curves({"a": HISTORY}, title="the setting")
    loss, accuracy = figure.axes
    assert labels(loss) == ["train"]
    assert labels(accuracy) == ["validation"]
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), [80, 90, 95])
    np.testing.assert_allclose(accuracy.lines[0].get_xdata(), [1, 2, 3])  # epochs done by then
    assert figure.get_suptitle() == "the setting"


def test_runs_over_each_other_have_their_own_colours():
    figure = plots.curves({"a": HISTORY, "b": HISTORY})
    assert labels(figure.axes[0]) == ["a, train", "b, train"]
    assert [line.get_color() for line in figure.axes[0].lines] == list(plots.COLORS[:2])
    assert [text.get_text() for text in figure.legends[0].texts] == [
        "a, train",
        "b, train",
        "a, validation",
        "b, validation",
    ]


def test_runs_with_different_losses_do_not_share_axes():
    losses = {"a": "quadratic", "b": "cross-entropy", "c": "quadratic"}
    figure = plots.curves({"a": HISTORY, "b": HISTORY, "c": HISTORY}, losses=losses)
    drawn = {axes.get_ylabel(): labels(axes) for axes in figure.axes}
    assert drawn == {
        "quadratic loss": ["a, train", "c, train"],
        "cross-entropy loss": ["b, train"],
        "accuracy (%)": ["a, validation", "b, validation", "c, validation"],
    }


def test_layers_are_drawn_by_epoch_and_by_step():
    figure = plots.layer_curves(HISTORY, "error_norms")
    assert figure.axes[0].get_yscale() == "log"
    np.testing.assert_array_equal(figure.axes[0].lines[1].get_ydata(), [0.3, 0.2, 0.1])
    by_step = plots.layer_curves(HISTORY, "weight_norms").axes[0].lines[0]
    np.testing.assert_allclose(by_step.get_xdata(), np.arange(0.25, 3.01, 0.25))
    zero = plots.layer_curves({"error_norms": np.zeros((2, 1))}, "error_norms")
    assert zero.axes[0].get_yscale() == "linear"


def test_first_layer_shows_weights_and_filters():
    w = np.arange(24.0).reshape(2, 12)
    pictures = [
        axes.images[0].get_array()
        for axes in plots.first_layer(w, (3, 4)).axes
        if axes.images and not axes.get_label().startswith("<colorbar")
    ]
    np.testing.assert_array_equal(pictures[1], w[1].reshape(3, 4))
    assert len(plots.first_layer(np.zeros((2, 3, 4, 2)), (3, 4, 2)).axes) == 3


def test_confusion_counts_stand_in_their_cells():
    axes = plots.confusion([[9, 0], [2, 8]]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["9", "·", "2", "8"]


def test_misclassified_images_say_what_was_predicted():
    x = np.zeros((4, 8, 8, 1), np.uint8)
    figure = plots.misread(x, [0, 1, 2, 3], [0, 7, 2, 5], most=1)
    assert [axes.get_title() for axes in figure.axes] == ["true 1, predicted 7"]
    assert figure.get_suptitle() == "2 of 4 misclassified (first 1)"


def test_the_surest_mistakes_come_first_with_their_outputs():
    x, outputs = np.zeros((3, 8, 8)), [[0.1, 0.6, 0.3], [0.2, 0.3, 0.5], [0.05, 0.945, 0.005]]
    figure = plots.misread(x, [0, 2, 2], [1, 2, 1], outputs=outputs, classes=["a", "b", "c"])
    assert [axes.get_title() for axes in figure.axes] == [
        "true c, predicted b",
        "true a, predicted b",
    ]
    said = [axes.get_xlabel() for axes in figure.axes]
    assert said == ["b: 94 %  a: 5 %  c: <1 %", "b: 60 %  c: 30 %  a: 10 %"]
    one_output = plots.misread(x, [0, 0, 1], [1, 0, 1], outputs=[[0.75], [0.1], [0.8]])
    assert one_output.axes[0].get_xlabel() == "1: 75 %  0: 25 %"


def test_activation_functions_have_derivatives_below():
    values, slopes = plots.activation_functions([nnjax.relu, nnjax.step]).axes
    assert labels(values) == ["relu", "step"]
    assert labels(slopes) == ["relu"]


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_figures_can_be_saved(tmp_path, kind):
    path = tmp_path / f"picture.{kind}"
    plots.curves({"a": HISTORY}).savefig(path)
    assert path.read_bytes().startswith({"png": b"\x89PNG", "svg": b"<?xml"}[kind])


def test_the_history_of_a_run_can_be_plotted():
    x = np.eye(4, dtype=np.float32)
    data = nnjax.data.Dataset((x, np.arange(4) % 2), None, None)
    setting = {"epochs": 2, "batch_size": 2, "key": jax.random.key(0), "monitors": ["weight_norms"]}
    _, history = nnjax.train(
        nnjax.mlp([4, 2]), data, optimizer=nnjax.training.optimizers.by_name("sgd", 0.1), **setting
    )
    assert labels(plots.curves({"run": history}).axes[0]) == ["train"]
    assert labels(plots.layer_curves(history, "weight_norms").axes[0]) == ["layer 1"]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: plots.curves({"a": {"epoch": [0]}}),
            "the histories hold neither a loss nor an acc",
        ),
        (lambda: plots.layer_curves(HISTORY, "norms"), "the history has no norms; it has epoch"),
        (lambda: plots.layer_curves(HISTORY, "train_loss"), r"shape \(3,\); expected \(epochs, la"),
        (
            lambda: plots.first_layer(np.ones((2, 5)), (3, 4)),
            r"w has shape \(2, 5\); expected one",
        ),
        (lambda: plots.confusion([[1, 2]]), r"matrix has shape \(1, 2\); expected a square one"),
        (lambda: plots.misread(np.zeros((2, 5)), [0, 1], [1, 0]), r"x has shape \(2, 5\); expec"),
        (lambda: plots.misread(np.zeros((2, 5, 5)), [0, 1, 1], [1, 0]), r"y has shape \(3,\) and"),
        (lambda: plots.misread(np.zeros((2, 5, 5)), [0, 1], [1]), r"predictions \(1,\); expected"),
        (
            lambda: plots.curves({"a": {"train_loss": [[1], [1, 2]]}}),
            "train_loss does not hold",
        ),
        (
            lambda: plots.curves({"a": HISTORY | {"train_loss": [1, 2]}}),
            "2 values, but epoch has",
        ),
        (lambda: plots.layer_curves({"x": [[1, 2], [1]]}, "x"), "x does not hold numbers of one"),
        (
            lambda: plots.misread(np.zeros((2, 5, 5)), [0, 1], [0, 1]),
            "every image was classified",
        ),
        (
            lambda: plots.misread(np.zeros((2, 5, 5)), [0, 1], [1, 0], title=3),
            "title is 3; expected a text",
        ),
        (
            lambda: plots.curves({"a": HISTORY}, losses={"b": "quadratic"}),
            "losses has no name for the loss of 'a'",
        ),
        (
            lambda: plots.misread(np.zeros((2, 5, 5)), [0, 1], [1, 0], outputs=[[1.0]]),
            r"outputs has shape \(1, 1\); expected one row per image, \(2, m\)",
        ),
        (lambda: plots.curves([HISTORY]), "histories is of the type list; expected the history"),
        (lambda: plots.curves({"a": 5}), r"histories\['a'\] is 5; expected what nnjax.train"),
        (lambda: plots.curves({"a": HISTORY}, title=5), "title is 5; expected a text"),
        (lambda: plots.layer_curves(5, "norms"), "history is 5; expected what nnjax.train"),
        (lambda: plots.first_layer(np.ones((2, 4)), 4), "input_shape is 4; expected a shape"),
        (lambda: plots.first_layer(np.ones((2, 4)), (4,)), r"is \(4,\); expected \(h, w\) or"),
        (lambda: plots.first_layer(np.ones((0, 4)), (2, 2)), r"w has shape \(0, 4\); expected"),
        (lambda: plots.confusion(np.eye(2), classes=5), "classes is 5; expected a list of names"),
        (
            lambda: plots.confusion(np.eye(2), classes=["a"]),
            "holds 1 names; expected one for each of 2",
        ),
        (lambda: plots.confusion(np.eye(2), classes=[1, 2]), "a name in classes is 1; expected a"),
        (
            lambda: plots.misread(np.zeros((2, 5, 5)), [0, 1], [1, 2], classes=["a", "b"]),
            "classes holds 2 names; expected one for each of 3",
        ),
        (
            lambda: plots.activation_functions([nnjax.relu], low=float("nan")),
            "low is nan; expected",
        ),
        (
            lambda: plots.activation_functions([5]),
            "an entry of activations is 5; expected an activation of",
        ),
    ],
)
def test_what_cannot_be_drawn_is_said(call, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        call()


def test_without_matplotlib_the_way_to_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "nnjax\[plots\]"'):
        plots.curves({"a": HISTORY})


@pytest.mark.parametrize("name", ["a", "runs/digits-2026-11-20-1"])
def test_legends_and_titles_stay_within_the_figure(name):
    parts = {f"{part}_loss": [1.0, 2.0] for part in ("train", "validation", "test")}
    runs = {f"{name}{i}": parts | {"test_accuracy": [0.1, 0.2]} for i in range(3)}
    figure = plots.curves(runs, title="a setting, which is long, " * 8)
    figure.draw_without_rendering()
    for box in (figure.legends[0].get_window_extent(), figure._suptitle.get_window_extent()):
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
