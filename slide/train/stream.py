"""Training on samples as they come: an iterator of blocks in place of a data set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
from scipy.sparse import csr_matrix, vstack

from slide.config import ConfigError, TrainingConfig
from slide.data.batches import Batch
from slide.data.dataset import DataError, Dataset
from slide.kernels import dtypes
from slide.model.base import BaseNetwork
from slide.system.guard import trains
from slide.train.callbacks import Callback, Callbacks, Run
from slide.train.feed import fitting
from slide.train.learning_rate import lr_factor
from slide.train.records import Epoch, History, Progress
from slide.train.tolerance import Tolerance

RECOUNT = 1.1
"""How many times as many samples as at the last count of the labels make the next one due."""


@trains
def fit_stream(
    network: BaseNetwork,
    blocks: Iterable[tuple[csr_matrix, csr_matrix]],
    *,
    config: TrainingConfig | None = None,
    label_frequency: np.ndarray | None = None,
    label_weights: np.ndarray | None = None,
    callbacks: Iterable[Callback | Callable[[Progress], bool | None]] = (),
) -> History:
    """Train a network on an iterator of blocks; see `Network.fit_stream` for the parameters, the result and the errors.

    Parameters
    ----------
    network : BaseNetwork
    """
    config = config or TrainingConfig()
    callbacks = Callbacks(callbacks)
    _check_config(network, config, label_weights)
    network.output.set_label_weights(label_weights)
    frequency = _Frequency(network.output, label_frequency)
    if config.max_batches is None and config.schedule != "constant":
        config = replace(config, schedule="inverse_sqrt")
    limit = config.max_batches or 0
    progress, history, totals = Progress(epoch=1, batches=limit), History(), np.zeros(3)
    rehashed_before = network.rehash_seconds
    tolerance = Tolerance(config.on_fault, progress)
    with callbacks.following(Run(network, config, 0, 0, progress), history):
        try:
            for batch in _batches(network, blocks, config.batch_size, progress):
                start = time.perf_counter()
                frequency.count(batch)
                # The factor does not depend on a length that is not known.
                factor = lr_factor(config, progress.batch, limit or progress.batch + 1, 1)
                stats = tolerance.train(network, batch, factor)
                progress.seconds += time.perf_counter() - start
                progress.rehash_seconds = network.rehash_seconds - rehashed_before
                progress.lr = network.config.optimizer.lr * factor
                if stats is not None:
                    totals += progress.advance(stats, len(batch))
                history.stopped = callbacks.on_batch(progress)
                if history.stopped or progress.batch == limit:
                    break
        finally:
            frequency.publish()
        if not progress.batch:
            raise DataError("the stream has no samples; an iterator that was used before has none left")
        network.settle()
        tolerance.check(network)
        history.rehash_seconds = progress.rehash_seconds
        history.batches, history.train_seconds = progress.batch, progress.seconds
        history.skipped = progress.skipped
        learnt = progress.batch - progress.skipped
        loss, precision, active = map(float, totals / learnt if learnt else np.full(3, np.nan))
        history.active_per_sample = active
        progress.finished = Epoch(1, progress.batch, loss, precision, active, progress.seconds, {})
        history.epochs.append(progress.finished)
        if callbacks.on_epoch(progress):
            history.stopped = True
    return history


def _check_config(network, config, label_weights):
    """Raise ConfigError for what needs more than the next block."""
    fresh, output = network.step == 0, network.config.output
    for given, what, instead in (
        (config.needs_validation or config.holdout, "holdout, patience and keep_best", "evaluate in a callback"),
        (
            config.schedule == "step",
            'schedule "step", which counts epochs,',
            "choose linear, cosine, inverse_sqrt or constant",
        ),
        (
            config.max_batches is None and 0 < config.warmup < 1,
            "a warmup that is a share of the run",
            "give max_batches, or the warm-up's number of batches",
        ),
        (
            output.label_weights == "propensity" and label_weights is None,
            'label_weights "propensity"',
            "give fit_stream the label_weights",
        ),
        (
            fresh and network.config.feature_weights == "idf",
            'feature_weights "idf"',
            'choose "none", and weigh the features of the stream',
        ),
        (fresh and output.init == "mean", 'init "mean"', 'choose "random"'),
    ):
        if given:
            raise ConfigError(f"{what} cannot be had of a stream: {instead}, or train on a folder that was converted")


def _batches(network, blocks, size, progress) -> Iterator[Batch]:
    """Yield batches of `size` samples, the last of what is left."""
    waiting, n_waiting = [], 0
    for number, block in enumerate(blocks, 1):
        data = _checked(network, block, number, progress)
        first = 0
        if n_waiting:
            first = min(size - n_waiting, data.n_samples)
            waiting.append(data.subset(slice(0, first)))
            n_waiting += first
            if n_waiting < size:
                continue
            yield from _read(network, _joined(waiting), size, 0, size)
        stop = data.n_samples - (data.n_samples - first) % size
        yield from _read(network, data, size, first, stop)
        waiting, n_waiting = [data.subset(slice(stop, None))], data.n_samples - stop
    if n_waiting:
        yield from _read(network, _joined(waiting), size, 0, n_waiting)


def _read(network, data, size, first, stop):
    if first < stop:
        reader = network.reader(data.X, data.Y, size)
        for start in range(first, stop, size):
            yield reader.read(np.arange(start, min(start + size, stop), dtype=dtypes.OFFSET))


def _joined(pieces):
    if len(pieces) == 1:
        return pieces[0]
    X, Y = (vstack([getattr(piece, name) for piece in pieces], "csr", dtypes.VALUE) for name in ("X", "Y"))
    return Dataset(csr_matrix(X), csr_matrix(Y))


def _checked(network, block, number, progress):
    """Return a block as a data set, or raise DataError with its number."""
    try:
        if not isinstance(block, (tuple, list)) or len(block) != 2:
            raise DataError(f"it is {type(block).__name__}, not a pair of matrices (X, Y)")
        return fitting(network, *block, "block's")
    except ValueError as error:
        raise DataError(
            f"block {number} of the stream: {error}; the {progress.batch:,} batches before it have been learnt"
        ) from error


class _Frequency:
    """How common labels are, told to an output layer as more and more samples are seen.

    Parameters
    ----------
    output : OutputLayer
    known : float array [n_labels] or None
        Where given nothing is counted.
    """

    def __init__(self, output, known):
        self._output, self._counts = output, None
        if known is not None:
            output.set_label_frequency(known)
            return
        frequency, self._samples = output.label_frequency or (np.zeros(output.table.n_rows), 0)
        self._counts = frequency * self._samples
        self._due = self._samples

    def count(self, batch: Batch) -> None:
        """Count a batch's labels in, before it is trained on."""
        if self._counts is None:
            return
        np.add.at(self._counts, batch.labels, 1)
        self._samples += len(batch)
        if self._samples >= self._due:
            self.publish()
            self._due = RECOUNT * self._samples

    def publish(self) -> None:
        """Tell the output layer what has been counted so far."""
        if self._counts is not None and self._samples:
            # Of a label that every sample has, sums that are rounded differently may exceed 1.
            self._output.set_label_frequency(np.minimum(self._counts / self._samples, 1), samples=self._samples)
