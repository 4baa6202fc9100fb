"""Named buffers: growth, reuse and the report."""

import numpy as np
import pytest

from slide.buffers import Buffers
from slide.kernels.memory import HUGEPAGE, HugeBuffer


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
    buffers.array("large", (HUGEPAGE,), np.uint8)
    buffers.add("other", HugeBuffer(16))
    report = buffers.report()
    assert [(line["name"], line["bytes"], line["advice"]) for line in report] == [
        ("large", HUGEPAGE, "off"),
        ("other", 16, "off"),
    ]
    assert all(line["hugepage_bytes"] is None or line["hugepage_bytes"] >= 0 for line in report)
