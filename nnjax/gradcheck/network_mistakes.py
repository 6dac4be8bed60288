"""Mistakes in the backpropagation of a network: BP1 to BP4, and the forward pass they rest on.

Each function takes the right derivation d, the layer l and what its step takes (a `g`, a `delta`,
...; see `nnjax.gradcheck.derivation`), and returns what the step gives with the mistake made.
Where a mistake has no meaning, shapes do not fit and the edit fails, which is the answer.
"""

from __future__ import annotations

from dataclasses import replace

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
from nnjax.gradcheck.derivation import derivative, softmax_derivative
from nnjax.gradcheck.hypotheses import Undetermined, mistake
from nnjax.layers import Dropout

__all__ = ["another_activation", "another_layer", "of"]

BP2 = "δ{l} = (w{next})ᵀ δ{next} ⊙ σ'(z{l})"
BP4 = "∂C/∂w{l} = (1/n) Σ δ{l} (a{prev})ᵀ"
BP3 = "∂C/∂b{l} = (1/n) Σ δ{l}"


def of(thing, *kinds) -> None:
    """Raise TypeError unless `thing` is of one of these classes: the mistake is about them."""
    if not isinstance(thing, kinds):
        raise TypeError(f"{thing} is none of {kinds}")


def _not_of(thing, *kinds):
    if isinstance(thing, kinds):
        raise TypeError(f"for {thing} the same mistake has another name")


# BP1: the error at the output.


def _where_it_cancels(d):
    if not d.canonical:
        raise TypeError("δ is not a − y here")


@mistake(
    "σ' kept where it cancels",
    "with this loss and output σ' cancels out of the output error, but it is multiplied in; so "
    "the error of the quadratic loss is",
    have="δ{l} = (a{l} − y) ⊙ σ'(z{l})",
    expected="δ{l} = a{l} − y",
    step="output_error",
)
def kept_where_it_cancels(d, l):
    _where_it_cancels(d)
    soft = isinstance(d.activation(l), Softmax)
    return (d.a[l] - d.y) * (softmax_derivative(d, l) if soft else d.slopes[l])


@mistake(
    "a − y where σ' does not cancel",
    "a − y is the output error of sigmoid with cross-entropy and of softmax with log-likelihood, "
    "but not of this pair",
    have="δ{l} = a{l} − y",
    expected="δ{l} = ∂C/∂a{l} ⊙ σ'(z{l})",
    step="output_error",
)
def canonical_elsewhere(d, l):
    if np.allclose(d.loss_gradient(), d.a[l] - d.y):
        raise TypeError("for the quadratic loss this is σ' missing")
    return d.a[l] - d.y


@mistake(
    "p − 1 in every class",
    "1 is subtracted from every output, not only from that of the right class",
    have="δ{l}ⱼ = a{l}ⱼ − 1 for every j",
    expected="δ{l}ⱼ = a{l}ⱼ − yⱼ",
    step="output_error",
)
def one_in_every_class(d, l):
    _where_it_cancels(d)
    return d.a[l] - 1


@mistake(
    "targets left out",
    "the targets y do not enter the output error",
    have="δ{l} = a{l}",
    expected="δ{l} = a{l} − y",
    step="output_error",
)
def no_targets(d, l):
    _where_it_cancels(d)
    return d.a[l]


@mistake(
    "z for a in the output error",
    "the weighted input is compared with the targets, not the output",
    have="δ{l} = z{l} − y",
    expected="δ{l} = a{l} − y",
    step="output_error",
)
def weighted_input_compared(d, l):
    _where_it_cancels(d)
    return d.z[l] - d.y


# BP2, second half: the activation function.


@mistake(
    "σ' missing",
    "the error is not multiplied by the derivative of the activation function",
    have="δ{l} = {arrives}",
    expected="δ{l} = {arrives} ⊙ σ'(z{l})",
    step="through",
)
def derivative_missing(d, l, g):
    of(d.activation(l), Elementwise)
    _not_of(d.activation(l), ReLU)
    return g


@mistake(
    "ReLU mask absent",
    "the error passes neurons that are switched off: it is not multiplied by [z > 0]",
    have="δ{l} = {arrives}",
    expected="δ{l} = {arrives} ⊙ [z{l} > 0]",
    step="through",
)
def mask_absent(d, l, g):
    of(d.activation(l), ReLU)
    return g


@mistake(
    "ReLU mask inverted",
    "the error passes where z ≤ 0 and is stopped where z > 0",
    have="δ{l} = {arrives} ⊙ [z{l} ≤ 0]",
    expected="δ{l} = {arrives} ⊙ [z{l} > 0]",
    step="through",
)
def mask_inverted(d, l, g):
    of(d.activation(l), ReLU, LeakyReLU)
    return g * derivative(d.activation(l), -d.z[l])


@mistake(
    "ReLU mask of the error",
    "the error is stopped where it is itself negative, not where z is",
    have="δ{l} = max(0, {arrives})",
    expected="δ{l} = {arrives} ⊙ [z{l} > 0]",
    step="through",
)
def mask_of_error(d, l, g):
    of(d.activation(l), ReLU)
    return np.maximum(g, 0)


@mistake(
    "leaky slope dropped",
    "for z ≤ 0 the error is stopped, as for ReLU, where it should be multiplied by the slope",
    have="δ{l} = {arrives} ⊙ [z{l} > 0]",
    expected="δ{l} = {arrives} ⊙ (1 where z{l} > 0, else the slope)",
    step="through",
)
def leaky_slope_dropped(d, l, g):
    of(d.activation(l), LeakyReLU)
    return g * (d.z[l] > 0)


@mistake(
    "another leaky slope",
    "for z ≤ 0 the slope {t} is used",
    have="δ{l} = {arrives} ⊙ (1 where z{l} > 0, else {t})",
    expected="δ{l} = {arrives} ⊙ (1 where z{l} > 0, else the slope)",
    step="through",
    fitted=True,
)
def another_leaky_slope(d, l, g, t):
    of(d.activation(l), LeakyReLU)
    return g * np.where(d.z[l] > 0, 1.0, t)


@mistake(
    "σ' at a instead of z",
    "σ' is evaluated at the activation, which has been through σ already",
    have="δ{l} = {arrives} ⊙ σ'(a{l})",
    expected="δ{l} = {arrives} ⊙ σ'(z{l})",
    step="through",
)
def derivative_at_a(d, l, g):
    of(d.activation(l), Elementwise)
    return g * d.derivative(l, d.a[l])


@mistake(
    "σ' = σ(1 − σ) fed with z",
    "the formula that takes the activation, a(1 − a) or 1 − a², is given z",
    have="δ{l} = {arrives} ⊙ σ', computed from z{l} as if it were a{l}",
    expected="δ{l} = {arrives} ⊙ σ', computed from a{l}",
    step="through",
)
def formula_of_a_at_z(d, l, g):
    of(d.activation(l), Sigmoid, Tanh)
    z = d.z[l]
    return g * (z * (1 - z) if isinstance(d.activation(l), Sigmoid) else 1 - z**2)


@mistake(
    "half of σ' missing: a",
    "of σ' = a(1 − a) only a is there",
    have="δ{l} = {arrives} ⊙ a{l}",
    expected="δ{l} = {arrives} ⊙ a{l} (1 − a{l})",
    step="through",
)
def only_a(d, l, g):
    of(d.activation(l), Sigmoid)
    return g * d.a[l]


@mistake(
    "half of σ' missing: 1 − a",
    "of σ' = a(1 − a) or (1 − a)(1 + a) only 1 − a is there",
    have="δ{l} = {arrives} ⊙ (1 − a{l})",
    expected="δ{l} = {arrives} ⊙ σ'(z{l})",
    step="through",
)
def only_one_minus_a(d, l, g):
    of(d.activation(l), Sigmoid, Tanh)
    return g * (1 - d.a[l])


@mistake(
    "a constant in place of σ'",
    "the error is multiplied by {t}, not by the derivative of the activation function",
    have="δ{l} = {t} · {arrives}",
    expected="δ{l} = {arrives} ⊙ σ'(z{l})",
    step="through",
    fitted=True,
)
def constant_derivative(d, l, g, t):
    of(d.activation(l), Elementwise)
    return t * g


@mistake(
    "σ' applied twice",
    "the error is multiplied by the derivative of the activation function twice",
    have="δ{l} = {arrives} ⊙ σ'(z{l})²",
    expected="δ{l} = {arrives} ⊙ σ'(z{l})",
    step="through",
)
def derivative_twice(d, l, g):
    of(d.activation(l), Elementwise)
    if l == d.L and d.canonical:
        raise TypeError("there this is σ' kept where it cancels")
    return g * d.slopes[l] ** 2


@mistake(
    "σ' of the wrong layer (the next)",
    "σ' is taken at the weighted input of the next layer",
    have="δ{l} = {arrives} ⊙ σ'(z{next})",
    expected="δ{l} = {arrives} ⊙ σ'(z{l})",
    step="through",
)
def derivative_of_next(d, l, g):
    return g * d.derivative(l, d.z[l + 1])


@mistake(
    "σ' of the wrong layer (the previous)",
    "σ' is taken at the weighted input of the layer before",
    have="δ{l} = {arrives} ⊙ σ'(z{prev})",
    expected="δ{l} = {arrives} ⊙ σ'(z{l})",
    step="through",
)
def derivative_of_previous(d, l, g):
    if l < 2:
        raise IndexError("there is no layer before the first")
    return g * d.derivative(l, d.z[l - 1])


@mistake(
    "softmax Jacobian missing",
    "the error is not pulled back through the softmax",
    have="δ{l} = {arrives}",
    expected="δ{l} = a ⊙ (g − ⟨g, a⟩), g = {arrives}",
    step="through",
)
def softmax_missing(d, l, g):
    of(d.activation(l), Softmax)
    return g


@mistake(
    "softmax Jacobian diagonal only",
    "of the softmax's Jacobian ∂aⱼ/∂zₖ = aⱼ(δⱼₖ − aₖ) only the diagonal aⱼ(1 − aⱼ) is used",
    have="δ{l} = g ⊙ a(1 − a), g = {arrives}",
    expected="δ{l} = a ⊙ (g − ⟨g, a⟩), g = {arrives}",
    step="through",
)
def softmax_diagonal(d, l, g):
    of(d.activation(l), Softmax)
    return g * softmax_derivative(d, l)


@mistake(
    "softmax Jacobian applied twice",
    "the error goes through the softmax's Jacobian twice; with log-likelihood a − y has been "
    "through it already",
    have="δ{l} = J J g, g = {arrives}",
    expected="δ{l} = J g, g = {arrives}",
    step="through",
)
def softmax_twice(d, l, g):
    of(d.activation(l), Softmax)
    return d.through(l, d.through(l, g))


@mistake(
    "softmax: ⟨g, a⟩ over the wrong axis",
    "in a ⊙ (g − Σ g a) the sum runs over the examples, not over the outputs",
    have="δ{l} = a ⊙ (g − Σₓ g a)",
    expected="δ{l} = a ⊙ (g − Σⱼ gⱼ aⱼ)",
    step="through",
)
def softmax_sum_over_examples(d, l, g):
    of(d.activation(l), Softmax)
    if d.n == 1:
        raise Undetermined
    return d.activation(l).scale * d.a[l] * (g - (g * d.a[l]).sum(0))


@mistake(
    "softmax scale dropped",
    "the factor c of softmax(c z) is missing in its Jacobian",
    have="δ{l} = a ⊙ (g − ⟨g, a⟩)",
    expected="δ{l} = c a ⊙ (g − ⟨g, a⟩)",
    step="through",
)
def softmax_scale(d, l, g):
    of(d.activation(l), Softmax)
    return d.through(l, g) / d.activation(l).scale


def another_activation(name, activation, same_as=()):
    """Enter the mistake of using the derivative of `activation` in a layer that has another."""

    @mistake(
        f"σ' of the wrong function ({name}')",
        f"the derivative of {name} is used, which is not this layer's activation function",
        have=f"δ{{l}} = {{arrives}} ⊙ {name}'(z{{l}})",
        expected="δ{l} = {arrives} ⊙ σ'(z{l})",
        step="through",
    )
    def wrong_function(d, l, g):
        of(d.activation(l), Elementwise, Softmax)
        _not_of(d.activation(l), type(activation), *same_as)
        return g * derivative(activation, d.z[l])


another_activation("sigmoid", sigmoid)
another_activation("tanh", tanh)
another_activation("relu", relu, same_as=(LeakyReLU,))
another_activation("absolute", absolute)


@mistake(
    "the error with the wrong sign",
    "the error changes its sign on its way back",
    have="δ{l} = −{arrives} ⊙ σ'(z{l})",
    expected="δ{l} = {arrives} ⊙ σ'(z{l})",
    step="through",
)
def error_sign(d, l, g):
    _hidden(d, l)
    return -d.through(l, g)


@mistake(
    "the error divided by n",
    "the error of every example is divided by the number of examples before it travels on",
    have="δ{l} = (1/n) {arrives} ⊙ σ'(z{l})",
    expected="δ{l} = {arrives} ⊙ σ'(z{l})",
    step="through",
)
def error_over_n(d, l, g):
    _hidden(d, l)
    return d.through(l, g) / d.n


@mistake(
    "the error scaled",
    "the error is multiplied by a constant, {t}, on its way back",
    have="δ{l} = {t} · {arrives} ⊙ σ'(z{l})",
    expected="δ{l} = {arrives} ⊙ σ'(z{l})",
    step="through",
    fitted=True,
)
def error_scaled(d, l, g, t):
    _hidden(d, l)
    return t * d.through(l, g)


def _hidden(d, l):
    if l == d.L:
        raise TypeError("there this is the whole gradient, scaled")


# BP2, first half: the weights.


@mistake(
    "W not transposed",
    "the error is multiplied by w itself, not by its transpose",
    have="δ{l} = w{next} δ{next} ⊙ σ'(z{l})",
    expected=BP2,
    step="pull_back",
)
def not_transposed(d, l, delta):
    if d.w(l).ndim != 2:
        raise TypeError("only a matrix is transposed")
    return d.pull_back(l, delta, d.params[l - 1]._replace(w=d.w(l).T))


@mistake(
    "the wrong layer's W (the one before)",
    "the error is pulled back through the weights of the layer it arrives at",
    have="δ{l} = (w{l})ᵀ δ{next} ⊙ σ'(z{l})",
    expected=BP2,
    step="pull_back",
)
def previous_weights(d, l, delta):
    return d.pull_back(l, delta, d.params[l - 1]._replace(w=d.w(l - 1)))


@mistake(
    "the wrong layer's W (the one after)",
    "the error is pulled back through the weights of one layer too far",
    have="δ{l} = (w of the layer after {next})ᵀ δ{next} ⊙ σ'(z{l})",
    expected=BP2,
    step="pull_back",
)
def next_weights(d, l, delta):
    return d.pull_back(l, delta, d.params[l - 1]._replace(w=d.w(l + 1)))


@mistake(
    "updated W",
    "the weights have been changed by a step of size {t} before the error is pulled back through "
    "them",
    have="δ{l} = (w{next} − {t} ∂C/∂w{next})ᵀ δ{next} ⊙ σ'(z{l})",
    expected=BP2,
    step="pull_back",
    fitted=True,
)
def updated_weights(d, l, delta, t):
    stepped = d.w(l) - t * d.weights(l, delta)
    return d.pull_back(l, delta, d.params[l - 1]._replace(w=stepped))


@mistake(
    "gradient used as W",
    "the error is pulled back through the gradient of the weights, not through the weights",
    have="δ{l} = (∂C/∂w{next})ᵀ δ{next} ⊙ σ'(z{l})",
    expected=BP2,
    step="pull_back",
)
def gradient_as_weights(d, l, delta):
    return d.pull_back(l, delta, d.params[l - 1]._replace(w=d.weights(l, delta)))


@mistake(
    "W left out",
    "the error is handed back without the weights",
    have="δ{l} = δ{next} ⊙ σ'(z{l})",
    expected=BP2,
    step="pull_back",
)
def no_weights(d, l, delta):
    d.w(l)
    return np.broadcast_to(delta, d.a[l - 1].shape)


@mistake(
    "the error of the wrong layer",
    "not the error of the next layer is pulled back, but that of the one after it",
    have="δ{l} = (w{next})ᵀ δ of the layer after {next} ⊙ σ'(z{l})",
    expected=BP2,
    step="pull_back",
)
def error_of_next(d, l, delta):
    if l == d.L:
        raise IndexError("there is no error after the last")
    return d.pull_back(l, d.delta[l + 1])


# BP4: the gradient of the weights.


def _outer(d, delta, a):
    if a is None or a.ndim != 2 or delta.ndim != 2:
        raise TypeError("only for dense layers")
    return delta.T @ a / d.n


@mistake(
    "off by one in the activations (a^l for a^{{l−1}})",
    "the activations that come out of the layer are used, not those that go into it",
    have="∂C/∂w{l} = (1/n) Σ δ{l} (a{l})ᵀ",
    expected=BP4,
    step="weights",
)
def activations_after(d, l, delta):
    return _outer(d, delta, d.a[l])


@mistake(
    "off by one in the activations (a^{{l−2}} for a^{{l−1}})",
    "the activations of one layer too early are used",
    have="∂C/∂w{l} = (1/n) Σ δ{l} (a of the layer before {prev})ᵀ",
    expected=BP4,
    step="weights",
)
def activations_before(d, l, delta):
    if l < 2:
        raise IndexError("there is nothing before x")
    return _outer(d, delta, d.a[l - 2])


@mistake(
    "z for a",
    "the weighted inputs of the layer before are used, not its activations",
    have="∂C/∂w{l} = (1/n) Σ δ{l} (z{prev})ᵀ",
    expected=BP4,
    step="weights",
)
def weighted_inputs_for_activations(d, l, delta):
    return _outer(d, delta, d.z[l - 1])


@mistake(
    "x in every layer",
    "the network's input is used where the activations of the layer before belong",
    have="∂C/∂w{l} = (1/n) Σ δ{l} xᵀ",
    expected=BP4,
    step="weights",
)
def inputs_for_activations(d, l, delta):
    return _outer(d, delta, d.a[0])


@mistake(
    "σ' missing in the gradient of the weights",
    "the error that meets the activations has not been multiplied by σ'(z)",
    have="∂C/∂w{l} = (1/n) Σ g{l} (a{prev})ᵀ, g = ∂C/∂a",
    expected=BP4,
    step="weights",
)
def weights_without_derivative(d, l, delta):
    return d.weights(l, d.g[l])


@mistake(
    "product of the means",
    "the errors and the activations are averaged over the batch before they are multiplied",
    have="∂C/∂w{l} = mean(δ{l}) mean(a{prev})ᵀ",
    expected=BP4,
    step="weights",
)
def product_of_means(d, l, delta):
    return np.outer(delta.mean(0), d.a[l - 1].mean(0)).reshape(d.w(l).shape)


@mistake(
    "the error of the wrong layer in the gradient of the weights",
    "the error of the next layer meets the activations",
    have="∂C/∂w{l} = (1/n) Σ δ{next} (a{prev})ᵀ",
    expected=BP4,
    step="weights",
)
def weights_with_next_error(d, l, delta):
    return _outer(d, d.delta[l + 1], d.a[l - 1])


# BP3: the gradient of the biases.


@mistake(
    "b summed over the wrong axis",
    "the errors are added up over the neurons, not over the examples",
    have="∂C/∂b{l} = Σⱼ δ{l}ⱼ",
    expected=BP3,
    step="biases",
)
def biases_over_neurons(d, l, delta):
    return delta.sum(-1)


@mistake(
    "b summed over the wrong axis, over n",
    "the errors are added up over the neurons, not over the examples, and divided by n",
    have="∂C/∂b{l} = (1/n) Σⱼ δ{l}ⱼ",
    expected=BP3,
    step="biases",
)
def biases_over_neurons_over_n(d, l, delta):
    return delta.sum(-1) / d.n


@mistake(
    "b averaged over the wrong axis",
    "the errors are averaged over the neurons, not over the examples",
    have="∂C/∂b{l} = meanⱼ δ{l}ⱼ",
    expected=BP3,
    step="biases",
)
def biases_mean_of_neurons(d, l, delta):
    return delta.mean(-1)


@mistake(
    "b summed over both axes",
    "the errors are added up over examples and neurons: one number for all biases",
    have="∂C/∂b{l} = (1/n) Σₓ Σⱼ δ{l}ⱼ",
    expected=BP3,
    step="biases",
)
def biases_over_everything(d, l, delta):
    return np.broadcast_to(delta.sum() / d.n, d.b(l).shape)


@mistake(
    "σ' missing in the gradient of the biases",
    "the error that is returned for the biases has not been multiplied by σ'(z)",
    have="∂C/∂b{l} = (1/n) Σ g{l}, g = ∂C/∂a",
    expected=BP3,
    step="biases",
)
def biases_without_derivative(d, l, delta):
    return d.biases(l, d.g[l])


@mistake(
    "the error of the wrong layer in the gradient of the biases",
    "the error of the next layer is returned for the biases",
    have="∂C/∂b{l} = (1/n) Σ δ{next}",
    expected=BP3,
    step="biases",
)
def biases_with_next_error(d, l, delta):
    return d.biases(l, d.delta[l + 1])


# The forward pass that the backward pass rests on.


@mistake(
    "b forgotten in the forward pass",
    "the weighted inputs are computed without the biases",
    have="z{l} = w{l} a{prev}",
    expected="z{l} = w{l} a{prev} + b{l}",
    step="affine",
)
def forward_without_biases(d, l, a):
    return d.affine(l, a) - d.b(l)


@mistake(
    "activation missing in the forward pass",
    "the weighted inputs are handed on as they are",
    have="a{l} = z{l}",
    expected="a{l} = σ(z{l})",
    step="activate",
)
def forward_without_activation(d, l, z):
    return z


@mistake(
    "activation applied twice in the forward pass",
    "the activations go through σ once more",
    have="a{l} = σ(σ(z{l}))",
    expected="a{l} = σ(z{l})",
    step="activate",
)
def forward_activation_twice(d, l, z):
    return d.activate(l, d.activate(l, z))


@mistake(
    "softmax over the wrong axis",
    "the softmax is normalised over the examples, not over the outputs",
    have="aₓⱼ = exp zₓⱼ / Σ over examples of exp zⱼ",
    expected="aₓⱼ = exp zₓⱼ / Σₖ exp zₓₖ",
    step="activate",
)
def softmax_over_examples(d, l, z):
    of(d.activation(l), Softmax)
    return np.asarray(jax.nn.softmax(d.activation(l).scale * jnp.asarray(z), axis=0))


def another_layer(name, activation):
    """Enter the mistake of another activation function, forward and backward."""

    @mistake(
        f"another activation function ({name})",
        f"the layer computes with {name}, forward and backward, but has another activation",
        have=f"a{{l}} = {name}(z{{l}})",
        expected="a{l} = σ(z{l})",
        step="layer",
    )
    def replaced(d, l):
        if not d.has_parameters(l):
            raise TypeError("the layer has no activation")
        return replace(d.layer(l), activation=activation)


for _name, _activation in (("sigmoid", sigmoid), ("tanh", tanh), ("relu", relu)):
    another_layer(_name, _activation)


# Dropout.


@mistake(
    "dropout mask not applied",
    "the error passes neurons that were dropped: the mask is not laid on it",
    have="g{l} = δ{next} / (1 − rate)",
    expected="g{l} = δ{next} ⊙ m / (1 − rate)",
    step="pull_back",
)
def dropout_mask_missing(d, l, delta):
    of(d.layer(l), Dropout)
    return delta / (1 - d.layer(l).rate)


@mistake(
    "dropout left out of the backward pass",
    "the error passes the dropout layer unchanged",
    have="g{l} = δ{next}",
    expected="g{l} = δ{next} ⊙ m / (1 − rate)",
    step="pull_back",
)
def dropout_missing(d, l, delta):
    of(d.layer(l), Dropout)
    return delta


@mistake(
    "dropout not rescaled",
    "the mask is laid on the error, but it is not divided by the probability to keep",
    have="g{l} = δ{next} ⊙ m",
    expected="g{l} = δ{next} ⊙ m / (1 − rate)",
    step="pull_back",
)
def dropout_not_rescaled(d, l, delta):
    of(d.layer(l), Dropout)
    return d.pull_back(l, delta) * (1 - d.layer(l).rate)


@mistake(
    "dropout rescaled twice",
    "the error is divided by the probability to keep twice",
    have="g{l} = δ{next} ⊙ m / (1 − rate)²",
    expected="g{l} = δ{next} ⊙ m / (1 − rate)",
    step="pull_back",
)
def dropout_rescaled_twice(d, l, delta):
    of(d.layer(l), Dropout)
    return d.pull_back(l, delta) / (1 - d.layer(l).rate)


@mistake(
    "dropout mask drawn anew",
    "the mask laid on the error is another one than that of the forward pass",
    have="g{l} = δ{next} ⊙ m' / (1 − rate), m' another mask",
    expected="g{l} = δ{next} ⊙ m / (1 − rate)",
    step="pull_back",
    fitted=True,
)
def dropout_drawn_anew(d, l, delta, t):
    of(d.layer(l), Dropout)
    return delta * d.claimed_mask(l) / (1 - d.layer(l).rate)
