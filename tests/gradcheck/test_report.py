"""The report: 80 columns, the line with a caret, parts of arrays, HTML, JSON."""

import json

import jax.numpy as jnp
import numpy as np

from nnjax.gradcheck import check_gradient

X = np.random.default_rng(0).normal(size=(4, 6))


def layer_norm_of_a_name_that_is_long_enough_to_be_cut(the_only_argument_of_this_function):
    x = the_only_argument_of_this_function
    mu = jnp.mean(x, axis=1, keepdims=True)
    var = jnp.mean((x - mu) ** 2, axis=1, keepdims=True)
    return jnp.sum(jnp.sin((x - mu) / jnp.sqrt(var + 1e-5)))


def without_the_variance(x):
    x = np.asarray(x)
    mu = x.mean(axis=1, keepdims=True)
    inv = 1 / np.sqrt(((x - mu) ** 2).mean(axis=1, keepdims=True) + 1e-5)
    d = np.cos((x - mu) * inv) * inv
    return d - d.mean(axis=1, keepdims=True)


REPORT = check_gradient(layer_norm_of_a_name_that_is_long_enough_to_be_cut, without_the_variance, X)


def test_text_of_80_columns_with_the_line_and_a_caret():
    lines = str(REPORT).splitlines()
    assert max(map(len, lines)) <= 80
    (place,) = (
        i for i, line in enumerate(lines) if line.strip().startswith("test_report.py, line")
    )
    assert "var = jnp.mean" in lines[place + 1]
    assert lines[place + 2].strip() == "^"
    assert 0 <= lines[place + 2].index("^") - lines[place + 1].index("var") < 60


def test_findings_have_what_a_program_asks_for():
    (finding,) = REPORT.findings
    assert "left out" in finding.name
    assert finding.file == __file__
    assert finding.source.strip().startswith("var = ")
    assert finding.line > 0
    assert finding.leaves == ("the_only_argument_of_this_function",)
    assert finding.residual < 1e-8
    data = json.loads(REPORT.to_json())
    assert data["findings"][0]["line"] == finding.line
    assert data["verdict"] == "WRONG"


def test_html_for_a_notebook():
    html = REPORT._repr_html_()
    assert html.startswith("<div>")
    assert html.count("<tr>") == 2
    assert "var = jnp.mean((x - mu) ** 2" in html
    assert "<lambda>" not in check_gradient(lambda x: jnp.sum(x), jnp.zeros_like, X)._repr_html_()


def test_which_rows_columns_or_blocks_are_wrong():
    def wrong_in(part, factor):
        def claimed(x):
            out = np.cos(x)
            out[part] *= factor
            return out

        return check_gradient(lambda x: jnp.sum(jnp.sin(x)), claimed, X).leaves[0].part

    assert wrong_in(np.s_[1:3], 2) == "rows 1 to 2 of 4: 2 times what it should be"
    assert wrong_in(np.s_[:, [0, 5]], 3) == "columns 0, 5 of 6: 3 times what it should be"
    block = wrong_in(np.s_[2:, :2], 0.5)
    assert block == "rows 2 to 3 of 4, columns 0 to 1 of 6: 0.5 times what it should be"
    assert wrong_in(([0, 1], [1, 0]), 2) == "2 of 24 entries"


def test_a_line_typed_at_a_prompt_has_no_text_to_show():
    scope = {"jnp": jnp}
    exec(compile("def f(x):\n    y = jnp.sin(x)\n    return jnp.sum(y)", "<stdin>", "exec"), scope)
    report = check_gradient(scope["f"], lambda x: -np.cos(x), X)
    assert report.findings[0].line == 3
    lines = [line.strip() for line in str(report).splitlines()]
    at = lines.index("<stdin>, line 3:")
    assert lines[at + 1] == "(the text of code typed at a prompt is not kept)"
    assert "``" not in str(report)
