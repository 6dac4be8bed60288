"""A network for the script of a page: its description, and its parameters in few characters.

The script computes what `nnjax.backprop` does, for one example; it knows the layers, activation
functions and losses of nnjax's tables. Parameters are float32, in base64.
"""

from __future__ import annotations

import base64
from typing import Any

import jax
import numpy as np

from nnjax import activations, layers, losses
from nnjax.layers.base import Layer, Shape
from nnjax.network import Network, Params, check_params

__all__ = ["described"]

_POOLS = (layers.MaxPool, layers.MeanPool, layers.L2Pool)
_PLAIN = (layers.Dense, layers.Dropout, layers.Flatten, layers.LayerNorm, layers.Add)
_ACTIVATIONS = (
    activations.Sigmoid,
    activations.Tanh,
    activations.ReLU,
    activations.LeakyReLU,
    activations.ELU,
    activations.Softplus,
    activations.SiLU,
    activations.GELU,
    activations.GELUTanh,
    activations.Absolute,
    activations.Identity,
    activations.Softmax,
    activations.Step,
    activations.Sign,
)
_LOSSES = (losses.Quadratic, losses.CrossEntropy, losses.LogLikelihood)


def described(net: Network, params: Params) -> dict[str, Any]:
    """Return a network and its parameters, of the kinds that JSON has.

    Args:
        net: the network.
        params: its parameters.

    Raises:
        TypeError: if a layer, an activation function or the loss is not one of nnjax's own, which
            the script cannot compute.
        ValueError: if the parameters do not fit the network.

    Example:
        >>> import jax, nnjax
        >>> from nnjax.page.network import described
        >>> net = nnjax.mlp([3, 2])
        >>> layer = described(net, nnjax.init(net, jax.random.key(0)))["layers"][0]
        >>> layer["kind"], layer["outShape"], layer["activation"], len(layer["params"]["w"])
        ('dense', [2], {'name': 'sigmoid'}, 32)
    """
    check_params(net, params)
    if type(net.loss) not in _LOSSES:
        raise TypeError(f"the loss is {net.loss}, {_OWN}")
    return {
        "loss": net.loss.name,
        "layers": [
            _layer(l, layer, shape, out_shape) | {"params": _arrays(entry)}
            for l, (layer, shape, out_shape, entry) in enumerate(
                zip(net.layers, net.shapes, net.shapes[1:], params, strict=False)
            )
        ],
    }


_OWN = "which a page cannot compute: it knows those that nnjax brings"


def _layer(l: int, layer: Layer, in_shape: Shape, out_shape: Shape) -> dict[str, Any]:
    sigma = layer.activation
    if type(sigma) not in _ACTIVATIONS:
        raise TypeError(f"layers[{l}] has the activation {sigma}, {_OWN}")
    if type(layer) not in (layers.Conv, *_POOLS, *_PLAIN):
        raise TypeError(f"layers[{l}] is {layer}, {_OWN}")
    description: dict[str, Any] = {
        "kind": layer.name,
        "word": layer.word(),
        "inShape": list(in_shape),
        "outShape": list(out_shape),
        "activation": {"name": sigma.name, **vars(sigma)},
    }
    if isinstance(layer, layers.Conv):
        kernel, stride, ((top, _), (left, _)), dilation, groups = layer.geometry(in_shape)
        description |= {"kernel": kernel, "stride": stride, "margins": [top, left]}
        description |= {"dilation": dilation, "groups": groups}
    elif isinstance(layer, _POOLS):
        kernel, stride = layer.windows
        description |= {"kernel": kernel, "stride": stride, "margins": [0, 0], "dilation": [1, 1]}
    elif isinstance(layer, layers.LayerNorm):
        description["epsilon"] = layer.epsilon
    elif isinstance(layer, layers.Add):
        description["skip"] = layer.skip
    return description


def _arrays(entry: Any) -> dict[str, str] | None:
    if entry == ():
        return None
    return {name: _base64(array) for name, array in entry._asdict().items()}


def _base64(array: jax.Array) -> str:
    return base64.b64encode(np.asarray(array).astype("<f4").tobytes()).decode()
