"""Features as users have them, arrays, sparse matrices and data frames, and the names of their columns."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix, issparse

from slide.data.dataset import DataError, as_float32_csr


def is_frame(table) -> bool:
    """Return whether something is a data frame: a table whose columns have names and that becomes an array."""
    return hasattr(table, "columns") and hasattr(table, "__array__") and not issparse(table)


def read_features(X) -> csr_matrix:
    """Return any table of numbers as a float32 CSR matrix.

    Parameters
    ----------
    X : sparse matrix or array, array-like, or data frame, shape (n, n_features)
        Sparse columns of a pandas frame stay sparse.

    Raises
    ------
    DataError
        `X` has no samples or no features, is not two-dimensional, or has a value that is not a finite real number.
    TypeError
        A value is no number at all.
    """
    if is_frame(X):
        X = _of_frame(X)
    elif not issparse(X):
        X = np.asarray(X)
    if X.dtype.kind == "c":
        raise DataError(f"Complex data not supported: X has type {X.dtype}")
    if X.dtype.kind == "O":
        X = X.astype(np.float64)
    if X.ndim != 2:
        raise DataError(
            f"Expected 2D array, got {X.ndim}D array instead: X needs a row for each sample and a column for each "
            "feature. Reshape your data using X.reshape(-1, 1) if it has one feature or X.reshape(1, -1) if it is one "
            "sample"
        )
    for axis, what in enumerate(("sample", "feature")):
        if not X.shape[axis]:
            raise DataError(f"Found array with 0 {what}(s) (shape={X.shape}) while a minimum of 1 is required.")
    return as_float32_csr(X, "X")


def column_names(X) -> np.ndarray | None:
    """Return the names of a data frame's columns, None for other tables and for columns that are only numbered.

    Parameters
    ----------
    X : any table

    Returns
    -------
    object array [n_features] or None

    Raises
    ------
    TypeError
        Some names are strings and some are not.
    """
    if not is_frame(X):
        return None
    names = np.array(list(X.columns), dtype=object)
    strings = [isinstance(name, str) for name in names]
    if any(strings) and not all(strings):
        raise TypeError(
            "Feature names are only supported if all input features have string names; this frame mixes strings and "
            "other types. Convert them with X.columns = X.columns.astype(str)"
        )
    return names if len(names) and all(strings) else None


def names_mismatch(fitted: np.ndarray, given: np.ndarray) -> str:
    """Return what to say of columns whose names are not those, in the order, that training saw.

    Parameters
    ----------
    fitted, given : object array
    """
    known, here = set(fitted), set(given)
    lines = ["The feature names should match those that were passed during fit."]
    for title, names in (
        ("Feature names unseen at fit time:", sorted(here - known)),
        ("Feature names seen at fit time, yet now missing:", sorted(known - here)),
    ):
        if names:
            lines += [title, *(f"- {name}" for name in names[:5])] + ["- ..."] * (len(names) > 5)
    if known == here:
        lines.append("Feature names must be in the same order as they were in fit.")
    return "\n".join(lines) + "\n"


def _of_frame(X):
    """A data frame as a sparse matrix if all its columns are sparse, else as an array."""
    dtypes = list(getattr(X, "dtypes", ()))
    if dtypes and hasattr(X, "sparse") and all(hasattr(dtype, "fill_value") for dtype in dtypes):
        return X.sparse.to_coo()
    return np.asarray(X)
