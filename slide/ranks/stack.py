"""RankStack: the layers of one rank, in a network on several ranks."""

from __future__ import annotations

import numpy as np

from slide.config import ConfigError, HiddenConfig, NetworkConfig
from slide.config.distribution import DistributionConfig
from slide.kernels.parallel import isa, resolve_threads
from slide.kernels.rows import RowTable
from slide.model.footprint import bytes_needed
from slide.model.layers import HiddenLayer, InputLayer
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
        Sizes of the whole network.
    config : NetworkConfig
        Configuration of the whole network.
    comm : mpi4py communicator
        All ranks.
    distribution : DistributionConfig
        How the network is distributed over them.
    threads : int, optional
        By default as many as there are cores for each rank.

    Attributes
    ----------
    grid : Grid
        The place of this rank among all ranks.
    shard : LabelShard
        The labels whose neurons are here.
    feature_shard : LabelShard or None
        The features whose rows are here; None for all.

    Raises
    ------
    ConfigError
        The ranks do not make a grid, there are fewer labels than shards, or the configuration has a setting that cannot
        be distributed.
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
        """Bytes that this rank has received from others."""
        return self.grid.world.traffic

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes messages and manifests for all."""
        return self.grid.world.rank == 0

    @property
    def label_rows(self) -> range:
        """See `LayerStack.label_rows`."""
        return self.shard.labels

    @property
    def replica(self) -> tuple[int, int]:
        """(index of this replica, number of replicas), for the labels of this rank."""
        return self.grid.data.rank, self.grid.data.size

    @property
    def residual(self) -> np.ndarray | None:
        """Gradients that this replica has kept back; see `slide.ranks.replicas`."""
        return self.output.residual

    def table_name(self, layer: str) -> str:
        """See `LayerStack.table_name`; tables over a shard of the labels are of use only to the same shard."""
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
        """(index of this replica, number of replicas), for the features of this rank if they are cut into shards."""
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
        """Return the places of this rank's rows in the whole array of that name."""
        here = self.rows_here(array)
        return slice(None) if here is None else slice(here[1].start, here[1].stop, here[1].step)


def threads_each(grid: Grid) -> int:
    """Return the number of threads that a rank can use if the ranks on the same cores divide these evenly."""
    return max(1, resolve_threads(None) // grid.on_this_machine.count(cores_of_process()))


def checksum(layer: Layer, *, rows: bool = True) -> int:
    """Return a checksum of the weights, biases and moments of a layer; without the rows of its table if not `rows`."""
    arrays = [_words_of(layer.table)] if rows else []
    # Where rows are features, the layer has the biases.
    if isinstance(layer, InputLayer):
        arrays += [layer.bias.view(np.uint32), layer.bias_moments.view(np.uint32)]
    total = 0
    for array in arrays:
        for bits in np.array_split(array.reshape(-1), max(1, array.size >> 20)):
            total = (31 * total + int(bits.sum(dtype=np.uint64))) % 2**64
            total = (31 * total + int(np.bitwise_xor.reduce(bits, initial=0))) % 2**64
    return total


def _words_of(table: RowTable) -> np.ndarray:
    """Return the memory of a table as 32-bit words."""
    buffer = table.buffer
    return buffer.view(np.uint32) if isinstance(buffer, np.ndarray) else np.frombuffer(memoryview(buffer), np.uint32)


def _check(config: NetworkConfig, grid: Grid) -> None:
    """Raise ConfigError for settings that cannot be distributed."""
    kinds = grid.world.allgather("control", np.array([isa().encode()], "S32"))[:, 0]
    if len(set(kinds.tolist())) > 1:
        found = ", ".join(sorted({kind.decode() for kind in kinds.tolist()}))
        raise ConfigError(
            f"the ranks' processors have different instruction sets, {found}, and round differently, so that replicas "
            "would drift apart: set SLIDE_ISA on all ranks to a set that all have, such as SLIDE_ISA=avx2"
        )
    clipped, features = config.optimizer.clip_norm is not None, grid.config.shard_features
    for given, what, instead in (
        (config.update == "hogwild", "NetworkConfig.update 'hogwild'", "'grouped', so that replicas stay the same"),
        (config.output.init == "mean", "OutputConfig.init 'mean'", "'random'"),
        (clipped and grid.data.size > 1, "OptimizerConfig.clip_norm with several data shards", "label shards only"),
        (clipped and features, "OptimizerConfig.clip_norm with shard_features", "not to clip, or whole hidden layers"),
        (
            features and config.hidden[0].uses_tables,
            "HiddenConfig.candidates 'lsh' of the first layer with shard_features",
            "'full' there",
        ),
    ):
        if given:
            raise ConfigError(f"{what} cannot be distributed over ranks: choose {instead}")
