"""The pages of the reference, made from the modules that there are: one section per module."""

from __future__ import annotations

import ast
from pathlib import Path

__all__ = ["pages", "write"]

ROOT = Path(__file__).parent.parent / "nnjax"

GROUPS = {
    "network": (
        "Networks",
        "network architecture layers activations losses initializers regularizers",
    ),
    "backprop": (
        "Backpropagation",
        "backprop descent backward per_example curvature contractions feedback ops",
    ),
    "training": ("Training", "training"),
    "data": ("Data", "data"),
    "gradcheck": ("Gradient checks", "gradcheck"),
    "book": ("The book's figures", "book"),
    "results": ("Results and everything else", ""),
}
"""By page: its title and its modules, with all that is below them; the last takes the rest."""

INTRODUCTION = """# Reference

From the docstrings: what each function returns, its equation, its arguments with their shapes, what
it raises, and an example that is run by the tests. What most programs need is in `nnjax` itself;
everything is in the module that is named here, too.

"""


def modules() -> list[str]:
    """Return the modules of nnjax, without the command line but for the opening of saved runs."""
    files = [path.relative_to(ROOT).with_suffix("") for path in sorted(ROOT.rglob("*.py"))]
    names = [".".join(file.parts).removesuffix(".__init__") for file in files]
    apart = ("__init__", "__main__", "cli")
    return [name for name in names if name == "cli.loaded" or name.split(".")[0] not in apart]


def section(module: str) -> str:
    """Return the section of a module; of a package, what its own file defines."""
    package = ROOT.joinpath(*module.split("."), "__init__.py")
    options = ""
    if package.exists():
        body = ast.parse(package.read_text(encoding="utf-8")).body
        assigned = [node.target for node in body if isinstance(node, ast.AnnAssign)]
        defined = [n.name for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        own = [target.id for target in assigned if isinstance(target, ast.Name)] + defined
        options = f"   :members: {', '.join(own)}\n" if own else "   :no-members:\n"
    return f"## `nnjax.{module}`\n\n```{{eval-rst}}\n.. automodule:: nnjax.{module}\n{options}```\n"


def pages() -> dict[str, str]:
    """Return the text of each page by its name."""
    groups: dict[str, list[str]] = {page: [] for page in GROUPS}
    for module in modules():
        first = module.split(".")[0]
        groups[
            next(page for page, (_, own) in GROUPS.items() if first in own.split() or not own)
        ] += [module]
    texts = {}
    for page, (title, own) in GROUPS.items():
        order = own.split()
        named = sorted(
            groups[page], key=lambda m: (order.index(m.split(".")[0]) if order else 0, m)
        )
        texts[page] = "\n".join([f"# {title}\n", *map(section, named)])
    listed = [f"- [{title}]({page}.md)" for page, (title, _) in GROUPS.items()]
    return {"index": INTRODUCTION + "\n".join(listed) + "\n", **texts}


def write(folder: Path) -> None:
    """Write the pages into a folder; those that have not changed stay as they are."""
    folder.mkdir(exist_ok=True)
    for name, text in pages().items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
