"""The (sample, row) pairs of a layer: their ids, their grouping, their logits, their step."""

from __future__ import annotations

from typing import Protocol

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


class Groups(Protocol):
    """What `Pairs.group` makes of a batch's pairs: a `PairGroups`, or the `TouchedRows` of `HogwildPairs`."""

    @property
    def rows_in_place(self) -> np.ndarray:
        """The distinct rows of the pairs, ascending: int32, valid until the next batch."""


class Pairs:
    """The (sample, row) pairs of one layer, batch after batch.

    Parameters
    ----------
    name : str
        Name of the layer in memory reports.
    table : RowTable
        The table whose rows the pairs name.
    buffers : Buffers
        Where ids and logits are kept.
    """

    def __init__(self, name: str, table: RowTable, buffers: Buffers):
        self._name = name
        self._table = table
        self._buffers = buffers
        self._groups: PairGroups | None = None

    def room(self, what: str, n: int, capacity: int) -> np.ndarray:
        """Return an int32 array [n, capacity] for ids of pairs, in the same memory for every batch."""
        return self._buffers.array(f"{self._name} {what}", (n, capacity), dtypes.INDEX)

    def best(self, inputs: Activations, forced: Ragged, budget: int, threads: int) -> Ragged:
        """Return each sample's rows of highest logit, found by exhaustive search.

        Parameters
        ----------
        inputs : Activations
            The samples, as dense vectors.
        forced : Ragged
            Rows that are active in any case, without gaps between the samples, each sample's ascending.
        budget : int
            Number of rows per sample, forced ones included.
        threads : int
            Number of threads.
        """
        n = len(forced.begin)
        found = np.empty((n, min(budget, self._table.n_rows)), dtypes.INDEX)
        scores = np.empty(found.shape, dtypes.VALUE)
        exact_topk(self._table, inputs.vectors, forced.indptr, forced.flat, found, scores, threads)
        return self.lay_out(forced, found)

    def lay_out(self, forced: Ragged, others: np.ndarray) -> Ragged:
        """Return each sample's rows, with the same room for every sample: its forced rows, then others.

        `others` is an int32 array [samples, budget] of rows that are not forced, -1 for none. They are taken in order
        until a sample has `budget` rows.
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

    def group(self, rows: Ragged, threads: int) -> Groups:
        """Group the pairs by row; the groups are valid until the next call."""
        if self._groups is None or self._groups.capacity < len(rows.flat):
            capacity = len(rows.flat) + len(rows.flat) // 8
            self._groups = PairGroups(capacity, hugepages=self._buffers.hugepages)
            self._buffers.add(f"{self._name} pairs", self._groups.buffer_owner)
        self._groups.group(rows.flat, rows.begin, rows.end, self._table.n_rows, threads)
        return self._groups

    def catch_up(self, groups: Groups, rule: StepRule, threads: int) -> None:
        """Bring the pairs' rows up to date, for a kernel that does not do so itself before it reads them."""
        if rule.owed is not None:
            catch_up(self._table, groups.rows_in_place, rule.owed, threads)

    def logits(self, groups: Groups, rows: Ragged, inputs: Activations, now: Pass) -> np.ndarray:
        """Return the pairs' logits, parallel to ``rows.flat``; rows that skipped steps catch up first."""
        assert isinstance(groups, PairGroups)
        out = self._buffers.array(f"{self._name} logits", rows.flat.shape, dtypes.VALUE)
        if inputs.reads_sparse:
            self.catch_up(groups, now.rule, now.threads)
            columns, values = inputs.entries
            sparse_input.sddmm(
                self._table, groups, columns.begin, columns.end, columns.flat, values, out, now.threads
            )
        else:
            sparse.sddmm(self._table, groups, inputs.vectors, out, now.threads, now.rule.owed)
        return out

    def step(
        self, groups: Groups, deltas: np.ndarray, inputs: Activations, gradient: SampleGradient | None, now: Pass
    ) -> None:
        """Step the pairs' rows by the gradients `deltas` of their logits; add the samples' gradient to `gradient`."""
        assert isinstance(groups, PairGroups)
        if inputs.reads_sparse:
            columns, values = inputs.entries
            # A row may have millions of features. If the rule allows it, only the columns present are stepped.
            touched_only = inputs.dense is None and not now.rule.whole_rows
            sparse_input.step_groups(
                self._table,
                groups,
                deltas,
                columns.begin,
                columns.end,
                columns.flat,
                values,
                gradient,
                touched_only,
                now.rule,
                now.threads,
            )
        else:
            optim.step_groups(self._table, groups, deltas, inputs.vectors, gradient, now.rule, now.threads)
