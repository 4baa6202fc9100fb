"""Figures of whole matrices, gathered a piece at a time, so that nothing of their size is made."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_matrix

from slide.data.dataset import is_mapped
from slide.data.mapped import MappedMatrix
from slide.kernels import dtypes

PIECE = 1 << 22
"""Entries looked at at a time."""


def column_counts(matrix: csr_matrix, *, nonzero: bool = False) -> np.ndarray:
    """Return how many entries each column has.

    Parameters
    ----------
    matrix : csr_matrix
        Mapped or not.
    nonzero : bool
        Leave out entries that are zero. Of labels there are none.

    Returns
    -------
    int64 array [columns]
    """
    source, n_columns = _source(matrix), matrix.shape[1]
    counts = np.zeros(n_columns, np.int64)
    # A piece's counts are as many as the columns.
    for piece in _pieces(matrix, len(source.indices), max(PIECE, n_columns)):
        ids = source.indices[piece]
        if is_mapped(matrix):
            matrix.check(ids, np.zeros(0, dtypes.VALUE))
        if nonzero:
            ids = ids[source.data[piece] != 0]
        counts += np.bincount(ids, minlength=n_columns)
    if is_mapped(matrix) and len(matrix.skipped):
        counts -= column_counts(MappedMatrix.over(matrix.mapping, n_columns).rows(matrix.skipped), nonzero=nonzero)
    return counts


def n_entries(matrix: csr_matrix) -> int:
    """Return the entries that a matrix stores, those of rows it skips counted."""
    return len(_source(matrix).indices)


def longest_rows(matrix: csr_matrix, count: int) -> tuple[int, int]:
    """Return the entries of the longest row, and those of the `count` longest together, or more if rows are skipped.

    Parameters
    ----------
    matrix : csr_matrix
        Mapped or not.
    count : int
    """
    longest = np.zeros(0, dtypes.OFFSET)
    indptr = _source(matrix).indptr
    for piece in _pieces(matrix, len(indptr) - 1, PIECE):
        lengths = np.diff(indptr[piece.start : piece.stop + 1]).astype(dtypes.OFFSET, copy=False)
        if is_mapped(matrix) and lengths.min() < 0:
            matrix.mapping.refuse("indptr", "the offsets of the rows do not ascend")
        longest = np.concatenate([longest, lengths])
        if len(longest) > count:
            longest = np.partition(longest, len(longest) - count)[len(longest) - count :]
    return int(longest.max(initial=0)), int(longest.sum())


def _source(matrix):
    """Where a matrix's arrays are."""
    return matrix.mapping if is_mapped(matrix) else matrix


def _pieces(matrix, n: int, size: int) -> Iterator[slice]:
    """Yield slices that cover 0..n, and let go of a mapped matrix's pages after each."""
    for first in range(0, n, size):
        yield slice(first, min(n, first + size))
        if is_mapped(matrix):
            matrix.mapping.release()
