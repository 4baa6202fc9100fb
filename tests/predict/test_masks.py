import numpy as np
import pytest
from scipy.sparse import csr_matrix

from slide.predict.masks import Exclusions

BANNED = csr_matrix(np.array([[1, 0, 1, 0, 2], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]]))


def test_ids_of_a_block():
    ptr, ids = Exclusions(BANNED, 3).of(slice(1, 3))
    assert (ptr.tolist(), ids.tolist()) == ([0, 0, 1], [1])
    assert (ptr.dtype, ids.dtype) == (np.int64, np.int32)


def test_scores_without_excluded_labels():
    scores = csr_matrix(np.arange(1, 10, dtype=np.float32).reshape(3, 3))
    left = Exclusions(BANNED, 3).remove(scores, slice(0, 3))
    assert np.array_equal(left.toarray(), [[0, 2, 0], [4, 5, 6], [7, 0, 9]])
    assert left.nnz == 6
    assert scores.nnz == 9
    left = Exclusions(BANNED, 3).remove(scores[2:], slice(2, 3))
    assert np.array_equal(left.toarray(), [[7, 0, 9]])


def test_nothing_excluded():
    scores = csr_matrix(np.eye(3, dtype=np.float32))
    exclusions = Exclusions(None, 3)
    assert exclusions.remove(scores, slice(0, 3)) is scores
    assert [len(array) for array in exclusions.of(slice(0, 3))] == [0, 0]


def test_explicit_zeros_exclude_nothing():
    zeros = csr_matrix((np.zeros(2), [0, 1], [0, 2]), shape=(1, 3))
    ptr, ids = Exclusions(zeros, 1).of(slice(0, 1))
    assert (ptr.tolist(), ids.tolist()) == ([0, 0], [])
    assert zeros.nnz == 2


def test_rows_are_counted():
    with pytest.raises(ValueError, match="exclude has 3 rows for 4 samples"):
        Exclusions(BANNED, 4)
