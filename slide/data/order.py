"""The order in which an epoch goes through the data: it depends only on the seed and the epoch.

By default the order is a permutation of all samples. Data that is not in memory is shuffled in windows. A window takes
blocks of consecutive samples, drawn at random from all over the data, and shuffles the samples of these blocks
together. So every block is read once, from one end to the other, and only one window is in use at a time.

Samples that are neighbours in the file share a window. They mix well with others if the file is in random order, or if
a window has many blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from slide.data.mapped import stretches
from slide.kernels import dtypes
from slide.system.random import philox

WINDOW_BLOCKS = 64
"""Number of blocks in a window: enough to mix samples from all over the file, few enough to read at full speed."""

WINDOW_BYTES = 64 << 20
"""Average size of a window of mapped data, by default."""


def epoch_order(n: int, seed: int, epoch: int, part: int = 0) -> np.ndarray:
    """Return a permutation of 0..n-1 as an int64 array, which depends on nothing but the arguments.

    `part` is the number of a part of the data, if each part is shuffled separately.
    """
    return _generator(seed, epoch, part).permutation(n).astype(dtypes.OFFSET, copy=False)


class EpochOrder:
    """The order of one epoch, in batches, made as it is used.

    Parameters
    ----------
    n : int
        Number of samples.
    shuffle : bool
        If False, the order is that of the data.
    window : int, optional
        Number of samples in a window, rounded up to a multiple of `WINDOW_BLOCKS`. By default all samples are permuted,
        as they are if a window holds all of them.
    part : int
        See `epoch_order`.
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
        first : int
            Batch to begin with, counted from 0. Earlier ones are not made.
        ahead : callable, optional
            Called with the starts and the stops of ranges of rows. Until the next call, batches use only these rows.
        expected : callable, optional
            Called after each call of `ahead` but the last, with most of the ranges of the next call.
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
        """Yield, for each window, the starts and the stops of its blocks, and its number."""
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
        """Return the rows of a window, in the order of training."""
        if self.whole and self.shuffle:
            return epoch_order(self.n, self.seed, self.epoch, self.part)
        ranges = zip(starts, stops, strict=True)
        rows = np.concatenate([np.arange(start, stop, dtype=dtypes.OFFSET) for start, stop in ranges])
        if self.shuffle:
            _generator(self.seed, self.epoch, self.part, 1 + number).shuffle(rows)
        return rows


def default_window(n: int, n_entries: int) -> int:
    """Return the number of samples in a window of mapped data, so that it takes about `WINDOW_BYTES`.

    Parameters
    ----------
    n : int
        Number of samples.
    n_entries : int
        Entries of both matrices, at 8 bytes each.
    """
    bytes_per_sample = 16 + 8 * n_entries / max(n, 1)
    return max(1, round(WINDOW_BYTES / bytes_per_sample / WINDOW_BLOCKS)) * WINDOW_BLOCKS


def _generator(seed: int, epoch: int, part: int = 0, window: int = 0) -> np.random.Generator:
    """Return the generator of an epoch, a part of the data and a window; window 0 stands for the epoch itself."""
    return philox(seed, epoch, (0, 0, part, window))
