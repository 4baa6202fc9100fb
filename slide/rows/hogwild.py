"""The pairs of a layer that trains without locks: ``NetworkConfig.update = "hogwild"``, SLIDE's own way."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from slide.kernels import dtypes, hogwild
from slide.kernels.rows import RowTable
from slide.kernels.sparse import SampleGradient
from slide.rows.activations import Activations, Ragged
from slide.rows.pairs import Pairs
from slide.rows.passes import Pass
from slide.system.buffers import Buffers


class TouchedRows(NamedTuple):
    """A batch's pairs, sample by sample, and their distinct rows, ascending."""

    pairs: Ragged
    rows_in_place: np.ndarray


class HogwildPairs(Pairs):
    """Pairs whose gradients all threads add up at once, in a table as large as the weights.

    The counterpart of grouping them by row; see `slide.kernels.hogwild`. What of a gradient is lost where threads meet
    is chance, so that training repeats itself on one thread alone. Samples are read as dense vectors, even where few of
    their columns are not zero.

    Parameters
    ----------
    name, table, buffers
        As for `Pairs`.
    """

    def __init__(self, name: str, table: RowTable, buffers: Buffers):
        super().__init__(name, table, buffers)
        what = f"{name} row gradients"
        self._sums = RowTable(table.n_rows, table.dim, moments=0, name=what, hugepages=buffers.hugepages)
        buffers.add(what, self._sums.buffer)
        self._stamps = buffers.array(f"{name} row stamps", (table.n_rows,), dtypes.INDEX)
        # Another layer of this name may have left its own: one with fewer labels, before the network grew.
        self._stamps[:] = 0
        self._stamp = 0

    @staticmethod
    def bytes_needed(n_rows: int, dim: int) -> int:
        """Return the bytes of the gradients, and of what says which of them a batch has touched.

        Parameters
        ----------
        n_rows, dim : int
            Of the layer's table.
        """
        return RowTable.bytes_needed(n_rows, dim, 0) + n_rows * dtypes.INDEX.itemsize

    def group(self, rows: Ragged, threads: int) -> TouchedRows:
        """Find the pairs' distinct rows; `rows` must stay as they are until the step."""
        self._stamp += 1
        touched = self._buffers.array(f"{self._name} touched rows", rows.flat.shape, dtypes.INDEX)
        count = hogwild.touched_rows(*rows, self._stamps, self._stamp, touched, threads)
        return TouchedRows(rows, touched[:count])

    def logits(self, groups: TouchedRows, rows: Ragged, inputs: Activations, now: Pass) -> np.ndarray:
        """See `Pairs.logits`."""
        self.catch_up(groups, now.rule, now.threads)
        out = self._buffers.array(f"{self._name} logits", rows.flat.shape, dtypes.VALUE)
        hogwild.sddmm(self._table, *rows, inputs.dense, out, now.threads)
        return out

    def step(
        self, groups: TouchedRows, deltas: np.ndarray, inputs: Activations, gradient: SampleGradient | None, now: Pass
    ) -> None:
        """See `Pairs.step`."""
        rest = (deltas, inputs.dense, gradient, now.rule, now.threads)
        hogwild.step_rows(self._table, self._sums, groups.rows_in_place, *groups.pairs, *rest)
