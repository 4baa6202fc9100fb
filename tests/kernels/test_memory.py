"""HugeBuffer: alignment, sizes, views and what is refused."""

import ctypes
import gc
import os
import subprocess
import sys

import numpy as np
import pytest

from slide.kernels.memory import HUGEPAGE, MODES, HugeBuffer, Scratch, memory_nodes
from slide.system import smaps


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


@pytest.mark.parametrize("mode", MODES)
def test_whatever_is_asked_for_there_is_memory(mode):
    if mode == "require" and HugeBuffer(HUGEPAGE).advice != "madvise":
        pytest.skip("this kernel has no transparent hugepages")
    buffer = HugeBuffer(3 * HUGEPAGE + 1, name=mode, hugepages=mode)
    assert buffer.mapped == 4 * HUGEPAGE
    buffer.array((3 * HUGEPAGE + 1,), np.uint8)[:] = 1
    assert np.frombuffer(buffer, np.uint8).all()
    assert (buffer.advice == "off") == (mode == "off")


def test_reserved_pages_give_way_where_the_pool_is_empty():
    # No pool has room for a buffer as large as an address space's quarter; ordinary memory need not have it either.
    try:
        buffer = HugeBuffer(1 << 40, hugepages="hugetlb")
    except MemoryError:
        return
    assert buffer.advice != "hugetlb"


def test_an_unknown_wish_is_refused():
    with pytest.raises(ValueError, match=r"'test': hugepages must be a bool or one of .*got 'maybe'"):
        HugeBuffer(1, name="test", hugepages="maybe")


def test_neighbours_are_not_merged():
    """The page after a buffer belongs to no other mapping that may be written to."""
    buffers = [HugeBuffer(HUGEPAGE, name=str(i)) for i in range(4)]
    found = smaps.mappings()
    if found is None:
        pytest.skip("this system tells nothing of its mappings")
    spans = [(mapping.start, mapping.end) for mapping in found]
    for buffer in buffers:
        assert any(end == buffer.address + buffer.mapped for _, end in spans)


@pytest.mark.parametrize(
    ("text", "nodes"), [("0\n", (0,)), ("0-2,5\n", (0, 1, 2, 5)), ("\n", ()), ("what\n", ()), (None, ())]
)
def test_memory_nodes(tmp_path, text, nodes):
    file = tmp_path / "sys/devices/system/node/has_memory"
    file.parent.mkdir(parents=True)
    if text is not None:
        file.write_text(text)
    assert memory_nodes(tmp_path) == nodes


def test_interleaving_needs_several_nodes():
    assert HugeBuffer(HUGEPAGE, interleave=True).interleaved == (len(memory_nodes()) > 1)
    assert not HugeBuffer(HUGEPAGE).interleaved


def test_buffers_are_written_down_where_someone_wants_to_know(tmp_path):
    log = tmp_path / "log"
    code = "from slide.kernels.memory import HugeBuffer as H; b = H(2 << 20, name='some rows'); H(5); print(b.address)"
    environment = {**os.environ, "SLIDE_BUFFER_LOG": str(log), "PYTHONPATH": os.pathsep.join(sys.path)}
    # `python -c` looks for modules in the current folder first, where those that are installed may not be built.
    options = {"env": environment, "cwd": tmp_path, "capture_output": True, "check": True}
    address = int(subprocess.run([sys.executable, "-c", code], **options).stdout)
    assert log.read_text() == f"{address:x}-{address + HUGEPAGE:x} some rows\n"


def test_repr_tells_name_and_size():
    assert repr(HugeBuffer(5, name="codes")) == "HugeBuffer(name='codes', nbytes=5, advice='off')"


def test_scratch_goes_from_call_to_call():
    first = Scratch(300_000)
    other = Scratch(300_000)
    assert first.address != other.address
    address = first.address
    del first
    assert Scratch(290_000).address == address
    # What is far too large is left to those who need it.
    assert Scratch(8).address != address


def scratch_bytes(scratch, n):
    return (ctypes.c_uint8 * n).from_address(scratch.address)


def test_scratch_is_zero_where_it_must_be():
    scratch = Scratch(10_000)
    scratch_bytes(scratch, 10_000)[:] = b"\x07" * 10_000
    address = scratch.address
    del scratch
    again = Scratch(9_000, zeroed=True)
    assert again.address == address
    assert not any(scratch_bytes(again, 9_000))
