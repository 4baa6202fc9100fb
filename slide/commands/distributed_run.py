"""``slide train --distributed``: the run of `slide.commands.train` on all ranks that mpiexec has started.

Rank 0 logs, prints, saves and writes the history; the others say nothing unless they fail.
"""

from __future__ import annotations

import argparse
import logging
import signal

from slide import metrics
from slide.commands import train
from slide.commands.console import log
from slide.commands.reference_run import read_reference, reference_data
from slide.data.dataset import Dataset, is_mapped
from slide.data.statistics import column_counts
from slide.distributed import DistributionConfig, own_rows
from slide.network import Network
from slide.ranks.comm import Ranks, mpi
from slide.ranks.failures import aborting, on_root
from slide.ranks.grid import shares_for
from slide.ranks.shares import rows_of
from slide.runs import plots
from slide.runs.display import TrainingDisplay
from slide.runs.history import HistoryFile, read_history
from slide.runs.tensorboard import TensorBoard
from slide.system.extras import MissingExtra
from slide.train.checkpoints import Checkpoints, SavedRun, newest
from slide.train.interrupts import StopSignals


def run(args: argparse.Namespace) -> int:
    """Train a network on all ranks; see `slide.commands.train.run`, whose exit statuses it has."""
    world = mpi().COMM_WORLD
    if world.Get_rank():
        log.setLevel(logging.WARNING)
    try:
        with aborting(world.Dup()):
            return _run(args, world)
    except (ValueError, OSError, MemoryError, FloatingPointError, MissingExtra):
        # All ranks have failed alike: one tells.
        if world.Get_rank():
            return 1
        raise


def _run(args, comm):
    ranks = Ranks(comm.Dup())
    if ranks.size == 1:
        log.warning("there is one rank; mpiexec -n 4 slide train ... --distributed starts four")
    settings = read_reference(args)
    # The newest checkpoint for one rank is that for all.
    resume = on_root(ranks, lambda: args.resume and newest(args.resume))
    resume = ranks.bcast("control", resume)
    saved = None if resume is None else SavedRun(resume)
    config = train.run_config(args, settings, saved)
    shares = args.shares
    if saved is not None:
        saved.check_config(config.network, config.training)
        shares = shares or shares_for(ranks.size, saved.shares)
    distribution = DistributionConfig(
        args.label_shards,
        args.data_shards,
        shares=shares,
        shard_features=args.shard_features,
        average_every=args.average_every,
        keep_rows=args.keep_rows or 1.0,
    )
    path = args.out or train.destination(args.resume)
    folder = path.with_name(path.name + train.CHECKPOINTS)
    checkpoints = Checkpoints(folder, every=args.checkpoint_every, keep=args.keep)
    on_root(ranks, lambda: checkpoints.begin(saved))
    callbacks = on_root(ranks, lambda: _callbacks(args, settings, path)) or []
    data, test = _read(args, settings, ranks)
    counts, n_points, name = column_counts(data.Y), data.n_points, repr(data)
    data = _own(data, config.training.batch_size, comm, shares)
    network = Network(
        data.n_features, data.n_labels, config.network, threads=args.threads, comm=comm, distribution=distribution
    )
    log.info("training on %s, %r, threads: %d each", name, network.grid, network.threads)
    if saved is not None:
        log.info("going on from %s, batch %s", saved.path, f"{saved.batch:,}")
    if args.checkpoint_every is not None:
        log.info("should a rank die, the job ends: go on on any number of ranks, with --resume %s", folder)
    display = TrainingDisplay("validation" if config.training.holdout else "test", config.training.monitor)
    with StopSignals() as stop:
        history = network.fit(
            data.X,
            data.Y,
            config=config.training,
            validation=None if test is None or config.training.holdout else (test.X, test.Y),
            mask_inputs=args.mask_inputs,
            callbacks=[*callbacks, display, stop],
            checkpoints=checkpoints,
            resume=None if saved is None else saved.path,
            own_points=True,
        )
    signum = ranks.bcast("control", stop.signum)
    if signum is not None:
        signal_name = signal.Signals(signum).name
        if network.leads:
            log.warning("stopped by %s after %s batches; saving what was learnt", signal_name, f"{history.batches:,}")
    if config.training.needs_validation and history.best_epoch is not None:
        log.info("%s", train.course(history, config.training))
    received = ", ".join(f"{kind} {size:,.0f}" for kind, size in history.bytes_per_batch.items())
    log.info("received in a batch, bytes: %s", received or "none")
    network.save(path, beside=train.beside(callbacks[0].path, path) if callbacks else None)
    log.info("saved %r in %s", network, path)
    if history.stopped and checkpoints.latest is not None:
        log.info("the run goes on with the same command and --resume %s", checkpoints.folder)
    quality = {}
    if test is not None and signum is None:
        log.info("evaluating on %r", test)
        inv_propensity = metrics.inverse_propensities(counts, n_points) if n_points >= 3 else None
        quality = network.evaluate(
            test.X, test.Y, ks=train.KS, inv_propensity=inv_propensity, mask_inputs=args.mask_inputs
        )
    on_root(ranks, lambda: _tell(args, network, history, display, callbacks, quality, counts, test, path))
    return 0 if signum is None else 128 + signum


def _callbacks(args, settings, path):
    """What follows the run on rank 0, the history first; where things are to go is checked."""
    train.check_destination(path, args.tensorboard)
    if args.plot is not None:
        plots.check(args.plot)
    history = HistoryFile(train.history_of(path), data=train.data_names(args, settings))
    return [history] if args.tensorboard is None else [history, TensorBoard(args.tensorboard)]


def _read(args, settings, ranks):
    """The training set and the test set, or None; of each machine one rank reads first, and fills the cache."""
    here = ranks.comm.Split_type(mpi().COMM_TYPE_SHARED)
    if here.Get_rank():
        here.Barrier()
    try:
        return train.training_data(args) if settings is None else reference_data(args, settings)
    finally:
        # Also where it failed: the others then fail alike.
        if not here.Get_rank():
            here.Barrier()


def _own(data: Dataset, batch_size: int, comm, shares: int | None) -> Dataset:
    """The points of this rank; the others' are let go."""
    rows = own_rows(data.n_points, batch_size, comm, shares)
    return rows_of(data, rows) if is_mapped(data.X) else data.subset(rows)


def _tell(args, network, history, display, callbacks, quality, counts, test, path):
    popular = None
    if quality:
        callbacks[0].tested(quality, test.n_points)
        popular = None if args.mask_inputs else train.popular_baseline(counts, test)
    train.report(args, network, history, display.progress, quality, popular, path)
    if args.plot is not None:
        plots.draw([read_history(callbacks[0].path)], args.plot)
        log.info("drew %s", args.plot)
