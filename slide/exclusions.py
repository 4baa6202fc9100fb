"""Labels that must not be predicted, point by point."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from slide.kernels import dtypes


class Exclusions:
    """The labels that each of some points must not be given.

    Parameters
    ----------
    matrix : sparse matrix, shape (n, any), or None
        A point's labels are the columns of its non-zero entries. None excludes nothing.
    n : int
        Points.

    Raises
    ------
    ValueError
        There is not a row for each point.
    """

    def __init__(self, matrix: csr_matrix | None, n: int):
        self._matrix = None
        if matrix is not None:
            matrix = csr_matrix(matrix, copy=True)
            if matrix.shape[0] != n:
                raise ValueError(f"exclude has {matrix.shape[0]} rows for {n} points")
            matrix.eliminate_zeros()
            matrix.sort_indices()
            self._matrix = matrix

    def of(self, block: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the labels of some consecutive points in the form that ``exact_topk`` reads.

        Parameters
        ----------
        block : slice

        Returns
        -------
        ptr : int64 array [points of the block + 1] or [0]
            Empty where nothing is excluded.
        ids : int32 array
            Ascending for each point.
        """
        if self._matrix is None:
            return np.zeros(0, dtypes.OFFSET), np.zeros(0, dtypes.INDEX)
        ends = self._matrix.indptr[block.start : block.stop + 1].astype(dtypes.OFFSET)
        return ends - ends[0], self._matrix.indices[ends[0] : ends[-1]].astype(dtypes.INDEX, copy=False)

    def rows(self, block: slice) -> csr_matrix | None:
        """Return the excluded labels of some consecutive points as columns of entries, None where there are none."""
        return None if self._matrix is None else self._matrix[block]

    def remove(self, scores: csr_matrix, block: slice) -> csr_matrix:
        """Return sparse scores of some consecutive points without the excluded labels.

        Parameters
        ----------
        scores : csr_matrix, shape (points of the block, n_labels)
            Zeros are taken out as well.
        block : slice
        """
        if self._matrix is None or not scores.nnz:
            return scores
        banned = self._matrix[block]
        width = max(banned.shape[1], scores.shape[1])
        scores = scores.copy()
        scores.data[np.isin(entry_keys(scores, width), entry_keys(banned, width))] = 0
        scores.eliminate_zeros()
        return scores


def entry_keys(matrix: csr_matrix, width: int) -> np.ndarray:
    """Return a number for each entry of a CSR matrix: row times `width` plus column, as int64.

    Parameters
    ----------
    matrix : csr_matrix
    width : int
        At least the columns.
    """
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    return rows * width + matrix.indices
