"""`nnjax check`: is a gradient right, and if not, which term is wrong?"""

from __future__ import annotations

import importlib.util
import inspect
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import tyro

from nnjax.cli.choices import Loss, Output
from nnjax.cli.console import busy

__all__ = ["Check", "load_function", "network"]


@dataclass(frozen=True)
class Check:
    """Is a gradient right, and if not, which term is wrong? Exit status 1 where it is wrong.

    With FILE.py:FUNCTION, a backpropagation of the network that --sizes describes, called with
    (params, x, y). With FILE.py:FORWARD FILE.py:BACKWARD, any scalar function and its gradient, a
    function and its pull-back, or `out, cache = forward(...)` and `backward(dout, cache)`, of JAX
    or NumPy. With nothing, every layer, activation and loss of nnjax, on this machine and device.
    """

    functions: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """FILE.py:FUNCTION of a backpropagation, or FILE.py:FORWARD FILE.py:BACKWARD."""
    shapes: tuple[str, ...] = ()
    """Shapes of FORWARD's arguments, such as 5x4 or scalar: they are filled with random numbers."""
    npz: Path | None = None
    """A .npz file with FORWARD's arguments, by name or in its order."""
    argnums: tuple[int, ...] = ()
    """Which arguments the gradient is for, counted from 0 (default: the first)."""
    trace: bool = False
    """Show how large the gradient of FILE.py:FUNCTION is, line by line, and where NaN begins."""
    bounds: tuple[float, float] | None = None
    """With --trace: between which sizes it should lie."""
    example: str | None = None
    """Write NAME.py, a file with a mistake to try this on: softmax, layer_norm, rnn or network."""
    sizes: tuple[int, ...] = (11, 7, 5, 3)
    """Sizes of the layers, from the input to the output; equal sizes hide fewer mistakes."""
    activation: Output = "sigmoid"
    """Activation function of the hidden layers."""
    output: Output | None = None
    """Activation function of the output layer; else softmax for log_likelihood, sigmoid."""
    loss: Loss = "cross_entropy"
    """The loss."""
    arguments: str = "example_arguments"
    """The function in FORWARD's file that returns a tuple of example arguments."""
    seed: int = 0
    """Random seed."""
    time_limit: float = 60.0
    """Seconds that one call may take."""
    json: bool = False
    """Print the report as JSON."""

    def __call__(self) -> int:
        if self.example is not None:
            return self._example(self.example)
        if self.trace:
            return self._trace()
        if not self.functions:
            return self._prove()
        if len(self.functions) > 2:
            raise ValueError(
                f"check takes one or two functions, FILE.py:NAME; {len(self.functions)} came"
            )
        check = self._backprop if len(self.functions) == 1 else self._gradient
        with busy("checking"):
            report = check(*map(load_function, self.functions))
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

    def _gradient(self, forward: Callable, backward: Callable) -> Any:
        from nnjax.gradcheck import check_forward_backward, check_gradient, check_vjp
        from nnjax.gradcheck.forms import is_scalar, scalar_in, takes

        arguments = self._example_arguments(forward)
        out = forward(*arguments)
        options: dict[str, Any] = {"time_limit": self.time_limit, "repeat": self._command()}
        if is_scalar(scalar_in(out)) or self.argnums:
            return check_gradient(forward, backward, *arguments, argnums=self._argnums(), **options)
        if not isinstance(out, tuple) and takes(backward, len(arguments) + 1):
            return check_vjp(forward, backward, *arguments, **options)
        if not isinstance(out, tuple) and not takes(backward, 1):
            return check_gradient(forward, backward, *arguments, **options)
        return check_forward_backward(forward, backward, *arguments, **options)

    def _argnums(self) -> int | tuple[int, ...]:
        return self.argnums if len(self.argnums) > 1 else (*self.argnums, 0)[0]

    def _example_arguments(self, function: Callable) -> tuple:
        """Return what to call a function with: from a file, of given shapes, or its own."""
        import numpy as np

        if self.npz is not None and self.shapes:
            raise ValueError("--npz and --shapes were both given; one of them is enough")
        if self.npz is not None:
            with np.load(self.npz) as held:
                arrays = dict(held)
            names = list(inspect.signature(function).parameters)
            if set(arrays) <= set(names):
                return tuple(arrays[name] for name in names if name in arrays)
            return tuple(arrays.values())
        if self.shapes:
            rng = np.random.default_rng(self.seed)
            return tuple(rng.normal(size=_shape(shape)) for shape in self.shapes)
        file = self.functions[0].rpartition(":")[0]
        try:
            arguments = load_function(f"{file}:{self.arguments}")()
        except ValueError as error:
            if self.arguments != type(self).arguments:
                raise
            raise ValueError(f"{error}; or give --shapes or --npz") from None
        return arguments if isinstance(arguments, tuple) else (arguments,)

    def _trace(self) -> int:
        from nnjax.gradcheck import trace_gradient

        if len(self.functions) != 1:
            raise ValueError(f"--trace takes one FILE.py:FUNCTION; {len(self.functions)} came")
        function = load_function(self.functions[0])
        found = trace_gradient(
            function,
            *self._example_arguments(function),
            argnums=self._argnums(),
            bounds=self.bounds,
        )
        print(found.to_json() if self.json else found)
        return 0 if found.ok else 1

    def _example(self, name: str) -> int:
        from nnjax.gradcheck.exercise import EXERCISES, write_exercise

        path = Path(f"{name}.py")
        title = write_exercise(path, self.seed, 2, name=name)
        command = EXERCISES[name].command.format(file=path)
        print(f"Wrote {path}: {title}, with one mistake in its gradient. Now run\n\n  {command}")
        return 0

    def _command(self) -> str:
        """Return the command that repeats the check."""
        words = ["nnjax", "check", *self.functions]
        if len(self.functions) == 1:
            words += ["--sizes", *map(str, self.sizes)]
        for name in ("shapes", "npz", "argnums", "activation", "output", "loss", "arguments"):
            words += self._option(name)
        for name in ("seed", "time_limit"):
            words += self._option(name)
        return shlex.join(words)

    def _option(self, name: str) -> list[str]:
        value = getattr(self, name)
        if value == getattr(type(self), name):
            return []
        values = value if isinstance(value, tuple) else (value,)
        return [f"--{name.replace('_', '-')}", *map(str, values)]

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


def _shape(text):
    """Return the shape that is written as 5x4, 5,4 or scalar."""
    if text in ("scalar", "()"):
        return ()
    try:
        shape = tuple(
            int(size) for size in text.replace("x", ",").replace("×", ",").split(",") if size
        )
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise ValueError(f"{text!r} in --shapes is not a shape; expected such as 5x4, 7 or scalar")
    return shape


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
            raise ValueError(f"{path} is not a Python file; expected FILE.py:FUNCTION")
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
