"""A network of the book on MNIST, and how it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from nnjax.data import Dataset
from nnjax.evaluation import accuracy
from nnjax.initializers import Initializer, default, large
from nnjax.losses import Loss, cross_entropy
from nnjax.network import Network, mlp
from nnjax.regularizers import L2
from nnjax.training import History, optimizers, train

__all__ = ["Setting", "default", "large"]


@dataclass(frozen=True)
class Setting:
    """One network of sigmoid neurons, and how it is trained, by default as in chapter 3.

    Args:
        hidden: sizes of the hidden layers.
        eta: the learning rate η.
        lmbda: the strength λ of L2 regularisation.
        epochs: passes over the training data.
        batch_size: of mini-batches.
        loss: one of `nnjax.losses`.
        initializer: `large`, the book's N(0, 1), or `default`, its N(0, 1/n_in).
        examples: how many of the training images, the first ones; None: all.
        every_epoch: whether accuracies are measured after every epoch, or once, after the last.

    Example:
        >>> from nnjax.book.setting import Setting
        >>> Setting(hidden=(30, 30), eta=0.1).network(784, 10).shapes
        ((784,), (30,), (30,), (10,))
    """

    hidden: tuple[int, ...] = (30,)
    eta: float = 0.5
    lmbda: float = 0.0
    epochs: int = 30
    batch_size: int = 10
    loss: Loss = cross_entropy
    initializer: Initializer = large
    examples: int | None = None
    every_epoch: bool = True

    def network(self, n_in: int, n_out: int) -> Network:
        """Return the network, for inputs and outputs of these sizes."""
        return mlp([n_in, *self.hidden, n_out], loss=self.loss, initializer=self.initializer)

    def run(self, data: Dataset, seed: int, evaluate_on: Sequence[str]) -> History:
        """Train, and return the history with loss and accuracy on the parts named."""
        x, y = data.train
        net = self.network(int(np.prod(x.shape[1:])), 1 + int(y.max()))
        state, history = train(
            net,
            data._replace(train=(x[: self.examples], y[: self.examples])),
            optimizer=optimizers.by_name("sgd", self.eta),
            epochs=self.epochs,
            batch_size=self.batch_size,
            key=jax.random.key(seed),
            evaluate_on=list(evaluate_on) if self.every_epoch else [],
            regularizer=L2(self.lmbda),
        )
        if not self.every_epoch:
            for part in evaluate_on:
                final = accuracy(net, state.params, *getattr(data, part))
                history[f"{part}_accuracy"] = np.array([final])
        return history
