"""Time nnjax beside its peers, on this machine, in one run: python scripts/bench.py [section ...]

Every section prints tables: seconds (or what the column says) and how many times longer than
nnjax. All rivals of a table take turns within each repeat, so that whatever else the machine does
falls on all of them alike; what is printed is the median over the repeats.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

SECTIONS: dict[str, Callable[[argparse.Namespace], None]] = {}


def section(function: Callable[[argparse.Namespace], None]) -> Callable:
    """Register a function as a section of the benchmark, under its name."""
    SECTIONS[function.__name__.replace("_", "-")] = function
    return function


class Rival(NamedTuple):
    """Something to time: a function that does `share` of the job, called without arguments."""

    run: Callable[[], Any]
    share: float = 1.0


def timed(rivals: dict[str, Rival], repeats: int = 5) -> dict[str, float]:
    """Return the median seconds that each rival takes for the whole job, the rivals taking turns.

    Each is run once before the clock starts, so that compiling is not counted.
    """
    for rival in rivals.values():
        jax.block_until_ready(rival.run())
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(repeats):
        for name, rival in rivals.items():
            start = time.perf_counter()
            jax.block_until_ready(rival.run())
            seconds[name].append((time.perf_counter() - start) / rival.share)
    return {name: statistics.median(values) for name, values in seconds.items()}


def table(
    title: str, seconds: dict[str, float], unit: str = "s", scale: float = 1.0, ours: str = "nnjax"
) -> None:
    """Print one line a rival: time in `unit` (1 s = `scale` units) and its ratio to `ours`."""
    print(f"\n{title}")
    width = max(map(len, seconds))
    for name, value in seconds.items():
        ratio = "" if name == ours else f"{value / seconds[ours]:9.2f} x"
        print(f"  {name:{width}}  {value * scale:10.3f} {unit}{ratio}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="section", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--repeats", type=int, default=5, help="of every measurement (5)")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    print(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, NumPy {np.__version__}"
    )
    for name in options.sections or SECTIONS:
        SECTIONS[name](options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
