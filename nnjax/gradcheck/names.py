"""What edits are called: a name and a sentence for each operator and operand that has its own.

An edit without an entry here is named after what it does: "a⁻ left out", "z for a". In formulas of
the keys ⁺ and ⁻ stand for the layer after and the layer before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["NAMES", "Words", "filled", "rows", "words"]

# step, operator and operand | name | sentence
TABLE = """
error times σ' | σ' kept where it cancels | with this loss and output activation σ' cancels out of
    the output error, but it is multiplied in, as for the quadratic loss
error a − y | a − y where σ' does not cancel | a − y is the output error of sigmoid with
    cross-entropy and of softmax with log-likelihood, but not of this pair
error y → 1 | p − 1 in every class | 1 is subtracted from every output, not only from that of the
    right class
error drop y | targets left out | the targets y do not enter the output error
error a → z | z for a in the output error | the weighted input is compared with the targets, not the
    output

through drop σ'(z) | σ' missing | the error is not multiplied by the derivative of the activation
    function
through drop (1 where z > 0, else the slope) | σ' missing | the error is not multiplied by the
    derivative of the activation function
through drop [z > 0] | ReLU mask absent | the error passes neurons that are switched off: it is not
    multiplied by [z > 0]
through z → −z | ReLU mask inverted | the error passes where z ≤ 0 and is stopped where z > 0
through z → ∂C/∂a | ReLU mask of the error | the error is stopped where it is itself negative, not
    where z is
through (1 where z > 0, else the slope) → relu'(z) | leaky slope dropped | for z ≤ 0 the error is
    stopped, as for ReLU, where it should be multiplied by the slope
through another slope | another leaky slope | for z ≤ 0 the slope {t} is used
through z → a | σ' at a instead of z | σ' is evaluated at the activation, which has been through σ
    already
through a → z | σ' = σ(1 − σ) fed with z | the formula that takes the activation, a(1 − a) or 1 −
    a², is given z
through formula: a | half of σ' missing: a | of σ' only the factor a is there
through formula: 1 − a | half of σ' missing: 1 − a | of σ' only the factor 1 − a is there
through formula: 1 + a | half of σ' missing: 1 + a | of σ' only the factor 1 + a is there
through formula: a (1 − a) | σ' of the wrong function (a(1 − a)) | the formula of sigmoid's
    derivative is used, which is not this layer's activation function
through formula: 1 − a² | σ' of the wrong function (1 − a²) | the formula of tanh's derivative is
    used, which is not this layer's activation function
through constant | a constant in place of σ' | the error is multiplied by {t}, not by the derivative
    of the activation function
through twice σ'(z) | σ' applied twice | the error is multiplied by the derivative of the activation
    function twice
through z → z⁺ | σ' of the wrong layer (the next) | σ' is taken at the weighted input of the next
    layer
through z → z⁻ | σ' of the wrong layer (the previous) | σ' is taken at the weighted input of the
    layer before
through negate | the error with the wrong sign | the error changes its sign on its way back
through over n | the error divided by n | the error of every example is divided by the number of
    examples before it is propagated further
through scale | the error scaled | the error is multiplied by a constant, {t}, on its way back
through softmax: missing | softmax Jacobian missing | the error is not pulled back through the
    softmax
through softmax: diagonal | softmax Jacobian diagonal only | of the softmax's Jacobian ∂aⱼ/∂zₖ =
    aⱼ(δⱼₖ − aₖ) only the diagonal aⱼ(1 − aⱼ) is used
through softmax: twice | softmax Jacobian applied twice | the error goes through the softmax's
    Jacobian twice; with log-likelihood a − y has been through it already
through softmax: over examples | softmax: ⟨g, a⟩ over the wrong axis | in a ⊙ (g − Σ g a) the sum
    runs over the examples, not over the outputs
through softmax: without c | softmax scale dropped | the factor c of softmax(c z) is missing in its
    Jacobian

back w → (w)ᵀ | W not transposed | the error is multiplied by w itself, not by its transpose
back w → w⁻ | the wrong layer's W (the one before) | the error is pulled back through the weights of
    the layer it arrives at
back w → w⁺ | the wrong layer's W (the one after) | the error is pulled back through the weights of
    one layer too far
back w → w − {t} ∂C/∂w | updated W | the weights have been changed by a step of size {t} before the
    error is pulled back through them
back w → ∂C/∂w | gradient used as W | the error is pulled back through the gradient of the weights,
    not through the weights
back drop w | W left out | the error is handed back without the weights
back δ → δ⁺ | the error of the wrong layer | not the error of the next layer is pulled back, but
    that of the one after it
back turned kernel: turned | kernel not turned | the error is correlated with the kernel as it is,
    not turned by 180°
back turned kernel: transposed | kernel transposed | rows and columns of the kernel are interchanged
    in the backward pass
back turned kernel: channels swapped | kernel channels swapped | the kernel's input and output
    channels are interchanged in the backward pass
back turned kernel: channels reversed | kernel channels reversed | the kernel's input channels run
    backwards, as when it is turned in all its axes
back fold: not cropped | padding not cropped (shifted) | the error of the padded image is handed
    back from its first row and column on, so that it is shifted by the padding
back fold: cropped twice | padding cropped twice (shifted) | the error of the padded image is
    shifted by the padding, the other way
back fold: stride 1 | stride ignored | the error is spread as if the windows lay next to each other,
    one place apart
back fold: overwritten | = for += in overlapping windows | where windows overlap, the later one
    overwrites what the earlier ones left
back fold: first wins | = for += in overlapping windows (first wins) | where windows overlap only
    the first one counts
back max share: all | max-pool to all | the error of a window goes to all of its inputs, not to the
    largest alone
back max share: 1/k² | max-pool to all, shared | the error of a window is spread evenly, as in mean
    pooling, not handed to the largest input
back max share: tied | max-pool to all of tied entries | where several inputs are the largest each
    of them gets the whole error
back max share: last tied | max-pool to the wrong of tied entries (the last) | where several inputs
    are the largest the last of them gets the error, not the first
back max share: first entry | max-pool to the first entry | the error of a window goes to its first
    input, whichever is the largest
back max share: smallest | max-pool to the smallest | the error of a window goes to its smallest
    input
back mean share: all | mean pool without 1/k² | the error of a window goes to each of its k² inputs
    undivided
back mean share: 1/k | mean pool with 1/k for 1/k² | the error of a window is divided by its side,
    not by its number of inputs
back mean share: first entry | mean pool to the first entry | the error of a window goes to its
    first input alone
back mean share: largest | mean pool to the largest entry | the error of a window goes to its
    largest input alone, as in max-pooling
back drop 1 / z | L2 pool without its quotient | the error is multiplied by the inputs, but not
    divided by the length of the window
back drop a⁻ | L2 pool without its numerator | the error is divided by the length of the window, but
    not multiplied by the inputs
back double | L2 pool with 2a for a | the square is derived, but the ½ of the square root is not
back unflat: channels first | flattened in another order (channels first) | the error is put back
    into the image channel by channel, but was taken out with the channels fastest
back unflat: columns first | flattened in another order (columns first) | the error is put back into
    the image column by column, but was taken out row by row
back unflat: Fortran | flattened in another order (Fortran) | the error is put back into the image
    with the first axis fastest
back drop skip | skip connection missing in the backward pass | what comes back straight from the
    sum of the residual block is left out: only the error through the block is there
back drop (w)ᵀ δ | the block missing in the backward pass | only what comes straight from the sum of
    the residual block is there: the error through the block is left out
back negate skip | skip connection with the wrong sign | the error that comes back straight from the
    sum of the residual block is subtracted
back layernorm: constants | mean and variance taken for constants | the error is multiplied by γ / s
    alone, as if the mean and the variance of the features did not move with them
back layernorm: no mean | the mean taken for a constant | the error is handed back as if the mean
    of the features did not move with them
back layernorm: no variance | the variance taken for a constant | the error is handed back as if
    the variance of the features did not move with them
back layernorm: without γ | γ left out | the error is not multiplied by γ
back layernorm: without s | the standard deviation left out | the error is not divided by the
    standard deviation of the features
back layernorm: over examples | layer normalization over the wrong axis | the means in the backward
    pass run over the examples, not over the features
back drop m | dropout mask not applied | the error passes neurons that were dropped: the mask is not
    applied to it
back drop m and / (1 − rate) | dropout left out of the backward pass | the error passes the dropout
    layer unchanged
back drop / (1 − rate) | dropout not rescaled | the mask is applied to the error, but it is not
    divided by the probability to keep
back twice / (1 − rate) | dropout rescaled twice | the error is divided by the probability to keep
    twice
back m → m' | dropout mask drawn again | the mask applied to the error is not that of the forward
    pass

weights a⁻ → a | off by one in the activations (a^l for a^{l−1}) | the activations that come out of
    the layer are used, not those that go into it
weights a⁻ → a⁻⁻ | off by one in the activations (a^{l−2} for a^{l−1}) | the activations of one
    layer too early are used
weights a⁻ → z⁻ | z for a | the weighted inputs of the layer before are used, not its activations
weights a⁻ → x | x in every layer | the network's input is used where the activations of the layer
    before belong
weights δ → ∂C/∂a | σ' missing in the gradient of the weights | the error that meets the activations
    has not been multiplied by σ'(z)
weights δ → δ⁺ | the error of the wrong layer in the gradient of the weights | the error of the next
    layer meets the activations
weights outer: means | product of the means | the errors and the activations are averaged over the
    batch before they are multiplied
weights kernel gradient: turned | kernel gradient turned | the gradient of the kernel is turned by
    180°, as if the forward pass were a convolution
weights kernel gradient: transposed | kernel gradient transposed | rows and columns of the kernel's
    gradient are interchanged
weights kernel gradient: channels swapped | kernel gradient with its channels swapped | input and
    output channels of the kernel's gradient are interchanged
weights kernel gradient: mean of places | kernel gradient averaged over the places | the errors are
    averaged over the places of the feature map, not added up
weights kernel gradient: last place | last place only in the gradient of the kernel | every place
    overwrites the one before it: = for +=, so that only the last one counts
weights windows: stride 1 | stride ignored in the gradient of the kernel | the errors meet the
    inputs of windows one place apart
weights windows: not padded | padding shifted in the gradient of the kernel | the errors meet the
    inputs without the padding around them

biases total: neurons | b summed over the wrong axis | the errors are added up over the neurons, not
    over the examples
biases total: neurons, over n | b summed over the wrong axis, over n | the errors are added up over
    the neurons, not over the examples, and divided by n
biases total: mean of neurons | b averaged over the wrong axis | the errors are averaged over the
    neurons, not over the examples
biases total: everything | b summed over both axes | the errors are added up over examples and
    neurons: one number for all biases
biases total: mean of places | b averaged over the places | the errors are averaged over the places
    of the feature map, not added up
biases total: by place | b not summed over the places | the errors are added up over the examples,
    not over the places of the feature map
biases total: last place | last place only in the gradient of b | every place overwrites the one
    before it: = for +=, so that only the last one counts
biases δ → ∂C/∂a | σ' missing in the gradient of the biases | the error that is returned for the
    biases has not been multiplied by σ'(z)
biases δ → δ⁺ | the error of the wrong layer in the gradient of the biases | the error of the next
    layer is returned for the biases

affine drop skip | skip connection missing in the forward pass | the input of the residual block is
    not added to its output
affine drop b | b forgotten in the forward pass | the weighted inputs are computed without the
    biases
activate drop σ | activation missing in the forward pass | the weighted inputs are handed on as they
    are
activate twice σ | activation applied twice in the forward pass | the activations go through σ once
    more
activate over examples | softmax over the wrong axis | the softmax is normalised over the examples,
    not over the outputs
both turned | kernel turned, forward and backward | the forward pass is a convolution in the strict
    sense, with the kernel turned by 180°; this network correlates
both channels first | flattened in another order, both ways (channels first) | the image is
    flattened channel by channel, where this network has the channels fastest

pull-back J → (J)ᵀ | the Jacobian not transposed | the output weights are multiplied by the Jacobian
    itself: pushed forward, not pulled back
pull-back J → diag(J) | the diagonal of the Jacobian only | the function is treated as if it worked
    element by element
pull-back g → 1 | the output weights ignored | the derivative of the sum of the outputs is returned,
    whatever g is
pull-back drop J | the Jacobian missing | the output weights are handed back as they came
pull-back g → (J)ᵀ g | the Jacobian applied twice | the output weights are pulled back twice

v' negate μ v | momentum with the wrong sign | the velocity is subtracted where it should be kept up
v' drop μ v | momentum left out | the velocity of the step before does not enter
v' drop μ | friction left out | the velocity is not multiplied by μ
v' negate η ∇C | uphill | the gradient is added, not subtracted
v' drop η | learning rate left out | the gradient is not multiplied by η
v' ∇C → (1 − μ) ∇C | gradient damped by 1 − μ | the gradient is multiplied by 1 − μ, as in a moving
    average; the book's momentum does not
v' ∇C → ∇C + λ/n w | decay applied twice | the weights shrink by 1 − ηλ/n and the term λ/n w is in
    the gradient too
w' v' → v | the old velocity moves the weights | the weights are moved before the velocity is
    updated
w' negate v' | the velocity subtracted from the weights | the velocity points downhill already, and
    is subtracted
w' twice 1 − η λ/n | decay applied twice (shrunk twice) | the weights shrink by 1 − ηλ/n twice
w' drop η λ/n | decay left out | the weights do not shrink
w' negate η λ/n | decay with the wrong sign | the weights grow
w' drop η | decay without the learning rate | the weights shrink by 1 − λ/n, whatever η is
both decay | decay through the velocity | the term λ/n w is in the gradient, so that momentum
    gathers it; the book shrinks the weights apart from the velocity
"""


class Words(NamedTuple):
    """A mistake in words: a few, and a sentence."""

    name: str
    sentence: str


def rows(table: str) -> list[list[str]]:
    """Return the cells of a table in text: a line per row, continued by indented lines.

    Example:
        >>> rows("a | b\\n    c\\n\\nd | e")
        [['a', 'b c'], ['d', 'e']]
    """
    lines = table.replace("\n    ", " ").splitlines()
    return [line.split(" | ") for line in lines if line]


def filled(text: str, words: Mapping[str, str]) -> str:
    """Return a text with some of its words in braces filled in; the others stay.

    Example:
        >>> filled("{leaf} + {t}", {"leaf": "∂f/∂x"})
        '∂f/∂x + {t}'
    """
    for name, word in words.items():
        text = text.replace(f"{{{name}}}", word)
    return text


NAMES: dict[str, Words] = {key: Words(*rest) for key, *rest in rows(TABLE)}


def words(step: str, key: str) -> tuple[Words, bool]:
    """Return what an edit is called, and whether it has an entry of its own.

    Example:
        >>> words("through", "drop σ'(z)")[0].name, words("v'", "drop η ∇C")[0].name
        ("σ' missing", 'η ∇C left out')
    """
    own = NAMES.get(f"{step} {key}")
    if own is not None:
        return own, True
    operator, _, operand = key.partition(" ")
    if " → " in key:
        operand, other = key.split(" → ")
        return _replaced(operand, other), bool(other.endswith("'(z)"))
    if ": " in key:
        op, variant = key.split(": ")
        return Words(f"{op} ({variant})", f"another {op} is used: {variant}"), False
    derived = {
        "drop": Words(f"{operand} left out", f"{operand} is left out"),
        "twice": Words(f"{operand} counted twice", f"the factor {operand} is there twice"),
        "negate": Words(f"the sign of {operand}", f"{operand} has the wrong sign"),
        "layer": Words(
            f"another activation function ({operand})",
            f"the layer computes with {operand}, forward and backward, but has another activation",
        ),
    }
    return derived[operator], operator == "layer"


def _replaced(operand, other):
    if other.endswith("'(z)"):
        name = other.removesuffix("(z)")
        return Words(
            f"σ' of the wrong function ({name})",
            f"the derivative of {name[:-1]} is used, which is not this layer's activation function",
        )
    return Words(f"{other} for {operand}", f"{other} stands where {operand} belongs")
