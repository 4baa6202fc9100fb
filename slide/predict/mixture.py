"""Mixture: a network and the neighbours of a query, each of which finds labels that the other misses.

The prediction interpolates two estimates of the probability that a sample has a label: the network's, and the votes of
its nearest training samples. This is the idea of kNN-LM (Khandelwal et al., *Generalization through Memorization:
Nearest Neighbor Language Models*, ICLR 2020), with the cosine of sparse features in place of the network's own vectors.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import expit

from slide import metrics
from slide.data.dataset import Dataset, as_float32_csr
from slide.kernels import dtypes
from slide.kernels.grouping import PairGroups
from slide.kernels.search import exact_topk
from slide.kernels.sparse import sddmm
from slide.model.base import BaseNetwork
from slide.predict.masks import Exclusions, entry_keys
from slide.predict.neighbours import Neighbours, best_labels
from slide.system.blas import one_blas_thread

BLOCK = 512
"""Number of samples whose scores of voted labels are in memory at a time."""

SHARES = tuple(i / 10 for i in range(11))
NEIGHBOURS = (20, 50, 100, 500)
POWERS = (1.0, 2.0, 4.0)
"""Settings that ``Mixture.tuned`` tries."""


class Mixture:
    """A network's probabilities mixed with the votes of the nearest training samples.

    A label's score is ``(1 - share) * p + share * votes``. With the loss ``"bce"``, p is the sigmoid of the network's
    logit. A softmax divides a probability of 1 among a sample's labels: with the loss ``"softmax"``, p is the softmax
    over all labels times the mean number of labels of a neighbour, and may exceed 1.

    Parameters
    ----------
    network : Network
        A trained network.
    neighbours : Neighbours
        Samples with the same features and labels, such as its training set.
    share : float
        Weight of the neighbours, from 0 to 1; 0.5 by default. The network has the rest.

    Attributes
    ----------
    network : Network
        As given.
    neighbours : Neighbours
        As given.
    share : float
        As given.

    Raises
    ------
    ValueError
        Numbers of features or labels differ, or `share` is out of range.

    Notes
    -----
    Several threads may predict at once.

    Examples
    --------
    >>> from slide import Mixture, Neighbours
    >>> mixture = Mixture.tuned(network, Neighbours(X, Y), X_val, Y_val)  # doctest: +SKIP
    >>> labels, scores = mixture.predict(X_test, k=5)  # doctest: +SKIP
    """

    def __init__(self, network: BaseNetwork, neighbours: Neighbours, share: float = 0.5):
        for what in ("features", "labels"):
            ours, theirs = getattr(network, f"n_{what}"), getattr(neighbours, f"n_{what}")
            if ours != theirs:
                raise ValueError(f"the network has {ours:,} {what}, the neighbours {theirs:,}")
        if not 0 <= share <= 1:
            raise ValueError(f"share must be a number from 0 to 1, got {share!r}")
        self.network = network
        self.neighbours = neighbours
        self.share = float(share)

    def __repr__(self) -> str:
        return f"Mixture({self.network!r}, {self.neighbours!r}, share={self.share:g})"

    def predict(
        self, X: csr_matrix, k: int = 5, *, exclude: csr_matrix | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return each sample's k best labels, exactly: as if every label were scored.

        With share 0 they are the network's labels, in its order. With share 1 they are the neighbours' labels, and
        labels without votes are not predicted. Memory is one block of scores, whatever the numbers of samples and
        labels.

        Parameters
        ----------
        X : sparse or dense matrix, shape (n, n_features)
            Samples.
        k : int
            Number of labels per sample, 1 or more; 5 by default.
        exclude : sparse matrix, shape (n, any), optional
            Labels that must not be predicted, as in ``Network.predict``.

        Returns
        -------
        ids : int32 array [n, k]
            Best first, equal scores in order of id; -1 where fewer than k labels may be predicted.
        probabilities : float32 array [n, k]
            Scores; 0 where there is no label.

        Raises
        ------
        DataError
            `X` has a value that is not finite, or is not a matrix.
        ValueError
            `X` has another number of columns than the network has features, or k is not positive.
        """
        if self.share == 1:
            return self.neighbours.predict(X, k, exclude=exclude)
        X = as_float32_csr(X, "X")
        if X.shape[1] != self.network.n_features:
            raise ValueError(f"X has {X.shape[1]:,} features, the network {self.network.n_features:,}")
        if k < 1:
            raise ValueError(f"k must be 1 or more, got {k}")
        n = X.shape[0]
        exclusions = Exclusions(exclude, n)
        ids, best = np.empty((n, k), dtypes.INDEX), np.empty((n, k), dtypes.VALUE)
        for first in range(0, n, BLOCK):
            block = slice(first, min(first + BLOCK, n))
            votes = csr_matrix((block.stop - first, self.network.n_labels)).astype(dtypes.VALUE)
            if self.share > 0:
                votes = exclusions.remove(self.neighbours.votes(X[block]), block)
            scores = _NetworkScores(self.network, X[block], k, *exclusions.of(block), votes, self.neighbours)
            ids[block], best[block] = _mix(scores, votes, scores.voted, self.share, k)
        return ids, best

    def evaluate(
        self,
        X: csr_matrix,
        Y: csr_matrix,
        *,
        ks: Iterable[int] = (1, 3, 5),
        inv_propensity: np.ndarray | None = None,
        mask_inputs: bool = False,
    ) -> dict[str, float]:
        """Return P@k, nDCG@k, R@k and, given propensities, PSP@k of the prediction.

        Parameters
        ----------
        X, Y, ks, inv_propensity, mask_inputs
            As for ``Network.evaluate``.

        Returns
        -------
        dict of float
            As ``Network.evaluate`` returns.

        Raises
        ------
        DataError, ValueError
            As for ``predict``; ValueError also if `Y` does not fit the network or `X`.
        """
        ks = tuple(ks)
        if Y.shape[1] != self.network.n_labels:
            raise ValueError(f"Y has {Y.shape[1]:,} labels, the network {self.network.n_labels:,}")
        ids, _ = self.predict(X, max(ks), exclude=X if mask_inputs else None)
        return metrics.evaluate_topk(ids, Y, ks, inv_propensity)

    @classmethod
    def tuned(
        cls,
        network: BaseNetwork,
        neighbours: Neighbours,
        X_val: csr_matrix,
        Y_val: csr_matrix,
        *,
        monitor: str = "P@1",
        mask_inputs: bool = False,
    ) -> Mixture:
        """Return the mixture of a grid that is best on validation samples.

        The grid has shares from 0 to 1 in steps of 0.1, 20, 50, 100 and 500 neighbours, and powers of 1, 2 and 4. Among
        equally good mixtures, the smallest share wins, then the fewest neighbours, then the smallest power. Neighbours
        and logits are computed once for the whole grid.

        Parameters
        ----------
        network : Network
            A trained network; not trained on the validation samples.
        neighbours : Neighbours
            The validation samples must not be among them: each would be its own nearest neighbour, and the neighbours
            would seem to be always right. Neighbours from the whole training set may replace these afterwards.
        X_val : matrix, shape (n, n_features)
            Features of the validation samples.
        Y_val : matrix, shape (n, n_labels)
            Their labels: the positive entries.
        monitor : str
            Metric to maximise: ``"P@k"``, ``"nDCG@k"`` or ``"R@k"`` for some k; ``"P@1"`` by default.
        mask_inputs : bool
            Never predict a label whose id is one of the sample's features; False by default.

        Returns
        -------
        Mixture
            With the network, and with neighbours and a share from the grid.

        Raises
        ------
        DataError
            An argument is not a matrix or has values that are not finite, or the numbers of samples differ.
        ValueError
            Numbers of features or labels differ, there are no samples, or `monitor` is not known.
        """
        cls(network, neighbours)
        depth = _depth(monitor)
        data = Dataset.from_arrays(X_val, Y_val)
        for what in ("features", "labels"):
            ours, theirs = getattr(network, f"n_{what}"), getattr(data, f"n_{what}")
            if ours != theirs:
                raise ValueError(f"the network has {ours:,} {what}, the validation samples {theirs:,}")
        if not data.n_samples:
            raise ValueError("there are no validation samples")
        exclusions = Exclusions(data.X if mask_inputs else None, data.n_samples)
        variants = [neighbours.replace(k=k, power=power) for k, power in itertools.product(NEIGHBOURS, POWERS)]
        # Shares are the first axis, in ascending order: argmax takes the first of equally good mixtures.
        quality = np.zeros((len(SHARES), len(variants)))
        for first in range(0, data.n_samples, BLOCK):
            block = slice(first, min(first + BLOCK, data.n_samples))
            X, Y = data.X[block], data.Y[block]
            ids, similarities = neighbours.replace(k=max(NEIGHBOURS)).nearest(X)
            everything = exclusions.remove(neighbours.replace(power=0).votes_of(ids, similarities), block)
            scores = _NetworkScores(network, X, depth, *exclusions.of(block), everything, neighbours)
            keys = entry_keys(everything, network.n_labels)
            for column, variant in enumerate(variants):
                found = variant.votes_of(ids[:, : variant.k], similarities[:, : variant.k])
                votes = exclusions.remove(found, block)
                voted = scores.voted[np.searchsorted(keys, entry_keys(votes, network.n_labels))]
                for row, share in enumerate(SHARES):
                    topk, _ = _mix(scores, votes, voted, share, depth)
                    quality[row, column] += len(topk) * metrics.evaluate_topk(topk, Y, [depth])[monitor]
        # Rounded, so that sums that differ only in their order count as equal.
        best = np.unravel_index(np.argmax(np.round(quality / data.n_samples, 12)), quality.shape)
        return cls(network, variants[int(best[1])], SHARES[int(best[0])])


class _NetworkScores:
    """The network's probabilities of some samples' best labels and of the labels that have votes.

    Attributes
    ----------
    ids : int32 array [n, k]
        The network's best labels, as ``exact_topk`` finds them.
    best : float64 array [n, k]
        Their probabilities; 0 where there is no label.
    voted : float64 array
        Probabilities parallel to the entries of `votes`.
    """

    def __init__(
        self,
        network: BaseNetwork,
        X: csr_matrix,
        k: int,
        ptr: np.ndarray,
        banned: np.ndarray,
        votes: csr_matrix,
        neighbours: Neighbours,
    ):
        hidden = network.layer_inputs(X)[-1].vectors
        table, n = network.output.table, len(hidden)
        self.ids, logits = np.empty((n, k), dtypes.INDEX), np.empty((n, k), dtypes.VALUE)
        log_partition = None if network.config.output.loss == "bce" else np.empty(n, dtypes.VALUE)
        with one_blas_thread():
            exact_topk(table, hidden, ptr, banned, self.ids, logits, network.threads, log_partition)
        pairs = PairGroups(votes.nnz)
        ends = votes.indptr.astype(dtypes.OFFSET)
        pairs.group(votes.indices.astype(dtypes.INDEX, copy=False), ends[:-1], ends[1:], table.n_rows)
        voted = np.empty(votes.nnz, dtypes.VALUE)
        sddmm(table, pairs, hidden, voted, network.threads)
        # Double precision distinguishes probabilities that float32 rounds to 1.
        exact, exact_voted = logits.astype(np.float64), voted.astype(np.float64)
        if log_partition is None:
            self.best, self.voted = expit(exact), expit(exact_voted)
        else:
            self.best = neighbours.labels_per_sample * np.exp(exact - log_partition[:, np.newaxis])
            self.voted = neighbours.labels_per_sample * np.exp(exact_voted - np.repeat(log_partition, np.diff(ends)))


def _mix(
    scores: _NetworkScores, votes: csr_matrix, voted: np.ndarray, share: float, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best labels of the mixture and their scores.

    A label without votes is among them only if it is among the network's k best: votes only raise other labels.
    """
    if share == 0:
        # The network's own order distinguishes logits whose probabilities are equal.
        return scores.ids, scores.best
    if share == 1:
        return best_labels(votes, votes.data, k)
    mixed = (1 - share) * voted + share * votes.data.astype(np.float64)
    return best_labels(votes, mixed, k, (scores.ids, (1 - share) * scores.best))


def _depth(monitor: str) -> int:
    """Return k of ``"P@k"``, ``"nDCG@k"`` or ``"R@k"``."""
    match = re.fullmatch(r"(?:P|nDCG|R)@([1-9]\d*)", monitor)
    if match is None:
        raise ValueError(f"monitor must be P@k, nDCG@k or R@k for some k, got {monitor!r}")
    return int(match[1])
