"""A process's mappings as the kernel reports them: resident bytes, hugepages, NUMA nodes."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from slide.system.proc import System

PAGE = 4096
HUGEPAGE = 2 << 20


@dataclass
class Mapping:
    """One mapping, or the part of mappings in a range of addresses.

    Attributes
    ----------
    start, end : int
        First address, and the one after the last.
    label : str
        File name, ``[heap]`` or ``[anon:name]``; empty for memory without a name.
    resident, anonymous, huge : int
        Bytes in memory; the part of them that belongs to no file; the part in hugepages, transparent or reserved.
    page : int
        Bytes of its smallest pages: 4096, or the size of a reserved hugepage.
    nodes : dict
        Bytes on each NUMA node, if that was asked for.
    """

    start: int
    end: int
    label: str = ""
    resident: int = 0
    anonymous: int = 0
    huge: int = 0
    page: int = PAGE
    nodes: dict[int, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of address space."""
        return self.end - self.start

    @property
    def main_page(self) -> int | None:
        """Bytes of the pages that most of it is in; None if nothing is in memory."""
        if not self.resident:
            return None
        return max(HUGEPAGE, self.page) if 2 * self.huge > self.resident else self.page


_HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+\s*(.*)")
_RESERVED = ("Private_Hugetlb", "Shared_Hugetlb")
_HUGE = ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped", *_RESERVED)


def mappings(system: System | None = None, pid: int | str = "self") -> list[Mapping] | None:
    """Return a process's mappings in order of address; None if the system does not tell.

    This takes milliseconds, or longer for a large process, so it is not for loops.
    """
    text = (system or System()).text(f"proc/{pid}/smaps")
    if text is None:
        return None
    found: list[Mapping] = []
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            found.append(Mapping(int(head.group(1), 16), int(head.group(2), 16), head.group(3)))
            continue
        name, _, value = line.partition(":")
        if not found or not value.endswith(" kB"):
            continue
        now, size = found[-1], int(value[:-3]) * 1024
        if name == "Rss" or name in _RESERVED:  # reserved hugepages are not part of Rss
            now.resident += size
        if name == "Anonymous" or name in _RESERVED:
            now.anonymous += size
        if name in _HUGE:
            now.huge += size
        if name == "KernelPageSize":
            now.page = size
    return found


def numa_nodes(system: System | None = None, pid: int | str = "self") -> dict[int, dict[int, int]]:
    """Return the resident bytes on each NUMA node, by the address at which a mapping starts; empty if unknown."""
    found = {}
    for line in ((system or System()).text(f"proc/{pid}/numa_maps") or "").splitlines():
        page = re.search(r"kernelpagesize_kB=(\d+)", line)
        size = int(page.group(1)) * 1024 if page else PAGE
        nodes = {int(node): int(pages) * size for node, pages in re.findall(r" N(\d+)=(\d+)", line)}
        found[int(line.split(None, 1)[0], 16)] = nodes
    return found


def of_ranges(
    ranges: Iterable[tuple[int, int]], found: list[Mapping], nodes: dict[int, dict[int, int]] | None = None
) -> list[Mapping]:
    """Return the part of the mappings in each of some ranges of addresses.

    If the kernel merged neighbours into one mapping, a range gets a share of its bytes in proportion to its size.

    Parameters
    ----------
    ranges : iterable of (int, int)
        First address, and the one after the last.
    found : list of Mapping
        The mappings, as `mappings` returns them.
    nodes : dict, optional
        The NUMA nodes, as `numa_nodes` returns them.
    """
    starts = [mapping.start for mapping in found]
    parts = []
    for start, end in ranges:
        part = Mapping(start, end)
        for mapping in found[max(0, bisect.bisect_right(starts, start) - 1) :]:
            if mapping.start >= end:
                break
            share = max(0, min(end, mapping.end) - max(start, mapping.start)) / mapping.size
            if not share:
                continue
            part.label, part.page = mapping.label, mapping.page
            part.resident += int(share * mapping.resident)
            part.anonymous += int(share * mapping.anonymous)
            part.huge += int(share * mapping.huge)
            for node, size in (nodes or {}).get(mapping.start, {}).items():
                part.nodes[node] = part.nodes.get(node, 0) + int(share * size)
        parts.append(part)
    return parts


def resident_bytes(system: System | None = None, pid: int | str = "self") -> int | None:
    """Return a process's resident bytes, exact to the page and with reserved hugepages; None if unknown.

    ``/proc/PID/statm``, which most tools read, may lag behind by a few hundred kilobytes.
    """
    table = (system or System()).table(f"proc/{pid}/smaps_rollup")
    return table["Rss"] + sum(table.get(name, 0) for name in _RESERVED) if "Rss" in table else None
