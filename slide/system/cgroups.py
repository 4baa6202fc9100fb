"""The memory that a process's control groups leave it."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from typing import NamedTuple

from slide.system.proc import System

UNLIMITED = 1 << 60
"""Limits from here on are version 1's way to say that there is none."""


class MemoryLimit(NamedTuple):
    """The tightest memory limit of a process's control groups.

    Attributes
    ----------
    version : int or None
        Of the control groups: 1, 2, or None where there are none.
    limit : int or None
        In bytes, None where there is no limit.
    used : int
        Bytes charged to the group with that limit; 0 without.
    reclaimable : int
        Those of them that are file cache which the kernel would give up first.
    group : str
        The group that has the limit; empty without.
    """

    version: int | None
    limit: int | None = None
    used: int = 0
    reclaimable: int = 0
    group: str = ""

    @property
    def available(self) -> int | None:
        """Bytes left below the limit, None where there is none."""
        return None if self.limit is None else max(0, self.limit - self.used + self.reclaimable)


FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Of each version: the limit, what is used, and the line of ``memory.stat`` that has what is reclaimable."""

MOUNTS = {2: ("sys/fs/cgroup", "sys/fs/cgroup/unified"), 1: ("sys/fs/cgroup/memory",)}


def memory_limit(system: System | None = None, pid: int | str = "self") -> MemoryLimit:
    """Return the memory limit under which a process lives.

    A limit binds all groups below it, so every group up to the root is asked, and the one with the least left counts.
    In a container the process's path may be the host's, which is not there: its root is then the container's own.

    Parameters
    ----------
    system : System, optional
        By default the running one.
    pid : int or "self"
    """
    system = System() if system is None else system
    paths = _paths(system, pid)
    # Where both are mounted, memory is controlled by the one that has memory files.
    for version in (1, 2):
        if version not in paths:
            continue
        for mount in MOUNTS[version]:
            limits = [found for group in _upwards(paths[version]) if (found := _read(system, version, mount, group))]
            if limits:
                return min(limits, key=lambda found: UNLIMITED if found.available is None else found.available)
    return MemoryLimit(2 if set(paths) == {2} else None)


def _paths(system, pid):
    """The process's group by version of the hierarchy that may control memory."""
    paths = {}
    for line in (system.text(f"proc/{pid}/cgroup") or "").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            paths[2] = path
        elif "memory" in controllers.split(","):
            paths[1] = path
    return paths


def _upwards(path):
    group = PurePosixPath("/" + path.strip("/"))
    return [str(folder) for folder in (group, *group.parents)]


def _read(system, version, mount, group):
    """A group's limit; None where there is no such group, or it does not control memory."""
    limit_file, used_file, line = FILES[version]
    folder = f"{mount}{group.rstrip('/')}"
    if not os.path.exists(system.root / folder / limit_file):
        return None
    limit, used = system.number(f"{folder}/{limit_file}"), system.number(f"{folder}/{used_file}")
    if limit is None or used is None or limit >= UNLIMITED:
        return MemoryLimit(version)
    return MemoryLimit(version, limit, used, system.table(f"{folder}/memory.stat").get(line, 0), group)
