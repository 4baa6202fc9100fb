"""BaseNetwork: a stack of layers, and the stepper that takes its training steps."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.sparse import csr_matrix

from slide.config import NetworkConfig
from slide.data.batches import Batch, BatchReader
from slide.model import initialization
from slide.model.footprint import BatchShape, bytes_needed
from slide.model.layers import HiddenLayer
from slide.model.output import OutputLayer, OutputStats
from slide.model.stack import LayerStack
from slide.rows.activations import Activations
from slide.rows.optimizer import Optimizer
from slide.system.blas import one_blas_thread
from slide.system.guard import changes, reads


@dataclass(frozen=True)
class BatchStats(OutputStats):
    """Figures of a training batch.

    Attributes
    ----------
    loss : float
        Cross-entropy in nats over the active neurons, as a mean over the samples that have labels.
    precision : float
        Share of those samples whose highest active logit is that of a label: an optimistic P@1.
    active : float
        Mean number of active output neurons per sample.
    seconds : float
        Time of the step.
    gradient_norm : float or None
        Euclidean norm of the gradient over all parameters, before clipping; None if gradients are not clipped.
    """

    seconds: float
    gradient_norm: float | None = None


class TakesSteps(Protocol):
    """A stepper: `slide.model.stepper.Stepper`, or that of several ranks."""

    def take(self, layers: Any, batch: Batch, lr_factor: float) -> tuple[OutputStats, float | None]:
        """Take one step; return the output layer's figures, and the gradient's norm if gradients are clipped."""


class BaseNetwork:
    """What every network can do, in one process or on several ranks: train on batches, grow, change weights.

    Parameters
    ----------
    layers : LayerStack
        The layers.
    stepper : TakesSteps
        The stepper for training.

    Attributes
    ----------
    layers : LayerStack
        The layers, with their optimizer and memory.
    """

    def __init__(self, layers: LayerStack, stepper: TakesSteps):
        self.layers = layers
        self._stepper = stepper

    # Properties of the stack, under the names that users know.

    @property
    def config(self) -> NetworkConfig:
        """The configuration."""
        return self.layers.config

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.layers.n_features

    @property
    def n_labels(self) -> int:
        """Number of labels."""
        return self.layers.n_labels

    @property
    def hidden(self) -> list[HiddenLayer]:
        """The hidden layers, from the features upward."""
        return self.layers.hidden

    @property
    def output(self) -> OutputLayer:
        """The output layer."""
        return self.layers.output

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer, which counts the steps."""
        return self.layers.optimizer

    @property
    def feature_weights(self) -> np.ndarray | None:
        """Factors of the features in training and prediction, float32 [n_features]; None without such factors."""
        return self.layers.feature_weights

    @property
    def threads(self) -> int:
        """Number of threads; set it at any time between two calls."""
        return self.layers.threads

    @threads.setter
    def threads(self, threads: int) -> None:
        self.layers.threads = threads

    @property
    def trainable(self) -> bool:
        """Whether the network can be trained, because it has the optimizer's state."""
        return self.layers.trainable

    @property
    def mapped(self) -> bool:
        """Whether the weights are read from a file that is mapped into memory."""
        return self.layers.mapped

    @property
    def step(self) -> int:
        """Number of batches trained on so far."""
        return self.layers.step

    @property
    def rehash_seconds(self) -> float:
        """Seconds spent on the hash tables of all layers since the network was made."""
        return self.layers.rehash_seconds

    @staticmethod
    def bytes_needed(
        n_features: int,
        n_labels: int,
        config: NetworkConfig,
        *,
        trainable: bool = True,
        batch: BatchShape | None = None,
    ) -> dict[str, int]:
        """Return the bytes of a network's large arrays, without making them.

        Parameters
        ----------
        n_features, n_labels : int
            Numbers of features and labels.
        config : NetworkConfig
            The configuration.
        trainable : bool
            Whether the network is for training; see `slide.Network`. Default: True.
        batch : BatchShape, optional
            Also count the most memory that training on batches of this shape needs.

        Returns
        -------
        dict of int
            Bytes by name of the array.
        """
        return bytes_needed(n_features, n_labels, config, trainable=trainable, batch=batch)

    def __repr__(self) -> str:
        units = " + ".join(str(layer.units) for layer in self.config.hidden)
        return (
            f"{type(self).__name__}({self.n_features:,} features, {units} hidden units, "
            f"{self.n_labels:,} labels, {self.step:,} steps)"
        )

    # Training.

    @changes
    def train_batch(self, batch: Batch, *, lr_factor: float = 1.0) -> BatchStats:
        """Take one optimizer step.

        Parameters
        ----------
        batch : Batch
            Samples and their labels, from a `slide.data.batches.BatchReader`.
        lr_factor : float
            Factor of the configured learning rate, for a schedule. Default: 1.

        Returns
        -------
        BatchStats
            Figures of the batch, before the step.

        Raises
        ------
        NumericalFault
            A number is NaN or infinite, or soon would be; the message names the layer. If the attribute ``harmless`` is
            true, the network is as it was before. It is a FloatingPointError.
        RuntimeError
            Another thread trains this network or predicts with it, or the network can only predict.
        """
        if not self.trainable:
            raise RuntimeError("this network was made, or saved, without the optimizer's state; it can only predict")
        with one_blas_thread():
            start = time.perf_counter()
            layers = self.layers
            for layer in layers:
                if layer.index is not None:
                    layer.index.rebuild_if_due(layers.step, layers.threads)
            stats, norm = self._stepper.take(layers, batch, lr_factor)
            return BatchStats(**vars(stats), seconds=time.perf_counter() - start, gradient_norm=norm)

    def reader(self, X: csr_matrix, Y: csr_matrix | None, batch_size: int) -> BatchReader:
        """Return a reader of batches that weighs and scales the features as this network reads them.

        Parameters
        ----------
        X : csr_matrix of float32, shape (n, n_features)
            Features of the samples.
        Y : csr_matrix, shape (n, n_labels), or None
            Labels of the samples, if they have any.
        batch_size : int
            Largest number of samples of a batch.

        Returns
        -------
        BatchReader
            A reader whose ``read`` returns a `Batch`.
        """
        return self.layers.reader(X, Y, batch_size)

    @reads
    def settle(self) -> None:
        """Bring all rows up to date with the steps that skipped them, if ``OptimizerConfig.lazy`` asks for it.

        Call this before you read weights straight from the layers. Prediction, evaluation and saving do it themselves,
        and ``fit`` does it after every epoch. Training then goes on as it would have, except for rounding. Several
        threads may call this at once.
        """
        self.layers.settle()

    # Weights.

    @changes
    def initialize(self, features: np.ndarray | None = None, labels: np.ndarray | None = None) -> None:
        """Start training from embeddings that come from elsewhere.

        The vectors keep their length. With one hidden layer of activation ``"linear"``, a sample's hidden vector is the
        sum of its features' vectors, each times the feature's value. The sample's logits are the products of the
        labels' vectors with this sum.

        Parameters
        ----------
        features : array [n_features, units], optional
            New weights of the first hidden layer.
        labels : array [n_labels, units of the last hidden layer], optional
            New weights of the output layer.

        Raises
        ------
        RuntimeError
            The network has been trained, so that the optimizer's moments belong to other weights; or it can only
            predict; or another thread uses it.
        ValueError
            A shape or type is wrong, a value is not finite, or `labels` is given although ``fit`` would replace these
            weights, because ``config.output.init`` is ``"mean"``.
        """
        if not self.trainable or self.step:
            why = f"has taken {self.step:,} steps" if self.step else "can only predict"
            raise RuntimeError(f"initialize() is for networks before training; this one {why}")
        if labels is not None and self.config.output.init == "mean":
            raise ValueError("labels would be replaced by fit: OutputConfig.init is 'mean'; choose 'random'")
        self.layers.weights_changed()
        initialization.set_vectors(self.layers, features, labels)

    @changes
    def grow(self, n_labels: int) -> None:
        """Add labels, whose ids follow the present ones.

        Weights, biases, the optimizer's moments and the labels' frequencies stay the same to the bit. In a trained
        network the new neurons start so that they do not replace known labels in predictions; see
        `slide.model.output.new_labels`. An untrained network becomes what it would be if made with as many labels. Hash
        tables are built anew before the next batch.

        For a moment both the old and the new output layer are in memory. No other thread may train or predict
        meanwhile.

        Parameters
        ----------
        n_labels : int
            Number of labels afterwards. With the present number nothing changes.

        Raises
        ------
        RuntimeError
            The network can only predict, so it could not learn new labels, or another thread uses it.
        ValueError
            The network has more labels already.
        """
        if n_labels < self.n_labels:
            raise ValueError(f"the network has {self.n_labels:,} labels already; grow() cannot make it {n_labels:,}")
        if not self.trainable:
            raise RuntimeError("this network can only predict: labels it has no neurons for could never be learnt")
        if n_labels > self.n_labels:
            self.layers.grow(n_labels)

    @reads
    def copy_weights(self) -> dict[str, np.ndarray]:
        """Return copies of all weights and biases.

        Returns
        -------
        dict of float32 array
            Arrays by name, such as ``"hidden.0.weights"``. They are float32 at any ``NetworkConfig.precision``.
        """
        self.layers.settle()
        return {name: array.copy() for name, array in self.layers.weights().items()}

    @changes
    def set_weights(self, weights: dict[str, np.ndarray]) -> None:
        """Replace weights and biases by those that ``copy_weights`` returned, and build the hash tables anew.

        `step` and the optimizer's moments stay. Training can go on; its first steps then still follow the moments of
        the former weights.

        Parameters
        ----------
        weights : dict of array
            All weights and biases by name.

        Raises
        ------
        RuntimeError
            The network reads its rows from a file, or another thread uses it.
        """
        if self.mapped:
            raise RuntimeError("the weights are those of a mapped file; to change them load it with mmap=False")
        layers = self.layers
        # The steps that rows skipped belong to the former weights.
        layers.settle()
        layers.weights_changed()
        for name, array in layers.weights().items():
            array[...] = weights[name]
        for layer in layers:
            if layer.index is not None:
                layer.index.forget()
                layer.index.rebuild(layers.step, layers.threads)

    def restored(self, source: Any) -> None:
        """Take note that all arrays were read from a saved network, opened by `slide.persist.saved_network`."""
        self.layers.weights_changed()

    # Hidden vectors.

    @reads
    def layer_inputs(self, X: csr_matrix | np.ndarray) -> list[Activations]:
        """Return what each layer reads for some samples: the features, then the output of each hidden layer.

        Parameters
        ----------
        X : sparse or dense matrix, shape (n, n_features)
            Samples; no more than a few thousand, because all their hidden vectors are in memory.

        Returns
        -------
        list of Activations
            Inputs of the layers, in the order of ``network.layers``. All units are computed.

        Raises
        ------
        DataError, ValueError
            As ``predict`` does.
        """
        return self.layers.layer_inputs(X)

    @reads
    def hidden_vectors(self, X: csr_matrix | np.ndarray, *, append_one: bool = False) -> np.ndarray:
        """Return the hidden vectors of some samples: the output of the last hidden layer.

        Parameters
        ----------
        X : sparse or dense matrix, shape (n, n_features)
            Samples.
        append_one : bool
            Add a column of ones, as the factor of the biases in ``output_matrix``. Default: False.

        Returns
        -------
        float32 array [n, units] or [n, units + 1]
            Hidden vectors.

        Raises
        ------
        DataError, ValueError
            As ``predict`` does.
        """
        return self.layers.hidden_vectors(X, append_one=append_one)

    def memory_report(self) -> list[dict]:
        """Return one dict for each large buffer; see `slide.system.buffers.Buffers.report`."""
        return self.layers.memory_report()
