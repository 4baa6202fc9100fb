"""DistributedNetwork: a network that several ranks have and train together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
from scipy.sparse import csr_matrix, issparse

from slide.config import ConfigError, NetworkConfig, TrainingConfig
from slide.config.distribution import DistributionConfig
from slide.data.dataset import Dataset
from slide.files.atomic import write_file
from slide.model.base import BaseNetwork
from slide.persist import saved_network
from slide.persist.format import ONE_FILE
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
"""Rows of each shard that are gathered at a time."""


class DistributedNetwork(BaseNetwork):
    """A network over the ranks of a communicator; ``Network(..., comm=comm)`` makes one.

    Every rank has the hidden layers and a shard of the output layer (`output`, whose ``shard`` says which labels its
    rows stand for). All ranks call what trains, predicts, saves or gathers, with the same arguments, and all of them
    get the same result.

    Parameters
    ----------
    n_features, n_labels, config, threads
        As for `slide.Network`; by default as many threads as there are cores for each rank.
    comm : mpi4py communicator
    distribution : DistributionConfig, optional

    Attributes
    ----------
    layers : RankStack
    whole : class
        What ``gather`` makes: `slide.Network`, which sets it.

    Raises
    ------
    ConfigError
        The ranks do not make the grid, there are fewer labels than shards, or the configuration has something that
        cannot be distributed.
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
        """Where this rank stands among all ranks."""
        return self.layers.grid

    @property
    def traffic(self) -> Traffic:
        """What this rank has received from others since the network was made."""
        return self.layers.traffic

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which speaks for all."""
        return self.layers.leads

    def average(self) -> None:
        """Make replicas that train on their own agree; see `DistributionConfig.average_every`."""
        self._stepper.average(self.layers)

    def restored(self, source) -> None:
        """See `BaseNetwork.restored`."""
        super().restored(source)
        self._stepper.resume(self.step)
        read_residual(self.layers, source)

    @reads
    def settle(self) -> None:
        """See `BaseNetwork.settle`; replicas that train on their own agree afterwards, so that all ranks call this."""
        self.average()
        self.layers.settle()

    @former_names(own_points="own_samples")
    def fit(
        self,
        X: csr_matrix,
        Y: csr_matrix,
        *,
        own_samples: bool = False,
        config: TrainingConfig | None = None,
        validation: tuple[csr_matrix, csr_matrix] | None = None,
        mask_inputs: bool = False,
        label_weights: np.ndarray | None = None,
        callbacks: Iterable[Callback | Callable[[Progress], bool | None]] = (),
        checkpoints: Checkpoints | None = None,
        resume: str | os.PathLike | None = None,
    ) -> History:
        """Train on a data set; see `slide.Network.fit` for the parameters that are not here.

        All parameters are the same on all ranks. Callbacks are called on rank 0 alone, and must not let the network
        predict or save.

        Parameters
        ----------
        X, Y : sparse or dense matrices
            All samples, the same on all ranks, of which each reads its own.
        own_samples : bool
            X and Y are the samples of this rank alone, those that `slide.distributed.own_rows` names.

        Returns
        -------
        History
            The same on all ranks except for the times; it has the bytes that this rank received per batch, by kind.
        """
        world = self.grid.world
        if checkpoints is not None:
            checkpoints = SharedCheckpoints(checkpoints, world.comm, self.average)
        if resume is not None:
            saved = SavedRun(world.bcast("control", newest(resume) if self.leads else None))
            self.grid.go_on_with(saved.portions, saved.training.holdout)
            resume = saved.path

        def make_feed(*data) -> DistributedFeed:
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
        X: csr_matrix,
        k: int = 5,
        *,
        exclude: csr_matrix | None = None,
        allowed: object = None,
        mode: str = "exact",
        candidates: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Network.predict`; every rank scores its labels for all samples, which are the same on all ranks."""
        if mode != "exact" or allowed is not None or candidates is not None:
            raise ConfigError(
                "a network on several ranks predicts with mode='exact' alone, and without allowed: gather() makes a "
                "network of one process, which does the rest"
            )
        if k < 1:
            raise ValueError(f"k must be 1 or more, got {k}")
        single = np.ndim(X) == 1 and not issparse(X)
        X = self.layers.checked(np.reshape(X, (1, -1)) if single else X)
        if exclude is not None:
            exclude = csr_matrix(np.reshape(exclude, (1, -1)) if np.ndim(exclude) == 1 else exclude)
        world = self.grid.world
        ends = X.shape[0] * np.arange(world.size + 1) // world.size
        mine = slice(int(ends[world.rank]), int(ends[world.rank + 1]))
        with aborting(self.grid.alarm):
            self.settle()
            ids, scores = predict_own(self.layers, X[mine], k, None if exclude is None else exclude[mine])
            ids, scores = (world.allgatherv("prediction", part, np.diff(ends)) for part in (ids, scores))
        return (ids[0], scores[0]) if single else (ids, scores)

    def evaluate(
        self,
        X: csr_matrix,
        Y: csr_matrix,
        *,
        ks: Iterable[int] = (1, 3, 5),
        inv_propensity: np.ndarray | None = None,
        mask_inputs: bool = False,
        mode: str = "exact",
        candidates: int | None = None,
    ) -> dict[str, float]:
        """See `Network.evaluate`; every rank measures on its part of the samples, which are the same on all ranks."""
        if mode != "exact" or candidates is not None:
            raise ConfigError("a network on several ranks is evaluated with mode='exact' alone")
        data = Dataset.from_arrays(self.layers.checked(X), Y)
        if Y.shape[1] != self.n_labels:
            raise ValueError(f"Y has {Y.shape[1]:,} labels, the network {self.n_labels:,}")
        world = self.grid.world
        ends = data.n_samples * np.arange(world.size + 1) // world.size
        mine = data.subset(slice(int(ends[world.rank]), int(ends[world.rank + 1])))
        with aborting(self.grid.alarm):
            self.settle()
            return evaluate_own(
                self.layers, [mine], ks=ks, inv_propensity=inv_propensity, mask_inputs=mask_inputs
            )

    def gather(self, *, moments: bool = False) -> BaseNetwork | None:
        """Return, on rank 0, a network of one process with all weights; None on the others.

        Parameters
        ----------
        moments : bool
            With what the optimizer keeps, so that it can be trained on.
        """
        self.settle()
        whole = None
        if self.leads:
            whole = type(self).whole(self.n_features, self.n_labels, self.config, threads=self.threads, trainable=moments)
        with aborting(self.grid.alarm):
            self._gather_into(whole)
        return whole

    def _gather_into(self, whole):
        """Give rank 0's `whole` everything this network has."""
        targets = None if whole is None else whole.layers.parameters(moments=whole.trainable)
        mine = self.layers.parameters(moments=True)
        for name in self.grid.world.bcast("gather", None if targets is None else list(targets)):
            here = self.layers.rows_here(name)
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
            rows = ranks.gatherv(
                "gather",
                np.asarray(view[first : first + BLOCK]),
                np.array([min(max(shard.n_rows - first, 0), BLOCK) for shard in shards]),
            )
            at = 0
            for shard in shards if rows is not None else ():
                some = np.arange(shard.n_rows, dtype=np.int64)[first : first + BLOCK]
                target[shard.to_ids(some)] = rows[at : at + len(some)]
                at += len(some)

    def take_over(self, network: BaseNetwork) -> None:
        """Become what a network of one process is, which every rank has: weights, moments, steps.

        Parameters
        ----------
        network : BaseNetwork
            Trainable, of the same sizes and configuration.
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
        """Make a network of one process, which every rank has, what this one has become.

        Parameters
        ----------
        network : BaseNetwork
            That it took over from.
        """
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
        if serving or path.suffix == ONE_FILE:
            whole = self.gather(moments=moments)
            on_root(world, lambda: whole.save(path, moments=moments, serving=serving, beside=beside))
            return
        on_root(world, lambda: saved_network.check_destination(path))
        check_together(world.comm, self.layers, f"{path} was not written: ", moments=moments)

        def write(folder):
            for name, content in (beside or {}).items():
                write_file(folder / name, lambda file, content=content: file.write(content))

        with aborting(self.grid.alarm):
            problem = write_together(world.comm, self.layers, path, {}, write, moments=moments)
        if problem is not None:
            raise OSError(f"{path} could not be written: {problem}")

    def check_replicas(self) -> None:
        """Make sure that what is on several ranks is the same there, to the bit.

        Raises
        ------
        RuntimeError
            It is not.
        """
        grid, agreed = self.grid, self._stepper.agreed(self.layers)
        hidden = [checksum(layer, rows=self.layers.rows_here(f"{layer.name}.weights") is None) for layer in self.hidden]
        groups = [(grid.world if agreed else grid.labels, hidden)]
        if agreed:
            groups.append((grid.data, [checksum(self.output)]))
            if grid.together is grid.labels:
                # Where features are cut replicas have the same ones.
                groups.append((grid.data, [checksum(self.hidden[0])]))
        same = True
        for ranks, numbers in groups:
            every = ranks.allgather("control", np.array(numbers, np.uint64))
            same = same and bool((every == every[0]).all())
        if not grid.world.allgather("control", np.array([same])).all():
            raise RuntimeError(
                f"replicas of the same weights differ after step {self.step}: some rank has computed something else. "
                "Check that all ranks run the same version of slide and of NumPy, on sound machines"
            )

    def initialize(self, features: np.ndarray | None = None, labels: np.ndarray | None = None) -> None:
        """See `BaseNetwork.initialize`; `features` and `labels` are those of the whole network."""
        if features is not None and self.layers.feature_shard is not None:
            raise _refused("initialize() of features with shard_features")
        super().initialize(features, None if labels is None else np.asarray(labels)[self.layers.shard.ids])

    def grow(self, n_labels: int) -> NoReturn:
        """Not for networks on several ranks."""
        raise _refused("grow()")

    def fit_stream(self, blocks: object, **options: object) -> NoReturn:
        """Not for networks on several ranks."""
        raise _refused("fit_stream()")

    def build_search_index(self, mode: str = "sketch", X: csr_matrix | None = None, **options: object) -> NoReturn:
        """Not for networks on several ranks."""
        raise _refused("build_search_index()")

    def output_matrix(self, *, centred: bool = True) -> NoReturn:
        """Not for networks on several ranks."""
        raise _refused("output_matrix()")

    def __reduce__(self) -> NoReturn:
        """Refuse: a rank has a part of the network."""
        raise TypeError("a network on several ranks cannot be pickled or copied; pickle what gather() returns")


def fit(
    network: BaseNetwork,
    X: csr_matrix,
    Y: csr_matrix,
    *,
    comm,
    distribution: DistributionConfig | None = None,
    own_samples: bool = False,
    config: TrainingConfig | None = None,
    validation: tuple[csr_matrix, csr_matrix] | None = None,
    mask_inputs: bool = False,
    label_weights: np.ndarray | None = None,
    callbacks: Iterable[Callback | Callable[[Progress], bool | None]] = (),
    checkpoints: Checkpoints | None = None,
    resume: str | os.PathLike | None = None,
) -> History:
    """Train a network of one process on several ranks, all of which have it and have it afterwards.

    Parameters
    ----------
    network : Network
        The same on all ranks.
    comm : mpi4py communicator
    distribution : DistributionConfig, optional
    X, Y, own_samples, config, validation, mask_inputs, label_weights, callbacks, checkpoints, resume
        As for `DistributedNetwork.fit`.

    Returns
    -------
    History
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
    return ConfigError(f"{what} is not for networks on several ranks: gather() makes one of one process, on rank 0")
