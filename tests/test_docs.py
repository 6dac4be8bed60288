"""The pages in docs/: every Python block runs, every link leads to a file."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from nnjax.cli.commands import parse

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
BLOCKS = [
    pytest.param(code, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, code in enumerate(
        re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S), start=1
    )
]


@pytest.mark.parametrize("code", BLOCKS)
def test_every_block_runs(code):
    exec(compile(code, "block", "exec"), {"__name__": "block"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_job_files_of_a_cluster_parse():
    page = (DOCS / "scaling.md").read_text(encoding="utf-8")
    commands = []
    for kind, block in re.findall(r"^```(sh|yaml)\n(.*?)^```", page, re.M | re.S):
        if kind == "sh":
            subprocess.run(["bash", "-n"], input=block, text=True, check=True)
        commands += re.findall(r"(?:^|srun |- )nnjax (.*(?:\n +--.*)*)", block, re.M)
    assert len(commands) == 4
    for words in commands:
        train = parse(shlex.split(words.replace("$JOB_COMPLETION_INDEX", "3")))
        assert train.distributed
        assert str(train.output.out).removeprefix("/").startswith("runs/")
