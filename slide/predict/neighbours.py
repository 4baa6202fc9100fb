"""Neighbours: the training samples most similar to a query, and their votes for labels."""

from __future__ import annotations

import copy
import math

import numpy as np
from scipy.sparse import csr_matrix

from slide.data.batches import BatchReader
from slide.data.dataset import Dataset, as_float32_csr
from slide.kernels import dtypes
from slide.kernels.neighbours import Postings, best_of_rows, nearest
from slide.kernels.parallel import resolve_threads
from slide.predict.masks import Exclusions

BLOCK = 512
"""Number of queries whose votes are in memory at a time."""


class Neighbours:
    """Exact nearest neighbours by the cosine of sparse features, and their votes for labels.

    A query's k nearest training samples vote for their labels. The weight of a vote is the similarity, raised to a
    power; votes are divided by the sum of all k weights, so that a label's votes estimate the probability that the
    query has it.

    Memory is 8 bytes per non-zero of the features and 8 per label of a sample. While the object is made, the features
    are in memory twice more.

    Parameters
    ----------
    X : sparse or dense matrix, shape (n_samples, n_features)
        Features of the samples that may be neighbours, such as the training set.
    Y : sparse or dense matrix, shape (n_samples, n_labels)
        Their labels: the positive entries.
    k : int
        Number of neighbours that vote, 1 or more; 50 by default.
    power : float
        Power of the similarity that is a vote's weight, 0 or more; 2 by default. With 0 all neighbours count alike;
        with large values only the nearest counts.
    feature_weights : float array [n_features], optional
        Multiplied into the features of samples and queries before they are scaled to unit length.
    threads : int, optional
        By default all cores that this process may use. Results do not depend on it.

    Attributes
    ----------
    n_samples : int
        Number of samples that may be neighbours.
    n_features : int
        Number of features.
    n_labels : int
        Number of labels.
    labels_per_sample : float
        Mean number of labels per sample.
    k : int
        As given.
    power : float
        As given.
    threads : int
        Number of threads that searches use.

    Raises
    ------
    DataError
        `X` or `Y` is not a matrix or has values that are not finite, or the numbers of samples differ.
    ValueError
        There are no samples, or a setting is out of range.

    Notes
    -----
    Several threads may call any method at once. Training samples without a positive similarity to a query are not its
    neighbours. A query without features, or without a feature in common with any training sample, has no neighbours and
    gets no votes.

    Examples
    --------
    >>> from slide import Neighbours
    >>> neighbours = Neighbours([[1, 0], [1, 1], [0, 1]], [[1, 0], [1, 0], [0, 1]], k=1)
    >>> neighbours.predict([[0, 2]], k=1)
    (array([[1]], dtype=int32), array([[1.]], dtype=float32))
    """

    def __init__(
        self,
        X: csr_matrix,
        Y: csr_matrix,
        *,
        k: int = 50,
        power: float = 2.0,
        feature_weights: np.ndarray | None = None,
        threads: int | None = None,
    ):
        self.threads = resolve_threads(threads)
        self._set(k, power)
        data = Dataset.from_arrays(X, Y)
        if not data.n_samples:
            raise ValueError("there are no samples to be neighbours")
        self.n_samples, self.n_features, self.n_labels = data.n_samples, data.n_features, data.n_labels
        self._feature_weights = None
        if feature_weights is not None:
            weights = np.ascontiguousarray(feature_weights, dtypes.VALUE)
            if weights.shape != (self.n_features,) or not np.isfinite(weights).all():
                raise ValueError(
                    f"feature_weights must be finite, one for each of {self.n_features:,} features; "
                    f"their shape is {weights.shape}"
                )
            self._feature_weights = weights
        self._labels = data.Y
        self.labels_per_sample = data.Y.nnz / data.n_samples
        samples = self._reader(data.X, data.n_samples).read(np.arange(data.n_samples, dtype=dtypes.OFFSET))
        unit = csr_matrix((samples.values, samples.indices, samples.indptr), shape=data.X.shape).tocsc()
        self._postings = Postings(
            unit.indptr.astype(dtypes.OFFSET),
            unit.indices.astype(dtypes.INDEX, copy=False),
            unit.data,
            data.n_samples,
        )

    def _set(self, k: int, power: float) -> None:
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise ValueError(f"k, the number of neighbours, must be a whole number from 1, got {k!r}")
        if not (math.isfinite(power) and power >= 0):
            raise ValueError(f"power must be a number from 0, got {power!r}")
        self.k, self.power = int(k), float(power)

    @property
    def n_points(self) -> int:
        """The former name of `n_samples`."""
        return self.n_samples

    @property
    def labels_per_point(self) -> float:
        """The former name of `labels_per_sample`."""
        return self.labels_per_sample

    def __repr__(self) -> str:
        return (
            f"Neighbours({self.n_samples:,} samples, {self.n_features:,} features, {self.n_labels:,} labels, "
            f"k={self.k}, power={self.power:g})"
        )

    def replace(self, *, k: int | None = None, power: float | None = None) -> Neighbours:
        """Return neighbours with the same samples, in the same memory, and other settings.

        Parameters
        ----------
        k : int, optional
            Number of neighbours that vote; by default as now.
        power : float, optional
            Power of the similarity; by default as now.

        Returns
        -------
        Neighbours
            A new object; this one does not change.

        Raises
        ------
        ValueError
            A setting is out of range.
        """
        other = copy.copy(self)
        other._set(self.k if k is None else k, self.power if power is None else power)
        return other

    def nearest(self, X: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        """Return each query's k nearest samples.

        Parameters
        ----------
        X : sparse or dense matrix, shape (n, n_features)
            Queries.

        Returns
        -------
        ids : int32 array [n, k]
            Row numbers of the samples, nearest first, equal similarities in order of id; -1 where there are no further
            neighbours.
        similarities : float32 array [n, k]
            Cosines, above 0; 0 where there is no neighbour.

        Raises
        ------
        DataError
            `X` has a value that is not finite, or is not a matrix.
        ValueError
            `X` has another number of features.
        """
        X = self._features(X)
        n = X.shape[0]
        ids, similarities = np.empty((n, self.k), dtypes.INDEX), np.empty((n, self.k), dtypes.VALUE)
        reader = self._reader(X, BLOCK)
        for first in range(0, n, BLOCK):
            block = slice(first, min(first + BLOCK, n))
            batch = reader.read(np.arange(block.start, block.stop, dtype=dtypes.OFFSET))
            queries = batch.indptr, batch.indices, batch.values
            nearest(self._postings, *queries, ids[block], similarities[block], self.threads)
        return ids, similarities

    def votes(self, X: csr_matrix) -> csr_matrix:
        """Return the votes of each query's neighbours.

        Parameters
        ----------
        X : sparse or dense matrix, shape (n, n_features)
            Queries. All their votes are in memory: up to `k` times the labels of a sample per query.

        Returns
        -------
        csr_matrix of float32, shape (n, n_labels)
            Votes from 0 to 1; columns ascending.

        Raises
        ------
        DataError, ValueError
            As for ``nearest``.
        """
        return self.votes_of(*self.nearest(X))

    def votes_of(self, ids: np.ndarray, similarities: np.ndarray) -> csr_matrix:
        """Return the votes of neighbours that ``nearest`` found before.

        Parameters
        ----------
        ids : int32 array [n, any]
            As ``nearest`` returns them, or the first columns.
        similarities : float32 array [n, any]
            Likewise.

        Returns
        -------
        csr_matrix of float32, shape (n, n_labels)
            As ``votes`` returns them.
        """
        found = ids >= 0
        # Relative to the nearest neighbour, so that no power underflows for all neighbours at once.
        relative = similarities / np.where(similarities > 0, similarities, 1)[:, :1].astype(np.float64)
        weights = np.where(found, relative**self.power, 0.0)
        weights = (weights / np.maximum(weights.sum(axis=1, keepdims=True), 1.0)).astype(dtypes.VALUE)
        ptr = np.append(0, np.cumsum(found.sum(axis=1)))
        votes = csr_matrix((weights[found], ids[found], ptr), shape=(len(ids), self.n_samples)) @ self._labels
        votes.eliminate_zeros()
        votes.sort_indices()
        return votes

    def predict(
        self, X: csr_matrix, k: int = 5, *, exclude: csr_matrix | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the k labels with the most votes for each query.

        Memory is one block of votes, whatever the number of queries.

        Parameters
        ----------
        X : sparse or dense matrix, shape (n, n_features)
            Queries.
        k : int
            Number of labels per query, 1 or more; 5 by default.
        exclude : sparse matrix, shape (n, any), optional
            Labels that must not be predicted, as in ``Network.predict``.

        Returns
        -------
        ids : int32 array [n, k]
            Best first, equal votes in order of id; -1 where no further label has votes.
        votes : float32 array [n, k]
            Estimated probabilities; 0 where there is no label.

        Raises
        ------
        DataError, ValueError
            As for ``nearest``; ValueError also if k is not positive.
        """
        X = self._features(X)
        if k < 1:
            raise ValueError(f"k must be 1 or more, got {k}")
        n = X.shape[0]
        exclusions = Exclusions(exclude, n)
        ids, best = np.empty((n, k), dtypes.INDEX), np.empty((n, k), dtypes.VALUE)
        for first in range(0, n, BLOCK):
            block = slice(first, min(first + BLOCK, n))
            votes = exclusions.remove(self.votes(X[block]), block)
            ids[block], best[block] = best_labels(votes, votes.data, k)
        return ids, best

    def _reader(self, X: csr_matrix, batch_size: int) -> BatchReader:
        return BatchReader(X, None, batch_size, normalize=True, weights=self._feature_weights)

    def _features(self, X: csr_matrix) -> csr_matrix:
        X = as_float32_csr(X, "X")
        if X.shape[1] != self.n_features:
            raise ValueError(f"X has {X.shape[1]:,} features, the neighbours {self.n_features:,}")
        return X


def best_labels(
    votes: csr_matrix,
    scores: np.ndarray,
    k: int,
    more: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best among each query's voted labels and, where given, further labels.

    Parameters
    ----------
    votes : csr_matrix, shape (n, n_labels)
        Says which labels have votes; its values are not read. Columns ascending.
    scores : float array
        Parallel to ``votes.data``.
    k : int
        Number of labels per query.
    more : pair of arrays, optional
        Further labels, int32 [n, any], -1 for none; and their scores, float64 [n, any]. Scores of labels that have
        votes are ignored.

    Returns
    -------
    ids : int32 array [n, k]
        Best first, equal scores in order of id; -1 for none.
    scores : float64 array [n, k]
        0 for none.
    """
    n = votes.shape[0]
    ids, best = np.empty((n, k), dtypes.INDEX), np.empty((n, k), np.float64)
    more_ids, more_scores = more or (np.empty((n, 0), dtypes.INDEX), np.empty((n, 0), np.float64))
    best_of_rows(
        votes.indptr.astype(dtypes.OFFSET),
        votes.indices.astype(dtypes.INDEX, copy=False),
        scores.astype(np.float64, copy=False),
        more_ids,
        more_scores,
        ids,
        best,
    )
    return ids, best
