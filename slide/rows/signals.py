"""What flows between layers: a batch of vectors, dense, sparse or both, and the (sample, row) pairs of a batch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from slide.buffers import Buffers
from slide.index import NeuronIndex
from slide.kernels import dtypes, optim, sparse, sparse_input
from slide.kernels.catch_up import catch_up
from slide.kernels.grouping import PairGroups
from slide.kernels.optim import StepRule
from slide.kernels.rows import RowTable
from slide.kernels.search import exact_topk
from slide.kernels.sparse import SampleGradient

SPARSE_BELOW = 1 / 24
"""Share of non-zero columns under which a layer reads only those of the samples below it: a scalar multiplication at a
random column costs about as much as one on a whole vector register."""


class Runs(NamedTuple):
    """A few entries of a flat array for each sample: ``flat[begin[s]:end[s]]``."""

    flat: np.ndarray
    begin: np.ndarray
    end: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Entries of each sample."""
        return self.end - self.begin

    @property
    def indptr(self) -> np.ndarray:
        """CSR row offsets, for runs without gaps."""
        return np.append(self.begin, self.end[-1:])

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Return, for every entry of every sample in order, its sample and its place in `flat`."""
        lengths = self.lengths
        samples = np.repeat(np.arange(len(lengths)), lengths)
        within = np.arange(len(samples)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return samples, np.repeat(self.begin, lengths) + within


class Signal(NamedTuple):
    """A layer's input for each sample of a batch.

    Attributes
    ----------
    dense : float32 array [samples, padded_dim] or None
        None for the features.
    columns : Runs or None
        Ids of the columns that are not zero, None where all may be. The features' runs have no gaps between them.
    values : float32 array or None
        Their values, parallel to ``columns.flat``.
    """

    dense: np.ndarray | None
    columns: Runs | None
    values: np.ndarray | None

    @property
    def reads_sparse(self) -> bool:
        """Whether a layer above should read the non-zero columns alone."""
        if self.dense is None:
            return True
        return self.columns is not None and self.columns.lengths.mean() < SPARSE_BELOW * self.dense.shape[1]


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

    def draw(
        self, index: NeuronIndex, signal: Signal, forced: Runs, budget: int, iteration: int, threads: int
    ) -> Runs:
        """Draw every sample's active rows from the hash tables.

        Parameters
        ----------
        index : NeuronIndex
        signal : Signal
            The samples.
        forced : Runs
            Rows that are active in any case, from the first sample's first on without gaps.
        budget : int
        iteration : int
            Keys the draws.
        threads : int
        """
        n = len(forced.begin)
        capacity = max(min(budget, self._table.n_rows), int(forced.lengths.max(initial=0)))
        ids = self.room("candidates", n, capacity)
        begin = np.arange(n, dtype=dtypes.OFFSET) * capacity
        counts = np.zeros(n, dtypes.OFFSET)
        budget = min(budget, self._table.n_rows)
        index.sample(signal, forced.indptr, forced.flat, budget, iteration, ids, counts, threads)
        return Runs(ids.reshape(-1), begin, begin + counts)

    def best(self, signal: Signal, forced: Runs, budget: int, threads: int) -> Runs:
        """Take every sample's rows of highest logit, searched exhaustively.

        Parameters
        ----------
        signal : Signal
            The samples.
        forced : Runs
            As of ``draw``, each sample's rows ascending; `budget` counts them.
        budget : int
        threads : int
        """
        n = len(forced.begin)
        found = np.empty((n, min(budget, self._table.n_rows)), dtypes.INDEX)
        scores = np.empty(found.shape, dtypes.VALUE)
        exact_topk(self._table, signal.dense, forced.indptr, forced.flat, found, scores, threads)
        return self.lay_out(forced, found)

    def lay_out(self, forced: Runs, others: np.ndarray) -> Runs:
        """Return runs of rows as ``draw`` does, with room for as many each: the forced ones, then others.

        Parameters
        ----------
        forced : Runs
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
        return Runs(ids.reshape(-1), begin, begin + lengths)

    def group(self, rows: Runs, threads: int) -> PairGroups:
        """Group the pairs by row."""
        if self._groups is None or self._groups.capacity < len(rows.flat):
            capacity = len(rows.flat) + len(rows.flat) // 8
            self._groups = PairGroups(capacity, hugepages=self._buffers.hugepages)
            self._buffers.add(f"{self._name} pairs", self._groups.buffer_owner)
        self._groups.group(rows.flat, rows.begin, rows.end, self._table.n_rows, threads)
        return self._groups

    def catch_up(self, groups: PairGroups, rule: StepRule, threads: int) -> None:
        """Let the pairs' rows pay what they owe, before something reads them that does not see to it itself."""
        if rule.owed is not None:
            catch_up(self._table, groups.rows_in_place, rule.owed, threads)

    def logits(
        self, groups: PairGroups, rows: Runs, signal: Signal, threads: int, rule: StepRule | None = None
    ) -> np.ndarray:
        """Return the pairs' logits, parallel to ``rows.flat``; with a rule their rows pay first what they owe by it."""
        out = self._buffers.array(f"{self._name} logits", rows.flat.shape, dtypes.VALUE)
        if signal.reads_sparse:
            if rule is not None:
                self.catch_up(groups, rule, threads)
            sparse_input.sddmm(self._table, groups, *_entries(signal), out, threads)
        else:
            sparse.sddmm(self._table, groups, signal.dense, out, threads, None if rule is None else rule.owed)
        return out

    def step(
        self,
        groups: PairGroups,
        deltas: np.ndarray,
        signal: Signal,
        gradient: SampleGradient | None,
        rule: StepRule,
        threads: int,
    ) -> None:
        """Update the pairs' rows for their logits' gradients `deltas`; add the samples' gradient to `gradient`."""
        if signal.reads_sparse:
            # Of the features only those present are stepped, where the others may wait; there may be millions.
            touched_only = signal.dense is None and not rule.whole_rows
            sparse_input.step_groups(
                self._table, groups, deltas, *_entries(signal), gradient, touched_only, rule, threads
            )
        else:
            optim.step_groups(self._table, groups, deltas, signal.dense, gradient, rule, threads)


def _entries(signal):
    return signal.columns.begin, signal.columns.end, signal.columns.flat, signal.values
