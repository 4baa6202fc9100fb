"""How the points of a data set are dealt to ranks.

The points are cut into shares, ranges of consecutive points, each in proportion to what it gives to a batch: an equal
number of points but for rounding. A rank has as many shares as any other. An epoch goes through each share in an order
of its own, a function of the seed, the epoch and the share, and takes of each its part of every batch, that of share 0
first. So the batches depend on the number of shares alone: four ranks with one share each train on the same batches as
one rank with four, and one rank with one share on those of a run without ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

import numpy as np
from scipy.sparse import csr_matrix

from slide.config import ConfigError, TrainingConfig
from slide.data.dataset import Dataset, is_mapped
from slide.kernels import dtypes
from slide.train.feed import hold_out, order_of


class Cuts:
    """Where the shares of a data set begin and end.

    Parameters
    ----------
    n_points, batch_size, n_shares : int

    Raises
    ------
    ConfigError
        A batch has fewer points than there are shares.
    """

    def __init__(self, n_points: int, batch_size: int, n_shares: int):
        if batch_size < n_shares:
            raise ConfigError(
                f"TrainingConfig.batch_size is {batch_size} and there are {n_shares} shares of the points, each of "
                f"which gives every batch a point or more: choose {n_shares} or more"
            )
        ends = batch_size * np.arange(n_shares + 1, dtype=np.int64) // n_shares
        self.sizes = np.diff(ends)
        self.ends = n_points * ends // batch_size

    def of_ranks(self, ranks: int) -> list[slice]:
        """Return the points that each of so many ranks has."""
        each = len(self.sizes) // ranks
        return [slice(int(self.ends[r * each]), int(self.ends[(r + 1) * each])) for r in range(ranks)]


def own_rows(n_points: int, batch_size: int, comm, shares: int | None = None) -> slice:
    """Return the points that a rank trains on, and needs to read.

    Parameters
    ----------
    n_points : int
        Of the whole data set.
    batch_size : int
    comm : mpi4py communicator
    shares : int, optional
        As of `DistributionConfig`.
    """
    ranks = comm.Get_size()
    return Cuts(n_points, batch_size, shares or ranks).of_ranks(ranks)[comm.Get_rank()]


class Share:
    """Some consecutive points, and their part of each batch.

    Parameters
    ----------
    data : Dataset
    number : int
        Of the share.
    size : int
        Points that it gives to a batch.
    config : TrainingConfig
    seed : int
    held_out : float
        Share of the points that is set aside, `measured` of them at most.
    measured : int

    Attributes
    ----------
    data : Dataset
        To train on.
    probe : Dataset or None
        What is set aside.
    """

    def __init__(
        self, data: Dataset, number: int, size: int, config: TrainingConfig, seed: int, held_out: float, measured: int
    ):
        self.number, self.size, self._config, self._seed = number, size, config, seed
        self.data, self.probe = data, None
        # A share of one point has none to spare.
        if held_out and data.n_points > 1:
            self.data, self.probe = hold_out(data, held_out, measured, seed, number)

    @property
    def per_epoch(self) -> int:
        """Batches that its points last for."""
        return -(-self.data.n_points // self.size)

    def open(self, network) -> None:
        """Make what reads the points."""
        self.reader = network.reader(self.data.X, self.data.Y, self.size)

    def batches(self, epoch: int, first: int) -> Iterator[np.ndarray]:
        """Yield the rows of its part of each batch of an epoch, from number `first` on."""
        order = order_of(self.data, self._config, self._seed, epoch, self.number)
        return order.batches(self.size, first=first, ahead=self.reader.fetch, expected=self.reader.expect)


def batches_of(shares: list[Share], epoch: int, first: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield, for each batch of an epoch, the rows of each of some shares; none where one has no more.

    Parameters
    ----------
    shares : list of Share
    epoch, first : int
    """
    nothing = np.zeros(0, dtypes.OFFSET)
    return zip_longest(*(share.batches(epoch, first) for share in shares), fillvalue=nothing)


def rows_of(data: Dataset, rows: slice) -> Dataset:
    """Return consecutive points of a data set, without copying them; of a mapped one as a mapped one.

    Parameters
    ----------
    data : Dataset
    rows : slice
    """
    return Dataset(_rows_of(data.X, rows), _rows_of(data.Y, rows), name=data.name)


def _rows_of(matrix, rows):
    if is_mapped(matrix):
        return matrix.part(rows.start, rows.stop)
    ends = matrix.indptr[rows.start : rows.stop + 1]
    part = csr_matrix((rows.stop - rows.start, matrix.shape[1]), dtype=matrix.dtype)
    part.indptr, inside = ends - ends[0], slice(int(ends[0]), int(ends[-1]))
    part.indices, part.data = matrix.indices[inside], matrix.data[inside]
    part.has_canonical_format = True
    return part
