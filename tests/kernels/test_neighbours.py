"""Nearest neighbours through posting lists, and the best of rows, against naive twins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, random_array

from slide.kernels.neighbours import Postings, best_of_rows, nearest


def postings_of(X):
    T = csr_matrix(X).tocsc()
    T.sort_indices()
    return Postings(T.indptr.astype(np.int64), T.indices.astype(np.int32), T.data.astype(np.float32), T.shape[0])


def search(X, Q, k, threads=1):
    Q = csr_matrix(Q, dtype=np.float32)
    ids, scores = np.full((Q.shape[0], k), -9, np.int32), np.full((Q.shape[0], k), np.nan, np.float32)
    nearest(postings_of(X), Q.indptr.astype(np.int64), Q.indices.astype(np.int32), Q.data, ids, scores, threads)
    return ids, scores


def search_twin(X, Q, k):
    """Sort all products, largest first and equal ones by id; what is not above zero comes last as -1."""
    products = np.asarray(Q, np.float64) @ np.asarray(X, np.float64).T
    order = np.argsort(-products, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(products, order, axis=1)
    missing = ((0, 0), (0, k - order.shape[1]))
    ids = np.pad(np.where(best > 0, order, -1), missing, constant_values=-1)
    return ids, np.pad(np.maximum(best, 0), missing)


def whole_numbers(rng, n, dim, density=0.4):
    """Small integers, so that products are exact and many are equal."""
    return rng.integers(-2, 4, (n, dim)) * (rng.random((n, dim)) < density)


@pytest.mark.parametrize("n_points", [0, 1, 15, 16, 17, 63, 64, 65, 200])
@pytest.mark.parametrize("k", [1, 5, 70])
def test_nearest_twin(rng, threads, n_points, k):
    X, Q = whole_numbers(rng, n_points, 12), whole_numbers(rng, 9, 12)
    Q[2] = 0
    for actual, expected in zip(search(X, Q, k, threads), search_twin(X, Q, k), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("n_points", [65_535, 65_536, 65_537, 140_000])
def test_nearest_twin_of_several_blocks(rng, threads, n_points):
    X, Q = np.zeros((n_points, 4), np.int64), whole_numbers(rng, 3, 4, 1)
    some = rng.permutation(n_points)[:300]
    X[some] = whole_numbers(rng, 300, 4)
    X[[0, n_points - 1]] = 3
    for actual, expected in zip(search(X, Q, 40, threads), search_twin(X, Q, 40), strict=True):
        np.testing.assert_array_equal(actual, expected)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.integers(0, 90), st.integers(1, 20), st.integers(0, 5), st.integers(0, 95))
def test_nearest_twin_of_any_shape(seed, n_points, dim, queries, k):
    rng = np.random.default_rng(seed)
    X, Q = whole_numbers(rng, n_points, dim), whole_numbers(rng, queries, dim)
    for actual, expected in zip(search(X, Q, k, 2), search_twin(X, Q, k), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_nearest_does_not_depend_on_threads(rng):
    X, Q = (random_array((n, 300), density=0.1, format="csr", dtype=np.float32, rng=rng) for n in (5000, 60))
    first = search(X, Q, 20)
    for threads in (2, 3):
        other = search(X, Q, 20, threads)
        assert all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    products = (Q @ X.T).toarray()
    np.testing.assert_allclose(first[1], -np.sort(-products, axis=1)[:, :20], rtol=1e-5)


def test_postings_tell_their_size():
    postings = postings_of(np.ones((3, 5)))
    assert (postings.n_points, postings.n_features) == (3, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_ptr": np.zeros(0, np.int64)}, "expected an offset or more and fewer than"),
        ({"n_points": -1}, "fewer than 2\\*\\*31 samples, got 3 and -1"),
        ({"feature_ptr": np.array([1, 2, 3])}, "feature_ptr must rise from 0"),
        ({"feature_ptr": np.array([0, 2, 1])}, "feature_ptr must rise from 0"),
        ({"feature_ptr": np.array([0, 2, 4])}, "feature_ptr must rise from 0"),
        ({"values": np.ones(2, np.float32)}, "feature_ptr must rise from 0"),
        ({"points": np.array([0, 4, 1], np.int32)}, r"feature 0 must rise within 0\.\.3, got 4 after 0"),
        ({"points": np.array([2, 2, 1], np.int32)}, r"feature 0 must rise within 0\.\.3, got 2 after 2"),
        ({"points": np.array([0, 1, -1], np.int32)}, r"feature 1 must rise within 0\.\.3, got -1 after -1"),
    ],
)
def test_postings_check_their_arguments(changes, message):
    arguments = {
        "feature_ptr": np.array([0, 2, 3]),
        "points": np.array([0, 1, 1], np.int32),
        "values": np.ones(3, np.float32),
        "n_points": 4,
    }
    with pytest.raises(ValueError, match=message):
        Postings(*(arguments | changes).values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indptr": np.array([0, 1])}, "indptr must have 3 entries"),
        ({"out_scores": np.zeros((2, 3), np.float32)}, r"out_scores be \[2, 2\]"),
        ({"out_scores": np.zeros((1, 2), np.float32)}, r"out_scores be \[2, 2\]"),
        ({"indptr": np.array([0, 1, 3])}, "indptr must rise from 0"),
        ({"indptr": np.array([0, 2, 1])}, "indptr must rise from 0"),
        ({"values": np.ones(1, np.float32)}, "indptr must rise from 0"),
        ({"indices": np.array([0, 5], np.int32)}, r"features must lie in 0\.\.4, got 5"),
        ({"indices": np.array([-1, 0], np.int32)}, r"features must lie in 0\.\.4, got -1"),
    ],
)
def test_nearest_checks_its_arguments(changes, message):
    arguments = {
        "indptr": np.array([0, 1, 2]),
        "indices": np.zeros(2, np.int32),
        "values": np.ones(2, np.float32),
        "out_ids": np.zeros((2, 2), np.int32),
        "out_scores": np.zeros((2, 2), np.float32),
        "threads": 1,
    }
    with pytest.raises(ValueError, match=message):
        nearest(postings_of(np.ones((3, 5))), **arguments | changes)


def best_twin(rows, more, k):
    """Best k of dictionaries of scores, by score and then id, each with further ones that it may lack."""
    for row, others in zip(rows, more, strict=True):
        everything = sorted({**others, **row}.items(), key=lambda item: (-item[1], item[0]))[:k]
        everything += [(-1, 0.0)] * (k - len(everything))
        yield everything


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.integers(0, 6), st.integers(0, 12), st.integers(0, 4))
def test_best_of_rows_twin(seed, n, k, extra):
    rng = np.random.default_rng(seed)

    def some(most):
        ids = np.sort(rng.permutation(20)[: rng.integers(0, most + 1)])
        return {int(i): float(rng.integers(0, 4)) for i in ids}

    rows, more = [some(10) for _ in range(n)], [some(extra) for _ in range(n)]
    indptr = np.cumsum([0, *map(len, rows)])
    ids = np.array([i for row in rows for i in row], np.int32)
    scores = np.array([x for row in rows for x in row.values()], np.float64)
    more_ids, more_scores = np.full((n, extra), -1, np.int32), np.full((n, extra), -np.inf)
    for r, row in enumerate(more):
        more_ids[r, : len(row)] = list(row)
        more_scores[r, : len(row)] = list(row.values())
    out = np.zeros((n, k), np.int32), np.zeros((n, k))
    best_of_rows(indptr, ids, scores, more_ids, more_scores, *out)
    expected = np.array(list(best_twin(rows, more, k)), np.float64).reshape(n, k, 2)
    np.testing.assert_array_equal(out[0], expected[..., 0])
    np.testing.assert_array_equal(out[1], expected[..., 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indptr": np.array([0, 1])}, "indptr must have 3 entries"),
        ({"more_ids": np.zeros((1, 2), np.int32)}, "the others have 2 rows"),
        ({"more_scores": np.zeros((2, 1))}, "the others have 2 rows"),
        ({"out_scores": np.zeros((2, 4))}, r"out_scores be \[2, 3\]"),
        ({"scores": np.ones(1)}, "indptr must rise from 0"),
    ],
)
def test_best_of_rows_checks_its_arguments(changes, message):
    arguments = {
        "indptr": np.array([0, 1, 2]),
        "ids": np.zeros(2, np.int32),
        "scores": np.ones(2),
        "more_ids": np.zeros((2, 2), np.int32),
        "more_scores": np.zeros((2, 2)),
        "out_ids": np.zeros((2, 3), np.int32),
        "out_scores": np.zeros((2, 3)),
    }
    with pytest.raises(ValueError, match=message):
        best_of_rows(**arguments | changes)
