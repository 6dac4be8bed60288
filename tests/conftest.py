"""Settings for every test: strict dtypes, no silent broadcasting of ranks, fixed examples."""

import os
import re
import signal
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Commands that tests start do not write into the user's cache.
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

for name in ("SIGINT", "SIGHUP"):
    # Ignored where tests run in the background; commands that tests start would ignore them too.
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)

for name, examples in (("full", 200), ("usual", 8), ("quick", 5)):
    hypothesis.settings.register_profile(
        name,
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
hypothesis.settings.load_profile("usual")


@pytest.fixture(autouse=True, scope="module")
def compiled_programs():
    """Forget the compiled programs before they use up the maps of memory of a process on Linux.

    Each takes a few of 65,530; without one more, XLA ends the process with a segmentation fault.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > 40_000:
        jax.clear_caches()


def pytest_collection_modifyitems(items):
    """Skip examples in docstrings that need an extra which is not installed."""
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            source = "".join(example.source for example in item.dtest.examples)
            for extra in re.findall(r"^import .*\b(grain|optuna)\b", source, re.M):
                if find_spec(extra) is None:
                    item.add_marker(pytest.mark.skip(reason=f"{extra} is not installed"))
                else:
                    with warnings.catch_warnings():  # of deprecated parts of its own
                        warnings.simplefilter("ignore")
                        import_module(extra)
