"""What the command line compiles is kept for its next start, in JAX's persistent compilation cache.

JAX writes an entry where it reads it, so that a kill in the middle leaves half of one. Here a
process works in a folder of its own, filled with links, and whole entries are linked back. The name
of a kept entry ends in its digest, and one that does not match it is removed and compiled again.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax

from nnjax.caches import caches, digest, private

__all__ = ["cache_folder", "keep_programs", "kept_programs"]

_OWN = "in-use-"  # how the name of a process' own folder begins
_LIMIT = 100_000_000  # bytes in all; a program for the CPU takes 10 to 100 KB
_DAY = 86_400.0
_FOLDER = "jax_compilation_cache_dir"
_EVERY_PROGRAM = {
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    "jax_persistent_cache_enable_xla_caches": "none",  # files of another kind, on GPUs
}


def cache_folder() -> Path:
    """Return where compiled programs are kept: in the user's cache, a folder per kind of processor.

    Example:
        >>> from nnjax.cli.compiled import cache_folder
        >>> cache_folder().parent.name
        'compiled'
    """
    return caches() / "compiled" / _processor()


@contextmanager
def kept_programs() -> Iterator[None]:
    """Let JAX take compiled programs from the cache, and keep new ones when the command ends well.

    Nothing is changed where the user has told JAX which cache to use, or to use none; no cache is
    used where its folder cannot be written to, or where others could (JAX runs what it finds).
    """
    if _setting(_FOLDER) or not _setting("jax_enable_compilation_cache"):
        yield
        return
    own = _own_folder()
    if own is None:
        yield
        return
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation")
    for name, value in _EVERY_PROGRAM.items():
        jax.config.update(name, value)
    jax.config.update(_FOLDER, str(own))
    try:
        yield
        keep_programs()
    finally:
        jax.config.update(_FOLDER, None)
        shutil.rmtree(own, ignore_errors=True)


def keep_programs() -> None:
    """Keep what was compiled until now, within `kept_programs`; to be called between programs."""
    own = Path(_setting(_FOLDER) or "")
    if not own.name.startswith(_OWN):
        return
    with suppress(OSError):
        for entry in own.iterdir():
            if entry.stat().st_nlink == 1:
                _link(entry, own.parent / f"{entry.name}.{digest(entry.read_bytes())}")
        kept = [(f.stat().st_mtime, f.stat().st_size, f) for f in own.parent.glob("*-cache.*")]
        total = sum(size for _, size, _ in kept)
        for _, size, file in sorted(kept):
            if total <= _LIMIT:
                break
            file.unlink(missing_ok=True)
            total -= size


def _setting(name: str) -> Any:
    return getattr(jax.config, name)


def _own_folder() -> Path | None:
    """Make a folder that holds links to all kept entries; None where that cannot be done safely."""
    try:
        folder = cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not private(folder):
            return None
        for left in folder.glob(f"{_OWN}*"):  # by processes that were killed
            if time.time() - left.stat().st_mtime > _DAY:
                shutil.rmtree(left, ignore_errors=True)
        own = Path(tempfile.mkdtemp(prefix=_OWN, dir=folder))
        for kept in folder.glob("*-cache.*"):
            if kept.suffix == f".{digest(kept.read_bytes())}":
                _link(kept, own / kept.stem)
            else:
                kept.unlink(missing_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    return own


def _link(file: Path, name: Path) -> None:
    with suppress(FileExistsError):  # another process kept the same program
        os.link(file, name)


def _processor() -> str:
    """Name the kind of processor: programs for one may not run on another."""
    described = platform.machine() + platform.processor()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        described += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(described.encode()).hexdigest()[:12]}"
