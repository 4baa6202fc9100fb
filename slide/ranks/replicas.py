"""Replicas of a shard: ranks with the same labels and different samples, and how their weights stay equal.

In every batch, the replicas combine the gradients of the rows that any of them touched: they exchange row ids and
gradients, add them up in the order of the ranks, and all take the same step. With ``keep_rows`` below 1, a replica
sends only the rows with the largest gradients and keeps the other gradients as a residual, which it adds to the next
gradient of the same row (error feedback; Stich et al., *Sparsified SGD with memory*, NeurIPS 2018). With
``average_every`` they exchange nothing for that many batches, and then average their weights (local SGD; Stich, ICLR
2019).
"""

from __future__ import annotations

import numpy as np

from slide.kernels import dtypes
from slide.kernels.rows import RowTable
from slide.model.stack import LayerStack
from slide.ranks.comm import Pending, Ranks
from slide.ranks.grid import Grid

BLOCK = 1 << 12
"""Number of rows that are averaged at a time."""


class Replicas:
    """Exchanges gradients between this rank and the other replicas of its shard.

    Parameters
    ----------
    grid : Grid
        The grid of ranks.
    table : RowTable
        Rows of the shard.

    Attributes
    ----------
    combine_gradients : bool
        Whether there are other replicas, with which the gradients of every batch are combined.
    """

    def __init__(self, grid: Grid, table: RowTable):
        self._ranks, self._keep = grid.data, grid.config.keep_rows
        self.combine_gradients = grid.data.size > 1 and grid.config.average_every is None
        self._residual: np.ndarray | None = None
        self._under_way: list[Pending] = []
        if self.combine_gradients and self._keep < 1:
            self._residual = np.zeros((table.n_rows, table.padded_dim + 1), dtypes.VALUE)

    @property
    def residual(self) -> np.ndarray | None:
        """Gradients of rows and their biases that this replica has kept back, float32 [n_rows, any]; None if none."""
        return self._residual

    def begin(self, rows: np.ndarray, gradients: np.ndarray) -> None:
        """Begin to combine the gradients of this replica with those of the others; ``end`` does the rest.

        `rows` are int32 [n], ascending, each once; `gradients` are float32 [n, any].
        """
        touched = rows
        if self._residual is not None:
            rows, gradients = self._largest(rows, gradients)
        counts = self._ranks.allgather("rows", np.array([len(rows), len(touched)], np.int64))
        self._counts, join = counts[:, 0], self._ranks.iallgatherv
        self._under_way = [join("rows", rows, counts[:, 0]), join("rows", gradients, counts[:, 0])]
        if self._residual is not None:
            self._under_way.append(join("rows", touched, counts[:, 1]))

    def end(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Finish the exchange that ``begin`` began.

        Returns
        -------
        touched : int32 array
            Rows that any replica has touched, ascending. They have caught up there and must catch up on all replicas.
        rows : int32 array [m]
            Rows with gradients, ascending.
        gradients : float32 array [m, any]
            Sums of the gradients of all replicas.
        """
        ids, parts, *touched = [pending.wait() for pending in self._under_way]
        rows, places = np.unique(ids, return_inverse=True)
        total, first = np.zeros((len(rows), parts.shape[1]), dtypes.VALUE), 0
        for count in self._counts.tolist():
            total[places[first : first + count]] += parts[first : first + count]
            first += count
        self._under_way = []
        return np.unique(touched[0]) if touched else rows, rows, total

    def _largest(self, rows: np.ndarray, gradients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows with the longest gradients, residuals included; the other gradients become residuals."""
        assert self._residual is not None
        gradients = gradients + self._residual[rows]
        self._residual[rows] = gradients
        count = int(np.ceil(self._keep * len(rows)))
        if count < len(rows):
            lengths = np.einsum("ij,ij->i", gradients, gradients)
            kept = np.sort(np.argpartition(-lengths, count)[:count])
            rows, gradients = rows[kept], gradients[kept]
        self._residual[rows] = 0.0
        return rows, gradients


def average(grid: Grid, layers: LayerStack, since: int) -> None:
    """Average the weights, biases and moments of all replicas, for the rows that any replica has touched.

    `since` is the step of the last average: rows that no replica has touched since are equal on all.
    """
    ranks = grid.data
    tables = [layer.table for layer in layers]
    touched = [(table.last_step > since).astype(np.uint8) for table in tables]
    layers.settle()
    for layer, mine in zip(layers, touched, strict=True):
        rows = np.flatnonzero(ranks.allgather("average", mine).any(axis=0))
        for name, view in layer.state().items():
            if name == "last_step":
                view[rows] = ranks.allgather("average", view[rows]).max(axis=0)
            elif name.startswith("bias") and not layer.rows_are_units:
                view[...] = _mean(ranks, np.asarray(view))
            else:
                for first in range(0, len(rows), BLOCK):
                    some = rows[first : first + BLOCK]
                    view[some] = _mean(ranks, np.asarray(view[some]))


def _mean(ranks: Ranks, array: np.ndarray) -> np.ndarray:
    return (ranks.ordered_sum("average", array.astype(np.float32)) / ranks.size).astype(array.dtype, copy=False)
