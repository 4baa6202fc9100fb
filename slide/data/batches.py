"""Batches: some points of a data set, in the arrays the kernels read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from slide.data.dataset import is_mapped
from slide.data.statistics import longest_rows
from slide.kernels import dtypes
from slide.kernels.sparse import take_rows

RELEASE_ENTRIES = 8 << 20
"""Entries read of mapped data until its pages are let go of: 64 MiB."""

_UNWEIGHTED = np.zeros(0, dtypes.VALUE)


@dataclass(frozen=True)
class Batch:
    """A few points: their features and their labels, both in CSR form.

    Attributes
    ----------
    indptr, indices, values : int64 [n + 1], int32, float32 arrays
        Features.
    label_ptr, labels : int64 [n + 1], int32 arrays
        Labels, ascending for each point.
    """

    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    label_ptr: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.indptr) - 1


class BatchReader:
    """Reads batches of a data set into arrays that it owns and uses again: a batch is valid until the next.

    Parameters
    ----------
    X : csr_matrix of float32, shape (n, n_features)
        Mapped matrices are read where they are, and their pages let go of now and then.
    Y : csr_matrix, shape (n, n_labels), optional
        Only the pattern is read.
    batch_size : int
        Points of a batch, at most.
    normalize : bool
        Scale every point's features, weighted, to unit Euclidean length.
    weights : float32 array [n_features], optional
        Multiplied into every point's features.
    """

    def __init__(
        self,
        X: csr_matrix,
        Y: csr_matrix | None,
        batch_size: int,
        *,
        normalize: bool,
        weights: np.ndarray | None = None,
    ):
        self._features = _Rows(X, batch_size)
        self._labels = None if Y is None else _Rows(Y, batch_size, with_values=False)
        self._normalize = normalize
        self._weights = _UNWEIGHTED if weights is None else weights
        self._no_labels = np.zeros(batch_size + 1, dtypes.OFFSET)

    @property
    def most_features(self) -> int:
        """The most features a batch can have in all."""
        return len(self._features.out_indices)

    @property
    def most_labels(self) -> int:
        """The most labels a batch can have in all."""
        return 0 if self._labels is None else len(self._labels.out_indices)

    @property
    def most_labels_of_a_point(self) -> int:
        """The most labels any point has."""
        return 0 if self._labels is None else self._labels.longest

    def read(self, rows: np.ndarray) -> Batch:
        """Return the points of some rows, in that order.

        Parameters
        ----------
        rows : int64 array [at most batch_size]

        Raises
        ------
        DataError
            Mapped data is damaged.
        ValueError
            A row is out of range, or there are more rows than `batch_size`.
        """
        features = self._features.take(rows, self._weights, self._normalize)
        if self._labels is None:
            labels = (self._no_labels[: len(rows) + 1], np.zeros(0, dtypes.INDEX))
        else:
            labels = self._labels.take(rows, _UNWEIGHTED, False)[:2]
        return Batch(*features, *labels)

    def fetch(self, starts: np.ndarray, stops: np.ndarray) -> None:
        """Have the system read some rows of mapped data that will soon be asked for.

        Parameters
        ----------
        starts, stops : int64 arrays
            Ranges of rows.
        """
        for rows in (self._features, self._labels):
            if rows is not None and rows.mapped is not None:
                places = rows.mapped.places
                rows.mapped.mapping.fetch(places(starts), places(stops - 1) + 1)


class _Rows:
    """A CSR matrix and room for any `batch_size` of its rows."""

    def __init__(self, matrix, batch_size, *, with_values=True):
        self.mapped = matrix if is_mapped(matrix) else None
        source = matrix.mapping if is_mapped(matrix) else matrix
        self.indptr = np.ascontiguousarray(source.indptr, dtypes.OFFSET)
        self.indices = np.ascontiguousarray(source.indices, dtypes.INDEX)
        self.values = source.data if with_values else np.zeros(0, dtypes.VALUE)
        self.longest, most = longest_rows(matrix, batch_size)
        self.out_indptr = np.zeros(batch_size + 1, dtypes.OFFSET)
        self.out_indices = np.zeros(most, dtypes.INDEX)
        self.out_values = np.zeros(most if with_values else 0, dtypes.VALUE)
        self._held = 0

    def take(self, rows, weights, normalize):
        out = self.out_indptr, self.out_indices, self.out_values
        if self.mapped is not None and len(self.mapped.skipped):
            rows = self.mapped.places(rows)
        try:
            total = take_rows(self.indptr, self.indices, self.values, weights, rows, normalize, *out)
        except ValueError as error:
            # Rows that are not there are the caller's fault.
            if self.mapped is None or len(rows) >= len(self.out_indptr) or rows.max() >= len(self.indptr) - 1:
                raise
            self.mapped.mapping.refuse("indptr", str(error))
        taken = self.out_indptr[: len(rows) + 1], self.out_indices[:total], self.out_values[:total]
        if self.mapped is not None:
            self._watch(*taken[1:])
        return taken

    def _watch(self, indices, values):
        """Check what was read of a mapped matrix, and let go of its pages where they have become many."""
        self.mapped.check(indices, values)
        self._held += len(indices)
        if self._held >= RELEASE_ENTRIES:
            self.mapped.mapping.release()
            self._held = 0
