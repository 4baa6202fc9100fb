"""The data set itself: what its door accepts, refuses and leaves alone; subsets and splits."""

import numpy as np
import pytest
from scipy.sparse import coo_array, csc_matrix, csr_array, csr_matrix

from slide.data import DataError, Dataset

X = np.array([[0, 1.5, 0], [2, 0, -3], [0, 0, 0]], dtype=np.float32)
Y = np.array([[1, 0], [0, 1], [1, 1]], dtype=np.float32)


@pytest.mark.parametrize("convert", [np.asarray, list, csr_matrix, csr_array, csc_matrix, coo_array])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_any_matrix_is_normalised(convert, dtype):
    if dtype == np.float16 and convert not in (np.asarray, list):
        pytest.skip("SciPy has no sparse float16")
    dataset = Dataset.from_arrays(convert(X.astype(dtype)), convert(Y.astype(bool)), name="small")
    for matrix, expected in ((dataset.X, X), (dataset.Y, Y)):
        assert isinstance(matrix, csr_matrix)
        assert matrix.dtype == np.float32
        assert matrix.has_canonical_format
        np.testing.assert_array_equal(matrix.toarray(), expected)
    assert (len(dataset), dataset.n_samples, dataset.n_features, dataset.n_labels) == (3, 3, 3, 2)
    assert "small" in repr(dataset)


def test_repeats_and_disorder_are_merged_in_a_copy():
    data, indices, indptr = np.array([1.0, 2.0, 4.0], np.float32), np.array([2, 0, 2]), np.array([0, 3])
    messy = csr_matrix((data, indices, indptr), shape=(1, 3))
    dataset = Dataset.from_arrays(messy, messy)
    assert dataset.X.toarray().tolist() == [[2, 0, 5]]
    assert dataset.Y.toarray().tolist() == [[1, 0, 1]]
    assert messy.indices.tolist() == [2, 0, 2]
    assert messy.data.tolist() == [1, 2, 4]


def test_weights_of_labels_become_one_and_zeros_go():
    weights = csr_matrix((np.array([0.5, 0.0, 7.0]), np.array([0, 1, 2]), np.array([0, 3])), shape=(1, 3))
    dataset = Dataset.from_arrays(np.ones((1, 1)), weights)
    assert dataset.Y.indices.tolist() == [0, 2]
    assert dataset.Y.data.tolist() == [1, 1]
    assert weights.data.tolist() == [0.5, 0, 7]


def test_wanted_form_is_not_copied():
    ready = csr_matrix(X)
    assert np.shares_memory(Dataset.from_arrays(ready, Y).X.data, ready.data)


@pytest.mark.parametrize(
    ("X", "Y", "message"),
    [
        ([[1, 2], [np.nan, 0]], [[1], [1]], "X, row 1, column 0: nan is not finite"),
        ([[1, 2], [3, -np.inf]], [[1], [1]], "X, row 1, column 1: -inf is not finite"),
        ([[1, 1e39]], [[1]], r"X, row 0, column 1: 1e\+39 is too large for float32"),
        ([[1]], [[np.nan]], "Y, row 0, column 0: nan is not finite"),
        ([[1]], [[0, 1, -1]], "Y, row 0, column 2: -1.0 is negative"),
        ([[1], [2]], [[1]], "X has 2 rows and Y has 1"),
        ([1, 2], [[1]], "X must have two dimensions"),
        ([[[1]]], [[1]], "X must have two dimensions"),
        ([["a"]], [[1]], "X must hold real numbers"),
        ([[1j]], [[1]], "X must hold real numbers"),
    ],
)
def test_refused(X, Y, message):
    with pytest.raises(DataError, match=message):
        Dataset.from_arrays(np.array(X), np.array(Y))


def test_inconsistent_index_arrays_are_refused():
    broken = csr_matrix(X)
    broken.indices = np.array([1, 0, 77], dtype=np.int32)
    with pytest.raises(DataError, match="X is not a valid sparse matrix"):
        Dataset.from_arrays(broken, Y)


def test_constructor_wants_the_final_form():
    good = csr_matrix(X)
    for bad in (X, csc_matrix(X), csr_array(X), csr_matrix(X, dtype=np.float64)):
        with pytest.raises(DataError, match=r"Dataset\.from_arrays"):
            Dataset(bad, good)
    with pytest.raises(DataError, match="column ids are int32"):
        Dataset(good, csr_matrix((3, 2**31), dtype=np.float32))


@pytest.mark.parametrize("rows", [[2, 0], np.array([True, False, True]), slice(1, None), []])
def test_subset(rows):
    dataset = Dataset.from_arrays(X, Y, name="all")
    part = dataset.subset(rows)
    expected = X[np.array(rows, dtype=int)] if isinstance(rows, list) else X[rows]
    np.testing.assert_array_equal(part.X.toarray(), expected)
    assert part.name == "all"
    assert part.n_labels == 2


def test_split_is_a_seeded_partition():
    n = 101
    dataset = Dataset.from_arrays(np.arange(1, n + 1).reshape(-1, 1), np.ones((n, 1)))
    first, rest = dataset.split(0.25, seed=3)
    assert (len(first), len(rest)) == (25, 76)
    np.testing.assert_array_equal(np.sort(np.r_[first.X.data, rest.X.data]), np.arange(1, n + 1))
    np.testing.assert_array_equal(first.X.data, dataset.split(0.25, seed=3)[0].X.data)
    assert not np.array_equal(first.X.data, dataset.split(0.25, seed=4)[0].X.data)
    for fraction in (0, 1, -1, np.nan):
        with pytest.raises(ValueError, match="fraction"):
            dataset.split(fraction, seed=0)
