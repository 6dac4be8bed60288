"""`nnjax check` and `nnjax explain`: is a gradient right, and one training step by hand."""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import tyro

__all__ = ["Check", "Explain", "load_function"]

Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu", "absolute", "identity", "softmax"]
Loss = Literal["quadratic", "cross_entropy", "log_likelihood"]


@dataclass(frozen=True)
class Check:
    """Is a gradient right, and if not, which term is wrong? Exit status 1 where it is wrong.

    With FILE.py:FUNCTION, a backpropagation of the network that --sizes describes, called with
    (params, x, y). With FILE.py:LOSS FILE.py:GRADIENT, the gradient of any scalar JAX function.
    With nothing, every layer, activation and loss of nnjax, on this machine and device.
    """

    functions: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """FILE.py:FUNCTION of a backpropagation, or FILE.py:LOSS FILE.py:GRADIENT."""
    sizes: tuple[int, ...] = (11, 7, 5, 3)
    """Sizes of the layers, from the input to the output; equal sizes hide fewer mistakes."""
    activation: Activation = "sigmoid"
    """Activation function of the hidden layers."""
    output: Activation | None = None
    """Activation function of the output layer; else softmax for log_likelihood, sigmoid."""
    loss: Loss = "cross_entropy"
    """The loss."""
    arguments: str = "example_arguments"
    """The function in LOSS's file that returns a tuple of example arguments, the first of which the
    gradient is for."""
    seed: int = 0
    """Of the random points."""
    time_limit: float = 60.0
    """Seconds that one call may take."""
    json: bool = False
    """Print the report as JSON."""

    def __call__(self) -> int:
        if not self.functions:
            return self._prove()
        if len(self.functions) == 1:
            report = self._backprop(load_function(self.functions[0]))
        elif len(self.functions) == 2:
            report = self._gradient(*map(load_function, self.functions))
        else:
            raise ValueError(
                f"check takes one or two functions, FILE.py:NAME; {len(self.functions)} came"
            )
        print(report.to_json() if self.json else report.render(color=_colored()))
        return 0 if report.ok else 1

    def _backprop(self, function: Callable) -> Any:
        from nnjax.gradcheck import check_backprop

        return check_backprop(
            _network(self.sizes, self.activation, self.output, self.loss),
            function,
            seed=self.seed,
            time_limit=self.time_limit,
            repeat=self._command(),
        )

    def _gradient(self, f: Callable, grad_f: Callable) -> Any:
        from nnjax.gradcheck import check_gradient

        file = self.functions[0].rpartition(":")[0]
        arguments = load_function(f"{file}:{self.arguments}")()
        if not isinstance(arguments, tuple):
            arguments = (arguments,)
        return check_gradient(
            f, grad_f, *arguments, time_limit=self.time_limit, repeat=self._command()
        )

    def _command(self) -> str:
        """Return the command that repeats the check."""
        words = ["nnjax", "check", *self.functions]
        if len(self.functions) == 1:
            words += ["--sizes", *map(str, self.sizes)]
        for name in ("activation", "output", "loss", "arguments", "seed", "time_limit"):
            if getattr(self, name) != getattr(type(self), name):
                words += [f"--{name.replace('_', '-')}", str(getattr(self, name))]
        return shlex.join(words)

    def _prove(self) -> int:
        import jax

        from nnjax.gradcheck.self_check import self_check

        proofs = []
        if not self.json:
            print(f"Gradients by hand against autodiff, float64, on {jax.devices()[0]}:\n")
        for proof in self_check():
            proofs.append(proof)
            if not self.json:
                worst = max(leaf.relative_error for leaf in proof.report.leaves)
                print(
                    f"  {proof.report.verdict:<12}{proof.kind:<17}{proof.name:<28}{worst:.0e}",
                    flush=True,
                )
        wrong = [proof for proof in proofs if not proof.report.ok]
        if self.json:
            import json

            print(json.dumps([proof.report.to_dict() for proof in proofs], default=str))
        else:
            for proof in wrong:
                print(f"\n{proof.report.render(color=_colored())}")
            print(f"\n{len(proofs) - len(wrong)} of {len(proofs)} are right.")
        return 1 if wrong else 0


@dataclass(frozen=True)
class Explain:
    """One training step of a small network as worked by hand, every number with its equation.

    Weights and biases are random unless they are given, layer by layer and row by row.
    """

    sizes: tuple[int, ...] = (2, 2, 1)
    """Sizes of the layers, from the input to the output."""
    activation: Activation = "sigmoid"
    """Activation function of the hidden layers."""
    output: Activation | None = None
    """Activation function of the output layer; else softmax for log_likelihood, sigmoid."""
    loss: Loss = "quadratic"
    """The loss."""
    x: tuple[float, ...] = ()
    """The input; else random numbers."""
    y: tuple[float, ...] = ()
    """The target; else 1 for the first output and 0 for the others."""
    weights: tuple[float, ...] = ()
    """All weights; else random numbers."""
    biases: tuple[float, ...] = ()
    """All biases; else random numbers."""
    rate: float = 1.0
    """The learning rate η."""
    seed: int = 0
    """Of what is random."""
    json: bool = False
    """Print the working as JSON."""

    def __call__(self) -> int:
        import json

        import jax
        import numpy as np

        from nnjax.explain import explain
        from nnjax.layers import Affine
        from nnjax.network import init

        with jax.enable_x64(True):
            net = _network(self.sizes, self.activation, self.output, self.loss)
            rng = np.random.default_rng(self.seed)
            params = init(net, jax.random.key(self.seed))
            w = _numbers(self.weights, "weights", sum(p.w.size for p in params))
            b = _numbers(self.biases, "biases", sum(p.b.size for p in params))
            filled = []
            for p in params:
                new_w = p.w if w is None else np.array(w[: p.w.size]).reshape(p.w.shape)
                new_b = p.b if b is None else np.array(b[: p.b.size])
                filled.append(Affine(jax.numpy.asarray(new_w), jax.numpy.asarray(new_b)))
                w, b = w and w[p.w.size :], b and b[p.b.size :]
            n_in, n_out = self.sizes[0], self.sizes[-1]
            x = _numbers(self.x, "x", n_in) or rng.normal(size=n_in).round(2).tolist()
            y = _numbers(self.y, "y", n_out) or [1.0] + [0.0] * (n_out - 1)
            working = explain(net, tuple(filled), np.array([x]), np.array([y]), self.rate)
        print(json.dumps(working.to_dict(), ensure_ascii=False) if self.json else working)
        return 0


def _numbers(given, name, count):
    """Return a list of numbers, None where none are given; refuse another count."""
    if given and len(given) != count:
        raise ValueError(f"{name} has {len(given)} numbers; the network takes {count}")
    return list(given) or None


def _network(sizes, activation, output, loss):
    from nnjax import activations, losses
    from nnjax.network import mlp

    return mlp(
        sizes,
        activation=getattr(activations, activation),
        output=None if output is None else getattr(activations, output),
        loss=getattr(losses, loss),
    )


def load_function(named: str) -> Callable:
    """Return the function that FILE.py:NAME names.

    Raises:
        ValueError: if it names no file and function, or the file cannot be run.
        FileNotFoundError: if there is no such file.

    Example:
        >>> from nnjax.cli.check import load_function
        >>> load_function("mine.py")
        Traceback (most recent call last):
        ...
        ValueError: 'mine.py' names no function; expected FILE.py:FUNCTION
    """
    file, colon, name = named.rpartition(":")
    if not colon or not file or not name:
        raise ValueError(f"{named!r} names no function; expected FILE.py:FUNCTION")
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{file} is not there; expected FILE.py:FUNCTION")
    function = getattr(_run(path), name, None)
    if not callable(function):
        held = sorted(
            key
            for key, value in vars(_run(path)).items()
            if callable(value) and getattr(value, "__module__", None) == _module_name(path)
        )
        raise ValueError(
            f"{file} has no function {name}; it has {', '.join(held) if held else 'none'}"
        )
    return function


_MODULES: dict[str, ModuleType] = {}


def _module_name(path):
    return f"nnjax_checked_{path.stem}"


def _run(path: Path) -> ModuleType:
    """Return the file as a module, run once, with its own folder to import from."""
    where = str(path.resolve())
    if where not in _MODULES:
        spec = importlib.util.spec_from_file_location(_module_name(path), where)
        if spec is None or spec.loader is None:
            raise ValueError(f"{path} is no Python file; expected FILE.py:FUNCTION")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        sys.path.insert(0, str(path.resolve().parent))
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            message = " ".join(str(error).split())
            raise ValueError(f"{path} cannot be run: {type(error).__name__}: {message}") from error
        finally:
            sys.path.pop(0)
        _MODULES[where] = module
    return _MODULES[where]


def _colored() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
