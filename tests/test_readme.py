"""The README: its example prints what it says, its table of equations points at the right lines."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
TEXT = README.read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_the_first_example_prints_what_the_readme_says():
    number = r"[-+]?\d+\.?\d*(?:e-\d+)?"
    printed, said = run(blocks("python")[0]), blocks("text")[0]
    assert re.sub(number, "#", printed) == re.sub(number, "#", said)
    for a, b in zip(re.findall(number, printed), re.findall(number, said), strict=True):
        assert float(a) == pytest.approx(float(b), rel=1e-3, abs=1e-6)
    assert len(blocks("python")[0].splitlines()) <= 15


def test_the_second_example_trains():
    assert int(run(blocks("python")[1]).strip().rstrip("%")) >= 95


def test_the_gradient_check_names_the_line_that_the_readme_shows(tmp_path):
    (tmp_path / "mine.py").write_text(blocks("python")[2], encoding="utf-8")
    [command] = re.findall(r"`nnjax (check mine\.py:loss mine\S+ --shapes [\dx ]+)`", TEXT)
    done = subprocess.run(
        [sys.executable, "-m", "nnjax", *command.split()],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(README.parent)},
        capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 1
    assert blocks("text")[1] in done.stdout


def test_every_link_leads_to_a_file():
    for target in re.findall(r"\]\(([^)#:]+)(?:#L\d+)?\)", TEXT):
        assert (README.parent / target).exists(), target


def test_the_table_of_equations_points_at_them():
    rows = re.findall(r"^\| (BP[1-4]) \|.*\|$", TEXT, re.MULTILINE)
    assert rows == ["BP1", "BP2", "BP3", "BP4"]
    for name, row in zip(
        rows, re.findall(r"^\| BP[1-4] \|(.*)\|$", TEXT, re.MULTILINE), strict=True
    ):
        for path, line in re.findall(r"\]\((nnjax/\S+\.py)#L(\d+)\)", row):
            source = (README.parent / path).read_text(encoding="utf-8").splitlines()
            assert name in source[int(line) - 1], f"{name} is not at {path}:{line}"


def test_every_command_exists():
    """Each `python scripts/x.py` of the README names a file that is there."""
    for path in re.findall(r"python (scripts/\w+\.py)", TEXT):
        assert (README.parent / path).exists(), path
