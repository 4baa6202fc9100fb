"""What flows between layers: a batch of vectors, dense, sparse or both."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SPARSE_BELOW = 1 / 24
"""Fraction of non-zero columns under which a layer reads only those of the samples below it: a scalar multiplication at
a random column costs about as much as one on a whole vector register."""


class Ragged(NamedTuple):
    """A few entries of a flat array for each sample: ``flat[begin[s]:end[s]]``."""

    flat: np.ndarray
    begin: np.ndarray
    end: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Entries of each sample."""
        return self.end - self.begin

    @property
    def indptr(self) -> np.ndarray:
        """CSR row offsets, for runs without gaps."""
        return np.append(self.begin, self.end[-1:])

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Return, for every entry of every sample in order, its sample and its place in `flat`."""
        lengths = self.lengths
        samples = np.repeat(np.arange(len(lengths)), lengths)
        within = np.arange(len(samples)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return samples, np.repeat(self.begin, lengths) + within


class Activations(NamedTuple):
    """A layer's input for each sample of a batch.

    Attributes
    ----------
    dense : float32 array [samples, padded_dim] or None
        None for the features.
    columns : Ragged or None
        Ids of the columns that are not zero, None where all may be. The features' runs have no gaps between them.
    values : float32 array or None
        Their values, parallel to ``columns.flat``.
    """

    dense: np.ndarray | None
    columns: Ragged | None
    values: np.ndarray | None

    @property
    def reads_sparse(self) -> bool:
        """Whether a layer above should read the non-zero columns alone."""
        if self.dense is None:
            return True
        return self.columns is not None and self.columns.lengths.mean() < SPARSE_BELOW * self.dense.shape[1]
