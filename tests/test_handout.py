"""A working as LaTeX and Markdown: every formula can be typeset, and says what the working says."""

import jax
import pytest

import nnjax
from nnjax.cli import main
from nnjax.handout import formula, latex, markdown


@pytest.fixture(scope="module")
def working():
    net = nnjax.mlp([2, 2, 2], activation=nnjax.leaky_relu, loss=nnjax.log_likelihood)
    params = nnjax.init(net, jax.random.key(0))
    return nnjax.explain(net, params, [[0.4, -2e-5], [1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]], 0.1)


@pytest.mark.slow
def test_every_formula_can_be_typeset(working):
    from matplotlib.mathtext import MathTextParser

    parser = MathTextParser("path")
    for line in working.lines:
        for text in (line.symbol, *line.steps):
            parser.parse(f"${formula(text)}$")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("w¹₁₂ x₂ + b¹₁", "w^{1}_{12} x_{2} + b^{1}_{1}"),
        ("w¹²₁,₁₂", "w^{12}_{1,12}"),
        ("½ ((a²₁ − y₁)²)", r"\frac{1}{2}  ((a^{2}_{1} - y_{1})^{2})"),
        ("leaky_relu'(z¹₁)", r"\operatorname{leaky\_relu}'(z^{1}_{1})"),
        ("(−1.5e−06)·ln 2", r"(-1.5 \cdot 10^{-6})\cdot \ln  2"),
        ("η ∂C/∂b¹₁", r"\eta \frac{\partial C}{\partial b^{1}_{1}}"),
        ("50 % of {x} & #1", r"50 \% \operatorname{of} \{x\} \& \#1"),
    ],
)
def test_formulas_are_translated(text, expected):
    assert formula(text) == expected


def test_both_hold_every_line(working):
    documents = latex(working), markdown(working)
    for line in working.lines:
        for document in documents:
            assert all(formula(step) in document for step in line.steps)
    tex, text = documents
    assert tex.count("&=") == sum(len(line.steps) for line in working.lines)
    assert tex.isascii()
    assert tex.count(r"\begin") == tex.count(r"\end") == 1 + len(working.sections())
    assert text.count("$$") == 2 * len(working.lines)
    assert "$" not in text.replace("$$", "")


def test_only_a_working_has_a_handout():
    with pytest.raises(TypeError, match=r"working is .*nnjax\.explain"):
        latex("z = 1")


def test_the_command_has_the_forms(tmp_path, capsys):
    page = tmp_path / "step.html"
    assert main(["explain", "--sizes", "2", "1", "--latex"]) == 0
    assert capsys.readouterr().out.startswith(r"\documentclass")
    assert main(["explain", "--sizes", "2", "1", "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("# One training step")
    assert main(["explain", "--sizes", "2", "1", "--html", str(page)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert page.read_text("utf-8").startswith("<!DOCTYPE html>")
    assert main(["explain", "--latex", "--json"]) == 2
    assert "--json, --latex, --markdown and --html are alternatives" in capsys.readouterr().err
