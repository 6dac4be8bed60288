"""Checkpoints: any pytree of arrays in one safetensors file, written whole or not at all.

Each leaf is stored under its path (`0.w`, `params.2.b`), so the file of a network's parameters can
be read by anything that reads safetensors. Random keys are stored as their numbers and the name of
their implementation. The header holds a version, a digest of everything in the file, and what the
caller adds in `info`. A file is loaded against a template, and what differs is named.

A whole training run (configuration, history, checkpoints) is a folder: `nnjax.training.run`.
"""

from __future__ import annotations

import cmath
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.checks import install
from nnjax.files import write_atomically

__all__ = ["digest", "load", "read_info", "save"]

_VERSION = 1
_MOST = 5  # differences that an error lists
_FLOATS = ("float16", "float32", "float64", "bfloat16", "complex64")
_INTEGERS = tuple(f"{kind}int{bits}" for kind in ("", "u") for bits in (8, 16, 32, 64))
_DTYPES = ("bool", *_INTEGERS, *_FLOATS)  # of safetensors files


def save(path: str | os.PathLike[str], tree: Any, info: Mapping[str, Any] | None = None) -> None:
    """Write a pytree of arrays to a file that is either there as a whole or not at all.

    Args:
        path: of the file, by convention `.safetensors`; a file of that name is replaced.
        tree: a pytree whose leaves are arrays, numbers or random keys. NumPy arrays keep their
            dtype, Python numbers take the one that JAX gives them.
        info: what to remember with it, of the kinds that JSON has.

    Raises:
        TypeError: if a leaf is not an array or a number, or has a dtype that safetensors lacks.
        ValueError: if two leaves have the same path, or a number is too large for its dtype.
        OSError: if the file cannot be written; one that was there before is unchanged.
        ImportError: if safetensors is missing.

    Example:
        >>> import pathlib, tempfile, jax, nnjax
        >>> from nnjax.training import checkpoint
        >>> params = nnjax.init(nnjax.mlp([4, 3, 2]), jax.random.key(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "params.safetensors")
        ...     checkpoint.save(path, params, {"epoch": 30})
        ...     again = checkpoint.load(path, params)
        ...     checkpoint.read_info(path)
        {'epoch': 30}
        >>> bool((again[0].w == params[0].w).all())
        True
    """
    arrays, keys = {}, {}
    for name, leaf in _named(tree):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            keys[name] = str(jax.random.key_impl(leaf))
            leaf = jax.random.key_data(leaf)
        arrays[name] = _array(name, leaf)
    header = {"version": _VERSION, "keys": keys, "info": dict(info or {})}
    header["sha256"] = _digest(arrays, header)
    # One entry: the order of several would differ from file to file.
    content = _safetensors().numpy.save(arrays, metadata={"nnjax": json.dumps(header)})
    write_atomically(path, content)


def load(path: str | os.PathLike[str], template: Any, under: str = "") -> Any:
    """Return the pytree in a file, of the structure, shapes and dtypes of a template.

    Args:
        path: a file written by `save`.
        template: a pytree of arrays, or of `jax.ShapeDtypeStruct` (from `jax.eval_shape`), that
            says what is expected; its values do not matter.
        under: load only the part of the tree that has this path, such as "params".

    Returns:
        JAX arrays; NumPy arrays where JAX cannot hold the dtype (float64 without
        `jax_enable_x64`).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a checkpoint, truncated, changed since it was written, or of
            a newer version; if names, shapes or dtypes differ, which are then listed.
        ImportError: if safetensors is missing.

    Example:
        >>> import pathlib, tempfile, jax, nnjax
        >>> from nnjax.training import checkpoint
        >>> key = jax.random.key(0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "params.safetensors")
        ...     checkpoint.save(path, nnjax.init(nnjax.mlp([4, 3]), key))
        ...     checkpoint.load(path, nnjax.init(nnjax.mlp([5, 3]), key))
        ... # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: ...: does not fit: 0.w is float32 (3, 4), expected float32 (3, 5)
    """
    arrays, header = _read(path)
    found: dict[str, Any] = dict(arrays)
    for name, impl in header["keys"].items():
        found[name] = jax.random.wrap_key_data(jnp.asarray(found[name]), impl=impl)
    if under:
        part = f"{under}."
        found = {k.removeprefix(part): leaf for k, leaf in found.items() if k.startswith(part)}
    expected = {
        name: leaf if hasattr(leaf, "dtype") else _array(name, leaf)
        for name, leaf in _named(template)
    }
    differences = [
        f"{name} is {_kind(found[name])}, expected {_kind(leaf)}"
        for name, leaf in expected.items()
        if name in found and _kind(found[name]) != _kind(leaf)
    ]
    differences += [f"{name} is missing" for name in expected.keys() - found.keys()]
    differences += [f"{name} is not expected" for name in found.keys() - expected.keys()]
    if differences:
        shown = sorted(differences)[:_MOST]
        more = len(differences) - len(shown)
        rest = f"; and {more} more" if more else ""
        raise ValueError(f"{os.fspath(path)}: does not fit: {'; '.join(shown)}{rest}")
    leaves = [_for_jax(found[name]) for name in expected]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def read_info(path: str | os.PathLike[str], *, whole: bool = False) -> dict[str, Any]:
    """Return what was given to `save` as `info`.

    Args:
        path: a file written by `save`.
        whole: read the whole file and compare its digest, not the header alone.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `load` does.

    Example:
        >>> import pathlib, tempfile, jax.numpy as jnp
        >>> from nnjax.training import checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "x.safetensors")
        ...     checkpoint.save(path, {"x": jnp.ones(3)}, {"score": 0.5})
        ...     checkpoint.read_info(path)
        {'score': 0.5}
    """
    if whole:
        return _read(path)[1]["info"]
    with _opened(path) as (_, header):
        return header["info"]


def digest(tree: Any) -> str:
    """Return the SHA-256 of a pytree of arrays: of their paths, dtypes, shapes and values.

    Example:
        >>> import numpy as np
        >>> from nnjax.training import checkpoint
        >>> one, other = np.array([1, 2, 3]), np.array([1, 3, 2])
        >>> checkpoint.digest({"x": one}) == checkpoint.digest({"x": one.copy()})
        True
        >>> checkpoint.digest({"x": one}) == checkpoint.digest({"x": other})
        False
    """
    return _digest({name: _array(name, leaf) for name, leaf in _named(tree)}, {})


def _named(tree) -> list[tuple[str, Any]]:
    leaves = jax.tree.leaves_with_path(tree)
    named = [(jax.tree_util.keystr(key, simple=True, separator="."), leaf) for key, leaf in leaves]
    names = [name for name, _ in named]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two leaves have the path {twice[0]}; rename one of their keys")
    return named


def _array(name: str, leaf: Any) -> np.ndarray:
    """Return a leaf as the array that is stored; refuse what the file cannot hold."""
    if not hasattr(leaf, "dtype"):
        leaf = _number(name, leaf)
    array = np.asarray(leaf, order="C")
    if array.dtype.name not in _DTYPES:
        raise TypeError(
            f"{name} has dtype {array.dtype}, which safetensors files cannot hold; convert it to "
            f"one of {', '.join(_DTYPES)}"
        )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _number(name: str, leaf: Any) -> jax.Array:
    if not isinstance(leaf, bool | int | float | complex):
        raise TypeError(f"{name} is {leaf!r}; expected an array, a number or a random key")
    try:
        with np.errstate(over="ignore"):  # it becomes infinite: said below
            number = jnp.asarray(leaf)
    except OverflowError:
        number = None
    if number is None or (cmath.isfinite(leaf) and not bool(jnp.isfinite(number))):
        raise ValueError(
            f"{name} is {leaf}, which is too large for JAX's default dtype; enable jax_enable_x64, "
            "or give a NumPy array, which keeps its dtype"
        )
    return number


def _for_jax(leaf: Any) -> Any:
    """Return a JAX array, but where that would lose precision."""
    kept = jax.eval_shape(lambda array: array, leaf).dtype == leaf.dtype
    return jnp.asarray(leaf) if kept else leaf


def _kind(leaf) -> str:
    return f"{leaf.dtype.name} {tuple(leaf.shape)}"


def _read(path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with _opened(path) as (file, header):
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if header.pop("sha256", None) != _digest(arrays, header):
        raise ValueError(f"{os.fspath(path)}: was changed after it was written: its digest differs")
    return arrays, header


@contextmanager
def _opened(path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Give the open file and what nnjax wrote in its header, or say what is wrong with it."""
    safetensors = _safetensors()
    if not Path(path).is_file():
        raise FileNotFoundError(f"{os.fspath(path)}: no such checkpoint")
    try:
        file = safetensors.safe_open(path, framework="np")
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{os.fspath(path)}: truncated, or not a safetensors file ({error})"
        ) from None
    with file:
        try:
            header = json.loads((file.metadata() or {})["nnjax"])
            version, newer = header["version"], header["version"] > _VERSION
            _ = newer or (header["keys"].items(), header["info"].items())
        except (AttributeError, ValueError, KeyError, TypeError):
            raise ValueError(
                f"{os.fspath(path)}: a safetensors file, but not one written by nnjax"
            ) from None
        if newer:
            raise ValueError(
                f"{os.fspath(path)}: has version {version} of the format, and this nnjax reads up "
                f"to {_VERSION}; update nnjax"
            )
        yield file, header


def _digest(arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(dict(header), sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {_kind(arrays[name])}".encode())
        digest.update(arrays[name].reshape(-1).view(np.uint8).data)  # not a copy of them
    return digest.hexdigest()


def _safetensors():
    try:
        import safetensors
        import safetensors.numpy
    except ImportError:
        raise ImportError(f"checkpoints require safetensors: {install('cli')}") from None
    return safetensors
