"""Where a run stands, and what it has done: its epochs and its history."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from slide.model.base import BatchStats

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
        Batches skipped because of a numerical fault: in total, and in a row up to now.
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

    def advance(self, stats: BatchStats, samples: int) -> np.ndarray:
        """Count a batch in; return its loss, precision and active neurons a sample."""
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
        """Count a batch in that was left out."""
        self.batch += 1
        self.samples += samples
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
