"""Networks as estimators of scikit-learn: `Classifier` and `Regressor`.

They take part in pipelines, cross-validation and grid searches, and pass scikit-learn's
`check_estimator`. Training is `nnjax.train`, with the gradients of `nnjax.backprop`. The arguments
of both:

    hidden: sizes of the hidden layers.
    activation: of the hidden layers: a name in `nnjax.activations.ACTIVATIONS`, or one of them.
    optimizer: a name that `nnjax.training.optimizers.by_name` knows.
    rate: the learning rate.
    batch_size: of a mini-batch; of fewer examples all.
    epochs: passes over the training data, at most.
    l2: λ of L2 regularisation, as in the book.
    patience: None: train for all epochs; n: hold back a share of the data, stop after n epochs
        without improvement on it, and keep the best parameters.
    validation: that share.
    random_state: an integer for the same result every time, a NumPy `RandomState`, or None.

and what `fit` leaves behind:

    net_: the network.          params_: its parameters, as NumPy arrays.
    history_: what was measured, as `nnjax.train` returns it.

Inputs should be standardised, as by `StandardScaler` in a pipeline. The targets of a regression are
standardised within, and predictions are in their units.

`fit` takes no `sample_weight`: scikit-learn expects a weight of 2 to give the same result as the
example twice, which training on random mini-batches cannot. `class_weight` weights the classes;
`nnjax.backprop(..., weights=...)` weights single examples in a training loop of your own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from nnjax.activations import ACTIVATIONS, Activation, Softmax, identity
from nnjax.checks import install
from nnjax.data import Dataset, split
from nnjax.data.tables import standardized, unstandardized
from nnjax.initializers import he
from nnjax.losses import Loss, cross_entropy, log_likelihood, quadratic
from nnjax.network import feedforward, mlp
from nnjax.regularizers import L2
from nnjax.training import EarlyStopping, initial_state, optimizers, train

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.class_weight import compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets, type_of_target
    from sklearn.utils.validation import (
        check_array,
        check_consistent_length,
        check_is_fitted,
        column_or_1d,
        validate_data,
    )
except ImportError:
    raise ImportError(
        f"nnjax.sklearn requires scikit-learn 1.6 or newer: {install('sklearn')}"
    ) from None

__all__ = ["Classifier", "Regressor"]


class _Estimator(BaseEstimator):
    """What both have in common: a network of dense layers, and how it is trained."""

    def __init__(
        self,
        hidden: Sequence[int] = (100,),
        *,
        activation: str | Activation = "relu",
        optimizer: str = "adam",
        rate: float = 0.003,
        batch_size: int = 32,
        epochs: int = 100,
        l2: float = 0.0,
        patience: int | None = None,
        validation: float = 0.1,
        random_state: Any = None,
    ):
        self.hidden = hidden
        self.activation = activation
        self.optimizer = optimizer
        self.rate = rate
        self.batch_size = batch_size
        self.epochs = epochs
        self.l2 = l2
        self.patience = patience
        self.validation = validation
        self.random_state = random_state

    def _start(self, n_in: int, n_out: int, loss: Loss, output: Activation | None = None) -> None:
        """Begin with a new network."""
        activation: Any = self.activation
        if isinstance(activation, str):
            if activation not in ACTIVATIONS:
                known = ", ".join(ACTIVATIONS)
                raise ValueError(f"activation is {activation!r}; expected one of {known}")
            activation = ACTIVATIONS[activation]
        sizes = [n_in, *self.hidden, n_out]
        self.net_ = mlp(sizes, activation, output, loss, initializer=he)
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._state: Any = None

    @jax.numpy_dtype_promotion("standard")  # adam of optax does not know another
    def _train(
        self, x: np.ndarray, y: np.ndarray, epochs: int | None, task: str, **options: Any
    ) -> None:
        """Train a new network as the arguments say, or, given epochs, for so many more."""
        key, optimizer = jax.random.key(self._seed), optimizers.by_name(self.optimizer, self.rate)
        data = self._parts(x, y, task) if epochs is None else Dataset((x, y), None, None)
        epochs = self.epochs if epochs is None else epochs
        state = None
        if self._state is not None:
            params, opt_state, epoch = self._state
            state = initial_state(self.net_, optimizer, key, params)
            if opt_state is not None:  # None: it went on from these parameters to others
                state = state._replace(opt_state=opt_state)
            state = state._replace(epoch=epoch)
            epochs += int(epoch)
        patience: Any = self.patience  # not None where data were held back
        stopping = None if data.validation is None else EarlyStopping(patience)
        state, self.history_ = train(
            self.net_,
            data,
            optimizer=optimizer,
            epochs=epochs,
            batch_size=min(self.batch_size, len(data.train[0])),
            key=key,
            regularizer=L2(self.l2) if self.l2 else None,
            early_stopping=stopping,
            state=state,
            **options,
        )
        self.params_ = jax.tree.map(np.asarray, state.best_params)
        best_is_last = stopping is None or state.stopping.best_epoch == state.epoch - 1
        opt_state = jax.tree.map(np.asarray, state.opt_state) if best_is_last else None
        self._state = self.params_, opt_state, np.asarray(state.epoch)

    def _parts(self, x: np.ndarray, y: np.ndarray, task: str) -> Dataset:
        """Hold back a share for validation, where it is asked for; of each class alike."""
        if self.patience is None:
            return Dataset((x, y), None, None)
        if not 0 < self.validation < 1:
            raise ValueError(
                f"validation is {self.validation!r}; expected a share between 0 and 1 to hold back "
                "for patience"
            )
        return split(x, y, validation=self.validation, test=0, seed=self._seed, task=task)

    def _checked(self, x: Any, reset: bool) -> np.ndarray:
        """Return the inputs to train on."""
        x = validate_data(self, x, reset=reset, ensure_min_samples=2)
        return np.asarray(x, np.float32)

    def _outputs(self, x: Any) -> np.ndarray:
        """Return the outputs, computed in float64: the same for one example as among many."""
        check_is_fitted(self, "params_")
        x = np.asarray(validate_data(self, x, reset=False), np.float64)
        with jax.enable_x64(True):
            params = jax.tree.map(lambda leaf: leaf.astype(np.float64), self.params_)
            return np.asarray(feedforward(self.net_, params, x))


class Classifier(ClassifierMixin, _Estimator):
    """A network that classifies, as an estimator of scikit-learn.

    Classes: softmax outputs with the log-likelihood. Several labels at once, where y is a matrix of
    zeros and ones: sigmoid outputs with the cross-entropy.

    Args:
        hidden, activation, optimizer, rate, batch_size, epochs, l2, patience, validation,
            random_state: see `nnjax.sklearn`.
        class_weight: None, "balanced", or a dictionary from classes to weights.

    Attributes:
        classes_: the classes, sorted; of several labels their numbers.
        net_, params_, history_: see `nnjax.sklearn`.

    Example:
        >>> from sklearn.datasets import load_wine
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> from nnjax.sklearn import Classifier
        >>> x, y = load_wine(return_X_y=True)
        >>> model = make_pipeline(StandardScaler(), Classifier((10,), epochs=20, random_state=0))
        >>> bool(model.fit(x, y).score(x, y) > 0.95)
        True
    """

    def __init__(
        self,
        hidden: Sequence[int] = (100,),
        *,
        activation: str | Activation = "relu",
        optimizer: str = "adam",
        rate: float = 0.003,
        batch_size: int = 32,
        epochs: int = 100,
        l2: float = 0.0,
        patience: int | None = None,
        validation: float = 0.1,
        class_weight: Any = None,
        random_state: Any = None,
    ):
        super().__init__(
            hidden,
            activation=activation,
            optimizer=optimizer,
            rate=rate,
            batch_size=batch_size,
            epochs=epochs,
            l2=l2,
            patience=patience,
            validation=validation,
            random_state=random_state,
        )
        self.class_weight = class_weight

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X: Any, y: Any) -> Classifier:
        """Train a new network.

        Args:
            X: (n, features) numbers.
            y: (n,) classes of any kind, or (n, k) zeros and ones: several labels at once.

        Raises:
            ValueError, TypeError: if they, or the arguments of the estimator, are not such.
        """
        self._begin(*self._both(X, y, reset=True))
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Classifier:
        """Train for one epoch more; at the first call, begin with a new network.

        Args:
            X: (n, features) numbers.
            y: (n,) classes, or (n, k) zeros and ones.
            classes: at the first call all classes there will be; None: those in y.

        Raises:
            ValueError, TypeError: if they are not such, or y holds a class that is not known.
        """
        new = not hasattr(self, "_state")
        X, y = self._both(X, y, reset=new)
        if new:
            self._begin(X, y, classes, epochs=1)
        else:
            self._go_on(X, y, epochs=1)
        return self

    def _both(self, x: Any, y: Any, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        x = self._checked(x, reset)
        check_classification_targets(y)
        several = type_of_target(y) == "multilabel-indicator"
        y = check_array(y) if several else column_or_1d(y, warn=True)
        check_consistent_length(x, y)
        return x, y

    def _begin(
        self, x: np.ndarray, y: np.ndarray, classes: Any = None, epochs: int | None = None
    ) -> None:
        several = y.ndim == 2
        known = np.arange(y.shape[1]) if several else np.unique(y if classes is None else classes)
        if len(known) < 2:
            raise ValueError(f"y holds {len(known)} class; expected two or more classes")
        self.classes_ = known
        self._start(x.shape[1], len(known), cross_entropy if several else log_likelihood)
        self._go_on(x, y, epochs)

    def _go_on(self, x: np.ndarray, y: np.ndarray, epochs: int | None) -> None:
        if y.ndim == 2:
            if self.class_weight is not None:
                raise ValueError("class_weight gives weights to classes, and y holds labels")
            self._train(x, y.astype(np.uint8), epochs, "multilabel")
            return
        if not np.isin(y, self.classes_).all():
            new = np.setdiff1d(y, self.classes_).tolist()[0]
            raise ValueError(f"y holds the class {new!r}, which was not among the classes")
        weights = None
        if self.class_weight is not None:
            present = np.unique(y)
            found = compute_class_weight(self.class_weight, classes=present, y=y)
            weights = np.ones(len(self.classes_))
            weights[np.searchsorted(self.classes_, present)] = found
        labels = np.searchsorted(self.classes_, y).astype(np.int32)
        self._train(x, labels, epochs, "classification", class_weight=weights)

    def predict(self, X: Any) -> np.ndarray:
        """Return the class of each example, (n,); of several labels zeros and ones, (n, k).

        Args:
            X: (n, features) numbers.
        """
        outputs = self._outputs(X)
        if isinstance(self.net_.layers[-1].activation, Softmax):
            return self.classes_[outputs.argmax(axis=1)]
        return (outputs > 0.5).astype(int)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, or of each label, (n, k).

        Args:
            X: (n, features) numbers.
        """
        return self._outputs(X)


class Regressor(RegressorMixin, _Estimator):
    """A network that estimates numbers, as an estimator of scikit-learn.

    Identity outputs with the quadratic loss, for targets that are standardised within.

    Args:
        hidden, activation, optimizer, rate, batch_size, epochs, l2, patience, validation,
            random_state: see `nnjax.sklearn`.

    Attributes:
        net_, params_, history_: see `nnjax.sklearn`; an output of the network is a standardised
            target.

    Example:
        >>> import numpy as np
        >>> from nnjax.sklearn import Regressor
        >>> x = np.linspace(-1, 1, 50)[:, None]
        >>> model = Regressor((10,), epochs=50, random_state=0).fit(x, 1000 + 200 * x[:, 0])
        >>> bool(model.score(x, 1000 + 200 * x[:, 0]) > 0.95)
        True
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any) -> Regressor:
        """Train a new network.

        Args:
            X: (n, features) numbers.
            y: (n,) or (n, k) numbers.

        Raises:
            ValueError, TypeError: if they, or the arguments of the estimator, are not such.
        """
        X, y = self._both(X, y, reset=True)
        self._begin(X, y)
        self._go_on(X, y, epochs=None)
        return self

    def partial_fit(self, X: Any, y: Any) -> Regressor:
        """Train for one epoch more; at the first call, begin with a new network.

        Targets are standardised by those of the first call.

        Args:
            X: (n, features) numbers.
            y: (n,) or (n, k) numbers.

        Raises:
            ValueError, TypeError: if they are not such.
        """
        new = not hasattr(self, "_state")
        X, y = self._both(X, y, reset=new)
        if new:
            self._begin(X, y)
        self._go_on(X, y, epochs=1)
        return self

    def _both(self, x: Any, y: Any, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        x = self._checked(x, reset)
        y = np.asarray(check_array(y, ensure_2d=False, input_name="y"), np.float64)
        y = column_or_1d(y, warn=True) if y.ndim < 2 or y.shape[1] == 1 else y
        check_consistent_length(x, y)
        return x, y

    def _begin(self, x: np.ndarray, y: np.ndarray) -> None:
        deviation = y.std(axis=0)
        self._scale = y.mean(axis=0), np.where(deviation > 0, deviation, 1.0)
        self._start(x.shape[1], y.shape[1] if y.ndim == 2 else 1, quadratic, identity)

    def _go_on(self, x: np.ndarray, y: np.ndarray, epochs: int | None) -> None:
        self._train(x, standardized(y, self._scale), epochs, "regression")

    def predict(self, X: Any) -> np.ndarray:
        """Return the estimates, of the shape that y had: (n,) or (n, k).

        Args:
            X: (n, features) numbers.
        """
        outputs = self._outputs(X)
        outputs = outputs[:, 0] if np.ndim(self._scale[0]) == 0 else outputs
        return unstandardized(outputs, self._scale)
