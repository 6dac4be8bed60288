"""The estimators: scikit-learn's own checks, pipelines, grid searches, and what they learn."""

import pickle
import re

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from nnjax.sklearn import Classifier, Regressor

X, Y = load_wine(return_X_y=True)
X = StandardScaler().fit_transform(X)
NAMES = np.array(["barbera", "barolo", "grignolino"])[Y]
SMALL = {"hidden": (8,), "epochs": 15, "rate": 0.02, "random_state": 0}

USUAL = (  # without training, or soon done; the others are slow tests
    "check_estimator_cloneable check_estimator_tags_renamed check_valid_tag_types "
    "check_estimator_repr check_no_attributes_set_in_init check_fit_score_takes_y "
    "check_estimators_unfitted check_do_not_raise_errors_in_init_or_set_param check_mixin_order "
    "check_get_params_invariance check_set_params check_parameters_default_constructible "
    "check_complex_data check_estimators_empty_data_messages check_fit1d check_fit2d_predict1d"
)
CHECKS = [
    pytest.param(
        estimator,
        check,
        id=f"{type(estimator).__name__}-{check.func.__name__}-{number}",
        marks=[] if check.func.__name__ in USUAL.split() else [pytest.mark.slow],
    )
    for kind in (Classifier(), Regressor())
    for number, (estimator, check) in enumerate(estimator_checks_generator(kind))
]


@pytest.mark.parametrize(("estimator", "check"), CHECKS)
@pytest.mark.filterwarnings("ignore")
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.slow
def test_classes_with_names_in_a_pipeline_and_a_grid_search():
    model = make_pipeline(StandardScaler(), Classifier(**SMALL))
    search = GridSearchCV(model, {"classifier__l2": [0.0, 1.0]}, cv=2).fit(X, NAMES)
    assert search.best_score_ > 0.9
    best = search.best_estimator_
    p = best.predict_proba(X)
    assert best[-1].classes_.tolist() == ["barbera", "barolo", "grignolino"]
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(best.predict(X), best[-1].classes_[p.argmax(axis=1)])
    again = pickle.loads(pickle.dumps(best))
    np.testing.assert_array_equal(again.predict_proba(X), p)
    assert (np.unique(Y, return_counts=True)[1] > 0).all()


@pytest.mark.slow
def test_early_stopping_and_weights_of_classes():
    model = Classifier(**SMALL | {"epochs": 60}, patience=3, class_weight="balanced").fit(X, NAMES)
    assert len(model.history_["epoch"]) < 60
    assert "validation_accuracy" in model.history_
    assert model.score(X, NAMES) > 0.9
    heavy = Classifier(**SMALL, class_weight={"barolo": 1e-6, "grignolino": 1e-6}).fit(X, NAMES)
    assert np.mean(heavy.predict(X) == "barbera") > 0.8


@pytest.mark.slow
def test_several_labels():
    labels = np.stack([Y == 0, X[:, 0] > 0], axis=1).astype(int)
    model = Classifier(**SMALL).fit(X, labels)
    assert model.predict(X).shape == model.predict_proba(X).shape == labels.shape
    assert model.score(X, labels) > 0.8  # the exact match
    with pytest.raises(ValueError, match="class_weight gives weights to classes, and y"):
        Classifier(**SMALL, class_weight="balanced").fit(X, labels)


@pytest.mark.slow
def test_a_regression_in_its_own_units():
    y = 1e6 + 1e4 * X[:, 0]
    model = Regressor(**SMALL).fit(X, y)
    assert model.score(X, y) > 0.9
    assert model.history_.keys() == {"epoch", "train_loss", "rate", "seconds"}
    two = Regressor(**SMALL, patience=5).fit(X, np.stack([y, -X[:, 1]], axis=1))
    assert two.predict(X).shape == (178, 2)
    assert two.score(X, np.stack([y, -X[:, 1]], axis=1)) > 0.8
    assert "validation_rmse" in two.history_


@pytest.mark.slow
def test_training_in_parts():
    model = Classifier(**SMALL)
    for _ in range(15):
        model.partial_fit(X, NAMES)
    whole = Classifier(**SMALL).fit(X, NAMES)
    np.testing.assert_allclose(model.predict_proba(X), whole.predict_proba(X), rtol=1e-5)
    with pytest.raises(ValueError, match="y holds the class 'dolcetto', which was not among"):
        model.partial_fit(X[:2], ["dolcetto", "barolo"])
    line = Regressor(**SMALL)
    for _ in range(5):
        line.partial_fit(X, X[:, 0])
    assert line.score(X, X[:, 0]) > 0.5


def test_training_goes_on_from_the_best_parameters():
    """Not from the last ones; the rate is so small that these stay as they are."""
    model = Regressor(**SMALL | {"epochs": 4, "rate": 0.3}, patience=1).fit(X, X[:, 0])
    assert model.history_["best_epoch"][-1] < len(model.history_["epoch"]) - 1
    before = model.predict(X)
    after = model.set_params(rate=1e-7).partial_fit(X, X[:, 0]).predict(X)
    np.testing.assert_allclose(after, before, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"activation": "swoosh"}, "activation is 'swoosh'; expected one of"),
        ({"hidden": (0,)}, "a size in sizes is 0"),
        ({"epochs": 0}, "epochs is 0; expected an integer of at least 1"),
        ({"patience": 0}, "patience is 0; expected an integer of at least 1"),
        ({"patience": 2, "validation": 0.0}, "validation is 0.0; expected a share between 0 and 1"),
    ],
)
def test_arguments_that_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Classifier(**SMALL | arguments).fit(X, Y)


def test_what_is_not_there_yet():
    with pytest.raises(NotFittedError):
        Regressor().predict(X)
    with pytest.raises(ValueError, match="y holds 1 class; expected two or more classes"):
        Classifier().fit(X, np.zeros(len(X), int))
