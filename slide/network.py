"""Network: sparse features, hidden layers, a huge sampled softmax."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix

from slide import initial, metrics, prediction
from slide.access import SETTLING, changes, reads
from slide.blas import one_blas_thread
from slide.buffers import Buffers
from slide.config import LSHConfig, NetworkConfig, TrainingConfig
from slide.data.batches import Batch, BatchReader
from slide.feed import Feed
from slide.footprint import BatchShape, bytes_needed, check_fit
from slide.kernels import dtypes
from slide.kernels.catch_up import catch_up
from slide.kernels.parallel import resolve_threads
from slide.layers import HiddenLayer, make_hidden
from slide.optimizer import Optimizer
from slide.output import OutputLayer
from slide.search import INDEXES, HashIndex, SearchIndexes, SketchIndex, index_of
from slide.signals import Signal
from slide.stepper import Stepper
from slide.storage import MappedStorage, Storage


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
    storage : MappedStorage, optional
        Where the rows of parameters are already, for a network that is not trainable; `load` gives it.
    comm : mpi4py communicator, optional
        Of the ranks that have the network together: makes a `slide.distributed.DistributedNetwork`.
    distribution : DistributionConfig, optional
        With `comm`: who has what.

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
    Prediction may be called from several threads at once. Training may not, nor prediction beside training in another
    thread: the later call raises RuntimeError and leaves the earlier one undisturbed. Callbacks may predict.

    Prediction reads weights that have caught up with every step (see ``settle``). Hash tables are built from rows as
    they are, which may be behind: a row that no sample reads owes little and less.
    """

    def __new__(cls, *sizes, comm=None, **options):
        """Make a network, of the class for several ranks where there is a communicator."""
        if comm is None:
            return super().__new__(cls)
        from slide.distributed import DistributedNetwork

        return super().__new__(DistributedNetwork)

    def __init__(
        self,
        n_features: int,
        n_labels: int,
        config: NetworkConfig | None = None,
        *,
        threads: int | None = None,
        trainable: bool = True,
        storage: MappedStorage | None = None,
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
        if storage is None:
            self._check_fit(trainable)
        self._buffers = Buffers(hugepages=config.hugepages)
        self.trainable = trainable
        storage = storage or Storage.of(config, trainable=trainable)
        self.hidden: list[HiddenLayer] = []
        dim = n_features
        for i, layer in enumerate(config.hidden):
            rest = (storage, config.seed + i, self._buffers, self.threads)
            self.hidden.append(self._make_hidden(i, dim, layer, *rest))
            dim = layer.units
        seed = config.seed + len(config.hidden)
        self.output = self._make_output(n_labels, dim, storage, seed)
        if trainable:
            for layer in (*self.hidden, self.output):
                layer.make_index()
                if config.update == "hogwild":
                    layer.use_hogwild()
        self._stepper = self._make_stepper()
        self._search = SearchIndexes()
        if self.feature_weights is not None:
            self._buffers.note("feature weights", self.feature_weights)
        if config.hugepages == "require":
            self._buffers.require_hugepages()

    def _check_fit(self, trainable):
        """Refuse a network that does not fit into memory."""
        sizes = self.n_features, self.n_labels, self.config
        check_fit(self.bytes_needed(*sizes, trainable=trainable), self.config.hugepages)

    def _make_hidden(self, i, dim, layer, *rest):
        return make_hidden(f"hidden.{i}", dim, layer, *rest, reads_features=i == 0)

    def _make_output(self, n_labels, dim, storage, seed):
        return OutputLayer(n_labels, dim, self.config.output, storage, seed, self._buffers, self.threads)

    def _make_stepper(self):
        return Stepper(self._buffers, len(self.hidden))

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
    def mapped(self) -> bool:
        """Whether the weights are read from a file that is mapped into memory."""
        return self.output.table.read_only

    @property
    def label_rows(self) -> range | None:
        """The labels whose neurons are here, in the order of the output layer's rows; None for all."""
        return None

    def rows_here(self, array: str) -> tuple[int, range] | None:
        """Return how many rows an array has in the whole network, and which of them are here; None where all are.

        Parameters
        ----------
        array : str
            Its name, such as ``"output.weights"``.
        """
        if self.label_rows is None or not array.startswith("output."):
            return None
        return self.n_labels, self.label_rows

    def table_name(self, layer: str) -> str:
        """Return what a layer's hash tables are called where they are saved.

        Parameters
        ----------
        layer : str
            Its name.
        """
        return layer

    @property
    def step(self) -> int:
        """Batches trained on so far."""
        return self.optimizer.step

    @reads
    def settle(self) -> None:
        """Let all rows catch up with the steps that skipped them, if ``OptimizerConfig`` says that they should.

        Reading weights straight from the layers needs it; prediction, evaluation and saving do it themselves, and
        ``training.fit`` after every epoch. Training goes on as it would have but for rounding. May be called from
        several threads at once.
        """
        self.catch_up()

    def catch_up(self) -> None:
        """Do what ``settle`` does, for those who are changing the network already."""
        # Most of the time nobody need wait.
        if self.optimizer.owed() is None:
            return
        with SETTLING:
            owed = self.optimizer.owed()
            if owed is None:
                return
            for layer in (*self.hidden, self.output):
                catch_up(layer.table, None, owed, self.threads)
            self.optimizer.settled()

    @changes
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
            The network has been trained, so that the optimiser's moments belong to other weights, or is not trainable,
            or another thread uses it.
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

    @changes
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
            The network can only predict, so that new labels could not be learnt, or another thread uses it.
        ValueError
            There are more labels already.
        """
        if n_labels < self.n_labels:
            raise ValueError(f"the network has {self.n_labels:,} labels already; grow() cannot make it {n_labels:,}")
        if not self.trainable:
            raise RuntimeError("this network can only predict: labels it has no neurons for could never be learnt")
        if n_labels == self.n_labels:
            return
        # No row then owes anything from before the new ones were there.
        self.catch_up()
        old, seed = self.output, self.config.seed + len(self.hidden)
        storage, dim = Storage.of(self.config), old.table.dim
        self.output = self._make_output(n_labels, dim, storage, seed)
        self.output.take_over(old)
        if self.config.update == "hogwild":
            self.output.use_hogwild()
        self._search.forget()
        self.n_labels = n_labels

    @changes
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
        NumericalFault
            Something is NaN or infinite, or soon would be; a FloatingPointError that names the layer. Unless it says
            otherwise, which its ``harmless`` tells too, the network is as it was before.
        RuntimeError
            Another thread trains this network or predicts with it, or it is not trainable.
        """
        if not self.trainable:
            raise RuntimeError("this network was made, or saved, without the optimiser's state; it can only predict")
        with one_blas_thread():
            return self._train_batch(batch, lr_factor)

    def _train_batch(self, batch, lr_factor):
        start = time.perf_counter()
        for layer in (*self.hidden, self.output):
            if layer.index is not None:
                layer.index.rebuild_if_due(self.step, self.threads)
        stats, norm = self._stepper.take(self, batch, lr_factor)
        return BatchStats(stats.loss, stats.precision, stats.active, time.perf_counter() - start, norm)

    def reader(self, X: csr_matrix, Y: csr_matrix | None, batch_size: int) -> BatchReader:
        """Return what reads batches of a data set with its features weighted and scaled as this network wants them.

        Parameters
        ----------
        X : csr_matrix of float32, shape (n, n_features)
        Y : csr_matrix, shape (n, n_labels), or None
        batch_size : int
        """
        return BatchReader(X, Y, batch_size, normalize=self.config.normalize, weights=self.feature_weights)

    @reads
    def build_search_index(
        self,
        mode: str = "sketch",
        X: csr_matrix | None = None,
        *,
        dims: int = 64,
        coverage: float = 1.0,
        lsh: LSHConfig | None = None,
    ) -> SketchIndex | HashIndex:
        """Make what ``predict`` searches in a mode other than ``"exact"``; nothing of it is saved with the network.

        Parameters
        ----------
        mode : str
            ``"sketch"``: every label's vector in few dimensions of seven bits each, all of which are scanned.
            ``"lsh"``: hash tables, which the mode ``"lsh-votes"`` searches too.
        X : sparse or dense matrix, shape (n, n_features), optional
            Of sketches: points like those to predict, such as a few thousand of the training points.
        dims : int
            Of sketches: more find more for the same number of candidates, and take longer.
        coverage : float
            Of sketches: below 1 only the labels that are likely for most points are scanned, as many as hold this share
            of the best labels of `X`; the others are never predicted.
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
            There is no such mode, `X` is missing, has no points or does not fit the network, or `dims` or `coverage` is
            out of range.
        """
        if index_of(mode) not in INDEXES:
            raise ValueError(f"only the modes {' and '.join(INDEXES)} have an index, got {mode!r}")
        step = self.step
        self.settle()
        index = prediction.build_index(self, index_of(mode), X, dims, coverage, lsh)
        self._search.add(mode, index, step)
        return index

    def search_index(self, mode: str) -> SketchIndex | HashIndex:
        """Return what ``build_search_index`` made for a mode; RuntimeError if that is nothing, or of other weights."""
        return self._search.get(mode, self.step)

    @reads
    def predict(
        self,
        X: csr_matrix,
        k: int = 5,
        *,
        exclude: csr_matrix | None = None,
        allowed: ArrayLike | csr_matrix | None = None,
        mode: str = "exact",
        candidates: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return each point's k best labels, of all or, faster, of those that a search index finds.

        Memory is one block of hidden vectors and of scores, whatever the numbers of points and labels, and a copy of
        the weights of `allowed` labels. May be called from several threads at once.

        Parameters
        ----------
        X : sparse or dense matrix, shape (n, n_features); or dense array [n_features], one point
            A single point in float32 is taken fastest as a ``csr_matrix`` of one row or as an array.
        k : int
        exclude : sparse matrix, shape (n, any), optional
            Labels that must not be predicted are the columns of a point's non-zero entries; columns past the last
            label are ignored. For a recommender whose items are both features and labels: `X` itself.
        allowed : array of label ids, array of bool [n_labels] or sparse matrix, shape (n, n_labels), optional
            Labels that alone may be predicted: the same for all points, or a point's non-zero entries. Only these are
            scored: few take little time. `exclude` holds for them as well.
        mode : str
            ``"exact"`` scores every label. ``"sketch"`` and ``"lsh"`` let the index of that name propose some and score
            these exactly; they may miss some of the best. ``"lsh-votes"`` scores no label: the best are those that
            most of the hash tables of ``"lsh"`` find. See ``build_search_index``.
        candidates : int, optional
            Labels that an index proposes for a point, k at least. More find more and take longer.

        Returns
        -------
        ids : int32 array [n, k], or [k] of one point
            Best first, equal scores in order of id; -1 where fewer than k labels may be predicted, or were found.
        scores : float32 array of the same shape
            Logits, or with ``"lsh-votes"`` numbers of tables; minus infinity where there is no label.

        Raises
        ------
        DataError
            `X` has a value that is not finite, or is not a matrix.
        RuntimeError
            There is no index for the mode, or the network has been trained since it was made, or another thread trains
            it now.
        ValueError
            The number of columns does not fit the network, `exclude` or `allowed` do not fit the points, an allowed
            label is out of range, k or `candidates` is not positive, or there is no such mode.
        """
        return prediction.predict(self, X, k, exclude, allowed, mode, candidates)

    @reads
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
        return prediction.layer_inputs(self, X)

    @reads
    def hidden_vectors(self, X: csr_matrix, *, append_one: bool = False) -> np.ndarray:
        """Return what the output layer is multiplied with: the last hidden layer's output for some points.

        Parameters
        ----------
        X : sparse or dense matrix, shape (n, n_features)
        append_one : bool
            Add a column of ones, which the biases in ``output_matrix`` are multiplied with.

        Returns
        -------
        float32 array [n, units] or [n, units + 1]

        Raises
        ------
        DataError, ValueError
            As ``predict`` does.
        """
        return prediction.hidden_vectors(self, X, append_one)

    @reads
    def output_matrix(self, *, centred: bool = True) -> np.ndarray:
        """Return the output layer as a plain matrix for other libraries to search; see `slide.exchange.output_matrix`.

        Its rows with the largest inner products with ``hidden_vectors(X, append_one=True)`` are the best labels.
        """
        from slide import exchange

        return exchange.output_matrix(self, centred=centred)

    def forget_searches(self) -> None:
        """Let search indexes go: the weights have changed other than by training."""
        self._search.forget()

    def restored(self, source) -> None:
        """Take note that everything was read from a saved network.

        Parameters
        ----------
        source : object
            From `slide.checkpoint.open_arrays`.
        """
        self.forget_searches()

    @reads
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

    def fit(self, X: csr_matrix, Y: csr_matrix, *, comm=None, **options):
        """Train on a data set; see `slide.training.fit`, which this calls, for the options and what is returned.

        With `comm`, an mpi4py communicator, its ranks, which all have this network and the data, train it together; see
        `slide.distributed.fit`.
        """
        if comm is not None:
            from slide import distributed

            return distributed.fit(self, X, Y, comm=comm, **options)
        from slide import training

        return training.fit(self, X, Y, **options)

    def feed(self, X: csr_matrix, Y: csr_matrix, config: TrainingConfig, validation=None) -> Feed:
        """Return the points of a run as `slide.training.fit` takes them."""
        return Feed(self, X, Y, config, validation)

    def fit_stream(self, blocks: Iterable[tuple[csr_matrix, csr_matrix]], **options):
        """Train on an iterator of blocks of points; see `slide.streaming.fit_stream`, which this calls."""
        from slide import streaming

        return streaming.fit_stream(self, blocks, **options)

    @reads
    def copy_weights(self) -> dict[str, np.ndarray]:
        """Return copies of all weights and biases by name, such as ``"hidden.0.weights"``, without any moments.

        They are float32 arrays, whatever the network stores them as.
        """
        self.settle()
        return {name: array.copy() for name, array in self._weights().items()}

    @changes
    def set_weights(self, weights: dict[str, np.ndarray]) -> None:
        """Take on the weights and biases that ``copy_weights`` returned, and build the hash tables anew.

        `step` and the optimiser's moments stay. Training may go on; its first batches then move by moments that belong
        to the weights there were.

        Parameters
        ----------
        weights : dict of array

        Raises
        ------
        RuntimeError
            The network reads its rows from a file, or another thread uses it.
        """
        if self.mapped:
            raise RuntimeError("the weights are those of a mapped file; to change them load it with mmap=False")
        # What rows owe is owed on the weights there were.
        self.catch_up()
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

    def save(self, path: str | os.PathLike, *, moments: bool = False, serving: bool = False) -> None:
        """Write the network to a folder of arrays and JSON, or to a file whose name ends in ``.safetensors``.

        See `slide.checkpoint.save` for the folder, `slide.exchange.save_safetensors` for the file.
        """
        from slide import checkpoint

        checkpoint.save(self, path, moments=moments, serving=serving)

    @classmethod
    def load(cls, path: str | os.PathLike, *, threads: int | None = None, mmap: bool = False) -> Network:
        """Read a network that ``save`` wrote; see `slide.checkpoint.load`."""
        from slide import checkpoint

        return checkpoint.load(path, threads=threads, mmap=mmap)

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
