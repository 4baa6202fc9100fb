"""Portions: how the samples of a data set are divided among ranks.

The samples are cut into portions, ranges of consecutive samples, in proportion to the number of samples that a portion
gives to each batch; these are equal except for rounding. All ranks have the same number of portions. In an epoch, each
portion has its own order, a function of the seed, the epoch and the portion, and gives its part to every batch, portion
0 first. So the batches depend only on the number of portions: four ranks with one portion each train on the same
batches as one rank with four portions, and one rank with one portion trains on those of a run without ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

import numpy as np
from scipy.sparse import csr_matrix

from slide.config import ConfigError, TrainingConfig
from slide.data.dataset import Dataset
from slide.data.mapped import as_mapped
from slide.kernels import dtypes
from slide.model.stack import LayerStack
from slide.system.renames import former_names
from slide.train.feed import hold_out, order_of


class Cuts:
    """Where the portions of a data set begin and end.

    Raises ConfigError if a batch has fewer samples than there are portions.
    """

    def __init__(self, n_samples: int, batch_size: int, n_portions: int):
        if batch_size < n_portions:
            raise ConfigError(
                f"TrainingConfig.batch_size is {batch_size} and the samples are cut into {n_portions} portions, each "
                f"of which gives at least one sample to every batch: set batch_size to {n_portions} or more"
            )
        ends = batch_size * np.arange(n_portions + 1, dtype=np.int64) // n_portions
        self.sizes = np.diff(ends)
        self.ends = n_samples * ends // batch_size

    def of_ranks(self, ranks: int) -> list[slice]:
        """Return the samples of each rank, if there are `ranks` of them."""
        each = len(self.sizes) // ranks
        return [slice(int(self.ends[r * each]), int(self.ends[(r + 1) * each])) for r in range(ranks)]


@former_names(shares="portions")
def own_rows(n_samples: int, batch_size: int, comm, portions: int | None = None) -> slice:
    """Return the samples that this rank trains on, and needs to read; see ``own_samples`` of `DistributedNetwork.fit`.

    Parameters
    ----------
    n_samples : int
        Number of samples of the whole data set.
    batch_size : int
        As in the `slide.TrainingConfig` of the run.
    comm : mpi4py communicator
        All ranks.
    portions : int, optional
        As in the `DistributionConfig` of the network; by default one for each rank.

    Returns
    -------
    slice
        Rows of the whole data set.

    Raises
    ------
    ConfigError
        A batch has fewer samples than there are portions.
    """
    ranks = comm.Get_size()
    return Cuts(n_samples, batch_size, portions or ranks).of_ranks(ranks)[comm.Get_rank()]


class Portion:
    """Some consecutive samples, and their part of each batch.

    Parameters
    ----------
    data : Dataset
        All samples of the portion.
    number : int
        Number of the portion, from 0.
    size : int
        Number of samples that it gives to a batch.
    config : TrainingConfig
        Settings of the run.
    seed : int
        Seed of the network.
    held_out : float
        Share of the samples to hold out.
    measured : int
        Largest number of samples to hold out.

    Attributes
    ----------
    data : Dataset
        Samples to train on.
    probe : Dataset or None
        Samples that are held out.
    """

    def __init__(
        self, data: Dataset, number: int, size: int, config: TrainingConfig, seed: int, held_out: float, measured: int
    ):
        self.number, self.size, self._config, self._seed = number, size, config, seed
        self.data = data
        self.probe: Dataset | None = None
        # A portion of one sample needs it for training.
        if held_out and data.n_samples > 1:
            self.data, self.probe = hold_out(data, held_out, measured, seed, number)

    @property
    def per_epoch(self) -> int:
        """Number of batches per epoch to which it gives samples."""
        return -(-self.data.n_samples // self.size)

    def open(self, layers: LayerStack) -> None:
        """Make the reader of its samples."""
        self.reader = layers.reader(self.data.X, self.data.Y, self.size)

    def batches(self, epoch: int, first: int) -> Iterator[np.ndarray]:
        """Yield the rows of its part of each batch of an epoch, from number `first` on."""
        order = order_of(self.data, self._config, self._seed, epoch, self.number)
        return order.batches(self.size, first=first, ahead=self.reader.fetch, expected=self.reader.expect)


def batches_of(portions: list[Portion], epoch: int, first: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the rows of each portion for each batch of an epoch, from batch `first` on; no rows once a portion ends."""
    nothing = np.zeros(0, dtypes.OFFSET)
    return zip_longest(*(portion.batches(epoch, first) for portion in portions), fillvalue=nothing)


def rows_of(data: Dataset, rows: slice) -> Dataset:
    """Return consecutive samples of a data set without copying them; samples of mapped data are mapped too."""
    return Dataset(_rows_of(data.X, rows), _rows_of(data.Y, rows), name=data.name)


def _rows_of(matrix: csr_matrix, rows: slice) -> csr_matrix:
    mapped = as_mapped(matrix)
    if mapped is not None:
        return mapped.part(rows.start, rows.stop)
    ends = matrix.indptr[rows.start : rows.stop + 1]
    part = csr_matrix((rows.stop - rows.start, matrix.shape[1]), dtype=matrix.dtype)
    part.indptr, inside = ends - ends[0], slice(int(ends[0]), int(ends[-1]))
    part.indices, part.data = matrix.indices[inside], matrix.data[inside]
    part.has_canonical_format = True
    return part
