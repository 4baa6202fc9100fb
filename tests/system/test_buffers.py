"""Named buffers: growth, reuse and the report."""

import mmap

import numpy as np
import pytest

from slide.kernels.memory import HUGEPAGE, HugeBuffer
from slide.system.buffers import Buffers


def test_memory_is_used_again_until_it_is_too_small():
    buffers = Buffers()
    first = buffers.array("logits", (10, 10), np.float32)
    first[:] = 3
    smaller = buffers.array("logits", (5, 8), np.int32)
    assert np.shares_memory(first, smaller)
    larger = buffers.array("logits", (11, 10), np.float32)
    assert not np.shares_memory(first, larger)
    assert not larger.any()
    assert (first == 3).all()


def test_the_same_array_is_given_again():
    buffers = Buffers()
    first = buffers.array("logits", (10, 10), np.float32)
    assert buffers.array("logits", (10, 10), np.float32) is first
    assert buffers.array("logits", (10, 10), np.int32).dtype == np.int32
    buffers.add("logits", HugeBuffer(400))
    assert not np.shares_memory(buffers.array("logits", (10, 10), np.float32), first)


def test_growth_leaves_room_for_more():
    buffers = Buffers()
    buffers.array("logits", (100,), np.float32)
    grown = buffers.array("logits", (104,), np.float32)
    assert np.shares_memory(grown, buffers.array("logits", (117,), np.float32))


def test_empty_arrays():
    assert Buffers().array("nothing", (3, 0), np.float32).shape == (3, 0)


def test_size_does_not_wrap_around():
    with pytest.raises(MemoryError, match="'giant'"):
        Buffers().array("giant", (2**33, 2**33), np.float32)


def test_report():
    buffers = Buffers(hugepages=False)
    buffers.array("large", (HUGEPAGE // 8, 2), np.float32)[:] = 1
    buffers.add("other", HugeBuffer(16))
    buffers.add("rows", HugeBuffer(24), shape=(2, 3), dtype=np.float32)
    # A mapping of its own: what malloc gives may be part of one, of which nobody knows which pages are in memory.
    mapped = np.frombuffer(mmap.mmap(-1, 800_000))
    mapped[:] = 1
    buffers.note("NumPy's", mapped)
    buffers.note("nothing", np.ones(0))
    report = buffers.report()
    assert [tuple(line[what] for what in ("name", "shape", "dtype", "bytes", "advice")) for line in report] == [
        ("large", (HUGEPAGE // 8, 2), "float32", HUGEPAGE, "off"),
        ("other", (16,), "uint8", 16, "off"),
        ("rows", (2, 3), "float32", 24, "off"),
        ("NumPy's", (100_000,), "float64", 800_000, "none"),
    ]
    assert [line["requested_page"] for line in report] == [4096] * 4
    if report[0]["resident_bytes"] is None:
        pytest.skip("this system tells nothing of its mappings")
    assert report[0]["resident_bytes"] == HUGEPAGE
    assert report[0]["hugepage_bytes"] == 0
    assert report[0]["actual_page"] == 4096
    assert report[3]["resident_bytes"] >= 780_000


def test_report_of_what_is_untouched():
    buffers = Buffers()
    buffers.array("large", (HUGEPAGE,), np.uint8)
    (line,) = buffers.report()
    assert line["requested_page"] == (HUGEPAGE if line["advice"] == "madvise" else 4096)
    assert not line["resident_bytes"]
    assert line["actual_page"] is None


def test_required_hugepages(monkeypatch):
    buffers = Buffers()
    buffers.array("untouched", (HUGEPAGE,), np.uint8)
    buffers.array("small", (10,), np.uint8)[:] = 1
    line = {"name": "rows", "requested_page": HUGEPAGE, "resident_bytes": 2 * HUGEPAGE, "hugepage_bytes": 2 * HUGEPAGE}
    monkeypatch.setattr(buffers, "report", lambda: [line])
    buffers.require_hugepages()
    line["hugepage_bytes"] = HUGEPAGE
    with pytest.raises(MemoryError, match=r"only 2,097,152 of the 4,194,304 bytes of 'rows' are in them"):
        buffers.require_hugepages()
    line["hugepage_bytes"] = None
    with pytest.raises(MemoryError, match="does not tell"):
        buffers.require_hugepages()
