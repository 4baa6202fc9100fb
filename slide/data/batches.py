"""Batches: some samples of a data set, in the arrays the kernels read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from slide.data.dataset import is_mapped
from slide.data.mapped import stretches
from slide.data.statistics import longest_rows
from slide.kernels import dtypes
from slide.kernels.sparse import take_rows

_UNWEIGHTED = np.zeros(0, dtypes.VALUE)


@dataclass(frozen=True)
class Batch:
    """A few samples: their features and their labels, both in CSR form.

    Attributes
    ----------
    indptr, indices, values : int64 [n + 1], int32, float32 arrays
        Features.
    label_ptr, labels : int64 [n + 1], int32 arrays
        Labels; those of each sample ascend.
    """

    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    label_ptr: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def n_samples(self) -> int:
        """Number of samples of the step, including those that other ranks read."""
        return len(self)

    def label_counts(self) -> np.ndarray:
        """Return how many labels each sample has, including those that other ranks have: int64 [n]."""
        return np.diff(self.label_ptr)


class BatchReader:
    """Reads batches of a data set into arrays that it uses again: a batch is valid until the next one is read.

    Parameters
    ----------
    X : csr_matrix of float32, shape (n, n_features)
        If the matrix is mapped, a window of it is in memory, which ``fetch`` moves.
    Y : csr_matrix, shape (n, n_labels), optional
        Only its pattern is read.
    batch_size : int
        Largest number of samples in a batch.
    normalize : bool
        Scale every sample's features to unit Euclidean length, after `weights`.
    weights : float32 array [n_features], optional
        Factors of every sample's features.
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
        self._features = _make_rows(X, batch_size)
        self._labels = None if Y is None else _make_rows(Y, batch_size, with_values=False)
        self._normalize = normalize
        self._weights = _UNWEIGHTED if weights is None else weights
        self._no_labels = np.zeros(batch_size + 1, dtypes.OFFSET)

    def read(self, rows: np.ndarray) -> Batch:
        """Return the samples of some rows, int64 [1 to batch_size], in that order.

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
        """Bring ranges of rows of mapped data, which must not overlap, into memory, and drop all others.

        ``read`` itself fetches rows that are not in memory. Raises DataError if the data is damaged.
        """
        for rows in (self._features, self._labels):
            if isinstance(rows, _MappedRows):
                rows.fetch(starts, stops)

    def expect(self, starts: np.ndarray, stops: np.ndarray) -> None:
        """Let the system read ranges of rows of mapped data from the disk while other rows are in use."""
        for rows in (self._features, self._labels):
            if isinstance(rows, _MappedRows):
                rows.expect(starts, stops)


def _make_rows(matrix: csr_matrix, batch_size: int, *, with_values: bool = True) -> _Rows:
    return (_MappedRows if is_mapped(matrix) else _Rows)(matrix, batch_size, with_values)


class _Rows:
    """A CSR matrix and room for any `batch_size` of its rows."""

    def __init__(self, matrix, batch_size, with_values):
        self._source = self._arrays(matrix, with_values)
        _, most = longest_rows(matrix, batch_size)
        self.out_indptr = np.zeros(batch_size + 1, dtypes.OFFSET)
        self.out_indices = np.zeros(most, dtypes.INDEX)
        self.out_values = np.zeros(most if with_values else 0, dtypes.VALUE)

    @staticmethod
    def _arrays(matrix, with_values):
        indptr = np.ascontiguousarray(matrix.indptr, dtypes.OFFSET)
        indices = np.ascontiguousarray(matrix.indices, dtypes.INDEX)
        return indptr, indices, matrix.data if with_values else np.zeros(0, dtypes.VALUE)

    def take(self, rows: np.ndarray, weights: np.ndarray, normalize: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        indptr, indices, values = self._source
        out = self.out_indptr, self.out_indices, self.out_values
        total = take_rows(indptr, indices, values, weights, rows, normalize, *out)
        return self.out_indptr[: len(rows) + 1], self.out_indices[:total], self.out_values[:total]


class _MappedRows(_Rows):
    """A mapped matrix, a window of it, and room for any `batch_size` of its rows."""

    def __init__(self, matrix, batch_size, with_values):
        self._matrix, self._with_values = matrix, with_values
        self._starts = self._stops = self._first = np.zeros(0, dtypes.OFFSET)
        super().__init__(matrix, batch_size, with_values)

    @staticmethod
    def _arrays(matrix, with_values):
        return np.zeros(1, dtypes.OFFSET), np.zeros(0, dtypes.INDEX), np.zeros(0, dtypes.VALUE)

    def fetch(self, starts, stops):
        """Bring these ranges of rows into memory, and drop all others."""
        starts, stops = starts[starts < stops], stops[starts < stops]
        self._load(self._matrix.places(starts), self._matrix.places(stops - 1) + 1)

    def expect(self, starts, stops):
        """Let the system read these ranges of rows in the background."""
        starts, stops = starts[starts < stops], stops[starts < stops]
        places = self._matrix.places(starts), self._matrix.places(stops - 1) + 1
        self._matrix.expect(*places, with_values=self._with_values)

    def take(self, rows: np.ndarray, weights: np.ndarray, normalize: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if len(rows) and not (rows.min() >= 0 and rows.max() < self._matrix.shape[0]):
            raise ValueError(f"a row is not in 0..{self._matrix.shape[0] - 1}")
        places = self._matrix.places(rows)
        window = self._windows(places)
        if (window < 0).any() or (places >= self._stops[window]).any():
            self._load(*stretches(np.unique(places)))
            window = self._windows(places)
        return super().take(self._first[window] + places - self._starts[window], weights, normalize)

    def _windows(self, places):
        """Return, for each place, the last range in memory that begins at or before it; -1 if there is none."""
        return np.searchsorted(self._starts, places, side="right") - 1

    def _load(self, starts, stops):
        # Drop the former window first, so that two are never in memory together.
        self._source = None
        order = np.argsort(starts)
        self._starts, self._stops = starts[order], stops[order]
        self._first = np.cumsum(self._stops - self._starts) - (self._stops - self._starts)
        self._source = self._matrix.read(self._starts, self._stops, with_values=self._with_values)
