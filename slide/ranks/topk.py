"""Prediction with the labels on several ranks.

Each rank takes its own samples through the hidden layers and sends the hidden vectors to the ranks that have the
labels. Each of these finds the best of its labels and sends them back, to be merged. The result is the same as in one
process, equal scores in order of id.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.sparse import csr_matrix, vstack

from slide import metrics
from slide.data.dataset import Dataset
from slide.kernels import dtypes
from slide.kernels.search import exact_topk
from slide.predict.masks import Exclusions
from slide.predict.topk import PREDICT_BLOCK
from slide.ranks.comm import Ranks
from slide.ranks.grid import LabelShard
from slide.ranks.stack import RankStack
from slide.system.blas import one_blas_thread


def predict_own(
    layers: RankStack, X: csr_matrix, k: int, exclude: csr_matrix | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best labels of this rank's samples, and their scores; all ranks call this.

    Parameters
    ----------
    layers : RankStack
        The layers of this rank.
    X : csr_matrix, shape (n, n_features)
        This rank's samples, checked. Other ranks may have any number.
    k : int
        Number of labels per sample.
    exclude : csr_matrix or None
        Labels that must not be predicted; None on all ranks or on none.
    """
    layers.settle()
    ranks, table, shard = layers.grid.labels, layers.output.table, layers.output.shard
    n = X.shape[0]
    ids, scores = np.empty((n, k), dtypes.INDEX), np.empty((n, k), dtypes.VALUE)
    exclusions = Exclusions(exclude, n)
    size = max(1, PREDICT_BLOCK // ranks.size)
    reader = layers.reader(X, None, size)
    # All ranks loop as often as the rank with the most samples: each iteration exchanges arrays.
    most = int(layers.grid.together.allgather("prediction", np.array([n], np.int64)).max())
    for first in range(0, most, size):
        rows = np.arange(min(first, n), min(first + size, n), dtype=dtypes.OFFSET)
        with one_blas_thread():
            hidden = layers.hidden_of(reader.read(rows))
        counts = ranks.allgather("prediction", np.array([len(rows)], np.int64))[:, 0]
        every = ranks.allgatherv("prediction", hidden, counts)
        banned = exclusions.of(slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0))
        if exclude is not None:
            banned = _of_shard(ranks, shard, banned, len(rows), counts)
        found, logits = np.empty((len(every), k), dtypes.INDEX), np.empty((len(every), k), dtypes.VALUE)
        exact_topk(table, every, *banned, found, logits, layers.threads)
        found = ranks.alltoallv("prediction", shard.to_ids(found).astype(dtypes.INDEX, copy=False), counts)
        logits = ranks.alltoallv("prediction", logits, counts)
        ids[rows], scores[rows] = merge(found, logits)
    return ids, scores


def merge(ids: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best of several lists of k labels, for each sample.

    Parameters
    ----------
    ids : int32 array [lists, n, k]
        -1 where there is no label.
    scores : float32 array [lists, n, k]
        Minus infinity where there is no label.

    Returns
    -------
    ids, scores : arrays [n, k]
        Best first, equal scores in order of id.
    """
    k = ids.shape[2]
    ids, scores = (np.moveaxis(array, 0, 1).reshape(array.shape[1], -1) for array in (ids, scores))
    last = np.where(ids < 0, np.iinfo(np.int32).max, ids)
    order = np.lexsort((last, -scores), axis=1)[:, :k]
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)


def evaluate_own(
    layers: RankStack,
    probes: list[Dataset],
    *,
    ks: Iterable[int] = (1, 3, 5),
    inv_propensity: np.ndarray | None = None,
    mask_inputs: bool = False,
) -> dict[str, float]:
    """Return the quality of the prediction over the samples of all ranks; `probes` are those of this rank.

    The other parameters are those of `Network.evaluate`.
    """
    ks = tuple(ks)
    X = _joined([probe.X for probe in probes], layers.n_features)
    Y = _joined([probe.Y for probe in probes], layers.n_labels)
    names = [f"{name}@{k}" for k in ks for name in ("P", "nDCG", "R", *(() if inv_propensity is None else ("PSP",)))]
    ids, _ = predict_own(layers, X, max(ks), X if mask_inputs else None)
    sums = metrics.totals(ids, Y, ks, inv_propensity) if len(ids) else dict.fromkeys(names, (0.0, 0.0))
    every = layers.grid.world.allgather("evaluation", np.array([sums[name] for name in names]))
    return metrics.ratios(dict(zip(names, map(tuple, every.sum(axis=0).tolist()), strict=True)))


def _joined(matrices: list[csr_matrix], columns: int) -> csr_matrix:
    if len(matrices) == 1:
        return matrices[0]
    return csr_matrix(vstack(matrices, "csr")) if matrices else csr_matrix((0, columns)).astype(dtypes.VALUE)


def _of_shard(
    ranks: Ranks, shard: LabelShard, banned: tuple[np.ndarray, np.ndarray], n: int, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the excluded labels of all ranks' samples that are of this shard, as its numbers."""
    ptr, ids = banned
    lengths = np.diff(ptr) if n else np.zeros(0, dtypes.OFFSET)
    sizes = ranks.allgather("prediction", np.array([len(ids)], np.int64))[:, 0]
    lengths = ranks.allgatherv("prediction", lengths.astype(dtypes.OFFSET, copy=False), counts)
    ids = ranks.allgatherv("prediction", ids, sizes)
    ptr, numbers, _ = shard.select(np.concatenate([[0], np.cumsum(lengths)]), ids)
    return ptr, numbers
