"""Checkpoints of a run that several processes share: each writes its rows, and the set is complete or is not there.

The folder of a checkpoint is made under a name that begins with a dot. All processes write their shares into it
(`slide.shards`) and flush them to the disk; when the last has, the first writes the manifests, renames the folder to
the checkpoint's name and removes the oldest of those before. Whoever dies when, the newest checkpoint under its own
name is complete. The run goes on from it on any number of processes, one included.
"""

from __future__ import annotations

import json
import logging
import platform
from pathlib import Path
from typing import Protocol

from slide import checkpoint, shards
from slide.folders import new_folder, write_file
from slide.resume import Checkpoints, SavedRun, write_run
from slide.shards import Part

log = logging.getLogger("slide")


class Group(Protocol):
    """What is asked of a communicator: mpi4py's have it."""

    rank: int
    size: int

    def bcast(self, obj: object, root: int = 0) -> object:
        """Return the root's object, to all."""

    def gather(self, obj: object, root: int = 0) -> list | None:
        """Return all objects by rank, to the root."""


class SharedCheckpoints(Checkpoints):
    """Checkpoints that all processes of a group write together; their methods are called by all of them alike.

    Parameters
    ----------
    plain : Checkpoints
        Where and when; on a file system that all processes share.
    group : communicator
    replica, replicas : int
        Which of how many processes with the same labels this is; they write a part of these rows each.
    """

    def __init__(self, plain: Checkpoints, group: Group, *, replica: int = 0, replicas: int = 1):
        super().__init__(plain.folder, every=plain.every, keep=plain.keep)
        self._plain = plain
        self._group = group
        self._replica = replica, replicas

    def begin(self, resume: SavedRun | None = None) -> None:
        """See `slide.resume.Checkpoints.begin`; where the first process refuses the folder, all do."""
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
        group, path, problem = self._group, self.folder / name, None
        if group.rank:
            folder = group.bcast(None)
            if folder is not None:
                group.gather(self._share(Path(folder), network, state))
            problem = group.bcast(None)
        else:
            told = False
            try:
                with new_folder(path) as folder:
                    told = True
                    group.bcast(str(folder))
                    self._fill_together(folder, network, state, facts)
            except OSError as error:
                problem = str(error)
                if not told:
                    group.bcast(None)
            group.bcast(problem)
        if problem is not None:
            if group.rank == 0:
                log.warning("checkpoint %s could not be written, training goes on without it: %s", path, problem)
            return
        self._plain.latest = self.latest = path
        if group.rank == 0:
            self._written(path, state)

    def _fill_together(self, folder, network, state, facts):
        written = self._group.gather(self._share(folder, network, state))
        failed = [(rank, share) for rank, share in enumerate(written) if isinstance(share, str)]
        if failed:
            raise OSError("; ".join(f"rank {rank}: {why}" for rank, why in failed))
        shares, tables = zip(*written, strict=True)
        shards.write_manifest(folder, shares)
        write_run(folder, state, facts)
        about = checkpoint.manifest(network, moments=True, layout="shards")
        for of_others in tables:
            about["training"]["tables"] |= of_others
        text = json.dumps(about, indent=2)
        write_file(folder / checkpoint.MANIFEST, lambda stream: stream.write(text.encode()))

    def _share(self, folder, network, state):
        """Write this process's share; return its entries for the manifests, or why it could not be written."""
        arrays = checkpoint.parameters(network, moments=True) | checkpoint.of_training(network)
        arrays |= {f"best.{name}": array for name, array in (state.best.weights or {}).items()}
        entries, suffix = {}, f"{self._group.rank}-of-{self._group.size}"
        try:
            for name, array in arrays.items():
                part = self._part(network, name, array)
                if len(part.rows):
                    entries[name] = shards.write_share(folder, name, suffix, part)
        except FileNotFoundError:
            return f"no {folder} on {platform.node()}; checkpoints need a file system that all processes share"
        except OSError as error:
            return str(error)
        return entries, checkpoint.positions(network)

    def _part(self, network, name, array):
        """What this process writes of an array: of those that all have, and those that its replicas have, a part."""
        if name.endswith(".codes"):
            whole = Part(array, range(len(array)))
            of_shard = name.startswith(network.table_name("output"))
            return whole.piece(*self._replica) if of_shard else whole.piece(self._group.rank, self._group.size)
        if name.removeprefix("best.").startswith("output."):
            return Part(array, network.label_rows).piece(*self._replica)
        return Part(array, range(len(array))).piece(self._group.rank, self._group.size)
