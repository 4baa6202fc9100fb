"""The neurons that all samples of a batch compute: the labels of the batch, and draws from all neurons."""

from __future__ import annotations

import numpy as np

from slide.config import OutputConfig
from slide.kernels import dtypes
from slide.kernels.active import draw_uniform, sorted_unique
from slide.system.random import philox

CERTAIN = 1 - 1e-12
"""Largest probability p for which log(1 - p) is computed."""

BLOCK = 1 << 16
"""Number of neurons whose corrections are computed at a time."""


class SharedCandidates:
    """The neurons that every sample of a batch computes, and how probable it was that they are among them.

    Parameters
    ----------
    n_labels : int
        Number of neurons.
    config : OutputConfig
        The layer's settings.
    seed : int
        Key of the draws, with the iteration.

    Attributes
    ----------
    frequency : float64 array [n_labels] or None
        Share of the training samples that have each label; None before they are set.
    floor : float
        Share of the training samples that is half a sample. It is the lowest frequency that counts wherever a zero is
        not allowed: in draws by frequency, and in the logarithm of a frequency.
    corrections : float32 array [2, n_labels or 0]
        Offsets and weights of all neurons for a batch as large as the largest so far; ``offsets`` and ``weights`` look
        them up.
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

    def set_frequency(self, frequency: np.ndarray, samples: float | None = None) -> None:
        """Set the labels' frequencies; see `slide.model.output.OutputLayer.set_label_frequency`."""
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
    def _draws_by_frequency(self) -> bool:
        return self.config.uses_tail and self.config.tail_power > 0

    def ids(self, labels: np.ndarray, iteration: int) -> np.ndarray:
        """Return the neurons that all samples of a batch compute, an ascending int32 array, valid until the next call.

        `labels` are those of all samples. Draws depend only on the seed and the iteration.

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

    def _draw(self, out: np.ndarray, iteration: int) -> None:
        """Write the tail: draws with replacement, uniform or by frequency."""
        if not self._draws_by_frequency:
            draw_uniform(out, self.n_labels, self._seed, iteration)
            return
        if self._cumulative is None:
            raise RuntimeError("drawing neurons by frequency needs set_label_frequency() before training")
        rng = philox(self._seed, iteration)
        at = rng.random(self.config.tail) * self._cumulative[-1]
        at.sort()  # neighbours are then looked up one after the other, while they are in the caches
        drawn = np.searchsorted(self._cumulative, at, side="right")
        # Rounding may put the product at the very end, where there is no neuron.
        np.minimum(drawn, self.n_labels - 1, out=out, casting="same_kind")

    def log_probability(self, ids: np.ndarray, n: int) -> np.ndarray:
        """Return the log of the probability that a batch of `n` samples shares each of some neurons.

        A neuron is shared unless no sample has it as a label and no draw of the tail hits it. Without a tail a label
        has at least the probability that half a training sample gives it. If a label that no training sample has then
        turns up after all, it does not stand for more neurons than there are.

        Returns
        -------
        float64 array [ids] or [0]
            Logarithms; empty without a correction.

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
        # expm1 keeps the tiny probabilities of rare labels.
        return np.log(-np.expm1(log_absent))

    def offsets(self, ids: np.ndarray, n: int) -> np.ndarray:
        """Return what the logQ correction adds to the logits of some neurons: minus ``log_probability``, as float32.

        If the batch is as large as the largest so far, it is looked up in `corrections`.
        """
        return self._correction(ids, n, 0)

    def weights(self, ids: np.ndarray, n: int) -> np.ndarray:
        """Return how many neurons each of some neurons stands for: 1 / probability, looked up as in ``offsets``."""
        return self._correction(ids, n, 1)

    def _correction(self, ids: np.ndarray, n: int, which: int) -> np.ndarray:
        if n > self._samples_of_corrections:
            # Most batches are as large as the first, so corrections of all neurons are computed once.
            self.corrections, self._samples_of_corrections = self._of_everyone(n), n
        if n < self._samples_of_corrections:
            return _as_offsets(self.log_probability(ids, n))[which]
        table = self.corrections[which]
        return table[ids] if len(table) else table

    def _of_everyone(self, n: int) -> np.ndarray:
        if not len(self.log_probability(np.arange(1), n)):
            return np.zeros((2, 0), dtypes.VALUE)
        table = np.empty((2, self.n_labels), dtypes.VALUE)
        for first in range(0, self.n_labels, BLOCK):
            block = table[:, first : first + BLOCK]
            block[:] = _as_offsets(self.log_probability(np.arange(first, first + block.shape[1]), n))
        return table

    def _draw_probability(self, ids: np.ndarray) -> np.ndarray:
        """Return the probability that one draw of the tail is each of some neurons."""
        if not self._draws_by_frequency:
            return np.full(len(ids), 1 / self.n_labels)
        assert self.frequency is not None and self._cumulative is not None
        return np.maximum(self.frequency[ids], self.floor) ** self.config.tail_power / self._cumulative[-1]


def _as_offsets(log_probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the offsets and weights of neurons."""
    return (-log_probability).astype(dtypes.VALUE), np.exp(-log_probability).astype(dtypes.VALUE)
