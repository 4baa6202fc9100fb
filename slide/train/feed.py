"""Feed: the samples of a run, their batches in order, and the samples on which quality is measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from scipy.sparse import csr_matrix

from slide.config import NetworkConfig, TrainingConfig
from slide.data.batches import Batch
from slide.data.dataset import DataError, Dataset, MatrixLike, is_mapped
from slide.data.fingerprint import fingerprint
from slide.data.mapped import as_mapped
from slide.data.order import EpochOrder, default_window, epoch_order
from slide.data.statistics import column_counts, n_entries
from slide.model import initialization
from slide.model.footprint import BatchShape, bytes_needed, n_parameters
from slide.model.stack import LayerStack
from slide.predict import topk
from slide.system.memory import check_fit
from slide.train.callbacks import Callbacks


class RunFeed(Protocol):
    """What training asks of its feed: a `Feed`, or a `slide.ranks.feed.DistributedFeed`.

    ``batches`` yields arguments of ``read``, of a type that only the feed knows.
    """

    n_samples: int
    n_measured: int
    per_epoch: int
    batch_samples: int
    counts: np.ndarray

    def facts(self) -> dict:
        """See `Feed.facts`."""

    def start(self) -> None:
        """See `Feed.start`."""

    def open(self) -> None:
        """See `Feed.open`."""

    def batches(self, epoch: int, first: int) -> Iterator[Any]:
        """See `Feed.batches`."""

    def read(self, rows: Any) -> Batch:
        """See `Feed.read`."""

    def evaluate(self, inv_propensity: np.ndarray | None, mask_inputs: bool) -> dict[str, float]:
        """See `Feed.evaluate`."""

    def wrap(self, callbacks: Callbacks) -> Callbacks:
        """See `Feed.wrap`."""


class Feed:
    """The samples of a run.

    Parameters
    ----------
    layers : LayerStack
        The layers of the network.
    X, Y : sparse or dense matrices
        Samples to train on, except those that are held out.
    config : TrainingConfig
        Settings of the run.
    validation : pair of matrices, optional
        Samples to measure quality on.

    Attributes
    ----------
    n_samples, n_measured : int
        Number of samples to train on, and to measure quality on.
    per_epoch : int
        Number of batches per epoch.
    batch_samples : int
        Largest number of samples whose labels reach the output layer in one batch.
    counts : int64 array [n_labels]
        Number of training samples that have each label.
    given, other : Dataset, Dataset or None
        The data that the run was given to train on, and to measure quality on if that is other data.

    Raises
    ------
    DataError
        The data has no samples or no labels, or does not fit the network.
    MemoryError
        Training needs more memory than is available.
    """

    def __init__(
        self,
        layers: LayerStack,
        X: MatrixLike,
        Y: MatrixLike,
        config: TrainingConfig,
        validation: tuple[MatrixLike, MatrixLike] | None,
    ):
        self.layers, self.config = layers, config
        self.given = self._data = checked(layers, X, Y, "training")
        self.other: Dataset | None = None
        self._probe: Dataset | None = None
        if validation is None and config.holdout:
            self._data, self._probe = hold_out(self.given, config.holdout, config.eval_points, layers.config.seed)
        elif validation is not None and config.eval_points:
            self.other = self._probe = measured(layers, validation, config)
        self.n_samples = self._data.n_samples
        self.batch_samples = min(config.batch_size, self.n_samples)
        self.n_measured = 0 if self._probe is None else self._probe.n_samples
        self.per_epoch = -(-self.n_samples // config.batch_size)
        self.counts = column_counts(self._data.Y)
        check_labels(self.counts)
        check_training(layers, self._data.X, self._data.Y, config)

    def facts(self) -> dict:
        """Return plain values by which a resumed run can tell whether it gets the same samples."""
        return {
            "data": fingerprint(self.given),
            "validation": None if self.other is None else fingerprint(self.other),
        }

    def start(self) -> None:
        """Give an untrained network what it takes from the training data, such as the weights of features."""
        initialization.start(self.layers, self._data)

    def open(self) -> None:
        """Make the reader of batches; features must have their weights by then."""
        self._reader = self.layers.reader(self._data.X, self._data.Y, self.config.batch_size)

    def batches(self, epoch: int, first: int) -> Iterator[np.ndarray]:
        """Yield the rows of each batch of an epoch, for ``read``, from batch `first` on, counted from 0."""
        order = order_of(self._data, self.config, self.layers.config.seed, epoch)
        reader = self._reader
        return order.batches(self.config.batch_size, first=first, ahead=reader.fetch, expected=reader.expect)

    def read(self, rows: np.ndarray) -> Batch:
        """Return the batch of the rows that ``batches`` yielded last; it is valid until the next call."""
        return self._reader.read(rows)

    def evaluate(self, inv_propensity: np.ndarray | None, mask_inputs: bool) -> dict[str, float]:
        """Return the quality on the samples to measure it on; see `Network.evaluate`."""
        assert self._probe is not None, "there are no samples to measure quality on"
        X, Y = self._probe.X, self._probe.Y
        return topk.evaluate(self.layers, X, Y, inv_propensity=inv_propensity, mask_inputs=mask_inputs)

    def wrap(self, callbacks: Callbacks) -> Callbacks:
        """Return the callbacks as the run shall call them."""
        return callbacks


def measured(layers: LayerStack, validation: tuple[MatrixLike, MatrixLike], config: TrainingConfig) -> Dataset:
    """Return the samples of a validation set on which quality is measured: all, or ``eval_points`` drawn at random."""
    probe = checked(layers, *validation, "validation")
    if probe.n_samples > config.eval_points:
        rng = np.random.default_rng(layers.config.seed)
        probe = probe.subset(np.sort(rng.permutation(probe.n_samples)[: config.eval_points]))
    return probe


def hold_out(data: Dataset, share: float, most: int, seed: int, part: int = 0) -> tuple[Dataset, Dataset]:
    """Return the samples to train on and the samples held out, both in the order of the data.

    Parameters
    ----------
    data : Dataset
        All samples.
    share : float
        Fraction of the samples to hold out.
    most : int
        Largest number of samples to hold out.
    seed, part : int
        Keys of the random draw.

    Raises
    ------
    DataError
        There are fewer than two samples.
    """
    n = data.n_samples
    if n < 2:
        raise DataError(f"a holdout needs at least two training samples, found {n}; set TrainingConfig.holdout to 0")
    held = min(max(1, round(share * n)), most, n - 1)
    X, Y = as_mapped(data.X), as_mapped(data.Y)
    if X is not None and Y is not None:
        # Mapped data may be larger than memory: make neither a copy of it nor a permutation of all samples.
        rng = np.random.default_rng((seed, part) if part else seed)
        rows = np.sort(rng.choice(n, held, replace=False, shuffle=False))
        return Dataset(X.without(rows), Y.without(rows), name=data.name), data.subset(rows)
    # Epoch 0: epochs of a run count from 1, so that no run uses this order.
    order = epoch_order(n, seed, 0, part)
    return data.subset(np.sort(order[held:])), data.subset(np.sort(order[:held]))


def order_of(data: Dataset, config: TrainingConfig, seed: int, epoch: int, part: int = 0) -> EpochOrder:
    """Return the order in which an epoch goes through some samples; `seed`, `epoch` and `part` are its random keys."""
    window = config.shuffle_window
    if window is None and is_mapped(data.X):
        window = default_window(data.n_samples, n_entries(data.X) + n_entries(data.Y))
    return EpochOrder(data.n_samples, seed, epoch, shuffle=config.shuffle, window=window, part=part)


def checked(layers: LayerStack, X: MatrixLike, Y: MatrixLike, what: str) -> Dataset:
    """Return the data set, or raise DataError, which names it `what`, if it is empty or the network cannot use it."""
    data = fitting(layers, X, Y, what)
    if data.n_samples == 0:
        raise DataError(f"the {what} data has no samples")
    return data


def fitting(layers: LayerStack, X: MatrixLike, Y: MatrixLike, what: str) -> Dataset:
    """Return the data set, which may be empty, or raise DataError, which names it `what`, if it does not fit."""
    data = Dataset.from_arrays(X, Y, name=what)
    if (data.n_features, data.n_labels) != (layers.n_features, layers.n_labels):
        raise DataError(
            f"the {what} data has {data.n_features:,} features and {data.n_labels:,} labels, "
            f"the network {layers.n_features:,} and {layers.n_labels:,}"
        )
    return data


def check_labels(counts: np.ndarray) -> None:
    """Raise DataError if no sample has a label; `counts` are the numbers of samples by label."""
    if not counts.any():
        raise DataError("no training sample has a label: there is nothing to learn")


def training_needs(
    n_features: int, n_labels: int, config: NetworkConfig, training: TrainingConfig, batch: BatchShape
) -> dict[str, int]:
    """Return the bytes of a network's large arrays and of all further memory that training needs, by name."""
    needs = bytes_needed(n_features, n_labels, config, batch=batch)
    if training.keeps_best:
        units = [layer.units for layer in config.hidden]
        needs["copy of the best weights"] = 4 * n_parameters([n_features, *units, n_labels])
    return needs


def check_training(layers: LayerStack, X: csr_matrix, Y: csr_matrix, training: TrainingConfig) -> None:
    """Raise MemoryError if training a new network needs more memory, beyond its arrays, than is available.

    A network that has been trained before has that memory already.
    """
    if layers.step:
        return
    sizes, batch = (layers.n_features, layers.n_labels, layers.config), BatchShape.of(X, Y, training.batch_size)
    there = bytes_needed(*sizes)
    more = {name: size for name, size in training_needs(*sizes, training, batch).items() if name not in there}
    check_fit(more, layers.config.hugepages, "choose a smaller TrainingConfig.batch_size")
