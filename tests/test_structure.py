"""What holds for the package as a whole: the order of its parts, its documentation, its imports."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import nnjax

ROOT = Path(nnjax.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# Who may import whom: a module imports only from lines above its own (and from its own line). A
# name stands for the modules below it too, unless they have a line of their own.
ORDER = [
    [
        "notation",
        "display",
        "caches",
        "checks",
        "sharding",
        "pieces",
        "files",
        "data.pickles",
        "data.image_format",
        "data.images",
    ],
    ["activations", "data.readers", "data.dataset", "data.tables", "data.stream"],
    ["losses", "initializers", "data", "data.pictures"],
    ["layers.base", "tasks"],
    ["layers.windows"],
    ["layers.rows", "layers.words"],
    ["layers.products", "layers.onednn"],
    ["layers.ways"],
    ["layers.conv", "layers.dense", "layers.dropout", "layers.pool", "layers.reshape"],
    ["layers.norm", "layers.residual"],
    ["layers"],
    ["network"],
    ["ops", "regularizers", "feedback", "evaluation"],
    ["backprop", "architecture"],
    ["backward", "descent", "explain", "handout"],
    ["contractions"],
    ["per_example", "curvature", "page"],
    ["training", "plots", "many_plots", "gradcheck"],
    ["training.run", "book_json", "storage", "sklearn"],
    ["book.drawing"],
    ["book.figures", "book.setting"],
    ["book.chapter1", "book.chapter2", "book.chapter4", "book.chapter5", "book.chapter6"],
    ["book.chapter3"],
    ["book"],
    ["cli.choices", "cli.compiled"],
    ["cli.options"],
    ["cli.config"],
    ["cli.console"],
    ["cli", "__main__"],
    [""],
]
LEVEL = {name: i for i, names in enumerate(ORDER) for name in names}
APART = [("training", "gradcheck")]  # equally high, and nothing to each other


def level(name):
    """Return the line of a module: its own, or that of the nearest folder that has one."""
    while name and name not in LEVEL:
        name = name.rpartition(".")[0]
    return LEVEL[name] if name else None


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """Return the modules of nnjax that a file imports when it is run, but for type checking."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nnjax"):
            base = node.module.removeprefix("nnjax").lstrip(".")
            for alias in node.names:
                name = f"{base}.{alias.name}".lstrip(".")
                path = ROOT / name.replace(".", "/")
                yield name if path.with_suffix(".py").exists() or path.is_dir() else base
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("nnjax."):
                    yield alias.name.removeprefix("nnjax.")


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_dependencies_point_one_way(path):
    name = module_name(path)
    if not name:
        return
    assert level(name) is not None, f"{name} has no place in ORDER: give it one"
    for other in imports(path):
        if not other:  # `from nnjax import x`, which names x as well
            continue
        assert level(other) <= level(name), f"{name} imports {other}"
        for one, two in (*APART, *(pair[::-1] for pair in APART)):
            assert not (name.startswith(one) and other.startswith(two)), f"{name} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_every_public_name_is_documented(path):
    module = importlib.import_module(f"nnjax.{module_name(path)}".rstrip("."))
    assert inspect.getdoc(module)
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), f"{module.__name__}.{name} has no docstring"


def public_functions():
    """Yield what users reach as nnjax.name, or as nnjax.module.name."""
    for name in nnjax.__all__:
        thing = getattr(nnjax, name)
        if inspect.ismodule(thing):
            yield from ((f"{name}.{inner}", getattr(thing, inner)) for inner in thing.__all__)
        else:
            yield name, thing


@pytest.mark.parametrize(
    "function",
    [pytest.param(f, id=name) for name, f in public_functions() if inspect.isfunction(f)],
)
def test_every_public_function_has_an_example(function):
    assert ">>>" in (function.__doc__ or "")


def test_all_names_exist():
    for name in nnjax.__all__:
        assert hasattr(nnjax, name)
        assert name in dir(nnjax)
    with pytest.raises(AttributeError, match="module 'nnjax' has no attribute 'check_gradients'"):
        nnjax.check_gradients  # noqa: B018


def test_importing_nnjax_imports_no_extra_and_not_the_checker():
    heavy = "sklearn scipy.stats pooch safetensors tyro rich matplotlib PIL tensorboardX torch flax"
    heavy += " nnjax.gradcheck"
    code = f"import sys, nnjax; print([m for m in {heavy.split()!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_layer_of_the_table_is_exported_and_read_as_a_word():
    words = ["conv2k3", "pool2", "meanpool2", "l2pool2", "flatten", "layernorm"]
    words += ["dense4", "dropout0.5", "add1"]
    net = nnjax.architecture.parse(" ".join(words), (12, 12, 1), 3)
    for layer, word in zip(net.layers, words, strict=False):
        assert nnjax.layers.LAYERS[layer.name] is type(layer)
        assert getattr(nnjax, type(layer).__name__) is type(layer)
        assert layer.word().split(":")[0] == word
    assert {type(layer) for layer in net.layers} == set(nnjax.layers.LAYERS.values())
