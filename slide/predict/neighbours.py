"""Neighbours: the labels of the training samples most similar to a query."""

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
"""Queries whose votes are in memory at a time."""


class Neighbours:
    """Exact nearest neighbours by the cosine of sparse features, and their votes for labels.

    A query's k nearest training samples vote for their labels, each with its similarity to some power; the votes are
    divided by the sum of all k weights, so that a label's votes estimate the probability that the query has it.

    Memory is 8 bytes for each non-zero of the features and 8 for each label of a sample; while it is made, the features
    are in memory twice more.

    Parameters
    ----------
    X : sparse or dense matrix, shape (n_samples, n_features)
        Features of the samples that may be neighbours, such as the training set.
    Y : sparse or dense matrix, shape (n_samples, n_labels)
        Their labels: the positive entries.
    k : int
        Neighbours that vote.
    power : float
        Of the similarity, in a vote. 0 counts all neighbours alike; large values the nearest alone.
    feature_weights : float array [n_features], optional
        Multiplied into the features of samples and queries before they are scaled to unit length.
    threads : int, optional
        By default all cores this process may use. Results do not depend on it.

    Attributes
    ----------
    n_samples, n_features, n_labels : int
    labels_per_sample : float
        Mean.
    k : int
    power : float
    threads : int

    Raises
    ------
    DataError
        A matrix is not one or has values that are not finite, or the numbers of samples differ.
    ValueError
        There are no samples, or a setting is out of range.

    Notes
    -----
    All methods may be called from several threads at once. A sample without features, or that shares none with any
    training sample, has no neighbours and gets no votes; nor do samples of a similarity that is not positive.
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

    def _set(self, k, power):
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
        """Return the same samples with other settings; their memory is shared.

        Parameters
        ----------
        k : int, optional
        power : float, optional

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

        Returns
        -------
        ids : int32 array [n, k]
            Nearest first, equal similarities in order of id; -1 where there are no further neighbours.
        similarities : float32 array [n, k]
            Cosines, above 0; 0 where there is no neighbour.

        Raises
        ------
        DataError
            `X` has a value that is not finite, or is not a matrix.
        ValueError
            The number of columns does not fit.
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
            The votes of all are in memory: `k` times the labels of a sample for each query, at most.

        Returns
        -------
        csr_matrix of float32, shape (n, n_labels)
            From 0 to 1; columns ascending.

        Raises
        ------
        DataError, ValueError
            As ``nearest`` does.
        """
        return self.votes_of(*self.nearest(X))

    def votes_of(self, ids: np.ndarray, similarities: np.ndarray) -> csr_matrix:
        """Return the votes of neighbours found before.

        Parameters
        ----------
        ids : int32 array [n, any]
        similarities : float32 array [n, any]
            As ``nearest`` returns them.

        Returns
        -------
        csr_matrix of float32, shape (n, n_labels)
        """
        found = ids >= 0
        # Of the nearest, so that no power underflows for all neighbours at once.
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
        """Return each query's k labels of most votes.

        Memory is one block of votes, whatever the number of queries.

        Parameters
        ----------
        X : sparse or dense matrix, shape (n, n_features)
        k : int
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
            As ``nearest`` does, or k is not positive.
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

    def _reader(self, X, batch_size):
        return BatchReader(X, None, batch_size, normalize=True, weights=self._feature_weights)

    def _features(self, X):
        X = as_float32_csr(X, "X")
        if X.shape[1] != self.n_features:
            raise ValueError(f"X has {X.shape[1]:,} features, the neighbours {self.n_features:,}")
        return X


def best_labels(
    votes: csr_matrix,
    scores: np.ndarray,
    k: int,
    more_ids: np.ndarray | None = None,
    more_scores: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best of each query's voted labels, and of further ones that may be among them.

    Parameters
    ----------
    votes : csr_matrix, shape (n, n_labels)
        Its pattern counts; columns ascending.
    scores : float array
        Parallel to ``votes.data``.
    k : int
    more_ids : int32 array [n, any], optional
        Further labels; -1 for none.
    more_scores : float64 array [n, any], optional
        Their scores; those of voted labels do not count.

    Returns
    -------
    ids : int32 array [n, k]
        Best first, equal scores in order of id; -1 for none.
    scores : float64 array [n, k]
        0 for none.
    """
    n = votes.shape[0]
    ids, best = np.empty((n, k), dtypes.INDEX), np.empty((n, k), np.float64)
    if more_ids is None:
        more_ids, more_scores = np.empty((n, 0), dtypes.INDEX), np.empty((n, 0), np.float64)
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
