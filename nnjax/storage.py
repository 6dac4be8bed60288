"""A network with its parameters in one file: safetensors, with the description as JSON inside."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp

from nnjax import activations, initializers, layers, losses
from nnjax.checks import plain_number
from nnjax.network import Network, Params, check_params, init
from nnjax.training import checkpoint

__all__ = ["load", "save"]

_KINDS: dict[str, type] = {
    name: kind
    for module in (layers, activations, losses, initializers)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind)
}
"""What a description is made of, by name."""


def save(path: str | os.PathLike[str], net: Network, params: Params) -> None:
    """Write a network and its parameters to a file that is either there as a whole or not at all.

    Args:
        path: of the file, by convention `.safetensors`; a file of that name is replaced.
        net: made of the layers, activations, losses and initializers of nnjax.
        params: its parameters.

    Raises:
        TypeError: if a part of the network is not one of nnjax, so that `load` could not make it.
        ValueError: if the parameters do not fit the network.
        OSError: if the file cannot be written; one that was there before is unchanged.
        ImportError: if safetensors is missing.

    Example:
        >>> import pathlib, tempfile, jax, nnjax
        >>> net = nnjax.mlp([4, 3, 2], activation=nnjax.tanh)
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "small.safetensors")
        ...     nnjax.save(path, net, params)
        ...     again, same = nnjax.load(path)
        >>> again == net, bool((same[0].w == params[0].w).all())
        (True, True)
    """
    check_params(net, params)
    dtypes = [jnp.dtype(leaf.dtype).name for leaf in jax.tree.leaves(params)]
    parts = {field.name: _encode(getattr(net, field.name)) for field in dataclasses.fields(net)}
    checkpoint.save(path, params, {"network": parts, "dtypes": dtypes})


def load(path: str | os.PathLike[str]) -> tuple[Network, Params]:
    """Return the network in a file that `save` wrote, and its parameters: `(net, params)`.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it was not written by `save`, is damaged, or its parameters do not fit its
            description.
        ImportError: if safetensors is missing.

    Example:
        >>> import nnjax
        >>> nnjax.load("missing.safetensors")
        Traceback (most recent call last):
        ...
        FileNotFoundError: missing.safetensors: no such checkpoint
    """
    info = checkpoint.read_info(path)
    try:
        net = Network(**{name: _decode(part) for name, part in info["network"].items()})
        shapes = jax.eval_shape(lambda key: init(net, key), jax.random.key(0))
        leaves, structure = jax.tree.flatten(shapes)
        pairs = zip(leaves, info["dtypes"], strict=True)
        typed = [jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype)) for leaf, dtype in pairs]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{os.fspath(path)}: holds no network that this version of nnjax knows "
            f"({type(error).__name__}: {error}); expected a file written by nnjax.save"
        ) from None
    return net, checkpoint.load(path, jax.tree.unflatten(structure, typed))


def _encode(value: Any) -> Any:
    """Return a part of a description in the kinds that JSON has."""
    if isinstance(value, tuple | list):
        return [_encode(item) for item in value]
    value = plain_number(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    kind = type(value)
    if _KINDS.get(kind.__name__) is not kind:
        raise TypeError(
            f"the network contains {value!r}, which is not a part of nnjax; save its parameters "
            "alone with nnjax.training.checkpoint.save"
        )
    fields = {
        field.name: _encode(getattr(value, field.name)) for field in dataclasses.fields(value)
    }
    return {"kind": kind.__name__} | fields


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(item) for item in value)
    if isinstance(value, dict):
        fields = {name: _decode(part) for name, part in value.items() if name != "kind"}
        return _KINDS[value["kind"]](**fields)
    return value
