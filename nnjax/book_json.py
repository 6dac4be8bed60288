"""Networks of the book's own code: the JSON that `network2.Network.save` writes, both ways.

The file holds `sizes`, `weights` (n_out, n_in), `biases` (n_out, 1) and `cost`, the name of the
cost; every neuron is a sigmoid.
"""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.activations import sigmoid
from nnjax.files import write_atomically
from nnjax.layers.base import Affine
from nnjax.layers.dense import Dense
from nnjax.losses import cross_entropy, quadratic
from nnjax.network import Network, Params, check_params, mlp

__all__ = ["load", "save"]

_COSTS = {"CrossEntropyCost": cross_entropy, "QuadraticCost": quadratic}


def load(path: str | os.PathLike[str]) -> tuple[Network, Params]:
    """Return the network in a file of the book's `network2.Network.save`, and its parameters.

    Args:
        path: the JSON file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a file, its parts do not fit together, or a number is not
            finite in the precision of the network.

    Example:
        >>> import pathlib, tempfile
        >>> from nnjax import book_json
        >>> text = '''{"sizes": [2, 1], "weights": [[[0.5, -1.0]]], "biases": [[[0.25]]],
        ...          "cost": "CrossEntropyCost"}'''
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "network.json")
        ...     _ = path.write_text(text)
        ...     net, params = book_json.load(path)
        >>> net.shapes, params[0].w.tolist(), params[0].b.tolist()
        (((2,), (1,)), [[0.5, -1.0]], [0.25])

    Reference: Nielsen 2015, chapter 3, `network2.py`.
    """
    try:
        content = json.loads(Path(path).read_text())
        sizes, cost = content["sizes"], content["cost"]
        weights = [np.asarray(w, float) for w in content["weights"]]
        biases = [np.asarray(b, float) for b in content["biases"]]
    except (KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: no network of network2.save, which has sizes, weights, biases and cost "
            f"({type(error).__name__}: {error})"
        ) from None
    if not isinstance(cost, str) or cost not in _COSTS:
        raise ValueError(f"{path}: cost is {cost!r:.100}; expected one of {', '.join(_COSTS)}")
    try:
        net = mlp(sizes, loss=_COSTS[cost])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    expected = [(j, k) for k, j in itertools.pairwise(sizes)]
    for what, arrays, shapes in (
        ("weights", weights, expected),
        ("biases", biases, [(j, 1) for j, _ in expected]),
    ):
        came = [array.shape for array in arrays]
        if came != shapes:
            raise ValueError(f"{path}: {what} have the shapes {came}; of sizes {sizes}, {shapes}")
        if not all(_finite(array) for array in arrays):
            raise ValueError(
                f"{path}: {what} hold NaN or infinity, or a number beyond {jnp.result_type(float)}"
            )
    pairs = zip(weights, biases, strict=True)
    return net, tuple(Affine(jnp.asarray(w, float), jnp.asarray(b[:, 0], float)) for w, b in pairs)


def _finite(array):
    """Return whether all numbers are finite in the precision that they are computed with."""
    with np.errstate(over="ignore"):
        return np.isfinite(array.astype(jnp.result_type(float))).all()


def save(path: str | os.PathLike[str], net: Network, params: Params) -> None:
    """Write a network so that the book's `network2.load` reads it.

    Args:
        path: the JSON file; one of that name is replaced.
        net: only dense layers, all of them sigmoid, with cross_entropy or quadratic.
        params: its parameters.

    Raises:
        ValueError: if the book's code has no such network, or the parameters do not fit or are not
            finite.
        OSError: if the file cannot be written.

    Example:
        >>> import pathlib, tempfile, jax, nnjax
        >>> from nnjax import book_json
        >>> net = nnjax.mlp([4, 3, 2])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "network.json")
        ...     book_json.save(path, net, params)
        ...     again, same = book_json.load(path)
        >>> again == net, bool((same[0].w == params[0].w).all())
        (True, True)
    """
    check_params(net, params)
    names = {loss: name for name, loss in _COSTS.items()}
    foreign: Any = next(
        (layer for layer in net.layers if type(layer) is not Dense or layer.activation != sigmoid),
        None if net.loss in names else net.loss,
    )
    if foreign is not None:
        raise ValueError(
            f"the book's code has no {foreign}; it has dense layers of sigmoid neurons, with "
            "cross_entropy or quadratic"
        )
    if not all(np.isfinite(np.asarray(leaf, float)).all() for leaf in jax.tree.leaves(params)):
        raise ValueError("params hold NaN or infinity, which JSON has no numbers for")
    content = {
        "sizes": [size for (size,) in net.shapes],
        "weights": [np.asarray(layer.w, float).tolist() for layer in params],
        "biases": [np.asarray(layer.b, float)[:, None].tolist() for layer in params],
        "cost": names[net.loss],
    }
    write_atomically(path, json.dumps(content).encode())
