"""HugeBuffer: alignment, sizes, views and what is refused."""

import gc

import numpy as np
import pytest

from slide.kernels.memory import HUGEPAGE, HugeBuffer


@pytest.mark.parametrize("nbytes", [0, 1, 63, 4096, 4097, HUGEPAGE - 1, HUGEPAGE, HUGEPAGE + 1, 3 * HUGEPAGE])
def test_buffer_is_zero_and_aligned(nbytes):
    buffer = HugeBuffer(nbytes, name="test")
    assert len(buffer) == buffer.nbytes == nbytes
    assert buffer.address % (HUGEPAGE if nbytes >= HUGEPAGE else 4096) == 0
    assert not np.frombuffer(buffer, np.uint8).any() if nbytes else True


def test_buffer_protocol():
    buffer = HugeBuffer(10)
    view = memoryview(buffer)
    assert (view.format, view.shape, view.strides, view.itemsize, view.readonly) == (
        "B",
        (10,),
        (1,),
        1,
        False,
    )
    view[3] = 7
    assert bytes(buffer) == b"\0\0\0\7\0\0\0\0\0\0"


def test_array_is_a_writable_typed_view():
    buffer = HugeBuffer(100)
    array = buffer.array((3, 4), np.float32)
    assert array.shape == (3, 4)
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    array[2, 3] = 1.5
    assert buffer.array((12,), np.float32)[11] == 1.5


def test_views_keep_the_memory():
    array = HugeBuffer(3 * HUGEPAGE).array((3 * HUGEPAGE,), np.uint8)
    view = memoryview(HugeBuffer(5000))
    gc.collect()
    array[:] = 255
    view[4999] = 1
    assert array.min() == 255
    assert view[4999] == 1


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 1 << 40)])
def test_empty_array_of_an_empty_buffer(shape):
    assert HugeBuffer(0).array(shape, np.int64).shape == shape


def test_array_larger_than_the_buffer_is_refused():
    buffer = HugeBuffer(16, name="little")
    with pytest.raises(ValueError, match=r"little.*too small.*\(5,\).*float32"):
        buffer.array((5,), np.float32)


@pytest.mark.parametrize("shape", [(1 << 32, 1 << 32), (1 << 62, 4)])
def test_array_size_does_not_wrap_around(shape):
    with pytest.raises(ValueError, match="too small"):
        HugeBuffer(64).array(shape, np.float32)


def test_negative_size_is_refused():
    with pytest.raises(ValueError, match="'test': nbytes must be 0 or more, got -1"):
        HugeBuffer(-1, name="test")


@pytest.mark.parametrize("nbytes", [2**47, 2**62, 2**64, 2**100])
def test_more_memory_than_there_is(nbytes):
    with pytest.raises(MemoryError, match=r"'giant'"):
        HugeBuffer(nbytes, name="giant")


def test_advice():
    assert HugeBuffer(HUGEPAGE - 1).advice == "off"
    assert HugeBuffer(HUGEPAGE, hugepages=False).advice == "off"
    assert HugeBuffer(HUGEPAGE).advice.split(":")[0] in ("madvise", "refused", "unsupported")


def test_hugepage_bytes_are_at_most_what_is_mapped():
    buffer = HugeBuffer(2 * HUGEPAGE + 1)
    np.frombuffer(buffer, np.uint8)[:] = 1
    huge = buffer.hugepage_bytes()
    assert huge is None or 0 <= huge <= 3 * HUGEPAGE


def test_repr_tells_name_and_size():
    assert repr(HugeBuffer(5, name="codes")) == "HugeBuffer(name='codes', nbytes=5, advice='off')"
