"""Every script starts, and its help says what its options mean."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parent.parent / "scripts").glob("*.py"))


@pytest.mark.parametrize(
    "path", [path for path in SCRIPTS if path.stem != "common"], ids=lambda path: path.stem
)
def test_help(path):
    done = subprocess.run(
        [sys.executable, path, "--help"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert path.name in done.stdout
    options = done.stdout.split("options:")[1]
    for option in re.findall(r"^  (--\S+)", options, re.MULTILINE):
        line = options.split(option, 1)[1]
        assert re.match(r"[^\n]*(  |\n {8,})\S", line), f"{option} has no help"
