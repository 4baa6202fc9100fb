"""How a network is distributed over ranks: the grid, which labels each rank has, and what replicas exchange."""

from __future__ import annotations

from dataclasses import dataclass

from slide.config.checks import ConfigError, check_boolean, check_choice, check_integer, check_number
from slide.system.renames import former_names

PARTITIONS = ("cyclic", "contiguous")


@dataclass(frozen=True)
class DistributionConfig:
    """A grid of ranks, `data_shards` by `label_shards`, and what ranks exchange.

    Rank ``d * label_shards + l`` has shard l of the labels and trains on part d of each batch.

    Parameters
    ----------
    label_shards : int, optional
        Number of shards of the output layer. By default the number of ranks divided by `data_shards`.
    data_shards : int, optional
        Number of replicas of each shard. By default the number of ranks divided by `label_shards`, or 1 if neither is
        given.
    partition : str
        ``"cyclic"``: label i is in shard ``i % label_shards``, so that shards are alike even if ids are sorted by
        frequency or topic. ``"contiguous"``: shards are ranges of ids.
    portions : int, optional
        Number of portions that the samples are cut into, a multiple of the number of ranks. Each portion is shuffled
        separately and gives an equal part of each batch, and all ranks have the same number of portions. Runs with the
        same number of portions have the same batches at any number of ranks. By default one for each rank.
    shard_features : bool
        Cut the rows of the first hidden layer, those of the features, into shards too, one for each rank that takes its
        steps together with the others. Each rank then holds, reads and steps only its shard, at the cost of one more
        exchange of hidden vectors in each step. By default every rank has all these rows.
    average_every : int, optional
        Local SGD: each replica trains on its own part of the batches, and after this number of batches the replicas
        average their weights and moments. By default they combine their gradients in every batch.
    keep_rows : float
        Share of the touched rows, those with the largest gradients, whose gradients the replicas of the output layer
        combine in a batch. The gradients of the other rows are kept and added to later ones of the same rows (error
        feedback), which takes as much memory as the weights of the shard. By default 1, for all rows.

    Raises
    ------
    ConfigError
        A field has a value that it may not have, or `keep_rows` is below 1 with `average_every`.
    """

    label_shards: int | None = None
    data_shards: int | None = None
    partition: str = "cyclic"
    portions: int | None = None
    shard_features: bool = False
    average_every: int | None = None
    keep_rows: float = 1.0

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("label_shards", "data_shards", "portions"):
            check_integer(self, name, 1, 2**20, optional=True)
        check_choice(self, "partition", PARTITIONS)
        check_boolean(self, "shard_features")
        check_integer(self, "average_every", 1, 10**9, optional=True)
        check_number(self, "keep_rows", 0, 1, open_low=True)
        if self.average_every is not None and self.keep_rows < 1:
            raise ConfigError(
                "DistributionConfig.keep_rows must be 1 with average_every: replicas that average their weights "
                "exchange no gradients"
            )

    def grid(self, ranks: int) -> tuple[int, int]:
        """Return the numbers of data shards and label shards for this number of ranks.

        Raises ConfigError if the ranks do not make a grid.
        """
        labels = self.label_shards
        if labels is None:
            labels = ranks // (self.data_shards or 1)
        data = self.data_shards if self.data_shards is not None else ranks // max(labels, 1)
        if data * labels != ranks:
            raise ConfigError(
                f"{data} data shards times {labels} label shards make {data * labels} ranks, and there are {ranks}: "
                f"start {data * labels} (mpiexec -n {data * labels}), or choose label_shards and data_shards that make "
                f"{ranks}"
            )
        return data, labels


# The former name of `portions` stays valid.
DistributionConfig.__init__ = former_names(shares="portions")(DistributionConfig.__init__)  # type: ignore[method-assign]
