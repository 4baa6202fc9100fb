"""Headers of arrays: NumPy's own, and damaged ones that it stumbles over in many ways."""

import io
import struct

import numpy as np
import pytest

from slide.files.npy import read_header


def header(text, version=(1, 0)):
    content = text.encode("latin1")
    size = struct.pack("<H" if version == (1, 0) else "<I", len(content))
    return io.BytesIO(b"\x93NUMPY" + bytes(version) + size + content + bytes(64))


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)])
@pytest.mark.parametrize("dtype", [np.float32, ">i2", [("bias", "<f4"), ("weights", "<f4", (3,))]])
def test_headers_of_numpy(shape, dtype):
    stream = io.BytesIO()
    np.save(stream, np.zeros(shape, dtype))
    size = stream.seek(0, 2)
    stream.seek(0)
    assert read_header(stream) == (shape, False, np.dtype(dtype))
    assert stream.tell() + int(np.prod(shape)) * np.dtype(dtype).itemsize == size


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{'descr': '<f8', 'fortr",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 1: 2}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), []: 2}",
        "{'descr': (), 'fortran_order': False, 'shape': (3,)}",
        "{'descr': [3], 'fortran_order': False, 'shape': (3,)}",
        "{'descr': [('a', '<f4', -1)], 'fortran_order': False, 'shape': (3,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-3,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 3}",
        "{'descr': '<f4', 'fortran_order': 'x', 'shape': (3,)}",
        "(" * 3000,
        "9" * 5000,
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}" + " " * 20_000,
    ],
)
def test_damaged_headers(text, version):
    with pytest.raises(ValueError, match="not the header of a NumPy array"):
        read_header(header(text, version))


def test_a_header_that_announces_more_than_there_is():
    announced = []

    class File(io.BytesIO):
        def read(self, size=-1):
            announced.append(size)
            return super().read(size)

    with pytest.raises(ValueError, match="longer than 10,000 bytes"):
        read_header(File(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}"))
    assert max(announced) < 10_000


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"\x93NUMPY\x07\x00", b"\x93NUMPY\x01\x00\xff\xff{", b"text of some kind"]
)
def test_what_is_no_header(content):
    with pytest.raises(ValueError, match="not the header of a NumPy array"):
        read_header(io.BytesIO(content))
