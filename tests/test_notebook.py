"""The notebook in docs/ runs, cell by cell, and shows tables and pictures."""

import json
from pathlib import Path

import jax
import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebook.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


@pytest.mark.slow
def test_the_notebook_runs_and_shows_tables_and_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shells = pytest.importorskip("IPython.core.interactiveshell")
    shell = shells.InteractiveShell()
    shell.history_manager.enabled = False
    kinds = []
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for cell in CELLS:
            if cell["cell_type"] == "code":
                result = shell.run_cell("".join(cell["source"]))
                result.raise_error()
                shown, _ = shell.display_formatter.format(result.result)
                kinds.append(sorted(kind for kind in shown if kind in ("text/html", "image/png")))
    html, png = ["text/html"], ["image/png"]
    assert kinds == [html, html, html, png, html, png, html, html, html]
