"""Architectures as text: every word, back and forth, VGG-16, and where a text goes wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lax_reference import loss as reference_loss
from lax_reference import normal, pairs, quick
from strategies import relative_errors

import nnjax
from nnjax.architecture import convnet, describe, parse, summary

VGG16 = """
    conv64k3same*2 pool2  conv128k3same*2 pool2  conv256k3same*3 pool2
    conv512k3same*3 pool2  conv512k3same*3 pool2
    dense4096 dropout0.5 dense4096 dropout0.5
"""
IMAGE = (28, 28, 1)


def test_the_book_network():
    net = parse("conv20k5 pool2 conv40k5 pool2 dense100 dropout0.5", IMAGE, 10)
    assert net == nnjax.Network(
        IMAGE,
        [
            nnjax.Conv(20, 5),
            nnjax.MaxPool(2),
            nnjax.Conv(40, 5),
            nnjax.MaxPool(2),
            nnjax.Flatten(),
            nnjax.Dense(100),
            nnjax.Dropout(0.5),
            nnjax.Dense(10, nnjax.softmax),
        ],
        nnjax.log_likelihood,
    )


def test_vgg16_has_the_published_number_of_parameters():
    net = parse(VGG16, (224, 224, 3), 1000, activation=nnjax.relu)
    table = summary(net)
    assert table.parameters == 138_357_544
    assert str(table).splitlines()[-1].split() == ["total", "138,357,544"]
    assert sum(row.parameters > 0 for row in table.layers) == 16
    assert table.layers[17].out_shape == (7, 7, 512)


@pytest.mark.slow
def test_a_small_vgg_trains():
    text = "conv4k3same*2 pool2 conv8k3same*2 pool2 dense16 dropout0.1"
    net = parse(text, (8, 8, 1), 10, nnjax.relu, initializer=nnjax.initializers.he)
    params = nnjax.init(net, jax.random.key(0))
    data = nnjax.data.load("digits").train
    x, y = jnp.asarray(data[0][:100]), jnp.asarray(data[1][:100])
    before = nnjax.loss(net, params, x, y)
    for i in range(30):
        params = nnjax.sgd_step(net, params, x, y, 0.1, jax.random.key(i))
    assert float(nnjax.loss(net, params, x, y)) < 0.5 * float(before)


@pytest.mark.parametrize(
    ("word", "layer"),
    [
        ("conv20k5", nnjax.Conv(20, 5)),
        ("conv8k3x5", nnjax.Conv(8, (3, 5))),
        ("conv8k3s2", nnjax.Conv(8, 3, 2)),
        ("conv8k3s2x1p1", nnjax.Conv(8, 3, (2, 1), 1)),
        ("conv8k3s2p1d2x1", nnjax.Conv(8, 3, 2, 1, dilation=(2, 1))),
        ("conv8k3p0x2", nnjax.Conv(8, 3, padding=(0, 2))),
        ("conv8k3same:relu", nnjax.Conv(8, 3, padding="same", activation=nnjax.relu)),
        ("pool2", nnjax.MaxPool(2)),
        ("pool3s2", nnjax.MaxPool(3, 2)),
        ("pool3x2s1x2", nnjax.MaxPool((3, 2), (1, 2))),
        ("meanpool2", nnjax.MeanPool(2)),
        ("l2pool2s1", nnjax.L2Pool(2, 1)),
        ("dropout.25", nnjax.Dropout(0.25)),
        ("flatten", nnjax.Flatten()),
    ],
)
def test_words(word, layer):
    assert parse(word, IMAGE, 10).layers[0] == layer


def test_dense_flattens_an_image_once():
    kinds = [type(layer) for layer in parse("dense5:tanh dense6", IMAGE, 3).layers]
    assert kinds == [nnjax.Flatten, nnjax.Dense, nnjax.Dense, nnjax.Dense]
    assert parse("dense5:tanh", 784, 3).layers[0] == nnjax.Dense(5, nnjax.tanh)
    assert parse("", 784, 3).layers == (nnjax.Dense(3, nnjax.softmax),)


def test_activations_losses_and_initializers_reach_the_layers():
    net = parse(
        "conv2k3 dense5:sigmoid", IMAGE, 3, nnjax.relu, None, nnjax.cross_entropy,
        nnjax.initializers.he,
    )  # fmt: skip
    assert [layer.activation for layer in net.layers] == [
        nnjax.relu, nnjax.identity, nnjax.sigmoid, nnjax.sigmoid,
    ]  # fmt: skip
    assert net.layers[0].initializer == nnjax.initializers.he
    assert parse("", 4, 3, output=nnjax.tanh, loss=nnjax.quadratic).layers[-1] == nnjax.Dense(
        3, nnjax.tanh
    )


layers = st.one_of(
    st.builds(
        nnjax.Conv,
        st.integers(1, 99),
        pairs(1, 3),
        pairs(1, 2),
        st.one_of(st.just("same"), pairs(0, 2)),
        st.sampled_from([nnjax.relu, nnjax.sigmoid, nnjax.leaky_relu]),
    ),
    st.builds(nnjax.MaxPool, pairs(1, 2), st.one_of(st.none(), pairs(1, 2))),
    st.builds(nnjax.MeanPool, pairs(1, 2)),
    st.builds(nnjax.L2Pool, pairs(1, 2)),
    st.builds(nnjax.Dropout, st.floats(0, 0.99)),
    st.builds(nnjax.Flatten),
)


@given(layers)
def test_what_describe_writes_parse_reads(layer):
    assert parse(describe(layer), (9, 9, 2), 10).layers[0] == layer


def test_describe_shows_what_has_no_word():
    leaky = nnjax.Dense(3, nnjax.LeakyReLU(0.3))
    assert describe(leaky) == "dense3:LeakyReLU(slope=0.3)"
    assert describe(nnjax.Layer()).startswith("<nnjax.layers.base.Layer")


def test_summary_as_data():
    table = summary(parse("conv2k3 pool2", (6, 6, 1), 3))
    assert table.input_shape == (6, 6, 1)
    assert [tuple(row) for row in table.layers] == [
        ("conv2k3:sigmoid", (4, 4, 2), 20),
        ("pool2", (2, 2, 2), 0),
        ("flatten", (8,), 0),
        ("dense3:softmax", (3,), 27),
    ]
    assert table.parameters == 47


def test_convnet_is_the_usual_stack():
    net = convnet(IMAGE, 10, filters=[6, 16], hidden=[120, 84], dropout=0.5, activation=nnjax.tanh)
    text = "conv6k5 pool2 conv16k5 pool2 flatten dropout0.5 dense120 dropout0.5 dense84 dropout0.5"
    assert net == parse(text, IMAGE, 10, nnjax.tanh)
    plain = convnet((8, 8, 1), 3, filters=[2], hidden=[], kernel=3, pool=1, loss=nnjax.quadratic)
    assert [describe(layer) for layer in plain.layers] == [
        "conv2k3:relu", "flatten", "dense3:sigmoid",
    ]  # fmt: skip


@quick
def errors_of_backprop(net, params, x, y):
    bp = nnjax.backprop(net, params, x, y)
    expected = jax.value_and_grad(reference_loss, argnums=1)(net, params, x, y)
    return relative_errors((bp.loss, bp.grads), expected)


def test_whole_networks_equal_autodiff_of_the_library():
    texts = [
        "conv3k3x2s2p1:tanh pool2s1 conv2k2same:relu meanpool2 dense5",
        "conv2k4:sigmoid l2pool3s2 flatten dense4:leaky_relu",
    ]
    for text, loss in zip(texts, [nnjax.log_likelihood, nnjax.cross_entropy], strict=True):
        net = parse(text, (11, 9, 2), 3, loss=loss)
        with jax.enable_x64(True):
            params = nnjax.init(net, jax.random.key(0), jnp.float64)
            x, y = normal(0, 7, 11, 9, 2), jnp.asarray(np.eye(3)[[0, 1, 2, 0, 1, 2, 0]])
            errors = errors_of_backprop(net, params, x, y)
        assert max(map(float, jax.tree.leaves(errors))) <= 1e-11, errors


@pytest.mark.parametrize(
    ("text", "message", "marked"),
    [
        ("conv20k5 pol2 dense100", "does not parse at 'pol2'; expected words such as", "pol2"),
        ("conv20x5", "does not parse at 'conv20x5'", "conv20x5"),
        (
            "dense100:swish",
            "no activation 'swish'; there are absolute, elu, gelu",
            "dense100:swish",
        ),
        ("conv0k5", "filters of Conv is 0; expected an integer of at least 1", "conv0k5"),
        ("pool2:relu", "does not parse at 'pool2:relu'", "pool2:relu"),
        ("dropout1.5", "rate of Dropout is 1.5; expected the probability", "dropout1.5"),
        ("conv8k3*0", r"times of conv8k3\*0 is 0; expected an integer of at least 1", "conv8k3*0"),
        ("pool2 pool3 conv9k5 dense9", "larger than the image of 4x4", "conv9k5"),
        ("pool2*5", "MaxPool of size 2x2 leaves nothing of an image of 1x1", "pool2*5"),
        ("dense9 conv4k3", "Conv takes an image", "conv4k3"),
        ("conv4k3\n pool0", "size of MaxPool is 0", "pool0"),
    ],
)
def test_a_text_that_does_not_parse_shows_where(text, message, marked):
    with pytest.raises(ValueError, match=message) as caught:
        parse(text, IMAGE, 10)
    *_, line, marks = str(caught.value).split("\n")
    assert line[marks.index("^") : len(marks)] == marked


def test_other_bad_input():
    with pytest.raises(ValueError, match="a size in input_shape is 0"):
        parse("dense5", 0, 10)
    with pytest.raises(ValueError, match="size of Dense is 0"):
        parse("dense5", 8, 0)
    with pytest.raises(ValueError, match="Conv has a kernel of 5x5, larger than the image of 2x2"):
        convnet((8, 8, 1), 10, filters=[4, 4])
