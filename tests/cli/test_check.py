"""nnjax check and nnjax explain on the command line: reports, exit statuses, bad input."""

import json
import textwrap

import pytest

pytest.importorskip("tyro")

from nnjax.cli import main
from nnjax.cli.check import load_function

SOURCE = """
import numpy as np
import jax.numpy as jnp


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def backprop(params, x, y, slope=lambda z, a: a * (1 - a)):
    activations = [x]
    for w, b in params:
        activations.append(sigmoid(np.asarray(w) @ activations[-1] + np.reshape(b, (-1, 1))))
    delta = (activations[-1] - y) * slope(None, activations[-1])
    nabla_b, nabla_w = [delta], [delta @ activations[-2].T]
    for l in range(len(params) - 1, 0, -1):
        delta = (np.asarray(params[l].w).T @ delta) * slope(None, activations[l])
        nabla_b.insert(0, delta)
        nabla_w.insert(0, delta @ activations[l - 1].T)
    return nabla_b, nabla_w


def without_slope(params, x, y):
    return backprop(params, x, y, slope=lambda z, a: 1)


def loss(w, x):
    return jnp.mean((x @ w) ** 2)


def gradient(w, x):
    return 2 * x.T @ (x @ w) / len(x)


def half_gradient(w, x):
    return x.T @ (x @ w) / len(x)


def example_arguments():
    return np.ones(3), np.arange(15.0).reshape(5, 3)


def integers():
    return np.arange(3), np.arange(15.0).reshape(5, 3)


def outputs(w, x):
    return x @ w


def leaves(*arguments):
    raise SystemExit(3)


not_a_function = 3
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("mine") / "mine.py"
    path.write_text(textwrap.dedent(SOURCE))
    return path


def test_a_backpropagation_of_ones_own(file, capsys):
    command = ["check", f"{file}:backprop", "--sizes", "7", "5", "3", "--loss", "quadratic"]
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("RIGHT")
    command[1] = f"{file}:without_slope"
    assert main(command) == 1
    out = capsys.readouterr().out
    assert out.startswith("WRONG")
    assert "σ' missing (every layer)" in out
    assert f"repeat    nnjax check {file}:without_slope --sizes 7 5 3 --loss" in " ".join(
        out.split()
    ).replace("repeat ", "repeat    ")
    assert "\x1b[" not in out


def test_a_gradient_of_ones_own(file, capsys):
    assert main(["check", f"{file}:loss", f"{file}:gradient"]) == 0
    capsys.readouterr()
    assert main(["check", f"{file}:loss", f"{file}:half_gradient", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["findings"][0]["name"] == "factor ½"
    assert report["verdict"] == "RIGHT BY ANOTHER CONVENTION"


@pytest.mark.parametrize(
    ("sentence", "command"),
    [
        ("names no function; expected FILE.py:FUNCTION", ["check", "mine.py"]),
        ("nowhere.py is not there", ["check", "nowhere.py:backprop"]),
        ("has no function bakprop; it has backprop, example_arguments", ["check", "{}:bakprop"]),
        ("has no function not_a_function", ["check", "{}:not_a_function"]),
        ("takes one or two functions, FILE.py:NAME; 3 came", ["check", *["{}:loss"] * 3]),
        ("has no function nothing", ["check", "{}:loss", "{}:gradient", "--arguments", "nothing"]),
        (
            "argument 0 has dtype int",
            ["check", "{}:loss", "{}:gradient", "--arguments", "integers"],
        ),
        ("a gradient needs a real scalar", ["check", "{}:outputs", "{}:gradient"]),
        ("a size in sizes is 0; expected", ["check", "{}:backprop", "--sizes", "3", "0"]),
        ("x has 3 numbers; the network takes 2", ["explain", "--x", "1", "2", "3"]),
        ("weights has 1 numbers; the network takes 6", ["explain", "--weights", "1"]),
        ("would have", ["explain", "--sizes", "100", "100", "10"]),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(sentence, command, file, capsys):
    assert main([word.replace("{}", str(file)) for word in command]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert "Traceback" not in captured.err


def test_a_function_that_ends_the_program_is_reported(file, capsys):
    assert main(["check", f"{file}:leaves"]) == 1
    assert "raises SystemExit: 3" in capsys.readouterr().out


def test_a_file_that_does_not_run_is_one_sentence(tmp_path, capsys):
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_this_name\n")
    assert main(["check", f"{broken}:f"]) == 2
    assert "cannot be run: ModuleNotFoundError" in capsys.readouterr().err
    text = tmp_path / "text.txt"
    text.write_text("hello")
    with pytest.raises(ValueError, match=r"text.txt is not a Python file"):
        load_function(f"{text}:f")


def test_the_worked_example(capsys):
    command = "explain --sizes 2 1 --weights 2 3 --biases 0 --x 0.4 0.5 --y 2.4088770 --rate 1"
    assert main(command.split()) == 0
    out = capsys.readouterr().out
    assert "z¹₁ = w¹₁₁ x₁ + w¹₁₂ x₂ + b¹₁ = 2·0.4 + 3·0.5 + 0 = 2.3" in out
    assert "∂C/∂w¹₁₁ = δ¹₁ x₁ = (−0.124229)·0.4 = −0.0496917  [BP4]" in out
    assert "2.04969" in out
    assert main(["explain", "--sizes", "2", "2", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lines"][0]["symbol"] == "z¹₁"


@pytest.mark.slow
def test_the_proof_of_everything(capsys, monkeypatch):
    from nnjax.gradcheck import self_check

    few = {"tanh": self_check.ACTIVATIONS["tanh"]}
    monkeypatch.setattr(self_check, "ACTIVATIONS", {**self_check.ACTIVATIONS})
    monkeypatch.setattr(self_check.losses, "LOSSES", {})
    for name in ("LAYERS", "NETWORKS"):
        monkeypatch.setattr(self_check, name, {})
    monkeypatch.setattr(self_check, "ACTIVATIONS", few)
    assert main(["check"]) == 0
    out = capsys.readouterr().out
    assert "RIGHT       activation       tanh" in out
    assert "4 of 4 are right." in out


PASSES = """
import numpy as np


def forward(x, w):
    h = np.tanh(x @ w)
    return h, (x, w, h)


def backward(dout, cache):
    x, w, h = cache
    dz = dout * (1 - h**2)
    return dz @ w.T, x.T @ dz


def without_slope(dout, cache):
    x, w, h = cache
    return dout @ w.T, x.T @ dout


def tanh(x):
    return np.tanh(x)


def pull_back(x, g):
    return g * (1 - np.tanh(x) ** 2)


def loss(x, w):
    return np.sum(np.sqrt(x @ w - x @ w))


def squares(x, w):
    return np.sum((x @ w) ** 2)


def by_w(x, w):
    return 2 * x.T @ (x @ w)
"""


@pytest.fixture
def passes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(PASSES)
    return tmp_path


@pytest.mark.parametrize(
    ("status", "said", "command"),
    [
        (0, "RIGHT", "mine.py:forward mine.py:backward --shapes 5x4 4,3"),
        (
            1,
            "h = np.tanh(x @ w)",
            "mine.py:forward mine.py:without_slope --shapes 5x4 4,3 --seed 3",
        ),
        (0, "RIGHT", "mine.py:tanh mine.py:pull_back --shapes 7"),
        (0, "RIGHT", "mine.py:squares mine.py:by_w --shapes 5x4 4x3 --argnums 1"),
        (1, "comes up first in mine.py, line", "--trace mine.py:loss --shapes 5x4 4x3"),
        (0, "return np.sum((x @ w) ** 2)", "--trace mine.py:squares --shapes 5x4 4x3"),
        (1, "leave 1e-30 to 1e-20", "--trace mine.py:squares --shapes 2 2 --bounds 1e-30 1e-20"),
    ],
)
def test_any_forward_and_backward_pass(status, said, command, passes, capsys):
    assert main(["check", *command.split()]) == status
    assert said in capsys.readouterr().out


def test_the_arguments_may_come_from_a_file(passes, capsys):
    import numpy as np

    rng = np.random.default_rng(0)
    np.savez("by_name.npz", w=rng.normal(size=(4, 3)), x=rng.normal(size=(5, 4)))
    np.savez("in_order.npz", rng.normal(size=(5, 4)), rng.normal(size=(4, 3)))
    for file in ("by_name.npz", "in_order.npz"):
        assert main(["check", "mine.py:forward", "mine.py:backward", "--npz", file]) == 0
    assert (
        "repeat       nnjax check mine.py:forward mine.py:backward --npz" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("sentence", "command"),
    [
        ("'5y4' in --shapes is not a shape", "mine.py:forward mine.py:backward --shapes 5y4"),
        ("or give --shapes or --npz", "mine.py:forward mine.py:backward"),
        ("both given", "mine.py:forward mine.py:backward --shapes 5x4 --npz a.npz"),
        ("a.npz: No such file", "mine.py:forward mine.py:backward --npz a.npz"),
        ("--trace takes one FILE.py:FUNCTION; 2 came", "--trace mine.py:loss mine.py:loss"),
        ("there is no example 'lstm'", "--example lstm"),
    ],
)
def test_bad_arguments_of_a_pass_are_one_sentence(sentence, command, passes, capsys):
    assert main(["check", *command.split()]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.strip().splitlines()) == 1


def test_an_example_to_try_it_on(passes, capsys):
    assert main(["check", "--example", "layer_norm"]) == 0
    command = capsys.readouterr().out.splitlines()[-1].split()
    assert command[:2] == ["nnjax", "check"]
    assert main(command[1:]) == 1
    assert "layer_norm.py, line" in capsys.readouterr().out
    assert main(["check", "--example", "layer_norm"]) == 2  # nothing is overwritten
    assert "layer_norm.py: File exists" in capsys.readouterr().err


@pytest.mark.slow
def test_an_exercise_from_beginning_to_end(passes, capsys):
    from nnjax.gradcheck.exercise import EXERCISES

    assert main(["exercise", "--kind", "network"]) == 0
    assert "Wrote exercise.py: the backpropagation of a network" in capsys.readouterr().out
    assert main(["exercise"]) == 1
    assert "Not found yet: the gradient is wrong." in capsys.readouterr().out
    assert main(["exercise", "--solution"]) == 1
    assert "The mistake was planted in line" in capsys.readouterr().out
    path = passes / "exercise.py"
    path.write_text(path.read_text().partition("\n")[0] + EXERCISES["network"].source)
    assert main(["exercise", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mended"] is True
    assert main(["exercise"]) == 0
    assert "Found and fixed" in capsys.readouterr().out
    assert main(["exercise", "mine.py"]) == 2
    assert "mine.py is not an exercise" in capsys.readouterr().err
