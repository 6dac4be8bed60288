"""How somebody's backpropagation is called, and how what it returns is read.

Two conventions are understood. nnjax's own: `backprop(params, x, y)` for a batch, x (n, ...) and y
(n, n_out), returning gradients in the structure of the parameters (or a `Backprop`). The book's:
for ONE example, x (n_in, 1) and y (n_out, 1), returning (nabla_b, nabla_w), two lists with an array
a layer, nabla_b of column vectors. Which one a function follows is found by calling it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from nnjax.gradcheck.claim import Claim
from nnjax.gradcheck.compare import Misfit, align, to_numpy
from nnjax.layers import Affine

__all__ = ["FORMS", "Caller", "Form"]


@dataclass(frozen=True)
class Form:
    """One way to hand over the arguments.

    Attributes:
        name: in words.
        single: whether it is for one example, so that the batch is one.
        examples: how x and y are handed over: "rows" (n, ...), "columns" (n_in, 1), or "flat".
        columns: whether biases are (J, 1) instead of (J,).
        numpy: whether arrays are NumPy's instead of JAX's.
    """

    name: str
    single: bool
    examples: str
    columns: bool
    numpy: bool

    def arguments(self, params: Any, x: Any, y: Any) -> tuple:
        """Return params, x and y in this form."""
        if self.numpy:
            params, x, y = jax.tree.map(lambda leaf: np.array(leaf), (params, x, y))
        if self.columns:
            params = tuple(
                Affine(p.w, p.b.reshape(-1, 1)) if isinstance(p, Affine) else p for p in params
            )
        if self.examples == "columns":
            x, y = (v.reshape(-1, 1) if v.ndim == 2 else v[0] for v in (x, y))
        elif self.examples == "flat":
            x, y = x[0], y[0]
        return params, x, y


FORMS = (
    Form("a batch (n, ...)", False, "rows", False, False),
    Form("a batch (n, ...)", False, "rows", False, True),
    Form("one example, columns (n_in, 1)", True, "columns", False, True),
    Form("one example, columns (n_in, 1), biases too", True, "columns", True, True),
    Form("one example (n_in,)", True, "flat", False, True),
    Form("one example (n_in,)", True, "flat", False, False),
    Form("a batch of one (1, ...)", True, "rows", False, True),
)


class Caller:
    """Somebody's backpropagation, called in the form that it takes.

    Args:
        claim: the function.
        params, x, y: a batch to find the form with, n different from every size in the network.
        key: handed over as a fourth argument, where the function takes one.
    """

    def __init__(self, claim: Claim, params: Any, x: Any, y: Any, key: Any = None):
        self.claim, self.key = claim, key
        self.takes_key = key is not None and _takes_four(claim.function)
        self.order = "nnjax"
        self.form, self.complaint = FORMS[0], None
        best = -1.0
        for form in FORMS:
            cut = slice(0, 1) if form.single else slice(None)
            try:
                result = self._call(form, params, x[cut], y[cut])
            except Misfit as misfit:
                self.complaint = self.complaint or misfit
                continue
            for order in ("nnjax", "book"):
                score = self._score(params, self._read(result, params, order))
                if score > best:
                    best, self.form, self.order = score, form, order
            if best == 1:
                break
        self.works = best >= 0

    def __call__(self, params: Any, x: Any, y: Any) -> Any:
        """Return the claimed gradient in the structure of the parameters."""
        return self.call(params, x, y)[0]

    def call(self, params: Any, x: Any, y: Any) -> tuple[Any, Any]:
        """Return the claimed gradient, and the claimed errors (None where there are none)."""
        if not self.works and self.complaint is not None:
            raise self.complaint
        result = self._call(self.form, params, x, y)
        return self._read(result, params, self.order), getattr(result, "errors", None)

    def _call(self, form, params, x, y):
        more = (self.key,) if self.takes_key else ()
        return self.claim(*form.arguments(params, x, y), *more)

    @staticmethod
    def _read(result, params, order):
        if hasattr(result, "grads"):
            return result.grads
        if order == "nnjax":
            return result
        affine = [p for p in params if isinstance(p, Affine)]
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            return result
        nabla_b, nabla_w = result
        for part in result:
            if not isinstance(part, (tuple, list)) or len(part) != len(affine):
                return result
        pairs = iter(zip(nabla_w, nabla_b, strict=True))

        def entry(p):
            w, b = next(pairs)
            return p._replace(w=w, b=_flat(b))

        return tuple(entry(p) if isinstance(p, Affine) else () for p in params)

    @staticmethod
    def _score(params, grads):
        """Return the fraction of arrays of the right shape, −½ where the structure differs."""
        try:
            leaves = align(params, grads)
        except Misfit:
            return -0.5
        expected = jax.tree.leaves(params)
        return sum(
            np.shape(leaf) == one.shape for leaf, one in zip(leaves, expected, strict=True)
        ) / len(expected)


def _flat(b):
    """Return a column vector (J, 1) as (J,); anything else as it is."""
    try:
        array = to_numpy(b)
    except Misfit:
        return b
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else b


def _takes_four(function: Callable) -> bool:
    try:
        inspect.signature(function).bind(0, 1, 2, 3)
    except (TypeError, ValueError):
        return False
    return True
