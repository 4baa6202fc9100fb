"""NumPy's .npy files: safe reading of headers, arrays written a block at a time, arrays mapped into memory.

NumPy raises errors of many kinds for damaged headers; the functions here raise ValueError, never anything else.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

import numpy as np

from slide.files.atomic import open_regular

MAX_BYTES = 10_000
"""Largest length of a header: NumPy's own limit for files that are not trusted."""


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read the header of a file that is open at its beginning; the file is then at the first number.

    Returns
    -------
    shape : tuple of int
        No number is negative.
    fortran_order : bool
    dtype : dtype
        The caller must check it: it may be that of Python objects.

    Raises
    ------
    ValueError
        The file does not begin with such a header.
    OSError
        The file cannot be read.
    """
    begin = file.read(np.lib.format.MAGIC_LEN)
    old = begin == np.lib.format.magic(1, 0)
    if not old and begin != np.lib.format.magic(2, 0):
        raise ValueError("not the header of a NumPy array of version 1 or 2")
    begin += (size := file.read(2 if old else 4))
    # NumPy would allocate as much as a header of version 2 announces, up to 4 GiB.
    if int.from_bytes(size, "little") > MAX_BYTES:
        raise ValueError(f"not the header of a NumPy array (longer than {MAX_BYTES:,} bytes)")
    header = io.BytesIO(begin + file.read(int.from_bytes(size, "little")))
    try:
        np.lib.format.read_magic(header)
        read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(header)
    except Exception as error:
        # Errors come from the tokenizer, from Python's grammar, and from NumPy's handling of values of the wrong type.
        raise ValueError(f"not the header of a NumPy array ({error})") from None
    if any(extent < 0 for extent in shape):
        raise ValueError(f"not the header of a NumPy array (shape {list(shape)})")
    return shape, fortran_order, dtype


def write_header(file: IO[bytes], dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Write the header of an array in C order; its numbers must follow."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def write_blocks(file: IO[bytes], dtype: np.dtype, shape: tuple[int, ...], blocks: Iterable[np.ndarray]) -> None:
    """Write an array of this shape as ``np.save`` does, but a block of rows at a time.

    If the file cannot be written, the OSError says why; that of ``np.save`` does not.
    """
    write_header(file, dtype, shape)
    for block in blocks:
        file.write(np.ascontiguousarray(block).data)


def map_array(path: Path, check: Callable[[tuple[int, ...], np.dtype], None] | None = None) -> np.memmap:
    """Return the array in a file, mapped into memory and read-only.

    Parameters
    ----------
    check : callable, optional
        Called with the shape and the dtype in the header before anything is mapped; raises an error if they are wrong.

    Raises
    ------
    OSError
        The file cannot be read, or is not a regular file.
    ValueError
        The file is not an array, is shorter than its header says, or holds Python objects.
    """
    with open_regular(path) as stream:
        shape, fortran_order, dtype = read_header(stream)
        if check is not None:
            check(shape, dtype)
        if dtype.hasobject:
            raise ValueError("an array of Python objects")
        return np.memmap(stream, dtype, "r", stream.tell(), shape, "F" if fortran_order else "C")
