"""Synthetic data: form, repeatability, Zipf's law, and that there is something to learn."""

import numpy as np
import pytest

from slide.data import make_extreme
from slide.data.synthetic import BLOCK
from slide.metrics import precision_at_k


def test_form():
    train, test = make_extreme(500, 300, 200, test_samples=70)
    assert (train.X.shape, train.Y.shape) == ((500, 300), (500, 200))
    assert (test.X.shape, test.Y.shape) == ((70, 300), (70, 200))
    for dataset in (train, test):
        assert dataset.X.has_canonical_format and dataset.Y.has_canonical_format
        np.testing.assert_allclose(np.sqrt(dataset.X.power(2).sum(axis=1)), 1, rtol=1e-5)
        assert (dataset.Y.data == 1).all()
        assert (np.diff(dataset.Y.indptr) >= 1).all()


def test_seed_decides_and_sizes_do_not_disturb():
    few = make_extreme(100, 300, 200, seed=1)
    more, _ = make_extreme(BLOCK + 10, 300, 200, seed=1, test_samples=5)
    other = make_extreme(100, 300, 200, seed=2)
    start = more.subset(slice(100))
    assert (few.X != start.X).nnz == (few.Y != start.Y).nnz == 0
    assert (few.Y != other.Y).nnz > 0
    assert (more.Y[:10] != more.Y[BLOCK:]).nnz > 0


@pytest.mark.parametrize("zipf", [0.5, 1.0])
def test_labels_follow_zipf(zipf):
    n_samples, n_labels = 50_000, 50
    dataset = make_extreme(n_samples, 100, n_labels, labels_per_sample=1, features_per_sample=1, zipf=zipf)
    expected = np.arange(1, n_labels + 1) ** -zipf
    expected *= n_samples / expected.sum()
    uses = np.sort(np.bincount(dataset.Y.indices, minlength=n_labels))[::-1]
    # Sorting uses by size shifts neighbours by about one standard deviation.
    assert (np.abs(uses - expected) < 5 * np.sqrt(expected)).all()


def test_centroids_find_the_labels():
    train, test = make_extreme(4000, 2000, 300, test_samples=500, noise=0.3)
    centroids = train.Y.T @ train.X
    lengths = np.sqrt(centroids.power(2).sum(axis=1)).A1
    scores = (test.X @ centroids.T).toarray() / np.maximum(lengths, 1e-12)
    learned = np.argsort(-scores, axis=1)[:, :3]
    popular = np.argsort(-np.bincount(train.Y.indices, minlength=300))[:3]
    baseline = precision_at_k(np.tile(popular, (500, 1)), test.Y, 1)
    assert precision_at_k(learned, test.Y, 1) > max(0.7, 2 * baseline)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_samples": 0}, "n_samples"),
        ({"n_labels": 0}, "n_labels"),
        ({"features_per_sample": 0}, "features_per_sample"),
        ({"test_samples": -1}, "test_samples"),
        ({"noise": 1.5}, "noise"),
        ({"zipf": -1.0}, "zipf"),
        ({"zipf": np.nan}, "zipf"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_extreme(**arguments)
