"""The output layer of one rank: the neurons of its shard of the labels, and a loss over those of all shards.

A softmax needs two numbers from the other shards, how large the largest logit is and what the exponentials add up to,
before any gradient is known; with them go the few numbers of each sample that its loss is made of. One-vs-all losses
need nothing: their parts are added up while the next thing is computed. Candidates are drawn in each shard for itself,
from its own neurons and its own tables, each shard having its part of the budget and of the tail, and are corrected by
their probability there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from slide.config import OutputConfig
from slide.data.batches import Batch
from slide.kernels import dtypes
from slide.kernels.catch_up import catch_up
from slide.kernels.gradients import row_gradients, step_rows
from slide.kernels.loss_parts import TERMS, largest_logits, softmax_gradients, softmax_terms
from slide.kernels.losses import logistic_cross_entropy
from slide.kernels.optim import StepRule, measure
from slide.kernels.sparse import SampleGradient
from slide.model.output import OutputLayer
from slide.ranks.comm import Pending
from slide.ranks.grid import Grid, LabelShard
from slide.ranks.replicas import Replicas
from slide.rows.activations import Activations
from slide.rows.passes import Pass
from slide.system.renames import former_names

TOP, BEST, TOTAL, WANTED, MASS, ALL, STANDS_FOR = range(TERMS)
"""What `slide.kernels.loss_parts.softmax_terms` writes of each sample."""


@dataclass(frozen=True)
class ShardBatch(Batch):
    """A rank's part of a batch: some of its samples, and of their labels those of the shard, as its numbers.

    Attributes
    ----------
    counts : int64 array [n]
        Labels of each sample, in all shards.
    labelled : int
        Samples with labels in the whole batch.
    """

    counts: np.ndarray
    labelled: int

    def label_counts(self) -> np.ndarray:
        """See `Batch.label_counts`."""
        return self.counts


class ShardOutput(OutputLayer):
    """The neurons of one shard.

    Parameters
    ----------
    shard : LabelShard
    grid : Grid
    dim, config, storage, seed, buffers, threads
        As for `OutputLayer`; the configuration is that of the whole layer.

    Attributes
    ----------
    shard : LabelShard
    """

    def __init__(self, shard: LabelShard, grid: Grid, dim: int, config: OutputConfig, storage, seed, buffers, threads):
        self.shard, self._grid = shard, grid
        n, part = grid.labels.size, grid.labels.rank
        own = replace(config, budget=_part(config.budget, part, n), tail=_part(config.tail, part, n))
        # Of one shard everything is as in a network on one process; others draw differently.
        super().__init__(shard.n_rows, dim, own, storage, (seed + (part << 32)) % 2**63, buffers, threads)
        if n > 1:
            # Weights are those that the labels have in a network on one process.
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
    def set_label_frequency(self, frequency: np.ndarray, *, samples: int | None = None) -> None:
        """See `OutputLayer.set_label_frequency`; of all labels."""
        super().set_label_frequency(np.asarray(frequency)[self.shard.ids], samples=samples)

    def set_label_weights(self, weights: np.ndarray | None) -> None:
        """See `OutputLayer.set_label_weights`; of all labels."""
        super().set_label_weights(None if weights is None else np.asarray(weights)[self.shard.ids])

    def part_of(self, batch: Batch, samples: slice) -> ShardBatch:
        """Return what this rank computes of a batch: some samples, with their labels of this shard.

        Parameters
        ----------
        batch : Batch
        samples : slice
        """
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
        """Return this rank's parts of the batch's loss, hits and active neurons: added up over all ranks, the sums."""
        if self._pending is not None:
            # One-vs-all: whether a label is best is known when all shards have said how high theirs are.
            largest = self._pending.wait().max(axis=0)
            self._sums[1] = self._hits(largest[:, 1] >= largest[:, 0])
            self._pending = None
        return self._sums

    def forward(self, batch: ShardBatch, inputs: Activations, now: Pass) -> None:
        """See `OutputLayer.forward`; what the batch did is in ``sums``."""
        self._sums[:] = 0.0
        self._counts = batch.counts
        if not len(batch):
            return
        stats = super().forward(batch, inputs, now)
        self._sums[0], self._sums[2] = stats.loss, stats.active * len(batch)

    def step(self, inputs: Activations, gradient: SampleGradient, now: Pass) -> None:
        """See `OutputLayer.step`; where replicas combine their gradients, ``finish`` takes the step."""
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
        """Take the step that replicas take together, once their gradients have arrived."""
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

    def _row_gradients(self, inputs, threads):
        """The rows that the batch touches here, ascending, and their gradients, that of the bias last."""
        groups, own, shared, common = self._active
        n, dim = len(inputs.dense), self.table.padded_dim
        out = np.empty((len(shared) + groups.n_groups, dim + 1), dtypes.VALUE)
        deltas = common[:n, : len(shared)]
        np.matmul(deltas.T, inputs.dense, out=out[: len(shared), :dim])
        out[: len(shared), dim] = deltas.sum(axis=0)
        if groups.n_groups:
            gradients, bias = np.empty((groups.n_groups, dim), dtypes.VALUE), np.empty(groups.n_groups, dtypes.VALUE)
            row_gradients(groups, own, inputs.dense, gradients, bias, threads)
            out[len(shared) :, :dim], out[len(shared) :, dim] = gradients, bias
        rows = np.concatenate([shared, groups.rows])
        order = np.argsort(rows, kind="stable")
        return rows[order], out[order]

    def _losses(self, batch, active, common, own, threads):
        """The softmax or the one-vs-all losses over all shards; see `OutputLayer._losses`. Returns this rank's part."""
        scale = 1.0 / batch.labelled
        sets, options = self._active_sets(batch, active, common, own)
        if self.config.loss == "softmax":
            return self._softmax(batch, sets, options, scale, threads)
        largest = np.empty((len(batch), 2), np.float64)
        largest_logits(*sets, largest)
        self._pending = self._grid.labels.iallgather("loss", largest)
        loss, hit = self._buffers.array("output losses", (2, len(batch)), dtypes.VALUE)
        labelled = (batch.counts > 0).astype(np.uint8)
        logistic_cross_entropy(*sets, scale, loss, hit, threads, labelled=labelled, **options)
        return float(loss.sum(dtype=np.float64)), 0.0

    def _softmax(self, batch, sets, options, scale, threads):
        n, smoothing = len(batch), self.config.label_smoothing
        terms = np.empty((n, TERMS), np.float64)
        softmax_terms(*sets, terms, threads, **options)
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
        softmax_gradients(*sets, *here, scale, threads, **options)
        self._sums[1] = self._hits(best >= top)
        # All shards know the loss; one of them tells it.
        return float(loss[batch.counts > 0].sum()) if self._grid.labels.rank == 0 else 0.0, 0.0

    def _hits(self, best):
        """How many samples with labels have one of them as the best; one shard tells."""
        return float(np.count_nonzero(best & (self._counts > 0))) if self._grid.labels.rank == 0 else 0.0


def _part(total, part, parts):
    """What one of several parts has of a number, at least 1."""
    return max(1, total * (part + 1) // parts - total * part // parts)
