"""Prediction: from points through the hidden layers to each point's best labels.

Everything here may run in several threads at once on one network: what is written belongs to the call.
"""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
from scipy.sparse import csr_array, csr_matrix, issparse

from slide.allowed import Allowed, among, compact
from slide.blas import one_blas_thread
from slide.data.batches import Batch
from slide.data.dataset import as_float32_csr
from slide.exclusions import Exclusions
from slide.kernels import dtypes
from slide.kernels.search import candidates_topk, exact_topk
from slide.kernels.sparse import take_rows
from slide.search import MODES, HashIndex, SketchIndex
from slide.signals import Runs, Signal

PREDICT_BLOCK = 4096
"""Points whose hidden vectors are in memory at a time during prediction."""

BLOCK = 1024
"""Of these, points whose candidates are in memory at a time."""

WIDEN = 8
"""Where an index is asked for more because some labels are not allowed: so many times as many at most. Where fewer than
one label in so many is allowed all of them are scored, which takes no longer than to search a sketch."""

UNWEIGHTED = np.zeros(0, dtypes.VALUE)
FIRST = np.zeros(1, dtypes.OFFSET)


def features_of(batch: Batch) -> Signal:
    """Return what the first hidden layer reads of a batch."""
    return Signal(None, Runs(batch.indices, batch.indptr[:-1], batch.indptr[1:]), batch.values)


def predict(network, X, k, exclude, allowed, mode, candidates):
    """Do what ``Network.predict`` says."""
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if candidates is not None and candidates < 1:
        raise ValueError(f"candidates must be 1 or more, got {candidates}")
    if k < 1:
        raise ValueError(f"k must be 1 or more, got {k}")
    index, table = None if mode == "exact" else network.search_index(mode), network.output.table
    network.settle()
    single = (X.ndim if hasattr(X, "ndim") else np.ndim(X)) == 1
    if single and not issparse(X):
        X = np.asarray(X)
    batch = _one_point(network, X)
    if batch is None:
        X = checked(network, X.reshape(1, -1) if single else X)
    n = 1 if batch is not None else X.shape[0]
    exclusions = Exclusions(_as_row(exclude, network) if single else exclude, n)
    if allowed is not None:
        allowed = Allowed(allowed, n, network.n_labels)
    ids = np.empty((n, k), dtypes.INDEX)
    scores = np.empty((n, k), dtypes.VALUE)
    # One point is scored row by row, without BLAS, in less time than it takes to set the threads of that.
    needs_blas = batch is None or index is not None or len(network.hidden) > 1
    with one_blas_thread() if needs_blas else nullcontext():
        for block, hidden in _hidden_blocks(network, X, batch, n):
            among_these = exclusions, allowed, block, candidates
            best(table, index, mode, hidden, *among_these, ids[block], scores[block], network.threads)
    return (ids[0], scores[0]) if single else (ids, scores)


def layer_inputs(network, X) -> list[Signal]:
    """Do what ``Network.layer_inputs`` says."""
    network.settle()
    X = checked(network, X)
    n = X.shape[0]
    signals = [features_of(network.reader(X, None, max(n, 1)).read(np.arange(n, dtype=dtypes.OFFSET)))]
    with one_blas_thread():
        for layer in network.hidden:
            signals.append(layer.predict(signals[-1], network.threads))
    return signals


def hidden_vectors(network, X, append_one: bool) -> np.ndarray:
    """Do what ``Network.hidden_vectors`` says."""
    X, units = checked(network, X), network.output.table.dim
    vectors = np.ones((X.shape[0], units + append_one), dtypes.VALUE)
    for first in range(0, len(vectors), PREDICT_BLOCK):
        block = slice(first, first + PREDICT_BLOCK)
        vectors[block, :units] = layer_inputs(network, X[block])[-1].dense[:, :units]
    return vectors


def build_index(network, mode, X, dims, coverage, lsh) -> SketchIndex | HashIndex:
    """Make what ``Network.build_search_index`` keeps."""
    table, options = network.output.table, {"seed": network.config.seed, "threads": network.threads}
    if mode != "sketch":
        return HashIndex(table, lsh or network.config.output.lsh, **options)
    if X is None or not X.shape[0]:
        raise ValueError("a sketch needs X, points like those to predict: a few thousand of the training points do")
    return SketchIndex(table, layer_inputs(network, X)[-1].dense, dims=dims, coverage=coverage, **options)


def best(table, index, mode, hidden, exclusions, allowed, block, candidates, ids, scores, threads):
    """Find the best rows of a table for some consecutive hidden vectors.

    Parameters
    ----------
    table : RowTable
        Its rows owe nothing.
    index : SketchIndex or HashIndex or None
        What the mode searches.
    mode, candidates
        As of ``Network.predict``.
    hidden : float32 array [points of the block, padded_dim]
    exclusions : Exclusions
    allowed : Allowed or None
    block : slice
        Which points of `exclusions` and `allowed` these are.
    ids, scores : int32, float32 arrays [points of the block, k]
        Written.
    threads : int
    """
    if mode == "lsh-votes":
        _search(_by_votes, index, table, hidden, exclusions, allowed, block, candidates, ids, scores, threads)
    elif index is None and allowed is None:
        exact_topk(table, hidden, *exclusions.of(block), ids, scores, threads)
    elif allowed is not None and (index is None or allowed.most(block) <= max(candidates or 0, table.n_rows // WIDEN)):
        allowed.topk(table, hidden, exclusions, block, ids, scores, threads)
    else:
        _search(_by_scores, index, table, hidden, exclusions, allowed, block, candidates, ids, scores, threads)


def _search(choose, index, table, hidden, exclusions, allowed, block, candidates, ids, scores, threads):
    """Choose among what an index proposes and, if not all labels are, is allowed."""
    wanted = max(candidates or index.default_candidates, ids.shape[1])
    if allowed is not None:
        wanted = min(WIDEN, -(-table.n_rows // max(1, allowed.most(block)))) * wanted
    for first in range(0, len(hidden), BLOCK):
        some = slice(first, min(first + BLOCK, len(hidden)))
        part = slice(block.start + some.start, block.start + some.stop)
        found, counts = index.propose(hidden[some], exclusions.of(part), wanted, threads)
        if allowed is not None:
            found, counts = allowed.filter(found, counts, part)
        choose(index, table, hidden[some], exclusions, part, found, counts, ids[some], scores[some], threads)


def _by_scores(index, table, hidden, exclusions, part, found, counts, ids, scores, threads):
    candidates_topk(table, hidden, found, counts, *exclusions.of(part), ids, scores, threads)


def _by_votes(index, table, hidden, exclusions, part, found, counts, ids, scores, threads):
    banned = exclusions.rows(part)
    if banned is not None:
        found, counts = compact(found, counts, ~among(found, banned, table.n_rows))
    # Those that most tables found come first already.
    k = min(ids.shape[1], found.shape[1])
    there = np.arange(k) < counts[:, np.newaxis]
    found = np.where(there, found[:, :k], table.n_rows)
    votes = np.where(there, index.votes(hidden, np.where(there, found, 0), threads), -np.inf)
    order = np.lexsort((found, -votes), axis=1)
    ids.fill(-1)
    scores.fill(-np.inf)
    found = np.where(there, found, -1)
    ids[:, :k] = np.take_along_axis(found, order, axis=1)
    scores[:, :k] = np.take_along_axis(votes, order, axis=1)


def _hidden_blocks(network, X, batch, n):
    """Yield the hidden vectors of one block of points after another."""
    if batch is not None:
        yield slice(0, 1), hidden_of(network, batch)
        return
    reader = network.reader(X, None, min(PREDICT_BLOCK, max(n, 1)))
    for first in range(0, n, PREDICT_BLOCK):
        block = slice(first, min(n, first + PREDICT_BLOCK))
        yield block, hidden_of(network, reader.read(np.arange(block.start, block.stop, dtype=dtypes.OFFSET)))


def hidden_of(network, batch: Batch) -> np.ndarray:
    """Return the last hidden layer's output for the points of a batch: float32 array [n, padded_dim]."""
    signal = features_of(batch)
    for layer in network.hidden:
        signal = layer.predict(signal, network.threads)
    return signal.dense


def _one_point(network, x):
    """Return one point that is as it should be as a batch, without the checks that sparse matrices get.

    They take a tenth of a millisecond, as long as to score some thousand labels. Whatever is not one point, or needs to
    be changed or refused, is None here.
    """
    if type(x) in (csr_matrix, csr_array):
        if x.shape != (1, network.n_features) or x.data.dtype != dtypes.VALUE:
            return None
        indices, values, ends = x.indices, x.data, x.indptr
        if len(ends) != 2 or ends[0] or not ends[1] == len(indices) == len(values):
            return None
        if len(indices) and not (
            indices[0] >= 0 and indices[-1] < network.n_features and (indices[1:] > indices[:-1]).all()
        ):
            return None
    elif isinstance(x, np.ndarray) and x.shape == (network.n_features,) and x.dtype.kind in "biuf":
        # Truth values are searched several times as fast as numbers.
        indices = np.flatnonzero(x != 0)
        with np.errstate(over="ignore"):
            values = x[indices].astype(dtypes.VALUE)
    else:
        return None
    if not np.isfinite(values).all():
        return None
    n = len(indices)
    ends = np.array([0, n], dtypes.OFFSET)
    indices = indices.astype(dtypes.INDEX, copy=False)
    weights = UNWEIGHTED if network.feature_weights is None else network.feature_weights
    out_indices, out_values = np.empty(n, dtypes.INDEX), np.empty(n, dtypes.VALUE)
    take_rows(ends, indices, values, weights, FIRST, network.config.normalize, ends.copy(), out_indices, out_values)
    return Batch(ends, out_indices, out_values, np.zeros(2, dtypes.OFFSET), out_indices[:0])


def _as_row(exclude, network):
    """What one point must not be given as a matrix of one row."""
    if exclude is None or issparse(exclude) or np.ndim(exclude) != 1:
        return exclude
    if len(exclude) not in (network.n_labels, network.n_features):
        raise ValueError(
            f"exclude in one dimension must have an entry for each of the {network.n_labels:,} labels, or the "
            f"{network.n_features:,} features, that is not zero for what must not be predicted; it has "
            f"{len(exclude):,}. For label ids make a sparse matrix of one row"
        )
    return csr_matrix(exclude)


def checked(network, X) -> csr_matrix:
    """Return points as the network reads them, or raise an error if it cannot."""
    X = as_float32_csr(X, "X")
    if X.shape[1] != network.n_features:
        raise ValueError(f"X has {X.shape[1]:,} features, the network {network.n_features:,}")
    return X
