"""Labels as users have them, and their order among a network's outputs.

Any string or number is a label. Samples have one label each, or any number of labels, in one of these forms:

- ``"single"``: a list or array of labels, one for each sample;
- ``"collections"``: a list or array of sets, lists, tuples or arrays of labels;
- ``"indicator"``: a dense matrix of 0 and 1, or a data frame of them, whose column names are then the labels;
- ``"sparse"``: a sparse matrix of 0 and 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, issparse

from slide.data.dataset import DataError, as_float32_csr
from slide.estimator.features import is_frame
from slide.kernels import dtypes

COLLECTIONS = (list, tuple, set, frozenset, np.ndarray)


@dataclass(frozen=True)
class Targets:
    """The labels of some samples.

    Attributes
    ----------
    form : str
        One of the four forms above.
    labels : array [n_labels]
        All labels, each once: ascending or, for a matrix, in the order of its columns.
    Y : csr_matrix of float32, shape (n, n_labels)
        A one for each label of a sample.
    dtype : dtype
        Type of the matrix that was given; int64 for other forms.
    """

    form: str
    labels: np.ndarray
    Y: csr_matrix
    dtype: np.dtype

    @property
    def single(self) -> bool:
        """Whether every sample has one label."""
        return self.form == "single"


def read_targets(y: Any, warning: type[Warning] = UserWarning) -> Targets:
    """Read labels in any of the forms.

    A list of lists that have the same length, two or more, and only hold 0 and 1 is an indicator matrix; sets are
    always collections.

    Parameters
    ----------
    y : array-like, sparse matrix or data frame
    warning : type
        Class of the warning that a matrix of one column is read as a list of labels.

    Raises
    ------
    DataError
        `y` is in none of these forms, or has values that cannot be labels.
    """
    if y is None:
        raise DataError("SlideClassifier requires y to be passed, but the target y is None: it learns from labels")
    if issparse(y):
        return _matrix("sparse", y, None)
    if is_frame(y) and y.shape[1] != 1:
        return _matrix("indicator", np.asarray(y), np.array(list(y.columns)))
    if isinstance(y, (list, tuple)) and _has_collections(y):
        return _collections(y)
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        warnings.warn(
            "A column-vector y was passed when a 1d array was expected. Please change the shape of y to "
            "(n_samples, ), for example using ravel().",
            warning,
            stacklevel=3,
        )
        y = y.ravel()
    if y.ndim == 2:
        return _matrix("indicator", y, None)
    if y.ndim != 1:
        raise DataError(f"y should be a 1d array of labels or an indicator matrix, got an array of shape {y.shape}")
    if y.dtype == object and _has_collections(y):
        return _collections(y)
    return _single(y)


def _has_collections(y: Iterable[object]) -> bool:
    return any(isinstance(sample, COLLECTIONS) for sample in y)


def _single(y: np.ndarray) -> Targets:
    y = _checked(y)
    labels, ids = np.unique(y, return_inverse=True)
    return Targets("single", labels, _indicator(ids, np.arange(len(y) + 1), len(labels)), np.dtype(np.int64))


def _collections(y: Sequence[Any] | np.ndarray) -> Targets:
    if not all(isinstance(sample, COLLECTIONS) for sample in y):
        raise DataError("y mixes samples that have a collection of labels with samples that have none; use [] for none")
    # NumPy's own numbers and strings become Python's.
    samples = [sample.tolist() if isinstance(sample, np.ndarray) else list(sample) for sample in y]
    if _is_nested_matrix(y, samples):
        return _matrix("indicator", np.array(samples), None)
    counts = np.fromiter(map(len, samples), np.int64, len(samples))
    ids: dict[Any, int] = {}
    try:
        places = [ids.setdefault(label, len(ids)) for label in chain.from_iterable(samples)]
        found = np.array(list(ids), dtype=object)
    except (TypeError, ValueError):
        raise DataError("Unknown label type: a label in y is itself a collection, not a string or number") from None
    found = _checked(found)
    if not any(isinstance(label, str) for label in ids):
        found = np.array(list(ids))
    labels, rank = np.unique(found, return_inverse=True)
    Y = _indicator(rank[np.array(places, dtype=np.int64)], np.append(0, np.cumsum(counts)), len(labels))
    return Targets("collections", labels, Y, np.dtype(np.int64))


def _is_nested_matrix(y: Sequence[Any] | np.ndarray, samples: list[list]) -> bool:
    widths = {len(sample) for sample in samples}
    if len(widths) != 1 or widths <= {0, 1} or any(isinstance(sample, (set, frozenset)) for sample in y):
        return False
    try:
        return {0, 1}.issuperset(chain.from_iterable(samples))
    except TypeError:
        return False


def _matrix(form: str, Y: Any, labels: np.ndarray | None) -> Targets:
    dtype = Y.dtype
    if dtype.kind not in "biuf":
        raise DataError(
            f"Unknown label type: a two-dimensional y must be a matrix of 0 and 1, a column for each label; this one "
            f"has type {dtype}. Pass samples with several labels as a list of sets"
        )
    Y = as_float32_csr(Y, "y")
    if not np.isin(Y.data, (0, 1)).all():
        raise DataError(
            "Unknown label type: multiclass-multioutput or continuous-multioutput. A two-dimensional y must be a "
            "matrix of 0 and 1, a column for each label; pass samples with several labels as a list of sets"
        )
    if not Y.shape[1]:
        raise DataError("y is a matrix without columns: there is no label to learn")
    if not Y.data.all():
        Y = Y.copy()
        Y.eliminate_zeros()
    return Targets(form, np.arange(Y.shape[1]) if labels is None else _checked(labels), Y, dtype)


def _indicator(columns: np.ndarray, indptr: np.ndarray, n_labels: int) -> csr_matrix:
    ones = np.ones(len(columns), dtypes.VALUE)
    Y = csr_matrix((ones, columns, indptr), shape=(len(indptr) - 1, n_labels))
    Y.sum_duplicates()
    Y.data[:] = 1
    return Y


def _checked(labels: np.ndarray) -> np.ndarray:
    """Return labels, or raise DataError if they are neither all strings nor all finite whole numbers."""
    if labels.dtype.kind == "O":
        strings = [isinstance(label, str) for label in labels]
        numbers = [isinstance(label, (int, float, np.number, np.bool_)) for label in labels]
        if not all(strings) and not all(numbers):
            raise DataError(
                "Unknown label type: labels must be all strings or all numbers; y has "
                + ", ".join(sorted({type(label).__name__ for label in labels}))
            )
        if all(strings):
            return labels
    elif labels.dtype.kind == "U":
        return labels
    elif labels.dtype.kind not in "biuf":
        raise DataError(f"Unknown label type: labels must be strings or numbers, got {labels.dtype}")
    values = labels.astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError("Input y contains NaN or infinity: every sample needs a label, or pass a list of sets")
    if (values % 1 != 0).any():
        raise DataError(
            "Unknown label type: continuous. y has fractions, which are quantities rather than labels; a classifier "
            "learns labels"
        )
    return labels


class LabelSpace:
    """The labels of a network's outputs.

    Parameters
    ----------
    labels : array [n]
        The labels, each once, in the order of the outputs.
    form : str
        Form of predictions; see `Targets`.
    dtype : dtype
        Type of predicted matrices.

    Attributes
    ----------
    classes : array [n]
        The labels in the order that users see: ascending or, for matrices, in the order of the columns.
    order : int32 array [n]
        The output of each label in `classes`.
    """

    def __init__(self, labels: np.ndarray, form: str, dtype: np.dtype):
        self.labels = labels
        self.form = form
        self.dtype = np.dtype(dtype)
        order = np.argsort(labels, kind="stable") if form in ("single", "collections") else np.arange(len(labels))
        self.order = order.astype(dtypes.INDEX)
        self.classes = labels[order]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def single(self) -> bool:
        """Whether every sample has one label."""
        return self.form == "single"

    def outputs(self, labels: np.ndarray) -> np.ndarray:
        """Return the output of each label as int64, -1 for unknown labels."""
        known = {label: output for output, label in enumerate(self.labels.tolist())}
        return np.fromiter((known.get(label, -1) for label in labels.tolist()), np.int64, len(labels))

    def with_labels(self, labels: np.ndarray) -> LabelSpace:
        """Return a space that has these labels too, each once; known labels keep their outputs.

        Raises
        ------
        DataError
            These labels are strings and the known ones are numbers, or the reverse.
        """
        if _are_strings(labels) != _are_strings(self.labels):
            kinds = ("numbers", "strings")
            raise DataError(
                f"the labels so far are {kinds[_are_strings(self.labels)]}, those of this y are "
                f"{kinds[_are_strings(labels)]}; convert them to the same kind"
            )
        new = labels[self.outputs(labels) < 0]
        return LabelSpace(np.concatenate([self.labels, new]), self.form, self.dtype) if len(new) else self

    def indicator(self, targets: Targets) -> csr_matrix:
        """Return the samples' labels as float32, a column for each output and then for each unknown label."""
        outputs = self.outputs(targets.labels)
        unknown = outputs < 0
        outputs[unknown] = len(self) + np.arange(np.count_nonzero(unknown))
        Y = targets.Y
        shape = (Y.shape[0], len(self) + np.count_nonzero(unknown))
        Y = csr_matrix((Y.data, outputs[Y.indices], Y.indptr), shape=shape)
        Y.sort_indices()
        return Y

    def to_plain(self) -> dict:
        """Return the space as values that JSON can hold."""
        types = {"dtype": self.dtype.str, "type": self.labels.dtype.str}
        return {"form": self.form, **types, "labels": self.labels.tolist()}

    @classmethod
    def from_plain(cls, plain: dict) -> LabelSpace:
        """Return the space that ``to_plain`` described; ValueError says what is wrong with a description."""
        form, labels = plain.get("form"), plain.get("labels")
        if form not in ("single", "collections", "indicator", "sparse"):
            raise ValueError(f"form is {form!r}")
        try:
            dtype, kind = np.dtype(plain.get("dtype", "")), np.dtype(plain.get("type", ""))
        except TypeError as error:
            raise ValueError(error) from None
        if not isinstance(labels, list) or not all(isinstance(label, (str, int, float)) for label in labels):
            raise ValueError("labels must be a list of strings or numbers")
        # Every label takes as many bytes as the type says that the longest one needs.
        longest = max([1, *(len(label) for label in labels if isinstance(label, str))])
        if kind.kind == "U" and kind.itemsize > 4 * longest:
            raise ValueError(f"type {kind.str!r} is of longer labels than there are")
        if dtype.kind not in "biuf" or kind.kind not in "biufUO" or len(set(labels)) != len(labels):
            raise ValueError("labels must be distinct, of a type that labels can have")
        try:
            return cls(_checked(np.array(labels, dtype=kind)), form, dtype)
        except (OverflowError, TypeError) as error:
            raise ValueError(error) from None


def _are_strings(labels: np.ndarray) -> bool:
    return len(labels) > 0 and isinstance(labels.tolist()[0], str)
