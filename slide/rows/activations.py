"""What flows between layers: a batch of vectors, dense, sparse or both."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SPARSE_BELOW = 1 / 24
"""Fraction of non-zero columns below which a layer reads only these: a multiplication at one random column costs about
as much as one of a whole vector register."""


class Ragged(NamedTuple):
    """Some entries of a flat array for each sample s: ``flat[begin[s]:end[s]]``, with int64 begin and end."""

    flat: np.ndarray
    begin: np.ndarray
    end: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """How many entries each sample has."""
        return self.end - self.begin

    @property
    def indptr(self) -> np.ndarray:
        """CSR row offsets; only for entries without gaps between the samples."""
        return np.append(self.begin, self.end[-1:])

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Return each entry's sample and its place in `flat`, sample by sample."""
        lengths = self.lengths
        samples = np.repeat(np.arange(len(lengths)), lengths)
        within = np.arange(len(samples)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return samples, np.repeat(self.begin, lengths) + within


class Activations(NamedTuple):
    """A layer's input for each sample of a batch: dense vectors, sparse features, or vectors with few non-zero columns.

    Attributes
    ----------
    dense : float32 array [samples, padded_dim] or None
        None for features.
    columns : Ragged or None
        Ids of the columns that are not zero; None if any column may be. Features have no gaps between the samples.
    values : float32 array or None
        The values of `columns`, parallel to ``columns.flat``.
    """

    dense: np.ndarray | None
    columns: Ragged | None
    values: np.ndarray | None

    @classmethod
    def of_vectors(cls, dense: np.ndarray) -> Activations:
        """Return dense vectors, of which any column may be non-zero."""
        return cls(dense, None, None)

    @classmethod
    def of_features(cls, columns: Ragged, values: np.ndarray) -> Activations:
        """Return sparse features."""
        return cls(None, columns, values)

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return len(self.columns.begin) if self.columns is not None else len(self.vectors)

    @property
    def vectors(self) -> np.ndarray:
        """`dense`, of what is not features."""
        assert self.dense is not None, "features have no dense vectors"
        return self.dense

    @property
    def entries(self) -> tuple[Ragged, np.ndarray]:
        """`columns` and `values`, of what has them."""
        assert self.columns is not None and self.values is not None, "dense vectors have no list of columns"
        return self.columns, self.values

    @property
    def reads_sparse(self) -> bool:
        """Whether the layer above should read only the non-zero columns."""
        if self.dense is None:
            return True
        return self.columns is not None and self.columns.lengths.mean() < SPARSE_BELOW * self.dense.shape[1]
