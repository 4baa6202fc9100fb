"""Figures of whole matrices, gathered a piece at a time, so that nothing of their size is made."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_matrix

from slide.data.dataset import is_mapped
from slide.data.mapped import MappedMatrix
from slide.kernels import dtypes

PIECE = 1 << 18
"""Entries, or rows, looked at at a time."""


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
    n_columns = matrix.shape[1]
    counts = np.zeros(n_columns, np.int64)
    # A piece's counts are as many as the columns.
    for first, last in _pieces(*_entries(matrix), max(PIECE, n_columns)):
        ids = _read(matrix, "indices", first, last)
        if is_mapped(matrix):
            matrix.check_ids(ids)
        if nonzero:
            ids = ids[_read(matrix, "data", first, last) != 0]
        counts += np.bincount(ids, minlength=n_columns)
    if is_mapped(matrix) and len(matrix.skipped):
        skipped = MappedMatrix.over(matrix.mapping, n_columns).rows(matrix.first + matrix.skipped)
        counts -= column_counts(skipped, nonzero=nonzero)
    return counts


def n_entries(matrix: csr_matrix) -> int:
    """Return the entries that a matrix stores, those of rows it skips counted."""
    first, last = _entries(matrix)
    return last - first


def longest_rows(matrix: csr_matrix, count: int) -> tuple[int, int]:
    """Return the entries of the longest row, and those of the `count` longest together, or more if rows are skipped.

    Parameters
    ----------
    matrix : csr_matrix
        Mapped or not.
    count : int
    """
    longest = np.zeros(0, dtypes.OFFSET)
    rows = matrix.extent() if is_mapped(matrix) else (0, len(matrix.indptr) - 1)
    for first, last in _pieces(*rows, PIECE):
        lengths = np.diff(_read(matrix, "indptr", first, last + 1)).astype(dtypes.OFFSET, copy=False)
        if lengths.min() < 0 and is_mapped(matrix):
            matrix.mapping.indptr.refuse(f"the offsets of the rows {first:,} to {last - 1:,} do not ascend")
        longest = np.concatenate([longest, lengths])
        if len(longest) > count:
            longest = np.partition(longest, len(longest) - count)[len(longest) - count :]
    return int(longest.max(initial=0)), int(longest.sum())


def _read(matrix, part, first, last):
    """A piece of one of a matrix's arrays."""
    if is_mapped(matrix):
        return getattr(matrix.mapping, part).read(first, last)
    return getattr(matrix, part)[first:last]


def _entries(matrix):
    """Where a matrix's entries begin and end in its arrays, those of rows it skips counted."""
    if not is_mapped(matrix):
        return 0, len(matrix.indices)
    rows = matrix.extent()
    if rows == (0, len(matrix.mapping.indptr) - 1):
        return 0, len(matrix.mapping.indices)
    first, last = (int(_read(matrix, "indptr", row, row + 1)[0]) for row in rows)
    if not 0 <= first <= last <= len(matrix.mapping.indices):
        matrix.mapping.indptr.refuse(f"the offsets of the rows {rows[0]:,} to {rows[1] - 1:,} do not ascend")
    return first, last


def _pieces(begin: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    for first in range(begin, end, size):
        yield first, min(end, first + size)
