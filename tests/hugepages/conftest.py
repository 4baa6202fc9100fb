"""Trees that look like /proc and /sys of other systems."""

from pathlib import Path

import pytest

from slide.hugepages.facts import facts
from slide.hugepages.verdict import verdict
from slide.system.proc import System

THP = "sys/kernel/mm/transparent_hugepage"
POOL = "sys/kernel/mm/hugepages/hugepages-2048kB"

PLENTY = "Node 0, zone   Normal  100  0  0  0  0  0  0  0  0  20  500\n"
"""Free memory of which nearly all is in blocks of 2 MiB and more."""

MADVISE = {
    "proc/sys/kernel/osrelease": "6.1.0",
    "proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\nAnonHugePages: 2048 kB\n",
    "proc/buddyinfo": PLENTY,
    "proc/self/status": "Name:\tpython\nTHP_enabled:\t1\n",
    "proc/self/cgroup": "0::/\n",
    "proc/cpuinfo": "flags\t\t: fpu sse2\n",
    "proc/sys/kernel/perf_event_paranoid": "2",
    f"{THP}/enabled": "always [madvise] never\n",
    f"{THP}/defrag": "always defer defer+madvise [madvise] never\n",
    f"{THP}/hpage_pmd_size": "2097152\n",
    f"{THP}/shmem_enabled": "always within_size advise [never] deny force\n",
    f"{POOL}/nr_hugepages": "0",
    f"{POOL}/free_hugepages": "0",
    f"{POOL}/resv_hugepages": "0",
    f"{POOL}/surplus_hugepages": "0",
    "sys/devices/system/node/node0/meminfo": "Node 0 MemTotal: 16000000 kB\nNode 0 MemFree: 4000000 kB\n",
}
"""A bare machine on which a buffer that asks gets hugepages."""


@pytest.fixture
def tree(tmp_path):
    """Make a tree from the machine above with some files changed, or taken away where they are None."""

    def tree(changes=()):
        for path, text in {**MADVISE, **dict(changes)}.items():
            if text is not None:
                file = Path(tmp_path, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
        return tmp_path

    return tree


@pytest.fixture
def judged(tree):
    """The facts and the verdict of such a tree."""

    def judged(changes=()):
        known = facts(System(tree(changes)))
        return known, verdict(known)

    return judged
