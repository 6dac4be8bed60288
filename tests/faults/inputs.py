"""Bad input to every public function and every option, made from their signatures.

Every public function is called with one argument at a time replaced by something that it cannot
be. What is added to nnjax is covered by itself: a required parameter whose name is not known here
fails the test, which says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import random
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from faults.campaign import SENTENCE, SURVIVED, TRACEBACK, WRONG, Tally, judge, refused, run

import nnjax
from nnjax import training
from nnjax.cli.commands import COMMANDS
from nnjax.cli.config import TrainConfig


def examples() -> dict[str, Any]:
    """Good arguments by parameter name, or by `function.parameter` where a name has two uses."""
    net = nnjax.mlp([4, 3, 2], activation=nnjax.tanh)
    key = jax.random.key(0)
    params = nnjax.init(net, key)
    x, y = jax.random.normal(key, (6, 4)), jnp.array([0, 1, 1, 0, 1, 0])
    bp = nnjax.backprop(net, params, x, y)
    recipe = training.Recipe(optimizer=optax.sgd(0.5), batch_size=3)
    data = nnjax.data.Dataset((np.asarray(x), np.asarray(y)), None, None)
    images = jnp.ones((2, 5, 5, 1))
    factors = nnjax.curvature.kronecker_factors(net, params, bp)
    a = nnjax.feedforward(net, params, x)
    many = nnjax.train_many(net, data, {"rate": [0.1, 0.3]}, seeds=1, epochs=1, batch_size=3)
    history = {"epoch": np.arange(2), "train_loss": np.array([0.5, 0.25]), "n": np.ones((2, 3))}
    return {
        "net": net, "params": params, "x": x, "y": y, "key": key, "eta": 0.1, "bp": bp,
        "grid": {"rate": [0.1, 0.3]}, "train_many.seeds": 1, "many_epochs.seeds": 1, "many": many,
        "ensemble.params": jax.tree.map(lambda leaf: leaf[None], params), "across": "rate",
        "up": "rate", "along.name": "rate",
        "seeds": bp.errors[-1][None], "vector": params, "factors": factors, "grads": bp.grads,
        "damping": 0.1, "clip_norm": 1.0, "weights": jnp.ones(6), "a": a, "these": bp.errors,
        "those": bp.errors, "rule": "feedback_alignment", "sizes": [4, 3, 2], "data": data,
        "optimizer": optax.sgd(0.5), "batch_size": 3, "epochs": 1, "recipe": recipe,
        "state": training.initial_state(net, optax.sgd(0.5), key), "records": [{"epoch": 0}],
        "patience": 2, "layer": nnjax.Dense(3), "layers": [nnjax.Dense(2)], "loss": nnjax.quadratic,
        "input_shape": (4,), "n_out": 2, "text": "dense3", "filters": 2, "kernel": 3, "size": 2,
        "rate": 0.5, "strength": 0.1, "limit": 3.0, "scale": 1.0, "mode": "fan_in",
        "distribution": "normal", "f": jnp.sin, "grad_f": jnp.cos, "hand_backprop": nnjax.backprop,
        "matrix": np.eye(3, dtype=int), "histories": {"first": history}, "history": history,
        "name": "n", "predictions": np.array([1, 1, 1, 0, 1, 0]), "activations": [nnjax.relu],
        "l": 2, "value": 0.5, "low": 0, "high": 1, "expected": "a number", "folder": Path("run"),
        "update": lambda w, g: w - 0.1 * g, "lhs": images, "rhs": jnp.ones((3, 3, 1, 2)),
        "window_strides": (1, 1), "padding": "VALID", "path": Path("network.json"),
        "name_or_path": "digits",
        "conv.x": images, "conv.w": jnp.ones((2, 3, 3, 1)), "max_pool.x": images,
        "w": params[0].w, "first_layer.w": jnp.ones((3, 4)), "first_layer.input_shape": (2, 2),
        "convnet.input_shape": (12, 12, 1), "misread.x": images, "misread.y": np.array([0, 1]),
        "misread.predictions": np.array([1, 1]), "Initializer.weights": nnjax.initializers.Normal(),
        "biases": nnjax.initializers.Constant(0.0), "require_size.value": 3,
        "require_activation.value": nnjax.relu, "check": lambda *args: args, "array": x,
        "forward": lambda x: (jnp.sin(x), x), "backward": lambda g, x: g * jnp.cos(x),
        "terms": ["1", "2"], "task": "classification",
        "from_jax.function": jax.nn.silu, "function_name.function": jnp.sin, "word": "dense3",
        "extra": "plots", "split.n": 2, "known": ["dense3"], "kind": object, "dtype": jnp.float32,
    }  # fmt: skip


def bad_values() -> dict[str, Any]:
    """What is put in the place of an argument; nothing can mean the last one."""
    return {
        "None": None,
        "text": "text",
        "-1": -1,
        "NaN": float("nan"),
        "infinity": float("inf"),
        "complex": 1j,
        "2**70": 2**70,
        "a list": [],
        "a dict": {"a": 1},
        "an array of 5 axes": np.ones((1, 2, 1, 2, 3)),
        "an array of text": np.array(["a", "b"]),
        "an empty array": np.zeros((0, 4)),
        "NaN in an array": np.full((6, 4), np.nan),
        "a function": lambda *args: None,
        "an object": object(),
    }


MEANS_ANYTHING = {
    *("name", "title", "expected", "repeat", "args", "options", "value"),
    *("checked.layout", "did_you_mean.word", "install.extra", "function_name.function"),
}
"""Parameters that take any object by design: labels, what is named or passed on."""
ELSEWHERE = {
    *("load_run", "load", "save", "data.load", "book_json.load", "book_json.save"),
    *("ops.conv_general_dilated", "initializers.draw"),
}
"""Functions of files, whose input is mutated by campaigns of their own; and those that pass on to
JAX, as it came, what they do not compute by themselves."""


def functions() -> dict[str, Any]:
    """Public functions and descriptions by name; what only holds results is left out."""
    found: dict[str, Any] = {}
    for name in nnjax.__all__:
        thing = getattr(nnjax, name)
        inner = {name: thing}
        if inspect.ismodule(thing):
            inner = {f"{name}.{n}": getattr(thing, n) for n in thing.__all__}
        for full, function in inner.items():
            checks = dataclasses.is_dataclass(function) and "__post_init__" in vars(function)
            described = inspect.isclass(function) and (checks or function is nnjax.Network)
            wanted = (inspect.isfunction(function) or described) and full not in ELSEWHERE
            if wanted and not any(function is f for f in found.values()):
                found[full] = function
    return found


def call(function, arguments) -> Any:
    """Call a function; where it takes *args, what it requires goes before them."""
    parameters = inspect.signature(function).parameters.values()
    if not any(p.kind == p.VAR_POSITIONAL for p in parameters):
        return function(**arguments)
    before = [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]
    positional = [arguments[name] for name in before if name in arguments]
    options = {name: value for name, value in arguments.items() if name not in before}
    return function(*positional, 0.3, **options)


def required(name: str, function, good: dict[str, Any]) -> dict[str, Any]:
    """Good arguments for everything that a function requires."""
    arguments = {}
    for p in inspect.signature(function).parameters.values():
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            special = f"{name.rpartition('.')[2]}.{p.name}"
            if special not in good and p.name not in good:
                raise LookupError(f"give an example of {special} in tests/faults/inputs.py")
            arguments[p.name] = good.get(special, good.get(p.name))
    return arguments


def to_functions(trials: int, work: Path, seed: int = 0) -> Tally:
    """Call every public function with one argument replaced by a bad one."""
    tally, good = Tally("bad arguments of public functions"), examples()
    cases = [
        (name, function, parameter.name, bad)
        for name, function in functions().items()
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        for bad in bad_values()
    ]
    chosen = cases if trials >= len(cases) else random.Random(seed).sample(cases, trials)
    for name, function, parameter, bad in chosen:
        arguments = required(name, function, good)
        arguments[parameter] = bad_values()[bad]
        what = f"{name}({parameter}={bad})"
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                made = call(function, arguments)
                if inspect.isgenerator(made):
                    next(made)
        except Exception as error:
            outcome = judge(error)
            message = f"{type(error).__name__}: {str(error)[:200]}"
            tally.add(outcome, f"{what}: {message}")
        else:
            own = f"{name.rpartition('.')[2]}.{parameter}"
            meant = bad != "an object" or bool({parameter, own} & MEANS_ANYTHING)
            tally.add(SURVIVED if meant else WRONG, what)
    return tally


def to_options(trials: int, work: Path, seed: int = 0) -> Tally:
    """Give every option of every command something that it cannot be."""
    tally = Tally("bad options of commands")
    x = np.random.default_rng(0).uniform(size=(30, 4)).astype(np.float32)
    np.savez(work / "data.npz", x_train=x, y_train=(x[:, 0] > 0.5).astype(int))
    usual = {
        **{name: [name] for name in COMMANDS},
        "train": ["train", "--data", str(work / "data.npz"), "--epochs", "1"],
        "sweep": [
            "sweep",
            "--data",
            str(work / "data.npz"),
            "--measure",
            "train_loss",
            "--epochs",
            "1",
            "--seeds",
            "1",
        ],
    }
    cases = [
        (name, option, bad)
        for name, kind in COMMANDS.items()
        for option in options(TrainConfig if name == "train" else kind)
        for bad in ("x", "-1", "nan", "inf", "1e999", "", "\x1b[2J", "9" * 40)
    ]
    chosen = cases if trials >= len(cases) else random.Random(seed).sample(cases, trials)
    for number, (name, option, bad) in enumerate(chosen):
        argv = [*usual[name], option, bad]
        if name in ("train", "sweep"):
            argv += ["--out", str(work / f"run-{number}")]
        if name == "exercise":  # a file that is there would be judged
            argv.insert(1, str(work / f"exercise-{number}.py"))
        try:
            status, _, err = run(*argv)
        except Exception as error:
            tally.add(TRACEBACK, f"{argv}: {error!r}")
            continue
        if status == 0:
            tally.add(SURVIVED, str(argv))
        else:
            plain = refused(status, err) and "\x1b" not in err and "tyro" not in err
            tally.add(SENTENCE if plain else TRACEBACK, f"{argv}: {err[-300:]}")
    return tally


def options(kind: Any) -> list[str]:
    """The options of a command, from the fields of its dataclass."""
    return [f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(kind) if f.init]
