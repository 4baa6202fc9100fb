"""Network: sparse features, one hidden layer, a huge sampled softmax."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from threadpoolctl import ThreadpoolController

from slide import metrics
from slide.buffers import Buffers
from slide.config import NetworkConfig
from slide.data.batches import Batch, BatchReader
from slide.data.dataset import as_float32_csr
from slide.kernels import dtypes, optim
from slide.kernels.dense import exact_topk
from slide.kernels.parallel import resolve_threads
from slide.kernels.sparse import SampleGradient
from slide.layers import InputLayer, SampledLayer

PREDICT_BLOCK = 4096
"""Points whose hidden vectors are in memory at a time during prediction."""


@functools.cache
def _threadpools() -> ThreadpoolController:
    return ThreadpoolController()


def one_blas_thread():
    """Return a context in which BLAS runs on one thread: our own loops are the parallel ones. Restored on exit."""
    return _threadpools().limit(limits=1, user_api="blas")


@dataclass(frozen=True)
class BatchStats:
    """What a training batch did.

    Attributes
    ----------
    loss : float
        Cross-entropy in nats over the active neurons, mean over the points that have labels.
    precision : float
        Share of those points whose highest active logit is a label's: an optimistic P@1.
    active : float
        Output neurons active for a point, mean.
    seconds : float
    """

    loss: float
    precision: float
    active: float
    seconds: float


class Network:
    """A network from `n_features` sparse features over one hidden layer to `n_labels` outputs.

    Parameters
    ----------
    n_features, n_labels : int
    config : NetworkConfig, optional
    threads : int, optional
        By default all cores this process may use. The weights do not depend on it.
    trainable : bool
        False leaves out the optimiser's moments and the hash tables, about two thirds of the memory; the network can
        then only predict.

    Attributes
    ----------
    step : int
        Batches trained on so far.

    Raises
    ------
    ValueError
        A size is out of range.
    MemoryError
        The parameters do not fit.

    Notes
    -----
    Prediction may be called from several threads at once. Training may not, nor training beside prediction: a second
    call to ``train_batch`` while one runs raises RuntimeError.
    """

    def __init__(
        self,
        n_features: int,
        n_labels: int,
        config: NetworkConfig | None = None,
        *,
        threads: int | None = None,
        trainable: bool = True,
    ):
        self.config = config = config or NetworkConfig()
        self.threads = resolve_threads(threads)
        self.n_features = n_features
        self.n_labels = n_labels
        self.step = 0
        self._buffers = Buffers(hugepages=config.hugepages)
        self._training = threading.Lock()
        self.trainable = trainable
        moments = self._rule(1).moments if trainable else 0
        self.hidden = InputLayer(n_features, config.hidden, moments, config.seed, self._buffers, self.threads)
        self.output = SampledLayer(
            n_labels, config.hidden.units, config.output, moments, config.seed + 1, self._buffers, self.threads
        )
        if trainable:
            self.output.make_index()
        self._gradient: SampleGradient | None = None

    def __repr__(self) -> str:
        return (
            f"Network({self.n_features:,} features, {self.config.hidden.units} hidden units, "
            f"{self.n_labels:,} labels, {self.step:,} steps)"
        )

    def _rule(self, step, lr_factor=1.0):
        config = self.config.optimizer
        if config.name == "sgd":
            return optim.sgd(lr_factor * config.lr, step)
        return optim.adam(lr_factor * config.lr, config.beta1, config.beta2, config.eps, step)

    def train_batch(self, batch: Batch, *, lr_factor: float = 1.0) -> BatchStats:
        """Take one optimiser step.

        Parameters
        ----------
        batch : Batch
            See `slide.data.batches.BatchReader`.
        lr_factor : float
            Multiplies the configured learning rate: what a schedule sets.

        Raises
        ------
        FloatingPointError
            The loss is NaN or infinite. The batch's step has been taken; the weights are not to be used.
        RuntimeError
            Another thread is training this network, or it is not trainable.
        """
        if not self.trainable:
            raise RuntimeError("this network was made, or saved, without the optimiser's state; it can only predict")
        if not self._training.acquire(blocking=False):
            raise RuntimeError("this network is being trained by another thread; one at a time")
        try:
            with one_blas_thread():
                return self._train_batch(batch, lr_factor)
        finally:
            self._training.release()

    def _train_batch(self, batch, lr_factor):
        start = time.perf_counter()
        n, dp, threads = len(batch), self.hidden.padded_dim, self.threads
        if self._gradient is None or self._gradient.n_samples < n:
            self._gradient = SampleGradient(n, dp)
            self._buffers.add("hidden gradient", self._gradient.buffer_owner)
        self._gradient.clear()
        if self.output.index is not None:
            self.output.index.rebuild_if_due(self.step, threads)
        hidden = self._buffers.array("hidden", (n, dp), dtypes.VALUE)
        dhidden = self._buffers.array("hidden gradient sum", (n, dp), dtypes.VALUE)
        rule = self._rule(self.step + 1, lr_factor)

        self.hidden.forward(batch, hidden, threads)
        stats = self.output.train(batch, hidden, self._gradient, rule, self.step, threads)
        self._gradient.sum_into(dhidden, hidden if self.hidden.relu else None, threads)
        self.hidden.step(batch, dhidden, rule, threads)
        self.step += 1
        if not np.isfinite(stats.loss):
            raise FloatingPointError(
                f"the loss is {stats.loss} at step {self.step}: the weights have overflowed. "
                f"Lower the learning rate (now {self.config.optimizer.lr:g}) or check the features' scale"
            )
        return BatchStats(stats.loss, stats.precision, stats.active, time.perf_counter() - start)

    def predict(
        self, X: csr_matrix, k: int = 5, *, exclude: csr_matrix | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return each point's k best labels, exactly: every label is scored.

        Memory is one block of hidden vectors and of scores, whatever the numbers of points and labels.

        Parameters
        ----------
        X : sparse or dense matrix, shape (n, n_features)
        k : int
        exclude : sparse matrix, shape (n, any), optional
            Labels that must not be predicted are the columns of a point's non-zero entries; columns past the last
            label are ignored. For a recommender whose items are both features and labels: `X` itself.

        Returns
        -------
        ids : int32 array [n, k]
            Best first, equal scores in order of id; -1 where fewer than k labels may be predicted.
        scores : float32 array [n, k]
            Logits; minus infinity where there is no label.

        Raises
        ------
        DataError
            `X` has a value that is not finite, or is not a matrix.
        ValueError
            The number of columns does not fit the network, or k is not positive.
        """
        X = self._features(X)
        if k < 1:
            raise ValueError(f"k must be 1 or more, got {k}")
        n, dp = X.shape[0], self.hidden.padded_dim
        ids = np.empty((n, k), dtypes.INDEX)
        scores = np.empty((n, k), dtypes.VALUE)
        ptr, banned = np.zeros(0, dtypes.OFFSET), np.zeros(0, dtypes.INDEX)
        if exclude is not None:
            exclude = csr_matrix(exclude, copy=True)
            if exclude.shape[0] != n:
                raise ValueError(f"exclude has {exclude.shape[0]} rows for {n} points")
            exclude.eliminate_zeros()
            exclude.sort_indices()
        reader = BatchReader(X, None, min(PREDICT_BLOCK, max(n, 1)), normalize=self.config.normalize)
        with one_blas_thread():
            for first in range(0, n, PREDICT_BLOCK):
                rows = np.arange(first, min(n, first + PREDICT_BLOCK), dtype=dtypes.OFFSET)
                block = slice(first, first + len(rows))
                hidden = np.empty((len(rows), dp), dtypes.VALUE)
                self.hidden.forward(reader.read(rows), hidden, self.threads)
                if exclude is not None:
                    ends = exclude.indptr[first : first + len(rows) + 1].astype(dtypes.OFFSET)
                    banned = exclude.indices[ends[0] : ends[-1]].astype(dtypes.INDEX, copy=False)
                    ptr = ends - ends[0]
                exact_topk(self.output.table, hidden, ptr, banned, ids[block], scores[block], self.threads)
        return ids, scores

    def evaluate(
        self,
        X: csr_matrix,
        Y: csr_matrix,
        *,
        ks: Iterable[int] = (1, 3, 5),
        inv_propensity: np.ndarray | None = None,
        mask_inputs: bool = False,
    ) -> dict[str, float]:
        """Return P@k, nDCG@k, R@k and, given propensities, PSP@k of the exact prediction.

        Parameters
        ----------
        X : matrix, shape (n, n_features)
        Y : matrix, shape (n, n_labels)
        ks : iterable of int
        inv_propensity : float array [n_labels], optional
            From ``slide.metrics.propensities`` of the training labels.
        mask_inputs : bool
            Never predict a label whose id is one of the point's features.

        Raises
        ------
        DataError, ValueError
            As ``predict`` does, or `X` and `Y` do not fit.
        """
        ks = tuple(ks)
        if Y.shape[1] != self.n_labels:
            raise ValueError(f"Y has {Y.shape[1]:,} labels, the network {self.n_labels:,}")
        ids, _ = self.predict(X, max(ks), exclude=X if mask_inputs else None)
        return metrics.evaluate_topk(ids, Y, ks, inv_propensity)

    def _features(self, X):
        X = as_float32_csr(X, "X")
        if X.shape[1] != self.n_features:
            raise ValueError(f"X has {X.shape[1]:,} features, the network {self.n_features:,}")
        return X

    def fit(self, X: csr_matrix, Y: csr_matrix, **options):
        """Train on a data set; see `slide.training.fit`, which this calls, for the options and what is returned."""
        from slide import training

        return training.fit(self, X, Y, **options)

    def save(self, path: str | os.PathLike, *, moments: bool = False) -> None:
        """Write the network to a folder of arrays and JSON; see `slide.checkpoint.save`."""
        from slide import checkpoint

        checkpoint.save(self, path, moments=moments)

    @classmethod
    def load(cls, path: str | os.PathLike, *, threads: int | None = None) -> Network:
        """Read a network that ``save`` wrote; see `slide.checkpoint.load`."""
        from slide import checkpoint

        return checkpoint.load(path, threads=threads)

    def memory_report(self) -> list[dict]:
        """Return one dict for each large buffer: name, bytes, advice, and how many bytes are in hugepages."""
        return self._buffers.report()
