"""The order in which an epoch goes through the data, a function of the seed and the epoch alone.

By default it is a permutation of all samples. Data that is not in memory is shuffled in windows: its blocks of
consecutive samples are drawn in random order, as many as a window has room for, and the samples of these blocks are
shuffled among themselves. Every block is read once and from one end to the other, and only a window is in use at a
time. Samples that stand beside each other in the file then share a window; they are far apart if the file is in random
order, or if a window has many blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from slide.data.mapped import stretches
from slide.kernels import dtypes

WINDOW_BLOCKS = 64
"""Blocks of a window: enough to mix samples from all over the file, few enough to be read at the disk's speed."""

WINDOW_BYTES = 64 << 20
"""What a window of mapped data takes, on average, where nothing else is said."""


def epoch_order(n: int, seed: int, epoch: int, part: int = 0) -> np.ndarray:
    """Return a permutation of 0..n-1, a function of (n, seed, epoch, part) alone.

    Parameters
    ----------
    n, seed, epoch, part : int
        The part is of the data, where parts of it are shuffled each for itself.

    Returns
    -------
    int64 array [n]
    """
    return _generator(seed, epoch, part).permutation(n).astype(dtypes.OFFSET, copy=False)


class EpochOrder:
    """The order of one epoch, in batches, made as it is used.

    Parameters
    ----------
    n : int
        Samples.
    seed, epoch : int
    shuffle : bool
        False for the order of the data.
    window : int, optional
        Samples of a window, a multiple of `WINDOW_BLOCKS` or else rounded up to one; None for a permutation of all, and
        so is a window that holds all.
    part : int
        As of `epoch_order`.
    """

    def __init__(
        self, n: int, seed: int, epoch: int, *, shuffle: bool = True, window: int | None = None, part: int = 0
    ):
        self.n, self.seed, self.epoch, self.shuffle, self.part = n, seed, epoch, shuffle, part
        self.block = -(-(n if window is None else window) // WINDOW_BLOCKS)
        self.whole = window is None or window >= n

    def batches(
        self,
        batch_size: int,
        first: int = 0,
        ahead: Callable[[np.ndarray, np.ndarray], None] | None = None,
        expected: Callable[[np.ndarray, np.ndarray], None] | None = None,
    ) -> Iterator[np.ndarray]:
        """Yield the rows of each batch, as int64 arrays.

        Parameters
        ----------
        batch_size : int
        first : int
            The batch to begin with, counted from 0: what comes before is not made.
        ahead : callable, optional
            Called with the starts and the stops of ranges of rows, before any is used: no others are until the next
            call.
        expected : callable, optional
            Called after `ahead` with the ranges that it will be called with next, and some fewer; not before the last.
        """
        skip = first * batch_size
        rest = np.zeros(0, dtypes.OFFSET)
        windows = self._windows()
        later = next(windows, None)
        while later is not None:
            (starts, stops, number), later = later, next(windows, None)
            size = int((stops - starts).sum())
            if skip >= size:
                skip -= size
                continue
            if ahead is not None:
                ahead(*(np.concatenate(ends) for ends in zip((starts, stops), stretches(np.sort(rest)), strict=True)))
            if expected is not None and later is not None:
                expected(*later[:2])
            rows = np.concatenate([rest, self._rows(starts, stops, number)[skip:]])
            skip = 0
            whole = len(rows) - len(rows) % batch_size
            for start in range(0, whole, batch_size):
                yield rows[start : start + batch_size]
            rest = rows[whole:]
        if len(rest):
            yield rest

    def _windows(self):
        """Yield the starts and the stops of each window's blocks, and the window's number."""
        if self.whole or not self.shuffle:
            size = self.n if self.shuffle else self.block * WINDOW_BLOCKS
            for number, first in enumerate(range(0, self.n, max(size, 1))):
                yield np.array([first]), np.array([min(first + size, self.n)]), number
            return
        blocks = epoch_order(-(-self.n // self.block), self.seed, self.epoch, self.part)
        for number, i in enumerate(range(0, len(blocks), WINDOW_BLOCKS)):
            starts = blocks[i : i + WINDOW_BLOCKS] * self.block
            yield starts, np.minimum(starts + self.block, self.n), number

    def _rows(self, starts, stops, number):
        """The rows of a window, in the order of training."""
        if self.whole and self.shuffle:
            return epoch_order(self.n, self.seed, self.epoch, self.part)
        ranges = zip(starts, stops, strict=True)
        rows = np.concatenate([np.arange(start, stop, dtype=dtypes.OFFSET) for start, stop in ranges])
        if self.shuffle:
            _generator(self.seed, self.epoch, self.part, 1 + number).shuffle(rows)
        return rows


def default_window(n: int, n_entries: int) -> int:
    """Return the samples of a window of mapped data: as many as take `WINDOW_BYTES` on average.

    Parameters
    ----------
    n : int
        Samples.
    n_entries : int
        Entries of both matrices: 8 bytes each.
    """
    bytes_of_a_point = 16 + 8 * n_entries / max(n, 1)
    return max(1, round(WINDOW_BYTES / bytes_of_a_point / WINDOW_BLOCKS)) * WINDOW_BLOCKS


def _generator(seed, epoch, part=0, window=0):
    """A generator of its own for each epoch, part of the data and window; window 0 is the epoch's."""
    key = np.array([seed, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, part, window]))
