"""Network: sparse features, hidden layers, a huge sampled softmax."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from slide import initial, metrics
from slide.blas import one_blas_thread
from slide.buffers import Buffers
from slide.config import LSHConfig, NetworkConfig
from slide.data.batches import Batch, BatchReader
from slide.data.dataset import as_float32_csr
from slide.exclusions import Exclusions
from slide.footprint import BatchShape, bytes_needed, check_fit
from slide.kernels import dtypes
from slide.kernels.catch_up import catch_up
from slide.kernels.dropout import drop_entries
from slide.kernels.optim import measure
from slide.kernels.parallel import resolve_threads
from slide.kernels.search import exact_topk
from slide.kernels.sparse import SampleGradient
from slide.layers import HiddenLayer, make_hidden
from slide.optimizer import Optimizer
from slide.output import OutputLayer
from slide.search import MODES, HashIndex, SearchIndexes, SketchIndex, search_topk
from slide.signals import Runs, Signal
from slide.storage import Storage

PREDICT_BLOCK = 4096
"""Points whose hidden vectors are in memory at a time during prediction."""


def _features_of(batch: Batch) -> Signal:
    return Signal(None, Runs(batch.indices, batch.indptr[:-1], batch.indptr[1:]), batch.values)


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
    gradient_norm : float or None
        Euclidean norm of the gradient over all parameters, before clipping; None where gradients are not clipped.
    """

    loss: float
    precision: float
    active: float
    seconds: float
    gradient_norm: float | None = None


class Network:
    """A network from `n_features` sparse features over one or more hidden layers to `n_labels` outputs.

    Parameters
    ----------
    n_features, n_labels : int
    config : NetworkConfig, optional
    threads : int, optional
        By default all cores this process may use. The weights do not depend on it, unless ``config.update`` is
        ``"hogwild"``.
    trainable : bool
        False leaves out the optimiser's moments and the hash tables, about two thirds of the memory; the network can
        then only predict.

    Attributes
    ----------
    optimizer : Optimizer
        Makes each batch's step.
    feature_weights : float32 array [n_features] or None
        What multiplies the features first, in training and prediction; ones until ``fit`` sets them. None where
        ``config.feature_weights`` is ``"none"``.

    Raises
    ------
    ValueError
        A size is out of range.
    MemoryError
        The parameters do not fit into the memory that is available, which the message reckons up (the environment
        variable ``SLIDE_MEMORY_CHECK=off`` leaves it to the system to find out), or ``config.hugepages`` requires pages
        that the system does not give.

    Notes
    -----
    Prediction may be called from several threads at once. Training may not, nor training beside prediction: a second
    call to ``train_batch`` while one runs raises RuntimeError.

    Prediction reads weights that have caught up with every step (see ``settle``). Hash tables are built from rows as
    they are, which may be behind: a row that no sample reads owes little and less.
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
        for name, size in (("n_features", n_features), ("n_labels", n_labels)):
            if not 1 <= size < 2**31:
                raise ValueError(f"{name} must be between 1 and 2**31 - 1, got {size}")
        self.n_features = n_features
        self.n_labels = n_labels
        self.optimizer = Optimizer(config.optimizer)
        self.feature_weights = None if config.feature_weights == "none" else np.ones(n_features, dtypes.VALUE)
        check_fit(self.bytes_needed(n_features, n_labels, config, trainable=trainable), config.hugepages)
        self._buffers = Buffers(hugepages=config.hugepages)
        self._training = threading.Lock()
        self._settling = threading.Lock()
        self.trainable = trainable
        storage = Storage.of(config, trainable=trainable)
        self.hidden: list[HiddenLayer] = []
        dim = n_features
        for i, layer in enumerate(config.hidden):
            rest = (storage, config.seed + i, self._buffers, self.threads)
            self.hidden.append(make_hidden(f"hidden.{i}", dim, layer, *rest, reads_features=i == 0))
            dim = layer.units
        seed = config.seed + len(config.hidden)
        self.output = OutputLayer(n_labels, dim, config.output, storage, seed, self._buffers, self.threads)
        if trainable:
            for layer in (*self.hidden, self.output):
                layer.make_index()
                if config.update == "hogwild":
                    layer.use_hogwild()
        self._gradients: list[SampleGradient | None] = [None] * len(self.hidden)
        self._search = SearchIndexes()
        if self.feature_weights is not None:
            self._buffers.note("feature weights", self.feature_weights)
        if config.hugepages == "require":
            self._buffers.require_hugepages()

    @staticmethod
    def bytes_needed(
        n_features: int,
        n_labels: int,
        config: NetworkConfig,
        *,
        trainable: bool = True,
        batch: BatchShape | None = None,
    ) -> dict[str, int]:
        """Return what a network's large arrays take, in bytes by name, without making them.

        Parameters
        ----------
        n_features, n_labels : int
        config : NetworkConfig
        trainable : bool
            As for the network.
        batch : BatchShape, optional
            Count what training on batches of this shape takes besides, at most.
        """
        return bytes_needed(n_features, n_labels, config, trainable=trainable, batch=batch)

    def __repr__(self) -> str:
        units = " + ".join(str(layer.units) for layer in self.config.hidden)
        return (
            f"Network({self.n_features:,} features, {units} hidden units, "
            f"{self.n_labels:,} labels, {self.step:,} steps)"
        )

    @property
    def step(self) -> int:
        """Batches trained on so far."""
        return self.optimizer.step

    def settle(self) -> None:
        """Let all rows catch up with the steps that skipped them, if ``OptimizerConfig`` says that they should.

        Reading weights straight from the layers needs it; prediction, evaluation and saving do it themselves, and
        ``training.fit`` after every epoch. Training goes on as it would have but for rounding. May be called from
        several threads at once.
        """
        with self._settling:
            owed = self.optimizer.owed()
            if owed is None:
                return
            for layer in (*self.hidden, self.output):
                catch_up(layer.table, None, owed, self.threads)
            self.optimizer.settled()

    def initialize(self, features: np.ndarray | None = None, labels: np.ndarray | None = None) -> None:
        """Start from embeddings that come from elsewhere, before training.

        They are taken at the length they have. With one hidden layer, of activation ``"linear"``, a sample's logits are
        then the products of the labels' vectors with the sum of its features' vectors, each times the feature's value.

        Parameters
        ----------
        features : array [n_features, units], optional
            Becomes the weights of the first hidden layer.
        labels : array [n_labels, units of the last hidden layer], optional
            Becomes the weights of the output layer.

        Raises
        ------
        RuntimeError
            The network has been trained, so that the optimiser's moments belong to other weights, or is not trainable.
        ValueError
            A shape or type is not what is expected, a value is not finite, or `labels` are given although
            ``config.output.init`` is ``"mean"`` and ``fit`` would replace them.
        """
        if not self.trainable or self.step:
            why = f"has taken {self.step:,} steps" if self.step else "can only predict"
            raise RuntimeError(f"initialize() is for networks before training; this one {why}")
        if labels is not None and self.config.output.init == "mean":
            raise ValueError("labels would be replaced by fit: OutputConfig.init is 'mean'; choose 'random'")
        self._search.forget()
        initial.set_vectors(self, features, labels)

    def grow(self, n_labels: int) -> None:
        """Make room for labels that were not known before; their ids follow those there are.

        What was learnt stays to the bit: weights, biases, the optimiser's moments and the labels' frequencies. New
        neurons of a trained network start where they take no known label's place; see `slide.initial.new_labels`. An
        untrained network becomes what it would be if made with as many labels. Hash tables are built anew before the
        next batch.

        Meanwhile the old and the new output layer are both in memory. Not while anything trains or predicts.

        Parameters
        ----------
        n_labels : int
            In all; as many as there are changes nothing.

        Raises
        ------
        RuntimeError
            The network can only predict, so that new labels could not be learnt, or another thread is training it.
        ValueError
            There are more labels already.
        """
        if n_labels < self.n_labels:
            raise ValueError(f"the network has {self.n_labels:,} labels already; grow() cannot make it {n_labels:,}")
        if not self.trainable:
            raise RuntimeError("this network can only predict: labels it has no neurons for could never be learnt")
        if n_labels == self.n_labels:
            return
        if not self._training.acquire(blocking=False):
            raise RuntimeError("this network is being trained by another thread; let it grow afterwards")
        try:
            # No row then owes anything from before the new ones were there.
            self.settle()
            old, seed = self.output, self.config.seed + len(self.hidden)
            storage, dim = Storage.of(self.config), old.table.dim
            self.output = OutputLayer(n_labels, dim, self.config.output, storage, seed, self._buffers, self.threads)
            self.output.take_over(old)
            if self.config.update == "hogwild":
                self.output.use_hogwild()
            self._search.forget()
            self.n_labels = n_labels
        finally:
            self._training.release()

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
        n, threads = len(batch), self.threads
        for layer in (*self.hidden, self.output):
            if layer.index is not None:
                layer.index.rebuild_if_due(self.step, threads)
        rule = self.optimizer.rule(lr_factor)

        signals = [_features_of(self._drop_features(batch))]
        for layer in self.hidden:
            signals.append(layer.forward(signals[-1], rule, self.step, threads))
        stats = self.output.forward(batch, signals[-1], rule, self.step, threads)
        norm = self._clip(signals, n)
        self._backward(signals, rule, n)
        self.optimizer.advance(lr_factor)
        if not np.isfinite(stats.loss):
            raise FloatingPointError(
                f"the loss is {stats.loss} at step {self.step}: the weights have overflowed. "
                f"Lower the learning rate (now {self.config.optimizer.lr:g}) or check the features' scale"
            )
        return BatchStats(stats.loss, stats.precision, stats.active, time.perf_counter() - start, norm)

    def _clip(self, signals, n):
        """Scale the gradient to the configured norm if it is longer; return how long it was, None if nobody asks."""
        limit = self.config.optimizer.clip_norm
        if limit is None:
            return None
        # A row's gradient is made and used up in one visit, so its norm takes a backward pass of its own. No row steps
        # in it, and the second pass reads the same weights.
        rule = measure()
        self._backward(signals, rule, n)
        norm = math.sqrt(rule.squared_norm)
        if norm > limit:
            self.output.scale_deltas(limit / norm)
        return norm

    def _backward(self, signals, rule, n):
        """Carry the gradient from the output down, every layer taking the step of `rule` on the way."""
        threads = self.threads
        self.output.step(signals[-1], self._gradient(-1, n), rule, threads)
        for i in reversed(range(len(self.hidden))):
            layer, out = self.hidden[i], signals[i + 1].dense
            dout = self._buffers.array(f"{layer.name} gradient sum", out.shape, dtypes.VALUE)
            self._gradients[i].sum_into(dout, out if layer.relu else None, threads)
            layer.step(signals[i], dout, self._gradient(i - 1, n) if i else None, rule, self.step, threads)

    def _drop_features(self, batch):
        """The batch without the features that its samples leave out this time."""
        if not self.config.input_dropout:
            return batch
        # The layers' dropout has the seeds before this one.
        seed = self.config.seed + len(self.hidden) + 1
        indptr = self._buffers.array("kept feature offsets", batch.indptr.shape, dtypes.OFFSET)
        indices = self._buffers.array("kept features", batch.indices.shape, dtypes.INDEX)
        values = self._buffers.array("kept feature values", batch.values.shape, dtypes.VALUE)
        keys = (self.config.input_dropout, seed, self.step)
        kept = drop_entries(batch.indptr, batch.indices, batch.values, *keys, indptr, indices, values)
        return Batch(indptr, indices[:kept], values[:kept], batch.label_ptr, batch.labels)

    def _gradient(self, i, n):
        """Where the gradient with respect to hidden layer i's output is gathered, empty and with room for n samples."""
        gradient, layer = self._gradients[i], self.hidden[i]
        if gradient is None or gradient.n_samples < n:
            gradient = self._gradients[i] = SampleGradient(n, layer.padded_dim)
            self._buffers.add(f"{layer.name} gradient", gradient.buffer_owner)
        gradient.clear()
        return gradient

    def reader(self, X: csr_matrix, Y: csr_matrix | None, batch_size: int) -> BatchReader:
        """Return what reads batches of a data set with its features weighted and scaled as this network wants them.

        Parameters
        ----------
        X : csr_matrix of float32, shape (n, n_features)
        Y : csr_matrix, shape (n, n_labels), or None
        batch_size : int
        """
        return BatchReader(X, Y, batch_size, normalize=self.config.normalize, weights=self.feature_weights)

    def build_search_index(
        self,
        mode: str = "sketch",
        X: csr_matrix | None = None,
        *,
        dims: int = 64,
        lsh: LSHConfig | None = None,
    ) -> SketchIndex | HashIndex:
        """Make what ``predict`` searches in a mode other than ``"exact"``; nothing of it is saved with the network.

        Parameters
        ----------
        mode : str
            ``"sketch"``: every label's vector in few dimensions of seven bits each, all of which are scanned.
            ``"lsh"``: hash tables.
        X : sparse or dense matrix, shape (n, n_features), optional
            Of sketches: points like those to predict, such as a few thousand of the training points.
        dims : int
            Of sketches: more find more for the same number of candidates, and take longer.
        lsh : LSHConfig, optional
            Of hash tables; by default ``config.output.lsh``.

        Returns
        -------
        SketchIndex or HashIndex
            Has its size, in `nbytes`.

        Raises
        ------
        DataError
            `X` has a value that is not finite, or is not a matrix.
        ValueError
            There is no such mode, or `X` is missing, has no points or does not fit the network.
        """
        if mode not in MODES[1:]:
            raise ValueError(f"only the modes {' and '.join(MODES[1:])} have an index, got {mode!r}")
        step = self.step
        self.settle()
        table, options = self.output.table, {"seed": self.config.seed, "threads": self.threads}
        if mode == "lsh":
            index = HashIndex(table, lsh or self.config.output.lsh, **options)
        elif X is None or not X.shape[0]:
            raise ValueError("a sketch needs X, points like those to predict: a few thousand of the training points do")
        else:
            index = SketchIndex(table, self.layer_inputs(X)[-1].dense, dims=dims, **options)
        self._search.add(mode, index, step)
        return index

    def predict(
        self,
        X: csr_matrix,
        k: int = 5,
        *,
        exclude: csr_matrix | None = None,
        mode: str = "exact",
        candidates: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return each point's k best labels, of all or, faster, of those that a search index finds.

        Memory is one block of hidden vectors and of scores, whatever the numbers of points and labels.

        Parameters
        ----------
        X : sparse or dense matrix, shape (n, n_features)
        k : int
        exclude : sparse matrix, shape (n, any), optional
            Labels that must not be predicted are the columns of a point's non-zero entries; columns past the last
            label are ignored. For a recommender whose items are both features and labels: `X` itself.
        mode : str
            ``"exact"`` scores every label. ``"sketch"`` and ``"lsh"`` score those that the index of that name proposes,
            and may miss some of the best; see ``build_search_index``.
        candidates : int, optional
            Labels that an index proposes for a point, k at least. More find more and take longer.

        Returns
        -------
        ids : int32 array [n, k]
            Best first, equal scores in order of id; -1 where fewer than k labels may be predicted, or were found.
        scores : float32 array [n, k]
            Logits; minus infinity where there is no label.

        Raises
        ------
        DataError
            `X` has a value that is not finite, or is not a matrix.
        RuntimeError
            There is no index for the mode, or the network has been trained since it was made.
        ValueError
            The number of columns does not fit the network, k or `candidates` is not positive, or there is no such mode.
        """
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if candidates is not None and candidates < 1:
            raise ValueError(f"candidates must be 1 or more, got {candidates}")
        index = None if mode == "exact" else self._search.get(mode, self.step)
        self.settle()
        X = self._features(X)
        if k < 1:
            raise ValueError(f"k must be 1 or more, got {k}")
        n = X.shape[0]
        ids = np.empty((n, k), dtypes.INDEX)
        scores = np.empty((n, k), dtypes.VALUE)
        exclusions = Exclusions(exclude, n)
        reader = self.reader(X, None, min(PREDICT_BLOCK, max(n, 1)))
        with one_blas_thread():
            for first in range(0, n, PREDICT_BLOCK):
                block = slice(first, min(n, first + PREDICT_BLOCK))
                signal = _features_of(reader.read(np.arange(block.start, block.stop, dtype=dtypes.OFFSET)))
                for layer in self.hidden:
                    signal = layer.predict(signal, self.threads)
                found = ids[block], scores[block]
                if index is None:
                    exact_topk(self.output.table, signal.dense, *exclusions.of(block), *found, self.threads)
                else:
                    search_topk(index, signal.dense, exclusions, block, candidates, *found, self.threads)
        return ids, scores

    def layer_inputs(self, X: csr_matrix) -> list[Signal]:
        """Return what each layer reads for some points: the features, then every hidden layer's output, all computed.

        Parameters
        ----------
        X : sparse or dense matrix, shape (n, n_features)
            A few thousand points at most: their hidden vectors are all in memory.

        Returns
        -------
        list of Signal
            In the order of ``(*network.hidden, network.output)``.

        Raises
        ------
        DataError, ValueError
            As ``predict`` does.
        """
        self.settle()
        X = self._features(X)
        n = X.shape[0]
        reader = self.reader(X, None, max(n, 1))
        signals = [_features_of(reader.read(np.arange(n, dtype=dtypes.OFFSET)))]
        with one_blas_thread():
            for layer in self.hidden:
                signals.append(layer.predict(signals[-1], self.threads))
        return signals

    def evaluate(
        self,
        X: csr_matrix,
        Y: csr_matrix,
        *,
        ks: Iterable[int] = (1, 3, 5),
        inv_propensity: np.ndarray | None = None,
        mask_inputs: bool = False,
        mode: str = "exact",
        candidates: int | None = None,
    ) -> dict[str, float]:
        """Return P@k, nDCG@k, R@k and, given propensities, PSP@k of the prediction.

        Parameters
        ----------
        X : matrix, shape (n, n_features)
        Y : matrix, shape (n, n_labels)
        ks : iterable of int
        inv_propensity : float array [n_labels], optional
            From ``slide.metrics.propensities`` of the training labels.
        mask_inputs : bool
            Never predict a label whose id is one of the point's features.
        mode, candidates
            As for ``predict``.

        Raises
        ------
        DataError, RuntimeError, ValueError
            As ``predict`` does, or `X` and `Y` do not fit.
        """
        ks = tuple(ks)
        if Y.shape[1] != self.n_labels:
            raise ValueError(f"Y has {Y.shape[1]:,} labels, the network {self.n_labels:,}")
        exclude = X if mask_inputs else None
        ids, _ = self.predict(X, max(ks), exclude=exclude, mode=mode, candidates=candidates)
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

    def fit_stream(self, blocks: Iterable[tuple[csr_matrix, csr_matrix]], **options):
        """Train on an iterator of blocks of points; see `slide.streaming.fit_stream`, which this calls."""
        from slide import streaming

        return streaming.fit_stream(self, blocks, **options)

    def copy_weights(self) -> dict[str, np.ndarray]:
        """Return copies of all weights and biases by name, such as ``"hidden.0.weights"``, without any moments.

        They are float32 arrays, whatever the network stores them as.
        """
        self.settle()
        return {name: array.copy() for name, array in self._weights().items()}

    def set_weights(self, weights: dict[str, np.ndarray]) -> None:
        """Take on the weights and biases that ``copy_weights`` returned, and build the hash tables anew.

        `step` and the optimiser's moments stay. Training may go on; its first batches then move by moments that belong
        to the weights there were.

        Parameters
        ----------
        weights : dict of array
        """
        # What rows owe is owed on the weights there were.
        self.settle()
        self._search.forget()
        for name, array in self._weights().items():
            array[...] = weights[name]
        for layer in (*self.hidden, self.output):
            if layer.index is not None:
                layer.index.forget()
                layer.index.rebuild(self.step, self.threads)

    def _weights(self):
        """Views of all weights and biases by name."""
        layers = [(layer.name, layer) for layer in self.hidden] + [("output", self.output)]
        return {f"{prefix}.{name}": layer.state()[name] for prefix, layer in layers for name in ("weights", "bias")}

    def save(self, path: str | os.PathLike, *, moments: bool = False) -> None:
        """Write the network to a folder of arrays and JSON; see `slide.checkpoint.save`."""
        from slide import checkpoint

        checkpoint.save(self, path, moments=moments)

    @classmethod
    def load(cls, path: str | os.PathLike, *, threads: int | None = None) -> Network:
        """Read a network that ``save`` wrote; see `slide.checkpoint.load`."""
        from slide import checkpoint

        return checkpoint.load(path, threads=threads)

    @property
    def rehash_seconds(self) -> float:
        """Seconds spent on the hash tables of all layers since the network was made."""
        return sum(layer.index.rebuild_seconds for layer in (*self.hidden, self.output) if layer.index is not None)

    def __reduce__(self):
        """Pickle and copy as what ``save`` writes, with the optimiser's moments where there are any."""
        from slide import archive

        return archive.unpack, (archive.pack(self),)

    def memory_report(self) -> list[dict]:
        """Return one dict for each large buffer; see `slide.buffers.Buffers.report`."""
        return self._buffers.report()
