"""The user's folder for what can be made again, and what keeps its files from harm.

What is run from there has to be the user's own: `private` says whether others could have put it
there, and a file whose name ends in its `digest` shows whether it is whole.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from pathlib import Path

__all__ = ["caches", "digest", "private"]


def caches() -> Path:
    """Return the folder of nnjax in the user's cache, which need not exist.

    Raises:
        RuntimeError: the user has no home.

    Example:
        >>> from nnjax.caches import caches
        >>> caches().name
        'nnjax'
    """
    home = Path.home()
    if sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        folder = home / "Library" / "Caches"
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return folder / "nnjax"


def private(folder: Path) -> bool:
    """Return whether a folder is a real one, the user's, to which nobody else may write.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from nnjax.caches import private
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     private(Path(folder))
        True
    """
    if sys.platform == "win32":
        return True
    status = folder.lstat()
    others = stat.S_IWGRP | stat.S_IWOTH
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.getuid()
        and not status.st_mode & others
    )


def digest(content: bytes) -> str:
    """Return 32 hexadecimal digits that change with the content.

    Example:
        >>> from nnjax.caches import digest
        >>> digest(b"")
        'e3b0c44298fc1c149afbf4c8996fb924'
    """
    return hashlib.sha256(content).hexdigest()[:32]
