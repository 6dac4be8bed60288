"""Examples in docstrings that need an extra are skipped where it is not installed."""

import re
import warnings

import pytest


@pytest.fixture(autouse=True)
def extras_of_the_example(request):
    """Import the extras that an example in a docstring imports, or skip it."""
    if isinstance(request.node, pytest.DoctestItem) and request.node.dtest is not None:
        source = "".join(example.source for example in request.node.dtest.examples)
        for extra in re.findall(r"^import .*\b(grain|optuna)\b", source, re.M):
            with warnings.catch_warnings():  # that it raises where it is imported
                warnings.simplefilter("ignore")
                pytest.importorskip(extra)
