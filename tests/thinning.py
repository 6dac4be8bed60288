"""Long tables of cases: some rows always run, the others where slow tests are asked for."""

import pytest


def thinned(rows, name):
    """Return the rows as parameters: one in three always runs, the others are slow tests."""
    return [
        pytest.param(row, id=name(row), marks=[pytest.mark.slow] if i % 3 else [])
        for i, row in enumerate(rows)
    ]
