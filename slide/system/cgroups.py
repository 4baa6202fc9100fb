"""The memory limits that control groups set for a process."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from typing import NamedTuple

from slide.system.proc import System

UNLIMITED = 1 << 60
"""Smallest limit that means none: version 1 writes a number of this order for groups without a limit."""


class MemoryLimit(NamedTuple):
    """The tightest memory limit of a process's control groups.

    Attributes
    ----------
    version : int or None
        Version of the control groups, 1 or 2; None if there are none.
    limit : int or None
        Limit in bytes; None if there is none.
    used : int
        Bytes that count against the limit; 0 if there is none.
    reclaimable : int
        Part of `used` that is file cache, which the kernel would give up first.
    group : str
        Group that has the limit; empty if there is none.
    """

    version: int | None
    limit: int | None = None
    used: int = 0
    reclaimable: int = 0
    group: str = ""

    @property
    def available(self) -> int | None:
        """Bytes left below the limit; None if there is none."""
        return None if self.limit is None else max(0, self.limit - self.used + self.reclaimable)


FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Files of each version with the limit and with the bytes used, and the line of ``memory.stat`` for `reclaimable`."""

MOUNTS = {2: ("sys/fs/cgroup", "sys/fs/cgroup/unified"), 1: ("sys/fs/cgroup/memory",)}


def memory_limit(system: System | None = None, pid: int | str = "self") -> MemoryLimit:
    """Return the tightest memory limit of a process, by default of this one.

    A limit of a group holds for all groups below it, so all groups up to the root are read, and the one with the least
    memory left counts. In a container, the path of the process's group may be that of the host and not exist; then the
    root that is there is the container's own group.
    """
    system = System() if system is None else system
    paths = _paths(system, pid)
    # If both versions are mounted, the one that has files about memory controls it.
    for version in (1, 2):
        if version not in paths:
            continue
        for mount in MOUNTS[version]:
            limits = [found for group in _upwards(paths[version]) if (found := _read(system, version, mount, group))]
            if limits:
                return min(limits, key=lambda found: UNLIMITED if found.available is None else found.available)
    return MemoryLimit(2 if set(paths) == {2} else None)


def _paths(system: System, pid: int | str) -> dict[int, str]:
    """Return the process's group in each hierarchy that may control memory, by version."""
    paths = {}
    for line in (system.text(f"proc/{pid}/cgroup") or "").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            paths[2] = path
        elif "memory" in controllers.split(","):
            paths[1] = path
    return paths


def _upwards(path: str) -> list[str]:
    group = PurePosixPath("/" + path.strip("/"))
    return [str(folder) for folder in (group, *group.parents)]


def _read(system: System, version: int, mount: str, group: str) -> MemoryLimit | None:
    """Return a group's limit; None if there is no such group, or it does not control memory."""
    limit_file, used_file, line = FILES[version]
    folder = f"{mount}{group.rstrip('/')}"
    if not os.path.exists(system.root / folder / limit_file):
        return None
    limit, used = system.number(f"{folder}/{limit_file}"), system.number(f"{folder}/{used_file}")
    if limit is None or used is None or limit >= UNLIMITED:
        return MemoryLimit(version)
    return MemoryLimit(version, limit, used, system.table(f"{folder}/memory.stat").get(line, 0), group)
