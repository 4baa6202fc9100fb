"""Top-k among all rows, by sketches and among candidates, against NumPy twins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from slide.kernels.rows import RowTable
from slide.kernels.search import candidates_topk, exact_topk, sketch_topk
from slide.kernels.sketch import Sketch
from slide.system.blas import one_blas_thread

NO_EXCLUDES = np.zeros(0, np.int64), np.zeros(0, np.int32)

pytestmark = pytest.mark.usefixtures("one_blas")


def close(actual, expected):
    return np.abs(actual - expected).max(initial=0) <= 1e-5 * max(1, np.abs(expected).max(initial=0))


def topk(table, hidden, k, excludes=NO_EXCLUDES, threads=1):
    ids = np.full((len(hidden), k), -9, np.int32)
    scores = np.full((len(hidden), k), np.nan, np.float32)
    exact_topk(table, hidden, *excludes, ids, scores, threads)
    return ids, scores


def topk_twin(table, hidden, k, excludes=NO_EXCLUDES):
    return best_twin(hidden[:, : table.dim].astype(np.float64) @ table.weights.T + table.bias, k, excludes)


def best_twin(scores, k, excludes=NO_EXCLUDES):
    """Sort all scores, best first and equal ones by id; what is excluded or missing comes last as -1."""
    ptr, banned = excludes
    for s in range(len(ptr) - 1):
        mine = banned[ptr[s] : ptr[s + 1]]
        scores[s, mine[mine < scores.shape[1]]] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, axis=1)
    ids = np.where(np.isneginf(best), -1, order)
    missing = ((0, 0), (0, k - ids.shape[1]))
    return np.pad(ids, missing, constant_values=-1), np.pad(best, missing, constant_values=-np.inf)


def whole_numbers(rng, table, samples):
    """Small integers everywhere, so that scores are exact and many are equal."""
    table.weights[:] = rng.integers(-2, 3, table.weights.shape)
    table.bias[:] = rng.integers(-2, 3, table.n_rows)
    hidden = np.zeros((samples, table.padded_dim), np.float32)
    hidden[:, : table.dim] = rng.integers(-2, 3, (samples, table.dim))
    return hidden


def random_excludes(rng, samples, n_rows, most):
    banned = [np.sort(rng.permutation(n_rows + 5)[: rng.integers(0, most + 1)]) for _ in range(samples)]
    ptr = np.cumsum([0, *map(len, banned)])
    return ptr, np.concatenate([*banned, []]).astype(np.int32)


@pytest.mark.parametrize("samples", [1, 3, 4, 129])
@pytest.mark.parametrize("n_rows", [1, 30, 511, 512, 513, 1500])
def test_exact_topk_twin(rng, threads, n_rows, samples):
    table = RowTable(n_rows, 17)
    hidden = whole_numbers(rng, table, samples)
    excludes = random_excludes(rng, samples, n_rows, 30)
    for k in (1, 7, 40, n_rows):
        for case in (NO_EXCLUDES, excludes):
            ids, scores = topk(table, hidden, k, case, threads)
            expected_ids, expected_scores = topk_twin(table, hidden, k, case)
            np.testing.assert_array_equal(ids, expected_ids)
            np.testing.assert_array_equal(scores, expected_scores)


def test_exact_topk_twin_of_real_scores(make_table, make_hidden, dim, threads):
    table = make_table(900, dim)
    hidden = make_hidden(12, table)
    ids, scores = topk(table, hidden, 10, threads=threads)
    expected = hidden[:, :dim].astype(np.float64) @ table.weights.T.astype(np.float64) + table.bias
    assert close(scores, -np.sort(-expected, axis=1)[:, :10])
    assert close(scores, np.take_along_axis(expected, ids, axis=1))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**32),
    st.integers(1, 1100),
    st.one_of(st.integers(1, 4), st.integers(5, 300)),
    st.sampled_from([1, 3, 16, 17, 70]),
    st.integers(0, 40),
    st.integers(1, 3),
)
def test_exact_topk_twin_of_any_shape(seed, n_rows, samples, dim, k, threads):
    rng = np.random.default_rng(seed)
    table = RowTable(n_rows, dim)
    hidden = whole_numbers(rng, table, samples)
    excludes = random_excludes(rng, samples, n_rows, n_rows)
    with one_blas_thread():
        ids, scores = topk(table, hidden, k, excludes, threads)
    expected_ids, expected_scores = topk_twin(table, hidden, k, excludes)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize("samples", [1, 130])
@pytest.mark.parametrize("n_rows", [1, 15, 512, 513, 9000])
@pytest.mark.parametrize("k", [0, 4])
def test_log_partition_twin(rng, make_table, make_hidden, threads, n_rows, samples, k):
    table = make_table(n_rows, 20)
    table.bias[n_rows // 2] = 90
    hidden = make_hidden(samples, table)
    logits = hidden[:, :20].astype(np.float64) @ table.weights.T.astype(np.float64) + table.bias
    for excludes in (NO_EXCLUDES, random_excludes(rng, samples, n_rows, 30)):
        expected, found = topk(table, hidden, k, excludes), topk(table, hidden, k, excludes)
        log_partition = np.full(samples, np.nan, np.float32)
        exact_topk(table, hidden, *excludes, *found, threads, log_partition=log_partition)
        np.testing.assert_allclose(log_partition, logsumexp(logits, axis=1), rtol=1e-5)
        np.testing.assert_array_equal(found[0], expected[0])
        # Products that are stored are added up in another order.
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=1e-5)


def test_log_partition_does_not_depend_on_threads(make_table, make_hidden):
    table = make_table(20_000, 32)
    hidden = make_hidden(40, table)
    sums = np.zeros((3, 40), np.float32)
    for threads, out in enumerate(sums, 1):
        ids, scores = topk(table, hidden, 1)
        exact_topk(table, hidden, *NO_EXCLUDES, ids, scores, threads, log_partition=out)
    assert (sums == sums[0]).all()


@pytest.mark.parametrize("samples", [1, 40, 300])
def test_exact_topk_does_not_depend_on_threads(make_hidden, samples):
    table = RowTable(20_000, 32)
    table.fill_uniform(1.0, 1, 2)
    hidden = make_hidden(samples, table)
    first = topk(table, hidden, 20)
    for threads in (2, 3):
        other = topk(table, hidden, 20, threads=threads)
        assert all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("order", ["rising", "falling", "equal", "random"])
def test_large_k_in_any_order_of_scores(rng, make_hidden, threads, order):
    """The order in which scores arrive decides how often the buffers are cut back."""
    table = RowTable(6000, 1)
    scores = {"rising": np.arange(6000), "falling": -np.arange(6000), "equal": np.zeros(6000)}
    table.bias[:] = scores.get(order, rng.permutation(6000))
    hidden = make_hidden(5, table)
    for k in (1, 100, 3000, 6001):
        ids, scores = topk(table, hidden, k, threads=threads)
        expected_ids, expected_scores = topk_twin(table, hidden, k)
        np.testing.assert_array_equal(ids, expected_ids)
        np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize("samples", [2, 6])
def test_odd_scores(make_table, samples):
    """Neither NaN nor minus infinity is among the best; both zeros are equal; infinity is the best."""
    table = make_table(40, 4)
    table.weights[:] = 0
    table.bias[:] = -1
    table.bias[[3, 9, 11, 20, 30]] = [np.nan, -np.inf, np.inf, 0.0, -0.0]
    for k in (3, 40):
        ids, scores = topk(table, np.zeros((samples, 16), np.float32), k)
        assert (ids[:, :3] == [11, 20, 30]).all()
        assert (scores[:, :3] == [np.inf, 0, 0]).all()
        assert not np.isin(ids, [3, 9]).any()


def test_everything_excluded(make_table, make_hidden):
    table = make_table(4, 16)
    excludes = np.array([0, 4]), np.arange(4, dtype=np.int32)
    ids, scores = topk(table, make_hidden(1, table), 3, excludes)
    assert (ids == -1).all()
    assert np.isneginf(scores).all()


def test_exact_topk_of_nothing(make_table, make_hidden):
    table = make_table(4, 16)
    assert topk(table, make_hidden(0, table), 3)[0].shape == (0, 3)
    assert topk(table, make_hidden(2, table), 0)[0].shape == (2, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": np.zeros((2, 32), np.float32)}, r"hidden must be \[samples, 16\]"),
        ({"out_ids": np.zeros((1, 3), np.int32)}, r"out_ids and out_scores \[samples, k\]"),
        ({"out_scores": np.zeros((1, 3), np.float32)}, r"out_ids and out_scores \[samples, k\]"),
        ({"out_scores": np.zeros((2, 2), np.float32)}, r"out_ids and out_scores \[samples, k\]"),
        ({"log_partition": np.zeros(3, np.float32)}, "log_partition must have 2 entries, got 3"),
        ({"exclude_ptr": np.array([0, 1])}, "exclude_ptr must be empty or have 3 entries, got 2"),
        ({"exclude_ptr": np.array([1, 1, 2])}, "exclude_ptr must rise from 0"),
        ({"exclude_ptr": np.array([0, 1, 4])}, "exclude_ptr must rise from 0"),
        ({"exclude_ptr": np.array([0, 2, 1])}, "exclude_ptr must rise from 0"),
        ({"exclude_ids": np.array([9, 3, 2], np.int32)}, "sample 1's excluded ids are not ascending"),
    ],
)
def test_exact_topk_checks_its_arguments(make_table, changes, message):
    arguments = {
        "hidden": np.zeros((2, 16), np.float32),
        "exclude_ptr": np.array([0, 1, 3]),
        "exclude_ids": np.zeros(3, np.int32),
        "out_ids": np.zeros((2, 3), np.int32),
        "out_scores": np.zeros((2, 3), np.float32),
        "threads": 1,
    }
    with pytest.raises(ValueError, match=message):
        exact_topk(make_table(5, 16), **arguments | changes)


def random_candidates(rng, samples, n_rows, width):
    ids = np.full((samples, width), -5, np.int32)
    counts = rng.integers(0, width + 1, samples)
    for s, count in enumerate(counts):
        ids[s, :count] = rng.permutation(n_rows)[:count]
    return ids, counts


@pytest.mark.parametrize("width", [0, 1, 15, 16, 17, 511, 512, 513, 700])
@pytest.mark.parametrize("k", [1, 30])
def test_candidates_topk_twin(rng, threads, width, k):
    table = RowTable(800, 33)
    hidden = whole_numbers(rng, table, 9)
    candidates, counts = random_candidates(rng, 9, 800, width)
    scores = hidden[:, :33].astype(np.float64) @ table.weights.T + table.bias
    for s, count in enumerate(counts):
        scores[s, ~np.isin(np.arange(800), candidates[s, :count])] = -np.inf
    for excludes in (NO_EXCLUDES, random_excludes(rng, 9, 800, 400)):
        found = np.full((9, k), -9, np.int32), np.full((9, k), np.nan, np.float32)
        candidates_topk(table, hidden, candidates, counts, *excludes, *found, threads)
        expected = best_twin(scores.copy(), k, excludes)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("samples", [1, 40])
def test_zeros_of_both_signs_are_equal_scores(samples):
    table = RowTable(64, 16)
    table.bias[::3] = -0.0
    hidden = np.full((samples, 16), -1, np.float32)  # times zero: no sum of such is a positive zero
    ids, scores = topk(table, hidden, 20)
    assert (ids == np.arange(20)).all()
    assert not scores.any()


@pytest.mark.parametrize("order", [1, -1])
def test_equal_candidates_are_found_by_id_in_any_order(order):
    table = RowTable(100, 5)
    hidden = np.zeros((1, table.padded_dim), np.float32)
    candidates = np.arange(100, dtype=np.int32)[None, ::order].copy()
    found = np.full((1, 3), -9, np.int32), np.full((1, 3), np.nan, np.float32)
    candidates_topk(table, hidden, candidates, np.array([100]), *NO_EXCLUDES, *found, 1)
    assert found[0].tolist() == [[0, 1, 2]]


def sketch_twin(vectors, bias, queries):
    """Scores of rows in seven bits against samples in eight."""

    def rounded(x, levels):
        unit = (np.abs(x).max(axis=1, keepdims=True) / np.float32(levels)).astype(np.float32)
        return np.rint(np.divide(x, unit, out=np.zeros_like(x), where=unit > 0)), unit

    (rows, row_unit), (samples, sample_unit) = rounded(vectors, 63), rounded(queries, 127)
    return (samples @ rows.T) * (sample_unit * row_unit.T) + bias


@pytest.mark.parametrize("dim", [1, 3, 4, 5, 16, 64, 65])
@pytest.mark.parametrize("n_rows", [1, 15, 16, 17, 33, 512, 513, 1500])
def test_sketch_topk_twin(rng, threads, dim, n_rows):
    vectors = rng.normal(size=(n_rows, dim)).astype(np.float32)
    vectors[n_rows // 2] = 0
    bias = rng.normal(size=n_rows).astype(np.float32)
    sketch = Sketch(vectors, bias)
    assert (sketch.n_rows, sketch.dim) == (n_rows, dim)
    assert sketch.nbytes >= n_rows * (dim + 8)
    for samples in (1, 7, 8, 9, 130):
        queries = rng.normal(size=(samples, dim)).astype(np.float32)
        queries[0] = 0
        scores = sketch_twin(vectors, bias, queries)
        for excludes in (NO_EXCLUDES, random_excludes(rng, samples, n_rows, 30)):
            k = min(n_rows, 20)
            ids, found = np.empty((samples, k), np.int32), np.empty((samples, k), np.float32)
            sketch_topk(sketch, queries, *excludes, ids, found, threads)
            _, expected = best_twin(scores.copy(), k, excludes)
            assert np.array_equal(np.isneginf(found), np.isneginf(expected))
            some = ~np.isneginf(expected)
            assert close(found[some], expected[some])
            assert close(found[some], np.take_along_axis(scores, np.maximum(ids, 0), axis=1)[some])


@pytest.mark.parametrize("likely", ["all", "those that foretell", "the others"])
@pytest.mark.parametrize("k", [20, 300])
def test_a_bar_that_was_foretold_costs_no_row(rng, threads, k, likely):
    """The first rows of every 512 tell where the bar will be: too high where they are better than the rest."""
    n_rows = 20_000
    bias = rng.normal(size=n_rows).astype(np.float32)
    if likely != "all":
        bias[(np.arange(n_rows) % 512 < 32) == (likely == "those that foretell")] += 20
    vectors = rng.normal(size=(n_rows, 8)).astype(np.float32)
    queries = rng.normal(size=(20, 8)).astype(np.float32)
    excludes = random_excludes(rng, len(queries), n_rows, 600)
    ids, found = np.empty((20, k), np.int32), np.empty((20, k), np.float32)
    sketch_topk(Sketch(vectors, bias), queries, *excludes, ids, found, threads)
    _, expected = best_twin(sketch_twin(vectors, bias, queries), k, excludes)
    assert close(found, expected)


def test_sketch_topk_does_not_depend_on_threads(rng):
    sketch = Sketch(rng.normal(size=(9000, 12)).astype(np.float32), np.zeros(9000, np.float32))
    queries = rng.normal(size=(40, 12)).astype(np.float32)
    found = [(np.empty((40, 50), np.int32), np.empty((40, 50), np.float32)) for _ in range(3)]
    for threads, (ids, scores) in enumerate(found, 1):
        sketch_topk(sketch, queries, *NO_EXCLUDES, ids, scores, threads)
        assert np.array_equal(ids, found[0][0])
        assert np.array_equal(scores, found[0][1])


@pytest.mark.parametrize(
    ("vectors", "bias"), [((0, 3), 0), ((3, 0), 3), ((3, 2), 2)], ids=["no rows", "no dimensions", "few biases"]
)
def test_a_sketch_checks_its_arguments(vectors, bias):
    with pytest.raises(ValueError, match="expected vectors of one row and dimension or more and as many biases"):
        Sketch(np.zeros(vectors, np.float32), np.zeros(bias, np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": np.zeros((1, 3), np.int32)}, "candidates and counts must have 2 rows, got 1 and 2"),
        ({"counts": np.zeros(3, np.int64)}, "candidates and counts must have 2 rows, got 2 and 3"),
        ({"counts": np.array([0, 4])}, r"counts must lie in 0\.\.3, got 4"),
        ({"candidates": np.full((2, 3), 5, np.int32)}, r"candidates must lie in 0\.\.4, got 5"),
        ({"candidates": np.full((2, 3), -1, np.int32)}, r"candidates must lie in 0\.\.4, got -1"),
        ({"hidden": np.zeros((2, 32), np.float32)}, r"hidden must be \[samples, 16\]"),
    ],
)
def test_candidates_topk_checks_its_arguments(make_table, changes, message):
    arguments = {
        "hidden": np.zeros((2, 16), np.float32),
        "candidates": np.zeros((2, 3), np.int32),
        "counts": np.array([1, 3]),
    }
    out = np.zeros((2, 3), np.int32), np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=message):
        candidates_topk(make_table(5, 16), *(arguments | changes).values(), *NO_EXCLUDES, *out, 1)
