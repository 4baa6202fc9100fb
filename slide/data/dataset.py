"""The data set: a matrix of features and a matrix of labels, checked once."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix, issparse

MAX_IDS = np.iinfo(np.int32).max
"""The most features, or labels, a data set can have: ids are int32 throughout."""


class DataError(ValueError):
    """Data that cannot be used as it is; the message says where the fault lies and what was expected."""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Samples with sparse features and sparse labels.

    Use :meth:`from_arrays` for matrices of unknown origin; the constructor checks only what costs nothing and
    trusts the caller for the rest.

    Parameters
    ----------
    X : csr_matrix of float32, shape (n_samples, n_features)
        Features; the column ids of every row are sorted and free of repeats, and every value is finite.
    Y : csr_matrix of float32, shape (n_samples, n_labels)
        Label indicator; the column ids of every row are sorted and free of repeats, and every stored value is
        1.
    name : str, default=""
        What to call the data in reports.

    Raises
    ------
    DataError
        If a matrix is not CSR or not float32, if the numbers of rows differ, or if there are more columns
        than int32 ids.

    Notes
    -----
    SciPy gives ``indptr`` and ``indices`` one type, int32 until the number of non-zeros outgrows it. Kernels
    that want int64 ``indptr`` convert that array, which is the small one.
    """

    X: csr_matrix
    Y: csr_matrix
    name: str = field(default="", kw_only=True)

    def __post_init__(self):
        for letter, matrix in (("X", self.X), ("Y", self.Y)):
            if not isinstance(matrix, csr_matrix) or matrix.dtype != np.float32:
                raise DataError(
                    f"{letter} must be a float32 csr_matrix; Dataset.from_arrays converts other matrices"
                )
            if matrix.shape[1] > MAX_IDS:
                raise DataError(
                    f"{letter} has {matrix.shape[1]:,} columns; column ids are int32, {MAX_IDS:,} at most"
                )
        if self.X.shape[0] != self.Y.shape[0]:
            raise DataError(
                f"X has {self.X.shape[0]:,} rows and Y has {self.Y.shape[0]:,}: both need one for each sample"
            )

    @classmethod
    def from_arrays(cls, X: ArrayLike, Y: ArrayLike, *, name: str = "") -> Dataset:
        """Check and normalise any pair of matrices.

        Repeated entries of X are summed. Every positive entry of Y counts as a label, once. The arguments are
        never modified; what already has the wanted form is not copied.

        Parameters
        ----------
        X : sparse matrix, sparse array or dense array, shape (n_samples, n_features)
            Real, finite values.
        Y : sparse matrix, sparse array or dense array, shape (n_samples, n_labels)
            Label indicator: zero or positive.
        name : str, default=""
            What to call the data in reports.

        Returns
        -------
        Dataset

        Raises
        ------
        DataError
            If a matrix is not two-dimensional or not numeric, if its index arrays are inconsistent, if a
            value is NaN, infinite or too large for float32, if Y has a negative value, or if the numbers of
            rows differ.
        """
        X = as_float32_csr(X, "X")
        Y = as_float32_csr(Y, "Y")
        if is_mapped(Y) and Y.mapping.letter == "Y":
            return cls(X, Y, name=name)
        negative = Y.data < 0
        if negative.any():
            row, column, value = _locate(Y, negative)
            raise DataError(
                f"Y, row {row}, column {column}: {value} is negative; "
                "Y marks the labels of a sample with 1 and the rest with 0"
            )
        if (Y.data != 1).any():
            Y = csr_matrix((Y.data > 0, Y.indices, Y.indptr), shape=Y.shape, dtype=np.float32, copy=True)
            Y.eliminate_zeros()
        return cls(X, Y, name=name)

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return self.X.shape[0]

    @property
    def n_points(self) -> int:
        """The former name of `n_samples`."""
        return self.n_samples

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.X.shape[1]

    @property
    def n_labels(self) -> int:
        """Number of labels."""
        return self.Y.shape[1]

    def __len__(self) -> int:
        return self.n_samples

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}: {self.n_samples:,} samples, {self.n_features:,} features, "
            f"{self.n_labels:,} labels; {self.X.nnz:,} values, {self.Y.nnz:,} labels of samples)"
        )

    def subset(self, rows: ArrayLike | slice) -> Dataset:
        """Return the samples of some rows.

        Parameters
        ----------
        rows : array of int or bool, or slice
            Row numbers, in the order wanted; or a mask with one entry a sample.

        Returns
        -------
        Dataset
            A copy with the same features, labels and name.

        Raises
        ------
        IndexError
            If a row number is out of range or the mask has the wrong length.
        """
        if not isinstance(rows, slice):
            rows = np.asarray(rows)
            if rows.size == 0:
                rows = rows.astype(np.intp)
        return Dataset(self.X[rows], self.Y[rows], name=self.name)

    def split(self, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
        """Split the samples at random in two.

        Parameters
        ----------
        fraction : float in (0, 1)
            Share of the samples that goes into the first part, rounded to the nearest whole sample.
        seed : int
            The same seed gives the same split.

        Returns
        -------
        first, rest : Dataset
            Both keep the order of the samples.

        Raises
        ------
        ValueError
            If `fraction` is not between 0 and 1.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must lie between 0 and 1, not {fraction!r}")
        order = np.random.default_rng(operator.index(seed)).permutation(self.n_samples)
        cut = round(fraction * self.n_samples)
        return self.subset(np.sort(order[:cut])), self.subset(np.sort(order[cut:]))


def is_mapped(matrix) -> bool:
    """Tell whether a matrix is one of a data set's folder, mapped into memory, which was checked when it was written.

    See `slide.data.mapped`.
    """
    return getattr(matrix, "mapping", None) is not None


def as_float32_csr(matrix, letter: str) -> csr_matrix:
    """Return a canonical, finite float32 CSR matrix, sharing memory where nothing has to change.

    Parameters
    ----------
    matrix : sparse matrix, sparse array or dense array
        Two-dimensional, real, finite.
    letter : str
        What to call it in messages.

    Raises
    ------
    DataError
        As :meth:`Dataset.from_arrays` does.
    """
    if is_mapped(matrix):
        return matrix
    if not issparse(matrix):
        matrix = np.asarray(matrix)
    if matrix.ndim != 2:
        raise DataError(f"{letter} must have two dimensions, a row for each sample; it has {matrix.ndim}")
    if matrix.dtype.kind not in "biuf":
        raise DataError(f"{letter} must hold real numbers, not {matrix.dtype}")
    if matrix.dtype == np.float16:
        # SciPy has no sparse half precision.
        matrix = matrix.astype(np.float32)
    try:
        matrix = csr_matrix(matrix)
        matrix.check_format(full_check=True)
    except ValueError as error:
        raise DataError(f"{letter} is not a valid sparse matrix: {error}") from None
    if not matrix.has_canonical_format:
        matrix = matrix.astype(np.float64)
        matrix.sum_duplicates()
    with np.errstate(over="ignore"):
        narrow = matrix.astype(np.float32, copy=False)
    finite = np.isfinite(narrow.data)
    if not finite.all():
        row, column, value = _locate(matrix, ~finite)
        problem = "too large for float32" if np.isfinite(value) else "not finite (NaN or infinity)"
        raise DataError(
            f"{letter}, row {row}, column {column}: {value} is {problem}; replace it or leave the entry out"
        )
    return narrow


def _locate(matrix: csr_matrix, marked: np.ndarray):
    """Return (row, column, value) of the first marked entry."""
    entry = int(np.argmax(marked))
    row = int(np.searchsorted(matrix.indptr, entry, side="right")) - 1
    return row, int(matrix.indices[entry]), matrix.data[entry]
