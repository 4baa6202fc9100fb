"""Figures of whole matrices, computed a piece at a time so that memory does not grow with the matrix."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_matrix

from slide.data.mapped import MappedMatrix, as_mapped
from slide.kernels import dtypes

PIECE = 1 << 18
"""Number of entries, or of rows, in a piece."""


def column_counts(matrix: csr_matrix, *, nonzero: bool = False) -> np.ndarray:
    """Return how many entries each column has, int64 [columns].

    With `nonzero`, entries that are zero do not count; label matrices have none.
    """
    n_columns = matrix.shape[1]
    counts = np.zeros(n_columns, np.int64)
    mapped = as_mapped(matrix)
    # Each piece makes an array as long as the columns, so a piece has at least as many entries.
    for first, last in _pieces(*_entries(matrix), max(PIECE, n_columns)):
        ids = _read(matrix, "indices", first, last)
        if mapped is not None:
            mapped.check_ids(ids)
        if nonzero:
            ids = ids[_read(matrix, "data", first, last) != 0]
        counts += np.bincount(ids, minlength=n_columns)
    if mapped is not None and len(mapped.skipped):
        skipped = MappedMatrix.over(mapped.files, n_columns).rows(mapped.first + mapped.skipped)
        counts -= column_counts(skipped, nonzero=nonzero)
    return counts


def n_entries(matrix: csr_matrix) -> int:
    """Return the number of entries that a matrix stores, including those of skipped rows."""
    first, last = _entries(matrix)
    return last - first


def longest_rows(matrix: csr_matrix, count: int) -> tuple[int, int]:
    """Return the number of entries of the longest row, and that of the `count` longest rows together.

    If the matrix skips rows, these count too, so that both may be too large.
    """
    longest = np.zeros(0, dtypes.OFFSET)
    mapped = as_mapped(matrix)
    rows = (0, len(matrix.indptr) - 1) if mapped is None else mapped.extent()
    for first, last in _pieces(*rows, PIECE):
        lengths = np.diff(_read(matrix, "indptr", first, last + 1)).astype(dtypes.OFFSET, copy=False)
        if lengths.min() < 0 and mapped is not None:
            mapped.files.indptr.refuse(f"the offsets of the rows {first:,} to {last - 1:,} do not ascend")
        longest = np.concatenate([longest, lengths])
        if len(longest) > count:
            longest = np.partition(longest, len(longest) - count)[len(longest) - count :]
    return int(longest.max(initial=0)), int(longest.sum())


def _read(matrix: csr_matrix, part: str, first: int, last: int) -> np.ndarray:
    """Return a piece of one of a matrix's arrays."""
    mapped = as_mapped(matrix)
    if mapped is not None:
        return getattr(mapped.files, part).read(first, last)
    return getattr(matrix, part)[first:last]


def _entries(matrix: csr_matrix) -> tuple[int, int]:
    """Return where a matrix's entries begin and end in its arrays, including those of skipped rows."""
    mapped = as_mapped(matrix)
    if mapped is None:
        return 0, len(matrix.indices)
    files, rows = mapped.files, mapped.extent()
    if rows == (0, len(files.indptr) - 1):
        return 0, len(files.indices)
    first, last = (int(files.indptr.read(row, row + 1)[0]) for row in rows)
    if not 0 <= first <= last <= len(files.indices):
        files.indptr.refuse(f"the offsets of the rows {rows[0]:,} to {rows[1] - 1:,} do not ascend")
    return first, last


def _pieces(begin: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    for first in range(begin, end, size):
        yield first, min(end, first + size)
