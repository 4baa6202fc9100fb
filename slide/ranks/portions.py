"""How the samples of a data set are dealt to ranks.

The samples are cut into portions, ranges of consecutive samples, each in proportion to what it gives to a batch: an equal
number of samples but for rounding. A rank has as many portions as any other. An epoch goes through each portion in an order
of its own, a function of the seed, the epoch and the portion, and takes of each its part of every batch, that of portion 0
first. So the batches depend on the number of portions alone: four ranks with one portion each train on the same batches as
one rank with four, and one rank with one portion on those of a run without ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

import numpy as np
from scipy.sparse import csr_matrix

from slide.config import ConfigError, TrainingConfig
from slide.data.dataset import Dataset, is_mapped
from slide.kernels import dtypes
from slide.system.renames import former_names
from slide.train.feed import hold_out, order_of


class Cuts:
    """Where the portions of a data set begin and end.

    Parameters
    ----------
    n_samples, batch_size, n_portions : int

    Raises
    ------
    ConfigError
        A batch has fewer samples than there are portions.
    """

    def __init__(self, n_samples: int, batch_size: int, n_portions: int):
        if batch_size < n_portions:
            raise ConfigError(
                f"TrainingConfig.batch_size is {batch_size} and there are {n_portions} portions of the samples, each of "
                f"which gives every batch a sample or more: choose {n_portions} or more"
            )
        ends = batch_size * np.arange(n_portions + 1, dtype=np.int64) // n_portions
        self.sizes = np.diff(ends)
        self.ends = n_samples * ends // batch_size

    def of_ranks(self, ranks: int) -> list[slice]:
        """Return the samples that each of so many ranks has."""
        each = len(self.sizes) // ranks
        return [slice(int(self.ends[r * each]), int(self.ends[(r + 1) * each])) for r in range(ranks)]


@former_names(shares="portions")
def own_rows(n_samples: int, batch_size: int, comm, portions: int | None = None) -> slice:
    """Return the samples that a rank trains on, and needs to read.

    Parameters
    ----------
    n_samples : int
        Of the whole data set.
    batch_size : int
    comm : mpi4py communicator
    portions : int, optional
        As of `DistributionConfig`.
    """
    ranks = comm.Get_size()
    return Cuts(n_samples, batch_size, portions or ranks).of_ranks(ranks)[comm.Get_rank()]


class Portion:
    """Some consecutive samples, and their part of each batch.

    Parameters
    ----------
    data : Dataset
    number : int
        Of the portion.
    size : int
        Samples that it gives to a batch.
    config : TrainingConfig
    seed : int
    held_out : float
        Portion of the samples that is set aside, `measured` of them at most.
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
        # A portion of one sample has none to spare.
        if held_out and data.n_samples > 1:
            self.data, self.probe = hold_out(data, held_out, measured, seed, number)

    @property
    def per_epoch(self) -> int:
        """Batches that its samples last for."""
        return -(-self.data.n_samples // self.size)

    def open(self, network) -> None:
        """Make what reads the samples."""
        self.reader = network.reader(self.data.X, self.data.Y, self.size)

    def batches(self, epoch: int, first: int) -> Iterator[np.ndarray]:
        """Yield the rows of its part of each batch of an epoch, from number `first` on."""
        order = order_of(self.data, self._config, self._seed, epoch, self.number)
        return order.batches(self.size, first=first, ahead=self.reader.fetch, expected=self.reader.expect)


def batches_of(portions: list[Portion], epoch: int, first: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield, for each batch of an epoch, the rows of each of some portions; none where one has no more.

    Parameters
    ----------
    portions : list of Portion
    epoch, first : int
    """
    nothing = np.zeros(0, dtypes.OFFSET)
    return zip_longest(*(portion.batches(epoch, first) for portion in portions), fillvalue=nothing)


def rows_of(data: Dataset, rows: slice) -> Dataset:
    """Return consecutive samples of a data set, without copying them; of a mapped one as a mapped one.

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
