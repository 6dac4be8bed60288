"""`nnjax explain`: one training step worked through by hand."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from nnjax.cli.check import network
from nnjax.cli.choices import Loss, Output
from nnjax.cli.console import busy, folded, show
from nnjax.explain import Explanation
from nnjax.files import write_atomically

__all__ = ["Explain"]


@dataclass(frozen=True)
class Explain:
    """One training step of a small network as worked by hand, every number with its equation.

    Weights and biases are random unless they are given, layer by layer and row by row.
    """

    sizes: tuple[int, ...] = (2, 2, 1)
    """Sizes of the layers, from the input to the output."""
    activation: Output = "sigmoid"
    """Activation function of the hidden layers."""
    output: Output | None = None
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
    latex: bool = False
    """Print it as a LaTeX document, for a handout."""
    markdown: bool = False
    """Print it as Markdown with formulas."""
    html: Path | None = None
    """Write it to this file, as a page to be stepped through."""

    def __call__(self) -> int:
        import jax
        import numpy as np

        from nnjax.explain import explain
        from nnjax.layers import Affine
        from nnjax.network import init

        forms = [self.json, self.latex, self.markdown, self.html is not None]
        if sum(forms) > 1:
            raise ValueError("--json, --latex, --markdown and --html are alternatives; give one")
        with jax.enable_x64(True):
            net = network(self.sizes, self.activation, self.output, self.loss)
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
            with busy("computing"):
                working = explain(net, tuple(filled), np.array([x]), np.array([y]), self.rate)
        self._print(working)
        return 0

    def _print(self, working: Explanation) -> None:
        import json

        from nnjax import handout
        from nnjax.page import working_page
        from nnjax.page.html import require_page

        if self.html is not None:
            require_page(self.html)
            write_atomically(self.html, working_page(working).encode())
            show(str(self.html))
        elif self.json:
            print(json.dumps(working.to_dict(), ensure_ascii=False))
        elif self.latex:
            print(handout.latex(working), end="")
        elif self.markdown:
            print(handout.markdown(working))
        elif sys.stdout.isatty():
            print(folded(str(working), shutil.get_terminal_size().columns))
        else:
            print(working)


def _numbers(given, name, count):
    """Return a list of numbers, None where none are given; refuse another count."""
    if given and len(given) != count:
        raise ValueError(f"{name} has {len(given)} numbers; the network takes {count}")
    return list(given) or None
