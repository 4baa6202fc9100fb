"""Nearest training samples and their votes, against dense twins."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix, random_array

from slide import Neighbours
from slide.data import DataError
from slide.predict import neighbours

N_POINTS, N_FEATURES, N_LABELS = 50, 30, 12


@pytest.fixture
def rng():
    return np.random.default_rng(4)


def sparse(rng, shape, density):
    return csr_matrix(random_array(shape, density=density, format="csr", dtype=np.float32, rng=rng))


@pytest.fixture
def samples(rng):
    """Training samples; the second has no features, the third no labels."""
    X, Y = sparse(rng, (N_POINTS, N_FEATURES), 0.2).toarray(), sparse(rng, (N_POINTS, N_LABELS), 0.2).toarray()
    X[1] = 0
    Y[2] = 0
    return csr_matrix(X), csr_matrix((Y > 0).astype(np.float32))


@pytest.fixture
def queries(rng):
    """Queries; the first has no features."""
    X = sparse(rng, (9, N_FEATURES), 0.2).toarray()
    X[0] = 0
    return csr_matrix(X)


def unit(X, weights=None):
    X = X.toarray().astype(np.float64) * (1 if weights is None else weights)
    norms = np.linalg.norm(X, axis=1, keepdims=True)
    return X / np.where(norms > 0, norms, 1)


def nearest_twin(samples, queries, k, weights=None):
    cosines = unit(queries, weights) @ unit(samples[0], weights).T
    ids = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(cosines, ids, axis=1)
    return np.where(best > 0, ids, -1), np.maximum(best, 0)


def votes_twin(samples, queries, k, power, weights=None):
    Y = samples[1].toarray()
    votes = np.zeros((queries.shape[0], N_LABELS))
    for q, (ids, cosines) in enumerate(zip(*nearest_twin(samples, queries, k, weights), strict=True)):
        mine = cosines[ids >= 0] ** power
        if len(mine):
            votes[q] = mine @ Y[ids[ids >= 0]] / mine.sum()
    return votes


@pytest.mark.parametrize("block", [4, 512])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("k", "power"), [(1, 2.0), (7, 0), (20, 3.5), (N_POINTS + 5, 1)])
def test_twin(rng, samples, queries, monkeypatch, block, weighted, k, power):
    monkeypatch.setattr(neighbours, "BLOCK", block)
    weights = rng.uniform(0.5, 2, N_FEATURES) if weighted else None
    found = Neighbours(*samples, k=k, power=power, feature_weights=weights)
    ids, similarities = found.nearest(queries)
    expected_ids, expected = nearest_twin(samples, queries, k, weights)
    assert ids.shape == similarities.shape == (9, k)
    np.testing.assert_array_equal(ids[:, :N_POINTS], expected_ids)
    np.testing.assert_allclose(similarities[:, :N_POINTS], expected, rtol=1e-5)
    assert (ids[:, N_POINTS:] == -1).all()
    votes = found.votes(queries)
    expected = votes_twin(samples, queries, k, power, weights)
    np.testing.assert_allclose(votes.toarray(), expected, rtol=1e-4)
    assert (votes.dtype, votes.has_sorted_indices, votes.shape) == (np.float32, True, (9, N_LABELS))

    ids, best = found.predict(queries, 4)
    order = np.argsort(-votes.toarray(), axis=1, kind="stable")[:, :4]
    ordered = np.take_along_axis(votes.toarray(), order, axis=1)
    np.testing.assert_array_equal(ids, np.where(ordered > 0, order, -1))
    np.testing.assert_array_equal(best, ordered)


def test_excluded_labels_are_not_predicted(rng, samples, queries):
    exclude = sparse(rng, (9, N_LABELS + 4), 0.4)
    ids, _ = Neighbours(*samples).predict(queries, N_LABELS, exclude=exclude)
    votes = votes_twin(samples, queries, N_POINTS, 2)
    allowed = (votes > 0) & (exclude.toarray()[:, :N_LABELS] == 0)
    assert [set(row[row >= 0]) for row in ids] == [set(np.flatnonzero(row)) for row in allowed]


def test_nobody_is_near_a_query_without_features(samples, queries):
    ids, similarities = Neighbours(*samples, k=3).nearest(queries)
    assert (ids[0] == -1).all()
    assert not similarities[0].any()
    assert not Neighbours(*samples).votes(queries)[0].nnz


def test_a_point_is_its_own_nearest_neighbour(samples):
    ids, similarities = Neighbours(*samples, k=1).nearest(samples[0])
    others = np.arange(N_POINTS) != 1
    assert np.array_equal(ids[others, 0], np.arange(N_POINTS)[others])
    np.testing.assert_allclose(similarities[others], 1, rtol=1e-6)


def test_votes_of_tiny_similarities_do_not_underflow():
    X = csr_matrix(np.array([[1, 1e-12], [1, 0]], np.float32))
    votes = Neighbours(X, np.eye(2), power=8).votes(np.array([[0, 1]], np.float32))
    np.testing.assert_allclose(votes.toarray(), [[1, 0]])


def test_results_do_not_depend_on_threads(samples, queries):
    one, two = (Neighbours(*samples, threads=threads).predict(queries, 5) for threads in (1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_other_settings_share_the_points(samples, queries):
    first = Neighbours(*samples, k=9, power=1)
    other = first.replace(k=4)
    assert (first.k, other.k, other.power) == (9, 4, 1)
    assert other._postings is first._postings
    expected = Neighbours(*samples, k=4, power=3).votes(queries)
    assert np.array_equal(other.replace(power=3).votes(queries).toarray(), expected.toarray())
    assert repr(other) == "Neighbours(50 samples, 30 features, 12 labels, k=4, power=1)"
    assert other.labels_per_sample == samples[1].nnz / N_POINTS


def test_any_matrix_will_do(samples, queries):
    expected = Neighbours(*samples).predict(queries)[0]
    dense = Neighbours(*(matrix.toarray() for matrix in samples))
    for other in (queries.toarray(), queries.tocsc(), queries.astype(np.float64)):
        assert np.array_equal(dense.predict(other)[0], expected)


def test_no_queries(samples):
    found = Neighbours(*samples, k=3)
    nothing = csr_matrix((0, N_FEATURES), dtype=np.float32)
    assert found.nearest(nothing)[0].shape == (0, 3)
    assert found.votes(nothing).shape == (0, N_LABELS)
    assert found.predict(nothing, 2)[0].shape == (0, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k, the number of neighbours, must be a whole number from 1, got 0"),
        ({"k": 2.5}, "must be a whole number from 1, got 2.5"),
        ({"k": True}, "must be a whole number from 1, got True"),
        ({"power": -1}, "power must be a number from 0, got -1"),
        ({"power": np.nan}, "power must be a number from 0, got nan"),
        ({"feature_weights": np.ones(3)}, r"one for each of 30 features; their shape is \(3,\)"),
        ({"feature_weights": np.full(N_FEATURES, np.inf)}, "feature_weights must be finite"),
        ({"threads": 0}, "threads must be a positive integer"),
    ],
)
def test_settings_are_checked(samples, options, message):
    with pytest.raises(ValueError, match=message):
        Neighbours(*samples, **options)


def test_data_is_checked(samples, queries):
    X, Y = samples
    with pytest.raises(DataError, match="X has 50 rows and Y has 49"):
        Neighbours(X, Y[:49])
    with pytest.raises(DataError, match="not finite"):
        Neighbours(np.full((1, 2), np.nan), np.ones((1, 2)))
    with pytest.raises(ValueError, match="there are no samples to be neighbours"):
        Neighbours(X[:0], Y[:0])
    found = Neighbours(X, Y)
    for method in (found.nearest, found.votes, found.predict):
        with pytest.raises(ValueError, match="X has 29 features, the neighbours 30"):
            method(queries[:, :29])
    with pytest.raises(ValueError, match="k must be 1 or more, got 0"):
        found.predict(queries, 0)
    with pytest.raises(ValueError, match="exclude has 2 rows for 9 samples"):
        found.predict(queries, exclude=Y[:2])
