"""Headers of NumPy's arrays in files, out of which NumPy raises whatever a damaged one makes it stumble over."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np


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
    try:
        version = np.lib.format.read_magic(file)
        old = version == (1, 0)
        read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(file)
    except OSError:
        raise
    except Exception as error:
        # Errors of the tokenizer, of Python's grammar, and of what NumPy does with values of the wrong type.
        raise ValueError(f"not the header of a NumPy array ({error})") from None
    if any(extent < 0 for extent in shape):
        raise ValueError(f"not the header of a NumPy array (shape {list(shape)})")
    return shape, fortran_order, dtype
