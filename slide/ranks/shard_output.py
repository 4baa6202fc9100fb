"""The output layer of one rank: the neurons of its shard of the labels, and the loss over all shards.

Before a softmax knows any gradient, it needs two numbers per sample from the other shards: the largest logit and the
sum of the exponentials. The other numbers for the loss of a sample travel with them. One-vs-all losses need nothing
from other shards: their sums are exchanged while the computation goes on. Each shard draws its own candidates, from its
own neurons and tables and with its part of the budget and of the tail, and corrects them by their probability there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from slide.config import OutputConfig
from slide.data.batches import Batch
from slide.kernels import dtypes
from slide.kernels.catch_up import catch_up
from slide.kernels.gradients import row_gradients, step_rows
from slide.kernels.grouping import PairGroups
from slide.kernels.loss_parts import TERMS, largest_logits, softmax_gradients, softmax_terms
from slide.kernels.losses import ActiveSets, logistic_cross_entropy
from slide.kernels.optim import StepRule, measure
from slide.kernels.sparse import SampleGradient
from slide.model.output import ActiveSet, OutputLayer, OutputStats
from slide.ranks.comm import Pending
from slide.ranks.grid import Grid, LabelShard
from slide.ranks.replicas import Replicas
from slide.rows.activations import Activations
from slide.rows.passes import Pass
from slide.rows.storage import MappedStorage, Storage
from slide.system.buffers import Buffers
from slide.system.renames import former_names

TOP, BEST, TOTAL, WANTED, MASS, ALL, STANDS_FOR = range(TERMS)
"""Columns of the array that `slide.kernels.loss_parts.softmax_terms` writes, a row for each sample."""


@dataclass(frozen=True)
class ShardBatch(Batch):
    """A rank's part of a batch: some samples, with only the labels of the rank's shard, as numbers of the shard.

    Attributes
    ----------
    counts : int64 array [n]
        Number of labels of each sample, in all shards.
    labelled : int
        Number of samples with labels in the whole batch, 1 if there are none.
    """

    counts: np.ndarray
    labelled: int

    def label_counts(self) -> np.ndarray:
        """See `Batch.label_counts`."""
        return self.counts


class ShardOutput(OutputLayer):
    """The neurons of one shard; see `OutputLayer`. The configuration is that of the whole layer."""

    def __init__(
        self,
        shard: LabelShard,
        grid: Grid,
        dim: int,
        config: OutputConfig,
        storage: Storage | MappedStorage,
        seed: int,
        buffers: Buffers,
        threads: int,
    ):
        self.shard, self._grid = shard, grid
        n, part = grid.labels.size, grid.labels.rank
        own = replace(config, budget=_part(config.budget, part, n), tail=_part(config.tail, part, n))
        # A single shard draws the same candidates as a network of one process; several shards draw others.
        super().__init__(shard.n_rows, dim, own, storage, (seed + (part << 32)) % 2**63, buffers, threads)
        if n > 1:
            # Each label has the same weights as in a network of one process.
            limit = 1.0 / np.sqrt(dim)
            self.table.fill_uniform(limit, seed, threads, shard.first, shard.distance)
        self._replicas = Replicas(grid, self.table)
        self._sums = np.zeros(3)
        self._pending: Pending | None = None

    @property
    def residual(self) -> np.ndarray | None:
        """See `Replicas.residual`."""
        return self._replicas.residual

    @former_names(points="samples")
    def set_label_frequency(
        self, frequency: np.ndarray, *, samples: float | None = None, start_biases: bool = True
    ) -> None:
        """See `OutputLayer.set_label_frequency`; `frequency` is that of the labels of all shards."""
        own = np.asarray(frequency)[self.shard.ids]
        super().set_label_frequency(own, samples=samples, start_biases=start_biases)

    def set_label_weights(self, weights: np.ndarray | None) -> None:
        """See `OutputLayer.set_label_weights`; `weights` are those of the labels of all shards."""
        super().set_label_weights(None if weights is None else np.asarray(weights)[self.shard.ids])

    def part_of(self, batch: Batch, samples: slice) -> ShardBatch:
        """Return some samples of a batch, with only the labels of this shard."""
        ends = batch.label_ptr[samples.start : samples.stop + 1]
        ptr, labels, _ = self.shard.select(ends - ends[0], batch.labels[ends[0] : ends[-1]])
        labelled = int(np.count_nonzero(np.diff(batch.label_ptr)))
        return ShardBatch(
            batch.indptr[samples.start : samples.stop + 1],
            batch.indices,
            batch.values,
            ptr,
            labels,
            np.diff(ends),
            max(1, labelled),
        )

    def sums(self) -> np.ndarray:
        """Return this rank's part of the batch's loss, hits and active neurons; the parts of all ranks add up."""
        if self._pending is not None:
            # One-vs-all: a hit is known only when the largest logits of all shards are.
            largest = self._pending.wait().max(axis=0)
            self._sums[1] = self._hits(largest[:, 1] >= largest[:, 0])
            self._pending = None
        return self._sums

    def forward(self, batch: Batch, inputs: Activations, now: Pass) -> OutputStats:
        """See `OutputLayer.forward`; `batch` comes from ``part_of``, and figures of all ranks need ``sums``."""
        assert isinstance(batch, ShardBatch)
        self._sums[:] = 0.0
        self._counts = batch.counts
        if not len(batch):
            return OutputStats(0.0, 0.0, 0.0)
        stats = super().forward(batch, inputs, now)
        self._sums[0], self._sums[2] = stats.loss, stats.active * len(batch)
        return stats

    def step(self, inputs: Activations, gradient: SampleGradient, now: Pass) -> None:
        """See `OutputLayer.step`; if replicas combine their gradients, ``finish`` takes the step."""
        if not self._replicas.combine_gradients:
            if len(self._counts):
                super().step(inputs, gradient, now)
            return
        rows, gradients = np.zeros(0, dtypes.INDEX), np.zeros((0, self.table.padded_dim + 1), dtypes.VALUE)
        if len(self._counts):
            super().step(inputs, gradient, now._replace(rule=measure()))
            rows, gradients = self._row_gradients(inputs, now.threads)
        self._replicas.begin(rows, gradients)

    def finish(self, rule: StepRule, threads: int) -> None:
        """Take the step of the replicas, once the gradients of all have arrived."""
        if not self._replicas.combine_gradients:
            return
        touched, rows, gradients = self._replicas.end()
        if rule.owed is not None:
            catch_up(self.table, touched, rule.owed, threads)
        dim = self.table.padded_dim
        step_rows(
            self.table,
            rows,
            np.ascontiguousarray(gradients[:, :dim]),
            np.ascontiguousarray(gradients[:, dim]),
            rule,
            threads,
        )

    def _row_gradients(self, inputs: Activations, threads: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of this shard that the batch touches, ascending, and their gradients, the bias last."""
        assert self._active is not None, "step comes after forward"
        groups, own, shared, common = self._active
        assert isinstance(groups, PairGroups), "networks on several ranks are not trained by hogwild"
        hidden, dim = inputs.vectors, self.table.padded_dim
        n = len(hidden)
        out = np.empty((len(shared) + groups.n_groups, dim + 1), dtypes.VALUE)
        deltas = common[:n, : len(shared)]
        np.matmul(deltas.T, hidden, out=out[: len(shared), :dim])
        out[: len(shared), dim] = deltas.sum(axis=0)
        if groups.n_groups:
            gradients, bias = np.empty((groups.n_groups, dim), dtypes.VALUE), np.empty(groups.n_groups, dtypes.VALUE)
            row_gradients(groups, own, hidden, gradients, bias, threads)
            out[len(shared) :, :dim], out[len(shared) :, dim] = gradients, bias
        rows = np.concatenate([shared, groups.rows])
        order = np.argsort(rows, kind="stable")
        return rows[order], out[order]

    def _losses(
        self, batch: Batch, active: ActiveSet, common: np.ndarray, own: np.ndarray, threads: int
    ) -> tuple[float, float]:
        """Return this rank's part of the loss over all shards, and 0: ``sums`` has the hits. See `OutputLayer`."""
        assert isinstance(batch, ShardBatch)
        scale = 1.0 / batch.labelled
        sets = self._active_sets(batch, active, common, own)
        if self.config.loss == "softmax":
            return self._softmax(batch, sets, scale, threads)
        largest = np.empty((len(batch), 2), np.float64)
        largest_logits(sets, largest)
        self._pending = self._grid.labels.iallgather("loss", largest)
        loss, hit = self._buffers.array("output losses", (2, len(batch)), dtypes.VALUE)
        labelled = (batch.counts > 0).astype(np.uint8)
        logistic_cross_entropy(sets, scale, loss, hit, threads, labelled=labelled)
        return float(loss.sum(dtype=np.float64)), 0.0

    def _softmax(self, batch: ShardBatch, sets: ActiveSets, scale: float, threads: int) -> tuple[float, float]:
        """Return what ``_losses`` does, for the softmax over all shards."""
        n, smoothing = len(batch), self.config.label_smoothing
        terms = np.empty((n, TERMS), np.float64)
        softmax_terms(sets, terms, threads)
        every = self._grid.labels.allgather("loss", terms)
        top, best = every[:, :, TOP].max(axis=0), every[:, :, BEST].max(axis=0)
        sums = every[:, :, WANTED:].sum(axis=0)
        wanted, mass, all_logits, stands_for = sums.T
        with np.errstate(divide="ignore", invalid="ignore"):
            total = (every[:, :, TOTAL] * np.exp(every[:, :, TOP] - top)).sum(axis=0)
            factor = np.where(batch.counts > 0, scale * mass * np.exp(terms[:, TOP] - top) / total, 0.0)
            loss = mass * (np.log(total) + top) - (1.0 - smoothing) * wanted
            share = np.zeros(n)
            if smoothing:
                loss -= smoothing * mass * all_logits / stands_for
                share = scale * smoothing * mass / stands_for
        here = factor.astype(dtypes.VALUE), np.where(batch.counts > 0, share, 0.0).astype(dtypes.VALUE)
        softmax_gradients(sets, *here, scale, threads)
        self._sums[1] = self._hits(best >= top)
        # All shards know the loss; only one of them adds it to the total.
        return float(loss[batch.counts > 0].sum()) if self._grid.labels.rank == 0 else 0.0, 0.0

    def _hits(self, best: np.ndarray) -> float:
        """Return the number of samples whose best neuron is a label, on one shard, and 0 on the others."""
        return float(np.count_nonzero(best & (self._counts > 0))) if self._grid.labels.rank == 0 else 0.0


def _part(total: int, part: int, parts: int) -> int:
    """Return one of several nearly equal parts of a number, at least 1."""
    return max(1, total * (part + 1) // parts - total * part // parts)
