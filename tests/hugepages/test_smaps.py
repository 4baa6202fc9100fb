"""Mappings are read as the kernel writes them, and shared out by addresses."""

import pytest

from slide.system import smaps
from slide.system.proc import System

SMAPS = """\
00400000-00600000 r-xp 00000000 08:02 1234                               /usr/bin/some program
Size:               2048 kB
KernelPageSize:        4 kB
Rss:                 100 kB
Anonymous:             0 kB
AnonHugePages:         0 kB
FilePmdMapped:         0 kB
VmFlags: rd ex mr mw me sd
7f0000000000-7f0000800000 rw-p 00000000 00:00 0
KernelPageSize:        4 kB
Rss:                6144 kB
Anonymous:          6144 kB
AnonHugePages:      4096 kB
VmFlags: rd wr mr mw me hg
7f0000800000-7f0000a00000 rw-p 00000000 00:0f 77                         /anon_hugepage (deleted)
KernelPageSize:     2048 kB
Rss:                   0 kB
Anonymous:             0 kB
AnonHugePages:         0 kB
Private_Hugetlb:    2048 kB
"""

NUMA = """\
00400000 default file=/usr/bin/some\\040program mapped=25 N0=25 kernelpagesize_kB=4
7f0000000000 interleave:0-1 anon=1536 dirty=1536 N0=1024 N1=512 kernelpagesize_kB=4
7f0000800000 default huge anon=1 dirty=1 N1=1 kernelpagesize_kB=2048
"""
KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def system(tmp_path):
    folder = tmp_path / "proc" / "7"
    folder.mkdir(parents=True)
    (folder / "smaps").write_text(SMAPS)
    (folder / "numa_maps").write_text(NUMA)
    rollup = "00400000-7f0000a00000 ---p 0 00:00 0  [rollup]\nRss:  6244 kB\nPrivate_Hugetlb: 2048 kB\n"
    (folder / "smaps_rollup").write_text(rollup)
    return System(tmp_path)


def test_mappings(system):
    program, rows, reserved = smaps.mappings(system, 7)
    assert (program.label, program.size, program.resident) == ("/usr/bin/some program", 2 * MIB, 100 * KIB)
    assert (program.huge, program.main_page) == (0, 4096)
    assert (rows.label, rows.resident, rows.anonymous, rows.huge) == ("", 6 * MIB, 6 * MIB, 4 * MIB)
    assert rows.main_page == 2 * MIB
    # Reserved pages are no part of Rss, and memory all the same.
    assert (reserved.resident, reserved.huge, reserved.page, reserved.main_page) == (2 * MIB,) * 4


def test_ranges_take_their_share(system):
    found, nodes = smaps.mappings(system, 7), smaps.numa_nodes(system, 7)
    base = 0x7F0000000000
    ranges = [(base, base + 2 * MIB), (base + 6 * MIB, base + 10 * MIB), (1 << 40, (1 << 40) + 5)]
    first, across, nothing = smaps.of_ranges(ranges, found, nodes)
    assert (first.resident, first.huge, first.nodes) == (6 * MIB // 4, MIB, {0: MIB, 1: MIB // 2})
    assert (across.resident, across.huge) == (6 * MIB // 4 + 2 * MIB, 3 * MIB)
    assert across.nodes == {0: MIB, 1: MIB // 2 + 2 * MIB}
    assert (nothing.resident, nothing.main_page) == (0, None)


def test_resident_bytes(system):
    assert smaps.resident_bytes(system, 7) == (6244 + 2048) * KIB
    assert smaps.resident_bytes(system, 8) is None


def test_what_cannot_be_read(system):
    assert smaps.mappings(system, 8) is None
    assert smaps.numa_nodes(system, 8) == {}
    assert "no such" in system.missing["/proc/8/smaps"]
