"""What the kernels compute, written with NumPy and SciPy as one would without them: what they are timed against.

A twin does the same work on the same memory, on one thread and with the same BLAS, so that the ratio of the two times
says something on any machine. Results are compared in the tests, not here.
"""

import numpy as np
from scipy.sparse import csr_matrix

BETA1, BETA2, EPS, LR = 0.9, 0.999, 1e-8, 1e-3


def simhash(x, projection, k):
    """Codes of k signs each."""
    bits = (x @ projection > 0).reshape(len(x), -1, k)
    return bits @ (1 << np.arange(k))


def dwta(x, index, k):
    """Codes of k places each: of the largest of the eight coordinates of every bin."""
    places = x[:, index].argmax(axis=-1).reshape(len(x), -1, k)
    return places @ 8 ** np.arange(k)


def build(codes, n_buckets):
    """For every table its ids by bucket, and where the buckets begin."""
    for line in codes:
        yield np.argsort(line, kind="stable"), np.cumsum(np.bincount(line, minlength=n_buckets))


def lookup(codes, offsets, ids, budget):
    """Every sample's neurons from one bucket of each table, at most so many."""
    found = []
    for buckets in codes.T:
        runs = [ids[t, offsets[t, b] : offsets[t, b + 1]] for t, b in enumerate(buckets)]
        found.append(np.unique(np.concatenate(runs))[:budget])
    return found


def group(ids, indptr, n_rows):
    """The pairs by row: the transpose of a sparse matrix."""
    return csr_matrix((np.ones(len(ids), np.float32), ids, indptr), shape=(len(indptr) - 1, n_rows)).tocsc()


def sddmm(weights, bias, ids, indptr, hidden):
    """The pairs' logits."""
    out = np.empty(len(ids), np.float32)
    for s, h in enumerate(hidden):
        mine = ids[indptr[s] : indptr[s + 1]]
        out[indptr[s] : indptr[s + 1]] = weights[mine] @ h + bias[mine]
    return out


def spmm(X, weights, bias):
    """Sums of the features' rows, and a ReLU."""
    return np.maximum(X @ weights + bias, 0)


def adam(state, rows, gradient):
    """A step of Adam on some rows of a table."""
    m, v = state["m"][rows], state["v"][rows]
    m += (1 - BETA1) * (gradient - m)
    v += (1 - BETA2) * (gradient * gradient - v)
    state["m"][rows], state["v"][rows] = m, v
    state["weights"][rows] -= LR * m / (np.sqrt(v) + EPS)


def step_pairs(state, ids, indptr, deltas, hidden):
    """A step on the pairs' rows, and the samples' gradient."""
    rows, columns = np.unique(ids, return_inverse=True)
    D = csr_matrix((deltas, columns.reshape(-1), indptr), shape=(len(indptr) - 1, len(rows)))
    below = D @ state["weights"][rows]
    adam(state, rows, D.T @ hidden)
    return below


def shared_logits(weights, bias, ids, hidden):
    return hidden @ weights[ids].T + bias[ids]


def step_shared(state, ids, deltas, hidden):
    """A step on rows that all samples share, and the samples' gradient."""
    below = deltas @ state["weights"][ids]
    adam(state, ids, deltas.T @ hidden)
    return below


def softmax(logits, samples, places, target, scale):
    """Cross-entropy; the logits become its gradient."""
    logits -= logits.max(axis=1, keepdims=True)
    of_labels = logits[samples, places]
    np.exp(logits, out=logits)
    total = logits.sum(axis=1, keepdims=True)
    loss = target @ (np.log(total[samples, 0]) - of_labels)
    logits /= total
    logits[samples, places] -= target
    logits *= scale
    return loss


def logistic(logits, samples, places, weight, scale):
    """One-vs-all cross-entropy, a shared neuron's term times its weight; the logits become its gradient."""
    of_labels = logits[samples, places]
    loss = (np.logaddexp(0, logits) * weight).sum() - of_labels.sum()
    logits *= -1
    np.exp(logits, out=logits)
    logits += 1
    np.divide(weight, logits, out=logits)
    logits[samples, places] -= 1
    logits *= scale
    return loss


def topk(weights, bias, hidden, k, block=8192):
    """The k best rows of every sample, by an exhaustive search a block at a time."""
    best = np.full((len(hidden), k), -np.inf, np.float32)
    ids = np.full((len(hidden), k), -1)
    for first in range(0, len(weights), block):
        scores = hidden @ weights[first : first + block].T + bias[first : first + block]
        top = np.argpartition(-scores, k, axis=1)[:, :k] if scores.shape[1] > k else np.arange(scores.shape[1])[None]
        both = np.concatenate([best, np.take_along_axis(scores, top, 1)], axis=1)
        names = np.concatenate([ids, np.broadcast_to(first + top, (len(hidden), top.shape[1]))], axis=1)
        order = np.argsort(-both, axis=1)[:, :k]
        best, ids = np.take_along_axis(both, order, 1), np.take_along_axis(names, order, 1)
    return ids, best


class Batches:
    """Whole training batches of a network of one hidden layer, on the network's own parameters.

    Parameters
    ----------
    network : slide.Network
    tail : int
        Draws that a batch shares beside its labels; 0 for none, where samples have neurons of their own alone.
    """

    def __init__(self, network, tail):
        self.features, self.labels = network.hidden[0].table.state(), network.output.table.state()
        self.tail, self.rng = tail, np.random.default_rng(0)

    def step(self, X, Y, own=None):
        """Train on some samples; `own` are the neurons of each sample where it does not share them."""
        used, columns = np.unique(X.indices, return_inverse=True)
        X = csr_matrix((X.data, columns.reshape(-1), X.indptr), shape=(X.shape[0], len(used)))
        hidden = spmm(X, self.features["weights"][used], np.float32(0))
        below = self._shared(Y, hidden) if own is None else self._own(Y, hidden, own)
        adam(self.features, used, X.T @ (below * (hidden > 0)))

    def _shared(self, Y, hidden):
        weights, bias = self.labels["weights"], self.labels["bias"]
        ids = np.unique(np.concatenate([Y.indices, self.rng.integers(0, len(weights), self.tail)]))
        samples = np.repeat(np.arange(Y.shape[0]), np.diff(Y.indptr))
        logits = shared_logits(weights, bias, ids, hidden)
        weight = np.full(len(ids), len(weights) / len(ids), np.float32)
        logistic(logits, samples, np.searchsorted(ids, Y.indices), weight, 1 / len(hidden))
        return step_shared(self.labels, ids, logits, hidden)

    def _own(self, Y, hidden, own):
        labels = np.split(Y.indices, Y.indptr[1:-1])
        own = [np.concatenate([mine, others]) for mine, others in zip(labels, own, strict=True)]
        ids, indptr = np.concatenate(own), np.concatenate([[0], np.cumsum([len(mine) for mine in own])])
        logits = sddmm(self.labels["weights"], self.labels["bias"], ids, indptr, hidden)
        for s, mine in enumerate(labels):
            z = logits[indptr[s] : indptr[s + 1]]
            z[:] = np.exp(z - z.max())
            z /= z.sum()
            z[: len(mine)] -= 1 / max(1, len(mine))
        return step_pairs(self.labels, ids, indptr, logits / len(hidden), hidden)
