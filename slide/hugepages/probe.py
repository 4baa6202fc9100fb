"""Allocates buffers as the package does, touches them, and looks which pages they got."""

from __future__ import annotations

import resource
import time

from slide.hugepages.facts import HUGEPAGE
from slide.system import smaps
from slide.system.proc import System

VMSTAT = ("thp_fault_alloc", "thp_fault_fallback", "thp_collapse_alloc", "compact_stall", "compact_fail")
"""System-wide counts that show why page faults did or did not get hugepages."""


def probe(nbytes: int = 256 << 20, *, modes: tuple[str, ...] | None = None) -> dict:
    """Touch a buffer of each kind of pages, one after the other, and return which pages they got.

    Parameters
    ----------
    nbytes : int
        Size of each buffer.
    modes : tuple of str, optional
        Kinds of pages, from `slide.kernels.memory.MODES`. By default small pages, advised ones and, if the system's
        pool has enough, reserved ones.
    """
    if modes is None:
        modes = ("off", "auto", "hugetlb") if free_reserved() * HUGEPAGE >= nbytes else ("off", "auto")
    return {"bytes": nbytes, "buffers": [_touch(nbytes, mode) for mode in modes]}


def free_reserved() -> int:
    """Return how many reserved 2 MiB pages are free."""
    pool = f"sys/kernel/mm/hugepages/hugepages-{HUGEPAGE >> 10}kB"
    system = System()
    return max(0, (system.number(f"{pool}/free_hugepages") or 0) - (system.number(f"{pool}/resv_hugepages") or 0))


def _touch(nbytes: int, mode: str) -> dict:
    from slide.kernels.memory import HugeBuffer
    from slide.kernels.pagebench import touch

    buffer = HugeBuffer(nbytes, name=f"probe {mode}", hugepages=mode)
    system = System()
    before, events = resource.getrusage(resource.RUSAGE_SELF), system.table("proc/vmstat")
    start = time.perf_counter()
    touch(buffer)
    seconds = time.perf_counter() - start
    after, events_after = resource.getrusage(resource.RUSAGE_SELF), system.table("proc/vmstat")
    found = smaps.mappings()
    row = {
        "mode": mode,
        "advice": buffer.advice,
        "bytes": buffer.mapped,
        "seconds": seconds,
        "minor_faults": after.ru_minflt - before.ru_minflt,
        "major_faults": after.ru_majflt - before.ru_majflt,
        "resident": None,
        "huge": None,
        "system": {name: events_after[name] - events[name] for name in VMSTAT if name in events.keys() & events_after},
    }
    if found is not None:
        (part,) = smaps.of_ranges([(buffer.address, buffer.address + buffer.mapped)], found)
        row["resident"], row["huge"] = part.resident, part.huge
    return row
