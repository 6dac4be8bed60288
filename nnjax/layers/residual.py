"""Residual blocks: what comes in is added to what comes out.

A block is written down with its layers inside, `Residual(Dense(30), Dense(30))`, but a network
holds all its layers in one row: those of the block, and `Add`, which closes it. So the errors and
gradients of the layers inside are those of any other layer, for BP1 to BP4 and for all that is
made of them. The one new thing is that a^k goes two ways, into the layer that follows and straight
to the sum z = a + a^k, and what comes back along both is added up: BP2 with a second term.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nnjax.activations import Activation, identity, require_activation
from nnjax.checks import require_size
from nnjax.layers import words
from nnjax.layers.base import Layer, Shape

__all__ = ["Add", "Residual", "in_a_row", "next_shape"]


@dataclass(frozen=True)
class Add(Layer):
    """z = a + a^k: to what comes in is added what went into the layer `skip` places before.

    Backward: ∂C/∂a = δ, and as much goes back to a^k, where BP2 adds it to what comes through the
    layers in between. `Residual` puts it in its place.

    Args:
        skip: how many layers lie in between, at least 1.
        activation: what follows z.

    Raises:
        ValueError: if skip is not a positive integer.
        TypeError: if the activation is not one of nnjax.

    Example:
        >>> import nnjax
        >>> net = nnjax.architecture.parse("dense30 dense30 dense30 add2", (784,), 10)
        >>> net.layers[3]
        Add(skip=2, activation=Identity())
    """

    name = "add"
    pattern = rf"(\d+){words.FUNCTION}"

    skip: int
    activation: Activation = identity

    def __post_init__(self):
        require_size(self.skip, "skip of Add")
        require_activation(self.activation, "activation of Add")

    def out_shape(self, in_shape):
        return in_shape

    def forward(self, params, a, key):
        return a, None  # the network adds what `skip` says

    def pull_back(self, params, cache, delta):
        return delta

    @classmethod
    def parse(cls, parts, activation, initializer):
        skip, function = parts
        return cls(int(skip), words.activation(function, identity))

    def word(self):
        function = "" if self.activation == identity else words.function(self.activation)
        return f"{self.name}{self.skip}{function}"


@dataclass(frozen=True, init=False)
class Residual:
    """A block of layers whose input is added to its output: a + block(a), then an activation.

    Args:
        *layers: those of the block, from its input to its output, which must have the shape of the
            input. A block may be one of them.
        activation: what follows the sum.

    Raises:
        TypeError: if there are none, or one is not a layer.

    Example:
        >>> import nnjax
        >>> block = nnjax.Residual(nnjax.LayerNorm(), nnjax.Dense(30, nnjax.relu))
        >>> net = nnjax.Network(784, [nnjax.Dense(30), block, nnjax.Dense(10)], nnjax.quadratic)
        >>> [layer.name for layer in net.layers]
        ['dense', 'layernorm', 'dense', 'add', 'dense']

    Reference: He, Zhang, Ren and Sun 2016, arXiv:1512.03385.
    """

    layers: tuple[Layer | Residual, ...]
    activation: Activation = identity

    def __init__(self, *layers: Layer | Residual, activation: Activation = identity):
        if not layers or not all(isinstance(layer, (Layer, Residual)) for layer in layers):
            raise TypeError(
                f"layers of Residual are {layers!r}; expected layers, such as "
                "Residual(nnjax.Dense(30), nnjax.Dense(30))"
            )
        require_activation(activation, "activation of Residual")
        object.__setattr__(self, "layers", layers)  # as the description is frozen
        object.__setattr__(self, "activation", activation)


def in_a_row(layers: Iterable[Any]) -> tuple[Any, ...]:
    """Return layers with every block replaced by its own ones and the sum that closes it.

    Example:
        >>> import nnjax
        >>> from nnjax.layers.residual import in_a_row
        >>> inner = nnjax.Residual(nnjax.Dense(3))
        >>> [layer.word() for layer in in_a_row([nnjax.Residual(inner, nnjax.Dense(3))])]
        ['dense3:sigmoid', 'add1', 'dense3:sigmoid', 'add3']
    """
    row: list[Any] = []
    for layer in layers:
        if isinstance(layer, Residual):
            inner = in_a_row(layer.layers)
            row += [*inner, Add(len(inner), layer.activation)]
        else:
            row.append(layer)
    return tuple(row)


def next_shape(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    """Return the shape that a layer gives, after layers that gave these, the first the input's.

    Raises:
        ValueError: if the layer does not fit what comes in, or what it adds has another shape.

    Example:
        >>> import nnjax
        >>> from nnjax.layers.residual import next_shape
        >>> next_shape(nnjax.layers.Add(1), [(5,), (3,)])
        Traceback (most recent call last):
        ...
        ValueError: Add(1) adds what has the shape (5,) to what comes in, of the shape (3,); \
expected the same shape before and after a residual block
    """
    shape = layer.out_shape(shapes[-1])
    if not layer.skip:
        return shape
    name = f"{type(layer).__name__}({layer.skip})"
    if layer.skip >= len(shapes):
        raise ValueError(
            f"{name} adds what went into the layer {layer.skip} places before, but there are "
            f"{len(shapes) - 1} before it"
        )
    added = shapes[-1 - layer.skip]
    if added != shape:
        raise ValueError(
            f"{name} adds what has the shape {added} to what comes in, of the shape {shape}; "
            "expected the same shape before and after a residual block"
        )
    return shape
