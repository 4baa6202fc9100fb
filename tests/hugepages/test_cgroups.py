"""Memory limits of control groups of version 1, of version 2, and of none."""

from pathlib import Path

import pytest

from slide.system.cgroups import MemoryLimit, memory_limit
from slide.system.proc import System

GIB = 1 << 30


def limit_of(root, files):
    for path, text in files.items():
        file = Path(root, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(text))
    return memory_limit(System(root))


def group(folder, limit, used, cache=0):
    return {
        f"sys/fs/cgroup{folder}/memory.max": limit,
        f"sys/fs/cgroup{folder}/memory.current": used,
        f"sys/fs/cgroup{folder}/memory.stat": f"anon 5\ninactive_file {cache}\n",
    }


def test_none(tmp_path):
    assert memory_limit(System(tmp_path)) == MemoryLimit(None)


def test_version_2_without_a_limit(tmp_path):
    found = limit_of(tmp_path, {"proc/self/cgroup": "0::/a\n", **group("/a", "max", 100)})
    assert found == MemoryLimit(2)
    assert found.available is None


def test_version_2(tmp_path):
    found = limit_of(tmp_path, {"proc/self/cgroup": "0::/a\n", **group("/a", 2 * GIB, GIB, GIB // 2)})
    assert found == MemoryLimit(2, 2 * GIB, GIB, GIB // 2, "/a")
    assert found.available == 3 * GIB // 2


def test_a_limit_above_counts_too(tmp_path):
    files = {**group("/a/b", 4 * GIB, GIB), **group("/a", 3 * GIB, 5 * GIB // 2)}
    found = limit_of(tmp_path, {"proc/self/cgroup": "0::/a/b\n", **files})
    assert found.group == "/a"
    assert found.available == GIB // 2


def test_a_container_whose_path_is_the_hosts(tmp_path):
    found = limit_of(tmp_path, {"proc/self/cgroup": "0::/docker/4f\n", **group("", GIB, 2 * GIB)})
    assert found.group == "/"
    assert found.available == 0


@pytest.mark.parametrize("limit", [GIB, 9223372036854771712])
def test_version_1(tmp_path, limit):
    files = {
        "proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/jobs\n0::/\n",
        "sys/fs/cgroup/memory/jobs/memory.limit_in_bytes": limit,
        "sys/fs/cgroup/memory/jobs/memory.usage_in_bytes": 1000,
        "sys/fs/cgroup/memory/jobs/memory.stat": "inactive_file 1\ntotal_inactive_file 300\n",
    }
    expected = MemoryLimit(1, GIB, 1000, 300, "/jobs") if limit == GIB else MemoryLimit(1)
    assert limit_of(tmp_path, files) == expected
