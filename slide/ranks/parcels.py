"""The parts of a batch that the ranks read, on their way to all ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slide.data.batches import Batch
from slide.kernels import dtypes
from slide.ranks.comm import Pending
from slide.ranks.grid import Grid

AHEAD = 2
"""Number of batches under way during training on one: the samples of the next, and the sizes of the one after it."""


@dataclass(frozen=True)
class JoinedBatch(Batch):
    """A batch that was joined from several ranks.

    Attributes
    ----------
    parts : int64 array [ranks + 1]
        Where each rank's samples begin, and the end.
    in_all : int
        Number of samples of the step, over all ranks.
    """

    parts: np.ndarray
    in_all: int

    @property
    def n_samples(self) -> int:
        """See `Batch.n_samples`."""
        return self.in_all


class Parcel:
    """A batch on its way: the sizes of its parts travel first, and the samples once the sizes have arrived.

    `parts` is what this rank gives to the batch; it is copied.
    """

    def __init__(self, grid: Grid, parts: list[Batch]):
        self._grid = grid
        features = np.concatenate([np.diff(part.indptr) for part in parts])
        labels = np.concatenate([np.diff(part.label_ptr) for part in parts])
        pieces = [features, labels, *(part.indices for part in parts), *(part.labels for part in parts)]
        pieces += [part.values.view(dtypes.INDEX) for part in parts]
        self._packed: np.ndarray | None = np.concatenate([piece.astype(dtypes.INDEX, copy=False) for piece in pieces])
        sizes = np.array([len(features), int(features.sum()), int(labels.sum())], np.int64)
        self._sizes = grid.world.iallgather("features", sizes)
        self._samples: Pending | None = None

    def send(self) -> None:
        """Send the samples, if they were not sent before."""
        if self._packed is not None:
            self._of_world = self._sizes.wait()
            first, together = 0, self._grid.together
            if together is not self._grid.world:
                first = self._grid.data.rank * together.size
            self._counts = self._of_world[first : first + together.size]
            n, values, labels = self._counts.T
            self._samples = together.iallgatherv("features", self._packed, 2 * n + 2 * values + labels)
            self._packed = None

    def receive(self) -> JoinedBatch:
        """Return the batch, once all of it has arrived."""
        assert self._samples is not None, "receive() comes after send()"
        packed, first = self._samples.wait(), 0
        pieces: list[list[np.ndarray]] = [[], [], [], [], []]
        for n, values, labels in self._counts.tolist():
            for piece, size in zip(pieces, (n, n, values, labels, values), strict=True):
                piece.append(packed[first : first + size])
                first += size
        features, counts, indices, labels, values = (np.concatenate(piece) for piece in pieces)
        parts = _starts(self._counts[:, 0])
        ends = _starts(features), _starts(counts)
        in_all = int(self._of_world[:, 0].sum())
        return JoinedBatch(ends[0], indices, values.view(dtypes.VALUE), ends[1], labels, parts, in_all)

    def abandon(self) -> None:
        """Wait for what is under way, and do not use it."""
        self._sizes.wait()
        if self._samples is not None:
            self._samples.wait()


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=dtypes.OFFSET)]).astype(dtypes.OFFSET, copy=False)
