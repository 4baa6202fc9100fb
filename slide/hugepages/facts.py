"""Everything that a system's files say about its memory pages, as plain values."""

from __future__ import annotations

import ctypes
import os
import re
import sys

from slide.system.cgroups import memory_limit
from slide.system.proc import System

THP = "sys/kernel/mm/transparent_hugepage"
HUGEPAGE = 2 << 20

PR_GET_THP_DISABLE = 42


def facts(system: System | None = None) -> dict:
    """Return what is known about a system, by default the running one.

    Facts that are not known are None or left out; ``"missing"`` has the reasons.
    """
    system = System() if system is None else system
    if system.is_real and not sys.platform.startswith("linux"):
        why = f"this is {sys.platform}: only Linux tells about its pages"
        return {"linux": False, "missing": {"/proc and /sys": why}}
    memory = system.table("proc/meminfo")
    limit = memory_limit(system)
    known = {
        "linux": True,
        "kernel": system.text("proc/sys/kernel/osrelease"),
        "thp": _thp(system),
        "hugetlb": _hugetlb(system),
        "memory": {
            "total": memory.get("MemTotal"),
            "available": memory.get("MemAvailable"),
            "in_transparent_hugepages": memory.get("AnonHugePages"),
        },
        "free_blocks": _free_blocks(system),
        "cgroup": {**limit._asdict(), "available": limit.available},
        "numa": _numa(system),
        "virtual": _virtual(system),
        "process_thp_disabled": _thp_disabled(system),
        "perf_event_paranoid": system.number("proc/sys/kernel/perf_event_paranoid"),
        "missing": {},
    }
    known["missing"] = dict(system.missing)
    return known


def _thp(system: System) -> dict:
    """Return the settings of transparent hugepages."""
    sizes = {}
    for name in system.folders(THP, "hugepages-*kB"):
        sizes[int(name[10:-2]) * 1024] = system.choice(f"{THP}/{name}/enabled")
    enabled = system.choice(f"{THP}/enabled")
    # Since 6.8 kernels have a switch for each size, which may leave the decision to the old one.
    own = sizes.get(HUGEPAGE)
    return {
        "mode": enabled if own in (None, "inherit") else own,
        "enabled": enabled,
        "defrag": system.choice(f"{THP}/defrag"),
        "page": system.number(f"{THP}/hpage_pmd_size"),
        "shmem": system.choice(f"{THP}/shmem_enabled"),
        "sizes": {size: sizes[size] for size in sorted(sizes)},
        "khugepaged": {
            name: system.number(f"{THP}/khugepaged/{name}")
            for name in ("defrag", "pages_to_scan", "scan_sleep_millisecs", "alloc_sleep_millisecs", "max_ptes_none")
        },
    }


def _hugetlb(system: System) -> list[dict]:
    """Return the pools of reserved hugepages, smallest pages first."""
    pools = []
    for name in system.folders("sys/kernel/mm/hugepages", "hugepages-*kB"):
        folder = f"sys/kernel/mm/hugepages/{name}"
        counts = {what: system.number(f"{folder}/{what}_hugepages") for what in ("nr", "free", "resv", "surplus")}
        pools.append({"page": int(name[10:-2]) * 1024, **counts})
    return sorted(pools, key=lambda pool: pool["page"])


def _free_blocks(system: System) -> dict | None:
    """Return the free memory, and the part of it in blocks of at least 2 MiB, in bytes; None if it is not known.

    The kernel could make more such blocks by moving pages.
    """
    text = system.text("proc/buddyinfo")
    if text is None:
        return None
    free, huge = 0, 0
    orders: dict[int, int] = {}
    for line in text.splitlines():
        counts = re.findall(r"\d+", line.partition("zone")[2])
        for order, count in enumerate(map(int, counts)):
            size = count * (4096 << order)
            orders[order] = orders.get(order, 0) + size
            free += size
            huge += size if 4096 << order >= HUGEPAGE else 0
    return {"free": free, "in_hugepages": huge, "by_order": orders}


def _numa(system: System) -> list[dict]:
    nodes = []
    for name in system.folders("sys/devices/system/node", "node[0-9]*"):
        memory = system.table(f"sys/devices/system/node/{name}/meminfo")
        nodes.append({"node": int(name[4:]), "total": memory.get("MemTotal"), "free": memory.get("MemFree")})
    return sorted(nodes, key=lambda node: node["node"])


CONTAINERS = {
    "docker": "Docker",
    "kubepods": "Kubernetes",
    "containerd": "containerd",
    "libpod": "Podman",
    "lxc": "LXC",
}


def _virtual(system: System) -> dict[str, str | None]:
    """Return hints of a container and of a virtual machine, in which the host decides about pages."""
    container = None
    for path, name in (("run/.containerenv", "Podman"), (".dockerenv", "Docker or alike")):
        if os.path.exists(system.root / path):
            container = name
    groups = (system.text("proc/self/cgroup") or "") + (system.text("proc/1/cgroup") or "")
    container = next((name for word, name in CONTAINERS.items() if word in groups), container)
    cpu = re.search(r"^flags\s*:.*\bhypervisor\b", system.text("proc/cpuinfo") or "", re.MULTILINE)
    vendor = system.text("sys/class/dmi/id/sys_vendor") or system.text("sys/hypervisor/type")
    return {"container": container, "machine": vendor if cpu and vendor else ("yes" if cpu else None)}


def _thp_disabled(system: System) -> bool | None:
    """Return whether this process, or an ancestor of it, turned transparent hugepages off for itself."""
    if system.is_real:
        try:
            answer = ctypes.CDLL(None, use_errno=True).prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0)
        except (OSError, AttributeError):
            answer = -1
        if answer >= 0:
            return bool(answer & 1)
    enabled = system.table("proc/self/status").get("THP_enabled")
    return None if enabled is None else not enabled
