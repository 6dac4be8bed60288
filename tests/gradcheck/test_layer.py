"""check_layer: every layer of nnjax is right, and a wrong one of one's own is told why."""

import dataclasses

import jax
import pytest
from thinning import thinned

import nnjax
from nnjax import Dense
from nnjax.activations import relu, softmax, tanh
from nnjax.gradcheck import check_layer
from nnjax.layers import Conv, Dropout, Flatten, L2Pool, LayerNorm, MaxPool, MeanPool

RIGHT = [
    Dense(5, tanh),
    Dense(5, softmax),
    Conv(2, (3, 2), stride=2, padding=1, activation=relu),
    MaxPool(2),
    MeanPool(3, 2),
    L2Pool(2),
    Flatten(),
    Dropout(0.3),
    LayerNorm(relu),
]


@pytest.mark.parametrize("layer", thinned(RIGHT, lambda layer: type(layer).__name__, 6))
def test_the_layers_of_nnjax_are_right(layer):
    assert check_layer(layer).verdict == "RIGHT"
    if layer.random:
        assert check_layer(layer, key=jax.random.key(0)).verdict == "RIGHT"


class NotTransposed(Dense):
    def pull_back(self, params, cache, delta):
        return params.w @ delta


class NotTurned(Conv):
    def pull_back(self, params, cache, delta):
        return super().pull_back(params._replace(w=params.w[:, ::-1, ::-1]), cache, delta)


class WithoutBiases(Dense):
    def gradients(self, cache, delta):
        return super().gradients(cache, delta)._replace(b=0 * delta[0])


class FixedStatistics(LayerNorm):
    def pull_back(self, params, cache, delta):
        return params.gamma * delta * cache[1]


class ToAll(MaxPool):
    def pull_back(self, params, cache, delta):
        return delta.repeat(2, 0).repeat(2, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "shape", "leaf", "name"),
    [
        (NotTransposed(11), None, "pull_back a", "W not transposed"),
        (NotTurned(2, 3), None, "pull_back a", "kernel not turned"),
        (WithoutBiases(5), None, "gradients b", "left out (zero)"),
        (FixedStatistics(), None, "pull_back a", "mean and variance taken for constants"),
        (ToAll(2), (8, 6, 3), "pull_back a", "max-pool to all"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nnjax.Layer) else None,
)
def test_a_layer_of_ones_own_that_is_wrong_is_told_why(layer, shape, leaf, name):
    report = check_layer(layer, shape)
    assert report.verdict == "WRONG"
    assert [row.path for row in report.leaves if not row.ok] == [leaf]
    assert [finding.name for finding in report.mistakes] == [name]
    assert "initializer" not in report.subject


@dataclasses.dataclass(frozen=True)
class Unfinished(nnjax.Layer):
    def out_shape(self, in_shape):
        return in_shape

    def forward(self, params, a, key):
        return 2 * a, None


def test_what_a_layer_lacks_is_said():
    report = check_layer(Unfinished())
    assert "raises NotImplementedError: Unfinished must define pull_back" in report.reason
    with pytest.raises(TypeError, match="expected a layer such as"):
        check_layer("dense")
    with pytest.raises(ValueError, match="takes none of the shapes tried, give in_shape"):
        check_layer(MaxPool(50))
