"""Expressions: trees of quantities and operations that are evaluated, printed and edited."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from nnjax.activations import LeakyReLU, ReLU
from nnjax.gradcheck.operations import OPERATIONS

__all__ = ["Expression", "Scope", "minus", "number", "plus", "quantity", "times"]

SCALARS = ("number", "t", "1/n", "η", "μ", "λ/n")


class Scope(NamedTuple):
    """What an expression is evaluated in: the quantities by name, the layer, a fitted number."""

    quantities: Mapping[str, Any]
    l: int = 0
    t: float = 0.0


@dataclass(frozen=True)
class Expression:
    """A quantity, such as z^l, or an operation on other expressions.

    Attributes:
        op: the operation, or the name of the quantity.
        parts: what it works on.
        note: of a quantity, the number of layers it is away (None: it belongs to none); of an
            operation, which of its variants.
    """

    op: str
    parts: tuple[Expression, ...] = ()
    note: Any = None

    @property
    def scalar(self) -> bool:
        """Whether it is a single number, not an array."""
        sums = self.op in ("times", "plus", "minus")
        return all(part.scalar for part in self.parts) if sums else self.op in SCALARS

    def value(self, scope: Scope) -> Any:
        """Return its value; LookupError where there is no such quantity."""
        values = [part.value(scope) for part in self.parts]
        match self.op:
            case "number":
                return self.note[0]
            case "t":
                return scope.t
            case "times":
                return functools.reduce(operator.mul, values)
            case "plus":
                return functools.reduce(operator.add, values)
            case "minus":
                return -values[0]
            case "σ'":
                return np.asarray(self.note.derivative(jax.device_put(values[0])))
            case "σ":
                return np.asarray(self.note(jax.device_put(values[0])))
            case "own":
                return np.asarray(scope.quantities["own"](self.note, scope.l, *values))
        if self.op in OPERATIONS:
            return OPERATIONS[self.op][self.note][0](*values)
        found = scope.quantities[self.op]
        return found if self.note is None else found[scope.l + self.note]

    def text(self, sup: Callable[[int], str] = lambda shift: "⁻" * -shift + "⁺" * shift) -> str:
        """Return it as a formula; sup(shift) is what follows the name of a layer's quantity.

        Example:
            >>> quantity("z", 1).text()
            'z⁺'
        """
        said = [part.text(sup) for part in self.parts]
        match self.op:
            case "number":
                return self.note[1]
            case "t":
                return "{t}"
            case "times":
                out = ""
                for part, word in zip(self.parts, said, strict=True):
                    out += f"({word})" if part.op in ("plus", "minus") else word
                    out += " " if part.scalar else " ⊙ "
                return out.removesuffix(" ").removesuffix(" ⊙")
            case "plus":
                return " + ".join(said).replace("+ −", "− ")
            case "minus":
                return f"−({said[0]})" if self.parts[0].op == "plus" else f"−{said[0]}"
            case "σ'":
                return _slope_text(self.note).format(*said)
            case "σ":
                return f"σ({said[0]})"
            case "wᵀδ" if self.parts[0].op == "transposed":
                return f"{self.parts[0].parts[0].text(sup)} {said[1]}"
            case "own":
                return f"∂C/∂a{sup(-1)}"
        if self.op in OPERATIONS:
            return OPERATIONS[self.op][self.note][1].format(*said).strip()
        return self.op + ("" if self.note is None else sup(self.note))


def _slope_text(activation):
    if isinstance(activation, ReLU):
        return "[{0} > 0]"
    if isinstance(activation, LeakyReLU):
        return "(1 where {0} > 0, else the slope)"
    return "σ'({0})"


def quantity(name: str, shift: int | None = 0) -> Expression:
    """Return the quantity of this name in the layer `shift` away; None: it belongs to no layer."""
    return Expression(name, note=shift)


def number(value: Any, text: str) -> Expression:
    """Return a constant."""
    return Expression("number", note=(value, text))


def times(*parts: Expression) -> Expression:
    """Return the product, element by element."""
    return Expression("times", parts)


def plus(*parts: Expression) -> Expression:
    """Return the sum."""
    return Expression("plus", parts)


def minus(part: Expression) -> Expression:
    """Return the expression with the opposite sign."""
    return Expression("minus", (part,))
