"""The option --devices: over how many devices to compute."""

from __future__ import annotations

from typing import Literal

import jax
from jax.sharding import Mesh

from nnjax.checks import require_size

__all__ = ["mesh_of"]


def mesh_of(devices: Literal["all"] | int | None, axis: str) -> Mesh | None:
    """Return a mesh of this many devices along one axis; None: the one that JAX chooses.

    Args:
        devices: "all", a number, or None.
        axis: the name of the axis.

    Raises:
        ValueError: if JAX has fewer devices.

    Example:
        >>> from nnjax.cli.devices import mesh_of
        >>> mesh_of(1, "data").axis_names
        ('data',)
    """
    if devices is None:
        return None
    found = jax.devices()
    count = len(found) if devices == "all" else require_size(devices, "devices")
    if count > len(found):
        raise ValueError(
            f"devices is {count}, but JAX has {len(found)} ({found[0].platform}); give at most "
            "that many, or all"
        )
    return jax.make_mesh((count,), (axis,), devices=found[:count])
