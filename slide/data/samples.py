"""Where a reader puts the samples that it reads: arrays in memory, or a writer of files."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from scipy.sparse import csr_matrix

from slide.data.dataset import Dataset


class SampleSink(Protocol):
    """Takes the samples of a file, some at a time."""

    def append(
        self,
        labels: np.ndarray,
        label_counts: np.ndarray,
        features: np.ndarray,
        values: np.ndarray,
        feature_counts: np.ndarray,
    ) -> None:
        """Take samples.

        Parameters
        ----------
        labels : int32 array
            Labels of these samples, one sample after the other; those of each sample ascend and do not repeat.
        label_counts : int array [samples]
            Number of labels of each sample.
        features, values : int32, float32 arrays
            Features in the same order, and their values, which are finite.
        feature_counts : int array [samples]
            Number of features of each sample.
        """


class SampleArrays:
    """Samples in memory: a `SampleSink`."""

    def __init__(self):
        self.labels = _GrowingArray(np.int32)
        self.label_counts = _GrowingArray(np.int64)
        self.features = _GrowingArray(np.int32)
        self.values = _GrowingArray(np.float32)
        self.feature_counts = _GrowingArray(np.int64)

    def append(
        self,
        labels: np.ndarray,
        label_counts: np.ndarray,
        features: np.ndarray,
        values: np.ndarray,
        feature_counts: np.ndarray,
    ) -> None:
        """See `SampleSink`."""
        self.labels.extend(labels)
        self.label_counts.extend(label_counts)
        self.features.extend(features)
        self.values.extend(values)
        self.feature_counts.extend(feature_counts)

    def dataset(self, n_features: int, n_labels: int, first_feature: int = 0) -> Dataset:
        """Return the samples, once; the feature id `first_feature` becomes column 0."""
        features = self.features.finish()
        features -= first_feature
        X = _canonical_csr(self.values.finish(), features, self.feature_counts.finish(), n_features)
        labels = self.labels.finish()
        Y = _canonical_csr(np.ones(len(labels), np.float32), labels, self.label_counts.finish(), n_labels)
        return Dataset(X, Y)


class _GrowingArray:
    """An array that is extended piece by piece, in place.

    The operating system moves large blocks by changing page tables, so the peak of memory stays near the size of the
    result. Collecting the pieces and joining them would hold everything twice.
    """

    def __init__(self, dtype: type[np.generic]):
        self.array = np.empty(0, dtype)
        self.size = 0

    def extend(self, piece: np.ndarray) -> None:
        size = self.size + len(piece)
        if size > len(self.array):
            self.array.resize(max(size, len(self.array) * 5 // 4), refcheck=False)
        self.array[self.size : size] = piece
        self.size = size

    def finish(self) -> np.ndarray:
        self.array.resize(self.size, refcheck=False)
        return self.array


def _canonical_csr(data: np.ndarray, indices: np.ndarray, counts: np.ndarray, n_columns: int) -> csr_matrix:
    indptr = np.concatenate(([0], np.cumsum(counts)))
    matrix = csr_matrix((data, indices, indptr), shape=(len(counts), n_columns), copy=False)
    matrix.has_canonical_format = True
    return matrix
