"""The output layer: a huge softmax of which a sample computes a few hundred neurons."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from slide.buffers import Buffers
from slide.config import OutputConfig
from slide.data.batches import Batch
from slide.index import NeuronIndex
from slide.kernels import dtypes
from slide.kernels.dense import shared_logits, shared_step
from slide.kernels.optim import StepRule, catch_up
from slide.kernels.rows import RowTable
from slide.kernels.sampling import split_shared
from slide.kernels.softmax import remove_offsets, softmax_cross_entropy
from slide.kernels.sparse import PairGroups, SampleGradient
from slide.signals import Pairs, Runs, Signal

NOTHING = np.zeros(0, dtypes.VALUE)


@dataclass(frozen=True)
class OutputStats:
    """What a batch did in the output layer.

    Attributes
    ----------
    loss : float
        Cross-entropy in nats over the active sets, mean over the points that have labels.
    precision : float
        Share of those points whose highest active logit is a label's.
    active : float
        Neurons active for a point, mean.
    """

    loss: float
    precision: float
    active: float


class OutputLayer:
    """A dense hidden vector to a huge softmax, of which a sample computes a few hundred neurons; its rows are neurons.

    Parameters
    ----------
    n_labels, dim : int
    config : OutputConfig
    moments : int
        Moments the optimiser keeps of each weight.
    seed : int
    buffers : Buffers
    threads : int
    """

    def __init__(
        self, n_labels: int, dim: int, config: OutputConfig, moments: int, seed: int, buffers: Buffers, threads: int
    ):
        self.config = config
        self.seed = seed
        self.table = RowTable(n_labels, dim, moments=moments, name="output weights", hugepages=buffers.hugepages)
        buffers.add("output weights", self.table.buffer)
        self.table.fill_uniform(1.0 / math.sqrt(dim), seed, threads)
        self.index: NeuronIndex | None = None
        self._everyone = np.arange(n_labels, dtype=dtypes.INDEX) if config.candidates == "full" else None
        self._place = np.full(n_labels if config.uses_tables and config.uses_labels_of_batch else 0, -1, dtypes.INDEX)
        self._log_absent: np.ndarray | None = None
        self._buffers = buffers
        self._pairs = Pairs("output", self.table, buffers)
        self._active: tuple[PairGroups, np.ndarray, np.ndarray, np.ndarray] | None = None

    def make_index(self) -> None:
        """Make the hash tables that training looks neurons up in, where the configuration wants them."""
        if self.config.uses_tables:
            config = self.config
            self.index = NeuronIndex(
                self.table, config.lsh, config.rehash, config.sampling, self.seed, self._buffers, name="output"
            )

    def set_label_frequency(self, frequency: np.ndarray) -> None:
        """Tell the layer how common each label is, which the logQ correction needs.

        Parameters
        ----------
        frequency : float array [n_labels]
            Share of the training points that have the label.

        Raises
        ------
        ValueError
            Wrong length, or a value outside [0, 1].
        """
        frequency = np.asarray(frequency, np.float64)
        if frequency.shape != (self.table.n_rows,) or not ((frequency >= 0) & (frequency <= 1)).all():
            raise ValueError(f"frequency must be {self.table.n_rows} shares from 0 to 1")
        # log of the probability that a point does not have the label; a label of every point is never absent.
        self._log_absent = np.log1p(-np.minimum(frequency, 1 - 1e-12)).astype(dtypes.VALUE)

    def forward(self, batch: Batch, signal: Signal, rule: StepRule, iteration: int, threads: int) -> OutputStats:
        """Compute the active neurons, the loss and its gradient with respect to their logits, which ``step`` uses.

        Parameters
        ----------
        batch : Batch
        signal : Signal
            The last hidden layer's output.
        rule : StepRule
            Of the batch: rows pay what they owe before they are read.
        iteration : int
            Keys the sampling.
        threads : int

        Raises
        ------
        RuntimeError
            The logQ correction is on and `set_label_frequency` was not called.
        """
        n = len(batch)
        shared = self._shared_ids(batch, iteration)
        offsets = self._offsets(shared, n)
        own, certain = self._own_pairs(batch, signal, shared, iteration, threads)
        labels = Runs(batch.labels, batch.label_ptr[:-1], batch.label_ptr[1:])
        if len(shared):
            places = np.searchsorted(shared, batch.labels).astype(dtypes.INDEX)
        else:
            samples, _ = labels.places()
            places = (np.arange(len(samples)) - labels.begin[samples]).astype(dtypes.INDEX)
        if certain is None:
            certain = labels._replace(flat=places)
        loss, hit = np.empty(n, dtypes.VALUE), np.empty(n, dtypes.VALUE)
        labelled = max(1, int(np.count_nonzero(labels.lengths)))

        groups = self._pairs.group(own)
        self._pairs.catch_up(groups, rule, threads)
        if rule.owed is not None:
            catch_up(self.table, shared, rule.owed, threads)
        logits = self._pairs.logits(groups, own, signal, threads)
        common = self._buffers.array("output shared logits", (n, len(shared)), dtypes.VALUE)
        shared_logits(self.table, shared, offsets, signal.dense, common, threads)
        if len(offsets):
            remove_offsets(common, offsets, certain.begin, certain.end, certain.flat, threads)
        softmax_cross_entropy(
            common, len(shared), logits, own.begin, own.end, batch.label_ptr, places, 1.0 / labelled, loss, hit, threads
        )
        self._active = (groups, logits, shared, common)
        active = len(shared) + float(own.lengths.mean())
        return OutputStats(float(loss.sum(dtype=np.float64)) / labelled, float(hit.sum()) / labelled, active)

    def scale_deltas(self, factor: float) -> None:
        """Multiply the gradient that ``step`` starts from, and with it that of every parameter of the network."""
        _, own, _, common = self._active
        # Places that no pair has hold anything, even infinity.
        with np.errstate(invalid="ignore"):
            own *= factor
            common *= factor

    def step(self, signal: Signal, gradient: SampleGradient, rule: StepRule, threads: int) -> None:
        """Update the parameters after ``forward``.

        Parameters
        ----------
        signal : Signal
            What ``forward`` was given.
        gradient : SampleGradient
            Receives the loss's gradient with respect to it.
        rule : StepRule
        threads : int
        """
        groups, own, shared, common = self._active
        self._pairs.step(groups, own, signal, gradient, rule, threads)
        shared_step(self.table, shared, common, signal.dense, gradient, rule, threads)

    def _shared_ids(self, batch, iteration):
        """Neurons active for every sample of the batch, ascending."""
        if self._everyone is not None:
            return self._everyone
        if not self.config.uses_labels_of_batch:
            return np.zeros(0, dtypes.INDEX)
        ids = batch.labels
        if self.config.uses_tail:
            rng = np.random.Generator(np.random.Philox(key=np.array([self.seed, iteration], np.uint64)))
            tail = rng.integers(0, self.table.n_rows, self.config.tail, dtype=dtypes.INDEX)
            ids = np.concatenate([ids, tail])
        return np.unique(ids)

    def _offsets(self, shared, n):
        """Minus the log of each shared neuron's probability of being shared; empty where nothing is corrected.

        A label is in unless none of the batch's n points has it and no draw of the tail hits it.
        """
        if self.config.correction == "none" or not self.config.uses_labels_of_batch:
            return NOTHING
        if self._log_absent is None:
            raise RuntimeError("the logQ correction needs set_label_frequency() before training")
        log_absent = n * self._log_absent[shared].astype(np.float64)
        if self.config.uses_tail:
            log_absent += self.config.tail * math.log1p(-1.0 / max(self.table.n_rows, 2))
        # expm1 keeps the rare labels' tiny probabilities; a label no training point has cannot be drawn by a point.
        return -np.log(np.maximum(-np.expm1(log_absent), 1e-30)).astype(dtypes.VALUE)

    def _own_pairs(self, batch, signal, shared, iteration, threads):
        """Neurons active for single samples, and the shared neurons that samples found themselves (places, or None)."""
        n = len(batch)
        if not self.config.uses_tables:
            return Runs(np.zeros(0, dtypes.INDEX), np.zeros(n, dtypes.OFFSET), np.zeros(n, dtypes.OFFSET)), None
        labels = Runs(batch.labels, batch.label_ptr[:-1], batch.label_ptr[1:])
        own = self._pairs.draw(self.index, signal, labels, self.config.budget, iteration, threads)
        if not len(shared):
            return own, None
        counts, taken = own.lengths, np.zeros(n, dtypes.OFFSET)
        places = self._pairs.room("shared candidates", n, len(own.flat) // n)
        self._place[shared] = np.arange(len(shared), dtype=dtypes.INDEX)
        try:
            split_shared(self._place, own.flat.reshape(n, -1), counts, places, taken, threads)
        finally:
            self._place[shared] = -1
        return own._replace(end=own.begin + counts), Runs(places.reshape(-1), own.begin, own.begin + taken)

    def state(self) -> dict[str, np.ndarray]:
        """Return writable views of all parameters and moments by name."""
        return self.table.state()
