"""A network comes back from its file as it was, or the file is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnjax
from nnjax import initializers
from nnjax.training import checkpoint

KEY = jax.random.key(0)
NETS = [
    nnjax.mlp([4, 3, 2]),
    nnjax.mlp([5, 4, 3], activation=nnjax.LeakyReLU(0.2), loss=nnjax.quadratic),
    nnjax.mlp([np.int64(5), np.int32(3)], activation=nnjax.ELU(np.float32(0.3))),
    nnjax.mlp([5, 3], loss=nnjax.log_likelihood, initializer=initializers.large),
    nnjax.architecture.parse(
        "conv4k3s2x1same:tanh meanpool2 l2pool2s1 dropout0.25 dense5", (12, 12, 2), 3, nnjax.relu
    ),
]


@pytest.mark.parametrize("net", NETS)
def test_it_comes_back(tmp_path, net):
    params = nnjax.init(net, KEY)
    nnjax.save(tmp_path / "x.safetensors", net, params)
    again, same = nnjax.load(tmp_path / "x.safetensors")
    assert again == net
    assert hash(again) == hash(net)
    assert jax.tree.structure(same) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, same, params)


def test_dtypes_are_kept(tmp_path):
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), nnjax.init(NETS[0], KEY))
    nnjax.save(tmp_path / "x.safetensors", NETS[0], params)
    assert nnjax.load(tmp_path / "x.safetensors")[1][0].w.dtype == jnp.bfloat16


def test_a_layer_of_ones_own_is_refused(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Dense(nnjax.Dense):
        """Its name alone is that of a layer of nnjax."""

    net = nnjax.Network(3, [Dense(2)], nnjax.quadratic)
    with pytest.raises(TypeError, match=r"contains .*Dense\(.*which is not a part of nnjax; save"):
        nnjax.save(tmp_path / "x.safetensors", net, nnjax.init(net, KEY))
    assert list(tmp_path.iterdir()) == []


def test_parameters_of_another_network_are_refused(tmp_path):
    with pytest.raises(ValueError, match="params"):
        nnjax.save(tmp_path / "x.safetensors", NETS[0], nnjax.init(NETS[2], KEY))


@pytest.mark.parametrize(
    "network",
    [
        None,
        {"input_shape": [4]},
        {"input_shape": [4], "layers": [{"kind": "Attention"}], "loss": {"kind": "Quadratic"}},
        {"input_shape": [4], "layers": [{"kind": "Dense"}], "loss": {"kind": "Quadratic"}},
        {"input_shape": [4], "layers": 5, "loss": 3},
    ],
)
def test_other_files_are_refused(tmp_path, network):
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, nnjax.init(NETS[0], KEY), {"network": network, "dtypes": []})
    with pytest.raises(
        ValueError, match=r"holds no network that this version of nnjax knows.*save"
    ):
        nnjax.load(path)
