"""The training loop: epochs, shuffling, evaluation on the way, history."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from slide import metrics
from slide.access import runs
from slide.blas import one_blas_thread
from slide.callbacks import Callback, Callbacks, Run
from slide.config import ConfigError, TrainingConfig
from slide.faults import Tolerance
from slide.learning_rate import lr_factor
from slide.resume import Checkpoints, SavedRun, facts_of
from slide.run_state import RunState
from slide.stopping import BestEpoch

if TYPE_CHECKING:
    from slide.network import BatchStats

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
        Of the whole run; 0 where nobody knows.
    samples : int
        Seen so far, over all epochs.
    skipped, skipped_in_a_row : int
        Of the batches those that were left out for a numerical fault, and how many the last ones were.
    loss, precision, active : float
        Running means of the batches' loss, of P@1 among the active neurons, and of active neurons a sample.
    lr : float
        Learning rate of the last batch.
    seconds : float
        Spent on training, evaluation and callbacks not counted.
    rehash_seconds : float
        Of these, spent on the hash tables of all layers.
    quality : dict
        Metrics of the last evaluation, such as ``{"P@1": 0.5}``; empty before the first.
    finished : Epoch or None
        The last epoch that is over.
    """

    epoch: int = 0
    batch: int = 0
    batches: int = 0
    samples: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    loss: float = float("nan")
    precision: float = float("nan")
    active: float = float("nan")
    lr: float = float("nan")
    seconds: float = 0.0
    rehash_seconds: float = 0.0
    quality: dict[str, float] = field(default_factory=dict)
    finished: Epoch | None = None

    def advance(self, stats: BatchStats, points: int) -> np.ndarray:
        """Count a batch in; return its loss, precision and active neurons a sample."""
        self.batch += 1
        self.samples += points
        figures = np.array([stats.loss, stats.precision, stats.active])
        if self.batch - self.skipped == 1:
            running = figures
        else:
            running = SMOOTHING * np.array([self.loss, self.precision, self.active]) + (1 - SMOOTHING) * figures
        self.loss, self.precision, self.active = map(float, running)
        return figures

    def pass_over(self, points: int) -> None:
        """Count a batch in that was left out."""
        self.batch += 1
        self.samples += points
        self.skipped += 1
        self.skipped_in_a_row += 1


@dataclass(frozen=True)
class Epoch:
    """One pass over the data, as it was.

    Attributes
    ----------
    epoch : int
    batches : int
    loss, precision, active : float
        Means over the epoch; NaN if every batch was left out.
    seconds : float
        Spent on training.
    quality : dict
        Metrics at its end; empty if none were measured.
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
    skipped : int
        Batches that were left out for a numerical fault.
    stopped : bool
        Whether a callback ended the run early.
    out_of_patience : bool
        Whether ``config.patience`` epochs without improvement ended the run.
    best_epoch : int or None
        The epoch that was best by ``config.monitor``; None before one was measured.
    best_quality : dict
        Its metrics; empty before one was measured.
    bytes_per_batch : dict
        Of a run over several ranks: what this rank received of the others in a batch, on average, by kind.
    error : str or None
        The exception that ended the run, for the callbacks to see.
    """

    epochs: list[Epoch] = field(default_factory=list)
    batches: int = 0
    train_seconds: float = 0.0
    rehash_seconds: float = 0.0
    active_per_sample: float = 0.0
    skipped: int = 0
    stopped: bool = False
    out_of_patience: bool = False
    best_epoch: int | None = None
    best_quality: dict[str, float] = field(default_factory=dict)
    bytes_per_batch: dict[str, float] = field(default_factory=dict)
    error: str | None = None

    @property
    def ms_per_batch(self) -> float:
        """Mean milliseconds of a batch, rehashing counted; 0 before the first."""
        return 1e3 * self.train_seconds / self.batches if self.batches else 0.0

    @property
    def rehash_share(self) -> float:
        """Share of the training time spent on hash tables; 0 before the first batch."""
        return self.rehash_seconds / self.train_seconds if self.train_seconds else 0.0


@runs
def fit(
    network,
    X: csr_matrix,
    Y: csr_matrix,
    *,
    config: TrainingConfig | None = None,
    validation: tuple[csr_matrix, csr_matrix] | None = None,
    mask_inputs: bool = False,
    label_weights: np.ndarray | None = None,
    callbacks: Iterable[Callback | Callable[[Progress], bool | None]] = (),
    checkpoints: Checkpoints | None = None,
    resume: str | os.PathLike | None = None,
) -> History:
    """Train a network.

    Parameters
    ----------
    network : Network
    X : sparse or dense matrix, shape (n, n_features)
        Matrices that `slide.data.load` mapped into memory are read a window at a time; see `slide.data.order`.
    Y : sparse or dense matrix, shape (n, n_labels)
        Positive where a point has a label.
    config : TrainingConfig, optional
    validation : pair of matrices, optional
        On at most ``config.eval_points`` of these, drawn at random, quality is measured at the end of epochs: P, nDCG,
        R and, from 3 training points on, PSP, with the propensities of the training labels. Without `validation` they
        are measured on the share ``config.holdout`` of the training points, from which nothing is then learnt; that
        copies data that is in memory. With `validation` ``config.holdout`` has no effect.
    mask_inputs : bool
        In those evaluations never predict a label whose id is one of the point's features.
    label_weights : float array [n_labels], optional
        What each label's target, or with one-vs-all losses its own term, is multiplied by: finite, 0 or more, and used
        as they are. They take the place of those that ``network.config.output.label_weights`` names.
    callbacks : iterable of Callback or callable, optional
        Told of the start, of every batch and epoch, and of the end; each may end the run. A plain function is called
        with the `Progress` after every batch, and ends the run if it returns True. See `slide.callbacks`.
    checkpoints : Checkpoints, optional
        Where and when to write what `resume` takes; see `slide.resume.Checkpoints`. With or without them the run is the
        same to the bit.
    resume : path-like, optional
        A checkpoint, or a folder of which the newest is taken. The run goes on from there to the bits that it would
        have reached uninterrupted, whatever the network has learnt meanwhile; everything else must be what the run
        began with. `config` may be left out.

    Returns
    -------
    History

    Raises
    ------
    CheckpointError
        What is to be resumed is no checkpoint of a run, or is damaged; the network is then not to be used.
    ConfigError
        ``config.patience`` or ``config.keep_best`` is set and there is nothing to measure quality on, or
        ``config.monitor`` cannot be measured on this data, or a setting is not that of the run to be resumed.
    DataError
        The data is not finite, has no points, does not fit the network, or is not that of the run to be resumed.
    MemoryError
        What training takes besides the network is more than the memory that is available; nothing has begun.
    FileExistsError
        The folder for checkpoints has those of another run.
    NumericalFault
        Something became NaN or infinite, or soon would have; a FloatingPointError. The message names layer and batch,
        and the newest checkpoint, which is never of a network that is not finite. See ``config.on_fault``.
    RuntimeError
        Another thread trains the network or predicts with it; see `slide.access`. Or it is not trainable.
    ValueError
        `label_weights` are not as they should be, or there are too few points to estimate propensities.
    TypeError
        `callbacks` are not a list of callbacks.

    Notes
    -----
    The order of the data is drawn anew for each epoch from the network's seed and the epoch's number, so the same
    call on a network in the same state gives the same weights to the bit, at any number of threads. The points that
    are held out are drawn from the seed alone.

    Where the best epoch is kept its weights and biases are copied, 4 bytes each, and put back when the run ends, by
    itself or by a callback, with later batches behind it. ``network.step``, the optimiser's moments and the history
    remain those of the whole run. The network can be trained on: the moments, which belong to the last weights and not
    to the best, fade over the first batches.

    The schedule of the learning rate goes over the epochs planned, also where `patience` ends the run before: a
    decaying run that stops early never sees the low rates at its end, which are worth quality. Such a run tells how
    many epochs to plan for one without `patience`.
    """
    saved = None
    if resume is not None:
        saved = SavedRun(resume)
        saved.check_config(network.config, config)
        config = config or saved.training
    if checkpoints is not None:
        checkpoints.begin(saved)
    config = config or TrainingConfig()
    callbacks = Callbacks(callbacks)
    if config.needs_validation and validation is None and not config.holdout:
        raise ConfigError(
            "TrainingConfig.patience and keep_best need points to measure quality on: give fit validation=(X, Y), or "
            "set TrainingConfig.holdout to the share of the training points to set aside, such as 0.1"
        )
    feed = network.feed(X, Y, config, validation)
    facts = {}
    if checkpoints is not None or saved is not None:
        facts = facts_of(config, feed, mask_inputs, label_weights)
    if saved is not None:
        saved.check_facts(facts)

    counts, n_points = feed.counts, feed.n_points
    if label_weights is None and network.config.output.label_weights == "propensity":
        inverse = metrics.inverse_propensities(counts, n_points)
        label_weights = inverse * (counts.sum() / (counts @ inverse))
    network.output.set_label_weights(label_weights)
    network.output.set_label_frequency(counts / n_points, points=n_points)
    if network.trainable and network.step == 0 and saved is None:
        feed.start()
    inv_propensity = metrics.inverse_propensities(counts, n_points) if feed.n_measured and n_points >= 3 else None
    feed.open()
    per_epoch = feed.per_epoch
    progress = Progress(batches=min(config.epochs * per_epoch, config.max_batches or config.epochs * per_epoch))
    history, best = History(), BestEpoch(config)
    state = RunState(progress, history, best, per_epoch)
    if saved is not None:
        saved.restore(network, state)
        # As the run's first batch did; for a shorter one alone NumPy might round otherwise.
        network.output.expect_batches_of(feed.batch_points)

    def keep(fault):
        """What there was before the fault, where that is known to be sound."""
        return checkpoints.fault_met(network, state, facts, harmless=fault.harmless)

    tolerance = Tolerance(config.on_fault, progress, None if checkpoints is None else keep)
    run, callbacks = Run(network, config, n_points, feed.n_measured, progress), feed.heard(callbacks)
    with callbacks.following(run, history):
        while state.unfinished and not history.stopped:
            state.begin_epoch()
            with one_blas_thread():
                record = _run_epoch(network, feed, config, state, tolerance, callbacks, checkpoints, facts)
            quality, interrupted = {}, history.stopped
            due = progress.epoch % config.eval_every == 0 or progress.batch == progress.batches
            if feed.n_measured and due and not history.stopped:
                quality = feed.evaluate(inv_propensity, mask_inputs)
                progress.quality = quality
                history.out_of_patience = best.measured(progress.epoch, quality, network)
                history.best_epoch, history.best_quality = best.epoch, best.quality
            progress.finished = Epoch(**record, quality=quality)
            history.epochs.append(progress.finished)
            state.under_way = False
            log.debug("epoch %d: %s", progress.epoch, progress.finished)
            if callbacks.on_epoch(progress):
                history.stopped = True
            if checkpoints is not None and not interrupted:
                checkpoints.epoch_done(network, state, facts, stopping=history.stopped)
        best.put_back(network)
    return history


def known_propensities(Y: csr_matrix) -> np.ndarray | None:
    """Return the labels' inverse propensities, or None for data too small to estimate them.

    Parameters
    ----------
    Y : csr_matrix, shape (n, n_labels)
        Of the training data.
    """
    return metrics.propensities(Y) if Y.shape[0] >= 3 else None


def _run_epoch(network, feed, config, state, tolerance, callbacks, checkpoints, facts):
    """Train on what is left of an epoch, or of the run; return the fields of its Epoch but the quality."""
    progress, history = state.progress, state.history
    rehashed_before = network.rehash_seconds - progress.rehash_seconds
    for rows in feed.batches(progress.epoch, state.batches):
        if progress.batch >= progress.batches:
            break
        start = time.perf_counter()
        factor = lr_factor(config, progress.batch, progress.batches, state.of_epoch)
        batch = feed.read(rows)
        stats = tolerance.train(network, batch, factor)
        progress.seconds += time.perf_counter() - start
        progress.rehash_seconds = network.rehash_seconds - rehashed_before
        progress.lr = network.config.optimizer.lr * factor
        state.batches += 1
        if stats is None:
            state.skipped += 1
        else:
            state.totals += progress.advance(stats, batch.n_points)
        stopping = callbacks.on_batch(progress)
        if checkpoints is not None:
            checkpoints.batch_done(network, state, facts, stopping=stopping)
        if stopping:
            history.stopped = True
            break
    # Whether or not anything evaluates the network here: looking at a run must not change it.
    start = time.perf_counter()
    network.settle()
    tolerance.check(network)
    progress.seconds += time.perf_counter() - start
    batches, totals = state.batches, state.totals
    learnt, learnt_in_all = batches - state.skipped, max(1, progress.batch - progress.skipped)
    history.active_per_sample += float(totals[2] - learnt * history.active_per_sample) / learnt_in_all
    history.batches, history.skipped = progress.batch, progress.skipped
    history.train_seconds = progress.seconds
    history.rehash_seconds = progress.rehash_seconds
    loss, precision, active = map(float, totals / learnt if learnt else np.full(3, np.nan))
    return {
        "epoch": progress.epoch,
        "batches": batches,
        "loss": loss,
        "precision": precision,
        "active": active,
        "seconds": progress.seconds - state.began,
    }
