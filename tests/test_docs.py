"""The pages in docs/: every block and every row of calls runs, links and numbers are right.

The cells of pages that are executed (`code-cell`) run when the site is built, and in a slow test.
"""

import importlib.util
import inspect
import json
import re
import shlex
import shutil
import subprocess
import warnings
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import nnjax
from nnjax import book
from nnjax.book import chapter4
from nnjax.cli.commands import parse
from nnjax.initializers import default, large
from nnjax.regularizers import L2
from nnjax.training import EarlyStopping, augmentation, optimizers

DOCS = Path(__file__).parent.parent / "docs"
BUILT = {"_build", "reference", "jupyter_execute"}
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if not BUILT & set(page.parts)]
LONG = {"data", "precision", "scaling"}
BLOCKS = [
    pytest.param(code, id=f"{page.stem}-{number}", marks=[pytest.mark.slow] * (page.stem in LONG))
    for page in PAGES
    for number, code in enumerate(
        re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S), start=1
    )
]


@pytest.mark.parametrize("code", BLOCKS)
def test_every_block_runs(code):
    for extra in re.findall(r"^import .*\b(grain|optuna)\b", code, re.M):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pytest.importorskip(extra)
    exec(compile(code, "block", "exec"), {"__name__": "block"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


# ---------------------------------------------------------------- pages that are executed


def cells(page):
    return re.findall(
        r"^```\{code-cell\} ipython3\n(.*?)^```", page.read_text("utf-8"), re.M | re.S
    )


@pytest.mark.parametrize("page", [p for p in PAGES if cells(p)], ids=lambda page: page.stem)
def test_every_cell_is_python_and_every_figure_exists(page):
    for cell in cells(page):
        cell = re.sub(r"^:\w+:.*\n", "", cell, flags=re.M)
        compile(re.sub(r"^[%!].*$", "", cell, flags=re.M), page.name, "exec")
        for number in re.findall(r'book\.figure\("([\d.]+)"', cell):
            assert number in book.FIGURES
            assert page.stem == f"chapter{book.FIGURES[number].chapter}"


def test_every_figure_is_on_the_page_of_its_chapter_and_in_the_list():
    listed = (DOCS / "book" / "figures.md").read_text("utf-8")
    for number, figure in book.FIGURES.items():
        page = (DOCS / "book" / f"chapter{figure.chapter}.md").read_text("utf-8")
        assert f'book.figure("{number}")' in page or f"`nnjax book {number}`" in page
        assert f"| [{number}](chapter{figure.chapter}.md) | {figure.title} |" in listed


@pytest.mark.slow
def test_the_exercises_run():
    names = {}
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # as readers have it
        for cell in cells(DOCS / "book" / "exercises.md"):
            exec(
                compile(
                    cell.replace('jax.config.update("jax_enable_x64", True)', ""), "cell", "exec"
                ),
                names,
            )


# ---------------------------------------------------------------- numbers in the text


def numbers_in_the_text():
    """Yield each number that is followed by a comment that says where it comes from."""
    for page in PAGES:
        text = page.read_text("utf-8")
        for number, figure, path in re.findall(r"([\d.]+)(?: ?%)?<!--([\d.]+): ([^>]*?)-->", text):
            yield pytest.param(number, figure, path, id=f"{page.stem}-{figure}-{path}")


@pytest.mark.parametrize(("number", "figure", "path"), list(numbers_in_the_text()))
def test_a_number_in_the_text_is_that_of_the_saved_run(number, figure, path):
    value = book.result(figure).numbers
    for step in path.split(" / "):
        if isinstance(value, dict):
            value = value[step]
        elif step in ("max", "min"):
            value = getattr(np, step)(value)
        else:
            value = value[int(step)]
    decimals = len(number.partition(".")[2])
    assert f"{value:.{decimals}f}" == number


# ---------------------------------------------------------------- the book's programs


@pytest.mark.slow
def test_every_call_in_the_table_of_programs_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digits = nnjax.data.load("digits")
    wide = [(np.pad(x, ((0, 0), (10, 10), (10, 10), (0, 0)))[:200], y[:200]) for x, y in digits]
    as_mnist = nnjax.data.Dataset(*wide)
    monkeypatch.setattr(nnjax.data, "load", lambda name: as_mnist)
    names = {
        "jax": jax, "nnjax": nnjax, "optax": optax, "book": book, "default": default,
        "large": large, "L2": L2, "EarlyStopping": EarlyStopping, "augmentation": augmentation,
        "optimizers": optimizers, "key": jax.random.key(0),
    }  # fmt: skip
    rows = re.findall(r"^\| (.*) \| (.*) \|$", (DOCS / "book" / "programs.md").read_text(), re.M)
    calls = [
        call
        for program, column in rows
        if program not in ("in the book", "---")
        for call in re.findall(r"`([^`]+)`", column)
    ]
    assert len(calls) > 40
    for call in calls:
        if script := re.match(r"python (scripts/\w+\.py)", call):
            assert (DOCS.parent / script[1]).exists()
        else:
            exec(call, names)


# ---------------------------------------------------------------- the reference


def test_the_reference_has_every_public_name():
    """Sections are made from the files; what a section shows is the `__all__` of its module."""
    spec = importlib.util.spec_from_file_location("modules", DOCS / "modules.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    sections = re.findall(
        r"automodule:: (\S+)\n(?:   :(no-)?members: ?(.*)\n)?", "".join(made.pages().values())
    )
    objects = set()
    for name, none, some in sections:
        module = importlib.import_module(name)
        shown = [] if none else some.split(", ") if some else module.__all__
        objects |= {id(getattr(module, each)) for each in shown}
    for name in nnjax.__all__:
        thing = getattr(nnjax, name)
        of_module = vars(thing).get("__all__", ()) if inspect.ismodule(thing) else (name,)
        for inner in of_module:
            value = getattr(thing, inner) if inspect.ismodule(thing) else thing
            assert inspect.ismodule(value) or id(value) in objects, f"{name}: {inner}"


# ---------------------------------------------------------------- the sliders of chapter 4


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not on this machine")
def test_the_sliders_compute_the_networks_of_chapter_4():
    script = DOCS / "_static" / "universality.js"
    program = (
        f"const u = require({json.dumps(str(script))});"
        "const n = u.bumps(u.middles(7), 500);"
        "console.log(JSON.stringify([0.05, 0.31, 0.5, 0.777, 1].map((x) => u.output(n, x))));"
    )
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True)
    network = chapter4.bumps(chapter4._middles(chapter4.target, 7), 500.0)
    x = np.array([0.05, 0.31, 0.5, 0.777, 1.0])
    np.testing.assert_allclose(json.loads(done.stdout), chapter4._outputs(network, x), atol=2e-5)


# ---------------------------------------------------------------- the page on clusters


def test_the_job_files_of_a_cluster_parse():
    page = (DOCS / "scaling.md").read_text(encoding="utf-8")
    commands = []
    for kind, block in re.findall(r"^```(sh|yaml)\n(.*?)^```", page, re.M | re.S):
        if kind == "sh":
            subprocess.run(["bash", "-n"], input=block, text=True, check=True)
        commands += re.findall(r"(?:^|srun |exec )nnjax (.*(?:\n +--.*)*)", block, re.M)
    assert len(commands) == 4
    for words in commands:
        train = parse(shlex.split(words.replace("$JOB_COMPLETION_INDEX", "3")))
        assert train.cluster.distributed
        assert str(train.output.out).removeprefix("/").startswith("runs/")
