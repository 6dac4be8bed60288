"""Options of `nnjax train` from a file: TOML or JSON, or the config.json of an earlier run."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["words"]


def words(path: Path) -> list[str]:
    """Return the options in a file as they would stand on the command line.

    Args:
        path: a file that ends in .toml or .json, with the names of options, or a config.json.

    Raises:
        ValueError: if it is of another kind, or holds something else.
        OSError: if it cannot be read.

    Example:
        >>> import pathlib, tempfile
        >>> from nnjax.cli.option_files import words
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "small.toml")
        ...     _ = path.write_text("hidden = [30, 20]\\nbatch-size = 5\\ndistort = {shift = 1}")
        ...     words(path)
        ['--hidden', '30', '20', '--batch-size', '5', '--distort.shift', '1']
    """
    if path.suffix not in (".toml", ".json"):
        raise ValueError(f"{path}: expected a file of options that ends in .toml or .json")
    text = path.read_text(encoding="utf-8")
    try:
        content = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        kind = path.suffix[1:].upper()
        raise ValueError(f"{path}: not valid {kind}: {str(error).splitlines()[0]}") from None
    if isinstance(content, Mapping) and content.get("format") == "nnjax run":
        config = content.get("config")
        content = config.get("train") if isinstance(config, Mapping) else None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: expected options by name, such as epochs = 30")
    return list(_words("", content, path))


def _words(prefix: str, options: Mapping[str, Any], path: Path) -> Iterator[str]:
    for name, value in options.items():
        option = prefix + name.replace("_", "-")
        if isinstance(value, Mapping):
            yield from _words(f"{option}.", value, path)
        elif isinstance(value, bool):
            yield f"--{option}" if value else f"--no-{option}"
        elif isinstance(value, list):
            yield from (f"--{option}", *map(str, value))
        elif isinstance(value, str | int | float):
            yield from (f"--{option}", str(value))
        elif value is not None:
            raise ValueError(f"{path}: {name} is {value!r}; expected text, a number or a list")
