"""Convolution: the same small weights at every place of the image.

Legend: H, W, C the image that comes in (channels last), kh, kw the kernel, J filters, oh, ow the
feature maps, T = oh·ow places, K = kh·kw·C inputs of one neuron, sh, sw the stride, dh, dw the
dilation, G groups.

    z_{y,x,j} = b_j + Σ_{i,k,c} w_{j,i,k,c} a_{sh·y+i, sw·x+k, c}              (eq. 125 of the book)

Write the window at every place as a row of X (T, K), which is `unfold`, and w as (J, K). Then
z = X wᵀ + b, a dense layer that meets T rows instead of one, and so is its backward pass:

    BP2   ∂C/∂X = δ w (T, K); every row goes back to the inputs it was copied from, and an input
          that lies in several windows gets the sum: ∂C/∂a = fold(δ w)
    BP3   ∂C/∂b_j = Σ_t δ_{t,j}
    BP4   ∂C/∂w = δᵀ X (J, K)

The same without patches, with stride 1: input p meets weight i in the output y = p − i, so
∂C/∂a_p = Σ_i w_i δ_{p−i}, which correlates δ, padded by kernel − 1 on every side ("full"), with
the kernel turned by 180°; and ∂C/∂w_i = Σ_y δ_y a_{y+i} correlates a with δ. With a stride, zeros
stand between the entries of δ in both. With a dilation the inputs of a window lie (dh, dw) apart,
a_{sh·y+dh·i, sw·x+dw·k, c}, and zeros stand between the weights. With G groups there are G
convolutions side by side: J/G filters each, which see C/G channels each.

Both forms are written out in `nnjax.layers.products` and give the same numbers: `patches`, three
matrix products, and `library`, where each formula is one call of `jax.lax.conv_general_dilated`.
`nnjax.layers.ways` chooses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from nnjax.activations import Activation, require_activation, sigmoid
from nnjax.checks import require_size
from nnjax.initializers import Initializer, default, require_initializer
from nnjax.layers import ways, words
from nnjax.layers.base import Affine, AffineLayer
from nnjax.layers.products import Library, Patches, library, patches
from nnjax.layers.rows import Geometry, places_per_row, widened
from nnjax.layers.windows import Pair, extent, pair, require_image
from nnjax.pieces import wide_product

__all__ = ["Conv", "Geometry", "Library", "Patches", "library", "patches"]


@dataclass(frozen=True)
class Conv(AffineLayer):
    """`filters` feature maps, each the correlation of the image with a kernel of its own.

    With the window at every place as a row of X (`unfold`), z = X wᵀ + b: a dense layer that all
    places share. Backward it is one too: ∂C/∂X = δ w, and an input that lies in several windows
    gets the sum, ∂C/∂a = fold(δ w); ∂C/∂b is δ summed over the places, ∂C/∂w = δᵀ X. With stride 1,
    ∂C/∂a is the same as δ, padded by kernel − 1, correlated with the kernel turned by 180°.

    On CPUs an input that is NaN or infinite may make NaN of neighbouring places that do not see it.

    Args:
        filters: J, the number of feature maps.
        kernel: its size, one number or (height, width).
        stride: from one place to the next, likewise.
        padding: zeros laid around the image: one number, (above and below, left and right),
            "valid" (none) or "same" (as many as make the output ⌈size / stride⌉; where the number
            is odd, the extra one comes below and on the right).
        activation: what follows z.
        initializer: how w (filters, kh, kw, C / groups) and b (filters,) start;
            n_in = kh·kw·C / groups.
        dilation: how far apart the inputs of a window lie, one number or (height, width).
        groups: how many parts filters and channels are divided into; the filters of a part see
            its channels alone. As many groups as channels: a depthwise convolution.

    Raises:
        ValueError: if a size is not a positive integer, the padding is none of the above, the
            input is not an image, the kernel is larger than the image, or filters or channels
            cannot be divided into the groups.
        TypeError: if the activation or the initializer is not one of nnjax.

    Example:
        >>> import nnjax
        >>> nnjax.Conv(20, 5, activation=nnjax.relu).out_shape((28, 28, 1))
        (24, 24, 20)
        >>> nnjax.Conv(64, 3, stride=2, padding="same").out_shape((7, 7, 8))
        (4, 4, 64)

    Reference: Nielsen 2015, chapter 6; LeCun et al. 1998.
    """

    name = "conv"
    pattern = (
        rf"(\d+)k{words.PAIR}(?:s{words.PAIR})?(?:p{words.PAIR}|(same))?"
        rf"(?:d{words.PAIR})?(?:g(\d+))?{words.FUNCTION}"
    )

    filters: int
    kernel: int | Pair
    stride: int | Pair = 1
    padding: int | Pair | Literal["same", "valid"] = 0
    activation: Activation = sigmoid
    initializer: Initializer = default
    dilation: int | Pair = 1
    groups: int = 1

    def __post_init__(self):
        require_size(self.filters, "filters of Conv")
        require_size(self.groups, "groups of Conv")
        if self.filters % self.groups:
            raise ValueError(
                f"groups of Conv is {self.groups}, which does not divide its {self.filters} filters"
            )
        require_activation(self.activation, "activation of Conv")
        require_initializer(self.initializer, "initializer of Conv")
        object.__setattr__(self, "kernel", pair(self.kernel, "kernel of Conv"))
        object.__setattr__(self, "stride", pair(self.stride, "stride of Conv"))
        object.__setattr__(self, "dilation", pair(self.dilation, "dilation of Conv"))
        if self.padding == "valid":
            object.__setattr__(self, "padding", (0, 0))
        elif isinstance(self.padding, str) and self.padding != "same":
            raise ValueError(
                f"padding of Conv is {self.padding!r}; expected 'same', 'valid', an integer or a "
                "pair (height, width)"
            )
        elif self.padding != "same":
            object.__setattr__(self, "padding", pair(self.padding, "padding of Conv", at_least=0))

    def out_shape(self, in_shape):
        require_image(in_shape, "Conv")
        if in_shape[-1] % self.groups:
            raise ValueError(
                f"groups of Conv is {self.groups}, which does not divide the {in_shape[-1]} "
                "channels that come in"
            )
        geometry = self.geometry(in_shape)
        height, width = geometry.places(in_shape)
        if not height or not width:
            (kh, kw), (top_bottom, left_right) = geometry.extents, geometry.margins
            raise ValueError(
                f"Conv has a kernel of {kh}x{kw}, larger than the image of "
                f"{in_shape[0] + sum(top_bottom)}x{in_shape[1] + sum(left_right)} (padding counted "
                "in); take a smaller one or more padding"
            )
        return (height, width, self.filters)

    def w_shape(self, in_shape):
        kernel: Any = self.kernel  # a pair since __post_init__
        return (self.filters, *kernel, in_shape[-1] // self.groups)

    def forward(self, params, a, key):
        self.out_shape(a.shape)
        if params.w.shape != self.w_shape(a.shape):
            raise ValueError(
                f"w of Conv has shape {params.w.shape}; for an image of shape {a.shape} expected "
                f"{self.w_shape(a.shape)}"
            )
        z = ways.correlate(params.w, a, self.geometry(a.shape))
        return z + params.b.reshape(1, 1, -1), a

    def inputs(self, cache):
        if self.groups > 1:
            raise TypeError(f"{self} has {self.groups} groups, each of which has inputs of its own")
        x = patches.unfold(cache, self.geometry(cache.shape))
        return x.reshape(*x.shape[:-3], -1, x.shape[-1])

    def pull_back(self, params, cache, delta):
        return ways.pull_back(params.w, delta, cache.shape, self.geometry(cache.shape))

    def gradients(self, cache, delta):
        return Affine(
            w=ways.weight_gradient(cache, delta, self.geometry(cache.shape)),  #       BP4
            b=_sum_over_places(delta),  #                                              BP3
        )

    def patch_numbers(self, in_shape):
        if jax.default_backend() != "cpu":  # no patches are made: see `nnjax.layers.ways`
            return 0
        geometry = self.geometry(in_shape)
        w_shape = (self.filters // self.groups, *self.w_shape(in_shape)[1:])
        wide = widened(geometry, places_per_row(w_shape, in_shape, geometry))
        return math.prod(wide.places(in_shape)) * math.prod(wide.kernel) * in_shape[-1]

    def geometry(self, in_shape):
        """Return where the windows lie on an image (..., H, W, C) that comes in."""
        kernel: Any = self.kernel
        stride: Any = self.stride
        dilation: Any = self.dilation
        padding: Any = self.padding
        if padding == "same":
            extents = map(extent, kernel, dilation)
            top_bottom, left_right = map(_same, in_shape[-3:-1], extents, stride)
        else:
            top_bottom, left_right = ((p, p) for p in padding)
        return Geometry(kernel, stride, (top_bottom, left_right), dilation, self.groups)

    @classmethod
    def parse(cls, parts, activation, initializer):
        filters, kernel, stride, padding, same, dilation, groups, function = parts
        return cls(
            int(filters),
            words.numbers(kernel),
            words.numbers(stride or "1"),
            same or words.numbers(padding or "0"),
            words.activation(function, activation),
            initializer,
            words.numbers(dilation or "1"),
            int(groups or 1),
        )

    def word(self):
        kernel: Any = self.kernel
        stride: Any = self.stride
        padding: Any = self.padding
        dilation: Any = self.dilation
        step = "" if stride == (1, 1) else f"s{words.pair_text(stride)}"
        zeros = {"same": "same", (0, 0): ""}.get(padding, f"p{words.pair_text(padding)}")
        rest = "" if dilation == (1, 1) else f"d{words.pair_text(dilation)}"
        rest += "" if self.groups == 1 else f"g{self.groups}"
        function = words.function(self.activation)
        return f"{self.name}{self.filters}k{words.pair_text(kernel)}{step}{zeros}{rest}{function}"


def _sum_over_places(delta):
    """Return Σ_t δ_t (J,) in float32 at least, given δ (..., oh, ow, J).

    By a product with ones, so that δ is written once, for this and for BP4, and over whole rows of
    the feature maps first, which are long.
    """
    width, filters = delta.shape[-2:]
    rows = delta.reshape(-1, width * filters)
    sums = wide_product(jnp.ones(rows.shape[0], rows.dtype), rows)
    return jnp.sum(sums.reshape(width, filters), axis=0)


def _same(length, kernel, stride):
    zeros = max((-(-length // stride) - 1) * stride + kernel - length, 0)
    return zeros // 2, zeros - zeros // 2
