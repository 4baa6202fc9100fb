"""Saving by several ranks together: each writes its rows, and the saved network is complete or is not there.

Rank 0 makes a folder under a name that begins with a dot. All ranks write their shards into it (`slide.persist.shards`)
and flush them to the disk. When all have, rank 0 writes the manifests, renames the folder and removes the oldest
checkpoints of the run. Whichever rank dies at whichever moment, a folder under its final name is complete. One process
reads it like any saved network, and a run can be resumed from it on any number of ranks.

Replicas that train with local SGD are averaged first. The gradients that replicas keep back (``keep_rows``) are saved
for each replica; on another number of replicas, the first gets their sum.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from slide.files.atomic import new_folder, write_file
from slide.kernels import dtypes
from slide.kernels.bfloat16 import BFloat16View
from slide.model.base import BaseNetwork
from slide.model.faults import NumericalFault, check_network
from slide.persist import shards
from slide.persist.format import MANIFEST, Source, manifest, table_states, training_arrays
from slide.persist.shards import Part
from slide.ranks.stack import RankStack
from slide.train.checkpoints import Checkpoints, SavedRun, write_run
from slide.train.run_state import RunState

log = logging.getLogger("slide")

T = TypeVar("T")

RESIDUAL = "output.residual-"
"""Beginning of the names of arrays of gradients that replicas keep back; the number of the replica follows."""

WORTH_A_FILE = 1 << 20
"""Size, in bytes, from which every rank writes a part of an array that all have; rank 0 writes smaller arrays."""


class Group(Protocol):
    """What saving needs of a communicator; mpi4py's communicators have it."""

    rank: int
    size: int

    def bcast(self, obj: T, root: int = 0) -> T:
        """Return the root's object on all ranks."""

    def allgather(self, obj: T) -> list[T]:
        """Return the objects of all ranks, in their order, on all ranks."""

    def gather(self, obj: T, root: int = 0) -> list[T] | None:
        """Return the objects of all ranks, in their order, on the root."""


class SharedCheckpoints(Checkpoints):
    """Checkpoints that all ranks write together: all ranks call the methods alike.

    Parameters
    ----------
    plain : Checkpoints
        Where and when; on a file system that all ranks share.
    group : communicator
        The network's ranks.
    average : callable
        Averages replicas that train with local SGD.
    """

    def __init__(self, plain: Checkpoints, group: Group, average: Callable[[], None]):
        super().__init__(plain.folder, every=plain.every, keep=plain.keep)
        self._plain, self._average = plain, average
        self._group = group

    def begin(self, resume: SavedRun | None = None) -> None:
        """See `slide.train.checkpoints.Checkpoints.begin`; if rank 0 refuses the folder, all ranks do."""
        problem: OSError | None = None
        if self._group.rank == 0:
            try:
                super().begin(resume)
            except OSError as error:
                problem = error
        problem = self._group.bcast(problem)
        if problem is not None:
            raise problem

    def _write(self, network: BaseNetwork, state: RunState, facts: dict, name: str) -> None:
        self._average()
        path = self.folder / name
        layers: RankStack = network.layers  # type: ignore[assignment]  # only networks on ranks come here
        last = "" if self.latest is None else f". The last good one is {self.latest}"
        check_together(self._group, layers, f"checkpoint {path} was not written: ", last)
        best = {f"best.{part}": array for part, array in (state.best.weights or {}).items()}

        def beside(folder: Path) -> None:
            write_run(folder, state, facts)

        problem = write_together(self._group, layers, path, best, beside, moments=True)
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
    """Raise NumericalFault on all ranks if something in the network is not finite on one of them.

    `where` and `advice` begin and end the message; `moments` is as for `slide.model.faults.check_network`.
    """
    problem: NumericalFault | None = None
    try:
        check_network(layers, moments=moments)
    except NumericalFault as fault:
        problem = fault
    # A rank sees only its own rows: the first fault of any rank is the fault of all.
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
    """Write a network to a folder that replaces `path` once it is complete; return why that failed, None if it did not.

    Parameters
    ----------
    group : communicator
        All its ranks call this.
    layers : RankStack
        The layers of this rank; replicas are equal.
    path : Path
        Name of the folder.
    more : dict of array
        Further arrays to save, by name, with the rows of this rank.
    beside : callable
        Called with the folder, on rank 0, to write more files.
    moments : bool
        Whether to save what training needs to go on.
    """
    reason: str | None = None
    if group.rank:
        name: str | None = group.bcast(None)
        if name is not None:
            group.gather(_write_shards(group, layers, Path(name), more, moments))
        return group.bcast(reason)
    announced = False
    try:
        with new_folder(path) as folder:
            announced = True
            group.bcast(str(folder))
            written = group.gather(_write_shards(group, layers, folder, more, moments))
            assert written is not None, "rank 0 is the root"
            failed = [f"rank {rank}: {why}" for rank, why in enumerate(written) if isinstance(why, str)]
            if failed:
                raise OSError("; ".join(failed))
            done = [of_rank for of_rank in written if not isinstance(of_rank, str)]
            shards.write_manifest(folder, [entries for entries, _ in done])
            beside(folder)
            about = manifest(layers, moments=moments, layout="shards")
            for _, tables in done if moments else ():
                about["training"]["tables"] |= tables
            text = json.dumps(about, indent=2)
            write_file(folder / MANIFEST, lambda stream: stream.write(text.encode()))
    except OSError as error:
        reason = str(error)
        if not announced:
            group.bcast(None)
    return group.bcast(reason)


def _write_shards(
    group: Group, layers: RankStack, folder: Path, more: dict[str, np.ndarray], moments: bool
) -> tuple[dict[str, dict], dict[str, dict]] | str:
    """Write this rank's shards; return its entries for the manifests, or why they could not be written."""
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
        return f"no {folder} on {platform.node()}; to save together, all ranks need a file system that they share"
    except OSError as error:
        return str(error)
    return entries, table_states(layers)


def _part(group: Group, layers: RankStack, name: str, array: np.ndarray | BFloat16View) -> Part:
    """Return the rows of an array that this rank writes: its part of the rows that other ranks have too."""
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


def read_residual(layers: RankStack, source: Source) -> None:
    """Read the gradients that this replica kept back; on another number of replicas, the first reads the sum of all."""
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
