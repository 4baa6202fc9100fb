"""``slide train --distributed``: the run on all ranks that mpiexec has started.

Rank 0 logs, prints and writes the history; the others print nothing unless they fail.
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
from slide.ranks.comm import Ranks, mpi
from slide.ranks.failures import aborting, on_root
from slide.ranks.grid import portions_for
from slide.ranks.network import DistributedNetwork
from slide.ranks.portions import own_rows, rows_of
from slide.system.extras import MissingExtra
from slide.train.checkpoints import SavedRun, newest
from slide.train.records import History

T = TypeVar("T")


def execute(args: argparse.Namespace) -> int:
    """Train a network on all ranks; return the exit status of `slide.commands.training_run.train_and_save`."""
    world = mpi().COMM_WORLD
    if world.Get_rank():
        log.setLevel(logging.WARNING)
    try:
        with aborting(world.Dup()):
            return training_run.train_and_save(args, OnRanks(world, args))
    except (ValueError, OSError, MemoryError, FloatingPointError, MissingExtra):
        # All ranks have failed alike: one of them reports it.
        if world.Get_rank():
            return 1
        raise


class OnRanks(training_run.Group[DistributedNetwork]):
    """The ranks of an mpi4py communicator, which make a run together; `args` are the options of ``slide train``."""

    def __init__(self, comm: Any, args: argparse.Namespace):
        self._comm, self._ranks, self._args = comm, Ranks(comm.Dup()), args
        self.leads = self._ranks.rank == 0
        self._portions: int | None = args.portions
        if self._ranks.size == 1:
            log.warning("there is only one rank; mpiexec -n 4 slide train ... --distributed starts four")

    def on_root(self, call: Callable[[], T]) -> T | None:
        """See `Group.on_root`."""
        return on_root(self._ranks, call)

    def bcast(self, value: T) -> T:
        """See `Group.bcast`."""
        return self._ranks.bcast("control", value)

    def saved_run(self, args: argparse.Namespace) -> SavedRun | None:
        """See `Group.saved_run`; rank 0 chooses the newest checkpoint for all."""
        resume = self.bcast(self.on_root(lambda: None if args.resume is None else newest(args.resume)))
        if resume is None:
            return None
        saved = SavedRun(resume)
        self._portions = self._portions or portions_for(self._ranks.size, saved.portions)
        return saved

    def read(self, call: Callable[[], T]) -> T:
        """See `Group.read`; one rank per machine reads first and fills the cache."""
        here = self._ranks.comm.Split_type(mpi().COMM_TYPE_SHARED)
        if here.Get_rank():
            here.Barrier()
        try:
            return call()
        finally:
            # Also after a failure: the other ranks then fail in the same way.
            if not here.Get_rank():
                here.Barrier()

    def own(self, data: Dataset, config: TrainingConfig) -> Dataset:
        """See `Group.own`; the samples of the other ranks are freed."""
        rows = own_rows(data.n_samples, config.batch_size, self._comm, self._portions)
        return rows_of(data, rows) if is_mapped(data.X) else data.subset(rows)

    def make_network(self, data: Dataset, config: RunConfig, threads: int | None) -> DistributedNetwork:
        """See `Group.make_network`."""
        args = self._args
        distribution = DistributionConfig(
            args.label_shards,
            args.data_shards,
            portions=self._portions,
            shard_features=args.shard_features,
            average_every=args.average_every,
            keep_rows=args.keep_rows or 1.0,
        )
        return DistributedNetwork(
            data.n_features,
            data.n_labels,
            config.network,
            threads=threads,
            comm=self._comm,
            distribution=distribution,
        )

    def describe(self, network: DistributedNetwork) -> str:
        """See `Group.describe`."""
        return f"{network.grid!r}, threads: {network.threads} each"

    def fit(self, network: DistributedNetwork, data: Dataset, **options: Any) -> History:
        """See `Group.fit`."""
        if self._args.checkpoint_every is not None:
            folder = options["checkpoints"].folder
            log.info("if a rank dies, the job ends; --resume %s goes on, on any number of ranks", folder)
        return network.fit(data.X, data.Y, own_samples=True, **options)

    def trained(self, history: History) -> None:
        """See `Group.trained`."""
        received = ", ".join(f"{kind} {size:,.0f}" for kind, size in history.bytes_per_batch.items())
        log.info("received per batch, bytes: %s", received or "none")

    def save(self, network: DistributedNetwork, path: Path, beside: dict[str, bytes]) -> None:
        """See `Group.save`; all ranks write."""
        network.save(path, beside=beside)
