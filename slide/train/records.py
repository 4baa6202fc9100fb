"""Progress of a run, and what it has done: its epochs and its history."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from slide.model.base import BatchStats

SMOOTHING = 0.98
"""Weight of the past in the running loss and precision."""


@dataclass
class Progress:
    """How far a training run is; callbacks get it. Do not modify it.

    Attributes
    ----------
    epoch : int
        Number of the epoch, counted from 1.
    batch : int
        Number of the last batch, counted from 1 over all epochs.
    batches : int
        Number of batches of the whole run; 0 if unknown, as for streams.
    samples : int
        Number of samples seen so far, over all epochs.
    skipped, skipped_in_a_row : int
        Batches skipped because of a numerical fault: in total, and in a row up to now.
    loss : float
        Running mean of the batches' loss, in nats.
    precision : float
        Running mean of P@1 among the active neurons, from 0 to 1.
    active : float
        Running mean of the number of active neurons per sample.
    lr : float
        Learning rate of the last batch.
    seconds : float
        Time spent on training, without evaluation and callbacks.
    rehash_seconds : float
        Part of `seconds` that was spent on the hash tables of all layers.
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

    def advance(self, stats: BatchStats, samples: int) -> np.ndarray:
        """Count a batch; return its loss, its precision and its active neurons per sample."""
        self.batch += 1
        self.samples += samples
        figures = np.array([stats.loss, stats.precision, stats.active])
        if self.batch - self.skipped == 1:
            running = figures
        else:
            running = SMOOTHING * np.array([self.loss, self.precision, self.active]) + (1 - SMOOTHING) * figures
        self.loss, self.precision, self.active = map(float, running)
        return figures

    def skip_batch(self, samples: int) -> None:
        """Count a batch that was skipped."""
        self.batch += 1
        self.samples += samples
        self.skipped += 1
        self.skipped_in_a_row += 1


@dataclass(frozen=True)
class Epoch:
    """One pass over the data.

    Attributes
    ----------
    epoch : int
        Number of the epoch, counted from 1.
    batches : int
        Number of its batches; fewer than usual if the run ended in it.
    loss : float
        Mean loss of its batches, in nats; NaN if every batch was skipped.
    precision : float
        Mean P@1 among the active neurons, from 0 to 1; NaN if every batch was skipped.
    active : float
        Mean number of active neurons per sample; NaN if every batch was skipped.
    seconds : float
        Time spent on training, without evaluation and callbacks.
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
    """What a run has done; ``fit`` returns it.

    Attributes
    ----------
    epochs : list of Epoch
        All epochs; the last may be incomplete.
    batches : int
        Number of batches.
    train_seconds : float
        Time spent on training, with rehashing, without evaluation and callbacks.
    rehash_seconds : float
        Part of `train_seconds` that was spent on the hash tables of all layers.
    active_per_sample : float
        Mean number of active output neurons per sample.
    skipped : int
        Number of batches that were skipped because of a numerical fault.
    stopped : bool
        Whether a callback ended the run early.
    out_of_patience : bool
        Whether ``config.patience`` epochs without improvement ended the run.
    best_epoch : int or None
        The best epoch by ``config.monitor``; None before one was measured.
    best_quality : dict
        Its metrics; empty before one was measured.
    bytes_per_batch : dict
        In a run over several ranks, the mean number of bytes per batch that this rank received from others, by kind.
    error : str or None
        The exception that ended the run, for callbacks.
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
        """Mean milliseconds per batch, with rehashing; 0 before the first batch."""
        return 1e3 * self.train_seconds / self.batches if self.batches else 0.0

    @property
    def rehash_share(self) -> float:
        """Share of the training time spent on hash tables; 0 before the first batch."""
        return self.rehash_seconds / self.train_seconds if self.train_seconds else 0.0
