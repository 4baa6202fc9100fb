"""``slide train --distributed``: the run on all ranks that mpiexec has started.

Rank 0 logs, prints, saves and writes the history; the others say nothing unless they fail.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from slide.commands import training_run
from slide.commands.console import log
from slide.config import RunConfig, TrainingConfig
from slide.config.distribution import DistributionConfig
from slide.data.dataset import Dataset, is_mapped
from slide.network import Network
from slide.ranks.comm import Ranks, mpi
from slide.ranks.failures import aborting, on_root
from slide.ranks.grid import portions_for
from slide.ranks.portions import own_rows, rows_of
from slide.system.extras import MissingExtra
from slide.train.checkpoints import Checkpoints, SavedRun, newest
from slide.train.records import History

T = TypeVar("T")


def execute(args: argparse.Namespace) -> int:
    """Train a network on all ranks; see `slide.commands.training_run.train_and_save`, whose exit status it has."""
    world = mpi().COMM_WORLD
    if world.Get_rank():
        log.setLevel(logging.WARNING)
    try:
        with aborting(world.Dup()):
            return training_run.train_and_save(args, OnRanks(world, args))
    except (ValueError, OSError, MemoryError, FloatingPointError, MissingExtra):
        # All ranks have failed alike: one tells.
        if world.Get_rank():
            return 1
        raise


class OnRanks(training_run.Alone):
    """The ranks of a communicator, which make a run together; see `slide.commands.training_run.Alone`.

    Parameters
    ----------
    comm : mpi4py communicator
    args : Namespace
        Options of ``slide train``.
    """

    def __init__(self, comm: Any, args: argparse.Namespace):
        self._comm, self._ranks, self._args = comm, Ranks(comm.Dup()), args
        self.leads = self._ranks.rank == 0
        self._portions: int | None = args.portions
        if self._ranks.size == 1:
            log.warning("there is one rank; mpiexec -n 4 slide train ... --distributed starts four")

    def on_root(self, call: Callable[[], T]) -> T | None:
        """See `Alone.on_root`; None on the other ranks."""
        return on_root(self._ranks, call)

    def bcast(self, value: T) -> T:
        """See `Alone.bcast`."""
        return self._ranks.bcast("control", value)

    def saved_run(self, args: argparse.Namespace) -> SavedRun | None:
        """See `Alone.saved_run`; the newest checkpoint for one rank is that for all."""
        resume = self.bcast(self.on_root(lambda: args.resume and newest(args.resume)))
        if resume is None:
            return None
        saved = SavedRun(resume)
        self._portions = self._portions or portions_for(self._ranks.size, saved.portions)
        return saved

    def read(self, call: Callable[[], T]) -> T:
        """See `Alone.read`; one rank of each machine reads first, and fills the cache."""
        here = self._ranks.comm.Split_type(mpi().COMM_TYPE_SHARED)
        if here.Get_rank():
            here.Barrier()
        try:
            return call()
        finally:
            # Also where it failed: the others then fail alike.
            if not here.Get_rank():
                here.Barrier()

    def own(self, data: Dataset, config: TrainingConfig) -> Dataset:
        """See `Alone.own`; the samples of the others are let go."""
        rows = own_rows(data.n_samples, config.batch_size, self._comm, self._portions)
        return rows_of(data, rows) if is_mapped(data.X) else data.subset(rows)

    def make_network(self, data: Dataset, config: RunConfig, threads: int | None) -> Network:
        """See `Alone.make_network`; every rank has its part."""
        args = self._args
        distribution = DistributionConfig(
            args.label_shards,
            args.data_shards,
            portions=self._portions,
            shard_features=args.shard_features,
            average_every=args.average_every,
            keep_rows=args.keep_rows or 1.0,
        )
        return Network(
            data.n_features,
            data.n_labels,
            config.network,
            threads=threads,
            comm=self._comm,
            distribution=distribution,
        )

    def describe(self, network: Any) -> str:
        """See `Alone.describe`."""
        return f"{network.grid!r}, threads: {network.threads} each"

    def fit(self, network: Any, X, Y, **options) -> History:
        """See `Alone.fit`."""
        if self._args.checkpoint_every is not None:
            folder = options["checkpoints"].folder
            log.info("should a rank die, the job ends: go on on any number of ranks, with --resume %s", folder)
        return network.fit(X, Y, own_samples=True, **options)

    def trained(self, history: History, checkpoints: Checkpoints) -> None:
        """See `Alone.trained`."""
        received = ", ".join(f"{kind} {size:,.0f}" for kind, size in history.bytes_per_batch.items())
        log.info("received per batch, bytes: %s", received or "none")

    def save(self, network: Any, path: Path, beside: dict[str, bytes]) -> None:
        """See `Alone.save`; all ranks write."""
        network.save(path, beside=beside)
