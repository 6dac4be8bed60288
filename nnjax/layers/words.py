"""The parts that words for layers are made of: 5, 3x5, :tanh."""

from __future__ import annotations

from typing import Any

from nnjax.activations import ACTIVATIONS, Activation
from nnjax.layers.windows import Pair

__all__ = ["FUNCTION", "PAIR", "activation", "function", "numbers", "pair_text"]

PAIR = r"(\d+(?:x\d+)?)"
FUNCTION = r"(?::(\w+))?"


def numbers(text: str) -> Any:
    """Return 5 for "5", (3, 5) for "3x5".

    Example:
        >>> from nnjax.layers.words import numbers
        >>> numbers("5"), numbers("3x5")
        (5, (3, 5))
    """
    return tuple(map(int, text.split("x"))) if "x" in text else int(text)


def pair_text(values: Pair) -> str:
    """Return "5" for (5, 5), "3x5" for (3, 5).

    Example:
        >>> from nnjax.layers.words import pair_text
        >>> pair_text((5, 5)), pair_text((3, 5))
        ('5', '3x5')
    """
    return "x".join(map(str, values if values[0] != values[1] else values[:1]))


def activation(name: str | None, usual: Activation) -> Activation:
    """Return the activation function of this name, the usual one for None.

    Example:
        >>> import nnjax
        >>> from nnjax.layers.words import activation
        >>> activation("tanh", nnjax.relu), activation(None, nnjax.relu)
        (Tanh(), ReLU())
    """
    if name is not None and name not in ACTIVATIONS:
        raise ValueError(f"no activation {name!r}; there are {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name] if name else usual


def function(activation: Activation) -> str:
    """Return an activation function as the end of a word.

    Example:
        >>> import nnjax
        >>> from nnjax.layers.words import function
        >>> function(nnjax.tanh), function(nnjax.LeakyReLU(0.5))
        (':tanh', ':LeakyReLU(slope=0.5)')
    """
    known = ACTIVATIONS.get(activation.name) == activation
    return f":{activation.name if known else activation}"
