"""Mistakes in the backward pass of convolutions, pools and flattening.

Each function takes the right derivation d, the layer l and its error, and returns ∂C/∂a of its
input (step "pull_back") or the gradient of its weights or biases. Images are (n, H, W, C), kernels
(filters, kh, kw, C).
"""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np

from nnjax.gradcheck.hypotheses import mistake
from nnjax.gradcheck.network_mistakes import of
from nnjax.layers import Conv, Flatten, L2Pool, MaxPool, MeanPool

__all__ = []

KERNEL = "∂C/∂a{l} = δ{next} correlated with w{next} turned by 180°"
GRADIENT = "∂C/∂w{l} = (1/n) Σ a{prev} correlated with δ{l}"
POOLS = (MaxPool, MeanPool, L2Pool)


def _with_kernel(d, l, delta, w):
    if w.shape != d.w(l).shape:
        raise ValueError("the kernel would have another shape")
    return d.pull_back(l, delta, d.params[l - 1]._replace(w=jnp.asarray(w)))


# Convolution: the error of the input.


@mistake(
    "kernel not turned",
    "the error is correlated with the kernel as it is, not turned by 180°",
    have="∂C/∂a{l} = δ{next} correlated with w{next}",
    expected=KERNEL,
    step="pull_back",
)
def kernel_not_turned(d, l, delta):
    of(d.layer(l), Conv)
    return _with_kernel(d, l, delta, d.w(l)[:, ::-1, ::-1])


@mistake(
    "kernel transposed",
    "rows and columns of the kernel are interchanged in the backward pass",
    have="∂C/∂a{l} = δ{next} correlated with w{next}, turned and transposed",
    expected=KERNEL,
    step="pull_back",
)
def kernel_transposed(d, l, delta):
    of(d.layer(l), Conv)
    return _with_kernel(d, l, delta, d.w(l).swapaxes(1, 2))


@mistake(
    "kernel channels swapped",
    "the kernel's input and output channels are interchanged in the backward pass",
    have="∂C/∂a{l} = δ{next} correlated with w{next}[c, …, j], turned",
    expected=KERNEL,
    step="pull_back",
)
def kernel_channels_swapped(d, l, delta):
    of(d.layer(l), Conv)
    return _with_kernel(d, l, delta, d.w(l).swapaxes(0, 3))


@mistake(
    "kernel channels reversed",
    "the kernel's input channels run backwards, as when it is turned in all its axes",
    have="∂C/∂a{l} = δ{next} correlated with w{next}[…, ::-1], turned",
    expected=KERNEL,
    step="pull_back",
)
def kernel_channels_reversed(d, l, delta):
    of(d.layer(l), Conv)
    return _with_kernel(d, l, delta, d.w(l)[..., ::-1])


@mistake(
    "padding not cropped (shifted)",
    "the error of the padded image is handed back from its first row and column on, so that it is "
    "shifted by the padding",
    have="∂C/∂a{l} = padded[0 : H, 0 : W]",
    expected="∂C/∂a{l} = padded[p : p + H, p : p + W]",
    step="pull_back",
)
def padding_not_cropped(d, l, delta):
    return _cropped(d, l, delta, 0)


@mistake(
    "padding cropped twice (shifted)",
    "the error of the padded image is shifted by the padding, the other way",
    have="∂C/∂a{l} = padded[2p : 2p + H, 2p : 2p + W]",
    expected="∂C/∂a{l} = padded[p : p + H, p : p + W]",
    step="pull_back",
)
def padding_cropped_twice(d, l, delta):
    return _cropped(d, l, delta, 2)


def _cropped(d, l, delta, times):
    """Return a window of the padded image's error that begins at `times` the padding."""
    pieces, (sizes, strides, margins) = _conv_pieces(d, l, delta)
    n, height, width, channels = d.a[l - 1].shape
    (top, bottom), (left, right) = margins
    if not (top or left):
        raise ValueError("there is no padding")
    image = np.zeros((n, top + height + bottom, left + width + right, channels))
    _add(image, pieces, sizes, strides)
    image = np.pad(image, ((0, 0), (0, top), (0, left), (0, 0)))
    y, x = times * top, times * left
    return image[:, y : y + height, x : x + width]


@mistake(
    "stride ignored",
    "the error is spread as if the windows lay next to each other, one place apart",
    have="∂C/∂a{l} from windows at y, x",
    expected="∂C/∂a{l} from windows at stride · y, stride · x",
    step="pull_back",
)
def stride_ignored(d, l, delta):
    pieces, (sizes, strides, margins) = _pieces(d, l, delta)
    if strides == (1, 1):
        raise ValueError("the stride is 1")
    return _folded(d, l, pieces, sizes, (1, 1), margins)


@mistake(
    "= for += in overlapping windows",
    "where windows overlap the later one overwrites what the earlier ones left",
    have="∂C/∂a{l}[window] = …",
    expected="∂C/∂a{l}[window] += …",
    step="pull_back",
)
def overwritten(d, l, delta):
    pieces, (sizes, strides, margins) = _pieces(d, l, delta)
    if all(stride >= size for stride, size in zip(strides, sizes, strict=True)):
        raise ValueError("the windows do not overlap")
    return _folded(d, l, pieces, sizes, strides, margins, overwrite=True)


@mistake(
    "= for += in overlapping windows (first wins)",
    "where windows overlap only the first one counts",
    have="∂C/∂a{l}[window] from the first window alone",
    expected="∂C/∂a{l}[window] += …",
    step="pull_back",
)
def first_window_wins(d, l, delta):
    pieces, (sizes, strides, margins) = _pieces(d, l, delta)
    if all(stride >= size for stride, size in zip(strides, sizes, strict=True)):
        raise ValueError("the windows do not overlap")
    return _folded(d, l, pieces, sizes, strides, margins, overwrite=True, backwards=True)


def _conv_pieces(d, l, delta):
    """Return what each window hands to each of its inputs, (n, oh, ow, kh, kw, C), and where."""
    layer = d.layer(l)
    of(layer, Conv)
    sizes, strides, margins = layer.geometry(d.a[l - 1].shape[1:])
    pieces = np.einsum("nyxj,jikc->nyxikc", delta, d.w(l))
    return pieces, (sizes, strides, margins)


def _pieces(d, l, delta):
    layer = d.layer(l)
    if isinstance(layer, Conv):
        return _conv_pieces(d, l, delta)
    of(layer, *POOLS)
    return _pool_shares(d, l) * delta[:, :, :, None, None, :], (
        layer.size,
        layer.stride,
        ((0, 0), (0, 0)),
    )


def _windows(d, l):
    """Return the inputs of every window of a pool, (n, oh, ow, kh, kw, C)."""
    (height, width), (down, right) = d.layer(l).size, d.layer(l).stride
    every = np.lib.stride_tricks.sliding_window_view(d.a[l - 1], (height, width), axis=(1, 2))
    return np.moveaxis(every[:, ::down, ::right], 3, 5)


def _pool_shares(d, l):
    """Return ∂z/∂a of every window, of the shape of its inputs."""
    layer, inputs = d.layer(l), _windows(d, l)
    if isinstance(layer, MeanPool):
        return np.full(inputs.shape, 1 / np.prod(layer.size))
    z = d.z[l][:, :, :, None, None, :]
    if isinstance(layer, L2Pool):
        return np.divide(inputs, z, out=np.zeros_like(inputs), where=z != 0)
    return _winners(inputs, first=True)


def _winners(inputs, first):
    """Return a mask of the largest input of each window, the first or the last of equal ones."""
    n, oh, ow, kh, kw, c = inputs.shape
    flat = inputs.reshape(n, oh, ow, kh * kw, c)
    best = flat.argmax(3) if first else kh * kw - 1 - flat[:, :, :, ::-1].argmax(3)
    mask = np.arange(kh * kw)[:, None] == best[:, :, :, None]
    return mask.reshape(inputs.shape).astype(float)


def _folded(d, l, pieces, sizes, strides, margins, overwrite=False, backwards=False):
    n, height, width, channels = d.a[l - 1].shape
    (top, bottom), (left, right) = margins
    image = np.zeros((n, top + height + bottom, left + width + right, channels))
    _add(image, pieces, sizes, strides, overwrite, backwards)
    return image[:, top : top + height, left : left + width]


def _add(image, pieces, sizes, strides, overwrite=False, backwards=False):
    places = list(itertools.product(range(pieces.shape[1]), range(pieces.shape[2])))
    for y, x in reversed(places) if backwards else places:
        rows = slice(y * strides[0], y * strides[0] + sizes[0])
        columns = slice(x * strides[1], x * strides[1] + sizes[1])
        if overwrite:
            image[:, rows, columns] = pieces[:, y, x]
        else:
            image[:, rows, columns] += pieces[:, y, x]


# Convolution: the gradients of weights and biases.


@mistake(
    "kernel gradient turned",
    "the gradient of the kernel is turned by 180°, as if the forward pass were a convolution",
    have="∂C/∂w{l}[:, ::-1, ::-1]",
    expected=GRADIENT,
    step="weights",
)
def gradient_turned(d, l, delta):
    of(d.layer(l), Conv)
    return d.weights(l, delta)[:, ::-1, ::-1]


@mistake(
    "kernel gradient transposed",
    "rows and columns of the kernel's gradient are interchanged",
    have="∂C/∂w{l}, its rows and columns interchanged",
    expected=GRADIENT,
    step="weights",
)
def gradient_transposed(d, l, delta):
    of(d.layer(l), Conv)
    return d.weights(l, delta).swapaxes(1, 2)


@mistake(
    "kernel gradient with its channels swapped",
    "input and output channels of the kernel's gradient are interchanged",
    have="∂C/∂w{l}[c, …, j]",
    expected=GRADIENT,
    step="weights",
)
def gradient_channels_swapped(d, l, delta):
    of(d.layer(l), Conv)
    return d.weights(l, delta).swapaxes(0, 3)


@mistake(
    "kernel gradient averaged over the places",
    "the errors are averaged over the places of the feature map, not added up",
    have="∂C/∂w{l} divided by the number of places",
    expected=GRADIENT,
    step="weights",
)
def gradient_over_places(d, l, delta):
    of(d.layer(l), Conv)
    return d.weights(l, delta) / np.prod(delta.shape[1:3])


@mistake(
    "stride ignored in the gradient of the kernel",
    "the errors meet the inputs of windows one place apart",
    have="∂C/∂w{l} = (1/n) Σ δ{l} at y, x with a at y + i, x + k",
    expected="∂C/∂w{l} = (1/n) Σ δ{l} at y, x with a at stride · y + i, stride · x + k",
    step="weights",
)
def gradient_stride_ignored(d, l, delta):
    return _correlated(d, l, delta, (1, 1), None)


@mistake(
    "padding shifted in the gradient of the kernel",
    "the errors meet the inputs without the padding around them",
    have="∂C/∂w{l} = (1/n) Σ δ{l} at y, x with a at y + i, x + k",
    expected="∂C/∂w{l} = (1/n) Σ δ{l} at y, x with a at y + i − p, x + k − p",
    step="weights",
)
def gradient_padding_shifted(d, l, delta):
    return _correlated(d, l, delta, None, ((0, 0), (0, 0)))


@mistake(
    "last place only in the gradient of the kernel",
    "every place overwrites the one before it: = for +=, so that only the last one counts",
    have="∂C/∂w{l} = (1/n) Σ over x of the last place",
    expected="∂C/∂w{l} = (1/n) Σ over x and places",
    step="weights",
)
def gradient_of_last_place(d, l, delta):
    of(d.layer(l), Conv)
    last = np.zeros_like(delta)
    last[:, -1, -1] = delta[:, -1, -1]
    return d.weights(l, last)


def _correlated(d, l, delta, strides, margins):
    layer = d.layer(l)
    of(layer, Conv)
    sizes, right_strides, right_margins = layer.geometry(d.a[l - 1].shape[1:])
    if (strides or right_strides) == right_strides and (margins or right_margins) == right_margins:
        raise ValueError("nothing would be different")
    strides, margins = strides or right_strides, margins or right_margins
    image = np.pad(d.a[l - 1], ((0, 0), *right_margins, (0, 0)))
    if margins != right_margins:
        image = np.pad(d.a[l - 1], ((0, 0), *((0, sum(m)) for m in right_margins), (0, 0)))
    total = np.zeros_like(d.w(l))
    for y, x in itertools.product(range(delta.shape[1]), range(delta.shape[2])):
        rows = slice(y * strides[0], y * strides[0] + sizes[0])
        columns = slice(x * strides[1], x * strides[1] + sizes[1])
        total += np.einsum("nj,nikc->jikc", delta[:, y, x], image[:, rows, columns])
    return total / d.n


@mistake(
    "b averaged over the places",
    "the errors are averaged over the places of the feature map, not added up",
    have="∂C/∂b{l} = (1/n) Σ mean over places of δ{l}",
    expected="∂C/∂b{l} = (1/n) Σ over x and places of δ{l}",
    step="biases",
)
def biases_over_places(d, l, delta):
    of(d.layer(l), Conv)
    return d.biases(l, delta) / np.prod(delta.shape[1:3])


@mistake(
    "b not summed over the places",
    "the errors are added up over the examples, not over the places of the feature map",
    have="∂C/∂b{l} = (1/n) Σ over x of δ{l}, one a place",
    expected="∂C/∂b{l} = (1/n) Σ over x and places of δ{l}",
    step="biases",
)
def biases_by_place(d, l, delta):
    of(d.layer(l), Conv)
    return delta.sum(0) / d.n


@mistake(
    "last place only in the gradient of b",
    "every place overwrites the one before it: = for +=, so that only the last one counts",
    have="∂C/∂b{l} = (1/n) Σ over x of the last place of δ{l}",
    expected="∂C/∂b{l} = (1/n) Σ over x and places of δ{l}",
    step="biases",
)
def biases_of_last_place(d, l, delta):
    of(d.layer(l), Conv)
    return delta[:, -1, -1].sum(0) / d.n


# Pools.


@mistake(
    "max-pool to all",
    "the error of a window goes to all of its inputs, not to the largest alone",
    have="∂C/∂a{l} = δ{next} for every input of the window",
    expected="∂C/∂a{l} = δ{next} for the largest input of the window, else 0",
    step="pull_back",
)
def max_to_all(d, l, delta):
    of(d.layer(l), MaxPool)
    return _pooled(d, l, delta, np.ones_like(_windows(d, l)))


@mistake(
    "max-pool to all, shared",
    "the error of a window is spread evenly, as in mean pooling, not handed to the largest input",
    have="∂C/∂a{l} = δ{next} / k² for every input of the window",
    expected="∂C/∂a{l} = δ{next} for the largest input of the window, else 0",
    step="pull_back",
)
def max_shared(d, l, delta):
    of(d.layer(l), MaxPool)
    return _pooled(d, l, delta, np.full_like(_windows(d, l), 1 / np.prod(d.layer(l).size)))


@mistake(
    "max-pool to all of tied entries",
    "where several inputs are the largest each of them gets the whole error",
    have="∂C/∂a{l} = δ{next} for every largest input of the window",
    expected="∂C/∂a{l} = δ{next} for one largest input of the window",
    step="pull_back",
)
def max_to_all_tied(d, l, delta):
    of(d.layer(l), MaxPool)
    inputs = _windows(d, l)
    return _pooled(d, l, delta, (inputs == d.z[l][:, :, :, None, None, :]).astype(float))


@mistake(
    "max-pool to the wrong of tied entries (the last)",
    "where several inputs are the largest the last of them gets the error, not the first",
    have="∂C/∂a{l} = δ{next} for the last of the largest inputs",
    expected="∂C/∂a{l} = δ{next} for the first of the largest inputs",
    step="pull_back",
)
def max_to_last_tied(d, l, delta):
    of(d.layer(l), MaxPool)
    return _pooled(d, l, delta, _winners(_windows(d, l), first=False))


@mistake(
    "max-pool to the first entry",
    "the error of a window goes to its first input, whichever is the largest",
    have="∂C/∂a{l} = δ{next} for the first input of the window",
    expected="∂C/∂a{l} = δ{next} for the largest input of the window",
    step="pull_back",
)
def max_to_first(d, l, delta):
    of(d.layer(l), MaxPool)
    shares = np.zeros_like(_windows(d, l))
    shares[:, :, :, 0, 0] = 1
    return _pooled(d, l, delta, shares)


@mistake(
    "max-pool to the smallest",
    "the error of a window goes to its smallest input",
    have="∂C/∂a{l} = δ{next} for the smallest input of the window",
    expected="∂C/∂a{l} = δ{next} for the largest input of the window",
    step="pull_back",
)
def max_to_smallest(d, l, delta):
    of(d.layer(l), MaxPool)
    return _pooled(d, l, delta, _winners(-_windows(d, l), first=True))


@mistake(
    "mean pool without 1/k²",
    "the error of a window goes to each of its k² inputs undivided",
    have="∂C/∂a{l} = δ{next}",
    expected="∂C/∂a{l} = δ{next} / k²",
    step="pull_back",
)
def mean_undivided(d, l, delta):
    of(d.layer(l), MeanPool)
    return _pooled(d, l, delta, np.ones_like(_windows(d, l)))


@mistake(
    "mean pool with 1/k for 1/k²",
    "the error of a window is divided by its side, not by its number of inputs",
    have="∂C/∂a{l} = δ{next} / k",
    expected="∂C/∂a{l} = δ{next} / k²",
    step="pull_back",
)
def mean_over_side(d, l, delta):
    of(d.layer(l), MeanPool)
    return _pooled(d, l, delta, np.full_like(_windows(d, l), 1 / d.layer(l).size[0]))


@mistake(
    "mean pool to the first entry",
    "the error of a window goes to its first input alone",
    have="∂C/∂a{l} = δ{next} for the first input of the window",
    expected="∂C/∂a{l} = δ{next} / k²",
    step="pull_back",
)
def mean_to_first(d, l, delta):
    of(d.layer(l), MeanPool)
    shares = np.zeros_like(_windows(d, l))
    shares[:, :, :, 0, 0] = 1
    return _pooled(d, l, delta, shares)


@mistake(
    "L2 pool without its quotient",
    "the error is multiplied by the inputs, but not divided by the length of the window",
    have="∂C/∂a{l} = δ{next} a",
    expected="∂C/∂a{l} = δ{next} a / √(Σ a²)",
    step="pull_back",
)
def l2_without_quotient(d, l, delta):
    of(d.layer(l), L2Pool)
    return _pooled(d, l, delta, _windows(d, l))


@mistake(
    "L2 pool without its numerator",
    "the error is divided by the length of the window, but not multiplied by the inputs",
    have="∂C/∂a{l} = δ{next} / √(Σ a²)",
    expected="∂C/∂a{l} = δ{next} a / √(Σ a²)",
    step="pull_back",
)
def l2_without_numerator(d, l, delta):
    of(d.layer(l), L2Pool)
    z = d.z[l][:, :, :, None, None, :]
    return _pooled(d, l, delta, np.broadcast_to(1 / z, _windows(d, l).shape))


@mistake(
    "L2 pool with 2a for a",
    "the square is derived, but the ½ of the square root is not",
    have="∂C/∂a{l} = δ{next} 2a / √(Σ a²)",
    expected="∂C/∂a{l} = δ{next} a / √(Σ a²)",
    step="pull_back",
)
def l2_doubled(d, l, delta):
    of(d.layer(l), L2Pool)
    return 2 * d.pull_back(l, delta)


def _pooled(d, l, delta, shares):
    layer = d.layer(l)
    pieces = shares * delta[:, :, :, None, None, :]
    return _folded(d, l, pieces, layer.size, layer.stride, ((0, 0), (0, 0)))


# Flattening.


@mistake(
    "flattened in another order (channels first)",
    "the error is put back into the image channel by channel, but was taken out with the channels "
    "fastest",
    have="∂C/∂a{l} = δ{next} as (C, H, W)",
    expected="∂C/∂a{l} = δ{next} as (H, W, C)",
    step="pull_back",
)
def unflattened_channels_first(d, l, delta):
    of(d.layer(l), Flatten)
    n, height, width, channels = d.a[l - 1].shape
    return delta.reshape(n, channels, height, width).transpose(0, 2, 3, 1)


@mistake(
    "flattened in another order (columns first)",
    "the error is put back into the image column by column, but was taken out row by row",
    have="∂C/∂a{l} = δ{next} as (W, H, C)",
    expected="∂C/∂a{l} = δ{next} as (H, W, C)",
    step="pull_back",
)
def unflattened_columns_first(d, l, delta):
    of(d.layer(l), Flatten)
    n, height, width, channels = d.a[l - 1].shape
    return delta.reshape(n, width, height, channels).transpose(0, 2, 1, 3)


@mistake(
    "flattened in another order (Fortran)",
    "the error is put back into the image with the first axis fastest",
    have="∂C/∂a{l} = δ{next} as (H, W, C), first axis fastest",
    expected="∂C/∂a{l} = δ{next} as (H, W, C), last axis fastest",
    step="pull_back",
)
def unflattened_fortran(d, l, delta):
    of(d.layer(l), Flatten)
    shape = d.a[l - 1].shape
    return np.stack([row.reshape(shape[1:], order="F") for row in delta])


class _ChannelsFirst(Flatten):
    """The image as a vector, channel by channel."""

    def forward(self, params, a, key):
        return a.transpose(2, 0, 1).reshape(-1), a

    def pull_back(self, params, cache, delta):
        height, width, channels = cache.shape
        return delta.reshape(channels, height, width).transpose(1, 2, 0)


@mistake(
    "flattened in another order, both ways (channels first)",
    "the image is flattened channel by channel, where this network has the channels fastest",
    have="a{l} = a as (C, H, W), flattened",
    expected="a{l} = a as (H, W, C), flattened",
    step="layer",
)
def flattened_channels_first(d, l):
    of(d.layer(l), Flatten)
    return _ChannelsFirst()


class _Convolution(Conv):
    """A convolution in the strict sense: the correlation with the kernel turned by 180°."""

    def forward(self, params, a, key):
        return super().forward(self._turned(params), a, key)

    def pull_back(self, params, cache, delta):
        return super().pull_back(self._turned(params), cache, delta)

    def gradients(self, cache, delta):
        return self._turned(super().gradients(cache, delta))

    def _turned(self, params):
        return params._replace(w=params.w[:, ::-1, ::-1])


@mistake(
    "kernel turned, forward and backward",
    "the forward pass is a convolution in the strict sense, with the kernel turned by 180°; this "
    "network correlates",
    have="z{l} = kernel turned by 180°, correlated with a{prev}",
    expected="z{l} = kernel correlated with a{prev}",
    step="layer",
)
def convolution_for_correlation(d, l):
    layer = d.layer(l)
    of(layer, Conv)
    return _Convolution(layer.filters, layer.kernel, layer.stride, layer.padding, layer.activation)
