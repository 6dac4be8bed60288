"""Many networks on several processes: each trains its share of every program, on its own devices.

The networks do not communicate. After every epoch the processes exchange what they measured, so
that all of them know how far the search is and drop the same settings; the states of the networks
stay where they are until they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

__all__ = ["Share", "decided_by_the_first", "largest_of_all", "own_devices"]


@dataclass(frozen=True)
class Share:
    """Which of the C networks of a program this process trains: every P-th one.

    Args:
        count: C.
        first: the process that has network 0; the next one has network 1, and so on.
        process: the number of this process.
        processes: P, how many there are.

    Example:
        >>> from nnjax.training.processes import Share
        >>> Share(5).own.tolist(), Share(5).whole
        ([0, 1, 2, 3, 4], True)
        >>> [Share(5, first=1, process=p, processes=2).own.tolist() for p in (0, 1)]
        [[1, 3], [0, 2, 4]]
    """

    count: int
    first: int = 0
    process: int = 0
    processes: int = 1

    @property
    def own(self) -> np.ndarray:
        """The numbers of the networks of this process."""
        return np.arange((self.process - self.first) % self.processes, self.count, self.processes)

    @property
    def whole(self) -> bool:
        """Whether this process has all networks."""
        return self.processes == 1

    def gathered(self, tree: Any) -> Any:
        """Return arrays (S, C, ...) of all networks; every process gives those of its own.

        All processes must call it at the same time.

        Args:
            tree: arrays (S, c, ...) of the c networks of this process.
        """
        return tree if self.whole else jax.tree.map(self._gathered, tree)

    def _gathered(self, leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = self._gathered(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(jnp.asarray(data), impl=jax.random.key_impl(leaf))
        own = np.asarray(leaf)
        most = -(-self.count // self.processes)
        filled = np.zeros((len(own), most, *own.shape[2:]), own.dtype)
        filled[:, : own.shape[1]] = own
        every = np.asarray(multihost_utils.process_allgather(filled))  # (P, S, most, ...)
        network = np.arange(self.count)
        found = every[(self.first + network) % self.processes, :, network // self.processes]
        return np.moveaxis(found, 0, 1)


def own_devices(mesh: Mesh) -> Mesh:
    """Return the part of a mesh that lies on the devices of this process.

    Raises:
        ValueError: if it has none of them.

    Example:
        >>> import jax
        >>> from nnjax.training.processes import own_devices
        >>> own_devices(jax.make_mesh((1,), ("networks",))).size
        1
    """
    process = jax.process_index()
    own = [device for device in mesh.devices.flat if device.process_index == process]
    if len(own) == mesh.size:
        return mesh
    if not own:
        raise ValueError(
            f"mesh has no device of process {process}; give one with devices of every process"
        )
    shape = (len(own),) + (1,) * (mesh.devices.ndim - 1)
    return Mesh(np.asarray(own).reshape(shape), mesh.axis_names, mesh.axis_types)


def decided_by_the_first(decision: bool) -> bool:
    """Return what the first process has decided, so that all of them do the same.

    Example:
        >>> from nnjax.training.processes import decided_by_the_first
        >>> decided_by_the_first(True)
        True
    """
    if jax.process_count() == 1:
        return decision
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(decision)))


def largest_of_all(number: int) -> int:
    """Return the largest of the numbers that the processes give, all of them at the same time.

    Example:
        >>> from nnjax.training.processes import largest_of_all
        >>> largest_of_all(3)
        3
    """
    if jax.process_count() == 1:
        return number
    return int(np.max(multihost_utils.process_allgather(np.asarray(number))))
