"""Writing a file so that it is there as a whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["write_atomically"]


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that at any moment, also after a kill, the old or the new one is there.

    The content goes to a temporary file beside it (`.NAME.RANDOM.tmp`), is forced to the disk, and
    takes the name in one step. The temporary file is a new one whose name nobody can foresee, so
    that several threads and processes may write to one path, and a link laid in its place is not
    followed. Its permissions are those of any new file (the umask).

    Args:
        path: of the file; one of that name is replaced.
        content: all of it.

    Raises:
        OSError: if it cannot be written; a file that was there before is unchanged.

    Example:
        >>> import pathlib, tempfile
        >>> from nnjax.files import write_atomically
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "note.txt")
        ...     write_atomically(path, b"done")
        ...     path.read_text()
        'done'
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            with open(temporary, "xb") as file:  # x: only if nothing of that name is there
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise OSError(
            error.errno, f"cannot write {path}: {error.strerror}; nothing was overwritten"
        ) from None


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened, and renaming is durable
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
