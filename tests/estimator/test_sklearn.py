"""SlideClassifier among the tools of scikit-learn."""

import pickle

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from slide import RunConfig, SlideClassifier
from slide.data import make_extreme

pytest.importorskip("sklearn", minversion="1.6", reason="scikit-learn 1.6 or later is not installed")

from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import accuracy_score, get_scorer, log_loss
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

COLOURS = ["red", "green", "blue"]

EXPECTED_FAILURES: dict[str, str] = {}
"""Checks that are expected to fail, by name, and why."""


def small(**params):
    return SlideClassifier(**({"hidden_units": 32, "epochs": 20, "batch_size": 8, "n_jobs": 1} | params))


# Neither frames nor arrays of other libraries are at hand everywhere.
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [SlideClassifier(hidden_units=64, n_jobs=1), SlideClassifier(hidden_units=64, loss="bce", n_jobs=1)],
    expected_failed_checks=lambda estimator: EXPECTED_FAILURES,
)
def test_contract(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def texts():
    """Texts of words of their colour and of others, and the colours."""
    rng = np.random.default_rng(0)
    colours = rng.integers(3, size=90)
    words = [[f"{COLOURS[c]}{rng.integers(6)}" for _ in range(5)] + [f"word{rng.integers(20)}"] for c in colours]
    return [" ".join(line) for line in words], [COLOURS[c] for c in colours]


def test_pipeline_of_texts(texts):
    X, y = texts
    model = make_pipeline(TfidfVectorizer(), small()).fit(X[:60], y[:60])
    assert model.score(X[60:], y[60:]) > 0.9
    assert accuracy_score(y[60:], model.predict(X[60:])) == model.score(X[60:], y[60:])
    assert log_loss(y[60:], model.predict_proba(X[60:]), labels=model.classes_) < 0.5
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


def test_search(texts):
    X, y = texts
    grid = {"slideclassifier__lr": [1e-6, 0.02], "slideclassifier__epochs": np.array([20])}
    search = GridSearchCV(make_pipeline(TfidfVectorizer(), small()), grid, cv=3).fit(X, y)
    assert search.best_params_["slideclassifier__lr"] == 0.02
    assert search.best_score_ > 0.9
    # Labels known by the order of their columns: what a scorer of scikit-learn takes for granted.
    assert cross_val_score(search.best_estimator_, X, y, cv=3, scoring="neg_log_loss").min() > -0.5


def test_search_over_lists_of_sets(texts):
    X, y = texts
    both = [{colour, colour[0]} for colour in y]
    search = GridSearchCV(small(), {"epochs": [20]}, cv=KFold(2))
    search.fit(TfidfVectorizer().fit_transform(X), both)
    assert search.best_score_ > 0.9


def test_indicator_in_a_search():
    data = make_extreme(300, 100, 8, labels_per_sample=2, noise=0.1, seed=4)
    search = GridSearchCV(small(), {"epochs": [20]}, cv=2, scoring="f1_micro").fit(data.X, data.Y.astype(int).toarray())
    assert search.best_score_ > 0.6
    assert isinstance(small().fit(data.X, data.Y).predict(data.X), csr_matrix)


def test_scorers_after_labels_came_out_of_order():
    train, test = make_extreme(400, 100, 2, labels_per_sample=1, zipf=0.0, noise=0.1, seed=5, test_samples=100)
    X, y = train.X, train.Y.indices
    classifier = small().partial_fit(X[y == 1], y[y == 1])
    for _ in range(5):
        classifier.partial_fit(X, y)
    assert classifier.classes_.tolist() == [0, 1]
    for scoring in ("accuracy", "roc_auc", "neg_brier_score"):
        assert get_scorer(scoring)(classifier, test.X, test.Y.indices) > (-0.1 if scoring.startswith("neg") else 0.9)


def test_clone_has_the_parameters_and_nothing_learnt(texts):
    X = TfidfVectorizer().fit_transform(texts[0])
    classifier = small(config=RunConfig()).fit(X, texts[1])
    copy = clone(classifier)
    assert not hasattr(copy, "network_")
    assert copy.get_params() == classifier.get_params()
