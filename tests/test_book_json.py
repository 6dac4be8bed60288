"""The book's JSON, both ways; the reader of the book's code is written out here as the judge."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnjax
from nnjax import book_json

NET = nnjax.mlp([4, 3, 2], loss=nnjax.quadratic)
PARAMS = nnjax.init(NET, jax.random.key(0))
GOOD = {
    "sizes": [2, 3, 1],
    "weights": [[[1, 2], [3, 4], [5, 6]], [[7, 8, 9]]],
    "biases": [[[1], [2], [3]], [[4]]],
    "cost": "QuadraticCost",
}


def as_the_book_reads(path, x):
    """`network2.load` and `feedforward`, for one example x (n_in,)."""
    content = json.loads(path.read_text())
    a = x[:, None]
    for w, b in zip(content["weights"], content["biases"], strict=True):
        a = 1 / (1 + np.exp(-(np.dot(np.array(w), a) + np.array(b))))
    return content["sizes"], content["cost"], a[:, 0]


def test_what_is_saved_is_what_the_book_would_read(tmp_path):
    book_json.save(tmp_path / "net.json", NET, PARAMS)
    x = np.linspace(-1, 1, 4)
    sizes, cost, a = as_the_book_reads(tmp_path / "net.json", x)
    assert (sizes, cost) == ([4, 3, 2], "QuadraticCost")
    np.testing.assert_allclose(nnjax.feedforward(NET, PARAMS, x[None])[0], a, rtol=1e-6)


@pytest.mark.parametrize("loss", [nnjax.quadratic, nnjax.cross_entropy])
def test_there_and_back_changes_no_bit(tmp_path, loss):
    net = nnjax.mlp([4, 3, 2], loss=loss)
    book_json.save(tmp_path / "net.json", net, PARAMS)
    again, params = book_json.load(tmp_path / "net.json")
    assert again == net
    jax.tree.map(np.testing.assert_array_equal, params, PARAMS)


def test_a_network_of_the_book_is_read(tmp_path):
    path = tmp_path / "net.json"
    path.write_text(json.dumps(GOOD))
    net, params = book_json.load(path)
    x = np.array([0.3, -0.4])
    expected = as_the_book_reads(path, x)[2]
    np.testing.assert_allclose(nnjax.feedforward(net, params, x[None])[0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"cost": "HingeCost"}, "cost is 'HingeCost'; expected one of CrossEntropyCost, Quadratic"),
        ({"cost": ["QuadraticCost"]}, r"cost is \['QuadraticCost'\]; expected one of Cross"),
        ({"biases": [[[1], [2], [3]], [[10**400]]]}, r"no network of network2\.save, which has"),
        ({"sizes": [2]}, r"sizes is \[2\]; expected at least two"),
        ({"sizes": [2, 0, 1]}, "a size in sizes is 0"),
        ({"sizes": [2, 2, 1]}, r"weights have the shapes \[\(3, 2\), \(1, 3\)\]; of sizes \[2, 2"),
        ({"biases": [[1, 2, 3], [[4]]]}, r"biases have the shapes \[\(3,\), \(1, 1\)\]; of sizes"),
        ({"biases": [[[1], [2], [None]], [[4]]]}, "biases hold NaN or infinity"),
        ({"weights": [[[1, 2], [3]], [[7, 8, 9]]]}, r"no network of network2\.save, which has"),
        ({"weights": 3}, r"no network of network2\.save, which has sizes, weights"),
    ],
)
def test_a_damaged_file_is_said(tmp_path, changed, sentence):
    path = tmp_path / "net.json"
    path.write_text(json.dumps(GOOD | changed))
    with pytest.raises(ValueError, match=sentence):
        book_json.load(path)


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, '{"sizes": [2, 1]}'])
def test_what_is_no_such_file_is_said(tmp_path, content):
    path = tmp_path / "net.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"no network of network2\.save"):
        book_json.load(path)


@pytest.mark.parametrize(
    ("net", "name"),
    [
        (nnjax.mlp([4, 3, 2], nnjax.tanh), "Dense"),
        (nnjax.mlp([4, 3, 2], loss=nnjax.log_likelihood), "Dense"),
        (nnjax.mlp([4, 3, 2], output=nnjax.sigmoid, loss=nnjax.log_likelihood), "LogLikelihood"),
    ],
)
def test_what_the_book_does_not_have_is_refused(tmp_path, net, name):
    with pytest.raises(ValueError, match=f"the book's code has no {name}"):
        book_json.save(tmp_path / "net.json", net, PARAMS)
    assert not list(tmp_path.iterdir())


def test_other_parameters_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"params\[0\]\.w has shape"):
        book_json.save(tmp_path / "net.json", nnjax.mlp([5, 3, 2]), PARAMS)


def test_numbers_that_are_not_finite_are_neither_written_nor_read(tmp_path):
    """1e300 is finite in the file and infinite in float32."""
    net, path = nnjax.mlp([2, 1]), tmp_path / "network.json"
    params = nnjax.init(net, jax.random.key(0))
    for value in (jnp.nan, jnp.inf):
        with pytest.raises(ValueError, match="params hold NaN or infinity, which JSON has no"):
            book_json.save(path, net, (params[0]._replace(b=jnp.full(1, value)),))
    assert not path.exists()
    book_json.save(path, net, params)
    content = json.loads(path.read_text())
    content["biases"][0][0][0] = 1e300
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="biases hold NaN or infinity, or a number beyond float32"):
        book_json.load(path)
    with jax.enable_x64(True):
        assert float(book_json.load(path)[1][0].b[0]) == 1e300
