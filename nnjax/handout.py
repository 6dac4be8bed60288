"""A working by hand as a handout: LaTeX to be typeset, Markdown with formulas.

`nnjax.explain` writes formulas as plain text, such as δ¹₁ = (w²₁₁ δ²₁) · sigmoid'(z¹₁); here each
character of it is translated, so that whatever a loss or a layer writes in that way is too.
"""

from __future__ import annotations

import re

from nnjax.checks import require_instance
from nnjax.explain import Explanation, Line

__all__ = ["formula", "latex", "markdown"]

_RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SIGNS = {
    "−": "-",
    "·": r"\cdot ",
    "½": r"\frac{1}{2} ",
    "Σ": r"\sum ",
    "→": r"\to ",
    "⊙": r"\odot ",
    "√": r"\surd ",
    "∂": r"\partial ",
    "δ": r"\delta",
    "η": r"\eta",
    "σ": r"\sigma",
    "λ": r"\lambda",
    "μ": r"\mu",
    "[": "[",
    "{": r"\{",
    "}": r"\}",
    "\\": r"\backslash ",
    "~": r"\sim ",
    "^": r"\hat{\ }",
    **{sign: "\\" + sign for sign in "#$%&_"},
}
_TOKEN = re.compile(
    r"(?P<slope>∂C/∂(?P<by>\w[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]*(?:[₀-₉]+(?:,[₀-₉]+)?)?))"
    r"|(?P<number>\d+(?:\.\d+)?)e(?P<sign>[−+]?)0*(?P<power>\d+)"
    r"|(?P<raised>[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)"
    r"|(?P<lowered>[₀-₉]+(?:,[₀-₉]+)?)"
    r"|(?P<word>[A-Za-z_]{2,})"
    r"|(?P<other>.)",
    re.DOTALL,
)


def formula(text: str) -> str:
    r"""Return a formula in plain text as LaTeX, without the dollar signs.

    Args:
        text: as `nnjax.explain` writes it.

    Example:
        >>> from nnjax.handout import formula
        >>> print(formula("δ¹₁ = (a¹₁ − y₁) · sigmoid'(z¹₁)"))
        \delta^{1}_{1} = (a^{1}_{1} - y_{1}) \cdot  \operatorname{sigmoid}'(z^{1}_{1})
        >>> print(formula("∂C/∂w¹₁₂ = 2e−05"))
        \frac{\partial C}{\partial w^{1}_{12}} = 2 \cdot 10^{-5}
    """
    return _TOKEN.sub(_translated, require_instance(text, str, "text", "a formula in plain text"))


def _translated(token: re.Match[str]) -> str:
    kind = token.lastgroup
    if token["slope"]:
        return rf"\frac{{\partial C}}{{\partial {formula(token['by'])}}}"
    if token["number"]:
        sign = "-" if token["sign"] == "−" else ""
        return rf"{token['number']} \cdot 10^{{{sign}{token['power']}}}"
    if kind == "raised":
        return f"^{{{token['raised'].translate(_RAISED)}}}"
    if kind == "lowered":
        return f"_{{{token['lowered'].translate(_LOWERED)}}}"
    if kind == "word":
        return _word(token["word"])
    return _SIGNS.get(token["other"], token["other"])


def _word(word: str) -> str:
    if word == "ln":
        return r"\ln "
    name = word.replace("_", r"\_")
    return rf"\mathrm{{{name}}}\ " if word in ("new", "example") else rf"\operatorname{{{name}}}"


def latex(working: Explanation) -> str:
    r"""Return the working as a LaTeX document, to be typeset as it is (it needs amsmath).

    Args:
        working: what `nnjax.explain` returned.

    Example:
        >>> import jax, nnjax
        >>> from nnjax.handout import latex
        >>> net = nnjax.mlp([1, 1], loss=nnjax.quadratic)
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> text = latex(nnjax.explain(net, params, [0.5], [1.0]))
        >>> text.count(r"\section*"), r"z^{1}_{1} &= w^{1}_{11} x_{1} + b^{1}_{1}" in text
        (5, True)
    """
    require_instance(working, Explanation, "working", "what nnjax.explain returns")
    out = [
        r"\documentclass{article}",
        r"\usepackage[margin=2.5cm]{geometry}",
        r"\usepackage{amsmath}",
        r"\allowdisplaybreaks",
        rf"\title{{{_prose(working.title)}}}",
        r"\date{}",
        r"\begin{document}",
        r"\maketitle",
    ]
    for heading, lines in working.sections():
        rows = " \\\\\n".join(_aligned(line) for line in lines)
        out += [rf"\section*{{{_prose(heading)}}}", r"\begin{align*}", rows, r"\end{align*}"]
    return "\n".join([*out, r"\end{document}"]) + "\n"


def _aligned(line: Line) -> str:
    """Return the rows of one line: an equals sign begins each."""
    steps = [f"&= {formula(step)}" for step in line.steps]
    if line.equation:
        steps[0] += f" && {_name(line)}"
    return f"{formula(line.symbol)} " + " \\\\\n".join(steps)


def _name(line: Line) -> str:
    """Return the name of its equation, or the equation itself, within a formula."""
    return formula(line.equation) if "→" in line.equation else rf"\text{{{line.equation}}}"


def _prose(text: str) -> str:
    """Return a text for LaTeX outside of formulas; what only formulas have is put in one."""
    parts = re.split(r"(∂\w/∂\w|[δη→])", text)
    escaped = [re.sub(r"([#$%&_{}])", r"\\\1", part) for part in parts[::2]]
    maths = [f"${formula(part).strip()}$" for part in parts[1::2]] + [""]
    return "".join(a + b for a, b in zip(escaped, maths, strict=True))


def markdown(working: Explanation) -> str:
    r"""Return the working as Markdown, with formulas that Jupyter and GitHub typeset.

    Args:
        working: what `nnjax.explain` returned.

    Example:
        >>> import jax, nnjax
        >>> from nnjax.handout import markdown
        >>> net = nnjax.mlp([1, 1], loss=nnjax.quadratic)
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> lines = markdown(nnjax.explain(net, params, [0.5], [1.0])).splitlines()
        >>> lines[0], lines[4][:33]
        ('# One training step of 1 → 1, quadratic, η = 1', '$$z^{1}_{1} = w^{1}_{11} x_{1} + ')
    """
    require_instance(working, Explanation, "working", "what nnjax.explain returns")
    out = [f"# {working.title}"]
    for heading, lines in working.sections():
        out.append(f"## {heading}")
        for line in lines:
            chain = " = ".join(map(formula, [line.symbol, *line.steps]))
            name = rf" \qquad {_name(line)}" if line.equation else ""
            out.append(f"$${chain}{name}$$")
    return "\n\n".join(out) + "\n"
