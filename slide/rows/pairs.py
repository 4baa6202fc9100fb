"""The (sample, row) pairs of a layer: their ids, their grouping, their logits, their step."""

from __future__ import annotations

import numpy as np

from slide.kernels import dtypes, optim, sparse, sparse_input
from slide.kernels.catch_up import catch_up
from slide.kernels.grouping import PairGroups
from slide.kernels.optim import StepRule
from slide.kernels.rows import RowTable
from slide.kernels.search import exact_topk
from slide.kernels.sparse import SampleGradient
from slide.rows.activations import Activations, Ragged
from slide.rows.passes import Pass
from slide.system.buffers import Buffers


class Pairs:
    """The (sample, row) pairs of one layer, batch after batch: their ids, their grouping, their logits.

    Parameters
    ----------
    name : str
        Of the layer, for memory reports.
    table : RowTable
        Whose rows the pairs name.
    buffers : Buffers
    """

    def __init__(self, name: str, table: RowTable, buffers: Buffers):
        self._name = name
        self._table = table
        self._buffers = buffers
        self._groups: PairGroups | None = None

    def room(self, what: str, n: int, capacity: int) -> np.ndarray:
        """Return an int32 array [n, capacity] for ids of pairs, the same memory for every batch."""
        return self._buffers.array(f"{self._name} {what}", (n, capacity), dtypes.INDEX)

    def best(self, inputs: Activations, forced: Ragged, budget: int, threads: int) -> Ragged:
        """Take every sample's rows of highest logit, searched exhaustively.

        Parameters
        ----------
        inputs : Activations
            The samples.
        forced : Ragged
            Rows that are active in any case, without gaps, each sample's ascending; `budget` counts them.
        budget : int
        threads : int
        """
        n = len(forced.begin)
        found = np.empty((n, min(budget, self._table.n_rows)), dtypes.INDEX)
        scores = np.empty(found.shape, dtypes.VALUE)
        exact_topk(self._table, inputs.dense, forced.indptr, forced.flat, found, scores, threads)
        return self.lay_out(forced, found)

    def lay_out(self, forced: Ragged, others: np.ndarray) -> Ragged:
        """Return each sample's rows, with the same room for every sample: the forced ones, then others.

        Parameters
        ----------
        forced : Ragged
        others : int32 array [samples, budget]
            Rows that are not forced, taken in order until a sample has `budget` rows; -1 for none.
        """
        n, budget = others.shape
        lengths = forced.lengths
        ids = self.room("candidates", n, max(budget, int(lengths.max(initial=0))))
        for s, row in enumerate(ids):
            mine = forced.flat[forced.begin[s] : forced.end[s]]
            rest = others[s, : max(0, budget - len(mine))]
            rest = rest[rest >= 0]
            lengths[s] += len(rest)
            row[: lengths[s]] = np.concatenate([mine, rest])
        begin = np.arange(n, dtype=dtypes.OFFSET) * ids.shape[1]
        return Ragged(ids.reshape(-1), begin, begin + lengths)

    def group(self, rows: Ragged, threads: int) -> PairGroups:
        """Group the pairs by row."""
        if self._groups is None or self._groups.capacity < len(rows.flat):
            capacity = len(rows.flat) + len(rows.flat) // 8
            self._groups = PairGroups(capacity, hugepages=self._buffers.hugepages)
            self._buffers.add(f"{self._name} pairs", self._groups.buffer_owner)
        self._groups.group(rows.flat, rows.begin, rows.end, self._table.n_rows, threads)
        return self._groups

    def catch_up(self, groups: PairGroups, rule: StepRule, threads: int) -> None:
        """Bring the pairs' rows up to date, before a kernel reads them that does not do so itself."""
        if rule.owed is not None:
            catch_up(self._table, groups.rows_in_place, rule.owed, threads)

    def logits(self, groups: PairGroups, rows: Ragged, inputs: Activations, now: Pass) -> np.ndarray:
        """Return the pairs' logits, parallel to ``rows.flat``; rows that skipped steps catch up first."""
        out = self._buffers.array(f"{self._name} logits", rows.flat.shape, dtypes.VALUE)
        if inputs.reads_sparse:
            self.catch_up(groups, now.rule, now.threads)
            sparse_input.sddmm(self._table, groups, *_entries(inputs), out, now.threads)
        else:
            sparse.sddmm(self._table, groups, inputs.dense, out, now.threads, now.rule.owed)
        return out

    def step(
        self, groups: PairGroups, deltas: np.ndarray, inputs: Activations, gradient: SampleGradient | None, now: Pass
    ) -> None:
        """Step the pairs' rows by the gradients `deltas` of their logits; add the samples' gradient to `gradient`."""
        if inputs.reads_sparse:
            # There may be millions of features. Only those present are stepped, where the others may wait.
            touched_only = inputs.dense is None and not now.rule.whole_rows
            sparse_input.step_groups(
                self._table, groups, deltas, *_entries(inputs), gradient, touched_only, now.rule, now.threads
            )
        else:
            optim.step_groups(self._table, groups, deltas, inputs.dense, gradient, now.rule, now.threads)


def _entries(inputs):
    return inputs.columns.begin, inputs.columns.end, inputs.columns.flat, inputs.values
