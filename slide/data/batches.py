"""Batches: some points of a data set, in the arrays the kernels read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from slide.kernels import dtypes
from slide.kernels.sparse import take_rows

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
        self._features = _Rows(X.indptr, X.indices, X.data, batch_size)
        self._labels = (
            None if Y is None else _Rows(Y.indptr, Y.indices, np.zeros(0, dtypes.VALUE), batch_size)
        )
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
        ValueError
            A row is out of range, or there are more rows than `batch_size`.
        """
        features = self._features.take(rows, self._weights, self._normalize)
        if self._labels is None:
            labels = (self._no_labels[: len(rows) + 1], np.zeros(0, dtypes.INDEX))
        else:
            labels = self._labels.take(rows, _UNWEIGHTED, False)[:2]
        return Batch(*features, *labels)


class _Rows:
    """A CSR matrix and room for any `batch_size` of its rows."""

    def __init__(self, indptr, indices, values, batch_size):
        self.indptr = np.ascontiguousarray(indptr, dtypes.OFFSET)
        self.indices = np.ascontiguousarray(indices, dtypes.INDEX)
        self.values = values
        lengths = np.diff(self.indptr)
        self.longest = int(lengths.max(initial=0))
        batch = min(batch_size, len(lengths))
        most = int(np.partition(lengths, len(lengths) - batch)[len(lengths) - batch :].sum()) if batch else 0
        self.out_indptr = np.zeros(batch_size + 1, dtypes.OFFSET)
        self.out_indices = np.zeros(most, dtypes.INDEX)
        self.out_values = np.zeros(most if len(values) else 0, dtypes.VALUE)

    def take(self, rows, weights, normalize):
        total = take_rows(
            self.indptr,
            self.indices,
            self.values,
            weights,
            rows,
            normalize,
            self.out_indptr,
            self.out_indices,
            self.out_values,
        )
        return self.out_indptr[: len(rows) + 1], self.out_indices[:total], self.out_values[:total]


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """Return a permutation of 0..n-1, a function of (n, seed, epoch) alone.

    Parameters
    ----------
    n, seed, epoch : int

    Returns
    -------
    int64 array [n]
    """
    key = np.array([seed, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(n).astype(dtypes.OFFSET, copy=False)
