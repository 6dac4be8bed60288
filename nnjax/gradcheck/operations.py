"""What expressions are made of: operations on arrays, each with its variants and its text.

One variant of an operation is right, mostly the first; the others are what people compute in its
place. A window's inputs are (n, oh, ow, kh, kw, C), kernels (filters, kh, kw, C).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from nnjax.activations import absolute, relu, sigmoid, tanh

__all__ = ["FUNCTIONS", "OPERATIONS", "Undetermined"]

FUNCTIONS = {"sigmoid": sigmoid, "tanh": tanh, "relu": relu, "absolute": absolute}


class Undetermined(Exception):
    """Raised by an operation that has no definite value at this point; others must decide."""


def _softmax(c, g, a, axis=-1):
    return c * a * (g - (g * a).sum(axis, keepdims=True))


def _over_examples(c, g, a):
    if len(a) == 1:
        raise Undetermined
    return _softmax(c, g, a, 0)


def _layernorm(gamma, delta, a, epsilon, mean=1, variance=1, axes=None, divided=True):
    """Return what layer normalization pulls back; mean, variance: 0 where they are left out."""
    axes = axes or tuple(range(1, a.ndim))
    if axes == (0,) and len(a) == 1:
        raise Undetermined
    h, features = gamma * delta, tuple(range(1, a.ndim))
    s = np.sqrt(a.var(features, keepdims=True) + epsilon)
    u = (a - a.mean(features, keepdims=True)) / s
    h = h - mean * h.mean(axes, keepdims=True) - variance * u * (h * u).mean(axes, keepdims=True)
    return h / s if divided else h


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


def _same_shape(w, other):
    if w.shape != other.shape:
        raise ValueError("the kernel would have another shape")
    return other


# By operation and variant: what it computes, and its text.
OPERATIONS: dict[str, dict[Any, tuple[Callable, str]]] = {
    "skip": {None: (lambda skipped: skipped, "{0}")},
    "w a": {None: (lambda w, a: a @ w.T, "{0} {1}")},
    "wᵀδ": {None: (lambda w, delta: delta @ w, "({0})ᵀ {1}")},
    "σ of": {
        name: (lambda z, f=f: np.asarray(f(jax.device_put(z))), f"{name}({{0}})")
        for name, f in FUNCTIONS.items()
    },
    "σ' of": {
        name: (lambda z, f=f: np.asarray(f.derivative(jax.device_put(z))), f"{name}'({{0}})")
        for name, f in FUNCTIONS.items()
    },
    "softmax over examples": {
        None: (
            lambda c, z: np.asarray(jax.nn.softmax(c * jax.device_put(z), axis=0)),
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
    "layernorm": {
        "J": (_layernorm, "(h − mean(h) − u ⊙ mean(h ⊙ u)) / s, h = {0} ⊙ {1}"),
        "constants": (partial(_layernorm, mean=0, variance=0), "{0} ⊙ {1} / s"),
        "no mean": (partial(_layernorm, mean=0), "(h − u ⊙ mean(h ⊙ u)) / s, h = {0} ⊙ {1}"),
        "no variance": (partial(_layernorm, variance=0), "(h − mean(h)) / s, h = {0} ⊙ {1}"),
        "without γ": (
            lambda gamma, *rest: _layernorm(1.0, *rest),
            "(h − mean(h) − u ⊙ mean(h ⊙ u)) / s, h = {1}",
        ),
        "without s": (
            partial(_layernorm, divided=False),
            "h − mean(h) − u ⊙ mean(h ⊙ u), h = {0} ⊙ {1}",
        ),
        "over examples": (
            partial(_layernorm, axes=(0,)),
            "(h − meanₓ(h) − u ⊙ meanₓ(h ⊙ u)) / s, h = {0} ⊙ {1}",
        ),
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
