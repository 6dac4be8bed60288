"""Long tables of cases: some rows always run, the others where slow tests are asked for."""

import pytest


def thinned(rows, name, every=3):
    """Return the rows as parameters: one in `every` always runs, the others are slow tests."""
    return [
        pytest.param(row, id=name(row), marks=[pytest.mark.slow] if i % every else [])
        for i, row in enumerate(rows)
    ]
