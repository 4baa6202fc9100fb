"""Public data sets, where they are at hand: numbers known beforehand, and the popularity baseline."""

import numpy as np
import pytest

from slide.data import load
from slide.metrics import evaluate_topk

KNOWN = {
    # samples of the training and the test set, features, labels, P@1, P@3 and P@5 of the most frequent labels
    # in percent
    "delicious": (12_920, 3_185, 500, 983, (40.8, 37.8, 34.7)),
    "bibtex": (4_880, 2_515, 1_836, 159, (14.0, 9.3, 7.2)),
    "citeulike-t": (20_756, 5_188, 20_000, 46_332, (7.4, 6.4, 6.1)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_numbers_and_baseline(real_data, name):
    n_train, n_test, n_features, n_labels, floors = KNOWN[name]
    train = load(real_data / name / "train.txt.xz")
    test = load(real_data / name / "test.txt.xz")
    assert (train.X.shape, train.Y.shape) == ((n_train, n_features), (n_train, n_labels))
    assert (test.X.shape, test.Y.shape) == ((n_test, n_features), (n_test, n_labels))
    popular = np.argsort(-np.bincount(train.Y.indices, minlength=n_labels), kind="stable")[:5]
    scores = evaluate_topk(np.tile(popular, (n_test, 1)), test.Y)
    assert [100 * scores[f"P@{k}"] for k in (1, 3, 5)] == pytest.approx(floors, abs=0.051)
