"""The grid of ranks, and the labels of each of its columns."""

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
    """The grid of all ranks, and the place of this rank in it. All ranks make one together.

    Parameters
    ----------
    comm : mpi4py communicator
        All ranks; it is duplicated.
    config : DistributionConfig
        Numbers of data shards and label shards, and the other settings.

    Attributes
    ----------
    world : Ranks
        All ranks.
    labels : Ranks
        The ranks with the same part of the batch (a row of the grid); rank l of them has shard l of the labels.
    data : Ranks
        The replicas of this rank's labels (a column of the grid), in the order of their parts of the batch.
    alarm : mpi4py communicator
        All ranks, for failures only.
    together : Ranks
        The ranks that take each step of the hidden layers together: `world`, or `labels` with local SGD
        (``average_every``).
    n_portions : int
        Number of portions of the samples.
    on_this_machine : list of list of int
        The cores of each rank on this machine, this rank included.

    Raises
    ------
    ConfigError
        The ranks do not make a grid, or the number of portions is not a multiple of theirs.
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
        """Cut the samples into as many portions as the run that is resumed, so that its batches are the same.

        If the ranks cannot have equal numbers of these portions, the order of the samples changes from here on; a
        warning is logged.

        Parameters
        ----------
        portions : int or None
            Number of portions of the run; None for a run of one process, which has one.
        holdout : float
            Share of the samples that the run holds out.

        Raises
        ------
        ConfigError
            Samples were held out of each portion, and the ranks cannot have the same portions.
        """
        portions, ranks = portions or 1, self.world.size
        if self.config.portions is None:
            self.n_portions = portions_for(ranks, portions) or self.n_portions
        if holdout and self.n_portions != portions:
            raise ConfigError(
                f"the run had its samples in {portions} portions and held out some of each: {ranks} ranks would hold "
                f"out others. Resume it on a number of ranks that divides {portions}"
            )
        if self.n_portions != portions and self.world.rank == 0:
            log.warning(
                "the run had its samples in %d portions, %d ranks have them in %d: from here on the order of the "
                "samples is another, and this epoch has some samples twice and others not at all. For the same batches "
                "on any number of ranks, set distribution.portions, for example to 12, from the start",
                portions,
                ranks,
                self.n_portions,
            )

    @property
    def rows_of_ranks(self) -> tuple[int, int]:
        """The ranks of `together` that are in this rank's row of the grid: the first, and one past the last."""
        if self.together is self.labels:
            return 0, self.labels.size
        first = self.data.rank * self.labels.size
        return first, first + self.labels.size

    def __repr__(self) -> str:
        return f"{self.data.size} x {self.labels.size} ranks (data x labels)"


def cores_of_process() -> list[int]:
    """Return the numbers of the cores that this process may use; empty if the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def portions_for(ranks: int, portions: int | None) -> int | None:
    """Return the number of portions of a run that is resumed, None if the ranks cannot have equal numbers of them.

    `portions` is as for ``Grid.go_on_with``.
    """
    return portions or 1 if (portions or 1) % ranks == 0 else None


class LabelShard:
    """The labels, or features, of one shard: numbers 0, 1, ... within the shard stand for ascending ids.

    Parameters
    ----------
    n_labels : int
        Number of labels, or features, of the network.
    shard : int
        Number of the shard, from 0.
    n_shards : int
        Number of shards.
    partition : str
        ``"cyclic"`` or ``"contiguous"``; see `DistributionConfig`.
    what : str
        ``"labels"`` or ``"features"``, for messages.

    Attributes
    ----------
    n_rows : int
        Number of labels in the shard.
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
                f"choose at most {n_labels} shards, or fewer ranks"
            )
        if partition == "cyclic":
            self.first, self.distance = shard, n_shards
            self.n_rows = len(range(shard, n_labels, n_shards))
        else:
            self.first, self.distance = n_labels * shard // n_shards, 1
            self.n_rows = n_labels * (shard + 1) // n_shards - self.first

    @property
    def labels(self) -> range:
        """The labels of the shard, in the order of their numbers."""
        return range(self.first, self.first + self.n_rows * self.distance, self.distance)

    @property
    def ids(self) -> slice:
        """The places of the shard's labels in an array of all labels."""
        return slice(self.first, self.first + (self.n_rows - 1) * self.distance + 1, self.distance)

    def to_ids(self, numbers: np.ndarray) -> np.ndarray:
        """Return the labels that numbers stand for; -1 stays."""
        return np.where(numbers < 0, numbers, self.first + numbers * self.distance)

    def select(self, ptr: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Select the labels of this shard from lists of labels.

        Parameters
        ----------
        ptr : int64 array [lists + 1]
            List s is ``labels[ptr[s]:ptr[s + 1]]``.
        labels : int32 array
            Labels of all lists.

        Returns
        -------
        ptr : int64 array [lists + 1]
            Where the lists of selected labels begin and end.
        numbers : int32 array
            Selected labels, as numbers of this shard.
        here : bool array as long as `labels`
            Which labels are selected.
        """
        number, rest = np.divmod(labels - self.first, self.distance)
        here = (rest == 0) & (number >= 0) & (number < self.n_rows)
        before = np.concatenate([[0], np.cumsum(here, dtype=dtypes.OFFSET)])
        return before[ptr].astype(dtypes.OFFSET, copy=False), number[here].astype(dtypes.INDEX, copy=False), here
