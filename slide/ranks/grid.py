"""The grid of ranks, and the labels that each column of it has."""

from __future__ import annotations

import logging
import os

import numpy as np

from slide.config import ConfigError
from slide.config.distribution import DistributionConfig
from slide.kernels import dtypes
from slide.ranks.comm import Ranks, mpi

log = logging.getLogger("slide")


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

    on_this_machine : list of list of int
        The cores of each rank that is on the same machine, this one's among them.

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
        portions = config.portions or self.world.size
        if portions % self.world.size:
            raise ConfigError(
                f"DistributionConfig.portions must be a multiple of the ranks, {self.world.size}, got {portions}"
            )
        self.n_portions = portions
        here = self.world.comm.Split_type(mpi().COMM_TYPE_SHARED)
        self.on_this_machine: list[list[int]] = here.allgather(cores_of_process())
        here.Free()

    def go_on_with(self, portions: int | None, holdout: float) -> None:
        """Cut the samples into as many portions as the run that goes on did, so that its batches are the same.

        Where the ranks cannot have as many each, the order of its samples is another from here on, which is logged.

        Parameters
        ----------
        portions : int or None
            None for a run of one process, which has one.
        holdout : float
            Of the run.

        Raises
        ------
        ConfigError
            Samples were held out of each portion, and the ranks cannot have the same.
        """
        portions, ranks = portions or 1, self.world.size
        if self.config.portions is None:
            self.n_portions = portions_for(ranks, portions) or self.n_portions
        if holdout and self.n_portions != portions:
            raise ConfigError(
                f"the run had its samples in {portions} portions, of each of which some were held out: {ranks} ranks would "
                f"hold out others. Go on with a number of ranks that divides {portions}"
            )
        if self.n_portions != portions and self.world.rank == 0:
            log.warning(
                "the run had its samples in %d portions, %d ranks have them in %d: from here on they come in another "
                "order, some of this epoch twice, others not at all. For the same batches on any number of ranks give "
                "distribution.portions, such as 12, from the start",
                portions,
                ranks,
                self.n_portions,
            )

    @property
    def rows_of_ranks(self) -> tuple[int, int]:
        """Where this rank's part of the batch begins and ends among the ranks of `together`."""
        if self.together is self.labels:
            return 0, self.labels.size
        first = self.data.rank * self.labels.size
        return first, first + self.labels.size

    def __repr__(self) -> str:
        return f"{self.data.size} x {self.labels.size} ranks (data x labels)"


def cores_of_process() -> list[int]:
    """Return the numbers of the cores that this process may use, empty where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def portions_for(ranks: int, portions: int | None) -> int | None:
    """Return the portions of a run that goes on, None if so many ranks cannot have as many each.

    Parameters
    ----------
    ranks : int
    portions : int or None
        As of ``Grid.go_on_with``.
    """
    return portions or 1 if (portions or 1) % ranks == 0 else None


class LabelShard:
    """The labels, or features, of one shard of several: numbers 0, 1, ... here stand for ids that ascend.

    Parameters
    ----------
    n_labels : int
        Of the network.
    shard, n_shards : int
    partition : str
        As of `DistributionConfig`.
    what : str
        What they are, for messages.

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

    def __init__(self, n_labels: int, shard: int, n_shards: int, partition: str, what: str = "labels"):
        if n_labels < n_shards:
            raise ConfigError(
                f"{n_labels} {what} cannot be cut into {n_shards} shards, each of which needs one: "
                f"choose at most {n_labels}, or fewer ranks"
            )
        if partition == "cyclic":
            self.first, self.distance = shard, n_shards
            self.n_rows = len(range(shard, n_labels, n_shards))
        else:
            self.first, self.distance = n_labels * shard // n_shards, 1
            self.n_rows = n_labels * (shard + 1) // n_shards - self.first

    @property
    def labels(self) -> range:
        """The labels of the shard, in the order of its numbers."""
        return range(self.first, self.first + self.n_rows * self.distance, self.distance)

    @property
    def ids(self) -> slice:
        """Where the labels of the shard stand in an array of all."""
        return slice(self.first, self.first + (self.n_rows - 1) * self.distance + 1, self.distance)

    def to_ids(self, numbers: np.ndarray) -> np.ndarray:
        """Return the labels that numbers stand for; -1 stays."""
        return np.where(numbers < 0, numbers, self.first + numbers * self.distance)

    def select(self, ptr: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return, of lists of labels, the parts that are of this shard, as its numbers, and which labels these were.

        Parameters
        ----------
        ptr : int64 array [lists + 1]
        labels : int32 array
            List s is ``labels[ptr[s]:ptr[s + 1]]``.

        Returns
        -------
        ptr, numbers, here : int64 [lists + 1], int32, and bool as long as `labels`
        """
        number, rest = np.divmod(labels - self.first, self.distance)
        here = (rest == 0) & (number >= 0) & (number < self.n_rows)
        before = np.concatenate([[0], np.cumsum(here, dtype=dtypes.OFFSET)])
        return before[ptr].astype(dtypes.OFFSET, copy=False), number[here].astype(dtypes.INDEX, copy=False), here
