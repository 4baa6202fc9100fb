"""Labels as users have them: read from whatever names them, and put in the order of a network's outputs.

Any string or number is a label. Samples have one each, or any number of them, in these forms:

- ``"single"``: a list or array of labels, one for each sample;
- ``"collections"``: a list or array of sets, lists, tuples or arrays of labels;
- ``"indicator"``: a dense matrix of 0 and 1, or a data frame, whose columns' names are then the labels;
- ``"sparse"``: a sparse matrix of 0 and 1.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import chain

import numpy as np
from scipy.sparse import csr_matrix, issparse

from slide.data.dataset import DataError, as_float32_csr
from slide.estimator.features import is_frame
from slide.kernels import dtypes

COLLECTIONS = (list, tuple, set, frozenset, np.ndarray)


@dataclass(frozen=True)
class Targets:
    """What samples are labelled with.

    Attributes
    ----------
    form : str
        One of the four above.
    labels : array [n_labels]
        Distinct; ascending, but for matrices, whose columns they are.
    Y : csr_matrix of float32, shape (n, n_labels)
        Label indicator of ones.
    dtype : dtype
        Of a matrix that was given, int64 otherwise.
    """

    form: str
    labels: np.ndarray
    Y: csr_matrix
    dtype: np.dtype

    @property
    def single(self) -> bool:
        """Whether every sample has one label."""
        return self.form == "single"


def read_targets(y, warning: type[Warning] = UserWarning) -> Targets:
    """Read labels in any of the forms.

    A list of lists of equal length, two or more, that hold only 0 and 1 is an indicator matrix; sets are always
    collections.

    Parameters
    ----------
    y : array-like, sparse matrix or data frame
    warning : type
        Of the warning that a column of labels is taken for a list of them.

    Raises
    ------
    DataError
        `y` is in none of these forms, or has values that are no labels.
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


def _has_collections(y):
    return any(isinstance(sample, COLLECTIONS) for sample in y)


def _single(y):
    y = _checked(y)
    labels, ids = np.unique(y, return_inverse=True)
    return Targets("single", labels, _indicator(ids, np.arange(len(y) + 1), len(labels)), np.dtype(np.int64))


def _collections(y):
    if not all(isinstance(sample, COLLECTIONS) for sample in y):
        raise DataError("y mixes samples that have a collection of labels with samples that have none; use [] for none")
    # NumPy's own numbers and strings become Python's.
    samples = [sample.tolist() if isinstance(sample, np.ndarray) else list(sample) for sample in y]
    if _is_nested_matrix(y, samples):
        return _matrix("indicator", np.array(samples), None)
    counts = np.fromiter(map(len, samples), np.int64, len(samples))
    ids: dict = {}
    try:
        columns = [ids.setdefault(label, len(ids)) for label in chain.from_iterable(samples)]
        found = np.array(list(ids), dtype=object)
    except (TypeError, ValueError):
        raise DataError("Unknown label type: a label in y is itself a collection, not a string or number") from None
    found = _checked(found)
    if not any(isinstance(label, str) for label in ids):
        found = np.array(list(ids))
    labels, rank = np.unique(found, return_inverse=True)
    columns = rank[np.array(columns, dtype=np.int64)]
    Y = _indicator(columns, np.append(0, np.cumsum(counts)), len(labels))
    return Targets("collections", labels, Y, np.dtype(np.int64))


def _is_nested_matrix(y, samples):
    widths = {len(sample) for sample in samples}
    if len(widths) != 1 or widths <= {0, 1} or any(isinstance(sample, (set, frozenset)) for sample in y):
        return False
    try:
        return {0, 1}.issuperset(chain.from_iterable(samples))
    except TypeError:
        return False


def _matrix(form, Y, labels):
    dtype = Y.dtype
    if dtype.kind not in "biuf":
        raise DataError(
            f"Unknown label type: a two-dimensional y is a matrix of 0 and 1, a column for each label; this one holds "
            f"{dtype}. Pass samples with several labels as a list of sets"
        )
    Y = as_float32_csr(Y, "y")
    if not np.isin(Y.data, (0, 1)).all():
        raise DataError(
            "Unknown label type: multiclass-multioutput or continuous-multioutput. A two-dimensional y is a matrix of "
            "0 and 1, a column for each label; pass samples with several labels as a list of sets"
        )
    if not Y.shape[1]:
        raise DataError("y is a matrix of no columns: there is no label to learn")
    if not Y.data.all():
        Y = Y.copy()
        Y.eliminate_zeros()
    return Targets(form, np.arange(Y.shape[1]) if labels is None else _checked(labels), Y, dtype)


def _indicator(columns, indptr, n_labels):
    ones = np.ones(len(columns), dtypes.VALUE)
    Y = csr_matrix((ones, columns, indptr), shape=(len(indptr) - 1, n_labels))
    Y.sum_duplicates()
    Y.data[:] = 1
    return Y


def _checked(labels):
    """Return labels, or raise DataError if they are not all strings or all numbers that name something."""
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
        Distinct, in the order of the outputs.
    form : str
        Of the predictions, as of `Targets`.
    dtype : dtype
        Of predicted matrices.

    Attributes
    ----------
    classes : array [n]
        The labels as they are shown: ascending, or for matrices in the order of the columns.
    order : int32 array [n]
        The output of each of these.
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
        """Return the output of each label, -1 for unknown ones.

        Parameters
        ----------
        labels : array [n]

        Returns
        -------
        int64 array [n]
        """
        known = {label: output for output, label in enumerate(self.labels.tolist())}
        return np.fromiter((known.get(label, -1) for label in labels.tolist()), np.int64, len(labels))

    def with_labels(self, labels: np.ndarray) -> LabelSpace:
        """Return a space that has some labels more; those it has already keep their outputs.

        Parameters
        ----------
        labels : array
            Distinct.

        Raises
        ------
        DataError
            These labels are strings where the others are numbers, or the reverse.
        """
        if _are_strings(labels) != _are_strings(self.labels):
            kinds = ("numbers", "strings")
            raise DataError(
                f"the labels so far are {kinds[_are_strings(self.labels)]}, those of this y are "
                f"{kinds[_are_strings(labels)]}; convert them to be alike"
            )
        new = labels[self.outputs(labels) < 0]
        return LabelSpace(np.concatenate([self.labels, new]), self.form, self.dtype) if len(new) else self

    def indicator(self, targets: Targets) -> csr_matrix:
        """Return the samples' labels in the order of the outputs; labels that are unknown follow them.

        Parameters
        ----------
        targets : Targets

        Returns
        -------
        csr_matrix of float32, shape (n, n_labels or more)
        """
        outputs = self.outputs(targets.labels)
        unknown = outputs < 0
        outputs[unknown] = len(self) + np.arange(np.count_nonzero(unknown))
        Y = targets.Y
        shape = (Y.shape[0], len(self) + np.count_nonzero(unknown))
        Y = csr_matrix((Y.data, outputs[Y.indices], Y.indptr), shape=shape)
        Y.sort_indices()
        return Y

    def to_plain(self) -> dict:
        """Return what JSON can hold of the space."""
        types = {"dtype": self.dtype.str, "type": self.labels.dtype.str}
        return {"form": self.form, **types, "labels": self.labels.tolist()}

    @classmethod
    def from_plain(cls, plain: dict) -> LabelSpace:
        """Return the space that ``to_plain`` described.

        Raises
        ------
        ValueError
            It did not; the message says what is wrong.
        """
        form, labels = plain.get("form"), plain.get("labels")
        if form not in ("single", "collections", "indicator", "sparse"):
            raise ValueError(f"form is {form!r}")
        try:
            dtype, kind = np.dtype(plain.get("dtype", "")), np.dtype(plain.get("type", ""))
        except TypeError as error:
            raise ValueError(error) from None
        if not isinstance(labels, list) or not all(isinstance(label, (str, int, float)) for label in labels):
            raise ValueError("labels must be a list of strings or numbers")
        # The type says how long the longest label is, and every label takes as much.
        longest = max([1, *(len(label) for label in labels if isinstance(label, str))])
        if kind.kind == "U" and kind.itemsize > 4 * longest:
            raise ValueError(f"type {kind.str!r} is of longer labels than there are")
        if dtype.kind not in "biuf" or kind.kind not in "biufUO" or len(set(labels)) != len(labels):
            raise ValueError("labels must be distinct, of a type that labels can have")
        try:
            return cls(_checked(np.array(labels, dtype=kind)), form, dtype)
        except (OverflowError, TypeError) as error:
            raise ValueError(error) from None


def _are_strings(labels):
    return len(labels) > 0 and isinstance(labels.tolist()[0], str)
