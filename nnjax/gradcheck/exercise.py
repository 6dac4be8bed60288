"""Exercises: files with one planted mistake in a gradient, to be found and fixed.

Each is a right program and a list of slips, a fragment and what stands in its place; the seed picks
one. The first line of the file says which exercise it is, so that it can be judged later.
"""

from __future__ import annotations

import random
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from nnjax.checks import did_you_mean
from nnjax.gradcheck.backprop import check_backprop
from nnjax.gradcheck.check import check_forward_backward, check_gradient
from nnjax.gradcheck.forms import raised
from nnjax.gradcheck.report import GradientReport

__all__ = ["EXERCISES", "Exercise", "Judgement", "Slip", "judge", "write_exercise"]


class Slip(NamedTuple):
    """A mistake to plant.

    Attributes:
        difficulty: 1 to 3.
        right, wrong: a fragment of the program, and what is planted in its place.
    """

    difficulty: int
    right: str
    wrong: str


class Exercise(NamedTuple):
    """A program with a right gradient.

    Attributes:
        kind: "network" or "function".
        title: what it is, in words.
        source: the program.
        slips: the mistakes that can be planted.
        command: that checks a file with it.
        check: its names ↦ the report on it.
    """

    kind: str
    title: str
    source: str
    slips: tuple[Slip, ...]
    command: str
    check: Callable[[dict], GradientReport]


SOFTMAX = '''
import numpy as np


def loss_and_gradient(w, x, labels):
    """Softmax regression: the mean of −log p of the right class, and its gradient."""
    z = x @ w
    z = z - z.max(axis=1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    n = len(labels)
    loss = -np.mean(np.log(p[np.arange(n), labels]))
    dz = np.array(p)
    dz[np.arange(n), labels] -= 1
    dz = dz / n
    return loss, x.T @ dz


def example_arguments():
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, 3)), rng.normal(size=(5, 4)), np.array([0, 2, 1, 1, 0])
'''

LAYER_NORM = '''
import numpy as np


def forward(x, gamma, beta):
    """Layer normalisation of every row of x."""
    mean = np.mean(x, axis=1, keepdims=True)
    centred = x - mean
    var = np.mean(centred**2, axis=1, keepdims=True)
    inv = 1 / np.sqrt(var + 1e-5)
    normed = centred * inv
    return gamma * normed + beta, (centred, inv, normed, gamma)


def backward(dout, cache):
    centred, inv, normed, gamma = cache
    n = centred.shape[1]
    dbeta = dout.sum(axis=0)
    dgamma = (dout * normed).sum(axis=0)
    dnormed = dout * gamma
    dinv = (dnormed * centred).sum(axis=1, keepdims=True)
    dvar = -0.5 * inv**3 * dinv
    dcentred = dnormed * inv + 2 / n * centred * dvar
    dmean = -dcentred.sum(axis=1, keepdims=True)
    return dcentred + dmean / n, dgamma, dbeta


def example_arguments():
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 6)), rng.normal(size=6), rng.normal(size=6)
'''

RNN = '''
import numpy as np


def forward(x, w, u, b):
    """A recurrent layer: hᵗ = tanh(w xᵗ + u hᵗ⁻¹ + b), for every time step t."""
    h = np.zeros(len(b))
    states = [h]
    for t in range(len(x)):
        h = np.tanh(w @ x[t] + u @ h + b)
        states.append(h)
    return np.stack(states[1:]), (x, w, u, states)


def backward(dout, cache):
    x, w, u, states = cache
    dx, dw, du = np.zeros(x.shape), np.zeros(w.shape), np.zeros(u.shape)
    db, dh = np.zeros(len(u)), np.zeros(len(u))
    for t in reversed(range(len(x))):
        dh = dh + dout[t]
        dz = dh * (1 - states[t + 1] ** 2)
        dx[t] = w.T @ dz
        dw += np.outer(dz, x[t])
        du += np.outer(dz, states[t])
        db += dz
        dh = u.T @ dz
    return dx, dw, du, db


def example_arguments():
    rng = np.random.default_rng(0)
    shapes = (4, 2), (3, 2), (3, 3), (3,)
    return tuple(rng.normal(size=shape) for shape in shapes)
'''

NETWORK = '''
import numpy as np


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def backprop(params, x, y):
    """The gradient of the mean quadratic loss ½ ‖a − y‖² of a network of sigmoid neurons."""
    activations = [x]
    for w, b in params:
        activations.append(sigmoid(activations[-1] @ w.T + b))
    a = activations[-1]
    delta = (a - y) * a * (1 - a)
    grads = []
    for l in range(len(params) - 1, -1, -1):
        w, b = params[l]
        a = activations[l]
        grads.insert(0, (delta.T @ a / len(x), delta.mean(axis=0)))
        delta = delta @ w * a * (1 - a)
    return grads
'''


def _of_pair(names):
    return check_gradient(names["loss_and_gradient"], *names["example_arguments"]())


def _of_passes(names):
    arguments = names["example_arguments"]()
    return check_forward_backward(names["forward"], names["backward"], *arguments)


def _of_network(names):
    from nnjax.losses import quadratic
    from nnjax.network import mlp

    return check_backprop(mlp([4, 4, 4, 4], loss=quadratic), names["backprop"])


EXERCISES = {
    "softmax": Exercise(
        "function",
        "softmax regression",
        SOFTMAX,
        (
            Slip(1, "    dz = dz / n\n", "    dz = dz * n\n"),
            Slip(1, "labels] -= 1", "labels] += 1"),
            Slip(2, "    dz = dz / n\n", "    dz = dz / dz.size\n"),
            Slip(3, "    dz = np.array(p)\n", "    dz = np.array(p) * (1 - p)\n"),
        ),
        "nnjax check {file}:loss_and_gradient {file}:loss_and_gradient",
        _of_pair,
    ),
    "layer_norm": Exercise(
        "function",
        "layer normalisation",
        LAYER_NORM,
        (
            Slip(1, "dnormed = dout * gamma", "dnormed = dout"),
            Slip(1, "return dcentred + dmean / n,", "return dcentred - dmean / n,"),
            Slip(2, "inv**3", "inv**2"),
            Slip(2, "return dcentred + dmean / n,", "return dcentred,"),
            Slip(3, "2 / n * centred", "1 / n * centred"),
            Slip(3, "-0.5 * inv**3", "-0.5 * inv"),
        ),
        "nnjax check {file}:forward {file}:backward",
        _of_passes,
    ),
    "rnn": Exercise(
        "function",
        "a recurrent layer",
        RNN,
        (
            Slip(1, "        db += dz\n", "        db = dz\n"),
            Slip(1, "(1 - states[t + 1] ** 2)", "(1 - states[t + 1])"),
            Slip(2, "dh = u.T @ dz", "dh = u @ dz"),
            Slip(2, "        dh = dh + dout[t]\n", "        dh = dout[t]\n"),
            Slip(3, "np.outer(dz, states[t])", "np.outer(dz, states[t + 1])"),
            Slip(3, "(1 - states[t + 1] ** 2)", "(1 - states[t] ** 2)"),
        ),
        "nnjax check {file}:forward {file}:backward",
        _of_passes,
    ),
    "network": Exercise(
        "network",
        "the backpropagation of a network",
        NETWORK,
        (
            Slip(1, "(a - y) * a * (1 - a)", "(y - a) * a * (1 - a)"),
            Slip(1, "delta.mean(axis=0)", "delta.sum(axis=0)"),
            Slip(2, "(a - y) * a * (1 - a)", "a - y"),
            Slip(2, "delta @ w * a * (1 - a)", "delta @ w"),
            Slip(3, "delta @ w * a", "delta @ w.T * a"),
            Slip(3, "delta @ w * a * (1 - a)", "delta @ w * (1 - a)"),
        ),
        "nnjax check {file}:backprop --sizes 4 4 4 4 --loss quadratic",
        _of_network,
    ),
}
"""The exercises by name."""

HEADER = "# nnjax exercise: {name}, difficulty {difficulty}, seed {seed}"


def _planted(name: str, difficulty: int, seed: int) -> tuple[str, int]:
    """Return the program with a mistake, and the line that it is in."""
    exercise = EXERCISES[name]
    slips = [slip for slip in exercise.slips if slip.difficulty == difficulty]
    slip = random.Random(seed).choice(slips)
    header = HEADER.format(name=name, difficulty=difficulty, seed=seed)
    before, after = exercise.source.split(slip.right)
    line = before.count("\n") + 1
    return f"{header}{before}{slip.wrong}{after}", line


def write_exercise(
    path: Path, seed: int = 0, difficulty: int = 1, kind: str | None = None, name: str | None = None
) -> str:
    """Write a file with one planted mistake and return what it is about, in words.

    Args:
        path: of a file that is not there yet.
        seed: picks the program and the mistake.
        difficulty: 1, 2 or 3.
        kind: "network" or "function"; None: either.
        name: one of `EXERCISES`, in place of a random one.

    Raises:
        FileExistsError: if there is such a file.
        ValueError: if there is no exercise of that name, kind or difficulty.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "exercise.py"
        >>> write_exercise(path, name="rnn")
        'a recurrent layer'
        >>> judge(path).mended
        False
    """
    if difficulty not in (1, 2, 3):
        raise ValueError(f"difficulty is {difficulty!r}; expected 1, 2 or 3")
    names = [one for one, held in EXERCISES.items() if kind in (None, held.kind)]
    if name is not None and name not in EXERCISES:
        raise ValueError(
            f"there is no example {name!r}{did_you_mean(name, EXERCISES)}; expected one of "
            f"{', '.join(EXERCISES)}"
        )
    if not names:
        raise ValueError(f"kind is {kind!r}; expected network or function")
    name = name or random.Random(f"{seed} {difficulty}").choice(names)
    source, _ = _planted(name, difficulty, seed)
    with path.open("x", encoding="utf-8") as file:
        file.write(source)
    return EXERCISES[name].title


class Judgement(NamedTuple):
    """How far somebody has come with an exercise.

    Attributes:
        found: whether the line with the mistake has been changed.
        mended: whether the gradient is right.
        line: where the mistake was planted.
        report: what the check says.
    """

    found: bool
    mended: bool
    line: int
    report: GradientReport


def judge(path: Path) -> Judgement:
    """Return whether the mistake in an exercise is found and fixed.

    Raises:
        ValueError: if the file is not an exercise, or cannot be run.
    """
    text = path.read_text(encoding="utf-8")
    words = text.partition("\n")[0].replace(",", " ").split()
    try:
        name, difficulty, seed = words[3], int(words[5]), int(words[7])
        planted, line = _planted(name, difficulty, seed)
    except (LookupError, ValueError):
        raise ValueError(
            f"{path} is not an exercise: its first line is not the one that nnjax exercise writes"
        ) from None
    try:
        report = EXERCISES[name].check(runpy.run_path(str(path)))
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path} cannot be checked: it {raised(error)}") from error
    wrong = planted.splitlines()[line - 1]
    return Judgement(wrong not in text.splitlines(), report.ok, line, report)
