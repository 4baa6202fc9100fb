"""The first hidden layer, if its rows, those of the features, are cut into shards like the labels.

Each rank computes what its features contribute to the hidden vectors of all samples. These contributions, like those to
the gradient, are added up in the order of the ranks. This takes one more exchange per step, but only one rank holds,
reads and steps each row.
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
    """Sparse features to a dense vector. A rank has the rows of the features of its shard; all ranks have the biases.

    Parameters
    ----------
    shard : LabelShard
        The features of this rank.
    ranks : Ranks
        The ranks with the shards.
    name, config, *rest
        As for `InputLayer`.
    """

    def __init__(self, shard: LabelShard, ranks: Ranks, name: str, config: HiddenConfig, *rest):
        super().__init__(name, shard.n_rows, config, *rest)
        self.shard, self._ranks = shard, ranks
        _, seed, _, threads = rest
        # Each feature has the same weights as in a network of one process.
        self.table.fill_uniform(np.sqrt(3.0 / config.units), seed, threads, shard.first, shard.distance)

    def forward(self, inputs: Activations, now: Pass) -> Activations:
        """See `HiddenLayer.forward`; all ranks have the same samples."""
        self._mine = mine = self._own(inputs)
        columns, _ = mine.entries
        self._groups = self._pairs.group(columns, now.threads)
        self._pairs.catch_up(self._groups, now.rule, now.threads)
        n, size = len(columns.begin), self._ranks.size
        counts = np.diff(n * np.arange(size + 1) // size)
        own = self._sum(mine, counts, now.threads)
        out = self._buffers.array(f"{self.name} output", (n, self.padded_dim), dtypes.VALUE)
        out[:] = self._ranks.allgatherv("hidden", own, counts)
        self._drop(out, now)
        return Activations.of_vectors(out)

    def predict(self, inputs: Activations, threads: int) -> Activations:
        """See `HiddenLayer.predict`; all ranks call this together, each with its own samples."""
        (columns, values), ranks = inputs.entries, self._ranks
        sizes = ranks.allgather("prediction", np.array([len(columns.begin), len(columns.flat)], np.int64))
        lengths = ranks.allgatherv("prediction", columns.lengths, sizes[:, 0])
        indices = ranks.allgatherv("prediction", columns.flat, sizes[:, 1])
        values = ranks.allgatherv("prediction", values, sizes[:, 1])
        ends = np.concatenate([[0], np.cumsum(lengths)]).astype(dtypes.OFFSET, copy=False)
        every = Activations.of_features(Ragged(indices, ends[:-1], ends[1:]), values)
        return Activations.of_vectors(self._sum(self._own(every), sizes[:, 0], threads, "prediction"))

    def _own(self, inputs: Activations) -> Activations:
        """Return only the features of this rank's shard, under their numbers in it."""
        columns, values = inputs.entries
        ptr, numbers, here = self.shard.select(columns.indptr, columns.flat)
        return Activations.of_features(Ragged(numbers, ptr[:-1], ptr[1:]), values[here])

    def _sum(self, mine: Activations, counts: np.ndarray, threads: int, kind: str = "hidden") -> np.ndarray:
        """Return the layer's output for this rank's part of the samples, summed over the features of all ranks."""
        columns, values = mine.entries
        part = np.empty((len(columns.begin), self.padded_dim), dtypes.VALUE)
        spmm(self.table, columns.indptr, columns.flat, values, NOTHING, False, part, threads)
        own = in_order(self._ranks.alltoallv(kind, part, counts))
        own += self.bias
        if self.relu:
            # NaN is not below 0, so it passes through.
            own[own < 0.0] = 0.0
        return own

    def step(self, inputs: Activations, dout: np.ndarray, gradient: SampleGradient | None, now: Pass) -> None:
        """See `HiddenLayer.step`; all ranks have the same gradient and take the same step of the biases."""
        super().step(self._mine, dout, gradient, now)
