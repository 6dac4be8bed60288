"""The equations of backpropagation as expressions: one tree is evaluated, printed and edited.

The steps are those of the book, for a batch of n examples. Layers count from 1, so that z[l], a[l]
and δ[l] are z^l, a^l and δ^l, and a[0] is x:

    affine     z^l = w^l a^{l-1} + b^l
    activate   a^l = σ(z^l)
    error      δ^L = ∂C_x/∂z^L                           BP1
    back       ∂C_x/∂a^{l-1} = (w^l)ᵀ δ^l                BP2, first half
    through    δ^l = ∂C_x/∂a^l ⊙ σ'(z^l)                 BP2, second half
    biases     ∂C/∂b^l = (1/n) Σ δ^l                     BP3
    weights    ∂C/∂w^l = (1/n) Σ δ^l (a^{l-1})ᵀ          BP4

`forms` gives the expressions of a step in a layer, `Derivation` the numbers they work on.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.activations import (
    Elementwise,
    LeakyReLU,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
    absolute,
    relu,
    sigmoid,
    tanh,
)
from nnjax.layers import Affine, Conv, Dense, Dropout, Flatten, L2Pool, MaxPool, MeanPool
from nnjax.losses import targets
from nnjax.network import Network, forward_layer

__all__ = [
    "EDIT_FAILS",
    "OPERATIONS",
    "STEPS",
    "Derivation",
    "Expression",
    "Scope",
    "Site",
    "Undetermined",
    "forms",
    "number",
    "quantity",
]

FORWARD = ("affine", "activate")
BACKWARD = ("error", "through", "back", "weights", "biases")
STEPS = (*BACKWARD, *FORWARD)
FUNCTIONS = {"sigmoid": sigmoid, "tanh": tanh, "relu": relu, "absolute": absolute}
SCALARS = ("number", "t", "1/n", "η", "μ", "λ/n")


# What an edit raises where it has no meaning: shapes that do not fit, no such layer.
EDIT_FAILS = (TypeError, ValueError, LookupError, AttributeError, ZeroDivisionError)


class Undetermined(Exception):
    """Raised by an expression that has no definite value at this point; others must decide."""


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
                return np.asarray(self.note.derivative(jnp.asarray(values[0])))
            case "σ":
                return np.asarray(self.note(jnp.asarray(values[0])))
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


def _softmax(c, g, a, axis=-1):
    return c * a * (g - (g * a).sum(axis, keepdims=True))


def _over_examples(c, g, a):
    if len(a) == 1:
        raise Undetermined
    return _softmax(c, g, a, 0)


# Windows of images: a window's inputs are (n, oh, ow, kh, kw, C), kernels (filters, kh, kw, C).


def _windows(a, geometry, strides=None, at=0):
    """Return the inputs of every window; `at`: how much of the padding lies behind, not before."""
    (kh, kw), (down, right), ((top, bottom), (left, beside)) = geometry
    down, right = strides or (down, right)
    rows, columns = (top - at * top, bottom + at * top), (left - at * left, beside + at * left)
    every = np.pad(a, ((0, 0), rows, columns, (0, 0)))
    every = np.lib.stride_tricks.sliding_window_view(every, (kh, kw), axis=(1, 2))
    return np.moveaxis(every[:, ::down, ::right], 3, 5)


def _correlated(delta, windows):
    oh, ow = delta.shape[1:3]
    return np.einsum("nyxj,nyxikc->jikc", delta, windows[:, :oh, :ow]) / len(delta)


def _fold(pieces, a, geometry, strides=None, crop=1, order=None):
    """Put the pieces of all windows where they lie; order: None adds, 1 and −1 overwrite."""
    (kh, kw), steps, ((top, bottom), (left, right)) = geometry
    down, across = strides or steps
    n, height, width, channels = a.shape
    image = np.zeros((n, 2 * top + height + bottom, 2 * left + width + right, channels))
    places = itertools.product(range(pieces.shape[1]), range(pieces.shape[2]))
    for y, x in list(places)[:: order or 1]:
        window = image[:, y * down : y * down + kh, x * across : x * across + kw]
        window[...] = pieces[:, y, x] + (0 if order else window)
    return image[:, crop * top : crop * top + height, crop * left : crop * left + width]


def _winners(inputs, last=False):
    """Return a mask of the largest input of each window, the first or the last of equal ones."""
    n, oh, ow, kh, kw, c = inputs.shape
    flat = inputs.reshape(n, oh, ow, kh * kw, c)
    best = kh * kw - 1 - flat[:, :, :, ::-1].argmax(3) if last else flat.argmax(3)
    mask = np.arange(kh * kw)[:, None] == best[:, :, :, None]
    return mask.reshape(inputs.shape).astype(float)


def _first_entry(inputs):
    share = np.zeros_like(inputs)
    share[:, :, :, 0, 0] = 1
    return share


def _even(inputs):
    return np.full(inputs.shape, 1 / (inputs.shape[3] * inputs.shape[4]))


def _transposed_shape(delta, a, *order):
    """Return δ put back into images that were flattened with their axes in another order."""
    axes = [0, *order]
    return delta.reshape([a.shape[i] for i in axes]).transpose(np.argsort(axes))


def _last_place(delta):
    """Return δ at the last place of the feature maps, 0 elsewhere."""
    last = np.zeros_like(delta)
    last[:, -1, -1] = delta[:, -1, -1]
    return last


# Operations with their variants, one right (mostly the first), the others edits: what it computes,
# and its text.
OPERATIONS: dict[str, dict[Any, tuple[Callable, str]]] = {
    "w a": {None: (lambda w, a: a @ w.T, "{0} {1}")},
    "wᵀδ": {None: (lambda w, delta: delta @ w, "({0})ᵀ {1}")},
    "σ of": {
        name: (lambda z, f=f: np.asarray(f(jnp.asarray(z))), f"{name}({{0}})")
        for name, f in FUNCTIONS.items()
    },
    "σ' of": {
        name: (lambda z, f=f: np.asarray(f.derivative(jnp.asarray(z))), f"{name}'({{0}})")
        for name, f in FUNCTIONS.items()
    },
    "softmax over examples": {
        None: (
            lambda c, z: np.asarray(jax.nn.softmax(c * jnp.asarray(z), axis=0)),
            "exp {0} {1} / Σₓ exp {0} {1}",
        )
    },
    "∂C/∂w": {None: (lambda gradient, w: gradient, "∂C/∂{1}")},
    "leaky": {None: (lambda z, t: np.where(z > 0, 1.0, t), "(1 where {0} > 0, else {1})")},
    "transposed": {None: (lambda w: w.T, "({0})ᵀ")},
    "diagonal": {None: (lambda w: np.diag(np.diag(w)), "diag({0})")},
    "ones": {None: (np.ones_like, "1")},
    "formula": {
        "a (1 − a)": (lambda a: a * (1 - a), "{0} (1 − {0})"),
        "1 − a²": (lambda a: (1 + a) * (1 - a), "(1 − {0}²)"),
        "a": (lambda a: a, "{0}"),
        "1 − a": (lambda a: 1 - a, "(1 − {0})"),
        "1 + a": (lambda a: 1 + a, "(1 + {0})"),
    },
    "softmax": {
        "J": (_softmax, "{0} {2} ⊙ ({1} − ⟨{1}, {2}⟩)"),
        "missing": (lambda c, g, a: g, "{1}"),
        "diagonal": (lambda c, g, a: g * c * a * (1 - a), "{0} {1} ⊙ {2} (1 − {2})"),
        "twice": (lambda c, g, a: _softmax(c, _softmax(c, g, a), a), "J J {1}"),
        "over examples": (_over_examples, "{0} {2} ⊙ ({1} − Σₓ {1} ⊙ {2})"),
        "without c": (lambda c, g, a: _softmax(1.0, g, a), "{2} ⊙ ({1} − ⟨{1}, {2}⟩)"),
    },
    "outer": {
        "Σ": (lambda delta, a: delta.T @ a / len(a), "(1/n) Σ {0} ({1})ᵀ"),
        "means": (lambda d, a: np.outer(d.mean(0), a.mean(0)), "mean({0}) mean({1})ᵀ"),
    },
    "total": {
        "Σ": (lambda d: d.reshape(-1, d.shape[-1]).sum(0) / len(d), "(1/n) Σ {0}"),
        "neurons": (lambda d: d.sum(-1), "Σⱼ {0}ⱼ"),
        "neurons, over n": (lambda d: d.sum(-1) / len(d), "(1/n) Σⱼ {0}ⱼ"),
        "mean of neurons": (lambda d: d.mean(-1), "meanⱼ {0}ⱼ"),
        "everything": (lambda d: np.full(d.shape[-1], d.sum() / len(d)), "(1/n) Σₓ Σⱼ {0}ⱼ"),
        "mean of places": (
            lambda d: d.mean((1, 2)).sum(0) / len(d),
            "(1/n) Σ mean over places of {0}",
        ),
        "by place": (lambda d: d.sum(0) / len(d), "(1/n) Σ {0}, for each place"),
        "last place": (lambda d: d[:, -1, -1].sum(0) / len(d), "(1/n) Σ {0} at the last place"),
    },
    "kernel": {
        "as it is": (lambda w: w, "{0}"),
        "turned": (lambda w: w[:, ::-1, ::-1], "rot180({0})"),
    },
    "turned kernel": {
        "as it is": (lambda w: w, "rot180({0})"),
        "turned": (lambda w: w[:, ::-1, ::-1], "{0}"),
        "transposed": (lambda w: _same_shape(w, w.swapaxes(1, 2)), "rot180({0})[j, k, i, c]"),
        "channels swapped": (lambda w: _same_shape(w, w.swapaxes(0, 3)), "rot180({0})[c, i, k, j]"),
        "channels reversed": (lambda w: w[..., ::-1], "rot180({0})[…, ::-1]"),
    },
    "correlation": {
        None: (lambda w, x: np.einsum("nyxikc,jikc->nyxj", x, w), "{0} correlated with {1}")
    },
    "spread": {
        None: (lambda w, d: np.einsum("nyxj,jikc->nyxikc", d, w), "{1} correlated with {0}")
    },
    "kernel gradient": {
        "as it is": (_correlated, "(1/n) Σ {0} correlated with {1}"),
        "turned": (
            lambda d, x: _correlated(d, x)[:, ::-1, ::-1],
            "rot180((1/n) Σ {0} correlated with {1})",
        ),
        "transposed": (
            lambda d, x: _correlated(d, x).swapaxes(1, 2),
            "(1/n) Σ {0} correlated with {1}, rows and columns interchanged",
        ),
        "channels swapped": (
            lambda d, x: _correlated(d, x).swapaxes(0, 3),
            "(1/n) Σ {0} correlated with {1}, its channels interchanged",
        ),
        "mean of places": (
            lambda d, x: _correlated(d, x) / np.prod(d.shape[1:3]),
            "(1/n) Σ mean over places of {0} correlated with {1}",
        ),
        "last place": (
            lambda d, x: _correlated(_last_place(d), x),
            "(1/n) Σ {0} correlated with {1} at the last place",
        ),
    },
    "windows": {
        None: (_windows, "{0}"),
        "stride 1": (lambda a, g: _windows(a, g, (1, 1)), "{0} (windows at y, x)"),
        "not padded": (lambda a, g: _windows(a, g, None, 1), "{0} (windows without padding)"),
    },
    "fold": {
        None: (_fold, "{0}"),
        "stride 1": (lambda p, a, g: _fold(p, a, g, (1, 1)), "{0} (windows at y, x)"),
        "not cropped": (lambda p, a, g: _fold(p, a, g, crop=0), "{0} [0 : H, 0 : W]"),
        "cropped twice": (lambda p, a, g: _fold(p, a, g, crop=2), "{0} [2p : 2p + H, 2p : 2p + W]"),
        "overwritten": (lambda p, a, g: _fold(p, a, g, order=1), "{0} (= for +=)"),
        "first wins": (lambda p, a, g: _fold(p, a, g, order=-1), "{0} (first window only)"),
    },
    "each": {None: (lambda v: v[:, :, :, None, None, :], "{0}")},
    "inverse": {None: (lambda z: np.divide(1, z, out=np.zeros_like(z), where=z != 0), "1 / {0}")},
    "max share": {
        "largest": (_winners, "[largest input of the window]"),
        "all": (np.ones_like, "1"),
        "1/k²": (_even, "1/k²"),
        "tied": (
            lambda x: (x == x.max((3, 4), keepdims=True)).astype(float),
            "[equal to the largest input]",
        ),
        "last tied": (lambda x: _winners(x, last=True), "[last of the largest inputs]"),
        "first entry": (_first_entry, "[first input of the window]"),
        "smallest": (lambda x: _winners(-x), "[smallest input of the window]"),
    },
    "mean share": {
        "1/k²": (_even, "1/k²"),
        "all": (np.ones_like, "1"),
        "1/k": (lambda x: np.full(x.shape, 1 / x.shape[3]), "1/k"),
        "first entry": (_first_entry, "[first input of the window]"),
        "largest": (_winners, "[largest input of the window]"),
    },
    "flat": {
        None: (lambda a: a.reshape(len(a), -1), "{0} as (H, W, C), flattened"),
        "channels first": (
            lambda a: a.transpose(0, 3, 1, 2).reshape(len(a), -1),
            "{0} as (C, H, W), flattened",
        ),
    },
    "unflat": {
        None: (lambda d, a: d.reshape(a.shape), "{0} as (H, W, C)"),
        "channels first": (lambda d, a: _transposed_shape(d, a, 3, 1, 2), "{0} as (C, H, W)"),
        "columns first": (lambda d, a: _transposed_shape(d, a, 2, 1, 3), "{0} as (W, H, C)"),
        "Fortran": (
            lambda d, a: _transposed_shape(d, a, 3, 2, 1),
            "{0} as (H, W, C), first axis fastest",
        ),
    },
}


def _same_shape(w, other):
    if w.shape != other.shape:
        raise ValueError("the kernel would have another shape")
    return other


DELTA, A, Z, G, W, B = (quantity(name) for name in ("δ", "a", "z", "∂C/∂a", "w", "b"))
BEFORE, Y = quantity("a", -1), quantity("y", None)


def times(*parts: Expression) -> Expression:
    """Return the product, element by element."""
    return Expression("times", parts)


def plus(*parts: Expression) -> Expression:
    """Return the sum."""
    return Expression("plus", parts)


def minus(part: Expression) -> Expression:
    """Return the expression with the opposite sign."""
    return Expression("minus", (part,))


class Site(NamedTuple):
    """A layer in its place, as far as the equations depend on it.

    Attributes:
        layer: the layer.
        in_shape: of what comes in, for one example.
        affine: whether it has weights and biases.
        masked: whether it draws a mask (dropout in training mode).
        last: whether it is the output.
        canonical: for the output, whether δ^L = a^L − y, so that σ' cancels.
        loss: for the output, the loss.
    """

    layer: Any
    in_shape: tuple[int, ...]
    affine: bool
    masked: bool = False
    last: bool = False
    canonical: bool = False
    loss: Any = None


def forms(site: Site, step: str) -> list[Expression]:
    """Return the expressions of a step in a layer; several are ways to write the same.

    Example:
        >>> import nnjax
        >>> [form.text() for form in forms(Site(nnjax.Dense(2), (3,), True), "through")]
        ["∂C/∂a ⊙ σ'(z)", '∂C/∂a ⊙ a (1 − a)']
    """
    layer, image = site.layer, len(site.in_shape) == 3
    if step == "error":
        return [plus(A, minus(Y))] if site.canonical else _through(layer.activation)[:1]
    if step == "through":
        return _through(layer.activation)
    if step == "activate":
        return [Expression("σ", (Z,), layer.activation)]
    if step in ("weights", "biases") and not site.affine:
        return []
    if step == "biases":
        return [Expression("total", (DELTA,), "Σ")]
    if isinstance(layer, Dense):
        dense = {
            "affine": plus(Expression("w a", (W, BEFORE)), B),
            "back": Expression("wᵀδ", (W, DELTA)),
            "weights": Expression("outer", (DELTA, BEFORE), "Σ"),
        }
        return [dense[step]]
    if isinstance(layer, Conv):
        return [_of_conv(step, number(layer.geometry(site.in_shape), ""))]
    if step == "back" and isinstance(layer, (MaxPool, MeanPool, L2Pool)):
        return [_of_pool(layer)]
    if step == "back" and isinstance(layer, Dropout) and site.masked:
        return [times(DELTA, quantity("m"), number(1 / (1 - layer.rate), "/ (1 − rate)"))]
    if step == "affine" and isinstance(layer, Flatten) and image:
        return [Expression("flat", (BEFORE,))]
    if step == "back" and isinstance(layer, Flatten) and image:
        return [Expression("unflat", (DELTA, BEFORE))]
    return [Expression("own", (BEFORE if step == "affine" else DELTA,), step)]


def _through(activation):
    if isinstance(activation, Softmax):
        c = number(activation.scale, "" if activation.scale == 1 else f"{activation.scale:g}")
        return [Expression("softmax", (c, G, A), "J")]
    if not isinstance(activation, Elementwise):
        return [Expression("own", (G,), "through")]
    found = [times(G, Expression("σ'", (Z,), activation))]
    if isinstance(activation, (Sigmoid, Tanh)):
        formula = "a (1 − a)" if isinstance(activation, Sigmoid) else "1 − a²"
        found.append(times(G, Expression("formula", (A,), formula)))
    return found


def _of_conv(step, geometry):
    windows = Expression("windows", (BEFORE, geometry))
    if step == "affine":
        kernel = Expression("kernel", (W,), "as it is")
        return plus(Expression("correlation", (kernel, windows)), B)
    if step == "weights":
        return Expression("kernel gradient", (DELTA, windows), "as it is")
    kernel = Expression("turned kernel", (W,), "as it is")
    return Expression("fold", (Expression("spread", (kernel, DELTA)), BEFORE, geometry))


def _of_pool(layer):
    size, stride = layer.windows
    geometry = number((size, stride, ((0, 0), (0, 0))), "")
    inputs = Expression("windows", (BEFORE, geometry))
    if isinstance(layer, L2Pool):
        factors = [inputs, Expression("inverse", (Expression("each", (Z,)),))]
    else:
        op = "max share" if isinstance(layer, MaxPool) else "mean share"
        factors = [Expression(op, (inputs,), next(iter(OPERATIONS[op])))]
    pieces = times(Expression("each", (DELTA,)), *factors)
    return Expression("fold", (pieces, BEFORE, geometry))


class Derivation:
    """The derivation at one point: all its quantities, and the gradients with steps replaced.

    Args:
        net: the network, of L layers.
        params: its parameters.
        x: (n, *input_shape).
        y: targets.
        key: for dropout in training mode, else None.
        edits: expressions to put in place of steps of the forward pass, by (step, l).
        t: the fitted number in them.
    """

    def __init__(self, net: Network, params: Any, x: Any, y: Any, key=None, edits=None, t=0.0):
        self.net, self.params, self.key = net, params, key
        self.L, self.n = len(net.layers), x.shape[0]
        affine = {l: p for l, p in enumerate(params, 1) if isinstance(p, Affine)}
        scale = 255 if x.dtype == np.uint8 else 1
        self.a = {0: np.asarray(x, np.float64).reshape(self.n, *net.input_shape) / scale}
        self.z: dict[int, np.ndarray] = {}
        self.masks: dict[int, np.ndarray] = {}
        self.caches: dict[int, Any] = {}
        self.quantities: dict[str, Any] = {
            "a": self.a,
            "z": self.z,
            "m": self.masks,
            "w": {l: np.asarray(p.w) for l, p in affine.items()},
            "b": {l: np.asarray(p.b) for l, p in affine.items()},
            "x": self.a[0],
            "1/n": 1 / self.n,
            "own": self._own,
        }
        for l, layer in enumerate(net.layers, 1):
            for step, into in (("affine", self.z), ("activate", self.a)):
                form = (edits or {}).get((step, l)) or forms(self.site(l), step)[0]
                into[l] = form.value(Scope(self.quantities, l, t))
            if isinstance(layer, Dropout) and self.caches[l] is not None:
                self.masks[l] = np.asarray(self.caches[l], np.float64)
        self.y = np.asarray(targets(jnp.asarray(y), jnp.asarray(self.a[self.L])))
        self.quantities["y"] = self.y

    def site(self, l: int) -> Site:
        """Return layer l in its place."""
        layer, last = self.net.layers[l - 1], l == self.L and "y" in self.quantities
        return Site(
            layer,
            self.a[l - 1].shape[1:],
            self.has_parameters(l),
            l in self.masks,
            last,
            last and self.canonical,
            self.net.loss if last else None,
        )

    def has_parameters(self, l: int) -> bool:
        """Return whether layer l has weights."""
        return l in self.quantities["w"]

    def _own(self, step, l, given):
        """Run what a layer or an activation function of another kind defines itself."""
        layer, given = self.net.layers[l - 1], jnp.asarray(given)
        if step == "affine":
            z, self.caches[l] = forward_layer(self.net, self.params, l - 1, given, self.key)
            return z
        if step == "through":
            return layer.activation.pull_back(jnp.asarray(self.z[l]), jnp.asarray(self.a[l]), given)
        if step == "weights":
            return layer.gradients(self.caches[l], given / self.n).w
        return _pull_back(layer, self.params[l - 1], self.caches[l], given)

    @functools.cached_property
    def output(self) -> tuple[np.ndarray, np.ndarray]:
        """∂C_x/∂a^L and δ^L, the latter in its stable form."""
        z, a, y = (jnp.asarray(array) for array in (self.z[self.L], self.a[self.L], self.y))
        loss, activation = self.net.loss, self.net.layers[-1].activation
        return np.asarray(loss.gradient(a, y)), np.asarray(loss.output_error(activation, z, a, y))

    @functools.cached_property
    def canonical(self) -> bool:
        """Whether δ^L = a^L − y, so that σ' cancels."""
        return np.allclose(self.output[1], self.a[self.L] - self.y, rtol=1e-10, atol=1e-14)

    @functools.cached_property
    def errors(self) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
        """∂C_x/∂a^l and δ^l of every layer."""
        g, delta = ({self.L: array} for array in self.output)
        for l in range(self.L - 1, 0, -1):
            g[l] = self.step("back", l + 1, delta[l + 1])
            delta[l] = self.step("through", l, g[l])
        return g, delta

    @property
    def delta(self) -> dict[int, np.ndarray]:
        """δ^l of every layer."""
        return self.errors[1]

    def step(self, name: str, l: int, given: np.ndarray) -> np.ndarray:
        """Return what a step makes of the error given: δ^l, or ∂C/∂a^l for "through"."""
        fed = "∂C/∂a" if name == "through" else "δ"
        return forms(self.site(l), name)[0].value(Scope({**self.quantities, fed: {l: given}}, l))

    def leaves(
        self, edits: Mapping[tuple[str, int], Expression], t: float = 0.0, **known: Any
    ) -> Iterator[tuple[int, str, Any]]:
        """Yield (l, part, array) from the output back, lazily, for all parts that an edit touches.

        The part is "w" or "b" for gradients, "δ" for errors.

        Args:
            edits: the expression to put in place of a step, by (step, l).
            t: the fitted number in them.
            **known: quantities beyond those of the derivation.
        """
        ahead = any(step in FORWARD for step, _ in edits)
        d = self
        if ahead:
            d = Derivation(self.net, self.params, self.a[0], self.y, self.key, edits, t)
        g, delta = (dict(right) for right in d.errors)
        scope = {**d.quantities, "∂C/∂a": g, "δ": delta, **known}

        def run(step, l):
            here = Scope(scope, l, t)
            if (step, l) in edits:
                try:
                    return edits[step, l].value(here)
                except EDIT_FAILS:
                    if len(edits) == 1:
                        raise  # of several layers, those where the edit has no meaning are right
            return forms(d.site(l), step)[0].value(here)

        changed = False  # whether the error of the layer above is another one than the right one
        for l in range(d.L, 0, -1):
            pulled = changed or ("back", l + 1) in edits
            if pulled:
                g[l] = run("back", l + 1)
            if ("error", l) in edits:
                delta[l], changed = run("error", l), True
            elif pulled or ("through", l) in edits:
                delta[l], changed = run("through", l), True
            if changed or ahead:
                yield l, "δ", delta[l]
            for step, part in (("weights", "w"), ("biases", "b")):
                if d.has_parameters(l) and (changed or ahead or (step, l) in edits):
                    yield l, part, run(step, l)


@functools.partial(jax.jit, static_argnums=0)
def _pull_back(layer, params, cache, delta):
    return jax.vmap(layer.pull_back, in_axes=(None, 0, 0))(params, cache, delta)
