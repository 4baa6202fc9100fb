"""LayerStack: the layers of a network, with their optimizer and memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_matrix

from slide.config import HiddenConfig, NetworkConfig
from slide.data.batches import Batch, BatchReader
from slide.data.dataset import as_float32_csr
from slide.kernels import dtypes
from slide.kernels.bfloat16 import BFloat16View
from slide.kernels.catch_up import catch_up
from slide.kernels.parallel import resolve_threads
from slide.model.footprint import bytes_needed
from slide.model.layers import HiddenLayer, make_hidden
from slide.model.output import OutputLayer
from slide.rows.activations import Activations, Ragged
from slide.rows.optimizer import Optimizer
from slide.rows.storage import MappedStorage, Storage
from slide.system.blas import one_blas_thread
from slide.system.buffers import Buffers
from slide.system.guard import SETTLING
from slide.system.memory import check_fit

BLOCK = 4096
"""Number of samples whose hidden vectors are in memory at a time."""

Layer = HiddenLayer | OutputLayer


class LayerStack:
    """The hidden layers and the output layer, from the features upward, with their optimizer and memory.

    ``for layer in stack`` visits every layer, the output layer last.

    Parameters
    ----------
    n_features, n_labels : int
        Numbers of features and labels, from 1 to 2**31 - 1.
    config : NetworkConfig
        The settings.
    threads : int, optional
        Number of threads. Default: all cores that this process may use.
    trainable : bool
        False leaves out the optimizer's moments and the hash tables. Default: True.
    storage : MappedStorage, optional
        Parameter rows in a file, for a network that only predicts. Default: new rows in memory.

    Attributes
    ----------
    hidden : list of HiddenLayer
        The hidden layers, from the features upward.
    output : OutputLayer
        The output layer.
    optimizer : Optimizer
        The optimizer, which counts the steps.
    feature_weights : float32 array [n_features] or None
        Factors of the features; None if ``config.feature_weights`` is ``"none"``.
    buffers : Buffers
        Named large memory of all layers.
    weights_version : int
        Number of times that weights have changed other than by training steps.

    Raises
    ------
    ValueError
        A size is out of range.
    MemoryError
        The parameters need more memory than is available.
    """

    def __init__(
        self,
        n_features: int,
        n_labels: int,
        config: NetworkConfig,
        *,
        threads: int | None = None,
        trainable: bool = True,
        storage: MappedStorage | None = None,
    ):
        self.config = config
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
        self.buffers = Buffers(hugepages=config.hugepages)
        self.trainable = trainable
        self.weights_version = 0
        rows = storage or Storage.of(config, trainable=trainable)
        self.hidden: list[HiddenLayer] = []
        dim = n_features
        for i, layer in enumerate(config.hidden):
            self.hidden.append(self._make_hidden(i, dim, layer, rows))
            dim = layer.units
        self.output = self._make_output(n_labels, dim, rows)
        if trainable:
            for made in self:
                made.make_index()
                if config.update == "hogwild":
                    made.use_hogwild()
        if self.feature_weights is not None:
            self.buffers.note("feature weights", self.feature_weights)
        if config.hugepages == "require":
            self.buffers.require_hugepages()

    def _check_fit(self, trainable: bool) -> None:
        needs = bytes_needed(self.n_features, self.n_labels, self.config, trainable=trainable)
        check_fit(needs, self.config.hugepages)

    def _make_hidden(self, i: int, dim: int, config: HiddenConfig, storage: Storage | MappedStorage) -> HiddenLayer:
        seed, name = self.config.seed + i, f"hidden.{i}"
        return make_hidden(name, dim, config, storage, seed, self.buffers, self.threads, reads_features=i == 0)

    def _make_output(self, n_labels: int, dim: int, storage: Storage | MappedStorage) -> OutputLayer:
        seed = self.config.seed + len(self.config.hidden)
        return OutputLayer(n_labels, dim, self.config.output, storage, seed, self.buffers, self.threads)

    def __iter__(self) -> Iterator[Layer]:
        yield from self.hidden
        yield self.output

    @property
    def by_name(self) -> dict[str, Layer]:
        """The layers by the names that their files have: ``"hidden.0"`` and so on, and ``"output"``."""
        return {layer.name: layer for layer in self}

    @property
    def mapped(self) -> bool:
        """Whether the weights are read from a file that is mapped into memory."""
        return self.output.table.read_only

    @property
    def step(self) -> int:
        """Number of batches trained on so far."""
        return self.optimizer.step

    # Which part of a network this process has, if several ranks share the network. Here, all of it.

    @property
    def label_rows(self) -> range | None:
        """The labels that the output layer's rows stand for, in order; None for all labels."""
        return None

    def rows_here(self, array: str) -> tuple[int, range] | None:
        """Return how many rows an array has in the whole network, and which of them are here; None if all are here.

        `array` is a name such as ``"output.weights"``.
        """
        if self.label_rows is None or not array.startswith("output."):
            return None
        return self.n_labels, self.label_rows

    def table_name(self, layer: str) -> str:
        """Return the name under which the hash tables of a layer are saved."""
        return layer

    # Weights.

    def settle(self) -> None:
        """Bring all rows up to date with the steps that skipped them.

        Several threads may call this at once.
        """
        # Usually there is nothing to do: skip the lock.
        if self.optimizer.owed() is None:
            return
        with SETTLING:
            owed = self.optimizer.owed()
            if owed is None:
                return
            for layer in self:
                catch_up(layer.table, None, owed, self.threads)
            self.optimizer.settled()

    def weights(self) -> dict[str, np.ndarray | BFloat16View]:
        """Return views of all weights and biases by name, such as ``"hidden.0.weights"``."""
        return {f"{layer.name}.{name}": layer.state()[name] for layer in self for name in ("weights", "bias")}

    def parameters(self, *, moments: bool) -> dict[str, np.ndarray | BFloat16View]:
        """Return views of all parameters, and with `moments` of what the optimizer keeps of them, by file name."""
        arrays: dict[str, np.ndarray | BFloat16View] = {}
        if self.feature_weights is not None:
            arrays["feature_weights"] = self.feature_weights
        for layer in self:
            for name, array in layer.state().items():
                if moments or name in ("weights", "bias"):
                    arrays[f"{layer.name}.{name}"] = array
        return arrays

    def weights_changed(self) -> None:
        """Record that weights have changed other than by a training step, so that search indexes no longer fit."""
        self.weights_version += 1

    def grow(self, n_labels: int) -> None:
        """Replace the output layer by one with more labels that goes on from it; see `Network.grow`."""
        # So that no row is behind when new rows, which missed no step, join.
        self.settle()
        old = self.output
        output = self._make_output(n_labels, old.table.dim, Storage.of(self.config))
        output.take_over(old)
        if self.config.update == "hogwild":
            output.use_hogwild()
        self.output, self.n_labels = output, n_labels
        self.weights_changed()

    # From samples to hidden vectors.

    def checked(self, X: csr_matrix | np.ndarray) -> csr_matrix:
        """Return samples as the network reads them.

        Raises
        ------
        DataError
            `X` is not a matrix, or has a value that is not finite.
        ValueError
            `X` has another number of columns.
        """
        X = as_float32_csr(X, "X")
        if X.shape[1] != self.n_features:
            raise ValueError(f"X has {X.shape[1]:,} features, the network {self.n_features:,}")
        return X

    def reader(self, X: csr_matrix, Y: csr_matrix | None, batch_size: int) -> BatchReader:
        """Return a reader of batches; see `slide.model.base.BaseNetwork.reader`."""
        return BatchReader(X, Y, batch_size, normalize=self.config.normalize, weights=self.feature_weights)

    def layer_inputs(self, X: csr_matrix | np.ndarray) -> list[Activations]:
        """Return what each layer reads for some samples; see `Network.layer_inputs`."""
        self.settle()
        X = self.checked(X)
        n = X.shape[0]
        activations = [features_of(self.reader(X, None, max(n, 1)).read(np.arange(n, dtype=dtypes.OFFSET)))]
        with one_blas_thread():
            for layer in self.hidden:
                activations.append(layer.predict(activations[-1], self.threads))
        return activations

    def hidden_of(self, batch: Batch) -> np.ndarray:
        """Return the hidden vectors of a batch, a float32 array [n, padded_dim]."""
        inputs = features_of(batch)
        for layer in self.hidden:
            inputs = layer.predict(inputs, self.threads)
        return inputs.vectors

    def hidden_vectors(self, X: csr_matrix | np.ndarray, *, append_one: bool = False) -> np.ndarray:
        """Return the hidden vectors of some samples; see `Network.hidden_vectors`."""
        X, units = self.checked(X), self.output.table.dim
        vectors = np.ones((X.shape[0], units + append_one), dtypes.VALUE)
        for first in range(0, len(vectors), BLOCK):
            block = slice(first, first + BLOCK)
            vectors[block, :units] = self.layer_inputs(X[block])[-1].vectors[:, :units]
        return vectors

    # Figures.

    @property
    def rehash_seconds(self) -> float:
        """Seconds spent on the hash tables of all layers since the network was made."""
        return sum(layer.index.rebuild_seconds for layer in self if layer.index is not None)

    def memory_report(self) -> list[dict]:
        """Return one dict for each large buffer; see `slide.system.buffers.Buffers.report`."""
        return self.buffers.report()


def features_of(batch: Batch) -> Activations:
    """Return what the first hidden layer reads of a batch."""
    return Activations.of_features(Ragged(batch.indices, batch.indptr[:-1], batch.indptr[1:]), batch.values)
