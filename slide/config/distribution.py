"""How a network is distributed over ranks: the grid, who has which labels, and what replicas exchange."""

from __future__ import annotations

from dataclasses import dataclass

from slide.config.checks import ConfigError, check_boolean, check_choice, check_integer, check_number
from slide.system.renames import former_names

PARTITIONS = ("cyclic", "contiguous")


@dataclass(frozen=True)
class DistributionConfig:
    """A grid of ranks, `data_shards` by `label_shards`, and what travels between them.

    Rank ``d * label_shards + l`` has shard l of the labels and trains on part d of each batch.

    Parameters
    ----------
    label_shards : int, optional
        Parts of the output layer. By default as many as `data_shards` leave ranks.
    data_shards : int, optional
        Replicas of each part. By default as many as `label_shards` leave ranks, 1 if neither is given.
    partition : str
        ``"cyclic"``: label i is in shard ``i % label_shards``, so that shards are alike where ids go by frequency or
        topic. ``"contiguous"``: shards are ranges of ids.
    portions : int, optional
        Parts that the samples are cut into, a multiple of the ranks: each is shuffled for itself and gives an equal part
        of each batch, and a rank has as many as any other. Runs with as many portions have the same batches, whatever
        their ranks. By default one for each rank.
    shard_features : bool
        Cut the rows of the first hidden layer, the features', into shards too, one for each rank that takes its steps
        together with the others: a rank then has, reads and steps its part of them, for one exchange of hidden vectors
        more in each step. By default every rank has all of them.
    average_every : int, optional
        Local SGD: the replicas train each on their own part of the batch and average their weights and moments after so
        many batches. By default they combine their gradients in every batch.
    keep_rows : float
        Portion of the touched rows, those of largest gradient, whose gradients replicas of the output layer combine in a
        batch; the others' are kept and added to the next ones of their rows (error feedback), which takes as much
        memory as the shard's weights. 1 for all.
    """

    label_shards: int | None = None
    data_shards: int | None = None
    partition: str = "cyclic"
    portions: int | None = None
    shard_features: bool = False
    average_every: int | None = None
    keep_rows: float = 1.0

    def __post_init__(self):
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
        """Return the data shards and label shards of so many ranks.

        Parameters
        ----------
        ranks : int

        Raises
        ------
        ConfigError
            They do not make a grid.
        """
        labels = self.label_shards
        if labels is None:
            labels = ranks // (self.data_shards or 1)
        data = self.data_shards if self.data_shards is not None else ranks // max(labels, 1)
        if data * labels != ranks:
            raise ConfigError(
                f"{data} data shards times {labels} label shards make {data * labels} ranks, and there are {ranks}: "
                f"start as many (mpiexec -n {data * labels}), or choose label_shards and data_shards that make {ranks}"
            )
        return data, labels


# The former name of `portions` stays valid.
DistributionConfig.__init__ = former_names(shares="portions")(DistributionConfig.__init__)  # type: ignore[method-assign]
