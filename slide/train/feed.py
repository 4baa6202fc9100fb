"""What a run trains on and is measured on: its samples, their batches in order, and figures of all of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_matrix

from slide.config import NetworkConfig, TrainingConfig
from slide.data.batches import Batch
from slide.data.dataset import DataError, Dataset, is_mapped
from slide.data.fingerprint import fingerprint
from slide.data.order import EpochOrder, default_window, epoch_order
from slide.data.statistics import column_counts, n_entries
from slide.model import initialization
from slide.model.footprint import BatchShape, bytes_needed, n_parameters
from slide.model.stack import LayerStack
from slide.predict import topk
from slide.system.memory import check_fit
from slide.train.callbacks import Callbacks


class Feed:
    """The samples of a run.

    Parameters
    ----------
    layers : LayerStack
    X, Y : sparse or dense matrices
        To train on, but for what is held out.
    config : TrainingConfig
    validation : pair of matrices, optional
        To measure quality on.

    Attributes
    ----------
    n_samples, n_measured : int
        To train on, and to measure quality on.
    per_epoch : int
        Batches.
    batch_samples : int
        Samples of a batch, at most, whose labels the output layer is given together.
    counts : int64 array [n_labels]
        Samples to train on that have each label.
    given, other : Dataset, Dataset or None
        What the run was given to train on and, if that is something else, to measure on.

    Raises
    ------
    DataError
        The data has no samples or no labels, or does not fit the network.
    MemoryError
        Training takes more than the memory available.
    """

    def __init__(self, layers: LayerStack, X: csr_matrix, Y: csr_matrix, config: TrainingConfig, validation):
        self.layers, self.config = layers, config
        self.given = self._data = checked(layers, X, Y, "training")
        self.other = self._probe = None
        if validation is None and config.holdout:
            self._data, self._probe = hold_out(self.given, config.holdout, config.eval_points, layers.config.seed)
        elif validation is not None and config.eval_points:
            self.other = self._probe = measured(layers, validation, config)
        self.n_samples = self.batch_samples = self._data.n_samples
        self.batch_samples = min(config.batch_size, self.n_samples)
        self.n_measured = 0 if self._probe is None else self._probe.n_samples
        self.per_epoch = -(-self.n_samples // config.batch_size)
        self.counts = column_counts(self._data.Y)
        check_labels(self.counts)
        check_training(layers, self._data.X, self._data.Y, config)

    def facts(self) -> dict:
        """Return, as plain values, what tells whether a run that goes on is given the same samples again."""
        return {
            "data": fingerprint(self.given),
            "validation": None if self.other is None else fingerprint(self.other),
        }

    def start(self) -> None:
        """Set what a network that has not been trained takes from its training data."""
        initialization.start(self.layers, self._data)

    def open(self) -> None:
        """Make what ``batches`` reads with, once the features have their weights."""
        self._reader = self.layers.reader(self._data.X, self._data.Y, self.config.batch_size)

    def batches(self, epoch: int, first: int) -> Iterator[np.ndarray]:
        """Yield what ``read`` makes each batch of an epoch from.

        Parameters
        ----------
        epoch, first : int
            The epoch, and the batch to begin with, counted from 0.
        """
        order = order_of(self._data, self.config, self.layers.config.seed, epoch)
        soon = {"ahead": self._reader.fetch, "expected": self._reader.expect}
        return order.batches(self.config.batch_size, first=first, **soon)

    def read(self, rows: np.ndarray) -> Batch:
        """Return a batch, which is valid until the next.

        Parameters
        ----------
        rows : int64 array
            What ``batches`` yielded last.
        """
        return self._reader.read(rows)

    def evaluate(self, inv_propensity: np.ndarray | None, mask_inputs: bool) -> dict[str, float]:
        """Return the quality on the samples that it is measured on; see `Network.evaluate`."""
        X, Y = self._probe.X, self._probe.Y
        return topk.evaluate(self.layers, X, Y, inv_propensity=inv_propensity, mask_inputs=mask_inputs)

    def wrap(self, callbacks: Callbacks) -> Callbacks:
        """Return what tells callbacks of the run."""
        return callbacks


def measured(layers: LayerStack, validation: tuple[csr_matrix, csr_matrix], config: TrainingConfig) -> Dataset:
    """Return the samples of a validation set that quality is measured on: all, or as many as are asked for at random."""
    probe = checked(layers, *validation, "validation")
    if probe.n_samples > config.eval_points:
        rng = np.random.default_rng(layers.config.seed)
        probe = probe.subset(np.sort(rng.permutation(probe.n_samples)[: config.eval_points]))
    return probe


def hold_out(data: Dataset, share: float, most: int, seed: int, part: int = 0) -> tuple[Dataset, Dataset]:
    """Return the samples to train on and the samples set aside, both in the order of the data.

    Parameters
    ----------
    data : Dataset
    share : float
        Of the samples, to be set aside.
    most : int
        How many at most.
    seed, part : int
        Key the draw.
    """
    n = data.n_samples
    if n < 2:
        raise DataError("of one training sample none can be held out; set TrainingConfig.holdout to 0")
    held = min(max(1, round(share * n)), most, n - 1)
    if is_mapped(data.X) and is_mapped(data.Y):
        # Neither the rest of the data nor a permutation of it may be made.
        rng = np.random.default_rng((seed, part) if part else seed)
        rows = np.sort(rng.choice(n, held, replace=False, shuffle=False))
        return Dataset(data.X.without(rows), data.Y.without(rows), name=data.name), data.subset(rows)
    # The order of an epoch that no run has: epochs count from 1.
    order = epoch_order(n, seed, 0, part)
    return data.subset(np.sort(order[held:])), data.subset(np.sort(order[:held]))


def order_of(data: Dataset, config: TrainingConfig, seed: int, epoch: int, part: int = 0) -> EpochOrder:
    """Return the order in which an epoch goes through some samples.

    Parameters
    ----------
    data : Dataset
    config : TrainingConfig
    seed, epoch, part : int
        Key it.
    """
    window = config.shuffle_window
    if window is None and is_mapped(data.X):
        window = default_window(data.n_samples, n_entries(data.X) + n_entries(data.Y))
    return EpochOrder(data.n_samples, seed, epoch, shuffle=config.shuffle, window=window, part=part)


def checked(layers: LayerStack, X, Y, what: str) -> Dataset:
    """Return the data set, or raise DataError if it has no samples or the network cannot use it.

    Parameters
    ----------
    layers : LayerStack
    X, Y : sparse or dense matrices
    what : str
        What to call it.
    """
    data = fitting(layers, X, Y, what)
    if data.n_samples == 0:
        raise DataError(f"the {what} data has no samples")
    return data


def fitting(layers: LayerStack, X, Y, what: str) -> Dataset:
    """Return the data set, or raise DataError if the network cannot use it; the parameters are those of ``checked``."""
    data = Dataset.from_arrays(X, Y, name=what)
    if (data.n_features, data.n_labels) != (layers.n_features, layers.n_labels):
        raise DataError(
            f"the {what} data has {data.n_features:,} features and {data.n_labels:,} labels, "
            f"the network {layers.n_features:,} and {layers.n_labels:,}"
        )
    return data


def check_labels(counts: np.ndarray) -> None:
    """Raise DataError if no sample has a label.

    Parameters
    ----------
    counts : int array [n_labels]
    """
    if not counts.any():
        raise DataError("no training sample has a label: there is nothing to learn")


def training_needs(
    n_features: int, n_labels: int, config: NetworkConfig, training: TrainingConfig, batch: BatchShape
) -> dict[str, int]:
    """Return the bytes of a network's large arrays and of all that training it takes besides, by name.

    Parameters
    ----------
    n_features, n_labels : int
    config : NetworkConfig
    training : TrainingConfig
    batch : BatchShape
    """
    needs = bytes_needed(n_features, n_labels, config, batch=batch)
    if training.keeps_best:
        units = [layer.units for layer in config.hidden]
        needs["copy of the best weights"] = 4 * n_parameters([n_features, *units, n_labels])
    return needs


def check_training(layers: LayerStack, X: csr_matrix, Y: csr_matrix, training: TrainingConfig) -> None:
    """Refuse to train a new network where what that takes besides is more than the memory available.

    Parameters
    ----------
    layers : LayerStack
        One that was trained before has that memory already.
    X, Y : csr_matrix
    training : TrainingConfig

    Raises
    ------
    MemoryError
        As ``check_fit`` does.
    """
    if layers.step:
        return
    sizes, batch = (layers.n_features, layers.n_labels, layers.config), BatchShape.of(X, Y, training.batch_size)
    there = bytes_needed(*sizes)
    more = {name: size for name, size in training_needs(*sizes, training, batch).items() if name not in there}
    check_fit(more, layers.config.hugepages, "choose a smaller TrainingConfig.batch_size")
