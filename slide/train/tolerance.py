"""What a run does about numerical faults: it stops, or skips batches."""

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
"""Number of batches skipped in a row that ends the run: the batches are not the cause then."""

LOGGED = 10
"""Number of skipped batches that are logged one by one; after these, every hundredth is logged."""

SMALL = 1 << 26
"""Largest size, in bytes, of networks that are checked after every epoch."""

SPEED, WORTH = 2e9, 30
"""Bytes per second of a check, and the least ratio of training time to checking time for networks above `SMALL`."""


class Tolerance:
    """Trains on a run's batches, and stops the run at numerical faults or skips the batch, as the run was asked to.

    Parameters
    ----------
    on_fault : str
        ``"stop"`` or ``"skip"``; see `slide.TrainingConfig`.
    progress : Progress
        Progress of the run; skipped batches are counted there.
    keep : callable, optional
        Called with a fault that ends the run; returns the newest checkpoint, or None.
    """

    def __init__(
        self, on_fault: str, progress: Progress, keep: Callable[[NumericalFault], Path | None] | None = None
    ):
        self._skips = on_fault == "skip"
        self._progress = progress
        self._keep = keep
        self._checked = progress.seconds

    def train(self, network: BaseNetwork, batch: Batch, lr_factor: float) -> BatchStats | None:
        """Train on a batch; return None if it was skipped.

        Raises
        ------
        NumericalFault
            The run is to stop at faults, the fault has changed the network, or too many batches were skipped in a row.
        """
        progress = self._progress
        try:
            stats = network.train_batch(batch, lr_factor=lr_factor)
        except NumericalFault as fault:
            if not self._skips or not fault.harmless:
                raise fault.with_context(f"batch {progress.batch + 1:,}: ", self._last_good(fault)) from None
            if progress.skipped_in_a_row + 1 >= PATIENCE:
                many = f"batch {progress.batch + 1:,} is the {PATIENCE}th in a row that had to be skipped: "
                raise fault.with_context(many, self._last_good(fault)) from None
            progress.skip_batch(batch.n_samples)
            if progress.skipped <= LOGGED or progress.skipped % 100 == 0:
                log.warning("batch %s is skipped, %s so far: %s", f"{progress.batch:,}", progress.skipped, fault)
            return None
        progress.skipped_in_a_row = 0
        return stats

    def check(self, network: BaseNetwork) -> None:
        """Raise NumericalFault if anything in the network is not finite.

        Large networks are checked rarely, so that checks take no more than a few hundredths of the training time.
        """
        nbytes = sum(layer.table.buffer.nbytes for layer in network.layers)
        if nbytes > SMALL and self._progress.seconds - self._checked < WORTH * nbytes / SPEED:
            return
        self._checked = self._progress.seconds
        try:
            check_network(network.layers)
        except NumericalFault as fault:
            raise fault.with_context(f"after batch {self._progress.batch:,}: ", self._last_good(fault)) from None

    def _last_good(self, fault: NumericalFault) -> str:
        """Return the end of the message: where the last good checkpoint is."""
        path = None if self._keep is None else self._keep(fault)
        if path is None:
            return ""
        more = ""
        if fault.harmless and not self._skips:
            more = '; to skip such batches, resume with on_fault "skip"'
        return f". The last good checkpoint is {path}: to train with other settings, use Network.load{more}"
