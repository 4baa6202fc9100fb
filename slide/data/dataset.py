"""The data set: a matrix of features and a matrix of labels, which are checked once."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix, issparse, sparray, spmatrix

MAX_IDS = np.iinfo(np.int32).max
"""Largest number of features, and of labels, of a data set: ids are int32 throughout."""

MatrixLike = ArrayLike | spmatrix | sparray


class DataError(ValueError):
    """Data that cannot be used as it is. The message says where the fault is and what was expected."""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Samples with sparse features and sparse labels.

    Use `from_arrays` for matrices of unknown origin. The constructor checks only what costs nothing and trusts the
    caller for the rest.

    Parameters
    ----------
    X : csr_matrix of float32, shape (n_samples, n_features)
        Features. The column ids of every row are sorted and do not repeat, and every value is finite.
    Y : csr_matrix of float32, shape (n_samples, n_labels)
        Labels. The column ids of every row are sorted and do not repeat, and every stored value is 1.
    name : str, optional
        Name of the data in reports. By default empty.

    Raises
    ------
    DataError
        A matrix is not CSR or not float32, the numbers of rows differ, or there are more columns than int32 ids.

    Notes
    -----
    SciPy gives ``indptr`` and ``indices`` the same type, which is int32 until the number of non-zeros outgrows it.
    Kernels need an int64 ``indptr``, so this array, the small one, is converted for them.

    Examples
    --------
    >>> from slide.data import Dataset
    >>> Dataset.from_arrays([[1.0, 0.0], [0.5, 2.0]], [[1], [0]], name="tiny")
    Dataset('tiny': 2 samples, 2 features, 1 labels; 3 values, 1 labels of samples)
    """

    X: csr_matrix
    Y: csr_matrix
    name: str = field(default="", kw_only=True)

    def __post_init__(self):
        for letter, matrix in (("X", self.X), ("Y", self.Y)):
            if not isinstance(matrix, csr_matrix) or matrix.dtype != np.float32:
                raise DataError(f"{letter} must be a float32 csr_matrix; Dataset.from_arrays converts other matrices")
            if matrix.shape[1] > MAX_IDS:
                raise DataError(
                    f"{letter} has {matrix.shape[1]:,} columns; it may have at most {MAX_IDS:,}, since column ids "
                    "are int32"
                )
        if self.X.shape[0] != self.Y.shape[0]:
            raise DataError(
                f"X has {self.X.shape[0]:,} rows and Y has {self.Y.shape[0]:,}: both need one for each sample"
            )

    @classmethod
    def from_arrays(cls, X: MatrixLike, Y: MatrixLike, *, name: str = "") -> Dataset:
        """Check any pair of matrices, and bring them into the form that a data set has.

        Repeated entries of X are summed. Every positive entry of Y counts as one label. The arguments are never
        modified. A matrix that already has the right form is not copied.

        Parameters
        ----------
        X : sparse matrix, sparse array or dense array, shape (n_samples, n_features)
            Real, finite values.
        Y : sparse matrix, sparse array or dense array, shape (n_samples, n_labels)
            Positive where a sample has a label, and zero where it has not.
        name : str, optional
            Name of the data in reports. By default empty.

        Returns
        -------
        Dataset

        Raises
        ------
        DataError
            A matrix is not two-dimensional or not numeric, its index arrays are inconsistent, or it has a value that is
            NaN, infinite or too large for float32; Y has a negative value; or the numbers of rows differ.
        """
        features = as_float32_csr(X, "X")
        labels = as_float32_csr(Y, "Y")
        mapping = getattr(labels, "mapping", None)
        if mapping is not None and mapping.letter == "Y":
            return cls(features, labels, name=name)
        negative = labels.data < 0
        if negative.any():
            row, column, value = _locate(labels, negative)
            raise DataError(
                f"Y, row {row}, column {column}: {value} is negative; "
                "Y must have 1 for the labels of a sample and 0 for the others"
            )
        if (labels.data != 1).any():
            entries = (labels.data > 0, labels.indices, labels.indptr)
            labels = csr_matrix(entries, shape=labels.shape, dtype=np.float32, copy=True)
            labels.eliminate_zeros()
        return cls(features, labels, name=name)

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
        """Return some of the samples.

        Parameters
        ----------
        rows : array of int or bool, or slice
            Row numbers, in the order that the samples are to have; or a mask with one entry per sample.

        Returns
        -------
        Dataset
            A copy, with the same columns and name.

        Raises
        ------
        IndexError
            A row number is out of range, or the mask has the wrong length.
        """
        if not isinstance(rows, slice):
            rows = np.asarray(rows)
            if rows.size == 0:
                rows = rows.astype(np.intp)
        return Dataset(self.X[rows], self.Y[rows], name=self.name)

    def split(self, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
        """Split the samples into two data sets at random.

        Parameters
        ----------
        fraction : float
            Share of the samples that the first data set gets, above 0 and below 1; the number of samples is rounded.
        seed : int
            The same seed gives the same split.

        Returns
        -------
        first, rest : Dataset
            Both keep the order of the samples.

        Raises
        ------
        ValueError
            `fraction` is not between 0 and 1.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction must lie between 0 and 1, not {fraction!r}")
        order = np.random.default_rng(operator.index(seed)).permutation(self.n_samples)
        cut = round(fraction * self.n_samples)
        return self.subset(np.sort(order[:cut])), self.subset(np.sort(order[cut:]))


def is_mapped(matrix: object) -> bool:
    """Tell whether a matrix lies in the files of a folder, mapped into memory: a `slide.data.mapped.MappedMatrix`.

    Such a matrix was checked when it was written.
    """
    return getattr(matrix, "mapping", None) is not None


def as_float32_csr(matrix, letter: str) -> csr_matrix:
    """Return a matrix as canonical, finite float32 CSR; it keeps the memory of arrays that need no change.

    `letter` is its name in messages. Raises DataError as `Dataset.from_arrays` does.
    """
    if is_mapped(matrix):
        return matrix
    if not issparse(matrix):
        matrix = np.asarray(matrix)
    if matrix.ndim != 2:
        raise DataError(f"{letter} must have two dimensions, with a row for each sample; it has {matrix.ndim}")
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


def _locate(matrix: csr_matrix, marked: np.ndarray) -> tuple[int, int, float]:
    """Return (row, column, value) of the first marked entry."""
    entry = int(np.argmax(marked))
    row = int(np.searchsorted(matrix.indptr, entry, side="right")) - 1
    return row, int(matrix.indices[entry]), matrix.data[entry]
