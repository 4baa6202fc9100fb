"""The training loop: epochs, batches, evaluation, checkpoints, history."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from slide import metrics
from slide.config import ConfigError, TrainingConfig
from slide.data.dataset import MatrixLike
from slide.model.base import BaseNetwork
from slide.model.faults import NumericalFault
from slide.system.blas import one_blas_thread
from slide.system.guard import trains
from slide.train.callbacks import Callback, Callbacks, Run
from slide.train.checkpoints import Checkpoints, NoCheckpoints, SavedRun, facts_of
from slide.train.early_stopping import BestEpoch
from slide.train.feed import Feed, RunFeed
from slide.train.learning_rate import lr_factor
from slide.train.records import Epoch, History, Progress
from slide.train.run_state import RunState
from slide.train.tolerance import Tolerance

log = logging.getLogger("slide")


@trains
def fit(
    network: BaseNetwork,
    X: MatrixLike,
    Y: MatrixLike,
    *,
    config: TrainingConfig | None = None,
    validation: tuple[MatrixLike, MatrixLike] | None = None,
    mask_inputs: bool = False,
    label_weights: np.ndarray | None = None,
    callbacks: Iterable[Callback | Callable[[Progress], bool | None]] = (),
    checkpoints: Checkpoints | None = None,
    resume: str | os.PathLike | None = None,
    make_feed: Callable[..., RunFeed] = Feed,
) -> History:
    """Train a network; see `Network.fit` for the parameters, the result and the errors.

    `make_feed` returns the feed of the run, given the layers, X, Y, the configuration and the validation data.
    """
    saved = None
    if resume is not None:
        saved = SavedRun(resume)
        saved.check_config(network.config, config)
        config = config or saved.training
    keeper = NoCheckpoints() if checkpoints is None else checkpoints
    keeper.begin(saved)
    config = config or TrainingConfig()
    callbacks = Callbacks(callbacks)
    if config.needs_validation and validation is None and not config.holdout:
        raise ConfigError(
            "TrainingConfig.patience and keep_best need samples to measure quality on: give fit validation=(X, Y), or "
            "set TrainingConfig.holdout to the share of the training samples to hold out, such as 0.1"
        )
    feed = make_feed(network.layers, X, Y, config, validation)
    facts: dict = {}
    if checkpoints is not None or saved is not None:
        facts = facts_of(config, feed, mask_inputs, label_weights)
    if saved is not None:
        saved.check_facts(facts)

    counts, n_samples = feed.counts, feed.n_samples
    if label_weights is None and network.config.output.label_weights == "propensity":
        inverse = metrics.inverse_propensities(counts, n_samples)
        label_weights = inverse * (counts.sum() / (counts @ inverse))
    network.output.set_label_weights(label_weights)
    network.output.set_label_frequency(counts / n_samples, samples=n_samples)
    if network.trainable and network.step == 0 and saved is None:
        feed.start()
    inv_propensity = metrics.known_propensities(counts, n_samples) if feed.n_measured else None
    feed.open()
    per_epoch = feed.per_epoch
    progress = Progress(batches=min(config.epochs * per_epoch, config.max_batches or config.epochs * per_epoch))
    history, best = History(), BestEpoch(config)
    state = RunState(progress, history, best, per_epoch)
    if saved is not None:
        saved.restore(network, state)
        # Compute the corrections for full batches now, as the first batch of the run did; a shorter batch could round
        # differently.
        network.output.expect_batches_of(feed.batch_samples)

    def keep(fault: NumericalFault) -> Path | None:
        """Save the network as it was before the fault, if it still is; return the newest checkpoint."""
        return keeper.fault_met(network, state, facts, harmless=fault.harmless)

    tolerance = Tolerance(config.on_fault, progress, keep)
    run, callbacks = Run(network, config, n_samples, feed.n_measured, progress), feed.wrap(callbacks)
    with callbacks.following(run, history):
        while state.unfinished and not history.stopped:
            state.begin_epoch()
            with one_blas_thread():
                record = _run_epoch(network, feed, config, state, tolerance, callbacks, keeper, facts)
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
            if not interrupted:
                keeper.epoch_done(network, state, facts, stopping=history.stopped)
        best.put_back(network)
    return history


def _run_epoch(
    network: BaseNetwork,
    feed: RunFeed,
    config: TrainingConfig,
    state: RunState,
    tolerance: Tolerance,
    callbacks: Callbacks,
    keeper: Checkpoints | NoCheckpoints,
    facts: dict,
) -> dict:
    """Train on the rest of an epoch, or of the run; return the fields of its Epoch except the quality."""
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
            state.totals += progress.advance(stats, batch.n_samples)
        stopping = callbacks.on_batch(progress)
        keeper.batch_done(network, state, facts, stopping=stopping)
        if stopping:
            history.stopped = True
            break
    # Settle after every epoch, also where nothing is evaluated: evaluating a run must not change its results.
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
