"""`nnjax check`: is a gradient right, and if not, which term is wrong?"""

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

__all__ = ["Activation", "Check", "Loss", "load_function", "network"]

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
            network(self.sizes, self.activation, self.output, self.loss),
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


def network(sizes: tuple[int, ...], activation: str, output: str | None, loss: str) -> Any:
    """Return the network that the options --sizes, --activation, --output and --loss describe."""
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
