"""DistributedNetwork: a network that several ranks have and train together."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, issparse

from slide import checkpoint, prediction, training
from slide.config import ConfigError, NetworkConfig, TrainingConfig
from slide.data.dataset import Dataset
from slide.distributed.checkpoints import SharedCheckpoints, check_together, read_residual, write_together
from slide.distributed.comm import Traffic
from slide.distributed.config import DistributionConfig
from slide.distributed.failures import aborting, on_root, watch
from slide.distributed.feed import DistributedFeed
from slide.distributed.grid import Grid, LabelShard, cores_of_process
from slide.distributed.input import ShardInput
from slide.distributed.output import ShardOutput
from slide.distributed.prediction import evaluate_own, predict_own
from slide.distributed.stepper import DistributedStepper
from slide.folders import write_file
from slide.footprint import check_fit
from slide.kernels.parallel import isa, resolve_threads
from slide.network import Network
from slide.resume import SavedRun, newest

BLOCK = 1 << 14
"""Rows of each shard that are gathered at a time."""


class DistributedNetwork(Network):
    """A `Network` over the ranks of a communicator; ``Network(..., comm=comm)`` makes one.

    Every rank has the hidden layers and a shard of the output layer (`output`, whose ``shard`` says which labels its
    rows stand for). What trains, predicts, saves or gathers is called by all ranks, with the same arguments, and gives
    all of them the same result.

    Parameters
    ----------
    n_features, n_labels, config, threads
        As for `Network`; by default as many threads as there are cores for each rank.
    comm : mpi4py communicator
    distribution : DistributionConfig, optional

    Attributes
    ----------
    grid : Grid
    traffic : Traffic
        What this rank has received from others since the network was made.

    Raises
    ------
    ConfigError
        The ranks do not make the grid, there are fewer labels than shards, or the configuration has something that
        cannot be distributed.
    MissingExtra
        mpi4py is not installed.
    """

    def __init__(
        self,
        n_features: int,
        n_labels: int,
        config: NetworkConfig | None = None,
        *,
        comm,
        distribution: DistributionConfig | None = None,
        threads: int | None = None,
    ):
        config = config or NetworkConfig()
        self.grid = Grid(comm, distribution or DistributionConfig())
        watch(self.grid.alarm)
        _check(config, self.grid)
        labels = self.grid.labels
        self.shard = LabelShard(n_labels, labels.rank, labels.size, self.grid.config.partition)
        self.feature_shard: LabelShard | None = None
        if self.grid.config.shard_features:
            together = self.grid.together
            self.feature_shard = LabelShard(n_features, together.rank, together.size, "cyclic", "features")
        self._own_points = False
        super().__init__(n_features, n_labels, config, threads=threads or threads_each(self.grid))

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, {self.grid!r})"

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
        """See `Network.label_rows`."""
        return self.shard.labels

    @property
    def replica(self) -> tuple[int, int]:
        """Which of how many ranks with the same labels this is."""
        return self.grid.data.rank, self.grid.data.size

    @property
    def residual(self) -> np.ndarray | None:
        """What this replica keeps back of its gradients; see `slide.distributed.replicas`."""
        return self.output.residual

    def table_name(self, layer: str) -> str:
        """See `Network.table_name`; tables over a shard of the labels are of use to that shard alone."""
        labels = self.grid.labels
        if layer != "output" or labels.size == 1:
            return layer
        return f"output.{self.grid.config.partition}-{labels.rank}-of-{labels.size}"

    def average(self) -> None:
        """Have replicas that train each for itself agree; see `DistributionConfig.average_every`."""
        self._stepper.average(self)

    def restored(self, source) -> None:
        """See `Network.restored`."""
        super().restored(source)
        self._stepper.resume(self.step)
        read_residual(self, source)

    def rows_here(self, array: str) -> tuple[int, range] | None:
        """See `Network.rows_here`."""
        if self.feature_shard is not None and array.startswith("hidden.0.") and ".bias" not in array:
            return self.n_features, self.feature_shard.labels
        return super().rows_here(array)

    @property
    def feature_replica(self) -> tuple[int, int]:
        """Which of how many ranks with the same features this is, where features are cut into shards."""
        return self.replica if self.grid.together is self.grid.labels else (0, 1)

    def settle(self) -> None:
        """See `Network.settle`; replicas that train each for itself agree afterwards, so that all ranks call this."""
        self.average()
        super().settle()

    def _check_fit(self, trainable):
        n_features = self.n_features if self.feature_shard is None else self.feature_shard.n_rows
        needs = self.bytes_needed(n_features, self.shard.n_rows, self.config, trainable=trainable)
        here = len(self.grid.on_this_machine)
        check_fit({name: here * size for name, size in needs.items()}, self.config.hugepages)

    def _make_hidden(self, i, dim, layer, *rest):
        if i == 0 and self.feature_shard is not None:
            return ShardInput(self.feature_shard, self.grid.together, "hidden.0", layer, *rest)
        return super()._make_hidden(i, dim, layer, *rest)

    def _make_output(self, n_labels, dim, storage, seed):
        rest = (dim, self.config.output, storage, seed, self._buffers, self.threads)
        return ShardOutput(self.shard, self.grid, *rest)

    def _make_stepper(self):
        return DistributedStepper(self._buffers, len(self.hidden), self.grid)

    def feed(self, X, Y, config: TrainingConfig, validation=None) -> DistributedFeed:
        """See `Network.feed`."""
        return DistributedFeed(self, X, Y, config, validation, own=self._own_points)

    def fit(self, X, Y, *, own_points: bool = False, **options) -> training.History:
        """Train on a data set; see `slide.training.fit` for the options and what is returned.

        Parameters
        ----------
        X, Y : sparse or dense matrices
            All points, the same on all ranks, of which each reads its own.
        own_points : bool
            X and Y are the points of this rank alone, those that `slide.distributed.own_rows` names.
        **options
            The same on all ranks. Callbacks are called on rank 0 alone, and must not have the network predict or save.

        Returns
        -------
        History
            The same on all ranks but for the times, with the bytes that this rank received a batch, by kind.
        """
        world = self.grid.world
        if options.get("checkpoints") is not None:
            options["checkpoints"] = SharedCheckpoints(options["checkpoints"], world.comm)
        if options.get("resume") is not None:
            saved = SavedRun(world.share("control", newest(options["resume"]) if self.leads else None))
            self.grid.go_on_with(saved.shares, saved.training.holdout)
            options["resume"] = saved.path
        self._own_points = own_points
        with aborting(self.grid.alarm):
            history = training.fit(self, X, Y, **options)
            self._stepper.average(self)
        return history

    def predict(self, X, k=5, *, exclude=None, allowed=None, mode="exact", candidates=None):
        """See `Network.predict`; every rank scores its labels for all points, which are the same on all ranks."""
        if mode != "exact" or allowed is not None or candidates is not None:
            raise ConfigError(
                "a network on several ranks predicts with mode='exact' alone, and without allowed: gather() makes a "
                "network of one process, which does the rest"
            )
        if k < 1:
            raise ValueError(f"k must be 1 or more, got {k}")
        single = np.ndim(X) == 1 and not issparse(X)
        X = prediction.checked(self, np.reshape(X, (1, -1)) if single else X)
        if exclude is not None:
            exclude = csr_matrix(np.reshape(exclude, (1, -1)) if np.ndim(exclude) == 1 else exclude)
        world = self.grid.world
        ends = X.shape[0] * np.arange(world.size + 1) // world.size
        mine = slice(int(ends[world.rank]), int(ends[world.rank + 1]))
        with aborting(self.grid.alarm):
            ids, scores = predict_own(self, X[mine], k, None if exclude is None else exclude[mine])
            ids, scores = (world.join("prediction", part, np.diff(ends)) for part in (ids, scores))
        return (ids[0], scores[0]) if single else (ids, scores)

    def evaluate(
        self, X, Y, *, ks=(1, 3, 5), inv_propensity=None, mask_inputs=False, mode="exact", candidates=None
    ) -> dict[str, float]:
        """See `Network.evaluate`; every rank measures on its part of the points, which are the same on all ranks."""
        if mode != "exact" or candidates is not None:
            raise ConfigError("a network on several ranks is evaluated with mode='exact' alone")
        data = Dataset.from_arrays(prediction.checked(self, X), Y)
        if Y.shape[1] != self.n_labels:
            raise ValueError(f"Y has {Y.shape[1]:,} labels, the network {self.n_labels:,}")
        world = self.grid.world
        ends = data.n_points * np.arange(world.size + 1) // world.size
        mine = data.subset(slice(int(ends[world.rank]), int(ends[world.rank + 1])))
        options = {"ks": ks, "inv_propensity": inv_propensity, "mask_inputs": mask_inputs}
        with aborting(self.grid.alarm):
            return evaluate_own(self, [mine], **options)

    def gather(self, *, moments: bool = False) -> Network | None:
        """Return, on rank 0, a network of one process with all weights; None on the others.

        Parameters
        ----------
        moments : bool
            With what the optimiser keeps, so that it can be trained on.
        """
        self._stepper.average(self)
        self.settle()
        whole = None
        if self.leads:
            whole = Network(self.n_features, self.n_labels, self.config, threads=self.threads, trainable=moments)
        with aborting(self.grid.alarm):
            self._gather_into(whole)
        return whole

    def _gather_into(self, whole):
        """Give rank 0's `whole` everything this network has."""
        targets = None if whole is None else checkpoint.parameters(whole, moments=whole.trainable)
        mine = checkpoint.parameters(self, moments=True)
        for name in self.grid.world.share("gather", None if targets is None else list(targets)):
            here = self.rows_here(name)
            if here is not None:
                self._gather_rows(name, mine[name], None if targets is None else targets[name], here[0])
            elif targets is not None:
                targets[name][...] = np.asarray(mine[name])
        if whole is not None:
            whole.optimizer.resume(self.step)

    def _gather_rows(self, name, view, target, n):
        """Write one array of all shards' rows to rank 0's, a block of each shard at a time."""
        output = name.startswith("output.")
        ranks, partition = (self.grid.labels, self.grid.config.partition) if output else (self.grid.together, "cyclic")
        if ranks is not self.grid.world and self.grid.data.rank:
            return
        shards = [LabelShard(n, i, ranks.size, partition) for i in range(ranks.size)]
        for first in range(0, max(shard.n_rows for shard in shards), BLOCK):
            rows = ranks.collect(
                "gather",
                np.asarray(view[first : first + BLOCK]),
                np.array([min(max(shard.n_rows - first, 0), BLOCK) for shard in shards]),
            )
            at = 0
            for shard in shards if rows is not None else ():
                some = np.arange(shard.n_rows, dtype=np.int64)[first : first + BLOCK]
                target[shard.to_ids(some)] = rows[at : at + len(some)]
                at += len(some)

    def take_over(self, network: Network) -> None:
        """Become what a network of one process is, which every rank has: weights, moments, steps.

        Parameters
        ----------
        network : Network
            Trainable, of the same sizes and configuration.
        """
        network.settle()
        whole = checkpoint.parameters(network, moments=True)
        for name, view in checkpoint.parameters(self, moments=True).items():
            here = self.rows_here(name)
            view[...] = np.asarray(whole[name] if here is None else whole[name][_slice(here[1])])
        self.optimizer.resume(network.step)
        for layer in (*self.hidden, self.output):
            if layer.index is not None:
                layer.index.reset()

    def hand_back(self, network: Network) -> None:
        """Make a network of one process, which every rank has, what this one has become.

        Parameters
        ----------
        network : Network
            That it took over from.
        """
        self._stepper.average(self)
        self.settle()
        with aborting(self.grid.alarm):
            self._gather_into(network if self.leads else None)
            for view in checkpoint.parameters(network, moments=True).values():
                for first in range(0, len(view), BLOCK):
                    block = np.asarray(view[first : first + BLOCK])
                    view[first : first + BLOCK] = self.grid.world.broadcast("gather", block)
        network.optimizer.resume(self.step)
        network.forget_searches()
        for layer in (*network.hidden, network.output):
            if layer.index is not None:
                layer.index.reset()

    def save(
        self,
        path: str | os.PathLike,
        *,
        moments: bool = False,
        serving: bool = False,
        beside: dict[str, bytes] | None = None,
    ) -> None:
        """Write the network as one of one process reads it, each rank its share; see `Network.save`.

        All ranks write to a file system that they share. For serving, and as one file, it is rank 0 that writes, with
        all of the network in memory.

        Parameters
        ----------
        path, moments, serving
            As for `Network.save`.
        beside : dict of bytes, optional
            More files for the folder, by name; those of rank 0 count.
        """
        path, world = Path(path), self.grid.world
        self.settle()
        if serving or path.suffix == checkpoint.ONE_FILE:
            whole = self.gather(moments=moments)
            on_root(world, lambda: checkpoint.save(whole, path, moments=moments, serving=serving, beside=beside))
            return
        on_root(world, lambda: checkpoint.check_destination(path))
        check_together(world.comm, self, f"{path} was not written: ", moments=moments)

        def write(folder):
            for name, content in (beside or {}).items():
                write_file(folder / name, lambda file, content=content: file.write(content))

        with aborting(self.grid.alarm):
            problem = write_together(world.comm, self, path, {}, write, moments=moments)
        if problem is not None:
            raise OSError(f"{path} could not be written: {problem}")

    def check_replicas(self) -> None:
        """Make sure that what is on several ranks is the same there, to the bit.

        Raises
        ------
        RuntimeError
            It is not.
        """
        grid, agreed = self.grid, self._stepper.agreed(self)
        hidden = [checksum(layer, rows=self.rows_here(f"{layer.name}.weights") is None) for layer in self.hidden]
        groups = [(grid.world if agreed else grid.labels, hidden)]
        if agreed:
            groups.append((grid.data, [checksum(self.output)]))
            if grid.together is grid.labels:
                # Where features are cut replicas have the same ones.
                groups.append((grid.data, [checksum(self.hidden[0])]))
        same = True
        for ranks, numbers in groups:
            every = ranks.gather("control", np.array(numbers, np.uint64))
            same = same and bool((every == every[0]).all())
        if not grid.world.gather("control", np.array([same])).all():
            raise RuntimeError(
                f"replicas of the same weights differ after step {self.step}: some rank has computed something else. "
                "Check that all ranks run the same version of slide and of NumPy, on sound machines"
            )

    def initialize(self, features=None, labels=None) -> None:
        """See `Network.initialize`; of all labels, and where these are not cut of all features."""
        if features is not None and self.feature_shard is not None:
            raise _refused("initialize() of features with shard_features")
        super().initialize(features, None if labels is None else np.asarray(labels)[self.shard.ids])

    def grow(self, n_labels: int) -> None:
        """Not for networks on several ranks."""
        raise _refused("grow()")

    def fit_stream(self, blocks, **options):
        """Not for networks on several ranks."""
        raise _refused("fit_stream()")

    def build_search_index(self, mode="sketch", X=None, **options):
        """Not for networks on several ranks."""
        raise _refused("build_search_index()")

    def output_matrix(self, *, centred: bool = True) -> np.ndarray:
        """Not for networks on several ranks."""
        raise _refused("output_matrix()")

    def __reduce__(self):
        """Refuse: a rank has a part of the network."""
        raise TypeError("a network on several ranks cannot be pickled or copied; pickle what gather() returns")


def fit(network: Network, X, Y, *, comm, distribution: DistributionConfig | None = None, **options) -> training.History:
    """Train a network of one process on several ranks, all of which have it and have it afterwards.

    Parameters
    ----------
    network : Network
        The same on all ranks.
    X, Y, **options
        As for `DistributedNetwork.fit`.
    comm : mpi4py communicator
    distribution : DistributionConfig, optional

    Returns
    -------
    History
    """
    if not network.trainable:
        raise RuntimeError("this network was made, or saved, without the optimiser's state; it can only predict")
    sizes = network.n_features, network.n_labels, network.config
    parts = DistributedNetwork(*sizes, comm=comm, distribution=distribution, threads=network.threads)
    parts.take_over(network)
    history = parts.fit(X, Y, **options)
    parts.hand_back(network)
    return history


def threads_each(grid: Grid) -> int:
    """Return the threads that a rank can use without taking them from others on the same processors.

    Parameters
    ----------
    grid : Grid
    """
    return max(1, resolve_threads(None) // grid.on_this_machine.count(cores_of_process()))


def checksum(layer, *, rows: bool = True) -> int:
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


def _slice(rows):
    return slice(rows.start, rows.stop, rows.step)


def _check(config, grid):
    """Refuse what cannot be distributed."""
    kinds = grid.world.gather("control", np.array([isa().encode()], "S32"))[:, 0]
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


def _refused(what):
    return ConfigError(f"{what} is not for networks on several ranks: gather() makes one of one process, on rank 0")
