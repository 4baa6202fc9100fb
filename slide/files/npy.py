"""Headers of NumPy's arrays in files, out of which NumPy raises whatever a damaged one makes it stumble over."""

from __future__ import annotations

import io
from typing import BinaryIO

import numpy as np

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
