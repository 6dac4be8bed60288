"""The README: its example prints what it says, its table of equations points at the right lines."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
TEXT = README.read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def test_the_first_example_prints_what_the_readme_says(capsys):
    exec(blocks("python")[0], {})
    number = r"[-+]?\d+\.?\d*(?:e-\d+)?"
    printed, said = capsys.readouterr().out, blocks("text")[0]
    assert re.sub(number, "#", printed) == re.sub(number, "#", said)
    for a, b in zip(re.findall(number, printed), re.findall(number, said), strict=True):
        assert float(a) == pytest.approx(float(b), rel=1e-3, abs=1e-6)
    assert len(blocks("python")[0].splitlines()) <= 15


def test_the_second_example_trains(capsys):
    exec(blocks("python")[1], {})
    assert int(capsys.readouterr().out.strip().rstrip("%")) >= 95


def test_the_table_of_equations_points_at_them():
    rows = re.findall(r"^\| (BP[1-4]) .*?\]\((nnjax/\S+\.py)#L(\d+)\)", TEXT, re.MULTILINE)
    assert {name for name, _, _ in rows} == {"BP1", "BP2", "BP3", "BP4"}
    for name, path, line in rows:
        source = (README.parent / path).read_text(encoding="utf-8").splitlines()
        assert name in source[int(line) - 1], f"{name} is not at {path}:{line}"


def test_every_command_exists():
    """Each `python scripts/x.py` of the README names a file that is there."""
    for path in re.findall(r"python (scripts/\w+\.py)", TEXT):
        assert (README.parent / path).exists(), path
