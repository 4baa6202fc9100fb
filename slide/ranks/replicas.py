"""Replicas of a shard: the same labels on ranks that train on other samples, and how they stay alike.

In every batch they combine the gradients of the rows that any of them touched: row ids and gradients travel, are added
up in the order of the ranks, and every replica takes the same step. With ``keep_rows`` below 1 a replica sends the rows
of largest gradient alone and keeps the others' as a residual that goes on top of the row's next gradient (error
feedback; Stich et al., *Sparsified SGD with memory*, NeurIPS 2018). With ``average_every`` they do not talk until then,
and average what they have become (local SGD; Stich, ICLR 2019).
"""

from __future__ import annotations

import numpy as np

from slide.kernels import dtypes
from slide.kernels.rows import RowTable
from slide.model.stack import LayerStack
from slide.ranks.comm import Pending
from slide.ranks.grid import Grid

BLOCK = 1 << 12
"""Rows that are averaged at a time."""


class Replicas:
    """What one replica exchanges with those of the same shard.

    Parameters
    ----------
    grid : Grid
    table : RowTable
        Of the shard.

    Attributes
    ----------
    combine_gradients : bool
        Whether there are other replicas that the batches' gradients are combined with.
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
        """What this replica keeps back: gradients of rows and their biases, float32 [n_rows, any]; None if nothing."""
        return self._residual

    def begin(self, rows: np.ndarray, gradients: np.ndarray) -> None:
        """Begin to combine the gradients of this replica with those of the others; ``end`` does the rest.

        Parameters
        ----------
        rows : int32 array [n]
            Ascending, each once.
        gradients : float32 array [n, any]
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
        """Return the rows that any replica has touched, those that it gives a gradient of, and the gradients' sums.

        Returns
        -------
        touched, rows : int32 arrays [any], [m]
            Ascending. What was touched on one replica has caught up there, and must do so on all.
        gradients : float32 array [m, any]
        """
        ids, parts, *touched = [pending.wait() for pending in self._under_way]
        rows, places = np.unique(ids, return_inverse=True)
        total, first = np.zeros((len(rows), parts.shape[1]), dtypes.VALUE), 0
        for count in self._counts.tolist():
            total[places[first : first + count]] += parts[first : first + count]
            first += count
        self._under_way = []
        return np.unique(touched[0]) if touched else rows, rows, total

    def _largest(self, rows, gradients):
        """The rows whose gradients, residuals included, are longest; the others' become residuals."""
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
    """Make replicas the mean of what they have become: weights, biases and moments of all rows that any has touched.

    Parameters
    ----------
    grid : Grid
    layers : LayerStack
    since : int
        The step of the last average; rows that no replica has touched since are the same on all.
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


def _mean(ranks, array):
    return (ranks.ordered_sum("average", array.astype(np.float32)) / ranks.size).astype(array.dtype, copy=False)
