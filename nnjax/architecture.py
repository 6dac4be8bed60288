"""Architectures as readable text, and a table of what a network consists of.

    conv20k5 pool2 conv40k5 pool2 dense100 dropout0.5

reads, from the input to the output (the output layer itself follows from the number of classes):

    conv20k5        20 filters of 5x5; conv20k3x5: 3 high, 5 wide
      s2, s2x1      ... with this stride
      p1, p1x2      ... with this many zeros around the image; same: as many as keep its size
      d2, d2x1      ... with the inputs of each neuron this far apart (dilation)
      g2            ... with filters and channels in this many groups
    pool2, pool3s2  max-pooling, windows of 2x2; of 3x3 with stride 2
    meanpool2, l2pool2
    dense100        100 neurons; an image is flattened first
    dropout0.5      drop half of the inputs in training
    flatten
    layernorm       mean 0 and variance 1 over the features of each example
    add2            add what went into the second layer before: "dense30 dense30 add2" is a
                    residual block of two layers
    :tanh           after conv, dense, layernorm or add: this activation instead of the usual one
    *3              after anything: three times over

VGG-16 is `conv64k3same*2 pool2 conv128k3same*2 pool2 conv256k3same*3 pool2 conv512k3same*3 pool2
conv512k3same*3 pool2 dense4096 dropout0.5 dense4096 dropout0.5`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax

from nnjax.activations import Activation, relu, sigmoid
from nnjax.checks import require_instance, require_size
from nnjax.display import shape_text, table
from nnjax.initializers import Initializer, default
from nnjax.layers import LAYERS, Conv, Dense, Dropout, Flatten, Layer, MaxPool
from nnjax.layers.base import Shape
from nnjax.layers.residual import next_shape
from nnjax.losses import Loss, log_likelihood, require_loss
from nnjax.network import Network, require_network

__all__ = ["LayerSummary", "Summary", "convnet", "describe", "parse", "summary"]

_EXAMPLES = "conv20k5, pool2, meanpool2, l2pool2, dense100, dropout0.5, flatten, layernorm, add2"


def parse(
    text: str,
    input_shape: Shape,
    n_out: int,
    activation: Activation = sigmoid,
    output: Activation | None = None,
    loss: Loss = log_likelihood,
    initializer: Initializer = default,
) -> Network:
    """Return the network that a text describes, with its output layer.

    Args:
        text: such as "conv20k5 pool2 dense100"; the words are explained at the top of this
            module. Empty: the output layer alone.
        input_shape: of one example, (height, width, channels) or (n_in,).
        n_out: the number of outputs: a Dense layer of this size comes last.
        activation: of conv and dense layers that name none.
        output: of the output layer; None: the one that suits the loss, `loss.output`.
        loss: one of `nnjax.losses`.
        initializer: how every layer starts.

    Raises:
        ValueError: if a word does not parse, or its layer does not fit; the message shows where.

    Example:
        >>> import nnjax
        >>> net = nnjax.architecture.parse("conv20k5 pool2 dense100", (28, 28, 1), 10)
        >>> net.shapes
        ((28, 28, 1), (24, 24, 20), (12, 12, 20), (2880,), (100,), (10,))
    """
    # Checked, and always a tuple.
    shapes = [Network(input_shape, [Flatten()], loss).input_shape]
    layers: list[Layer] = []
    if not isinstance(text, str):
        raise TypeError(f'text is {text!r}; expected one string, such as "conv20k5 pool2 dense100"')
    for word in re.finditer(r"\S+", text):
        try:
            new = _layers(word.group(), shapes[-1], activation, initializer)
            for layer in new:
                shapes.append(next_shape(layer, shapes))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{error}\n{_where(text, *word.span())}") from None
        layers += new
    last = [Dense(n_out, output or loss.output, initializer)]
    flat = [Flatten()] if len(shapes[-1]) > 1 else []
    return Network(input_shape, [*layers, *flat, *last], loss)


def convnet(
    input_shape: Shape,
    n_out: int,
    filters: Sequence[int] = (20, 40),
    hidden: Sequence[int] = (100,),
    kernel: int = 5,
    pool: int = 2,
    dropout: float = 0.0,
    activation: Activation = relu,
    output: Activation | None = None,
    loss: Loss = log_likelihood,
    initializer: Initializer = default,
) -> Network:
    """Return the usual stack: convolutions, each with max-pooling, then fully connected layers.

    Args:
        input_shape: (height, width, channels).
        n_out: the number of outputs.
        filters: of each convolution.
        hidden: sizes of the fully connected layers before the output.
        kernel: of every convolution, a square.
        pool: size of the max-pooling after each convolution; 1: none.
        dropout: rate before each fully connected layer, the output too; 0: none.
        activation: of all layers but the output.
        output: of the output layer; None: the one that suits the loss, `loss.output`.
        loss: one of `nnjax.losses`.
        initializer: how every layer starts.

    Raises:
        ValueError: if the image becomes too small on the way, or a size is not a positive integer.

    Example:
        >>> import nnjax
        >>> print(nnjax.summary(nnjax.convnet((28, 28, 1), 10)))
        layer             output         parameters
        input             28 x 28 x 1
        conv20k5:relu     24 x 24 x 20          520
        pool2             12 x 12 x 20            0
        conv40k5:relu     8 x 8 x 40         20,040
        pool2             4 x 4 x 40              0
        flatten           640                     0
        dense100:relu     100                64,100
        dense10:softmax   10                  1,010
        total                                85,670
    """
    for name, sizes in (("filters", filters), ("hidden", hidden)):
        if not isinstance(sizes, Sequence) or isinstance(sizes, str):
            raise ValueError(f"{name} is {sizes!r}; expected several sizes, such as (20,)")
    require_loss(loss)
    stack: list[Layer] = []
    for n in filters:
        stack.append(Conv(n, kernel, activation=activation, initializer=initializer))
        if pool != 1:
            stack.append(MaxPool(pool))
    stack.append(Flatten())
    for n, function in [*((n, activation) for n in hidden), (n_out, output or loss.output)]:
        if dropout:
            stack.append(Dropout(dropout))
        stack.append(Dense(n, function, initializer))
    return Network(input_shape, stack, loss)


class LayerSummary(NamedTuple):
    """One line of a summary.

    Attributes:
        layer: the layer in the words of `parse`.
        out_shape: of one example.
        parameters: the number of weights and biases.
    """

    layer: str
    out_shape: Shape
    parameters: int


class Summary(NamedTuple):
    """What a network consists of; `str()` is a table.

    Attributes:
        input_shape: of one example.
        layers: one `LayerSummary` a layer.
        parameters: the number of weights and biases, of all layers together.
    """

    input_shape: Shape
    layers: tuple[LayerSummary, ...]
    parameters: int

    def __str__(self) -> str:
        rows = self._rows()
        first, second, third = (max(map(len, column)) for column in zip(*rows, strict=True))
        lines = [f"{a:{first}}   {b:{second}}   {c:>{third}}".rstrip() for a, b, c in rows]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return table(self._rows(), numbers_from=2)

    def _rows(self) -> list[tuple[str, str, str]]:
        rows = [("layer", "output", "parameters"), ("input", shape_text(self.input_shape), "")]
        rows += [
            (row.layer, shape_text(row.out_shape), f"{row.parameters:,}") for row in self.layers
        ]
        return [*rows, ("total", "", f"{self.parameters:,}")]


def summary(net: Network) -> Summary:
    """Return each layer of a network with its output shape and number of parameters.

    Nothing is computed and no memory taken, however large the network.

    Args:
        net: the network.

    Example:
        >>> import nnjax
        >>> nnjax.summary(nnjax.mlp([784, 30, 10])).parameters
        23860
    """
    require_network(net)
    key = jax.eval_shape(lambda: jax.random.key(0))
    rows = []
    for layer, before, after in zip(net.layers, net.shapes[:-1], net.shapes[1:], strict=True):
        params = jax.eval_shape(lambda k, layer=layer, shape=before: layer.init(k, shape), key)
        n = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
        rows.append(LayerSummary(describe(layer), after, n))
    return Summary(net.input_shape, tuple(rows), sum(row.parameters for row in rows))


def describe(layer: Layer) -> str:
    """Return a layer in the words of `parse`, with its activation; others as they print.

    Raises:
        TypeError: if it is not a layer.

    Example:
        >>> import nnjax
        >>> nnjax.architecture.describe(nnjax.Conv(64, 3, padding="same", activation=nnjax.relu))
        'conv64k3same:relu'
    """
    return require_instance(layer, Layer, "layer", "a layer such as nnjax.Dense(5)").word()


def _layers(word, shape, activation, initializer):
    """Return the layers that one word stands for, given the shape that comes in."""
    [(body, times)] = re.findall(r"^(.*?)(?:\*(\d+))?$", word)
    for kind in LAYERS.values():
        if found := re.fullmatch(kind.name + kind.pattern, body):
            layer = kind.parse(found.groups(), activation, initializer)
            break
    else:
        raise ValueError(
            f"the architecture does not parse at {word!r}; expected words such as {_EXAMPLES}"
        )
    flat = [Flatten()] if isinstance(layer, Dense) and len(shape) > 1 else []
    return flat + [layer] * require_size(int(times or 1), f"times of {word}")


def _where(text, start, end):
    """Return the line of the text that the word is in, and below it marks under the word."""
    line_start = text.rfind("\n", 0, start) + 1
    line = text[line_start:].split("\n")[0]
    return f"  {line}\n  {' ' * (start - line_start)}{'^' * (end - start)}"
