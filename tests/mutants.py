"""Backpropagations written by hand in NumPy, right but for what a test asks them to do wrong.

They share no code with the package: the tests hold the library of mistakes against them.
"""

import numpy as np

import nnjax
from nnjax.activations import Absolute, Identity, LeakyReLU, ReLU, Sigmoid, Softmax, Tanh
from nnjax.losses import CrossEntropy, Quadratic


def value(activation, z):
    """σ(z)."""
    match activation:
        case Sigmoid():
            return 1 / (1 + np.exp(-z))
        case Tanh():
            return np.tanh(z)
        case ReLU():
            return np.maximum(z, 0)
        case LeakyReLU(slope=slope):
            return np.where(z > 0, z, slope * z)
        case Absolute():
            return np.abs(z)
        case Identity():
            return z
        case Softmax(scale=c):
            e = np.exp(c * (z - z.max(-1, keepdims=True)))
            return e / e.sum(-1, keepdims=True)
    raise TypeError(activation)


def prime(activation, z):
    """σ'(z), elementwise."""
    a = value(activation, z)
    match activation:
        case Sigmoid():
            return a * (1 - a)
        case Tanh():
            return 1 - a**2
        case ReLU():
            return (z > 0) * 1.0
        case LeakyReLU(slope=slope):
            return np.where(z > 0, 1.0, slope)
        case Absolute():
            return np.sign(z)
        case Identity():
            return np.ones_like(z)
    raise TypeError(activation)


def through(activation, z, g):
    """∂C/∂z, given g = ∂C/∂a."""
    if isinstance(activation, Softmax):
        a = value(activation, z)
        return activation.scale * a * (g - (g * a).sum(-1, keepdims=True))
    return g * prime(activation, z)


def loss_gradient(loss, a, y):
    """∂C/∂a."""
    if isinstance(loss, Quadratic):
        return a - y
    if isinstance(loss, CrossEntropy):
        return (a - y) / (a * (1 - a))
    return -y / a


class Hand:
    """The backpropagation of a dense network, each step a method; a mutant overrides one.

    Layers are numbered from 1; self.z[l], self.a[l] and self.params[l] are those of layer l.
    """

    def __init__(self, net):
        self.net = net
        self.L = len(net.layers)

    def act(self, l):
        return self.net.layers[l - 1].activation

    def affine(self, l, a):
        w, b = self.params[l]
        return a @ w.T + b

    def activate(self, l, z):
        return value(self.act(l), z)

    def output_error(self):
        return self.through(self.L, loss_gradient(self.net.loss, self.a[-1], self.y))

    def through(self, l, g):
        return through(self.act(l), self.z[l], g)

    def back(self, l, delta):
        return delta @ self.params[l][0]

    def grad_w(self, l, delta):
        return delta.T @ self.a[l - 1] / self.n

    def grad_b(self, l, delta):
        return delta.sum(0) / self.n

    def finish(self, grads):
        return grads

    def run(self, params, x, y):
        self.params = [None, *((np.asarray(p.w), np.asarray(p.b)) for p in params)]
        self.x, self.y, self.n = np.asarray(x), np.asarray(y), len(x)
        self.z, self.a = [None], [self.x]
        for l in range(1, self.L + 1):
            self.z.append(self.affine(l, self.a[-1]))
            self.a.append(self.activate(l, self.z[-1]))
        grads, delta = [None] * self.L, self.output_error()
        self.delta = {self.L: delta}
        for l in range(self.L, 0, -1):
            grads[l - 1] = (self.grad_w(l, delta), self.grad_b(l, delta))
            if l > 1:
                delta = self.through(l - 1, self.back(l, delta))
                self.delta[l - 1] = delta
        return self.finish(grads)

    def batch(self, params, x, y):
        """nnjax's convention: a batch, gradients in the structure of the parameters."""
        return tuple(nnjax.Affine(w, b) for w, b in self.run(params, x, y))

    def book(self, params, x, y):
        """The book's: one example in columns, (nabla_b, nabla_w)."""
        assert x.shape == (*self.net.input_shape, 1)
        grads = self.run(params, x.T, y.T)
        columns = [b[:, None] if np.ndim(b) == 1 else b for _, b in grads]
        return columns, [w for w, _ in grads]


def mutant(net, style="batch", **steps):
    """Return a hand-written backpropagation with the steps given in place of its own."""
    hand = Hand(net)
    for name, step in steps.items():
        if not hasattr(hand, name):
            raise TypeError(name)
        setattr(hand, name, step.__get__(hand))
    return getattr(hand, style)
