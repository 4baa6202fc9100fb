"""Every kind of system gets the right verdict, with what to change and what that costs."""

import pytest

from slide.hugepages import facts as facts_module
from slide.hugepages import show
from slide.hugepages.facts import facts
from slide.hugepages.verdict import verdict
from slide.system.proc import System

THP = "sys/kernel/mm/transparent_hugepage"
POOL = "sys/kernel/mm/hugepages/hugepages-2048kB"
BROKEN_UP = "Node 0, zone   Normal  90000  5000  0  0  0  0  0  0  0  3  0\n"


@pytest.mark.parametrize("mode", ["always", "madvise"])
def test_on(judged, mode):
    known, found = judged({f"{THP}/enabled": "always madvise never".replace(mode, f"[{mode}]")})
    assert known["thp"]["mode"] == mode
    assert (found["answer"], found["changes"]) == ("yes", [])
    assert mode in found["why"][0]


def test_never(judged):
    _, found = judged({f"{THP}/enabled": "always madvise [never]\n"})
    assert found["answer"] == "no"
    enable, reserve = found["changes"]
    assert enable["command"] == "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
    assert "do not ask notice nothing" in enable["cost"]
    assert reserve["command"] == "echo 512 | sudo tee /proc/sys/vm/nr_hugepages"
    assert "nothing else can use that memory" in reserve["cost"]


@pytest.mark.parametrize(("own", "answer"), [("[inherit]", "yes"), ("inherit [never]", "no"), ("[always]", "yes")])
def test_the_switch_of_the_size_comes_first(judged, own, answer):
    _, found = judged({f"{THP}/hugepages-2048kB/enabled": own})
    assert found["answer"] == answer
    if answer == "no":
        assert found["changes"][0]["command"].endswith("hugepages-2048kB/enabled")


def test_a_kernel_without(judged):
    _, found = judged({f"{THP}/enabled": None})
    assert found["answer"] == "no"
    assert "no transparent hugepages" in found["why"][0]
    assert "TRANSPARENT_HUGEPAGE" in found["changes"][0]["command"]


def test_no_permission(tree, monkeypatch):
    """Root may read anything, so that the refusal is made up here."""
    root = tree()
    read = type(root).read_text

    def refuse(path, *args, **kwargs):
        if path.name == "enabled":
            raise PermissionError(13, "Permission denied")
        return read(path, *args, **kwargs)

    monkeypatch.setattr(type(root), "read_text", refuse)
    known = facts(System(root))
    found = verdict(known)
    assert found["answer"] == "unknown"
    assert "permission denied" in found["why"][0]
    assert found["changes"][0]["command"].startswith("sudo cat")
    assert "permission denied" in show.status({"facts": known, "verdict": found})


def test_turned_off_for_the_process(judged):
    known, found = judged({"proc/self/status": "THP_enabled:\t0\n"})
    assert known["process_thp_disabled"] is True
    assert found["answer"] == "no"
    assert "prctl(41, 0" in found["changes"][0]["command"]


@pytest.mark.parametrize(("defrag", "says"), [("[never]", "starts on 4 KiB pages"), ("[madvise]", "must move other")])
def test_memory_broken_up(judged, defrag, says):
    known, found = judged({"proc/buddyinfo": BROKEN_UP, f"{THP}/defrag": defrag})
    assert known["free_blocks"]["in_hugepages"] == 3 * (2 << 20)
    assert found["answer"] == "in part"
    assert says in found["why"][0]
    assert found["changes"][0]["command"].endswith("/proc/sys/vm/compact_memory")


@pytest.mark.parametrize("mode", ["never", "madvise"])
def test_a_pool_of_reserved_pages(judged, mode):
    pool = {f"{POOL}/nr_hugepages": "600", f"{POOL}/free_hugepages": "552", f"{POOL}/resv_hugepages": "40"}
    known, found = judged({**pool, f"{THP}/enabled": "always madvise never".replace(mode, f"[{mode}]")})
    assert known["hugetlb"][0] == {"page": 2 << 20, "nr": 600, "free": 552, "resv": 40, "surplus": 0}
    assert any("1 GiB of reserved 2 MiB pages are free" in note for note in found["notes"])
    assert not any("nr_hugepages" in change["command"] for change in found["changes"])


def test_a_limit_is_told(judged):
    files = {
        "proc/self/cgroup": "0::/jobs/a\n",
        "sys/fs/cgroup/jobs/a/memory.max": str(1 << 30),
        "sys/fs/cgroup/jobs/a/memory.current": str(1 << 29),
    }
    _, found = judged(files)
    assert any("/jobs/a (version 2) limits memory to 1 GiB, 512 MiB left" in note for note in found["notes"])


def test_in_a_container_on_a_virtual_machine(judged):
    files = {"proc/self/cgroup": "4:memory:/docker/4f\n", "proc/cpuinfo": "flags\t: fpu hypervisor\n"}
    known, found = judged({**files, "sys/class/dmi/id/sys_vendor": "QEMU"})
    assert known["virtual"] == {"container": "Docker", "machine": "QEMU"}
    assert any("virtual machine" in note for note in found["notes"])


def test_in_a_container_the_host_decides(judged):
    _, found = judged({".dockerenv": "", f"{THP}/enabled": "always madvise [never]\n"})
    assert any("these settings are the host's" in note for note in found["notes"])


def test_other_systems(monkeypatch):
    monkeypatch.setattr(facts_module.sys, "platform", "darwin")
    known = facts()
    found = verdict(known)
    assert found["answer"] == "unknown"
    assert "only Linux" in found["why"][0]
    assert "unknown" in show.status({"facts": known, "verdict": found})


def test_nothing_at_all_to_read(tmp_path):
    known = facts(System(tmp_path))
    found = verdict(known)
    assert found["answer"] == "no"
    assert known["memory"]["total"] is None
    assert known["free_blocks"] is None
    text = show.status({"facts": known, "verdict": found})
    assert "not available here" in text
    assert "/proc/meminfo: no such file or directory" in text
