"""Names, and numbers and indices as formulas print them: w¹₂₃, −0.5, (−0.5)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from numbers import Integral
from typing import Any, ClassVar

from nnjax.checks import require_instance

__all__ = ["Named", "factor", "function_name", "number", "subscript", "superscript", "total"]


class Named:
    """A base of kinds that have a name: one's own subclass is called as its class, or sets it.

    Example:
        >>> from nnjax.notation import Named
        >>> class Swish(Named): ...
        >>> class GELU(Named):
        ...     name = "gelu"
        >>> Swish.name, GELU.name
        ('Swish', 'gelu')
    """

    name: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "name" not in {**vars(cls), **vars(cls).get("__annotations__", {})}:
            cls.name = cls.__name__


def function_name(function: Any) -> str:
    """Return what a function is called; for a `functools.partial`, the function that it holds.

    Example:
        >>> import functools, jax
        >>> from nnjax.notation import function_name
        >>> function_name(functools.partial(jax.nn.gelu, approximate=False))
        'gelu'
    """
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def superscript(l: int) -> str:
    """Return a layer's number as in formulas.

    Example:
        >>> from nnjax.notation import superscript
        >>> superscript(12)
        '¹²'
    """
    if isinstance(l, bool) or not isinstance(l, Integral):
        raise TypeError(f"l is {l!r}; expected the number of a layer, an integer")
    return str(l).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def subscript(*indices: int) -> str:
    """Return indices, counted from 1, as subscripts, with a comma where they could be ambiguous.

    Example:
        >>> from nnjax.notation import subscript
        >>> subscript(0, 2), subscript(0, 11)
        ('₁₃', '₁,₁₂')
    """
    digits = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
    numbers = [str(i + 1) for i in indices]
    return ("," if any(len(n) > 1 for n in numbers) else "").join(numbers).translate(digits)


def number(value: Any) -> str:
    """Return a number to six digits, with a minus sign that is as long as a plus.

    Example:
        >>> from nnjax.notation import number
        >>> number(-0.04964)
        '−0.04964'
    """
    return f"{float(value):.6g}".replace("-", "−")


def factor(value: Any) -> str:
    """Return a number as a factor: in parentheses where it is negative.

    Example:
        >>> from nnjax.notation import factor
        >>> factor(2), factor(-2)
        ('2', '(−2)')
    """
    text = number(value)
    return f"({text})" if text.startswith("−") else text


def total(terms: Sequence[str]) -> str:
    """Return terms joined by plus signs, with "−" for "+ −".

    Example:
        >>> from nnjax.notation import total
        >>> total(["2", "−3", "x"])
        '2 − 3 + x'
    """
    require_instance(terms, list | tuple, "terms", "a list of texts")
    if not terms:
        raise ValueError("terms is empty; expected at least one")
    text = terms[0]
    for term in terms[1:]:
        text += f" − {term[1:]}" if term.startswith("−") else f" + {term}"
    return text
