"""The grid of ranks, and the labels that each column of it has."""

from __future__ import annotations

import numpy as np

from slide.config import ConfigError
from slide.distributed.comm import Ranks
from slide.distributed.config import DistributionConfig
from slide.kernels import dtypes


class Grid:
    """Where this rank stands.

    Parameters
    ----------
    comm : mpi4py communicator
        Duplicated. Called by all its ranks.
    config : DistributionConfig

    Attributes
    ----------
    world : Ranks
        All.
    labels : Ranks
        Those that share this rank's part of the batch; number l has shard l of the labels.
    data : Ranks
        The replicas of this rank's labels, by their part of the batch.
    alarm : mpi4py communicator
        Of all, for nothing but failures.
    together : Ranks
        Those that make each step of the hidden layers together: all, or where replicas only average now and then
        `labels`.

    Raises
    ------
    ConfigError
        The ranks do not make the grid.
    """

    def __init__(self, comm, config: DistributionConfig):
        self.config = config
        _, labels = config.grid(comm.Get_size())
        self.world = Ranks(comm.Dup())
        self.alarm = comm.Dup()
        d, column = divmod(self.world.rank, labels)
        self.labels = self.world.split(d, column)
        self.data = self.world.split(column, d)
        self.together = self.world if config.average_every is None else self.labels
        shares = config.shares or self.world.size
        if shares % self.world.size:
            raise ConfigError(
                f"DistributionConfig.shares must be a multiple of the ranks, {self.world.size}, got {shares}"
            )
        self.n_shares = shares

    @property
    def rows_of_ranks(self) -> tuple[int, int]:
        """Where this rank's part of the batch begins and ends among the ranks of `together`."""
        if self.together is self.labels:
            return 0, self.labels.size
        first = self.data.rank * self.labels.size
        return first, first + self.labels.size

    def __repr__(self) -> str:
        return f"{self.data.size} x {self.labels.size} ranks (data x labels)"


class LabelShard:
    """The labels of one shard of several: numbers 0, 1, ... here stand for ids that ascend.

    Parameters
    ----------
    n_labels : int
        Of the network.
    shard, n_shards : int
    partition : str
        As of `DistributionConfig`.

    Attributes
    ----------
    n_rows : int
        Labels of the shard.
    first, distance : int
        Number i stands for the label ``first + i * distance``.

    Raises
    ------
    ConfigError
        There are fewer labels than shards.
    """

    def __init__(self, n_labels: int, shard: int, n_shards: int, partition: str):
        if n_labels < n_shards:
            raise ConfigError(
                f"{n_labels} labels cannot be cut into {n_shards} shards, each of which needs one: "
                f"choose at most {n_labels} label_shards"
            )
        if partition == "cyclic":
            self.first, self.distance = shard, n_shards
            self.n_rows = len(range(shard, n_labels, n_shards))
        else:
            self.first, self.distance = n_labels * shard // n_shards, 1
            self.n_rows = n_labels * (shard + 1) // n_shards - self.first

    @property
    def ids(self) -> slice:
        """Where the labels of the shard stand in an array of all."""
        return slice(self.first, self.first + (self.n_rows - 1) * self.distance + 1, self.distance)

    def to_ids(self, numbers: np.ndarray) -> np.ndarray:
        """Return the labels that numbers stand for; -1 stays."""
        return np.where(numbers < 0, numbers, self.first + numbers * self.distance)

    def select(self, ptr: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return, of lists of labels, the parts that are of this shard, as its numbers.

        Parameters
        ----------
        ptr : int64 array [lists + 1]
        labels : int32 array
            List s is ``labels[ptr[s]:ptr[s + 1]]``.

        Returns
        -------
        ptr, numbers : int64 [lists + 1], int32 arrays
        """
        number, rest = np.divmod(labels - self.first, self.distance)
        here = (rest == 0) & (number >= 0) & (number < self.n_rows)
        before = np.concatenate([[0], np.cumsum(here, dtype=dtypes.OFFSET)])
        return before[ptr].astype(dtypes.OFFSET, copy=False), number[here].astype(dtypes.INDEX, copy=False)
