"""Training on a stream: an iterator of blocks of samples in place of a data set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
from scipy.sparse import csr_matrix, vstack

from slide.config import ConfigError, TrainingConfig
from slide.data.batches import Batch
from slide.data.dataset import DataError, Dataset, MatrixLike
from slide.kernels import dtypes
from slide.model.base import BaseNetwork
from slide.model.output import OutputLayer
from slide.system.guard import trains
from slide.train.callbacks import Callback, Callbacks, Run
from slide.train.feed import fitting
from slide.train.learning_rate import lr_factor
from slide.train.records import Epoch, History, Progress
from slide.train.tolerance import Tolerance

RECOUNT = 1.1
"""Growth of the number of samples after which the output layer gets new frequencies of the labels: a factor."""


@trains
def fit_stream(
    network: BaseNetwork,
    blocks: Iterable[tuple[MatrixLike, MatrixLike]],
    *,
    config: TrainingConfig | None = None,
    label_frequency: np.ndarray | None = None,
    label_weights: np.ndarray | None = None,
    callbacks: Iterable[Callback | Callable[[Progress], bool | None]] = (),
) -> History:
    """Train a network on an iterator of blocks; see `Network.fit_stream` for parameters, result and errors."""
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
                # Without a limit, the number of batches is unknown; the factor then does not depend on it.
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


def _check_config(network: BaseNetwork, config: TrainingConfig, label_weights: np.ndarray | None) -> None:
    """Raise ConfigError for settings that need all of the data, or its length."""
    fresh, output = network.step == 0, network.config.output
    for given, what, instead in (
        (config.needs_validation or config.holdout, "holdout, patience and keep_best", "evaluate in a callback"),
        (
            config.schedule == "step",
            'schedule "step", which counts epochs',
            "choose linear, cosine, inverse_sqrt or constant",
        ),
        (
            config.max_batches is None and 0 < config.warmup < 1,
            "a warmup that is a share of the run",
            "set max_batches, or set warmup to a number of batches",
        ),
        (
            output.label_weights == "propensity" and label_weights is None,
            'label_weights "propensity"',
            "pass label_weights to fit_stream",
        ),
        (
            fresh and network.config.feature_weights == "idf",
            'feature_weights "idf"',
            'choose "none", and multiply the features of the stream with weights yourself',
        ),
        (fresh and output.init == "mean", 'init "mean"', 'choose "random"'),
    ):
        if given:
            raise ConfigError(f"a stream does not allow {what}: {instead}, or train on a converted folder")


def _batches(
    network: BaseNetwork, blocks: Iterable[tuple[MatrixLike, MatrixLike]], size: int, progress: Progress
) -> Iterator[Batch]:
    """Yield batches of `size` samples; the last has the rest."""
    waiting: list[Dataset] = []
    n_waiting = 0
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


def _read(network: BaseNetwork, data: Dataset, size: int, first: int, stop: int) -> Iterator[Batch]:
    """Yield batches of `size` samples, from sample `first` to before `stop`."""
    if first < stop:
        reader = network.reader(data.X, data.Y, size)
        for start in range(first, stop, size):
            yield reader.read(np.arange(start, min(start + size, stop), dtype=dtypes.OFFSET))


def _joined(pieces: list[Dataset]) -> Dataset:
    if len(pieces) == 1:
        return pieces[0]
    X, Y = (vstack([getattr(piece, name) for piece in pieces], "csr", dtypes.VALUE) for name in ("X", "Y"))
    return Dataset(csr_matrix(X), csr_matrix(Y))


def _checked(network: BaseNetwork, block: object, number: int, progress: Progress) -> Dataset:
    """Return a block as a data set, or raise DataError with its number."""
    try:
        if not isinstance(block, (tuple, list)) or len(block) != 2:
            raise DataError(f"it is {type(block).__name__}, not a pair of matrices (X, Y)")
        X, Y = block
        return fitting(network.layers, X, Y, "block's")
    except ValueError as error:
        raise DataError(
            f"block {number} of the stream: {error}; the {progress.batch:,} batches before it have been trained on"
        ) from error


class _Frequency:
    """Counts how frequent labels are, and gives the output layer their frequencies as the number of samples grows.

    `known` are frequencies by label, float [n_labels]: nothing is counted then.
    """

    def __init__(self, output: OutputLayer, known: np.ndarray | None):
        self._output = output
        self._counts: np.ndarray | None = None
        if known is not None:
            output.set_label_frequency(known)
            return
        frequency, samples = output.label_frequency or (np.zeros(output.table.n_rows), 0)
        self._samples: float = samples
        self._counts = frequency * samples
        self._due: float = samples

    def count(self, batch: Batch) -> None:
        """Count the labels of a batch, before the network trains on it."""
        if self._counts is None:
            return
        np.add.at(self._counts, batch.labels, 1)
        self._samples += len(batch)
        if self._samples >= self._due:
            self.publish()
            self._due = RECOUNT * self._samples

    def publish(self) -> None:
        """Give the output layer the frequencies so far."""
        if self._counts is not None and self._samples:
            # For a label that every sample has, rounding could make the quotient exceed 1.
            self._output.set_label_frequency(np.minimum(self._counts / self._samples, 1), samples=self._samples)
