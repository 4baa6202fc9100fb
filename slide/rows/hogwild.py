"""Pairs that are stepped without locks, as the paper does: ``NetworkConfig.update = "hogwild"``."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from slide.kernels import dtypes, hogwild
from slide.kernels.memory import HugeBuffer
from slide.kernels.rows import RowTable
from slide.kernels.sparse import SampleGradient
from slide.rows.activations import Activations, Ragged
from slide.rows.pairs import Groups, Pairs
from slide.rows.passes import Pass
from slide.system.buffers import Buffers


class TouchedRows(NamedTuple):
    """A batch's pairs, sample by sample, and their distinct rows, an ascending int32 array."""

    pairs: Ragged
    rows_in_place: np.ndarray


class HogwildPairs(Pairs):
    """Pairs whose gradients all threads add up at once, in a table as large as the weights.

    The alternative to grouping pairs by row; see `slide.kernels.hogwild` and `Pairs`. Where two threads meet, chance
    decides which part of a gradient is lost, so training is repeatable only with one thread. Samples are read as dense
    vectors, even if few of their columns are non-zero.
    """

    def __init__(self, name: str, table: RowTable, buffers: Buffers):
        super().__init__(name, table, buffers)
        what = f"{name} row gradients"
        self._sums = RowTable(table.n_rows, table.dim, moments=0, name=what, hugepages=buffers.hugepages)
        memory = self._sums.buffer
        assert isinstance(memory, HugeBuffer)
        buffers.add(what, memory)
        self._stamps = buffers.array(f"{name} row stamps", (table.n_rows,), dtypes.INDEX)
        # The memory may have the stamps of an earlier layer of this name, before the network grew.
        self._stamps[:] = 0
        self._stamp = 0

    @staticmethod
    def bytes_needed(n_rows: int, dim: int) -> int:
        """Return the bytes of the gradients and of the stamps that mark touched rows, for a table of this size."""
        return RowTable.bytes_needed(n_rows, dim, 0) + n_rows * dtypes.INDEX.itemsize

    def group(self, rows: Ragged, threads: int) -> TouchedRows:
        """Find the pairs' distinct rows; `rows` must not change before the step."""
        self._stamp += 1
        touched = self._buffers.array(f"{self._name} touched rows", rows.flat.shape, dtypes.INDEX)
        count = hogwild.touched_rows(*rows, self._stamps, self._stamp, touched, threads)
        return TouchedRows(rows, touched[:count])

    def logits(self, groups: Groups, rows: Ragged, inputs: Activations, now: Pass) -> np.ndarray:
        """See `Pairs.logits`."""
        self.catch_up(groups, now.rule, now.threads)
        out = self._buffers.array(f"{self._name} logits", rows.flat.shape, dtypes.VALUE)
        hogwild.sddmm(self._table, rows.flat, rows.begin, rows.end, inputs.vectors, out, now.threads)
        return out

    def step(
        self, groups: Groups, deltas: np.ndarray, inputs: Activations, gradient: SampleGradient | None, now: Pass
    ) -> None:
        """See `Pairs.step`."""
        assert isinstance(groups, TouchedRows)
        flat, begin, end = groups.pairs
        hogwild.step_rows(
            self._table,
            self._sums,
            groups.rows_in_place,
            flat,
            begin,
            end,
            deltas,
            inputs.vectors,
            gradient,
            now.rule,
            now.threads,
        )
