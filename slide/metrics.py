"""Ranking metrics of extreme classification: P@k, nDCG@k, PSP@k and R@k.

Predictions are label ids, best first, in one row per sample, with -1 where there is no prediction. The definitions are
those of the extreme-classification repository [1]_, with which published numbers are compared. The propensities are
those of [2]_.

**Samples without labels** count in every average, as 0 in P@k, nDCG@k and R@k, and as 0 in both sums of PSP@k.
**Rows with fewer than k predictions** count in full too: precision still divides by k.

References
----------
.. [1] Bhatia et al., "The extreme classification repository: multi-label datasets and code", 2016.
.. [2] Jain, Prabhu, Varma, "Extreme multi-label loss functions for recommendation, tagging, ranking & other
   missing label applications", KDD 2016.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix

from slide.data.dataset import is_mapped
from slide.data.statistics import column_counts

FEWEST = 3
"""Smallest number of training samples for which the formula of propensities has a meaning."""


def precision_at_k(topk: ArrayLike, Y: csr_matrix | np.ndarray, k: int) -> float:
    """Return P@k: the share of true labels among the first k predictions, averaged over samples.

    Parameters
    ----------
    topk : array of int, shape (n_samples, at least k)
        Predicted label ids, best first; -1 where there is none.
    Y : sparse matrix, shape (n_samples, n_labels)
        True labels: the non-zero entries.
    k : int
        Number of predictions that count.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    ValueError
        The shapes disagree, there are no samples, `k` is not between 1 and the width of `topk`, an id is out of range,
        or a row predicts a label twice.

    Examples
    --------
    >>> from scipy.sparse import csr_matrix
    >>> precision_at_k([[2, 0], [1, -1]], csr_matrix([[1, 0, 1], [0, 0, 1]]), k=2)
    0.5
    """
    topk, Y = _check(topk, Y, [k])
    return _precision(_hits(topk, Y), k)


def ndcg_at_k(topk: ArrayLike, Y: csr_matrix | np.ndarray, k: int) -> float:
    """Return nDCG@k, the normalised discounted cumulative gain of the first k predictions, averaged over samples.

    A true label at rank r, counted from 1, gains ``1 / log2(r + 1)``. The sum is divided by its largest possible value:
    that of min(k, number of the sample's labels) true labels at the first ranks.

    Parameters
    ----------
    topk, Y, k
        See `precision_at_k`.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    ValueError
        See `precision_at_k`.
    """
    topk, Y = _check(topk, Y, [k])
    return float(_gains(_hits(topk, Y), np.diff(Y.indptr), k).mean())


def recall_at_k(topk: ArrayLike, Y: csr_matrix | np.ndarray, k: int) -> float:
    """Return R@k: the share of a sample's labels that are among the first k predictions, averaged over samples.

    Parameters
    ----------
    topk, Y, k
        See `precision_at_k`.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    ValueError
        See `precision_at_k`.
    """
    topk, Y = _check(topk, Y, [k])
    return float(_found(_hits(topk, Y), np.diff(Y.indptr), k).mean())


def psp_at_k(topk: ArrayLike, Y: csr_matrix | np.ndarray, inv_propensity: ArrayLike, k: int) -> float:
    """Return PSP@k, the propensity-scored precision of the first k predictions: a rare label that is found counts more.

    The inverse propensities of the true labels among the first k predictions are summed over all samples. The sum is
    divided by the largest possible one, that of each sample's k true labels of lowest propensity.

    Parameters
    ----------
    topk, Y, k
        See `precision_at_k`.
    inv_propensity : array of float, shape (n_labels,)
        Inverse propensities in the training set, as `propensities` returns them.

    Returns
    -------
    float
        From 0 to 1; 0 if no sample has a label.

    Raises
    ------
    ValueError
        See `precision_at_k`; or `inv_propensity` has the wrong shape or a value that is not positive and finite.
    """
    topk, Y = _check(topk, Y, [k])
    won, most = _won(_hits(topk, Y), topk, Y, _check_inv_propensity(inv_propensity, Y), k)
    return float(won / most) if most > 0 else 0.0


def propensities(Y_train: csr_matrix, a: float = 0.55, b: float = 1.5) -> np.ndarray:
    """Estimate the inverse propensity of every label: the number of true uses that one recorded use stands for.

    For a label used n_l times in N samples it is ``1 + (log N - 1) (b + 1)^a (n_l + b)^-a`` (Jain et al., section 4.1).

    Parameters
    ----------
    Y_train : sparse matrix, shape (n_samples, n_labels)
        Labels of the training set: the non-zero entries.
    a, b : float
        Constants of the formula, by default 0.55 and 1.5. Usual values are 0.5 and 0.4 for Wikipedia, 0.6 and 2.6 for
        Amazon, 0.55 and 1.5 for other data.

    Returns
    -------
    array of float64, shape (n_labels,)
        At least 1.

    Raises
    ------
    ValueError
        There are fewer than 3 samples, for which the formula is meaningless, or `a` or `b` is not positive.
    """
    if not is_mapped(Y_train):
        Y_train = _indicator(Y_train)
    return inverse_propensities(column_counts(Y_train), Y_train.shape[0], a, b)


def inverse_propensities(uses: np.ndarray, n_samples: int, a: float = 0.55, b: float = 1.5) -> np.ndarray:
    """Return what `propensities` does, from the number of uses of each label in so many training samples.

    Parameters
    ----------
    uses : int array, shape (n_labels,)
        Number of training samples that have each label.
    n_samples : int
        Number of training samples.
    a, b : float
        See `propensities`.

    Returns
    -------
    array of float64, shape (n_labels,)

    Raises
    ------
    ValueError
        See `propensities`.
    """
    if n_samples < FEWEST:
        raise ValueError(f"propensities need at least 3 training samples, not {n_samples}")
    if not (a > 0 and b > 0):
        raise ValueError(f"a and b must be positive, not {a!r} and {b!r}")
    return 1.0 + (np.log(n_samples) - 1.0) * ((b + 1.0) / (uses + b)) ** a


def evaluate_topk(
    topk: ArrayLike,
    Y: csr_matrix | np.ndarray,
    ks: Sequence[int] = (1, 3, 5),
    inv_propensity: ArrayLike | None = None,
) -> dict[str, float]:
    """Compute all metrics at several depths, in less time than one by one.

    Parameters
    ----------
    topk : array of int, shape (n_samples, at least max(ks))
        Predicted label ids, best first; -1 where there is none.
    Y : sparse matrix, shape (n_samples, n_labels)
        True labels: the non-zero entries.
    ks : sequence of int
        Depths, by default 1, 3 and 5.
    inv_propensity : array of float, shape (n_labels,), optional
        Inverse propensities in the training set, as `propensities` returns them. By default PSP@k is left out.

    Returns
    -------
    dict
        ``"P@1"``, ``"nDCG@1"``, ``"R@1"``, ``"PSP@1"`` and so on, from 0 to 1.

    Raises
    ------
    ValueError
        See `precision_at_k` and `psp_at_k`; or `ks` is empty.

    Examples
    --------
    >>> from scipy.sparse import csr_matrix
    >>> scores = evaluate_topk([[2, 0], [1, -1]], csr_matrix([[1, 0, 1], [0, 0, 1]]), ks=[1, 2])
    >>> scores["P@1"], scores["R@2"]
    (0.5, 0.5)
    """
    return ratios(totals(topk, Y, ks, inv_propensity))


def totals(
    topk: ArrayLike,
    Y: csr_matrix | np.ndarray,
    ks: Sequence[int] = (1, 3, 5),
    inv_propensity: ArrayLike | None = None,
) -> dict[str, tuple[float, float]]:
    """Return, for each metric, the two sums over samples whose ratio it is; the sums of parts of a data set add up.

    Parameters
    ----------
    topk, Y, ks, inv_propensity
        See `evaluate_topk`.

    Returns
    -------
    dict
        Metric -> (sum, its largest possible value).

    Raises
    ------
    ValueError
        See `evaluate_topk`.
    """
    topk, Y = _check(topk, Y, ks)
    if inv_propensity is not None:
        inv_propensity = _check_inv_propensity(inv_propensity, Y)
    hits = _hits(topk, Y)
    n_true, n = np.diff(Y.indptr), len(topk)
    sums: dict[str, tuple[float, float]] = {}
    for k in ks:
        sums[f"P@{k}"] = hits[:, :k].sum(), k * n
        sums[f"nDCG@{k}"] = _gains(hits, n_true, k).sum(), n
        sums[f"R@{k}"] = _found(hits, n_true, k).sum(), n
        if inv_propensity is not None:
            sums[f"PSP@{k}"] = _won(hits, topk, Y, inv_propensity, k)
    return {name: (float(won), float(most)) for name, (won, most) in sums.items()}


def ratios(sums: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Return the metrics from the sums that `totals` returns."""
    return {name: won / most if most > 0 else 0.0 for name, (won, most) in sums.items()}


def _indicator(Y: csr_matrix | np.ndarray) -> csr_matrix:
    """Return Y as CSR with sorted columns and without explicit zeros; the argument stays as it is."""
    labels = csr_matrix(Y)
    if not labels.has_canonical_format or (labels.data == 0).any():
        labels = labels.copy()
        labels.sum_duplicates()
        labels.eliminate_zeros()
    return labels


def _check(topk: ArrayLike, Y: csr_matrix | np.ndarray, ks: Sequence[int]) -> tuple[np.ndarray, csr_matrix]:
    """Return predictions and labels in the form that the metrics use, or raise ValueError."""
    topk = np.asarray(topk)
    Y = _indicator(Y)
    if topk.ndim != 2 or topk.dtype.kind not in "iu":
        raise ValueError(f"topk must be a 2-D array of label ids, not {topk.ndim}-D of {topk.dtype}")
    n_samples, n_labels = Y.shape
    if len(topk) != n_samples:
        raise ValueError(f"topk has {len(topk)} rows and Y has {n_samples}: both need one for each sample")
    if n_samples == 0:
        raise ValueError("there are no samples to evaluate")
    if len(ks) == 0:
        raise ValueError("ks must name at least one depth")
    for k in ks:
        if not 1 <= k <= topk.shape[1]:
            raise ValueError(f"k must be between 1 and the {topk.shape[1]} predictions of a sample, not {k!r}")
    outside = (topk < -1) | (topk >= n_labels)
    if outside.any():
        row, rank = np.argwhere(outside)[0]
        raise ValueError(
            f"topk[{row}, {rank}] is {topk[row, rank]}; label ids are below {n_labels}, and -1 marks none"
        )
    topk = topk.astype(np.int64, copy=False)
    ordered = np.sort(topk, axis=1)
    repeated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if repeated.any():
        row, rank = np.argwhere(repeated)[0]
        raise ValueError(f"row {row} of topk names label {ordered[row, rank]} twice; it would count twice")
    return topk, Y


def _check_inv_propensity(inv_propensity: ArrayLike, Y: csr_matrix | np.ndarray) -> np.ndarray:
    inv_propensity = np.asarray(inv_propensity, dtype=np.float64)
    if inv_propensity.shape != (Y.shape[1],):
        raise ValueError(
            f"inv_propensity has shape {inv_propensity.shape}; expected one for each of {Y.shape[1]} labels"
        )
    if not (np.isfinite(inv_propensity) & (inv_propensity > 0)).all():
        raise ValueError("inv_propensity must be positive and finite")
    return inv_propensity


def _hits(topk: np.ndarray, Y: csr_matrix) -> np.ndarray:
    """Mark the predictions that are true, as a bool array of the shape of `topk`."""
    n_samples, n_labels = Y.shape
    if Y.nnz == 0:
        return np.zeros(topk.shape, dtype=bool)
    # Sorted keys of the true labels, in int64: rows times labels outgrows 32 bits on data of ordinary size.
    rows = np.arange(n_samples, dtype=np.int64)
    true_keys = np.repeat(rows * n_labels, np.diff(Y.indptr)) + Y.indices
    keys = rows[:, np.newaxis] * n_labels + topk
    found = np.searchsorted(true_keys, keys)
    # Predictions of -1 are left out, because their keys are those of the last label of the row above.
    return (topk >= 0) & (true_keys[np.minimum(found, len(true_keys) - 1)] == keys)


def _precision(hits: np.ndarray, k: int) -> float:
    return float(hits[:, :k].sum() / (k * len(hits)))


def _gains(hits: np.ndarray, n_true: np.ndarray, k: int) -> np.ndarray:
    """Return each sample's nDCG@k."""
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    # The gain of a sample without labels is 0, so any divisor but 0 makes its score 0.
    ideal = np.cumsum(discounts)[np.clip(n_true, 1, k) - 1]
    return hits[:, :k] @ discounts / ideal


def _found(hits: np.ndarray, n_true: np.ndarray, k: int) -> np.ndarray:
    """Return each sample's R@k."""
    return hits[:, :k].sum(axis=1) / np.maximum(n_true, 1)


def _won(
    hits: np.ndarray, topk: np.ndarray, Y: csr_matrix, inv_propensity: np.ndarray, k: int
) -> tuple[float, float]:
    """Return the two sums whose ratio is PSP@k."""
    hits = hits[:, :k]
    won = inv_propensity[topk[:, :k][hits]].sum()
    weights = inv_propensity[Y.indices]
    rows = np.repeat(np.arange(Y.shape[0]), np.diff(Y.indptr))
    best_first = np.lexsort((-weights, rows))
    rank = np.arange(Y.nnz) - Y.indptr[rows]
    return won, weights[best_first][rank < k].sum()


def known_propensities(uses: np.ndarray, n_samples: int) -> np.ndarray | None:
    """Return the labels' inverse propensities as `inverse_propensities` does, or None where samples are too few.

    Parameters
    ----------
    uses : int array, shape (n_labels,)
        Number of training samples that have each label.
    n_samples : int
        Number of training samples.
    """
    return inverse_propensities(uses, n_samples) if n_samples >= FEWEST else None
