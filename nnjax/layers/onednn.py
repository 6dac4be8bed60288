"""Convolution on CPUs by oneDNN, where the environment variable `NNJAX_CONVOLUTIONS` asks for it.

    pip install "nnjax[onednn]"
    NNJAX_CONVOLUTIONS=onednn nnjax train ...

oneDNN is what PyTorch computes convolutions with on CPUs. XLA calls it through `convolution.cc`,
which is compiled by the C++ compiler of the system where the first convolution is traced, and kept
in the user's cache. Set the variable before Python starts: what is jitted already stays as it is.
Linux on x86-64, float32, no groups; everything else goes by the other ways (`nnjax.layers.ways`).

Legend as in `nnjax.layers.conv`.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.caches import caches, digest, private
from nnjax.layers.base import Shape
from nnjax.layers.rows import Geometry

__all__ = ["VARIABLE", "OneDNN", "asked_for", "onednn"]

VARIABLE = "NNJAX_CONVOLUTIONS"
_PACKAGES = {"onednn-cpu-gomp": "libdnnl.so.3", "onednn-devel-cpu-gomp": "oneapi/dnnl/dnnl.hpp"}
_FLAGS = ("-std=c++17", "-O2", "-shared", "-fPIC")
_PRODUCTS = ("forward", "pull_back", "weight_gradient")  # functions of convolution.cc
_lock = threading.Lock()


def asked_for() -> bool:
    """Return whether convolutions on CPUs are to go by oneDNN.

    Raises:
        ValueError: `NNJAX_CONVOLUTIONS` is set to anything but 'onednn'.

    Example:
        >>> from nnjax.layers.onednn import asked_for
        >>> asked_for()
        False
    """
    way = os.environ.get(VARIABLE, "")
    if way not in ("", "onednn"):
        raise ValueError(f"{VARIABLE} is {way!r}; expected 'onednn', or that it is not set")
    return bool(way)


class OneDNN:
    """The functions of `nnjax.layers.products.Library`, each one call of oneDNN. float32, G = 1.

    Raises:
        ImportError, RuntimeError: oneDNN is not installed or does not run here. In every function,
            where it is traced.
    """

    def correlate(self, w: jax.Array, a: jax.Array, geometry: Geometry) -> jax.Array:
        """Return z without its bias, (..., oh, ow, J)."""
        shape = (*geometry.places(a.shape), len(w))
        z = _call("forward", (-1, *shape), geometry, _images(a), w)
        return z.reshape(*a.shape[:-3], *shape)

    def pull_back(
        self, w: jax.Array, delta: jax.Array, in_shape: Shape, geometry: Geometry
    ) -> jax.Array:
        """Return ∂C/∂a (..., H, W, C), given δ (..., oh, ow, J)."""
        a = _call("pull_back", (-1, *in_shape[-3:]), geometry, _images(delta), w)
        return a.reshape(*delta.shape[:-3], *in_shape[-3:])

    def weight_gradient(self, a: jax.Array, delta: jax.Array, geometry: Geometry) -> jax.Array:
        """Return ∂C/∂w (J, kh, kw, C), summed over all examples."""
        shape = (delta.shape[-1], *geometry.kernel, a.shape[-1])
        return _call("weight_gradient", shape, geometry, _images(a), _images(delta))


onednn = OneDNN()


def _images(a):
    return a.reshape(-1, *a.shape[-3:])


def _call(name, shape, geometry, images, other):
    """Call a function of convolution.cc; -1 in the shape stands for the number of images."""
    _register()
    (top, bottom), (left, right) = geometry.margins
    margins = [top, left, bottom, right]
    numbers = np.array([*geometry.stride, *geometry.dilation, *margins], np.int64)
    shape = tuple(images.shape[0] if n == -1 else n for n in shape)
    function = jax.ffi.ffi_call(_target(name), jax.ShapeDtypeStruct(shape, jnp.float32))
    return function(images, other, geometry=numbers)


def _target(name):
    return f"nnjax_onednn_{name}"


def _register() -> None:
    """Make the functions of convolution.cc known to XLA, once."""
    with _lock:
        _register_once()


@functools.cache
def _register_once() -> None:
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise RuntimeError(
            f"{VARIABLE} is 'onednn', which runs on Linux on x86-64 only, not on "
            f"{sys.platform} on {platform.machine()}; unset {VARIABLE}"
        )
    if jax.default_backend() != "cpu":
        raise RuntimeError(
            f"{VARIABLE} is 'onednn', which is for CPUs, and JAX computes on "
            f"{jax.default_backend()!r}; unset {VARIABLE}, or set JAX_PLATFORMS=cpu"
        )
    library, header = (_file_of(*item) for item in _PACKAGES.items())
    ctypes.CDLL(str(library))  # before what is linked with it
    functions = _compiled(library, header.parents[2])
    for name in _PRODUCTS:
        function = jax.ffi.pycapsule(getattr(functions, _target(name)))
        jax.ffi.register_ffi_target(_target(name), function, platform="cpu")


def _file_of(package: str, name: str) -> Path:
    """Return where an installed package has the file whose path ends in `name`."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.as_posix().endswith(f"/{name}"):
            return Path(str(file.locate())).resolve()
    raise ImportError(
        f"{VARIABLE} is 'onednn', which requires {package}: "
        f'pip install "nnjax[onednn]", or unset {VARIABLE}'
    )


def _compiled(library: Path, include: Path) -> ctypes.CDLL:
    """Load what convolution.cc is compiled to: from the user's cache, or else keep it there.

    It is neither kept nor taken where the cache cannot be written to, or others could.
    """
    source = Path(__file__).with_name("convolution.cc")
    folders = [include, Path(jax.ffi.include_dir())]
    versions = [importlib.metadata.version(name) for name in ("jaxlib", *_PACKAGES)]
    of = digest(repr((versions, _FLAGS)).encode() + source.read_bytes())
    kept = None
    with suppress(OSError, RuntimeError):  # RuntimeError: there is no home
        folder = caches() / "native"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = folder if private(folder) and os.access(folder, os.W_OK) else None
    for file in kept.glob(f"convolution-{of}.*") if kept else ():
        if file.suffix != f".{digest(file.read_bytes())}":
            file.unlink(missing_ok=True)
            continue
        with suppress(OSError):  # compiled on another system that shares the folder
            return ctypes.CDLL(str(file))
    with tempfile.TemporaryDirectory(dir=kept) as own:
        built = Path(own) / "convolution.so"
        _compile(source, folders, library, built)
        functions = ctypes.CDLL(str(built))
        if kept:
            built.replace(kept / f"convolution-{of}.{digest(built.read_bytes())}")
        return functions


def _compile(source, folders, library, out) -> None:
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        raise RuntimeError(
            f"{VARIABLE} is 'onednn', which requires a C++ compiler, and none of c++, g++ "
            f"and clang++ is on the PATH; install one, or unset {VARIABLE}"
        )
    include = (f"-I{folder}" for folder in folders)
    command = [compiler, *_FLAGS, *include, str(source), str(library), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"{VARIABLE} is 'onednn', but {compiler} could not compile {source.name}; unset "
            f"{VARIABLE}, or correct what the compiler reports:\n{done.stderr.strip()}"
        )
