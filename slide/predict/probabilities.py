"""The scores of all labels, or of a sample's best labels, as logits or as probabilities.

A label's probability is

- the sigmoid of its logit, where the loss is ``"bce"``: every label is a separate yes or no;
- the softmax over all labels, where the loss is ``"softmax"``;
- that sigmoid divided by the sum of the sigmoids of all labels, where the loss is ``"bce"`` and a sample has exactly
  one label.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import expit

from slide.kernels import dtypes
from slide.kernels.dense import shared_logits
from slide.kernels.search import exact_topk
from slide.model.base import BaseNetwork
from slide.predict.topk import PREDICT_BLOCK
from slide.system.blas import one_blas_thread
from slide.system.memory import available

NOTHING = np.zeros(0, dtypes.VALUE)

SCORES = 1 << 24
"""Number of scores in memory at a time, where only the sum over all labels is wanted."""

FIRST_LOOK = 16
"""Number of labels per sample that are scored first, where those above a threshold are wanted."""


def all_logits(network: BaseNetwork, X: csr_matrix, outputs: np.ndarray) -> np.ndarray:
    """Return the logits of m outputs, usually all, as a float32 array [n, m].

    Raises
    ------
    MemoryError
        The scores do not fit into the memory that is available; checked before any is computed.
    """
    shape = (X.shape[0], len(outputs))
    needed = 4 * shape[0] * shape[1]
    if needed > available()[0]:
        raise MemoryError(
            f"scores of {shape[0]:,} samples for {shape[1]:,} labels each take {needed / 1e9:.1f} GB, more than there "
            "is; score fewer samples at a time, or call predict_topk for the best labels, which needs little memory"
        )
    out = np.empty(shape, dtypes.VALUE)
    for block, hidden in _hidden(network, X):
        _logits(network, hidden, outputs, out[block])
    return out


def probabilities(network: BaseNetwork, logits: np.ndarray, *, single: bool) -> np.ndarray:
    """Turn the logits of all outputs into probabilities, in place.

    Parameters
    ----------
    network : BaseNetwork
        Its loss says which probabilities they are.
    logits : float32 array [n, n_labels]
        Overwritten, and returned.
    single : bool
        Whether a sample has exactly one label.
    """
    rows = max(1, SCORES // max(1, logits.shape[1]))
    for first in range(0, len(logits), rows):
        block = logits[first : first + rows]
        if network.config.output.loss == "bce":
            if not single:
                expit(block, out=block)
                continue
            log_sigmoid(block)
        block -= block.max(axis=1, keepdims=True)
        np.exp(block, out=block)
        block /= block.sum(axis=1, keepdims=True)
    return logits


def best(network: BaseNetwork, X: csr_matrix, k: int, *, single: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return each sample's k most probable labels, exactly, in memory that does not grow with the number of labels.

    Parameters
    ----------
    network : BaseNetwork
        Its loss says which probabilities they are.
    X : csr_matrix of float32, shape (n, n_features)
        Samples.
    k : int
        From 1 to the number of labels.
    single : bool
        Whether a sample has exactly one label.

    Returns
    -------
    outputs : int32 array [n, k]
        Best first.
    probabilities : float32 array [n, k]
    """
    n = X.shape[0]
    ids, scores = np.empty((n, k), dtypes.INDEX), np.empty((n, k), dtypes.VALUE)
    bce = network.config.output.loss == "bce"
    for block, hidden in _hidden(network, X):
        m = len(hidden)
        no_exclusions = np.zeros(m + 1, dtypes.OFFSET), np.zeros(0, dtypes.INDEX)
        total: np.ndarray | None = None if bce else np.empty(m, dtypes.VALUE)
        with one_blas_thread():
            exact_topk(network.output.table, hidden, *no_exclusions, ids[block], scores[block], network.threads, total)
        # In double precision, subtracting the logarithm of the sum loses no digits that matter.
        logits = scores[block].astype(np.float64)
        if bce and not single:
            scores[block] = expit(logits)
            continue
        if bce:
            log_sigmoid(logits)
            total = _log_sum_of_sigmoids(network, hidden)
        assert total is not None
        scores[block] = np.exp(logits - total[:, np.newaxis])
    return ids, scores


def above(
    network: BaseNetwork, X: csr_matrix, threshold: float, *, labels_per_sample: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return each sample's labels whose probability is above a threshold, in CSR form.

    A softmax divides a probability of 1 among a sample's labels. Its probabilities are therefore first multiplied with
    the mean number of labels per sample.

    Returns
    -------
    indptr : int64 array [n + 1]
    outputs : int32 array
        Each sample's best first.
    """
    factor = 1.0 if network.config.output.loss == "bce" else labels_per_sample
    found: list[np.ndarray] = [NOTHING] * X.shape[0]
    left, k = np.arange(X.shape[0]), min(FIRST_LOOK, network.n_labels)
    while len(left):
        ids, scores = best(network, X[left], k, single=False)
        taken = np.count_nonzero(scores * factor > threshold, axis=1)
        for sample, row, count in zip(left, ids, taken, strict=True):
            found[sample] = row[:count]
        # Where all labels scored so far are above the threshold, there may be more.
        left = left[taken == k] if k < network.n_labels else left[:0]
        k = min(4 * k, network.n_labels)
    counts = np.fromiter(map(len, found), np.int64, len(found))
    flat = np.concatenate(found).astype(dtypes.INDEX) if found else np.zeros(0, dtypes.INDEX)
    return np.append(0, np.cumsum(counts)), flat


def log_sigmoid(logits: np.ndarray) -> None:
    """Overwrite logits with the logarithm of their sigmoid, which does not underflow as the sigmoid does."""
    np.negative(logits, out=logits)
    np.logaddexp(0, logits, out=logits)
    np.negative(logits, out=logits)


def _hidden(network: BaseNetwork, X: csr_matrix) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the hidden vectors of one block of samples after another."""
    for first in range(0, X.shape[0], PREDICT_BLOCK):
        block = slice(first, min(first + PREDICT_BLOCK, X.shape[0]))
        yield block, network.layer_inputs(X[block])[-1].vectors


def _logits(network: BaseNetwork, hidden: np.ndarray, outputs: np.ndarray, out: np.ndarray) -> None:
    with one_blas_thread():
        shared_logits(network.output.table, outputs, NOTHING, hidden, out, network.threads)


def _log_sum_of_sigmoids(network: BaseNetwork, hidden: np.ndarray) -> np.ndarray:
    """Return the logarithm of the sum of all labels' sigmoids for each sample, in double precision."""
    outputs = np.arange(network.n_labels, dtype=dtypes.INDEX)
    total = np.empty(len(hidden))
    rows = max(1, SCORES // network.n_labels)
    for first in range(0, len(hidden), rows):
        part = hidden[first : first + rows]
        scores = np.empty((len(part), network.n_labels), dtypes.VALUE)
        _logits(network, part, outputs, scores)
        log_sigmoid(scores)
        top = scores.max(axis=1, keepdims=True)
        total[first : first + rows] = top[:, 0] + np.log(np.exp(scores - top).sum(axis=1, dtype=np.float64))
    return total
