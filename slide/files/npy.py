"""NumPy's .npy files: headers read safely, arrays written a block at a time, arrays mapped into memory.

A damaged header makes NumPy raise errors of many kinds; here it raises ValueError, never anything else.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from slide.files.atomic import open_regular

MAX_BYTES = 10_000
"""Of a header: what NumPy parses of files that are not trusted."""


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read a header, after which the numbers follow, and nothing of these.

    Parameters
    ----------
    file : binary file
        At its beginning.

    Returns
    -------
    shape : tuple of int
        None is negative.
    fortran_order : bool
    dtype : dtype
        For the caller to look at: it may be of Python objects.

    Raises
    ------
    ValueError
        It is no such header.
    OSError
        The file cannot be read.
    """
    begin = file.read(np.lib.format.MAGIC_LEN)
    old = begin == np.lib.format.magic(1, 0)
    if not old and begin != np.lib.format.magic(2, 0):
        raise ValueError("not the header of a NumPy array of version 1 or 2")
    begin += (size := file.read(2 if old else 4))
    # NumPy would make room for whatever a header of version 2 announces, up to 4 GiB.
    if int.from_bytes(size, "little") > MAX_BYTES:
        raise ValueError(f"not the header of a NumPy array (longer than {MAX_BYTES:,} bytes)")
    header = io.BytesIO(begin + file.read(int.from_bytes(size, "little")))
    try:
        np.lib.format.read_magic(header)
        read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(header)
    except Exception as error:
        # Errors of the tokenizer, of Python's grammar, and of what NumPy does with values of the wrong type.
        raise ValueError(f"not the header of a NumPy array ({error})") from None
    if any(extent < 0 for extent in shape):
        raise ValueError(f"not the header of a NumPy array (shape {list(shape)})")
    return shape, fortran_order, dtype


def write_header(file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Write the header of an array in C order, after which its numbers follow.

    Parameters
    ----------
    file : binary file
    dtype : dtype
    shape : tuple of int
    """
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def write_blocks(file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...], blocks: Iterable[np.ndarray]) -> None:
    """Write an array as ``np.save`` does, a block of rows at a time, and say why where it cannot be written.

    Parameters
    ----------
    file : binary file
    dtype : dtype
    shape : tuple of int
        Shape of the whole array.
    blocks : iterable of array
        Its rows, in order.

    Raises
    ------
    OSError
        The file cannot be written; ``np.save`` does not say why.
    """
    write_header(file, dtype, shape)
    for block in blocks:
        file.write(np.ascontiguousarray(block))


def map_array(path: Path, check: Callable[[tuple[int, ...], np.dtype], None] | None = None) -> np.memmap:
    """Return an array of a file, mapped into memory for reading.

    Parameters
    ----------
    path : Path
    check : callable, optional
        Given the shape and the dtype that the header says; raises what is wrong with them before anything is mapped.

    Raises
    ------
    OSError
        The file cannot be read, or is no regular file.
    ValueError
        The file is no array, is shorter than its header says, or holds Python objects.
    """
    with open_regular(path) as stream:
        shape, fortran_order, dtype = read_header(stream)
        if check is not None:
            check(shape, dtype)
        if dtype.hasobject:
            raise ValueError("an array of Python objects")
        return np.memmap(stream, dtype, "r", stream.tell(), shape, "F" if fortran_order else "C")
