"""DistributedNetwork: a network on several ranks, which train it together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from operator import methodcaller
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
from scipy.sparse import csr_matrix, issparse

from slide.config import ConfigError, LSHConfig, NetworkConfig, TrainingConfig
from slide.config.distribution import DistributionConfig
from slide.data.dataset import Dataset, MatrixLike
from slide.files.atomic import write_file
from slide.kernels.bfloat16 import BFloat16View
from slide.model.base import BaseNetwork
from slide.persist import saved_network
from slide.persist.format import ONE_FILE, Source
from slide.ranks.checkpoints import SharedCheckpoints, check_together, read_residual, write_together
from slide.ranks.comm import Traffic
from slide.ranks.failures import aborting, on_root
from slide.ranks.feed import DistributedFeed
from slide.ranks.grid import Grid, LabelShard
from slide.ranks.stack import RankStack, checksum
from slide.ranks.stepper import DistributedStepper
from slide.ranks.topk import evaluate_own, predict_own
from slide.system.guard import reads
from slide.system.renames import former_names
from slide.train import loop
from slide.train.callbacks import Callback
from slide.train.checkpoints import Checkpoints, SavedRun, newest
from slide.train.records import History, Progress

BLOCK = 1 << 14
"""Number of rows of each shard that are gathered at a time."""


class DistributedNetwork(BaseNetwork):
    """A network on the ranks of a communicator; ``Network(..., comm=comm)`` makes one.

    Every rank has the hidden layers and a shard of the output layer (`output`, whose ``shard`` says which labels its
    rows stand for). To train, predict, save or gather, all ranks call the same method with the same arguments, and all
    get the same result.

    Parameters
    ----------
    n_features, n_labels, config, threads
        As for `slide.Network`; by default as many threads as there are cores for each rank.
    comm : mpi4py communicator
        All ranks; it is duplicated.
    distribution : DistributionConfig, optional
        How the network is distributed; by default one shard of the labels for each rank.

    Attributes
    ----------
    layers : RankStack
        The layers of this rank.
    whole : callable
        Makes the network that ``gather`` returns; `slide.network` sets it to `slide.Network`.

    Raises
    ------
    ConfigError
        The ranks do not make a grid, there are fewer labels than shards, or the configuration has a setting that cannot
        be distributed.
    MissingExtra
        mpi4py is not installed.
    """

    whole: ClassVar[Callable[..., Any]]
    layers: RankStack
    _stepper: DistributedStepper

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
        layers = RankStack(
            n_features,
            n_labels,
            config or NetworkConfig(),
            comm=comm,
            distribution=distribution or DistributionConfig(),
            threads=threads,
        )
        super().__init__(layers, DistributedStepper(layers.buffers, len(layers.hidden), layers.grid))

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, {self.grid!r})"

    @property
    def grid(self) -> Grid:
        """The grid of all ranks, and the place of this rank in it."""
        return self.layers.grid

    @property
    def traffic(self) -> Traffic:
        """Bytes that this rank has received from others since the network was made."""
        return self.layers.traffic

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes messages and manifests for all."""
        return self.layers.leads

    def average(self) -> None:
        """Average replicas that train with local SGD; see `DistributionConfig.average_every`."""
        self._stepper.average(self.layers)

    def restored(self, source: Source) -> None:
        """See `BaseNetwork.restored`."""
        super().restored(source)
        self._stepper.resume(self.step)
        read_residual(self.layers, source)

    @reads
    def settle(self) -> None:
        """See `BaseNetwork.settle`; it also averages replicas that train with local SGD, so all ranks must call it."""
        self.average()
        self.layers.settle()

    @former_names(own_points="own_samples")
    def fit(
        self,
        X: MatrixLike,
        Y: MatrixLike,
        *,
        own_samples: bool = False,
        config: TrainingConfig | None = None,
        validation: tuple[MatrixLike, MatrixLike] | None = None,
        mask_inputs: bool = False,
        label_weights: np.ndarray | None = None,
        callbacks: Iterable[Callback | Callable[[Progress], bool | None]] = (),
        checkpoints: Checkpoints | None = None,
        resume: str | os.PathLike | None = None,
    ) -> History:
        """Train on a data set; see `slide.Network.fit` for the other parameters.

        All ranks give the same arguments. Only rank 0 calls the callbacks, which must not predict with the network or
        save it.

        Parameters
        ----------
        X, Y : sparse or dense matrices
            All samples, the same on all ranks, each of which reads its own.
        own_samples : bool
            Whether X and Y have only the samples of this rank, those that `slide.distributed.own_rows` names; False by
            default.

        Returns
        -------
        History
            The same on all ranks except for times and for ``bytes_per_batch``, which is that of this rank.

        Raises
        ------
        ConfigError, DataError
            As for `slide.Network.fit`; also if a setting cannot be distributed or the ranks have other samples than
            expected.
        """
        world = self.grid.world
        if checkpoints is not None:
            checkpoints = SharedCheckpoints(checkpoints, world.comm, self.average)
        if resume is not None:
            path = world.bcast("control", newest(resume) if self.leads else None)
            assert path is not None, "rank 0 sends it"
            saved = SavedRun(path)
            self.grid.go_on_with(saved.portions, saved.training.holdout)
            resume = saved.path

        def make_feed(*data: Any) -> DistributedFeed:
            return DistributedFeed(*data, own=own_samples, on_epoch_end=self._end_epoch)

        with aborting(self.grid.alarm):
            history = loop.fit(
                self,
                X,
                Y,
                config=config,
                validation=validation,
                mask_inputs=mask_inputs,
                label_weights=label_weights,
                callbacks=callbacks,
                checkpoints=checkpoints,
                resume=resume,
                make_feed=make_feed,
            )
            self.average()
        return history

    def _end_epoch(self) -> None:
        self.settle()
        self.check_replicas()

    def predict(
        self,
        X: csr_matrix | np.ndarray,
        k: int = 5,
        *,
        exclude: csr_matrix | np.ndarray | None = None,
        allowed: object = None,
        mode: str = "exact",
        candidates: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Network.predict`; all ranks give the same samples, and each scores its own labels.

        Raises ConfigError for modes other than ``"exact"``, for `allowed` and for `candidates`.
        """
        if mode != "exact" or allowed is not None or candidates is not None:
            raise ConfigError(
                "a network on several ranks predicts only with mode='exact', and without allowed: gather() makes a "
                "network of one process, which does the rest"
            )
        if k < 1:
            raise ValueError(f"k must be 1 or more, got {k}")
        single = False
        if not issparse(X):
            X = np.asarray(X)
            single = X.ndim == 1
        samples = self.layers.checked(X.reshape((1, -1)) if single else X)
        banned = None
        if exclude is not None:
            given = exclude if issparse(exclude) else np.asarray(exclude)
            banned = csr_matrix(given.reshape((1, -1)) if given.ndim == 1 else given)
        world = self.grid.world
        ends = samples.shape[0] * np.arange(world.size + 1) // world.size
        mine = slice(int(ends[world.rank]), int(ends[world.rank + 1]))
        with aborting(self.grid.alarm):
            self.settle()
            ids, scores = predict_own(self.layers, samples[mine], k, None if banned is None else banned[mine])
            ids, scores = (world.allgatherv("prediction", part, np.diff(ends)) for part in (ids, scores))
        return (ids[0], scores[0]) if single else (ids, scores)

    def evaluate(
        self,
        X: csr_matrix | np.ndarray,
        Y: csr_matrix | np.ndarray,
        *,
        ks: Iterable[int] = (1, 3, 5),
        inv_propensity: np.ndarray | None = None,
        mask_inputs: bool = False,
        mode: str = "exact",
        candidates: int | None = None,
    ) -> dict[str, float]:
        """See `Network.evaluate`; all ranks give the same samples, and each measures on its part of them.

        Raises ConfigError for modes other than ``"exact"`` and for `candidates`.
        """
        if mode != "exact" or candidates is not None:
            raise ConfigError(
                "a network on several ranks can be evaluated only with mode='exact': gather() makes a network of one "
                "process, which has the other modes"
            )
        data = Dataset.from_arrays(self.layers.checked(X), Y)
        if Y.shape[1] != self.n_labels:
            raise ValueError(f"Y has {Y.shape[1]:,} labels, the network {self.n_labels:,}")
        world = self.grid.world
        ends = data.n_samples * np.arange(world.size + 1) // world.size
        mine = data.subset(slice(int(ends[world.rank]), int(ends[world.rank + 1])))
        with aborting(self.grid.alarm):
            self.settle()
            return evaluate_own(self.layers, [mine], ks=ks, inv_propensity=inv_propensity, mask_inputs=mask_inputs)

    def gather(self, *, moments: bool = False) -> BaseNetwork | None:
        """Return a network of one process with all weights, on rank 0. All ranks call this.

        Parameters
        ----------
        moments : bool
            Whether to copy the optimizer's moments too, so that training can go on; False by default.

        Returns
        -------
        Network or None
            None on ranks other than 0.
        """
        self.settle()
        whole: BaseNetwork | None = None
        if self.leads:
            sizes = self.n_features, self.n_labels, self.config
            whole = type(self).whole(*sizes, threads=self.threads, trainable=moments)
        with aborting(self.grid.alarm):
            self._gather_into(whole)
        return whole

    def _gather_into(self, whole: BaseNetwork | None) -> None:
        """Copy everything that this network has into `whole`, which is on rank 0."""
        targets = {} if whole is None else whole.layers.parameters(moments=whole.trainable)
        mine = self.layers.parameters(moments=True)
        for name in self.grid.world.bcast("gather", list(targets)):
            here = self.layers.rows_here(name)
            if here is not None:
                self._gather_rows(name, mine[name], targets.get(name), here[0])
            elif targets:
                targets[name][...] = np.asarray(mine[name])
        if whole is not None:
            whole.optimizer.resume(self.step)

    def _gather_rows(
        self, name: str, view: np.ndarray | BFloat16View, target: np.ndarray | BFloat16View | None, n: int
    ) -> None:
        """Copy the rows of an array from all shards into rank 0's `target`, a block of each shard at a time."""
        output = name.startswith("output.")
        ranks, partition = (self.grid.labels, self.grid.config.partition) if output else (self.grid.together, "cyclic")
        if ranks is not self.grid.world and self.grid.data.rank:
            return
        shards = [LabelShard(n, i, ranks.size, partition) for i in range(ranks.size)]
        for first in range(0, max(shard.n_rows for shard in shards), BLOCK):
            rows = ranks.gatherv(
                "gather",
                np.asarray(view[first : first + BLOCK]),
                np.array([min(max(shard.n_rows - first, 0), BLOCK) for shard in shards]),
            )
            at = 0
            if rows is None or target is None:
                continue
            for shard in shards:
                some = np.arange(shard.n_rows, dtype=np.int64)[first : first + BLOCK]
                target[shard.to_ids(some)] = rows[at : at + len(some)]
                at += len(some)

    def take_over(self, network: BaseNetwork) -> None:
        """Take the weights, moments and steps of a network of one process, which every rank has.

        `network` is trainable and has the same sizes and configuration.
        """
        network.settle()
        whole = network.layers.parameters(moments=True)
        for name, view in self.layers.parameters(moments=True).items():
            view[...] = np.asarray(whole[name][self.layers.rows_of(name)])
        self.optimizer.resume(network.step)
        for layer in self.layers:
            if layer.index is not None:
                layer.index.reset()

    def hand_back(self, network: BaseNetwork) -> None:
        """Give the network that ``take_over`` was given, on every rank, what this one has learnt since."""
        self.settle()
        with aborting(self.grid.alarm):
            self._gather_into(network if self.leads else None)
            for view in network.layers.parameters(moments=True).values():
                for first in range(0, len(view), BLOCK):
                    block = np.asarray(view[first : first + BLOCK])
                    view[first : first + BLOCK] = self.grid.world.bcast_array("gather", block)
        network.optimizer.resume(self.step)
        network.layers.weights_changed()
        for layer in network.layers:
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
        """Write the network so that one process can load it; each rank writes its shard. See `Network.save`.

        All ranks write to a file system that they share. With `serving`, and to a single file, only rank 0 writes, with
        the whole network in memory.

        Parameters
        ----------
        path, moments, serving
            As for `Network.save`.
        beside : dict of bytes, optional
            More files for the folder, by name; those of rank 0 count.

        Raises
        ------
        FileExistsError, NumericalFault, OSError, ValueError
            As for `Network.save`, on all ranks.
        """
        place, world = Path(path), self.grid.world
        self.settle()
        if serving or place.suffix == ONE_FILE:
            whole = self.gather(moments=moments)

            def save() -> None:
                assert whole is not None, "rank 0 has it"
                saved_network.save(whole.layers, place, moments=moments, serving=serving, beside=beside)

            on_root(world, save)
            return
        on_root(world, lambda: saved_network.check_destination(place))
        check_together(world.comm, self.layers, f"{place} was not written: ", moments=moments)

        def write(folder: Path) -> None:
            for name, content in (beside or {}).items():
                write_file(folder / name, methodcaller("write", content))

        with aborting(self.grid.alarm):
            problem = write_together(world.comm, self.layers, place, {}, write, moments=moments)
        if problem is not None:
            raise OSError(f"{place} could not be written: {problem}")

    def check_replicas(self) -> None:
        """Check that weights which several ranks have are equal on all of them, to the bit.

        Raises
        ------
        RuntimeError
            They are not.
        """
        grid, agreed = self.grid, self._stepper.agreed(self.layers)
        hidden = [checksum(layer, rows=self.layers.rows_here(f"{layer.name}.weights") is None) for layer in self.hidden]
        groups = [(grid.world if agreed else grid.labels, hidden)]
        if agreed:
            groups.append((grid.data, [checksum(self.output)]))
            if grid.together is grid.labels:
                # If features are cut into shards, replicas have the same ones.
                groups.append((grid.data, [checksum(self.hidden[0])]))
        same = True
        for ranks, numbers in groups:
            every = ranks.allgather("control", np.array(numbers, np.uint64))
            same = same and bool((every == every[0]).all())
        if not grid.world.allgather("control", np.array([same])).all():
            raise RuntimeError(
                f"replicas of the same weights differ after step {self.step}: some rank has computed other numbers. "
                "Check that all ranks have the same versions of slide and NumPy, and that no machine is faulty"
            )

    def initialize(self, features: np.ndarray | None = None, labels: np.ndarray | None = None) -> None:
        """See `BaseNetwork.initialize`; `features` and `labels` are those of the whole network."""
        if features is not None and self.layers.feature_shard is not None:
            raise _refused("initialize() of features with shard_features")
        super().initialize(features, None if labels is None else np.asarray(labels)[self.layers.shard.ids])

    def grow(self, n_labels: int) -> NoReturn:
        """Raise ConfigError: not for networks on several ranks."""
        raise _refused("grow()")

    def fit_stream(
        self,
        blocks: Iterable[tuple[MatrixLike, MatrixLike]],
        *,
        config: TrainingConfig | None = None,
        label_frequency: np.ndarray | None = None,
        label_weights: np.ndarray | None = None,
        callbacks: Iterable[Callback | Callable[[Progress], bool | None]] = (),
    ) -> NoReturn:
        """Raise ConfigError: not for networks on several ranks."""
        raise _refused("fit_stream()")

    def build_search_index(
        self,
        mode: str = "sketch",
        X: csr_matrix | np.ndarray | None = None,
        *,
        dims: int = 64,
        coverage: float = 1.0,
        lsh: LSHConfig | None = None,
    ) -> NoReturn:
        """Raise ConfigError: not for networks on several ranks."""
        raise _refused("build_search_index()")

    def output_matrix(self, *, centred: bool = True) -> NoReturn:
        """Raise ConfigError: not for networks on several ranks."""
        raise _refused("output_matrix()")

    def __reduce__(self) -> NoReturn:
        """Raise TypeError: a rank has only a part of the network."""
        raise TypeError("a network on several ranks cannot be pickled or copied; pickle what gather() returns")


def fit(
    network: BaseNetwork,
    X: MatrixLike,
    Y: MatrixLike,
    *,
    comm,
    distribution: DistributionConfig | None = None,
    own_samples: bool = False,
    config: TrainingConfig | None = None,
    validation: tuple[MatrixLike, MatrixLike] | None = None,
    mask_inputs: bool = False,
    label_weights: np.ndarray | None = None,
    callbacks: Iterable[Callback | Callable[[Progress], bool | None]] = (),
    checkpoints: Checkpoints | None = None,
    resume: str | os.PathLike | None = None,
) -> History:
    """Train a network of one process on several ranks; afterwards every rank has the trained network.

    Parameters
    ----------
    network : Network
        The same on all ranks.
    comm : mpi4py communicator
        All ranks.
    distribution : DistributionConfig, optional
        How the network is distributed during training; by default one shard of the labels for each rank.
    X, Y, own_samples, config, validation, mask_inputs, label_weights, callbacks, checkpoints, resume
        As for `DistributedNetwork.fit`.

    Returns
    -------
    History
        As `DistributedNetwork.fit` returns it.

    Raises
    ------
    RuntimeError
        The network is not trainable.
    ConfigError, DataError
        As for `DistributedNetwork` and `DistributedNetwork.fit`.
    """
    if not network.trainable:
        raise RuntimeError("this network was made, or saved, without the optimizer's state; it can only predict")
    sizes = network.n_features, network.n_labels, network.config
    parts = DistributedNetwork(*sizes, comm=comm, distribution=distribution, threads=network.threads)
    parts.take_over(network)
    history = parts.fit(
        X,
        Y,
        own_samples=own_samples,
        config=config,
        validation=validation,
        mask_inputs=mask_inputs,
        label_weights=label_weights,
        callbacks=callbacks,
        checkpoints=checkpoints,
        resume=resume,
    )
    parts.hand_back(network)
    return history


def _refused(what: str) -> ConfigError:
    return ConfigError(f"{what} is not for networks on several ranks: gather() makes one for one process, on rank 0")
