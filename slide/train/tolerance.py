"""What a run does about numerical faults: it stops, or leaves batches out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from slide.data.batches import Batch
from slide.model.base import BaseNetwork, BatchStats
from slide.model.faults import NumericalFault, check_network
from slide.train.records import Progress

log = logging.getLogger("slide")


PATIENCE = 10
"""Batches left out in a row after which a run ends all the same: it is not the batches then."""

TOLD = 10
"""Batches left out of which each is logged; then every hundredth is."""

SMALL = 1 << 26
"""Networks of up to so many bytes are checked after every epoch."""

SPEED, WORTH = 2e9, 30
"""Larger networks, which are checked at `SPEED` bytes per second, are checked only after `WORTH` times as long in
training."""


class Tolerance:
    """Trains on a run's batches, and does about numerical faults what the run was asked to.

    Parameters
    ----------
    on_fault : str
        ``"stop"`` or ``"skip"``; see `slide.TrainingConfig`.
    progress : Progress
        Of the run; a batch that is left out is counted there.
    keep : callable, optional
        Told of a fault that ends the run; returns the newest checkpoint, or None.
    """

    def __init__(
        self, on_fault: str, progress: Progress, keep: Callable[[NumericalFault], Path | None] | None = None
    ):
        self._skips = on_fault == "skip"
        self._progress = progress
        self._keep = keep
        self._checked = progress.seconds

    def train(self, network: BaseNetwork, batch: Batch, lr_factor: float) -> BatchStats | None:
        """Train on a batch; return None if it was left out.

        Parameters
        ----------
        network : BaseNetwork
        batch : Batch
        lr_factor : float

        Raises
        ------
        NumericalFault
            The run is to stop at faults, the fault is not the batch's alone, or too many were left out in a row.
        """
        progress = self._progress
        try:
            stats = network.train_batch(batch, lr_factor=lr_factor)
        except NumericalFault as fault:
            if not self._skips or not fault.harmless:
                raise fault.with_context(f"batch {progress.batch + 1:,}: ", self._last_good(fault)) from None
            if progress.skipped_in_a_row + 1 >= PATIENCE:
                many = f"batch {progress.batch + 1:,} is the {PATIENCE}th in a row that had to be left out: "
                raise fault.with_context(many, self._last_good(fault)) from None
            progress.skip_batch(batch.n_samples)
            if progress.skipped <= TOLD or progress.skipped % 100 == 0:
                log.warning("batch %s is left out, %s so far: %s", f"{progress.batch:,}", progress.skipped, fault)
            return None
        progress.skipped_in_a_row = 0
        return stats

    def check(self, network: BaseNetwork) -> None:
        """Look through all the network has learnt, unless that would cost more than a few hundredths of the run.

        Raises
        ------
        NumericalFault
            Something is not finite.
        """
        nbytes = sum(layer.table.buffer.nbytes for layer in network.layers)
        if nbytes > SMALL and self._progress.seconds - self._checked < WORTH * nbytes / SPEED:
            return
        self._checked = self._progress.seconds
        try:
            check_network(network.layers)
        except NumericalFault as fault:
            raise fault.with_context(f"after batch {self._progress.batch:,}: ", self._last_good(fault)) from None

    def _last_good(self, fault):
        path = None if self._keep is None else self._keep(fault)
        if path is None:
            return ""
        more = ""
        if fault.harmless and not self._skips:
            more = ', and resuming with on_fault "skip" leaves such batches out'
        return f". The last good checkpoint is {path}: Network.load gives that network, for other settings{more}"
