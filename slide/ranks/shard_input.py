"""The first hidden layer where its rows, the features', are cut into shards as the labels are.

Each rank adds up what its features give to the hidden vectors of all samples; the sums of these parts are taken in the
order of the ranks, as those of the gradient are. One exchange more a step, then, and every row is read and stepped by
one rank alone: neither their memory nor their time is spent on all of them.
"""

from __future__ import annotations

import numpy as np

from slide.config import HiddenConfig
from slide.kernels import dtypes
from slide.kernels.sparse import SampleGradient, spmm
from slide.model.layers import InputLayer
from slide.ranks.comm import Ranks, in_order
from slide.ranks.grid import LabelShard
from slide.rows.activations import Activations, Ragged
from slide.rows.passes import Pass

NOTHING = np.zeros(0, dtypes.VALUE)


class ShardInput(InputLayer):
    """Sparse features to a dense vector, of which a rank has the features of its shard, and all have the biases.

    Parameters
    ----------
    shard : LabelShard
        Of the features.
    ranks : Ranks
        Those that have the other shards.
    name, config, *rest
        As for `InputLayer`.
    """

    def __init__(self, shard: LabelShard, ranks: Ranks, name: str, config: HiddenConfig, *rest):
        super().__init__(name, shard.n_rows, config, *rest)
        self.shard, self._ranks = shard, ranks
        _, seed, _, threads = rest
        # Weights are those that the features have in a network on one process.
        self.table.fill_uniform(np.sqrt(3.0 / config.units), seed, threads, shard.first, shard.distance)

    def forward(self, inputs: Activations, now: Pass) -> Activations:
        """See `HiddenLayer.forward`; all ranks have the same samples."""
        self._mine = mine = self._own(inputs)
        self._groups = self._pairs.group(mine.columns, now.threads)
        self._pairs.catch_up(self._groups, now.rule, now.threads)
        n, size = len(mine.columns.begin), self._ranks.size
        counts = np.diff(n * np.arange(size + 1) // size)
        own = self._sum(mine, counts, now.threads)
        out = self._buffers.array(f"{self.name} output", (n, self.padded_dim), dtypes.VALUE)
        out[:] = self._ranks.allgatherv("hidden", own, counts)
        self._drop(out, now)
        return Activations(out, None, None)

    def predict(self, inputs: Activations, threads: int) -> Activations:
        """See `HiddenLayer.predict`; every rank has samples of its own, and all call this together."""
        columns, ranks = inputs.columns, self._ranks
        sizes = ranks.allgather("prediction", np.array([len(columns.begin), len(columns.flat)], np.int64))
        lengths = ranks.allgatherv("prediction", columns.lengths, sizes[:, 0])
        indices = ranks.allgatherv("prediction", columns.flat, sizes[:, 1])
        values = ranks.allgatherv("prediction", inputs.values, sizes[:, 1])
        ends = np.concatenate([[0], np.cumsum(lengths)]).astype(dtypes.OFFSET, copy=False)
        every = Activations(None, Ragged(indices, ends[:-1], ends[1:]), values)
        return Activations(self._sum(self._own(every), sizes[:, 0], threads, "prediction"), None, None)

    def _own(self, inputs):
        """The features of this rank."""
        columns = inputs.columns
        ptr, numbers, here = self.shard.select(columns.indptr, columns.flat)
        return Activations(None, Ragged(numbers, ptr[:-1], ptr[1:]), inputs.values[here])

    def _sum(self, mine, counts, threads, kind="hidden"):
        """The layer's output for this rank's part of some samples, from what every rank's features give to it."""
        columns = mine.columns
        part = np.empty((len(columns.begin), self.padded_dim), dtypes.VALUE)
        spmm(self.table, columns.indptr, columns.flat, mine.values, NOTHING, False, part, threads)
        own = in_order(self._ranks.alltoallv(kind, part, counts))
        own += self.bias
        if self.relu:
            # Written so that NaN passes through.
            own[own < 0.0] = 0.0
        return own

    def step(self, inputs: Activations, dout: np.ndarray, gradient: SampleGradient | None, now: Pass) -> None:
        """See `HiddenLayer.step`; all ranks have the same gradient, and step the biases alike."""
        super().step(self._mine, dout, gradient, now)
