"""The two kinds of layer, each the owner of a parameter table.

Both are a `RowTable` of which a batch touches few rows: the input layer's rows are features, the sampled layer's are
neurons. Forward and backward are kernels of `slide.kernels` on pairs (sample, row).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from slide.buffers import Buffers
from slide.config import HiddenConfig, OutputConfig
from slide.data.batches import Batch
from slide.index import NeuronIndex
from slide.kernels import dtypes
from slide.kernels.dense import shared_logits, shared_step
from slide.kernels.optim import StepRule, step_groups, step_vector
from slide.kernels.rows import RowTable
from slide.kernels.sampling import split_shared
from slide.kernels.softmax import remove_offsets, softmax_cross_entropy
from slide.kernels.sparse import PairGroups, SampleGradient, sddmm, spmm

NOTHING = np.zeros(0, dtypes.VALUE)


class InputLayer:
    """Sparse features to a dense hidden vector; its rows are the features.

    Parameters
    ----------
    n_features : int
    config : HiddenConfig
    moments : int
        Moments the optimiser keeps of each weight.
    seed : int
    buffers : Buffers
    threads : int
    """

    def __init__(
        self, n_features: int, config: HiddenConfig, moments: int, seed: int, buffers: Buffers, threads: int
    ):
        self.table = RowTable(
            n_features, config.units, moments=moments, name="input weights", hugepages=buffers.hugepages
        )
        buffers.add("input weights", self.table.buffer)
        # A unit-length input then gives a hidden vector of about unit length, before the ReLU. Larger weights, such as
        # unit variance for each hidden unit, cost several points of P@1: what is random in them is never unlearnt.
        self.table.fill_uniform(math.sqrt(3.0 / config.units), seed, threads)
        self.relu = config.activation == "relu"
        dp = self.table.padded_dim
        self.bias = np.zeros(dp, dtypes.VALUE)
        self.bias_moments = np.zeros((2, dp if moments else 0), dtypes.VALUE)
        self._buffers = buffers
        self._groups: PairGroups | None = None

    @property
    def padded_dim(self) -> int:
        """Columns of the hidden array: the units rounded up to a multiple of 16."""
        return self.table.padded_dim

    def forward(self, batch: Batch, out: np.ndarray, threads: int) -> None:
        """Write the hidden activations.

        Parameters
        ----------
        batch : Batch
        out : float32 array [samples, padded_dim]
        threads : int
        """
        spmm(self.table, batch.indptr, batch.indices, batch.values, self.bias, self.relu, out, threads)

    def step(self, batch: Batch, dhidden: np.ndarray, rule: StepRule, threads: int) -> None:
        """Update the rows of the batch's features, and the bias.

        Parameters
        ----------
        batch : Batch
        dhidden : float32 array [samples, padded_dim]
            Gradient with respect to the hidden layer's inputs.
        rule : StepRule
        threads : int
        """
        if self._groups is None or self._groups.capacity < len(batch.indices):
            self._groups = PairGroups(len(batch.indices) + len(batch.indices) // 8)
            self._buffers.add("input pairs", self._groups.buffer_owner)
        self._groups.group(batch.indices, batch.indptr[:-1], batch.indptr[1:], self.table.n_rows)
        step_groups(self.table, self._groups, batch.values, dhidden, None, rule, threads)
        gradient = dhidden.sum(axis=0, dtype=np.float64).astype(dtypes.VALUE)
        step_vector(self.bias, self.bias_moments[0], self.bias_moments[1], gradient, rule)

    def state(self) -> dict[str, np.ndarray]:
        """Return writable views of all parameters and moments by name."""
        state = self.table.state()
        # A feature's row has no bias of its own.
        state = {name: array for name, array in state.items() if not name.startswith("bias")}
        dim = self.table.dim
        state["bias"] = self.bias[:dim]
        if self.table.moments:
            state["bias_m"], state["bias_v"] = self.bias_moments[0, :dim], self.bias_moments[1, :dim]
        return state


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


class _Runs(NamedTuple):
    """A few entries of a flat array for each sample: ``flat[begin[s]:end[s]]``."""

    flat: np.ndarray
    begin: np.ndarray
    end: np.ndarray


def _places_in_sample(batch):
    """Where each label stands among its own sample's labels."""
    places = np.arange(len(batch.labels)) - np.repeat(batch.label_ptr[:-1], np.diff(batch.label_ptr))
    return places.astype(dtypes.INDEX)


class SampledLayer:
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
        self._groups: PairGroups | None = None

    def make_index(self) -> None:
        """Make the hash tables that training looks neurons up in, where the configuration wants them."""
        if self.config.uses_tables:
            config = self.config
            self.index = NeuronIndex(
                self.table, config.lsh, config.rehash, self.seed, self._buffers, sampling=config.sampling
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

    def train(
        self,
        batch: Batch,
        hidden: np.ndarray,
        gradient: SampleGradient,
        rule: StepRule,
        iteration: int,
        threads: int,
    ) -> OutputStats:
        """Forward, loss, backward and update in one pass over the active neurons.

        Parameters
        ----------
        batch : Batch
        hidden : float32 array [samples, padded_dim]
        gradient : SampleGradient
            Receives the loss's gradient with respect to `hidden`.
        rule : StepRule
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
        own, certain = self._own_pairs(batch, hidden, shared, iteration, threads)
        if self._groups is None or self._groups.capacity < len(own.flat):
            self._groups = PairGroups(len(own.flat))
            self._buffers.add("output pairs", self._groups.buffer_owner)
        self._groups.group(own.flat, own.begin, own.end, self.table.n_rows)
        logits = self._buffers.array("own logits", own.flat.shape, dtypes.VALUE)
        common = self._buffers.array("shared logits", (n, len(shared)), dtypes.VALUE)
        if len(shared):
            places = np.searchsorted(shared, batch.labels).astype(dtypes.INDEX)
        else:
            places = _places_in_sample(batch)
        loss, hit = np.empty(n, dtypes.VALUE), np.empty(n, dtypes.VALUE)
        labelled = max(1, int(np.count_nonzero(np.diff(batch.label_ptr))))

        sddmm(self.table, self._groups, hidden, logits, threads)
        shared_logits(self.table, shared, offsets, hidden, common, threads)
        if len(offsets):
            if certain is None:
                certain = _Runs(places, batch.label_ptr[:-1], batch.label_ptr[1:])
            remove_offsets(common, offsets, certain.begin, certain.end, certain.flat, threads)
        softmax_cross_entropy(
            common, len(shared), logits, own.begin, own.end, batch.label_ptr, places, 1.0 / labelled, loss, hit, threads
        )
        step_groups(self.table, self._groups, logits, hidden, gradient, rule, threads)
        shared_step(self.table, shared, common, hidden, gradient, rule, threads)
        active = len(shared) + float((own.end - own.begin).mean())
        return OutputStats(float(loss.sum(dtype=np.float64)) / labelled, float(hit.sum()) / labelled, active)

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

    def _own_pairs(self, batch, hidden, shared, iteration, threads):
        """Neurons active for single samples, and the shared neurons that samples found themselves (places, or None)."""
        n = len(batch)
        if not self.config.uses_tables:
            return _Runs(np.zeros(0, dtypes.INDEX), np.zeros(n, dtypes.OFFSET), np.zeros(n, dtypes.OFFSET)), None
        most_labels = int(np.diff(batch.label_ptr).max(initial=0))
        budget = min(self.config.budget, self.table.n_rows)
        capacity = max(budget, most_labels)
        ids = self._buffers.array("candidates", (n, capacity), dtypes.INDEX)
        begin = np.arange(n, dtype=dtypes.OFFSET) * capacity
        counts = np.zeros(n, dtypes.OFFSET)
        self.index.sample(hidden, batch.label_ptr, batch.labels, budget, iteration, ids, counts, threads)
        certain = None
        if len(shared):
            places = self._buffers.array("shared candidates", (n, capacity), dtypes.INDEX)
            taken = np.zeros(n, dtypes.OFFSET)
            self._place[shared] = np.arange(len(shared), dtype=dtypes.INDEX)
            try:
                split_shared(self._place, ids, counts, places, taken, threads)
            finally:
                self._place[shared] = -1
            certain = _Runs(places.reshape(-1), begin, begin + taken)
        return _Runs(ids.reshape(-1), begin, begin + counts), certain

    def state(self) -> dict[str, np.ndarray]:
        """Return writable views of all parameters and moments by name."""
        return self.table.state()
