"""What several ranks save together: each writes its rows, and the set is complete or is not there.

A folder is made under a name that begins with a dot. All ranks write their shares into it (`slide.persist.shards`) and flush
them to the disk; when the last has, rank 0 writes the manifests, gives the folder its name and removes the oldest of a
run's checkpoints. Whoever dies when, what has its own name is complete. One process reads it as any saved network, and
a run goes on from it on any number of ranks.

Replicas that train each for itself are averaged first. What they keep back of their gradients (``keep_rows``) is saved
for each; on another number of replicas the first has the sum.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from slide.files.atomic import new_folder, write_file
from slide.kernels import dtypes
from slide.model.faults import NumericalFault, check_network
from slide.persist import shards
from slide.persist.format import MANIFEST, manifest, table_states, training_arrays
from slide.persist.shards import Part
from slide.ranks.stack import RankStack
from slide.train.checkpoints import Checkpoints, SavedRun, write_run

log = logging.getLogger("slide")

RESIDUAL = "output.residual-"
"""Begins the names of what replicas keep back, before their numbers."""


WORTH_A_FILE = 1 << 20
"""Bytes from which on ranks write a part each of an array that all of them have; smaller ones are written by rank 0."""


class Group(Protocol):
    """What is asked of a communicator: mpi4py's have it."""

    rank: int
    size: int

    def bcast(self, obj: object, root: int = 0) -> object:
        """Return the root's object, to all."""

    def allgather(self, obj: object) -> list:
        """Return all objects by rank, to all."""

    def gather(self, obj: object, root: int = 0) -> list | None:
        """Return all objects by rank, to the root."""


class SharedCheckpoints(Checkpoints):
    """Checkpoints that all ranks write together; their methods are called by all of them alike.

    Parameters
    ----------
    plain : Checkpoints
        Where and when; on a file system that all ranks share.
    group : communicator
        Of the network's ranks.
    average : callable
        Makes replicas that train on their own agree.
    """

    def __init__(self, plain: Checkpoints, group: Group, average: Callable[[], None]):
        super().__init__(plain.folder, every=plain.every, keep=plain.keep)
        self._plain, self._average = plain, average
        self._group = group

    def begin(self, resume: SavedRun | None = None) -> None:
        """See `slide.train.checkpoints.Checkpoints.begin`; where rank 0 refuses the folder, all do."""
        problem = None
        if self._group.rank == 0:
            try:
                super().begin(resume)
            except OSError as error:
                problem = error
        problem = self._group.bcast(problem)
        if problem is not None:
            raise problem

    def _write(self, network, state, facts, name):
        self._average()
        path = self.folder / name
        last = "" if self.latest is None else f". The last good one is {self.latest}"
        check_together(self._group, network.layers, f"checkpoint {path} was not written: ", last)
        best = {f"best.{part}": array for part, array in (state.best.weights or {}).items()}

        def beside(folder):
            write_run(folder, state, facts)

        problem = write_together(self._group, network.layers, path, best, beside, moments=True)
        if problem is not None:
            if self._group.rank == 0:
                log.warning("checkpoint %s could not be written, training goes on without it: %s", path, problem)
            return
        self._plain.latest = self.latest = path
        if self._group.rank == 0:
            self._written(path, state)


def check_together(
    group: Group, layers: RankStack, where: str, advice: str = "", *, moments: bool = True
) -> None:
    """Raise NumericalFault on all ranks if something of the network is not finite on one of them.

    Parameters
    ----------
    group : communicator
    layers : RankStack
    where, advice : str
        Go before and after what is said of it.
    moments : bool
        As for `slide.model.faults.check_network`.
    """
    problem = None
    try:
        check_network(layers, moments=moments)
    except NumericalFault as fault:
        problem = fault
    # Rows are in one place each: what is wrong with them, the others are told.
    problem = next((fault for fault in group.allgather(problem) if fault is not None), None)
    if problem is not None:
        raise problem.with_context(where, advice)


def write_together(
    group: Group,
    layers: RankStack,
    path: Path,
    more: dict[str, np.ndarray],
    beside: Callable[[Path], object],
    *,
    moments: bool,
) -> str | None:
    """Write a layers, to a folder that replaces what is there when it is complete; return why not, None if it is.

    Parameters
    ----------
    group : communicator
        All of whose ranks call this.
    layers : RankStack
        Whose replicas agree.
    path : Path
    more : dict of array
        More arrays than the network's, with their rows, by name.
    beside : callable
        Given the folder, on rank 0: writes more files.
    moments : bool
    """
    if group.rank:
        folder = group.bcast(None)
        if folder is not None:
            group.gather(_write_shards(group, layers, Path(folder), more, moments))
        return group.bcast(None)
    told, problem = False, None
    try:
        with new_folder(path) as folder:
            told = True
            group.bcast(str(folder))
            written = group.gather(_write_shards(group, layers, folder, more, moments))
            failed = [f"rank {rank}: {share}" for rank, share in enumerate(written) if isinstance(share, str)]
            if failed:
                raise OSError("; ".join(failed))
            entries, tables = zip(*written, strict=True)
            shards.write_manifest(folder, entries)
            beside(folder)
            about = manifest(layers, moments=moments, layout="shards")
            for of_rank in tables if moments else ():
                about["training"]["tables"] |= of_rank
            text = json.dumps(about, indent=2)
            write_file(folder / MANIFEST, lambda stream: stream.write(text.encode()))
    except OSError as error:
        problem = str(error)
        if not told:
            group.bcast(None)
    return group.bcast(problem)


def _write_shards(group, layers, folder, more, moments):
    """Write this rank's share; return its entries for the manifests, or why it could not be written."""
    arrays = layers.parameters(moments=moments) | more
    if moments:
        arrays |= training_arrays(layers)
    entries, suffix = {}, f"{group.rank}-of-{group.size}"
    try:
        for name, array in arrays.items():
            part = _part(group, layers, name, array)
            if len(part.rows):
                entries[name] = shards.write_shard(folder, name, suffix, part)
        if moments and layers.residual is not None:
            name = f"{RESIDUAL}{layers.replica[0]}"
            entries[name] = shards.write_shard(folder, name, suffix, Part(layers.residual, layers.label_rows))
    except FileNotFoundError:
        return f"no {folder} on {platform.node()}; what ranks save together needs a file system that all of them share"
    except OSError as error:
        return str(error)
    return entries, table_states(layers)


def _part(group, layers, name, array):
    """What this rank writes of an array: a part of those that all have, and of those that its replicas have."""
    whole, codes = Part(array, range(len(array))), name.endswith(".codes")
    if codes and name.startswith(layers.table_name("output")):
        return whole.piece(*layers.replica)
    name = name.removeprefix("best.")
    here = None if codes else layers.rows_here(name)
    if here is not None:
        replica = layers.replica if name.startswith("output.") else layers.feature_replica
        return Part(array, here[1]).piece(*replica)
    if array.nbytes >= WORTH_A_FILE:
        return whole.piece(group.rank, group.size)
    return whole.piece(0, 1) if group.rank == 0 else whole.piece(0, len(array) + 1)


def read_residual(layers: RankStack, source) -> None:
    """Read what a network's replica kept back, or on another number of them, for the first, what all did.

    Parameters
    ----------
    layers : RankStack
    source : object
        From `slide.persist.saved_network.open_arrays`.
    """
    residual = layers.residual
    if residual is None:
        return
    residual[...] = 0.0
    names = [name for name in getattr(source, "names", ()) if name.startswith(RESIDUAL)]
    replica, replicas = layers.replica
    if len(names) == replicas:
        names = [f"{RESIDUAL}{replica}"]
    elif replica:
        names = []
    shape = (layers.n_labels, residual.shape[1])
    for name in names:
        for places, values in shards.take_rows(source, name, shape, np.dtype(dtypes.VALUE), layers.label_rows):
            residual[places] += values
