"""The page of a run: one file, whatever names it holds, and readable without its scripts."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import jax
import numpy as np
import pytest

import nnjax
from nnjax.cli import main
from nnjax.data.image_format import ImageFormat
from nnjax.page import RunPage
from nnjax.page.charts import chart, ticks

EVIL = '<script>alert("1")</script>'


class Reader(HTMLParser):
    """Collects the elements of a page, and fails where they are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in ("meta", "img", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data


def page_of(net, x, y, **more):
    params = nnjax.init(net, jax.random.key(0))
    history = {"train_loss": [0.5, 0.25], "validation_accuracy": [0.75, 0.875]}
    history["error_norms"] = np.array([[[0.1], [0.2]], [[0.3], [0.4]]])  # twice per epoch
    return RunPage("A run", net, params, history=history, examples=(x, y), **more)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (20, 28, 28, 1), np.uint8), np.arange(20) % 10


GREY = ImageFormat("uint8", 0.0, 255.0)


@pytest.mark.parametrize("kind", [pytest.param("dense", marks=pytest.mark.slow), "convolutional"])
def test_one_small_file_that_asks_for_no_other(images, kind):
    net = nnjax.mlp([784, 100, 10])
    page = page_of(net, *images, images=GREY)
    if kind == "convolutional":
        net = nnjax.architecture.convnet((28, 28, 1), 10)
        params = nnjax.init(net, jax.random.key(0))
        page = dataclasses.replace(page, net=net, params=params, examples=None)
    page = page.html()
    assert len(page.encode()) < 3_000_000
    reader = Reader(page)
    assert not {"link", "iframe", "object", "base"} & set(reader.tags)
    for name, value in reader.attributes:
        assert name not in ("href", "action", "onclick", "onload")
        assert name != "src" or value.startswith("data:image/png;base64,")
    assert "default-src 'none'" in page
    assert not re.search(r"@import|url\(|https?://(?!www\.w3\.org)", page)
    assert 'id="pad"' in page


def test_it_can_be_read_without_scripts(images):
    x, y = images
    page = page_of(nnjax.mlp([784, 10]), x, y, images=GREY, settings={"rate": "0.1"})
    reader = Reader(page.html())
    words = "Learning curves/Confusion matrix/Misclassified images/Norms by layer/dense10:sigmoid/"
    words += "error norms by epoch/0.25/87.5/rate/7,850"
    for word in words.split("/"):
        assert word in reader.text
    predictions = np.asarray(nnjax.predict(page.net, page.params, x))
    outputs = np.asarray(nnjax.feedforward(page.net, page.params, x))
    wrong = np.flatnonzero(predictions != y)
    surest = wrong[np.argmax(outputs[wrong].max(axis=1))]
    first = re.search(r"true (\d) \(([\d.]+).%\)predicted (\d) \(([\d.]+)", reader.text)
    assert [int(first[1]), int(first[3])] == [y[surest], predictions[surest]]
    assert float(first[4]) == pytest.approx(100 * outputs[surest].max(), abs=0.006)
    bp = nnjax.backprop(page.net, page.params, x, y)
    norm = np.linalg.norm(np.asarray(bp.grads[0].w))
    assert f"{norm:.3g}" in reader.text.split("Norms by layer")[1].split("Weights")[0]


def test_names_cannot_become_html(images):
    x, y = images
    classes = [EVIL, "</title>", "a & b", *map(str, range(7))]
    page = page_of(nnjax.mlp([784, 10]), x, y, images=GREY, classes=classes, settings={EVIL: EVIL})
    text = dataclasses.replace(page, title=EVIL).html()
    assert "alert" in text
    assert EVIL not in text
    reader = Reader(text)
    assert reader.tags.count("script") == 1
    assert EVIL in reader.text
    data = re.search(r"^const DATA = (.*);$", text, re.M)[1]
    assert json.loads(data)["classes"] == classes


def test_a_table_has_a_field_for_each_input():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 3)).astype(np.float32), np.arange(20) % 2
    page = page_of(nnjax.mlp([3, 4, 1]), x, y, standardization=([1.0, 2.0, 3.0], 2.0)).html()
    values = [v for tag, v in Reader(page).attributes if tag == "value"][:3]
    np.testing.assert_allclose(np.array(values, float), 2 * x[0] + [1, 2, 3], rtol=1e-5)
    assert 'id="pad"' not in page
    data = json.loads(re.search(r"^const DATA = (.*);$", page, re.M)[1])
    assert data["standardization"] == {"mean": [1, 2, 3], "deviation": [2, 2, 2]}


def test_a_regression_is_measured_by_its_own_metrics():
    x, y = np.eye(4, 3, dtype=np.float32), np.array([1.5, -2.0, 0.25, 7.0], np.float32)
    net = nnjax.mlp([3, 1], output=nnjax.identity, loss=nnjax.quadratic)
    page = page_of(net, x, y, features=["age", "size", EVIL], target_standardization=(100.0, 10.0))
    reader = Reader(page.html())
    assert "RMSE on 4 test examples" in reader.text
    for words in ("accuracy on", "Confusion", "Right class"):
        assert words not in reader.text
    assert f"agesize{EVIL}" in reader.text


def test_a_network_of_ones_own_has_a_page_that_says_what_is_missing():
    own = type("Swish", (nnjax.activations.Tanh,), {})()
    x, y = np.zeros((4, 3), np.float32), np.arange(4) % 2
    page = page_of(nnjax.mlp([3, 2], output=own), x, y).html()
    assert "This page has no input to try: layers[0] has the activation Swish()" in page
    assert 'id="bars"' not in page
    assert "Confusion matrix" in page


def test_pictures_without_paper_have_no_canvas(images):
    page = page_of(nnjax.mlp([784, 10]), *images, images=ImageFormat("uint8", None, None)).html()
    assert "no canvas to draw on" in page
    assert 'id="pad"' not in page


def test_a_chart_leaves_out_what_is_not_a_number():
    svg = chart([1, 2, 3], {"a": [1.0, float("nan"), 3.0], "b": [0.0, 2.0, 4.0]}, "loss", True)
    points = re.findall(r'points="(.*?)"', svg)
    assert [len(line.split()) for line in points] == [2, 2]  # no NaN; no 0 on a logarithmic axis
    assert ticks(93.0, 99.0) == [93, 94, 95, 96, 97, 98, 99]
    assert ticks(2.0, 2.0) == [2.0, 2.5] or len(ticks(2.0, 2.0)) > 1


def test_the_command_writes_a_page_and_nothing_else_over(tmp_path, capsys):
    run = tmp_path / "run"
    options = ["--hidden", "8", "--epochs", "1", "--out", str(run)]
    assert main(["train", *options]) == 0
    capsys.readouterr()
    for _ in range(2):  # a page may be written again
        assert main(["page", str(run)]) == 0
        assert capsys.readouterr().out.strip() == str(run / "page.html")
    text = Reader((run / "page.html").read_text("utf-8")).text
    assert "dense8:relu" in text
    assert "8 hidden neurons" in text
    assert main(["page", str(run), "--out", str(run / "config.json")]) == 2
    sentence = "config.json exists and is not a page written by nnjax; choose another --out"
    assert sentence in capsys.readouterr().err
