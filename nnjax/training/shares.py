"""Examples divided over devices: each holds its share of the data set, and no device holds all.

Every process puts the rows on its devices that lie there. Before an epoch the examples change
places: a device gets its part of every mini-batch, in the order of the epoch, so that while it
trains nothing but gradients is exchanged. A mini-batch that does not divide evenly is looked up
when its turn comes. Either way the mini-batches are those of one device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nnjax.checks import require_real_array
from nnjax.data.dataset import Dataset

__all__ = [
    "Batches",
    "Shared",
    "batches_of",
    "own_examples",
    "placed_data",
    "rows_of_this_process",
    "shared",
    "whole",
]

_PIECES = 16  # in which the examples change places: so much less memory is taken meanwhile


@partial(jax.tree_util.register_dataclass, data_fields=["rows"], meta_fields=["count"])
@dataclass(frozen=True)
class Shared:
    """An array whose examples are divided over the first axis of a mesh.

    Args:
        rows: (m, ...) the examples, filled up with some of them so that they divide evenly.
        count: how many there are.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.training.shares import Shared
        >>> len(Shared(jnp.arange(4), count=3))
        3
    """

    rows: jax.Array
    count: int

    def __len__(self) -> int:
        return self.count


class Batches(NamedTuple):
    """The mini-batches of an epoch.

    Attributes:
        full: arrays (steps, batch_size, ...).
        rest: arrays (r, ...), the last, smaller one; None where there is none.
    """

    full: tuple[jax.Array, ...]
    rest: tuple[jax.Array, ...] | None


def whole(data: Dataset) -> Dataset:
    """Return a data set with arrays in the place of those that are `Shared`; within `jax.jit`.

    Example:
        >>> import jax.numpy as jnp, nnjax
        >>> from nnjax.training.shares import Shared, whole
        >>> part = Shared(jnp.eye(4), count=3), Shared(jnp.arange(4), count=3)
        >>> whole(nnjax.data.Dataset(part, None, None)).train[1].tolist()
        [0, 1, 2]
    """

    return jax.tree.map(_array, data, is_leaf=lambda leaf: isinstance(leaf, Shared))


def _array(leaf: Any) -> Any:
    return leaf.rows[: leaf.count] if isinstance(leaf, Shared) else leaf


def rows_of_this_process(mesh: Mesh, count: int) -> slice | np.ndarray:
    """Return which of a number of examples lie on the devices of this process.

    Example:
        >>> import jax
        >>> from nnjax.training.shares import rows_of_this_process
        >>> rows_of_this_process(jax.make_mesh((1,), ("data",)), 8)
        slice(0, 8, None)
    """
    filled = _filled(mesh, count)
    places = _over_examples(mesh).addressable_devices_indices_map((filled,)).values()
    ends = [place[0].indices(filled) for place in places if place is not None]
    start, stop = min(start for start, *_ in ends), max(stop for _, stop, _ in ends)
    return slice(start, stop) if stop <= count else np.arange(start, stop) % count


def own_examples(mesh: Mesh, data: Dataset) -> Dataset:
    """Return the examples that lie on the devices of this process; of mapped files it reads them.

    Args:
        mesh: of the devices.
        data: the data set, on the host.

    Example:
        >>> import jax, nnjax
        >>> from nnjax.training.shares import own_examples
        >>> data = nnjax.data.load("digits")
        >>> len(own_examples(jax.make_mesh((1,), ("data",)), data).test[0])
        360
    """

    def of_part(part):
        arrays = [require_real_array(a, name) for a, name in zip(part, "xy", strict=True)]
        counts = {np.shape(array)[:1] for array in arrays}
        if len(counts) > 1 or counts <= {(), (0,)}:
            return tuple(arrays)  # refused where they are checked
        at = rows_of_this_process(mesh, len(arrays[0]))
        return tuple(array[at] for array in arrays)

    parts: Any = (part and of_part(part) for part in data)
    return Dataset(*parts)


def shared(mesh: Mesh, count: int, own: Any) -> Any:
    """Return arrays that are divided over a mesh, given the rows of each that this process has.

    Args:
        mesh: of the devices.
        count: how many rows there are.
        own: a pytree of arrays, the rows `rows_of_this_process(mesh, count)`.

    Example:
        >>> import jax, numpy as np
        >>> from nnjax.training.shares import shared
        >>> x = shared(jax.make_mesh((1,), ("data",)), 8, np.zeros((8, 3)))
        >>> tuple(x.rows.sharding.spec), len(x)
        (('data',), 8)
    """

    def one(array):
        here = np.asarray(array)
        shape = (_filled(mesh, count), *here.shape[1:])
        rows = jax.make_array_from_process_local_data(_over_examples(mesh), here, shape)
        return Shared(rows, count)

    return jax.tree.map(one, own)


def placed_data(mesh: Mesh, own: Dataset, data: Dataset) -> Dataset:
    """Return the data on a mesh, each array `Shared`.

    Args:
        mesh: of the devices.
        own: the examples of this process, `own_examples(mesh, data)`.
        data: all of them, of which only the number counts.

    Example:
        >>> import jax, nnjax
        >>> from nnjax.training.shares import own_examples, placed_data
        >>> mesh, data = jax.make_mesh((1,), ("data",)), nnjax.data.load("digits")
        >>> len(placed_data(mesh, own_examples(mesh, data), data).train[0])
        1257
    """

    pairs: Any = zip(own, data, strict=True)
    parts: Any = (here and shared(mesh, len(part[0]), here) for here, part in pairs)
    return Dataset(*parts)


def batches_of(
    mesh: Mesh | None, examples: Any, batch_size: int, order: jax.Array | None = None
) -> tuple[Batches, Callable[..., Any]]:
    """Return the mini-batches of an epoch, and what makes x and y of one of them.

    Args:
        mesh: devices that each mini-batch is divided over; None: there is one.
        examples: a tuple of arrays (n, ...); with a mesh they may be `Shared`.
        batch_size: of all but the last mini-batch.
        order: (n,) the numbers of the examples in the order in which the epoch visits them; None:
            the order in which they are.

    Returns:
        The mini-batches, and a function that, given the arrays of one, returns its examples. With a
        mesh each device has its part of those that divide evenly; the others are made of the
        numbers of their examples.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnjax.training.shares import batches_of
        >>> batches, pick = batches_of(None, (jnp.arange(5),), 2, jnp.array([4, 3, 2, 1, 0]))
        >>> batches.full[0].tolist(), batches.rest[0].tolist()
        ([[4, 3], [2, 1]], [0])
    """
    if mesh is None or mesh.devices.shape[0] == 1:
        examples = tuple(map(_array, examples))
        if order is not None:
            examples = tuple(jnp.take(array, order, axis=0) for array in examples)
        return _in_batches(examples, batch_size), _as_they_are
    rows = tuple(_divided(mesh, array) for array in examples)
    order = jnp.arange(len(examples[0])) if order is None else order
    numbers = _in_batches((order,), batch_size)
    look_up = partial(_looked_up, mesh, rows)
    if batch_size % mesh.devices.shape[0]:
        return numbers, look_up
    rest = None if numbers.rest is None else look_up(*numbers.rest)
    return Batches(_exchanged(mesh, rows, *numbers.full), rest), _as_they_are


def _as_they_are(*examples: jax.Array) -> tuple[jax.Array, ...]:
    return examples


def _in_batches(examples: tuple[jax.Array, ...], batch_size: int) -> Batches:
    steps, rest = divmod(len(examples[0]), batch_size)
    end = steps * batch_size
    full = tuple(a[:end].reshape(steps, batch_size, *a.shape[1:]) for a in examples)
    return Batches(full, tuple(a[end:] for a in examples) if rest else None)


def _looked_up(mesh: Mesh, rows: Any, numbers: jax.Array) -> Any:
    """Return the rows with these numbers, on every device."""

    def on_device(rows, numbers):
        return jax.lax.psum(_own_rows(mesh, rows, numbers), mesh.axis_names[0])

    return _over(mesh, on_device, PartitionSpec())(rows, numbers)


def _exchanged(mesh: Mesh, rows: Any, numbers: jax.Array) -> Any:
    """Return the rows with the numbers (steps, n), each device with its part of the n."""
    name, devices = mesh.axis_names[0], mesh.devices.shape[0]
    steps, n = numbers.shape
    at_once = max(1, -(-steps // _PIECES))
    pieces = -(-steps // at_once)
    filled = jnp.pad(numbers, ((0, pieces * at_once - steps), (0, 0)))

    def on_device(rows, numbers):
        def piece(numbers):
            by_device = numbers.reshape(at_once, devices, -1).swapaxes(0, 1).reshape(-1)
            found = _own_rows(mesh, rows, by_device)
            return jax.lax.psum_scatter(found, name, tiled=True)

        def in_steps(array):
            return array.reshape(-1, n // devices, *array.shape[2:])[:steps]

        found = jax.lax.map(piece, numbers.reshape(pieces, at_once, n))
        return jax.tree.map(in_steps, found)

    return _over(mesh, on_device, PartitionSpec(None, name))(rows, filled)


def _own_rows(mesh: Mesh, rows: Any, numbers: jax.Array) -> Any:
    """Return the rows with these numbers where this device has them, and 0 elsewhere."""
    count = len(rows[0])
    places = numbers - jax.lax.axis_index(mesh.axis_names[0]) * count
    places = jnp.where((places >= 0) & (places < count), places, count)  # count: not here
    return jax.tree.map(lambda a: a.at[places].get(mode="fill", fill_value=0), rows)


def _over(mesh: Mesh, on_device: Callable[..., Any], out: PartitionSpec) -> Callable[..., Any]:
    """Return a function of rows, which are divided over the mesh, and of numbers, which are not."""
    name = mesh.axis_names[0]
    specs = PartitionSpec(name), PartitionSpec()
    return jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=out, axis_names={name})


def _divided(mesh: Mesh, array: Any) -> jax.Array:
    """Return the rows of an array, filled up so that they divide evenly."""
    if isinstance(array, Shared):
        return array.rows
    missing = _filled(mesh, len(array)) - len(array)
    return jnp.pad(array, ((0, missing), *((0, 0),) * (array.ndim - 1)))


def _over_examples(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))


def _filled(mesh: Mesh, count: int) -> int:
    return count + -count % mesh.devices.shape[0]
