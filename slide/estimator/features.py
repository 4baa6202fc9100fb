"""Features as users have them (arrays, sparse matrices, data frames), and the names of their columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, issparse

from slide.data.dataset import DataError, as_float32_csr


def is_frame(table: object) -> bool:
    """Return whether something is a data frame: it has named columns, and NumPy can make an array of it."""
    return hasattr(table, "columns") and hasattr(table, "__array__") and not issparse(table)


def read_features(X: Any) -> csr_matrix:
    """Return a table of numbers as a float32 CSR matrix, shape (n, n_features).

    Parameters
    ----------
    X : sparse matrix or array, array-like, or data frame
        Sparse columns of a pandas frame stay sparse.

    Raises
    ------
    DataError
        `X` has no samples or no features, is not two-dimensional, or has a value that is not a finite real number.
    TypeError
        A value is not a number.
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


def column_names(X: Any) -> np.ndarray | None:
    """Return the names of a data frame's columns as an object array [n_features].

    None for other tables, and for columns that only have numbers.

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
    """Return an error message for columns whose names, or their order, differ from those in training."""
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


def _of_frame(X: Any) -> Any:
    """Return a data frame as a sparse matrix if all its columns are sparse, or else as an array."""
    dtypes = list(getattr(X, "dtypes", ()))
    if dtypes and hasattr(X, "sparse") and all(hasattr(dtype, "fill_value") for dtype in dtypes):
        return X.sparse.to_coo()
    return np.asarray(X)
