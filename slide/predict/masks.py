"""Masks: which labels may be predicted, and which must not, for all samples or for each sample separately."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix, issparse

from slide.kernels import dtypes
from slide.kernels.rows import RowTable
from slide.kernels.search import candidates_topk, exact_topk

FEW = 3
"""Largest number of samples for which allowed rows are scored where they lie. For more samples the rows are first
copied side by side, so that one matrix product can score them."""

ROOM = 1 << 22
"""Number of candidates in memory at a time."""


class Allowed:
    """The labels that may be predicted for each of some samples.

    Parameters
    ----------
    labels : array of int [m], array of bool [n_labels], or sparse matrix, shape (n, n_labels)
        For all samples alike the ids, in any order, or a mask; or for each sample the columns of its non-zero entries.
    n : int
        Number of samples.
    n_labels : int
        Number of labels of the network.

    Raises
    ------
    ValueError
        An id is out of range, or the matrix does not have one row per sample.
    """

    def __init__(self, labels: ArrayLike | csr_matrix, n: int, n_labels: int):
        self._n_labels = n_labels
        # One of the two is there.
        self._ids: np.ndarray | None = None
        self._matrix: csr_matrix | None = None
        if issparse(labels) and labels.ndim == 2:
            self._matrix = _checked_matrix(labels, n, n_labels)
        else:
            self._ids = _checked_ids(labels, n_labels)
        self._subset: _Subset | None = None

    def most(self, block: slice) -> int:
        """Return the largest number of allowed labels among some consecutive samples."""
        if self._ids is not None:
            return len(self._ids)
        assert self._matrix is not None
        return int(np.diff(self._matrix.indptr[block.start : block.stop + 1]).max(initial=0))

    def topk(
        self,
        table: RowTable,
        hidden: np.ndarray,
        exclusions: Exclusions,
        block: slice,
        out_ids: np.ndarray,
        out_scores: np.ndarray,
        threads: int,
    ) -> None:
        """Find the k best of each sample's allowed labels, exactly; see ``exact_topk`` for the arrays.

        Parameters
        ----------
        table : RowTable
            Rows of all labels.
        hidden : float32 array [samples of the block, padded_dim]
        block : slice
            Which of the samples these are.
        out_ids, out_scores : arrays [samples of the block, k]
            Written.
        """
        if self._ids is not None and len(hidden) > FEW and len(self._ids):
            if self._subset is None:
                self._subset = _Subset(table, self._ids)
            self._subset.topk(hidden, exclusions.of(block), out_ids, out_scores, threads)
            return
        size = max(1, ROOM // max(1, self.most(block)))
        for first in range(0, len(hidden), size):
            some = slice(first, min(first + size, len(hidden)))
            part = slice(block.start + some.start, block.start + some.stop)
            found = out_ids[some], out_scores[some]
            candidates_topk(table, hidden[some], *self._candidates(part), *exclusions.of(part), *found, threads)

    def filter(self, found: np.ndarray, counts: np.ndarray, block: slice) -> tuple[np.ndarray, np.ndarray]:
        """Remove candidates that are not allowed; the others keep their order.

        Parameters
        ----------
        found : int32 array [samples of the block, any]
            Candidates: the first ``counts`` entries of each row.
        counts : int64 array [samples of the block]
        block : slice
            Which of the samples these are.

        Returns
        -------
        found, counts : arrays
            In the same form.
        """
        if self._ids is not None:
            known = np.zeros(self._n_labels, bool)
            known[self._ids] = True
            # Entries behind a sample's candidates may be no ids.
            good = known[np.where(np.arange(found.shape[1]) < counts[:, np.newaxis], found, 0)]
        else:
            assert self._matrix is not None
            good = among(found, self._matrix[block], self._n_labels)
        return compact(found, counts, good)

    def _candidates(self, block: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the allowed labels of some samples in the form that ``candidates_topk`` reads."""
        n = block.stop - block.start
        if self._ids is not None:
            return np.tile(self._ids, (n, 1)), np.full(n, len(self._ids), dtypes.OFFSET)
        assert self._matrix is not None
        part = self._matrix[block]
        counts = np.diff(part.indptr).astype(dtypes.OFFSET)
        candidates = np.zeros((n, int(counts.max(initial=0))), dtypes.INDEX)
        candidates[np.arange(candidates.shape[1]) < counts[:, np.newaxis]] = part.indices
        return candidates, counts


class _Subset:
    """Copies of some rows of a table side by side, searched as a table of their own."""

    def __init__(self, table: RowTable, ids: np.ndarray):
        self._ids = ids
        # Float32 holds every bfloat16 value exactly.
        self._table = RowTable(len(ids), table.dim, moments=0, name="allowed labels")
        self._table.weights[...] = table.weights[ids]
        self._table.bias[...] = table.bias[ids]

    def topk(
        self,
        hidden: np.ndarray,
        excluded: tuple[np.ndarray, np.ndarray],
        out_ids: np.ndarray,
        out_scores: np.ndarray,
        threads: int,
    ) -> None:
        """Find each sample's k best labels among these rows; see ``exact_topk``."""
        exact_topk(self._table, hidden, *self._places(*excluded), out_ids, out_scores, threads)
        # -1 stands for no label, and would read the last id here.
        np.copyto(out_ids, self._ids[out_ids], where=out_ids >= 0)

    def _places(self, ptr: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of excluded labels among the rows, in the form in which they are given."""
        if not len(ids):
            return ptr, ids
        places = np.searchsorted(self._ids, ids)
        here = self._ids[np.minimum(places, len(self._ids) - 1)] == ids
        return np.append(0, np.cumsum(here))[ptr], places[here].astype(dtypes.INDEX)


def among(found: np.ndarray, matrix: csr_matrix, n_labels: int) -> np.ndarray:
    """Return which candidates of each sample are columns of entries in its row of a matrix.

    `found` is an int32 array [n, any] and `matrix` has n rows; the result is a bool array of the shape of `found`.
    """
    width = max(n_labels, matrix.shape[1])
    keys = found + np.arange(len(found), dtype=np.int64)[:, np.newaxis] * width
    return np.isin(keys, entry_keys(matrix, width))


def compact(found: np.ndarray, counts: np.ndarray, good: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the good ones among each sample's first ``counts`` candidates, in their order, and their numbers."""
    good = good & (np.arange(found.shape[1]) < counts[:, np.newaxis])
    order = np.argsort(~good, axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1), np.count_nonzero(good, axis=1).astype(dtypes.OFFSET)


def _checked_ids(labels: ArrayLike, n_labels: int) -> np.ndarray:
    """Return label ids in ascending order, each once."""
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(
            f"allowed must be label ids in one dimension, or a sparse matrix with one row per sample; it has "
            f"{labels.ndim} dimensions"
        )
    if labels.dtype == bool:
        if len(labels) != n_labels:
            raise ValueError(f"allowed has {len(labels):,} truth values for {n_labels:,} labels")
        return np.flatnonzero(labels).astype(dtypes.INDEX)
    if labels.size and labels.dtype.kind not in "iu":
        raise ValueError(f"allowed must be label ids, whole numbers from 0 to {n_labels - 1:,}, not {labels.dtype}")
    wrong = np.flatnonzero((labels < 0) | (labels >= n_labels))
    if len(wrong):
        raise ValueError(
            f"allowed[{wrong[0]}] is {labels[wrong[0]]:,}; the network has the labels 0 to {n_labels - 1:,}"
        )
    return np.unique(labels).astype(dtypes.INDEX)


def _checked_matrix(labels: csr_matrix, n: int, n_labels: int) -> csr_matrix:
    matrix = csr_matrix(labels, copy=True)
    if matrix.shape[0] != n:
        raise ValueError(f"allowed has {matrix.shape[0]} rows for {n} samples")
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    wrong = np.flatnonzero(matrix.indices >= n_labels)
    if len(wrong):
        row = int(np.searchsorted(matrix.indptr, wrong[0], side="right")) - 1
        raise ValueError(
            f"allowed, row {row}: label {matrix.indices[wrong[0]]:,} is allowed, and the network has the labels 0 to "
            f"{n_labels - 1:,}"
        )
    return matrix


class Exclusions:
    """The labels that must not be predicted for each of some samples.

    Parameters
    ----------
    matrix : sparse matrix, shape (n, any), or None
        The excluded labels of a sample are the columns of its non-zero entries. None excludes nothing.
    n : int
        Number of samples.

    Raises
    ------
    ValueError
        The matrix does not have one row per sample.
    """

    def __init__(self, matrix: csr_matrix | np.ndarray | None, n: int):
        self._matrix: csr_matrix | None = None
        if matrix is not None:
            copy = csr_matrix(matrix, copy=True)
            if copy.shape[0] != n:
                raise ValueError(f"exclude has {copy.shape[0]} rows for {n} samples")
            copy.eliminate_zeros()
            copy.sort_indices()
            self._matrix = copy

    def of(self, block: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the excluded labels of some consecutive samples in the form that ``exact_topk`` reads.

        Returns
        -------
        ptr : int64 array [samples of the block + 1] or [0]
            Empty if nothing is excluded.
        ids : int32 array
            Ascending for each sample.
        """
        if self._matrix is None:
            return np.zeros(0, dtypes.OFFSET), np.zeros(0, dtypes.INDEX)
        ends = self._matrix.indptr[block.start : block.stop + 1].astype(dtypes.OFFSET)
        return ends - ends[0], self._matrix.indices[ends[0] : ends[-1]].astype(dtypes.INDEX, copy=False)

    def rows(self, block: slice) -> csr_matrix | None:
        """Return the rows of some consecutive samples in the matrix of exclusions; None if nothing is excluded."""
        return None if self._matrix is None else self._matrix[block]

    def remove(self, scores: csr_matrix, block: slice) -> csr_matrix:
        """Return sparse scores of some consecutive samples, [samples, n_labels], without excluded labels and zeros."""
        if self._matrix is None or not scores.nnz:
            return scores
        banned = self._matrix[block]
        width = max(banned.shape[1], scores.shape[1])
        scores = scores.copy()
        scores.data[np.isin(entry_keys(scores, width), entry_keys(banned, width))] = 0
        scores.eliminate_zeros()
        return scores


def entry_keys(matrix: csr_matrix, width: int) -> np.ndarray:
    """Return a number for each entry of a matrix: row times `width` plus column, as int64; `width` >= columns."""
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    return rows * width + matrix.indices
