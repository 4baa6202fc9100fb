"""The training loop: epochs, shuffling, evaluation on the way, history."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_matrix

from slide import initial, metrics
from slide.blas import one_blas_thread
from slide.config import TrainingConfig
from slide.data.batches import epoch_order
from slide.data.dataset import DataError, Dataset
from slide.kernels import dtypes

log = logging.getLogger("slide")

SMOOTHING = 0.98
"""Weight of the past in the running loss and precision."""


@dataclass
class Progress:
    """Where training stands; what callbacks are given. Do not modify it.

    Attributes
    ----------
    epoch, batch : int
        Counted from 1; `batch` goes on over all epochs.
    batches : int
        Of the whole run.
    samples : int
        Seen so far, over all epochs.
    loss, precision, active : float
        Running means of the batches' loss, of P@1 among the active neurons, and of active neurons a sample.
    seconds : float
        Spent on training, evaluation not counted.
    quality : dict
        Metrics of the last evaluation, such as ``{"P@1": 0.5}``; empty before the first.
    """

    epoch: int = 0
    batch: int = 0
    batches: int = 0
    samples: int = 0
    loss: float = float("nan")
    precision: float = float("nan")
    active: float = float("nan")
    seconds: float = 0.0
    quality: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Epoch:
    """One pass over the data, as it was.

    Attributes
    ----------
    epoch : int
    batches : int
    loss, precision, active : float
        Means over the epoch.
    seconds : float
        Spent on training.
    quality : dict
        Metrics at its end; empty without validation data.
    """

    epoch: int
    batches: int
    loss: float
    precision: float
    active: float
    seconds: float
    quality: dict[str, float]


@dataclass
class History:
    """What ``fit`` returns.

    Attributes
    ----------
    epochs : list of Epoch
        The last may be incomplete.
    batches : int
    train_seconds : float
        Rehashing counted, evaluation not.
    rehash_seconds : float
        Of these, spent on the hash tables of all layers.
    active_per_sample : float
        Mean number of active output neurons.
    stopped : bool
        Whether a callback ended the run early.
    """

    epochs: list[Epoch] = field(default_factory=list)
    batches: int = 0
    train_seconds: float = 0.0
    rehash_seconds: float = 0.0
    active_per_sample: float = 0.0
    stopped: bool = False

    @property
    def ms_per_batch(self) -> float:
        """Mean milliseconds of a batch, rehashing counted; 0 before the first."""
        return 1e3 * self.train_seconds / self.batches if self.batches else 0.0

    @property
    def rehash_share(self) -> float:
        """Share of the training time spent on hash tables; 0 before the first batch."""
        return self.rehash_seconds / self.train_seconds if self.train_seconds else 0.0


Callback = Callable[[Progress], "bool | None"]


def fit(
    network,
    X: csr_matrix,
    Y: csr_matrix,
    *,
    config: TrainingConfig | None = None,
    validation: tuple[csr_matrix, csr_matrix] | None = None,
    mask_inputs: bool = False,
    label_weights: np.ndarray | None = None,
    on_batch: Callback | None = None,
    on_epoch: Callback | None = None,
) -> History:
    """Train a network.

    Parameters
    ----------
    network : Network
    X : sparse or dense matrix, shape (n, n_features)
    Y : sparse or dense matrix, shape (n, n_labels)
        Positive where a point has a label.
    config : TrainingConfig, optional
    validation : pair of matrices, optional
        On at most ``config.eval_points`` of these, drawn at random, quality is measured at the end of each epoch.
    mask_inputs : bool
        In those evaluations never predict a label whose id is one of the point's features.
    label_weights : float array [n_labels], optional
        What each label's target, or with one-vs-all losses its own term, is multiplied by: finite, 0 or more, and used
        as they are. They take the place of those that ``network.config.output.label_weights`` names.
    on_batch, on_epoch : callable, optional
        Called with the `Progress` after every batch and, once quality is measured, every epoch. Training ends
        after the batch if one returns True.

    Returns
    -------
    History

    Raises
    ------
    DataError
        The data is not finite, has no points, or does not fit the network.
    FloatingPointError
        The loss became NaN or infinite.
    ValueError
        `label_weights` are not as they should be, or there are too few points to estimate propensities.

    Notes
    -----
    The order of the data is drawn anew for each epoch from the network's seed and the epoch's number, so the same
    call on a network in the same state gives the same weights to the bit, at any number of threads.
    """
    config = config or TrainingConfig()
    data = _checked(network, X, Y, "training")
    probe = None
    if validation is not None and config.eval_points:
        probe = _checked(network, *validation, "validation")
        if probe.n_points > config.eval_points:
            rng = np.random.default_rng(network.config.seed)
            probe = probe.subset(np.sort(rng.permutation(probe.n_points)[: config.eval_points]))
    if data.Y.nnz == 0:
        raise DataError("no training point has a label: there is nothing to learn")

    counts = np.bincount(data.Y.indices, minlength=data.n_labels)
    if label_weights is None and network.config.output.label_weights == "propensity":
        inverse = metrics.propensities(data.Y)
        label_weights = inverse * (counts.sum() / (counts @ inverse))
    network.output.set_label_weights(label_weights)
    network.output.set_label_frequency(counts / data.n_points, points=data.n_points)
    if network.trainable and network.step == 0:
        initial.start(network, data)
    reader = network.reader(data.X, data.Y, config.batch_size)
    per_epoch = -(-data.n_points // config.batch_size)
    progress = Progress(batches=min(config.epochs * per_epoch, config.max_batches or config.epochs * per_epoch))
    history = History()
    rehashed_before = network.rehash_seconds
    while progress.batch < progress.batches and not history.stopped:
        progress.epoch += 1
        with one_blas_thread():
            record = _run_epoch(network, data, reader, config, progress, history, on_batch)
        history.rehash_seconds = network.rehash_seconds - rehashed_before
        if probe is not None and not history.stopped:
            progress.quality = network.evaluate(probe.X, probe.Y, mask_inputs=mask_inputs)
        history.epochs.append(Epoch(**record, quality=progress.quality))
        log.debug("epoch %d: %s", progress.epoch, history.epochs[-1])
        if on_epoch is not None and on_epoch(progress):
            history.stopped = True
    return history


def _run_epoch(network, data, reader, config, progress, history, on_batch):
    """Train on one pass over the data, or what is left of the run; return the fields of its Epoch but the quality."""
    if config.shuffle:
        order = epoch_order(data.n_points, network.config.seed, progress.epoch)
    else:
        order = np.arange(data.n_points, dtype=dtypes.OFFSET)
    totals = np.zeros(3)
    batches, began = 0, progress.seconds
    for first in range(0, data.n_points, config.batch_size):
        if progress.batch >= progress.batches:
            break
        rows = order[first : first + config.batch_size]
        start = time.perf_counter()
        # The linear schedule reaches zero one batch after the last, so that every batch counts.
        factor = 1.0 - progress.batch / progress.batches if config.schedule == "linear" else 1.0
        stats = network.train_batch(reader.read(rows), lr_factor=factor)
        progress.seconds += time.perf_counter() - start
        batches += 1
        progress.batch += 1
        progress.samples += len(rows)
        figures = np.array([stats.loss, stats.precision, stats.active])
        totals += figures
        if progress.batch == 1:
            running = figures
        else:
            past = np.array([progress.loss, progress.precision, progress.active])
            running = SMOOTHING * past + (1 - SMOOTHING) * figures
        progress.loss, progress.precision, progress.active = map(float, running)
        if on_batch is not None and on_batch(progress):
            history.stopped = True
            break
    # Whether or not anything evaluates the network here: looking at a run must not change it.
    start = time.perf_counter()
    network.settle()
    progress.seconds += time.perf_counter() - start
    history.active_per_sample += float(totals[2] - batches * history.active_per_sample) / progress.batch
    history.batches = progress.batch
    history.train_seconds = progress.seconds
    loss, precision, active = map(float, totals / batches)
    return {
        "epoch": progress.epoch,
        "batches": batches,
        "loss": loss,
        "precision": precision,
        "active": active,
        "seconds": progress.seconds - began,
    }


def _checked(network, X, Y, what):
    """Return the data set, or raise DataError if the network cannot use it."""
    data = Dataset.from_arrays(X, Y, name=what)
    if data.n_points == 0:
        raise DataError(f"the {what} data has no points")
    if (data.n_features, data.n_labels) != (network.n_features, network.n_labels):
        raise DataError(
            f"the {what} data has {data.n_features:,} features and {data.n_labels:,} labels, "
            f"the network {network.n_features:,} and {network.n_labels:,}"
        )
    return data
