"""The neurons that a whole batch computes: the labels of its samples, and draws from all neurons."""

from __future__ import annotations

import numpy as np

from slide.config import OutputConfig
from slide.kernels import dtypes
from slide.kernels.active import draw_uniform, sorted_unique

CERTAIN = 1 - 1e-12
"""The largest probability whose complement's logarithm is taken."""

BLOCK = 1 << 16
"""Neurons whose corrections are worked out at a time."""


class SharedCandidates:
    """Which neurons every sample of a batch computes, and how probable it was that they would be.

    Parameters
    ----------
    n_labels : int
    config : OutputConfig
    seed : int
        Keys the draws, with the iteration.

    Attributes
    ----------
    frequency : float64 array [n_labels] or None
        Share of the training samples that have each label.
    floor : float
        Share that half a training sample is of all: what a label counts for at least where no label may count for
        nothing, in draws by frequency and in the logarithm of a frequency.
    corrections : float32 array [2, n_labels or 0]
        Of every neuron, for a batch as large as the largest so far: what ``offsets`` and ``weights`` look up.
    """

    def __init__(self, n_labels: int, config: OutputConfig, seed: int):
        self.config = config
        self.n_labels = n_labels
        self.frequency: np.ndarray | None = None
        self.floor = 0.0
        self._seed = seed
        self._everyone = np.arange(n_labels, dtype=dtypes.INDEX) if config.candidates == "full" else None
        self._cumulative: np.ndarray | None = None
        self._ids = np.zeros((2, 0), dtypes.INDEX)
        self.corrections = np.zeros((2, 0), dtypes.VALUE)
        self._samples_of_corrections = -1

    def set_frequency(self, frequency: np.ndarray, samples: int | None = None) -> None:
        """Take the labels' frequencies; see `slide.model.output.OutputLayer.set_label_frequency`."""
        frequency = np.asarray(frequency, np.float64)
        if frequency.shape != (self.n_labels,) or not ((frequency >= 0) & (frequency <= 1)).all():
            raise ValueError(f"frequency must be {self.n_labels} shares from 0 to 1")
        if samples is None:
            samples = 1 / frequency[frequency > 0].min(initial=1.0)
        elif not samples >= 1:
            raise ValueError(f"samples must be 1 or more, got {samples}")
        self.frequency = frequency
        self.floor = 0.5 / samples
        self._samples_of_corrections = -1
        if self._draws_by_frequency:
            self._cumulative = np.cumsum(np.maximum(frequency, self.floor) ** self.config.tail_power)

    @property
    def _draws_by_frequency(self):
        return self.config.uses_tail and self.config.tail_power > 0

    def ids(self, labels: np.ndarray, iteration: int) -> np.ndarray:
        """Return the neurons active for every sample of a batch, ascending; the same for the same iteration.

        They are valid until the next call.

        Parameters
        ----------
        labels : int32 array
            Of all samples of the batch.
        iteration : int

        Returns
        -------
        int32 array

        Raises
        ------
        RuntimeError
            Neurons are drawn by their frequency, which was not set.
        """
        if self._everyone is not None:
            return self._everyone
        labelled = len(labels) if self.config.uses_labels_of_batch else 0
        n = labelled + (self.config.tail if self.config.uses_tail else 0)
        if self._ids.shape[1] < n:
            self._ids = np.zeros((2, n + n // 8), dtypes.INDEX)
        ids, scratch = self._ids[:, :n]
        ids[:labelled] = labels[:labelled]
        if self.config.uses_tail:
            self._draw(ids[labelled:], iteration)
        return ids[: sorted_unique(ids, scratch, self.n_labels)]

    def _draw(self, out, iteration):
        """Write the tail: draws with replacement, uniform or by frequency."""
        if not self._draws_by_frequency:
            draw_uniform(out, self.n_labels, self._seed, iteration)
            return
        if self._cumulative is None:
            raise RuntimeError("drawing neurons by frequency needs set_label_frequency() before training")
        rng = np.random.Generator(np.random.Philox(key=np.array([self._seed, iteration], np.uint64)))
        at = rng.random(self.config.tail) * self._cumulative[-1]
        at.sort()  # what stands side by side in the caches is then looked up side by side
        drawn = np.searchsorted(self._cumulative, at, side="right")
        # Rounding may put the product at the very end.
        np.minimum(drawn, self.n_labels - 1, out=out, casting="same_kind")

    def log_probability(self, ids: np.ndarray, n: int) -> np.ndarray:
        """Return the log of the probability that each of some neurons is shared by a batch; empty if not corrected.

        One is in unless none of the batch's n samples has it as a label and no draw of the tail hits it. Where there
        is no tail a label has at least the probability that half a training sample gives it: what no training sample
        has would otherwise, if it turns up after all, stand for more neurons than there are.

        Parameters
        ----------
        ids : int32 array [ids]
        n : int
            Samples of the batch.

        Returns
        -------
        float64 array [ids] or [0]

        Raises
        ------
        RuntimeError
            The frequencies were not set.
        """
        config = self.config
        if config.correction == "none" or not config.uses_shared:
            return np.zeros(0)
        if self.frequency is None:
            raise RuntimeError("the logQ correction needs set_label_frequency() before training")
        log_absent = np.zeros(len(ids))
        if config.uses_labels_of_batch:
            frequency = self.frequency[ids]
            if not config.uses_tail:
                frequency = np.maximum(frequency, self.floor)
            log_absent += n * np.log1p(-np.minimum(frequency, CERTAIN))
        if config.uses_tail:
            log_absent += config.tail * np.log1p(-np.minimum(self._draw_probability(ids), CERTAIN))
        # expm1 keeps the rare labels' tiny probabilities.
        return np.log(-np.expm1(log_absent))

    def offsets(self, ids: np.ndarray, n: int) -> np.ndarray:
        """Return what the logQ correction adds to the logits of some neurons; empty if not corrected.

        Minus ``log_probability``, to which its parameters and errors belong, as float32; looked up where the batch is
        as large as the largest so far.
        """
        return self._correction(ids, n, 0)

    def weights(self, ids: np.ndarray, n: int) -> np.ndarray:
        """Return how many neurons each of some stands for, one over its probability; otherwise as ``offsets``."""
        return self._correction(ids, n, 1)

    def _correction(self, ids, n, which):
        if n > self._samples_of_corrections:
            # Most batches are as large as the first: what is worked out once for all neurons serves them all.
            self.corrections, self._samples_of_corrections = self._of_everyone(n), n
        if n < self._samples_of_corrections:
            return _as_offsets(self.log_probability(ids, n))[which]
        table = self.corrections[which]
        return table[ids] if len(table) else table

    def _of_everyone(self, n):
        if not len(self.log_probability(np.arange(1), n)):
            return np.zeros((2, 0), dtypes.VALUE)
        table = np.empty((2, self.n_labels), dtypes.VALUE)
        for first in range(0, self.n_labels, BLOCK):
            block = table[:, first : first + BLOCK]
            block[:] = _as_offsets(self.log_probability(np.arange(first, first + block.shape[1]), n))
        return table

    def _draw_probability(self, ids):
        """Probability that one draw of the tail is each of some neurons."""
        if not self._draws_by_frequency:
            return np.full(len(ids), 1 / self.n_labels)
        return np.maximum(self.frequency[ids], self.floor) ** self.config.tail_power / self._cumulative[-1]


def _as_offsets(log_probability):
    """Offsets and weights of neurons."""
    return (-log_probability).astype(dtypes.VALUE), np.exp(-log_probability).astype(dtypes.VALUE)
