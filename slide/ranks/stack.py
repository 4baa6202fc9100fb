"""RankStack: the layers that one rank has of a network that several ranks share."""

from __future__ import annotations

import numpy as np

from slide.config import ConfigError, HiddenConfig, NetworkConfig
from slide.config.distribution import DistributionConfig
from slide.kernels.parallel import isa, resolve_threads
from slide.model.footprint import bytes_needed
from slide.model.layers import HiddenLayer
from slide.model.stack import Layer, LayerStack
from slide.ranks.comm import Traffic
from slide.ranks.failures import watch
from slide.ranks.grid import Grid, LabelShard, cores_of_process
from slide.ranks.shard_input import ShardInput
from slide.ranks.shard_output import ShardOutput
from slide.rows.storage import MappedStorage, Storage
from slide.system.memory import check_fit


class RankStack(LayerStack):
    """The hidden layers, which every rank has, and this rank's shard of the output layer.

    Parameters
    ----------
    n_features, n_labels : int
        Of the whole network.
    config : NetworkConfig
    comm : mpi4py communicator
    distribution : DistributionConfig
    threads : int, optional
        By default as many as there are cores for each rank.

    Attributes
    ----------
    grid : Grid
    shard : LabelShard
        The labels whose neurons are here.
    feature_shard : LabelShard or None
        The features whose rows are here; None for all.

    Raises
    ------
    ConfigError
        The ranks do not make the grid, there are fewer labels than shards, or the configuration has something that
        cannot be distributed.
    """

    output: ShardOutput

    def __init__(
        self,
        n_features: int,
        n_labels: int,
        config: NetworkConfig,
        *,
        comm,
        distribution: DistributionConfig,
        threads: int | None = None,
    ):
        self.grid = Grid(comm, distribution)
        watch(self.grid.alarm)
        _check(config, self.grid)
        labels = self.grid.labels
        self.shard = LabelShard(n_labels, labels.rank, labels.size, self.grid.config.partition)
        self.feature_shard: LabelShard | None = None
        if self.grid.config.shard_features:
            together = self.grid.together
            self.feature_shard = LabelShard(n_features, together.rank, together.size, "cyclic", "features")
        super().__init__(n_features, n_labels, config, threads=threads or threads_each(self.grid))

    @property
    def traffic(self) -> Traffic:
        """What this rank has received from others."""
        return self.grid.world.traffic

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which speaks for all."""
        return self.grid.world.rank == 0

    @property
    def label_rows(self) -> range:
        """See `LayerStack.label_rows`."""
        return self.shard.labels

    @property
    def replica(self) -> tuple[int, int]:
        """(index of this replica, number of replicas) of the labels that are here."""
        return self.grid.data.rank, self.grid.data.size

    @property
    def residual(self) -> np.ndarray | None:
        """What this replica keeps back of its gradients; see `slide.ranks.replicas`."""
        return self.output.residual

    def table_name(self, layer: str) -> str:
        """See `LayerStack.table_name`; tables over a shard of the labels are of use to that shard alone."""
        labels = self.grid.labels
        if layer != "output" or labels.size == 1:
            return layer
        return f"output.{self.grid.config.partition}-{labels.rank}-of-{labels.size}"

    def rows_here(self, array: str) -> tuple[int, range] | None:
        """See `LayerStack.rows_here`."""
        if self.feature_shard is not None and array.startswith("hidden.0.") and ".bias" not in array:
            return self.n_features, self.feature_shard.labels
        return super().rows_here(array)

    @property
    def feature_replica(self) -> tuple[int, int]:
        """(index of this replica, number of replicas) of the features that are here, where features are cut into shards."""
        return self.replica if self.grid.together is self.grid.labels else (0, 1)

    def _check_fit(self, trainable: bool) -> None:
        n_features = self.n_features if self.feature_shard is None else self.feature_shard.n_rows
        needs = bytes_needed(n_features, self.shard.n_rows, self.config, trainable=trainable)
        here = len(self.grid.on_this_machine)
        check_fit({name: here * size for name, size in needs.items()}, self.config.hugepages)

    def _make_hidden(self, i: int, dim: int, config: HiddenConfig, storage: Storage | MappedStorage) -> HiddenLayer:
        if i or self.feature_shard is None:
            return super()._make_hidden(i, dim, config, storage)
        rest = (storage, self.config.seed, self.buffers, self.threads)
        return ShardInput(self.feature_shard, self.grid.together, "hidden.0", config, *rest)

    def _make_output(self, n_labels: int, dim: int, storage: Storage | MappedStorage) -> ShardOutput:
        seed = self.config.seed + len(self.config.hidden)
        return ShardOutput(self.shard, self.grid, dim, self.config.output, storage, seed, self.buffers, self.threads)

    def rows_of(self, array: str) -> slice:
        """Return where the rows that are here stand in a whole array, by the array's name."""
        here = self.rows_here(array)
        return slice(None) if here is None else slice(here[1].start, here[1].stop, here[1].step)


def threads_each(grid: Grid) -> int:
    """Return the threads that a rank can use without taking them from others on the same processors.

    Parameters
    ----------
    grid : Grid
    """
    return max(1, resolve_threads(None) // grid.on_this_machine.count(cores_of_process()))


def checksum(layer: Layer, *, rows: bool = True) -> int:
    """Return a number that layers which differ in a weight, a bias or a moment hardly share.

    Parameters
    ----------
    layer : HiddenLayer or OutputLayer
    rows : bool
        False leaves out those of the layer's table.
    """
    arrays = [np.frombuffer(layer.table.buffer, np.uint32)] if rows else []
    # A layer whose rows are features has its biases apart.
    arrays += [view.view(np.uint32) for view in (getattr(layer, "bias", None), getattr(layer, "bias_moments", None))
               if view is not None]
    total = 0
    for array in arrays:
        for bits in np.array_split(array.reshape(-1), max(1, array.size >> 20)):
            total = (31 * total + int(bits.sum(dtype=np.uint64))) % 2**64
            total = (31 * total + int(np.bitwise_xor.reduce(bits, initial=0))) % 2**64
    return total


def _check(config, grid):
    """Refuse what cannot be distributed."""
    kinds = grid.world.allgather("control", np.array([isa().encode()], "S32"))[:, 0]
    if len(set(kinds.tolist())) > 1:
        found = ", ".join(sorted({kind.decode() for kind in kinds.tolist()}))
        raise ConfigError(
            f"the ranks' processors have different instruction sets, {found}, and round differently, so that replicas "
            "would drift apart: set SLIDE_ISA to one that all have, such as SLIDE_ISA=avx2, for all ranks"
        )
    clipped, features = config.optimizer.clip_norm is not None, grid.config.shard_features
    for given, what, instead in (
        (config.update == "hogwild", "NetworkConfig.update 'hogwild'", "'grouped', so that replicas stay the same"),
        (config.output.init == "mean", "OutputConfig.init 'mean'", "'random'"),
        (clipped and grid.data.size > 1, "OptimizerConfig.clip_norm with several data shards", "label shards alone"),
        (clipped and features, "OptimizerConfig.clip_norm with shard_features", "not to clip, or whole hidden layers"),
        (
            features and config.hidden[0].uses_tables,
            "HiddenConfig.candidates 'lsh' of the first layer with shard_features",
            "'full' there",
        ),
    ):
        if given:
            raise ConfigError(f"{what} cannot be distributed over ranks: choose {instead}")
